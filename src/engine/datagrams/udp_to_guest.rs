//! What both paths of UDP to the guest share for the datagrams of one flow: with one copy (`to_guest`), and batched
//! (`copied`).

use std::os::fd::BorrowedFd;

use passt_frame::{Checksum, FrameMeta, Gso, GsoKind, ToGuest};

use super::cut::{Datagram, Sent, fits};
use super::groups;
use super::held::Position;
use super::senders::Senders;
use crate::engine::net::Net;
use crate::engine::outbox::Outbox;
use crate::engine::state::Delivered;
use crate::flow::side::Side;
use crate::limits::SMALL_DATAGRAM_BYTES;
use crate::sys::datagram::Burst;
use crate::wire::build::{HeaderTemplate, L4Checksum, sum_of};
use crate::wire::l4::UDP_HEADER_BYTES;

/// The state that both paths share.
pub(super) struct UdpToGuest<'a> {
    pub(super) outbox: &'a mut Outbox,
    pub(super) out: &'a mut dyn ToGuest,
    pub(super) fd: BorrowedFd<'a>,
    pub(super) senders: Senders<'a>,
    /// What reads the names in the datagrams, and the guest's side, if they are to be read.
    pub(super) names: Option<(&'a Net, Side)>,
    /// What the guest itself has sent, if it may come back.
    pub(super) own: Option<groups::Own<'a>>,
    /// The largest IP packet that reaches the guest whole.
    pub(super) mtu: u32,
    /// What finds no room after it was received can be kept.
    pub(super) may_keep: bool,
    /// Where what is to be kept begins.
    pub(super) unsent: Option<Position>,
    /// Bytes that were taken out of the socket for the guest.
    pub(super) bytes: u64,
}

impl<'a> UdpToGuest<'a> {
    /// For what is in the socket `fd`: nothing of it is read, comes back, or can be kept.
    pub(super) fn new(
        (outbox, out): (&'a mut Outbox, &'a mut dyn ToGuest),
        fd: BorrowedFd<'a>,
        senders: Senders<'a>,
        mtu: u32,
    ) -> Self {
        let (names, own, may_keep, unsent, bytes) = (None, None, false, None, 0);
        Self { outbox, out, fd, senders, names, own, mtu, may_keep, unsent, bytes }
    }

    /// Whether what is like `burst` is better received by itself.
    pub(super) fn is_large(&self, burst: &Burst) -> bool {
        let fits =
            burst.len <= SMALL_DATAGRAM_BYTES && fits(self.senders.template(), self.mtu, burst.len);
        burst.segment.is_some() || !fits
    }

    /// Sends what the guest has not got of a datagram.
    pub(super) fn send_cut(&mut self, payload: &[u8], delivered: &mut Delivered) -> Sent {
        if payload.len() as u32 > self.senders.template().max_l4_bytes() - UDP_HEADER_BYTES {
            return Sent::NeverFits;
        }
        let checksum = L4Checksum::Complete { payload_sum: sum_of(payload) };
        let header = self.senders.template().udp(payload.len() as u32, checksum);
        let Some(&head) = header.last_chunk() else { return Sent::NeverFits };
        let datagram = Datagram { template: self.senders.template(), head, payload };
        datagram.send(self.outbox, &mut *self.out, self.mtu, delivered)
    }
}

/// What the guest is to do with a frame: complete its checksum, and cut it into segments.
pub(super) fn offload(template: &HeaderTemplate, segment: Option<u16>) -> FrameMeta {
    let start = template.l3_bytes() as u16;
    let header_len = start + UDP_HEADER_BYTES as u16;
    let gso = segment.map(|size| Gso { kind: GsoKind::Udp, size, header_len });
    FrameMeta { checksum: Checksum::Partial { start, offset: 6 }, gso }
}
