//! Two hosts with the same addresses, an engine on each, and a network of peers behind one bridge, which leads to one
//! host at a time.

use std::fs;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use passt::flow::fwd::Proto;
use passt_support::namespace::Netns;
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use super::connection::{BUFFER, BULK, Before, Connection, LITTLE, Way};
use crate::guest::Guest;
use crate::world::{FAMILIES, Family, OFFLOADS, Setup, World, forward};

/// What a test waits for at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Ports of the peers, and of the guest.
pub(super) const PEER_PORT: u16 = 8000;
pub(super) const GUEST_PORT: u16 = 8080;

pub(super) fn peer_at(family: Family) -> SocketAddr {
    let v4 = std::net::Ipv4Addr::new(198, 51, 100, 7);
    SocketAddr::new(family.of(v4, "2001:db8:1::7"), PEER_PORT)
}

/// A process in a namespace, by whose id ip(8) finds it.
pub(super) struct Anchor(Child);

impl Drop for Anchor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The bridge, with the ports `port0` and `port1` to the hosts and `port2` to the peers.
pub(super) struct Net {
    pub(super) bridge: Netns,
    pub(super) hosts: [Netns; 2],
    pub(super) peers: Netns,
}

impl Net {
    pub(super) fn new() -> Self {
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

    /// How large the segments are that the peers are sent, by what their kernel tells of each connection.
    pub(super) fn received_segment_sizes(&self) -> Vec<u32> {
        let list = || Command::new("ss").args(["--tcp", "--info", "--numeric"]).output();
        let output = self.peers.run(move || list().expect("ss runs"));
        let text = String::from_utf8(output.stdout).expect("text");
        let sizes = text.split_whitespace().filter_map(|word| word.strip_prefix("rcvmss:"));
        sizes.map(|size| size.parse().expect("a number")).collect()
    }

    /// How many bytes of each connection of the peers are not acknowledged.
    pub(super) fn unacknowledged(&self) -> Vec<u32> {
        let filter = ["--tcp", "--numeric", "--no-header", "state", "established"];
        let list = move || Command::new("ss").args(filter).output();
        let output = self.peers.run(move || list().expect("ss runs"));
        let text = String::from_utf8(output.stdout).expect("text");
        let queue = |line: &str| {
            line.split_whitespace().nth(1).expect("two queues").parse().expect("a number")
        };
        text.lines().map(queue).collect()
    }

    /// The network brings everything to this host from now on.
    pub(super) fn lead_to(&self, host: usize) {
        self.bridge.run(move || {
            let off = 1 - host;
            sh(&format!(
                "ip link set dev port{off} nomaster
                ip link set dev port{host} master br0"
            ));
        });
    }
}

pub(super) fn sh(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().expect("sh runs");
    assert!(status.success(), "{script}");
}

pub(super) fn enter(netns: &Netns) {
    move_into_link_name_space(netns.file().as_fd(), Some(LinkNameSpaceType::Network))
        .expect("a namespace of ours");
}

/// A host with its engine and the helper's socket.
pub(super) struct Host {
    pub(super) netns: Netns,
    pub(super) world: World,
    pub(super) socket: PathBuf,
    pub(super) helper: Option<Child>,
}

impl Host {
    pub(super) fn new(netns: &Netns, folder: &Path, index: usize, max_descriptors: u64) -> Self {
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
    pub(super) fn start_helper(&mut self) {
        enter(&self.netns);
        let helper = Command::new(env!("CARGO_BIN_EXE_passt-repair")).arg(&self.socket).spawn();
        self.helper = Some(helper.expect("passt-repair runs"));
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            self.turn();
        }
    }

    /// Starts a helper that tells how many sockets came in each message.
    pub(super) fn start_counting_helper(&mut self) -> Arc<Mutex<Vec<usize>>> {
        enter(&self.netns);
        let path = self.socket.with_extension("counted");
        let listener = UnixListener::bind(&path).expect("a free name");
        let helper = Command::new(env!("CARGO_BIN_EXE_passt-repair")).arg(&path).spawn();
        self.helper = Some(helper.expect("passt-repair runs"));
        let (helper, _) = listener.accept().expect("it connects");
        fs::remove_file(path).expect("its name");
        let engine = UnixStream::connect(&self.socket).expect("it listens");
        let counts = Arc::default();
        let counted = Arc::clone(&counts);
        thread::spawn(move || relay(&engine, &helper, &counted));
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            self.turn();
        }
        counts
    }

    pub(super) fn kill_helper(&mut self) {
        if let Some(mut helper) = self.helper.take() {
            let _ = helper.kill();
            let _ = helper.wait();
        }
    }

    pub(super) fn turn(&mut self) {
        enter(&self.netns);
        self.world.turn(Duration::from_millis(1));
    }

    pub(super) fn stop(&mut self) {
        self.world.port.set_up(false);
    }

    /// The link comes up: the guest lives here.
    pub(super) fn go_on(&mut self) {
        enter(&self.netns);
        self.world.port.set_up(true);
        let (_, out) = passt_frame::FramePort::halves(&mut self.world.port);
        self.world.engine.on_link_up(out);
    }
}

/// Hands on what the engine tells its helper and what that answers, and notes how many sockets there are.
fn relay(mut engine: &UnixStream, mut helper: &UnixStream, counts: &Mutex<Vec<usize>>) {
    let mut byte = [0; 1];
    loop {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [IoSliceMut::new(&mut byte)];
        let got = recvmsg(engine, &mut buffer, &mut control, RecvFlags::empty());
        if got.expect("recvmsg").bytes == 0 {
            return;
        }
        let messages = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        let sockets: Vec<OwnedFd> = messages.flatten().collect();
        counts.lock().expect("no panic").push(sockets.len());
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        assert!(control.push(SendAncillaryMessage::ScmRights(&sockets)));
        sendmsg(helper, &[IoSlice::new(&byte)], &mut control, SendFlags::empty()).expect("sent");
        helper.read_exact(&mut byte).expect("an answer");
        engine.write_all(&byte).expect("passed on");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill_helper();
    }
}

/// All of it.
pub(super) struct Cluster {
    pub(super) net: Net,
    pub(super) hosts: [Host; 2],
    /// On which the guest lives.
    pub(super) at: usize,
    pub(super) guest: Guest,
    pub(super) connections: Vec<Connection>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self::with_descriptors(Setup::default().max_descriptors)
    }

    pub(super) fn with_descriptors(most: u64) -> Self {
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
    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
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
    pub(super) fn connect_out(&mut self, family: Family, kinds: &[Before]) {
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
    pub(super) fn connect_in(&mut self, family: Family, kinds: &[Before]) {
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

    pub(super) fn add(
        &mut self,
        name: String,
        before: Before,
        handle: SocketHandle,
        peer: TcpStream,
    ) {
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
    pub(super) fn traffic(&mut self, time: Duration) {
        let end = Instant::now() + time;
        self.until("traffic", |cluster| {
            cluster.work(false);
            Instant::now() >= end
        });
    }

    pub(super) fn work(&mut self, moved: bool) {
        for connection in &mut self.connections {
            connection.work(&mut self.guest, moved);
        }
    }

    /// The guest sends all that it has to send, and ends nothing; whether the peers have it.
    pub(super) fn guest_sends(&mut self) -> bool {
        self.connections.iter_mut().all(|connection| connection.guest_sends(&mut self.guest))
    }

    /// The guest sends all that it has to send, and ends its streams; whether the peers have seen that.
    pub(super) fn guest_sends_all(&mut self) -> bool {
        let sent = self.guest_sends();
        for connection in self.connections.iter_mut().filter(|_| sent) {
            connection.guest_ends(&mut self.guest);
        }
        sent && self.connections.iter().all(|connection| connection.up.ended[1])
    }

    /// What has come on each way of each connection, in bytes; `None` where nothing is left to come.
    pub(super) fn progress(&self) -> Vec<Option<usize>> {
        let ways =
            self.connections.iter().flat_map(|connection| [&connection.up, &connection.down]);
        ways.map(|way| (way.got < way.data.len()).then_some(way.got)).collect()
    }

    /// All that is left is sent, and every byte compared. Nothing of the connections stays behind.
    pub(super) fn finish(&mut self) {
        self.until("finish", |cluster| {
            cluster.work(true);
            cluster.connections.iter().all(Connection::is_done)
        });
        self.connections.clear();
        self.until("the end", |cluster| cluster.hosts[cluster.at].world.engine.flow_count() == 0);
    }

    /// The guest stops, its state goes from one host to the other. Returns how either end says that it went.
    pub(super) fn transfer(&mut self) -> [bool; 2] {
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
    pub(super) fn outcomes_of(&mut self, hosts: &[usize]) -> Vec<bool> {
        let mut outcomes = vec![None; hosts.len()];
        let end = Instant::now() + PATIENCE;
        hosts.iter().for_each(|host| self.hosts[*host].world.engine.ask_for_state());
        while outcomes.contains(&None) {
            assert!(Instant::now() < end, "transfer: {outcomes:?}");
            for (host, outcome) in hosts.iter().zip(&mut outcomes) {
                self.hosts[*host].turn();
                let answer = self.hosts[*host].world.engine.state_answer();
                *outcome = outcome.or(answer.map(|ended| ended.is_ok()));
            }
        }
        outcomes.into_iter().map(|outcome| outcome.expect("answered")).collect()
    }

    /// The guest goes on at the other host, and the front-end of the one that it has left leaves.
    pub(super) fn switch_over(&mut self) {
        let from = self.at;
        self.at = 1 - self.at;
        self.net.lead_to(self.at);
        self.hosts[self.at].go_on();
        enter(&self.hosts[from].netns);
        self.hosts[from].world.engine.on_link_closed();
    }

    pub(super) fn stop_guest(&mut self) {
        let host = &mut self.hosts[self.at];
        enter(&host.netns);
        host.stop();
        self.guest.poll(&mut host.world);
    }

    /// The guest goes on at the source after all, with all of its connections.
    pub(super) fn goes_on_here(&mut self) {
        let to = 1 - self.at;
        enter(&self.hosts[to].netns);
        self.hosts[to].world.engine.on_link_closed();
        assert_eq!(self.hosts[to].world.engine.flow_count(), 0, "nothing lives there");
        let here = self.at;
        self.hosts[here].go_on();
        self.finish();
    }

    /// The first connection ends by a reset at both ends, and is none any more.
    pub(super) fn first_is_reset(&mut self) {
        let mut ended = self.connections.remove(0);
        let mut peer_knows = false;
        self.until("reset of the guest and the peer", |cluster| {
            let read = ended.peer.read(&mut [0]).map_err(|error| error.kind());
            peer_knows |= read == Err(ErrorKind::ConnectionReset);
            peer_knows && cluster.guest.tcp_mut(ended.handle).state() == State::Closed
        });
    }

    /// What the source says when its stream leads to somebody who does `what` with it.
    pub(super) fn save_to(&mut self, what: impl FnOnce(OwnedFd)) -> bool {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        self.stop_guest();
        let here = self.at;
        enter(&self.hosts[here].netns);
        self.hosts[here].world.engine.save_state(writer);
        what(reader);
        self.outcomes_of(&[here])[0]
    }
}
