//! The feature words: virtio (virtio 1.2, sections 5.1.3 and 6) and vhost-user protocol features.
//!
//! Offered is only what is served. Not offered, so that no front-end or driver counts on it: in-order use, in-flight tracking, the packed ring, and translation by an IOMMU
//! (`ACCESS_PLATFORM`): each address of a ring would have to be asked for at the front-end, and what is on its
//! way to wait for the answer. QEMU says `iommu_platform=true is not supported by the device` then.

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use passt_frame::GsoSet;
use passt_frame::net_header::{Accepted, HEADER_BYTES};

/// vhost-user's own bit in the virtio word: protocol features can be negotiated.
const PROTOCOL_FEATURES: u32 = 30;

/// Bytes of the header without the number of buffers.
const LEGACY_HEADER_BYTES: usize = HEADER_BYTES - 2;
/// vhost's own bit there (`VHOST_F_LOG_ALL`): written pages are marked in the dirty log. Acknowledged by the
/// front-end while it wants that; the driver never sees it.
const LOG_ALL: u32 = 26;

/// Offered virtio bits that depend on no option.
const ALWAYS: [u32; 25] = [
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
    PROTOCOL_FEATURES,
    LOG_ALL,
    net::VIRTIO_NET_F_MRG_RXBUF,
    net::VIRTIO_NET_F_CSUM,
    net::VIRTIO_NET_F_GUEST_CSUM,
    net::VIRTIO_NET_F_HOST_TSO4,
    net::VIRTIO_NET_F_HOST_TSO6,
    net::VIRTIO_NET_F_GUEST_TSO4,
    net::VIRTIO_NET_F_GUEST_TSO6,
    net::VIRTIO_NET_F_HOST_USO,
    net::VIRTIO_NET_F_GUEST_USO4,
    net::VIRTIO_NET_F_GUEST_USO6,
    net::VIRTIO_NET_F_HOST_ECN,
    net::VIRTIO_NET_F_MTU,
    net::VIRTIO_NET_F_STATUS,
    net::VIRTIO_NET_F_CTRL_VQ,
    net::VIRTIO_NET_F_CTRL_RX,
    net::VIRTIO_NET_F_CTRL_VLAN,
    net::VIRTIO_NET_F_CTRL_RX_EXTRA,
    net::VIRTIO_NET_F_GUEST_ANNOUNCE,
    net::VIRTIO_NET_F_MQ,
    net::VIRTIO_NET_F_CTRL_MAC_ADDR,
];

/// The virtio feature word that GET_FEATURES answers.
pub(crate) fn offered(with_mac: bool) -> u64 {
    let word = ALWAYS.iter().fold(0, |word, bit| word | 1u64 << bit);
    word | u64::from(with_mac) << net::VIRTIO_NET_F_MAC
}

/// The protocol features that are served. The vhost crate adds REPLY_ACK, which it implements.
///
/// # Memory slots
/// With `CONFIGURE_MEM_SLOTS` a front-end adds and removes regions one by one, up to as many as we say. Without it, QEMU
/// sends a table of eight regions at most with each change: it refuses a ninth one to be plugged into the machine, and
/// each that is plugged has all guest memory unmapped and mapped again, which makes every page be faulted in anew. So
/// slots are worth it for machines whose memory grows and shrinks (DIMMs, virtio-mem), and cost others nothing: two
/// messages with one descriptor each, in place of one with two.
///
/// The descriptors are the same either way: QEMU takes them from the memory's backend when it writes the message. QEMU 11.1
/// with `-netdev passt,vhost-user=on` was seen to send that of a socket, in 4 of 97 starts. That is no message's of those
/// that are offered here, and [`message`](crate::message) leaves descriptors with theirs; a table would have it as well. It
/// is refused with a line that names the region. That QEMU closes the end of the socket pair that passt gets twice, as
/// strace(1) shows: when GLib is done with it, and 28 ms later once more by its number, which is free then (`EBADF`) or
/// another thread's. What has lost a descriptor that way closes or sends one that has become another's.
pub(crate) fn protocol() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::RARP
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::MTU
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::RESET_DEVICE
        | VhostUserProtocolFeatures::DEVICE_STATE
}

/// A virtio feature word that was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features(pub(crate) u64);

impl Features {
    fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// The driver speaks the interface since virtio 1.0, whose words are little-endian.
    pub(crate) fn version_1(self) -> bool {
        self.has(VIRTIO_F_VERSION_1)
    }

    /// Bytes of the header in front of each frame. For drivers from before virtio 1.0 it ends without the
    /// number of buffers unless a frame may take several (5.1.6.1).
    pub(crate) fn header_bytes(self) -> usize {
        if self.version_1() || self.mergeable() { HEADER_BYTES } else { LEGACY_HEADER_BYTES }
    }

    /// Rings are switched by SET_VRING_ENABLE; without it they are always enabled.
    pub(crate) fn protocol_features(self) -> bool {
        self.has(PROTOCOL_FEATURES)
    }

    /// Written pages are to be marked in the dirty log.
    pub(crate) fn log_all(self) -> bool {
        self.has(LOG_ALL)
    }

    /// Notifications are suppressed by index, not by flag.
    pub(crate) fn event_idx(self) -> bool {
        self.has(VIRTIO_RING_F_EVENT_IDX)
    }

    /// Chains may lie in tables of their own.
    pub(crate) fn indirect(self) -> bool {
        self.has(VIRTIO_RING_F_INDIRECT_DESC)
    }

    /// A frame to the guest may take several buffers.
    pub(crate) fn mergeable(self) -> bool {
        self.has(net::VIRTIO_NET_F_MRG_RXBUF)
    }

    /// The guest accepts partial checksums.
    pub(crate) fn guest_checksum(self) -> bool {
        self.has(net::VIRTIO_NET_F_GUEST_CSUM)
    }

    /// The guest may send partial checksums.
    pub(crate) fn host_checksum(self) -> bool {
        self.has(net::VIRTIO_NET_F_CSUM)
    }

    /// There is a control queue.
    pub(crate) fn control_queue(self) -> bool {
        self.has(net::VIRTIO_NET_F_CTRL_VQ)
    }

    /// Receive modes and filter tables are commands of it.
    pub(crate) fn control_rx(self) -> bool {
        self.has(net::VIRTIO_NET_F_CTRL_RX)
    }

    /// So are more receive modes.
    pub(crate) fn control_rx_extra(self) -> bool {
        self.has(net::VIRTIO_NET_F_CTRL_RX_EXTRA)
    }

    /// So are VLAN filters.
    pub(crate) fn control_vlan(self) -> bool {
        self.has(net::VIRTIO_NET_F_CTRL_VLAN)
    }

    /// So is setting the Ethernet address.
    pub(crate) fn control_mac(self) -> bool {
        self.has(net::VIRTIO_NET_F_CTRL_MAC_ADDR)
    }

    /// So is the answer to a request for an announcement.
    pub(crate) fn announce(self) -> bool {
        self.has(net::VIRTIO_NET_F_GUEST_ANNOUNCE)
    }

    /// There may be more than one queue pair.
    pub(crate) fn multi_queue(self) -> bool {
        self.has(net::VIRTIO_NET_F_MQ)
    }

    /// What the guest may leave to us.
    pub(crate) fn accepted(self) -> Accepted {
        Accepted { checksum: self.host_checksum(), gso: self.host_gso() }
    }

    /// Segmentation that the guest accepts. All of it needs the partial checksum (5.1.3.1).
    pub(crate) fn guest_gso(self) -> GsoSet {
        if !self.guest_checksum() {
            return GsoSet::default();
        }
        GsoSet {
            tcp_v4: self.has(net::VIRTIO_NET_F_GUEST_TSO4),
            tcp_v6: self.has(net::VIRTIO_NET_F_GUEST_TSO6),
            udp: self.has(net::VIRTIO_NET_F_GUEST_USO4) && self.has(net::VIRTIO_NET_F_GUEST_USO6),
        }
    }

    /// Segmentation that the guest may ask for.
    pub(crate) fn host_gso(self) -> GsoSet {
        GsoSet {
            tcp_v4: self.has(net::VIRTIO_NET_F_HOST_TSO4),
            tcp_v6: self.has(net::VIRTIO_NET_F_HOST_TSO6),
            udp: self.has(net::VIRTIO_NET_F_HOST_USO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_nothing_that_is_not_served() {
        let word = offered(true);
        for bit in [net::VIRTIO_NET_F_RSS, net::VIRTIO_NET_F_HASH_REPORT, 2, 33, 34, 35] {
            assert_eq!(word & (1 << bit), 0, "bit {bit}");
        }
        assert_eq!(word & !offered(false), 1 << net::VIRTIO_NET_F_MAC);
    }

    #[test]
    fn virtio_5_1_6_1_only_a_legacy_driver_without_merged_buffers_has_a_short_header() {
        let (modern, merged) = (1 << VIRTIO_F_VERSION_1, 1 << net::VIRTIO_NET_F_MRG_RXBUF);
        for (word, bytes) in [(0, 10), (merged, 12), (modern, 12), (modern | merged, 12)] {
            assert_eq!(Features(word).header_bytes(), bytes, "{word:#x}");
        }
    }

    #[test]
    fn segmentation_to_the_guest_needs_its_checksum_offload() {
        let all = Features(offered(true));
        assert_eq!(all.guest_gso(), GsoSet { tcp_v4: true, tcp_v6: true, udp: true });
        let without = Features(all.0 & !(1 << net::VIRTIO_NET_F_GUEST_CSUM));
        assert_eq!(without.guest_gso(), GsoSet::default());
    }
}
