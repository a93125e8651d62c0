//! A guest's frames through the whole engine, with sockets of the host in a network namespace, and time that passes as
//! the input says. Some frames are anything, some follow the protocols, and of these the streams are known: a byte of a
//! stream depends on its place alone.
//!
//! What must hold, whatever happens:
//! * every frame for the guest can be read by others (smoltcp), with the right checksums, and is not too long;
//! * no byte of a stream is wrong, in either direction;
//! * what was acknowledged was delivered, unless somebody has reset the connection;
//! * a frame that others cannot read is counted among those that were dropped;
//! * each flow has a timer, work comes to an end, and after a long silence no flow and no descriptor is left.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use passt::flow::fwd::Proto;
use passt::fuzzing::{self, Head};
use passt_frame::{FrameMeta, FramePort};
use rustix::net::sockopt;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpPacket, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv6Packet, IgmpPacket, IpAddress,
    IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, TcpPacket, UdpPacket,
};

use crate::input::Input;
use crate::packet::{self, ACK, FIN, RST, SYN};
use crate::world::{FAMILIES, Family, PLAIN, Setup, World, forward};

/// Turns after which the engine must have come to rest.
const TURNS: usize = 400;
/// Ports of the host's servers, of the rules, and of the guest's connections.
const SERVER: u16 = 8000;
const ECHO: u16 = 9000;
const FORWARDED: u16 = 7000;
const GUEST: u16 = 40000;
/// Connections that the guest has at once.
const CONNECTIONS: usize = 4;
/// The sequence number of each SYN of the guest.
const ISN: u32 = 1000;
const MTU: u16 = 1500;

/// The byte at a place of every stream, by the sequence number in front of the first one.
fn byte(at: u32) -> u8 {
    (at.wrapping_mul(0x9e37_79b1) >> 13) as u8
}

/// What the guest knows of a connection.
#[derive(Default)]
struct Conn {
    /// The first number of the engine, once it is known.
    theirs: Option<u32>,
    /// What it has acknowledged, and what it has sent.
    acked: u32,
    sent_to: u32,
    /// Somebody has reset it, or it was begun again: nothing is promised.
    broken: bool,
    /// The host's end.
    peer: Option<TcpStream>,
    accepted: u32,
    /// Bytes that the host has read, and written.
    read: u32,
    written: u32,
}

struct Play {
    world: World,
    conns: Vec<Conn>,
    servers: Vec<TcpListener>,
    echoes: Vec<UdpSocket>,
    clients: Vec<TcpStream>,
    /// First numbers of connections from outside, by the guest's view of both ports.
    inbound: BTreeMap<(u16, u16, bool), u32>,
    last: Vec<u8>,
    /// Drops that were counted, and those that must be since then.
    due: u64,
}

/// Families take turns.
fn family(index: usize) -> Family {
    FAMILIES[index % 2]
}

pub fn run(data: &[u8]) {
    let free = lowest_descriptor();
    let mut play = Play::new();
    let mut input = Input(data);
    while !input.is_empty() {
        play.op(&mut input);
        play.rest();
    }
    play.end();
    drop(play);
    assert_eq!(lowest_descriptor(), free, "descriptors are left");
}

/// The next descriptor that the kernel gives, which tells of those that were not closed.
fn lowest_descriptor() -> i32 {
    use std::os::fd::AsRawFd;
    rustix::io::dup(std::io::stderr()).expect("a duplicate").as_raw_fd()
}

impl Play {
    fn new() -> Self {
        let rules = [Proto::Tcp, Proto::Udp]
            .into_iter()
            .flat_map(|proto| FAMILIES.map(|family| forward(proto, family, FORWARDED)))
            .collect();
        let setup =
            Setup { caps: PLAIN, mtu: MTU, rules, max_descriptors: 512, ..Setup::default() };
        let mut world = World::new(&setup);
        let servers = (0..CONNECTIONS).map(|index| {
            let listener = TcpListener::bind(family(index).host_at(SERVER + index as u16));
            let listener = listener.expect("a free port");
            listener.set_nonblocking(true).expect("fcntl");
            listener
        });
        let echoes = FAMILIES.map(|family| {
            let socket = UdpSocket::bind(family.host_at(ECHO)).expect("a free port");
            socket.set_nonblocking(true).expect("fcntl");
            socket
        });
        let servers = servers.collect();
        world.send(packet::arp([192, 0, 2, 2], [192, 0, 2, 1]));
        world.send(packet::advertisement(Family::V6.guest()));
        let mut play = Self {
            world,
            conns: (0..CONNECTIONS).map(|_| Conn::default()).collect(),
            servers,
            echoes: echoes.into(),
            clients: Vec::new(),
            inbound: BTreeMap::new(),
            last: Vec::new(),
            due: 0,
        };
        play.rest();
        play
    }

    /// One thing that happens.
    fn op(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0..6 => self.segment(input),
            6 => self.datagram(input),
            7 => self.template(input),
            8 => self.anything(input),
            9 => self.pieces(input),
            10 => self.again(input),
            11 => self.pass(input),
            12 => self.host_writes(input),
            13 => self.host_ends(input),
            14 => self.from_outside(input),
            _ => self.link(input),
        }
    }

    /// A segment of one of the guest's own connections. Its numbers may be wrong, its bytes are right for them.
    fn segment(&mut self, input: &mut Input<'_>) {
        let index = usize::from(input.u8()) % CONNECTIONS;
        let flags = match input.u8() {
            0..60 => SYN,
            60..160 => ACK,
            160..200 => ACK | FIN,
            200..208 => RST,
            208..216 => RST | ACK,
            flags => flags & !SYN,
        };
        let conn = &mut self.conns[index];
        let near = |input: &mut Input<'_>, at: u32| match input.u8() {
            0..180 => at,
            180..200 => at.wrapping_sub(u32::from(input.u8())),
            200..230 => at.wrapping_add(u32::from(input.u16())),
            _ => input.u32(),
        };
        let seq = if flags == SYN { ISN } else { near(input, conn.sent_to.max(ISN + 1)) };
        let ack = near(input, conn.theirs.unwrap_or(0).wrapping_add(1 + conn.written));
        let len = if flags & (SYN | RST) == 0 { u32::from(input.u16()) % 1400 } else { 0 };
        let payload: Vec<u8> = (0..len).map(|at| byte(seq.wrapping_add(at))).collect();
        conn.broken |=
            flags & RST != 0 || flags & 0x22 == 0x20 || (flags == SYN && conn.sent_to > 0);
        conn.sent_to = conn.sent_to.max(ISN + 1);
        if seq == conn.sent_to {
            conn.sent_to = conn.sent_to.wrapping_add(len).min(1 << 30);
        }
        let family = family(index);
        let from = SocketAddr::new(family.guest(), GUEST + index as u16);
        let to = family.host_at(SERVER + index as u16);
        self.send(packet::tcp(from, to, flags, (seq, ack), &payload));
    }

    fn datagram(&mut self, input: &mut Input<'_>) {
        let family = family(usize::from(input.u8()));
        let from = SocketAddr::new(family.guest(), 5000 + u16::from(input.u8() % 4));
        let to = match input.u8() {
            0..128 => family.host_at(ECHO),
            128..160 => family.host_at(u16::from(input.u8())),
            160..200 => SocketAddr::new(family.gateway(), ECHO),
            _ => SocketAddr::new(self.anybody(input, family), input.u16()),
        };
        let len = usize::from(input.u16()) % 1472;
        self.send(packet::udp(from, to, &vec![input.u8(); len]));
    }

    fn anybody(&self, input: &mut Input<'_>, family: Family) -> IpAddr {
        match family {
            Family::V4 => input.u32().to_be_bytes().into(),
            Family::V6 => {
                (u128::from(input.u64()) << 64 | u128::from(input.u64())).to_be_bytes().into()
            }
        }
    }

    /// A message of a protocol that somebody answers, with some bytes that are others.
    fn template(&mut self, input: &mut Input<'_>) {
        let family = family(usize::from(input.u8()));
        let (guest, gateway, v6) = (family.guest(), family.gateway(), Family::V6.guest());
        let mut frame = match input.u8() % 8 {
            0 => packet::arp([192, 0, 2, 2], [192, 0, 2, input.u8()]),
            1 => packet::discover(),
            2 => packet::solicit(),
            3 => packet::router_solicitation("fe80::5".parse().expect("an address")),
            4 => packet::solicitation(v6, Family::V6.gateway()),
            5 => packet::advertisement(v6),
            6 => packet::echo(guest, gateway, input.u16(), input.u16(), input.piece()),
            _ => packet::echo(guest, family.host(), input.u16(), 1, input.piece()),
        };
        self.change(input, &mut frame);
        self.send_foreign(frame);
    }

    /// Writes over some bytes.
    fn change(&self, input: &mut Input<'_>, frame: &mut Vec<u8>) {
        for _ in 0..input.u8() & 7 {
            let at = usize::from(input.u16()) % frame.len().max(1);
            if let Some(byte) = frame.get_mut(at) {
                *byte = input.u8();
            }
        }
    }

    fn anything(&mut self, input: &mut Input<'_>) {
        let kind = input.pick(&[0x0800, 0x86dd, 0x0806, 0x8100]);
        let frame = packet::ethernet(kind, input.piece());
        self.send_foreign(frame);
    }

    /// An IPv4 or IPv6 datagram in fragments, some of which may be missing.
    fn pieces(&mut self, input: &mut Input<'_>) {
        let family = family(usize::from(input.u8()));
        let (to, id, order) = (family.host_at(ECHO), u32::from(input.u8() & 3), input.u8());
        let len = usize::from(input.u16()) % 4000;
        let message = packet::udp_message(5001, to.port(), &vec![0x77; len]);
        let step = (usize::from(input.u8()) % 64 + 1) * 8;
        let mut frames: Vec<Vec<u8>> = (0..message.len())
            .step_by(step)
            .map(|at| {
                let part = &message[at..message.len().min(at + step)];
                fragment(family, to.ip(), id, (at, at + step < message.len()), part)
            })
            .collect();
        if order & 1 != 0 {
            frames.reverse();
        }
        if order & 2 != 0 {
            frames.pop();
        }
        for frame in frames {
            self.send_foreign(frame);
        }
    }

    /// The last frame once more, changed.
    fn again(&mut self, input: &mut Input<'_>) {
        let mut frame = self.last.clone();
        self.change(input, &mut frame);
        let len = usize::from(input.u8());
        if len & 1 != 0 {
            frame.truncate(frame.len().saturating_sub(len));
        }
        self.send_foreign(frame);
    }

    fn pass(&mut self, input: &mut Input<'_>) {
        let time = Duration::from_millis(1 << (input.u8() % 22));
        self.world.skip(time);
        self.world.turn(Duration::ZERO);
    }

    fn host_writes(&mut self, input: &mut Input<'_>) {
        let conn = &mut self.conns[usize::from(input.u8()) % CONNECTIONS];
        let len = u32::from(input.u16()) % 20_000;
        let (Some(peer), Some(isn)) = (&mut conn.peer, conn.theirs) else { return };
        let first = isn.wrapping_add(1).wrapping_add(conn.written);
        let bytes: Vec<u8> = (0..len).map(|at| byte(first.wrapping_add(at))).collect();
        if let Ok(written) = peer.write(&bytes) {
            conn.written += written as u32;
        }
    }

    fn host_ends(&mut self, input: &mut Input<'_>) {
        let conn = &mut self.conns[usize::from(input.u8()) % CONNECTIONS];
        let Some(peer) = &conn.peer else { return };
        if input.u8() < 128 {
            let _ = peer.shutdown(Shutdown::Write);
        } else {
            conn.broken = true;
            conn.peer = None;
        }
    }

    /// A connection or a datagram to a port that is forwarded, and the guest's answer.
    fn from_outside(&mut self, input: &mut Input<'_>) {
        let family = family(usize::from(input.u8()));
        let to = family.host_at(FORWARDED);
        match input.u8() {
            0..100 if self.clients.len() < 8 => {
                let Ok(client) = TcpStream::connect(to) else { return };
                let _ = client.set_nonblocking(true);
                self.clients.push(client);
            }
            100..128 => drop(self.clients.pop()),
            128..200 => drop(self.echoes[usize::from(family == Family::V6)].send_to(&[1; 64], to)),
            _ => {
                let key = self.inbound.keys().nth(usize::from(input.u8() % 8)).copied();
                let Some(key @ (theirs, ours, v4)) = key else { return };
                let family = FAMILIES[usize::from(!v4)];
                let (from, to) =
                    (SocketAddr::new(family.guest(), ours), SocketAddr::new(family.host(), theirs));
                let ack = self.inbound[&key].wrapping_add(1 + u32::from(input.u8() & 1));
                let flags = input.pick(&[SYN | ACK, ACK, ACK | FIN, RST, RST | ACK]);
                let seq = if flags & SYN != 0 { ISN } else { ISN + 1 + u32::from(input.u8() & 3) };
                self.send_foreign(packet::tcp(from, to, flags, (seq, ack), &[]));
            }
        }
    }

    fn link(&mut self, input: &mut Input<'_>) {
        match input.u8() % 6 {
            0 => drop(self.world.port.set_room(usize::from(input.u8() % 8))),
            1 => {
                self.world.port.set_room(usize::MAX);
                self.world.engine.on_link_room();
            }
            2 => {
                let (_, out) = self.world.port.halves();
                self.world.engine.on_link_up(out);
            }
            3 => self.world.engine.on_link_closed(),
            4 => {
                self.world.engine.on_guest_set_back();
                self.conns.iter_mut().for_each(|conn| conn.broken = true);
            }
            _ => self.world.port.cut_at(usize::from(input.u8())),
        }
    }

    fn dropped(&self) -> u64 {
        self.world.engine.drops().map(|(_, drops)| drops).sum()
    }

    fn send(&mut self, frame: Vec<u8>) {
        self.last.clone_from(&frame);
        self.due += u64::from(is_unreadable(&frame));
        self.world.port.send(frame, FrameMeta::default());
    }

    /// Sends a frame that follows no rules, unless it would write bytes into a stream that is known.
    fn send_foreign(&mut self, frame: Vec<u8>) {
        let known = |port: u16| (SERVER..SERVER + CONNECTIONS as u16).contains(&port);
        let head = fuzzing::head(&frame, frame.len() as u32);
        let part = matches!(head, Ok(Head::Ip(ip, Some(_))) if ip.protocol == 6);
        let l4 = fuzzing::l4(&frame, frame.len() as u32);
        if part || l4.is_ok_and(|l4| l4.tcp.is_some() && known(l4.destination)) {
            return;
        }
        self.send(frame);
    }

    /// Lets the engine do what there is, and everybody see what came of it.
    fn rest(&mut self) {
        self.world.settle(TURNS);
        for frame in self.world.received() {
            self.check(&frame);
        }
        for (conn, server) in self.conns.iter_mut().zip(&self.servers) {
            conn.serve(server);
        }
        for echo in &self.echoes {
            let mut bytes = [0; 2048];
            while let Ok((len, from)) = echo.recv_from(&mut bytes) {
                let _ = echo.send_to(&bytes[..len], from);
            }
        }
        self.world.settle(TURNS);
        for frame in self.world.received() {
            self.check(&frame);
        }
        assert!(self.world.engine.all_flows_have_timers(), "a flow has no timer");
        let dropped = self.dropped();
        assert!(dropped >= self.due, "{} frames are wrong, {dropped} dropped", self.due);
        self.due = dropped;
    }

    /// A frame for the guest.
    fn check(&mut self, frame: &[u8]) {
        // The guest announces the same maximum segment size in both families, and gets what it asks for.
        let segment =
            frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(20) == Some(&packet::TCP);
        let most = usize::from(MTU) + 14 + if segment { 20 } else { 0 };
        assert!(frame.len() <= most, "{} bytes", frame.len());
        let ethernet = EthernetFrame::new_checked(frame).expect("a header");
        match ethernet.ethertype() {
            EthernetProtocol::Arp => {
                ArpPacket::new_checked(ethernet.payload()).expect("a whole message");
            }
            EthernetProtocol::Ipv4 => {
                let ip = Ipv4Packet::new_checked(ethernet.payload()).expect("a whole packet");
                Ipv4Repr::parse(&ip, &ChecksumCapabilities::default()).expect("a right packet");
                if ip.more_frags() || ip.frag_offset() != 0 {
                    return;
                }
                let ends = (ip.src_addr().into(), ip.dst_addr().into());
                self.above(ip.next_header(), ends, ip.payload());
            }
            EthernetProtocol::Ipv6 => {
                let ip = Ipv6Packet::new_checked(ethernet.payload()).expect("a whole packet");
                let ends = (ip.src_addr().into(), ip.dst_addr().into());
                self.above(ip.next_header(), ends, ip.payload());
            }
            EthernetProtocol::Unknown(kind) => panic!("a frame of type {kind:#x}"),
        }
    }

    fn above(&mut self, protocol: IpProtocol, (from, to): (IpAddress, IpAddress), bytes: &[u8]) {
        match protocol {
            IpProtocol::Tcp => {
                let tcp = TcpPacket::new_checked(bytes).expect("a whole segment");
                assert!(tcp.verify_checksum(&from, &to), "a wrong checksum of TCP");
                self.on_segment(&tcp, matches!(from, IpAddress::Ipv4(_)));
            }
            IpProtocol::Udp => {
                let udp = UdpPacket::new_checked(bytes).expect("a whole datagram");
                assert!(udp.verify_checksum(&from, &to), "a wrong checksum of UDP");
            }
            IpProtocol::Icmp => {
                let icmp = Icmpv4Packet::new_checked(bytes).expect("a whole message");
                assert!(icmp.verify_checksum(), "a wrong checksum of ICMP");
            }
            IpProtocol::Icmpv6 => {
                let (IpAddress::Ipv6(from), IpAddress::Ipv6(to)) = (from, to) else {
                    panic!("ICMPv6 over IPv4")
                };
                let icmp = Icmpv6Packet::new_checked(bytes).expect("a whole message");
                assert!(icmp.verify_checksum(&from, &to), "a wrong checksum of ICMPv6");
            }
            IpProtocol::Igmp => {
                let igmp = IgmpPacket::new_checked(bytes).expect("a whole message");
                assert!(igmp.verify_checksum(), "a wrong checksum of IGMP");
            }
            // Questions about groups have a router alert in front.
            IpProtocol::HopByHop => {
                let len = 8 * (usize::from(bytes[1]) + 1);
                self.above(IpProtocol::from(bytes[0]), (from, to), &bytes[len..]);
            }
            IpProtocol::Ipv6Frag => {}
            other => panic!("protocol {other}"),
        }
    }

    fn on_segment(&mut self, tcp: &TcpPacket<&[u8]>, v4: bool) {
        let (seq, ack) = (tcp.seq_number().0 as u32, tcp.ack_number().0 as u32);
        if tcp.syn() && !tcp.ack() {
            self.inbound.insert((tcp.src_port(), tcp.dst_port(), v4), seq);
        }
        let index = usize::from(tcp.dst_port().wrapping_sub(GUEST));
        if index >= CONNECTIONS || tcp.src_port() != SERVER + index as u16 {
            return;
        }
        let conn = &mut self.conns[index];
        if tcp.syn() {
            conn.broken |= conn.theirs.is_some_and(|isn| isn != seq);
            conn.theirs = Some(seq);
        }
        conn.broken |= tcp.rst();
        if tcp.ack() && !tcp.rst() {
            conn.acked = conn.acked.max(ack.wrapping_sub(ISN + 1).min(1 << 30));
        }
        if conn.broken {
            return;
        }
        for (at, got) in tcp.payload().iter().enumerate() {
            let expected = byte(seq.wrapping_add(at as u32));
            assert_eq!(*got, expected, "a wrong byte for the guest, {at} behind {seq}");
        }
    }

    /// Everybody reads what there is, and then says nothing for longer than any timer.
    fn end(&mut self) {
        self.world.port.set_room(usize::MAX);
        self.world.engine.on_link_room();
        self.rest();
        for conn in &self.conns {
            conn.check_delivery();
        }
        self.clients.clear();
        for _ in 0..64 {
            self.world.skip(Duration::from_secs(4 * 3600));
            self.world.turn(Duration::ZERO);
            self.rest();
            if self.world.engine.flow_count() == 0 {
                return;
            }
        }
        panic!("{} flows go on for ever", self.world.engine.flow_count());
    }
}

impl Conn {
    /// The host's server accepts, and reads all that has come.
    fn serve(&mut self, server: &TcpListener) {
        while let Ok((peer, _)) = server.accept() {
            let _ = peer.set_nonblocking(true);
            let _ = sockopt::set_socket_linger(&peer, Some(Duration::ZERO));
            self.accepted += 1;
            (self.read, self.written) = (0, 0);
            self.broken |= self.accepted > 1;
            self.peer = Some(peer);
        }
        let Some(peer) = &mut self.peer else { return };
        let mut bytes = [0; 16384];
        loop {
            match peer.read(&mut bytes) {
                Ok(0) => return,
                Ok(len) => {
                    for got in &bytes[..len] {
                        let expected = byte((ISN + 1).wrapping_add(self.read));
                        assert_eq!(*got, expected, "a wrong byte for the host at {}", self.read);
                        self.read += 1;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// The end of the stream counts as one.
    fn check_delivery(&self) {
        if !self.broken && self.peer.is_some() {
            let (acked, read) = (self.acked, self.read);
            assert!(acked <= read + 1, "{acked} bytes were acknowledged, {read} delivered");
        }
    }
}

/// Whether nobody can read this far enough to know who it is for.
fn is_unreadable(frame: &[u8]) -> bool {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return true };
    match ethernet.ethertype() {
        EthernetProtocol::Arp => ArpPacket::new_checked(ethernet.payload()).is_err(),
        EthernetProtocol::Ipv4 => Ipv4Packet::new_checked(ethernet.payload()).is_err(),
        EthernetProtocol::Ipv6 => Ipv6Packet::new_checked(ethernet.payload()).is_err(),
        EthernetProtocol::Unknown(_) => true,
    }
}

/// A fragment of a UDP datagram.
fn fragment(
    family: Family,
    to: IpAddr,
    id: u32,
    (at, more): (usize, bool),
    part: &[u8],
) -> Vec<u8> {
    if family == Family::V4 {
        let mut frame = packet::ip(family.guest(), to, packet::UDP, 64, part);
        frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        let word = (at / 8) as u16 | if more { 0x2000 } else { 0 };
        frame[20..22].copy_from_slice(&word.to_be_bytes());
        return frame;
    }
    let word = at as u16 | u16::from(more);
    let mut payload = vec![packet::UDP, 0];
    payload.extend(word.to_be_bytes());
    payload.extend(id.to_be_bytes());
    payload.extend(part);
    packet::ip(family.guest(), to, 44, 64, &payload)
}
