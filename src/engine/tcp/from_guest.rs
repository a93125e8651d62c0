//! Segments of the guest. Consecutive ones of one flow are a run, whose payload is written with one
//! sendmsg(2); what belongs to no flow opens a connection, or is refused.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use passt_frame::{Errno, FromGuestLease, MAX_FRAMES, Part, ToGuest};
use rustix::net::{self as rnet, SendFlags};

use super::drive::has_ended;
use super::{add, opening, peek_offset};
use crate::engine::core::Core;
use crate::engine::marks::{Marks, SocketMarks};
use crate::engine::reserved_port;
use crate::engine::state::{FlowKind, Nagle, TcpState};
use crate::engine::unreachable::{reason_of, tell_of_frame, tell_of_packet};
use crate::flow::fwd::Proto;
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::FlowId;
use crate::flow::tcp::{Conn, Flags, SocketEvent, reset_for};
use crate::sys::datagram;
use crate::sys::socket::{self, Transport};
use crate::sys::stream;
use crate::wire::DropReason;
use crate::wire::build::L4Checksum;
use crate::wire::ip::{IpHead, L4Protocol};
use crate::wire::l4::{TcpHead, checksum_is_right};

/// Consecutive segments of one flow whose payload is not written yet.
#[derive(Default)]
pub(in crate::engine) struct StreamRun {
    flow: Option<(FlowId, Side)>,
    parts: ArrayVec<Part, MAX_FRAMES>,
    bytes: u32,
}

impl StreamRun {
    /// Writes the payload to its socket.
    pub(crate) fn finish(&mut self, core: &mut Core, lease: &mut FromGuestLease<'_>) {
        let Some((id, _)) = self.flow.take() else { return };
        let offered = std::mem::take(&mut self.bytes);
        let parts = std::mem::take(&mut self.parts);
        if offered == 0 {
            return;
        }
        write(core, id, offered, |socket| lease.send_stream(socket, &parts));
    }
}

/// Writes the `offered` bytes that a flow's machine has accepted, as `send` does it.
fn write(
    core: &mut Core,
    id: FlowId,
    offered: u32,
    send: impl FnOnce(BorrowedFd<'_>) -> Result<u32, Errno>,
) {
    let now = core.now;
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    let FlowKind::Tcp(tcp) = &mut flow.state.kind else { return };
    let socket = flow.state.socket.as_fd();
    let written = if tcp.backlog.is_some() {
        Err(Errno::AGAIN)
    } else {
        tcp.nagle.before_write(socket);
        send(socket)
    };
    let taken = written.unwrap_or(0);
    tcp.conn.on_written(now, taken);
    match written {
        Ok(_) | Err(Errno::AGAIN) if taken < offered => {
            core.outbox.drops.count(DropReason::SocketFull);
        }
        Ok(_) | Err(Errno::AGAIN) => {}
        Err(errno) => {
            log::debug!("{id:?} (TCP connection): write: {errno}");
            tcp.conn.on_socket(now, SocketEvent::Failed);
        }
    }
}

/// A TCP segment from the guest.
pub(in crate::engine) fn from_guest(
    core: &mut Core,
    lease: &mut FromGuestLease<'_>,
    index: usize,
    ip: &IpHead,
    run: &mut StreamRun,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let head = ip.tcp(lease.frames()[index].head())?;
    let side = Side {
        pif: Pif::Tap,
        ours: Endpoint::new(ip.destination, head.destination_port),
        endpoint: Endpoint::new(ip.source, head.source_port),
    };
    let opens = opens(&head);
    let id = match run.flow {
        Some((id, current)) if current == side && !opens => id,
        _ => {
            run.finish(core, lease);
            let found = core.flows.find(L4Protocol::Tcp, &side);
            match found.filter(|&id| !(opens && has_ended(core, out, id))) {
                Some(id) => {
                    core.note_queue(id);
                    id
                }
                None => {
                    let answered = segment_without_flow(core, side, ip, &head, out);
                    return answered.inspect_err(|&reason| {
                        tell_of_frame(core, out, lease, index, (reason, None));
                    });
                }
            }
        }
    };
    run.flow = Some((id, side));
    let flow = core.flows.table.get_mut(id).ok_or(DropReason::NoFlow)?;
    let FlowKind::Tcp(tcp) = &mut flow.state.kind else { return Err(DropReason::NoFlow) };
    if flow.state.frozen {
        run.flow = None;
        return Err(DropReason::LinkDown);
    }
    let accept = tcp.conn.on_segment(core.now, &head.segment);
    core.flows.mark_ready(id);
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
    let side = Side {
        pif: Pif::Tap,
        ours: Endpoint::new(ip.destination, head.destination_port),
        endpoint: Endpoint::new(ip.source, head.source_port),
    };
    let found = core.flows.find(L4Protocol::Tcp, &side);
    let found = found.filter(|&id| !(opens(&head) && has_ended(core, out, id)));
    let Some(id) = found else {
        let answered = segment_without_flow(core, side, ip, &head, out);
        return answered.inspect_err(|&reason| tell_of_packet(core, out, (ip, segment), reason));
    };
    core.note_queue(id);
    let flow = core.flows.table.get_mut(id).ok_or(DropReason::NoFlow)?;
    let FlowKind::Tcp(tcp) = &mut flow.state.kind else { return Err(DropReason::NoFlow) };
    if flow.state.frozen {
        return Err(DropReason::LinkDown);
    }
    let accept = tcp.conn.on_segment(core.now, &head.segment);
    core.flows.mark_ready(id);
    if accept.len > 0 {
        let start = (head.header_len + accept.skip) as usize;
        let bytes = &segment[start..start + accept.len as usize];
        write(core, id, accept.len, |socket| {
            rnet::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                .map(|taken| taken as u32)
        });
    }
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
            Err(reason @ (DropReason::SocketFailed | DropReason::EgressRejected)) => {
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
    let failed = |errno: Errno| {
        log::debug!("TCP connection from {guest} to {}: {errno}", target.destination);
        reason_of(errno, DropReason::SocketFailed)
    };
    let device = core.settings.outbound_device(target.destination.ip());
    let v4 = target.source.is_ipv4();
    let marks = Marks::of(ip);
    let (socket, connected, probes) = reserved_port::open_like(guest.port(), |port| {
        let mut source = target.source;
        source.set_port(port);
        let socket = outbound_socket(source, device)?;
        SocketMarks::new().bring(socket.as_fd(), (v4, false), &marks.of_connection(), 0);
        let probes = marks.is_probe() && datagram::report_errors(socket.as_fd(), v4).is_ok();
        let connected = socket::connect(socket.as_fd(), target.destination)?;
        Ok((socket, connected, probes))
    })
    .map_err(failed)?;
    let host =
        Side { pif: Pif::Host, ours: target.source.into(), endpoint: target.destination.into() };
    let sides = [side, host];
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
    if let Some(device) = device {
        socket::bind_to_device(socket.as_fd(), device)?;
    }
    if source.port() != 0 {
        socket::bind_port(socket.as_fd(), source)?;
    } else if !source.ip().is_unspecified() {
        rnet::bind(&socket, &source)?;
    }
    Ok(socket)
}
