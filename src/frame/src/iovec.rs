//! Raw pieces of guest buffers. The only operations on them: copy in, copy out, zero, sum.
//!
//! All accesses are plain byte copies through raw pointers. The guest may write at the same time; it
//! then gets, or sends, bytes of its own making. Nothing read here is used for a decision without
//! having been copied to private memory first.

/// A piece of a buffer that a link lent: address and length for the kernel.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct GuestIovec(libc::iovec);

impl GuestIovec {
    /// An empty piece.
    pub(crate) const EMPTY: Self = Self(libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 });

    /// A piece of `len` bytes at `base`.
    ///
    /// # Safety
    /// The bytes must stay mapped, and not be part of any Rust reference, as long as the lease that
    /// the piece is pushed to lives (see [`ToGuest`](crate::ToGuest), [`FromGuest`](crate::FromGuest)).
    pub const unsafe fn new(base: *mut u8, len: usize) -> Self {
        Self(libc::iovec { iov_base: base.cast(), iov_len: len })
    }

    /// Address of the first byte: for who lent it, to tell where it is.
    pub const fn base(&self) -> *const u8 {
        self.0.iov_base.cast_const().cast()
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        self.0.iov_len
    }

    /// Whether the piece has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.0.iov_len == 0
    }

    /// The piece in two: the first `at` bytes (all, if it is shorter) and the rest.
    pub(crate) fn split_at(self, at: usize) -> (Self, Self) {
        let at = at.min(self.len());
        // SAFETY: `at` is within the piece, so both halves lie within what `new` was promised.
        unsafe {
            let base: *mut u8 = self.0.iov_base.cast();
            (Self::new(base, at), Self::new(base.wrapping_add(at), self.len() - at))
        }
    }

    /// Copies from `bytes` into the piece; returns how many bytes fitted.
    pub(crate) fn copy_in(self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.len());
        // SAFETY: `n` bytes are mapped at the destination (promise of `new`); it is no Rust object,
        // so it cannot overlap `bytes`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.iov_base.cast(), n) };
        n
    }

    /// Copies from the piece into `bytes`; returns how many bytes there were.
    pub(crate) fn copy_out(self, bytes: &mut [u8]) -> usize {
        let n = bytes.len().min(self.len());
        // SAFETY: as in `copy_in`, with the piece as the source.
        unsafe { std::ptr::copy_nonoverlapping(self.0.iov_base.cast(), bytes.as_mut_ptr(), n) };
        n
    }

    /// Writes zeros over the whole piece.
    pub(crate) fn zero(self) {
        // SAFETY: the piece is mapped (promise of `new`).
        unsafe { std::ptr::write_bytes(self.0.iov_base.cast::<u8>(), 0, self.len()) };
    }

    /// Adds the bytes of the piece to `sum`, where they are.
    pub(crate) fn add_to(self, sum: &mut OnesSum) {
        // SAFETY: all bytes are mapped (promise of `new`).
        unsafe { sum.add_raw(self.0.iov_base.cast(), self.len()) };
    }
}

/// The running ones' complement sum of RFC 1071 over pieces of any length.
///
/// A piece is summed as words in the machine's byte order; the folded sum is then put into network
/// order, and turned once more when the piece starts at an odd offset (RFC 1071, section 2 (B)).
#[derive(Clone, Copy, Debug, Default)]
pub struct OnesSum {
    sum: u64,
    odd: bool,
}

impl OnesSum {
    /// A sum that starts with `partial`, a sum of big-endian 16-bit words not yet folded.
    pub fn new(partial: u32) -> Self {
        Self { sum: u64::from(partial), odd: false }
    }

    /// Adds bytes; a piece may start and end at an odd offset.
    pub fn add(&mut self, bytes: &[u8]) {
        // SAFETY: a slice is mapped.
        unsafe { self.add_raw(bytes.as_ptr(), bytes.len()) };
    }

    /// Adds `len` bytes at `base`, which may change while they are read.
    ///
    /// # Safety
    /// They are mapped.
    unsafe fn add_raw(&mut self, base: *const u8, len: usize) {
        // SAFETY: passed on.
        let native = unsafe { native_sum(base, len) };
        let word = fold(native).to_be();
        self.sum += u64::from(if self.odd { word.swap_bytes() } else { word });
        self.odd ^= !len.is_multiple_of(2);
    }

    /// The sum folded to 16 bits, not complemented.
    pub fn folded(self) -> u16 {
        fold(self.sum)
    }

    /// The checksum: complement of the folded sum.
    pub fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// Folds carries back in until 16 bits are left.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Shorter pieces, headers among them, are not worth the look for wider registers.
#[cfg(target_arch = "x86_64")]
const WIDE_BYTES: usize = 256;

/// Sum of `len` bytes at `base` as words in the machine's byte order, not folded.
///
/// # Safety
/// The bytes are mapped.
unsafe fn native_sum(base: *const u8, len: usize) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if len >= WIDE_BYTES && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2; the bytes are mapped.
        return unsafe { native_sum_avx2(base, len) };
    }
    // SAFETY: passed on.
    unsafe { native_sum_of_words(base, len) }
}

/// [`native_sum_of_words`], compiled for registers of 32 bytes.
///
/// # Safety
/// The processor has AVX2, and the bytes are mapped.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn native_sum_avx2(base: *const u8, len: usize) -> u64 {
    // SAFETY: passed on.
    unsafe { native_sum_of_words(base, len) }
}

/// The loop, in a form that compilers turn into vector instructions. 32-bit words in 64-bit lanes:
/// no piece is long enough to overflow.
///
/// # Safety
/// The bytes are mapped.
#[inline(always)]
unsafe fn native_sum_of_words(base: *const u8, len: usize) -> u64 {
    let mut lanes = [0u64; 16];
    let blocks = len / 64;
    for block in 0..blocks {
        // SAFETY: `block` ends before `len`.
        let words: [u32; 16] = unsafe { base.add(64 * block).cast::<[u32; 16]>().read_unaligned() };
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(word);
        }
    }
    let mut sum: u64 = lanes.iter().sum();
    let (mut at, rest) = (64 * blocks, len % 64);
    for _ in 0..rest / 2 {
        // SAFETY: two bytes before `len`.
        sum += u64::from(unsafe { base.add(at).cast::<u16>().read_unaligned() });
        at += 2;
    }
    if !rest.is_multiple_of(2) {
        // SAFETY: the last byte, in a word whose other byte is beyond the end and counts as zero.
        sum += u64::from(u16::from_ne_bytes([unsafe { base.add(at).read() }, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc1071_section_3_example() {
        let mut sum = OnesSum::default();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
    }

    /// The sum as RFC 1071, section 4.1 writes it.
    fn by_the_book(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|pair| {
            u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
        });
        fold(words.sum())
    }

    #[test]
    fn all_lengths_at_all_alignments_sum_as_by_the_book() {
        let bytes: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(i) / 3 + i) as u8).collect();
        let lengths = (0..600).chain([4095, 65_483, 65_535]);
        for len in lengths {
            for start in [0, 1, 2, 3, 7, 31] {
                let bytes = &bytes[start..start + len];
                let mut sum = OnesSum::default();
                sum.add(bytes);
                assert_eq!(sum.folded(), by_the_book(bytes), "{len} bytes from {start}");
                // SAFETY: a slice is mapped.
                let narrow = unsafe { native_sum_of_words(bytes.as_ptr(), bytes.len()) };
                assert_eq!(fold(narrow).to_be(), by_the_book(bytes), "{len} bytes, narrow");
            }
        }
        let mut ones = OnesSum::default();
        ones.add(&vec![0xff; 1 << 20]);
        assert_eq!(ones.folded(), 0xffff, "no carry is lost");
    }

    #[test]
    fn pieces_of_any_length_give_the_same_sum() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7 + 3) as u8).collect();
        let mut whole = OnesSum::default();
        whole.add(&bytes);
        for cut in 0..bytes.len() {
            let mut parts = OnesSum::default();
            parts.add(&bytes[..cut]);
            parts.add(&bytes[cut..]);
            assert_eq!(parts.folded(), whole.folded(), "cut at {cut}");
        }
    }
}
