//! How many ports of the host the guest has: each port that it talks from by UDP is one, for itself as a rule, until the flow
//! ends. Those that the host's kernel gives to sockets that do not choose (`net.ipv4.ip_local_port_range`) are what all
//! programs of the host send from, so flows of the guest may hold a part of them only ([`GUEST_PORTS_DIVISOR`]); then one of
//! its own gives way to the next, the one that was silent for the longest time first, as where descriptors run out. Other
//! ports are of those who ask for them, and whoever is first has them. TCP is not counted: connections share their ports with
//! all that go elsewhere.
//!
//! Both families are counted together: a socket for both needs a port that is free in both.

use crate::flow::side::{Pif, Side};
use crate::limits::GUEST_PORTS_DIVISOR;
use crate::wire::ip::L4Protocol;

/// Ports that flows of the guest have, of those that are given to sockets that do not choose.
pub(super) struct HostPorts {
    first: u16,
    /// How many flows have each of them. Pages of ports that nobody has had are never touched.
    flows: Vec<u32>,
    /// How many of them some flow has.
    held: usize,
}

impl HostPorts {
    /// None yet of those from the first to the last.
    pub(super) fn new((first, last): (u16, u16)) -> Self {
        Self { first, flows: vec![0; usize::from(last.saturating_sub(first)) + 1], held: 0 }
    }

    /// Where the port of a flow with these sides is counted, if it is one of them.
    fn index(&self, [initiating, target]: &[Side; 2]) -> Option<usize> {
        let is_the_guests = initiating.pif != Pif::Host && target.pif == Pif::Host;
        target.ours.port().checked_sub(self.first).map(usize::from).filter(|_| is_the_guests)
    }

    /// The count of the port that a flow with these sides has.
    fn count(&mut self, sides: &[Side; 2], protocol: L4Protocol) -> Option<&mut u32> {
        let index = self.index(sides).filter(|_| protocol == L4Protocol::Udp)?;
        self.flows.get_mut(index)
    }

    /// Whether the port of a UDP flow with these sides is counted, and no other flow has it.
    pub(super) fn is_alone(&self, sides: &[Side; 2]) -> bool {
        self.index(sides).and_then(|index| self.flows.get(index)) == Some(&1)
    }

    /// A flow begins.
    pub(super) fn begin(&mut self, sides: &[Side; 2], protocol: L4Protocol) {
        let Some(count) = self.count(sides, protocol) else { return };
        *count += 1;
        let is_first = *count == 1;
        self.held += usize::from(is_first);
    }

    /// A flow ends.
    pub(super) fn end(&mut self, sides: &[Side; 2], protocol: L4Protocol) {
        let Some(count) = self.count(sides, protocol) else { return };
        *count -= 1;
        let was_last = *count == 0;
        self.held -= usize::from(was_last);
    }

    /// Whether there are more than there may be.
    pub(super) fn are_too_many(&self) -> bool {
        self.held > (self.flows.len() / GUEST_PORTS_DIVISOR).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::side::Endpoint;
    use std::net::Ipv4Addr;

    #[test]
    fn a_port_counts_once_and_only_if_the_guest_has_begun() {
        let end = |port| Endpoint::new(Ipv4Addr::new(192, 0, 2, 2).into(), port);
        let side = |pif, port| Side { pif, ours: end(port), endpoint: end(9) };
        let by = |pif, port| [side(pif, 7), side(Pif::Host, port)];
        let mut ports = HostPorts::new((100, 103));
        let mut held = |begins: bool, sides: &[Side; 2], protocol| {
            match begins {
                true => ports.begin(sides, protocol),
                false => ports.end(sides, protocol),
            }
            (ports.held, ports.are_too_many())
        };
        let udp = L4Protocol::Udp;
        assert_eq!(held(true, &by(Pif::Tap, 100), udp), (1, false));
        assert_eq!(held(true, &by(Pif::Tap, 100), udp), (1, false), "the same");
        assert_eq!(held(true, &by(Pif::Splice, 103), udp), (2, false));
        for (sides, protocol) in [
            (by(Pif::Tap, 99), udp),
            (by(Pif::Tap, 104), udp),
            (by(Pif::Tap, 101), L4Protocol::Icmp),
            ([side(Pif::Host, 101), side(Pif::Tap, 101)], udp),
            ([side(Pif::Host, 101), side(Pif::Splice, 101)], udp),
        ] {
            assert_eq!(held(true, &sides, protocol), (2, false), "{sides:?}");
        }
        assert_eq!(held(true, &by(Pif::Tap, 102), udp), (3, true));
        assert_eq!(held(false, &by(Pif::Tap, 100), udp), (3, true), "one has it still");
        assert_eq!(held(false, &by(Pif::Tap, 100), udp), (2, false));
    }
}
