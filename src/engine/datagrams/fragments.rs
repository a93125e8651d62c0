//! Packets that the guest cut into fragments. [`crate::flow::reassembly`] decides; here are the
//! buffers, the copying and the sending.
//!
//! A datagram that comes in one frame goes to the kernel straight from the guest's buffers. One that is
//! scattered over frames cannot: the ring must get each frame back although the rest may never come.
//! So fragments are copied to a private buffer of their datagram, and when it is whole, it is checked
//! there and sent from there with one send(2). The buffers are reserved when the engine is made and
//! touched when they are used. What a buffer still holds of earlier datagrams never gets out: a
//! datagram is whole when each of its bytes was written.
//!
//! The checksum is verified, unlike elsewhere: no offload can complete it over several frames, and it
//! is all that tells when fragments of two datagrams were mixed up (RFC 4963).

use std::net::SocketAddr;
use std::ops::Range;

use passt_frame::{FromGuestLease, Part, ToGuest};
use rustix::net::SendFlags;

use super::send::{note_sent, send_datagram};
use super::{Datagrams, echo, socket};
use crate::engine::core::Core;
use crate::engine::marks::Marks;
use crate::engine::unreachable::tell_of_packet;
use crate::flow::fwd::is_many;
use crate::flow::reassembly::Reassembly;
use crate::limits::{REASSEMBLY_BUFFER_BYTES, REASSEMBLY_SLOTS};
use crate::responder::{dhcp, dhcpv6};
use crate::wire::ip::{IpHead, L4Protocol};
use crate::wire::l4::{NDP_TYPES, UDP_HEADER_BYTES, UdpHead, checksum_is_right};
use crate::wire::{DropReason, Fragment};

/// Datagrams under reassembly.
pub(in crate::engine) struct Fragments {
    reassembly: Reassembly,
    /// One buffer for each slot, one behind the other.
    pub(super) buffers: Box<[u8]>,
}

impl Default for Fragments {
    fn default() -> Self {
        let buffers = vec![0; REASSEMBLY_SLOTS * REASSEMBLY_BUFFER_BYTES].into_boxed_slice();
        Self { reassembly: Reassembly::default(), buffers }
    }
}

/// Forgets the fragments that there are. The guest is gone: what the next one sends is no part of what this one has begun.
pub(in crate::engine) fn forget(core: &mut Core, datagrams: &mut Datagrams) {
    datagrams.fragments.reassembly.clear(&mut core.outbox.drops);
}

/// A packet that is whole again, in a buffer until the next fragment comes.
pub(in crate::engine) struct Reassembled {
    /// Its header; where its L4 header is says `bytes`.
    pub(in crate::engine) ip: IpHead,
    bytes: Range<usize>,
}

impl Reassembled {
    /// What is behind the IP header.
    pub(in crate::engine) fn l4<'a>(&self, datagrams: &'a Datagrams) -> &'a [u8] {
        &datagrams.fragments.buffers[self.bytes.clone()]
    }
}

/// Takes a fragment from the guest. The last of a packet to arrive makes it whole; its checksum is right then.
pub(in crate::engine) fn reassembled(
    core: &mut Core,
    datagrams: &mut Datagrams,
    lease: &mut FromGuestLease<'_>,
    frame: usize,
    fragment: &Fragment,
) -> Result<Option<Reassembled>, DropReason> {
    let Fragments { reassembly, buffers } = &mut datagrams.fragments;
    let placed = reassembly.add(core.now, fragment, &mut core.outbox.drops)?;
    let Some(placed) = placed else { return Ok(None) };
    let start = placed.slot * REASSEMBLY_BUFFER_BYTES;
    let buffer = &mut buffers[start..start + REASSEMBLY_BUFFER_BYTES];
    let (offset, len) = (fragment.ip.l4_offset as u32, fragment.ip.l4_len);
    let room = &mut buffer[placed.offset..placed.offset + len as usize];
    lease.copy_out(Part { frame, offset, len }, room);
    let Some(total) = placed.whole else { return Ok(None) };
    let ip = IpHead { l4_offset: 0, l4_len: total, ..fragment.ip };
    let bytes = start..start + total as usize;
    Ok(Some(Reassembled { ip, bytes }))
}

/// A UDP datagram or an ICMP message that came in fragments.
pub(in crate::engine) fn whole_from_guest(
    core: &mut Core,
    datagrams: &mut Datagrams,
    whole: &Reassembled,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let Reassembled { ip, bytes } = whole;
    let message = whole.l4(datagrams);
    match ip.protocol {
        // RFC 6980, section 5.
        L4Protocol::Icmpv6 if message.first().is_some_and(|kind| NDP_TYPES.contains(kind)) => {
            Err(DropReason::Fragment)
        }
        _ if ip.protocol == L4Protocol::Udp => udp(core, datagrams, (ip, bytes.clone()), out),
        _ if !checksum_is_right(ip.protocol, ip.source, ip.destination, message) => {
            Err(DropReason::BadChecksum)
        }
        _ => echo::whole_from_guest(core, datagrams, (ip, bytes.clone()), out),
    }
}

fn udp(
    core: &mut Core,
    datagrams: &mut Datagrams,
    (ip, bytes): (&IpHead, Range<usize>),
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let head = checked_head(ip, &datagrams.fragments.buffers[bytes.clone()])?;
    let ports = (head.source_port, head.destination_port);
    let found = socket::find_or_open(core, datagrams, ip, ports);
    let message = &datagrams.fragments.buffers[bytes];
    if is_many(ip.destination) {
        let payload = &message[UDP_HEADER_BYTES as usize..];
        let to = SocketAddr::new(ip.destination, head.destination_port);
        core.groups.own.sent(to, payload, head.payload_len, core.now);
    }
    let sent = found.and_then(|id| {
        let flow = core.flows.table.get_mut(id).ok_or(DropReason::NoFlow)?;
        let end = UDP_HEADER_BYTES + head.payload_len;
        let payload = &message[UDP_HEADER_BYTES as usize..end as usize];
        let len = (head.payload_len, head.payload_len);
        send_datagram(flow, (&core.net, core.now), &Marks::of(ip), len, |socket, to| {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match to {
                Some(to) => rustix::net::sendto(socket, payload, flags, &to),
                None => rustix::net::send(socket, payload, flags),
            }
            .map(|_| ())
        })
        .map(|()| note_sent(core, id))
    });
    sent.inspect_err(|&reason| tell_of_packet(core, out, (ip, message), reason))
}

/// The UDP header of a whole datagram, if the datagram is as long as its header says, has the right
/// checksum and is no question to a responder: those fit a frame (RFC 2131, section 2).
fn checked_head(ip: &IpHead, datagram: &[u8]) -> Result<UdpHead, DropReason> {
    let head = ip.udp(datagram)?;
    match (ip.source.is_ipv4(), head.destination_port) {
        (true, dhcp::SERVER_PORT) | (false, dhcpv6::SERVER_PORT) => {
            return Err(DropReason::Fragment);
        }
        _ => {}
    }
    let bytes = &datagram[..(UDP_HEADER_BYTES + head.payload_len) as usize];
    if !checksum_is_right(L4Protocol::Udp, ip.source, ip.destination, bytes) {
        return Err(DropReason::BadChecksum);
    }
    Ok(head)
}
