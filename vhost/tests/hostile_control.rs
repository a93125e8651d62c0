//! Front-ends that break the protocol, or merely dawdle: the connection ends or waits, traffic and
//! the process go on, and the next front-end is served.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed set-up is a failed test")]

mod rig;

use std::os::fd::{AsFd, OwnedFd};

use passt_frame::{FrameMeta, LinkChange};
use passt_guest::{Client, Guest, NetHeader, Options, RX, TX, request};
use rig::{Host, connected, frame};
use rustix::event::{EventfdFlags, eventfd};

fn counter() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

/// Checks that the front-end was dropped for a violation and that another one is served.
fn assert_dropped(host: &mut Host, client: &Client, what: &str) {
    host.turn();
    assert!(!host.device.is_attached(), "{what}: still attached");
    assert!(client.is_closed(), "{what}: not closed");
    assert_eq!(host.links.last(), Some(&LinkChange::Closed), "{what}");
    assert_eq!(host.counters()["vhost.violations"], 1, "{what}");
    assert_works(host);
}

/// Connects a guest and moves a frame each way.
fn assert_works(host: &mut Host) {
    let stream = host.attach();
    let mut guest = Guest::connect(stream, Options::default(), &mut || {
        host.turn();
    });
    assert_traffic(host, &mut guest);
}

fn assert_traffic(host: &mut Host, guest: &mut Guest) {
    host.turn();
    guest.send_frame(&frame(100, 1), NetHeader::default());
    assert_eq!(host.take_all().len(), 1);
    assert!(host.give(&frame(100, 2), FrameMeta::default()));
    assert_eq!(guest.recv_frame().unwrap().0, frame(100, 2));
}

#[test]
fn a_message_in_pieces_stalls_nothing() {
    let (mut host, mut guest) = connected(Options::default());
    let whole = Client::encode(request::NET_SET_MTU, true, &1500u64.to_ne_bytes());
    for cut in 1..whole.len() {
        assert!(guest.client.send_raw(&whole[..cut], &[]));
        host.turn();
        assert_traffic(&mut host, &mut guest);
        assert!(guest.client.received().is_empty());
        assert!(guest.client.send_raw(&whole[cut..], &[]));
        host.turn();
        assert_eq!(guest.client.reply_u64(), Some(0), "cut at {cut}");
    }
    for byte in &whole {
        assert!(guest.client.send_raw(&[*byte], &[]));
        host.turn();
    }
    assert_eq!(guest.client.reply_u64(), Some(0));
}

#[test]
fn descriptors_stay_with_a_message_in_pieces() {
    let (mut host, mut guest) = connected(Options::default());
    let call = counter();
    let whole = Client::encode(request::SET_VRING_CALL, true, &0u64.to_ne_bytes());
    for cut in 1..whole.len() {
        assert!(guest.client.send_raw(&whole[..cut], &[call.as_fd()]));
        host.turn();
        assert!(guest.client.send_raw(&whole[cut..], &[]));
        host.turn();
        assert_eq!(guest.client.reply_u64(), Some(0), "cut at {cut}");
        // Two messages in one send: the second's descriptors must not go to the first.
        let mut two = Client::encode(request::NET_SET_MTU, true, &1500u64.to_ne_bytes());
        two.extend_from_slice(&whole[..cut]);
        assert!(guest.client.send_raw(&two, &[]));
        assert!(guest.client.send_raw(&whole[cut..], &[call.as_fd()]));
        host.turn();
        assert_eq!(guest.client.reply_u64(), Some(0));
        assert_eq!(guest.client.reply_u64(), Some(0), "cut at {cut}");
    }
    assert!(host.device.is_attached());
}

#[test]
fn a_connection_that_ends_within_a_message_is_closed() {
    let whole = Client::encode(request::NET_SET_MTU, true, &1500u64.to_ne_bytes());
    for cut in 1..whole.len() {
        let mut host = Host::new();
        let client = Client::new(host.attach());
        assert!(client.send_raw(&whole[..cut], &[]));
        host.turn();
        assert!(host.device.is_attached());
        client.socket().shutdown(std::net::Shutdown::Write).unwrap();
        assert_dropped(&mut host, &client, &format!("cut at {cut}"));
    }
}

#[test]
fn a_front_end_may_leave_at_any_time() {
    let (mut host, mut guest) = connected(Options::default());
    for i in 0..20 {
        guest.send_frame(&frame(1000, i), NetHeader::default());
    }
    drop(guest);
    let events = host.turn();
    assert_eq!(events.link, Some(LinkChange::Closed));
    assert!(host.take().is_empty(), "memory is gone");
    assert!(!host.give(&frame(100, 1), FrameMeta::default()));
    assert_eq!(host.counters()["vhost.violations"], 0);
    assert_works(&mut host);
}

/// Messages with a body of the right size, and how many descriptors they carry.
const MESSAGES: [(u32, usize, usize); 25] = [
    (request::GET_FEATURES, 0, 0),
    (request::SET_FEATURES, 8, 0),
    (request::SET_OWNER, 0, 0),
    (request::RESET_OWNER, 0, 0),
    (request::SET_MEM_TABLE, 40, 1),
    (request::SET_VRING_NUM, 8, 0),
    (request::SET_VRING_ADDR, 40, 0),
    (request::SET_VRING_BASE, 8, 0),
    (request::GET_VRING_BASE, 8, 0),
    (request::SET_VRING_KICK, 8, 1),
    (request::SET_VRING_CALL, 8, 1),
    (request::SET_VRING_ERR, 8, 1),
    (request::GET_PROTOCOL_FEATURES, 0, 0),
    (request::SET_PROTOCOL_FEATURES, 8, 0),
    (request::GET_QUEUE_NUM, 0, 0),
    (request::SET_VRING_ENABLE, 8, 0),
    (request::SEND_RARP, 8, 0),
    (request::NET_SET_MTU, 8, 0),
    (request::GET_CONFIG, 24, 0),
    (request::RESET_DEVICE, 0, 0),
    (request::GET_MAX_MEM_SLOTS, 0, 0),
    (request::ADD_MEM_REG, 40, 1),
    (request::REM_MEM_REG, 40, 0),
    (6, 16, 1),
    (42, 8, 1),
];

#[test]
fn any_message_may_come_first_or_late_with_any_body() {
    for (number, len, fds) in MESSAGES {
        for fill in [0x00, 0x01, 0xff] {
            for late in [false, true] {
                let mut host = Host::new();
                let options = Options::default();
                let stream = host.attach();
                let mut guest = Guest::new(stream, options);
                if late {
                    let mut pump = || {
                        host.turn();
                    };
                    guest.negotiate(&mut pump);
                    guest.start(&mut pump);
                }
                let fd = counter();
                let fds = vec![fd.as_fd(); fds];
                for need_reply in [false, true] {
                    let bytes = Client::encode(number, need_reply, &vec![fill; len]);
                    guest.client.send_raw(&bytes, &fds);
                    host.turn();
                }
                drop(guest);
                host.turn();
                assert!(!host.device.is_attached(), "request {number} filled with {fill}");
                assert_works(&mut host);
            }
        }
    }
}

#[test]
fn bodies_of_the_wrong_size_end_the_connection() {
    for (number, len, fds) in MESSAGES.into_iter().filter(|&(number, ..)| number != 24) {
        for len in [len.wrapping_sub(1), len + 1].into_iter().filter(|&len| len < 1000) {
            let mut host = Host::new();
            let client = Client::new(host.attach());
            let fd = counter();
            client.send(number, &vec![0; len], &vec![fd.as_fd(); fds]);
            assert_dropped(&mut host, &client, &format!("request {number} of {len} bytes"));
        }
    }
}

#[test]
fn headers_that_are_none_end_the_connection() {
    let headers: [(&str, [u32; 3]); 8] = [
        ("request 0", [0, 1, 0]),
        ("unknown request", [200, 1, 0]),
        ("version 0", [1, 0, 0]),
        ("version 2", [1, 2, 0]),
        ("a reply", [1, 5, 0]),
        ("reserved flags", [1, 0x11, 0]),
        ("size above the largest message", [5, 1, 1033]),
        ("size of four gigabytes", [1, 1, u32::MAX]),
    ];
    for (what, words) in headers {
        let mut host = Host::new();
        let client = Client::new(host.attach());
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        client.send_raw(&bytes, &[]);
        assert_dropped(&mut host, &client, what);
    }
}

#[test]
fn wrong_numbers_of_descriptors_end_the_connection() {
    let numbers = [
        (request::SET_VRING_KICK, 8, vec![0, 2, 32, 33, 253]),
        (request::SET_VRING_CALL, 8, vec![0, 2, 253]),
        (request::SET_VRING_ERR, 8, vec![0, 2, 253]),
        (request::SET_MEM_TABLE, 40, vec![0, 2, 253]),
        (request::ADD_MEM_REG, 40, vec![0, 2]),
    ];
    for (number, len, counts) in numbers {
        for count in counts {
            let (mut host, guest) = connected(Options::default());
            let fd = counter();
            let mut body = vec![0; len];
            if number == request::SET_MEM_TABLE {
                body[0] = 1;
            }
            guest.client.send(number, &body, &vec![fd.as_fd(); count]);
            let what = format!("request {number} with {count} descriptors");
            assert_dropped(&mut host, &guest.client, &what);
        }
    }
}

#[test]
fn rings_that_are_not_there_end_the_connection() {
    for number in [8u32, 9, 10, 11, 12, 13, 14, 18] {
        for index in [17u32, 18, 127, 255, 256, 0x8000_0000, u32::MAX] {
            let fd = (12..=14).contains(&number);
            if fd && index > 255 {
                continue;
            }
            let (mut host, guest) = connected(Options::default());
            let mut body = vec![0; if number == 9 { 40 } else { 8 }];
            body[..4].copy_from_slice(&index.to_ne_bytes());
            let call = counter();
            let fds = if fd { vec![call.as_fd()] } else { vec![] };
            guest.client.send(number, &body, &fds);
            assert_dropped(&mut host, &guest.client, &format!("request {number} ring {index}"));
        }
    }
}

#[test]
fn features_that_were_not_offered_end_the_connection() {
    for bit in 0..64 {
        let mut host = Host::new();
        let mut client = Client::new(host.attach());
        client.send(request::GET_FEATURES, &[], &[]);
        host.turn();
        let offered = client.reply_u64().unwrap();
        let word = 1u64 << bit | 1 << 32;
        client.send(request::SET_FEATURES, &word.to_ne_bytes(), &[]);
        host.turn();
        assert_eq!(host.device.is_attached(), offered & (1 << bit) != 0, "bit {bit}");
        drop(client);
        let mut host = Host::new();
        let mut client = Client::new(host.attach());
        client.send(request::GET_PROTOCOL_FEATURES, &[], &[]);
        host.turn();
        let offered = client.reply_u64().unwrap();
        client.send(request::SET_PROTOCOL_FEATURES, &(1u64 << bit).to_ne_bytes(), &[]);
        host.turn();
        assert_eq!(host.device.is_attached(), offered & (1 << bit) != 0, "protocol bit {bit}");
    }
}

#[test]
fn ring_parameters_out_of_range_end_the_connection() {
    let state = |index: u32, num: u32| [index.to_ne_bytes(), num.to_ne_bytes()].concat();
    let sizes = [0, 3, 257, 65535, 65536, u32::MAX];
    let sizes = sizes.map(|n| (request::SET_VRING_NUM, state(0, n)));
    let bases = [65536, 0x8000_0000].map(|n| (request::SET_VRING_BASE, state(0, n)));
    let enables = [2, u32::MAX].map(|n| (request::SET_VRING_ENABLE, state(0, n)));
    for (number, body) in sizes.into_iter().chain(bases).chain(enables) {
        let mut host = Host::new();
        let client = Client::new(host.attach());
        client.send(number, &body, &[]);
        assert_dropped(&mut host, &client, &format!("request {number} {body:?}"));
    }
    for number in [request::SET_VRING_NUM, request::SET_VRING_BASE] {
        let (mut host, mut guest) = connected(Options::default());
        assert_traffic(&mut host, &mut guest);
        guest.send(number, &state(1, 256), &[]);
        assert_dropped(&mut host, &guest.client, &format!("request {number} on a running ring"));
    }
}

#[test]
fn a_front_end_that_reads_no_replies_is_dropped() {
    let mut host = Host::new();
    let client = Client::new(host.attach());
    client.socket().set_nonblocking(true).unwrap();
    for _ in 0..100_000 {
        client.send(request::GET_FEATURES, &[], &[]);
        host.turn();
        if !host.device.is_attached() {
            return;
        }
    }
    panic!("never dropped");
}

#[test]
fn a_flood_of_messages_lets_traffic_through() {
    let (mut host, mut guest) = connected(Options::default());
    for _ in 0..200 {
        guest.send(request::SEND_RARP, &[0; 8], &[]);
    }
    guest.send_frame(&frame(100, 1), NetHeader::default());
    host.turn_once();
    assert_eq!(host.take().len(), 1, "before all messages are handled");
    guest.send(request::GET_FEATURES, &[], &[]);
    host.turn();
    assert!(guest.client.reply_u64().is_some());
}

#[test]
fn a_guest_may_poll_instead_of_being_called() {
    let (mut host, mut guest) = connected(Options { call: false, ..Options::default() });
    assert_traffic(&mut host, &mut guest);
    assert_eq!(guest.interrupts(RX) + guest.interrupts(TX), 0);
}

#[test]
fn a_full_call_counter_blocks_nothing() {
    let (mut host, mut guest) = connected(Options::default());
    let call = counter();
    rustix::io::write(&call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    for index in [RX, TX] {
        guest.send(request::SET_VRING_CALL, &(index as u64).to_ne_bytes(), &[call.as_fd()]);
    }
    host.turn();
    for _ in 0..10 {
        assert_traffic(&mut host, &mut guest);
    }
}

#[test]
fn descriptors_may_be_sockets_and_pipes() {
    let (mut host, mut guest) = connected(Options::default());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    guest.send(request::SET_VRING_CALL, &0u64.to_ne_bytes(), &[theirs.as_fd()]);
    guest.stop_ring(TX, &mut || {
        host.turn();
    });
    guest.start_ring(TX);
    let (read, write) = rustix::pipe::pipe().unwrap();
    guest.send(request::SET_VRING_KICK, &1u64.to_ne_bytes(), &[read.as_fd()]);
    host.turn();
    for _ in 0..3 {
        guest.queue_pieces(&frame(100, 1), NetHeader::default(), &[]);
        guest.rings[TX].publish(&guest.memory);
        rustix::io::write(&write, &1u64.to_ne_bytes()).unwrap();
        assert!(host.turn().frames);
        assert_eq!(host.take_all().len(), 1);
    }
    // 100,000 interrupts nobody reads: the socket fills up, nothing waits.
    for _ in 0..100_000 {
        assert!(host.give(&frame(60, 1), FrameMeta::default()));
        guest.recv_frame().unwrap();
        let used = guest.rings[RX].used_index(&guest.memory);
        guest.rings[RX].set_used_event(&guest.memory, used);
    }
    let mut bytes = [0; 64];
    let n = rustix::io::read(&ours, &mut bytes).unwrap();
    assert_eq!(n, 64, "calls of eight bytes each");
}

#[test]
fn kicks_must_be_descriptors_with_events() {
    let (mut host, guest) = connected(Options::default());
    guest.send(request::SET_VRING_KICK, &0u64.to_ne_bytes(), &[guest.memory.fd()]);
    assert_dropped(&mut host, &guest.client, "a file");
    let (mut host, guest) = connected(Options::default());
    guest.send(request::SET_VRING_KICK, &0x100u64.to_ne_bytes(), &[]);
    assert_dropped(&mut host, &guest.client, "polling");
}

#[test]
fn one_front_end_at_a_time() {
    let (mut host, _guest) = connected(Options::default());
    let (_, second) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(host.device.attach(second).is_err());
}

#[test]
fn configuration_is_readable_in_any_window() {
    let (mut host, mut guest) = connected(Options::default());
    for (offset, len) in [(0u32, 12u32), (0, 256), (6, 2), (10, 2), (200, 56), (4000, 96)] {
        let mut body = Vec::new();
        for word in [offset, len, 0] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        body.resize(12 + len as usize, 0);
        guest.send(request::GET_CONFIG, &body, &[]);
        host.turn();
        let (_, flags, reply) = guest.client.reply().unwrap();
        assert_eq!((flags, reply.len()), (5, body.len()));
        let mut space = rig::MAC.to_vec();
        space.extend_from_slice(&[1, 0, 8, 0, 0xf0, 0xff]);
        let wanted: Vec<u8> =
            (offset..offset + len).map(|i| *space.get(i as usize).unwrap_or(&0)).collect();
        assert_eq!(reply[12..], wanted);
    }
}
