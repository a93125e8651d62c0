//! Private memory for links whose frames pass through the program (a stream socket, a tap device):
//! a fixed range that the kernel fills page by page as it is touched. Like guest memory it is only
//! ever reached through raw pieces, so that the same leases serve all links.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::to_guest::last_errno;
use crate::{Errno, GuestIovec};

/// A fixed range of private memory, zeroed, that takes no room until it is touched.
#[derive(Debug)]
pub struct Arena {
    base: *mut u8,
    len: usize,
}

impl Arena {
    /// An arena of `len` bytes, greater than 0.
    ///
    /// # Errors
    /// What mmap(2) reports.
    pub fn new(len: usize) -> Result<Self, Errno> {
        let (protection, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: the kernel chooses the address, so no other mapping is touched.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, flags) }?;
        Ok(Self { base: base.cast(), len })
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of `range` as a piece to lend. It must not be used once the arena is gone.
    ///
    /// # Panics
    /// When `range` is not within the arena: a mistake of the link.
    pub fn piece(&self, range: Range<usize>) -> GuestIovec {
        assert!(range.start <= range.end && range.end <= self.len, "range within the arena");
        // SAFETY: the bytes are mapped as long as the arena lives, no reference to them is ever
        // made, and a link drops its arena only together with the leases' port.
        unsafe { GuestIovec::new(self.base.wrapping_add(range.start), range.len()) }
    }

    /// Copies `bytes` to the arena from offset `at`.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.piece(at..at + bytes.len()).copy_in(bytes);
    }

    /// Copies from offset `at` of the arena to `bytes`.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn read(&self, at: usize, bytes: &mut [u8]) {
        self.piece(at..at + bytes.len()).copy_out(bytes);
    }

    /// One read(2) from `fd` into `range`; returns the number of bytes.
    ///
    /// # Errors
    /// What read(2) reports.
    ///
    /// # Panics
    /// When `range` is not within the arena.
    pub fn fill_from(&mut self, fd: impl AsFd, range: Range<usize>) -> Result<usize, Errno> {
        let len = range.len();
        let base = self.base.wrapping_add(range.start);
        assert!(range.end <= self.len, "range within the arena");
        // SAFETY: the bytes are mapped and writable, and no reference to them exists.
        let n = unsafe { libc::read(fd.as_fd().as_raw_fd(), base.cast(), len) };
        usize::try_from(n).map_err(|_| last_errno())
    }

    /// One write(2) of `range` to `fd`; returns the number of bytes.
    ///
    /// # Errors
    /// What write(2) reports.
    ///
    /// # Panics
    /// When `range` is not within the arena.
    pub fn drain_to(&self, fd: impl AsFd, range: Range<usize>) -> Result<usize, Errno> {
        let len = range.len();
        let base = self.base.wrapping_add(range.start);
        assert!(range.end <= self.len, "range within the arena");
        // SAFETY: the bytes are mapped, and no reference to them exists.
        let n = unsafe { libc::write(fd.as_fd().as_raw_fd(), base.cast(), len) };
        usize::try_from(n).map_err(|_| last_errno())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and belongs to this value alone.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_passes_through_a_pipe() {
        let mut arena = Arena::new(8192).unwrap();
        arena.write(4090, b"across a page");
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(arena.drain_to(&writer, 4090..4103), Ok(13));
        assert_eq!(arena.fill_from(&reader, 100..200), Ok(13));
        let mut bytes = [0; 13];
        arena.read(100, &mut bytes);
        assert_eq!(&bytes, b"across a page");
    }

    #[test]
    #[should_panic(expected = "range within the arena")]
    fn nothing_beyond_the_end_is_lent() {
        Arena::new(4096).unwrap().piece(4000..4097);
    }
}
