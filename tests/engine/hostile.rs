//! What hostile or merely unusual guests and networks do: floods, scans, a guest that has no room. No
//! one of them takes the service of the others, nothing spins, and everything is accounted for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use passt::flow::fwd::Proto;
use passt::flow::timer::TICK_US;
use passt::limits::{
    ADMISSION_HELD, ADMISSIONS_PER_PORT, GUEST_DATAGRAMS_DIVISOR, MAX_HALF_OPEN,
    NETWORK_DATAGRAMS_DIVISOR, RESERVED_DESCRIPTORS, reserved_descriptors,
};
use passt::wire::DropReason;
use passt_frame::PortEvents;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::namespace::isolated;
use crate::packet::{self, ACK, RST, SYN};
use crate::world::{Family, Setup, World, forward};

/// Turns in which a few frames are done with.
const TURNS: usize = 64;

fn guest_at(port: u16) -> SocketAddr {
    SocketAddr::new(Family::V4.guest(), port)
}

fn host_at(port: u16) -> SocketAddr {
    Family::V4.host_at(port)
}

/// A socket of the host that waits for what is to come, but not for ever.
fn bound(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(host_at(port)).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("setsockopt");
    socket
}

/// A world in which the guest has made itself known.
fn known(setup: &Setup) -> World {
    let mut world = World::new(setup);
    world.send(packet::arp([192, 0, 2, 2], [192, 0, 2, 1]));
    world.settle(TURNS);
    world.received();
    world
}

/// Tells the engine what the link reports, as the loop would.
fn report(world: &mut World, events: PortEvents) {
    if events.room {
        world.engine.on_link_room();
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

/// An open flow from the guest to `host`; the host's view of the guest's address.
fn open_flow(world: &mut World, host: &UdpSocket, to: SocketAddr) -> SocketAddr {
    world.send(packet::udp(guest_at(5000), to, b"?"));
    world.settle(TURNS);
    host.recv_from(&mut [0; 16]).expect("a datagram").1
}

#[test]
fn point_1_datagrams_for_a_guest_without_room_wait_without_spinning() {
    isolated(|| {
        let rules = vec![forward(Proto::Udp, Family::V4, 7000)];
        let mut world = known(&Setup { rules, ..Setup::default() });
        let host = bound(9000);
        let guest = open_flow(&mut world, &host, host_at(9000));
        world.port.set_room(0);
        for number in 0..100u8 {
            host.send_to(&[number], guest).expect("sent");
            host.send_to(&[number], host_at(7000)).expect("sent");
        }
        let turns = world.quiet(TURNS);
        assert!(turns <= 6, "{turns} turns for nothing");
        assert_eq!(world.received().len(), 0);

        let events = world.port.set_room(usize::MAX);
        assert!(events.room);
        report(&mut world, events);
        let payloads: Vec<u8> = world.frames(200).iter().map(|frame| frame[42]).collect();
        for number in 0..100 {
            assert_eq!(payloads.iter().filter(|&&byte| byte == number).count(), 2);
        }
        assert_eq!(world.all_drops(), 0);
    });
}

#[test]
fn point_1_datagrams_for_a_stopped_ring_are_dropped_and_counted() {
    isolated(|| {
        let rules = vec![forward(Proto::Udp, Family::V4, 7000)];
        let mut world = known(&Setup { rules, ..Setup::default() });
        let host = bound(9000);
        let guest = open_flow(&mut world, &host, host_at(9000));
        world.port.set_up(false);
        for _ in 0..50 {
            host.send_to(b"!", guest).expect("sent");
            host.send_to(b"!", host_at(7000)).expect("sent");
        }
        world.quiet(TURNS);
        assert_eq!(world.drops(DropReason::LinkDown), 100);
        world.port.set_up(true);
        // The flow has survived.
        host.send_to(b"!", guest).expect("sent");
        world.frames(1);
    });
}

#[test]
fn point_1_stream_data_for_a_stopped_ring_waits_without_spinning() {
    isolated(|| {
        let rules = vec![forward(Proto::Tcp, Family::V4, 7000)];
        let mut world = known(&Setup { rules, ..Setup::default() });
        world.port.set_up(false);
        let mut peer = TcpStream::connect(host_at(7000)).expect("the port is forwarded");
        peer.write_all(b"hello").expect("sent");
        let turns = world.quiet(TURNS);
        assert!(turns <= 6, "{turns} turns for nothing");
        world.port.set_up(true);
        let (_, out) = passt_frame::FramePort::halves(&mut world.port);
        world.engine.on_link_up(out);
        world.skip(Duration::from_secs(2));
        world.quiet(TURNS);
        let syn = |frame: &Vec<u8>| frame.len() > 47 && frame[23] == 6 && frame[47] == SYN;
        assert!(world.received().iter().any(syn), "the connection attempt has survived");
    });
}

#[test]
fn point_3_v4_mapped_addresses_reach_nobody() {
    isolated(|| {
        let mut world = known(&Setup::default());
        let listeners = ["127.0.0.1:8000", "198.51.100.1:8000"].map(|at| {
            let listener = std::net::TcpListener::bind(at).expect("a free port");
            listener.set_nonblocking(true).expect("fcntl");
            listener
        });
        let guest = SocketAddr::new(Family::V6.guest(), 40000);
        for target in
            ["[::ffff:127.0.0.1]:8000", "[::ffff:198.51.100.1]:8000", "[::127.0.0.1]:8000"]
        {
            let target: SocketAddr = target.parse().expect("an address");
            world.send(packet::tcp(guest, target, SYN, (1000, 0), &[]));
            world.send(packet::udp(guest, target, b"?"));
            world.send(packet::echo(guest.ip(), target.ip(), 1, 1, b"?"));
        }
        world.quiet(TURNS);
        assert!(listeners.iter().all(|listener| listener.accept().is_err()));
        assert_eq!(world.drops(DropReason::ForbiddenAddress), 9);
        assert_eq!(world.engine.flow_count(), 0);
    });
}

/// Makes 203.0.113.0/24 a place from which no answer comes.
fn silent_network() {
    let script = "ip link add quiet0 type veth peer name quiet1
        ip link set quiet0 arp off
        ip link set quiet0 up
        ip link set quiet1 up
        ip route add 203.0.113.0/24 dev quiet0 src 198.51.100.1";
    let status = Command::new("sh").args(["-ec", script]).status();
    assert!(status.is_ok_and(|status| status.success()), "ip(8) made no silent network");
}

/// What a scan of 10,000 targets must leave possible, with `limit` descriptors in all.
fn scan(limit: u64) {
    silent_network();
    let both = Some(limit);
    setrlimit(Resource::Nofile, Rlimit { current: both, maximum: both }).expect("setrlimit");
    let mut world = known(&Setup { max_descriptors: limit, ..Setup::default() });
    let host = bound(9000);
    for number in 0..10_000u32 {
        let target = SocketAddr::new(
            [203, 0, 113, (number % 250) as u8 + 1].into(),
            1000 + (number / 250) as u16,
        );
        world.send(packet::tcp(guest_at(40000), target, SYN, (number, 0), &[]));
        if number % 100 == 99 {
            world.settle(1000);
            assert!(descriptors() as u64 + reserved_descriptors(limit) / 2 < limit);
        }
    }
    let half_open = world.engine.flow_count();
    assert!(half_open > 0 && half_open <= MAX_HALF_OPEN, "{half_open} flows");
    assert_eq!(world.drops(DropReason::HalfOpenEvicted) as usize, 10_000 - half_open);
    assert_eq!(world.drops(DropReason::DescriptorsExhausted), 0);
    assert_eq!(
        world.received().len(),
        0,
        "who was not answered asks again, unless it is told not to"
    );

    world.send(packet::echo(Family::V4.guest(), Family::V4.host(), 1, 1, b"ping"));
    world.frames(1);
    let guest = open_flow(&mut world, &host, host_at(9000));
    host.send_to(b"!", guest).expect("sent");
    world.frames(1);
    let spare: Vec<_> =
        (0..reserved_descriptors(limit) / 2).map(|_| std::fs::File::open("/dev/null")).collect();
    assert!(spare.iter().all(Result::is_ok), "descriptors are left for a new front-end");
}

#[test]
fn point_6_a_scan_leaves_descriptors_to_the_others() {
    isolated(|| scan(512));
}

#[test]
fn point_6_a_scan_leaves_descriptors_where_there_are_few() {
    isolated(|| scan(64));
}

/// A SYN of the guest's to a place from which no answer comes.
fn unanswered_syn(number: usize) -> Vec<u8> {
    let target = SocketAddr::new([203, 0, 113, number as u8].into(), 80);
    packet::tcp(guest_at(40000), target, SYN, (1, 0), &[])
}

/// A burst of connections that only had to wait would be a burst of errors otherwise.
#[test]
fn who_gave_way_before_it_was_answered_is_connected_when_it_asks_again() {
    isolated(|| {
        silent_network();
        // Nobody has looked yet whether the host has connected; or in that turn, which ends with a SYN-ACK.
        for turns in [0, 1] {
            let mut world = known(&Setup { max_descriptors: 64, ..Setup::default() });
            let listener = TcpListener::bind(host_at(9001)).expect("a free port");
            let (guest, target) = (guest_at(41000), host_at(9001));
            world.send(packet::tcp(guest, target, SYN, (1000, 0), &[]));
            (0..turns).for_each(|_| _ = world.turn(Duration::ZERO));
            (1..=60).for_each(|number| world.send(unanswered_syn(number)));
            world.settle(1000);
            assert!(world.drops(DropReason::HalfOpenEvicted) > 0);
            assert_eq!(world.received().len(), 0, "{turns}: the oldest gave way without a reset");
            let mut peer = listener.accept().expect("the host had connected").0;
            let end = peer.read(&mut [0]).expect_err("that one is over");
            assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
            let (ack, mut peer) = world.open(&listener, (guest, target));
            world.send(packet::tcp(guest, target, ACK, (1001, ack), b"question"));
            world.settle(TURNS);
            let mut question = [0; 8];
            peer.read_exact(&mut question).expect("what the guest has said");
            assert_eq!(&question, b"question");
        }
    });
}

#[test]
fn who_was_answered_is_reset_when_it_gives_way() {
    isolated(|| {
        silent_network();
        let mut world = known(&Setup { max_descriptors: 64, ..Setup::default() });
        let _listener = TcpListener::bind(host_at(9001)).expect("a free port");
        let (guest, target) = (guest_at(41000), host_at(9001));
        world.send(packet::tcp(guest, target, SYN, (1000, 0), &[]));
        assert_eq!(world.frames(1)[0][47], SYN | ACK);
        (1..=60).for_each(|number| world.send(unanswered_syn(number)));
        world.settle(1000);
        let told = world.received();
        assert_eq!(told.len(), 1, "nobody else was answered");
        assert_eq!((told[0][29], told[0][47] & RST), (1, RST), "the oldest is told");
    });
}

/// Its flow is served, and counted no more among those, at the end of the turn only.
#[test]
fn who_finishes_a_handshake_in_the_turn_of_one_too_many_does_not_give_way() {
    isolated(|| {
        silent_network();
        let few = Setup { max_descriptors: 64, ..Setup::default() };
        let mut world = known(&few);
        (1..=100).for_each(|number| world.send(unanswered_syn(number)));
        world.settle(1000);
        let most = world.engine.flow_count();
        drop(world);

        let mut world = known(&few);
        let listener = TcpListener::bind(host_at(9001)).expect("a free port");
        let (guest, target) = (guest_at(41000), host_at(9001));
        let (ack, mut peer) = world.open(&listener, (guest, target));
        (1..most).for_each(|number| world.send(unanswered_syn(number)));
        world.settle(1000);
        assert_eq!(world.drops(DropReason::HalfOpenEvicted), 0);
        world.send(packet::tcp(guest, target, ACK, (1001, ack), b"question"));
        world.send(unanswered_syn(most));
        world.settle(TURNS);
        assert_eq!(world.drops(DropReason::HalfOpenEvicted), 0, "nor does anybody else");
        world.send(unanswered_syn(most + 1));
        world.settle(TURNS);
        assert_eq!(world.drops(DropReason::HalfOpenEvicted), 1);
        peer.set_read_timeout(Some(Duration::from_secs(5))).expect("setsockopt");
        let mut question = [0; 8];
        peer.read_exact(&mut question).expect("what the guest has said");
        assert_eq!(&question, b"question");
    });
}

#[test]
fn tcp_is_served_from_64_descriptors_on() {
    isolated(|| {
        for limit in [64, 65, 128, 256, RESERVED_DESCRIPTORS, 2 * RESERVED_DESCRIPTORS] {
            assert_tcp_opens(&mut known(&Setup { max_descriptors: limit, ..Setup::default() }));
        }
    });
}

#[test]
fn point_6_a_scan_has_its_own_cap() {
    isolated(|| scan(4096));
}

#[test]
fn point_6_a_scan_by_a_guest_without_room_leaves_descriptors_too() {
    isolated(|| {
        silent_network();
        let mut world = known(&Setup { max_descriptors: 512, ..Setup::default() });
        world.port.set_room(0);
        let before = descriptors();
        for number in 0..2_000u32 {
            let target = SocketAddr::new([203, 0, 113, 1].into(), 1000 + number as u16);
            world.send(packet::tcp(guest_at(40000), target, SYN, (number, 0), &[]));
        }
        world.settle(1000);
        assert!(descriptors() - before < 300, "{} sockets", descriptors() - before);
        assert_eq!(world.drops(DropReason::DescriptorsExhausted), 0);
    });
}

/// The guest asks for a connection to a listening socket of the host, and has it.
fn assert_tcp_opens(world: &mut World) {
    let listener = TcpListener::bind(host_at(0)).expect("a free port");
    let to = listener.local_addr().expect("bound");
    world.received();
    world.send(packet::tcp(guest_at(41000), to, SYN, (1, 0), &[]));
    let answer = &world.frames(1)[0];
    assert_eq!(answer[47], SYN | ACK);
}

#[test]
fn a_flood_of_datagrams_from_the_guest_leaves_flows_to_tcp() {
    isolated(|| {
        let mut world = known(&Setup { max_descriptors: 512, ..Setup::default() });
        let most = (512 - RESERVED_DESCRIPTORS) as usize / GUEST_DATAGRAMS_DIVISOR;
        let host = bound(9000);
        for port in 10_000..11_000 {
            world.send(packet::udp(guest_at(port), host_at(9000), b"x"));
            world.settle(TURNS);
        }
        assert_eq!(world.engine.flow_count(), most);
        assert_eq!(world.drops(DropReason::DatagramFlowEvicted), 1000 - most as u64);
        assert_tcp_opens(&mut world);
        while host.set_nonblocking(true).is_ok() && host.recv_from(&mut [0]).is_ok() {}
        host.set_nonblocking(false).expect("fcntl");
        open_flow(&mut world, &host, host_at(9000));
    });
}

#[test]
fn a_flood_of_datagrams_from_outside_leaves_flows_to_the_guest() {
    isolated(|| {
        let rules = vec![forward(Proto::Udp, Family::V4, 8000)];
        let mut world = known(&Setup { max_descriptors: 512, rules, ..Setup::default() });
        // The listening socket needs a descriptor, too.
        let most = (511 - RESERVED_DESCRIPTORS) as usize / NETWORK_DATAGRAMS_DIVISOR;
        let peers: Vec<_> = (0..2 * most).map(|_| bound(0)).collect();
        for peer in &peers {
            peer.send_to(b"x", host_at(8000)).expect("sent");
            world.settle(TURNS);
        }
        assert_eq!(world.engine.flow_count(), most);
        assert_eq!(world.drops(DropReason::DatagramFlowEvicted) as usize, peers.len() - most);
        open_flow(&mut world, &bound(9000), host_at(9000));
        assert_tcp_opens(&mut world);
    });
}

#[test]
fn point_10_every_datagram_of_a_flood_is_accounted_for() {
    isolated(|| {
        let mut world = known(&Setup { mtu: 9000, ..Setup::default() });
        let host = bound(9000);
        let (mut out, mut sent) = (0, 0);
        for burst in 0..200 {
            let payload = vec![burst as u8; [1, 64, 1472, 8972][burst % 4]];
            for _ in 0..8 {
                world.send(packet::udp(guest_at(5000), host_at(9000), &payload));
                sent += 1;
            }
            world.quiet(TURNS);
            let mut bytes = [0; 9000];
            for _ in 0..8 {
                let (len, from) = host.recv_from(&mut bytes).expect("a datagram");
                assert!(bytes[..len] == payload);
                out += 1;
                host.send_to(&payload, from).expect("sent");
            }
            for frame in world.frames(8) {
                assert!(frame[42..42 + payload.len()] == payload);
            }
        }
        host.set_nonblocking(true).expect("fcntl");
        assert!(host.recv_from(&mut [0]).is_err(), "one was multiplied");
        assert_eq!(out + world.all_drops(), sent);
        assert_eq!(out, sent);
    });
}

#[test]
fn point_10_a_flood_of_refused_datagrams_is_accounted_for() {
    isolated(|| {
        let mut world = known(&Setup::default());
        for _ in 0..1000 {
            world.send(packet::udp(guest_at(5000), host_at(0), b"x"));
            world.send(packet::udp(
                guest_at(5000),
                "127.0.0.1:9".parse().expect("an address"),
                b"x",
            ));
            world.send(packet::ethernet(0x88cc, b"x"));
        }
        world.settle(TURNS);
        for reason in
            [DropReason::PortZero, DropReason::ForbiddenAddress, DropReason::UnknownEtherType]
        {
            assert_eq!(world.drops(reason), 1000, "{}", reason.name());
        }
        assert_eq!(world.all_drops(), 3000);
    });
}

#[test]
fn point_2_a_segment_scattered_at_any_byte_arrives_once() {
    isolated(|| {
        let mut world = known(&Setup::default());
        let listener = std::net::TcpListener::bind(host_at(8000)).expect("a free port");
        world.send(packet::tcp(guest_at(40000), host_at(8000), SYN, (1000, 0), &[]));
        let answer = world.frames(1).remove(0);
        let (mut peer, _) = listener.accept().expect("connected");
        let isn = u32::from_be_bytes([answer[38], answer[39], answer[40], answer[41]]);
        let host = bound(9000);
        let mut seq = 1001;
        for cut in 0..=70 {
            world.port.cut_at(cut);
            let payload = [cut as u8; 16];
            let frame = packet::tcp(guest_at(40000), host_at(8000), ACK, (seq, isn + 1), &payload);
            seq += 16;
            world.send(frame);
            world.send(packet::udp(guest_at(5000), host_at(9000), &payload));
            world.settle(TURNS);
            let mut got = [0; 64];
            assert_eq!(peer.read(&mut got).expect("read"), 16, "cut at {cut}");
            assert_eq!(got[..16], payload);
            assert_eq!(host.recv(&mut got).expect("one datagram"), 16, "cut at {cut}");
            assert_eq!(got[..16], payload);
        }
        host.set_nonblocking(true).expect("fcntl");
        assert!(host.recv(&mut [0]).is_err(), "a datagram came twice");
        assert_eq!(world.all_drops(), 0);
    });
}

/// A connection request for the guest.
struct Request {
    from: SocketAddr,
    port: u16,
    seq: u32,
}

/// The connection requests among `frames`.
fn requests(frames: &[Vec<u8>]) -> Vec<Request> {
    let number = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
    let request = |frame: &Vec<u8>| Request {
        from: ([frame[26], frame[27], frame[28], frame[29]], number(&frame[34..36]) as u16).into(),
        port: number(&frame[36..38]) as u16,
        seq: number(&frame[38..42]),
    };
    frames.iter().filter(|frame| frame.len() > 47 && frame[47] & 0x3f == SYN).map(request).collect()
}

#[test]
fn a_burst_of_connections_waits_in_the_host_s_queue_not_in_the_guest_s() {
    isolated(|| {
        let ports = [7000, 7001];
        let rules = ports.map(|port| forward(Proto::Tcp, Family::V4, port)).to_vec();
        let mut world = known(&Setup { rules, ..Setup::default() });
        let burst = 3 * ADMISSIONS_PER_PORT;
        let _clients: Vec<TcpStream> =
            (0..burst).map(|_| TcpStream::connect(host_at(ports[0])).expect("a queue")).collect();
        let asked = requests(&world.frames(ADMISSIONS_PER_PORT));
        assert_eq!(asked.len(), ADMISSIONS_PER_PORT, "the guest has not answered yet");

        // A reset, data, or a while after the handshake: each makes room for one more.
        let (third, begin) = (ADMISSIONS_PER_PORT / 3, std::time::Instant::now());
        let answer = |world: &mut World, request: &Request, flags, seq, data: &[u8]| {
            let numbers = (seq, request.seq.wrapping_add(1));
            let frame = packet::tcp(guest_at(request.port), request.from, flags, numbers, data);
            world.send(frame);
        };
        for (index, request) in asked.iter().enumerate() {
            let flags = if index < third { RST | ACK } else { SYN | ACK };
            answer(&mut world, request, flags, 1, b"");
        }
        world.settle(TURNS);
        for request in &asked[third..2 * third] {
            answer(&mut world, request, ACK, 2, b"welcome");
        }
        world.quiet(TURNS);
        let more = requests(&world.received()).len();
        if begin.elapsed() < ADMISSION_HELD {
            assert_eq!(more, 2 * third, "a SYN-ACK says nothing");
        }
        // A timer may be two ticks late.
        world.skip(ADMISSION_HELD + 2 * Duration::from_micros(TICK_US));
        world.turn(Duration::ZERO);
        world.quiet(TURNS);
        assert_eq!(more + requests(&world.received()).len(), ADMISSIONS_PER_PORT);

        // Another port is not concerned.
        let _other = TcpStream::connect(host_at(ports[1])).expect("a queue");
        assert_eq!(requests(&world.frames(1))[0].port, ports[1]);
        assert_eq!(world.all_drops(), 0);
    });
}

#[test]
fn with_few_descriptors_a_burst_waits_just_as_well() {
    isolated(|| {
        let limit = 64;
        let rules = vec![forward(Proto::Tcp, Family::V4, 7000)];
        let mut world = known(&Setup { rules, max_descriptors: limit, ..Setup::default() });
        let burst = 48;
        let _clients: Vec<TcpStream> =
            (0..burst).map(|_| TcpStream::connect(host_at(7000)).expect("a queue")).collect();
        world.settle(TURNS);
        assert_eq!(world.drops(DropReason::HalfOpenEvicted), 0);
        let asked = requests(&world.received());
        let listeners = 1;
        assert_eq!(asked.len() as u64, (limit - reserved_descriptors(limit) - listeners) / 2);

        // Each that is over makes room for one more.
        for request in &asked {
            let numbers = (1, request.seq.wrapping_add(1));
            let flags = RST | ACK;
            world.send(packet::tcp(guest_at(request.port), request.from, flags, numbers, b""));
        }
        world.settle(TURNS);
        assert_eq!(requests(&world.received()).len(), asked.len());
        assert_eq!(world.all_drops(), 0);
    });
}

/// Where others have all descriptors of the machine, nothing of the engine's own tells when there are some again.
#[test]
fn who_finds_no_descriptor_is_accepted_when_there_is_one() {
    isolated(|| {
        let rules = vec![forward(Proto::Tcp, Family::V4, 7000)];
        let mut world = known(&Setup { rules, ..Setup::default() });
        let _client = TcpStream::connect(host_at(7000)).expect("a queue");
        let limits = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..limits }).expect("lower");
        world.settle(TURNS);
        world.skip(Duration::from_millis(1020));
        world.settle(TURNS);
        assert!(world.drops(DropReason::DescriptorsExhausted) > 1, "it is tried again");
        assert_eq!(world.received().len(), 0);
        setrlimit(Resource::Nofile, limits).expect("as it was");
        world.skip(Duration::from_millis(1020));
        assert_eq!(requests(&world.frames(1))[0].port, 7000);
    });
}
