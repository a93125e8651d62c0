//! The connection: its states, the events of the socket and of time, and what to do next.
//! What the guest's segments do to it is in `input`.

use crate::time::Timestamp;
use crate::wire::seq::SeqNr;

use super::ack::HeldAck;
use super::boundary::{Action, DataResult, SocketEvent};
use super::failure::Failure;
use super::limits::{INACTIVITY, KEEPALIVE, RESET_PATIENCE, WINDOW_SCALE};
use super::receive::ReceiveHalf;
use super::retry::{Retry, TcpConfig};
use super::send::{SendHalf, Sending};
use crate::wire::tcp::{Flags, Header, Segment};

/// Where the connection stands. What RFC 9293 calls FIN-WAIT to LAST-ACK is `Established` here,
/// with the ends of both streams kept by the two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The guest sent a SYN; the host socket is connecting.
    Connecting,
    /// We have sent a SYN-ACK (SYN-RECEIVED).
    SynAckSent,
    /// The host accepted a connection and we have sent a SYN.
    SynSent,
    /// Both sides are synchronised.
    Established,
    /// Over: the socket has to be closed.
    Closing { reset: bool },
    /// Over and done.
    Closed,
}

/// What the caller chooses for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Our initial sequence number.
    pub isn: SeqNr,
    /// The MSS that we announce, in bytes; see [`super::our_mss`].
    pub our_mss: u16,
    /// The largest payload of a segment that the link carries to the guest, in bytes. A guest that
    /// announces more gets this.
    pub max_segment: u16,
}

/// One connection between the guest and a host socket.
#[derive(Debug)]
pub struct Conn {
    /// When the guest or the socket last gave a sign of life.
    pub(super) active_at: Timestamp,
    pub(super) send: SendHalf,
    pub(super) recv: ReceiveHalf,
    pub(super) retry: Retry,
    /// A segment of a handshake that belongs to no connection we know of is to be answered with a reset, where it
    /// [acknowledges](SendHalf::stray).
    pub(super) stray_due: bool,
    /// The cap on the guest's segment size.
    max_segment: u16,
    /// The time slice in which the last rate-limited ACK was sent: the last eight bits of its number.
    pub(super) challenge_slice: u8,
    pub(super) state: State,
    /// Intervals of silence since the last sign of life.
    pub(super) probes: u8,
    /// ACKs to send at once, even if they tell nothing new.
    pub(super) acks: u8,
    /// A SYN or SYN-ACK is to be sent.
    pub(super) syn_due: bool,
    /// The flags of a reset that is to be sent; none for no reset.
    pub(super) rst_due: Flags,
    /// Something was kept, and the guest has not numbered a segment by what is expected since: it may do so by what it has
    /// heard of us.
    pub(super) lags: bool,
    /// Whether the socket has failed; from then on `active_at` is when that was, or when the guest last acknowledged
    /// something new.
    pub(super) failure: Failure,
    /// The acknowledgement of data that waits.
    held_ack: HeldAck,
}

impl Conn {
    /// A connection that the guest opens with `syn`, whose host socket is connecting.
    pub fn outbound(now: Timestamp, config: &TcpConfig, syn: &Segment, opening: Opening) -> Self {
        let mut conn = Self::new(now, config, opening, State::Connecting);
        conn.take_options(syn);
        conn
    }

    /// A connection that the host has accepted, to be opened with the guest.
    pub fn inbound(now: Timestamp, config: &TcpConfig, opening: Opening) -> Self {
        let mut conn = Self::new(now, config, opening, State::SynSent);
        conn.recv.set_scale(Some(WINDOW_SCALE));
        conn.syn_due = true;
        conn
    }

    pub(super) fn new(now: Timestamp, config: &TcpConfig, opening: Opening, state: State) -> Self {
        Self {
            active_at: now,
            send: SendHalf::new(opening.isn),
            recv: ReceiveHalf::new(SeqNr(0), config.window_max, opening.our_mss, None),
            retry: Retry::new(config),
            stray_due: false,
            max_segment: opening.max_segment,
            challenge_slice: (Self::slice(now) as u8).wrapping_sub(1),
            state,
            probes: 0,
            acks: 0,
            syn_due: false,
            rst_due: Flags::default(),
            lags: false,
            failure: Failure::None,
            held_ack: HeldAck::new(config.acks_may_wait),
        }
    }

    /// Time in slices of about 131 ms, for limiting rates.
    pub(super) fn slice(now: Timestamp) -> u16 {
        (now.as_micros() >> 17) as u16
    }

    /// Takes sequence number, window and options of the guest's SYN or SYN-ACK.
    pub(super) fn take_options(&mut self, syn: &Segment) {
        use super::limits::{DEFAULT_MSS, GUEST_SCALE_MAX, MIN_MSS};
        let scale = syn.window_scale.map(|_| WINDOW_SCALE);
        self.recv.synchronise(syn.seq + 1, scale);
        // Linux takes 0 for none, too.
        let stated = syn.mss.filter(|&mss| mss > 0);
        let mss = stated.unwrap_or(DEFAULT_MSS).min(self.max_segment);
        self.send.mss = mss.max(MIN_MSS);
        self.send.scale = syn.window_scale.unwrap_or(0).min(GUEST_SCALE_MAX);
        self.send.open_window(syn);
    }

    /// The link says that the guest's machine was set back to an earlier state, perhaps to one of before what it has
    /// said here: it is asked, and the first thing that does not fit resets both ends.
    pub fn on_guest_set_back(&mut self) {
        if self.state == State::Established {
            self.send.doubt.arise();
            self.retry.probe_due = true;
        }
    }

    /// A sign of life.
    pub(super) fn touch(&mut self, now: Timestamp) {
        if !self.has_failed() {
            self.active_at = now;
            self.probes = 0;
        }
    }

    /// Something happened to the socket.
    pub fn on_socket(&mut self, now: Timestamp, event: SocketEvent) {
        if self.is_over() {
            return;
        }
        self.touch(now);
        match event {
            SocketEvent::Connected if self.state == State::Connecting => {
                self.state = State::SynAckSent;
                self.syn_due = true;
            }
            SocketEvent::Connected => {}
            SocketEvent::Readable => self.send.readable = true,
            SocketEvent::Writable => self.recv.on_writable(),
            SocketEvent::HungUp if self.is_half_open() && !self.has_failed() => self.abort(),
            SocketEvent::PeerClosed | SocketEvent::HungUp => {
                self.send.readable = true;
                self.send.closing = true;
            }
            SocketEvent::Failed => self.fail(Failure::Queue),
            SocketEvent::FailedAfterEnd => self.fail(Failure::QueueAndEnd),
        }
        self.keep_time(now);
    }

    /// `bytes` is what the socket's send buffer can take now, payload and overhead considered: the
    /// answer to [`Action::QueryRoom`].
    pub fn on_room(&mut self, bytes: u32) {
        self.recv.on_room(bytes);
        if self.recv.take_cut() {
            // The first one opens the window, so it is no duplicate.
            self.acks = 1 + super::limits::DUPLICATE_ACKS;
        }
    }

    /// Promises the guest a window of no more than `window_max` bytes from now on; what was promised stands.
    pub fn limit_window(&mut self, window_max: u32) {
        self.recv.limit_window(window_max);
    }

    /// Whether a SYN, or the reset with which the connection ends, waits for room in the link.
    fn waits_for_room(&self) -> bool {
        let due = match self.state {
            State::SynAckSent | State::SynSent => self.syn_due,
            State::Closing { .. } => self.rst_due.contains(Flags::RST),
            _ => false,
        };
        self.send.no_room && due
    }

    /// The result of the last [`Action::SendData`].
    pub fn on_data(&mut self, now: Timestamp, result: DataResult) {
        let sending = std::mem::replace(&mut self.send.sending, Sending::No);
        if self.is_over() || sending == Sending::No {
            return;
        }
        let at_end = sending == Sending::Next && self.send.nxt == self.send.max;
        match result {
            DataResult::Sent { bytes, drained } => {
                debug_assert!(bytes > 0, "nothing sent is Empty or NoRoom");
                self.sent_with_header();
                match sending {
                    Sending::Again => self.send.sent_again(now),
                    Sending::Last => self.send.asking.on_asked(),
                    Sending::No => {}
                    Sending::Next => {
                        self.send.sent_next(now, bytes);
                        // A short read ends an edge-triggered round, unless the stream's end is due.
                        self.send.readable &= !drained || self.send.closing;
                    }
                }
            }
            DataResult::NoRoom => self.send.no_room = true,
            _ if at_end && self.has_failed() => self.on_end_of_failed(result),
            DataResult::Empty if at_end => self.send.readable = false,
            DataResult::Eof if at_end => _ = self.send.end(),
            // The first to be told is who reads. An end would have shown instead.
            DataResult::Failed if at_end => {
                self.fail(Failure::Nothing);
                self.send.readable = false;
            }
            // What the guest has not acknowledged must still be in the queue: the socket is dead.
            DataResult::Empty | DataResult::Eof | DataResult::Failed => self.abort(),
        }
        self.ask(now, false);
        self.keep_time(now);
    }

    /// The result of writing what the last run of segments was accepted for: the socket took
    /// `taken` bytes, from the start of the run, 0 if it would have blocked, and the shell keeps the `kept` bytes behind
    /// them: [`Conn::on_kept`] tells what becomes of those, and before it does, nothing else is written.
    pub fn on_written(&mut self, now: Timestamp, taken: u32, kept: u32) {
        if self.recv.is_run_empty() {
            return;
        }
        self.end_run(taken, kept);
        self.keep_time(now);
    }

    /// The socket was offered what was kept: no more than `left` bytes are now.
    pub fn on_kept(&mut self, now: Timestamp, left: u32) {
        if left < self.recv.kept() {
            self.touch(now);
        }
        self.recv.on_kept(left);
    }

    pub(super) fn end_run(&mut self, taken: u32, kept: u32) {
        self.held_ack.grow();
        let before = self.recv.expected();
        self.recv.commit(taken, kept);
        self.lags |= kept > 0;
        if self.recv.expected().before(before) {
            self.acks = self.acks.max(1);
        }
    }

    /// When [`Conn::on_timer`] is to be called; never further away than [`INACTIVITY`].
    pub fn deadline(&self) -> Option<Timestamp> {
        if self.is_over() {
            return self.waits_for_room().then_some(self.active_at + RESET_PATIENCE);
        }
        let idle = self.active_at + INACTIVITY;
        let established = self.state == State::Established;
        let soonest = if established { self.keepalive_at().min(idle) } else { idle };
        let look = if established { self.recv.look_at(self.active_at) } else { None };
        let reset = self.has_failed().then_some(self.active_at + RESET_PATIENCE);
        Timestamp::earliest([
            Some(soonest),
            self.retry.deadline(),
            self.fin_ack_at(),
            look,
            reset,
            self.ask_at(),
        ])
    }

    /// When [`Conn::poll`] is to be called besides, for an acknowledgement that has waited for long enough.
    pub fn ack_at(&self) -> Option<Timestamp> {
        // What else keeps it back ends with an event, or with another deadline.
        let waits = !self.is_over() && !self.send.no_room && !self.waits_for_peers_end();
        if waits { self.held_ack.until(self.active_at) } else { None }
    }

    /// Time has passed. Does nothing if no deadline has.
    pub fn on_timer(&mut self, now: Timestamp) {
        self.on_time(now, true);
    }

    /// The same, while the guest has not read yet what it was sent before the last timeout: its machine stands still.
    /// Nothing is sent again, nothing is counted.
    pub fn on_timer_unread(&mut self, now: Timestamp) {
        self.on_time(now, false);
    }

    fn on_time(&mut self, now: Timestamp, reads: bool) {
        if self.is_over() {
            if self.waits_for_room() && now.since(self.active_at) >= RESET_PATIENCE {
                self.rst_due = Flags::default();
            }
            return;
        }
        let patience = if self.has_failed() { RESET_PATIENCE } else { INACTIVITY };
        if now.since(self.active_at) >= patience {
            return self.abort();
        }
        match self.retry.is_due(now) {
            true if reads => self.expire(now),
            true => self.retry.restart(now),
            false => {}
        }
        if self.fin_ack_at().is_some_and(|at| at <= now) {
            self.acks = 1;
        }
        self.ask(now, reads);
        if self.state == State::Established {
            self.recv.on_time(self.active_at, now);
        }
        if self.state == State::Established && self.keepalive_at() <= now {
            let intervals = now.since(self.active_at).as_secs() / KEEPALIVE.as_secs();
            self.probes = u8::try_from(intervals).unwrap_or(u8::MAX);
            self.retry.probe_due |= !self.send.is_outstanding();
        }
        self.keep_time(now);
    }

    fn expire(&mut self, now: Timestamp) {
        let established = self.state == State::Established;
        let goes_on = match established {
            true => self.retry.expire_data(now),
            false => self.retry.expire_handshake(now),
        };
        match (goes_on, established) {
            (false, _) => self.abort(),
            (true, false) => self.syn_due = true,
            (true, true) if self.send.is_blocked_by_window() => self.retry.probe_due = true,
            (true, true) => self.send.on_timeout(),
        }
    }

    /// Starts or stops the retransmission timer as needed. It rests while the link has no buffer:
    /// the guest is not taking what it has, and nothing could be sent again.
    pub(super) fn keep_time(&mut self, now: Timestamp) {
        let needed = match self.state {
            State::SynAckSent | State::SynSent => true,
            State::Established => {
                let waits = self.send.is_outstanding() || self.send.is_blocked_by_window();
                waits && !self.send.no_room
            }
            _ => false,
        };
        if needed {
            self.retry.start(now);
        } else {
            self.retry.stop();
        }
    }

    /// What to do next, or `None` when there is nothing to do until the next input.
    pub fn poll(&mut self, now: Timestamp) -> Option<Action> {
        if self.waits_for_room() {
            return None;
        }
        let action = self.poll_common().or_else(|| match self.state {
            State::SynAckSent | State::SynSent => self.poll_handshake(),
            State::Established => self.poll_established(now),
            State::Closing { reset } => {
                self.state = State::Closed;
                Some(Action::Close { reset })
            }
            State::Connecting | State::Closed => None,
        });
        if action.is_some() {
            // What has waited for room is not asked for at once.
            self.ask(now, false);
        }
        self.keep_time(now);
        action
    }

    fn poll_common(&mut self) -> Option<Action> {
        let flags = std::mem::take(&mut self.rst_due);
        if flags.contains(Flags::RST) {
            return Some(Action::Emit(self.header(self.send.max, flags)));
        }
        if std::mem::take(&mut self.stray_due) {
            let reset = self.header(self.send.stray(), Flags::RST);
            return Some(Action::Emit(Header { window: 0, ..reset }));
        }
        None
    }

    fn poll_handshake(&mut self) -> Option<Action> {
        if self.recv.take_query() {
            return Some(Action::QueryRoom);
        }
        if !std::mem::take(&mut self.syn_due) {
            return self.poll_forced();
        }
        let is_answer = self.state == State::SynAckSent;
        let flags = if is_answer { Flags::SYN | Flags::ACK } else { Flags::SYN };
        self.send.sent_syn();
        let window = self.recv.syn_field();
        let header = Header {
            window,
            mss: Some(self.recv.mss),
            window_scale: self.recv.scale(),
            ..self.header(self.send.una, flags)
        };
        self.recv.advertised(window, true);
        Some(Action::Emit(header))
    }

    fn poll_established(&mut self, now: Timestamp) -> Option<Action> {
        self.recv.on_time(self.active_at, now);
        if self.recv.take_shutdown() {
            return Some(Action::ShutdownWrite);
        }
        let discard = self.send.take_discard();
        if discard > 0 {
            return Some(Action::Discard(discard));
        }
        if self.recv.take_query() {
            return Some(Action::QueryRoom);
        }
        self.poll_again(now)
            .or_else(|| self.poll_forced())
            .or_else(|| self.poll_data(now))
            .or_else(|| self.poll_rest(now))
    }

    /// The segment that three duplicate ACKs or a partial one ask for.
    fn poll_again(&mut self, now: Timestamp) -> Option<Action> {
        let bytes = self.send.again_bytes()?;
        if self.send.no_room {
            return None;
        }
        if bytes == 0 {
            self.send.sent_again(now);
            return Some(self.emit(self.send.una, Flags::FIN | Flags::ACK));
        }
        Some(self.send_data(Sending::Again, self.send.una, bytes))
    }

    /// ACKs that are due whether or not they tell something new, and probes.
    fn poll_forced(&mut self) -> Option<Action> {
        if self.send.no_room {
            return None;
        }
        let asks = self.send.asking.take_due();
        if let Some(last) = self.send.last_byte().filter(|_| asks) {
            return Some(self.send_data(Sending::Last, last, 1));
        }
        if std::mem::take(&mut self.retry.probe_due) || asks {
            if asks {
                self.send.asking.on_asked();
            }
            return Some(self.emit(self.send.una - 1, Flags::ACK));
        }
        self.acks = self.acks.checked_sub(1)?;
        Some(self.emit(self.send.ack_seq(), Flags::ACK))
    }

    fn poll_data(&mut self, now: Timestamp) -> Option<Action> {
        let bytes = self.send.next_bytes(self.retry.is_waiting());
        if bytes > 0 {
            return Some(self.send_data(Sending::Next, self.send.nxt, bytes));
        }
        if !self.send.is_fin_due(self.retry.is_waiting()) {
            return None;
        }
        let seq = self.send.nxt;
        self.send.sent_fin(now);
        Some(self.emit(seq, Flags::FIN | Flags::ACK))
    }

    fn poll_rest(&mut self, now: Timestamp) -> Option<Action> {
        let due = self.recv.is_ack_due() && !self.send.no_room && !self.waits_for_peers_end();
        if due && !(self.recv.ack_may_wait() && self.held_ack.holds(self.active_at, now)) {
            return Some(self.emit(self.send.ack_seq(), Flags::ACK));
        }
        if self.recv.take_watch() {
            return Some(Action::WatchWritable);
        }
        let all_said = self.failure == Failure::Nothing
            || self.send.is_end_sent()
            || self.send.is_end_behind_window();
        if self.has_failed() && all_said && !self.send.is_outstanding() {
            self.abort();
            return self.poll_common();
        }
        if self.both_ended() {
            self.state = State::Closed;
            return Some(Action::Close { reset: false });
        }
        None
    }

    fn send_data(&mut self, sending: Sending, seq: SeqNr, bytes: u32) -> Action {
        self.send.sending = sending;
        let (offset, mss) = (self.send.queue_offset(seq), self.send.segment_bytes());
        Action::SendData { offset, bytes, seq, mss }
    }

    fn emit(&mut self, seq: SeqNr, flags: Flags) -> Action {
        let header = self.header(seq, flags);
        self.sent_with_header();
        Action::Emit(header)
    }

    fn sent_with_header(&mut self) {
        self.held_ack.sent();
        let field = self.recv.field();
        self.recv.advertised(field, false);
    }

    /// Header fields for the data of the current [`Action::SendData`]; `seq` is the first segment's,
    /// and PSH is for the caller to set on the last.
    pub fn data_header(&self) -> Header {
        self.header(self.send.sending_at(), Flags::ACK)
    }

    fn header(&self, seq: SeqNr, flags: Flags) -> Header {
        let ack = if flags.contains(Flags::ACK) { self.recv.acknowledged() } else { SeqNr(0) };
        let window = self.recv.field();
        Header { seq, ack, flags, window, mss: None, window_scale: None }
    }
}
