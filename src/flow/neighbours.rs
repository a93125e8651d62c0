//! Ethernet addresses of the host's neighbours, so that the guest sees each station on the host's link
//! with an address of its own, as it would on that link.
//!
//! Keys are addresses as the guest sees them. Entries follow the host's neighbour table; those of
//! addresses that stand for the host itself are pinned and have our own Ethernet address. The table is
//! bounded: who can fill the host's may fill this one, and what finds no place is answered for by us.

use std::net::IpAddr;

use super::network::{Mac, Network};

/// Most entries, the kernel's default limit of a neighbour table that is not being tidied up.
pub const MAX_NEIGHBOURS: usize = 512;

/// What is known of one address.
#[derive(Clone, Copy, Debug)]
struct Entry {
    address: IpAddr,
    mac: Mac,
    /// Stands for the host itself and never changes.
    pinned: bool,
    /// Was told of since the last [`Neighbours::begin_refresh`].
    fresh: bool,
}

/// The table, sorted by address.
#[derive(Debug)]
pub(crate) struct Neighbours {
    entries: Vec<Entry>,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self { entries: Vec::with_capacity(MAX_NEIGHBOURS) }
    }
}

impl Neighbours {
    /// Fixes the Ethernet address of `addresses`, and of no others any more.
    pub(crate) fn pin(&mut self, addresses: impl Iterator<Item = IpAddr>, mac: Mac) {
        self.entries.retain(|entry| !entry.pinned);
        for address in addresses {
            self.forget(address);
            self.insert(Entry { address, mac, pinned: true, fresh: true });
        }
    }

    /// Notes the Ethernet address of a neighbour; group addresses and the zero address, which no
    /// station has, are ignored. True if it was not known.
    pub(crate) fn learn(&mut self, address: IpAddr, mac: Mac) -> bool {
        if !mac.is_station() {
            return false;
        }
        match self.position(address) {
            Ok(at) if self.entries[at].pinned => false,
            Ok(at) => {
                self.entries[at] = Entry { address, mac, pinned: false, fresh: true };
                false
            }
            Err(_) => self.insert(Entry { address, mac, pinned: false, fresh: true }),
        }
    }

    /// Forgets a neighbour.
    pub(crate) fn forget(&mut self, address: IpAddr) {
        if let Ok(at) = self.position(address)
            && !self.entries[at].pinned
        {
            self.entries.remove(at);
        }
    }

    /// All that is known will be told anew.
    pub(crate) fn begin_refresh(&mut self) {
        for entry in &mut self.entries {
            entry.fresh = entry.pinned;
        }
    }

    /// All was told: forgets what was not mentioned.
    pub(crate) fn end_refresh(&mut self) {
        self.entries.retain(|entry| entry.fresh);
    }

    /// The Ethernet address that stands behind `address` on the guest's link: the neighbour's own; for
    /// what is behind the gateway that of the gateway; else ours.
    pub(crate) fn station(&self, net: &Network, address: IpAddr) -> Mac {
        let known = self.find(address).or_else(|| self.find(net.gateway_for(address)?));
        known.unwrap_or(net.our_mac)
    }

    /// Whether `address` is that of a station on the host's link, or stands for the host itself.
    pub(crate) fn knows(&self, address: IpAddr) -> bool {
        self.position(address).is_ok()
    }

    fn find(&self, address: IpAddr) -> Option<Mac> {
        self.position(address).ok().map(|at| self.entries[at].mac)
    }

    fn position(&self, address: IpAddr) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&address, |entry| entry.address)
    }

    /// False if there is no room, or the address has an entry.
    fn insert(&mut self, entry: Entry) -> bool {
        match self.position(entry.address) {
            Err(at) if self.entries.len() < MAX_NEIGHBOURS => {
                self.entries.insert(at, entry);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::fwd::example::{ip, network};
    use std::net::Ipv6Addr;

    const STATION: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn neighbour_then_gateway_then_ourselves() {
        let net = network();
        for (neighbour, gateway, far) in [
            ("192.0.2.7", "192.0.2.1", "198.51.100.7"),
            ("2001:db8::7", "2001:db8::1", "2001:db8:1::7"),
        ] {
            let mut table = Neighbours::default();
            assert_eq!(table.station(&net, ip(neighbour)), Mac::OURS);
            assert!(table.learn(ip(neighbour), STATION));
            assert_eq!(table.station(&net, ip(neighbour)), STATION);
            assert_eq!(table.station(&net, ip(far)), Mac::OURS);
            assert!(table.learn(ip(gateway), ROUTER));
            assert_eq!(table.station(&net, ip(far)), ROUTER);
            assert_eq!(table.station(&net, ip(neighbour)), STATION);
            table.forget(ip(neighbour));
            assert_eq!(table.station(&net, ip(neighbour)), ROUTER);
        }
    }

    #[test]
    fn only_a_new_neighbour_is_news() {
        let (net, mut table) = (network(), Neighbours::default());
        assert!(table.learn(ip("192.0.2.7"), STATION));
        assert!(!table.learn(ip("192.0.2.7"), STATION));
        assert!(!table.learn(ip("192.0.2.7"), ROUTER));
        assert_eq!(table.station(&net, ip("192.0.2.7")), ROUTER);
        for nobody in [Mac::default(), Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1])] {
            assert!(!table.learn(ip("192.0.2.8"), nobody));
        }
        assert_eq!(table.station(&net, ip("192.0.2.8")), Mac::OURS);
    }

    #[test]
    fn what_stands_for_the_host_never_changes() {
        let (net, mut table) = (network(), Neighbours::default());
        table.learn(ip("192.0.2.1"), ROUTER);
        table.pin([ip("192.0.2.1")].into_iter(), Mac::OURS);
        assert!(!table.learn(ip("192.0.2.1"), ROUTER));
        table.forget(ip("192.0.2.1"));
        table.begin_refresh();
        table.end_refresh();
        assert!(!table.learn(ip("192.0.2.1"), ROUTER));
        assert_eq!(table.station(&net, ip("192.0.2.1")), Mac::OURS);
        assert_eq!(table.station(&net, ip("198.51.100.7")), Mac::OURS);

        // Another address stands for the host now.
        table.pin([ip("192.0.2.9")].into_iter(), Mac::OURS);
        assert!(table.learn(ip("192.0.2.1"), ROUTER) && !table.learn(ip("192.0.2.9"), STATION));
        assert_eq!(table.station(&net, ip("192.0.2.1")), ROUTER);
    }

    #[test]
    fn a_refresh_forgets_what_is_not_mentioned() {
        let (net, mut table) = (network(), Neighbours::default());
        table.learn(ip("192.0.2.7"), STATION);
        table.learn(ip("192.0.2.8"), STATION);
        table.begin_refresh();
        assert!(!table.learn(ip("192.0.2.8"), STATION));
        assert_eq!(table.station(&net, ip("192.0.2.7")), STATION, "until all is told");
        table.end_refresh();
        assert_eq!(table.station(&net, ip("192.0.2.7")), Mac::OURS);
        assert_eq!(table.station(&net, ip("192.0.2.8")), STATION);
    }

    #[test]
    fn the_table_is_bounded_and_allocates_nothing_later() {
        let (net, mut table) = (network(), Neighbours::default());
        let capacity = table.entries.capacity();
        let address =
            |n: usize| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 7, n as u16));
        for n in 0..2 * MAX_NEIGHBOURS {
            assert_eq!(table.learn(address(n), STATION), n < MAX_NEIGHBOURS, "{n}");
        }
        assert_eq!(table.entries.capacity(), capacity);
        assert_eq!(table.station(&net, address(MAX_NEIGHBOURS)), Mac::OURS);
        table.forget(address(0));
        assert!(table.learn(address(MAX_NEIGHBOURS), STATION));
    }
}
