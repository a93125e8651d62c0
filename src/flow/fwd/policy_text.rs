//! Egress rules as the operator writes them: `allow|reject|drop [tcp|udp|icmp] DESTINATION[:PORTS]`.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::{Destination, EgressRule, NamePattern, Places, Prefix, Proto, Verdict};
use crate::wire::dns::Name;

/// Reads one rule.
///
/// # Errors
/// What is wrong with it.
pub fn egress_rule(text: &str) -> Result<EgressRule, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (verdict, proto, destination) = match words[..] {
        [verdict, destination] => (verdict, None, destination),
        [verdict, proto, destination] => (verdict, Some(proto), destination),
        _ => return Err(format!("Invalid egress rule '{text}': two or three words are expected")),
    };
    let wrong = |what: &str, word: &str| format!("Invalid {what} '{word}' in egress rule '{text}'");
    let verdict = match verdict {
        "allow" => Verdict::Allow,
        "reject" => Verdict::Reject,
        "drop" => Verdict::Drop,
        word => return Err(wrong("action", word)),
    };
    let proto = match proto {
        None => None,
        Some("tcp") => Some(Proto::Tcp),
        Some("udp") => Some(Proto::Udp),
        Some("icmp") => Some(Proto::Icmp),
        Some(word) => return Err(wrong("protocol", word)),
    };
    let (place, ports) = split_ports(destination);
    let to = self::destination(place).ok_or_else(|| wrong("destination", place))?;
    if matches!(to, Destination::Name(_)) && verdict != Verdict::Allow {
        return Err(format!(
            "Egress rule '{text}': a name can only be allowed; its addresses are not known before \
             the guest has asked for them"
        ));
    }
    let ports = match ports {
        None => ArrayVec::new(),
        Some(_) if proto == Some(Proto::Icmp) => {
            return Err(format!("Egress rule '{text}': ICMP has no ports"));
        }
        Some(ports) => port_ranges(ports).ok_or_else(|| wrong("ports", ports))?,
    };
    Ok(EgressRule { verdict, proto, to, ports, text: words.join(" ") })
}

/// The ports behind the last colon. An IPv6 address with ports stands in brackets.
fn split_ports(destination: &str) -> (&str, Option<&str>) {
    match destination.rsplit_once(':') {
        Some((place, ports)) if place.starts_with('[') && place.ends_with(']') => {
            (place, Some(ports))
        }
        Some((place, ports)) if !place.contains(':') && !place.starts_with('[') => {
            (place, Some(ports))
        }
        _ => (destination, None),
    }
}

fn destination(text: &str) -> Option<Destination> {
    if text == "any" {
        return Some(Destination::Any);
    }
    if text.starts_with('@') {
        return Places::named(text).map(Destination::Place);
    }
    if let Some(network) = network(text) {
        return Some(Destination::Network(network));
    }
    // What ends in a number is an address that is none.
    let last = text.trim_end_matches('.').rsplit('.').next()?;
    if last.is_empty() || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (name, below) = match text.strip_prefix("*.") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    Some(Destination::Name(Box::new(NamePattern { name: Name::parse(name)?, below })))
}

/// An address, or one with the length of a prefix. One of IPv4 in the dress of IPv6 is one of IPv4, as where flows are
/// decided.
fn network(text: &str) -> Option<Prefix> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let (network, len) = match inner.split_once('/') {
        Some((network, len)) => (network, Some(number::<u8>(len)?)),
        None => (inner, None),
    };
    let parsed: IpAddr = network.parse().ok()?;
    let mapped = matches!(parsed, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let most = if parsed.is_ipv4() { 32 } else { 128 };
    let len = len.unwrap_or(most);
    if mapped && (96..=most).contains(&len) {
        return Prefix::new(parsed.to_canonical(), len - 96);
    }
    Prefix::new(parsed, len)
}

/// `80`, `8000-9000`, and several with commas between them.
fn port_ranges<const MOST: usize>(text: &str) -> Option<ArrayVec<(u16, u16), MOST>> {
    let mut ranges = ArrayVec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (number::<u16>(first)?, number::<u16>(last)?);
        if first == 0 || first > last || ranges.try_push((first, last)).is_err() {
            return None;
        }
    }
    Some(ranges)
}

/// A number in decimal digits and nothing else.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        for text in [
            "allow any",
            "reject tcp @private",
            "drop udp 192.0.2.0/24:53",
            "allow icmp 192.0.2.7",
            "allow tcp example.org:80,443,8000-8009",
            "allow *.Example.org",
            "allow 2001:db8::/32",
            "allow tcp [2001:db8::1]:80",
            "allow [2001:db8::/32]:80",
            "allow [2001:db8::1]",
            "reject @dns:53",
            "allow  tcp   any:1-65535",
        ] {
            let read = egress_rule(text).expect(text);
            assert_eq!(read.text, text.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        let read = egress_rule("reject tcp [2001:db8::/32]:80,90-99").unwrap();
        let network = Prefix::new("2001:db8::".parse().unwrap(), 32).unwrap();
        assert_eq!((read.verdict, read.proto), (Verdict::Reject, Some(Proto::Tcp)));
        assert_eq!(read.to, Destination::Network(network));
        assert_eq!(read.ports[..], [(80, 80), (90, 99)]);
        let mapped = egress_rule("allow ::ffff:192.0.2.0/120").unwrap();
        assert_eq!(mapped.to, egress_rule("allow 192.0.2.0/24").unwrap().to);
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_word_that_is_wrong() {
        for (text, wrong) in [
            ("", "two or three words"),
            ("allow", "two or three words"),
            ("allow tcp any :80", "two or three words"),
            ("permit any", "action 'permit'"),
            ("allow sctp any", "protocol 'sctp'"),
            ("allow @lan", "destination '@lan'"),
            ("allow 192.0.2.0/33", "destination '192.0.2.0/33'"),
            ("allow 192.0.2.256", "destination '192.0.2.256'"),
            ("allow 10.1", "destination '10.1'"),
            ("allow 2001:db8::1:80:", "destination"),
            ("allow [2001:db8::1", "destination"),
            ("allow [[2001:db8::1]]:80", "destination"),
            ("allow *", "destination '*'"),
            ("allow *.*.example", "destination"),
            ("allow exa mple.org", "protocol 'exa'"),
            ("allow a..b", "destination 'a..b'"),
            ("allow any:0", "ports '0'"),
            ("allow any:90-80", "ports '90-80'"),
            ("allow any:70000", "ports '70000'"),
            ("allow any:", "ports ''"),
            ("allow any:1,2,3,4,5,6,7,8,9", "ports"),
            ("allow icmp any:80", "no ports"),
            ("reject example.org", "only be allowed"),
            ("drop *.example.org", "only be allowed"),
        ] {
            let problem = egress_rule(text).expect_err(text);
            assert!(problem.contains(wrong), "{text}: {problem}");
        }
    }
}
