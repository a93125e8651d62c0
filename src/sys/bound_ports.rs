//! Which ports are listened on in a network namespace, however that can be found out: the kernel is asked
//! ([`sock_diag`](super::sock_diag)), or, where a policy refuses the socket for that (SELinux) or the kernel does not
//! answer, the tables in `/proc/net` are read (proc_net(5)), which takes longer the more connections there are.
//!
//! The tables are those of the namespace in which they were opened, wherever they are read.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::sock_diag::{Protocol, STATE_CLOSE, STATE_LISTEN, SockDiag};

/// What is read at once.
const READ_BYTES: usize = 16 * 1024;

/// More than a table with as many sockets as a system can have.
const MAX_READS: usize = 1 << 20;

/// Tells what listens in one network namespace.
pub enum BoundPorts {
    /// The kernel is asked.
    Asked(SockDiag),
    /// Its tables are read.
    Read(PortTables),
}

impl BoundPorts {
    /// Calls `visit` with local address and port of each socket of `protocol` that waits for peers, of both
    /// families. One on all addresses of both is told of twice; tables do not say which those of IPv6 alone are.
    ///
    /// # Errors
    /// What the kernel reports; what was visited until then is true but not all.
    pub(crate) fn visit(
        &mut self,
        protocol: Protocol,
        visit: impl FnMut(IpAddr, u16),
    ) -> Result<(), Errno> {
        match self {
            Self::Asked(diag) => diag.visit(protocol, visit),
            Self::Read(tables) => tables.visit(protocol, visit),
        }
    }
}

/// The tables of sockets, open.
#[derive(Debug)]
pub struct PortTables {
    tcp: [Option<File>; 2],
    udp: [Option<File>; 2],
    /// Read and not used yet: at most a line, and what was read after it.
    text: Vec<u8>,
}

impl PortTables {
    /// Opens those of the namespace that the calling thread is in. A kernel without IPv6 has half of them.
    ///
    /// # Errors
    /// There are none of IPv4.
    pub(crate) fn open() -> Result<Self, Errno> {
        let pair = |name: &str| {
            let open = |name: String| {
                File::open(format!("/proc/thread-self/net/{name}"))
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            };
            Ok([Some(open(name.to_owned())?), open(format!("{name}6")).ok()])
        };
        let text = Vec::with_capacity(2 * READ_BYTES);
        Ok(Self { tcp: pair("tcp")?, udp: pair("udp")?, text })
    }

    fn visit(
        &mut self,
        protocol: Protocol,
        mut visit: impl FnMut(IpAddr, u16),
    ) -> Result<(), Errno> {
        let (files, state) = match protocol {
            Protocol::Tcp => (&self.tcp, STATE_LISTEN),
            Protocol::Udp => (&self.udp, STATE_CLOSE),
        };
        for file in files.iter().flatten() {
            read_lines(file, &mut self.text, |line| {
                if let Some((address, port)) = socket(line, state) {
                    visit(address, port);
                    if address == Ipv6Addr::UNSPECIFIED {
                        visit(Ipv4Addr::UNSPECIFIED.into(), port);
                    }
                }
            })?;
        }
        Ok(())
    }
}

/// Reads `file` from its begin and calls `visit` with each line.
fn read_lines(file: &File, text: &mut Vec<u8>, mut visit: impl FnMut(&str)) -> Result<(), Errno> {
    text.clear();
    let mut offset = 0;
    for _ in 0..MAX_READS {
        let kept = text.len();
        if kept > READ_BYTES {
            return Err(Errno::MSGSIZE);
        }
        text.resize(kept + READ_BYTES, 0);
        let read = file.read_at(&mut text[kept..], offset);
        let read = read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        text.truncate(kept + read);
        offset += read as u64;
        let Some(end) = text.iter().rposition(|byte| *byte == b'\n').map(|last| last + 1) else {
            return Ok(());
        };
        str::from_utf8(&text[..end]).unwrap_or_default().lines().for_each(&mut visit);
        text.drain(..end);
        if read == 0 {
            return Ok(());
        }
    }
    Err(Errno::MSGSIZE)
}

/// Local address and port of a table's line, if its socket is in `state` and has a port: a number, then
/// `ADDRESS:PORT` of both ends and the state, in hexadecimal digits.
fn socket(line: &str, state: u32) -> Option<(IpAddr, u16)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    let is_in = u32::from_str_radix(words.nth(1)?, 16).ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (is_in == state && port != 0).then_some((ip(address)?, port))
}

/// An address as the kernel prints it: words of 32 bits whose bytes are in network order, as numbers of the
/// machine. As everywhere, IPv4 inside IPv6 is IPv4.
fn ip(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = digits.get(8 * at..8 * at + 8)?;
        u32::from_str_radix(word, 16).ok().map(u32::to_ne_bytes)
    };
    match digits.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let address: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(address).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::super::sock_diag;
    use super::*;

    fn seen(ports: &mut BoundPorts, protocol: Protocol) -> Vec<(IpAddr, u16)> {
        let mut all = Vec::new();
        ports.visit(protocol, |address, port| all.push((address, port))).unwrap();
        all
    }

    #[test]
    fn both_ways_tell_the_same() {
        let tcp = ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"]
            .map(|address| TcpListener::bind(address).unwrap());
        let udp = ["127.0.0.1:0", "[::1]:0"].map(|address| UdpSocket::bind(address).unwrap());
        let stream = TcpStream::connect(tcp[0].local_addr().unwrap()).unwrap();
        let asked = BoundPorts::Asked(SockDiag::new(sock_diag::socket().unwrap()));
        let read = BoundPorts::Read(PortTables::open().unwrap());
        for mut ports in [asked, read] {
            // The second look begins anew.
            for _ in 0..2 {
                let found = seen(&mut ports, Protocol::Tcp);
                for listener in &tcp {
                    let address = listener.local_addr().unwrap();
                    assert!(
                        found.contains(&(address.ip(), address.port())),
                        "{address}: {found:?}"
                    );
                }
                let ours = stream.local_addr().unwrap();
                assert!(!found.contains(&(ours.ip(), ours.port())), "it is connected");
                let found = seen(&mut ports, Protocol::Udp);
                for socket in &udp {
                    let address = socket.local_addr().unwrap();
                    assert!(
                        found.contains(&(address.ip(), address.port())),
                        "{address}: {found:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_socket_of_ipv6_alone_is_told_from_one_of_both() {
        use rustix::net::{AddressFamily, SocketType, bind, listen, sockopt};
        let listening = |v6_only: bool| {
            let socket = rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None);
            let socket = socket.unwrap();
            sockopt::set_ipv6_v6only(&socket, v6_only).unwrap();
            bind(&socket, &std::net::SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
            listen(&socket, 1).unwrap();
            TcpListener::from(socket)
        };
        let mut asked = BoundPorts::Asked(SockDiag::new(sock_diag::socket().unwrap()));
        for v6_only in [true, false] {
            let listener = listening(v6_only);
            let port = listener.local_addr().unwrap().port();
            let found = seen(&mut asked, Protocol::Tcp);
            assert!(found.contains(&(Ipv6Addr::UNSPECIFIED.into(), port)));
            let v4 = found.contains(&(Ipv4Addr::UNSPECIFIED.into(), port));
            assert_eq!(v4, !v6_only);
        }
    }

    #[test]
    fn lines_are_whole_wherever_a_read_ends() {
        let mut file = tempfile::tempfile().unwrap();
        let lines: Vec<String> = (0..3000).map(|n| format!("line {n}")).collect();
        std::io::Write::write_all(&mut file, (lines.join("\n") + "\n").as_bytes()).unwrap();
        let mut found = Vec::new();
        read_lines(&file, &mut Vec::new(), |line| found.push(line.to_owned())).unwrap();
        assert_eq!(found, lines);
        // What has no end is no line, and is not kept for ever.
        file.set_len(0).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[b'x'; 3 * READ_BYTES], 0).unwrap();
        let endless = read_lines(&file, &mut Vec::new(), |line| panic!("{line}"));
        assert_eq!(endless, Ok(()));
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let at = |line: &str| socket(line, STATE_LISTEN);
        let good = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        if cfg!(target_endian = "little") {
            assert_eq!(at(good), Some((Ipv4Addr::LOCALHOST.into(), 8080)));
        }
        assert_eq!(at(&good.replace("0A 0", "01 0")), None, "connected");
        assert_eq!(at(&good.replace("1F90", "0000")), None, "no port");
        for line in [
            "",
            "sl",
            "  sl  local_address rem_address   st tx_queue",
            "0: : 0:0 0A",
            "0: 1:2:3 0 0A",
            "0: ééé:1 0:0 0A",
        ] {
            assert_eq!(at(line), None, "{line}");
        }
    }
}
