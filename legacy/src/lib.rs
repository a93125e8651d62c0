//! The links from before vhost-user: qemu's stream socket, and the tap device of a network namespace.
//! They move frames between a client and a flow engine, and know no IP.
//!
//! # Theory of operation
//! On a *stream socket* (`-netdev stream` of QEMU, and everything that speaks the same) frames follow
//! each other, each behind its length. A stream knows no frames: one read may bring half a length, one
//! write may take half a frame.
//!
//! * [`Stream`] is the [`FramePort`](passt_frame::FramePort) that the loop drives: it owns
//! * `Incoming`, which reads as much as there is into an arena and lends whole frames from it, or, while
//!   frames are large, reads no more than their heads and leaves the rest to the kernel, and
//! * `Outgoing`, which hands out room in a second arena and writes all frames of a turn at once.
//!
//! The stream has no offloads: every frame is one packet of the guest's, with its checksum.
//!
//! On a *tap device* ([`Tap`]) each system call moves one frame, and the kernel's offloads make one
//! frame up to 64 KiB of payload: the file says how.
//!
//! # Invariants
//! * The client is hostile. A length that no frame can have ends the connection, nothing more; no
//!   length makes the program allocate.
//! * Nothing waits. What the kernel does not take stays in the arena until the socket is writable, and
//!   until then there is no room: what is sent later waits where it comes from.
//! * A frame that was started is finished before another begins.
//! * Both arenas are reserved with the link, and moving frames allocates nothing. The pipe for large
//!   frames is made when the first ones come, and closed with the client.
//!
//! # System calls
//! After [`Stream::new`], for a seccomp list: recvfrom, sendto, shutdown, setsockopt, epoll_ctl, close,
//! and for the pipe pipe2, fcntl, splice, read.

// What no other crate needs is `pub(crate)`, so that the compiler finds dead code.
#![warn(unreachable_pub)]

mod backlog;
mod incoming;
mod outgoing;
mod shape;
mod stream;
mod tap;
#[cfg(test)]
mod testing;

use passt_frame::MAX_FRAME_BYTES;

pub use stream::{AttachError, Stream};
pub use tap::{Offloads, Tap};

/// Bytes of the length in front of each frame, an integer in network byte order that does not count
/// itself (QEMU, "Network backend stream").
const PREFIX_BYTES: usize = 4;

/// Bytes of the shortest frame that is accepted: an Ethernet header without payload.
const SHORTEST_BYTES: u32 = 14;

/// Bytes of either arena: several of the largest frames, so that a burst is one system call, and little
/// enough to stay in a cache.
const ARENA_BYTES: usize = 512 * 1024;

const _: () = assert!(ARENA_BYTES >= 4 * (PREFIX_BYTES + MAX_FRAME_BYTES as usize));
