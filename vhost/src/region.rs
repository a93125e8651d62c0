//! Regions of guest memory as a front-end describes them (vhost-user, "memory region description"), and why
//! one is refused.

use thiserror::Error;

/// Most regions a front-end may map: what GET_MAX_MEM_SLOTS answers.
pub(crate) const MAX_REGIONS: usize = 64;

/// A region as a front-end describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionSpec {
    /// Guest physical address of the first byte.
    pub(crate) guest: u64,
    /// Length in bytes.
    pub(crate) len: u64,
    /// Address of the first byte in the front-end's own address space.
    pub(crate) user: u64,
    /// Offset of the first byte in the file.
    pub(crate) offset: u64,
}

/// Why memory was refused.
#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    /// The region has no bytes.
    #[error("region at {0:#x} is empty")]
    Empty(u64),
    /// An end of the region is beyond 2^64.
    #[error("region at {0:#x} overflows its address range")]
    Overflow(u64),
    /// The descriptor is not one of a file that can be mapped.
    #[error("region at {0:#x} comes with a descriptor that is not a file")]
    NotAFile(u64),
    /// The file ends before the region.
    #[error("region at {guest:#x} needs {needed} bytes of a file of {size}")]
    ShortFile {
        /// Guest physical address of the region.
        guest: u64,
        /// Bytes that the file would need.
        needed: u64,
        /// Bytes that the file has.
        size: u64,
    },
    /// mmap(2) failed; a read-only file ends here.
    #[error("region at {guest:#x} cannot be mapped for reading and writing: {error}")]
    Map {
        /// Guest physical address of the region.
        guest: u64,
        /// What vm-memory reports.
        error: String,
    },
    /// Two regions share addresses.
    #[error("regions at {0:#x} and {1:#x} overlap")]
    Overlap(u64, u64),
    /// More regions than slots.
    #[error("more than {MAX_REGIONS} regions")]
    TooMany,
    /// A region to be removed is not there.
    #[error("no region at {0:#x} like the one to remove")]
    Unknown(u64),
}

impl RegionSpec {
    /// Checks that no end of the region overflows; returns the bytes that its file must have.
    ///
    /// # Errors
    /// [`MemoryError::Empty`] and [`MemoryError::Overflow`].
    pub(crate) fn check(&self) -> Result<u64, MemoryError> {
        if self.len == 0 {
            return Err(MemoryError::Empty(self.guest));
        }
        let overflow = || MemoryError::Overflow(self.guest);
        self.guest.checked_add(self.len).ok_or_else(overflow)?;
        self.user.checked_add(self.len).ok_or_else(overflow)?;
        let needed = self.offset.checked_add(self.len).ok_or_else(overflow)?;
        i64::try_from(needed).map_err(|_| overflow())?;
        Ok(needed)
    }

    /// Whether `other` names this region to remove it: the offset does not count.
    pub(crate) fn is_named_by(&self, other: &Self) -> bool {
        self.guest == other.guest && self.user == other.user && self.len == other.len
    }
}
