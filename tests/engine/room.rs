//! A guest that is short of buffers for a moment loses nothing: what waits for it stays in the socket, and
//! goes on as soon as there is room. On the links that passt has, driven by the loop.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use passt::engine::{Clients, Link, Protocols, SocketLink, Worker};
use passt::wire::DropReason;
use passt_guest::{Guest, NetHeader, Options, bit};
use rustix::event::epoll;
use rustix::net::sockopt;

use crate::namespace::isolated;
use crate::packet;
use crate::world::{Family, Setup, engine};

/// Turns without an event after which what did not come does not come.
const PATIENCE: usize = 20;

/// A worker whose client has connected; the other value is the client's end.
fn worker(setup: &Setup) -> (Worker<SocketLink>, UnixStream) {
    let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).expect("an instance"));
    let mut link = SocketLink::new(&epoll, setup.mtu, Protocols::Any).expect("a link");
    let (ours, theirs) = UnixStream::pair().expect("socketpair");
    link.attach(ours.into()).expect("the first client");
    let engine = engine(setup, epoll.clone());
    let clients = Clients { listener: None, one_off: false };
    (Worker::new(epoll, link, engine, clients).expect("epoll"), theirs)
}

fn turn(worker: &mut Worker<SocketLink>) {
    worker.turn(Some(Duration::from_millis(1))).expect("epoll_wait");
}

/// As many turns as one step of a client takes: who it is, what it says, what comes of that.
fn turns(worker: &mut Worker<SocketLink>) {
    (0..6).for_each(|_| turn(worker));
}

/// Turns until `guest` has got nothing more for a while; returns all that it got.
fn frames(
    worker: &mut Worker<SocketLink>,
    mut guest: impl FnMut() -> Vec<Vec<u8>>,
) -> Vec<Vec<u8>> {
    let (mut all, mut quiet) = (Vec::new(), 0);
    while quiet < PATIENCE {
        turn(worker);
        let got = guest();
        quiet = if got.is_empty() { quiet + 1 } else { 0 };
        all.extend(got);
    }
    all
}

/// Whole frames at the front of what a client has read; the rest stays.
fn whole_frames(stream: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(prefix) = stream.get(at..at + 4) {
        let len = u32::from_be_bytes(prefix.try_into().expect("four bytes")) as usize;
        let Some(frame) = stream.get(at + 4..at + 4 + len) else { break };
        frames.push(frame.to_vec());
        at += 4 + len;
    }
    stream.drain(..at);
    frames
}

/// The client's end of a stream socket: reads all that is there.
fn client(mut socket: UnixStream) -> impl FnMut() -> Vec<Vec<u8>> {
    socket.set_nonblocking(true).expect("fcntl");
    let (mut bytes, mut stream) = (vec![0; 1 << 20], Vec::new());
    move || {
        loop {
            match socket.read(&mut bytes) {
                Ok(0) => panic!("the link has closed the connection"),
                Ok(read) => stream.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("read: {error}"),
            }
        }
        whole_frames(&mut stream)
    }
}

/// The port of the guest and the payload of a UDP frame over IPv4; `None` for other frames.
fn udp_payload(frame: &[u8]) -> Option<(u16, Vec<u8>)> {
    let is_udp = frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&17);
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    is_udp.then(|| (word(36), frame[42..34 + usize::from(word(38))].to_vec()))
}

fn datagram(index: usize, len: usize) -> Vec<u8> {
    (0..len).map(|byte| (index * 31 + byte * 7) as u8).collect()
}

/// A host's socket that the guest has sent a datagram from each of its `ports`, and where answers go.
fn answering(
    worker: &mut Worker<SocketLink>,
    ports: impl Iterator<Item = u16>,
    mut send: impl FnMut(Vec<u8>),
) -> (UdpSocket, Vec<SocketAddr>) {
    let host = UdpSocket::bind(Family::V4.host_at(9000)).expect("a free port");
    host.set_read_timeout(Some(Duration::from_secs(5))).expect("setsockopt");
    sockopt::set_socket_send_buffer_size(&host, 4 << 20).expect("setsockopt");
    let peers = ports.map(|port| {
        let from = SocketAddr::new(Family::V4.guest(), port);
        send(packet::udp(from, Family::V4.host_at(9000), b"hello"));
        turns(worker);
        host.recv_from(&mut [0; 16]).expect("the guest's datagram").1
    });
    let peers = peers.collect();
    (host, peers)
}

#[test]
fn datagrams_wait_in_the_socket_while_mergeable_buffers_are_short() {
    isolated(|| {
        let (mut worker, theirs) = worker(&Setup { mtu: 65520, ..Setup::default() });
        let options = Options {
            features: !(bit::MAC | 1 << 54 | 1 << 55),
            ring_size: 16,
            rx_buffers: 16,
            ..Options::default()
        };
        let mut guest = Guest::connect(theirs, options, &mut || turns(&mut worker));
        let (host, peers) = answering(&mut worker, [5000].into_iter(), |frame| {
            guest.send_frame(&frame, NetHeader::default());
        });
        let sent: Vec<Vec<u8>> = (0..12).map(|index| datagram(index, 4000)).collect();
        for data in &sent {
            host.send_to(data, peers[0]).expect("sent");
        }
        let got = frames(&mut worker, || {
            guest.recv_frame().map(|(frame, _)| frame).into_iter().collect()
        });
        let got: Vec<Vec<u8>> = got.iter().filter_map(|f| udp_payload(f)).map(|p| p.1).collect();
        let dropped: Vec<_> = worker.engine().drops().collect();
        assert_eq!((got.len(), dropped), (sent.len(), Vec::new()));
        assert!(got == sent, "other bytes, or another order");
    });
}

#[test]
fn the_tail_of_a_burst_does_not_wait_for_the_next_datagram() {
    const DATAGRAMS: usize = 43;
    const BYTES: usize = 1400;
    isolated(|| {
        let (mut worker, mut theirs) = worker(&Setup { mtu: 1500, ..Setup::default() });
        let ports = 5000..5008u16;
        let mut socket = theirs.try_clone().expect("dup");
        let (host, peers) = answering(&mut worker, ports.clone(), |frame| {
            socket.write_all(&(frame.len() as u32).to_be_bytes()).expect("sent");
            socket.write_all(&frame).expect("sent");
        });
        theirs.flush().expect("nothing to do");
        let (level, name) = (libc::SOL_UDP, libc::UDP_SEGMENT);
        passt::sys::socket::set_int(host.as_fd(), level, name, BYTES as i32).expect("setsockopt");
        for (flow, peer) in peers.iter().enumerate() {
            for burst in 0..2 {
                let datagrams =
                    (0..DATAGRAMS).map(|at| datagram(flow * 100 + burst * 50 + at, BYTES));
                host.send_to(&datagrams.collect::<Vec<_>>().concat(), peer).expect("sent");
            }
        }
        let got = frames(&mut worker, client(theirs));
        let got: Vec<(u16, Vec<u8>)> = got.iter().filter_map(|frame| udp_payload(frame)).collect();
        for (flow, port) in ports.enumerate() {
            let got: Vec<&Vec<u8>> =
                got.iter().filter(|(at, _)| *at == port).map(|d| &d.1).collect();
            assert_eq!(got.len(), 2 * DATAGRAMS, "datagrams of flow {flow}");
            for (index, data) in got.into_iter().enumerate() {
                let (burst, at) = (index / DATAGRAMS, index % DATAGRAMS);
                assert!(*data == datagram(flow * 100 + burst * 50 + at, BYTES), "{flow} {index}");
            }
        }
        assert_eq!(worker.engine().drops().find(|drop| drop.0 != DropReason::NoFlow), None);
    });
}
