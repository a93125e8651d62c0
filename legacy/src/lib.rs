//! The links from before vhost-user: qemu's stream socket, and later the tap device. They move frames
//! between a client and a flow engine, and know no IP.
//!
//! # Theory of operation
//! On a *stream socket* (`-netdev stream` of QEMU, and everything that speaks the same) frames follow
//! each other, each behind its length. A stream knows no frames: one read may bring half a length, one
//! write may take half a frame. [`framing`] turns such a stream into whole frames and back, on buffers
//! of fixed size. It is pure: bytes and counts in, frames and bytes out, no socket.
//!
//! This version holds the framing only. No [`FramePort`](passt_frame::FramePort) is built on it yet,
//! so the program cannot serve such a client.
//!
//! # Invariants
//! * The client is hostile. A length that no frame can have ends the connection, nothing more; no
//!   length makes the program allocate.
//! * Nothing waits. What the kernel does not take stays in a buffer until the socket is writable; a
//!   frame is started only if all of it fits there, so no frame is ever cut short.
//! * A frame that was started is finished before another begins.
//! * Buffers are allocated with their owner, and never again.

pub mod framing;
