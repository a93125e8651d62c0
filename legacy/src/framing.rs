//! Framing of the stream socket: each frame behind its length in bytes, a 32-bit integer in network
//! byte order that does not count itself (QEMU, "Network backend stream").
//!
//! [`Decoder`] takes what each read(2) brought and yields whole frames; [`Encoder`] takes whole frames
//! and yields what is to be written, and goes on where a short write(2) stopped. Neither makes a system
//! call, and neither looks into a frame.

use std::ops::Range;

use passt_frame::MAX_FRAME_BYTES;
use thiserror::Error;

/// Bytes of the length in front of each frame.
pub const PREFIX_BYTES: usize = 4;

/// Bytes of the shortest frame that is accepted: an Ethernet header without payload.
pub const SHORTEST_FRAME_BYTES: u32 = 14;

/// Bytes of the longest frame with its length.
const LONGEST: usize = PREFIX_BYTES + MAX_FRAME_BYTES as usize;

/// Bytes of either buffer. Four of the longest frames: a burst is one system call, and while one
/// frame is incomplete others can still be queued.
pub const BUFFER_BYTES: usize = 4 * LONGEST;

/// A length that no frame can have. Where the next frame starts is unknown from then on: the connection
/// has to end.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("frame of {0} bytes, expected {SHORTEST_FRAME_BYTES} to {MAX_FRAME_BYTES}")]
pub struct BadLength(pub u32);

/// Collects frames from a stream that is read in pieces of any size.
#[derive(Debug)]
pub struct Decoder {
    buffer: Box<[u8]>,
    /// What was read and not yet yielded as part of a frame.
    unread: Range<usize>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), unread: 0..0 }
    }
}

impl Decoder {
    /// Where the next read goes. Never empty if [`next_frame`](Self::next_frame) has said that no whole
    /// frame is left. Ends the life of all frames yielded so far.
    pub fn room(&mut self) -> &mut [u8] {
        if self.unread.start > 0 {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        &mut self.buffer[self.unread.end..]
    }

    /// The first `bytes` bytes of [`room`](Self::room) were filled.
    pub fn filled(&mut self, bytes: usize) {
        self.unread.end = (self.unread.end + bytes).min(self.buffer.len());
    }

    /// The place in [`bytes`](Self::bytes) of the next frame, without its length; `None` until the rest
    /// of it was read. A place holds its frame until the next call of [`room`](Self::room).
    ///
    /// # Errors
    /// [`BadLength`], and again with each further call until [`clear`](Self::clear).
    pub fn next_frame(&mut self) -> Result<Option<Range<usize>>, BadLength> {
        let unread = &self.buffer[self.unread.clone()];
        let Some((prefix, rest)) = unread.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*prefix);
        if !(SHORTEST_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&len) {
            return Err(BadLength(len));
        }
        if rest.len() < len as usize {
            return Ok(None);
        }
        let start = self.unread.start + PREFIX_BYTES;
        self.unread.start = start + len as usize;
        Ok(Some(start..self.unread.start))
    }

    /// The buffer that places refer to.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Forgets everything, for the next connection.
    pub fn clear(&mut self) {
        self.unread = 0..0;
    }
}

/// Queues frames for a stream that takes pieces of any size.
#[derive(Debug)]
pub struct Encoder {
    buffer: Box<[u8]>,
    /// What was committed and not yet written.
    unwritten: Range<usize>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), unwritten: 0..0 }
    }
}

impl Encoder {
    /// Room for a frame of up to `bytes` bytes, to be filled and then [committed](Self::commit); `None`
    /// if there is none until more was written. Room that is not committed is room again.
    pub fn reserve(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let wanted = PREFIX_BYTES.checked_add(bytes)?;
        let unwritten = &self.unwritten;
        // Moved only if at least as much was written since: the cost of each byte stays constant.
        if self.buffer.len() - unwritten.end < wanted && unwritten.len() <= unwritten.start {
            self.buffer.copy_within(unwritten.clone(), 0);
            self.unwritten = 0..self.unwritten.len();
        }
        self.buffer[self.unwritten.end..].get_mut(PREFIX_BYTES..wanted)
    }

    /// Queues the first `bytes` bytes of the room that was [reserved](Self::reserve) last as one frame.
    ///
    /// # Errors
    /// [`BadLength`] for a frame that the other end would refuse, or without room; nothing is queued.
    pub fn commit(&mut self, bytes: usize) -> Result<(), BadLength> {
        let len = u32::try_from(bytes).unwrap_or(u32::MAX);
        let end = self.unwritten.end.saturating_add(PREFIX_BYTES).saturating_add(bytes);
        let valid = (SHORTEST_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&len);
        if !valid || end > self.buffer.len() {
            return Err(BadLength(len));
        }
        let prefix = self.unwritten.end..self.unwritten.end + PREFIX_BYTES;
        self.buffer[prefix].copy_from_slice(&len.to_be_bytes());
        self.unwritten.end = end;
        Ok(())
    }

    /// What is to be written next; empty if all was.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.unwritten.clone()]
    }

    /// The first `bytes` bytes of [`pending`](Self::pending) were written.
    pub fn written(&mut self, bytes: usize) {
        self.unwritten.start += bytes.min(self.unwritten.len());
        if self.unwritten.is_empty() {
            self.unwritten = 0..0;
        }
    }

    /// Forgets everything, for the next connection.
    pub fn clear(&mut self) {
        self.unwritten = 0..0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame of `len` bytes that differ, and differ from those of other frames.
    fn frame(len: usize, seed: u8) -> Vec<u8> {
        (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
    }

    fn encoded(frames: &[Vec<u8>]) -> Vec<u8> {
        let with_len = |frame: &Vec<u8>| [&(frame.len() as u32).to_be_bytes(), &frame[..]].concat();
        frames.iter().flat_map(with_len).collect()
    }

    /// Reads once, no more than `at_most` bytes; returns how many.
    fn read(decoder: &mut Decoder, stream: &[u8], at_most: usize) -> usize {
        let room = decoder.room();
        let bytes = stream.len().min(at_most).min(room.len());
        room[..bytes].copy_from_slice(&stream[..bytes]);
        decoder.filled(bytes);
        bytes
    }

    fn take_frames(decoder: &mut Decoder) -> Result<Vec<Vec<u8>>, BadLength> {
        let mut frames = Vec::new();
        while let Some(place) = decoder.next_frame()? {
            frames.push(decoder.bytes()[place].to_vec());
        }
        Ok(frames)
    }

    fn put(encoder: &mut Encoder, frame: &[u8]) -> bool {
        let Some(room) = encoder.reserve(frame.len()) else { return false };
        assert_eq!(room.len(), frame.len());
        room.copy_from_slice(frame);
        encoder.commit(frame.len()).unwrap();
        true
    }

    proptest! {
        #[test]
        fn frames_arrive_whole_however_the_stream_is_cut(
            lens in prop::collection::vec(prop_oneof![14..200usize, 60_000..=65_549usize], 0..12),
            cuts in prop::collection::vec(prop_oneof![1..8usize, 1..100_000usize], 1..20),
        ) {
            let frames: Vec<_> = lens.iter().zip(0..).map(|(&len, n)| frame(len, n)).collect();
            let stream = encoded(&frames);
            let (mut decoder, mut found, mut at) = (Decoder::default(), Vec::new(), 0);
            // Small cuts come first, then the rest in large ones.
            for cut in cuts.into_iter().chain(std::iter::repeat(50_000)) {
                at += read(&mut decoder, &stream[at..], cut);
                found.extend(take_frames(&mut decoder).unwrap());
                if at == stream.len() {
                    break;
                }
            }
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn writes_go_on_where_they_stopped(
            lens in prop::collection::vec(prop_oneof![14..200usize, 60_000..=65_549usize], 0..12),
            takes in prop::collection::vec(0..150_000usize, 1..40),
        ) {
            let mut frames: Vec<_> = lens.iter().zip(0..).map(|(&len, n)| frame(len, n)).collect();
            let expected = encoded(&frames);
            let (mut encoder, mut stream) = (Encoder::default(), Vec::new());
            frames.reverse();
            // The kernel takes what it likes, at last everything.
            for take in takes.into_iter().chain([usize::MAX; 12]) {
                while frames.last().is_some_and(|frame| put(&mut encoder, frame)) {
                    frames.pop();
                }
                let taken = encoder.pending().len().min(take);
                stream.extend_from_slice(&encoder.pending()[..taken]);
                encoder.written(taken);
            }
            prop_assert!(encoder.pending().is_empty());
            prop_assert_eq!(stream, expected);
        }

        #[test]
        fn no_stream_makes_the_decoder_panic_or_run_out_of_room(
            stream in prop::collection::vec(any::<u8>(), 0..2000),
            // What makes most lengths valid.
            mask in prop_oneof![Just(0xff_u8), Just(0)],
        ) {
            let stream: Vec<u8> =
                stream.iter().enumerate().map(|(at, b)| if at % 64 < 3 { b & mask } else { *b }).collect();
            let (mut decoder, mut at) = (Decoder::default(), 0);
            while at < stream.len() {
                prop_assert!(!decoder.room().is_empty());
                at += read(&mut decoder, &stream[at..], 97);
                match take_frames(&mut decoder) {
                    Ok(frames) => prop_assert!(frames.iter().all(|frame| frame.len() >= 14)),
                    Err(error) => {
                        prop_assert_eq!(take_frames(&mut decoder), Err(error));
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn lengths_from_14_to_65549_are_valid() {
        for len in [14, 60, 65_535, 65_549] {
            let frames = vec![frame(len, 7); 3];
            let mut decoder = Decoder::default();
            let stream = encoded(&frames);
            assert_eq!(read(&mut decoder, &stream, stream.len()), stream.len());
            assert_eq!(take_frames(&mut decoder).unwrap(), frames, "{len}");
        }
        for len in [0, 1, 13, 65_550, 65_536 * 14, u32::MAX] {
            let mut decoder = Decoder::default();
            // The length alone is refused: nothing waits for bytes that do not come.
            read(&mut decoder, &len.to_be_bytes(), 4);
            assert_eq!(decoder.next_frame(), Err(BadLength(len)));
        }
    }

    #[test]
    fn a_bad_length_is_reported_after_the_frames_before_it() {
        let good = frame(20, 1);
        let mut stream = encoded(std::slice::from_ref(&good));
        stream.extend([0, 0, 0, 13]);
        let mut decoder = Decoder::default();
        read(&mut decoder, &stream, stream.len());
        let place = decoder.next_frame().unwrap().unwrap();
        assert_eq!(decoder.bytes()[place], good);
        assert_eq!(decoder.next_frame(), Err(BadLength(13)));
        assert_eq!(decoder.next_frame(), Err(BadLength(13)));
        decoder.clear();
        assert_eq!(decoder.next_frame(), Ok(None));
        assert_eq!(decoder.room().len(), BUFFER_BYTES);
    }

    #[test]
    fn places_hold_their_frames_until_the_next_read() {
        let frames = [frame(14, 1), frame(900, 2), frame(65_549, 3)];
        let stream = encoded(&frames);
        let mut decoder = Decoder::default();
        read(&mut decoder, &stream, stream.len());
        let places: Vec<_> = std::iter::from_fn(|| decoder.next_frame().unwrap()).collect();
        let found: Vec<_> = places.into_iter().map(|place| &decoder.bytes()[place]).collect();
        assert_eq!(found, frames);
    }

    #[test]
    fn a_full_encoder_has_room_again_when_half_of_it_was_written() {
        let long = frame(65_549, 9);
        let mut encoder = Encoder::default();
        for _ in 0..4 {
            assert!(put(&mut encoder, &long));
        }
        assert_eq!(encoder.pending().len(), BUFFER_BYTES);
        assert!(encoder.reserve(14).is_none());
        encoder.written(BUFFER_BYTES / 2 - 1);
        assert!(encoder.reserve(14).is_none());
        encoder.written(1);
        assert!(put(&mut encoder, &long));
        assert_eq!(encoder.pending(), encoded(&[long.clone(), long.clone(), long]));
    }

    #[test]
    fn only_frames_that_the_other_end_takes_are_queued() {
        let mut encoder = Encoder::default();
        for len in [0, 13, 65_550, usize::MAX] {
            let _ = encoder.reserve(len);
            let error = BadLength(u32::try_from(len).unwrap_or(u32::MAX));
            assert_eq!(encoder.commit(len), Err(error));
        }
        assert!(encoder.pending().is_empty());
        assert!(encoder.reserve(usize::MAX).is_none());
    }

    #[test]
    fn clearing_forgets_what_was_queued() {
        let mut encoder = Encoder::default();
        assert!(put(&mut encoder, &frame(100, 1)));
        encoder.written(50);
        encoder.clear();
        assert!(encoder.pending().is_empty());
        assert_eq!(encoder.reserve(14).map(|room| room.len()), Some(14));
    }
}
