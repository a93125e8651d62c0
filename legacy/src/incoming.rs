//! The half that carries frames from the guest: whole frames out of a stream that is read in pieces.
//!
//! The socket is read when no whole frame is left, as much as there is room for. What remains then is
//! less than one frame; it moves to the front of the arena first, so there is always room for the rest
//! of it. Frames are lent where they were read, and their place is used again with the next read.
//!
//! While many frames are large, the socket is not read but emptied into the [`Backlog`], which copies nothing.
//! Of each large frame only the head is read from there, as much as is likely to be looked at ([`Shape`]);
//! the rest is the frame's tail, lent as such when it is there as a whole. The frame has its place in the
//! arena all the same: there the tail goes if it is wanted in memory after all, and there it is thrown
//! away. What the backlog has no room for as a whole, because its pieces are too many, is read as any.
//!
//! At any time the stream is: what was read (`unread`), what is in the backlog, what is in the socket.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use passt_frame::{
    Arena, Errno, FrameMeta, FromGuest, FromGuestBatch, GuestIovec, MAX_FRAME_BYTES,
};

use crate::backlog::Backlog;
use crate::shape::{LARGE_BYTES, Shape};
use crate::{ARENA_BYTES, PREFIX_BYTES, SHORTEST_BYTES};

/// A length that no frame can have. Where the next frame starts is unknown from then on.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} bytes, expected {SHORTEST_BYTES} to {MAX_FRAME_BYTES}")]
pub(crate) struct BadLength(pub(crate) u32);

/// A frame of which at least the head was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    /// Where in the arena it lies, as far as it was read.
    resident: Range<usize>,
    /// Where the rest belongs, which is in the backlog.
    tail: Range<usize>,
}

/// Frames from the guest.
pub(crate) struct Incoming {
    arena: Arena,
    socket: Option<Rc<UnixStream>>,
    /// What was read and is not yet part of a lent frame.
    unread: Range<usize>,
    /// What comes behind that.
    backlog: Backlog,
    /// What the next frames are likely to be.
    shape: Shape,
    /// The last frame that was lent; its tail as far as it is still in the backlog.
    last: Found,
    /// The socket was empty when it was last looked at, as far as is known.
    drained: bool,
    /// Nothing will come any more.
    ended: bool,
    /// Frames handed to the engine.
    pub(crate) frames: u64,
    /// Connections that ended with an impossible length.
    pub(crate) bad_lengths: u64,
}

impl Incoming {
    /// A half without a client.
    pub(crate) fn new() -> Self {
        Self {
            arena: Arena::new(ARENA_BYTES),
            socket: None,
            unread: 0..0,
            backlog: Backlog::default(),
            shape: Shape::default(),
            last: Found::default(),
            drained: true,
            ended: false,
            frames: 0,
            bad_lengths: 0,
        }
    }

    /// Changes the client, and forgets all that the last one sent.
    pub(crate) fn set_socket(&mut self, socket: Option<Rc<UnixStream>>) {
        self.socket = socket;
        self.unread = 0..0;
        self.backlog = Backlog::default();
        self.shape = Shape::default();
        self.last = Found::default();
        self.drained = false;
        self.ended = false;
    }

    /// The socket has something: data or the end of it.
    pub(crate) fn on_readable(&mut self) {
        self.drained = false;
    }

    /// Whether the connection has ended and all frames were taken.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Ends the connection. The hang-up makes sure that an event follows.
    fn end(&mut self) {
        self.ended = true;
        if let Some(socket) = &self.socket {
            // Fails only if the other end has gone already, and that is an event too.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Length of the next frame; `None` until that was read.
    fn next_len(&self) -> Result<Option<u32>, BadLength> {
        if self.unread.len() < PREFIX_BYTES {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX_BYTES];
        self.arena.read(self.unread.start, &mut prefix);
        match u32::from_be_bytes(prefix) {
            len @ SHORTEST_BYTES..=MAX_FRAME_BYTES => Ok(Some(len)),
            len => Err(BadLength(len)),
        }
    }

    /// The next frame; `None` until it is there.
    fn next_frame(&mut self) -> Result<Option<Found>, BadLength> {
        let Some(len) = self.next_len()? else { return Ok(None) };
        let start = self.unread.start + PREFIX_BYTES;
        let end = start + len as usize;
        let read = end.min(self.unread.end);
        let tail = read..end;
        let is_there = tail.is_empty()
            || (len >= LARGE_BYTES
                && read - start >= self.shape.head_bytes()
                && tail.len() <= self.backlog.len()
                && end <= self.arena.len());
        if !is_there {
            return Ok(None);
        }
        self.unread.start = read;
        self.shape.on_frame(len);
        Ok(Some(Found { resident: start..read, tail }))
    }

    /// Puts the frames that are there into `batch`, as far as it has room.
    fn fill(&mut self, batch: &mut FromGuestBatch) {
        while batch.has_room(2) && !self.ended {
            match self.next_frame() {
                Ok(Some(found)) => {
                    let piece = self.arena.lend(found.resident.clone());
                    let tail = found.tail.len() as u32;
                    batch.add_frame_with_tail(&[piece], tail, FrameMeta::default());
                    self.last = found;
                    self.frames += 1;
                }
                Ok(None) => return,
                Err(error) => {
                    log::warn!("Bad frame size from guest, resetting connection: {error}");
                    self.bad_lengths += 1;
                    self.end();
                }
            }
        }
    }

    /// Moves what is left to the front; returns the room behind it.
    fn make_room(&mut self) -> Range<usize> {
        if self.unread.start > 0 {
            self.arena.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        self.unread.end..self.arena.len()
    }

    /// Gets the next frame nearer to being there: to where it has room, from the backlog to the arena, or
    /// out of the socket. False if there is nothing to be had.
    fn advance(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let moved = self.unread.start > 0;
        let room = self.make_room();
        if moved && !self.unread.is_empty() && !self.backlog.is_empty() {
            // The frame may be there but for its place, which the arena ended before.
            return true;
        }
        let wanted = self.wanted().saturating_sub(self.unread.len()).min(room.len());
        if wanted > 0 && !self.backlog.is_empty() {
            return self.read_backlog(wanted);
        }
        let Some(socket) = self.socket.clone().filter(|_| !self.drained) else { return false };
        if !self.backlog.is_empty() || (self.shape.is_large() && self.backlog.is_usable()) {
            self.fill_backlog(socket.as_fd(), room.len())
        } else {
            self.receive(socket.as_fd(), room)
        }
    }

    /// How much of the stream should be in the arena: the next frame, of a large one no more than its head,
    /// and the head of the one behind it. All if frames are small.
    fn wanted(&self) -> usize {
        let head = PREFIX_BYTES + self.shape.head_bytes();
        match self.next_len() {
            _ if !self.shape.is_large() => self.arena.len(),
            Ok(Some(len)) if len < LARGE_BYTES => PREFIX_BYTES + len as usize + head,
            _ => head,
        }
    }

    /// Reads up to `wanted` bytes from the backlog.
    fn read_backlog(&mut self, wanted: usize) -> bool {
        let end = self.unread.end + wanted.min(self.backlog.len());
        match self.backlog.read(&self.arena, self.unread.end..end) {
            Ok(bytes) => {
                self.unread.end += bytes;
                bytes > 0
            }
            Err(errno) => {
                log::debug!("client socket: pipe: {errno}");
                self.end();
                false
            }
        }
    }

    /// Moves what the socket has to the backlog.
    fn fill_backlog(&mut self, socket: BorrowedFd<'_>, room: usize) -> bool {
        // What does not fit is reported again.
        self.drained = true;
        match self.backlog.fill(socket) {
            Ok(0) => self.end(),
            Ok(_) => return true,
            // An event has said that the socket has something: there is no room for it.
            Err(Errno::AGAIN) if !self.backlog.is_empty() => return self.read_backlog(room),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) if self.backlog.is_empty() => {
                // Not a socket to move from, or its end, which reading it tells.
                log::debug!("client socket: splice: {errno}");
                self.backlog.refuse();
                self.drained = false;
                return true;
            }
            Err(errno) => {
                log::debug!("client socket: splice: {errno}");
                self.end();
            }
        }
        false
    }

    /// Reads what the socket has, as far as there is room.
    fn receive(&mut self, socket: BorrowedFd<'_>, room: Range<usize>) -> bool {
        match self.arena.recv(socket, room.clone()) {
            Ok(0) => self.end(),
            Ok(bytes) => {
                self.unread.end += bytes;
                self.drained = bytes < room.len();
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => self.drained = true,
            Err(errno) => {
                log::debug!("client socket: read: {errno}");
                self.end();
            }
        }
        false
    }

    /// Reads the tail of the lent frame to its place.
    fn read_tail(&mut self) {
        while !self.last.tail.is_empty() {
            match self.backlog.read(&self.arena, self.last.tail.clone()) {
                Ok(bytes @ 1..) => self.last.tail.start += bytes,
                failed => {
                    let why = failed.map_or_else(|errno| errno.to_string(), |_| "empty".to_owned());
                    log::debug!("client socket: pipe: {why}");
                    return self.end();
                }
            }
        }
    }
}

// SAFETY: the arena is never freed; the places of lent frames are written by `take` only, but for the
// place of a tail, which is part of no piece until `fetch_tail` has filled it.
unsafe impl FromGuest for Incoming {
    fn take(&mut self, batch: &mut FromGuestBatch) {
        self.fill(batch);
        while batch.is_empty() && self.advance() {
            self.fill(batch);
        }
    }

    fn send_tail(&mut self, socket: BorrowedFd<'_>, bytes: Range<u32>) -> Result<u32, Errno> {
        self.shape.on_head(bytes.start);
        let Found { resident, tail } = &mut self.last;
        let wanted = (bytes.end as usize).saturating_sub(resident.len()).min(tail.len());
        let moved = self.backlog.drain(socket, wanted)?;
        tail.start += moved;
        Ok(moved as u32)
    }

    fn fetch_tail(&mut self) -> GuestIovec {
        self.shape.on_surprise();
        let place = self.last.tail.clone();
        self.read_tail();
        self.arena.lend(place)
    }

    fn release(&mut self) {
        self.read_tail();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use passt_frame::FromGuestLease;

    use super::*;
    use crate::testing::{encoded, frame};

    /// Reads `bytes` as if a socket had brought them.
    fn arrive(incoming: &mut Incoming, bytes: &[u8]) {
        let room = incoming.make_room();
        assert!(room.len() >= bytes.len(), "{} bytes of room for {}", room.len(), bytes.len());
        incoming.arena.write(room.start, bytes);
        incoming.unread.end += bytes.len();
    }

    fn take_all(incoming: &mut Incoming) -> Result<Vec<Vec<u8>>, BadLength> {
        let mut found = Vec::new();
        while let Some(Found { resident: place, .. }) = incoming.next_frame()? {
            let mut bytes = vec![0; place.len()];
            incoming.arena.read(place.start, &mut bytes);
            found.push(bytes);
        }
        Ok(found)
    }

    #[test]
    fn lengths_from_14_to_the_largest_frame_are_valid() {
        for len in [14, 60, 1514, 65_535, MAX_FRAME_BYTES as usize] {
            let mut incoming = Incoming::new();
            arrive(&mut incoming, &encoded(&[frame(len, 3), frame(14, 4)]));
            assert_eq!(take_all(&mut incoming), Ok(vec![frame(len, 3), frame(14, 4)]));
        }
        // Those of a vhost-user front-end among them: requests 1 and 3 as a length.
        for len in [0, 1, 13, MAX_FRAME_BYTES + 1, 0x0100_0000, 0x0300_0000, u32::MAX] {
            let mut incoming = Incoming::new();
            arrive(&mut incoming, &len.to_be_bytes());
            assert_eq!(incoming.next_frame(), Err(BadLength(len)), "the length alone is refused");
        }
    }

    #[test]
    fn frames_cut_at_every_byte_arrive_whole() {
        let frames = [frame(14, 1), frame(61, 2), frame(300, 3)];
        let stream = encoded(&frames);
        for cut in 0..=stream.len() {
            let mut incoming = Incoming::new();
            let mut found = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                arrive(&mut incoming, part);
                found.extend(take_all(&mut incoming).unwrap());
            }
            assert_eq!(found, frames, "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_that_was_too_close_to_the_end_of_the_arena_needs_no_event_to_be_lent() {
        // More than the arena holds is in the backlog when small frames have made all be read from there.
        let large = frame(60_000, 6);
        let count = ARENA_BYTES / (PREFIX_BYTES + large.len()) + 1;
        let (mut client, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut incoming = Incoming::new();
        assert!(incoming.backlog.is_usable());
        for _ in 0..count {
            client.write_all(&encoded(std::slice::from_ref(&large))).unwrap();
            while incoming.backlog.fill(ours.as_fd()).is_ok() {}
        }
        assert!(incoming.backlog.len() > ARENA_BYTES);
        let mut batch = FromGuestBatch::new();
        let mut found = 0;
        while let Some(lease) = FromGuestLease::take(&mut incoming, &mut batch) {
            found += lease.frames().len();
            assert!(lease.frames().iter().all(|frame| frame.len == 60_000));
        }
        assert_eq!(found, count);
    }

    #[test]
    fn there_is_room_for_the_rest_of_the_largest_frame_wherever_it_starts() {
        let large = frame(MAX_FRAME_BYTES as usize, 5);
        let mut incoming = Incoming::new();
        let fit = ARENA_BYTES / (PREFIX_BYTES + large.len());
        let stream = encoded(&vec![large.clone(); 3 * fit]);
        let (mut at, mut found) = (0, 0);
        while at < stream.len() {
            let room = incoming.make_room().len().min(stream.len() - at);
            assert!(room > 0);
            arrive(&mut incoming, &stream[at..at + room]);
            at += room;
            for bytes in take_all(&mut incoming).unwrap() {
                assert_eq!(bytes, large);
                found += 1;
            }
        }
        assert_eq!(found, 3 * fit);
    }
}
