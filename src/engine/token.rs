//! What an epoll event is about, packed into its 64 bits of data: kind in the top byte.

use rustix::event::epoll::EventFlags;

use crate::flow::table::{FLOW_ID_BITS, FlowId};

/// The source of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The socket of a flow.
    Flow(FlowId),
    /// The second socket of a spliced flow: the one that we connected.
    Target(FlowId),
    /// A descriptor of the link.
    Link(u16),
    /// A listening socket, by index.
    Listener(u32),
    /// The socket on which clients of the link connect.
    Clients,
    /// News about neighbours.
    Neighbours,
    /// The signal descriptor.
    Signals,
    /// A descriptor that may end the loop, by index.
    Watch(u32),
}

const KIND_SHIFT: u32 = 56;
const FLOW: u64 = 0;
const LINK: u64 = 1;
const LISTENER: u64 = 2;
const CLIENTS: u64 = 3;
const SIGNALS: u64 = 4;
const TARGET: u64 = 5;
const NEIGHBOURS: u64 = 6;
const WATCH: u64 = 7;

/// Base of the tokens that a link's [`Registrar`](passt_frame::Registrar) reports.
pub const LINK_BASE: u64 = LINK << KIND_SHIFT;

const _: () = assert!(FLOW_ID_BITS <= KIND_SHIFT);

impl Token {
    /// The data of an event.
    pub fn to_bits(self) -> u64 {
        match self {
            Self::Flow(id) => FLOW << KIND_SHIFT | id.to_bits(),
            Self::Target(id) => TARGET << KIND_SHIFT | id.to_bits(),
            Self::Link(token) => LINK_BASE | u64::from(token),
            Self::Listener(index) => LISTENER << KIND_SHIFT | u64::from(index),
            Self::Clients => CLIENTS << KIND_SHIFT,
            Self::Neighbours => NEIGHBOURS << KIND_SHIFT,
            Self::Signals => SIGNALS << KIND_SHIFT,
            Self::Watch(index) => WATCH << KIND_SHIFT | u64::from(index),
        }
    }

    /// The inverse; `None` for bits that this program never registers.
    pub fn from_bits(bits: u64) -> Option<Self> {
        let value = bits & ((1 << KIND_SHIFT) - 1);
        match bits >> KIND_SHIFT {
            FLOW => Some(Self::Flow(FlowId::from_bits(value))),
            TARGET => Some(Self::Target(FlowId::from_bits(value))),
            LINK => Some(Self::Link(value as u16)),
            LISTENER => Some(Self::Listener(value as u32)),
            CLIENTS => Some(Self::Clients),
            NEIGHBOURS => Some(Self::Neighbours),
            SIGNALS => Some(Self::Signals),
            WATCH => Some(Self::Watch(value as u32)),
            _ => None,
        }
    }
}

/// In words, for the log.
impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flow(id) => write!(f, "{id:?}"),
            Self::Target(id) => write!(f, "{id:?}, second socket"),
            Self::Link(token) => write!(f, "link, descriptor {token:#x}"),
            Self::Listener(index) => write!(f, "listening socket {index}"),
            Self::Clients => f.write_str("clients' socket"),
            Self::Neighbours => f.write_str("neighbours"),
            Self::Signals => f.write_str("signals"),
            Self::Watch(index) => write!(f, "watch {index}"),
        }
    }
}

/// What epoll(7) reports, in words, for the log.
pub struct Reported(pub EventFlags);

impl std::fmt::Display for Reported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [
            (EventFlags::IN, "readable"),
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
            Token::Target(FlowId::from_bits(0x1234_5678_9abc)),
            Token::Link(0xffff),
            Token::Listener(70_000),
            Token::Clients,
            Token::Neighbours,
            Token::Signals,
            Token::Watch(3),
        ];
        for token in tokens {
            assert_eq!(Token::from_bits(token.to_bits()), Some(token));
        }
        assert_eq!(Token::from_bits(u64::MAX), None);
    }

    #[test]
    fn events_are_told_in_words() {
        let words =
            format!("{}: {}", Token::Listener(7), Reported(EventFlags::IN | EventFlags::HUP));
        assert_eq!(words, "listening socket 7: readable, hung up");
        let flow = Token::Target(FlowId::from_bits(5));
        assert_eq!(format!("{flow}{}", Reported(EventFlags::empty())), "Flow 5, second socket");
    }
}
