//! Listening: one socket for each port of each forwarding rule. A TCP connection or the first UDP
//! datagram on one of them starts a flow toward the guest. Those of a guest's namespace, for the ports
//! that lead from there to the host, are served by the same code.
//!
//! | file | what it does |
//! |---|---|
//! | `change` | opens the ports of all rules, also when rules change while others keep listening, some a turn |
//! | `open` | opens a port, and those that had to wait for an address |
//! | `accept` | takes connections, and sends each on its way |
//! | `receive` | takes datagrams, and finds their flows |
//! | `auto` | ports that follow services |
//! | `error` | why a port could not be opened |
//!
//! Calls go from here to the protocols and never back. The sockets themselves, with the lists of those that
//! have work, are [`Listeners`](super::listeners::Listeners).

mod accept;
mod auto;
mod change;
mod error;
mod open;
mod receive;

use passt_frame::ToGuest;

pub(super) use auto::{Scans, scan};
pub(super) use change::{Change, Step, open_all};
pub(crate) use error::ListenError;
pub(super) use open::recover;

use super::bypass::BypassParts;
use super::core::Core;
use super::datagrams::Served;
use super::listener_id::ListenerId;
use crate::flow::fwd::Proto;
use crate::sys::copy_buffer::CopyBuffer;

/// A listening socket is readable, or may go on after it had to wait.
pub(super) fn serve(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
    id: ListenerId,
) {
    let Some(listener) = core.listeners.get(id) else { return };
    let served = match listener.proto {
        Proto::Tcp => accept::serve(core, bypass, out, id),
        _ => receive::serve(core, bypass, buffer, out, id),
    };
    core.listeners.served(id, served == Served::NoRoom);
}
