//! Guests that keep their connections alive. Their keepalive probes end here: we answer them, and the peer hears nothing, so
//! a NAT between us and the peer would forget a connection that is silent for minutes. So once the guest has probed, the
//! host's socket probes, too, and as often as the guest does.

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
