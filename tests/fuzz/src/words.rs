//! What operators write: command lines, port specifications, rules of egress, resolv.conf.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStringExt;

use passt::conf::host::HostFacts;
use passt::conf::ports::{self, ForwardDirection, Kernel};
use passt::conf::{Command, parse, resolve};
use passt::flow::fwd::{Proto, RuleTable, egress_rule};
use passt::fuzzing;

use crate::input::Input;
use crate::responders::network;

/// Words end with a line. The first byte chooses the program. Whoever has started can be told what it means on a host.
pub fn arguments(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let program = match kind & 3 {
        1 => "pasta",
        3 => "slirp4netns",
        _ => "passt",
    };
    let words = rest.split(|byte| *byte == b'\n').map(|word| OsString::from_vec(word.to_vec()));
    let words = std::iter::once(OsString::from(program)).chain(words);
    match parse(words) {
        Ok(Command::Run(options)) => {
            let resolved =
                resolve(*options, &HostFacts::default(), "nameserver 192.0.2.53\n", (32768, 60999));
            match resolved {
                Ok(conf) => drop(format!("{:?}", conf.notes)),
                Err(error) => assert_words(&error.to_string()),
            }
        }
        Ok(Command::Help(text) | Command::Version(text) | Command::Capabilities(text)) => {
            assert!(!text.is_empty());
        }
        Ok(Command::Check(_)) => {}
        Err(error) => assert_words(&error.to_string()),
    }
}

fn assert_words(text: &str) {
    assert!(!text.trim().is_empty(), "an error without words");
}

/// Ports that are excluded are in no rule; what is in one leads somewhere; the same words mean the same.
pub fn ports(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.u8();
    let Ok(spec) = std::str::from_utf8(input.0) else { return };
    let direction =
        [ForwardDirection::ToGuest, ForwardDirection::ToNamespace, ForwardDirection::FromNamespace]
            [usize::from(kind % 3)];
    let proto = if kind & 0x40 == 0 { Proto::Tcp } else { Proto::Udp };
    let kernel = Kernel { ephemeral: (32768, 60999), device_binding: kind & 0x80 == 0 };
    let net = network(false);
    let read = || {
        let mut table = RuleTable::default();
        ports::add(&mut table, &net, kernel, (direction, proto, spec), 0).map(|()| table)
    };
    let Ok(table) = read() else { return };
    let again = read().expect("the same words");
    let excluded = excluded(spec);
    for (rule, same) in fuzzing::rules(&table).iter().zip(fuzzing::rules(&again)) {
        assert_eq!(rule, &same);
        assert!(rule.first <= rule.last, "{rule}");
        assert!(
            u32::from(rule.target_first) + u32::from(rule.last - rule.first) <= 65535,
            "{rule}"
        );
        for (first, last) in &excluded {
            assert!(rule.last < *first || *last < rule.first, "{rule}, without {first}-{last}");
        }
    }
}

/// What `~` excludes, read once more.
fn excluded(spec: &str) -> Vec<(u16, u16)> {
    // A slash belongs to the place to listen at, or to a target behind a colon.
    let is_place = |head: &str| {
        let address = head.split_once('%').map_or(head, |(address, _)| address);
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        address.is_empty() || address == "*" || parsed(bare).is_some()
    };
    let list = match spec.split_once('/') {
        Some((head, rest)) if is_place(head) => rest,
        _ => spec,
    };
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    list.split(',').filter_map(|chunk| range(chunk.strip_prefix('~')?)).collect()
}

/// A rule that was read can be read from its own words, and is the same.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines() {
        match egress_rule(line) {
            Ok(rule) => assert_eq!(egress_rule(&rule.text).as_ref(), Ok(&rule), "{line:?}"),
            Err(error) => assert_words(&error),
        }
    }
}

/// What was read of a file is what a loop reads that was written for this.
pub fn resolv(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (servers, search, _) = fuzzing::resolv_conf(&text);
    assert!(servers.len() <= 6 && search.len() <= 5);
    for v4 in [true, false] {
        assert!(servers.iter().filter(|(address, _)| address.is_ipv4() == v4).count() <= 3);
    }
    let mut words = Vec::new();
    for line in text.lines() {
        let line = &line[..line.find(['#', ';']).unwrap_or(line.len())];
        let mut line = line.split_ascii_whitespace();
        if line.next() == Some("nameserver") {
            words.extend(line.next());
        }
    }
    for (address, zone) in &servers {
        // As in resolv.conf(5), an unspecified one is the local host.
        let full = zone.as_ref().map_or(address.to_string(), |zone| format!("{address}%{zone}"));
        let is = |word: &&str| {
            let (bare, theirs) = word.split_once('%').map_or((*word, None), |(a, b)| (a, Some(b)));
            parsed(bare)
                .is_some_and(|parsed| local(parsed.to_canonical()) == address.to_canonical())
                && (zone.is_none() || zone.as_deref() == theirs)
        };
        assert!(words.iter().any(is), "{full} is in no line");
    }
    let first = text.lines().find_map(|line| {
        let line = &line[..line.find(['#', ';']).unwrap_or(line.len())];
        let mut line = line.split_ascii_whitespace();
        (line.next() == Some("search")).then(|| line.map(str::to_owned).collect::<Vec<_>>())
    });
    if let Some(first) = first.filter(|first| !first.is_empty()) {
        assert_eq!(search[..], first[..first.len().min(5)]);
    }
}

fn parsed(text: &str) -> Option<IpAddr> {
    let v4 = text.parse::<Ipv4Addr>().ok().map(IpAddr::from);
    v4.or_else(|| text.parse::<Ipv6Addr>().ok().map(IpAddr::from))
}

fn local(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}
