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
//!   is filled only after the guest was seen to have room for as many.
//!
//! Which of the two a flow takes, and how many datagrams it expects, is what it did last.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use passt_frame::{
    Checksum, Errno, FrameDone, FrameMeta, Gso, GsoKind, MAX_FRAMES, MIN_FRAME_BYTES, Reserve,
    ToGuest, ToGuestLease,
};

use super::Engine;
use super::datagrams::{Drained, drop_head, next_head};
use super::outbox::Outbox;
use super::state::{DatagramState, Protocol};
use crate::flow::side::Pif;
use crate::flow::table::FlowId;
use crate::limits::{DATAGRAM_BATCH, DATAGRAMS_PER_TURN, SMALL_DATAGRAM_BYTES, UDP_RUN_DATAGRAMS};
use crate::sys::batch::Batch;
use crate::sys::datagram::{self, Burst};
use crate::wire::DropReason;
use crate::wire::build::{HeaderTemplate, L4Checksum, sum_of};
use crate::wire::ip::L4Protocol;
use crate::wire::l4::UDP_HEADER_BYTES;

/// Shorter payloads are padded in their frame (IEEE 802.3, 3.2.8), so that those of several frames do not
/// lie one behind the other as recvmsg(2) would have it.
const PADDED_BYTES: u16 = (MIN_FRAME_BYTES - 14 - 20 - UDP_HEADER_BYTES) as u16;

/// Where the datagrams of one flow go.
struct Way<'a> {
    outbox: &'a mut Outbox,
    out: &'a mut dyn ToGuest,
    fd: BorrowedFd<'a>,
    template: &'a HeaderTemplate,
}

impl Engine {
    /// Moves what waits in the socket of a UDP flow to the guest, for one turn.
    pub(super) fn serve_udp(&mut self, out: &mut dyn ToGuest, id: FlowId) -> Drained {
        let Some(flow) = self.flows.table.get_mut(id) else { return Drained::Empty };
        let tap = usize::from(flow.sides[0].pif != Pif::Tap);
        let Protocol::Udp(state) = &flow.state.protocol else { return Drained::Empty };
        let mut state = *state;
        let template = self.addressing.template(&flow.sides[tap], L4Protocol::Udp, 0);
        let fd = flow.state.fd();
        let mut way = Way { outbox: &mut self.outbox, out, fd, template: &template };
        let mut left = DATAGRAMS_PER_TURN;
        let drained = loop {
            let (moved, drained) = if state.large {
                way.large(&mut state, &mut self.datagrams)
            } else {
                way.small(&mut state, &mut self.datagrams)
            };
            if moved > 0 {
                state.touch(self.now, 1 - tap, moved);
            }
            left = left.saturating_sub(moved.max(1));
            if drained != Drained::More || left == 0 {
                break drained;
            }
        };
        if let Protocol::Udp(stored) = &mut flow.state.protocol {
            *stored = state;
        }
        drained
    }
}

/// Moves the datagram at the head of a socket that hands out no bursts; `None` when there is none.
pub(super) fn udp_to_guest(
    outbox: &mut Outbox,
    out: &mut dyn ToGuest,
    fd: BorrowedFd<'_>,
    template: &HeaderTemplate,
) -> Option<Drained> {
    let burst = match next_head(datagram::peek_burst(fd)) {
        Ok(burst) => burst,
        Err(drained) => return drained,
    };
    let (_, drained) = Way { outbox, out, fd, template }.deliver(burst, &mut 0);
    Some(drained)
}

impl Way<'_> {
    /// Moves what is at the head of the queue, straight into the guest's buffers. Returns how many
    /// datagrams it was.
    fn large(&mut self, state: &mut DatagramState, batch: &mut Batch) -> (usize, Drained) {
        let burst = match next_head(datagram::peek_burst(self.fd)) {
            Ok(burst) => burst,
            Err(drained) => return (0, drained.unwrap_or(Drained::Empty)),
        };
        if burst.segment.is_some_and(|size| size < PADDED_BYTES) {
            return self.small(state, batch);
        }
        state.large = burst.segment.is_some() || burst.len > SMALL_DATAGRAM_BYTES;
        self.deliver(burst, &mut state.delivered)
    }

    /// Moves `burst`, of which `delivered` bytes are with the guest already.
    fn deliver(&mut self, burst: Burst, delivered: &mut u32) -> (usize, Drained) {
        let done = std::mem::take(delivered);
        // A burst whose rest is gone, with a bad checksum: what is there now is another one.
        let done = if done < burst.len { done } else { 0 };
        let left = burst.len - done;
        let segment = burst.segment.map_or(burst.len, u32::from);
        if !self.out.caps().up {
            return self.drop_burst(burst, done, DropReason::LinkDown);
        }
        let whole = burst.segment.is_some() && self.out.caps().gso.udp && done == 0;
        let largest = if whole { burst.len } else { segment };
        if largest > self.template.max_l4_bytes() - UDP_HEADER_BYTES {
            return self.drop_burst(burst, done, DropReason::TooLarge);
        }
        let header_len = self.template.l3_bytes() as u32 + UDP_HEADER_BYTES;
        let request = Reserve { header_len, segment: largest, bytes: left };
        let list = &mut self.outbox.list;
        let Some(mut lease) = ToGuestLease::reserve(&mut *self.out, list, request) else {
            *delivered = done;
            return (0, Drained::NoRoom);
        };
        if lease.frame_room(0) < largest.min(left) {
            // A guest without mergeable buffers whose buffers are too small: it will never fit.
            drop(lease);
            return self.drop_burst(burst, done, DropReason::TooLarge);
        }
        let all = lease.room() >= left;
        let room = if all { left } else { lease.room() / segment * segment };
        let flags = if all && done == 0 { 0 } else { libc::MSG_PEEK };
        let received = match lease.recv_stream(self.fd, room, done, flags) {
            Ok(received) => received.min(room),
            Err(Errno::AGAIN) if burst.len > 0 => return (0, Drained::Empty),
            Err(_) => return (0, Drained::More),
        };
        let gso = whole.then_some(segment as u16);
        let frames = stamp(lease, self.template, largest, received, gso);
        if !all {
            *delivered = done + received;
            return (frames, Drained::NoRoom);
        }
        if flags != 0 {
            let _ = datagram::drop_one(self.fd);
        }
        (received.div_ceil(segment.max(1)).max(1) as usize, Drained::More)
    }

    fn drop_burst(&mut self, burst: Burst, done: u32, reason: DropReason) -> (usize, Drained) {
        let segment = burst.segment.map_or(burst.len, u32::from).max(1);
        let datagrams = (burst.len - done).div_ceil(segment).max(1);
        self.outbox.drops.add(reason, datagrams.into());
        drop_head(self.fd);
        (0, Drained::More)
    }

    /// Moves small datagrams by way of `batch`. Returns how many there were.
    fn small(&mut self, state: &mut DatagramState, batch: &mut Batch) -> (usize, Drained) {
        let expected = usize::from(state.expected).clamp(1, DATAGRAM_BATCH);
        let room = if self.out.caps().up { self.room_for(expected) } else { expected };
        if room == 0 {
            return (0, Drained::NoRoom);
        }
        let received = match next_head(batch.receive(self.fd, room)) {
            Ok(received) => received,
            Err(drained) => return (0, drained.unwrap_or(Drained::Empty)),
        };
        state.expected = (2 * received).min(DATAGRAM_BATCH) as u8;
        let last = batch.bursts().last();
        state.large = last.is_some_and(|b| b.segment.is_some() || b.len > SMALL_DATAGRAM_BYTES);
        let mut next = 0;
        while next < received {
            next = self.forward(batch, next);
        }
        (received, if received < room { Drained::Empty } else { Drained::More })
    }

    /// How many of `expected` small datagrams the guest has room for.
    fn room_for(&mut self, expected: usize) -> usize {
        let header_len = self.template.l3_bytes() as u32 + UDP_HEADER_BYTES;
        let bytes = expected as u32 * SMALL_DATAGRAM_BYTES;
        let request = Reserve { header_len, segment: SMALL_DATAGRAM_BYTES, bytes };
        let lease = ToGuestLease::reserve(&mut *self.out, &mut self.outbox.list, request);
        lease.map_or(0, |lease| lease.frames())
    }

    /// Forwards what starts with datagram `first` of `batch` and fits one frame, or one burst; returns
    /// the index of what comes next.
    fn forward(&mut self, batch: &Batch, first: usize) -> usize {
        let bursts = &batch.bursts()[first..];
        let caps = self.out.caps();
        let largest = self.template.max_l4_bytes() - UDP_HEADER_BYTES;
        let Burst { len, segment } = bursts[0];
        let neighbours = if caps.gso.udp { neighbours(bursts, largest) } else { 1 };
        let range = first..first + neighbours;
        match segment {
            Some(size) if caps.gso.udp && len <= largest => {
                self.send(batch, range.clone(), (0, len), Some(size));
            }
            Some(size) => {
                for start in (0..len).step_by(size.into()) {
                    let piece = u32::from(size).min(len - start);
                    self.send(batch, range.clone(), (start, piece), None);
                }
            }
            None if neighbours > 1 => {
                let bytes = bursts[..neighbours].iter().map(|burst| burst.len).sum();
                self.send(batch, range.clone(), (0, bytes), Some(len as u16));
            }
            None => self.send(batch, range.clone(), (0, len), None),
        }
        range.end
    }

    /// Sends one frame: `len` bytes from offset `start` of the datagrams `range`, which lie one behind
    /// the other in it.
    fn send(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        (start, len): (u32, u32),
        segment: Option<u16>,
    ) {
        let caps = self.out.caps();
        let drop = |outbox: &mut Outbox, reason| outbox.drops.add(reason, range.len() as u64);
        if !caps.up {
            return drop(self.outbox, DropReason::LinkDown);
        }
        if len > self.template.max_l4_bytes() - UDP_HEADER_BYTES {
            return drop(self.outbox, DropReason::TooLarge);
        }
        let header_len = self.template.l3_bytes() as u32 + UDP_HEADER_BYTES;
        let request = Reserve { header_len, segment: len, bytes: len };
        let lease = ToGuestLease::reserve(&mut *self.out, &mut self.outbox.list, request);
        let Some(mut lease) = lease.filter(|lease| lease.frame_room(0) >= len) else {
            return drop(self.outbox, DropReason::NoGuestRoom);
        };
        let mut payload_sum = 0;
        let mut at = 0;
        for index in range {
            let bytes = batch.bytes(index);
            let end = bytes.len().min((start + len) as usize);
            let bytes = &bytes[start as usize..end];
            if !caps.partial_checksum {
                payload_sum = sum_of(bytes);
            }
            lease.put_payload_at(0, at, bytes);
            at += bytes.len() as u32;
        }
        let (checksum, meta) = if caps.partial_checksum {
            (L4Checksum::Partial, offload(self.template, segment))
        } else {
            (L4Checksum::Complete { payload_sum }, FrameMeta::default())
        };
        lease.put_header(0, &self.template.udp(len, checksum));
        match segment {
            Some(size) => log::trace!("to guest: {len} bytes of datagrams, {size} each"),
            None => log::trace!("to guest: a datagram of {len} bytes"),
        }
        lease.commit(&[FrameDone { payload_len: len, meta }]);
    }
}

/// How many of `bursts` are single datagrams that make up one USO frame of at most `largest` bytes: as
/// long as the first, the last perhaps shorter. At least 1.
fn neighbours(bursts: &[Burst], largest: u32) -> usize {
    let first = bursts[0];
    if first.segment.is_some() || first.len == 0 {
        return 1;
    }
    let (mut count, mut bytes) = (1, first.len);
    for burst in &bursts[1..] {
        bytes += burst.len;
        let fits = burst.segment.is_none() && (1..=first.len).contains(&burst.len);
        if !fits || bytes > largest || count == UDP_RUN_DATAGRAMS {
            break;
        }
        count += 1;
        if burst.len < first.len {
            break;
        }
    }
    count
}

/// Writes the headers of all frames that `received` bytes fill, `largest` in each, and hands them over;
/// returns their number.
fn stamp(
    mut lease: ToGuestLease<'_>,
    template: &HeaderTemplate,
    largest: u32,
    received: u32,
    segment: Option<u16>,
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
        lease.put_header(index, &template.udp(len, checksum));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn single(len: u32) -> Burst {
        Burst { len, segment: None }
    }

    #[test]
    fn neighbours_are_as_long_as_the_first_and_the_last_may_be_shorter() {
        let count = |lens: &[u32]| {
            let bursts: Vec<Burst> = lens.iter().map(|&len| single(len)).collect();
            neighbours(&bursts, 1000)
        };
        assert_eq!(count(&[100]), 1);
        assert_eq!(count(&[100, 100, 100]), 3);
        assert_eq!(count(&[100, 100, 40, 100]), 3);
        assert_eq!(count(&[100, 101]), 1);
        assert_eq!(count(&[100, 0, 100]), 1, "an empty datagram is none of them");
        assert_eq!(count(&[0, 0]), 1);
        assert_eq!(count(&[400, 400, 400]), 2, "no longer than a datagram");
        let burst = Burst { len: 100, segment: Some(50) };
        assert_eq!(neighbours(&[burst, single(50)], 1000), 1);
        assert_eq!(neighbours(&[single(100), burst], 1000), 1);
    }
}
