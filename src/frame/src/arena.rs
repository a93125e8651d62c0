//! Private buffers that a link lends: for links whose frames do not lie in a guest's memory.
//!
//! The bytes are written by the kernel and through the pieces that were lent, so no reference to
//! them ever exists; and they are never freed, so no piece can outlive them. A link lives as long as
//! the program, and its arena is reserved once: pages that no frame has touched take no memory.

use std::cell::Cell;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::to_guest::last_errno;
use crate::{Errno, GuestIovec};

/// A buffer of fixed size. All ranges are in bytes from its start; one that reaches beyond its end is
/// a defect of the link and panics.
#[derive(Clone, Copy)]
pub struct Arena {
    cells: &'static [Cell<u8>],
}

impl Arena {
    /// Reserves `bytes` bytes for the rest of the program's life.
    pub fn new(bytes: usize) -> Self {
        Self { cells: Cell::from_mut(vec![0; bytes].leak()).as_slice_of_cells() }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether it has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// A piece to put into a frame.
    pub fn lend(&self, range: Range<usize>) -> GuestIovec {
        let cells = &self.cells[range];
        // SAFETY: the bytes are mapped until the program ends, and in cells: shared references to
        // them do not promise that they stay the same.
        unsafe { GuestIovec::new(cells.as_ptr().cast::<u8>().cast_mut(), cells.len()) }
    }

    /// Copies `bytes` to offset `at`.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        self.lend(at..at + bytes.len()).copy_in(bytes);
    }

    /// Fills `bytes` from offset `at` on.
    pub fn read(&self, at: usize, bytes: &mut [u8]) {
        self.lend(at..at + bytes.len()).copy_out(bytes);
    }

    /// Copies the bytes of `from` to offset `to`; both may overlap.
    pub fn copy_within(&self, from: Range<usize>, to: usize) {
        let (source, target) = (&self.cells[from.clone()], &self.cells[to..to + from.len()]);
        // SAFETY: both are as long as `from`, and in cells, which may be written through shared
        // references; copy allows overlap.
        unsafe {
            let target = target.as_ptr().cast::<u8>().cast_mut();
            std::ptr::copy(source.as_ptr().cast::<u8>(), target, source.len());
        }
    }

    /// Receives into `range` with one recv(2) that does not wait. Returns how many bytes came; 0 says
    /// that the peer has closed the connection.
    ///
    /// # Errors
    /// What recv(2) reports.
    pub fn recv(&self, socket: BorrowedFd<'_>, range: Range<usize>) -> Result<usize, Errno> {
        let cells = &self.cells[range];
        let base = cells.as_ptr().cast::<libc::c_void>().cast_mut();
        // SAFETY: the kernel writes no more than the cells that `base` points to.
        let n = unsafe { libc::recv(socket.as_raw_fd(), base, cells.len(), libc::MSG_DONTWAIT) };
        usize::try_from(n).map_err(|_| last_errno())
    }

    /// Sends the bytes of `range` with one send(2) that does not wait. Returns how many the kernel took.
    ///
    /// # Errors
    /// What send(2) reports.
    pub fn send(&self, socket: BorrowedFd<'_>, range: Range<usize>) -> Result<usize, Errno> {
        let cells = &self.cells[range];
        let base = cells.as_ptr().cast::<libc::c_void>();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the kernel reads no more than the cells that `base` points to.
        let n = unsafe { libc::send(socket.as_raw_fd(), base, cells.len(), flags) };
        usize::try_from(n).map_err(|_| last_errno())
    }

    /// Fills `range` with one read(2); returns how many bytes came.
    ///
    /// # Errors
    /// What read(2) reports.
    pub fn fill_from(&self, fd: BorrowedFd<'_>, range: Range<usize>) -> Result<usize, Errno> {
        let cells = &self.cells[range];
        let base = cells.as_ptr().cast::<libc::c_void>().cast_mut();
        // SAFETY: the kernel writes no more than the cells that `base` points to.
        let n = unsafe { libc::read(fd.as_raw_fd(), base, cells.len()) };
        usize::try_from(n).map_err(|_| last_errno())
    }

    /// Hands over `range` with one write(2); returns how many bytes the kernel took.
    ///
    /// # Errors
    /// What write(2) reports.
    pub fn drain_to(&self, fd: BorrowedFd<'_>, range: Range<usize>) -> Result<usize, Errno> {
        let cells = &self.cells[range];
        // SAFETY: the kernel reads no more than the cells that the pointer points to.
        let n = unsafe { libc::write(fd.as_raw_fd(), cells.as_ptr().cast(), cells.len()) };
        usize::try_from(n).map_err(|_| last_errno())
    }
}

/// Bytes that the other end of a unix socket has not read, with what the kernel needs for each piece of them (unix(7),
/// `SIOCOUTQ`): 0 exactly when it has read all.
///
/// # Errors
/// What ioctl(2) reports.
pub fn unread_bytes(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one integer, a live local.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if rc == 0 { Ok(bytes.max(0).unsigned_abs().into()) } else { Err(last_errno()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_move_between_arena_socket_and_pieces() {
        let arena = Arena::new(64);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(arena.recv(ours.as_fd(), 0..8), Err(Errno::AGAIN));
        theirs.write_all(b"abcdef").unwrap();
        assert_eq!(arena.recv(ours.as_fd(), 8..40), Ok(6));
        arena.copy_within(8..14, 10);
        arena.write(8, b"xy");
        assert_eq!(arena.send(ours.as_fd(), 8..16), Ok(8));
        let mut found = [0; 8];
        theirs.read_exact(&mut found).unwrap();
        assert_eq!(&found, b"xyabcdef");
        arena.lend(0..2).copy_in(b"12");
        arena.read(0, &mut found[..2]);
        assert_eq!(&found[..2], b"12");
        drop(theirs);
        assert_eq!(arena.recv(ours.as_fd(), 0..8), Ok(0));
    }

    #[test]
    fn what_the_other_end_has_not_read_is_known() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(unread_bytes(ours.as_fd()), Ok(0));
        ours.write_all(&[0; 1000]).unwrap();
        assert!(unread_bytes(ours.as_fd()).unwrap() >= 1000);
        theirs.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(unread_bytes(ours.as_fd()), Ok(0));
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(unread_bytes(reader.as_fd()), Err(Errno::NOTTY));
    }

    #[test]
    fn bytes_pass_through_a_descriptor() {
        let arena = Arena::new(64);
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        arena.write(4, b"frame");
        assert_eq!(arena.drain_to(writer.as_fd(), 4..9), Ok(5));
        assert_eq!(arena.fill_from(reader.as_fd(), 20..60), Ok(5));
        let mut found = [0; 5];
        arena.read(20, &mut found);
        assert_eq!(&found, b"frame");
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn a_range_beyond_the_end_is_no_piece() {
        let _ = Arena::new(64).lend(60..65);
    }
}
