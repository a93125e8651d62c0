//! What of the receiving half no script shows: the window, segment by segment, and when room is looked at.

use super::*;
use crate::wire::tcp::Flags;

fn receive(room: u32) -> ReceiveHalf {
    let mut r = ReceiveHalf::new(SeqNr(1000), WINDOW_MAX, 1460, Some(8));
    r.on_room(room);
    let field = r.field();
    r.advertised(field, false);
    r
}

#[test]
fn what_was_promised_stands_when_less_is_promised_from_now_on() {
    let mut r = receive(1 << 20);
    assert_eq!(r.promised(), 1 << 20);
    r.limit_window(1 << 18);
    assert_eq!(u32::from(r.field()) << 8, 1 << 20, "the edge stays");
    // The guest uses three quarters and a half of the last one up.
    r.nxt += 7 << 17;
    assert_eq!(u32::from(r.field()) << 8, 1 << 18, "no more than that");
    let field = r.field();
    r.advertised(field, false);
    r.limit_window(1 << 20);
    assert_eq!(u32::from(r.field()) << 8, 1 << 20, "all of it again");
}

/// Whatever the room, the guest can send, or it is watched.
#[test]
fn rfc9293_3_8_6_2_1_no_room_leaves_a_guest_waiting_that_sends_whole_segments() {
    for buffer in [4 * 1024, 65_280, 200_000, 300_000, 4 << 20] {
        let mut r = ReceiveHalf::new(SeqNr(1000), WINDOW_MAX, 61_440, Some(8));
        r.on_room(buffer);
        let mss = u32::from(r.mss);
        assert!((536..=61_440).contains(&mss), "{mss} of {buffer}");
        for room in (0..=buffer).step_by(97) {
            let mut r = ReceiveHalf::new(SeqNr(1000), WINDOW_MAX, 61_440, Some(8));
            r.on_room(buffer);
            r.on_room(room);
            let window = u32::from(r.field()) << 8;
            assert!(
                window >= mss.min(buffer / 2) || r.watch != Watch::No,
                "{room} of {buffer}: {window}"
            );
        }
    }
}

/// Before the kernel tells of room, which it does at a third of the buffer.
#[test]
fn room_is_looked_at_while_a_guest_waits_for_more() {
    let mut r = ReceiveHalf::new(SeqNr(1000), WINDOW_MAX, 61_440, Some(8));
    r.on_room(200_000);
    let field = r.field();
    r.advertised(field, false);
    assert_eq!(r.look_at(Timestamp::ZERO), None, "the guest may send");
    r.offer(190_000, false);
    r.commit(190_000, 0);
    assert!(r.take_query());
    r.on_room(30_000);
    let field = r.field();
    r.advertised(field, false);
    assert!(!r.take_query(), "nothing is asked for yet");
    let at = r.look_at(Timestamp::ZERO).expect("a look");
    r.on_time(Timestamp::ZERO, at);
    assert!(r.take_query());
    r.on_room(31_000);
    assert!(!r.update_due, "too little to speak of");
    let at = r.look_at(Timestamp::ZERO).expect("another look");
    r.on_time(Timestamp::ZERO, at);
    assert!(r.take_query());
    r.on_room(60_000);
    assert!(r.update_due);
    let field = r.field();
    r.advertised(field, false);
    assert_eq!(r.look_at(Timestamp::ZERO), None, "it may send again");
}

/// The guest sends in the very moment at which the kernel tells of room: what is left looks like all there ever was.
#[test]
fn a_buffer_that_has_shrunk_is_looked_at_too() {
    let mut r = ReceiveHalf::new(SeqNr(1000), WINDOW_MAX, 61_440, Some(8));
    r.on_room(65_280);
    r.on_room(1000);
    assert!(r.take_watch());
    r.on_writable();
    r.on_room(5600);
    let field = r.field();
    r.advertised(field, false);
    assert!(r.watch == Watch::No && r.promised() < u32::from(r.mss));
    assert!(r.look_at(Timestamp::ZERO).is_some());
}

#[test]
fn looks_end_where_nothing_comes_of_them() {
    let mut r = ReceiveHalf::new(SeqNr(1000), WINDOW_MAX, 61_440, Some(8));
    r.on_room(200_000);
    r.on_room(0);
    let field = r.field();
    r.advertised(field, false);
    let mut looks = 0;
    while let Some(at) = r.look_at(Timestamp::ZERO) {
        assert!(at < Timestamp::from_micros(200_000));
        r.on_time(Timestamp::ZERO, at);
        assert!(r.take_query());
        r.on_room(0);
        looks += 1;
    }
    assert_eq!(looks, LOOKS);
}

#[test]
fn window_never_exceeds_the_room() {
    let mut r = receive(100_000);
    for len in [1, 999, 5000, 300, 7, 40_000] {
        r.offer(len, false);
        r.commit(len, 0);
        let field = r.field();
        assert!(u32::from(field) << 8 <= r.room);
        r.advertised(field, false);
    }
}

#[test]
fn a_large_buffer_is_promised_in_parts_and_fills_all_the_same() {
    let (most, buffer) = (512 * 1024, 4 << 20);
    let mut r = ReceiveHalf::new(SeqNr(1000), most, 1460, Some(8));
    r.on_room(buffer);
    let mut sent = 0;
    loop {
        let field = r.field();
        r.advertised(field, false);
        let len = r.promised().min(61_440);
        assert!(r.promised() <= most, "{}", r.promised());
        if len == 0 {
            break;
        }
        // The guest sends what it may, and nothing leaves the buffer.
        r.offer(len, false);
        r.commit(len, 0);
        sent += len;
    }
    assert!(buffer - sent < 256, "{sent}");
}

#[test]
fn what_another_host_has_promised_holds() {
    let mut r = ReceiveHalf::new(SeqNr(1000), 512 * 1024, 1460, Some(8));
    r.on_room(4 << 20);
    r.edge = SeqNr(1000) + (2 << 20);
    let edge = r.edge;
    while r.promised() > 512 * 1024 {
        r.offer(60_000, false);
        r.commit(60_000, 0);
        let field = r.field();
        r.advertised(field, false);
        assert!(edge.offset_from(r.edge) < 256, "moved back by {}", edge.offset_from(r.edge));
    }
}

#[test]
fn rfc9293_3_8_6_the_edge_stays_while_the_room_is_as_expected() {
    let mut r = receive(100_000);
    let edge = r.edge;
    for _ in 0..500 {
        r.offer(101, false);
        r.commit(101, 0);
        let field = r.field();
        r.advertised(field, false);
        assert!(edge.offset_from(r.edge) < 256, "crept back by {}", edge.offset_from(r.edge));
    }
}

#[test]
fn rfc9293_3_8_6_2_2_small_room_does_not_move_the_edge() {
    let mut r = receive(10_000);
    let edge = r.edge;
    r.offer(9_000, false);
    r.commit(9_000, 0);
    r.on_room(1_400);
    let field = r.field();
    r.advertised(field, false);
    assert!(!r.edge.after(edge + 255));
    r.on_room(9_000);
    let field = r.field();
    r.advertised(field, false);
    assert!(r.edge.after(edge + 5000));
}

#[test]
fn half_of_the_room_goes_before_it_is_measured_again() {
    let mut r = receive(100_000);
    r.offer(40_000, false);
    r.commit(40_000, 0);
    assert!(!r.take_query());
    r.offer(20_000, false);
    r.commit(20_000, 0);
    assert!(r.take_query());
    assert!(!r.take_query(), "once");
}

#[test]
fn low_room_is_watched_and_a_shrunk_buffer_does_not_spin() {
    let mut r = receive(100_000);
    r.on_room(20_000);
    assert!(r.take_watch());
    r.on_writable();
    assert!(r.take_query());
    r.on_room(20_000);
    assert!(!r.take_watch());
}

/// Where sequence numbers wrap, and where comparison changes its sign.
const BASES: [u32; 4] = [0, 1000, u32::MAX - 5, (1 << 31) - 5];

/// A segment that begins at `seq` and takes `len` numbers, the last of which may be a FIN.
fn segment(seq: SeqNr, len: u32, fin: bool) -> Segment {
    let flags = if fin { Flags::FIN } else { Flags::ACK };
    Segment { seq, flags, payload_len: len - u32::from(fin), ..Segment::default() }
}

#[test]
fn rfc9293_3_10_7_4_a_segment_is_acceptable_if_one_of_its_numbers_is_in_the_window() {
    for (base, offered, window) in product3(&BASES, 0..4, 0..7) {
        let mut r = ReceiveHalf::new(SeqNr(base) - offered, WINDOW_MAX, 1460, None);
        r.offer(offered, false);
        r.far_edge = r.expected() + window;
        let is_inside = |nr: SeqNr| nr.0.wrapping_sub(base) < window;
        for (first, len, fin) in
            product3(&[-9i32, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8], 0..6, 0..2)
        {
            let seq = SeqNr(base.wrapping_add_signed(first));
            if fin == 1 && len == 0 {
                continue;
            }
            let expected = match len {
                0 => is_inside(seq) || seq == r.far_edge,
                _ if window == 0 => first < 0 && first + len as i32 > 0,
                _ => (0..len).any(|at| is_inside(seq + at)),
            };
            let seg = segment(seq, len, fin == 1);
            assert_eq!(r.is_acceptable(&seg), expected, "{seg:?} {r:?}");
        }
    }
}

#[test]
fn rfc9293_3_10_7_4_holds_for_the_largest_windows_and_segments() {
    let windows = [0, 1, 65535, WINDOW_MAX - 1, WINDOW_MAX];
    let lens = [0, 1, 1460, u32::from(u16::MAX), u32::from(u16::MAX) + 1];
    for (base, window) in product2(&BASES, &windows) {
        let mut r = ReceiveHalf::new(SeqNr(base), WINDOW_MAX, 1460, Some(8));
        r.far_edge = r.nxt + window;
        for (len, anchor) in
            product2(&lens, &[0, i64::from(window), i64::from(i32::MAX) - 1, -(1 << 30)])
        {
            for first in
                [anchor - i64::from(len), anchor].into_iter().flat_map(|at| at - 1..=at + 1)
            {
                let (len, window) = (i64::from(len), i64::from(window));
                let expected = match len {
                    0 => (0..=window).contains(&first),
                    _ if window == 0 => first < 0 && first + len > 0,
                    _ => first.max(0) < (first + len).min(window),
                };
                let seg = segment(SeqNr(base.wrapping_add(first as u32)), len as u32, false);
                assert_eq!(r.is_acceptable(&seg), expected, "{first} {len} {window}");
            }
        }
    }
}

#[test]
fn what_the_socket_took_moves_the_stream_on_by_so_much() {
    for (base, offered, taken) in product3(&BASES, 0..6, 0..8) {
        for fin in [false, true] {
            let mut r = ReceiveHalf::new(SeqNr(base), WINDOW_MAX, 1460, None);
            r.offer(offered, fin);
            let whole = taken >= offered;
            r.commit(taken, 0);
            assert_eq!(r.has_fin(), fin && whole);
            let numbers = taken.min(offered) + u32::from(fin && whole);
            assert_eq!((r.nxt, r.expected()), (SeqNr(base) + numbers, SeqNr(base) + numbers));
        }
    }
}

#[test]
fn rfc7323_2_4_no_window_field_promises_more_than_the_room_or_takes_much_back() {
    for (base, room, promised) in product3(&BASES, 0..48, 0..48) {
        for (scale, peak) in product2(&[0, 1, 2, 3], &[room, room + 1, 2 * room, 48, 200]) {
            let mut r = ReceiveHalf::new(SeqNr(base), WINDOW_MAX, 4, Some(scale));
            (r.room, r.peak) = (room, peak);
            (r.edge, r.far_edge) = (r.nxt + promised, r.nxt + promised);
            let edge = r.edge;
            let field = r.field();
            assert!(u32::from(field) << scale <= room, "{r:?}");
            r.advertised(field, false);
            let granule = 1 << scale;
            let least = edge - (granule - 1);
            assert!(room < promised || !r.edge.before(least), "{r:?} was {edge:?}");
            assert!(!r.far_edge.before(edge) && !r.far_edge.before(r.edge), "{r:?}");
        }
    }
}

fn product2<A: Copy, B: Copy>(a: &[A], b: &[B]) -> Vec<(A, B)> {
    a.iter().flat_map(|&a| b.iter().map(move |&b| (a, b))).collect()
}

fn product3<A: Copy>(
    a: &[A],
    b: std::ops::Range<u32>,
    c: std::ops::Range<u32>,
) -> Vec<(A, u32, u32)> {
    let pairs = product2(a, &b.collect::<Vec<u32>>());
    let thirds = |(a, b)| c.clone().map(move |c| (a, b, c));
    pairs.into_iter().flat_map(thirds).collect()
}
