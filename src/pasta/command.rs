//! The command, or a login shell, in its namespaces. The process that starts it there ([`init`]) is
//! forked early, because later the program gives up what that takes, and waits at a gate until everything is
//! ready: a byte on a pipe opens it; when the pipe closes without one, the program has failed, and the
//! command never starts. Later bytes are signals for the command, and the end of the pipe is that of the program.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, waitid};

use passt_frame::ToGuest;

use super::init::{self, Children, Init};
use crate::engine::{Engine, EventType, Exit, Source};
use crate::error::{StartError, process_cure, system};
use crate::sandbox;
use crate::sys::errno_text;
use crate::sys::mount;
use crate::sys::namespace::{self, Kinds};
use crate::sys::process::{self, BY_SIGNAL, DescriptorLimit, Forked};

/// The byte that opens the gate. None of the signals has this number.
const OPEN: u8 = 0x80;

/// What is said where there is no process for the command.
const NOT_STARTED: &str = "Couldn't start the command's process";

/// Longest host name (`__NEW_UTS_LEN`, uname(2)).
const MAX_HOST_NAME: usize = 64;

/// What a command is started with.
pub(super) struct Plan<'a> {
    /// The command and its arguments; empty for a login shell.
    pub(super) words: &'a [OsString],
    /// It gets process ids of its own.
    pub(super) pid_namespace: bool,
    /// Its user namespace is that of the host's mounts. Otherwise the kernel sees to it that none of its
    /// mounts reaches the host (mount_namespaces(7)).
    pub(super) shares_mounts: bool,
    /// Its network namespace.
    pub(super) network: BorrowedFd<'a>,
    /// Its host name.
    pub(super) hostname: Option<&'a str>,
    /// The limit of descriptors that it gets back.
    pub(super) limit: &'a DescriptorLimit,
    /// A variable of the environment that is not for it.
    pub(super) withheld: Option<&'a str>,
}

/// A command that waits at the gate, or runs; its parent is what is known of it here.
pub(crate) struct Child {
    gate: Option<OwnedFd>,
    /// Nobody else reaps it, so that nobody else has this number.
    pid: Pid,
    /// Becomes readable when it ends.
    end: OwnedFd,
}

/// Which side of the fork returned.
pub(super) enum Started {
    /// The program, with the command waiting.
    Program(Child),
    /// What was to become the command, with the exit code to end with.
    Command(ExitCode),
}

/// Forks the command.
///
/// # Errors
/// There can be no further process.
pub(super) fn fork(plan: &Plan<'_>) -> Result<Started, StartError> {
    let pipe = || {
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        pipe.map_err(system("Couldn't make a pipe"))
    };
    let ((gate_in, gate), (end, alive)) = (pipe()?, pipe()?);
    let mut kinds = Kinds::COMMAND;
    if plan.pid_namespace {
        kinds = kinds.with(Kinds::PID);
    }
    match namespace::fork_into(kinds).map_err(sandbox::not_in_namespace(NOT_STARTED))? {
        Forked::Child => {
            drop((gate, end));
            process::leave_start().map_err(system("sigaction"))?;
            Ok(Started::Command(run(plan, &gate_in, &alive)))
        }
        Forked::Parent(pid) => {
            let pid = Pid::from_raw(pid).ok_or(Errno::SRCH).map_err(system("fork"))?;
            // Before Linux 5.3 the end of a pipe tells, which comes a moment before the process's.
            let end = pidfd_open(pid, PidfdFlags::empty()).unwrap_or(end);
            Ok(Started::Program(Child { gate: Some(gate), pid, end }))
        }
    }
}

/// The new process: prepares its surroundings, waits, and starts the command. It holds on to `alive`. Only what failed
/// returns.
fn run(plan: &Plan<'_>, gate: &OwnedFd, alive: &OwnedFd) -> ExitCode {
    if let Err(errno) = namespace::enter(plan.network, Kinds::NETWORK) {
        let (why, cure) = (errno_text(errno), sandbox::container_cure(errno));
        log::error!("Failed to join network namespace: {why}{cure}");
        return ExitCode::FAILURE;
    }
    if plan.pid_namespace
        && let Err(errno) = mount_proc(plan.shares_mounts)
    {
        log::warn!("Couldn't mount /proc: {errno}");
    }
    if let Err(errno) = rustix::system::sethostname(host_name(plan.hostname).as_bytes()) {
        log::debug!("Couldn't set host name: {errno}");
    }
    let mut byte = [0];
    while let Err(Errno::INTR) = rustix::io::read(gate, &mut byte) {}
    if byte == [0] {
        return ExitCode::FAILURE;
    }
    let children = if plan.pid_namespace { Children::EndWithUs } else { Children::Adopted };
    let forked = Init::prepare(children).and_then(|init| Ok((init, process::fork()?)));
    match forked {
        Ok((init, Forked::Parent(command))) => init.serve(command, gate.as_fd(), alive.as_fd()),
        Ok((_, Forked::Child)) => become_command(plan),
        Err(errno) => {
            let (why, cure) = (errno_text(errno), process_cure(errno));
            log::error!("{NOT_STARTED}: {why}{cure}");
            ExitCode::FAILURE
        }
    }
}

/// The command's own process. Returns when there is no such command.
fn become_command(plan: &Plan<'_>) -> ExitCode {
    if !plan.pid_namespace {
        // Otherwise the kernel ends it with its parent anyway.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    }
    if let Err(errno) = process::restore_for_command(plan.limit) {
        log::warn!("Couldn't restore limits and signals for the command: {errno}");
    }
    let mut command = command(plan.words);
    if let Some(variable) = plan.withheld {
        command.env_remove(variable);
    }
    let error = command.exec();
    let program = command.get_program().display();
    let cure = if names_process(plan.words) { ": options stand before the PID" } else { "" };
    log::error!("Failed to start command or shell: {error}: {program}{cure}");
    ExitCode::FAILURE
}

/// Shows the command the processes of its own namespace, and nobody else.
fn mount_proc(shares_mounts: bool) -> Result<(), Errno> {
    if shares_mounts {
        mount::keep_to_ourselves()?;
    }
    namespace::mount_proc()
}

/// Whether what was taken for a command begins with the id of a process.
fn names_process(words: &[OsString]) -> bool {
    words.first().and_then(|word| word.to_str()).is_some_and(|word| word.parse::<u32>().is_ok())
}

fn command(words: &[OsString]) -> Command {
    if let [program, arguments @ ..] = words {
        let mut command = Command::new(program);
        command.args(arguments);
        return command;
    }
    let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    let shell = shell.unwrap_or_else(|| "/bin/sh".into());
    let mut name = OsString::from("-");
    name.push(&shell);
    let mut command = Command::new(shell);
    command.arg0(name);
    command
}

/// The name given, or one that tells where the command runs.
fn host_name(given: Option<&str>) -> String {
    let mut name = given.map_or_else(
        || {
            let system = rustix::system::uname();
            format!("pasta-{}", system.nodename().to_string_lossy())
        },
        str::to_owned,
    );
    let end = (0..=MAX_HOST_NAME.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    name.truncate(end.unwrap_or(0));
    name
}

impl Child {
    /// Opens the gate.
    ///
    /// # Errors
    /// The command's process is gone.
    pub(crate) fn release(&self) -> Result<(), Errno> {
        let gate = self.gate.as_ref().ok_or(Errno::PIPE)?;
        rustix::io::write(gate, &[OPEN]).map(drop)
    }

    /// What passes signals on that are meant for the command. It holds the gate, too: to be dropped before `self`.
    ///
    /// # Errors
    /// What signalfd(2), dup(2) or ioctl(2) report.
    pub(crate) fn signals(&self) -> Result<Box<dyn Source>, Errno> {
        let gate = self.gate.as_ref().ok_or(Errno::PIPE)?;
        let gate = rustix::io::fcntl_dupfd_cloexec(gate, 3)?;
        // The loop waits for nobody.
        rustix::io::ioctl_fionbio(&gate, true)?;
        let signals = process::signal_descriptor(&init::ABOUT_COMMAND)?;
        Ok(Box::new(Passed { signals, gate }))
    }

    /// A watch for its end.
    ///
    /// # Errors
    /// What dup(2) reports.
    pub(crate) fn watch(&self) -> Result<Box<dyn Source>, Errno> {
        let end = rustix::io::fcntl_dupfd_cloexec(&self.end, 3)?;
        Ok(Box::new(Ended { pid: self.pid, end }))
    }

    /// The exit code that stands for how the command ended: its own, or 128 and the signal.
    /// `None` while it runs.
    ///
    /// # Errors
    /// What waitid(2) reports.
    pub(crate) fn status(&self) -> Result<Option<u8>, Errno> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let Some(status) = waitid(WaitId::Pid(self.pid), options)? else { return Ok(None) };
        Ok(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(code as u8),
            (None, Some(signal)) => Some(BY_SIGNAL + signal as u8),
            (None, None) => None,
        })
    }
}

/// With the gate ends a command that waits there, or runs, and all that it has started. They are left to nobody
/// else to reap.
impl Drop for Child {
    fn drop(&mut self) {
        drop(self.gate.take());
        let wait = || waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED);
        let _gone_or_reaped_before = rustix::io::retry_on_intr(wait);
    }
}

/// Signals that are meant for the command.
struct Passed {
    signals: OwnedFd,
    gate: OwnedFd,
}

impl Source for Passed {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::Signal
    }

    fn on_event(&mut self, _engine: &mut Engine, _out: &mut dyn ToGuest) -> Option<Exit> {
        while let Some(signal) = process::next_signal(self.signals.as_fd()) {
            if init::is_for_command(signal) {
                // Fails when the command has just ended, which is an event of its own.
                let _ = rustix::io::write(&self.gate, &[signal.number as u8]);
            }
        }
        None
    }
}

/// The command ends when the descriptor becomes readable.
struct Ended {
    pid: Pid,
    end: OwnedFd,
}

impl Source for Ended {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::Watch
    }

    fn on_event(&mut self, _engine: &mut Engine, _out: &mut dyn ToGuest) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let runs = matches!(waitid(WaitId::Pid(self.pid), options), Ok(None));
        (!runs).then_some(Exit::Over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_fit() {
        assert_eq!(host_name(Some("guest")), "guest");
        assert_eq!(host_name(Some(&"ä".repeat(40))).len(), 64);
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let whole = format!("pasta-{}", host.trim_end());
        assert_eq!(host_name(None), whole[..whole.len().min(64)]);
    }
}
