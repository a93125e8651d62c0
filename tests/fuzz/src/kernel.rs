//! What comes from outside and is read by hand: netlink's messages, and answers of name servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use passt::fuzzing;

/// Nothing is read twice, and nothing behind a message that is not whole.
pub fn netlink(data: &[u8]) {
    let (read, told) = fuzzing::route_replies(data);
    let whole = messages(data);
    assert!(read <= whole && told <= 3 * read, "{told} things in {read} of {whole} messages");
    assert!(fuzzing::table_replies(data) <= 2 * whole);
}

/// Whole messages in front of the first that is not.
fn messages(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some(len) = bytes.first_chunk().map(|len| u32::from_ne_bytes(*len) as usize) {
        if len < 16 || len > bytes.len() {
            break;
        }
        count += 1;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    count
}

/// A message is a query or an answer; of an answer all addresses are found, and no others, by a reader that was written for
/// this.
pub fn dns(data: &[u8]) {
    let (query, addresses) = fuzzing::dns(data);
    assert!(!query || addresses.is_empty(), "a query and an answer");
    assert_eq!(addresses, answered(data).unwrap_or_default());
}

/// A record of the Internet: whose, its kind, its time, its data and where they begin.
type Record<'a> = (Vec<Vec<u8>>, u16, u32, &'a [u8], usize);

/// Records and aliases that are looked at.
const MOST_RECORDS: usize = 256;
const MOST_NAMES: usize = 13;

/// The addresses of the one name that was asked for, and of its aliases, in their order.
fn answered(message: &[u8]) -> Option<Vec<(IpAddr, u32)>> {
    let field = |at: usize| Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?));
    // An answer to a plain query, without an error, with one question.
    if field(2)? & 0xf80f != 0x8000 || field(4)? != 1 {
        return None;
    }
    let (mut wanted, end) = name(message, 12)?;
    if field(end).is_none() || field(end + 2)? != 1 {
        return None;
    }
    let mut records = Vec::new();
    let mut at = end + 4;
    for _ in 0..usize::from(field(6)?).min(MOST_RECORDS) {
        let Some((record, next)) = record(message, at) else { break };
        records.extend(record);
        at = next;
    }
    let (mut found, mut most) = (Vec::new(), u32::MAX);
    for _ in 0..MOST_NAMES {
        let mut alias = None;
        for (owner, kind, time, data, at) in &records {
            if *owner != wanted {
                continue;
            }
            let address: Option<IpAddr> = match kind {
                1 => <[u8; 4]>::try_from(*data).ok().map(|octets| Ipv4Addr::from(octets).into()),
                28 => <[u8; 16]>::try_from(*data).ok().map(|octets| Ipv6Addr::from(octets).into()),
                _ => None,
            };
            found.extend(address.map(|address| (address, most.min(*time))));
            if *kind == 5 && alias.is_none() {
                alias = name(message, *at).map(|(name, _)| (name, *time));
            }
        }
        let Some((next, time)) = alias else { break };
        (wanted, most) = (next, most.min(time));
    }
    Some(found)
}

/// The record at a place, if it is of the Internet, and where the next one begins.
fn record(message: &[u8], at: usize) -> Option<(Option<Record<'_>>, usize)> {
    let (owner, fixed) = name(message, at)?;
    let [k0, k1, c0, c1, t0, t1, t2, t3, l0, l1] = *message.get(fixed..)?.first_chunk()?;
    let (kind, class) = (u16::from_be_bytes([k0, k1]), u16::from_be_bytes([c0, c1]));
    // What would be negative is no time at all (RFC 2181, section 8).
    let time = u32::try_from(i32::from_be_bytes([t0, t1, t2, t3])).unwrap_or(0);
    let start = fixed + 10;
    let end = start + usize::from(u16::from_be_bytes([l0, l1]));
    let data = message.get(start..end)?;
    Some(((class == 1).then_some((owner, kind, time, data, start)), end))
}

/// The labels of the name at a place, in small letters, and where it ends. What is compressed goes on further in front, behind
/// the message's head.
fn name(message: &[u8], begin: usize) -> Option<(Vec<Vec<u8>>, usize)> {
    let mut labels = Vec::new();
    let mut at = begin;
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        match len >> 6 {
            0 if len == 0 => break,
            0 => labels.push(message.get(at..at + len)?.to_ascii_lowercase()),
            3 => {
                let target = (len & 0x3f) << 8 | usize::from(*message.get(at)?);
                if !(12..begin).contains(&target) {
                    return None;
                }
                labels.extend(name(message, target)?.0);
                at += 1;
                break;
            }
            _ => return None,
        }
        at += len;
    }
    // With a length in front of each, and the root, no more than 255 bytes.
    let bytes: usize = labels.iter().map(|label| label.len() + 1).sum();
    (bytes < 255).then_some((labels, at))
}
