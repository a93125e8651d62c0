//! Guest to host: which host-side addresses stand for those in a packet of the guest.
//!
//! The destination is the first match of: DNS match address on a DNS port -> DNS host; host
//! loopback mapping -> loopback; guest address mapping -> the host's copy of the guest's address;
//! anything else is unchanged, provided that it is a destination the guest may name at all.
//!
//! The DNS host may be of the other family, even of one that the guest does not have: a host whose
//! one resolver is `127.0.0.53` serves guests with nothing but IPv6, and the reverse.

use std::net::{IpAddr, SocketAddr};

use super::{Mapping, Proto, Refused, View, scoped, special};
use crate::flow::network::Network;

/// Ports of DNS, plain and over TLS or QUIC (RFC 7858, RFC 9250).
pub(super) const DNS_PORTS: [u16; 2] = [53, 853];

/// The host side of a flow that the guest begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostSide {
    /// What to bind to. An unspecified address or port 0 leaves the choice to the kernel.
    pub(crate) source: SocketAddr,
    /// What to connect to, with its scope if it is link-local.
    pub(crate) destination: SocketAddr,
}

/// The host side of a flow from `guest` to `destination`, both as seen in the guest's packet.
///
/// The destination port never changes (for ICMP echo, whatever the caller passed); the source
/// port is the guest's for UDP and the kernel's choice otherwise.
///
/// # Errors
/// The reason why such a packet is not forwarded.
pub(crate) fn to_host(
    net: &Network,
    map: &Mapping,
    proto: Proto,
    guest: SocketAddr,
    destination: SocketAddr,
) -> Result<HostSide, Refused> {
    if !proto.enabled(&net.services) {
        return Err(Refused::ProtocolDisabled);
    }
    if guest.is_ipv4() != destination.is_ipv4() {
        return Err(Refused::FamilyMismatch);
    }
    let view = View::of(net, map, destination.ip())?;
    if proto != Proto::Icmp && (guest.port() == 0 || destination.port() == 0) {
        return Err(Refused::PortZero);
    }
    special::unicast(guest.ip())?;
    if !net.services.multicast && special::is_many(destination.ip()) {
        return Err(Refused::MulticastDisabled);
    }

    let template = net.scope_id();
    let (address, scope_id) = host_side(&view, map, proto, destination, template)?;
    let source_port = if proto == Proto::Udp { guest.port() } else { 0 };
    Ok(HostSide {
        source: scoped(map.outbound_for(address), source_port, template)?,
        destination: scoped(address, destination.port(), scope_id)?,
    })
}

/// Host-side address for a destination, and the scope it has if it needs one: as a rule that of the
/// `template` interface.
fn host_side(
    view: &View,
    map: &Mapping,
    proto: Proto,
    destination: SocketAddr,
    template: u32,
) -> Result<(IpAddr, u32), Refused> {
    let address = Some(destination.ip());
    let dns = proto != Proto::Icmp && DNS_PORTS.contains(&destination.port());

    if dns && address == view.map.dns_match {
        let scope_id = if map.dns_scope_id == 0 { template } else { map.dns_scope_id };
        let host = map.dns_host_for(destination.ip()).ok_or(Refused::DnsHostUnset)?;
        return Ok((host, scope_id));
    }
    if address == view.map.host_loopback {
        return Ok((view.loopback, 0));
    }
    if address == view.map.guest_addr {
        let copy = view.assigned.ok_or(Refused::GuestAddressUnknown)?;
        return Ok((copy, template));
    }
    let unchanged = match proto {
        Proto::Tcp => special::unicast(destination.ip())?,
        Proto::Udp | Proto::Icmp if special::is_many(destination.ip()) => destination.ip(),
        Proto::Udp | Proto::Icmp => special::unicast(destination.ip())?,
    };
    let scope_id = if unchanged.is_multicast() { group_scope(map, template) } else { template };
    Ok((unchanged, scope_id))
}

/// The port of a group that the guest has joined, as the host knows it.
///
/// # Errors
/// The reason why nothing is received there.
pub(crate) fn group_on_host(
    net: &Network,
    map: &Mapping,
    group: SocketAddr,
) -> Result<SocketAddr, Refused> {
    if !Proto::Udp.enabled(&net.services) {
        return Err(Refused::ProtocolDisabled);
    }
    if !net.services.multicast {
        return Err(Refused::MulticastDisabled);
    }
    View::of(net, map, group.ip())?;
    let address = special::unicast_or_group(group.ip())?;
    scoped(address, group.port(), group_scope(map, net.scope_id()))
}

/// The interface that groups of IPv6 are scoped to, if others are scoped to `template`.
fn group_scope(map: &Mapping, template: u32) -> u32 {
    if map.v6.group_interface == 0 { template } else { map.v6.group_interface }
}

#[cfg(test)]
mod tests {
    use super::super::example::{at, ip, mapping, network, v6};
    use super::*;
    use std::net::Ipv4Addr;

    const GUEST4: &str = "192.0.2.2:40000";
    const GUEST6: &str = "[2001:db8::2]:40000";

    fn map_to(map: &Mapping, proto: Proto, destination: &str) -> Result<HostSide, Refused> {
        let destination = at(destination);
        let guest = at(if destination.is_ipv4() { GUEST4 } else { GUEST6 });
        to_host(&network(), map, proto, guest, destination)
    }

    fn arrives(map: &Mapping, proto: Proto, destination: &str) -> String {
        map_to(map, proto, destination).map(|t| t.destination.to_string()).unwrap()
    }

    #[test]
    fn worked_examples_of_guest_to_host() {
        let plain = mapping();
        let mut dns_at_gateway = mapping();
        dns_at_gateway.v4.dns_match = Some(Ipv4Addr::new(192, 0, 2, 1));
        dns_at_gateway.v4.dns_host = Some(Ipv4Addr::new(192, 0, 2, 1));
        let mut dns_at_stub = dns_at_gateway.clone();
        dns_at_stub.v4.dns_host = Some(Ipv4Addr::new(127, 0, 0, 53));
        let mut guest_addr = mapping();
        guest_addr.v4.guest_addr = Some(Ipv4Addr::new(169, 254, 1, 2));

        for (map, proto, to, expected) in [
            (&plain, Proto::Tcp, "192.0.2.1:80", "127.0.0.1:80"),
            (&dns_at_gateway, Proto::Udp, "192.0.2.1:53", "192.0.2.1:53"),
            (&dns_at_stub, Proto::Udp, "192.0.2.1:53", "127.0.0.53:53"),
            (&guest_addr, Proto::Tcp, "169.254.1.2:80", "192.0.2.2:80"),
            (&plain, Proto::Tcp, "198.51.100.7:443", "198.51.100.7:443"),
            (&plain, Proto::Tcp, "[2001:db8::1]:80", "[::1]:80"),
            (&plain, Proto::Tcp, "[fe80::1]:80", "[fe80::1%7]:80"),
            (&plain, Proto::Tcp, "240.0.0.1:80", "240.0.0.1:80"),
            (&plain, Proto::Udp, "255.255.255.254:80", "255.255.255.254:80"),
        ] {
            assert_eq!(arrives(map, proto, to), expected, "{proto} {to}");
        }
        assert_eq!(map_to(&plain, Proto::Tcp, "127.0.0.1:80"), Err(Refused::Loopback));
    }

    #[test]
    fn dns_match_wins_over_loopback_on_dns_ports_of_tcp_and_udp_only() {
        let mut map = mapping();
        map.v4.dns_match = map.v4.host_loopback;
        map.v4.dns_host = Some(Ipv4Addr::new(203, 0, 113, 53));
        for (proto, to, expected) in [
            (Proto::Tcp, "192.0.2.1:53", "203.0.113.53:53"),
            (Proto::Udp, "192.0.2.1:853", "203.0.113.53:853"),
            (Proto::Udp, "192.0.2.1:54", "127.0.0.1:54"),
            (Proto::Icmp, "192.0.2.1:53", "127.0.0.1:53"),
        ] {
            assert_eq!(arrives(&map, proto, to), expected, "{proto} {to}");
        }
    }

    #[test]
    fn dns_match_without_a_host_is_refused_rather_than_sent_to_the_local_host() {
        let mut map = mapping();
        map.v4.dns_match = Some(Ipv4Addr::new(192, 0, 2, 53));
        map.v6.dns_match = Some(v6("2001:db8::53"));
        assert_eq!(map_to(&map, Proto::Udp, "192.0.2.53:53"), Err(Refused::DnsHostUnset));
        assert_eq!(map_to(&map, Proto::Tcp, "[2001:db8::53]:853"), Err(Refused::DnsHostUnset));
    }

    #[test]
    fn dns_host_of_the_other_family_is_the_last_resort() {
        let mut map = mapping();
        map.v4.dns_match = Some(Ipv4Addr::new(192, 0, 2, 53));
        map.v6.dns_match = Some(v6("2001:db8::53"));
        map.v4.dns_host = Some(Ipv4Addr::new(127, 0, 0, 53));
        for proto in [Proto::Tcp, Proto::Udp] {
            assert_eq!(arrives(&map, proto, "[2001:db8::53]:53"), "127.0.0.53:53");
            assert_eq!(arrives(&map, proto, "[2001:db8::53]:853"), "127.0.0.53:853");
        }
        let unmatched = map_to(&map, Proto::Icmp, "[2001:db8::53]:53").unwrap();
        assert!(unmatched.destination.is_ipv6(), "echo requests never change their family");
        let other_port = map_to(&map, Proto::Udp, "[2001:db8::53]:80").unwrap();
        assert!(other_port.destination.is_ipv6());
        map.v6.dns_host = Some(v6("2001:db8::7"));
        assert_eq!(arrives(&map, Proto::Udp, "[2001:db8::53]:53"), "[2001:db8::7]:53");
        map.v4.dns_host = None;
        assert_eq!(arrives(&map, Proto::Udp, "192.0.2.53:53"), "[2001:db8::7]:53");
    }

    #[test]
    fn a_query_that_changes_its_family_leaves_from_an_address_of_the_new_one() {
        let mut map = mapping();
        map.v6.dns_match = Some(v6("2001:db8::53"));
        map.v4.dns_host = Some(Ipv4Addr::new(198, 51, 100, 53));
        map.v6.outbound = Some(v6("2001:db8::77"));
        let source = |map: &Mapping| map_to(map, Proto::Udp, "[2001:db8::53]:53").unwrap().source;
        assert_eq!(source(&map), at("0.0.0.0:40000"));
        map.v4.outbound = Some(Ipv4Addr::new(192, 0, 2, 77));
        assert_eq!(source(&map), at("192.0.2.77:40000"));
    }

    #[test]
    fn dns_host_may_be_of_a_family_that_the_guest_does_not_have() {
        let mut map = mapping();
        map.v4.dns_match = Some(Ipv4Addr::new(192, 0, 2, 53));
        map.v6.dns_host = Some(v6("fe80::53"));
        let mut net = network();
        net.v6 = None;
        let go = |map: &Mapping| to_host(&net, map, Proto::Udp, at(GUEST4), at("192.0.2.53:53"));
        assert_eq!(go(&map), Err(Refused::NoScope));
        map.dns_scope_id = 9;
        assert_eq!(go(&map).unwrap().destination.to_string(), "[fe80::53%9]:53");
    }

    #[test]
    fn link_local_dns_host_keeps_its_own_scope() {
        let mut map = mapping();
        map.v6.dns_match = Some(v6("2001:db8::53"));
        map.v6.dns_host = Some(v6("fe80::53"));
        assert_eq!(arrives(&map, Proto::Udp, "[2001:db8::53]:53"), "[fe80::53%7]:53");
        map.dns_scope_id = 9;
        assert_eq!(arrives(&map, Proto::Udp, "[2001:db8::53]:53"), "[fe80::53%9]:53");
    }

    #[test]
    fn guest_address_mapping_works_for_both_families() {
        let mut map = mapping();
        map.v6.guest_addr = Some(v6("2001:db8::9"));
        assert_eq!(arrives(&map, Proto::Tcp, "[2001:db8::9]:80"), "[2001:db8::2]:80");
        let mut local = network();
        local.v6.as_mut().unwrap().addr = None;
        let refused = to_host(&local, &map, Proto::Tcp, at(GUEST6), at("[2001:db8::9]:80"));
        assert_eq!(refused, Err(Refused::GuestAddressUnknown));
    }

    #[test]
    fn source_is_the_outbound_address_and_only_udp_keeps_the_port() {
        let mut map = mapping();
        for (proto, port) in [(Proto::Tcp, 0), (Proto::Udp, 40000), (Proto::Icmp, 0)] {
            let target = map_to(&map, proto, "198.51.100.7:443").unwrap();
            assert_eq!(target.source, SocketAddr::new(ip("0.0.0.0"), port), "{proto}");
        }
        map.v4.outbound = Some(Ipv4Addr::new(192, 0, 2, 77));
        map.v6.outbound = Some(v6("fe80::77"));
        let target = map_to(&map, Proto::Udp, "198.51.100.7:443").unwrap();
        assert_eq!(target.source, at("192.0.2.77:40000"));
        let target = map_to(&map, Proto::Tcp, "[2001:db8::9]:443").unwrap();
        assert_eq!(target.source.to_string(), "[fe80::77%7]:0");
    }

    #[test]
    fn special_destinations_are_refused_on_every_path() {
        let never = [
            ("0.0.0.0:80", Refused::Unspecified),
            ("127.0.0.53:53", Refused::Loopback),
            ("[::]:80", Refused::Unspecified),
            ("[::1]:80", Refused::Loopback),
            ("[::ffff:127.0.0.1]:80", Refused::V4InV6),
            ("[::ffff:198.51.100.7]:80", Refused::V4InV6),
            ("[::198.51.100.7]:80", Refused::V4InV6),
            ("[ff01::1]:80", Refused::Reserved),
        ];
        for (to, reason) in never {
            for proto in [Proto::Tcp, Proto::Udp, Proto::Icmp] {
                assert_eq!(map_to(&mapping(), proto, to), Err(reason), "{proto} {to}");
            }
        }
        for to in ["224.0.0.251:5353", "[ff02::fb]:5353"] {
            assert_eq!(map_to(&mapping(), Proto::Tcp, to), Err(Refused::Multicast));
        }
        let everybody = "255.255.255.255:9";
        assert_eq!(map_to(&mapping(), Proto::Tcp, everybody), Err(Refused::Broadcast));
        for proto in [Proto::Udp, Proto::Icmp] {
            assert_eq!(arrives(&mapping(), proto, everybody), everybody);
            assert_eq!(arrives(&mapping(), proto, "[ff02::fb]:5353"), "[ff02::fb%7]:5353");
            assert_eq!(arrives(&mapping(), proto, "224.0.0.251:5353"), "224.0.0.251:5353");
        }
    }

    #[test]
    fn what_is_for_many_goes_nowhere_if_that_is_off() {
        let mut net = network();
        net.services.multicast = false;
        for (guest, to) in [
            (GUEST4, "224.0.0.251:5353"),
            (GUEST4, "255.255.255.255:9"),
            (GUEST6, "[ff02::fb]:5353"),
            (GUEST6, "[ff0e::1]:1"),
        ] {
            for proto in [Proto::Udp, Proto::Icmp] {
                let refused = to_host(&net, &mapping(), proto, at(guest), at(to));
                assert_eq!(refused, Err(Refused::MulticastDisabled), "{proto} {to}");
            }
            let joined = group_on_host(&net, &mapping(), at(to));
            assert_eq!(joined, Err(Refused::MulticastDisabled), "{to}");
        }
    }

    #[test]
    fn groups_are_received_where_their_interface_is() {
        let mut map = mapping();
        let on_host = |map: &Mapping, group| group_on_host(&network(), map, at(group));
        assert_eq!(on_host(&map, "224.0.0.251:5353"), Ok(at("224.0.0.251:5353")));
        assert_eq!(on_host(&map, "[ff05::c]:1900"), Ok(at("[ff05::c]:1900")));
        assert_eq!(on_host(&map, "[ff02::fb]:5353"), Ok(at("[ff02::fb%7]:5353")));
        map.v6.group_interface = 9;
        assert_eq!(on_host(&map, "[ff02::fb]:5353"), Ok(at("[ff02::fb%9]:5353")));
        assert_eq!(on_host(&map, "[ff01::1]:1"), Err(Refused::Reserved));
        let mut net = network();
        net.v6 = None;
        let group = at("[ff05::c]:1900");
        assert_eq!(group_on_host(&net, &map, group), Err(Refused::FamilyDisabled));
    }

    #[test]
    fn special_sources_are_refused() {
        for (guest, to, reason) in [
            ("0.0.0.0:1", "198.51.100.7:1", Refused::Unspecified),
            ("127.0.0.1:1", "198.51.100.7:1", Refused::Loopback),
            ("224.0.0.1:1", "198.51.100.7:1", Refused::Multicast),
            ("[::ffff:192.0.2.2]:1", "[2001:db8::7]:1", Refused::V4InV6),
            ("192.0.2.2:0", "198.51.100.7:1", Refused::PortZero),
            ("192.0.2.2:1", "198.51.100.7:0", Refused::PortZero),
            ("192.0.2.2:1", "[2001:db8::7]:1", Refused::FamilyMismatch),
        ] {
            let target = to_host(&network(), &mapping(), Proto::Udp, at(guest), at(to));
            assert_eq!(target, Err(reason), "{guest} {to}");
        }
    }

    #[test]
    fn disabled_families_and_protocols_refuse() {
        let mut net = network();
        net.v4 = None;
        net.services.udp = false;
        let go = |proto, guest, to| to_host(&net, &mapping(), proto, at(guest), at(to));
        assert_eq!(go(Proto::Tcp, GUEST4, "198.51.100.7:1"), Err(Refused::FamilyDisabled));
        assert_eq!(go(Proto::Udp, GUEST6, "[2001:db8::7]:1"), Err(Refused::ProtocolDisabled));
        assert!(go(Proto::Tcp, GUEST6, "[2001:db8::7]:1").is_ok());
    }

    #[test]
    fn link_local_destination_without_an_interface_is_refused() {
        let mut net = network();
        net.v6.as_mut().unwrap().scope_id = 0;
        let target = to_host(&net, &mapping(), Proto::Tcp, at(GUEST6), at("[fe80::9]:80"));
        assert_eq!(target, Err(Refused::NoScope));
    }
}
