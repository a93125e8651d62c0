//! `--check` as a process: on this machine, and on machines that are made up by namespaces.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use passt_support::refusal::deny;
use serde_json::Value;

const PASST: &str = env!("CARGO_BIN_EXE_passt");
const PASTA: &str = env!("CARGO_BIN_EXE_pasta");

/// All that has to be allowed where a container refuses one of it.
const CONTAINER: &str = "allow clone, clone3, unshare, setns, mount, umount2, pivot_root, capset and seccomp in the \
                         container's seccomp profile, and mount in its AppArmor profile";

/// What has to be more where there can be no further process.
const PROCESSES: &str = "raise the limit of processes (ulimit -u, TasksMax=, --pids-limit)";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs the program as root of a namespace of users and networks, after a script.
fn on_machine(script: &str, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("unshare");
    command.args(["-rnm", "sh", "-ec", &format!("{script}\nexec \"$0\" \"$@\""), program]);
    command.args(arguments).output().unwrap()
}

/// The same as root who becomes nobody, in namespaces of networks and mounts; `None`, and a word, where nobody is root.
fn as_real_root(script: &str, program: &str, arguments: &[&str]) -> Option<Output> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if !initial || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root of the machine becomes nobody");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["-nm", "sh", "-ec", &format!("{script}\nexec \"$0\" \"$@\""), program]);
    Some(command.args(arguments).output().unwrap())
}

/// The verdicts and texts of a topic.
fn found(output: &Output, topic: &str) -> Vec<(String, String)> {
    let value: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let findings = value["findings"].as_array().unwrap();
    let of_topic = findings.iter().filter(|finding| finding["topic"] == topic);
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found: Vec<_> =
        of_topic.map(|finding| (word(&finding["verdict"]), word(&finding["cure"]))).collect();
    assert!(!found.is_empty(), "nothing about {topic}: {}", text(&output.stdout));
    found
}

fn verdict(output: &Output) -> String {
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    value["verdict"].as_str().unwrap().to_owned()
}

#[test]
fn a_line_for_each_finding_and_the_same_as_json() {
    for (program, name) in [(PASST, "passt"), (PASTA, "pasta")] {
        let output = Command::new(program).arg("--check").output().unwrap();
        assert_eq!(text(&output.stderr), "");
        let lines = text(&output.stdout);
        let words = ["ok ", "limited ", "missing "];
        let worded = |line: &str| words.iter().any(|word| line.starts_with(word));
        assert!(lines.lines().all(worded), "{lines}");
        assert_eq!(lines.contains("tap device: "), name == "pasta", "{lines}");
        let missing = lines.lines().any(|line| line.starts_with("missing"));
        assert_eq!(output.status.code(), Some(i32::from(missing)), "{lines}");
        let output = Command::new(program).args(["--json", "--check"]).output().unwrap();
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["program"], name);
        assert_eq!(value["findings"].as_array().unwrap().len(), lines.lines().count());
    }
}

#[test]
fn where_namespaces_are_not_allowed() {
    let off = "echo 0 >/proc/sys/user/max_user_namespaces";
    for program in [PASST, PASTA] {
        let output = on_machine(off, program, &["--check", "--json"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(verdict(&output), "missing");
        let cure = "sysctl -w user.max_user_namespaces=16384".to_owned();
        assert_eq!(found(&output, "user namespaces"), [("missing".to_owned(), cure)]);
    }
    let off = "echo 0 >/proc/sys/user/max_net_namespaces";
    let output = on_machine(off, PASTA, &["--check", "--json"]);
    assert_eq!(found(&output, "user namespaces")[0].0, "ok");
    assert_eq!(found(&output, "network namespaces")[0].0, "missing");
    let output = on_machine(off, PASST, &["--check", "--json"]);
    assert_ne!(verdict(&output), "missing", "passt needs none: {output:?}");
}

/// Nothing of it is in the way of a start: none is made, one is as many as it takes, and what cannot be read proves nothing.
#[test]
fn what_starts_is_not_called_missing() {
    let sysctl = "/proc/sys/user/max_user_namespaces";
    for (script, words) in [
        (format!("echo 0 >{sysctl}"), &["--netns-only"][..]),
        (format!("echo 1 >{sysctl}"), &[]),
        ("mount -t tmpfs tmpfs /proc/sys".to_owned(), &[]),
        ("exec env --ignore-signal=CHLD \"$0\" \"$@\"".to_owned(), &[]),
    ] {
        let start = [words, &["--splice-only", "--", "true"]].concat();
        let output = on_machine(&script, PASTA, &start);
        assert!(output.status.success(), "{script}: {output:?}");
        let output = on_machine(&script, PASTA, &[words, &["--check", "--json"]].concat());
        assert_ne!(verdict(&output), "missing", "{script}: {output:?}");
    }
}

/// As the filters of containers refuse it: what a start would trip over is said before, with all that has to be allowed.
#[test]
fn what_a_container_refuses_is_missing() {
    let namespaces =
        libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWPID;
    for (call, bits, topic) in [
        (libc::SYS_mount, None, "isolation"),
        (libc::SYS_umount2, None, "isolation"),
        (libc::SYS_pivot_root, None, "isolation"),
        (libc::SYS_capset, None, "isolation"),
        (libc::SYS_seccomp, None, "system call filter"),
        (libc::SYS_setns, None, "network namespaces"),
        (libc::SYS_unshare, Some(libc::CLONE_NEWNET), "network namespaces"),
        (libc::SYS_clone, Some(namespaces), "network namespaces"),
    ] {
        let mut check = Command::new(PASTA);
        check.args(["--check", "--json"]);
        let output = deny(check, call, bits, libc::EPERM).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{call}: {output:?}");
        let (verdict, cure) = found(&output, topic).remove(0);
        assert_eq!(verdict, "missing", "{call}: {output:?}");
        // A user namespace was made just before.
        assert_eq!(cure, CONTAINER, "{call}");
        let mut start = Command::new(PASTA);
        start.args(["--splice-only", "--", "true"]);
        let output = deny(start, call, bits, libc::EPERM).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{call}: {output:?}");
        assert!(text(&output.stderr).contains(CONTAINER), "{call}: {output:?}");
    }
}

/// A limit is in the way, and no kernel and no policy.
#[test]
fn where_there_can_be_no_further_process() {
    for call in [libc::SYS_clone, libc::SYS_clone3] {
        let mut check = Command::new(PASTA);
        check.args(["--check", "--json"]);
        let output = deny(check, call, None, libc::EAGAIN).output().unwrap();
        for (verdict, cure) in found(&output, "network namespaces") {
            assert_eq!((&*verdict, &*cure), ("missing", PROCESSES), "{output:?}");
        }
        let mut start = Command::new(PASTA);
        start.args(["--splice-only", "--", "true"]);
        let said = text(&deny(start, call, None, libc::EAGAIN).output().unwrap().stderr);
        assert!(said.contains(&format!(": {PROCESSES}")), "{said}");
    }
    let mut check = Command::new(PASTA);
    check.args(["--check", "--json"]);
    let output = deny(check, libc::SYS_clone, None, libc::EAGAIN).output().unwrap();
    for topic in ["user namespaces", "isolation", "system call filter", "Landlock", "tap device"] {
        let lacks = ("missing".to_owned(), PROCESSES.to_owned());
        assert_eq!(found(&output, topic), [lacks], "{output:?}");
    }
}

#[test]
fn without_proc_the_cure_is_to_mount_it() {
    let output = on_machine("mount -t tmpfs tmpfs /proc", PASTA, &["--check", "--json"]);
    let (verdict, cure) = found(&output, "network namespaces").remove(0);
    assert_eq!((&*verdict, &*cure), ("missing", "mount /proc"), "{output:?}");
}

#[test]
fn a_cure_that_was_named_is_not_repeated() {
    let mut check = Command::new(PASTA);
    check.arg("--check");
    let (call, kind) = (libc::SYS_unshare, Some(libc::CLONE_NEWUSER));
    let output = deny(check, call, kind, libc::EPERM).output().unwrap();
    let lines = text(&output.stdout);
    assert_eq!(lines.matches(CONTAINER).count(), 1, "{lines}");
    assert!(lines.contains("; cure: as above (user namespaces)\n"), "{lines}");
    assert_eq!(lines.matches("in a chroot there can be none").count(), 1, "{lines}");
}

#[test]
fn where_there_is_no_tap_device() {
    let without = "mount -t tmpfs tmpfs /dev";
    let output = on_machine(without, PASTA, &["--check", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let (verdict, cure) = found(&output, "tap device").remove(0);
    assert_eq!(verdict, "missing");
    assert!(cure.starts_with("modprobe tun"), "{cure}");
}

/// Root of the machine starts, and somebody else runs.
#[test]
fn what_root_may_do_is_not_what_counts() {
    let closed = "mount -t tmpfs tmpfs /dev; mkdir /dev/net; mknod -m 600 /dev/net/tun c 10 200
        echo 0 0 >/proc/sys/net/ipv4/ping_group_range";
    let check = |words: &[&str]| as_real_root(closed, PASTA, words);
    let Some(output) = check(&["--check", "--json"]) else { return };
    let cure = "chmod 666 /dev/net/tun, as distributions have it".to_owned();
    assert_eq!(found(&output, "tap device"), [("missing".to_owned(), cure)]);
    assert_eq!(found(&output, "ping")[0].0, "limited");
    assert!(text(&output.stdout).contains("root becomes user 65534"), "{output:?}");
    for stays in
        [&["--check", "--json", "--runas", "0"][..], &["--check", "--json", "--netns-only"]]
    {
        let output = check(stays).unwrap();
        for topic in ["tap device", "ping"] {
            assert_eq!(found(&output, topic)[0].0, "ok", "{stays:?}: {output:?}");
        }
        assert_eq!(text(&output.stderr), "");
    }
}

#[test]
fn who_cannot_become_a_user_is_told() {
    let output = on_machine("true", PASST, &["--check", "--json", "--runas", "no-such-login"]);
    let (verdict, cure) = found(&output, "user").remove(0);
    assert_eq!(verdict, "missing");
    assert!(cure.starts_with("give a name of /etc/passwd"), "{cure}");
}

#[test]
fn without_privileges_no_namespace_is_made_in_ours() {
    let drop = "exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin \"$0\" \"$@\"";
    let output = on_machine(drop, PASTA, &["--check", "--json", "--netns-only"]);
    let (verdict, cure) = found(&output, "network namespaces").remove(0);
    assert_eq!((&*verdict, &*cure), ("missing", "start as root, or leave --netns-only out"));
}

#[test]
fn name_servers_are_shown_as_the_guest_knows_them() {
    let machine = |servers: &str| {
        let setup = format!(
            "ip link set lo up; ip link add u0 type veth peer name u1; ip link set u1 up; ip link set u0 up
            ip addr add 192.0.2.2/24 dev u0; ip route add default via 192.0.2.1
            mount -t tmpfs tmpfs /mnt; printf '{servers}' >/mnt/resolv; mount --bind /mnt/resolv /etc/resolv.conf"
        );
        text(&on_machine(&setup, PASST, &["--check"]).stdout)
    };
    let lines = machine("nameserver 192.0.2.53\nnameserver 127.0.0.53\n");
    assert!(lines.contains("ok       name servers: 192.0.2.53\n"), "{lines}");
    let silent = "limited  name servers: 127.0.0.53 on this host, which the guest knows as 192.0.2.1: \
                  nothing answers on port 53; cure: start the server";
    assert!(lines.contains(silent), "{lines}");
    let lines = machine("nameserver localhost\n");
    let none = "limited  name servers: /etc/resolv.conf has none that can be used \
                (Ignoring nameserver localhost of /etc/resolv.conf: not an address); cure: write one";
    assert!(lines.contains(none), "{lines}");
}

/// A server at an address of a link is on this host only if the interface of its zone has the address.
#[test]
fn name_servers_of_a_link_are_asked_on_it() {
    let machine = "ip link set lo up; ip link add u0 type veth peer name u1; ip link set u1 up; ip link set u0 up
        ip addr add fe80::53/64 dev u0 nodad; ip addr add 2001:db8::2/64 dev u0 nodad
        ip -6 route add default via fe80::99 dev u0
        mount -t tmpfs tmpfs /mnt; printf 'nameserver fe80::53%%u0\nnameserver fe80::53%%u1\n' >/mnt/resolv
        mount --bind /mnt/resolv /etc/resolv.conf; mkfifo /mnt/ready
        python3 -c '
import socket
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.bind((\"::\", 53))
open(\"/mnt/ready\", \"w\").close()
server.settimeout(5)
server.sendto(*server.recvfrom(512))' & cat /mnt/ready";
    let lines = text(&on_machine(machine, PASST, &["--check"]).stdout);
    let names: Vec<_> = lines.lines().filter(|line| line.contains("fe80::53%")).collect();
    assert!(names.len() == 2 && names[0].contains("fe80::53%u0 on this host"), "{lines}");
    assert!(!lines.contains("nothing answers"), "{lines}");
    assert!(!lines.contains("fe80::53%u1 on this host"), "{lines}");
}

#[test]
fn what_limits_is_no_failure() {
    let setup = "ip link set lo up; ulimit -n 100";
    let output = on_machine(setup, PASST, &["--check", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(verdict(&output), "limited");
    for topic in ["ping", "IPv4", "IPv6", "low ports", "descriptors"] {
        let (verdict, cure) = found(&output, topic).remove(0);
        assert_eq!(verdict, "limited", "{topic}");
        assert!(!cure.is_empty(), "{topic}");
    }
    let setup = "ip link set lo up; ip link add u0 type veth peer name u1; ip link set u1 up; ip link set u0 up
        ip addr add 192.0.2.2/24 dev u0; ip route add 198.51.100.0/24 via 192.0.2.1
        echo 0 0 >/proc/sys/net/ipv4/ping_group_range";
    let output = on_machine(setup, PASST, &["--check"]);
    let lines = text(&output.stdout);
    assert!(
        lines.contains("limited  IPv4: like u0, 192.0.2.2/24, which has no default route"),
        "{lines}"
    );
    assert!(lines.contains("ok       ping: "), "{lines}");
    let setup = format!("{setup}\nip route add default via 192.0.2.1");
    let lines = text(&on_machine(&setup, PASST, &["--check"]).stdout);
    assert!(lines.contains("ok       IPv4: like u0, 192.0.2.2/24\n"), "{lines}");
}

/// What is kept back is for no connection: half of a small limit, and of the rest half for what passes pasta's link by.
#[test]
fn descriptors_that_are_kept_back_are_no_connections() {
    for (program, count) in [(PASST, 128), (PASTA, 64)] {
        let lines = text(&on_machine("ulimit -n 256", program, &["--check"]).stdout);
        let said = format!("descriptors: some {count} connections and ports at a time");
        assert!(lines.contains(&said), "{lines}");
    }
}

#[test]
fn root_is_told_how_pasta_gets_low_ports() {
    for (program, said) in
        [(PASST, "cannot be forwarded"), (PASTA, "are forwarded with --netns-only")]
    {
        let lines = text(&on_machine("true", program, &["--check"]).stdout);
        assert!(
            lines.contains(&format!("limited  low ports: ports of the host below 1024 {said}")),
            "{lines}"
        );
    }
    let stays = |script| text(&on_machine(script, PASTA, &["--check", "--netns-only"]).stdout);
    let lines = stays("true");
    let fine = "ok       low ports: all ports of the host can be forwarded, with --netns-only\n";
    assert!(lines.contains(fine), "{lines}");
    let drop =
        "exec setpriv --bounding-set=-net_bind_service --inh-caps=-net_bind_service \"$0\" \"$@\"";
    let lines = stays(drop);
    let lacks =
        "limited  low ports: ports of the host below 1024 cannot be forwarded; cure: sysctl";
    assert!(lines.contains(lacks), "{lines}");
}

#[test]
fn a_front_end_is_judged_too() {
    let private =
        ["--check", "qemu-system-x86_64", "-m", "512", "-netdev", "vhost-user,id=n,chardev=c"];
    let output = Command::new(PASST).args(private).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let lines = text(&output.stdout);
    // Builds for processors of 32 bits have no vhost-user.
    if cfg!(not(target_pointer_width = "64")) {
        let cure = "cure: install a build for 64 bits, or give QEMU -netdev stream";
        assert!(lines.contains("missing  network device: ") && lines.contains(cure), "{lines}");
        return;
    }
    assert!(
        lines.contains("missing  guest memory: the machine's memory is QEMU's own; cure: -object"),
        "{lines}"
    );
    assert!(lines.contains("missing  network device: there is no -chardev with id=c"), "{lines}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (program, arguments, message) in [
        (PASST, &["--json"][..], "--json needs --check\nAdd --check, or leave --json out\n"),
        (PASTA, &["--json", "true"], "--json needs --check\nAdd --check, or leave --json out\n"),
        (PASTA, &["--check", "qemu"], "Extra non-option argument: qemu\n"),
    ] {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).starts_with(message), "{output:?}");
    }
}
