//! Fast streams of datagrams to the guest are looked at by time. To be told of each datagram costs more than to take
//! it: its sender wakes us, we wake the guest, and all that for one or two. So while many come and the guest sends
//! nothing back, their socket reports nothing, and is looked at every [`LOOK_EVERY`]; what has come meanwhile is taken
//! together, as a network card does with its interrupts.
//!
//! Nobody waits for an answer then: whatever the guest sends to the flow ends that, so that no exchange is slowed down,
//! nor a transport that acknowledges what it gets, as QUIC does.

use std::time::Duration;

use crate::time::Timestamp;

/// How often the socket of a fast stream is polled: in this time come some twenty datagrams of the fastest sender that makes
/// a call for each, and a small part of what the socket's buffer holds.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// Datagrams within [`FAST_WITHIN`] that make a stream fast: more than speech, pictures or a game ever have.
const FAST: u16 = 64;
const FAST_WITHIN: Duration = Duration::from_millis(1);
/// Fewer datagrams at one look end it: then it costs as much as being told.
const WORTH_A_LOOK: usize = 4;

/// How fast a stream to the guest is, and whether it is looked at by time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// When counting began.
    since: Timestamp,
    /// Datagrams to the guest since then, with none from it among them.
    count: u16,
    /// When the socket is looked at next; it reports nothing until then.
    next: Option<Timestamp>,
}

/// What is to be done with the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Stay,
    /// It is to report nothing, and to be looked at at this time.
    Begin(Timestamp),
    /// It is to be looked at again at this time.
    Again(Timestamp),
    /// It is to report what comes, and what is there.
    End,
}

impl Pace {
    /// When the socket is looked at next, if that is a matter of time.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.next
    }

    /// `datagrams` datagrams went to the guest at `now`; `empty` says whether the socket had no more.
    pub(crate) fn on_turn(&mut self, now: Timestamp, datagrams: usize, empty: bool) -> Step {
        if self.next.is_some() {
            return if empty { self.go_on(now, datagrams) } else { Step::Stay };
        }
        if now.since(self.since) > FAST_WITHIN {
            (self.since, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(u16::try_from(datagrams).unwrap_or(u16::MAX));
        if !empty || self.count < FAST {
            return Step::Stay;
        }
        let at = now + LOOK_EVERY;
        self.next = Some(at);
        Step::Begin(at)
    }

    fn go_on(&mut self, now: Timestamp, datagrams: usize) -> Step {
        if datagrams < WORTH_A_LOOK {
            return self.end();
        }
        let at = now + LOOK_EVERY;
        self.next = Some(at);
        Step::Again(at)
    }

    /// The guest has sent something.
    pub(crate) fn on_guest(&mut self) -> Step {
        self.count = 0;
        if self.next.is_some() { self.end() } else { Step::Stay }
    }

    /// It is a matter of events from now on.
    pub(crate) fn end(&mut self) -> Step {
        (self.next, self.count) = (None, 0);
        Step::End
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_micros(5_000_000);

    /// One that is looked at by time, since `START`.
    fn fast() -> Pace {
        let mut pace = Pace::default();
        assert_eq!(pace.on_turn(START, FAST.into(), true), Step::Begin(START + LOOK_EVERY));
        pace
    }

    #[test]
    fn a_fast_stream_is_looked_at_by_time_while_it_is_worth_it() {
        let mut pace = fast();
        let mut now = START;
        for _ in 0..5 {
            now = now + LOOK_EVERY;
            assert_eq!(pace.on_turn(now, WORTH_A_LOOK, true), Step::Again(now + LOOK_EVERY));
        }
        assert_eq!(pace.on_turn(now + LOOK_EVERY, WORTH_A_LOOK - 1, true), Step::End);
        assert_eq!(pace.next(), None);
    }

    #[test]
    fn nothing_changes_before_the_socket_is_empty() {
        let mut pace = Pace::default();
        for _ in 0..10 {
            assert_eq!(pace.on_turn(START, FAST.into(), false), Step::Stay);
        }
        let mut pace = fast();
        assert_eq!(pace.on_turn(START + LOOK_EVERY, 0, false), Step::Stay);
        assert_eq!(pace.next(), Some(START + LOOK_EVERY));
    }

    #[test]
    fn a_slow_stream_is_a_matter_of_events() {
        let mut pace = Pace::default();
        for turn in 0..1000 {
            let now = START + FAST_WITHIN / 16 * turn;
            assert_eq!(pace.on_turn(now, 3, true), Step::Stay, "{turn}");
        }
    }

    #[test]
    fn whoever_waits_for_an_answer_gets_it_at_once() {
        let mut pace = Pace::default();
        for _ in 0..1000 {
            assert_eq!(pace.on_turn(START, usize::from(FAST) - 1, true), Step::Stay);
            assert_eq!(pace.on_guest(), Step::Stay);
        }
        let mut pace = fast();
        assert_eq!((pace.on_guest(), pace.next()), (Step::End, None));
        assert_eq!(pace.on_turn(START, usize::from(FAST) - 1, true), Step::Stay);
    }
}
