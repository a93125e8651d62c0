//! Reassembly of packets that the guest cut into fragments (RFC 791, section 3.2; RFC 8200,
//! section 4.5): which bytes have arrived, where the next ones go, when a datagram is whole.
//!
//! There are [`REASSEMBLY_SLOTS`] *slots*, one for each datagram that is not whole yet. A slot has two
//! bits for each *unit* of 8 bytes, the granularity of fragment offsets: one says that the unit has
//! arrived (the table that RFC 791 proposes), the other that a fragment starts there, which tells a
//! fragment that was sent twice from one that overlaps. So the work for a fragment depends on its
//! length alone, in whatever order and number fragments come. The bytes themselves are elsewhere:
//! [`Reassembly::add`] says where in the slot's buffer they belong.
//!
//! * Fragments that overlap condemn their datagram (RFC 5722; IPv4 is treated alike), and so do those
//!   that disagree about its end. The slot stays, to refuse what is still to come. A fragment that
//!   comes again is ignored.
//! * A datagram that is not whole after [`REASSEMBLY_TIMEOUT`] is given up; when all slots are used,
//!   the oldest gives way: the one whose first fragment arrived first, also among those that arrived at one time, as
//!   all of a batch do. Both are noticed when the next fragment arrives: nothing waits for it.
//! * No ICMP error tells the guest that a datagram was given up: it is the one who cut it.
//! * Numbers of datagrams repeat, in IPv4 after 65,536 of them, so fragments of two datagrams may be
//!   mixed up (RFC 4963). The caller must verify the checksum of what was reassembled.

use std::net::IpAddr;
use std::ops::Range;

use crate::limits::{REASSEMBLY_BUFFER_BYTES, REASSEMBLY_SLOTS, REASSEMBLY_TIMEOUT};
use crate::time::Timestamp;
use crate::wire::drop_reason::DropCounters;
use crate::wire::ip::{FragmentPlace, L4Protocol, UNIT_BYTES, max_l4_bytes};
use crate::wire::{DropReason, Fragment};

const UNITS: usize = REASSEMBLY_BUFFER_BYTES / UNIT_BYTES as usize;

/// Where the payload of a fragment is to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The slot, below [`REASSEMBLY_SLOTS`].
    pub(crate) slot: usize,
    /// First byte in the slot's buffer. The payload ends below [`REASSEMBLY_BUFFER_BYTES`].
    pub(crate) offset: usize,
    /// Bytes of the whole datagram, L4 header included, if this fragment makes it whole. The slot is
    /// free then: its buffer keeps the datagram until the next call.
    pub(crate) whole: Option<u32>,
}

/// The datagrams that are not whole yet.
#[derive(Default)]
pub(crate) struct Reassembly {
    slots: [Option<Slot>; REASSEMBLY_SLOTS],
    /// How many datagrams were begun.
    begun: u64,
}

/// What makes fragments parts of one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: L4Protocol,
    identification: u32,
}

/// A datagram that is not whole yet.
struct Slot {
    key: Key,
    /// When the first of its fragments arrived.
    started: Timestamp,
    /// How many datagrams were begun, with it.
    number: u64,
    /// Two fragments contradicted each other: nothing comes of it any more.
    condemned: bool,
    /// Bytes of the datagram, once its last fragment has arrived.
    total: Option<u32>,
    arrived: Units,
    arrived_count: usize,
    starts: Units,
}

impl Reassembly {
    /// Takes note of a fragment and says where its payload goes; `None` if it has arrived before.
    /// Datagrams that are given up are counted in `drops`.
    ///
    /// # Errors
    /// The reason why the fragment is to be dropped.
    pub(crate) fn add(
        &mut self,
        now: Timestamp,
        fragment: &Fragment,
        drops: &mut DropCounters,
    ) -> Result<Option<Placed>, DropReason> {
        let bytes = checked_range(fragment)?;
        self.expire(now, drops);
        let key = Key {
            source: fragment.ip.source,
            destination: fragment.ip.destination,
            protocol: fragment.ip.protocol,
            identification: fragment.place.identification,
        };
        let index = self.slot_of(&key, drops);
        let slot = self.slots[index].get_or_insert_with(|| {
            self.begun += 1;
            Slot::new(key, now, self.begun)
        });
        if !slot.take(&bytes, &fragment.place)? {
            return Ok(None);
        }
        let whole = slot.whole();
        if whole.is_some() {
            self.slots[index] = None;
        }
        Ok(Some(Placed { slot: index, offset: bytes.start as usize, whole }))
    }

    /// Gives up all datagrams that are not whole yet: the guest that has begun them is gone. They are counted in `drops`.
    pub(crate) fn clear(&mut self, drops: &mut DropCounters) {
        for slot in self.slots.iter_mut().filter_map(Option::take) {
            slot.count(DropReason::LinkDown, drops);
        }
    }

    /// Number of datagrams that are not whole yet, condemned ones included.
    #[cfg(test)]
    pub(crate) fn pending(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    fn expire(&mut self, now: Timestamp, drops: &mut DropCounters) {
        for entry in &mut self.slots {
            if let Some(old) = entry.take_if(|slot| now.since(slot.started) >= REASSEMBLY_TIMEOUT) {
                old.count(DropReason::FragmentTimeout, drops);
            }
        }
    }

    /// The slot of a datagram: its own, or a free one, for which the oldest gives way if it must.
    fn slot_of(&mut self, key: &Key, drops: &mut DropCounters) -> usize {
        let is_own = |entry: &Option<Slot>| entry.as_ref().is_some_and(|slot| slot.key == *key);
        let own = self.slots.iter().position(is_own);
        if let Some(index) = own.or_else(|| self.slots.iter().position(Option::is_none)) {
            return index;
        }
        let age = |&index: &usize| self.slots[index].as_ref().map(|slot| slot.number);
        let oldest = (0..REASSEMBLY_SLOTS).min_by_key(age).unwrap_or(0);
        if let Some(old) = self.slots[oldest].take() {
            old.count(DropReason::FragmentEvicted, drops);
        }
        oldest
    }
}

/// The bytes of the datagram that a fragment holds: at least one, and a number of whole units unless
/// it is the last; no more than a packet that was never cut could have.
fn checked_range(fragment: &Fragment) -> Result<Range<u32>, DropReason> {
    let (place, len) = (&fragment.place, fragment.ip.l4_len);
    let uneven = place.offset % UNIT_BYTES != 0 || (place.more && len % UNIT_BYTES != 0);
    let end = place.offset.checked_add(len).ok_or(DropReason::Malformed)?;
    if len == 0 || uneven || end > max_l4_bytes(fragment.ip.source.is_ipv4()) {
        return Err(DropReason::Malformed);
    }
    Ok(place.offset..end)
}

impl Slot {
    fn new(key: Key, started: Timestamp, number: u64) -> Self {
        Self {
            key,
            started,
            number,
            condemned: false,
            total: None,
            arrived: Units::default(),
            arrived_count: 0,
            starts: Units::default(),
        }
    }

    /// Takes note of a fragment; false if it has arrived before.
    fn take(&mut self, bytes: &Range<u32>, place: &FragmentPlace) -> Result<bool, DropReason> {
        let units = units_of(bytes);
        if !self.condemned && self.has(&units, bytes.end, place.more) {
            return Ok(false);
        }
        self.condemned |= !self.agrees_on_end(bytes.end, place.more) || self.arrived.any(&units);
        if self.condemned {
            return Err(DropReason::FragmentOverlap);
        }
        self.starts.set(&(units.start..units.start + 1));
        self.arrived_count += units.len();
        self.arrived.set(&units);
        if !place.more {
            self.total = Some(bytes.end);
        }
        Ok(true)
    }

    /// Whether this very fragment has arrived: one that started and ended where it does.
    fn has(&self, units: &Range<usize>, end: u32, more: bool) -> bool {
        let next = units.end..units.end + 1;
        let ends_here = units.end == UNITS || !self.arrived.any(&next) || self.starts.any(&next);
        self.starts.any(&(units.start..units.start + 1))
            && !self.starts.any(&(units.start + 1..units.end))
            && self.arrived.all(units)
            && ends_here
            && (more || self.total.is_some())
            && self.agrees_on_end(end, more)
    }

    /// Whether a fragment that ends at `end` fits what is known about the end of the datagram.
    fn agrees_on_end(&self, end: u32, more: bool) -> bool {
        match self.total {
            Some(total) if more => end < total,
            Some(total) => end == total,
            None if more => true,
            None => !self.arrived.any(&(end.div_ceil(UNIT_BYTES) as usize..UNITS)),
        }
    }

    /// Bytes of the datagram, if all of them have arrived.
    fn whole(&self) -> Option<u32> {
        self.total.filter(|total| self.arrived_count == total.div_ceil(UNIT_BYTES) as usize)
    }

    /// Counts the end of a datagram that was not whole; a condemned one was counted before.
    fn count(&self, reason: DropReason, drops: &mut DropCounters) {
        if !self.condemned {
            drops.count(reason);
        }
    }
}

fn units_of(bytes: &Range<u32>) -> Range<usize> {
    (bytes.start / UNIT_BYTES) as usize..bytes.end.div_ceil(UNIT_BYTES) as usize
}

/// One bit for each unit of a datagram.
struct Units([u64; UNITS / 64]);

impl Default for Units {
    fn default() -> Self {
        Self([0; UNITS / 64])
    }
}

impl Units {
    fn set(&mut self, range: &Range<usize>) {
        for (word, mask) in masks(range) {
            self.0[word] |= mask;
        }
    }

    fn any(&self, range: &Range<usize>) -> bool {
        masks(range).any(|(word, mask)| self.0[word] & mask != 0)
    }

    fn all(&self, range: &Range<usize>) -> bool {
        masks(range).all(|(word, mask)| self.0[word] & mask == mask)
    }
}

/// The words that hold the bits of `range`, each with the bits in question.
fn masks(range: &Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let (start, end) = (range.start, range.end.max(range.start));
    (start / 64..end.div_ceil(64)).map(move |word| {
        let above = u64::MAX << start.saturating_sub(word * 64);
        let beyond = (word * 64 + 64).saturating_sub(end);
        (word, above & (u64::MAX >> beyond))
    })
}

#[cfg(test)]
mod tests;
