//! Two network namespaces and an engine between them. A test runs itself again in a namespace of its
//! own, which plays the host; a second one plays the guest's. The engine turns in a thread.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use passt::conf::ports::{self, ForwardDirection, Kernel};
use passt::engine::{BypassConfig, Engine, NetView, Settings, Token, monotonic_now};
use passt::flow::fwd::{Bypass, Mapping, Policy, Proto, RuleTable};
use passt::flow::network::{Ipv4Net, Ipv6Net, Mac, Network};
use passt::responder::dhcpv6::Duid;
use passt::sandbox::socket_maker;
use passt::sys::namespace_socket::{NamespaceSockets, SocketMaker};
use passt::sys::process::{self, WhenTold};
use passt::time::Timestamp;
use passt::wire::DropReason;
use passt_frame::{Caps, FramePort, MemPort};
use passt_support::heap;
use passt_support::namespace::{Netns, isolated_test};
use passt_support::wait::eventually;
use rustix::event::epoll;
use rustix::time::Timespec;

/// What a helper process of a test finds in its environment: its role.
pub const ROLE: &str = "PASST_TEST_ROLE";

/// How long a test waits for what must happen, before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The guest's addresses, on the loopback interface of its namespace.
pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

const EPHEMERAL: (u16, u16) = (32768, 60999);

/// The role of this copy of the test, if it has one.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Runs `body` in a new network namespace. `name` is the test's own.
pub fn in_namespace(name: &str, body: fn()) {
    isolated_test(name, "ip link set lo up", body);
}

/// The namespace that plays the guest's, with its addresses on the loopback interface.
pub fn guest() -> Netns {
    Netns::new(&format!(
        "ip link set lo up
        ip addr add {GUEST_V4}/32 dev lo
        ip addr add {GUEST_V6}/128 dev lo nodad
        until ip -6 route show table local | grep '^local {GUEST_V6} ' >/dev/null; do sleep 0.01; done"
    ))
}

/// Port specifications and options.
#[derive(Clone)]
pub struct Setup {
    pub how: Bypass,
    /// `-t`, `-u`, `-T`, `-U`.
    pub ports: [&'static str; 4],
    /// Sockets can be bound to an interface.
    pub device_binding: bool,
    /// Both families.
    pub ipv6: bool,
    /// What the engine is told of the limit of descriptors; the process's own if not set.
    pub max_descriptors: Option<u64>,
    /// What is done to sockets of the guest's namespace before the engine gets them.
    pub tamper: fn(NamespaceSockets, &Netns) -> Box<dyn SocketMaker>,
}

impl Setup {
    pub fn new(ports: [&'static str; 4]) -> Self {
        Self {
            how: Bypass { enabled: true, keep_loopback: false, only: false },
            ports,
            device_binding: true,
            ipv6: true,
            max_descriptors: None,
            tamper: |sockets, _| Box::new(sockets),
        }
    }
}

fn network() -> Network {
    let v4 = Some(Ipv4Net {
        addr: GUEST_V4,
        prefix_len: 24,
        gateway: Some(Ipv4Addr::new(192, 0, 2, 1)),
        fixed: false,
        dns: Default::default(),
        routes: None,
    });
    let v6 = Some(Ipv6Net {
        addr: Some(GUEST_V6),
        gateway: None,
        our_link_local: "fe80::1".parse().unwrap(),
        fixed: false,
        dns: Default::default(),
        default_router: true,
        scope_id: 0,
    });
    Network::new(v4, v6)
}

fn rules(
    net: &Network,
    setup: &Setup,
    directions: [(usize, ForwardDirection, Proto); 2],
) -> RuleTable {
    let mut table = RuleTable::default();
    let kernel = Kernel { ephemeral: EPHEMERAL, device_binding: setup.device_binding };
    for (index, direction, proto) in directions {
        let spec = (direction, proto, setup.ports[index]);
        ports::add(&mut table, net, kernel, spec, index as u16).unwrap();
    }
    table
}

/// An engine that runs until the value is dropped.
pub struct Running {
    stop: Arc<AtomicBool>,
    flows: Arc<AtomicUsize>,
    turns: Arc<AtomicUsize>,
    /// Datagrams of strangers that were dropped.
    foreign: Arc<AtomicU64>,
    /// Allocations that turns have made.
    allocations: Arc<AtomicUsize>,
    /// Seconds by which the engine's clock is ahead.
    ahead: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts an engine whose guest lives in `guest`. All its ports are open when this returns.
    pub fn start(guest: &Netns, setup: Setup) -> Self {
        let mut running = Self {
            stop: Arc::default(),
            flows: Arc::default(),
            turns: Arc::default(),
            foreign: Arc::default(),
            allocations: Arc::default(),
            ahead: Arc::default(),
            thread: None,
        };
        let (stop, flows) = (running.stop.clone(), running.flows.clone());
        let (turns, ahead) = (running.turns.clone(), running.ahead.clone());
        let (allocations, foreign) = (running.allocations.clone(), running.foreign.clone());
        let guest = guest.clone();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let (epoll, mut engine) = engine(&guest, &setup);
            tell.send(()).unwrap();
            let mut port = MemPort::new(Caps::default(), 65536);
            while !stop.load(Ordering::Relaxed) {
                let ahead = Duration::from_secs(ahead.load(Ordering::Relaxed));
                let made = turn(&epoll, &mut engine, &mut port, monotonic_now() + ahead);
                allocations.fetch_add(made, Ordering::Relaxed);
                flows.store(engine.flow_count(), Ordering::Relaxed);
                let drops = engine.drops().find(|&(name, _)| name == DropReason::ForeignDatagram);
                foreign.store(drops.map_or(0, |(_, count)| count), Ordering::Relaxed);
                turns.fetch_add(1, Ordering::Relaxed);
            }
        });
        told.recv().expect("the engine has started");
        running.thread = Some(thread);
        running
    }

    /// Waits until there are `count` flows.
    pub fn await_flows(&self, count: usize) {
        eventually(&format!("{count} flows"), || self.flows() == count);
    }

    /// Sets the engine's clock ahead, and lets it turn.
    pub fn sleep(&self, seconds: u64) {
        self.ahead.fetch_add(seconds, Ordering::Relaxed);
        let turns = self.turns();
        eventually("a few turns", || self.turns() > turns + 3);
    }

    /// Number of flows.
    pub fn flows(&self) -> usize {
        self.flows.load(Ordering::Relaxed)
    }

    /// Datagrams of strangers that were dropped so far, in turns that are over.
    pub fn foreign(&self) -> u64 {
        self.sleep(0);
        self.foreign.load(Ordering::Relaxed)
    }

    /// Allocations that the engine has made so far, in turns that are over.
    pub fn allocations(&self) -> usize {
        self.sleep(0);
        self.allocations.load(Ordering::Relaxed)
    }

    /// Turns of the loop so far.
    pub fn turns(&self) -> usize {
        self.turns.load(Ordering::Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the engine's thread has panicked");
        }
    }
}

fn engine(guest: &Netns, setup: &Setup) -> (Rc<OwnedFd>, Engine) {
    let limit = process::raise_descriptor_limit().maximum;
    let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
    let mut net = network();
    net.v6 = net.v6.filter(|_| setup.ipv6);
    let inbound = [
        (0, ForwardDirection::ToNamespace, Proto::Tcp),
        (1, ForwardDirection::ToNamespace, Proto::Udp),
    ];
    let outbound = [
        (2, ForwardDirection::FromNamespace, Proto::Tcp),
        (3, ForwardDirection::FromNamespace, Proto::Udp),
    ];
    let (inbound, outbound) = (rules(&net, setup, inbound), rules(&net, setup, outbound));
    let max_descriptors = setup.max_descriptors.unwrap_or(limit);
    let settings = Settings { max_descriptors, ephemeral: EPHEMERAL, ..Settings::default() };
    let view = NetView {
        network: net,
        map: Mapping::default(),
        inbound,
        outbound,
        egress: Policy::default(),
    };
    let duid = Duid::new(Mac::OURS);
    let now = monotonic_now();
    let mut engine = Engine::new(epoll.clone(), view, settings, [7; 16], duid, now);
    let filter = socket_maker().unwrap();
    let sockets = NamespaceSockets::start(guest.file().as_fd(), &filter, WhenTold::Ends)
        .expect("the helper starts");
    let sockets = (setup.tamper)(sockets, guest);
    engine.set_bypass(BypassConfig { how: setup.how, sockets, interface: 0 }, false).unwrap();
    engine.listen().unwrap();
    (epoll, engine)
}

/// One turn of the loop; waits a moment at most. Returns how often the engine has allocated.
fn turn(epoll: &OwnedFd, engine: &mut Engine, port: &mut MemPort, now: Timestamp) -> usize {
    let wait = match engine.next_deadline() {
        _ if engine.has_work() => Duration::ZERO,
        Some(next) => next.since(now).min(Duration::from_millis(20)),
        None => Duration::from_millis(20),
    };
    let mut events = Vec::with_capacity(64);
    let timeout = Timespec::try_from(wait).unwrap();
    let _ = epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout));
    let before = heap::allocations();
    engine.begin_turn(now);
    for event in events {
        match Token::from_bits(event.data.u64()) {
            Some(Token::Flow(id)) => engine.on_flow_event(id, event.flags),
            Some(Token::SecondSocket(id)) => engine.on_second_socket_event(id, event.flags),
            Some(Token::Listener(id)) => engine.on_listener_event(id),
            other => panic!("an event for {other:?}"),
        }
    }
    let (_, out) = port.halves();
    engine.work(out);
    heap::allocations() - before
}

/// Open descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
