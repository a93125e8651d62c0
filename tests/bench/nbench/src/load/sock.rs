//! Sockets: what std does not have.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with, sockopt};

/// Buffer of a datagram socket in bytes; what the limits of an ordinary system allow.
const DATAGRAM_BUFFER_BYTES: usize = 4 << 20;

/// Bytes of one datagram, or of a run of segments, at most.
pub const DATAGRAM_BYTES: usize = 65536;

/// An epoll instance with room for its events.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    /// # Errors
    /// As epoll_create(2).
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(256) })
    }

    /// Watches `socket`, level-triggered, under a token.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn add(&self, socket: impl AsFd, token: usize, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token as u64), flags)?)
    }

    /// Watches `socket` for other events.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn change(&self, socket: impl AsFd, token: usize, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(token as u64), flags)?)
    }

    /// Waits at most `ms` milliseconds and yields the events.
    ///
    /// # Errors
    /// As epoll_wait(2).
    pub fn wait(
        &mut self,
        ms: i64,
    ) -> io::Result<impl Iterator<Item = (usize, EventFlags)> + use<'_>> {
        let timeout = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.events.iter().map(|event| (event.data.u64() as usize, event.flags)))
    }
}

/// A TCP socket whose connection is being made; writable when it is there.
///
/// # Errors
/// As socket(2) and connect(2).
pub fn begin_connect(to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// Whether an error only says that the call would have to wait.
pub fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Gives a datagram socket large buffers and lets runs of datagrams arrive as one.
///
/// # Errors
/// As setsockopt(2).
pub fn prepare_datagrams(socket: &UdpSocket) -> io::Result<()> {
    sockopt::set_socket_recv_buffer_size(socket, DATAGRAM_BUFFER_BYTES)?;
    sockopt::set_socket_send_buffer_size(socket, DATAGRAM_BUFFER_BYTES)?;
    set_udp_option(socket, libc::UDP_GRO, 1)
}

/// Makes the kernel cut what is sent into datagrams of `bytes`.
///
/// # Errors
/// As setsockopt(2).
pub fn segment_datagrams(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    set_udp_option(socket, libc::UDP_SEGMENT, bytes as libc::c_int)
}

fn set_udp_option(socket: &UdpSocket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is a live int of the length given.
    let rc = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, option, (&raw const value).cast(), len)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes received, and the length of each datagram in them (the last may be shorter).
pub struct Run {
    /// Bytes in all.
    pub bytes: usize,
    /// Bytes of one datagram.
    pub each: usize,
}

/// Control messages of one receive: one int.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Receives a datagram or a run of equal ones without waiting.
///
/// # Errors
/// As recvmsg(2).
pub fn receive_run(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Run> {
    receive(socket, buffer, None)
}

/// The same, and who sent it.
///
/// # Errors
/// As recvmsg(2).
pub fn receive_run_from(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(Run, SocketAddr)> {
    // SAFETY: an all-zero sockaddr_storage is valid: integers.
    let mut from: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let run = receive(socket, buffer, Some(&mut from))?;
    let from = address(&from).ok_or_else(|| io::Error::other("a sender without an address"))?;
    Ok((run, from))
}

fn address(from: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(from.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel filled in an address of this family, and there is room for any.
            let from = unsafe { (&raw const *from).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr));
            Some((ip, u16::from_be(from.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let from = unsafe { (&raw const *from).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(from.sin6_addr.s6_addr);
            Some((ip, u16::from_be(from.sin6_port)).into())
        }
        _ => None,
    }
}

fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    from: Option<&mut libc::sockaddr_storage>,
) -> io::Result<Run> {
    let mut iovec = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = Control([0; 64]);
    // SAFETY: an all-zero msghdr is valid: null pointers and lengths of 0.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iovec;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    if let Some(from) = from {
        message.msg_name = (&raw mut *from).cast();
        message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    }
    // SAFETY: the header's pointers are to live locals, `from` and `buffer`, with their lengths.
    let rc = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let bytes = usize::try_from(rc).map_err(|_| io::Error::last_os_error())?;
    Ok(Run { bytes, each: segment_bytes(&message).unwrap_or(bytes) })
}

/// The length that the kernel gives for a run.
fn segment_bytes(message: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel filled in the header and its control messages.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    // SAFETY: the data of UDP_GRO is one int (udp(7)).
    let bytes = unsafe { libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned() };
    usize::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}
