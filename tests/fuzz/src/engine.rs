//! A guest's frames through the whole engine, with sockets of the host in a network namespace, and time that passes as
//! the input says. Some frames are anything, some follow the protocols, and of these the streams are known: a byte of a
//! stream depends on its place alone.
//!
//! What must hold, whatever happens:
//! * every frame for the guest can be read by others (smoltcp), with the right checksums, and is not too long;
//! * no byte of a stream is wrong, in either direction;
//! * what was acknowledged was delivered, unless somebody has reset the connection;
//! * a frame that others cannot read is counted among those that were dropped;
//! * a datagram for who answers comes there, whole, or is counted; and so is the answer on its way back;
//! * on a link that allocates nothing, nothing is allocated, but what a connection knows of losses once it has any;
//! * each flow has a timer, work comes to an end, and after a long silence no flow and no descriptor is left.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use passt::flow::fwd::Proto;
use passt::fuzzing::{self, Head};
use passt_frame::{FrameMeta, GsoKind, MemPort};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpPacket, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv6Packet, IgmpPacket, IpAddress,
    IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, TcpPacket, UdpPacket,
};

use crate::ends::{Conn, Datagrams, ISN, MTU, byte};
use crate::frames;
use crate::input::Input;
use crate::links::{self, Choice, Playground};
use crate::packet::{self, ACK, FIN, RST, SYN};
use crate::slot_port::SlotPort;
use crate::world::{FAMILIES, Family, Setup, World, forward};

/// Turns after which the engine must have come to rest.
const TURNS: usize = 400;
/// Ports of the host's servers, of the rules, and of the guest's connections.
const SERVER: u16 = 8000;
const ECHO: u16 = 9000;
const FORWARDED: u16 = 7000;
const GUEST: u16 = 40000;
/// Connections that the guest has at once.
const CONNECTIONS: usize = 4;

struct Play<P: Playground> {
    world: World<P>,
    conns: Vec<Conn>,
    servers: Vec<TcpListener>,
    echoes: Vec<UdpSocket>,
    clients: Vec<TcpStream>,
    /// First numbers of connections from outside, by the guest's view of both ports.
    inbound: BTreeMap<(u16, u16, bool), u32>,
    last: Vec<u8>,
    /// Drops that were counted, and those that must be since then.
    due: u64,
    datagrams: Datagrams,
}

/// Families take turns.
fn family(index: usize) -> Family {
    FAMILIES[index % 2]
}

pub fn run(data: &[u8]) {
    let choice = Choice::of(data);
    match choice {
        Choice::Plain | Choice::Offloads => play::<MemPort>(data, choice),
        Choice::Slots => play::<SlotPort>(data, choice),
    }
}

fn play<P: Playground>(data: &[u8], choice: Choice) {
    let free = lowest_descriptor();
    let mut play = Play::<P>::new(choice);
    let mut input = Input(data);
    while !input.is_empty() {
        play.op(&mut input);
        play.rest();
    }
    play.end();
    play.into_link().keep();
    assert_eq!(lowest_descriptor(), free, "descriptors are left");
}

/// The next descriptor that the kernel gives, which tells of those that were not closed.
fn lowest_descriptor() -> i32 {
    use std::os::fd::AsRawFd;
    rustix::io::dup(std::io::stderr()).expect("a duplicate").as_raw_fd()
}

impl<P: Playground> Play<P> {
    fn new(choice: Choice) -> Self {
        let rules = [Proto::Tcp, Proto::Udp]
            .into_iter()
            .flat_map(|proto| FAMILIES.map(|family| forward(proto, family, FORWARDED)))
            .collect();
        let caps = choice.caps();
        let setup = Setup { caps, mtu: MTU, rules, max_descriptors: 512, ..Setup::default() };
        let mut world = World::on(P::make(caps), &setup);
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
            datagrams: Datagrams { room: true, ..Datagrams::default() },
        };
        play.rest();
        play
    }

    /// The link; everything else has gone.
    fn into_link(self) -> P {
        self.world.port
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
            14 => self.come_from_outside(input),
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
        let (len, fill) = (usize::from(input.u16()) % 1472, input.u8());
        if to == family.host_at(ECHO) {
            self.datagrams.asked = Some((len, fill));
        }
        self.send(packet::udp(from, to, &vec![fill; len]));
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
    fn change(&self, input: &mut Input<'_>, frame: &mut [u8]) {
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
                frames::fragment(family, to.ip(), id, (at, at + step < message.len()), part)
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
    fn come_from_outside(&mut self, input: &mut Input<'_>) {
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
            0 => self.datagrams.room = !self.world.port.limit(usize::from(input.u8() % 8)),
            1 => self.give_room(),
            2 => {
                let (_, out) = self.world.port.halves();
                self.world.engine.on_link_up(out);
            }
            3 => self.world.engine.on_link_closed(),
            4 => {
                self.world.engine.on_guest_set_back();
                self.conns.iter_mut().for_each(|conn| conn.broken = true);
            }
            _ => self.world.port.cut(usize::from(input.u8())),
        }
    }

    fn give_room(&mut self) {
        self.world.port.limit(usize::MAX);
        self.world.engine.on_link_room();
        self.datagrams.room = true;
    }

    fn dropped(&self) -> u64 {
        self.world.engine.drops().map(|(_, drops)| drops).sum()
    }

    fn send(&mut self, frame: Vec<u8>) {
        self.last.clone_from(&frame);
        self.due += u64::from(frames::is_unreadable(&frame));
        self.world.send(frame);
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
        self.receive();
        for (conn, server) in self.conns.iter_mut().zip(&self.servers) {
            conn.serve(server);
        }
        self.datagrams.got = 0;
        self.datagrams.answer(&self.echoes);
        self.world.settle(TURNS);
        self.receive();
        self.balance();
        assert!(self.world.engine.all_flows_have_timers(), "a flow has no timer");
        let dropped = self.dropped();
        assert!(dropped >= self.due, "{} frames are wrong, {dropped} dropped", self.due);
        self.due = dropped;
    }

    /// Datagrams that nobody has counted as dropped have arrived.
    fn balance(&mut self) {
        let dropped = self.dropped();
        let Datagrams { dropped: before, asked, heard, answers, got, room } = self.datagrams;
        let lost = u64::from(asked.is_some() && !heard);
        let unanswered = if room { answers.saturating_sub(got) } else { 0 };
        assert!(
            lost + unanswered <= dropped - before,
            "{lost} datagrams are lost, {unanswered} answers, and {} were counted",
            dropped - before
        );
        self.datagrams = Datagrams { dropped, room, ..Datagrams::default() };
        if P::ALLOCATES_NOTHING {
            let (made, connections) =
                (self.world.allocations, self.world.engine.connections_begun());
            assert!(made <= connections, "{made} allocations, {connections} connections");
        }
    }

    /// Frames for the guest.
    fn receive(&mut self) {
        while let Some((frame, meta)) = self.world.port.guest_receives() {
            self.check(&links::completed(frame, meta), meta);
        }
    }

    fn check(&mut self, frame: &[u8], meta: FrameMeta) {
        // The guest announces the same maximum segment size in both families, and gets what it asks for.
        let segment =
            frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(20) == Some(&packet::TCP);
        let each = usize::from(MTU) + 14 + if segment { 20 } else { 0 };
        let most = if meta.gso.is_some() { usize::from(u16::MAX) + 14 } else { each };
        assert!(frame.len() <= most, "{} bytes", frame.len());
        if let Some(gso) = meta.gso {
            assert!(usize::from(gso.header_len + gso.size) <= each, "{gso:?}");
            if gso.kind == GsoKind::Udp {
                return; // Others take it for one datagram.
            }
        }
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
                self.datagrams.got += u64::from(udp.src_port() == ECHO);
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
        self.give_room();
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
