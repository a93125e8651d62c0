//! The DHCPv4 and BOOTP answers that there are, by what they answer, and what follows from that alone.

use std::fmt;
use std::net::Ipv4Addr;

/// Message types (option 53).
pub(super) const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
pub(super) const REQUEST: u8 = 3;
pub(super) const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
pub(super) const INFORM: u8 = 8;

/// What an answer is, by what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// OFFER to a DISCOVER.
    Offer,
    /// ACK to a DISCOVER with Rapid Commit.
    AckRapidCommit,
    /// ACK to a REQUEST.
    Ack,
    /// ACK to an INFORM: no address.
    Inform,
    /// NAK to a REQUEST for this address, which is not ours to give.
    Nak(Ipv4Addr),
    /// Answer to a BOOTP request, which has no message type.
    Bootp,
}

/// The line to log.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offer => "DHCP: offer to discover",
            Self::AckRapidCommit => "DHCP: ack to discover (Rapid Commit)",
            Self::Ack => "DHCP: ack to request",
            Self::Inform => "DHCP: ack to inform",
            Self::Bootp => "BOOTP: ack to request",
            Self::Nak(address) => return write!(f, "DHCP: nak to request for {address}"),
        })
    }
}

impl Kind {
    /// The message type of the answer, option 53.
    pub(super) const fn message_type(self) -> u8 {
        match self {
            Self::Offer => OFFER,
            Self::AckRapidCommit | Self::Ack | Self::Inform | Self::Bootp => ACK,
            Self::Nak(_) => NAK,
        }
    }

    /// Whether the client has the address from now on.
    pub(crate) const fn gives(self) -> bool {
        matches!(self, Self::AckRapidCommit | Self::Ack | Self::Bootp)
    }

    /// Whether the client gets the address with it.
    pub(super) const fn assigns(self) -> bool {
        !matches!(self, Self::Inform | Self::Nak(_))
    }

    /// Whether it refuses an address, and says nothing else.
    pub(super) const fn refuses(self) -> bool {
        matches!(self, Self::Nak(_))
    }
}
