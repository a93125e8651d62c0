//! Segments of the guest. Those of one flow in a batch are a run, whose payload is written with one sendmsg(2);
//! what belongs to no flow opens a connection, or is refused.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use passt_frame::{Errno, FromGuestLease, MAX_FRAMES, Part, ToGuest};

use super::drive::has_ended;
use super::kept::{self, InBatch, InMemory, Payload};
use super::{add, keepalive, opening, peek_offset, refused};
use crate::engine::core::Core;
use crate::engine::flows::Flows;
use crate::engine::marks::{Marks, SocketMarks};
use crate::engine::reserved_port;
use crate::engine::state::{FlowKind, Nagle, TcpState};
use crate::engine::unreachable::{reason_of_connecting, tell_of_frame, tell_of_packet};
use crate::flow::fwd::Proto;
use crate::flow::side::{Pif, Side, Sides};
use crate::flow::table::FlowId;
use crate::flow::tcp::{Accept, Conn, Early, Flags, Segment, SegmentDrop, SocketEvent, reset_for};
use crate::sys::datagram;
use crate::sys::socket::{self, Transport};
use crate::sys::stream;
use crate::time::Timestamp;
use crate::wire::build::L4Checksum;
use crate::wire::ip::{IpHead, L4Protocol};
use crate::wire::l4::{TcpHead, checksum_is_right};
use crate::wire::{DropReason, SeqNr};

/// Runs at most that are gathered at once.
const RUNS: usize = 4;

/// Segments of one flow whose payload is not written yet.
#[derive(Default)]
struct StreamRun {
    flow: Option<(FlowId, Side)>,
    parts: ArrayVec<Part, MAX_FRAMES>,
    bytes: u32,
    /// Those that wait for one before them, with their payload.
    early: Early<Part>,
}

/// A flow that segments are for.
struct Receiver<'a> {
    id: FlowId,
    tcp: &'a mut TcpState,
    socket: BorrowedFd<'a>,
    now: Timestamp,
}

impl<'a> Receiver<'a> {
    /// # Errors
    /// There is no such connection, or it is on its way to another program.
    fn of(flows: &'a mut Flows, id: FlowId, now: Timestamp) -> Result<Self, DropReason> {
        let state = &mut flows.table.get_mut(id).ok_or(DropReason::NoFlow)?.state;
        let FlowKind::Tcp(tcp) = &mut state.kind else { return Err(DropReason::NoFlow) };
        if state.frozen {
            return Err(DropReason::LinkDown);
        }
        Ok(Self { id, tcp, socket: state.socket.as_fd(), now })
    }

    /// Tells the machine of a segment; returns what of its payload is to be written.
    fn accept(&mut self, segment: &Segment) -> Accept {
        let accept = self.tcp.conn.on_segment(self.now, segment);
        if let Some(reason) = accept.dropped {
            let id = self.id;
            log::trace!("{id:?}: segment from guest not used: {reason}");
            if reason == SegmentDrop::Keepalive {
                keepalive::on_probe(&mut self.tcp.keepalive, self.socket, self.now);
            }
        }
        accept
    }
}

impl StreamRun {
    /// Takes a segment, unless it comes early, and those that have waited for it.
    fn receive(&mut self, to: &mut Receiver<'_>, segment: &Segment, payload: Part) {
        if self.early.hold(&to.tcp.conn, segment, payload) {
            return;
        }
        self.take(to, segment, payload);
        while let Some((segment, payload)) = self.early.next(&to.tcp.conn) {
            self.take(to, &segment, payload);
        }
    }

    /// Takes those that have waited in vain, too.
    fn receive_rest(&mut self, to: &mut Receiver<'_>) {
        while let Some((segment, payload)) = self.early.next_at_end(&to.tcp.conn) {
            self.take(to, &segment, payload);
        }
    }

    /// Has the machine look at a segment, and notes what of the payload it accepts.
    fn take(&mut self, to: &mut Receiver<'_>, segment: &Segment, payload: Part) {
        let accept = to.accept(segment);
        if accept.len > 0 {
            let offset = payload.offset + accept.skip;
            self.parts.push(Part { offset, len: accept.len, ..payload });
            self.bytes += accept.len;
        }
    }

    /// Writes the payload to its socket.
    fn finish(&mut self, core: &mut Core, lease: &mut FromGuestLease<'_>) {
        let Some((id, _)) = self.flow.take() else { return };
        if !self.early.is_empty() {
            if let Ok(mut to) = Receiver::of(&mut core.flows, id, core.now) {
                self.receive_rest(&mut to);
            }
            self.early.clear();
        }
        if self.bytes > 0 {
            write(core, id, self.bytes, InBatch(lease, &self.parts));
        }
        self.parts.clear();
        self.bytes = 0;
    }
}

/// What of a batch is not written yet, by flows. Of a bulk stream there is so much that its write takes longer than
/// everything else: it comes last, so that a question behind it in the batch does not wait. And streams whose segments
/// alternate have one write each, not one for each segment.
#[derive(Default)]
pub(in crate::engine) struct StreamRuns([StreamRun; RUNS]);

impl StreamRuns {
    /// Writes everything, the least first.
    pub(crate) fn finish(&mut self, core: &mut Core, lease: &mut FromGuestLease<'_>) {
        while let Some(least) =
            self.0.iter_mut().filter(|run| run.flow.is_some()).min_by_key(|run| run.bytes)
        {
            least.finish(core, lease);
        }
    }

    /// Where the run of a flow is.
    fn place(&self, side: &Side) -> Option<(usize, FlowId)> {
        let mut flows = self.0.iter().map(|run| run.flow).enumerate();
        flows.find_map(|(place, flow)| {
            flow.filter(|(_, current)| current == side).map(|(id, _)| (place, id))
        })
    }

    /// Begins the run of a flow, in a free place or in that of the least. Where it is.
    fn begin(
        &mut self,
        flow: (FlowId, Side),
        core: &mut Core,
        lease: &mut FromGuestLease<'_>,
    ) -> usize {
        let effort = |place: &usize| (self.0[*place].flow.is_some(), self.0[*place].bytes);
        let place = (0..RUNS).min_by_key(effort).unwrap_or(0);
        self.0[place].finish(core, lease);
        self.0[place].flow = Some(flow);
        place
    }
}

/// Writes the `offered` bytes that a flow's machine has accepted. What the socket does not take is kept, as far as that is
/// possible.
fn write(core: &mut Core, id: FlowId, offered: u32, mut payload: impl Payload) {
    let now = core.now;
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    let FlowKind::Tcp(tcp) = &mut flow.state.kind else { return };
    let socket = flow.state.socket.as_fd();
    let written = if tcp.backlog.is_some() {
        Err(Errno::AGAIN)
    } else {
        tcp.nagle.before_write(socket);
        payload.send(socket)
    };
    let taken = written.unwrap_or(0);
    let is_short = taken < offered && matches!(written, Ok(_) | Err(Errno::AGAIN));
    let kept = match is_short {
        true => kept::keep(tcp, &core.flows.kept, &mut payload, (taken, offered)),
        false => 0,
    };
    tcp.conn.on_written(now, taken, kept);
    if is_short && taken + kept < offered {
        core.outbox.drops.count(DropReason::SocketFull);
    }
    if let Err(errno) = written
        && errno != Errno::AGAIN
    {
        log::debug!("{id:?} (TCP connection): write: {errno}");
        refused::fail(tcp, socket, now, Some(errno));
    }
}

/// A TCP segment from the guest.
pub(in crate::engine) fn from_guest(
    core: &mut Core,
    lease: &mut FromGuestLease<'_>,
    index: usize,
    ip: &IpHead,
    runs: &mut StreamRuns,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let head = ip.tcp(lease.frames()[index].head())?;
    learn_mss(core, ip, &head);
    let side = Side::from_guest(ip, (head.source_port, head.destination_port));
    let opens = opens(&head);
    let (place, id) = match runs.place(&side) {
        Some(found) if !opens => found,
        old => {
            if let Some((place, _)) = old {
                runs.0[place].finish(core, lease);
            }
            let found = core.flows.find(L4Protocol::Tcp, &side);
            let Some(id) = found.filter(|&id| !(opens && has_ended(core, out, id))) else {
                let answered = segment_without_flow(core, side, ip, &head, out);
                return answered.inspect_err(|&reason| {
                    tell_of_frame(core, out, lease, index, (reason, None));
                });
            };
            core.note_queue(id);
            (runs.begin((id, side), core, lease), id)
        }
    };
    let mut to = Receiver::of(&mut core.flows, id, core.now)?;
    let offset = ip.l4_offset as u32 + head.header_len;
    let payload = Part { frame: index, offset, len: head.segment.payload_len };
    runs.0[place].receive(&mut to, &head.segment, payload);
    core.flows.mark_ready(id);
    Ok(())
}

/// A segment that came in fragments: `segment` is what is behind the IP header.
pub(in crate::engine) fn whole_from_guest(
    core: &mut Core,
    ip: &IpHead,
    segment: &[u8],
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    if !checksum_is_right(L4Protocol::Tcp, ip.source, ip.destination, segment) {
        return Err(DropReason::BadChecksum);
    }
    let head = ip.tcp(segment)?;
    learn_mss(core, ip, &head);
    let side = Side::from_guest(ip, (head.source_port, head.destination_port));
    let found = core.flows.find(L4Protocol::Tcp, &side);
    let found = found.filter(|&id| !(opens(&head) && has_ended(core, out, id)));
    let Some(id) = found else {
        let answered = segment_without_flow(core, side, ip, &head, out);
        return answered.inspect_err(|&reason| tell_of_packet(core, out, (ip, segment), reason));
    };
    core.note_queue(id);
    let accept = Receiver::of(&mut core.flows, id, core.now)?.accept(&head.segment);
    core.flows.mark_ready(id);
    if accept.len > 0 {
        let start = (head.header_len + accept.skip) as usize;
        let bytes = &segment[start..start + accept.len as usize];
        write(core, id, accept.len, InMemory(bytes));
    }
    Ok(())
}

/// What a SYN says of its sender is known from now on.
fn learn_mss(core: &mut Core, ip: &IpHead, head: &TcpHead) {
    if let Some(mss) = head.segment.mss {
        core.net.learn_mss(ip.source, mss);
    }
}

/// A router on the guest's side says that the segment at `seq` of the connection with `side` was too big: no payload of more
/// than `mss` bytes gets through.
///
/// # Errors
/// There is no such connection, or no such segment under way.
pub(in crate::engine) fn on_too_big(
    core: &mut Core,
    side: &Side,
    seq: SeqNr,
    mss: u16,
) -> Result<(), DropReason> {
    let id = core.flows.find(L4Protocol::Tcp, side).ok_or(DropReason::NoFlow)?;
    let to = Receiver::of(&mut core.flows, id, core.now)?;
    if !to.tcp.conn.on_too_big(core.now, seq, mss) {
        return Err(DropReason::NoFlow);
    }
    core.flows.mark_ready(id);
    Ok(())
}

/// Whether a segment asks for a new connection.
fn opens(head: &TcpHead) -> bool {
    let flags = head.segment.flags;
    flags.contains(Flags::SYN) && !flags.contains(Flags::ACK)
}

/// A segment that belongs to no flow: a new connection, or a reset in answer (RFC 9293, 3.10.7.1).
fn segment_without_flow(
    core: &mut Core,
    side: Side,
    ip: &IpHead,
    head: &TcpHead,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let flags = head.segment.flags;
    if flags.contains(Flags::RST) {
        return Err(DropReason::NoFlow);
    }
    if opens(head) {
        return match open(core, out, side, (ip, head)) {
            Err(
                reason @ (DropReason::SocketFailed
                | DropReason::NoLocalPort
                | DropReason::NoOutboundAddress
                | DropReason::EgressRejected),
            ) => {
                refuse(core, out, &side, ip, head);
                Err(reason)
            }
            other => other,
        };
    }
    refuse(core, out, &side, ip, head);
    Err(DropReason::NoFlow)
}

/// Answers a segment with a reset.
fn refuse(core: &mut Core, out: &mut dyn ToGuest, side: &Side, ip: &IpHead, head: &TcpHead) {
    let Some(header) = reset_for(&head.segment) else { return };
    let template = core.net.template(side, L4Protocol::Tcp, ip.flow_label);
    let checksum = L4Checksum::Complete { payload_sum: 0 };
    core.outbox.send(out, &template.tcp(&header, 0, checksum), &[]);
}

/// The guest opens a connection: connects a host socket.
fn open(
    core: &mut Core,
    out: &mut dyn ToGuest,
    side: Side,
    (ip, head): (&IpHead, &TcpHead),
) -> Result<(), DropReason> {
    let (guest, remote) = (side.endpoint.with_scope(0), side.ours.with_scope(0));
    let target = core.net.to_host(Proto::Tcp, guest, remote)?;
    core.check_room()?;
    let host =
        Side { pif: Pif::Host, ours: target.source.into(), endpoint: target.destination.into() };
    let sides = [side, host];
    let device = core.settings.outbound_device(target.destination.ip());
    let failed = |errno: Errno| {
        log::debug!("TCP connection: {}: {errno}", Sides(&sides));
        reason_of_connecting(errno, (target.source, target.destination), device)
    };
    let v4 = target.source.is_ipv4();
    let marks = Marks::of(ip);
    let (socket, connected, probes) = reserved_port::open_like(guest.port(), |port| {
        let mut source = target.source;
        source.set_port(port);
        let socket = outbound_socket(source, device)?;
        SocketMarks::new().bring(socket.as_fd(), (v4, false), &marks.of_connection(), 0);
        let probes = marks.is_probe() && datagram::report_errors(socket.as_fd(), v4).is_ok();
        let connected = socket::connect(socket.as_fd(), target.destination)?;
        stream::refuse_itself(socket.as_fd(), port, target.destination)?;
        Ok((socket, connected, probes))
    })
    .map_err(failed)?;
    let opening = opening(core, &side);
    let mut conn = Conn::outbound(core.now, &core.settings.tcp, &head.segment, opening);
    if connected {
        conn.on_socket(core.now, SocketEvent::Connected);
    }
    let mut state = TcpState::new(conn, peek_offset(&core.settings, v4), Nagle::Unwritten);
    (state.connecting, state.probes) = (!connected, probes);
    let id = add(core, out, socket, sides, state)?;
    core.note_queue(id);
    Ok(())
}

/// A socket for a connection from the guest; from port 0 of `source`, the kernel chooses.
fn outbound_socket(source: SocketAddr, device: Option<&str>) -> Result<OwnedFd, Errno> {
    let socket = socket::create(Transport::Tcp, source.ip())?;
    stream::keep_urgent_inline(socket.as_fd())?;
    stream::lift_unsent_limit(socket.as_fd());
    if let Some(device) = device {
        socket::bind_to_device(socket.as_fd(), device)?;
    }
    if source.port() != 0 {
        socket::bind_port(socket.as_fd(), source)?;
    } else if !source.ip().is_unspecified() {
        socket::bind_address(socket.as_fd(), source)?;
    }
    Ok(socket)
}
