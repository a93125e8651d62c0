//! What happens that somebody may want to follow as it happens: the link comes and goes, the guest gets an address,
//! rules change, the host changes, a flow is refused. Whoever makes such a thing happen notes it here
//! ([`Events::note`]), and readers take it from here, each at its own pace.
//!
//! Without readers nothing is kept. With them, the last [`EVENTS_KEPT`] are: the memory is reserved when the first
//! reader comes, and one who is slower than events come is told how many it has missed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use crate::flow::fwd::Proto;
use crate::limits::EVENTS_KEPT;
use crate::time::Timestamp;
use crate::wire::{DropReason, Mac};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Frames reach the guest from now on.
    LinkUp,
    /// They do not any more, or nobody is at the other end.
    LinkDown,
    /// The guest was given an address.
    Lease {
        /// By which protocol: `dhcp` or `dhcpv6`.
        protocol: &'static str,
        /// The address.
        address: IpAddr,
        /// The Ethernet address of who asked.
        station: Mac,
    },
    /// Other forwarding rules are in force.
    Rules {
        /// How many are new.
        added: usize,
        /// How many are gone.
        removed: usize,
    },
    /// Another egress policy is in force, of so many rules.
    Egress {
        /// Its rules.
        rules: usize,
    },
    /// The host's network has changed; in words, what and to what.
    Host(String),
    /// A flow was refused that somebody wanted to begin.
    Refused {
        /// Why.
        reason: DropReason,
        /// The flow, if it is known so early: where it came from, and whom it was for.
        flow: Option<(Proto, SocketAddr, SocketAddr)>,
        /// Place of the egress rule that has decided, from 0 on.
        rule: Option<usize>,
    },
}

impl Event {
    /// The event's name for those who want to hear of some only.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::LinkUp => "link-up",
            Self::LinkDown => "link-down",
            Self::Lease { .. } => "lease",
            Self::Rules { .. } => "rules",
            Self::Egress { .. } => "egress",
            Self::Host(_) => "host",
            Self::Refused { .. } => "refused",
        }
    }

    /// All names.
    pub(crate) const NAMES: [&'static str; 7] =
        ["link-up", "link-down", "lease", "rules", "egress", "host", "refused"];
}

/// An event that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Events that somebody could follow are numbered.
    pub(crate) number: u64,
    /// When it happened.
    pub(crate) at: Timestamp,
    /// What.
    pub(crate) event: Event,
}

/// The last events.
#[derive(Default)]
struct Ring {
    kept: VecDeque<Kept>,
    /// The number of the next one.
    next: u64,
    readers: usize,
}

/// Where events are noted and read.
#[derive(Default)]
pub(crate) struct Events(RefCell<Ring>);

impl Events {
    /// Something happened at `at`.
    pub(crate) fn note(&self, at: Timestamp, event: Event) {
        let ring = &mut *self.0.borrow_mut();
        if ring.readers == 0 {
            return;
        }
        if ring.kept.len() >= EVENTS_KEPT {
            ring.kept.pop_front();
        }
        ring.kept.push_back(Kept { number: ring.next, at, event });
        ring.next += 1;
    }

    /// Whether somebody reads: what is laborious to describe need not be otherwise.
    pub(crate) fn has_readers(&self) -> bool {
        self.0.borrow().readers > 0
    }

    /// Another reader; returns the number of the first event that it can read.
    pub(crate) fn join(&self) -> u64 {
        let ring = &mut *self.0.borrow_mut();
        ring.readers += 1;
        ring.kept.reserve(EVENTS_KEPT - ring.kept.len().min(EVENTS_KEPT));
        ring.next
    }

    /// A reader has left.
    pub(crate) fn leave(&self) {
        let ring = &mut *self.0.borrow_mut();
        ring.readers = ring.readers.saturating_sub(1);
        if ring.readers == 0 {
            ring.kept = VecDeque::new();
        }
    }

    /// The first event from number `from` on that is still there. What is missing before it was lost.
    pub(crate) fn read(&self, from: u64) -> Option<Kept> {
        let ring = self.0.borrow();
        let first = ring.next - ring.kept.len() as u64;
        let place = usize::try_from(from.saturating_sub(first)).ok()?;
        ring.kept.get(place).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn nothing_is_kept_without_readers() {
        let events = Events::default();
        events.note(at(1), Event::LinkUp);
        let from = events.join();
        assert_eq!(events.read(from), None);
        events.note(at(2), Event::LinkDown);
        let kept = events.read(from).unwrap();
        assert_eq!((kept.number, kept.at, kept.event), (from, at(2), Event::LinkDown));
        assert_eq!(events.read(from + 1), None);
        events.leave();
        assert!(!events.has_readers());
        events.note(at(3), Event::LinkUp);
        assert_eq!(events.read(from), None, "forgotten with the last reader");
    }

    #[test]
    fn a_slow_reader_sees_what_it_has_missed_by_the_numbers() {
        let events = Events::default();
        let from = events.join();
        for count in 0..EVENTS_KEPT + 5 {
            events.note(at(1), Event::Egress { rules: count });
        }
        let kept = events.read(from).unwrap();
        assert_eq!((kept.number, kept.event), (from + 5, Event::Egress { rules: 5 }));
        let last = from + EVENTS_KEPT as u64 + 4;
        assert_eq!(events.read(last).map(|kept| kept.number), Some(last));
        assert_eq!(events.read(last + 1), None);
    }

    #[test]
    fn each_event_has_a_name_that_is_listed() {
        let station = Mac::default();
        let address = "192.0.2.2".parse().unwrap();
        let all = [
            Event::LinkUp,
            Event::LinkDown,
            Event::Lease { protocol: "dhcp", address, station },
            Event::Rules { added: 1, removed: 0 },
            Event::Egress { rules: 1 },
            Event::Host(String::new()),
            Event::Refused { reason: DropReason::NoRoute, flow: None, rule: None },
        ];
        assert_eq!(all.map(|event| event.name()), Event::NAMES);
    }
}
