//! How many things are likely to wait behind a level-triggered event, learnt from those before it.
//!
//! A call that finds nothing costs as much as one that finds something small, and questions and answers
//! come one by one. So no more is taken after an event than is likely to be there; what waits beyond that
//! is reported again.

/// Events that brought as much as expected before more is expected.
const EVENTS_BEFORE_MORE: u8 = 4;

/// Where so much is expected, taking goes on until there is nothing left.
const BULK: usize = 8;

/// What is expected of the next event.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    count: usize,
    /// Events in a row that brought at least so much.
    events: u8,
}

impl Default for Expected {
    fn default() -> Self {
        Self { count: BULK, events: 0 }
    }
}

impl Expected {
    /// Whether to go on after `count`.
    pub fn goes_on(&self, count: usize) -> bool {
        count < self.count || self.count >= BULK
    }

    /// Learns from an event after which `count` were taken. `emptied`: there was nothing more.
    pub fn learn(&mut self, count: usize, emptied: bool) {
        self.events = if emptied { 0 } else { self.events + 1 };
        if emptied {
            self.count = count.max(1);
        } else if self.events >= EVENTS_BEFORE_MORE {
            *self = Self { count: (2 * self.count).min(BULK), events: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_expected_as_came_and_more_after_four_events_that_brought_it() {
        let mut expected = Expected::default();
        assert!(expected.goes_on(1000), "all that is there, to begin with");
        expected.learn(1, true);
        for _ in 0..4 {
            assert!(expected.goes_on(0) && !expected.goes_on(1));
            expected.learn(1, false);
        }
        assert!(expected.goes_on(1) && !expected.goes_on(2));
        expected.learn(0, true);
        assert!(expected.goes_on(0) && !expected.goes_on(1), "one at least");
        expected.learn(BULK, true);
        assert!(expected.goes_on(1000));
    }
}
