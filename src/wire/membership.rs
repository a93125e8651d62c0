//! What stations and routers tell each other about groups: IGMP (RFC 1112, RFC 2236, RFC 3376) and MLD (RFC 2710,
//! RFC 3810). Of reports a router reads which groups somebody wants, of all versions; the sources that version 3 and
//! MLDv2 may name do not matter here, as long as there is one. Queries are those of the latest versions, which older stations
//! understand as their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use etherparse::checksum::Sum16BitWords;

use super::{DropReason, Mac};

/// ICMPv6 types of MLD that a router reads: report and done of version 1, report of version 2.
pub(crate) const MLD_TYPES: [u8; 3] = [MLD_REPORT, MLD_DONE, MLD_REPORT_V2];

const IGMP: u8 = 2;
const IGMP_QUERY: u8 = 0x11;
const IGMP_REPORT_V1: u8 = 0x12;
const IGMP_REPORT_V2: u8 = 0x16;
const IGMP_LEAVE: u8 = 0x17;
const IGMP_REPORT_V3: u8 = 0x22;

const ICMPV6: u8 = 58;
const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const MLD_REPORT_V2: u8 = 143;

/// Types of records in reports of IGMPv3 and MLDv2 (RFC 3376, section 4.2.12).
const MODE_IS_INCLUDE: u8 = 1;
const MODE_IS_EXCLUDE: u8 = 2;
const CHANGE_TO_INCLUDE: u8 = 3;
const CHANGE_TO_EXCLUDE: u8 = 4;
const ALLOW_NEW_SOURCES: u8 = 5;
const BLOCK_OLD_SOURCES: u8 = 6;

/// How often a report may be lost (RFC 3376, section 8.1).
pub(crate) const ROBUSTNESS: u8 = 2;
/// Seconds from one general query to the next (section 8.2).
pub(crate) const QUERY_INTERVAL_S: u8 = 125;
/// Seconds in which a general query is to be answered (section 8.3).
pub(crate) const RESPONSE_INTERVAL_S: u8 = 10;
/// Seconds in which a query for one group is to be answered (section 8.8).
pub(crate) const LAST_MEMBER_INTERVAL_S: u8 = 1;

/// Who hears a general query: all systems, all nodes.
const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Room for a query with all its headers.
const MAX_QUERY_BYTES: usize = 96;

/// A frame with a query.
pub(crate) type Query = ArrayVec<u8, MAX_QUERY_BYTES>;

/// Who hears a general query of IPv4 (`v4`) or IPv6.
pub(crate) fn all(v4: bool) -> IpAddr {
    if v4 { ALL_SYSTEMS.into() } else { ALL_NODES.into() }
}

/// What a station says of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The group.
    pub(crate) group: IpAddr,
    /// The station wants what is for it; otherwise it may want it no more, and nobody else either.
    pub(crate) wanted: bool,
}

/// Reads an IGMP message; `visit` gets what it says of each group.
///
/// # Errors
/// Why nothing, or nothing more, can be read in it.
pub(crate) fn read_igmp(message: &[u8], visit: impl FnMut(Told)) -> Result<(), DropReason> {
    let head = message.first_chunk::<8>().ok_or(DropReason::Malformed)?;
    let [kind, _, _, _, a, b, c, d] = *head;
    let group = || Ipv4Addr::new(a, b, c, d).into();
    match kind {
        IGMP_REPORT_V1 | IGMP_REPORT_V2 => one(group(), true, visit),
        IGMP_LEAVE => one(group(), false, visit),
        IGMP_REPORT_V3 => {
            let read = |octets: &[u8]| <[u8; 4]>::try_from(octets).map(IpAddr::from).ok();
            records(&message[8..], u16::from_be_bytes([c, d]), 4, read, visit)
        }
        _ => Err(DropReason::UnansweredQuestion),
    }
}

/// Reads an MLD message; `visit` gets what it says of each group.
///
/// # Errors
/// Why nothing, or nothing more, can be read in it.
pub(crate) fn read_mld(message: &[u8], visit: impl FnMut(Told)) -> Result<(), DropReason> {
    let (head, rest) = message.split_first_chunk::<8>().ok_or(DropReason::Malformed)?;
    let group = || rest.first_chunk::<16>().map(|&octets| IpAddr::from(octets));
    match head[0] {
        kind @ (MLD_REPORT | MLD_DONE) => {
            one(group().ok_or(DropReason::Malformed)?, kind == MLD_REPORT, visit)
        }
        MLD_REPORT_V2 => {
            let read = |octets: &[u8]| <[u8; 16]>::try_from(octets).map(IpAddr::from).ok();
            records(rest, u16::from_be_bytes([head[6], head[7]]), 16, read, visit)
        }
        _ => Err(DropReason::UnansweredQuestion),
    }
}

fn one(group: IpAddr, wanted: bool, mut visit: impl FnMut(Told)) -> Result<(), DropReason> {
    if !group.is_multicast() {
        return Err(DropReason::Malformed);
    }
    visit(Told { group, wanted });
    Ok(())
}

/// Reads `count` records, whose addresses have `address_bytes` each.
fn records(
    mut rest: &[u8],
    count: u16,
    address_bytes: usize,
    read: impl Fn(&[u8]) -> Option<IpAddr>,
    mut visit: impl FnMut(Told),
) -> Result<(), DropReason> {
    for _ in 0..count {
        let (head, behind) = rest.split_first_chunk::<4>().ok_or(DropReason::Malformed)?;
        let (group, behind) =
            behind.split_at_checked(address_bytes).ok_or(DropReason::Malformed)?;
        let group = read(group).filter(IpAddr::is_multicast).ok_or(DropReason::Malformed)?;
        let [kind, auxiliary_words, high, low] = *head;
        let sources = usize::from(u16::from_be_bytes([high, low]));
        let skipped = sources * address_bytes + usize::from(auxiliary_words) * 4;
        rest = behind.get(skipped..).ok_or(DropReason::Malformed)?;
        let wanted = match kind {
            MODE_IS_EXCLUDE | CHANGE_TO_EXCLUDE => true,
            MODE_IS_INCLUDE | CHANGE_TO_INCLUDE | ALLOW_NEW_SOURCES => sources > 0,
            BLOCK_OLD_SOURCES => false,
            // RFC 3376, section 4.2.12: what is not known is ignored.
            _ => continue,
        };
        visit(Told { group, wanted });
    }
    Ok(())
}

/// A query from `source`, our address, to the station `to`, about `group`, or about all.
pub(crate) fn query((from, to): (Mac, Mac), source: IpAddr, group: Option<IpAddr>) -> Query {
    let mut frame = Query::new();
    put(&mut frame, &to.0);
    put(&mut frame, &from.0);
    match source {
        IpAddr::V4(source) => {
            let group = group.and_then(|group| match group {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(_) => None,
            });
            igmp_query(&mut frame, source, group);
        }
        IpAddr::V6(source) => {
            let group = group.and_then(|group| match group {
                IpAddr::V6(v6) => Some(v6),
                IpAddr::V4(_) => None,
            });
            mld_query(&mut frame, source, group);
        }
    }
    frame
}

/// RFC 3376, section 4: IPv4 with TTL 1 and the option "router alert" (RFC 2113).
fn igmp_query(frame: &mut Query, source: Ipv4Addr, group: Option<Ipv4Addr>) {
    const LEN: u16 = 24 + 12;
    let response_s = if group.is_some() { LAST_MEMBER_INTERVAL_S } else { RESPONSE_INTERVAL_S };
    put(frame, &[0x08, 0x00]);
    let ip = frame.len();
    put(frame, &[0x46, 0xc0]);
    put(frame, &LEN.to_be_bytes());
    put(frame, &[0, 0, 0x40, 0, 1, IGMP, 0, 0]);
    put(frame, &source.octets());
    put(frame, &group.unwrap_or(ALL_SYSTEMS).octets());
    put(frame, &[148, 4, 0, 0]);
    let message = frame.len();
    put(frame, &[IGMP_QUERY, response_s * 10, 0, 0]);
    put(frame, &group.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    put(frame, &[ROBUSTNESS, QUERY_INTERVAL_S, 0, 0]);
    let sum = Sum16BitWords::new().add_slice(&frame[ip..message]).ones_complement();
    complete(frame, ip + 10, sum);
    let sum = Sum16BitWords::new().add_slice(&frame[message..]).ones_complement();
    complete(frame, message + 2, sum);
}

/// RFC 3810, section 5: IPv6 with hop limit 1 and the hop-by-hop option "router alert" (RFC 2711).
fn mld_query(frame: &mut Query, source: Ipv6Addr, group: Option<Ipv6Addr>) {
    const LEN: u16 = 28;
    let response_s = if group.is_some() { LAST_MEMBER_INTERVAL_S } else { RESPONSE_INTERVAL_S };
    let destination = group.unwrap_or(ALL_NODES);
    put(frame, &[0x86, 0xdd, 0x60, 0, 0, 0]);
    put(frame, &(8 + LEN).to_be_bytes());
    put(frame, &[0, 1]);
    put(frame, &source.octets());
    put(frame, &destination.octets());
    put(frame, &[ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
    let message = frame.len();
    put(frame, &[MLD_QUERY, 0, 0, 0]);
    put(frame, &(u16::from(response_s) * 1000).to_be_bytes());
    put(frame, &[0, 0]);
    put(frame, &group.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
    put(frame, &[ROBUSTNESS, QUERY_INTERVAL_S, 0, 0]);
    let sum = Sum16BitWords::new()
        .add_16bytes(source.octets())
        .add_16bytes(destination.octets())
        .add_2bytes(LEN.to_be_bytes())
        .add_2bytes([0, ICMPV6])
        .add_slice(&frame[message..])
        .ones_complement();
    complete(frame, message + 2, sum);
}

/// Writes a checksum, in the order of this machine.
fn complete(frame: &mut Query, at: usize, checksum: u16) {
    frame[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
}

fn put(frame: &mut Query, bytes: &[u8]) {
    frame.try_extend_from_slice(bytes).expect("MAX_QUERY_BYTES covers both queries");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip::L4Protocol;
    use crate::wire::l4::checksum_is_right;
    use proptest::prelude::*;

    fn told(read: impl FnOnce(&mut Vec<Told>) -> Result<(), DropReason>) -> Vec<(String, bool)> {
        let mut all = Vec::new();
        read(&mut all).unwrap();
        all.iter().map(|told| (told.group.to_string(), told.wanted)).collect()
    }

    fn igmp(message: &[u8]) -> Vec<(String, bool)> {
        told(|all| read_igmp(message, |one| all.push(one)))
    }

    fn mld(message: &[u8]) -> Vec<(String, bool)> {
        told(|all| read_mld(message, |one| all.push(one)))
    }

    #[test]
    fn rfc2236_2_reports_and_leaves_of_one_group() {
        for (kind, wanted) in [(0x12, true), (0x16, true), (0x17, false)] {
            let found = igmp(&[kind, 0, 0, 0, 224, 0, 0, 251]);
            assert_eq!(found, [("224.0.0.251".to_owned(), wanted)]);
        }
        let mut message = vec![131, 0, 0, 0, 0, 0, 0, 0];
        message.extend("ff02::fb".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(mld(&message), [("ff02::fb".to_owned(), true)]);
        message[0] = 132;
        assert_eq!(mld(&message), [("ff02::fb".to_owned(), false)]);
    }

    #[test]
    fn rfc3376_4_2_12_records_of_all_types() {
        let mut message = vec![0x22, 0, 0, 0, 0, 0, 0, 8];
        let sources: [(u8, u8); 8] =
            [(1, 0), (1, 1), (2, 0), (3, 0), (4, 2), (5, 1), (6, 1), (9, 0)];
        for (last, (kind, count)) in (1..).zip(sources) {
            message.extend([kind, 1, 0, count, 239, 0, 0, last]);
            message.extend(vec![7; 4 * usize::from(count) + 4]);
        }
        let found = igmp(&message);
        let expected = [false, true, true, false, true, true, false];
        let wanted: Vec<bool> = found.iter().map(|&(_, wanted)| wanted).collect();
        assert_eq!(wanted, expected);
        assert_eq!(found[6].0, "239.0.0.7");
    }

    #[test]
    fn rfc3810_5_2_records_have_longer_addresses() {
        let mut message = vec![143, 0, 0, 0, 0, 0, 0, 2];
        for (kind, sources, group) in [(4, 1, "ff05::c"), (3, 0, "ff02::fb")] {
            message.extend([kind, 0, 0, sources]);
            message.extend(group.parse::<Ipv6Addr>().unwrap().octets());
            message.extend(vec![7; 16 * usize::from(sources)]);
        }
        assert_eq!(mld(&message), [("ff05::c".to_owned(), true), ("ff02::fb".to_owned(), false)]);
    }

    #[test]
    fn what_is_cut_off_or_no_group_is_malformed() {
        let nothing = |_: Told| panic!("nothing can be read");
        for message in [
            &[0x16, 0, 0, 0, 224, 0, 0][..],
            &[0x16, 0, 0, 0, 192, 0, 2, 1],
            &[0x22, 0, 0, 0, 0, 0, 0, 1],
            &[0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 1, 224, 0, 0, 251],
            &[0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 192, 0, 2, 1],
        ] {
            assert_eq!(read_igmp(message, nothing), Err(DropReason::Malformed), "{message:?}");
        }
        assert_eq!(read_mld(&[131, 0, 0, 0, 0, 0, 0, 0], nothing), Err(DropReason::Malformed));
        let query = [0x11, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(read_igmp(&query, nothing), Err(DropReason::UnansweredQuestion));
    }

    #[test]
    fn rfc3376_4_1_queries_are_complete() {
        let macs = (Mac::OURS, Mac::of_group(ALL_SYSTEMS.into()));
        for group in [None, Some("224.0.0.251".parse::<IpAddr>().unwrap())] {
            let frame = query(macs, "192.0.2.1".parse().unwrap(), group);
            let (header, message) = frame[14..].split_at(24);
            for part in [header, message] {
                assert_eq!(Sum16BitWords::new().add_slice(part).ones_complement(), 0);
            }
            let destination = group.unwrap_or(ALL_SYSTEMS.into());
            assert_eq!(IpAddr::from(<[u8; 4]>::try_from(&header[16..20]).unwrap()), destination);
            assert_eq!(message[1], if group.is_some() { 10 } else { 100 });
        }
    }

    #[test]
    fn rfc3810_5_1_queries_are_complete() {
        let source: IpAddr = "fe80::1".parse().unwrap();
        for group in [None, Some("ff02::fb".parse::<IpAddr>().unwrap())] {
            let frame = query((Mac::OURS, Mac::BROADCAST), source, group);
            let (header, message) = frame[14..].split_at(48);
            let destination = group.unwrap_or(ALL_NODES.into());
            assert_eq!(message.len(), 28);
            assert_eq!((header[5], header[6], header[7]), (36, 0, 1));
            assert!(checksum_is_right(L4Protocol::Icmpv6, source, destination, message));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_igmp(&bytes, |told| assert!(told.group.is_multicast()));
            let _ = read_mld(&bytes, |told| assert!(told.group.is_multicast()));
        }
    }
}
