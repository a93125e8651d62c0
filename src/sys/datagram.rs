//! Datagrams with their addresses, and the error queue (`IP_RECVERR`, ip(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use passt_frame::message::{self, CONTROL_HEADER};
use rustix::io::Errno;

use super::socket::{canonical, last_errno, set_int};

/// The datagram at the head of a socket's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Payload bytes.
    pub(crate) len: u32,
    /// Who sent it; v4-mapped addresses as IPv4.
    pub(crate) source: SocketAddr,
    /// The address it was sent to, if the socket reports it ([`report_destination`]).
    pub(crate) destination: Option<IpAddr>,
    /// That of this host which answers come from: another one than `destination` if that is a broadcast or a group.
    pub(crate) own: Option<IpAddr>,
}

/// An ICMP error that a socket got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueuedError {
    /// What the error means to a program; `None` if the kernel does not say.
    pub(crate) errno: Option<Errno>,
    /// ICMP or ICMPv6 type; `None` for an error of the host itself.
    pub(crate) kind: Option<u8>,
    /// Code that goes with the type.
    pub(crate) code: u8,
    /// MTU for "fragmentation needed" and "packet too big".
    pub(crate) info: u32,
    /// Who sent the error.
    pub(crate) offender: Option<IpAddr>,
    /// Where the datagram was sent to that caused it.
    pub(crate) destination: Option<SocketAddr>,
    /// Bytes of that datagram's payload that were copied.
    pub(crate) payload_len: usize,
}

/// Makes a socket report the destination address of each datagram. One of both families that is not `v4` says of IPv4
/// datagrams, too, which address answers come from.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn report_destination(socket: BorrowedFd<'_>, v4: bool) -> Result<(), Errno> {
    if v4 {
        set_int(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    } else {
        // A socket of IPv6 alone may refuse it, and has no use for it.
        let _ = set_int(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1);
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    }
}

/// Makes a socket queue ICMP errors.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn report_errors(socket: BorrowedFd<'_>, v4: bool) -> Result<(), Errno> {
    if v4 {
        set_int(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
    } else {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)
    }
}

/// Makes a socket of either family forget ICMP errors again: they do not end a connection any more.
pub(crate) fn ignore_errors(socket: BorrowedFd<'_>) {
    // One of the two is not an option of the socket's.
    let _ = set_int(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 0);
    let _ = set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 0);
}

/// linux/in6.h; libc does not have it.
pub(crate) const IPV6_MULTICAST_ALL: i32 = 29;

/// Has a socket get nothing that is for groups which others of the host have joined (`IP_MULTICAST_ALL`, ip(7);
/// `IPV6_MULTICAST_ALL`, Linux 4.20).
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn own_groups_only(socket: BorrowedFd<'_>, v4: bool) -> Result<(), Errno> {
    if v4 {
        set_int(socket, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, 0)
    } else {
        set_int(socket, libc::IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
    }
}

/// Has a socket of both families get what is for IPv4 groups that others of the host have joined: one of IPv4 alone does so
/// from the start, and so does this one for groups of IPv6.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn all_v4_groups(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_int(socket, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, 1)
}

/// Lets a UDP socket hand out datagrams of one size that arrived together as one burst (`UDP_GRO`,
/// Linux 5.0).
///
/// # Errors
/// What setsockopt(2) reports: `NOPROTOOPT` on older kernels.
pub(crate) fn coalesce(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_int(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Lets `bytes` bytes wait in each direction, or as many as `net.core.rmem_max` and `wmem_max` allow:
/// both are twice the size that sockets start with, because the kernel doubles what is asked for.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn enlarge(socket: BorrowedFd<'_>, bytes: i32) -> Result<(), Errno> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
    set_int(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes)
}

/// Room for the control messages of one datagram: packet info of both families, or one error with
/// its offender.
#[repr(align(8))]
struct Control([u8; 256]);

/// Room for a socket address of any family (`struct sockaddr_storage`).
#[repr(align(8))]
struct Name([u8; 128]);

/// Room for a socket address of the internet (`struct sockaddr_in6`).
#[repr(align(8))]
#[derive(Clone, Copy)]
pub(super) struct InternetName(pub(crate) [u8; 32]);

/// Reads a `sockaddr_in` (family, port, address) or `sockaddr_in6` (family, port, flow information,
/// address, scope); other families have no meaning here. v4-mapped addresses become IPv4.
pub(super) fn socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let &[f0, f1, p0, p1] = bytes.first_chunk::<4>()?;
    let port = u16::from_be_bytes([p0, p1]);
    match i32::from(u16::from_ne_bytes([f0, f1])) {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some((Ipv4Addr::from(octets), port).into())
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
            Some(canonical(SocketAddrV6::new(octets.into(), port, 0, scope).into()))
        }
        _ => None,
    }
}

/// One recvmsg(2) and what it needs.
struct Received {
    len: u32,
    name: Option<SocketAddr>,
    control: Control,
    control_len: usize,
}

fn recvmsg(socket: BorrowedFd<'_>, payload: &mut [u8], flags: i32) -> Result<Received, Errno> {
    let mut name = Name([0; 128]);
    let mut control = Control([0; 256]);
    let mut iovec = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    let mut header = message::header(&raw mut iovec, 1);
    header.msg_name = name.0.as_mut_ptr().cast();
    header.msg_namelen = name.0.len() as libc::socklen_t;
    message::set_control(&mut header, control.0.as_mut_ptr(), control.0.len());
    // SAFETY: all pointers of `header` are to live locals of the lengths stated.
    let n =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_DONTWAIT) };
    let len = u32::try_from(n).map_err(|_| last_errno())?;
    let name = socket_address(&name.0[..(header.msg_namelen as usize).min(name.0.len())]);
    Ok(Received { len, name, control, control_len: message::control_bytes(&header) })
}

impl Received {
    fn control_bytes(&self) -> &[u8] {
        &self.control.0[..self.control_len.min(self.control.0.len())]
    }
}

/// Calls `visit` with level, type and bytes of each control message in `bytes`.
pub(super) fn control_messages(bytes: &[u8], mut visit: impl FnMut(i32, i32, &[u8])) {
    let mut rest = bytes;
    while let Some((header, _)) = rest.split_at_checked(CONTROL_HEADER) {
        // SAFETY: any bytes are a valid cmsghdr; `header` has as many bytes as it needs.
        let header: libc::cmsghdr =
            unsafe { header.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
        let len = message::control_message_bytes(&header);
        let Some(data) = rest.get(CONTROL_HEADER..len) else { return };
        visit(header.cmsg_level, header.cmsg_type, data);
        rest = rest.get(len.next_multiple_of(align_of::<usize>())..).unwrap_or(&[]);
    }
}

/// Length and addresses of the next datagram; it stays in the queue.
///
/// # Errors
/// `AGAIN` when there is none, else what recvmsg(2) reports: a pending error of the socket.
pub(crate) fn peek(socket: BorrowedFd<'_>) -> Result<Waiting, Errno> {
    let received = recvmsg(socket, &mut [], libc::MSG_PEEK | libc::MSG_TRUNC)?;
    let (mut destination, mut own) = (None, None);
    control_messages(received.control_bytes(), |level, kind, data| match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            destination = destination.or_else(|| v4_at(data, 8));
            own = v4_at(data, 4);
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            destination = destination.or_else(|| v6_destination(data));
        }
        _ => {}
    });
    let source = received.name.ok_or(Errno::DESTADDRREQ)?;
    Ok(Waiting { len: received.len, source, destination, own: own.or(destination) })
}

/// An address of `struct in_pktinfo`: interface index, local address, destination address.
fn v4_at(data: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = data.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

/// `struct in6_pktinfo`: destination address, interface index.
fn v6_destination(data: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 16] = data.get(..16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).to_canonical())
}

/// Whether a datagram that was received from `source` is one of `peer`, whatever the link of either.
pub(crate) fn is_from(source: Option<SocketAddr>, peer: SocketAddr) -> bool {
    source.is_some_and(|source| source.ip() == peer.ip() && source.port() == peer.port())
}

/// Copies the next datagram's first bytes, leaving it in the queue; returns its whole length, and who
/// sent it.
///
/// # Errors
/// `AGAIN` when there is none, else what recvmsg(2) reports.
pub(crate) fn peek_bytes(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> Result<(u32, Option<SocketAddr>), Errno> {
    let received = recvmsg(socket, bytes, libc::MSG_PEEK | libc::MSG_TRUNC)?;
    Ok((received.len, received.name))
}

/// What waits at the head of a UDP socket's queue: one datagram, or a burst of them ([`coalesce`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Burst {
    /// Payload bytes of all its datagrams.
    pub(crate) len: u32,
    /// Payload bytes of each but the last, which may be shorter; `None` for a single datagram.
    pub(crate) segment: Option<u16>,
}

/// Length of what waits, and who sent it; it stays in the queue.
///
/// # Errors
/// `AGAIN` when there is nothing, else what recvmsg(2) reports.
pub(crate) fn peek_burst(socket: BorrowedFd<'_>) -> Result<(Burst, Option<SocketAddr>), Errno> {
    let received = recvmsg(socket, &mut [], libc::MSG_PEEK | libc::MSG_TRUNC)?;
    let mut size = 0;
    control_messages(received.control_bytes(), |level, kind, data| {
        size = segment_size(level, kind, data).unwrap_or(size);
    });
    Ok((Burst::new(received.len, size), received.name))
}

impl Burst {
    /// How many datagrams it is.
    pub(crate) fn datagrams(self) -> u32 {
        self.segment.map_or(1, |size| self.len.div_ceil(size.into()))
    }

    /// A burst of `len` bytes whose control message says `segment`; 0 for none.
    pub(super) fn new(len: u32, segment: u16) -> Self {
        let segment = (segment > 0 && u32::from(segment) < len).then_some(segment);
        Self { len, segment }
    }
}

/// The control message of `UDP_GRO`: an int.
pub(super) fn segment_size(level: i32, kind: i32, data: &[u8]) -> Option<u16> {
    let size = i32::from_ne_bytes(*data.first_chunk()?);
    ((level, kind) == (libc::SOL_UDP, libc::UDP_GRO)).then(|| u16::try_from(size).unwrap_or(0))
}

/// Throws the next datagram away.
///
/// # Errors
/// `AGAIN` when there is none, else what recvmsg(2) reports.
pub(crate) fn drop_one(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    recvmsg(socket, &mut [], 0).map(|_| ())
}

/// Takes one error from the error queue, and the start of the datagram it is about.
///
/// # Errors
/// `AGAIN` when there is none, else what recvmsg(2) reports.
pub(crate) fn take_error(socket: BorrowedFd<'_>, payload: &mut [u8]) -> Result<QueuedError, Errno> {
    let received = recvmsg(socket, payload, libc::MSG_ERRQUEUE)?;
    let mut error = QueuedError {
        errno: None,
        kind: None,
        code: 0,
        info: 0,
        offender: None,
        destination: received.name,
        payload_len: payload.len().min(received.len as usize),
    };
    control_messages(received.control_bytes(), |level, kind, data| match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
            read_extended_error(data, &mut error);
        }
        _ => {}
    });
    Ok(error)
}

/// `struct sock_extended_err` (16 bytes), followed by the offender's socket address.
fn read_extended_error(data: &[u8], error: &mut QueuedError) {
    let Some(&[e0, e1, e2, e3, origin, kind, code, _, i0, i1, i2, i3, ..]) =
        data.first_chunk::<16>()
    else {
        return;
    };
    let number = i32::from_ne_bytes([e0, e1, e2, e3]);
    error.errno = (1..4096).contains(&number).then(|| Errno::from_raw_os_error(number));
    error.info = u32::from_ne_bytes([i0, i1, i2, i3]);
    if matches!(origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6) {
        error.kind = Some(kind);
        error.code = code;
    }
    let offender = socket_address(&data[16..]);
    error.offender = offender.map(|address| address.ip()).filter(|ip| !ip.is_unspecified());
}
