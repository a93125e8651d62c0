//! Spliced TCP connections: does what the machine of [`flow::splice`](crate::flow::splice) decides,
//! with the flow's two sockets, the worker's buffer and a pipe from the pool.
//!
//! Both sockets are watched for all events, edge-triggered, from the start: the kernel reports room to
//! write only after a write was cut short, and the end of a stream on its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_frame::{Errno, Pipe};
use rustix::event::epoll::EventFlags;
use rustix::net as rnet;

use super::Engine;
use super::bypass::PipePool;
use super::state::{FlowState, Nagle, Protocol, SpliceState};
use crate::flow::side::Side;
use crate::flow::splice::{Action, Copied, Drained, End, Event, Filled, Splice};
use crate::flow::table::FlowId;
use crate::limits::SPLICE_ACTIONS_PER_TURN;
use crate::sys::batch::{Batch, STREAM_BYTES};
use crate::sys::stream;
use crate::wire::DropReason;
use crate::wire::ip::L4Protocol;

/// What tells of bytes to read, `PRI` of those that the peer calls urgent.
const READABLE: EventFlags = EventFlags::IN.union(EventFlags::PRI);
const EVENTS: EventFlags = READABLE.union(EventFlags::OUT).union(EventFlags::RDHUP);

impl Engine {
    /// Adds a connection whose target is connected, or being connected.
    pub(super) fn add_splice(
        &mut self,
        sides: [Side; 2],
        accepted: OwnedFd,
        (target, connected): (OwnedFd, bool),
    ) -> Result<(), DropReason> {
        let machine = Splice::new(connected);
        let state = SpliceState {
            machine,
            target,
            nagle: [Nagle::Off, Nagle::Unwritten],
            pipes: [None, None],
        };
        let state = FlowState::new(accepted, Protocol::Splice(state));
        let id = self.flows.add(sides, L4Protocol::Tcp, state, EVENTS)?;
        log::debug!("{id:?} (TCP connection, spliced): {} => {}", sides[0], sides[1]);
        Ok(())
    }

    /// An event of one of the two sockets.
    pub(super) fn splice_event(&mut self, id: FlowId, end: End, events: EventFlags) {
        let Some(splice) = self.splice_mut(id) else { return };
        let has = |flags| events.intersects(flags);
        let event = Event {
            readable: has(EventFlags::IN),
            writable: has(EventFlags::OUT),
            ended: has(EventFlags::RDHUP | EventFlags::HUP),
            failed: has(EventFlags::ERR),
        };
        splice.machine.on_event(end, event);
        if has(EventFlags::PRI) {
            splice.machine.on_urgent(end);
        }
        self.flows.mark_ready(id);
    }

    /// Does what the machine wants done, for one turn.
    pub(super) fn drive_splice(&mut self, id: FlowId) {
        for _ in 0..SPLICE_ACTIONS_PER_TURN {
            let Some(splice) = self.splice_mut(id) else { return };
            let bulk = splice.machine.moves_bulk();
            let action = splice.machine.poll();
            self.bulk |= bulk;
            match action {
                Some(Action::Close { reset }) => return self.close_splice(id, reset),
                Some(action) => self.splice_action(id, action),
                None => return,
            }
        }
        self.flows.mark_ready(id);
    }

    fn splice_action(&mut self, id: FlowId, action: Action) {
        let (Some(flow), Some(parts)) = (self.flows.table.get_mut(id), &mut self.bypass) else {
            return;
        };
        let initiator = flow.state.socket.as_fd();
        let Protocol::Splice(SpliceState { machine, target, nagle, pipes }) =
            &mut flow.state.protocol
        else {
            return;
        };
        let socket = |end| if end == End::Initiator { initiator } else { target.as_fd() };
        match action {
            Action::Copy(from) => {
                let to = Outlet(socket(from.other()), &mut nagle[from.other().index()]);
                let (batch, pipe) = (&mut parts.batch, &mut pipes[from.index()]);
                let copied = match parts.pipes.spare() {
                    Some(room) => pass_on(batch, &mut parts.pipes, pipe, room, socket(from), to),
                    None => peek_and_copy(batch, socket(from), to),
                };
                machine.on_copied(from, copied.unwrap_or(Copied::Failed));
            }
            Action::TakePipe(from) => {
                pipes[from.index()] = parts.pipes.take();
                machine.on_pipe(from, pipes[from.index()].is_some());
            }
            Action::Fill(from) => {
                machine.on_filled(from, fill(pipes[from.index()].as_ref(), socket(from)));
            }
            Action::Drain(from, bytes) => {
                let to = socket(from.other());
                nagle[from.other().index()].before_write(to);
                let drained = drain(pipes[from.index()].as_ref(), to, bytes);
                machine.on_drained(from, drained);
            }
            Action::GivePipe(from) => {
                if let Some(pipe) = pipes[from.index()].take() {
                    parts.pipes.give(pipe, 0);
                }
            }
            Action::ShutdownWrite(end) => {
                if let Err(errno) = rnet::shutdown(socket(end), rnet::Shutdown::Write) {
                    log::debug!("{id:?} (TCP connection, spliced): shutdown: {errno}");
                    machine.on_failure();
                }
            }
            Action::Watch { end, readable } => {
                let mut events = EVENTS;
                events.set(READABLE, readable);
                if let Err(errno) = self.flows.watch_end(id, end, events) {
                    log::debug!("{id:?} (TCP connection, spliced): epoll: {errno}");
                    if let Some(splice) = self.splice_mut(id) {
                        splice.machine.on_failure();
                    }
                }
            }
            Action::Close { .. } => {}
        }
    }

    fn close_splice(&mut self, id: FlowId, reset: bool) {
        let (Some(flow), Some(parts)) = (self.flows.table.get_mut(id), &mut self.bypass) else {
            return;
        };
        if reset {
            let _ = End::BOTH.map(|end| stream::reset_on_close(flow.state.end(end)));
        }
        if let Protocol::Splice(splice) = &mut flow.state.protocol {
            for end in End::BOTH {
                if let Some(pipe) = splice.pipes[end.index()].take() {
                    parts.pipes.give(pipe, splice.machine.held(end));
                }
            }
        }
        let how = if reset { " with a reset" } else { "" };
        log::debug!("{id:?} (TCP connection, spliced): closed{how}");
        self.flows.remove(id);
    }

    fn splice_mut(&mut self, id: FlowId) -> Option<&mut SpliceState> {
        match &mut self.flows.table.get_mut(id)?.state.protocol {
            Protocol::Splice(splice) => Some(splice),
            _ => None,
        }
    }
}

/// A socket that bytes are copied to.
struct Outlet<'a>(BorrowedFd<'a>, &'a mut Nagle);

impl Outlet<'_> {
    /// Sends the first `bytes` bytes of what was read; returns how many it has taken.
    fn send(self, batch: &Batch, bytes: u32) -> Result<u32, Errno> {
        self.1.before_write(self.0);
        let sent = batch.send_stream(self.0, bytes);
        sent.or_else(|errno| if errno == Errno::AGAIN { Ok(0) } else { Err(errno) })
    }
}

/// Passes on what waits, `room` bytes at most. What the destination does not take goes to a pipe of the
/// pool, which has one that holds so many bytes.
fn pass_on(
    batch: &mut Batch,
    pool: &mut PipePool,
    pipe: &mut Option<Pipe>,
    room: u32,
    from: BorrowedFd<'_>,
    to: Outlet<'_>,
) -> Result<Copied, Errno> {
    let read = match batch.receive_stream(from, room) {
        Ok(0) => return Ok(Copied::Ended),
        Ok(read) => read,
        Err(Errno::AGAIN) => return Ok(Copied::Empty),
        Err(errno) => return Err(errno),
    };
    let taken = to.send(batch, read)?;
    let held = read - taken;
    if held > 0 {
        let spare = pool.take().ok_or(Errno::NOBUFS)?;
        if batch.store(taken..read, &spare) != Ok(held) {
            pool.give(spare, held);
            return Err(Errno::NOBUFS);
        }
        *pipe = Some(spare);
    }
    Ok(Copied::Bytes { read, taken, held, room })
}

/// Copies what waits: read without consuming, write, and consume what was taken.
fn peek_and_copy(batch: &mut Batch, from: BorrowedFd<'_>, to: Outlet<'_>) -> Result<Copied, Errno> {
    let read = match batch.peek_stream(from) {
        Ok(0) => return Ok(Copied::Ended),
        Ok(read) => read,
        Err(Errno::AGAIN) => return Ok(Copied::Empty),
        Err(errno) => return Err(errno),
    };
    let taken = to.send(batch, read)?;
    if taken > 0 && stream::discard(from, taken)? != taken {
        return Err(Errno::IO);
    }
    Ok(Copied::Bytes { read, taken, held: 0, room: STREAM_BYTES as u32 })
}

fn fill(pipe: Option<&Pipe>, from: BorrowedFd<'_>) -> Filled {
    match pipe.map_or(Err(Errno::PIPE), |pipe| pipe.fill(from)) {
        // Where the peer has closed, splice(2) takes an urgent byte for the end, too.
        Ok(0) if stream::has_bytes(from) => Filled::Urgent,
        Ok(0) => Filled::Ended,
        Ok(bytes) => Filled::Bytes(bytes),
        Err(Errno::AGAIN) => Filled::Empty,
        Err(_) => Filled::Failed,
    }
}

fn drain(pipe: Option<&Pipe>, to: BorrowedFd<'_>, bytes: u32) -> Drained {
    match pipe.map_or(Err(Errno::PIPE), |pipe| pipe.drain(to, bytes)) {
        Ok(taken) => Drained::Bytes(taken),
        Err(Errno::AGAIN) => Drained::Bytes(0),
        Err(_) => Drained::Failed,
    }
}
