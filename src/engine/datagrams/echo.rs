//! ICMP echo: requests of the guest go out on a socket that the kernel fills an identifier in for, and replies
//! come back with the guest's.
//!
//! Where the kernel grants no such socket (`net.ipv4.ping_group_range`, icmp(7)), requests to the host itself are
//! answered here, and for all others the guest is told that it is prohibited.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use passt_frame::{
    FrameDone, FrameMeta, FromGuestLease, Part, Payload, Reservation, Reserve, ToGuest,
    ToGuestLease,
};
use rustix::net::SendFlags;

use super::cut::{Datagram, Sent, fits};
use super::queue::{Served, drain, drop_head, next_head};
use super::send::send_datagram;
use super::{Datagrams, from_guest, socket};
use crate::engine::core::Core;
use crate::engine::marks::Marks;
use crate::engine::net::Net;
use crate::engine::outbox::Outbox;
use crate::engine::state::{Delivered, FlowKind};
use crate::engine::unreachable::{tell_of_frame, tell_of_packet};
use crate::flow::fwd::Proto;
use crate::flow::side::{Endpoint, GuestView, Pif, Side};
use crate::flow::table::FlowId;
use crate::sys::copy_buffer::CopyBuffer;
use crate::sys::datagram;
use crate::sys::socket::is_of_this_host;
use crate::wire::DropReason;
use crate::wire::build::HeaderTemplate;
use crate::wire::ip::{IpHead, L4Protocol};
use crate::wire::l4::{self, EchoHead, UDP_HEADER_BYTES};

/// An echo request from the guest.
pub(in crate::engine) fn echo_from_guest(
    core: &mut Core,
    datagrams: &mut Datagrams,
    (lease, index): (&mut FromGuestLease<'_>, usize),
    ip: &IpHead,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let echo = request(ip, ip.l4(lease.frames()[index].head())?)?;
    let part = Part { frame: index, offset: ip.l4_offset as u32, len: ip.l4_len };
    let ports = (echo.identifier, echo.identifier);
    match socket::find_or_open(core, datagrams, ip, ports) {
        Ok(id) => from_guest::send_part(core, lease, out, id, &Marks::of(ip), part, None),
        Err(DropReason::EchoNotAllowed) => {
            let room = buffer.scratch();
            let len = lease.copy_out(part, room);
            let answered = answer_for_host(core, out, ip, &mut room[..len]);
            answered.inspect_err(|&reason| tell_of_frame(core, out, lease, index, (reason, None)))
        }
        Err(reason) => {
            tell_of_frame(core, out, lease, index, (reason, None));
            Err(reason)
        }
    }
}

/// An echo request that came in fragments.
pub(super) fn whole_from_guest(
    core: &mut Core,
    datagrams: &mut Datagrams,
    (ip, slot): (&IpHead, std::ops::Range<usize>),
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let echo = request(ip, &datagrams.fragments.buffers[slot.clone()])?;
    let ports = (echo.identifier, echo.identifier);
    let sent = socket::find_or_open(core, datagrams, ip, ports).and_then(|id| {
        let flow = core.flows.table.get_mut(id).ok_or(DropReason::NoFlow)?;
        let message = &datagrams.fragments.buffers[slot.clone()];
        send_datagram(
            flow,
            (&core.net, core.now),
            &Marks::of(ip),
            (ip.l4_len, ip.l4_len),
            |socket, _| {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                rustix::net::send(socket, message, flags).map(|_| ())
            },
        )
    });
    let message = &mut datagrams.fragments.buffers[slot];
    let answered = match sent {
        Err(DropReason::EchoNotAllowed) => answer_for_host(core, out, ip, message),
        other => other,
    };
    answered.inspect_err(|&reason| tell_of_packet(core, out, (ip, message), reason))
}

/// The head of an echo request.
fn request(ip: &IpHead, message: &[u8]) -> Result<EchoHead, DropReason> {
    let echo = l4::parse_echo(message).ok_or(DropReason::UnsupportedIcmp)?;
    let kind = if ip.source.is_ipv4() { l4::ECHO_REQUEST_V4 } else { l4::ECHO_REQUEST_V6 };
    if echo.kind == kind { Ok(echo) } else { Err(DropReason::UnsupportedIcmp) }
}

/// Answers a request to the host itself, which is allowed; the request becomes the reply.
fn answer_for_host(
    core: &mut Core,
    out: &mut dyn ToGuest,
    ip: &IpHead,
    request: &mut [u8],
) -> Result<(), DropReason> {
    let (guest, asked) = (Endpoint::new(ip.source, 0), Endpoint::new(ip.destination, 0));
    let target = core.net.would_lead(Proto::Icmp, guest.with_scope(0), asked.with_scope(0))?;
    if !is_of_this_host(target.destination) {
        return Err(DropReason::Prohibited);
    }
    let side = Side { pif: Pif::Tap, ours: asked, endpoint: guest };
    let template = core.net.template(&side, ip.protocol, 0);
    request[0] = reply_kind(template.is_v4());
    match send_reply(&mut core.outbox, out, &template, core.net.mtu_to(&side), request) {
        Sent::Done => Ok(()),
        Sent::NoRoom => Err(DropReason::NoGuestRoom),
        Sent::NeverFits => Err(DropReason::TooLarge),
    }
}

fn reply_kind(v4: bool) -> u8 {
    if v4 { l4::ECHO_REPLY_V4 } else { l4::ECHO_REPLY_V6 }
}

/// Where the replies of one flow go.
struct EchoReplies<'a> {
    outbox: &'a mut Outbox,
    net: &'a Net,
    out: &'a mut dyn ToGuest,
    fd: BorrowedFd<'a>,
    /// The guest's side.
    side: Side,
    protocol: L4Protocol,
    /// Whom the guest has asked.
    peer: IpAddr,
    /// That is a group, or all of a network.
    to_many: bool,
    template: HeaderTemplate,
    /// The largest IP packet that reaches the guest whole.
    mtu: u32,
    /// Bytes of the guest's largest request.
    largest: u32,
    /// Replies that the guest has got, and their bytes.
    replies: usize,
    bytes: u64,
}

/// Moves replies to the guest, for one turn.
pub(super) fn serve(
    core: &mut Core,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
    id: FlowId,
) -> Served {
    let Some(flow) = core.flows.table.get_mut(id) else { return Served::Empty };
    let Some(view) = GuestView::of(&flow.sides) else { return Served::Empty };
    let side = *view.guest;
    let protocol = flow.state.l4(&flow.sides);
    let FlowKind::Echo(state) = &mut flow.state.kind else { return Served::Empty };
    let (largest, to_many, delivered) = (state.largest, state.to_many, &mut state.delivered);
    let mut to_guest = EchoReplies {
        outbox: &mut core.outbox,
        net: &core.net,
        out,
        fd: flow.state.socket.as_fd(),
        side,
        protocol,
        peer: view.host.endpoint.ip(),
        to_many,
        template: core.net.template(&side, protocol, 0),
        mtu: core.net.mtu_to(&side),
        largest,
        replies: 0,
        bytes: 0,
    };
    let served = drain(|| to_guest.one(buffer, delivered));
    let (replies, bytes) = (to_guest.replies, to_guest.bytes);
    if replies > 0 {
        state.count(view.host_index(), replies);
        state.bytes[view.host_index()] += bytes;
        core.flows.note_answer(id, core.now);
    }
    served
}

impl EchoReplies<'_> {
    /// Moves one echo reply of the peer to the guest, with the guest's identifier and at most as long as its
    /// largest request.
    fn one(&mut self, buffer: &mut CopyBuffer, delivered: &mut Delivered) -> Served {
        let mut head = [0; UDP_HEADER_BYTES as usize];
        let (peeked, source) = match next_head(datagram::peek_bytes(self.fd, &mut head)) {
            Ok(peeked) => peeked,
            Err(served) => return served,
        };
        let Some(source) = source.map(|source| source.ip()) else { return Served::Empty };
        if source != self.peer && !self.to_many {
            return self.drop_one(DropReason::ForeignDatagram);
        }
        let reply = reply_kind(self.template.is_v4());
        if l4::parse_echo(&head).is_none_or(|echo| echo.kind != reply) || peeked < UDP_HEADER_BYTES
        {
            return self.drop_one(DropReason::UnsupportedIcmp);
        }
        if self.to_many {
            let Some(side) = self.one_of_many(source) else {
                return self.drop_one(DropReason::ForbiddenAddress);
            };
            self.template = self.net.template(&side, self.protocol, 0);
        }
        if !self.out.caps().up {
            return self.drop_one(DropReason::LinkDown);
        }
        let len = self.largest.saturating_sub(UDP_HEADER_BYTES);
        if delivered.cut == 0
            && fits(&self.template, self.mtu, len)
            && let Some(served) = self.in_one_frame(&mut head, len)
        {
            return served;
        }
        self.in_fragments(buffer, delivered)
    }

    /// What the guest sees of `source`, who answers a request to many; `None` if the guest may not talk to it.
    fn one_of_many(&self, source: IpAddr) -> Option<Side> {
        let seen = self.net.source_for_guest(source)?;
        let [as_seen, real] = [seen, source].map(|address| SocketAddr::new(address, 0));
        let allowed = self.net.still_allows(Proto::Icmp, as_seen, real);
        allowed.then(|| Side { ours: Endpoint::new(seen, 0), ..self.side })
    }

    fn drop_one(&mut self, reason: DropReason) -> Served {
        self.outbox.drops.count(reason);
        drop_head(self.fd);
        Served::More
    }

    /// Moves the reply with `head`, and at most `len` bytes behind it, straight into the guest's buffers. `None` if
    /// none of them can be so large.
    fn in_one_frame(&mut self, head: &mut [u8; 8], len: u32) -> Option<Served> {
        let header_len = self.template.l3_bytes() as u32 + UDP_HEADER_BYTES;
        let payload = Payload::Datagrams;
        let request = Reserve { header_len, payload_len: len, bytes: len, payload };
        let mut lease = match ToGuestLease::reserve(&mut *self.out, &mut self.outbox.list, request)
        {
            Reservation::All(lease) | Reservation::Some(lease) => lease,
            Reservation::None => return Some(Served::NoRoom),
            Reservation::Never => return None,
        };
        let Ok(received) = lease.recv_datagram(self.fd, UDP_HEADER_BYTES) else {
            return Some(Served::Empty);
        };
        let received = received.min(len);
        l4::set_echo_identifier(head, self.side.endpoint.port());
        // Whole, whatever the link can leave to the guest: a program that reads ICMP sees it as it came, and
        // ping(8) looks at the checksum itself.
        let payload_sum = lease.payload_sum(0, received).folded();
        let mut header = self.template.echo(head, received, payload_sum);
        self.template.let_be_cut(&mut header, || self.outbox.numbers.next());
        lease.put_header(0, &header);
        lease.commit(&[FrameDone { payload_len: received, meta: FrameMeta::default() }]);
        self.replies += 1;
        self.bytes += u64::from(UDP_HEADER_BYTES + received);
        Some(Served::More)
    }

    /// Moves the reply at the head of the queue in fragments, if it is too large for a frame.
    fn in_fragments(&mut self, buffer: &mut CopyBuffer, delivered: &mut Delivered) -> Served {
        let Ok(message) = buffer.peek_one(self.fd) else { return Served::Empty };
        let len = message.len().min(self.largest as usize);
        let message = &mut message[..len];
        l4::set_echo_identifier(message, self.side.endpoint.port());
        let path = (self.mtu, delivered);
        let sent = send_message(self.outbox, self.out, &self.template, path, message);
        match sent {
            Sent::Done => drop_head(self.fd),
            Sent::NoRoom => return Served::NoRoom,
            Sent::NeverFits => return self.drop_one(DropReason::TooLarge),
        }
        self.replies += 1;
        self.bytes += len as u64;
        Served::More
    }
}

/// Sends a reply that is in private memory, whole or not at all.
fn send_reply(
    outbox: &mut Outbox,
    out: &mut dyn ToGuest,
    template: &HeaderTemplate,
    mtu: u32,
    message: &mut [u8],
) -> Sent {
    send_message(outbox, out, template, (mtu, &mut Delivered::default()), message)
}

/// Sends what the guest has not got of a message, over a link of an MTU, and completes its checksum.
fn send_message(
    outbox: &mut Outbox,
    out: &mut dyn ToGuest,
    template: &HeaderTemplate,
    (mtu, delivered): (u32, &mut Delivered),
    message: &mut [u8],
) -> Sent {
    if message.len() as u32 > template.max_l4_bytes() {
        return Sent::NeverFits;
    }
    let _header = template.icmp(message);
    let Some((&head, payload)) = message.split_first_chunk() else { return Sent::NeverFits };
    Datagram { template, head, payload }.send(outbox, out, mtu, delivered)
}
