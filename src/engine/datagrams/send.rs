//! Sends datagrams of the guest on the sockets of their flows.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use passt_frame::Errno;

use crate::engine::core::{Core, Settings};
use crate::engine::marks::Marks;
use crate::engine::net::Net;
use crate::engine::state::{FlowKind, FlowState};
use crate::engine::unreachable::{reason_of, reason_of_sending};
use crate::flow::fwd::Proto;
use crate::flow::side::{GuestView, Pif, Sides};
use crate::flow::table::{Flow, FlowId};
use crate::sys::{group, socket};
use crate::time::Timestamp;
use crate::wire::DropReason;
use crate::wire::ip::ip_header_bytes;
use crate::wire::l4::UDP_HEADER_BYTES;

/// Sends a datagram of `len` bytes from the guest, or several that have `all` bytes together, on its flow, as `send`
/// does it: on the flow's socket, and to somebody unless it is connected.
pub(super) fn send_datagram(
    flow: &mut Flow<FlowState>,
    (net, now): (&Net, Timestamp),
    marks: &Marks,
    (len, all): (u32, u32),
    mut send: impl FnMut(BorrowedFd<'_>, Option<SocketAddr>) -> Result<(), Errno>,
) -> Result<(), DropReason> {
    let view = GuestView::of(&flow.sides).ok_or(DropReason::NoFlow)?;
    let end = view.host.endpoint.with_scope(0);
    let v4 = end.is_ipv4();
    let (proto, headers) = match &flow.state.kind {
        FlowKind::Udp(_) => (Proto::Udp, ip_header_bytes(v4) + UDP_HEADER_BYTES),
        _ => (Proto::Icmp, ip_header_bytes(v4)),
    };
    let (FlowKind::Udp(state) | FlowKind::Echo(state)) = &mut flow.state.kind else {
        return Err(DropReason::NoFlow);
    };
    state.touch(now, view.index, 1);
    state.largest = state.largest.max(len);
    let fd = flow.state.socket.as_fd();
    let to = state.to;
    let peer = to.unwrap_or(end);
    let to_group = peer.ip().is_multicast();
    if to_group {
        let may_hear = || net.lets_host_hear(proto, peer);
        let set = state.marks.let_host_hear(fd, (peer, net.epoch()), may_hear);
        set.map_err(|errno| reason_of(errno, DropReason::SendFailed))?;
    }
    state.marks.bring(fd, (v4, to_group), marks, headers + len);
    let mut sent = past_icmp_error(|| send(fd, to));
    if sent == Err(Errno::ACCESS) && state.may_broadcast() && group::allow_broadcast(fd).is_ok() {
        sent = send(fd, to);
    }
    sent.map_err(|errno| {
        if state.logged.replace(errno) != Some(errno) {
            log::debug!("{}: send: {errno}", Sides(&flow.sides));
        }
        reason_of_sending(errno, view.host.ours.ip())
    })?;
    state.bytes[view.index] += u64::from(all);
    Ok(())
}

/// Notes that the guest has sent something on a flow: if the network began it, that is an answer.
pub(super) fn note_sent(core: &mut Core, id: FlowId) {
    let flow = core.flows.table.get(id);
    if flow.is_some_and(|flow| flow.sides[0].pif == Pif::Host) {
        core.flows.note_answer(id, core.now);
    }
}

/// What the path of a flow takes, in bytes of the guest's packets, if the host knows. A socket that is connected to
/// nobody does not; another one does, on the same `device`.
pub(super) fn path_mtu(flow: &Flow<FlowState>, settings: &Settings) -> Option<u32> {
    let view = GuestView::of(&flow.sides)?;
    let v4 = view.host.endpoint.ip().is_ipv4();
    let mtu = match flow.state.kind.datagrams()?.to {
        Some(to) => socket::path_mtu_to(to, settings.outbound_device(to.ip())),
        None => socket::path_mtu(flow.state.fd(), v4),
    };
    let guest_v4 = view.guest.endpoint.ip().is_ipv4();
    Some(mtu.ok()?.saturating_sub(ip_header_bytes(v4)) + ip_header_bytes(guest_v4))
}

/// Sends as `send` does it. An ICMP error to an earlier datagram is reported once and has nothing to do with
/// this one, so it is tried again; the error itself is relayed when its event comes.
pub(super) fn past_icmp_error(mut send: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    match send() {
        Err(errno) if may_be_of_the_past(errno) => send(),
        other => other,
    }
}

/// Whether an error number may stand for an ICMP error to an earlier datagram (`icmp_err_convert` of the kernel).
pub(in crate::engine) fn may_be_of_the_past(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::CONNREFUSED
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::ACCESS
            | Errno::MSGSIZE
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            | Errno::HOSTDOWN
            | Errno::NONET
    )
}
