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
    pub const EMPTY: Self = Self(libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 });

    /// A piece of `len` bytes at `base`.
    ///
    /// # Safety
    /// The bytes must stay mapped, and not be part of any Rust reference, as long as the lease that
    /// the piece is pushed to lives (see [`ToGuest`](crate::ToGuest), [`FromGuest`](crate::FromGuest)).
    pub const unsafe fn new(base: *mut u8, len: usize) -> Self {
        Self(libc::iovec { iov_base: base.cast(), iov_len: len })
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
    pub fn split_at(self, at: usize) -> (Self, Self) {
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

    /// Adds the bytes of the piece to `sum`.
    pub(crate) fn add_to(self, sum: &mut OnesSum) {
        let mut chunk = [0u8; 512];
        let mut rest = self;
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(chunk.len());
            let n = head.copy_out(&mut chunk);
            sum.add(&chunk[..n]);
            rest = tail;
        }
    }
}

/// The running ones' complement sum of RFC 1071 over pieces of any length.
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
        let mut bytes = bytes;
        if self.odd
            && let Some((&first, rest)) = bytes.split_first()
        {
            self.sum += u64::from(first);
            self.odd = false;
            bytes = rest;
        }
        let (quads, rest) = bytes.as_chunks::<4>();
        for quad in quads {
            self.sum += u64::from(u32::from_be_bytes(*quad));
        }
        let (pairs, last) = rest.as_chunks::<2>();
        for pair in pairs {
            self.sum += u64::from(u16::from_be_bytes(*pair));
        }
        if let [byte] = last {
            self.sum += u64::from(*byte) << 8;
            self.odd = true;
        }
    }

    /// The sum folded to 16 bits, not complemented.
    pub fn folded(self) -> u16 {
        let mut sum = self.sum;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum: complement of the folded sum.
    pub fn checksum(self) -> u16 {
        !self.folded()
    }
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
