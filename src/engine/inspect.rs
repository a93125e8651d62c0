//! What can be told of flows and of the engine to an operator who asks. Nothing here changes anything, and nothing is
//! counted for it on the way of packets that was not needed anyway: what a connection has moved, and how long ago, the
//! kernel knows ([`stream::measured`]). Only flows of datagrams count their bytes themselves.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::Duration;

use arrayvec::ArrayVec;

use super::core::Core;
use super::events::Event;
use super::listeners::Listeners;
use super::net::Net;
use super::state::{DatagramState, FlowKind, SpliceState};
use super::tally::Tally;
use crate::flow::fwd::{Mapping, Policy, RuleId, RuleTable};
use crate::flow::network::{Learned, Network};
use crate::flow::side::{Pif, Side};
use crate::flow::splice::End;
use crate::flow::table::FlowId;
use crate::sys::stream::{self, Measured};
use crate::wire::ip::L4Protocol;

/// A flow, at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowFacts {
    /// Its name, which no later flow gets.
    pub(crate) id: FlowId,
    /// Its protocol.
    pub(crate) protocol: L4Protocol,
    /// It passes the guest's link by.
    pub(crate) bypasses: bool,
    /// The side that has begun it, then the other one.
    pub(crate) sides: [Side; 2],
    /// Where it stands, in one word.
    pub(crate) state: &'static str,
    /// Bytes of payload from the side that has begun it, and to it, if they are known.
    pub(crate) bytes: [Option<u64>; 2],
    /// How long it has been here.
    pub(crate) age: Duration,
    /// How long ago something last happened.
    pub(crate) idle: Duration,
    /// Round-trip time to the peer on the host's side.
    pub(crate) round_trip: Option<Duration>,
}

/// Words for where a flow stands.
pub(crate) const STATES: [&str; 9] = [
    "connecting",
    "handshake",
    "established",
    "half-closed",
    "closing",
    "moving",
    "unanswered",
    "answered",
    "stream",
];

/// Counters of a link, at most.
const LINK_COUNTERS: usize = 64;

/// What the link counts: it is copied when somebody is about to ask.
pub(super) type LinkCounters = ArrayVec<(&'static str, u64), LINK_COUNTERS>;

/// The engine, at the moment.
pub(crate) struct EngineFacts<'a> {
    /// How long it has been here.
    pub(crate) uptime: Duration,
    /// The link reaches the guest.
    pub(crate) link_up: bool,
    /// What the guest is told.
    pub(crate) network: &'a Network,
    /// How addresses are mapped.
    pub(crate) mapping: &'a Mapping,
    /// What the guest's traffic has told.
    pub(crate) learned: &'a Learned,
    /// Rules for ports of the host.
    pub(crate) inbound: &'a RuleTable,
    /// Rules for ports of the guest's namespace.
    pub(crate) outbound: &'a RuleTable,
    /// What the guest may reach.
    pub(crate) egress: &'a Policy,
    /// How often each egress rule has decided, and at the end how often none has.
    pub(crate) decided: Vec<u64>,
    /// Flows by their kind.
    pub(crate) tally: Tally,
    /// TCP flows whose handshake has not finished.
    pub(crate) half_open: usize,
    /// Sockets that listen.
    pub(crate) listening: usize,
    /// Flows that there may be, those that are there included.
    pub(crate) most_flows: usize,
    /// Descriptors that the process may have open.
    pub(crate) max_descriptors: u64,
    /// Drops by name.
    pub(crate) drops: Vec<(&'static str, u64)>,
    /// What the loop was busy with, by name.
    pub(crate) events: Vec<(&'static str, u64)>,
    /// Counters of the link.
    pub(crate) link: &'a [(&'static str, u64)],
}

/// What is known of the engine as a whole.
pub(super) fn of_engine<'a>(
    core: &'a Core,
    link_up: bool,
    link: &'a LinkCounters,
) -> EngineFacts<'a> {
    let (net, flows) = (&core.net, &core.flows);
    let drops = core.outbox.drops.iter_all().map(|(reason, count)| (reason.name(), count));
    EngineFacts {
        uptime: core.now.since(core.began),
        link_up,
        network: &net.network,
        mapping: &net.map,
        learned: &net.learned,
        inbound: net.rules(Pif::Host),
        outbound: net.rules(Pif::Splice),
        egress: net.egress(),
        decided: net.egress_counts().into_iter().map(|(_, count)| count).collect(),
        tally: flows.tally(),
        half_open: flows.half_open_count(),
        listening: core.listeners.len(),
        most_flows: core.most_flows(),
        max_descriptors: core.settings.max_descriptors,
        drops: drops.collect(),
        events: core.counters.iter().collect(),
        link,
    }
}

/// How many sockets listen for each rule.
pub(super) fn listening(listeners: &Listeners) -> Vec<((Pif, RuleId), usize)> {
    let mut found = HashMap::new();
    for (_, listener) in listeners.iter() {
        *found.entry((listener.pif, listener.rule)).or_default() += 1;
    }
    found.into_iter().collect()
}

/// The rules before a change, if somebody follows what changes.
pub(super) struct RuleBook(Option<([Vec<RuleId>; 2], Vec<String>)>);

impl RuleBook {
    /// The rules in force.
    pub(crate) fn of(net: &Net) -> Self {
        Self(net.events.has_readers().then(|| rules_of(net)))
    }

    /// Tells what is different now.
    pub(crate) fn tell_changes(self, core: &Core) {
        let Some((tables, egress)) = self.0 else { return };
        let (new_tables, new_egress) = rules_of(&core.net);
        let count = |of: &[Vec<RuleId>; 2], but: &[Vec<RuleId>; 2]| {
            let missing = |(of, but): (&Vec<RuleId>, &Vec<RuleId>)| {
                of.iter().filter(|id| but.binary_search(id).is_err()).count()
            };
            of.iter().zip(but).map(missing).sum::<usize>()
        };
        let (added, removed) = (count(&new_tables, &tables), count(&tables, &new_tables));
        if added + removed > 0 {
            core.events.note(core.now, Event::Rules { added, removed });
        }
        if egress != new_egress {
            core.events.note(core.now, Event::Egress { rules: new_egress.len() });
        }
    }
}

/// The names of all forwarding rules, ascending, and the text of the egress rules.
fn rules_of(net: &Net) -> ([Vec<RuleId>; 2], Vec<String>) {
    let names = |pif| net.rules(pif).iter().map(|(id, _)| id).collect();
    let egress = net.egress().rules.iter().map(|rule| rule.text.clone());
    ([names(Pif::Host), names(Pif::Splice)], egress.collect())
}

/// The protocol and the sides of a flow: as much as costs no system call.
pub(super) fn outline(core: &Core, id: FlowId) -> Option<(L4Protocol, [Side; 2])> {
    let flow = core.flows.table.get(id)?;
    Some((flow.state.l4(&flow.sides), flow.sides))
}

/// All that is known of a flow; one or two system calls for a connection.
pub(super) fn facts(core: &Core, id: FlowId) -> Option<FlowFacts> {
    let flow = core.flows.table.get(id)?;
    let (now, state) = (core.now, &flow.state);
    let mut facts = FlowFacts {
        id,
        protocol: state.l4(&flow.sides),
        bypasses: false,
        sides: flow.sides,
        state: "moving",
        bytes: [None; 2],
        age: now.since(state.began),
        idle: Duration::ZERO,
        round_trip: None,
    };
    match &state.kind {
        FlowKind::Tcp(tcp) => {
            let from_host = flow.sides[0].pif == Pif::Host;
            let measured = stream::measured(state.socket.as_fd());
            facts.state = tcp.conn.stage();
            facts.idle = now.since(tcp.conn.active_at());
            facts.bytes = bytes_of(measured, from_host);
            facts.round_trip = measured.and_then(|measured| measured.round_trip);
        }
        FlowKind::Splice(splice) => {
            facts.bypasses = true;
            let ends = End::BOTH.map(|end| stream::measured(state.end(end)));
            facts.state = splice_stage(splice, ends);
            facts.bytes = bytes_of(ends[0], true);
            let idle = ends.into_iter().flatten().map(|measured| measured.idle).min();
            facts.idle = idle.unwrap_or_default();
            let host = ends[usize::from(flow.sides[0].pif != Pif::Host)];
            facts.round_trip = host.and_then(|measured| measured.round_trip);
        }
        FlowKind::Udp(datagrams) | FlowKind::Echo(datagrams) => {
            note_datagrams(&mut facts, core, datagrams);
        }
        FlowKind::Relay(relay) => {
            facts.bypasses = true;
            note_datagrams(&mut facts, core, &relay.datagrams);
        }
    }
    if state.frozen {
        facts.state = "moving";
    }
    Some(facts)
}

/// What a socket whose peer is the side that has begun the flow, or the other one, has moved.
fn bytes_of(measured: Option<Measured>, peer_began: bool) -> [Option<u64>; 2] {
    let Some(measured) = measured else { return [None; 2] };
    let (received, sent) = (Some(measured.received), measured.sent);
    if peer_began { [received, sent] } else { [sent, received] }
}

fn splice_stage(splice: &SpliceState, ends: [Option<Measured>; 2]) -> &'static str {
    let ended = ends.iter().flatten().any(|end| end.peer_ended);
    match (splice.machine.is_connecting() || splice.queueing.is_some(), ended) {
        (true, _) => "connecting",
        (false, true) => "half-closed",
        (false, false) => "established",
    }
}

fn note_datagrams(facts: &mut FlowFacts, core: &Core, state: &DatagramState) {
    facts.state = match state.counts {
        [_, 0] => "unanswered",
        _ if state.is_stream() && !state.echo => "stream",
        _ => "answered",
    };
    facts.idle = core.now.since(state.active);
    facts.bytes = state.bytes.map(Some);
}

#[cfg(fuzzing)]
impl super::Engine {
    /// Whether each flow has a timer: none is forgotten, whatever becomes of its socket.
    pub fn all_flows_have_timers(&self) -> bool {
        let flows = &self.core.flows;
        flows.table.ids().all(|id| flows.timers.is_set(super::flows::timer_key(id.slot())))
    }

    /// TCP connections of the link that have begun so far.
    pub fn connections_begun(&self) -> usize {
        let [tcp, ..] = self.core.flows.tally().begun;
        tcp as usize
    }
}
