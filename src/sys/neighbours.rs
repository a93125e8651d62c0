//! The host's neighbour table: a dump, and notifications of its changes (`RTM_GETNEIGH`, rtnetlink(7)).
//!
//! The socket belongs to the namespace in which it was made. Nothing here waits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, send, socket_with};

use super::sock_diag::{HEADER_BYTES, error, next_message, receive};
use crate::wire::Mac;

/// Types of messages about a request.
const DONE: u16 = libc::NLMSG_DONE as u16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
/// `struct ndmsg`: family, padding, interface index, state, flags, type.
const MESSAGE_BYTES: usize = 12;
/// Attributes: `NDA_DST`, `NDA_LLADDR` (linux/neighbour.h).
const DESTINATION: u16 = 1;
const LINK_LAYER: u16 = 2;
/// States in which the link-layer address is one: all but none, incomplete and failed.
const VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;
/// `RTMGRP_NEIGH`.
const GROUP: u32 = 1 << 2;
/// One datagram: the kernel fills at most so much.
const DATAGRAM_BYTES: usize = 32 * 1024;

/// Room for notifications, the same whatever the system's default is: some hundreds.
const QUEUE_BYTES: usize = 128 * 1024;

/// What is told of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// Index of the interface that it is behind.
    pub(crate) interface: u32,
    /// Its address.
    pub(crate) address: IpAddr,
    /// Its Ethernet address; `None` when it is gone, or has none that is known.
    pub(crate) mac: Option<Mac>,
}

/// One thing that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Of a neighbour.
    Neighbour(Neighbour),
    /// The dump has ended.
    DumpDone,
}

/// A subscription.
pub(crate) struct NeighbourSocket {
    socket: OwnedFd,
    datagram: Box<[u8; DATAGRAM_BYTES]>,
}

impl NeighbourSocket {
    /// Subscribes to changes of the current namespace's table.
    ///
    /// # Errors
    /// What socket(2) and bind(2) report.
    pub(crate) fn open() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        sockopt::set_socket_recv_buffer_size(&socket, QUEUE_BYTES)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
        Ok(Self { socket, datagram: Box::new([0; DATAGRAM_BYTES]) })
    }

    /// Asks for the whole table, of both families.
    ///
    /// # Errors
    /// What send(2) reports.
    pub(crate) fn ask(&self) -> Result<(), Errno> {
        let mut bytes = [0; HEADER_BYTES + MESSAGE_BYTES];
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        bytes[..4].copy_from_slice(&((HEADER_BYTES + MESSAGE_BYTES) as u32).to_ne_bytes());
        bytes[4..6].copy_from_slice(&libc::RTM_GETNEIGH.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        send(&self.socket, &bytes, SendFlags::empty()).map(|_| ())
    }

    /// Reads one datagram and calls `visit` with each thing that it tells.
    ///
    /// # Errors
    /// `AGAIN` when none waits, `NOBUFS` when some were lost, and what the kernel says of a request.
    pub(crate) fn read(&mut self, mut visit: impl FnMut(News)) -> Result<(), Errno> {
        let length = receive(self.socket.as_fd(), &mut self.datagram[..])?;
        let mut rest = &self.datagram[..length.min(DATAGRAM_BYTES)];
        while let Some((message, kind)) = next_message(&mut rest) {
            let told = match kind {
                DONE => Some(News::DumpDone),
                ERROR => return Err(error(message)),
                libc::RTM_NEWNEIGH => neighbour(message, true).map(News::Neighbour),
                libc::RTM_DELNEIGH => neighbour(message, false).map(News::Neighbour),
                _ => None,
            };
            told.into_iter().for_each(&mut visit);
        }
        Ok(())
    }
}

impl AsFd for NeighbourSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads a message with a `struct ndmsg` and its attributes; other families than those of IP, and
/// link-layer addresses of another length than Ethernet's, are not told of.
fn neighbour(message: &[u8], there: bool) -> Option<Neighbour> {
    let body = message.get(HEADER_BYTES..)?;
    let (head, mut attributes) = body.split_first_chunk::<MESSAGE_BYTES>()?;
    let &[_, _, _, _, i0, i1, i2, i3, s0, s1, ..] = head;
    let (mut address, mut mac) = (None, None);
    while let Some((kind, value)) = next_attribute(&mut attributes) {
        match kind {
            DESTINATION => address = ip(value),
            LINK_LAYER => mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    let usable = there && u16::from_ne_bytes([s0, s1]) & VALID != 0;
    Some(Neighbour {
        interface: u32::from_ne_bytes([i0, i1, i2, i3]),
        address: address?,
        mac: mac.filter(|_| usable),
    })
}

/// Takes the next attribute (`struct rtattr`: length, type) off `rest`.
fn next_attribute<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    const HEAD: usize = 4;
    let &[l0, l1, k0, k1] = rest.first_chunk::<HEAD>()?;
    let length = usize::from(u16::from_ne_bytes([l0, l1]));
    let value = rest.get(HEAD..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((u16::from_ne_bytes([k0, k1]), value))
}

/// Reads `bytes` as what the kernel says: how many neighbours it tells of.
#[cfg(fuzzing)]
pub(crate) fn look(mut bytes: &[u8]) -> usize {
    let messages = std::iter::from_fn(|| next_message(&mut bytes));
    messages.filter(|(message, _)| neighbour(message, true).is_some()).count()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(state: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend([2, 0, 0, 0]);
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(state.to_ne_bytes());
        bytes.extend([0, 1]);
        for (kind, value) in attributes {
            bytes.extend((4 + value.len() as u16).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn a_neighbour_is_known_by_a_valid_ethernet_address() {
        let (v4, mac) = ([192, 0, 2, 7], [2, 0, 0, 0, 0, 7]);
        let both: [(u16, &[u8]); 3] = [(DESTINATION, &v4), (9, &[1]), (LINK_LAYER, &mac)];
        let told = |mac| Neighbour { interface: 7, address: Ipv4Addr::from(v4).into(), mac };
        for (state, known) in
            [(0x00, false), (0x01, false), (0x02, true), (0x04, true), (0x08, true), (0x20, false)]
        {
            let expected = told(known.then_some(Mac(mac)));
            assert_eq!(neighbour(&message(state, &both), true), Some(expected), "{state:#x}");
        }
        assert_eq!(neighbour(&message(0x80, &both), false), Some(told(None)));
        let infiniband = message(0x80, &[(DESTINATION, &v4), (LINK_LAYER, &[1; 20])]);
        assert_eq!(neighbour(&infiniband, true), Some(told(None)));
        let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        let found = neighbour(&message(0x40, &[(DESTINATION, &v6), (LINK_LAYER, &mac)]), true);
        assert_eq!(found.map(|found| found.address), Some(Ipv6Addr::from(v6).into()));
    }

    #[test]
    fn broken_messages_tell_nothing() {
        let whole =
            message(2, &[(DESTINATION, &[192, 0, 2, 7]), (LINK_LAYER, &[2, 0, 0, 0, 0, 7])]);
        for length in 0..HEADER_BYTES + MESSAGE_BYTES + 8 {
            assert_eq!(neighbour(&whole[..length], true), None, "{length} bytes");
        }
        assert_eq!(neighbour(&message(2, &[(DESTINATION, &[1, 2, 3])]), true), None);
        for mut endless in [&[0, 0, 1, 0][..], &[3, 0, 1, 0], &[255, 255, 1, 0, 0]] {
            assert_eq!(next_attribute(&mut endless), None);
        }
    }

    #[test]
    fn a_dump_ends() {
        let mut socket = NeighbourSocket::open().expect("a netlink socket");
        socket.ask().expect("sent");
        let mut done = false;
        while !done {
            socket.read(|news| done |= news == News::DumpDone).expect("the dump goes on");
        }
    }
}
