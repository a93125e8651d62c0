//! System calls as safe functions. `unsafe` lives here: what rustix has is used from there, the rest
//! (options and control messages it does not know) is called through libc and wrapped.
//!
//! Nothing here decides anything: each function is one or two system calls with typed arguments.

pub(crate) mod bound_ports;
pub(crate) mod capability;
pub(crate) mod clock;
pub(crate) mod copy_buffer;
pub(crate) mod datagram;
pub(crate) mod errno;
pub(crate) mod events;
pub(crate) mod group;
pub(crate) mod landlock;
pub(crate) mod mount;
pub(crate) mod namespace;
pub mod namespace_socket;
pub(crate) mod neighbours;
pub(crate) mod netlink;
pub mod process;
pub(crate) mod repair;
pub(crate) mod route_events;
pub(crate) mod seccomp;
pub(crate) mod shared_folder;
pub(crate) mod sock_diag;
pub mod socket;
pub mod stream;
pub mod tun;

pub(crate) use errno::{errno_text, io_error_text};
