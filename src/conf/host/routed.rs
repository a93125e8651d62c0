//! What single routes and rules say of this host, pure: which addresses are its own, or next to it, without an address of an
//! interface that tells so.
//!
//! # Tables
//! A table counts if packets of the program may be looked up in it: it is `local` or `main`, or a rule leads there that
//! asks neither for a mark nor for another interface that the packet has come from. So one of TPROXY does not count, whose
//! `local default` is for what comes by. Neither does a route of all addresses make all of them anything: something
//! else tells then which are meant.
//!
//! # What is next to it
//! A network that a link leads to without a router is next to this host if there are neighbours on that link. A tunnel, a
//! modem or a line to one other host has none: all that is by it is somewhere else, and a route without a router says
//! nothing (`AllowedIPs` of WireGuard, networks of Tailscale, of ppp, of mobile modems).
//!
//! A route for all addresses leads out on any link, and so do its halves, by which programs for VPNs win over the host's
//! own, `2000::/3`, all that is assigned of IPv6, and whatever is wider than any network.

use std::collections::HashSet;
use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use crate::flow::fwd::{Places, Prefix, Routed};

/// What a route says, if its table counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    ipv4: bool,
    table: u32,
    pub(super) routed: Routed,
}

impl Candidate {
    /// The table of the route, and whether it is one of IPv4.
    pub(super) fn table(&self) -> (bool, u32) {
        (self.ipv4, self.table)
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

/// Whether an interface has neighbours, whom it finds by their addresses.
pub(super) fn has_neighbours(link: &LinkMessage) -> bool {
    !link.header.flags.intersects(LinkFlags::Noarp | LinkFlags::Pointopoint)
}

/// What a route may say; `None` for most: those that lead to a router, or by one of the interfaces that are `alone`,
/// without neighbours.
pub(super) fn candidate(route: &RouteMessage, alone: &HashSet<u32>) -> Option<Candidate> {
    let header = &route.header;
    let ipv4 = is_ipv4(header.address_family)?;
    // What the kernel has learned of the path to a single destination is in its dump, too.
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let places = match header.kind {
        RouteType::Local | RouteType::Anycast => Places::HOST,
        RouteType::Broadcast => Places::MULTICAST,
        RouteType::Unicast if leads_to_neighbours(route, alone) => Places::PRIVATE,
        _ => return None,
    };
    let (mut destination, mut table) = (None, header.table.into());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    let (destination, len) = (destination?, header.destination_prefix_length);
    if is_everything(destination, len) || places == Places::PRIVATE && is_too_wide(destination, len)
    {
        return None;
    }
    let routed = Routed { places, network: Prefix::new(destination, len)? };
    Some(Candidate { ipv4, table, routed })
}

/// Whether a route leads to the neighbours on a link, and not to a router or into a tunnel of its own.
fn leads_to_neighbours(route: &RouteMessage, alone: &HashSet<u32>) -> bool {
    let mut interface = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::MultiPath(hops) => return hops.iter().any(|hop| is_near(hop, alone)),
            _ if leads_on(attribute) => return false,
            _ => {}
        }
    }
    interface.is_some_and(|index| !alone.contains(&index))
}

fn is_near(hop: &RouteNextHop, alone: &HashSet<u32>) -> bool {
    !alone.contains(&hop.interface_index) && !hop.attributes.iter().any(leads_on)
}

fn leads_on(attribute: &RouteAttribute) -> bool {
    use RouteAttribute::{Encap, EncapType, Gateway, Via};
    matches!(attribute, Gateway(_) | Via(_) | Encap(_) | EncapType(_))
}

/// Whether a destination is everything, by whatever words, or what registries tell by the address that is inside.
fn is_everything(destination: IpAddr, len: u8) -> bool {
    match destination {
        _ if len <= 1 => true,
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => match v6.segments() {
            [0x2000, ..] => len == 3,
            // Of IPv4, by a translator on this host (RFC 6052).
            [0x64, 0xff9b, 0, 0, 0, 0, ..] => len == 96,
            _ => false,
        },
    }
}

/// Whether a destination is wider than any network: an operator has one of /8 at most, and of IPv6 much less than a
/// registry.
fn is_too_wide(destination: IpAddr, len: u8) -> bool {
    len < if destination.is_ipv4() { 8 } else { 17 }
}

/// The address of a route, if it is one of IP.
pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_and_lines_have_no_neighbours() {
        for (flags, expected) in [
            (LinkFlags::Up | LinkFlags::Broadcast | LinkFlags::Multicast, true),
            (LinkFlags::Up | LinkFlags::Loopback, true),
            (LinkFlags::Up | LinkFlags::Noarp, false),
            (LinkFlags::Up | LinkFlags::Pointopoint | LinkFlags::Multicast, false),
            (LinkFlags::Pointopoint | LinkFlags::Noarp, false),
        ] {
            let mut link = LinkMessage::default();
            link.header.flags = flags;
            assert_eq!(has_neighbours(&link), expected, "{flags:?}");
        }
    }

    #[test]
    fn all_of_a_family_is_no_network_and_more_than_one_is_none_of_neighbours() {
        let wide = |text: &str, len| {
            let destination = text.parse().unwrap();
            (is_everything(destination, len), is_too_wide(destination, len))
        };
        for (destination, len, expected) in [
            ("0.0.0.0", 1, (true, true)),
            ("128.0.0.0", 1, (true, true)),
            ("198.0.0.0", 7, (false, true)),
            ("198.0.0.0", 8, (false, false)),
            ("8000::", 1, (true, true)),
            ("2000::", 3, (true, true)),
            ("2000::", 16, (false, true)),
            ("2001:db8::", 17, (false, false)),
            ("64:ff9b::", 96, (true, false)),
            ("64:ff9b::", 97, (false, false)),
        ] {
            assert_eq!(wide(destination, len), expected, "{destination}/{len}");
        }
    }
}
