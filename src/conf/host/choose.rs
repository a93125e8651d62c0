//! The choice of the template interface, its addresses and its gateway, for either family.
//!
//! - Interface: the operator's; else that of the first default route; else the one that had a default route when the host
//!   was looked at before, as long as it has the address that it had; else that of the first route to somewhere else;
//!   else the one of before, or that of the first network on a link, which leads nowhere else. Loopback and link-local
//!   destinations do not count.
//! - Gateway: that of the first default route through the interface, if it is of the family. It need not have any, as
//!   with ppp, or may lead over a neighbour of the other family. Among the next hops of a multipath route, the one with the highest weight, and among equals the first listed - the one
//!   that is documented and that `ip route` shows on top.
//! - Address: the one with the longest prefix, and among equals the first; but what was chosen before is chosen again
//!   for as long as it is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::netlink::{Address, Dump, Hop, Route};
use crate::conf::Note;
use crate::flow::fwd::InterfaceName;

/// Index of the loopback interface, the same in every network namespace.
const LOOPBACK: u32 = 1;

/// An interface of the host that is the model of the guest's, as far as one family goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template<A> {
    /// Its name.
    pub name: InterfaceName,
    /// Its index.
    pub index: u32,
    /// Its address and prefix length, if it has one that is valid beyond the link.
    pub address: Option<(A, u8)>,
    /// Its link-local address, if it has one and the family knows such.
    pub link_local: Option<A>,
    /// There is a default route through it, or no default route in the main table but one that rules choose.
    pub default_route: bool,
    /// The gateway of that, if it has one of the family.
    pub gateway: Option<A>,
}

/// What differs between the families.
pub(super) trait Family: Copy + PartialEq {
    const NAME: &'static str;
    /// Prefix length of link-local destinations.
    const LINK_LOCAL_PREFIX: u8;
    /// Addresses of link scope are another kind, not a choice like any other.
    const LINK_LOCAL_APART: bool;
    fn of(address: IpAddr) -> Option<Self>;
    fn is_link_local(self) -> bool;
}

impl Family for Ipv4Addr {
    const NAME: &'static str = "IPv4";
    const LINK_LOCAL_PREFIX: u8 = 16;
    const LINK_LOCAL_APART: bool = false;

    fn of(address: IpAddr) -> Option<Self> {
        if let IpAddr::V4(v4) = address { Some(v4) } else { None }
    }

    fn is_link_local(self) -> bool {
        Self::is_link_local(&self)
    }
}

impl Family for Ipv6Addr {
    const NAME: &'static str = "IPv6";
    const LINK_LOCAL_PREFIX: u8 = 10;
    const LINK_LOCAL_APART: bool = true;

    fn of(address: IpAddr) -> Option<Self> {
        if let IpAddr::V6(v6) = address { Some(v6) } else { None }
    }

    fn is_link_local(self) -> bool {
        self.is_unicast_link_local()
    }
}

/// The template of family `A`: the interface `wish`, or the one that routes point at.
pub(super) fn template<A: Family>(
    dump: &Dump,
    wish: Option<InterfaceName>,
    before: Option<&Template<A>>,
    notes: &mut Vec<Note>,
) -> Option<Template<A>> {
    let v4 = A::of(Ipv4Addr::UNSPECIFIED.into()).is_some();
    let routes: Vec<&Route> = dump.routes.iter().filter(|route| route.ipv4 == v4).collect();
    let index = match wish {
        Some(name) => index_of(&dump.links, &name),
        None => {
            let before = before.filter(|before| is_there(dump, before));
            detect(&routes, &near::<A>(dump), before, notes)
        }
    }?;
    let (name, _) = dump.links.iter().find(|(_, other)| *other == index)?;
    let here = || dump.addresses.iter().filter(|a| a.interface == index);
    let address = here().filter(|a| a.wide || !A::LINK_LOCAL_APART);
    let link_local = here().filter(|a| A::LINK_LOCAL_APART && is_link_local::<A>(a.address));
    let default = default_hop(&routes, index);
    let before = before.and_then(|template| template.address).map(|(address, _)| address);
    let same = address.clone().filter(|a| before.is_some() && A::of(a.address) == before);
    Some(Template {
        name: *name,
        index,
        address: longest_prefix::<A>(same).or_else(|| longest_prefix::<A>(address)),
        link_local: longest_prefix::<A>(link_local).map(|(address, _)| address),
        default_route: default.is_some(),
        gateway: default.and_then(|hop| hop.gateway).and_then(A::of),
    })
}

/// Has the template lead everywhere where the main table has no default route, and something else leads there: rules
/// choose another table for it. Its gateway, if any, may be another one for each destination: the one of before stays.
pub(super) fn lead_by_rules<A: Family>(
    dump: &Dump,
    template: Option<&mut Template<A>>,
    before: Option<&Template<A>>,
) {
    let v4 = A::of(Ipv4Addr::UNSPECIFIED.into()).is_some();
    let in_main = dump.routes.iter().any(|route| route.ipv4 == v4 && route.prefix_len == 0);
    let Some(template) = template.filter(|_| !in_main) else { return };
    template.default_route = true;
    let same = |before: &&Template<A>| {
        (before.index, before.address) == (template.index, template.address)
    };
    template.gateway = before.filter(same).and_then(|before| before.gateway);
}

/// The template from now on. One without an address does not take the place of one that has, and where the way out
/// is lost and nothing else, the gateway is still known by its address.
pub(super) fn keep<A: Copy + PartialEq>(
    now: Option<Template<A>>,
    before: Option<&Template<A>>,
) -> Option<Template<A>> {
    let Some(before) = before else { return now };
    match now {
        None => Some(before.clone()),
        Some(now) if now.address.is_none() && before.address.is_some() => Some(before.clone()),
        Some(now)
            if !now.default_route && (now.index, now.address) == (before.index, before.address) =>
        {
            let (default_route, gateway) = (before.default_route, before.gateway);
            Some(Template { default_route, gateway, ..now })
        }
        Some(now) => Some(now),
    }
}

/// Whether the interface that was the template is there with its address.
fn is_there<A: Family>(dump: &Dump, template: &Template<A>) -> bool {
    let Some((address, _)) = template.address else { return false };
    let has_it = |a: &Address| a.interface == template.index && A::of(a.address) == Some(address);
    dump.links.contains(&(template.name, template.index)) && dump.addresses.iter().any(has_it)
}

/// The interfaces of networks on links, as far as they are not among the routes. One other host is no network; and where
/// rules lead elsewhere by another table, local mode leads there, too, with its default route.
fn near<A: Family>(dump: &Dump) -> Vec<u32> {
    let usable = dump.on_link_v4.iter().filter(|(interface, network, len)| {
        let link_local = network.is_link_local() && *len >= Ipv4Addr::LINK_LOCAL_PREFIX;
        let is_network = *len < 32 && !link_local && *interface != LOOPBACK;
        A::of((*network).into()).is_some() && is_network && !dump.elsewhere_v4
    });
    usable.map(|(interface, _, _)| *interface).collect()
}

/// The interface of the first default route; else the one that was the template `before` and is there, if it had one; else
/// that of the first route; else the one of before or the first that is `near`.
fn detect<A: Family>(
    routes: &[&Route],
    near: &[u32],
    before: Option<&Template<A>>,
    notes: &mut Vec<Note>,
) -> Option<u32> {
    let usable = |route: &&&Route| {
        let interface = first_interface(route);
        let link_local = route.prefix_len >= A::LINK_LOCAL_PREFIX
            && route.destination.is_some_and(is_link_local::<A>);
        interface != 0 && interface != LOOPBACK && !link_local
    };
    let interfaces = |default: bool| {
        let wanted = move |route: &&&Route| (route.prefix_len == 0) == default;
        routes.iter().filter(usable).filter(wanted).map(|route| first_interface(route))
    };
    let (family, mut defaults, others) = (A::NAME, interfaces(true), interfaces(false));
    if let Some(first) = defaults.next() {
        if defaults.next().is_some() {
            let text = format!("Multiple default {family} routes, picked first");
            notes.push(Note::info(text));
        }
        return Some(first);
    }
    if let Some(before) = before.filter(|before| before.default_route) {
        return Some(before.index);
    }
    if others.clone().next().is_none()
        && let Some(before) = before
    {
        return Some(before.index);
    }
    let mut others = others.chain(near.iter().copied());
    let Some(first) = others.next() else {
        notes.push(Note::info(format!("No interfaces with usable {family} routes")));
        return None;
    };
    if others.any(|other| other != first) {
        let text = format!("Multiple interfaces with {family} routes, picked first");
        notes.push(Note::info(text));
    }
    Some(first)
}

/// Whether a route of IPv6 in the main table leads beyond the link that the guest shares with `template`: a default
/// route, one through a router, or one to another link.
pub(super) fn leads_beyond(dump: &Dump, template: Option<&Template<Ipv6Addr>>) -> bool {
    let own = template.map(|template| template.index);
    dump.routes.iter().filter(|route| !route.ipv4).any(|route| {
        let group = |destination: IpAddr| destination.is_multicast();
        let near = route.destination.is_some_and(|to| is_link_local::<Ipv6Addr>(to) || group(to));
        let far = route.prefix_len == 0
            || route.hops.iter().any(|hop| hop.gateway.is_some() || Some(hop.interface) != own);
        !near && far && first_interface(route) != LOOPBACK
    })
}

/// All IPv4 destinations of the main table but those that `template` itself is in, with the routers that lead there.
pub(super) fn destinations_v4(
    dump: &Dump,
    template: &Template<Ipv4Addr>,
) -> Vec<(Ipv4Addr, u8, Option<Ipv4Addr>)> {
    let routed = dump.routes.iter().filter(|route| route.ipv4).filter_map(|route| {
        let IpAddr::V4(destination) = route.destination? else { return None };
        let gateway = route.hops.first()?.gateway.and_then(Ipv4Addr::of);
        Some((first_interface(route), destination, route.prefix_len, gateway))
    });
    let on_link =
        dump.on_link_v4.iter().map(|(index, network, len)| (*index, *network, *len, None));
    let own = |interface: u32, destination: Ipv4Addr, len: u8| {
        let address =
            template.address.filter(|(_, own)| *own == len && interface == template.index);
        address.is_some_and(|(address, _)| shares_prefix(address, destination, len))
    };
    let mut found = Vec::new();
    for (interface, destination, len, gateway) in routed.chain(on_link) {
        let near = destination.is_link_local() && len >= Ipv4Addr::LINK_LOCAL_PREFIX;
        let new =
            !found.iter().any(|(other, other_len, _)| (*other, *other_len) == (destination, len));
        if interface != LOOPBACK && !near && new && !own(interface, destination, len) {
            found.push((destination, len, gateway));
        }
    }
    found
}

fn shares_prefix(one: Ipv4Addr, other: Ipv4Addr, len: u8) -> bool {
    let rest = 32_u32.saturating_sub(len.into());
    (one.to_bits() ^ other.to_bits()).checked_shr(rest).unwrap_or(0) == 0
}

fn is_link_local<A: Family>(address: IpAddr) -> bool {
    A::of(address).is_some_and(A::is_link_local)
}

fn first_interface(route: &Route) -> u32 {
    route.hops.first().map_or(0, |hop| hop.interface)
}

/// Where the first default route through the interface `index` leads.
fn default_hop<'a>(routes: &[&'a Route], index: u32) -> Option<&'a Hop> {
    let default = routes.iter().find(|route| {
        route.prefix_len == 0 && route.hops.iter().any(|hop| hop.interface == index)
    })?;
    let through = default.hops.iter().filter(|hop| hop.interface == index);
    // Reversed, because of equals the last one counts as the greatest.
    through.rev().max_by_key(|hop| hop.weight)
}

fn longest_prefix<'a, A: Family>(
    addresses: impl DoubleEndedIterator<Item = &'a Address>,
) -> Option<(A, u8)> {
    let of_family = addresses.filter_map(|a| A::of(a.address).map(|own| (own, a.prefix_len)));
    of_family.rev().max_by_key(|(_, prefix_len)| *prefix_len)
}

/// The index of the interface called `name`.
pub(super) fn index_of(links: &[(InterfaceName, u32)], name: &InterfaceName) -> Option<u32> {
    links.iter().find(|(other, _)| other == name).map(|(_, index)| *index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn hop(interface: u32, gateway: &str, weight: u8) -> Hop {
        Hop { interface, gateway: Some(ip(gateway)), weight }
    }

    fn route(destination: Option<(&str, u8)>, hops: Vec<Hop>) -> Route {
        Route {
            ipv4: hops[0].gateway.unwrap().is_ipv4(),
            destination: destination.map(|(address, _)| ip(address)),
            prefix_len: destination.map_or(0, |(_, prefix_len)| prefix_len),
            hops,
        }
    }

    fn host(routes: Vec<Route>) -> Dump {
        let links = [("lo", 1), ("eth0", 2), ("eth1", 3)];
        let links = links.map(|(name, index)| (InterfaceName::new(name).unwrap(), index));
        Dump { links: links.to_vec(), routes, ..Dump::default() }
    }

    fn chosen<A: Family>(dump: &Dump, wish: Option<&str>) -> Option<(u32, Option<A>)> {
        let wish = wish.and_then(InterfaceName::new);
        template::<A>(dump, wish, None, &mut Vec::new()).map(|t| (t.index, t.gateway))
    }

    #[test]
    fn loopback_and_link_local_destinations_do_not_count() {
        let dump = host(vec![
            route(Some(("198.51.100.0", 24)), vec![hop(1, "192.0.2.9", 0)]),
            route(Some(("169.254.0.0", 16)), vec![hop(2, "192.0.2.9", 0)]),
            route(Some(("203.0.113.0", 24)), vec![hop(3, "192.0.2.9", 0)]),
            route(Some(("fe80::", 64)), vec![hop(2, "fe80::9", 0)]),
            route(Some(("2001:db8::", 64)), vec![hop(3, "fe80::9", 0)]),
        ]);
        assert_eq!(chosen::<Ipv4Addr>(&dump, None), Some((3, None)));
        assert_eq!(chosen::<Ipv6Addr>(&dump, None), Some((3, None)));
    }

    #[test]
    fn a_network_on_a_link_is_better_than_none() {
        let net = |interface, last| (interface, Ipv4Addr::new(192, 0, 2, last), 25);
        let mut dump = host(Vec::new());
        dump.on_link_v4 = vec![(1, Ipv4Addr::new(127, 0, 0, 0), 8), net(3, 0)];
        dump.on_link_v4.insert(1, (2, Ipv4Addr::new(169, 254, 0, 0), 16));
        assert_eq!(chosen::<Ipv4Addr>(&dump, None), Some((3, None)));
        assert_eq!(chosen::<Ipv6Addr>(&dump, None), None);
        let by_rules = Dump { elsewhere_v4: true, ..dump.clone() };
        assert_eq!(chosen::<Ipv4Addr>(&by_rules, None), None);
        // Who had been chosen stays, but for a route to somewhere else.
        let address =
            Address { interface: 3, address: ip("192.0.2.3"), prefix_len: 25, wide: true };
        dump.addresses = vec![address];
        let before = template::<Ipv4Addr>(&dump, None, None, &mut Vec::new());
        dump.on_link_v4.insert(0, net(2, 128));
        let next = |dump: &Dump| {
            template::<Ipv4Addr>(dump, None, before.as_ref(), &mut Vec::new()).unwrap().index
        };
        assert_eq!((next(&dump), chosen::<Ipv4Addr>(&dump, None)), (3, Some((2, None))));
        dump.routes = vec![route(Some(("203.0.113.0", 24)), vec![hop(2, "192.0.2.129", 0)])];
        assert_eq!(next(&dump), 2);
    }

    #[test]
    fn rules_lead_everywhere_where_the_main_table_does_not() {
        let away = |destination| route(destination, vec![hop(2, "192.0.2.9", 0)]);
        let mut dump = host(vec![away(Some(("203.0.113.0", 24)))]);
        let found = |dump: &Dump, before: Option<&Template<Ipv4Addr>>| {
            let mut now = template::<Ipv4Addr>(dump, None, before, &mut Vec::new()).unwrap();
            lead_by_rules(dump, Some(&mut now), before);
            now
        };
        let first = found(&dump, None);
        assert_eq!((first.index, first.default_route, first.gateway), (2, true, None));
        let gateway = Some(Ipv4Addr::new(192, 0, 2, 1));
        let before = Template { gateway, ..first };
        assert_eq!(found(&dump, Some(&before)), before);
        let other = Template { index: 3, ..before };
        assert_eq!(found(&dump, Some(&other)).gateway, None);
        dump.routes.push(route(None, vec![hop(3, "198.51.100.1", 0)]));
        let mut wished =
            template::<Ipv4Addr>(&dump, InterfaceName::new("eth0"), None, &mut Vec::new()).unwrap();
        lead_by_rules(&dump, Some(&mut wished), None);
        assert!(!wished.default_route, "the main table leads elsewhere");
    }

    #[test]
    fn who_loses_only_the_default_route_stays_the_template() {
        let away = route(Some(("203.0.113.0", 24)), vec![hop(3, "198.51.100.1", 0)]);
        let mut dump = host(vec![route(None, vec![hop(2, "192.0.2.1", 0)]), away.clone()]);
        let address = |interface, address| Address {
            interface,
            address: ip(address),
            prefix_len: 24,
            wide: true,
        };
        dump.addresses = vec![address(2, "192.0.2.2"), address(3, "198.51.100.2")];
        let next = |dump: &Dump, before: &Template<Ipv4Addr>| {
            let now = template::<Ipv4Addr>(dump, None, Some(before), &mut Vec::new());
            keep(now, Some(before)).unwrap()
        };
        let before = template::<Ipv4Addr>(&dump, None, None, &mut Vec::new()).unwrap();
        dump.routes = vec![away.clone()];
        assert_eq!(next(&dump, &before), before);
        // Another way out is one.
        dump.routes.push(route(None, vec![hop(3, "198.51.100.1", 0)]));
        assert_eq!(next(&dump, &before).index, 3);
        dump.routes = vec![away];
        dump.addresses[0] = address(2, "192.0.2.7");
        assert_eq!(next(&dump, &before).index, 3, "it has another address");
        dump.addresses[0] = address(2, "192.0.2.2");
        dump.links.retain(|(_, index)| *index != 2);
        assert_eq!(next(&dump, &before).index, 3, "it is gone");
    }

    #[test]
    fn gateway_is_one_on_the_interface() {
        let hops = vec![
            hop(2, "192.0.2.1", 0),
            hop(2, "192.0.2.2", 0),
            hop(3, "198.51.100.1", 9),
            hop(3, "198.51.100.2", 9),
        ];
        let dump = host(vec![route(None, hops)]);
        let gateway = |text: &str| Some(text.parse().unwrap());
        assert_eq!(chosen::<Ipv4Addr>(&dump, None), Some((2, gateway("192.0.2.1"))));
        let wished = chosen::<Ipv4Addr>(&dump, Some("eth1"));
        assert_eq!(wished, Some((3, gateway("198.51.100.1"))));
        assert_eq!(chosen::<Ipv4Addr>(&dump, Some("lo")), Some((1, None)));
    }

    #[test]
    fn a_default_route_needs_no_gateway_of_the_family() {
        let bare = |destination| Route {
            ipv4: true,
            destination,
            prefix_len: if destination.is_some() { 24 } else { 0 },
            hops: vec![Hop { interface: 2, gateway: None, weight: 0 }],
        };
        let behind_ipv6 =
            Route { ipv4: true, ..route(None, vec![hop(2, "fe80::1", 0), hop(3, "192.0.2.1", 9)]) };
        let gateway = Some(Ipv4Addr::new(192, 0, 2, 1));
        for (routes, wish, expected) in [
            (vec![bare(Some(ip("192.0.2.0")))], "eth0", (false, None)),
            (vec![bare(None)], "eth0", (true, None)),
            (vec![bare(None)], "eth1", (false, None)),
            (vec![behind_ipv6.clone()], "eth0", (true, None)),
            (vec![behind_ipv6], "eth1", (true, gateway)),
        ] {
            let dump = host(routes);
            let wish = InterfaceName::new(wish);
            let found = template::<Ipv4Addr>(&dump, wish, None, &mut Vec::new()).unwrap();
            assert_eq!((found.default_route, found.gateway), expected, "{:?}", dump.routes);
        }
    }

    #[test]
    fn destinations_are_those_of_other_links_and_behind_routers() {
        let mut dump = host(vec![
            route(Some(("198.51.100.0", 24)), vec![hop(2, "192.0.2.9", 0)]),
            route(Some(("198.51.100.0", 24)), vec![hop(3, "203.0.113.9", 0)]),
            route(Some(("203.0.113.128", 25)), vec![hop(2, "fe80::9", 0)]),
            route(Some(("169.254.7.0", 24)), vec![hop(2, "192.0.2.9", 0)]),
            route(Some(("127.1.0.0", 16)), vec![hop(1, "127.0.0.1", 0)]),
            route(Some(("2001:db8::", 64)), vec![hop(2, "fe80::9", 0)]),
        ]);
        dump.routes[2].ipv4 = true;
        let v4 = |a, b, c, d| Ipv4Addr::new(a, b, c, d);
        dump.on_link_v4 = vec![
            (2, v4(192, 0, 2, 0), 24),
            (2, v4(192, 0, 2, 128), 25),
            (3, v4(203, 0, 113, 0), 25),
            (3, v4(192, 0, 2, 0), 24),
            (2, v4(169, 254, 0, 0), 16),
        ];
        let mut template = template::<Ipv4Addr>(&dump, None, None, &mut Vec::new()).unwrap();
        template.address = Some((v4(192, 0, 2, 2), 24));
        assert_eq!(
            destinations_v4(&dump, &template),
            [
                (v4(198, 51, 100, 0), 24, Some(v4(192, 0, 2, 9))),
                (v4(203, 0, 113, 128), 25, None),
                (v4(192, 0, 2, 128), 25, None),
                (v4(203, 0, 113, 0), 25, None),
                (v4(192, 0, 2, 0), 24, None),
            ]
        );
    }

    #[test]
    fn what_leads_beyond_the_link() {
        let direct = |destination, interface| Route {
            ipv4: false,
            hops: vec![Hop { interface, gateway: None, weight: 0 }],
            ..route(destination, vec![hop(interface, "fe80::9", 0)])
        };
        let on_link = || direct(Some(("2001:db8::", 64)), 2);
        for (routes, beyond) in [
            (vec![], false),
            (vec![on_link()], false),
            (vec![on_link(), direct(Some(("fe80::", 64)), 3)], false),
            (vec![on_link(), direct(Some(("ff00::", 8)), 3)], false),
            (vec![on_link(), direct(Some(("2001:db8:1::", 64)), 1)], false),
            (vec![on_link(), route(None, vec![hop(2, "192.0.2.1", 0)])], false),
            (vec![on_link(), direct(None, 2)], true),
            (vec![on_link(), route(None, vec![hop(2, "fe80::9", 0)])], true),
            (vec![on_link(), route(Some(("2001:db8:1::", 48)), vec![hop(2, "fe80::9", 0)])], true),
            (vec![on_link(), direct(Some(("2001:db8:1::", 64)), 3)], true),
        ] {
            let dump = host(routes);
            let mut template = template::<Ipv6Addr>(&dump, None, None, &mut Vec::new());
            if let Some(template) = &mut template {
                template.index = 2;
            }
            assert_eq!(leads_beyond(&dump, template.as_ref()), beyond, "{:?}", dump.routes);
        }
    }

    #[test]
    fn what_is_picked_is_noted() {
        let noted = |routes| {
            let mut notes = Vec::new();
            template::<Ipv4Addr>(&host(routes), None, None, &mut notes);
            notes.into_iter().map(|note| note.text).collect::<Vec<_>>()
        };
        let default = |interface| route(None, vec![hop(interface, "192.0.2.1", 0)]);
        let other =
            |interface| route(Some(("192.0.2.0", 24)), vec![hop(interface, "192.0.2.1", 0)]);
        assert_eq!(noted(vec![]), ["No interfaces with usable IPv4 routes"]);
        assert_eq!(noted(vec![default(2), other(3)]), [""; 0]);
        assert_eq!(
            noted(vec![default(2), default(3)]),
            ["Multiple default IPv4 routes, picked first"]
        );
        assert_eq!(noted(vec![other(2), other(2)]), [""; 0]);
        assert_eq!(
            noted(vec![other(2), other(3)]),
            ["Multiple interfaces with IPv4 routes, picked first"]
        );
    }
}
