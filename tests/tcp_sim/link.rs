//! What the model's two ends share: random numbers, bytes, segments, and the link between them.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

/// Deterministic random numbers (splitmix64).
#[derive(Debug)]
pub struct Rng(pub u64);

thread_local! {
    /// Bytes that decide before the seed does, for fuzz targets: each is a number, and the highest of them announce
    /// one of four bytes.
    pub static TAPE: RefCell<VecDeque<u8>> = const { RefCell::new(VecDeque::new()) };
}

fn from_tape() -> Option<u64> {
    TAPE.with_borrow_mut(|tape| {
        let first = tape.pop_front()?;
        let more = |tape: &mut VecDeque<u8>| u64::from(tape.pop_front().unwrap_or(0));
        let number = |tape: &mut VecDeque<u8>| (0..4).fold(0, |sum, _| sum << 8 | more(tape));
        Some(if first < 0xf0 { first.into() } else { number(tape) })
    })
}

impl Rng {
    pub fn next(&mut self) -> u64 {
        if let Some(number) = from_tape() {
            return number;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.next() % from.len() as u64) as usize]
    }
}

/// Byte `at` of a stream.
pub fn byte(stream: u8, at: u64) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 7) as u8 ^ stream
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// A segment as it crosses the link.
#[derive(Clone, Debug, Default)]
pub struct Seg {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    pub data: Vec<u8>,
}

/// What the link does to segments, each way alike.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    pub delay_us: u64,
    pub jitter_us: u64,
}

/// One direction of the link.
#[derive(Debug, Default)]
pub struct Link {
    flying: BTreeMap<(u64, u64), Seg>,
    order: u64,
    /// Segments that were lost one behind the other, and the most that ever were.
    lost: u64,
    pub most_lost: u64,
}

impl Link {
    pub fn put(&mut self, now: u64, quality: &Quality, rng: &mut Rng, seg: Seg) {
        if rng.chance(quality.duplicate_percent) {
            self.fly(now, quality, rng, seg.clone());
        }
        if rng.chance(quality.loss_percent) {
            self.lost += 1;
            self.most_lost = self.most_lost.max(self.lost);
        } else {
            self.lost = 0;
            self.fly(now, quality, rng, seg);
        }
    }

    fn fly(&mut self, now: u64, quality: &Quality, rng: &mut Rng, seg: Seg) {
        self.order += 1;
        let at = now + quality.delay_us + rng.range(0, quality.jitter_us);
        self.flying.insert((at, self.order), seg);
    }

    pub fn next_at(&self) -> Option<u64> {
        self.flying.keys().next().map(|key| key.0)
    }

    pub fn take(&mut self, now: u64) -> Option<Seg> {
        let key = *self.flying.keys().next().filter(|key| key.0 <= now)?;
        self.flying.remove(&key)
    }
}
