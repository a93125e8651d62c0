//! The engine behind a tap device, with the kernel of another namespace as the guest: what is made of
//! a kernel that refuses offloads, and whether a full window finds room in the device's queue.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use passt::engine::{Clients, LINK_BASE, NamespaceLink, Worker};
use passt::flow::fwd::{InterfaceName, Proto};
use passt::pasta::queue_frames;
use passt::sys::tun::{self, Step};
use passt_frame::{Errno, Registrar};
use passt_legacy::{Offloads, Tap};
use passt_support::heap;
use passt_support::namespace::Netns;
use passt_support::wait::eventually;
use rustix::event::epoll;

use crate::namespace::isolated;
use crate::tcp::noise;
use crate::world::{FAMILIES, Family, Setup, engine, forward};

/// Bytes of a transfer, each way.
const BULK: usize = 2 << 20;
/// The port of the host's services, and the one that leads to the guest.
pub const OUTSIDE: u16 = 8000;
pub const INSIDE: u16 = 8080;
/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

const NO_HEADER: Offloads = Offloads { header: false, checksum: false, tcp: false, udp: false };
const HEADER: Offloads = Offloads { header: true, ..NO_HEADER };
const CHECKSUM: Offloads = Offloads { checksum: true, ..HEADER };
const TCP: Offloads = Offloads { tcp: true, ..CHECKSUM };
const ALL: Offloads = Offloads { udp: true, ..TCP };

/// What a kernel refuses.
pub type Refused = fn(Step) -> bool;

pub const NOTHING: Refused = |_| false;
const USO: Refused = |step| matches!(step, Step::Offloads(set) if set.udp);
const TSO: Refused = |step| matches!(step, Step::Offloads(set) if set.tcp);
const OFFLOADS: Refused = |step| matches!(step, Step::Offloads(_));
const ORDER: Refused = |step| step == Step::HeaderOrder;
const SIZE: Refused = |step| step == Step::HeaderSize;
const WITH_HEADER: Refused = |step| step == Step::Interface { header: true };

/// Each refusal, what is left, and after how many steps.
const REFUSALS: [(Refused, Offloads, usize); 7] = [
    (NOTHING, ALL, 4),
    (USO, TCP, 5),
    (TSO, CHECKSUM, 6),
    (OFFLOADS, HEADER, 6),
    (ORDER, NO_HEADER, 4),
    (SIZE, NO_HEADER, 3),
    (WITH_HEADER, NO_HEADER, 2),
];

/// A tap device in `guest` whose kernel refuses some steps; the steps that were tried, too.
fn open_tap(guest: &Netns, refused: Refused) -> (OwnedFd, Offloads, Vec<Step>) {
    guest.run(move || {
        let name = InterfaceName::new("tap0").expect("a valid name");
        let mut steps = Vec::new();
        let opened = tun::open_tap_by(&mut |device, step| {
            steps.push(step);
            if refused(step) { Err(Errno::INVAL) } else { tun::ask(device, &name, step) }
        });
        let (device, offloads) = opened.expect("these tests need a tap device");
        (device, offloads, steps)
    })
}

/// Runs a script in the guest.
fn guest_runs(guest: &Netns, script: &str) {
    let script = format!("set -e\n{script}");
    guest.run(move || {
        let status = Command::new("sh").args(["-c", &script]).status();
        assert!(status.is_ok_and(|status| status.success()), "{script}");
    });
}

/// What the guest's kernel has counted on its device.
#[derive(Clone, Copy, Debug)]
struct Counts {
    received: usize,
    sent: usize,
    not_sent: usize,
}

fn counts(guest: &Netns) -> Counts {
    let text = guest.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").expect("procfs"));
    let line = text.lines().find_map(|line| line.trim().strip_prefix("tap0:"));
    let numbers = line.expect("the device").split_whitespace();
    let numbers: Vec<usize> = numbers.map(|word| word.parse().expect("a number")).collect();
    Counts { received: numbers[1], sent: numbers[9], not_sent: numbers[11] }
}

/// What the test and the engine's thread tell each other.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    pause: AtomicBool,
    turns: AtomicUsize,
    allocations: AtomicUsize,
}

/// A guest behind an engine that turns in a thread, until the value is dropped.
pub struct Running {
    pub guest: Netns,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(mtu: u16, refused: Refused, queue_frames: u32) -> Self {
        let guest = Netns::new("ip link set lo up");
        let (device, offloads, _) = open_tap(&guest, refused);
        guest_runs(
            &guest,
            &format!(
                "ip link set tap0 addrgenmode none
                ip link set tap0 mtu {mtu} txqueuelen {queue_frames} up
                ip addr add {}/24 dev tap0
                ip addr add {}/64 dev tap0 nodad
                ip addr add fe80::2/64 dev tap0 nodad
                ip route add default via {}
                ip -6 route add default via fe80::fc dev tap0",
                Family::V4.guest(),
                Family::V6.guest(),
                Family::V4.gateway(),
            ),
        );
        let rules = FAMILIES.map(|family| forward(Proto::Tcp, family, INSIDE)).to_vec();
        let setup = Setup { mtu, rules, ..Setup::default() };
        let shared = Arc::new(Shared::default());
        let told = shared.clone();
        let thread = std::thread::spawn(move || turn_until_told(&told, device, offloads, &setup));
        Self { guest, shared, thread: Some(thread) }
    }

    /// Waits until what was there is handled, and counted.
    pub fn let_turn(&self) {
        let turns = self.shared.turns.load(Ordering::Relaxed);
        eventually("turns", || self.shared.turns.load(Ordering::Relaxed) > turns + 3);
    }

    fn allocations(&self) -> usize {
        self.let_turn();
        self.shared.allocations.load(Ordering::Relaxed)
    }

    /// The guest connects: its end, and the host's.
    fn outbound(&self, family: Family) -> (TcpStream, TcpStream) {
        let at = family.host_at(OUTSIDE);
        let listener = TcpListener::bind(at).expect("a free port");
        let inner = self.guest.run(move || TcpStream::connect(at).expect("the host listens"));
        (inner, listener.accept().expect("a connection").0)
    }

    /// The host connects.
    fn inbound(&self, family: Family) -> (TcpStream, TcpStream) {
        let at = SocketAddr::new(family.guest(), INSIDE);
        let listener = self.guest.run(move || TcpListener::bind(at).expect("a free port"));
        let outer = TcpStream::connect(family.host_at(INSIDE)).expect("the port is forwarded");
        (listener.accept().expect("a connection").0, outer)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the engine panicked");
    }
}

fn turn_until_told(shared: &Shared, device: OwnedFd, offloads: Offloads, setup: &Setup) {
    let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance"));
    let registrar = Registrar::new(epoll.clone(), LINK_BASE);
    let link =
        NamespaceLink::new(Some(Tap::new(device, offloads, &registrar).expect("a tap device")));
    let clients = Clients { listener: None, one_off: true };
    let engine = engine(setup, epoll.clone());
    let mut worker = Worker::new(epoll, link, engine, clients).expect("a worker");
    while !shared.stop.load(Ordering::Relaxed) {
        if shared.pause.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let before = heap::allocations();
        worker.turn(Some(Duration::from_millis(10))).expect("epoll_wait");
        shared.allocations.fetch_add(heap::allocations() - before, Ordering::Relaxed);
        shared.turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends `data` from one end and sees it arrive at the other.
fn transfer(from: &mut TcpStream, to: &mut TcpStream, data: &[u8]) {
    to.set_read_timeout(Some(PATIENCE)).expect("setsockopt");
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(data).expect("the connection is up"));
        let mut got = vec![0; data.len()];
        to.read_exact(&mut got).expect("all that was sent");
        assert!(got == data, "other bytes came than were sent");
    });
}

/// Datagrams of several sizes there and back, then many of one size, sent by the guest as one.
fn exchange_datagrams(running: &Running, family: Family) {
    let at = family.host_at(OUTSIDE);
    let outer = UdpSocket::bind(at).expect("a free port");
    let unspecified = family.of(Ipv4Addr::UNSPECIFIED, "::");
    let inner = running.guest.run(move || {
        let socket = UdpSocket::bind(SocketAddr::new(unspecified, 0)).expect("a free port");
        socket.connect(at).expect("a route");
        socket
    });
    for socket in [&inner, &outer] {
        socket.set_read_timeout(Some(PATIENCE)).expect("setsockopt");
    }
    let data = noise(60_000);
    let mut got = vec![0; 65_536];
    for len in [1, 1200, 1472, 9000, 60_000] {
        inner.send(&data[..len]).expect("sent");
        let (there, peer) = outer.recv_from(&mut got).expect("a datagram");
        assert!(got[..there] == data[..len], "{len} bytes there");
        outer.send_to(&data[..len], peer).expect("sent");
        let back = inner.recv(&mut got).expect("an answer");
        assert!(got[..back] == data[..len], "{len} bytes back");
    }
    cut_by_kernel(&inner, 1000);
    inner.send(&data[..20_500]).expect("one send for all");
    for part in data[..20_500].chunks(1000) {
        let (len, _) = outer.recv_from(&mut got).expect("a datagram");
        assert!(got[..len] == *part, "one of many");
    }
}

/// Sets `UDP_SEGMENT` (udp(7)): what is sent at once becomes datagrams of `size` bytes.
fn cut_by_kernel(socket: &UdpSocket, size: libc::c_int) {
    // SAFETY: the kernel reads one integer, a live local.
    let rc = unsafe {
        let value = (&raw const size).cast();
        let (level, name) = (libc::SOL_UDP, libc::UDP_SEGMENT);
        libc::setsockopt(socket.as_raw_fd(), level, name, value, size_of_val(&size) as u32)
    };
    assert_eq!(rc, 0, "UDP_SEGMENT");
}

#[test]
fn each_refusal_leaves_the_next_best_set() {
    isolated(|| {
        let guest = Netns::new("ip link set lo up");
        for (refused, left, count) in REFUSALS {
            let (device, offloads, steps) = open_tap(&guest, refused);
            assert_eq!((offloads, steps.len()), (left, count), "{steps:?}");
            let plain = Step::Interface { header: false };
            assert_eq!(steps.last() == Some(&plain), left == NO_HEADER, "{steps:?}");
            drop(device);
        }
        // What an interface without a header is refused for is an error: its name, for one.
        let (_device, ..) = open_tap(&guest, NOTHING);
        let taken = guest.run(|| {
            let name = InterfaceName::new("tap0").expect("a valid name");
            tun::open_tap(&name).map(drop)
        });
        assert_eq!(taken, Err(Errno::BUSY));
    });
}

#[test]
fn bytes_are_right_with_every_set_of_offloads() {
    isolated(|| {
        let data = noise(BULK);
        for (refused, offloads, _) in REFUSALS {
            for mtu in [1500, 65_520] {
                let running = Running::start(mtu, refused, queue_frames(mtu));
                for family in FAMILIES {
                    let (mut inner, mut outer) = running.outbound(family);
                    let begin = counts(&running.guest);
                    transfer(&mut inner, &mut outer, &data);
                    let sent = counts(&running.guest);
                    transfer(&mut outer, &mut inner, &data);
                    let received = counts(&running.guest);
                    // Whole segments, or far fewer frames than segments.
                    let whole = |frames: usize, offload: bool| {
                        let segments = BULK / usize::from(mtu);
                        assert_eq!(frames > segments, !offload, "{offloads:?} {frames} {segments}");
                    };
                    if mtu == 1500 {
                        whole(sent.sent - begin.sent, offloads.tcp);
                        whole(received.received - sent.received, offloads.header);
                    }
                    let (mut inner, mut outer) = running.inbound(family);
                    transfer(&mut outer, &mut inner, &data);
                    transfer(&mut inner, &mut outer, &data);
                    exchange_datagrams(&running, family);
                }
            }
        }
    });
}

#[test]
fn traffic_through_the_device_allocates_nothing() {
    isolated(|| {
        heap::assert_counting();
        let data = noise(BULK);
        for refused in [NOTHING, WITH_HEADER] {
            let running = Running::start(1500, refused, queue_frames(1500));
            let before = running.allocations();
            for family in FAMILIES {
                for _ in 0..20 {
                    let (mut inner, mut outer) = running.outbound(family);
                    transfer(&mut inner, &mut outer, b"question");
                    transfer(&mut outer, &mut inner, b"answer");
                    let (mut inner, mut outer) = running.inbound(family);
                    transfer(&mut outer, &mut inner, b"question");
                    transfer(&mut inner, &mut outer, b"answer");
                }
                let (mut inner, mut outer) = running.outbound(family);
                transfer(&mut inner, &mut outer, &data);
                transfer(&mut outer, &mut inner, &data);
                exchange_datagrams(&running, family);
            }
            assert_eq!(running.allocations(), before);
        }
    });
}

/// Frames that the guest's device drops while the guest uploads and the engine stands still now and
/// then, each time for long enough that a whole window comes together in the queue.
fn dropped_with(queue_frames: u32) -> usize {
    let running = Running::start(1500, TSO, queue_frames);
    let (mut inner, mut outer) = running.outbound(Family::V4);
    std::thread::scope(|scope| {
        let ends = [&inner, &outer].map(|end| end.try_clone().expect("dup"));
        scope.spawn(move || while inner.write_all(&[7; 65_536]).is_ok() {});
        scope.spawn(move || std::io::copy(&mut outer, &mut std::io::sink()));
        for round in 0..40 {
            running.shared.pause.store(round % 2 == 0, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
        }
        for end in ends {
            end.shutdown(Shutdown::Both).expect("the connection is up");
        }
    });
    counts(&running.guest).not_sent
}

#[test]
fn the_queue_holds_a_whole_window() {
    isolated(|| {
        assert_eq!(dropped_with(queue_frames(1500)), 0);
        // The kernel's own length: what the test would see.
        assert!(dropped_with(500) > 0, "no window was full, so this test proves nothing");
    });
}
