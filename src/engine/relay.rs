//! Relayed UDP: pseudo-flows between two connected sockets, one on the host and one in the guest's
//! namespace. Datagrams move in batches, a system call each way for up to 16 of them; timeouts are
//! those of all UDP flows. Errors are not passed on: who sends to a closed port hears nothing.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_frame::Errno;

use super::Engine;
use super::bypass::{open_logged, target_side};
use super::datagram_socket::{Opening, Strangers, open};
use super::datagrams::Drained;
use super::outbox::Outbox;
use super::state::{DatagramState, FlowState, Protocol, RelayState};
use crate::flow::fwd::{Rule, SpliceSide};
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::splice::End;
use crate::flow::table::FlowId;
use crate::limits::{DATAGRAM_BATCH, DATAGRAMS_PER_TURN};
use crate::sys::batch::Batch;
use crate::sys::socket::{BindTo, Transport};
use crate::wire::DropReason;
use crate::wire::ip::L4Protocol;

impl Engine {
    /// Opens a flow for a datagram of `initiating`, which came in on a socket of `rule`.
    pub(super) fn open_relay(
        &mut self,
        rule: &Rule,
        initiating: Side,
        (to, side): (Pif, SpliceSide),
    ) -> Result<FlowId, DropReason> {
        self.flows.check_datagram_room(initiating.pif, self.listeners.len() + 1)?;
        let mut sides = [initiating, target_side(to, &side)];
        let mut source = side.source;
        if self.flows.conversation(&sides[1]).is_some() {
            // Another peer has the same port.
            source.set_port(0);
        }
        let (local, peer) = (initiating.ours.with_scope(0), initiating.endpoint.with_scope(0));
        let interface = rule.interface.as_ref().map(|name| name.as_str());
        let open = || -> Result<(OwnedFd, (OwnedFd, u16)), Errno> {
            let (first, _) = self.connected(initiating.pif, (local, interface), peer, false)?;
            Ok((first, self.connected(to, (source, None), side.destination, true)?))
        };
        let (first, (target, port)) = open_logged(open, &sides)?;
        sides[1].ours = Endpoint::new(source.ip(), port);
        let datagrams = DatagramState::new(self.now);
        let strangers = [Strangers::new(self.now); 2];
        let relay = RelayState { datagrams, target, readable: [false; 2], strangers };
        let state = FlowState::new(first, Protocol::Relay(relay));
        self.add_datagram_flow(sides, L4Protocol::Udp, state)
    }

    /// A UDP socket on `pif`, bound and connected.
    fn connected(
        &mut self,
        pif: Pif,
        (address, interface): (SocketAddr, Option<&str>),
        peer: SocketAddr,
        or_any_port: bool,
    ) -> Result<(OwnedFd, u16), Errno> {
        let freebind = self.options.freebind && pif == Pif::Host;
        let transport = Transport::Udp;
        let to = BindTo { address, interface, freebind, dual_stack: false };
        let socket = self.socket_on(pif, transport, peer)?;
        open(socket, &Opening { transport, to, peer, or_any_port, for_link: false })
    }

    /// Passes the datagram at the head of a listening socket's queue on to the other end of its flow.
    pub(super) fn relay_from_listener(&mut self, index: usize, id: FlowId) -> Option<Drained> {
        let listener = self.listeners.get(index)?;
        let parts = self.bypass.as_mut()?;
        let flow = self.flows.table.get_mut(id)?;
        // The one who sends may also be whom the flow was opened to.
        let from = if flow.sides[0].pif == listener.pif { End::Initiator } else { End::Target };
        let initiator = flow.state.socket.as_fd();
        let Protocol::Relay(relay) = &mut flow.state.protocol else { return None };
        if parts.batch.receive(listener.socket.as_fd(), 1, None).is_ok() {
            relay.datagrams.touch(self.now, from.index(), 1);
            let to = if from == End::Initiator { relay.target.as_fd() } else { initiator };
            send_all(&mut parts.batch, to, 1, &mut self.outbox);
        }
        Some(Drained::More)
    }

    /// An event of one of the two sockets.
    pub(super) fn relay_event(&mut self, id: FlowId, end: End) {
        let Some(flow) = self.flows.table.get_mut(id) else { return };
        if let Protocol::Relay(relay) = &mut flow.state.protocol {
            relay.readable[end.index()] = true;
            self.flows.mark_ready(id);
        }
    }

    /// Moves what waits, for one turn.
    pub(super) fn serve_relay(&mut self, id: FlowId) {
        let (Some(flow), Some(parts)) = (self.flows.table.get_mut(id), &mut self.bypass) else {
            return;
        };
        let peers = flow.sides.map(|side| side.endpoint);
        let initiator = flow.state.socket.as_fd();
        let Protocol::Relay(relay) = &mut flow.state.protocol else { return };
        let sockets = [initiator, relay.target.as_fd()];
        for from in End::BOTH {
            let (index, other) = (from.index(), from.other().index());
            for _ in 0..DATAGRAMS_PER_TURN / DATAGRAM_BATCH {
                if !relay.readable[index] {
                    break;
                }
                let peer = relay.strangers[index].allow_only(peers[index]);
                match parts.batch.receive(sockets[index], DATAGRAM_BATCH, peer) {
                    Ok(received) => {
                        let kept = parts.batch.bursts().len();
                        let strange = (received - kept) as u64;
                        self.outbox.drops.add(DropReason::ForeignDatagram, strange);
                        if kept > 0 {
                            relay.datagrams.touch(self.now, index, kept);
                        }
                        send_all(&mut parts.batch, sockets[other], kept, &mut self.outbox);
                    }
                    Err(Errno::AGAIN) => {
                        relay.readable[index] = false;
                        relay.strangers[index].on_empty(self.now);
                    }
                    // An ICMP error to an earlier datagram, which this call has cleared.
                    Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) => {}
                    Err(errno) => {
                        log::debug!("{id:?} (UDP, spliced): {errno}");
                        relay.readable[index] = false;
                    }
                }
            }
        }
        if relay.readable != [false; 2] {
            self.flows.mark_ready(id);
        }
    }
}

/// Sends the datagrams of a batch. What the socket does not take is dropped and counted.
fn send_all(batch: &mut Batch, to: BorrowedFd<'_>, count: usize, outbox: &mut Outbox) {
    let (mut done, mut retried) = (0, false);
    while done < count {
        match batch.send(to, done) {
            Ok(0) => return,
            Ok(sent) => done += sent,
            // The error of an earlier datagram, reported once: it has nothing to do with this one.
            Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) if !retried => {
                retried = true;
            }
            Err(_) => {
                outbox.drops.count(DropReason::SendFailed);
                (done, retried) = (done + 1, false);
            }
        }
    }
}
