//! Arguments of options: text to typed values, and what each does to [`Options`]. A refused value
//! is described in the words that other programs look for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Options;
use crate::conf::egress;
use crate::conf::text::{self, decimal};
use crate::flow::fwd::{InterfaceName, egress_rule, is_one_host};
use crate::flow::network::Mac;
use crate::limits::MAX_GROUP_PORTS;
use crate::wire::dns::Name;

/// Largest MTU handed out: what fits a frame of 65535 bytes with its Ethernet header.
const MAX_MTU: u16 = 65535 - 14;

/// MTU handed out by default: the largest multiple of four.
pub(super) const DEFAULT_MTU: u16 = MAX_MTU & !3;

/// Size of the log file: what suits a log that is read when something went wrong.
pub(super) const DEFAULT_LOG_SIZE: u64 = 1 << 20;

/// Smallest log file: its first line, and what is kept when it is cut, in pages of the file.
const MIN_LOG_SIZE: u64 = 5 * 8192;

/// Longest host name, by RFC 1035 2.3.4 without the root's length byte and the first one.
const MAX_NAME: usize = 253;

type Refusal = Result<(), String>;

/// A number as C writes it: decimal, `0x` hexadecimal or `0` octal. None that 64 bits do not hold.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    let valid = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    valid.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
}

/// Whether `address` is that of one host, or one of this host itself.
fn is_one_host_or_local(address: IpAddr) -> bool {
    address.is_loopback() || is_one_host(address)
}

/// Stores `address` in the field of its family.
fn store(address: IpAddr, v4: &mut Option<Ipv4Addr>, v6: &mut Option<Ipv6Addr>) {
    match address {
        IpAddr::V4(address) => *v4 = Some(address),
        IpAddr::V6(address) => *v6 = Some(address),
    }
}

/// Reads an address that `accepts` agrees with.
fn host_address(text: &str, what: &str, accepts: fn(IpAddr) -> bool) -> Result<IpAddr, String> {
    let address = text.parse().ok().filter(|address| accepts(*address));
    address.ok_or_else(|| format!("{what}: {text}"))
}

pub(super) fn fd(o: &mut Options, text: &str) -> Refusal {
    let fd = number(text).and_then(|fd| i32::try_from(fd).ok());
    o.fd = Some(fd.ok_or_else(|| format!("Invalid --fd: {text}"))?);
    (o.one_off, o.socket) = (true, None);
    Ok(())
}

pub(super) fn multicast_ports(o: &mut Options, text: &str) -> Refusal {
    for port in text.split(',') {
        let port = decimal::<u16>(port)
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("Invalid port in --multicast-ports: {port}"))?;
        if o.mapping.group_ports.contains(&port) {
            continue;
        }
        o.mapping.group_ports.try_push(port).map_err(|_| {
            format!("Too many ports in --multicast-ports: {MAX_GROUP_PORTS} at most")
        })?;
    }
    Ok(())
}

pub(super) fn mtu(o: &mut Options, text: &str) -> Refusal {
    let mtu = number(text).ok_or_else(|| format!("Invalid MTU: {text}"))?;
    o.mtu = u16::try_from(mtu)
        .ok()
        .filter(|mtu| *mtu <= MAX_MTU)
        .ok_or_else(|| format!("MTU {text} too large (max {MAX_MTU})"))?;
    Ok(())
}

pub(super) fn address(o: &mut Options, text: &str) -> Refusal {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let invalid = || format!("Invalid guest address: {text}");
    let parsed = text::address(address).ok_or_else(invalid)?;
    let canonical = parsed.to_canonical();
    if !is_one_host(canonical) {
        return Err(invalid());
    }
    let mapped = parsed != canonical;
    let bits = if parsed.is_ipv4() { 32 } else { 128 };
    let length = prefix
        .map(|prefix| prefix_length(prefix, bits, mapped))
        .map(|length| length.ok_or_else(|| format!("Invalid prefix length: {text}")));
    let length = length.transpose()?;
    match canonical {
        IpAddr::V4(v4) => o.address_v4 = Some((v4, length)),
        IpAddr::V6(v6) => o.address_v6 = Some(v6),
    }
    Ok(())
}

/// A prefix length in decimal, up to `bits`; that of an IPv4-mapped address as its IPv4 part.
fn prefix_length(text: &str, bits: u8, mapped: bool) -> Option<u8> {
    let length: u8 = decimal(text).filter(|length| *length <= bits)?;
    if mapped { length.checked_sub(96) } else { Some(length) }
}

pub(super) fn netmask(o: &mut Options, text: &str) -> Refusal {
    let dotted = text.parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
    let length = match dotted {
        Some(mask) => {
            (mask.leading_ones() + mask.trailing_zeros() >= 32).then_some(mask.leading_ones())
        }
        None => number(text).and_then(|length| u32::try_from(length).ok()),
    };
    let length = length.and_then(|length| u8::try_from(length).ok()).filter(|n| *n <= 32);
    o.netmask = Some(length.ok_or_else(|| format!("Invalid prefix length: {text}"))?);
    Ok(())
}

pub(super) fn mac(o: &mut Options, text: &str) -> Refusal {
    o.mac = station(text).ok_or_else(|| format!("Invalid MAC address: {text}"))?;
    Ok(())
}

/// `xx:xx:xx:xx:xx:xx`, of one station.
pub(in crate::conf) fn station(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2)?;
        let hex = part.bytes().all(|digit| digit.is_ascii_hexdigit());
        *byte = hex.then(|| u8::from_str_radix(part, 16).ok()).flatten()?;
    }
    let group = bytes[0] & 1 != 0;
    (parts.next().is_none() && !group && bytes != [0; 6]).then_some(Mac(bytes))
}

pub(super) fn gateway(o: &mut Options, text: &str) -> Refusal {
    let address = host_address(text, "Invalid gateway address", is_one_host)?;
    store(address, &mut o.gateway_v4, &mut o.gateway_v6);
    Ok(())
}

fn named(text: &str) -> Result<Option<InterfaceName>, String> {
    let name = InterfaceName::new(text);
    name.map(Some).ok_or_else(|| format!("Invalid interface name: {text}"))
}

/// A name that no interface can have is that of none.
pub(super) fn interface(o: &mut Options, text: &str) -> Refusal {
    let name = InterfaceName::new(text);
    let none = || format!("Invalid interface name {text}: No such device");
    o.interfaces.template = Some(name.ok_or_else(none)?);
    Ok(())
}

pub(super) fn ns_ifname(o: &mut Options, text: &str) -> Refusal {
    o.pasta.interface = named(text)?;
    Ok(())
}

pub(super) fn ns_mac(o: &mut Options, text: &str) -> Refusal {
    let mac = station(text).ok_or_else(|| format!("Invalid MAC address: {text}"))?;
    o.pasta.mac = Some(mac);
    Ok(())
}

pub(super) fn netns(o: &mut Options, text: &str) -> Refusal {
    if text.is_empty() {
        return Err("Invalid network namespace: ".to_owned());
    }
    let path = if text.contains('/') { text.to_owned() } else { format!("/run/netns/{text}") };
    o.pasta.netns = Some(path.into());
    Ok(())
}

pub(super) fn run_as(o: &mut Options, text: &str) -> Refusal {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    if user.is_empty() || group.is_some_and(|group| group.is_empty() || group.contains(':')) {
        return Err(format!("Invalid --runas option: {text}"));
    }
    o.run.run_as = Some(text.to_owned());
    Ok(())
}

pub(super) fn log_size(o: &mut Options, text: &str) -> Refusal {
    let size = number(text).filter(|size| *size >= MIN_LOG_SIZE);
    o.run.log_size = size.ok_or_else(|| format!("Invalid --log-size: {text}"))?;
    Ok(())
}

pub(super) fn stats(o: &mut Options, text: &str) -> Refusal {
    let delay = number(text).ok_or_else(|| format!("Invalid --stats: {text}"))?;
    o.run.stats = (delay > 0).then_some(delay);
    Ok(())
}

pub(super) fn wait_for_network(o: &mut Options, text: &str) -> Refusal {
    /// Nobody waits for longer than a day.
    const MOST: u64 = 24 * 3600;
    let seconds = number(text).filter(|seconds| *seconds <= MOST);
    let invalid = || format!("Invalid --wait-for-network: {text}: give seconds, at most {MOST}");
    o.run.wait_for_network = Some(seconds.ok_or_else(invalid)?);
    Ok(())
}

pub(super) fn outbound_if4(o: &mut Options, text: &str) -> Refusal {
    o.interfaces.outbound_v4 = named(text)?;
    Ok(())
}

pub(super) fn outbound_if6(o: &mut Options, text: &str) -> Refusal {
    o.interfaces.outbound_v6 = named(text)?;
    Ok(())
}

pub(super) fn outbound(o: &mut Options, text: &str) -> Refusal {
    let accepts =
        |address: IpAddr| is_one_host(address) || (address.is_ipv4() && address.is_loopback());
    let address = host_address(text, "Invalid or redundant outbound address", accepts)?;
    store(address, &mut o.mapping.v4.outbound, &mut o.mapping.v6.outbound);
    Ok(())
}

pub(super) fn dns(o: &mut Options, text: &str) -> Refusal {
    if text == "none" {
        o.no_dns = true;
        o.dns_v4.clear();
        o.dns_v6.clear();
        (o.mapping.v4.dns_match, o.mapping.v6.dns_match) = (None, None);
        return dns_host(o, text);
    }
    let accepts = is_one_host_or_local;
    let address = host_address(text, "Cannot use DNS address", accepts)
        .map_err(|_| format!("Cannot use DNS address {text}"))?;
    o.no_dns = false;
    // More than fit are ignored: guests use the first three anyway.
    let _full = match address {
        IpAddr::V4(v4) => o.dns_v4.try_push(v4).is_err(),
        IpAddr::V6(v6) => o.dns_v6.try_push(v6).is_err(),
    };
    Ok(())
}

pub(super) fn dns_forward(o: &mut Options, text: &str) -> Refusal {
    let address = host_address(text, "Invalid DNS forwarding address", is_one_host)?;
    store(address, &mut o.mapping.v4.dns_match, &mut o.mapping.v6.dns_match);
    Ok(())
}

pub(super) fn dns_host(o: &mut Options, text: &str) -> Refusal {
    if text == "none" {
        (o.mapping.v4.dns_host, o.mapping.v6.dns_host) = (None, None);
        o.dns_host_name = None;
        return Ok(());
    }
    if let Some(name) = host_name(text) {
        o.dns_host_name = Some((text.to_owned(), name));
        return Ok(());
    }
    let accepts = is_one_host_or_local;
    let address = host_address(text, "Invalid host nameserver address", accepts)?;
    store(address, &mut o.mapping.v4.dns_host, &mut o.mapping.v6.dns_host);
    Ok(())
}

/// `text` as the name of a host, which ends in letters: a number there is that of a bad address.
fn host_name(text: &str) -> Option<Name> {
    let last = text.strip_suffix('.').unwrap_or(text).rsplit('.').next()?;
    let is_name = last.starts_with(|first: char| first.is_ascii_alphabetic());
    Name::parse(text).filter(|_| is_name)
}

pub(super) fn search(o: &mut Options, text: &str) -> Refusal {
    if text == "none" {
        o.no_search = true;
        o.search.clear();
        return Ok(());
    }
    let refused = || format!("Cannot use DNS search domain {text}");
    let mut domains = text.split_ascii_whitespace().peekable();
    if domains.peek().is_none() {
        return Err(refused());
    }
    o.no_search = false;
    for domain in domains {
        if domain.len() > MAX_NAME || o.search.try_push(domain.to_owned()).is_err() {
            return Err(refused());
        }
    }
    Ok(())
}

/// A name; `None` for the empty one, which callers pass when they have none.
fn name(text: &str, what: &str) -> Result<Option<String>, String> {
    if text.len() > MAX_NAME {
        return Err(format!("{what}: {text}"));
    }
    Ok(Some(text.to_owned()).filter(|name| !name.is_empty()))
}

pub(super) fn hostname(o: &mut Options, text: &str) -> Refusal {
    o.hostname = name(text, "Invalid hostname")?;
    Ok(())
}

pub(super) fn fqdn(o: &mut Options, text: &str) -> Refusal {
    o.fqdn = name(text, "Invalid FQDN")?;
    Ok(())
}

pub(super) fn egress(o: &mut Options, text: &str) -> Refusal {
    let rule = egress_rule(text)?;
    o.egress.sources.push(egress::Source::Rule(Box::new(rule)));
    Ok(())
}

pub(super) fn map_host_loopback(o: &mut Options, text: &str) -> Refusal {
    if text == "none" {
        o.no_map_gw = true;
        (o.mapping.v4.host_loopback, o.mapping.v6.host_loopback) = (None, None);
        return Ok(());
    }
    let address = host_address(text, "Invalid address to remap to host", is_one_host)?;
    store(address, &mut o.mapping.v4.host_loopback, &mut o.mapping.v6.host_loopback);
    Ok(())
}

pub(super) fn map_guest_addr(o: &mut Options, text: &str) -> Refusal {
    if text == "none" {
        (o.mapping.v4.guest_addr, o.mapping.v6.guest_addr) = (None, None);
        return Ok(());
    }
    let address = host_address(text, "Invalid address to remap to host", is_one_host)?;
    store(address, &mut o.mapping.v4.guest_addr, &mut o.mapping.v6.guest_addr);
    Ok(())
}
