//! The work of a turn: who is served, in which order, and what is left for the next one.

use passt_frame::ToGuest;

use super::bypass::{BypassParts, relay, splice};
use super::core::Core;
use super::datagrams::{self, Datagrams};
use super::event_counters::EventType;
use super::flows::{
    ACCEPT_TIMER, ADDRESS_TIMER, ADVERTISEMENT_TIMER, GROUP_TIMER, SCAN_TIMER, queue_bit,
    slot_of_timer,
};
use super::listen::{self, Scans};
use super::state::FlowKind;
use super::{responders, tcp};
use crate::flow::table::FlowId;
use crate::limits::STARVED_PER_TURN;
use crate::sys::copy_buffer::CopyBuffer;
use crate::time::Timestamp;

/// What one turn leaves for the next, and what it has done.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Flows that have waited for room when the link last reported some, and were not served since.
    unfed: usize,
    /// When the next acknowledgement has waited for long enough, or the next socket is to be looked at.
    soon: Option<Timestamp>,
    /// This turn served a connection that moves bulk past the link.
    bulk: bool,
}

/// Whom the work is done with.
pub(super) struct Parts<'a> {
    pub(super) core: &'a mut Core,
    pub(super) datagrams: &'a mut Datagrams,
    pub(super) bypass: Option<&'a mut BypassParts>,
    /// `None` while rules change: what listens is for afterwards.
    pub(super) scans: Option<&'a mut Scans>,
    pub(super) buffer: &'a mut CopyBuffer,
}

impl Turn {
    pub(super) fn begin(&mut self) {
        self.bulk = false;
    }

    /// Whether it has served a connection that moves bulk past the link.
    pub(super) fn moved_bulk(&self) -> bool {
        self.bulk
    }

    /// The link has room toward the guest again.
    pub(super) fn on_link_room(&mut self, core: &mut Core) {
        self.unfed = core.flows.starved_count();
        core.listeners.wake_all();
    }

    /// Ready listening sockets, flows that have waited for room, ready flows, expired timers. There were `before` flows
    /// when the turn began.
    pub(super) fn work(&mut self, mut parts: Parts<'_>, before: usize, out: &mut dyn ToGuest) {
        let Parts { core, bypass, buffer, .. } = &mut parts;
        for _ in 0..core.listeners.ready_count() {
            let Some(id) = core.listeners.next_ready() else { break };
            listen::serve(core, bypass.as_deref_mut(), buffer, out, id);
        }
        // Who was accepted now takes nothing away from those that end.
        let before = before.max(core.flows.table.len());
        core.flows.due_acks(core.now);
        core.looks.due(&mut core.flows, core.now);
        self.feed(&mut parts, out);
        for _ in 0..parts.core.flows.ready.begin_turn() {
            let Some(id) = parts.core.flows.next_ready() else { break };
            self.serve(&mut parts, out, id);
        }
        while let Some(key) = parts.core.flows.timers.pop_expired(parts.core.now) {
            let event = on_timer(&mut parts, out, key);
            parts.core.counters.count(event);
        }
        let core = parts.core;
        if core.flows.table.len() < before {
            core.listeners.wake_all();
        }
        let soon = [core.flows.due_acks(core.now), core.looks.due(&mut core.flows, core.now)];
        self.soon = Timestamp::earliest(soon);
    }

    /// Serves flows that have waited for room, each once, as long as their queue has any: a queue that is full must
    /// not have every waiting flow ask in vain. The others wait for the link's next word.
    fn feed(&mut self, parts: &mut Parts<'_>, out: &mut dyn ToGuest) {
        let mut full = 0;
        for _ in 0..STARVED_PER_TURN.min(self.unfed) {
            let Some((id, queue)) = parts.core.flows.next_starved() else { break };
            self.unfed -= 1;
            if full & queue_bit(queue) != 0 {
                parts.core.flows.mark_starved(id);
                continue;
            }
            tcp::on_room(parts.core, id);
            self.serve(parts, out, id);
            // What is too little for one flow may be enough for the next.
            let core = &mut *parts.core;
            if core.flows.is_starved(id) && !core.outbox.has_room(out) {
                full |= queue_bit(queue);
                if core.flows.starved_queues() & !full == 0 {
                    self.unfed = 0;
                    return;
                }
            }
        }
        if !parts.core.flows.has_starved() {
            self.unfed = 0;
        }
    }

    fn serve(&mut self, parts: &mut Parts<'_>, out: &mut dyn ToGuest, id: FlowId) {
        let Parts { core, datagrams, bypass, buffer, .. } = parts;
        let Some(flow) = core.flows.table.get(id).filter(|flow| !flow.state.frozen) else { return };
        out.select(flow.state.queue);
        match (&flow.state.kind, bypass) {
            (FlowKind::Tcp(_), _) => tcp::drive(core, out, id),
            (FlowKind::Udp(_) | FlowKind::Echo(_), _) => {
                datagrams::serve(core, datagrams, buffer, out, id);
            }
            (FlowKind::Splice(_), Some(parts)) => {
                self.bulk |= splice::drive(core, parts, buffer, id);
            }
            (FlowKind::Relay(_), _) => relay::serve(core, buffer, id),
            (FlowKind::Splice(_), None) => {}
        }
    }

    /// Whether work is left that no event will announce.
    pub(super) fn has_work(&self, core: &Core) -> bool {
        core.flows.ready.any() || core.listeners.ready_count() > 0 || self.unfed > 0
    }

    /// When the next timer is due, or the next socket to be looked at.
    pub(super) fn deadline(&self, core: &Core) -> Option<Timestamp> {
        Timestamp::earliest([core.flows.timers.next_deadline(), self.soon])
    }
}

/// Looks for services that came and went.
pub(super) fn scan_ports(parts: &mut Parts<'_>) {
    let Parts { core, bypass: Some(bypass), scans: Some(scans), .. } = parts else { return };
    listen::scan(core, bypass, scans);
}

/// A timer has expired. Returns the type under which it is counted.
fn on_timer(parts: &mut Parts<'_>, out: &mut dyn ToGuest, key: u32) -> EventType {
    let core = &mut *parts.core;
    match key {
        ADVERTISEMENT_TIMER => responders::advertise(core, out),
        SCAN_TIMER => scan_ports(parts),
        ADDRESS_TIMER => responders::reconsider(core, out),
        GROUP_TIMER => datagrams::on_group_timer(core, out),
        ACCEPT_TIMER => core.listeners.wake_all(),
        _ => return on_flow_timer(core, out, slot_of_timer(key)),
    }
    EventType::Timer
}

/// The same for the timer of a flow.
fn on_flow_timer(core: &mut Core, out: &mut dyn ToGuest, slot: u32) -> EventType {
    let Some(id) = core.flows.table.id_of(slot) else { return EventType::Timer };
    let Some(flow) = core.flows.table.get_mut(id) else { return EventType::Timer };
    flow.state.scheduled = None;
    match flow.state.kind {
        _ if flow.state.frozen => {}
        FlowKind::Tcp(_) => {
            tcp::on_timer(core, out, id);
            return EventType::TcpTimer;
        }
        FlowKind::Udp(_) | FlowKind::Echo(_) | FlowKind::Relay(_) => {
            datagrams::on_timer(core, id);
        }
        FlowKind::Splice(_) => splice::on_timer(core, id),
    }
    EventType::Timer
}
