//! What the tests of all responders share: a network, and ways to damage a message.

use std::net::{Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use proptest::prelude::*;

use crate::flow::network::{Ipv4Net, Ipv6Net, Mac, Network};

/// The guest's Ethernet address.
pub(super) const GUEST_MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
/// The addresses handed out, and ours.
pub(super) const GUEST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(super) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x22);
pub(super) const GUEST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);
pub(super) const DNS_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
pub(super) const DNS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 53, 0, 0, 0, 1);

/// Both families, one DNS server each, MTU 65520, no names.
pub(super) fn network() -> Network {
    let v4 = Some(Ipv4Net {
        addr: GUEST_V4,
        prefix_len: 24,
        gateway: Some(GATEWAY_V4),
        fixed: false,
        dns: ArrayVec::from_iter([DNS_V4]),
        routes: None,
    });
    let v6 = Some(Ipv6Net {
        addr: Some(GUEST_V6),
        gateway: Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
        our_link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        fixed: false,
        dns: ArrayVec::from_iter([DNS_V6]),
        default_router: true,
        scope_id: 2,
    });
    Network::new(v4, v6)
}

/// [`network`] with everything in it as long as it gets.
pub(super) fn full_network() -> Network {
    let mut net = network();
    let label = "x".repeat(63);
    let long = format!("{label}.{label}.{label}.{}", &label[..61]);
    net.hostname = Some("h".repeat(63));
    net.fqdn = Some(long.clone());
    net.search = (0..6).map(|i| format!("{i}{}", &long[1..])).collect();
    if let Some(v4) = &mut net.v4 {
        v4.gateway = Some(Ipv4Addr::new(203, 0, 113, 1));
        v4.dns = ArrayVec::from([DNS_V4; 3]);
    }
    if let Some(v6) = &mut net.v6 {
        v6.dns = ArrayVec::from([DNS_V6; 3]);
    }
    net
}

/// `net` with the search list `domains`.
pub(super) fn with_search(mut net: Network, domains: &[&str]) -> Network {
    net.search = domains.iter().map(|d| (*d).to_owned()).collect();
    net
}

/// Bytes written as hex, blanks ignored.
pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|d| u8::try_from(d).expect("a hex digit"))
        .collect();
    digits.chunks_exact(2).map(|d| d[0] << 4 | d[1]).collect()
}

/// Variants of `valid`: some bytes replaced, then cut or extended.
pub(super) fn damaged(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    let tail = prop::collection::vec(any::<u8>(), 0..64);
    (changes, any::<prop::sample::Index>(), tail).prop_map(move |(changes, cut, tail)| {
        let mut bytes = valid.clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(2 * valid.len()).min(valid.len()));
        bytes.extend(tail);
        bytes
    })
}

/// Anything.
pub(super) fn noise() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..1500)
}
