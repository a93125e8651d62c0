//! What happens to a flow, and what its machine wants done about it. The flow is found once for each turn
//! ([`Driven`] holds all that its actions need); what came of the turn is noted on the lists behind it.

use std::os::fd::{AsFd, BorrowedFd};

use passt_frame::ToGuest;
use rustix::event::epoll::EventFlags;
use rustix::net as rnet;

use super::data::{Wish, send};
use super::{EVENTS, kept, refused};
use crate::engine::core::Core;
use crate::engine::flows::{FlowWatch, Flows};
use crate::engine::net::Net;
use crate::engine::outbox::Outbox;
use crate::engine::quantum::Quantum;
use crate::engine::state::{FlowKind, Peer, TcpState, how_closed};
use crate::engine::token::Token;
use crate::flow::side::{GuestView, Side};
use crate::flow::table::FlowId;
use crate::flow::tcp::{Action, DataResult, Header, SocketEvent};
use crate::limits::{ACTIONS_PER_TURN, ADMISSION_HELD};
use crate::sys::errno_text;
use crate::sys::stream;
use crate::time::Timestamp;
use crate::wire::build::L4Checksum;
use crate::wire::ip::L4Protocol;

/// The TCP state of a flow, if it lives and is one.
fn tcp_mut(flows: &mut Flows, id: FlowId) -> Option<&mut TcpState> {
    match &mut flows.table.get_mut(id)?.state.kind {
        FlowKind::Tcp(tcp) => Some(tcp),
        _ => None,
    }
}

/// An event of a TCP flow's socket.
pub(in crate::engine) fn on_event(core: &mut Core, id: FlowId, events: EventFlags) {
    let now = core.now;
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    let FlowKind::Tcp(tcp) = &mut flow.state.kind else { return };
    let has = |flag| events.contains(flag);
    if has(EventFlags::ERR) && tcp.connecting {
        refused::on_error(tcp, flow.state.socket.as_fd(), now);
    } else if has(EventFlags::ERR) && tcp.peer != Peer::Done {
        let socket = flow.state.socket.as_fd();
        refused::fail(tcp, socket, now, refused::error_of(socket));
    } else if tcp.connecting {
        if has(EventFlags::HUP) {
            tcp.conn.on_socket(now, SocketEvent::HungUp);
        } else if has(EventFlags::OUT) {
            tcp.connecting = false;
            refused::on_connected(tcp, flow.state.socket.as_fd());
            tcp.conn.on_socket(now, SocketEvent::Connected);
        }
    }
    if !tcp.connecting {
        let writable = has(EventFlags::OUT) && kept::flush(tcp, flow.state.socket.as_fd(), now);
        if writable {
            tcp.conn.on_socket(now, SocketEvent::Writable);
        }
        tcp.urgent |= has(EventFlags::PRI);
        if has(EventFlags::IN) {
            tcp.conn.on_socket(now, SocketEvent::Readable);
        }
        if has(EventFlags::RDHUP) {
            tcp.conn.on_socket(now, SocketEvent::PeerClosed);
        }
        if has(EventFlags::HUP) {
            tcp.conn.on_socket(now, SocketEvent::HungUp);
        }
    }
    core.flows.mark_ready(id);
}

/// The link has room again, for which the flow has waited.
pub(in crate::engine) fn on_room(core: &mut Core, id: FlowId) {
    if let Some(tcp) = tcp_mut(&mut core.flows, id) {
        tcp.conn.on_port_room(core.now);
    }
}

/// The guest's machine was set back to an earlier state.
pub(in crate::engine) fn on_guest_set_back(core: &mut Core) {
    let ids: Vec<FlowId> = core.flows.table.ids().collect();
    for id in ids {
        if let Some(tcp) = tcp_mut(&mut core.flows, id) {
            tcp.conn.on_guest_set_back();
            core.flows.mark_ready(id);
        }
    }
}

/// The timer of a TCP flow. A timeout counts once the guest has taken what it was handed before the last one.
pub(in crate::engine) fn on_timer(core: &mut Core, out: &dyn ToGuest, id: FlowId) {
    let now = core.now;
    let Some(tcp) = tcp_mut(&mut core.flows, id) else { return };
    if tcp.conn.deadline().is_some_and(|deadline| deadline <= now) {
        let delivery = out.delivery();
        if delivery.taken >= tcp.handed {
            tcp.handed = delivery.handed;
            tcp.conn.on_timer(now);
        } else {
            tcp.conn.on_timer_unread(now);
        }
        core.flows.mark_ready(id);
    } else {
        settle(core, id);
    }
}

/// What the end of a flow's turn means for the lists.
enum Turn {
    /// The machine wants nothing more.
    Done,
    /// It goes on in the next turn.
    Unfinished,
    /// The flow is over, perhaps with a reset.
    Over { reset: bool },
}

/// Does what the machine wants done, for one turn.
pub(in crate::engine) fn drive(core: &mut Core, out: &mut dyn ToGuest, id: FlowId) {
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    let Some(view) = GuestView::of(&flow.sides) else { return };
    let FlowKind::Tcp(tcp) = &mut flow.state.kind else { return };
    tcp.conn.limit_window(core.quantum.window(core.now, id, core.settings.tcp.window_max));
    let mut driven = Driven {
        id,
        side: view.guest,
        socket: flow.state.socket.as_fd(),
        tcp,
        watch: &core.flows.watch,
        net: &core.net,
        outbox: &mut core.outbox,
        quantum: &mut core.quantum,
        now: core.now,
        starved: false,
        owes_shutdown: false,
    };
    let turn = driven.turn(out);
    if driven.owes_shutdown && !matches!(turn, Turn::Over { .. }) {
        driven.shut();
    }
    if driven.starved {
        core.flows.mark_starved(id);
    }
    match turn {
        Turn::Done => {}
        Turn::Unfinished => core.flows.mark_unfinished(id),
        Turn::Over { reset } => {
            refused::tell(core, out, id);
            return close(core, id, reset);
        }
    }
    settle(core, id);
}

/// Ends a flow at once, so that its descriptor or its ports are free for the next. The guest is told
/// if it has room; but one whose SYN was not answered yet repeats it, and then the connection begins anew. After a
/// reset it would give up a connection that only had to wait.
pub(super) fn evict(core: &mut Core, out: &mut dyn ToGuest, id: FlowId) {
    if let Some(tcp) = tcp_mut(&mut core.flows, id)
        && !tcp.conn.is_unanswered()
    {
        tcp.conn.abort();
        drive(core, out, id);
    }
    if core.flows.table.get(id).is_some() {
        close(core, id, true);
    }
}

/// A connection comes that has `side` as the guest's. A flow that has it ends if it is over for the kernel, as it is when
/// its peer comes back from its port: what happened to its socket is told to the guest now, if it was not. Who still
/// has bytes for the guest keeps the side.
pub(super) fn make_way(core: &mut Core, out: &mut dyn ToGuest, side: &Side) {
    let Some(id) = core.flows.find(L4Protocol::Tcp, side) else { return };
    let now = core.now;
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    let FlowKind::Tcp(tcp) = &mut flow.state.kind else { return };
    let socket = flow.state.socket.as_fd();
    if tcp.connecting || !stream::is_closed(socket) {
        return;
    }
    match refused::error_of(socket) {
        Some(error) => refused::fail(tcp, socket, now, Some(error)),
        None => tcp.conn.on_socket(now, SocketEvent::HungUp),
    }
    out.select(flow.state.queue);
    drive(core, out, id);
    match tcp_mut(&mut core.flows, id) {
        Some(tcp) if tcp.conn.has_failed() => evict(core, out, id),
        Some(tcp) if tcp.conn.is_all_but_over() => close(core, id, false),
        _ => {}
    }
}

/// The guest asks for a new connection with the ports of a flow. Whether the flow has ended: what the guest has sent just
/// before may be the end of it, about which nothing was done yet.
pub(super) fn has_ended(core: &mut Core, out: &mut dyn ToGuest, id: FlowId) -> bool {
    let Some(flow) = core.flows.table.get(id) else { return true };
    let FlowKind::Tcp(tcp) = &flow.state.kind else { return false };
    if flow.state.frozen || !tcp.conn.ends_next() {
        return false;
    }
    out.select(flow.state.queue);
    drive(core, out, id);
    core.flows.table.get(id).is_none()
}

/// Brings the lists up to date with the machine.
fn settle(core: &mut Core, id: FlowId) {
    let Some(tcp) = tcp_mut(&mut core.flows, id) else { return };
    let (half_open, deadline) = (tcp.conn.is_half_open(), tcp.conn.deadline());
    let ack_at = tcp.conn.ack_at();
    let ended = tcp.half_open && !half_open;
    let admitted_until = if half_open { None } else { admission_end(tcp, core.now) };
    let known = !half_open && admitted_until.is_none();
    let admission = if known { tcp.admission.take() } else { None };
    if ended {
        core.flows.end_handshake(id);
    }
    if let Some(at) = ack_at {
        core.flows.hold_ack(at, id);
    }
    if let Some(admission) = admission {
        core.listeners.discharge(admission.listener);
    }
    core.flows.schedule(id, Timestamp::earliest([deadline, admitted_until]));
}

/// Until when an accepted connection counts among those of which the guest's server may know nothing; `None` if
/// it does not. It counts until the guest has acknowledged or sent something: a SYN-ACK does not show it, because
/// a server whose queue is full forgets whom it has sent one to. Who has nothing to say is not waited for.
fn admission_end(tcp: &mut TcpState, now: Timestamp) -> Option<Timestamp> {
    let progress = tcp.conn.progress();
    let admission = tcp.admission.as_mut()?;
    let (until, from) = *admission.since.get_or_insert((now + ADMISSION_HELD, progress));
    (progress == from && now < until).then_some(until)
}

/// A connection does not count among those of which the guest's server may know nothing any more.
pub(super) fn discharge(core: &mut Core, id: FlowId) {
    let admission = tcp_mut(&mut core.flows, id).and_then(|tcp| tcp.admission.take());
    if let Some(admission) = admission {
        core.listeners.discharge(admission.listener);
    }
}

pub(super) fn close(core: &mut Core, id: FlowId, reset: bool) {
    discharge(core, id);
    let mut failure = None;
    if let Some(flow) = core.flows.table.get_mut(id) {
        if reset {
            let _ = stream::reset_on_close(flow.state.socket.as_fd());
        }
        if let FlowKind::Tcp(tcp) = &flow.state.kind {
            failure = tcp.failure;
            if let Some(view) = GuestView::of(&flow.sides) {
                let (hash, end) = (core.flows.index.hash(view.guest), tcp.conn.end_of_sent());
                core.initial_numbers.pass(core.now, hash, end);
            }
        }
    }
    log::debug!("{id:?} (TCP connection): closed{}", how_closed(reset, failure));
    core.flows.remove(id);
}

/// A flow in its turn.
struct Driven<'a> {
    id: FlowId,
    /// The guest's side.
    side: &'a Side,
    socket: BorrowedFd<'a>,
    tcp: &'a mut TcpState,
    watch: &'a FlowWatch,
    net: &'a Net,
    outbox: &'a mut Outbox,
    quantum: &'a mut Quantum,
    now: Timestamp,
    /// The guest's buffers had no room for something.
    starved: bool,
    /// The socket is to be shut down, unless it is closed in this turn.
    owes_shutdown: bool,
}

impl Driven<'_> {
    fn turn(&mut self, out: &mut dyn ToGuest) -> Turn {
        for _ in 0..ACTIONS_PER_TURN {
            let Some(action) = self.tcp.conn.poll(self.now) else { return Turn::Done };
            match action {
                Action::Emit(header) => self.emit(out, &header),
                Action::SendData { offset, bytes, mss, .. } => {
                    let bytes = self.quantum.of(self.now, self.id, bytes, mss);
                    let more = self.send(out, &Wish { offset, bytes, mss });
                    if more {
                        return Turn::Unfinished;
                    }
                }
                Action::Discard(bytes) => self.discard(bytes),
                Action::QueryRoom => self.query_room(),
                Action::WatchWritable => self.watch_writable(),
                Action::ShutdownWrite => self.shutdown_write(),
                // Who closes before all was written, which takes both ends, tells the peer that it misses some.
                Action::Close { reset } => {
                    return Turn::Over { reset: reset || self.tcp.backlog.is_some() };
                }
            }
        }
        Turn::Unfinished
    }

    fn emit(&mut self, out: &mut dyn ToGuest, header: &Header) {
        let template = self.net.template(self.side, L4Protocol::Tcp, self.id.slot());
        let checksum = L4Checksum::Complete { payload_sum: 0 };
        if !self.outbox.send(out, &template.tcp(header, 0, checksum), &[]) {
            self.tcp.conn.on_emit_lost(self.now, header);
            self.starved = true;
        }
    }

    /// Sends data with the machine's consent; true when the flow should go on in the next turn.
    fn send(&mut self, out: &mut dyn ToGuest, wish: &Wish) -> bool {
        let template = self.net.template(self.side, L4Protocol::Tcp, self.id.slot());
        let list = &mut self.outbox.list;
        let before = self.tcp.last_read;
        let result = send(list, out, self.socket, &template, self.tcp, wish);
        if let DataResult::Sent { bytes, drained } = result {
            self.quantum.on_data(self.now, self.id, (bytes, before), drained);
        }
        self.tcp.conn.on_data(self.now, result);
        self.starved |= result == DataResult::NoRoom;
        matches!(result, DataResult::Sent { drained: false, .. })
    }

    fn discard(&mut self, bytes: u32) {
        match stream::discard(self.socket, bytes) {
            Ok(done) if done == bytes => {}
            other => {
                let why = other.map_or_else(errno_text, |done| format!("only {done} are there"));
                let id = self.id;
                log::debug!("{id:?} (TCP connection): cannot discard {bytes} bytes: {why}");
                self.tcp.conn.abort();
            }
        }
        self.tcp.peek = self.tcp.peek.moved(bytes);
        if self.tcp.urgent {
            // A read that begins at the head of the queue may get further now.
            self.tcp.conn.on_socket(self.now, SocketEvent::Readable);
        }
    }

    fn query_room(&mut self) {
        // What is kept comes first. While some is, the buffer's size cannot be seen.
        if kept::flush(self.tcp, self.socket, self.now) {
            let free = stream::send_buffer(self.socket).map(room);
            self.tcp.conn.on_room(free.unwrap_or(0));
        }
    }

    fn watch_writable(&mut self) {
        if let Err(errno) = self.watch.again(Token::Flow(self.id), self.socket, EVENTS) {
            let id = self.id;
            log::error!("{id:?}: cannot watch its socket: {errno}");
        }
    }

    fn shutdown_write(&mut self) {
        if let Some(backlog) = &mut self.tcp.backlog {
            backlog.ends = true;
            return;
        }
        // What is closed next needs no shutdown: that sends the same FIN.
        self.owes_shutdown = self.tcp.conn.ends_next();
        if !self.owes_shutdown {
            self.shut();
        }
    }

    fn shut(&mut self) {
        if let Err(errno) = rnet::shutdown(self.socket, rnet::Shutdown::Write) {
            let id = self.id;
            log::debug!("{id:?} (TCP connection): shutdown: {errno}");
            refused::fail(self.tcp, self.socket, self.now, refused::error_of(self.socket));
        }
    }
}

/// Payload bytes that a send buffer takes now. The kernel charges each packet's overhead against the
/// limit, and splits packets after it has taken them; a quarter is kept for that.
fn room(buffer: stream::SendBuffer) -> u32 {
    let free = buffer.limit.saturating_sub(buffer.queued);
    free - free / 4
}
