//! The dirty log: which pages of guest memory we have written, for a front-end that copies the memory of a guest
//! while it runs (vhost-user, "Migration").
//!
//! # Theory of operation
//! The front-end shares a file (SET_LOG_BASE) that has one bit for each page of [`PAGE`] bytes of guest physical
//! address space, the lowest bit of the first byte for page 0. It clears bits as it copies the pages, so a bit is set
//! after the page was written, by an atomic operation that orders the two. It reads the log for the last time when
//! the rings have stopped; what is used is published then, at the latest.
//!
//! Logging is on while `VHOST_F_LOG_ALL` is acknowledged and there is a log. What is marked:
//!
//! | what | when, where |
//! |---|---|
//! | bytes of a frame to the guest, and its virtio header, whoever wrote them | when the frame is committed, `rx` |
//! | the answer to a command | when it is written, `command` |
//! | used elements and the used index | when they are published, `ring` |
//! | the used ring's flags and its event index | when they are written, `ring` |
//!
//! Buffers that were lent, and perhaps written, but not used, are not marked: they are still the device's, and a
//! driver does not read them (virtio 1.2, section 2.7.8).
//!
//! The used ring's place in the log is the one that came with SET_VRING_ADDR and `VHOST_VRING_F_LOG`; without that
//! flag it is the ring's own place, for a page too many is harmless and one too few is not.
//!
//! While logging is off, nothing is paid but a branch for each publication and each commit.
//!
//! # A log that is too small
//! It has to cover all memory when it is set, and all new memory while logging is on. A page beyond it, which is a
//! place that the front-end made up, cannot be marked; like a log whose file shrinks, it ends the connection, for a
//! guest that moves without that page is worse than one that does not move.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::FileType;
use thiserror::Error;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::mem::{Guard, Memory};
use crate::notice::signal;

/// Bytes of guest memory for each bit (vhost-user, `VHOST_LOG_PAGE`).
const PAGE: u64 = 4096;

/// Why a log was refused.
#[derive(Debug, Error)]
pub(crate) enum LogError {
    /// The descriptor is not one of a file that can be mapped.
    #[error("dirty log: the descriptor is not that of a file")]
    NotAFile,
    /// It has no bytes, or ends beyond the address space.
    #[error("dirty log: {0} bytes")]
    Length(u64),
    /// The file ends before the log.
    #[error("dirty log: it needs {needed} bytes of a file of {size}")]
    ShortFile {
        /// Bytes that the file would need.
        needed: u64,
        /// Bytes that the file has.
        size: u64,
    },
    /// mmap(2) failed; a read-only file and an odd offset end here.
    #[error("dirty log: it cannot be mapped for reading and writing: {0}")]
    Map(String),
    /// As many mappings as can be guarded.
    #[error("dirty log: too many mappings")]
    TooMany,
    /// fcntl(2) failed for the descriptor of SET_LOG_FD.
    #[error("dirty log: its descriptor for notices: {0}")]
    Call(std::io::Error),
    /// Pages without a bit.
    #[error("dirty log: its {bytes} bytes are for memory up to {}, but memory ends at {end:#x}", bytes.saturating_mul(8 * PAGE))]
    TooSmall {
        /// Bytes of the log.
        bytes: u64,
        /// The first address behind memory.
        end: u64,
    },
}

/// A log that a front-end shares.
pub(crate) struct DirtyLog {
    /// Before the mapping: it is given up first.
    guard: Guard,
    bits: MmapRegion<()>,
    /// Something was marked since the front-end was told.
    news: Cell<bool>,
    /// A page could not be marked.
    overrun: Cell<bool>,
}

impl DirtyLog {
    /// Maps `len` bytes of `file` from `offset`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn map(file: File, len: u64, offset: u64) -> Result<Self, LogError> {
        let _ = rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC);
        let stat = rustix::fs::fstat(&file).map_err(|_| LogError::NotAFile)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(LogError::NotAFile);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let bytes = usize::try_from(len).ok().filter(|&bytes| bytes > 0);
        let bytes = bytes.ok_or(LogError::Length(len))?;
        let needed = len.checked_add(offset).ok_or(LogError::Length(len))?;
        if size < needed {
            return Err(LogError::ShortFile { needed, size });
        }
        let bits = MmapRegion::from_file(FileOffset::new(file, offset), bytes)
            .map_err(|error| LogError::Map(error.to_string()))?;
        let guard = Guard::new(&bits).ok_or(LogError::TooMany)?;
        Ok(Self { guard, bits, news: Cell::new(false), overrun: Cell::new(false) })
    }

    /// Checks that there is a bit for all memory.
    fn check(&self, memory: &Memory) -> Result<(), LogError> {
        let (bytes, end) = (self.bits.size() as u64, memory.end());
        if end.div_ceil(PAGE) > bytes.saturating_mul(8) {
            return Err(LogError::TooSmall { bytes, end });
        }
        Ok(())
    }

    /// Why the log is of no use any more.
    fn trouble(&self) -> Option<&'static str> {
        if self.guard.is_lost() {
            Some("the file of its dirty log shrank")
        } else if self.overrun.get() {
            Some("a page beyond its dirty log was written")
        } else {
            None
        }
    }

    /// Marks `len` bytes at guest address `guest`, which were written.
    pub(crate) fn mark(&self, guest: u64, len: u64) {
        let Some(more) = len.checked_sub(1) else { return };
        self.news.set(true);
        let pages = guest.checked_add(more).map(|last| guest / PAGE..=last / PAGE);
        let marked = pages.is_some_and(|mut pages| pages.all(|page| self.set(page)));
        if !marked {
            self.overrun.set(true);
        }
    }

    /// The same for bytes at an address of ours.
    pub(crate) fn mark_host(&self, memory: &Memory, host: *const u8, len: usize) {
        match memory.guest_of_host(host) {
            Some(guest) => self.mark(guest, len as u64),
            None => self.overrun.set(true),
        }
    }

    /// Sets the bit of a page; false when it has none.
    fn set(&self, page: u64) -> bool {
        let Ok(at) = usize::try_from(page / 8) else { return false };
        let Ok(byte) = self.bits.get_atomic_ref::<AtomicU8>(at) else { return false };
        // The page was written before, and the front-end clears the bit before it reads the page.
        byte.fetch_or(1 << (page % 8), Ordering::SeqCst);
        true
    }
}

/// Where the used ring of a vring is in the log.
#[derive(Clone)]
pub(crate) struct UsedLog {
    log: Rc<DirtyLog>,
    at: u64,
}

impl UsedLog {
    /// The used ring is at `at` in guest memory.
    pub(crate) fn new(log: Rc<DirtyLog>, at: u64) -> Self {
        Self { log, at }
    }

    fn mark(&self, offset: u64, len: u64) {
        self.log.mark(self.at.saturating_add(offset), len);
    }

    /// Flags were written.
    pub(crate) fn flags(&self) {
        self.mark(0, 2);
    }

    /// The used index was written, and the elements from `first` up to it, in a ring of `size` entries.
    pub(crate) fn published(&self, size: u16, first: u16, index: u16) {
        let slots = u64::from(size);
        // More than there are if the driver makes chains available that it has not got back.
        let count = u64::from(index.wrapping_sub(first)).min(slots);
        let start = u64::from(first) % slots;
        let before_end = count.min(slots - start);
        self.mark(2, 2);
        self.mark(4 + 8 * start, 8 * before_end);
        self.mark(4, 8 * (count - before_end));
    }

    /// The event index behind a ring of `size` entries was written.
    pub(crate) fn event(&self, size: u16) {
        self.mark(4 + 8 * u64::from(size), 2);
    }
}

/// What the front-end has said of logging.
#[derive(Default)]
pub(crate) struct Logging {
    log: Option<Rc<DirtyLog>>,
    /// Written when something was marked.
    call: Option<OwnedFd>,
    /// `VHOST_F_LOG_ALL` is acknowledged.
    wanted: bool,
}

impl Logging {
    /// The log, while logging is on.
    pub(crate) fn active(&self) -> Option<&Rc<DirtyLog>> {
        self.log.as_ref().filter(|_| self.wanted)
    }

    /// SET_LOG_BASE. The log before it is unmapped when no ring uses it any more.
    ///
    /// # Errors
    /// What is wrong with the log.
    pub(crate) fn set_log(
        &mut self,
        memory: &Memory,
        file: File,
        (len, offset): (u64, u64),
    ) -> Result<(), LogError> {
        let log = DirtyLog::map(file, len, offset)?;
        log.check(memory)?;
        self.log = Some(Rc::new(log));
        Ok(())
    }

    /// SET_LOG_FD.
    pub(crate) fn set_call(&mut self, call: OwnedFd) {
        self.call = Some(call);
    }

    /// Whether `VHOST_F_LOG_ALL` is acknowledged.
    pub(crate) fn set_wanted(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    /// Checks that the log is large enough for other memory, if logging is on.
    ///
    /// # Errors
    /// [`LogError::TooSmall`].
    pub(crate) fn check(&self, memory: &Memory) -> Result<(), LogError> {
        self.active().map_or(Ok(()), |log| log.check(memory))
    }

    /// Why the log is of no use any more.
    pub(crate) fn trouble(&self) -> Option<&'static str> {
        self.active().and_then(|log| log.trouble())
    }

    /// Tells the front-end that something was marked, if it wants to know.
    pub(crate) fn tell(&mut self) {
        if self.call.is_some() && self.active().is_some_and(|log| log.news.take()) {
            signal(&mut self.call);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn log(len: u64) -> (Rc<DirtyLog>, File) {
        let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(len + 4096).unwrap();
        (Rc::new(DirtyLog::map(file.try_clone().unwrap(), len, 0).unwrap()), file)
    }

    /// Numbers of the pages whose bits are set, which are cleared.
    fn take(file: &File) -> Vec<u64> {
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, 0).unwrap();
        file.write_all_at(&[0; 4096], 0).unwrap();
        (0..8 * 4096).filter(|page| bytes[*page as usize / 8] & (1 << (page % 8)) != 0).collect()
    }

    #[test]
    fn each_page_that_bytes_lie_on_is_marked_and_no_other() {
        let (log, file) = log(16);
        for (guest, len, pages) in [
            (0, 0, vec![]),
            (0, 1, vec![0]),
            (4095, 1, vec![0]),
            (4095, 2, vec![0, 1]),
            (4096, 4096, vec![1]),
            (3 * 4096 + 1, 4096, vec![3, 4]),
            (0x7000, 0x3000, vec![7, 8, 9]),
            (127 * 4096, 4096, vec![127]),
        ] {
            log.mark(guest, len);
            assert_eq!(take(&file), pages, "{len} bytes at {guest:#x}");
            assert_eq!(log.trouble(), None);
        }
    }

    #[test]
    fn a_page_beyond_the_log_is_trouble_and_nothing_else_is_written() {
        for (guest, len) in [(128 * 4096, 1), (128 * 4096 - 1, 2), (u64::MAX, 1), (u64::MAX, 2)] {
            let (log, file) = log(16);
            log.mark(guest, len);
            assert!(log.trouble().is_some(), "{guest:#x}");
            assert!(take(&file).iter().all(|&page| page == 127), "{guest:#x}");
        }
    }

    #[test]
    fn the_parts_of_a_used_ring_are_found_where_it_is() {
        let (log, file) = log(16);
        // Elements 0 and 1 at the end of page 2, the others on page 3.
        let used = UsedLog::new(log, 3 * 4096 - 20);
        for (first, index, pages) in [
            (0u16, 0u16, vec![2]),
            (0, 2, vec![2]),
            (0, 3, vec![2, 3]),
            (2, 8, vec![2, 3]),
            (u16::MAX - 1, 1, vec![2, 3]),
            (7, 9, vec![2, 3]),
            (8, 10, vec![2]),
            (0, 8, vec![2, 3]),
            (3, 60_000, vec![2, 3]),
        ] {
            used.published(8, first, index);
            assert_eq!(take(&file), pages, "{first} to {index}");
        }
        // A larger one ends on page 4 (elements from 514 on), and begins anew.
        used.published(1024, 1000, 1024);
        assert_eq!(take(&file), [2, 4]);
        used.published(1024, 1000, 1034);
        assert_eq!(take(&file), [2, 3, 4]);
        used.event(8);
        assert_eq!(take(&file), [3]);
        used.flags();
        assert_eq!(take(&file), [2]);
    }

    #[test]
    fn what_is_no_log_is_refused_by_name() {
        let short = || {
            let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
            file.set_len(8192).unwrap();
            file
        };
        let (pipe, _) = rustix::pipe::pipe().unwrap();
        for (file, len, offset, wanted) in [
            (File::from(pipe), 8, 0, "not that of a file"),
            (short(), 0, 0, "dirty log: 0 bytes"),
            (short(), u64::MAX, 4096, "dirty log: 18446744073709551615 bytes"),
            (short(), 8192, 4096, "it needs 12288 bytes of a file of 8192"),
            (short(), 4096, 1, "cannot be mapped"),
            (File::open("/dev/null").unwrap(), 8, 0, "not that of a file"),
            (File::open("/proc/self/exe").unwrap(), 8, 0, "cannot be mapped"),
        ] {
            let error = DirtyLog::map(file, len, offset).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
