//! Datagrams that travel together: in runs from the guest, in bursts to it. Whatever is put together on
//! the way, the other end gets the datagrams that were sent, in order.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use passt::flow::fwd::Proto;
use passt::wire::l4::udp_checksum_is_right;
use passt_frame::{Caps, FramePort, GsoKind, GsoSet, MemPort};
use rustix::net::sockopt;

use crate::fragments::{Frame, whole};
use crate::guest::completed;
use crate::namespace::isolated;
use crate::packet;
use crate::world::{FAMILIES, Family, OFFLOADS, PLAIN, Setup, World, forward};

/// The guest's port.
const PORT: u16 = 5000;
/// Turns in which a few hundred datagrams are done with.
const TURNS: usize = 400;
/// MTU of the guest's link.
const MTU: u16 = 65520;
/// The largest UDP payload over IPv4.
const LARGEST: usize = 65_507;

/// A link that completes checksums and takes no USO, as most guests of vhost-user.
const NO_USO: Caps = Caps { gso: GsoSet { tcp_v4: true, tcp_v6: true, udp: false }, ..OFFLOADS };

fn at(family: Family) -> SocketAddr {
    SocketAddr::new(family.guest(), PORT)
}

fn socket(at: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(at).expect("a free port");
    socket.set_nonblocking(true).expect("fcntl");
    sockopt::set_socket_recv_buffer_size(&socket, 4 << 20).expect("setsockopt");
    socket
}

/// Datagram number `index` of `len` bytes.
fn datagram(index: usize, len: usize) -> Vec<u8> {
    (0..len).map(|byte| (index * 31 + byte) as u8).collect()
}

fn datagrams(lens: &[usize]) -> Vec<Vec<u8>> {
    lens.iter().enumerate().map(|(index, &len)| datagram(index, len)).collect()
}

/// All datagrams that wait in a socket.
fn waiting(socket: &UdpSocket) -> Vec<Vec<u8>> {
    let mut bytes = vec![0; 65536];
    let mut all = Vec::new();
    loop {
        match socket.recv_from(&mut bytes) {
            Ok((len, _)) => all.push(bytes[..len].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return all,
            Err(error) => panic!("recv: {error}"),
        }
    }
}

/// The datagrams in a frame for the guest: several if it is to be segmented. Checks what can be checked.
fn inside(family: Family, (frame, meta): Frame) -> Vec<Vec<u8>> {
    let l4 = packet::l4_offset(family.guest());
    let length = usize::from(u16::from_be_bytes([frame[l4 + 4], frame[l4 + 5]]));
    let payload = frame[l4 + 8..l4 + length].to_vec();
    match meta.gso {
        None => {
            let bytes = &completed(frame, meta)[l4..l4 + length];
            let right = udp_checksum_is_right(family.host(), family.guest(), bytes);
            assert!(right && bytes[6..8] != [0, 0], "{family:?}: checksum of {length} bytes");
            vec![payload]
        }
        Some(gso) => {
            assert_eq!((gso.kind, usize::from(gso.header_len)), (GsoKind::Udp, l4 + 8));
            let size = usize::from(gso.size);
            assert!(payload.len() > size, "one datagram is no burst");
            payload.chunks(size).map(<[u8]>::to_vec).collect()
        }
    }
}

/// All datagrams that the guest has got, and in how many frames.
fn delivered(world: &mut World, family: Family) -> (Vec<Vec<u8>>, usize) {
    let frames = whole(std::iter::from_fn(|| world.port.recv()).collect(), MTU.into());
    let count = frames.len();
    (frames.into_iter().flat_map(|frame| inside(family, frame)).collect(), count)
}

/// A world with a flow between the guest and a socket of the host, and that socket.
fn flow(caps: Caps, family: Family) -> (World, UdpSocket) {
    flow_in(World::new(&Setup { caps, mtu: MTU, ..Setup::default() }), family)
}

/// The same in a world that is there.
fn flow_in(world: World, family: Family) -> (World, UdpSocket) {
    flow_of(world, family, (PORT, 9000))
}

/// A flow between these ports of the guest and of the host.
fn flow_of(mut world: World, family: Family, (port, to): (u16, u16)) -> (World, UdpSocket) {
    let host = socket(family.host_at(to));
    let from = SocketAddr::new(family.guest(), port);
    world.send(packet::udp(from, family.host_at(to), b"hello"));
    world.settle(TURNS);
    let (bytes, mut from) = (&mut [0; 16], None);
    for _ in 0..1000 {
        while let Ok((_, peer)) = host.recv_from(bytes) {
            from = Some(peer);
        }
        if from.is_some() {
            break;
        }
        world.turn(Duration::from_millis(2));
    }
    host.connect(from.expect("the first datagram")).expect("connect");
    while world.port.recv().is_some() {}
    (world, host)
}

/// The mixtures of lengths that are sent: equal ones, a shorter one in each place, a longer one,
/// empty ones, more than one call takes, and as large as they can be.
fn mixtures() -> Vec<Vec<usize>> {
    vec![
        vec![100; 3],
        vec![1400; 150],
        vec![1, 1, 1],
        vec![500, 500, 300, 500, 500],
        vec![500, 600, 600, 600, 100, 500],
        vec![0, 0, 10, 0, 10, 10],
        vec![30_000, 30_000, 30_000],
        vec![LARGEST, 8, 8, LARGEST],
        (0..100).map(|index| 200 + index % 7).collect(),
    ]
}

#[test]
fn what_the_guest_sends_in_one_go_arrives_as_it_was_sent() {
    isolated(|| {
        for family in FAMILIES {
            let (mut world, host) = flow(PLAIN, family);
            for lens in mixtures() {
                let sent = datagrams(&lens);
                for data in &sent {
                    world.send(packet::udp(at(family), family.host_at(9000), data));
                }
                world.quiet(TURNS);
                assert!(waiting(&host) == sent, "{family:?} {lens:?}");
            }
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn flows_that_take_turns_do_not_mix() {
    isolated(|| {
        let family = Family::V4;
        let hosts = [9000, 9001].map(|port| socket(family.host_at(port)));
        let mut world = World::new(&Setup { mtu: 65520, ..Setup::default() });
        let mut sent = [Vec::new(), Vec::new()];
        for index in 0..60 {
            let to = usize::from(index % 5 > 2);
            let data = datagram(index, 700);
            world.send(packet::udp(at(family), family.host_at(9000 + to as u16), &data));
            sent[to].push(data);
        }
        world.quiet(TURNS);
        for (host, sent) in hosts.iter().zip(sent) {
            assert!(waiting(host) == sent);
        }
    });
}

#[test]
fn where_the_kernel_takes_no_segments_datagrams_go_one_by_one() {
    isolated(|| {
        let family = Family::V4;
        let (mut world, host) = flow(PLAIN, family);
        // Datagrams of 3000 bytes are fragmented now, which UDP_SEGMENT does not do.
        let ip = std::process::Command::new("ip").args("link set lo mtu 1500".split(' ')).status();
        assert!(ip.expect("ip(8) runs").success());
        for _ in 0..2 {
            let sent = datagrams(&[3000; 20]);
            for data in &sent {
                world.send(packet::udp(at(family), family.host_at(9000), data));
            }
            world.quiet(TURNS);
            assert!(waiting(&host) == sent);
        }
        assert_eq!(world.all_drops(), 0);
    });
}

#[test]
fn what_the_host_sends_in_one_go_arrives_as_it_was_sent() {
    isolated(|| {
        for caps in [PLAIN, NO_USO, OFFLOADS] {
            for family in FAMILIES {
                let (mut world, host) = flow(caps, family);
                for lens in mixtures() {
                    let sent = datagrams(&lens);
                    for part in sent.chunks(50) {
                        for data in part {
                            host.send(data).expect("sent");
                        }
                        world.quiet(TURNS);
                        let (got, frames) = delivered(&mut world, family);
                        assert!(got == part, "{family:?} {caps:?} {lens:?}");
                        if lens == [1400; 150] && caps.gso.udp {
                            assert!(frames < part.len() / 2, "{frames} frames, not put together");
                        }
                    }
                }
                assert_eq!(world.all_drops(), 0);
            }
        }
    });
}

/// Sends `bytes` as datagrams of `segment` bytes that stay together.
fn send_burst(socket: &UdpSocket, bytes: &[u8], segment: i32) {
    passt::sys::socket::set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, segment)
        .expect("setsockopt");
    socket.send(bytes).expect("sent");
}

#[test]
fn a_burst_stays_one_frame_where_the_guest_takes_it() {
    isolated(|| {
        for caps in [PLAIN, NO_USO, OFFLOADS] {
            for family in FAMILIES {
                let (mut world, host) = flow(caps, family);
                for (total, segment) in [(40_000, 1400), (60_000, 1200), (130, 64), (64, 1)] {
                    let data = datagram(total, total);
                    send_burst(&host, &data, segment);
                    world.quiet(TURNS);
                    let (got, frames) = delivered(&mut world, family);
                    let sent: Vec<&[u8]> = data.chunks(segment as usize).collect();
                    assert!(got == sent, "{family:?} {caps:?} {total} {segment}");
                    assert_eq!(frames, if caps.gso.udp { 1 } else { sent.len() });
                }
                assert_eq!(world.all_drops(), 0);
            }
        }
    });
}

#[test]
fn a_burst_that_finds_room_for_a_part_waits_with_the_rest() {
    isolated(|| {
        for caps in [PLAIN, OFFLOADS] {
            let family = Family::V6;
            let (mut world, host) = flow(caps, family);
            let data = datagram(1, 42_050);
            world.port.set_room(0);
            send_burst(&host, &data, 1400);
            send_burst(&host, &data, 1400);
            world.settle(TURNS);
            let mut got = Vec::new();
            for _ in 0..70 {
                if world.port.set_room(1).room {
                    world.engine.on_link_room();
                }
                world.settle(TURNS);
                got.extend(delivered(&mut world, family).0);
            }
            let sent: Vec<&[u8]> = data.chunks(1400).chain(data.chunks(1400)).collect();
            assert_eq!(got.len(), sent.len());
            assert!(got == sent);
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn small_datagrams_wait_in_the_socket_until_the_guest_has_room() {
    isolated(|| {
        for caps in [PLAIN, OFFLOADS] {
            let family = Family::V4;
            let (mut world, host) = flow(caps, family);
            let sent = datagrams(&[900; 40]);
            // The flow has learned that datagrams are small and come in numbers.
            for data in &sent {
                host.send(data).expect("sent");
            }
            world.quiet(TURNS);
            assert!(delivered(&mut world, family).0 == sent);
            world.port.set_room(0);
            for data in &sent {
                host.send(data).expect("sent");
            }
            world.quiet(TURNS);
            let mut got = Vec::new();
            for _ in 0..sent.len() {
                if world.port.set_room(1).room {
                    world.engine.on_link_room();
                }
                world.settle(TURNS);
                got.extend(delivered(&mut world, family).0);
            }
            assert!(got == sent);
            assert_eq!(world.all_drops(), 0);
        }
    });
}

/// What the guest gets that frees its buffers as soon as it has looked at them.
fn delivered_slowly(world: &mut World, family: Family) -> Vec<Vec<u8>> {
    let frames = whole(taken_slowly(world), MTU.into());
    frames.into_iter().flat_map(|frame| inside(family, frame)).collect()
}

/// Frames of what waits for a guest that makes its buffers free once it has used all of them.
fn taken_slowly(world: &mut World) -> Vec<Frame> {
    let mut got = Vec::new();
    for _ in 0..TURNS {
        world.settle(TURNS);
        let more: Vec<Frame> = std::iter::from_fn(|| world.port.recv()).collect();
        let used = world.port.used_buffers();
        if more.is_empty() && used == 0 {
            break;
        }
        got.extend(more);
        world.port.free_buffers(used);
        if world.port.on_event(0).room {
            world.engine.on_link_room();
        }
    }
    got
}

#[test]
fn a_burst_that_is_larger_than_all_buffers_together_goes_as_datagrams() {
    isolated(|| {
        let family = Family::V4;
        for caps in [PLAIN, OFFLOADS] {
            let merged = MemPort::new(caps, 1536).with_buffers(16);
            let plain = MemPort::new(caps, 1536).with_buffers(16).plain();
            for port in [merged, plain] {
                let setup = Setup { caps, mtu: 65520, ..Setup::default() };
                let (mut world, host) = flow_in(World::on(port, &setup), family);
                let data = datagram(1, 40_300);
                for round in 0..3 {
                    // A burst makes the flow one of bursts.
                    send_burst(&host, &data[..2800], 1400);
                    let first = delivered_slowly(&mut world, family);
                    assert!(
                        first == data[..2800].chunks(1400).collect::<Vec<_>>(),
                        "{caps:?} {round}"
                    );
                    send_burst(&host, &data, 1400);
                    send_burst(&host, &data, 1300);
                    let got = delivered_slowly(&mut world, family);
                    let sent: Vec<&[u8]> = data.chunks(1400).chain(data.chunks(1300)).collect();
                    assert!(got == sent, "{caps:?} {round}: {} of {}", got.len(), sent.len());
                }
                assert_eq!(world.all_drops(), 0, "{caps:?}");
            }
        }
    });
}

#[test]
fn datagrams_that_no_buffer_holds_go_in_fragments_and_hold_up_nobody() {
    isolated(|| {
        for family in FAMILIES {
            let merged = MemPort::new(PLAIN, 1536).with_buffers(16);
            let plain = MemPort::new(PLAIN, 1526).plain();
            for (port, fits) in [(merged, 24_576), (plain, 1526)] {
                let setup = Setup { mtu: MTU, ..Setup::default() };
                let (mut world, host) = flow_in(World::on(port, &setup), family);
                let sent = datagrams(&[fits - 62, 30_000, 100, 4000, 60_000, 30_000, 30_000, 1]);
                for data in &sent {
                    host.send(data).expect("sent");
                    let frames = taken_slowly(&mut world);
                    let largest = frames.iter().map(|(frame, _)| frame.len()).max();
                    assert!(largest.is_some_and(|largest| largest <= fits), "{largest:?}");
                    assert_eq!(frames.len() > 1, data.len() > fits - 62, "{} bytes", data.len());
                    let got: Vec<_> = whole(frames, MTU.into())
                        .into_iter()
                        .flat_map(|frame| inside(family, frame))
                        .collect();
                    assert!(got == [data.clone()], "{} bytes", data.len());
                }
                assert_eq!(world.all_drops(), 0);
            }
        }
    });
}

#[test]
fn bursts_to_a_forwarded_port_reach_the_guest_whole() {
    isolated(|| {
        let family = Family::V4;
        let rules = vec![forward(Proto::Udp, family, PORT)];
        let mut world = World::new(&Setup { rules, caps: OFFLOADS, ..Setup::default() });
        world.send(packet::arp([192, 0, 2, 2], [192, 0, 2, 1]));
        world.settle(TURNS);
        while world.port.recv().is_some() {}
        let host = socket(family.host_at(9001));
        host.connect(family.host_at(PORT)).expect("connect");
        let data = datagram(3, 28_100);
        for _ in 0..3 {
            send_burst(&host, &data, 1400);
            world.quiet(TURNS);
            let (got, _) = delivered(&mut world, family);
            assert!(got == data.chunks(1400).collect::<Vec<_>>());
        }
        assert_eq!(world.engine.flow_count(), 1);
    });
}

#[test]
fn large_ones_behind_small_ones_wait_for_a_guest_that_is_short_of_buffers() {
    isolated(|| {
        let family = Family::V4;
        for caps in [PLAIN, NO_USO, OFFLOADS] {
            let setup = Setup { caps, mtu: 65520, ..Setup::default() };
            let port = MemPort::new(caps, 2200).with_buffers(20);
            let (world, host) = flow_in(World::on(port, &setup), family);
            let (mut world, other) = flow_of(world, family, (PORT + 1, 9001));
            // Small ones come together, and so as many are expected.
            for _ in 0..4 {
                for index in 0..16 {
                    host.send(&datagram(index, 100 + index)).expect("sent");
                }
                assert_eq!(delivered_slowly(&mut world, family).len(), 16);
            }
            // There is room for twenty of those, and for one of these.
            let sent = datagrams(&[100, 30_000, 200, 30_000, 30_001, 9000, 100, 40_000]);
            for one in &sent {
                host.send(one).expect("sent");
            }
            other.send(b"of another flow").expect("sent");
            world.quiet(TURNS);
            let got = delivered_slowly(&mut world, family);
            let (of_other, of_flow): (Vec<_>, Vec<_>) =
                got.into_iter().partition(|one| one == b"of another flow");
            let lens = |all: &[Vec<u8>]| all.iter().map(Vec::len).collect::<Vec<_>>();
            assert_eq!(lens(&of_flow), lens(&sent), "{caps:?}");
            assert!(of_flow == sent, "{caps:?}");
            assert_eq!((of_other.len(), world.all_drops()), (1, 0));
        }
    });
}
