//! What single routes and rules say of this host, pure: which addresses are its own, or next to it, without an address of an
//! interface that tells so.
//!
//! # Tables
//! A table counts if packets of the program may be looked up in it: it is `local` or `main`, or a rule leads there that
//! asks neither for a mark nor for another interface that the packet has come from. So one of TPROXY does not count, whose
//! `local default` is for what comes by. Neither does a route of all addresses make all of them anything: something
//! else tells then which are meant.
//!
//! # What no network is
//! A route without a router and for all addresses leads out, by a modem or a tunnel, and so do its halves, by which
//! programs for VPNs win over the host's own, and `2000::/3`, all that is assigned of IPv6. "All but private networks"
//! is a list of some 30 of them; such a list is known by the first that are wider than any network, and no route by the
//! same interface says more than that it leads out.

use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteProtocol, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use crate::flow::fwd::{Places, Prefix, Routed};

/// What a route says, if its table counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    ipv4: bool,
    table: u32,
    /// That leads into a network; 0 for several.
    interface: u32,
    /// It leads to a part of everything, not into a network.
    is_part: bool,
    routed: Routed,
}

impl Candidate {
    /// The table of the route, and whether it is one of IPv4.
    pub(super) fn table(&self) -> (bool, u32) {
        (self.ipv4, self.table)
    }

    /// What `candidates` say, but for those that lead out and nothing else.
    pub(super) fn what_they_say(candidates: &[Self]) -> Vec<Routed> {
        let way = |one: &Self| (one.ipv4, one.interface);
        let leading_out: Vec<_> = candidates.iter().filter(|one| one.is_part).map(way).collect();
        let says =
            |one: &&Self| one.routed.places != Places::PRIVATE || !leading_out.contains(&way(one));
        candidates.iter().filter(says).map(|one| one.routed).collect()
    }
}

/// Where a rule leads that may be about packets of the program, and whether it is of IPv4.
pub(super) fn table_of_rule(rule: &RuleMessage) -> Option<(bool, u32)> {
    let header = &rule.header;
    let ipv4 = is_ipv4(header.family)?;
    let (mut table, mut mark, mut mask) = (header.table.into(), 0, u32::MAX);
    let mut from_elsewhere = false;
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::FwMark(number) => mark = *number,
            RuleAttribute::FwMask(number) => mask = *number,
            RuleAttribute::Iifname(name) => from_elsewhere = name != "lo",
            _ => {}
        }
    }
    // The opposite of what is asked for is that for almost all packets.
    let may_be_ours =
        header.flags.contains(RuleFlags::Invert) || mark & mask == 0 && !from_elsewhere;
    (header.action == RuleAction::ToTable && may_be_ours).then_some((ipv4, table))
}

fn is_ipv4(family: AddressFamily) -> Option<bool> {
    match family {
        AddressFamily::Inet => Some(true),
        AddressFamily::Inet6 => Some(false),
        _ => None,
    }
}

/// What a route may say; `None` for most: those that lead to a router.
pub(super) fn candidate(route: &RouteMessage) -> Option<Candidate> {
    let header = &route.header;
    let ipv4 = is_ipv4(header.address_family)?;
    // What the kernel has learned of the path to a single destination is in its dump, too.
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let places = match header.kind {
        RouteType::Local | RouteType::Anycast => Places::HOST,
        RouteType::Broadcast => Places::MULTICAST,
        RouteType::Unicast if leads_to_link(route) => Places::PRIVATE,
        _ => return None,
    };
    let (mut destination, mut table, mut interface) = (None, header.table.into(), 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => interface = *index,
            _ => {}
        }
    }
    let len = header.destination_prefix_length;
    let is_part = match extent(destination?, len) {
        Extent::Everything => return None,
        Extent::Part => places == Places::PRIVATE && !is_of_network(header.protocol),
        Extent::Network => false,
    };
    let routed = Routed { places, network: Prefix::new(destination?, len)? };
    Some(Candidate { ipv4, table, interface, is_part, routed })
}

/// Whether a route leads to the link of an interface, and not to a router or into a tunnel of its own.
fn leads_to_link(route: &RouteMessage) -> bool {
    let mut to_interface = false;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(_) => to_interface = true,
            RouteAttribute::MultiPath(hops) => return hops.iter().any(is_on_link),
            _ if leads_on(attribute) => return false,
            _ => {}
        }
    }
    to_interface
}

fn is_on_link(hop: &RouteNextHop) -> bool {
    !hop.attributes.iter().any(leads_on)
}

fn leads_on(attribute: &RouteAttribute) -> bool {
    use RouteAttribute::{Encap, EncapType, Gateway, Via};
    matches!(attribute, Gateway(_) | Via(_) | Encap(_) | EncapType(_))
}

/// Whether it may be somebody on the network who has said so: he makes no lists that tell less than others do.
fn is_of_network(protocol: RouteProtocol) -> bool {
    matches!(protocol, RouteProtocol::Kernel | RouteProtocol::Ra)
}

/// How wide a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// Everything, by whatever words; or what the registries tell of, or the address that is inside.
    Everything,
    /// Wider than any network: an operator has one of /8 at most, and of IPv6 much less than a registry.
    Part,
    Network,
}

fn extent(destination: IpAddr, len: u8) -> Extent {
    match destination {
        _ if len <= 1 => Extent::Everything,
        IpAddr::V4(v4) => match v4.octets() {
            [224..=255, ..] if len < 8 => Extent::Everything,
            _ if len < 8 => Extent::Part,
            _ => Extent::Network,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0x2000, ..] if len == 3 => Extent::Everything,
            [0xfc00..=0xffff, ..] if len <= 16 => Extent::Everything,
            // Of IPv4, by a translator on this host (RFC 6052).
            [0x64, 0xff9b, 0, 0, 0, 0, ..] if len == 96 => Extent::Everything,
            _ if len <= 16 => Extent::Part,
            _ => Extent::Network,
        },
    }
}

/// The address of a route, if it is one of IP.
pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}
