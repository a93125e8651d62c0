//! The end by a descriptor, as slirp4netns has it: whoever holds the other end closes it, or says anything.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll;

use passt_frame::ToGuest;

use crate::engine::{Engine, EventType, Exit, Source};
use crate::error::{StartError, not_given};
use crate::sys::{errno_text, process};

const OPTION: &str = "--exit-fd";

/// Watches the descriptor `fd`, which the caller has opened.
///
/// # Errors
/// It is not open, or nobody can close its other end.
pub(super) fn watch(fd: i32) -> Result<Box<dyn Source>, StartError> {
    let held = process::take_descriptor(fd).map_err(not_given(OPTION, fd))?;
    // A file has no other end, which shows here.
    let tried = epoll::create(epoll::CreateFlags::CLOEXEC).and_then(|epoll| {
        epoll::add(&epoll, &held, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
    });
    tried.map_err(|errno| {
        let why = errno_text(errno);
        StartError::Other(format!(
            "Couldn't wait for the end of {OPTION} {fd}: {why}: give one end of a pipe or a socket"
        ))
    })?;
    Ok(Box::new(Held(held)))
}

/// Told by the other end.
struct Held(OwnedFd);

impl Source for Held {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::Watch
    }

    fn on_event(&mut self, _engine: &mut Engine, _out: &mut dyn ToGuest) -> Option<Exit> {
        log::info!("{OPTION} is closed, exiting");
        Some(Exit::Signal)
    }
}
