//! Connections from the network: accepted by the kernel already, now offered to the guest.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use passt_frame::ToGuest;

use super::{add, drive, opening, peek_offset};
use crate::engine::core::Core;
use crate::engine::listener_id::ListenerId;
use crate::engine::state::{Admission, Nagle, TcpState};
use crate::flow::fwd::{ListenAddr, Rule};
use crate::flow::tcp::Conn;
use crate::sys::stream;
use crate::wire::DropReason;
use crate::wire::ip::L4Protocol;

/// `listener`, a socket of `rule`, has accepted a connection of `peer` to `local`: opens one to the guest.
///
/// # Errors
/// The reason why there is none; the connection is reset or closed.
pub(in crate::engine) fn accepted(
    core: &mut Core,
    out: &mut dyn ToGuest,
    (listener, rule): (ListenerId, &Rule),
    socket: OwnedFd,
    (peer, local): (SocketAddr, SocketAddr),
) -> Result<(), DropReason> {
    // The guest may know the peer's port already: from a connection that is over for the peer, or from another peer.
    let opened = core.net.inbound_sides(rule, peer, local);
    let opened = opened.and_then(|sides| {
        drive::make_way(core, out, &sides[1]);
        core.flows.told_apart(L4Protocol::Tcp, sides)
    });
    let sides = opened.inspect_err(|_| {
        let _ = stream::reset_on_close(socket.as_fd());
    })?;
    let opening = opening(core, &sides[1]);
    let conn = Conn::inbound(core.now, &core.settings.tcp, opening);
    let v4 = matches!(rule.listen, ListenAddr::V4(_));
    let mut state = TcpState::new(conn, peek_offset(&core.settings, v4), Nagle::Off);
    state.admission = Some(Admission { listener, since: None });
    add(core, out, socket, sides, state)?;
    core.listeners.admit(listener);
    Ok(())
}
