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

/// Who forwards the ports of a specification, and in which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardDirection {
    /// passt's `-t` and `-u`: to the guest, never automatically.
    ToGuest,
    /// pasta's `-t` and `-u`: to the namespace.
    ToNamespace,
    /// pasta's `-T` and `-U`: from the namespace's loopback interface to the host's.
    FromNamespace,
}

impl ForwardDirection {
    /// The option that gives the specification.
    fn option(self, proto: Proto) -> &'static str {
        proto.option(self == Self::FromNamespace)
    }
}

/// Reads the specification `spec` of `proto`, the `spec_index`th on the command line, and adds its
/// rules to `table`.
///
/// # Errors
/// The first thing that is wrong with it or with one of its rules.
pub fn add(
    table: &mut RuleTable,
    enabled: impl Into<Enabled>,
    kernel: Kernel,
    meant: (ForwardDirection, Proto, &str),
    spec_index: u16,
) -> Result<(), ConfError> {
    let enabled = enabled.into();
    for rule in rules(table, enabled, kernel, meant, spec_index)? {
        table
            .add(rule, enabled)
            .map_err(|warning| ConfError::Rule { warning, rule: Box::new(rule) })?;
    }
    Ok(())
}

/// The rules that the specification `spec` of `proto` stands for, the `spec_index`th, beside those of `table`.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn rules(
    table: &RuleTable,
    enabled: Enabled,
    kernel: Kernel,
    (direction, proto, spec): (ForwardDirection, Proto, &str),
    spec_index: u16,
) -> Result<Vec<Rule>, ConfError> {
    let option = direction.option(proto);
    if spec == "none" {
        let conflict = table.rules().iter().any(|rule| rule.proto == proto);
        return if conflict { Err(ConfError::PortNone(option)) } else { Ok(Vec::new()) };
    }
    let runs = parse(spec, kernel.ephemeral, (direction, option))?;
    let rules = runs.into_iter().map(|run| run.rule(proto, enabled, spec_index));
    let rules: Vec<Rule> = rules
        .flat_map(|rule| match (direction, kernel.device_binding) {
            (ForwardDirection::FromNamespace, false) => on_loopback_addresses(rule),
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
    fn rule(&self, proto: Proto, enabled: Enabled, spec_index: u16) -> Rule {
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
            spec_index,
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
    (direction, option): (ForwardDirection, &'static str),
) -> Result<Vec<Run>, ConfError> {
    let (listen, ports) = match listen_part(spec)? {
        (_, ports) if direction == ForwardDirection::FromNamespace && ports.len() < spec.len() => {
            return Err(ConfError::PortAddress(option, spec.to_owned()));
        }
        (_, ports) if direction == ForwardDirection::FromNamespace => (Listen::loopback(), ports),
        other => other,
    };
    let invalid = |problem| ConfError::PortSpecifier { ports: ports.to_owned(), problem };
    let read = |text| chunk(text).map_err(|problem| invalid(named(problem, text, ports)));
    let chunks = ports.split(',').map(read).collect::<Result<Vec<Chunk>, _>>()?;
    let scan = chunks.contains(&Chunk::Auto);
    if scan && direction == ForwardDirection::ToGuest {
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
mod tests;
