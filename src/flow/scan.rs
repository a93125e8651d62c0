//! Automatic port forwarding: which ports are to be listened on, given which ports others listen on.
//!
//! Once in [`SCAN_PERIOD`] the shell notes the listening ports of both network namespaces in
//! [`Listening`] sets. A rule with the scan flag then listens on exactly those of its ports whose
//! target listens on the other side. What we ourselves listen on there for the opposite direction is
//! left out, or two rules would keep each other open for ever. UDP follows TCP as well: tools like
//! iperf3 open their UDP port only when their TCP port was talked to.
//!
//! Sets are bitmaps of fixed size: a scan allocates nothing, and costs the same for one port as for
//! all.

use std::time::Duration;

use super::fwd::{Proto, Rule};

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

/// The ports that are listened on in one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listening {
    /// TCP.
    pub(crate) tcp: PortSet,
    /// UDP: bound and not connected.
    pub(crate) udp: PortSet,
}

impl Listening {
    /// Empties both sets.
    pub(crate) fn clear(&mut self) {
        self.tcp.clear();
        self.udp.clear();
    }

    /// The set of a protocol; echo has no ports.
    pub(crate) fn of(&self, proto: Proto) -> &PortSet {
        if proto == Proto::Tcp { &self.tcp } else { &self.udp }
    }

    /// The set of a protocol, to be changed.
    pub(crate) fn of_mut(&mut self, proto: Proto) -> &mut PortSet {
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

/// What is to be done about a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Listen on it.
    Open(u16),
    /// Stop listening on it.
    Close(u16),
}

impl Change {
    /// The port.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Open(port) | Self::Close(port) => port,
        }
    }
}

/// What has to change so that `rule` listens where `targets` listen. `open` tells the ports it listens
/// on now.
pub(crate) fn changes<'a>(
    rule: &'a Rule,
    targets: &'a PortSet,
    open: &'a PortSet,
) -> impl Iterator<Item = Change> + 'a {
    let shift = rule.target_first.wrapping_sub(rule.first);
    let mut next = u32::from(rule.first);
    std::iter::from_fn(move || {
        while next <= u32::from(rule.last) {
            let port = next as u16;
            if shift == 0 && port.is_multiple_of(64) && targets.word(port) == open.word(port) {
                next += 64;
                continue;
            }
            next += 1;
            match (targets.contains(port.wrapping_add(shift)), open.contains(port)) {
                (true, false) => return Some(Change::Open(port)),
                (false, true) => return Some(Change::Close(port)),
                _ => {}
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { weak: true, scan: true, ..Rule::plain(Proto::Tcp, (1, u16::MAX), 1) };

    fn set(ports: &[u16]) -> PortSet {
        let mut set = PortSet::default();
        ports.iter().for_each(|&port| set.insert(port));
        set
    }

    #[test]
    fn rule_follows_what_listens_on_the_other_side() {
        let all: Vec<_> = changes(&RULE, &set(&[0, 1, 80, 443, 65535]), &set(&[22, 443])).collect();
        let expected = [Change::Open(1), Change::Close(22), Change::Open(80), Change::Open(65535)];
        assert_eq!(all, expected);
    }

    #[test]
    fn rule_stays_within_its_ports_and_looks_at_their_targets() {
        let rule = Rule { first: 8080, last: 8089, target_first: 80, ..RULE };
        let all: Vec<_> =
            changes(&rule, &set(&[79, 80, 89, 90, 8081]), &set(&[8079, 8082])).collect();
        assert_eq!(all, [Change::Open(8080), Change::Close(8082), Change::Open(8089)]);
    }

    #[test]
    fn own_listeners_are_not_forwarded_back() {
        let mut seen = Listening { tcp: set(&[80, 443]), udp: set(&[53, 443]) };
        let own = Listening { tcp: set(&[443]), udp: set(&[53]) };
        seen.without_own(&own);
        assert_eq!(seen.tcp, set(&[80]));
        assert_eq!(seen.udp, set(&[80, 443]), "UDP follows TCP, but not to our own TCP listener");
        assert!(!seen.of(Proto::Udp).contains(53));
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
