//! DNS queries to the address of `--dns-forward` whose server is of the other address family: the one
//! kind of flow whose guest side and host side differ in it.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use passt::flow::fwd::Mapping;
use smoltcp::socket::tcp::State;
use smoltcp::wire::IpAddress;

use crate::datagrams::{awaited, bound, guest_at, known, one_message, received};
use crate::fragments::{cut, message, send_all};
use crate::guest::{Guest, until};
use crate::namespace::isolated;
use crate::packet;
use crate::tcp::{noise, read_some, write_some};
use crate::world::{FAMILIES, Family, OFFLOADS, PLAIN, Setup, World, mapping};

/// Where a guest of this family sends its queries.
fn forward_at(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.of(Ipv4Addr::new(192, 0, 2, 98), "2001:db8::98"), port)
}

fn other(family: Family) -> Family {
    if family == Family::V4 { Family::V6 } else { Family::V4 }
}

/// Mappings of a host whose one server is of the other family than the guest's queries.
fn crossed(family: Family) -> Mapping {
    let mut map = mapping();
    for ip in [forward_at(family, 53).ip(), other(family).host()] {
        let matched = ip.is_ipv4() == (family == Family::V4);
        match ip {
            IpAddr::V4(v4) if matched => map.v4.dns_match = Some(v4),
            IpAddr::V6(v6) if matched => map.v6.dns_match = Some(v6),
            IpAddr::V4(v4) => map.v4.dns_host = Some(v4),
            IpAddr::V6(v6) => map.v6.dns_host = Some(v6),
        }
    }
    map
}

#[test]
fn udp_queries_and_answers_change_their_family() {
    isolated(|| {
        for (family, caps) in FAMILIES.into_iter().flat_map(|f| [(f, PLAIN), (f, OFFLOADS)]) {
            let setup = Setup { caps, mtu: 65535, map: crossed(family), ..Setup::default() };
            let mut world = World::new(&setup);
            let mut guest = Guest::new(&mut world, 65535);
            let handle = guest.udp(5000);
            for port in [53, 853] {
                let server = bound(other(family).host_at(port));
                for size in [0, 40, 1232, 1473, 4096, 65487] {
                    let query = noise(size);
                    let to = (IpAddress::from(forward_at(family, port).ip()), port);
                    guest.udp_mut(handle).send_slice(&query, to).expect("room");
                    let mut at_server = None;
                    until(&mut world, &mut guest, "query", |_, _| {
                        at_server = received(&server);
                        at_server.is_some()
                    });
                    let (got, from) = at_server.expect("a query");
                    assert!(got == query, "{size} bytes became {} others", got.len());
                    assert_eq!(from.is_ipv4(), family == Family::V6);
                    assert_eq!(from.port(), 5000, "the guest's own port");

                    server.send_to(&query, from).expect("sent");
                    let mut answer = vec![0; 65536];
                    until(&mut world, &mut guest, "answer", |_, guest| {
                        let socket = guest.udp_mut(handle);
                        let Ok((len, meta)) = socket.recv_slice(&mut answer) else { return false };
                        assert_eq!(IpAddr::from(meta.endpoint.addr), forward_at(family, port).ip());
                        assert!(answer[..len] == query, "{size} bytes became {len} others");
                        true
                    });
                }
            }
            assert_eq!(world.engine.flow_count(), 2, "one flow for each port");
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn tcp_queries_and_answers_change_their_family() {
    isolated(|| {
        for (family, port, mtu) in [53, 853]
            .into_iter()
            .flat_map(|port| [1280, 1500, 65520].map(|mtu| (port, mtu)))
            .flat_map(|(port, mtu)| FAMILIES.map(|family| (family, port, mtu)))
        {
            let caps = if mtu == 1280 { PLAIN } else { OFFLOADS };
            let setup = Setup { caps, mtu, map: crossed(family), ..Setup::default() };
            let mut world = World::new(&setup);
            let mut guest = Guest::new(&mut world, mtu);
            let listener = TcpListener::bind(other(family).host_at(port)).expect("a free port");
            listener.set_nonblocking(true).expect("fcntl");
            let handle = guest.tcp(256 << 10);
            guest.connect(handle, forward_at(family, port), 40000);
            let mut peer = None;
            until(&mut world, &mut guest, "connect", |_, guest| {
                peer = peer.take().or_else(|| listener.accept().ok());
                peer.is_some() && guest.tcp_mut(handle).state() == State::Established
            });
            let (mut peer, from) = peer.expect("accepted");
            peer.set_nonblocking(true).expect("fcntl");
            assert_eq!(from.is_ipv4(), family == Family::V6);

            let query = noise(300_000);
            let (mut sent, mut got) = (0, Vec::new());
            until(&mut world, &mut guest, "query", |_, guest| {
                let socket = guest.tcp_mut(handle);
                if sent < query.len() && socket.can_send() {
                    sent += socket.send_slice(&query[sent..]).expect("the connection is up");
                }
                read_some(&mut peer, &mut got);
                got.len() >= query.len()
            });
            assert!(got == query, "the server got other bytes than the guest sent");
            guest.tcp_mut(handle).close();
            until(&mut world, &mut guest, "end of the query", |_, _| {
                matches!(peer.read(&mut [0; 1]), Ok(0))
            });

            let (mut sent, mut got, mut chunk) = (0, Vec::new(), vec![0; 256 << 10]);
            until(&mut world, &mut guest, "answer", |_, guest| {
                sent += write_some(&mut peer, &query[sent..]);
                let socket = guest.tcp_mut(handle);
                while socket.can_recv() {
                    let len = socket.recv_slice(&mut chunk).expect("the connection is up");
                    got.extend_from_slice(&chunk[..len]);
                }
                got.len() >= query.len()
            });
            assert!(got == query, "the guest got other bytes than the server sent");
            assert!(guest.largest <= usize::from(mtu) + 14 || caps == OFFLOADS);
            drop(peer);
            until(&mut world, &mut guest, "end", |world, _| world.engine.flow_count() == 0);
        }
    });
}

#[test]
fn a_query_in_fragments_arrives_whole() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup { map: crossed(family), ..Setup::default() });
            let server = bound(other(family).host_at(53));
            let ends = (guest_at(family), forward_at(family, 53));
            let query = noise(4000);
            send_all(&mut world, cut(ends, 7, &message(ends.0, ends.1, &query), 1448));
            assert!(awaited(&server).0 == query);
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn rfc7915_a_closed_port_is_told_in_the_guest_s_words() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup { map: crossed(family), ..Setup::default() });
            let (guest, to) = (guest_at(family), forward_at(family, 53));
            let sent = packet::udp(guest, to, b"a question of DNS");
            world.send(sent.clone());
            let error = one_message(&mut world, family);
            let unreachable = if family == Family::V4 { [3, 3] } else { [1, 4] };
            assert_eq!(error[..2], unreachable);
            assert_eq!(error[4..8], [0; 4]);
            let addresses = if family == Family::V4 { 12..20 } else { 8..40 };
            assert_eq!(
                error[8..][addresses.clone()],
                sent[14..][addresses],
                "as the guest sent it"
            );
            let ports = packet::l4_offset(guest.ip()) - 14;
            assert_eq!(error[8..][ports..ports + 4], sent[14..][ports..ports + 4]);
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn a_closed_port_of_tcp_is_a_reset() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = World::new(&Setup { map: crossed(family), ..Setup::default() });
            let mut guest = Guest::new(&mut world, 1500);
            let handle = guest.tcp(4096);
            guest.connect(handle, forward_at(family, 53), 40000);
            until(&mut world, &mut guest, "reset", |_, guest| {
                guest.tcp_mut(handle).state() == State::Closed
            });
            world.settle(64);
            assert_eq!(world.engine.flow_count(), 0);
        }
    });
}

#[test]
fn other_ports_and_other_addresses_stay_in_their_family() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup { map: crossed(family), ..Setup::default() });
            let (same, crossing) = (bound(family.host_at(53)), bound(other(family).host_at(54)));
            world.send(packet::udp(guest_at(family), family.host_at(53), b"to a host"));
            world.send(packet::udp(guest_at(family), forward_at(family, 54), b"to a port"));
            world.settle(64);
            assert_eq!(awaited(&same).0, b"to a host");
            assert_eq!(received(&crossing), None, "port 54 is none of DNS");
        }
    });
}
