//! Bytes of the guest's streams that we have and that are to be written before anything else: what a connection has brought
//! along from another program, which the guest was told has been taken, and after it what a socket did not take though it
//! had room, which the guest was not told ([`Conn::kept`](crate::flow::tcp::Conn::kept)). Of the latter there is a budget: a
//! guest and a peer that work together could make us keep all that the kernel refuses. The former has a limit of its own
//! ([`UNSENT_BYTES_MAX`](crate::limits::UNSENT_BYTES_MAX)), and takes nothing from others.

use std::cell::Cell;
use std::rc::Rc;

use crate::limits::{KEPT_BYTES, KEPT_BYTES_EACH};

/// Counts what all connections keep, in bytes.
#[derive(Clone, Default)]
pub(crate) struct KeptBytes(Rc<Cell<usize>>);

impl KeptBytes {
    /// Bytes that a connection which keeps `held` may keep besides.
    pub(crate) fn room(&self, held: usize) -> usize {
        KEPT_BYTES_EACH.saturating_sub(held).min(KEPT_BYTES.saturating_sub(self.0.get()))
    }

    fn charge(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes);
    }

    fn credit(&self, bytes: usize) {
        self.0.set(self.0.get() - bytes);
    }
}

/// What is to be written of one connection.
pub(crate) struct Backlog {
    bytes: Vec<u8>,
    written: usize,
    /// How many of `bytes`, at their beginning, the connection has brought along: the budget is for the others.
    brought: usize,
    /// The guest's stream ends after these bytes.
    pub(crate) ends: bool,
    budget: KeptBytes,
}

impl Backlog {
    /// `bytes` that a connection has brought along, and the end of the stream if it `ends`.
    pub(crate) fn new(bytes: Vec<u8>, ends: bool, budget: &KeptBytes) -> Self {
        let brought = bytes.len();
        Self { bytes, written: 0, brought, ends, budget: budget.clone() }
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// `bytes` more bytes were written.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
    }

    /// Appends up to `wanted` bytes within the budget. `fill` copies them, and returns how many there were. Returns how
    /// many were kept.
    pub(crate) fn keep(&mut self, wanted: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> usize {
        self.forget_written();
        let held = self.bytes.len();
        let room = self.budget.room(held - self.brought).min(wanted);
        self.bytes.reserve_exact(room);
        self.bytes.resize(held + room, 0);
        let filled = fill(&mut self.bytes[held..]).min(room);
        self.bytes.truncate(held + filled);
        self.budget.charge(filled);
        filled
    }

    fn forget_written(&mut self) {
        let written = std::mem::take(&mut self.written);
        self.bytes.drain(..written);
        self.budget.credit(written.saturating_sub(self.brought));
        self.brought = self.brought.saturating_sub(written);
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.budget.credit(self.bytes.len() - self.brought);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_what_is_kept() {
        let budget = KeptBytes::default();
        let all = |bytes: &mut [u8]| bytes.len();
        let mut backlog = Backlog::new(vec![1; 10], false, &budget);
        assert_eq!(budget.0.get(), 0);
        assert_eq!(backlog.keep(20, |bytes| (bytes.fill(2), 5).1), 5);
        assert_eq!((budget.0.get(), backlog.rest().len()), (5, 15));
        backlog.wrote(12);
        assert_eq!(backlog.rest(), [2, 2, 2]);
        assert_eq!(backlog.keep(usize::MAX, all), KEPT_BYTES_EACH - 3);
        assert_eq!(backlog.keep(1, all), 0);
        let mut others = Vec::new();
        while budget.room(0) > 0 {
            let mut other = Backlog::new(Vec::new(), false, &budget);
            assert!(other.keep(usize::MAX, all) > 0);
            others.push(other);
        }
        assert_eq!(budget.0.get(), KEPT_BYTES);
        drop((backlog, others));
        assert_eq!(budget.0.get(), 0);
    }

    #[test]
    fn what_has_come_with_one_connection_takes_nothing_from_others() {
        let budget = KeptBytes::default();
        let all = |bytes: &mut [u8]| bytes.len();
        let mut brought = Backlog::new(vec![1; 2 * KEPT_BYTES], false, &budget);
        let mut other = Backlog::new(Vec::new(), false, &budget);
        assert_eq!(other.keep(100, all), 100);
        assert_eq!(brought.keep(10, all), 10);
        brought.wrote(KEPT_BYTES);
        assert_eq!(brought.keep(10, all), 10);
        brought.wrote(KEPT_BYTES + 5);
        assert_eq!(brought.keep(1, all), 1);
        assert_eq!((brought.rest().len(), budget.0.get()), (16, 116));
        drop(brought);
        assert_eq!(budget.0.get(), 100);
    }
}
