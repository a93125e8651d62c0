//! A byte stream that a seed determines.
//!
//! Each run of eight bytes depends on the seed and on its own place (the
//! generator is SplitMix64), so a receiver that compares byte by byte notices
//! loss, repetition, reordering and corruption, and needs no copy of the data.

const WORD: usize = 8;

/// The stream, at some place.
pub struct Pattern {
    state: u64,
    word: [u8; WORD],
    used: usize,
}

impl Pattern {
    /// The stream of `seed` from its first byte.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, word: [0; WORD], used: WORD }
    }

    /// Writes the next `out.len()` bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        let (head, rest) = out.split_at_mut((WORD - self.used).min(out.len()));
        head.copy_from_slice(&self.word[self.used..self.used + head.len()]);
        self.used += head.len();
        let mut words = rest.chunks_exact_mut(WORD);
        for word in &mut words {
            word.copy_from_slice(&self.next_word());
        }
        let tail = words.into_remainder();
        if !tail.is_empty() {
            self.word = self.next_word();
            self.used = tail.len();
            tail.copy_from_slice(&self.word[..self.used]);
        }
    }

    /// Whether the next bytes of the stream are `found`.
    pub fn continues_with(&mut self, found: &[u8], scratch: &mut [u8]) -> bool {
        found.chunks(scratch.len()).all(|chunk| {
            let expected = &mut scratch[..chunk.len()];
            self.fill(expected);
            expected == chunk
        })
    }

    fn next_word(&mut self) -> [u8; WORD] {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn pieces_of_any_size_make_the_same_stream() {
        let mut whole = [0; 1000];
        Pattern::new(7).fill(&mut whole);
        let mut pieces = Pattern::new(7);
        let mut at = 0;
        for size in (1..50).cycle() {
            let end = (at + size).min(whole.len());
            let mut piece = vec![0; end - at];
            pieces.fill(&mut piece);
            assert_eq!(piece, whole[at..end]);
            at = end;
            if at == whole.len() {
                break;
            }
        }
    }

    #[test]
    fn a_changed_a_lost_and_a_repeated_byte_are_noticed() {
        let mut good = vec![0; 100];
        Pattern::new(1).fill(&mut good);
        let matches = |bytes: &[u8]| Pattern::new(1).continues_with(bytes, &mut [0; 16]);
        assert!(matches(&good));
        let mut changed = good.clone();
        changed[50] ^= 1;
        assert!(!matches(&changed));
        let mut lost = good.clone();
        lost.remove(50);
        assert!(!matches(&lost));
        let mut repeated = good.clone();
        repeated.insert(50, good[49]);
        assert!(!matches(&repeated));
    }
}
