//! UDP and ICMP echo: pseudo-flows, each with a host socket. They share everything but the header in front of the
//! payload.
//!
//! | file | what it does |
//! |---|---|
//! | `socket` | finds flows, and opens those of two, with connected sockets |
//! | `anybody` | UDP flows with anybody, each with the one socket of a port of the guest |
//! | `begin` | adds a flow |
//! | `from_guest` | UDP of the guest, in runs |
//! | `fragments` | what the guest cut into fragments, put together first |
//! | `to_guest`, `copied`, `udp_to_guest` | UDP to the guest: large ones and bursts; many small ones at a time; where they go |
//! | `groups` | what the guest has joined: receiving for groups, asking, sending to them |
//! | `cut` | what the guest gets in fragments |
//! | `senders` | who may send to a flow's socket, and how the guest sees it |
//! | `held` | what was received and found no room |
//! | `echo` | ICMP echo, both ways |
//! | `queue`, `send` | what waits in a socket; sending on one |
//! | `errors` | ICMP errors of the host, for the guest |
//!
//! Without room, datagrams stay in the socket, whose queue is bounded by the kernel, and the flow waits for the
//! link's word; without a link they are dropped and counted.

mod anybody;
mod begin;
mod copied;
mod cut;
mod echo;
mod errors;
mod fragments;
mod from_guest;
mod groups;
mod held;
mod queue;
mod send;
mod senders;
mod socket;
mod to_guest;
mod udp_to_guest;

use std::time::Duration;

use passt_frame::{MAX_FRAME_BYTES, ToGuest};
use rustix::event::epoll::EventFlags;

pub(super) use anybody::is_question;
pub(super) use begin::add;
pub(super) use echo::echo_from_guest;
pub(super) use fragments::{Fragments, forget, reassembled, whole_from_guest};
pub(super) use from_guest::{DatagramRun, udp_from_guest};
pub(super) use groups::{
    begin as begin_groups, end as end_groups, igmp_from_guest, mld_from_guest,
    on_timer as on_group_timer, refresh as refresh_groups, takes_back,
};
pub(super) use queue::{Queue, Served, drain};
pub(super) use send::may_be_of_the_past;
pub(super) use socket::{follow_guest, open_inbound};
pub(super) use to_guest::first_to_guest;

use held::Held;

use super::core::Core;
use super::state::FlowKind;
use crate::flow::side::Side;
use crate::flow::table::FlowId;
use crate::limits::ANSWERED_TIMEOUT;
use crate::sys::copy_buffer::CopyBuffer;
use crate::wire::eth;
use crate::wire::ip::{L4Protocol, max_l4_bytes};

const _: () =
    assert!(MAX_FRAME_BYTES as usize >= eth::HEADER_BYTES + 40 + max_l4_bytes(false) as usize);
const _: () =
    assert!(MAX_FRAME_BYTES as usize >= eth::HEADER_BYTES + 20 + max_l4_bytes(true) as usize);

/// Time without a request after which an echo flow ends.
const PING_TIMEOUT: Duration = Duration::from_secs(60);

/// What datagrams need beside their flows.
#[derive(Default)]
pub(super) struct Datagrams {
    fragments: Fragments,
    held: Held,
    /// The operator was told that echo sockets are not allowed.
    ping_refused: bool,
}

/// Whether some flow sends to this guest side, connected or, for UDP, with anybody.
pub(super) fn goes_to(core: &Core, protocol: L4Protocol, side: &Side) -> bool {
    let flows = &core.flows;
    let with_anybody = || flows.find(protocol, &anybody::guest_side(side.endpoint)).is_some();
    flows.find(protocol, side).is_some() || (protocol == L4Protocol::Udp && with_anybody())
}

/// An event of a datagram flow's socket.
pub(super) fn on_event(core: &mut Core, id: FlowId, events: EventFlags) {
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    if let FlowKind::Udp(state) | FlowKind::Echo(state) = &mut flow.state.kind {
        state.failed |= events.contains(EventFlags::ERR);
        core.flows.mark_ready(id);
    }
}

/// Moves what waits for the guest, for one turn.
pub(super) fn serve(
    core: &mut Core,
    datagrams: &mut Datagrams,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
    id: FlowId,
) {
    errors::to_guest(core, out, id);
    let served = match core.flows.table.get(id).map(|flow| &flow.state.kind) {
        Some(FlowKind::Udp(_)) => to_guest::serve(core, &mut datagrams.held, buffer, out, id),
        Some(FlowKind::Echo(_)) => echo::serve(core, buffer, out, id),
        _ => return,
    };
    match served {
        Served::Empty => socket::take_out_heard(core, datagrams, id),
        Served::More => core.flows.mark_unfinished(id),
        Served::NoRoom => core.flows.mark_starved(id),
    }
}

/// The timer of a datagram flow: ends it if it was silent for long enough.
pub(super) fn on_timer(core: &mut Core, id: FlowId) {
    let Some(flow) = core.flows.table.get(id) else { return };
    let Some(state) = flow.state.kind.datagrams() else { return };
    let timeout = match flow.state.kind {
        FlowKind::Echo(_) => PING_TIMEOUT,
        _ if state.is_stream() => core.settings.udp.stream,
        _ if state.questions && state.is_answered() => ANSWERED_TIMEOUT,
        _ => core.settings.udp.once,
    };
    let deadline = state.active + timeout;
    if deadline <= core.now {
        log::debug!("{id:?}: idle, closing");
        core.flows.remove(id);
    } else {
        core.flows.schedule(id, Some(deadline));
    }
}
