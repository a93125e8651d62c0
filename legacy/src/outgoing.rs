//! The half that carries frames to the guest: room for frames, each behind its length, in one stretch
//! of bytes that one call writes.
//!
//! A reservation lies behind what was committed before. When the arena is full it is written at once,
//! without waiting for the end of the turn. After a short write there is no room until the rest was
//! written: what the client does not take is thereby bounded, and its source learns of it.
//!
//! The end of the arena ends a reservation, and the next one begins with a write: the client is not short
//! of room as long as it takes what is written. So this link answers *all* or *none* (`room.rs` of
//! passt-frame), and never *some*.

use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use passt_frame::{
    Arena, Caps, Delivery, Errno, FrameDone, GsoSet, RoomDebt, Stopped, ToGuest, ToGuestList,
    unread_bytes,
};

use crate::{ARENA_BYTES, PREFIX_BYTES};

/// Frames to the guest.
pub(crate) struct Outgoing {
    arena: Arena,
    socket: Option<Rc<UnixStream>>,
    /// What was committed and not yet written.
    unwritten: Range<usize>,
    /// The kernel did not take everything.
    blocked: bool,
    /// A reservation found no room. Owed only while `blocked`, when writability is watched.
    debt: RoomDebt,
    /// Bytes committed.
    handed: u64,
    /// Frames handed over.
    pub(crate) frames: u64,
    /// Reservations that found no room.
    pub(crate) no_room: u64,
}

impl Outgoing {
    /// A half without a client.
    pub(crate) fn new() -> Self {
        Self {
            arena: Arena::new(ARENA_BYTES),
            socket: None,
            unwritten: 0..0,
            blocked: false,
            debt: RoomDebt::default(),
            handed: 0,
            frames: 0,
            no_room: 0,
        }
    }

    /// Changes the client, and forgets what the last one has not taken.
    pub(crate) fn set_socket(&mut self, socket: Option<Rc<UnixStream>>) {
        self.socket = socket;
        self.unwritten = 0..0;
        self.blocked = false;
        self.debt.settle();
    }

    /// Whether an event is needed before more can be written.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether there is room after a reservation found none. Says so once.
    pub(crate) fn take_room(&mut self) -> bool {
        !self.blocked && self.debt.settle()
    }

    /// Writes what was committed, as much as the kernel takes.
    pub(crate) fn write(&mut self) {
        let Some(socket) = &self.socket else { return };
        if self.unwritten.is_empty() {
            return;
        }
        match self.arena.send(socket.as_fd(), self.unwritten.clone()) {
            Ok(bytes) => self.on_written(bytes),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => self.on_written(0),
            Err(errno) => {
                log::debug!("client socket: write: {errno}");
                // The other half sees the end, after all that the client has sent.
                let _ = socket.shutdown(std::net::Shutdown::Both);
                self.on_written(self.unwritten.len());
            }
        }
    }

    /// The first `bytes` unwritten bytes were written.
    fn on_written(&mut self, bytes: usize) {
        self.unwritten.start += bytes;
        self.blocked = !self.unwritten.is_empty();
        if !self.blocked {
            self.unwritten = 0..0;
        }
    }

    /// Where a reservation begins whose first frame wants `bytes`: behind what is there, which is written
    /// if the frame would not fit. `None` when the client does not take it.
    fn begin(&mut self, bytes: usize) -> Option<usize> {
        if !self.blocked && self.arena.len() - self.unwritten.end < bytes {
            self.write();
        }
        (!self.blocked).then_some(self.unwritten.end)
    }
}

// SAFETY: the arena is never freed; each frame has a place of its own, behind everything that was
// committed, and places are moved or used again only through `&mut`.
unsafe impl ToGuest for Outgoing {
    fn caps(&self) -> Caps {
        Caps { partial_checksum: false, gso: GsoSet::default(), up: self.socket.is_some() }
    }

    fn reserve(&mut self, list: &mut ToGuestList) -> Stopped {
        if self.socket.is_none() {
            return Stopped::Down;
        }
        let mut at = None;
        while let Some(wanted) = list.open_frame() {
            let bytes = PREFIX_BYTES + wanted as usize;
            let Some(start) = at.or_else(|| self.begin(bytes)) else {
                self.no_room += 1;
                return Stopped::Short(self.debt.owe());
            };
            let end = start + bytes;
            let fits = end <= self.arena.len();
            if !fits || !list.add_frame(&[self.arena.lend(start + PREFIX_BYTES..end)]) {
                return Stopped::Ended;
            }
            at = Some(end);
        }
        Stopped::Ended
    }

    fn commit(&mut self, list: &ToGuestList, done: &[FrameDone]) {
        let mut from = self.unwritten.end;
        for (index, done) in done.iter().enumerate() {
            let len = list.frame_len(done.payload_len);
            let to = self.unwritten.end;
            let (start, end) = (to + PREFIX_BYTES, to + PREFIX_BYTES + len as usize);
            if from != to {
                let frame = from + PREFIX_BYTES;
                self.arena.copy_within(frame..frame + len as usize, start);
            }
            self.arena.write(to, &len.to_be_bytes());
            self.unwritten.end = end;
            from += PREFIX_BYTES + list.frame_pieces_bytes(index);
            self.frames += 1;
            self.handed += (end - to) as u64;
        }
    }

    fn delivery(&self) -> Delivery {
        let unread = self.socket.as_ref().map_or(0, |socket| {
            // A socket that cannot tell is read by nobody, or soon gone.
            let unread = unread_bytes(socket.as_fd()).unwrap_or(0);
            unread + self.unwritten.len() as u64
        });
        Delivery { handed: self.handed, taken: self.handed.saturating_sub(unread) }
    }

    fn cancel(&mut self, _list: &ToGuestList) {}
}

#[cfg(test)]
mod tests {
    use passt_frame::{FrameMeta, MAX_FRAME_BYTES, Payload, Reserve, ToGuestLease};

    use super::*;
    use crate::testing::{encoded, frame};

    fn connected() -> (Outgoing, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut outgoing = Outgoing::new();
        outgoing.set_socket(Some(Rc::new(ours)));
        (outgoing, theirs)
    }

    /// Commits `frame` as headers alone; false without room.
    fn put(outgoing: &mut Outgoing, frame: &[u8]) -> bool {
        let mut list = ToGuestList::new();
        let request = Reserve {
            header_len: frame.len() as u32,
            payload_len: 0,
            bytes: 0,
            payload: Payload::Datagrams,
        };
        let Some(mut lease) = ToGuestLease::reserve(outgoing, &mut list, request).lease() else {
            return false;
        };
        lease.put_header(0, frame);
        lease.commit(&[FrameDone::default()]);
        true
    }

    fn unwritten(outgoing: &Outgoing) -> Vec<u8> {
        let mut bytes = vec![0; outgoing.unwritten.len()];
        outgoing.arena.read(outgoing.unwritten.start, &mut bytes);
        bytes
    }

    #[test]
    fn short_writes_go_on_at_every_byte() {
        let frames = [frame(60, 1), frame(75, 2), frame(200, 3)];
        let stream = encoded(&frames);
        for cut in 0..=stream.len() {
            let (mut outgoing, _theirs) = connected();
            for frame in &frames {
                assert!(put(&mut outgoing, frame));
            }
            assert_eq!(unwritten(&outgoing), stream);
            outgoing.on_written(cut);
            let whole = cut == stream.len();
            assert_eq!(unwritten(&outgoing), stream[cut..], "cut at {cut}");
            assert_eq!(put(&mut outgoing, &frames[0]), whole, "room only when all was written");
            assert!(!outgoing.take_room());
            if !whole {
                outgoing.on_written(stream.len() - cut);
                assert!(outgoing.take_room() && !outgoing.take_room());
                assert!(put(&mut outgoing, &frames[0]));
            }
            assert_eq!(unwritten(&outgoing), encoded(&frames[..1]));
        }
    }

    #[test]
    fn a_reservation_of_which_less_was_used_leaves_no_gap() {
        let (mut outgoing, _theirs) = connected();
        let mut list = ToGuestList::new();
        let request =
            Reserve { header_len: 54, payload_len: 100, bytes: 300, payload: Payload::Datagrams };
        let mut lease = ToGuestLease::reserve(&mut outgoing, &mut list, request).lease().unwrap();
        let mut expected = Vec::new();
        let mut done = Vec::new();
        for (index, len) in [30usize, 100, 2].into_iter().enumerate() {
            let (header, payload) = (frame(54, index as u8), frame(len, 7 + index as u8));
            lease.put_header(index, &header);
            lease.put_payload(index, &payload);
            let mut whole = [header, payload].concat();
            whole.resize(whole.len().max(60), 0);
            expected.push(whole);
            done.push(FrameDone { payload_len: len as u32, meta: FrameMeta::default() });
        }
        lease.commit(&done);
        assert_eq!(unwritten(&outgoing), encoded(&expected));
        // Reserved and dropped: nothing of it is sent.
        drop(ToGuestLease::reserve(&mut outgoing, &mut list, request).lease().unwrap());
        assert!(put(&mut outgoing, &frame(60, 9)));
        expected.push(frame(60, 9));
        assert_eq!(unwritten(&outgoing), encoded(&expected));
    }

    #[test]
    fn it_is_known_what_the_client_has_read() {
        let (mut outgoing, mut theirs) = connected();
        assert_eq!(outgoing.delivery(), Delivery::default());
        assert!(put(&mut outgoing, &frame(60, 1)));
        assert_eq!(outgoing.delivery(), Delivery { handed: 64, taken: 0 }, "not written yet");
        outgoing.write();
        let Delivery { handed, taken } = outgoing.delivery();
        assert_eq!((handed, taken), (64, 0), "not read yet");
        std::io::Read::read_exact(&mut theirs, &mut [0; 64]).unwrap();
        assert_eq!(outgoing.delivery(), Delivery { handed: 64, taken: 64 });
        // The next client starts with all that the last one has left behind it.
        assert!(put(&mut outgoing, &frame(100, 1)));
        outgoing.set_socket(None);
        assert_eq!(outgoing.delivery(), Delivery { handed: 168, taken: 168 });
    }

    #[test]
    fn what_a_client_does_not_read_is_bounded() {
        let (mut outgoing, theirs) = connected();
        let large = frame(MAX_FRAME_BYTES as usize, 1);
        let mut committed = 0;
        while put(&mut outgoing, &large) {
            committed += 1;
            assert!(committed < 10_000, "there is always room");
        }
        assert!(outgoing.is_blocked() && !outgoing.take_room());
        assert!(unwritten(&outgoing).len() < ARENA_BYTES);
        // The client leaves: the rest is forgotten, and frames are refused for want of a client.
        drop(theirs);
        outgoing.write();
        assert!(!outgoing.is_blocked() && unwritten(&outgoing).is_empty());
        outgoing.set_socket(None);
        assert!(!outgoing.caps().up && !put(&mut outgoing, &large));
    }
}
