//! Kinds of places that an address may belong to, by the special-purpose registries (RFC 6890) and by what is known of
//! this host. An IPv6 address that stands for an IPv4 one, by whatever translation on the way, belongs to the places
//! of both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{BitOr, BitOrAssign};

/// A set of kinds of places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places(u8);

impl Places {
    /// `@loopback`: this host itself, by an address that is every host's own.
    pub const LOOPBACK: Self = Self(1);
    /// `@host`: this host, by whatever address.
    pub const HOST: Self = Self(2);
    /// `@private`: addresses of no worldwide meaning, and networks that this host is in.
    pub const PRIVATE: Self = Self(4);
    /// `@linklocal`.
    pub const LINK_LOCAL: Self = Self(8);
    /// `@metadata`: where clouds tell a machine its secrets.
    pub const METADATA: Self = Self(16);
    /// `@multicast`: many at once, broadcast included.
    pub const MULTICAST: Self = Self(32);
    /// `@internet`: none of the others.
    pub const INTERNET: Self = Self(64);
    /// `@dns`: the guest's name servers, on the ports of DNS. No address is in here by itself.
    pub const DNS: Self = Self(128);

    /// The names of all, as rules have them.
    pub const NAMES: [(&'static str, Self); 8] = [
        ("@loopback", Self::LOOPBACK),
        ("@host", Self::HOST),
        ("@private", Self::PRIVATE),
        ("@linklocal", Self::LINK_LOCAL),
        ("@metadata", Self::METADATA),
        ("@multicast", Self::MULTICAST),
        ("@internet", Self::INTERNET),
        ("@dns", Self::DNS),
    ];

    /// Whether one of these is one of `other`.
    pub(crate) fn meet(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// These but for `other`.
    #[must_use]
    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Places {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Places {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// A network: its addresses have the first bits of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// The network of `address` with prefixes of `len` bits; `None` if there are not so many.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        (len <= most).then_some(Self { address, len })
    }

    /// Whether `address` is in it.
    pub(crate) fn has(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                let differ = ours.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= u32::from(self.len)
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => {
                let differ = ours.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= u32::from(self.len)
            }
            _ => false,
        }
    }

    /// The last address of an IPv4 network that has a broadcast address.
    fn is_broadcast(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) if self.len < 31 && self.has(address) => {
                v4.to_bits() | (u32::MAX << (32 - u32::from(self.len).min(31))) == u32::MAX
            }
            _ => false,
        }
    }
}

/// What is known of this host: its addresses, each with the length of its network's prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings(pub Vec<(IpAddr, u8)>);

impl Surroundings {
    /// The places of `address`.
    pub(crate) fn of(&self, address: IpAddr) -> Places {
        let mut places = self.plain(address);
        for inner in embedded(address).into_iter().flatten() {
            places |= self.plain(inner.into());
        }
        if places == Places::default() { Places::INTERNET } else { places }
    }

    /// The same, but for what an IPv6 address says of an IPv4 one.
    fn plain(&self, address: IpAddr) -> Places {
        let mut places = match address {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) => of_v6(v6),
        };
        for &(own, len) in &self.0 {
            if own == address {
                places |= Places::HOST;
            }
            // A prefix of 0 is that of no network.
            let network = Prefix::new(own, len).filter(|_| len > 0);
            if network.is_some_and(|network| network.has(address)) {
                places |= Places::PRIVATE;
            }
            if network.is_some_and(|network| network.is_broadcast(address)) {
                places |= Places::MULTICAST;
            }
        }
        places
    }
}

fn of_v4(address: Ipv4Addr) -> Places {
    let metadata = matches!(
        address.octets(),
        [169, 254, 169, 254]
            | [169, 254, 170, 2 | 23]
            | [100, 100, 100, 200]
            | [168, 63, 129, 16]
            | [192, 0, 0, 192]
    );
    let place = match address.octets() {
        [0 | 127, ..] => Places::LOOPBACK | Places::HOST,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Places::PRIVATE,
        // RFC 6598, RFC 6890, RFC 2544.
        [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] => Places::PRIVATE,
        [169, 254, ..] => Places::LINK_LOCAL,
        [224..=239, ..] | [255, 255, 255, 255] => Places::MULTICAST,
        [240..=255, ..] => Places::PRIVATE,
        _ => Places::default(),
    };
    if metadata { place | Places::METADATA } else { place }
}

fn of_v6(address: Ipv6Addr) -> Places {
    let metadata = matches!(
        address.segments(),
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254 | 0x23]
            | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
            | [0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe]
    );
    let place = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Places::LOOPBACK | Places::HOST,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Places::PRIVATE,
        // RFC 8215 and RFC 6666: a translator of the site's own, and where nothing arrives.
        [0x64, 0xff9b, 1, ..] | [0x100, 0, 0, 0, ..] => Places::PRIVATE,
        [0xfe80..=0xfebf, ..] => Places::LINK_LOCAL,
        [0xff00..=0xffff, ..] => Places::MULTICAST,
        _ => Places::default(),
    };
    if metadata { place | Places::METADATA } else { place }
}

/// The IPv4 addresses that an IPv6 address stands for, or is a way to: mapped and compatible ones (RFC 4291), translated
/// ones (RFC 6052, RFC 7915), 6to4 (RFC 3056), ISATAP (RFC 5214); with Teredo (RFC 4380) server and client.
pub(super) fn embedded(address: IpAddr) -> [Option<Ipv4Addr>; 2] {
    let IpAddr::V6(v6) = address else { return [None, None] };
    let v4 =
        |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => [v4(high, low), None],
        [0, 0, 0, 0, 0xffff, 0, high, low] => [v4(high, low), None],
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [v4(high, low), None],
        [0x2002, high, low, ..] => [v4(high, low), None],
        [0x2001, 0, high, low, _, _, hidden, lower] => [v4(high, low), v4(!hidden, !lower)],
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => [v4(high, low), None],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(places: Places) -> String {
        let names = Places::NAMES.iter().filter(|(_, place)| place.meet(places));
        names.map(|(name, _)| &name[1..]).collect::<Vec<_>>().join(" ")
    }

    fn surroundings() -> Surroundings {
        let own = [("127.0.0.1", 8), ("192.0.2.2", 24), ("2001:db8::2", 64), ("203.0.113.9", 32)];
        let own = own.iter().map(|&(text, len)| (text.parse().unwrap(), len));
        Surroundings(own.chain([("198.51.100.1".parse().unwrap(), 0)]).collect())
    }

    #[test]
    fn rfc6890_places_of_addresses() {
        for (address, expected) in [
            ("198.51.100.7", "internet"),
            ("2001:db8:1::7", "internet"),
            ("127.0.0.1", "loopback host private"),
            ("127.8.8.8", "loopback host private"),
            ("0.0.0.0", "loopback host"),
            ("::1", "loopback host"),
            ("::", "loopback host"),
            ("192.0.2.2", "host private"),
            ("203.0.113.9", "host private"),
            ("2001:db8::2", "host private"),
            ("198.51.100.1", "host"),
            ("192.0.2.9", "private"),
            ("2001:db8::9", "private"),
            ("192.0.2.255", "private multicast"),
            ("10.0.0.1", "private"),
            ("172.16.0.1", "private"),
            ("172.32.0.1", "internet"),
            ("192.168.255.255", "private"),
            ("100.64.0.1", "private"),
            ("100.128.0.1", "internet"),
            ("198.19.0.1", "private"),
            ("240.0.0.1", "private"),
            ("fd12::1", "private"),
            ("fec0::1", "private"),
            ("169.254.1.1", "linklocal"),
            ("fe80::1", "linklocal"),
            ("169.254.169.254", "linklocal metadata"),
            ("168.63.129.16", "metadata"),
            ("100.100.100.200", "private metadata"),
            ("fd00:ec2::254", "private metadata"),
            ("224.0.0.251", "multicast"),
            ("255.255.255.255", "multicast"),
            ("ff02::fb", "multicast"),
        ] {
            assert_eq!(names(surroundings().of(address.parse().unwrap())), expected, "{address}");
        }
    }

    #[test]
    fn addresses_inside_addresses_count() {
        for (address, expected) in [
            ("::ffff:127.0.0.1", "loopback host private"),
            ("::127.0.0.1", "loopback host private"),
            ("::ffff:0:10.0.0.1", "private"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b::198.51.100.7", "internet"),
            ("64:ff9b::192.0.2.2", "host private"),
            ("64:ff9b::169.254.169.254", "linklocal metadata"),
            ("64:ff9b:1::198.51.100.7", "private"),
            ("2002:a00:1::1", "private"),
            ("2002:7f00:1::", "loopback host private"),
            ("2002:c633:6407::1", "internet"),
            ("2001:0:c633:6407::f5ff:fffe", "private"),
            ("2001:0:a00:1::39cc:9bf8", "private"),
            ("2001:0:c633:6407::39cc:9bf8", "internet"),
            ("2001:db8:1::5efe:10.0.0.1", "private"),
            ("fe80::200:5efe:192.168.0.1", "private linklocal"),
        ] {
            assert_eq!(names(surroundings().of(address.parse().unwrap())), expected, "{address}");
        }
    }

    #[test]
    fn prefixes_have_what_begins_as_they_do() {
        let has = |network: &str, len, address: &str| {
            let network = Prefix::new(network.parse().unwrap(), len).unwrap();
            network.has(address.parse().unwrap())
        };
        assert!(has("192.0.2.7", 24, "192.0.2.255") && !has("192.0.2.7", 24, "192.0.3.7"));
        assert!(has("192.0.2.7", 32, "192.0.2.7") && !has("192.0.2.7", 32, "192.0.2.6"));
        assert!(has("0.0.0.0", 0, "198.51.100.1") && !has("0.0.0.0", 0, "2001:db8::1"));
        assert!(has("2001:db8::", 32, "2001:db8:ffff::1") && !has("2001:db8::", 32, "2001:db9::"));
        assert_eq!(Prefix::new("192.0.2.7".parse().unwrap(), 33), None);
    }
}
