//! What the next frames are likely to look like, learnt from those before: large or not, and how much of
//! a large one is looked at before the rest is sent on.

use passt_frame::HEAD_BYTES;

/// Bytes of a frame whose payload is better left where the kernel has it. Three system calls for each
/// frame and a TCP segment at a time cost as much as copying some 40 KiB twice, in many frames at once.
pub(crate) const LARGE_BYTES: u32 = 40 * 1024;

/// The whole, of which shares are parts.
const ALL: u16 = 4096;

/// Share of large frames from which on it is they that count. A small frame is one system call more.
const MANY: u16 = ALL / 4;

/// The last frame's weight in that share is one of so many.
const FRAMES: u16 = 8;

/// Large frames that do not count after one that was wanted in memory: datagrams, or a capture is made.
const DOUBTED_FRAMES: u8 = 64;

/// Frames in a row of which less was looked at than expected before that is believed.
const FRAMES_BEFORE_LESS: u8 = 16;

/// What is expected of frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Share of large frames among the last ones.
    large: u16,
    /// Large frames to come that do not count.
    doubted: u8,
    /// Bytes of a large frame that are looked at.
    head_bytes: u32,
    /// Frames in a row of which less was looked at, and the most of it.
    less: (u8, u32),
}

impl Default for Shape {
    /// Small frames, and of large ones all that may be looked at.
    fn default() -> Self {
        Self { large: 0, doubted: 0, head_bytes: HEAD_BYTES as u32, less: (0, 0) }
    }
}

impl Shape {
    /// A frame of `len` bytes came.
    pub(crate) fn on_frame(&mut self, len: u32) {
        let large = len >= LARGE_BYTES;
        if large && self.doubted > 0 {
            self.doubted -= 1;
            return;
        }
        let last = if large { ALL } else { 0 };
        self.large = self.large - self.large / FRAMES + last / FRAMES;
    }

    /// Of a large frame, no more than the first `bytes` bytes were looked at, which is no more than was
    /// expected.
    pub(crate) fn on_head(&mut self, bytes: u32) {
        if bytes >= self.head_bytes {
            self.less = (0, 0);
            return;
        }
        let (count, most) = self.less;
        self.less = (count + 1, most.max(bytes));
        if self.less.0 == FRAMES_BEFORE_LESS {
            (self.head_bytes, self.less) = (self.less.1, (0, 0));
        }
    }

    /// All of a large frame was looked at.
    pub(crate) fn on_surprise(&mut self) {
        *self = Self { doubted: DOUBTED_FRAMES, ..Self::default() };
    }

    /// Whether many of the next frames are likely to be large.
    pub(crate) fn is_large(&self) -> bool {
        self.large >= MANY
    }

    /// Bytes of a large frame that are likely to be looked at.
    pub(crate) fn head_bytes(&self) -> usize {
        self.head_bytes as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of `len` bytes until the next ones are expected to be large, or small; `None` if never.
    fn until(shape: &mut Shape, len: u32, large: bool) -> Option<usize> {
        (1..100).find(|_| {
            shape.on_frame(len);
            shape.is_large() == large
        })
    }

    #[test]
    fn a_few_frames_of_another_size_change_what_is_expected() {
        let mut shape = Shape::default();
        assert_eq!(until(&mut shape, LARGE_BYTES - 1, true), None);
        assert_eq!(until(&mut shape, LARGE_BYTES, true), Some(3));
        assert_eq!(until(&mut shape, 65_534, false), None);
        assert_eq!(until(&mut shape, 60, false), Some(11));
        assert_eq!(until(&mut shape, 9014, true), None);
    }

    #[test]
    fn acknowledgements_between_large_frames_do_not_make_them_small() {
        let mut shape = Shape::default();
        for round in 0..100 {
            for len in [65_000, 60, 60] {
                shape.on_frame(len);
                assert!(shape.is_large() || round < 10);
            }
        }
    }

    #[test]
    fn frames_that_are_wanted_in_memory_are_read_as_any_for_a_while() {
        let mut shape = Shape::default();
        assert_eq!(until(&mut shape, 65_000, true), Some(3));
        shape.on_surprise();
        assert!(!shape.is_large());
        assert_eq!(until(&mut shape, 65_000, true), Some(64 + 3));
    }

    #[test]
    fn less_of_a_frame_is_expected_after_sixteen_and_more_at_once() {
        let mut shape = Shape::default();
        let mut heads = |bytes: &[u32]| {
            for &bytes in bytes {
                shape.on_head(bytes);
            }
            shape.head_bytes()
        };
        assert_eq!(heads(&[66; 15]), HEAD_BYTES);
        assert_eq!(heads(&[86]), 86, "the most that was needed");
        assert_eq!(heads(&[66; 15]), 86);
        assert_eq!(heads(&[86]), 86);
        assert_eq!(heads(&[66; 15]), 86, "and begins again");
        assert_eq!(heads(&[66]), 66);
        shape.on_surprise();
        assert_eq!(shape.head_bytes(), HEAD_BYTES);
    }
}
