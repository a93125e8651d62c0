//! Why the program cannot start: what every part of it that has a share in starting may answer.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::conf::ConfError;
use crate::log::LogFileError;
use crate::sys::errno_text;

/// Why the program cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The command line, or what it means on this host.
    #[error("{0}")]
    Conf(#[from] ConfError),
    /// The log file.
    #[error("{0}")]
    LogFile(#[from] LogFileError),
    /// Another program listens on the socket's path.
    #[error(
        "Socket path {0} already in use: stop the program that listens there, or choose another {1}"
    )]
    SocketInUse(PathBuf, &'static str),
    /// The socket's path names a file that holds something.
    #[error("Socket path {0} is a file with content: remove it, or choose another {1}")]
    SocketIsFile(PathBuf, &'static str),
    /// No socket can have this path.
    #[error("Invalid socket path: {0}: it must have 1 to 107 bytes, choose another {1}")]
    SocketPath(PathBuf, &'static str),
    /// A socket could not be made.
    #[error("Failed to bind UNIX domain socket: {source}: {path}: {cure}")]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What to do.
        cure: String,
    },
    /// `--fd` names no usable descriptor.
    #[error("Could not move --fd descriptor: {errno}: {fd} is {cure}")]
    Descriptor {
        /// The descriptor.
        fd: i32,
        /// Why.
        errno: Errno,
        /// What it is not, and what to do.
        cure: &'static str,
    },
    /// The PID file could not be written.
    #[error("Couldn't open PID file {path}: {source}: choose another --pid")]
    PidFile {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A system call that start-up cannot do without.
    #[error("{what}: {errno}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// A part of the program could not start.
    #[error("{0}")]
    Other(String),
}

/// Names the step of a system call that failed.
pub(crate) fn system(what: &'static str) -> impl FnOnce(Errno) -> StartError {
    move |errno| StartError::System { what, errno }
}

/// Names the step of a process that could not be started, with what to do about it.
pub(crate) fn no_process(what: &'static str) -> impl FnOnce(Errno) -> StartError {
    move |errno| {
        let (why, cure) = (errno_text(errno), process_cure(errno));
        StartError::Other(format!("{what}: {why}{cure}"))
    }
}

/// What to do where there can be no further process, or thread.
pub(crate) fn process_cure(errno: Errno) -> &'static str {
    match errno {
        Errno::AGAIN => ": raise the limit of processes (ulimit -u, TasksMax=, --pids-limit)",
        _ => "",
    }
}

/// Says that the caller has not opened the descriptor `fd` of `option`.
pub(crate) fn not_given(option: &'static str, fd: i32) -> impl FnOnce(Errno) -> StartError {
    move |errno| {
        let why = errno_text(errno);
        StartError::Other(format!("Couldn't use {option} {fd}: {why}: open it for the program"))
    }
}
