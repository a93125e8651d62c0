//! TCP: does what the machine of [`flow::tcp`](crate::flow::tcp) decides, with the flow's socket and
//! the guest's buffers.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use arrayvec::ArrayVec;
use passt_frame::{Errno, FromGuestLease, MAX_FRAMES, Part, ToGuest};
use rustix::event::epoll::EventFlags;
use rustix::net as rnet;

use super::Engine;
use super::listen::Arrival;
use super::state::{FlowState, Nagle, PeekOffset, Place, Protocol, TcpState};
use crate::flow::fwd::{self, ListenAddr, Proto, Rule};
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::FlowId;
use crate::flow::tcp::{
    Action, Conn, Fill, Flags, Header, Opening, SocketEvent, our_mss, reset_for,
};
use crate::limits::{ACTIONS_PER_TURN, PLACE_HELD};
use crate::sys::errno_text;
use crate::sys::socket::{self, Transport};
use crate::sys::stream;
use crate::time::Timestamp;
use crate::wire::build::L4Checksum;
use crate::wire::ip::{IpHead, L4Protocol};
use crate::wire::l4::TcpHead;
use crate::wire::{DropReason, SeqNr};

/// All events of a TCP socket. `OUT` is reported when a connection is up, and after
/// [`Action::WatchWritable`]: the kernel reports it only to those who wait.
const EVENTS: EventFlags = EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP);

/// Consecutive segments of one flow whose payload is written with one system call.
#[derive(Default)]
pub(super) struct Run {
    flow: Option<(FlowId, Side)>,
    parts: ArrayVec<Part, MAX_FRAMES>,
    bytes: u32,
}

impl Engine {
    /// A TCP segment from the guest.
    pub(super) fn tcp_from_guest(
        &mut self,
        lease: &mut FromGuestLease<'_>,
        index: usize,
        ip: &IpHead,
        run: &mut Run,
        out: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        let head = ip.tcp(lease.frames()[index].head())?;
        let side = Side {
            pif: Pif::Tap,
            ours: Endpoint::new(ip.destination, head.destination_port),
            endpoint: Endpoint::new(ip.source, head.source_port),
        };
        let id = match run.flow {
            Some((id, current)) if current == side => id,
            _ => {
                self.finish_run(lease, run);
                match self.flows.find(L4Protocol::Tcp, &side) {
                    Some(id) => id,
                    None => return self.segment_without_flow(side, ip, &head, out),
                }
            }
        };
        run.flow = Some((id, side));
        let now = self.now;
        let tcp = self.tcp_mut(id).ok_or(DropReason::NoFlow)?;
        let accept = tcp.conn.on_segment(now, &head.segment);
        self.flows.mark_ready(id);
        if let Some(reason) = accept.dropped {
            log::trace!("{id:?}: segment from guest not used: {reason}");
        }
        if accept.len > 0 {
            let offset = ip.l4_offset as u32 + head.header_len + accept.skip;
            run.parts.push(Part { frame: index, offset, len: accept.len });
            run.bytes += accept.len;
        }
        Ok(())
    }

    /// Writes the payload of a run to its socket.
    pub(super) fn finish_run(&mut self, lease: &mut FromGuestLease<'_>, run: &mut Run) {
        let Some((id, _)) = run.flow.take() else { return };
        let offered = std::mem::take(&mut run.bytes);
        let parts = std::mem::take(&mut run.parts);
        if offered == 0 {
            return;
        }
        let now = self.now;
        let Some(flow) = self.flows.table.get_mut(id) else { return };
        let Protocol::Tcp(tcp) = &mut flow.state.protocol else { return };
        let socket = flow.state.socket.as_fd();
        tcp.nagle.before_write(socket);
        let written = lease.send_stream(socket, &parts);
        let taken = written.unwrap_or(0);
        tcp.conn.on_written(now, taken);
        match written {
            Ok(_) | Err(Errno::AGAIN) if taken < offered => {
                self.outbox.drops.count(DropReason::SocketFull);
            }
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(errno) => {
                log::debug!("{id:?} (TCP connection): write: {errno}");
                tcp.conn.on_socket(now, SocketEvent::Failed);
            }
        }
    }

    /// A segment that belongs to no flow: a new connection, or a reset in answer (RFC 9293, 3.10.7.1).
    fn segment_without_flow(
        &mut self,
        side: Side,
        ip: &IpHead,
        head: &TcpHead,
        out: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        let flags = head.segment.flags;
        if flags.contains(Flags::RST) {
            return Err(DropReason::NoFlow);
        }
        if flags.contains(Flags::SYN) && !flags.contains(Flags::ACK) {
            return match self.open_tcp(out, side, head) {
                Err(DropReason::SocketFailed) => {
                    self.refuse(out, &side, ip, head);
                    Err(DropReason::SocketFailed)
                }
                other => other,
            };
        }
        self.refuse(out, &side, ip, head);
        Err(DropReason::NoFlow)
    }

    /// Answers a segment with a reset.
    fn refuse(&mut self, out: &mut dyn ToGuest, side: &Side, ip: &IpHead, head: &TcpHead) {
        let Some(header) = reset_for(&head.segment) else { return };
        let template = self.addressing.template(side, L4Protocol::Tcp, ip.flow_label);
        let checksum = L4Checksum::Complete { payload_sum: 0 };
        self.outbox.send(out, &template.tcp(&header, 0, checksum), &[]);
    }

    /// The guest opens a connection: connects a host socket.
    fn open_tcp(
        &mut self,
        out: &mut dyn ToGuest,
        side: Side,
        head: &TcpHead,
    ) -> Result<(), DropReason> {
        self.flows.check_room(self.listeners.len())?;
        let (guest, remote) = (side.endpoint.with_scope(0), side.ours.with_scope(0));
        let (net, map) = (&self.addressing.net, &self.addressing.map);
        let target = fwd::to_host(net, map, Proto::Tcp, guest, remote)?;
        let failed = |errno: Errno| {
            log::debug!("TCP connection from {guest} to {}: {errno}", target.destination);
            match errno {
                Errno::MFILE | Errno::NFILE => DropReason::DescriptorsExhausted,
                _ => DropReason::SocketFailed,
            }
        };
        let device = self.options.outbound_device(target.destination.ip());
        let socket = outbound_socket(target.source, device).map_err(failed)?;
        let connected = socket::connect(socket.as_fd(), target.destination).map_err(failed)?;
        let host = Side {
            pif: Pif::Host,
            ours: target.source.into(),
            endpoint: target.destination.into(),
        };
        let sides = [side, host];
        let opening = self.opening(&sides, guest.is_ipv4());
        let mut conn = Conn::outbound(self.now, &self.options.tcp, &head.segment, opening);
        if connected {
            conn.on_socket(self.now, SocketEvent::Connected);
        }
        let offset = self.peek_offset(target.source.is_ipv4());
        let mut state = TcpState::new(conn, offset, Nagle::Unwritten);
        state.connecting = !connected;
        self.add_tcp(out, socket, sides, state)?;
        Ok(())
    }

    /// A listening socket has accepted a connection to `local`: opens one to the guest.
    pub(super) fn accepted(
        &mut self,
        out: &mut dyn ToGuest,
        arrival: Arrival,
        local: SocketAddr,
        rule: &Rule,
    ) {
        let Arrival { socket, peer, listener, .. } = arrival;
        let opened = self.inbound_sides(rule, peer, local).and_then(|sides| {
            if self.flows.find(L4Protocol::Tcp, &sides[1]).is_some() {
                // The peer uses a port again whose connection the guest has not closed yet.
                return Err(DropReason::SocketFailed);
            }
            Ok(sides)
        });
        let sides = match opened {
            Ok(sides) => sides,
            Err(reason) => {
                self.outbox.drops.count(reason);
                let _ = stream::reset_on_close(socket.as_fd());
                return;
            }
        };
        let opening = self.opening(&sides, sides[1].ours.ip().is_ipv4());
        let conn = Conn::inbound(self.now, &self.options.tcp, opening);
        let v4 = matches!(rule.listen, ListenAddr::V4(_));
        let state = TcpState::new(conn, self.peek_offset(v4), Nagle::Off);
        match self.add_tcp(out, socket, sides, state) {
            Ok(id) => {
                if let Some(tcp) = self.tcp_mut(id) {
                    tcp.place = Some(Place { listener, since: None });
                    self.listeners.take_place(listener);
                }
            }
            Err(reason) => self.outbox.drops.count(reason),
        }
    }

    /// What is chosen for a new connection. The initial sequence number is a clock of 4 µs plus a
    /// keyed hash of the addresses (RFC 6528).
    fn opening(&self, sides: &[Side; 2], v4: bool) -> Opening {
        let clock = (self.now.as_micros() / 4) as u32;
        let hash = self.flows.index.hash(sides) as u32;
        let ip_header_len = if v4 { 20 } else { 40 };
        let mtu = if self.addressing.net.mtu == 0 { 1500 } else { self.addressing.net.mtu };
        Opening {
            isn: SeqNr(hash.wrapping_add(clock)),
            our_mss: our_mss(mtu, ip_header_len),
            max_segment: u16::MAX - ip_header_len - 20,
        }
    }

    /// Where a new socket of a family peeks.
    fn peek_offset(&self, v4: bool) -> PeekOffset {
        let supported = if v4 { self.options.peek_offset_v4 } else { self.options.peek_offset_v6 };
        if supported { PeekOffset::Unset } else { PeekOffset::Unsupported }
    }

    fn add_tcp(
        &mut self,
        out: &mut dyn ToGuest,
        socket: OwnedFd,
        sides: [Side; 2],
        state: TcpState,
    ) -> Result<FlowId, DropReason> {
        let state = FlowState::new(socket, Protocol::Tcp(state));
        let id = self.flows.add(sides, L4Protocol::Tcp, state, EVENTS)?;
        log::debug!("{id:?} (TCP connection): {} => {}", sides[0], sides[1]);
        self.flows.mark_ready(id);
        if let Some(oldest) = self.flows.begin_handshake(id, self.listeners.len()) {
            self.outbox.drops.count(DropReason::HalfOpenEvicted);
            self.evict(out, oldest);
        }
        Ok(id)
    }

    /// Ends a half-open flow at once, so that its descriptor is free for the next. The guest is told
    /// if it has room.
    fn evict(&mut self, out: &mut dyn ToGuest, id: FlowId) {
        if let Some(tcp) = self.tcp_mut(id) {
            tcp.conn.abort();
            self.drive_tcp(out, id);
        }
        if self.flows.table.get(id).is_some() {
            self.close_tcp(id, true);
        }
    }

    /// An event of a TCP flow's socket.
    pub(super) fn tcp_event(&mut self, id: FlowId, events: EventFlags) {
        let now = self.now;
        let Some(flow) = self.flows.table.get_mut(id) else { return };
        let Protocol::Tcp(tcp) = &mut flow.state.protocol else { return };
        let has = |flag| events.contains(flag);
        if has(EventFlags::ERR) {
            tcp.conn.on_socket(now, SocketEvent::Failed);
        } else if tcp.connecting {
            if has(EventFlags::HUP) {
                tcp.conn.on_socket(now, SocketEvent::HungUp);
            } else if has(EventFlags::OUT) {
                tcp.connecting = false;
                tcp.conn.on_socket(now, SocketEvent::Connected);
            }
        } else if has(EventFlags::OUT) {
            tcp.conn.on_socket(now, SocketEvent::Writable);
        }
        if !tcp.connecting {
            if has(EventFlags::IN) {
                tcp.conn.on_socket(now, SocketEvent::Readable);
            }
            if has(EventFlags::RDHUP) {
                tcp.conn.on_socket(now, SocketEvent::PeerClosed);
            }
            if has(EventFlags::HUP) {
                tcp.conn.on_socket(now, SocketEvent::HungUp);
            }
        }
        self.flows.mark_ready(id);
    }

    /// Does what the machine wants done, for one turn.
    pub(super) fn drive_tcp(&mut self, out: &mut dyn ToGuest, id: FlowId) {
        let now = self.now;
        for _ in 0..ACTIONS_PER_TURN {
            let Some(tcp) = self.tcp_mut(id) else { return };
            let Some(action) = tcp.conn.poll(now) else { return self.settle_tcp(id) };
            match action {
                Action::Emit(header) => self.emit(out, id, &header),
                Action::Fill { offset, bytes, segment, .. } => {
                    let more = self.fill(out, id, offset, bytes, segment);
                    if more {
                        break;
                    }
                }
                Action::Discard(bytes) => self.discard(id, bytes),
                Action::QueryRoom => self.query_room(id),
                Action::WatchWritable => {
                    if let Some(flow) = self.flows.table.get(id) {
                        self.flows.rearm(id, flow, EVENTS);
                    }
                }
                Action::ShutdownWrite => self.shutdown_write(id),
                Action::Close { reset } => return self.close_tcp(id, reset),
            }
        }
        self.flows.mark_ready(id);
        self.settle_tcp(id);
    }

    /// Brings the lists up to date with the machine.
    fn settle_tcp(&mut self, id: FlowId) {
        let Some(tcp) = self.tcp_mut(id) else { return };
        let (half_open, deadline) = (tcp.conn.is_half_open(), tcp.conn.deadline());
        let ack_at = tcp.conn.ack_at();
        if !half_open && tcp.half_open {
            self.flows.end_handshake(id);
        }
        if let Some(at) = ack_at {
            self.flows.hold_ack(at, id);
        }
        let place = if half_open { None } else { self.settle_place(id) };
        self.flows.schedule(id, deadline.into_iter().chain(place).min());
    }

    /// Gives the place of an accepted connection back as soon as the guest has shown that it knows of the
    /// connection, by acknowledging or sending something; a SYN-ACK does not, because a server whose queue is
    /// full forgets whom it has sent one to. Who has nothing to say is not waited for. Returns until when.
    fn settle_place(&mut self, id: FlowId) -> Option<Timestamp> {
        let now = self.now;
        let tcp = self.tcp_mut(id)?;
        let progress = tcp.conn.progress();
        let place = tcp.place.as_mut()?;
        let (until, from) = *place.since.get_or_insert((now + PLACE_HELD, progress));
        if progress == from && now < until {
            return Some(until);
        }
        self.give_place_back(id);
        None
    }

    /// The next connection to the port may be accepted.
    fn give_place_back(&mut self, id: FlowId) {
        if let Some(place) = self.tcp_mut(id).and_then(|tcp| tcp.place.take())
            && self.listeners.give_place_back(place.listener)
        {
            self.mark_listener(place.listener);
        }
    }

    /// The timer of a TCP flow.
    pub(super) fn tcp_timer(&mut self, id: FlowId) {
        let now = self.now;
        let Some(tcp) = self.tcp_mut(id) else { return };
        if tcp.conn.deadline().is_some_and(|deadline| deadline <= now) {
            tcp.conn.on_timer(now);
            self.flows.mark_ready(id);
        } else {
            self.settle_tcp(id);
        }
    }

    fn emit(&mut self, out: &mut dyn ToGuest, id: FlowId, header: &Header) {
        let Some(flow) = self.flows.table.get(id) else { return };
        let Some(side) = flow.sides.iter().find(|side| side.pif == Pif::Tap) else { return };
        let template = self.addressing.template(side, L4Protocol::Tcp, id.slot());
        let checksum = L4Checksum::Complete { payload_sum: 0 };
        let frame = template.tcp(header, 0, checksum);
        if !self.outbox.send(out, &frame, &[]) {
            let Some(tcp) = self.tcp_mut(id) else { return };
            tcp.conn.on_emit_lost();
            self.flows.mark_starved(id);
        }
    }

    fn discard(&mut self, id: FlowId, bytes: u32) {
        let now = self.now;
        let Some(flow) = self.flows.table.get_mut(id) else { return };
        let Protocol::Tcp(tcp) = &mut flow.state.protocol else { return };
        match stream::discard(flow.state.socket.as_fd(), bytes) {
            Ok(done) if done == bytes => {}
            other => {
                let why = other.map_or_else(errno_text, |done| format!("only {done} are there"));
                log::debug!("{id:?} (TCP connection): cannot discard {bytes} bytes: {why}");
                tcp.conn.on_socket(now, SocketEvent::Failed);
            }
        }
        if let PeekOffset::At(offset) = &mut tcp.peek {
            *offset = offset.saturating_sub(bytes);
        }
    }

    fn query_room(&mut self, id: FlowId) {
        let Some(flow) = self.flows.table.get_mut(id) else { return };
        let Protocol::Tcp(tcp) = &mut flow.state.protocol else { return };
        tcp.conn.on_room(stream::send_buffer(flow.state.socket.as_fd()).map_or(0, room));
    }

    fn shutdown_write(&mut self, id: FlowId) {
        let now = self.now;
        let Some(flow) = self.flows.table.get_mut(id) else { return };
        let Protocol::Tcp(tcp) = &mut flow.state.protocol else { return };
        if let Err(errno) = rnet::shutdown(&flow.state.socket, rnet::Shutdown::Write) {
            log::debug!("{id:?} (TCP connection): shutdown: {errno}");
            tcp.conn.on_socket(now, SocketEvent::Failed);
        }
    }

    fn close_tcp(&mut self, id: FlowId, reset: bool) {
        if let Some(flow) = self.flows.table.get(id)
            && reset
        {
            let _ = stream::reset_on_close(flow.state.fd());
        }
        log::debug!("{id:?} (TCP connection): closed{}", if reset { " with a reset" } else { "" });
        self.give_place_back(id);
        self.flows.remove(id);
    }

    /// The TCP state of a flow, if it lives and is one.
    pub(super) fn tcp_mut(&mut self, id: FlowId) -> Option<&mut TcpState> {
        match &mut self.flows.table.get_mut(id)?.state.protocol {
            Protocol::Tcp(tcp) => Some(tcp),
            _ => None,
        }
    }

    /// Sends data with the machine's consent; true when the flow should go on in the next turn.
    fn fill(
        &mut self,
        out: &mut dyn ToGuest,
        id: FlowId,
        offset: u32,
        bytes: u32,
        mss: u16,
    ) -> bool {
        let now = self.now;
        let Some(flow) = self.flows.table.get_mut(id) else { return false };
        let Some(side) = flow.sides.iter().find(|side| side.pif == Pif::Tap) else { return false };
        let template = self.addressing.template(side, L4Protocol::Tcp, id.slot());
        let socket = flow.state.socket.as_fd();
        let Protocol::Tcp(tcp) = &mut flow.state.protocol else { return false };
        let result = super::fill::fill(
            &mut self.outbox.list,
            out,
            socket,
            &template,
            tcp,
            &super::fill::Wish { offset, bytes, mss },
        );
        tcp.conn.on_fill(now, result);
        if result == Fill::NoRoom {
            self.flows.mark_starved(id);
        }
        matches!(result, Fill::Sent { drained: false, .. })
    }
}

/// A socket for a connection from the guest.
fn outbound_socket(source: SocketAddr, device: Option<&str>) -> Result<OwnedFd, Errno> {
    let socket = socket::create(Transport::Tcp, source.ip())?;
    if let Some(device) = device {
        socket::bind_to_device(socket.as_fd(), device)?;
    }
    if !source.ip().is_unspecified() {
        rnet::bind(&socket, &source)?;
    }
    Ok(socket)
}

/// Payload bytes that a send buffer takes now. The kernel charges each packet's overhead against the
/// limit, and splits packets after it has taken them; a quarter is kept for that.
fn room(buffer: stream::SendBuffer) -> u32 {
    let free = buffer.limit.saturating_sub(buffer.queued);
    free - free / 4
}
