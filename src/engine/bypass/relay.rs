//! Relayed UDP: pseudo-flows between two connected sockets, one on the host and one in the guest's
//! namespace. Datagrams move in batches, a system call each way for up to 16 of them, or of bursts that were sent as such
//! (`UDP_GRO`, `UDP_SEGMENT`, udp(7)); timeouts are those of all UDP flows. Errors are not passed on: who sends to a
//! closed port hears nothing.
//!
//! Both sockets have the large buffers of all flows of UDP: a burst is as long as its sender wants, and while this
//! process does not run nobody else takes it. Memory is what waits, not what may: a relay never keeps anything, since what the
//! other socket does not take is lost, as on the way without it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_frame::Errno;

use super::{BypassParts, open_logged, socket_on, target_side};
use crate::engine::core::Core;
use crate::engine::datagram_socket::{Beside, SocketSpec, Strangers, connected};
use crate::engine::datagrams::{self, Queue, may_be_of_the_past};
use crate::engine::listeners::Listeners;
use crate::engine::outbox::Outbox;
use crate::engine::state::{DatagramState, FlowKind, FlowState, RelayState};
use crate::flow::fwd::{Rule, SpliceSide};
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::splice::End;
use crate::flow::table::FlowId;
use crate::limits::{DATAGRAM_BATCH, DATAGRAMS_PER_TURN};
use crate::sys::copy_buffer::{CopyBuffer, Keep};
use crate::sys::socket::{BindTo, Transport};
use crate::wire::DropReason;
use crate::wire::ip::L4Protocol;

/// Opens a flow for a datagram of `initiating`, which came in on a socket of `rule`.
pub(in crate::engine) fn open(
    core: &mut Core,
    bypass: &mut BypassParts,
    rule: &Rule,
    initiating: Side,
    (to, side): (Pif, SpliceSide),
) -> Result<FlowId, DropReason> {
    core.make_datagram_room(initiating.pif, 2)?;
    let mut sides = [initiating, target_side(to, &side)];
    let mut source = side.source;
    if core.flows.find_alike(&sides[1]).is_some() {
        // Another peer has the same port.
        source.set_port(0);
    }
    let (local, peer) = (initiating.ours.with_scope(0), initiating.endpoint.with_scope(0));
    let interface = rule.interface.as_ref().map(|name| name.as_str());
    let freebind = core.settings.freebind;
    let listeners = &core.listeners;
    let mut socket = |pif, from, to, or_any_port| {
        let on = (pif, freebind && pif == Pif::Host, listeners);
        socket_between(bypass, on, from, to, or_any_port)
    };
    let open = || -> Result<(OwnedFd, (OwnedFd, u16)), Errno> {
        let (first, _) = socket(initiating.pif, (local, interface), peer, false)?;
        Ok((first, socket(to, (source, None), side.destination, true)?))
    };
    let (first, (target, port)) = open_logged(open, &sides)?;
    sides[1].ours = Endpoint::new(source.ip(), port);
    let mut state = DatagramState::new(core.now);
    state.questions = datagrams::is_question(side.destination.port());
    let relay = RelayState {
        datagrams: state,
        target,
        readable: [false; 2],
        strangers: [Strangers::new(core.now); 2],
    };
    let state = FlowState::new(first, core.net.epoch(), core.now, FlowKind::Relay(relay));
    datagrams::add(core, sides, L4Protocol::Udp, state)
}

/// A UDP socket on `pif`, bound and connected. Its port may be one that `listeners` have.
fn socket_between(
    bypass: &mut BypassParts,
    (pif, freebind, listeners): (Pif, bool, &Listeners),
    (address, interface): (SocketAddr, Option<&str>),
    peer: SocketAddr,
    or_any_port: bool,
) -> Result<(OwnedFd, u16), Errno> {
    let transport = Transport::Udp;
    let to = BindTo { freebind, ..BindTo::to(address).on(interface) };
    let mut create = || socket_on(Some(&mut *bypass), pif, transport, peer);
    let socket = create()?;
    let spec = SocketSpec {
        transport,
        to,
        peer,
        or_any_port,
        beside: Beside { flow: None, listeners: Some((listeners, pif)) },
        for_link: false,
        may_broadcast: false,
    };
    connected(socket, create, &spec).map(|opened| (opened.socket, opened.port))
}

/// Passes the datagram at the head of `queue`, which is on `pif`, on to the other end of flow `id`.
pub(in crate::engine) fn pass_on_first(
    core: &mut Core,
    buffer: &mut CopyBuffer,
    (pif, queue): (Pif, Queue),
    id: FlowId,
) {
    let Some(fd) = queue.fd(&core.listeners, &core.flows) else { return };
    let received = buffer.receive(fd, 1, Keep::All);
    let received = received.inspect_err(|errno| core.outbox.refused.note("recvmmsg", *errno));
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    // The one who sends may also be whom the flow was opened to.
    let from = if flow.sides[0].pif == pif { End::Initiator } else { End::Target };
    let initiator = flow.state.socket.as_fd();
    let FlowKind::Relay(relay) = &mut flow.state.kind else { return };
    if received.is_ok() {
        relay.datagrams.touch(core.now, from.index(), datagrams_in(buffer));
        relay.datagrams.bytes[from.index()] += bytes_in(buffer);
        let to = if from == End::Initiator { relay.target.as_fd() } else { initiator };
        send_all(buffer, to, 1, &mut core.outbox);
    }
}

/// An event of one of the two sockets.
pub(in crate::engine) fn on_event(core: &mut Core, id: FlowId, end: End) {
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    if let FlowKind::Relay(relay) = &mut flow.state.kind {
        relay.readable[end.index()] = true;
        core.flows.mark_ready(id);
    }
}

/// Moves what waits, for one turn.
pub(in crate::engine) fn serve(core: &mut Core, buffer: &mut CopyBuffer, id: FlowId) {
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    let peers = flow.sides.map(|side| side.endpoint);
    let initiator = flow.state.socket.as_fd();
    let FlowKind::Relay(relay) = &mut flow.state.kind else { return };
    let sockets = [initiator, relay.target.as_fd()];
    for from in End::BOTH {
        let (index, other) = (from.index(), from.other().index());
        for _ in 0..DATAGRAMS_PER_TURN / DATAGRAM_BATCH {
            if !relay.readable[index] {
                break;
            }
            let peer = relay.strangers[index].allow_only(peers[index]);
            let keep = peer.map_or(Keep::All, Keep::Of);
            match buffer.receive(sockets[index], DATAGRAM_BATCH, keep) {
                Ok(received) => {
                    let kept = buffer.bursts().len();
                    let strange = (received - kept) as u64;
                    core.outbox.drops.add(DropReason::ForeignDatagram, strange);
                    if kept > 0 {
                        relay.datagrams.touch(core.now, index, datagrams_in(buffer));
                        relay.datagrams.bytes[index] += bytes_in(buffer);
                    }
                    send_all(buffer, sockets[other], kept, &mut core.outbox);
                }
                Err(Errno::AGAIN) => {
                    relay.readable[index] = false;
                    relay.strangers[index].on_empty(core.now);
                }
                // An ICMP error to an earlier datagram, which this call has cleared.
                Err(errno) if may_be_of_the_past(errno) => {}
                Err(errno) => {
                    log::debug!("{id:?} (UDP flow): {errno}");
                    core.outbox.refused.note("recvmmsg", errno);
                    relay.readable[index] = false;
                }
            }
        }
    }
    if relay.readable != [false; 2] {
        core.flows.mark_unfinished(id);
    }
    core.flows.note_answer(id, core.now);
}

/// Bytes of all datagrams in a buffer.
fn bytes_in(buffer: &CopyBuffer) -> u64 {
    buffer.bursts().iter().map(|burst| u64::from(burst.len)).sum()
}

/// How many datagrams there are in a buffer.
fn datagrams_in(buffer: &CopyBuffer) -> usize {
    buffer.bursts().iter().map(|burst| burst.datagrams() as usize).sum()
}

/// Sends the first `count` datagrams or bursts of a buffer. What the socket does not take is dropped and counted.
fn send_all(buffer: &mut CopyBuffer, to: BorrowedFd<'_>, count: usize, outbox: &mut Outbox) {
    let (mut done, mut retried) = (0, false);
    while done < count {
        match buffer.send(to, done) {
            Ok(0) => return,
            Ok(sent) => done += sent,
            // The error of an earlier datagram, reported once: it has nothing to do with this one.
            Err(errno) if may_be_of_the_past(errno) && !retried => retried = true,
            // A loopback device may have a smaller MTU than the other one.
            Err(errno) => {
                outbox.refused.note("sendmmsg", errno);
                let unsent = match buffer.bursts()[done].segment {
                    Some(_) => buffer.send_apart(to, done),
                    None => 1,
                };
                outbox.drops.add(DropReason::SendFailed, unsent as u64);
                (done, retried) = (done + 1, false);
            }
        }
    }
}
