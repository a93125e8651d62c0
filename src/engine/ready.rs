//! Flows that are to be served. Those of which something is new come before those that have not finished in the turn
//! before, which are streams in bulk: a question waits for no more than the piece of a stream that is under way.

use std::collections::VecDeque;

use super::state::FlowState;
use crate::flow::table::{FlowId, FlowTable};
use crate::limits::MAX_FLOWS;

/// Both lists. A flow whose state says that it is ready is on one of them, once; they may hold ids that are gone.
pub(crate) struct Ready {
    first: VecDeque<FlowId>,
    unfinished: VecDeque<FlowId>,
}

impl Ready {
    /// Nobody is to be served.
    pub(crate) fn new() -> Self {
        Self {
            first: VecDeque::with_capacity(MAX_FLOWS),
            unfinished: VecDeque::with_capacity(MAX_FLOWS),
        }
    }

    /// Puts a flow on the list of this turn.
    pub(crate) fn add(&mut self, flow: &mut FlowState, id: FlowId) {
        if !std::mem::replace(&mut flow.ready, true) {
            append(&mut self.first, id);
        }
    }

    /// Puts a flow that has not finished on the list of the next turn, behind the others.
    pub(crate) fn add_unfinished(&mut self, flow: &mut FlowState, id: FlowId) {
        if !std::mem::replace(&mut flow.ready, true) {
            append(&mut self.unfinished, id);
        }
    }

    /// Whether there is anybody to be served.
    pub(crate) fn any(&self) -> bool {
        !self.first.is_empty() || !self.unfinished.is_empty()
    }

    /// Begins a turn: returns how often [`next`](Self::next) has somebody at most.
    pub(crate) fn begin_turn(&mut self) -> usize {
        while let Some(id) = self.unfinished.pop_front() {
            append(&mut self.first, id);
        }
        self.first.len()
    }

    /// Takes the next flow off the list.
    pub(crate) fn next(&mut self, table: &mut FlowTable<FlowState>) -> Option<FlowId> {
        while let Some(id) = self.first.pop_front() {
            if let Some(flow) = table.get_mut(id) {
                flow.state.ready = false;
                return Some(id);
            }
        }
        None
    }
}

/// Appends to a list. An empty one starts anew: few flows use few of its pages, and not each of them
/// in turn.
pub(super) fn append(list: &mut VecDeque<FlowId>, id: FlowId) {
    if list.is_empty() {
        list.clear();
    }
    list.push_back(id);
}
