//! How the socket of a datagram flow is opened: bound to a port of ours, and connected to a peer unless the flow is
//! one with anybody ([`unconnected`]).
//!
//! # Strangers
//! Between bind(2) and connect(2) the socket takes what anybody sends to its port, and connect(2) does not
//! look at what waits already. A packet may even join the queue after connect(2), if it found the socket
//! before. Delivered as the peer's, it would let anybody who hits the moment answer a guest's question. So
//! datagrams are judged by their real source where they are read. On a port that is forwarded others may begin a flow
//! in that moment, too: what they have sent is moved to flows of their own right after the turn that has opened the socket
//! (`listen::receive`). Those of strangers that are left are discarded and
//! counted ([`DropReason::ForeignDatagram`](crate::wire::DropReason)), those of the peer go on in their
//! order. Judging ends when the queue was seen empty [`STRANGERS_FOR`] after the socket was opened: all
//! that found it before connect(2) is gone then. Everything that can be set before bind(2) is, so that the
//! moment is short. Strangers who fill the queue in it, as they can where we lose the processor just there, take the place
//! of what the peer sends until it is read: that the kernel drops, as with any socket that is full.
//!
//! What else would do, measured for a flow whose bind(2) and connect(2) take 2.7 µs: a filter that lets
//! nothing in before connect(2) (`SO_ATTACH_FILTER`, `SO_DETACH_FILTER`) takes 11 µs more and still lets in
//! what is past the filter already; a look at the queue after connect(2) takes 0.3 µs and cannot take a
//! stranger's datagram from behind one of the peer's. To read the source costs no system call, and 40 ns
//! for each of the small datagrams that are read together; of the others the length is peeked, and the
//! source comes with it.
//!
//! Echo sockets are judged always: the kernel gives them replies by their identifier, whoever sent them.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use passt_frame::Errno;

use super::listeners::Listeners;
use super::reserved_port;
use crate::flow::side::{Endpoint, Pif};
use crate::limits::UDP_BUFFER_BYTES;
use crate::sys::socket::{self, BindTo, Transport};
use crate::sys::{datagram, group};
use crate::time::Timestamp;

/// The longest that a packet which found a socket is expected to be on its way into the queue: the
/// processor that has it may be busy with something else, or be a virtual one that does not run.
const STRANGERS_FOR: Duration = Duration::from_secs(1);

/// What a new socket is to be.
pub(super) struct SocketSpec<'a> {
    pub(crate) transport: Transport,
    /// What to bind to.
    pub(crate) to: BindTo<'a>,
    /// Whom to connect to.
    pub(crate) peer: SocketAddr,
    /// Where our port is taken or privileged, any other will do: a datagram gets through, and an answer
    /// finds its way back.
    pub(crate) or_any_port: bool,
    /// Sockets that have our port for themselves and share it with this one.
    pub(crate) beside: Beside<'a>,
    /// The other end of the flow is the link to the guest, which is told of errors.
    pub(crate) for_link: bool,
    /// The peer may be all of a network.
    pub(crate) may_broadcast: bool,
}

/// Sockets of ours that may have a port for themselves, on which another one of ours is wanted.
#[derive(Clone, Copy, Default)]
pub(super) struct Beside<'a> {
    /// That of a flow.
    pub(crate) flow: Option<BorrowedFd<'a>>,
    /// Those that listen on a side.
    pub(crate) listeners: Option<(&'a Listeners, Pif)>,
}

impl<'a> Beside<'a> {
    /// On the host: beside a flow, if that is there, and those that listen.
    pub(crate) fn on_host(flow: Option<BorrowedFd<'a>>, listeners: &'a Listeners) -> Self {
        Self { flow, listeners: Some((listeners, Pif::Host)) }
    }

    /// Has `bind` bind `socket`, to `port` if that is not 0.
    ///
    /// # Errors
    /// What setsockopt(2) and `bind` report.
    pub(crate) fn bind(
        self,
        socket: BorrowedFd<'a>,
        port: u16,
        bind: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let listening = self.listeners.into_iter();
        let listening = listening.flat_map(|(all, pif)| all.with_udp_port(pif, port));
        let owners = self.flow.into_iter().chain(listening);
        if port == 0 || owners.clone().next().is_none() {
            return bind();
        }
        socket::sharing(socket, owners, bind)
    }
}

/// A socket that is bound and connected.
pub(super) struct Connected {
    pub(crate) socket: OwnedFd,
    /// The port that it has.
    pub(crate) port: u16,
    /// Its peer is all of a network, as the kernel knows it.
    pub(crate) broadcasts: bool,
}

/// Binds and connects a new socket; if it must be, `another` one.
///
/// # Talking to itself
/// A socket that is bound to a port of all addresses and is connected to the same port of an address of this host has
/// that address from then on: it is connected to itself, the guest gets what it has sent, and whoever shares the port
/// gets nothing. So such a flow has another port.
///
/// # Errors
/// What setsockopt(2), bind(2), connect(2) and getsockname(2) report, and `another`.
pub(super) fn connected(
    socket: OwnedFd,
    another: impl FnOnce() -> Result<OwnedFd, Errno>,
    spec: &SocketSpec<'_>,
) -> Result<Connected, Errno> {
    let opened = open(socket, spec)?;
    let udp = spec.transport == Transport::Udp && opened.port == spec.peer.port();
    if !udp || !socket::is_its_own_peer(opened.socket.as_fd(), spec.peer) {
        return Ok(opened);
    }
    if !spec.or_any_port {
        return Err(Errno::ADDRINUSE);
    }
    // The first one keeps its port until the other has one, too.
    let mut to = spec.to;
    to.address.set_port(0);
    open(another()?, &SocketSpec { to, beside: Beside::default(), ..*spec })
}

fn open(socket: OwnedFd, spec: &SocketSpec<'_>) -> Result<Connected, Errno> {
    let SocketSpec { transport, to, peer, or_any_port, beside, for_link, may_broadcast } = *spec;
    let mut port = to.address.port();
    let fd = socket.as_fd();
    prepare(fd, transport, for_link.then_some(to.address.is_ipv4()))?;
    if to.interface.is_none() {
        keep_to_interface_of(fd, peer);
    }
    // One after the other, before ports are taken back from each other: in between, strangers get into its queue.
    let mut connected = None;
    let bound = beside.bind(fd, port, || {
        socket::bind(fd, &to)?;
        connected = Some(socket::connect(fd, peer));
        Ok(())
    });
    match bound {
        Err(Errno::ADDRINUSE | Errno::ACCESS) if or_any_port && port != 0 => {
            let ip = to.address.ip();
            reserved_port::open_like(port, |port| {
                socket::bind_free_port(fd, SocketAddr::new(ip, port))
            })?;
            port = 0;
        }
        other => other?,
    }
    let broadcasts = match connected.unwrap_or_else(|| socket::connect(fd, peer)) {
        // Either that, or a prohibited way: then it is refused again.
        Err(Errno::ACCESS) if may_broadcast => {
            group::allow_broadcast(fd)?;
            socket::connect(fd, peer)?;
            true
        }
        other => {
            other?;
            false
        }
    };
    if port == 0 && transport == Transport::Udp {
        port = socket::local_address(fd)?.port();
    }
    Ok(Connected { socket, port, broadcasts })
}

/// Binds a new socket of a flow with anybody, as [`bind_for_anybody`] does. Where `to`'s port is taken or privileged, any
/// other will do. With it, the port that it has now.
///
/// # Errors
/// What setsockopt(2), bind(2) and getsockname(2) report.
pub(super) fn unconnected(
    socket: OwnedFd,
    to: &BindTo<'_>,
    toward: Option<(SocketAddr, u32)>,
) -> Result<(OwnedFd, u16), Errno> {
    let (fd, port) = (socket.as_fd(), to.address.port());
    match bind_for_anybody(fd, to, toward) {
        Ok(()) if port == 0 => {
            let port = socket::local_address(fd)?.port();
            return Ok((socket, port));
        }
        Ok(()) => return Ok((socket, port)),
        Err(Errno::ADDRINUSE | Errno::ACCESS) => reserved_port::open_like(port, |port| {
            socket::bind_free_port(fd, SocketAddr::new(to.address.ip(), port))
        })?,
        Err(errno) => return Err(errno),
    }
    let port = socket::local_address(fd)?.port();
    Ok((socket, port))
}

/// Binds a new socket of a flow with anybody to a port that it shares with nobody. If a socket of ours receives for groups
/// on the port, the new one is bound to the address from which it sends `toward` somebody, to groups by the interface with
/// this index.
///
/// # Errors
/// What setsockopt(2) and bind(2) report.
pub(super) fn bind_for_anybody(
    fd: BorrowedFd<'_>,
    to: &BindTo<'_>,
    toward: Option<(SocketAddr, u32)>,
) -> Result<(), Errno> {
    prepare(fd, Transport::Udp, Some(to.address.is_ipv4()))?;
    // Older kernels deliver them, and the guest's kernel gives them to nobody who has not joined.
    let _ = datagram::own_groups_only(fd, to.address.is_ipv4());
    match (socket::bind_alone(fd, to), toward) {
        (Err(Errno::ADDRINUSE), Some((toward, groups_by))) => {
            let address = group::source_toward(toward, to.interface, groups_by);
            let mut address = address.map_err(|_| Errno::ADDRINUSE)?;
            address.set_port(to.address.port());
            socket::bind_alone(fd, &BindTo { address, ..*to })
        }
        (bound, _) => bound,
    }
}

/// Sets what all have whose datagrams go on to somebody else. Those of a flow with the link, of IPv4 or not, tell of
/// ICMP errors, too.
fn prepare(fd: BorrowedFd<'_>, transport: Transport, link: Option<bool>) -> Result<(), Errno> {
    if let Some(v4) = link {
        datagram::report_errors(fd, v4)?;
    }
    if transport == Transport::Udp {
        // Older kernels hand out one datagram at a time.
        let _ = datagram::coalesce(fd);
        let _ = datagram::enlarge(fd, UDP_BUFFER_BYTES);
    }
    Ok(())
}

/// A link-local peer is one on its own link. connect(2) binds the socket to that; earlier is better,
/// since a flow's side does not tell links apart.
fn keep_to_interface_of(fd: BorrowedFd<'_>, peer: SocketAddr) {
    if let SocketAddr::V6(v6) = peer
        && v6.ip().is_unicast_link_local()
        && v6.scope_id() != 0
    {
        // Kernels before 5.7 do not let everybody do that.
        let _ = socket::bind_to_interface(fd, v6.scope_id());
    }
}

/// Until when a socket may have datagrams of strangers in its queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strangers(Option<Timestamp>);

impl Strangers {
    /// Those of a socket that is opened now.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self(Some(now + STRANGERS_FOR))
    }

    /// Whom datagrams must come from, as long as there may be others than the peer's.
    pub(crate) fn allow_only(self, peer: Endpoint) -> Option<SocketAddr> {
        self.0.map(|_| peer.with_scope(0))
    }

    /// The queue was seen empty.
    pub(crate) fn on_empty(&mut self, now: Timestamp) {
        self.0 = self.0.filter(|until| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt;
    use std::net::{IpAddr, Ipv4Addr};

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn created() -> Result<OwnedFd, Errno> {
        socket::create(Transport::Udp, LOOPBACK)
    }

    /// A socket that is bound to this port of all addresses, and connected to that of the loopback address.
    fn opened(port: u16, peer: u16, for_link: bool, or_any_port: bool) -> Result<Connected, Errno> {
        let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let spec = SocketSpec {
            transport: Transport::Udp,
            to: BindTo::to(address),
            peer: SocketAddr::new(LOOPBACK, peer),
            or_any_port,
            beside: Beside::default(),
            for_link,
            may_broadcast: false,
        };
        connected(created()?, created, &spec)
    }

    #[test]
    fn all_that_goes_on_to_somebody_may_wait_in_a_large_buffer() {
        let like = created().unwrap();
        let first = sockopt::socket_recv_buffer_size(&like).unwrap();
        datagram::enlarge(like.as_fd(), UDP_BUFFER_BYTES).unwrap();
        let large = sockopt::socket_recv_buffer_size(&like).unwrap();
        assert!(large > first, "this machine allows no larger one than {first}");
        for for_link in [true, false] {
            let socket = opened(0, 9, for_link, true).unwrap().socket;
            assert_eq!(sockopt::socket_recv_buffer_size(&socket), Ok(large), "{for_link}");
        }
    }

    #[test]
    fn no_socket_is_its_own_peer() {
        let free = opened(0, 9, true, true).unwrap();
        let port = free.port;
        drop(free);
        assert!(matches!(opened(port, port, true, false), Err(Errno::ADDRINUSE)));
        let other = opened(port, port, true, true).unwrap();
        assert_ne!(other.port, port);
        assert_eq!(socket::local_address(other.socket.as_fd()).unwrap().port(), other.port);
        // Where its peer is another one, it has the port.
        assert_eq!(opened(port, 9, true, true).unwrap().port, port);
    }

    #[test]
    fn judging_ends_with_an_empty_queue_that_is_late_enough() {
        let start = Timestamp::from_micros(7);
        let peer = Endpoint::new(Ipv4Addr::new(192, 0, 2, 60).into(), 53);
        let mut strangers = Strangers::new(start);
        strangers.on_empty(start + STRANGERS_FOR.saturating_sub(Duration::from_micros(1)));
        assert_eq!(strangers.allow_only(peer), Some(peer.with_scope(0)));
        strangers.on_empty(start + STRANGERS_FOR);
        assert_eq!(strangers.allow_only(peer), None);
    }
}
