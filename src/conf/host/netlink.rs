//! rtnetlink(7): one dump each of links, addresses and routes, reduced to what is used. Attributes
//! that are missing or of another kind leave their field empty.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::routed::{Candidate, candidate, has_neighbours, ip};
use crate::conf::ConfError;
use crate::flow::fwd::InterfaceName;
use crate::sys::netlink::Netlink;

/// Most datagrams that one dump may take, each of up to 32 KiB; full routing tables need hundreds.
const MAX_DATAGRAMS: usize = 1 << 20;

/// How often a dump is begun anew because the host's configuration changed meanwhile.
const MAX_RESTARTS: usize = 8;

/// A next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) interface: u32,
    pub(super) gateway: Option<IpAddr>,
    pub(super) weight: u8,
}

/// A unicast route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) ipv4: bool,
    /// `None` for a default route.
    pub(super) destination: Option<IpAddr>,
    pub(super) prefix_len: u8,
    /// At least one.
    pub(super) hops: Vec<Hop>,
}

/// An address of an interface that is not deprecated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) interface: u32,
    pub(super) address: IpAddr,
    pub(super) prefix_len: u8,
    /// Valid beyond its link.
    pub(super) wide: bool,
}

/// What the kernel told.
#[derive(Clone, Debug, Default)]
pub(super) struct Dump {
    pub(super) links: Vec<(InterfaceName, u32)>,
    pub(super) addresses: Vec<Address>,
    pub(super) routes: Vec<Route>,
    /// IPv4 networks on links, of the main table: the interface, the network and the length of its prefix.
    pub(super) on_link_v4: Vec<(u32, Ipv4Addr, u8)>,
    /// There is a default route of IPv4 in another table than the main one.
    pub(super) elsewhere_v4: bool,
    /// Of a route of the main table only the number of its next hop was told.
    pub(super) by_number: bool,
    /// What all routes may say of this host.
    pub(super) candidates: Vec<Candidate>,
}

/// Asks the kernel for everything.
pub(super) fn dump(socket: &Netlink) -> Result<Dump, ConfError> {
    let failed = |what| move |source| ConfError::Netlink { what, source };
    let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let addresses = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let links = request_on(socket, links, link).map_err(failed("interfaces"))?;
    let alone: HashSet<u32> =
        links.iter().filter(|one| one.is_alone).map(|one| one.index).collect();
    let mut dump = Dump {
        links: links.into_iter().map(|one| (one.name, one.index)).collect(),
        addresses: request_on(socket, addresses, address).map_err(failed("addresses"))?,
        routes: Vec::new(),
        on_link_v4: Vec::new(),
        elsewhere_v4: false,
        by_number: false,
        candidates: Vec::new(),
    };
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let routes = routes(socket, family).map_err(failed("routes"))?;
        dump.routes.extend(routes.iter().filter_map(route));
        dump.on_link_v4.extend(routes.iter().filter_map(on_link_v4));
        dump.elsewhere_v4 |= routes.iter().any(is_default_elsewhere_v4);
        dump.by_number |= routes.iter().any(leads_by_number);
        dump.candidates.extend(routes.iter().filter_map(|route| candidate(route, &alone)));
    }
    Ok(dump)
}

/// The host's addresses, with the interface of each.
///
/// # Errors
/// What netlink reports.
pub(crate) fn own_addresses() -> io::Result<Vec<(InterfaceName, IpAddr)>> {
    let links = request(RouteNetlinkMessage::GetLink(LinkMessage::default()), link)?;
    let addresses = request(RouteNetlinkMessage::GetAddress(AddressMessage::default()), address)?;
    let named = |found: Address| {
        let link = links.iter().find(|link| link.index == found.interface)?;
        Some((link.name, found.address))
    };
    Ok(addresses.into_iter().filter_map(named).collect())
}

/// All routes of `family`, without what the kernel has learned of the paths to single destinations, which it dumps,
/// too. For one that it does not have (IPv6, when started with `ipv6.disable=1`) the kernel
/// answers with those of all others.
pub(crate) fn routes(socket: &Netlink, family: AddressFamily) -> io::Result<Vec<RouteMessage>> {
    let mut question = RouteMessage::default();
    question.header.address_family = family;
    let question = RouteNetlinkMessage::GetRoute(question);
    let mut routes = request_on(socket, question, |message| match message {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    })?;
    routes.retain(|RouteMessage { header, .. }| {
        header.address_family == family && !header.flags.contains(RouteFlags::Cloned)
    });
    Ok(routes)
}

/// Whether the kernel has IPv6 sockets at all.
pub(super) fn has_ipv6_sockets() -> bool {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType, socket};
    let made = socket(AddressFamily::INET6, SocketType::DGRAM, None);
    // Without a descriptor there is no telling.
    made.is_ok() || matches!(made, Err(Errno::MFILE | Errno::NFILE))
}

/// Dumps what `question` asks for, by a socket of its own.
pub(crate) fn request<T>(
    question: RouteNetlinkMessage,
    reduce: fn(RouteNetlinkMessage) -> Option<T>,
) -> io::Result<Vec<T>> {
    request_on(&Netlink::new()?, question, reduce)
}

/// Dumps what `question` asks for, anew if it changed in between.
pub(crate) fn request_on<T>(
    socket: &Netlink,
    question: RouteNetlinkMessage,
    reduce: fn(RouteNetlinkMessage) -> Option<T>,
) -> io::Result<Vec<T>> {
    let mut message = NetlinkMessage::from(question);
    message.header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let mut attempts = 0;
    loop {
        attempts += 1;
        socket.drain();
        socket.send(&bytes)?;
        let (found, consistent) = replies(socket, reduce)?;
        if consistent || attempts > MAX_RESTARTS {
            return Ok(found);
        }
    }
}

/// All replies to a dump, and whether they belong to one state of the host.
fn replies<T>(
    socket: &Netlink,
    reduce: fn(RouteNetlinkMessage) -> Option<T>,
) -> io::Result<(Vec<T>, bool)> {
    let mut found = Vec::new();
    let mut consistent = true;
    for _ in 0..MAX_DATAGRAMS {
        let datagram = socket.receive()?;
        let mut rest = datagram.as_slice();
        while let Some((message, after)) = next_message(rest) {
            rest = after;
            let Some(message) = message else { continue };
            consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok((found, consistent)),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(inner) => found.extend(reduce(inner)),
                _ => {}
            }
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

/// The first message of `bytes`, or `None` for it if it is of a kind that the library cannot read,
/// and what follows it.
fn next_message(bytes: &[u8]) -> Option<(Option<NetlinkMessage<RouteNetlinkMessage>>, &[u8])> {
    const HEADER: usize = 16;
    const ALIGN: usize = 4;
    if bytes.len() < HEADER {
        return None;
    }
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let message = bytes.get(..length).filter(|message| message.len() >= HEADER)?;
    let after = bytes.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
    Some((NetlinkMessage::deserialize(message).ok(), after))
}

/// Reads `bytes` as replies to all questions: how many could be read, and how many told something.
#[cfg(fuzzing)]
pub(super) fn look(mut bytes: &[u8]) -> (usize, usize) {
    let (mut read, mut told) = (0, 0);
    while let Some((message, after)) = next_message(bytes) {
        bytes = after;
        let Some(NetlinkPayload::InnerMessage(inner)) = message.map(|message| message.payload)
        else {
            continue;
        };
        read += 1;
        told += usize::from(link(inner.clone()).is_some());
        told += usize::from(address(inner.clone()).is_some());
        if let RouteNetlinkMessage::NewRoute(message) = inner {
            told += usize::from(route(&message).is_some());
            told += usize::from(candidate(&message, &HashSet::new()).is_some());
        }
    }
    (read, told)
}

/// An interface.
struct Link {
    name: InterfaceName,
    index: u32,
    /// It has no neighbours.
    is_alone: bool,
}

fn link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(link) = message else { return None };
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => InterfaceName::new(name),
        _ => None,
    })?;
    Some(Link { name, index: link.header.index, is_alone: !has_neighbours(&link) })
}

fn address(message: RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Flags(all) => flags = *all,
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            _ => {}
        }
    }
    // On a point-to-point interface, Address is the other end and Local is ours.
    let address = local.or(peer)?;
    (!flags.contains(AddressFlags::Deprecated)).then_some(Address {
        interface: message.header.index,
        address,
        prefix_len: message.header.prefix_len,
        wide: u8::from(message.header.scope) < u8::from(AddressScope::Link),
    })
}

/// Whether the route is one of the main table that leads somewhere.
fn is_of_main_table(route: &RouteMessage) -> bool {
    is_in_main_table(route) && route.header.kind == RouteType::Unicast
}

fn is_in_main_table(route: &RouteMessage) -> bool {
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or(route.header.table.into()) == u32::from(RouteHeader::RT_TABLE_MAIN)
}

fn is_default_elsewhere_v4(route: &RouteMessage) -> bool {
    let RouteMessage { header, .. } = route;
    let v4 = header.address_family == AddressFamily::Inet && header.kind == RouteType::Unicast;
    v4 && header.destination_prefix_length == 0 && !is_in_main_table(route)
}

/// Whether the route is a default one of the main table that leads somewhere.
pub(crate) fn is_default(message: &RouteMessage) -> bool {
    route(message).is_some_and(|route| route.prefix_len == 0)
}

/// Whether the kernel tells only the number of the object that the route leads over (`ip nexthop`).
fn leads_by_number(message: &RouteMessage) -> bool {
    let numbered = message.attributes.iter().any(|a| matches!(a, RouteAttribute::NhId(_)));
    let told =
        |a: &RouteAttribute| matches!(a, RouteAttribute::Oif(_) | RouteAttribute::MultiPath(_));
    is_of_main_table(message) && numbered && !message.attributes.iter().any(told)
}

/// A network on a link, which IPv4 knows by its scope.
fn on_link_v4(route: &RouteMessage) -> Option<(u32, Ipv4Addr, u8)> {
    let header = &route.header;
    if !is_of_main_table(route) || header.scope != RouteScope::Link {
        return None;
    }
    let (mut interface, mut destination) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => destination = Some(*v4),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    Some((interface?, destination?, header.destination_prefix_length))
}

fn route(route: &RouteMessage) -> Option<Route> {
    let header = &route.header;
    // A default route without a gateway (ppp, tun, wwan) reaches no further than its link, as far as ip(8)
    // knows, and is one all the same. Other destinations on the link lead nowhere else: they are told apart.
    let leads_away = header.scope == RouteScope::Universe || header.destination_prefix_length == 0;
    if !is_of_main_table(route) || !leads_away {
        return None;
    }
    let mut single = Hop { interface: 0, gateway: None, weight: 0 };
    let (mut destination, mut hops) = (None, Vec::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => single.gateway = ip(address),
            RouteAttribute::Oif(index) => single.interface = *index,
            RouteAttribute::MultiPath(all) => hops = all.iter().map(hop).collect(),
            _ => {}
        }
    }
    if single.interface != 0 {
        hops.insert(0, single);
    }
    (!hops.is_empty()).then_some(Route {
        ipv4: header.address_family == AddressFamily::Inet,
        destination,
        prefix_len: header.destination_prefix_length,
        hops,
    })
}

fn hop(hop: &RouteNextHop) -> Hop {
    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        _ => None,
    });
    Hop { interface: hop.interface_index, gateway, weight: hop.hops }
}

#[cfg(test)]
mod tests {
    use passt_support::namespace::isolated;

    use super::*;

    #[test]
    fn routes_of_a_family_that_the_kernel_does_not_have_are_none() {
        let setup = "ip link set lo up; ip route add default dev lo";
        isolated(setup, || {
            let all = |family| {
                let mut question = RouteMessage::default();
                question.header.address_family = family;
                request(RouteNetlinkMessage::GetRoute(question), Some).unwrap()
            };
            assert!(!all(AddressFamily::X25).is_empty(), "it answers with those of others");
            let socket = Netlink::new().unwrap();
            assert_eq!(routes(&socket, AddressFamily::X25).unwrap(), []);
            let found = routes(&socket, AddressFamily::Inet).unwrap();
            assert!(found.iter().any(|route| route.header.destination_prefix_length == 0));
        });
    }
}
