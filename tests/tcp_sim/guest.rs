//! A guest's TCP, written apart from the machine under test: positions are 64-bit offsets into the
//! streams (0 is the SYN, data starts at 1), mapped to sequence numbers only on the wire.

use std::collections::BTreeMap;

use super::link::{ACK, FIN, RST, Rng, SYN, Seg, byte};

pub const STREAM: u8 = 0x5a;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Listen,
    SynSent,
    SynReceived,
    Open,
    Reset,
}

/// How the guest behaves.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    /// Largest payload of a segment that it sends, in bytes: above the MSS with offloads.
    pub burst: u64,
    /// It waits until the window has room for a whole segment, or for half of the largest one that it saw
    /// (RFC 9293, section 3.8.6.2.1), as Linux does.
    pub whole_segments: bool,
    pub receive_buffer: u64,
    pub keeps_out_of_order: bool,
    pub delays_acks: bool,
    pub probes_with_data: bool,
    /// Bytes that its application reads at once, and how often.
    pub read_chunk: u64,
    pub read_every_us: u64,
    pub send_total: u64,
    pub send_chunk: u64,
    pub send_every_us: u64,
}

#[derive(Debug)]
pub struct Guest {
    pub habits: Habits,
    pub state: State,
    iss: u32,
    irs: u32,
    pub out: Vec<Seg>,
    // Sending.
    available: u64,
    closed: bool,
    pub una: u64,
    nxt: u64,
    max: u64,
    window: u64,
    window_max: u64,
    window_from: (u64, u64),
    peer_mss: u64,
    peer_scale: u8,
    duplicates: u32,
    recover: u64,
    rto: u64,
    rto_at: Option<u64>,
    pub retransmissions: u64,
    /// Times that it had nothing under way, and room, but not for a whole segment, until its patience was over.
    pub waits: u64,
    // Receiving.
    pub rcv_nxt: u64,
    unread: u64,
    held: BTreeMap<u64, Vec<u8>>,
    fin_at: Option<u64>,
    told_window: u64,
    ack_at: Option<u64>,
    app_reads_at: u64,
    app_sends_at: u64,
}

const RTO: u64 = 300_000;

impl Guest {
    pub fn new(habits: Habits, iss: u32, active: bool) -> Self {
        let mut guest = Self {
            habits,
            state: if active { State::SynSent } else { State::Listen },
            iss,
            irs: 0,
            out: Vec::new(),
            available: 0,
            closed: false,
            una: 0,
            nxt: 0,
            max: 0,
            window: 0,
            window_max: 0,
            window_from: (0, 0),
            peer_mss: 536,
            peer_scale: 0,
            duplicates: 0,
            recover: 0,
            rto: RTO,
            rto_at: None,
            retransmissions: 0,
            waits: 0,
            rcv_nxt: 0,
            unread: 0,
            held: BTreeMap::new(),
            fin_at: None,
            told_window: 0,
            ack_at: None,
            app_reads_at: 0,
            app_sends_at: 0,
        };
        if active {
            guest.send_syn(0);
        }
        guest
    }

    /// The end of the stream in sequence space: where the FIN stands.
    fn fin_position(&self) -> u64 {
        self.habits.send_total + 1
    }

    pub fn is_all_acked(&self) -> bool {
        self.una == self.fin_position() + 1
    }

    pub fn has_fin(&self) -> bool {
        self.fin_at.is_some_and(|at| self.rcv_nxt == at + 1)
    }

    /// Data bytes received in order.
    pub fn received(&self) -> u64 {
        (self.rcv_nxt - u64::from(self.has_fin())).saturating_sub(1)
    }

    fn free(&self) -> u64 {
        self.habits.receive_buffer.saturating_sub(self.unread)
    }

    fn scale(&self) -> u8 {
        self.habits.scale.unwrap_or(0)
    }

    pub fn next_at(&self) -> u64 {
        if self.state == State::Reset {
            return u64::MAX;
        }
        let mut at = self.rto_at.unwrap_or(u64::MAX).min(self.ack_at.unwrap_or(u64::MAX));
        if self.state == State::Open {
            if self.unread > 0 {
                at = at.min(self.app_reads_at);
            }
            if !self.closed {
                at = at.min(self.app_sends_at);
            }
        }
        at
    }

    fn emit(&mut self, flags: u8, from: u64, data: Vec<u8>) {
        let window = (self.free().min(65535 << self.scale()) >> self.scale()) as u16;
        let seq = self.iss.wrapping_add(from as u32);
        let ack = if flags & ACK != 0 { self.irs.wrapping_add(self.rcv_nxt as u32) } else { 0 };
        self.told_window = u64::from(window) << self.scale();
        self.ack_at = None;
        self.out.push(Seg { seq, ack, flags, window, data, ..Seg::default() });
    }

    fn send_syn(&mut self, now: u64) {
        let flags = if self.state == State::SynSent { SYN } else { SYN | ACK };
        self.emit(flags, 0, Vec::new());
        let window = self.free().min(65535) as u16;
        let syn = self.out.last_mut().expect("just pushed");
        (syn.mss, syn.scale, syn.window) = (self.habits.mss, self.habits.scale, window);
        (self.nxt, self.max) = (1, 1);
        self.rto_at = Some(now + self.rto);
    }

    pub fn reset(&mut self) {
        self.emit(RST | ACK, self.max, Vec::new());
        self.state = State::Reset;
    }

    pub fn on_time(&mut self, now: u64, rng: &mut Rng) {
        if self.rto_at.is_some_and(|at| at <= now) {
            self.on_timeout(now);
        }
        if self.state != State::Open {
            return;
        }
        if self.unread > 0 && self.app_reads_at <= now {
            self.app_reads_at = now + rng.range(1, self.habits.read_every_us);
            self.unread -= self.unread.min(self.habits.read_chunk);
            let step = (self.habits.receive_buffer / 2).min(2920);
            if self.free() >= self.told_window + step {
                self.emit(ACK, self.nxt, Vec::new());
            }
        }
        if !self.closed && self.app_sends_at <= now {
            self.app_sends_at = now + rng.range(1, self.habits.send_every_us);
            let left = self.habits.send_total - self.available;
            self.available += left.min(self.habits.send_chunk);
            self.closed = left == 0;
        }
        self.transmit(now, false);
        if self.ack_at.is_some_and(|at| at <= now) {
            self.emit(ACK, self.nxt, Vec::new());
        }
    }

    fn on_timeout(&mut self, now: u64) {
        self.rto = (self.rto * 2).min(5_000_000);
        self.rto_at = Some(now + self.rto);
        match self.state {
            State::SynSent | State::SynReceived => self.send_syn(now),
            State::Open if self.window == 0 && self.una <= self.available => self.probe(),
            State::Open => {
                self.waits += u64::from(self.una == self.max && self.una <= self.available);
                self.recover = self.max;
                self.nxt = self.una;
                self.transmit(now, true);
            }
            _ => self.rto_at = None,
        }
    }

    fn probe(&mut self) {
        if self.habits.probes_with_data {
            self.emit(ACK, self.una, vec![byte(STREAM, self.una - 1)]);
            self.max = self.max.max(self.una + 1);
        } else {
            self.emit(ACK, self.una - 1, Vec::new());
        }
    }

    fn transmit(&mut self, now: u64, anyway: bool) {
        let edge = self.una + self.window;
        let least = self.peer_mss.min(self.window_max / 2);
        let waits = self.habits.whole_segments && !anyway;
        while self.nxt <= self.available && self.nxt < edge {
            let burst = self.habits.burst.max(self.peer_mss);
            let end = self.available + 1;
            let to = end.min(edge).min(self.nxt + burst);
            if waits && to < end && to - self.nxt < least {
                break;
            }
            self.send_data(to);
        }
        let fin = self.fin_position();
        if self.closed && self.nxt == fin && (self.nxt < edge || self.una == fin) {
            self.emit(FIN | ACK, fin, Vec::new());
            self.retransmissions += u64::from(self.max > fin);
            self.nxt = fin + 1;
            self.max = self.nxt;
        }
        let more = self.available + 1 > self.nxt || self.una < self.max;
        if more && self.rto_at.is_none() {
            self.rto_at = Some(now + self.rto);
        }
    }

    fn send_data(&mut self, to: u64) {
        let data = (self.nxt..to).map(|at| byte(STREAM, at - 1)).collect();
        self.retransmissions += u64::from(self.nxt < self.max);
        self.emit(ACK, self.nxt, data);
        self.nxt = to;
        self.max = self.max.max(to);
    }

    pub fn on_segment(&mut self, now: u64, seg: &Seg) {
        match self.state {
            State::Listen | State::SynSent => self.on_first(now, seg),
            State::SynReceived | State::Open => self.on_synchronised(now, seg),
            State::Reset => {
                if seg.flags & RST == 0 {
                    let flags = RST;
                    let seq = seg.ack;
                    self.out.push(Seg { seq, flags, ..Seg::default() });
                }
            }
        }
    }

    fn on_first(&mut self, now: u64, seg: &Seg) {
        let answers = seg.flags & ACK != 0 && seg.ack == self.iss.wrapping_add(1);
        if seg.flags & RST != 0 {
            if self.state == State::SynSent && answers {
                self.state = State::Reset;
            }
            return;
        }
        if seg.flags & SYN == 0 || (self.state == State::SynSent) != answers {
            return;
        }
        self.irs = seg.seq;
        self.rcv_nxt = 1;
        self.peer_mss = u64::from(seg.mss.expect("SYN carries the MSS"));
        self.window = u64::from(seg.window);
        self.window_max = self.window;
        if let (Some(scale), Some(_)) = (seg.scale, self.habits.scale) {
            self.peer_scale = scale;
        } else {
            self.habits.scale = None;
        }
        if answers {
            self.open(now);
            self.emit(ACK, 1, Vec::new());
        } else {
            self.state = State::SynReceived;
            self.send_syn(now);
        }
    }

    fn open(&mut self, now: u64) {
        self.state = State::Open;
        (self.una, self.nxt) = (1, 1);
        (self.rto, self.rto_at) = (RTO, None);
        self.app_sends_at = now;
        self.app_reads_at = now;
    }

    /// A sequence number from the wire as a position near `near`.
    fn position(near: u64, wire: u32, origin: u32) -> i64 {
        let distance = wire.wrapping_sub(origin.wrapping_add(near as u32)) as i32;
        near as i64 + i64::from(distance)
    }

    fn on_synchronised(&mut self, now: u64, seg: &Seg) {
        let seq = Self::position(self.rcv_nxt, seg.seq, self.irs);
        if seg.flags & RST != 0 {
            if seq == self.rcv_nxt as i64 {
                self.state = State::Reset;
            }
            return;
        }
        let len = seg.data.len() as i64 + i64::from(seg.flags & FIN != 0);
        let window = self.free() as i64;
        let first = seq - self.rcv_nxt as i64;
        let fits = if len == 0 { first >= 0 && first <= window } else { first + len > 0 };
        if seg.flags & SYN != 0 || !fits {
            self.emit(ACK, self.max, Vec::new());
            return;
        }
        self.on_ack(now, seg, seq as u64, len);
        if len > 0 {
            self.on_text(now, seq, seg);
        }
    }

    fn on_ack(&mut self, now: u64, seg: &Seg, seq: u64, len: i64) {
        let ack = Self::position(self.una, seg.ack, self.iss);
        assert!(ack <= self.max as i64, "acknowledges what the guest never sent");
        if ack < self.una as i64 {
            return;
        }
        let ack = ack as u64;
        if self.state == State::SynReceived {
            if ack < 1 {
                return;
            }
            self.open(now);
        }
        let window = u64::from(seg.window) << self.peer_scale;
        let same_window = window == self.window;
        if (seq, ack) >= self.window_from {
            self.window = window;
            self.window_max = self.window_max.max(window);
            self.window_from = (seq, ack);
        }
        if ack > self.una {
            self.una = ack;
            self.nxt = self.nxt.max(ack);
            self.duplicates = 0;
            self.rto = RTO;
            self.rto_at = None;
        } else if len == 0 && same_window && self.una < self.max {
            self.duplicates += 1;
            // Below four segments no sender can tell a loss by duplicates.
            let many = self.max - self.una > 3 * self.peer_mss;
            if self.duplicates == 3 && many && self.una > self.recover {
                self.recover = self.max;
                self.nxt = self.una;
            }
        }
        self.transmit(now, false);
    }

    fn on_text(&mut self, now: u64, seq: i64, seg: &Seg) {
        let skip = (self.rcv_nxt as i64 - seq).max(0) as usize;
        let at = seq.max(self.rcv_nxt as i64) as u64;
        if seg.flags & FIN != 0 && self.fin_at.is_none() {
            self.fin_at = Some((seq + seg.data.len() as i64) as u64);
        }
        let data = seg.data.get(skip..).unwrap_or_default();
        let in_order = at == self.rcv_nxt;
        let room = (self.rcv_nxt + self.free()).saturating_sub(at) as usize;
        let data = &data[..data.len().min(room)];
        if in_order || self.habits.keeps_out_of_order {
            self.held.insert(at, data.to_vec());
        }
        let had_gap = !in_order || self.held.len() > 1;
        self.assemble();
        if self.habits.delays_acks && !had_gap && self.ack_at.is_none() && !self.has_fin() {
            self.ack_at = Some(now + 40_000);
        } else {
            self.emit(ACK, self.max, Vec::new());
        }
    }

    fn assemble(&mut self) {
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() > self.rcv_nxt {
                break;
            }
            let (at, data) = entry.remove_entry();
            for (index, value) in data.iter().enumerate() {
                let position = at + index as u64;
                if position == self.rcv_nxt {
                    let expected = byte(super::host::STREAM, position - 1);
                    assert_eq!(*value, expected, "guest gets a wrong byte at {position}");
                    self.rcv_nxt += 1;
                    self.unread += 1;
                }
            }
        }
        if self.fin_at == Some(self.rcv_nxt) {
            self.rcv_nxt += 1;
        }
    }
}
