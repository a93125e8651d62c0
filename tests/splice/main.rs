//! Loopback traffic past the link, and ports that follow services: an engine between two network
//! namespaces, with real sockets on both sides.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod crossing;
mod ports;
mod queues;
mod rig;
mod strangers;
mod urgent;

use std::hash::{DefaultHasher, Hasher};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use passt::sandbox::socket_maker;
use passt::sys::namespace_socket::{NamespaceSockets, SocketKind, SocketMaker};
use passt_support::heap::{self, Counting};
use passt_support::namespace::Netns;
use rig::{GUEST_V4, GUEST_V6, PATIENCE, ROLE, Running, Setup, descriptors, eventually};
use rig::{in_namespace, role};

#[global_allocator]
static HEAP: Counting = Counting;

/// Ports: from host to guest, from guest to host, and one where nobody listens.
const INWARD: u16 = 2001;
const OUTWARD: u16 = 2002;
const NOBODY: u16 = 2003;
const FIXED: [&str; 4] = ["2001,2003", "2001", "2002,2003", "2002"];

const SMALL: usize = 2 * 1024;
const LARGE: usize = 10 * 1024 * 1024;

fn localhost(v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

/// One way through the engine: who connects, and to whom.
#[derive(Clone)]
struct Route {
    guest: Netns,
    inward: bool,
    v4: bool,
}

impl Route {
    fn all(guest: &Netns) -> Vec<Self> {
        let route = |(inward, v4)| Self { guest: guest.clone(), inward, v4 };
        [(true, true), (true, false), (false, true), (false, false)].map(route).to_vec()
    }

    fn port(&self) -> u16 {
        if self.inward { INWARD } else { OUTWARD }
    }

    /// Where the service listens.
    fn service(&self) -> SocketAddr {
        let address = match (self.inward, self.v4) {
            (true, true) => GUEST_V4.into(),
            (true, false) => GUEST_V6.into(),
            (false, v4) => localhost(v4),
        };
        SocketAddr::new(address, self.port())
    }

    /// Runs `body` where the service is, or else where its clients are.
    fn on<T: Send + 'static>(&self, service: bool, body: impl FnOnce() -> T + Send + 'static) -> T {
        if service == self.inward { self.guest.run(body) } else { body() }
    }

    fn listen(&self) -> TcpListener {
        let at = self.service();
        self.on(true, move || TcpListener::bind(at).unwrap())
    }

    fn connect(&self, port: u16) -> TcpStream {
        let to = SocketAddr::new(localhost(self.v4), port);
        let stream = self.on(false, move || TcpStream::connect(to).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A connection: the client's end and the service's.
    fn pair(&self, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = self.connect(self.port());
        let (service, _) = listener.accept().unwrap();
        service.set_read_timeout(Some(PATIENCE)).unwrap();
        (client, service)
    }

    fn udp(&self, service: bool, at: SocketAddr) -> UdpSocket {
        let socket = self.on(service, move || UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(&mut next).take(bytes).collect()
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

fn reset_on_close(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO)).unwrap();
}

#[test]
fn tcp_passes_both_ways_in_both_families() {
    in_namespace("tcp_passes_both_ways_in_both_families", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        for route in Route::all(&guest) {
            let listener = route.listen();
            for bytes in [SMALL, LARGE] {
                let (mut client, mut service) = route.pair(&listener);
                let peer = service.peer_addr().unwrap();
                let expected =
                    if route.inward { route.service().ip() } else { localhost(route.v4) };
                assert_eq!(peer.ip(), expected, "whom the service sees");
                let (question, reply) = (pattern(bytes, 1), pattern(bytes, 2));
                let (asked, answered) = (hash(&question), hash(&reply));
                // Both at once: the two ways do not wait for each other.
                let answers = std::thread::spawn(move || {
                    let mut writer = service.try_clone().unwrap();
                    let writes = std::thread::spawn(move || {
                        writer.write_all(&reply).unwrap();
                        writer.shutdown(Shutdown::Write).unwrap();
                    });
                    let got = read_all(&mut service);
                    writes.join().unwrap();
                    hash(&got)
                });
                let mut reader = client.try_clone().unwrap();
                let reads = std::thread::spawn(move || hash(&read_all(&mut reader)));
                client.write_all(&question).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(reads.join().unwrap(), answered);
                assert_eq!(answers.join().unwrap(), asked);
            }
            running.await_flows(0);
        }
    });
}

#[test]
fn half_close_leaves_the_other_way_open() {
    in_namespace("half_close_leaves_the_other_way_open", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        for route in Route::all(&guest) {
            let listener = route.listen();
            for client_first in [true, false] {
                let (client, service) = route.pair(&listener);
                let (mut first, mut second) =
                    if client_first { (client, service) } else { (service, client) };
                first.write_all(b"last words").unwrap();
                first.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_all(&mut second), b"last words");
                running.await_flows(1);
                let late = pattern(LARGE / 10, 3);
                let expected = hash(&late);
                let writes = std::thread::spawn(move || second.write_all(&late).unwrap());
                assert_eq!(hash(&read_all(&mut first)), expected);
                writes.join().unwrap();
                running.await_flows(0);
            }
        }
    });
}

#[test]
fn reset_reaches_the_other_end() {
    in_namespace("reset_reaches_the_other_end", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        for route in Route::all(&guest) {
            let listener = route.listen();
            for client_first in [true, false] {
                let (mut client, mut service) = route.pair(&listener);
                client.write_all(b"hello").unwrap();
                service.read_exact(&mut [0; 5]).unwrap();
                let (first, mut second) =
                    if client_first { (client, service) } else { (service, client) };
                reset_on_close(&first);
                drop(first);
                let error = second.read(&mut [0; 1]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                running.await_flows(0);
            }
        }
    });
}

#[test]
fn refused_connection_is_reset() {
    in_namespace("refused_connection_is_reset", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        for route in Route::all(&guest) {
            let mut client = route.connect(NOBODY);
            let error = client.read(&mut [0; 1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            running.await_flows(0);
        }
    });
}

#[test]
fn stalled_receiver_costs_no_turns() {
    in_namespace("stalled_receiver_costs_no_turns", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let listener = route.listen();
        let (mut client, mut service) = route.pair(&listener);
        client.set_nonblocking(true).unwrap();
        let chunk = pattern(64 * 1024, 4);
        let mut sent = Vec::new();
        eventually("full buffers", || {
            loop {
                match client.write(&chunk) {
                    Ok(written) => sent.extend_from_slice(&chunk[..written]),
                    Err(_) => {
                        // Full for good, not only until the engine has had its turn.
                        std::thread::sleep(Duration::from_millis(200));
                        return client.write(&chunk[..1]).map(|_| sent.push(chunk[0])).is_err();
                    }
                }
            }
        });
        // The rig's own timeout makes for 50 turns a second; a loop that spins has thousands.
        let before = running.turns();
        std::thread::sleep(Duration::from_millis(500));
        assert!(running.turns() - before < 200, "the loop waits for an event");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(hash(&read_all(&mut service)), hash(&sent));
        drop((client, service));
        running.await_flows(0);
    });
}

#[test]
fn two_thousand_short_connections_leave_nothing_behind() {
    in_namespace("two_thousand_short_connections_leave_nothing_behind", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let listener = route.listen();
        let talk = |count| {
            for _ in 0..count {
                let (mut client, mut service) = route.pair(&listener);
                client.write_all(b"ping").unwrap();
                service.read_exact(&mut [0; 4]).unwrap();
                service.write_all(b"pong").unwrap();
                drop(service);
                assert_eq!(read_all(&mut client), b"pong");
            }
            running.await_flows(0);
        };
        // 32 sockets are fetched at a time: after as many connections the stock is the same.
        talk(32);
        let before = descriptors();
        talk(2016);
        assert_eq!(descriptors(), before);
    });
}

#[test]
fn nothing_is_allocated_for_traffic() {
    in_namespace("nothing_is_allocated_for_traffic", || {
        heap::assert_counting();
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let before = running.allocations();
        let data = std::sync::Arc::new(pattern(LARGE / 4, 7));
        for route in Route::all(&guest) {
            let listener = route.listen();
            // More than a stock of sockets has, one after the other, and at once with data for pipes.
            for _ in 0..40 {
                let (mut client, mut service) = route.pair(&listener);
                client.write_all(b"ping").unwrap();
                service.read_exact(&mut [0; 4]).unwrap();
            }
            let pairs: Vec<_> = (0..40).map(|_| route.pair(&listener)).collect();
            for (mut client, mut service) in pairs {
                let data = data.clone();
                let writes = std::thread::spawn(move || client.write_all(&data).unwrap());
                assert_eq!(read_all(&mut service).len(), LARGE / 4);
                writes.join().unwrap();
            }
            running.await_flows(0);
        }
        // Kept, for no flow may get the ports of another.
        let mut clients = Vec::new();
        for route in Route::all(&guest) {
            let service = route.udp(true, route.service());
            for _ in 0..40 {
                let client = route.udp(false, SocketAddr::new(localhost(route.v4), 0));
                client.connect(SocketAddr::new(localhost(route.v4), route.port())).unwrap();
                client.send(b"ping").unwrap();
                let (length, peer) = service.recv_from(&mut [0; 16]).unwrap();
                service.send_to(&[0; 16][..length], peer).unwrap();
                assert_eq!(client.recv(&mut [0; 16]).unwrap(), 4);
                clients.push(client);
            }
        }
        running.await_flows(160);
        assert_eq!(running.allocations(), before);
    });
}

/// Clients in a process of their own, for each has limits of its own: connects, tells, and waits.
fn crowd(count: usize) {
    passt::sys::process::raise_descriptor_limit().unwrap();
    let to = SocketAddr::new(localhost(true), INWARD);
    let mut streams: Vec<_> = (0..count).map(|_| TcpStream::connect(to).unwrap()).collect();
    for stream in &mut streams {
        stream.write_all(b"x").unwrap();
    }
    for stream in &mut streams {
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    println!("all are served");
    std::io::stdin().read_exact(&mut [0; 1]).unwrap();
}

#[test]
fn five_thousand_connections_at_once_leave_nothing_behind() {
    const NAME: &str = "five_thousand_connections_at_once_leave_nothing_behind";
    if let Some(count) = role().and_then(|role| role.parse().ok()) {
        return crowd(count);
    }
    in_namespace(NAME, || {
        // Three descriptors each in this process.
        let limit = passt::sys::process::raise_descriptor_limit().unwrap().maximum as usize;
        let count = 5000.min((limit - 1000) / 3);
        assert!(count >= 1000, "a limit of {limit} descriptors is too low for this test");
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let listener = route.listen();
        drop(route.pair(&listener));
        running.await_flows(0);
        let before = descriptors();

        let mut clients = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(ROLE, count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut services: Vec<_> = (0..count).map(|_| listener.accept().unwrap().0).collect();
        for service in &mut services {
            service.read_exact(&mut [0; 1]).unwrap();
            service.write_all(b"y").unwrap();
        }
        let mut lines = BufReader::new(clients.stdout.take().unwrap()).lines();
        assert!(lines.by_ref().map(Result::unwrap).any(|line| line.contains("all are served")));
        running.await_flows(count);
        assert!(descriptors() <= before + 3 * count + 40, "two descriptors for each idle flow");
        clients.stdin.take().unwrap().write_all(b"!").unwrap();
        assert!(clients.wait().unwrap().success());
        drop(services);
        running.await_flows(0);
        drop((clients, lines));
        let now = descriptors();
        assert!(now <= before + 32, "{before} descriptors before, {now} after");
    });
}

#[test]
fn without_binding_to_interfaces_and_without_ipv6_ports_lead_out_over_ipv4() {
    let name = "without_binding_to_interfaces_and_without_ipv6_ports_lead_out_over_ipv4";
    in_namespace(name, || {
        let guest = rig::guest();
        guest.run(|| {
            let removed = Command::new("ip").args(["addr", "del", "::1/128", "dev", "lo"]).status();
            assert!(removed.unwrap().success());
        });
        let setup = Setup { device_binding: false, ..Setup::new(["none", "none", "2002", "2002"]) };
        let running = Running::start(&guest, setup);
        let route = Route { guest: guest.clone(), inward: false, v4: true };
        let (mut client, mut service) = route.pair(&route.listen());
        client.write_all(b"out").unwrap();
        drop(client);
        assert_eq!(read_all(&mut service), b"out");
        drop(service);
        // Nothing listens but on the loopback address.
        let elsewhere = SocketAddr::new(GUEST_V4.into(), OUTWARD);
        let refused = guest.run(move || TcpStream::connect(elsewhere).unwrap_err());
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        running.await_flows(0);
    });
}

#[test]
fn udp_passes_both_ways_in_both_families() {
    in_namespace("udp_passes_both_ways_in_both_families", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        for (index, route) in Route::all(&guest).iter().enumerate() {
            let service = route.udp(true, route.service());
            let client = route.udp(false, SocketAddr::new(localhost(route.v4), 3000));
            client.connect(SocketAddr::new(localhost(route.v4), route.port())).unwrap();
            for bytes in [SMALL, LARGE] {
                let sent = pattern(bytes, 5);
                let (mut there, mut back) = (Vec::new(), Vec::new());
                let mut buffer = vec![0; 65536];
                // Eight datagrams on their way at a time stay within every socket's buffer.
                for window in sent.chunks(8 * 8192) {
                    let parts = window.chunks(8192);
                    parts
                        .clone()
                        .for_each(|part| assert_eq!(client.send(part).unwrap(), part.len()));
                    for _ in parts.clone() {
                        let (length, peer) = service.recv_from(&mut buffer).unwrap();
                        assert_eq!(peer.port(), 3000, "the peer keeps its port");
                        there.extend_from_slice(&buffer[..length]);
                        service.send_to(&buffer[..length], peer).unwrap();
                    }
                    for _ in parts {
                        let length = client.recv(&mut buffer).unwrap();
                        back.extend_from_slice(&buffer[..length]);
                    }
                }
                assert_eq!((hash(&there), hash(&back)), (hash(&sent), hash(&sent)));
            }
            client.send(&[]).unwrap();
            assert_eq!(service.recv(&mut [0; 1]).unwrap(), 0, "empty datagrams pass");
            running.await_flows(index + 1);
        }
    });
}

#[test]
fn udp_flows_end_after_silence() {
    in_namespace("udp_flows_end_after_silence", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let service = route.udp(true, route.service());
        let client = |port| {
            let client = route.udp(false, SocketAddr::new(localhost(true), port));
            client.connect(SocketAddr::new(localhost(true), INWARD)).unwrap();
            client
        };
        let (asks, talks) = (client(3001), client(3002));
        asks.send(b"question").unwrap();
        service.recv_from(&mut [0; 16]).unwrap();
        for _ in 0..3 {
            talks.send(b"hello").unwrap();
            let (length, peer) = service.recv_from(&mut [0; 16]).unwrap();
            service.send_to(&[0; 16][..length], peer).unwrap();
            talks.recv(&mut [0; 16]).unwrap();
        }
        running.await_flows(2);
        running.sleep(28);
        assert_eq!(running.flows(), 2);
        running.sleep(3);
        assert_eq!(running.flows(), 1, "one way: 30 s");
        running.sleep(87);
        assert_eq!(running.flows(), 1);
        running.sleep(3);
        assert_eq!(running.flows(), 0, "both ways: 120 s");
    });
}

#[test]
fn more_long_flows_than_pipes_all_get_through() {
    in_namespace("more_long_flows_than_pipes_all_get_through", || {
        const COUNT: usize = 24;
        const BYTES: usize = 2 * 1024 * 1024;
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let listener = route.listen();
        let pairs: Vec<_> = (0..COUNT).map(|_| route.pair(&listener)).collect();
        let data = std::sync::Arc::new(pattern(BYTES, 6));
        let expected = hash(&data);
        let streams = pairs.into_iter().flat_map(|(client, service)| [client, service]);
        let ends = streams.map(|mut stream| {
            let (mut writer, data) = (stream.try_clone().unwrap(), data.clone());
            let writes = std::thread::spawn(move || {
                writer.write_all(&data).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let reads = std::thread::spawn(move || hash(&read_all(&mut stream)));
            (writes, reads)
        });
        for (writes, reads) in ends.collect::<Vec<_>>() {
            writes.join().unwrap();
            assert_eq!(reads.join().unwrap(), expected);
        }
        running.await_flows(0);
    });
}

#[test]
fn connections_pass_from_64_descriptors_on() {
    in_namespace("connections_pass_from_64_descriptors_on", || {
        const BYTES: usize = 2 * 1024 * 1024;
        let guest = rig::guest();
        for limit in [64, 128, 256] {
            let few = Setup { max_descriptors: Some(limit), ..Setup::new(FIXED) };
            let running = Running::start(&guest, few);
            let before = descriptors();
            for route in &Route::all(&guest) {
                let (mut client, mut service) = route.pair(&route.listen());
                let data = pattern(BYTES, 7);
                let expected = hash(&data);
                let writes = std::thread::spawn(move || {
                    client.write_all(&data).unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                });
                assert_eq!(hash(&read_all(&mut service)), expected, "with {limit} descriptors");
                writes.join().unwrap();
                drop(service);
                running.await_flows(0);
            }
            // What is kept for the next connections: a quarter of the limit.
            let kept = descriptors() - before;
            assert!(kept as u64 <= limit / 4, "{kept} descriptors are kept of {limit}");
        }
    });
}

/// Writes small pieces, which are copied, until nothing has fitted any more for a while; returns all of them.
fn stall(client: &mut TcpStream) -> Vec<u8> {
    client.set_nonblocking(true).unwrap();
    let mut sent = Vec::new();
    let mut chunk = pattern(10_000, 0);
    let mut last = std::time::Instant::now();
    while last.elapsed() < Duration::from_millis(50) {
        match client.write(&chunk) {
            Ok(written) => {
                sent.extend_from_slice(&chunk[..written]);
                chunk = pattern(10_000, (sent.len() / 10_000) as u8);
                last = std::time::Instant::now();
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    sent
}

/// TCP sockets of the current namespace have no more than 256 KiB in each direction.
fn small_buffers() {
    for file in ["tcp_rmem", "tcp_wmem"] {
        std::fs::write(format!("/proc/sys/net/ipv4/{file}"), "4096 65536 262144").unwrap();
    }
}

#[test]
fn more_stalled_receivers_than_pipes_get_everything_in_the_end() {
    in_namespace("more_stalled_receivers_than_pipes_get_everything_in_the_end", || {
        const COUNT: usize = 40;
        let guest = rig::guest();
        // What stalls is what does not fit, however much that is.
        small_buffers();
        guest.run(small_buffers);
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let listener = route.listen();
        let mut pairs: Vec<_> = (0..COUNT).map(|_| route.pair(&listener)).collect();
        let sent: Vec<Vec<u8>> = pairs.iter_mut().map(|(client, _)| stall(client)).collect();
        for (client, _) in &pairs {
            client.shutdown(Shutdown::Write).unwrap();
        }
        for ((_, service), sent) in pairs.iter_mut().zip(&sent) {
            assert_eq!(hash(&read_all(service)), hash(sent));
        }
        drop(pairs);
        running.await_flows(0);
    });
}

#[test]
fn helper_says_what_failed_and_ends_with_its_owner() {
    in_namespace("helper_says_what_failed_and_ends_with_its_owner", || {
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = NamespaceSockets::start(null.as_fd(), &socket_maker().unwrap()).unwrap_err();
        assert_eq!(error, rustix::io::Errno::INVAL, "what setns(2) said");

        let own = std::fs::File::open("/proc/self/ns/net").unwrap();
        let mut sockets = NamespaceSockets::start(own.as_fd(), &socket_maker().unwrap()).unwrap();
        let helper = sockets.pid();
        // What it has just sent is closed there a moment later.
        eventually("nothing but the channel to be open in the helper", || {
            std::fs::read_dir(format!("/proc/{helper}/fd")).unwrap().count() == 1
        });
        for kind in [SocketKind::Tcp4, SocketKind::Tcp6, SocketKind::Udp4, SocketKind::Udp6] {
            for _ in 0..40 {
                let socket = sockets.make(kind).unwrap();
                let flags = rustix::fs::fcntl_getfl(&socket).unwrap();
                assert!(flags.contains(rustix::fs::OFlags::NONBLOCK), "{kind:?}");
            }
        }
        let is_there = |pid: i32| std::fs::exists(format!("/proc/{pid}")).unwrap();
        sockets.stop();
        sockets.reap();
        assert!(!is_there(helper), "it has ended, and was reaped");
        assert_eq!(sockets.make(SocketKind::Udp4).unwrap_err(), rustix::io::Errno::PIPE);
        sockets.restart(own.as_fd(), &socket_maker().unwrap()).unwrap();
        sockets.make(SocketKind::Udp4).unwrap();
        let helper = sockets.pid();
        drop(sockets);
        assert!(!is_there(helper), "the other one, too");
    });
}

/// Whether somebody listens there. On a busy machine a connection that is taken and reset at once, as one
/// to a service that has just gone, fails with another error than a port without listener.
fn is_open(route: &Route, port: u16) -> bool {
    let to = SocketAddr::new(localhost(route.v4), port);
    route.on(false, move || match TcpStream::connect(to) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::ConnectionRefused,
    })
}

#[test]
fn ports_follow_services() {
    in_namespace("ports_follow_services", || {
        let guest = rig::guest();
        let _running = Running::start(&guest, Setup::new(["auto", "auto", "auto", "auto"]));
        for route in Route::all(&guest) {
            let service = SocketAddr::new(route.service().ip(), 4000);
            assert!(!is_open(&route, 4000));
            let listener = route.on(true, move || TcpListener::bind(service).unwrap());
            eventually("the port to open", || is_open(&route, 4000));
            let mut client = route.connect(4000);
            listener.set_nonblocking(true).unwrap();
            // The tries of `is_open` are in the queue as well: the last one is ours.
            client.write_all(b"hello").unwrap();
            let mut found = false;
            eventually("the connection", || {
                if let Ok((mut peer, _)) = listener.accept() {
                    peer.set_nonblocking(false).unwrap();
                    found |= read_some(&mut peer) == b"hello";
                }
                found
            });
            drop((client, listener));
            eventually("the port to close", || !is_open(&route, 4000));
        }
    });
}

fn read_some(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut buffer = [0; 16];
    let length = stream.read(&mut buffer).unwrap_or(0);
    buffer[..length].to_vec()
}

/// Whether a datagram is taken there, and not answered with an ICMP error.
fn is_udp_open(route: &Route, to: SocketAddr) -> bool {
    let probe = route.udp(false, SocketAddr::new(to.ip(), 0));
    probe.connect(to).unwrap();
    probe.send(&[]).unwrap();
    probe.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    !matches!(probe.recv(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn udp_ports_follow_udp_and_tcp_services() {
    in_namespace("udp_ports_follow_udp_and_tcp_services", || {
        let guest = rig::guest();
        let _running = Running::start(&guest, Setup::new(["auto", "auto", "auto", "auto"]));
        for (index, route) in Route::all(&guest).into_iter().enumerate() {
            // Flows of one round keep their ports for a while.
            let (udp_port, tcp_port) = (4100 + index as u16, 4200 + index as u16);
            let at = |port| SocketAddr::new(localhost(route.v4), port);
            let open = |port| is_udp_open(&route, at(port));
            let service = route.udp(true, SocketAddr::new(route.service().ip(), udp_port));
            let tcp = SocketAddr::new(route.service().ip(), tcp_port);
            let listener = route.on(true, move || TcpListener::bind(tcp).unwrap());
            eventually("the port to open", || open(udp_port));
            eventually("the port of the TCP service to open for UDP", || open(tcp_port));
            let client = route.udp(false, at(0));
            client.send_to(b"hello", at(udp_port)).unwrap();
            let mut buffer = [0; 16];
            // The probes come first; they are empty.
            let (length, peer) = loop {
                let got = service.recv_from(&mut buffer).unwrap();
                if got.0 > 0 {
                    break got;
                }
            };
            service.send_to(&buffer[..length], peer).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 5);
            drop((service, listener));
            eventually("the ports to close", || !open(udp_port) && !open(tcp_port));
        }
    });
}

#[test]
fn what_we_listen_on_is_not_forwarded_back() {
    in_namespace("what_we_listen_on_is_not_forwarded_back", || {
        let guest = rig::guest();
        let _running = Running::start(&guest, Setup::new(["auto", "auto", "auto", "auto"]));
        for inward in [true, false] {
            let there = Route { guest: guest.clone(), inward, v4: true };
            let back = Route { inward: !inward, ..there.clone() };
            let service = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 4300);
            let listener = there.on(true, move || TcpListener::bind(service).unwrap());
            eventually("the port to open", || is_open(&there, 4300));
            drop(listener);
            // If our socket on one side kept one on the other side open, neither would ever close.
            eventually("the port to close", || !is_open(&there, 4300));
            std::thread::sleep(3 * passt::flow::scan::SCAN_PERIOD);
            assert!(!is_open(&there, 4300) && !is_open(&back, 4300));
        }
    });
}

#[test]
fn ports_of_the_guest_leave_descriptors_for_flows() {
    in_namespace("ports_of_the_guest_leave_descriptors_for_flows", || {
        const SERVICES: u16 = 3000;
        let guest = rig::guest();
        let bind = |port: u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        let services = guest.run(move || (5000..5000 + SERVICES).map(bind).collect::<Vec<_>>());
        let before = descriptors();
        let auto =
            Setup { max_descriptors: Some(1600), ..Setup::new(["auto", "none", "none", "none"]) };
        let running = Running::start(&guest, auto);
        let opened = || descriptors() - before;
        // Half of what is left after those that are kept back, and the engine's own few.
        eventually("half of the descriptors in use", || opened() > 650);
        let turns = running.turns();
        std::thread::sleep(2 * passt::flow::scan::SCAN_PERIOD);
        assert!(running.turns() > turns);
        assert!(opened() < 750, "{} descriptors are in use", opened());
        drop(services);
    });
}

#[test]
fn services_that_cannot_be_reached_open_no_port() {
    in_namespace("services_that_cannot_be_reached_open_no_port", || {
        let guest = rig::guest();
        let route = &Route::all(&guest)[0];
        let hidden = guest.run(|| TcpListener::bind("127.0.0.1:4400").unwrap());
        let shown = guest.run(|| TcpListener::bind("0.0.0.0:4401").unwrap());
        let auto = Setup::new(["auto", "none", "none", "none"]);
        let running = Running::start(&guest, auto.clone());
        assert!(is_open(route, 4401), "ports are open from the start");
        assert!(!is_open(route, 4400));
        drop(running);
        let mut keep = auto;
        keep.how.keep_loopback = true;
        let _running = Running::start(&guest, keep);
        assert!(is_open(route, 4400) && is_open(route, 4401));
        drop((hidden, shown));
    });
}
