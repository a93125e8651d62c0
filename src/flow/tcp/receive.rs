//! What comes from the guest: the next byte expected, what was acknowledged, and the window
//! (RFC 9293, sections 3.8.6.2.2 and 3.10.7.4; RFC 7323, section 2).
//!
//! The *room* is what the socket's send buffer can take: measured by the shell on request, and
//! counted down as data is written. The window promises room and nothing else, so a guest that
//! keeps to it never has data dropped. The kernel charges more than the payload, so a fresh
//! measurement may show less room than was promised; then the right edge moves back. RFC 9293
//! discourages that (section 3.8.6) but tells senders to bear it, and the alternative is to drop
//! what the guest sends next. What is in flight by then is still taken: segments are judged by
//! the furthest edge ever promised, and the kernel has the last word.
//!
//! Nor is more promised than [`TcpConfig::window_max`](super::TcpConfig::window_max), or a part of it, however much room there
//! is: a sender next door loses nothing on the link, so it sends as much as it may, and all of that waits in
//! the link's queue, in front of what every other connection of the guest sends. The socket's buffer fills all
//! the same: what has moved there counts no more.

use crate::wire::seq::SeqNr;

use super::image::Image;
use super::limits::{DEFAULT_MSS, LOOK_AFTER, LOOKS, UNACKNOWLEDGED_MAX, WINDOW_MAX, WINDOW_SCALE};
use crate::time::Timestamp;
use crate::wire::tcp::Segment;

/// The guest has not offered the option.
const NO_SCALE: u8 = u8::MAX;

/// It is time to look at the room: beside the number of looks, in one byte, for the size of a connection.
const LOOK_DUE: u8 = 128;

/// The socket has become writable since the last measurement.
const WRITABLE: u8 = 64;

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receive {
    /// Everything before this is in the socket.
    pub(crate) nxt: SeqNr,
    /// Bytes after `nxt` that this run of segments has offered; the result of the write is due.
    offered: u32,
    /// The acknowledgement number that the guest was told last.
    told: SeqNr,
    /// The right edge that the guest was told last.
    edge: SeqNr,
    /// The furthest edge it was ever told.
    far_edge: SeqNr,
    /// Bytes that the socket can take, as far as is known.
    room: u32,
    /// `room` when it was last measured.
    measured: u32,
    /// The most that was ever measured: stands for the size of the send buffer.
    peak: u32,
    /// The largest segment that we asked the guest to send.
    pub(crate) mss: u16,
    /// Our window scale, or [`NO_SCALE`]. Not an `Option`: a connection shall fit two cache lines.
    scale: u8,
    /// The most that is promised, whatever the room, as a power of two.
    window_bits: u8,
    /// `room` is as good as a measurement can make it.
    fresh: bool,
    /// The shell watches for that.
    watching: bool,
    watch_due: bool,
    update_due: bool,
    /// How often the room was looked at since the guest sent something, and what asks for it: [`LOOK_DUE`], [`WRITABLE`].
    looks: u8,
    /// The run being written ends with the guest's FIN.
    fin_offered: bool,
    /// The guest's FIN was taken.
    pub(crate) fin: bool,
    /// A run was cut short: the guest has to be told that segments were lost.
    cut: bool,
}

impl Receive {
    /// Of `window_max` the largest power of two counts.
    pub(crate) fn new(nxt: SeqNr, window_max: u32, mss: u16, scale: Option<u8>) -> Self {
        Self {
            nxt,
            offered: 0,
            told: nxt,
            edge: nxt,
            far_edge: nxt,
            room: 0,
            measured: 0,
            peak: 0,
            mss,
            scale: scale.unwrap_or(NO_SCALE),
            window_bits: window_max.max(1).ilog2() as u8,
            fresh: false,
            watching: false,
            watch_due: false,
            update_due: false,
            looks: 0,
            fin_offered: false,
            fin: false,
            cut: false,
        }
    }

    /// The receiving half, as `fresh`, of a connection that has moved here.
    pub(crate) fn restored(image: &Image, fresh: &Self, scale: Option<u8>) -> Self {
        let mut recv = Self::new(image.next_from_guest, fresh.window_max(), fresh.mss, scale);
        recv.told = image.acked_to_guest;
        recv.edge = recv.told + (u32::from(image.window_to_guest) << image.our_scale);
        recv.far_edge = recv.edge.max(recv.nxt);
        recv.fin = image.ends.from_guest;
        recv.update_due = true;
        recv
    }

    /// The acknowledgement number and the window field that the guest was told last.
    pub(crate) fn told(&self) -> (SeqNr, u16) {
        let window = self.edge.offset_from(self.told).max(0).unsigned_abs() / self.granule();
        (self.told, u16::try_from(window).unwrap_or(u16::MAX))
    }

    /// Takes over the guest's initial sequence number; what was measured and promised stays.
    pub(crate) fn synchronise(&mut self, nxt: SeqNr, scale: Option<u8>) {
        let edge = nxt + self.promised();
        (self.nxt, self.told, self.edge, self.far_edge) = (nxt, nxt, edge, edge);
        self.set_scale(scale);
    }

    /// Our window scale, if the guest has offered the option.
    pub(crate) fn scale(&self) -> Option<u8> {
        (self.scale != NO_SCALE).then_some(self.scale)
    }

    /// The largest segment that the guest is asked to send. Senders wait until a whole one fits the window, or half of the
    /// largest window that they saw (RFC 9293, section 3.8.6.2.1), and for 200 ms and more where nobody opens it. The
    /// kernel tells of room only where a third of the buffer is free and little was: so a quarter of the buffer, below which
    /// it is watched, has to be room enough for a segment. Toward other networks a buffer begins with some 64 KiB.
    pub(crate) fn settle_mss(&mut self) -> u16 {
        if self.peak > 0 {
            // As much of it as the window field can say.
            let quarter = (self.peak / 4) >> WINDOW_SCALE << WINDOW_SCALE;
            let quarter = u16::try_from(quarter).unwrap_or(u16::MAX);
            self.mss = self.mss.min(quarter.max(DEFAULT_MSS));
        }
        self.mss
    }

    pub(crate) fn set_scale(&mut self, scale: Option<u8>) {
        self.scale = scale.unwrap_or(NO_SCALE);
    }

    fn window_max(&self) -> u32 {
        1 << self.window_bits
    }

    /// See [`Conn::limit_window`](super::Conn::limit_window).
    pub(crate) fn limit_window(&mut self, window_max: u32) {
        self.window_bits = window_max.max(1).ilog2() as u8;
    }

    /// The next byte expected, counting what this run has offered.
    pub(crate) fn expected(&self) -> SeqNr {
        self.nxt + self.offered
    }

    /// Whether the guest's stream has ended, counting what this run has offered.
    pub(crate) fn ended(&self) -> bool {
        self.fin || self.fin_offered
    }

    /// The test of RFC 9293, section 3.10.7.4, with two additions. An empty segment may stand on the right
    /// edge: it does when the guest has filled the window and part of it was lost. And a segment may
    /// reach over a window that is closed, from before it: what it acknowledges counts, and whether the
    /// socket takes what is new in it is the kernel's to say.
    pub(crate) fn is_acceptable(&self, seg: &Segment) -> bool {
        let first = i64::from(seg.seq.offset_from(self.expected()));
        let window = i64::from(self.far_edge.offset_from(self.expected()).max(0));
        match i64::from(seg.sequence_len()) {
            0 => (0..=window).contains(&first),
            len => first < window && first + len > 0,
        }
    }

    /// Adds `len` bytes, and the FIN, to the run.
    pub(crate) fn offer(&mut self, len: u32, fin: bool) {
        self.offered = self.offered.saturating_add(len);
        if len > 0 {
            self.looks &= WRITABLE;
        }
        self.fin_offered = fin;
        if self.is_low() {
            self.fresh = false;
        }
    }

    /// Whether the end of the run needs no write.
    pub(crate) fn is_run_empty(&self) -> bool {
        self.offered == 0
    }

    /// Ends the run: the socket took `taken` bytes of it. Whether that includes the FIN.
    pub(crate) fn commit(&mut self, taken: u32) -> bool {
        let taken = taken.min(self.offered);
        let whole = taken == self.offered;
        self.nxt += taken;
        self.offered = 0;
        self.room = if whole { self.room.saturating_sub(taken) } else { 0 };
        if whole {
            self.fresh &= taken == 0;
        } else {
            (self.fresh, self.cut) = (true, true);
            self.watch();
        }
        let fin = std::mem::take(&mut self.fin_offered) && whole;
        if fin {
            self.nxt += 1;
            self.fin = true;
        }
        fin
    }

    /// The send buffer has room again. News only while it is watched: epoll reports it with others.
    pub(crate) fn on_writable(&mut self) {
        if !std::mem::take(&mut self.watching) {
            return;
        }
        self.looks |= WRITABLE;
        self.fresh = false;
    }

    /// When to look at the room without being told of it. `active` is when the guest or the socket gave the last sign of
    /// life.
    pub(crate) fn look_at(&self, active: Timestamp) -> Option<Timestamp> {
        let mss = u32::from(self.mss);
        let waits = self.promised() < mss && self.room < mss.max(self.peak / 2);
        let looks = self.looks & !(LOOK_DUE | WRITABLE);
        (waits && looks < LOOKS && !self.fin).then(|| active + LOOK_AFTER * (1 << looks))
    }

    /// Time has passed.
    pub(crate) fn on_time(&mut self, active: Timestamp, now: Timestamp) {
        while self.look_at(active).is_some_and(|at| at <= now) {
            self.looks = (self.looks + 1) | LOOK_DUE;
            self.fresh = false;
        }
    }

    /// A fresh measurement.
    pub(crate) fn on_room(&mut self, bytes: u32) {
        let bytes = bytes.min(WINDOW_MAX);
        let asked = self.looks & (LOOK_DUE | WRITABLE) != 0;
        let writable = self.looks & WRITABLE != 0;
        self.looks &= !(LOOK_DUE | WRITABLE);
        (self.room, self.measured, self.fresh) = (bytes, bytes, true);
        let first = self.peak == 0;
        self.peak = self.peak.max(bytes);
        if first {
            // What was said by another host is not known: as it would have been said here.
            self.settle_mss();
        }
        if self.is_low() && writable {
            // The kernel calls it writable, so the buffer has shrunk: forget the old size, and do
            // not watch again, which would end at once. The guest's next segment asks again.
            self.peak = bytes;
        } else if self.is_low() {
            self.watch();
        }
        self.update_due |= asked && self.window() > self.promised();
    }

    /// A reply is due: with little room, measure before saying how little.
    pub(crate) fn refresh_if_low(&mut self) {
        if self.is_low() {
            self.fresh = false;
        }
    }

    /// Whether to measure now. Half of what was measured last may go before it is done again.
    pub(crate) fn take_query(&mut self) -> bool {
        let spent = self.room <= self.measured / 2 || self.is_low();
        let asked = self.looks & (LOOK_DUE | WRITABLE) != 0;
        let query = (spent || asked) && !self.fin && !self.fresh;
        self.fresh |= query;
        query
    }

    /// Whether the shell has to start watching now.
    pub(crate) fn take_watch(&mut self) -> bool {
        std::mem::take(&mut self.watch_due) && !self.fin
    }

    /// Whether the guest must be told of the loss of a run, now that there is room again.
    pub(crate) fn take_cut(&mut self) -> bool {
        let told = self.cut && self.window() > 0;
        self.cut &= !told;
        told
    }

    /// The guest's SYN-ACK has come: it is acknowledged with the first data if that is there already.
    pub(crate) fn owe_ack(&mut self) {
        self.update_due = true;
    }

    /// Whether the guest has something to learn.
    pub(crate) fn is_ack_due(&self) -> bool {
        self.nxt != self.told || self.update_due
    }

    /// Whether the guest can do without the acknowledgement for a while: it has more than half of its
    /// window left, and nothing else to learn.
    pub(crate) fn ack_may_wait(&self) -> bool {
        let owed = self.nxt.offset_from(self.told).max(0).unsigned_abs();
        let most = UNACKNOWLEDGED_MAX.min(self.promised());
        owed < most && !self.update_due && !self.fin && !self.cut
    }

    /// Bytes that the guest was told it may send.
    fn promised(&self) -> u32 {
        self.edge.offset_from(self.nxt).max(0).unsigned_abs()
    }

    /// Less than a quarter of the buffer is free (Linux calls a socket writable from a third on),
    /// or too little to show in the window field.
    fn is_low(&self) -> bool {
        self.room < (self.peak / 4).max(self.granule())
    }

    /// The unit of the window field, in bytes.
    fn granule(&self) -> u32 {
        1 << self.scale().unwrap_or(0).min(WINDOW_SCALE)
    }

    fn watch(&mut self) {
        if !self.watching {
            (self.watching, self.watch_due) = (true, true);
        }
    }

    /// The smallest step by which the window opens (RFC 9293, section 3.8.6.2.2, with a quarter of
    /// the buffer where that says "a fraction"): not more than what a watch waits for, or is ever promised.
    fn step(&self) -> u32 {
        u32::from(self.mss).min(self.peak / 4).min(self.window_max())
    }

    /// The window, in bytes: the room as far as it is promised, but no small step up, except to a whole
    /// one from less.
    fn window(&self) -> u32 {
        let (promised, step) = (self.promised(), self.step());
        let most = self.room.min(self.window_max());
        let opens = most >= step && (promised < step || most.saturating_sub(promised) >= step);
        if opens { most } else { promised.min(self.room) }
    }

    /// The window field. Rounded up where there is room, lest the edge creep back by the
    /// granularity of the scale with each segment.
    pub(crate) fn field(&self) -> u16 {
        let (window, granule) = (self.window(), self.granule());
        let up = window.div_ceil(granule);
        let fits = up * granule <= self.room;
        let field = if fits { up } else { window / granule };
        u16::try_from(field).unwrap_or(u16::MAX)
    }

    /// The window field of a SYN or SYN-ACK, which is never scaled.
    pub(crate) fn syn_field(&self) -> u16 {
        u16::try_from(self.room).unwrap_or(u16::MAX)
    }

    /// A segment with the current `nxt` and `field` went out.
    pub(crate) fn advertised(&mut self, field: u16, is_syn: bool) {
        let unit = if is_syn { 1 } else { self.granule() };
        self.told = self.nxt;
        self.edge = self.nxt + u32::from(field) * unit;
        self.far_edge = self.far_edge.max(self.edge);
        self.update_due = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tcp::Flags;

    fn receive(room: u32) -> Receive {
        let mut r = Receive::new(SeqNr(1000), WINDOW_MAX, 1460, Some(8));
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
            let mut r = Receive::new(SeqNr(1000), WINDOW_MAX, 61_440, Some(8));
            r.on_room(buffer);
            let mss = u32::from(r.settle_mss());
            assert!((536..=61_440).contains(&mss), "{mss} of {buffer}");
            assert_eq!(u32::from(r.settle_mss()), mss, "a repeated SYN says the same");
            for room in (0..=buffer).step_by(97) {
                let mut r = Receive::new(SeqNr(1000), WINDOW_MAX, 61_440, Some(8));
                r.on_room(buffer);
                r.settle_mss();
                r.on_room(room);
                let window = u32::from(r.field()) << 8;
                assert!(
                    window >= mss.min(buffer / 2) || r.watching,
                    "{room} of {buffer}: {window}"
                );
            }
        }
    }

    /// Before the kernel tells of room, which it does at a third of the buffer.
    #[test]
    fn room_is_looked_at_while_a_guest_waits_for_more() {
        let mut r = Receive::new(SeqNr(1000), WINDOW_MAX, 61_440, Some(8));
        r.on_room(200_000);
        let field = r.field();
        r.advertised(field, false);
        assert_eq!(r.look_at(Timestamp::ZERO), None, "the guest may send");
        r.offer(190_000, false);
        r.commit(190_000);
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
        let mut r = Receive::new(SeqNr(1000), WINDOW_MAX, 61_440, Some(8));
        r.on_room(65_280);
        r.settle_mss();
        r.on_room(1000);
        assert!(r.take_watch());
        r.on_writable();
        r.on_room(5600);
        let field = r.field();
        r.advertised(field, false);
        assert!(!r.watching && r.promised() < u32::from(r.mss));
        assert!(r.look_at(Timestamp::ZERO).is_some());
    }

    #[test]
    fn looks_end_where_nothing_comes_of_them() {
        let mut r = Receive::new(SeqNr(1000), WINDOW_MAX, 61_440, Some(8));
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
            r.commit(len);
            let field = r.field();
            assert!(u32::from(field) << 8 <= r.room);
            r.advertised(field, false);
        }
    }

    #[test]
    fn a_large_buffer_is_promised_in_parts_and_fills_all_the_same() {
        let (most, buffer) = (512 * 1024, 4 << 20);
        let mut r = Receive::new(SeqNr(1000), most, 1460, Some(8));
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
            r.commit(len);
            sent += len;
        }
        assert!(buffer - sent < 256, "{sent}");
    }

    #[test]
    fn what_another_host_has_promised_holds() {
        let mut r = Receive::new(SeqNr(1000), 512 * 1024, 1460, Some(8));
        r.on_room(4 << 20);
        r.edge = SeqNr(1000) + (2 << 20);
        let edge = r.edge;
        while r.promised() > 512 * 1024 {
            r.offer(60_000, false);
            r.commit(60_000);
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
            r.commit(101);
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
        r.commit(9_000);
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
        r.commit(40_000);
        assert!(!r.take_query());
        r.offer(20_000, false);
        r.commit(20_000);
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
            let mut r = Receive::new(SeqNr(base) - offered, WINDOW_MAX, 1460, None);
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
            let mut r = Receive::new(SeqNr(base), WINDOW_MAX, 1460, Some(8));
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
                let mut r = Receive::new(SeqNr(base), WINDOW_MAX, 1460, None);
                r.offer(offered, fin);
                let whole = taken >= offered;
                assert_eq!(r.commit(taken), fin && whole);
                let numbers = taken.min(offered) + u32::from(fin && whole);
                assert_eq!((r.nxt, r.expected()), (SeqNr(base) + numbers, SeqNr(base) + numbers));
            }
        }
    }

    #[test]
    fn rfc7323_2_4_no_window_field_promises_more_than_the_room_or_takes_much_back() {
        for (base, room, promised) in product3(&BASES, 0..48, 0..48) {
            for (scale, peak) in product2(&[0, 1, 2, 3], &[room, room + 1, 2 * room, 48, 200]) {
                let mut r = Receive::new(SeqNr(base), WINDOW_MAX, 4, Some(scale));
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
}
