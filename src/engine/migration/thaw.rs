//! Connections go on: at the target when the guest lives there, at the source if it does not after all. The
//! helper ends the repair of their sockets, and what the kernel has dropped meanwhile is sent again by the
//! peers.

use std::os::fd::{AsFd, BorrowedFd};

use super::helper::{Command, Helper, News};
use super::rebuild::Coming;
use crate::engine::core::Core;
use crate::engine::{egress, tcp};
use crate::flow::fwd::Proto;
use crate::flow::migration::Record;
use crate::flow::table::FlowId;
use crate::sys::repair;

/// A connection that is to go on.
enum Item {
    /// It was here all the time.
    Here(FlowId),
    /// It has come from elsewhere.
    Coming(Box<Coming>),
}

/// Connections that go on, or wait to.
pub(super) struct Thaw {
    /// Those that have not gone on yet.
    items: Vec<Item>,
    started: bool,
    /// Nothing was done yet.
    fresh: bool,
    /// The helper is to be done with so many of them, from the end.
    awaited: usize,
    /// Nobody ends a repair any more.
    alone: bool,
    /// Those that are over, of which the guest does not know yet.
    over: Vec<Record>,
}

impl Thaw {
    /// Of connections of the source.
    pub(crate) fn at_source(flows: Vec<FlowId>) -> Self {
        Self::new(flows.into_iter().map(Item::Here).collect())
    }

    /// Of connections that have come.
    pub(crate) fn at_target(mut coming: Vec<Coming>) -> Self {
        // From the end on. What the helper has nothing to do with is in no batch of its: none may have more than the one
        // before.
        coming.sort_by_key(|coming| coming.socket.is_some());
        Self::new(coming.into_iter().map(|coming| Item::Coming(Box::new(coming))).collect())
    }

    /// Whether there are connections that have come and have not gone on yet.
    pub(crate) fn has_coming(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Coming(_)))
    }

    fn new(items: Vec<Item>) -> Self {
        Self { items, started: false, fresh: true, awaited: 0, alone: false, over: Vec::new() }
    }

    /// Whether it has begun: the guest lives here.
    pub(crate) fn is_under_way(&self) -> bool {
        self.started
    }

    /// Whether nothing was done yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The guest lives here.
    pub(crate) fn start(&mut self) {
        self.started = true;
    }

    /// There is news of the helper: it has come, is done, or is gone for good.
    pub(crate) fn on_helper(&mut self, core: &mut Core, news: News) {
        match news {
            News::Come => self.alone = false,
            News::Done => {
                let done = self.items.len() - std::mem::take(&mut self.awaited);
                self.go_on(core, done);
            }
            News::Gone => self.awaited = 0,
        }
    }

    /// No helper comes any more.
    pub(crate) fn give_up(&mut self) {
        (self.alone, self.awaited) = (true, 0);
    }

    /// Goes on as far as that is possible now. True when all is done.
    pub(crate) fn step(&mut self, core: &mut Core, helper: &mut Helper) -> bool {
        self.fresh = false;
        while self.started && self.awaited == 0 {
            // What it does next, it does to sockets that are not in repair yet.
            if helper.is_late() && !self.alone {
                return false;
            }
            if self.items.is_empty() {
                return true;
            }
            let from = self.items.len() - helper.batch(self.items.len());
            if !self.alone {
                self.items[from..].iter_mut().for_each(settle);
            }
            let in_repair = self.items[from..].iter().filter_map(|item| in_repair(core, item));
            let sockets: Vec<BorrowedFd<'_>> = in_repair.collect();
            if sockets.is_empty() || self.alone {
                self.go_on(core, from);
                continue;
            }
            // What answers the question that ends the repair is to be heard.
            for socket in &sockets {
                let _ = repair::thaw(*socket);
            }
            if helper.command(Command::Off, &sockets).is_err() {
                return false;
            }
            self.awaited = self.items.len() - from;
        }
        false
    }

    fn go_on(&mut self, core: &mut Core, from: usize) {
        let over = self.items.split_off(from).into_iter().filter_map(|item| go_on(core, item));
        self.over.extend(over);
    }

    /// Connections that are over, of which the guest is to be told.
    pub(crate) fn take_lost(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.over)
    }
}

/// The repair of a connection ends next.
fn settle(item: &mut Item) {
    if let Item::Coming(coming) = item {
        coming.settle();
    }
}

/// The socket of a connection, if it is in repair.
fn in_repair<'a>(core: &'a Core, item: &'a Item) -> Option<BorrowedFd<'a>> {
    let socket = match item {
        Item::Here(id) => core.flows.table.get(*id).map(|flow| flow.state.fd()),
        Item::Coming(coming) => coming.socket.as_ref().map(AsFd::as_fd),
    };
    socket.filter(|socket| repair::is_on(*socket).unwrap_or(false))
}

/// A connection whose repair has ended goes on; one that nobody can bring back is reset toward the guest, and
/// the kernel resets it toward the peer, as soon as that says something.
fn go_on(core: &mut Core, item: Item) -> Option<Record> {
    let broken = in_repair(core, &item).is_some();
    match item {
        Item::Here(id) if broken => tcp::lose(core, id),
        Item::Here(id) => {
            release(core, id);
            None
        }
        Item::Coming(coming) => tcp::take_over(core, *coming, broken),
    }
}

/// A connection of the source goes on.
pub(super) fn release(core: &mut Core, id: FlowId) {
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    flow.state.frozen = false;
    let _ = repair::thaw(flow.state.fd());
    let _ = repair::share_port(flow.state.fd());
    let allowed = egress::allows(&core.net, Proto::Tcp, &flow.sides);
    tcp::go_on(core, id);
    if !allowed {
        log::debug!("{id:?}: forbidden now, closing");
        core.end_flow(id);
    }
}
