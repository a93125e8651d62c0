//! Segments of the guest. Consecutive ones of one flow are a run, whose payload is written with one
//! sendmsg(2); what belongs to no flow opens a connection, or is refused.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use arrayvec::ArrayVec;
use passt_frame::{Errno, FromGuestLease, MAX_FRAMES, Part, ToGuest};
use rustix::net as rnet;

use super::{add, opening, peek_offset};
use crate::engine::core::Core;
use crate::engine::state::{FlowKind, Nagle, TcpState};
use crate::flow::fwd::Proto;
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::FlowId;
use crate::flow::tcp::{Conn, Flags, SocketEvent, reset_for};
use crate::sys::socket::{self, Transport};
use crate::sys::stream;
use crate::wire::DropReason;
use crate::wire::build::L4Checksum;
use crate::wire::ip::{IpHead, L4Protocol};
use crate::wire::l4::TcpHead;

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
        let now = core.now;
        let Some(flow) = core.flows.table.get_mut(id) else { return };
        let FlowKind::Tcp(tcp) = &mut flow.state.kind else { return };
        let socket = flow.state.socket.as_fd();
        tcp.nagle.before_write(socket);
        let written = lease.send_stream(socket, &parts);
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
    let id = match run.flow {
        Some((id, current)) if current == side => id,
        _ => {
            run.finish(core, lease);
            match core.flows.find(L4Protocol::Tcp, &side) {
                Some(id) => {
                    core.note_queue(id);
                    id
                }
                None => return segment_without_flow(core, side, ip, &head, out),
            }
        }
    };
    run.flow = Some((id, side));
    let flow = core.flows.table.get_mut(id).ok_or(DropReason::NoFlow)?;
    let FlowKind::Tcp(tcp) = &mut flow.state.kind else { return Err(DropReason::NoFlow) };
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
    if flags.contains(Flags::SYN) && !flags.contains(Flags::ACK) {
        return match open(core, out, side, head) {
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
    head: &TcpHead,
) -> Result<(), DropReason> {
    let (guest, remote) = (side.endpoint.with_scope(0), side.ours.with_scope(0));
    let target = core.net.to_host(Proto::Tcp, guest, remote)?;
    core.check_room()?;
    let failed = |errno: Errno| {
        log::debug!("TCP connection from {guest} to {}: {errno}", target.destination);
        match errno {
            Errno::MFILE | Errno::NFILE => DropReason::DescriptorsExhausted,
            _ => DropReason::SocketFailed,
        }
    };
    let device = core.settings.outbound_device(target.destination.ip());
    let socket = outbound_socket(target.source, device).map_err(failed)?;
    let connected = socket::connect(socket.as_fd(), target.destination).map_err(failed)?;
    let host =
        Side { pif: Pif::Host, ours: target.source.into(), endpoint: target.destination.into() };
    let sides = [side, host];
    let opening = opening(core, &sides, guest.is_ipv4());
    let mut conn = Conn::outbound(core.now, &core.settings.tcp, &head.segment, opening);
    if connected {
        conn.on_socket(core.now, SocketEvent::Connected);
    }
    let offset = peek_offset(&core.settings, target.source.is_ipv4());
    let mut state = TcpState::new(conn, offset, Nagle::Unwritten);
    state.connecting = !connected;
    let id = add(core, out, socket, sides, state)?;
    core.note_queue(id);
    Ok(())
}

/// A socket for a connection from the guest.
fn outbound_socket(source: SocketAddr, device: Option<&str>) -> Result<OwnedFd, Errno> {
    let socket = socket::create(Transport::Tcp, source.ip())?;
    stream::keep_urgent_inline(socket.as_fd())?;
    if let Some(device) = device {
        socket::bind_to_device(socket.as_fd(), device)?;
    }
    if !source.ip().is_unspecified() {
        rnet::bind(&socket, &source)?;
    }
    Ok(socket)
}
