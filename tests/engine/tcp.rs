//! TCP through the engine, both ways.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use passt::flow::fwd::Proto;
use passt_frame::{Caps, Faults, MemPort};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::guest::{Guest, until};
use crate::namespace::isolated;
use crate::world::{BothEnds, FAMILIES, Family, OFFLOADS, PLAIN, Setup, World, forward};

/// Bytes of a bulk transfer.
const BULK: usize = 10 << 20;
/// Bytes of a transfer that only has to get under way.
const SMALL_BULK: usize = 1 << 20;
/// Buffers of the guest's sockets.
pub const BUFFER: usize = 256 << 10;

/// Bytes without a pattern (xorshift64).
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A connection between a socket of the guest and one of the host.
pub struct Pair<P: BothEnds = MemPort> {
    pub world: World<P>,
    pub guest: Guest,
    pub handle: SocketHandle,
    pub peer: TcpStream,
}

impl Pair {
    /// The guest connects to the host over a [`MemPort`], with faults if there is a seed.
    pub fn outbound(setup: &Setup, family: Family, faults: Option<u64>) -> Self {
        let mut world = World::new(setup);
        if let Some(seed) = faults {
            world.port.set_faults(Faults { lose: 3, duplicate: 5, reorder: 8 }, seed);
        }
        Self::connect(world, setup.mtu, family)
    }

    /// The host connects to the guest.
    pub fn inbound(setup: &Setup, family: Family) -> Self {
        let rules = vec![forward(Proto::Tcp, family, 8080)];
        let Setup { caps, mtu, peek_offset, .. } = *setup;
        let setup = Setup { rules, caps, mtu, peek_offset, ..Setup::default() };
        let mut world = World::new(&setup);
        let mut guest = Guest::new(&mut world, setup.mtu);
        let handle = guest.tcp(BUFFER);
        guest.tcp_mut(handle).listen(8080).expect("a fresh socket");
        until(&mut world, &mut guest, "start", |_, _| true);
        let peer = TcpStream::connect(family.host_at(8080)).expect("the port is forwarded");
        peer.set_nonblocking(true).expect("fcntl");
        until(&mut world, &mut guest, "accept", |_, guest| {
            guest.tcp_mut(handle).state() == State::Established
        });
        Self { world, guest, handle, peer }
    }
}

impl<P: BothEnds> Pair<P> {
    /// The guest connects to the host.
    pub fn connect(mut world: World<P>, mtu: u16, family: Family) -> Self {
        let mut guest = Guest::new(&mut world, mtu);
        let listener = TcpListener::bind(family.host_at(8000)).expect("a free port");
        listener.set_nonblocking(true).expect("fcntl");
        let handle = guest.tcp(BUFFER);
        guest.connect(handle, family.host_at(8000), 40000);
        let mut peer = None;
        until(&mut world, &mut guest, "connect", |_, guest| {
            peer = peer.take().or_else(|| listener.accept().ok());
            peer.is_some() && guest.tcp_mut(handle).state() == State::Established
        });
        let (peer, _) = peer.expect("accepted");
        peer.set_nonblocking(true).expect("fcntl");
        Self { world, guest, handle, peer }
    }

    /// Moves `data` from the guest to the host and checks every byte.
    pub fn upload(&mut self, data: &[u8]) {
        let Self { world, guest, handle, peer } = self;
        let (mut sent, mut got) = (0, Vec::with_capacity(data.len()));
        until(world, guest, "upload", |_, guest| {
            let socket = guest.tcp_mut(*handle);
            if sent < data.len() && socket.can_send() {
                sent += socket.send_slice(&data[sent..]).expect("the connection is up");
            }
            read_some(peer, &mut got);
            got.len() >= data.len()
        });
        assert!(got == *data, "the host got other bytes than the guest sent");
    }

    /// Moves `data` from the host to the guest and checks every byte.
    pub fn download(&mut self, data: &[u8]) {
        let Self { world, guest, handle, peer } = self;
        let (mut sent, mut got) = (0, Vec::with_capacity(data.len()));
        let mut chunk = vec![0; BUFFER];
        until(world, guest, "download", |_, guest| {
            sent += write_some(peer, &data[sent..]);
            let socket = guest.tcp_mut(*handle);
            while socket.can_recv() {
                let len = socket.recv_slice(&mut chunk).expect("the connection is up");
                got.extend_from_slice(&chunk[..len]);
            }
            got.len() >= data.len()
        });
        assert!(got == *data, "the guest got other bytes than the host sent");
    }

    /// Closes both ends and sees the flow off.
    pub fn finish(mut self) -> World<P> {
        drop(self.peer);
        self.guest.tcp_mut(self.handle).close();
        until(&mut self.world, &mut self.guest, "close", |world, _| world.engine.flow_count() == 0);
        self.world
    }
}

/// Reads what is there; false when the other end has closed.
pub fn read_some(peer: &mut TcpStream, got: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 65536];
    loop {
        match peer.read(&mut chunk) {
            Ok(0) => return false,
            Ok(len) => got.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(error) => panic!("read: {error}"),
        }
    }
}

pub fn write_some(peer: &mut TcpStream, bytes: &[u8]) -> usize {
    match peer.write(bytes) {
        Ok(len) => len,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("write: {error}"),
    }
}

fn setup(caps: Caps, mtu: u16) -> Setup {
    Setup { caps, mtu, ..Setup::default() }
}

/// Bulk in both directions over each family on a link as `caps` and `mtu` say; returns the largest
/// frame that the guest got.
fn bulk(setup: &Setup, bytes: usize) -> usize {
    let data = noise(bytes);
    let mut largest = 0;
    for family in FAMILIES {
        let mut pair = Pair::outbound(setup, family, None);
        pair.upload(&data);
        pair.download(&data);
        largest = largest.max(pair.guest.largest);
        pair.finish();
    }
    largest
}

#[test]
fn bulk_over_an_ethernet_mtu() {
    isolated(|| assert_eq!(bulk(&setup(PLAIN, 1500), BULK), 1514));
}

#[test]
fn bulk_over_a_large_mtu() {
    isolated(|| assert!(bulk(&setup(PLAIN, 65520), BULK) > 60_000));
}

#[test]
fn bulk_with_offloads_comes_in_units_larger_than_the_mtu() {
    isolated(|| assert!(bulk(&setup(OFFLOADS, 1500), BULK) > 60_000));
}

#[test]
fn bulk_where_the_kernel_has_no_peek_offset() {
    isolated(|| {
        bulk(&Setup { peek_offset: false, ..setup(OFFLOADS, 1500) }, SMALL_BULK);
    });
}

#[test]
fn a_peer_that_closes_is_heard_where_the_kernel_has_no_peek_offset() {
    isolated(|| {
        for family in FAMILIES {
            let setup = Setup { peek_offset: false, ..setup(PLAIN, 1500) };
            let mut pair = Pair::outbound(&setup, family, None);
            // The end comes while the guest has not acknowledged what was before it.
            pair.peer.write_all(&noise(3000)).expect("room");
            pair.world.turn(std::time::Duration::ZERO);
            pair.peer.shutdown(Shutdown::Write).expect("shutdown");
            pair.world.settle(64);
            let handle = pair.handle;
            until(&mut pair.world, &mut pair.guest, "the end", |_, guest| {
                let socket = guest.tcp_mut(handle);
                while socket.can_recv() {
                    socket.recv(|bytes| (bytes.len(), ())).expect("it can receive");
                }
                socket.state() == State::CloseWait
            });
        }
    });
}

#[test]
fn bulk_of_a_connection_from_the_host() {
    isolated(|| {
        let data = noise(SMALL_BULK);
        for family in FAMILIES {
            let mut pair = Pair::inbound(&setup(OFFLOADS, 65520), family);
            pair.download(&data);
            pair.upload(&data);
            pair.finish();
        }
    });
}

#[test]
fn a_link_that_loses_doubles_and_reorders_delays_but_does_not_damage() {
    isolated(|| {
        let data = noise(SMALL_BULK);
        for (family, caps, seed) in
            [(Family::V4, PLAIN, 1), (Family::V6, PLAIN, 2), (Family::V4, OFFLOADS, 3)]
        {
            let mut pair = Pair::outbound(&setup(caps, 1500), family, Some(seed));
            pair.upload(&data);
            pair.download(&data);
            pair.finish();
        }
    });
}

#[test]
fn rfc9293_3_6_the_guest_closes_first_and_still_receives() {
    isolated(|| {
        let data = noise(SMALL_BULK);
        for family in FAMILIES {
            let mut pair = Pair::outbound(&setup(PLAIN, 1500), family, None);
            pair.upload(&data);
            pair.guest.tcp_mut(pair.handle).close();
            let mut got = Vec::new();
            until(&mut pair.world, &mut pair.guest, "FIN to the host", |_, _| {
                !read_some(&mut pair.peer, &mut got)
            });
            assert_eq!(got, b"", "nothing but the end of the stream");
            pair.download(&data);
            assert_eq!(pair.world.engine.flow_count(), 1);
            pair.finish();
        }
    });
}

#[test]
fn rfc9293_3_6_the_host_closes_first_and_still_receives() {
    isolated(|| {
        let data = noise(SMALL_BULK);
        for family in FAMILIES {
            let mut pair = Pair::outbound(&setup(PLAIN, 1500), family, None);
            pair.download(&data);
            pair.peer.shutdown(Shutdown::Write).expect("connected");
            let handle = pair.handle;
            until(&mut pair.world, &mut pair.guest, "FIN to the guest", |_, guest| {
                guest.tcp_mut(handle).state() == State::CloseWait
            });
            pair.upload(&data);
            assert_eq!(pair.world.engine.flow_count(), 1);
            pair.finish();
        }
    });
}

#[test]
fn a_reset_reaches_the_other_end() {
    isolated(|| {
        for family in FAMILIES {
            let mut pair = Pair::outbound(&setup(PLAIN, 1500), family, None);
            pair.guest.tcp_mut(pair.handle).abort();
            until(&mut pair.world, &mut pair.guest, "reset by the guest", |world, _| {
                world.engine.flow_count() == 0
            });
            let error = pair.peer.read(&mut [0]).expect_err("the connection is reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);

            let mut pair = Pair::outbound(&setup(PLAIN, 1500), family, None);
            pair.upload(b"unread");
            pair.guest.tcp_mut(pair.handle).send_slice(b"more").expect("room");
            let (handle, peer) = (pair.handle, &pair.peer);
            until(&mut pair.world, &mut pair.guest, "bytes that nobody reads", |_, _| {
                peer.peek(&mut [0]).is_ok()
            });
            // Closing with unread bytes makes the kernel reset the connection.
            drop(pair.peer);
            until(&mut pair.world, &mut pair.guest, "reset by the host", |_, guest| {
                guest.tcp_mut(handle).state() == State::Closed
            });
            assert_eq!(pair.world.engine.flow_count(), 0);
        }
    });
}

/// Connects the guest to `to`, which does not work: only a reset makes smoltcp give up.
fn refused(to: SocketAddr) {
    let mut world = World::new(&setup(PLAIN, 1500));
    let mut guest = Guest::new(&mut world, 1500);
    let handle = guest.tcp(4096);
    guest.connect(handle, to, 40000);
    until(&mut world, &mut guest, "refusal", |_, guest| {
        guest.tcp_mut(handle).state() == State::Closed
    });
    assert_eq!(world.engine.flow_count(), 0, "{to}");
}

#[test]
fn a_target_that_refuses_answers_with_a_reset() {
    isolated(|| {
        refused(Family::V4.host_at(9));
        refused(Family::V6.host_at(9));
    });
}

#[test]
fn the_gateway_s_address_leads_to_the_host_s_loopback() {
    isolated(|| {
        for family in FAMILIES {
            let loopback = if family == Family::V4 { "127.0.0.1:8000" } else { "[::1]:8000" };
            let listener = TcpListener::bind(loopback).expect("a free port");
            listener.set_nonblocking(true).expect("fcntl");
            let mut world = World::new(&setup(PLAIN, 1500));
            let mut guest = Guest::new(&mut world, 1500);
            let handle = guest.tcp(4096);
            guest.connect(handle, SocketAddr::new(family.gateway(), 8000), 40000);
            until(&mut world, &mut guest, "connection", |_, _| listener.accept().is_ok());
        }
    });
}

#[test]
fn a_guest_without_room_gets_everything_once_it_has() {
    isolated(|| {
        let data = noise(SMALL_BULK);
        for caps in [PLAIN, OFFLOADS] {
            let mut pair = Pair::outbound(&setup(caps, 1500), Family::V4, None);
            pair.world.port.set_room(0);
            let mut sent = write_some(&mut pair.peer, &data);
            let turns = pair.world.quiet(64);
            assert!(turns <= 6, "{turns} turns without room");

            let Pair { world, guest, handle, peer } = &mut pair;
            let (mut got, mut chunk) = (Vec::new(), vec![0; BUFFER]);
            until(world, guest, "download by drops", |world, guest| {
                sent += write_some(peer, &data[sent..]);
                // Room for three frames at a time.
                if world.port.set_room(3).room {
                    world.engine.on_link_room();
                }
                let socket = guest.tcp_mut(*handle);
                while socket.can_recv() {
                    let len = socket.recv_slice(&mut chunk).expect("the connection is up");
                    got.extend_from_slice(&chunk[..len]);
                }
                got.len() >= data.len()
            });
            assert!(got == data);
            pair.world.port.set_room(usize::MAX);
            pair.finish();
        }
    });
}
