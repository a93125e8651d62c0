//! In place of `passt_vhost` where processors have addresses of 32 bits: the crates that map a guest's memory are not for
//! those. A device that no front-end can be attached to; what is sent to it, is sent to nobody.

#![allow(unreachable_pub, reason = "they are as public as those that they stand in for")]

use std::os::unix::net::UnixStream;
use std::time::Duration;

use passt_frame::{Errno, FrontEndRequest, PortEvents, Registrar};

use crate::engine::event_counters::EventType;

/// Settings of the device.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "the other one reads them")]
pub struct Config {
    /// MAC address for the guest.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet in bytes.
    pub mtu: u16,
}

/// Why a front-end cannot be attached.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("vhost-user is not in builds for processors of 32 bits: give the guest -netdev stream")]
pub struct SetupError;

/// The device.
#[derive(Clone, Copy, Debug)]
pub struct Device;

impl Device {
    /// Makes it.
    ///
    /// # Errors
    /// None: there is nothing to make.
    #[allow(clippy::needless_pass_by_value, reason = "the other one keeps it")]
    pub fn new(_registrar: Registrar, _config: Config) -> Result<Self, SetupError> {
        Ok(Self)
    }

    /// Refuses the front-end.
    ///
    /// # Errors
    /// Always.
    #[allow(clippy::needless_pass_by_value, reason = "the other one keeps it")]
    pub fn attach(&mut self, _front_end: UnixStream) -> Result<(), SetupError> {
        Err(SetupError)
    }

    pub(super) fn is_attached(&self) -> bool {
        false
    }

    pub(super) fn is_leaving(&self) -> bool {
        false
    }

    pub(super) fn event_type(&self, _token: u16) -> EventType {
        EventType::Control
    }

    pub(super) fn on_event(&mut self, _token: u16) -> PortEvents {
        PortEvents::default()
    }

    pub(super) fn take_request(&mut self) -> Option<FrontEndRequest> {
        None
    }

    pub(super) fn answer_check(&mut self, _ended: Result<(), Errno>) {}

    pub(super) fn flush(&mut self) {}

    pub(super) fn flush_lazily(&mut self, _now: Duration) -> Option<Duration> {
        None
    }

    pub(super) fn counters(&self, _visit: &mut dyn FnMut(&'static str, u64)) {}
}
