//! The driver's side of a split ring (virtio 1.2, section 2.7).

use std::collections::HashMap;
use std::sync::atomic::{Ordering, fence};

use crate::GuestMemory;

const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;

/// A buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest physical address.
    pub guest: u64,
    /// Length in bytes.
    pub len: u32,
    /// The device writes it.
    pub writable: bool,
}

/// A ring as its driver sees it.
pub struct DriverRing {
    /// Number of entries.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// Whether notifications are suppressed by index.
    pub event_idx: bool,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
    next: u16,
    kicked: u16,
    last_used: u16,
}

impl DriverRing {
    /// A ring of `size` entries whose parts lie one behind the other from `base`.
    pub fn new(base: u64, size: u16, event_idx: bool) -> Self {
        let available = base + 16 * u64::from(size);
        let used = (available + 6 + 2 * u64::from(size)).next_multiple_of(4096);
        Self {
            size,
            descriptors: base,
            available,
            used,
            event_idx,
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
            next: 0,
            kicked: 0,
            last_used: 0,
        }
    }

    /// Goes on from `index`, as if as many buffers had been used before. For a ring that is not shown yet.
    pub fn begin_at(&mut self, memory: &GuestMemory, index: u16) {
        (self.next, self.kicked, self.last_used) = (index, index, index);
        memory.store_u16(self.available + 2, index);
        memory.store_u16(self.used + 2, index);
    }

    /// Descriptors that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// The descriptor that the next chain starts with.
    pub fn next_free(&self) -> u16 {
        *self.free.last().expect("a free descriptor")
    }

    /// Writes one descriptor of the table, whatever it means.
    pub fn put_descriptor(
        &self,
        memory: &GuestMemory,
        index: u16,
        (guest, len, flags, next): (u64, u32, u16, u16),
    ) {
        write_descriptor(memory, self.descriptors, index, (guest, len, flags, next));
    }

    /// Enters a head in the available ring, whatever it means; visible after
    /// [`publish`](Self::publish).
    pub fn put_available(&mut self, memory: &GuestMemory, head: u16) {
        let slot = u64::from(self.next & (self.size - 1));
        memory.store_u16(self.available + 4 + 2 * slot, head);
        self.next = self.next.wrapping_add(1);
    }

    /// Makes a chain of buffers available; returns its head. With `table` the chain lies in an
    /// indirect table at that guest address.
    pub fn add(&mut self, memory: &GuestMemory, buffers: &[Buffer], table: Option<u64>) -> u16 {
        let count = if table.is_some() { 1 } else { buffers.len() };
        let indexes: Vec<u16> =
            (0..count).map(|_| self.free.pop().expect("a free descriptor")).collect();
        match table {
            Some(table) => {
                let order: Vec<u16> = (0..buffers.len() as u16).collect();
                write_chain(memory, table, buffers, &order);
                let len = 16 * buffers.len() as u32;
                self.put_descriptor(memory, indexes[0], (table, len, F_INDIRECT, 0));
            }
            None => write_chain(memory, self.descriptors, buffers, &indexes),
        }
        let head = indexes[0];
        self.chains.insert(head, indexes);
        self.put_available(memory, head);
        head
    }

    /// Shows what was added to the device; true when it wants a kick.
    pub fn publish(&mut self, memory: &GuestMemory) -> bool {
        memory.store_u16(self.available + 2, self.next);
        fence(Ordering::SeqCst);
        let (old, new) = (self.kicked, self.next);
        self.kicked = new;
        if old == new {
            return false;
        }
        if !self.event_idx {
            return memory.load_u16(self.used) & 1 == 0;
        }
        let event = memory.load_u16(self.used + 4 + 8 * u64::from(self.size));
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Sets the available index without entering anything.
    pub fn jump_available(&mut self, memory: &GuestMemory, by: u16) {
        self.next = self.next.wrapping_add(by);
        memory.store_u16(self.available + 2, self.next);
    }

    /// Asks for no interrupts, or for interrupts (without event indexes).
    pub fn set_no_interrupt(&self, memory: &GuestMemory, no: bool) {
        memory.store_u16(self.available, u16::from(no));
    }

    /// Asks for an interrupt when the used index passes `event`.
    pub fn set_used_event(&self, memory: &GuestMemory, event: u16) {
        memory.store_u16(self.available + 4 + 2 * u64::from(self.size), event);
    }

    /// The index that says what is available.
    pub fn available_index(&self, memory: &GuestMemory) -> u16 {
        memory.load_u16(self.available + 2)
    }

    /// The used index as the device published it.
    pub fn used_index(&self, memory: &GuestMemory) -> u16 {
        memory.load_u16(self.used + 2)
    }

    /// The used index up to which elements were taken.
    pub fn last_used(&self) -> u16 {
        self.last_used
    }

    /// Used elements that are visible and not taken.
    pub fn waiting(&self, memory: &GuestMemory) -> u16 {
        self.used_index(memory).wrapping_sub(self.last_used)
    }

    /// The used element `ahead` positions behind the next one: head and length.
    pub fn peek(&self, memory: &GuestMemory, ahead: u16) -> (u16, u32) {
        let slot = u64::from(self.last_used.wrapping_add(ahead) & (self.size - 1));
        let bytes = memory.read(self.used + 4 + 8 * slot, 8);
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        (u16::try_from(word(0)).expect("a head of 16 bits"), word(4))
    }

    /// Takes the next used element and frees its descriptors.
    pub fn take_used(&mut self, memory: &GuestMemory) -> Option<(u16, u32)> {
        if self.waiting(memory) == 0 {
            return None;
        }
        let (head, len) = self.peek(memory, 0);
        self.last_used = self.last_used.wrapping_add(1);
        let indexes = self.chains.remove(&head).expect("a used head that was made available");
        self.free.extend(indexes.into_iter().rev());
        Some((head, len))
    }
}

/// Writes descriptor `index` of the table at `table`.
pub(crate) fn write_descriptor(
    memory: &GuestMemory,
    table: u64,
    index: u16,
    (guest, len, flags, next): (u64, u32, u16, u16),
) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&guest.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    memory.write(table + 16 * u64::from(index), &bytes);
}

fn write_chain(memory: &GuestMemory, table: u64, buffers: &[Buffer], indexes: &[u16]) {
    for (i, (buffer, &index)) in buffers.iter().zip(indexes).enumerate() {
        let next = indexes.get(i + 1);
        let flags = next.map_or(0, |_| F_NEXT) | if buffer.writable { F_WRITE } else { 0 };
        let next = next.copied().unwrap_or(0);
        write_descriptor(memory, table, index, (buffer.guest, buffer.len, flags, next));
    }
}
