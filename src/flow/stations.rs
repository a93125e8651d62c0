//! The stations on the guest's side of the link, by their IP addresses: a guest that bridges has several, each
//! with an Ethernet address of its own, and frames to one of them must not go to another.
//!
//! Learned from what they send. The table is bounded: who claims more addresses than it holds displaces what
//! was learned longest ago, and what is not known goes to the station that spoke last, which is the only one
//! as a rule.
//!
//! Of an address it is known, too, how large a packet may be to get there whole, where that is less than what the link takes: a
//! guest need not have taken over the MTU that it was told, and behind it there may be narrower links.
//!
//! A station answers for its addresses itself. One that is gone does not: then who looks for the address asks again, and that
//! is how it may show. Answers among stations do not pass here, so that we ask, too, before it is given up.

use std::net::IpAddr;
use std::time::Duration;

use super::network::Mac;
use crate::time::Timestamp;

/// Who has got no answer asks again after a second, three times in all (RFC 4861, section 10: `RETRANS_TIMER`,
/// `MAX_MULTICAST_SOLICIT`; arp(7): `retrans_time_ms`, `mcast_solicit`), some later.
const ASKED_AGAIN: std::ops::Range<Duration> = Duration::from_millis(500)..Duration::from_secs(5);
const QUESTIONS: u8 = 3;

/// Most addresses that are kept: a bridge with a handful of virtual machines, several addresses each.
pub(crate) const MAX_STATIONS: usize = 128;

/// Every Ethernet device takes packets of so many bytes. A SYN with a smaller segment size does not tell of a smaller MTU: small
/// stacks have no room for larger segments, and may not put fragments together.
const ETHERNET_MTU: u16 = 1500;

/// How long what routers say is believed: paths become wider again (RFC 1191, section 6.3; RFC 8201, section 4), and what was a
/// lie is over then.
const WIDTH_KEPT: Duration = Duration::from_secs(600);

/// What is known of one address.
#[derive(Clone, Copy, Debug)]
struct Entry {
    address: IpAddr,
    mac: Mac,
    /// When it was learned, counted in changes of the table.
    learned: u64,
    /// The station that has asked for the address since it was last used, when, and how often in a row.
    asked: Option<(Mac, Timestamp, u8)>,
    width: Width,
}

/// The largest packets for an address, in bytes, where they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Width {
    /// By its latest SYN, if that is less than what its link takes.
    shown: Option<u16>,
    /// By a router in front of it; it only becomes smaller, until it is [forgotten](WIDTH_KEPT).
    told: Option<u16>,
}

/// The table, sorted by address.
#[derive(Debug)]
pub(crate) struct Stations {
    entries: Vec<Entry>,
    /// What was learned last, as most frames say the same as the one before.
    last: Option<(IpAddr, Mac)>,
    changes: u64,
    /// There is more than one station.
    several: bool,
    /// Of some address a width is known.
    narrow: bool,
    /// When what routers have said is forgotten.
    forget_at: Option<Timestamp>,
}

impl Default for Stations {
    fn default() -> Self {
        let entries = Vec::with_capacity(MAX_STATIONS);
        Self { entries, last: None, changes: 0, several: false, narrow: false, forget_at: None }
    }
}

impl Stations {
    /// Notes that the station `mac` uses `address`; group addresses, which none has, are ignored.
    pub(crate) fn learn(&mut self, address: IpAddr, mac: Mac) {
        if self.last == Some((address, mac)) || !mac.is_station() {
            return;
        }
        self.last = Some((address, mac));
        self.changes += 1;
        let width = Width::default();
        let entry = Entry { address, mac, learned: self.changes, asked: None, width };
        match self.position(address) {
            Ok(at) if self.entries[at].mac == mac => {
                let width = self.entries[at].width;
                self.entries[at] = Entry { width, ..entry };
                return;
            }
            Ok(at) => self.entries[at] = entry,
            Err(_) => {
                if self.entries.len() >= MAX_STATIONS {
                    self.forget_oldest();
                }
                let at = self.position(address).unwrap_or_else(|at| at);
                self.entries.insert(at, entry);
            }
        }
        self.several = self.entries.iter().any(|entry| entry.mac != mac);
    }

    /// The station `asker` asks who uses `address`. If it has done so again and again, it gets no answer: nobody does. True if
    /// it may look like that, as answers among stations do not pass here, and the address is to be asked for by us.
    pub(crate) fn on_question(&mut self, address: IpAddr, asker: Mac, now: Timestamp) -> bool {
        let Ok(at) = self.position(address) else { return false };
        let entry = &mut self.entries[at];
        if entry.mac == asker {
            return false;
        }
        let asked = entry.asked.filter(|(before, ..)| *before == asker);
        let times = match asked.map(|(_, when, times)| (now.since(when), times)) {
            Some((since, _)) if since < ASKED_AGAIN.start => return false,
            Some((since, times)) if since < ASKED_AGAIN.end => times + 1,
            _ => 1,
        };
        entry.asked = Some((asker, now, times));
        // What is heard of it next is to be noted.
        self.last = self.last.filter(|(last, _)| *last != address);
        if times == QUESTIONS {
            self.entries.remove(at);
        }
        times + 1 == QUESTIONS
    }

    /// Notes what a SYN from `address` shows: that packets of up to `mtu` bytes reach it, on a link that takes `link`.
    pub(crate) fn show_width(&mut self, address: IpAddr, mtu: u16, link: u32) {
        let shown = Some(mtu.max(ETHERNET_MTU)).filter(|&mtu| u32::from(mtu) < link);
        if (shown.is_some() || self.narrow)
            && let Ok(at) = self.position(address)
        {
            self.entries[at].width.shown = shown;
            self.look_for_narrow();
        }
    }

    /// Notes what a router says: no packet of more than `mtu` bytes reaches `address`.
    pub(crate) fn tell_width(&mut self, address: IpAddr, mtu: u16, now: Timestamp) {
        if let Ok(at) = self.position(address) {
            let told = &mut self.entries[at].width.told;
            *told = Some(told.map_or(mtu, |before| before.min(mtu)));
            self.narrow = true;
            self.forget_at.get_or_insert(now + WIDTH_KEPT);
        }
    }

    /// Time has passed: what routers have said is forgotten after a while, and they say it again.
    pub(crate) fn on_time(&mut self, now: Timestamp) {
        if self.forget_at.take_if(|at| *at <= now).is_some() {
            for entry in &mut self.entries {
                entry.width.told = None;
            }
            self.look_for_narrow();
        }
    }

    fn look_for_narrow(&mut self) {
        self.narrow = self.entries.iter().any(|entry| entry.width != Width::default());
    }

    /// The largest packet that reaches `address` whole, in bytes, on a link that takes `link`.
    pub(crate) fn width(&self, address: IpAddr, link: u32) -> u32 {
        if !self.narrow {
            return link;
        }
        let width = self.position(address).map(|at| self.entries[at].width).unwrap_or_default();
        let known = [width.shown, width.told].into_iter().flatten();
        known.map(u32::from).fold(link, u32::min)
    }

    /// The Ethernet address of the station that uses `address`, if one is known to.
    pub(crate) fn find(&self, address: IpAddr) -> Option<Mac> {
        self.position(address).ok().map(|at| self.entries[at].mac)
    }

    /// Whether a station is known by its Ethernet address.
    pub(crate) fn has(&self, mac: Mac) -> bool {
        self.entries.iter().any(|entry| entry.mac == mac)
    }

    /// Whether more than one station is known.
    pub(crate) fn are_several(&self) -> bool {
        self.several
    }

    /// Forgets all: another guest is there.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        (self.last, self.several, self.narrow) = (None, false, false);
    }

    fn forget_oldest(&mut self) {
        let oldest = (0..self.entries.len()).min_by_key(|&at| self.entries[at].learned);
        if let Some(at) = oldest {
            self.entries.remove(at);
        }
    }

    fn position(&self, address: IpAddr) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&address, |entry| entry.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::fwd::example::ip;
    use std::net::Ipv6Addr;

    const ONE: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    #[test]
    fn each_address_has_the_station_that_used_it_last() {
        let mut table = Stations::default();
        for (address, mac) in [("192.0.2.2", ONE), ("192.0.2.3", OTHER), ("2001:db8::2", ONE)] {
            table.learn(ip(address), mac);
        }
        assert_eq!(table.find(ip("192.0.2.2")), Some(ONE));
        assert_eq!(table.find(ip("192.0.2.3")), Some(OTHER));
        assert_eq!(table.find(ip("2001:db8::2")), Some(ONE));
        assert_eq!(table.find(ip("192.0.2.4")), None);
        table.learn(ip("192.0.2.2"), OTHER);
        assert_eq!(table.find(ip("192.0.2.2")), Some(OTHER), "it has moved");
        table.learn(ip("192.0.2.2"), Mac::BROADCAST);
        table.learn(ip("192.0.2.4"), Mac::default());
        assert_eq!(table.find(ip("192.0.2.2")), Some(OTHER));
        assert_eq!(table.find(ip("192.0.2.4")), None);
    }

    #[test]
    fn several_stations_are_told_from_several_addresses() {
        let mut table = Stations::default();
        table.learn(ip("192.0.2.2"), ONE);
        table.learn(ip("192.0.2.3"), ONE);
        assert!(!table.are_several() && table.has(ONE) && !table.has(OTHER));
        table.learn(ip("192.0.2.3"), OTHER);
        assert!(table.are_several() && table.has(OTHER));
        table.learn(ip("192.0.2.2"), OTHER);
        assert!(!table.are_several(), "all addresses have moved to one");
        table.learn(ip("192.0.2.2"), ONE);
        table.clear();
        assert!(!table.are_several() && table.find(ip("192.0.2.2")).is_none());
        table.learn(ip("192.0.2.2"), ONE);
        assert_eq!(table.find(ip("192.0.2.2")), Some(ONE));
    }

    #[test]
    fn who_asks_again_and_again_has_got_no_answer() {
        let at = |tenths: u64| Timestamp::default() + Duration::from_millis(100 * tenths);
        let (mut table, address) = (Stations::default(), ip("192.0.2.3"));
        let third = Mac([2, 0, 0, 0, 0, 3]);
        table.learn(address, OTHER);
        // Each has asked twice at most, in vain; or long ago, or for itself.
        for (asker, tenth, doubtful) in [
            (ONE, 10, false),
            (third, 20, false),
            (ONE, 30, false),
            (ONE, 31, false),
            (ONE, 90, false),
            (ONE, 100, true),
            (OTHER, 110, false),
            (OTHER, 120, false),
            (OTHER, 130, false),
        ] {
            assert_eq!(table.on_question(address, asker, at(tenth)), doubtful, "{tenth}");
            assert_eq!(table.find(address), Some(OTHER), "{asker} after {tenth}");
        }
        // It was heard of.
        table.learn(address, OTHER);
        for (tenth, found) in [(110, Some(OTHER)), (120, Some(OTHER)), (130, None)] {
            table.on_question(address, ONE, at(tenth));
            assert_eq!(table.find(address), found);
        }
        table.learn(address, OTHER);
        assert_eq!(table.find(address), Some(OTHER), "it has come back");
        assert!(!table.on_question(ip("192.0.2.4"), ONE, at(140)));
    }

    #[test]
    fn an_address_has_the_least_width_that_is_known_of_it() {
        let (mut table, one, other) = (Stations::default(), ip("192.0.2.2"), ip("2001:db8::2"));
        const LINK: u32 = 65520;
        table.tell_width(one, 1400, Timestamp::ZERO);
        table.show_width(one, 1500, LINK);
        assert_eq!(table.width(one, LINK), LINK, "it has sent nothing");
        table.learn(one, ONE);
        table.learn(other, ONE);
        for (mtu, width) in [(65520, LINK), (1500, 1500), (576, 1500), (9000, 9000), (65520, LINK)]
        {
            table.show_width(one, mtu, LINK);
            assert_eq!((table.width(one, LINK), table.narrow), (width, width < LINK), "{mtu}");
        }
        table.show_width(one, 576, 1500);
        table.show_width(one, 1500, 1400);
        assert!(!table.narrow, "the link itself takes no more");
        for (mtu, width) in [(1400, 1400), (1450, 1400), (1300, 1300)] {
            table.tell_width(other, mtu, Timestamp::ZERO);
            table.show_width(other, 1500, LINK);
            assert_eq!(table.width(other, LINK), width);
        }
        table.learn(one, ONE);
        table.learn(other, ONE);
        assert_eq!([one, other].map(|address| table.width(address, LINK)), [LINK, 1300]);
        table.on_time(Timestamp::ZERO + (WIDTH_KEPT - Duration::from_micros(1)));
        assert_eq!(table.width(other, LINK), 1300);
        table.on_time(Timestamp::ZERO + WIDTH_KEPT);
        assert_eq!((table.width(other, LINK), table.narrow), (1500, true), "what it shows is kept");
        table.tell_width(other, 1300, Timestamp::ZERO);
        table.learn(other, OTHER);
        assert_eq!(table.width(other, LINK), LINK, "another station has it");
        table.tell_width(other, 1300, Timestamp::ZERO);
        table.clear();
        assert!(!table.narrow);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_is_in_use() {
        let mut table = Stations::default();
        let capacity = table.entries.capacity();
        let used = ip("192.0.2.2");
        for n in 0..3 * MAX_STATIONS {
            table.learn(used, ONE);
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 7, n as u16);
            table.learn(address.into(), OTHER);
        }
        assert_eq!((table.entries.len(), table.entries.capacity()), (MAX_STATIONS, capacity));
        assert_eq!(table.find(used), Some(ONE));
    }
}
