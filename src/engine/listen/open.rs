//! Opens the ports of forwarding rules: all of them at start, and what is new in a view of the network that
//! replaces another while sockets that both have go on listening, with who waits in their queues.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use arrayvec::ArrayVec;
use passt_frame::Errno;
use rustix::net::{self as rnet, sockopt};

use super::error::{ListenError, all_places, place};
use crate::engine::bypass::{BypassParts, socket_on};
use crate::engine::core::Core;
use crate::engine::listener_id::ListenerId;
use crate::engine::listeners::Listener;
use crate::engine::net::NetView;
use crate::flow::fwd::{InterfaceName, ListenAddr, Outcome, Proto, Rule, RuleId, RuleTable};
use crate::flow::side::{Endpoint, Pif};
use crate::flow::table::FlowId;
use crate::sys::datagram;
use crate::sys::errno_text;
use crate::sys::socket::{self, BindTo, Transport};
use crate::sys::stream;

/// Connections that the kernel holds for us until they are accepted: as many as `somaxconn` allows (4096
/// by default), not passt's 128. Where the queue is full SYNs are lost, and who connects waits a second
/// before it tries again; a longer queue costs nothing until it is used.
const BACKLOG: i32 = i32::MAX;

/// Where rules listen.
const PIFS: [Pif; 2] = [Pif::Host, Pif::Splice];

/// Opens the listening sockets of all rules but those that follow services.
///
/// # Errors
/// The first port that must be opened and could not.
pub(in crate::engine) fn open_all(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
) -> Result<(), ListenError> {
    let tables = PIFS.map(|pif| (pif, core.net.rules(pif).clone()));
    PortOpening::new(core, bypass, HashMap::new()).open(&tables)?;
    Ok(())
}

/// Puts `view` in force. A socket that listens where the new rules want one goes on; what else they want is
/// opened first, and then what they do not want is closed. Where an old socket is in the way of a new one, as one on
/// all addresses is of one on one of them, it is closed before. All or nothing: when a port that must be opened cannot
/// be, everything is as it was.
///
/// # Errors
/// The first port that must be opened and could not.
pub(in crate::engine) fn replace(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    mut view: NetView,
) -> Result<(), ListenError> {
    view.inbound.rename_after(core.net.rules(Pif::Host));
    view.outbound.rename_after(core.net.rules(Pif::Splice));
    let tables = [(Pif::Host, view.inbound.clone()), (Pif::Splice, view.outbound.clone())];
    let kept = core.listeners.iter().filter_map(|(id, listener)| {
        let rule = core.net.rules(listener.pif).get(listener.rule)?;
        Some((Address::of(listener.pif, rule, listener.port), id))
    });
    let kept = kept.collect();
    let moved = PortOpening::new(&mut *core, bypass, kept).open(&tables)?;
    core.net.replace(view);
    for (id, rule) in moved {
        let Some(listener) = core.listeners.get(id) else { continue };
        let leads_to = core.net.rules(listener.pif).get(rule);
        let leads_to = leads_to.and_then(|rule| leads_to_port(listener.pif, rule, listener.port));
        core.listeners.move_to(id, rule, leads_to);
    }
    let net = &core.net;
    let unwanted = core
        .listeners
        .iter()
        .filter(|(_, listener)| net.rules(listener.pif).get(listener.rule).is_none());
    let unwanted: Vec<ListenerId> = unwanted.map(|(id, _)| id).collect();
    for id in unwanted {
        core.listeners.close(id);
    }
    Ok(())
}

/// Whether what a listening socket lacks may be there later: an address, or an interface.
fn may_come(errno: Errno) -> bool {
    matches!(errno, Errno::ADDRNOTAVAIL | Errno::NODEV)
}

/// The host's network has changed: closes sockets whose interface is gone, or is another one of the same name, and opens
/// what has waited for an address or an interface, as far as that can be had now.
pub(in crate::engine) fn recover(core: &mut Core, mut bypass: Option<&mut BypassParts>) {
    let scope = core.net.network.scope_id();
    let stray = |(_, listener): &(ListenerId, &Listener)| {
        let rule = core.net.rules(Pif::Host).get(listener.rule);
        rule.is_some_and(|rule| listener.pif == Pif::Host && is_stray(listener, rule, scope))
    };
    let strays: Vec<ListenerId> = core.listeners.iter().filter(stray).map(|(id, _)| id).collect();
    for id in strays {
        core.listeners.close(id);
        core.awaited += 1;
    }
    if core.awaited == 0 {
        return;
    }
    let open: HashSet<(RuleId, u16)> = core
        .listeners
        .iter()
        .filter(|(_, listener)| listener.pif == Pif::Host)
        .map(|(_, listener)| (listener.rule, listener.port))
        .collect();
    let rules: Vec<(RuleId, Rule)> =
        core.net.rules(Pif::Host).iter().map(|(id, rule)| (id, *rule)).collect();
    core.awaited = 0;
    for (id, rule) in rules.iter().filter(|(_, rule)| !rule.scan) {
        for port in (rule.first..=rule.last).filter(|&port| !open.contains(&(*id, port))) {
            if rule.weak && !core.flows.may_listen(core.listeners.len()) {
                break;
            }
            match open_port(core, bypass.as_deref_mut(), (Pif::Host, *id, rule), port) {
                Ok(_) => log::info!("{}: listening", place(Pif::Host, rule, port)),
                Err(errno) if may_come(errno) => core.awaited += 1,
                Err(errno) if rule.weak => log::debug!("{rule}: {port}: {}", errno_text(errno)),
                Err(errno) => {
                    log::warn!("{}: {}", place(Pif::Host, rule, port), errno_text(errno));
                    core.awaited += 1;
                }
            }
        }
    }
}

/// Whether a socket is bound to an interface that is not the one any more that its rule means.
fn is_stray(listener: &Listener, rule: &Rule, scope: u32) -> bool {
    if let Some(name) = &rule.interface {
        let bound = socket::bound_device(listener.socket.as_fd());
        return bound.as_deref() != Some(name.as_str());
    }
    let link_local = matches!(rule.listen, ListenAddr::V6(v6) if v6.is_unicast_link_local());
    link_local && socket::scope_id(listener.socket.as_fd()) != Some(scope)
}

/// What a socket listens on.
#[derive(PartialEq, Eq, Hash)]
struct Address(Pif, Proto, ListenAddr, Option<InterfaceName>, u16);

impl Address {
    fn of(pif: Pif, rule: &Rule, port: u16) -> Self {
        Self(pif, rule.proto, rule.listen, rule.interface, port)
    }
}

/// Ports being opened.
struct PortOpening<'a> {
    core: &'a mut Core,
    bypass: Option<&'a mut BypassParts>,
    /// Sockets of the rules before.
    kept: HashMap<Address, ListenerId>,
    opened: Vec<ListenerId>,
    /// Sockets that go on for another rule.
    moved: Vec<(ListenerId, RuleId)>,
    /// Where sockets of the rules before were closed that were in the way.
    set_aside: Vec<(Pif, RuleId, u16)>,
    /// How many ports a specification of weak rules may still open.
    shares: HashMap<Specification, usize>,
}

/// The rules that one option stands for, by their [`Rule::group`].
type Specification = (Pif, u16);

/// What each gets of `most`, when it wants so many: all the same, and what one does not want is for the others.
fn fair_shares<K: Copy + Eq + Hash>(wanted: &HashMap<K, usize>, most: usize) -> HashMap<K, usize> {
    let mut by_size: Vec<(K, usize)> = wanted.iter().map(|(key, count)| (*key, *count)).collect();
    by_size.sort_unstable_by_key(|(_, count)| *count);
    let (mut left, mut others) = (most, by_size.len());
    let mut shares = HashMap::with_capacity(others);
    for (key, count) in by_size {
        let share = count.min(left / others);
        shares.insert(key, share);
        (left, others) = (left - share, others - 1);
    }
    shares
}

impl<'a> PortOpening<'a> {
    fn new(
        core: &'a mut Core,
        bypass: Option<&'a mut BypassParts>,
        kept: HashMap<Address, ListenerId>,
    ) -> Self {
        let (opened, moved, set_aside) = (Vec::new(), Vec::new(), Vec::new());
        Self { core, bypass, kept, opened, moved, set_aside, shares: HashMap::new() }
    }
}

impl PortOpening<'_> {
    /// Whether a rule goes on as it is, with the sockets that it has.
    fn has_what_it_gets(&self, pif: Pif, id: RuleId) -> bool {
        !self.kept.is_empty() && self.core.net.rules(pif).get(id).is_some()
    }

    /// Shares out what is left beside the ports that are asked for one by one: weak rules, which open what they
    /// can, leave half of the descriptors to the flows, and something to each other.
    fn share_out(&mut self, tables: &[(Pif, RuleTable); 2]) {
        let (mut taken, mut wanted) = (0, HashMap::new());
        let all = tables.iter().flat_map(|(pif, table)| table.iter().map(|rule| (*pif, rule)));
        for (pif, (id, rule)) in all.filter(|(_, (_, rule))| !rule.scan) {
            if self.has_what_it_gets(pif, id) {
                let is_its = |one: &Listener| (one.pif, one.rule) == (pif, id);
                taken += self.core.listeners.iter().filter(|(_, one)| is_its(one)).count();
            } else if rule.weak {
                *wanted.entry((pif, rule.group)).or_insert(0) += rule.sockets();
            } else {
                taken += rule.sockets();
            }
        }
        let left = self.core.flows.most_listeners().saturating_sub(taken);
        self.shares = fair_shares(&wanted, left);
    }
    /// Opens what the rules want and is not open. Returns the sockets that go on for another rule.
    fn open(
        mut self,
        tables: &[(Pif, RuleTable); 2],
    ) -> Result<Vec<(ListenerId, RuleId)>, ListenError> {
        self.share_out(tables);
        for (pif, table) in tables {
            if let Err(error) = self.open_table(*pif, table) {
                self.undo();
                return Err(error);
            }
        }
        Ok(self.moved)
    }

    /// Has everything be as it was.
    fn undo(mut self) {
        for id in self.opened.drain(..) {
            self.core.listeners.close(id);
        }
        for (pif, id, port) in self.set_aside {
            let Some(rule) = self.core.net.rules(pif).get(id).copied() else { continue };
            let opened = open_port(self.core, self.bypass.as_deref_mut(), (pif, id, &rule), port);
            if let Err(errno) = opened {
                let (place, why) = (place(pif, &rule, port), errno_text(errno));
                log::error!("{place} is not forwarded any more, another program has it: {why}");
            }
        }
    }

    /// Opens one port of a rule. Sockets that are in the way and are of rules that go away are closed.
    fn open_port(
        &mut self,
        (pif, id, rule): (Pif, RuleId, &Rule),
        port: u16,
    ) -> Result<ListenerId, Errno> {
        let opened = open_port(self.core, self.bypass.as_deref_mut(), (pif, id, rule), port);
        if opened != Err(Errno::ADDRINUSE) || !self.make_way(pif, rule, port) {
            return opened;
        }
        open_port(self.core, self.bypass.as_deref_mut(), (pif, id, rule), port)
    }

    /// Closes what the rules before have where `rule` wants a port: rules that stay do not contend with it. False if
    /// there is nothing.
    fn make_way(&mut self, pif: Pif, rule: &Rule, port: u16) -> bool {
        let wanted = Rule { first: port, last: port, ..*rule };
        let before = self.set_aside.len();
        for (id, other) in self.core.net.rules(pif).iter().filter(|(_, one)| one.overlaps(&wanted))
        {
            if let Some(listener) = self.kept.remove(&Address::of(pif, other, port)) {
                self.core.listeners.close(listener);
                self.set_aside.push((pif, id, port));
            }
        }
        self.set_aside.len() > before
    }

    fn open_table(&mut self, pif: Pif, table: &RuleTable) -> Result<(), ListenError> {
        let mut outcomes = Vec::with_capacity(table.rules().len());
        for (id, rule) in table.iter() {
            outcomes.push(match rule.scan {
                true => Outcome::default(),
                false if self.has_what_it_gets(pif, id) => {
                    Outcome { bound: 1, ..Outcome::default() }
                }
                false => self.open_rule(pif, id, rule)?,
            });
        }
        match table.starved(&outcomes) {
            Some(rule) => Err(ListenError::All(all_places(pif, rule))),
            None => Ok(()),
        }
    }

    fn open_rule(&mut self, pif: Pif, id: RuleId, rule: &Rule) -> Result<Outcome, ListenError> {
        let mut outcome = Outcome::default();
        let mut reserved = Vec::new();
        let mut share = self.shares.get(&(pif, rule.group)).copied().unwrap_or_default();
        for port in rule.first..=rule.last {
            if let Some(&listener) = self.kept.get(&Address::of(pif, rule, port)) {
                self.moved.push((listener, id));
                outcome.bound += 1;
                share = share.saturating_sub(1);
                continue;
            }
            let may_listen = self.core.flows.may_listen(self.core.listeners.len());
            if rule.weak && (share == 0 || !may_listen) {
                let left = usize::from(rule.last - port) + 1;
                log::warn!(
                    "{rule}: {left} ports are not opened, for want of descriptors: raise ulimit -Hn, of which half is left to connections"
                );
                outcome.denied += left;
                break;
            }
            match self.open_port((pif, id, rule), port) {
                Ok(listener) => {
                    self.opened.push(listener);
                    outcome.bound += 1;
                    share = share.saturating_sub(1);
                }
                Err(errno) if rule.weak => {
                    note_failure(&mut outcome, pif, rule, port, errno);
                    if errno == Errno::ACCESS {
                        reserved.push(port);
                    }
                }
                Err(errno) if self.core.settings.late_addresses && may_come(errno) => {
                    let place = place(pif, rule, port);
                    log::warn!("{place}: {}: not listened on until it is there", errno_text(errno));
                    self.core.awaited += 1;
                    outcome.bound += 1;
                }
                Err(errno) => {
                    let place = place(pif, rule, port);
                    let option = rule.proto.option(pif == Pif::Splice);
                    let rule = (pif == Pif::Host).then(|| Box::new(*rule));
                    return Err(ListenError::Port { place, option, port, errno, rule });
                }
            }
        }
        self.shares.insert((pif, rule.group), share);
        tell_reserved(pif, rule, &reserved);
        Ok(outcome)
    }
}

/// Says which ports of a rule were left out for want of privilege.
fn tell_reserved(pif: Pif, rule: &Rule, ports: &[u16]) {
    if let (&[first, ..], &[.., last]) = (ports, ports) {
        log::info!(
            "{pif} {}/{first}-{last}: {} ports are left out, which only the privileged may open: lower \
             net.ipv4.ip_unprivileged_port_start to have them, too",
            rule.proto,
            ports.len()
        );
    }
}

fn note_failure(outcome: &mut Outcome, pif: Pif, rule: &Rule, port: u16, errno: Errno) {
    log::debug!("Listen failed for {}: {}", place(pif, rule, port), errno_text(errno));
    match errno {
        Errno::ACCESS | Errno::ADDRNOTAVAIL => outcome.denied += 1,
        _ => outcome.failed += 1,
    }
}

/// Listens on one port of a rule.
///
/// # Errors
/// What socket(2), bind(2), listen(2) and the calls between them report.
pub(super) fn open_port(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    (pif, id, rule): (Pif, RuleId, &Rule),
    port: u16,
) -> Result<ListenerId, Errno> {
    let tcp = rule.proto == Proto::Tcp;
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    let (address, dual_stack): (IpAddr, bool) = match rule.listen {
        ListenAddr::Dual => (Ipv6Addr::UNSPECIFIED.into(), true),
        ListenAddr::V4(v4) => (v4.into(), false),
        ListenAddr::V6(v6) => (v6.into(), false),
    };
    // A link-local address is one on the template interface, unless the rule names another.
    let scope = match rule.interface {
        None if pif == Pif::Host => core.net.network.scope_id(),
        _ => 0,
    };
    let to = BindTo {
        address: Endpoint::new(address, port).with_scope(scope),
        interface: rule.interface.as_ref().map(|name| name.as_str()),
        freebind: core.settings.freebind && pif == Pif::Host,
        dual_stack,
    };
    let socket = socket_on(bypass, pif, transport, to.address)?;
    bind(core, &socket, &to, pif == Pif::Host && !tcp)?;
    if tcp {
        // What it accepts inherits that.
        sockopt::set_tcp_nodelay(&socket, true)?;
        stream::keep_urgent_inline(socket.as_fd())?;
        rnet::listen(&socket, BACKLOG)?;
    } else {
        datagram::report_destination(socket.as_fd(), address.is_ipv4())?;
    }
    let listener = Listener::new(socket, pif, id, (rule.proto, port));
    core.listeners.add(listener.leading_to(leads_to_port(pif, rule, port)))
}

/// The UDP port of the guest that `port` leads to by `rule`, if it is one of the host.
fn leads_to_port(pif: Pif, rule: &Rule, port: u16) -> Option<u16> {
    let to_guest = pif == Pif::Host && rule.proto == Proto::Udp;
    to_guest.then(|| rule.target_first.checked_add(port - rule.first)).flatten()
}

/// Binds a listening socket. Where a flow of the guest with anybody has the port and the socket `may_end` it, it
/// does: what such flows do is the socket's business from now on. What waits in its queue is lost with it, as datagrams
/// may be, once for each service that appears on a port from which it has talked before; to wait for an empty queue, also
/// with a port that follows services, would keep one closed for as long as somebody writes to it without pause.
fn bind(core: &mut Core, socket: &OwnedFd, to: &BindTo<'_>, may_end: bool) -> Result<(), Errno> {
    let bound = socket::bind(socket.as_fd(), to);
    if bound != Err(Errno::ADDRINUSE) || !may_end {
        return bound;
    }
    let families =
        [true, false].into_iter().filter(|&v4| v4 == to.address.is_ipv4() || to.dual_stack);
    let owners = families.filter_map(|v4| core.flows.with_anybody_at(v4, to.address.port()));
    let owners: ArrayVec<FlowId, 2> = owners.collect();
    for id in &owners {
        log::debug!("{id:?}: port {} is forwarded now, closing", to.address.port());
        core.flows.remove(*id);
    }
    if owners.is_empty() { bound } else { socket::bind(socket.as_fd(), to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_does_not_want_is_for_the_others() {
        let shares = |wanted: &[usize], most| {
            let wanted: HashMap<usize, usize> = wanted.iter().copied().enumerate().collect();
            let shares = fair_shares(&wanted, most);
            (0..wanted.len()).map(|key| shares[&key]).collect::<Vec<_>>()
        };
        assert_eq!(shares(&[60_000, 60_000], 400), [200, 200]);
        assert_eq!(shares(&[60_000, 10, 60_000], 400), [195, 10, 195]);
        assert_eq!(shares(&[5, 6], 400), [5, 6]);
        assert_eq!(shares(&[5, 6, 7], 0), [0, 0, 0]);
        assert_eq!(shares(&[], 400), [0; 0]);
        assert_eq!(shares(&[9, 9, 9], 10).iter().sum::<usize>(), 10);
    }
}
