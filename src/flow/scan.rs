//! Automatic port forwarding: which ports are to be listened on, given which ports others listen on.
//!
//! Once in [`SCAN_PERIOD`] the shell notes the listening ports of both network namespaces in
//! [`Listening`] sets. A rule with the scan flag then listens on exactly those of its ports whose
//! target listens on the other side, and in the families in which it does: who connects to another one is refused, as
//! where the service is. What we ourselves listen on there for the opposite direction is
//! left out, or two rules would keep each other open for ever. UDP follows TCP as well: tools like
//! iperf3 open their UDP port only when their TCP port was talked to.
//!
//! Sets are bitmaps of fixed size: a scan allocates nothing, and costs the same for one port as for
//! all.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::fwd::{ListenAddr, Proto, Rule};

/// Time between two scans: a service can be reached, and is gone, within a second. Timers may be a tick
/// of 8 ms late.
pub const SCAN_PERIOD: Duration = Duration::from_millis(980);

const WORDS: usize = 65536 / 64;

/// A set of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortSet(Box<[u64; WORDS]>);

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl PortSet {
    /// Adds a port.
    pub(crate) fn insert(&mut self, port: u16) {
        self.0[usize::from(port) / 64] |= 1 << (port % 64);
    }

    /// Takes a port out.
    pub(crate) fn remove(&mut self, port: u16) {
        self.0[usize::from(port) / 64] &= !(1 << (port % 64));
    }

    /// Whether a port is in the set.
    pub(crate) fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] >> (port % 64) & 1 == 1
    }

    /// Empties the set.
    pub(crate) fn clear(&mut self) {
        self.0.fill(0);
    }

    /// The 64 ports around `port`.
    fn word(&self, port: u16) -> u64 {
        self.0[usize::from(port) / 64]
    }

    /// Adds all ports of `other`.
    pub(crate) fn insert_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(&*other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// Takes all ports of `other` out.
    pub(crate) fn remove_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(&*other.0).for_each(|(mine, theirs)| *mine &= !theirs);
    }
}

/// Families in which something listens on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Families {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Families {
    /// That of an address.
    pub(crate) fn one(v4: bool) -> Self {
        Self { v4, v6: !v4 }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Those that are in `other`, too.
    pub(crate) fn within(self, other: Self) -> Self {
        Self { v4: self.v4 && other.v4, v6: self.v6 && other.v6 }
    }

    /// Those that are not in `other`.
    pub(crate) fn without(self, other: Self) -> Self {
        Self { v4: self.v4 && !other.v4, v6: self.v6 && !other.v6 }
    }

    /// Where a rule that listens on `listen` listens in these families alone, which it has.
    pub(crate) fn narrow(self, listen: ListenAddr) -> ListenAddr {
        match (listen, self.v4, self.v6) {
            (ListenAddr::Dual, true, false) => ListenAddr::V4(Ipv4Addr::UNSPECIFIED),
            (ListenAddr::Dual, false, true) => ListenAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => listen,
        }
    }
}

impl From<ListenAddr> for Families {
    fn from(listen: ListenAddr) -> Self {
        Self { v4: !matches!(listen, ListenAddr::V6(_)), v6: !matches!(listen, ListenAddr::V4(_)) }
    }
}

/// Ports, each with the families in which something listens on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ports {
    v4: PortSet,
    v6: PortSet,
}

impl Ports {
    /// Adds families of a port.
    pub(crate) fn insert(&mut self, port: u16, families: Families) {
        if families.v4 {
            self.v4.insert(port);
        }
        if families.v6 {
            self.v6.insert(port);
        }
    }

    /// The families of a port.
    pub(crate) fn families(&self, port: u16) -> Families {
        Families { v4: self.v4.contains(port), v6: self.v6.contains(port) }
    }

    /// Takes all out.
    pub(crate) fn clear(&mut self) {
        self.v4.clear();
        self.v6.clear();
    }

    fn insert_all(&mut self, other: &Self) {
        self.v4.insert_all(&other.v4);
        self.v6.insert_all(&other.v6);
    }

    fn remove_all(&mut self, other: &Self) {
        self.v4.remove_all(&other.v4);
        self.v6.remove_all(&other.v6);
    }

    /// Whether the 64 ports around `port` are the same here and in `other`, as far as `families` go.
    fn is_like(&self, other: &Self, port: u16, families: Families) -> bool {
        (!families.v4 || self.v4.word(port) == other.v4.word(port))
            && (!families.v6 || self.v6.word(port) == other.v6.word(port))
    }
}

/// The ports that are listened on in one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listening {
    /// TCP.
    pub(crate) tcp: Ports,
    /// UDP: bound and not connected.
    pub(crate) udp: Ports,
}

impl Listening {
    /// Empties both sets.
    pub(crate) fn clear(&mut self) {
        self.tcp.clear();
        self.udp.clear();
    }

    /// The set of a protocol; echo has no ports.
    pub(crate) fn of(&self, proto: Proto) -> &Ports {
        if proto == Proto::Tcp { &self.tcp } else { &self.udp }
    }

    /// The set of a protocol, to be changed.
    pub(crate) fn of_mut(&mut self, proto: Proto) -> &mut Ports {
        if proto == Proto::Tcp { &mut self.tcp } else { &mut self.udp }
    }

    /// From what listens in a namespace to what may be forwarded to it: without `own`, where we
    /// listen there ourselves, and with the ports of TCP for UDP, too.
    pub(crate) fn without_own(&mut self, own: &Self) {
        self.tcp.remove_all(&own.tcp);
        self.udp.insert_all(&self.tcp);
        self.udp.remove_all(&own.udp);
    }
}

/// A port that is to be listened on in these families, and no other: perhaps in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) port: u16,
    pub(crate) wanted: Families,
}

/// What has to change so that `rule` listens where `targets` listen. `open` tells the ports it listens
/// on now.
pub(crate) fn changes<'a>(
    rule: &'a Rule,
    targets: &'a Ports,
    open: &'a Ports,
) -> impl Iterator<Item = Change> + 'a {
    let shift = rule.target_first.wrapping_sub(rule.first);
    let families = Families::from(rule.listen);
    let mut next = u32::from(rule.first);
    std::iter::from_fn(move || {
        while next <= u32::from(rule.last) {
            let port = next as u16;
            if shift == 0 && port.is_multiple_of(64) && targets.is_like(open, port, families) {
                next += 64;
                continue;
            }
            next += 1;
            let wanted = targets.families(port.wrapping_add(shift)).within(families);
            if wanted != open.families(port) {
                return Some(Change { port, wanted });
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { weak: true, scan: true, ..Rule::plain(Proto::Tcp, (1, u16::MAX), 1) };

    const BOTH: Families = Families { v4: true, v6: true };
    const NONE: Families = Families { v4: false, v6: false };

    fn set(ports: &[u16]) -> Ports {
        let mut set = Ports::default();
        ports.iter().for_each(|&port| set.insert(port, BOTH));
        set
    }

    fn all(rule: &Rule, targets: &Ports, open: &Ports) -> Vec<(u16, Families)> {
        changes(rule, targets, open).map(|change| (change.port, change.wanted)).collect()
    }

    #[test]
    fn rule_follows_what_listens_on_the_other_side() {
        let all = all(&RULE, &set(&[0, 1, 80, 443, 65535]), &set(&[22, 443]));
        assert_eq!(all, [(1, BOTH), (22, NONE), (80, BOTH), (65535, BOTH)]);
    }

    #[test]
    fn rule_follows_a_service_in_its_families() {
        let [v4, v6] = [true, false].map(Families::one);
        let mut targets = Ports::default();
        for (port, families) in [(64, v4), (65, v6), (66, BOTH), (67, BOTH), (68, v4)] {
            targets.insert(port, families);
        }
        let mut open = set(&[66, 68]);
        open.insert(67, v4);
        let changed = all(&RULE, &targets, &open);
        assert_eq!(changed, [(64, v4), (65, v6), (67, BOTH), (68, v4)]);
        let narrow = Rule { listen: ListenAddr::V6(Ipv6Addr::LOCALHOST), ..RULE };
        let changed = all(&narrow, &targets, &Ports::default());
        assert_eq!(changed, [(65, v6), (66, v6), (67, v6)]);
        assert_eq!(all(&narrow, &set(&[]), &Ports::default()), []);
        assert_eq!(v6.narrow(ListenAddr::Dual), ListenAddr::V6(Ipv6Addr::UNSPECIFIED));
        assert_eq!(v6.narrow(narrow.listen), narrow.listen);
    }

    #[test]
    fn rule_stays_within_its_ports_and_looks_at_their_targets() {
        let rule = Rule { first: 8080, last: 8089, target_first: 80, ..RULE };
        let all = all(&rule, &set(&[79, 80, 89, 90, 8081]), &set(&[8079, 8082]));
        assert_eq!(all, [(8080, BOTH), (8082, NONE), (8089, BOTH)]);
    }

    #[test]
    fn own_listeners_are_not_forwarded_back() {
        let mut seen = Listening { tcp: set(&[80, 443]), udp: set(&[53, 443]) };
        let own = Listening { tcp: set(&[443]), udp: set(&[53]) };
        seen.without_own(&own);
        assert_eq!(seen.tcp, set(&[80]));
        assert_eq!(seen.udp, set(&[80, 443]), "UDP follows TCP, but not to our own TCP listener");
        assert_eq!(seen.of(Proto::Udp).families(53), NONE);
        seen.clear();
        assert_eq!(seen, Listening::default());
    }

    #[test]
    fn sets_hold_every_port() {
        let mut set = PortSet::default();
        for port in 0..=u16::MAX {
            assert!(!set.contains(port));
            set.insert(port);
            assert!(set.contains(port));
        }
        for port in 0..=u16::MAX {
            set.remove(port);
        }
        assert_eq!(set, PortSet::default());
    }
}
