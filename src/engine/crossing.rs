//! No answer goes to another peer. Two flows must not look alike on either side: not to the guest, which
//! would answer both with one, and not to the kernel, which would give the answers for both to one of two
//! sockets with the same addresses and ports.
//!
//! * Peers look alike to the guest where one address stands for several: 127.0.0.1:5000 and 127.0.0.2:5000
//!   are both the gateway's port 5000, and so is whoever sends from one port to two addresses of the host,
//!   or to two ports that lead to one of the guest. The first keeps its port, the next ones get others, as a
//!   NAT does (RFC 4787, section 4.2.2); see [`Flows::told_apart`]. A connection that is over for its peer
//!   keeps no port: `tcp::drive` ends it when another one wants it, unless it still has bytes for the guest.
//! * Link-local peers of two links may have the same address. Who comes second is refused.
//! * Flows look alike to the kernel where the guest has several addresses, or several stand for one host.
//!   There, too, the first keeps its port and the kernel chooses those of the others, which nobody else may
//!   bind to; see [`Flows::find_alike`].

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use super::flows::Flows;
use crate::flow::side::{Endpoint, Side};
use crate::flow::table::FlowId;
use crate::limits::STAND_IN_PORTS_TRIED;
use crate::sys::socket;
use crate::wire::DropReason;
use crate::wire::ip::L4Protocol;

impl Flows {
    /// The sides of a new flow that the host's network begins, with another source port if the guest's side
    /// is one that a flow has already.
    ///
    /// # Errors
    /// That no port was found which tells the peers apart.
    pub(crate) fn told_apart(
        &self,
        protocol: L4Protocol,
        sides: [Side; 2],
    ) -> Result<[Side; 2], DropReason> {
        let [host, guest] = sides;
        let is_free = |side: &Side| self.find(protocol, side).is_none();
        if is_free(&guest) {
            return Ok(sides);
        }
        let start = self.index.hash(sides);
        let with_port = |port| Side { ours: Endpoint::new(guest.ours.ip(), port), ..guest };
        let mut others = stand_ins(guest.ours.port(), start).map(with_port);
        let other = others.find(is_free).ok_or(DropReason::AmbiguousPeer)?;
        let (peer, known, port) =
            (host.endpoint.with_scope(0), guest.ours.with_scope(0), other.ours.port());
        log::debug!("{peer} has port {port} to the guest, which knows another peer as {known}");
        Ok([host, other])
    }

    /// The UDP flow with a socket that the kernel cannot tell from one with the addresses of `side`.
    pub(crate) fn find_alike(&self, side: &Side) -> Option<FlowId> {
        self.find_by(L4Protocol::Udp, side, |other| is_alike(side, other))
    }

    /// The flow of what `peer` has sent to a listening socket, by the side that this is, if there is one.
    ///
    /// # Errors
    /// That it would be the flow of another peer.
    pub(crate) fn flow_of_peer(
        &self,
        side: &Side,
        peer: SocketAddr,
    ) -> Result<Option<FlowId>, DropReason> {
        match self.find_alike(side) {
            Some(id) if !is_with(self, id, peer) => Err(DropReason::AmbiguousPeer),
            found => Ok(found),
        }
    }
}

/// Whether the flow `id`, which has the addresses of `peer`, is the one with that peer: link-local addresses
/// are the same on every link, and a side does not tell links apart. Its socket does.
fn is_with(flows: &Flows, id: FlowId, peer: SocketAddr) -> bool {
    let SocketAddr::V6(v6) = peer else { return true };
    if !v6.ip().is_unicast_link_local() {
        return true;
    }
    let flow = flows.table.get(id);
    let connected = flow.and_then(|flow| socket::peer_address(flow.state.fd()).ok());
    matches!(connected, Some(SocketAddr::V6(other)) if other.scope_id() == v6.scope_id())
}

/// Ports that may stand in for `port`, from one that depends on `start` on. Privileged ports stay
/// privileged: servers trust them.
fn stand_ins(port: u16, start: u64) -> impl Iterator<Item = u16> {
    let class: RangeInclusive<u16> = if port < 1024 { 512..=1023 } else { 49152..=65535 };
    let first = start as usize % class.len();
    class.clone().cycle().skip(first).take(class.len().min(STAND_IN_PORTS_TRIED))
}

/// Whether sockets with these sides get the same datagrams.
fn is_alike(a: &Side, b: &Side) -> bool {
    let (ours, other) = (a.ours.ip(), b.ours.ip());
    a.pif == b.pif
        && a.endpoint == b.endpoint
        && a.ours.port() == b.ours.port()
        && (ours == other || is_any_for(ours, other) || is_any_for(other, ours))
}

/// Whether a socket that is bound to `any` gets what is sent to `address` of this host. To a group it does not: one that is
/// connected has an address of one host from then on, and others are members of none (`own_groups_only`).
fn is_any_for(any: IpAddr, address: IpAddr) -> bool {
    any.is_unspecified() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::side::Pif;

    #[test]
    fn stand_ins_are_of_the_port_s_class_and_no_two_are_the_same() {
        for (port, start, class) in [(700, 3, 512..=1023), (5000, u64::MAX, 49152..=65535)] {
            let mut ports: Vec<u16> = stand_ins(port, start).collect();
            assert!(ports.iter().all(|port| class.contains(port)));
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), STAND_IN_PORTS_TRIED);
        }
    }

    #[test]
    fn an_unspecified_address_is_alike_to_any() {
        let side = |pif, ours: &str, endpoint: &str| {
            let parse = |text: &str| text.parse::<SocketAddr>().expect("an address").into();
            Side { pif, ours: parse(ours), endpoint: parse(endpoint) }
        };
        let one = side(Pif::Host, "192.0.2.1:5", "198.51.100.1:6");
        for (ours, endpoint, alike) in [
            ("192.0.2.1:5", "198.51.100.1:6", true),
            ("0.0.0.0:5", "198.51.100.1:6", true),
            ("192.0.2.2:5", "198.51.100.1:6", false),
            ("0.0.0.0:4", "198.51.100.1:6", false),
            ("0.0.0.0:5", "198.51.100.1:7", false),
            ("0.0.0.0:5", "198.51.100.2:6", false),
        ] {
            let other = side(Pif::Host, ours, endpoint);
            assert_eq!((is_alike(&one, &other), is_alike(&other, &one)), (alike, alike), "{ours}");
            assert!(!is_alike(&one, &Side { pif: Pif::Splice, ..other }));
        }
    }

    #[test]
    fn an_unspecified_address_is_no_group() {
        let side = |ours: &str, endpoint: &str| {
            let parse = |text: &str| text.parse::<SocketAddr>().expect("an address").into();
            Side { pif: Pif::Host, ours: parse(ours), endpoint: parse(endpoint) }
        };
        for (any, group, peer) in [
            ("0.0.0.0:5", "239.1.1.1:5", "198.51.100.1:6"),
            ("[::]:5", "[ff02::1234]:5", "[2001:db8::1]:6"),
        ] {
            let (any, group) = (side(any, peer), side(group, peer));
            assert!(!is_alike(&any, &group) && !is_alike(&group, &any));
            assert!(is_alike(&group, &group));
        }
    }
}
