//! UDP and ICMP echo: pseudo-flows, each with a connected host socket. They share everything but the
//! header in front of the payload.
//!
//! From the guest, UDP goes in runs ([`super::udp_run`]), and what it cut into fragments is put together
//! first ([`super::fragments`]). To the guest, UDP goes in bursts ([`super::udp_to_guest`]). Without room,
//! datagrams stay in the socket, whose queue is bounded by the kernel, and the flow waits for the link's
//! word; without a link they are dropped and counted.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use passt_frame::{
    Checksum, Errno, FrameDone, FrameMeta, FromGuestLease, MAX_FRAME_BYTES, Part, Reserve, ToGuest,
    ToGuestLease,
};
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt;

use super::Engine;
use super::datagram_socket::{Opening, open};
use super::outbox::Outbox;
use super::state::{DatagramState, FlowState, Protocol, RelayState};
use crate::flow::fwd::{self, Proto};
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::{Flow, FlowId};
use crate::limits::DATAGRAMS_PER_TURN;
use crate::sys::datagram;
use crate::sys::socket::{self, BindTo, Transport};
use crate::time::Timestamp;
use crate::wire::DropReason;
use crate::wire::build::{HeaderTemplate, L4Checksum};
use crate::wire::eth;
use crate::wire::ip::{IpHead, L4Protocol, max_l4_bytes};
use crate::wire::l4::{self, UDP_HEADER_BYTES};

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

/// What became of the datagrams that waited in a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// None is left.
    Empty,
    /// More may be there; others get their turn first.
    More,
    /// The guest has no room; the rest waits.
    NoRoom,
}

impl Engine {
    /// An echo request from the guest.
    pub(super) fn echo_from_guest(
        &mut self,
        lease: &mut FromGuestLease<'_>,
        index: usize,
        ip: &IpHead,
    ) -> Result<(), DropReason> {
        let echo = l4::parse_echo(ip.l4(lease.frames()[index].head())?);
        let echo = echo.ok_or(DropReason::UnsupportedIcmp)?;
        let v4 = ip.source.is_ipv4();
        if echo.kind != if v4 { l4::ECHO_REQUEST_V4 } else { l4::ECHO_REQUEST_V6 } {
            return Err(DropReason::UnsupportedIcmp);
        }
        let id = self.datagram_flow(Proto::Icmp, ip, (echo.identifier, echo.identifier))?;
        let part = Part { frame: index, offset: ip.l4_offset as u32, len: ip.l4_len };
        self.send_part(lease, id, 0, part, None)
    }

    /// The flow of a datagram from the guest, a new one if there is none.
    pub(super) fn datagram_flow(
        &mut self,
        proto: Proto,
        ip: &IpHead,
        (source_port, destination_port): (u16, u16),
    ) -> Result<FlowId, DropReason> {
        let side = Side {
            pif: Pif::Tap,
            ours: Endpoint::new(ip.destination, destination_port),
            endpoint: Endpoint::new(ip.source, source_port),
        };
        match self.flows.find(ip.protocol, &side) {
            Some(id) => Ok(id),
            None => self.open_datagram_flow(proto, ip.protocol, side),
        }
    }

    fn open_datagram_flow(
        &mut self,
        proto: Proto,
        protocol: L4Protocol,
        side: Side,
    ) -> Result<FlowId, DropReason> {
        self.flows.check_datagram_room(Pif::Tap, self.listeners.len())?;
        let (guest, remote) = (side.endpoint.with_scope(0), side.ours.with_scope(0));
        let addressing = &self.addressing;
        let target = fwd::to_host(&addressing.net, &addressing.map, proto, guest, remote)?;
        let mut destination = target.destination;
        let transport = if proto == Proto::Udp { Transport::Udp } else { Transport::Ping };
        if transport == Transport::Ping {
            destination.set_port(0);
        }
        let device = self.options.outbound_device(destination.ip());
        let mut host = Side {
            pif: Pif::Host,
            ours: target.source.into(),
            endpoint: target.destination.into(),
        };
        let mut source = target.source;
        if transport == Transport::Udp && self.flows.conversation(&host).is_some() {
            // To the kernel, both would be one.
            source.set_port(0);
        }
        let to = BindTo {
            address: source,
            interface: device.filter(|_| !destination.ip().is_loopback()),
            freebind: false,
            dual_stack: false,
        };
        let socket = socket::create(transport, destination.ip()).map_err(|errno| {
            log::debug!("no {transport:?} socket: {errno}");
            if transport == Transport::Ping && !std::mem::replace(&mut self.ping_refused, true) {
                log::warn!(
                    "Cannot open an ICMP echo socket: {errno}: the guest's pings are dropped; allow them with\n  \
                     sysctl -w net.ipv4.ping_group_range=\"0 2147483647\""
                );
            }
            DropReason::SocketFailed
        })?;
        let peer = destination;
        let opening = Opening { transport, to, peer, or_any_port: true, for_link: true };
        let (socket, port) = open(socket, &opening).map_err(|errno| {
            log::debug!("{transport:?} socket from {} to {peer}: {errno}", to.address);
            DropReason::SocketFailed
        })?;
        let state = DatagramState::new(self.now);
        let protocol_state = match transport {
            Transport::Ping => Protocol::Ping(state),
            _ => Protocol::Udp(state),
        };
        host.ours = Endpoint::new(source.ip(), port);
        let flow = FlowState::new(socket, protocol_state);
        self.add_datagram_flow([side, host], protocol, flow)
    }

    /// Adds a flow and starts its timeout.
    pub(super) fn add_datagram_flow(
        &mut self,
        sides: [Side; 2],
        protocol: L4Protocol,
        state: FlowState,
    ) -> Result<FlowId, DropReason> {
        let id = self.flows.add(sides, protocol, state, EventFlags::IN)?;
        log::debug!("{id:?} ({protocol:?}): {} => {}", sides[0], sides[1]);
        self.flows.schedule(id, Some(self.now + UDP_TIMEOUT));
        Ok(id)
    }

    /// An event of a datagram flow's socket, or its turn to go on.
    pub(super) fn serve_datagrams(&mut self, out: &mut dyn ToGuest, id: FlowId) {
        self.relay_errors(out, id);
        let drained = match self.flows.table.get(id).map(|flow| &flow.state.protocol) {
            Some(Protocol::Udp(_)) => self.serve_udp(out, id),
            Some(Protocol::Ping(_)) => self.serve_echo(out, id),
            _ => return,
        };
        match drained {
            Drained::Empty => {}
            Drained::More => self.flows.mark_ready(id),
            Drained::NoRoom => self.flows.mark_starved(id),
        }
    }

    fn serve_echo(&mut self, out: &mut dyn ToGuest, id: FlowId) -> Drained {
        let Some(flow) = self.flows.table.get(id) else { return Drained::Empty };
        let tap = usize::from(flow.sides[0].pif != Pif::Tap);
        let side = flow.sides[tap];
        let Protocol::Ping(state) = &flow.state.protocol else { return Drained::Empty };
        let template = self.addressing.template(&side, flow.state.l4(&flow.sides), 0);
        let (fd, identity) = (flow.state.fd(), (side.endpoint.port(), state.largest));
        let peer = flow.sides[1 - tap].endpoint.ip();
        drain(|| echo_to_guest(&mut self.outbox, out, (fd, peer), &template, identity))
    }

    /// The timer of a datagram flow: ends it if it was silent for long enough.
    pub(super) fn datagram_timer(&mut self, id: FlowId) {
        let Some(flow) = self.flows.table.get(id) else { return };
        let (timeout, state) = match &flow.state.protocol {
            Protocol::Udp(state) | Protocol::Relay(RelayState { datagrams: state, .. }) => {
                (if state.is_stream() { UDP_STREAM_TIMEOUT } else { UDP_TIMEOUT }, state)
            }
            Protocol::Ping(state) => (PING_TIMEOUT, state),
            Protocol::Tcp(_) | Protocol::Splice(_) => return,
        };
        let deadline = state.active + timeout;
        if deadline <= self.now {
            log::debug!("{id:?}: idle, closing");
            self.flows.remove(id);
        } else {
            self.flows.schedule(id, Some(deadline));
        }
    }
}

/// Calls `one` until the socket is empty, the guest has no room or the turn is over.
pub(super) fn drain(mut one: impl FnMut() -> Option<Drained>) -> Drained {
    for _ in 0..DATAGRAMS_PER_TURN {
        match one() {
            Some(Drained::More) => {}
            Some(other) => return other,
            None => return Drained::Empty,
        }
    }
    Drained::More
}

/// Sends a datagram of `len` bytes from the guest on its flow, as `send` does it.
pub(super) fn send_datagram(
    flow: &mut Flow<FlowState>,
    now: Timestamp,
    hop_limit: u8,
    len: u32,
    mut send: impl FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<(), DropReason> {
    let from = usize::from(flow.sides[0].pif != Pif::Tap);
    let (Protocol::Udp(state) | Protocol::Ping(state)) = &mut flow.state.protocol else {
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
pub(super) fn past_icmp_error(mut send: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
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
pub(super) fn next_head<T>(peeked: Result<T, Errno>) -> Result<T, Option<Drained>> {
    match peeked {
        Ok(head) => Ok(head),
        // A pending ICMP error was reported and cleared by this call.
        Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::MSGSIZE) => {
            Err(Some(Drained::More))
        }
        Err(_) => Err(None),
    }
}

/// Throws away what is at the head of a socket's queue.
pub(super) fn drop_head(fd: BorrowedFd<'_>) {
    let _ = datagram::drop_one(fd);
}

/// Room for a datagram with `len` bytes behind its L4 header. Without, either the datagram was
/// dropped (`More`) or it stays in the socket (`NoRoom`).
fn room_for<'a>(
    outbox: &'a mut Outbox,
    out: &'a mut dyn ToGuest,
    fd: BorrowedFd<'_>,
    template: &HeaderTemplate,
    len: u32,
) -> Result<ToGuestLease<'a>, Drained> {
    let mut drop_one = |reason| {
        outbox.drops.count(reason);
        drop_head(fd);
        Drained::More
    };
    if !out.caps().up {
        return Err(drop_one(DropReason::LinkDown));
    }
    if len > template.max_l4_bytes() - UDP_HEADER_BYTES {
        return Err(drop_one(DropReason::TooLarge));
    }
    let header_len = template.l3_bytes() as u32 + UDP_HEADER_BYTES;
    let request = Reserve { header_len, segment: len, bytes: len };
    let lease = ToGuestLease::reserve(out, &mut outbox.list, request).ok_or(Drained::NoRoom)?;
    if lease.frame_room(0) < len {
        // A guest without mergeable buffers whose buffers are too small: it will never fit.
        outbox.drops.count(DropReason::TooLarge);
        drop_head(fd);
        return Err(Drained::More);
    }
    Ok(lease)
}

/// How to finish the checksum at `field` bytes into the L4 header, whose payload was received.
fn checksum(
    lease: &ToGuestLease<'_>,
    template: &HeaderTemplate,
    len: u32,
    field: u16,
) -> (L4Checksum, FrameMeta) {
    if lease.caps().partial_checksum {
        let start = template.l3_bytes() as u16;
        let checksum = Checksum::Partial { start, offset: field };
        (L4Checksum::Partial, FrameMeta { checksum, gso: None })
    } else {
        let payload_sum = lease.payload_sum(0, len).folded();
        (L4Checksum::Complete { payload_sum }, FrameMeta::default())
    }
}

/// Moves one echo reply of `peer` to the guest, with the guest's identifier and at most as long as its
/// largest request; `None` when there is none.
fn echo_to_guest(
    outbox: &mut Outbox,
    out: &mut dyn ToGuest,
    (fd, peer): (BorrowedFd<'_>, IpAddr),
    template: &HeaderTemplate,
    (identifier, largest): (u16, u32),
) -> Option<Drained> {
    let mut head = [0; UDP_HEADER_BYTES as usize];
    let (peeked, source) = match next_head(datagram::peek_bytes(fd, &mut head)) {
        Ok(peeked) => peeked,
        Err(next) => return next,
    };
    if source.is_none_or(|source| source.ip() != peer) {
        outbox.drops.count(DropReason::ForeignDatagram);
        drop_head(fd);
        return Some(Drained::More);
    }
    let reply = if template.is_v4() { l4::ECHO_REPLY_V4 } else { l4::ECHO_REPLY_V6 };
    if l4::parse_echo(&head).is_none_or(|echo| echo.kind != reply) || peeked < UDP_HEADER_BYTES {
        outbox.drops.count(DropReason::UnsupportedIcmp);
        drop_head(fd);
        return Some(Drained::More);
    }
    let len = largest.saturating_sub(UDP_HEADER_BYTES);
    let mut lease = match room_for(outbox, out, fd, template, len) {
        Ok(lease) => lease,
        Err(next) => return Some(next),
    };
    let received = lease.recv_datagram(fd, UDP_HEADER_BYTES).ok()?.min(len);
    let (checksum, meta) = checksum(&lease, template, received, 2);
    head[4..6].copy_from_slice(&identifier.to_be_bytes());
    lease.put_header(0, &template.echo(&mut head, received, checksum));
    lease.commit(&[FrameDone { payload_len: received, meta }]);
    Some(Drained::More)
}
