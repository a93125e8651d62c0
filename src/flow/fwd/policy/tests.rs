//! What becomes of what the guest sends, by rules and mappings.

use super::super::example::{at, ip, mapping, network};
use super::super::{Refused, to_host};
use super::*;
use crate::flow::fwd::egress_rule;

fn policy(rules: &[&str]) -> Policy {
    let own = [("127.0.0.1", 8), ("203.0.113.9", 24), ("2001:db8:9::9", 64), ("192.168.1.7", 24)];
    Policy {
        rules: rules.iter().map(|text| egress_rule(text).expect("a rule")).collect(),
        host: Surroundings::of_addresses(own.iter().map(|&(text, len)| (ip(text), len)).collect()),
    }
}

/// What `--isolate` stands for.
fn isolated() -> Policy {
    policy(&[
        "allow @dns",
        "reject tcp any:53,853",
        "reject udp any:53,853",
        "allow @internet",
        "reject any",
    ])
}

/// What becomes of what the guest sends to `destination`: the number of the rule, with its verdict.
fn sent(policy: &Policy, map: &Mapping, proto: Proto, destination: &str) -> String {
    let (seen, net) = (at(destination), network());
    let guest = at(if seen.is_ipv4() { "192.0.2.2:4000" } else { "[2001:db8::2]:4000" });
    let real = match to_host(&net, map, proto, guest, seen) {
        Ok(side) => side.destination,
        Err(refused) => return refused.to_string(),
    };
    let attempt = Attempt::new(&net, map, proto, seen, real);
    let (verdict, rule) = policy.judge(&attempt, |_| 0);
    format!("{verdict:?} {rule}")
}

#[test]
fn first_match_wins_and_what_none_matches_is_rejected() {
    let policy = policy(&[
        "allow tcp 198.51.100.7:443,8000-8009",
        "drop udp 198.51.100.0/24:53",
        "reject icmp 198.51.100.0/24",
        "allow tcp 2001:db8:5::/48",
        "allow [2001:db8:6::1]:80",
        "allow icmp @internet",
    ]);
    let map = Mapping::default();
    for (proto, destination, expected) in [
        (Proto::Tcp, "198.51.100.7:443", "Allow 0"),
        (Proto::Tcp, "198.51.100.7:8009", "Allow 0"),
        (Proto::Tcp, "198.51.100.7:8010", "Reject 6"),
        (Proto::Tcp, "198.51.100.8:443", "Reject 6"),
        (Proto::Udp, "198.51.100.7:443", "Reject 6"),
        (Proto::Udp, "198.51.100.99:53", "Drop 1"),
        (Proto::Icmp, "198.51.100.7:53", "Reject 2"),
        (Proto::Icmp, "198.51.101.7:53", "Allow 5"),
        (Proto::Tcp, "[2001:db8:5:1::1]:1", "Allow 3"),
        (Proto::Udp, "[2001:db8:6::1]:80", "Allow 4"),
        (Proto::Udp, "[2001:db8:6::1]:81", "Reject 6"),
        // Echo has no ports.
        (Proto::Icmp, "[2001:db8:6::1]:80", "Allow 5"),
    ] {
        assert_eq!(sent(&policy, &map, proto, destination), expected, "{proto} {destination}");
    }
    let nothing = Policy::default();
    assert_eq!(sent(&nothing, &map, Proto::Tcp, "10.0.0.1:22"), "Allow 0", "no rules, no policy");
}

#[test]
fn no_mapping_is_a_way_round_a_rule() {
    let mut map = mapping();
    map.v4.guest_addr = Some("198.51.100.98".parse().unwrap());
    let gateway = "192.0.2.1:80";
    for (rules, destination, expected) in [
        // The gateway is the host's loopback, whatever its own address is.
        (&["reject @loopback", "allow any"][..], gateway, "Reject 0"),
        (&["reject @host", "allow any"], gateway, "Reject 0"),
        (&["reject 127.0.0.0/8", "allow any"], gateway, "Reject 0"),
        (&["reject 192.0.2.1", "allow any"], gateway, "Reject 0"),
        (&["reject @loopback", "allow any"], "[2001:db8::1]:80", "Reject 0"),
        (&["reject ::1", "allow any"], "[2001:db8::1]:80", "Reject 0"),
        // To allow what it looks like does not allow what it is.
        (&["allow @internet"], gateway, "Reject 1"),
        (&["allow 192.0.2.1"], gateway, "Reject 1"),
        (&["allow @loopback:80"], gateway, "Allow 0"),
        (&["allow 127.0.0.1"], gateway, "Allow 0"),
        (&["allow @host"], gateway, "Allow 0"),
        // The host's copy of the guest's address is the host, even if no interface has it.
        (&["allow @internet"], "198.51.100.98:80", "Reject 1"),
        (&["reject @host", "allow any"], "198.51.100.98:80", "Reject 0"),
        (&["reject 192.0.2.2", "allow any"], "198.51.100.98:80", "Reject 0"),
        (&["reject 198.51.100.98", "allow any"], "198.51.100.98:80", "Reject 0"),
    ] {
        for proto in [Proto::Tcp, Proto::Udp] {
            assert_eq!(sent(&policy(rules), &map, proto, destination), expected, "{rules:?}");
        }
        if !rules[0].contains(':') || rules[0].contains("::") {
            assert_eq!(sent(&policy(rules), &map, Proto::Icmp, destination), expected, "{rules:?}");
        }
    }
}

#[test]
fn what_is_for_many_is_for_this_host_where_that_is_forbidden() {
    let hears = |rules: &[&str], proto, group: &str| {
        let group = at(group);
        let attempt = Attempt::new(&network(), &Mapping::default(), proto, group, group);
        policy(rules).lets_host_hear(&attempt)
    };
    for (rules, broadcast, group, is_heard) in [
        (&["reject @host", "allow any"][..], "Reject 0", "Allow 1", false),
        (&["drop udp @host:9", "allow @multicast"], "Drop 0", "Allow 1", false),
        (&["reject @host:10", "allow any"], "Allow 1", "Allow 1", true),
        (&["allow @multicast", "reject @host"], "Allow 0", "Allow 0", true),
        (&["allow @host", "reject any"], "Reject 1", "Reject 1", false),
        (&[], "Allow 0", "Allow 0", true),
    ] {
        let to = |destination| sent(&policy(rules), &Mapping::default(), Proto::Udp, destination);
        for destination in ["203.0.113.255:9", "192.168.1.255:9", "255.255.255.255:9"] {
            assert_eq!(to(destination), broadcast, "{rules:?} {destination}");
        }
        for destination in ["224.0.0.251:9", "[ff02::fb]:9"] {
            assert_eq!(to(destination), group, "{rules:?} {destination}");
            assert_eq!(hears(rules, Proto::Udp, destination), is_heard, "{rules:?}");
        }
    }
    assert!(!hears(&["reject icmp @host", "allow any"], Proto::Icmp, "224.0.0.1:0"));
    assert!(hears(&["reject icmp @host", "allow any"], Proto::Udp, "224.0.0.1:0"));
}

#[test]
fn no_disguise_is_a_way_round_a_rule() {
    let map = Mapping::default();
    for destination in ["[64:ff9b::10.1.2.3]:80", "[2002:a01:203::1]:80", "[::5efe:10.1.2.3]:80"] {
        let to = |rules: &[&str]| sent(&policy(rules), &map, Proto::Tcp, destination);
        assert_eq!(to(&["reject 10.0.0.0/8", "allow any"]), "Reject 0", "{destination}");
        assert_eq!(to(&["reject @private", "allow any"]), "Reject 0", "{destination}");
        assert_eq!(to(&["allow 10.0.0.0/8", "reject any"]), "Reject 1", "{destination}");
    }
    // These do not get as far as a rule.
    for (destination, refused) in [
        ("[::ffff:10.1.2.3]:80", Refused::V4InV6),
        ("[::10.1.2.3]:80", Refused::V4InV6),
        ("127.0.0.1:80", Refused::Loopback),
        ("0.0.0.0:80", Refused::Unspecified),
    ] {
        let told = sent(&policy(&["allow any"]), &map, Proto::Udp, destination);
        assert_eq!(told, refused.to_string(), "{destination}");
    }
}

#[test]
fn isolation_leaves_the_internet_and_the_name_servers() {
    let policy = isolated();
    let mut map = mapping();
    map.v4.guest_addr = Some("192.0.2.98".parse().unwrap());
    map.v4.dns_match = Some("192.0.2.1".parse().unwrap());
    map.v4.dns_host = Some("127.0.0.53".parse().unwrap());
    for (proto, destination, expected) in [
        (Proto::Tcp, "198.51.100.7:443", "Allow 3"),
        (Proto::Icmp, "198.51.100.7:7", "Allow 3"),
        (Proto::Udp, "[2001:db8:1::7]:443", "Allow 3"),
        // The name server, which is on the host's loopback, and nothing else there.
        (Proto::Udp, "192.0.2.1:53", "Allow 0"),
        (Proto::Tcp, "192.0.2.1:853", "Allow 0"),
        (Proto::Tcp, "192.0.2.1:80", "Reject 4"),
        (Proto::Icmp, "192.0.2.1:53", "Reject 4"),
        (Proto::Tcp, "[2001:db8::1]:80", "Reject 4"),
        (Proto::Udp, "[2001:db8::1]:53", "Reject 2"),
        // Other name servers.
        (Proto::Udp, "198.51.100.7:53", "Reject 2"),
        (Proto::Tcp, "198.51.100.7:853", "Reject 1"),
        // The host, by all of its names.
        (Proto::Tcp, "192.0.2.98:80", "Reject 4"),
        (Proto::Tcp, "203.0.113.9:80", "Reject 4"),
        (Proto::Udp, "[2001:db8:9::9]:80", "Reject 4"),
        (Proto::Tcp, "192.168.1.7:80", "Reject 4"),
        // Its networks, and others.
        (Proto::Tcp, "203.0.113.77:80", "Reject 4"),
        (Proto::Udp, "203.0.113.255:80", "Reject 4"),
        (Proto::Tcp, "[2001:db8:9::77]:80", "Reject 4"),
        (Proto::Udp, "192.168.1.255:80", "Reject 4"),
        (Proto::Tcp, "10.0.0.1:80", "Reject 4"),
        (Proto::Tcp, "100.64.0.1:80", "Reject 4"),
        (Proto::Tcp, "[fd00::1]:80", "Reject 4"),
        (Proto::Tcp, "169.254.169.254:80", "Reject 4"),
        (Proto::Tcp, "[fd00:ec2::254]:80", "Reject 4"),
        (Proto::Tcp, "168.63.129.16:80", "Reject 4"),
        (Proto::Tcp, "[fe80::1]:80", "Reject 4"),
        (Proto::Udp, "224.0.0.251:5353", "Reject 4"),
        (Proto::Udp, "[ff02::fb]:5353", "Reject 4"),
        (Proto::Tcp, "[64:ff9b::169.254.169.254]:80", "Reject 4"),
        (Proto::Tcp, "[64:ff9b::198.51.100.7]:80", "Allow 3"),
        (Proto::Tcp, "[2002:c0a8:107::1]:80", "Reject 4"),
    ] {
        assert_eq!(sent(&policy, &map, proto, destination), expected, "{proto} {destination}");
    }
}

#[test]
fn a_name_allows_only_where_it_leads() {
    let policy = policy(&["allow tcp *.example.org:443", "allow example.net", "reject any"]);
    let (net, map) = (network(), mapping());
    let judge = |destination: &str, real: &str, names: NameSet| {
        let attempt = Attempt::new(&net, &map, Proto::Tcp, at(destination), at(real));
        policy.judge(&attempt, |address| if address == ip("198.51.100.7") { names } else { 0 })
    };
    let to = "198.51.100.7:443";
    assert_eq!(judge(to, to, 0b01), (Verdict::Allow, 0));
    assert_eq!(judge(to, to, 0b10), (Verdict::Allow, 1));
    assert_eq!(judge(to, to, 0b00), (Verdict::Reject, 2));
    let to = "198.51.100.7:80";
    assert_eq!(judge(to, to, 0b01), (Verdict::Reject, 2), "another port");
    // The address that has the name stands for something else.
    assert_eq!(judge("198.51.100.7:443", "127.0.0.1:443", 0b11), (Verdict::Reject, 2));
    let (www, bare) =
        (Name::parse("www.example.org").unwrap(), Name::parse("example.org").unwrap());
    assert_eq!((policy.names_of(&www), policy.names_of(&bare)), (0b01, 0));
}

#[test]
fn names_lead_to_the_internet_only() {
    let policy = isolated();
    for (address, may) in [
        ("198.51.100.7", true),
        ("2001:db8:1::7", true),
        ("127.0.0.1", false),
        ("10.0.0.1", false),
        ("203.0.113.9", false),
        ("203.0.113.77", false),
        ("169.254.169.254", false),
        ("::ffff:127.0.0.1", false),
        ("64:ff9b::10.0.0.1", false),
        ("::", false),
        ("224.0.0.1", false),
    ] {
        assert_eq!(policy.may_be_named(ip(address)), may, "{address}");
    }
}

#[test]
fn names_beyond_those_that_are_counted_match_nothing() {
    let rules: Vec<String> =
        (0..=MAX_EGRESS_NAMES).map(|n| format!("allow n{n}.example")).collect();
    let policy = policy(&rules.iter().map(String::as_str).collect::<Vec<_>>());
    let to = at("198.51.100.7:443");
    let attempt = Attempt::new(&network(), &mapping(), Proto::Tcp, to, to);
    let last = 1 << (MAX_EGRESS_NAMES - 1);
    assert_eq!(policy.judge(&attempt, |_| last), (Verdict::Allow, MAX_EGRESS_NAMES - 1));
    assert_eq!(policy.names().count(), MAX_EGRESS_NAMES);
    let beyond = Name::parse(&format!("n{MAX_EGRESS_NAMES}.example")).unwrap();
    assert_eq!(policy.names_of(&beyond), 0);
}
