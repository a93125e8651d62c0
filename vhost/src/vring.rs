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
use crate::run::{News, Run, Size};
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
            self.leave_memory(fault);
            self.vring_mut().news.left = true;
        } else {
            self.vring_mut().fail(fault);
            self.on_end();
        }
    }

    /// Stops the ring in order until memory is there of which something is lacking.
    fn leave_memory(&mut self, lacking: RingFault) {
        self.on_stop();
        let vring = self.vring_mut();
        // It stays the same driver's.
        let size = vring.size;
        vring.stop();
        (vring.size, vring.run) = (size, Run::Unmapped { untold: Some(lacking) });
        self.on_end();
        let vring = self.vring_mut();
        // What is kept back is said now: a driver that goes on with this ring waits for it.
        vring.call();
    }
}

impl dyn VringUser + '_ {
    /// Starts the ring if it has all it needs and does not run; true when it goes on from elsewhere than where it was
    /// stopped.
    pub(crate) fn start(&mut self) -> bool {
        let direction = self.direction();
        let started = self.vring_mut().start(direction);
        if started.is_some() {
            self.on_start();
        }
        started == Some(Start::Rewound)
    }

    /// The driver has kicked the ring: there is nothing to wait for. Returns as `start`.
    pub(crate) fn kick(&mut self) -> bool {
        let vring = self.vring_mut();
        vring.acknowledge_kick();
        vring.miss_memory();
        if !matches!(vring.run, Run::Waiting) {
            return false;
        }
        vring.size = Size::Known;
        self.start()
    }

    /// Has a ring that waits for its values, or fits in memory with those that it has now, start if it is enabled. One
    /// that is not waits for that, or for a kick: the driver may have left it, and starting it writes to its memory.
    /// Returns as `start`.
    pub(crate) fn resume(&mut self) -> bool {
        let vring = self.vring();
        let waits = matches!(vring.run, Run::Waiting) || vring.is_back();
        waits && vring.enabled && self.start()
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
        self.vring_mut().run = Run::Waiting;
        self.on_end();
    }

    /// Takes over other guest memory. A ring that is not in it stops, and one that is in it again goes on. Returns as
    /// `start`.
    pub(crate) fn set_memory(&mut self, memory: Rc<Memory>) -> bool {
        let vring = self.vring_mut();
        vring.memory = memory;
        if vring.is_running() && !vring.move_ring() {
            // Its old memory is mapped until it has stopped.
            self.leave_memory(RingFault::RingUnmapped);
            return false;
        }
        vring.is_back() && self.start()
    }
}

/// How a ring has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// At its beginning, or where it was stopped.
    InOrder,
    /// From elsewhere: its driver was set back.
    Rewound,
}

/// What is known of one vring.
pub(crate) struct Vring {
    state: VringMutex,
    kick: Option<Kick>,
    call: RefCell<Option<OwnedFd>>,
    err: Option<OwnedFd>,
    size: Size,
    /// Where SET_VRING_ADDR put the ring.
    addresses: Option<UserAddresses>,
    /// Where it stands, with the ring while that runs.
    pub(crate) run: Run,
    /// What has become of it by itself.
    pub(crate) news: News,
    /// Whether SET_VRING_ENABLE lets it be used.
    pub(crate) enabled: bool,
    /// Guest memory.
    pub(crate) memory: Rc<Memory>,
    /// What was negotiated.
    pub(crate) features: Features,
    /// Where written pages are marked, while they are.
    pub(crate) log: Option<Rc<DirtyLog>>,
    /// Available and used index at which the ring was stopped last, since the front-end came.
    stopped_at: Option<(u16, u16)>,
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
            size: Size::Unknown,
            addresses: None,
            run: Run::default(),
            news: News::default(),
            enabled: false,
            memory: Rc::default(),
            features: Features::default(),
            log: None,
            stopped_at: None,
            moves_in: false,
        })
    }

    /// Whether the ring runs.
    pub(crate) fn is_running(&self) -> bool {
        self.run.ring().is_some()
    }

    /// Whether the ring runs and may be used.
    pub(crate) fn is_up(&self) -> bool {
        self.enabled && self.is_running()
    }

    /// Whether the ring was not in memory, and is now.
    fn is_back(&self) -> bool {
        matches!(self.run, Run::Unmapped { .. }) && self.resolve().is_some()
    }

    /// What the driver has put into the ring.
    pub(crate) fn seen(&self) -> Seen {
        match self.run.ring() {
            None => Seen::NoRing,
            Some(ring) if ring.is_at_zero() => Seen::Nothing,
            Some(_) => Seen::Chains,
        }
    }

    /// Whether something has become of the ring that nobody has told.
    pub(crate) fn has_news(&self) -> bool {
        self.news != News::default()
    }

    /// The memory of the ring should be there by now: one that is not in it is broken. Says so once.
    pub(crate) fn miss_memory(&mut self) {
        if let Run::Unmapped { untold } = &mut self.run {
            self.news.fault = untold.take().or(self.news.fault);
        }
    }

    /// Whether a fault goes away once memory that was removed is there again.
    fn may_heal(&self, fault: RingFault) -> bool {
        matches!(fault, RingFault::Unmapped { guest, len, .. } if self.memory.was_removed(guest, len))
    }

    /// Starts the ring if it has all it needs and does not run. With a size that may be another driver's it waits.
    fn start(&mut self, direction: Direction) -> Option<Start> {
        let has_all = self.has_size() && self.kick.is_some() && self.addresses.is_some();
        if self.is_running() || !has_all {
            return None;
        }
        if self.size == Size::OfLast {
            self.run = Run::Waiting;
            return None;
        }
        let Some(memory) = self.resolve() else {
            self.run = Run::Unmapped { untold: None };
            self.news.fault = Some(RingFault::RingUnmapped);
            return None;
        };
        let log = self.used_log();
        let base = self.first_base(&memory);
        // One that begins anew, at 0, was only reset.
        let rewound = base != 0 && self.stopped_at.is_some_and(|(at, _)| at != base);
        self.run = Run::Running(Ring::new(memory, direction, base, self.features, log));
        self.news.fault = None;
        Some(if rewound { Start::Rewound } else { Start::InOrder })
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
        self.publish();
        self.forget();
    }

    /// Forgets the ring: nothing is published any more.
    fn forget(&mut self) {
        if self.size == Size::Known {
            self.size = Size::OfLast;
        }
        if let Run::Running(ring) = std::mem::take(&mut self.run) {
            self.state.set_queue_next_avail(ring.base());
            self.stopped_at = Some((ring.base(), ring.next_used()));
        }
    }

    /// Stops the ring because the driver broke it.
    fn fail(&mut self, fault: RingFault) {
        self.stop();
        self.news.fault = Some(fault);
    }

    /// Takes over what was negotiated.
    pub(crate) fn set_features(&mut self, features: Features) {
        self.features = features;
        if let Some(ring) = self.run.ring_mut() {
            ring.set_features(features);
        }
    }

    /// Marks written pages in `log` from now on, or nowhere.
    pub(crate) fn set_log(&mut self, log: Option<Rc<DirtyLog>>) {
        self.log = log;
        self.move_log();
    }

    /// Where writes to the used ring are logged; `None` if they are not. Starting a ring checks that it lies in guest memory,
    /// so that the place is known.
    fn used_log(&self) -> Option<UsedLog> {
        let (log, at) = (self.log.clone()?, self.addresses?);
        let used = at.used_in_log.or_else(|| self.memory.guest_of_user(at.used))?;
        Some(UsedLog::new(log, used))
    }

    fn move_log(&mut self) {
        let log = self.used_log();
        if let Some(ring) = self.run.ring_mut() {
            ring.set_log(log);
        }
    }

    /// Finds the ring anew where it is said to be; false when it is not there.
    fn move_ring(&mut self) -> bool {
        let Some(memory) = self.resolve() else { return false };
        if let Some(ring) = self.run.ring_mut() {
            ring.set_memory(memory);
        }
        self.move_log();
        true
    }

    /// The ring in our address space, if it lies in guest memory.
    fn resolve(&self) -> Option<RingMemory> {
        let at = self.addresses?.in_guest(&self.memory)?;
        RingMemory::resolve(&self.memory, &at, self.state.get_ref().get_queue().size())
    }

    /// Sets the number of entries; false when it is not a power of two up to [`MAX_RING`].
    pub(crate) fn set_size(&mut self, size: u32) -> bool {
        let size = u16::try_from(size).unwrap_or(0);
        let set = self.state.get_mut().get_queue_mut().try_set_size(size).is_ok();
        if set {
            self.size = Size::Known;
        }
        set
    }

    /// Whether SET_VRING_NUM has come since the front-end came.
    pub(crate) fn has_size(&self) -> bool {
        self.size != Size::Unknown
    }

    /// Available index at which the ring goes on.
    pub(crate) fn base(&self) -> u16 {
        self.run.ring().map_or_else(|| self.state.queue_next_avail(), Ring::base)
    }

    /// Sets the available index at which the ring goes on when it starts.
    pub(crate) fn set_base(&self, base: u16) {
        self.state.set_queue_next_avail(base);
    }

    /// Sets where the ring is, and moves it there if it runs; false when a part is not aligned or not in
    /// guest memory. As long as nobody knows its size, or its memory is away, where its parts end is left to who starts
    /// it.
    pub(crate) fn set_addresses(&mut self, at: UserAddresses) -> bool {
        let Some(guest) = at.in_guest(&self.memory) else { return false };
        let set = self.state.set_queue_info(guest.descriptors, guest.available, guest.used);
        if set.is_err() {
            return false;
        }
        self.addresses = Some(at);
        let has_end = self.size == Size::Known && !matches!(self.run, Run::Unmapped { .. });
        !has_end || self.move_ring()
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
        if let Some(ring) = self.run.ring_mut() {
            ring.publish();
        }
    }

    /// Whether the driver wants to be notified of used buffers.
    pub(crate) fn wants_call(&mut self) -> bool {
        self.run.ring_mut().is_some_and(Ring::wants_call)
    }

    /// Tells the driver of used buffers.
    pub(crate) fn notify(&mut self) {
        if let Some(ring) = self.run.ring_mut() {
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
        (self.size, self.news) = (Size::Unknown, News::default());
    }
}
