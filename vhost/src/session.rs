//! The device behind the messages: features, memory and the two rings. Each method is what one
//! vhost-user request asks for, checked; a [`Violation`] ends the connection.
//!
//! A ring runs from SET_VRING_KICK (with addresses known) to GET_VRING_BASE, and moves frames while it
//! is also enabled. The enable flag is kept before features are known and before the ring exists:
//! QEMU sends it first. Memory is independent of both: it survives stop and start, and may change
//! under running rings, which are then resolved anew.

use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use log::warn;
use passt_frame::Registrar;
use thiserror::Error;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::config::Config;
use crate::features::{Features, offered, protocol};
use crate::mem::{Memory, MemoryError, RegionSpec, RingMemory};
use crate::moderation::Moderation;
use crate::ring::{Direction, Ring, RingFault};
use crate::rx::RxHalf;
use crate::tx::TxHalf;
use crate::vring::{UserAddresses, Vring};

/// Index of the receive ring (virtio 1.2, section 5.1.2).
pub const RX: usize = 0;

/// Index of the transmit ring.
pub const TX: usize = 1;

/// Rings of one queue pair, what GET_QUEUE_NUM answers. crosvm makes exactly as many as that, Cloud
/// Hypervisor at most; QEMU takes it as pairs, and uses one unless it is told `queues=`.
pub const RINGS: usize = 2;

/// Token of the receive ring's kicks; the transmit ring's is the next.
pub const TOKEN_KICK: u16 = 2;

/// What a front-end did against the protocol.
#[derive(Debug, Error)]
pub enum Violation {
    /// There is no such ring.
    #[error("ring {0}, but there are {RINGS} (one queue pair)")]
    NoRing(u32),
    /// Bits that were not offered.
    #[error("acknowledges feature bits {0:#x}, which were not offered")]
    NotOffered(u64),
    /// The driver speaks the interface from before virtio 1.0.
    #[error("does not acknowledge VIRTIO_F_VERSION_1: legacy drivers are not supported")]
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
    /// A request for something that is not served.
    #[error("not supported")]
    Unsupported,
}

/// The device.
pub struct Session {
    config: Config,
    registrar: Registrar,
    /// Acknowledged virtio features.
    pub features: Features,
    /// Acknowledged protocol features.
    pub protocol: u64,
    /// MTU that NET_SET_MTU told, instead of ours.
    mtu: Option<u16>,
    memory: Rc<Memory>,
    /// The same memory as the queue types take it.
    shared: GuestMemoryAtomic<GuestMemoryMmap>,
    vrings: [Vring; RINGS],
    /// Frames to the guest.
    pub rx: RxHalf,
    /// Frames from the guest.
    pub tx: TxHalf,
    /// What is kept back of the transmit ring's notifications.
    moderation: Moderation,
    /// Rings that their drivers broke.
    pub faults: u64,
}

impl Session {
    /// A device without a front-end.
    ///
    /// # Errors
    /// Never with the built-in ring size; the queue types check it.
    pub fn new(registrar: Registrar, config: Config) -> Result<Self, virtio_queue::Error> {
        let shared = GuestMemoryAtomic::new(GuestMemoryMmap::default());
        Ok(Self {
            config,
            registrar,
            features: Features::default(),
            protocol: 0,
            mtu: None,
            memory: Rc::default(),
            vrings: [Vring::new(shared.clone())?, Vring::new(shared.clone())?],
            shared,
            rx: RxHalf::default(),
            tx: TxHalf::default(),
            moderation: Moderation::default(),
            faults: 0,
        })
    }

    /// The virtio feature word on offer.
    pub fn offered(&self) -> u64 {
        offered(self.config.mac.is_some())
    }

    /// SET_FEATURES.
    pub fn set_features(&mut self, word: u64) -> Result<(), Violation> {
        let extra = word & !self.offered();
        if extra != 0 {
            return Err(Violation::NotOffered(extra));
        }
        let features = Features(word);
        if !features.version_1() {
            return Err(Violation::Legacy);
        }
        self.apply_features(features);
        if !features.protocol_features() {
            self.rx.enabled = true;
            self.tx.enabled = true;
        }
        Ok(())
    }

    fn apply_features(&mut self, features: Features) {
        self.features = features;
        (self.rx.features, self.tx.features) = (features, features);
        for ring in self.rx.ring.iter_mut().chain(self.tx.ring.iter_mut()) {
            ring.set_features(features);
        }
    }

    /// SET_PROTOCOL_FEATURES.
    pub fn set_protocol(&mut self, word: u64) -> Result<(), Violation> {
        let extra = word & !protocol().bits();
        if extra != 0 {
            return Err(Violation::NotOffered(extra));
        }
        self.protocol = word;
        Ok(())
    }

    /// NET_SET_MTU.
    pub fn set_mtu(&mut self, mtu: u64) -> Result<(), Violation> {
        let told = u16::try_from(mtu).ok().filter(|&mtu| mtu >= 68);
        self.mtu = Some(told.ok_or(Violation::Range { what: "MTU", value: mtu })?);
        Ok(())
    }

    /// MTU of the guest's device.
    pub fn mtu(&self) -> u16 {
        self.mtu.unwrap_or(self.config.mtu)
    }

    /// GET_CONFIG.
    pub fn config_space(&self, offset: u32, len: u32) -> Vec<u8> {
        Config { mtu: self.mtu(), ..self.config }.space(offset as usize, len as usize)
    }

    /// SET_MEM_TABLE.
    pub fn set_memory_table(&mut self, table: Vec<(RegionSpec, File)>) -> Result<(), Violation> {
        let memory = Memory::map_table(table)?;
        self.set_memory(memory);
        Ok(())
    }

    /// ADD_MEM_REG.
    pub fn add_region(&mut self, spec: RegionSpec, file: File) -> Result<(), Violation> {
        let memory = self.memory.with_region(spec, file)?;
        self.set_memory(memory);
        Ok(())
    }

    /// REM_MEM_REG.
    pub fn remove_region(&mut self, spec: &RegionSpec) -> Result<(), Violation> {
        let memory = self.memory.without_region(spec)?;
        self.set_memory(memory);
        Ok(())
    }

    /// Whether a file of guest memory shrank: the connection has to end.
    pub fn memory_lost(&self) -> bool {
        self.memory.is_lost()
    }

    /// Replaces guest memory under both halves and resolves running rings anew. The old memory is
    /// unmapped when this returns.
    fn set_memory(&mut self, memory: Memory) {
        self.memory = Rc::new(memory);
        self.rx.memory = self.memory.clone();
        self.tx.memory = self.memory.clone();
        if let Ok(guard) = self.shared.lock() {
            guard.replace(self.memory.as_vm_memory());
        }
        for index in 0..RINGS {
            if !self.is_running(index) {
                continue;
            }
            match self.resolve(index) {
                Some(memory) => self.move_ring(index, memory),
                None => self.fail(index, RingFault::RingUnmapped),
            }
        }
    }

    /// Checks a ring's index.
    fn index(&self, index: u32) -> Result<usize, Violation> {
        let at = index as usize;
        if at < RINGS { Ok(at) } else { Err(Violation::NoRing(index)) }
    }

    /// The same for what must not change while the ring runs.
    fn stopped(&self, index: u32) -> Result<usize, Violation> {
        let at = self.index(index)?;
        if self.is_running(at) { Err(Violation::Running(at)) } else { Ok(at) }
    }

    fn ring_mut(&mut self, index: usize) -> Option<&mut Ring> {
        if index == RX { self.rx.ring.as_mut() } else { self.tx.ring.as_mut() }
    }

    fn is_running(&self, index: usize) -> bool {
        if index == RX { self.rx.ring.is_some() } else { self.tx.ring.is_some() }
    }

    fn fail(&mut self, index: usize, fault: RingFault) {
        if index == RX { self.rx.fail(fault) } else { self.tx.fail(fault) }
    }

    fn move_ring(&mut self, index: usize, memory: RingMemory) {
        if let Some(ring) = self.ring_mut(index) {
            ring.set_memory(memory);
        }
    }

    /// SET_VRING_NUM.
    pub fn set_ring_size(&mut self, index: u32, size: u32) -> Result<(), Violation> {
        let index = self.stopped(index)?;
        if self.vrings[index].set_size(size) {
            return Ok(());
        }
        Err(Violation::Range { what: "ring size", value: u64::from(size) })
    }

    /// SET_VRING_BASE.
    pub fn set_ring_base(&mut self, index: u32, base: u32) -> Result<(), Violation> {
        let index = self.stopped(index)?;
        let range = |_| Violation::Range { what: "ring base", value: u64::from(base) };
        let base = u16::try_from(base).map_err(range)?;
        self.vrings[index].set_base(base);
        self.set_stop_base(index, base);
        Ok(())
    }

    fn set_stop_base(&mut self, index: usize, base: u16) {
        if index == RX {
            self.rx.base = base;
        } else {
            self.tx.base = base;
        }
    }

    /// SET_VRING_ADDR. On a running ring only the place changes, not the indexes.
    pub fn set_ring_address(&mut self, index: u32, at: UserAddresses) -> Result<(), Violation> {
        let index = self.index(index)?;
        let bad = Violation::BadAddress(index);
        let Some(guest) = at.in_guest(&self.memory) else { return Err(bad) };
        if !self.vrings[index].set_addresses(&guest) {
            return Err(bad);
        }
        self.vrings[index].addresses = Some(at);
        let Some(memory) = self.resolve(index) else { return Err(bad) };
        if self.is_running(index) {
            self.move_ring(index, memory);
        } else {
            self.start(index);
        }
        Ok(())
    }

    fn resolve(&self, index: usize) -> Option<RingMemory> {
        let vring = &self.vrings[index];
        let at = vring.addresses?.in_guest(&self.memory)?;
        RingMemory::resolve(&self.memory, &at, vring.size())
    }

    /// SET_VRING_KICK.
    pub fn set_kick(&mut self, index: u32, fd: Option<File>) -> Result<(), Violation> {
        let index = self.index(index)?;
        let why = "polling instead of kicks is not supported";
        let fd = fd.ok_or(Violation::BadDescriptor(index, why))?;
        self.vrings[index]
            .set_kick(fd, &self.registrar, TOKEN_KICK + index as u16)
            .map_err(|_| Violation::BadDescriptor(index, "kicks cannot be polled for"))?;
        self.start(index);
        Ok(())
    }

    /// Starts a ring that has all it needs.
    fn start(&mut self, index: usize) {
        let vring = &self.vrings[index];
        if self.is_running(index) || !vring.has_kick() || vring.addresses.is_none() {
            return;
        }
        let Some(memory) = self.resolve(index) else {
            return self.fail(index, RingFault::RingUnmapped);
        };
        let base = vring.base();
        if index == RX {
            self.rx.start(Ring::new(memory, Direction::Writable, base, self.features));
        } else {
            self.tx.start(Ring::new(memory, Direction::Readable, base, self.features));
        }
    }

    /// SET_VRING_CALL. What was used before under another descriptor may have gone unnoticed, so
    /// the new one is signalled at once.
    pub fn set_call(&mut self, index: u32, fd: Option<File>) -> Result<(), Violation> {
        let index = self.index(index)?;
        self.vrings[index]
            .set_call(fd)
            .map_err(|_| Violation::BadDescriptor(index, "call descriptor"))?;
        if self.is_running(index) {
            self.vrings[index].call();
        }
        Ok(())
    }

    /// SET_VRING_ERR.
    pub fn set_err(&mut self, index: u32, fd: Option<File>) -> Result<(), Violation> {
        let index = self.index(index)?;
        self.vrings[index]
            .set_err(fd)
            .map_err(|_| Violation::BadDescriptor(index, "error descriptor"))
    }

    /// SET_VRING_ENABLE.
    pub fn set_enable(&mut self, index: u32, enable: u32) -> Result<(), Violation> {
        let index = self.index(index)?;
        let range = Violation::Range { what: "enable flag", value: u64::from(enable) };
        let enable = if enable <= 1 { enable == 1 } else { return Err(range) };
        if index == RX {
            self.rx.enabled = enable;
        } else {
            self.tx.enabled = enable;
        }
        Ok(())
    }

    /// GET_VRING_BASE: stops the ring and says where to go on.
    pub fn stop_ring(&mut self, index: u32) -> Result<u16, Violation> {
        let index = self.index(index)?;
        let base = if index == RX { self.rx.stop() } else { self.tx.stop() };
        let vring = &mut self.vrings[index];
        vring.set_base(base);
        vring.call();
        vring.drop_kick(&self.registrar);
        let _ = vring.set_call(None);
        Ok(base)
    }

    /// RESET_DEVICE: all rings stop and are disabled, features are forgotten. Memory, call and error
    /// descriptors stay: QEMU sets the latter once, before the first reset.
    pub fn reset_device(&mut self) {
        for (index, vring) in self.vrings.iter_mut().enumerate() {
            let ring = if index == RX { &self.rx.ring } else { &self.tx.ring };
            let ran = ring.is_some();
            let base = if index == RX { self.rx.stop() } else { self.tx.stop() };
            vring.set_base(base);
            if ran {
                // What is kept back is said now: a driver that goes on with these rings waits for it.
                vring.call();
            }
            vring.drop_kick(&self.registrar);
        }
        (self.rx.enabled, self.tx.enabled) = (false, false);
        self.apply_features(Features::default());
    }

    /// The front-end is gone: everything of it is forgotten, descriptors leave epoll before they are
    /// closed, memory is unmapped.
    pub fn disconnect(&mut self) {
        self.reset_device();
        self.report_faults();
        for vring in &mut self.vrings {
            vring.reset(&self.registrar);
        }
        (self.rx.base, self.tx.base) = (0, 0);
        (self.protocol, self.mtu) = (0, None);
        self.set_memory(Memory::default());
    }

    /// Makes room for further kicks of ring `index`.
    pub fn acknowledge_kick(&self, index: usize) {
        self.vrings[index].acknowledge_kick();
    }

    /// Publishes used buffers of both rings and notifies the drivers that want it.
    pub fn flush(&mut self) {
        self.publish();
        for index in [TX, RX] {
            if self.wants_call(index) {
                self.call(index);
            }
        }
        self.moderation.clear();
    }

    /// The same, but keeps a notification of the transmit ring back that may wait; returns until when.
    pub fn flush_lazily(&mut self, now: Duration) -> Option<Duration> {
        self.publish();
        let woken = self.wants_call(RX);
        if woken {
            self.call(RX);
        }
        if !self.wants_call(TX) {
            self.moderation.clear();
            return None;
        }
        let frames = self.tx.ring.as_ref().map_or(0, Ring::untold);
        let until = self.moderation.hold(now, frames, woken);
        if until.is_none() {
            self.call(TX);
        }
        until
    }

    fn publish(&mut self) {
        for ring in [&mut self.tx.ring, &mut self.rx.ring].into_iter().flatten() {
            ring.publish();
        }
    }

    fn ring(&mut self, index: usize) -> Option<&mut Ring> {
        if index == TX { self.tx.ring.as_mut() } else { self.rx.ring.as_mut() }
    }

    fn wants_call(&mut self, index: usize) -> bool {
        self.ring(index).is_some_and(Ring::wants_call)
    }

    fn call(&mut self, index: usize) {
        if let Some(ring) = self.ring(index) {
            ring.note_call();
        }
        self.vrings[index].call();
    }

    /// Logs and signals rings that broke since the last call.
    pub fn report_faults(&mut self) {
        let broken = [("receive", self.rx.fault.take()), ("transmit", self.tx.fault.take())];
        for (index, (name, fault)) in broken.into_iter().enumerate() {
            let Some(fault) = fault else { continue };
            warn!("vhost-user: {name} ring stopped: {fault}");
            self.faults += 1;
            self.vrings[index].signal_err();
        }
    }
}
