//! Spliced TCP connections: does what the machine of [`flow::splice`](crate::flow::splice) decides,
//! with the flow's two sockets, the worker's buffer and a pipe from the pool.
//!
//! Both sockets are watched for all events, edge-triggered, from the start: the kernel reports room to
//! write only after a write was cut short, and the end of a stream on its own.
//!
//! Where the queue of the server that a connection is for is full, the kernel would drop its SYN, repeat it after a
//! second, and give the place to whoever asks at the right moment. So the connection asks again itself, soon, and until
//! it has a place nobody else is accepted on the same port: who comes waits in the queue of our own socket, which is
//! long, and all are served in the order in which they came. For one that has waited for long, nobody else does any more,
//! until it is connected or given up: other servers may be behind the same port, at other addresses.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use passt_frame::{Errno, Pipe};
use rustix::event::epoll::EventFlags;
use rustix::net::{self as rnet, sockopt};

use super::{BypassParts, PipePool, open_logged, socket_on};
use crate::engine::core::Core;
use crate::engine::flows::FlowWatch;
use crate::engine::listener_id::ListenerId;
use crate::engine::reserved_port;
use crate::engine::state::{FlowKind, FlowState, Nagle, Queueing, SpliceState, how_closed};
use crate::engine::token::Token;
use crate::flow::fwd::{SpliceSide, loopback_of};
use crate::flow::side::{Side, Sides};
use crate::flow::splice::{Action, Copied, Drained, End, Event, Filled, Splice};
use crate::flow::table::FlowId;
use crate::flow::timer::TICK_US;
use crate::limits::{QUEUE_FULL_HELD, QUEUE_FULL_PAUSE, SPLICE_ACTIONS_PER_TURN};
use crate::sys::copy_buffer::{CopyBuffer, STREAM_BYTES};
use crate::sys::socket::{self, Transport};
use crate::sys::stream;
use crate::wire::DropReason;
use crate::wire::ip::L4Protocol;

/// What tells of bytes to read, `PRI` of those that the peer calls urgent.
const READABLE: EventFlags = EventFlags::IN.union(EventFlags::PRI);
const EVENTS: EventFlags = READABLE.union(EventFlags::OUT).union(EventFlags::RDHUP);

/// The second socket of a spliced connection, and whether it is connected already.
type Target = (OwnedFd, bool);

/// Adds the flow of a connection that was accepted, with what [`connect`] has made of the way to `to`. One that comes to
/// nothing is reset.
pub(in crate::engine) fn open(
    core: &mut Core,
    (listener, accepted): (ListenerId, OwnedFd),
    sides: [Side; 2],
    to: SocketAddr,
    target: Result<Target, DropReason>,
) -> Result<(), DropReason> {
    match target {
        Ok((target, connected)) => {
            // Only a local server's full queue shows this way: elsewhere a handshake takes a round trip anyway.
            let waits = !connected && socket::leads_here(target.as_fd(), to.ip());
            let queueing = (waits && core.listeners.has_patience(listener)).then_some(Queueing {
                listener,
                to,
                since: core.now,
                gave_up: false,
            });
            add(core, sides, accepted, (target, connected), queueing)
        }
        Err(reason) => {
            let _ = stream::reset_on_close(accepted.as_fd());
            Err(reason)
        }
    }
}

/// Connects the second socket of a spliced connection.
pub(in crate::engine) fn connect(
    bypass: &mut BypassParts,
    sides: &[Side; 2],
    side: &SpliceSide,
) -> Result<Target, DropReason> {
    let source = side.source.ip();
    // What the kernel chooses as the source of what goes to its own addresses.
    let kernels_choice = source.is_unspecified()
        || (source.is_loopback() && source == loopback_of(side.destination.ip()));
    let mut open = |port| -> Result<Target, Errno> {
        let socket = socket_on(Some(&mut *bypass), sides[1].pif, Transport::Tcp, side.destination)?;
        stream::keep_urgent_inline(socket.as_fd())?;
        if port != 0 {
            socket::bind_port(socket.as_fd(), SocketAddr::new(source, port))?;
        } else if !kernels_choice {
            socket::bind_address(socket.as_fd(), SocketAddr::new(source, 0))?;
        }
        let connected = socket::connect_here(socket.as_fd(), side.destination)?;
        stream::refuse_itself(socket.as_fd(), port, side.destination)?;
        Ok((socket, connected))
    };
    let peer = sides[0].endpoint.port();
    open_logged(|| reserved_port::open_like(peer, &mut open), sides)
}

/// Adds a connection whose target is connected, or will be; perhaps it waits for a place in its server's queue.
fn add(
    core: &mut Core,
    sides: [Side; 2],
    accepted: OwnedFd,
    (target, connected): Target,
    queueing: Option<Queueing>,
) -> Result<(), DropReason> {
    let state = SpliceState {
        machine: Splice::new(connected),
        target,
        nagle: [Nagle::Off, Nagle::Unwritten],
        pipes: [None, None],
        queueing,
        failure: None,
    };
    let state = FlowState::new(accepted, core.net.epoch(), core.now, FlowKind::Splice(state));
    let id = core.flows.add(sides, L4Protocol::Tcp, state, EVENTS)?;
    log::debug!("{id:?} (TCP connection (spliced)): {}", Sides(&sides));
    if let Some(Queueing { listener, .. }) = queueing {
        log::debug!("{id:?} (TCP connection (spliced)): its server's queue is full");
        core.listeners.hold(listener);
        core.flows.schedule(id, Some(core.now + pause(Duration::ZERO)));
    }
    Ok(())
}

/// The pause before a connection that has waited for so long asks for a place again.
fn pause(waited: Duration) -> Duration {
    (waited / 8).clamp(Duration::from_micros(TICK_US), QUEUE_FULL_PAUSE)
}

/// The timer of a spliced connection.
pub(in crate::engine) fn on_timer(core: &mut Core, id: FlowId) {
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    let FlowKind::Splice(splice) = &mut flow.state.kind else { return };
    if splice.machine.is_connecting() {
        return ask_again(core, id);
    }
    splice.machine.on_timer(core.now);
    core.flows.mark_ready(id);
}

/// A connection asks again for a place in its server's queue; or it has waited for long enough to leave that to the
/// kernel, and others do not wait with it any more.
fn ask_again(core: &mut Core, id: FlowId) {
    let now = core.now;
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    let FlowKind::Splice(splice) = &mut flow.state.kind else { return };
    let Some(queueing) = splice.queueing.as_mut().filter(|queueing| !queueing.gave_up) else {
        return;
    };
    let Queueing { listener, to, since, .. } = *queueing;
    let waited = now.since(since);
    if waited >= QUEUE_FULL_HELD {
        queueing.gave_up = true;
        core.listeners.lose_patience(listener);
        return;
    }
    match socket::connect_here_again(splice.target.as_fd(), to) {
        Ok(false) => return core.flows.schedule(id, Some(now + pause(waited))),
        Ok(true) => {
            let connected = Event { writable: true, ..Event::default() };
            splice.machine.on_event(End::Target, connected);
        }
        Err(errno) => {
            splice.failure = Some(errno);
            splice.machine.on_failure();
        }
    }
    leave_queue(core, id);
    core.flows.mark_ready(id);
}

/// A connection is connected, or over: it keeps nobody waiting any more.
fn leave_queue(core: &mut Core, id: FlowId) {
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    let FlowKind::Splice(splice) = &mut flow.state.kind else { return };
    match splice.queueing.take() {
        Some(Queueing { listener, gave_up: true, .. }) => core.listeners.regain_patience(listener),
        Some(Queueing { listener, .. }) => core.listeners.let_go(listener),
        None => {}
    }
}

/// An event of one of the two sockets.
pub(in crate::engine) fn on_event(core: &mut Core, id: FlowId, end: End, events: EventFlags) {
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    let FlowKind::Splice(splice) = &mut flow.state.kind else { return };
    let has = |flags| events.intersects(flags);
    let event = Event {
        readable: has(EventFlags::IN),
        writable: has(EventFlags::OUT),
        ended: has(EventFlags::RDHUP | EventFlags::HUP),
        failed: has(EventFlags::ERR),
    };
    if event.failed && splice.machine.is_connecting() {
        // Nothing else will tell: no byte is read or written any more.
        let socket =
            if end == End::Initiator { flow.state.socket.as_fd() } else { splice.target.as_fd() };
        splice.failure = sockopt::socket_error(socket).ok().and_then(Result::err);
    }
    splice.machine.on_event(end, event);
    if has(EventFlags::PRI) {
        splice.machine.on_urgent(end);
    }
    if !splice.machine.is_connecting() {
        leave_queue(core, id);
    }
    core.flows.mark_ready(id);
}

/// Does what the machine wants done, for one turn. Whether the connection moves bulk.
pub(in crate::engine) fn drive(
    core: &mut Core,
    bypass: &mut BypassParts,
    buffer: &mut CopyBuffer,
    id: FlowId,
) -> bool {
    let mut bulk = false;
    for _ in 0..SPLICE_ACTIONS_PER_TURN {
        let Some(flow) = core.flows.table.get_mut(id) else { return bulk };
        let FlowKind::Splice(splice) = &mut flow.state.kind else { return bulk };
        bulk |= splice.machine.moves_bulk();
        match splice.machine.poll() {
            Some(Action::Close { reset }) => {
                close(core, bypass, id, reset);
                return bulk;
            }
            Some(action) => {
                let driven = Driven {
                    id,
                    initiator: flow.state.socket.as_fd(),
                    splice,
                    watch: &core.flows.watch,
                };
                driven.act(&mut bypass.pipes, buffer, action);
            }
            None => {
                let deadline = splice.machine.deadline(core.now);
                core.flows.schedule(id, deadline);
                return bulk;
            }
        }
    }
    core.flows.mark_unfinished(id);
    bulk
}

fn close(core: &mut Core, bypass: &mut BypassParts, id: FlowId, reset: bool) {
    leave_queue(core, id);
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    if reset {
        let _ = End::BOTH.map(|end| stream::reset_on_close(flow.state.end(end)));
    }
    let mut failure = None;
    if let FlowKind::Splice(splice) = &mut flow.state.kind {
        failure = splice.failure;
        for end in End::BOTH {
            if let Some(pipe) = splice.pipes[end.index()].take() {
                bypass.pipes.give(pipe, splice.machine.held(end));
            }
        }
    }
    log::debug!("{id:?} (TCP connection (spliced)): closed{}", how_closed(reset, failure));
    core.flows.remove(id);
}

/// A connection in its turn.
struct Driven<'a> {
    id: FlowId,
    initiator: BorrowedFd<'a>,
    splice: &'a mut SpliceState,
    watch: &'a FlowWatch,
}

impl Driven<'_> {
    fn act(self, pool: &mut PipePool, buffer: &mut CopyBuffer, action: Action) {
        let Self { id, initiator, splice, watch } = self;
        let SpliceState { machine, target, nagle, pipes, failure, .. } = splice;
        let socket = |end| if end == End::Initiator { initiator } else { target.as_fd() };
        match action {
            Action::Copy(from) => {
                let to = Outlet(socket(from.other()), &mut nagle[from.other().index()]);
                let pipe = &mut pipes[from.index()];
                let copied = match pool.spare() {
                    Some(room) => pass_on(buffer, pool, pipe, room, socket(from), to, failure),
                    None => peek_and_copy(buffer, socket(from), to, failure),
                };
                match copied {
                    Ok(copied) => machine.on_copied(from, copied),
                    Err(errno) => {
                        *failure = Some(errno);
                        machine.on_failure();
                    }
                }
            }
            Action::TakePipe(from) => {
                pipes[from.index()] = pool.take();
                machine.on_pipe(from, pipes[from.index()].is_some());
            }
            Action::Fill(from) => {
                let (filled, failed) = fill(pipes[from.index()].as_ref(), socket(from));
                if failed.is_some() {
                    *failure = failed;
                    machine.on_broken(from);
                }
                machine.on_filled(from, filled);
            }
            Action::Drain(from, bytes) => {
                let to = socket(from.other());
                nagle[from.other().index()].before_write(to);
                machine.on_drained(from, drain(pipes[from.index()].as_ref(), to, bytes, failure));
            }
            Action::GivePipe(from) => {
                if let Some(pipe) = pipes[from.index()].take() {
                    pool.give(pipe, 0);
                }
            }
            Action::ShutdownWrite(end) => {
                if let Err(errno) = rnet::shutdown(socket(end), rnet::Shutdown::Write) {
                    log::debug!("{id:?} (TCP connection (spliced)): shutdown: {errno}");
                    machine.on_broken(end);
                }
            }
            Action::Watch { end, readable } => {
                let mut events = EVENTS;
                events.set(READABLE, readable);
                watch_for(watch, (id, end), (socket(end), events), machine);
            }
            Action::Flush(end) => {
                stream::report_room_when_sent(socket(end));
                watch_for(watch, (id, end), (socket(end), EVENTS), machine);
            }
            Action::Close { .. } => {}
        }
    }
}

/// Has the socket of an end report `events` from now on.
fn watch_for(
    watch: &FlowWatch,
    (id, end): (FlowId, End),
    (socket, events): (BorrowedFd<'_>, EventFlags),
    machine: &mut Splice,
) {
    let token = match end {
        End::Initiator => Token::Flow(id),
        End::Target => Token::SecondSocket(id),
    };
    if let Err(errno) = watch.again(token, socket, events) {
        log::debug!("{id:?} (TCP connection (spliced)): epoll: {errno}");
        machine.on_failure();
    }
}

/// A socket that bytes are copied to.
struct Outlet<'a>(BorrowedFd<'a>, &'a mut Nagle);

impl Outlet<'_> {
    /// Sends the first `bytes` bytes of what was read; returns how many it has taken.
    fn send(self, buffer: &CopyBuffer, bytes: u32) -> Result<u32, Errno> {
        self.1.before_write(self.0);
        let sent = buffer.send_stream(self.0, bytes);
        sent.or_else(|errno| if errno == Errno::AGAIN { Ok(0) } else { Err(errno) })
    }
}

/// Passes on what waits, `room` bytes at most. What the destination does not take goes to a pipe of the
/// pool, which has one that holds so many bytes.
fn pass_on(
    buffer: &mut CopyBuffer,
    pool: &mut PipePool,
    pipe: &mut Option<Pipe>,
    room: u32,
    from: BorrowedFd<'_>,
    to: Outlet<'_>,
    failure: &mut Option<Errno>,
) -> Result<Copied, Errno> {
    let read = buffer.receive_stream(from, room);
    let (read, taken) = match send_read(buffer, read, to, failure) {
        Ok(sent) => sent,
        Err(copied) => return Ok(copied),
    };
    let held = read - taken;
    if held > 0 {
        let spare = pool.take().ok_or(Errno::NOBUFS)?;
        if buffer.store(taken..read, &spare) != Ok(held) {
            pool.give(spare, held);
            return Err(Errno::NOBUFS);
        }
        *pipe = Some(spare);
    }
    Ok(Copied::Bytes { read, taken, held, room })
}

/// Copies what waits: read without consuming, write, and consume what was taken.
fn peek_and_copy(
    buffer: &mut CopyBuffer,
    from: BorrowedFd<'_>,
    to: Outlet<'_>,
    failure: &mut Option<Errno>,
) -> Result<Copied, Errno> {
    let read = buffer.peek_stream(from);
    let (read, taken) = match send_read(buffer, read, to, failure) {
        Ok(sent) => sent,
        Err(copied) => return Ok(copied),
    };
    if taken > 0 && stream::discard(from, taken)? != taken {
        return Err(Errno::IO);
    }
    Ok(Copied::Bytes { read, taken, held: 0, room: STREAM_BYTES as u32 })
}

/// Sends what was `read` into `buffer`: how many bytes that are, and how many of them were taken.
///
/// # Errors
/// Nothing was read, or nobody takes it. The reason is the flow's `failure`.
fn send_read(
    buffer: &CopyBuffer,
    read: Result<u32, Errno>,
    to: Outlet<'_>,
    failure: &mut Option<Errno>,
) -> Result<(u32, u32), Copied> {
    let mut fail = |errno, copied| {
        *failure = Some(errno);
        copied
    };
    let read = match read {
        Ok(0) => return Err(Copied::Ended),
        Ok(read) => read,
        Err(Errno::AGAIN) => return Err(Copied::Empty),
        Err(errno) => return Err(fail(errno, Copied::Failed)),
    };
    let taken = to.send(buffer, read).map_err(|errno| fail(errno, Copied::Refused))?;
    Ok((read, taken))
}

/// Fills a pipe; with it, how the source has failed, which no other call may tell any more.
fn fill(pipe: Option<&Pipe>, from: BorrowedFd<'_>) -> (Filled, Option<Errno>) {
    let filled = pipe.map_or(Err(Errno::PIPE), |pipe| pipe.fill(from));
    let failed = filled.err().filter(|errno| *errno != Errno::AGAIN);
    let filled = match filled {
        Ok(bytes @ 1..) => Filled::Bytes(bytes),
        Err(Errno::AGAIN) => Filled::Empty,
        // Where the peer has closed or reset, splice(2) takes an urgent byte for the end, too.
        _ if stream::has_bytes(from) => Filled::Urgent,
        Ok(0) => Filled::Ended,
        Err(_) => Filled::Failed,
    };
    (filled, failed)
}

fn drain(
    pipe: Option<&Pipe>,
    to: BorrowedFd<'_>,
    bytes: u32,
    failure: &mut Option<Errno>,
) -> Drained {
    match pipe.map_or(Err(Errno::PIPE), |pipe| pipe.drain(to, bytes)) {
        Ok(taken) => Drained::Bytes(taken),
        Err(Errno::AGAIN) => Drained::Bytes(0),
        Err(errno) => {
            *failure = Some(errno);
            Drained::Failed
        }
    }
}
