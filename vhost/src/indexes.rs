//! The indexes of a split ring and nothing else: how far the driver has come, how far we have, and what lies
//! between. They count chains modulo 2^16, whatever the size of the ring (virtio 1.2, section 2.7.6), so that
//! only their differences mean anything; a ring has at most 2^15 entries.
//!
//! Pure, and tested against counters that never wrap: every state of small rings, with everything that a
//! driver can say.

/// The indexes of one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Indexes {
    size: u16,
    /// First chain that is not settled.
    next_available: u16,
    /// First chain that is not popped.
    cursor: u16,
    /// Available index when it was last looked at.
    available: u16,
    /// Next used element to write.
    next_used: u16,
    /// Used index as the driver sees it.
    published: u16,
    /// Used index up to which the driver was notified, or did not want to be.
    told: u16,
    /// A chain was settled.
    moved: bool,
}

impl Indexes {
    /// Those of a ring of `size` entries that goes on at available index `base` and used index `used`.
    pub(crate) fn new(size: u16, base: u16, used: u16) -> Self {
        Self {
            size,
            next_available: base,
            cursor: base,
            available: base,
            next_used: used,
            published: used,
            told: used,
            moved: false,
        }
    }

    /// First chain that is not settled.
    pub(crate) fn base(&self) -> u16 {
        self.next_available
    }

    /// Whether any chain was settled.
    pub(crate) fn have_moved(&self) -> bool {
        self.moved
    }

    /// The available index when it was last looked at.
    pub(crate) fn available(&self) -> u16 {
        self.available
    }

    /// Next used element to write.
    pub(crate) fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Used index as the driver sees it.
    pub(crate) fn published(&self) -> u16 {
        self.published
    }

    /// Used index up to which nothing is left to say.
    pub(crate) fn told(&self) -> u16 {
        self.told
    }

    /// First chain that is not popped, if it is known to be there.
    pub(crate) fn pending(&self) -> Option<u16> {
        (self.cursor != self.available).then_some(self.cursor)
    }

    /// Takes over the driver's available index. False, and nothing changes, when it says that there are
    /// more chains than entries, or fewer than were popped.
    #[must_use]
    pub(crate) fn look(&mut self, available: u16) -> bool {
        let waiting = available.wrapping_sub(self.next_available);
        let popped = self.cursor.wrapping_sub(self.next_available);
        let right = (popped..=self.size).contains(&waiting);
        if right {
            self.available = available;
        }
        right
    }

    /// The pending chain is popped.
    pub(crate) fn pop(&mut self) {
        debug_assert!(self.cursor != self.available, "nothing to pop");
        self.cursor = self.cursor.wrapping_add(1);
    }

    /// Un-pops the last `count` chains.
    pub(crate) fn unpop(&mut self, count: u16) {
        debug_assert!(count <= self.cursor.wrapping_sub(self.next_available), "never popped");
        self.cursor = self.cursor.wrapping_sub(count);
    }

    /// Un-pops all chains that are not settled.
    pub(crate) fn rewind(&mut self) {
        self.cursor = self.next_available;
    }

    /// Takes the popped chains for good.
    pub(crate) fn settle(&mut self) {
        self.moved |= self.cursor != self.next_available;
        self.next_available = self.cursor;
    }

    /// A used element was written.
    pub(crate) fn put_used(&mut self) {
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Everything that was written is visible; true if that is news.
    #[must_use]
    pub(crate) fn publish(&mut self) -> bool {
        let news = self.published != self.next_used;
        self.published = self.next_used;
        news
    }

    /// Nothing is left to say of what is visible.
    pub(crate) fn tell(&mut self) {
        self.told = self.published;
    }
}

/// Whether the wish "notify me when the index passes `event`" is due after a step from `old` to `new`
/// (virtio 1.2, section 2.7.10).
pub(crate) fn passed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes whose states are all tried, and the largest that there is.
    const SMALL: [u16; 4] = [1, 2, 4, 8];
    const LARGEST: u16 = 1 << 15;

    /// Where indexes begin: at each distance to both wraps at which something can go wrong.
    fn bases(size: u16) -> impl Iterator<Item = u16> {
        let before = (0..=size).map(|back| 0u16.wrapping_sub(back));
        let middle = (0..=size).map(|back| LARGEST.wrapping_sub(back));
        before.chain(middle).chain([1, 255])
    }

    /// The states of the receiving side of a ring of `size` entries at `base`: chains that wait, and how
    /// many of them are popped.
    fn states(size: u16, base: u16) -> impl Iterator<Item = (Indexes, u16, u16)> {
        let pairs =
            (0..=size).flat_map(|waiting| (0..=waiting).map(move |popped| (waiting, popped)));
        pairs.map(move |(waiting, popped)| {
            let mut at = Indexes::new(size, base, base);
            assert!(at.look(base.wrapping_add(waiting)));
            (0..popped).for_each(|_| at.pop());
            (at, waiting, popped)
        })
    }

    #[test]
    fn every_available_index_is_judged_by_what_it_counts() {
        for size in SMALL {
            for base in bases(size) {
                for (at, _, popped) in states(size, base) {
                    for said in 0..=u16::MAX {
                        // What the driver has made available since the base, if it tells the truth.
                        let waiting = (u32::from(said) + 0x1_0000 - u32::from(base)) % 0x1_0000;
                        let right = (u32::from(popped)..=u32::from(size)).contains(&waiting);
                        let mut seen = at;
                        assert_eq!(seen.look(said), right, "{at:?} {said}");
                        if right {
                            assert_eq!((seen.available(), seen.base()), (said, base));
                            assert_eq!(seen.pending().is_some(), waiting > u32::from(popped));
                        } else {
                            assert_eq!(seen, at, "{said}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_ring_of_32768_entries_may_be_full() {
        for base in [0, 1, LARGEST - 1, LARGEST, LARGEST + 1, u16::MAX] {
            let mut at = Indexes::new(LARGEST, base, base);
            let full = base.wrapping_add(LARGEST);
            for beyond in 1..=LARGEST - 1 {
                assert!(!at.look(full.wrapping_add(beyond)), "{base} {beyond}");
            }
            assert!(at.look(full));
            for popped in 0..LARGEST {
                assert_eq!(at.pending(), Some(base.wrapping_add(popped)));
                at.pop();
            }
            assert_eq!((at.pending(), at.look(full)), (None, true));
            assert!(!at.look(full.wrapping_sub(1)), "fewer than were popped");
            at.settle();
            assert!(at.look(full.wrapping_add(LARGEST)));
        }
    }

    #[test]
    fn pop_unpop_rewind_and_settle_count_as_counters_do_that_never_wrap() {
        for size in SMALL {
            for base in bases(size) {
                for (at, waiting, popped) in states(size, base) {
                    let check = |at: &Indexes, settled: u16, popped: u16| {
                        let cursor = base.wrapping_add(popped);
                        assert_eq!(at.base(), base.wrapping_add(settled), "{at:?}");
                        assert_eq!(at.pending(), (popped < waiting).then_some(cursor), "{at:?}");
                    };
                    check(&at, 0, popped);
                    for count in 0..=popped {
                        let mut after = at;
                        after.unpop(count);
                        check(&after, 0, popped - count);
                        assert!(!after.have_moved());
                        after.settle();
                        assert_eq!(after.have_moved(), popped > count);
                        check(&after, popped - count, popped - count);
                        after.rewind();
                        check(&after, popped - count, popped - count);
                    }
                    let mut after = at;
                    after.rewind();
                    check(&after, 0, 0);
                }
            }
        }
    }

    #[test]
    fn used_elements_are_told_of_once() {
        for base in bases(8) {
            for written in 0..=8u16 {
                for published in 0..=written {
                    let mut at = Indexes::new(8, base, base);
                    for count in 0..written {
                        assert_eq!(at.next_used(), base.wrapping_add(count));
                        if count == published {
                            assert_eq!(at.publish(), published > 0);
                            at.tell();
                        }
                        at.put_used();
                    }
                    let before = if published < written { published } else { 0 };
                    assert_eq!(at.published(), base.wrapping_add(before));
                    assert_eq!(at.publish(), written > before);
                    assert_eq!(at.published().wrapping_sub(at.told()), written - before);
                    assert_eq!((at.told(), at.publish()), (base.wrapping_add(before), false));
                    at.tell();
                    assert_eq!((at.told(), at.published()), [base.wrapping_add(written); 2].into());
                }
            }
        }
    }

    #[test]
    fn virtio_2_7_10_a_wish_is_due_if_its_index_is_one_of_those_passed() {
        for old in bases(8) {
            for steps in (0..=9).chain([255, LARGEST]) {
                let new = old.wrapping_add(steps);
                for event in 0..=u16::MAX {
                    // The elements `old`, `old + 1`, ... were added; the wish names one of them.
                    let behind = (u32::from(event) + 0x1_0000 - u32::from(old)) % 0x1_0000;
                    let due = behind < u32::from(steps);
                    assert_eq!(passed(event, old, new), due, "{event} {old} {new}");
                }
            }
        }
    }
}
