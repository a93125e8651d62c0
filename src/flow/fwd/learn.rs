//! What the guest's own traffic teaches about its addresses: inbound connections go to the assigned one, or to
//! another that it was seen to use if that one is not in use ([`tenure`](super::tenure)), unless the operator fixed
//! it with `--address`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::special;
use super::tenure::{Step, Tenure};
use crate::flow::network::{Learned, Mac, Network};
use crate::time::Timestamp;

/// What is assumed before the guest has said anything: it uses what it was assigned.
pub(crate) fn initial(net: &Network) -> Learned {
    Learned {
        mac: Mac::BROADCAST,
        v4: net.v4.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |v4| v4.addr),
        v6: net.v6.as_ref().and_then(|v6| v6.addr),
        v6_link_local: None,
        kept_v4: None,
        kept_v6: None,
        tenures: Default::default(),
    }
}

/// A namespace keeps the addresses of `old`, the first that it was assigned, and has those of `new` besides from now on.
pub(crate) fn keep_first(old: &Network, new: &Network, learned: &mut Learned) {
    let global = |net: &Network| {
        net.v6.as_ref().and_then(|v6| v6.addr).filter(|address| !address.is_unicast_link_local())
    };
    let v4 = |net: &Network| net.v4.as_ref().map(|v4| v4.addr);
    if learned.kept_v4.is_none() {
        learned.kept_v4 = v4(old);
        learned.v4 = v4(old).or(v4(new)).unwrap_or(learned.v4);
    }
    if learned.kept_v6.is_none() {
        learned.kept_v6 = global(old);
        learned.v6 = global(old).or(global(new)).or(learned.v6);
    }
    // They are in use, though they may have said nothing yet.
    if learned.kept_v4 == Some(learned.v4) {
        learned.tenures[AddressSlot::V4 as usize] = Tenure::expected();
    }
    if learned.kept_v6.is_some() && learned.kept_v6 == learned.v6 {
        learned.tenures[AddressSlot::V6 as usize] = Tenure::expected();
    }
}

/// Learns from an address that the guest uses, by the source of an IP packet or in neighbour discovery; special
/// addresses teach nothing. What is to be done about it.
pub(crate) fn learn(net: &Network, learned: &mut Learned, source: IpAddr, now: Timestamp) -> Step {
    if special::unicast(source).is_err() {
        return Step::default();
    }
    let slot = AddressSlot::of(source);
    let step = match slot.facts(net, learned) {
        Some(known) => learned.tenures[slot as usize].on_source(known, source, now),
        None => return Step::default(),
    };
    learned.apply(step);
    if let (AddressSlot::LinkLocal, None, IpAddr::V6(source), Some(v6)) =
        (slot, learned.v6, source, &net.v6)
        && !v6.fixed
    {
        learned.v6 = Some(source);
    }
    step
}

/// The guest is about to use `address`, if nobody else has it. What is to be done about it.
pub(crate) fn expect(
    net: &Network,
    learned: &mut Learned,
    address: IpAddr,
    now: Timestamp,
) -> Step {
    let slot = AddressSlot::of(address);
    match slot.facts(net, learned).filter(|_| special::unicast(address).is_ok()) {
        Some((current, _)) => learned.tenures[slot as usize].on_candidate(current, address, now),
        None => Step::default(),
    }
}

/// What is to be done now about addresses that were asked for.
pub(crate) fn reconsider(net: &Network, learned: &mut Learned, now: Timestamp) -> [Step; 3] {
    AddressSlot::ALL.map(|slot| {
        let Some(known) = slot.facts(net, learned) else { return Step::default() };
        let step = learned.tenures[slot as usize].on_timer(known, now);
        learned.apply(step);
        step
    })
}

/// What was to be asked for `address` has found no room on the link. What is to be done about it.
pub(crate) fn question_lost(learned: &mut Learned, address: IpAddr, now: Timestamp) -> Step {
    learned.tenures[AddressSlot::of(address) as usize].on_question_lost(now)
}

/// The guest was given `address` by DHCPv6, and is expected to use it soon.
pub(crate) fn assign(learned: &mut Learned, address: Ipv6Addr) {
    let tenure = &mut learned.tenures[AddressSlot::V6 as usize];
    if learned.v6 != Some(address) || !tenure.is_seen() {
        learned.v6 = Some(address);
        *tenure = Tenure::expected();
    }
}

/// The link is another one: nothing is known of who uses which address.
pub(crate) fn begin_link(learned: &mut Learned) {
    learned.tenures = Default::default();
}

/// What an address is learned as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressSlot {
    V4,
    V6,
    LinkLocal,
}

impl AddressSlot {
    const ALL: [Self; 3] = [Self::V4, Self::V6, Self::LinkLocal];

    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Self::LinkLocal,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The address that was learned as this, and the one that was assigned; `None` if nothing is to be learned. A
    /// link-local address that stands in for one is as good as none.
    fn facts(self, net: &Network, learned: &Learned) -> Option<(Option<IpAddr>, Option<IpAddr>)> {
        match self {
            Self::V4 => {
                let v4 = net.v4.as_ref().filter(|v4| !v4.fixed)?;
                let current = Some(learned.v4).filter(|address| !address.is_unspecified());
                let assigned = learned.kept_v4.unwrap_or(v4.addr);
                Some((current.map(IpAddr::V4), Some(assigned.into())))
            }
            Self::V6 => {
                let v6 = net.v6.as_ref().filter(|v6| !v6.fixed)?;
                let current = learned.v6.filter(|address| !address.is_unicast_link_local());
                Some((current.map(IpAddr::V6), learned.kept_v6.or(v6.addr).map(IpAddr::V6)))
            }
            Self::LinkLocal => {
                net.v6.as_ref()?;
                Some((learned.v6_link_local.map(IpAddr::V6), None))
            }
        }
    }
}

impl Learned {
    fn apply(&mut self, step: Step) {
        match step.lead_to {
            Some(IpAddr::V4(v4)) => self.v4 = v4,
            Some(IpAddr::V6(v6)) if v6.is_unicast_link_local() => self.v6_link_local = Some(v6),
            Some(IpAddr::V6(v6)) => self.v6 = Some(v6),
            None => {}
        }
    }
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

    /// Learns at the beginning of time; true if anything but its being in use is new.
    fn hears(net: &Network, learned: &mut Learned, source: IpAddr) -> bool {
        let before = *learned;
        learn(net, learned, source, Timestamp::ZERO);
        *learned != Learned { tenures: learned.tenures, ..before }
    }

    #[test]
    fn the_assigned_address_keeps_its_ports_while_it_is_in_use() {
        let net = network();
        for (ours, other) in [("192.0.2.2", "192.0.2.77"), ("2001:db8::2", "2001:db8::77")] {
            let mut learned = initial(&net);
            learn(&net, &mut learned, ip(ours), Timestamp::ZERO);
            let step = learn(&net, &mut learned, ip(other), Timestamp::ZERO);
            assert_eq!((step.ask, step.lead_to), (Some(ip(ours)), None));
            assert_eq!(learned, Learned { tenures: learned.tenures, ..initial(&net) });
            let steps = reconsider(&net, &mut learned, step.again.unwrap());
            assert_eq!(steps.iter().find_map(|step| step.lead_to), Some(ip(other)));
            let found: IpAddr =
                if ip(ours).is_ipv4() { learned.v4.into() } else { learned.v6.unwrap().into() };
            assert_eq!(found, ip(other));
        }
    }

    #[test]
    fn a_namespace_that_keeps_its_first_addresses_keeps_its_ports() {
        let old = network();
        let mut new = network();
        new.v4.as_mut().unwrap().addr = Ipv4Addr::new(203, 0, 113, 2);
        new.v6.as_mut().unwrap().addr = Some(v6("2001:db8:7::2"));
        for (first, now) in [("192.0.2.2", "203.0.113.2"), ("2001:db8::2", "2001:db8:7::2")] {
            let led_to = |learned: &Learned| -> IpAddr {
                if ip(first).is_ipv4() { learned.v4.into() } else { learned.v6.unwrap().into() }
            };
            let mut learned = initial(&old);
            keep_first(&old, &new, &mut learned);
            assert_eq!(led_to(&learned), ip(first));
            let step = learn(&new, &mut learned, ip(now), Timestamp::ZERO);
            assert_eq!(step.ask, Some(ip(first)), "it may be in use without a word");
            let mut silent = learned;
            learn(&new, &mut learned, ip(first), Timestamp::ZERO);
            reconsider(&new, &mut learned, step.again.unwrap());
            assert_eq!(led_to(&learned), ip(first), "it has answered");
            reconsider(&new, &mut silent, step.again.unwrap());
            assert_eq!(led_to(&silent), ip(now), "it was removed");
            // And whatever comes next.
            keep_first(&new, &old, &mut silent);
            assert_eq!(led_to(&silent), ip(now));
            learn(&new, &mut silent, ip(first), Timestamp::ZERO);
            assert_eq!(led_to(&silent), ip(first), "it is there again");
        }
        let mut nothing = network();
        (nothing.v4, nothing.v6.as_mut().unwrap().addr) = (None, None);
        let mut learned = initial(&nothing);
        keep_first(&nothing, &old, &mut learned);
        assert_eq!((learned.v4, learned.v6), (initial(&old).v4, initial(&old).v6));
    }

    #[test]
    fn an_address_given_by_dhcpv6_is_expected_to_be_used() {
        let net = network();
        let mut learned = initial(&net);
        hears(&net, &mut learned, ip("2001:db8::77"));
        assign(&mut learned, v6("2001:db8::2"));
        assert_eq!(learned.v6, Some(v6("2001:db8::2")));
        let step = learn(&net, &mut learned, ip("2001:db8::77"), Timestamp::ZERO);
        assert_eq!(step.ask, Some(ip("2001:db8::2")), "not at once");
        begin_link(&mut learned);
        assert!(hears(&net, &mut learned, ip("2001:db8::77")), "another guest");
        begin_link(&mut learned);
        assign(&mut learned, v6("2001:db8::77"));
        let step = learn(&net, &mut learned, ip("2001:db8::78"), Timestamp::ZERO);
        assert_eq!(step.ask, Some(ip("2001:db8::77")), "nor where ports lead there already");
    }

    #[test]
    fn any_ordinary_source_replaces_an_ipv4_address_that_was_never_seen() {
        let net = network();
        let mut learned = initial(&net);
        assert!(hears(&net, &mut learned, ip("198.51.100.1")));
        assert!(!hears(&net, &mut learned, ip("198.51.100.1")));
        assert_eq!(learned.v4, Ipv4Addr::new(198, 51, 100, 1));
    }

    #[test]
    fn special_sources_teach_nothing() {
        let net = network();
        let mut learned = initial(&net);
        for source in ["0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1"] {
            assert!(!hears(&net, &mut learned, ip(source)), "{source}");
        }
        for source in ["::", "::1", "::ffff:192.0.2.9", "ff02::1"] {
            assert!(!hears(&net, &mut learned, ip(source)), "{source}");
        }
        assert_eq!(learned, initial(&net));
    }

    #[test]
    fn link_local_source_is_kept_apart_from_the_global_one() {
        let net = network();
        let mut learned = initial(&net);
        assert!(hears(&net, &mut learned, ip("fe80::5")));
        assert!(hears(&net, &mut learned, ip("2001:db8::77")));
        assert_eq!(learned.v6_link_local, Some(v6("fe80::5")));
        assert_eq!(learned.v6, Some(v6("2001:db8::77")));
    }

    #[test]
    fn in_local_mode_the_first_link_local_source_stands_for_the_guest() {
        let mut net = network();
        net.v6.as_mut().unwrap().addr = None;
        let mut learned = initial(&net);
        hears(&net, &mut learned, ip("fe80::5"));
        hears(&net, &mut learned, ip("fe80::6"));
        assert_eq!(learned.v6, Some(v6("fe80::5")));
        assert_eq!(learned.v6_link_local, Some(v6("fe80::5")), "it was in use");
        hears(&net, &mut learned, ip("2001:db8::77"));
        assert_eq!(learned.v6, Some(v6("2001:db8::77")), "better than a link-local one");
    }

    #[test]
    fn fixed_addresses_are_never_learned() {
        let mut net = network();
        net.v4.as_mut().unwrap().fixed = true;
        net.v6.as_mut().unwrap().fixed = true;
        let mut learned = initial(&net);
        assert!(!hears(&net, &mut learned, ip("198.51.100.1")));
        assert!(!hears(&net, &mut learned, ip("2001:db8::77")));
        assert!(hears(&net, &mut learned, ip("fe80::5")));
        assert_eq!(learned.v6, Some(v6("2001:db8::2")));
    }

    #[test]
    fn a_disabled_family_teaches_nothing() {
        let mut net = network();
        (net.v4, net.v6) = (None, None);
        let mut learned = initial(&net);
        assert!(!hears(&net, &mut learned, ip("198.51.100.1")));
        assert!(!hears(&net, &mut learned, ip("fe80::5")));
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
