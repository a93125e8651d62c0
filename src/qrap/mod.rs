//! qrap: starts a QEMU that cannot connect to a socket by itself, as none before 7.2 can, with a descriptor that is
//! connected to a passt. Frames pass there as with `-netdev stream`: each has its length in front.
//!
//! | file | what it does |
//! |---|---|
//! | `words` | reads the command line, and finds QEMU |
//! | `arguments` | QEMU's arguments with a network device that leads to passt, in place of others: pure |
//! | `door` | finds a passt that answers |
//!
//! The program becomes QEMU: nothing of it stays.

mod arguments;
mod door;
mod failure;
mod words;

use std::convert::Infallible;
use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use passt_frame::Errno;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::sys::errno_text;
use failure::Failure;
use words::{Asked, Job};

/// The descriptor that QEMU gets if the command line does not say which.
const NUMBER: RawFd = 5;

/// The program. It returns when QEMU was not started: exit code 1, and 0 after a text that was asked for.
pub fn main() -> ExitCode {
    match words::parse(std::env::args_os().skip(1).collect(), &words::find) {
        Ok(Asked::Text(text)) => {
            // A reader that is gone does not want the text any more.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Asked::Job(job)) => match run(job) {
            Ok(never) => match never {},
            Err(failure) => fail(&failure),
        },
        Err(failure) => fail(&failure),
    }
}

fn fail(Failure(message): &Failure) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "qrap: {message}");
    ExitCode::FAILURE
}

fn run(job: Job) -> Result<Infallible, Failure> {
    let Job { program, mut arguments, number } = job;
    // Open until exec, and in QEMU.
    let mut connection = None;
    if arguments::want_a_guest(&arguments) {
        let (socket, path) = door::find()?;
        let _ = writeln!(std::io::stderr(), "Connected to {}", path.display());
        let socket = inherited(socket, number)?;
        if number.is_none() {
            arguments = arguments::with_passt(&program, &arguments, socket.as_raw_fd());
        }
        connection = Some(socket);
    }
    let error = Command::new(&program).args(&arguments).exec();
    drop(connection);
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let program = program.display();
    Err(Failure(format!("Couldn't start {program}: {}", errno_text(errno))))
}

/// The connection as a descriptor that QEMU inherits: `number`, or without one the first from [`NUMBER`] on that is free.
fn inherited(socket: OwnedFd, number: Option<RawFd>) -> Result<OwnedFd, Failure> {
    let first = number.unwrap_or(NUMBER);
    let failed = |errno| {
        let text = errno_text(errno);
        Failure(format!(
            "Couldn't make descriptor {first}: {text}; see ulimit -n for how many there may be"
        ))
    };
    let placed = if socket.as_raw_fd() == first {
        socket
    } else {
        fcntl_dupfd_cloexec(&socket, first).map_err(failed)?
    };
    if number.is_some_and(|number| number != placed.as_raw_fd()) {
        return Err(Failure(format!(
            "Descriptor {first} is open already: close it first ({first}>&- in a shell), or give the number of another"
        )));
    }
    fcntl_setfd(&placed, FdFlags::empty()).map_err(failed)?;
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn socket() -> OwnedFd {
        std::os::unix::net::UnixDatagram::unbound().expect("a socket can be made").into()
    }

    #[test]
    fn the_connection_has_the_number_that_was_asked_for_and_survives() {
        let placed = inherited(socket(), Some(700)).expect("it is free");
        assert_eq!(placed.as_raw_fd(), 700);
        let flags = rustix::io::fcntl_getfd(&placed).expect("it is open");
        assert!(!flags.contains(FdFlags::CLOEXEC));
        let taken = inherited(socket(), Some(700)).expect_err("it is in use").0;
        assert!(taken.starts_with("Descriptor 700 is open already"), "{taken}");
        let beyond = inherited(socket(), Some(i32::MAX)).expect_err("there is no such number").0;
        assert!(beyond.contains("2147483647: Invalid argument; see ulimit -n"), "{beyond}");
    }

    #[test]
    fn without_a_number_it_is_one_that_is_free() {
        let (one, other) = (inherited(socket(), None), inherited(socket(), None));
        let (one, other) = (one.expect("one is free"), other.expect("another is free"));
        assert!(one.as_raw_fd() >= NUMBER && other.as_raw_fd() >= NUMBER);
        assert_ne!(one.as_raw_fd(), other.as_raw_fd());
    }

    #[test]
    fn what_is_no_program_says_so() {
        let arguments = vec![OsString::from("-version")];
        let failed = run(Job { program: "/nowhere/qemu".into(), arguments, number: None });
        assert_eq!(
            failed.expect_err("it is not there").0,
            "Couldn't start /nowhere/qemu: No such file or directory"
        );
    }
}
