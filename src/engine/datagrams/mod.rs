//! UDP and ICMP echo: pseudo-flows, each with a connected host socket. They share everything but the
//! header in front of the payload.
//!
//! | file | what it does |
//! |---|---|
//! | `socket` | opens the sockets, and their flows |
//! | `from_guest` | UDP of the guest, in runs |
//! | `fragments` | UDP that the guest cut into fragments, put together first |
//! | `to_guest` | UDP to the guest, in bursts |
//! | `echo` | ICMP echo, both ways |
//! | `errors` | ICMP errors of the host, for the guest |
//!
//! Without room, datagrams stay in the socket, whose queue is bounded by the kernel, and the flow waits for the
//! link's word; without a link they are dropped and counted.

mod echo;
mod errors;
mod fragments;
mod from_guest;
mod socket;
mod to_guest;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use passt_frame::{Errno, MAX_FRAME_BYTES, ToGuest};
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt;

pub(super) use echo::echo_from_guest;
pub(super) use fragments::{Fragments, fragment_from_guest};
pub(super) use from_guest::{DatagramRun, udp_from_guest};
pub(super) use socket::open_inbound;
pub(super) use to_guest::first_to_guest;

use super::core::Core;
use super::state::{FlowKind, FlowState, RelayState};
use crate::flow::side::{Pif, Side};
use crate::flow::table::{Flow, FlowId};
use crate::limits::DATAGRAMS_PER_TURN;
use crate::sys::batch::Batch;
use crate::sys::datagram;
use crate::time::Timestamp;
use crate::wire::DropReason;
use crate::wire::eth;
use crate::wire::ip::{L4Protocol, max_l4_bytes};

const _: () =
    assert!(MAX_FRAME_BYTES as usize >= eth::HEADER_BYTES + 40 + max_l4_bytes(false) as usize);
const _: () =
    assert!(MAX_FRAME_BYTES as usize >= eth::HEADER_BYTES + 20 + max_l4_bytes(true) as usize);

/// Silence after which a one-way or question-and-answer UDP flow ends.
const UDP_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for a flow in which both sides talk.
const UDP_STREAM_TIMEOUT: Duration = Duration::from_secs(120);
/// Time without a request after which an echo flow ends.
const PING_TIMEOUT: Duration = Duration::from_secs(60);

/// What datagrams need beside their flows.
#[derive(Default)]
pub(super) struct Datagrams {
    fragments: Fragments,
    /// The operator was told that echo sockets are not allowed.
    ping_refused: bool,
}

/// What became of the datagrams that waited in a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// None is left.
    Empty,
    /// More may be there; others get their turn first.
    More,
    /// The guest has no room; the rest waits.
    NoRoom,
}

/// Adds a flow and starts its timeout.
pub(super) fn add(
    core: &mut Core,
    sides: [Side; 2],
    protocol: L4Protocol,
    state: FlowState,
) -> Result<FlowId, DropReason> {
    let id = core.flows.add(sides, protocol, state, EventFlags::IN)?;
    log::debug!("{id:?} ({protocol}): {} => {}", sides[0], sides[1]);
    core.flows.schedule(id, Some(core.now + UDP_TIMEOUT));
    Ok(id)
}

/// An event of a datagram flow's socket.
pub(super) fn on_event(core: &mut Core, id: FlowId, events: EventFlags) {
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    if let FlowKind::Udp(state) | FlowKind::Ping(state) = &mut flow.state.kind {
        state.failed |= events.contains(EventFlags::ERR);
        core.flows.mark_ready(id);
    }
}

/// Moves what waits for the guest, for one turn.
pub(super) fn serve(core: &mut Core, batch: &mut Batch, out: &mut dyn ToGuest, id: FlowId) {
    errors::relay(core, out, id);
    let served = match core.flows.table.get(id).map(|flow| &flow.state.kind) {
        Some(FlowKind::Udp(_)) => to_guest::serve(core, batch, out, id),
        Some(FlowKind::Ping(_)) => echo::serve(core, out, id),
        _ => return,
    };
    match served {
        Served::Empty => {}
        Served::More => core.flows.mark_ready(id),
        Served::NoRoom => core.flows.mark_starved(id),
    }
}

/// The timer of a datagram flow: ends it if it was silent for long enough.
pub(super) fn on_timer(core: &mut Core, id: FlowId) {
    let Some(flow) = core.flows.table.get(id) else { return };
    let (timeout, state) = match &flow.state.kind {
        FlowKind::Udp(state) | FlowKind::Relay(RelayState { datagrams: state, .. }) => {
            (if state.is_stream() { UDP_STREAM_TIMEOUT } else { UDP_TIMEOUT }, state)
        }
        FlowKind::Ping(state) => (PING_TIMEOUT, state),
        FlowKind::Tcp(_) | FlowKind::Splice(_) => return,
    };
    let deadline = state.active + timeout;
    if deadline <= core.now {
        log::debug!("{id:?}: idle, closing");
        core.flows.remove(id);
    } else {
        core.flows.schedule(id, Some(deadline));
    }
}

/// Calls `one` until the socket is empty, the guest has no room or the turn is over.
pub(super) fn drain(mut one: impl FnMut() -> Option<Served>) -> Served {
    for _ in 0..DATAGRAMS_PER_TURN {
        match one() {
            Some(Served::More) => {}
            Some(other) => return other,
            None => return Served::Empty,
        }
    }
    Served::More
}

/// Sends a datagram of `len` bytes from the guest on its flow, as `send` does it.
fn send_datagram(
    flow: &mut Flow<FlowState>,
    now: Timestamp,
    hop_limit: u8,
    len: u32,
    mut send: impl FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<(), DropReason> {
    let from = usize::from(flow.sides[0].pif != Pif::Tap);
    let (FlowKind::Udp(state) | FlowKind::Ping(state)) = &mut flow.state.kind else {
        return Err(DropReason::NoFlow);
    };
    state.touch(now, from, 1);
    state.largest = state.largest.max(len);
    let fd = flow.state.socket.as_fd();
    if hop_limit != 0 && hop_limit != std::mem::replace(&mut state.hop_limit, hop_limit) {
        set_hop_limit(fd, flow.sides[1 - from].endpoint.ip().is_ipv4(), hop_limit);
    }
    past_icmp_error(|| send(fd)).map_err(|errno| match errno {
        Errno::MSGSIZE => DropReason::TooLarge,
        _ => DropReason::SendFailed,
    })
}

/// Sends as `send` does it. An ICMP error to an earlier datagram is reported once and has nothing to do with
/// this one, so it is tried again; the error itself is relayed when its event comes.
fn past_icmp_error(mut send: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    match send() {
        Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) => send(),
        other => other,
    }
}

fn set_hop_limit(fd: BorrowedFd<'_>, v4: bool, hops: u8) {
    let result = if v4 {
        sockopt::set_ip_ttl(fd, hops.into())
    } else {
        sockopt::set_ipv6_unicast_hops(fd, Some(hops))
    };
    if let Err(errno) = result {
        log::debug!("cannot set hop limit {hops}: {errno}");
    }
}

/// What the head of a socket's queue is; `Err` says how to go on without one.
fn next_head<T>(peeked: Result<T, Errno>) -> Result<T, Option<Served>> {
    match peeked {
        Ok(head) => Ok(head),
        // A pending ICMP error was reported and cleared by this call.
        Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::MSGSIZE) => {
            Err(Some(Served::More))
        }
        Err(_) => Err(None),
    }
}

/// Throws away what is at the head of a socket's queue.
fn drop_head(fd: BorrowedFd<'_>) {
    let _ = datagram::drop_one(fd);
}
