//! Servers that are slower than their clients, behind a queue that is shorter than the burst: who comes waits in the
//! host's queue, where nothing is lost, and is served in the order in which it came.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use passt_support::namespace::Netns;
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

use crate::rig::{self, GUEST_V4, GUEST_V6, PATIENCE, Running, Setup, in_namespace};
use crate::{FIXED, INWARD, OUTWARD, localhost};

/// Clients of one burst.
const CLIENTS: usize = 1500;
/// Connections that the server's queue takes, beside one.
const SERVERS_BACKLOG: i32 = 8;
/// What the server needs for each of them.
const SERVICE: Duration = Duration::from_millis(2);

fn listener(at: SocketAddr, backlog: i32) -> TcpListener {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &at).unwrap();
    listen(&socket, backlog).unwrap();
    socket.into()
}

/// A server that answers `count` questions of two bytes, one after the other, with the same. Returns them in order.
fn start(listener: TcpListener, count: usize, service: Duration) -> JoinHandle<Vec<u16>> {
    std::thread::spawn(move || {
        let mut served = Vec::new();
        while served.len() < count {
            std::thread::sleep(service);
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut question = [0; 2];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&question).unwrap();
            served.push(u16::from_be_bytes(question));
        }
        served
    })
}

/// Connects all clients at once, each with its number as its question.
fn burst(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let ask = |number: usize| {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(&(number as u16).to_be_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    (0..count).map(ask).collect()
}

/// How many of the clients have their answer in time.
fn answered(mut clients: Vec<TcpStream>, within: Duration) -> usize {
    let (end, all) = (Instant::now() + within, clients.len());
    while !clients.is_empty() && Instant::now() < end {
        clients.retain_mut(|client| match client.read_exact(&mut [0; 2]) {
            Ok(()) => false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Err(error) => panic!("a client was not served: {error}"),
        });
        std::thread::sleep(Duration::from_millis(5));
    }
    all - clients.len()
}

/// Where the server of a way listens, and where its clients connect to.
fn ends(inward: bool, v4: bool) -> (SocketAddr, SocketAddr) {
    let loopback = localhost(v4);
    let guest = if v4 { IpAddr::from(GUEST_V4) } else { GUEST_V6.into() };
    match inward {
        true => ((guest, INWARD).into(), (loopback, INWARD).into()),
        false => ((loopback, OUTWARD).into(), (loopback, OUTWARD).into()),
    }
}

/// Runs `body` where the server of a way is, or else where its clients are.
fn on<T: Send + 'static>(
    guest: &Netns,
    in_guest: bool,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    if in_guest { guest.run(body) } else { body() }
}

#[test]
fn a_burst_for_a_slow_server_is_served_whole_and_in_order() {
    in_namespace("queues::a_burst_for_a_slow_server_is_served_whole_and_in_order", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let few = CLIENTS / 5;
        for (inward, v4, backlog, count) in [
            (true, true, SERVERS_BACKLOG, CLIENTS),
            (false, true, SERVERS_BACKLOG, few),
            (true, true, 0, few),
            (true, false, SERVERS_BACKLOG, few),
            (false, false, 0, few),
        ] {
            let (at, to) = ends(inward, v4);
            let server = on(&guest, inward, move || listener(at, backlog));
            let server = start(server, count, SERVICE);
            let clients = on(&guest, !inward, move || burst(to, count));
            assert_eq!(answered(clients, Duration::from_secs(30)), count, "answered");
            let served = server.join().unwrap();
            assert!(served.is_sorted(), "in order: {served:?}");
            running.await_flows(0);
        }
    });
}

#[test]
fn a_server_that_accepts_nobody_holds_up_others_for_a_while_only() {
    in_namespace("queues::a_server_that_accepts_nobody_holds_up_others_for_a_while_only", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let (at, to) = ends(true, true);
        let server = guest.run(move || listener(at, 0));
        // One is in the server's queue, one waits for a place in it, and the others in the host's queue.
        let clients = burst(to, 6);
        running.await_flows(2);
        running.sleep(0);
        assert_eq!(running.flows(), 2);
        // After a while nobody waits with it any more.
        running.sleep(3);
        running.await_flows(6);
        // Who leaves makes room for the next: here is the first that waits for a place.
        sockopt::set_socket_linger(clients[1].as_fd(), Some(Duration::ZERO)).unwrap();
        let mut clients = clients;
        drop(clients.remove(1));
        // And all that stay are served when the server goes on.
        let server = start(server, 5, Duration::ZERO);
        assert_eq!(answered(clients, PATIENCE), 5);
        server.join().unwrap();
        running.await_flows(0);
    });
}

#[test]
fn a_port_where_nobody_listens_resets_at_once() {
    in_namespace("queues::a_port_where_nobody_listens_resets_at_once", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let (_, to) = ends(true, true);
        for _ in 0..20 {
            let reset = TcpStream::connect(to).and_then(|mut stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.read(&mut [0])
            });
            let kind = reset.map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::ConnectionReset));
        }
        running.await_flows(0);
    });
}

/// Two servers on one port, at two addresses: the one that accepts nobody is asked again and again.
#[test]
fn a_server_that_accepts_nobody_does_not_keep_others_from_theirs() {
    in_namespace("queues::a_server_that_accepts_nobody_does_not_keep_others_from_theirs", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let at = |last| SocketAddr::new(Ipv4Addr::new(127, 0, 0, last).into(), OUTWARD);
        let (_stuck, healthy) = (listener(at(2), 0), listener(at(1), 64));
        let ask = |to| guest.run(move || burst(to, 1)).remove(0);
        // One is in its queue, and each other one would wait for two seconds.
        let mut waiting: Vec<TcpStream> = (0..2).map(|_| ask(at(2))).collect();
        running.await_flows(2);
        running.sleep(3);
        let server = start(healthy, 20, Duration::ZERO);
        for _ in 0..20 {
            waiting.push(ask(at(2)));
            let clients = vec![ask(at(1))];
            assert_eq!(answered(clients, Duration::from_secs(1)), 1);
        }
        server.join().unwrap();
    });
}

/// A handshake with another machine takes its time, and says nothing of a queue.
#[test]
fn connections_to_elsewhere_keep_nobody_waiting() {
    in_namespace("queues::connections_to_elsewhere_keep_nobody_waiting", || {
        let link = "ip link add d0 type veth peer name d1 && ip addr add 198.51.100.1/24 dev d0 &&
            ip link set d0 up && ip link set d1 up &&
            ip neigh add 198.51.100.9 lladdr 02:00:00:00:00:09 dev d0";
        assert!(Command::new("sh").args(["-c", link]).status().unwrap().success());
        let guest = rig::guest();
        let ports = ["none", "none", "2002:198.51.100.9/80", "none"];
        let running = Running::start(&guest, Setup { ipv6: false, ..Setup::new(ports) });
        // Nobody answers there.
        let to = SocketAddr::new(localhost(true), OUTWARD);
        let clients = guest.run(move || burst(to, 3));
        running.sleep(0);
        assert_eq!(running.flows(), 3);
        drop(clients);
    });
}
