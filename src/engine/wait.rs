//! Waiting for events. Who sleeps has to be woken, which on a processor that has gone to rest takes longer
//! than many an answer: so when waits have been short, the next one begins with looking again and again,
//! for [`POLL_FOR`] at most, and only then falls asleep.
//!
//! That is worth it while nearly all waits end so soon, as in a quick exchange of questions and answers.
//! One that does not costs [`MISS`] that did. Who has nothing to do does not poll; nor who was busy for long
//! ([`POLL_AFTER`]), or served bulk past the link: what comes while one sleeps then is taken together, which is
//! cheaper; nor who has only one processor: nobody could answer meanwhile.

use std::os::fd::OwnedFd;

use passt_frame::Errno;
use rustix::event::epoll;
use rustix::thread::sched_getaffinity;
use rustix::time::{ClockId, Timespec};

use crate::limits::{POLL_AFTER, POLL_FOR};
use crate::sys::clock;
use crate::time::Timestamp;

const NONE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The monotonic clock.
pub fn monotonic_now() -> Timestamp {
    timestamp(clock::now(ClockId::Monotonic))
}

/// How long this thread has run. Takes a system call.
pub(super) fn thread_time() -> Timestamp {
    timestamp(clock::now(ClockId::ThreadCPUTime))
}

fn timestamp(time: Timespec) -> Timestamp {
    Timestamp::from_micros(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000)
}

/// The turn before the wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastTurn {
    /// When it began, and when it ended.
    pub(crate) began: Timestamp,
    pub(crate) ended: Timestamp,
    /// It served a connection that moves bulk past the link.
    pub(crate) bulk: bool,
}

/// What is known of the waits so far.
#[derive(Debug)]
pub(super) struct Waits {
    /// Points: one for each short wait, [`MISS`] less for a long one. Polls with any.
    points: i8,
    /// Somebody else can run meanwhile.
    may_poll: bool,
}

/// Short waits that are as good as a long one is bad.
const MISS: i8 = 16;

/// Points at most: two long waits in a row end the polling in any case.
const POINTS_MAX: i8 = 2 * MISS;

impl Waits {
    /// Nothing is known yet. `may_poll`: if it comes to that.
    pub(crate) fn new(may_poll: bool) -> Self {
        Self { points: -MISS, may_poll }
    }

    fn polls(&self) -> bool {
        self.may_poll && self.points > 0
    }

    /// A wait was short, or long.
    fn learn(&mut self, short: bool) {
        let change = if short { 1 } else { -MISS };
        self.points = (self.points + change).clamp(-MISS, POINTS_MAX);
    }

    /// Waits for events, no longer than `timeout`, and has them appended to `events`.
    ///
    /// # Errors
    /// What epoll_wait(2) reports.
    pub(crate) fn wait(
        &mut self,
        epoll: &OwnedFd,
        events: &mut Vec<epoll::Event>,
        timeout: Option<Timespec>,
        last: LastTurn,
    ) -> Result<(), Errno> {
        if !self.may_poll || last.bulk || timeout == Some(NONE) {
            return look(epoll, events, timeout.as_ref());
        }
        if last.ended.since(last.began) > POLL_AFTER {
            return look(epoll, events, timeout.as_ref());
        }
        let is_short = || monotonic_now().since(last.ended) < POLL_FOR;
        if self.polls() {
            loop {
                look(epoll, events, Some(&NONE))?;
                if !events.is_empty() {
                    self.learn(true);
                    return Ok(());
                }
                if !is_short() {
                    break;
                }
            }
            // Sleeping may be what lets the other end go on: how long it takes says nothing.
            self.learn(false);
            return look(epoll, events, timeout.as_ref());
        }
        look(epoll, events, timeout.as_ref())?;
        self.learn(is_short());
        Ok(())
    }
}

/// Puts events that are there into `events`, as far as there is room.
///
/// # Errors
/// What epoll_wait(2) reports.
pub(super) fn look_now(epoll: &OwnedFd, events: &mut Vec<epoll::Event>) -> Result<(), Errno> {
    look(epoll, events, Some(&NONE))
}

/// Whether there are processors for others while one polls.
pub(super) fn others_can_run() -> bool {
    sched_getaffinity(None).is_ok_and(|processors| processors.count() > 1)
}

fn look(
    epoll: &OwnedFd,
    events: &mut Vec<epoll::Event>,
    timeout: Option<&Timespec>,
) -> Result<(), Errno> {
    match crate::sys::events::wait(epoll, events, timeout) {
        Err(Errno::INTR) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short() -> LastTurn {
        let now = monotonic_now();
        LastTurn { began: now, ended: now, bulk: false }
    }

    #[test]
    fn polls_while_nearly_all_waits_are_short() {
        let mut waits = Waits::new(true);
        assert!(!waits.polls(), "not before something is known");
        let short = (0..100).position(|_| {
            waits.learn(true);
            waits.polls()
        });
        assert_eq!(short, Some(usize::from(MISS as u8)));
        (0..100).for_each(|_| waits.learn(true));
        waits.learn(false);
        assert!(waits.polls(), "one is an exception");
        waits.learn(false);
        assert!(!waits.polls());
        (0..100).for_each(|_| waits.learn(false));
        (0..16).for_each(|_| waits.learn(true));
        assert!(!waits.polls());
        waits.learn(true);
        assert!(waits.polls(), "however long it was idle before");
        for _ in 0..10 {
            (0..8).for_each(|_| waits.learn(true));
            waits.learn(false);
        }
        assert!(!waits.polls(), "one of nine is too much");
    }

    #[test]
    fn one_processor_is_left_to_others() {
        let mut waits = Waits::new(false);
        (0..100).for_each(|_| waits.learn(true));
        assert!(!waits.polls());
    }

    #[test]
    fn events_are_found_awake_and_asleep() {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an instance");
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let data = epoll::EventData::new_u64(7);
        epoll::add(&epoll, &reader, data, epoll::EventFlags::IN).expect("watched");
        let mut events = Vec::with_capacity(4);
        let mut waits = Waits::new(true);
        let millisecond = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        for points in [-MISS, POINTS_MAX] {
            waits.points = points;
            waits.wait(&epoll, &mut events, Some(millisecond), short()).expect("a wait");
            assert!(events.is_empty());
        }
        waits.points = POINTS_MAX;
        for last in
            [LastTurn { began: Timestamp::ZERO, ..short() }, LastTurn { bulk: true, ..short() }]
        {
            waits.wait(&epoll, &mut events, Some(millisecond), last).expect("a wait");
            assert_eq!(waits.points, POINTS_MAX, "nothing is learnt from a wait after much work");
        }
        rustix::io::write(&writer, &[1]).expect("a byte");
        for (points, timeout) in [(-MISS, None), (POINTS_MAX, None), (POINTS_MAX, Some(NONE))] {
            waits.points = points;
            waits.wait(&epoll, &mut events, timeout, short()).expect("a wait");
            assert_eq!(events.drain(..).map(|event| event.data.u64()).collect::<Vec<_>>(), [7]);
        }
    }
}
