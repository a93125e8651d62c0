//! What the tests of both halves say often.

/// A frame of `len` bytes that differ from each other and from those of other seeds.
pub(crate) fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

/// Frames as they stand in the stream.
pub(crate) fn encoded(frames: &[Vec<u8>]) -> Vec<u8> {
    let with_len = |frame: &Vec<u8>| [&(frame.len() as u32).to_be_bytes(), &frame[..]].concat();
    frames.iter().flat_map(with_len).collect()
}
