//! qrap as a process, with passt behind it and a stand-in for QEMU in front: what arrives as arguments, and that the
//! descriptor leads to passt. In namespaces of its own, for the sockets are in `/tmp`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

/// What is called `kvm`: prints its arguments, a line each, and the first frame that comes by descriptor 5 or `$NUMBER`,
/// without its length.
const KVM: &str = r#"#!/bin/sh
printf '[%s]\n' "$@"
case " $* " in *version*) exit ;; esac
eval "exec 0<&${NUMBER:-5}"
head -c 18 | od -An -v -tx1 | tr -d ' \n'
"#;

/// Runs `script` where there is one interface, `/tmp` is empty, and `kvm`, `qrap` and `passt` are commands.
fn run(script: &str) -> Output {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let kvm = folder.path().join("kvm");
    std::fs::write(&kvm, KVM).unwrap();
    assert!(Command::new("chmod").arg("755").arg(&kvm).status().unwrap().success());
    let programs = Path::new(env!("CARGO_BIN_EXE_qrap")).parent().unwrap();
    let path =
        format!("{}:{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.path().display(), programs.display());
    // Whatever happens, nothing goes on behind it.
    let world = "set -eu; mount -t tmpfs tmpfs /tmp
        started=''; trap 'kill $started 2>/dev/null || true' EXIT
        ip link set lo up; ip link add host type veth peer name other
        ip addr add 192.0.2.2/24 dev host; ip link set other up; ip link set host up
        ip route add default via 192.0.2.1
        start() {
            passt -f -s \"$1\" >/tmp/said 2>&1 & passt=$!; started=\"$started $passt\"
            until [ -S \"$1\" ]; do kill -0 $passt; sleep 0.02; done
        }
        ";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--net", "sh", "-c"]);
    command.arg(format!("{world}{script}")).env("PATH", path);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The frame that passt sends first: 60 bytes, to whom it may concern, ARP.
fn assert_frame(line: &str) {
    assert!(line.starts_with("0000003cffffffffffff") && line.ends_with("0806"), "{line}");
    assert_eq!(line.len(), 36, "{line}");
}

#[test]
fn with_a_number_the_arguments_are_as_they_were() {
    let output = run(
        "start /tmp/passt_1.socket; NUMBER=9 qrap 9 kvm -m 1024 -net socket,fd=9 -net nic,model=virtio",
    );
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[..6],
        ["[-m]", "[1024]", "[-net]", "[socket,fd=9]", "[-net]", "[nic,model=virtio]"]
    );
    assert_frame(lines[6]);
    assert_eq!(errors, "Connected to /tmp/passt_1.socket\n");
}

#[test]
fn without_a_number_the_network_is_passts() {
    let output = run(
        "start /tmp/passt_1.socket; qrap -m 1024 -netdev user,id=a -device e1000,netdev=a,mac=52:54:00:01:02:03",
    );
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    let lines: Vec<&str> = said.lines().collect();
    let device = "[virtio-net-pci,netdev=hostnet0,mac=52:54:00:01:02:03]";
    let wanted = ["[-m]", "[1024]", "[-device]", device, "[-netdev]", "[socket,fd=5,id=hostnet0]"];
    assert_eq!(lines[..6], wanted);
    assert_frame(lines[6]);
}

/// The first passt has a guest.
#[test]
fn it_takes_the_first_passt_that_is_free() {
    let output = run("start /tmp/passt_1.socket
        qrap 5 sh -c 'echo >/tmp/held; exec sleep 60' & guest=$!; started=\"$started $guest\"
        until [ -e /tmp/held ]; do kill -0 $guest; sleep 0.02; done
        qrap 5 kvm second || echo none
        start /tmp/passt_7.socket
        qrap 5 kvm third");
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.starts_with("none\n[third]\n"), "{said}{errors}");
    let refused = "would take a guest: /tmp/passt_1.socket: serves another guest: start one";
    assert!(errors.contains(refused), "{errors}");
    assert!(errors.contains("Connected to /tmp/passt_7.socket\n"), "{errors}");
}

#[test]
fn who_asks_about_qemu_needs_no_passt() {
    let output = run("qrap -version");
    assert_eq!(text(&output.stdout), "[-version]\n", "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn what_is_wrong_ends_it_before_anybody_is_connected_with() {
    for (line, wanted) in [
        (
            "qrap 5 kvm",
            "qrap: There is no passt at /tmp/passt_1.socket to /tmp/passt_99.socket: start one",
        ),
        ("qrap 5", "qrap: Behind FDNUM 5 a command is wanted"),
        ("qrap 1 kvm", "qrap: Invalid FDNUM: 1: "),
        ("qrap 5 no-such-qemu", "qrap: There is no command 'no-such-qemu' in $PATH"),
        ("start /tmp/passt_1.socket; exec 8</dev/null; qrap 8 kvm", "Descriptor 8 is open already"),
    ] {
        let output = run(line);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {errors}");
        assert!(errors.contains(wanted), "{line}: {errors}");
        assert_eq!(text(&output.stdout), "", "{line}");
    }
}
