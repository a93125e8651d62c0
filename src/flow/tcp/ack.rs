//! Acknowledgements that wait for something to go with: for data to the guest, which carries them, or for
//! more from the guest, so that one acknowledges it all (RFC 9293, section 3.8.6.3; RFC 5681, section 4.2).
//!
//! Each acknowledgement of its own costs the guest an interrupt, which for a guest that only sends is most
//! of what it receives. But a guest whose sender waits for it (the Nagle algorithm, a congestion window of
//! few segments) loses the time that it is kept back. So that time is short, and where nothing came of it
//! the next ones go at once.

use super::limits::{ACK_DELAY, ACK_RUNS, PROMPT_ACKS};
use crate::time::Timestamp;

/// The acknowledgement that a connection owes: below [`HELD`] the number of those that are to go at once,
/// from there on the runs that came while one was kept back. One byte: see the size of a connection.
#[derive(Debug)]
pub(super) struct HeldAck(u8);

const HELD: u8 = 128;

/// None is ever kept back.
const NEVER: u8 = u8::MAX;

const _: () = assert!(PROMPT_ACKS < HELD && ACK_RUNS < NEVER - HELD);

impl HeldAck {
    /// Whether they may wait at all is for the caller to say.
    pub(crate) fn new(may_wait: bool) -> Self {
        Self(if may_wait { 0 } else { NEVER })
    }

    fn is_held(&self) -> bool {
        (HELD..NEVER).contains(&self.0)
    }

    /// Until when one is kept back. `active` is when the guest or the socket gave the last sign of life.
    pub(crate) fn until(&self, active: Timestamp) -> Option<Timestamp> {
        self.is_held().then(|| active + ACK_DELAY)
    }

    /// There is more to acknowledge.
    pub(crate) fn grow(&mut self) {
        if self.is_held() {
            self.0 = (self.0 + 1).min(HELD + ACK_RUNS);
        }
    }

    /// Whether to keep the one that is owed back.
    pub(crate) fn holds(&mut self, active: Timestamp, now: Timestamp) -> bool {
        match self.0 {
            NEVER => return false,
            0 => self.0 = HELD,
            1..HELD => {
                self.0 -= 1;
                return false;
            }
            HELD.. => {}
        }
        let time_is_up = active + ACK_DELAY <= now;
        if time_is_up && self.0 == HELD {
            self.0 = PROMPT_ACKS;
        }
        !time_is_up && self.0 < HELD + ACK_RUNS
    }

    /// It was sent, alone or with data.
    pub(crate) fn sent(&mut self) {
        if self.is_held() {
            self.0 = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_micros(1000);

    #[test]
    fn one_that_nothing_comes_of_makes_the_next_ones_prompt() {
        let mut ack = HeldAck::new(true);
        assert!(ack.holds(START, START));
        assert_eq!(ack.until(START), Some(START + ACK_DELAY));
        assert!(!ack.holds(START, START + ACK_DELAY), "the time is over");
        ack.sent();
        for _ in 0..PROMPT_ACKS {
            assert!(!ack.holds(START, START));
            ack.sent();
        }
        assert!(ack.holds(START, START), "tried again");
    }

    #[test]
    fn one_that_went_with_data_or_grew_is_followed_by_another() {
        let mut ack = HeldAck::new(true);
        assert!(ack.holds(START, START));
        ack.sent();
        assert!(ack.holds(START, START));
        ack.grow();
        assert!(!ack.holds(START, START + ACK_DELAY));
        ack.sent();
        assert!(ack.holds(START, START));
    }

    #[test]
    fn only_so_many_runs_are_acknowledged_together() {
        let mut ack = HeldAck::new(true);
        for _ in 0..ACK_RUNS {
            assert!(ack.holds(START, START));
            ack.grow();
        }
        assert!(!ack.holds(START, START));
        ack.grow();
        assert!(ack.is_held(), "the count does not run over");
    }

    #[test]
    fn none_is_kept_back_unless_the_caller_allows_it() {
        let mut ack = HeldAck::new(false);
        assert!(!ack.holds(START, START));
        assert_eq!(ack.until(START), None);
    }
}
