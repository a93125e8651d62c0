//! The name of a name server, with servers played by the test, on loopback addresses of a network namespace of its own.

use std::net::UdpSocket;

use passt_support::namespace::isolated;

use super::*;

const NAME: &str = "dns.example.org";
const FIRST: &str = "127.0.0.53";
const SECOND: &str = "127.0.0.54";

fn name() -> HostName {
    HostName::new(NAME, Name::parse(NAME).unwrap(), NamedHost::default())
}

fn resolv(servers: &[&str]) -> String {
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}

/// Begins to ask these servers.
fn asking(servers: &[&str]) -> HostName {
    let mut name = name();
    name.ask(&resolv(servers), &HostFacts::default());
    name
}

fn server(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind((address, dns::PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// Answers both questions that a server is asked: with this result, and these addresses of the kind asked for.
fn answer(server: &UdpSocket, result: u8, addresses: &[&str], ttl_s: u32) {
    for _ in KINDS {
        let mut query = [0; ANSWER_BYTES];
        let (length, from) = server.recv_from(&mut query).unwrap();
        server.send_to(&answer_to(&query[..length], result, addresses, ttl_s), from).unwrap();
    }
}

fn answer_to(query: &[u8], result: u8, addresses: &[&str], ttl_s: u32) -> Vec<u8> {
    let mut answer = query.to_vec();
    (answer[2], answer[3]) = (0x81, 0x80 | result);
    let asks_v4 = query[query.len() - 3] == 1;
    for address in addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()) {
        if address.is_ipv4() != asks_v4 {
            continue;
        }
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        answer[7] += 1;
        answer.extend([0xc0, 12, 0, if asks_v4 { 1 } else { 28 }, 0, 1]);
        answer.extend(ttl_s.to_be_bytes());
        answer.extend((octets.len() as u16).to_be_bytes());
        answer.extend(octets);
    }
    answer
}

/// Goes on until the name rests.
fn rested(name: &mut HostName) -> (bool, Duration) {
    let mut changed = false;
    while let State::Asking(_) = name.state {
        let left = name.due().saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap();
        let fd = name.socket().unwrap();
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)).unwrap();
        changed |= name.go_on();
    }
    (changed, name.due().saturating_duration_since(Instant::now()))
}

fn found(name: &HostName) -> Vec<String> {
    name.found().addresses().map(|address| address.to_string()).collect()
}

const LINKS: &str = "ip link set lo up";

#[test]
fn both_kinds_of_addresses_are_asked_for_and_good_for_as_long_as_the_answer_says() {
    isolated(LINKS, || {
        let first = server(FIRST);
        let mut name = asking(&[FIRST]);
        answer(&first, 0, &["192.0.2.53", "192.0.2.54", "2001:db8::53"], 300);
        let (changed, rest) = rested(&mut name);
        assert!(changed && rest > Duration::from_secs(200) && rest <= Duration::from_secs(300));
        assert_eq!(found(&name), ["192.0.2.53", "2001:db8::53"]);
        assert_eq!(name.take_note(), None);

        // The same once more is no news, and an answer for a moment is not asked for all the time.
        name.ask(&resolv(&[FIRST]), &HostFacts::default());
        answer(&first, 0, &["192.0.2.53", "2001:db8::53"], 0);
        let (changed, rest) = rested(&mut name);
        assert!(!changed && rest > LEAST / 2);
    });
}

#[test]
fn who_does_not_answer_is_asked_after_the_others_again() {
    isolated(LINKS, || {
        let (_silent, second) = (server(FIRST), server(SECOND));
        let mut name = asking(&[FIRST, SECOND]);
        let answers = std::thread::spawn(move || answer(&second, 0, &["192.0.2.53"], 300));
        assert!(rested(&mut name).0);
        answers.join().unwrap();
        assert_eq!(found(&name), ["192.0.2.53"]);
    });
}

#[test]
fn what_fails_is_told_once_and_tried_again_less_and_less_often() {
    isolated(LINKS, || {
        let first = server(FIRST);
        let mut name = asking(&[FIRST]);
        let mut pauses = Vec::new();
        let mut notes = Vec::new();
        for _ in 0..3 {
            let first = first.try_clone().unwrap();
            let rounds = std::thread::spawn(move || {
                (0..ROUNDS).for_each(|_| answer(&first, 3, &[], 0));
            });
            assert!(!rested(&mut name).0);
            rounds.join().unwrap();
            pauses.push(name.due().saturating_duration_since(Instant::now()).as_secs_f64().round());
            notes.extend(name.take_note());
            name.begin(Instant::now());
        }
        assert!(pauses.is_sorted() && pauses[0] < pauses[2], "{pauses:?}");
        assert_eq!(
            notes,
            [
                "--dns-host dns.example.org: no address: 127.0.0.53 says that there is no such name: \
              name one that the host's name servers know, or give an address"
            ]
        );
        assert!(found(&name).is_empty());
    });
}

#[test]
fn without_a_server_or_a_way_to_it_there_is_an_end_at_once() {
    isolated("", || {
        let mut name = asking(&[]);
        assert!(name.take_note().unwrap().contains("the host has no name server"));
        name.ask(&resolv(&["192.0.2.1"]), &HostFacts::default());
        assert!(name.take_note().unwrap().contains("192.0.2.1: Network is unreachable"));
        assert!(matches!(name.state, State::Resting(_)));
    });
}

#[test]
fn addresses_that_lead_home_and_answers_to_other_questions_are_not_taken() {
    isolated(LINKS, || {
        let first = server(FIRST);
        let mut name = asking(&[FIRST]);
        let mut query = [0; ANSWER_BYTES];
        let (length, from) = first.recv_from(&mut query).unwrap();
        let mut other = answer_to(&query[..length], 0, &["192.0.2.66", "2001:db8::66"], 300);
        other[0] ^= 1;
        first.send_to(&other, from).unwrap();
        first.send_to(b"nonsense", from).unwrap();
        let wrong = ["127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1"];
        let good = ["192.0.2.53", "2001:db8::53"];
        let addresses = [&wrong[..], &good[..]].concat();
        first.send_to(&answer_to(&query[..length], 0, &addresses, 300), from).unwrap();
        let (length, from) = first.recv_from(&mut query).unwrap();
        first.send_to(&answer_to(&query[..length], 0, &addresses, 300), from).unwrap();
        assert!(rested(&mut name).0);
        assert_eq!(found(&name), good);
    });
}

#[test]
fn what_was_found_stays_until_something_else_is() {
    isolated(LINKS, || {
        let first = server(FIRST);
        let mut name = asking(&[FIRST]);
        answer(&first, 0, &["192.0.2.53"], 300);
        rested(&mut name);
        drop(first);
        // Nobody is there any more.
        name.ask(&resolv(&[FIRST]), &HostFacts::default());
        assert!(!rested(&mut name).0);
        assert_eq!(found(&name), ["192.0.2.53"]);
        let note = name.take_note().unwrap();
        assert!(note.contains("Connection refused: the one of before stays"), "{note}");
        let second = server(SECOND);
        name.ask(&resolv(&[SECOND]), &HostFacts::default());
        answer(&second, 0, &["192.0.2.54"], 300);
        assert!(rested(&mut name).0);
        assert_eq!(found(&name), ["192.0.2.54"]);
    });
}

#[test]
fn the_table_of_names_comes_first() {
    let hosts = "127.0.0.1 localhost\n# 192.0.2.1 dns.example.org\n::1\tlocalhost ip6\n\
                 nonsense dns.example.org\n192.0.2.7 a DNS.example.org b # dns\n\
                 192.0.2.8 dns.example.org\n2001:db8::7 dns.example.org";
    let found = |name| in_hosts(hosts, name).addresses().map(|a| a.to_string()).collect::<Vec<_>>();
    assert_eq!(found("dns.example.org."), ["192.0.2.7", "2001:db8::7"]);
    assert_eq!(found("localhost"), ["127.0.0.1", "::1"]);
    assert!(found("example.org").is_empty() && found("dns").is_empty());
}
