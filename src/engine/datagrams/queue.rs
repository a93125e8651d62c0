//! What waits in the queue of a socket, and how to go on with it.

use std::os::fd::{AsFd, BorrowedFd};

use passt_frame::Errno;

use super::send::may_be_of_the_past;
use crate::engine::flows::Flows;
use crate::engine::listener_id::ListenerId;
use crate::engine::listeners::Listeners;
use crate::engine::state::{Delivered, FlowKind};
use crate::flow::table::FlowId;
use crate::limits::{DATAGRAMS_PER_TURN, UDP_RUN_DATAGRAMS};
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

/// The socket in whose queue the first datagram of a flow waits.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) enum Queue {
    /// That of a listening socket.
    Listener(ListenerId),
    /// That of another flow, which it came to before that socket was connected.
    Flow(FlowId),
}

impl Queue {
    /// Its descriptor, if it is still there.
    pub(in crate::engine) fn fd<'a>(
        self,
        listeners: &'a Listeners,
        flows: &'a Flows,
    ) -> Option<BorrowedFd<'a>> {
        match self {
            Self::Listener(id) => listeners.get(id).map(|listener| listener.socket.as_fd()),
            Self::Flow(id) => flows.table.get(id).map(|flow| flow.state.socket.as_fd()),
        }
    }

    /// What of its head the guest has got already. A listening socket hands out no bursts.
    pub(super) fn delivered(self, flows: &Flows) -> Delivered {
        let Self::Flow(id) = self else { return Delivered::default() };
        let state = flows.table.get(id).and_then(|flow| flow.state.kind.datagrams());
        state.map_or_else(Delivered::default, |state| state.delivered)
    }

    /// The guest has got so much of it.
    pub(super) fn set_delivered(self, flows: &mut Flows, delivered: Delivered) {
        let Self::Flow(id) = self else { return };
        if let Some(flow) = flows.table.get_mut(id)
            && let FlowKind::Udp(state) = &mut flow.state.kind
        {
            state.delivered = delivered;
            // What has begun goes on by the path that knows where it stands.
            state.large |= delivered != Delivered::default();
        }
    }
}

/// Calls `one` until the socket is empty, the guest has no room or the turn is over.
pub(in crate::engine) fn drain(mut one: impl FnMut() -> Served) -> Served {
    for _ in 0..DATAGRAMS_PER_TURN {
        match one() {
            Served::More => {}
            other => return other,
        }
    }
    Served::More
}

/// What the head of a socket's queue is; `Err` says how to go on without one.
pub(super) fn next_head<T>(peeked: Result<T, Errno>) -> Result<T, Served> {
    match peeked {
        Ok(head) => Ok(head),
        // A pending ICMP error was reported and cleared by this call.
        Err(errno) if may_be_of_the_past(errno) => Err(Served::More),
        Err(_) => Err(Served::Empty),
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

/// How many of `bursts` are single datagrams that make up one USO frame of at most `largest` bytes: as
/// long as the first, the last perhaps shorter. At least 1.
pub(super) fn neighbours(bursts: &[Burst], largest: u32) -> usize {
    let first = bursts[0];
    if first.segment.is_some() || first.len == 0 {
        return 1;
    }
    let (mut count, mut bytes) = (1, first.len);
    for burst in &bursts[1..] {
        bytes += burst.len;
        let fits = burst.segment.is_none() && (1..=first.len).contains(&burst.len);
        if !fits || bytes > largest || count == UDP_RUN_DATAGRAMS {
            break;
        }
        count += 1;
        if burst.len < first.len {
            break;
        }
    }
    count
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

    fn single(len: u32) -> Burst {
        Burst { len, segment: None }
    }

    #[test]
    fn neighbours_are_as_long_as_the_first_and_the_last_may_be_shorter() {
        let count = |lens: &[u32]| {
            let bursts: Vec<Burst> = lens.iter().map(|&len| single(len)).collect();
            neighbours(&bursts, 1000)
        };
        assert_eq!(count(&[100]), 1);
        assert_eq!(count(&[100, 100, 100]), 3);
        assert_eq!(count(&[100, 100, 40, 100]), 3);
        assert_eq!(count(&[100, 101]), 1);
        assert_eq!(count(&[100, 0, 100]), 1, "an empty datagram is none of them");
        assert_eq!(count(&[0, 0]), 1);
        assert_eq!(count(&[400, 400, 400]), 2, "no longer than a datagram");
        let burst = Burst { len: 100, segment: Some(50) };
        assert_eq!(neighbours(&[burst, single(50)], 1000), 1);
        assert_eq!(neighbours(&[single(100), burst], 1000), 1);
    }
}
