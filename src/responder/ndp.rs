//! Neighbour discovery: we answer for every neighbour, and are the router (RFC 4861, RFC 8106).
//!
//! A solicitation for any address that a host can have is answered, with the neighbour's own Ethernet address where the host
//! knows one and else with the gateway's or ours. When the guest asks whether an address it wants is
//! free (source `::`, RFC 4862 5.4), only those are answered for that exist: the gateway's, ours, and the
//! neighbours'. Router advertisements name us as the default router for ever, or as none where the host
//! reaches nothing beyond the link, give the prefix for autoconfiguration and point at DHCPv6 for
//! addresses. All messages are sent from our link-local address with hop limit 255; the engine fills the
//! checksum.

use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use arrayvec::ArrayVec;

use super::{Ignored, labels, put, search_domains};
use crate::flow::fwd::is_one_host;
use crate::flow::neighbours::Neighbours;
use crate::flow::network::{Ipv6Net, MAX_DNS, MAX_WITHDRAWN_DNS, Mac, Network, Withdrawn};
use crate::flow::stations::Stations;

/// Longest message, bytes.
pub(crate) const MAX_MESSAGE: usize = ROUTER_ADVERTISEMENT_LEN
    + PREFIX_LEN
    + LINK_LAYER_LEN
    + MTU_LEN
    + (DNS_HEADER_LEN + 16 * MAX_DNS)
    + (DNS_HEADER_LEN + labels::MAX_SEARCH_BYTES)
    + MAX_EXTRA_LEN;

/// Most bytes of options that the operator may add.
pub(crate) const MAX_EXTRA_LEN: usize = 512;

/// All nodes of the link.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What groups of those begin with who may have one of some addresses (RFC 4291, section 2.7.1).
const SOLICITED_NODE: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];

const ROUTER_ADVERTISEMENT_LEN: usize = 16;
const PREFIX_LEN: usize = 32;
const LINK_LAYER_LEN: usize = 8;
const MTU_LEN: usize = 8;
const DNS_HEADER_LEN: usize = 8;

const _: () = assert!(40 + MAX_MESSAGE <= 1280, "fits the least IPv6 MTU");
// What is withdrawn is told in messages of their own, in place of what operators add.
const _: () = assert!(3 * PREFIX_LEN + 16 * (MAX_WITHDRAWN_DNS - MAX_DNS) <= MAX_EXTRA_LEN);
const _: () = assert!(labels::MAX_SEARCH_BYTES.is_multiple_of(8));

/// ICMPv6 types.
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// Flags of a neighbour advertisement: we are a router; somebody has asked; what was known before is to be replaced.
const FLAG_ROUTER: u8 = 0x80;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;
/// Flag M of a router advertisement: addresses by DHCPv6.
const FLAG_MANAGED: u8 = 0x80;
/// Flags L and A of a prefix: on-link, and good for autoconfiguration.
const FLAGS_ON_LINK_AUTO: u8 = 0xc0;

const HOP_LIMIT: u8 = 255;
/// Time as default router, seconds: the maximum, and none where nothing is reached beyond the link.
const ROUTER_LIFETIME_S: u16 = u16::MAX;
const NO_ROUTER_S: u16 = 0;
/// Lifetime of prefixes and names: no end.
const FOREVER: [u8; 4] = [0xff; 4];
/// Lifetime of what is gone.
const OVER: [u8; 4] = [0; 4];
/// Autoconfiguration wants prefixes of this length.
const PREFIX_BITS: u8 = 64;

/// Option types, and lengths in units of 8 bytes.
const OPTION_SOURCE_LINK_LAYER: u8 = 1;
const OPTION_TARGET_LINK_LAYER: u8 = 2;
const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;
/// Route (RFC 4191), and prefix of a translator (RFC 8781): there may be several.
pub(crate) const OPTION_ROUTE: u16 = 24;
pub(crate) const OPTION_TRANSLATOR: u16 = 38;
const OPTION_RDNSS: u8 = 25;
const OPTION_DNSSL: u8 = 31;

/// Least and number of possible seconds between two unsolicited router advertisements.
const UNSOLICITED_MIN_S: u32 = 200;
const UNSOLICITED_SPAN_S: u32 = 400;

/// The body of a message.
type Body = ArrayVec<u8, MAX_MESSAGE>;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answer to a neighbour solicitation.
    NeighborAdvertisement,
    /// Answer to a router solicitation.
    RouterAdvertisement,
    /// A router advertisement nobody asked for.
    UnsolicitedRouterAdvertisement,
    /// A neighbour advertisement nobody asked for.
    UnsolicitedNeighborAdvertisement,
    /// A router advertisement that takes back what others have said.
    Withdrawal,
    /// Our own question for the guest.
    NeighborSolicitation,
}

/// The line to log.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeighborAdvertisement => "NDP: received NS, sending NA",
            Self::RouterAdvertisement => "NDP: received RS, sending RA",
            Self::UnsolicitedRouterAdvertisement => "NDP: sending unsolicited RA",
            Self::UnsolicitedNeighborAdvertisement => "NDP: sending unsolicited NA",
            Self::Withdrawal => "NDP: sending RA that takes back what is gone",
            Self::NeighborSolicitation => "NDP: sending initial NS",
        })
    }
}

/// An ICMPv6 message, and where to send it: from our link-local address with hop limit 255.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The ICMPv6 message, its checksum zero.
    pub(crate) message: ArrayVec<u8, MAX_MESSAGE>,
    /// IPv6 destination.
    pub(crate) destination: Ipv6Addr,
    /// What it is, for the log.
    pub(crate) kind: Kind,
}

/// What the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Solicitation {
    /// Who has this address?
    Neighbor(Ipv6Addr),
    /// Who is the router, and how is the link?
    Router,
}

impl Solicitation {
    /// Reads an ICMPv6 message of type 133 to 136 that was sent from `source` to `destination`. It must be as valid as
    /// these and its bytes tell (RFC 4861, sections 6.1.1 and 7.1.1): who has no address yet asks all who may have the one
    /// that it wants, and cannot be told where to answer.
    ///
    /// # Errors
    /// That it is malformed, or no solicitation.
    pub(crate) fn read(
        (source, destination): (Ipv6Addr, Ipv6Addr),
        message: &[u8],
    ) -> Result<Self, Ignored> {
        let (header, rest) = message.split_first_chunk::<8>().ok_or(Ignored::Malformed)?;
        let nameless = source.is_unspecified();
        let (read, options) = match *header {
            [NEIGHBOR_SOLICITATION, 0, ..] => {
                let (target, options) = rest.split_first_chunk().ok_or(Ignored::Malformed)?;
                let target = Ipv6Addr::from(*target);
                if target.is_multicast()
                    || nameless && !destination.octets().starts_with(&SOLICITED_NODE)
                {
                    return Err(Ignored::Malformed);
                }
                (Self::Neighbor(target), options)
            }
            [ROUTER_SOLICITATION, 0, ..] => (Self::Router, rest),
            [NEIGHBOR_SOLICITATION | ROUTER_SOLICITATION, ..] => return Err(Ignored::Malformed),
            _ => return Err(Ignored::Unsupported),
        };
        let names_station = has_option(options, OPTION_SOURCE_LINK_LAYER)?;
        if source.is_multicast() || nameless && names_station {
            return Err(Ignored::Malformed);
        }
        Ok(read)
    }

    /// The address that is asked for.
    pub(crate) fn target(self) -> Option<Ipv6Addr> {
        match self {
            Self::Neighbor(target) => Some(target),
            Self::Router => None,
        }
    }
}

/// Answers what the station `mac` has asked from `source`.
///
/// # Errors
/// Why there is no answer.
pub(crate) fn answer(
    net: &Network,
    (neighbours, stations): (&Neighbours, &Stations),
    (source, mac): (Ipv6Addr, Mac),
    asked: Solicitation,
) -> Result<Reply, Ignored> {
    let v6 = enabled(net)?;
    let Solicitation::Neighbor(target) = asked else { return answer_router(net, v6, source) };
    let theirs = stations.find(target.into()).is_some_and(|station| station != mac);
    let exists = exists(v6, neighbours, target);
    if !is_one_host(target.into()) || (source.is_unspecified() || theirs) && !exists {
        return Err(Ignored::NotForUs);
    }
    Ok(answer_neighbor(neighbours.station(net, target.into()), (source, target), exists))
}

/// The router advertisement for the whole link that is sent from time to time; see
/// [`next_unsolicited_delay`].
///
/// # Errors
/// [`Ignored::Disabled`] if there is none to send.
pub(crate) fn router_advertisement(net: &Network) -> Result<Reply, Ignored> {
    Ok(Reply {
        message: router_advertisement_message(net, enabled(net)?)?,
        destination: ALL_NODES,
        kind: Kind::UnsolicitedRouterAdvertisement,
    })
}

/// The router advertisement that takes back what others have said (RFC 4861, section 6.2.4; RFC 8106, section 5):
/// prefixes, name servers and domains with a lifetime of 0. `None` if there is nothing to take back.
#[must_use]
pub(crate) fn withdrawal(net: &Network, withdrawn: &Withdrawn) -> Option<Reply> {
    let v6 = enabled(net).ok().filter(|_| net.services.ra)?;
    let Withdrawn { prefixes, dns, search, .. } = withdrawn;
    let dns = dns.iter().filter(|_| net.services.hand_out_dns);
    let search = search.iter().filter(|_| net.services.hand_out_search);
    let dns: ArrayVec<u8, { labels::MAX_SEARCH_BYTES }> = dns.flat_map(Ipv6Addr::octets).collect();
    let search = labels::list(search.flat_map(|entry| entry.split_ascii_whitespace()));
    if prefixes.is_empty() && dns.is_empty() && search.is_empty() {
        return None;
    }
    let mut message = Body::new();
    put_router(&mut message, net, if v6.default_router { ROUTER_LIFETIME_S } else { NO_ROUTER_S });
    for prefix in prefixes {
        put_prefix(&mut message, *prefix, OVER);
    }
    put_link_layer(&mut message, OPTION_SOURCE_LINK_LAYER, net.our_mac);
    put_dns(&mut message, OPTION_RDNSS, dns, OVER);
    put_dns(&mut message, OPTION_DNSSL, search, OVER);
    Some(Reply { message, destination: ALL_NODES, kind: Kind::Withdrawal })
}

/// The router advertisement of one that is no router any more; to be sent from the address at which it was one
/// (RFC 4861, section 6.2.5). `None` if there are no advertisements.
#[must_use]
pub(crate) fn farewell(net: &Network) -> Option<Reply> {
    enabled(net).ok().filter(|_| net.services.ra)?;
    let mut message = Body::new();
    put_router(&mut message, net, NO_ROUTER_S);
    Some(Reply { message, destination: ALL_NODES, kind: Kind::Withdrawal })
}

/// Time until the next unsolicited router advertisement, 200 s to 599 s (RFC 4861, 6.2.4).
/// `random` is any value, drawn anew each time.
#[must_use]
pub(crate) fn next_unsolicited_delay(random: u32) -> Duration {
    Duration::from_secs((UNSOLICITED_MIN_S + random % UNSOLICITED_SPAN_S).into())
}

/// The question for the guest's address, sent to that address once a link is up: its answer shows
/// the guest's addresses. `None` without an address to ask for.
#[must_use]
pub(crate) fn initial_solicitation(net: &Network) -> Option<Reply> {
    solicitation(net, enabled(net).ok()?.addr?)
}

/// The question for the station at `target`, sent to that address. `None` if neighbour discovery is off.
#[must_use]
pub(crate) fn solicitation(net: &Network, target: Ipv6Addr) -> Option<Reply> {
    enabled(net).ok()?;
    let mut message = Body::new();
    put(&mut message, &[NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0]);
    put(&mut message, &target.octets());
    Some(Reply { message, destination: target, kind: Kind::NeighborSolicitation })
}

/// The address that a neighbour advertisement says is in use.
pub(crate) fn advertised(message: &[u8]) -> Option<Ipv6Addr> {
    let (header, rest) = message.split_first_chunk::<8>()?;
    let (target, options) = rest.split_first_chunk::<16>()?;
    let valid = header[..2] == [NEIGHBOR_ADVERTISEMENT, 0] && has_option(options, 0).is_ok();
    valid.then(|| Ipv6Addr::from(*target))
}

/// IPv6, if it and neighbour discovery are on.
fn enabled(net: &Network) -> Result<&Ipv6Net, Ignored> {
    let v6 = net.v6.as_ref().filter(|_| net.services.ndp);
    v6.ok_or(Ignored::Disabled)
}

/// Whether one of `options` is `wanted`. All must be whole and not empty (RFC 4861, 6.1.1 and 7.1.1).
fn has_option(mut options: &[u8], wanted: u8) -> Result<bool, Ignored> {
    let mut found = false;
    while let Some(&option) = options.first() {
        let units = options.get(1).filter(|units| **units > 0);
        let len = 8 * usize::from(*units.ok_or(Ignored::Malformed)?);
        options = options.get(len..).ok_or(Ignored::Malformed)?;
        found |= option == wanted;
    }
    Ok(found)
}

/// Whether a guest that asks if `target` is free must hear that it is not (RFC 4862, 5.4): it is the gateway's, ours,
/// or that of a neighbour of the host.
fn exists(v6: &Ipv6Net, neighbours: &Neighbours, target: Ipv6Addr) -> bool {
    let taken = v6.gateway == Some(target) || v6.our_link_local == target;
    (taken || neighbours.knows(target.into())) && v6.addr != Some(target)
}

/// `target` is here. Who has no address yet is answered by a message to all (RFC 4861, 7.2.4). Where nobody is known to have
/// that address, we answer for whoever has it, which does not override what a station says of itself (7.2.8): one behind the
/// guest may be silent so far.
fn answer_neighbor(mac: Mac, (source, target): (Ipv6Addr, Ipv6Addr), exists: bool) -> Reply {
    let (solicited, destination) = match source.is_unspecified() {
        true => (0, ALL_NODES),
        false => (FLAG_SOLICITED, source),
    };
    let overrides = if exists { FLAG_OVERRIDE } else { 0 };
    let message = neighbor_advertisement(FLAG_ROUTER | solicited | overrides, target, mac);
    Reply { message, destination, kind: Kind::NeighborAdvertisement }
}

/// Tells everybody that `address` is the station `mac`, which makes them replace what they know of it
/// (RFC 4861, section 7.2.6). To be sent from `address`. As in answers it is called a router: a guest would
/// strike a router that denies it off its list.
#[must_use]
pub(crate) fn announcement(address: Ipv6Addr, mac: Mac) -> Reply {
    let message = neighbor_advertisement(FLAG_ROUTER | FLAG_OVERRIDE, address, mac);
    Reply { message, destination: ALL_NODES, kind: Kind::UnsolicitedNeighborAdvertisement }
}

fn neighbor_advertisement(flags: u8, target: Ipv6Addr, mac: Mac) -> Body {
    let mut message = Body::new();
    put(&mut message, &[NEIGHBOR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]);
    put(&mut message, &target.octets());
    put_link_layer(&mut message, OPTION_TARGET_LINK_LAYER, mac);
    message
}

/// A router advertisement to `source`, or to all nodes if the guest has no address yet.
fn answer_router(net: &Network, v6: &Ipv6Net, source: Ipv6Addr) -> Result<Reply, Ignored> {
    Ok(Reply {
        message: router_advertisement_message(net, v6)?,
        destination: if source.is_unspecified() { ALL_NODES } else { source },
        kind: Kind::RouterAdvertisement,
    })
}

/// The message that tells the guest all about its link.
fn router_advertisement_message(net: &Network, v6: &Ipv6Net) -> Result<Body, Ignored> {
    if !net.services.ra {
        return Err(Ignored::Disabled);
    }
    let mut message = Body::new();
    put_router(&mut message, net, if v6.default_router { ROUTER_LIFETIME_S } else { NO_ROUTER_S });
    if let Some(prefix) = v6.prefix() {
        put_prefix(&mut message, prefix, FOREVER);
    }
    put_link_layer(&mut message, OPTION_SOURCE_LINK_LAYER, net.our_mac);
    let extra = &net.extra.ra;
    let usual = |code: u8| extra.iter().all(|option| option.code != u16::from(code));
    if net.mtu > 0 && usual(OPTION_MTU) {
        put(&mut message, &[OPTION_MTU, 1, 0, 0]);
        put(&mut message, &u32::from(net.mtu).to_be_bytes());
    }
    if net.services.hand_out_dns && usual(OPTION_RDNSS) {
        let servers = v6.dns.iter().flat_map(Ipv6Addr::octets).collect();
        put_dns(&mut message, OPTION_RDNSS, servers, FOREVER);
    }
    if usual(OPTION_DNSSL) {
        put_dns(&mut message, OPTION_DNSSL, labels::list(search_domains(net)), FOREVER);
    }
    for option in extra {
        let units = (2 + option.value.len()) / 8;
        let head = [option.code, units as u16].map(|word| word.to_be_bytes()[1]);
        put(&mut message, &head);
        put(&mut message, &option.value);
    }
    Ok(message)
}

/// Appends a link-layer address option.
fn put_link_layer(message: &mut Body, option: u8, mac: Mac) {
    put(message, &[option, 1]);
    put(message, &mac.0);
}

/// Appends what a router advertisement begins with; we are the default router for so long. Addresses are to be had by
/// DHCPv6 if that has one to give: clients that are told so ask for ever.
fn put_router(message: &mut Body, net: &Network, lifetime_s: u16) {
    let managed = net.services.dhcpv6 && net.v6.as_ref().is_some_and(|v6| v6.addr.is_some());
    let flags = if managed { FLAG_MANAGED } else { 0 };
    put(message, &[ROUTER_ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, flags]);
    put(message, &lifetime_s.to_be_bytes());
    put(message, &[0; 8]); // reachable and retransmission time: unspecified
}

/// Appends a prefix that is valid, and preferred, for so long.
fn put_prefix(message: &mut Body, prefix: Ipv6Addr, lifetime: [u8; 4]) {
    put(message, &[OPTION_PREFIX, 4, PREFIX_BITS, FLAGS_ON_LINK_AUTO]);
    put(message, &lifetime); // valid
    put(message, &lifetime); // preferred
    put(message, &[0; 4]);
    put(message, &prefix.octets());
}

/// Appends an RDNSS or DNSSL option (RFC 8106, 5.1 and 5.2) unless its body is empty; the body is
/// padded to whole units of 8 bytes.
fn put_dns(
    message: &mut Body,
    option: u8,
    mut body: ArrayVec<u8, { labels::MAX_SEARCH_BYTES }>,
    lifetime: [u8; 4],
) {
    if body.is_empty() {
        return;
    }
    while !body.len().is_multiple_of(8) {
        body.push(0);
    }
    let units = u8::try_from(1 + body.len() / 8).expect("a body has at most 64 units");
    put(message, &[option, units, 0, 0]);
    put(message, &lifetime);
    put(message, &body);
}

#[cfg(test)]
mod tests;
