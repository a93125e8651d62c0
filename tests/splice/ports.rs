//! Ports: how those are shared out that nobody asks for one by one, and source ports that are kept.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::rig::{self, Running, Setup, in_namespace};
use crate::{FIXED, Route, localhost};

/// Listening sockets of this namespace by the kernel's tables, TCP's and UDP's.
fn listening() -> [usize; 2] {
    ["tcp", "udp"].map(|name| {
        let table = std::fs::read_to_string(format!("/proc/self/net/{name}6")).unwrap();
        table.lines().count() - 1
    })
}

#[test]
fn ports_of_several_options_share_what_there_is() {
    in_namespace("ports::ports_of_several_options_share_what_there_is", || {
        let guest = rig::guest();
        let with = |ports| {
            let few = Setup { max_descriptors: Some(1600), ..Setup::new(ports) };
            let _running = Running::start(&guest, few);
            listening()
        };
        let [tcp, udp] = with(["all", "all", "none", "none"]);
        assert!(tcp.abs_diff(udp) <= 1 && tcp + udp > 600, "{tcp} and {udp}");
        // What is asked for by number comes first, and what one does not want is the other's.
        let [tcp, udp] = with(["all", "7000-7099", "none", "none"]);
        assert_eq!(udp, 100);
        assert!(tcp + udp > 600, "{tcp}");
        let [tcp, udp] = with(["all", "~1-4999,~5100-65535", "none", "none"]);
        assert_eq!(udp, 100, "no more than there are");
        assert!(tcp + udp > 600, "{tcp}");
    });
}

/// Connects from a port of our choice.
fn connect_from(port: u16, to: SocketAddr) -> OwnedFd {
    let v4 = to.is_ipv4();
    let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let client = socket(family, SocketType::STREAM, None).unwrap();
    let any = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    bind(&client, &SocketAddr::new(any, port)).unwrap();
    connect(&client, &to).unwrap();
    client
}

#[test]
fn a_reserved_source_port_stays_one() {
    in_namespace("ports::a_reserved_source_port_stays_one", || {
        let guest = rig::guest();
        let _running = Running::start(&guest, Setup::new(FIXED));
        // Each has ports of its own: what an earlier one leaves behind has some for a while.
        for (route, kept) in Route::all(&guest).into_iter().zip([600, 700, 800, 900]) {
            let listener = route.listen();
            let to = SocketAddr::new(localhost(route.v4), route.port());
            let _client = route.on(false, move || connect_from(kept, to));
            let (_service, peer) = listener.accept().unwrap();
            assert_eq!(peer.port(), kept, "{:?}", route.service());
            // Taken on the other side: another one.
            let taken = SocketAddr::new(route.service().ip(), kept + 50);
            let _taken = route.on(true, move || TcpListener::bind(taken).unwrap());
            let _client = route.on(false, move || connect_from(kept + 50, to));
            let (_service, peer) = listener.accept().unwrap();
            assert_eq!(peer.port(), kept + 49, "{:?}", route.service());
            let _client = route.on(false, move || connect_from(4000 + kept, to));
            let (_service, peer) = listener.accept().unwrap();
            assert!(peer.port() >= 1024 && peer.port() != 4000 + kept, "{peer}");
        }
    });
}
