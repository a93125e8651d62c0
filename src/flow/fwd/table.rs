//! All forwarding rules of one direction, valid together: none contends with another for a port,
//! each leads somewhere that exists, and their sockets have a cap.

use std::net::{IpAddr, Ipv4Addr};

use super::{ListenAddr, Proto, Refused, Rule, special};
use crate::flow::network::Network;

/// Most rules in a table.
pub const MAX_RULES: usize = 255;

/// Most sockets that the rules of a table may need: all ports of five addresses.
pub const MAX_LISTENING_SOCKETS: usize = 5 * 65536;

/// Why a rule cannot be part of a table. The text is the warning that goes with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The range descends.
    #[error("Rule has invalid port range {0}-{1}")]
    DescendingRange(u16, u16),
    /// The first port is 0.
    #[error("Forwarding rule attempts to map from port 0")]
    FromPortZero,
    /// The target port is 0, or goes beyond 65535.
    #[error("Forwarding rule attempts to map to port 0")]
    ToPortZero,
    /// One socket for both families, but a target in one of them.
    #[error("{}", dual_stack_target(*.0))]
    DualStackTarget(IpAddr),
    /// The family that is listened on is off.
    #[error("{0} forward, but {0} not enabled")]
    FamilyDisabled(&'static str),
    /// A socket for both families, but one is off.
    #[error("Dual stack forward, but {0} not enabled")]
    DualStackDisabled(&'static str),
    /// Families do not change on the way.
    #[error("{}", other_family(*.0, *.1))]
    OtherFamily(IpAddr, IpAddr),
    /// The target is a group.
    #[error("Multicast target address {0} for forwarding rule")]
    MulticastTarget(IpAddr),
    /// The target is no address of a host.
    #[error("Invalid target address {0} for forwarding rule: {1}")]
    SpecialTarget(IpAddr, Refused),
    /// `--no-tcp` or `--no-udp`.
    #[error("Can't add {0} forwarding rule, {0} not enabled")]
    ProtocolDisabled(Proto),
    /// Two rules contend for a port.
    #[error("Forwarding configuration conflict: {} versus {}", .0[0], .0[1])]
    Conflict(Box<[Rule; 2]>),
    /// The table is full.
    #[error("Too many rules (maximum {MAX_RULES})")]
    TooManyRules,
    /// The rules need too many sockets.
    #[error("Rules require too many listening sockets (maximum {MAX_LISTENING_SOCKETS})")]
    TooManySockets,
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn dual_stack_target(target: IpAddr) -> String {
    let wildcard = if target.is_ipv4() { "0.0.0.0" } else { "[::]" };
    format!(
        "Dual stack forward to {} address {target} unsupported\nDid you mean {wildcard}/... instead?",
        family(target)
    )
}

fn other_family(from: IpAddr, to: IpAddr) -> String {
    format!("Forward from {} ({from}) to {} ({to}) unsupported", family(from), family(to))
}

/// What rules may use: the families and protocols that are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enabled {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

impl Enabled {
    fn has(self, proto: Proto) -> bool {
        match proto {
            Proto::Tcp => self.tcp,
            Proto::Udp => self.udp,
            Proto::Icmp => false,
        }
    }
}

impl From<&Network> for Enabled {
    fn from(net: &Network) -> Self {
        let (v4, v6) = (net.v4.is_some(), net.v6.is_some());
        Self { v4, v6, tcp: net.services.tcp, udp: net.services.udp }
    }
}

/// What came of binding the sockets of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Sockets that listen.
    pub(crate) bound: usize,
    /// Sockets that do not, for want of privilege (`EACCES`) or of the address (`EADDRNOTAVAIL`).
    pub(crate) denied: usize,
    /// Sockets that do not, for want of descriptors.
    pub(crate) short: usize,
    /// Sockets that do not, for another reason.
    pub(crate) failed: usize,
}

/// Names a rule for as long as it is in a table, whatever comes and goes beside it. Another rule never
/// gets the same name in that table, nor in one that replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(u64);

impl RuleId {
    /// As a number, for operators.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// The forwarding rules of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleTable {
    rules: Vec<Rule>,
    /// One for each rule, ascending.
    ids: Vec<RuleId>,
    next_id: u64,
    sockets: usize,
}

impl RuleTable {
    /// Adds `rule` if it is valid and agrees with the others; returns its name. An unspecified target address is none.
    ///
    /// # Errors
    /// The first thing wrong with it; the table is unchanged.
    pub fn add(
        &mut self,
        mut rule: Rule,
        enabled: impl Into<Enabled>,
    ) -> Result<RuleId, RuleError> {
        rule.target_addr = rule.target_addr.filter(|target| !target.is_unspecified());
        check_ports(&rule)?;
        check_target(&rule)?;
        check_enabled(&rule, enabled.into())?;
        if let Some(other) = self.contender(&rule) {
            return Err(RuleError::Conflict(Box::new([rule, *other])));
        }
        if self.rules.len() >= MAX_RULES {
            return Err(RuleError::TooManyRules);
        }
        let sockets = self.sockets + rule.sockets();
        if sockets > MAX_LISTENING_SOCKETS {
            return Err(RuleError::TooManySockets);
        }
        let id = RuleId(self.next_id);
        self.take_over(rule);
        Ok(id)
    }

    /// The first rule that contends with `rule` for a port.
    pub(crate) fn contender(&self, rule: &Rule) -> Option<&Rule> {
        self.rules.iter().find(|other| other.overlaps(rule))
    }

    /// The name of the rule that is the same as `rule`, whichever specification either is part of.
    pub(crate) fn find(&self, rule: &Rule) -> Option<RuleId> {
        self.iter().find(|(_, other)| other.is_same(rule)).map(|(id, _)| id)
    }

    /// Adds a rule as it is, which somebody else has checked.
    pub(crate) fn take_over(&mut self, rule: Rule) {
        self.sockets = self.sockets.saturating_add(rule.sockets());
        self.ids.push(RuleId(self.next_id));
        self.next_id += 1;
        self.rules.push(rule);
    }

    /// Removes a rule; the others keep their names.
    pub(crate) fn remove(&mut self, id: RuleId) -> Option<Rule> {
        let index = self.ids.iter().position(|&other| other == id)?;
        self.ids.remove(index);
        let rule = self.rules.remove(index);
        self.sockets -= rule.sockets();
        Some(rule)
    }

    /// Listens on IPv4 alone from now on. Rules for an IPv6 address are removed and returned.
    pub(crate) fn without_ipv6(&mut self) -> Vec<Rule> {
        let (ids, rules) = (std::mem::take(&mut self.ids), std::mem::take(&mut self.rules));
        let mut removed = Vec::new();
        self.sockets = 0;
        for (id, mut rule) in ids.into_iter().zip(rules) {
            match rule.listen {
                ListenAddr::V6(_) => {
                    removed.push(rule);
                    continue;
                }
                ListenAddr::Dual => rule.listen = ListenAddr::V4(Ipv4Addr::UNSPECIFIED),
                ListenAddr::V4(_) => {}
            }
            self.sockets += rule.sockets();
            self.ids.push(id);
            self.rules.push(rule);
        }
        removed
    }

    /// The rule that has this name.
    pub(crate) fn get(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(self.ids.binary_search(&id).ok()?)
    }

    /// The rules with their names, in the order in which they were added.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RuleId, &Rule)> {
        self.ids.iter().copied().zip(&self.rules)
    }

    /// Names the rules as `old` does, which this table is to replace: a rule that is in both keeps its name, and
    /// what is new gets one that `old` never had.
    pub(crate) fn rename_after(&mut self, old: &Self) {
        let mut named: Vec<(RuleId, Rule)> = Vec::with_capacity(self.rules.len());
        self.next_id = self.next_id.max(old.next_id);
        for rule in &self.rules {
            let same = old.iter().find(|(_, other)| *other == rule);
            let id = same.map_or(RuleId(self.next_id), |(id, _)| id);
            self.next_id += u64::from(same.is_none());
            named.push((id, *rule));
        }
        named.sort_by_key(|(id, _)| *id);
        (self.ids, self.rules) = named.into_iter().unzip();
    }

    /// The rules, in the order in which they were added.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Sockets that all rules together need.
    #[cfg(test)]
    pub(crate) fn sockets(&self) -> usize {
        self.sockets
    }

    /// The first weak rule that has no socket at all after listening, one outcome a rule, and what came of it. Rules
    /// with the scan flag may have none.
    ///
    /// A rule that lacks nothing but privilege, its address or descriptors is forgiven if other rules of its
    /// specification listen: the operator wrote one range, which excluded ports happen to split, or
    /// which stands for two loopback addresses.
    pub(crate) fn starved(&self, outcomes: &[Outcome]) -> Option<(&Rule, Outcome)> {
        let any_listens = |spec_index| {
            self.rules
                .iter()
                .zip(outcomes)
                .any(|(rule, o)| rule.spec_index == spec_index && o.bound > 0)
        };
        self.rules.iter().zip(outcomes).find_map(|(rule, outcome)| {
            let forgiven = outcome.failed == 0 && any_listens(rule.spec_index);
            (rule.weak && !rule.scan && outcome.bound == 0 && !forgiven).then_some((rule, *outcome))
        })
    }
}

fn check_ports(rule: &Rule) -> Result<(), RuleError> {
    if rule.first > rule.last {
        return Err(RuleError::DescendingRange(rule.first, rule.last));
    }
    if rule.first == 0 {
        return Err(RuleError::FromPortZero);
    }
    if rule.target_first == 0 || rule.target_last() > u16::MAX.into() {
        return Err(RuleError::ToPortZero);
    }
    Ok(())
}

fn check_target(rule: &Rule) -> Result<(), RuleError> {
    let Some(target) = rule.target_addr else { return Ok(()) };
    let listen: IpAddr = match rule.listen {
        ListenAddr::Dual => return Err(RuleError::DualStackTarget(target)),
        ListenAddr::V4(v4) => v4.into(),
        ListenAddr::V6(v6) => v6.into(),
    };
    if listen.is_ipv4() != target.is_ipv4() {
        return Err(RuleError::OtherFamily(listen, target));
    }
    match special::unicast(target) {
        // Who is to get there by a loopback address is another question: see `to_namespace` and `to_guest`.
        Ok(_) | Err(Refused::Loopback) => Ok(()),
        Err(_) if target.is_multicast() => Err(RuleError::MulticastTarget(target)),
        Err(reason) => Err(RuleError::SpecialTarget(target, reason)),
    }
}

fn check_enabled(rule: &Rule, enabled: Enabled) -> Result<(), RuleError> {
    match (rule.listen, enabled.v4, enabled.v6) {
        (ListenAddr::Dual, false, _) => return Err(RuleError::DualStackDisabled("IPv4")),
        (ListenAddr::Dual, _, false) => return Err(RuleError::DualStackDisabled("IPv6")),
        (ListenAddr::V4(_), false, _) => return Err(RuleError::FamilyDisabled("IPv4")),
        (ListenAddr::V6(_), _, false) => return Err(RuleError::FamilyDisabled("IPv6")),
        _ => {}
    }
    if !enabled.has(rule.proto) {
        return Err(RuleError::ProtocolDisabled(rule.proto));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::InterfaceName;
    use super::super::example::{ip, network};
    use super::*;

    const RULE: Rule = Rule::plain(Proto::Tcp, (8001, 8001), 8001);

    fn warning(rule: Rule, net: &Network) -> String {
        RuleTable::default().add(rule, net).unwrap_err().to_string()
    }

    fn leads(listen: &str, target: &str) -> Rule {
        Rule { listen: ip(listen).into(), target_addr: Some(ip(target)), ..RULE }
    }

    #[test]
    fn without_ipv6_what_is_left_listens_on_ipv4() {
        let mut table = RuleTable::default();
        let rules = [
            RULE,
            Rule { listen: ip("2001:db8::5").into(), first: 9000, last: 9009, ..RULE },
            Rule { listen: ip("192.0.2.5").into(), first: 9010, last: 9019, ..RULE },
        ];
        let ids = rules.map(|rule| table.add(rule, &network()).unwrap());
        assert_eq!(table.without_ipv6(), [rules[1]]);
        let dual = Rule { listen: ip("0.0.0.0").into(), ..RULE };
        assert_eq!(table.rules(), [dual, rules[2]]);
        assert_eq!((table.get(ids[2]), table.get(ids[1])), (Some(&rules[2]), None));
        assert_eq!(table.sockets(), 11);
    }

    #[test]
    fn each_invalid_rule_has_its_warning() {
        let dual = |target| Rule { target_addr: Some(ip(target)), ..RULE };
        for (rule, text) in [
            (Rule { first: 9000, ..RULE }, "Rule has invalid port range 9000-8001"),
            (Rule { first: 0, ..RULE }, "Forwarding rule attempts to map from port 0"),
            (Rule { target_first: 0, ..RULE }, "Forwarding rule attempts to map to port 0"),
            (
                Rule { last: 8002, target_first: 65535, ..RULE },
                "Forwarding rule attempts to map to port 0",
            ),
            (
                dual("192.0.2.9"),
                "Dual stack forward to IPv4 address 192.0.2.9 unsupported\n\
                 Did you mean 0.0.0.0/... instead?",
            ),
            (
                dual("2001:db8::9"),
                "Dual stack forward to IPv6 address 2001:db8::9 unsupported\n\
                 Did you mean [::]/... instead?",
            ),
            (
                leads("192.0.2.2", "2001:db8::9"),
                "Forward from IPv4 (192.0.2.2) to IPv6 (2001:db8::9) unsupported",
            ),
            (
                leads("0.0.0.0", "224.0.0.1"),
                "Multicast target address 224.0.0.1 for forwarding rule",
            ),
            (leads("::", "ff01::1"), "Multicast target address ff01::1 for forwarding rule"),
            (
                leads("::", "::ffff:127.0.0.1"),
                "Invalid target address ::ffff:127.0.0.1 for forwarding rule: \
                 IPv4 address inside an IPv6 address",
            ),
            (
                leads("0.0.0.0", "255.255.255.255"),
                "Invalid target address 255.255.255.255 for forwarding rule: broadcast address",
            ),
        ] {
            assert_eq!(warning(rule, &network()), text);
        }
    }

    #[test]
    fn targets_that_are_none_or_on_the_other_sides_loopback_are_accepted() {
        let listen = |text: &str| match text {
            "*" => ListenAddr::Dual,
            text => ip(text).into(),
        };
        for (listens, target, kept) in [
            ("0.0.0.0", "127.0.0.1", Some(ip("127.0.0.1"))),
            ("::", "::1", Some(ip("::1"))),
            ("0.0.0.0", "0.0.0.0", None),
            ("::", "::", None),
            ("*", "0.0.0.0", None),
        ] {
            let mut table = RuleTable::default();
            let rule = Rule { listen: listen(listens), target_addr: Some(ip(target)), ..RULE };
            table.add(rule, &network()).unwrap();
            assert_eq!(table.rules()[0].target_addr, kept, "{listens} {target}");
        }
    }

    #[test]
    fn disabled_families_and_protocols_have_their_warnings() {
        let mut only_v6 = network();
        only_v6.v4 = None;
        let mut only_v4 = network();
        only_v4.v6 = None;
        let mut no_udp = network();
        no_udp.services.udp = false;
        let v4 = Rule { listen: ip("0.0.0.0").into(), ..RULE };
        let v6 = Rule { listen: ip("::").into(), ..RULE };
        let udp = Rule { proto: Proto::Udp, ..RULE };
        for (rule, net, text) in [
            (v4, &only_v6, "IPv4 forward, but IPv4 not enabled"),
            (v6, &only_v4, "IPv6 forward, but IPv6 not enabled"),
            (RULE, &only_v6, "Dual stack forward, but IPv4 not enabled"),
            (RULE, &only_v4, "Dual stack forward, but IPv6 not enabled"),
            (udp, &no_udp, "Can't add UDP forwarding rule, UDP not enabled"),
        ] {
            assert_eq!(warning(rule, net), text);
        }
        assert!(RuleTable::default().add(RULE, &no_udp).is_ok());
    }

    #[test]
    fn conflict_names_both_rules_and_interfaces_keep_rules_apart() {
        let net = network();
        let on = |name| Rule { interface: InterfaceName::new(name), ..RULE };
        let mut table = RuleTable::default();
        table.add(on("eth0"), &net).unwrap();
        table.add(on("eth1"), &net).unwrap();
        assert_eq!(
            table.add(RULE, &net).unwrap_err().to_string(),
            "Forwarding configuration conflict: \
             TCP [*]:8001  =>  8001  versus TCP [*]%eth0:8001  =>  8001 "
        );
        assert_eq!(table.rules().len(), 2);
    }

    #[test]
    fn table_has_a_cap_of_rules_and_of_sockets() {
        let net = network();
        let mut table = RuleTable::default();
        for port in 1..=255 {
            table.add(Rule { first: port, last: port, ..RULE }, &net).unwrap();
        }
        assert_eq!(table.sockets(), 255);
        assert_eq!(table.add(RULE, &net), Err(RuleError::TooManyRules));
        assert_eq!(RuleError::TooManyRules.to_string(), "Too many rules (maximum 255)");

        let all_ports = |listen: String| Rule {
            listen: ip(&listen).into(),
            first: 1,
            last: 65535,
            target_first: 1,
            ..RULE
        };
        let mut table = RuleTable::default();
        for host in 1..=5 {
            table.add(all_ports(format!("192.0.2.{host}")), &net).unwrap();
        }
        let error = table.add(all_ports("192.0.2.6".to_owned()), &net).unwrap_err();
        assert_eq!(error.to_string(), "Rules require too many listening sockets (maximum 327680)");
    }

    #[test]
    fn names_last_whatever_comes_and_goes() {
        let net = network();
        let port = |port| Rule { first: port, last: port, ..RULE };
        let mut table = RuleTable::default();
        let [a, b, c] = [1, 2, 3].map(|number| table.add(port(number), &net).unwrap());
        assert_eq!(table.remove(b), Some(port(2)));
        assert_eq!((table.remove(b), table.get(b)), (None, None));
        assert_eq!(table.sockets(), 2);
        let d = table.add(port(2), &net).unwrap();
        assert!(![a, b, c].contains(&d), "{d:?} is new");
        assert_eq!([a, c, d].map(|id| table.get(id).unwrap().first), [1, 3, 2]);

        let mut other = RuleTable::default();
        for number in [4, 3, 5] {
            other.add(port(number), &net).unwrap();
        }
        other.rename_after(&table);
        assert_eq!(other.get(c), Some(&port(3)), "it stays");
        let fresh: Vec<RuleId> = other.iter().map(|(id, _)| id).filter(|&id| id != c).collect();
        assert!(fresh.len() == 2 && fresh.iter().all(|id| ![a, b, d].contains(id)), "{fresh:?}");
        let e = other.add(port(9), &net).unwrap();
        assert_eq!(other.get(e), Some(&port(9)));
    }

    fn starved<'a>(table: &'a RuleTable, outcomes: &[Outcome]) -> Option<&'a Rule> {
        table.starved(outcomes).map(|(rule, _)| rule)
    }

    #[test]
    fn weak_rule_without_a_socket_is_forgiven_only_for_want_of_privilege() {
        let net = network();
        let mut table = RuleTable::default();
        let weak = Rule { weak: true, ..RULE };
        let low = Rule { first: 1, last: 24, target_first: 1, ..weak };
        let high = Rule { first: 26, last: 8000, target_first: 26, ..weak };
        table.add(low, &net).unwrap();
        table.add(high, &net).unwrap();
        let denied = Outcome { denied: 24, ..Outcome::default() };
        let failed = Outcome { denied: 23, failed: 1, ..Outcome::default() };
        let bound = Outcome { bound: 7000, failed: 975, ..Outcome::default() };
        let nothing = Outcome { denied: 7975, ..Outcome::default() };
        assert_eq!(starved(&table, &[denied, bound]), None);
        assert_eq!(starved(&table, &[failed, bound]), Some(&low));
        assert_eq!(starved(&table, &[denied, nothing]), Some(&low));
        assert_eq!(starved(&table, &[bound, nothing]), None);
        assert_eq!(starved(&table, &[bound, failed]), Some(&high));

        let mut scanned = RuleTable::default();
        scanned.add(Rule { scan: true, ..weak }, &net).unwrap();
        assert_eq!(starved(&scanned, &[failed]), None);

        let mut apart = RuleTable::default();
        apart.add(low, &net).unwrap();
        apart.add(Rule { spec_index: 1, ..high }, &net).unwrap();
        assert_eq!(starved(&apart, &[denied, bound]), Some(&low));
    }
}
