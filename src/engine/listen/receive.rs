//! Datagrams on listening sockets: each goes to its flow, a new one if there is none.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use arrayvec::ArrayVec;
use passt_frame::{Errno, ToGuest};

use crate::engine::bypass::{BypassParts, relay};
use crate::engine::core::Core;
use crate::engine::datagrams::{self, Queue, Served};
use crate::engine::listener_id::ListenerId;
use crate::engine::state::FlowKind;
use crate::flow::fwd::{ListenAddr, Rule, is_many};
use crate::flow::groups::KNOWN_BY_BYTES;
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::FlowId;
use crate::limits::DATAGRAMS_PER_TURN;
use crate::sys::copy_buffer::CopyBuffer;
use crate::sys::datagram::{self, Waiting};
use crate::sys::socket;
use crate::wire::DropReason;

/// Of others, that came to the sockets of new flows in a turn: far more than come where nobody floods the port.
const SORTED_PER_TURN: usize = 2 * DATAGRAMS_PER_TURN;

/// Flows that were opened in a turn.
type Opened = ArrayVec<FlowId, { DATAGRAMS_PER_TURN + SORTED_PER_TURN }>;

/// Takes what waits, for one turn.
pub(super) fn serve(
    core: &mut Core,
    mut bypass: Option<&mut BypassParts>,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
    id: ListenerId,
) -> Served {
    let mut opened = Opened::new();
    let served =
        datagrams::drain(|| one(core, bypass.as_deref_mut(), buffer, out, id, &mut opened));
    if !opened.is_empty() {
        sort_out(core, bypass, buffer, out, id, opened, served == Served::Empty);
    }
    served
}

/// Forwards the datagram at the head of the queue.
fn one(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
    listener_id: ListenerId,
    opened: &mut Opened,
) -> Served {
    let Some(listener) = core.listeners.get(listener_id) else { return Served::Empty };
    let (pif, listen, port) = (listener.pif, listener.listen, listener.port);
    let Some(&rule) = core.net.rules(pif).get(listener.rule) else { return Served::Empty };
    let waiting = match datagram::peek(listener.socket.as_fd()) {
        Ok(waiting) => waiting,
        Err(Errno::AGAIN) => return Served::Empty,
        Err(errno) => {
            log::debug!("UDP port {port}: {errno}");
            return Served::More;
        }
    };
    let queue = Queue::Listener(listener_id);
    if let Some(many) = waiting.destination.filter(|&address| is_many(address))
        && ((rule.listen == ListenAddr::Dual && is_others(core, many))
            || is_received_elsewhere(core, listener_id, SocketAddr::new(many, port)))
    {
        return drop_first(core, queue);
    }
    if is_own_broadcast(core, &waiting, port) {
        return refuse(core, queue, DropReason::OwnDatagram);
    }
    let local = match local_address(&waiting, listen, port) {
        Ok(local) => local,
        Err(reason) => return refuse(core, queue, reason),
    };
    let found = find_or_open(core, bypass, (pif, &rule), waiting.source, local);
    let (id, is_new) = match found {
        Ok(found) => found,
        Err(reason) => return refuse(core, queue, reason),
    };
    if is_new {
        let _ = opened.try_push(id);
    }
    pass_on(core, buffer, out, (pif, queue), id)
}

/// Whether `to` is an IPv4 group that others of this host have joined, and the guest has not: a socket of both families hears
/// either all of them or none (`datagram::all_v4_groups`).
fn is_others(core: &Core, to: IpAddr) -> bool {
    to.is_ipv4() && to.is_multicast() && !core.groups.members.has(to)
}

/// Whether what waits was sent to all of a network by the guest itself: the kernel hands it to this host, too. It is
/// known by the socket that it has come from.
fn is_own_broadcast(core: &Core, waiting: &Waiting, port: u16) -> bool {
    let (Some(to), sender) = (waiting.destination, waiting.source) else { return false };
    if !to.is_ipv4() || to.is_multicast() || waiting.own == Some(to) {
        return false;
    }
    let endpoint = Endpoint::new(to, port);
    let of_two = Side { pif: Pif::Host, ours: sender.into(), endpoint };
    let has_sent = core.flows.with_anybody_at(true, sender.port()).is_some()
        || core.flows.find_alike(&of_two).is_some();
    has_sent && socket::is_of_this_host(sender)
}

/// Drops the datagram at the head of a queue, which is counted.
fn refuse(core: &mut Core, queue: Queue, reason: DropReason) -> Served {
    core.refuse(reason);
    drop_first(core, queue)
}

fn drop_first(core: &Core, queue: Queue) -> Served {
    let Some(fd) = queue.fd(&core.listeners, &core.flows) else { return Served::Empty };
    let _ = datagram::drop_one(fd);
    Served::More
}

/// Moves the datagram at the head of `queue`, which is on `pif`, as one of flow `id`.
fn pass_on(
    core: &mut Core,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
    (pif, queue): (Pif, Queue),
    id: FlowId,
) -> Served {
    let Some(flow) = core.flows.table.get(id) else { return Served::Empty };
    if let FlowKind::Relay(_) = flow.state.kind {
        relay::pass_on_first(core, buffer, (pif, queue), id);
        return Served::More;
    }
    datagrams::first_to_guest(core, buffer, out, queue, id)
}

/// Moves what came to the sockets of new flows before those were connected. Their addresses are better ones to the kernel
/// than that of the listening socket, so they get what others send in that moment, who are strangers to the flow
/// (`datagram_socket`), and to the port as welcome as its peer: each gets a flow of its own. What is of the peer itself
/// comes after what it has sent to the listening socket, so it stays where it is unless that `is_empty`; who is behind
/// it then is a stranger still. Others may overtake themselves in that case, as datagrams may.
fn sort_out(
    core: &mut Core,
    mut bypass: Option<&mut BypassParts>,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
    id: ListenerId,
    mut opened: Opened,
    is_empty: bool,
) {
    let Some(listener) = core.listeners.get(id) else { return };
    let (pif, rule) = (listener.pif, listener.rule);
    let Some(&rule) = core.net.rules(pif).get(rule) else { return };
    let mut left = SORTED_PER_TURN;
    while let Some(from) = opened.pop() {
        let queue = Queue::Flow(from);
        while let Some(flow) = core.flows.table.get(from).filter(|_| left > 0) {
            let local = flow.sides[0].ours.with_scope(0);
            let Ok(waiting) = datagram::peek(flow.state.socket.as_fd()) else { break };
            left -= 1;
            let bypass = bypass.as_deref_mut();
            let served = match find_or_open(core, bypass, (pif, &rule), waiting.source, local) {
                Ok((id, _)) if id == from && !is_empty => break,
                Ok((id, is_new)) => {
                    if is_new {
                        let _ = opened.try_push(id);
                    }
                    pass_on(core, buffer, out, (pif, queue), id)
                }
                Err(reason) => refuse(core, queue, reason),
            };
            if served != Served::More {
                break;
            }
        }
    }
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

/// The address of this host that a datagram on a listening socket is for.
fn local_address(
    waiting: &Waiting,
    listen: ListenAddr,
    port: u16,
) -> Result<SocketAddr, DropReason> {
    // What was sent to all of a network is of the flow that its sender has with this host, which answers from an address
    // of its own; a socket bound to that gets no such datagram a second time.
    let address = if waiting.destination.is_some_and(|address| address.is_multicast()) {
        waiting.destination
    } else {
        waiting.own
    };
    let address = match (address, listen) {
        (Some(address), _) => address,
        (None, ListenAddr::V4(v4)) => v4.into(),
        (None, ListenAddr::V6(v6)) => v6.into(),
        (None, ListenAddr::Dual) => return Err(DropReason::ForbiddenAddress),
    };
    Ok(SocketAddr::new(address, port))
}

/// The flow of what `peer` has sent to `local`, and whether it is a new one.
fn find_or_open(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    (pif, rule): (Pif, &Rule),
    peer: SocketAddr,
    local: SocketAddr,
) -> Result<(FlowId, bool), DropReason> {
    if peer == local {
        // A socket that is connected to itself would pass it round for ever.
        return Err(DropReason::OwnDatagram);
    }
    let initiating = Side { pif, ours: local.into(), endpoint: peer.into() };
    if let Some(id) = core.flows.flow_of_peer(&initiating, peer)? {
        return Ok((id, false));
    }
    if let Some(parts) = bypass
        && let Some(side) = parts.side(&core.net, (pif, rule), peer, local)?
    {
        let opened = relay::open(core, parts, rule, initiating, side);
        if opened.is_ok() || !parts.has_lost(side.0) {
            return opened.map(|id| (id, true));
        }
    }
    datagrams::open_inbound(core, rule, peer, local).map(|id| (id, true))
}
