//! Port specifications of `-t` and `-u`, and of pasta's `-T` and `-U`.
//!
//! ```text
//! spec     := "none" | [ target "/" ] ports
//! target   := [ addr | "*" ] [ "%" ifname ]
//! addr     := IPv4 | IPv6 | "[" IPv4 | IPv6 "]"
//! ports    := chunk { "," chunk }
//! chunk    := "all" [ ":" addr ] | "auto" | "~" range
//!           | range [ ":" range | ":" addr | ":" addr "/" range ]
//! range    := port [ "-" port ]
//! port     := { blank } digits
//! ```
//!
//! Excludes (`~`) apply to the whole of their own specification, wherever they stand in it.
//! Without any port to include, all but the excluded and the ephemeral ones are meant, each as far
//! as it can be had (a *weak* rule). Each run of ports that nothing interrupts becomes one rule.
//! `auto` sets the scan flag on every rule of its specification. `-T` and `-U` take no place to
//! listen at: they listen on the loopback interface of the namespace, or where sockets cannot be bound to
//! an interface on its two loopback addresses.

mod problem;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::text::{self, decimal};
use super::{ConfError, Note};
use crate::flow::fwd::{Enabled, InterfaceName, ListenAddr, Proto, Rule, RuleTable};

pub use problem::PortProblem;

/// Ephemeral ports if the kernel does not tell, by RFC 6335 section 6.
const DEFAULT_EPHEMERAL: (u16, u16) = (49152, 65535);

/// What may stand before a port: what isspace(3) says of ASCII.
const BLANKS: [char; 6] = [' ', '\t', '\n', '\x0b', '\x0c', '\r'];

const EPHEMERAL_PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// First and last of the ports that the kernel gives to sockets that do not choose.
pub(crate) fn ephemeral_range() -> ((u16, u16), Option<Note>) {
    let text = std::fs::read_to_string(EPHEMERAL_PATH).unwrap_or_default();
    match parse_ephemeral(&text) {
        Some(range) => (range, None),
        None => {
            let (first, last) = DEFAULT_EPHEMERAL;
            let text = format!("Can't read {EPHEMERAL_PATH}, assuming {first}-{last}");
            (DEFAULT_EPHEMERAL, Some(Note::warn(text)))
        }
    }
}

fn parse_ephemeral(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.trim_end().split_once('\t')?;
    let range = (decimal(first.trim())?, decimal(last.trim())?);
    (range.0 <= range.1).then_some(range)
}

/// What port specifications depend on in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// First and last of the ephemeral ports.
    pub ephemeral: (u16, u16),
    /// Sockets can be bound to an interface without privileges (Linux 5.7).
    pub device_binding: bool,
}

/// Who forwards the ports of a specification, and which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// passt's `-t` and `-u`: to the guest, never automatically.
    ToGuest,
    /// pasta's `-t` and `-u`: to the namespace.
    ToNamespace,
    /// pasta's `-T` and `-U`: from the namespace's loopback interface to the host's.
    FromNamespace,
}

impl Way {
    /// The option that gives the specification.
    fn option(self, proto: Proto) -> &'static str {
        proto.option(self == Self::FromNamespace)
    }
}

/// Reads the specification `spec` of `proto`, the `group`th on the command line, and adds its
/// rules to `table`.
///
/// # Errors
/// The first thing that is wrong with it or with one of its rules.
pub fn add(
    table: &mut RuleTable,
    enabled: impl Into<Enabled>,
    kernel: Kernel,
    meant: (Way, Proto, &str),
    group: u16,
) -> Result<(), ConfError> {
    let enabled = enabled.into();
    for rule in rules(table, enabled, kernel, meant, group)? {
        table
            .add(rule, enabled)
            .map_err(|warning| ConfError::Rule { warning, rule: Box::new(rule) })?;
    }
    Ok(())
}

/// The rules that the specification `spec` of `proto` stands for, the `group`th, beside those of `table`.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn rules(
    table: &RuleTable,
    enabled: Enabled,
    kernel: Kernel,
    (way, proto, spec): (Way, Proto, &str),
    group: u16,
) -> Result<Vec<Rule>, ConfError> {
    let option = way.option(proto);
    if spec == "none" {
        let conflict = table.rules().iter().any(|rule| rule.proto == proto);
        return if conflict { Err(ConfError::PortNone(option)) } else { Ok(Vec::new()) };
    }
    let runs = parse(spec, kernel.ephemeral, (way, option))?;
    let rules = runs.into_iter().map(|run| run.rule(proto, enabled, group));
    let rules: Vec<Rule> = rules
        .flat_map(|rule| match (way, kernel.device_binding) {
            (Way::FromNamespace, false) => on_loopback_addresses(rule),
            _ => ArrayVec::from_iter([rule]),
        })
        .collect();
    if !kernel.device_binding && rules.iter().any(|rule| rule.interface.is_some()) {
        return Err(ConfError::PortDevice(option, spec.to_owned()));
    }
    Ok(rules)
}

/// The rules that stand for one on the loopback interface. A namespace may lack `::1`.
fn on_loopback_addresses(rule: Rule) -> ArrayVec<Rule, 2> {
    let rule = Rule { interface: None, ..rule };
    let v4 = Rule { listen: ListenAddr::V4(Ipv4Addr::LOCALHOST), ..rule };
    let v6 = Rule { listen: ListenAddr::V6(Ipv6Addr::LOCALHOST), ..rule };
    match rule.listen {
        ListenAddr::V4(_) => ArrayVec::from_iter([v4]),
        ListenAddr::V6(_) => ArrayVec::from_iter([v6]),
        ListenAddr::Dual => ArrayVec::from([v4, Rule { weak: true, ..v6 }]),
    }
}

/// Where a specification listens; `addr` is `None` for everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Listen {
    addr: Option<IpAddr>,
    interface: Option<InterfaceName>,
}

impl Listen {
    /// On the loopback interface.
    fn loopback() -> Self {
        Self { addr: None, interface: InterfaceName::new("lo") }
    }
}

/// A rule in the making: one run of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    listen: Listen,
    first: u16,
    last: u16,
    target_addr: Option<IpAddr>,
    target_first: u16,
    weak: bool,
    scan: bool,
}

impl Run {
    fn rule(&self, proto: Proto, enabled: Enabled, group: u16) -> Rule {
        let listen = match (self.listen.addr, enabled.v4, enabled.v6) {
            (Some(addr), ..) => addr.into(),
            (None, true, false) => ListenAddr::V4(Ipv4Addr::UNSPECIFIED),
            (None, false, true) => ListenAddr::V6(Ipv6Addr::UNSPECIFIED),
            (None, ..) => ListenAddr::Dual,
        };
        Rule {
            proto,
            listen,
            interface: self.listen.interface,
            first: self.first,
            last: self.last,
            target_addr: self.target_addr,
            target_first: self.target_first,
            weak: self.weak,
            scan: self.scan,
            group,
        }
    }
}

/// First and last port.
type Range = (u16, u16);

/// One part of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    All(Option<IpAddr>),
    Auto,
    Exclude(Range),
    Include { range: Range, target_addr: Option<IpAddr>, target: Range },
}

fn parse(
    spec: &str,
    ephemeral: Range,
    (way, option): (Way, &'static str),
) -> Result<Vec<Run>, ConfError> {
    let (listen, ports) = match listen_part(spec)? {
        (_, ports) if way == Way::FromNamespace && ports.len() < spec.len() => {
            return Err(ConfError::PortAddress(option, spec.to_owned()));
        }
        (_, ports) if way == Way::FromNamespace => (Listen::loopback(), ports),
        other => other,
    };
    let invalid = |problem| ConfError::PortSpecifier { ports: ports.to_owned(), problem };
    let read = |text| chunk(text).map_err(|problem| invalid(named(problem, text, ports)));
    let chunks = ports.split(',').map(read).collect::<Result<Vec<Chunk>, _>>()?;
    let scan = chunks.contains(&Chunk::Auto);
    if scan && way == Way::ToGuest {
        return Err(ConfError::PortAuto);
    }

    let mut excluded = Ports::default();
    for chunk in &chunks {
        if let Chunk::Exclude(range) = chunk {
            excluded.insert(*range);
        }
    }
    let includes: Vec<_> =
        chunks.iter().filter(|chunk| matches!(chunk, Chunk::Include { .. })).collect();
    let mut alls = chunks.iter().filter_map(|chunk| match chunk {
        Chunk::All(target_addr) => Some(*target_addr),
        _ => None,
    });
    let all = alls.next();
    if alls.any(|other| Some(other) != all) {
        return Err(invalid(PortProblem::All));
    }
    // Ports that are named are all that is meant: front-ends join what is said several times by commas.
    if includes.is_empty() {
        excluded.insert(ephemeral);
        let everything = Run {
            listen,
            first: 1,
            last: u16::MAX,
            target_addr: all.flatten(),
            target_first: 1,
            weak: true,
            scan,
        };
        return Ok(excluded.split(everything));
    }
    Ok(includes
        .into_iter()
        .filter_map(|chunk| included(listen, chunk, scan))
        .flat_map(|run| excluded.split(run))
        .collect())
}

fn included(listen: Listen, chunk: &Chunk, scan: bool) -> Option<Run> {
    let Chunk::Include { range: (first, last), target_addr, target } = *chunk else { return None };
    Some(Run { listen, first, last, target_addr, target_first: target.0, weak: false, scan })
}

/// Splits off what stands before the first slash, if that is a place to listen at.
fn listen_part(spec: &str) -> Result<(Listen, &str), ConfError> {
    let whole = (Listen::default(), spec);
    let Some((head, ports)) = spec.split_once('/') else { return Ok(whole) };
    let (addr, interface) = match head.split_once('%') {
        Some((addr, name)) => (addr, Some(name)),
        None => (head, None),
    };
    let addr = match addr {
        "" | "*" => None,
        text => match address(text) {
            Ok(addr) => Some(addr),
            // Not a place, but perhaps a port with a target address.
            Err(_) => return Ok(whole),
        },
    };
    let interface = match interface {
        Some(name) => Some(
            InterfaceName::new(name).ok_or_else(|| ConfError::PortInterface(name.to_owned()))?,
        ),
        None => None,
    };
    Ok((Listen { addr, interface }, ports))
}

fn chunk(text: &str) -> Result<Chunk, PortProblem> {
    match text {
        "auto" => return Ok(Chunk::Auto),
        "none" => return Err(PortProblem::None),
        _ => {}
    }
    if let Some(excluded) = text.strip_prefix('~') {
        return match excluded.contains(':') {
            true => Err(PortProblem::ExcludedTarget(text.to_owned())),
            false => range(excluded).map(Chunk::Exclude),
        };
    }
    let (from, to) = match text.split_once(':') {
        Some((_, "")) => return Err(PortProblem::Missing(text.to_owned())),
        Some((from, to)) => (from, Some(to)),
        None => (text, None),
    };
    if from == "all" {
        return to.map(address).transpose().map(Chunk::All);
    }
    let range = range(from)?;
    let (target_addr, target) = match to {
        Some(to) => target(to, range)?,
        None => (None, range),
    };
    let count = |(first, last): Range| u32::from(last) - u32::from(first) + 1;
    match (count(range), count(target)) {
        (ports, targets) if ports == targets => Ok(Chunk::Include { range, target_addr, target }),
        (ports, targets) => Err(PortProblem::Lengths(ports, targets)),
    }
}

/// What is said of the part `text` of the list `ports`, in which `problem` was found.
fn named(problem: PortProblem, text: &str, ports: &str) -> PortProblem {
    match (place_problem(text), problem) {
        (Some(problem), _) => problem,
        (None, PortProblem::Missing(_)) if text.is_empty() => {
            PortProblem::Missing(ports.to_owned())
        }
        (None, PortProblem::Missing(_)) => PortProblem::Missing(text.to_owned()),
        (None, problem) => problem,
    }
}

/// What is wrong with the part `text` if a place to listen at is meant to stand before its slash.
fn place_problem(text: &str) -> Option<PortProblem> {
    let (place, _) = text.split_once('/')?;
    let addr = place.split('%').next().unwrap_or_default();
    match address(addr) {
        Ok(_) => Some(PortProblem::SecondAddress),
        Err(problem @ PortProblem::Mapped(_)) => Some(problem),
        Err(_) if ["", "*"].contains(&addr) => Some(PortProblem::SecondAddress),
        // A port with a target address.
        Err(_) if addr.contains(':') => None,
        Err(problem) => Some(problem),
    }
}

/// What follows the colon: an address is tried before ports.
fn target(text: &str, ports: Range) -> Result<(Option<IpAddr>, Range), PortProblem> {
    if let Some((addr, ports)) = text.split_once('/') {
        return Ok((Some(address(addr)?), range(ports)?));
    }
    match address(text) {
        Ok(addr) => Ok((Some(addr), ports)),
        Err(problem @ PortProblem::Mapped(_)) => Err(problem),
        Err(_) => match range(text) {
            Err(PortProblem::NotPort(text)) => Err(PortProblem::NotTarget(text)),
            range => range.map(|range| (None, range)),
        },
    }
}

/// An address that does not hide an IPv4 one in an IPv6 one.
fn address(text: &str) -> Result<IpAddr, PortProblem> {
    match text::address(text) {
        Some(addr) if addr == addr.to_canonical() => Ok(addr),
        Some(_) => Err(PortProblem::Mapped(text.to_owned())),
        None => Err(PortProblem::NotAddress(text.to_owned())),
    }
}

fn range(text: &str) -> Result<Range, PortProblem> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first)?, port(last)?) {
        (first, last) if first <= last => Ok((first, last)),
        (first, last) => Err(PortProblem::Descending(first, last)),
    }
}

/// A port, behind blanks or none: lists are often written as `80, 443`.
fn port(text: &str) -> Result<u16, PortProblem> {
    let text = text.trim_start_matches(BLANKS);
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match decimal(text) {
        Some(port) => Ok(port),
        None if text.is_empty() => Err(PortProblem::Missing(text.to_owned())),
        None if digits => Err(PortProblem::TooLarge(text.to_owned())),
        None => Err(PortProblem::NotPort(text.to_owned())),
    }
}

/// A set of ports, as ranges in no order.
#[derive(Default)]
struct Ports(Vec<Range>);

impl Ports {
    fn insert(&mut self, range: Range) {
        self.0.push(range);
    }

    /// The parts of `run` that are not in the set, in order.
    fn split(&self, run: Run) -> Vec<Run> {
        let mut parts = Vec::new();
        let mut next = u32::from(run.first);
        let mut ranges = self.0.clone();
        ranges.sort_unstable();
        for (first, last) in ranges {
            let end = u32::from(first).min(u32::from(run.last) + 1);
            parts.extend(part(run, next, end));
            next = next.max(u32::from(last) + 1);
        }
        parts.extend(part(run, next, u32::from(run.last) + 1));
        parts
    }
}

/// The ports of `run` from `first` to before `end`, which lie in it; `None` if there are none.
fn part(run: Run, first: u32, end: u32) -> Option<Run> {
    let (first, last) = (u16::try_from(first).ok()?, u16::try_from(end.checked_sub(1)?).ok()?);
    // A target that wraps is left as it is given: the rule table says what is wrong with it.
    let target_first = run.target_first.saturating_add(first.checked_sub(run.first)?);
    (first <= last).then_some(Run { first, last, target_first, ..run })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::flow::network::Network;

    use super::*;

    const EPHEMERAL: Range = (32768, 60999);
    const KERNEL: Kernel = Kernel { ephemeral: EPHEMERAL, device_binding: true };
    const OLD: Kernel = Kernel { device_binding: false, ..KERNEL };

    /// Both families on, and nothing else of interest.
    fn network() -> Network {
        let facts = crate::conf::host::HostFacts::default();
        crate::conf::resolve(crate::conf::Options::default(), &facts, "", EPHEMERAL)
            .unwrap()
            .network
    }

    fn all(specs: &[&str], net: &Network) -> Result<Vec<String>, String> {
        let mut table = RuleTable::default();
        for (group, spec) in (0..).zip(specs) {
            add(&mut table, net, KERNEL, (Way::ToGuest, Proto::Tcp, spec), group)
                .map_err(|error| error.to_string())?;
        }
        Ok(table.rules().iter().map(|rule| rule.to_string().trim_end().to_owned()).collect())
    }

    fn rules(spec: &str) -> Vec<String> {
        all(&[spec], &network()).unwrap()
    }

    fn refusal(spec: &str) -> String {
        all(&[spec], &network()).unwrap_err()
    }

    #[test]
    fn ports_and_where_they_lead() {
        for (spec, expected) in [
            ("none", &[][..]),
            ("22", &["TCP [*]:22  =>  22"][..]),
            ("31339:41339", &["TCP [*]:31339  =>  41339"]),
            ("22,80:8080", &["TCP [*]:22  =>  22", "TCP [*]:80  =>  8080"]),
            ("80-80:80-80", &["TCP [*]:80  =>  80"]),
            (" 22", &["TCP [*]:22  =>  22"]),
            ("22, 80", &["TCP [*]:22  =>  22", "TCP [*]:80  =>  80"]),
            ("20- 29,~ 22- 29", &["TCP [*]:20-21  =>  20-21"]),
            ("\t22: 80- 80,\n\r\x0b\x0c23", &["TCP [*]:22  =>  80", "TCP [*]:23  =>  23"]),
            ("192.0.2.1%eth0/ 22", &["TCP [192.0.2.1]%eth0:22  =>  22"]),
            ("0.0.0.0/22:192.0.2.5/ 80", &["TCP [0.0.0.0]:22  =>  192.0.2.5:80"]),
            ("100-110:200-210", &["TCP [*]:100-110  =>  200-210"]),
            ("*/22", &["TCP [*]:22  =>  22"]),
            ("/22", &["TCP [*]:22  =>  22"]),
            ("%eth0/2025", &["TCP [*]%eth0:2025  =>  2025"]),
            ("*%eth0/2025", &["TCP [*]%eth0:2025  =>  2025"]),
            ("192.0.2.1%eth0/22", &["TCP [192.0.2.1]%eth0:22  =>  22"]),
            ("192.0.2.1/80-80:80-80", &["TCP [192.0.2.1]:80  =>  80"]),
            ("[192.0.2.1]/22", &["TCP [192.0.2.1]:22  =>  22"]),
            ("::1/22", &["TCP [::1]:22  =>  22"]),
            ("[::1]/22", &["TCP [::1]:22  =>  22"]),
            (
                "2001:db8::1/8002,4431:4432",
                &["TCP [2001:db8::1]:8002  =>  8002", "TCP [2001:db8::1]:4431  =>  4432"],
            ),
            ("0.0.0.0/22:192.0.2.5", &["TCP [0.0.0.0]:22  =>  192.0.2.5:22"]),
            ("0.0.0.0/22:192.0.2.5/80", &["TCP [0.0.0.0]:22  =>  192.0.2.5:80"]),
            ("[::]/22:[2001:db8::5]/80", &["TCP [::]:22  =>  [2001:db8::5]:80"]),
            ("[::]/22:2001:db8::5/80", &["TCP [::]:22  =>  [2001:db8::5]:80"]),
        ] {
            assert_eq!(rules(spec), expected, "{spec}");
        }
    }

    #[test]
    fn excludes_apply_to_the_whole_specification() {
        assert_eq!(
            rules("192.0.2.1/4025-4035:5025-5035,9000,~4030-4034"),
            [
                "TCP [192.0.2.1]:4025-4029  =>  5025-5029",
                "TCP [192.0.2.1]:4035  =>  5035",
                "TCP [192.0.2.1]:9000  =>  9000",
            ]
        );
        assert_eq!(rules("~25,20-30"), ["TCP [*]:20-24  =>  20-24", "TCP [*]:26-30  =>  26-30"]);
        assert_eq!(
            all(&["20-22,~21", "21"], &network()).unwrap(),
            ["TCP [*]:20  =>  20", "TCP [*]:22  =>  22", "TCP [*]:21  =>  21"]
        );
        assert!(rules("25,~20-30").is_empty());
    }

    #[test]
    fn without_includes_all_but_ephemeral_ports_are_meant() {
        let high = "TCP [*]:61000-65535  =>  61000-65535  (best effort)";
        let low = "TCP [*]:1-32767  =>  1-32767  (best effort)";
        assert_eq!(rules("all"), [low, high]);
        assert_eq!(
            rules("~25"),
            [
                "TCP [*]:1-24  =>  1-24  (best effort)",
                "TCP [*]:26-32767  =>  26-32767  (best effort)",
                high
            ]
        );
        assert_eq!(rules("all,all"), [low, high]);
        assert_eq!(rules("all,~40000-65535"), [low]);
        // Those that are named are meant alone.
        for spec in ["all,2222:22", "2222:22,all"] {
            assert_eq!(rules(spec), ["TCP [*]:2222  =>  22"]);
        }
        assert_eq!(rules("~1-65535"), Vec::<String>::new());
        assert_eq!(
            rules("0.0.0.0/all:192.0.2.5,~1-60999"),
            ["TCP [0.0.0.0]:61000-65535  =>  192.0.2.5:61000-65535  (best effort)"]
        );
    }

    #[test]
    fn what_is_no_specification_is_refused() {
        for spec in [
            "",
            ",",
            "22,",
            ",22",
            "65536",
            "-1",
            "+1",
            "0x16",
            "22 ",
            "22 ,80",
            "22 :80",
            " ",
            "22, ",
            "22: ",
            "22:- 80",
            " +22",
            "22, ~22",
            " none",
            " all",
            "all ",
            " 192.0.2.5/22",
            "22: 192.0.2.5",
            "\u{a0}22",
            "22-",
            "-22",
            "30-20",
            "22:",
            "22:80:90",
            "20-22:30-31",
            "20-22:30",
            "22:host",
            "22:192.0.2.5/",
            "~",
            "~22:23",
            "all:",
            "all:80",
            "all,all:192.0.2.5",
            "none,22",
            "22,none",
            "everything",
            "22:192.0.2.5/80/90",
            "22:[192.0.2.5",
            "22:::ffff:192.0.2.5",
            "22\n",
        ] {
            assert_eq!(refusal(spec), format!("Invalid port specifier '{spec}'"));
        }
        for (spec, text) in [
            ("192.0.2.1/x", "Invalid port specifier 'x'"),
            ("host/22", "Invalid port specifier 'host/22'"),
            ("::ffff:192.0.2.1/22", "Invalid port specifier '::ffff:192.0.2.1/22'"),
            ("%/22", "Invalid interface name: "),
            ("%../22", "Invalid interface name: .."),
            ("%sixteen-bytes-xx/22", "Invalid interface name: sixteen-bytes-xx"),
            ("auto", "'auto' port forwarding is only allowed for pasta"),
            ("22,auto", "'auto' port forwarding is only allowed for pasta"),
        ] {
            assert_eq!(refusal(spec), text, "{spec}");
        }
    }

    /// One cause, not all rules that there are.
    #[test]
    fn what_is_wrong_with_a_specification_is_said() {
        let problem = |spec: &str| {
            let mut table = RuleTable::default();
            let added = add(&mut table, &network(), KERNEL, (Way::ToGuest, Proto::Tcp, spec), 0);
            match added {
                Err(ConfError::PortSpecifier { problem, .. }) => problem.to_string(),
                other => panic!("{spec}: {other:?}"),
            }
        };
        let second = "an address holds for the whole list: give the option once for each address";
        let all = "all leads to one address only";
        for (spec, said) in [
            ("99999", "99999 is no port: the last one is 65535"),
            ("8000-65536", "65536 is no port: the last one is 65535"),
            ("22:70000", "70000 is no port: the last one is 65535"),
            ("8010-8000", "8010-8000: the first port is greater than the last"),
            ("80-81:9-8", "9-8: the first port is greater than the last"),
            (
                "8000-8010:9000-9005",
                "the ranges differ in length: 11 before the colon, 6 behind it",
            ),
            ("all:192.0.2.5,all", all),
            ("22,none", "none stands alone"),
            ("80:", "a port is missing in '80:'"),
            ("22,", "a port is missing in '22,'"),
            ("", "a port is missing in ''"),
            ("1,22-", "a port is missing in '22-'"),
            ("~", "a port is missing in '~'"),
            ("22:192.0.2.5/", "a port is missing in '22:192.0.2.5/'"),
            ("~22:23", "'~22:23': ports that are excluded by ~ lead nowhere"),
            ("http", "'http' is no port: give a number, a range as 8000-8010, or all"),
            ("22:host", "'host' is neither a port nor an address"),
            ("22:80:90", "'80:90' is neither a port nor an address"),
            ("22:host/80", "'host' is no address"),
            ("all:80", "'80' is no address"),
            ("host/22", "'host' is no address"),
            (
                "::ffff:192.0.2.1/22",
                "::ffff:192.0.2.1: write an IPv4 address as one, without ::ffff:",
            ),
            (
                "22:::ffff:192.0.2.5",
                "::ffff:192.0.2.5: write an IPv4 address as one, without ::ffff:",
            ),
            ("127.0.0.1/8080,127.0.0.1/8081", second),
            ("127.0.0.1/8080,[::1]/8081", second),
            ("22,%eth0/23", second),
        ] {
            assert_eq!(problem(spec), said, "{spec}");
        }
    }

    #[test]
    fn rules_that_the_table_refuses_are_named() {
        for (spec, text) in [
            (
                "0",
                "Forwarding rule attempts to map from port 0\nUnable to add rule TCP [*]:0  =>  0 ",
            ),
            (
                "22:0",
                "Forwarding rule attempts to map to port 0\nUnable to add rule TCP [*]:22  =>  0 ",
            ),
            (
                "22:192.0.2.5",
                "Dual stack forward to IPv4 address 192.0.2.5 unsupported\n\
                 Did you mean 0.0.0.0/... instead?\n\
                 Unable to add rule TCP [*]:22  =>  192.0.2.5:22 ",
            ),
            (
                "22,22",
                "Forwarding configuration conflict: TCP [*]:22  =>  22  versus TCP [*]:22  =>  22 \n\
                 Unable to add rule TCP [*]:22  =>  22 ",
            ),
        ] {
            assert_eq!(refusal(spec), text, "{spec}");
        }
    }

    #[test]
    fn none_only_before_ports_of_its_protocol() {
        let net = network();
        assert_eq!(all(&["none", "22"], &net).unwrap(), ["TCP [*]:22  =>  22"]);
        assert_eq!(
            all(&["22", "none"], &net).unwrap_err(),
            "-t none conflicts with previous options"
        );
        let mut table = RuleTable::default();
        add(&mut table, &net, KERNEL, (Way::ToGuest, Proto::Tcp, "22"), 0).unwrap();
        add(&mut table, &net, KERNEL, (Way::ToGuest, Proto::Udp, "none"), 1).unwrap();
    }

    #[test]
    fn without_an_address_the_families_that_are_on_are_meant() {
        let (mut v4, mut v6) = (network(), network());
        v4.v6 = None;
        v6.v4 = None;
        assert_eq!(all(&["22"], &v4).unwrap(), ["TCP [0.0.0.0]:22  =>  22"]);
        assert_eq!(all(&["*/22"], &v6).unwrap(), ["TCP [::]:22  =>  22"]);
    }

    fn of_pasta(way: Way, proto: Proto, spec: &str, net: &Network) -> Result<Vec<String>, String> {
        on_kernel(KERNEL, way, proto, spec, net)
    }

    fn on_kernel(
        kernel: Kernel,
        way: Way,
        proto: Proto,
        spec: &str,
        net: &Network,
    ) -> Result<Vec<String>, String> {
        let mut table = match way {
            Way::FromNamespace => RuleTable::to_host(),
            _ => RuleTable::default(),
        };
        add(&mut table, net, kernel, (way, proto, spec), 0).map_err(|error| error.to_string())?;
        Ok(table.rules().iter().map(|rule| rule.to_string().trim_end().to_owned()).collect())
    }

    #[test]
    fn auto_sets_the_scan_flag_on_every_rule_of_its_specification() {
        let net = network();
        let go = |spec| of_pasta(Way::ToNamespace, Proto::Tcp, spec, &net).unwrap();
        assert_eq!(
            go("auto"),
            [
                "TCP [*]:1-32767  =>  1-32767  (best effort) (auto-scan)",
                "TCP [*]:61000-65535  =>  61000-65535  (best effort) (auto-scan)",
            ]
        );
        assert_eq!(
            go("22,auto,8080:80"),
            ["TCP [*]:22  =>  22  (auto-scan)", "TCP [*]:8080  =>  80  (auto-scan)"]
        );
        assert_eq!(
            go("192.0.2.1/auto,~1-60999"),
            ["TCP [192.0.2.1]:61000-65535  =>  61000-65535  (best effort) (auto-scan)"]
        );
        assert_eq!(
            go("auto,8000-9000,~8080,9500:22"),
            [
                "TCP [*]:8000-8079  =>  8000-8079  (auto-scan)",
                "TCP [*]:8081-9000  =>  8081-9000  (auto-scan)",
                "TCP [*]:9500  =>  22  (auto-scan)",
            ]
        );
        assert_eq!(
            go("127.0.0.1/~1-61000,auto"),
            ["TCP [127.0.0.1]:61001-65535  =>  61001-65535  (best effort) (auto-scan)"]
        );
        assert_eq!(go("22"), ["TCP [*]:22  =>  22"]);
    }

    #[test]
    fn auto_takes_the_family_that_is_on() {
        let mut net = network();
        net.v6 = None;
        let rules = of_pasta(Way::ToNamespace, Proto::Udp, "auto,~1-60999", &net).unwrap();
        assert_eq!(
            rules,
            ["UDP [0.0.0.0]:61000-65535  =>  61000-65535  (best effort) (auto-scan)"]
        );
    }

    #[test]
    fn ports_from_the_namespace_are_bound_to_its_loopback_interface() {
        let net = network();
        let go = |proto, spec| of_pasta(Way::FromNamespace, proto, spec, &net);
        assert_eq!(go(Proto::Tcp, "22:80").unwrap(), ["TCP [*]%lo:22  =>  80"]);
        assert_eq!(
            go(Proto::Udp, "auto,~1-60999").unwrap(),
            ["UDP [*]%lo:61000-65535  =>  61000-65535  (best effort) (auto-scan)"]
        );
        for (proto, spec, text) in [
            (Proto::Tcp, "127.0.0.1/22", "Listening address not allowed for -T 127.0.0.1/22"),
            (Proto::Udp, "%lo/22", "Listening address not allowed for -U %lo/22"),
            (
                Proto::Tcp,
                "22:192.0.2.5",
                "Dual stack forward to IPv4 address 192.0.2.5 unsupported\n\
                 Did you mean 0.0.0.0/... instead?\n\
                 Unable to add rule TCP [*]%lo:22  =>  192.0.2.5:22 ",
            ),
        ] {
            assert_eq!(go(proto, spec).unwrap_err(), text);
        }
    }

    #[test]
    fn ports_from_the_namespace_lead_to_other_addresses_in_one_family() {
        let (mut v4, mut v6) = (network(), network());
        (v4.v6, v6.v4) = (None, None);
        for (net, spec, rule) in [
            (&v4, "22:192.0.2.5", "TCP [0.0.0.0]%lo:22  =>  192.0.2.5:22"),
            (&v4, "20-22:127.0.0.5/30-32", "TCP [0.0.0.0]%lo:20-22  =>  127.0.0.5:30-32"),
            (&v6, "22:2001:db8::5", "TCP [::]%lo:22  =>  [2001:db8::5]:22"),
        ] {
            assert_eq!(of_pasta(Way::FromNamespace, Proto::Tcp, spec, net).unwrap(), [rule]);
        }
    }

    #[test]
    fn without_binding_to_interfaces_loopback_addresses_stand_for_the_loopback_interface() {
        let (both, mut v4, mut v6) = (network(), network(), network());
        (v4.v6, v6.v4) = (None, None);
        let go = |net| on_kernel(OLD, Way::FromNamespace, Proto::Tcp, "22:80", net).unwrap();
        let (on_v4, on_v6) = ("TCP [127.0.0.1]:22  =>  80", "TCP [::1]:22  =>  80");
        assert_eq!(go(&both), [on_v4, &format!("{on_v6}  (best effort)")]);
        assert_eq!(go(&v4), [on_v4]);
        assert_eq!(go(&v6), [on_v6]);
        let to_guest = |spec| on_kernel(OLD, Way::ToNamespace, Proto::Tcp, spec, &both);
        assert_eq!(to_guest("22").unwrap(), ["TCP [*]:22  =>  22"]);
        assert_eq!(
            to_guest("%eth0/22").unwrap_err(),
            "Device binding for '-t %eth0/22' unsupported (requires kernel 5.7+)"
        );
    }

    #[test]
    fn ephemeral_ports_as_the_kernel_writes_them() {
        assert_eq!(parse_ephemeral("32768\t60999\n"), Some((32768, 60999)));
        for text in ["", "32768", "32768 60999\n", "60999\t32768\n", "x\ty\n"] {
            assert_eq!(parse_ephemeral(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_specification_makes_it_panic(spec in ".{0,64}") {
            let _any = all(&[&spec], &network());
        }

        #[test]
        fn nothing_like_a_specification_makes_it_panic(
            spec in "([0-9]{1,5}|[-:,~/%*\\[\\]]|all|auto|none|192\\.0\\.2\\.1|::1|eth0){0,12}",
        ) {
            let _any = all(&[&spec], &network());
        }

        #[test]
        fn excluded_ports_are_in_no_rule(
            (first, last) in (1..=65535u16, 1..=65535u16).prop_map(|(a, b)| (a.min(b), a.max(b))),
            (from, to) in (1..=65535u16, 1..=65535u16).prop_map(|(a, b)| (a.min(b), a.max(b))),
        ) {
            let spec = format!("{first}-{last},~{from}-{to}");
            let runs = parse(&spec, EPHEMERAL, (Way::ToGuest, "-t")).unwrap();
            let covered: usize = runs.iter().map(|run| usize::from(run.last - run.first) + 1).sum();
            let wanted = (first..=last).filter(|port| !(from..=to).contains(port)).count();
            prop_assert_eq!(covered, wanted);
            for run in runs {
                prop_assert!(run.last < from || run.first > to);
                prop_assert_eq!(run.first, run.target_first);
            }
        }
    }
}
