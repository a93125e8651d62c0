//! One vring's life cycle: what the front-end's SET_VRING_* messages leave behind, and the [`Ring`] while
//! it runs.
//!
//! Size, addresses, and the base while the ring is stopped live in
//! `vhost-user-backend`'s [`VringMutex`], which is built for that; its lock is taken by control messages,
//! never for a frame. A ring that runs knows its base itself. Descriptors are kept here: that type does not
//! give those of kicks out in a form that can be taken out of epoll again, that of errors not at all, and signals
//! calls anew when it was interrupted.
//!
//! What is done with the frames, or commands, of a ring is its [`VringUser`]'s business.
//!
//! # Descriptors from outside
//! They are prepared and signalled in [`notice`](crate::notice). A kick eventfd is registered
//! edge-triggered and not read: each write is an edge. Other descriptors (pipes, sockets) are read
//! until they are empty.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use passt_frame::{Errno, Registrar, Trigger};
use rustix::fs::FileType;
use vhost_user_backend::{VringMutex, VringT};
use virtio_queue::QueueT;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::dirty_log::{DirtyLog, UsedLog};
use crate::features::Features;
use crate::mem::{Memory, RingAddresses, RingMemory};
use crate::notice::{adopt, signal};
use crate::ring::{Direction, Ring, RingFault};
use crate::sharing::Seen;

/// Largest ring: the limit of the specification, which crosvm uses.
pub(crate) const MAX_RING: u16 = 32_768;

/// Addresses of a ring in the front-end's own address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserAddresses {
    /// Descriptor table.
    pub(crate) descriptors: u64,
    /// Available ring.
    pub(crate) available: u64,
    /// Used ring.
    pub(crate) used: u64,
    /// Where the used ring is in the dirty log, if that was said: a guest physical address.
    pub(crate) used_in_log: Option<u64>,
}

impl UserAddresses {
    /// The same as guest physical addresses, unless one is not mapped.
    pub(crate) fn in_guest(&self, memory: &Memory) -> Option<RingAddresses> {
        Some(RingAddresses {
            descriptors: memory.guest_of_user(self.descriptors)?,
            available: memory.guest_of_user(self.available)?,
            used: memory.guest_of_user(self.used)?,
        })
    }
}

/// A kick descriptor that epoll watches.
struct Kick {
    fd: OwnedFd,
    /// An eventfd: its writes are edges even when nobody reads.
    counter: bool,
}

/// Whether a ring that was started lies in the memory that the front-end shares, and what its driver has put into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// It does, or it was not started.
    Shared,
    /// A region was removed, of which this is lacking. Another one may be added that holds it.
    Removed(RingFault),
    /// The same, and the front-end was told that the ring is broken.
    Missed,
}

/// What a vring is used for: the rings to and from the guest, the control queue.
pub(crate) trait VringUser {
    /// The vring.
    fn vring(&self) -> &Vring;

    /// The same, to change it.
    fn vring_mut(&mut self) -> &mut Vring;

    /// Which way its buffers go.
    fn direction(&self) -> Direction;

    /// The ring has started.
    fn on_start(&mut self);

    /// The ring stops in order: gives back what was taken and not used.
    fn on_stop(&mut self) {}

    /// The ring does not run any more, stopped or broken: forgets what was taken from it.
    fn on_end(&mut self);

    /// Stops the ring because of what the driver has put into it: it is broken, or waits for memory that was removed.
    fn fail(&mut self, fault: RingFault) {
        if self.vring().may_heal(fault) {
            self.leave_home(fault);
            self.vring_mut().has_left = true;
        } else {
            self.vring_mut().fail(fault);
            self.on_end();
        }
    }

    /// Stops the ring in order until memory is there of which something is lacking.
    fn leave_home(&mut self, lacking: RingFault) {
        self.on_stop();
        self.vring_mut().stop();
        self.on_end();
        let vring = self.vring_mut();
        vring.home = Home::Removed(lacking);
        // What is kept back is said now: a driver that goes on with this ring waits for it.
        vring.call();
    }
}

impl dyn VringUser + '_ {
    /// Starts the ring if it has all it needs and does not run.
    pub(crate) fn start(&mut self) {
        let direction = self.direction();
        if self.vring_mut().start(direction) {
            self.on_start();
        }
    }

    /// Stops the ring; returns where to go on.
    pub(crate) fn stop(&mut self) -> u16 {
        self.on_stop();
        self.vring_mut().stop();
        self.on_end();
        self.vring().base()
    }

    /// Forgets the ring, without a word to the driver.
    pub(crate) fn forget(&mut self) {
        self.vring_mut().forget();
        self.on_end();
    }

    /// Takes back that the ring has started, before anything was taken from it: it is to start with other values.
    pub(crate) fn retract(&mut self) {
        let vring = self.vring_mut();
        (vring.ring, vring.is_retracted) = (None, true);
        self.on_end();
    }

    /// Takes over other guest memory. A ring that is not in it stops, and one that is in it again goes on.
    pub(crate) fn set_memory(&mut self, memory: Rc<Memory>) {
        let vring = self.vring_mut();
        vring.memory = memory;
        if !vring.is_running() {
            if vring.is_homeless() && vring.resolve().is_some() {
                self.start();
            }
        } else if !vring.move_ring() {
            // Its old memory is mapped until it has stopped.
            self.leave_home(RingFault::RingUnmapped);
        }
    }
}

/// What is known of one vring.
pub(crate) struct Vring {
    state: VringMutex,
    kick: Option<Kick>,
    call: RefCell<Option<OwnedFd>>,
    err: Option<OwnedFd>,
    /// SET_VRING_NUM has come since the front-end came: nothing starts before that. And since the ring was stopped last.
    has_size: bool,
    sized: bool,
    /// Where SET_VRING_ADDR put the ring.
    addresses: Option<UserAddresses>,
    /// The ring while it runs.
    pub(crate) ring: Option<Ring>,
    /// Whether SET_VRING_ENABLE lets it be used.
    pub(crate) enabled: bool,
    home: Home,
    /// The ring has stopped by itself for want of memory, until that has been told.
    pub(crate) has_left: bool,
    /// The ring has started too early, and starts anew with the values that were set since.
    is_retracted: bool,
    /// What broke the ring, until the device has reported it.
    pub(crate) fault: Option<RingFault>,
    /// Guest memory.
    pub(crate) memory: Rc<Memory>,
    /// What was negotiated.
    pub(crate) features: Features,
    /// Where written pages are marked, while they are.
    pub(crate) log: Option<Rc<DirtyLog>>,
    /// Available and used index at which the ring was stopped last, since the front-end came.
    stopped_at: Option<(u16, u16)>,
    /// The ring has started elsewhere than where it was stopped, until that has been told.
    pub(crate) is_rewound: bool,
    /// The state of another device comes with this connection, whose rings it goes on with.
    pub(crate) moves_in: bool,
}

impl Vring {
    /// A vring that nothing was said about. `None` cannot happen for [`MAX_RING`].
    pub(crate) fn new(
        memory: GuestMemoryAtomic<GuestMemoryMmap>,
    ) -> Result<Self, virtio_queue::Error> {
        Ok(Self {
            state: VringMutex::new(memory, MAX_RING)?,
            kick: None,
            call: RefCell::default(),
            err: None,
            has_size: false,
            sized: false,
            addresses: None,
            ring: None,
            enabled: false,
            home: Home::Shared,
            has_left: false,
            is_retracted: false,
            fault: None,
            memory: Rc::default(),
            features: Features::default(),
            log: None,
            stopped_at: None,
            is_rewound: false,
            moves_in: false,
        })
    }

    /// Whether the ring runs.
    pub(crate) fn is_running(&self) -> bool {
        self.ring.is_some()
    }

    /// Whether the ring runs and may be used.
    pub(crate) fn is_up(&self) -> bool {
        self.enabled && self.ring.is_some()
    }

    /// Whether the ring was started, and was neither stopped nor broken since.
    pub(crate) fn was_started(&self) -> bool {
        self.is_running() || self.is_homeless() || self.is_retracted
    }

    /// Whether anything was taken from the ring since it has started.
    pub(crate) fn has_moved(&self) -> bool {
        self.ring.as_ref().is_some_and(Ring::has_moved)
    }

    /// What the driver has put into the ring.
    pub(crate) fn seen(&self) -> Seen {
        match &self.ring {
            None => Seen::NoRing,
            Some(ring) if ring.is_at_zero() => Seen::Nothing,
            Some(_) => Seen::Chains,
        }
    }

    /// Whether the ring was started and waits for other values.
    pub(crate) fn is_retracted(&self) -> bool {
        self.is_retracted
    }

    /// Whether the ring was started and waits for its memory.
    pub(crate) fn is_homeless(&self) -> bool {
        self.home != Home::Shared
    }

    /// The ring should be in memory by now: one that is not is broken. Says so once.
    pub(crate) fn miss_home(&mut self) {
        if let Home::Removed(lacking) = self.home {
            (self.home, self.fault) = (Home::Missed, Some(lacking));
        }
    }

    /// Whether a fault is none once memory that was removed is there again.
    fn may_heal(&self, fault: RingFault) -> bool {
        matches!(fault, RingFault::Unmapped { guest, len, .. } if self.memory.was_removed(guest, len))
    }

    /// Starts the ring if it has all it needs and does not run; true when it has started.
    fn start(&mut self, direction: Direction) -> bool {
        let has_all = self.has_size && self.kick.is_some() && self.addresses.is_some();
        if self.is_running() || !has_all {
            return false;
        }
        let Some(memory) = self.resolve() else {
            self.home = Home::Removed(RingFault::RingUnmapped);
            self.miss_home();
            return false;
        };
        let log = self.used_log();
        let base = self.first_base(&memory);
        // One that begins anew, at 0, was only reset.
        self.is_rewound = base != 0 && self.stopped_at.is_some_and(|(at, _)| at != base);
        self.ring = Some(Ring::new(memory, direction, base, self.features, log));
        (self.home, self.is_retracted, self.fault) = (Home::Shared, false, None);
        true
    }

    /// Where a ring that starts goes on: where the front-end says. But Cloud Hypervisor knows only what is available,
    /// and says that each time. One whose back-end has died, or whose driver has filled it before it said that it is
    /// ready, waits for all that was not used: it would wait for ever. A ring that stands as it was stopped has nothing
    /// of that kind, nor has one that comes with the state of another device.
    fn first_base(&self, memory: &RingMemory) -> u16 {
        let (base, available, used) = (self.base(), memory.available_index(), memory.used_index());
        let unused = available.wrapping_sub(used);
        let is_lost = base == available && (1..=memory.size()).contains(&unused);
        if !is_lost || self.moves_in || self.stopped_at == Some((base, used)) {
            return base;
        }
        log::debug!(
            "a ring goes on at {used}, and not at {base}: {unused} of its chains were not used"
        );
        used
    }

    /// Stops the ring.
    fn stop(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.publish();
        }
        self.forget();
    }

    /// Forgets the ring: nothing is published any more.
    fn forget(&mut self) {
        (self.home, self.is_retracted, self.sized) = (Home::Shared, false, false);
        if let Some(ring) = self.ring.take() {
            self.state.set_queue_next_avail(ring.base());
            self.stopped_at = Some((ring.base(), ring.next_used()));
        }
    }

    /// Stops the ring because the driver broke it.
    fn fail(&mut self, fault: RingFault) {
        self.stop();
        self.fault = Some(fault);
    }

    /// Takes over what was negotiated.
    pub(crate) fn set_features(&mut self, features: Features) {
        self.features = features;
        if let Some(ring) = &mut self.ring {
            ring.set_features(features);
        }
    }

    /// Marks written pages in `log` from now on, or nowhere.
    pub(crate) fn set_log(&mut self, log: Option<Rc<DirtyLog>>) {
        self.log = log;
        self.move_log();
    }

    /// Where the used ring is marked. What it cannot be found without is checked by who starts the ring.
    fn used_log(&self) -> Option<UsedLog> {
        let (log, at) = (self.log.clone()?, self.addresses?);
        let used = at.used_in_log.or_else(|| self.memory.guest_of_user(at.used))?;
        Some(UsedLog::new(log, used))
    }

    fn move_log(&mut self) {
        let log = self.used_log();
        if let Some(ring) = &mut self.ring {
            ring.set_log(log);
        }
    }

    /// Finds the ring anew where it is said to be; false when it is not there.
    fn move_ring(&mut self) -> bool {
        let Some(memory) = self.resolve() else { return false };
        if let Some(ring) = &mut self.ring {
            ring.set_memory(memory);
        }
        self.move_log();
        true
    }

    /// The ring in our address space, if it lies in guest memory.
    fn resolve(&self) -> Option<RingMemory> {
        let at = self.addresses?.in_guest(&self.memory)?;
        RingMemory::resolve(&self.memory, &at, self.size())
    }

    /// Number of entries.
    fn size(&self) -> u16 {
        self.state.get_ref().get_queue().size()
    }

    /// Sets the number of entries; false when it is not a power of two up to [`MAX_RING`].
    pub(crate) fn set_size(&mut self, size: u32) -> bool {
        let size = u16::try_from(size).unwrap_or(0);
        self.sized = self.state.get_mut().get_queue_mut().try_set_size(size).is_ok();
        self.has_size |= self.sized;
        self.sized
    }

    /// Whether SET_VRING_NUM has come since the front-end came.
    pub(crate) fn has_size(&self) -> bool {
        self.has_size
    }

    /// Available index at which the ring goes on.
    pub(crate) fn base(&self) -> u16 {
        self.ring.as_ref().map_or_else(|| self.state.queue_next_avail(), Ring::base)
    }

    /// Sets the available index at which the ring goes on when it starts.
    pub(crate) fn set_base(&self, base: u16) {
        self.state.set_queue_next_avail(base);
    }

    /// Sets where the ring is, and moves it there if it runs; false when a part is not aligned or not in
    /// guest memory. As long as the ring has no size, where its parts end is left to who starts it.
    pub(crate) fn set_addresses(&mut self, at: UserAddresses) -> bool {
        let Some(guest) = at.in_guest(&self.memory) else { return false };
        let set = self.state.set_queue_info(guest.descriptors, guest.available, guest.used);
        if set.is_err() {
            return false;
        }
        self.addresses = Some(at);
        let sized = self.sized || self.is_running();
        !sized || self.move_ring()
    }

    /// Watches `fd` for kicks under `token` from now on.
    ///
    /// # Errors
    /// What fcntl(2) or epoll_ctl(2) report, `EPERM` for a file that has no events.
    pub(crate) fn set_kick(
        &mut self,
        fd: File,
        registrar: &Registrar,
        token: u16,
    ) -> Result<(), Errno> {
        self.drop_kick(registrar);
        adopt(&fd)?;
        registrar.add(&fd, token, Trigger::Edge)?;
        let mode = rustix::fs::fstat(&fd)?.st_mode;
        let counter = FileType::from_raw_mode(mode) == FileType::Unknown;
        self.kick = Some(Kick { fd: fd.into(), counter });
        Ok(())
    }

    /// Stops watching for kicks.
    pub(crate) fn drop_kick(&mut self, registrar: &Registrar) {
        if let Some(kick) = self.kick.take() {
            registrar.remove(&kick.fd);
        }
    }

    /// Makes room for the next kick where that takes reading.
    pub(crate) fn acknowledge_kick(&self) {
        let Some(kick) = self.kick.as_ref().filter(|kick| !kick.counter) else { return };
        let mut bytes = [0u8; 4096];
        // Bounded: a writer that is faster than this gets another edge.
        for _ in 0..16 {
            if !matches!(rustix::io::read(&kick.fd, &mut bytes), Ok(n) if n > 0) {
                return;
            }
        }
    }

    /// Sets or takes away the descriptor that tells the driver of used buffers.
    ///
    /// # Errors
    /// What fcntl(2) reports.
    pub(crate) fn set_call(&self, fd: Option<File>) -> Result<(), Errno> {
        if let Some(fd) = &fd {
            adopt(fd)?;
        }
        self.call.replace(fd.map(OwnedFd::from));
        Ok(())
    }

    /// Signals the call descriptor.
    pub(crate) fn call(&self) {
        signal(&mut self.call.borrow_mut());
    }

    /// Makes used buffers visible.
    pub(crate) fn publish(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.publish();
        }
    }

    /// Whether the driver wants to be notified of used buffers.
    pub(crate) fn wants_call(&mut self) -> bool {
        self.ring.as_mut().is_some_and(Ring::wants_call)
    }

    /// Tells the driver of used buffers.
    pub(crate) fn notify(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.note_call();
        }
        self.call();
    }

    /// Sets or takes away the descriptor that tells the front-end of a broken ring.
    ///
    /// # Errors
    /// What fcntl(2) reports.
    pub(crate) fn set_err(&mut self, fd: Option<File>) -> Result<(), Errno> {
        if let Some(fd) = &fd {
            adopt(fd)?;
        }
        self.err = fd.map(OwnedFd::from);
        Ok(())
    }

    /// Tells the front-end that the ring is broken.
    pub(crate) fn signal_err(&mut self) {
        signal(&mut self.err);
    }

    /// Forgets everything.
    pub(crate) fn reset(&mut self, registrar: &Registrar) {
        self.drop_kick(registrar);
        self.call.take();
        self.state.get_mut().get_queue_mut().reset();
        self.err = None;
        self.addresses = None;
        (self.stopped_at, self.moves_in) = (None, false);
        (self.has_size, self.is_rewound) = (false, false);
    }
}
