//! The packet path allocates nothing: everything is reserved when the engine is made.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use passt::conf::ports::Kernel;
use passt::control::json::{About, Access, Json, KIND, Pace};
use passt::control::server::Server;
use passt::engine::NetView;
use passt::flow::fwd::{Policy, Proto, Surroundings, egress_rule};
use passt_frame::Caps;
use passt_support::heap::assert_counting;

use crate::namespace::isolated;
use crate::packet;
use crate::slot_port::SlotPort;
use crate::tcp::{Pair, noise};
use crate::world::{FAMILIES, Family, OFFLOADS, PLAIN, Setup, World, forward};

/// Bytes in each direction of a bulk transfer.
const BULK: usize = 1 << 20;
/// Turns in which a few frames are done with.
const TURNS: usize = 64;
/// Turns after which no answer comes.
const PATIENCE: usize = 5000;

fn world(caps: Caps, mtu: u16) -> World<SlotPort> {
    assert_counting();
    World::on(SlotPort::new(caps), &Setup { caps, mtu, ..Setup::default() })
}

#[test]
fn tcp_in_bulk_and_in_short_connections_allocates_nothing() {
    isolated(|| {
        let data = noise(BULK);
        for (caps, mtu) in [(PLAIN, 1500), (PLAIN, 65520), (OFFLOADS, 1500)] {
            let mut world = world(caps, mtu);
            for family in FAMILIES {
                let mut pair = Pair::connect(world, mtu, family);
                pair.upload(&data);
                pair.download(&data);
                world = pair.finish();
                for _ in 0..20 {
                    let mut pair = Pair::connect(world, mtu, family);
                    pair.upload(b"question");
                    pair.download(b"answer");
                    world = pair.finish();
                }
            }
            assert_eq!(world.allocations, 0, "{caps:?}, MTU {mtu}");
        }
    });
}

#[test]
fn datagrams_and_echo_allocate_nothing() {
    isolated(|| {
        for caps in [PLAIN, OFFLOADS] {
            let mut world = world(caps, 1500);
            world.send(packet::arp([192, 0, 2, 2], [192, 0, 2, 1]));
            world.frames(1);
            let host = UdpSocket::bind(Family::V4.host_at(9000)).expect("a free port");
            for port in 20_000..20_100 {
                let from = SocketAddr::new(Family::V4.guest(), port);
                world.send(packet::udp(from, Family::V4.host_at(9000), b"question"));
                world.settle(TURNS);
                let (_, source) = host.recv_from(&mut [0; 16]).expect("a datagram");
                host.send_to(b"answer", source).expect("sent");
                world.frames(1);
                world.send(packet::echo(Family::V4.guest(), Family::V4.host(), port, 1, b"ping"));
                world.frames(1);
                // Refused: an ICMP error comes back.
                world.send(packet::udp(from, Family::V4.host_at(9), b"question"));
                world.frames(1);
            }
            assert_eq!(world.engine.flow_count(), 200);
            assert_eq!(world.allocations, 0, "{caps:?}");
        }
    });
}

/// Clients of a control socket, so many.
fn clients<const COUNT: usize>(world: &mut World<SlotPort>) -> [UnixStream; COUNT] {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).expect("bound");
    let kernel = Kernel { ephemeral: (32768, 60999), device_binding: true };
    let about = About { program: "passt", mode: "stream", has_namespace: false, kernel };
    let protocols = [(); COUNT].map(|()| Json::new(about, Access::Reads, Pace::default()));
    let server = Server::new(listener.into(), KIND, protocols).expect("it does not block");
    world.add(Box::new(server));
    let clients = [(); COUNT].map(|()| UnixStream::connect(&path).expect("it listens"));
    world.settle(TURNS);
    clients
}

/// Has a client ask something, and get a short answer.
fn ask(world: &mut World<SlotPort>, client: &mut UnixStream, request: &[u8]) {
    client.write_all(request).expect("sent");
    client.set_nonblocking(true).expect("fcntl");
    let mut reply = [0; 256];
    // A client may have to wait for its share of the time.
    let read = (0..PATIENCE).find_map(|_| {
        world.turn(Duration::from_millis(1));
        client.read(&mut reply).ok()
    });
    let read = read.expect("a reply");
    assert!(reply[..read].starts_with(b"{\"ok\":true"), "{}", String::from_utf8_lossy(&reply));
}

/// A control client that follows what does not happen here: all events are kept for it, and none is told.
fn watched(world: &mut World<SlotPort>) -> UnixStream {
    let [mut client] = clients(world);
    ask(world, &mut client, b"{\"command\":\"watch\",\"events\":[\"host\"]}\n");
    client
}

#[test]
fn traffic_allocates_nothing_while_somebody_follows_events() {
    isolated(|| {
        let data = noise(BULK);
        let mut world = world(OFFLOADS, 1500);
        let _client = watched(&mut world);
        let rules =
            ["reject udp any:9", "allow any"].map(|text| egress_rule(text).expect("a rule"));
        let egress = Policy { rules: rules.into(), host: Surroundings::default() };
        let view = NetView { egress, ..world.engine.view() };
        world.engine.replace_net(view).expect("no ports");
        world.settle(TURNS);
        let before = world.allocations;
        let mut pair = Pair::connect(world, 1500, Family::V4);
        pair.upload(&data);
        pair.download(&data);
        let mut world = pair.finish();
        let mut told = 0;
        for port in 20_000..22_000 {
            let from = SocketAddr::new(Family::V4.guest(), port);
            world.send(packet::udp(from, Family::V4.host_at(9), b"refused"));
            // As slow as it takes for the guest to be told of each, however fast this machine is.
            world.skip(Duration::from_millis(1));
            world.settle(TURNS);
            told += world.received().len();
        }
        assert_eq!(world.engine.egress_counts()[0].1, 2000, "each is an event");
        assert!(told >= 2000, "each is an ICMP error: {told}");
        assert_eq!(world.allocations, before);
    });
}

/// Clients are served in the same turns, and what they are told is allocated: so much with traffic as without.
#[test]
fn traffic_allocates_nothing_while_clients_are_served() {
    isolated(|| {
        const ROUNDS: u16 = 50;
        let mut world = world(OFFLOADS, 1500);
        let [mut asks, mut half, never] = clients(&mut world);
        // One that stops in the middle, and one that reads nothing.
        half.write_all(b"{\"command\":").expect("sent");
        never.set_nonblocking(true).expect("fcntl");
        while (&never).write(b"{\"command\":\"stats\"}\n").is_ok() {
            world.settle(TURNS);
        }
        // It is told what the kernel takes for it, in its share of the time.
        let mut still = 0;
        while still < 50 {
            let before = world.allocations;
            world.turn(Duration::from_millis(5));
            still = if world.allocations == before { still + 1 } else { 0 };
        }
        let request = b"{\"command\":\"log\"}\n";
        for _ in 0..10 {
            ask(&mut world, &mut asks, request);
        }
        let mut pair = Pair::connect(world, 1500, Family::V4);
        let data = noise(BULK / usize::from(ROUNDS));
        let mut rounds = [false, true].into_iter().map(|traffic| {
            let before = pair.world.allocations;
            for round in 0..ROUNDS {
                let request = &request[..];
                let split = usize::from(round) % request.len();
                asks.write_all(&request[..split]).expect("sent");
                pair.world.settle(TURNS);
                if traffic {
                    pair.upload(&data);
                    pair.download(&data);
                    let from = SocketAddr::new(Family::V4.guest(), 20_000 + round);
                    pair.world.send(packet::udp(from, Family::V4.host_at(9), b"refused"));
                    pair.world.settle(TURNS);
                }
                ask(&mut pair.world, &mut asks, &request[split..]);
            }
            pair.world.allocations - before
        });
        let [without, with] = [rounds.next(), rounds.next()];
        drop(rounds);
        assert!(without > Some(0), "answers are allocated");
        assert_eq!(with, without);
        pair.finish();
    });
}

#[test]
fn what_the_host_begins_allocates_nothing() {
    isolated(|| {
        let ports = 7000..7020;
        let rules = [Proto::Tcp, Proto::Udp].into_iter();
        let rules = rules.flat_map(|p| ports.clone().map(move |n| forward(p, Family::V4, n)));
        let setup = Setup { rules: rules.collect(), ..Setup::default() };
        let mut world = World::on(SlotPort::new(PLAIN), &setup);
        world.send(packet::arp([192, 0, 2, 2], [192, 0, 2, 1]));
        world.frames(1);
        let host = UdpSocket::bind(Family::V4.host_at(9000)).expect("a free port");
        let mut peers = Vec::new();
        for port in ports {
            host.send_to(b"question", Family::V4.host_at(port)).expect("sent");
            peers.push(TcpStream::connect(Family::V4.host_at(port)).expect("forwarded"));
        }
        // A datagram and a SYN for each port.
        world.frames(40);
        assert_eq!(world.engine.flow_count(), 40);
        assert_eq!(world.allocations, 0);
    });
}
