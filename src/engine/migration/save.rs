//! The source: freezes the connections, has the helper begin their repair, and writes the stream as fast as the
//! front-end takes it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_frame::Errno;

use super::describe::{self, Description, Undescribed};
use super::helper::{Command, Helper, News};
use super::progress::{Fault, Progress, answers_until};
use crate::engine::core::Core;
use crate::engine::state::{FlowKind, FlowState, Peer, TcpState};
use crate::engine::tcp;
use crate::flow::migration::{self, Record, SocketRecord};
use crate::flow::side::GuestView;
use crate::flow::table::FlowId;
use crate::limits::{STATE_BUFFER_BYTES, STATE_BUFFERS_PER_TURN};
use crate::sys::{repair, stream};

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Wait for the helper to connect.
    Connect,
    /// The next sockets are for the helper.
    Repair,
    /// Wait for the helper to be done with so many of them.
    Answer(usize),
    /// Header, addresses, count.
    Head,
    /// The record of the flow with this index.
    Record(usize),
    /// The socket of the flow with this index.
    Socket(usize),
    /// So many bytes more of the queue toward the guest of the flow with this index.
    Queue(usize, u32),
    /// All is written, as far as it is in the buffer.
    End,
}

/// A save.
pub(super) struct Save {
    stream: OwnedFd,
    watched: bool,
    /// Connections that are frozen.
    flows: Vec<FlowId>,
    /// Those of them that move.
    moving: Vec<FlowId>,
    /// How many of those are in repair, or may be.
    repaired: usize,
    step: Step,
    /// What the stream has not taken yet.
    buffer: VecDeque<u8>,
    /// Connections that do not move.
    left_behind: Vec<FlowId>,
    /// Close the socket of each connection as soon as it is described.
    no_linger: bool,
    /// Connections whose sockets were closed.
    closed: Vec<Record>,
    fault: Option<Fault>,
    waited: bool,
}

/// What a save leaves.
pub(super) struct Saved {
    /// Connections that are in the stream: frozen, and in repair as far as it came to that.
    pub(crate) flows: Vec<FlowId>,
    /// Connections that are not.
    pub(crate) left_behind: Vec<FlowId>,
    /// Connections that are in the stream, and not here any more.
    pub(crate) closed: Vec<Record>,
}

impl Save {
    /// Freezes all connections, if a helper can be had. With `no_linger`, each is gone as soon as it is described.
    pub(crate) fn new(core: &mut Core, stream: OwnedFd, helper: bool, no_linger: bool) -> Self {
        let mut flows = connections(core);
        let left_behind =
            if helper { freeze_all(core, &mut flows) } else { std::mem::take(&mut flows) };
        let step = if flows.is_empty() { Step::Head } else { Step::Connect };
        let buffer = VecDeque::with_capacity(STATE_BUFFER_BYTES);
        Self {
            stream,
            watched: false,
            flows,
            moving: Vec::new(),
            repaired: 0,
            step,
            buffer,
            left_behind,
            no_linger,
            closed: Vec::new(),
            fault: None,
            waited: false,
        }
    }

    /// The stream, and whether it is watched.
    pub(crate) fn stream(&mut self) -> (BorrowedFd<'_>, &mut bool) {
        (self.stream.as_fd(), &mut self.watched)
    }

    /// There is news of the helper.
    pub(crate) fn on_helper(&mut self, core: &Core, news: News) {
        match (self.step, news) {
            (Step::Connect, News::Come) => self.step = Step::Repair,
            (Step::Answer(count), News::Done) => {
                self.repaired += count;
                let done = &self.flows[self.repaired - count..self.repaired];
                let all = done.iter().all(|id| {
                    let flow = core.flows.table.get(*id);
                    flow.is_none_or(|flow| repair::is_on(flow.state.fd()) == Ok(true))
                });
                self.fault = (!all).then_some(Fault::Helper);
                self.step = Step::Repair;
            }
            (Step::Answer(_) | Step::Repair, News::Gone) => self.fault = Some(Fault::Helper),
            _ => {}
        }
    }

    /// What was waited for does not come.
    pub(crate) fn on_time(&mut self) {
        match self.step {
            Step::Connect => self.waited = true,
            Step::Answer(_) => self.fault = Some(Fault::Helper),
            _ => {}
        }
    }

    /// Goes on as far as that is possible now.
    ///
    /// # Errors
    /// Why it cannot go on at all.
    pub(crate) fn step(&mut self, core: &mut Core, helper: &mut Helper) -> Result<Progress, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut buffers = 0;
        loop {
            match self.step {
                Step::Connect if helper.is_there() => self.step = Step::Repair,
                Step::Connect if self.waited => self.leave_all_behind(core)?,
                Step::Connect => return Ok(Progress::Helper(helper.comes_until(core.now))),
                Step::Answer(_) => return Ok(Progress::Helper(answers_until(core.now))),
                Step::Repair => self.repair(core, helper)?,
                Step::End if self.buffer.is_empty() => return Ok(Progress::Done),
                _ => {
                    // Who takes it as fast as it comes is not all that there is to be done.
                    if buffers == STATE_BUFFERS_PER_TURN {
                        return Ok(Progress::Stream);
                    }
                    buffers += 1;
                    self.fill(core);
                    if !self.flush()? {
                        return Ok(Progress::Stream);
                    }
                }
            }
        }
    }

    /// Without a helper no connection moves: they go on until the guest has left. If one has begun their repair, for a
    /// transfer before, that fails.
    fn leave_all_behind(&mut self, core: &mut Core) -> Result<(), Fault> {
        let flows = self.flows.iter().filter_map(|id| core.flows.table.get(*id));
        if flows.map(|flow| flow.state.fd()).any(|socket| repair::is_on(socket) == Ok(true)) {
            return Err(Fault::Helper);
        }
        log::warn!(
            "No TCP_REPAIR helper has connected: connections do not migrate; start passt-repair for them"
        );
        for id in std::mem::take(&mut self.flows) {
            super::thaw::release(core, id);
            self.left_behind.push(id);
        }
        self.step = Step::Head;
        Ok(())
    }

    /// Sends the next sockets to the helper.
    fn repair(&mut self, core: &Core, helper: &mut Helper) -> Result<(), Fault> {
        let table = &core.flows.table;
        let left = &self.flows[self.repaired..];
        let next = left.iter().take(helper.batch(left.len()));
        let sockets: Vec<_> =
            next.filter_map(|id| table.get(*id)).map(|flow| flow.state.fd()).collect();
        if sockets.is_empty() {
            self.step = Step::Head;
            return Ok(());
        }
        helper.command(Command::On, &sockets).map_err(|_| Fault::Helper)?;
        self.step = Step::Answer(sockets.len());
        Ok(())
    }

    /// Adds to the buffer what comes next.
    fn fill(&mut self, core: &mut Core) {
        while self.buffer.len() < STATE_BUFFER_BYTES {
            if self.no_linger
                && let Step::Socket(index @ 1..) = self.step
            {
                self.close(core, self.moving[index - 1]);
            }
            self.step = match self.step {
                Step::Head => {
                    // One that is over by now is not worth a place.
                    let lives = |id: &&FlowId| lives(core, **id);
                    self.moving = self.flows.iter().filter(lives).copied().collect();
                    self.moving.sort_by_cached_key(|id| {
                        core.flows.table.get(*id).and_then(|flow| place(&flow.state))
                    });
                    self.buffer.extend(migration::header());
                    self.buffer.extend(migration::addresses(&core.net.learned));
                    self.buffer.extend((self.moving.len() as u32).to_be_bytes());
                    Step::Record(0)
                }
                Step::Record(index) if index < self.moving.len() => {
                    let record = record(core, self.moving[index]).and_then(Result::ok);
                    self.buffer.extend(record.map_or([0; Record::BYTES], Record::to_bytes));
                    Step::Record(index + 1)
                }
                Step::Record(_) => Step::Socket(0),
                Step::Socket(index) if index < self.moving.len() => self.socket(core, index),
                Step::Queue(index, left) => self.queue(core, index, left),
                _ => {
                    self.step = Step::End;
                    return;
                }
            };
        }
    }

    /// Adds the socket of a flow, with what is queued in it toward the peer.
    fn socket(&mut self, core: &mut Core, index: usize) -> Step {
        let id = self.moving[index];
        let next = Step::Socket(index + 1);
        let flow = core.flows.table.get_mut(id);
        match flow.map_or(Err(Undescribed::Guest), |flow| described(&mut flow.state)) {
            Ok((Description { record, queue }, unread)) => {
                self.buffer.extend(record.to_bytes());
                self.buffer.extend(queue);
                self.buffer.extend(unread.iter().flatten());
                if record.receive_queue == 0 || unread.is_some() {
                    next
                } else {
                    Step::Queue(index, record.receive_queue)
                }
            }
            Err(why) => {
                log::debug!("{id:?} (TCP connection): does not move: {why}");
                self.buffer.extend(SocketRecord::DROPPED);
                next
            }
        }
    }

    /// Adds more of what is queued toward the guest.
    fn queue(&mut self, core: &mut Core, index: usize, left: u32) -> Step {
        let state = core.flows.table.get_mut(self.moving[index]).map(|flow| &mut flow.state);
        let part = left.min(STATE_BUFFER_BYTES as u32);
        let bytes = state.and_then(|state| match &mut state.kind {
            FlowKind::Tcp(tcp) => describe::queued(state.socket.as_fd(), &mut tcp.peek, part),
            _ => None,
        });
        match bytes {
            Some(bytes) if !bytes.is_empty() => {
                let more = left - bytes.len() as u32;
                self.buffer.extend(bytes);
                if more == 0 { Step::Socket(index + 1) } else { Step::Queue(index, more) }
            }
            _ => {
                // Its length was told already. It cannot change while the socket is in repair.
                self.fault = Some(Fault::Channel(Errno::IO));
                Step::End
            }
        }
    }

    /// Closes the socket of a connection that is described, without a word: it is in repair. A target in the same network
    /// namespace has the same ends.
    fn close(&mut self, core: &mut Core, id: FlowId) {
        let record = record(core, id).and_then(Result::ok);
        drop(tcp::leave(core, id));
        self.closed.extend(record);
    }

    /// Writes what the stream takes; whether that was all. It does not block, unless the front-end has made it: then a
    /// signal comes ([`alarm`](crate::sys::process::alarm)), and that was all that is written to it.
    fn flush(&mut self) -> Result<bool, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        while !self.buffer.is_empty() {
            match rustix::io::write(&self.stream, self.buffer.as_slices().0) {
                Ok(written) => drop(self.buffer.drain(..written)),
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(Fault::Channel(errno)),
            }
        }
        Ok(true)
    }

    /// Closes the stream.
    pub(crate) fn finish(self) -> Saved {
        Saved { flows: self.flows, left_behind: self.left_behind, closed: self.closed }
    }
}

/// The socket of a flow, and all that is queued in it toward the guest, where that cannot be read in parts.
fn described(state: &mut FlowState) -> Result<(Description, Option<Vec<u8>>), Undescribed> {
    let FlowKind::Tcp(tcp) = &mut state.kind else { return Err(Undescribed::Guest) };
    let description = describe::socket(state.socket.as_fd(), tcp);
    if let Err(Undescribed::Failed(errno)) = description {
        tcp.peer = Peer::Lost(errno);
    }
    let description = description?;
    let unread = describe::whole_queue(state, description.record.receive_queue)?;
    Ok((description, unread))
}

/// All synchronised connections of the guest. Walks the table.
fn connections(core: &Core) -> Vec<FlowId> {
    let is_one = |id: &FlowId| {
        let flow = core.flows.table.get(*id);
        flow.is_some_and(|flow| match &flow.state.kind {
            FlowKind::Tcp(tcp) => {
                GuestView::of(&flow.sides).is_some() && tcp.conn.image(false).is_some()
            }
            _ => false,
        })
    };
    core.flows.table.ids().filter(is_one).collect()
}

/// Freezes connections; takes those that cannot be frozen out of `flows` and returns them.
fn freeze_all(core: &mut Core, flows: &mut Vec<FlowId>) -> Vec<FlowId> {
    let (mut left_behind, mut refused) = (Vec::new(), None);
    flows.retain(|id| {
        let frozen = freeze(core, *id);
        if frozen != Ok(true) {
            left_behind.push(*id);
            refused = refused.or(frozen.err());
        }
        frozen == Ok(true)
    });
    if let Some(errno) = refused {
        log::warn!(
            "{} connections cannot be frozen, and do not migrate: {errno}; CAP_NET_ADMIN or a kernel with CONFIG_TCP_MD5SIG allows it",
            left_behind.len()
        );
    }
    left_behind
}

/// Freezes a connection: its socket, and what we do with it. The head of its queue is the first byte that the
/// guest has not acknowledged from now on. False if it is not one that moves.
fn freeze(core: &mut Core, id: FlowId) -> Result<bool, Errno> {
    let Some(flow) = core.flows.table.get_mut(id) else { return Ok(false) };
    let FlowKind::Tcp(tcp) = &mut flow.state.kind else { return Ok(false) };
    let socket = flow.state.socket.as_fd();
    // For one that has ended on both sides nothing comes any more; the guest may still lack what has come.
    if !stream::is_closed(socket) {
        repair::freeze(socket)?;
    }
    flow.state.frozen = true;
    discard(socket, tcp);
    Ok(true)
}

fn discard(socket: BorrowedFd<'_>, tcp: &mut TcpState) {
    let acknowledged = tcp.conn.take_acknowledged();
    if acknowledged > 0 && stream::discard(socket, acknowledged) == Ok(acknowledged) {
        tcp.peek = tcp.peek.moved(acknowledged);
    }
}

fn place(state: &FlowState) -> Option<(bool, bool, u32)> {
    match &state.kind {
        FlowKind::Tcp(tcp) => Some(describe::place(state.fd(), tcp)),
        _ => None,
    }
}

/// Whether a flow has a record.
fn lives(core: &Core, id: FlowId) -> bool {
    let record = record(core, id);
    if let Some(Err(why)) = &record {
        log::debug!("{id:?} (TCP connection): does not move: {why}");
    }
    matches!(record, Some(Ok(_)))
}

/// The record of a flow; `None` if it is no connection any more.
fn record(core: &Core, id: FlowId) -> Option<Result<Record, Undescribed>> {
    let flow = core.flows.table.get(id)?;
    match &flow.state.kind {
        FlowKind::Tcp(tcp) => Some(describe::record(flow.state.fd(), &flow.sides, tcp)),
        _ => None,
    }
}
