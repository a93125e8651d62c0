//! A hierarchical timer wheel: one timer for each key, set and cancelled in constant time.
//!
//! Four levels of 64 slots. A level-0 slot is one tick of [`TICK_US`]; each level's slot is as long as
//! the whole level below it. A timer is put where its distance fits and moves down when the wheel
//! gets there, so it fires at most one tick late and never early. Slots are doubly linked lists
//! through one array indexed by key; a bitmap for each level finds the next occupied slot at once.
//!
//! Deadlines that only move later (a retransmission timer that is re-armed with every batch) need
//! not touch the wheel: the owner keeps the deadline and sets the timer again when it fires early.

use crate::time::Timestamp;

/// Length of a tick: no more than the shortest timer, a look at a socket's room, and few enough to be cheap.
pub const TICK_US: u64 = 8_192;

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 4;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
    expiry: u64,
    /// Level and slot, or `NONE` when not linked.
    list: u32,
}

const UNLINKED: Link = Link { previous: NONE, next: NONE, expiry: 0, list: NONE };

/// The wheel.
pub(crate) struct TimerWheel {
    now: u64,
    heads: [[u32; SLOTS]; LEVELS],
    occupied: [u64; LEVELS],
    links: Vec<Link>,
}

impl TimerWheel {
    /// A wheel for keys below `keys`. Memory is reserved, and touched when a key is first used.
    pub(crate) fn new(keys: usize, now: Timestamp) -> Self {
        Self {
            now: now.as_micros() / TICK_US,
            heads: [[NONE; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            links: Vec::with_capacity(keys),
        }
    }

    /// Sets the timer of `key`; an earlier setting is replaced.
    pub(crate) fn set(&mut self, key: u32, deadline: Timestamp) {
        self.cancel(key);
        if key as usize >= self.links.len() {
            self.links.resize(key as usize + 1, UNLINKED);
        }
        let expiry = deadline.as_micros().div_ceil(TICK_US).max(self.now + 1);
        self.links[key as usize].expiry = expiry;
        self.link(key);
    }

    /// Cancels the timer of `key`, if it is set.
    pub(crate) fn cancel(&mut self, key: u32) {
        let Some(&Link { previous, next, list, .. }) = self.links.get(key as usize) else { return };
        if list == NONE {
            return;
        }
        let (level, slot) = (list as usize / SLOTS, list as usize % SLOTS);
        if previous == NONE {
            self.heads[level][slot] = next;
        } else {
            self.links[previous as usize].next = next;
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        if self.heads[level][slot] == NONE {
            self.occupied[level] &= !(1 << slot);
        }
        self.links[key as usize].list = NONE;
    }

    /// Whether the timer of `key` is set.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_set(&self, key: u32) -> bool {
        self.links.get(key as usize).is_some_and(|link| link.list != NONE)
    }

    /// Removes and returns one timer that has expired at `now`; `None` when there is none left.
    pub(crate) fn pop_expired(&mut self, now: Timestamp) -> Option<u32> {
        let target = now.as_micros() / TICK_US;
        loop {
            let slot = (self.now % SLOTS as u64) as usize;
            let key = self.heads[0][slot];
            if key != NONE && self.links[key as usize].expiry <= self.now {
                self.cancel(key);
                return Some(key);
            }
            if self.now >= target {
                return None;
            }
            self.advance(target);
        }
    }

    /// When to look again: no timer expires before, and one of the wheel's slots is due then.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let ticks = (0..LEVELS).filter_map(|level| self.next_due(level)).min()?;
        Some(Timestamp::from_micros(ticks * TICK_US))
    }

    /// Tick at which the next occupied slot of `level` is due.
    fn next_due(&self, level: usize) -> Option<u64> {
        if self.occupied[level] == 0 {
            return None;
        }
        let shift = SLOT_BITS * level as u32;
        let position = self.now >> shift;
        let current = (position % SLOTS as u64) as u32;
        // Level 0 still holds the timers of this tick; higher levels were emptied on arrival.
        let first = if level == 0 { 0 } else { 1 };
        let rotated = self.occupied[level].rotate_right((current + first) % SLOTS as u32);
        let distance = u64::from(rotated.trailing_zeros()) + u64::from(first);
        Some((position + distance) << shift)
    }

    /// Moves to the next tick at which something is due, but not past `target`.
    fn advance(&mut self, target: u64) {
        let due = (0..LEVELS).filter_map(|level| self.next_due(level)).min();
        self.now = due.map_or(target, |due| due.clamp(self.now + 1, target));
        for level in (1..LEVELS).rev() {
            let shift = SLOT_BITS * level as u32;
            if self.now.trailing_zeros() >= shift {
                self.cascade(level, (self.now >> shift) as usize % SLOTS);
            }
        }
    }

    /// Distributes the timers of a slot over the levels below.
    fn cascade(&mut self, level: usize, slot: usize) {
        while self.heads[level][slot] != NONE {
            let key = self.heads[level][slot];
            self.cancel(key);
            self.link(key);
        }
    }

    fn link(&mut self, key: u32) {
        let expiry = self.links[key as usize].expiry;
        let distance = expiry.saturating_sub(self.now);
        let highest = LEVELS as u32 - 1;
        let level = (63 - (distance | 1).leading_zeros()) / SLOT_BITS;
        let level = level.min(highest);
        // A timer beyond the horizon waits in the last slot of the top level and is put again then.
        let horizon = ((SLOTS as u64) - 1) << (SLOT_BITS * highest);
        let at = expiry.min(self.now + horizon);
        let slot = (at >> (SLOT_BITS * level)) as usize % SLOTS;
        let level = level as usize;
        let head = self.heads[level][slot];
        if head != NONE {
            self.links[head as usize].previous = key;
        }
        let list = (level * SLOTS + slot) as u32;
        self.links[key as usize] = Link { previous: NONE, next: head, expiry, list };
        self.heads[level][slot] = key;
        self.occupied[level] |= 1 << slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn pop_all(wheel: &mut TimerWheel, now: Timestamp) -> Vec<u32> {
        std::iter::from_fn(|| wheel.pop_expired(now)).collect()
    }

    #[test]
    fn fires_in_time_at_every_distance() {
        for seconds in [0, 1, 2, 7, 30, 60, 120, 599, 7200, 14_400, 200_000] {
            let start = Timestamp::from_micros(123_456_789);
            let mut wheel = TimerWheel::new(4, start);
            let deadline = start + Duration::from_secs(seconds);
            wheel.set(3, deadline);
            let mut now = start;
            let mut steps = 0;
            let fired = loop {
                let next = wheel.next_deadline().expect("set");
                assert!(next >= now, "never in the past");
                now = next;
                steps += 1;
                assert!(steps < 300, "few looks for {seconds} s");
                if wheel.pop_expired(now) == Some(3) {
                    break now;
                }
            };
            assert!(fired >= deadline, "not early");
            assert!(fired.since(deadline) <= Duration::from_micros(2 * TICK_US), "not late");
            assert_eq!(wheel.next_deadline(), None);
        }
    }

    #[test]
    fn agrees_with_a_sorted_map() {
        let mut wheel = TimerWheel::new(500, Timestamp::ZERO);
        let mut model = BTreeMap::new();
        let (mut now, mut random) = (Timestamp::ZERO, 99u64);
        for _ in 0..100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1442);
            let key = (random >> 40) as u32 % 500;
            let ms = (random >> 20) % (1 << ((random >> 60) + 5));
            match random >> 33 & 7 {
                0..4 => {
                    let deadline = now + Duration::from_millis(ms);
                    wheel.set(key, deadline);
                    model.insert(key, deadline);
                }
                4 => {
                    wheel.cancel(key);
                    model.remove(&key);
                }
                _ => {
                    now = now + Duration::from_micros(ms * 10);
                    for key in pop_all(&mut wheel, now) {
                        let deadline = model.remove(&key).expect("was set");
                        assert!(deadline <= now, "not early");
                    }
                    let late = Duration::from_micros(2 * TICK_US);
                    assert!(model.values().all(|&d| d + late >= now), "none overdue");
                }
            }
            assert_eq!(wheel.is_set(key), model.contains_key(&key));
        }
    }
}
