//! What the guest may reach: rules before any socket, what it is told, names, and a policy that changes while flows
//! run. The host's own addresses are known to these policies only where a test says so.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use passt::flow::fwd::{Places, Policy, Prefix, Routed, Surroundings, egress_rule};
use passt::wire::DropReason;
use smoltcp::socket::tcp::State;

use crate::datagrams::{awaited, bound, guest_at, known, one_message, received};
use crate::guest::{Guest, until};
use crate::namespace::isolated;
use crate::packet::{self, ACK, RST, SYN};
use crate::world::{FAMILIES, Family, Setup, World};

const TURNS: usize = 64;
const SOURCE: u16 = 5000;

/// A policy of these rules, of a host whose addresses are not known.
pub(crate) fn policy(rules: &[&str]) -> Policy {
    let rules = rules.iter().map(|text| egress_rule(text).expect("a rule"));
    Policy { rules: rules.collect(), host: Surroundings::default() }
}

pub(crate) fn enforce(world: &mut World, policy: Policy) {
    let view = passt::engine::NetView { egress: policy, ..world.engine.view() };
    world.engine.replace_net(view).expect("nothing to open");
}

/// A world in which these rules are in force.
fn ruled(rules: &[&str]) -> World {
    let mut world = known(&Setup::default());
    enforce(&mut world, policy(rules));
    world
}

fn counts(world: &World) -> Vec<u64> {
    world.engine.egress_counts().into_iter().map(|(_, count)| count).collect()
}

/// The one frame that the guest has got is a reset.
fn is_reset(world: &mut World, family: Family) -> bool {
    let frame = &world.frames(1)[0];
    let l4 = packet::l4_offset(family.guest());
    frame[l4 + 13] & RST != 0
}

#[test]
fn rejected_connections_are_reset_at_once_and_nobody_hears_of_them() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = ruled(&["allow any:1-7999", "reject any"]);
            let listener = TcpListener::bind(family.host_at(8001)).expect("a free port");
            listener.set_nonblocking(true).expect("fcntl");
            let (from, to) = (guest_at(family), family.host_at(8001));
            world.send(packet::tcp(from, to, SYN, (7, 0), &[]));
            assert!(is_reset(&mut world, family));
            assert_eq!(world.engine.flow_count(), 0);
            assert_eq!(world.drops(DropReason::EgressRejected), 1);
            assert_eq!(counts(&world), [0, 1, 0]);
            let heard = listener.accept().map(|_| ());
            assert_eq!(heard.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
        }
    });
}

#[test]
fn rejected_datagrams_and_pings_are_administratively_prohibited() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = ruled(&["reject @internet"]);
            let host = bound(family.host_at(9000));
            let gateway = family.gateway();
            let ping = packet::echo(family.guest(), family.host(), 3, 4, b"hello");
            let datagram = packet::udp(guest_at(family), family.host_at(9000), b"hello");
            let prohibited = if family == Family::V4 { [3, 13] } else { [1, 1] };
            for sent in [datagram, ping] {
                world.send(sent.clone());
                let frame = world.frames(1).remove(0);
                let source = if family == Family::V4 { 26..30 } else { 22..38 };
                let address = match gateway {
                    IpAddr::V4(v4) => v4.octets().to_vec(),
                    IpAddr::V6(v6) => v6.octets().to_vec(),
                };
                assert_eq!(frame[source], address, "the gateway says so");
                let error = &frame[packet::l4_offset(gateway)..];
                assert_eq!(error[..2], prohibited);
                assert_eq!(error[8..8 + sent.len() - 14], sent[14..], "what was sent is quoted");
            }
            assert_eq!((received(&host), world.engine.flow_count()), (None, 0));
            assert_eq!((counts(&world), world.drops(DropReason::EgressRejected)), (vec![2, 0], 2));
        }
    });
}

#[test]
fn what_is_dropped_is_not_answered_and_neither_is_what_goes_to_many() {
    isolated(|| {
        let mut world = ruled(&["drop 198.51.100.1", "reject any"]);
        let to = Family::V4.host_at(9000);
        world.send(packet::tcp(guest_at(Family::V4), to, SYN, (7, 0), &[]));
        world.send(packet::udp(guest_at(Family::V4), to, b"hello"));
        world.send(packet::echo(Family::V4.guest(), to.ip(), 3, 4, b"hello"));
        let group = SocketAddr::new([224, 0, 0, 251].into(), 5353);
        world.send(packet::udp(guest_at(Family::V4), group, b"hello"));
        world.settle(TURNS);
        assert_eq!(world.received().len(), 0);
        assert_eq!(world.drops(DropReason::EgressDropped), 3);
        assert_eq!(world.drops(DropReason::EgressRejected), 1);
        assert_eq!(counts(&world), [3, 1, 0]);
    });
}

#[test]
fn the_gateway_is_the_loopback_to_rules_of_either() {
    isolated(|| {
        for family in FAMILIES {
            for rule in ["reject @loopback", "reject @host"] {
                let mut world = ruled(&[rule, "allow any"]);
                let loopback = if family == Family::V4 { "127.0.0.1" } else { "::1" };
                let host = bound(SocketAddr::new(loopback.parse().expect("an address"), 9000));
                let gateway = SocketAddr::new(family.gateway(), 9000);
                world.send(packet::udp(guest_at(family), gateway, b"hello"));
                assert_eq!(
                    one_message(&mut world, family)[0],
                    [3, 1][usize::from(family == Family::V6)]
                );
                assert_eq!(received(&host), None);
                enforce(&mut world, policy(&["allow @loopback:9000"]));
                world.send(packet::udp(guest_at(family), gateway, b"hello"));
                world.settle(TURNS);
                assert_eq!(awaited(&host).0, b"hello");
            }
        }
    });
}

/// RFC 792 and RFC 4861, section 8: another way to the host, and that its address is on the link.
#[test]
fn redirects_of_the_guest_change_nothing() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = ruled(&["reject any"]);
            let host = bound(family.host_at(9));
            let refused = packet::udp(guest_at(family), host.local_addr().expect("bound"), b"x");
            let redirect = match (family, family.gateway(), family.host()) {
                (Family::V4, IpAddr::V4(gateway), _) => {
                    [&[5, 1, 0, 0][..], &gateway.octets(), &refused[14..42]].concat()
                }
                (_, IpAddr::V6(gateway), IpAddr::V6(host)) => {
                    [&[137, 0, 0, 0, 0, 0, 0, 0][..], &gateway.octets(), &host.octets()].concat()
                }
                _ => panic!("addresses of one family"),
            };
            let (protocol, hops) = if family == Family::V4 { (1, 64) } else { (58, 255) };
            for to in [family.host(), family.gateway()] {
                world.send(packet::ip(family.guest(), to, protocol, hops, &redirect));
            }
            world.settle(TURNS);
            assert_eq!((world.received().len(), world.engine.flow_count()), (0, 0), "{family:?}");
            assert_eq!(world.all_drops(), 2, "{family:?}");
            world.send(refused);
            one_message(&mut world, family);
            assert_eq!((received(&host), counts(&world)), (None, vec![1, 0]), "{family:?}");
        }
    });
}

#[test]
fn connections_that_a_new_policy_forbids_end_on_both_sides() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let mut guest = Guest::new(&mut world, 1500);
            let listeners = [8001, 8002].map(|port| {
                let listener = TcpListener::bind(family.host_at(port)).expect("a free port");
                listener.set_nonblocking(true).expect("fcntl");
                listener
            });
            let mut peers = Vec::new();
            let handles = [(8001, 40001), (8002, 40002)].map(|(port, own)| {
                let handle = guest.tcp(4096);
                guest.connect(handle, family.host_at(port), own);
                handle
            });
            until(&mut world, &mut guest, "connections", |_, guest| {
                let accepted = listeners.iter().filter_map(|listener| listener.accept().ok());
                peers.extend(accepted.map(|(peer, _)| peer));
                peers.len() == 2
                    && handles.iter().all(|&h| guest.tcp_mut(h).state() == State::Established)
            });
            peers.sort_by_key(|peer| peer.local_addr().expect("bound").port());
            enforce(&mut world, policy(&["allow tcp any:8002"]));
            until(&mut world, &mut guest, "reset", |world, guest| {
                guest.tcp_mut(handles[0]).state() == State::Closed && world.engine.flow_count() == 1
            });
            let end = std::io::Read::read(&mut peers[0], &mut [0; 8]).map_err(|error| error.kind());
            assert_eq!(end, Err(ErrorKind::ConnectionReset));
            // The other one goes on.
            guest.tcp_mut(handles[1]).send_slice(b"hello").expect("the connection is up");
            peers[1].set_nonblocking(true).expect("fcntl");
            let mut got = [0; 8];
            until(&mut world, &mut guest, "data", |_, _| {
                std::io::Read::read(&mut peers[1], &mut got).is_ok_and(|len| len == 5)
            });
        }
    });
}

#[test]
fn datagrams_that_a_new_policy_forbids_end_and_what_the_network_began_goes_on() {
    isolated(|| {
        let rules = vec![crate::world::forward(passt::flow::fwd::Proto::Udp, Family::V4, 7001)];
        let mut world = known(&Setup { rules, ..Setup::default() });
        let host = bound(Family::V4.host_at(9000));
        let send = |world: &mut World| {
            world.send(packet::udp(guest_at(Family::V4), Family::V4.host_at(9000), b"hello"));
            world.settle(TURNS);
        };
        send(&mut world);
        let (_, from) = awaited(&host);
        let client = bound(Family::V4.host_at(9001));
        client.send_to(b"question", Family::V4.host_at(7001)).expect("sent");
        world.frames(1);
        assert_eq!(world.engine.flow_count(), 2);

        enforce(&mut world, policy(&["reject any"]));
        assert_eq!(world.engine.flow_count(), 2, "the client's, and that with anybody");
        host.set_nonblocking(true).expect("fcntl");
        let _ = host.send_to(b"late", from);
        send(&mut world);
        assert_eq!(
            world.drops(DropReason::ForeignDatagram),
            1,
            "who may not be reached is not let in"
        );
        assert_eq!(received(&host), None);
        assert_eq!(world.received().len(), 1, "prohibited, and nothing of the host's");
        let guest = SocketAddr::new(Family::V4.guest(), 7001);
        world.send(packet::udp(guest, Family::V4.host_at(9001), b"answer"));
        world.settle(TURNS);
        assert_eq!(awaited(&client).0, b"answer");
        // Segments of a connection that is not there are reset, whatever the policy.
        world.send(packet::tcp(guest_at(Family::V4), Family::V4.host_at(1), ACK, (7, 7), &[]));
        assert!(is_reset(&mut world, Family::V4));
    });
}

/// A query for the IPv4 addresses of `name`; with an address, the answer to it.
fn dns(id: u16, name: &str, address: Option<[u8; 4]>) -> Vec<u8> {
    message(id, name, 1, address.as_ref().map(<[u8; 4]>::as_slice))
}

/// A query for the addresses of `name` of this type (RFC 1035, RFC 3596); with an address, the answer to it.
fn message(id: u16, name: &str, kind: u8, address: Option<&[u8]>) -> Vec<u8> {
    let answers = u16::from(address.is_some());
    let flags: u16 = if answers == 1 { 0x8180 } else { 0x0100 };
    let mut message = Vec::new();
    for field in [id, flags, 1, answers, 0, 0] {
        message.extend(field.to_be_bytes());
    }
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, kind, 0, 1]);
    if let Some(address) = address {
        message.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, address.len() as u8]);
        message.extend(address);
    }
    message
}

/// The guest asks its name server, which is `server`, for `name`, and is told `address`.
fn ask(world: &mut World, server: &std::net::UdpSocket, name: &str, address: impl Into<IpAddr>) {
    let (kind, address) = match address.into() {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (28, v6.octets().to_vec()),
    };
    let (asked, answer) = (message(7, name, kind, None), message(7, name, kind, Some(&address)));
    let at = SocketAddr::new([192, 0, 2, 98].into(), 53);
    world.send(packet::udp(guest_at(Family::V4), at, &asked));
    world.settle(TURNS);
    let (query, from) = awaited(server);
    assert_eq!(query, asked);
    server.send_to(&answer, from).expect("sent");
    assert_eq!(world.frames(1)[0][42..], answer, "as it was sent");
}

/// A world with a name server at the host's address, and these rules behind the one for it.
fn with_names(rules: &[&str]) -> (World, std::net::UdpSocket) {
    let mut map = crate::world::mapping();
    map.v4.dns_match = Some([192, 0, 2, 98].into());
    map.v4.dns_host = Family::V4.host().to_string().parse().ok();
    let mut world = known(&Setup { map, ..Setup::default() });
    enforce(&mut world, policy(&[&["allow @dns"], rules].concat()));
    (world, bound(Family::V4.host_at(53)))
}

/// Whether the guest's datagram gets to `host`.
fn gets_through(world: &mut World, host: &std::net::UdpSocket) -> bool {
    let to = host.local_addr().expect("bound");
    let guest = if to.is_ipv4() { Family::V4 } else { Family::V6 }.guest();
    world.send(packet::udp(SocketAddr::new(guest, SOURCE + 1), to, b"hello"));
    world.settle(TURNS);
    world.received();
    std::iter::from_fn(|| received(host)).count() > 0
}

#[test]
fn a_name_opens_the_addresses_that_the_name_server_tells_for_their_time() {
    isolated(|| {
        let (mut world, server) = with_names(&["allow *.example.org"]);
        let host = bound(Family::V4.host_at(9000));
        assert!(!gets_through(&mut world, &host), "nobody has asked");
        ask(&mut world, &server, "www.example.net", [198, 51, 100, 1]);
        assert!(!gets_through(&mut world, &host), "another name");
        ask(&mut world, &server, "www.example.org", [198, 51, 100, 1]);
        assert!(gets_through(&mut world, &host));
        // Another policy that has the name, too, once it may not be used any more.
        world.skip(Duration::from_secs(20));
        assert!(gets_through(&mut world, &host));
        world.skip(Duration::from_secs(20));
        assert!(gets_through(&mut world, &host));
        world.skip(Duration::from_secs(25));
        let flows = world.engine.flow_count();
        let rules = ["allow @dns", "allow example.com", "allow *.example.org"];
        enforce(&mut world, policy(&rules));
        assert_eq!(world.engine.flow_count(), flows, "flows by a name go on");
        assert!(gets_through(&mut world, &host));
        world.skip(Duration::from_secs(121));
        world.settle(TURNS);
        assert!(!gets_through(&mut world, &host), "a new flow needs a new answer");
        enforce(&mut world, policy(&rules[..2]));
        assert_eq!(world.engine.flow_count(), 0);
    });
}

#[test]
fn a_name_opens_addresses_of_its_family_whichever_way_it_was_asked_for() {
    isolated(|| {
        let (mut world, server) = with_names(&["allow *.example.org"]);
        let [v4, v6] = FAMILIES.map(|family| bound(family.host_at(9000)));
        ask(&mut world, &server, "www.example.net", Family::V6.host());
        assert!(!gets_through(&mut world, &v6), "another name");
        ask(&mut world, &server, "www.example.org", Family::V6.host());
        assert!(gets_through(&mut world, &v6) && !gets_through(&mut world, &v4));
        ask(&mut world, &server, "www.example.org", Family::V4.host());
        assert!(gets_through(&mut world, &v6) && gets_through(&mut world, &v4));
    });
}

#[test]
fn a_name_that_leads_to_this_host_opens_nothing() {
    isolated(|| {
        let (mut world, server) = with_names(&["allow *.example.org"]);
        let gateways = FAMILIES.map(Family::gateway);
        let loopback = ["127.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().expect("an address"));
        let hosts = loopback.map(|at| bound(SocketAddr::new(at, 9000)));
        // The host's loopback, and the gateway that stands for it, which is reached then.
        for told in [loopback, gateways].as_flattened() {
            ask(&mut world, &server, "evil.example.org", *told);
            for (to, host) in gateways.iter().zip(&hosts) {
                let guest = if to.is_ipv4() { Family::V4 } else { Family::V6 };
                world.send(packet::udp(guest_at(guest), SocketAddr::new(*to, 9000), b"hello"));
                world.settle(TURNS);
                assert_eq!(received(host), None, "{told}");
                world.received();
            }
        }
        // Networks of others, in plain and in disguise: each is refused by the policy, which none was by name.
        let others = ["10.0.0.1", "169.254.169.254", "fd00::1", "64:ff9b::10.0.0.1"];
        for told in others {
            let told: IpAddr = told.parse().expect("an address");
            let before = world.drops(DropReason::EgressRejected);
            ask(&mut world, &server, "evil.example.org", told);
            let guest = if told.is_ipv4() { Family::V4 } else { Family::V6 };
            world.send(packet::udp(guest_at(guest), SocketAddr::new(told, 9000), b"hello"));
            world.settle(TURNS);
            world.received();
            assert_eq!(world.drops(DropReason::EgressRejected), before + 1, "{told}");
        }
        // The host's own addresses, where they are known.
        for family in FAMILIES {
            let network = Prefix::new(family.host(), 28).expect("a length");
            let by_route = Routed { places: Places::HOST, network };
            for own in [
                Surroundings::of_addresses(vec![(family.host(), 24)]),
                Surroundings::new(Vec::new(), vec![by_route]),
            ] {
                let rules = policy(&["allow @dns", "allow *.example.org"]).rules;
                enforce(&mut world, Policy { rules, host: own.clone() });
                ask(&mut world, &server, "evil.example.org", family.host());
                let host = bound(family.host_at(9000));
                assert!(!gets_through(&mut world, &host), "{own:?}");
            }
        }
    });
}

#[test]
fn answers_of_others_and_answers_unasked_open_nothing() {
    isolated(|| {
        let (mut world, server) = with_names(&["allow *.example.org", "allow udp any:53"]);
        let host = bound(Family::V4.host_at(9000));
        // A server of the guest's choice, on the right port and with the right answer.
        let other = bound(SocketAddr::new([127, 0, 0, 1].into(), 53));
        let to = SocketAddr::new(Family::V4.gateway(), 53);
        let query = dns(7, "www.example.org", None);
        world.send(packet::udp(guest_at(Family::V4), to, &query));
        world.settle(TURNS);
        let (_, from) = awaited(&other);
        other.send_to(&dns(7, "www.example.org", Some([198, 51, 100, 1])), from).expect("sent");
        world.frames(1);
        assert!(!gets_through(&mut world, &host));
        // The right server, and another answer.
        let at = SocketAddr::new([192, 0, 2, 98].into(), 53);
        world.send(packet::udp(guest_at(Family::V4), at, &query));
        world.settle(TURNS);
        let (_, from) = awaited(&server);
        for answer in [
            dns(8, "www.example.org", Some([198, 51, 100, 1])),
            dns(7, "a.example.org", Some([198, 51, 100, 1])),
        ] {
            server.send_to(&answer, from).expect("sent");
            world.frames(1);
            assert!(!gets_through(&mut world, &host));
        }
        server.send_to(&dns(7, "www.example.org", Some([198, 51, 100, 1])), from).expect("sent");
        world.frames(1);
        assert!(gets_through(&mut world, &host));
    });
}
