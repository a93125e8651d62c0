//! Small datagrams to the guest: many by one call into a private buffer, and from there into frames, with neighbours of
//! equal length in one.

use std::ops::Range;

use passt_frame::{FrameDone, FrameMeta, Payload, Reservation, Reserve, ToGuestLease};

use super::cut::{Sent, fits};
use super::held::Position;
use super::queue::{Served, neighbours, next_head};
use super::udp_to_guest::{UdpToGuest, offload};
use crate::engine::net::Net;
use crate::engine::state::{DatagramState, Delivered};
use crate::flow::side::Side;
use crate::limits::{DATAGRAM_BATCH, SMALL_DATAGRAM_BYTES};
use crate::sys::copy_buffer::CopyBuffer;
use crate::sys::datagram::Burst;
use crate::wire::DropReason;
use crate::wire::build::{L4Checksum, sum_of};
use crate::wire::drop_reason::DropCounters;
use crate::wire::l4::UDP_HEADER_BYTES;

impl UdpToGuest<'_> {
    /// Moves small datagrams by way of `buffer`. Returns how many there were.
    pub(super) fn small(
        &mut self,
        state: &mut DatagramState,
        buffer: &mut CopyBuffer,
    ) -> (usize, Served) {
        let most = if self.may_keep { DATAGRAM_BATCH } else { 1 };
        let expected = usize::from(state.expected).clamp(1, most);
        let room = if self.out.caps().up { self.room_for(expected) } else { expected };
        if room == 0 {
            return (0, Served::NoRoom);
        }
        let received = buffer.receive(self.fd, room, self.senders.keep());
        let noted = received.inspect_err(|errno| self.outbox.refused.note("recvmmsg", *errno));
        let received = match next_head(noted) {
            Ok(received) => received,
            Err(served) => return (0, served),
        };
        let kept = buffer.bursts().len();
        self.outbox.drops.add(DropReason::ForeignDatagram, (received - kept) as u64);
        self.bytes += buffer.bursts().iter().map(|burst| u64::from(burst.len)).sum::<u64>();
        if let Some((net, side)) = &self.names {
            read_names(net, side, buffer);
        }
        state.expected = (2 * received).min(DATAGRAM_BATCH) as u8;
        state.large = buffer.bursts().last().is_some_and(|last| self.is_large(last));
        match self.forward_all(buffer, Position::default()) {
            None => (kept, if received < room { Served::Empty } else { Served::More }),
            Some(next) if self.may_keep => {
                self.unsent = Some(next);
                (kept, Served::NoRoom)
            }
            Some(next) => {
                self.outbox.drops.add(DropReason::NoGuestRoom, (kept - next.index) as u64);
                (kept, Served::NoRoom)
            }
        }
    }

    /// How many of `expected` small datagrams the guest has room for.
    fn room_for(&mut self, expected: usize) -> usize {
        let header_len = self.senders.template().l3_bytes() as u32 + UDP_HEADER_BYTES;
        let bytes = expected as u32 * SMALL_DATAGRAM_BYTES;
        let list = &mut self.outbox.list;
        // Larger than what the guest can ever take is not larger than what waits.
        for payload in [Payload::Datagrams, Payload::Stream] {
            let request = Reserve { header_len, payload_len: SMALL_DATAGRAM_BYTES, bytes, payload };
            match ToGuestLease::reserve(&mut *self.out, list, request) {
                Reservation::All(lease) | Reservation::Some(lease) => return lease.frames(),
                Reservation::None => return 0,
                Reservation::Never => {}
            }
        }
        expected
    }

    /// Forwards what `buffer` has from `next` on. Where the guest has no room for more, the rest begins there.
    pub(super) fn forward_all(
        &mut self,
        buffer: &CopyBuffer,
        mut next: Position,
    ) -> Option<Position> {
        while next.index < buffer.bursts().len() {
            match self.forward(buffer, next) {
                Ok(index) => next = Position { index, ..Position::default() },
                Err(no_room) => return Some(no_room),
            }
        }
        None
    }

    /// Forwards what starts with `at` in `buffer` and fits one frame, or one burst; returns the index of what comes
    /// next.
    ///
    /// # Errors
    /// Where the guest has no room for more.
    fn forward(&mut self, buffer: &CopyBuffer, at: Position) -> Result<usize, Position> {
        let (first, sender) = (at.index, buffer.sender(at.index));
        let Burst { len, segment } = buffer.bursts()[first];
        if let Some(own) = &mut self.own
            && own.takes_back(sender, buffer.bytes(first))
        {
            self.outbox.drops.count(DropReason::OwnDatagram);
            return Ok(first + 1);
        }
        if !self.senders.admit(sender) {
            let datagrams = len.div_ceil(segment.map_or(len, u32::from).max(1)).max(1);
            self.outbox.drops.add(DropReason::ForeignDatagram, datagrams.into());
            return Ok(first + 1);
        }
        let caps = self.out.caps();
        let largest = self.senders.template().max_l4_bytes() - UDP_HEADER_BYTES;
        let fits = fits(self.senders.template(), self.mtu, segment.map_or(len, u32::from));
        let whole =
            caps.gso.udp && fits && self.own.is_none() && at.offset == 0 && at.delivered.cut == 0;
        let neighbours = if whole {
            let same = |&one: &usize| buffer.sender(one) == sender;
            let same = (first..buffer.bursts().len()).take_while(same).count();
            neighbours(&buffer.bursts()[first..first + same], largest)
        } else {
            1
        };
        let range = first..first + neighbours;
        let one = match segment {
            Some(size) if whole && len <= largest => Some((len, size)),
            None if neighbours > 1 => Some((
                buffer.bursts()[range.clone()].iter().map(|burst| burst.len).sum(),
                len as u16,
            )),
            _ => None,
        };
        if let Some((bytes, size)) = one {
            match self.send(buffer, range.clone(), (0, bytes), Some(size)) {
                Sent::Done => return Ok(range.end),
                Sent::NoRoom => return Err(at),
                Sent::NeverFits => {}
            }
        }
        let (mut start, mut delivered) = (at.offset, at.delivered);
        for (index, burst) in range.clone().zip(&buffer.bursts()[range.clone()]) {
            let size = burst.segment.map_or(burst.len, u32::from).max(1);
            for offset in (start..burst.len.max(1)).step_by(size as usize) {
                let piece = (offset, size.min(burst.len - offset));
                let cut = !fits || delivered.cut > 0;
                if self.send_one(buffer, index, piece, &mut delivered, cut) == Sent::NoRoom {
                    return Err(Position { index, offset, delivered });
                }
                delivered = Delivered::default();
            }
            start = 0;
        }
        Ok(range.end)
    }

    /// Sends one datagram: `len` bytes from offset `start` of datagram or burst `index`. One of which fragments were
    /// `delivered`, or that fits no frame, goes in fragments.
    fn send_one(
        &mut self,
        buffer: &CopyBuffer,
        index: usize,
        (start, len): (u32, u32),
        delivered: &mut Delivered,
        cut: bool,
    ) -> Sent {
        if !cut {
            let sent = self.send(buffer, index..index + 1, (start, len), None);
            if sent != Sent::NeverFits {
                return sent;
            }
        }
        let bytes = &buffer.bytes(index)[start as usize..(start + len) as usize];
        let unsent = match self.send_cut(bytes, delivered) {
            Sent::NeverFits if self.out.caps().up => DropReason::TooLarge,
            Sent::NoRoom if !self.out.caps().up => DropReason::LinkDown,
            sent => return sent,
        };
        self.outbox.drops.count(unsent);
        Sent::Done
    }

    /// Sends one frame: `len` bytes from offset `start` of the datagrams `range`, which lie one behind
    /// the other in it. What cannot be sent is dropped, but for a frame that can never fit: its
    /// datagrams are to be tried one by one, or in fragments.
    fn send(
        &mut self,
        buffer: &CopyBuffer,
        range: Range<usize>,
        (start, len): (u32, u32),
        segment: Option<u16>,
    ) -> Sent {
        let caps = self.out.caps();
        let template = self.senders.template();
        let count = range.len() as u64;
        let drop = |drops: &mut DropCounters, reason| {
            drops.add(reason, count);
            Sent::Done
        };
        if !caps.up {
            return drop(&mut self.outbox.drops, DropReason::LinkDown);
        }
        if len > template.max_l4_bytes() - UDP_HEADER_BYTES {
            return drop(&mut self.outbox.drops, DropReason::TooLarge);
        }
        let header_len = template.l3_bytes() as u32 + UDP_HEADER_BYTES;
        let request =
            Reserve { header_len, payload_len: len, bytes: len, payload: Payload::Datagrams };
        let mut lease = match ToGuestLease::reserve(&mut *self.out, &mut self.outbox.list, request)
        {
            Reservation::All(lease) | Reservation::Some(lease) => lease,
            Reservation::None => return Sent::NoRoom,
            Reservation::Never => return Sent::NeverFits,
        };
        let mut payload_sum = 0;
        let mut at = 0;
        for index in range {
            let bytes = buffer.bytes(index);
            let end = bytes.len().min((start + len) as usize);
            let bytes = &bytes[start as usize..end];
            if !caps.partial_checksum {
                payload_sum = sum_of(bytes);
            }
            lease.put_payload_at(0, at, bytes);
            at += bytes.len() as u32;
        }
        let (checksum, meta) = if caps.partial_checksum {
            (L4Checksum::Partial, offload(template, segment))
        } else {
            (L4Checksum::Complete { payload_sum }, FrameMeta::default())
        };
        let mut header = template.udp(len, checksum);
        if segment.is_none() {
            template.let_be_cut(&mut header, || self.outbox.numbers.next());
        }
        lease.put_header(0, &header);
        match segment {
            Some(size) => log::trace!("to guest: {len} bytes of datagrams, {size} each"),
            None => log::trace!("to guest: a datagram of {len} bytes"),
        }
        lease.commit(&[FrameDone { payload_len: len, meta }]);
        Sent::Done
    }
}

/// Reads the names in all datagrams of `buffer`.
fn read_names(net: &Net, side: &Side, buffer: &CopyBuffer) {
    for (index, burst) in buffer.bursts().iter().enumerate() {
        let size = burst.segment.map_or(burst.len, u32::from).max(1);
        for datagram in buffer.bytes(index).chunks(size as usize) {
            net.on_dns_answer(side, datagram);
        }
    }
}
