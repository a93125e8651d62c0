//! TCP through the engine, both ways.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use passt::flow::fwd::Proto;
use passt_frame::{Caps, Faults};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::guest::{Guest, until};
use crate::namespace::isolated;
use crate::world::{FAMILIES, Family, OFFLOADS, PLAIN, Setup, World, forward};

/// Bytes of a bulk transfer.
const BULK: usize = 10 << 20;
/// Bytes of a transfer over a link with faults.
const SMALL_BULK: usize = 1 << 20;
/// Buffers of the guest's sockets.
const BUFFER: usize = 256 << 10;

/// Bytes without a pattern (xorshift64).
fn noise(len: usize) -> Vec<u8> {
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
struct Pair {
    world: World,
    guest: Guest,
    handle: SocketHandle,
    peer: TcpStream,
}

impl Pair {
    /// The guest connects to the host.
    fn outbound(setup: &Setup, family: Family, faults: Option<u64>) -> Self {
        let mut world = World::new(setup);
        if let Some(seed) = faults {
            world.port.set_faults(Faults { lose: 3, duplicate: 5, reorder: 8 }, seed);
        }
        let mut guest = Guest::new(&mut world, setup.mtu);
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

    /// The host connects to the guest.
    fn inbound(setup: &Setup, family: Family) -> Self {
        let rules = vec![forward(Proto::Tcp, family, 8080)];
        let setup = Setup { rules, caps: setup.caps, mtu: setup.mtu, ..Setup::default() };
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

    /// Moves `data` from the guest to the host and checks every byte.
    fn upload(&mut self, data: &[u8]) {
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
    fn download(&mut self, data: &[u8]) {
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
    fn finish(mut self) {
        drop(self.peer);
        self.guest.tcp_mut(self.handle).close();
        until(&mut self.world, &mut self.guest, "close", |world, _| world.engine.flow_count() == 0);
    }
}

/// Reads what is there; false when the other end has closed.
fn read_some(peer: &mut TcpStream, got: &mut Vec<u8>) -> bool {
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

fn write_some(peer: &mut TcpStream, bytes: &[u8]) -> usize {
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
fn bulk(setup: &Setup) -> usize {
    let data = noise(BULK);
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
    isolated(|| assert_eq!(bulk(&setup(PLAIN, 1500)), 1514));
}

#[test]
fn bulk_over_a_large_mtu() {
    isolated(|| assert!(bulk(&setup(PLAIN, 65520)) > 60_000));
}

#[test]
fn bulk_with_offloads_comes_in_units_larger_than_the_mtu() {
    isolated(|| assert!(bulk(&setup(OFFLOADS, 1500)) > 60_000));
}

#[test]
fn bulk_where_the_kernel_has_no_peek_offset() {
    isolated(|| {
        bulk(&Setup { peek_offset: false, ..setup(OFFLOADS, 1500) });
    });
}

#[test]
fn bulk_of_a_connection_from_the_host() {
    isolated(|| {
        let data = noise(BULK);
        for family in FAMILIES {
            let mut pair = Pair::inbound(&setup(OFFLOADS, 65520), family);
            pair.download(&data);
            pair.upload(&data);
            pair.finish();
        }
    });
}
