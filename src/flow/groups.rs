//! Which groups the guest has joined, as a router sees it (RFC 3376, section 6; RFC 3810, section 7), on which ports
//! what is for them is received, and which datagrams to groups are the guest's own.
//!
//! A group is wanted for [`MEMBERSHIP`] after it was reported. Who leaves it may not be the last one that wants it:
//! they are asked, [`ROBUSTNESS`] times, and it is over when nobody answers.
//!
//! # On which ports
//! Reports name groups, and a socket has a port, too: without privileges nothing can be received for all ports of a
//! group. So it is received
//! * on the ports of the services that are known by their groups ([`SERVICES`]);
//! * on ports to which the guest itself has sent to the group: who takes part in a protocol of equals listens where it
//!   sends to;
//! * on the ports that the operator names (`--multicast-ports`);
//! * on UDP ports that are forwarded, by their listening sockets.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::limits::{GROUP_PORTS_NOTED, MAX_GROUPS, OWN_DATAGRAMS};
use crate::time::Timestamp;
use crate::wire::membership::{
    LAST_MEMBER_INTERVAL_S, QUERY_INTERVAL_S, RESPONSE_INTERVAL_S, ROBUSTNESS,
};

/// From one general query to the next.
pub(crate) const QUERY_INTERVAL: Duration = Duration::from_secs(QUERY_INTERVAL_S as u64);
/// The same while the link is new (RFC 3376, section 8.6).
pub(crate) const STARTUP_INTERVAL: Duration = Duration::from_secs(QUERY_INTERVAL_S as u64 / 4);
/// How long a group that was reported is wanted (section 8.4).
const MEMBERSHIP: Duration =
    Duration::from_secs(ROBUSTNESS as u64 * QUERY_INTERVAL_S as u64 + RESPONSE_INTERVAL_S as u64);
/// From one query for a group that may be over to the next.
const LAST_MEMBER_INTERVAL: Duration = Duration::from_secs(LAST_MEMBER_INTERVAL_S as u64);
/// How long the guest's own datagrams may take to come back.
const OWN_FOR: Duration = Duration::from_secs(2);
/// Bytes of a datagram by which it is known again.
pub(crate) const KNOWN_BY_BYTES: usize = 2048;

/// Services that are known by their groups: mDNS (RFC 6762), LLMNR (RFC 4795), SSDP (UPnP Device Architecture 2.0,
/// annex A) and WS-Discovery (OASIS, section 2.4).
const SERVICES: [(IpAddr, &[u16]); 9] = [
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251)), &[MDNS]),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 252)), &[LLMNR]),
    (IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), &[SSDP, WS_DISCOVERY]),
    (v6_group(2, 0, 0xfb), &[MDNS]),
    (v6_group(5, 0, 0xfb), &[MDNS]),
    (v6_group(2, 1, 3), &[LLMNR]),
    (v6_group(2, 0, 0xc), &[SSDP, WS_DISCOVERY]),
    (v6_group(5, 0, 0xc), &[SSDP, WS_DISCOVERY]),
    (v6_group(8, 0, 0xc), &[SSDP, WS_DISCOVERY]),
];
const MDNS: u16 = 5353;
const LLMNR: u16 = 5355;
const SSDP: u16 = 1900;
const WS_DISCOVERY: u16 = 3702;

const fn v6_group(scope: u16, high: u16, low: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xff00 | scope, 0, 0, 0, 0, 0, high, low))
}

/// Whether a group means something beyond the guest's link: not those by which stations, routers, DHCP servers and
/// neighbours of one link find each other.
pub(crate) fn leads_beyond(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(v4) => {
            v4.is_multicast() && !matches!(v4.octets(), [224, 0, 0, 1 | 2 | 13 | 22 | 106])
        }
        IpAddr::V6(v6) => match v6.segments() {
            [first, ..] if first & 0xff00 != 0xff00 || first & 0xf <= 1 => false,
            [0xff02, 0, 0, 0, 0, 0, 0, 1 | 2 | 0xd | 0x16 | 0x6a] => false,
            [0xff02, 0, 0, 0, 0, 1 | 2, 0xff00..=0xffff, _] => false,
            [0xff02, 0, 0, 0, 0, 0, 1, 2] | [0xff05, 0, 0, 0, 0, 0, 1, 3] => false,
            _ => true,
        },
    }
}

/// The ports of the services that are known by `group`.
pub(crate) fn service_ports(group: IpAddr) -> &'static [u16] {
    SERVICES.iter().find(|(known, _)| *known == group).map_or(&[], |(_, ports)| ports)
}

/// A group that the guest has joined.
#[derive(Clone, Copy, Debug)]
struct Member {
    group: IpAddr,
    /// Until when it is wanted, if nobody reports it again.
    until: Timestamp,
    /// When to ask again whether somebody wants it.
    ask_at: Option<Timestamp>,
}

/// What follows from what the guest has said of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It is new.
    Joined,
    /// It stays joined.
    Stays,
    /// It may be over: they are to be asked.
    Ask,
    /// It is not joined.
    Unknown,
    /// It cannot be joined: there are too many.
    TooMany,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nobody wants the group any more.
    Over(IpAddr),
    /// They are to be asked whether somebody wants the group.
    Ask(IpAddr),
}

/// The groups that the guest has joined.
#[derive(Default)]
pub(crate) struct Members(ArrayVec<Member, MAX_GROUPS>);

impl Members {
    /// Whether the guest has joined `group`.
    pub(crate) fn has(&self, group: IpAddr) -> bool {
        self.0.iter().any(|member| member.group == group)
    }

    /// All groups.
    pub(crate) fn groups(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.iter().map(|member| member.group)
    }

    /// The guest has reported `group`.
    pub(crate) fn wanted(&mut self, group: IpAddr, now: Timestamp) -> News {
        let until = now + MEMBERSHIP;
        if let Some(member) = self.find(group) {
            (member.until, member.ask_at) = (until, None);
            return News::Stays;
        }
        match self.0.try_push(Member { group, until, ask_at: None }) {
            Ok(()) => News::Joined,
            Err(_) => News::TooMany,
        }
    }

    /// Some station of the guest has left `group`.
    pub(crate) fn left(&mut self, group: IpAddr, now: Timestamp) -> News {
        let Some(member) = self.find(group) else { return News::Unknown };
        if member.ask_at.is_some() {
            return News::Stays;
        }
        member.until = member.until.min(now + LAST_MEMBER_INTERVAL * ROBUSTNESS.into());
        member.ask_at = Some(now + LAST_MEMBER_INTERVAL);
        News::Ask
    }

    /// What is due next, if something is.
    pub(crate) fn due(&mut self, now: Timestamp) -> Option<Due> {
        if let Some(at) = self.0.iter().position(|member| member.until <= now) {
            return Some(Due::Over(self.0.swap_remove(at).group));
        }
        let member = self.0.iter_mut().find(|member| member.ask_at.is_some_and(|at| at <= now))?;
        // Asked ROBUSTNESS times in all; then what it waits for is its end.
        member.ask_at = Some(member.until);
        Some(Due::Ask(member.group))
    }

    /// When something will be due.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.0
            .iter()
            .map(|member| member.ask_at.map_or(member.until, |at| at.min(member.until)))
            .min()
    }

    /// Another guest is there: nothing is joined.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn find(&mut self, group: IpAddr) -> Option<&mut Member> {
        self.0.iter_mut().find(|member| member.group == group)
    }
}

/// Ports to which the guest has sent to groups. The one that was used least lately gives way.
#[derive(Default)]
pub(crate) struct SentTo(ArrayVec<SocketAddr, GROUP_PORTS_NOTED>);

impl SentTo {
    /// The guest sends to a port of a group; whether that is new.
    pub(crate) fn note(&mut self, to: SocketAddr) -> bool {
        let known = self.0.iter().position(|known| *known == to);
        if let Some(at) = known {
            self.0.remove(at);
        } else if self.0.is_full() {
            self.0.remove(0);
        }
        self.0.push(to);
        known.is_none()
    }

    /// The ports of `group`.
    pub(crate) fn ports(&self, group: IpAddr) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().filter(move |to| to.ip() == group).map(SocketAddr::port)
    }
}

/// What the guest has sent to groups lately. Services of this host are to hear it, so the kernel hands it to all
/// sockets that are members, also to that of the guest itself: a station does not hear itself.
#[derive(Default)]
pub(crate) struct OwnDatagrams(ArrayVec<(u64, Timestamp), OWN_DATAGRAMS>);

impl OwnDatagrams {
    /// The guest sends a datagram to a group; `start` is its first bytes, [`KNOWN_BY_BYTES`] at most.
    pub(crate) fn sent(&mut self, to: SocketAddr, start: &[u8], len: u32, now: Timestamp) {
        if self.0.is_full() {
            self.0.remove(0);
        }
        self.0.push((mark(to, start, len), now));
    }

    /// Whether a datagram may be one of these.
    pub(crate) fn may_be(&self, to: SocketAddr, start: &[u8], len: u32, now: Timestamp) -> bool {
        let mark = mark(to, start, len);
        self.0.iter().any(|&(known, sent)| known == mark && now.since(sent) < OWN_FOR)
    }

    /// The datagram was one of these. It comes back once.
    pub(crate) fn came_back(&mut self, to: SocketAddr, start: &[u8], len: u32) {
        let mark = mark(to, start, len);
        if let Some(at) = self.0.iter().position(|&(known, _)| known == mark) {
            self.0.remove(at);
        }
    }
}

fn mark(to: SocketAddr, start: &[u8], len: u32) -> u64 {
    let mut hasher = DefaultHasher::new();
    let start = &start[..start.len().min(KNOWN_BY_BYTES)];
    (to.ip(), to.port(), len, start).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(1000 + seconds)
    }

    #[test]
    fn rfc3376_8_4_a_group_is_wanted_until_it_was_not_reported_for_long() {
        let mut members = Members::default();
        let group = ip("239.1.2.3");
        assert_eq!(members.wanted(group, at(0)), News::Joined);
        assert_eq!(members.wanted(group, at(125)), News::Stays);
        assert_eq!((members.next(), members.due(at(384))), (Some(at(125 + 260)), None));
        assert_eq!(members.due(at(385)), Some(Due::Over(group)));
        assert_eq!((members.has(group), members.next()), (false, None));
    }

    #[test]
    fn rfc2236_3_who_leaves_is_asked_about_twice() {
        let mut members = Members::default();
        let group = ip("ff02::fb");
        assert_eq!(members.left(group, at(0)), News::Unknown);
        members.wanted(group, at(0));
        assert_eq!(members.left(group, at(10)), News::Ask);
        assert_eq!(members.left(group, at(10)), News::Stays, "they are asked already");
        assert_eq!((members.due(at(10)), members.next()), (None, Some(at(11))));
        assert_eq!(members.due(at(11)), Some(Due::Ask(group)));
        assert_eq!((members.due(at(11)), members.next()), (None, Some(at(12))));
        assert_eq!(members.due(at(12)), Some(Due::Over(group)));
    }

    #[test]
    fn rfc3376_6_4_another_member_keeps_the_group() {
        let mut members = Members::default();
        let group = ip("239.1.2.3");
        members.wanted(group, at(0));
        members.left(group, at(10));
        assert_eq!(members.wanted(group, at(11)), News::Stays);
        assert_eq!((members.due(at(12)), members.next()), (None, Some(at(11 + 260))));
    }

    #[test]
    fn groups_are_bounded() {
        let mut members = Members::default();
        for n in 0..MAX_GROUPS {
            let group = IpAddr::from([239, 0, 0, n as u8]);
            assert_eq!(members.wanted(group, at(0)), News::Joined);
        }
        assert_eq!(members.wanted(ip("239.1.0.0"), at(0)), News::TooMany);
        assert_eq!(members.groups().count(), MAX_GROUPS);
        members.clear();
        assert_eq!(members.groups().count(), 0);
    }

    #[test]
    fn groups_of_one_link_stay_there() {
        for (group, beyond) in [
            ("224.0.0.1", false),
            ("224.0.0.22", false),
            ("224.0.0.251", true),
            ("239.255.255.250", true),
            ("192.0.2.1", false),
            ("ff01::1", false),
            ("ff02::1", false),
            ("ff02::2", false),
            ("ff02::16", false),
            ("ff02::1:2", false),
            ("ff05::1:3", false),
            ("ff02::1:ff00:2", false),
            ("ff02::2:ff00:2", false),
            ("ff02::1:3", true),
            ("ff02::fb", true),
            ("ff05::c", true),
            ("ff3e::8000:1", true),
        ] {
            assert_eq!(leads_beyond(ip(group)), beyond, "{group}");
        }
    }

    #[test]
    fn ports_are_those_of_services_and_those_that_were_sent_to() {
        assert_eq!(service_ports(ip("224.0.0.251")), [5353]);
        assert_eq!(service_ports(ip("ff02::1:3")), [5355]);
        assert_eq!(service_ports(ip("239.255.255.250")), [1900, 3702]);
        assert!(service_ports(ip("239.1.2.3")).is_empty());
        let mut sent_to = SentTo::default();
        let group = ip("239.1.2.3");
        let to = |port| SocketAddr::new(group, port);
        assert!(sent_to.note(to(7)) && !sent_to.note(to(7)));
        for port in 100..100 + GROUP_PORTS_NOTED as u16 - 1 {
            sent_to.note(to(port));
        }
        sent_to.note(to(7));
        sent_to.note(to(9));
        let ports: Vec<u16> = sent_to.ports(group).collect();
        assert_eq!(ports.len(), GROUP_PORTS_NOTED);
        assert!(ports.ends_with(&[7, 9]) && !ports.contains(&100));
        assert_eq!(sent_to.ports(ip("239.1.2.4")).count(), 0);
    }

    #[test]
    fn what_the_guest_has_sent_is_known_again_once_and_for_a_while() {
        let mut own = OwnDatagrams::default();
        let to = SocketAddr::new(ip("224.0.0.251"), 5353);
        own.sent(to, b"question", 8, at(0));
        assert!(!own.may_be(to, b"Question", 8, at(0)));
        assert!(!own.may_be(SocketAddr::new(to.ip(), 1), b"question", 8, at(0)));
        assert!(own.may_be(to, b"question", 8, at(1)) && !own.may_be(to, b"question", 8, at(2)));
        own.came_back(to, b"question", 8);
        assert!(!own.may_be(to, b"question", 8, at(1)));
        for n in 0..2 * OWN_DATAGRAMS as u32 {
            own.sent(to, &n.to_be_bytes(), 4, at(0));
        }
        assert!(!own.may_be(to, &0_u32.to_be_bytes(), 4, at(0)), "the oldest gives way");
    }
}
