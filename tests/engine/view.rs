//! Another view of the network while the program runs: sockets that both views want go on listening with who
//! waits in their queues, a change that cannot be made changes nothing, and datagrams of the guest go where the
//! new view says.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use passt::engine::{ChangeOutcome, NetView};
use passt::flow::fwd::{Mapping, Proto, Rule, RuleTable};
use passt::limits::PORTS_CHANGED_PER_TURN;

use crate::datagrams::{bound, guest_at, known, received};
use crate::namespace::isolated;
use crate::packet;
use crate::world::{Family, Setup, World, forward, mapping, network, view};

const TURNS: usize = 64;

fn host_at(port: u16) -> SocketAddr {
    Family::V4.host_at(port)
}

/// A view with these ports, each with where it leads in the guest.
fn ports(map: Mapping, proto: Proto, ports: &[(u16, u16)]) -> NetView {
    let network = network(1500);
    let mut rules = RuleTable::default();
    for &(port, target_first) in ports {
        let rule = Rule { target_first, ..forward(proto, Family::V4, port) };
        rules.add(rule, &network).expect("a valid rule");
    }
    view(network, map, rules)
}

fn tcp(list: &[(u16, u16)]) -> NetView {
    ports(mapping(), Proto::Tcp, list)
}

/// A world that listens on one port, and may on many.
fn listening() -> World {
    let rules = vec![forward(Proto::Tcp, Family::V4, 7001)];
    known(&Setup { rules, max_descriptors: 1 << 14, ..Setup::default() })
}

/// Ports of the guest that connections were offered to.
fn offered(world: &mut World) -> Vec<u16> {
    world.quiet(TURNS);
    let frames = world.received();
    let is_syn = |frame: &&Vec<u8>| frame[12..14] == [8, 0] && frame[23] == 6 && frame[47] & 2 != 0;
    let port = |frame: &Vec<u8>| u16::from_be_bytes([frame[36], frame[37]]);
    frames.iter().filter(is_syn).map(port).collect()
}

fn is_refused(port: u16) -> bool {
    TcpStream::connect(host_at(port))
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn who_waits_in_a_queue_is_served_after_the_change() {
    isolated(|| {
        let mut world = listening();
        let _waiting = TcpStream::connect(host_at(7001)).expect("listening");
        world.engine.replace_net(tcp(&[(7000, 7000), (7001, 7001)])).expect("free ports");
        assert_eq!(offered(&mut world), [7001]);
        let _second = TcpStream::connect(host_at(7000)).expect("listening");
        assert_eq!(offered(&mut world), [7000]);

        // Another rule for the same socket.
        let _third = TcpStream::connect(host_at(7001)).expect("listening");
        world.engine.replace_net(tcp(&[(7001, 8001)])).expect("nothing to open");
        assert_eq!(offered(&mut world), [8001], "by the rule that is in force");
        assert!(is_refused(7000), "no longer wanted");
        world.engine.replace_net(tcp(&[])).expect("nothing to open");
        assert!(is_refused(7001));
        world.engine.replace_net(tcp(&[(7001, 7001)])).expect("a free port");
        let _fourth = TcpStream::connect(host_at(7001)).expect("listening");
        assert_eq!(offered(&mut world), [7001]);
    });
}

#[test]
fn one_rule_is_added_to_the_view_in_force() {
    isolated(|| {
        let mut world = listening();
        let mut view = world.engine.view();
        let rule = forward(Proto::Tcp, Family::V4, 7009);
        view.inbound.add(rule, &view.network).expect("a valid rule");
        world.engine.replace_net(view).expect("a free port");
        let _clients =
            [7001, 7009].map(|port| TcpStream::connect(host_at(port)).expect("listening"));
        let mut ports = offered(&mut world);
        ports.sort_unstable();
        assert_eq!(ports, [7001, 7009]);
    });
}

#[test]
fn a_change_that_fails_changes_nothing() {
    isolated(|| {
        let mut world = listening();
        let taken = TcpListener::bind(host_at(7003)).expect("a free port");
        let wanted = tcp(&[(7001, 9001), (7002, 7002), (7003, 7003)]);
        let error = world.engine.replace_net(wanted).expect_err("a port is taken").to_string();
        assert!(error.contains("7003") && error.contains("stop the program"), "{error}");
        assert!(is_refused(7002), "opened and closed again");
        let _client = TcpStream::connect(host_at(7001)).expect("still listening");
        assert_eq!(offered(&mut world), [7001], "by the old rule");
        drop(taken);
        world.engine.replace_net(tcp(&[(7001, 9001), (7003, 7003)])).expect("free by now");
        let _client = TcpStream::connect(host_at(7001)).expect("listening");
        assert_eq!(offered(&mut world), [9001]);
    });
}

/// A view that listens on many ports, of the family that `first` and the ports before belong to.
fn many(first: u16, last: u16) -> NetView {
    let network = network(1500);
    let mut rules = RuleTable::default();
    let rule = Rule { last, ..forward(Proto::Tcp, Family::V4, first) };
    rules.add(rule, &network).expect("a valid rule");
    rules.add(forward(Proto::Tcp, Family::V4, 7001), &network).expect("a valid rule");
    view(network, mapping(), rules)
}

/// Turns until a change is over; in each a datagram of the guest goes out. How many there were, and what came of it.
fn turns_of(world: &mut World, outcome: &ChangeOutcome) -> (usize, Result<(), String>) {
    let outside = bound(host_at(9000));
    for turn in 0.. {
        if let Some(outcome) = outcome.take() {
            assert!(!world.engine.is_changing());
            return (turn, outcome.map_err(|error| error.to_string()));
        }
        assert!(world.engine.is_changing() && world.engine.has_work());
        world.send(packet::udp(guest_at(Family::V4), host_at(9000), b"meanwhile"));
        world.turn(Duration::ZERO);
        received(&outside).expect("traffic goes on in each turn");
    }
    unreachable!("an outcome comes")
}

#[test]
fn traffic_goes_on_while_many_ports_change() {
    isolated(|| {
        let mut world = listening();
        let _waiting = TcpStream::connect(host_at(7001)).expect("listening");
        let (first, last) = (20_000, 23_999);
        let least = 4000 / PORTS_CHANGED_PER_TURN;
        let outcome = world.engine.change_net(many(first, last));
        assert!(outcome.take().is_none(), "that takes many turns");
        // Open by now, but not in force: who connects waits.
        let early = TcpStream::connect(host_at(first)).expect("listening");
        let (turns, came) = turns_of(&mut world, &outcome);
        assert_eq!(came, Ok(()));
        assert!(turns >= least && turns <= 2 * least + 2, "{turns}");
        let mut ports = offered(&mut world);
        ports.sort_unstable();
        assert_eq!(ports, [7001, first], "who has waited is served");
        drop(early);

        let outcome = world.engine.change_net(tcp(&[(7001, 7001)]));
        let (turns, came) = turns_of(&mut world, &outcome);
        assert_eq!(came, Ok(()));
        assert!(turns >= least - 1 && turns <= 2 * least, "{turns}");
        assert!(is_refused(first) && is_refused(last) && !is_refused(7001));
    });
}

#[test]
fn a_change_of_many_ports_that_fails_at_last_changes_nothing() {
    isolated(|| {
        let mut world = listening();
        let (first, last) = (20_000, 20_999);
        let taken = TcpListener::bind(host_at(last)).expect("a free port");
        let outcome = world.engine.change_net(many(first, last));
        let (turns, came) = turns_of(&mut world, &outcome);
        let error = came.expect_err("a port is taken");
        assert!(error.contains("20999") && error.contains("stop the program"), "{error}");
        assert!(
            turns >= 2 * (1000 / PORTS_CHANGED_PER_TURN),
            "closed as slowly as opened: {turns}"
        );
        assert!(is_refused(first) && is_refused(last - 1));
        let _client = TcpStream::connect(host_at(7001)).expect("still listening");
        assert_eq!(offered(&mut world), [7001]);
        drop(taken);
        world.engine.replace_net(many(first, last)).expect("free by now");
        assert!(!is_refused(last));
    });
}

/// A view that listens on as many of a thousand ports as it gets, for each of `protos`.
fn greedy(protos: &[Proto]) -> NetView {
    let network = network(1500);
    let mut rules = RuleTable::default();
    for (spec_index, &proto) in (1..).zip(protos) {
        let rule = forward(proto, Family::V4, 20_000);
        let rule = Rule { last: 20_999, weak: true, spec_index, ..rule };
        rules.add(rule, &network).expect("a valid rule");
    }
    view(network, mapping(), rules)
}

/// A world that listens on as many TCP ports as descriptors allow; the last one of them.
fn short_of_descriptors() -> (World, u16) {
    let mut world = known(&Setup { max_descriptors: 1 << 10, ..Setup::default() });
    world.engine.replace_net(greedy(&[Proto::Tcp])).expect("some of them");
    let last = (20_000..21_000).take_while(|&port| !is_refused(port)).last();
    let last = last.expect("more than none");
    assert!(last < 20_999, "not all of them");
    world.quiet(TURNS);
    (world, last)
}

#[test]
fn ports_that_go_away_leave_their_descriptors_to_those_that_come() {
    isolated(|| {
        let (mut world, last) = short_of_descriptors();
        world.engine.replace_net(greedy(&[Proto::Udp])).expect("what TCP has had");
        assert!(is_refused(20_000) && is_refused(last));
        let is_free = |port: &u16| UdpSocket::bind(host_at(*port)).is_ok();
        assert_eq!((20_000..21_000).find(is_free), Some(last + 1));
    });
}

#[test]
fn ports_that_made_room_for_a_change_that_fails_are_open_again() {
    isolated(|| {
        let (mut world, last) = short_of_descriptors();
        let _taken = TcpListener::bind(host_at(7003)).expect("a free port");
        let mut wanted = greedy(&[Proto::Udp]);
        let strong = forward(Proto::Tcp, Family::V4, 7003);
        wanted.inbound.add(strong, &wanted.network).expect("a valid rule");
        let error = world.engine.replace_net(wanted).expect_err("a port is taken").to_string();
        assert!(error.contains("7003"), "{error}");
        let open = (20_000..21_000).take_while(|&port| !is_refused(port)).last();
        assert_eq!(open, Some(last));
        assert!(UdpSocket::bind(host_at(20_000)).is_ok());
    });
}

#[test]
fn who_gets_no_descriptor_is_told_that_and_not_to_stop_programs() {
    isolated(|| {
        let (mut world, last) = short_of_descriptors();
        let wanted = greedy(&[Proto::Tcp, Proto::Udp]);
        let error = world.engine.replace_net(wanted).expect_err("TCP has them all").to_string();
        assert!(error.contains("raise ulimit -Hn") && !error.contains("programs"), "{error}");
        assert!(error.starts_with("All listens failed for HOST UDP "), "{error}");
        assert!(!is_refused(last));
    });
}

#[test]
fn what_is_under_way_is_finished_before_the_next_change() {
    isolated(|| {
        let mut world = listening();
        let outcome = world.engine.change_net(many(20_000, 20_999));
        assert!(outcome.take().is_none());
        world.engine.replace_net(tcp(&[(7001, 7001)])).expect("nothing to open");
        assert!(matches!(outcome.take(), Some(Ok(()))));
        assert!(is_refused(20_000) && is_refused(20_999) && !is_refused(7001));
    });
}

#[test]
fn datagrams_of_the_guest_go_where_the_new_view_says() {
    isolated(|| {
        let mut world = known(&Setup::default());
        let outside = bound(host_at(9000));
        let loopback = bound(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9000));
        let send = |world: &mut World, to: &UdpSocket| {
            world.send(packet::udp(guest_at(Family::V4), host_at(9000), b"hello"));
            world.settle(TURNS);
            received(to).expect("a datagram")
        };
        send(&mut world, &outside);
        send(&mut world, &outside);
        assert_eq!(world.engine.flow_count(), 1);

        // A view that leads to the same place keeps the flow.
        let from = send(&mut world, &outside).1;
        world.engine.replace_net(ports(mapping(), Proto::Udp, &[])).expect("nothing to open");
        assert_eq!(send(&mut world, &outside).1, from);

        let mut map = mapping();
        map.v4.host_loopback = host_at(0).ip().to_string().parse().ok();
        world.engine.replace_net(ports(map, Proto::Udp, &[])).expect("nothing to open");
        let (_, from) = send(&mut world, &loopback);
        // The port is still open to anybody; whom the address stands for has a flow of its own.
        assert_eq!((received(&outside), world.engine.flow_count()), (None, 2));
        outside.send_to(b"from whom it stood for", (host_at(0).ip(), from.port())).expect("sent");
        world.quiet(TURNS);
        assert_eq!(world.received().len(), 0);
        loopback.send_to(b"answer", from).expect("sent");
        assert_eq!(world.frames(1).len(), 1);
    });
}

/// A view that listens by these rules.
fn listening_by(rules: &[Rule]) -> NetView {
    let network = network(1500);
    let mut table = RuleTable::default();
    for rule in rules {
        table.add(*rule, &network).expect("a valid rule");
    }
    view(network, mapping(), table)
}

#[test]
fn a_socket_that_is_in_the_way_of_another_makes_way() {
    isolated(|| {
        for proto in [Proto::Tcp, Proto::Udp] {
            let everywhere = Rule::plain(proto, (7001, 7002), 7001);
            let here = Rule { last: 7002, ..forward(proto, Family::V4, 7001) };
            let mut world = known(&Setup { rules: vec![everywhere], ..Setup::default() });
            let free = |at: [u8; 4]| match proto {
                Proto::Tcp => TcpListener::bind((Ipv4Addr::from(at), 7002)).is_ok(),
                _ => UdpSocket::bind((Ipv4Addr::from(at), 7002)).is_ok(),
            };
            assert!(!free([127, 0, 0, 1]));
            world.engine.replace_net(listening_by(&[here])).expect("our own port");
            assert!(free([127, 0, 0, 1]) && !free([198, 51, 100, 1]));
            world.engine.replace_net(listening_by(&[everywhere])).expect("our own port");
            assert!(!free([127, 0, 0, 1]));

            // What is taken is found behind a port that is our own: that one is as it was.
            let taken = TcpListener::bind(host_at(7003)).expect("a free port");
            let other = UdpSocket::bind(host_at(7003)).expect("a free port");
            let more = forward(proto, Family::V4, 7003);
            world.engine.replace_net(listening_by(&[here, more])).expect_err("a port is taken");
            assert!(!free([127, 0, 0, 1]), "on all addresses, as before");
            drop((taken, other));
            world.engine.replace_net(listening_by(&[here, more])).expect("free by now");
            assert!(free([127, 0, 0, 1]));
        }
    });
}
