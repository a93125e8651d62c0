//! The half that carries frames to the guest: its receive ring.
//!
//! A reservation pops as many buffers as the frames asked for need and no more. With mergeable
//! buffers (virtio 1.2, section 5.1.6.3.1) a frame takes several; without, one must do. The virtio
//! header goes in front of the first buffer, wherever its descriptors cut it.
//!
//! # Buffers that were reserved but not needed
//! A reservation is committed in part as a rule: a datagram was shorter than the room kept for it.
//! Buffers behind the last one used are un-popped. Those *between* used ones cannot be, as the
//! available ring is consumed in order; they wait in `spare` and serve the next reservation first.
//! When the ring stops, spare buffers go back with a length of zero, which drivers drop; without
//! that, the guest would lose them at each migration.
//!
//! # Room
//! Kicks of this ring are unwanted as long as there are buffers. Only a reservation that is short asks for
//! one, and [`PortEvents::room`](passt_frame::PortEvents) follows when the available index has moved on from
//! where it stood then. If somebody else has used what came before the report, the kick that came with it
//! is spent, and another one is asked for.
//!
//! A frame that has to be whole gets all its buffers or none. It *never* fits if it is larger than one
//! buffer, without mergeable ones, or than the ring: what the driver offers now, and as much again in each
//! entry of the table that is not in use, by the largest buffer there is. A driver that could offer as much
//! and never does keeps its datagrams waiting; drivers fill their ring, if not at once.

use std::collections::VecDeque;

use passt_frame::net_header::{HEADER_BYTES, encode};
use passt_frame::{
    Caps, FrameDone, GuestIovec, MAX_FRAMES, MAX_TO_GUEST_IOVECS, MIN_FRAME_BYTES, RoomDebt,
    Stopped, ToGuest, ToGuestList,
};

use crate::dirty_log::DirtyLog;
use crate::mem::Span;
use crate::ring::{Chain, Direction, Ring, RingFault};
use crate::run::Run;
use crate::vring::{Vring, VringUser};

/// Descriptors that one reservation looks at.
const WALK_BUDGET: u32 = 65_536;

/// Named counts of the receive side.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RxCounters {
    /// Frames handed to the guest.
    pub(crate) frames: u64,
    /// Reservations for which the driver had too few buffers.
    pub(crate) starved: u64,
    /// Frames committed to a ring that had broken in between.
    pub(crate) lost: u64,
}

impl RxCounters {
    /// Adds the counts of another half.
    pub(crate) fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.starved += other.starved;
        self.lost += other.lost;
    }
}

/// A reserved buffer: one chain of the ring.
#[derive(Clone, Copy)]
struct Buffer {
    head: u16,
    bytes: u32,
}

/// A reserved frame: how many buffers it has, and how many pieces hold its virtio header.
#[derive(Clone, Copy)]
struct Reserved {
    buffers: usize,
    header_pieces: usize,
}

/// What the buffers of one frame say of the driver's.
#[derive(Clone, Copy, Default)]
struct Offer {
    bytes: u64,
    /// Entries of the ring's table that they occupy.
    entries: u32,
    /// Most bytes for each entry in one of them.
    largest: u64,
}

impl Offer {
    fn add(&mut self, chain: &Chain) {
        self.bytes += chain.bytes;
        self.entries += chain.entries;
        // As a rule there is nothing to divide.
        let each = match chain.entries {
            1 => chain.bytes,
            entries => chain.bytes.div_ceil(u64::from(entries.max(1))),
        };
        self.largest = self.largest.max(each);
    }

    /// Bytes that a driver with `entries` entries could offer at once.
    fn at_most(&self, entries: u16) -> u64 {
        let unused = u32::from(entries).saturating_sub(self.entries);
        self.bytes + u64::from(unused) * self.largest
    }
}

/// The receive half of a queue pair.
pub(crate) struct RxHalf {
    /// Its vring.
    pub(crate) vring: Vring,
    /// Whether a reservation was short.
    debt: RoomDebt,
    /// The available index that a report of room was promised at.
    seen: u16,
    /// The ring ran out of buffers in this reservation.
    dry: bool,
    /// Named counts.
    pub(crate) counters: RxCounters,
    /// Bytes of frames since the last [`take_untold_bytes`](Self::take_untold_bytes).
    untold_bytes: u64,
    /// Buffers popped earlier and not needed, oldest first.
    spare: VecDeque<u16>,
    /// How many of the spare buffers are reserved now.
    spare_reserved: usize,
    /// The lists below have their memory, for a ring of this size.
    prepared: bool,
    /// Descriptors that this reservation may still look at.
    budget: u32,
    /// Of the frame that was gathered last.
    offer: Offer,
    buffers: Vec<Buffer>,
    frames: Vec<Reserved>,
    headers: Vec<Span>,
    pieces: Vec<Span>,
    lent: Vec<GuestIovec>,
}

impl VringUser for RxHalf {
    fn vring(&self) -> &Vring {
        &self.vring
    }

    fn vring_mut(&mut self) -> &mut Vring {
        &mut self.vring
    }

    fn direction(&self) -> Direction {
        Direction::Writable
    }

    fn on_start(&mut self) {
        if let Some(ring) = self.vring.run.ring_mut() {
            ring.forgo_kicks();
        }
        self.spare_reserved = 0;
        // A report that was promised before the ring stopped is due with the first buffer of the new one.
        self.seen = self.vring.base().wrapping_sub(1);
        self.prepared = false;
    }

    /// Gives spare buffers back empty.
    fn on_stop(&mut self) {
        if let Some(ring) = self.vring.run.ring_mut() {
            for head in self.spare.drain(..) {
                ring.put_used(head, 0);
            }
        }
    }

    fn on_end(&mut self) {
        self.clear();
        self.spare.clear();
    }
}

impl RxHalf {
    /// A half whose ring does not run.
    pub(crate) fn new(vring: Vring) -> Self {
        Self {
            vring,
            debt: RoomDebt::default(),
            seen: 0,
            dry: false,
            counters: RxCounters::default(),
            untold_bytes: 0,
            spare: VecDeque::new(),
            spare_reserved: 0,
            prepared: false,
            budget: 0,
            offer: Offer::default(),
            buffers: Vec::new(),
            frames: Vec::new(),
            headers: Vec::new(),
            pieces: Vec::new(),
            lent: Vec::new(),
        }
    }

    /// Whether frames can reach the guest.
    pub(crate) fn is_up(&self) -> bool {
        self.vring.is_up()
    }

    /// Whether [`prepare`](Self::prepare) was called since the ring started.
    pub(crate) fn is_prepared(&self) -> bool {
        self.prepared
    }

    /// Allocates all that the data path needs, once.
    pub(crate) fn prepare(&mut self) {
        let Some(ring) = self.vring.run.ring().filter(|_| !self.prepared) else { return };
        self.spare.reserve_exact(usize::from(ring.size()));
        self.buffers.reserve_exact(MAX_TO_GUEST_IOVECS + MAX_FRAMES * HEADER_BYTES);
        self.frames.reserve_exact(MAX_FRAMES);
        self.headers.reserve_exact(MAX_FRAMES * HEADER_BYTES);
        self.pieces.reserve_exact(MAX_TO_GUEST_IOVECS + HEADER_BYTES);
        self.lent.reserve_exact(MAX_TO_GUEST_IOVECS);
        self.prepared = true;
    }

    /// Bytes of frames that the driver is about to be told of, if it wants to be.
    pub(crate) fn take_untold_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.untold_bytes)
    }

    /// Nobody gets room here, and another pair has some: that is to be reported.
    pub(crate) fn refuse(&mut self) -> Stopped {
        Stopped::Short(self.debt.owe())
    }

    /// Another pair has room in place of this one, which is out of use. Whether that is to be reported.
    pub(crate) fn settle_elsewhere(&mut self) -> bool {
        self.debt.settle()
    }

    /// Whether there is more room than when a reservation was short. Says so once.
    pub(crate) fn take_room(&mut self) -> bool {
        if !self.debt.is_owed() || !self.is_up() {
            return false;
        }
        let Some(ring) = self.vring.run.ring_mut() else { return false };
        match has_grown(ring, &mut self.seen) {
            Ok(true) => {
                ring.forgo_kicks();
                self.debt.settle()
            }
            Ok(false) => false,
            Err(fault) => {
                self.fail(fault);
                false
            }
        }
    }

    /// Bytes of the virtio header.
    fn header_bytes(&self) -> usize {
        self.vring.features.header_bytes()
    }

    fn clear(&mut self) {
        self.buffers.clear();
        self.frames.clear();
        self.headers.clear();
        self.spare_reserved = 0;
    }

    /// The next buffer: a spare one, else one of the ring, else `None` after asking for a kick. The
    /// ring is `dry` then.
    fn next_head(&mut self, ring: &mut Ring) -> Result<Option<u16>, RingFault> {
        if let Some(&head) = self.spare.get(self.spare_reserved) {
            self.spare_reserved += 1;
            return Ok(Some(head));
        }
        if !ring.has_pending() && !ring.refresh()? && !ring.ask_for_kick()? {
            self.dry = true;
            return Ok(None);
        }
        ring.pop()
    }

    /// Undoes the last [`next_head`](Self::next_head), whose buffer is not in `buffers`.
    fn put_back(&mut self, ring: &mut Ring) {
        if self.buffers.len() < self.spare_reserved {
            self.spare_reserved -= 1;
        } else {
            ring.unpop(1);
        }
    }

    fn gather(&mut self, ring: &mut Ring, list: &mut ToGuestList) -> Result<Stopped, RingFault> {
        let mut room = MAX_TO_GUEST_IOVECS;
        self.budget = WALK_BUDGET;
        self.dry = false;
        while let Some(wanted) = list.open_frame() {
            // One piece more than there are: the border of header and payload may cut one in two.
            let Some(limit) = room.checked_sub(1).filter(|&n| n > 0) else { break };
            let Some(frame) = self.gather_frame(ring, wanted, limit)? else {
                return Ok(if self.dry { self.short(ring) } else { Stopped::Ended });
            };
            if !list.add_frame(&self.lent) {
                return self.refuse_frame(ring, frame, wanted, list);
            }
            room -= self.lent.len() + 1;
            self.frames.push(frame);
        }
        Ok(Stopped::Ended)
    }

    /// The driver has too few buffers for what is wanted, and a kick was asked for. Who was promised a
    /// report before may have been short of less, and what came since is news to them.
    fn short(&mut self, ring: &Ring) -> Stopped {
        self.counters.starved += 1;
        if !self.debt.is_owed() {
            self.seen = ring.available();
        }
        Stopped::Short(self.debt.owe())
    }

    /// Pops buffers for one frame of `wanted` bytes. `None` when there is not a single one.
    fn gather_frame(
        &mut self,
        ring: &mut Ring,
        wanted: u32,
        limit: usize,
    ) -> Result<Option<Reserved>, RingFault> {
        let first = self.buffers.len();
        let needed = u64::from(wanted) + self.header_bytes() as u64;
        let mut bytes = 0u64;
        self.offer = Offer::default();
        self.pieces.clear();
        while bytes < needed && self.budget > 0 {
            let Some(head) = self.next_head(ring)? else { break };
            let before = self.pieces.len();
            let limit = limit + HEADER_BYTES;
            let chain = ring.walk(&self.vring.memory, head, &mut self.pieces, limit)?;
            self.budget = self.budget.saturating_sub(chain.descriptors);
            if chain.bytes == 0 {
                return Err(RingFault::TooSmall(head));
            }
            if chain.cut && before > 0 {
                self.pieces.truncate(before);
                self.put_back(ring);
                break;
            }
            let len = pieces_bytes(&self.pieces[before..]);
            bytes += u64::from(len);
            self.offer.add(&chain);
            self.buffers.push(Buffer { head, bytes: len });
            if chain.cut || !self.vring.features.mergeable() {
                break;
            }
        }
        let buffers = self.buffers.len() - first;
        if buffers == 0 {
            return Ok(None);
        }
        let header_pieces = self.split_header(limit);
        Ok(Some(Reserved { buffers, header_pieces }))
    }

    /// Sets the pieces of the virtio header aside, lends the rest; returns how many were set aside.
    fn split_header(&mut self, limit: usize) -> usize {
        let before = self.headers.len();
        let mut left = self.header_bytes() as u32;
        self.lent.clear();
        for piece in &self.pieces {
            let (front, rest) = piece.split_at(left);
            left -= front.len();
            if front.len() > 0 {
                self.headers.push(front);
            }
            if rest.len() > 0 && self.lent.len() < limit {
                self.lent.push(rest.lend());
            }
        }
        self.headers.len() - before
    }

    /// Un-pops the buffers of a frame of `wanted` bytes that got too few, and says what that means. The
    /// ring is broken if there is no hope for any frame.
    fn refuse_frame(
        &mut self,
        ring: &mut Ring,
        frame: Reserved,
        wanted: u32,
        list: &ToGuestList,
    ) -> Result<Stopped, RingFault> {
        let head = self.buffers.last().map_or(0, |buffer| buffer.head);
        for _ in 0..frame.buffers {
            self.buffers.pop();
            self.put_back(ring);
        }
        self.headers.truncate(self.headers.len() - frame.header_pieces);
        let first = list.frames() == 0;
        let at_most = self.offer.at_most(ring.size());
        let header_bytes = self.header_bytes() as u64;
        let needed = |bytes: u32| u64::from(bytes) + header_bytes;
        if self.dry && (!first || at_most >= needed(wanted)) {
            return Ok(self.short(ring));
        }
        if self.dry && !self.debt.is_owed() {
            ring.forgo_kicks();
        }
        let least = list.request().header_len.max(MIN_FRAME_BYTES);
        let lent: usize = self.lent.iter().map(GuestIovec::len).sum();
        if first && lent < least as usize {
            Err(RingFault::TooSmall(head))
        } else {
            Ok(Stopped::Ended)
        }
    }

    /// Writes the header of a frame of `len` bytes and used elements for the buffers it fills;
    /// returns how many those are.
    fn finish_frame(
        ring: &mut Ring,
        buffers: &[Buffer],
        header: &[Span],
        len: u32,
        done: &FrameDone,
    ) -> usize {
        let mut left = len + pieces_bytes(header);
        let mut count = 0;
        for buffer in buffers {
            let filled = left.min(buffer.bytes);
            ring.put_used(buffer.head, filled);
            left -= filled;
            count += 1;
            if left == 0 {
                break;
            }
        }
        let bytes = encode(&done.meta, count as u16);
        let mut copied = 0;
        for piece in header {
            copied += piece.write(&bytes[copied..]);
        }
        count
    }

    /// Marks the bytes of the frames that are done, and their virtio headers, as written.
    fn mark(&self, log: &DirtyLog, list: &ToGuestList, done: &[FrameDone]) {
        let memory = &self.vring.memory;
        let mut headers = self.headers.iter();
        for (index, (frame, done)) in self.frames.iter().zip(done).enumerate() {
            for header in headers.by_ref().take(frame.header_pieces) {
                log.mark_host(memory, header.base(), header.len() as usize);
            }
            let mut left = list.frame_len(done.payload_len) as usize;
            for piece in list.pieces(index) {
                let len = piece.len().min(left);
                left -= len;
                log.mark_host(memory, piece.base(), len);
            }
        }
    }

    /// Settles the buffers up to the last used one; those not needed before it become spare, those
    /// behind it are un-popped.
    fn settle(&mut self, ring: &mut Ring, last_used: usize) {
        let from_spare = self.spare_reserved;
        self.spare.drain(..from_spare);
        let behind = self.buffers.len().saturating_sub(last_used.max(from_spare));
        ring.unpop(behind as u16);
        ring.settle();
        let kept = self.buffers.len() - behind;
        // What was not needed carries the mark that `commit` left: no bytes.
        for buffer in self.buffers[..kept].iter().rev().filter(|buffer| buffer.bytes == 0) {
            self.spare.push_front(buffer.head);
        }
    }
}

/// Whether chains came after `seen` and are still there. If not, a kick is asked for at the next one.
fn has_grown(ring: &mut Ring, seen: &mut u16) -> Result<bool, RingFault> {
    let pending = ring.refresh()?;
    if pending || ring.available() == *seen {
        return Ok(ring.available() != *seen);
    }
    let came = ring.ask_for_kick()?;
    *seen = ring.available();
    Ok(came)
}

fn pieces_bytes(pieces: &[Span]) -> u32 {
    pieces.iter().fold(0, |sum, piece| sum.saturating_add(piece.len()))
}

// SAFETY: pieces lie in regions that `self.vring.memory` keeps mapped. It is replaced only by control
// messages, which need the device through `&mut`; each popped buffer belongs to one frame only.
unsafe impl ToGuest for RxHalf {
    fn caps(&self) -> Caps {
        let features = self.vring.features;
        Caps {
            partial_checksum: features.guest_checksum(),
            gso: features.guest_gso(),
            up: self.is_up(),
        }
    }

    fn reserve(&mut self, list: &mut ToGuestList) -> Stopped {
        self.clear();
        if !self.is_up() {
            return Stopped::Down;
        }
        let Some(mut ring) = self.vring.run.take() else { return Stopped::Down };
        let result = self.gather(&mut ring, list);
        self.vring.run = Run::Running(ring);
        result.unwrap_or_else(|fault| {
            self.fail(fault);
            Stopped::Down
        })
    }

    fn commit(&mut self, list: &ToGuestList, done: &[FrameDone]) {
        let Some(mut ring) = self.vring.run.take() else {
            self.counters.lost += done.len() as u64;
            return;
        };
        let (mut buffer, mut piece, mut last_used) = (0, 0, 0);
        for (index, frame) in self.frames.iter().enumerate() {
            let range = buffer..buffer + frame.buffers;
            let header = &self.headers[piece..piece + frame.header_pieces];
            let mut used = 0;
            if let Some(done) = done.get(index) {
                let len = list.frame_len(done.payload_len).max(MIN_FRAME_BYTES);
                let buffers = &self.buffers[range.clone()];
                used = Self::finish_frame(&mut ring, buffers, header, len, done);
                last_used = buffer + used;
                self.counters.frames += 1;
                self.untold_bytes += u64::from(len);
            }
            for unneeded in &mut self.buffers[range.start + used..range.end] {
                unneeded.bytes = 0;
            }
            buffer = range.end;
            piece += frame.header_pieces;
        }
        if let Some(log) = &self.vring.log {
            self.mark(log, list, done);
        }
        self.settle(&mut ring, last_used);
        self.vring.run = Run::Running(ring);
        self.clear();
    }

    fn cancel(&mut self, _list: &ToGuestList) {
        if let Some(ring) = self.vring.run.ring_mut() {
            ring.rewind();
        }
        self.clear();
    }
}
