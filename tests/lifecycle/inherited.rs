//! What a parent leaves behind changes nothing: descriptors, signals, limits.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use passt_support::refusal::deny_given;
use passt_support::wait::until;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::rig::{Place, Program, contains, is_answered, refusal, unshare, visible_passt};

/// Lets the child do something between fork and exec.
fn before_exec(command: &mut Command, act: impl FnMut() + Send + Sync + 'static) -> &mut Command {
    let mut act = act;
    // SAFETY: what the tests pass makes system calls only.
    unsafe {
        command.pre_exec(move || {
            act();
            Ok(())
        })
    }
}

fn ready(place: &Place, command: &mut Command) -> Program {
    place.spawn(command.arg("--foreground"))
}

/// The process's standard input, output and error.
fn standard(program: &Program) -> Vec<(i32, std::path::PathBuf)> {
    program.descriptors().into_iter().filter(|(number, _)| *number < 3).collect()
}

#[test]
fn standard_descriptors_that_are_closed_become_nothing_else() {
    let place = Place::new();
    let mut command = place.visible_passt::<&str>(&[]);
    before_exec(&mut command, || {
        for fd in 0..3 {
            // SAFETY: the descriptors of a process that will be another program.
            unsafe { libc::close(fd) };
        }
    });
    let program = ready(&place, &mut command);
    let expected: Vec<_> = (0..3).map(|fd| (fd, "/dev/null".into())).collect();
    assert_eq!(standard(&program), expected);
    assert!(place.serves());
}

/// The same file under a number that no test gives to anything else.
fn out_of_the_way(file: impl Into<OwnedFd>) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(file.into(), 500).unwrap()
}

/// Opens `marker` under the given numbers, to be inherited.
fn leak(command: &mut Command, marker: &Path, numbers: &'static [RawFd]) {
    let marker = out_of_the_way(std::fs::File::create(marker).unwrap());
    before_exec(command, move || {
        for number in numbers {
            // SAFETY: numbers that the child does not use.
            unsafe { libc::dup2(marker.as_raw_fd(), *number) };
        }
    });
}

#[test]
fn inherited_descriptors_are_closed() {
    let place = Place::new();
    let marker = place.path("marker");
    let mut command = place.visible_passt::<&str>(&[]);
    leak(&mut command, &marker, &[3, 4, 20, 200]);
    let program = ready(&place, &mut command);
    assert!(program.descriptors().iter().all(|(_, link)| *link != marker));
}

/// A client by descriptor `number`: it is served, and the leaks around it are closed.
fn serves_by_descriptor(number: RawFd, leaks: &'static [RawFd]) {
    let place = Place::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let marker = place.path("marker");
    let mut command = visible_passt();
    command.args(crate::rig::NETWORK).arg("--pid").arg(place.path("pid"));
    command.args(["--fd", &number.to_string()]);
    leak(&mut command, &marker, leaks);
    let socket = out_of_the_way(theirs);
    before_exec(&mut command, move || {
        // SAFETY: a number that the child does not use.
        unsafe { libc::dup2(socket.as_raw_fd(), number) };
    });
    let program = ready(&place, &mut command);
    assert!(program.descriptors().iter().all(|(_, link)| *link != marker));
    drop(command);
    let standard = standard(&program);
    if number < 3 {
        assert_eq!(standard[number as usize], (number, "/dev/null".into()));
    }
    let probe = ours.try_clone().unwrap();
    assert!(is_answered(probe), "descriptor {number}");
    drop(ours);
    until("its end", || program.has_ended().then_some(()));
}

#[test]
fn the_client_may_have_any_number() {
    serves_by_descriptor(3, &[4, 5, 300]);
    serves_by_descriptor(57, &[3, 56, 58]);
    serves_by_descriptor(0, &[3, 4]);
    serves_by_descriptor(1, &[3]);
}

#[test]
fn a_client_that_is_none_is_an_error_in_words() {
    let place = Place::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_passt"));
    let message = crate::rig::refusal(command.args(["--fd", "57"]));
    assert!(message.contains("Could not move --fd descriptor: Bad file descriptor"), "{message}");
    drop(place);
}

#[test]
fn signals_that_the_parent_blocked_or_ignored_work() {
    for signal in [Signal::TERM, Signal::QUIT] {
        let place = Place::new();
        let mut command = place.passt::<&str>(&[]);
        before_exec(&mut command, || {
            // SAFETY: the signals of a process that will be another program.
            unsafe {
                let mut all: libc::sigset_t = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
                for signal in [libc::SIGTERM, libc::SIGQUIT, libc::SIGCHLD] {
                    libc::signal(signal, libc::SIG_IGN);
                }
            }
        });
        let mut program = ready(&place, &mut command);
        assert!(!contains(&program.status("SigBlk"), Signal::BUS), "faults reach their handler");
        assert!(!contains(&program.status("SigIgn"), Signal::CHILD));
        assert!(place.serves());
        assert_eq!(program.end(signal), Some(0));
    }
}

#[test]
fn a_reader_of_messages_that_is_gone_changes_nothing() {
    let place = Place::new();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let mut command = place.passt(&["--trace", "--foreground"]);
    let mut child = command.stderr(writer).spawn().unwrap();
    until("ready", || place.pid());
    assert!(place.serves() && place.serves());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn sigterm_during_the_start_ends_it_as_asked() {
    let place = Place::new();
    // A pipe that is full holds the start up at its first message.
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[0; 512]).is_ok() {}
    while rustix::io::write(&writer, &[0]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut command = place.passt(&["--foreground"]);
    let mut child = command.stderr(writer).stdout(Stdio::null()).spawn().unwrap();
    let status = Path::new("/proc").join(child.id().to_string()).join("status");
    until("its handler", || {
        let text = std::fs::read_to_string(&status).ok()?;
        contains(&crate::rig::status_field(&text, "SigCgt"), Signal::TERM).then_some(())
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(place.pid(), None, "it had not become ready");
    drop(reader);
}

#[test]
fn the_limit_of_descriptors_is_raised() {
    let place = Place::new();
    let mut command = place.passt::<&str>(&[]);
    let maximum = getrlimit(Resource::Nofile).maximum;
    before_exec(&mut command, move || {
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum })
            .unwrap();
    });
    let program = ready(&place, &mut command);
    let limits = std::fs::read_to_string(program.proc("limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{line}");
    assert_ne!(words[3], "64");
}

#[test]
fn a_pipe_of_the_shell_may_have_the_rules_and_is_not_waited_for() {
    let place = Place::new();
    let passt = place.passt(&["--foreground", "--egress-file"]);
    let run = |file: &str| {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("\"$@\" {file}")).arg("bash").arg(passt.get_program());
        command.args(passt.get_args()).stdin(Stdio::null());
        crate::rig::refusal(&mut command)
    };
    // The rule is read, and is none.
    let message = run("<(sleep 0.2; echo nonsense)");
    assert!(message.contains("/dev/fd/") && message.contains(", line 1: "), "{message}");
    let fifo = place.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let message = run(fifo.to_str().unwrap());
    assert!(message.contains("Nobody writes to this pipe"), "{message}");
}

#[test]
fn too_little_memory_is_told_before_anything_is_made() {
    let place = Place::new();
    let limited = |resource: Resource, mib: u64| {
        let mut command = place.passt::<&str>(&[]);
        let limit = Rlimit { current: Some(mib << 20), maximum: Some(mib << 20) };
        before_exec(&mut command, move || setrlimit(resource, limit).unwrap());
        command
    };
    for resource in [Resource::Data, Resource::As] {
        let text = refusal(&mut limited(resource, 70));
        assert!(text.contains("Cannot have 80 MiB of memory"), "{text}");
    }
    let _program = place.spawn(limited(Resource::Data, 84).arg("--foreground"));
    assert!(place.serves(), "what was tried is enough");
}

/// Who has few connections needs no more descriptors than there are; the command finds what pasta has found.
#[test]
fn a_limit_of_descriptors_that_may_not_be_raised_stays() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pasta"));
    command.args(["--splice-only", "--", "sh", "-c", "ulimit -Sn; exit 7"]);
    before_exec(&mut command, || {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(100), ..limit }).unwrap();
    });
    // prlimit(2) names no process, and has a new limit where it does not only ask.
    let output = deny_given(command, libc::SYS_prlimit64, 2, libc::EPERM).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(output.stdout, b"100\n");
}

/// In the foreground nothing is put in the place of standard descriptors.
#[test]
fn only_the_background_needs_a_null_device() {
    let place = Place::new();
    let passt = |words: &[&str]| {
        let mut command = unshare("rm");
        let script = "mount -t tmpfs tmpfs /dev; exec \"$0\" \"$@\"";
        command.args(["sh", "-ec", script, env!("CARGO_BIN_EXE_passt"), "--no-follow-host"]);
        command.args(crate::rig::NETWORK).arg("--socket").arg(place.path("socket"));
        command.arg("--pid").arg(place.path("pid")).args(words);
        command
    };
    let message = refusal(&mut passt(&[]));
    let said = "Couldn't open /dev/null: No such file or directory: make it (mknod -m 666 /dev/null c 1 3), \
                or stay in the --foreground";
    assert!(message.contains(said), "{message}");
    let _program = place.spawn(&mut passt(&["--foreground"]));
    assert!(place.serves());
}
