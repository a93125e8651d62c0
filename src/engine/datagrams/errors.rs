//! ICMP errors from the network for UDP and echo, relayed to the guest: same type and code, the packet quoted as the
//! guest sent it (RFC 792, RFC 1191, RFC 4443). A program in the guest sees "connection refused", and a traceroute its
//! routers, as on the host. Where the flow changes its family, so does the error, which then comes from whom the guest
//! talks to: there is no other address for the offender. What the host's kernel says itself, of a neighbour that does
//! not answer, comes from the gateway.
//!
//! An error that quotes what the flow has not sent is dropped: anybody who knows the port could have the guest read what he
//! likes. A socket that is connected to nobody gets such errors all the same, as any of the host's does. Where the flow has
//! had one peer so far, only what quotes that one is passed on; of several, nobody keeps a list.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use passt_frame::ToGuest;

use super::anybody;
use super::begin::label;
use crate::engine::core::Core;
use crate::engine::net::Net;
use crate::engine::state::FlowKind;
use crate::engine::unreachable::{MESSAGE_BYTES, from_offender, send};
use crate::flow::side::{Endpoint, GuestView, Side};
use crate::flow::table::FlowId;
use crate::limits::ERRORS_PER_TURN;
use crate::sys::datagram::{self, QueuedError};
use crate::sys::errno_text;
use crate::wire::DropReason;
use crate::wire::build::{HeaderBuf, HeaderTemplate, L4Checksum, sum_of};
use crate::wire::eth;
use crate::wire::icmp_translation::IcmpError;
use crate::wire::ip::L4Protocol;
use crate::wire::l4;

/// Empties the error queue of a flow's socket, if an event said that there is something in it, and tells the guest.
/// What is left after [`ERRORS_PER_TURN`] is for the next turn.
pub(super) fn to_guest(core: &mut Core, out: &mut dyn ToGuest, id: FlowId) {
    let mut payload = [0; MESSAGE_BYTES[1]];
    for _ in 0..ERRORS_PER_TURN {
        let Some(flow) = core.flows.table.get_mut(id) else { return };
        let protocol = flow.state.l4(&flow.sides);
        let (FlowKind::Udp(state) | FlowKind::Echo(state)) = &mut flow.state.kind else {
            return;
        };
        if !state.failed {
            return;
        }
        let any_port = state.any_port;
        let is_sent_to = |to: SocketAddr| {
            let same = |last: SocketAddr| (last.ip(), last.port()) == (to.ip(), to.port());
            state.to_others || state.to.is_some_and(same)
        };
        let Some(view) = GuestView::of(&flow.sides) else { return };
        let (guest, peer) = (*view.guest, view.host.endpoint);
        let Ok(error) = datagram::take_error(flow.state.socket.as_fd(), &mut payload) else {
            state.failed = false;
            return;
        };
        if error.errno.is_some() && error.errno != state.logged {
            state.logged = error.errno;
            log_error(id, protocol, &error);
        }
        // An error of the host itself: send(2) has returned it already.
        let Some(kind) = error.kind else { continue };
        let ports = protocol == L4Protocol::Udp;
        let (side, peer) = match error.destination {
            Some(to) if any_port && to.ip() == peer.ip() => {
                (Side { ours: Endpoint::new(guest.ours.ip(), to.port()), ..guest }, peer)
            }
            Some(to) if !peer.is_anybody() && is_of_flow(to.into(), peer, ports) => (guest, peer),
            Some(to)
                if peer.is_anybody()
                    && is_sent_to(to)
                    && let Some(side) = anybody::visible(&core.net, &guest, None, Some(to)) =>
            {
                (side, side.ours)
            }
            _ => {
                core.outbox.drops.count(DropReason::ForeignDatagram);
                continue;
            }
        };
        let told = IcmpError { kind, code: error.code, mtu: error.info };
        match from_offender(&core.net, (side.ours.ip(), peer.ip()), told, error.offender) {
            Some((from, told)) => {
                let end = error.payload_len;
                let (header, rest) = quote(&core.net, &side, protocol, &mut payload[..end]);
                let quoted = [&header[eth::HEADER_BYTES..], rest];
                send(core, out, (from, side.endpoint.ip()), told, &quoted);
            }
            None => core.outbox.drops.count(DropReason::UntranslatableError),
        }
    }
    core.flows.mark_ready(id);
}

fn log_error(id: FlowId, protocol: L4Protocol, error: &QueuedError) {
    let QueuedError { errno: Some(errno), offender, .. } = *error else { return };
    let label = label(protocol);
    match offender {
        Some(ip) => log::debug!("{id:?} ({label}): {}, says {ip}", errno_text(errno)),
        None => log::debug!("{id:?} ({label}): {}", errno_text(errno)),
    }
}

/// Whether what was sent to `to` is of the flow with `peer`. Echo has no ports.
fn is_of_flow(to: Endpoint, peer: Endpoint, ports: bool) -> bool {
    to.ip() == peer.ip() && (!ports || to.port() == peer.port())
}

/// The packet from the guest to us of which `payload` is known: that of a UDP datagram, or an echo request.
fn quote<'a>(
    net: &Net,
    side: &Side,
    protocol: L4Protocol,
    payload: &'a mut [u8],
) -> (HeaderBuf, &'a [u8]) {
    let (guest, remote) = (side.endpoint.with_scope(0), side.ours.with_scope(0));
    let template = HeaderTemplate::new(net.macs(), guest, remote, protocol, 0);
    if protocol == L4Protocol::Udp {
        let checksum = L4Checksum::Complete { payload_sum: sum_of(payload) };
        return (template.udp(payload.len() as u32, checksum), payload);
    }
    l4::set_echo_identifier(payload, side.endpoint.port());
    (template.icmp(payload), payload)
}
