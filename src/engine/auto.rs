//! Automatic port forwarding: once in [`SCAN_PERIOD`] the kernel is asked what listens on either side,
//! and [`flow::scan`](crate::flow::scan) tells which of our listening sockets follow from it.
//!
//! A service counts if a forwarded connection would reach it: from the namespace those on a loopback
//! or any address of the host; from the host those on any address of the namespace, loopback ones
//! only where loopback destinations are kept.
//!
//! The guest decides how many ports its services take. So a scan opens and closes a limited number of
//! them, the rest follows in the next ones, and half of the descriptors stay for flows.

use std::net::IpAddr;

use passt_frame::Errno;

use super::Engine;
use super::flows::SCAN_TIMER;
use super::listen::{Listeners, place};
use crate::flow::fwd::{Proto, Rule, RuleTable};
use crate::flow::scan::{Change, Listening, PortSet, SCAN_PERIOD, changes};
use crate::flow::side::Pif;
use crate::limits::PORT_CHANGES_PER_SCAN;
use crate::sys::errno_text;
use crate::sys::namespace_socket::{OwnNamespace, SocketMaker};
use crate::sys::services::Services;
use crate::sys::sock_diag::Protocol;

/// A rule that follows what listens on the other side.
struct ScanRule {
    pif: Pif,
    /// Index in the rule table of `pif`.
    rule: usize,
    /// Ports that it listens on.
    open: PortSet,
    /// Ports that it could not listen on, told once.
    failed: PortSet,
}

/// What port detection keeps.
pub(super) struct Scans {
    host: Option<Services>,
    namespace: Option<Services>,
    rules: Vec<ScanRule>,
    seen: Listening,
    own: Listening,
}

impl Scans {
    /// Prepared to look where rules of `inbound` and `outbound` need it.
    pub fn new(
        inbound: &RuleTable,
        outbound: &RuleTable,
        namespace: &mut dyn SocketMaker,
    ) -> Result<Self, Errno> {
        let mut rules = Vec::new();
        for (pif, table) in [(Pif::Host, inbound), (Pif::Splice, outbound)] {
            let scanned = table.rules().iter().enumerate().filter(|(_, rule)| rule.scan);
            rules.extend(scanned.map(|(rule, _)| ScanRule {
                pif,
                rule,
                open: PortSet::default(),
                failed: PortSet::default(),
            }));
        }
        let needs = |pif| rules.iter().any(|rule: &ScanRule| rule.pif == pif);
        let host = needs(Pif::Splice).then(|| OwnNamespace.services()).transpose()?;
        let namespace = needs(Pif::Host).then(|| namespace.services()).transpose()?;
        let (seen, own) = (Listening::default(), Listening::default());
        Ok(Self { host, namespace, rules, seen, own })
    }

    /// Notes which ports rules that listen on `pif` may forward: what listens on the other side,
    /// without ourselves.
    fn look(
        &mut self,
        pif: Pif,
        listeners: &Listeners,
        reached: impl Fn(IpAddr) -> bool,
    ) -> Result<bool, Errno> {
        let (services, other) = match pif {
            Pif::Host => (&mut self.namespace, Pif::Splice),
            _ => (&mut self.host, Pif::Host),
        };
        let Some(services) = services else { return Ok(false) };
        self.seen.clear();
        self.own.clear();
        for (protocol, proto) in [(Protocol::Tcp, Proto::Tcp), (Protocol::Udp, Proto::Udp)] {
            let set = self.seen.of_mut(proto);
            services.visit(protocol, |address, port| {
                if reached(address) {
                    set.insert(port);
                }
            })?;
        }
        for (proto, port) in listeners.on(other) {
            self.own.of_mut(proto).insert(port);
        }
        self.seen.without_own(&self.own);
        Ok(true)
    }
}

impl Engine {
    /// Looks for services that came and went, and opens and closes ports accordingly.
    pub(super) fn scan_ports(&mut self) {
        let Some(parts) = &mut self.bypass else { return };
        if parts.scans.rules.is_empty() {
            return;
        }
        self.flows.timers.set(SCAN_TIMER, self.now + SCAN_PERIOD);
        let how = parts.how;
        for pif in [Pif::Host, Pif::Splice] {
            let Some(parts) = &mut self.bypass else { return };
            let from_namespace = pif == Pif::Splice;
            let reached = |address: IpAddr| match from_namespace {
                true => address.is_unspecified() || address.is_loopback(),
                false => how.reaches(address),
            };
            match parts.scans.look(pif, &self.listeners, reached) {
                Ok(true) => self.follow(pif),
                Ok(false) => {}
                Err(errno) => log::debug!("cannot see what listens: {errno}"),
            }
        }
    }

    /// Brings the rules that listen on `pif` in line with what was seen.
    fn follow(&mut self, pif: Pif) {
        let count = self.bypass.as_ref().map_or(0, |parts| parts.scans.rules.len());
        for index in 0..count {
            let Some(parts) = &self.bypass else { return };
            let scan = &parts.scans.rules[index];
            let number = scan.rule;
            let Some(rule) = self.rule(pif, number).filter(|_| scan.pif == pif) else { continue };
            let seen = parts.scans.seen.of(rule.proto);
            // Ports that failed before come last, so that they are in nobody's way.
            let failed = |change: &Change| scan.failed.contains(change.port());
            let fresh = changes(&rule, seen, &scan.open).filter(|change| !failed(change));
            let again = changes(&rule, seen, &scan.open).filter(failed);
            let list: Vec<Change> = fresh.chain(again).take(PORT_CHANGES_PER_SCAN).collect();
            for change in list {
                self.apply(index, number, &rule, change);
            }
        }
    }

    fn apply(&mut self, index: usize, number: usize, rule: &Rule, change: Change) {
        let Some(pif) = self.bypass.as_ref().map(|parts| parts.scans.rules[index].pif) else {
            return;
        };
        let result = match change {
            Change::Open(_) if !self.flows.may_listen(self.listeners.len()) => Err(Errno::MFILE),
            Change::Open(port) => self.listen_port(pif, number, rule, port),
            Change::Close(port) => {
                self.listeners.close(pif, number, port);
                Ok(())
            }
        };
        let Some(parts) = &mut self.bypass else { return };
        let scan = &mut parts.scans.rules[index];
        match (change, result) {
            (Change::Open(port), Ok(())) => {
                log::debug!("{pif} {rule}: port {port} opened");
                scan.open.insert(port);
                scan.failed.remove(port);
            }
            (Change::Open(port), Err(errno)) if !scan.failed.contains(port) => {
                let (place, why) = (place(pif, rule, port), errno_text(errno));
                log::debug!("Listen failed for {place}: {why}");
                scan.failed.insert(port);
            }
            (Change::Open(_), Err(_)) => {}
            (Change::Close(port), _) => {
                log::debug!("{pif} {rule}: port {port} closed");
                scan.open.remove(port);
            }
        }
    }
}
