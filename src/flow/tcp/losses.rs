//! What the losses of a connection have taught about the way to its guest: how much may be under way, how long a round trip
//! takes, and how far segments overtake each other.
//!
//! Most ways lose nothing and keep the order, so nothing is known and nothing is kept until the first loss. Behind a guest
//! that is a router there are others. One that only changes the order shows duplicates as well, and giving way to each of them
//! would leave little of its rate. But what was lost is acknowledged a round trip after it was sent again, and what was only
//! late, sooner: then nothing is taken away, and more duplicates are needed from now on (the Eifel algorithm, RFC 3522 and
//! RFC 4015, by time instead of timestamps, which take 12 bytes of each segment; RFC 4653 for the duplicates).

use std::time::Duration;

use crate::time::Timestamp;
use crate::wire::seq::SeqNr;

use super::congestion::Congestion;
use super::limits::DUPLICATE_ACKS;

/// Duplicates that are waited for at most. Segments that are later than that are sent twice, and cost nothing else.
const PATIENCE_MAX: u8 = 100;

/// Times that the handshake alone may say that something was late. It may have taken longer than what comes later, and then
/// each loss looks late, for ever: nothing is timed where something is missing.
const GUESSES_MAX: u8 = 24;

/// What is known once something was lost.
#[derive(Debug, Default)]
pub(super) struct Losses(Option<Box<Known>>);

#[derive(Debug)]
struct Known {
    congestion: Congestion,
    /// The shortest round trip that was seen.
    round_trip: Option<Duration>,
    /// What is timed: when this is acknowledged, which was sent then, and nothing again since.
    timed: Option<(SeqNr, Timestamp)>,
    repair: Option<Repair>,
    /// A repair is over when this is acknowledged, and none begins up to there (RFC 6582).
    recover: SeqNr,
    /// Duplicates that mean a loss.
    patience: u8,
    /// Times that the handshake alone was asked what was late.
    guesses: u8,
}

/// The first byte that is not acknowledged counts as lost.
#[derive(Clone, Copy, Debug)]
struct Repair {
    /// What was allowed before.
    before: Congestion,
    /// It has to be sent again.
    due: bool,
    /// When it was sent again first.
    again_at: Option<Timestamp>,
}

/// Something new was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(crate) now: Timestamp,
    pub(crate) from: SeqNr,
    pub(crate) to: SeqNr,
    /// Bytes that were in flight before.
    pub(crate) flight: u32,
    /// Bytes of a segment.
    pub(crate) segment: u32,
    /// Times that the guest has said `from` before.
    pub(crate) duplicates: u8,
    /// How long a round trip took in the handshake, as far as that is known.
    pub(crate) handshake: Option<Duration>,
}

/// What an acknowledgement has shown of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// None was known.
    Nothing,
    /// What counted as lost was, and was replaced.
    Lost,
    /// That, and that what follows it was lost, too.
    Hole,
    /// It was only late.
    Late,
}

impl Losses {
    /// Bytes that may be in flight, in segments of so many.
    pub(crate) fn window(&self, segment: u32) -> u32 {
        self.0.as_ref().map_or(u32::MAX, |known| known.congestion.bytes(segment))
    }

    /// Duplicates that mean a loss, while so many segments are in flight: no more than these can show.
    pub(crate) fn patience(&self, flight: u32) -> u8 {
        let patience = self.0.as_ref().map_or(DUPLICATE_ACKS, |known| known.patience);
        let shown = u8::try_from(flight / 2).unwrap_or(u8::MAX);
        patience.min(shown.max(DUPLICATE_ACKS))
    }

    fn known(&mut self, recover: SeqNr) -> &mut Known {
        self.0.get_or_insert_with(|| {
            Box::new(Known {
                congestion: Congestion::new(),
                round_trip: None,
                timed: None,
                repair: None,
                recover,
                patience: DUPLICATE_ACKS,
                guesses: 0,
            })
        })
    }

    /// Whether what follows `una` may be found lost.
    pub(crate) fn may_begin(&self, una: SeqNr) -> bool {
        self.0.as_ref().is_none_or(|known| una.after(known.recover))
    }

    /// The segment that ends before `end` was sent for the first time.
    pub(crate) fn on_sent(&mut self, end: SeqNr, now: Timestamp) {
        let Some(known) = &mut self.0 else { return };
        if known.timed.is_none() && known.repair.is_none() {
            known.timed = Some((end, now));
        }
    }

    /// Whether something counts as lost.
    pub(crate) fn is_repairing(&self) -> bool {
        self.0.as_ref().is_some_and(|known| known.repair.is_some())
    }

    /// Whether it has to be sent again.
    pub(crate) fn is_due(&self) -> bool {
        let repair = self.0.as_ref().and_then(|known| known.repair);
        repair.is_some_and(|repair| repair.due)
    }

    /// What counts as lost was sent again.
    pub(crate) fn on_sent_again(&mut self, now: Timestamp) {
        let Some(known) = &mut self.0 else { return };
        known.timed = None;
        if let Some(repair) = &mut known.repair {
            repair.due = false;
            repair.again_at.get_or_insert(now);
        }
    }

    /// What follows the last acknowledgement counts as lost, of `flight` bytes on the way, and what came behind it does not.
    /// `max` is the end of all that was ever sent.
    pub(crate) fn on_loss(&mut self, max: SeqNr, flight: u32, segment: u32) {
        let known = self.known(max);
        if known.repair.is_none() {
            known.recover = max;
        }
        known.lose(flight, segment);
    }

    /// Everything between `una` and `max` is sent again, and whatever was lost is no more.
    pub(crate) fn on_rewind(&mut self, una: SeqNr, max: SeqNr) {
        if self.0.is_some() || una != max {
            let known = self.known(max);
            (known.timed, known.repair, known.recover) = (None, None, max);
        }
    }

    /// Perhaps all of `flight` bytes behind `una` was lost, and is sent again. What is sent once the guest has acknowledged
    /// something may be lost, too, and duplicates say so. Those before may be of what is sent again.
    pub(crate) fn on_timeout(&mut self, una: SeqNr, flight: u32, segment: u32) {
        let known = self.known(una);
        (known.timed, known.repair, known.recover) = (None, None, una);
        known.congestion.on_timeout(flight, segment);
        known.patience = DUPLICATE_ACKS;
    }

    /// The guest has acknowledged something.
    pub(crate) fn on_progress(&mut self, progress: Progress) -> Shown {
        let Some(known) = &mut self.0 else { return Shown::Nothing };
        let Progress { now, from, to, flight, segment, .. } = progress;
        if let Some((_, at)) = known.timed.take_if(|(end, _)| !to.before(*end)) {
            let took = now.since(at);
            known.round_trip = Some(known.round_trip.map_or(took, |least| least.min(took)));
        }
        let Some(repair) = known.repair.take() else {
            known.congestion.on_acknowledged(from, to, flight, segment);
            known.keep_up(to);
            return Shown::Nothing;
        };
        if repair.again_at.is_some_and(|at| known.is_trip(now.since(at), progress.handshake)) {
            if to.before(known.recover) {
                // RFC 6582, section 3.2, step 3: a partial acknowledgement shows the next hole.
                known.lose(flight, segment);
                return Shown::Hole;
            }
            known.recover = to - 1;
            return Shown::Lost;
        }
        known.congestion = repair.before;
        let patience = progress.duplicates.saturating_add(1).min(PATIENCE_MAX);
        known.patience = known.patience.max(patience);
        known.recover = to - 1;
        Shown::Late
    }
}

impl Known {
    /// Whether something that has taken so long may have been a round trip.
    fn is_trip(&mut self, took: Duration, handshake: Option<Duration>) -> bool {
        if self.round_trip.is_none() {
            self.guesses = self.guesses.saturating_add(1);
        }
        let handshake = handshake.filter(|_| self.guesses <= GUESSES_MAX);
        let trip = self.round_trip.into_iter().chain(handshake).min().unwrap_or_default();
        took >= trip * 3 / 4
    }

    fn lose(&mut self, flight: u32, segment: u32) {
        let repair = Repair { before: self.congestion, due: true, again_at: None };
        self.repair.get_or_insert(repair).due = true;
        self.congestion.on_loss(flight, segment);
    }

    /// Keeps up with what is acknowledged, lest the comparison wrap in a long transfer without loss.
    fn keep_up(&mut self, to: SeqNr) {
        if to.after(self.recover) {
            self.recover = to - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u32 = 1000;
    const FLIGHT: u32 = 100 * SEGMENT;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(1000 * millis)
    }

    /// Acknowledges a segment from `from` on, at `millis`, after so many duplicates.
    fn acknowledge(losses: &mut Losses, millis: u64, from: u32, duplicates: u8) -> Shown {
        let from = SeqNr(from);
        let (now, to, handshake) = (at(millis), from + SEGMENT, None);
        let (flight, segment) = (FLIGHT, SEGMENT);
        losses.on_progress(Progress { now, from, to, flight, segment, duplicates, handshake })
    }

    /// Something was lost once, and a round trip takes 20 ms.
    fn measured() -> Losses {
        let mut losses = Losses::default();
        losses.on_sent(SeqNr(1000), at(0));
        assert_eq!(acknowledge(&mut losses, 1, 0, 0), Shown::Nothing);
        assert!(losses.0.is_none(), "nothing is kept");
        losses.on_loss(SeqNr(0), FLIGHT, SEGMENT);
        losses.on_sent_again(at(10));
        assert!(losses.is_repairing() && !losses.is_due());
        assert_eq!(acknowledge(&mut losses, 11, 1000, 3), Shown::Lost, "for all that is known");
        losses.on_sent(SeqNr(9000), at(20));
        losses.on_sent(SeqNr(10_000), at(39));
        assert_eq!(acknowledge(&mut losses, 30, 7000, 0), Shown::Nothing);
        assert_eq!(acknowledge(&mut losses, 40, 8000, 0), Shown::Nothing);
        losses.on_sent(SeqNr(10_000), at(50));
        assert_eq!(acknowledge(&mut losses, 80, 9000, 0), Shown::Nothing, "longer");
        assert_eq!(losses.0.as_ref().and_then(|known| known.round_trip), Some(at(20).since(at(0))));
        losses
    }

    #[test]
    fn rfc3522_what_is_acknowledged_too_soon_was_not_lost() {
        let mut losses = measured();
        let before = losses.window(SEGMENT);
        losses.on_loss(SeqNr(0), FLIGHT, SEGMENT);
        losses.on_sent_again(at(100));
        // Once more, which is not what counts.
        losses.on_loss(SeqNr(0), FLIGHT, SEGMENT);
        losses.on_sent_again(at(113));
        assert!(losses.window(SEGMENT) < before);
        assert_eq!(acknowledge(&mut losses, 114, 20_000, 30), Shown::Late);
        assert_eq!((losses.window(SEGMENT), losses.patience(FLIGHT)), (before, 31));
        // Before it was sent again.
        losses.on_loss(SeqNr(0), FLIGHT, SEGMENT);
        assert!(losses.is_due());
        assert_eq!(acknowledge(&mut losses, 200, 30_000, 3), Shown::Late);
        assert!(!losses.is_repairing() && !losses.is_due());
        assert_eq!((losses.window(SEGMENT), losses.patience(FLIGHT)), (before, 31));
    }

    #[test]
    fn rfc3522_what_is_acknowledged_after_a_round_trip_was_lost() {
        let mut losses = measured();
        let before = losses.window(SEGMENT);
        losses.on_loss(SeqNr(0), FLIGHT, SEGMENT);
        losses.on_sent_again(at(100));
        assert_eq!(acknowledge(&mut losses, 115, 20_000, 30), Shown::Lost);
        assert!(losses.window(SEGMENT) < before);
        assert_eq!(losses.patience(FLIGHT), DUPLICATE_ACKS);
        assert_eq!(acknowledge(&mut losses, 115, 21_000, 30), Shown::Nothing);
    }

    #[test]
    fn rfc6582_what_was_sent_behind_a_repair_may_be_lost_next() {
        let mut losses = measured();
        losses.on_loss(SeqNr(21_000), FLIGHT, SEGMENT);
        losses.on_sent_again(at(100));
        assert!(!losses.may_begin(SeqNr(20_000)));
        assert_eq!(acknowledge(&mut losses, 120, 20_000, 3), Shown::Lost);
        assert!(losses.may_begin(SeqNr(21_000)));
    }

    #[test]
    fn a_slow_handshake_does_not_make_losses_late_for_ever() {
        let mut losses = Losses::default();
        let mut late = 0;
        let shown = |losses: &mut Losses| {
            losses.on_loss(SeqNr(0), FLIGHT, SEGMENT);
            losses.on_sent_again(at(10));
            losses.on_progress(Progress {
                now: at(30),
                from: SeqNr(0),
                to: SeqNr(SEGMENT),
                flight: FLIGHT,
                segment: SEGMENT,
                duplicates: 3,
                handshake: Some(Duration::from_millis(100)),
            })
        };
        while shown(&mut losses) == Shown::Late {
            late += 1;
        }
        assert_eq!(late, GUESSES_MAX);
    }

    #[test]
    fn rfc4653_no_more_duplicates_are_waited_for_than_there_can_be() {
        let mut losses = measured();
        losses.on_loss(SeqNr(0), FLIGHT, SEGMENT);
        assert_eq!(acknowledge(&mut losses, 100, 20_000, 200), Shown::Late);
        assert_eq!(losses.patience(u32::MAX), PATIENCE_MAX);
        assert_eq!((losses.patience(40), losses.patience(0)), (20, DUPLICATE_ACKS));
        losses.on_timeout(SeqNr(0), FLIGHT, SEGMENT);
        assert_eq!(losses.patience(u32::MAX), DUPLICATE_ACKS);
    }

    #[test]
    fn karn_what_was_sent_again_is_not_timed() {
        let mut losses = measured();
        losses.on_sent(SeqNr(30_000), at(100));
        losses.on_sent_again(at(101));
        assert_eq!(acknowledge(&mut losses, 102, 29_000, 0), Shown::Nothing);
        losses.on_sent(SeqNr(40_000), at(110));
        losses.on_rewind(SeqNr(0), SeqNr(0));
        assert_eq!(acknowledge(&mut losses, 112, 39_000, 0), Shown::Nothing);
        assert_eq!(losses.0.and_then(|known| known.round_trip), Some(at(20).since(at(0))));
    }
}
