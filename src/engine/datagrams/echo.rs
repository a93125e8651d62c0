//! ICMP echo: requests of the guest go out on a socket that the kernel fills an identifier in for, and replies
//! come back with the guest's.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use passt_frame::{
    Checksum, FrameDone, FrameMeta, FromGuestLease, Part, Payload, Reservation, Reserve, ToGuest,
    ToGuestLease,
};

use super::queue::{Served, drain, drop_head, next_head};
use super::{Datagrams, from_guest, socket};
use crate::engine::core::Core;
use crate::engine::outbox::Outbox;
use crate::engine::state::FlowKind;
use crate::flow::fwd::Proto;
use crate::flow::side::Pif;
use crate::flow::table::FlowId;
use crate::sys::datagram;
use crate::wire::DropReason;
use crate::wire::build::{HeaderTemplate, L4Checksum};
use crate::wire::ip::IpHead;
use crate::wire::l4::{self, UDP_HEADER_BYTES};

/// Where the checksum is in an ICMP or ICMPv6 header, in bytes (RFC 792, RFC 4443).
const CHECKSUM_OFFSET: u16 = 2;

/// An echo request from the guest.
pub(in crate::engine) fn echo_from_guest(
    core: &mut Core,
    datagrams: &mut Datagrams,
    lease: &mut FromGuestLease<'_>,
    index: usize,
    ip: &IpHead,
) -> Result<(), DropReason> {
    let echo = l4::parse_echo(ip.l4(lease.frames()[index].head())?);
    let echo = echo.ok_or(DropReason::UnsupportedIcmp)?;
    let v4 = ip.source.is_ipv4();
    if echo.kind != if v4 { l4::ECHO_REQUEST_V4 } else { l4::ECHO_REQUEST_V6 } {
        return Err(DropReason::UnsupportedIcmp);
    }
    let ports = (echo.identifier, echo.identifier);
    let id = socket::find_or_open(core, datagrams, Proto::Icmp, ip, ports)?;
    let part = Part { frame: index, offset: ip.l4_offset as u32, len: ip.l4_len };
    from_guest::send_part(core, lease, id, 0, part, None)
}

/// Moves replies to the guest, for one turn.
pub(super) fn serve(core: &mut Core, out: &mut dyn ToGuest, id: FlowId) -> Served {
    let Some(flow) = core.flows.table.get(id) else { return Served::Empty };
    let tap = usize::from(flow.sides[0].pif != Pif::Tap);
    let side = flow.sides[tap];
    let FlowKind::Ping(state) = &flow.state.kind else { return Served::Empty };
    let template = core.net.template(&side, flow.state.l4(&flow.sides), 0);
    let (fd, identity) = (flow.state.fd(), (side.endpoint.port(), state.largest));
    let peer = flow.sides[1 - tap].endpoint.ip();
    let mut replies = 0;
    let served =
        drain(|| to_guest(&mut core.outbox, out, (fd, peer), &template, identity, &mut replies));
    if let Some(flow) = core.flows.table.get_mut(id)
        && let FlowKind::Ping(state) = &mut flow.state.kind
        && replies > 0
    {
        state.count(1 - tap, replies);
        core.flows.note_answer(id, core.now);
    }
    served
}

/// Moves one echo reply of `peer` to the guest, with the guest's identifier and at most as long as its
/// largest request, and counts it; `None` when there is none.
fn to_guest(
    outbox: &mut Outbox,
    out: &mut dyn ToGuest,
    (fd, peer): (BorrowedFd<'_>, IpAddr),
    template: &HeaderTemplate,
    (identifier, largest): (u16, u32),
    replies: &mut usize,
) -> Option<Served> {
    let mut head = [0; UDP_HEADER_BYTES as usize];
    let (peeked, source) = match next_head(datagram::peek_bytes(fd, &mut head)) {
        Ok(peeked) => peeked,
        Err(next) => return next,
    };
    // Who answers for a group does so with an address of its own.
    if source.is_none_or(|source| source.ip() != peer) && !peer.is_multicast() {
        outbox.drops.count(DropReason::ForeignDatagram);
        drop_head(fd);
        return Some(Served::More);
    }
    let reply = if template.is_v4() { l4::ECHO_REPLY_V4 } else { l4::ECHO_REPLY_V6 };
    if l4::parse_echo(&head).is_none_or(|echo| echo.kind != reply) || peeked < UDP_HEADER_BYTES {
        outbox.drops.count(DropReason::UnsupportedIcmp);
        drop_head(fd);
        return Some(Served::More);
    }
    let len = largest.saturating_sub(UDP_HEADER_BYTES);
    let mut lease = match room_for(outbox, out, fd, template, len) {
        Ok(lease) => lease,
        Err(next) => return Some(next),
    };
    let received = lease.recv_datagram(fd, UDP_HEADER_BYTES).ok()?.min(len);
    let (checksum, meta) = checksum(&lease, template, received);
    head[4..6].copy_from_slice(&identifier.to_be_bytes());
    lease.put_header(0, &template.echo(&mut head, received, checksum));
    lease.commit(&[FrameDone { payload_len: received, meta }]);
    *replies += 1;
    Some(Served::More)
}

/// Room for a datagram with `len` bytes behind its L4 header. Without, either the datagram was
/// dropped (`More`) or it stays in the socket (`NoRoom`).
fn room_for<'a>(
    outbox: &'a mut Outbox,
    out: &'a mut dyn ToGuest,
    fd: BorrowedFd<'_>,
    template: &HeaderTemplate,
    len: u32,
) -> Result<ToGuestLease<'a>, Served> {
    let mut drop_one = |reason| {
        outbox.drops.count(reason);
        drop_head(fd);
        Served::More
    };
    if !out.caps().up {
        return Err(drop_one(DropReason::LinkDown));
    }
    if len > template.max_l4_bytes() - UDP_HEADER_BYTES {
        return Err(drop_one(DropReason::TooLarge));
    }
    let header_len = template.l3_bytes() as u32 + UDP_HEADER_BYTES;
    let request = Reserve { header_len, payload_len: len, bytes: len, payload: Payload::Datagrams };
    match ToGuestLease::reserve(out, &mut outbox.list, request) {
        Reservation::All(lease) | Reservation::Some(lease) => Ok(lease),
        Reservation::None => Err(Served::NoRoom),
        Reservation::Never => {
            outbox.drops.count(DropReason::TooLarge);
            drop_head(fd);
            Err(Served::More)
        }
    }
}

/// How to finish the checksum of a reply whose payload of `len` bytes was received.
fn checksum(
    lease: &ToGuestLease<'_>,
    template: &HeaderTemplate,
    len: u32,
) -> (L4Checksum, FrameMeta) {
    if lease.caps().partial_checksum {
        let start = template.l3_bytes() as u16;
        let checksum = Checksum::Partial { start, offset: CHECKSUM_OFFSET };
        (L4Checksum::Partial, FrameMeta { checksum, gso: None })
    } else {
        let payload_sum = lease.payload_sum(0, len).folded();
        (L4Checksum::Complete { payload_sum }, FrameMeta::default())
    }
}
