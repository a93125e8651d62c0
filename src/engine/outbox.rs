//! Small frames to the guest, made in private memory: answers of the responders, TCP segments without
//! payload, ICMP errors.

use std::net::SocketAddr;

use passt_frame::{
    FrameDone, FrameMeta, MIN_FRAME_BYTES, Payload, Reservation, Reserve, ToGuest, ToGuestLease,
    ToGuestList,
};

use crate::engine::refused::Refused;
use crate::wire::build::{HeaderTemplate, L4Checksum, sum_of};
use crate::wire::drop_reason::DropCounters;
use crate::wire::ip::L4Protocol;
use crate::wire::{DropReason, Mac};

/// What sending needs: the reservation in use and the counters.
#[derive(Default)]
pub(crate) struct Outbox {
    /// The reservation that all frames to the guest go through, one at a time.
    pub(crate) list: ToGuestList,
    /// Drops by name, for both directions.
    pub(crate) drops: DropCounters,
    /// Numbers of datagrams that go in fragments, or may.
    pub(crate) numbers: Numbers,
    /// Calls that the host refuses.
    pub(crate) refused: Refused,
}

/// Numbers for datagrams that go to the guest in fragments, or that a router behind it may cut. All that reach it come from
/// here, so that nobody gains from guessing the next one (RFC 7739).
#[derive(Default)]
pub(crate) struct Numbers(u32);

impl Numbers {
    /// The next one.
    pub(crate) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(1);
        self.0
    }
}

impl Outbox {
    /// Sends one frame of `header` and `payload`. False, and counted, when there is no room.
    pub(crate) fn send(&mut self, out: &mut dyn ToGuest, header: &[u8], payload: &[u8]) -> bool {
        let bytes = payload.len() as u32;
        let (header_len, whole) = (header.len() as u32, Payload::Datagrams);
        let request = Reserve { header_len, payload_len: bytes, bytes, payload: whole };
        if !out.caps().up {
            self.drops.count(DropReason::LinkDown);
            return false;
        }
        let mut lease = match ToGuestLease::reserve(out, &mut self.list, request) {
            Reservation::All(lease) | Reservation::Some(lease) => lease,
            Reservation::None => {
                self.drops.count(DropReason::NoGuestRoom);
                return false;
            }
            Reservation::Never => {
                self.drops.count(DropReason::TooLarge);
                return false;
            }
        };
        log::trace!("to guest: {} bytes of headers, {bytes} of payload", header.len());
        lease.put_header(0, header);
        lease.put_payload(0, payload);
        lease.commit(&[FrameDone { payload_len: bytes, meta: FrameMeta::default() }]);
        true
    }

    /// Whether the link has room for a frame of headers. If not, it reports room later.
    pub(crate) fn has_room(&mut self, out: &mut dyn ToGuest) -> bool {
        let payload = Payload::Datagrams;
        let request = Reserve { header_len: MIN_FRAME_BYTES, payload_len: 0, bytes: 0, payload };
        let reserved = ToGuestLease::reserve(out, &mut self.list, request);
        matches!(reserved, Reservation::All(_) | Reservation::Some(_))
    }

    /// Sends one UDP datagram from private memory. Only IPv6 has a flow label.
    pub(crate) fn udp(
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
    pub(crate) fn icmp(
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
