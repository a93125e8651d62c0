//! Whatever has a descriptor, acts when that becomes readable, and is neither a flow, nor a listening socket,
//! nor the link: signals, a command that ends, a namespace that goes away, news of the host's neighbours, the clients
//! that control the program. The loop owns them and knows nothing else of them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use passt_frame::{Errno, ToGuest};
use rustix::event::epoll::{self, EventFlags};

use super::Engine;
use super::event_counters::EventType;
use super::lobby::Lobby;
use super::token::{SourceId, Token};
use crate::time::Timestamp;

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// SIGTERM or SIGQUIT.
    Signal,
    /// The one client is gone.
    ClientGone,
    /// What the program was to run beside is gone: a command, a namespace.
    Over,
}

/// When a source wants to be called though none of its descriptors has an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// At this time.
    pub at: Option<Timestamp>,
    /// At the end of each turn.
    pub each_turn: bool,
}

/// Something with a descriptor that acts on its events.
pub trait Source {
    /// What is watched for being readable, level-triggered. The same for as long as the source lives.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Under which name its events are counted.
    fn event_type(&self) -> EventType;

    /// Whether others go first. Clients from outside that can ask for any amount of work have to wait, so that packets
    /// do not.
    fn can_wait(&self) -> bool {
        false
    }

    /// The descriptor is readable. What is known of addresses and all else may be changed through `engine`, and
    /// frames may be sent to the guest through `out`; the loop ends with the turn if there is an [`Exit`].
    fn on_event(&mut self, engine: &mut Engine, out: &mut dyn ToGuest) -> Option<Exit>;

    /// The loop is about to end, and has only what is left to do before.
    fn leave(&mut self) {}

    /// The loop has ended, and everything else of it is taken down next. Start anything slow to shut down now.
    fn end(&mut self) {}

    /// The source belongs to a loop from now on, which watches other descriptors, too, as `watch` is told.
    fn begin(&mut self, _watch: SourceWatch) {}

    /// Under which name events of those other descriptors are counted.
    fn part_event_type(&self) -> EventType {
        self.event_type()
    }

    /// An event of one of those other descriptors.
    fn on_part(
        &mut self,
        _part: u32,
        _flags: EventFlags,
        _engine: &mut Engine,
        _out: &mut dyn ToGuest,
    ) {
    }

    /// When to call [`on_call`](Self::on_call). Asked after each of the source's methods that may change it.
    fn calls(&self) -> Calls {
        Calls::default()
    }

    /// It is as late as the source wanted it to be, or the end of a turn.
    fn on_call(&mut self, _engine: &mut Engine, _out: &mut dyn ToGuest) {}
}

/// Has the loop watch descriptors of a source beside its first one.
#[derive(Clone)]
pub struct SourceWatch {
    epoll: Rc<OwnedFd>,
    index: u16,
}

impl SourceWatch {
    /// Watches `descriptor`, level-triggered; its events are those of `part`, which is not 0.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn add(
        &self,
        descriptor: BorrowedFd<'_>,
        part: u32,
        flags: EventFlags,
    ) -> Result<(), Errno> {
        epoll::add(&*self.epoll, descriptor, self.data(part), flags)
    }

    /// Watches a descriptor for other events; part 0 is the source's first one.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn modify(
        &self,
        descriptor: BorrowedFd<'_>,
        part: u32,
        flags: EventFlags,
    ) -> Result<(), Errno> {
        epoll::modify(&*self.epoll, descriptor, self.data(part), flags)
    }

    /// Watches a descriptor no longer.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn remove(&self, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
        epoll::delete(&*self.epoll, descriptor)
    }

    fn data(&self, part: u32) -> epoll::EventData {
        epoll::EventData::new_u64(Token::Source(SourceId { index: self.index, part }).to_bits())
    }
}

/// The sources of a loop.
pub struct Sources {
    epoll: Rc<OwnedFd>,
    list: Vec<Box<dyn Source>>,
    /// For those who can wait, if there are any.
    lobby: Option<Lobby>,
    /// The calls that any of them wants.
    calls: Calls,
    /// When those who can wait have rested, an event of theirs goes first, and not their calls. Each may use up all of
    /// the time that there is, so they take turns.
    event_first: bool,
    /// Which source is called first: the one that others have left no time for.
    first: usize,
}

impl Sources {
    /// None yet; those to come are watched with `epoll`.
    pub fn new(epoll: Rc<OwnedFd>) -> Self {
        let calls = Calls::default();
        Self { epoll, list: Vec::new(), lobby: None, calls, event_first: false, first: 0 }
    }

    /// Has `source` act on its events from now on.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports, and epoll_create1(2) for the first that can wait.
    pub fn add(&mut self, mut source: Box<dyn Source>) -> Result<(), Errno> {
        if source.can_wait() && self.lobby.is_none() {
            self.lobby = Some(Lobby::new(self.epoll.clone())?);
        }
        let epoll = match &self.lobby {
            Some(lobby) if source.can_wait() => lobby.epoll().clone(),
            _ => self.epoll.clone(),
        };
        let watch = SourceWatch { epoll, index: self.list.len() as u16 };
        epoll::add(&*watch.epoll, source.descriptor(), watch.data(0), EventFlags::IN)?;
        source.begin(watch);
        self.list.push(source);
        self.ask();
        Ok(())
    }

    /// The loop is about to end.
    pub(super) fn leave(&mut self) {
        self.list.iter_mut().for_each(|source| source.leave());
    }

    /// The loop has ended.
    pub(crate) fn end(&mut self) {
        self.list.iter_mut().for_each(|source| source.end());
    }

    /// Until when those rest who can wait, if they do.
    pub fn rest(&self) -> Option<Timestamp> {
        self.lobby.as_ref()?.rest()
    }

    /// Somebody waits in the lobby: the event of who is let in now.
    pub fn let_in(&mut self) -> Option<epoll::Event> {
        self.lobby.as_mut()?.next()
    }

    /// Whether an event is of a source that others go before.
    pub(super) fn can_wait(&self, id: SourceId) -> bool {
        self.list.get(usize::from(id.index)).is_some_and(|source| source.can_wait())
    }

    /// An event of a descriptor of a source.
    pub fn on_event(
        &mut self,
        id: SourceId,
        flags: EventFlags,
        engine: &mut Engine,
        out: &mut dyn ToGuest,
    ) -> Option<Exit> {
        let source = self.list.get_mut(usize::from(id.index))?;
        let now = engine.now();
        let exit = charged(&mut self.lobby, now, &mut **source, |source| match id.part {
            0 => source.on_event(engine, out),
            part => {
                source.on_part(part, flags, engine, out);
                None
            }
        });
        if exit.is_some() {
            // What is left to be done is not to be woken by it again and again.
            let _ = epoll::delete(&*self.epoll, source.descriptor());
        }
        self.ask();
        exit
    }

    /// The end of a turn: calls those that want to be.
    pub fn end_turn(&mut self, engine: &mut Engine, out: &mut dyn ToGuest) {
        let is_due = |calls: Calls, now| calls.each_turn || calls.at.is_some_and(|at| at <= now);
        let now = engine.now();
        let rested = self.lobby.as_mut().is_some_and(|lobby| lobby.begin_again(now));
        self.event_first ^= rested;
        let event_first = rested && self.event_first;
        if !is_due(self.calls, now) {
            return;
        }
        let mut passed_over = None;
        for place in (self.first..self.list.len()).chain(0..self.first) {
            let source = &mut *self.list[place];
            if !is_due(source.calls(), now) {
                continue;
            }
            let rests = event_first || self.lobby.as_ref().is_some_and(Lobby::rests);
            if rests && source.can_wait() {
                passed_over = passed_over.or(Some(place));
                continue;
            }
            charged(&mut self.lobby, now, source, |source| source.on_call(engine, out));
        }
        self.first = passed_over.unwrap_or(self.first);
        self.ask();
        if event_first {
            // The next turn, which begins at once, is for both.
            self.calls.at = Some(now);
        }
    }

    /// When the next one wants to be called.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.calls.at
    }

    /// Under which name the events of a source are counted.
    pub(super) fn event_type(&self, id: SourceId) -> Option<EventType> {
        let source = self.list.get(usize::from(id.index))?;
        Some(if id.part == 0 { source.event_type() } else { source.part_event_type() })
    }

    /// Asks all when they want to be called: those who can wait, when their rest is over at the earliest.
    fn ask(&mut self) {
        let rest = self.rest();
        self.calls = Calls { at: rest, each_turn: false };
        for source in self.list.iter().filter(|source| rest.is_none() || !source.can_wait()) {
            let calls = source.calls();
            self.calls.at = [self.calls.at, calls.at].into_iter().flatten().min();
            self.calls.each_turn |= calls.each_turn;
        }
    }
}

/// Has a source act. The time counts for those who can wait.
fn charged<T>(
    lobby: &mut Option<Lobby>,
    now: Timestamp,
    source: &mut dyn Source,
    act: impl FnOnce(&mut dyn Source) -> T,
) -> T {
    match lobby {
        Some(lobby) if source.can_wait() => lobby.charge(now, || act(source)),
        _ => act(source),
    }
}

/// A signal descriptor that ends the loop.
pub struct Signals(pub OwnedFd);

impl Source for Signals {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::Signal
    }

    fn on_event(&mut self, _engine: &mut Engine, _out: &mut dyn ToGuest) -> Option<Exit> {
        Some(Exit::Signal)
    }
}
