//! What those who control the program ask of the engine: see [`inspect`] for what is told.

use std::rc::Rc;

use super::events::{Event, Events};
use super::inspect::{EngineFacts, FlowFacts, LinkCounters};
use super::{Engine, inspect};
use crate::flow::fwd::RuleId;
use crate::flow::side::{Pif, Side};
use crate::flow::table::FlowId;
use crate::time::Timestamp;
use crate::wire::ip::L4Protocol;

impl Engine {
    /// What happens, for those who follow it.
    pub(crate) fn events(&self) -> &Rc<Events> {
        &self.core.events
    }

    /// The host's network has changed, as `change` says; those who follow events are told.
    pub fn note_host_change(&self, change: &str) {
        if self.core.events.has_readers() {
            self.core.events.note(self.core.now, Event::Host(change.to_owned()));
        }
    }

    /// When it was made.
    pub(crate) fn began(&self) -> Timestamp {
        self.core.began
    }

    /// What is known of the engine as a whole.
    pub(crate) fn facts(&self) -> EngineFacts<'_> {
        inspect::of_engine(&self.core, self.link_up, &self.link_counters)
    }

    /// The link has counted so much so far.
    pub(super) fn note_link_counters(&mut self, counters: LinkCounters) {
        self.link_counters = counters;
    }

    /// Slots for flows that were used so far: [`flow_in`](Self::flow_in) has none in others.
    pub(crate) fn flow_slots(&self) -> u32 {
        self.core.flows.table.extent()
    }

    /// The flow in a slot, with as much as costs no system call.
    pub(crate) fn flow_in(&self, slot: u32) -> Option<(FlowId, L4Protocol, [Side; 2])> {
        let id = self.core.flows.table.id_of(slot)?;
        inspect::outline(&self.core, id).map(|(protocol, sides)| (id, protocol, sides))
    }

    /// All that is known of a flow, by one or two system calls.
    pub(crate) fn flow_facts(&self, id: FlowId) -> Option<FlowFacts> {
        inspect::facts(&self.core, id)
    }

    /// Ends a flow: both ends of a connection get a reset. False if it is on its way to another program.
    pub(crate) fn end_flow(&mut self, id: FlowId) -> bool {
        if self.core.flows.table.get(id).is_some_and(|flow| flow.state.frozen) {
            return false;
        }
        self.core.end_flow(id);
        true
    }

    /// Closes all listening sockets: others may have their ports at once.
    pub(crate) fn stop_listening(&mut self) {
        self.core.listeners.close_all();
    }

    /// How many sockets listen for each rule. Walks over all of them: some 10 ns each.
    pub(crate) fn listening(&self) -> Vec<((Pif, RuleId), usize)> {
        inspect::listening(&self.core.listeners)
    }
}
