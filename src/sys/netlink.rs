//! A socket of rtnetlink(7), for questions and changes whose answers are waited for. It belongs to the
//! network namespace of the thread that makes it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

/// A socket that is connected to the kernel.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Connects to the kernel. The type of the socket makes no difference to the kernel, but policies for
    /// passt (AppArmor) allow this one only.
    ///
    /// # Errors
    /// What socket(2) or connect(2) report.
    pub(crate) fn new() -> Result<Self, Errno> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// What send(2) reports.
    pub(crate) fn send(&self, message: &[u8]) -> Result<(), Errno> {
        retry_on_intr(|| send(&self.socket, message, SendFlags::empty())).map(drop)
    }

    /// Throws away what waits, of a question that was not read to its end.
    pub(crate) fn drain(&self) {
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        while retry_on_intr(|| recv(&self.socket, &mut [0; 0][..], flags)).is_ok() {}
    }

    /// Waits for a datagram, which may hold several messages.
    ///
    /// # Errors
    /// What recv(2) reports.
    pub(crate) fn receive(&self) -> Result<Vec<u8>, Errno> {
        let look = RecvFlags::PEEK | RecvFlags::TRUNC;
        let (_, length) = retry_on_intr(|| recv(&self.socket, &mut [0; 0][..], look))?;
        let mut datagram = vec![0; length];
        let (_, length) =
            retry_on_intr(|| recv(&self.socket, &mut datagram[..], RecvFlags::empty()))?;
        datagram.truncate(length);
        Ok(datagram)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_of_the_type_that_policies_allow() {
        let socket = Netlink::new().unwrap();
        assert_eq!(rustix::net::sockopt::socket_type(&socket.socket).unwrap(), SocketType::RAW);
    }

    #[test]
    fn answers_come_whole() {
        let socket = Netlink::new().unwrap();
        // RTM_GETLINK for all interfaces: `struct nlmsghdr` and `struct ifinfomsg`.
        let mut question = [0; 32];
        question[..4].copy_from_slice(&32u32.to_ne_bytes());
        question[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        question[6..8].copy_from_slice(&flags.to_ne_bytes());
        socket.send(&question).unwrap();
        let answer = socket.receive().unwrap();
        let first = u32::from_ne_bytes(*answer.first_chunk().unwrap()) as usize;
        assert!(first <= answer.len(), "{first} of {} bytes", answer.len());
        assert_eq!(answer[4..6], libc::RTM_NEWLINK.to_ne_bytes());
    }
}
