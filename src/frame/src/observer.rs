//! Who looks at all frames on their way, such as a capture. A link knows nothing of it: both
//! directions pass through leases, and these show each frame to the observer, if there is one.

use crate::{FrameMeta, GuestIovec};

/// A frame as it passes, whole, in the buffers of its link.
pub struct PassingFrame<'a> {
    /// Bytes of the frame, Ethernet header and padding included.
    pub len: u32,
    /// Its offloads.
    pub meta: FrameMeta,
    /// Consecutive stretches of it; together at least as long as the frame.
    pub(crate) stretches: [&'a [GuestIovec]; 2],
}

impl PassingFrame<'_> {
    /// Copies the frame to private memory, as far as `bytes` has room; returns how many bytes there were.
    pub fn copy_out(&self, bytes: &mut [u8]) -> usize {
        let room = bytes.len().min(self.len as usize);
        let mut done = 0;
        for piece in self.stretches.into_iter().flatten() {
            done += piece.copy_out(&mut bytes[done..room]);
        }
        done
    }
}

/// Sees each frame: those from the guest when they are taken, those to the guest when they are
/// committed.
pub trait FrameObserver {
    /// A frame passes.
    fn on_frame(&mut self, frame: &PassingFrame<'_>);
}
