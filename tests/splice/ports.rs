//! Ports: how those are shared out that nobody asks for one by one, and source ports that are kept.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;

use passt::flow::fwd::Bypass;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::rig::{self, PATIENCE, Running, Setup, in_namespace};
use crate::{FIXED, INWARD, Route, localhost};

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

/// Addresses of the host on its loopback device, beside loopback ones.
const HOST_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);

fn host_addresses() {
    let lines = format!(
        "ip addr add {HOST_V4}/32 dev lo; ip addr add {HOST_V6}/128 dev lo nodad
        until ip -6 route show table local | grep '^local {HOST_V6} ' >/dev/null; do sleep 0.01; done"
    );
    assert!(Command::new("sh").args(["-ec", &lines]).status().unwrap().success());
}

/// A stream from the address `from` to the port that leads to the guest at `to`.
fn stream(from: IpAddr, to: IpAddr) -> TcpStream {
    let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let client = socket(family, SocketType::STREAM, None).unwrap();
    bind(&client, &SocketAddr::new(from, 0)).unwrap();
    connect(&client, &SocketAddr::new(to, INWARD)).unwrap();
    let client = TcpStream::from(client);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

#[test]
fn without_a_link_every_address_of_the_host_leads_loopback_clients_to_loopback_services() {
    in_namespace(
        "ports::without_a_link_every_address_of_the_host_leads_loopback_clients_to_loopback_services",
        || {
            host_addresses();
            let guest = rig::guest();
            let how = Bypass { enabled: true, keep_loopback: true, only: true };
            let _running = Running::start(&guest, Setup { how, ..Setup::new(FIXED) });
            for v4 in [true, false] {
                let route = Route { guest: guest.clone(), inward: true, v4 };
                let (lo, host) = (localhost(v4), if v4 { HOST_V4.into() } else { HOST_V6.into() });
                let at = SocketAddr::new(lo, INWARD);
                let listener = route.on(true, move || TcpListener::bind(at).unwrap());
                std::thread::spawn(move || {
                    for _ in 0..2 {
                        let (mut service, from) = listener.accept().unwrap();
                        write!(service, "{}", from.ip()).unwrap();
                    }
                });
                let datagrams = route.udp(true, at);
                for to in [lo, host] {
                    let mut seen = String::new();
                    stream(lo, to).read_to_string(&mut seen).unwrap();
                    assert_eq!(seen, lo.to_string(), "{to}");

                    let client = UdpSocket::bind((lo, 0)).unwrap();
                    client.set_read_timeout(Some(PATIENCE)).unwrap();
                    client.connect((to, INWARD)).unwrap();
                    client.send(b"?").unwrap();
                    let (_, from) = datagrams.recv_from(&mut [0]).unwrap();
                    datagrams.send_to(b"!", from).unwrap();
                    assert_eq!(client.recv(&mut [0]).unwrap(), 1, "{to}");
                }
                // Who has another address has no way in.
                assert!(stream(host, host).read(&mut [0]).is_err());
            }
        },
    );
}
