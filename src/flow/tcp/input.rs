//! What a segment from the guest does: RFC 9293, section 3.10.7, state by state, with the checks
//! of RFC 5961.

use crate::time::Timestamp;

use super::boundary::{Accept, SegmentDrop};
use super::conn::{Conn, State};
use super::limits::{DUPLICATE_ACKS, MIN_MSS, WINDOW_MAX};
use super::send::Acked;
use crate::wire::seq::SeqNr;
use crate::wire::tcp::{Flags, Segment};

impl Conn {
    /// A segment came from the guest. The part of its payload that is returned goes to the socket;
    /// once all segments of the run were passed, [`Conn::on_written`] tells what became of it.
    pub fn on_segment(&mut self, now: Timestamp, seg: &Segment) -> Accept {
        let (before, silence) = (self.state, now.since(self.active_at));
        if !self.is_over() {
            self.touch(now);
        }
        let (una, was_closed) = (self.send.una, self.send.window_bytes() == 0);
        let accept = match self.state {
            State::Connecting => self.segment_connecting(seg),
            State::SynSent => self.segment_syn_sent(now, seg),
            State::SynAckSent => self.segment_syn_ack_sent(now, seg),
            State::Established => self.segment_established(now, seg),
            State::Closing { .. } | State::Closed => Accept::dropped(SegmentDrop::Closed),
        };
        if before != State::Established && self.state == State::Established && !self.retry.is_slow()
        {
            self.send.handshake_takes(silence);
        }
        let opens = was_closed && self.send.window_bytes() > 0;
        if self.has_failed() && (opens || self.send.una.after(una)) {
            self.active_at = now;
        }
        self.keep_time(now);
        accept
    }

    /// A router on the guest's side says that the segment at `seq` was larger than its path takes: no segment has more than
    /// `mss` bytes from now on, and what is outstanding goes again at once (RFC 1191, section 6.4). False if nothing at `seq`
    /// is under way (RFC 5927, section 4.1).
    pub fn on_too_big(&mut self, now: Timestamp, seq: SeqNr, mss: u16) -> bool {
        if self.state != State::Established || !self.send.is_under_way(seq) {
            return false;
        }
        // Of a flight, each segment may come back.
        let mss = mss.max(MIN_MSS);
        if mss < self.send.mss {
            self.send.mss = mss;
            self.send.rewind();
            // It was no loss by congestion, and the router has answered.
            self.retry.progress();
            self.keep_time(now);
        }
        true
    }

    /// The guest gave up: so does the peer's side.
    fn reset_by_guest(&mut self) -> Accept {
        self.state = State::Closing { reset: true };
        Accept::default()
    }

    fn segment_connecting(&mut self, seg: &Segment) -> Accept {
        if seg.has(Flags::RST) {
            let fits = seg.seq == self.recv.nxt;
            return if fits {
                self.reset_by_guest()
            } else {
                Accept::dropped(SegmentDrop::BadReset)
            };
        }
        if seg.has(Flags::ACK) {
            return self.reject_stray(seg);
        }
        if !seg.has(Flags::SYN) {
            return Accept::dropped(SegmentDrop::NoAck);
        }
        if seg.seq + 1 == self.recv.nxt {
            return Accept::dropped(SegmentDrop::BadSyn);
        }
        // A new attempt on the same ports. The guest was told nothing yet, so it takes the place
        // of the old one.
        self.take_options(seg);
        Accept::default()
    }

    /// Answers an acknowledgement of something that we never sent, in an unsynchronised state,
    /// with a reset that concerns that segment only.
    fn reject_stray(&mut self, seg: &Segment) -> Accept {
        self.send.note_stray(seg.ack);
        self.stray_due = true;
        Accept::dropped(SegmentDrop::BadAck)
    }

    /// RFC 9293, section 3.10.7.3.
    fn segment_syn_sent(&mut self, now: Timestamp, seg: &Segment) -> Accept {
        let acks_syn =
            seg.has(Flags::ACK) && seg.ack == self.send.max && self.send.is_outstanding();
        if seg.has(Flags::RST) {
            return if acks_syn {
                self.reset_by_guest()
            } else {
                Accept::dropped(SegmentDrop::BadReset)
            };
        }
        if seg.has(Flags::ACK) && !acks_syn {
            // The guest knows an older connection with these addresses, and nothing of this one. The reset
            // ends that, and then it takes the SYN.
            self.syn_due |= self.retry.take_haste();
            return self.reject_stray(seg);
        }
        if !seg.has(Flags::SYN) {
            return Accept::dropped(SegmentDrop::BadSyn);
        }
        self.take_options(seg);
        if !acks_syn {
            // Both sides open at once.
            self.state = State::SynAckSent;
            self.syn_due = true;
            return Accept::default();
        }
        self.establish();
        self.recv.owe_ack();
        self.segment_established(now, &self.after_syn(seg))
    }

    /// SYN-RECEIVED of RFC 9293, section 3.10.7.4.
    fn segment_syn_ack_sent(&mut self, now: Timestamp, seg: &Segment) -> Accept {
        if seg.has(Flags::RST) {
            return self.segment_reset(now, seg);
        }
        let acks_syn =
            seg.has(Flags::ACK) && seg.ack == self.send.max && self.send.is_outstanding();
        let repeats_syn = seg.has(Flags::SYN) && seg.seq + 1 == self.recv.nxt;
        if repeats_syn && !acks_syn {
            self.syn_due = true;
            return Accept::dropped(SegmentDrop::BadSyn);
        }
        let plain = if repeats_syn { self.after_syn(seg) } else { *seg };
        if plain.has(Flags::SYN) || !self.recv.is_acceptable(&plain) {
            return self.challenge(now, SegmentDrop::OutsideWindow);
        }
        if !seg.has(Flags::ACK) {
            return Accept::dropped(SegmentDrop::NoAck);
        }
        if !acks_syn {
            return self.reject_stray(seg);
        }
        self.establish();
        self.acks = u8::from(repeats_syn);
        self.segment_established(now, &plain)
    }

    fn establish(&mut self) {
        self.state = State::Established;
        (self.syn_due, self.stray_due) = (false, false);
        self.send.establish();
        self.retry.established();
    }

    /// RFC 9293, section 3.10.7.4, in its order: sequence number, RST, SYN, ACK, text, FIN.
    fn segment_established(&mut self, now: Timestamp, seg: &Segment) -> Accept {
        if seg.has(Flags::RST) {
            return self.segment_reset(now, seg);
        }
        if seg.has(Flags::SYN) {
            return self.challenge(now, SegmentDrop::BadSyn);
        }
        let again = self.lags && self.recv.may_lag(seg) && !self.send.doubt.is_known();
        if !again && !self.recv.is_acceptable(seg) {
            return self.reject_sequence(now, seg);
        }
        if !seg.has(Flags::ACK) {
            return Accept::dropped(SegmentDrop::NoAck);
        }
        if !self.send.is_ack_plausible(seg.ack) {
            return self.reject_ack(now, seg);
        }
        if self.send.is_ack_stale(seg.ack) {
            if self.send.doubt.grow(Self::slice(now)) && self.is_telling(seg) {
                return self.reset_both(SegmentDrop::BadAck);
            }
        } else if !again || self.recv.is_behind() {
            self.send.doubt.dispel();
        }
        self.take_acknowledgement(now, seg, again);
        if again && (seg.sequence_len() > 0 || seg.seq.before(self.recv.acknowledged())) {
            return self.reject_sequence(now, seg);
        }
        if seg.seq == self.recv.expected() {
            self.lags &= self.recv.is_behind();
        }
        self.segment_text(now, seg)
    }

    /// What a segment acknowledges, and its window. That of a segment is the latest if none that was further along came
    /// before (SND.WL1), and whatever came before where the guest can number none further: `again`, or at the edge of a window
    /// that is closed.
    fn take_acknowledgement(&mut self, now: Timestamp, seg: &Segment, again: bool) {
        let latest = again || self.recv.is_at_closed_edge(seg);
        let seq = if latest { self.send.latest(self.recv.expected()) } else { seg.seq };
        let recovers = self.send.is_in_recovery();
        match self.send.on_ack(now, &Segment { seq, ..*seg }) {
            // Where much was lost, hole by hole takes longer than to begin anew (RFC 6582, section 4, "impatient").
            Acked::Progress if recovers && self.send.is_in_recovery() => {}
            Acked::Progress => self.retry.progress(),
            Acked::Probe if self.send.window_bytes() > 0 => self.retry.progress(),
            Acked::Probe => self.retry.answered(),
            Acked::Nothing => {}
        }
    }

    /// RFC 5961, section 3.2: only the exact number resets, the next that is expected or, as in an answer to what
    /// acknowledges it, the next for the socket.
    fn segment_reset(&mut self, now: Timestamp, seg: &Segment) -> Accept {
        let answers = self.recv.is_behind() && seg.seq == self.recv.acknowledged();
        if seg.seq == self.recv.expected() || answers {
            return self.reset_by_guest();
        }
        let empty = Segment { flags: Flags::RST, payload_len: 0, ..*seg };
        if self.recv.is_acceptable(&empty) || (self.lags && self.recv.may_lag(&empty)) {
            return self.challenge(now, SegmentDrop::BadReset);
        }
        Accept::dropped(SegmentDrop::BadReset)
    }

    /// An ACK in answer to something odd: at most one in each time slice, so that two ends that
    /// disagree cannot answer each other for ever (RFC 5961, section 7).
    fn challenge(&mut self, now: Timestamp, reason: SegmentDrop) -> Accept {
        // As much of it as tells apart two that follow each other.
        let slice = Self::slice(now) as u8;
        if slice != self.challenge_slice {
            self.challenge_slice = slice;
            self.demand_acks(1);
        }
        Accept::dropped(reason)
    }

    /// A segment at its place that acknowledges what was never sent. Another connection's, or that of a guest that is
    /// further than we are, if that is all it says.
    fn reject_ack(&mut self, now: Timestamp, seg: &Segment) -> Accept {
        let is_next = seg.seq == self.recv.expected();
        if is_next && self.send.doubt.grow(Self::slice(now)) {
            return self.reset_both(SegmentDrop::BadAck);
        }
        self.challenge(now, SegmentDrop::BadAck)
    }

    /// Whether a segment with an acknowledgement of long ago says more than that: it says something new, or it has come
    /// after something was sent again.
    fn is_telling(&self, seg: &Segment) -> bool {
        self.send.doubt.is_known() || self.retry.is_waiting() || seg.sequence_len() > 0
    }

    /// The guest contradicts itself: both ends get a reset.
    fn reset_both(&mut self, reason: SegmentDrop) -> Accept {
        self.abort();
        Accept::dropped(reason)
    }

    fn demand_acks(&mut self, count: u8) {
        let more = self.acks.saturating_add(count).min(DUPLICATE_ACKS);
        self.acks = self.acks.max(more);
        self.recv.refresh_if_low();
    }

    /// A segment that fails the sequence test. With data, the guest did not get our ACK; without,
    /// it is a keepalive or window probe, which comes from just before the next byte.
    fn reject_sequence(&mut self, now: Timestamp, seg: &Segment) -> Accept {
        let is_old = seg.seq.before(self.recv.expected());
        let reason = match is_old {
            true if self.recv.is_keepalive(seg) => SegmentDrop::Keepalive,
            true => SegmentDrop::Old,
            false => SegmentDrop::OutsideWindow,
        };
        let is_empty = seg.sequence_len() == 0;
        if !is_old {
            self.hear_from_beyond(now, seg);
        }
        if self.recv.is_behind() && !self.send.doubt.is_known() {
            // What came late before counts no more than this.
            self.send.doubt.dispel();
        }
        let contradicts =
            is_old && self.may_be_set_back(seg) && self.send.doubt.grow(Self::slice(now));
        let is_stale = seg.has(Flags::ACK) && self.send.is_ack_stale(seg.ack);
        if contradicts && (is_empty || is_stale) {
            return self.reset_both(reason);
        }
        if is_empty {
            return self.challenge(now, reason);
        }
        // Perhaps it gets none of our acknowledgements. To a probe it says how far it is.
        self.retry.probe_due |= contradicts;
        self.demand_acks(1);
        Accept::dropped(reason)
    }

    /// A guest that joins an old window to a newer acknowledgement sends from beyond what it was promised. Dropped whole,
    /// such segments are all that it says, while our empty ones, from where the window that we know of ends, are old to a
    /// guest that has more: each end would drop the other's for ever. So what they acknowledge counts, as if they stood at
    /// the next byte.
    fn hear_from_beyond(&mut self, now: Timestamp, seg: &Segment) {
        let seq = self.recv.expected();
        let ahead = i64::from(seg.seq.offset_from(seq));
        if ahead <= i64::from(WINDOW_MAX) && seg.has(Flags::ACK) && self.send.is_ack_new(seg.ack) {
            self.send.doubt.dispel();
            self.take_acknowledgement(now, &Segment { seq, ..*seg }, false);
        }
    }

    /// Whether an old segment may be of a guest that does not know that it is: an empty one comes from behind all that
    /// the guest has sent, unless it is a probe. While something is kept, guests repeat and probe from where they have heard
    /// that we are, which moves; and so they probe until they have heard that nothing is any more.
    fn may_be_set_back(&self, seg: &Segment) -> bool {
        let behind = self.recv.expected().offset_from(seg.seq);
        let is_probe = seg.sequence_len() == 0 && behind <= 1;
        let is_near = i64::from(behind) <= i64::from(WINDOW_MAX);
        let lags = self.recv.is_behind() || (self.lags && seg.sequence_len() == 0);
        let waits = is_probe || (lags && !self.send.doubt.is_known());
        !waits && is_near && self.send.is_ack_plausible(seg.ack)
    }

    /// Payload and FIN of an acceptable segment.
    fn segment_text(&mut self, now: Timestamp, seg: &Segment) -> Accept {
        if seg.sequence_len() == 0 {
            return Accept::default();
        }
        if self.recv.ended() {
            return Accept::dropped(SegmentDrop::AfterFin);
        }
        if self.has_failed() {
            self.on_sent_in_vain(now);
            return Accept::dropped(SegmentDrop::Closed);
        }
        let skip = self.recv.expected().offset_from(seg.seq);
        if skip < 0 {
            self.demand_acks(self.duplicates_for(seg));
            return Accept::dropped(SegmentDrop::OutOfOrder);
        }
        let skip = skip.unsigned_abs().min(seg.payload_len);
        let len = seg.payload_len - skip;
        self.recv.offer(len, seg.has(Flags::FIN));
        if self.recv.is_run_empty() {
            self.end_run(0, 0);
        }
        Accept { skip, len, dropped: None }
    }

    /// The rest of a SYN segment: what comes after the SYN in sequence space.
    fn after_syn(&self, syn: &Segment) -> Segment {
        let flags = Flags(syn.flags.0 & !Flags::SYN.0);
        Segment { seq: syn.seq + 1, flags, window: self.send.syn_window(syn), ..*syn }
    }

    /// Duplicate ACKs for a segment beyond a gap: one for each segment of our MSS that it stands
    /// for. A guest with segmentation offload sends few large ones, and would wait for a timeout.
    fn duplicates_for(&self, seg: &Segment) -> u8 {
        let segments = seg.payload_len.div_ceil(u32::from(self.recv.mss).max(1));
        u8::try_from(segments).unwrap_or(u8::MAX).clamp(1, DUPLICATE_ACKS)
    }
}
