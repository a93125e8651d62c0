//! The front-end's side of the dirty log.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::MemfdFlags;

/// Bytes of guest memory for each bit.
pub const PAGE: u64 = 4096;

/// A log that the back-end marks written pages in.
pub struct DirtyLog {
    file: File,
    len: u64,
}

impl DirtyLog {
    /// A log for `memory_bytes` bytes of guest memory from address 0.
    pub fn new(memory_bytes: u64) -> Self {
        let len = memory_bytes.div_ceil(8 * PAGE);
        let file = rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC).expect("memfd");
        let file = File::from(file);
        file.set_len(len).expect("ftruncate");
        Self { file, len }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memfd.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The memfd as a file, to resize it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Takes the numbers of the marked pages out of the log.
    pub fn take(&self) -> BTreeSet<u64> {
        let mut bytes = vec![0; self.len as usize];
        self.file.read_exact_at(&mut bytes, 0).expect("the log's bytes");
        self.file.write_all_at(&vec![0; bytes.len()], 0).expect("room for the log's bytes");
        (0..8 * self.len)
            .filter(|&page| bytes[page as usize / 8] & (1 << (page % 8)) != 0)
            .collect()
    }
}
