//! What is told of the program as a whole: its status, and all counters.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::About;
use super::model::{Learned, Limits, Mapped, Stats, Status, Told, ToldFamily};
use crate::engine::{Engine, EngineFacts, Tally};
use crate::flow::fwd::{MAX_RULES, Mapping};
use crate::flow::network::Network;
use crate::limits::{MAX_EGRESS_RULES, MAX_HALF_OPEN};
use crate::wire::Mac;

/// The program, and what its guest is told.
pub(super) fn status(engine: &Engine, about: &About) -> Status {
    let facts = engine.facts();
    Status {
        program: about.program.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: about.mode.to_owned(),
        link: if facts.link_up { "up" } else { "down" }.to_owned(),
        uptime_ms: facts.uptime.as_millis() as u64,
        told: told(facts.network),
        learned: learned(&facts),
        mapped: mapped(facts.mapping),
        flows: facts.tally.live.iter().sum(),
        listening: facts.listening as u64,
        limits: Limits {
            descriptors: facts.max_descriptors,
            flows: facts.most_flows as u64,
            rules: MAX_RULES as u64,
            egress_rules: MAX_EGRESS_RULES as u64,
            half_open: MAX_HALF_OPEN as u64,
        },
    }
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn told(network: &Network) -> Told {
    let shown = |servers: Vec<String>| {
        if network.services.hand_out_dns { servers } else { Vec::new() }
    };
    let ipv4 = network.v4.as_ref().map(|v4| ToldFamily {
        address: Some(v4.addr.to_string()),
        prefix_length: v4.prefix_len,
        gateway: v4.gateway.map(|gateway| gateway.to_string()),
        dns: shown(texts(&v4.dns)),
    });
    let ipv6 = network.v6.as_ref().map(|v6| ToldFamily {
        address: v6.addr.map(|address| address.to_string()),
        prefix_length: 64,
        gateway: v6.gateway.map(|gateway| gateway.to_string()),
        dns: shown(texts(&v6.dns)),
    });
    let search = if network.services.hand_out_search { texts(&network.search) } else { Vec::new() };
    Told {
        mac: network.our_mac.to_string(),
        mtu: (network.mtu > 0).then_some(network.mtu),
        ipv4,
        ipv6,
        search,
        hostname: network.hostname.clone(),
        fqdn: network.fqdn.clone(),
    }
}

fn learned(facts: &EngineFacts<'_>) -> Learned {
    let learned = facts.learned;
    let ipv4 = facts.network.v4.as_ref().map(|_| learned.v4.to_string());
    let ipv6 = facts.network.v6.as_ref().and(learned.v6);
    Learned {
        mac: (learned.mac != Mac::BROADCAST).then(|| learned.mac.to_string()),
        ipv4,
        ipv6: ipv6.map(|address| address.to_string()),
        ipv6_link_local: learned.v6_link_local.map(|address| address.to_string()),
    }
}

fn mapped(map: &Mapping) -> Vec<Mapped> {
    let (v4, v6) = (&map.v4, &map.v6);
    let v4 = [
        (v4.host_loopback, "host-loopback", None),
        (v4.guest_addr, "guest-address", None),
        (v4.dns_match, "dns", v4.dns_match.and_then(|seen| map.dns_host_for(seen.into()))),
    ]
    .map(|(seen, means, to)| (seen.map(IpAddr::V4), means, to));
    let v6 = [
        (v6.host_loopback, "host-loopback", None),
        (v6.guest_addr, "guest-address", None),
        (v6.dns_match, "dns", v6.dns_match.and_then(|seen| map.dns_host_for(seen.into()))),
    ]
    .map(|(seen, means, to)| (seen.map(IpAddr::V6), means, to));
    let described = |(seen, means, to): (Option<IpAddr>, &str, Option<IpAddr>)| {
        let (means, to) = (means.to_owned(), to.map(|to| to.to_string()));
        seen.map(|address| Mapped { address: address.to_string(), means, to })
    };
    v4.into_iter().chain(v6).filter_map(described).collect()
}

/// A name as one word: what is no letter and no digit becomes a hyphen.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

/// All counters.
pub(super) fn stats(engine: &Engine) -> Stats {
    let facts = engine.facts();
    let by_kind = |counts: [u64; 5]| {
        Tally::NAMES.into_iter().map(str::to_owned).zip(counts).collect::<BTreeMap<_, _>>()
    };
    let named = |counters: &[(&'static str, u64)]| {
        counters.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
    };
    Stats {
        uptime_ms: facts.uptime.as_millis() as u64,
        flows: by_kind(facts.tally.live),
        flows_begun: by_kind(facts.tally.begun),
        half_open: facts.half_open as u64,
        listening: facts.listening as u64,
        drops: named(&facts.drops),
        events: facts.events.iter().map(|&(name, count)| (slug(name), count)).collect(),
        link: named(facts.link),
    }
}
