//! What an epoll event is about, packed into its 64 bits of data: kind in the top byte.

use rustix::event::epoll::EventFlags;

use super::listener_id::ListenerId;
use crate::flow::table::{FLOW_ID_BITS, FlowId};

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The socket of a flow.
    Flow(FlowId),
    /// The second socket of a flow that has two: the one that we connected.
    SecondSocket(FlowId),
    /// A descriptor of the link.
    Link(u16),
    /// A listening socket.
    Listener(ListenerId),
    /// The socket on which clients of the link connect.
    Clients,
    /// Where those wait who have to.
    Lobby,
    /// A descriptor of something that acts on its own.
    Source(SourceId),
    /// What a guest needs that moves.
    Migration(MigrationPart),
}

/// A descriptor of a [`Source`](super::Source).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId {
    /// Which source of the loop.
    pub(super) index: u16,
    /// Which of its descriptors: 0 for the first, the source's own names for others.
    pub(super) part: u32,
}

impl SourceId {
    fn to_bits(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.part)
    }

    fn from_bits(bits: u64) -> Self {
        Self { index: (bits >> 32) as u16, part: bits as u32 }
    }
}

/// Descriptors of a guest that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MigrationPart {
    /// The socket on which the helper connects.
    Door = 0,
    /// The helper.
    Helper = 1,
    /// The stream of the guest's state.
    Stream = 2,
}

impl MigrationPart {
    const ALL: [Self; 3] = [Self::Door, Self::Helper, Self::Stream];
}

const KIND_SHIFT: u32 = 56;
const FLOW: u64 = 0;
const LINK: u64 = 1;
const LISTENER: u64 = 2;
const CLIENTS: u64 = 3;
const SECOND_SOCKET: u64 = 4;
const SOURCE: u64 = 5;
const MIGRATION: u64 = 6;
const LOBBY: u64 = 7;

/// Base of the tokens that a link's [`Registrar`](passt_frame::Registrar) reports.
pub const LINK_BASE: u64 = LINK << KIND_SHIFT;

const _: () = assert!(FLOW_ID_BITS <= KIND_SHIFT && ListenerId::BITS <= KIND_SHIFT);

impl Token {
    /// The data of an event.
    pub fn to_bits(self) -> u64 {
        match self {
            Self::Flow(id) => FLOW << KIND_SHIFT | id.to_bits(),
            Self::SecondSocket(id) => SECOND_SOCKET << KIND_SHIFT | id.to_bits(),
            Self::Link(token) => LINK_BASE | u64::from(token),
            Self::Listener(id) => LISTENER << KIND_SHIFT | id.to_bits(),
            Self::Clients => CLIENTS << KIND_SHIFT,
            Self::Lobby => LOBBY << KIND_SHIFT,
            Self::Source(id) => SOURCE << KIND_SHIFT | id.to_bits(),
            Self::Migration(part) => MIGRATION << KIND_SHIFT | part as u64,
        }
    }

    /// The inverse; `None` for bits that this program never registers.
    pub fn from_bits(bits: u64) -> Option<Self> {
        let value = bits & ((1 << KIND_SHIFT) - 1);
        match bits >> KIND_SHIFT {
            FLOW => Some(Self::Flow(FlowId::from_bits(value))),
            SECOND_SOCKET => Some(Self::SecondSocket(FlowId::from_bits(value))),
            LINK => Some(Self::Link(value as u16)),
            LISTENER => Some(Self::Listener(ListenerId::from_bits(value))),
            CLIENTS => Some(Self::Clients),
            LOBBY => Some(Self::Lobby),
            SOURCE => Some(Self::Source(SourceId::from_bits(value))),
            MIGRATION => {
                let part = MigrationPart::ALL.into_iter().find(|part| *part as u64 == value)?;
                Some(Self::Migration(part))
            }
            _ => None,
        }
    }
}

/// In words, for the log.
impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flow(id) => write!(f, "{id:?}"),
            Self::SecondSocket(id) => write!(f, "{id:?}, second socket"),
            Self::Link(token) => write!(f, "link, descriptor {token:#x}"),
            Self::Listener(id) => write!(f, "listening socket {id}"),
            Self::Clients => f.write_str("clients' socket"),
            Self::Lobby => f.write_str("lobby"),
            Self::Source(id) if id.part == 0 => write!(f, "source {}", id.index),
            Self::Source(id) => write!(f, "source {}, descriptor {}", id.index, id.part),
            Self::Migration(MigrationPart::Door) => f.write_str("TCP_REPAIR helper's socket"),
            Self::Migration(MigrationPart::Helper) => f.write_str("TCP_REPAIR helper"),
            Self::Migration(MigrationPart::Stream) => f.write_str("device state"),
        }
    }
}

/// What epoll(7) reports, in words, for the log.
pub(crate) struct Reported(pub(crate) EventFlags);

impl std::fmt::Display for Reported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [
            (EventFlags::IN, "readable"),
            (EventFlags::PRI, "urgent"),
            (EventFlags::OUT, "writable"),
            (EventFlags::RDHUP, "ended by its peer"),
            (EventFlags::HUP, "hung up"),
            (EventFlags::ERR, "error"),
        ];
        let reported = words.into_iter().filter(|(flag, _)| self.0.contains(*flag));
        for (count, (_, word)) in reported.enumerate() {
            write!(f, "{}{word}", if count == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_way_through_epoll() {
        let tokens = [
            Token::Flow(FlowId::from_bits(0x1234_5678_9abc)),
            Token::SecondSocket(FlowId::from_bits(0x1234_5678_9abc)),
            Token::Link(0xffff),
            Token::Listener(ListenerId::from_bits(0x00de_adbe_ef00_0070)),
            Token::Clients,
            Token::Lobby,
            Token::Source(SourceId { index: 3, part: 0 }),
            Token::Source(SourceId { index: u16::MAX, part: u32::MAX }),
            Token::Migration(MigrationPart::Helper),
        ];
        for token in tokens {
            assert_eq!(Token::from_bits(token.to_bits()), Some(token));
        }
        assert_eq!(Token::from_bits(u64::MAX), None);
    }

    #[test]
    fn events_are_told_in_words() {
        let source = |part| Token::Source(SourceId { index: 7, part });
        let words = format!("{}: {}", source(0), Reported(EventFlags::IN | EventFlags::HUP));
        assert_eq!(words, "source 7: readable, hung up");
        assert_eq!(source(2).to_string(), "source 7, descriptor 2");
        let flow = Token::SecondSocket(FlowId::from_bits(5));
        assert_eq!(format!("{flow}{}", Reported(EventFlags::empty())), "Flow 5, second socket");
    }
}
