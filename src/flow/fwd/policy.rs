//! What the guest may reach: rules of which the first that matches decides, made by the operator (`--egress`,
//! `--isolate`). Without rules the guest reaches what this host does; with rules, what none of them matches is
//! rejected.
//!
//! Two addresses are judged: the one that the guest used, and where it really leads. What forbids looks at both, and at
//! the IPv4 addresses inside IPv6 ones; what allows looks at where the traffic really goes, and at nothing else. So no
//! mapping and no disguise is a way round a rule: a gateway that stands for the host's loopback address is
//! `@loopback` and `@host`, and an `allow` rule for its address does not open the loopback.
//!
//! What is for many is for this host, too: the kernel gives its programs a copy. A broadcast is `@host` besides
//! `@multicast` for what forbids. A packet to a group is not, but sockets keep it from this host where what is for `@host`
//! would be forbidden ([`Policy::lets_host_hear`]).
//!
//! A rule may allow a *name*: the addresses that answers of the guest's own name servers gave for it, while they may
//! be used ([`names`](crate::flow::names)). Only addresses in the Internet are taken from names, so that whoever rules
//! over a name does not rule over this host and its networks.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

use super::places::{Places, Prefix, Surroundings, embedded};
use super::to_host::DNS_PORTS;
use super::{Mapping, Proto};
use crate::flow::network::Network;
use crate::limits::{MAX_EGRESS_NAMES, MAX_EGRESS_PORTS};
use crate::wire::dns::Name;

/// What becomes of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Allow,
    /// The guest is told at once that it may not.
    Reject,
    /// The guest hears nothing.
    Drop,
}

/// Which destinations a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// All.
    Any,
    /// Those in a network, or one address.
    Network(Prefix),
    /// Those of these kinds.
    Place(Places),
    /// Those that have this name, or one below it.
    Name(Box<NamePattern>),
}

/// `example.org`, or `*.example.org`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    /// The name, or what stands behind the star.
    pub name: Name,
    /// All names below it, at any depth, and not the name itself.
    pub below: bool,
}

impl NamePattern {
    /// Whether `name` is meant.
    pub(crate) fn matches(&self, name: &Name) -> bool {
        if self.below { name.is_below(&self.name) } else { *name == self.name }
    }

    /// Whether all that `other` means is meant.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let same = self.name == other.name && self.below == other.below;
        same || (self.below && other.name.is_below(&self.name))
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRule {
    /// What becomes of what matches.
    pub verdict: Verdict,
    /// The protocol; `None` for all.
    pub proto: Option<Proto>,
    /// Where it goes.
    pub to: Destination,
    /// Ranges of ports, first and last; none for all. Echo has no ports, and does not match a rule that has.
    pub ports: ArrayVec<(u16, u16), MAX_EGRESS_PORTS>,
    /// As the operator wrote it.
    pub text: String,
}

/// All rules, with what is known of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// In their order.
    pub rules: Vec<EgressRule>,
    /// This host.
    pub host: Surroundings,
}

/// Traffic that is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) proto: Proto,
    /// Where the guest sends it.
    pub(crate) seen: SocketAddr,
    /// Where it goes on the host.
    pub(crate) real: SocketAddr,
    /// It is for one of the guest's name servers.
    pub(crate) dns: bool,
}

impl Attempt {
    /// What the guest sends to `seen`, which is `real` to the host.
    pub(crate) fn new(
        net: &Network,
        map: &Mapping,
        proto: Proto,
        seen: SocketAddr,
        real: SocketAddr,
    ) -> Self {
        Self { proto, seen, real, dns: is_dns(net, map, proto, seen) }
    }
}

/// Whether what the guest sends to `seen` is for one of its name servers.
pub(crate) fn is_dns(net: &Network, map: &Mapping, proto: Proto, seen: SocketAddr) -> bool {
    if proto == Proto::Icmp || !DNS_PORTS.contains(&seen.port()) {
        return false;
    }
    match seen.ip() {
        IpAddr::V4(v4) => {
            let told = net.v4.as_ref().is_some_and(|net| net.dns.contains(&v4));
            told || map.v4.dns_match == Some(v4)
        }
        IpAddr::V6(v6) => {
            let told = net.v6.as_ref().is_some_and(|net| net.dns.contains(&v6));
            told || map.v6.dns_match == Some(v6)
        }
    }
}

/// The names of a policy that an address has, a bit for each name rule.
pub(crate) type NameSet = u64;

const _: () = assert!(MAX_EGRESS_NAMES <= NameSet::BITS as usize);

impl Policy {
    /// The patterns of names that rules allow, in order, as many as are counted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &NamePattern> {
        let names = self.rules.iter().filter_map(|rule| match &rule.to {
            Destination::Name(pattern) => Some(&**pattern),
            _ => None,
        });
        names.take(MAX_EGRESS_NAMES)
    }

    /// Which of the names `name` is.
    pub(crate) fn names_of(&self, name: &Name) -> NameSet {
        let matches = self.names().enumerate().filter(|(_, pattern)| pattern.matches(name));
        matches.fold(0, |set, (index, _)| set | 1 << index)
    }

    /// Whether an address may be taken from a name.
    pub(crate) fn may_be_named(&self, address: IpAddr) -> bool {
        self.host.of(address) == Places::INTERNET
    }

    /// What becomes of `attempt`, and which rule says so: the number of rules where none does. `names` are those of an
    /// address.
    pub(crate) fn judge(
        &self,
        attempt: &Attempt,
        names: impl Fn(IpAddr) -> NameSet,
    ) -> (Verdict, usize) {
        if self.rules.is_empty() {
            return (Verdict::Allow, 0);
        }
        self.decide(&Subject::new(self, attempt), names)
    }

    /// Whether programs of this host may hear what the guest sends to a group, which is allowed: they hear it as if it were
    /// for `@host`, too.
    pub(crate) fn lets_host_hear(&self, attempt: &Attempt) -> bool {
        if self.rules.is_empty() {
            return true;
        }
        let mut subject = Subject::new(self, attempt);
        subject.anyhow |= Places::HOST;
        self.decide(&subject, |_| 0).0 == Verdict::Allow
    }

    fn decide(&self, subject: &Subject, names: impl Fn(IpAddr) -> NameSet) -> (Verdict, usize) {
        let mut name = 0;
        for (index, rule) in self.rules.iter().enumerate() {
            let bit: NameSet = 1_u64.checked_shl(name).unwrap_or(0);
            name += u32::from(matches!(rule.to, Destination::Name(_)));
            if subject.is_of(rule, || names(subject.real) & bit != 0) {
                return (rule.verdict, index);
            }
        }
        (Verdict::Reject, self.rules.len())
    }
}

/// What rules look at.
struct Subject {
    proto: Proto,
    port: u16,
    real: IpAddr,
    /// The places of where it really goes.
    really: Places,
    /// These, and those of the address that the guest used.
    anyhow: Places,
    /// All addresses of it: real, used, and inside of them.
    addresses: ArrayVec<IpAddr, 6>,
}

impl Subject {
    fn new(policy: &Policy, attempt: &Attempt) -> Self {
        let Attempt { proto, seen, real, dns } = *attempt;
        let (seen, port, real) = (seen.ip(), real.port(), real.ip());
        let mut really = policy.host.of(real);
        if dns {
            really |= Places::DNS;
        } else if seen != real {
            // An address that stands for another one stands for this host.
            really = really.without(Places::INTERNET) | Places::HOST;
        }
        let mut addresses: ArrayVec<IpAddr, 6> = ArrayVec::from_iter([real, seen]);
        for address in [real, seen] {
            addresses.extend(embedded(address).into_iter().flatten().map(IpAddr::V4));
        }
        let mut anyhow = really;
        if seen != real {
            anyhow |= policy.host.of(seen);
        }
        // No socket can keep a broadcast from this host.
        if anyhow.meet(Places::MULTICAST) && !real.is_multicast() {
            anyhow |= Places::HOST;
        }
        Self { proto, port, real, really, anyhow, addresses }
    }

    /// Whether a rule is about it; `named` tells whether it is about its name.
    fn is_of(&self, rule: &EgressRule, named: impl FnOnce() -> bool) -> bool {
        if rule.proto.is_some_and(|proto| proto != self.proto) {
            return false;
        }
        let in_ports = || {
            self.proto != Proto::Icmp
                && rule.ports.iter().any(|&(first, last)| (first..=last).contains(&self.port))
        };
        if !rule.ports.is_empty() && !in_ports() {
            return false;
        }
        let allows = rule.verdict == Verdict::Allow;
        match &rule.to {
            Destination::Any => true,
            Destination::Network(network) if allows => network.has(self.real),
            Destination::Network(network) => self.addresses.iter().any(|&ip| network.has(ip)),
            Destination::Place(places) if allows => places.meet(self.really),
            Destination::Place(places) => places.meet(self.anyhow),
            Destination::Name(_) => named(),
        }
    }
}

#[cfg(test)]
mod tests;
