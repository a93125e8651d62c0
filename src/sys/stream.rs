//! What TCP needs beyond reading and writing: the state of the send buffer, the peek offset,
//! discarding what the guest has acknowledged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv, sockopt};

use super::socket::{Transport, create, last_errno, set_int};

/// State of a socket's send buffer, in the kernel's accounting (payload and its overhead).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendBuffer {
    /// Limit (`sk_sndbuf`).
    pub(crate) limit: u32,
    /// Charged against the limit (`sk_wmem_queued`).
    pub(crate) queued: u32,
}

/// Indexes into the answer of `SO_MEMINFO` (linux/sock_diag.h).
const MEMINFO_SNDBUF: usize = 3;
const MEMINFO_WMEM_QUEUED: usize = 5;
const MEMINFO_VARS: usize = 9;

/// Reads the state of the send buffer (`SO_MEMINFO`, Linux 4.12).
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
    if rc != 0 {
        return Err(last_errno());
    }
    Ok(SendBuffer { limit: info[MEMINFO_SNDBUF], queued: info[MEMINFO_WMEM_QUEUED] })
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
    /// `TCP_CLOSE` (linux/tcp_states.h).
    const CLOSED: u8 = 7;
    let mut state = 0u8;
    let mut len = size_of_val(&state) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes of `tcp_info` into `state`, which is what that begins with.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut len,
        )
    };
    rc == 0 && state == CLOSED
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

/// Makes close(2) send RST and drop what is queued.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn reset_on_close(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    sockopt::set_socket_linger(socket, Some(Duration::ZERO))
}
