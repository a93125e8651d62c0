//! Asking a guest how far it is, that is silent though something is on its way to it.
//!
//! It is sent the last byte once more. Everybody answers at once what it has already (RFC 9293, section 3.10.7.4), and what
//! comes behind a gap (RFC 5681, section 4.2). So two things are over after one round trip, however long that is:
//! - *The guest has it all*, and keeps its acknowledgement back: for 40 to 500 ms, if it acknowledges every second segment
//!   (RFC 1122, section 4.2.3.2). Meanwhile nothing may be able to follow: the kernel gives memory back by buffers into which
//!   it has put many segments, and the last bytes in a socket's queue may stand for all of its memory.
//! - *Something was lost.* What came behind it has said so, unless there were fewer than three segments. The answer to the last
//!   byte shows it without the timeout, which takes a second (as RFC 8985, section 7, does it).
//!
//! A burst, after which the first is likely, is asked for soon; a question or an answer only where something must be wrong.

use std::time::Duration;

/// After a burst: for how long the guest has to be silent each time.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(250)];

/// With which of them it begins otherwise.
const AFTER_LITTLE: u8 = 1;

/// The unit in which a burst is counted, in bytes.
const UNIT: u32 = 2048;

/// Units that make a burst: the buffer of a socket, with what it costs, is not smaller than eight times that.
const BURST: u8 = 7;

/// The lower bits: how many pauses are over, or that the guest has [`ANSWERED`]; that a question is to be sent, that one is on
/// its way, and that the guest has said something new before the answer to an earlier one, which may be on its way as well.
const ASKED: u8 = 3;
const ANSWERED: u8 = ASKED;
const DUE: u8 = 4;
const OPEN: u8 = 8;
const LATE: u8 = 16;
const ALL: u8 = ASKED | DUE | OPEN | LATE;
const SHIFT: u32 = ALL.trailing_ones();

const _: () = assert!(PAUSES.len() < ANSWERED as usize && BURST == u8::MAX >> SHIFT);

/// What was sent since the guest has acknowledged all, in [`UNIT`]s up to [`BURST`], and how often it was asked since it has
/// acknowledged something. One byte: see the size of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asking(u8);

impl Asking {
    /// Bytes were sent.
    pub(crate) fn on_sent(&mut self, bytes: u32) {
        let units = u8::try_from(bytes.div_ceil(UNIT)).unwrap_or(u8::MAX);
        let burst = (self.0 >> SHIFT).saturating_add(units).min(BURST);
        self.0 = burst << SHIFT | self.0 & ALL;
    }

    /// Something was acknowledged, or all. An answer may still come behind it, even then.
    pub(crate) fn on_acknowledged(&mut self, all: bool) {
        let late = if self.0 & OPEN != 0 { LATE } else { self.0 & LATE };
        self.0 = late | if all { 0 } else { self.0 & !ALL };
    }

    /// How long the guest has to be silent before it is asked; `None` if it was asked often enough.
    pub(crate) fn pause(self) -> Option<Duration> {
        PAUSES.get(usize::from(self.number())).copied()
    }

    /// Which question comes next. While the answer to an earlier one may be on its way, none that is soon: the guest is
    /// slower than that, and of two answers that come late nobody knows which is which.
    fn number(self) -> u8 {
        let soon = self.0 >> SHIFT == BURST && self.0 & LATE == 0;
        let first = if soon { 0 } else { AFTER_LITTLE };
        first.max(self.0 & ASKED)
    }

    /// The pause is over: the guest is to be asked, unless its machine stands still.
    pub(crate) fn ask(&mut self, reads: bool) {
        let due = if reads { DUE } else { self.0 & DUE };
        self.0 = self.0 & !(ASKED | DUE) | (self.number() + 1).min(ANSWERED) | due;
    }

    /// A question was sent.
    pub(crate) fn on_asked(&mut self) {
        self.0 |= OPEN;
    }

    /// Whether a question is on its way.
    pub(crate) fn is_open(self) -> bool {
        self.0 & OPEN != 0
    }

    /// Whether it is to be asked now.
    pub(crate) fn take_due(&mut self) -> bool {
        let due = self.0 & DUE != 0;
        self.0 &= !DUE;
        due
    }

    /// The guest has acknowledged nothing new: whether that is an answer, the first one since it has. What is sent again
    /// because of it is not asked for any more: answers that are late look the same.
    pub(crate) fn take_answer(&mut self) -> bool {
        let is_first = self.0 & OPEN != 0;
        if is_first {
            self.0 = self.0 & !OPEN | ANSWERED;
        }
        is_first
    }

    /// The same: whether that may be the answer to an earlier question, which says nothing any more.
    pub(crate) fn take_late(&mut self) -> bool {
        let is_late = self.0 & LATE != 0;
        self.0 &= !LATE;
        is_late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses before all questions, in milliseconds.
    fn pauses(mut asking: Asking) -> Vec<u128> {
        let mut pauses = Vec::new();
        while let Some(pause) = asking.pause() {
            pauses.push(pause.as_millis());
            asking.ask(true);
            assert!(asking.take_due() && !asking.take_due());
            asking.on_asked();
        }
        pauses
    }

    #[test]
    fn a_burst_is_asked_for_sooner() {
        let mut asking = Asking::default();
        assert_eq!(pauses(asking), [250]);
        asking.on_sent(1);
        asking.on_sent(10 * 1024);
        assert_eq!(pauses(asking), [250]);
        asking.on_sent(1);
        assert_eq!(pauses(asking), [2, 250]);
        asking.on_sent(u32::MAX);
        asking.ask(false);
        assert!(!asking.take_due(), "its machine stands still");
        assert!(!asking.take_answer(), "it was not asked");
        assert_eq!(pauses(asking), [250]);
        asking.on_acknowledged(false);
        asking.ask(true);
        asking.on_acknowledged(false);
        assert!(!asking.take_due(), "it has said something");
        assert_eq!(pauses(asking), [2, 250]);
        asking.on_acknowledged(true);
        assert_eq!(pauses(asking), [250]);
        assert!(!asking.take_answer(), "that question was answered");
    }

    #[test]
    fn an_answer_counts_once() {
        let mut asking = Asking::default();
        assert!(!asking.take_answer(), "to nothing");
        let ask = |asking: &mut Asking| {
            asking.on_sent(100_000);
            asking.ask(true);
            assert!(!asking.take_answer(), "the link has no room for the question");
            assert!(asking.take_due());
            asking.on_asked();
        };
        ask(&mut asking);
        assert!(asking.take_answer() && !asking.take_answer());
        asking.on_sent(1);
        assert_eq!((asking.pause(), asking.take_answer()), (None, false));
        asking.on_acknowledged(false);
        assert_eq!(pauses(asking), [2, 250]);
        // On a long way the answer comes behind the acknowledgement of what was sent before the question.
        ask(&mut asking);
        asking.on_acknowledged(true);
        asking.on_sent(100_000);
        assert_eq!(pauses(asking), [250], "not two answers at a time, if it can be helped");
        ask(&mut asking);
        assert!(asking.take_late() && !asking.take_late());
        assert!(asking.take_answer() && !asking.take_answer());
    }
}
