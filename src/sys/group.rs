//! Groups of sockets' hosts, and broadcasts: what a socket is a member of, where its packets to groups go, how far they
//! may get, who of this host hears them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::sockopt;

use super::socket::{
    Transport, bind_to_device, connect, create, local_address, set_bytes, set_int,
};

/// Makes a socket a member of `group` on the interface with this index; 0 for where the way to the group leads.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn join(socket: BorrowedFd<'_>, group: IpAddr, interface: u32) -> Result<(), Errno> {
    match group {
        IpAddr::V4(v4) => {
            let request = v4_request(v4.octets(), interface);
            set_bytes(socket, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request)
        }
        IpAddr::V6(v6) => {
            // `struct ipv6_mreq`: group, interface index.
            let mut request = [0; 20];
            request[..16].copy_from_slice(&v6.octets());
            request[16..].copy_from_slice(&interface.to_ne_bytes());
            set_bytes(socket, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &request)
        }
    }
}

/// Has a socket's packets to groups leave by the interface with this index.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn leave_by(socket: BorrowedFd<'_>, v4: bool, interface: u32) -> Result<(), Errno> {
    if v4 {
        let request = v4_request([0; 4], interface);
        set_bytes(socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request)
    } else {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, interface as i32)
    }
}

/// `struct ip_mreqn`: group, local address, interface index.
fn v4_request(group: [u8; 4], interface: u32) -> [u8; 12] {
    let mut request = [0; 12];
    request[..4].copy_from_slice(&group);
    request[8..].copy_from_slice(&interface.to_ne_bytes());
    request
}

/// Sets the TTL or hop limit of a socket's packets to groups; it is 1 before.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn set_hop_limit(socket: BorrowedFd<'_>, v4: bool, hops: u8) -> Result<(), Errno> {
    if v4 {
        set_int(socket, libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, hops.into())
    } else {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, hops.into())
    }
}

/// Has members of groups on this host hear what a socket sends to those, or not; they do before.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn let_host_hear(socket: BorrowedFd<'_>, v4: bool, hear: bool) -> Result<(), Errno> {
    if v4 {
        set_int(socket, libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, hear.into())
    } else {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, hear.into())
    }
}

/// The address from which this host sends to `address`, with port 0, from a socket that is bound to `interface`, and
/// whose packets to groups leave by the interface with the index `groups_by`, if that is not 0. Nothing is sent.
///
/// # Errors
/// What socket(2) and the calls on the socket report.
pub(crate) fn source_toward(
    mut address: SocketAddr,
    interface: Option<&str>,
    groups_by: u32,
) -> Result<SocketAddr, Errno> {
    // Any port does, but not none.
    address.set_port(1);
    let socket = create(Transport::Udp, address.ip())?;
    let fd = socket.as_fd();
    if let Some(interface) = interface {
        bind_to_device(fd, interface)?;
    }
    if address.ip().is_multicast() && groups_by != 0 {
        leave_by(fd, address.is_ipv4(), groups_by)?;
    }
    connect(fd, address)?;
    let mut local = local_address(fd)?;
    local.set_port(0);
    Ok(local)
}

/// Lets a socket send broadcasts.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn allow_broadcast(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    sockopt::set_socket_broadcast(socket, true)
}
