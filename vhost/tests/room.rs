//! Room as a ring has it: what drivers can do that other links' guests cannot. What all links have in common
//! is held up by `tests/room` of the program.

mod rig;

use passt_frame::{FrameMeta, Payload, Reservation, Reserve, ToGuestLease, ToGuestList};
use passt_guest::{Buffer, Guest, Options, RX, base, bit, request};
use rig::{Host, connected, frame};

/// Somewhere in guest memory that nothing else uses.
const AT: u64 = 0x1_0000;

/// What comes of asking for one datagram in a frame of `len` bytes.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    All,
    Some,
    None,
    Never,
}

fn ask(host: &mut Host, len: u32) -> Answer {
    let mut list = ToGuestList::new();
    let payload = len - 14;
    let request = Reserve {
        header_len: 14,
        payload_len: payload,
        bytes: payload,
        payload: Payload::Datagrams,
    };
    let (_, out) = passt_frame::FramePort::halves(&mut host.device);
    match ToGuestLease::reserve(out, &mut list, request) {
        Reservation::All(_) => Answer::All,
        Reservation::Some(_) => Answer::Some,
        Reservation::None => Answer::None,
        Reservation::Never => Answer::Never,
    }
}

/// Makes a chain of `count` buffers of 1000 bytes available.
fn post_chain(guest: &mut Guest, count: u64, table: Option<u64>) {
    let at = AT + 1000 * u64::from(guest.rings[RX].next_free());
    let buffers: Vec<Buffer> =
        (0..count).map(|i| Buffer { guest: at + 1000 * i, len: 1000, writable: true }).collect();
    guest.rings[RX].add(&guest.memory, &buffers, table);
    guest.publish(RX);
}

fn small(rx_buffers: u16) -> Options {
    Options { ring_size: 16, rx_buffers, ..Options::default() }
}

#[test]
fn a_ring_holds_as_many_chains_as_its_table_has_room_for() {
    // Eight chains of two descriptors fill the table: 16,000 bytes with the virtio header.
    let (mut host, mut guest) = connected(small(0));
    assert_eq!(ask(&mut host, 60_000), Answer::None, "nothing is known of an empty ring");
    for chains in 1..=8u32 {
        post_chain(&mut guest, 2, None);
        assert!(host.turn().room, "{chains}");
        assert_eq!(ask(&mut host, 15_989), Answer::Never, "{chains}");
        let wanted = if chains == 8 { Answer::All } else { Answer::None };
        assert_eq!(ask(&mut host, 15_988), wanted, "{chains}");
        assert_eq!(ask(&mut host, 2000 * chains - 12), Answer::All, "{chains}");
        assert_eq!(ask(&mut host, 60_000), Answer::Never, "{chains}");
        assert!(!host.turn().room, "{chains}");
    }
    assert_eq!(host.counters()["vhost.rings_broken"], 0);
}

#[test]
fn a_chain_in_a_table_of_its_own_takes_one_entry() {
    let (mut host, mut guest) = connected(small(0));
    for chains in 1..=3 {
        post_chain(&mut guest, 2, Some(0x8000 + 0x100 * chains));
    }
    assert_eq!(ask(&mut host, 16 * 2000 - 12), Answer::None);
    assert_eq!(ask(&mut host, 16 * 2000 - 11), Answer::Never);
    assert_eq!(ask(&mut host, 3 * 2000 - 12), Answer::All);
}

#[test]
fn without_mergeable_buffers_the_next_chain_decides() {
    let features = !(bit::MAC | bit::MRG_RXBUF);
    let (mut host, mut guest) = connected(Options { features, ..small(0) });
    post_chain(&mut guest, 1, None);
    post_chain(&mut guest, 3, None);
    assert_eq!(ask(&mut host, 1500), Answer::Never, "the first buffer stays the first");
    assert_eq!(ask(&mut host, 988), Answer::All);
    assert!(host.give(&frame(500, 1), FrameMeta::default()));
    assert_eq!(ask(&mut host, 1500), Answer::All);
    assert_eq!(ask(&mut host, 2989), Answer::Never);
    assert!(!host.turn().room, "nobody was promised any");
}

#[test]
fn only_reservations_that_are_short_are_counted() {
    let (mut host, mut guest) = connected(small(2));
    let starved = |host: &Host| host.counters()["vhost.to_guest.no_buffers"];
    assert_eq!(ask(&mut host, 60_000), Answer::Never);
    assert_eq!(ask(&mut host, 3000), Answer::All);
    assert_eq!(starved(&host), 0);
    assert_eq!(ask(&mut host, 4000), Answer::None);
    assert_eq!(ask(&mut host, 3000), Answer::All);
    assert_eq!(starved(&host), 1);
    guest.post_buffers(1);
    assert!(host.turn().room);
    assert_eq!(ask(&mut host, 4000), Answer::All);
    assert_eq!(starved(&host), 1);
}

#[test]
fn kicks_of_other_rings_and_buffers_that_were_put_back_are_no_room() {
    for features in [!bit::MAC, !(bit::MAC | bit::EVENT_IDX)] {
        let (mut host, mut guest) = connected(Options { features, ..small(2) });
        assert_eq!(ask(&mut host, 4000), Answer::None);
        for _ in 0..3 {
            guest.send_frame(&frame(60, 1), passt_guest::NetHeader::default());
            assert!(!host.turn().room);
            host.take_all();
        }
        guest.kick(RX);
        assert!(!host.turn().room, "a kick without a buffer");
        guest.post_buffers(1);
        assert!(host.turn().room);
    }
}

#[test]
fn a_ring_that_stops_and_starts_in_one_go_still_owes_its_report() {
    let (mut host, mut guest) = connected(small(2));
    assert_eq!(ask(&mut host, 4000), Answer::None);
    guest.send(request::GET_VRING_BASE, &(RX as u64).to_ne_bytes(), &[]);
    guest.start_ring(RX);
    guest.post_buffers(1);
    let seen = host.turn();
    assert_eq!((seen.room, seen.link), (true, None), "nobody saw it down");
    assert_eq!(base(guest.client.reply_u64().expect("a reply")), 0);
    assert_eq!(ask(&mut host, 4000), Answer::All);
}

#[test]
fn a_report_that_is_owed_while_the_ring_is_disabled_comes_when_it_is_enabled() {
    let (mut host, mut guest) = connected(small(1));
    assert_eq!(ask(&mut host, 3000), Answer::None);
    guest.set_enable(RX, false);
    assert!(!host.turn().room);
    guest.post_buffers(2);
    guest.kick(RX);
    assert!(!host.turn().room);
    assert_eq!(ask(&mut host, 3000), Answer::None);
    guest.set_enable(RX, true);
    let seen = host.turn();
    assert_eq!((seen.room, seen.link), (true, Some(passt_frame::LinkChange::Up)));
    assert_eq!(ask(&mut host, 3000), Answer::All);
}
