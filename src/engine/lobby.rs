//! Sources with low priority: those that [can wait](super::Source::can_wait), as control sockets and their clients, of whom
//! any number may come and ask for any amount of work. They share one inner epoll instance, which is one descriptor to the
//! loop, and a budget of processor time. One event of theirs is acted on in a turn. When they have used what they had saved
//! up ([`LOBBY_SAVINGS`]) and their share ([`LOBBY_SHARE`]), they rest, and the loop does not hear of them. So packets do not
//! notice how many clients ask, and a few clients get quick answers.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use passt_frame::Errno;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::token::Token;
use super::wait::{look_now, thread_time};
use crate::limits::{LOBBY_REST, LOBBY_SAVINGS, LOBBY_SHARE};
use crate::time::Timestamp;

/// The lobby of a loop.
pub(super) struct Lobby {
    /// The loop's epoll instance.
    outer: Rc<OwnedFd>,
    /// The epoll instance that watches those who wait.
    inner: Rc<OwnedFd>,
    events: Vec<epoll::Event>,
    allowance: Allowance,
    /// Until when nobody is let in.
    rest: Option<Timestamp>,
}

impl Lobby {
    /// An empty one; `outer` watches it.
    ///
    /// # Errors
    /// What epoll_create1(2) and epoll_ctl(2) report.
    pub(super) fn new(outer: Rc<OwnedFd>) -> Result<Self, Errno> {
        let inner = Rc::new(epoll::create(CreateFlags::CLOEXEC)?);
        epoll::add(&*outer, &*inner, data(), EventFlags::IN)?;
        let (events, allowance) = (Vec::with_capacity(1), Allowance::default());
        Ok(Self { outer, inner, events, allowance, rest: None })
    }

    /// The epoll instance that watches those who wait.
    pub(super) fn epoll(&self) -> &Rc<OwnedFd> {
        &self.inner
    }

    /// The event of who has waited longest, if anybody may be let in now.
    pub(super) fn next(&mut self) -> Option<epoll::Event> {
        if self.rests() {
            return None;
        }
        self.events.clear();
        // The kernel moves a descriptor to the end of its list when it reports it.
        look_now(&self.inner, &mut self.events).ok()?;
        self.events.pop()
    }

    /// Whether nobody is let in at present.
    pub(super) fn rests(&self) -> bool {
        self.rest.is_some()
    }

    /// When somebody is let in again.
    pub(super) fn rest(&self) -> Option<Timestamp> {
        self.rest
    }

    /// Ends the rest if it is over. True if it is from now on.
    pub(super) fn begin_again(&mut self, now: Timestamp) -> bool {
        let over = self.rest.is_some_and(|until| until <= now);
        if over {
            self.rest = None;
            self.watch(EventFlags::IN);
        }
        over
    }

    /// Does what is done for who waits, in the turn that began at `now`, and takes the processor's time for it: they do
    /// not pay for others that have run meanwhile, nor for a stop of the program. If they have used up theirs, they rest.
    pub(super) fn charge<T>(&mut self, now: Timestamp, work: impl FnOnce() -> T) -> T {
        let start = thread_time();
        let result = work();
        let used = thread_time().since(start);
        if let Some(rest) = self.allowance.spend(now, used) {
            if self.rest.is_none() {
                self.watch(EventFlags::empty());
            }
            self.rest = Some(now + used + rest);
        }
        result
    }

    fn watch(&self, flags: EventFlags) {
        if let Err(errno) = epoll::modify(&*self.outer, &*self.inner, data(), flags) {
            log::error!("Cannot watch the control sockets: {errno}");
        }
    }
}

fn data() -> EventData {
    EventData::new_u64(Token::Lobby.to_bits())
}

/// How much time may be used: grows with time, and goes below nothing where something took longer than was left.
#[derive(Debug)]
struct Allowance {
    /// Microseconds times `SHARE`: one microsecond that passes adds 1, one that is used takes `SHARE`.
    left: i64,
    /// When `left` was last brought up to date.
    at: Timestamp,
}

const SHARE: i64 = LOBBY_SHARE as i64;
const SAVINGS: i64 = LOBBY_SAVINGS.as_micros() as i64 * SHARE;

impl Default for Allowance {
    fn default() -> Self {
        Self { left: SAVINGS, at: Timestamp::ZERO }
    }
}

impl Allowance {
    /// The time `used` was used until `now`. Returns how long to rest, if at all.
    fn spend(&mut self, now: Timestamp, used: Duration) -> Option<Duration> {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        self.left = self.left.saturating_add(micros(now.since(self.at))).min(SAVINGS);
        self.left = self.left.saturating_sub(micros(used).saturating_mul(SHARE));
        self.at = now;
        (self.left < 0).then(|| Duration::from_micros(self.left.unsigned_abs()).max(LOBBY_REST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses `piece` whenever it may, for `time`; returns how much it was.
    fn uses(piece: Duration, time: Duration) -> Duration {
        let (mut allowance, mut now, mut used) =
            (Allowance::default(), Timestamp::ZERO, Duration::ZERO);
        while now < Timestamp::ZERO + time {
            let rest = allowance.spend(now, piece).unwrap_or_default();
            used += piece;
            now = now + piece + rest;
        }
        used
    }

    #[test]
    fn who_asks_for_everything_gets_a_share() {
        let time = Duration::from_secs(10);
        let share = time / u32::from(LOBBY_SHARE) + LOBBY_SAVINGS;
        for piece in [1, 7, 50, 900, 30_000].map(Duration::from_micros) {
            let used = uses(piece, time);
            assert!(used <= share + piece && used >= share / 10 * 8, "{piece:?}: {used:?}");
        }
    }

    #[test]
    fn who_asks_now_and_then_does_not_wait() {
        let (mut allowance, mut now) = (Allowance::default(), Timestamp::ZERO);
        for _ in 0..1000 {
            assert_eq!(allowance.spend(now, LOBBY_SAVINGS / 2), None);
            now = now + LOBBY_SAVINGS / 2 * u32::from(LOBBY_SHARE);
        }
    }

    #[test]
    fn what_takes_for_ever_is_no_more_than_an_overdraft() {
        let mut allowance = Allowance::default();
        let rest = allowance.spend(Timestamp::ZERO, Duration::MAX).expect("a rest");
        assert!(rest > Duration::from_secs(1));
        assert!(
            allowance.spend(Timestamp::from_micros(1), Duration::ZERO).is_some(),
            "not forgotten"
        );
    }

    #[test]
    fn a_rest_is_not_told_of_and_ends() {
        let outer = Rc::new(epoll::create(CreateFlags::CLOEXEC).expect("an epoll instance"));
        let mut lobby = Lobby::new(outer.clone()).expect("a lobby");
        let (ready, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        epoll::add(&**lobby.epoll(), &ready, data(), EventFlags::OUT).expect("watched");
        let told = || {
            let mut events = Vec::with_capacity(1);
            look_now(&outer, &mut events).expect("events");
            events.len()
        };
        assert!(told() == 1 && lobby.next().is_some());
        let others = || std::thread::sleep(LOBBY_SAVINGS + LOBBY_REST);
        lobby.charge(Timestamp::ZERO, others);
        assert!(!lobby.rests(), "others have run");
        let end = thread_time() + LOBBY_SAVINGS + LOBBY_REST;
        lobby.charge(Timestamp::ZERO, || while thread_time() < end {});
        let until = lobby.rest().expect("a rest");
        assert!(lobby.rests() && told() == 0 && lobby.next().is_none());
        assert!(!lobby.begin_again(Timestamp::ZERO) && lobby.rests());
        assert!(lobby.begin_again(until) && !lobby.begin_again(until));
        assert!(!lobby.rests() && told() == 1 && lobby.next().is_some());
    }
}
