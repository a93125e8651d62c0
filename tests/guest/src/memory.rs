//! Guest memory: a memfd that both sides map.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use rustix::fs::MemfdFlags;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

/// Where the front-end pretends to have mapped the guest's memory: user address of guest address 0.
pub const USER_BASE: u64 = 0x7f00_0000_0000;

/// Memory of a guest, at guest addresses from 0.
pub struct GuestMemory {
    file: File,
    map: GuestMemoryMmap,
    len: u64,
}

impl GuestMemory {
    /// Memory of `len` bytes.
    pub fn new(len: u64) -> Self {
        let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).expect("memfd");
        let file = File::from(file);
        file.set_len(len).expect("ftruncate");
        let shared = FileOffset::new(file.try_clone().expect("dup"), 0);
        let range = (GuestAddress(0), len as usize, Some(shared));
        let map = GuestMemoryMmap::from_ranges_with_files([range]).expect("mmap");
        Self { file, map, len }
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

    /// Writes bytes.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.map.write_slice(bytes, GuestAddress(at)).expect("write within guest memory");
    }

    /// Reads bytes.
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.map.read_slice(&mut bytes, GuestAddress(at)).expect("read within guest memory");
        bytes
    }

    /// Stores a 16-bit field of a ring.
    pub fn store_u16(&self, at: u64, value: u16) {
        let order = Ordering::Release;
        self.map.store(value.to_le(), GuestAddress(at), order).expect("store in guest memory");
    }

    /// Loads a 16-bit field of a ring.
    pub fn load_u16(&self, at: u64) -> u16 {
        let value: u16 =
            self.map.load(GuestAddress(at), Ordering::Acquire).expect("load from guest memory");
        u16::from_le(value)
    }
}
