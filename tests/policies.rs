//! What the program does where a policy (AppArmor, SELinux) refuses something that the kernel would allow.
//! A filter stands for the policy: it makes the same system call fail in the same way. Nothing leaves the
//! machine.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use passt_support::namespace::isolated;
use passt_support::refusal::{deny, deny_these};

/// When to give up on something that does not happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells a copy of this test binary that it is the service in the namespace.
const ROLE: &str = "PASST_POLICIES_ROLE";

/// Where a service listens inside, and where one does outside.
const INSIDE: u16 = 7001;
const OUTSIDE: u16 = 7002;

/// The first bytes that come from the service at a port of this namespace, once there is one.
fn heard(port: u16) -> String {
    let begin = Instant::now();
    loop {
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            let mut text = String::new();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            if stream.read_to_string(&mut text).is_ok() && !text.is_empty() {
                return text;
            }
        }
        assert!(begin.elapsed() < PATIENCE, "nobody at port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Serves one connection.
fn say(listener: &TcpListener, text: &str) {
    listener.accept().unwrap().0.write_all(text.as_bytes()).unwrap();
}

/// Not a test of its own: the service in the namespace, and its client. Without a role it has nothing to do.
#[test]
fn service_in_the_namespace() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, INSIDE)).unwrap();
    say(&listener, "from inside");
    assert_eq!(heard(OUTSIDE), "from outside");
}

/// SELinux's policy of Fedora does not know the class of these sockets for passt.
#[test]
fn services_are_found_where_the_kernel_may_not_be_asked_for_them() {
    isolated("ip link set lo up", || {
        let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, OUTSIDE)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pasta"));
        command.args(["--splice-only", "-t", "auto", "-T", "auto", "-u", "none", "-U", "none"]);
        command.arg("--").arg(std::env::current_exe().unwrap());
        command.args(["--exact", "service_in_the_namespace"]).env(ROLE, "1");
        let (netlink, diag) = (libc::AF_NETLINK as u64, libc::NETLINK_SOCK_DIAG as u64);
        let asks = [(0, netlink), (2, diag)];
        let mut command = deny_these(command, libc::SYS_socket, &asks, libc::EACCES);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        assert_eq!(heard(INSIDE), "from inside");
        say(&outside, "from outside");
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let messages = String::from_utf8(output.stderr).unwrap();
        let line = "Cannot ask the kernel what listens: Permission denied: /proc/net is read";
        assert_eq!(messages.matches(line).count(), 1, "{messages}");
    });
}

/// AppArmor's profiles let passt change how mounts propagate in one way, and this is another one.
#[test]
fn the_command_sees_its_own_processes_and_the_host_keeps_its_own() {
    let run = |refused: bool| {
        let mut command = Command::new("unshare");
        let script = "mount --make-rshared / && \"$0\" --netns-only --splice-only -- readlink /proc/self && \
                      grep -c ' /proc proc ' /proc/self/mounts";
        command.args(["-rmn", "sh", "-c", script, env!("CARGO_BIN_EXE_pasta")]);
        if refused {
            let slave = libc::MS_SLAVE | libc::MS_REC;
            command = deny_these(command, libc::SYS_mount, &[(3, slave)], libc::EACCES);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let before = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mounted = before.lines().filter(|line| line.contains(" /proc proc ")).count();
    for refused in [false, true] {
        let (text, messages) = run(refused);
        assert_eq!(text, format!("2\n{mounted}\n"), "{messages}");
        assert!(!messages.contains("mount"), "{messages}");
    }
}

/// pasta with a command that cannot make `call`; what it says up to a line with `wanted`, or until it ends.
fn said(call: libc::c_long, arguments: &[&str], script: &str, wanted: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pasta"));
    command
        .args(["--splice-only", "--foreground"])
        .args(arguments)
        .args(["--", "bash", "-c", script]);
    let mut command = deny(command, call, None, libc::EPERM);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        text.push_str(&line);
        text.push('\n');
        if line.contains(wanted) {
            break;
        }
    }
    // The command waits for that.
    drop(child.stdin.take());
    child.wait().unwrap();
    text
}

/// Traffic that dies is told of: with --debug each connection, and datagrams once a minute.
#[test]
fn calls_that_move_bytes_and_are_refused_are_named() {
    isolated("ip link set lo up", || {
        let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, OUTSIDE)).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = outside.accept().unwrap();
            let _it_fails = stream.write_all(&vec![0; 16 << 20]);
        });
        let port = OUTSIDE.to_string();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{OUTSIDE}; cat <&3 >/dev/null");
        let wanted = "(TCP connection (spliced)): closed: Operation not permitted";
        let text = said(libc::SYS_splice, &["--debug", "-T", &port], &script, wanted);
        assert!(text.contains(wanted), "{text}");
        server.join().unwrap();

        let _outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, OUTSIDE)).unwrap();
        let script = format!("echo >/dev/udp/127.0.0.1/{OUTSIDE}; read -t {}", PATIENCE.as_secs());
        for (call, name) in [(libc::SYS_recvmmsg, "recvmmsg"), (libc::SYS_sendmmsg, "sendmmsg")] {
            let cure = format!("allow {name} in the container's seccomp profile");
            let text = said(call, &["--debug", "-U", &port], &script, &cure);
            let lost = format!("{name}: Operation not permitted: datagrams are lost: ");
            assert!(text.contains(&lost) && text.contains(&cure), "{text}");
        }
    });
}
