//! Peers that look the same to the guest, and flows that look the same to the kernel: no answer ever goes
//! to another one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;

use passt::flow::fwd::{ListenAddr, Proto, Rule};
use passt::sys::process;
use passt::wire::DropReason;
use passt_support::namespace::Netns;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::datagrams::{awaited, bound, known, received};
use crate::guest::{Guest, until};
use crate::namespace::{HOST_V6, isolated, run};
use crate::packet;
use crate::tcp::{noise, read_some, write_some};
use crate::world::{Family, PLAIN, Setup, World};

const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn loopback(last: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, last), port).into()
}

/// Listens on all IPv4 addresses.
fn rule(proto: Proto, port: u16, target: u16) -> Rule {
    let listen = ListenAddr::V4(Ipv4Addr::UNSPECIFIED);
    Rule { listen, ..Rule::plain(proto, (port, port), target) }
}

fn setup(rules: &[Rule]) -> Setup {
    Setup { caps: PLAIN, rules: rules.to_vec(), ..Setup::default() }
}

/// A datagram that the guest has got: source, destination, payload.
type Got = (SocketAddr, SocketAddr, Vec<u8>);

/// The UDP datagrams over IPv4 that the guest has got; there must be `count`.
fn datagrams(world: &mut World, count: usize) -> Vec<Got> {
    let frames = world.frames(count);
    let parsed = frames.iter().map(|frame| {
        assert_eq!((&frame[12..14], frame[23]), (&[8, 0][..], 17), "UDP over IPv4");
        let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let address = |at: usize| -> IpAddr {
            <[u8; 4]>::try_from(&frame[at..at + 4]).expect("four bytes").into()
        };
        let source = SocketAddr::new(address(26), number(34));
        let destination = SocketAddr::new(address(30), number(36));
        (source, destination, frame[42..34 + usize::from(number(38))].to_vec())
    });
    parsed.collect()
}

/// Each of `peers` sends to where it is to, the guest answers each, twice; every peer gets what is for it,
/// from where it has sent to.
fn converse(world: &mut World, peers: &[(UdpSocket, SocketAddr)]) -> Vec<SocketAddr> {
    let mut sources = Vec::new();
    for round in 0..2u8 {
        for (index, (peer, to)) in peers.iter().enumerate() {
            let question = [b'?', round, index as u8];
            peer.send_to(&question, to).expect("sent");
            let (source, destination, payload) = datagrams(world, 1).remove(0);
            assert_eq!(payload, question);
            world.send(packet::udp(destination, source, &[b'!', round, index as u8]));
            world.settle(64);
            assert_eq!(awaited(peer), (vec![b'!', round, index as u8], *to), "peer {index}");
            if round == 0 {
                assert!(!sources.contains(&source), "{source} is two peers to the guest");
                sources.push(source);
            } else {
                assert_eq!(source, sources[index], "a peer stays the same");
            }
        }
    }
    for (peer, _) in peers {
        peer.set_nonblocking(true).expect("fcntl");
        assert_eq!(received(peer), None, "and nothing else");
    }
    sources
}

#[test]
fn local_peers_with_one_port_are_two_to_the_guest() {
    isolated(|| {
        let mut world = known(&setup(&[rule(Proto::Udp, 7000, 7000)]));
        let peers = [1, 2, 3].map(|last| (bound(loopback(last, 5000)), loopback(1, 7000)));
        let sources = converse(&mut world, &peers);
        assert!(sources.iter().all(|source| source.ip() == GATEWAY), "{sources:?}");
        assert_eq!(sources[0].port(), 5000, "the first keeps its port");
        assert!(sources[1..].iter().all(|source| source.port() >= 49152), "{sources:?}");
        assert_eq!(world.all_drops(), 0);
    });
}

#[test]
fn answers_come_from_the_address_and_the_port_that_were_asked() {
    isolated(|| {
        let mut world =
            known(&setup(&[rule(Proto::Udp, 7000, 7000), rule(Proto::Udp, 7001, 7000)]));
        // One peer, two addresses of ours; the last one with two ports of ours that are one to the guest.
        let peer = bound(loopback(1, 5000));
        let peers = [loopback(1, 7000), loopback(2, 7000), loopback(2, 7001)]
            .map(|to| (peer.try_clone().expect("dup"), to));
        converse(&mut world, &peers);
        assert_eq!(world.all_drops(), 0);
    });
}

#[test]
fn privileged_ports_stay_privileged_and_who_cannot_be_told_apart_is_refused() {
    isolated(|| {
        process::raise_descriptor_limit();
        let rules = vec![rule(Proto::Udp, 7000, 7000)];
        let mut world = known(&Setup { rules, max_descriptors: 16384, ..Setup::default() });
        let peer = |index: u16| {
            let [high, low] = index.to_be_bytes();
            let address = Ipv4Addr::new(127, 0, high, low);
            bound((address, 700).into())
        };
        // Its own port, and what else there is from 512 to 1023.
        let mut ports = Vec::new();
        for index in 1..=512 {
            peer(index).send_to(b"?", loopback(1, 7000)).expect("sent");
            ports.push(datagrams(&mut world, 1)[0].0.port());
        }
        ports.sort_unstable();
        assert_eq!(ports, (512..=1023).collect::<Vec<u16>>());
        peer(513).send_to(b"?", loopback(1, 7000)).expect("sent");
        world.quiet(64);
        assert_eq!(world.received().len(), 0);
        assert_eq!(world.drops(DropReason::AmbiguousPeer), 1);
    });
}

#[test]
fn addresses_of_the_guest_with_one_port_are_two_to_the_peer() {
    isolated(|| {
        let mut world = known(&setup(&[]));
        let (host, to) = (bound(Family::V4.host_at(9000)), Family::V4.host_at(9000));
        let guests: Vec<SocketAddr> =
            [2, 3, 4].map(|last| (Ipv4Addr::new(192, 0, 2, last), 5000).into()).to_vec();
        let mut sources = Vec::new();
        for round in 0..2u8 {
            for (index, guest) in guests.iter().enumerate() {
                world.send(packet::udp(*guest, to, &[round, index as u8]));
                world.settle(64);
                let (question, source) = awaited(&host);
                assert_eq!(question, [round, index as u8]);
                if round == 0 {
                    assert!(!sources.contains(&source), "{source} is two addresses of the guest");
                    sources.push(source);
                }
                assert_eq!(source, sources[index], "an address keeps its port");
            }
        }
        assert_eq!(sources[0].port(), 5000, "the first one has the guest's");
        // Whether the first address is in use although others speak was asked once, by ARP.
        assert_eq!(world.received().len(), 1);
        for (guest, source) in guests.iter().zip(&sources) {
            host.send_to(b"answer", source).expect("sent");
            assert_eq!(datagrams(&mut world, 1), [(to, *guest, b"answer".to_vec())]);
        }
        assert_eq!(world.all_drops(), 0);
    });
}

#[test]
fn addresses_that_stand_for_one_host_are_told_apart() {
    isolated(|| {
        let stands_too = Ipv4Addr::new(192, 0, 2, 53);
        let mut setup = setup(&[]);
        setup.map.v4.dns_match = Some(stands_too);
        setup.map.v4.dns_host = Some(Ipv4Addr::LOCALHOST);
        let mut world = known(&setup);
        let server = bound(loopback(1, 53));
        let guest = SocketAddr::new(GUEST, 5000);
        for address in [GATEWAY, stands_too.into()] {
            world.send(packet::udp(guest, SocketAddr::new(address, 53), b"?"));
            world.settle(64);
        }
        let sources = [awaited(&server).1, awaited(&server).1];
        for (source, address) in sources.iter().zip([GATEWAY, stands_too.into()]) {
            server.send_to(b"!", source).expect("sent");
            let from = SocketAddr::new(address, 53);
            assert_eq!(datagrams(&mut world, 1), [(from, guest, b"!".to_vec())]);
        }
    });
}

#[test]
fn a_forwarded_port_and_the_guest_s_own_are_told_apart() {
    isolated(|| {
        let mut world = known(&setup(&[rule(Proto::Udp, 5000, 7000)]));
        let host = Family::V4.host_at(5000);
        let peer = bound(Family::V4.host_at(9000));
        let at = peer.local_addr().expect("an address");
        peer.send_to(b"to 7000", host).expect("sent");
        let forwarded = SocketAddr::new(GUEST, 7000);
        assert_eq!(datagrams(&mut world, 1), [(at, forwarded, b"to 7000".to_vec())]);
        // The guest's port 5000 is not the one that is forwarded.
        let own = SocketAddr::new(GUEST, 5000);
        world.send(packet::udp(own, at, b"from 5000"));
        world.settle(64);
        let (question, source) = awaited(&peer);
        assert_eq!(question, b"from 5000");
        for (to, guest) in [(source, own), (host, forwarded)] {
            peer.send_to(b"answer", to).expect("sent");
            assert_eq!(datagrams(&mut world, 1), [(at, guest, b"answer".to_vec())]);
        }
    });
}

/// A socket that has bound its address before it connects.
fn connected(from: SocketAddr, to: SocketAddr) -> std::net::TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
    let stream = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    sockopt::set_socket_reuseaddr(&stream, true).expect("setsockopt");
    bind(&stream, &from).expect("a free port");
    connect(&stream, &to).expect("the port is forwarded");
    let stream = std::net::TcpStream::from(stream);
    stream.set_nonblocking(true).expect("fcntl");
    stream
}

#[test]
fn connections_of_local_peers_with_one_port_both_work() {
    isolated(|| {
        let mut world = World::new(&setup(&[rule(Proto::Tcp, 7000, 7000)]));
        let mut guest = Guest::new(&mut world, 1500);
        until(&mut world, &mut guest, "start", |_, _| true);
        let mut pairs = Vec::new();
        for last in [1, 2, 3] {
            let handle = guest.tcp(4096);
            guest.tcp_mut(handle).listen(7000).expect("a fresh socket");
            let peer = connected(loopback(last, 5000), loopback(1, 7000));
            until(&mut world, &mut guest, "accept", |_, guest| {
                guest.tcp_mut(handle).state() == State::Established
            });
            pairs.push((handle, peer));
        }
        for (index, (handle, peer)) in pairs.iter_mut().enumerate() {
            let expected = [index as u8; 100];
            assert_eq!(write_some(peer, &expected), 100);
            let mut got = Vec::new();
            until(&mut world, &mut guest, "to the guest and back", |_, guest| {
                let socket = guest.tcp_mut(*handle);
                if socket.recv_queue() == 100 {
                    let mut bytes = [0; 100];
                    socket.recv_slice(&mut bytes).expect("the connection is up");
                    socket.send_slice(&bytes).expect("room");
                }
                read_some(peer, &mut got);
                got.len() == 100
            });
            assert_eq!(got, expected, "peer {index}");
        }
        assert_eq!((world.engine.flow_count(), world.all_drops()), (3, 0));
    });
}

/// A connection from a port that was used before, to a new socket of the guest.
fn opened(world: &mut World, guest: &mut Guest) -> (SocketHandle, std::net::TcpStream) {
    let handle = guest.tcp(4096);
    guest.tcp_mut(handle).listen(7000).expect("a fresh socket");
    let peer = connected(loopback(1, 5000), loopback(1, 7000));
    until(world, guest, "accept", |_, guest| guest.tcp_mut(handle).state() == State::Established);
    (handle, peer)
}

fn port_of_peer(guest: &mut Guest, handle: SocketHandle) -> u16 {
    guest.tcp_mut(handle).remote_endpoint().expect("it is connected").port
}

#[test]
fn a_peer_that_has_reset_its_connection_comes_back_with_its_port() {
    isolated(|| {
        let mut world = World::new(&setup(&[rule(Proto::Tcp, 7000, 7000)]));
        let mut guest = Guest::new(&mut world, 1500);
        until(&mut world, &mut guest, "start", |_, _| true);
        let (first, peer) = opened(&mut world, &mut guest);
        // Ends at once, and neither we nor the guest, which is not polled, learn of it before it comes back.
        rustix::net::sockopt::set_socket_linger(&peer, Some(std::time::Duration::ZERO))
            .expect("setsockopt");
        drop(peer);
        let (second, mut peer) = opened(&mut world, &mut guest);
        assert_eq!(guest.tcp_mut(first).state(), State::Closed, "the old connection has ended");
        assert_eq!(port_of_peer(&mut guest, second), 5000);
        assert_eq!(write_some(&mut peer, b"for the second"), 14);
        until(&mut world, &mut guest, "data", |_, guest| guest.tcp_mut(second).recv_queue() == 14);
        assert_eq!((world.engine.flow_count(), world.all_drops()), (1, 0));
    });
}

#[test]
fn a_peer_that_left_bytes_for_the_guest_comes_back_with_another_port() {
    isolated(|| {
        let mut world = World::new(&setup(&[rule(Proto::Tcp, 7000, 7000)]));
        let mut guest = Guest::new(&mut world, 1500);
        until(&mut world, &mut guest, "start", |_, _| true);
        let (first, mut peer) = opened(&mut world, &mut guest);
        guest.tcp_mut(first).close();
        let mut end = Vec::new();
        until(&mut world, &mut guest, "the guest's end", |_, _| !read_some(&mut peer, &mut end));
        let sent = noise(20_000);
        assert_eq!(write_some(&mut peer, &sent), sent.len());
        drop(peer);
        let (second, _peer) = opened(&mut world, &mut guest);
        assert_ne!(port_of_peer(&mut guest, second), 5000, "the guest is not done with the first");
        let mut got = Vec::new();
        until(&mut world, &mut guest, "what was left", |_, guest| {
            let socket = guest.tcp_mut(first);
            let bytes = socket.recv(|bytes| (bytes.len(), bytes.to_vec()));
            got.extend(bytes.unwrap_or_default());
            got.len() == sent.len()
        });
        assert!(got == sent, "other bytes");
        until(&mut world, &mut guest, "the end", |world, _| world.engine.flow_count() == 1);
        assert_eq!(world.all_drops(), 0);
    });
}

/// A socket on a link of its own, in a namespace of its own. Its address is not unique, that of the host is.
fn link_local_peer(link: &str) -> UdpSocket {
    let namespace = Netns::new("ip link set lo up");
    let place = format!("/proc/{}/fd/{}", std::process::id(), namespace.file().as_raw_fd());
    run(&format!(
        "ip link add {link} type veth peer name far netns {place}
        ip addr add fe80::1/64 dev {link} nodad
        ip link set {link} up"
    ));
    namespace.run(|| {
        run(&format!(
            "ip addr add fe80::5/64 dev far nodad
            ip link set far up
            ip route add {HOST_V6}/128 via fe80::1 dev far"
        ));
        let index = run_for("ip -o link show far").split(':').next().map(str::parse);
        let index = index.and_then(Result::ok).expect("an index");
        let address = SocketAddrV6::new("fe80::5".parse().expect("an address"), 5000, 0, index);
        bound(address.into())
    })
}

fn run_for(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().expect("sh(1)");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn link_local_peers_of_two_links_are_not_one() {
    isolated(|| {
        let all = Rule { listen: ListenAddr::Dual, ..Rule::plain(Proto::Udp, (7000, 7000), 7000) };
        let mut world = known(&setup(&[all]));
        let [first, second] = ["link0", "link1"].map(link_local_peer);
        let to = Family::V6.host_at(7000);
        first.send_to(b"first", to).expect("sent");
        assert_eq!(world.frames(1)[0][62..67], *b"first");
        second.send_to(b"second", to).expect("sent");
        until_dropped(&mut world);
        assert_eq!(world.received().len(), 0);
        let (guest, peer) = (Family::V6.guest(), "[fe80::5]:5000".parse().expect("an address"));
        world.send(packet::udp(SocketAddr::new(guest, 7000), peer, b"answer"));
        world.settle(64);
        assert_eq!(awaited(&first), (b"answer".to_vec(), to));
        assert_eq!(received(&second), None);
    });
}

fn until_dropped(world: &mut World) {
    let mut turns = 0;
    while world.drops(DropReason::AmbiguousPeer) == 0 {
        world.turn(std::time::Duration::from_millis(2));
        turns += 1;
        assert!(turns < 1000 && world.port.recv().is_none(), "nothing is dropped");
    }
}
