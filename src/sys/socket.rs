//! Sockets: creation, options, binding. All sockets are non-blocking and closed on exec.

use std::ffi::c_int;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, ipproto, sockopt,
};

/// What the TTL of packets is by default (RFC 1700).
const USUAL_HOP_LIMIT: u8 = 64;

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A TCP stream.
    Tcp,
    /// UDP datagrams.
    Udp,
    /// ICMP echo (ping(7) sockets): the kernel owns identifier and checksum.
    Ping,
}

/// As everybody writes it.
impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Ping => "ICMP echo",
        })
    }
}

/// Creates a socket of the family of `address`.
///
/// # Errors
/// What socket(2) reports; `ACCESS` for echo sockets outside of `ping_group_range`.
pub(crate) fn create(transport: Transport, address: IpAddr) -> Result<OwnedFd, Errno> {
    let v4 = address.is_ipv4();
    let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol): (_, Option<Protocol>) = match transport {
        Transport::Tcp => (SocketType::STREAM, None),
        Transport::Udp => (SocketType::DGRAM, None),
        Transport::Ping if v4 => (SocketType::DGRAM, Some(ipproto::ICMP)),
        Transport::Ping => (SocketType::DGRAM, Some(ipproto::ICMPV6)),
    };
    net::socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, protocol)
}

/// Connects a stream socket: `Ok(true)` when connected at once, `Ok(false)` when under way.
///
/// # Errors
/// What connect(2) reports, `INPROGRESS` excepted.
pub(crate) fn connect(socket: BorrowedFd<'_>, to: SocketAddr) -> Result<bool, Errno> {
    match net::connect(socket, &to) {
        Ok(()) => Ok(true),
        Err(Errno::INPROGRESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Connects a stream socket to this machine: the handshake is done when connect(2) returns, though that does not say
/// so the first time. `Ok(false)` when it is not, because the queue of the one who listens is full.
///
/// # Errors
/// What connect(2) reports, `INPROGRESS` and `ALREADY` excepted.
pub(crate) fn connect_here(socket: BorrowedFd<'_>, to: SocketAddr) -> Result<bool, Errno> {
    if connect(socket, to)? {
        return Ok(true);
    }
    match net::connect(socket, &to) {
        Ok(()) | Err(Errno::ISCONN) => Ok(true),
        Err(Errno::ALREADY | Errno::INPROGRESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Begins again with a socket that was not connected yet: another SYN goes at once, and not when the kernel would
/// repeat the first.
///
/// # Errors
/// Those of [`connect_here`].
pub(crate) fn connect_here_again(socket: BorrowedFd<'_>, to: SocketAddr) -> Result<bool, Errno> {
    match net::connect(socket, &to) {
        Ok(()) | Err(Errno::ISCONN) => Ok(true),
        Err(Errno::ALREADY | Errno::INPROGRESS) => {
            net::connect_unspec(socket)?;
            connect_here(socket, to)
        }
        Err(errno) => Err(errno),
    }
}

/// Whether a socket that is being connected to `to` is so to its own machine.
pub(crate) fn leads_here(socket: BorrowedFd<'_>, to: IpAddr) -> bool {
    to.is_loopback() || local_address(socket).is_ok_and(|own| own.ip() == to)
}

/// Address that a socket is bound to.
///
/// # Errors
/// What getsockname(2) reports; `AFNOSUPPORT` for other than internet addresses.
pub(crate) fn local_address(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    let any = net::getsockname(socket)?;
    SocketAddr::try_from(any).map(canonical).map_err(|_| Errno::AFNOSUPPORT)
}

/// Whether a socket that is connected to `peer` is so to itself: it has that address and port.
pub(crate) fn is_its_own_peer(socket: BorrowedFd<'_>, peer: SocketAddr) -> bool {
    let own = local_address(socket);
    own.is_ok_and(|own| own.port() == peer.port() && own.ip() == peer.ip().to_canonical())
}

/// Address that a socket is connected to, with its scope if it has one.
///
/// # Errors
/// What getpeername(2) reports; `AFNOSUPPORT` for other than internet addresses.
pub(crate) fn peer_address(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    let any = net::getpeername(socket)?.ok_or(Errno::NOTCONN)?;
    SocketAddr::try_from(any).map(canonical).map_err(|_| Errno::AFNOSUPPORT)
}

/// Accepts one connection; the peer's address comes with it, v4-mapped ones as IPv4.
///
/// # Errors
/// What accept4(2) reports; `AGAIN` when there is none.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Result<(OwnedFd, SocketAddr), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = net::acceptfrom_with(listener, flags)?;
    let peer = peer.ok_or(Errno::NOTCONN)?;
    let peer = SocketAddr::try_from(peer).map_err(|_| Errno::AFNOSUPPORT)?;
    Ok((socket, canonical(peer)))
}

/// The process at the other end of a unix socket, when it connected (`SO_PEERCRED`, unix(7)). `None` for
/// one outside of our process id namespace. The kernel's number for it is 0, which rustix's type for
/// process ids cannot hold.
pub(crate) fn peer_process(socket: BorrowedFd<'_>) -> Option<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of_val(&peer) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `peer`, which takes any numbers.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    u32::try_from(peer.pid).ok().filter(|pid| rc == 0 && *pid != 0)
}

/// The process at the other end of a unix socket as messages tell of it, behind what it is: `PID 7`.
pub(crate) fn peer_in_words(socket: BorrowedFd<'_>) -> String {
    match peer_process(socket) {
        Some(pid) => format!("PID {pid}"),
        None => "of another PID namespace".to_owned(),
    }
}

/// Whether nobody can be accepted for want of descriptors or memory, so that who waits goes on to wait.
pub(crate) fn is_exhaustion(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
}

/// Whether the peer of a connected unix stream socket has closed it, or reads no more. Sending nothing
/// tells: it fails then, whatever the peer has left to be read, and has no effect otherwise. The connection
/// ends with that, so that an event says so behind what is left to be read.
pub(crate) fn has_hung_up(socket: BorrowedFd<'_>) -> bool {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let gone = matches!(net::send(socket, &[], flags), Err(Errno::PIPE | Errno::CONNRESET));
    if gone {
        // Fails only if the peer has closed it, and that is an event already.
        let _ = net::shutdown(socket, net::Shutdown::Both);
    }
    gone
}

/// The address with a v4-mapped one as IPv4: what a dual-stack socket reports.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        v4 @ IpAddr::V4(_) => SocketAddr::new(v4, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Where a listening or flow socket is bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BindTo<'a> {
    /// Address and port; the unspecified address binds to all.
    pub(crate) address: SocketAddr,
    /// Interface, if bound to one.
    pub(crate) interface: Option<&'a str>,
    /// `--freebind`: the address need not exist yet.
    pub(crate) freebind: bool,
    /// One IPv6 socket for both families.
    pub(crate) dual_stack: bool,
}

impl<'a> BindTo<'a> {
    /// This address, on any interface; it has to exist, and the socket is of its family alone.
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self { address, interface: None, freebind: false, dual_stack: false }
    }

    /// The same, on `interface` if there is one.
    pub(crate) fn on(self, interface: Option<&'a str>) -> Self {
        Self { interface, ..self }
    }
}

impl BindTo<'_> {
    /// The address for bind(2).
    fn effective(&self) -> SocketAddr {
        if self.dual_stack {
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.address.port())
        } else {
            self.address
        }
    }
}

/// Binds a new socket as `to` says, with `SO_REUSEADDR` unless the port is the kernel's choice.
///
/// # Errors
/// What setsockopt(2) and bind(2) report.
pub(crate) fn bind(socket: BorrowedFd<'_>, to: &BindTo<'_>) -> Result<(), Errno> {
    sockopt::set_socket_reuseaddr(socket, to.address.port() != 0)?;
    bind_alone(socket, to)
}

/// Has a bound socket share its port from now on with whoever says that he does (`SO_REUSEADDR`), or with nobody who comes.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn share(owner: BorrowedFd<'_>, shared: bool) -> Result<(), Errno> {
    sockopt::set_socket_reuseaddr(owner, shared)
}

/// Lets `socket`, which `bind` binds, have the port of `owners`, which were bound by [`bind_alone`]. A stranger can bring
/// this moment about as often as he likes, and bind in it: so they do not share the port with everybody, but only with
/// sockets of the same user (`SO_REUSEPORT`, socket(7)). Afterwards nobody does, and nothing is distributed between them.
///
/// # Errors
/// What setsockopt(2) and `bind` report.
pub(crate) fn sharing<'a>(
    socket: BorrowedFd<'a>,
    owners: impl Iterator<Item = BorrowedFd<'a>> + Clone,
    bind: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut all = std::iter::once(socket).chain(owners.clone());
    let shared = all.try_for_each(|one| sockopt::set_socket_reuseport(one, true));
    let bound = shared.and_then(|()| bind());
    let mut all = std::iter::once(socket).chain(owners);
    all.try_for_each(|one| sockopt::set_socket_reuseport(one, false))?;
    bound
}

/// Whether a socket can be bound beside one that has its port alone, by [`sharing`]: not where what stands in for a kernel
/// asks once whether a port is shared, at bind(2). Where that cannot be tried it is taken for granted.
pub(crate) fn can_lend_ports() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    let tried = || {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let [owner, other] = [create(Transport::Udp, any)?, create(Transport::Udp, any)?];
        net::bind(&owner, &SocketAddr::new(any, 0))?;
        let port = local_address(owner.as_fd())?;
        sharing(other.as_fd(), std::iter::once(owner.as_fd()), || net::bind(&other, &port))
    };
    *CAN.get_or_init(|| tried() != Err(Errno::ADDRINUSE))
}

/// Binds a new socket as `to` says to a port that it does not share: nobody has it, and nobody gets it.
///
/// # Errors
/// What setsockopt(2) and bind(2) report.
pub(crate) fn bind_alone(socket: BorrowedFd<'_>, to: &BindTo<'_>) -> Result<(), Errno> {
    let address = to.effective();
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(socket, !to.dual_stack)?;
    }
    if let Some(interface) = to.interface {
        bind_to_device(socket, interface)?;
    }
    if to.freebind && address.is_ipv4() {
        sockopt::set_ip_freebind(socket, true)?;
    } else if to.freebind {
        sockopt::set_ipv6_freebind(socket, true)?;
    }
    net::bind(socket, &address)
}

/// The same where [`bind_alone`] has failed before: the other options are set, some of which can be set but once. The
/// port may be `shared`.
///
/// # Errors
/// What setsockopt(2) and bind(2) report.
pub(crate) fn bind_again(
    socket: BorrowedFd<'_>,
    to: &BindTo<'_>,
    shared: bool,
) -> Result<(), Errno> {
    sockopt::set_socket_reuseaddr(socket, shared)?;
    net::bind(socket, &to.effective())
}

/// Binds to a port that nobody has, or to any such if it is 0, where [`bind`] has failed before: the other
/// options are set.
///
/// # Errors
/// What setsockopt(2) and bind(2) report.
pub(crate) fn bind_free_port(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    sockopt::set_socket_reuseaddr(socket, false)?;
    net::bind(socket, &address)
}

/// Binds a TCP socket that will connect to a port of ours. Others may do the same for other destinations, and
/// connections that are over do not keep it.
///
/// # Errors
/// What setsockopt(2) and bind(2) report.
pub(crate) fn bind_port(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    sockopt::set_socket_reuseaddr(socket, true)?;
    net::bind(socket, &address)
}

/// Binds a TCP socket to an address and leaves its port to connect(2), which knows that ports can be
/// shared between destinations (`IP_BIND_ADDRESS_NO_PORT`).
///
/// # Errors
/// What setsockopt(2) and bind(2) report.
pub(crate) fn bind_address(socket: BorrowedFd<'_>, mut address: SocketAddr) -> Result<(), Errno> {
    set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    address.set_port(0);
    net::bind(socket, &address)
}

/// Whether this host does not have an address, so that no socket may be bound to it.
pub(crate) fn is_foreign(mut address: SocketAddr) -> bool {
    address.set_port(0);
    let socket = create(Transport::Udp, address.ip());
    let bound = socket.and_then(|socket| net::bind(&socket, &address));
    // One of a link is no argument without the interface.
    matches!(bound, Err(Errno::ADDRNOTAVAIL | Errno::INVAL))
}

/// Binds a socket to an interface (`SO_BINDTODEVICE`; without privileges since Linux 5.7).
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn bind_to_device(socket: BorrowedFd<'_>, interface: &str) -> Result<(), Errno> {
    set_bytes(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_bytes())
}

/// The same by the interface's index (`SO_BINDTOIFINDEX`).
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn bind_to_interface(socket: BorrowedFd<'_>, index: u32) -> Result<(), Errno> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, index as c_int)
}

/// The name of the interface that a socket is bound to, if it is and the interface is still there.
pub(crate) fn bound_device(socket: BorrowedFd<'_>) -> Option<String> {
    let mut name = [0_u8; libc::IFNAMSIZ];
    let mut length = name.len() as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
    // SAFETY: `name` has room for `length` bytes, and both live through the call.
    let rc = unsafe {
        let name = name.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), level, option, name, &raw mut length)
    };
    let name = std::ffi::CStr::from_bytes_until_nul(&name[..length as usize]).ok()?;
    (rc == 0 && !name.is_empty()).then(|| name.to_string_lossy().into_owned())
}

/// The scope of the IPv6 address that a socket is bound to.
pub(crate) fn scope_id(socket: BorrowedFd<'_>) -> Option<u32> {
    match local_address(socket).ok()? {
        SocketAddr::V6(address) => Some(address.scope_id()),
        SocketAddr::V4(_) => None,
    }
}

/// Whether `address` is one of this host: what goes there comes from there. Nothing is sent.
pub(crate) fn is_of_this_host(address: SocketAddr) -> bool {
    let mut address = address;
    // Any port does, but not none.
    address.set_port(1);
    let local = || {
        let socket = create(Transport::Udp, address.ip())?;
        connect(socket.as_fd(), address)?;
        local_address(socket.as_fd())
    };
    address.ip().is_loopback() || local().is_ok_and(|local| local.ip() == address.ip())
}

/// What a socket does with packets that may be too large for their path (`IP_MTU_DISCOVER`, ip(7); the numbers are
/// those of both families).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cutting {
    /// They may be cut here and on their way.
    Allowed = libc::IP_PMTUDISC_DONT as isize,
    /// They are cut here if the path is known to be narrower; the default.
    Wanted = libc::IP_PMTUDISC_WANT as isize,
    /// They are refused if the path is known to be narrower.
    Forbidden = libc::IP_PMTUDISC_DO as isize,
}

/// Sets what a socket does with packets that may be too large for their path.
///
/// # Errors
/// What setsockopt(2) reports.
pub(crate) fn set_cutting(socket: BorrowedFd<'_>, v4: bool, cutting: Cutting) -> Result<(), Errno> {
    let (level, name) = if v4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    };
    set_int(socket, level, name, cutting as c_int)
}

/// MTU of the path of a connected socket, as far as it is known, in bytes of an IP packet.
///
/// # Errors
/// What getsockopt(2) reports; `NOTCONN` for a socket that is not connected.
pub(crate) fn path_mtu(socket: BorrowedFd<'_>, v4: bool) -> Result<u32, Errno> {
    if v4 { sockopt::ip_mtu(socket) } else { sockopt::ipv6_mtu(socket) }
}

/// MTU of the path to `address`, as far as it is known, from a socket that is bound to `interface`. Nothing is sent.
///
/// # Errors
/// What socket(2) and the calls on the socket report.
pub(crate) fn path_mtu_to(address: SocketAddr, interface: Option<&str>) -> Result<u32, Errno> {
    let socket = create(Transport::Udp, address.ip())?;
    if let Some(interface) = interface {
        bind_to_device(socket.as_fd(), interface)?;
    }
    connect(socket.as_fd(), address)?;
    path_mtu(socket.as_fd(), address.is_ipv4())
}

/// TTL or hop limit of sockets that say nothing of it.
pub(crate) fn default_hop_limit(v4: bool) -> u8 {
    static DEFAULTS: OnceLock<[u8; 2]> = OnceLock::new();
    let ask = || {
        let v4 = create(Transport::Udp, Ipv4Addr::UNSPECIFIED.into()).and_then(sockopt::ip_ttl);
        let v6 = create(Transport::Udp, Ipv6Addr::UNSPECIFIED.into());
        let v6 = v6.and_then(sockopt::ipv6_unicast_hops);
        let v4 = v4.ok().and_then(|hops| u8::try_from(hops).ok());
        [v4, v6.ok()].map(|hops| hops.unwrap_or(USUAL_HOP_LIMIT))
    };
    DEFAULTS.get_or_init(ask)[usize::from(!v4)]
}

/// Sets an integer option.
///
/// # Errors
/// What setsockopt(2) reports.
pub fn set_int(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> Result<(), Errno> {
    set_bytes(socket, level, name, &value.to_ne_bytes())
}

pub(super) fn set_bytes(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &[u8],
) -> Result<(), Errno> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`.
    let rc =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The calling thread's errno after a failed libc call.
pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That others are is a test of pasta's: here the host's sysctls would count, and whether it has any address.
    #[test]
    fn an_address_that_a_socket_may_have_is_not_foreign() {
        let at = |address: &str| SocketAddr::new(address.parse().expect("an address"), 1);
        assert!(!is_foreign(at("127.0.0.1")), "the port is nobody's business");
        assert!(is_foreign(at("fe80::1")), "of a link, and no link that it is on");
    }

    #[test]
    fn a_port_is_lent_to_sockets_of_ours_and_to_nobody_who_would_share_it() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let made = || create(Transport::Udp, ip).expect("a socket");
        let (owner, other) = (made(), made());
        let to = |port| BindTo::to(SocketAddr::new(ip, port));
        bind_alone(owner.as_fd(), &to(0)).expect("a free port");
        let to = to(local_address(owner.as_fd()).expect("bound").port());
        let stranger = || bind(made().as_fd(), &to);
        assert_eq!(stranger(), Err(Errno::ADDRINUSE));
        let lent = sharing(other.as_fd(), std::iter::once(owner.as_fd()), || {
            assert_eq!(stranger(), Err(Errno::ADDRINUSE), "in the moment that it can bring about");
            bind(other.as_fd(), &to)
        });
        assert_eq!((lent, stranger()), (Ok(()), Err(Errno::ADDRINUSE)));
        assert!(can_lend_ports());
        for socket in [owner, other] {
            assert_eq!(sockopt::socket_reuseport(&socket), Ok(false), "nothing is distributed");
        }
    }
}
