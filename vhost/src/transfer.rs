//! The transfer of device state (vhost-user, "Migrating back-end state"), as far as the front-end sees it, and what it
//! asks of whoever drives the device.
//!
//! SET_DEVICE_STATE_FD brings a descriptor, and is answered at once: we have none of our own. The descriptor is handed
//! on, and CHECK_DEVICE_STATE asks how it went. That question is answered when the transfer has ended, which may take
//! as long as the front-end takes to move the bytes; the connection's next messages wait for it, since replies go out in
//! the order of requests, and nothing else does.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use passt_frame::{Errno, FrontEndRequest};
use rustix::fs::{FileType, OFlags};
use thiserror::Error;
use vhost::vhost_user::message::VhostTransferStateDirection as Direction;

/// The result where nothing was transferred.
const NOTHING: u64 = u64::MAX;

/// Why a transfer does not begin.
#[derive(Debug, Error)]
pub(crate) enum TransferError {
    /// State is that of a device at rest.
    #[error("a ring runs")]
    Running,
    /// The descriptor is not one end of a pipe or a connection.
    #[error("its descriptor is no pipe and no socket")]
    NotAPipe,
    /// It cannot be used in this direction.
    #[error("its descriptor is not open for {0}")]
    WrongWay(&'static str),
    /// fstat(2) or fcntl(2) failed.
    #[error("its descriptor: {0}")]
    System(#[from] Errno),
}

/// How the last transfer stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    /// There was none.
    #[default]
    None,
    /// It was handed on; how it ended is not known.
    Begun,
    /// All of the state was transferred, or why not.
    Ended(Result<(), Errno>),
}

/// What to say to CHECK_DEVICE_STATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// This.
    Reply(u64),
    /// Nothing yet.
    Wait,
}

/// The last transfer, and requests that nobody has taken yet.
#[derive(Default)]
pub(crate) struct Transfer {
    last: Last,
    requests: VecDeque<FrontEndRequest>,
}

impl Transfer {
    /// SET_DEVICE_STATE_FD; `running` is whether a ring runs. One that has begun before is given up.
    ///
    /// # Errors
    /// Why nothing begins. The front-end is told that it failed, and goes on without.
    pub(crate) fn begin(
        &mut self,
        direction: Direction,
        file: File,
        running: bool,
    ) -> Result<(), TransferError> {
        if running {
            return Err(TransferError::Running);
        }
        let descriptor = adopt(direction, file)?;
        self.last = Last::Begun;
        self.requests.push_back(match direction {
            Direction::SAVE => FrontEndRequest::SaveState(descriptor),
            Direction::LOAD => FrontEndRequest::LoadState(descriptor),
        });
        Ok(())
    }

    /// CHECK_DEVICE_STATE.
    pub(crate) fn check(&mut self) -> Check {
        match self.last {
            Last::None => Check::Reply(NOTHING),
            Last::Ended(ended) => Check::Reply(result(ended)),
            Last::Begun => {
                self.requests.push_back(FrontEndRequest::CheckState);
                Check::Wait
            }
        }
    }

    /// The transfer has ended; returns what to reply.
    pub(crate) fn end(&mut self, ended: Result<(), Errno>) -> u64 {
        self.last = Last::Ended(ended);
        result(ended)
    }

    /// A ring goes on from elsewhere than where it was stopped.
    pub(crate) fn note_rewound(&mut self) {
        // The rings of a device are rewound together, and that is told once.
        if !self.requests.iter().any(|request| matches!(request, FrontEndRequest::Rewound)) {
            self.requests.push_back(FrontEndRequest::Rewound);
        }
    }

    /// The oldest request that was not taken.
    pub(crate) fn take_request(&mut self) -> Option<FrontEndRequest> {
        self.requests.pop_front()
    }
}

/// In the reply: any number but 0 says that it failed, and is the error's for who prints it.
fn result(ended: Result<(), Errno>) -> u64 {
    ended.map_or_else(|errno| u64::from(errno.raw_os_error().unsigned_abs()), |()| 0)
}

/// Prepares a descriptor from outside, which must not block, nor be one that cannot be waited for.
fn adopt(direction: Direction, file: File) -> Result<OwnedFd, TransferError> {
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC)?;
    let mode = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if !matches!(mode, FileType::Fifo | FileType::Socket) {
        return Err(TransferError::NotAPipe);
    }
    let flags = rustix::fs::fcntl_getfl(&file)?;
    let (needed, way) = match direction {
        Direction::SAVE => (OFlags::WRONLY, "writing"),
        Direction::LOAD => (OFlags::RDONLY, "reading"),
    };
    let access = flags & OFlags::RWMODE;
    if access != needed && access != OFlags::RDWR {
        return Err(TransferError::WrongWay(way));
    }
    rustix::fs::fcntl_setfl(file.as_fd(), flags | OFlags::NONBLOCK)?;
    Ok(file.into())
}
