//! That something about the host's links, addresses, routes or rules has changed (rtnetlink(7)), not what: whoever
//! is told asks for all of it. The socket belongs to the network namespace in which it was made. Nothing here waits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with, sockopt,
};

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV4_RULE`, `RTMGRP_IPV6_IFADDR`,
/// `RTMGRP_IPV6_ROUTE`, and the group of IPv6 rules, `RTNLGRP_IPV6_RULE`.
const GROUPS: u32 = 1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18;

/// Room for notifications. It is small: what is lost is as good as what is read, and is not worth reading.
const QUEUE_BYTES: usize = 16 * 1024;

/// Most notifications that are thrown away with one call.
const MOST_READ: usize = 1024;

/// A subscription.
pub(crate) struct RouteEvents(OwnedFd);

impl RouteEvents {
    /// Subscribes to changes of the current namespace.
    ///
    /// # Errors
    /// What socket(2) and bind(2) report.
    pub(crate) fn open() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        sockopt::set_socket_recv_buffer_size(&socket, QUEUE_BYTES)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Throws away the notifications that wait. True if there were any, or some were lost.
    pub(crate) fn any(&self) -> bool {
        let mut any = false;
        for _ in 0..MOST_READ {
            match recv(&self.0, &mut [0; 0][..], RecvFlags::TRUNC) {
                Ok(_) | Err(Errno::NOBUFS) => any = true,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        any
    }
}

impl AsFd for RouteEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use passt_support::namespace::isolated;

    use super::*;

    fn ip(change: &str) {
        let done = Command::new("ip").args(change.split(' ')).status().unwrap();
        assert!(done.success(), "{change}");
    }

    #[test]
    fn every_kind_of_change_is_told_and_a_flood_is_one_word() {
        isolated("ip link set lo up", || {
            let events = RouteEvents::open().unwrap();
            assert!(!events.any());
            for change in [
                "link add veth0 type veth peer name veth1",
                "link set veth0 up",
                "addr add 192.0.2.1/24 dev veth0",
                "addr add 2001:db8::1/64 dev veth0 nodad",
                "route add default via 192.0.2.2",
                "route del default",
                "-6 route add default via 2001:db8::2",
                "rule add from 192.0.2.9 table 9",
                "-6 rule add from 2001:db8::9 table 9",
                "link del veth0",
            ] {
                ip(change);
                assert!(events.any(), "{change}");
            }
            for _ in 0..300 {
                ip("route add 198.51.100.0/24 dev lo");
                ip("route del 198.51.100.0/24 dev lo");
            }
            assert!(events.any());
            assert!(!events.any(), "what was lost is told once");
        });
    }
}
