//! What the next frames are likely to look like, learnt from those before: large or not, and how much of
//! a large one is looked at before the rest is sent on.

use passt_frame::HEAD_BYTES;

/// Bytes of a frame whose payload is better left where the kernel has it: three system calls cost less
/// than copying so much twice.
pub const LARGE_BYTES: u32 = 16 * 1024;

/// The last frame's share of the mean is one of so many.
const MEAN_FRAMES: u32 = 8;

/// Frames in a row of which less was looked at than expected before that is believed.
const FRAMES_BEFORE_LESS: u8 = 16;

/// What is expected of frames.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Running mean of the frames' length.
    mean_bytes: u32,
    /// Bytes of a large frame that are looked at.
    head_bytes: u32,
    /// Frames in a row of which less was looked at, and the most of it.
    less: (u8, u32),
}

impl Default for Shape {
    /// Small frames, and of large ones all that may be looked at.
    fn default() -> Self {
        Self { mean_bytes: 0, head_bytes: HEAD_BYTES as u32, less: (0, 0) }
    }
}

impl Shape {
    /// A frame of `len` bytes came.
    pub fn on_frame(&mut self, len: u32) {
        self.mean_bytes = self.mean_bytes - self.mean_bytes / MEAN_FRAMES + len / MEAN_FRAMES;
    }

    /// Of a large frame, no more than the first `bytes` bytes were looked at, which is no more than was
    /// expected.
    pub fn on_head(&mut self, bytes: u32) {
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

    /// More of a large frame was looked at than was expected.
    pub fn on_surprise(&mut self) {
        (self.head_bytes, self.less) = (HEAD_BYTES as u32, (0, 0));
    }

    /// Whether the next frame is likely to be a large one.
    pub fn is_large(&self) -> bool {
        self.mean_bytes >= LARGE_BYTES
    }

    /// Bytes of a large frame that are likely to be looked at.
    pub fn head_bytes(&self) -> usize {
        self.head_bytes as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_frames_of_another_size_change_what_is_expected() {
        let mut shape = Shape::default();
        let mut after = |len: u32, large: bool| {
            (1..100).find(|_| {
                shape.on_frame(len);
                shape.is_large() == large
            })
        };
        assert_eq!(after(65_534, true), Some(3));
        assert_eq!(after(LARGE_BYTES - 1, true), Some(1), "the mean");
        assert_eq!((0..100).find_map(|_| after(65_534, false)), None);
        assert_eq!(after(60, false), Some(11));
        assert_eq!(after(9014, true), None);
    }

    #[test]
    fn acknowledgements_between_large_frames_do_not_make_them_small() {
        let mut shape = Shape::default();
        for _ in 0..100 {
            shape.on_frame(65_000);
            shape.on_frame(60);
        }
        assert!(shape.is_large());
        shape.on_frame(60);
        assert!(shape.is_large());
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
