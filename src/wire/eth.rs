//! Ethernet II addresses and types (IEEE 802.3, RFC 894).

use std::net::IpAddr;

/// Bytes of an Ethernet header without tags.
pub(crate) const HEADER_BYTES: usize = 14;

/// Bytes of a header with one tag (IEEE 802.1Q).
pub(crate) const TAGGED_HEADER_BYTES: usize = HEADER_BYTES + 4;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The broadcast address.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// Our address toward the guest unless `--mac-addr` says otherwise.
    pub const OURS: Self = Self([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);

    /// The address of a group on Ethernet (RFC 1112, section 6.4; RFC 2464, section 7).
    pub(crate) fn of_group(group: IpAddr) -> Self {
        match group {
            IpAddr::V4(v4) => {
                let [_, a, b, c] = v4.octets();
                Self([0x01, 0, 0x5e, a & 0x7f, b, c])
            }
            IpAddr::V6(v6) => {
                let [.., a, b, c, d] = v6.octets();
                Self([0x33, 0x33, a, b, c, d])
            }
        }
    }

    /// Whether a station may have this address: not a group's, and not zero.
    pub(crate) fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self != Self::default()
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
