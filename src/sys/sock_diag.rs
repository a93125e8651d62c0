//! Which ports are listened on in a network namespace: `NETLINK_SOCK_DIAG` dumps (sock_diag(7)).
//!
//! The socket answers for the namespace in which it was made, wherever it is used. TCP is asked for
//! listening sockets only: then the kernel walks its small table of listeners and not that of all
//! connections. UDP is asked for sockets that are bound and not connected.
//!
//! Of each question most of the time is the walk over a table of the kernel's, of tens of thousands of
//! slots for UDP. For TCP the first version of the interface is used, which answers for both families at
//! once; it knows no other protocol.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// The first version (linux/inet_diag.h): TCP only, all families.
const TCPDIAG_GETSOCK: u16 = 18;
/// Its successor (linux/sock_diag.h): one family of any protocol.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `TCP_LISTEN`.
pub(super) const STATE_LISTEN: u32 = 10;
/// `TCP_CLOSE`: what UDP sockets are in until they are connected.
pub(super) const STATE_CLOSE: u32 = 7;

/// `struct nlmsghdr`.
pub(super) const HEADER_BYTES: usize = 16;
/// `struct inet_diag_req`.
const TCP_REQUEST_BYTES: usize = 60;
/// Where that has the states.
const TCP_STATES_OFFSET: usize = HEADER_BYTES + 52;
/// `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = 56;
/// Where that has the states.
const STATES_OFFSET: usize = HEADER_BYTES + 4;
/// Where `struct inet_diag_msg` has the family, the port, and the address behind its two ports.
const FAMILY_OFFSET: usize = HEADER_BYTES;
const PORT_OFFSET: usize = HEADER_BYTES + 4;
const ADDRESS_OFFSET: usize = HEADER_BYTES + 8;
/// Where its attributes begin, and the one of IPv6 sockets that says whether they are of IPv6 alone (since Linux 4.3).
const ATTRIBUTES_OFFSET: usize = HEADER_BYTES + 72;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// One datagram of an answer: the kernel fills at most so much.
const ANSWER_BYTES: usize = 32 * 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Listening TCP sockets.
    Tcp,
    /// UDP sockets that are bound and not connected.
    Udp,
}

/// Asks the kernel, with a buffer for its answers.
pub struct SockDiag {
    socket: OwnedFd,
    answer: Box<[u8; ANSWER_BYTES]>,
    /// The last answer was not read to its end, and is in the way of the next one.
    unfinished: bool,
}

/// Makes the netlink socket that [`SockDiag`] asks through.
///
/// # Errors
/// What socket(2) reports.
pub(crate) fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(SOCK_DIAG))
}

/// Asks about this namespace, and makes sure that there are answers: a policy may refuse the socket, and a kernel may be
/// without what knows the sockets of one protocol (`tcp_diag`, `udp_diag`).
///
/// # Errors
/// What socket(2) or the kernel report.
pub(crate) fn tried() -> Result<SockDiag, Errno> {
    let mut diag = SockDiag::new(socket()?);
    diag.visit(Protocol::Tcp, |_, _| {})?;
    diag.visit(Protocol::Udp, |_, _| {})?;
    Ok(diag)
}

impl SockDiag {
    /// Asks through `socket`, about the namespace in which it was made.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, answer: Box::new([0; ANSWER_BYTES]), unfinished: false }
    }

    /// Calls `visit` with local address and port of each socket of `protocol`, of both families. One on all addresses of
    /// both is told of twice.
    ///
    /// # Errors
    /// What the kernel reports; what was visited until then is true but not all.
    pub(crate) fn visit(
        &mut self,
        protocol: Protocol,
        mut visit: impl FnMut(IpAddr, u16),
    ) -> Result<(), Errno> {
        match protocol {
            Protocol::Tcp => self.dump(&tcp_request(), &mut visit),
            Protocol::Udp => {
                self.dump(&udp_request(AddressFamily::INET), &mut visit)?;
                self.dump(&udp_request(AddressFamily::INET6), &mut visit)
            }
        }
    }

    fn dump(&mut self, request: &[u8], visit: &mut impl FnMut(IpAddr, u16)) -> Result<(), Errno> {
        while self.unfinished {
            self.unfinished = receive(self.socket.as_fd(), &mut self.answer[..]).is_ok();
        }
        send(&self.socket, request, SendFlags::empty())?;
        self.unfinished = true;
        loop {
            let length = receive(self.socket.as_fd(), &mut self.answer[..])?;
            let mut rest = &self.answer[..length.min(ANSWER_BYTES)];
            while let Some((message, kind)) = next_message(&mut rest) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => {
                        self.unfinished = false;
                        return status(message);
                    }
                    libc::NLMSG_ERROR => return Err(error(message)),
                    _ => {
                        if let Some((address, port)) = local(message) {
                            visit(address, port);
                            if address == Ipv6Addr::UNSPECIFIED && !is_v6_only(message) {
                                visit(Ipv4Addr::UNSPECIFIED.into(), port);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Reads one datagram without waiting.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((length, _)) => return Ok(length),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req`: the family is not looked at, and the socket's identity
/// stays empty.
fn tcp_request() -> [u8; HEADER_BYTES + TCP_REQUEST_BYTES] {
    request(TCPDIAG_GETSOCK, TCP_STATES_OFFSET, STATE_LISTEN)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`: family, protocol, no extensions, states; the
/// socket's identity stays empty.
fn udp_request(family: AddressFamily) -> [u8; HEADER_BYTES + REQUEST_BYTES] {
    let mut bytes = request(SOCK_DIAG_BY_FAMILY, STATES_OFFSET, STATE_CLOSE);
    bytes[HEADER_BYTES] = family.as_raw() as u8;
    bytes[HEADER_BYTES + 1] = libc::IPPROTO_UDP as u8;
    bytes
}

/// A question of type `kind` for all sockets in `state`.
fn request<const N: usize>(kind: u16, states_offset: usize, state: u32) -> [u8; N] {
    let mut bytes = [0; N];
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    bytes[..4].copy_from_slice(&(N as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[states_offset..][..4].copy_from_slice(&(1u32 << state).to_ne_bytes());
    bytes
}

/// Takes the next message off `rest`: the message with its header, and its type.
pub(super) fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], u16)> {
    let header = rest.first_chunk::<HEADER_BYTES>()?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    if length < HEADER_BYTES {
        return None;
    }
    let message = rest.get(..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((message, kind))
}

/// Local address and port in a message with `struct inet_diag_msg`; `None` for port 0.
fn local(message: &[u8]) -> Option<(IpAddr, u16)> {
    let family = i32::from(*message.get(FAMILY_OFFSET)?);
    let &[high, low] = message.get(PORT_OFFSET..)?.first_chunk::<2>()?;
    let port = u16::from_be_bytes([high, low]);
    let address: [u8; 16] = *message.get(ADDRESS_OFFSET..)?.first_chunk()?;
    let address = if family == libc::AF_INET {
        Ipv4Addr::new(address[0], address[1], address[2], address[3]).into()
    } else {
        Ipv6Addr::from(address).to_canonical()
    };
    (port != 0).then_some((address, port))
}

/// Whether the socket that a message is about has nothing to do with IPv4, as far as the kernel says.
fn is_v6_only(message: &[u8]) -> bool {
    let mut rest = message.get(ATTRIBUTES_OFFSET..).unwrap_or_default();
    while let Some((&[l0, l1, t0, t1], value)) = rest.split_first_chunk::<4>() {
        let (length, kind) = (u16::from_ne_bytes([l0, l1]), u16::from_ne_bytes([t0, t1]));
        if kind == INET_DIAG_SKV6ONLY {
            return value.first().is_some_and(|&only| only != 0);
        }
        let length = usize::from(length).max(4).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    false
}

/// Reads `bytes` as an answer: how many sockets it tells of.
#[cfg(fuzzing)]
pub(crate) fn look(mut bytes: &[u8]) -> usize {
    let messages = std::iter::from_fn(|| next_message(&mut bytes));
    messages
        .filter(|(message, _)| {
            local(message).is_some() | is_v6_only(message) | (error(message) == Errno::PERM)
        })
        .count()
}

/// How a dump has ended, by its `NLMSG_DONE` message: there, too, is an error, if it is negative.
fn status(message: &[u8]) -> Result<(), Errno> {
    let code = message.get(HEADER_BYTES..).and_then(|body| body.first_chunk::<4>());
    match code.map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(..0) => Err(error(message)),
        _ => Ok(()),
    }
}

/// The error in an `NLMSG_ERROR` message, which is negative.
pub(super) fn error(message: &[u8]) -> Errno {
    let code = message.get(HEADER_BYTES..).and_then(|body| body.first_chunk::<4>());
    let code = code.map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    match code.saturating_neg() {
        errno @ 1..4096 => Errno::from_raw_os_error(errno),
        _ => Errno::IO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    fn seen(diag: &mut SockDiag, protocol: Protocol) -> Vec<(IpAddr, u16)> {
        let mut all = Vec::new();
        diag.visit(protocol, |address, port| all.push((address, port))).unwrap();
        all
    }

    #[test]
    fn sees_listeners_and_unconnected_sockets_and_nothing_else() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp6 = TcpListener::bind("[::1]:0").unwrap();
        let udp6 = UdpSocket::bind("[::1]:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(udp.local_addr().unwrap()).unwrap();
        let stream = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let at = |address: std::net::SocketAddr| (address.ip(), address.port());
        let mut diag = SockDiag::new(socket().unwrap());
        let (tcp_seen, udp_seen) = (seen(&mut diag, Protocol::Tcp), seen(&mut diag, Protocol::Udp));
        assert!(tcp_seen.contains(&at(tcp.local_addr().unwrap())));
        assert!(tcp_seen.contains(&at(tcp6.local_addr().unwrap())));
        assert!(udp_seen.contains(&at(udp6.local_addr().unwrap())));
        assert!(!tcp_seen.contains(&at(stream.local_addr().unwrap())));
        assert!(udp_seen.contains(&at(udp.local_addr().unwrap())));
        assert!(!udp_seen.contains(&at(connected.local_addr().unwrap())));
        let gone = at(tcp.local_addr().unwrap());
        drop((tcp, stream));
        assert!(!seen(&mut diag, Protocol::Tcp).contains(&gone));
    }

    #[test]
    fn what_is_left_of_an_answer_is_not_taken_for_the_next_one() {
        let mut diag = SockDiag::new(socket().unwrap());
        send(&diag.socket, &tcp_request(), SendFlags::empty()).unwrap();
        diag.unfinished = true;
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        assert!(seen(&mut diag, Protocol::Udp).contains(&(address.ip(), address.port())));
    }

    #[test]
    fn numbers_that_are_no_errors_are_one_all_the_same() {
        let says = |code: i32| error(&[&[0; HEADER_BYTES][..], &code.to_ne_bytes()].concat());
        assert_eq!(says(-libc::EPERM), Errno::PERM);
        for code in [0, 1, 4096, -4096, i32::MIN, i32::MAX] {
            assert_eq!(says(code), Errno::IO, "{code}");
        }
    }

    #[test]
    fn a_dump_that_ends_with_an_error_is_none() {
        let ends = |body: &[u8]| status(&[&[0; HEADER_BYTES][..], body].concat());
        assert_eq!(ends(&(-libc::ENOENT).to_ne_bytes()), Err(Errno::NOENT));
        assert_eq!(ends(&i32::MIN.to_ne_bytes()), Err(Errno::IO));
        for good in [&[][..], &[0; 4], &20_i32.to_ne_bytes()] {
            assert_eq!(ends(good), Ok(()));
        }
    }

    /// A number that no protocol has: of a kernel without `udp_diag` UDP cannot be asked for in the same way.
    #[test]
    fn what_the_kernel_does_not_know_is_an_error() {
        let mut request = udp_request(AddressFamily::INET);
        request[HEADER_BYTES + 1] = 0xfd;
        let mut diag = SockDiag::new(socket().unwrap());
        assert_eq!(diag.dump(&request, &mut |_, _| {}), Err(Errno::NOENT));
        assert!(tried().is_ok());
    }

    #[test]
    fn broken_answers_end_quietly() {
        for bytes in [&[][..], &[0; 15], &[0; 16], &[8, 0, 0, 0, 0, 0, 0, 0], &[0xff; 64]] {
            let mut rest = bytes;
            assert_eq!(next_message(&mut rest), None);
        }
        assert_eq!(local(&[0; 30]), None);
        for fill in [0, 0xff] {
            for len in [0, ATTRIBUTES_OFFSET, ATTRIBUTES_OFFSET + 3, ATTRIBUTES_OFFSET + 64] {
                assert!(!is_v6_only(&vec![fill; len]));
            }
        }
        assert_eq!(error(&[0; 16]), Errno::IO);
    }
}
