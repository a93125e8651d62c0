//! UDP to the guest. What waits in a flow's socket is a datagram, or a burst of equally long ones that
//! arrived together (`UDP_GRO`, udp(7)).
//!
//! * A large datagram, or a burst, takes the path with one copy: its length is peeked, just enough
//!   buffers are reserved, and it is received into them. A burst becomes one USO frame where the guest
//!   takes them, else one frame for each datagram; when there is room for some of those only, they are
//!   peeked at with what was delivered before skipped, and the burst stays until its last datagram was
//!   taken.
//! * Small datagrams cost by their number, not by their bytes: system calls, and what the guest does for
//!   each frame. Up to [`DATAGRAM_BATCH`](crate::limits::DATAGRAM_BATCH) of them are received with one recvmmsg(2) into a private buffer
//!   that stays in the cache, and neighbours of equal length are copied into one USO frame. The buffer
//!   is filled only after the guest was seen to have room for as many; what finds none nevertheless, since it is
//!   larger than was expected, is kept (`held`). That is in `copied`.
//!
//! Answers of name servers in which names are to be read take the second path, whatever their size: what lies in the
//! guest's buffers may be changed by it.
//!
//! Each flow begins a turn with the path and the batch size that suited it last time.
//!
//! What does not fit the guest's link, the path beyond it, or its driver's buffers goes in fragments; see `cut`.

use std::os::fd::AsFd;

use arrayvec::ArrayVec;
use passt_frame::{
    Errno, FrameDone, FrameMeta, MAX_FRAMES, MIN_FRAME_BYTES, Payload, Reservation, Reserve,
    ToGuest, ToGuestLease,
};

use super::cut::{Sent, fits};
use super::groups;
use super::held::Held;
use super::queue::{Queue, Served, drop_burst, drop_head, next_head};
use super::senders::Senders;
use super::udp_to_guest::{UdpToGuest, offload};
use crate::engine::core::Core;
use crate::engine::outbox::Numbers;
use crate::engine::state::{DatagramState, Delivered, FlowKind};
use crate::flow::side::GuestView;
use crate::flow::table::FlowId;
use crate::limits::DATAGRAMS_PER_TURN;
use crate::sys::copy_buffer::CopyBuffer;
use crate::sys::datagram::{self, Burst};
use crate::wire::DropReason;
use crate::wire::build::{HeaderTemplate, L4Checksum};
use crate::wire::l4::UDP_HEADER_BYTES;

/// Shorter payloads are padded in their frame (IEEE 802.3, 3.2.8), so that those of several frames do not
/// lie one after the other as recvmsg(2) would have it.
const PADDED_BYTES: u16 = (MIN_FRAME_BYTES - 14 - 20 - UDP_HEADER_BYTES) as u16;

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
    let Some(view) = GuestView::of(&flow.sides) else { return Served::Empty };
    let FlowKind::Udp(state) = &mut flow.state.kind else { return Served::Empty };
    let names = core.net.reads_names(view.guest).then_some((&core.net, *view.guest));
    let senders = Senders::new(&core.net, view.guest, view.host, state);
    let (mtu, outbox) = (core.net.mtu_to(view.guest), &mut core.outbox);
    let fd = flow.state.socket.as_fd();
    let own = groups::Own::of(&mut core.groups.own, &flow.sides, core.now);
    let mut to_guest =
        UdpToGuest { names, own, may_keep, ..UdpToGuest::new((outbox, out), fd, senders, mtu) };
    if held.is_of(id) {
        let (rest, next) = held.rest();
        let next = to_guest.forward_all(rest, next);
        held.went_on(next);
        if next.is_some() {
            return Served::NoRoom;
        }
    }
    let (moved, served) = to_guest.turn(state, buffer);
    if let Some(next) = to_guest.unsent {
        held.keep(buffer, id, next);
    }
    let heard = moved > 0 && to_guest.senders.were_heard();
    if heard {
        state.touch(core.now, view.host_index(), moved);
    }
    if moved > 0 {
        state.bytes[view.host_index()] += to_guest.bytes;
        state.hear(moved, to_guest.senders.were_alone());
    }
    if served == Served::Empty {
        state.strangers.on_empty(core.now);
        // Not what was refused.
        if heard {
            core.quantum.on_datagrams(core.now, id, moved);
        }
    }
    let step = state.pace.on_turn(core.now, moved, served == Served::Empty);
    let guest_began = view.index == 0;
    core.looks.follow(&mut core.flows, id, step);
    if heard {
        core.flows.note_use(id, core.now);
        if guest_began {
            core.flows.note_answer(id, core.now);
        }
    }
    served
}

/// Moves the datagram, or burst of them, at the head of `queue` to the guest, as one of flow `id`.
pub(in crate::engine) fn first_to_guest(
    core: &mut Core,
    buffer: &mut CopyBuffer,
    out: &mut dyn ToGuest,
    queue: Queue,
    id: FlowId,
) -> Served {
    let Some(fd) = queue.fd(&core.listeners, &core.flows) else { return Served::Empty };
    let (burst, _) = match next_head(datagram::peek_burst(fd)) {
        Ok(head) => head,
        Err(served) => return served,
    };
    let Some(flow) = core.flows.table.get(id) else { return Served::Empty };
    let Some(view) = GuestView::of(&flow.sides) else { return Served::Empty };
    let from = view.host_index();
    out.select(flow.state.queue);
    let senders = Senders::peer(&core.net, view.guest);
    let (mtu, outbox) = (core.net.mtu_to(view.guest), &mut core.outbox);
    let mut to_guest = UdpToGuest::new((outbox, out), fd, senders, mtu);
    let mut delivered = queue.delivered(&core.flows);
    let (moved, served) = to_guest.deliver(burst, &mut delivered, buffer);
    let bytes = to_guest.bytes;
    queue.set_delivered(&mut core.flows, delivered);
    if let Some(flow) = core.flows.table.get_mut(id)
        && let FlowKind::Udp(state) = &mut flow.state.kind
        && moved > 0
    {
        state.touch(core.now, from, moved);
        state.bytes[from] += bytes;
    }
    served
}

impl UdpToGuest<'_> {
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
            Err(served) => return (0, served),
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
            Err(served) => return (0, served),
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

    /// Moves what is left of `burst` after its first `delivered` bytes, `size` bytes in each frame, which the
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
