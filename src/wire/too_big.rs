//! "Fragmentation needed" (RFC 792, RFC 1191) and "packet too big" (RFC 4443, RFC 8201) from a router on the guest's side:
//! what of the packet that it quotes tells whose that is. Nothing is believed here; whether such a packet is under way is
//! for others to know.

use std::net::IpAddr;

use super::icmp_translation::{v4, v6};
use super::ip::{self, L4Protocol};
use super::l4::{ECHO_REPLY_V4, ECHO_REPLY_V6, UDP_HEADER_BYTES, parse_echo};
use super::{DropReason, Fragment, Packet, SeqNr};

/// Bytes of an error that are looked at: its own header, and as much of what it quotes as a frame's headers may have.
pub(crate) const LOOKED_AT_BYTES: usize = 8 + 128;

/// Bytes of the L4 header that every error quotes (RFC 792): ports, and the sequence number of TCP.
const QUOTED_L4_BYTES: usize = 8;

/// The least MTU that is believed: Linux' `net.ipv4.route.min_pmtu`, for IPv4 paths have no useful least.
const MIN_MTU_V4: u32 = 552;
/// The least MTU of IPv6 (RFC 8200, section 5).
const MIN_MTU_V6: u32 = 1280;

/// An error of a path that is too narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooBig {
    /// The largest packet that goes on, in bytes.
    pub(crate) mtu: u16,
    /// Who has sent the packet that does not.
    pub(crate) source: IpAddr,
    /// Whom it was for.
    pub(crate) destination: IpAddr,
    /// Its protocol.
    pub(crate) protocol: L4Protocol,
    /// Its ports, source and destination; of an echo reply twice the identifier.
    pub(crate) ports: (u16, u16),
    /// The sequence number of a TCP segment; of others it means nothing.
    pub(crate) seq: SeqNr,
}

/// Whether an ICMP message is such an error.
pub(crate) fn is_too_big(v4: bool, message: &[u8]) -> bool {
    match (v4, message) {
        (true, [kind, code, ..]) => (*kind, *code) == (v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED),
        // RFC 4443, section 3.2: receivers ignore the code.
        (false, [kind, ..]) => *kind == v6::TOO_BIG,
        _ => false,
    }
}

/// Parses the first bytes of such an error.
///
/// # Errors
/// The reason why it is to be dropped.
pub(crate) fn parse(v4: bool, message: &[u8]) -> Result<TooBig, DropReason> {
    let (head, quoted) = message.split_first_chunk::<8>().ok_or(DropReason::Truncated)?;
    let mtu = path_mtu(v4, head)?;
    if quoted_bytes(v4, quoted).is_some_and(|bytes| bytes <= u32::from(mtu)) {
        // It would have gone on.
        return Err(DropReason::Malformed);
    }
    let ip = match ip::parse_quoted(v4, quoted)? {
        Packet::Ip(ip) => ip,
        // The first fragment has the ports, and is too big, too.
        Packet::Fragment(Fragment { ip, place }) if place.offset == 0 => ip,
        _ => return Err(DropReason::UnsupportedIcmp),
    };
    let l4 = ip.l4(quoted)?.first_chunk::<QUOTED_L4_BYTES>().ok_or(DropReason::Truncated)?;
    let (ports, seq) = ports(ip.protocol, l4).ok_or(DropReason::UnsupportedIcmp)?;
    let (source, destination, protocol) = (ip.source, ip.destination, ip.protocol);
    Ok(TooBig { mtu, source, destination, protocol, ports, seq })
}

/// The MTU that an error names, not below the least. A router from before RFC 1191 names none: then it is the least.
fn path_mtu(v4: bool, &[.., a, b, c, d]: &[u8; 8]) -> Result<u16, DropReason> {
    let (named, least) = match v4 {
        true => (u32::from(u16::from_be_bytes([c, d])), MIN_MTU_V4),
        false => (u32::from_be_bytes([a, b, c, d]), MIN_MTU_V6),
    };
    // RFC 8201, section 4: what names less than the least is discarded.
    if !v4 && named < least {
        return Err(DropReason::Malformed);
    }
    Ok(u16::try_from(named.max(least)).unwrap_or(u16::MAX))
}

/// How long the quoted packet says it is, in bytes.
fn quoted_bytes(v4: bool, quoted: &[u8]) -> Option<u32> {
    let &[_, _, a, b, c, d, ..] = quoted else { return None };
    let (total, payload) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some(if v4 { total.into() } else { u32::from(payload) + 40 })
}

/// The ports of a packet of ours, and its sequence number; `None` of one that we do not send.
fn ports(protocol: L4Protocol, l4: &[u8; QUOTED_L4_BYTES]) -> Option<((u16, u16), SeqNr)> {
    let &[a, b, c, d, e, f, g, h] = l4;
    let echo = |kind| parse_echo(l4).filter(|echo| echo.kind == kind).map(|echo| echo.identifier);
    let ports = match protocol {
        L4Protocol::Tcp | L4Protocol::Udp => {
            (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
        }
        L4Protocol::Icmp => echo(ECHO_REPLY_V4).map(|id| (id, id))?,
        L4Protocol::Icmpv6 => echo(ECHO_REPLY_V6).map(|id| (id, id))?,
    };
    Some((ports, SeqNr(u32::from_be_bytes([e, f, g, h]))))
}

const _: () = assert!(QUOTED_L4_BYTES == UDP_HEADER_BYTES as usize);

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: [u8; 4] = [198, 51, 100, 7];
    const TO: [u8; 4] = [192, 0, 2, 2];

    /// An error of IPv4 that quotes `l4` behind a header with `options`, and `field` for flags and offset.
    fn v4_error(mtu: u16, protocol: u8, options: &[u8], field: u16, l4: &[u8]) -> Vec<u8> {
        let mut error = vec![3, 4, 0, 0, 0, 0];
        error.extend(mtu.to_be_bytes());
        error.extend([0x45 + options.len() as u8 / 4, 0, 5, 220, 0, 0]);
        error.extend(field.to_be_bytes());
        error.extend([63, protocol, 0, 0]);
        error.extend([FROM, TO].concat());
        error.extend(options);
        error.extend(l4);
        error
    }

    /// One of IPv6 whose quoted packet begins with `next`.
    fn v6_error(mtu: u32, next: u8, rest: &[u8]) -> Vec<u8> {
        let mut error = vec![2, 9, 0, 0];
        error.extend(mtu.to_be_bytes());
        error.extend([0x60, 0, 0, 0, 5, 180, next, 63]);
        error.extend([[0x20; 16], [0x21; 16]].concat());
        error.extend(rest);
        error
    }

    const TCP: [u8; 8] = [0, 80, 0x9c, 0x40, 1, 2, 3, 4];
    const REPLY: [u8; 8] = [0, 0, 0, 0, 0x12, 0x34, 0, 7];

    fn told(v4: bool, error: &[u8]) -> (u16, (u16, u16), u32) {
        let told = parse(v4, error).expect("a sound error");
        (told.mtu, told.ports, told.seq.0)
    }

    #[test]
    fn what_would_have_gone_on_is_not_too_big() {
        for (mtu, sound) in [(1499, true), (1500, false), (9000, false), (0, true)] {
            let v4 = v4_error(mtu, 6, &[], 0x4000, &TCP);
            assert_eq!(parse(true, &v4).is_ok(), sound, "{mtu}");
        }
        for (mtu, sound) in [(1499, true), (1500, false), (u32::MAX, false)] {
            assert_eq!(parse(false, &v6_error(mtu, 6, &TCP)).is_ok(), sound, "{mtu}");
        }
    }

    #[test]
    fn rfc792_an_error_quotes_a_header_with_its_options_and_eight_bytes() {
        for options in [&[][..], &[1; 4], &[1; 40]] {
            let error = v4_error(1400, 6, options, 0x4000, &TCP);
            assert!(is_too_big(true, &error) && !is_too_big(false, &error));
            assert_eq!(told(true, &error), (1400, (80, 40000), 0x0102_0304));
            for len in 0..error.len() {
                assert!(parse(true, &error[..len]).is_err(), "{len}");
            }
        }
        let reply = told(true, &v4_error(1400, 1, &[], 0x4000, &REPLY));
        assert_eq!(reply.1, (0x1234, 0x1234));
    }

    #[test]
    fn rfc4443_an_error_quotes_extension_headers() {
        for chain in [&[][..], &[6, 0, 1, 4, 0, 0, 0, 0]] {
            let next = if chain.is_empty() { 6 } else { 60 };
            let error = v6_error(1400, next, &[chain, &TCP].concat());
            assert!(is_too_big(false, &error) && !is_too_big(true, &error), "whatever the code");
            assert_eq!(told(false, &error), (1400, (80, 40000), 0x0102_0304));
            for len in 0..error.len() {
                assert!(parse(false, &error[..len]).is_err(), "{len}");
            }
        }
        // The first fragment of a datagram, and the second, which has no ports.
        let fragment = |offset: u8| [&[17, 0, 0, offset | 1, 0, 0, 0, 1][..], &TCP].concat();
        assert_eq!(told(false, &v6_error(1400, 44, &fragment(0))).1, (80, 40000));
        let second = parse(false, &v6_error(1400, 44, &fragment(8)));
        assert_eq!(second, Err(DropReason::UnsupportedIcmp));
    }

    #[test]
    fn rfc1191_4_no_mtu_is_below_the_least() {
        for (named, mtu) in [(0, 552), (551, 552), (552, 552), (1499, 1499)] {
            assert_eq!(told(true, &v4_error(named, 6, &[], 0, &TCP)).0, mtu);
        }
        for (named, mtu) in [(1280, 1280), (1499, 1499)] {
            assert_eq!(told(false, &v6_error(named, 6, &TCP)).0, mtu);
        }
        for named in [0, 68, 1279] {
            assert_eq!(parse(false, &v6_error(named, 6, &TCP)), Err(DropReason::Malformed));
        }
    }

    #[test]
    fn what_quotes_nothing_of_ours_is_refused() {
        use DropReason::{UnknownProtocol, UnsupportedIcmp};
        let mut request = REPLY;
        request[0] = 8;
        for (error, reason) in [
            (v4_error(1400, 1, &[], 0, &request), UnsupportedIcmp),
            (v4_error(1400, 2, &[], 0, &TCP), UnsupportedIcmp),
            (v4_error(1400, 17, &[], 0x2001, &TCP), UnsupportedIcmp),
            (v4_error(1400, 132, &[], 0, &TCP), UnknownProtocol),
        ] {
            assert_eq!(parse(true, &error), Err(reason));
        }
        assert_eq!(parse(false, &v6_error(1400, 59, &TCP)), Err(UnknownProtocol));
    }
}
