//! Reads a capture (pcap-savefile(5)), and judges the frames in it as an analyser does: by their lengths
//! and checksums.

/// Bytes of the file's header.
const HEADER_BYTES: usize = 24;

/// Bytes of an Ethernet header.
const ETHERNET_BYTES: usize = 14;

/// A frame of a capture.
#[derive(Clone, Debug)]
pub struct Record {
    /// Microseconds since 1970.
    pub micros: u64,
    /// Bytes of the frame.
    pub len: u32,
    /// What was kept of it.
    pub bytes: Vec<u8>,
}

/// The frames of a capture in this machine's byte order. Panics when it is none, or ends amid a record.
pub fn records(file: &[u8]) -> Vec<Record> {
    let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| file[at + i]));
    let half = |at: usize| u16::from_ne_bytes([file[at], file[at + 1]]);
    assert_eq!(word(0), 0xa1b2_c3d4, "magic number");
    assert_eq!((half(4), half(6)), (2, 4), "version");
    assert_eq!((word(8), word(12)), (0, 0), "time zone and accuracy");
    assert_eq!((word(16), word(20)), (65_535, 1), "snap length and link type");
    let mut records = Vec::new();
    let mut at = HEADER_BYTES;
    while at < file.len() {
        let (seconds, micros, kept, len) = (word(at), word(at + 4), word(at + 8), word(at + 12));
        assert!(micros < 1_000_000 && kept == len.min(65_535), "a record's header at {at}");
        at += 16;
        let bytes = file[at..at + kept as usize].to_vec();
        records.push(Record {
            micros: u64::from(seconds) * 1_000_000 + u64::from(micros),
            len,
            bytes,
        });
        at += kept as usize;
    }
    records
}

/// Whether lengths and checksums of a whole frame are right; what is wrong, if not. Frames that are not
/// IP, or neither TCP, UDP nor ICMP, have none.
///
/// # Errors
/// What is wrong.
pub fn check(frame: &[u8]) -> Result<(), String> {
    let Some(packet) = frame.get(ETHERNET_BYTES..) else { return Err("no Ethernet header".into()) };
    match frame[12..14] {
        [0x08, 0x00] => check_v4(packet),
        [0x86, 0xdd] => check_v6(packet),
        _ => Ok(()),
    }
}

fn check_v4(packet: &[u8]) -> Result<(), String> {
    let header_bytes = usize::from(packet[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if total < header_bytes || total > packet.len() {
        return Err(format!("total length {total} of {} bytes", packet.len()));
    }
    if sum(&[&packet[..header_bytes]]) != 0xffff {
        return Err("IPv4 header checksum".into());
    }
    let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
    if fragment {
        return Ok(());
    }
    check_l4(packet[9], &packet[12..20], &packet[header_bytes..total])
}

fn check_v6(packet: &[u8]) -> Result<(), String> {
    let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    let Some(mut l4) = packet.get(40..40 + length) else {
        return Err(format!("payload length {length} of {} bytes", packet.len() - 40));
    };
    let mut protocol = packet[6];
    if protocol == 0 {
        // Hop-by-hop options, which multicast reports have.
        protocol = l4[0];
        l4 = &l4[8 + 8 * usize::from(l4[1])..];
    }
    check_l4(protocol, &packet[8..40], l4)
}

fn check_l4(protocol: u8, addresses: &[u8], l4: &[u8]) -> Result<(), String> {
    let length = (l4.len() as u32).to_be_bytes();
    let pseudo = [addresses, &length, &[0, protocol]].concat();
    let (name, field, pseudo): (_, _, &[u8]) = match protocol {
        1 => ("ICMP", 2, &[]),
        6 => ("TCP", 16, &pseudo),
        17 => ("UDP", 6, &pseudo),
        58 => ("ICMPv6", 2, &pseudo),
        _ => return Ok(()),
    };
    let Some(&[high, low]) = l4.get(field..field + 2) else { return Err(format!("{name}: short")) };
    if protocol == 17 && usize::from(u16::from_be_bytes([l4[4], l4[5]])) != l4.len() {
        return Err("UDP length".into());
    }
    let none = protocol == 17 && (high, low) == (0, 0);
    if none || sum(&[pseudo, l4]) == 0xffff { Ok(()) } else { Err(format!("{name} checksum")) }
}

/// The ones' complement sum; all parts but the last have an even length.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
