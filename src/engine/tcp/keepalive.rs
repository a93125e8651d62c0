//! Guests that keep their connections alive. We answer them, and their peer hears nothing of it: whatever is between it and us,
//! above all a translator of addresses, forgets a connection that is silent for minutes. So the host's socket asks as
//! often as the guest does, once the guest has done so.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::net::sockopt;

use crate::limits::{KEEPALIVE_LEAST, KEEPALIVE_MOST};
use crate::time::Timestamp;

/// What the guest has shown of its keepalives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keepalive {
    /// When the last probe came.
    last: Timestamp,
    /// Silence after which the host's socket asks; the kernel's choice at first (`net.ipv4.tcp_keepalive_time`).
    idle: Option<Duration>,
}

/// The guest has asked whether its connection still lives.
pub(super) fn on_probe(known: &mut Option<Keepalive>, socket: BorrowedFd<'_>, now: Timestamp) {
    let Some(known) = known else {
        *known = Some(Keepalive { last: now, idle: None });
        // A connection that has failed meanwhile says so in another way.
        let _ = sockopt::set_socket_keepalive(socket, true);
        return;
    };
    // In whole seconds, which is what the kernel takes; with data in between it seems longer than it is.
    let pause = Duration::from_secs(now.since(known.last).as_secs());
    known.last = now;
    let idle = pause.clamp(KEEPALIVE_LEAST, KEEPALIVE_MOST);
    if known.idle.is_none_or(|before| idle < before) {
        known.idle = Some(idle);
        let _ = sockopt::set_tcp_keepidle(socket, idle);
    }
}
