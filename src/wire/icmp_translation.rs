//! ICMP errors: their numbers, and those of one family in the words of the other (RFC 7915, sections 4.2 and 5.2), for flows
//! whose two sides differ in it. Pure numbers; the message around them is made elsewhere.
//!
//! "Parameter problem" is left out, as its pointer is of no use: the packet that it points into is not
//! the guest's. So is "protocol unreachable" on the way to IPv6, which would become one.

/// What an ICMP or ICMPv6 error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IcmpError {
    /// Type.
    pub(crate) kind: u8,
    /// Code of that type.
    pub(crate) code: u8,
    /// MTU of the next hop, bytes, with "fragmentation needed" and "packet too big"; with "parameter problem" of IPv6 the
    /// byte of the packet that it is about.
    pub(crate) mtu: u32,
}

/// Types of ICMP errors, and the codes of "destination unreachable" that are used.
pub(crate) mod v4 {
    /// Destination unreachable.
    pub(crate) const UNREACHABLE: u8 = 3;
    /// Time exceeded.
    pub(crate) const TIME_EXCEEDED: u8 = 11;
    /// Destination unreachable: a packet that may not be fragmented is too big.
    pub(crate) const FRAGMENTATION_NEEDED: u8 = 4;
    /// Destination unreachable: the network.
    pub(crate) const NETWORK: u8 = 0;
    /// Destination unreachable: the host.
    pub(crate) const HOST: u8 = 1;
    /// Destination unreachable: communication administratively prohibited (RFC 1812, section 5.2.7.1).
    pub(crate) const PROHIBITED: u8 = 13;
    /// Destination unreachable: the protocol.
    pub(crate) const PROTOCOL: u8 = 2;
    /// Destination unreachable: the port.
    pub(crate) const PORT: u8 = 3;
    pub(super) const HOST_PROHIBITED: u8 = 10;
}

/// Types of ICMPv6 errors, and the codes that are used.
pub(crate) mod v6 {
    /// Destination unreachable.
    pub(crate) const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub(crate) const TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub(crate) const TIME_EXCEEDED: u8 = 3;
    /// Destination unreachable: no route.
    pub(crate) const NO_ROUTE: u8 = 0;
    /// Destination unreachable: communication administratively prohibited.
    pub(crate) const PROHIBITED: u8 = 1;
    /// Destination unreachable: the address.
    pub(crate) const ADDRESS: u8 = 3;
    /// Destination unreachable: the port.
    pub(crate) const PORT: u8 = 4;
    /// Parameter problem.
    pub(crate) const PARAMETER: u8 = 4;
    /// Parameter problem: a "next header" that is not known.
    pub(crate) const UNRECOGNIZED_NEXT_HEADER: u8 = 1;
}

/// By how much an IPv6 header is longer than an IPv4 one.
const HEADER_DIFFERENCE: u32 = 20;
/// The least MTU of IPv6 (RFC 8200, section 5).
const MIN_MTU_V6: u32 = 1280;

impl IcmpError {
    /// The same error in the words of the other family, `None` if it has no word for it; `self` is of
    /// IPv4 if `v4`.
    #[must_use]
    pub(crate) fn translated(self, v4: bool) -> Option<Self> {
        if v4 { self.into_v6() } else { self.into_v4() }
    }

    fn into_v6(self) -> Option<Self> {
        let unreachable = |code| Some(Self { kind: v6::UNREACHABLE, code, mtu: 0 });
        match (self.kind, self.code) {
            (v4::UNREACHABLE, v4::PORT) => unreachable(v6::PORT),
            (v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED) => {
                let mtu = self.mtu.saturating_add(HEADER_DIFFERENCE).max(MIN_MTU_V6);
                Some(Self { kind: v6::TOO_BIG, code: 0, mtu })
            }
            (v4::UNREACHABLE, 0 | v4::HOST | 5..=8 | 11 | 12) => unreachable(v6::NO_ROUTE),
            (v4::UNREACHABLE, 9 | v4::HOST_PROHIBITED | v4::PROHIBITED | 15) => {
                unreachable(v6::PROHIBITED)
            }
            (v4::TIME_EXCEEDED, code) => Some(Self { kind: v6::TIME_EXCEEDED, code, mtu: 0 }),
            _ => None,
        }
    }

    fn into_v4(self) -> Option<Self> {
        let unreachable = |code| Some(Self { kind: v4::UNREACHABLE, code, mtu: 0 });
        match (self.kind, self.code) {
            (v6::UNREACHABLE, v6::PORT) => unreachable(v4::PORT),
            (v6::UNREACHABLE, v6::PROHIBITED) => unreachable(v4::HOST_PROHIBITED),
            (v6::UNREACHABLE, v6::NO_ROUTE | 2 | 3) => unreachable(v4::HOST),
            (v6::TOO_BIG, _) => {
                let mtu = self.mtu.saturating_sub(HEADER_DIFFERENCE);
                Some(Self { kind: v4::UNREACHABLE, code: v4::FRAGMENTATION_NEEDED, mtu })
            }
            (v6::TIME_EXCEEDED, code) => Some(Self { kind: v4::TIME_EXCEEDED, code, mtu: 0 }),
            (v6::PARAMETER, v6::UNRECOGNIZED_NEXT_HEADER) => unreachable(v4::PROTOCOL),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type and code of the error that stands for one of IPv4 (`v4`) or IPv6.
    fn translated(v4: bool, kind: u8, code: u8) -> Option<(u8, u8)> {
        let error = IcmpError { kind, code, mtu: 1500 };
        error.translated(v4).map(|error| (error.kind, error.code))
    }

    #[test]
    fn rfc7915_4_2_errors_of_ipv4_in_words_of_ipv6() {
        for (kind, code, expected) in [
            (3, 0, Some((1, 0))),
            (3, 1, Some((1, 0))),
            (3, 2, None),
            (3, 3, Some((1, 4))),
            (3, 4, Some((2, 0))),
            (3, 5, Some((1, 0))),
            (3, 8, Some((1, 0))),
            (3, 9, Some((1, 1))),
            (3, 10, Some((1, 1))),
            (3, 12, Some((1, 0))),
            (3, 13, Some((1, 1))),
            (3, 14, None),
            (3, 15, Some((1, 1))),
            (4, 0, None),
            (11, 0, Some((3, 0))),
            (11, 1, Some((3, 1))),
            (12, 0, None),
            (0, 0, None),
        ] {
            assert_eq!(translated(true, kind, code), expected, "type {kind}, code {code}");
        }
    }

    #[test]
    fn rfc7915_5_2_errors_of_ipv6_in_words_of_ipv4() {
        for (kind, code, expected) in [
            (1, 0, Some((3, 1))),
            (1, 1, Some((3, 10))),
            (1, 2, Some((3, 1))),
            (1, 3, Some((3, 1))),
            (1, 4, Some((3, 3))),
            (1, 5, None),
            (2, 0, Some((3, 4))),
            (3, 0, Some((11, 0))),
            (3, 1, Some((11, 1))),
            (4, 0, None),
            (4, 1, Some((3, 2))),
            (129, 0, None),
        ] {
            assert_eq!(translated(false, kind, code), expected, "type {kind}, code {code}");
        }
    }

    #[test]
    fn rfc7915_an_mtu_counts_the_longer_header() {
        let mtu = |v4, kind, code, mtu| {
            IcmpError { kind, code, mtu }.translated(v4).map(|error| error.mtu)
        };
        assert_eq!(mtu(true, 3, 4, 1400), Some(1420));
        assert_eq!(mtu(true, 3, 4, 576), Some(1280));
        assert_eq!(mtu(true, 3, 4, u32::MAX), Some(u32::MAX));
        assert_eq!(mtu(false, 2, 0, 1400), Some(1380));
        assert_eq!(mtu(false, 2, 0, 0), Some(0));
    }
}
