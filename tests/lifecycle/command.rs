//! The command that pasta starts: it finds what pasta found.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use rustix::process::{Resource, Rlimit, Signal, getrlimit};

use crate::rig::{Place, contains, status_field, unshare};

/// Runs `script` in a namespace of pasta's, which gets `prepared` by its parent.
fn pasta(options: &[&str], script: &str, prepare: fn(&mut Command)) -> Output {
    let mut command = unshare("n");
    command.arg(env!("CARGO_BIN_EXE_pasta")).args(crate::rig::NETWORK).args(options);
    command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
    command.args(["--", "sh", "-c", script]);
    prepare(&mut command);
    command.output().unwrap()
}

fn text(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn limits_signals_and_descriptors_are_what_they_were() {
    let script = "ulimit -n; grep ^Sig /proc/self/status; ls /proc/self/fd";
    let output = pasta(&[], script, |command| {
        let maximum = getrlimit(Resource::Nofile).maximum;
        // SAFETY: system calls only, between fork and exec.
        unsafe {
            command.pre_exec(move || {
                let mut all: libc::sigset_t = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
                libc::signal(libc::SIGCHLD, libc::SIG_IGN);
                libc::signal(libc::SIGTERM, libc::SIG_IGN);
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                libc::dup2(1, 77);
                let limit = Rlimit { current: Some(200), maximum };
                rustix::process::setrlimit(Resource::Nofile, limit)?;
                Ok(())
            });
        }
    });
    let text = text(&output);
    let (limit, rest) = text.split_once('\n').unwrap();
    assert_eq!(limit, "200");
    assert_eq!(status_field(rest, "SigBlk").trim_matches('0'), "", "{text}");
    let ignored = status_field(rest, "SigIgn");
    for signal in [Signal::PIPE, Signal::CHILD, Signal::TERM, Signal::QUIT, Signal::XFSZ] {
        assert!(!contains(&ignored, signal), "{signal:?}: {text}");
    }
    assert!(contains(&ignored, Signal::HUP), "what the user asked for, as nohup(1) does");
    let descriptors: Vec<&str> = rest.lines().filter(|line| !line.starts_with("Sig")).collect();
    assert_eq!(descriptors, ["0", "1", "2", "3"], "the last is the folder itself");
}

#[test]
fn its_output_is_its_own() {
    let output = pasta(&[], "echo out; echo err >&2; exit 7", |_| ());
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"out\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.ends_with("err\n") && !stderr.contains("Client connection"), "{stderr}");
}

/// What a program says that runs nothing, on a host of its own that is set up by a script.
fn said_on(host: &str, options: &[&str]) -> String {
    let mut command = unshare("n");
    command.args(["sh", "-ec", &format!("{host}\nexec \"$0\" \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_pasta")).args(options).args(["--", "true"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// That it has no network is known before it starts; the rest would be in the way of its own words.
#[test]
fn that_the_host_has_no_network_is_told_before_it_starts() {
    let said = |options: &[&str]| said_on(":", options);
    let text = said(&["--config-net"]);
    for family in ["IPv4", "IPv6"] {
        let lacks = format!("No interfaces with usable {family} routes\n");
        let local = format!("{family}: no external interface as template, use local mode\n");
        assert!(text.contains(&lacks) && text.contains(&local), "{text}");
    }
    assert!(!text.contains("MAC:"), "{text}");
    for quiet in [&["--config-net", "-q"][..], &["-d", "--quiet", "-4"]] {
        let text = said(quiet);
        assert!(!text.contains("use local mode"), "{text}");
    }
}

#[test]
fn a_network_that_does_what_it_is_to_do_is_worth_no_word() {
    let link = "ip link set lo up; ip link add u0 type veth peer name u1; ip link set u1 up
        ip link set u0 addrgenmode none up; ip addr add 192.0.2.2/24 dev u0";
    let v4 = format!("{link}; ip route add default via 192.0.2.1");
    let by_rules = format!(
        "{link}; ip rule add pref 100 lookup 77; ip route add default via 192.0.2.1 table 77"
    );
    for host in [&v4, &by_rules] {
        assert_eq!(said_on(host, &["--config-net"]), "", "{host}");
    }
    for wish in [["-i", "u0"], ["--outbound-if4", "u0"], ["-a", "192.0.2.7"]] {
        assert_eq!(said_on(link, &wish), "", "{wish:?}");
    }
    assert!(said_on(link, &[]).contains("Nothing leads beyond this host's links"));
    for host in [link, &v4] {
        let text = said_on(host, &["-6"]);
        assert!(text.contains("IPv6: no external interface as template"), "{text}");
    }
}

#[test]
fn the_service_manager_of_pasta_is_not_its_own() {
    let place = Place::new();
    let path = place.path("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let run = |options: &[&str]| {
        let mut command = unshare("n");
        command.env("NOTIFY_SOCKET", &path).arg(env!("CARGO_BIN_EXE_pasta")).args(options);
        command.args(["--", "sh", "-c", "echo \"<$NOTIFY_SOCKET>\""]).output().unwrap()
    };
    assert_eq!(text(&run(&["-4"])), format!("<{}>\n", path.display()), "untouched");
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 64]).is_err());
    assert_eq!(text(&run(&["-4", "--notify"])), "<>\n");
    assert!(manager.recv(&mut [0; 64]).is_ok());
}

#[test]
fn a_command_that_is_not_there_is_an_error_in_words() {
    let told = |words: &[&str]| {
        let mut command = unshare("n");
        command.arg(env!("CARGO_BIN_EXE_pasta")).args(words);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = told(&["--", "/nonexistent"]);
    assert!(text.contains("Failed to start command or shell: No such file"), "{text}");
    assert!(!text.contains("os error"), "{text}");
    assert!(!text.contains("the PID"), "{text}");
    let text = told(&["4711", "--config-net"]);
    assert!(text.contains("4711: options stand before the PID"), "{text}");
}

/// Memory that was taken before there was a filter of system calls grows under it.
#[test]
fn a_long_request_finds_room() {
    let place = Place::new();
    let control = place.path("control");
    let control = control.to_str().unwrap();
    let pesto = env!("CARGO_BIN_EXE_pesto");
    let script = format!(
        "for round in 1 2 3; do {pesto} egress-replace {control} \
         \"allow tcp 192.0.2.0/24:$(seq -s, 1 2 42665)\" 2>&1 | cut -c1-200; done; {pesto} status {control}"
    );
    let output = pasta(&["--control", control], &script, |_| ());
    assert!(text(&output).contains(", namespace"), "{output:?}");
}

#[test]
fn an_mtu_that_the_kernel_refuses_is_a_warning() {
    let output = pasta(
        &["--config-net", "--mtu", "50", "--ns-ifname", "eth0"],
        "ip -o link show eth0",
        |_| (),
    );
    let shown = text(&output);
    assert!(shown.contains("UP") && !shown.contains("mtu 50 "), "{shown}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("The kernel does not take --mtu 50"), "{said}");
}

#[test]
fn without_descriptors_nothing_is_said_of_an_old_kernel() {
    let mut command = unshare("n");
    command.args(["bash", "-c", "ulimit -n 5; exec \"$@\"", "bash", env!("CARGO_BIN_EXE_pasta")]);
    let message = crate::rig::refusal(command.args(crate::rig::NETWORK).args(["--", "true"]));
    assert!(message.contains("Too many open files"), "{message}");
    assert!(!message.contains("requires kernel"), "{message}");
}
