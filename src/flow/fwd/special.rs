//! Addresses that are not one host on some network, by RFC 6890 (special-purpose registries),
//! RFC 4291 (IPv6) and RFC 1122 3.2.1.3 (IPv4). The host's kernel gives several of them a meaning
//! of its own - an unspecified or IPv4-mapped destination reaches the host's loopback - so they
//! are named here and refused where traffic enters. 240.0.0.0/4, once kept for the future, is none of them:
//! it is unicast to the kernel and to the clouds that use it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Refused;

/// Whether `address` names one host, and not this one itself.
pub(crate) fn is_one_host(address: IpAddr) -> bool {
    unicast(address).is_ok()
}

/// `address` if it names one host.
///
/// # Errors
/// The kind of special address that it is.
pub(super) fn unicast(address: IpAddr) -> Result<IpAddr, Refused> {
    match address {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => special_v6(v6),
    }
    .map_or(Ok(address), Err)
}

/// Whether `address` names many hosts at once, by what is known without asking a kernel: a group, or all of a link.
pub(crate) fn is_many(address: IpAddr) -> bool {
    matches!(unicast(address), Err(Refused::Multicast | Refused::Broadcast))
}

/// `address` if it names one host or a group that may leave its node.
///
/// # Errors
/// The kind of special address that it is.
pub(super) fn unicast_or_group(address: IpAddr) -> Result<IpAddr, Refused> {
    match unicast(address) {
        Err(Refused::Multicast) => Ok(address),
        other => other,
    }
}

/// Whether `address` is an IPv6 link-local one.
pub(super) fn is_link_local_v6(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn special_v4(address: Ipv4Addr) -> Option<Refused> {
    match address.octets() {
        [0, ..] => Some(Refused::Unspecified),
        [127, ..] => Some(Refused::Loopback),
        [255, 255, 255, 255] => Some(Refused::Broadcast),
        [224..=239, ..] => Some(Refused::Multicast),
        _ => None,
    }
}

fn special_v6(address: Ipv6Addr) -> Option<Refused> {
    const INTERFACE_LOCAL: u16 = 1;
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Refused::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Refused::Loopback),
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] => Some(Refused::V4InV6),
        [first @ 0xff00..=0xffff, ..] if first & 0xf <= INTERFACE_LOCAL => Some(Refused::Reserved),
        [0xff00..=0xffff, ..] => Some(Refused::Multicast),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6890_special_addresses_are_named() {
        let table = [
            ("0.0.0.0", Err(Refused::Unspecified)),
            ("0.1.2.3", Err(Refused::Unspecified)),
            ("127.0.0.1", Err(Refused::Loopback)),
            ("127.255.255.254", Err(Refused::Loopback)),
            ("224.0.0.1", Err(Refused::Multicast)),
            ("239.255.255.255", Err(Refused::Multicast)),
            ("240.0.0.1", Ok(())),
            ("255.255.255.254", Ok(())),
            ("255.255.255.255", Err(Refused::Broadcast)),
            ("192.0.2.1", Ok(())),
            ("169.254.1.1", Ok(())),
            ("::", Err(Refused::Unspecified)),
            ("::1", Err(Refused::Loopback)),
            ("::2", Err(Refused::V4InV6)),
            ("::192.0.2.1", Err(Refused::V4InV6)),
            ("::ffff:192.0.2.1", Err(Refused::V4InV6)),
            ("::ffff:127.0.0.1", Err(Refused::V4InV6)),
            ("ff00::1", Err(Refused::Reserved)),
            ("ff01::1", Err(Refused::Reserved)),
            ("ff11::1", Err(Refused::Reserved)),
            ("ff02::1", Err(Refused::Multicast)),
            ("ff0e::1", Err(Refused::Multicast)),
            ("fe80::1", Ok(())),
            ("64:ff9b::c000:201", Ok(())),
            ("2001:db8::1", Ok(())),
        ];
        for (text, expected) in table {
            let address = text.parse().unwrap();
            assert_eq!(unicast(address), expected.map(|()| address), "{text}");
        }
    }

    #[test]
    fn groups_that_leave_the_node_pass_where_groups_may() {
        for (text, passes) in [("224.0.0.1", true), ("ff02::1", true), ("ff01::1", false)] {
            assert_eq!(unicast_or_group(text.parse().unwrap()).is_ok(), passes, "{text}");
        }
    }
}
