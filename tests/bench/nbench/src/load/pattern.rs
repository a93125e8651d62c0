//! The payload of streams: a period of bytes with a prime length, so that bytes that are lost,
//! repeated or moved by any power of two do not go unseen.

/// Bytes that one write sends or one read takes at most.
pub const CHUNK_BYTES: usize = 128 * 1024;
/// Length of the period: a prime.
const PERIOD_BYTES: usize = 65521;

/// The pattern, long enough to show a chunk at every offset.
#[derive(Debug)]
pub struct Pattern(Vec<u8>);

impl Default for Pattern {
    fn default() -> Self {
        let mut state = 0x2545_f491_u32;
        let period: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 11) as u8
        })
        .take(PERIOD_BYTES)
        .collect();
        Self(period.into_iter().cycle().take(PERIOD_BYTES + CHUNK_BYTES).collect())
    }
}

impl Pattern {
    /// What a stream holds from byte `offset` on.
    pub fn chunk(&self, offset: u64) -> &[u8] {
        let at = (offset % PERIOD_BYTES as u64) as usize;
        &self.0[at..at + CHUNK_BYTES]
    }

    /// Whether `bytes` are what a stream holds at `offset`; at most [`CHUNK_BYTES`].
    pub fn matches(&self, offset: u64, bytes: &[u8]) -> bool {
        self.chunk(offset)[..bytes.len()] == *bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_does_not_match() {
        let pattern = Pattern::default();
        let chunk = pattern.chunk(1000).to_vec();
        assert!(pattern.matches(1000, &chunk) && pattern.matches(1000 + 65521, &chunk));
        for shift in [1, 2, 4096, 65536, 1 << 20] {
            assert!(!pattern.matches(1000 + shift, &chunk), "moved by {shift}");
        }
    }
}
