//! The sandbox, looked at from outside: what the kernel says about a running program, what happens
//! where a stage cannot be reached, and what a confined process can still do. Nothing leaves the
//! machine. As root the tests see everything; as another user they see that nobody but root does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use passt::sandbox::{Needs, Program, confine, settable_options};
use passt_support::refusal::{deny, meet};
use passt_support::skipped::{needs_root, skipped};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::process::{Pid, Signal, getegid, geteuid, kill_process};
use rustix::rand::GetRandomFlags;

/// When to give up on something that does not happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells a copy of this test binary what to do.
const ROLE: &str = "PASST_SANDBOX_ROLE";

const NOBODY: u32 = 65534;

/// Whether we are root of the machine, and see everything.
fn is_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Who the program is, seen from here, when it is not told.
fn default_user() -> (u32, u32) {
    if is_root() { (NOBODY, NOBODY) } else { (geteuid().as_raw(), getegid().as_raw()) }
}

/// passt with a socket and a PID file in `folder`.
fn passt(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passt"));
    command.args(["--quiet", "--vhost-user", "--socket"]).arg(folder.join("socket"));
    command.arg("--pid").arg(folder.join("pid")).args(arguments);
    command
}

/// A running program; killed at the end.
struct Running {
    pid: u32,
    /// In the foreground it is ours.
    child: Option<Child>,
    folder: tempfile::TempDir,
}

impl Running {
    fn background(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        assert!(passt(folder.path(), arguments).status().unwrap().success());
        let pid = pid_of(folder.path()).unwrap();
        Self { pid, child: None, folder }
    }

    /// Starts what `prepare` makes of the command, which stays in the foreground.
    fn foreground(arguments: &[&str], prepare: impl FnOnce(Command) -> Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let command = passt(folder.path(), &[&["--foreground"], arguments].concat());
        let mut child = prepare(command).spawn().unwrap();
        let begin = Instant::now();
        let pid = loop {
            if let Some(pid) = pid_of(folder.path()) {
                break pid;
            }
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
            assert!(begin.elapsed() < PATIENCE, "it does not get ready");
            std::thread::sleep(Duration::from_millis(5));
        };
        Self { pid, child: Some(child), folder }
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid).into()
    }

    /// The fields of a line of `status` (proc(5)).
    fn status(&self, name: &str) -> Vec<String> {
        status(self.pid, name)
    }

    /// Whether it is in another namespace of a kind than this process.
    fn has_own(&self, kind: &str) -> bool {
        let theirs = std::fs::read_link(self.proc(&format!("ns/{kind}"))).unwrap();
        theirs != std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap()
    }

    /// Asks for the device's features, as every front-end does first, once the client before has left.
    fn assert_serves(&self) {
        let begin = Instant::now();
        while self.ask().is_err() {
            assert!(begin.elapsed() < PATIENCE, "it does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn ask(&self) -> std::io::Result<()> {
        let mut client = UnixStream::connect(self.folder.path().join("socket"))?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.write_all(&[1u32, 1, 0].map(u32::to_le_bytes).concat())?;
        client.read_exact(&mut [0; 20])
    }

    fn assert_has_no_rights(&self) {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(self.status(set), ["0000000000000000"], "{set}");
        }
        assert_eq!(self.status("NoNewPrivs"), ["1"]);
        assert_eq!(self.status("Seccomp"), ["2"]);
    }

    fn assert_is_user(&self, user: u32, group: u32) {
        assert_eq!(self.status("Uid"), vec![user.to_string(); 4]);
        assert_eq!(self.status("Gid"), vec![group.to_string(); 4]);
    }

    /// Nobody but root may look at more.
    fn assert_sees_nothing_of_the_system(&self) {
        if !is_root() {
            needs_root("what the program sees of the system");
            let refused = std::fs::read_dir(self.proc("root")).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
            return;
        }
        self.assert_has_nothing_of_the_system();
    }

    /// The same for who may look: root, or the owner of the container in which it was started.
    fn assert_has_nothing_of_the_system(&self) {
        assert_eq!(std::fs::read_dir(self.proc("root")).unwrap().count(), 0);
        assert_eq!(std::fs::read_link(self.proc("cwd")).unwrap(), Path::new("/"));
        let mounts = std::fs::read_to_string(self.proc("mounts")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert!(mounts.contains(" / tmpfs ro,nosuid,nodev,noexec,"), "{mounts}");
        for kind in ["user", "mnt", "ipc", "uts"] {
            assert!(self.has_own(kind), "{kind}");
        }
        assert!(!self.has_own("net"), "host sockets are what it is for");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        } else if let Some(pid) = Pid::from_raw(self.pid.cast_signed()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn pid_of(folder: &Path) -> Option<u32> {
    std::fs::read_to_string(folder.join("pid")).ok()?.strip_suffix('\n')?.parse().ok()
}

fn status(pid: u32, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).split_whitespace().map(str::to_owned).collect()
}

/// What passt says where `call` fails.
fn refusal(call: libc::c_long, bits: Option<i32>, errno: i32) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = deny(passt(folder.path(), &[]), call, bits, errno).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(pid_of(folder.path()), None, "who failed has no id");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("Failed to sandbox process, exiting: "), "{text}");
    text
}

#[test]
fn in_the_background_it_is_alone_with_its_sockets() {
    let program = Running::background(&[]);
    program.assert_serves();
    program.assert_has_no_rights();
    let (user, group) = default_user();
    program.assert_is_user(user, group);
    program.assert_sees_nothing_of_the_system();
    let ids = program.status("NSpid");
    assert_eq!(ids.last().unwrap(), "1", "the first of its own process id namespace");
    assert!(ids.contains(&program.pid.to_string()), "the PID file has the outer id");
    if is_root() {
        assert_eq!(program.status("Groups"), [""; 0]);
        let map = std::fs::read_to_string(program.proc("uid_map")).unwrap();
        assert_eq!(map, "", "nobody has an id in its user namespace");
    }
    program.assert_serves();
}

#[test]
fn in_the_foreground_too() {
    let program = Running::foreground(&[], |command| command);
    program.assert_serves();
    program.assert_has_no_rights();
    program.assert_sees_nothing_of_the_system();
    assert_eq!(program.pid, program.child.as_ref().unwrap().id());
}

#[test]
fn the_first_process_of_a_namespace_still_ends_by_sigterm() {
    for signal in [Signal::TERM, Signal::QUIT] {
        let program = Running::background(&[]);
        kill_process(Pid::from_raw(program.pid.cast_signed()).unwrap(), signal).unwrap();
        let begin = Instant::now();
        let ended = |pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
        };
        while !ended(program.pid) {
            assert!(begin.elapsed() < PATIENCE, "it goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn root_of_a_container_stays_root_of_it() {
    let in_container = |command: Command| {
        let mut unshare = Command::new("unshare");
        unshare.arg("-r").arg(command.get_program()).args(command.get_args());
        unshare
    };
    let program = Running::foreground(&[], in_container);
    program.assert_serves();
    program.assert_has_no_rights();
    program.assert_is_user(geteuid().as_raw(), getegid().as_raw());
    program.assert_has_nothing_of_the_system();
}

#[test]
fn root_that_may_not_become_nobody_is_told_what_it_lacks() {
    if !is_root() {
        return needs_root("whether root is told what it lacks");
    }
    let limited = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-all", env!("CARGO_BIN_EXE_passt")]).args(words);
        command.output().unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let output = limited(&["--foreground", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let cure =
        "root is here without CAP_SETUID or CAP_SETGID: grant both, or stay root with --runas 0";
    assert!(text.contains(cure), "{text}");
    let text = String::from_utf8(limited(&["--check"]).stdout).unwrap();
    assert!(text.contains("missing  user: Couldn't become user "), "{text}");
    assert!(text.contains("CAP_SETGID; cure: grant both, or stay root with --runas 0"), "{text}");
}

#[test]
fn no_command_starts_whose_user_is_not_mapped() {
    let said = |before: &str| {
        let mut command = Command::new("unshare");
        let words = ["--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"];
        let script = format!("{before} \"$0\" --splice-only -- echo started");
        command.args(words).args(["sh", "-c", &script, env!("CARGO_BIN_EXE_pasta")]);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]), "{text}");
        text
    };
    let failed = "Couldn't configure user mappings: ";
    let text = said("exec setpriv --bounding-set -setfcap");
    assert!(
        text.contains(&format!("{failed}Operation not permitted: root needs CAP_SETFCAP")),
        "{text}"
    );
    let text = said("mount -o remount,ro /proc && exec");
    let cure = "mount /proc so that it can be written";
    assert!(text.contains(&format!("{failed}Read-only file system: {cure}")), "{text}");
}

/// Ends of the forms of `--runas`, with the ids that they mean.
#[test]
fn runas_takes_numbers_and_names() {
    let own = (geteuid().as_raw(), getegid().as_raw());
    let own_spec = format!("{}:{}", own.0, own.1);
    let mut forms = vec![(own_spec.as_str(), own)];
    if is_root() {
        forms.extend([
            ("1234", (1234, 1234)),
            ("1234:5678", (1234, 5678)),
            ("0x10:010", (16, 8)),
            ("nobody", (NOBODY, NOBODY)),
            ("daemon:0", (1, 0)),
            ("5:daemon", (5, 1)),
        ]);
    } else {
        needs_root("becoming another user by --runas");
    }
    for (spec, (user, group)) in forms {
        let program = Running::background(&["--runas", spec]);
        program.assert_is_user(user, group);
        program.assert_has_no_rights();
        program.assert_serves();
    }
}

#[test]
fn runas_refuses_who_is_not_there_and_names_of_root() {
    let folder = tempfile::tempdir().unwrap();
    let said = |spec: &str| -> String {
        let output = passt(folder.path(), &["--runas", spec]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{spec}");
        String::from_utf8(output.stderr).unwrap()
    };
    for spec in ["no-such-login", "nobody:no-such-group", "root", "08", "1:", "4294967295"] {
        let text = said(spec);
        assert!(text.contains(&format!("Invalid --runas option: {spec}")), "{text}");
    }
    if !is_root() {
        let text = said("1:1");
        assert!(text.contains("only root can change to another user"), "{text}");
    }
}

#[test]
fn without_user_namespaces_it_says_so_and_ends() {
    let text = refusal(libc::SYS_unshare, Some(libc::CLONE_NEWUSER), libc::EPERM);
    assert!(text.contains("couldn't create a user namespace: Operation not permitted"), "{text}");
    assert!(text.contains(": allow user namespaces (kernel."), "{text}");
    let text = refusal(libc::SYS_unshare, Some(libc::CLONE_NEWUSER), libc::ENOSPC);
    assert!(text.contains(": raise user.max_user_namespaces"), "{text}");
}

#[test]
fn without_other_namespaces_it_says_so_and_ends() {
    let text = refusal(libc::SYS_unshare, Some(libc::CLONE_NEWNS), libc::EPERM);
    assert!(text.contains("couldn't create namespaces: Operation not permitted"), "{text}");
    assert!(text.contains("kernel.apparmor_restrict_unprivileged_userns"), "{text}");
}

#[test]
fn without_mounts_or_filters_it_says_so_and_ends() {
    let container = ": Operation not permitted: allow clone, clone3, unshare, setns, mount, umount2, pivot_root, \
                     capset and seccomp in the container's seccomp profile, and mount in its AppArmor profile";
    for (call, what) in [
        (libc::SYS_mount, "couldn't detach mounts"),
        (libc::SYS_umount2, "couldn't change the root with pivot_root"),
        (libc::SYS_pivot_root, "couldn't change the root with pivot_root"),
        (libc::SYS_capset, "couldn't drop capabilities"),
        (libc::SYS_seccomp, "couldn't install the system call filter"),
    ] {
        let text = refusal(call, None, libc::EPERM);
        assert!(text.contains(&format!("{what}{container}")), "{text}");
    }
}

#[test]
fn where_pivot_root_fails_there_is_a_fallback() {
    let text = refusal(libc::SYS_pivot_root, None, libc::EINVAL);
    assert!(text.contains("pivot_root: Invalid argument"), "{text}");
    assert!(text.contains(": where the root is an initramfs, add --chroot-fallback"), "{text}");

    let without = |command| deny(command, libc::SYS_pivot_root, None, libc::EINVAL);
    let program = Running::foreground(&["--chroot-fallback"], without);
    program.assert_serves();
    program.assert_has_no_rights();
    if is_root() {
        assert_eq!(std::fs::read_dir(program.proc("root")).unwrap().count(), 0);
    } else {
        needs_root("what the program sees of the system");
    }
}

#[test]
fn without_landlock_the_rest_holds() {
    let missing = [
        (libc::SYS_landlock_create_ruleset, libc::ENOSYS),
        (libc::SYS_landlock_create_ruleset, libc::EPERM),
        (libc::SYS_landlock_restrict_self, libc::EPERM),
    ];
    for (call, errno) in missing {
        let program = Running::foreground(&[], |command| deny(command, call, None, errno));
        program.assert_serves();
        program.assert_has_no_rights();
    }
}

/// What Linux has got since 4.18, and the program uses where it is there: pidfd_open (5.3), close_range (5.9), epoll_pwait2
/// (5.11), Landlock (5.13).
fn as_by_linux_4_18(command: Command) -> Command {
    let newer = [
        libc::SYS_pidfd_open,
        libc::SYS_close_range,
        libc::SYS_epoll_pwait2,
        libc::SYS_landlock_create_ruleset,
        libc::SYS_clone3,
        libc::SYS_openat2,
        libc::SYS_faccessat2,
    ];
    newer.into_iter().fold(command, |command, call| deny(command, call, None, libc::ENOSYS))
}

#[test]
fn on_an_old_kernel_it_serves_and_follows_the_host() {
    let program = Running::foreground(&[], as_by_linux_4_18);
    program.assert_serves();
    program.assert_has_no_rights();
    let children = std::fs::read_to_string(program.proc(&format!("task/{}/children", program.pid)));
    let children = children.unwrap();
    let names = children.split_whitespace().map(|child| {
        std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap().trim_end().to_owned()
    });
    assert_eq!(names.collect::<Vec<_>>(), ["host-watch"]);
}

/// As the filters of some containers refuse what they do not know.
#[test]
fn where_a_precise_wait_is_refused_it_serves() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let deny_it = |command| deny(command, libc::SYS_epoll_pwait2, None, errno);
        let program = Running::foreground(&[], deny_it);
        program.assert_serves();
        program.assert_has_no_rights();
    }
}

#[test]
fn on_an_old_kernel_nothing_is_inherited() {
    let script = "exec 77</dev/null; exec \"$0\" \"$@\"";
    let list = ["--splice-only", "--", "sh", "-c", "[ ! -e /proc/self/fd/77 ] && exit 7"];
    let mut command = Command::new("bash");
    command.args(["-c", script, env!("CARGO_BIN_EXE_pasta")]).args(list);
    let output = as_by_linux_4_18(command).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}

/// Who is told nothing must not take that for success.
#[test]
fn where_nobody_tells_how_a_command_has_ended_it_is_a_failure() {
    // Standard error is the command's, until it has ended.
    for level in ["--debug", "--quiet"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pasta"));
        command.args([level, "--splice-only", "--", "sh", "-c", "exit 7"]);
        let output = deny(command, libc::SYS_waitid, None, libc::EPERM).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        let said = "Couldn't learn how the command ended: Operation not permitted: allow waitid in the container's";
        assert!(text.contains(said), "{text}");
    }
}

/// In a user namespace no setting of the kernel's is in the way, but what a container refuses.
#[test]
fn what_has_nothing_to_do_with_user_namespaces_is_not_cured_by_them() {
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    for (call, bits) in [
        (libc::SYS_socketpair, None),
        (libc::SYS_setsid, None),
        (libc::SYS_clone, Some(namespaces)),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pasta"));
        command.args(["--splice-only", "--", "true"]);
        let output = deny(command, call, bits, libc::EPERM).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let name = if bits.is_some() { "clone3" } else { "socketpair and setsid" };
        let told = ["Couldn't start the ", "seccomp profile", name];
        assert!(told.into_iter().all(|words| text.contains(words)), "{text}");
        assert!(!text.contains("allow user namespaces"), "{text}");
    }
}

/// What helps against a limit does not help against a filter.
#[test]
fn where_files_cannot_be_watched_it_says_what_helps() {
    for (errno, cure) in [
        (
            libc::EPERM,
            "allow inotify_init1 and inotify_add_watch in the container's seccomp profile",
        ),
        (libc::EMFILE, "raise fs.inotify.max_user_instances"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = passt(folder.path(), &["--foreground"]);
        command.stderr(Stdio::piped());
        let mut child = deny(command, libc::SYS_inotify_init1, None, errno).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let note = lines.find(|line| line.contains("Cannot watch /etc/resolv.conf"));
        child.kill().unwrap();
        child.wait().unwrap();
        let note = note.unwrap();
        assert!(note.ends_with(cure) || note.contains(&format!(": {cure}, or use")), "{note}");
    }
}

/// By the end of a pipe, where there is no descriptor of a process; the exit status is the command's, also for a signal.
#[test]
fn on_an_old_kernel_a_command_begins_and_ends() {
    for (script, code) in [("exit 5", 5), ("kill -KILL $$", 128 + libc::SIGKILL)] {
        for more in [&[][..], &["--no-pidns"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_pasta"));
            command.arg("--splice-only").args(more).args(["--", "sh", "-c", script]);
            let output = as_by_linux_4_18(command).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{script}: {output:?}");
        }
    }
}

/// Whether the kernel says which version of it there is.
fn has_landlock() -> bool {
    // SAFETY: a question without a structure.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) > 0 }
}

#[test]
fn every_program_leaves_paths_behind() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("listener");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let with_socket = |program| {
        let mut command = Command::new(program);
        command.arg(&socket);
        command
    };
    for command in [
        passt(folder.path(), &["--foreground"]),
        with_socket(env!("CARGO_BIN_EXE_passt-repair")),
        with_socket(env!("CARGO_BIN_EXE_pesto")),
    ] {
        let text = format!("{command:?}");
        let call = libc::SYS_landlock_restrict_self;
        let status = meet(command, call, None, seccompiler::SeccompAction::KillProcess)
            .output()
            .unwrap()
            .status;
        if !has_landlock() {
            return skipped("this kernel has no Landlock: nobody gets so far");
        }
        assert!(is_killed_by_filter(status), "{text}: {status:?}");
    }
}

/// Runs `role` of [`confined_process`] in a copy of this program.
fn confined(role: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "confined_process", "--nocapture"]).env(ROLE, role);
    // A test is a thread; the C library is to allocate as it does for programs without threads.
    command.env("MALLOC_ARENA_MAX", "1");
    command.stdin(Stdio::null()).output().unwrap()
}

fn is_killed_by_filter(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGSYS)
}

#[test]
fn a_call_that_is_not_listed_kills() {
    for role in [
        "open",
        "execute",
        "fork",
        "thread",
        "netlink",
        "raw",
        "sctp",
        "bpf-filter",
        "encryption",
        "exec-memory",
        "kill",
        "prctl",
        "tty",
        "random",
        "ask-file",
        "standard-error",
        "read-at",
        "sync",
    ] {
        let output = confined(role);
        assert!(is_killed_by_filter(output.status), "{role}: {:?}", output.status);
    }
}

#[test]
fn a_panic_is_told_and_ends_the_process() {
    let output = confined("panic");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("told: panicked at") && text.contains("the reason"), "{text}");
    assert_eq!(output.status.code(), Some(101));
}

#[test]
fn an_abort_is_not_taken_for_a_violation() {
    assert_eq!(confined("abort").status.signal(), Some(libc::SIGABRT));
}

/// Their keys are there before.
#[test]
fn hash_tables_can_be_made() {
    assert_eq!(confined("hash").status.code(), Some(0));
}

#[test]
fn options_that_are_listed_can_be_set() {
    assert_eq!(confined("options").status.code(), Some(0));
}

#[test]
fn memory_can_be_had_and_given_back() {
    assert_eq!(confined("allocate").status.code(), Some(0));
}

struct ToStderr;

impl log::Log for ToStderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("told: {}", record.args());
    }

    fn flush(&self) {}
}

/// Not a test of its own: what [`confined`] starts. Without a role it has nothing to do.
#[test]
fn confined_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    log::set_logger(&ToStderr).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    confine(Program::Passt, Needs::default()).unwrap();
    let ended = std::panic::catch_unwind(|| play(&role));
    std::process::exit(if ended.is_ok() { 0 } else { 101 });
}

fn play(role: &str) {
    match role {
        "open" => drop(std::fs::File::open("/dev/null")),
        "execute" => drop(Command::new("true").exec()),
        "fork" => drop(passt::sys::process::fork()),
        "thread" => drop(std::thread::spawn(|| ()).join()),
        "netlink" => drop(socket(libc::AF_NETLINK, libc::SOCK_STREAM, 0)),
        "raw" => drop(socket(libc::AF_PACKET, libc::SOCK_STREAM, 0)),
        "sctp" => drop(socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP)),
        "bpf-filter" => drop(set_option(libc::SOL_SOCKET, libc::SO_ATTACH_BPF)),
        "encryption" => drop(set_option(libc::IPPROTO_TCP, libc::TCP_ULP)),
        "options" => set_all_options(),
        "exec-memory" => executable_memory(),
        "kill" => drop(kill_process(Pid::from_raw(1).unwrap(), Signal::CONT)),
        "prctl" => drop(rustix::thread::set_keep_capabilities(true)),
        "tty" => push_into_terminal(),
        "random" => drop(rustix::rand::getrandom(&mut [0u8; 8], GetRandomFlags::empty())),
        "ask-file" => drop(rustix::fs::statx(
            std::io::stdin(),
            "",
            AtFlags::EMPTY_PATH,
            StatxFlags::BASIC_STATS,
        )),
        "standard-error" => drop(rustix::stdio::dup2_stderr(std::io::stdin())),
        "read-at" => drop(rustix::io::pread(std::io::stdin(), &mut [0u8; 8], 0)),
        "sync" => drop(rustix::fs::fsync(std::io::stdin())),
        "hash" => drop(std::collections::HashMap::from([(1, 2)])),
        "panic" => panic!("the reason"),
        "abort" => std::process::abort(),
        "allocate" => allocate(),
        _ => panic!("no role {role}"),
    }
}

fn socket(family: i32, kind: i32, protocol: i32) -> i32 {
    // SAFETY: plain numbers.
    unsafe { libc::socket(family, kind, protocol) }
}

/// Options that Linux 4.18, the oldest kernel that is supported, does not know yet.
const NEWER: [i32; 3] = [libc::SO_BINDTOIFINDEX, SO_BUF_LOCK, IPV6_MULTICAST_ALL];
const SO_BUF_LOCK: i32 = 72;
const IPV6_MULTICAST_ALL: i32 = 29;

/// Sets each option that is listed. Not each takes the number or may be set now, but the kernel knows it for the socket.
fn set_all_options() {
    let listed = settable_options(Program::Passt);
    assert!(listed.len() > 45, "{}", listed.len());
    for (level, option) in listed {
        let set = set_option(level, option);
        let unknown = set.is_err_and(|error| error.raw_os_error() == Some(libc::ENOPROTOOPT));
        assert!(!unknown || NEWER.contains(&option), "level {level}, option {option}");
    }
}

/// Sets an option of a socket that has such options.
fn set_option(level: i32, option: i32) -> std::io::Result<()> {
    let (family, kind) = match level {
        libc::IPPROTO_TCP | libc::SOL_SOCKET => (libc::AF_INET, libc::SOCK_STREAM),
        libc::IPPROTO_IPV6 => (libc::AF_INET6, libc::SOCK_DGRAM),
        _ => (libc::AF_INET, libc::SOCK_DGRAM),
    };
    let (socket, value) = (socket(family, kind, 0), 1);
    // SAFETY: the call reads one number.
    match unsafe { libc::setsockopt(socket, level, option, (&raw const value).cast(), 4) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn executable_memory() {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANON);
    // SAFETY: a new mapping, at a place that the kernel chooses.
    unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
}

/// What a process can do to the terminal of whoever started it.
fn push_into_terminal() {
    let byte = 0u8;
    // SAFETY: the call reads one byte.
    unsafe { libc::ioctl(0, libc::TIOCSTI, &raw const byte) };
}

/// Small and large pieces, grown and given back in another order.
fn allocate() {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for round in 0..40 {
        pieces.push(vec![1; 1000 << (round % 16)]);
        let grown = &mut pieces[round / 2];
        grown.resize(grown.len() * 2, 2);
        if round % 3 == 0 {
            pieces.swap_remove(round / 3);
            pieces.push(Vec::new());
        }
    }
    assert!(pieces.iter().map(Vec::len).sum::<usize>() > 1_000_000);
}
