//! System calls as safe functions. `unsafe` lives here: what rustix has is used from there, the rest
//! (options and control messages it does not know) is called through libc and wrapped.
//!
//! Nothing here decides anything: each function is one or two system calls with typed arguments.

pub mod batch;
pub mod capability;
pub mod datagram;
pub mod errno;
pub mod events;
pub mod mount;
pub mod namespace;
pub mod namespace_socket;
pub mod neighbours;
pub mod netlink;
pub mod process;
pub mod seccomp;
pub mod services;
pub mod sock_diag;
pub mod socket;
pub mod stream;
pub mod tun;

pub use errno::errno_text;
