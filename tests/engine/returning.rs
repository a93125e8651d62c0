//! Peers that come back from the port that they have used before, as proxies with connections that they keep and
//! programs that make load do: the guest's server sees the same port again, at once, and nobody is reset. The guest
//! is the kernel of another namespace, behind a tap device.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use passt::pasta::queue_frames;
use passt_frame::Errno;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

use crate::namespace::isolated;
use crate::packet::{self, ACK, FIN, RST, SYN};
use crate::tap::{INSIDE, NOTHING, OUTSIDE, PATIENCE, Running};
use crate::tcp::noise;
use crate::world::{FAMILIES, Family, Setup, World};

/// The port that a peer comes back from.
const PORT: u16 = 5000;
/// How often it does.
const VISITS: usize = 1500;
/// How often a guest does.
const OUTWARD_VISITS: usize = 500;
/// Visits of which one may take long: the host's kernel loses a SYN of its own if the socket that its peer has reset is
/// just being read, which happens once in some ten thousand.
const VISITS_PER_LATE: usize = 500;
/// Shorter than any timeout of a lost SYN.
const AT_ONCE: Duration = Duration::from_millis(700);

/// Which end of a connection ends it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ended {
    /// The server closes it when it has answered.
    ByServer,
    /// The server answers and says that it has no more, then the peer resets it.
    ByReset,
    /// The peer resets it when it has its answer.
    ByPeersReset,
    /// The peer resets it without a question.
    Unused,
}

const WAYS: [Ended; 4] = [Ended::ByServer, Ended::ByReset, Ended::ByPeersReset, Ended::Unused];

/// What a server in the guest does with one connection. It takes what a reset leaves of it.
fn serve(mut stream: TcpStream, ended: Ended, question: usize) -> bool {
    let mut bytes = vec![0; question];
    let answered = stream.read_exact(&mut bytes).and_then(|()| stream.write_all(b"!")).is_ok();
    if matches!(ended, Ended::ByPeersReset | Ended::Unused) {
        // Until the peer has gone.
        let _ = stream.read(&mut [0]);
    }
    if ended == Ended::ByReset {
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0]);
    }
    answered
}

/// A server in the guest: how many questions were answered to each port.
fn start_server(
    running: &Running,
    family: Family,
    ended: Ended,
    question: usize,
) -> JoinHandle<BTreeMap<u16, usize>> {
    let at = SocketAddr::new(family.guest(), INSIDE);
    let listener = running.guest.run(move || TcpListener::bind(at).expect("a free port"));
    std::thread::spawn(move || {
        let mut ports = BTreeMap::new();
        loop {
            let (stream, peer) = listener.accept().expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("setsockopt");
            if peer.port() == PORT + 1 {
                return ports;
            }
            if serve(stream, ended, question) || ended == Ended::Unused {
                *ports.entry(peer.port()).or_default() += 1;
            }
        }
    })
}

/// A connection from a port that was used before. The kernel may need a moment to be done with the last one.
fn connected_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    let domain = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    loop {
        let stream = socket(domain, SocketType::STREAM, None).expect("a socket");
        sockopt::set_socket_reuseaddr(&stream, true).expect("setsockopt");
        bind(&stream, &from).expect("nobody has the port");
        match connect(&stream, &to) {
            Err(Errno::ADDRNOTAVAIL) if Instant::now() < end => std::thread::yield_now(),
            connected => {
                connected.expect("somebody listens");
                let stream = TcpStream::from(stream);
                stream.set_read_timeout(Some(PATIENCE)).expect("setsockopt");
                return stream;
            }
        }
    }
}

/// One visit.
fn visit(
    (from, to): (SocketAddr, SocketAddr),
    ended: Ended,
    question: &[u8],
) -> std::io::Result<()> {
    let mut stream = connected_from(from, to);
    if ended != Ended::Unused {
        stream.write_all(question)?;
        stream.read_exact(&mut [0])?;
    }
    if matches!(ended, Ended::ByServer | Ended::ByReset) {
        assert_eq!(stream.read(&mut [0])?, 0, "the end of the answer");
    }
    if ended != Ended::ByServer {
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("setsockopt");
    }
    Ok(())
}

/// How many of the visits were reset, and how many took long.
fn visits_of(
    ends: (SocketAddr, SocketAddr),
    ended: Ended,
    visits: usize,
    question: &[u8],
) -> (usize, usize) {
    let (mut reset, mut late) = (0, 0);
    for _ in 0..visits {
        let begin = Instant::now();
        reset += usize::from(visit(ends, ended, question).is_err());
        late += usize::from(begin.elapsed() > AT_ONCE);
    }
    (reset, late)
}

/// Visits a server `visits` times. Returns the ports that the server has seen, visits that were reset, and those
/// that took long.
fn come_back(
    family: Family,
    ended: Ended,
    visits: usize,
    question: usize,
) -> (BTreeMap<u16, usize>, usize, usize) {
    let running = Running::start(65_520, NOTHING, queue_frames(65_520));
    // No reset ends a TIME-WAIT (RFC 1337), as in guests that are no Linux.
    running.guest.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_rfc1337", "1").expect("a sysctl"));
    let server = start_server(&running, family, ended, question);
    running.let_turn();
    let question = noise(question);
    let ends = (family.host_at(PORT), family.host_at(INSIDE));
    let (reset, late) = visits_of(ends, ended, visits, &question);
    drop(connected_from(family.host_at(PORT + 1), family.host_at(INSIDE)));
    (server.join().expect("the server"), reset, late)
}

#[test]
fn a_peer_that_comes_back_from_its_port_is_served_at_once_and_seen_with_it() {
    isolated(|| {
        for (family, ended) in FAMILIES.into_iter().flat_map(|family| WAYS.map(|way| (family, way)))
        {
            let (ports, reset, late) = come_back(family, ended, VISITS, 1);
            assert_eq!(reset, 0, "{family:?} {ended:?}: {ports:?}");
            assert!(late <= VISITS / VISITS_PER_LATE, "{family:?} {ended:?}: {late} late");
            // Who is reset without a question may be gone before the server has accepted it.
            let seen = ports.get(&PORT).copied().unwrap_or(0);
            let all = if ended == Ended::Unused { 0..=VISITS } else { VISITS..=VISITS };
            assert!(all.contains(&seen) && ports.len() <= 1, "{family:?} {ended:?}: {ports:?}");
        }
    });
}

#[test]
fn a_peer_that_comes_back_after_a_megabyte_is_served_at_once() {
    isolated(|| {
        for family in FAMILIES {
            let (ports, reset, late) = come_back(family, Ended::ByServer, 30, 1 << 20);
            assert_eq!(reset, 0);
            assert!(late <= 1, "{family:?}: {late} late");
            assert_eq!(ports, BTreeMap::from([(PORT, 30)]));
        }
    });
}

/// The other way: a client in the guest, whose kernel does not wait for anything of ours.
#[test]
fn a_guest_that_comes_back_from_its_port_is_served_at_once() {
    isolated(|| {
        let running = Running::start(65_520, NOTHING, queue_frames(65_520));
        for (family, ended) in FAMILIES.into_iter().flat_map(|family| WAYS.map(|way| (family, way)))
        {
            let listener = TcpListener::bind(family.host_at(OUTSIDE)).expect("a free port");
            let server = std::thread::spawn(move || {
                for _ in 0..OUTWARD_VISITS {
                    serve(listener.accept().expect("a connection").0, ended, 1);
                }
            });
            let ends = (SocketAddr::new(family.guest(), PORT), family.host_at(OUTSIDE));
            let (reset, late) =
                running.guest.run(move || visits_of(ends, ended, OUTWARD_VISITS, b"?"));
            assert_eq!((reset, late), (0, 0), "{family:?} {ended:?}");
            server.join().expect("the server");
        }
    });
}

/// The end of a connection and the next one with the same ports, in one look at the link.
#[test]
fn a_syn_right_behind_a_reset_opens_the_next_connection() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let listener = TcpListener::bind(family.host_at(OUTSIDE)).expect("a free port");
            let (from, to) = (SocketAddr::new(family.guest(), PORT), family.host_at(OUTSIDE));
            let l4 = packet::l4_offset(family.guest());
            world.send(packet::tcp(from, to, SYN, (1000, 0), &[]));
            let mut ends = Vec::new();
            for n in 1..4 {
                let answer = world.frames(1).remove(0);
                assert_eq!(answer[l4 + 13], SYN | ACK, "{family:?} {n}");
                ends.push(listener.accept().expect("a connection").0);
                let isn =
                    u32::from_be_bytes(answer[l4 + 4..l4 + 8].try_into().expect("four bytes"));
                world.send(packet::tcp(from, to, ACK, (1000 * n + 1, isn + 1), &[]));
                world.send(packet::tcp(from, to, RST, (1000 * n + 1, 0), &[]));
                world.send(packet::tcp(from, to, SYN, (1000 * (n + 1), 0), &[]));
            }
            world.quiet(64);
            for mut end in ends {
                let told = end.read(&mut [0]).map_err(|error| error.kind());
                assert_eq!(told, Err(std::io::ErrorKind::ConnectionReset), "{family:?}");
            }
            assert_eq!(world.engine.flow_count(), 1);
        }
    });
}

/// The same of a guest that has ended its stream first, and does not wait (TIME-WAIT) when both have.
#[test]
fn a_syn_right_behind_the_last_acknowledgement_opens_the_next_connection() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let listener = TcpListener::bind(family.host_at(OUTSIDE)).expect("a free port");
            let (from, to) = (SocketAddr::new(family.guest(), PORT), family.host_at(OUTSIDE));
            let l4 = packet::l4_offset(family.guest());
            world.send(packet::tcp(from, to, SYN, (1000, 0), &[]));
            let answer = world.frames(1).remove(0);
            let number = |at: usize| {
                u32::from_be_bytes(answer[l4 + at..l4 + at + 4].try_into().expect("four bytes"))
            };
            let isn = number(4);
            let mut end = listener.accept().expect("a connection").0;
            world.send(packet::tcp(from, to, ACK | FIN, (1001, isn + 1), b"?"));
            world.quiet(64);
            assert_eq!(end.read(&mut [0; 2]).expect("a question"), 1);
            drop(end);
            world.quiet(64);
            world.received();
            world.send(packet::tcp(from, to, ACK, (1003, isn + 2), &[]));
            world.send(packet::tcp(from, to, SYN, (9000, 0), &[]));
            let answer = world.frames(1).remove(0);
            assert_eq!(answer[l4 + 13], SYN | ACK, "{family:?}");
            assert_eq!(answer[l4 + 8..l4 + 12], 9001_u32.to_be_bytes());
            listener.accept().expect("the next connection");
            assert_eq!(world.engine.flow_count(), 1);
        }
    });
}
