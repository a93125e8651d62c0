//! Datagrams on listening sockets: each goes to its flow, a new one if there is none.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use passt_frame::{Errno, ToGuest};

use crate::engine::bypass::{BypassParts, relay};
use crate::engine::core::Core;
use crate::engine::datagrams::{self, Served};
use crate::engine::listener_id::ListenerId;
use crate::engine::state::FlowKind;
use crate::flow::fwd::{ListenAddr, Rule, is_many};
use crate::flow::groups::KNOWN_BY_BYTES;
use crate::flow::side::{Pif, Side};
use crate::flow::table::FlowId;
use crate::sys::copy_buffer::CopyBuffer;
use crate::sys::datagram::{self, Waiting};
use crate::wire::DropReason;

/// Takes what waits, for one turn.
pub(super) fn serve(
    core: &mut Core,
    mut bypass: Option<&mut BypassParts>,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
    id: ListenerId,
) -> Served {
    datagrams::drain(|| one(core, bypass.as_deref_mut(), buffer, out, id))
}

/// Forwards the datagram at the head of the queue.
fn one(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
    listener_id: ListenerId,
) -> Option<Served> {
    let listener = core.listeners.get(listener_id)?;
    let (pif, port) = (listener.pif, listener.port);
    let rule = *core.net.rules(pif).get(listener.rule)?;
    let waiting = match datagram::peek(listener.socket.as_fd()) {
        Ok(waiting) => waiting,
        Err(Errno::AGAIN) => return None,
        Err(errno) => {
            log::debug!("UDP port {port}: {errno}");
            return Some(Served::More);
        }
    };
    if let Some(many) = waiting.destination.filter(|&address| is_many(address))
        && is_received_elsewhere(core, listener_id, SocketAddr::new(many, port))
    {
        let fd = core.listeners.get(listener_id)?.socket.as_fd();
        let _ = datagram::drop_one(fd);
        return Some(Served::More);
    }
    let id = match find_or_open(core, bypass, (pif, &rule), &waiting, port) {
        Ok(id) => id,
        Err(reason) => {
            core.refuse(reason);
            let fd = core.listeners.get(listener_id)?.socket.as_fd();
            let _ = datagram::drop_one(fd);
            return Some(Served::More);
        }
    };
    if let FlowKind::Relay(_) = core.flows.table.get(id)?.state.kind {
        relay::pass_on_first(core, buffer, listener_id, id);
        return Some(Served::More);
    }
    datagrams::first_to_guest(core, buffer, out, listener_id, id)
}

/// Whether what waits for many is not for this listening socket: one that receives for the group has it, too, or it is
/// the guest's own.
fn is_received_elsewhere(core: &mut Core, id: ListenerId, many: SocketAddr) -> bool {
    if core.groups.receiver(many.ip(), many.port()).is_some() {
        return true;
    }
    let Some(listener) = core.listeners.get(id) else { return false };
    let mut start = [0; KNOWN_BY_BYTES];
    let Ok((len, sender)) = datagram::peek_bytes(listener.socket.as_fd(), &mut start) else {
        return false;
    };
    let start = &start[..start.len().min(len as usize)];
    let own = &mut core.groups.own;
    let back = datagrams::takes_back(own, (sender, many), (start, len), core.now);
    if back {
        core.outbox.drops.count(DropReason::OwnDatagram);
    }
    back
}

/// The flow of a datagram, a new one if there is none.
fn find_or_open(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    (pif, rule): (Pif, &Rule),
    waiting: &Waiting,
    port: u16,
) -> Result<FlowId, DropReason> {
    let peer = waiting.source;
    let local = match (waiting.destination, rule.listen) {
        (Some(address), _) => SocketAddr::new(address, port),
        (None, ListenAddr::V4(v4)) => SocketAddr::new(v4.into(), port),
        (None, ListenAddr::V6(v6)) => SocketAddr::new(v6.into(), port),
        (None, ListenAddr::Dual) => return Err(DropReason::ForbiddenAddress),
    };
    let initiating = Side { pif, ours: local.into(), endpoint: peer.into() };
    if let Some(id) = core.flows.flow_of_peer(&initiating, peer)? {
        return Ok(id);
    }
    if let Some(parts) = bypass
        && let Some(side) = parts.side(&core.net, (pif, rule), peer, local)?
    {
        return relay::open(core, parts, rule, initiating, side);
    }
    datagrams::open_inbound(core, rule, peer, local)
}
