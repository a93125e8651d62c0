//! The frame-iovec trait: how Ethernet frames pass between a link and the flow engine.
//!
//! A *link* (vhost-user rings, qemu's stream socket, a tap device) owns the buffers; the engine
//! owns the sockets. Neither copies payload: the link lends its buffers as raw iovecs, the engine
//! lets the kernel fill them (`recvmsg`) or read them (`sendmsg`), and gives them back.
//!
//! * [`FramePort`] is a link. It has two halves, [`ToGuest`] and [`FromGuest`], which can be
//!   borrowed at the same time, so that an answer can be written while a question is still held.
//! * [`ToGuestLease`] is room in the guest's buffers, reserved but not yet visible to the guest.
//!   Dropping it gives the room back untouched; [`ToGuestLease::commit`] hands frames over.
//! * [`Reservation`] is what comes of asking for one: all, some, none for the moment, or never. After some
//!   and none the link owes a report of room. The law stands in `room.rs` and is the same for every link.
//! * [`FromGuestLease`] is a batch of frames from the guest: the first [`HEAD_BYTES`] of each are
//!   copied once to private memory (what is checked is what is used, the guest cannot change it
//!   in between), payload stays where it is. Dropping it releases the buffers in order.
//! * While a lease lives its half is mutably borrowed. A change of the memory table, a ring that
//!   stops, a second reservation: none of these compiles in between.
//!
//! Offload metadata ([`FrameMeta`]) is neutral and per frame. A link without offloads says so in
//! its [`Caps`]; the engine then asks for frames of one MSS and complete checksums instead of one
//! 64 KiB unit, on the same code path.
//!
//! This crate holds all raw-iovec code of the project. Guest memory is never a Rust reference: the
//! guest writes it whenever it likes. It is touched through raw pointers here, by the kernel, or
//! by the memory file of the vhost crate, and nowhere else.

// What no other crate needs is `pub(crate)`, so that the compiler finds dead code.
#![warn(unreachable_pub)]

mod arena;
mod expected;
mod from_guest;
mod iovec;
mod mem_port;
pub mod message;
mod meta;
pub mod net_header;
mod observer;
mod pipe;
mod port;
mod registrar;
mod room;
mod to_guest;

pub use arena::{Arena, unread_bytes};
pub use expected::Expected;
pub use from_guest::{FromGuestBatch, FromGuestFrame, FromGuestLease, Part};
pub use iovec::{GuestIovec, OnesSum};
pub use mem_port::{Faults, MemPort};
pub use meta::{Caps, Checksum, FrameDone, FrameMeta, Gso, GsoKind, GsoSet};
pub use observer::{FrameObserver, PassingFrame};
pub use pipe::Pipe;
pub use port::{Delivery, FramePort, FromGuest, FrontEndRequest, LinkChange, PortEvents, ToGuest};
pub use registrar::{Registrar, Trigger};
pub use room::{Owed, Payload, RoomDebt, Stopped};
pub use rustix::io::Errno;
pub use to_guest::{Reservation, Reserve, ToGuestLease, ToGuestList};

/// Bytes of each frame from the guest that are copied to private memory: Ethernet (14), IPv6 (40),
/// TCP with all options (60), and what remains for one extension header.
pub const HEAD_BYTES: usize = 128;

/// Smallest Ethernet frame without its checksum (IEEE 802.3); shorter frames are padded with zeros.
pub const MIN_FRAME_BYTES: u32 = 60;

/// Largest frame in either direction: Ethernet header, IPv6 header, and the most that its length field
/// can say.
pub const MAX_FRAME_BYTES: u32 = 14 + 40 + 65_535;

/// Frames in one reservation or one batch.
pub const MAX_FRAMES: usize = 128;

/// Payload iovecs in one reservation. With [`DISCARD_IOVECS`] it stays within `UIO_MAXIOV`.
pub const MAX_TO_GUEST_IOVECS: usize = 768;

/// Iovecs kept free in front of the payload to skip bytes that were sent already, on kernels
/// without `SO_PEEK_OFF` for TCP (before 6.9).
pub(crate) const DISCARD_IOVECS: usize = 256;

/// Bytes of one discard iovec; with [`DISCARD_IOVECS`] they cover a window of 16 MiB.
pub(crate) const DISCARD_BYTES: usize = 64 * 1024;

/// Iovecs in one batch of frames from the guest.
pub const MAX_FROM_GUEST_IOVECS: usize = 4096;

/// The kernel's limit of iovecs in one call (`UIO_MAXIOV`).
pub(crate) const MAX_SYSCALL_IOVECS: usize = 1024;

const _: () = assert!(MAX_TO_GUEST_IOVECS + DISCARD_IOVECS <= MAX_SYSCALL_IOVECS);
