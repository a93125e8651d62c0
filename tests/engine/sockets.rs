//! Duplicates of the engine's sockets, by whom they are connected to.

use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};

use rustix::net::getpeername;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Duplicates of all descriptors of this process, each with the number of what it is one of.
pub fn copies() -> Vec<(RawFd, OwnedFd)> {
    let own = std::fs::read_dir("/proc/self/fd").expect("procfs");
    let numbers = own.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let this = pidfd_open(getpid(), PidfdFlags::empty()).expect("a descriptor of a process");
    let copy = |number| pidfd_getfd(&this, number, PidfdGetfdFlags::empty()).ok();
    let numbers = numbers.collect::<Vec<RawFd>>().into_iter();
    numbers.filter_map(|number| Some((number, copy(number)?))).collect()
}

/// Duplicates of all sockets of this process that are connected to `to`.
pub fn connected_to(to: SocketAddr) -> Vec<OwnedFd> {
    let is_peer = |socket: &OwnedFd| {
        let peer = getpeername(socket).ok().flatten();
        peer.and_then(|peer| SocketAddr::try_from(peer).ok()) == Some(to)
    };
    copies().into_iter().map(|(_, socket)| socket).filter(is_peer).collect()
}
