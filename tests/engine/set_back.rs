//! Guests whose machines stand still for a while, or are set back to a snapshot.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use passt::flow::fwd::Proto;
use passt_frame::MemPort;

use crate::guest::{Guest, until};
use crate::namespace::isolated;
use crate::packet::{self, ACK, SYN};
use crate::tcp::noise;
use crate::world::{FAMILIES, Family, PLAIN, Setup, World, forward};

/// Bytes of a download.
const BULK: usize = 300_000;

fn listener(family: Family) -> TcpListener {
    TcpListener::bind(family.host_at(9000)).expect("a free port")
}

/// Flags and numbers of the TCP segments that the guest has got.
fn segments(world: &mut World, family: Family) -> Vec<(u8, u32, u32)> {
    let l4 = packet::l4_offset(family.guest());
    let number = |frame: &[u8], at: usize| {
        u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"))
    };
    let protocol = if family == Family::V4 { 23 } else { 20 };
    let frames = world.received().into_iter().filter(|frame| frame[protocol] == 6);
    frames.map(|frame| (frame[l4 + 13], number(&frame, l4 + 4), number(&frame, l4 + 8))).collect()
}

/// A connection of the guest by hand, which has sent 500 bytes: the peer's end, and our number.
fn opened(
    world: &mut World,
    family: Family,
    listener: &TcpListener,
    port: u16,
) -> (TcpStream, u32) {
    let (from, to) = (SocketAddr::new(family.guest(), port), family.host_at(9000));
    world.send(packet::tcp(from, to, SYN, (1000, 0), &[]));
    world.quiet(64);
    let (flags, isn, ack) = segments(world, family)[0];
    assert_eq!((flags, ack), (SYN | ACK, 1001));
    world.send(packet::tcp(from, to, ACK, (1001, isn + 1), &[7; 500]));
    world.quiet(64);
    let mut peer = listener.accept().expect("a connection").0;
    peer.read_exact(&mut [0; 500]).expect("all that was sent");
    peer.set_nonblocking(true).expect("fcntl");
    segments(world, family);
    (peer, isn)
}

#[test]
fn a_guest_that_was_set_back_is_asked_and_what_does_not_fit_is_reset() {
    isolated(|| FAMILIES.into_iter().for_each(set_back));
}

fn set_back(family: Family) {
    let mut world = World::new(&Setup { caps: PLAIN, ..Setup::default() });
    let listener = listener(family);
    let (mut lost, isn) = opened(&mut world, family, &listener, 5000);
    let (mut kept, other) = opened(&mut world, family, &listener, 5001);
    world.engine.on_guest_set_back();
    world.quiet(64);
    let mut probes = segments(&mut world, family);
    probes.sort_unstable();
    let mut expected = [(ACK, isn, 1501), (ACK, other, 1501)];
    expected.sort_unstable();
    assert_eq!(probes, expected, "both are asked how far they are");
    // One connection is from before it has sent the second half.
    let to = family.host_at(9000);
    for (port, seq, isn) in [(5000, 1251, isn), (5001, 1501, other)] {
        let from = SocketAddr::new(family.guest(), port);
        world.send(packet::tcp(from, to, ACK, (seq, isn + 1), &[]));
    }
    world.quiet(64);
    let told = segments(&mut world, family);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].0 & packet::RST, told[0].1), (packet::RST, isn + 1));
    let read = |peer: &mut TcpStream| peer.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(read(&mut lost), Err(ErrorKind::ConnectionReset));
    assert_eq!(read(&mut kept), Err(ErrorKind::WouldBlock));
    assert_eq!(world.engine.flow_count(), 1);
}

/// How a guest stands still.
#[derive(Clone, Copy, PartialEq)]
enum Still {
    /// Its client reads no more of the stream socket.
    Unread,
    /// Its ring is stopped, or full.
    NoRoom,
}

#[test]
fn a_download_goes_on_when_the_guest_has_stood_still_for_five_minutes() {
    isolated(|| {
        for family in FAMILIES {
            stood_still(family, Still::Unread);
            stood_still(family, Still::NoRoom);
        }
    });
}

fn stood_still(family: Family, still: Still) {
    let port = MemPort::new(PLAIN, 4096);
    let port = if still == Still::Unread { port.that_tells() } else { port };
    let mut world = World::on(port, &Setup { caps: PLAIN, ..Setup::default() });
    let mut guest = Guest::new(&mut world, 1500);
    let (listener, data) = (listener(family), noise(BULK));
    let handle = guest.tcp(8192);
    guest.connect(handle, family.host_at(9000), 5000);
    until(&mut world, &mut guest, "connect", |_, guest| guest.tcp_mut(handle).may_send());
    let mut peer = listener.accept().expect("a connection").0;
    let sent = data.clone();
    let writer = std::thread::spawn(move || peer.write_all(&sent).expect("sent"));
    let mut got = Vec::new();
    let mut stopped = false;
    until(&mut world, &mut guest, "download", |world, guest| {
        let socket = guest.tcp_mut(handle);
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), got.extend_from_slice(bytes))).expect("open");
        }
        if !stopped && got.len() > BULK / 2 {
            stopped = true;
            if still == Still::NoRoom {
                world.port.set_room(0);
            }
            for _ in 0..600 {
                world.skip(Duration::from_millis(500));
                world.settle(64);
            }
            assert_eq!(world.engine.flow_count(), 1, "the connection waits");
            if world.port.set_room(usize::MAX).room {
                world.engine.on_link_room();
            }
        }
        got.len() == BULK
    });
    assert!(got == data && stopped);
    writer.join().expect("the peer");
}

/// Who connects to a forwarded port meanwhile waits, too.
#[test]
fn who_connects_to_a_guest_that_stands_still_waits_for_it() {
    isolated(|| {
        for family in FAMILIES {
            let port = MemPort::new(PLAIN, 4096).that_tells();
            let rules = vec![forward(Proto::Tcp, family, 9001)];
            let setup = Setup { caps: PLAIN, rules, ..Setup::default() };
            let mut world = World::on(port, &setup);
            let mut guest = Guest::new(&mut world, 1500);
            let handle = guest.tcp(8192);
            guest.tcp_mut(handle).listen(9001).expect("a free port");
            let mut peer = TcpStream::connect(family.host_at(9001)).expect("the host's queue");
            for _ in 0..600 {
                world.skip(Duration::from_millis(500));
                world.settle(64);
            }
            assert_eq!(world.engine.flow_count(), 1, "{family:?}");
            peer.write_all(b"?").expect("connected");
            until(&mut world, &mut guest, "question", |_, guest| guest.tcp_mut(handle).can_recv());
        }
    });
}
