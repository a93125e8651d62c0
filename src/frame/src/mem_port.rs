//! A link in memory, for tests of the engine: frames are byte vectors, and the way to the guest and
//! back can lose, duplicate and reorder by seed. The guest's room can be limited by frames and by buffers.
//! Frames from the guest can have tails. It checks what a real link takes for granted.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::net::{SendFlags, send};

use crate::{
    Caps, Delivery, Errno, FrameDone, FrameMeta, FramePort, FromGuest, FromGuestBatch, GuestIovec,
    MAX_FRAME_BYTES, Payload, PortEvents, RoomDebt, Stopped, ToGuest, ToGuestList,
};

/// How often, in 1/256, a frame is mistreated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Frames lost.
    pub lose: u8,
    /// Frames delivered twice.
    pub duplicate: u8,
    /// Frames delivered after the next one.
    pub reorder: u8,
}

/// A frame with its metadata.
pub(crate) type MemFrame = (Vec<u8>, FrameMeta);

/// Frames to the guest: an arena of buffers, and what was committed.
struct Outgoing {
    caps: Caps,
    /// Buffers of the current reservation; their bytes are written through raw pointers only.
    buffers: Vec<Vec<u8>>,
    /// Size of each buffer.
    buffer_bytes: usize,
    /// Several buffers make up a large frame, as mergeable receive buffers do.
    mergeable: bool,
    /// Buffers that the guest has in all.
    ring: usize,
    /// Buffers that are free now.
    free: usize,
    /// Frames that the guest can still take.
    room: usize,
    debt: RoomDebt,
    /// The guest has made room since the debt was made.
    grown: bool,
    delivered: VecDeque<MemFrame>,
    /// Frames handed over, if the link tells what of them the guest has taken.
    handed: Option<u64>,
    /// How often room was asked for.
    reservations: u64,
}

/// Frames from the guest: those waiting and those lent.
#[derive(Default)]
struct Incoming {
    waiting: VecDeque<MemFrame>,
    lent: Vec<Vec<u8>>,
    /// Where each frame is cut in two pieces; `None` for a third of its length.
    cut: Option<usize>,
    /// What is behind so many bytes of a frame is its tail.
    tail_at: Option<usize>,
    /// Where the tail of the last frame that is lent begins; `None` when it was sent or fetched.
    tail: Option<usize>,
}

/// A link in memory.
pub struct MemPort {
    outgoing: Outgoing,
    incoming: Incoming,
    faults: Faults,
    random: u64,
}

impl MemPort {
    /// A link with the given abilities whose receive buffers have `buffer_bytes` each.
    pub fn new(caps: Caps, buffer_bytes: usize) -> Self {
        Self {
            outgoing: Outgoing {
                caps,
                buffers: Vec::new(),
                buffer_bytes,
                mergeable: true,
                ring: usize::MAX,
                free: usize::MAX,
                room: usize::MAX,
                debt: RoomDebt::default(),
                grown: false,
                delivered: VecDeque::new(),
                handed: None,
                reservations: 0,
            },
            incoming: Incoming::default(),
            faults: Faults::default(),
            random: 1,
        }
    }

    /// The same link, but a frame takes one buffer, and is not larger.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.outgoing.mergeable = false;
        self
    }

    /// The same link, and it tells which frames the guest has not taken yet.
    #[must_use]
    pub fn that_tells(mut self) -> Self {
        self.outgoing.handed = Some(0);
        self
    }

    /// The same link with a guest that has `buffers` buffers, all of them free.
    #[must_use]
    pub fn with_buffers(mut self, buffers: usize) -> Self {
        (self.outgoing.ring, self.outgoing.free) = (buffers, buffers);
        self
    }

    /// Mistreats frames in both directions from now on, as `seed` decides.
    pub fn set_faults(&mut self, faults: Faults, seed: u64) {
        self.faults = faults;
        self.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    }

    /// Limits how many more frames the guest takes. Returns what a real link would report.
    pub fn set_room(&mut self, frames: usize) -> PortEvents {
        self.outgoing.room = frames;
        self.outgoing.grown |= frames > 0;
        self.on_event(0)
    }

    /// The guest makes `more` of its buffers free again. The next event says so.
    pub fn free_buffers(&mut self, more: usize) {
        let out = &mut self.outgoing;
        out.free = out.free.saturating_add(more).min(out.ring);
        out.grown |= more > 0;
    }

    /// Bytes of the largest frame that the guest can take when all of its buffers are free.
    pub fn largest_frame(&self) -> u32 {
        let out = &self.outgoing;
        let bytes = out.buffer_bytes.saturating_mul(if out.mergeable { out.ring } else { 1 });
        bytes.min(MAX_FRAME_BYTES as usize) as u32
    }

    /// Buffers that the guest has got frames in and not made free.
    pub fn used_buffers(&self) -> usize {
        self.outgoing.ring - self.outgoing.free
    }

    /// Starts or stops the guest's receive side.
    pub fn set_up(&mut self, up: bool) {
        self.outgoing.caps.up = up;
    }

    /// Cuts each frame from the guest in two pieces behind its first `bytes` bytes from now on.
    pub fn cut_at(&mut self, bytes: usize) {
        self.incoming.cut = Some(bytes);
    }

    /// Keeps what is behind the first `bytes` bytes of each frame from the guest as its tail from now on.
    pub fn keep_tails(&mut self, bytes: usize) {
        self.incoming.tail_at = Some(bytes);
    }

    /// The guest sends a frame.
    pub fn send(&mut self, frame: Vec<u8>, meta: FrameMeta) {
        let (faults, dice) = (self.faults, self.roll());
        mistreat(&mut self.incoming.waiting, (frame, meta), faults, dice);
    }

    /// The guest receives the next frame.
    pub fn recv(&mut self) -> Option<MemFrame> {
        let (faults, dice) = (self.faults, self.roll());
        let frame = self.outgoing.delivered.pop_front()?;
        if dice[0] < faults.lose {
            return self.recv();
        }
        if dice[1] < faults.duplicate {
            self.outgoing.delivered.push_front(frame.clone());
        }
        if dice[2] < faults.reorder
            && let Some(next) = self.outgoing.delivered.pop_front()
        {
            self.outgoing.delivered.push_front(frame);
            return Some(next);
        }
        Some(frame)
    }

    /// Three random bytes (xorshift64*).
    fn roll(&mut self) -> [u8; 3] {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let bytes = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes();
        [bytes[0], bytes[1], bytes[2]]
    }
}

fn mistreat(queue: &mut VecDeque<MemFrame>, frame: MemFrame, faults: Faults, dice: [u8; 3]) {
    if dice[0] < faults.lose {
        return;
    }
    if dice[1] < faults.duplicate {
        queue.push_back(frame.clone());
    }
    let last = queue.pop_back();
    match last {
        Some(last) if dice[2] < faults.reorder => queue.extend([frame, last]),
        Some(last) => queue.extend([last, frame]),
        None => queue.push_back(frame),
    }
}

impl Outgoing {
    fn short(&mut self) -> Stopped {
        self.grown &= self.debt.is_owed();
        Stopped::Short(self.debt.owe())
    }

    /// Adds `count` buffers to those of the reservation.
    fn lend(&mut self, count: usize) -> Vec<GuestIovec> {
        let mut lend = || {
            let mut buffer = vec![0xa5; self.buffer_bytes];
            // SAFETY: the heap block does not move when the Vec is moved into `buffers`, and no
            // reference to its bytes is made while it is lent.
            let piece = unsafe { GuestIovec::new(buffer.as_mut_ptr(), self.buffer_bytes) };
            self.buffers.push(buffer);
            piece
        };
        (0..count).map(|_| lend()).collect()
    }
}

// SAFETY: the buffers live in `self.buffers` until the next use through `&mut`, and each is pushed
// to one frame only.
unsafe impl ToGuest for Outgoing {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn reserve(&mut self, list: &mut ToGuestList) -> Stopped {
        self.reservations += 1;
        self.buffers.clear();
        if !self.caps.up {
            return Stopped::Down;
        }
        while let Some(wanted) = list.open_frame() {
            if list.frames() >= self.room {
                return self.short();
            }
            let wanted = (wanted as usize).div_ceil(self.buffer_bytes);
            let largest = if self.mergeable { self.ring } else { 1 };
            let (before, most) = (self.buffers.len(), wanted.min(largest));
            let pieces = self.lend(most.min(self.free - before));
            if list.add_frame(&pieces) {
                continue;
            }
            self.buffers.truncate(before);
            let too_large = list.request().payload == Payload::Datagrams && wanted > largest;
            let hopeless = too_large || pieces.len() == most;
            return if hopeless { Stopped::Ended } else { self.short() };
        }
        Stopped::Ended
    }

    fn commit(&mut self, list: &ToGuestList, done: &[FrameDone]) {
        let mut buffers = std::mem::take(&mut self.buffers).into_iter();
        for (index, done) in done.iter().enumerate() {
            let mut bytes = Vec::new();
            let len = list.frame_len(done.payload_len) as usize;
            let chains = list.frame_pieces_bytes(index).div_ceil(self.buffer_bytes);
            for buffer in buffers.by_ref().take(chains) {
                bytes.extend_from_slice(&buffer);
            }
            assert!(len <= bytes.len(), "{len} bytes in a frame with room for {}", bytes.len());
            bytes.truncate(len);
            self.delivered.push_back((bytes, done.meta));
            self.handed = self.handed.map(|handed| handed + 1);
            self.room = self.room.saturating_sub(1);
            self.free -= len.div_ceil(self.buffer_bytes);
        }
    }

    fn delivery(&self) -> Delivery {
        let waiting = self.delivered.len() as u64;
        self.handed.map_or_else(Delivery::default, |handed| Delivery {
            handed,
            taken: handed.saturating_sub(waiting),
        })
    }

    fn cancel(&mut self, _list: &ToGuestList) {
        self.buffers.clear();
    }
}

// SAFETY: lent frames stay in `self.lent` until `release`.
unsafe impl FromGuest for Incoming {
    fn take(&mut self, batch: &mut FromGuestBatch) {
        while batch.has_room(2) {
            let Some((mut frame, meta)) = self.waiting.pop_front() else { return };
            // SAFETY: the heap block does not move with the Vec, and is not referenced while lent.
            let whole = unsafe { GuestIovec::new(frame.as_mut_ptr(), frame.len()) };
            self.tail = self.tail_at.filter(|&at| at < frame.len());
            let (whole, tail) = whole.split_at(self.tail.unwrap_or(frame.len()));
            let (head, rest) = whole.split_at(self.cut.unwrap_or(frame.len() / 3));
            batch.add_frame_with_tail(&[head, rest], tail.len() as u32, meta);
            self.lent.push(frame);
        }
    }

    fn send_tail(&mut self, socket: BorrowedFd<'_>, bytes: Range<u32>) -> Result<u32, Errno> {
        let (Some(at), Some(frame)) = (self.tail, self.lent.last()) else {
            return Err(Errno::INVAL);
        };
        assert!(bytes.start as usize <= at && at < bytes.end as usize, "{bytes:?}, tail at {at}");
        let wanted = &frame[at..bytes.end as usize];
        let sent = send(socket, wanted, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        self.tail = Some(at + sent).filter(|&at| at < frame.len());
        Ok(sent as u32)
    }

    fn fetch_tail(&mut self) -> GuestIovec {
        let (at, frame) = self.tail.take().zip(self.lent.last_mut()).expect("there is a tail");
        // SAFETY: the frame is lent until `release`.
        unsafe { GuestIovec::new(frame.as_mut_ptr().add(at), frame.len() - at) }
    }

    fn release(&mut self) {
        self.lent.clear();
        self.tail = None;
    }
}

impl FramePort for MemPort {
    fn halves(&mut self) -> (&mut dyn FromGuest, &mut dyn ToGuest) {
        (&mut self.incoming, &mut self.outgoing)
    }

    fn on_event(&mut self, _token: u16) -> PortEvents {
        let out = &mut self.outgoing;
        PortEvents { room: out.grown && out.debt.settle(), ..PortEvents::default() }
    }

    fn flush(&mut self) {}

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("reservations", self.outgoing.reservations);
    }
}
