//! Queue pairs (virtio 1.2, section 5.1.2): each is a receive and a transmit ring, and all of them
//! together are the two halves of the link.
//!
//! The link has one direction in each of its halves, a pair has both, and a lease on frames from the
//! guest may exist together with one on room to the guest. Therefore the halves of a pair stand in cells:
//! [`FromPairs`] borrows transmit halves, [`ToPairs`] receive halves, each for the length of one call.
//!
//! # Which pair
//! A batch holds frames of one pair, whose number goes with it; pairs take turns. A reservation goes to
//! the pair that was [selected](ToGuest::select), or to the first that is usable when that one is not: the
//! guest uses fewer pairs than there are, or the front-end has stopped or disabled it.
//!
//! # What is not looked at
//! Most guests use one pair, so a turn of the loop looks at those pairs only that have been *touched* since
//! the last flush, or *wait*: their driver has kicked them and nobody has found them empty since. And what
//! the data path of a pair needs is allocated when its driver kicks it for the first time, however many
//! pairs the front-end starts.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use passt_frame::{Caps, FrameDone, FromGuest, FromGuestBatch, Stopped, ToGuest, ToGuestList};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::moderation::{Moderation, Untold};
use crate::rx::RxHalf;
use crate::tx::TxHalf;
use crate::vring::Vring;

/// Most queue pairs: as many as one worker can make use of, and a front-end of many processors needs.
pub(crate) const MAX_PAIRS: usize = 8;

/// One bit for each pair.
type Mask = u8;

const _: () = assert!(MAX_PAIRS == Mask::BITS as usize);

/// The pairs of a mask.
fn pairs_of(mut mask: Mask) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let pair = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (pair < MAX_PAIRS).then_some(pair)
    })
}

/// A receive ring, a transmit ring, and what is kept back of the latter's notifications.
pub(crate) struct QueuePair {
    /// Frames to the guest.
    pub(crate) rx: RefCell<RxHalf>,
    /// Frames from the guest.
    pub(crate) tx: RefCell<TxHalf>,
    moderation: RefCell<Moderation>,
}

/// What a flush has left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// When to flush again at the latest.
    pub(crate) again: Option<Duration>,
    /// A ring has chains that no kick will announce, or has stopped by itself.
    pub(crate) unannounced: bool,
}

impl QueuePair {
    fn new(memory: &GuestMemoryAtomic<GuestMemoryMmap>) -> Result<Self, virtio_queue::Error> {
        Ok(Self {
            rx: RefCell::new(RxHalf::new(Vring::new(memory.clone())?)),
            tx: RefCell::new(TxHalf::new(Vring::new(memory.clone())?)),
            moderation: RefCell::default(),
        })
    }

    /// Publishes used buffers of both rings and notifies the drivers that want it. With a time, a
    /// notification of the transmit ring that may wait is kept back.
    fn flush(&self, now: Option<Duration>) -> Flushed {
        let (mut rx, mut tx) = (self.rx.borrow_mut(), self.tx.borrow_mut());
        tx.vring.publish();
        rx.vring.publish();
        let received = rx.take_untold_bytes();
        let woken = rx.vring.wants_call();
        if woken {
            rx.vring.notify();
        }
        let mut moderation = self.moderation.borrow_mut();
        if let Some(now) = now {
            moderation.observe(now, Untold { transmitted: tx.untold_bytes(), received });
        }
        let mut again = None;
        if tx.vring.wants_call() {
            again = now.and_then(|now| moderation.hold(now, woken));
            if again.is_none() {
                tx.vring.notify();
            }
        }
        if again.is_none() {
            moderation.clear();
            tx.tell_bytes();
        }
        let news = rx.vring.has_news() || tx.vring.has_news();
        Flushed { again, unannounced: tx.take_unannounced() || news }
    }
}

/// All pairs of a device.
pub(crate) struct Pairs {
    list: [QueuePair; MAX_PAIRS],
    /// Pairs that may have something to publish or to tell.
    touched: Cell<Mask>,
    /// Pairs that may have frames from the guest.
    waiting: Cell<Mask>,
    /// How many of the pairs the driver has said that it uses; all if it has no way to tell us.
    in_use: Cell<usize>,
}

impl Pairs {
    /// Pairs whose rings do not run.
    ///
    /// # Errors
    /// Never with the built-in ring size; the queue types check it.
    pub(crate) fn new(
        memory: &GuestMemoryAtomic<GuestMemoryMmap>,
    ) -> Result<Self, virtio_queue::Error> {
        let mut list = Vec::with_capacity(MAX_PAIRS);
        for _ in 0..MAX_PAIRS {
            list.push(QueuePair::new(memory)?);
        }
        let Ok(list) = list.try_into() else { unreachable!("as many as were pushed") };
        Ok(Self {
            list,
            touched: Cell::new(0),
            waiting: Cell::new(0),
            in_use: Cell::new(MAX_PAIRS),
        })
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[QueuePair; MAX_PAIRS] {
        &self.list
    }

    /// The driver uses the first `pairs` pairs, or does not say.
    pub(crate) fn set_in_use(&self, pairs: Option<u8>) {
        self.in_use.set(pairs.map_or(MAX_PAIRS, usize::from));
    }

    /// The first pair through which frames can reach the guest.
    fn first_up(&self) -> Option<usize> {
        (0..self.in_use.get()).find(|&pair| self.list[pair].rx.borrow().is_up())
    }

    /// Whether frames can reach the guest.
    pub(crate) fn is_up(&self) -> bool {
        self.first_up().is_some()
    }

    /// Prepares the pair that serves for those that cannot.
    pub(crate) fn prepare_first(&self) {
        if let Some(pair) = self.first_up() {
            self.list[pair].rx.borrow_mut().prepare();
        }
    }

    fn touch(&self, pair: usize) {
        self.touched.set(self.touched.get() | 1 << pair);
    }

    /// Looks at a transmit ring that was kicked, or has changed; true when there may be frames for the engine. If it is
    /// disabled they are dropped, but nothing is written to a disabled ring that has nothing new: its driver may have
    /// left it, and its memory may be somebody else's.
    pub(crate) fn look(&self, pair: usize, kicked: bool) -> bool {
        let mut tx = self.list[pair].tx.borrow_mut();
        self.touch(pair);
        if kicked || self.waiting.get() & 1 << pair != 0 {
            tx.drain_disabled();
        }
        let up = tx.may_have_frames();
        if up && (kicked || tx.is_waiting()) {
            tx.prepare();
            self.list[pair].rx.borrow_mut().prepare();
        }
        if up || tx.is_unannounced() {
            self.waiting.set(self.waiting.get() | 1 << pair);
        }
        up
    }

    /// Whether frames may be waiting in a pair that was looked at.
    pub(crate) fn may_have_frames(&self) -> bool {
        self.waiting.get() != 0
    }

    /// Whether there is more room than when a reservation was short: in this pair, or in another that serves in
    /// its place now. Says so once.
    pub(crate) fn take_room(&self, pair: usize) -> bool {
        let mut rx = self.list[pair].rx.borrow_mut();
        if self.serves(pair, &rx) {
            let room = rx.take_room();
            // It may have broken just now.
            if room || self.serves(pair, &rx) {
                return room;
            }
        }
        drop(rx);
        self.is_up() && self.list[pair].rx.borrow_mut().settle_elsewhere()
    }

    /// Whether frames for `pair` go through its receive half `rx`.
    fn serves(&self, pair: usize, rx: &RxHalf) -> bool {
        pair < self.in_use.get() && rx.is_up()
    }

    /// Publishes and notifies for all pairs that were touched.
    pub(crate) fn flush(&self, now: Option<Duration>) -> Flushed {
        let mut all = Flushed::default();
        for pair in pairs_of(self.touched.replace(0)) {
            let flushed = self.list[pair].flush(now);
            if flushed.again.is_some() {
                self.touch(pair);
            }
            all.again = [all.again, flushed.again].into_iter().flatten().min();
            all.unannounced |= flushed.unannounced;
        }
        all
    }

    /// Takes the next batch, of a pair that waits, beginning with `first`; returns which.
    fn take(&self, first: usize, batch: &mut FromGuestBatch) -> Option<usize> {
        for step in pairs_of(self.waiting.get().rotate_right(first as u32)) {
            let pair = (first + step) % MAX_PAIRS;
            let mut tx = self.list[pair].tx.borrow_mut();
            self.touch(pair);
            tx.take(batch);
            if !batch.is_empty() {
                batch.set_queue(pair as u8);
                return Some(pair);
            }
            tx.release();
            if !tx.is_unannounced() {
                self.waiting.set(self.waiting.get() & !(1 << pair));
            }
        }
        None
    }
}

/// The half of the link that carries frames from the guest.
pub(crate) struct FromPairs {
    pairs: Rc<Pairs>,
    /// Whose turn is next.
    next: usize,
    /// Whose frames are lent.
    taken: Option<usize>,
}

impl FromPairs {
    /// The transmit halves of `pairs`.
    pub(crate) fn new(pairs: Rc<Pairs>) -> Self {
        Self { pairs, next: 0, taken: None }
    }
}

// SAFETY: as for the halves; one is lent at a time, and all are replaced or stopped only by control
// messages, which need the device through `&mut`.
unsafe impl FromGuest for FromPairs {
    fn take(&mut self, batch: &mut FromGuestBatch) {
        self.taken = self.pairs.take(self.next, batch);
        if let Some(pair) = self.taken {
            self.next = (pair + 1) % MAX_PAIRS;
        }
    }

    fn release(&mut self) {
        if let Some(pair) = self.taken.take() {
            self.pairs.list[pair].tx.borrow_mut().release();
        }
    }
}

/// The half of the link that carries frames to the guest.
pub(crate) struct ToPairs {
    pairs: Rc<Pairs>,
    /// Where frames are to go.
    selected: usize,
    /// Where the reservation is.
    reserved: usize,
}

impl ToPairs {
    /// The receive halves of `pairs`.
    pub(crate) fn new(pairs: Rc<Pairs>) -> Self {
        Self { pairs, selected: 0, reserved: 0 }
    }

    /// Where frames go, whether they get through or not.
    fn pair(&self) -> usize {
        if self.selected < self.pairs.in_use.get() {
            let rx = self.pairs.list[self.selected].rx.borrow();
            if rx.is_up() && rx.is_prepared() {
                return self.selected;
            }
        }
        self.pairs.first_up().unwrap_or(0)
    }
}

// SAFETY: as for the halves; one is lent at a time, and all are replaced or stopped only by control
// messages, which need the device through `&mut`.
unsafe impl ToGuest for ToPairs {
    fn caps(&self) -> Caps {
        self.pairs.list[self.pair()].rx.borrow().caps()
    }

    fn select(&mut self, queue: u8) {
        self.selected = usize::from(queue).min(MAX_PAIRS - 1);
    }

    fn reserve(&mut self, list: &mut ToGuestList) -> Stopped {
        self.reserved = self.pair();
        self.pairs.touch(self.reserved);
        let mut rx = self.pairs.list[self.reserved].rx.borrow_mut();
        // Not on the packet path: it does something only when the pair before has broken just now.
        rx.prepare();
        let stopped = rx.reserve(list);
        drop(rx);
        match stopped {
            // The ring broke just now. The link is not down, so it owes a report: that others serve in its place.
            Stopped::Down if self.pairs.is_up() => {
                self.pairs.list[self.reserved].rx.borrow_mut().refuse()
            }
            other => other,
        }
    }

    fn commit(&mut self, list: &ToGuestList, done: &[FrameDone]) {
        self.pairs.list[self.reserved].rx.borrow_mut().commit(list, done);
    }

    fn cancel(&mut self, list: &ToGuestList) {
        self.pairs.list[self.reserved].rx.borrow_mut().cancel(list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_a_set_of_pairs() {
        for mask in 0..=Mask::MAX {
            let listed: Vec<usize> = pairs_of(mask).collect();
            let wanted: Vec<usize> =
                (0..MAX_PAIRS).filter(|pair| mask & (1 << pair) != 0).collect();
            assert_eq!(listed, wanted, "{mask:#b}");
        }
    }
}
