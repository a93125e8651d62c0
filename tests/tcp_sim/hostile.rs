//! A guest that sends anything at all, a kernel that answers anything it may, in any order.

use super::link::Rng;
use passt::flow::tcp::limits::{DATA_QUANTUM, INACTIVITY, WINDOW_MAX};
use passt::flow::tcp::{
    Action, Conn, DataResult, Early, Flags, Opening, Segment, SocketEvent, TcpConfig,
};
use passt::time::Timestamp;
use passt::wire::seq::SeqNr;

struct Storm {
    rng: Rng,
    now: Timestamp,
    conn: Conn,
    /// What the machine said last: hostile segments keep near it, or nothing would be accepted.
    seq: SeqNr,
    ack: SeqNr,
    queue: u32,
    offered: u32,
    closed: bool,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let config = TcpConfig { acks_may_wait: true, ..TcpConfig::default() };
        let opening = Opening {
            isn: SeqNr(rng.next() as u32),
            our_mss: rng.next() as u16,
            max_segment: rng.next() as u16,
        };
        let now = Timestamp::ZERO;
        let conn = if rng.chance(50) {
            let syn = Segment { flags: Flags::SYN, ..segment(&mut rng, SeqNr(0), SeqNr(0)) };
            Conn::outbound(now, &config, &syn, opening)
        } else {
            Conn::inbound(now, &config, opening)
        };
        let (seq, ack) = (opening.isn, SeqNr(0));
        Self { rng, now, conn, seq, ack, queue: 0, offered: 0, closed: false }
    }

    fn segment(&mut self, seg: &Segment) {
        let accept = self.conn.on_segment(self.now, seg);
        assert!(u64::from(accept.skip) + u64::from(accept.len) <= u64::from(seg.payload_len));
        self.offered = self.offered.saturating_add(accept.len);
    }

    fn input(&mut self) {
        let now = self.now;
        match self.rng.range(0, 99) {
            0..60 => {
                let mut early = Early::default();
                for _ in 0..self.rng.range(1, 8) {
                    let seg = segment(&mut self.rng, self.ack, self.seq);
                    if early.hold(&self.conn, &seg, ()) {
                        continue;
                    }
                    self.segment(&seg);
                    while let Some((seg, ())) = early.next(&self.conn) {
                        self.segment(&seg);
                    }
                }
                while let Some((seg, ())) = early.next_at_end(&self.conn) {
                    self.segment(&seg);
                }
                let all = self.rng.chance(70);
                let part = self.rng.range(0, u64::from(self.offered)) as u32;
                let kept = self.rng.range(0, u64::from(self.offered - part)) as u32;
                let (taken, kept) = if all { (self.offered, 0) } else { (part, kept) };
                self.conn.on_written(now, taken, kept);
                self.offered = 0;
            }
            60..62 => self.conn.on_socket(now, SocketEvent::Connected),
            62..75 => {
                self.queue += self.rng.range(0, 100_000) as u32;
                self.conn.on_socket(now, SocketEvent::Readable);
            }
            75..80 => self.conn.on_socket(now, SocketEvent::Writable),
            80 => self.conn.on_socket(now, SocketEvent::PeerClosed),
            81..84 => self.conn.on_port_room(now),
            84 => self.conn.on_kept(now, self.rng.next() as u32 >> (self.rng.next() % 32)),
            85..90 => self.conn.on_room(self.rng.next() as u32 >> (self.rng.next() % 32)),
            _ => {
                self.now = now + std::time::Duration::from_micros(self.rng.range(0, 40_000_000));
                self.conn.on_timer(self.now);
                assert!(self.conn.deadline().is_none_or(|at| at > self.now), "{:?}", self.conn);
            }
        }
    }

    fn drain(&mut self) {
        for _ in 0..1_000 {
            let Some(action) = self.conn.poll(self.now) else { return };
            assert!(!self.closed, "{action:?} after Close");
            self.act(action);
        }
        panic!("poll does not end: {:?}", self.conn);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Emit(header) => (self.seq, self.ack) = (header.seq, header.ack),
            Action::SendData { offset, bytes, seq, mss } => {
                assert!(bytes > 0 && bytes <= DATA_QUANTUM.max(mss.into()) && mss >= 48);
                assert!(offset <= 2 * WINDOW_MAX && self.conn.data_header().seq == seq);
                let sent = bytes.min(self.queue.saturating_sub(offset));
                let result = match self.rng.range(0, 9) {
                    0 => DataResult::NoRoom,
                    1 if self.rng.chance(5) => DataResult::Failed,
                    2 if sent == 0 => DataResult::Eof,
                    _ if sent == 0 => DataResult::Empty,
                    _ => DataResult::Sent { bytes: sent, drained: sent < bytes },
                };
                self.seq = seq;
                self.conn.on_data(self.now, result);
            }
            Action::Discard(bytes) => {
                assert!(bytes > 0 && bytes <= self.queue, "discards what is not there");
                self.queue -= bytes;
            }
            Action::QueryRoom if self.rng.chance(90) => {
                self.conn.on_room(self.rng.range(0, 300_000) as u32);
            }
            Action::Close { .. } => self.closed = true,
            Action::QueryRoom | Action::WatchWritable | Action::ShutdownWrite => {}
        }
    }

    fn check(&self) {
        assert_eq!(self.conn.is_closed(), self.closed);
        let deadline = self.conn.deadline();
        assert_eq!(deadline.is_none(), self.closed, "{:?}", self.conn);
        assert!(deadline.is_none_or(|at| at <= self.now + INACTIVITY));
    }
}

/// A segment near `seq` and `ack`, and now and then anywhere.
fn segment(rng: &mut Rng, seq: SeqNr, ack: SeqNr) -> Segment {
    let near = |rng: &mut Rng, at: SeqNr| match rng.range(0, 9) {
        0..6 => at,
        6 => at + 1,
        7 => at - rng.range(0, 3) as u32,
        8 => at + rng.range(0, 100_000) as u32,
        _ => SeqNr(rng.next() as u32),
    };
    let flags = match rng.range(0, 99) {
        0..70 => Flags::ACK,
        70..75 => Flags::ACK | Flags::FIN,
        75..80 => Flags::SYN,
        80..90 => Flags::SYN | Flags::ACK,
        90 => Flags::RST,
        _ => Flags(rng.next() as u8 & !Flags::RST.0),
    };
    let payload_len = match rng.range(0, 4) {
        0..3 => 0,
        3 => rng.range(1, 70_000) as u32,
        _ => rng.next() as u32 >> (rng.next() % 32),
    };
    Segment {
        seq: near(rng, seq),
        ack: near(rng, ack),
        flags,
        window: rng.pick(&[0, 1, 500, 65535]),
        payload_len: payload_len.min(1 << 16),
        mss: rng.chance(50).then(|| rng.next() as u16),
        window_scale: rng.chance(50).then(|| rng.next() as u8),
    }
}

/// So many turns of a storm, and then silence, in which the flow has to end. Returns how many inputs there were of an
/// established connection.
pub fn storm(seed: u64, turns: u32) -> u32 {
    let mut established = 0;
    let mut storm = Storm::new(seed);
    for _ in 0..turns {
        storm.input();
        storm.drain();
        storm.check();
        established += u32::from(!storm.conn.is_half_open() && !storm.closed);
    }
    let mut expiries = 0;
    while let Some(at) = storm.conn.deadline() {
        storm.now = storm.now.max(at);
        storm.conn.on_timer(storm.now);
        storm.drain();
        storm.check();
        expiries += 1;
        assert!(expiries < 1_000, "does not end: {:?}", storm.conn);
    }
    established
}

#[test]
fn anything_the_guest_sends_is_borne_and_ends() {
    // Inputs of established connections: a guest that goes on to contradict itself is reset.
    let mut established = 0;
    for seed in 0..1500 {
        established += storm(seed, 200);
    }
    assert!(established > 5000, "the storm gets through: {established}");
}
