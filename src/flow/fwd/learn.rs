//! What the guest's own traffic teaches about its addresses: inbound connections go to the
//! address it was last seen to use, unless the operator fixed it with `--address`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::special;
use crate::flow::network::{Learned, Mac, Network};

/// What is assumed before the guest has said anything: it uses what it was assigned.
pub(crate) fn initial(net: &Network) -> Learned {
    Learned {
        mac: Mac::BROADCAST,
        v4: net.v4.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |v4| v4.addr),
        v6: net.v6.as_ref().and_then(|v6| v6.addr),
        v6_link_local: None,
    }
}

/// Learns from the source address of an IP packet of the guest; special addresses teach nothing.
/// True if anything is new.
pub(crate) fn learn(net: &Network, learned: &mut Learned, source: IpAddr) -> bool {
    if special::unicast(source).is_err() {
        return false;
    }
    let before = *learned;
    match source {
        IpAddr::V4(source) => learn_v4(net, learned, source),
        IpAddr::V6(source) => learn_v6(net, learned, source),
    }
    *learned != before
}

/// Learns from the source of any Ethernet frame of the guest; group addresses and the zero
/// address, which no station may use, teach nothing. True if it is new.
pub(crate) fn learn_mac(learned: &mut Learned, source: Mac) -> bool {
    if !source.is_station() || source == learned.mac {
        return false;
    }
    learned.mac = source;
    true
}

fn learn_v4(net: &Network, learned: &mut Learned, source: Ipv4Addr) {
    if net.v4.as_ref().is_some_and(|v4| !v4.fixed) {
        learned.v4 = source;
    }
}

fn learn_v6(net: &Network, learned: &mut Learned, source: Ipv6Addr) {
    let Some(v6) = &net.v6 else { return };
    let link_local = source.is_unicast_link_local();
    if link_local {
        learned.v6_link_local = Some(source);
    }
    if !v6.fixed && (!link_local || learned.v6.is_none()) {
        learned.v6 = Some(source);
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{ip, network, v6};
    use super::*;

    #[test]
    fn the_assigned_addresses_come_first() {
        let learned = initial(&network());
        assert_eq!(learned.mac, Mac::BROADCAST);
        assert_eq!(learned.v4, Ipv4Addr::new(192, 0, 2, 2));
        assert_eq!((learned.v6, learned.v6_link_local), (Some(v6("2001:db8::2")), None));
    }

    #[test]
    fn any_ordinary_source_replaces_the_ipv4_address() {
        let net = network();
        let mut learned = initial(&net);
        assert!(learn(&net, &mut learned, ip("198.51.100.1")));
        assert!(!learn(&net, &mut learned, ip("198.51.100.1")));
        assert_eq!(learned.v4, Ipv4Addr::new(198, 51, 100, 1));
    }

    #[test]
    fn special_sources_teach_nothing() {
        let net = network();
        let mut learned = initial(&net);
        for source in ["0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1"] {
            assert!(!learn(&net, &mut learned, ip(source)), "{source}");
        }
        for source in ["::", "::1", "::ffff:192.0.2.9", "ff02::1"] {
            assert!(!learn(&net, &mut learned, ip(source)), "{source}");
        }
        assert_eq!(learned, initial(&net));
    }

    #[test]
    fn link_local_source_is_kept_apart_from_the_global_one() {
        let net = network();
        let mut learned = initial(&net);
        assert!(learn(&net, &mut learned, ip("fe80::5")));
        assert!(learn(&net, &mut learned, ip("2001:db8::77")));
        assert_eq!(learned.v6_link_local, Some(v6("fe80::5")));
        assert_eq!(learned.v6, Some(v6("2001:db8::77")));
    }

    #[test]
    fn in_local_mode_the_first_link_local_source_stands_for_the_guest() {
        let mut net = network();
        net.v6.as_mut().unwrap().addr = None;
        let mut learned = initial(&net);
        learn(&net, &mut learned, ip("fe80::5"));
        learn(&net, &mut learned, ip("fe80::6"));
        assert_eq!(learned.v6, Some(v6("fe80::5")));
        assert_eq!(learned.v6_link_local, Some(v6("fe80::6")));
    }

    #[test]
    fn fixed_addresses_are_never_learned() {
        let mut net = network();
        net.v4.as_mut().unwrap().fixed = true;
        net.v6.as_mut().unwrap().fixed = true;
        let mut learned = initial(&net);
        assert!(!learn(&net, &mut learned, ip("198.51.100.1")));
        assert!(!learn(&net, &mut learned, ip("2001:db8::77")));
        assert!(learn(&net, &mut learned, ip("fe80::5")));
        assert_eq!(learned.v6, Some(v6("2001:db8::2")));
    }

    #[test]
    fn a_disabled_family_teaches_nothing() {
        let mut net = network();
        (net.v4, net.v6) = (None, None);
        let mut learned = initial(&net);
        assert!(!learn(&net, &mut learned, ip("198.51.100.1")));
        assert!(!learn(&net, &mut learned, ip("fe80::5")));
    }

    #[test]
    fn the_last_station_address_seen_counts() {
        let mut learned = initial(&network());
        assert!(learn_mac(&mut learned, Mac([2, 0, 0, 0, 0, 1])));
        assert!(!learn_mac(&mut learned, Mac([2, 0, 0, 0, 0, 1])));
        assert!(!learn_mac(&mut learned, Mac([1, 0, 0, 0, 0, 1])));
        assert!(!learn_mac(&mut learned, Mac::default()));
        assert_eq!(learned.mac, Mac([2, 0, 0, 0, 0, 1]));
    }
}
