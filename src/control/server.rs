//! A socket on which clients connect to control the program, as a source of the loop. As many are served at a time as
//! there are places; others wait in the kernel's queue. Who has a place is cut off when it sends no request in time
//! or does not read, and soon while others wait.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_frame::{Errno, ToGuest};
use rustix::event::epoll::EventFlags;
use rustix::net::{SocketFlags, accept_with};

use super::client::{Client, Crowd, End};
use super::cut_off::CutOff;
use super::protocol::Protocol;
use crate::engine::{Calls, Engine, EventType, Exit, Source, SourceWatch};
use crate::limits::ACCEPT_RETRY;
use crate::sys::socket;
use crate::time::Timestamp;

/// How the server is told of in messages, and how large a place is.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// What its clients are, as in `configuration client`.
    pub name: &'static str,
    /// How loud it is told that one has come: who asks each minute would fill the log.
    pub arrivals: log::Level,
    /// Bytes of the longest request.
    pub input_bytes: usize,
    /// Bytes that a client is told at a time.
    pub output_bytes: usize,
}

/// A listening socket with its clients.
pub struct Server<P> {
    listener: OwnedFd,
    kind: Kind,
    clients: Vec<Client<P>>,
    watch: Option<SourceWatch>,
    /// When the socket is looked at again, which is not watched: places or descriptors have run out.
    closed: Option<Closed>,
    cut_off: CutOff,
}

/// Why the listening socket is not watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closed {
    /// All places are taken, and somebody waits.
    Crowded,
    /// There was no descriptor for who waits. It is tried again at this time.
    Exhausted(Timestamp),
}

impl<P: Protocol> Server<P> {
    /// Serves the clients that connect to `listener`, one at a time by each of `protocols`.
    ///
    /// # Errors
    /// What fcntl(2) reports.
    pub fn new(
        listener: OwnedFd,
        kind: Kind,
        protocols: impl IntoIterator<Item = P>,
    ) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let bytes = (kind.input_bytes, kind.output_bytes);
        let clients = protocols.into_iter().map(|protocol| Client::new(protocol, bytes)).collect();
        let (watch, closed, cut_off) = (None, None, CutOff::default());
        Ok(Self { listener, kind, clients, watch, closed, cut_off })
    }

    /// Lets in who waits, as far as there are places. Once there are none, those who have one must be quick.
    fn accept(&mut self, engine: &mut Engine, out: &mut dyn ToGuest) {
        if self.clients.iter().all(|client| !client.is_free()) {
            return self.set_closed(Some(Closed::Crowded));
        }
        for place in 0..self.clients.len() {
            if !self.clients[place].is_free() {
                continue;
            }
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match accept_with(&self.listener, flags) {
                Ok(socket) => self.let_in(place, socket, engine, out),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return self.set_closed(None),
                Err(errno) => {
                    let name = self.kind.name;
                    log::warn!("Cannot accept a {name} client: {errno}: it has to wait");
                    return self.set_closed(Some(Closed::Exhausted(engine.now() + ACCEPT_RETRY)));
                }
            }
        }
        self.set_closed(None);
    }

    fn let_in(
        &mut self,
        place: usize,
        socket: OwnedFd,
        engine: &mut Engine,
        out: &mut dyn ToGuest,
    ) {
        let who = socket::peer_in_words(socket.as_fd());
        let Some(watch) = &self.watch else { return };
        if let Err(errno) = watch.add(socket.as_fd(), part_of(place), EventFlags::empty()) {
            return log::warn!("Cannot watch a {} client: {errno}", self.kind.name);
        }
        log::log!(self.kind.arrivals, "Accepted {} client, {who}", self.kind.name);
        self.clients[place].begin(socket, who, engine.now());
        self.serve(place, engine, out);
    }

    /// Goes on with a client, until it has to wait or to go.
    fn serve(&mut self, place: usize, engine: &mut Engine, out: &mut dyn ToGuest) {
        let Some(watch) = &self.watch else { return };
        let client = &mut self.clients[place];
        let gone = client.go_on(engine, out).and_then(|()| match client.rewatch() {
            Some((socket, flags)) => {
                watch.modify(socket.as_fd(), part_of(place), flags).map_err(End::Broken)
            }
            None => Ok(()),
        });
        if let Err(end) = gone {
            self.dismiss(place, end, engine.now());
        }
    }

    /// A client goes: its place is for the next one.
    fn dismiss(&mut self, place: usize, end: End, now: Timestamp) {
        let Some((socket, who)) = self.clients[place].end() else { return };
        // A process that was begun meanwhile may hold a copy until it runs its program: a closed socket would be told
        // of until then, again and again.
        if let Some(watch) = &self.watch
            && let Err(errno) = watch.remove(socket.as_fd())
        {
            log::error!("Cannot stop watching a {} client: {errno}", self.kind.name);
        }
        let name = self.kind.name;
        match end {
            End::Done | End::Left => log::debug!("{name} client, {who}: {end}"),
            _ if self.cut_off.note(now) => log::warn!("{name} client, {who}: {end}: cut off"),
            _ => log::debug!("{name} client, {who}: {end}: cut off"),
        }
        if self.closed == Some(Closed::Crowded) {
            self.set_closed(None);
        }
    }

    /// Stops watching the listening socket, or begins again.
    fn set_closed(&mut self, closed: Option<Closed>) {
        let before = std::mem::replace(&mut self.closed, closed);
        if before.is_some() == closed.is_some() {
            return;
        }
        let flags = if closed.is_some() { EventFlags::empty() } else { EventFlags::IN };
        if let Some(watch) = &self.watch
            && let Err(errno) = watch.modify(self.listener.as_fd(), 0, flags)
        {
            log::error!("Cannot watch the {} socket: {errno}", self.kind.name);
        }
    }

    /// Why a client has to go by now, if it has.
    fn end_of(&self, place: usize, now: Timestamp) -> Option<End> {
        let (at, end) = self.clients[place].deadline(self.crowd())?;
        (at <= now).then_some(end)
    }

    /// Who has to make room.
    fn crowd(&self) -> Crowd {
        if self.closed != Some(Closed::Crowded) {
            return Crowd::None;
        }
        match self.clients.iter().all(Client::only_listens) {
            true => Crowd::Listeners,
            false => Crowd::Askers,
        }
    }
}

/// Under which name the client at a place is watched.
fn part_of(place: usize) -> u32 {
    place as u32 + 1
}

impl<P: Protocol> Source for Server<P> {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::ConfigurationDoor
    }

    fn part_event_type(&self) -> EventType {
        EventType::Configuration
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn on_event(&mut self, engine: &mut Engine, out: &mut dyn ToGuest) -> Option<Exit> {
        self.accept(engine, out);
        None
    }

    fn begin(&mut self, watch: SourceWatch) {
        self.watch = Some(watch);
    }

    fn on_part(
        &mut self,
        part: u32,
        _flags: EventFlags,
        engine: &mut Engine,
        out: &mut dyn ToGuest,
    ) {
        let place = part as usize - 1;
        if place < self.clients.len() {
            self.serve(place, engine, out);
        }
    }

    fn calls(&self) -> Calls {
        let crowd = self.crowd();
        let deadlines = self.clients.iter().filter_map(|client| client.deadline(crowd));
        let retry = match self.closed {
            Some(Closed::Exhausted(at)) => Some(at),
            _ => None,
        };
        Calls {
            at: deadlines.map(|(at, _)| at).chain(retry).chain(self.cut_off.due()).min(),
            each_turn: self.clients.iter().any(Client::wants_turns),
        }
    }

    fn on_call(&mut self, engine: &mut Engine, out: &mut dyn ToGuest) {
        let now = engine.now();
        for place in 0..self.clients.len() {
            match self.end_of(place, now) {
                // Who was not looked at for long may have asked in time.
                Some(End::Silent) => self.serve(place, engine, out),
                None if self.clients[place].wants_turns() => self.serve(place, engine, out),
                _ => {}
            }
            if let Some(end) = self.end_of(place, now) {
                self.dismiss(place, end, now);
            }
        }
        if let Some(count) = self.cut_off.take(now) {
            log::warn!("{count} more {} clients were cut off: --debug names them", self.kind.name);
        }
        if let Some(Closed::Exhausted(at)) = self.closed
            && at <= now
        {
            self.accept(engine, out);
        }
    }
}
