//! The configuration protocol on a socket, with requests written byte by byte: what is told, what may be asked for, and
//! that what is wrong or unwell changes nothing.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use passt::control::configuration::{Abilities, Configuration, KIND};
use passt::control::server::Server;
use passt::flow::fwd::{Proto, Rule};
use passt_support::heap;

use crate::guest::until;
use crate::namespace::isolated;
use crate::tcp::{Pair, noise, read_some};
use crate::world::{Family, Setup, World, forward};

const TURNS: usize = 256;
const HELLO: &[u8] = b"basil:s\0\0\0\0\x02\0\0\0\x80\0\0\0\x10";
/// Bytes that are told: the hello, a table's head, a rule.
const HEAD_BYTES: usize = 137;
const RULE_BYTES: usize = 56;
/// Longer than any client may take.
const LONG: Duration = Duration::from_secs(6);

/// A TCP rule for a port of 198.51.100.1.
fn rule(port: u16, to: u16) -> Vec<u8> {
    let mut bytes = vec![0; 10];
    bytes.extend([0xff, 0xff, 198, 51, 100, 1]);
    bytes.extend([0; 32]);
    for number in [port, port, to] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend([6, 0]);
    bytes
}

/// A request for these rules of one table.
fn request(pif: u8, rules: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![pif];
    bytes.extend((rules.len() as u32).to_be_bytes());
    bytes.extend(rules.concat());
    bytes.push(0);
    bytes
}

/// Ports that lead to themselves.
fn ports(ports: &[u16]) -> Vec<u8> {
    request(1, &ports.iter().map(|port| rule(*port, *port)).collect::<Vec<_>>())
}

/// Where clients connect. The folder goes with it.
struct Door(tempfile::TempDir);

impl Door {
    /// Has `world` serve clients, so many at a time.
    fn of(world: &mut World, places: usize) -> Self {
        let door = Self(tempfile::tempdir().expect("a folder"));
        let listener = UnixListener::bind(door.0.path().join("c")).expect("bound");
        let abilities = Abilities { namespace: false, interfaces: true };
        let protocols = (0..places).map(|_| Configuration::new(abilities));
        let server = Server::new(listener.into(), KIND, protocols).expect("it does not block");
        world.add(Box::new(server));
        door
    }

    fn connect(&self) -> UnixStream {
        let client = UnixStream::connect(self.0.path().join("c")).expect("it listens");
        client.set_nonblocking(true).expect("fcntl");
        client
    }

    /// A client that has been told the rules.
    fn told(&self, world: &mut World) -> (UnixStream, Vec<u8>) {
        let mut client = self.connect();
        world.settle(TURNS);
        let told = said(&mut client);
        (client, told)
    }

    /// What a client is answered that asks for this.
    fn ask(&self, world: &mut World, request: &[u8]) -> String {
        let (mut client, _) = self.told(world);
        answer(world, &mut client, request)
    }

    /// Ports that lead to the guest, as a client is told.
    fn ports(&self, world: &mut World) -> Vec<(u16, u16)> {
        let (_, told) = self.told(world);
        let rules = &told[HELLO.len() + HEAD_BYTES..told.len() - 1];
        let number = |rule: &[u8], at: usize| u16::from_be_bytes([rule[at], rule[at + 1]]);
        rules.chunks(RULE_BYTES).map(|rule| (number(rule, 48), number(rule, 52))).collect()
    }
}

fn said(client: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match client.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert!(
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset),
            "{error}"
        ),
    }
    bytes
}

fn answer(world: &mut World, client: &mut UnixStream, request: &[u8]) -> String {
    client.write_all(request).expect("sent");
    world.settle(TURNS);
    String::from_utf8(said(client)).expect("text")
}

const ACCEPTED: &str = "\0";

fn listening(list: &[u16]) -> World {
    let rules = list.iter().map(|port| forward(Proto::Tcp, Family::V4, *port)).collect();
    World::new(&Setup { rules, ..Setup::default() })
}

fn is_open(port: u16) -> bool {
    TcpStream::connect(Family::V4.host_at(port)).is_ok()
}

#[test]
fn a_client_is_told_all_rules_byte_for_byte() {
    isolated(|| {
        let local = Rule {
            listen: std::net::IpAddr::from(Ipv4Addr::LOCALHOST).into(),
            ..Rule::plain(Proto::Tcp, (8080, 8080), 80)
        };
        let weak = Rule { weak: true, ..Rule::plain(Proto::Udp, (9000, 9010), 9100) };
        let mut world = World::new(&Setup { rules: vec![local, weak], ..Setup::default() });
        let door = Door::of(&mut world, 1);
        let (mut client, told) = door.told(&mut world);
        let mut wanted = HELLO.to_vec();
        wanted.extend(b"\x01HOST");
        wanted.extend([0; 124]);
        wanted.extend([0, 0, 0, 0x2f, 0, 0, 0, 2]);
        wanted.extend([0; 10]);
        wanted.extend([0xff, 0xff, 127, 0, 0, 1]);
        wanted.extend([0; 32]);
        wanted.extend([0x1f, 0x90, 0x1f, 0x90, 0, 80, 6, 0]);
        wanted.extend([0; 48]);
        wanted.extend([0x23, 0x28, 0x23, 0x32, 0x23, 0x8c, 17, 3]);
        wanted.push(0);
        assert_eq!(told, wanted);

        // The same once more changes nothing, though others have come by other ways.
        let rules = [&wanted[157..213], &wanted[213..269]].map(<[u8]>::to_vec);
        assert_eq!(answer(&mut world, &mut client, &request(1, &rules)), ACCEPTED);
        assert_eq!(door.told(&mut world).1, wanted);
    });
}

#[test]
fn rules_change_together_and_who_waits_in_a_queue_stays() {
    isolated(|| {
        let mut world = listening(&[7001, 7002]);
        let door = Door::of(&mut world, 1);
        let _waits = TcpStream::connect(Family::V4.host_at(7001)).expect("forwarded");
        assert_eq!(door.ask(&mut world, &ports(&[7001, 7003])), ACCEPTED);
        assert!(is_open(7003) && !is_open(7002));
        world.quiet(TURNS);
        // Each SYN is one to the guest: that of who waited, and that of the probe.
        assert_eq!(world.engine.flow_count(), 2);
        assert_eq!(door.ports(&mut world), [(7001, 7001), (7003, 7003)]);
        assert_eq!(door.ask(&mut world, &[0]), ACCEPTED, "tables that are not mentioned are empty");
        assert!(!is_open(7001) && !is_open(7003));
    });
}

#[test]
fn a_port_that_cannot_be_had_is_named_and_nothing_changes() {
    isolated(|| {
        let mut world = listening(&[7001]);
        let door = Door::of(&mut world, 1);
        let _taken = TcpListener::bind(Family::V4.host_at(7003)).expect("a free port");
        let said = door.ask(&mut world, &ports(&[7002, 7003]));
        assert!(
            said.starts_with("\x01Listen failed for HOST TCP port 198.51.100.1/7003"),
            "{said}"
        );
        assert!(said.contains("stop the program that has it"), "{said}");
        assert!(is_open(7001) && !is_open(7002));
        assert_eq!(door.ports(&mut world), [(7001, 7001)]);
    });
}

#[test]
fn what_is_wrong_is_refused_as_soon_as_it_can_be_seen() {
    isolated(|| {
        let mut world = listening(&[7001]);
        let door = Door::of(&mut world, 1);
        let with = |at: usize, byte: u8| {
            let mut bytes = ports(&[7002]);
            bytes[5 + at] = byte;
            bytes
        };
        let mut unterminated = ports(&[7002]);
        unterminated[5 + 32..5 + 48].fill(b'x');
        for (request, reason) in [
            (vec![9], "Unknown table 9"),
            (b"{\"command\":\"status\"}\n".to_vec(), "The client speaks JSON: give it the path"),
            (vec![1, 0, 0, 1, 0], "Too many rules (256, maximum 255)"),
            (request(3, &[]), "There are no rules for SPLICE here"),
            (vec![1, 0, 0, 0, 0, 1], "Table 1 is given twice"),
            (with(54, 1), "Rule for unknown protocol 1"),
            (with(55, 0x80), "Rule with unknown flags 0x80"),
            (with(55, 4), "Services of the guest cannot be followed"),
            (unterminated, "Rule with an invalid interface name"),
            (ports(&[7002, 7002]), "Forwarding configuration conflict"),
            (ports(&[0]), "Forwarding rule attempts to map from port 0"),
            (request(1, &[rule(7002, 0)]), "Forwarding rule attempts to map to port 0"),
        ] {
            let said = door.ask(&mut world, &request);
            assert!(said.starts_with(&format!("\x01{reason}")), "{said}");
        }
        assert!(is_open(7001) && !is_open(7002));
    });
}

#[test]
fn half_a_request_and_none_change_nothing() {
    isolated(|| {
        let mut world = listening(&[7001]);
        let door = Door::of(&mut world, 1);
        let whole = ports(&[7002]);
        for bytes in (0..whole.len()).step_by(7) {
            let (mut client, _) = door.told(&mut world);
            client.write_all(&whole[..bytes]).expect("sent");
            client.shutdown(std::net::Shutdown::Both).expect("connected");
            drop(client);
            world.settle(TURNS);
        }
        assert!(is_open(7001) && !is_open(7002));
        // In pieces, as the packaged client does, which is gone when the last one is read.
        let (mut client, _) = door.told(&mut world);
        for piece in whole.chunks(3) {
            client.write_all(piece).expect("sent");
            world.turn(Duration::ZERO);
        }
        client.shutdown(std::net::Shutdown::Both).expect("connected");
        drop(client);
        world.settle(TURNS);
        assert!(is_open(7002) && !is_open(7001));
    });
}

#[test]
fn of_two_who_change_at_a_time_both_have_their_way() {
    isolated(|| {
        let mut world = listening(&[7001]);
        let door = Door::of(&mut world, 3);
        let [mut adds, mut deletes, mut contends] = [(); 3].map(|()| door.told(&mut world).0);
        assert_eq!(answer(&mut world, &mut adds, &ports(&[7001, 7002])), ACCEPTED);
        assert_eq!(answer(&mut world, &mut deletes, &ports(&[7003])), ACCEPTED);
        assert_eq!(door.ports(&mut world), [(7002, 7002), (7003, 7003)]);
        let other = request(1, &[rule(7001, 7001), rule(7002, 9)]);
        let said = answer(&mut world, &mut contends, &other);
        assert!(said.starts_with("\x01Forwarding configuration conflict"), "{said}");
        assert_eq!(door.ports(&mut world), [(7002, 7002), (7003, 7003)]);
    });
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

#[test]
fn ten_thousand_changes_under_load_leave_nothing_behind() {
    isolated(|| {
        let mut pair = Pair::outbound(&Setup::default(), Family::V4, None);
        let door = Door::of(&mut pair.world, 1);
        let data = noise(64 << 10);
        let round = |pair: &mut Pair, count: u16| {
            for number in 0..count {
                let base = 7000 + number % 50;
                let list: &[u16] =
                    if number % 2 == 0 { &[base, 7100] } else { &[base, 7101, 7102] };
                assert_eq!(door.ask(&mut pair.world, &ports(list)), ACCEPTED);
                if number % 100 == 0 {
                    pair.upload(&data);
                    pair.download(&data);
                }
            }
            assert_eq!(door.ask(&mut pair.world, &ports(&[7100])), ACCEPTED);
        };
        round(&mut pair, 1000);
        let before = (descriptors(), pair.world.engine.flow_count());
        let bytes = heap::live_bytes();
        round(&mut pair, 10_000);
        assert_eq!((descriptors(), pair.world.engine.flow_count()), before);
        assert_eq!(heap::live_bytes(), bytes, "bytes in use");
        pair.upload(&data);
        pair.finish();
    });
}

/// What a client sends that is not well. Some never read.
fn unwell(number: usize) -> Vec<u8> {
    match number % 8 {
        0 => Vec::new(),
        1 => ports(&[7002])[..number % 60].to_vec(),
        2 => vec![1, 0, 0, 1, 0],
        3 => noise(300),
        4 => vec![1, 0, 0, 0, 255],
        5 => [request(1, &[rule(7002, 0)]), vec![0; 40_000]].concat(),
        6 => vec![3, 0, 0, 0, 0, 1, 0xff],
        _ => vec![0xff; 70],
    }
}

#[test]
fn a_thousand_hostile_clients_do_not_touch_a_transfer() {
    isolated(|| {
        let setup =
            Setup { rules: vec![forward(Proto::Tcp, Family::V4, 7001)], ..Setup::default() };
        let mut pair = Pair::outbound(&setup, Family::V4, None);
        let door = Door::of(&mut pair.world, 4);
        let before = descriptors();
        let data = noise(4 << 20);
        let mut crowd = VecDeque::new();
        let (mut came, mut sent, mut got) = (0, 0, Vec::new());
        let Pair { world, guest, handle, peer } = &mut pair;
        until(world, guest, "transfer", |world, guest| {
            if came < 1000 {
                let mut client = door.connect();
                // A buffer that is full is the client's own trouble.
                let _ = client.write(&unwell(came));
                crowd.push_back(client);
                came += 1;
                if crowd.len() > 40 {
                    crowd.pop_front();
                }
                if came % 10 == 0 {
                    world.skip(Duration::from_millis(300));
                }
            }
            let socket = guest.tcp_mut(*handle);
            if sent < data.len() && socket.can_send() {
                let most = data.len().min(sent + 4096);
                sent += socket.send_slice(&data[sent..most]).expect("the connection is up");
            }
            read_some(peer, &mut got);
            came == 1000 && got.len() == data.len()
        });
        assert!(got == data, "the host got other bytes than the guest sent");
        drop(crowd);
        world.skip(LONG);
        world.turn(Duration::ZERO);
        world.settle(TURNS);
        assert_eq!(door.ports(world), [(7001, 7001)], "nothing has changed");
        world.settle(TURNS);
        assert_eq!(descriptors(), before);
        assert_eq!(door.ask(world, &ports(&[7001, 7002])), ACCEPTED);
    });
}
