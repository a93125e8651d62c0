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
//! What a socket does not take though it had room is kept by the shell as far as that is possible, and was not acknowledged:
//! it is the next to be expected no more, but it is not in the socket yet. Lost, it would come again only when the
//! guest's timer says so: there is no selective acknowledgement, and too few segments follow for duplicates to tell.
//! Acknowledged it is when the socket has taken it. So nobody is told what may not come true, and what is kept may be
//! dropped at any time, with the flow or when the guest moves away.
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

/// Whether the shell watches for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    No,
    /// It is to begin.
    Due,
    Yes,
}

/// The guest's FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fin {
    None,
    /// The run being written ends with it.
    Offered,
    /// It was taken, and the socket is to be shut down behind what is kept.
    Taken,
    /// The socket was.
    PassedOn,
}

/// The unit in which [`ReceiveHalf::measured`] is kept, in bytes: a connection shall fit two cache lines.
const MEASURED_UNIT: u32 = 256;

/// The receiving half.
#[derive(Debug)]
pub(super) struct ReceiveHalf {
    /// Everything before this is in the socket, or kept for it.
    pub(crate) nxt: SeqNr,
    /// How much of that is kept, in bytes: not acknowledged yet, as little as a FIN behind it.
    kept: u32,
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
    /// `room` when it was last measured, in units of [`MEASURED_UNIT`].
    measured: u16,
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
    /// The shell watches for room.
    watch: Watch,
    update_due: bool,
    /// How often the room was looked at since the guest sent something, and what asks for it: [`LOOK_DUE`], [`WRITABLE`].
    looks: u8,
    fin: Fin,
    /// A run was cut short: the guest has to be told that segments were lost.
    cut: bool,
}

impl ReceiveHalf {
    /// Of `window_max` the largest power of two counts.
    pub(crate) fn new(nxt: SeqNr, window_max: u32, mss: u16, scale: Option<u8>) -> Self {
        Self {
            nxt,
            kept: 0,
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
            watch: Watch::No,
            update_due: false,
            looks: 0,
            fin: Fin::None,
            cut: false,
        }
    }

    /// The receiving half, as `fresh`, of a connection that has moved here.
    pub(crate) fn restored(image: &Image, fresh: &Self, scale: Option<u8>) -> Self {
        let mut recv = Self::new(image.next_from_guest, fresh.window_max(), fresh.mss, scale);
        recv.told = image.acked_to_guest;
        recv.edge = recv.told + (u32::from(image.window_to_guest) << image.our_scale);
        recv.far_edge = recv.edge.max(recv.nxt);
        recv.fin = match (image.ends.from_guest, image.ends.to_peer) {
            (false, _) => Fin::None,
            (true, false) => Fin::Taken,
            (true, true) => Fin::PassedOn,
        };
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
    ///
    /// So it is settled by the first measurement, before a SYN tells it. What a guest was told by another host is not known:
    /// it is taken to be what it would have been told here.
    fn settle_mss(&mut self) {
        // As much of it as the window field can say.
        let quarter = (self.peak / 4) >> WINDOW_SCALE << WINDOW_SCALE;
        let quarter = u16::try_from(quarter).unwrap_or(u16::MAX);
        self.mss = self.mss.min(quarter.max(DEFAULT_MSS));
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

    /// The acknowledgement number.
    pub(crate) fn acknowledged(&self) -> SeqNr {
        let fin = self.has_fin() && self.kept > 0;
        self.nxt - self.kept - u32::from(fin)
    }

    /// Bytes that are kept.
    pub(crate) fn kept(&self) -> u32 {
        self.kept
    }

    /// Whether bytes are kept that the socket has not taken.
    pub(crate) fn is_behind(&self) -> bool {
        self.kept > 0
    }

    /// Whether the guest's FIN was taken.
    pub(crate) fn has_fin(&self) -> bool {
        matches!(self.fin, Fin::Taken | Fin::PassedOn)
    }

    /// Whether the socket was shut down behind it.
    pub(crate) fn has_passed_fin_on(&self) -> bool {
        self.fin == Fin::PassedOn
    }

    /// Whether to shut the socket down now.
    pub(crate) fn take_shutdown(&mut self) -> bool {
        let due = self.fin == Fin::Taken && !self.is_behind();
        if due {
            self.fin = Fin::PassedOn;
        }
        due
    }

    /// Whether the guest's stream has ended, counting what this run has offered.
    pub(crate) fn ended(&self) -> bool {
        self.fin != Fin::None
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

    /// Whether an old segment may be the latest that a guest has said which lags, though it has nothing new: what was not
    /// acknowledged, again, or what a guest says that takes the closed window for the end of what it may number.
    pub(crate) fn may_lag(&self, seg: &Segment) -> bool {
        let behind = i64::from(self.expected().offset_from(seg.seq));
        let near = (1..=i64::from(WINDOW_MAX)).contains(&behind);
        near && i64::from(seg.sequence_len()) <= behind
    }

    /// Whether a segment without payload stands at the edge of a window that is closed. What was sent beyond it is lost.
    pub(crate) fn is_at_closed_edge(&self, seg: &Segment) -> bool {
        self.promised() == 0 && seg.seq == self.expected() && seg.sequence_len() == 0
    }

    /// Whether an old segment asks nothing but whether the connection still lives: it comes from just before the next byte,
    /// with a byte or without one, while the window is open.
    pub(crate) fn is_keepalive(&self, seg: &Segment) -> bool {
        let is_last = seg.seq + 1 == self.expected() && seg.sequence_len() <= 1;
        is_last && !self.ended() && !self.is_behind() && self.promised() > 0
    }

    /// Adds `len` bytes, and the FIN, to the run.
    pub(crate) fn offer(&mut self, len: u32, fin: bool) {
        self.offered = self.offered.saturating_add(len);
        if len > 0 {
            self.looks &= WRITABLE;
        }
        if fin {
            self.fin = Fin::Offered;
        }
        if self.is_low() {
            self.fresh = false;
        }
    }

    /// Whether the end of the run needs no write.
    pub(crate) fn is_run_empty(&self) -> bool {
        self.offered == 0
    }

    /// Ends the run: the socket took `taken` bytes of it, and `kept` more are kept.
    pub(crate) fn commit(&mut self, taken: u32, kept: u32) {
        let taken = taken.min(self.offered);
        let kept = kept.min(self.offered - taken);
        let whole = taken + kept == self.offered;
        let short = taken < self.offered;
        self.nxt += taken + kept;
        self.kept += kept;
        self.offered = 0;
        self.room = if short { 0 } else { self.room.saturating_sub(taken) };
        if short {
            self.fresh = true;
            // Once: the same window again looks like a duplicate.
            self.update_due |= self.edge.after(self.told);
            self.cut |= !whole;
            self.watch();
        } else {
            self.fresh &= taken == 0;
        }
        match self.fin {
            Fin::Offered if whole => {
                self.nxt += 1;
                self.fin = Fin::Taken;
            }
            Fin::Offered => self.fin = Fin::None,
            _ => {}
        }
    }

    /// Of what is kept no more than `left` bytes are. Once there are none, the room is measured anew: it is not low because of
    /// what has just been written.
    pub(crate) fn on_kept(&mut self, left: u32) {
        self.kept = self.kept.min(left);
        self.looks &= !(LOOK_DUE | WRITABLE);
        if left == 0 {
            (self.watch, self.fresh) = (Watch::No, false);
            self.looks |= LOOK_DUE;
        }
    }

    /// The send buffer has room again. News only while it is watched: epoll reports it with others.
    pub(crate) fn on_writable(&mut self) {
        if self.watch == Watch::No {
            return;
        }
        self.watch = Watch::No;
        self.looks |= WRITABLE;
        self.fresh = false;
    }

    /// When to look at the room without being told of it. `active` is when the guest or the socket gave the last sign of
    /// life.
    pub(crate) fn look_at(&self, active: Timestamp) -> Option<Timestamp> {
        let mss = u32::from(self.mss);
        let waits = self.promised() < mss && self.room < mss.max(self.peak / 2);
        let looks = self.looks & !(LOOK_DUE | WRITABLE);
        (waits && looks < LOOKS && !self.has_fin()).then(|| active + LOOK_AFTER * (1 << looks))
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
        (self.room, self.fresh) = (bytes, true);
        self.measured = u16::try_from(bytes / MEASURED_UNIT).unwrap_or(u16::MAX);
        let first = self.peak == 0;
        self.peak = self.peak.max(bytes);
        if first && bytes > 0 {
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
        let half = u32::from(self.measured) * MEASURED_UNIT / 2;
        let spent = self.room <= half || self.is_low();
        let asked = self.looks & (LOOK_DUE | WRITABLE) != 0;
        let query = (spent || asked) && !self.has_fin() && !self.fresh;
        self.fresh |= query;
        query
    }

    /// Whether the shell has to start watching now.
    pub(crate) fn take_watch(&mut self) -> bool {
        let due = self.watch == Watch::Due && (!self.has_fin() || self.is_behind());
        if due {
            self.watch = Watch::Yes;
        }
        due
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
        self.acknowledged() != self.told || self.update_due
    }

    /// Whether the guest can do without the acknowledgement for a while: it has more than half of its
    /// window left, and nothing else to learn.
    pub(crate) fn ack_may_wait(&self) -> bool {
        let owed = self.acknowledged().offset_from(self.told).max(0).unsigned_abs();
        let most = UNACKNOWLEDGED_MAX.min(self.promised());
        owed < most && !self.update_due && !self.has_fin() && !self.cut
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
        if self.watch == Watch::No {
            self.watch = Watch::Due;
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
    /// granularity of the scale with each segment. Closed while something is kept, though the guest has sent more: it shall wait
    /// for the socket, however long that takes, and not give up because what it repeats is not acknowledged.
    pub(crate) fn field(&self) -> u16 {
        if self.is_behind() {
            return 0;
        }
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

    /// A segment with the current acknowledgement number and `field` went out.
    pub(crate) fn advertised(&mut self, field: u16, is_syn: bool) {
        let unit = if is_syn { 1 } else { self.granule() };
        self.told = self.acknowledged();
        self.edge = self.told + u32::from(field) * unit;
        self.far_edge = self.far_edge.max(self.edge);
        self.update_due = false;
    }
}

#[cfg(test)]
mod tests;
