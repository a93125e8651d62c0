//! The guest as a link of a smoltcp stack: an independent TCP/IP on the driver's side.
//!
//! Frames are sent with complete checksums and without offloads. What is received may carry partial
//! checksums and be larger than the MTU (segmentation left to the guest); a guest that accepted that
//! does not verify, so smoltcp is told not to.

use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::{Guest, NetHeader, bit};

/// IP packet size that the stack may use, in bytes.
const MTU: usize = 1500;

/// A received frame.
pub struct Received(Vec<u8>);

/// Leave to send one frame.
pub struct Sending<'a>(&'a mut Guest);

impl smoltcp::phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl smoltcp::phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.send_frame(&frame, NetHeader::default());
        result
    }
}

impl Device for Guest {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        self.reclaim();
        if !self.can_send() {
            return None;
        }
        let (frame, _) = self.recv_frame()?;
        Some((Received(frame), Sending(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        self.reclaim();
        self.can_send().then_some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + 14;
        if self.features & bit::GUEST_CSUM != 0 {
            let mut checksum = ChecksumCapabilities::default();
            checksum.tcp = Checksum::Tx;
            checksum.udp = Checksum::Tx;
            checksum.icmpv4 = Checksum::Tx;
            checksum.icmpv6 = Checksum::Tx;
            capabilities.checksum = checksum;
        }
        capabilities
    }
}
