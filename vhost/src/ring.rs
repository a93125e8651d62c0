//! The burst view of a split ring (virtio 1.2, section 2.7), device side.
//!
//! The queue types of rust-vmm publish each used element at once and look every address up again.
//! Here many chains are popped under one look at the available index, many used elements are
//! written, and one [`publish`](Ring::publish) makes them visible together: the buffers of a merged
//! frame appear to the driver all at once or not at all (section 5.1.6.4), and there is at most one
//! notification for each turn of the loop.
//!
//! Terms: a *chain* is what one entry of the available ring names; a *head* is the index of its first
//! descriptor. *Popping* moves a private cursor only, so [`Ring::rewind`] un-pops for free; popped
//! chains count as taken once the cursor is [settled](Ring::settle).
//!
//! The driver is hostile: every index is checked, a chain has at most as many direct descriptors as
//! the ring and as many indirect ones as [`MAX_INDIRECT`], one level deep. What breaks a rule of the
//! ring is a [`RingFault`]; the ring is then stopped by its owner. Nothing here loops on what the
//! driver can change.

use passt_frame::MAX_FROM_GUEST_IOVECS;
use thiserror::Error;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

use crate::dirty_log::UsedLog;
use crate::features::Features;
use crate::indexes::{Indexes, passed};
use crate::mem::{DESCRIPTOR_BYTES, Descriptor, Memory, RingMemory, Span};

/// Most descriptors in an indirect table. The specification allows the queue size; drivers with
/// small queues exceed it (a Linux guest uses 19 on a queue of 16), and 32,768 is its upper bound.
pub(crate) const MAX_INDIRECT: u32 = 32_768;

/// Most pieces that are kept of one chain; the largest batch takes no more.
pub(crate) const MAX_PIECES: usize = MAX_FROM_GUEST_IOVECS;

/// What the driver did to break a ring.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum RingFault {
    /// More chains were made available than the ring has entries.
    #[error("available index jumped from {from} to {to} on a ring of {size}")]
    AvailableJump {
        /// Where we were.
        from: u16,
        /// Where the driver says it is.
        to: u16,
        /// Number of entries.
        size: u16,
    },
    /// A chain starts or goes on beyond the descriptor table.
    #[error("descriptor {0} is beyond the table")]
    BadIndex(u16),
    /// A chain is longer than the ring or its table: it loops.
    #[error("the chain of descriptor {0} loops")]
    Loop(u16),
    /// A buffer that is to be read is writable, or the other way round.
    #[error("the chain of descriptor {0} has a buffer of the wrong direction")]
    Direction(u16),
    /// A buffer, or an indirect table, is not in guest memory.
    #[error("the chain of descriptor {head} has {len} bytes at {guest:#x}, outside of memory")]
    Unmapped {
        /// First descriptor of the chain.
        head: u16,
        /// Guest physical address.
        guest: u64,
        /// Length in bytes.
        len: u32,
    },
    /// An indirect table that is nested, not negotiated, chained on, or of a bad length.
    #[error("the chain of descriptor {0} has a bad indirect table")]
    BadIndirect(u16),
    /// A receive buffer that cannot hold the smallest frame.
    #[error("the receive buffer of descriptor {0} is too small for a frame")]
    TooSmall(u16),
    /// The ring no longer lies in guest memory.
    #[error("the ring lies outside of memory")]
    RingUnmapped,
}

/// Which way the buffers of a ring go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The device reads them.
    Readable,
    /// The device writes them.
    Writable,
    /// The device reads the first ones of a chain and writes the others (2.7.4.2).
    Both,
}

/// What a walk over a chain found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Bytes in all buffers.
    pub(crate) bytes: u64,
    /// Descriptors walked.
    pub(crate) descriptors: u32,
    /// Entries of the ring's own table among them: a table of its own counts as the one that names it.
    pub(crate) entries: u32,
    /// There were more pieces than the list takes; those beyond are missing in it.
    pub(crate) cut: bool,
    /// How many pieces stand before the first writable buffer, in a ring of both directions that has one.
    pub(crate) readable: Option<usize>,
}

/// A started ring.
pub(crate) struct Ring {
    memory: RingMemory,
    direction: Direction,
    indirect: bool,
    event_idx: bool,
    at: Indexes,
    /// Where what is written to the used ring is marked.
    log: Option<UsedLog>,
    /// The next publication notifies whatever the driver's wish: nothing is known of its past.
    notify_first: bool,
}

impl Ring {
    /// A ring that goes on at available index `base`.
    pub(crate) fn new(
        memory: RingMemory,
        direction: Direction,
        base: u16,
        features: Features,
        log: Option<UsedLog>,
    ) -> Self {
        let at = Indexes::new(memory.size(), base, memory.used_index());
        let ring = Self {
            memory,
            direction,
            indirect: features.indirect(),
            event_idx: features.event_idx(),
            at,
            log,
            notify_first: true,
        };
        ring.set_no_notify(false);
        ring
    }

    /// Takes over new pointers: the ring moved, or memory was mapped anew. Indexes stay.
    pub(crate) fn set_memory(&mut self, memory: RingMemory) {
        self.memory = memory;
    }

    /// Takes over where the used ring is marked, or that it is not.
    pub(crate) fn set_log(&mut self, log: Option<UsedLog>) {
        self.log = log;
    }

    /// Takes over new features while the ring runs.
    pub(crate) fn set_features(&mut self, features: Features) {
        self.indirect = features.indirect();
        self.event_idx = features.event_idx();
    }

    /// Number of entries.
    pub(crate) fn size(&self) -> u16 {
        self.memory.size()
    }

    /// First chain that is not settled: what GET_VRING_BASE answers.
    pub(crate) fn base(&self) -> u16 {
        self.at.base()
    }

    /// Next used element to write.
    pub(crate) fn next_used(&self) -> u16 {
        self.at.next_used()
    }

    /// The available index when it was last looked at.
    pub(crate) fn available(&self) -> u16 {
        self.at.available()
    }

    /// Whether the available index is now where drivers begin.
    pub(crate) fn is_at_zero(&self) -> bool {
        self.memory.available_index() == 0
    }

    /// Whether a chain was settled since the ring has started.
    pub(crate) fn has_moved(&self) -> bool {
        self.at.have_moved()
    }

    /// Whether chains are known to wait, without looking at guest memory.
    pub(crate) fn has_pending(&self) -> bool {
        self.at.pending().is_some()
    }

    /// Looks at the available index; true when there are chains to pop.
    ///
    /// # Errors
    /// [`RingFault::AvailableJump`].
    pub(crate) fn refresh(&mut self) -> Result<bool, RingFault> {
        let to = self.memory.available_index();
        if !self.at.look(to) {
            let (from, size) = (self.base(), self.size());
            return Err(RingFault::AvailableJump { from, to, size });
        }
        Ok(self.has_pending())
    }

    /// Pops a chain that [`refresh`](Self::refresh) found.
    ///
    /// # Errors
    /// [`RingFault::BadIndex`] when its head is beyond the table.
    pub(crate) fn pop(&mut self) -> Result<Option<u16>, RingFault> {
        let Some(at) = self.at.pending() else { return Ok(None) };
        let head = self.memory.available_entry(at);
        if head >= self.size() {
            return Err(RingFault::BadIndex(head));
        }
        self.at.pop();
        Ok(Some(head))
    }

    /// Un-pops the last `count` chains.
    pub(crate) fn unpop(&mut self, count: u16) {
        self.at.unpop(count);
    }

    /// Un-pops all chains that are not settled.
    pub(crate) fn rewind(&mut self) {
        self.at.rewind();
    }

    /// Takes the popped chains for good.
    pub(crate) fn settle(&mut self) {
        self.at.settle();
    }

    /// Writes a used element; invisible until [`publish`](Self::publish).
    pub(crate) fn put_used(&mut self, head: u16, len: u32) {
        self.memory.put_used(self.at.next_used(), head, len);
        self.at.put_used();
    }

    /// Makes the used elements visible.
    pub(crate) fn publish(&mut self) {
        let before = self.at.published();
        if !self.at.publish() {
            return;
        }
        let index = self.at.published();
        self.memory.publish(index);
        if let Some(log) = &self.log {
            log.published(self.size(), before, index);
        }
    }

    /// Whether the driver wants to be notified of them (virtio 1.2, section 2.7.7.2). If not, nothing needs
    /// to be said of them any more.
    pub(crate) fn wants_call(&mut self) -> bool {
        let (old, new) = (self.at.told(), self.at.published());
        if old == new {
            return false;
        }
        RingMemory::full_fence();
        let wanted = if self.notify_first {
            true
        } else if self.event_idx {
            passed(self.memory.used_event(), old, new)
        } else {
            !self.memory.no_interrupt()
        };
        if !wanted {
            self.at.tell();
        }
        wanted
    }

    /// The driver is notified now.
    pub(crate) fn note_call(&mut self) {
        self.at.tell();
        self.notify_first = false;
    }

    /// Asks the driver for a kick at the next chain it makes available, then looks whether one has
    /// come meanwhile; true when so.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub(crate) fn ask_for_kick(&mut self) -> Result<bool, RingFault> {
        if self.event_idx {
            self.memory.set_avail_event(self.at.available());
            if let Some(log) = &self.log {
                log.event(self.size());
            }
        } else {
            self.set_no_notify(false);
        }
        RingMemory::full_fence();
        self.refresh()
    }

    /// Tells the driver that kicks are not needed. With event indexes there is nothing to say: the
    /// one asked for last has passed.
    pub(crate) fn forgo_kicks(&mut self) {
        if !self.event_idx {
            self.set_no_notify(true);
        }
    }

    fn set_no_notify(&self, no_notify: bool) {
        self.memory.set_no_notify(no_notify);
        if let Some(log) = &self.log {
            log.flags();
        }
    }

    /// Walks the chain of `head` and appends its pieces to `pieces`, at most `limit` of them.
    ///
    /// # Errors
    /// Whatever rule the chain breaks.
    pub(crate) fn walk(
        &self,
        memory: &Memory,
        head: u16,
        pieces: &mut Vec<Span>,
        limit: usize,
    ) -> Result<Chain, RingFault> {
        let mut walk = Walk {
            memory,
            direction: self.direction,
            head,
            pieces,
            limit,
            chain: Chain::default(),
        };
        let mut index = head;
        loop {
            let descriptor = self.memory.descriptor(index).ok_or(RingFault::BadIndex(index))?;
            if walk.chain.descriptors >= u32::from(self.size()) {
                return Err(RingFault::Loop(head));
            }
            walk.chain.entries += 1;
            if has(descriptor, VRING_DESC_F_INDIRECT) {
                if !self.indirect || has(descriptor, VRING_DESC_F_NEXT) {
                    return Err(RingFault::BadIndirect(head));
                }
                walk.table(descriptor)?;
                return Ok(walk.chain);
            }
            walk.buffer(descriptor)?;
            if !has(descriptor, VRING_DESC_F_NEXT) {
                return Ok(walk.chain);
            }
            index = descriptor.next;
        }
    }
}

fn has(descriptor: Descriptor, flag: u32) -> bool {
    u32::from(descriptor.flags) & flag != 0
}

/// The state of one walk.
struct Walk<'a> {
    memory: &'a Memory,
    direction: Direction,
    head: u16,
    pieces: &'a mut Vec<Span>,
    limit: usize,
    chain: Chain,
}

impl Walk<'_> {
    /// Adds the buffer of one descriptor. One of no bytes adds nothing.
    fn buffer(&mut self, descriptor: Descriptor) -> Result<(), RingFault> {
        self.chain.descriptors += 1;
        let writable = has(descriptor, VRING_DESC_F_WRITE);
        let right = match self.direction {
            Direction::Readable => !writable,
            Direction::Writable => writable,
            Direction::Both => self.is_in_order(writable),
        };
        if !right {
            return Err(RingFault::Direction(self.head));
        }
        let (pieces, limit, cut) = (&mut *self.pieces, self.limit, &mut self.chain.cut);
        let mapped = self.memory.spans(descriptor.guest, descriptor.len, |span| {
            if pieces.len() < limit {
                pieces.push(span);
            } else {
                *cut = true;
            }
        });
        self.chain.bytes += u64::from(descriptor.len);
        if mapped { Ok(()) } else { Err(self.unmapped(descriptor.guest, descriptor.len)) }
    }

    /// Whether a buffer may follow those before it: no readable one follows a writable one.
    fn is_in_order(&mut self, writable: bool) -> bool {
        if writable {
            self.chain.readable.get_or_insert(self.pieces.len());
        }
        writable || self.chain.readable.is_none()
    }

    /// Adds the buffers of an indirect table.
    fn table(&mut self, at: Descriptor) -> Result<(), RingFault> {
        let entries = at.len / DESCRIPTOR_BYTES;
        let whole = at.len.is_multiple_of(DESCRIPTOR_BYTES);
        if !whole || entries == 0 || entries > MAX_INDIRECT {
            return Err(RingFault::BadIndirect(self.head));
        }
        let mut index = 0u32;
        for _ in 0..entries {
            let guest = at.guest.checked_add(u64::from(index * DESCRIPTOR_BYTES));
            let descriptor = guest
                .and_then(|guest| self.memory.descriptor(guest))
                .ok_or_else(|| self.unmapped(at.guest, at.len))?;
            if has(descriptor, VRING_DESC_F_INDIRECT) {
                return Err(RingFault::BadIndirect(self.head));
            }
            self.buffer(descriptor)?;
            if !has(descriptor, VRING_DESC_F_NEXT) {
                return Ok(());
            }
            index = u32::from(descriptor.next);
            if index >= entries {
                return Err(RingFault::BadIndex(descriptor.next));
            }
        }
        Err(RingFault::Loop(self.head))
    }

    fn unmapped(&self, guest: u64, len: u32) -> RingFault {
        RingFault::Unmapped { head: self.head, guest, len }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;
    use crate::mem::RingAddresses;
    use crate::region::RegionSpec;

    const AVAILABLE: u64 = 0x1000;
    const USED: u64 = 0x2000;

    /// A ring of four entries, and the file in which its driver writes.
    fn ring(event_idx: bool, base: u16) -> (Ring, File) {
        let file = File::from(memfd_create("ring", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(0x3000).unwrap();
        let spec = RegionSpec { guest: 0, len: 0x3000, user: 0, offset: 0 };
        let memory = Memory::map_table(vec![(spec, file.try_clone().unwrap())]).unwrap();
        let at = RingAddresses { descriptors: 0, available: AVAILABLE, used: USED };
        let memory = RingMemory::resolve(&memory, &at, 4).unwrap();
        store(&file, AVAILABLE + 2, base);
        store(&file, USED + 2, base);
        let features = Features(u64::from(event_idx) << 29);
        (Ring::new(memory, Direction::Writable, base, features, None), file)
    }

    fn store(file: &File, at: u64, value: u16) {
        file.write_all_at(&value.to_le_bytes(), at).unwrap();
    }

    fn load(file: &File, at: u64) -> u16 {
        let mut bytes = [0; 2];
        file.read_exact_at(&mut bytes, at).unwrap();
        u16::from_le_bytes(bytes)
    }

    /// Between the last look and the wish for a kick, the driver does not know of the wish, and sends none.
    #[test]
    fn virtio_2_7_10_what_comes_before_the_wish_for_a_kick_is_seen_by_who_wishes() {
        for event_idx in [false, true] {
            for base in [0, 0xfffe, 0xffff] {
                let (mut ring, file) = ring(event_idx, base);
                ring.forgo_kicks();
                assert_eq!(ring.refresh(), Ok(false));
                store(&file, AVAILABLE + 2, base.wrapping_add(1));
                assert_eq!(ring.ask_for_kick(), Ok(true), "{event_idx} {base}");
                assert_eq!((ring.has_pending(), ring.pop()), (true, Ok(Some(0))));
                assert_eq!(ring.ask_for_kick(), Ok(false));
                let wish =
                    if event_idx { load(&file, USED + 4 + 8 * 4) } else { load(&file, USED) };
                assert_eq!(wish, if event_idx { base.wrapping_add(1) } else { 0 });
            }
        }
    }
}
