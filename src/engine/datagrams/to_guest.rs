//! UDP to the guest. What waits in a flow's socket is a datagram, or a burst of equally long ones that
//! arrived together (`UDP_GRO`, udp(7)).
//!
//! * A large datagram, or a burst, takes the road with one copy: its length is peeked, just enough
//!   buffers are reserved, and it is received into them. A burst becomes one USO frame where the guest
//!   takes them, else one frame for each datagram; when there is room for some of those only, they are
//!   peeked at with what was delivered before skipped, and the burst stays until its last datagram was
//!   taken.
//! * Small datagrams cost by their number, not by their bytes: system calls, and what the guest does for
//!   each frame. Up to [`DATAGRAM_BATCH`] of them are received with one recvmmsg(2) into a private buffer
//!   that stays in the cache, and neighbours of equal length are copied into one USO frame. The buffer
//!   is filled only after the guest was seen to have room for as many; what finds none nevertheless, since it is
//!   larger than was expected, is kept (`held`).
//!
//! Answers of name servers in which names are to be read take the second road, whatever their size: what lies in the
//! guest's buffers may be changed by it.
//!
//! Which of the two a flow takes, and how many datagrams it expects, is what it did last.
//!
//! What does not fit the guest's link, the way behind it, or its driver's buffers goes in fragments; see `cut`.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use passt_frame::{
    Checksum, Errno, FrameDone, FrameMeta, Gso, GsoKind, MAX_FRAMES, MIN_FRAME_BYTES, Payload,
    Reservation, Reserve, ToGuest, ToGuestLease,
};

use super::cut::{Datagram, Sent, fits};
use super::groups;
use super::held::{Held, Position};
use super::queue::{Queue, Served, drop_burst, drop_head, neighbours, next_head};
use super::senders::Senders;
use crate::engine::core::Core;
use crate::engine::net::Net;
use crate::engine::outbox::{Numbers, Outbox};
use crate::engine::state::{DatagramState, Delivered, FlowKind};
use crate::flow::side::{Pif, Side};
use crate::flow::table::FlowId;
use crate::limits::{DATAGRAM_BATCH, DATAGRAMS_PER_TURN, SMALL_DATAGRAM_BYTES};
use crate::sys::copy_buffer::CopyBuffer;
use crate::sys::datagram::{self, Burst};
use crate::wire::DropReason;
use crate::wire::build::{HeaderTemplate, L4Checksum, sum_of};
use crate::wire::drop_reason::DropCounters;
use crate::wire::l4::UDP_HEADER_BYTES;

/// Shorter payloads are padded in their frame (IEEE 802.3, 3.2.8), so that those of several frames do not
/// lie one behind the other as recvmsg(2) would have it.
const PADDED_BYTES: u16 = (MIN_FRAME_BYTES - 14 - 20 - UDP_HEADER_BYTES) as u16;

/// Where the datagrams of one flow go.
struct Way<'a> {
    outbox: &'a mut Outbox,
    out: &'a mut dyn ToGuest,
    fd: BorrowedFd<'a>,
    senders: Senders<'a>,
    /// What reads the names in the datagrams, and the guest's side, if they are to be read.
    names: Option<(&'a Net, Side)>,
    /// What the guest itself has sent, if it may come back.
    own: Option<groups::Own<'a>>,
    /// The largest IP packet that reaches the guest whole.
    mtu: u32,
    /// What finds no room after it was received can be kept.
    may_keep: bool,
    /// Where what is to be kept begins.
    unsent: Option<Position>,
    /// Bytes that were taken out of the socket for the guest.
    bytes: u64,
}

/// Moves what waits in the socket of a UDP flow to the guest, for one turn.
pub(super) fn serve(
    core: &mut Core,
    held: &mut Held,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
    id: FlowId,
) -> Served {
    let may_keep = held.is_of(id) || !held.is_busy(&core.flows);
    let Some(flow) = core.flows.table.get_mut(id) else { return Served::Empty };
    let tap = usize::from(flow.sides[0].pif != Pif::Tap);
    let FlowKind::Udp(state) = &mut flow.state.kind else { return Served::Empty };
    let side = flow.sides[tap];
    let names = core.net.reads_names(&side).then_some((&core.net, side));
    let senders = Senders::new(&core.net, &flow.sides[tap], &flow.sides[1 - tap], state);
    let (fd, mtu, outbox) = (flow.state.socket.as_fd(), core.net.mtu_to(&side), &mut core.outbox);
    let own = groups::Own::of(&mut core.groups.own, &flow.sides, core.now);
    let (unsent, bytes) = (None, 0);
    let mut way = Way { outbox, out, fd, senders, names, own, mtu, may_keep, unsent, bytes };
    if held.is_of(id) {
        let (rest, next) = held.rest();
        let next = way.forward_all(rest, next);
        held.went_on(next);
        if next.is_some() {
            return Served::NoRoom;
        }
    }
    let (moved, served) = way.turn(state, buffer);
    if let Some(next) = way.unsent {
        held.keep(buffer, id, next);
    }
    let heard = moved > 0 && way.senders.were_heard();
    if heard {
        state.touch(core.now, 1 - tap, moved);
    }
    if moved > 0 {
        state.bytes[1 - tap] += way.bytes;
        state.hear(moved, way.senders.were_alone());
    }
    if served == Served::Empty {
        state.strangers.on_empty(core.now);
        // Not what was refused.
        if heard {
            core.quantum.on_datagrams(core.now, id, moved);
        }
    }
    let step = state.pace.on_turn(core.now, moved, served == Served::Empty);
    core.looks.follow(&mut core.flows, id, step);
    if heard {
        core.flows.note_use(id, core.now);
        if tap == 0 {
            core.flows.note_answer(id, core.now);
        }
    }
    served
}

/// Moves the datagram, or burst of them, at the head of `queue` to the guest, as one of flow `id`; `None` when there
/// is none.
pub(in crate::engine) fn first_to_guest(
    core: &mut Core,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
    queue: Queue,
    id: FlowId,
) -> Option<Served> {
    let (burst, _) = match next_head(datagram::peek_burst(queue.fd(&core.listeners, &core.flows)?))
    {
        Ok(head) => head,
        Err(served) => return served,
    };
    let flow = core.flows.table.get(id)?;
    let tap = flow.sides.iter().position(|side| side.pif == Pif::Tap)?;
    out.select(flow.state.queue);
    let senders = Senders::peer(&core.net, &flow.sides[tap]);
    let fd = queue.fd(&core.listeners, &core.flows)?;
    let (mtu, outbox) = (core.net.mtu_to(&flow.sides[tap]), &mut core.outbox);
    let (names, own, may_keep, unsent, bytes) = (None, None, false, None, 0);
    let mut way = Way { outbox, out, fd, senders, names, own, mtu, may_keep, unsent, bytes };
    let mut delivered = queue.delivered(&core.flows);
    let (moved, served) = way.deliver(burst, &mut delivered, buffer);
    let bytes = way.bytes;
    queue.set_delivered(&mut core.flows, delivered);
    let flow = core.flows.table.get_mut(id)?;
    if let FlowKind::Udp(state) = &mut flow.state.kind
        && moved > 0
    {
        state.touch(core.now, 1 - tap, moved);
        state.bytes[1 - tap] += bytes;
    }
    Some(served)
}

impl Way<'_> {
    /// Moves what waits, for one turn. Returns how many datagrams it was.
    fn turn(&mut self, state: &mut DatagramState, buffer: &mut CopyBuffer) -> (usize, Served) {
        let (mut left, mut all) = (DATAGRAMS_PER_TURN, 0);
        if self.names.is_some() {
            // A burst that has begun goes again, to be read as a whole.
            state.delivered = Delivered::default();
        }
        loop {
            let looked_at = self.names.is_some() || self.own.is_some();
            let one_by_one = !looked_at && (state.large || !self.may_keep);
            let (moved, served) =
                if one_by_one { self.large(state, buffer) } else { self.small(state, buffer) };
            all += moved;
            left = left.saturating_sub(moved.max(1));
            if served != Served::More || left == 0 {
                return (all, served);
            }
        }
    }

    /// Moves what is at the head of the queue, straight into the guest's buffers. Returns how many
    /// datagrams it was.
    fn large(&mut self, state: &mut DatagramState, buffer: &mut CopyBuffer) -> (usize, Served) {
        let (burst, source) = match next_head(datagram::peek_burst(self.fd)) {
            Ok(head) => head,
            Err(served) => return (0, served.unwrap_or(Served::Empty)),
        };
        if !self.senders.admit(source) {
            let drops = &mut self.outbox.drops;
            return drop_burst(drops, self.fd, (burst, 0), DropReason::ForeignDatagram);
        }
        if burst.segment.is_some_and(|size| size < PADDED_BYTES) {
            return self.small(state, buffer);
        }
        state.large = self.is_large(&burst);
        self.deliver(burst, &mut state.delivered, buffer)
    }

    /// Whether what is like `burst` is better received by itself.
    fn is_large(&self, burst: &Burst) -> bool {
        let fits =
            burst.len <= SMALL_DATAGRAM_BYTES && fits(self.senders.template(), self.mtu, burst.len);
        burst.segment.is_some() || !fits
    }

    /// Moves `burst`, of which the guest has got what `delivered` says: as one frame where the guest takes such and
    /// could have buffers for it, else in one for each datagram, or in fragments of each.
    fn deliver(
        &mut self,
        burst: Burst,
        delivered: &mut Delivered,
        buffer: &mut CopyBuffer,
    ) -> (usize, Served) {
        // A burst whose rest is gone, with a bad checksum: what is there now is another one.
        if delivered.bytes >= burst.len {
            *delivered = Delivered::default();
        }
        let done = delivered.bytes;
        let (caps, largest) =
            (self.out.caps(), self.senders.template().max_l4_bytes() - UDP_HEADER_BYTES);
        if !caps.up {
            *delivered = Delivered::default();
            let drops = &mut self.outbox.drops;
            return drop_burst(drops, self.fd, (burst, done), DropReason::LinkDown);
        }
        let size = burst.segment.map_or(burst.len, u32::from);
        if delivered.cut == 0 && fits(self.senders.template(), self.mtu, size) {
            let one = burst.segment.filter(|_| caps.gso.udp && done == 0 && burst.len <= largest);
            let moved = one
                .and_then(|segment| self.deliver_in(burst, delivered, burst.len, Some(segment)))
                .or_else(|| self.deliver_in(burst, delivered, size, None));
            if let Some(moved) = moved {
                return moved;
            }
        }
        self.deliver_cut(burst, delivered, buffer)
    }

    /// Moves what is left of `burst`, each datagram in fragments.
    fn deliver_cut(
        &mut self,
        burst: Burst,
        delivered: &mut Delivered,
        buffer: &mut CopyBuffer,
    ) -> (usize, Served) {
        let size = burst.segment.map_or(burst.len, u32::from);
        let bytes = match next_head(buffer.peek_one(self.fd)) {
            Ok(bytes) => bytes,
            Err(served) => return (0, served.unwrap_or(Served::Empty)),
        };
        let mut datagrams = 0;
        loop {
            let start = (delivered.bytes as usize).min(bytes.len());
            let payload = &bytes[start..bytes.len().min(start + size as usize)];
            match self.send_cut(payload, delivered) {
                Sent::Done => {}
                Sent::NoRoom => return (datagrams, Served::NoRoom),
                Sent::NeverFits => {
                    let (_, served) = self.drop_rest(burst, delivered);
                    return (datagrams, served);
                }
            }
            datagrams += 1;
            self.bytes += payload.len() as u64;
            delivered.bytes += payload.len() as u32;
            if delivered.bytes as usize >= bytes.len() {
                *delivered = Delivered::default();
                drop_head(self.fd);
                return (datagrams, Served::More);
            }
        }
    }

    fn drop_rest(&mut self, burst: Burst, delivered: &mut Delivered) -> (usize, Served) {
        let done = std::mem::take(delivered).bytes;
        drop_burst(&mut self.outbox.drops, self.fd, (burst, done), DropReason::TooLarge)
    }

    /// Sends what the guest has not got of a datagram.
    fn send_cut(&mut self, payload: &[u8], delivered: &mut Delivered) -> Sent {
        if payload.len() as u32 > self.senders.template().max_l4_bytes() - UDP_HEADER_BYTES {
            return Sent::NeverFits;
        }
        let checksum = L4Checksum::Complete { payload_sum: sum_of(payload) };
        let header = self.senders.template().udp(payload.len() as u32, checksum);
        let Some(&head) = header.last_chunk() else { return Sent::NeverFits };
        let datagram = Datagram { template: self.senders.template(), head, payload };
        datagram.send(self.outbox, &mut *self.out, self.mtu, delivered)
    }

    /// Moves what is left of `burst` behind its first `delivered` bytes, `size` bytes in each frame, which the
    /// guest is to cut into `segment`s. `None` when such a frame can never fit.
    fn deliver_in(
        &mut self,
        burst: Burst,
        delivered: &mut Delivered,
        size: u32,
        segment: Option<u16>,
    ) -> Option<(usize, Served)> {
        let done = delivered.bytes;
        let left = burst.len - done;
        let header_len = self.senders.template().l3_bytes() as u32 + UDP_HEADER_BYTES;
        let payload = Payload::Datagrams;
        let request = Reserve { header_len, payload_len: size, bytes: left, payload };
        let list = &mut self.outbox.list;
        let (mut lease, then) = match ToGuestLease::reserve(&mut *self.out, list, request) {
            Reservation::All(lease) => (lease, Served::More),
            Reservation::Some(lease) => (lease, Served::NoRoom),
            Reservation::None => return Some((0, Served::NoRoom)),
            Reservation::Never => return None,
        };
        delivered.bytes = 0;
        let all = lease.room() >= left;
        let room = if all { left } else { lease.room() / size * size };
        let flags = if all && done == 0 { 0 } else { libc::MSG_PEEK };
        let received = match lease.recv_stream(self.fd, room, done, flags) {
            Ok(received) => received.min(room),
            Err(Errno::AGAIN) if burst.len > 0 => return Some((0, Served::Empty)),
            Err(_) => return Some((0, Served::More)),
        };
        self.bytes += u64::from(received);
        let numbers = &mut self.outbox.numbers;
        let sizes = (size, received, segment);
        let frames = stamp(lease, self.senders.template(), numbers, sizes);
        if !all {
            delivered.bytes = done + received;
            return Some((frames, then));
        }
        if flags != 0 {
            drop_head(self.fd);
        }
        let size = burst.segment.map_or(size, u32::from).max(1);
        Some((received.div_ceil(size).max(1) as usize, Served::More))
    }

    /// Moves small datagrams by way of `buffer`. Returns how many there were.
    fn small(&mut self, state: &mut DatagramState, buffer: &mut CopyBuffer) -> (usize, Served) {
        let most = if self.may_keep { DATAGRAM_BATCH } else { 1 };
        let expected = usize::from(state.expected).clamp(1, most);
        let room = if self.out.caps().up { self.room_for(expected) } else { expected };
        if room == 0 {
            return (0, Served::NoRoom);
        }
        let received = match next_head(buffer.receive(self.fd, room, self.senders.keep())) {
            Ok(received) => received,
            Err(served) => return (0, served.unwrap_or(Served::Empty)),
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
    fn forward_all(&mut self, buffer: &CopyBuffer, mut next: Position) -> Option<Position> {
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
        let same = (first..buffer.bursts().len()).take_while(|&one| buffer.sender(one) == sender);
        let bursts = &buffer.bursts()[first..first + same.count()];
        let Burst { len, segment } = bursts[0];
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
        let neighbours = if whole { neighbours(bursts, largest) } else { 1 };
        let range = first..first + neighbours;
        let one = match segment {
            Some(size) if whole && len <= largest => Some((len, size)),
            None if neighbours > 1 => {
                Some((bursts[..neighbours].iter().map(|burst| burst.len).sum(), len as u16))
            }
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
        for (index, burst) in range.clone().zip(bursts) {
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

/// Writes the headers of all frames that `received` bytes fill, `largest` in each, and hands them over;
/// returns their number.
fn stamp(
    mut lease: ToGuestLease<'_>,
    template: &HeaderTemplate,
    numbers: &mut Numbers,
    (largest, received, segment): (u32, u32, Option<u16>),
) -> usize {
    let caps = lease.caps();
    let mut done = ArrayVec::<FrameDone, MAX_FRAMES>::new();
    let mut left = received;
    while done.is_empty() || (left > 0 && done.len() < lease.frames()) {
        let (index, len) = (done.len(), largest.min(left));
        left -= len;
        let (checksum, meta) = if caps.partial_checksum {
            (L4Checksum::Partial, offload(template, segment))
        } else {
            let payload_sum = lease.payload_sum(index, len).folded();
            (L4Checksum::Complete { payload_sum }, FrameMeta::default())
        };
        let mut header = template.udp(len, checksum);
        if segment.is_none() {
            template.let_be_cut(&mut header, || numbers.next());
        }
        lease.put_header(index, &header);
        done.push(FrameDone { payload_len: len, meta });
    }
    log::trace!("to guest: {received} bytes of datagrams, {largest} a frame");
    let frames = done.len();
    lease.commit(&done);
    frames
}

/// What the guest is to do with a frame: complete its checksum, and cut it into segments.
fn offload(template: &HeaderTemplate, segment: Option<u16>) -> FrameMeta {
    let start = template.l3_bytes() as u16;
    let header_len = start + UDP_HEADER_BYTES as u16;
    let gso = segment.map(|size| Gso { kind: GsoKind::Udp, size, header_len });
    FrameMeta { checksum: Checksum::Partial { start, offset: 6 }, gso }
}
