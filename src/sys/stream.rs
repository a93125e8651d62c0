//! What TCP needs beyond reading and writing: the state of the send buffer, the peek offset,
//! discarding what the guest has acknowledged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv, sockopt};

use super::socket::{Transport, create, is_its_own_peer, last_errno, set_int};

/// State of a socket's send buffer, in the kernel's accounting (payload and its overhead).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendBuffer {
    /// Limit (`sk_sndbuf`).
    pub(crate) limit: u32,
    /// Charged against the limit (`sk_wmem_queued`).
    pub(crate) queued: u32,
}

/// Numbers in the answer of `SO_MEMINFO` (linux/sock_diag.h): `SK_MEMINFO_SNDBUF` is the fourth, `SK_MEMINFO_WMEM_QUEUED` the
/// sixth.
const MEMINFO_VARS: usize = 9;

/// Reads the state of the send buffer (`SO_MEMINFO`, Linux 4.12). Who stands in for the kernel may not know it, as qemu-user,
/// which answers with four bytes: then all of the buffer counts as free, and a write that finds it full says so.
///
/// # Errors
/// What getsockopt(2) reports.
pub(crate) fn send_buffer(socket: BorrowedFd<'_>) -> Result<SendBuffer, Errno> {
    let mut info = [0u32; MEMINFO_VARS];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    match info.get(..len as usize / size_of::<u32>()) {
        Some(&[_, _, _, limit, _, queued, ..]) if rc == 0 => Ok(SendBuffer { limit, queued }),
        _ => empty_send_buffer(socket),
    }
}

/// A send buffer of which only the limit is known.
fn empty_send_buffer(socket: BorrowedFd<'_>) -> Result<SendBuffer, Errno> {
    let limit = sockopt::socket_send_buffer_size(socket)?;
    Ok(SendBuffer { limit: u32::try_from(limit).unwrap_or(u32::MAX), queued: 0 })
}

/// Sets the offset at which `MSG_PEEK` reads; the kernel moves it with each peek and each read.
///
/// # Errors
/// `OPNOTSUPP` on kernels without it (before 6.9 for TCP).
pub(crate) fn set_peek_offset(socket: BorrowedFd<'_>, bytes: u32) -> Result<(), Errno> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, bytes as i32)
}

/// Leaves a byte that the peer calls urgent at its place in the stream (`SO_OOBINLINE`). What a listening
/// socket accepts inherits that. Each read still ends before that byte, unless it begins there, and
/// splice(2) never goes past it.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn keep_urgent_inline(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    sockopt::set_socket_oobinline(socket, true)
}

/// Takes what the send buffer has room for, however much of it was not sent yet (`TCP_NOTSENT_LOWAT`, Linux 3.12): many hosts
/// have a limit for that (`net.ipv4.tcp_notsent_lowat`), which a write meets and nothing tells of. What a listening
/// socket accepts inherits that. Where the option is not known, writes may be short.
pub(crate) fn lift_unsent_limit(socket: BorrowedFd<'_>) {
    let _ = set_int(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, -1);
}

/// Has the socket say that it has room, to whom asks from now on, when nothing waits to be sent (`TCP_NOTSENT_LOWAT`).
/// Where the option is not known, it has room earlier.
pub(crate) fn report_room_when_sent(socket: BorrowedFd<'_>) {
    let _ = set_int(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, 1);
}

/// Whether bytes wait in the receive queue; false at the end of the stream, too.
pub(crate) fn has_bytes(socket: BorrowedFd<'_>) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    recv(socket, &mut [0], flags).is_ok_and(|(read, _)| read > 0)
}

/// Whether TCP sockets of a family have a peek offset.
pub fn has_peek_offset(v4: bool) -> bool {
    let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    create(Transport::Tcp, any).and_then(|socket| set_peek_offset(socket.as_fd(), 0)).is_ok()
}

/// Whether the kernel has done with a connection: both ends have closed it, or one has reset it. Its peer may open
/// another one from the same port.
pub(crate) fn is_closed(socket: BorrowedFd<'_>) -> bool {
    let mut state = [0; 1];
    tcp_info(socket, &mut state) == Some(1) && state == [TCP_CLOSE]
}

/// Whether our stream has begun and has not ended: the peer must be told if it does not go on.
pub(crate) fn is_open(socket: BorrowedFd<'_>) -> bool {
    let mut state = [0; 1];
    let known = tcp_info(socket, &mut state) == Some(1);
    known && [TCP_ESTABLISHED, TCP_SYN_RECV, TCP_CLOSE_WAIT].contains(&state[0])
}

/// States of a connection (linux/tcp_states.h).
const TCP_ESTABLISHED: u8 = 1;
const TCP_SYN_RECV: u8 = 3;
const TCP_CLOSE: u8 = 7;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LAST_ACK: u8 = 9;
const TCP_CLOSING: u8 = 11;

/// Where the fields of `struct tcp_info` stand (linux/tcp.h); what a kernel has not is not written.
const INFO_LAST_DATA_SENT: usize = 44;
const INFO_LAST_DATA_RECEIVED: usize = 52;
const INFO_RTT: usize = 68;
const INFO_BYTES_RECEIVED: usize = 128;
const INFO_BYTES_SENT: usize = 200;
const INFO_BYTES_RETRANSMITTED: usize = 208;
const INFO_BYTES: usize = 216;

/// What the kernel has measured of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    /// The peer has ended its stream.
    pub(crate) peer_ended: bool,
    /// Bytes of the stream that came from the peer.
    pub(crate) received: u64,
    /// Bytes of the stream that were sent, each once; `None` before Linux 4.19.
    pub(crate) sent: Option<u64>,
    /// Time since bytes were sent or received.
    pub(crate) idle: Duration,
    /// The smoothed round-trip time, where there is one.
    pub(crate) round_trip: Option<Duration>,
}

/// Asks the kernel what it has measured of a connection (`TCP_INFO`); `None` if it does not say (before Linux 4.2).
pub(crate) fn measured(socket: BorrowedFd<'_>) -> Option<Measured> {
    let mut info = [0; INFO_BYTES];
    let len = tcp_info(socket, &mut info)?;
    let four = |at: usize| info[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let eight = |at: usize| info[at..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    if len < INFO_BYTES_RECEIVED + 8 {
        return None;
    }
    // The end of the stream is counted like a byte of it.
    let peer_ended = matches!(info[0], TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING);
    let received = eight(INFO_BYTES_RECEIVED).saturating_sub(u64::from(peer_ended));
    let sent = eight(INFO_BYTES_SENT).saturating_sub(eight(INFO_BYTES_RETRANSMITTED));
    let idle = four(INFO_LAST_DATA_SENT).min(four(INFO_LAST_DATA_RECEIVED));
    let round_trip = Some(four(INFO_RTT)).filter(|&rtt| rtt > 0);
    Some(Measured {
        peer_ended,
        received,
        sent: (len >= INFO_BYTES).then_some(sent),
        idle: Duration::from_millis(idle.into()),
        round_trip: round_trip.map(|rtt| Duration::from_micros(rtt.into())),
    })
}

/// Copies the head of `struct tcp_info` to `info`; returns how many bytes of it the kernel has.
fn tcp_info(socket: BorrowedFd<'_>, info: &mut [u8]) -> Option<usize> {
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    (rc == 0).then_some(len as usize)
}

/// Takes `bytes` bytes out of the receive queue without copying them (`MSG_TRUNC`, tcp(7)). Returns how
/// many there were.
///
/// # Errors
/// What recv(2) reports.
pub(crate) fn discard(socket: BorrowedFd<'_>, bytes: u32) -> Result<u32, Errno> {
    let mut done = 0;
    while done < bytes {
        match discard_some(socket, bytes - done)? {
            0 => break,
            // Short of the rest before a byte that the peer calls urgent.
            some => done += some,
        }
    }
    Ok(done)
}

fn discard_some(socket: BorrowedFd<'_>, bytes: u32) -> Result<u32, Errno> {
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: with MSG_TRUNC on a TCP socket the kernel writes nothing, the buffer may be null.
    let n = unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), bytes as usize, flags) };
    u32::try_from(n).map_err(|_| last_errno())
}

/// The kernel chooses no port below: `net.ipv4.ip_local_port_range` begins where ports take no privilege, which is here unless
/// somebody has said otherwise.
const FIRST_EPHEMERAL: u16 = 1024;

/// Refuses a connection of a socket with itself: where nobody listens, one that has the port and the address that it connects
/// to answers its own SYN (RFC 9293, section 3.5, simultaneous open). `port` is what the socket was bound to, or 0.
///
/// # Errors
/// `CONNREFUSED` if it is one.
pub(crate) fn refuse_itself(
    socket: BorrowedFd<'_>,
    port: u16,
    peer: SocketAddr,
) -> Result<(), Errno> {
    let may_be = if port == 0 { peer.port() >= FIRST_EPHEMERAL } else { peer.port() == port };
    if !may_be || !is_its_own_peer(socket, peer) {
        return Ok(());
    }
    // It would keep the port for a minute.
    let _ = reset_on_close(socket);
    Err(Errno::CONNREFUSED)
}

/// Makes close(2) send RST and drop what is queued.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn reset_on_close(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    sockopt::set_socket_linger(socket, Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_send_buffer_is_known_one_way_or_the_other() {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let told = send_buffer(socket.as_fd()).unwrap();
        assert!(told.limit > 0);
        assert_eq!(told, empty_send_buffer(socket.as_fd()).unwrap(), "nothing is in it");
    }
}
