//! A guest with several queue pairs: what goes to it for a flow goes to the pair that the flow last sent on.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use passt_guest::Options;

use crate::front_end::FrontEnd;
use crate::namespace::isolated;
use crate::packet::{self, ACK, SYN};
use crate::world::{FAMILIES, Family};

fn four_pairs() -> FrontEnd {
    let mut rig = FrontEnd::new(1500, Options { pairs: 4, ..Options::default() });
    // What each new guest is greeted with.
    rig.received();
    rig
}

const NONE: [usize; 0] = [];

/// Sends a frame through `pair`; returns the pairs that something came through.
fn ask(rig: &mut FrontEnd, pair: usize, frame: &[u8]) -> Vec<usize> {
    rig.guest.pair = pair;
    rig.send(frame);
    pairs(rig)
}

fn pairs(rig: &mut FrontEnd) -> Vec<usize> {
    let mut pairs: Vec<usize> = rig.received().into_iter().map(|(pair, _)| pair).collect();
    pairs.dedup();
    pairs
}

#[test]
fn a_connection_is_served_where_it_last_sent() {
    isolated(|| {
        for family in FAMILIES {
            let listener = TcpListener::bind(family.host_at(8000)).expect("a free port");
            let mut rig = four_pairs();
            let (guest, host) = (SocketAddr::new(family.guest(), 40000), family.host_at(8000));
            let syn = packet::tcp(guest, host, SYN, (1, 0), b"");
            rig.guest.pair = 2;
            rig.send(&syn);
            let answer = rig.received();
            let [(2, answer)] = &answer[..] else { panic!("{answer:?}") };
            let at = packet::l4_offset(guest.ip()) + 4;
            let theirs = u32::from_be_bytes([0, 1, 2, 3].map(|i| answer[at + i])).wrapping_add(1);
            let ack =
                |from: u32| packet::tcp(guest, host, ACK, (2, theirs.wrapping_add(from)), b"");
            assert_eq!(ask(&mut rig, 2, &ack(0)), NONE);
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut sent = 0;
            for pair in [2, 3, 0, 1] {
                assert_eq!(ask(&mut rig, pair, &ack(sent)), NONE, "an acknowledgement");
                stream.write_all(&[1; 1000]).expect("room");
                sent += 1000;
                rig.turns();
                assert_eq!(pairs(&mut rig), [pair], "{family:?}");
            }
        }
    });
}

#[test]
fn datagrams_are_served_where_the_last_one_came_from() {
    isolated(|| {
        for family in FAMILIES {
            let host = UdpSocket::bind(family.host_at(9000)).expect("a free port");
            let mut rig = four_pairs();
            let from = SocketAddr::new(family.guest(), 5000);
            for pair in [3, 1, 0, 2] {
                let datagram = packet::udp(from, family.host_at(9000), b"?");
                assert_eq!(ask(&mut rig, pair, &datagram), NONE);
                let (_, peer) = host.recv_from(&mut [0; 16]).expect("a datagram");
                host.send_to(b"!", peer).expect("sent");
                rig.turns();
                assert_eq!(pairs(&mut rig), [pair], "{family:?}");
            }
        }
    });
}

#[test]
fn answers_of_our_own_go_where_the_question_came_from() {
    isolated(|| {
        let mut rig = four_pairs();
        let (v4, v6): (IpAddr, IpAddr) = (Family::V4.guest(), Family::V6.guest());
        let nobody = Family::V4.host_at(9);
        let questions = [
            packet::arp([192, 0, 2, 2], [192, 0, 2, 1]),
            packet::solicitation(v6, Family::V6.gateway()),
            packet::discover(),
            packet::solicit(),
            packet::echo(v4, Family::V4.gateway(), 7, 1, b"ping"),
            packet::tcp(SocketAddr::new(v4, 40000), nobody, SYN, (1, 0), b""),
            packet::udp(SocketAddr::new(v4, 40000), nobody, b"?"),
        ];
        for (index, question) in questions.iter().enumerate() {
            let pair = (index + 1) % 4;
            assert_eq!(ask(&mut rig, pair, question), [pair], "question {index}");
        }
    });
}
