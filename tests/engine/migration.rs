//! A guest moves from one engine to another, in another network namespace with the same addresses, and its
//! connections with it: two hosts and a network of peers behind one bridge, which leads to one host at a time.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use passt::flow::fwd::Proto;
use passt::wire::DropReason;
use passt_support::namespace::Netns;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::egress::{enforce, policy};
use crate::fragments::cut_l4;
use crate::guest::Guest;
use crate::namespace::isolated;
use crate::packet;
use crate::tcp::noise;
use crate::world::{FAMILIES, Family, OFFLOADS, Setup, World, forward};

/// What a test waits for at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of each stream that moves bulk.
const BULK: usize = 3 << 20;
/// Bytes of each stream that hardly moves.
const LITTLE: usize = 20_000;
/// Buffers of the guest's sockets.
const BUFFER: usize = 256 << 10;
/// Ports of the peers, and of the guest.
const PEER_PORT: u16 = 8000;
const GUEST_PORT: u16 = 8080;

fn peer_at(family: Family) -> SocketAddr {
    let v4 = std::net::Ipv4Addr::new(198, 51, 100, 7);
    SocketAddr::new(family.of(v4, "2001:db8:1::7"), PEER_PORT)
}

/// A process in a namespace, by whose id ip(8) finds it.
struct Anchor(Child);

impl Drop for Anchor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The bridge, with the ports `port0` and `port1` to the hosts and `port2` to the peers.
struct Net {
    bridge: Netns,
    hosts: [Netns; 2],
    peers: Netns,
}

impl Net {
    fn new() -> Self {
        let bridge = Netns::new("ip link add name br0 type bridge\nip link set dev br0 up");
        let sleep = || Command::new("sleep").arg("600").spawn().expect("sleep runs");
        let anchor = Anchor(bridge.run(sleep));
        let id = anchor.0.id();
        let host = "198.51.100.1/24 2001:db8:1::1/64 02:00:00:00:00:01";
        let all = [host, host, "198.51.100.7/24 2001:db8:1::7/64 02:00:00:00:00:07"];
        let mut index = 0;
        let [first, second, peers] = all.map(|addresses| {
            let [v4, v6, mac] = addresses.split(' ').collect::<Vec<_>>().try_into().expect("three");
            let port = format!("port{index}");
            index += 1;
            let netns = Netns::new(&format!(
                "ip link set dev lo up
                ip link add name eth0 address {mac} type veth peer name {port} netns {id}
                ip addr add {v4} dev eth0
                ip addr add {v6} dev eth0 nodad
                ip link set dev eth0 up"
            ));
            let master = if index > 2 { "master br0" } else { "" };
            bridge.run(move || sh(&format!("ip link set dev {port} {master} up")));
            netns
        });
        let net = Self { bridge, hosts: [first, second], peers };
        net.lead_to(0);
        net
    }

    /// The network brings everything to this host from now on.
    fn lead_to(&self, host: usize) {
        self.bridge.run(move || {
            let off = 1 - host;
            sh(&format!(
                "ip link set dev port{off} nomaster
                ip link set dev port{host} master br0"
            ));
        });
    }
}

fn sh(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().expect("sh runs");
    assert!(status.success(), "{script}");
}

fn enter(netns: &Netns) {
    move_into_link_name_space(netns.file().as_fd(), Some(LinkNameSpaceType::Network))
        .expect("a namespace of ours");
}

/// One way of a connection: what was sent of it, and what has come.
struct Way {
    data: Vec<u8>,
    sent: usize,
    got: usize,
    /// The sender has ended it; the receiver has seen that.
    ended: [bool; 2],
}

impl Way {
    fn new(bytes: usize, seed: usize) -> Self {
        let mut data = noise(bytes + seed);
        data.drain(..seed);
        Self { data, sent: 0, got: 0, ended: [false; 2] }
    }

    fn left(&self) -> &[u8] {
        &self.data[self.sent..]
    }

    fn take(&mut self, bytes: &[u8], name: &str) {
        let expected = &self.data[self.got..][..bytes.len().min(self.data.len() - self.got)];
        assert!(expected == bytes, "{name}: wrong bytes at {}", self.got);
        self.got += bytes.len();
    }
}

/// What a connection does before the guest moves. Afterwards, all that is left is sent both ways, and both end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Idle,
    Both,
    /// The guest does not read.
    GuestStalls,
    /// The peer does not read.
    PeerStalls,
    /// The guest has sent all and ended its stream; the peer goes on.
    GuestEnded,
    /// The peer has, and the guest goes on.
    PeerEnded,
    /// The guest has ended its stream, and the peer has not read all of it.
    GuestEndedPeerStalls,
    /// The peer has, and the guest has not read all of it.
    PeerEndedGuestStalls,
}

const ALL: [Before; 8] = [
    Before::Idle,
    Before::Both,
    Before::GuestStalls,
    Before::PeerStalls,
    Before::GuestEnded,
    Before::PeerEnded,
    Before::GuestEndedPeerStalls,
    Before::PeerEndedGuestStalls,
];

struct Connection {
    name: String,
    before: Before,
    handle: SocketHandle,
    peer: TcpStream,
    up: Way,
    down: Way,
}

impl Connection {
    /// Both ends do what they do; `moved` says whether the guest has moved.
    fn work(&mut self, guest: &mut Guest, moved: bool) {
        let (name, before) = (&self.name, self.before);
        let sends = |idle: Before| moved || before != Before::Idle && before != idle;
        if sends(Before::PeerEndedGuestStalls) {
            let socket = guest.tcp_mut(self.handle);
            if socket.can_send() && self.up.sent < self.up.data.len() {
                self.up.sent += socket.send_slice(self.up.left()).expect(name);
            }
            let ends = moved || matches!(before, Before::GuestEnded | Before::GuestEndedPeerStalls);
            if ends && self.up.sent == self.up.data.len() && !self.up.ended[0] {
                socket.close();
                self.up.ended[0] = true;
            }
        }
        if sends(Before::GuestEndedPeerStalls) {
            while !self.down.left().is_empty() {
                match self.peer.write(self.down.left()) {
                    Ok(sent) => self.down.sent += sent,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{name}: peer: write: {error}"),
                }
            }
            let ends = moved || matches!(before, Before::PeerEnded | Before::PeerEndedGuestStalls);
            if ends && self.down.left().is_empty() && !self.down.ended[0] {
                self.peer.shutdown(Shutdown::Write).expect(name);
                self.down.ended[0] = true;
            }
        }
        if moved || !matches!(before, Before::GuestStalls | Before::PeerEndedGuestStalls) {
            self.guest_reads(guest);
        }
        if moved || !matches!(before, Before::PeerStalls | Before::GuestEndedPeerStalls) {
            self.peer_reads();
        }
    }

    fn guest_reads(&mut self, guest: &mut Guest) {
        let socket = guest.tcp_mut(self.handle);
        let mut chunk = vec![0; BUFFER];
        while socket.can_recv() {
            let len = socket.recv_slice(&mut chunk).expect(&self.name);
            self.down.take(&chunk[..len], &self.name);
        }
        let reset = matches!(socket.state(), State::Closed)
            && !(self.up.ended[0] && self.down.got == self.down.data.len());
        assert!(!reset, "{}: reset toward the guest", self.name);
        self.down.ended[1] |= !socket.may_recv();
    }

    fn peer_reads(&mut self) {
        let mut chunk = [0; 65536];
        while !self.up.ended[1] {
            match self.peer.read(&mut chunk) {
                Ok(0) => self.up.ended[1] = true,
                Ok(len) => self.up.take(&chunk[..len], &self.name),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{}: peer: read: {error}", self.name),
            }
        }
    }

    fn is_done(&self) -> bool {
        [&self.up, &self.down].iter().all(|way| way.ended[1] && way.got == way.data.len())
    }
}

/// A host with its engine and the helper's socket.
struct Host {
    netns: Netns,
    world: World,
    socket: PathBuf,
    helper: Option<Child>,
}

impl Host {
    fn new(netns: &Netns, folder: &Path, index: usize, max_descriptors: u64) -> Self {
        enter(netns);
        let rules = FAMILIES.map(|family| forward(Proto::Tcp, family, GUEST_PORT)).to_vec();
        let setup = Setup { rules, caps: OFFLOADS, max_descriptors, ..Setup::default() };
        let mut world = World::new(&setup);
        let socket = folder.join(format!("{index}.repair"));
        let listener = UnixListener::bind(&socket).expect("a free name");
        listener.set_nonblocking(true).expect("fcntl");
        world.engine.set_helper(listener.into(), false).expect("epoll");
        world.port.set_up(index == 0);
        Self { netns: netns.clone(), world, socket, helper: None }
    }

    /// Starts the helper, and waits until it is there.
    fn start_helper(&mut self) {
        enter(&self.netns);
        let helper = Command::new(env!("CARGO_BIN_EXE_passt-repair")).arg(&self.socket).spawn();
        self.helper = Some(helper.expect("passt-repair runs"));
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            self.turn();
        }
    }

    fn turn(&mut self) {
        enter(&self.netns);
        self.world.turn(Duration::from_millis(1));
    }

    fn stop(&mut self) {
        self.world.port.set_up(false);
    }

    /// The link comes up: the guest lives here.
    fn go_on(&mut self) {
        enter(&self.netns);
        self.world.port.set_up(true);
        let (_, out) = passt_frame::FramePort::halves(&mut self.world.port);
        self.world.engine.on_link_up(out);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut helper) = self.helper.take() {
            let _ = helper.kill();
            let _ = helper.wait();
        }
    }
}

/// All of it.
struct Cluster {
    net: Net,
    hosts: [Host; 2],
    /// On which the guest lives.
    at: usize,
    guest: Guest,
    connections: Vec<Connection>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        Self::with_descriptors(Setup::default().max_descriptors)
    }

    fn with_descriptors(most: u64) -> Self {
        let net = Net::new();
        let folder = tempfile::tempdir().expect("a folder");
        let mut index = 0;
        let mut hosts = net.hosts.clone().map(|netns| {
            index += 1;
            Host::new(&netns, folder.path(), index - 1, most)
        });
        let guest = Guest::new(&mut hosts[0].world, 1500);
        Self { net, hosts, at: 0, guest, connections: Vec::new(), _folder: folder }
    }

    /// Turns until `done`, for as long as anything takes.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            let left: Vec<_> = self.connections.iter().filter(|c| !c.is_done()).collect();
            let left = left.iter().map(|c| {
                format!(
                    "{} {}/{} {}/{}",
                    c.name,
                    c.up.got,
                    c.up.data.len(),
                    c.down.got,
                    c.down.data.len()
                )
            });
            assert!(Instant::now() < end, "{what}: not yet: {:#?}", left.collect::<Vec<_>>());
            let host = &mut self.hosts[self.at];
            enter(&host.netns);
            self.guest.poll(&mut host.world);
            host.turn();
        }
    }

    /// Connections that the guest opens, one of each kind.
    fn connect_out(&mut self, family: Family, kinds: &[Before]) {
        let listener =
            self.net.peers.run(move || TcpListener::bind(peer_at(family)).expect("a free port"));
        listener.set_nonblocking(true).expect("fcntl");
        for before in kinds {
            let handle = self.guest.tcp(BUFFER);
            let port = 40_000 + self.connections.len() as u16;
            self.guest.connect(handle, peer_at(family), port);
            let mut peer = None;
            self.until("connect", |cluster| {
                peer = peer.take().or_else(|| listener.accept().ok());
                peer.is_some() && cluster.guest.tcp_mut(handle).state() == State::Established
            });
            self.add(format!("{before:?} {family:?} out"), *before, handle, peer.expect("there").0);
        }
    }

    /// Connections that peers open.
    fn connect_in(&mut self, family: Family, kinds: &[Before]) {
        for before in kinds {
            let handle = self.guest.tcp(BUFFER);
            self.guest.tcp_mut(handle).listen(GUEST_PORT).expect("a fresh socket");
            let to = family.host_at(GUEST_PORT);
            let peer = self.net.peers.run(move || {
                TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("it is forwarded")
            });
            self.until("accept", |cluster| {
                cluster.guest.tcp_mut(handle).state() == State::Established
            });
            self.add(format!("{before:?} {family:?} in"), *before, handle, peer);
        }
    }

    fn add(&mut self, name: String, before: Before, handle: SocketHandle, peer: TcpStream) {
        peer.set_nonblocking(true).expect("fcntl");
        let little = |is: bool| if is { LITTLE } else { BULK };
        let up = little(matches!(before, Before::GuestEnded | Before::Idle));
        let down = little(matches!(
            before,
            Before::PeerEnded | Before::PeerEndedGuestStalls | Before::Idle
        ));
        let up = if before == Before::GuestEndedPeerStalls { BUFFER / 2 } else { up };
        let seed = 8 * self.connections.len();
        let (up, down) = (Way::new(up, seed), Way::new(down, seed + 3));
        self.connections.push(Connection { name, before, handle, peer, up, down });
    }

    /// The connections do what they do for `time`.
    fn traffic(&mut self, time: Duration) {
        let end = Instant::now() + time;
        self.until("traffic", |cluster| {
            cluster.work(false);
            Instant::now() >= end
        });
    }

    fn work(&mut self, moved: bool) {
        for connection in &mut self.connections {
            connection.work(&mut self.guest, moved);
        }
    }

    /// All that is left is sent, and every byte compared.
    fn finish(&mut self) {
        self.until("finish", |cluster| {
            cluster.work(true);
            cluster.connections.iter().all(Connection::is_done)
        });
        self.connections.clear();
    }

    /// The guest stops, its state goes from one host to the other. Returns how either end says that it went.
    fn transfer(&mut self) -> [bool; 2] {
        let (from, to) = (self.at, 1 - self.at);
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        self.stop_guest();
        enter(&self.hosts[from].netns);
        self.hosts[from].world.engine.save_state(writer);
        enter(&self.hosts[to].netns);
        self.hosts[to].world.engine.load_state(reader);
        self.outcomes_of(&[from, to]).try_into().expect("both")
    }

    /// What these hosts say of the transfer, once they do.
    fn outcomes_of(&mut self, hosts: &[usize]) -> Vec<bool> {
        let mut outcomes = vec![None; hosts.len()];
        let end = Instant::now() + PATIENCE;
        hosts.iter().for_each(|host| self.hosts[*host].world.engine.ask_for_state());
        while outcomes.contains(&None) {
            assert!(Instant::now() < end, "transfer: {outcomes:?}");
            for (host, outcome) in hosts.iter().zip(&mut outcomes) {
                self.hosts[*host].turn();
                *outcome = outcome.or(self.hosts[*host].world.engine.state_answer());
            }
        }
        outcomes.into_iter().map(|outcome| outcome.expect("answered")).collect()
    }

    /// The guest goes on at the other host, and the front-end of the one that it has left leaves.
    fn switch_over(&mut self) {
        let from = self.at;
        self.at = 1 - self.at;
        self.net.lead_to(self.at);
        self.hosts[self.at].go_on();
        enter(&self.hosts[from].netns);
        self.hosts[from].world.engine.on_link_closed();
    }

    fn stop_guest(&mut self) {
        let host = &mut self.hosts[self.at];
        enter(&host.netns);
        host.stop();
        self.guest.poll(&mut host.world);
    }
}

#[test]
fn connections_go_on_at_the_other_host_and_back() {
    isolated(|| {
        let mut cluster = Cluster::new();
        for round in 0..2 {
            for family in FAMILIES {
                cluster.connect_out(family, &ALL);
                cluster.connect_in(family, &[Before::Idle, Before::Both, Before::GuestEnded]);
            }
            cluster.traffic(Duration::from_millis(300));
            cluster.hosts.iter_mut().for_each(Host::start_helper);
            assert_eq!(cluster.transfer(), [true, true], "round {round}");
            cluster.switch_over();
            cluster.finish();
        }
    });
}

/// The guest has connections of all kinds at the first host.
fn at_first_host() -> Cluster {
    let mut cluster = Cluster::new();
    for family in FAMILIES {
        cluster.connect_out(family, &ALL);
    }
    cluster.traffic(Duration::from_millis(100));
    cluster
}

impl Cluster {
    /// The guest goes on at the source after all, with all of its connections.
    fn goes_on_here(&mut self) {
        let to = 1 - self.at;
        enter(&self.hosts[to].netns);
        self.hosts[to].world.engine.on_link_closed();
        assert_eq!(self.hosts[to].world.engine.flow_count(), 0, "nothing lives there");
        let here = self.at;
        self.hosts[here].go_on();
        self.finish();
    }

    /// What the source says when its stream leads to somebody who does `what` with it.
    fn save_to(&mut self, what: impl FnOnce(OwnedFd)) -> bool {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        self.stop_guest();
        let here = self.at;
        enter(&self.hosts[here].netns);
        self.hosts[here].world.engine.save_state(writer);
        what(reader);
        self.outcomes_of(&[here])[0]
    }
}

#[test]
fn a_target_that_dies_before_the_switch_leaves_all_at_the_source() {
    isolated(|| {
        let mut cluster = at_first_host();
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.goes_on_here();
    });
}

#[test]
fn a_target_that_does_not_read_on_leaves_all_at_the_source() {
    isolated(|| {
        let mut cluster = at_first_host();
        cluster.hosts[0].start_helper();
        assert!(!cluster.save_to(drop), "nobody has read it");
        cluster.goes_on_here();
    });
}

#[test]
fn a_target_without_helper_refuses_and_leaves_all_at_the_source() {
    isolated(|| {
        let mut cluster = at_first_host();
        cluster.hosts[0].start_helper();
        assert!(!cluster.transfer()[1], "no helper at the target");
        cluster.goes_on_here();
    });
}

#[test]
fn without_helper_the_guest_goes_and_its_connections_are_reset() {
    isolated(|| {
        let mut cluster = at_first_host();
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        // The network has not changed for the resets: they have gone out before.
        let reset = |connection: &mut Connection| {
            let mut byte = [0];
            let read = connection.peer.read(&mut byte).map_err(|error| error.kind());
            read == Err(ErrorKind::ConnectionReset)
        };
        cluster.net.lead_to(0);
        let idle = &mut cluster.connections[0];
        assert!(idle.peer.peek(&mut [0]).is_err(), "there is nothing for it");
        let _ = idle.peer.write(&[1]);
        let end = Instant::now() + PATIENCE;
        while !reset(&mut cluster.connections[0]) {
            assert!(Instant::now() < end, "the peer knows nothing of it");
            let _ = cluster.connections[0].peer.write(&[1]);
            cluster.hosts[0].turn();
        }
        // At the target there is no such connection: the guest hears of that as soon as it says something.
        let handle = cluster.connections[0].handle;
        let guest = &mut cluster.guest;
        guest.tcp_mut(handle).send_slice(&[1]).expect("it knows nothing of it");
        cluster.until("reset of the guest", |cluster| {
            cluster.guest.tcp_mut(handle).state() == State::Closed
        });
    });
}

#[test]
fn connections_that_the_second_host_forbids_are_reset_at_both_ends() {
    isolated(|| {
        let mut cluster = Cluster::new();
        for family in FAMILIES {
            cluster.connect_out(family, &[Before::Idle]);
            cluster.connect_in(family, &[Before::Idle]);
        }
        let forbidden = format!("reject tcp {}", peer_at(Family::V4));
        enforce(&mut cluster.hosts[1].world, policy(&[&forbidden, "allow any"]));
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        let mut ended = cluster.connections.remove(0);
        let mut peer_knows = false;
        cluster.until("reset of the guest and the peer", |cluster| {
            let read = ended.peer.read(&mut [0]).map_err(|error| error.kind());
            peer_knows |= read == Err(ErrorKind::ConnectionReset);
            peer_knows && cluster.guest.tcp_mut(ended.handle).state() == State::Closed
        });
        // The others go on: what peers began is not the guest's choice.
        assert_eq!(cluster.hosts[1].world.engine.flow_count(), 3);
        cluster.finish();
    });
}

#[test]
fn a_helper_that_dies_in_the_middle_ends_nothing_but_what_it_had() {
    isolated(|| {
        let mut cluster = at_first_host();
        // It takes the sockets and leaves without an answer.
        let socket = cluster.hosts[0].socket.clone();
        let helper = std::thread::spawn(move || {
            let helper = std::os::unix::net::UnixStream::connect(&socket).expect("passt listens");
            let mut byte = [0];
            (&helper).read_exact(&mut byte).expect("a command");
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!cluster.save_to(|_stream| ()), "no answer");
        helper.join().expect("the helper");
        cluster.goes_on_here();
    });
}

#[test]
fn streams_that_are_wrong_are_refused_at_each_byte_and_the_guest_keeps_its_network() {
    isolated(|| {
        let mut cluster = at_first_host();
        cluster.hosts[0].start_helper();
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        cluster.stop_guest();
        enter(&cluster.hosts[0].netns);
        cluster.hosts[0].world.engine.save_state(writer);
        let mut stream = Vec::new();
        let end = Instant::now() + PATIENCE;
        let mut chunk = [0; 65536];
        loop {
            assert!(Instant::now() < end, "the stream does not end");
            cluster.hosts[0].turn();
            match rustix::io::read(&reader, &mut chunk) {
                Ok(0) => break,
                Ok(len) => stream.extend_from_slice(&chunk[..len]),
                Err(error) => assert_eq!(error, rustix::io::Errno::AGAIN),
            }
        }
        let records = 16 + 42 + 4 + ALL.len() * 2 * 112;
        assert!(stream.len() > records + 52);
        // Each length up to the second record, and around the first socket; in between and behind some.
        let every = (0..180).chain(records - 2..records + 60);
        let some = (180..records).step_by(41).chain((records + 60..stream.len()).step_by(99_991));
        let lengths = every.chain(some);
        cluster.hosts[1].start_helper();
        for len in lengths {
            cluster.refuses(&stream[..len]);
        }
        for (at, byte) in
            [(0, 0), (11, 1), (15, 3), (58, 0xff), (records + 8, 0xff), (records + 15, 0xff)]
        {
            let mut wrong = stream.clone();
            wrong[at] = byte;
            cluster.refuses(&wrong);
        }
        stream.push(0);
        cluster.refuses(&stream);
        assert_eq!(cluster.outcomes_of(&[0]), [true]);
        cluster.goes_on_here();
    });
}

impl Cluster {
    /// The target says no to a stream.
    fn refuses(&mut self, stream: &[u8]) {
        let target = &mut self.hosts[1];
        enter(&target.netns);
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        target.world.engine.load_state(reader);
        let mut rest = stream;
        let mut writer = Some(writer);
        target.world.engine.ask_for_state();
        let end = Instant::now() + PATIENCE;
        let outcome = loop {
            if let Some(open) = &writer {
                match rustix::io::write(open, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(rustix::io::Errno::AGAIN) => {}
                    // Refused already.
                    Err(_) => rest = &[],
                }
                if rest.is_empty() {
                    writer = None;
                }
            }
            assert!(Instant::now() < end, "a stream of {} bytes: no answer", stream.len());
            target.turn();
            if let Some(outcome) = target.world.engine.state_answer() {
                break outcome;
            }
        };
        assert!(!outcome, "{} bytes", stream.len());
        assert_eq!(target.world.engine.flow_count(), 0);
    }
}

/// Descriptors of a host of which few connections are admitted at a time, of which the guest has to show that it knows
/// them; and how many.
const SMALL: (u64, usize) = (24, 5);

#[test]
fn connections_that_leave_keep_no_place_of_those_that_come() {
    isolated(|| {
        let (descriptors, admitted) = SMALL;
        let mut cluster = Cluster::with_descriptors(descriptors);
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        cluster.connect_in(Family::V4, &vec![Before::Idle; admitted]);
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        cluster.finish();
        // The next guest of the first host is offered a connection.
        cluster.net.lead_to(0);
        cluster.hosts[0].go_on();
        let _greeting = cluster.hosts[0].world.received();
        let to = Family::V4.host_at(GUEST_PORT);
        let _peer = cluster.net.peers.run(move || {
            TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("it is forwarded")
        });
        let end = Instant::now() + PATIENCE;
        let is_syn = |frame: &Vec<u8>| frame[12..14] == [8, 0] && frame[23] == packet::TCP;
        while !cluster.hosts[0].world.received().iter().any(is_syn) {
            assert!(Instant::now() < end, "nobody is offered to the guest");
            cluster.hosts[0].turn();
        }
    });
}

#[test]
fn what_the_guest_says_of_a_frozen_connection_is_dropped_in_fragments_too() {
    isolated(|| {
        let mut cluster = Cluster::new();
        for family in FAMILIES {
            cluster.connect_out(family, &[Before::Idle]);
        }
        cluster.hosts[0].start_helper();
        assert!(cluster.save_to(std::mem::forget), "all was written");
        enter(&cluster.hosts[0].netns);
        let world = &mut cluster.hosts[0].world;
        for (family, port) in FAMILIES.into_iter().zip(40_000..) {
            let ends = (SocketAddr::new(family.guest(), port), peer_at(family));
            let segment = packet::tcp(ends.0, ends.1, packet::ACK, (1, 1), &[0; 100]);
            let l4 = &segment[packet::l4_offset(family.guest())..];
            let ips = (ends.0.ip(), ends.1.ip());
            let before = world.drops(DropReason::LinkDown);
            world.send(segment.clone());
            world.settle(64);
            assert_eq!(world.drops(DropReason::LinkDown), before + 1, "{family:?}");
            for frame in cut_l4(ips, packet::TCP, 1, l4, 64) {
                world.send(frame);
            }
            world.settle(64);
            assert_eq!(world.drops(DropReason::LinkDown), before + 2, "{family:?}, fragments");
        }
        cluster.goes_on_here();
    });
}
