//! Pipes for splice(2): bytes pass from socket to socket as references to the kernel's own pages.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};

use crate::Errno;

/// What a pipe has without asking, unless the user's quota is used up.
const LEAST_BYTES: u32 = 64 * 1024;

/// A pipe and its capacity.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes that it can hold.
    capacity: u32,
}

impl Pipe {
    /// A pipe that holds `capacity` bytes, or the largest half, quarter ... of it that the kernel grants:
    /// there is a limit for each pipe and a quota for each user (pipe(7)).
    ///
    /// # Errors
    /// What pipe2(2) reports.
    pub fn new(capacity: u32) -> Result<Self, Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let granted = std::iter::successors(Some(capacity), |size| Some(size / 2))
            .take_while(|size| *size >= LEAST_BYTES)
            .find_map(|size| fcntl_setpipe_size(&write, size as usize).ok());
        let granted = granted.map_or_else(|| fcntl_getpipe_size(&write), Ok)?;
        Ok(Self { read, write, capacity: u32::try_from(granted).unwrap_or(u32::MAX) })
    }

    /// Bytes that it can hold.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Copies bytes into the pipe; returns how many. All of them, if it is empty and holds so many.
    ///
    /// # Errors
    /// What write(2) reports.
    pub fn store(&self, bytes: &[u8]) -> Result<u32, Errno> {
        rustix::io::write(&self.write, bytes).map(|written| written as u32)
    }

    /// Moves bytes from a socket into the pipe; 0 is the end of the stream.
    ///
    /// # Errors
    /// `AGAIN` when the socket has none or the pipe is full, else what splice(2) reports.
    pub fn fill(&self, from: BorrowedFd<'_>) -> Result<u32, Errno> {
        transfer(from, self.write.as_fd(), self.capacity)
    }

    /// Moves up to `bytes` bytes from the pipe to a socket.
    ///
    /// # Errors
    /// `AGAIN` when the socket is full, else what splice(2) reports.
    pub fn drain(&self, to: BorrowedFd<'_>, bytes: u32) -> Result<u32, Errno> {
        transfer(self.read.as_fd(), to, bytes)
    }
}

impl AsFd for Pipe {
    /// The end to read from, for what is to be copied out of the pipe.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

fn transfer(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: u32) -> Result<u32, Errno> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    splice(from, None, to, None, bytes as usize, flags).map(|moved| moved as u32)
}
