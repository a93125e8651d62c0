//! The last step of a start: telling whoever waits that the program is ready.
//!
//! In the background that is the exit code of the first process, and with it the PID file is written.
//! The first process waits for a byte from the second, which sends it when nothing is left that could
//! fail. When the second one ends instead, it has said why, and the first one ends with its exit code, after it: whoever
//! waits for the first has read it then, and a container whose first process it is lasts until it is said. The second one
//! waits for a byte, too: that the caller has been told. Where the first one ends instead, nobody knows of a program, and
//! there is none. In the foreground it is the PID file alone, and slirp4netns's byte on the descriptor of who waits.

use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;

use super::files::{Made, PidFile};
use super::notify::ServiceManager;
use crate::conf::RunConf;
use crate::error::{StartError, no_process, not_given, system};
use crate::sys::errno_text;
use crate::sys::process::{self, Forked};
use crate::sys::shared_folder::Successor;

/// What the first process says where a signal has ended the second one, which has said nothing then.
const NOT_READY: &str = "The process in the background has ended before it was ready";

/// Everything that saying "ready" takes, opened while the file system is there.
pub(crate) struct Readiness {
    made: Made,
    waiting: Option<OwnedFd>,
    pid_file: Option<PidFile>,
    manager: Option<ServiceManager>,
    /// For the background.
    null: Option<OwnedFd>,
}

/// Which process goes on after [`Readiness::fork`].
pub(crate) enum Continue {
    /// The program: with what it says when it is ready.
    Program(Announcement),
    /// The first process, which has nothing left to do but end with this.
    Starter(ExitCode),
}

/// The word that a process in the background, or one in the foreground, is ready.
pub(crate) struct Announcement(Kind);

enum Kind {
    Background {
        /// Open until the byte is written, or until the process has ended, with all that it says.
        starter: ManuallyDrop<OwnedFd>,
        told: OwnedFd,
        null: OwnedFd,
    },
    Foreground {
        made: Made,
        told: (Option<PidFile>, Option<ServiceManager>),
        waiting: Option<OwnedFd>,
    },
}

impl Readiness {
    /// Opens what will be needed. `successor` says which user this process becomes, `made` are the files that go away if
    /// the program does not get ready.
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) fn prepare(
        run: &RunConf,
        successor: Successor<'_>,
        mut made: Made,
    ) -> Result<Self, StartError> {
        let pid_file = run.pid.as_deref().map(|path| PidFile::open(path, successor, &mut made));
        let pid_file = pid_file.transpose()?;
        let manager = if run.notify { ServiceManager::connect()? } else { None };
        let ready = run.slirp4netns.as_ref().and_then(|slirp| slirp.ready);
        let waiting = ready.map(writable).transpose()?;
        let null = (!run.foreground).then(process::null_device).transpose().map_err(no_null)?;
        process::allow_signals().map_err(system("sigprocmask"))?;
        Ok(Self { made, waiting, pid_file, manager, null })
    }

    /// This process is not the program: what was made is none of its business.
    pub(crate) fn disown(&mut self) {
        self.made.keep();
    }

    /// Goes to the background, unless told to stay. In the first process it returns when the program is ready, or has
    /// ended. From here on signals wait, in the process that goes on, until they are [released](process::release_signals) or read.
    ///
    /// # Errors
    /// [`StartError`], in either process.
    pub(crate) fn fork(self) -> Result<Continue, StartError> {
        let Self { mut made, waiting, pid_file, manager, null } = self;
        process::hold_signals().map_err(system("sigprocmask"))?;
        let Some(null) = null else {
            let kind = Kind::Foreground { made, told: (pid_file, manager), waiting };
            return Ok(Continue::Program(Announcement(kind)));
        };
        let ((program, starter), (told, release)) = (pipe()?, pipe()?);
        match process::fork().map_err(no_process("Couldn't go to the background"))? {
            Forked::Child => {
                // They are the first process's to remove.
                made.keep();
                rustix::process::setsid().map_err(system("setsid"))?;
                let starter = ManuallyDrop::new(starter);
                let kind = Kind::Background { starter, told, null };
                Ok(Continue::Program(Announcement(kind)))
            }
            Forked::Parent(pid) => {
                drop((starter, told));
                process::end_if_unready(pid);
                process::allow_signals().map_err(system("sigprocmask"))?;
                if !wait(&program)? {
                    return program_failed().map(Continue::Starter);
                }
                tell(pid, pid_file, manager.as_ref())
                    .and_then(|()| let_go(&release))
                    .inspect_err(|_| process::end_program())?;
                made.keep();
                Ok(Continue::Starter(ExitCode::SUCCESS))
            }
        }
    }
}

/// The exit code of a program that has ended before it was ready, and has said why.
fn program_failed() -> Result<ExitCode, StartError> {
    let failed = process::reap_program().filter(|code| *code != 0);
    failed.map(ExitCode::from).ok_or_else(|| StartError::Other(NOT_READY.to_owned()))
}

/// What a program in the background has in place of its standard descriptors is not there.
fn no_null(errno: Errno) -> StartError {
    let why = errno_text(errno);
    StartError::Other(format!(
        "Couldn't open /dev/null: {why}: make it (mknod -m 666 /dev/null c 1 3), or stay in the --foreground"
    ))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), StartError> {
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    pipe.map_err(system("Couldn't make a pipe"))
}

/// Lets the program in the background go on without this process, whose end no signal changes any more.
fn let_go(release: &OwnedFd) -> Result<(), StartError> {
    process::hold_signals().map_err(system("sigprocmask"))?;
    let said = rustix::io::write(release, &[1]).map(drop);
    said.map_err(system("The process in the background has ended"))
}

/// The descriptor of `--ready-fd`, into which a byte goes at once.
fn writable(fd: i32) -> Result<OwnedFd, StartError> {
    const OPTION: &str = "--ready-fd";
    let given = process::take_descriptor(fd).map_err(not_given(OPTION, fd))?;
    let mut asked = [PollFd::new(&given, PollFlags::OUT)];
    let polled = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    let takes = polled.is_ok() && asked[0].revents() == PollFlags::OUT;
    let mode = fcntl_getfl(&given).map_err(system("Couldn't look at --ready-fd"))?;
    let writes = [OFlags::WRONLY, OFlags::RDWR].contains(&(mode & OFlags::RWMODE));
    if takes && writes && !mode.contains(OFlags::PATH) {
        return Ok(given);
    }
    Err(StartError::Other(format!(
        "Couldn't use {OPTION} {fd}: nothing can be written there: give the writing end of a pipe that somebody reads"
    )))
}

/// Waits for a byte of the other process; whether there was one before its end.
fn wait(other: &OwnedFd) -> Result<bool, StartError> {
    let mut byte = [0];
    let count = rustix::io::retry_on_intr(|| rustix::io::read(other, &mut byte));
    count.map(|count| count > 0).map_err(system("Couldn't wait for the other process"))
}

/// Tells who waits that process `pid` is ready.
fn tell(
    pid: i32,
    pid_file: Option<PidFile>,
    manager: Option<&ServiceManager>,
) -> Result<(), StartError> {
    if let Some(file) = pid_file {
        file.write(pid)?;
    }
    if let Some(manager) = manager {
        let told = manager.ready(pid);
        told.map_err(|e| StartError::Other(format!("Couldn't tell the service manager: {e}")))?;
    }
    Ok(())
}

impl Announcement {
    /// Says it. From here on the program is on its own: in the background it has no standard input,
    /// output and error any more. Signals no longer wait, unless the program reads them `for_command`.
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) fn say(self, for_command: bool) -> Result<(), StartError> {
        match self.0 {
            Kind::Foreground { mut made, told: (pid_file, manager), waiting } => {
                // The sandbox has put files out of reach.
                made.keep();
                let pid = rustix::process::getpid().as_raw_nonzero().get();
                tell(pid, pid_file, manager.as_ref())?;
                if let Some(waiting) = waiting {
                    let said = rustix::io::retry_on_intr(|| rustix::io::write(&waiting, b"1"));
                    said.map_err(system(
                        "--ready-fd: nobody can be told that the network is ready",
                    ))?;
                }
            }
            Kind::Background { starter, told, null } => {
                let said: Result<(), Errno> = process::replace_standard_descriptors(&null)
                    .and_then(|()| rustix::io::write(&*starter, &[1]).map(drop));
                said.map_err(system("Couldn't leave the first process"))?;
                drop(ManuallyDrop::into_inner(starter));
                if !wait(&told)? {
                    let untold = "The first process has ended before it told of this one";
                    return Err(StartError::Other(untold.to_owned()));
                }
                crate::log::leave_stderr();
            }
        }
        crate::log::stop_waiting();
        if for_command {
            return Ok(());
        }
        process::release_signals().map_err(system("sigaction"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_other_process_is_told_from_its_word() {
        let (program, starter) = rustix::pipe::pipe().unwrap();
        drop(starter);
        assert!(!wait(&program).unwrap());
        let (program, starter) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&starter, &[1]).unwrap();
        assert!(wait(&program).unwrap());
    }
}
