//! What was taken from the client's socket without being copied: a pipe, which holds references to the
//! pages in which the kernel keeps the stream.
//!
//! A payload that goes on to a stream socket is moved there from the pipe (splice(2)) and never copied at
//! all; what has to be looked at is read from it. The pipe is made when it is needed for the first time.
//! Where it cannot be had, or the socket cannot be moved from, there is no backlog, and the socket is
//! read as any.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use passt_frame::{Arena, Errno, Pipe};

/// Bytes that the pipe is asked to hold. A pipe counts pages, of which the kernel fills some
/// with less than they hold.
const PIPE_BYTES: u32 = 1 << 20;

/// Bytes that lie between the socket and its reader.
#[derive(Default)]
pub(crate) struct Backlog {
    pipe: Option<Pipe>,
    bytes: usize,
    /// There is no way to have one with this socket.
    refused: bool,
}

impl Backlog {
    /// Bytes in it.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Uses none from now on, for as long as the socket is the same. Not while something is in it.
    pub(crate) fn refuse(&mut self) {
        *self = Self { refused: true, ..Self::default() };
    }

    /// Whether there is one. Makes it at the first time.
    pub(crate) fn is_usable(&mut self) -> bool {
        if self.pipe.is_none() && !self.refused {
            match Pipe::new(PIPE_BYTES) {
                Ok(pipe) => self.pipe = Some(pipe),
                Err(errno) => {
                    log::debug!("client socket: no pipe: {errno}");
                    self.refuse();
                }
            }
        }
        self.pipe.is_some()
    }

    /// Takes what `socket` has, as far as there is room; returns how many bytes came. 0 is the end of the
    /// stream.
    ///
    /// # Errors
    /// `AGAIN` when the socket has nothing, or there is no room. What splice(2) reports.
    pub(crate) fn fill(&mut self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        let pipe = self.pipe.as_ref().ok_or(Errno::INVAL)?;
        let bytes = pipe.fill(socket)? as usize;
        self.bytes += bytes;
        Ok(bytes)
    }

    /// Copies the first bytes to `range` of `arena`; returns how many.
    ///
    /// # Errors
    /// What read(2) reports, which is nothing if `range` is no longer than what is there.
    pub(crate) fn read(&mut self, arena: &Arena, range: Range<usize>) -> Result<usize, Errno> {
        let pipe = self.pipe.as_ref().ok_or(Errno::INVAL)?;
        let bytes = arena.fill_from(pipe.as_fd(), range)?;
        self.bytes -= bytes;
        Ok(bytes)
    }

    /// Moves the first `bytes` bytes on to `socket`, as far as it takes them; returns how many.
    ///
    /// # Errors
    /// `AGAIN` when it takes none. What splice(2) reports.
    pub(crate) fn drain(&mut self, socket: BorrowedFd<'_>, bytes: usize) -> Result<usize, Errno> {
        let pipe = self.pipe.as_ref().ok_or(Errno::INVAL)?;
        let moved = pipe.drain(socket, bytes as u32)? as usize;
        self.bytes -= moved;
        Ok(moved)
    }
}
