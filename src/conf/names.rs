//! Name servers and search list: what is handed out to the guest, and where its queries go that it
//! sends to the address of `--dns-forward`. Pure: what resolv.conf says is an argument.
//!
//! Handed out is what the operator gave, else what resolv.conf lists. A server that the guest cannot
//! reach by itself - one on the host's loopback address, on another link, or where the guest finds
//! something else - is replaced by the address of `--dns-forward`, or by the one that stands for the
//! host's loopback, which then takes the part of `--dns-forward` for ports of DNS.
//!
//! Queries go to `--dns-host`, by whatever address its name has if it is given by name, else to the first server of resolv.conf, preferably of the family that
//! they came in with (see [`Mapping::dns_host_for`]). So an address of `--dns-forward` is of use to a
//! family that has no server of its own, too, and is handed out to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::host::HostFacts;
use super::resolv::{ResolvConf, Server};
use super::{Note, Options};
use crate::flow::fwd::{FamilyMapping, Mapping};
use crate::flow::network::{MAX_DNS, MAX_SEARCH, Network};

const NO_SERVER: &str = "Couldn't get any nameserver address: /etc/resolv.conf has none that can be used: give one by --dns";

/// A server of resolv.conf, of one family, that this host can reach.
struct Candidate<A> {
    address: A,
    /// Index of the interface that a link-local address belongs to.
    scope_id: u32,
    /// The guest cannot reach it, although the address says nothing of the kind.
    hidden: bool,
}

type Candidates<A> = ArrayVec<Candidate<A>, { 2 * MAX_DNS }>;

/// Fills in name servers and search list.
pub(super) fn resolve(
    options: &Options,
    facts: &HostFacts,
    conf: &ResolvConf,
    network: &mut Network,
    mapping: &mut Mapping,
    notes: &mut Vec<Note>,
) {
    if !options.no_search && network.search.is_empty() {
        network.search.extend(conf.search.iter().take(MAX_SEARCH).cloned());
    }
    let by_name = options.dns_host_name.is_some();
    if by_name {
        mapping.v4.dns_host = mapping.v4.dns_host.or(facts.named.v4);
        mapping.v6.dns_host = mapping.v6.dns_host.or(facts.named.v6.filter(|_| !facts.no_ipv6));
    }
    if options.no_dns {
        return;
    }
    let wanted = (network.v4.is_some() && options.dns_v4.is_empty())
        || (network.v6.is_some() && options.dns_v6.is_empty());
    if wanted {
        notes.extend(conf.skipped.iter().map(Note::info));
    }
    let v4 = candidates_v4(conf);
    let v6 = candidates_v6(conf, facts, network.scope_id(), notes);
    // Do not substitute another server for one that was given by name.
    if !by_name {
        choose_hosts(mapping, &v4, &v6);
    }
    let forwarding = by_name || mapping.v4.dns_host.is_some() || mapping.v6.dns_host.is_some();
    if let Some(net) = &mut network.v4 {
        let is_guest_s = |address| address == net.addr;
        net.dns = handed_out(&options.dns_v4, &v4, is_guest_s, &mut mapping.v4, forwarding);
    }
    if let Some(net) = &mut network.v6 {
        let is_guest_s = |address| Some(address) == net.addr;
        net.dns = handed_out(&options.dns_v6, &v6, is_guest_s, &mut mapping.v6, forwarding);
    }
    warn_of_no_dns(network, wanted, notes);
    let given = &options.mapping;
    let host_is_given = by_name || given.v4.dns_host.is_some() || given.v6.dns_host.is_some();
    if host_is_given && mapping.v4.dns_match.is_none() && mapping.v6.dns_match.is_none() {
        notes.push(Note::warn(
            "--dns-host has no effect: no address is forwarded to it: give one by --dns-forward",
        ));
    }
}

fn candidates_v4(conf: &ResolvConf) -> Candidates<Ipv4Addr> {
    let take = |server: &Server| match server.address {
        IpAddr::V4(address) => Some(Candidate { address, scope_id: 0, hidden: false }),
        IpAddr::V6(_) => None,
    };
    conf.servers.iter().filter_map(take).collect()
}

/// Link-local servers keep the interface they belong to, which is the `template` if nothing is said.
fn candidates_v6(
    conf: &ResolvConf,
    facts: &HostFacts,
    template: u32,
    notes: &mut Vec<Note>,
) -> Candidates<Ipv6Addr> {
    let mut candidates = Candidates::new();
    for server in conf.servers.iter().filter(|_| !facts.no_ipv6) {
        let IpAddr::V6(address) = server.address else { continue };
        let scope_id = match &server.zone {
            Some(zone) => facts.zone_index(zone).unwrap_or(0),
            None => template,
        };
        let link_local = address.is_unicast_link_local();
        if link_local && scope_id == 0 {
            let why = match &server.zone {
                Some(zone) => format!("{address}%{zone}: no such interface"),
                None => format!("{address}: no interface to reach it by"),
            };
            notes.push(Note::info(format!("Ignoring nameserver {why}")));
            continue;
        }
        // The guest reaches its own link only; a server on another one is as good as a local one.
        let hidden = link_local && scope_id != template;
        candidates.push(Candidate { address, scope_id, hidden });
    }
    candidates
}

/// Where queries go: what the operator did not say follows from resolv.conf.
fn choose_hosts(mapping: &mut Mapping, v4: &Candidates<Ipv4Addr>, v6: &Candidates<Ipv6Addr>) {
    mapping.v4.dns_host = mapping.v4.dns_host.or(v4.first().map(|server| server.address));
    if let (None, Some(server)) = (mapping.v6.dns_host, v6.first()) {
        mapping.v6.dns_host = Some(server.address);
        mapping.dns_scope_id = server.scope_id;
    }
}

/// The servers to hand out, of one family: those `given`, else the candidates as the guest can reach
/// them, else the address that is forwarded if there is a host to forward to.
fn handed_out<A: Copy + PartialEq + Into<IpAddr>>(
    given: &ArrayVec<A, MAX_DNS>,
    candidates: &Candidates<A>,
    is_guest_s: impl Fn(A) -> bool,
    map: &mut FamilyMapping<A>,
    forwarding: bool,
) -> ArrayVec<A, MAX_DNS> {
    if !given.is_empty() {
        return given.clone();
    }
    let mut dns = ArrayVec::new();
    for Candidate { address, hidden, .. } in candidates.iter().take(MAX_DNS) {
        let ip: IpAddr = (*address).into();
        let other = Some(*address) == map.host_loopback || is_guest_s(*address);
        let hidden = *hidden || ip.is_loopback() || other;
        let shown = if hidden {
            map.dns_match = map.dns_match.or(map.host_loopback);
            map.dns_match
        } else {
            Some(*address)
        };
        dns.extend(shown.filter(|shown| !dns.contains(shown)));
    }
    if dns.is_empty() {
        dns.extend(map.dns_match.filter(|_| forwarding));
    }
    dns
}

fn warn_of_no_dns(network: &Network, wanted: bool, notes: &mut Vec<Note>) {
    let lacks_v4 = network.v4.as_ref().is_some_and(|v4| v4.dns.is_empty());
    let lacks_v6 = network.v6.as_ref().is_some_and(|v6| v6.dns.is_empty());
    let has_v4 = network.v4.is_some() && !lacks_v4;
    let has_v6 = network.v6.is_some() && !lacks_v6;
    let services = &network.services;
    if wanted && !has_v4 && !has_v6 {
        notes.push(Note::warn(NO_SERVER));
    }
    // A guest that has one of the other family can do without.
    let level = if has_v4 || has_v6 { log::Level::Info } else { log::Level::Warn };
    let mut lacking = |text: &str| notes.push(Note { level, text: text.to_owned() });
    if services.hand_out_dns && lacks_v4 && services.dhcp {
        lacking("No IPv4 nameserver available for DHCP");
    }
    if services.hand_out_dns && lacks_v6 && (services.ra || services.dhcpv6) {
        lacking("No IPv6 nameserver available for NDP/DHCPv6");
    }
}
