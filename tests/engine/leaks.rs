//! Nothing is left behind by flows that have ended.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use passt::wire::DropReason;
use passt_support::heap;

use crate::namespace::isolated;
use crate::packet::{self, ACK, FIN, SYN};
use crate::world::{Family, Setup, World};

/// Turns in which one connection is opened or closed.
const TURNS: usize = 64;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

/// The guest connects from `port`, sends a byte, both ends close.
fn short_connection(world: &mut World, listener: &TcpListener, port: u16) {
    let (guest, host) = (SocketAddr::new(Family::V4.guest(), port), Family::V4.host_at(8000));
    world.send(packet::tcp(guest, host, SYN, (1000, 0), &[]));
    let answer = world.frames(1).remove(0);
    assert_eq!(answer[47], SYN | ACK);
    let isn = u32::from_be_bytes([answer[38], answer[39], answer[40], answer[41]]);
    world.send(packet::tcp(guest, host, ACK | FIN, (1001, isn + 1), b"x"));
    world.settle(TURNS);
    let (mut peer, _) = listener.accept().expect("connected");
    let mut got = Vec::new();
    peer.read_to_end(&mut got).expect("read");
    assert_eq!(got, b"x");
    drop(peer);
    // The peer's FIN.
    let fin = |frame: &Vec<u8>| frame[47] & FIN != 0;
    let mut frames = Vec::new();
    for _ in 0..1000 {
        world.turn(Duration::from_millis(2));
        frames.extend(world.received());
        if frames.iter().any(fin) {
            break;
        }
    }
    assert!(frames.iter().any(fin), "a FIN for the guest");
    world.send(packet::tcp(guest, host, ACK, (1003, isn + 2), &[]));
    world.settle(TURNS);
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    isolated(|| {
        let mut world = World::new(&Setup::default());
        world.send(packet::arp([192, 0, 2, 2], [192, 0, 2, 1]));
        world.frames(1);
        let listener = TcpListener::bind(Family::V4.host_at(8000)).expect("a free port");
        for port in 10_000..10_100 {
            short_connection(&mut world, &listener, port);
        }
        let before = (descriptors(), world.engine.flow_count());
        let bytes = heap::live_bytes();
        for port in 11_000..12_000 {
            short_connection(&mut world, &listener, port);
        }
        assert_eq!((descriptors(), world.engine.flow_count()), before);
        assert_eq!(heap::live_bytes(), bytes, "bytes in use");
        assert_eq!(world.drops(DropReason::DescriptorsExhausted), 0);
    });
}

#[test]
fn a_thousand_datagram_flows_leave_nothing_behind() {
    isolated(|| {
        let mut world = World::new(&Setup::default());
        let before = descriptors();
        let host = std::net::UdpSocket::bind(Family::V4.host_at(9000)).expect("a free port");
        for port in 10_000..11_000 {
            let guest = SocketAddr::new(Family::V4.guest(), port);
            world.send(packet::udp(guest, Family::V4.host_at(9000), b"x"));
        }
        world.settle(TURNS);
        assert_eq!(world.engine.flow_count(), 1000);
        drop(host);
        world.skip(Duration::from_secs(31));
        world.settle(TURNS);
        assert_eq!((world.engine.flow_count(), descriptors()), (0, before));
    });
}
