//! Bounds of the TCP machine, each with the reason for its value.

use std::time::Duration;

/// Window scale that we offer. 65,535 << 8 is just under [`WINDOW_MAX`].
pub(crate) const WINDOW_SCALE: u8 = 8;

/// Largest window in either direction, in bytes: keeps every comparison of sequence numbers far
/// from the ambiguous half of their space.
pub const WINDOW_MAX: u32 = 1 << 24;

/// Largest window scale that a guest may use (RFC 7323, section 2.3).
pub(crate) const GUEST_SCALE_MAX: u8 = 14;

/// Segment size assumed of a guest that states none (RFC 9293, section 3.7.1), in bytes.
pub(crate) const DEFAULT_MSS: u16 = 536;

/// Smallest segment size believed, in bytes: a guest that asks for less would have us send a frame
/// for nearly each byte. Linux has the same floor.
pub(crate) const MIN_MSS: u16 = 48;

/// Bytes of one `SendData` at most: four full reads, so that one flow cannot hold up a turn for longer
/// than some tens of microseconds while others wait. Beside others that exchange little the engine takes less.
pub const DATA_QUANTUM: u32 = 256 * 1024;

/// Acknowledged bytes that may stay in the socket's queue at most, whatever is in flight.
pub(crate) const DISCARD_MAX: u32 = 1 << 20;

/// Duplicate ACKs that mean a loss (RFC 5681, section 3.2), and that we send to say so.
pub(crate) const DUPLICATE_ACKS: u8 = 3;

/// Segments of a run that wait for one before them at most: who sends in another order is off by a few.
pub(crate) const EARLY_MAX: usize = 16;

/// First retransmission timeout (RFC 6298, section 2.1).
pub(crate) const RTO_INITIAL: Duration = Duration::from_secs(1);

/// The same once a SYN had to be repeated (RFC 6298, section 5.7).
pub(crate) const RTO_AFTER_SYN_RETRY: Duration = Duration::from_secs(3);

/// Timeouts of data, or unanswered window probes, after which the flow is reset: with the default
/// cap of 120 s about four minutes, beyond the 100 s of RFC 9293, section 3.8.3.
pub(crate) const DATA_RETRIES: u8 = 7;

/// Repetitions of a SYN or SYN-ACK at most, whatever is configured.
pub(crate) const SYN_RETRIES_MAX: u8 = 7;

/// How long the acknowledgement of a FIN may wait: less than the 500 ms of RFC 9293, section 3.8.6.3, and
/// than any retransmission timeout, but enough for the peer to close, too.
pub(crate) const FIN_ACK_DELAY: Duration = Duration::from_millis(5);

/// How long an acknowledgement of data may wait for data that carries it, or for more to acknowledge: longer
/// than a server in the next room takes to answer, and than a guest takes to send the next 64 KiB; less than
/// a guest can notice.
pub(crate) const ACK_DELAY: Duration = Duration::from_micros(300);

/// Runs of segments that one acknowledgement waits for at most: with small ones it must not wait for ever.
pub(crate) const ACK_RUNS: u8 = 8;

/// Acknowledgements that are sent at once after one has waited in vain: what a guest loses that waits for
/// each of them is a hundredth of a millisecond each.
pub(crate) const PROMPT_ACKS: u8 = 32;

/// Bytes that may wait for their acknowledgement: four of the largest frames. Less where the window is small.
pub(crate) const UNACKNOWLEDGED_MAX: u32 = 256 * 1024;

/// How long a guest that has no room for a segment is silent until the socket's room is looked at again, where less than half
/// of its buffer is free; each time after twice as long. The kernel tells of room at a third only, after there was less, and
/// as much as a buffer holds can be under way. Less than a round trip between continents.
pub(crate) const LOOK_AFTER: Duration = Duration::from_millis(8);

/// Looks at most: the guest's own timer is next, after 200 ms and more.
pub(crate) const LOOKS: u8 = 5;

/// Silence after which the guest is probed, and the pause between probes.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(30);

/// Time without a segment or a socket event after which a flow is reset.
pub const INACTIVITY: Duration = Duration::from_secs(7200);

// Intervals of silence are counted in a byte.
const _: () = assert!(INACTIVITY.as_secs() / KEEPALIVE.as_secs() <= 255);
const _: () = assert!((0xffff << WINDOW_SCALE) < WINDOW_MAX);

/// How long the reset with which a connection ends waits: for room in the link, and for the guest to take what the peer
/// had sent before.
pub(crate) const RESET_PATIENCE: Duration = Duration::from_secs(60);

/// The second of them for a guest that sends meanwhile, and has no room to take anything.
pub(crate) const IN_VAIN_PATIENCE: Duration = Duration::from_secs(1);
