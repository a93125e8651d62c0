//! Connections of the guest that the host could not make. A reset says that the other end refuses; whatever else keeps
//! them from being made the guest is told by ICMP, as the host was ([`unreachable`](crate::engine::unreachable)). It
//! is told nothing of a connection that takes too long: its own patience ends, too.

use std::os::fd::BorrowedFd;

use passt_frame::{Errno, ToGuest};
use rustix::net::{AddressFamily, sockopt};

use crate::engine::core::Core;
use crate::engine::state::{FlowKind, TcpState};
use crate::engine::unreachable::{Unreachable, tell_of_connection};
use crate::flow::side::Pif;
use crate::flow::table::FlowId;
use crate::flow::tcp::SocketEvent;
use crate::sys::datagram;
use crate::time::Timestamp;
use crate::wire::icmp_translation::IcmpError;

/// The connection of a socket failed before it was made.
pub(super) fn on_error(tcp: &mut TcpState, socket: BorrowedFd<'_>, now: Timestamp) {
    let queued = if tcp.probes { datagram::take_error(socket, &mut []).ok() } else { None };
    if let Some(error) = queued
        && let Some(kind) = error.kind
    {
        let told = IcmpError { kind, code: error.code, mtu: error.info };
        (tcp.unreachable, tcp.failure) = (Some((told, error.offender)), error.errno);
        return tcp.conn.give_up();
    }
    let errno = match sockopt::socket_error(socket) {
        Ok(Err(errno)) | Err(errno) => errno,
        Ok(Ok(())) => Errno::CONNREFUSED,
    };
    tcp.failure = Some(errno);
    let v4 = sockopt::socket_domain(socket).is_ok_and(|family| family == AddressFamily::INET);
    match Unreachable::of(errno) {
        Some(why) => {
            tcp.unreachable = Some((why.icmp(v4), None));
            tcp.conn.give_up();
        }
        None if errno == Errno::TIMEDOUT => tcp.conn.give_up(),
        None => tcp.conn.on_socket(now, SocketEvent::Failed),
    }
}

/// The error of a socket, which is taken; `None` if it has none, or not any more.
pub(super) fn error_of(socket: BorrowedFd<'_>) -> Option<Errno> {
    sockopt::socket_error(socket).ok()?.err()
}

/// The socket, whose connection was made, has failed, by this error if it is known. The guest is told when it has got what
/// is left in its queue. A reset that comes after the peer has ended its stream is `EPIPE` to Linux. Of a socket whose error
/// somebody has taken, a write says that, too: who was told first is believed.
pub(super) fn fail(
    tcp: &mut TcpState,
    socket: BorrowedFd<'_>,
    now: Timestamp,
    error: Option<Errno>,
) {
    let after_end = error == Some(Errno::PIPE);
    note(tcp, if after_end { Some(Errno::CONNRESET) } else { error });
    let event = if after_end { SocketEvent::FailedAfterEnd } else { SocketEvent::Failed };
    tcp.conn.on_socket(now, event);
    // Up to an urgent byte, if there is one: more may be behind it.
    if !tcp.urgent
        && let Ok(queued) = rustix::io::ioctl_fionread(socket)
    {
        tcp.conn.on_queue(u32::try_from(queued).unwrap_or(u32::MAX));
    }
}

/// Keeps why the connection fails; what has failed first is the reason.
pub(super) fn note(tcp: &mut TcpState, error: Option<Errno>) {
    tcp.failure = tcp.failure.or(error);
}

/// The connection is made: errors of the network do not end it any more.
pub(super) fn on_connected(tcp: &mut TcpState, socket: BorrowedFd<'_>) {
    if std::mem::take(&mut tcp.probes) {
        datagram::ignore_errors(socket);
    }
}

/// Tells the guest of a flow that ends why its connection could not be made, if there is something to tell.
pub(super) fn tell(core: &mut Core, out: &mut dyn ToGuest, id: FlowId) {
    let Some(flow) = core.flows.table.get(id) else { return };
    let FlowKind::Tcp(tcp) = &flow.state.kind else { return };
    let Some(told) = tcp.unreachable else { return };
    let isn = tcp.conn.guest_isn();
    let [guest, host] = &flow.sides;
    if guest.pif == Pif::Tap {
        let (side, peer) = (*guest, host.endpoint.ip());
        tell_of_connection(core, out, (&side, isn), peer, told);
    }
}
