//! Sends datagrams of the guest on the sockets of their flows.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use passt_frame::Errno;
use rustix::net::sockopt;

use crate::engine::state::{FlowKind, FlowState};
use crate::flow::side::Pif;
use crate::flow::table::Flow;
use crate::time::Timestamp;
use crate::wire::DropReason;

/// Sends a datagram of `len` bytes from the guest on its flow, as `send` does it: on the flow's socket, and to
/// somebody unless it is connected.
pub(super) fn send_datagram(
    flow: &mut Flow<FlowState>,
    now: Timestamp,
    hop_limit: u8,
    len: u32,
    mut send: impl FnMut(BorrowedFd<'_>, Option<SocketAddr>) -> Result<(), Errno>,
) -> Result<(), DropReason> {
    let from = usize::from(flow.sides[0].pif != Pif::Tap);
    let (FlowKind::Udp(state) | FlowKind::Ping(state)) = &mut flow.state.kind else {
        return Err(DropReason::NoFlow);
    };
    state.touch(now, from, 1);
    state.largest = state.largest.max(len);
    let fd = flow.state.socket.as_fd();
    if hop_limit != 0 && hop_limit != std::mem::replace(&mut state.hop_limit, hop_limit) {
        set_hop_limit(fd, flow.sides[1 - from].endpoint.ip().is_ipv4(), hop_limit);
    }
    let to = state.to;
    past_icmp_error(|| send(fd, to)).map_err(|errno| match errno {
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
