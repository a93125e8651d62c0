//! A vhost-user back-end for one virtio network device: moves frames between a guest's rings and a
//! flow engine, and knows no IP.
//!
//! # Theory of operation
//! A *front-end* (QEMU, Cloud Hypervisor, crosvm, User-Mode Linux) connects to a socket and tells,
//! message by message, which memory its guest has and where in it rings lie: two for each queue pair, and
//! perhaps one for commands. From then on the *driver* in the guest and this crate exchange frames through
//! that memory without the front-end; eventfds carry notifications both ways.
//!
//! * [`Device`] is the [`FramePort`](passt_frame::FramePort) that the loop drives: it owns
//! * `Control`, the connection: `Framing` collects whole messages without ever waiting, a pre-filter
//!   serves those that the `vhost` crate rejects, the rest is relayed to that crate, which calls
//! * `Session`, the device behind the messages: features, memory, the `ControlQueue`, and a list of
//! * `QueuePair`s, each an `RxHalf` (to the guest) and a `TxHalf` (from the guest) with
//! * a `Vring`, what the front-end has said of it, and a `Ring` while it runs: a burst view of a split
//!   ring, popped many at a time, published once for each turn of the loop.
//!
//! A guest that moves is copied while it runs: what is written to its memory is marked in the front-end's
//! `dirty_log`. What whoever drives the device knows of it goes along through the front-end's pipe (`transfer`), of
//! whose bytes this crate knows nothing.
//!
//! What this crate reads and writes in guest memory goes through `mem`, the only file with `unsafe` blocks.
//!
//! # Invariants
//! * One thread. Nothing waits: not for a message, not for a reply, not on a full call counter.
//! * The front-end and the driver are hostile. A broken *message* ends the connection, a broken *ring*
//!   stops that ring, a broken *frame* is dropped and counted. None ends the process.
//! * Memory that a ring or a lease points into stays mapped as long as the pointer lives.
//! * Descriptors leave epoll before they are closed.
//! * Once the rings run, moving frames allocates nothing.
//!
//! # System calls
//! After [`Device::new`], for a seccomp list: recvmsg, recvfrom, sendmsg, sendto, socketpair,
//! epoll_ctl, fcntl, fstat, mmap, munmap, read, write, close, rt_sigreturn.
//!
//! Specifications: virtio 1.2, sections 2.7 (split rings) and 5.1 (network device); vhost-user as
//! published with QEMU.

// What no other crate needs is `pub(crate)`, so that the compiler finds dead code.
#![warn(unreachable_pub)]

mod command;
mod config;
mod control;
mod device;
mod dirty_log;
mod features;
mod handler;
mod indexes;
mod mem;
mod message;
mod moderation;
mod notice;
mod queue;
mod region;
mod ring;
mod run;
mod rx;
mod session;
mod sharing;
mod transfer;
mod tx;
mod vring;

pub use config::Config;
pub use device::{Device, SetupError};
