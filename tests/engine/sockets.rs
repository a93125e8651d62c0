//! The engine's sockets, by whom they are connected to.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::getpeername;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Duplicates of all sockets of this process that are connected to `to`.
pub fn connected_to(to: SocketAddr) -> Vec<OwnedFd> {
    let own = std::fs::read_dir("/proc/self/fd").expect("procfs");
    let numbers = own.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let this = pidfd_open(getpid(), PidfdFlags::empty()).expect("a descriptor of a process");
    let all = numbers.collect::<Vec<_>>().into_iter();
    all.filter_map(|number| pidfd_getfd(&this, number, PidfdGetfdFlags::empty()).ok())
        .filter(|socket| {
            let peer = getpeername(socket).ok().flatten();
            peer.and_then(|peer| SocketAddr::try_from(peer).ok()) == Some(to)
        })
        .collect()
}
