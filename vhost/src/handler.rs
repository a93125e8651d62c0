//! The `vhost` crate's view of the device: each of its calls is handed to the [`Session`].
//!
//! The crate's `BackendReqHandler` owns its backend behind an `Arc` and calls it through `&self`,
//! while the data path wants plain fields. So the session lies in the device and is *lent* to
//! the [`Adapter`] for the length of one message: swapped in, swapped out, no lock.

use std::cell::RefCell;
use std::fs::File;
use std::io;

use log::warn;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandler};

use crate::features::protocol;
use crate::region::{MAX_REGIONS, RegionSpec};
use crate::session::{Session, Violation};
use crate::vring::UserAddresses;

/// Holds the session while a message is handled.
pub(crate) struct Adapter {
    session: RefCell<Session>,
}

impl Adapter {
    /// An adapter that holds `vacant` as long as the device has its session itself.
    pub(crate) fn new(vacant: Session) -> Self {
        Self { session: RefCell::new(vacant) }
    }

    /// Swaps the session in, or out.
    pub(crate) fn swap(&self, session: &mut Session) {
        std::mem::swap(&mut *self.session.borrow_mut(), session);
    }

    fn with<T>(
        &self,
        call: impl FnOnce(&mut Session) -> std::result::Result<T, Violation>,
    ) -> Result<T> {
        call(&mut self.session.borrow_mut()).map_err(refused)
    }
}

/// A violation in the form in which the crate passes it on.
fn refused(violation: Violation) -> Error {
    Error::ReqHandlerError(io::Error::other(violation))
}

fn spec(region: &VhostUserMemoryRegion) -> RegionSpec {
    RegionSpec {
        guest: region.guest_phys_addr,
        len: region.memory_size,
        user: region.user_addr,
        offset: region.mmap_offset,
    }
}

impl VhostUserBackendReqHandler for Adapter {
    fn set_owner(&self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&self) -> Result<()> {
        self.with(|session| {
            session.reset_owner();
            Ok(())
        })
    }

    fn reset_device(&self) -> Result<()> {
        self.with(|session| {
            session.reset_device();
            Ok(())
        })
    }

    fn get_features(&self) -> Result<u64> {
        self.with(|session| Ok(session.offered()))
    }

    fn set_features(&self, features: u64) -> Result<()> {
        self.with(|session| session.set_features(features))
    }

    fn set_mem_table(
        &self,
        ctx: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let table = ctx.iter().map(spec).zip(files).collect();
        self.with(|session| session.set_memory_table(table))?;
        Ok(None)
    }

    fn set_vring_num(&self, index: u32, num: u32) -> Result<()> {
        self.with(|session| session.set_ring_size(index, num))
    }

    fn set_vring_addr(
        &self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let logged = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG);
        let used_in_log = logged.then_some(log);
        let at = UserAddresses { descriptors, available, used, used_in_log };
        self.with(|session| session.set_ring_address(index, at))
    }

    fn set_vring_base(&self, index: u32, base: u32) -> Result<()> {
        self.with(|session| session.set_ring_base(index, base))
    }

    fn get_vring_base(&self, index: u32) -> Result<VhostUserVringState> {
        let base = self.with(|session| session.stop_ring(index))?;
        Ok(VhostUserVringState::new(index, u32::from(base)))
    }

    fn set_vring_kick(&self, index: u8, fd: Option<File>) -> Result<()> {
        self.with(|session| session.set_kick(u32::from(index), fd))
    }

    fn set_vring_call(&self, index: u8, fd: Option<File>) -> Result<()> {
        self.with(|session| session.set_call(u32::from(index), fd))
    }

    fn set_vring_err(&self, index: u8, fd: Option<File>) -> Result<()> {
        self.with(|session| session.set_err(u32::from(index), fd))
    }

    fn get_protocol_features(&self) -> Result<VhostUserProtocolFeatures> {
        Ok(protocol())
    }

    fn set_protocol_features(&self, features: u64) -> Result<()> {
        self.with(|session| session.set_protocol(features))
    }

    fn get_queue_num(&self) -> Result<u64> {
        self.with(|session| Ok(session.queue_num()))
    }

    fn set_vring_enable(&self, index: u32, enable: bool) -> Result<()> {
        self.with(|session| session.set_enable(index, u32::from(enable)))
    }

    fn get_config(&self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        self.with(|session| Ok(session.config_space(offset, size)))
    }

    /// No field of a modern network device is writable, so there is nothing to do.
    fn set_config(&self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Ok(())
    }

    fn set_gpu_socket(&self, _gpu_backend: GpuBackend) -> Result<()> {
        Err(refused(Violation::Unsupported))
    }

    fn get_shared_object(&self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(refused(Violation::Unsupported))
    }

    fn get_inflight_fd(&self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(refused(Violation::Unsupported))
    }

    fn set_inflight_fd(&self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(refused(Violation::Unsupported))
    }

    fn get_max_mem_slots(&self) -> Result<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &self,
        region: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        self.with(|session| session.add_region(spec(region), fd))?;
        Ok(None)
    }

    fn remove_mem_region(&self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.with(|session| session.remove_region(&spec(region)))
    }

    fn set_device_state_fd(
        &self,
        direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        fd: File,
    ) -> Result<Option<File>> {
        let begun = self.session.borrow_mut().begin_transfer(direction, fd);
        begun.map(|()| None).map_err(|error| {
            warn!("vhost-user: device state is not transferred: {error}");
            Error::ReqHandlerError(io::Error::other(error))
        })
    }

    /// Served before it comes here, since the answer may take a while.
    fn check_device_state(&self) -> Result<()> {
        Err(refused(Violation::Unsupported))
    }

    fn get_shmem_config(&self) -> Result<VhostUserShMemConfig> {
        Err(refused(Violation::Unsupported))
    }

    /// Served before it comes here.
    fn set_log_base(&self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(refused(Violation::Unsupported))
    }
}
