//! The engine on a link in memory, with real host sockets, and a clock that can be moved on: the real
//! one plus what was skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use passt::engine::{
    Engine, HostChange, NetView, Settings, Source, Sources, Token, UdpTimeouts, monotonic_now,
};
use passt::flow::fwd::{ListenAddr, Mapping, Policy, Proto, Rule, RuleTable};
use passt::flow::network::{Ipv4Net, Ipv6Net, Mac, Network};
use passt::flow::tcp::TcpConfig;
use passt::pcap::Capture;
use passt::responder::dhcpv6::Duid;
use passt::sys::stream;
use passt::time::Timestamp;
use passt::wire::DropReason;
use passt_frame::{Caps, FrameMeta, FramePort, FromGuestBatch, GsoSet, MemPort};
use passt_support::heap;
use rustix::event::{Timespec, epoll};

use crate::namespace::{HOST_V4, HOST_V6};
use crate::packet;

/// The guest's Ethernet address.
pub const GUEST_MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

/// Bytes of one receive buffer of the guest.
const BUFFER_BYTES: usize = 4096;

/// The longest that the loopback device is expected to hold a packet back.
const DELIVERY: Duration = Duration::from_millis(2);

/// Turns after which what did not come does not come.
const PATIENCE: usize = 2000;

/// Which family a test runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    /// The guest's address.
    pub fn guest(self) -> IpAddr {
        self.of(Ipv4Addr::new(192, 0, 2, 2), "2001:db8::2")
    }

    /// The gateway's address, which stands for the host's loopback.
    pub fn gateway(self) -> IpAddr {
        self.of(Ipv4Addr::new(192, 0, 2, 1), "2001:db8::1")
    }

    /// The host's own address.
    pub fn host(self) -> IpAddr {
        let text = if self == Self::V4 { HOST_V4 } else { HOST_V6 };
        text.parse().expect("an address")
    }

    /// The host's own address and a port.
    pub fn host_at(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.host(), port)
    }

    pub fn of(self, v4: Ipv4Addr, v6: &str) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.parse::<Ipv6Addr>().expect("an address").into(),
        }
    }
}

/// A link without offloads.
pub const PLAIN: Caps = Caps {
    partial_checksum: false,
    gso: GsoSet { tcp_v4: false, tcp_v6: false, udp: false },
    up: true,
};

/// A link with all of them.
pub const OFFLOADS: Caps = Caps {
    partial_checksum: true,
    gso: GsoSet { tcp_v4: true, tcp_v6: true, udp: true },
    up: true,
};

/// What a world is made of.
pub struct Setup {
    pub caps: Caps,
    pub mtu: u16,
    pub rules: Vec<Rule>,
    pub map: Mapping,
    pub max_descriptors: u64,
    /// `SO_PEEK_OFF` is used where the kernel has it.
    pub peek_offset: bool,
    /// The most that the guest may have under way on a connection.
    pub window_max: u32,
    /// How long UDP flows may be silent.
    pub udp: UdpTimeouts,
    /// First and last port that the host gives to sockets that do not choose.
    pub ephemeral: (u16, u16),
}

impl Default for Setup {
    fn default() -> Self {
        let rules = Vec::new();
        Self {
            caps: PLAIN,
            mtu: 1500,
            rules,
            map: mapping(),
            max_descriptors: 4096,
            peek_offset: true,
            window_max: TcpConfig::default().window_max,
            udp: UdpTimeouts::default(),
            ephemeral: (32768, 60999),
        }
    }
}

/// A rule that forwards one port of the host's own addresses to the same port of the guest.
pub fn forward(proto: Proto, family: Family, port: u16) -> Rule {
    let listen = match family.host() {
        IpAddr::V4(v4) => ListenAddr::V4(v4),
        IpAddr::V6(v6) => ListenAddr::V6(v6),
    };
    Rule { listen, ..Rule::plain(proto, (port, port), port) }
}

/// What the guest is told.
pub fn network(mtu: u16) -> Network {
    let v6 = |text: &str| text.parse::<Ipv6Addr>().expect("an address");
    let v4 = Some(Ipv4Net {
        addr: Ipv4Addr::new(192, 0, 2, 2),
        prefix_len: 24,
        gateway: Some(Ipv4Addr::new(192, 0, 2, 1)),
        fixed: false,
        dns: [Ipv4Addr::new(192, 0, 2, 53)].into_iter().collect(),
        routes: None,
    });
    let v6 = Some(Ipv6Net {
        addr: Some(v6("2001:db8::2")),
        gateway: Some(v6("2001:db8::1")),
        our_link_local: v6("fe80::fc"),
        fixed: false,
        dns: Default::default(),
        default_router: true,
        scope_id: 1,
    });
    Network { mtu, ..Network::new(v4, v6) }
}

/// Mappings: the gateway stands for the host's loopback.
pub fn mapping() -> Mapping {
    let mut map = Mapping::default();
    map.v4.host_loopback = Some(Ipv4Addr::new(192, 0, 2, 1));
    map.v6.host_loopback = Some("2001:db8::1".parse().expect("an address"));
    map
}

/// What the operator decides, for a guest without a namespace of this host.
pub fn view(network: Network, map: Mapping, inbound: RuleTable) -> NetView {
    NetView { network, map, inbound, outbound: RuleTable::default(), egress: Policy::default() }
}

/// An engine as `setup` says, watching its sockets with `epoll`.
pub fn engine(setup: &Setup, epoll: Rc<OwnedFd>) -> Engine {
    let net = network(setup.mtu);
    let mut rules = RuleTable::default();
    for rule in &setup.rules {
        rules.add(*rule, &net).expect("a valid rule");
    }
    let settings = Settings {
        tcp: TcpConfig { window_max: setup.window_max, ..TcpConfig::default() },
        peek_offset_v4: setup.peek_offset && stream::has_peek_offset(true),
        peek_offset_v6: setup.peek_offset && stream::has_peek_offset(false),
        udp: setup.udp,
        ephemeral: setup.ephemeral,
        max_descriptors: setup.max_descriptors,
        ..Settings::default()
    };
    let duid = Duid::new(Mac::OURS);
    let view = view(net, setup.map.clone(), rules);
    let mut engine = Engine::new(epoll, view, settings, [7; 16], duid, monotonic_now());
    engine.listen().expect("the ports are free");
    engine
}

/// The guest's end of a link.
pub trait GuestEnd {
    /// The guest sends a frame.
    fn guest_sends(&mut self, frame: Vec<u8>, meta: FrameMeta);

    /// The guest takes the next frame.
    fn guest_receives(&mut self) -> Option<(Vec<u8>, FrameMeta)>;
}

/// A link with its guest's end.
pub trait BothEnds: FramePort + GuestEnd {}

impl<P: FramePort + GuestEnd> BothEnds for P {}

impl GuestEnd for MemPort {
    fn guest_sends(&mut self, frame: Vec<u8>, meta: FrameMeta) {
        self.send(frame, meta);
    }

    fn guest_receives(&mut self) -> Option<(Vec<u8>, FrameMeta)> {
        self.recv()
    }
}

/// An engine, its link, its clock.
pub struct World<P: BothEnds = MemPort> {
    pub engine: Engine,
    pub port: P,
    batch: FromGuestBatch,
    epoll: Rc<OwnedFd>,
    events: Vec<epoll::Event>,
    sources: Sources,
    skipped: Duration,
    /// Allocations that turns have made.
    pub allocations: usize,
}

impl World {
    /// A world on a [`MemPort`].
    pub fn new(setup: &Setup) -> Self {
        Self::on(MemPort::new(setup.caps, BUFFER_BYTES), setup)
    }
}

impl<P: BothEnds> World<P> {
    /// The guest sends a frame without offloads.
    pub fn send(&mut self, frame: Vec<u8>) {
        self.port.guest_sends(frame, FrameMeta::default());
    }

    /// A connection of the guest's `from` to `listener` at `to`, made of frames: the number that the guest is to
    /// acknowledge, and the other end. The guest has said nothing about the answer yet.
    pub fn open(
        &mut self,
        listener: &TcpListener,
        (from, to): (SocketAddr, SocketAddr),
    ) -> (u32, TcpStream) {
        self.send(packet::tcp(from, to, packet::SYN, (1000, 0), &[]));
        let answer = self.frames(1).remove(0);
        let at = packet::l4_offset(from.ip()) + 4;
        let isn = u32::from_be_bytes(answer[at..at + 4].try_into().expect("four bytes"));
        let (peer, _) = listener.accept().expect("connected");
        (isn + 1, peer)
    }

    /// All frames that the guest has got.
    pub fn received(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.port.guest_receives()).map(|(frame, _)| frame).collect()
    }

    /// Turns until the guest has got `count` frames, and nothing is left to do.
    pub fn frames(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for _ in 0..PATIENCE {
            self.turn(DELIVERY);
            frames.extend(self.received());
            if frames.len() >= count {
                self.settle(PATIENCE);
                frames.extend(self.received());
                break;
            }
        }
        assert_eq!(frames.len(), count, "frames for the guest");
        frames
    }

    /// A world on `port`.
    pub fn on(port: P, setup: &Setup) -> Self {
        let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance"));
        Self {
            engine: engine(setup, epoll.clone()),
            port,
            batch: FromGuestBatch::new(),
            sources: Sources::new(epoll.clone()),
            epoll,
            events: Vec::with_capacity(64),
            skipped: Duration::ZERO,
            allocations: 0,
        }
    }

    /// Has `source` act on its events.
    pub fn add(&mut self, source: Box<dyn Source>) {
        self.sources.add(source).expect("a descriptor that polls");
    }

    /// The host's network is another one; whether that was told.
    pub fn follow(&mut self, change: HostChange) -> bool {
        let (_, out) = self.port.halves();
        self.engine.follow_host(change, out)
    }

    /// Records all frames from now on.
    pub fn record(&mut self, capture: &Capture) {
        self.batch.observe(Box::new(capture.clone()));
        self.engine.observe(Box::new(capture.clone()));
    }

    /// The time of this world.
    pub fn now(&self) -> Timestamp {
        monotonic_now() + self.skipped
    }

    /// Moves the clock on.
    pub fn skip(&mut self, time: Duration) {
        self.skipped += time;
    }

    /// One turn of the loop, which waits no longer than `wait` for an event. False when there was
    /// nothing to do.
    pub fn turn(&mut self, wait: Duration) -> bool {
        let busy = self.engine.has_work() || self.sources.rest().is_some();
        let wait = if busy { Duration::ZERO } else { wait };
        self.events.clear();
        let timeout = Timespec::try_from(wait).expect("a short time");
        let room = rustix::buffer::spare_capacity(&mut self.events);
        epoll::wait(&*self.epoll, room, Some(&timeout)).expect("epoll_wait");
        let now = self.now();
        let before = heap::allocations();
        let frames = self.work(now);
        self.allocations += heap::allocations() - before;
        // A timer may have left work for the next turn.
        busy || frames || !self.events.is_empty() || self.engine.has_work()
    }

    /// What the product does in one turn; whether there were frames from the guest.
    fn work(&mut self, now: Timestamp) -> bool {
        self.engine.begin_turn(now);
        for event in &self.events {
            let mut event = *event;
            if Token::from_bits(event.data.u64()) == Some(Token::Lobby) {
                let Some(waiting) = self.sources.let_in() else { continue };
                event = waiting;
            }
            match Token::from_bits(event.data.u64()) {
                Some(Token::Flow(id)) => self.engine.on_flow_event(id, event.flags),
                Some(Token::Listener(id)) => self.engine.on_listener_event(id),
                Some(Token::Source(id)) => {
                    let (_, out) = self.port.halves();
                    let exit = self.sources.on_event(id, event.flags, &mut self.engine, out);
                    assert_eq!(exit, None, "a source that ends the loop");
                }
                Some(Token::Migration(part)) => {
                    let (_, out) = self.port.halves();
                    self.engine.on_migration_event(out, part);
                }
                other => panic!("an event of {other:?}"),
            }
        }
        let mut frames = false;
        while !self.engine.holds_frames() && self.engine.ingress(&mut self.port, &mut self.batch) {
            frames = true;
        }
        let (_, out) = self.port.halves();
        self.engine.work(out);
        self.sources.end_turn(&mut self.engine, out);
        // Nobody is to wait for who rests.
        if let Some(until) = self.sources.rest() {
            self.skipped += until.since(now);
        }
        self.port.flush();
        frames
    }

    /// Turns until nothing is left to do; panics if that takes more than `limit` turns.
    pub fn settle(&mut self, limit: usize) -> usize {
        for turns in 0..limit {
            if !self.turn(Duration::ZERO) {
                return turns;
            }
        }
        panic!("still busy after {limit} turns");
    }

    /// Like [`settle`](Self::settle), and gives the kernel time to deliver what it has.
    pub fn quiet(&mut self, limit: usize) -> usize {
        for turns in 0..limit {
            if !self.turn(DELIVERY) {
                return turns;
            }
        }
        panic!("still busy after {limit} turns");
    }

    /// How often something was dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.engine.drops().find(|&(name, _)| name == reason).map_or(0, |(_, count)| count)
    }

    /// Drops for any reason.
    pub fn all_drops(&self) -> u64 {
        self.engine.drops().map(|(_, count)| count).sum()
    }
}
