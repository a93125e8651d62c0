//! Connections that come from another program or go to one: they begin in the middle, and end without a word.

use std::os::fd::{AsFd, OwnedFd};

use passt_frame::ToGuest;

use super::{EVENTS, drive, kept, opening, peek_offset, refused};
use crate::engine::core::Core;
use crate::engine::egress;
use crate::engine::migration::Coming;
use crate::engine::state::{Backlog, FlowKind, FlowState, Nagle, Peer, TcpState};
use crate::engine::token::Token;
use crate::flow::fwd::Proto;
use crate::flow::migration::{Record, TcpStage};
use crate::flow::side::{GuestView, Pif, Sides};
use crate::flow::table::FlowId;
use crate::flow::tcp::{Conn, Flags, Header};
use crate::sys::{repair, stream};
use crate::wire::SeqNr;
use crate::wire::build::L4Checksum;
use crate::wire::ip::L4Protocol;

/// A connection has come. It goes on here, unless it is `broken` or not whole: then it ends for the peer, and is
/// returned for [`reset`].
pub(in crate::engine) fn take_over(
    core: &mut Core,
    coming: Coming,
    broken: bool,
) -> Option<Record> {
    let Coming { record, socket, stage, queues, unsent, whole, .. } = coming;
    let [send_queue, receive_queue] = queues;
    let record = record?;
    let usable = whole && !broken;
    let restored = socket.and_then(|socket| {
        let conn = if usable { conn(core, &record, receive_queue) } else { None };
        let _ = repair::share_port(socket.as_fd());
        if conn.is_none() {
            // The peer is told, too.
            let _ = stream::reset_on_close(socket.as_fd());
        }
        conn.map(|conn| (socket, conn))
    });
    let Some((socket, conn)) = restored else { return Some(record) };
    let v4 = record.sides.iter().any(|side| side.pif == Pif::Host && side.endpoint.ip().is_ipv4());
    let mut state = TcpState::new(conn, peek_offset(&core.settings, v4), Nagle::Off);
    let ends = matches!(stage, Some(TcpStage::FinWait1 | TcpStage::LastAck | TcpStage::Closing));
    if send_queue == 0 && matches!(stage, Some(TcpStage::LastAck | TcpStage::Closing)) {
        state.peer = Peer::Done;
    }
    if ends || !unsent.is_empty() {
        state.backlog = Some(Box::new(Backlog::new(unsent, ends, &core.flows.kept)));
    }
    let state = FlowState::new(socket, core.net.epoch(), core.now, FlowKind::Tcp(state));
    match core.flows.add(record.sides, L4Protocol::Tcp, state, EVENTS) {
        Ok(id) => {
            log::debug!("{id:?} (TCP connection): {}: migrated", Sides(&record.sides));
            if let Some(flow) = core.flows.table.get_mut(id)
                && let FlowKind::Tcp(tcp) = &mut flow.state.kind
            {
                kept::flush(tcp, flow.state.socket.as_fd(), core.now);
            }
            core.flows.mark_ready(id);
            None
        }
        Err(_) => Some(record),
    }
}

/// The machine of a connection that has come; `None` if it contradicts itself, or another one, or may not be.
fn conn(core: &Core, record: &Record, receive_queue: u32) -> Option<Conn> {
    let side = GuestView::of(&record.sides)?.guest;
    let opening = opening(core, side);
    if core.flows.find(L4Protocol::Tcp, side).is_some() {
        return None;
    }
    if !egress::allows(&core.net, Proto::Tcp, &record.sides) {
        log::debug!("connection that migrates: {}: forbidden here", Sides(&record.sides));
        return None;
    }
    let config = &core.settings.tcp;
    let conn = Conn::restore(core.now, config, &record.image, receive_queue, opening);
    conn.inspect_err(|why| {
        log::debug!("connection that migrates: {}: {why}", Sides(&record.sides));
    })
    .ok()
}

/// A connection whose socket nobody can bring back is over. It is returned for [`reset`].
pub(in crate::engine) fn lose(core: &mut Core, id: FlowId) -> Option<Record> {
    let flow = core.flows.table.get(id)?;
    let sides = flow.sides;
    let image = match &flow.state.kind {
        FlowKind::Tcp(tcp) => tcp.conn.image(false),
        _ => None,
    };
    log::debug!("{id:?} (TCP connection): lost: its socket stays in repair");
    // Should somebody end its repair after all, the peer sees no end of what it was told, but a reset.
    let _ = stream::reset_on_close(flow.state.fd());
    drive::discharge(core, id);
    core.flows.remove(id);
    image.map(|image| Record { sides, image, send_buffer: 0, first_from_guest: SeqNr(0) })
}

/// Tells the guest that a connection is over. False if it has no room for that now.
pub(in crate::engine) fn reset(core: &mut Core, out: &mut dyn ToGuest, record: &Record) -> bool {
    let Some(view) = GuestView::of(&record.sides) else { return true };
    let image = &record.image;
    let header = Header {
        seq: image.next_to_guest,
        ack: image.next_from_guest,
        flags: Flags::RST | Flags::ACK,
        window: 0,
        mss: None,
        window_scale: None,
    };
    let template = core.net.template(view.guest, L4Protocol::Tcp, 0);
    let checksum = L4Checksum::Complete { payload_sum: 0 };
    core.outbox.send(out, &template.tcp(&header, 0, checksum), &[])
}

/// A connection that was frozen goes on: all that its socket has to say is said again.
pub(in crate::engine) fn go_on(core: &mut Core, id: FlowId) {
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    if let FlowKind::Tcp(tcp) = &mut flow.state.kind
        && let Peer::Lost(errno) = tcp.peer
    {
        refused::fail(tcp, flow.state.socket.as_fd(), core.now, Some(errno));
    }
    let token = Token::Flow(id);
    if let Err(errno) = core.flows.watch.again(token, flow.state.socket.as_fd(), EVENTS) {
        log::error!("{id:?}: cannot watch its socket: {errno}");
    }
    core.flows.mark_ready(id);
}

/// A connection lives elsewhere: nothing is left of it here but its socket.
pub(in crate::engine) fn leave(core: &mut Core, id: FlowId) -> Option<OwnedFd> {
    drive::discharge(core, id);
    core.flows.take(id)
}

/// Ends a connection of a guest that is not here any more: the peer is told.
pub(in crate::engine) fn end(core: &mut Core, id: FlowId) {
    drive::close(core, id, true);
}

/// Ends all connections of a guest that is not here any more. Walks the table.
pub(in crate::engine) fn end_all(core: &mut Core) {
    let is_tcp = |id: &FlowId| {
        let flow = core.flows.table.get(*id);
        flow.is_some_and(|flow| matches!(flow.state.kind, FlowKind::Tcp(_)))
    };
    let all: Vec<FlowId> = core.flows.table.ids().filter(is_tcp).collect();
    for id in all {
        end(core, id);
    }
}
