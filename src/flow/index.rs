//! From addresses to flows: an open-addressing hash index keyed with a secret (SipHash), because the
//! guest and remote parties choose the keys. Linear probing, deletion by shifting back, so there are
//! no tombstones and no rehashing; the memory is reserved once and touched when first used.

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use crate::flow::side::Side;
use crate::limits::INDEX_BUCKETS;
use crate::wire::ip::L4Protocol;

/// What a flow is found by: one of its sides, and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Protocol.
    pub protocol: L4Protocol,
    /// The side.
    pub side: Side,
}

/// A bucket: the upper half is part of the hash, the lower half the value plus one; 0 is empty.
type Bucket = u64;

/// Maps the hash of a [`Key`] to a slot of the flow table; who looks up compares the key.
pub struct Index {
    buckets: Vec<Bucket>,
    hasher: SipHasher13,
    used: usize,
}

impl Index {
    /// An empty index with a random 128-bit secret.
    pub fn new(secret: [u8; 16]) -> Self {
        Self {
            buckets: vec![0; INDEX_BUCKETS],
            hasher: SipHasher13::new_with_key(&secret),
            used: 0,
        }
    }

    /// Keyed hash of any value: for the index, and for initial sequence numbers (RFC 6528).
    pub fn hash(&self, value: impl Hash) -> u64 {
        let mut hasher = self.hasher;
        value.hash(&mut hasher);
        hasher.finish()
    }

    /// Finds the slot for which `matches` holds among those stored under the hash of `key`.
    pub fn find(&self, key: &Key, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let hash = self.hash(key);
        let mut at = home(hash);
        loop {
            let bucket = self.buckets[at];
            if bucket == 0 {
                return None;
            }
            if tag(bucket) == tag(hash) && matches(slot(bucket)) {
                return Some(slot(bucket));
            }
            at = next(at);
        }
    }

    /// Stores `slot_nr` under `key`. False, and nothing stored, when the index is full.
    pub fn insert(&mut self, key: &Key, slot_nr: u32) -> bool {
        if self.used >= INDEX_BUCKETS / 4 * 3 {
            return false;
        }
        let hash = self.hash(key);
        let mut at = home(hash);
        while self.buckets[at] != 0 {
            at = next(at);
        }
        self.buckets[at] = (hash & 0xffff_ffff_0000_0000) | u64::from(slot_nr + 1);
        self.used += 1;
        true
    }

    /// Removes the entry of `slot_nr` under `key`; one that is not there is ignored.
    pub fn remove(&mut self, key: &Key, slot_nr: u32) {
        let hash = self.hash(key);
        let mut at = home(hash);
        loop {
            let bucket = self.buckets[at];
            if bucket == 0 {
                return;
            }
            if tag(bucket) == tag(hash) && slot(bucket) == slot_nr {
                break;
            }
            at = next(at);
        }
        self.used -= 1;
        self.close_gap(at);
    }

    /// Moves later entries of the run back so that no probe meets the gap (Knuth 6.4, algorithm R).
    fn close_gap(&mut self, mut gap: usize) {
        let mut at = gap;
        loop {
            at = next(at);
            let bucket = self.buckets[at];
            if bucket == 0 {
                self.buckets[gap] = 0;
                return;
            }
            let distance_from_home = at.wrapping_sub(home(bucket)) % INDEX_BUCKETS;
            if distance_from_home >= at.wrapping_sub(gap) % INDEX_BUCKETS {
                self.buckets[gap] = bucket;
                gap = at;
            }
        }
    }
}

/// Where the probe for a hash, or for a stored bucket, starts: a function of the stored half.
fn home(hash: u64) -> usize {
    (hash >> 32) as usize % INDEX_BUCKETS
}

fn next(at: usize) -> usize {
    (at + 1) % INDEX_BUCKETS
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
}
