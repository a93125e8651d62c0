//! The links that the whole engine is played on: one whose room can run out, without offloads or with all of them, and one
//! that allocates nothing, on which the engine may allocate nothing either.

use std::cell::RefCell;

use passt_frame::{Caps, Checksum, FrameMeta, MemPort};
use passt_support::heap;

use crate::slot_port::SlotPort;
use crate::world::{BothEnds, GuestEnd, OFFLOADS, PLAIN};

/// Bytes of one receive buffer of the guest.
const BUFFER_BYTES: usize = 4096;

/// A link, and what of it an input may change.
pub trait Playground: BothEnds + Sized {
    /// A link without frames.
    fn make(caps: Caps) -> Self;

    /// What is to be done with it behind the play.
    fn keep(self) {}

    /// Limits how many more frames the guest takes. False where that is not to be had.
    fn limit(&mut self, frames: usize) -> bool;

    /// Cuts frames of the guest in two pieces.
    fn cut(&mut self, bytes: usize);

    /// Whether turns allocate nothing.
    const ALLOCATES_NOTHING: bool;
}

impl Playground for MemPort {
    fn make(caps: Caps) -> Self {
        Self::new(caps, BUFFER_BYTES)
    }

    fn limit(&mut self, frames: usize) -> bool {
        self.set_room(frames);
        true
    }

    fn cut(&mut self, bytes: usize) {
        self.cut_at(bytes);
    }

    const ALLOCATES_NOTHING: bool = false;
}

thread_local! {
    /// One for all inputs: it has 128 MiB of slots.
    static SLOTS: RefCell<Option<SlotPort>> = const { RefCell::new(None) };
}

impl Playground for SlotPort {
    fn make(caps: Caps) -> Self {
        heap::assert_counting();
        SLOTS.take().unwrap_or_else(|| Self::new(caps))
    }

    fn keep(mut self) {
        while self.guest_receives().is_some() {}
        SLOTS.set(Some(self));
    }

    fn limit(&mut self, _frames: usize) -> bool {
        false
    }

    fn cut(&mut self, _bytes: usize) {}

    const ALLOCATES_NOTHING: bool = true;
}

/// Which link an input is played on: its last byte says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Plain,
    Offloads,
    Slots,
}

impl Choice {
    pub fn of(data: &[u8]) -> Self {
        match data.last().map_or(0, |last| last % 4) {
            0 | 1 => Self::Plain,
            2 => Self::Offloads,
            _ => Self::Slots,
        }
    }

    pub fn caps(self) -> Caps {
        if self == Self::Offloads { OFFLOADS } else { PLAIN }
    }
}

/// A frame for the guest as it is once its checksum is filled in.
pub fn completed(mut frame: Vec<u8>, meta: FrameMeta) -> Vec<u8> {
    let Checksum::Partial { start, offset } = meta.checksum else { return frame };
    let (start, field) = (usize::from(start), usize::from(start + offset));
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u64 = frame[start..].chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // In UDP no sum is what looks like one.
    let sum = if sum == 0xffff { 0xffff } else { !(sum as u16) };
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}
