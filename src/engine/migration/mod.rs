//! A guest that moves to another program, or comes from one, and its connections with it
//! ([`crate::flow::migration`] has the stream).
//!
//! # At the source
//! 1. All sockets of connections are *frozen*: the kernel drops what arrives for them, so that what is read of
//!    them stays true. The peer sends again, to whoever has the connection then.
//! 2. The helper begins the repair of all of them. Without a helper, no connection moves.
//! 3. The stream is written as fast as the front-end takes it.
//! 4. The front-end leaves: the guest lives elsewhere. The sockets are kept, frozen, lest the kernel answer
//!    the peers' segments with resets as long as the network still brings them here. Or the link comes up: the
//!    guest goes on here, the helper ends the repair, and so do the connections.
//!
//! # At the target
//! The sockets are made, frozen and in repair, while the stream comes. When the link comes up, and not before,
//! the guest lives here: the helper ends the repair, and the connections go on. Who leaves before takes them
//! along, and no peer has heard of it: the guest goes on at the source. A connection that could not be taken
//! over is reset toward the guest when the link comes up.
//!
//! All of it is driven by events; nothing waits. A helper that lets us wait for longer than [`HELPER_ANSWER`] is as
//! good as gone. The front-end, whose guest it is, may take its time.

mod describe;
mod helper;
mod load;
mod progress;
mod rebuild;
mod save;
mod thaw;

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use passt_frame::{Errno, ToGuest};
use rustix::event::epoll;

use super::core::Core;
use super::token::{MigrationPart, Token};
use crate::flow::migration::Record;
use crate::limits::{HELPER_ANSWER, LINGER};
use crate::sys::repair;
use crate::time::Timestamp;
use helper::{Helper, News};
use load::Load;
use progress::{Fault, Progress, answers_until};
pub(super) use rebuild::Coming;
use save::{Save, Saved};
use thaw::Thaw;

/// How soon a guest whose ring was full is told more.
const TOLD_AGAIN: Duration = Duration::from_millis(10);

/// What is going on.
enum Phase {
    Idle,
    Saving(Save),
    Saved(Saved),
    Loading(Box<Load>),
    /// Loaded, or to go on at the source: waits for the link, or for the helper to end the repair.
    Thawing(Thaw),
}

/// All that concerns a guest that moves.
pub(super) struct Migration {
    epoll: Rc<OwnedFd>,
    helper: Helper,
    phase: Phase,
    /// What is awaited after which nothing comes any more.
    until: Option<Timestamp>,
    /// How the last transfer ended.
    outcome: Option<Result<(), Errno>>,
    /// The front-end has asked for it.
    asked: bool,
    /// Sockets of connections that live elsewhere by now.
    lingering: Vec<OwnedFd>,
    /// When the last word of the guest's state was written, or the guest was known to live elsewhere.
    left_at: Timestamp,
    /// Close those at once instead.
    no_linger: bool,
    /// A guest has moved away.
    left: bool,
    /// Connections that are over, of which the guest does not know yet.
    lost: Vec<Record>,
    /// When it is told again, if it had no room.
    tell_again: Option<Timestamp>,
}

impl Migration {
    pub(crate) fn new(epoll: Rc<OwnedFd>) -> Self {
        Self {
            helper: Helper::new(epoll.clone()),
            epoll,
            phase: Phase::Idle,
            until: None,
            outcome: None,
            asked: false,
            lingering: Vec::new(),
            left_at: Timestamp::default(),
            no_linger: false,
            left: false,
            lost: Vec::new(),
            tell_again: None,
        }
    }

    /// Lets a helper connect to `listener`. With `no_linger`, sockets of connections that move are closed as soon as they are
    /// described.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub(crate) fn set_helper(&mut self, listener: OwnedFd, no_linger: bool) -> Result<(), Errno> {
        self.no_linger = no_linger;
        self.helper.listen(listener)
    }

    /// When to look again, whatever happens.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        Timestamp::earliest([self.until, self.tell_again])
    }

    /// Whether no connection is frozen, and none comes.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether frames of the guest have to wait: its connections are about to go on.
    pub(crate) fn holds_frames(&self) -> bool {
        matches!(&self.phase, Phase::Thawing(thaw) if thaw.is_under_way())
    }

    /// Whether a guest has moved away and has not come back.
    pub(crate) fn has_left(&self) -> bool {
        self.left
    }

    /// Until when the sockets that are kept are needed: should they go before the network knows that the guest lives
    /// elsewhere, the kernel answers what it brings here by resets. `None` if there are none.
    pub(crate) fn lingers_until(&self) -> Option<Timestamp> {
        let kept = match &self.phase {
            Phase::Saved(saved) => !saved.flows.is_empty() && !self.no_linger,
            _ => !self.lingering.is_empty(),
        };
        kept.then_some(self.left_at + LINGER)
    }

    /// The state of the guest's network is to go into `stream`.
    pub(crate) fn save(&mut self, core: &mut Core, stream: OwnedFd) {
        if matches!(&self.phase, Phase::Thawing(thaw) if thaw.has_coming()) {
            log::error!(
                "Cannot save the state of the guest's network: its connections have come and have not gone on yet: let it run first"
            );
            (self.outcome, self.asked) = (Some(Err(Errno::BUSY)), false);
            return;
        }
        // What is frozen already stays so, and is saved again.
        if let Some(saved) = self.abandon() {
            self.lost.extend(saved.closed);
        }
        log::debug!("device state: save");
        let expected = self.helper.is_there() || self.helper.is_expected();
        self.phase = Phase::Saving(Save::new(core, stream, expected, self.no_linger));
        self.go_on(core);
    }

    /// The state of the guest's network comes from `stream`. What was there is no connection of that guest.
    pub(crate) fn load(&mut self, core: &mut Core, stream: OwnedFd) {
        if let Some(saved) = self.abandon() {
            self.leave(core, saved);
        }
        log::debug!("device state: load");
        self.lingering.clear();
        self.lost.clear();
        super::tcp::end_all(core);
        self.phase = Phase::Loading(Box::new(Load::new(core, stream)));
        self.go_on(core);
    }

    /// The front-end asks how the last transfer ended.
    pub(crate) fn ask(&mut self) {
        self.asked = true;
    }

    /// The answer, once there is one and somebody has asked.
    pub(crate) fn answer(&mut self) -> Option<Result<(), Errno>> {
        let under_way = matches!(self.phase, Phase::Saving(_) | Phase::Loading(_));
        if !self.asked || under_way {
            return None;
        }
        self.asked = false;
        Some(self.outcome.take().unwrap_or(Err(Errno::CANCELED)))
    }

    /// One of the descriptors is ready.
    pub(crate) fn on_event(&mut self, core: &mut Core, out: &mut dyn ToGuest, part: MigrationPart) {
        match part {
            MigrationPart::Door => self.on_news(core, out, |helper| helper.accept()),
            MigrationPart::Helper => self.on_news(core, out, |helper| helper.on_event()),
            MigrationPart::Stream => self.go_on(core),
        }
    }

    fn on_news(
        &mut self,
        core: &mut Core,
        out: &mut dyn ToGuest,
        ask: impl FnOnce(&mut Helper) -> Option<News>,
    ) {
        let Some(news) = ask(&mut self.helper) else { return };
        match &mut self.phase {
            Phase::Saving(save) => save.on_helper(core, news),
            Phase::Loading(load) => load.on_helper(news),
            Phase::Thawing(thaw) => {
                thaw.on_helper(core, news);
                return self.thaw(core, out);
            }
            Phase::Idle | Phase::Saved(_) => return,
        }
        self.go_on(core);
    }

    /// Time has passed.
    pub(crate) fn on_time(&mut self, core: &mut Core, out: &mut dyn ToGuest) {
        if self.tell_again.is_some_and(|again| core.now >= again) {
            self.tell(core, out);
        }
        if self.until.is_none_or(|until| core.now < until) {
            return;
        }
        self.until = None;
        if self.helper.is_late() {
            self.helper.dismiss();
        }
        match &mut self.phase {
            Phase::Saving(save) => save.on_time(),
            Phase::Loading(load) => load.on_time(),
            Phase::Thawing(thaw) if thaw.is_fresh() => return self.thaw(core, out),
            Phase::Thawing(thaw) => {
                self.helper.dismiss();
                // Another one may have waited for its place.
                if self.helper.is_there() {
                    thaw.on_helper(core, News::Gone);
                } else {
                    thaw.give_up();
                }
                return self.thaw(core, out);
            }
            Phase::Idle | Phase::Saved(_) => return,
        }
        self.go_on(core);
    }

    /// Goes on with a transfer as far as that is possible now.
    fn go_on(&mut self, core: &mut Core) {
        let step = match &mut self.phase {
            Phase::Saving(save) => save.step(core, &mut self.helper),
            Phase::Loading(load) => load.step(core, &mut self.helper),
            _ => return,
        };
        self.until = None;
        match step {
            Ok(Progress::Done) => self.complete(core),
            Ok(progress) => {
                if let Progress::Helper(until) = progress {
                    self.until = Some(until);
                }
                let waits = progress == Progress::Stream;
                if let Err(errno) = self.watch_stream(waits) {
                    self.fail(core, Fault::Channel(errno));
                }
            }
            Err(fault) => self.fail(core, fault),
        }
    }

    /// Has the stream reported while it is waited for.
    fn watch_stream(&mut self, wanted: bool) -> Result<(), Errno> {
        let (stream, watched, flags) = match &mut self.phase {
            Phase::Saving(save) => {
                let (stream, watched) = save.stream();
                (stream, watched, epoll::EventFlags::OUT)
            }
            Phase::Loading(load) => {
                let (stream, watched) = load.stream();
                (stream, watched, epoll::EventFlags::IN)
            }
            _ => return Ok(()),
        };
        if std::mem::replace(watched, wanted) == wanted {
            return Ok(());
        }
        if !wanted {
            return epoll::delete(&*self.epoll, stream.as_fd());
        }
        let token = Token::Migration(MigrationPart::Stream);
        epoll::add(&*self.epoll, stream, epoll::EventData::new_u64(token.to_bits()), flags)
    }

    /// A transfer is complete.
    fn complete(&mut self, core: &mut Core) {
        let _ = self.watch_stream(false);
        self.outcome = Some(Ok(()));
        self.left_at = core.now;
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Saving(save) => Phase::Saved(save.finish()),
            Phase::Loading(load) => Phase::Thawing(load.finish(core)),
            other => other,
        };
    }

    /// A transfer has failed: what it has touched goes on here, if it is the source; the target has nothing.
    fn fail(&mut self, core: &mut Core, fault: Fault) {
        let _ = self.watch_stream(false);
        self.until = None;
        self.outcome = Some(Err(fault.errno()));
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Saving(save) => {
                self.helper.disown();
                log::error!("Cannot save the state of the guest's network: {fault}");
                self.phase = self.stay(save.finish());
                // No link is needed for that: the guest's memory is not touched before it is there.
                self.start_thaw(core);
            }
            Phase::Loading(_) => {
                log::error!("Cannot load the state of the guest's network: {fault}");
                if fault == Fault::Helper {
                    self.helper.dismiss();
                }
            }
            other => {
                log::error!("Cannot transfer the state of the guest's network: {fault}");
                self.phase = other;
            }
        }
    }

    /// Gives up what is going on: another transfer begins. Returns what was saved, in part or whole.
    fn abandon(&mut self) -> Option<Saved> {
        let _ = self.watch_stream(false);
        self.until = None;
        self.outcome = None;
        self.helper.disown();
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Saving(save) => Some(save.finish()),
            Phase::Saved(saved) => Some(saved),
            Phase::Idle | Phase::Loading(_) | Phase::Thawing(_) => None,
        }
    }

    /// The link can reach the guest: it lives here.
    pub(crate) fn on_link_up(&mut self, core: &mut Core, out: &mut dyn ToGuest) {
        self.left = false;
        self.lingering.clear();
        let _ = self.watch_stream(false);
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Saved(saved) => self.stay(saved),
            Phase::Saving(save) => {
                self.outcome = Some(Err(Errno::CANCELED));
                self.helper.disown();
                self.stay(save.finish())
            }
            Phase::Loading(_) => {
                self.outcome = Some(Err(Errno::CANCELED));
                self.helper.disown();
                Phase::Idle
            }
            other => other,
        };
        self.start_thaw(core);
        self.thaw(core, out);
        self.tell(core, out);
    }

    /// The guest goes on here after all: so do its connections, but those whose sockets are closed.
    fn stay(&mut self, saved: Saved) -> Phase {
        self.lost.extend(saved.closed);
        Phase::Thawing(Thaw::at_source(saved.flows))
    }

    /// Has connections go on from the next turn on.
    fn start_thaw(&mut self, core: &Core) {
        if let Phase::Thawing(thaw) = &mut self.phase {
            thaw.start();
            self.until = Some(core.now);
        }
    }

    /// Goes on with the thaw as far as that is possible now.
    fn thaw(&mut self, core: &mut Core, out: &mut dyn ToGuest) {
        let Phase::Thawing(thaw) = &mut self.phase else { return };
        if !thaw.is_under_way() {
            return;
        }
        let done = thaw.step(core, &mut self.helper);
        self.lost.extend(thaw.take_lost());
        self.tell(core, out);
        if done {
            self.until = None;
            self.helper.dismiss();
            self.phase = Phase::Idle;
            return;
        }
        self.until = Some(answers_until(core.now));
    }

    /// Tells the guest which connections are over, as soon as it can be told.
    fn tell(&mut self, core: &mut Core, out: &mut dyn ToGuest) {
        self.tell_again = None;
        while out.caps().up
            && let Some(record) = self.lost.pop()
        {
            if !super::tcp::reset(core, out, &record) {
                self.lost.push(record);
                self.tell_again = Some(core.now + TOLD_AGAIN);
                return;
            }
        }
    }

    /// The front-end has left.
    pub(crate) fn on_link_closed(&mut self, core: &mut Core) {
        let _ = self.watch_stream(false);
        self.until = None;
        self.asked = false;
        self.lost.clear();
        self.tell_again = None;
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Saved(saved) if !matches!(self.outcome, Some(Err(_))) => {
                self.left = true;
                log::info!("Migration complete");
                self.leave(core, saved);
            }
            Phase::Saved(saved) => {
                self.phase = self.stay(saved);
                return self.start_thaw(core);
            }
            Phase::Saving(save) => {
                self.helper.disown();
                self.phase = self.stay(save.finish());
                return self.start_thaw(core);
            }
            Phase::Thawing(thaw) if thaw.is_under_way() => {
                self.phase = Phase::Thawing(thaw);
                self.until = Some(core.now + HELPER_ANSWER);
                return;
            }
            Phase::Idle | Phase::Loading(_) | Phase::Thawing(_) => {}
        }
        self.outcome = None;
        self.helper.dismiss();
    }

    /// The connections live elsewhere: their sockets are kept, and nothing else of them. What did not move is
    /// reset toward the peer.
    fn leave(&mut self, core: &mut Core, saved: Saved) {
        self.left_at = core.now;
        for id in saved.flows {
            let Some(socket) = super::tcp::leave(core, id) else { continue };
            let in_repair = repair::is_on(socket.as_fd()).unwrap_or(false);
            if in_repair && !self.no_linger {
                if let Err(errno) = repair::silence(socket.as_fd()) {
                    log::debug!("{id:?} (TCP connection): its socket is not kept: {errno}");
                }
                self.lingering.push(socket);
            }
        }
        for id in saved.left_behind {
            super::tcp::end(core, id);
        }
    }
}
