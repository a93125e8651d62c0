//! What waits in the queue of a socket, and how to go on with it.

use std::os::fd::BorrowedFd;

use passt_frame::Errno;

use super::send::may_be_of_the_past;
use crate::limits::DATAGRAMS_PER_TURN;
use crate::sys::datagram::{self, Burst};
use crate::wire::DropReason;
use crate::wire::drop_reason::DropCounters;

/// What became of the datagrams that waited in a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Served {
    /// None is left.
    Empty,
    /// More may be there; others get their turn first.
    More,
    /// The guest has no room; the rest waits.
    NoRoom,
}

/// Calls `one` until the socket is empty, the guest has no room or the turn is over.
pub(in crate::engine) fn drain(mut one: impl FnMut() -> Option<Served>) -> Served {
    for _ in 0..DATAGRAMS_PER_TURN {
        match one() {
            Some(Served::More) => {}
            Some(other) => return other,
            None => return Served::Empty,
        }
    }
    Served::More
}

/// What the head of a socket's queue is; `Err` says how to go on without one.
pub(super) fn next_head<T>(peeked: Result<T, Errno>) -> Result<T, Option<Served>> {
    match peeked {
        Ok(head) => Ok(head),
        // A pending ICMP error was reported and cleared by this call.
        Err(errno) if may_be_of_the_past(errno) => Err(Some(Served::More)),
        Err(_) => Err(None),
    }
}

/// Throws away what is at the head of a socket's queue.
pub(super) fn drop_head(fd: BorrowedFd<'_>) {
    let _ = datagram::drop_one(fd);
}

/// Drops what is left of a burst behind its first `done` bytes.
pub(super) fn drop_burst(
    drops: &mut DropCounters,
    fd: BorrowedFd<'_>,
    (burst, done): (Burst, u32),
    reason: DropReason,
) -> (usize, Served) {
    drops.add(reason, rest_of(burst, done).into());
    drop_head(fd);
    (0, Served::More)
}

/// How many datagrams of a burst are behind its first `done` bytes, at least one. There may be more done than it has: the
/// kernel may have replaced it by a longer one, when it has found its checksum to be wrong.
fn rest_of(burst: Burst, done: u32) -> u32 {
    let segment = burst.segment.map_or(burst.len, u32::from).max(1);
    burst.len.saturating_sub(done).div_ceil(segment).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_burst_is_counted_whatever_the_queue_has_become() {
        let burst = Burst { len: 2500, segment: Some(1000) };
        assert_eq!([0, 1000, 2000, 2500, 9000].map(|done| rest_of(burst, done)), [3, 2, 1, 1, 1]);
        assert_eq!(rest_of(Burst { len: 0, segment: None }, 0), 1);
    }
}
