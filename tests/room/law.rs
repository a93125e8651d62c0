//! What each answer promises, looked at one by one.

use std::sync::OnceLock;

use passt_frame::{
    FrameDone, FrameMeta, MAX_FRAME_BYTES, MIN_FRAME_BYTES, Payload, PortEvents, Reservation,
    Reserve, ToGuestLease, ToGuestList,
};

use crate::links::Subject;
use crate::senders::Dice;

/// Bytes of the headers of most requests: Ethernet, IPv4, UDP.
const HEADER_BYTES: u32 = 42;

/// The answer of a link, without the lease: its frames, and the payload bytes that fit in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    All { frames: usize, room: u32 },
    Some { frames: usize, room: u32 },
    None,
    Never,
}

/// Datagrams of `segment` bytes, as many as `bytes` make.
pub fn datagrams(segment: u32, bytes: u32) -> Reserve {
    Reserve { header_len: HEADER_BYTES, payload_len: segment, bytes, payload: Payload::Datagrams }
}

/// Asks for room and gives it back.
pub fn ask(link: &mut impl Subject, list: &mut ToGuestList, request: Reserve) -> Answer {
    let (_, out) = link.port().halves();
    let shape = |lease: &ToGuestLease<'_>| (lease.frames(), lease.room());
    match ToGuestLease::reserve(out, list, request) {
        Reservation::All(lease) => {
            let (frames, room) = shape(&lease);
            Answer::All { frames, room }
        }
        Reservation::Some(lease) => {
            let (frames, room) = shape(&lease);
            Answer::Some { frames, room }
        }
        Reservation::None => Answer::None,
        Reservation::Never => Answer::Never,
    }
}

/// `len` bytes that are different for each `seed`.
pub fn pattern(len: usize, seed: u32) -> Vec<u8> {
    const SEEDS: usize = 1 << 16;
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut dice = Dice(1);
        (0..SEEDS + MAX_FRAME_BYTES as usize).map(|_| dice.below(256) as u8).collect()
    });
    let start = seed as usize % SEEDS;
    bytes[start..start + len].to_vec()
}

/// Asks for room and fills all of it, with other bytes for each frame; returns the answer and the frames
/// as the guest is to see them.
fn send(
    link: &mut impl Subject,
    list: &mut ToGuestList,
    request: Reserve,
) -> (Answer, Vec<Vec<u8>>) {
    let answer = ask(link, list, request);
    let (_, out) = link.port().halves();
    let Some(mut lease) = ToGuestLease::reserve(out, list, request).lease() else {
        return (answer, Vec::new());
    };
    let (mut frames, mut done) = (Vec::new(), Vec::new());
    let mut left = request.bytes;
    for index in 0..lease.frames() {
        let len = lease.frame_room(index).min(left);
        left -= len;
        let mut frame = pattern((request.header_len + len) as usize, index as u32 + request.bytes);
        let (header, payload) = frame.split_at(request.header_len as usize);
        lease.put_header(index, header);
        assert_eq!(lease.put_payload(index, payload), payload.len());
        frame.resize(frame.len().max(MIN_FRAME_BYTES as usize), 0);
        frames.push(frame);
        done.push(FrameDone { payload_len: len, meta: FrameMeta::default() });
    }
    lease.commit(&done);
    (answer, frames)
}

/// Turns, and checks that nothing is reported.
fn silent(link: &mut impl Subject) {
    for _ in 0..3 {
        assert!(!link.turn(0).room, "a report of room that did not come");
    }
}

/// The guest takes everything and frees everything. Returns what was reported meanwhile, and the frames.
pub fn free_all(link: &mut impl Subject) -> (PortEvents, Vec<Vec<u8>>) {
    let (mut events, mut frames) = (PortEvents::default(), Vec::new());
    loop {
        let seen = link.turn(0);
        events.room |= seen.room;
        let mut any = false;
        while link.free_some() {
            any = true;
        }
        let got = link.received();
        if !any && got.is_empty() {
            return (events, frames);
        }
        frames.extend(got);
    }
}

/// Lengths of frames to try: the smallest, usual ones, those around the largest.
fn lengths(largest: u32) -> Vec<u32> {
    let around = (largest.saturating_sub(2)..=largest + 2).chain([largest * 2, largest / 2]);
    let usual = [60, 61, 100, 1514, 1515, 4096, 9000, 30_000, MAX_FRAME_BYTES];
    let mut all: Vec<u32> = around.chain(usual).collect();
    all.retain(|len| (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(len));
    all
}

pub fn whole_or_never<S: Subject>(make: impl Fn() -> S) {
    let (mut link, mut list) = (make(), ToGuestList::new());
    let largest = link.largest();
    for len in lengths(largest) {
        let payload = len - HEADER_BYTES;
        let answer = ask(&mut link, &mut list, datagrams(payload, payload));
        let fits = Answer::All { frames: 1, room: payload };
        assert_eq!(answer, if len <= largest { fits } else { Answer::Never }, "{len} bytes");
        silent(&mut link);
        let (answer, sent) = send(&mut link, &mut list, datagrams(18, 18));
        assert_eq!(answer, Answer::All { frames: 1, room: 18 }, "after {len} bytes");
        assert_eq!(free_all(&mut link), (PortEvents::default(), sent));
        if len <= largest {
            let (_, sent) = send(&mut link, &mut list, datagrams(payload, payload));
            assert!(free_all(&mut link).1 == sent, "{len} bytes: other bytes arrive");
        }
    }
}

pub fn streams_are_cut<S: Subject>(make: impl Fn() -> S) {
    let (mut link, mut list) = (make(), ToGuestList::new());
    let largest = link.largest();
    for (segment, bytes) in [(18, 18), (1448, 1448), (1448, 20_000), (65_000, 120_000), (1, 2)] {
        let payload = Payload::Stream;
        let request = Reserve { header_len: 54, payload_len: segment, bytes, payload };
        let (answer, sent) = send(&mut link, &mut list, request);
        let (Answer::All { frames, room } | Answer::Some { frames, room }) = answer else {
            panic!("{answer:?}, {segment} of {bytes}");
        };
        assert!(frames > 0 && room > 0 && room <= bytes, "{answer:?}, {segment} of {bytes}");
        let most = (54 + segment).max(MIN_FRAME_BYTES).min(largest) as usize;
        assert!(sent.iter().all(|frame| frame.len() <= most), "{segment} of {bytes}");
        let (events, got) = free_all(&mut link);
        assert!(got == sent, "{segment} of {bytes}: other bytes arrive");
        assert_eq!(events.room, matches!(answer, Answer::Some { .. }), "{answer:?}");
    }
    // Headers alone are whole, whatever the payload would have been.
    let request = Reserve { header_len: 54, payload_len: 0, bytes: 0, payload: Payload::Stream };
    assert_eq!(ask(&mut link, &mut list, request), Answer::All { frames: 1, room: 0 });
}

/// Sends until there is no room; returns the frames. Checks that the answers come in order.
fn exhaust(link: &mut impl Subject, list: &mut ToGuestList, request: Reserve) -> Vec<Vec<u8>> {
    let (mut all, mut last) = (Vec::new(), false);
    loop {
        let (answer, sent) = send(link, list, request);
        all.extend(sent);
        match answer {
            Answer::All { .. } => assert!(!last, "more without a report"),
            Answer::Some { .. } => {
                assert!(!last, "more without a report");
                last = true;
            }
            Answer::None => return all,
            Answer::Never => panic!("never, after {} frames", all.len()),
        }
        assert!(all.len() < 100_000, "there is always room");
    }
}

pub fn always_room<S: Subject>(make: impl Fn() -> S) {
    let (mut link, mut list) = (make(), ToGuestList::new());
    let request = datagrams(700, 20 * 700);
    for _ in 0..100 {
        let (answer, sent) = send(&mut link, &mut list, request);
        assert_eq!(answer, Answer::All { frames: 20, room: request.bytes });
        assert_eq!(free_all(&mut link), (PortEvents::default(), sent));
    }
}

pub fn exhaustion<S: Subject>(make: impl Fn() -> S) {
    let (mut link, mut list) = (make(), ToGuestList::new());
    let len = link.largest().min(700);
    let request = datagrams(len - HEADER_BYTES, 20 * (len - HEADER_BYTES));
    let mut counts = Vec::new();
    for _ in 0..3 {
        let mut sent = exhaust(&mut link, &mut list, request);
        silent(&mut link);
        counts.push(sent.len());
        // Nobody is told that what fits when all is free never fits; nor who wants little that there is room.
        let payload = link.largest() - HEADER_BYTES;
        assert_eq!(ask(&mut link, &mut list, datagrams(payload, payload)), Answer::None);
        assert_eq!(ask(&mut link, &mut list, request), Answer::None);
        silent(&mut link);
        let mut got = Vec::new();
        let mut tries = 0..link.patience();
        while !{
            assert!(tries.next().is_some() && link.free_some(), "no report of room");
            link.turn(0).room
        } {}
        silent(&mut link);
        let (_, more) = send(&mut link, &mut list, request);
        sent.extend(more);
        let owed = matches!(ask(&mut link, &mut list, request), Answer::Some { .. } | Answer::None);
        let (events, rest) = free_all(&mut link);
        assert_eq!(events.room, owed, "the second time");
        got.extend(rest);
        assert!(got == sent, "other frames arrive, or in another order");
        silent(&mut link);
    }
    assert!(counts.iter().all(|&count| count == counts[0]), "room is lost: {counts:?}");
}

/// One sender is refused; what comes then is used by another, who never asks again; what comes after that
/// is for the first.
pub fn used_meanwhile<S: Subject>(make: impl Fn() -> S) {
    let (mut link, mut list) = (make(), ToGuestList::new());
    let len = link.largest().min(700);
    let request = datagrams(len - HEADER_BYTES, 20 * (len - HEADER_BYTES));
    for round in 0..20 {
        let mut sent = exhaust(&mut link, &mut list, request);
        silent(&mut link);
        assert!(link.free_some());
        let (_, more) = send(&mut link, &mut list, datagrams(18, 18));
        sent.extend(more);
        let room = link.turn(0).room;
        let (events, got) = free_all(&mut link);
        assert!(room || events.room, "round {round}: the report of room is lost");
        assert!(got == sent, "round {round}");
        silent(&mut link);
    }
}

pub fn given_back<S: Subject>(make: impl Fn() -> S) {
    let (mut link, mut list) = (make(), ToGuestList::new());
    // A frame takes several buffers where it can, and shorter ones leave some in between.
    let segment = (link.largest() / 3).clamp(60, 6000).min(link.largest()) - HEADER_BYTES;
    let request = datagrams(segment, 10 * segment);
    let first = ask(&mut link, &mut list, request);
    for round in 0..200u32 {
        assert_eq!(ask(&mut link, &mut list, request), first, "round {round}");
        let (_, out) = link.port().halves();
        let lease = ToGuestLease::reserve(out, &mut list, request).lease();
        let mut lease = lease.expect("there is room");
        let frames = lease.frames();
        // All that is lent is written to; what is committed is less, from none to all.
        for index in 0..frames {
            lease.put_payload(index, &vec![0xee; segment as usize]);
        }
        let count = round as usize % (frames + 1);
        let (mut sent, mut done) = (Vec::new(), Vec::new());
        for index in 0..count {
            let len = (round * 377 + index as u32 * 1013) % (segment + 1);
            let mut frame = pattern((HEADER_BYTES + len) as usize, round + index as u32);
            lease.put_header(index, &frame[..HEADER_BYTES as usize]);
            lease.put_payload(index, &frame[HEADER_BYTES as usize..]);
            frame.resize(frame.len().max(MIN_FRAME_BYTES as usize), 0);
            sent.push(frame);
            done.push(FrameDone { payload_len: len, meta: FrameMeta::default() });
        }
        lease.commit(&done);
        let (_, got) = free_all(&mut link);
        assert!(got == sent, "round {round}: {} of {frames} frames", got.len());
    }
}

pub fn down<S: Subject>(make: impl Fn() -> S) {
    let (mut link, mut list) = (make(), ToGuestList::new());
    link.stop();
    let up = link.port().halves().1.caps().up;
    let answer = ask(&mut link, &mut list, datagrams(18, 18));
    // A link that is always up drops what it cannot deliver.
    let wanted = if up { Answer::All { frames: 1, room: 18 } } else { Answer::None };
    assert_eq!((up, answer), (!link.is_bounded(), wanted));
    assert!(!link.turn(0).room);
}
