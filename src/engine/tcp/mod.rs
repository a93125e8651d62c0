//! TCP: does what the machine of [`flow::tcp`](crate::flow::tcp) decides, with the flow's socket and
//! the guest's buffers.
//!
//! | file | what it does |
//! |---|---|
//! | `from_guest` | segments of the guest: to their flow, in runs; new connections outward |
//! | `inbound` | connections that a listening socket has accepted |
//! | `keepalive` | guests that keep their connections alive |
//! | `kept` | bytes of the guest that sockets have not taken yet |
//! | `drive` | events, timers, and what the machine wants done about them |
//! | `refused` | connections that the host could not make |
//! | `data` | payload from the socket to the guest |
//! | `moved` | connections that come from another program, or go to one |

mod data;
mod drive;
mod from_guest;
mod inbound;
mod keepalive;
mod kept;
mod moved;
mod refused;

use std::os::fd::OwnedFd;

use passt_frame::ToGuest;
use rustix::event::epoll::EventFlags;

pub(super) use drive::{drive, on_event, on_guest_set_back, on_room, on_timer};
pub(super) use from_guest::{StreamRuns, from_guest, on_too_big, whole_from_guest};
pub(super) use inbound::accepted;
pub(super) use moved::{end, end_all, go_on, leave, lose, reset, take_over};

use super::core::{Core, Settings};
use super::state::{FlowKind, FlowState, PeekOffset, TcpState};
use crate::flow::side::{Side, Sides};
use crate::flow::table::FlowId;
use crate::flow::tcp::{Opening, our_mss};
use crate::wire::DropReason;
use crate::wire::ip::{L4Protocol, ip_header_bytes};
use crate::wire::tcp::HEADER_BYTES;

/// All events of a TCP socket. `OUT` is reported when a connection is up, and after
/// [`Action::WatchWritable`](crate::flow::tcp::Action::WatchWritable): the kernel reports it only to those
/// who wait. `PRI` comes with a byte that the peer calls urgent.
const EVENTS: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::PRI);

/// What is chosen for a new connection, of which `side` is the guest's.
fn opening(core: &Core, side: &Side) -> Opening {
    let ip_header_len = ip_header_bytes(side.endpoint.ip().is_ipv4()) as u16;
    let mtu = u16::try_from(core.net.link_mtu()).unwrap_or(u16::MAX);
    Opening {
        isn: core.initial_numbers.next(core.now, core.flows.index.hash(side)),
        our_mss: our_mss(mtu, ip_header_len),
        max_segment: u16::MAX - ip_header_len - HEADER_BYTES as u16,
    }
}

/// Where a new socket of a family peeks.
fn peek_offset(settings: &Settings, v4: bool) -> PeekOffset {
    let supported = if v4 { settings.peek_offset_v4 } else { settings.peek_offset_v6 };
    if supported { PeekOffset::Unset } else { PeekOffset::Unsupported }
}

/// Adds a connection whose handshake with the guest begins. The oldest of those gives way if there are too many.
fn add(
    core: &mut Core,
    out: &mut dyn ToGuest,
    socket: OwnedFd,
    sides: [Side; 2],
    state: TcpState,
) -> Result<FlowId, DropReason> {
    let state = FlowState::new(socket, core.net.epoch(), core.now, FlowKind::Tcp(state));
    let id = core.flows.add(sides, L4Protocol::Tcp, state, EVENTS)?;
    log::debug!("{id:?} (TCP connection): {}", Sides(&sides));
    core.flows.mark_ready(id);
    if let Some(oldest) = core.flows.begin_handshake(id, core.listeners.len()) {
        core.outbox.drops.count(DropReason::HalfOpenEvicted);
        drive::evict(core, out, oldest);
    }
    Ok(id)
}
