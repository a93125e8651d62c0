//! Sockets of connections that move to another program: `TCP_REPAIR` (linux/tcp.h), which tells and sets what a
//! connection is made of. To switch it on and off takes a privilege that this program does not have, so
//! somebody else does (see `engine::migration`); with it on, everything here is allowed to everybody.

use std::ffi::c_int;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendFlags, bind, connect, connect_unspec, getpeername, getsockname, recv, send,
    sockopt,
};

use super::socket::{last_errno, set_bytes, set_int};

/// Which queue of a socket in repair is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Queue {
    /// From the peer (`TCP_RECV_QUEUE`).
    Receive = 1,
    /// To the peer (`TCP_SEND_QUEUE`).
    Send = 2,
}

/// What `TCP_INFO` tells, as far as it is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Info {
    /// State, by the kernel's number.
    pub(crate) state: u8,
    /// Options in use.
    pub(crate) options: u8,
    /// Window scales of the peer and ours.
    pub(crate) scales: [u8; 2],
    /// Bytes that the peer has acknowledged.
    pub(crate) acked: u64,
    /// Time since the peer has sent data, in ms.
    pub(crate) quiet_ms: u32,
}

/// An option of a connection, for [`set_option`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NegotiatedOption {
    /// The MSS, in bytes.
    Mss(u32),
    /// Window scales of the peer and ours.
    Scales([u8; 2]),
    /// Selective acknowledgements.
    Sack,
    /// Timestamps.
    Timestamps,
}

/// Sequence numbers and windows as `TCP_REPAIR_WINDOW` has them.
pub(crate) type RepairWindow = [u32; 5];

/// Has the kernel drop whatever arrives for a connection, from now on: what is in its socket stays as it is. The
/// peer sends again. What has come is acknowledged at once: later the acknowledgement would have a network that has
/// followed the guest turn back to this host.
///
/// Newer kernels let nobody without privileges attach a filter to a TCP socket. Then signatures are asked for
/// that the peer does not make (RFC 2385), which costs the connection segmentation offload if it goes on here.
///
/// # Errors
/// What setsockopt(2) reports: `NOPROTOOPT` if the kernel has neither.
pub(crate) fn freeze(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    match drop_all(socket) {
        Err(Errno::PERM) => freeze_by_signatures(socket),
        other => other.and_then(|()| sockopt::set_tcp_quickack(socket, true)),
    }
}

/// What bears a signature is no acknowledgement to the peer: it goes before.
fn freeze_by_signatures(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    sockopt::set_tcp_quickack(socket, true)?;
    expect_signatures(socket, peer(socket)?, true)
}

/// The same as [`freeze`], for a socket that is connected to `peer` next, and will go on here. Without a filter it is the
/// peer's hop limit that does not do (RFC 5082): that costs nothing later, and lets in a neighbour alone whose hop limit is
/// the largest there is.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn freeze_toward(socket: BorrowedFd<'_>, peer: SocketAddr) -> Result<(), Errno> {
    match drop_all(socket) {
        Err(Errno::PERM) => expect_hops(socket, peer, u8::MAX),
        other => other,
    }
}

/// Takes [`freeze`] or [`freeze_toward`] back.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn thaw(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    match set_int(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0) {
        Err(Errno::NOENT) => {
            let peer = peer(socket)?;
            let any_hops = expect_hops(socket, peer, 0);
            match expect_signatures(socket, peer, false) {
                // There is no key.
                Err(Errno::NOENT | Errno::NOPROTOOPT) => any_hops,
                other => other.and(any_hops),
            }
        }
        other => other,
    }
}

/// Has segments of the peer dropped that arrive with a hop limit below this.
fn expect_hops(socket: BorrowedFd<'_>, peer: SocketAddr, least: u8) -> Result<(), Errno> {
    let (level, name) = match peer.ip().to_canonical() {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MINTTL),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
    };
    set_int(socket, level, name, least.into())
}

/// Has the kernel drop whatever arrives for a socket.
///
/// # Errors
/// What setsockopt(2) reports: `PERM` where that takes a privilege.
fn drop_all(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut drop =
        libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut drop };
    // SAFETY: the kernel reads one program, and through it one instruction; both are live locals.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The peer, as the socket has it: an IPv4 address may be written as one of IPv6.
fn peer(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    let peer = getpeername(socket)?.ok_or(Errno::NOTCONN)?;
    SocketAddr::try_from(peer).map_err(|_| Errno::AFNOSUPPORT)
}

/// Has segments of the peer dropped that bear no signature by a key, or lets them in again.
fn expect_signatures(
    socket: BorrowedFd<'_>,
    peer: SocketAddr,
    expected: bool,
) -> Result<(), Errno> {
    /// struct tcp_md5sig (linux/tcp.h): an address, the key's length and the key.
    const BYTES: usize = 216;
    const KEY_LENGTH: usize = 130;
    const KEY: usize = 136;
    const KEY_BYTES: u16 = 16;
    let mut bytes = [0u8; BYTES];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    match peer {
        SocketAddr::V4(peer) => {
            put(0, &(libc::AF_INET as libc::sa_family_t).to_ne_bytes());
            put(4, &peer.ip().octets());
        }
        SocketAddr::V6(peer) => {
            put(0, &(libc::AF_INET6 as libc::sa_family_t).to_ne_bytes());
            put(8, &peer.ip().octets());
        }
    }
    // A key of no length is one that is taken away.
    if expected {
        put(KEY_LENGTH, &KEY_BYTES.to_ne_bytes());
        put(KEY, &[0; KEY_BYTES as usize]);
    }
    set_bytes(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &bytes)
}

/// Begins (1) or ends the repair of a socket, and asks the peer where it stands (0) or does not (-1). For the
/// helper only.
///
/// # Errors
/// What setsockopt(2) reports; `PERM` without `CAP_NET_ADMIN` where the socket is.
pub(crate) fn switch(socket: BorrowedFd<'_>, value: i8) -> Result<(), Errno> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, value.into())
}

/// Lets listeners have the port of a socket whose repair has ended, which takes that away.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn share_port(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
}

/// Whether a socket is in repair.
///
/// # Errors
/// What getsockopt(2) reports.
pub(crate) fn is_on(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(int(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR)? != 0)
}

/// What the kernel tells of a connection.
///
/// # Errors
/// What getsockopt(2) reports.
pub(crate) fn info(socket: BorrowedFd<'_>) -> Result<Info, Errno> {
    /// Where `tcpi_last_data_recv` and `tcpi_bytes_acked` are.
    const LAST_DATA: usize = 52;
    const ACKED: usize = 120;
    let mut bytes = [0u8; 128];
    let len = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut bytes)?;
    if len < bytes.len() {
        return Err(Errno::OPNOTSUPP);
    }
    let (mut acked, mut quiet) = ([0; 8], [0; 4]);
    acked.copy_from_slice(&bytes[ACKED..]);
    quiet.copy_from_slice(&bytes[LAST_DATA..LAST_DATA + 4]);
    // The scales are bit fields, which begin with the lowest bits where bytes begin with the lowest.
    let (low, high) = (bytes[6] & 15, bytes[6] >> 4);
    let scales = if cfg!(target_endian = "little") { [low, high] } else { [high, low] };
    let (acked, quiet_ms) = (u64::from_ne_bytes(acked), u32::from_ne_bytes(quiet));
    Ok(Info { state: bytes[0], options: bytes[5], scales, acked, quiet_ms })
}

/// Bytes that a queue holds, FINs included.
///
/// # Errors
/// What ioctl(2) reports.
pub(crate) fn queued(socket: BorrowedFd<'_>, queue: Queue) -> Result<u32, Errno> {
    ioctl(socket, if queue == Queue::Send { libc::TIOCOUTQ } else { libc::FIONREAD })
}

/// Bytes of the queue to the peer that were not sent yet, a FIN included (`SIOCOUTQNSD`).
///
/// # Errors
/// What ioctl(2) reports.
pub(crate) fn unsent(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    ioctl(socket, SIOCOUTQNSD)
}

/// From linux/sockios.h.
pub(crate) const SIOCOUTQNSD: libc::Ioctl = 0x894b;

/// The MSS before options, of a socket in repair.
///
/// # Errors
/// What getsockopt(2) reports.
pub(crate) fn mss(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    Ok(int(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG)?.unsigned_abs())
}

/// The clock of timestamps.
///
/// # Errors
/// What getsockopt(2) reports.
pub(crate) fn timestamp(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    Ok(int(socket, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP)? as u32)
}

/// Sets it, before the socket is connected.
///
/// # Errors
/// What setsockopt(2) reports; `PERM` if the socket is not in repair.
pub(crate) fn set_timestamp(socket: BorrowedFd<'_>, value: u32) -> Result<(), Errno> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP, value as c_int)
}

/// The windows.
///
/// # Errors
/// What getsockopt(2) reports; `PERM` if the socket is not in repair.
pub(crate) fn window(socket: BorrowedFd<'_>) -> Result<RepairWindow, Errno> {
    let mut bytes = [0; size_of::<RepairWindow>()];
    option(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_WINDOW, &mut bytes)?;
    let mut window = [0; 5];
    for (number, bytes) in window.iter_mut().zip(bytes.chunks_exact(4)) {
        *number = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    Ok(window)
}

/// Sets them, when the queues are filled.
///
/// # Errors
/// What setsockopt(2) reports; `INVAL` if they contradict the sequence numbers.
pub(crate) fn set_window(socket: BorrowedFd<'_>, window: RepairWindow) -> Result<(), Errno> {
    let mut bytes = [0; size_of::<RepairWindow>()];
    for (bytes, number) in bytes.chunks_exact_mut(4).zip(window) {
        bytes.copy_from_slice(&number.to_ne_bytes());
    }
    set_bytes(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_WINDOW, &bytes)
}

/// Sets an option that the peer has agreed to, right after the socket was connected in repair.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn set_option(socket: BorrowedFd<'_>, option: NegotiatedOption) -> Result<(), Errno> {
    /// Option kinds (RFC 9293, section 3.2; RFC 2018; RFC 7323).
    const KINDS: [u32; 4] = [2, 3, 4, 8];
    let [mss, scales, sack, timestamps] = KINDS;
    let (kind, value) = match option {
        NegotiatedOption::Mss(bytes) => (mss, bytes),
        NegotiatedOption::Scales([peer, ours]) => (scales, u32::from(peer) | u32::from(ours) << 16),
        NegotiatedOption::Sack => (sack, 0),
        NegotiatedOption::Timestamps => (timestamps, 0),
    };
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&kind.to_ne_bytes());
    bytes[4..].copy_from_slice(&value.to_ne_bytes());
    set_bytes(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_OPTIONS, &bytes)
}

/// Makes a frozen connection in repair, which lives elsewhere, one that has nothing to say: what was not acknowledged is
/// forgotten, so that the kernel does not send it again. Its frames would bring a network that learns places by them back to
/// this host. What comes for it is still dropped, but in the moment between two of these calls.
///
/// # Errors
/// What getsockname(2), getpeername(2), bind(2) and connect(2) report: it may be no connection any more.
pub(crate) fn silence(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let (ours, peer) = (getsockname(socket)?, getpeername(socket)?.ok_or(Errno::NOTCONN)?);
    connect_unspec(socket)?;
    // A port that nobody asked for is lost by that, although getsockname(2) still tells it. One that is kept cannot be
    // bound again.
    match bind(socket, &ours) {
        Ok(()) | Err(Errno::INVAL) => connect(socket, &peer),
        Err(errno) => Err(errno),
    }
}

/// The sequence number behind a queue.
///
/// # Errors
/// What getsockopt(2) and setsockopt(2) report; `PERM` if the socket is not in repair.
pub(crate) fn sequence(socket: BorrowedFd<'_>, queue: Queue) -> Result<u32, Errno> {
    select(socket, queue)?;
    Ok(int(socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ)? as u32)
}

/// Sets the sequence number with which a queue begins, before the socket is connected.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn set_sequence(socket: BorrowedFd<'_>, queue: Queue, number: u32) -> Result<(), Errno> {
    select(socket, queue)?;
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, number as c_int)
}

/// Chooses the queue that [`peek`] and [`refill`] mean.
///
/// # Errors
/// What setsockopt(2) reports; `PERM` if the socket is not in repair.
pub(crate) fn select(socket: BorrowedFd<'_>, queue: Queue) -> Result<(), Errno> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, queue as c_int)
}

/// Copies the whole chosen queue, whose length is that of `buffer`. Returns how much it was.
///
/// # Errors
/// What recv(2) reports.
pub(crate) fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    recv(socket, buffer, flags).map(|(read, _)| read)
}

/// Appends to the chosen queue, as far as it takes it. What is appended to that toward the peer counts as sent.
///
/// # Errors
/// What send(2) reports: `NOMEM`, `NOBUFS` or `AGAIN` when the queue takes no more.
pub(crate) fn refill(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}

/// Has a socket that is connected next count with an MSS of so many bytes from the start, as far as the kernel takes
/// that: what [`set_option`] says later does not change how large its segments are.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn expect_mss(socket: BorrowedFd<'_>, bytes: u32) -> Result<(), Errno> {
    /// What the kernel takes (`TCP_MIN_MSS`, `MAX_TCP_WINDOW`).
    const TAKEN: RangeInclusive<u32> = 88..=32767;
    let bytes = bytes.clamp(*TAKEN.start(), *TAKEN.end());
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG, bytes as c_int)
}

/// What the queues of a socket are to have room for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// What is queued of the peer's, or what it was promised room for, if that is more.
    pub(crate) receive: u32,
    /// What is queued toward the peer.
    pub(crate) send: u32,
    /// The size of the send buffer, as the kernel counts it.
    pub(crate) send_buffer: u32,
}

/// Leaves the sizes of both buffers to the kernel (Linux 5.14; asm-generic/socket.h).
pub(crate) const SO_BUF_LOCK: c_int = 72;

/// Enlarges the queues of a socket, as far as the host's limits allow, and leaves their sizes to the kernel from then
/// on. None becomes smaller.
pub(crate) fn make_room(socket: BorrowedFd<'_>, room: Room) {
    let limited = |bytes: u32| c_int::try_from(bytes).unwrap_or(c_int::MAX / 4);
    // Each may fail, or do less: then the queue is too short, and who fills it finds out. A low-water mark
    // makes the kernel enlarge the receive buffer up to the limit of its own tuning, not of SO_RCVBUF.
    if room.receive > 0 {
        let _ = set_int(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, limited(room.receive));
        let _ = set_int(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1);
    }
    // The kernel doubles what it is asked for.
    let wanted = limited(room.send.max(room.send_buffer / 2));
    if int(socket, libc::SOL_SOCKET, libc::SO_SNDBUF).is_ok_and(|now| now / 2 < wanted) {
        let _ = set_int(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, wanted);
        let _ = set_int(socket, libc::SOL_SOCKET, SO_BUF_LOCK, 0);
    }
}

fn int(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> Result<c_int, Errno> {
    let mut bytes = [0; size_of::<c_int>()];
    option(socket, level, name, &mut bytes)?;
    Ok(c_int::from_ne_bytes(bytes))
}

/// Reads an option into `bytes`; returns how many there were.
fn option(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    bytes: &mut [u8],
) -> Result<usize, Errno> {
    let mut len = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `bytes`.
    let rc = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, bytes.as_mut_ptr().cast(), &raw mut len)
    };
    if rc == 0 { Ok(len as usize) } else { Err(last_errno()) }
}

fn ioctl(socket: BorrowedFd<'_>, request: libc::Ioctl) -> Result<u32, Errno> {
    let mut value: c_int = 0;
    // SAFETY: these requests write one int, a live local.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut value) };
    if rc == 0 { Ok(value.unsigned_abs()) } else { Err(last_errno()) }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use passt_support::namespace::isolated;

    use super::super::socket::{Transport, create};
    use super::*;

    type Freeze = fn(BorrowedFd<'_>) -> Result<(), Errno>;

    /// Where is listened, and where somebody connects to.
    const ADDRESSES: [(&str, &str); 3] =
        [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")];

    /// What arrives while a connection is frozen in a way is dropped, and comes again when it is thawed.
    fn holds_back(freeze: Freeze) {
        for (listener, address) in ADDRESSES {
            let listener = TcpListener::bind(listener).expect("a free port");
            let port = listener.local_addr().expect("bound").port();
            let mut peer = TcpStream::connect((address, port)).expect("listens");
            let (mut here, _) = listener.accept().expect("connected");
            here.set_read_timeout(Some(Duration::from_millis(100))).expect("not zero");
            freeze(here.as_fd()).expect("frozen");
            peer.write_all(b"x").expect("queued");
            let mut found = [0; 1];
            // One that is told to end after a time is interrupted by any signal of the program's.
            let held = loop {
                match here.read(&mut found).map_err(|error| error.kind()) {
                    Err(ErrorKind::Interrupted) => {}
                    held => break held,
                }
            };
            assert_eq!(held, Err(ErrorKind::WouldBlock), "{address}");
            thaw(here.as_fd()).expect("thawed");
            here.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
            here.read_exact(&mut found).expect("sent again");
        }
    }

    #[test]
    fn a_frozen_connection_takes_nothing() {
        holds_back(freeze);
    }

    #[test]
    fn a_connection_is_frozen_without_a_filter() {
        holds_back(freeze_by_signatures);
    }

    /// A connection whose end here says nothing any more takes nothing either, and resets nobody.
    #[test]
    fn a_connection_that_is_silenced_takes_nothing() {
        isolated("ip link set lo up", || {
            for freeze in [drop_all, freeze_by_signatures] {
                for (listener, address) in ADDRESSES {
                    let listener = TcpListener::bind(listener).expect("a free port");
                    let port = listener.local_addr().expect("bound").port();
                    let connect = || {
                        let one = TcpStream::connect((address, port)).expect("listens");
                        (one, listener.accept().expect("connected").0)
                    };
                    let (connected, peer) = connect();
                    takes_nothing_when_silenced(connected, peer, freeze);
                    let (peer, accepted) = connect();
                    takes_nothing_when_silenced(accepted, peer, freeze);
                    let to = SocketAddr::new(address.parse().expect("an address"), port);
                    let (bound, peer) = (bound_to_port(to), listener.accept().expect("connected"));
                    takes_nothing_when_silenced(bound, peer.0, freeze);
                }
            }
        });
    }

    /// A connection to `to` from a port that was asked for, at any address.
    fn bound_to_port(to: SocketAddr) -> TcpStream {
        let socket = create(Transport::Tcp, to.ip()).expect("a socket");
        let any = if to.is_ipv4() { "0.0.0.0:33333" } else { "[::]:33333" };
        sockopt::set_socket_reuseaddr(&socket, true).expect("setsockopt");
        bind(&socket, &any.parse::<SocketAddr>().expect("an address")).expect("a free port");
        let connected = connect(&socket, &to);
        assert!(matches!(connected, Ok(()) | Err(Errno::INPROGRESS)), "{connected:?}");
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(false).expect("fcntl");
        stream
    }

    fn takes_nothing_when_silenced(mut here: TcpStream, mut peer: TcpStream, freeze: Freeze) {
        let ends = |here: &TcpStream| {
            [here.local_addr(), here.peer_addr()].map(|end| end.expect("connected"))
        };
        let before = ends(&here);
        here.write_all(b"x").expect("queued");
        freeze(here.as_fd()).expect("frozen");
        switch(here.as_fd(), 1).expect("root in a namespace of its own");
        silence(here.as_fd()).expect("in repair");
        assert_eq!(ends(&here), before);
        peer.read_exact(&mut [0]).expect("sent before");
        peer.write_all(b"x").expect("queued");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(queued(peer.as_fd(), Queue::Send), Ok(1), "{before:?}");
        assert_eq!(queued(here.as_fd(), Queue::Receive), Ok(0), "{before:?}");
        peer.set_nonblocking(true).expect("fcntl");
        let heard = peer.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(heard, Err(ErrorKind::WouldBlock), "{before:?}");
    }

    #[test]
    fn what_has_come_is_acknowledged_at_once_when_a_connection_is_frozen() {
        // On a busy machine even what is sent at once may be on its way for a moment.
        for freeze in [freeze, freeze_by_signatures] {
            assert!((0..20).any(|_| is_acknowledged_by(freeze)));
        }
    }

    fn is_acknowledged_by(freeze: Freeze) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("listens");
        let (mut here, _) = listener.accept().expect("connected");
        // Who answers has its acknowledgements wait for the next answer.
        let mut found = [0; 1];
        let mut waits = false;
        for _ in 0..50 {
            peer.write_all(b"q").expect("queued");
            here.read_exact(&mut found).expect("a question");
            waits = queued(peer.as_fd(), Queue::Send) == Ok(1);
            if waits {
                break;
            }
            here.write_all(b"a").expect("queued");
            peer.read_exact(&mut found).expect("an answer");
        }
        assert!(waits, "an acknowledgement that waits");
        freeze(here.as_fd()).expect("frozen");
        queued(peer.as_fd(), Queue::Send) == Ok(0)
    }

    #[test]
    fn buffers_become_larger_and_never_smaller() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let at = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(at).expect("listens");
        let size = |name| int(stream.as_fd(), libc::SOL_SOCKET, name).expect("told") as u32;
        let room = |receive, send, send_buffer| {
            make_room(stream.as_fd(), Room { receive, send, send_buffer });
            (size(libc::SO_RCVBUF), size(libc::SO_SNDBUF))
        };
        let (receive, send) = (size(libc::SO_RCVBUF), size(libc::SO_SNDBUF));
        assert_eq!(room(1, 1, 1), (receive, send));
        assert_eq!(room(receive / 4, 4096, send / 2), (receive, send));
        // Within what hosts allow without further ado.
        let by_queues = room(2 * receive, 150_000, 0);
        assert!(by_queues.0 > receive && by_queues.1 >= 300_000, "{by_queues:?}");
        assert_eq!(room(0, 0, 400_000).1, 400_000.max(by_queues.1));
    }
}
