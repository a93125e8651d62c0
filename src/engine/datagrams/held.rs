//! Datagrams that were received for the guest and then found no room. Small ones are received together before it is
//! known how long they are: where some are larger than was expected, the guest may lack buffers for the rest. That
//! is kept, of one flow at a time, until the guest has room. Until then the other flows look before they
//! receive, so that nothing of theirs has to be kept.

use crate::engine::flows::Flows;
use crate::engine::state::Delivered;
use crate::flow::table::FlowId;
use crate::sys::copy_buffer::CopyBuffer;

/// Where to go on in a buffer: which datagram or burst, at which of its bytes, and what the guest has got in fragments
/// of the datagram that begins there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) index: usize,
    pub(super) offset: u32,
    pub(super) delivered: Delivered,
}

/// What is kept.
#[derive(Default)]
pub(super) struct Held {
    buffer: CopyBuffer,
    flow: Option<FlowId>,
    next: Position,
}

impl Held {
    /// Whether something is kept, of a flow that lives.
    pub(super) fn is_busy(&self, flows: &Flows) -> bool {
        self.flow.is_some_and(|id| flows.table.get(id).is_some())
    }

    /// Whether something of this flow is kept.
    pub(super) fn is_of(&self, id: FlowId) -> bool {
        self.flow == Some(id)
    }

    /// Keeps what `buffer` has from `next` on; it gets another one's memory.
    pub(super) fn keep(&mut self, buffer: &mut CopyBuffer, id: FlowId, next: Position) {
        std::mem::swap(&mut self.buffer, buffer);
        (self.flow, self.next) = (Some(id), next);
    }

    /// What is kept, and where to go on.
    pub(super) fn rest(&self) -> (&CopyBuffer, Position) {
        (&self.buffer, self.next)
    }

    /// The rest begins at `next` now; `None` if there is no rest.
    pub(super) fn went_on(&mut self, next: Option<Position>) {
        match next {
            Some(next) => self.next = next,
            None => self.flow = None,
        }
    }
}
