//! ICMP errors from the host for UDP flows, relayed to the guest: same type and code, the datagram
//! quoted as the guest sent it (RFC 792, RFC 1191, RFC 4443). A UDP application in the guest sees
//! "connection refused" as it would on the host. Where the flow changes its family, so does the error,
//! which then comes from whom the guest talks to: there is no other address for the offender.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use arrayvec::ArrayVec;
use passt_frame::ToGuest;

use super::anybody;
use crate::engine::core::Core;
use crate::engine::net::Net;
use crate::engine::state::FlowKind;
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::FlowId;
use crate::limits::ERRORS_PER_TURN;
use crate::sys::datagram::{self, QueuedError};
use crate::wire::DropReason;
use crate::wire::build::{HeaderTemplate, L4Checksum, sum_of};
use crate::wire::eth;
use crate::wire::icmp_translation::{IcmpError, v4, v6};
use crate::wire::ip::L4Protocol;

/// Bytes of payload quoted in an ICMP error (RFC 792: 64 bits).
const QUOTE_V4: usize = 8;
/// Bytes of an ICMPv6 error with its quote, so that the packet has at most 1,280 bytes.
const MESSAGE_V6: usize = 1280 - 40;

type Message = ArrayVec<u8, MESSAGE_V6>;

/// Empties the error queue of a flow's socket, if an event said that there is something in it. The guest is told
/// of errors to UDP; an echo flow's are discarded. What is left after [`ERRORS_PER_TURN`] is for the next turn.
pub(super) fn to_guest(core: &mut Core, out: &mut dyn ToGuest, id: FlowId) {
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    let is_udp = matches!(flow.state.kind, FlowKind::Udp(_));
    let (FlowKind::Udp(state) | FlowKind::Ping(state)) = &mut flow.state.kind else {
        return;
    };
    if !state.failed {
        return;
    }
    let Some(tap) = flow.sides.iter().position(|side| side.pif == Pif::Tap) else { return };
    let (guest, peer) = (flow.sides[tap], flow.sides[1 - tap].endpoint);
    let fd = flow.state.socket.as_fd();
    let mut payload = [0; MESSAGE_V6];
    for _ in 0..ERRORS_PER_TURN {
        let Ok(error) = datagram::take_error(fd, &mut payload) else {
            state.failed = false;
            return;
        };
        if !is_udp {
            continue;
        }
        let (side, peer) = match error.destination {
            Some(to) if !peer.is_anybody() && Endpoint::from(to) == peer => (guest, peer),
            to if peer.is_anybody()
                && let Some(side) = anybody::visible(&core.net, &guest, to) =>
            {
                (side, side.ours)
            }
            _ => {
                core.outbox.drops.count(DropReason::ForeignDatagram);
                continue;
            }
        };
        let quote = &payload[..error.payload_len];
        match answer(&core.net, &side, peer.ip(), &error, quote) {
            Some((from, mut message)) => {
                let to = SocketAddr::new(side.endpoint.ip(), 0);
                let macs = core.net.macs_from(from.ip());
                core.outbox.icmp(out, macs, from, to, &mut message);
            }
            None => core.outbox.drops.count(DropReason::UntranslatableError),
        }
    }
    core.flows.mark_ready(id);
}

/// The error message for the guest and the address it comes from.
fn answer(
    net: &Net,
    side: &Side,
    peer: IpAddr,
    error: &QueuedError,
    payload: &[u8],
) -> Option<(SocketAddr, Message)> {
    let (kind, offender) = (error.kind?, error.offender?);
    let ours = side.ours.ip();
    let told = IcmpError { kind, code: error.code, mtu: error.info };
    let (from, error) = if peer.is_ipv4() != ours.is_ipv4() {
        (ours, told.translated(peer.is_ipv4())?)
    } else if offender == peer {
        (ours, told)
    } else {
        (net.source_for_guest(offender)?, told)
    };
    if from.is_ipv4() != ours.is_ipv4() {
        return None;
    }
    let mut message = Message::new();
    message.try_extend_from_slice(&[error.kind, error.code, 0, 0]).ok()?;
    message.try_extend_from_slice(&mtu_field(from.is_ipv4(), error).to_be_bytes()).ok()?;
    // The quoted datagram went from the guest to us.
    let (guest, remote) = (side.endpoint.with_scope(0), side.ours.with_scope(0));
    let template = HeaderTemplate::new(net.macs(), guest, remote, L4Protocol::Udp, 0);
    let checksum = L4Checksum::Complete { payload_sum: sum_of(payload) };
    let quoted = template.udp(payload.len() as u32, checksum);
    message.try_extend_from_slice(&quoted[eth::HEADER_BYTES..]).ok()?;
    let room = if from.is_ipv4() { QUOTE_V4 } else { message.remaining_capacity() };
    message.try_extend_from_slice(&payload[..payload.len().min(room)]).ok()?;
    Some((SocketAddr::new(from, 0), message))
}

/// The four bytes behind the checksum: the MTU where the type has one, else zero.
fn mtu_field(v4: bool, error: IcmpError) -> u32 {
    match (v4, error.kind, error.code) {
        (true, v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED) => error.mtu & 0xffff,
        (false, v6::TOO_BIG, _) => error.mtu,
        _ => 0,
    }
}
