//! Loopback traffic past the link, and ports that follow services: an engine between two network
//! namespaces, with real sockets on both sides.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod crossing;
mod failed;
mod following;
mod gone;
mod many;
mod ports;
mod queues;
mod rig;
mod strangers;
mod urgent;

use std::hash::{DefaultHasher, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use passt::sandbox::socket_maker;
use passt::sys::namespace_socket::{NamespaceSockets, SocketKind, SocketMaker};
use passt::sys::process::WhenTold;
use passt::sys::socket::set_int;
use passt_support::heap::{self, Counting};
use passt_support::namespace::Netns;
use passt_support::wait::eventually;
use rig::in_namespace;
use rig::{GUEST_V4, GUEST_V6, PATIENCE, Running, Setup};

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
fn an_answer_before_a_reset_arrives() {
    in_namespace("an_answer_before_a_reset_arrives", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        for route in Route::all(&guest) {
            let listener = route.listen();
            for size in [300, 100_000] {
                let (mut client, mut service) = route.pair(&listener);
                client.write_all(b"a long request").unwrap();
                service.read_exact(&mut [0; 2]).unwrap();
                // It has not read all, so that its kernel resets.
                service.write_all(&pattern(size, 7)).unwrap();
                drop(service);
                let mut answer = vec![0; size];
                client.read_exact(&mut answer).unwrap();
                assert!(answer == pattern(size, 7));
                let error = client.read(&mut [0; 1]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                running.await_flows(0);
            }
        }
    });
}

/// A server that refuses an upload: what tells of the reset first may be a write of ours.
#[test]
fn an_answer_in_the_middle_of_an_upload_arrives() {
    in_namespace("an_answer_in_the_middle_of_an_upload_arrives", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let mut lost = 0;
        for route in Route::all(&guest) {
            let listener = route.listen();
            for _ in 0..30 {
                let (client, mut service) = route.pair(&listener);
                let mut sender = client.try_clone().unwrap();
                // Buffers may take all of it.
                let upload = std::thread::spawn(move || drop(sender.write_all(&vec![0; LARGE])));
                service.read_exact(&mut [0; SMALL]).unwrap();
                service.write_all(b"refused").unwrap();
                drop(service);
                upload.join().unwrap();
                let mut answer = [0; 7];
                let whole = (&client).read_exact(&mut answer).is_ok();
                lost += usize::from(!(whole && &answer == b"refused"));
                running.await_flows(0);
            }
        }
        assert_eq!(lost, 0, "of 120");
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
fn without_binding_to_interfaces_ports_lead_out_from_both_loopback_addresses() {
    let name = "without_binding_to_interfaces_ports_lead_out_from_both_loopback_addresses";
    in_namespace(name, || {
        let guest = rig::guest();
        let setup = Setup { device_binding: false, ..Setup::new(["none", "none", "2002", "2002"]) };
        let _running = Running::start(&guest, setup);
        for route in Route::all(&guest).into_iter().filter(|route| !route.inward) {
            let (mut client, mut service) = route.pair(&route.listen());
            client.write_all(b"out").unwrap();
            drop(client);
            assert_eq!(read_all(&mut service), b"out");
            let service = route.udp(true, route.service());
            let client = route.udp(false, SocketAddr::new(localhost(route.v4), 0));
            client.send_to(b"out", SocketAddr::new(localhost(route.v4), OUTWARD)).unwrap();
            assert_eq!(service.recv_from(&mut [0; 16]).unwrap().0, 3, "IPv4: {}", route.v4);
        }
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
fn bursts_pass_whatever_either_loopback_device_takes() {
    in_namespace("bursts_pass_whatever_either_loopback_device_takes", || {
        let guest = rig::guest();
        let _running = Running::start(&guest, Setup::new(FIXED));
        for narrow in [false, true] {
            if narrow {
                let status = guest
                    .run(|| Command::new("ip").args(["link", "set", "lo", "mtu", "1300"]).status());
                assert!(status.unwrap().success());
            }
            for route in Route::all(&guest) {
                let service = route.udp(true, route.service());
                let client = route.udp(false, SocketAddr::new(localhost(route.v4), 0));
                client.connect(SocketAddr::new(localhost(route.v4), route.port())).unwrap();
                client.send(b"first").unwrap();
                let mut buffer = vec![0; 65536];
                let (_, peer) = service.recv_from(&mut buffer).unwrap();
                service.connect(peer).unwrap();
                for (from, to) in [(&client, &service), (&service, &client)] {
                    // A device that takes no segments of that size has none of its own to send.
                    let sent = send_burst(from, 1280, &pattern(20 * 1280 - 7, 3));
                    if !sent && narrow {
                        continue;
                    }
                    let mut got = Vec::new();
                    for left in (0..20).rev() {
                        let length = to.recv(&mut buffer).unwrap();
                        assert_eq!(length, if left == 0 { 1273 } else { 1280 });
                        got.extend_from_slice(&buffer[..length]);
                    }
                    assert_eq!(hash(&got), hash(&pattern(20 * 1280 - 7, 3)));
                }
            }
        }
    });
}

/// Sends datagrams of `size` bytes with one call; false if the way is too narrow for such.
fn send_burst(from: &UdpSocket, size: i32, bytes: &[u8]) -> bool {
    set_int(from.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, size).unwrap();
    let sent = from.send(bytes);
    set_int(from.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).unwrap();
    sent.is_ok()
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
fn helper_says_what_failed_and_ends_with_its_owner() {
    in_namespace("helper_says_what_failed_and_ends_with_its_owner", || {
        let filter = socket_maker().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = NamespaceSockets::start(null.as_fd(), &filter, WhenTold::Ends).unwrap_err();
        assert_eq!(error, rustix::io::Errno::INVAL, "what setns(2) said");

        let own = std::fs::File::open("/proc/self/ns/net").unwrap();
        let mut sockets = NamespaceSockets::start(own.as_fd(), &filter, WhenTold::Ends).unwrap();
        let helper = sockets.pid();
        // What it has just sent is closed there a moment later.
        eventually("nothing but the channel to be open in the helper", || {
            std::fs::read_dir(format!("/proc/{helper}/fd")).unwrap().count() == 1
        });
        let of_helper = |what: &str| format!("/proc/{helper}/{what}");
        assert_eq!(std::fs::read_to_string(of_helper("comm")).unwrap(), "socket-maker\n");
        assert_eq!(std::fs::read_link(of_helper("cwd")).unwrap().to_str(), Some("/"));
        let session = rustix::process::getsid(rustix::process::Pid::from_raw(helper));
        assert_eq!(session.unwrap().as_raw_nonzero().get(), helper);
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
        sockets.restart(own.as_fd(), &filter).unwrap();
        sockets.make(SocketKind::Udp4).unwrap();
        let helper = sockets.pid();
        drop(sockets);
        assert!(!is_there(helper), "the other one, too");
    });
}
