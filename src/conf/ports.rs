//! Port specifications of `-t` and `-u`.
//!
//! ```text
//! spec     := "none" | [ target "/" ] ports
//! target   := [ addr | "*" ] [ "%" ifname ]
//! addr     := IPv4 | IPv6 | "[" IPv4 | IPv6 "]"
//! ports    := chunk { "," chunk }
//! chunk    := "all" [ ":" addr ] | "auto" | "~" range
//!           | range [ ":" range | ":" addr | ":" addr "/" range ]
//! range    := port [ "-" port ]
//! ```
//!
//! Excludes (`~`) apply to the whole of their own specification, wherever they stand in it.
//! Without any port to include, all but the excluded and the ephemeral ones are meant, each as far
//! as it can be had (a *weak* rule). Each run of ports that nothing interrupts becomes one rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ConfError, Note};
use crate::flow::fwd::{InterfaceName, ListenAddr, Proto, Rule, RuleTable};
use crate::flow::network::Network;

/// Ephemeral ports if the kernel does not tell, by RFC 6335 section 6.
const DEFAULT_EPHEMERAL: (u16, u16) = (49152, 65535);

const EPHEMERAL_PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// First and last of the ports that the kernel gives to sockets that do not choose.
pub fn ephemeral_range() -> ((u16, u16), Option<Note>) {
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
    let range = (port(first.trim())?, port(last.trim())?);
    (range.0 <= range.1).then_some(range)
}

/// Reads the specification `spec` of `proto`, the `group`th on the command line, and adds its
/// rules to `table`.
///
/// # Errors
/// The first thing that is wrong with it or with one of its rules.
pub fn add(
    table: &mut RuleTable,
    net: &Network,
    ephemeral: (u16, u16),
    (proto, spec): (Proto, &str),
    group: u16,
) -> Result<(), ConfError> {
    if spec == "none" {
        let conflict = table.rules().iter().any(|rule| rule.proto == proto);
        let option = if proto == Proto::Tcp { "-t" } else { "-u" };
        return if conflict { Err(ConfError::PortNone(option)) } else { Ok(()) };
    }
    for runs in parse(spec, ephemeral)? {
        let rule = runs.rule(proto, net, group);
        table
            .add(rule, net)
            .map_err(|warning| ConfError::Rule { warning, rule: Box::new(rule) })?;
    }
    Ok(())
}

/// Where a specification listens; `addr` is `None` for everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Listen {
    addr: Option<IpAddr>,
    interface: Option<InterfaceName>,
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
}

impl Run {
    fn rule(&self, proto: Proto, net: &Network, group: u16) -> Rule {
        let listen = match (self.listen.addr, net.v4.is_some(), net.v6.is_some()) {
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

fn parse(spec: &str, ephemeral: Range) -> Result<Vec<Run>, ConfError> {
    let (listen, ports) = listen_part(spec)?;
    let invalid = || ConfError::PortSpecifier(ports.to_owned());
    let chunks: Vec<Chunk> =
        ports.split(',').map(chunk).collect::<Option<_>>().ok_or_else(invalid)?;
    if chunks.contains(&Chunk::Auto) {
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
    let (all, more) = (alls.next(), alls.next());

    // Ports beside "all" would either change nothing or contradict it.
    if more.is_some() || (all.is_some() && !includes.is_empty()) {
        return Err(invalid());
    }
    if includes.is_empty() {
        excluded.insert(ephemeral);
        let everything = Run {
            listen,
            first: 1,
            last: u16::MAX,
            target_addr: all.flatten(),
            target_first: 1,
            weak: true,
        };
        return Ok(excluded.split(everything));
    }
    Ok(includes
        .into_iter()
        .filter_map(|chunk| included(listen, chunk))
        .flat_map(|run| excluded.split(run))
        .collect())
}

fn included(listen: Listen, chunk: &Chunk) -> Option<Run> {
    let Chunk::Include { range: (first, last), target_addr, target } = *chunk else { return None };
    Some(Run { listen, first, last, target_addr, target_first: target.0, weak: false })
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
            Some(addr) => Some(addr),
            // Not a place, but perhaps a port with a target address.
            None => return Ok(whole),
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

fn chunk(text: &str) -> Option<Chunk> {
    if text == "auto" {
        return Some(Chunk::Auto);
    }
    if let Some(excluded) = text.strip_prefix('~') {
        return range(excluded).map(Chunk::Exclude);
    }
    let (from, to) = match text.split_once(':') {
        Some((from, to)) => (from, Some(to)),
        None => (text, None),
    };
    if from == "all" {
        let target = to.map(|to| address(to).ok_or(())).transpose().ok()?;
        return Some(Chunk::All(target));
    }
    let range = range(from)?;
    let (target_addr, target) = match to {
        Some(to) => target(to, range)?,
        None => (None, range),
    };
    let same_length = range.1 - range.0 == target.1 - target.0;
    same_length.then_some(Chunk::Include { range, target_addr, target })
}

/// What follows the colon: an address is tried before ports.
fn target(text: &str, ports: Range) -> Option<(Option<IpAddr>, Range)> {
    if let Some((addr, ports)) = text.split_once('/') {
        return Some((Some(address(addr)?), range(ports)?));
    }
    match address(text) {
        Some(addr) => Some((Some(addr), ports)),
        None => Some((None, range(text)?)),
    }
}

/// An address, in brackets or not. One that hides an IPv4 address in an IPv6 one is none.
fn address(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let addr: IpAddr = inner.parse().ok()?;
    (addr == addr.to_canonical()).then_some(addr)
}

fn range(text: &str) -> Option<Range> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last).then_some((first, last))
}

/// A port in decimal, without a sign.
fn port(text: &str) -> Option<u16> {
    let decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    decimal.then(|| text.parse().ok()).flatten()
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
