//! A guest: smoltcp's stack on the other end of the link. It verifies all checksums, those that the
//! link leaves to it included: these it completes first, as a virtio driver's host would on the wire.

use std::net::Ipv4Addr;
use std::time::Duration;

use passt_frame::{Checksum, FrameMeta, OnesSum};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use crate::world::{BothEnds, Family, GUEST_MAC, GuestEnd, World};

/// The guest.
pub struct Guest {
    iface: Interface,
    pub sockets: SocketSet<'static>,
    mtu: usize,
    /// Largest frame that came.
    pub largest: usize,
}

/// The guest's end of the link for one poll.
struct Wire<'a, P> {
    port: &'a mut P,
    mtu: usize,
    largest: &'a mut usize,
    moved: bool,
}

struct Received(Vec<u8>);
struct Sender<'a, P>(&'a mut P, &'a mut bool);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl<P: GuestEnd> TxToken for Sender<'_, P> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        *self.1 = true;
        self.0.guest_sends(frame, FrameMeta::default());
        result
    }
}

impl<P: GuestEnd> Device for Wire<'_, P> {
    type RxToken<'a>
        = Received
    where
        Self: 'a;
    type TxToken<'a>
        = Sender<'a, P>
    where
        Self: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sender<'_, P>)> {
        let (frame, meta) = self.port.guest_receives()?;
        self.moved = true;
        *self.largest = frame.len().max(*self.largest);
        Some((Received(completed(frame, meta)), Sender(self.port, &mut self.moved)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sender<'_, P>> {
        Some(Sender(self.port, &mut self.moved))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = self.mtu + 14;
        caps
    }
}

/// The frame with the checksum that was left to the guest.
pub fn completed(mut frame: Vec<u8>, meta: FrameMeta) -> Vec<u8> {
    if let Checksum::Partial { start, offset } = meta.checksum {
        let (start, offset) = (usize::from(start), usize::from(offset));
        assert_ne!(offset, 2, "a kernel hands ICMP messages on as they came");
        let mut sum = OnesSum::default();
        sum.add(&frame[start..]);
        let checksum = match (sum.checksum(), offset) {
            // RFC 768: a computed zero is sent as all ones.
            (0, 6) => 0xffff,
            (checksum, _) => checksum,
        };
        frame[start + offset..start + offset + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    frame
}

impl Guest {
    /// A guest with the addresses that it is told, on a link of `mtu` bytes.
    pub fn new<P: BothEnds>(world: &mut World<P>, mtu: u16) -> Self {
        let mut guest = Self::without_address(world, mtu);
        guest.iface.update_ip_addrs(|addresses| {
            // smoltcp takes a neighbour advertisement to be about its source, which for ours is the
            // link-local address: no other IPv6 neighbours.
            for (family, prefix) in [(Family::V4, 24), (Family::V6, 128)] {
                let cidr = IpCidr::new(IpAddress::from(family.guest()), prefix);
                addresses.push(cidr).expect("room for two addresses");
            }
        });
        guest.route(Family::V4.gateway().into());
        // As a router advertisement would say.
        guest.route(Family::V6.of(Ipv4Addr::UNSPECIFIED, "fe80::fc").into());
        guest
    }

    /// A guest that has to ask for its address.
    pub fn without_address<P: BothEnds>(world: &mut World<P>, mtu: u16) -> Self {
        let mtu = usize::from(mtu);
        let mut largest = 0;
        let mut wire = Wire { port: &mut world.port, mtu, largest: &mut largest, moved: false };
        let config = Config::new(EthernetAddress(GUEST_MAC.0).into());
        let iface = Interface::new(config, &mut wire, Instant::ZERO);
        Self { iface, sockets: SocketSet::new(Vec::new()), mtu, largest }
    }

    /// Sets the default route.
    pub fn route(&mut self, gateway: IpAddress) {
        let routes = self.iface.routes_mut();
        match gateway {
            IpAddress::Ipv4(v4) => routes.add_default_ipv4_route(v4),
            IpAddress::Ipv6(v6) => routes.add_default_ipv6_route(v6),
        }
        .expect("room for a route");
    }

    /// Lets the stack work; true if a frame moved.
    pub fn poll<P: BothEnds>(&mut self, world: &mut World<P>) -> bool {
        let now = instant(world);
        self.poll_on(&mut world.port, now)
    }

    /// Lets the stack work on the link that it is given; true if a frame moved.
    pub fn poll_on<P: GuestEnd>(&mut self, port: &mut P, now: Instant) -> bool {
        let mut wire = Wire { port, mtu: self.mtu, largest: &mut self.largest, moved: false };
        self.iface.poll(now, &mut wire, &mut self.sockets);
        wire.moved
    }

    /// How long until the stack wants to work again.
    pub fn delay<P: BothEnds>(&mut self, world: &World<P>) -> Option<Duration> {
        self.iface.poll_delay(instant(world), &self.sockets).map(Into::into)
    }

    /// A TCP socket with `bytes` of buffer in each direction.
    pub fn tcp(&mut self, bytes: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        self.sockets.add(socket)
    }

    /// Starts a connection.
    pub fn connect(&mut self, handle: SocketHandle, to: std::net::SocketAddr, port: u16) {
        let remote = (IpAddress::from(to.ip()), to.port());
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.iface.context(), remote, port).expect("a fresh socket");
    }

    /// The TCP socket.
    pub fn tcp_mut(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// A UDP socket bound to `port`.
    pub fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 256 * 1024]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("a fresh socket");
        self.sockets.add(socket)
    }

    /// The UDP socket.
    pub fn udp_mut(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Uses `address` from now on.
    pub fn set_address(&mut self, cidr: IpCidr) {
        self.iface.update_ip_addrs(|addresses| {
            addresses.push(cidr).expect("room for an address");
        });
    }
}

fn instant<P: BothEnds>(world: &World<P>) -> Instant {
    Instant::from_micros(world.now().as_micros() as i64)
}

/// Turns of guest and engine without any frame, event or timer after which a test has hung.
const IDLE_LIMIT: usize = 2000;
/// Turns that any test needs at most.
const TURN_LIMIT: usize = 20_000;
/// Turns that wait for the kernel before time is skipped.
const PATIENCE: usize = 3;
/// The same for each other task of the machine that wants a processor: what is on its way over the loopback device
/// waits for one, too, where a busy kernel has left it to a thread (ksoftirqd).
const PATIENCE_PER_TASK: usize = 10;

/// Tasks that run or want to, beside this one (proc_loadavg(5)).
fn other_tasks() -> usize {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load.split_whitespace().nth(3).and_then(|field| field.split('/').next());
    running.and_then(|count| count.parse::<usize>().ok()).unwrap_or(1).saturating_sub(1)
}

/// Lets guest and engine work until `done`. `done` also does what the peers on the host do. Where
/// nothing happens, time moves on to the next timer of either.
pub fn until<P: BothEnds>(
    world: &mut World<P>,
    guest: &mut Guest,
    what: &str,
    mut done: impl FnMut(&mut World<P>, &mut Guest) -> bool,
) {
    let mut idle = 0;
    for _ in 0..TURN_LIMIT {
        if done(world, guest) {
            return;
        }
        let moved = guest.poll(world);
        let wait = if moved || idle == 0 { Duration::ZERO } else { Duration::from_millis(1) };
        if world.turn(wait) || moved {
            idle = 0;
            continue;
        }
        idle += 1;
        assert!(idle < IDLE_LIMIT, "{what}: nothing happens any more");
        if idle > PATIENCE && idle > PATIENCE + PATIENCE_PER_TASK * other_tasks() {
            let ours = world.engine.next_deadline().map(|at| at.since(world.now()));
            let theirs = guest.delay(world);
            if let Some(delay) = ours.into_iter().chain(theirs).min() {
                world.skip(delay);
            }
        }
    }
    panic!("{what}: not after {TURN_LIMIT} turns");
}
