//! Which of the guest's addresses forwarded ports lead to: the assigned one as long as it is in use, whatever
//! other addresses the guest has besides (aliases, those of machines behind it, one that moves between guests).
//!
//! The guest's traffic shows an address in use, but an address that is silent may be in use, too. So when
//! another address speaks, the one that ports lead to is *asked* for, by ARP or neighbour solicitation. If it does
//! not answer within [`PATIENCE`], the other one is its *successor*. An address that was never seen, as the assigned
//! one of a guest with an address of its own, is succeeded at once; and the assigned one comes back whenever it speaks.
//!
//! Nor need an address speak that the guest has made for itself: it may wait to be talked to. All that shows it then is
//! the question whether it is free, which a guest that bridges passes on of other machines, too. So if no address of the
//! family was seen in use yet, the one that is first to be tried is a *candidate*: it is asked for when it may be in use, and
//! if it answers and the assigned one, which is asked for then, does not, ports lead there.
//!
//! Pure: who calls asks the question, and comes back when it is time.

use std::net::IpAddr;
use std::time::Duration;

use crate::time::Timestamp;

/// How long an answer may take. A late one is no harm: with it, the assigned address speaks.
const PATIENCE: Duration = Duration::from_millis(100);

/// Least time between two questions: a guest whose addresses speak in turn is not asked for each frame.
const PAUSE: Duration = Duration::from_secs(1);

/// How often the assigned address is asked for after it was succeeded: one that was given by DHCPv6 answers only
/// when the guest has made sure that nobody else has it (RFC 4862, 5.4), a second or two later.
const LATER_QUESTIONS: u8 = 3;

/// What is known of the address of one family that forwarded ports lead to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tenure {
    /// It was in use.
    seen: bool,
    /// Another address has spoken since it did.
    successor: Option<IpAddr>,
    /// It was asked for, and has not answered.
    asked: Option<Timestamp>,
    /// When it may be asked for again.
    next: Timestamp,
    /// The address that may be the first one in use.
    candidate: Option<IpAddr>,
    /// How often the candidate, or else the assigned address, which was succeeded, is asked for yet.
    later: u8,
}

/// What follows from something that was seen, or from time that has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Ports lead there from now on.
    pub(crate) lead_to: Option<IpAddr>,
    /// Ask for this address.
    pub(crate) ask: Option<IpAddr>,
    /// Come back at this time.
    pub(crate) again: Option<Timestamp>,
}

impl Tenure {
    /// An address that will be in use, once the guest has made sure that it may.
    pub(crate) fn expected() -> Self {
        Self { seen: true, ..Self::default() }
    }

    /// `source` has spoken; ports lead to `current`, and `assigned` is what the guest was given.
    pub(crate) fn on_source(
        &mut self,
        (current, assigned): (Option<IpAddr>, Option<IpAddr>),
        source: IpAddr,
        now: Timestamp,
    ) -> Step {
        let replaces = current.is_none() || !self.seen || assigned == Some(source);
        match current {
            Some(current) if source == current => {
                (self.seen, self.successor, self.asked) = (true, None, None);
                if self.candidate.take().is_some() {
                    self.later = 0;
                }
                Step::default()
            }
            Some(current) if assigned == Some(current) && self.answers_only(source, now) => {
                (self.candidate, self.later, self.successor) = (None, 0, Some(source));
                self.ask_at_once(current, now)
            }
            _ if replaces => {
                let next = self.next;
                *self = Self { seen: true, next, ..Self::default() };
                Step { lead_to: Some(source), ..Step::default() }
            }
            Some(current) => {
                if self.successor.replace(source).is_some() {
                    return Step::default();
                }
                self.ask(current, now)
            }
            None => Step::default(),
        }
    }

    /// Whether the address was in use, or is expected to be.
    pub(crate) fn is_seen(&self) -> bool {
        self.seen
    }

    /// Whether traffic from `address` may only be the answer to our question: it is the candidate, and was asked for. An
    /// advertisement teaches its source and then, at the same time, its target.
    fn answers_only(&self, address: IpAddr, now: Timestamp) -> bool {
        let was_asked = self.later < LATER_QUESTIONS && now < self.next;
        let is_candidate = self.candidate == Some(address) && was_asked;
        let again = self.successor == Some(address) && self.asked == Some(now);
        !self.seen && (is_candidate || again)
    }

    /// The guest tries whether `address` is free; ports lead to `current`. One that is taken does not answer.
    pub(crate) fn on_candidate(
        &mut self,
        current: Option<IpAddr>,
        address: IpAddr,
        now: Timestamp,
    ) -> Step {
        let other = self.candidate.is_some_and(|other| other != address && self.later > 0);
        if self.seen || other || current == Some(address) {
            return Step::default();
        }
        (self.candidate, self.later) = (Some(address), LATER_QUESTIONS);
        self.next = self.next.max(now + PAUSE);
        Step { again: Some(self.next), ..Step::default() }
    }

    /// Time has passed.
    pub(crate) fn on_timer(
        &mut self,
        (current, assigned): (Option<IpAddr>, Option<IpAddr>),
        now: Timestamp,
    ) -> Step {
        if self.candidate.is_some() {
            return self.ask_later(self.candidate, now);
        }
        let Some(current) = current else { return Step::default() };
        match (self.successor, self.asked) {
            (Some(successor), Some(asked)) if now >= asked + PATIENCE => {
                let later = if assigned == Some(current) { LATER_QUESTIONS } else { 0 };
                let next = self.next.max(now);
                *self = Self { seen: true, next, later, ..Self::default() };
                let again = (later > 0).then_some(next);
                Step { lead_to: Some(successor), again, ..Step::default() }
            }
            (Some(_), Some(asked)) => Step { again: Some(asked + PATIENCE), ..Step::default() },
            (Some(_), None) => self.ask(current, now),
            (None, _) => self.ask_later(assigned.filter(|assigned| *assigned != current), now),
        }
    }

    /// Asks for `current` now, unless that was done: another question was the one before.
    fn ask_at_once(&mut self, current: IpAddr, now: Timestamp) -> Step {
        if self.asked.is_some() {
            return Step::default();
        }
        self.next = now;
        self.ask(current, now)
    }

    /// Asks for `current`, now or when it may be asked for again.
    fn ask(&mut self, current: IpAddr, now: Timestamp) -> Step {
        if now < self.next {
            return Step { again: Some(self.next), ..Step::default() };
        }
        (self.asked, self.next) = (Some(now), now + PAUSE);
        Step { ask: Some(current), again: Some(now + PATIENCE), ..Step::default() }
    }

    /// The question that was to be asked has found no room on the link: it is still to be asked.
    pub(crate) fn on_question_lost(&mut self, now: Timestamp) -> Step {
        if self.asked.take().is_none() {
            self.later = (self.later + 1).min(LATER_QUESTIONS);
        }
        self.next = now + PATIENCE;
        Step { again: Some(self.next), ..Step::default() }
    }

    /// Asks for `address`, which does not answer yet.
    fn ask_later(&mut self, address: Option<IpAddr>, now: Timestamp) -> Step {
        let Some(address) = address.filter(|_| self.later > 0) else { return Step::default() };
        if now >= self.next {
            (self.later, self.next) = (self.later - 1, now + PAUSE);
            let again = (self.later > 0).then_some(self.next);
            return Step { ask: Some(address), again, ..Step::default() };
        }
        Step { again: Some(self.next), ..Step::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::ip;
    use super::*;

    /// A guest in virtual time: what ports lead to, and which questions it answers.
    struct World {
        tenure: Tenure,
        current: Option<IpAddr>,
        assigned: Option<IpAddr>,
        now: Timestamp,
        timer: Option<Timestamp>,
        questions: usize,
        /// Addresses that answer.
        answering: Vec<IpAddr>,
        /// Questions reach nobody.
        without_room: bool,
    }

    impl World {
        fn new(assigned: &str, answering: &[&str]) -> Self {
            Self {
                tenure: Tenure::default(),
                current: Some(ip(assigned)),
                assigned: Some(ip(assigned)),
                now: Timestamp::from_micros(1_000_000),
                timer: None,
                questions: 0,
                answering: answering.iter().map(|address| ip(address)).collect(),
                without_room: false,
            }
        }

        fn take(&mut self, step: Step) {
            self.current = step.lead_to.or(self.current);
            self.timer = [self.timer, step.again].into_iter().flatten().min();
            if step.ask.is_some() && self.without_room {
                let step = self.tenure.on_question_lost(self.now);
                return self.take(step);
            }
            if let Some(asked) = step.ask {
                self.questions += 1;
                if self.answering.contains(&asked) {
                    self.speak_address(asked);
                }
            }
        }

        fn speak_address(&mut self, source: IpAddr) {
            let step = self.tenure.on_source((self.current, self.assigned), source, self.now);
            self.take(step);
        }

        fn speak(&mut self, source: &str) -> &mut Self {
            self.speak_address(ip(source));
            self
        }

        /// The guest asks whether `address` is free.
        fn try_out(&mut self, address: &str) -> &mut Self {
            let step = self.tenure.on_candidate(self.current, ip(address), self.now);
            self.take(step);
            self
        }

        fn pass(&mut self, millis: u64) -> &mut Self {
            let end = self.now + Duration::from_millis(millis);
            while let Some(at) = self.timer.filter(|at| *at <= end) {
                self.now = self.now.max(at);
                self.timer = None;
                let step = self.tenure.on_timer((self.current, self.assigned), self.now);
                self.take(step);
            }
            self.now = end;
            self
        }

        fn leads_to(&self, address: &str) {
            assert_eq!(self.current, Some(ip(address)), "{:?}", self.tenure);
        }
    }

    const OURS: &str = "192.0.2.2";
    const ALIAS: &str = "192.0.2.77";

    #[test]
    fn an_address_that_was_never_seen_is_succeeded_at_once() {
        let mut world = World::new(OURS, &[]);
        world.speak(ALIAS).leads_to(ALIAS);
        assert_eq!((world.questions, world.timer), (0, None));
        world.speak(OURS).leads_to(OURS);
    }

    #[test]
    fn an_alias_does_not_take_ports_away() {
        for address in [(OURS, ALIAS), ("2001:db8::2", "2001:db8::77")] {
            let mut world = World::new(address.0, &[address.0]);
            world.speak(address.0);
            for _ in 0..1000 {
                world.speak(address.1).pass(10).leads_to(address.0);
            }
            assert!((8..=11).contains(&world.questions), "{} questions", world.questions);
        }
    }

    #[test]
    fn addresses_that_speak_in_turn_are_not_asked_for_each_time() {
        let mut world = World::new(OURS, &[]);
        for _ in 0..1000 {
            world.speak(OURS).speak(ALIAS).pass(1).leads_to(OURS);
        }
        assert!(world.questions <= 2, "{} questions", world.questions);
    }

    #[test]
    fn a_changed_address_is_followed_soon() {
        let mut world = World::new(OURS, &[]);
        world.speak(OURS).pass(5000).speak(ALIAS).leads_to(OURS);
        world.pass(99).leads_to(OURS);
        world.pass(1).leads_to(ALIAS);
        // And the next one, from an address that is none of ours.
        world.pass(5000).speak("192.0.2.78").pass(100).leads_to("192.0.2.78");
    }

    #[test]
    fn one_that_changes_right_after_a_question_is_followed_when_the_pause_is_over() {
        let mut world = World::new(OURS, &[OURS]);
        world.speak(OURS).speak(ALIAS).pass(10).leads_to(OURS);
        world.answering.clear();
        world.speak(ALIAS).pass(900).leads_to(OURS);
        world.pass(200).leads_to(ALIAS);
    }

    #[test]
    fn who_was_not_asked_for_want_of_room_is_asked_when_there_is_some() {
        let mut world = World::new(OURS, &[OURS]);
        world.without_room = true;
        world.speak(OURS).speak(ALIAS).pass(2000).leads_to(OURS);
        world.without_room = false;
        world.pass(200).leads_to(OURS);
        assert_eq!(world.questions, 1);

        let mut silent = World::new(OURS, &[]);
        silent.speak(OURS).speak(ALIAS).pass(100).leads_to(ALIAS);
        silent.without_room = true;
        silent.pass(10_000);
        silent.without_room = false;
        silent.pass(10_000);
        assert_eq!(silent.questions, 1 + usize::from(LATER_QUESTIONS));
    }

    #[test]
    fn the_assigned_address_comes_back_when_it_speaks() {
        let mut world = World::new(OURS, &[]);
        world.speak(OURS).speak(ALIAS).pass(100).leads_to(ALIAS);
        world.speak(OURS).leads_to(OURS);
    }

    #[test]
    fn the_assigned_address_is_asked_for_some_times_more() {
        let mut world = World::new(OURS, &[]);
        world.speak(OURS).speak(ALIAS).pass(100).leads_to(ALIAS);
        world.pass(1500).leads_to(ALIAS);
        world.answering.push(ip(OURS));
        world.pass(1000).leads_to(OURS);

        let mut silent = World::new(OURS, &[]);
        silent.speak(OURS).speak(ALIAS).pass(100_000).leads_to(ALIAS);
        assert_eq!(silent.questions, 1 + usize::from(LATER_QUESTIONS));
    }

    #[test]
    fn an_address_that_was_only_tried_is_asked_for_when_it_may_be_in_use() {
        for assigned in [Some("2001:db8::2"), None] {
            let mut world = World::new("2001:db8::2", &["2001:db8::77"]);
            (world.current, world.assigned) = (assigned.map(ip), assigned.map(ip));
            world.try_out("2001:db8::77").pass(999);
            assert_eq!((world.current, world.questions), (assigned.map(ip), 0));
            world.pass(1);
            if let Some(assigned) = assigned {
                world.pass(99).leads_to(assigned);
                world.pass(1);
            }
            world.leads_to("2001:db8::77");
            world.pass(100_000);
            let of_assigned = assigned.map_or(0, |_| 1 + usize::from(LATER_QUESTIONS));
            assert_eq!(world.questions, 1 + of_assigned);
        }
    }

    #[test]
    fn one_that_was_tried_and_is_not_used_has_no_ports() {
        let mut world = World::new(OURS, &["192.0.2.78"]);
        world.try_out(ALIAS).pass(500).try_out("192.0.2.78").pass(100_000).leads_to(OURS);
        assert_eq!(world.questions, usize::from(LATER_QUESTIONS));
        world.try_out("192.0.2.78").pass(1100).leads_to("192.0.2.78");
    }

    #[test]
    fn one_that_was_tried_takes_no_ports_from_the_assigned_one_which_answers() {
        let mut world = World::new(OURS, &[OURS, ALIAS]);
        world.try_out(ALIAS).pass(1000).leads_to(OURS);
        world.speak(ALIAS).pass(100_000).leads_to(OURS);
        // And where both answers take a while: an advertisement teaches its source, and its target.
        let mut slow = World::new(OURS, &[]);
        slow.try_out(ALIAS).pass(1000).speak(ALIAS).speak(ALIAS).pass(50).speak(OURS);
        slow.pass(100_000).leads_to(OURS);
        assert_eq!(slow.questions, 2);
    }

    #[test]
    fn one_that_was_tried_and_speaks_of_itself_has_the_ports_at_once() {
        for millis in [0, 500, 1010, 1090] {
            let mut world = World::new(OURS, &[ALIAS]);
            world.try_out(ALIAS).pass(millis).leads_to(OURS);
            world.speak(ALIAS).leads_to(ALIAS);
        }
    }

    #[test]
    fn one_that_was_tried_takes_no_ports_from_one_that_was_seen() {
        for spoken_first in [true, false] {
            for spoken in [OURS, "192.0.2.78"] {
                let mut world = World::new(OURS, &[spoken, ALIAS]);
                if spoken_first {
                    world.speak(spoken).try_out(ALIAS);
                } else {
                    world.try_out(ALIAS).speak(spoken);
                }
                world.pass(100_000).leads_to(spoken);
                assert_eq!(world.questions, 0);
            }
        }
        let mut assigned = World::new(OURS, &[OURS]);
        assigned.try_out(OURS).pass(100_000).leads_to(OURS);
        assert_eq!(assigned.questions, 0);
    }

    #[test]
    fn a_candidate_is_asked_for_when_there_is_room() {
        let mut world = World::new(OURS, &[ALIAS]);
        world.without_room = true;
        world.try_out(ALIAS).pass(10_000).leads_to(OURS);
        world.without_room = false;
        world.pass(300).leads_to(ALIAS);
    }
}
