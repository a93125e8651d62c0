//! Whatever has a descriptor, acts when that becomes readable, and is neither a flow, nor a listening socket,
//! nor the link: signals, a command that ends, a namespace that goes away, news of the host's neighbours.
//! The loop owns them and knows nothing else of them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_frame::ToGuest;

use super::Engine;
use super::stats::EventType;

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// SIGTERM or SIGQUIT.
    Signal,
    /// The one client is gone.
    ClientGone,
    /// What the program was to run beside is gone: a command, a namespace.
    Over,
}

/// Something with a descriptor that acts on its events.
pub trait Source {
    /// What is watched for being readable, level-triggered. The same for as long as the source lives.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Under which name its events are counted.
    fn event_type(&self) -> EventType;

    /// The descriptor is readable. What is known of addresses and all else may be changed through `engine`, and
    /// frames may be sent to the guest through `out`; the loop ends with the turn if there is an [`Exit`].
    fn on_event(&mut self, engine: &mut Engine, out: &mut dyn ToGuest) -> Option<Exit>;
}

/// A signal descriptor that ends the loop.
pub struct Signals(pub OwnedFd);

impl Source for Signals {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::Signal
    }

    fn on_event(&mut self, _engine: &mut Engine, _out: &mut dyn ToGuest) -> Option<Exit> {
        Some(Exit::Signal)
    }
}
