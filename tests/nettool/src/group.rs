//! Both ends of what is for many: a group, or all of a network. Who hears a call answers its sender alone, as devices
//! answer SSDP and WS-Discovery.

use std::ffi::CString;
use std::io;
use std::mem::size_of_val;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;

use crate::Outcome;

/// How often one calls, and how long one waits for an answer each time.
const TRIES: usize = 5;
const WAIT: Duration = Duration::from_secs(1);

/// Hears what is sent to `at` on an interface, says so and answers, for ever. Shares the port with others.
pub fn hear(at: SocketAddr, interface: &str) -> Outcome {
    let index = index_of(interface)?;
    let socket = shared(at)?;
    match at.ip() {
        IpAddr::V4(group) if group.is_multicast() => {
            let request = v4_request(group, index);
            set(&socket, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request)?;
        }
        IpAddr::V6(group) if group.is_multicast() => socket.join_multicast_v6(&group, index)?,
        _ => {}
    }
    println!("ready");
    let mut bytes = [0; 2048];
    loop {
        let (len, from) = socket.recv_from(&mut bytes)?;
        println!("heard {} from {}", String::from_utf8_lossy(&bytes[..len]), from.ip());
        socket.send_to(&bytes[..len], from)?;
    }
}

/// Sends `text` to a group or to all of a network, from a port that nobody else has and the address `from`, if that is
/// given, until somebody answers.
pub fn call(from: Option<IpAddr>, to: SocketAddr, interface: &str, text: &str) -> Outcome {
    let index = index_of(interface)?;
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((from.unwrap_or(any), 0))?;
    socket.set_read_timeout(Some(WAIT))?;
    let to = match to {
        SocketAddr::V4(_) => {
            socket.set_broadcast(true)?;
            let request = v4_request(Ipv4Addr::UNSPECIFIED, index);
            set(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request)?;
            to
        }
        SocketAddr::V6(v6) => {
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &index.to_ne_bytes())?;
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, index).into()
        }
    };
    let mut bytes = [0; 2048];
    for _ in 0..TRIES {
        socket.send_to(text.as_bytes(), to)?;
        if let Ok((len, from)) = socket.recv_from(&mut bytes)
            && &bytes[..len] == text.as_bytes()
        {
            return Ok(format!("answered by {} {}", from.ip(), from.port()));
        }
    }
    Err("no answer".into())
}

fn index_of(interface: &str) -> io::Result<u32> {
    let name = CString::new(interface)?;
    // SAFETY: a string with its end.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// A socket on the port of `at` that lets others have it, too.
fn shared(at: SocketAddr) -> io::Result<UdpSocket> {
    let family = if at.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let socket = unsafe { UdpSocket::from_raw_fd(fd) };
    let on = 1_i32.to_ne_bytes();
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &on)?;
    if at.is_ipv6() {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &on)?;
    }
    bind_any(&socket, at)?;
    Ok(socket)
}

/// Binds to all addresses of the host.
fn bind_any(socket: &UdpSocket, at: SocketAddr) -> io::Result<()> {
    let port = at.port().to_be();
    let bound = if at.is_ipv4() {
        let name = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: port,
            sin_addr: libc::in_addr { s_addr: 0 },
            sin_zero: [0; 8],
        };
        // SAFETY: a name of the length that is stated.
        unsafe {
            libc::bind(socket.as_raw_fd(), (&raw const name).cast(), size_of_val(&name) as u32)
        }
    } else {
        let name = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: port,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        };
        // SAFETY: a name of the length that is stated.
        unsafe {
            libc::bind(socket.as_raw_fd(), (&raw const name).cast(), size_of_val(&name) as u32)
        }
    };
    if bound == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct ip_mreqn`: group, local address, interface index.
fn v4_request(group: Ipv4Addr, interface: u32) -> Vec<u8> {
    [&group.octets()[..], &[0; 4], &interface.to_ne_bytes()].concat()
}

fn set(socket: &UdpSocket, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
