//! The flows whose sockets are polled by time ([`Pace`](super::pace::Pace)): their epoll events are off until the poll, and
//! this says when that is.

use std::collections::VecDeque;

use rustix::event::epoll::EventFlags;

use super::flows::Flows;
use super::pace::Step;
use super::state::FlowKind;
use super::token::Token;
use crate::flow::table::FlowId;
use crate::limits::MAX_LOOKS;
use crate::time::Timestamp;

/// When each flow is polled. All wait equally long, so the list is in order of time.
pub(crate) struct Looks(VecDeque<(Timestamp, FlowId)>);

impl Default for Looks {
    fn default() -> Self {
        Self(VecDeque::with_capacity(MAX_LOOKS))
    }
}

impl Looks {
    /// The guest has sent something in a flow: perhaps it waits for an answer.
    pub(crate) fn on_guest(&mut self, flows: &mut Flows, id: FlowId) {
        if let Some(flow) = flows.table.get_mut(id)
            && let FlowKind::Udp(state) = &mut flow.state.kind
        {
            let step = state.pace.on_guest();
            self.follow(flows, id, step);
        }
    }

    /// Does with the socket of a UDP flow what its pace asks for.
    pub(crate) fn follow(&mut self, flows: &mut Flows, id: FlowId, step: Step) {
        match step {
            Step::Stay => {}
            Step::Begin(at) | Step::Again(at) if self.0.len() < MAX_LOOKS => {
                self.0.push_back((at, id));
                if step == Step::Begin(at) {
                    watch(flows, id, EventFlags::empty());
                }
            }
            Step::Begin(_) | Step::Again(_) | Step::End => {
                if let Some(flow) = flows.table.get_mut(id)
                    && let FlowKind::Udp(state) = &mut flow.state.kind
                {
                    state.pace.end();
                }
                watch(flows, id, EventFlags::IN);
            }
        }
    }

    /// Lists the flows whose sockets are to be looked at now; returns when the next one is.
    pub(crate) fn due(&mut self, flows: &mut Flows, now: Timestamp) -> Option<Timestamp> {
        while let Some(&(at, id)) = self.0.front() {
            let waits = match flows.table.get(id).map(|flow| &flow.state.kind) {
                Some(FlowKind::Udp(state)) => state.pace.next() == Some(at),
                _ => false,
            };
            if waits && at > now {
                return Some(at);
            }
            self.0.pop_front();
            if waits {
                flows.mark_ready(id);
            }
        }
        None
    }
}

/// Has the socket of a flow report these events only.
fn watch(flows: &Flows, id: FlowId, events: EventFlags) {
    let Some(flow) = flows.table.get(id) else { return };
    if let Err(errno) = flows.watch.again(Token::Flow(id), flow.state.fd(), events) {
        log::error!("{id:?}: cannot watch its socket: {errno}");
    }
}
