//! TCP segments as the header has them (RFC 9293, section 3.1). Plain data.

use std::ops::BitOr;

use super::SeqNr;

/// Bytes of a header without options.
pub(crate) const HEADER_BYTES: u32 = 20;

/// Control bits of a segment, as they stand in byte 13 of the header.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement field is significant.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is significant; ignored here.
    pub const URG: Self = Self(0x20);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (bit, name) in "FSRPAU".chars().enumerate() {
            let name = if self.0 & (1 << bit) == 0 { '.' } else { name };
            write!(f, "{name}")?;
        }
        Ok(())
    }
}

/// A segment from the guest, parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number of the first byte, or of the SYN.
    pub seq: SeqNr,
    /// Acknowledgement number; meaningless unless `flags` has ACK.
    pub ack: SeqNr,
    /// Control bits.
    pub flags: Flags,
    /// The window field as it is on the wire, not scaled.
    pub window: u16,
    /// Payload, in bytes.
    pub payload_len: u32,
    /// The maximum segment size option.
    pub mss: Option<u16>,
    /// The window scale option.
    pub window_scale: Option<u8>,
}

impl Segment {
    /// Whether all bits of `flags` are set.
    pub(crate) const fn has(&self, flags: Flags) -> bool {
        self.flags.contains(flags)
    }

    /// Length in sequence space: payload, plus one each for SYN and FIN.
    pub(crate) fn sequence_len(&self) -> u32 {
        let control = u32::from(self.has(Flags::SYN)) + u32::from(self.has(Flags::FIN));
        self.payload_len.saturating_add(control)
    }
}

/// Header fields of a segment to the guest. Addresses and ports are the flow's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Sequence number.
    pub seq: SeqNr,
    /// Acknowledgement number; 0 without ACK.
    pub ack: SeqNr,
    /// Control bits.
    pub flags: Flags,
    /// The window field, scaled already.
    pub window: u16,
    /// The maximum segment size option, on SYN and SYN-ACK only.
    pub mss: Option<u16>,
    /// The window scale option, on SYN, and on SYN-ACK if the guest offered it.
    pub window_scale: Option<u8>,
}
