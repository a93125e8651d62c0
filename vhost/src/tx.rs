//! The half that carries frames from the guest: its transmit ring.
//!
//! Each chain is a virtio header and a frame, cut over descriptors wherever the driver likes: the
//! header alone, half of it, or header and frame in one. A frame that cannot be one (shorter than an
//! Ethernet header, longer than the maximum, impossible offloads) is given back and counted; a chain
//! that breaks the rules of the ring stops the ring.
//!
//! [`take`](FromGuest::take) pops until the batch is full, the ring is empty, or [`WALK_BUDGET`]
//! descriptors were looked at: a driver that refills the ring with chains of no use cannot hold the
//! loop. Whatever is left is reported once more, by the device's own wake-up.
//!
//! A ring that runs but is not enabled is consumed and its frames are dropped (vhost-user, "Ring
//! states").

use passt_frame::net_header::{HEADER_BYTES, decode};
use passt_frame::{FromGuest, FromGuestBatch, GuestIovec, MAX_FRAME_BYTES};

use crate::mem::Span;
use crate::ring::{Chain, Direction, MAX_PIECES, Ring, RingFault};
use crate::run::Run;
use crate::vring::{Vring, VringUser};

/// Descriptors that one take looks at.
const WALK_BUDGET: u32 = 65_536;

/// Shortest frame: an Ethernet header.
const MIN_BYTES: u64 = 14;

/// Named counts of the transmit side.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TxCounters {
    /// Frames handed to the engine.
    pub(crate) frames: u64,
    /// Shorter than virtio and Ethernet header.
    pub(crate) too_short: u64,
    /// Longer than the largest frame.
    pub(crate) too_long: u64,
    /// In more pieces than a batch takes.
    pub(crate) too_scattered: u64,
    /// Impossible or not negotiated offloads.
    pub(crate) bad_header: u64,
    /// Sent while the ring was disabled.
    pub(crate) disabled: u64,
}

impl TxCounters {
    /// Adds the counts of another half.
    pub(crate) fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.too_short += other.too_short;
        self.too_long += other.too_long;
        self.too_scattered += other.too_scattered;
        self.bad_header += other.bad_header;
        self.disabled += other.disabled;
    }
}

/// The transmit half of a queue pair.
pub(crate) struct TxHalf {
    /// Its vring.
    pub(crate) vring: Vring,
    /// Named counts.
    pub(crate) counters: TxCounters,
    /// Chains were left in the ring.
    unannounced: bool,
    /// Bytes of frames that were taken since the driver was told last.
    untold_bytes: u64,
    /// The lists below have their memory, for a ring of this size.
    prepared: bool,
    /// Heads of taken chains, in order.
    taken: Vec<u16>,
    pieces: Vec<Span>,
    lent: Vec<GuestIovec>,
}

/// What became of a chain.
enum Popped {
    /// The batch has it, or it was dropped.
    Done(Chain),
    /// It does not fit in the batch.
    Full,
}

impl VringUser for TxHalf {
    fn vring(&self) -> &Vring {
        &self.vring
    }

    fn vring_mut(&mut self) -> &mut Vring {
        &mut self.vring
    }

    fn direction(&self) -> Direction {
        Direction::Readable
    }

    fn on_start(&mut self) {
        self.prepared = false;
    }

    fn on_end(&mut self) {
        self.taken.clear();
        self.unannounced = false;
    }
}

impl TxHalf {
    /// A half whose ring does not run.
    pub(crate) fn new(vring: Vring) -> Self {
        Self {
            vring,
            counters: TxCounters::default(),
            unannounced: false,
            untold_bytes: 0,
            prepared: false,
            taken: Vec::new(),
            pieces: Vec::new(),
            lent: Vec::new(),
        }
    }

    /// Allocates all that the data path needs, once.
    pub(crate) fn prepare(&mut self) {
        let Some(ring) = self.vring.run.ring().filter(|_| !self.prepared) else { return };
        self.taken.reserve_exact(usize::from(ring.size()));
        self.pieces.reserve_exact(MAX_PIECES);
        self.lent.reserve_exact(MAX_PIECES);
        self.prepared = true;
    }

    /// Whether the driver has made chains available that were not taken.
    pub(crate) fn is_waiting(&mut self) -> bool {
        self.vring.run.ring_mut().is_some_and(|ring| ring.refresh() == Ok(true))
    }

    /// Drops all frames of a ring that runs but is not enabled.
    pub(crate) fn drain_disabled(&mut self) {
        if self.vring.enabled {
            return;
        }
        let Some(ring) = self.vring.run.ring_mut() else { return };
        match drain(ring) {
            Ok(count) => self.counters.disabled += count,
            Err(fault) => self.fail(fault),
        }
        self.unannounced = self.has_pending();
    }

    /// Whether frames may be waiting: the ring runs and lets them through.
    pub(crate) fn may_have_frames(&self) -> bool {
        self.vring.is_up()
    }

    /// Whether the last look at the ring left chains that no kick will announce. Says so once: who
    /// then leaves them there comes back by itself.
    pub(crate) fn take_unannounced(&mut self) -> bool {
        std::mem::take(&mut self.unannounced)
    }

    /// Whether [`take_unannounced`](Self::take_unannounced) will say so.
    pub(crate) fn is_unannounced(&self) -> bool {
        self.unannounced
    }

    /// Bytes of frames that were taken since the driver was told last.
    pub(crate) fn untold_bytes(&self) -> u64 {
        self.untold_bytes
    }

    /// The driver was told, or does not want to be.
    pub(crate) fn tell_bytes(&mut self) {
        self.untold_bytes = 0;
    }

    fn has_pending(&self) -> bool {
        self.vring.run.ring().is_some_and(Ring::has_pending)
    }

    fn fill(&mut self, ring: &mut Ring, batch: &mut FromGuestBatch) -> Result<(), RingFault> {
        let mut budget = WALK_BUDGET;
        ring.refresh()?;
        while budget > 0 && batch.has_room(1) && self.taken.len() < usize::from(ring.size()) {
            if !ring.has_pending() && !ring.ask_for_kick()? {
                return Ok(());
            }
            let Some(head) = ring.pop()? else { return Ok(()) };
            match self.add_chain(ring, head, batch) {
                Ok(Popped::Done(chain)) => {
                    budget = budget.saturating_sub(chain.descriptors.max(1));
                }
                // What is before a chain that stops the ring is used up first.
                Err(fault) if self.taken.is_empty() => return Err(fault),
                Ok(Popped::Full) | Err(_) => {
                    ring.unpop(1);
                    return Ok(());
                }
            }
            self.taken.push(head);
        }
        if batch.is_empty() && !ring.has_pending() {
            // All were discarded: nobody comes back for the next batch.
            ring.ask_for_kick()?;
        }
        Ok(())
    }

    /// Puts the frame of one chain into the batch, or drops it under a name.
    fn add_chain(
        &mut self,
        ring: &Ring,
        head: u16,
        batch: &mut FromGuestBatch,
    ) -> Result<Popped, RingFault> {
        self.pieces.clear();
        let chain = ring.walk(&self.vring.memory, head, &mut self.pieces, MAX_PIECES)?;
        let done = Ok(Popped::Done(chain));
        let counters = &mut self.counters;
        let header_bytes = self.vring.features.header_bytes();
        let Some(len) = chain.bytes.checked_sub(header_bytes as u64).filter(|&n| n >= MIN_BYTES)
        else {
            counters.too_short += 1;
            return done;
        };
        if len > u64::from(MAX_FRAME_BYTES) {
            counters.too_long += 1;
            return done;
        }
        if chain.cut {
            counters.too_scattered += 1;
            return done;
        }
        let header = split_header(&self.pieces, header_bytes, &mut self.lent);
        let Some(meta) = decode(&header, len as u32, self.vring.features.accepted()) else {
            counters.bad_header += 1;
            return done;
        };
        if !batch.add_frame(&self.lent, meta) {
            return Ok(Popped::Full);
        }
        counters.frames += 1;
        self.untold_bytes += len;
        done
    }
}

/// Copies the virtio header, which has `len` bytes, out of the first pieces and leaves the frame's in `lent`.
fn split_header(pieces: &[Span], len: usize, lent: &mut Vec<GuestIovec>) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let mut filled = 0;
    lent.clear();
    for piece in pieces {
        let (front, rest) = piece.split_at((len - filled) as u32);
        filled += front.read(&mut header[filled..len]);
        if rest.len() > 0 {
            lent.push(rest.lend());
        }
    }
    header
}

/// Gives everything that is available now back unread; returns how many chains that were.
fn drain(ring: &mut Ring) -> Result<u64, RingFault> {
    let mut count = 0;
    ring.refresh()?;
    while let Some(head) = ring.pop()? {
        ring.put_used(head, 0);
        count += 1;
    }
    ring.settle();
    ring.ask_for_kick()?;
    Ok(count)
}

// SAFETY: pieces lie in regions that `self.vring.memory` keeps mapped. It is replaced only by control
// messages, which need the device through `&mut`; the chains are given back in `release` only.
unsafe impl FromGuest for TxHalf {
    fn take(&mut self, batch: &mut FromGuestBatch) {
        if !self.vring.enabled {
            return self.drain_disabled();
        }
        let Some(mut ring) = self.vring.run.take() else { return };
        let result = self.fill(&mut ring, batch);
        self.vring.run = Run::Running(ring);
        if let Err(fault) = result {
            self.fail(fault);
        }
        self.unannounced = self.has_pending();
    }

    fn release(&mut self) {
        let Some(ring) = self.vring.run.ring_mut() else { return };
        ring.settle();
        for &head in &self.taken {
            ring.put_used(head, 0);
        }
        self.taken.clear();
    }
}
