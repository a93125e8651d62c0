//! What goes to the guest: what is in flight, the guest's window, and loss recovery without
//! selective acknowledgements (RFC 5681, section 3.2; RFC 6582).
//!
//! The data itself stays in the socket's receive queue until the guest has acknowledged it. Bytes
//! that it has acknowledged leave the queue in batches: when all is acknowledged, or when they are
//! a quarter of what we know the queue to hold. So the far end's window is never smaller by more
//! than that quarter, and a long transfer costs a few discards per window, not one per ACK.

use std::time::Duration;

use crate::time::Timestamp;
use crate::wire::seq::SeqNr;

use super::asking::Asking;
use super::doubt::Doubt;
use super::image::Image;
use super::limits::{DATA_QUANTUM, DEFAULT_MSS, DISCARD_MAX, MIN_MSS, WINDOW_MAX};
use super::losses::{Losses, Progress, Shown};
use crate::wire::tcp::Segment;

/// The unit in which the first round trip is kept, in one byte, rounded down. Longer ones than 127 ms count as 127 ms.
const TRIP_UNIT: Duration = Duration::from_micros(500);

/// The first round trip was not measured.
const UNKNOWN_TRIP: u8 = u8::MAX;

/// What an acknowledgement has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acked {
    /// Something new was acknowledged.
    Progress,
    /// Nothing new; the window is open.
    Nothing,
    /// Nothing new; the window is or was closed, so this may answer a probe.
    Probe,
}

/// Which data an [`super::Action::SendData`] was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    No,
    Next,
    Again,
    /// The last byte, once more.
    Last,
}

/// Says what [`SendHalf::eof`] marks. Kept apart from it, because an enum that carries the number would enlarge every
/// connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// `eof` is unset.
    Unknown,
    /// In a handshake: what was acknowledged by a segment of a connection that we do not know.
    Stray,
    /// The number after the last byte in the queue of a socket that has failed.
    Queue,
    /// The FIN: the peer's stream ends there.
    Fin,
}

/// The sending half.
#[derive(Debug)]
pub(super) struct SendHalf {
    /// The first byte that the guest has not acknowledged.
    pub(crate) una: SeqNr,
    /// The next byte to send. Goes back after a timeout.
    pub(crate) nxt: SeqNr,
    /// The byte after the last one ever sent.
    pub(crate) max: SeqNr,
    /// The sequence number that `end` describes.
    eof: SeqNr,
    /// `seq` of the segment that last set the window (SND.WL1).
    wl1: SeqNr,
    /// Acknowledged bytes that are still in the socket's queue.
    undiscarded: u32,
    /// The guest's window, and the largest that it had, not scaled.
    window: u16,
    window_max: u16,
    /// The guest's segment size.
    pub(crate) mss: u16,
    /// The guest's window scale.
    pub(crate) scale: u8,
    duplicates: u8,
    /// How long a round trip took in the handshake, in [`TRIP_UNIT`]s, or [`UNKNOWN_TRIP`].
    round_trip: u8,
    losses: Losses,
    end: End,
    /// The socket may have data that was not sent yet.
    pub(crate) readable: bool,
    /// The peer has closed: read on until the end shows.
    pub(crate) closing: bool,
    /// The link has no buffer for data.
    pub(crate) no_room: bool,
    pub(crate) sending: Sending,
    /// Whether a silent guest is asked how far it is.
    pub(crate) asking: Asking,
    /// Whether the guest knows what it has said itself.
    pub(crate) doubt: Doubt,
}

impl SendHalf {
    pub(crate) fn new(isn: SeqNr) -> Self {
        Self {
            una: isn,
            nxt: isn,
            max: isn,
            eof: isn,
            wl1: isn,
            undiscarded: 0,
            window: 0,
            window_max: 0,
            mss: DEFAULT_MSS,
            scale: 0,
            duplicates: 0,
            round_trip: UNKNOWN_TRIP,
            losses: Losses::default(),
            end: End::Unknown,
            readable: false,
            closing: false,
            no_room: false,
            sending: Sending::No,
            asking: Asking::default(),
            doubt: Doubt::default(),
        }
    }

    /// The sending half of a connection that has moved here, with `queued` bytes in the socket's queue.
    pub(crate) fn restored(image: &Image, queued: u32, mss: u16) -> Self {
        let mut send = Self::new(image.acked_by_guest);
        (send.nxt, send.max) = (image.next_to_guest, image.next_to_guest);
        send.wl1 = image.acked_to_guest;
        (send.window, send.window_max) = (image.window_from_guest, image.window_from_guest);
        (send.mss, send.scale) = (mss, image.guest_scale);
        if image.ends.from_peer {
            // An end that was acknowledged is the number before.
            send.eof = send.una + queued - u32::from(image.ends.acked_by_guest);
            send.end = End::Fin;
        }
        send.readable = !send.is_ended() || send.nxt.before(send.eof);
        send
    }

    /// The window of a SYN, which is not scaled on the wire (RFC 7323, section 2.2), as that of a later segment.
    pub(crate) fn syn_window(&self, syn: &Segment) -> u16 {
        (syn.window >> self.scale).max(1).min(syn.window)
    }

    /// Takes the window of a SYN.
    pub(crate) fn open_window(&mut self, syn: &Segment) {
        self.wl1 = syn.seq;
        self.window = self.syn_window(syn);
        self.window_max = self.window;
    }

    /// In a handshake: a segment of a connection that we do not know has acknowledged `ack`.
    pub(crate) fn note_stray(&mut self, ack: SeqNr) {
        (self.eof, self.end) = (ack, End::Stray);
    }

    /// The acknowledgement number that was [noted](Self::note_stray) last.
    pub(crate) fn stray(&self) -> SeqNr {
        self.eof
    }

    /// The SYN was acknowledged: the stream starts.
    pub(crate) fn establish(&mut self) {
        self.una = self.max;
        self.nxt = self.max;
        if self.end == End::Stray {
            self.end = End::Unknown;
        }
    }

    /// A round trip took `time` in the handshake.
    pub(crate) fn handshake_takes(&mut self, time: Duration) {
        let units = time.as_micros() / TRIP_UNIT.as_micros();
        self.round_trip = u8::try_from(units).unwrap_or(u8::MAX).min(UNKNOWN_TRIP - 1);
    }

    fn handshake_took(&self) -> Option<Duration> {
        (self.round_trip != UNKNOWN_TRIP).then(|| TRIP_UNIT * u32::from(self.round_trip))
    }

    /// Counts a SYN as sent.
    pub(crate) fn sent_syn(&mut self) {
        self.max = self.una + 1;
        self.nxt = self.max;
    }

    /// The guest's window, in bytes.
    pub(crate) fn window_bytes(&self) -> u32 {
        (u32::from(self.window) << self.scale).min(WINDOW_MAX)
    }

    /// The sequence number of a segment without data: the guest would reject one that it has seen,
    /// or one beyond its window.
    pub(crate) fn ack_seq(&self) -> SeqNr {
        let edge = self.una + self.window_bytes();
        if self.max.after(edge) { edge } else { self.max }
    }

    fn in_flight(&self) -> u32 {
        self.nxt.offset_from(self.una).max(0).unsigned_abs()
    }

    /// Whether something sent was not acknowledged yet.
    pub(crate) fn is_outstanding(&self) -> bool {
        self.una != self.max
    }

    /// Whether the number `seq` was sent and not acknowledged yet.
    pub(crate) fn is_under_way(&self, seq: SeqNr) -> bool {
        !seq.before(self.una) && seq.before(self.max)
    }

    /// Whether the guest has acknowledged our FIN.
    pub(crate) fn is_fin_acked(&self) -> bool {
        self.is_ended() && self.una.after(self.eof)
    }

    /// Whether our FIN was sent, and the guest has acknowledged all before it.
    pub(crate) fn is_fin_all_that_waits(&self) -> bool {
        self.is_ended() && self.max.after(self.eof) && !self.una.before(self.eof)
    }

    /// The guest's window as it was in the segment.
    pub(crate) fn window_field(&self) -> u16 {
        self.window
    }

    /// Whether what was acknowledged last shows the next hole of a loss.
    pub(crate) fn is_in_recovery(&self) -> bool {
        self.losses.is_repairing()
    }

    /// Whether our FIN was ever sent.
    pub(crate) fn is_end_sent(&self) -> bool {
        self.is_ended() && self.max.after(self.eof)
    }

    /// Bytes that are acknowledged and still in the socket's queue: from now on they are not.
    pub(crate) fn take_acknowledged(&mut self) -> u32 {
        std::mem::take(&mut self.undiscarded)
    }

    /// Whether the end of the peer's stream is known.
    pub(crate) fn is_ended(&self) -> bool {
        self.end == End::Fin
    }

    /// Where the stream ends is not known, unless that has shown.
    pub(crate) fn forget_end(&mut self) {
        if !self.is_ended() {
            self.end = End::Unknown;
        }
    }

    /// The queue of the socket holds `bytes`, and nothing comes after them.
    pub(crate) fn ends_after(&mut self, bytes: u32) {
        if !self.is_ended() {
            (self.eof, self.end) = (self.una - self.undiscarded + bytes, End::Queue);
        }
    }

    /// Of a socket that has failed: whether the guest has acknowledged all there is, and has no room for an end.
    pub(crate) fn is_end_behind_window(&self) -> bool {
        let is_known = matches!(self.end, End::Queue | End::Fin);
        is_known && self.window == 0 && self.una == self.eof
    }

    fn is_fin_sent(&self) -> bool {
        self.is_ended() && self.nxt.after(self.eof)
    }

    /// Whether the window is all that holds something back.
    pub(crate) fn is_blocked_by_window(&self) -> bool {
        let more =
            self.readable || self.is_outstanding() || (self.is_ended() && !self.is_fin_acked());
        self.window == 0 && more
    }

    /// Whether the guest acknowledges less than it has.
    pub(crate) fn is_ack_stale(&self, ack: SeqNr) -> bool {
        ack.before(self.una)
    }

    /// Whether the guest acknowledges what it had not before.
    pub(crate) fn is_ack_new(&self, ack: SeqNr) -> bool {
        ack.after(self.una) && !ack.after(self.max)
    }

    /// Whether `ack` is in the range that RFC 5961, section 5.2 allows.
    pub(crate) fn is_ack_plausible(&self, ack: SeqNr) -> bool {
        !ack.after(self.max) && !ack.before(self.una - WINDOW_MAX)
    }

    /// Processes a plausible acknowledgement of a synchronised connection.
    pub(crate) fn on_ack(&mut self, now: Timestamp, seg: &Segment) -> Acked {
        if seg.ack.before(self.una) {
            return Acked::Nothing;
        }
        let was_closed = self.window == 0;
        let same_window = seg.window == self.window;
        if !seg.seq.before(self.wl1) {
            self.set_window(seg);
        }
        if seg.ack.after(self.una) {
            self.advance(now, seg.ack);
            return Acked::Progress;
        }
        if was_closed || self.window == 0 {
            return Acked::Probe;
        }
        // An answer may come with another window.
        let empty = seg.sequence_len() == 0;
        if empty && (same_window || self.asking.is_open()) && self.is_outstanding() {
            self.on_duplicate();
        }
        Acked::Nothing
    }

    /// `seq`, or where the segment stood that last set the window, whichever is further along.
    pub(crate) fn latest(&self, seq: SeqNr) -> SeqNr {
        self.wl1.max(seq)
    }

    /// A window that closes takes back what is in flight: the guest has most likely dropped it.
    fn set_window(&mut self, seg: &Segment) {
        self.wl1 = seg.seq;
        self.window = seg.window;
        self.window_max = self.window_max.max(seg.window);
        if self.window == 0 {
            self.rewind();
        }
    }

    fn advance(&mut self, now: Timestamp, ack: SeqNr) {
        let data_end = if self.is_ended() && ack.after(self.eof) { self.eof } else { ack };
        let (flight, segment) = (self.in_flight(), u32::from(self.segment_bytes()));
        let acked = ack.offset_from(self.una).max(0).unsigned_abs();
        let shown = self.losses.on_progress(Progress {
            now,
            from: self.una,
            to: ack,
            flight,
            segment,
            duplicates: self.duplicates,
            handshake: self.handshake_took(),
        });
        self.undiscarded += data_end.offset_from(self.una).max(0).unsigned_abs();
        self.una = ack;
        self.nxt = self.nxt.max(ack);
        self.asking.on_acknowledged(!self.is_outstanding());
        // Without a peek offset, the end of the stream shows only once that is at the head of the queue.
        self.readable |= self.closing && !self.is_ended();
        let gone = u8::try_from(acked / segment).unwrap_or(u8::MAX);
        self.duplicates = match shown {
            Shown::Hole => self.duplicates.saturating_sub(gone).saturating_add(1),
            // What they have told of may be behind other holes.
            Shown::Late => self.duplicates.saturating_sub(gone),
            Shown::Nothing | Shown::Lost => 0,
        };
    }

    /// The guest says again how far it is. The third time something is lost (RFC 5681, section 3.2), or later on a way that
    /// changes the order; the first time, if that is the answer to what it was asked: it has got something of what was sent
    /// later.
    fn on_duplicate(&mut self) {
        if self.asking.take_late() {
            return;
        }
        self.duplicates = self.duplicates.saturating_add(1);
        let is_answer = self.asking.take_answer();
        if self.losses.is_repairing() {
            // What was sent again is lost, too.
            if is_answer {
                self.lose();
            }
            return;
        }
        let segments = self.in_flight() / u32::from(self.segment_bytes());
        let shows = is_answer || self.duplicates >= self.losses.patience(segments);
        if shows && self.losses.may_begin(self.una) {
            self.lose();
        }
    }

    /// The segment at `una` is lost.
    fn lose(&mut self) {
        self.losses.on_loss(self.max, self.in_flight(), self.segment_bytes().into());
    }

    /// Starts again from the first byte not acknowledged.
    pub(crate) fn rewind(&mut self) {
        self.nxt = self.una;
        self.duplicates = 0;
        self.losses.on_rewind(self.una, self.max);
    }

    /// The same after a timeout.
    pub(crate) fn on_timeout(&mut self) {
        let flight = self.in_flight();
        (self.nxt, self.duplicates) = (self.una, 0);
        self.losses.on_timeout(self.una, flight, self.segment_bytes().into());
    }

    /// Bytes to drop from the head of the socket's queue now; 0 for none.
    pub(crate) fn take_discard(&mut self) -> u32 {
        let data_end = if self.is_ended() { self.eof } else { self.max };
        let unacked = data_end.offset_from(self.una).max(0).unsigned_abs();
        let due = self.undiscarded >= (unacked / 3).min(DISCARD_MAX);
        if due { std::mem::take(&mut self.undiscarded) } else { 0 }
    }

    /// Bytes between the head of the socket's queue and `seq`.
    pub(crate) fn queue_offset(&self, seq: SeqNr) -> u32 {
        self.undiscarded + seq.offset_from(self.una).max(0).unsigned_abs()
    }

    /// Length of the segment at `una` if it is to be sent again; 0 for a lone FIN.
    pub(crate) fn again_bytes(&self) -> Option<u32> {
        if !self.losses.is_due() || self.in_flight() == 0 {
            return None;
        }
        let data_end = if self.is_fin_sent() { self.eof } else { self.nxt };
        let data = data_end.offset_from(self.una).max(0).unsigned_abs();
        Some(data.min(self.segment_bytes().into()))
    }

    /// Bytes of a segment: no more than half of the largest window the guest has had. It acknowledges every second one at
    /// once, and a smaller one after a while. A window that is too small for that is used as a whole, as Linux does both.
    pub(crate) fn segment_bytes(&self) -> u16 {
        let window = u32::from(self.window_max) << self.scale;
        let most = if window > DEFAULT_MSS.into() { window / 2 } else { window };
        self.mss.min(u16::try_from(most).unwrap_or(u16::MAX).max(MIN_MSS))
    }

    /// The segment at `una` was sent again.
    pub(crate) fn sent_again(&mut self, now: Timestamp) {
        self.losses.on_sent_again(now);
    }

    /// The last byte of data that is outstanding, if a guest that is silent is to get it once more.
    pub(crate) fn last_byte(&self) -> Option<SeqNr> {
        let data_end = if self.is_end_sent() { self.eof } else { self.max };
        // Beyond a window that has shrunk, the guest would take what comes behind it in number alone for the latest.
        let edge = self.una + self.window_bytes();
        let end = if data_end.after(edge) { edge } else { data_end };
        end.after(self.una).then(|| end - 1)
    }

    /// Where the current run of data begins.
    pub(crate) fn sending_at(&self) -> SeqNr {
        match self.sending {
            Sending::Again => self.una,
            Sending::Last => self.last_byte().unwrap_or(self.una),
            Sending::No | Sending::Next => self.nxt,
        }
    }

    /// Bytes of data that may be sent at `nxt` now; 0 for none. With `cautious`, one segment.
    ///
    /// Avoids silly windows (RFC 9293, section 3.8.6.2.1): with data in flight, whose
    /// acknowledgement will come, a remainder smaller than a segment waits.
    pub(crate) fn next_bytes(&self, cautious: bool) -> u32 {
        let known = self.nxt != self.max;
        let at_end = self.is_ended() && !self.nxt.before(self.eof);
        if self.no_room || at_end || !(self.readable || known) {
            return 0;
        }
        let usable = self.usable(cautious).min(self.until_eof());
        let mss = u32::from(self.segment_bytes());
        if usable >= mss {
            return usable.min(DATA_QUANTUM.max(mss)) / mss * mss;
        }
        let half = (u32::from(self.window_max) << self.scale) / 2;
        let silly = usable < half && usable < self.until_eof();
        if self.in_flight() > 0 && silly { 0 } else { usable }
    }

    fn usable(&self, cautious: bool) -> u32 {
        let segment = u32::from(self.segment_bytes());
        // Each duplicate stands for a segment that is not on the way any more (RFC 6582, section 3.2, step 2).
        let gone = if self.losses.is_repairing() { u32::from(self.duplicates) } else { 0 };
        let limit = match cautious {
            true => segment,
            false => self.losses.window(segment).saturating_add(gone * segment),
        };
        self.window_bytes().min(limit).saturating_sub(self.in_flight())
    }

    /// Bytes up to the end of the stream, if that is known.
    fn until_eof(&self) -> u32 {
        if self.is_ended() {
            self.eof.offset_from(self.nxt).max(0).unsigned_abs()
        } else {
            u32::MAX
        }
    }

    /// Counts bytes sent at `nxt`.
    pub(crate) fn sent_next(&mut self, now: Timestamp, bytes: u32) {
        self.asking.on_sent(bytes);
        if self.nxt == self.max {
            self.losses.on_sent(self.nxt + bytes.min(self.segment_bytes().into()), now);
        }
        self.nxt += bytes;
        self.max = self.max.max(self.nxt);
    }

    /// The peer's stream ends at `nxt`; false if that is before what was already sent.
    pub(crate) fn end(&mut self) -> bool {
        if self.nxt != self.max {
            return false;
        }
        (self.end, self.eof, self.readable) = (End::Fin, self.nxt, false);
        true
    }

    /// Whether the FIN may be sent now. It need not wait for the acknowledgement of the data
    /// before it: going back over data passes the end again and repeats the FIN there.
    pub(crate) fn is_fin_due(&self, cautious: bool) -> bool {
        self.is_ended() && self.nxt == self.eof && self.usable(cautious) > 0
    }

    /// Counts the FIN as sent.
    pub(crate) fn sent_fin(&mut self, now: Timestamp) {
        self.sent_next(now, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tcp::Flags;

    /// Where sequence numbers wrap, and where comparison changes its sign.
    const BASES: [u32; 4] = [0, 1000, u32::MAX - 3, (1 << 31) - 3];

    /// Positions in a small stream, counted from the first byte that is not acknowledged.
    #[derive(Clone, Copy, Debug)]
    struct Small {
        base: SeqNr,
        nxt: u32,
        max: u32,
        eof: Option<u32>,
        window: u16,
        undiscarded: u32,
    }

    /// All that there can be with up to four numbers in flight.
    fn all() -> Vec<Small> {
        let mut all = Vec::new();
        for base in BASES.map(SeqNr) {
            for (max, window) in (0..5u32).flat_map(|max| (0..7).map(move |window| (max, window))) {
                for (nxt, undiscarded) in (0..=max).flat_map(|nxt| [(nxt, 0), (nxt, 3)]) {
                    // The FIN is the last number, sent or not; or the end is not known.
                    let ends = [None, Some(max), max.checked_sub(1)];
                    let small = |eof| Small { base, nxt, max, eof, window, undiscarded };
                    all.extend(ends[..2].iter().copied().map(small));
                    all.extend(ends[2].map(|eof| small(Some(eof))));
                }
            }
        }
        all
    }

    impl Small {
        fn send(&self) -> SendHalf {
            let mut send = SendHalf::new(self.base);
            (send.nxt, send.max) = (self.base + self.nxt, self.base + self.max);
            (send.undiscarded, send.mss) = (self.undiscarded, 2);
            (send.window, send.window_max) = (self.window, self.window.max(2));
            send.readable = self.eof.is_none();
            if let Some(eof) = self.eof {
                (send.eof, send.end) = (self.base + eof, End::Fin);
            }
            send
        }

        /// Numbers of data among the first `count`.
        fn data(&self, count: u32) -> u32 {
            count.min(self.eof.unwrap_or(count))
        }
    }

    fn distance(later: SeqNr, earlier: SeqNr) -> i64 {
        i64::from(later.offset_from(earlier))
    }

    /// What holds whatever has happened.
    fn check(send: &SendHalf, small: &Small) {
        let (in_flight, sent) = (distance(send.nxt, send.una), distance(send.max, send.una));
        assert!((0..=sent).contains(&in_flight), "{send:?} {small:?}");
        let window = i64::from(send.window_bytes());
        assert_eq!(distance(send.ack_seq(), send.una), sent.min(window), "{send:?} {small:?}");
        let end = if send.is_ended() { distance(send.eof, send.nxt).max(0) } else { i64::MAX };
        let usable = (window - in_flight).max(0);
        for cautious in [false, true] {
            let next = i64::from(send.next_bytes(cautious));
            let most = if cautious { usable.min((2 - in_flight).max(0)) } else { usable };
            assert!(next <= most.min(end), "{next} {send:?} {small:?}");
            // With nothing in flight, what may go does go.
            let more = send.readable || in_flight < sent;
            assert!(in_flight > 0 || !more || next > 0 || most.min(end) == 0, "{send:?} {small:?}");
            let fin = send.is_fin_due(cautious);
            assert_eq!(fin, send.is_ended() && end == 0 && send.nxt == send.eof && most > 0);
        }
    }

    #[test]
    fn rfc5961_5_2_an_acknowledgement_is_plausible_from_a_window_ago_to_what_was_sent() {
        let window = i64::from(WINDOW_MAX);
        for small in all() {
            let send = small.send();
            let max = i64::from(small.max);
            for edge in [-window, 0, max, i64::from(i32::MAX) - 9, 9 - i64::from(i32::MAX)] {
                for at in edge - 5..=edge + 5 {
                    let ack = SeqNr(small.base.0.wrapping_add(at as u32));
                    let expected = (-window..=max).contains(&at);
                    assert_eq!(send.is_ack_plausible(ack), expected, "{at} {small:?}");
                }
            }
        }
    }

    #[test]
    fn rfc9293_3_10_7_4_every_acknowledgement_in_every_small_state() {
        for small in all() {
            check(&small.send(), &small);
            for (at, window) in
                (-3..=i64::from(small.max)).flat_map(|at| (0..5).map(move |w| (at, w)))
            {
                let mut send = small.send();
                let ack = SeqNr(small.base.0.wrapping_add(at as u32));
                let seg = Segment {
                    ack,
                    window,
                    flags: Flags::ACK,
                    seq: small.base,
                    ..Segment::default()
                };
                let acked = send.on_ack(Timestamp::ZERO, &seg);
                assert_eq!(acked == Acked::Progress, at > 0, "{seg:?} {small:?}");
                let moved = at.max(0) as u32;
                assert_eq!((send.una, send.max), (small.base + moved, small.base + small.max));
                assert_eq!(send.undiscarded, small.undiscarded + small.data(moved), "{small:?}");
                // Older ones say nothing of the window, and one that closes takes back what is in flight.
                let now = if at < 0 { small.window } else { window };
                assert_eq!(send.window, now);
                let kept = if at >= 0 && now == 0 { moved } else { small.nxt.max(moved) };
                assert_eq!(send.nxt, small.base + kept, "{seg:?} {small:?}");
                assert_eq!(send.is_fin_acked(), small.eof.is_some_and(|eof| moved > eof));
                check(&send, &small);
                let queued = send.queue_offset(send.nxt);
                assert_eq!(
                    i64::from(queued),
                    i64::from(send.undiscarded) + distance(send.nxt, send.una)
                );
                let before = send.undiscarded;
                assert_eq!(send.take_discard() + send.undiscarded, before, "none is forgotten");
            }
        }
    }

    #[test]
    fn rfc6298_5_a_timeout_begins_with_the_first_number_that_is_not_acknowledged() {
        for small in all() {
            let mut send = small.send();
            send.rewind();
            assert_eq!((send.una, send.nxt), (small.base, small.base));
            assert_eq!(send.max, small.base + small.max);
            check(&send, &small);
            // Sent again piece by piece, it ends where it has ended before, with the FIN if there was one.
            for _ in 0..2 * small.max {
                let bytes = send.next_bytes(false);
                if bytes > 0 {
                    send.sent_next(
                        Timestamp::ZERO,
                        bytes.min(small.max - distance(send.nxt, send.una) as u32),
                    );
                } else if send.is_fin_due(false) && send.nxt.before(send.max) {
                    send.sent_fin(Timestamp::ZERO);
                }
                check(&send, &small);
            }
            assert_eq!(send.max, small.base + small.max, "{small:?}");
        }
    }
}
