//! The loop: one epoll instance, one turn after the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use passt_frame::{Errno, FrameObserver, FramePort, FromGuestBatch, LinkChange, PortEvents};
use rustix::event::epoll;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::stats::{EventType, Stats, event_type};
use super::token::Reported;
use super::wait::{LastTurn, Waits, others_can_run};
use super::{Engine, Token};
use crate::limits::{BATCHES_PER_TURN, EVENTS_PER_WAIT};
use crate::sys::socket;
use crate::time::Timestamp;

/// How often a client is looked at that cannot be accepted.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// A link whose client connects through a socket.
pub trait Link: FramePort {
    /// A client has connected.
    ///
    /// # Errors
    /// What to tell the operator; the connection is closed.
    fn attach(&mut self, stream: UnixStream) -> Result<(), String>;

    /// Whether a client is connected.
    fn is_attached(&self) -> bool;

    /// Whether the connected client has gone already, or is to go; the events of this turn and the
    /// next ones say so when everything that it left has been taken.
    fn is_leaving(&self) -> bool {
        false
    }

    /// Whether who is behind the link is a client, which comes and goes.
    fn has_clients(&self) -> bool {
        true
    }

    /// The type of the event that the link registered under `token`.
    fn event_type(&self, token: u16) -> EventType;

    /// Whether the processor may be kept busy for a moment, for events that are likely to come.
    fn may_poll(&self) -> bool {
        false
    }
}

impl Link for passt_vhost::Device {
    fn attach(&mut self, stream: UnixStream) -> Result<(), String> {
        passt_vhost::Device::attach(self, stream).map_err(|error| error.to_string())
    }

    fn is_attached(&self) -> bool {
        passt_vhost::Device::is_attached(self)
    }

    fn is_leaving(&self) -> bool {
        self.front_end().is_some_and(socket::has_hung_up)
    }

    fn event_type(&self, token: u16) -> EventType {
        if Self::is_kick(token) { EventType::Kick } else { EventType::Control }
    }
}

/// Something that may end the loop: a command, a namespace.
pub trait Watch {
    /// What is watched for being readable.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// It has become readable.
    fn on_event(&mut self) -> Option<End>;
}

/// Where clients of the link come from.
pub struct Clients {
    /// The socket on which they connect; `None` when the one connection was handed over.
    pub listener: Option<UnixListener>,
    /// End when the client is gone.
    pub one_off: bool,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGTERM or SIGQUIT.
    Signal,
    /// The one client is gone.
    ClientGone,
    /// A [`Watch`] said so.
    Watch,
}

/// The loop with everything it owns.
pub struct Worker<L: Link> {
    epoll: Rc<OwnedFd>,
    events: Vec<epoll::Event>,
    link: L,
    engine: Engine,
    batch: FromGuestBatch,
    clients: Clients,
    /// Kept open for epoll.
    signals: Option<OwnedFd>,
    watches: Vec<Box<dyn Watch>>,
    waits: Waits,
    /// When the last turn began.
    began: Timestamp,
    /// Frames from the guest may be waiting.
    frames: bool,
    /// A client wants to connect.
    knocking: bool,
    /// A client waits that cannot be accepted for want of descriptors.
    clients_wait: bool,
    /// When the link wants to be flushed again at the latest.
    flush_at: Option<Timestamp>,
    stats: Option<Box<Stats>>,
    end: Option<End>,
}

/// The monotonic clock.
pub fn monotonic_now() -> Timestamp {
    let now = clock_gettime(ClockId::Monotonic);
    Timestamp::from_micros(now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000)
}

impl<L: Link> Worker<L> {
    /// A worker without events yet.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn new(
        epoll: Rc<OwnedFd>,
        link: L,
        engine: Engine,
        clients: Clients,
    ) -> Result<Self, Errno> {
        if let Some(listener) = &clients.listener {
            listener.set_nonblocking(true).map_err(|_| Errno::INVAL)?;
            watch(&epoll, listener, Token::Clients)?;
        }
        let batch = FromGuestBatch::new();
        let events = Vec::with_capacity(EVENTS_PER_WAIT);
        let waits = Waits::new(link.may_poll() && others_can_run());
        Ok(Self {
            epoll,
            events,
            link,
            engine,
            batch,
            clients,
            signals: None,
            watches: Vec::new(),
            waits,
            began: Timestamp::ZERO,
            frames: false,
            knocking: false,
            clients_wait: false,
            flush_at: None,
            stats: None,
            end: None,
        })
    }

    /// Lets `watch` end the loop.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn watch(&mut self, watch: Box<dyn Watch>) -> Result<(), Errno> {
        let token = Token::Watch(self.watches.len() as u32);
        self::watch(&self.epoll, watch.descriptor(), token)?;
        self.watches.push(watch);
        Ok(())
    }

    /// Ends the loop when a signal descriptor becomes readable. Only in the process that runs the
    /// loop: a signal descriptor in epoll reports the signals of the process that added it, so one
    /// added before a fork stays silent in the child.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn end_on(&mut self, signals: OwnedFd) -> Result<(), Errno> {
        watch(&self.epoll, &signals, Token::Signals)?;
        self.signals = Some(signals);
        Ok(())
    }

    /// Shows each frame from now on to two observers: one for those from the guest, one for those to it.
    pub fn observe(&mut self, from: Box<dyn FrameObserver>, to: Box<dyn FrameObserver>) {
        self.batch.observe(from);
        self.engine.observe(to);
    }

    /// Counts events from now on, and prints the counters at most each `delay` and at the end.
    pub fn count_events(&mut self, delay: Duration) {
        self.stats = Some(Box::new(Stats::new(delay)));
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The link.
    pub fn link(&mut self) -> &mut L {
        &mut self.link
    }

    /// Turns until something ends the loop.
    ///
    /// # Errors
    /// What epoll_wait(2) reports: the loop cannot go on.
    pub fn run(&mut self) -> Result<End, Errno> {
        loop {
            self.turn(None)?;
            if let Some(end) = self.end {
                self.log_drops();
                if let Some(stats) = &mut self.stats {
                    stats.report(monotonic_now(), &self.engine, &self.link);
                }
                return Ok(end);
            }
        }
    }

    /// One turn. Waits for an event no longer than `at_most`.
    ///
    /// # Errors
    /// What epoll_wait(2) reports.
    pub fn turn(&mut self, at_most: Option<Duration>) -> Result<(), Errno> {
        let timeout = self.timeout(at_most);
        self.events.clear();
        let last = LastTurn { began: self.began, bulk: self.engine.moved_bulk() };
        self.waits.wait(&self.epoll, &mut self.events, timeout, last)?;
        let now = monotonic_now();
        self.began = now;
        self.engine.begin_turn(now);
        for index in 0..self.events.len() {
            let event = self.events[index];
            self.on_event(event.data.u64(), event.flags);
        }
        self.take_frames();
        let (_, out) = self.link.halves();
        self.engine.work(out);
        let clock = Duration::from_micros(now.as_micros());
        let again = self.link.flush_lazily(clock);
        self.flush_at = again.map(|at| Timestamp::from_micros(at.as_micros() as u64));
        // Last, so that the client before it has left if it was going to.
        if std::mem::take(&mut self.knocking) || self.clients_wait {
            self.accept_client();
        }
        if self.stats.is_some() {
            self.show_stats(now);
        }
        Ok(())
    }

    fn show_stats(&mut self, now: Timestamp) {
        let Some(stats) = &mut self.stats else { return };
        let expired = self.engine.expired;
        stats.set_timers(expired.tcp, expired.all - expired.tcp);
        if stats.is_due(now) {
            stats.report(now, &self.engine, &self.link);
        }
    }

    fn timeout(&self, at_most: Option<Duration>) -> Option<Timespec> {
        let wait = if self.frames || self.engine.has_work() {
            Some(Duration::ZERO)
        } else {
            let next = [self.engine.next_deadline(), self.flush_at].into_iter().flatten().min();
            let next = next.map(|at| at.since(monotonic_now()));
            let retry = self.clients_wait.then_some(ACCEPT_RETRY);
            [next, retry, at_most].into_iter().flatten().min()
        };
        // Rounded up to a millisecond by kernels without epoll_pwait2, and never early.
        wait.and_then(|wait| Timespec::try_from(wait).ok())
    }

    fn on_event(&mut self, data: u64, flags: epoll::EventFlags) {
        let token = Token::from_bits(data);
        if let Some(token) = token {
            log::trace!("event: {token}: {}", Reported(flags));
        }
        if let (Some(stats), Some(token)) = (&mut self.stats, token) {
            stats.count(event_type(token, &self.engine, &self.link));
        }
        match token {
            Some(Token::Flow(id)) => self.engine.on_flow_event(id, flags),
            Some(Token::Target(id)) => self.engine.on_target_event(id, flags),
            Some(Token::Listener(index)) => self.engine.on_listener_event(index),
            Some(Token::Link(token)) => {
                let events = self.link.on_event(token);
                self.on_link(events);
            }
            Some(Token::Neighbours) => self.engine.on_neighbours_event(self.link.halves().1),
            Some(Token::Clients) => self.knocking = true,
            Some(Token::Signals) if self.signals.is_some() => self.end = Some(End::Signal),
            Some(Token::Watch(index)) => {
                let watch = self.watches.get_mut(index as usize);
                self.end = self.end.or(watch.and_then(|watch| watch.on_event()));
            }
            Some(Token::Signals) | None => {}
        }
    }

    fn on_link(&mut self, events: PortEvents) {
        self.frames |= events.frames;
        let (_, out) = self.link.halves();
        match events.link {
            Some(LinkChange::Up) => self.engine.on_link_up(out),
            Some(LinkChange::Closed) => self.on_closed(),
            Some(LinkChange::Down) | None => {}
        }
        if events.room {
            self.engine.on_link_room();
        }
    }

    fn on_closed(&mut self) {
        let exiting = if self.clients.one_off { ", exiting" } else { "" };
        if self.link.has_clients() {
            log::info!("Client connection closed{exiting}");
        }
        if self.clients.one_off {
            self.end = Some(End::ClientGone);
        }
    }

    /// Takes waiting frames, but not for ever: sockets want their turn.
    fn take_frames(&mut self) {
        for _ in 0..BATCHES_PER_TURN {
            if !self.frames {
                return;
            }
            self.frames = self.engine.ingress(&mut self.link, &mut self.batch);
        }
    }

    fn accept_client(&mut self) {
        let Some(listener) = &self.clients.listener else { return };
        if self.link.is_leaving() {
            // The one before comes first. The listening socket is reported again in the next turn.
            return;
        }
        let accepted = listener.accept();
        self.note_exhaustion(accepted.as_ref().err());
        let Ok((stream, _)) = accepted else { return };
        let peer = match socket::peer_process(stream.as_fd()) {
            Some(pid) => format!("PID {pid}"),
            None => "another PID namespace".to_owned(),
        };
        if self.link.is_attached() {
            log::info!("discarding connection from {peer}");
            return;
        }
        log::info!("accepted connection from {peer}");
        if let Err(error) = self.link.attach(stream) {
            log::error!("{error}");
        }
    }

    /// A client that cannot be accepted stays in the queue and would be reported without end: the
    /// socket is not watched then, and looked at again in later turns.
    fn note_exhaustion(&mut self, error: Option<&std::io::Error>) {
        let errno = error.and_then(Errno::from_io_error);
        let wait =
            matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM));
        let Some(listener) = &self.clients.listener else { return };
        if wait == std::mem::replace(&mut self.clients_wait, wait) {
            return;
        }
        if let (true, Some(error)) = (wait, error) {
            log::warn!("Cannot accept a client: {error}: it has to wait");
        }
        let events = if wait { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
        let data = epoll::EventData::new_u64(Token::Clients.to_bits());
        if let Err(errno) = epoll::modify(&*self.epoll, listener, data, events) {
            log::error!("cannot watch the clients' socket: {errno}");
        }
    }

    fn log_drops(&self) {
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

/// Reports readability of `fd`, level-triggered.
fn watch(epoll: &OwnedFd, fd: impl AsFd, token: Token) -> Result<(), Errno> {
    let data = epoll::EventData::new_u64(token.to_bits());
    epoll::add(epoll, fd, data, epoll::EventFlags::IN)
}
