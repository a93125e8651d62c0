//! Datagrams to the guest that do not go in one frame: they are larger than the MTU of its link, or of the way behind it as
//! far as that is known ([`Net::mtu_to`](crate::engine::net::Net::mtu_to)), or than its driver's buffers. They go in fragments (RFC 791, section 3.2; RFC 8200, section 4.5), each as large as both allow, and
//! the guest's kernel puts them together.
//!
//! The checksum is in the first fragment and is over all bytes, so a datagram is in private memory when it is
//! cut. One that the guest has not had room for to the end goes on where it stopped, under the same number.

use passt_frame::{FrameDone, FrameMeta, Payload, Reservation, Reserve, ToGuest, ToGuestLease};

use crate::engine::outbox::Outbox;
use crate::engine::state::Delivered;
use crate::wire::build::HeaderTemplate;
use crate::wire::ip::{UNIT_BYTES, ip_header_bytes};
use crate::wire::l4::UDP_HEADER_BYTES;

/// A datagram for the guest.
pub(super) struct Datagram<'a> {
    pub(super) template: &'a HeaderTemplate,
    /// The L4 header, with its checksum.
    pub(super) head: [u8; UDP_HEADER_BYTES as usize],
    pub(super) payload: &'a [u8],
}

/// What became of a datagram, or of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The guest has all of it, or it was dropped and counted.
    Done,
    /// The guest has no room, for the rest, at present.
    NoRoom,
    /// No buffers of the guest are large enough for it.
    NeverFits,
}

/// Whether a datagram with `payload_bytes` behind its L4 header goes over a way of `mtu` in one packet.
pub(super) fn fits(template: &HeaderTemplate, mtu: u32, payload_bytes: u32) -> bool {
    ip_header_bytes(template.is_v4()) + UDP_HEADER_BYTES + payload_bytes <= mtu
}

impl Datagram<'_> {
    /// Bytes behind the IP header.
    fn len(&self) -> u32 {
        UDP_HEADER_BYTES + self.payload.len() as u32
    }

    /// Sends what the guest has not got yet, over a way of `mtu`.
    pub(super) fn send(
        &self,
        outbox: &mut Outbox,
        out: &mut dyn ToGuest,
        mtu: u32,
        delivered: &mut Delivered,
    ) -> Sent {
        if delivered.cut >= self.len() {
            // What those bytes were of is gone.
            delivered.cut = 0;
        }
        if delivered.cut == 0 {
            if fits(self.template, mtu, self.payload.len() as u32)
                && let Some(sent) = self.send_whole(outbox, out)
            {
                return sent;
            }
            delivered.identification = outbox.numbers.next();
        }
        while delivered.cut < self.len() {
            match self.send_fragment(outbox, out, mtu, *delivered) {
                Ok(len) => delivered.cut += len,
                Err(stopped) => {
                    if stopped == Sent::NeverFits {
                        delivered.cut = 0;
                    }
                    return stopped;
                }
            }
        }
        delivered.cut = 0;
        Sent::Done
    }

    /// Sends it in one frame; `None` if none of the guest's can be so large.
    fn send_whole(&self, outbox: &mut Outbox, out: &mut dyn ToGuest) -> Option<Sent> {
        let header = self.template.l3(self.len());
        let (header_len, bytes) = (header.len() as u32, self.len());
        let payload = Payload::Datagrams;
        let request = Reserve { header_len, payload_len: bytes, bytes, payload };
        match ToGuestLease::reserve(out, &mut outbox.list, request) {
            Reservation::All(lease) | Reservation::Some(lease) => {
                self.put(lease, &header, 0, bytes);
                Some(Sent::Done)
            }
            Reservation::None => Some(Sent::NoRoom),
            Reservation::Never => None,
        }
    }

    /// Sends the fragment that begins behind `at.cut` bytes; returns how many it has.
    fn send_fragment(
        &self,
        outbox: &mut Outbox,
        out: &mut dyn ToGuest,
        mtu: u32,
        at: Delivered,
    ) -> Result<u32, Sent> {
        let header_len = self.template.fragment_header_bytes() as u32;
        let left = self.len() - at.cut;
        let largest = (self.template.fragment_room(mtu)).min(left);
        // A driver whose buffers are smaller gets smaller fragments.
        let payload = Payload::Stream;
        let request = Reserve { header_len, payload_len: largest, bytes: largest, payload };
        let lease = match ToGuestLease::reserve(out, &mut outbox.list, request) {
            Reservation::All(lease) | Reservation::Some(lease) => lease,
            Reservation::None => return Err(Sent::NoRoom),
            Reservation::Never => return Err(Sent::NeverFits),
        };
        let room = lease.frame_room(0);
        let len = if room >= left { left } else { room / UNIT_BYTES * UNIT_BYTES };
        if len == 0 {
            return Err(Sent::NeverFits);
        }
        let header = self.template.fragment(at.identification, at.cut, len < left, len);
        self.put(lease, &header, at.cut, len);
        Ok(len)
    }

    /// Hands over a frame of `header` and `len` bytes of the datagram from `start` on.
    fn put(&self, mut lease: ToGuestLease<'_>, header: &[u8], start: u32, len: u32) {
        let (start, end) = (start as usize, (start + len) as usize);
        let head_bytes = self.head.len();
        let head = &self.head[start.min(head_bytes)..end.min(head_bytes)];
        let rest = start.max(head_bytes) - head_bytes..end.max(head_bytes) - head_bytes;
        lease.put_header(0, header);
        lease.put_payload(0, head);
        lease.put_payload_at(0, head.len() as u32, &self.payload[rest]);
        log::trace!("to guest: {len} bytes of a datagram, from {start} on");
        lease.commit(&[FrameDone { payload_len: len, meta: FrameMeta::default() }]);
    }
}
