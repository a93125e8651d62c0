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
use crate::tap::{INSIDE, NOTHING, PATIENCE, Running};
use crate::tcp::noise;
use crate::world::Family;

/// The port that a peer comes back from.
const PORT: u16 = 5000;
/// How often it does.
const VISITS: usize = 2000;
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
    ended: Ended,
    question: usize,
) -> JoinHandle<BTreeMap<u16, usize>> {
    let at = SocketAddr::new(Family::V4.guest(), INSIDE);
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
fn connected_from(port: u16) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        let stream = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        sockopt::set_socket_reuseaddr(&stream, true).expect("setsockopt");
        bind(&stream, &Family::V4.host_at(port)).expect("nobody has the port");
        match connect(&stream, &Family::V4.host_at(INSIDE)) {
            Err(Errno::ADDRNOTAVAIL) if Instant::now() < end => std::thread::yield_now(),
            connected => {
                connected.expect("the port is forwarded");
                let stream = TcpStream::from(stream);
                stream.set_read_timeout(Some(PATIENCE)).expect("setsockopt");
                return stream;
            }
        }
    }
}

/// One visit from `PORT`.
fn visit(ended: Ended, question: &[u8]) -> std::io::Result<()> {
    let mut stream = connected_from(PORT);
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

/// Visits a server `visits` times. Returns the ports that the server has seen, visits that were reset, and those
/// that took long.
fn come_back(ended: Ended, visits: usize, question: usize) -> (BTreeMap<u16, usize>, usize, usize) {
    let running = Running::start(65_520, NOTHING, queue_frames(65_520));
    // No reset ends a TIME-WAIT (RFC 1337), as in guests that are no Linux.
    running.guest.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_rfc1337", "1").expect("a sysctl"));
    let server = start_server(&running, ended, question);
    running.let_turn();
    let question = noise(question);
    let (mut reset, mut late) = (0, 0);
    for _ in 0..visits {
        let begin = Instant::now();
        reset += usize::from(visit(ended, &question).is_err());
        late += usize::from(begin.elapsed() > AT_ONCE);
    }
    drop(connected_from(PORT + 1));
    (server.join().expect("the server"), reset, late)
}

#[test]
fn a_peer_that_comes_back_from_its_port_is_served_at_once_and_seen_with_it() {
    isolated(|| {
        for ended in [Ended::ByServer, Ended::ByReset, Ended::ByPeersReset, Ended::Unused] {
            let (ports, reset, late) = come_back(ended, VISITS, 1);
            assert_eq!(reset, 0, "{ended:?}: {ports:?}");
            assert!(late <= VISITS / VISITS_PER_LATE, "{ended:?}: {late} late");
            // Who is reset without a question may be gone before the server has accepted it.
            let seen = ports.get(&PORT).copied().unwrap_or(0);
            let all = if ended == Ended::Unused { 0..=VISITS } else { VISITS..=VISITS };
            assert!(all.contains(&seen) && ports.len() <= 1, "{ended:?}: {ports:?}");
        }
    });
}

#[test]
fn a_peer_that_comes_back_after_a_megabyte_is_served_at_once() {
    isolated(|| {
        let (ports, reset, late) = come_back(Ended::ByServer, 60, 1 << 20);
        assert_eq!(reset, 0);
        assert!(late <= 1, "{late} late");
        assert_eq!(ports, BTreeMap::from([(PORT, 60)]));
    });
}
