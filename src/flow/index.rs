//! From addresses to flows: an open-addressing hash index keyed with a secret (SipHash), because the
//! guest and remote parties choose the keys. Linear probing, deletion by shifting back, so there are
//! no tombstones.
//!
//! Entries of a hash index lie scattered over it, and in one that has room for all flows each of the
//! first thousand would touch a page of its own. So there are tables of [`INDEX_FIRST_BUCKETS`] buckets,
//! of twice as many, and so on up to [`INDEX_BUCKETS`], and the entries of some flows are close together.
//! When a table is three quarters full, the next one takes its place. Each insertion then moves what is
//! in a few buckets, [`INDEX_MOVES`], so that none takes long; until all have moved, who looks for an
//! entry looks at both tables. Address space for all tables is reserved once, nothing is allocated later,
//! and a page counts from when it is first used. It goes on counting when the flows have ended: the index
//! does not shrink, and a burst of flows leaves behind what the next one will need.

use std::hash::{Hash, Hasher};
use std::ops::Range;

use siphasher::sip::SipHasher13;

use crate::flow::side::Side;
use crate::limits::{INDEX_BUCKETS, INDEX_FIRST_BUCKETS, INDEX_MOVES};
use crate::wire::ip::L4Protocol;

/// What a flow is found by: one of its sides, and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Protocol.
    pub(crate) protocol: L4Protocol,
    /// The side.
    pub(crate) side: Side,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut bytes = [0; Side::BYTES + 1];
        bytes[..Side::BYTES].copy_from_slice(&self.side.to_bytes());
        bytes[Side::BYTES] = self.protocol as u8;
        hasher.write(&bytes);
    }
}

/// A bucket: the upper half is part of the hash, the lower half the value plus one; 0 is empty.
type Bucket = u64;

/// Maps the hash of a [`Key`] to a slot of the flow table; who looks up compares the key.
pub(crate) struct Index {
    /// All tables one behind the other, the smallest first.
    buckets: Vec<Bucket>,
    hasher: SipHasher13,
    used: usize,
    /// Where new entries go.
    current: Table,
    /// Buckets of the table before this one that have been emptied: all, unless the index is moving.
    moved: usize,
}

/// One of the tables, by its number of buckets.
#[derive(Clone, Copy)]
struct Table(usize);

impl Table {
    /// Where it is: all smaller ones together are one bucket of the first short of its own length.
    fn range(self) -> Range<usize> {
        let start = self.0 - INDEX_FIRST_BUCKETS;
        start..start + self.0
    }

    fn smaller(self) -> Self {
        Self(self.0 / 2)
    }

    fn larger(self) -> Self {
        Self(self.0 * 2)
    }

    /// Entries that it may have.
    fn capacity(self) -> usize {
        self.0 / 4 * 3
    }
}

impl Index {
    /// An empty index with a random 128-bit secret.
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        Self {
            buckets: vec![0; Table(INDEX_BUCKETS).range().end],
            hasher: SipHasher13::new_with_key(&secret),
            used: 0,
            current: Table(INDEX_FIRST_BUCKETS),
            moved: INDEX_FIRST_BUCKETS / 2,
        }
    }

    /// Keyed hash of any value: for the index, and for initial sequence numbers (RFC 6528).
    pub(crate) fn hash(&self, value: impl Hash) -> u64 {
        let mut hasher = self.hasher;
        value.hash(&mut hasher);
        hasher.finish()
    }

    /// Finds the slot for which `matches` holds among those stored under the hash of `key`.
    pub(crate) fn find(&self, key: &Key, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let hash = self.hash(key);
        let mut tables = std::iter::once(self.current).chain(self.leaving());
        tables.find_map(|table| {
            let buckets = &self.buckets[table.range()];
            search(buckets, hash, &mut matches).map(|at| slot(buckets[at]))
        })
    }

    /// Stores `slot_nr` under `key`. False, and nothing stored, when the index is full.
    pub(crate) fn insert(&mut self, key: &Key, slot_nr: u32) -> bool {
        if self.used >= self.current.capacity() {
            if self.current.0 == INDEX_BUCKETS {
                return false;
            }
            debug_assert!(self.leaving().is_none(), "moving is faster than filling");
            self.current = self.current.larger();
            self.moved = 0;
        }
        self.move_some();
        let bucket = (self.hash(key) & 0xffff_ffff_0000_0000) | u64::from(slot_nr + 1);
        place(&mut self.buckets[self.current.range()], bucket);
        self.used += 1;
        true
    }

    /// Removes the entry of `slot_nr` under `key`; one that is not there is ignored.
    pub(crate) fn remove(&mut self, key: &Key, slot_nr: u32) {
        let hash = self.hash(key);
        for table in std::iter::once(self.current).chain(self.leaving()) {
            let buckets = &mut self.buckets[table.range()];
            if let Some(at) = search(buckets, hash, |slot| slot == slot_nr) {
                take(buckets, at);
                self.used -= 1;
                return;
            }
        }
    }

    /// The table that entries are moved away from.
    fn leaving(&self) -> Option<Table> {
        let table = self.current.smaller();
        (self.moved < table.0).then_some(table)
    }

    /// Moves what is in the next buckets of the table that is being left. A bucket is empty when no
    /// later entry of its run moves back to it any more.
    fn move_some(&mut self) {
        let Some(leaving) = self.leaving() else { return };
        let end = (self.moved + INDEX_MOVES).min(leaving.0);
        let (smaller, current) = self.buckets.split_at_mut(self.current.range().start);
        let smaller = &mut smaller[leaving.range()];
        for at in self.moved..end {
            while smaller[at] != 0 {
                place(&mut current[..self.current.0], take(smaller, at));
            }
        }
        self.moved = end;
    }
}

/// Position in `table` of the entry under `hash` for which `matches` holds.
fn search(table: &[Bucket], hash: u64, mut matches: impl FnMut(u32) -> bool) -> Option<usize> {
    let mut at = home(table, hash);
    while table[at] != 0 {
        if tag(table[at]) == tag(hash) && matches(slot(table[at])) {
            return Some(at);
        }
        at = next(table, at);
    }
    None
}

/// Puts an entry into the first free bucket of its run.
fn place(table: &mut [Bucket], bucket: Bucket) {
    let mut at = home(table, bucket);
    while table[at] != 0 {
        at = next(table, at);
    }
    table[at] = bucket;
}

/// Takes the entry at `gap` away, and moves later entries of the run back so that no probe meets the
/// gap (Knuth 6.4, algorithm R).
fn take(table: &mut [Bucket], mut gap: usize) -> Bucket {
    let taken = table[gap];
    let mut at = gap;
    loop {
        at = next(table, at);
        let bucket = table[at];
        if bucket == 0 {
            table[gap] = 0;
            return taken;
        }
        let mask = table.len() - 1;
        let distance_from_home = at.wrapping_sub(home(table, bucket)) & mask;
        if distance_from_home >= at.wrapping_sub(gap) & mask {
            table[gap] = bucket;
            gap = at;
        }
    }
}

/// Where the probe for a hash, or for a stored bucket, starts: a function of the stored half. Tables
/// have powers of two as lengths.
fn home(table: &[Bucket], hash: u64) -> usize {
    (hash >> 32) as usize & (table.len() - 1)
}

fn next(table: &[Bucket], at: usize) -> usize {
    (at + 1) & (table.len() - 1)
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn slot(bucket: Bucket) -> u32 {
    (bucket as u32).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::side::{Endpoint, Pif};
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    fn key(n: u32) -> Key {
        let endpoint = Endpoint::new(Ipv4Addr::from(n).into(), n as u16);
        Key { protocol: L4Protocol::Tcp, side: Side { pif: Pif::Tap, ours: endpoint, endpoint } }
    }

    #[test]
    fn behaves_like_a_map_under_insertion_and_removal() {
        let mut index = Index::new([7; 16]);
        let mut model = HashMap::new();
        let mut random = 1u64;
        for _ in 0..200_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let n = (random >> 33) as u32 % 50_000;
            if model.remove(&n).is_some() {
                index.remove(&key(n), n);
            } else {
                assert!(index.insert(&key(n), n));
                model.insert(n, ());
            }
        }
        for n in 0..50_000 {
            let found = index.find(&key(n), |slot| slot == n);
            assert_eq!(found, model.contains_key(&n).then_some(n), "key {n}");
        }
    }

    #[test]
    fn every_entry_is_found_at_every_step_of_growing() {
        let mut index = Index::new([1; 16]);
        for n in 0..8 * INDEX_FIRST_BUCKETS as u32 {
            assert!(index.insert(&key(n), n));
            if n % 7 == 3 {
                index.remove(&key(n / 2), n / 2);
                assert_eq!(index.find(&key(n / 2), |slot| slot == n / 2), None);
                assert!(index.insert(&key(n / 2), n / 2));
            }
            for n in [0, n / 3, n / 2, n] {
                assert_eq!(index.find(&key(n), |slot| slot == n), Some(n));
            }
        }
    }

    #[test]
    fn holds_both_sides_of_all_flows_and_then_no_more() {
        let mut index = Index::new([2; 16]);
        let room = INDEX_BUCKETS as u32 / 4 * 3;
        assert!((0..room).all(|n| index.insert(&key(n), n)));
        assert!(!index.insert(&key(room), room), "full");
        assert!((0..room).all(|n| index.find(&key(n), |slot| slot == n) == Some(n)));
        (0..room).for_each(|n| index.remove(&key(n), n));
        assert!(index.buckets.iter().all(|bucket| *bucket == 0), "nothing is left anywhere");
    }

    #[test]
    fn few_flows_touch_few_pages() {
        const PAGE: usize = 4096 / size_of::<Bucket>();
        let mut index = Index::new([3; 16]);
        for n in 0..1000 {
            index.insert(&key(n), n);
        }
        let last = index.buckets.iter().rposition(|bucket| *bucket != 0).expect("entries");
        assert!(last < 8 * PAGE, "bucket {last}");
    }
}
