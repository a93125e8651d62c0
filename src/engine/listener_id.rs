//! The name of a listening socket.

/// Names a listening socket for ever. An event that comes after the socket was closed finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// Bits of a slot's number: there are never more than those of all rules of two tables.
const SLOT_BITS: u32 = 24;
const _: () = assert!(2 * crate::flow::fwd::MAX_LISTENING_SOCKETS < 1 << SLOT_BITS);

impl ListenerId {
    /// Bits that [`to_bits`](Self::to_bits) uses at most.
    pub(crate) const BITS: u32 = SLOT_BITS + u32::BITS;

    /// A number of [`BITS`](Self::BITS) bits.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << SLOT_BITS | u64::from(self.slot)
    }

    /// The inverse.
    pub(crate) fn from_bits(bits: u64) -> Self {
        let slot = (bits & ((1 << SLOT_BITS) - 1)) as u32;
        Self { slot, generation: (bits >> SLOT_BITS) as u32 }
    }
}

/// In words, for the log.
impl std::fmt::Display for ListenerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.slot.fmt(f)
    }
}
