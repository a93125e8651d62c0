//! The helper that switches `TCP_REPAIR` on and off for us, which takes a privilege (`CAP_NET_ADMIN`) that this
//! program does not have. It connects to a socket of its own, is sent descriptors of sockets with one command
//! for all of them, and repeats the command when it is done. One helper at a time; one that comes while the last sockets
//! of a migration are with the one before is for the next migration, and waits.
//!
//! What a helper that lies can do: have connections fail, of which each is checked afterwards. It can do nothing
//! to us, and learns nothing but the sockets that it is sent.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use passt_frame::Errno;
use rustix::event::epoll::{self, EventFlags};
use rustix::net::{
    self as rnet, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
};

use super::progress::{answers_until, connects_until};
use crate::engine::token::{MigrationPart, Token};
use crate::limits::{ACCEPTS_PER_TURN, HELPER_BATCH};
use crate::sys::socket;
use crate::time::Timestamp;

/// What is reported of the socket on which helpers connect.
const DOOR_EVENTS: EventFlags = EventFlags::IN.union(EventFlags::ET);

/// What the helper is to do with the sockets that it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub(super) enum Command {
    /// Begin the repair.
    On = 1,
    /// End it, and ask the peer where it stands.
    Off = 0,
}

/// What has become of the helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// One has connected, or has done what it was told by a transfer before.
    Come,
    /// It has done what it was told.
    Done,
    /// It has gone, or said something else.
    Gone,
}

fn data_of(part: MigrationPart) -> epoll::EventData {
    epoll::EventData::new_u64(Token::Migration(part).to_bits())
}

/// The helper, and the socket on which it connects.
pub(super) struct Helper {
    epoll: Rc<OwnedFd>,
    listener: Option<OwnedFd>,
    connection: Option<OwnedFd>,
    awaited: Option<Command>,
    /// What is awaited was asked for by a transfer that is none any more. Until the answer has come nobody knows what the
    /// helper has done, and there is as good as none.
    late: bool,
    /// How many sockets it was sent at last; the packaged one has no room for more from then on.
    most: usize,
    /// Takes the place of the one that is there when that is not needed any more.
    next: Option<OwnedFd>,
}

impl Helper {
    /// No helper, and nowhere to connect.
    pub(crate) fn new(epoll: Rc<OwnedFd>) -> Self {
        Self {
            epoll,
            listener: None,
            connection: None,
            awaited: None,
            late: false,
            most: HELPER_BATCH,
            next: None,
        }
    }

    /// Lets helpers connect to `listener`, which does not block.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub(crate) fn listen(&mut self, listener: OwnedFd) -> Result<(), Errno> {
        self.watch(&listener, MigrationPart::Door, DOOR_EVENTS)?;
        self.listener = Some(listener);
        Ok(())
    }

    fn watch(
        &self,
        descriptor: &OwnedFd,
        part: MigrationPart,
        events: EventFlags,
    ) -> Result<(), Errno> {
        epoll::add(&*self.epoll, descriptor, data_of(part), events)
    }

    /// Whether there is one.
    pub(crate) fn is_there(&self) -> bool {
        self.connection.is_some() && !self.late
    }

    /// Whether it has not answered to a transfer that is none any more.
    pub(crate) fn is_late(&self) -> bool {
        self.late
    }

    /// Until when it is waited for at the beginning of a transfer: to connect, or to be done with what it does.
    pub(crate) fn comes_until(&self, now: Timestamp) -> Timestamp {
        if self.late { answers_until(now) } else { connects_until(now) }
    }

    /// The transfer that it works for is none any more.
    pub(crate) fn disown(&mut self) {
        self.late = self.awaited.is_some();
    }

    /// Whether there can be one.
    pub(crate) fn is_expected(&self) -> bool {
        self.listener.is_some()
    }

    /// Somebody wants to be the helper. That is reported once, so all are looked at, some in each turn; who cannot be
    /// accepted, because there are no descriptors left, is when the next one comes.
    pub(crate) fn accept(&mut self) -> Option<News> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let mut news = None;
        for _ in 0..ACCEPTS_PER_TURN {
            match rnet::accept_with(self.listener.as_ref()?, flags) {
                Ok(connection) => news = self.take_on(connection).or(news),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return news,
                Err(errno) => {
                    log::warn!("Cannot accept a TCP_REPAIR helper: {errno}: start it again");
                    return news;
                }
            }
        }
        // Has the rest reported.
        let rest = self.listener.as_ref().map(|listener| {
            epoll::modify(&*self.epoll, listener, data_of(MigrationPart::Door), DOOR_EVENTS)
        });
        if let Some(Err(errno)) = rest {
            log::warn!("Cannot wait for a TCP_REPAIR helper: {errno}");
        }
        news
    }

    fn take_on(&mut self, connection: OwnedFd) -> Option<News> {
        let who = socket::peer_in_words(connection.as_fd());
        let leaves = self.awaited == Some(Command::Off) && self.next.is_none();
        if self.connection.is_some() && !leaves {
            log::info!("Discarding TCP_REPAIR helper, {who}");
            return None;
        }
        if self.connection.is_some() {
            log::info!("Accepted TCP_REPAIR helper, {who}, for the next migration");
            self.next = Some(connection);
            return None;
        }
        if let Err(errno) = self.watch(&connection, MigrationPart::Helper, EventFlags::IN) {
            log::warn!("Cannot watch the TCP_REPAIR helper: {errno}");
            return None;
        }
        log::info!("Accepted TCP_REPAIR helper, {who}");
        (self.connection, self.most) = (Some(connection), HELPER_BATCH);
        Some(News::Come)
    }

    /// The one that has waited takes the place of the one before.
    fn change(&mut self) {
        let Some(next) = self.next.take() else { return };
        match self.watch(&next, MigrationPart::Helper, EventFlags::IN) {
            Ok(()) => (self.connection, self.most) = (Some(next), HELPER_BATCH),
            Err(errno) => log::warn!("Cannot watch the TCP_REPAIR helper: {errno}"),
        }
    }

    /// Its connection has something to read.
    pub(crate) fn on_event(&mut self) -> Option<News> {
        let connection = self.connection.as_ref()?;
        let mut answer = [0; 1];
        let mut buffer = [IoSliceMut::new(&mut answer)];
        let read = rnet::recvmsg(
            connection,
            &mut buffer,
            &mut rnet::RecvAncillaryBuffer::default(),
            RecvFlags::DONTWAIT,
        );
        match read.map(|message| message.bytes) {
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Ok(1) if self.awaited.take().is_some_and(|command| command as u8 == answer[0]) => {
                let late = std::mem::take(&mut self.late);
                return Some(if late { News::Come } else { News::Done });
            }
            Ok(0) | Err(_) => log::debug!("the TCP_REPAIR helper has left"),
            Ok(_) => {
                log::warn!("TCP_REPAIR helper: an answer to nothing that it was told: dropped");
            }
        }
        self.dismiss();
        Some(News::Gone)
    }

    /// How many of `left` sockets are to go in the next message. No message has more than the one before: the packaged
    /// passt-repair leaves the room for descriptors as small as what came last, and of more it takes but the first
    /// ones, and says that all is done. So all of them have nearly the same.
    pub(crate) fn batch(&self, left: usize) -> usize {
        left.div_ceil(left.div_ceil(self.most).max(1))
    }

    /// Has the helper do something with `sockets`, of which there are no more than [`batch`](Self::batch) says.
    ///
    /// # Errors
    /// What sendmsg(2) reports; `NOTCONN` without helper.
    pub(crate) fn command(
        &mut self,
        command: Command,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let connection = self.connection.as_ref().filter(|_| !self.late).ok_or(Errno::NOTCONN)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HELPER_BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = control.push(SendAncillaryMessage::ScmRights(sockets));
        assert!(fits, "a batch is no larger than a message");
        let byte = [command as u8];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rnet::sendmsg(connection, &[IoSlice::new(&byte)], &mut control, flags)?;
        (self.awaited, self.most) = (Some(command), sockets.len().max(1));
        Ok(())
    }

    /// Closes the connection: the helper is not needed any more.
    pub(crate) fn dismiss(&mut self) {
        (self.awaited, self.late) = (None, false);
        if let Some(connection) = self.connection.take() {
            let _ = epoll::delete(&*self.epoll, &connection);
        }
        self.change();
    }
}
