//! The device as the front-end's messages see it: features, memory, queue pairs and control queue. Each
//! method is what one vhost-user request asks for, checked; a [`Violation`] ends the connection.
//!
//! A ring runs from SET_VRING_KICK (with addresses known) to GET_VRING_BASE, and moves frames while it
//! is also enabled. The enable flag is kept before features are known and before the ring exists:
//! QEMU sends it first. Memory is independent of both: it survives stop and start, and may change
//! under running rings, which are then resolved anew.
//!
//! A front-end replaces a region by REM_MEM_REG and then ADD_MEM_REG. A ring in it stops in order, and goes on where it was
//! as soon as it is in memory again. Nobody is told that it is broken (SET_VRING_ERR) unless it is kicked before that, or
//! was lost with a whole table (SET_MEM_TABLE), which nothing is to be added to.
//! So does a ring whose driver has put something into it that lies in a region that was removed.
//!
//! Rings are numbered: pair *k* has 2*k* (receive) and 2*k* + 1 (transmit), and after the last pair comes
//! the control queue. With a driver that has no multi-queue, or a front-end that is shown one pair, that is ring 2 (virtio
//! 1.2, section 5.1.2), which pair 1 does not need then.

mod rings;

use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use log::warn;
use passt_frame::{FromGuest, Registrar, ToGuest};
use thiserror::Error;
use vhost::vhost_user::message::{VhostTransferStateDirection, VhostUserProtocolFeatures};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::command::{CommandCounters, ControlQueue};
use crate::config::Config;
use crate::dirty_log::{LogError, Logging};
use crate::features::{Features, offered, protocol};
use crate::mem::Memory;
use crate::notice::adopt;
use crate::queue::{Flushed, FromPairs, MAX_PAIRS, Pairs, ToPairs};
use crate::region::{MAX_REGIONS, MemoryError, RegionSpec};
use crate::run::News;
use crate::rx::RxCounters;
use crate::sharing::{Seen, Sharing};
use crate::transfer::{Transfer, TransferError};
use crate::tx::TxCounters;
use crate::vring::{Vring, VringUser};

/// Rings of all queue pairs, and the control queue: what GET_QUEUE_NUM answers who reads the configuration. crosvm makes
/// exactly as many as that, Cloud Hypervisor at most.
pub(crate) const RINGS: usize = 2 * MAX_PAIRS + 1;

/// The control queue's number if there is more than one pair, and if there is one.
const CONTROL: usize = 2 * MAX_PAIRS;
const CONTROL_OF_ONE_PAIR: usize = 2;

/// What a ring is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The receive ring of a pair.
    Rx(usize),
    /// The transmit ring of a pair.
    Tx(usize),
    /// The control queue.
    Control,
}

/// Token of the first ring's kicks; the others' follow.
pub(crate) const TOKEN_KICK: u16 = 2;

/// What kicks have brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kicked {
    /// Frames from the guest may be waiting.
    pub(crate) frames: bool,
    /// Room toward the guest after there was none.
    pub(crate) room: bool,
    /// Commands are left that no kick will announce.
    pub(crate) commands: bool,
}

/// What a front-end did against the protocol.
#[derive(Debug, Error)]
pub(crate) enum Violation {
    /// There is no such ring.
    #[error(
        "ring {0}, but there are {RINGS}: {MAX_PAIRS} queue pairs and a control queue (QEMU: queues={MAX_PAIRS} at most)"
    )]
    NoRing(u32),
    /// Bits that were not offered.
    #[error("acknowledges feature bits {0:#x}, which were not offered")]
    NotOffered(u64),
    /// The driver speaks the interface from before virtio 1.0, whose words are those of a processor that is
    /// not like ours.
    #[error("does not acknowledge VIRTIO_F_VERSION_1: legacy drivers need a little-endian host")]
    Legacy,
    /// A number that makes no sense.
    #[error("{what} {value} is out of range")]
    Range {
        /// What it is the number of.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// Something that cannot change while the ring runs.
    #[error("ring {0} runs")]
    Running(usize),
    /// The addresses of a ring are not aligned or not in memory.
    #[error(
        "ring {0} is not aligned, or not in the memory that the front-end shares (QEMU: a memory object \
         with share=on, as memory-backend of the machine)"
    )]
    BadAddress(usize),
    /// A kick descriptor is missing or unusable.
    #[error("ring {0}: unusable descriptor: {1}")]
    BadDescriptor(usize, &'static str),
    /// Memory that cannot be used.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A dirty log that cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What the front-end shares has gone away, so that the device cannot be moved.
    #[error("{0}")]
    Lost(&'static str),
    /// A request for something that is not served.
    #[error("not supported")]
    Unsupported,
}

/// What messages act on. It stays when a front-end leaves, as if there had been none.
pub(crate) struct Session {
    config: Config,
    registrar: Registrar,
    /// Acknowledged virtio features.
    pub(crate) features: Features,
    /// Acknowledged protocol features of vhost-user.
    pub(crate) protocol: u64,
    /// MTU that NET_SET_MTU told, instead of ours.
    mtu: Option<u16>,
    memory: Rc<Memory>,
    /// Regions that were added once more while they were there, and are to be removed once more, even when they are gone.
    added_again: Vec<RegionSpec>,
    /// The same memory as the queue types take it.
    shared: GuestMemoryAtomic<GuestMemoryMmap>,
    logging: Logging,
    /// The transfer of device state.
    pub(crate) transfer: Transfer,
    pairs: Rc<Pairs>,
    control_queue: ControlQueue,
    from: FromPairs,
    to: ToPairs,
    /// A receive ring has stopped for want of memory, and may run again: until the link has told that.
    pub(crate) left: bool,
    /// Whether the driver writes to the same memory.
    pub(crate) sharing: Sharing,
    /// Rings that their drivers broke.
    pub(crate) faults: u64,
    /// Front-ends whose memory seemed not to be shared.
    pub(crate) unshared: u64,
}

impl Session {
    /// A device without a front-end.
    ///
    /// # Errors
    /// Never with the built-in ring size; the queue types check it.
    pub(crate) fn new(registrar: Registrar, config: Config) -> Result<Self, virtio_queue::Error> {
        let shared = GuestMemoryAtomic::new(GuestMemoryMmap::default());
        let pairs = Rc::new(Pairs::new(&shared)?);
        Ok(Self {
            config,
            registrar,
            features: Features::default(),
            protocol: 0,
            mtu: None,
            memory: Rc::default(),
            added_again: Vec::new(),
            logging: Logging::default(),
            transfer: Transfer::default(),
            control_queue: ControlQueue::new(Vring::new(shared.clone())?, pairs.clone()),
            from: FromPairs::new(pairs.clone()),
            to: ToPairs::new(pairs.clone()),
            pairs,
            shared,
            left: false,
            sharing: Sharing::default(),
            faults: 0,
            unshared: 0,
        })
    }

    /// The halves of the link.
    pub(crate) fn halves(&mut self) -> (&mut dyn FromGuest, &mut dyn ToGuest) {
        (&mut self.from, &mut self.to)
    }

    /// Whether frames can reach the guest.
    pub(crate) fn is_up(&self) -> bool {
        self.pairs.is_up()
    }

    /// The virtio feature word on offer.
    pub(crate) fn offered(&self) -> u64 {
        offered(self.config.mac.is_some())
    }

    /// SET_FEATURES.
    pub(crate) fn set_features(&mut self, word: u64) -> Result<(), Violation> {
        let extra = word & !self.offered();
        if extra != 0 {
            return Err(Violation::NotOffered(extra));
        }
        let features = Features(word);
        if cfg!(target_endian = "big") && !features.version_1() {
            return Err(Violation::Legacy);
        }
        self.apply_features(features)?;
        if !features.protocol_features() {
            self.with_all(|user| user.vring_mut().enabled = true);
            (0..RINGS).for_each(|at| self.go_on(at, |user| user.resume()));
        }
        Ok(())
    }

    fn apply_features(&mut self, features: Features) -> Result<(), Violation> {
        if self.control_index(features) != self.control_index(self.features) {
            self.move_control()?;
        }
        self.features = features;
        self.with_all(|user| user.vring_mut().set_features(features));
        self.logging.set_wanted(features.log_all());
        self.logging.check(&self.memory)?;
        self.apply_log();
        Ok(())
    }

    /// Shows all rings where they mark what they write, or that they need not.
    fn apply_log(&mut self) {
        let log = self.logging.active().cloned();
        self.with_all(|user| user.vring_mut().set_log(log.clone()));
    }

    /// SET_LOG_BASE: length and offset in the file.
    pub(crate) fn set_log(&mut self, file: File, place: (u64, u64)) -> Result<(), Violation> {
        if self.protocol & VhostUserProtocolFeatures::LOG_SHMFD.bits() == 0 {
            return Err(Violation::Unsupported);
        }
        self.logging.set_log(&self.memory, file, place)?;
        self.apply_log();
        Ok(())
    }

    /// SET_LOG_FD.
    pub(crate) fn set_log_call(&mut self, fd: File) -> Result<(), Violation> {
        adopt(&fd).map_err(|errno| LogError::Call(errno.into()))?;
        self.logging.set_call(fd.into());
        Ok(())
    }

    /// SET_DEVICE_STATE_FD.
    pub(crate) fn begin_transfer(
        &mut self,
        direction: VhostTransferStateDirection,
        file: File,
    ) -> Result<(), TransferError> {
        let runs = |index| self.with(index, |user| user.vring().is_running());
        let running = (0..RINGS).any(runs);
        if matches!(direction, VhostTransferStateDirection::LOAD) {
            self.with_all(|user| user.vring_mut().moves_in = true);
        }
        self.transfer.begin(direction, file, running)
    }

    /// Makes ring 2 the control queue, or an ordinary ring again. What the front-end has said of ring 2 stays with its number,
    /// so the state of the two is swapped.
    fn move_control(&mut self) -> Result<(), Violation> {
        let pair = &self.pairs.all()[CONTROL_OF_ONE_PAIR / 2];
        let (ring, control) = (&mut pair.rx.borrow_mut().vring, self.control_queue.vring_mut());
        if ring.is_running() || control.is_running() {
            return Err(Violation::Running(CONTROL_OF_ONE_PAIR));
        }
        std::mem::swap(ring, control);
        Ok(())
    }

    /// SET_PROTOCOL_FEATURES.
    pub(crate) fn set_protocol(&mut self, word: u64) -> Result<(), Violation> {
        let extra = word & !protocol().bits();
        if extra != 0 {
            return Err(Violation::NotOffered(extra));
        }
        let before = self.control_index(self.features);
        let last = std::mem::replace(&mut self.protocol, word);
        if self.control_index(self.features) != before
            && let Err(violation) = self.move_control()
        {
            self.protocol = last;
            return Err(violation);
        }
        Ok(())
    }

    /// Whether the front-end is User-Mode Linux, by what it can do of what there is. It is shown one pair: it makes all that
    /// there are, for its one processor, and has all rings share an interrupt, at which it reads the descriptor of each:
    /// 17 for one frame.
    fn has_one_pair(&self) -> bool {
        let known = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG;
        self.protocol == known.bits()
    }

    /// Pairs that the configuration shows.
    fn shown_pairs(&self) -> u16 {
        if self.has_one_pair() { 1 } else { MAX_PAIRS as u16 }
    }

    /// The number of the control queue.
    fn control_index(&self, features: Features) -> usize {
        let one = self.has_one_pair() || !features.multi_queue();
        if features.control_queue() && one { CONTROL_OF_ONE_PAIR } else { CONTROL }
    }

    /// Whether the front-end has acknowledged that there may be several queue pairs.
    pub(crate) fn multi_queue(&self) -> bool {
        self.protocol & VhostUserProtocolFeatures::MQ.bits() != 0
    }

    /// GET_QUEUE_NUM. QEMU counts pairs and starts as many as it was told to, up to that; who reads the configuration
    /// finds the pairs there, and counts rings here.
    pub(crate) fn queue_num(&self) -> u64 {
        let reads_config = self.protocol & VhostUserProtocolFeatures::CONFIG.bits() != 0;
        match reads_config {
            true if self.has_one_pair() => CONTROL_OF_ONE_PAIR as u64 + 1,
            true => RINGS as u64,
            false => MAX_PAIRS as u64,
        }
    }

    /// NET_SET_MTU.
    pub(crate) fn set_mtu(&mut self, mtu: u64) -> Result<(), Violation> {
        let told = u16::try_from(mtu).ok().filter(|&mtu| mtu >= 68);
        self.mtu = Some(told.ok_or(Violation::Range { what: "MTU", value: mtu })?);
        Ok(())
    }

    /// MTU of the guest's device.
    pub(crate) fn mtu(&self) -> u16 {
        self.mtu.unwrap_or(self.config.mtu)
    }

    /// GET_CONFIG.
    pub(crate) fn config_space(&self, offset: u32, len: u32) -> Vec<u8> {
        let mac = self.control_queue.mac.or(self.config.mac);
        Config { mac, mtu: self.mtu() }.space(self.shown_pairs(), offset as usize, len as usize)
    }

    /// SET_MEM_TABLE.
    pub(crate) fn set_memory_table(
        &mut self,
        table: Vec<(RegionSpec, File)>,
    ) -> Result<(), Violation> {
        let memory = Memory::map_table(table)?;
        self.added_again.clear();
        self.change_memory(memory)?;
        self.with_all(|user| user.vring_mut().miss_memory());
        Ok(())
    }

    /// ADD_MEM_REG. QEMU before 8.1 says it once for each queue pair.
    pub(crate) fn add_region(&mut self, spec: RegionSpec, file: File) -> Result<(), Violation> {
        if self.memory.has_region(&spec, &file) {
            if self.added_again.len() >= MAX_PAIRS * MAX_REGIONS {
                return Err(MemoryError::TooMany.into());
            }
            self.added_again.push(spec);
            return Ok(());
        }
        let memory = self.memory.with_region(spec, file)?;
        self.change_memory(memory)
    }

    /// REM_MEM_REG. The first time counts: QEMU before 8.1 says that, too, once for each queue pair, and what the first one
    /// adds in place of the region may overlap it.
    pub(crate) fn remove_region(&mut self, spec: &RegionSpec) -> Result<(), Violation> {
        match self.memory.without_region(spec) {
            Ok(memory) => self.change_memory(memory),
            Err(unknown) => {
                let again = self.added_again.iter().position(|again| again.is_named_by(spec));
                self.added_again.swap_remove(again.ok_or(unknown)?);
                Ok(())
            }
        }
    }

    /// What the front-end shared and does not share any more: the connection has to end.
    pub(crate) fn lost(&self) -> Option<&'static str> {
        let memory = self.memory.is_lost().then_some("the file of its memory shrank");
        memory.or_else(|| self.logging.trouble())
    }

    /// The same for other memory that the front-end asks for.
    fn change_memory(&mut self, memory: Memory) -> Result<(), Violation> {
        self.logging.check(&memory)?;
        self.set_memory(memory);
        Ok(())
    }

    /// Replaces guest memory under all rings and resolves those that run anew, or wait for it. The old memory is
    /// unmapped when this returns.
    fn set_memory(&mut self, memory: Memory) {
        let memory = Rc::new(memory);
        self.memory = memory.clone();
        if let Ok(guard) = self.shared.lock() {
            guard.replace(memory.as_vm_memory());
        }
        for at in 0..RINGS {
            self.go_on(at, |user| user.set_memory(memory.clone()));
        }
    }

    /// What ring `index` is for.
    fn purpose(&self, index: usize) -> Purpose {
        let control = self.control_index(self.features);
        // Where the control queue is not, there is what it displaces.
        let at = match index {
            _ if index == control => return Purpose::Control,
            CONTROL => CONTROL_OF_ONE_PAIR,
            _ => index,
        };
        if at.is_multiple_of(2) { Purpose::Rx(at / 2) } else { Purpose::Tx(at / 2) }
    }

    /// Does something with the user of a ring, whose index was checked.
    fn with<T>(&mut self, index: usize, act: impl FnOnce(&mut dyn VringUser) -> T) -> T {
        match self.purpose(index) {
            Purpose::Rx(pair) => act(&mut *self.pairs.all()[pair].rx.borrow_mut()),
            Purpose::Tx(pair) => act(&mut *self.pairs.all()[pair].tx.borrow_mut()),
            Purpose::Control => act(&mut self.control_queue),
        }
    }

    /// Does something with the users of all rings.
    fn with_all(&mut self, act: impl Fn(&mut dyn VringUser)) {
        for index in 0..RINGS {
            self.with(index, &act);
        }
    }

    /// Does something by which a ring may go on. One that goes on from elsewhere than where it was stopped belongs to a
    /// driver that was set back.
    fn go_on(&mut self, at: usize, act: impl FnOnce(&mut dyn VringUser) -> bool) {
        if self.with(at, act) {
            self.transfer.note_rewound();
        }
    }

    /// RESET_DEVICE: all rings stop and are disabled, features are forgotten. Memory, call and error
    /// descriptors stay: QEMU sets the latter once, before the first reset.
    pub(crate) fn reset_device(&mut self) {
        let registrar = self.registrar.clone();
        self.with_all(|user| {
            let ran = user.vring().is_running();
            user.stop();
            let vring = user.vring_mut();
            if ran {
                // What is kept back is said now: a driver that goes on with these rings waits for it.
                vring.call();
            }
            vring.drop_kick(&registrar);
            vring.enabled = false;
        });
        self.control_queue.reset();
        let applied = self.apply_features(Features::default());
        debug_assert!(applied.is_ok(), "no ring runs");
    }

    /// The front-end is gone: everything of it is forgotten, descriptors leave epoll before they are
    /// closed, memory is unmapped.
    pub(crate) fn disconnect(&mut self) {
        self.reset_device();
        self.report_all();
        let registrar = self.registrar.clone();
        self.with_all(|user| user.vring_mut().reset(&registrar));
        (self.protocol, self.mtu) = (0, None);
        self.added_again.clear();
        (self.logging, self.transfer) = (Logging::default(), Transfer::default());
        self.sharing = Sharing::default();
        self.apply_log();
        self.set_memory(Memory::default());
    }

    /// The driver has kicked ring `index`.
    pub(crate) fn on_kick(&mut self, index: usize) -> Kicked {
        self.go_on(index, |user| user.kick());
        let kicked = match self.purpose(index) {
            Purpose::Rx(pair) => Kicked { room: self.pairs.take_room(pair), ..Kicked::default() },
            Purpose::Tx(pair) => {
                let frames = self.pairs.look(pair, true);
                if frames {
                    self.sharing.note_kick();
                }
                Kicked { frames, ..Kicked::default() }
            }
            // A command may say that fewer pairs are in use.
            Purpose::Control => self.look_at_all(),
        };
        self.report(index);
        kicked
    }

    /// Looks at all rings: something was said of them, or some have broken, or have more than a turn's work.
    pub(crate) fn look_at_all(&mut self) -> Kicked {
        let commands = self.control_queue.serve();
        let mut room = false;
        for pair in 0..MAX_PAIRS {
            self.pairs.look(pair, false);
            room |= self.pairs.take_room(pair);
        }
        self.pairs.prepare_first();
        self.report_all();
        Kicked { frames: self.pairs.may_have_frames(), room, commands }
    }

    /// Publishes used buffers of all rings and notifies the drivers that want it. With a time, notifications
    /// that may wait are kept back.
    pub(crate) fn flush(&mut self, now: Option<Duration>) -> Flushed {
        let flushed = self.pairs.flush(now);
        self.logging.tell();
        flushed
    }

    /// Says so if the driver seems to write to other memory than ours; returns when to ask again at the latest.
    pub(crate) fn check_sharing(&mut self, now: Duration) -> Option<Duration> {
        let mut sharing = std::mem::take(&mut self.sharing);
        if sharing.judge(now, || self.seen()) {
            self.unshared += 1;
            warn!(
                "vhost-user: the driver kicks its rings, but they stay empty: is the guest's memory shared with us? QEMU: \
                 share=on of the machine's memory object; \"passt --check COMMAND...\" looks at the front-end's command line"
            );
        }
        self.sharing = sharing;
        self.sharing.deadline()
    }

    /// What drivers have put into the rings.
    fn seen(&mut self) -> Seen {
        let seen = |index| self.with(index, |user| user.vring().seen());
        (0..RINGS).map(seen).max().unwrap_or(Seen::NoRing)
    }

    /// Counts of all pairs together, and of the control queue.
    pub(crate) fn counters(&self) -> (TxCounters, RxCounters, CommandCounters) {
        let (mut tx, mut rx) = (TxCounters::default(), RxCounters::default());
        for pair in self.pairs.all() {
            tx.add(&pair.tx.borrow().counters);
            rx.add(&pair.rx.borrow().counters);
        }
        (tx, rx, self.control_queue.counters)
    }

    fn report_all(&mut self) {
        for index in 0..RINGS {
            self.report(index);
        }
    }

    /// Tells what has become of a ring, once: who waits for room, and if it broke, the log and the front-end.
    fn report(&mut self, index: usize) {
        let News { fault, left } =
            self.with(index, |user| std::mem::take(&mut user.vring_mut().news));
        self.left |= left && matches!(self.purpose(index), Purpose::Rx(_));
        let Some(fault) = fault else { return };
        let name = match self.purpose(index) {
            Purpose::Rx(0) => "receive ring".to_owned(),
            Purpose::Tx(0) => "transmit ring".to_owned(),
            Purpose::Rx(pair) => format!("receive ring of queue pair {pair}"),
            Purpose::Tx(pair) => format!("transmit ring of queue pair {pair}"),
            Purpose::Control => "control queue".to_owned(),
        };
        warn!("vhost-user: {name} stopped: {fault}");
        self.faults += 1;
        self.with(index, |user| user.vring_mut().signal_err());
    }
}
