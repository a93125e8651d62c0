//! Automatic port forwarding: once in [`SCAN_PERIOD`] the kernel is asked what listens on either side,
//! and [`flow::scan`](crate::flow::scan) tells which of our listening sockets follow from it.
//!
//! A service counts if a forwarded connection would reach it: from the namespace those on a loopback
//! or any address of the host; from the host those on any address of the namespace, loopback ones
//! only where loopback destinations are kept.
//!
//! A port is open in the families in which its service listens. One of both has one socket; where a second family comes
//! later, a second one, so that the first is left alone.
//!
//! The guest decides how many ports its services take. So a scan opens and closes a limited number of
//! them, the rest follows in the next ones, and half of the descriptors stay for flows.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use passt_frame::Errno;

use super::error::place;
use super::open::{Claim, open_port_for};
use crate::engine::bypass::BypassParts;
use crate::engine::core::Core;
use crate::engine::flows::SCAN_TIMER;
use crate::engine::listener_id::ListenerId;
use crate::engine::listeners::{Listener, Listeners};
use crate::engine::net::Net;
use crate::flow::fwd::{ListenAddr, Proto, Rule, RuleId};
use crate::flow::scan::{Change, Families, Listening, PortSet, Ports, SCAN_PERIOD, changes};
use crate::flow::side::Pif;
use crate::limits::PORT_CHANGES_PER_SCAN;
use crate::sys::bound_ports::BoundPorts;
use crate::sys::errno_text;
use crate::sys::namespace_socket::{OwnNamespace, SocketMaker};
use crate::sys::sock_diag::Protocol;

/// A rule that follows what listens on the other side.
struct ScanRule {
    pif: Pif,
    /// Its name among the rules for `pif`.
    rule: RuleId,
    /// Ports that it listens on.
    open: Ports,
    /// Ports that it could not listen on, told once.
    failed: PortSet,
}

/// What port detection keeps.
#[derive(Default)]
pub(in crate::engine) struct Scans {
    host: Option<BoundPorts>,
    namespace: Option<BoundPorts>,
    rules: Vec<ScanRule>,
    /// That one cannot be seen was told.
    told: bool,
    seen: Listening,
    own: Listening,
}

impl Scans {
    /// Follows the rules of `net` that want it, and prepares to look where they need it. What is known of rules
    /// that were followed before stays known.
    ///
    /// # Errors
    /// Why it cannot be seen what listens.
    pub(crate) fn follow_rules(
        &mut self,
        net: &Net,
        namespace: &mut dyn SocketMaker,
    ) -> Result<(), Errno> {
        let mut rules = Vec::new();
        for pif in [Pif::Host, Pif::Splice] {
            for (rule, _) in net.rules(pif).iter().filter(|(_, rule)| rule.scan) {
                let known = self.rules.iter().position(|scan| (scan.pif, scan.rule) == (pif, rule));
                rules.push(match known {
                    Some(index) => self.rules.swap_remove(index),
                    None => {
                        ScanRule { pif, rule, open: Ports::default(), failed: PortSet::default() }
                    }
                });
            }
        }
        self.rules = rules;
        let needs = |pif: &Pif| self.rules.iter().any(|rule| rule.pif == *pif);
        let needed: ArrayVec<Pif, 2> = [Pif::Host, Pif::Splice].into_iter().filter(needs).collect();
        self.prepare(needed, namespace)
    }

    /// Prepares to look where rules that listen on these need it, if that is not done yet.
    ///
    /// # Errors
    /// Why it cannot be seen what listens.
    pub(crate) fn prepare(
        &mut self,
        pifs: impl IntoIterator<Item = Pif>,
        namespace: &mut dyn SocketMaker,
    ) -> Result<(), Errno> {
        for pif in pifs {
            if pif == Pif::Splice && self.host.is_none() {
                self.host = Some(OwnNamespace.bound_ports()?);
            }
            if pif == Pif::Host && self.namespace.is_none() {
                self.namespace = Some(namespace.bound_ports()?);
            }
        }
        Ok(())
    }

    /// Notes which ports rules that listen on `pif` may forward: what listens on the other side,
    /// without ourselves. The guest's flows with anybody have ports of the host, and are no services there.
    fn look(
        &mut self,
        pif: Pif,
        core: &Core,
        reached: impl Fn(IpAddr) -> bool,
    ) -> Result<bool, Errno> {
        let (ports, other) = match pif {
            Pif::Host => (&mut self.namespace, Pif::Splice),
            _ => (&mut self.host, Pif::Host),
        };
        let Some(ports) = ports else { return Ok(false) };
        // Tables tell of each socket of ours and each flow that is of IPv6 alone as if it were of IPv4, too.
        let blind = matches!(ports, BoundPorts::Read(_));
        self.seen.clear();
        self.own.clear();
        for (protocol, proto) in [(Protocol::Tcp, Proto::Tcp), (Protocol::Udp, Proto::Udp)] {
            let set = self.seen.of_mut(proto);
            ports.visit(protocol, |address, port| {
                let of_flow = |v4| core.flows.with_port_alone(v4, port).is_some();
                let is_flow = || {
                    other == Pif::Host
                        && proto == Proto::Udp
                        && (of_flow(address.is_ipv4())
                            || blind && address.is_unspecified() && of_flow(false))
                };
                if reached(address) && !is_flow() {
                    set.insert(port, Families::one(address.is_ipv4()));
                }
            })?;
        }
        for (_, listener) in core.listeners.iter().filter(|(_, listener)| listener.pif == other) {
            let families = match listener.listen {
                ListenAddr::V6(v6) if blind && v6.is_unspecified() => ListenAddr::Dual.into(),
                listen => listen.into(),
            };
            self.own.of_mut(listener.proto).insert(listener.port, families);
        }
        self.seen.without_own(&self.own);
        Ok(true)
    }
}

/// Looks for services that came and went, and opens and closes ports accordingly.
pub(in crate::engine) fn scan(core: &mut Core, bypass: &mut BypassParts, scans: &mut Scans) {
    if scans.rules.is_empty() {
        return;
    }
    core.flows.timers.set(SCAN_TIMER, core.now + SCAN_PERIOD);
    let how = bypass.how;
    for pif in [Pif::Host, Pif::Splice] {
        let from_namespace = pif == Pif::Splice;
        let reached = |address: IpAddr| match from_namespace {
            true => address.is_unspecified() || address.is_loopback(),
            false => how.reaches(address),
        };
        match scans.look(pif, core, reached) {
            Ok(true) => follow(core, bypass, scans, pif),
            Ok(false) => {}
            Err(errno) if !std::mem::replace(&mut scans.told, true) => log::warn!(
                "Cannot see what listens: {}: ports are not forwarded as services come and go",
                errno_text(errno)
            ),
            Err(errno) => log::debug!("cannot see what listens: {errno}"),
        }
    }
}

/// Brings the rules that listen on `pif` in line with what was seen.
fn follow(core: &mut Core, bypass: &mut BypassParts, scans: &mut Scans, pif: Pif) {
    let Scans { rules, seen, .. } = scans;
    let mut of_flows = None;
    for scan in rules.iter_mut().filter(|scan| scan.pif == pif) {
        scan.see_open(&core.listeners);
        let Some(rule) = core.net.rules(pif).get(scan.rule).copied() else { continue };
        let seen = seen.of(rule.proto);
        // Ports that failed before come last, so that they are in nobody's way.
        let failed = |change: &Change| scan.failed.contains(change.port);
        let fresh = changes(&rule, seen, &scan.open).filter(|change| !failed(change));
        let again = changes(&rule, seen, &scan.open).filter(failed);
        let list: Vec<Change> = fresh.chain(again).take(PORT_CHANGES_PER_SCAN).collect();
        for change in list {
            scan.apply(core, bypass, &rule, change, &mut of_flows);
        }
    }
}

impl ScanRule {
    /// Notes which ports are open: some may have been closed with their interface.
    fn see_open(&mut self, listeners: &Listeners) {
        self.open.clear();
        let is_of = |one: &Listener| (one.pif, one.rule) == (self.pif, self.rule);
        listeners
            .iter()
            .filter(|(_, one)| is_of(one))
            .for_each(|(_, one)| self.open.insert(one.port, one.listen.into()));
    }

    /// `of_flows` are the UDP ports that flows of ours have on that side, once somebody has looked.
    fn apply(
        &mut self,
        core: &mut Core,
        bypass: &mut BypassParts,
        rule: &Rule,
        Change { port, wanted }: Change,
        of_flows: &mut Option<PortSet>,
    ) {
        let pif = self.pif;
        let kept = self.close_others(&mut core.listeners, port, wanted);
        if wanted.is_empty() {
            log::debug!("{pif} {rule}: port {port} closed");
        }
        let missing = wanted.without(kept);
        if missing.is_empty() {
            return;
        }
        let rule = Rule { listen: missing.narrow(rule.listen), ..*rule };
        match self.open(core, bypass, &rule, port, of_flows) {
            Ok(()) => {
                log::debug!("{pif} {rule}: port {port} opened");
                self.failed.remove(port);
            }
            Err(errno) if !self.failed.contains(port) => {
                let (place, why) = (place(pif, &rule, port), errno_text(errno));
                log::debug!("Listen failed for {place}: {why}");
                self.failed.insert(port);
            }
            Err(_) => {}
        }
    }

    fn open(
        &self,
        core: &mut Core,
        bypass: &mut BypassParts,
        rule: &Rule,
        port: u16,
        of_flows: &mut Option<PortSet>,
    ) -> Result<(), Errno> {
        if !core.flows.may_listen(core.listeners.len()) {
            return Err(Errno::MFILE);
        }
        let claim = if self.failed.contains(port) { Claim::AnyAgain } else { Claim::Any };
        let rule = (self.pif, self.rule, rule);
        open_port_for(core, Some(bypass), rule, port, (claim, of_flows)).map(drop)
    }

    /// Closes sockets of a port that listen in other families than those wanted. Returns the families of what is left.
    fn close_others(&self, listeners: &mut Listeners, port: u16, wanted: Families) -> Families {
        let is_it = (self.pif, self.rule, port);
        let mut kept = Families::default();
        let mut others: ArrayVec<ListenerId, 2> = ArrayVec::new();
        for (id, one) in listeners.iter() {
            if (one.pif, one.rule, one.port) != is_it {
                continue;
            }
            let families = Families::from(one.listen);
            if families.without(wanted).is_empty() {
                kept = Families { v4: kept.v4 || families.v4, v6: kept.v6 || families.v6 };
            } else {
                let _ = others.try_push(id);
            }
        }
        others.into_iter().for_each(|id| listeners.close(id));
        kept
    }
}
