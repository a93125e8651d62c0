//! The loop: one epoll instance, one turn after the other.

mod event_type;

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use passt_frame::{Errno, FrameObserver, FromGuestBatch, FrontEndRequest, LinkChange, PortEvents};
use rustix::event::epoll;
use rustix::time::Timespec;

use super::inspect::LinkCounters;
use super::link::{Clients, Door, Link};
use super::source::{Exit, Source, Sources};
use super::stats::Stats;
use super::token::Reported;
use super::wait::{LastTurn, Waits, monotonic_now, others_can_run};
use super::{Engine, Token};
use crate::limits::{BATCHES_PER_TURN, EVENTS_PER_WAIT, REST_AT_MOST, REST_SILENCE};
use crate::sys::process::alarm;
use crate::time::Timestamp;
use event_type::event_type;

/// The loop with everything it owns.
pub struct Worker<L: Link> {
    epoll: Rc<OwnedFd>,
    events: Vec<epoll::Event>,
    /// Its sockets are closed before the link is: a tap device takes milliseconds to go.
    engine: Box<Engine>,
    link: L,
    batch: FromGuestBatch,
    door: Door,
    sources: Sources,
    waits: Waits,
    /// When the last turn began.
    began: Timestamp,
    /// Frames from the guest may be waiting.
    frames: bool,
    /// When the link wants to be flushed again at the latest.
    flush_at: Option<Timestamp>,
    /// Whether events are counted: it costs a look for what each is about.
    counts_events: bool,
    stats: Option<Box<Stats>>,
    exit: Option<Exit>,
    /// End when the guest has moved away.
    ends_with_migration: bool,
    /// What is to be done once, and when.
    later: Option<(Timestamp, fn())>,
    /// When there is more to say of limits that were met, and of messages that were withheld.
    say_at: Option<Timestamp>,
    /// When the alarm was set, if calls of this loop are to be interrupted that do not come back.
    alarm: Option<Timestamp>,
}

impl<L: Link> Worker<L> {
    /// A worker without events yet.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn new(
        epoll: Rc<OwnedFd>,
        link: L,
        engine: impl Into<Box<Engine>>,
        clients: Clients,
    ) -> Result<Self, Errno> {
        let door = Door::new(epoll.clone(), clients)?;
        let batch = FromGuestBatch::new();
        let events = Vec::with_capacity(EVENTS_PER_WAIT);
        let waits = Waits::new(link.may_poll() && others_can_run());
        Ok(Self {
            events,
            link,
            engine: engine.into(),
            batch,
            door,
            sources: Sources::new(epoll.clone()),
            epoll,
            waits,
            began: Timestamp::ZERO,
            frames: false,
            flush_at: None,
            counts_events: false,
            stats: None,
            exit: None,
            ends_with_migration: false,
            later: None,
            say_at: None,
            alarm: None,
        })
    }

    /// Whether to end when the guest has moved away. If not, the sockets of its connections are kept, even where
    /// the end of the one client would be the end.
    pub(crate) fn end_with_migration(&mut self, ends: bool) {
        self.ends_with_migration = ends;
    }

    /// Has `action` done in the turn that begins after `delay`, once. There is one at a time.
    pub(crate) fn call_later(&mut self, delay: Duration, action: fn()) {
        debug_assert!(self.later.is_none(), "the one before was not done yet");
        self.later = Some((monotonic_now() + delay, action));
    }

    /// Has calls interrupted from now on that do not come back: a front-end can make its descriptors block.
    ///
    /// # Errors
    /// What sigaction(2) reports.
    pub(crate) fn interrupt_calls(&mut self) -> Result<(), Errno> {
        alarm::prepare()?;
        self.alarm = Some(Timestamp::ZERO);
        Ok(())
    }

    /// Has `source` act on its events from now on.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn add(&mut self, source: Box<dyn Source>) -> Result<(), Errno> {
        self.sources.add(source)
    }

    /// Shows each frame from now on to two observers: one for those from the guest, one for those to it.
    pub(crate) fn observe(&mut self, from: Box<dyn FrameObserver>, to: Box<dyn FrameObserver>) {
        self.batch.observe(from);
        self.engine.observe(to);
    }

    /// Counts events from now on, and prints the counters at most each `delay` and at the end.
    pub(crate) fn count_events(&mut self, delay: Duration) {
        self.counts_events = true;
        self.stats = Some(Box::new(Stats::new(delay)));
    }

    /// Counts events from now on, for those who ask.
    pub(crate) fn count_quietly(&mut self) {
        self.counts_events = true;
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, to be changed between turns.
    pub(crate) fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The link.
    pub fn link(&mut self) -> &mut L {
        &mut self.link
    }

    /// Turns until something ends the loop. Then the sockets of a guest that has just moved away are kept for a moment.
    ///
    /// # Errors
    /// What epoll_wait(2) reports: the loop cannot go on.
    pub fn run(&mut self) -> Result<Exit, Errno> {
        loop {
            let lingers = self.exit.and(self.engine.lingers_until());
            self.turn(lingers.map(|until| until.since(monotonic_now())))?;
            let lingers = self.engine.lingers_until().is_some_and(|until| monotonic_now() < until);
            if let Some(exit) = self.exit.filter(|_| !lingers) {
                if exit == Exit::Over {
                    self.pass_on_rest()?;
                }
                self.engine.cut_streams();
                self.engine.stop_listening();
                self.sources.end();
                self.engine.tell_of_last_shortages();
                self.log_drops();
                if let Some(stats) = &mut self.stats {
                    stats.report(monotonic_now(), &self.engine, &self.link);
                }
                return Ok(exit);
            }
        }
    }

    /// What ran beside the program has ended, and its kernel goes on sending what it had written: turns until that has
    /// all been passed on, or no more of it comes.
    fn pass_on_rest(&mut self) -> Result<(), Errno> {
        let mut now = monotonic_now();
        let end = now + REST_AT_MOST;
        let mut silent_at = now + REST_SILENCE;
        let mut busy = self.moves();
        while now < end && (busy || now < silent_at && self.engine.has_open_streams()) {
            self.turn(Some(if busy { Duration::ZERO } else { silent_at.min(end).since(now) }))?;
            now = monotonic_now();
            busy = self.moves();
            if busy {
                silent_at = now + REST_SILENCE;
            }
        }
        Ok(())
    }

    /// Whether the last turn had to do with flows or the guest, or has left some of that to the next.
    fn moves(&self) -> bool {
        let is_traffic = |event: &epoll::Event| {
            let token = Token::from_bits(event.data.u64());
            let of_flow = matches!(token, Some(Token::Flow(_) | Token::SecondSocket(_)));
            of_flow || matches!(token, Some(Token::Listener(_) | Token::Link(_)))
        };
        self.frames || self.engine.has_work() || self.events.iter().any(is_traffic)
    }

    /// One turn. Waits for an event no longer than `at_most`.
    ///
    /// # Errors
    /// What epoll_wait(2) reports.
    pub fn turn(&mut self, at_most: Option<Duration>) -> Result<(), Errno> {
        alarm::at_work(false);
        let now = monotonic_now();
        let timeout = self.timeout(now, at_most);
        self.events.clear();
        let last = LastTurn { began: self.began, ended: now, bulk: self.engine.moved_bulk() };
        self.waits.wait(&self.epoll, &mut self.events, timeout, last)?;
        let now = monotonic_now();
        self.began = now;
        self.set_alarm(now);
        self.engine.begin_turn(now);
        for index in 0..self.events.len() {
            let event = self.events[index];
            self.on_event(event.data.u64(), event.flags);
        }
        if self.link.deadline().is_some_and(|at| at <= now) {
            let events = self.link.on_deadline();
            self.on_link(events);
        }
        self.take_frames();
        let (_, out) = self.link.halves();
        self.engine.work(out);
        self.sources.end_turn(&mut self.engine, out);
        if let Some(ended) = self.engine.state_answer() {
            self.link.answer_check(ended);
        }
        let clock = Duration::from_micros(now.as_micros());
        let again = self.link.flush_lazily(clock);
        self.flush_at = again.map(|at| Timestamp::from_micros(at.as_micros() as u64));
        // Last, so that the client before it has left if it was going to.
        self.door.open(&mut self.link);
        self.show_stats(now);
        if let Some((_, action)) = self.later.take_if(|(at, _)| *at <= now) {
            action();
        }
        let limits = self.engine.tell_of_shortages();
        let withheld = crate::log::tell_withheld().map(|wait| now + wait);
        self.say_at = Timestamp::earliest([limits, withheld]);
        Ok(())
    }

    /// Sets the alarm, but not where it alone has woken the loop: it would do so for ever.
    fn set_alarm(&mut self, now: Timestamp) {
        if self.alarm.is_none() {
            return;
        }
        alarm::at_work(true);
        let due = [self.engine.next_deadline(), self.flush_at];
        let due = due.into_iter().flatten().any(|at| at <= now);
        let busy = due || self.frames || self.engine.has_work() || !self.events.is_empty();
        let woken_by_it = alarm::rang() && !busy;
        if !woken_by_it && self.alarm.is_none_or(|set| now.since(set) >= alarm::ALARM / 2) {
            self.alarm = Some(now);
            alarm::set();
        }
    }

    fn show_stats(&mut self, now: Timestamp) {
        let Some(stats) = &mut self.stats else { return };
        if stats.is_due(now, self.engine.counters()) {
            stats.report(now, &self.engine, &self.link);
        }
    }

    fn timeout(&self, now: Timestamp, at_most: Option<Duration>) -> Option<Timespec> {
        let frames = self.frames && !self.engine.holds_frames();
        let wait = if frames || self.engine.has_work() {
            Some(Duration::ZERO)
        } else {
            let later = self.later.map(|(at, _)| at);
            let deadlines = [
                self.engine.next_deadline(),
                self.flush_at,
                self.sources.deadline(),
                self.link.deadline(),
                self.say_at,
                later,
            ];
            let next = Timestamp::earliest(deadlines);
            let next = next.map(|at| at.since(now));
            [next, self.door.retry(), at_most].into_iter().flatten().min()
        };
        // Rounded up to a millisecond by kernels without epoll_pwait2, and never early.
        wait.and_then(|wait| Timespec::try_from(wait).ok())
    }

    fn on_event(&mut self, data: u64, flags: epoll::EventFlags) {
        let token = Token::from_bits(data);
        if let Some(token) = token {
            log::trace!("event: {token}: {}", Reported(flags));
        }
        if let Some(token) = token.filter(|_| self.counts_events)
            && let Some(event) = event_type(token, &self.engine, &self.link, &self.sources)
        {
            self.engine.count(event);
        }
        match token {
            Some(Token::Flow(id)) => self.engine.on_flow_event(id, flags),
            Some(Token::SecondSocket(id)) => self.engine.on_second_socket_event(id, flags),
            Some(Token::Listener(id)) => self.engine.on_listener_event(id),
            Some(Token::Link(token)) => {
                let events = self.link.on_event(token);
                self.on_link(events);
            }
            Some(Token::Clients) => self.door.knock(),
            Some(Token::Lobby) => {
                if let Some(event) = self.sources.let_in() {
                    self.on_event(event.data.u64(), event.flags);
                }
            }
            Some(Token::Source(id)) => {
                if self.sources.can_wait(id) {
                    self.note_link_counters();
                }
                let (_, out) = self.link.halves();
                let exit = self.sources.on_event(id, flags, &mut self.engine, out);
                exit.into_iter().for_each(|exit| self.leave(exit));
            }
            Some(Token::Migration(part)) => {
                let (_, out) = self.link.halves();
                self.engine.on_migration_event(out, part);
            }
            None => {}
        }
    }

    /// Copies what the link has counted to the engine, for those who may ask.
    fn note_link_counters(&mut self) {
        let mut counters = LinkCounters::default();
        self.link.counters(&mut |name, count| {
            let kept = counters.try_push((name, count));
            debug_assert!(kept.is_ok(), "there is no room for {name}: raise LINK_COUNTERS");
        });
        self.engine.note_link_counters(counters);
    }

    fn on_link(&mut self, events: PortEvents) {
        self.frames |= events.frames;
        while let Some(request) = self.link.take_request() {
            match request {
                FrontEndRequest::MtuChanged(mtu) => self.engine.set_mtu(mtu),
                FrontEndRequest::SaveState(stream) => self.engine.save_state(stream),
                FrontEndRequest::LoadState(stream) => self.engine.load_state(stream),
                FrontEndRequest::CheckState => self.engine.ask_for_state(),
                FrontEndRequest::Rewound => self.engine.on_guest_set_back(),
            }
        }
        let (_, out) = self.link.halves();
        match events.link {
            Some(LinkChange::Up) => self.engine.on_link_up(out),
            Some(LinkChange::Closed) => self.on_closed(),
            Some(LinkChange::Down) => self.engine.on_link_down(),
            None => {}
        }
        if events.room {
            self.engine.on_link_room();
        }
    }

    fn on_closed(&mut self) {
        self.engine.on_link_closed();
        let ends =
            if self.engine.has_left() { self.ends_with_migration } else { self.door.is_one_off() };
        let exiting = if ends { ", exiting" } else { "" };
        if self.link.has_clients() {
            log::info!("Client connection closed{exiting}");
        }
        if ends {
            self.leave(Exit::ClientGone);
        }
    }

    /// Ends the loop when what is left to do is done; the first reason counts.
    fn leave(&mut self, exit: Exit) {
        if self.exit.is_none() {
            self.exit = Some(exit);
            self.sources.leave();
        }
    }

    /// Takes waiting frames, but not for ever: sockets want their turn.
    fn take_frames(&mut self) {
        for _ in 0..BATCHES_PER_TURN {
            if !self.frames || self.engine.holds_frames() {
                return;
            }
            self.frames = self.engine.ingress(&mut self.link, &mut self.batch);
        }
    }

    fn log_drops(&self) {
        for (rule, count) in self.engine.egress_counts().into_iter().filter(|&(_, count)| count > 0)
        {
            log::debug!("egress: {count} by {rule}");
        }
        for (reason, count) in self.engine.drops() {
            log::debug!("dropped: {count} {}", reason.name());
        }
        self.link.counters(&mut |name, count| {
            if count > 0 {
                log::debug!("link: {count} {name}");
            }
        });
    }
}
