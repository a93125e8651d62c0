//! Host to guest: as what a connection to one of our listening sockets appears in the guest.
//!
//! The destination port is the rule's, shifted like the port that was hit. The destination
//! address is the rule's; else a group stays a group; else it is the guest's own address, of the
//! same scope as the source. The source is what [`source_for_guest`] says; where it has nothing
//! to say, our own address toward the guest stands in.

use std::net::{IpAddr, SocketAddr};

use super::{Mapping, Refused, Rule, View, special};
use crate::flow::network::{Learned, Network};

/// The guest side of a flow that the host's network begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestSide {
    /// Our address and port in the guest's eyes.
    pub(crate) source: SocketAddr,
    /// The guest's address and port.
    pub(crate) destination: SocketAddr,
}

/// The guest side of what `peer` sent to our `local` address, on a socket of `rule`.
///
/// Addresses as a dual-stack socket reports them (`::ffff:192.0.2.1`) count as IPv4.
///
/// # Errors
/// The reason why it is not forwarded.
pub(crate) fn to_guest(
    net: &Network,
    map: &Mapping,
    learned: &Learned,
    rule: &Rule,
    peer: SocketAddr,
    local: SocketAddr,
) -> Result<GuestSide, Refused> {
    let (peer_ip, local_ip) = (peer.ip().to_canonical(), local.ip().to_canonical());
    if !rule.proto.enabled(&net.services) {
        return Err(Refused::ProtocolDisabled);
    }
    let port = rule.port_for(peer_ip, local_ip, local.port())?;

    if local_ip.is_multicast() && !net.services.multicast {
        return Err(Refused::MulticastDisabled);
    }
    if rule.target_addr.is_some_and(|target| target.is_loopback()) {
        return Err(Refused::Loopback);
    }
    let fixed = rule.target_addr.or(local_ip.is_multicast().then_some(local_ip));
    let source = guest_visible(net, map, learned, peer_ip, fixed)?;
    let destination = match fixed {
        Some(address) => address,
        None => guest_address(learned, source).ok_or(Refused::GuestAddressUnknown)?,
    };
    Ok(GuestSide {
        source: SocketAddr::new(source, peer.port()),
        destination: SocketAddr::new(destination, port),
    })
}

/// What the guest sees of a host-side `address`: sources of inbound flows, offenders of ICMP
/// errors, neighbours. `None` if it would mean something else to the guest, or nothing.
pub(crate) fn source_for_guest(
    net: &Network,
    map: &Mapping,
    learned: &Learned,
    address: IpAddr,
) -> Option<IpAddr> {
    let address = address.to_canonical();
    translated(&View::of(net, map, address).ok()?, learned, address)
}

/// What the guest sees of `peer`, who has sent to a group that the guest has joined. What is this host's own has the
/// address that stands for the host.
pub(crate) fn source_in_group(
    net: &Network,
    map: &Mapping,
    learned: &Learned,
    peer: IpAddr,
) -> Option<IpAddr> {
    guest_visible(net, map, learned, peer.to_canonical(), None).ok()
}

fn translated(view: &View, learned: &Learned, address: IpAddr) -> Option<IpAddr> {
    if address == view.loopback && view.map.host_loopback.is_some() {
        return view.map.host_loopback;
    }
    if view.own && view.map.guest_addr.is_some() {
        return view.map.guest_addr;
    }
    let seen = match address {
        IpAddr::V4(_) => Some(learned.v4.into()),
        IpAddr::V6(_) => learned.v6.map(IpAddr::from),
    };
    let own = view.own || Some(address) == seen;
    (!own && special::unicast(address).is_ok()).then_some(address)
}

/// The translated source of a new flow, or the address that stands in for it.
fn guest_visible(
    net: &Network,
    map: &Mapping,
    learned: &Learned,
    peer: IpAddr,
    fixed_destination: Option<IpAddr>,
) -> Result<IpAddr, Refused> {
    let view = View::of(net, map, peer)?;
    if let Some(address) = translated(&view, learned, peer) {
        return Ok(address);
    }
    match special::unicast(peer) {
        Ok(_) | Err(Refused::Loopback) => {
            stand_in(net, &view, fixed_destination).ok_or(Refused::NoStandIn)
        }
        Err(reason) => Err(reason),
    }
}

/// Our own address toward the guest: the gateway; for IPv6 our link-local address if there is no
/// global gateway, or if the destination is link-local and a global source would not fit it.
fn stand_in(net: &Network, view: &View, fixed_destination: Option<IpAddr>) -> Option<IpAddr> {
    let Some(v6) = net.v6.as_ref().filter(|_| view.loopback.is_ipv6()) else {
        return view.gateway;
    };
    let to_link_local = fixed_destination.is_some_and(special::is_link_local_v6);
    let global = view.gateway.filter(|gateway| !special::is_link_local_v6(*gateway));
    global.filter(|_| !to_link_local).or(Some(v6.our_link_local.into()))
}

/// The guest's address of the family and scope of `source`; its other IPv6 address if it has not
/// shown one of that scope yet.
fn guest_address(learned: &Learned, source: IpAddr) -> Option<IpAddr> {
    let address = match source {
        IpAddr::V4(_) => Some(learned.v4.into()),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            learned.v6_link_local.or(learned.v6).map(IpAddr::from)
        }
        IpAddr::V6(_) => learned.v6.map(IpAddr::from),
    };
    address.filter(|address| !address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::super::Proto;
    use super::super::example::{at, ip, learned, mapping, network, v6};
    use super::*;
    use std::net::Ipv4Addr;

    fn rule() -> Rule {
        Rule::plain(Proto::Tcp, (8080, 8089), 80)
    }

    fn shown(side: Result<GuestSide, Refused>) -> String {
        side.map(|side| format!("{} -> {}", side.source, side.destination)).unwrap()
    }

    fn seen(net: &Network, map: &Mapping, rule: &Rule, peer: &str, local: &str) -> String {
        shown(to_guest(net, map, &learned(), rule, at(peer), at(local)))
    }

    #[test]
    fn worked_examples_of_host_to_guest() {
        let plain = mapping();
        let mut guest_addr = mapping();
        guest_addr.v4.guest_addr = Some(Ipv4Addr::new(169, 254, 1, 2));
        let no_map_gw = Mapping::default();
        for (map, peer, local, expected) in [
            (&plain, "127.0.0.1:9", "127.0.0.1:8080", "192.0.2.1:9 -> 192.0.2.2:80"),
            (&plain, "127.0.0.5:9", "127.0.0.1:8080", "192.0.2.1:9 -> 192.0.2.2:80"),
            (&plain, "192.0.2.2:9", "192.0.2.2:8080", "192.0.2.1:9 -> 192.0.2.2:80"),
            (&guest_addr, "192.0.2.2:9", "192.0.2.2:8080", "169.254.1.2:9 -> 192.0.2.2:80"),
            (&plain, "198.51.100.9:9", "192.0.2.2:8080", "198.51.100.9:9 -> 192.0.2.2:80"),
            (&plain, "[::1]:9", "[::1]:8080", "[2001:db8::1]:9 -> [2001:db8::2]:80"),
            (&plain, "[fe80::99]:9", "[fe80::fc]:8080", "[fe80::99]:9 -> [fe80::5]:80"),
            (&no_map_gw, "127.0.0.1:9", "127.0.0.1:8080", "192.0.2.1:9 -> 192.0.2.2:80"),
            (
                &plain,
                "[::ffff:198.51.100.9]:9",
                "[::ffff:192.0.2.2]:8089",
                "198.51.100.9:9 -> 192.0.2.2:89",
            ),
        ] {
            assert_eq!(seen(&network(), map, &rule(), peer, local), expected, "{peer} {local}");
        }
    }

    #[test]
    fn what_the_namespace_holds_beside_the_assigned_address_is_never_a_source() {
        let mut stands_in = mapping();
        stands_in.held = ["192.0.2.77", "2001:db8::77"].map(ip).to_vec();
        let mut guest_addr = stands_in.clone();
        guest_addr.v4.guest_addr = Some(Ipv4Addr::new(169, 254, 1, 2));
        guest_addr.v6.guest_addr = Some(v6("2001:db8::99"));
        for (map, peer, local, expected) in [
            (&stands_in, "192.0.2.77:9", "192.0.2.77:8080", "192.0.2.1:9 -> 192.0.2.2:80"),
            (&guest_addr, "192.0.2.77:9", "192.0.2.77:8080", "169.254.1.2:9 -> 192.0.2.2:80"),
            (
                &stands_in,
                "[2001:db8::77]:9",
                "[2001:db8::77]:8080",
                "[2001:db8::1]:9 -> [2001:db8::2]:80",
            ),
            (
                &guest_addr,
                "[2001:db8::77]:9",
                "[2001:db8::77]:8080",
                "[2001:db8::99]:9 -> [2001:db8::2]:80",
            ),
            (&stands_in, "192.0.2.78:9", "192.0.2.2:8080", "192.0.2.78:9 -> 192.0.2.2:80"),
        ] {
            assert_eq!(seen(&network(), map, &rule(), peer, local), expected, "{peer} {local}");
        }
        let of_an_error = source_for_guest(&network(), &stands_in, &learned(), ip("192.0.2.77"));
        assert_eq!(of_an_error, None);
    }

    #[test]
    fn connections_go_to_the_address_the_guest_was_last_seen_to_use() {
        let learned = Learned { v4: Ipv4Addr::new(203, 0, 113, 4), ..learned() };
        let side = to_guest(
            &network(),
            &mapping(),
            &learned,
            &rule(),
            at("198.51.100.9:9"),
            at("192.0.2.2:8080"),
        );
        assert_eq!(shown(side), "198.51.100.9:9 -> 203.0.113.4:80");
    }

    #[test]
    fn target_address_of_the_rule_wins() {
        let rule = Rule { target_addr: Some(ip("192.0.2.9")), ..rule() };
        let side = seen(&network(), &mapping(), &rule, "127.0.0.1:9", "127.0.0.1:8080");
        assert_eq!(side, "192.0.2.1:9 -> 192.0.2.9:80");
    }

    #[test]
    fn group_stays_a_group() {
        let rule = Rule { proto: Proto::Udp, ..rule() };
        for (peer, group, expected) in [
            ("198.51.100.9:9", "224.0.0.251:8080", "198.51.100.9:9 -> 224.0.0.251:80"),
            ("[fe80::99]:9", "[ff02::fb]:8080", "[fe80::99]:9 -> [ff02::fb]:80"),
        ] {
            assert_eq!(seen(&network(), &mapping(), &rule, peer, group), expected);
        }
    }

    #[test]
    fn what_is_for_a_group_goes_nowhere_if_that_is_off() {
        let mut net = network();
        net.services.multicast = false;
        let rule = Rule { proto: Proto::Udp, ..rule() };
        let (peer, group) = (at("198.51.100.9:9"), at("224.0.0.251:8080"));
        let refused = to_guest(&net, &mapping(), &learned(), &rule, peer, group);
        assert_eq!(refused, Err(Refused::MulticastDisabled));
    }

    #[test]
    fn who_sends_to_a_group_has_an_address_that_leads_back() {
        let seen = |peer| source_in_group(&network(), &mapping(), &learned(), ip(peer));
        for (peer, expected) in [
            ("198.51.100.9", Some("198.51.100.9")),
            ("192.0.2.2", Some("192.0.2.1")),
            ("127.0.0.1", Some("192.0.2.1")),
            ("fe80::99", Some("fe80::99")),
            ("2001:db8::2", Some("2001:db8::1")),
            ("224.0.0.1", None),
        ] {
            assert_eq!(seen(peer), expected.map(ip), "{peer}");
        }
    }

    #[test]
    fn stand_in_of_ipv6_fits_the_destination() {
        let map = Mapping::default();
        let go = |net: &Network, rule: &Rule| seen(net, &map, rule, "[::1]:9", "[::1]:8080");
        let mut net = network();
        assert_eq!(go(&net, &rule()), "[2001:db8::1]:9 -> [2001:db8::2]:80");
        let to_link_local = Rule { target_addr: Some(ip("fe80::5")), ..rule() };
        assert_eq!(go(&net, &to_link_local), "[fe80::fc]:9 -> [fe80::5]:80");

        let net_v6 = net.v6.as_mut().unwrap();
        (net_v6.gateway, net_v6.our_link_local) = (Some(v6("fe80::99")), v6("fe80::99"));
        assert_eq!(go(&net, &rule()), "[fe80::99]:9 -> [fe80::5]:80");
    }

    #[test]
    fn link_local_peer_reaches_the_only_address_known() {
        let nothing_seen = Learned { v6_link_local: None, ..learned() };
        let side = to_guest(
            &network(),
            &mapping(),
            &nothing_seen,
            &rule(),
            at("[fe80::99]:9"),
            at("[fe80::fc]:8080"),
        );
        assert_eq!(shown(side), "[fe80::99]:9 -> [2001:db8::2]:80");
    }

    #[test]
    fn refusals_of_host_to_guest() {
        let (net, map) = (network(), mapping());
        let go = |net: &Network, map: &Mapping, learned: &Learned, peer, local| {
            to_guest(net, map, learned, &rule(), at(peer), at(local)).unwrap_err()
        };
        let unknown = Learned { v6: None, v6_link_local: None, ..learned() };
        assert_eq!(
            go(&net, &map, &unknown, "[2001:db8::9]:9", "[2001:db8::2]:8080"),
            Refused::GuestAddressUnknown
        );
        assert_eq!(go(&net, &map, &learned(), "198.51.100.9:9", "192.0.2.2:8090"), Refused::NoRule);
        assert_eq!(
            go(&net, &map, &learned(), "198.51.100.9:9", "[2001:db8::2]:8080"),
            Refused::FamilyMismatch
        );
        assert_eq!(go(&net, &map, &learned(), "224.0.0.1:9", "192.0.2.2:8080"), Refused::Multicast);

        let inside = Rule { target_addr: Some(ip("127.0.0.5")), ..rule() };
        let (peer, local) = (at("198.51.100.9:9"), at("192.0.2.2:8080"));
        let refused = to_guest(&net, &map, &learned(), &inside, peer, local);
        assert_eq!(refused, Err(Refused::Loopback));

        let mut no_gateway = network();
        no_gateway.v4.as_mut().unwrap().gateway = None;
        assert_eq!(
            go(&no_gateway, &Mapping::default(), &learned(), "127.0.0.1:9", "127.0.0.1:8080"),
            Refused::NoStandIn
        );
        let mut off = network();
        off.v6 = None;
        assert_eq!(go(&off, &map, &learned(), "[::1]:9", "[::1]:8080"), Refused::FamilyDisabled);
        off.services.tcp = false;
        assert_eq!(
            go(&off, &map, &learned(), "127.0.0.1:9", "127.0.0.1:8080"),
            Refused::ProtocolDisabled
        );
    }

    #[test]
    fn sources_as_the_guest_sees_them() {
        let mut both = mapping();
        both.v4.guest_addr = Some(Ipv4Addr::new(169, 254, 1, 2));
        both.v6.guest_addr = Some(v6("2001:db8::99"));
        let none = Mapping::default();
        for (map, address, expected) in [
            (&both, "127.0.0.1", Some("192.0.2.1")),
            (&both, "::ffff:127.0.0.1", Some("192.0.2.1")),
            (&both, "::1", Some("2001:db8::1")),
            (&both, "192.0.2.2", Some("169.254.1.2")),
            (&both, "2001:db8::2", Some("2001:db8::99")),
            (&both, "127.0.0.2", None),
            (&none, "127.0.0.1", None),
            (&none, "::1", None),
            (&none, "192.0.2.2", None),
            (&none, "2001:db8::2", None),
            (&none, "0.0.0.0", None),
            (&none, "::", None),
            (&none, "255.255.255.255", None),
            (&none, "192.0.2.1", Some("192.0.2.1")),
            (&none, "198.51.100.9", Some("198.51.100.9")),
            (&none, "2001:db8::9", Some("2001:db8::9")),
        ] {
            let seen = source_for_guest(&network(), map, &learned(), ip(address));
            assert_eq!(seen, expected.map(ip), "{address}");
        }
        let learned = Learned { v4: Ipv4Addr::new(198, 51, 100, 9), ..learned() };
        assert_eq!(source_for_guest(&network(), &none, &learned, ip("198.51.100.9")), None);
    }
}
