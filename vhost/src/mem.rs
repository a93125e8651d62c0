//! Guest memory: mapping it, finding things in it, and every access to it that is made from user
//! space. The only file of this crate with `unsafe` code, apart from the two `unsafe impl`s.
//!
//! # Rules
//! * Guest memory is never a Rust reference to data: the guest writes it whenever it likes. It is
//!   read by one volatile or atomic load to private memory, and written by copies and stores.
//! * Who holds a pointer into a mapping holds the mapping: [`RingMemory`] keeps the regions its ring
//!   lies in, [`Memory`] keeps all. A pointer to a buffer ([`Span`]) lives no longer than the lease
//!   it is lent to, and a lease borrows the half that keeps the `Memory`.
//!
//! # A file that shrinks
//! A region is checked against the size of its file when it is mapped, but the front-end may
//! truncate the file later. The kernel's own copies (`recvmsg`, `sendmsg`) then fail with `EFAULT`;
//! an access from user space raises SIGBUS. Checking before each access would be a race, and a
//! system call for each access would cost more than the frame. So the signal is handled: a handler,
//! installed once for the process, looks the address up in a table of atomics that lists all guest
//! regions and the dirty log, which is a file of the front-end's, too; it replaces the *whole* region with
//! private zero pages, and marks its slot. The interrupted access is repeated and succeeds, on memory that
//! means nothing; [`Memory::is_lost`] then tells the device to end the connection. The whole region, because one `mmap` call then serves normal and
//! huge pages alike, and because nothing of the connection survives anyway. A SIGBUS at any other
//! address gets the default action: the process ends as it would have without the handler.

use std::cell::Cell;
use std::fs::File;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Once};

use passt_frame::GuestIovec;
use rustix::fs::FileType;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use crate::region::{MAX_REGIONS, MemoryError, RegionSpec};

/// Slots of the table that the SIGBUS handler searches.
const SLOTS: usize = 512;

/// Bytes of a split-ring descriptor (virtio 1.2, section 2.7.5).
pub(crate) const DESCRIPTOR_BYTES: u32 = 16;

/// One mapped region. Unmapped when the last user is gone.
struct Mapping {
    spec: RegionSpec,
    /// Before the region: it is given up first.
    guard: Guard,
    region: Arc<GuestRegionMmap>,
    base: *mut u8,
}

impl Mapping {
    /// Checks `spec` against `file` and maps it.
    fn new(spec: RegionSpec, file: File) -> Result<Self, MemoryError> {
        let guest = spec.guest;
        let needed = spec.check()?;
        let stat = rustix::fs::fstat(&file).map_err(|_| MemoryError::NotAFile(guest))?;
        let _ = rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                if size < needed {
                    return Err(MemoryError::ShortFile { guest, needed, size });
                }
            }
            // Persistent memory (device DAX), for example: it has no size here, and mmap(2) knows what it has.
            FileType::CharacterDevice => {}
            _ => return Err(MemoryError::NotAFile(guest)),
        }
        let failed = |error: String| MemoryError::Map { guest, error };
        let len = usize::try_from(spec.len).map_err(|_| MemoryError::Overflow(guest))?;
        let map = MmapRegion::<()>::from_file(FileOffset::new(file, spec.offset), len)
            .map_err(|error| failed(error.to_string()))?;
        let base = map.as_ptr();
        let guard = Guard::new(&map).ok_or(MemoryError::TooMany)?;
        let region =
            GuestRegionMmap::new(map, GuestAddress(guest)).ok_or(MemoryError::Overflow(guest))?;
        Ok(Self { spec, guard, region: Arc::new(region), base })
    }

    /// Whether this is a region that was mapped of the same file.
    fn is(&self, spec: &RegionSpec, file: &File) -> bool {
        let ours = self.region.file_offset().and_then(|at| identity(at.file()));
        self.spec == *spec && ours.is_some() && ours == identity(file)
    }

    /// Host address of `offset` if `len` bytes from there lie within the region.
    fn host(&self, offset: u64, len: u64) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        (end <= self.spec.len).then(|| self.base.wrapping_add(offset as usize))
    }
}

/// What two descriptors of the same file have in common.
fn identity(file: &File) -> Option<(u64, u64)> {
    rustix::fs::fstat(file).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// A piece of a guest buffer in our address space.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    base: *mut u8,
    len: u32,
}

impl Span {
    /// Length in bytes.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// The first `at` bytes (all, if it is shorter) and the rest.
    pub(crate) fn split_at(self, at: u32) -> (Self, Self) {
        let at = at.min(self.len);
        let rest = self.base.wrapping_add(at as usize);
        (Self { base: self.base, len: at }, Self { base: rest, len: self.len - at })
    }

    /// The piece in the form in which a lease takes it.
    pub(crate) fn lend(self) -> GuestIovec {
        // SAFETY: a span lies in a region that the half's `Memory` keeps; only control messages replace it,
        // and they need the device through `&mut`, which a lease excludes (see the `unsafe impl`s in rx.rs,
        // tx.rs and queue.rs).
        unsafe { GuestIovec::new(self.base, self.len as usize) }
    }

    /// Address of its first byte in our address space: to tell where it is, not to use it.
    pub(crate) fn base(&self) -> *const u8 {
        self.base
    }

    /// Copies from the piece into `bytes`; returns how many bytes there were.
    pub(crate) fn read(self, bytes: &mut [u8]) -> usize {
        let n = bytes.len().min(self.len as usize);
        // SAFETY: `n` bytes are mapped at `base`, see `lend`; `bytes` is private memory.
        unsafe { std::ptr::copy_nonoverlapping(self.base, bytes.as_mut_ptr(), n) };
        n
    }

    /// Copies from `bytes` into the piece; returns how many bytes fitted.
    pub(crate) fn write(self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.len as usize);
        // SAFETY: as in `read`, the other way.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base, n) };
        n
    }
}

/// All memory of a guest: regions sorted by guest address, none overlapping.
#[derive(Default)]
pub(crate) struct Memory {
    regions: Vec<Rc<Mapping>>,
    /// Guest addresses and lengths of regions that were removed, the latest ones, whether or not something is there again.
    removed: Vec<(u64, u64)>,
    /// Index of the region that was hit last: most guests use one.
    last: Cell<usize>,
}

impl Memory {
    /// Maps a whole table, as SET_MEM_TABLE brings it.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(crate) fn map_table(table: Vec<(RegionSpec, File)>) -> Result<Self, MemoryError> {
        let mut regions = Vec::with_capacity(table.len());
        for (spec, file) in table {
            regions.push(Rc::new(Mapping::new(spec, file)?));
        }
        Self::from_regions(regions, Vec::new())
    }

    /// The same memory with one region more (ADD_MEM_REG).
    ///
    /// # Errors
    /// What is wrong with the region.
    pub(crate) fn with_region(&self, spec: RegionSpec, file: File) -> Result<Self, MemoryError> {
        let mut regions = self.regions.clone();
        if regions.len() >= MAX_REGIONS {
            return Err(MemoryError::TooMany);
        }
        regions.push(Rc::new(Mapping::new(spec, file)?));
        Self::from_regions(regions, self.removed.clone())
    }

    /// Whether there is a region like this already, of the same file.
    pub(crate) fn has_region(&self, spec: &RegionSpec, file: &File) -> bool {
        self.regions.iter().any(|region| region.is(spec, file))
    }

    /// The same memory with one region less (REM_MEM_REG): guest address, user address and length
    /// name it, the offset does not count.
    ///
    /// # Errors
    /// [`MemoryError::Unknown`] when there is no such region.
    pub(crate) fn without_region(&self, spec: &RegionSpec) -> Result<Self, MemoryError> {
        let mut regions = self.regions.clone();
        regions.retain(|region| !region.spec.is_named_by(spec));
        if regions.len() == self.regions.len() {
            return Err(MemoryError::Unknown(spec.guest));
        }
        let removed = (spec.guest, spec.len);
        let others = self.removed.iter().copied().filter(|&other| other != removed);
        let removed = [removed].into_iter().chain(others).take(MAX_REGIONS).collect();
        Self::from_regions(regions, removed)
    }

    /// Whether some of these bytes were in a region that was removed: another may be added in its place.
    pub(crate) fn was_removed(&self, guest: u64, len: u32) -> bool {
        let end = guest.saturating_add(u64::from(len));
        self.removed.iter().any(|&(start, len)| guest < start + len && start < end)
    }

    fn from_regions(
        mut regions: Vec<Rc<Mapping>>,
        removed: Vec<(u64, u64)>,
    ) -> Result<Self, MemoryError> {
        if regions.len() > MAX_REGIONS {
            return Err(MemoryError::TooMany);
        }
        check_overlap(&mut regions, |spec| spec.user)?;
        check_overlap(&mut regions, |spec| spec.guest)?;
        Ok(Self { regions, removed, last: Cell::new(0) })
    }

    /// The map in the form that the queue types of rust-vmm take.
    pub(crate) fn as_vm_memory(&self) -> GuestMemoryMmap {
        let regions = self.regions.iter().map(|region| region.region.clone()).collect();
        GuestMemoryMmap::from_arc_regions(regions).unwrap_or_default()
    }

    /// Whether a region's file shrank under it: nothing read since means anything.
    pub(crate) fn is_lost(&self) -> bool {
        self.regions.iter().any(|region| region.guard.is_lost())
    }

    /// The first guest physical address behind all regions.
    pub(crate) fn end(&self) -> u64 {
        self.regions.last().map_or(0, |region| region.spec.guest + region.spec.len)
    }

    /// Guest physical address of an address in ours, as a [`Span`] has it.
    pub(crate) fn guest_of_host(&self, host: *const u8) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = (host as usize).wrapping_sub(region.base as usize) as u64;
            (offset < region.spec.len).then(|| region.spec.guest + offset)
        })
    }

    /// Guest physical address of an address in the front-end's address space.
    pub(crate) fn guest_of_user(&self, user: u64) -> Option<u64> {
        let inside = |r: &&Rc<Mapping>| user.wrapping_sub(r.spec.user) < r.spec.len;
        let region = self.regions.iter().find(inside)?;
        Some(region.spec.guest + (user - region.spec.user))
    }

    /// The region that holds guest address `guest`, with the offset in it.
    fn find(&self, guest: u64) -> Option<(&Rc<Mapping>, u64)> {
        let hit = |index: usize| {
            let region = self.regions.get(index)?;
            let offset = guest.wrapping_sub(region.spec.guest);
            (offset < region.spec.len).then_some((region, offset))
        };
        if let Some(found) = hit(self.last.get()) {
            return Some(found);
        }
        let index = self.regions.partition_point(|r| r.spec.guest <= guest).checked_sub(1)?;
        let found = hit(index)?;
        self.last.set(index);
        Some(found)
    }

    /// Calls `each` with the pieces of `len` bytes at `guest`, in order: several when they cross the
    /// border of two regions. False when a byte of it is not mapped.
    pub(crate) fn spans(&self, guest: u64, len: u32, mut each: impl FnMut(Span)) -> bool {
        let (mut guest, mut left) = (guest, len);
        while left > 0 {
            let Some((region, offset)) = self.find(guest) else { return false };
            let len = u64::from(left).min(region.spec.len - offset) as u32;
            let Some(base) = region.host(offset, u64::from(len)) else { return false };
            each(Span { base, len });
            left -= len;
            let Some(next) = guest.checked_add(u64::from(len)) else { return left == 0 };
            guest = next;
        }
        true
    }

    /// One descriptor of an indirect table.
    pub(crate) fn descriptor(&self, guest: u64) -> Option<Descriptor> {
        let (region, offset) = self.find(guest)?;
        let host = region.host(offset, u64::from(DESCRIPTOR_BYTES));
        if let Some(host) = host.filter(|&host| (host as usize).is_multiple_of(8)) {
            let words: *const u64 = host.cast();
            // SAFETY: 16 bytes are mapped at `host`, which is aligned; any bytes are a number.
            let (low, high) = unsafe { (words.read_volatile(), words.add(1).read_volatile()) };
            return Some(Descriptor::parse(low, high));
        }
        let mut bytes = [0; DESCRIPTOR_BYTES as usize];
        let mut filled = 0;
        let mapped = self.spans(guest, DESCRIPTOR_BYTES, |span| {
            filled += span.read(&mut bytes[filled..]);
        });
        let both = u128::from_le_bytes(bytes);
        mapped.then(|| Descriptor::parse((both as u64).to_le(), ((both >> 64) as u64).to_le()))
    }
}

/// Sorts `regions` by the address that `start` picks and checks that none overlap in it.
fn check_overlap(
    regions: &mut [Rc<Mapping>],
    start: impl Fn(&RegionSpec) -> u64,
) -> Result<(), MemoryError> {
    regions.sort_by_key(|region| start(&region.spec));
    for pair in regions.windows(2) {
        let (a, b) = (&pair[0].spec, &pair[1].spec);
        if start(b) - start(a) < a.len {
            return Err(MemoryError::Overlap(a.guest, b.guest));
        }
    }
    Ok(())
}

/// A descriptor, copied from guest memory once (virtio 1.2, section 2.7.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Guest physical address of the buffer or the indirect table.
    pub(crate) guest: u64,
    /// Length in bytes.
    pub(crate) len: u32,
    /// `VRING_DESC_F_*`.
    pub(crate) flags: u16,
    /// Index of the next descriptor, if there is one.
    pub(crate) next: u16,
}

impl Descriptor {
    /// From its two halves as they lie in memory. Whole words, not bytes: reassembling bytes that
    /// were stored one by one stalls the processor, which is most of what a chain costs.
    fn parse(low: u64, high: u64) -> Self {
        let high = u64::from_le(high);
        Self {
            guest: u64::from_le(low),
            len: high as u32,
            flags: (high >> 32) as u16,
            next: (high >> 48) as u16,
        }
    }
}

/// Where the three parts of a ring are, as guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingAddresses {
    /// Descriptor table.
    pub(crate) descriptors: u64,
    /// Available ring (driver area).
    pub(crate) available: u64,
    /// Used ring (device area).
    pub(crate) used: u64,
}

/// A split ring in guest memory (virtio 1.2, section 2.7): pointers resolved once, valid because the
/// regions they point into are kept.
pub(crate) struct RingMemory {
    descriptors: *const u64,
    available: *mut u16,
    used: *mut u16,
    size: u16,
    _keep: [Rc<Mapping>; 3],
}

impl RingMemory {
    /// Resolves a ring of `size` descriptors (a power of two). `None` when a part is not mapped, not
    /// aligned, or spans two regions.
    pub(crate) fn resolve(memory: &Memory, at: &RingAddresses, size: u16) -> Option<Self> {
        if !size.is_power_of_two() {
            return None;
        }
        let n = u64::from(size);
        let part = |guest: u64, len: u64, align: usize| {
            let (region, offset) = memory.find(guest)?;
            let host = region.host(offset, len)?;
            (host as usize).is_multiple_of(align).then(|| (host, region.clone()))
        };
        let (descriptors, a) = part(at.descriptors, 16 * n, 16)?;
        let (available, b) = part(at.available, 6 + 2 * n, 2)?;
        let (used, c) = part(at.used, 6 + 8 * n, 4)?;
        let (available, used) = (available.cast(), used.cast());
        Some(Self { descriptors: descriptors.cast(), available, used, size, _keep: [a, b, c] })
    }

    /// Number of descriptors.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Descriptor `index` of the table, `None` beyond its end.
    pub(crate) fn descriptor(&self, index: u16) -> Option<Descriptor> {
        if index >= self.size {
            return None;
        }
        // SAFETY: `resolve` checked alignment and that `size` descriptors are mapped; a descriptor
        // that changes between the two reads is nonsense of the guest's, checked like any other.
        let (low, high) = unsafe {
            let words = self.descriptors.add(2 * usize::from(index));
            (words.read_volatile(), words.add(1).read_volatile())
        };
        Some(Descriptor::parse(low, high))
    }

    /// A 16-bit field of the available ring.
    fn available_u16(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < usize::from(self.size) + 3, "beyond the available ring");
        // SAFETY: `resolve` checked alignment and that 3 + size fields are mapped and kept; an
        // atomic may be written by others at any time.
        unsafe { AtomicU16::from_ptr(self.available.add(index)) }
    }

    /// A 16-bit field of the used ring.
    fn used_u16(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < 4 * usize::from(self.size) + 3, "beyond the used ring");
        // SAFETY: as for the available ring, with 3 + 4 * size fields.
        unsafe { AtomicU16::from_ptr(self.used.add(index)) }
    }

    /// Whether the driver asks for no interrupts (`VRING_AVAIL_F_NO_INTERRUPT`).
    pub(crate) fn no_interrupt(&self) -> bool {
        u16::from_le(self.available_u16(0).load(Ordering::Relaxed)) & 1 != 0
    }

    /// How far the driver has made chains available. What it wrote before is visible afterwards.
    pub(crate) fn available_index(&self) -> u16 {
        u16::from_le(self.available_u16(1).load(Ordering::Acquire))
    }

    /// Head of the chain at position `index` of the available ring.
    pub(crate) fn available_entry(&self, index: u16) -> u16 {
        let slot = usize::from(index & (self.size - 1));
        u16::from_le(self.available_u16(2 + slot).load(Ordering::Relaxed))
    }

    /// Used index at which the driver wants the next interrupt.
    pub(crate) fn used_event(&self) -> u16 {
        u16::from_le(self.available_u16(2 + usize::from(self.size)).load(Ordering::Relaxed))
    }

    /// The used index as it stands in guest memory.
    pub(crate) fn used_index(&self) -> u16 {
        u16::from_le(self.used_u16(1).load(Ordering::Relaxed))
    }

    /// Writes used element `index`; invisible until [`publish`](Self::publish).
    pub(crate) fn put_used(&self, index: u16, head: u16, len: u32) {
        let at = 1 + 2 * usize::from(index & (self.size - 1));
        for (i, word) in [u32::from(head), len].into_iter().enumerate() {
            // SAFETY: `resolve` checked alignment and that 1 + 2 * size words are mapped and kept.
            let field = unsafe { AtomicU32::from_ptr(self.used.cast::<u32>().add(at + i)) };
            field.store(word.to_le(), Ordering::Relaxed);
        }
    }

    /// Makes all used elements before `index`, and the bytes of their buffers, visible to the driver.
    pub(crate) fn publish(&self, index: u16) {
        self.used_u16(1).store(index.to_le(), Ordering::Release);
    }

    /// Asks for no kicks (`VRING_USED_F_NO_NOTIFY`), or for kicks.
    pub(crate) fn set_no_notify(&self, no_notify: bool) {
        self.used_u16(0).store(u16::from(no_notify).to_le(), Ordering::Relaxed);
    }

    /// Asks for a kick when the driver passes available index `index`.
    pub(crate) fn set_avail_event(&self, index: u16) {
        let at = 2 + 4 * usize::from(self.size);
        self.used_u16(at).store(index.to_le(), Ordering::Relaxed);
    }

    /// Orders what was stored before it against what is loaded after it, as both sides must do
    /// between "I am going to sleep" and "is there something left".
    pub(crate) fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

/// An entry of the table that the SIGBUS handler searches.
struct GuardSlot {
    state: AtomicU8,
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
}

const FREE: u8 = 0;
const CLAIMED: u8 = 1;
const ACTIVE: u8 = 2;

impl GuardSlot {
    const fn new() -> Self {
        Self {
            state: AtomicU8::new(FREE),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        }
    }
}

static GUARD: [GuardSlot; SLOTS] = [const { GuardSlot::new() }; SLOTS];

/// An entry of the table, as long as a mapping lives that a front-end may take away.
pub(crate) struct Guard {
    slot: usize,
}

impl Guard {
    /// Guards `map`, which has to outlive it. `None` when the table is full.
    pub(crate) fn new(map: &MmapRegion<()>) -> Option<Self> {
        let free = |slot: &GuardSlot| {
            slot.state.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let index = GUARD.iter().position(free)?;
        let slot = &GUARD[index];
        slot.start.store(map.as_ptr() as usize, Ordering::Relaxed);
        slot.len.store(map.size(), Ordering::Relaxed);
        slot.lost.store(false, Ordering::Relaxed);
        slot.state.store(ACTIVE, Ordering::Release);
        Some(Self { slot: index })
    }

    /// Whether the file of the mapping shrank, and zero pages are in its place.
    pub(crate) fn is_lost(&self) -> bool {
        GUARD[self.slot].lost.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        GUARD[self.slot].state.store(FREE, Ordering::Release);
    }
}

/// Installs the SIGBUS handler, once for the process.
pub(crate) fn install_guard() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(install_handler);
}

fn install_handler() {
    // SAFETY: an all-zero sigaction is a valid one; the handler has the signature that SA_SIGINFO
    // asks for and makes async-signal-safe calls only.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

/// Replaces the guest region that holds the faulting address with zero pages. See the file's theory.
extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo; si_addr is set for a fault (si_code above 0).
    let fault = unsafe { ((*info).si_code > 0).then(|| (*info).si_addr() as usize) };
    if !fault.is_some_and(replace_region) {
        // SAFETY: signal() is async-signal-safe. A fault repeats with the default action when the
        // handler returns; a signal that was sent is lost, but the next one is not.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
}

/// Maps zero pages over the registered region that holds `address`; false when there is none.
fn replace_region(address: usize) -> bool {
    for slot in &GUARD {
        let (start, len) = (slot.start.load(Ordering::Relaxed), slot.len.load(Ordering::Relaxed));
        let active = slot.state.load(Ordering::Acquire) == ACTIVE;
        if !active || address.wrapping_sub(start) >= len {
            continue;
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: the range is exactly a mapping of ours, which stays ours; errno belongs to the
        // interrupted code and is put back.
        let mapped = unsafe {
            let errno = *libc::__errno_location();
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(start as *mut libc::c_void, len, prot, flags, -1, 0);
            *libc::__errno_location() = errno;
            at as usize == start
        };
        slot.lost.store(mapped, Ordering::Relaxed);
        return mapped;
    }
    false
}
