//! The command line of the program as a process: what goes where, exit codes, under which names, and
//! that nothing is left behind by a start that fails. The options themselves have unit tests.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use passt_support::refusal::deny;

const PASST: &str = env!("CARGO_BIN_EXE_passt");
const PASTA: &str = env!("CARGO_BIN_EXE_pasta");

fn run(program: impl AsRef<Path>, arguments: &[&str]) -> Output {
    Command::new(program.as_ref()).args(arguments).output().expect("the program can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output of a run that succeeds without a word on standard error.
fn answer(program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert_eq!(text(&output.stderr), "", "{arguments:?}");
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    text(&output.stdout)
}

/// Standard error of a run that fails without a word on standard output.
fn refusal(program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert_eq!(text(&output.stdout), "", "{arguments:?}");
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    text(&output.stderr)
}

#[test]
fn help_and_version_are_on_standard_output() {
    for (program, name) in [(PASST, "passt"), (PASTA, "pasta")] {
        let version = answer(program, &["--version"]);
        assert!(version.starts_with(&format!("{name} ")), "{version}");
        assert!(version.lines().count() > 1, "the licence follows");
        let help = answer(program, &["--help"]);
        assert!(help.contains(&format!("Usage: {name} ")), "{help}");
        assert!(help.contains("--map-guest-addr"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        assert_eq!(answer(program, &["-h"]), help);
    }
    let help = |program| answer(program, &["--help"]);
    assert!(help(PASST).contains("--socket") && !help(PASST).contains("--config-net"));
    assert!(help(PASTA).contains("--config-net") && !help(PASTA).contains("--socket"));
}

/// Who asks looks for a back-end of vhost-user, which builds for 32 bits are not.
#[test]
fn capabilities_are_those_of_a_back_end() {
    for program in [PASST, PASTA] {
        if cfg!(target_pointer_width = "64") {
            let said = answer(program, &["--print-capabilities"]);
            assert_eq!(said, "{\n  \"type\": \"net\"\n}\n");
        } else {
            let said = refusal(program, &["--print-capabilities"]);
            assert!(said.starts_with("vhost-user is not in builds"), "{said}");
        }
    }
}

#[test]
fn an_unknown_option_is_refused_in_one_line_with_a_hint() {
    for (program, name) in [(PASST, "passt"), (PASTA, "pasta")] {
        let text = refusal(program, &["--quiet", "--xyz=1"]);
        let hint = format!("Try '{name} --help' for more information.");
        assert_eq!(text, format!("{name}: unrecognized option '--xyz=1'\n{hint}\n"));
    }
}

#[test]
fn an_option_can_be_probed_for() {
    assert!(answer(PASTA, &["--host-lo-to-ns-lo", "--version"]).starts_with("pasta "));
    assert!(refusal(PASTA, &["--not-yet-invented", "--version"]).contains("unrecognized option"));
}

#[test]
fn the_name_decides_wherever_the_program_comes_from() {
    let named = |program: &Path, name: &str| {
        let output = Command::new(program).arg0(name).arg("--version").output();
        text(&output.expect("the program can be started").stdout)
    };
    assert!(named(PASST.as_ref(), "pasta").starts_with("pasta "));
    assert!(named(PASTA.as_ref(), "/anywhere/passt.avx2").starts_with("passt "));
    let other = Command::new(PASST).arg0("other").arg("--version").output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).starts_with("Cannot determine mode, invoke as \"passt\""));

    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("pasta.avx2");
    // By another process: what this one has open for writing, a child of another test's may have, too,
    // and then it cannot be started.
    assert!(
        Command::new("cp").args([PASST.as_ref(), copy.as_os_str()]).status().unwrap().success()
    );
    assert!(answer(&copy, &["--version"]).starts_with("pasta "));

    // As with execveat(2): a file without any name.
    let flags = rustix::fs::MemfdFlags::empty();
    let mut memory = fs::File::from(rustix::fs::memfd_create("program", flags).unwrap());
    memory.write_all(&fs::read(PASST).unwrap()).unwrap();
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    assert!(named(path.as_ref(), "pasta").starts_with("pasta "));
}

/// The words that callers look for, of today's packaged program and of earlier ones. Nothing has
/// been made when they are said.
#[test]
fn fatal_errors_are_told_in_known_words_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let path = socket.to_str().unwrap();
    for (arguments, parts) in [
        (&["-t", "65536"][..], &["specifier '65536'", "Invalid port specifier 65536"][..]),
        (
            &["-t", "8001-8010,8005"],
            &["Forwarding configuration conflict: TCP", "Overlapping port specifier"],
        ),
        (&["-m", "99999999"], &["MTU 99999999 too large (max 65521)", "--mtu takes"]),
        (&["-t", "x", "-m", "65522"], &["MTU 65522 too large"]),
        (&["-i", "eno999"], &["Invalid interface name eno999: No such device", "--interface"]),
        (&["--outbound-if4", "lo9"], &["Invalid interface name lo9: No such device"]),
        (
            &["--stats", "1"],
            &["Can't display statistics if not running in foreground", "Add --foreground"],
        ),
        (
            &["-c", "/nowhere/c"],
            &[
                "Failed to bind UNIX domain socket",
                "make the folder /nowhere, or choose another --conf-path",
            ],
        ),
        (
            &["--fd", "55"],
            &[
                "Could not move --fd descriptor: Bad file descriptor: 55 is not an open socket: ",
                "hand over one end of a pair of stream sockets",
            ],
        ),
        (
            &["--control", "c,mod=660"],
            &["Invalid word mod=660 in --control", "--control takes a path"],
        ),
        (&["extra"], &["Extra non-option argument: extra"]),
        (&["--config-net"], &["--config-net is for pasta mode only"]),
    ] {
        let arguments = [&["-s", path], arguments].concat();
        let text = refusal(PASST, &arguments);
        assert!(parts.iter().all(|part| text.contains(part)), "{arguments:?}: {text}");
        assert!(!socket.exists(), "{arguments:?}");
    }
}

/// What pasta would set up for a guest, it would set up for the host.
#[test]
fn pasta_does_not_serve_the_network_namespace_that_it_is_in() {
    let process = std::process::id().to_string();
    // Root as nobody may not look at other processes.
    for arguments in [&["--netns", "/proc/self/ns/net"][..], &["--netns-only", &process]] {
        let text = refusal(PASTA, arguments);
        let cure = "is the network namespace that this program was started in: give the process or the path";
        assert!(text.contains("Couldn't switch to pasta namespaces: /proc/"), "{text}");
        assert!(text.contains(cure), "{arguments:?}: {text}");
    }
}

/// A user namespace of its own is what lets an ordinary user make a network namespace.
#[test]
fn who_may_make_no_network_namespace_is_told_what_is_in_the_way() {
    let mut pasta = Command::new("unshare");
    // Nobody is privileged without capabilities.
    pasta.args(["-U", PASTA, "--netns-only", "true"]);
    let output = pasta.output().expect("unshare(1) runs");
    let text = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let cure = "Couldn't create a network namespace: Operation not permitted: leave --netns-only out, or start";
    assert!(text.contains(cure), "{text}");
}

/// Nobody is sent from one option to the next where neither helps.
#[test]
fn who_may_make_network_namespaces_and_is_refused_is_told_of_the_container() {
    for more in [&[][..], &["--netns-only"]] {
        let mut pasta = Command::new("unshare");
        pasta.args(["-r", PASTA, "--splice-only"]).args(more).args(["--", "true"]);
        let refused = Some(libc::CLONE_NEWNET);
        let output = deny(pasta, libc::SYS_unshare, refused, libc::EPERM).output().unwrap();
        let text = text(&output.stderr);
        let what = "Couldn't create a network namespace: Operation not permitted: allow user namespaces (kernel.";
        assert!(text.contains(what) && !text.contains("--netns-only"), "{text}");
    }
}

/// Each kind of namespaces has a limit of its own.
#[test]
fn who_has_no_namespaces_left_for_a_command_is_told_of_their_limits() {
    for kind in ["mnt", "pid", "ipc", "uts"] {
        let mut pasta = Command::new("unshare");
        let script = format!(
            "echo 0 >/proc/sys/user/max_{kind}_namespaces; exec \"$0\" --splice-only -- true"
        );
        let output = pasta.args(["-r", "sh", "-ec", &script, PASTA]).output().unwrap();
        let text = text(&output.stderr);
        let what = "Couldn't start the command's process: No space left on device: raise user.max_user_namespaces";
        assert!(text.contains(what), "{kind}: {text}");
    }
}
