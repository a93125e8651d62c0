//! A host socket with its peer: a send buffer that charges overhead and that the peer drains
//! slowly, and a receive queue that can be peeked at. Events are edge-triggered, as epoll's are.

use std::collections::VecDeque;

use super::link::{Rng, byte};

pub const STREAM: u8 = 0xa5;

/// How the peer and the socket behave.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub connect_us: u64,
    pub send_buffer: u64,
    /// Bytes charged for each write besides its payload.
    pub write_overhead: u64,
    /// Bytes that may be queued, whatever room there is: what it does not tell of.
    pub unsent_max: u64,
    pub receive_buffer: u64,
    pub drain_chunk: u64,
    pub drain_every_us: u64,
    pub send_total: u64,
    pub send_chunk: u64,
    pub send_every_us: u64,
}

/// What epoll would report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Connected,
    Readable,
    Writable,
    PeerClosed,
    Failed,
}

pub enum Peek {
    Data(Vec<u8>),
    Empty,
    Eof,
    Failed,
}

/// Bytes that are not worth printing.
#[derive(Default)]
struct Queue(VecDeque<u8>);

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

#[derive(Debug)]
pub struct Host {
    pub habits: Habits,
    connected: bool,
    failed: bool,
    failure_told: bool,
    watching: bool,
    pub shutdown: bool,
    pub events: Vec<Event>,
    /// The kernel has `SO_PEEK_OFF`: without it, what is read behind the head of the queue does not tell whether the
    /// stream has ended there.
    pub sees_end: bool,
    // From the guest.
    queued: VecDeque<(u64, u64)>,
    pub written: u64,
    pub peer_received: u64,
    pub short_writes: u64,
    drain_at: u64,
    // From the peer.
    queue: Queue,
    pub arrived: u64,
    eof: bool,
    send_at: u64,
}

impl Host {
    pub fn new(habits: Habits, connected: bool) -> Self {
        Self {
            habits,
            connected,
            failed: false,
            failure_told: false,
            watching: false,
            shutdown: false,
            events: Vec::new(),
            sees_end: true,
            queued: VecDeque::new(),
            written: 0,
            peer_received: 0,
            short_writes: 0,
            drain_at: 0,
            queue: Queue::default(),
            arrived: 0,
            eof: false,
            send_at: 0,
        }
    }

    fn charged(&self) -> u64 {
        self.queued.iter().map(|(len, overhead)| len + overhead).sum()
    }

    /// Bytes that one write can be sure to place, but for the limit that it does not tell of.
    pub fn room(&self) -> u64 {
        let free = self.habits.send_buffer.saturating_sub(self.charged());
        free.saturating_sub(self.habits.write_overhead)
    }

    fn unsent(&self) -> u64 {
        self.queued.iter().map(|(len, _)| len).sum()
    }

    pub fn next_at(&self) -> u64 {
        if self.failed {
            return u64::MAX;
        }
        if !self.connected {
            return self.habits.connect_us;
        }
        let drain = if self.queued.is_empty() { u64::MAX } else { self.drain_at };
        let send = if self.eof || self.is_full() { u64::MAX } else { self.send_at };
        drain.min(send)
    }

    fn is_full(&self) -> bool {
        self.queue.0.len() as u64 >= self.habits.receive_buffer
    }

    pub fn reset(&mut self) {
        self.failed = true;
        self.events.push(Event::Failed);
    }

    pub fn on_time(&mut self, now: u64, rng: &mut Rng) {
        if self.failed {
            return;
        }
        if !self.connected {
            if self.habits.connect_us <= now {
                self.connected = true;
                self.events.push(Event::Connected);
            }
            return;
        }
        if self.drain_at <= now {
            self.drain_at = now + rng.range(1, self.habits.drain_every_us);
            self.drain();
        }
        if !self.eof && !self.is_full() && self.send_at <= now {
            self.send_at = now + rng.range(1, self.habits.send_every_us);
            self.arrive();
        }
    }

    fn drain(&mut self) {
        let mut left = self.habits.drain_chunk;
        while let Some((len, _)) = self.queued.front_mut().filter(|_| left > 0) {
            let part = left.min(*len);
            (*len, left) = (*len - part, left - part);
            self.peer_received += part;
            if *len == 0 {
                self.queued.pop_front();
            }
        }
        self.check_writable();
    }

    fn check_writable(&mut self) {
        let free = self.habits.send_buffer.saturating_sub(self.charged());
        let few = self.unsent().saturating_mul(2) < self.habits.unsent_max;
        if self.watching && free * 3 >= self.habits.send_buffer && few {
            self.watching = false;
            self.events.push(Event::Writable);
        }
    }

    pub fn watch(&mut self) {
        self.watching = true;
        self.check_writable();
    }

    fn arrive(&mut self) {
        let space = self.habits.receive_buffer - self.queue.0.len() as u64;
        let left = self.habits.send_total - self.arrived;
        if left == 0 {
            self.eof = true;
            self.events.push(Event::PeerClosed);
            return;
        }
        let count = left.min(self.habits.send_chunk).min(space);
        self.queue.0.extend((self.arrived..self.arrived + count).map(|at| byte(STREAM, at)));
        self.arrived += count;
        self.events.push(Event::Readable);
    }

    pub fn peek(&self, offset: usize, bytes: usize) -> Peek {
        assert!(offset <= self.queue.0.len(), "peeks beyond the end of the queue");
        let data: Vec<u8> = self.queue.0.iter().skip(offset).take(bytes).copied().collect();
        match data.is_empty() {
            false => Peek::Data(data),
            // Who writes first takes the error away.
            true if self.failed && self.failure_told => Peek::Eof,
            true if self.failed && (self.sees_end || offset == 0) => Peek::Failed,
            true if self.eof && (self.sees_end || offset == 0) => Peek::Eof,
            true => Peek::Empty,
        }
    }

    /// How many bytes are in the queue, as the kernel counts them.
    pub fn queue_len(&self) -> u32 {
        self.queue.0.len() as u32
    }

    pub fn discard(&mut self, bytes: usize) {
        assert!(
            bytes > 0 && bytes <= self.queue.0.len(),
            "discards {bytes} of {}",
            self.queue.0.len()
        );
        self.queue.0.drain(..bytes);
    }

    /// Takes data that starts at `self.written` of the guest's stream.
    pub fn write(&mut self, data: &[u8]) -> usize {
        assert!(!self.shutdown, "writes after shutdown");
        if self.failed {
            self.failure_told = true;
            return 0;
        }
        let left = self.habits.unsent_max.saturating_sub(self.unsent());
        let taken = (self.room().min(left).min(data.len() as u64)) as usize;
        for (index, value) in data[..taken].iter().enumerate() {
            let at = self.written + index as u64;
            assert_eq!(*value, byte(super::guest::STREAM, at), "peer gets a wrong byte at {at}");
        }
        if taken > 0 {
            self.queued.push_back((taken as u64, self.habits.write_overhead));
        }
        self.written += taken as u64;
        if taken < data.len() {
            self.short_writes += 1;
            self.watch();
        }
        taken
    }
}
