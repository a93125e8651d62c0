//! Ports that follow services: open while there is one behind them.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use passt_support::wait::eventually;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use crate::rig::{self, Running, Setup, descriptors, in_namespace};
use crate::{Route, localhost};

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
    in_namespace("following::ports_follow_services", || {
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

/// A listening socket on all addresses of one family.
fn wildcard(v4: bool, port: u16) -> TcpListener {
    let (family, any) = match v4 {
        true => (AddressFamily::INET, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        false => (AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = socket(family, SocketType::STREAM, None).unwrap();
    if !v4 {
        sockopt::set_ipv6_v6only(&socket, true).unwrap();
    }
    bind(&socket, &SocketAddr::new(any, port)).unwrap();
    rustix::net::listen(&socket, 16).unwrap();
    socket.into()
}

#[test]
fn ports_are_open_in_the_families_of_their_services() {
    in_namespace("following::ports_are_open_in_the_families_of_their_services", || {
        let guest = rig::guest();
        let _running = Running::start(&guest, Setup::new(["auto", "auto", "auto", "auto"]));
        for (route, port) in Route::all(&guest).into_iter().zip(4500..) {
            let other = Route { v4: !route.v4, ..route.clone() };
            let v4 = route.v4;
            let first = route.on(true, move || wildcard(v4, port));
            eventually("the port to open", || is_open(&route, port));
            assert!(!is_open(&other, port), "nothing is there");
            let second = route.on(true, move || wildcard(!v4, port));
            eventually("the port of the other family to open", || is_open(&other, port));
            drop(first);
            eventually("the port to close", || !is_open(&route, port));
            assert!(is_open(&other, port));
            drop(second);
            eventually("all of it to close", || !is_open(&other, port));
            let both = route.on(true, move || [true, false].map(|v4| wildcard(v4, port)));
            eventually("both to open", || is_open(&route, port) && is_open(&other, port));
            let [kept_v4, kept_v6] = both;
            drop(if v4 { kept_v6 } else { kept_v4 });
            eventually("one to close", || !is_open(&other, port));
            eventually("the other one to stay", || is_open(&route, port));
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
    in_namespace("following::udp_ports_follow_udp_and_tcp_services", || {
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
    in_namespace("following::what_we_listen_on_is_not_forwarded_back", || {
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
    in_namespace("following::ports_of_the_guest_leave_descriptors_for_flows", || {
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
    in_namespace("following::services_that_cannot_be_reached_open_no_port", || {
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

#[test]
fn of_ranges_those_ports_are_open_that_have_a_service() {
    in_namespace("following::of_ranges_those_ports_are_open_that_have_a_service", || {
        let guest = rig::guest();
        let auto = "auto,8000-9000,~8080,9500:22";
        // Both ways and both families, each once.
        for (ports, inward, v4) in [
            ([auto, "none", "none", "none"], true, true),
            (["none", "none", auto, "none"], false, false),
        ] {
            let route = &Route { guest: guest.clone(), inward, v4 };
            let service = route.service().ip();
            let bind = move |port: u16| TcpListener::bind((service, port)).unwrap();
            let services = route.on(true, move || [7999, 8079, 8080, 8081, 22].map(bind));
            let _running = Running::start(&guest, Setup::new(ports));
            let open = [7999, 8000, 8079, 8080, 8081, 9000, 9500].map(|port| is_open(route, port));
            assert_eq!(open, [false, false, true, false, true, false, true], "{inward}");
            drop(services);
            eventually("the ports to close", || {
                ![8079, 8081, 9500].map(|p| is_open(route, p)).contains(&true)
            });
            let late = route.on(true, move || bind(9000));
            eventually("the port to open", || is_open(route, 9000));
            drop(late);
        }
    });
}

/// A program that lets others share its port goes on getting what is for it.
#[test]
fn ports_of_programs_that_would_share_them_are_left_to_them() {
    in_namespace("following::ports_of_programs_that_would_share_them_are_left_to_them", || {
        let guest = rig::guest();
        for inward in [true, false] {
            let v4 = true;
            let setup = if inward {
                ["none", "auto", "none", "none"]
            } else {
                ["none", "none", "none", "auto"]
            };
            let _running = Running::start(&guest, Setup::new(setup));
            let route = Route { guest: guest.clone(), inward, v4 };
            let sharing = |at: SocketAddr| {
                let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
                sockopt::set_socket_reuseaddr(&socket, true).unwrap();
                bind(&socket, &at).unwrap();
                UdpSocket::from(socket)
            };
            let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 4400);
            let own = route.on(false, move || sharing(at));
            let _theirs = route.on(true, move || sharing(at));
            std::thread::sleep(3 * passt::flow::scan::SCAN_PERIOD);
            let client = route.udp(false, SocketAddr::new(localhost(v4), 0));
            own.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            client.send_to(b"mine", (localhost(v4), 4400)).unwrap();
            assert_eq!(own.recv(&mut [0; 8]).ok(), Some(4), "inward: {inward}");
            // When it has ended, the other side's service is reached.
            drop(own);
            let theirs = SocketAddr::new(localhost(v4), 4400);
            eventually("the port to open", || is_udp_open(&route, theirs));
        }
    });
}
