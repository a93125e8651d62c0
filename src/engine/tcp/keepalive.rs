//! Guests that keep their connections alive. We answer them, and their peer hears nothing of it: whatever is between it and us,
//! above all a translator of addresses, forgets a connection that is silent for minutes. So the host's socket asks as
//! often as the guest does, once the guest has done so.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::net::sockopt;

use crate::engine::state::Keepalive;
use crate::limits::KEEPALIVE_LEAST;
use crate::time::Timestamp;

/// The guest has asked whether its connection still lives.
pub(super) fn on_probe(known: &mut Option<Keepalive>, socket: BorrowedFd<'_>, now: Timestamp) {
    let Some(known) = known else {
        // Of a connection that has failed meanwhile we hear in another way.
        let idle_s = sockopt::tcp_keepidle(socket).map_or(u16::MAX, seconds);
        *known = Some(Keepalive { last: now, idle_s });
        let _ = sockopt::set_socket_keepalive(socket, true);
        return;
    };
    // With data in between the pause seems longer than it is.
    let idle_s = seconds(now.since(known.last).max(KEEPALIVE_LEAST));
    known.last = now;
    if idle_s < known.idle_s {
        known.idle_s = idle_s;
        let _ = sockopt::set_tcp_keepidle(socket, Duration::from_secs(idle_s.into()));
    }
}

/// Whole seconds, which is what the kernel takes.
fn seconds(time: Duration) -> u16 {
    u16::try_from(time.as_secs()).unwrap_or(u16::MAX)
}
