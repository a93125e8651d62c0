//! Kinds of places that an address may belong to, by the special-purpose registries (RFC 6890) and by what is known of
//! this host. An IPv6 address that stands for an IPv4 one, by whatever translation on the way, belongs to the places
//! of both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{BitOr, BitOrAssign};

use crate::limits::MAX_ROUTED_NETWORKS;

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

    /// The one that rules call so.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(other, _)| *other == name).map(|&(_, places)| places)
    }

    /// What rules call these, if they are one.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, places)| *places == self).map_or("", |(name, _)| name)
    }

    /// Whether all of `other` are among these.
    fn have(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

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

    /// An address of it, the one that it was made of, and the length of its prefix.
    pub(crate) fn parts(self) -> (IpAddr, u8) {
        (self.address, self.len)
    }

    /// Its first address and its last one.
    fn ends(self) -> [IpAddr; 2] {
        match self.address {
            IpAddr::V4(v4) => {
                let within = u32::MAX.checked_shr(self.len.into()).unwrap_or(0);
                let bits = v4.to_bits();
                [bits & !within, bits | within].map(|bits| Ipv4Addr::from_bits(bits).into())
            }
            IpAddr::V6(v6) => {
                let within = u128::MAX.checked_shr(self.len.into()).unwrap_or(0);
                let bits = v6.to_bits();
                [bits & !within, bits | within].map(|bits| Ipv6Addr::from_bits(bits).into())
            }
        }
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

/// What is known of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Its addresses, each with the length of its network's prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// What its routes say besides, as [`new`](Self::new) keeps it.
    pub routed: Vec<Routed>,
}

/// A network that is of some place by a route, with or without an address of the host in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// [`Places::HOST`]: the kernel takes what is for it as its own; [`Places::MULTICAST`]: a broadcast address;
    /// [`Places::PRIVATE`]: a link leads there, without a router.
    pub places: Places,
    /// Its addresses.
    pub network: Prefix,
}

impl Surroundings {
    /// What is known by `addresses`, and nothing by routes.
    pub fn of_addresses(addresses: Vec<(IpAddr, u8)>) -> Self {
        Self { addresses, routed: Vec::new() }
    }

    /// What is known by `addresses` and by `routed`, without what is there twice or says nothing new: most routes are of an
    /// address, or into private networks. Of more than [`MAX_ROUTED_NETWORKS`] the host's own stay, then the widest.
    pub fn new(mut addresses: Vec<(IpAddr, u8)>, mut routed: Vec<Routed>) -> Self {
        addresses.sort_unstable();
        addresses.dedup();
        let own = Self::of_addresses(addresses);
        routed.retain(|one| !own.knows(one));
        routed.sort_by_key(|one| {
            let (address, len) = one.network.parts();
            (one.places != Places::HOST, one.places != Places::MULTICAST, len, address)
        });
        routed.dedup();
        routed.truncate(MAX_ROUTED_NETWORKS);
        Self { routed, ..own }
    }

    /// Whether there may be more than is known.
    pub(crate) fn is_full(&self) -> bool {
        self.routed.len() >= MAX_ROUTED_NETWORKS
    }

    /// Whether all of a network is of these places by the registries, or by one and the same address of the host. Those
    /// are in order: each has a route that makes it the host's own, and a load balancer has thousands.
    fn knows(&self, Routed { places, network }: &Routed) -> bool {
        let ends = network.ends();
        let everywhere =
            |of: &dyn Fn(IpAddr) -> Places| ends.iter().all(|&end| of(end).have(*places));
        if everywhere(&registered) {
            return true;
        }
        if *places == Places::HOST {
            let own = self.addresses.binary_search_by_key(&ends[0], |&(address, _)| address);
            return ends[0] == ends[1] && own.is_ok();
        }
        self.addresses.iter().any(|&own| everywhere(&|address| of_own(own, address)))
    }

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
        let mut places = registered(address);
        for &own in &self.addresses {
            places |= of_own(own, address);
        }
        for one in &self.routed {
            if one.network.has(address) {
                places |= one.places;
            }
        }
        places
    }
}

/// The places of `address` by the registries alone; none for the internet.
fn registered(address: IpAddr) -> Places {
    match address {
        IpAddr::V4(v4) => of_v4(v4),
        IpAddr::V6(v6) => of_v6(v6),
    }
}

/// The places of `address` by an address of the host, with the length of its network's prefix.
fn of_own((own, len): (IpAddr, u8), address: IpAddr) -> Places {
    let mut places = Places::default();
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
    places
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
        let own = own.chain([("198.51.100.1".parse().unwrap(), 0)]).collect();
        let routed = [
            routed("198.51.100.16", 28, Places::HOST),
            routed("2001:db8:2::", 64, Places::HOST),
            routed("2001:db8::", 128, Places::HOST),
            routed("198.51.100.128", 25, Places::PRIVATE),
            routed("192.0.2.127", 32, Places::MULTICAST),
        ];
        Surroundings::new(own, routed.to_vec())
    }

    fn routed(network: &str, len: u8, places: Places) -> Routed {
        Routed { places, network: Prefix::new(network.parse().unwrap(), len).unwrap() }
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
            ("198.51.100.15", "internet"),
            ("198.51.100.16", "host"),
            ("198.51.100.31", "host"),
            ("2001:db8:2::7", "host"),
            ("2001:db8::", "host private"),
            ("198.51.100.255", "private"),
            ("192.0.2.127", "private multicast"),
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
            ("64:ff9b::198.51.100.17", "host"),
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
    fn routes_that_say_nothing_new_are_not_kept() {
        let known = [
            routed("127.0.0.0", 8, Places::HOST),
            routed("127.0.0.1", 32, Places::HOST),
            routed("192.0.2.2", 32, Places::HOST),
            routed("192.0.2.255", 32, Places::MULTICAST),
            routed("192.0.2.0", 24, Places::PRIVATE),
            routed("192.0.2.64", 26, Places::PRIVATE),
            routed("10.42.0.0", 16, Places::PRIVATE),
            routed("fd00:1::", 64, Places::PRIVATE),
        ];
        let addresses = surroundings().addresses;
        assert_eq!(Surroundings::new(addresses.clone(), known.to_vec()).routed, []);
        // Both ends of the first are of networks that the host is in, or of private ones, and what is between them is not.
        let addresses = [&addresses[..], &[("192.0.3.1".parse().unwrap(), 24)]].concat();
        let news = [
            routed("192.0.0.0", 22, Places::PRIVATE),
            routed("192.0.2.3", 32, Places::HOST),
            routed("192.0.2.0", 25, Places::HOST),
            routed("192.0.2.0", 32, Places::MULTICAST),
        ];
        let twice = [news, news].concat();
        assert_eq!(
            Surroundings::new(addresses, twice).routed,
            [news[2], news[1], news[3], news[0]]
        );
    }

    /// As many as kube-proxy has by IPVS, and more: looked for one by one, they would take an hour.
    #[test]
    fn a_host_may_have_very_many_addresses() {
        const MANY: u32 = 1 << 18;
        let all = || (0..MANY).map(|number| Ipv4Addr::from_bits(0x0800_0000 + number).into());
        let route =
            |address| Routed { places: Places::HOST, network: Prefix::new(address, 32).unwrap() };
        let last = routed("203.0.113.3", 32, Places::HOST);
        let twice = all().chain(all()).map(|address| (address, 32)).collect();
        let found = Surroundings::new(twice, all().map(route).chain([last]).collect());
        assert_eq!((found.addresses.len(), found.routed), (MANY as usize, vec![last]));
    }

    #[test]
    fn of_too_many_routes_the_hosts_own_and_the_widest_are_kept() {
        let network = |number: u32, len| {
            Prefix::new(Ipv4Addr::from_bits(0x0800_0000 + (number << 8)).into(), len).unwrap()
        };
        let near = (0..2 * MAX_ROUTED_NETWORKS as u32)
            .map(|number| Routed { places: Places::PRIVATE, network: network(number, 32) });
        let all = near.chain([
            routed("203.0.112.0", 24, Places::PRIVATE),
            routed("203.0.113.3", 32, Places::HOST),
        ]);
        let found = Surroundings::new(Vec::new(), all.collect());
        assert!(found.is_full() && found.routed.len() == MAX_ROUTED_NETWORKS);
        assert_eq!(names(found.of("203.0.113.3".parse().unwrap())), "host");
        assert_eq!(names(found.of("203.0.112.3".parse().unwrap())), "private");
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
