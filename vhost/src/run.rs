//! Where a vring stands between the messages that start and stop it, and what has become of it by itself.
//!
//! | state | left by |
//! |---|---|
//! | stopped | SET_VRING_KICK or SET_VRING_ADDR, or the first SET_VRING_NUM, when nothing else is lacking |
//! | running | GET_VRING_BASE, RESET_DEVICE, a broken rule of the ring: stopped; memory that is taken away: unmapped; size or base set anew: waiting |
//! | waiting | a kick, SET_VRING_NUM, SET_VRING_BASE or SET_VRING_ENABLE while it is enabled: running |
//! | unmapped | memory, or a place and a size, by which it lies in memory: running |
//!
//! Whatever stops a running ring ends the others, too.

use crate::ring::{Ring, RingFault};

/// Where a vring stands.
#[derive(Default)]
pub(crate) enum Run {
    /// It was not started, or was stopped, or is broken.
    #[default]
    Stopped,
    /// It runs.
    Running(Ring),
    /// It was started too early, and starts anew with values that come behind. A kick says that it has waited long enough.
    Waiting,
    /// It was started and does not lie in the memory that the front-end shares, or its driver has put something into it
    /// that does not. It goes on when that is there.
    Unmapped {
        /// What is lacking, until the front-end is told that the ring is broken.
        untold: Option<RingFault>,
    },
}

impl Run {
    /// The ring, if it runs.
    pub(crate) fn ring(&self) -> Option<&Ring> {
        if let Self::Running(ring) = self { Some(ring) } else { None }
    }

    /// The same, to change it.
    pub(crate) fn ring_mut(&mut self) -> Option<&mut Ring> {
        if let Self::Running(ring) = self { Some(ring) } else { None }
    }

    /// Takes the ring out, if it runs: who does puts it back.
    pub(crate) fn take(&mut self) -> Option<Ring> {
        match std::mem::take(self) {
            Self::Running(ring) => Some(ring),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// What is known of a ring's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// No SET_VRING_NUM has come since the front-end came: nobody knows where the ring ends, and nothing starts.
    Unknown,
    /// The ring was stopped since: it may be another driver's now, of another size, and who takes it for larger than it is
    /// writes behind its end. The specification neither ends a size with a stop nor starts a ring before its first kick,
    /// and each front-end that was seen says sizes anew.
    OfLast,
    /// It is the size of this ring.
    Known,
}

/// What has become of a ring by itself, until somebody has told it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// What broke it.
    pub(crate) fault: Option<RingFault>,
    /// It has stopped for want of memory, in the middle of its work. It may run again.
    pub(crate) left: bool,
}
