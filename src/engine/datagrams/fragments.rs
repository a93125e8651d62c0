//! UDP datagrams that the guest cut into fragments. [`crate::flow::reassembly`] decides; here are the
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

use passt_frame::{FromGuestLease, Part};
use rustix::net::SendFlags;

use super::send::send_datagram;
use super::{Datagrams, socket};
use crate::engine::core::Core;
use crate::flow::fwd::Proto;
use crate::flow::reassembly::Reassembly;
use crate::limits::{REASSEMBLY_BUFFER_BYTES, REASSEMBLY_SLOTS};
use crate::responder::{dhcp, dhcpv6};
use crate::wire::ip::IpHead;
use crate::wire::l4::{UDP_HEADER_BYTES, UdpHead, udp_checksum_is_right};
use crate::wire::{DropReason, Fragment};

/// Datagrams under reassembly.
pub(in crate::engine) struct Fragments {
    reassembly: Reassembly,
    /// One buffer for each slot, one behind the other.
    buffers: Box<[u8]>,
}

impl Default for Fragments {
    fn default() -> Self {
        let buffers = vec![0; REASSEMBLY_SLOTS * REASSEMBLY_BUFFER_BYTES].into_boxed_slice();
        Self { reassembly: Reassembly::default(), buffers }
    }
}

/// A fragment of a UDP datagram from the guest; the last to arrive sends the datagram.
pub(in crate::engine) fn fragment_from_guest(
    core: &mut Core,
    datagrams: &mut Datagrams,
    lease: &mut FromGuestLease<'_>,
    frame: usize,
    fragment: &Fragment,
) -> Result<(), DropReason> {
    let Fragments { reassembly, buffers } = &mut datagrams.fragments;
    let placed = reassembly.add(core.now, fragment, &mut core.outbox.drops)?;
    let Some(placed) = placed else { return Ok(()) };
    let start = placed.slot * REASSEMBLY_BUFFER_BYTES;
    let buffer = &mut buffers[start..start + REASSEMBLY_BUFFER_BYTES];
    let (offset, len) = (fragment.ip.l4_offset as u32, fragment.ip.l4_len);
    let room = &mut buffer[placed.offset..placed.offset + len as usize];
    lease.copy_out(Part { frame, offset, len }, room);
    let Some(total) = placed.whole else { return Ok(()) };
    let ip = IpHead { l4_offset: 0, l4_len: total, ..fragment.ip };
    let head = checked_head(&ip, buffer)?;
    let ports = (head.source_port, head.destination_port);
    let id = socket::find_or_open(core, datagrams, Proto::Udp, &ip, ports)?;
    let end = UDP_HEADER_BYTES + head.payload_len;
    let buffer = &datagrams.fragments.buffers[start..];
    let payload = &buffer[UDP_HEADER_BYTES as usize..end as usize];
    let flow = core.flows.table.get_mut(id).ok_or(DropReason::NoFlow)?;
    send_datagram(flow, core.now, ip.hop_limit, head.payload_len, |socket, to| {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match to {
            Some(to) => rustix::net::sendto(socket, payload, flags, &to),
            None => rustix::net::send(socket, payload, flags),
        }
        .map(|_| ())
    })
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
    if !udp_checksum_is_right(ip.source, ip.destination, bytes) {
        return Err(DropReason::BadChecksum);
    }
    Ok(head)
}
