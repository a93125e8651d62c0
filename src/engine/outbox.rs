//! Small frames to the guest, made in private memory: answers of the responders, TCP segments without
//! payload, ICMP errors.

use std::net::SocketAddr;

use passt_frame::{FrameDone, FrameMeta, Reserve, ToGuest, ToGuestLease, ToGuestList};

use crate::wire::build::{HeaderTemplate, L4Checksum, sum_of};
use crate::wire::drop_reason::DropCounters;
use crate::wire::ip::L4Protocol;
use crate::wire::{DropReason, Mac};

/// What sending needs: the reservation in use and the counters.
#[derive(Default)]
pub struct Outbox {
    /// The reservation that all frames to the guest go through, one at a time.
    pub list: ToGuestList,
    /// Drops by name, for both directions.
    pub drops: DropCounters,
}

impl Outbox {
    /// Sends one frame of `header` and `payload`. False, and counted, when there is no room.
    pub fn send(&mut self, out: &mut dyn ToGuest, header: &[u8], payload: &[u8]) -> bool {
        let bytes = payload.len() as u32;
        let request = Reserve { header_len: header.len() as u32, segment: bytes, bytes };
        if !out.caps().up {
            self.drops.count(DropReason::LinkDown);
            return false;
        }
        let Some(mut lease) = ToGuestLease::reserve(out, &mut self.list, request) else {
            self.drops.count(DropReason::NoGuestRoom);
            return false;
        };
        log::trace!("to guest: {} bytes of headers, {bytes} of payload", header.len());
        lease.put_header(0, header);
        lease.put_payload(0, payload);
        lease.commit(&[FrameDone { payload_len: bytes, meta: FrameMeta::default() }]);
        true
    }

    /// Sends one UDP datagram from private memory. Only IPv6 has a flow label.
    pub fn udp(
        &mut self,
        out: &mut dyn ToGuest,
        macs: (Mac, Mac),
        source: SocketAddr,
        destination: SocketAddr,
        flow_label: u32,
        payload: &[u8],
    ) -> bool {
        let template = HeaderTemplate::new(macs, source, destination, L4Protocol::Udp, flow_label);
        let checksum = L4Checksum::Complete { payload_sum: sum_of(payload) };
        self.send(out, &template.udp(payload.len() as u32, checksum), payload)
    }

    /// Sends one ICMP or ICMPv6 message from private memory, and completes its checksum.
    pub fn icmp(
        &mut self,
        out: &mut dyn ToGuest,
        macs: (Mac, Mac),
        source: SocketAddr,
        destination: SocketAddr,
        message: &mut [u8],
    ) -> bool {
        let protocol = if source.is_ipv4() { L4Protocol::Icmp } else { L4Protocol::Icmpv6 };
        let template = HeaderTemplate::new(macs, source, destination, protocol, 0);
        let header = template.icmp(message);
        self.send(out, &header, message)
    }
}
