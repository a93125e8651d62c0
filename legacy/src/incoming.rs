//! The half that carries frames from the guest: whole frames out of a stream that is read in pieces.
//!
//! The socket is read when no whole frame is left, as much as there is room for. What remains then is
//! less than one frame; it moves to the front of the arena first, so there is always room for the rest
//! of it. Frames are lent where they were read, and their place is used again with the next read.

use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use passt_frame::{Arena, Errno, FrameMeta, FromGuest, FromGuestBatch, MAX_FRAME_BYTES};

use crate::{ARENA_BYTES, PREFIX_BYTES, SHORTEST_BYTES};

/// A length that no frame can have. Where the next frame starts is unknown from then on.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} bytes, expected {SHORTEST_BYTES} to {MAX_FRAME_BYTES}")]
pub struct BadLength(pub u32);

/// Frames from the guest.
pub struct Incoming {
    arena: Arena,
    socket: Option<Rc<UnixStream>>,
    /// What was read and is not yet part of a lent frame.
    unread: Range<usize>,
    /// The socket was empty after the last read.
    drained: bool,
    /// Nothing will come any more.
    ended: bool,
    /// Frames handed to the engine.
    pub frames: u64,
    /// Connections that ended with an impossible length.
    pub bad_lengths: u64,
}

impl Incoming {
    /// A half without a client.
    pub fn new() -> Self {
        Self {
            arena: Arena::new(ARENA_BYTES),
            socket: None,
            unread: 0..0,
            drained: true,
            ended: false,
            frames: 0,
            bad_lengths: 0,
        }
    }

    /// Changes the client, and forgets all that the last one sent.
    pub fn set_socket(&mut self, socket: Option<Rc<UnixStream>>) {
        self.socket = socket;
        self.unread = 0..0;
        self.drained = false;
        self.ended = false;
    }

    /// The socket has something: data or the end of it.
    pub fn on_readable(&mut self) {
        self.drained = false;
    }

    /// Whether the connection has ended and all frames were taken.
    pub fn has_ended(&self) -> bool {
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

    /// Where in the arena the next frame lies; `None` until the rest of it was read.
    fn next_frame(&mut self) -> Result<Option<Range<usize>>, BadLength> {
        if self.unread.len() < PREFIX_BYTES {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX_BYTES];
        self.arena.read(self.unread.start, &mut prefix);
        let len = u32::from_be_bytes(prefix);
        if !(SHORTEST_BYTES..=MAX_FRAME_BYTES).contains(&len) {
            return Err(BadLength(len));
        }
        let start = self.unread.start + PREFIX_BYTES;
        let end = start + len as usize;
        if end > self.unread.end {
            return Ok(None);
        }
        self.unread.start = end;
        Ok(Some(start..end))
    }

    /// Puts the whole frames that were read into `batch`, as far as it has room.
    fn fill(&mut self, batch: &mut FromGuestBatch) {
        while batch.has_room(1) && !self.ended {
            match self.next_frame() {
                Ok(Some(place)) => {
                    batch.add_frame(&[self.arena.lend(place)], FrameMeta::default());
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

    /// Reads what is there, as far as there is room.
    fn read(&mut self) {
        let Some(socket) = self.socket.clone() else { return };
        if self.drained || self.ended {
            return;
        }
        let room = self.make_room();
        match self.arena.recv(socket.as_fd(), room.clone()) {
            Ok(0) => self.end(),
            Ok(bytes) => {
                self.unread.end += bytes;
                self.drained = bytes < room.len();
            }
            Err(Errno::AGAIN | Errno::INTR) => self.drained = true,
            Err(errno) => {
                log::debug!("client socket: read: {errno}");
                self.end();
            }
        }
    }
}

// SAFETY: the arena is never freed; the places of lent frames are written by `read` only, which takes
// this half through `&mut`.
unsafe impl FromGuest for Incoming {
    fn take(&mut self, batch: &mut FromGuestBatch) {
        self.fill(batch);
        if batch.is_empty() {
            self.read();
            self.fill(batch);
        }
    }

    fn release(&mut self) {}
}

#[cfg(test)]
mod tests {
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
        while let Some(place) = incoming.next_frame()? {
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
