//! Connections on listening sockets: accepted while there is room for them, and sent on their way: to the
//! guest, or past its link.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use passt_frame::{Errno, ToGuest};

use crate::engine::bypass::{self, BypassParts, splice};
use crate::engine::core::Core;
use crate::engine::datagrams::Served;
use crate::engine::flows::ACCEPT_TIMER;
use crate::engine::listener_id::ListenerId;
use crate::engine::tcp;
use crate::engine::unreachable::reason_of_opening;
use crate::flow::fwd::{ListenAddr, Rule};
use crate::flow::side::{Pif, Side};
use crate::limits::{ACCEPT_RETRY, ACCEPTS_PER_TURN};
use crate::sys::socket;
use crate::sys::stream;
use crate::wire::DropReason;

/// A connection that was accepted.
struct Arrival {
    socket: OwnedFd,
    peer: SocketAddr,
    /// Where it was accepted, and on which port.
    pif: Pif,
    port: u16,
    listener: ListenerId,
}

impl Arrival {
    /// The address that the connection was made to. A socket that listens on one address of its own has
    /// no other; the scope of a link-local one is known to the kernel.
    fn local(&self, rule: &Rule) -> Result<SocketAddr, DropReason> {
        let address: IpAddr = match rule.listen {
            ListenAddr::V4(v4) if !v4.is_unspecified() => v4.into(),
            ListenAddr::V6(v6) if !v6.is_unspecified() && !v6.is_unicast_link_local() => v6.into(),
            _ => {
                let local = socket::local_address(self.socket.as_fd());
                return local.map_err(|_| DropReason::SocketFailed);
            }
        };
        Ok(SocketAddr::new(address, self.port))
    }
}

/// Accepts as many connections as are likely to wait. What is left is reported again.
pub(super) fn serve(
    core: &mut Core,
    mut bypass: Option<&mut BypassParts>,
    out: &mut dyn ToGuest,
    id: ListenerId,
) -> Served {
    let Some(listener) = core.listeners.get(id) else { return Served::Empty };
    let (pif, port, mut expected) = (listener.pif, listener.port, listener.expected);
    let listen = listener.listen;
    let Some(&rule) = core.net.rules(pif).get(listener.rule) else { return Served::Empty };
    let rule = Rule { listen, ..rule };
    let mut count = 0;
    while count < ACCEPTS_PER_TURN && expected.goes_on(count) {
        if let Err(reason) = core.check_room() {
            core.refuse(reason);
            return Served::NoRoom;
        }
        let Some(listener) = core.listeners.get(id) else { return Served::Empty };
        if !listener.admits(core.flows.half_open_limit(core.listeners.len())) {
            return Served::NoRoom;
        }
        match socket::accept(listener.socket.as_fd()) {
            Ok((socket, peer)) => {
                let arrival = Arrival { socket, peer, pif, port, listener: id };
                if let Err(reason) = route(core, bypass.as_deref_mut(), out, &rule, arrival) {
                    core.refuse(reason);
                }
            }
            Err(Errno::AGAIN) => break,
            Err(errno) if socket::is_exhaustion(errno) => {
                core.refuse(reason_of_opening(errno));
                // What was short may be others', and nothing of ours tells when there is some again.
                core.flows.timers.set(ACCEPT_TIMER, core.now + ACCEPT_RETRY);
                return Served::NoRoom;
            }
            // The connection is gone again, or never was one for us: go on with the next.
            Err(errno) => log::debug!("accept on port {port}: {errno}"),
        }
        count += 1;
    }
    expected.learn(count, count < ACCEPTS_PER_TURN && expected.goes_on(count));
    if let Some(listener) = core.listeners.get_mut(id) {
        listener.expected = expected;
    }
    Served::Empty
}

/// Sends a connection on its way. One that comes to nothing is reset.
fn route(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    out: &mut dyn ToGuest,
    rule: &Rule,
    arrival: Arrival,
) -> Result<(), DropReason> {
    let Arrival { pif, peer, listener, .. } = arrival;
    let decided = arrival.local(rule).and_then(|local| {
        let side = match &bypass {
            Some(parts) => parts.side(&core.net, (pif, rule), peer, local)?,
            None => None,
        };
        Ok((local, side))
    });
    let (local, side) = decided.inspect_err(|_| {
        let _ = stream::reset_on_close(arrival.socket.as_fd());
    })?;
    if let (Some((to, side)), Some(parts)) = (side, bypass) {
        let initiating = Side { pif, ours: local.into(), endpoint: peer.into() };
        let sides = [initiating, bypass::target_side(to, &side)];
        let target = splice::connect(parts, &sides, &side);
        if target.is_ok() || !parts.has_lost(to) {
            let accepted = (listener, arrival.socket);
            return splice::open(core, accepted, sides, side.destination, target);
        }
    }
    tcp::accepted(core, out, (listener, rule), arrival.socket, (peer, local))
}
