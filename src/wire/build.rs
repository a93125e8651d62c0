//! Headers of the frames we send: Ethernet, IPv4 or IPv6, and the L4 header, in one small buffer.
//!
//! A [`HeaderTemplate`] holds what is the same for all frames of one batch of a flow (addresses, the
//! partial sum of the pseudo header); stamping one frame writes lengths, sequence numbers and
//! checksums. IPv4 headers have ID 0, DF set, TTL 255; IPv6 hop limit is 255. No options, no tags. Fragments
//! have an ID and no DF, or the header that IPv6 has for them.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use etherparse::checksum::Sum16BitWords;

use super::eth::{HEADER_BYTES, Mac};
use super::ip::{L4Protocol, UNIT_BYTES, max_l4_bytes};
use super::tcp::Header;

/// Room for Ethernet, IPv6 and a TCP header with the options of a SYN.
pub(crate) const MAX_HEADER_BYTES: usize = 128;

/// Bytes of the header that makes a fragment of an IPv6 packet (RFC 8200, section 4.5), and its number.
const FRAGMENT_HEADER_BYTES: usize = 8;
const FRAGMENT_HEADER: u8 = 44;

/// Headers of one frame.
pub(crate) type HeaderBuf = ArrayVec<u8, MAX_HEADER_BYTES>;

/// How the L4 checksum of a frame is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum L4Checksum {
    /// The guest completes it: the field gets the sum of the pseudo header.
    Partial,
    /// We complete it: the ones' complement sum (folded, not inverted) of the payload.
    Complete {
        /// Sum over the payload bytes.
        payload_sum: u16,
    },
}

/// The largest IP packet of an Ethernet (RFC 894).
const USUAL_MTU: u16 = 1500;

/// Headers of the frames of one flow toward the guest.
#[derive(Clone, Debug)]
pub(crate) struct HeaderTemplate {
    /// Ethernet and IP headers with lengths and checksum zero.
    base: HeaderBuf,
    ports: [u8; 4],
    /// Sum of addresses and protocol; the length is added per frame.
    pseudo: u32,
    v4: bool,
}

impl HeaderTemplate {
    /// Headers from `source` to `destination`, which are of one family.
    pub(crate) fn new(
        macs: (Mac, Mac),
        source: SocketAddr,
        destination: SocketAddr,
        protocol: L4Protocol,
        flow_label: u32,
    ) -> Self {
        let mut base = HeaderBuf::new();
        let (from, to) = macs;
        extend(&mut base, &to.0);
        extend(&mut base, &from.0);
        let v4 = match (source.ip(), destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                extend(&mut base, &[0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 255]);
                extend(&mut base, &[protocol.number(), 0, 0]);
                extend(&mut base, &source.octets());
                extend(&mut base, &destination.octets());
                true
            }
            (source, destination) => {
                let label = flow_label & 0xf_ffff;
                extend(&mut base, &[0x86, 0xdd]);
                extend(&mut base, &(0x6000_0000 | label).to_be_bytes());
                extend(&mut base, &[0, 0, protocol.number(), 255]);
                extend(&mut base, &v6_octets(source));
                extend(&mut base, &v6_octets(destination));
                false
            }
        };
        let addresses = if v4 { HEADER_BYTES + 12 } else { HEADER_BYTES + 8 };
        let mut pseudo = u32::from(protocol.number());
        for pair in base[addresses..].as_chunks::<2>().0 {
            pseudo += u32::from(u16::from_be_bytes(*pair));
        }
        let [s0, s1] = source.port().to_be_bytes();
        let [d0, d1] = destination.port().to_be_bytes();
        Self { base, ports: [s0, s1, d0, d1], pseudo, v4 }
    }

    /// Bytes of Ethernet and IP header.
    pub(crate) fn l3_bytes(&self) -> usize {
        self.base.len()
    }

    /// Most bytes behind the IP header in one frame.
    pub(crate) fn max_l4_bytes(&self) -> u32 {
        max_l4_bytes(self.v4)
    }

    /// Whether the frames are IPv4.
    pub(crate) fn is_v4(&self) -> bool {
        self.v4
    }

    /// Ethernet and IP header of a frame with `l4_len` bytes behind them.
    pub(crate) fn l3(&self, l4_len: u32) -> HeaderBuf {
        let mut buf = self.base.clone();
        if self.v4 {
            put_u16(&mut buf, HEADER_BYTES + 2, (20 + l4_len) as u16);
            Self::finish_l3(&mut buf);
        } else {
            put_u16(&mut buf, HEADER_BYTES + 4, l4_len as u16);
        }
        buf
    }

    /// Writes the checksum of an IPv4 header.
    fn finish_l3(buf: &mut HeaderBuf) {
        buf[HEADER_BYTES + 10..HEADER_BYTES + 12].fill(0);
        let header = &buf[HEADER_BYTES..HEADER_BYTES + 20];
        let sum = Sum16BitWords::new().add_slice(header).ones_complement();
        buf[HEADER_BYTES + 10..HEADER_BYTES + 12].copy_from_slice(&sum.to_ne_bytes());
    }

    /// Lets routers behind the guest cut a packet of which `buf` has the headers, under a `number` of its own, if
    /// it is IPv4 and longer than what any link takes. It has come whole or in fragments, and not with the promise
    /// that nobody needs to cut it: a machine behind the guest, on a link with a smaller MTU, is reached as by others.
    pub(crate) fn let_be_cut(&self, buf: &mut HeaderBuf, number: impl FnOnce() -> u32) {
        let len = u16::from_be_bytes([buf[HEADER_BYTES + 2], buf[HEADER_BYTES + 3]]);
        if self.v4 && len > USUAL_MTU {
            put_u16(buf, HEADER_BYTES + 4, number() as u16);
            put_u16(buf, HEADER_BYTES + 6, 0);
            Self::finish_l3(buf);
        }
    }

    /// Bytes of the headers of a fragment.
    pub(crate) fn fragment_header_bytes(&self) -> usize {
        self.base.len() + if self.v4 { 0 } else { FRAGMENT_HEADER_BYTES }
    }

    /// Most bytes behind the headers of a fragment of which others follow, on a link of `mtu`: whole units,
    /// one at least.
    pub(crate) fn fragment_room(&self, mtu: u32) -> u32 {
        let headers = (self.fragment_header_bytes() - HEADER_BYTES) as u32;
        (mtu.saturating_sub(headers) / UNIT_BYTES * UNIT_BYTES).max(UNIT_BYTES)
    }

    /// Headers of the fragment with `len` bytes from `offset` on, of the datagram with the number `identification`.
    pub(crate) fn fragment(
        &self,
        identification: u32,
        offset: u32,
        more: bool,
        len: u32,
    ) -> HeaderBuf {
        if self.v4 {
            let mut buf = self.l3(len);
            put_u16(&mut buf, HEADER_BYTES + 4, identification as u16);
            put_u16(
                &mut buf,
                HEADER_BYTES + 6,
                (offset / UNIT_BYTES) as u16 | u16::from(more) << 13,
            );
            Self::finish_l3(&mut buf);
            return buf;
        }
        let mut buf = self.l3(len + FRAGMENT_HEADER_BYTES as u32);
        let next = std::mem::replace(&mut buf[HEADER_BYTES + 6], FRAGMENT_HEADER);
        extend(&mut buf, &[next, 0]);
        extend(&mut buf, &(offset as u16 | u16::from(more)).to_be_bytes());
        extend(&mut buf, &identification.to_be_bytes());
        buf
    }

    /// All headers of a TCP segment with `payload_len` bytes.
    pub(crate) fn tcp(&self, fields: &Header, payload_len: u32, checksum: L4Checksum) -> HeaderBuf {
        let options =
            4 * u32::from(fields.mss.is_some()) + 4 * u32::from(fields.window_scale.is_some());
        let l4_len = 20 + options + payload_len;
        let mut buf = self.l3(l4_len);
        let l4 = buf.len();
        extend(&mut buf, &self.ports);
        extend(&mut buf, &fields.seq.0.to_be_bytes());
        extend(&mut buf, &fields.ack.0.to_be_bytes());
        extend(&mut buf, &[((20 + options) / 4 * 16) as u8, fields.flags.0]);
        extend(&mut buf, &fields.window.to_be_bytes());
        extend(&mut buf, &[0; 4]);
        if let Some(mss) = fields.mss {
            let [a, b] = mss.to_be_bytes();
            extend(&mut buf, &[2, 4, a, b]);
        }
        if let Some(scale) = fields.window_scale {
            extend(&mut buf, &[1, 3, 3, scale]);
        }
        self.finish(&mut buf, l4, l4 + 16, l4_len, checksum);
        buf
    }

    /// Makes of the headers of a segment without options those of the one behind it, of the same length.
    pub(crate) fn tcp_again(
        &self,
        buf: &mut HeaderBuf,
        fields: &Header,
        payload_len: u32,
        checksum: L4Checksum,
    ) {
        let l4 = self.base.len();
        buf[l4 + 4..l4 + 8].copy_from_slice(&fields.seq.0.to_be_bytes());
        buf[l4 + 13] = fields.flags.0;
        buf[l4 + 16..l4 + 18].fill(0);
        self.finish(buf, l4, l4 + 16, 20 + payload_len, checksum);
    }

    /// All headers of a UDP datagram with `payload_len` bytes.
    pub(crate) fn udp(&self, payload_len: u32, checksum: L4Checksum) -> HeaderBuf {
        let l4_len = 8 + payload_len;
        let mut buf = self.l3(l4_len);
        let l4 = buf.len();
        extend(&mut buf, &self.ports);
        extend(&mut buf, &(l4_len as u16).to_be_bytes());
        extend(&mut buf, &[0; 2]);
        self.finish(&mut buf, l4, l4 + 6, l4_len, checksum);
        // RFC 768: a computed checksum of zero is sent as all ones; zero means none.
        if matches!(checksum, L4Checksum::Complete { .. }) && buf[l4 + 6..l4 + 8] == [0, 0] {
            put_u16(&mut buf, l4 + 6, 0xffff);
        }
        buf
    }

    /// Headers in front of a complete ICMP or ICMPv6 message, whose checksum (bytes 2 and 3) is
    /// written into it.
    pub(crate) fn icmp(&self, message: &mut [u8]) -> HeaderBuf {
        let len = message.len() as u32;
        self.icmp_checksum(message, len, 0);
        self.l3(len)
    }

    /// All headers of an echo message: `head` is its fixed part, `payload_len` bytes follow, whose folded sum is
    /// `payload_sum`.
    pub(crate) fn echo(&self, head: &mut [u8; 8], payload_len: u32, payload_sum: u16) -> HeaderBuf {
        let len = head.len() as u32 + payload_len;
        self.icmp_checksum(head, len, payload_sum);
        let mut buf = self.l3(len);
        extend(&mut buf, head);
        buf
    }

    /// ICMP has no pseudo header (RFC 792), ICMPv6 does (RFC 4443, section 2.3).
    fn icmp_checksum(&self, head: &mut [u8], len: u32, payload_sum: u16) {
        head[2..4].fill(0);
        let pseudo = if self.v4 { 0 } else { self.pseudo_with(len) };
        let value = !fold(pseudo + u32::from(sum_of(head)) + u32::from(payload_sum));
        head[2..4].copy_from_slice(&value.to_be_bytes());
    }

    /// Folded sum of the pseudo header for `l4_len` bytes (RFC 9293 section 3.1, RFC 8200 section 8.1).
    pub(crate) fn pseudo_with(&self, l4_len: u32) -> u32 {
        u32::from(fold(self.pseudo + (l4_len >> 16) + (l4_len & 0xffff)))
    }

    fn finish(&self, buf: &mut HeaderBuf, l4: usize, at: usize, l4_len: u32, checksum: L4Checksum) {
        let pseudo = self.pseudo_with(l4_len);
        let value = match checksum {
            L4Checksum::Partial => pseudo as u16,
            L4Checksum::Complete { payload_sum } => {
                !fold(pseudo + u32::from(sum_of(&buf[l4..])) + u32::from(payload_sum))
            }
        };
        put_u16(buf, at, value);
    }
}

/// Folded ones' complement sum of `bytes` in network order.
pub(crate) fn sum_of(bytes: &[u8]) -> u16 {
    !Sum16BitWords::new().add_slice(bytes).ones_complement().to_be()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

fn v6_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
    }
}

fn extend(buf: &mut HeaderBuf, bytes: &[u8]) {
    buf.try_extend_from_slice(bytes).expect("MAX_HEADER_BYTES covers every header we build");
}

fn put_u16(buf: &mut HeaderBuf, at: usize, value: u16) {
    buf[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::SeqNr;
    use crate::wire::tcp::Flags;
    use etherparse::{Icmpv4Header, Icmpv6Header, IpHeaders, SlicedPacket, TransportSlice};

    const MACS: (Mac, Mac) = (Mac::OURS, Mac([2, 0, 0, 0, 0, 1]));

    fn addresses(v4: bool) -> (SocketAddr, SocketAddr) {
        let (source, destination) =
            if v4 { ("192.0.2.1", "198.51.100.7") } else { ("2001:db8::1", "2001:db8:1::7") };
        let parse = |ip: &str| ip.parse::<IpAddr>().expect("a literal");
        (SocketAddr::new(parse(source), 1234), SocketAddr::new(parse(destination), 80))
    }

    fn template(v4: bool, protocol: L4Protocol) -> HeaderTemplate {
        let (source, destination) = addresses(v4);
        HeaderTemplate::new(MACS, source, destination, protocol, 0xabcde)
    }

    /// The frame, and its IP header as an independent parser sees it.
    fn parsed(frame: &[u8]) -> (IpHeaders, Vec<u8>) {
        let (ip, rest) = IpHeaders::from_slice(&frame[HEADER_BYTES..]).expect("a valid packet");
        if let IpHeaders::Ipv4(header, _) = &ip {
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
        (ip, rest.payload.to_vec())
    }

    #[test]
    fn headers_of_the_next_segment_are_those_that_are_made_anew() {
        for v4 in [true, false] {
            let template = template(v4, L4Protocol::Tcp);
            let first = Header {
                seq: SeqNr(u32::MAX),
                ack: SeqNr(77),
                flags: Flags::ACK,
                window: 0x1234,
                mss: None,
                window_scale: None,
            };
            let next = Header { seq: SeqNr(999), flags: Flags::PSH | Flags::ACK, ..first };
            for checksum in [L4Checksum::Partial, L4Checksum::Complete { payload_sum: 0x1234 }] {
                let mut headers = template.tcp(&first, 1000, checksum);
                template.tcp_again(&mut headers, &next, 1000, checksum);
                assert_eq!(headers, template.tcp(&next, 1000, checksum));
            }
        }
    }

    #[test]
    fn tcp_checksums_are_what_an_independent_parser_computes() {
        for v4 in [true, false] {
            for len in [0, 1, 2, 777] {
                let payload: Vec<u8> = (0..len).map(|i| (i * 31) as u8).collect();
                let fields = Header {
                    seq: SeqNr(0xdead_beef),
                    ack: SeqNr(77),
                    flags: Flags::PSH | Flags::ACK,
                    window: 0x1234,
                    mss: Some(1460),
                    window_scale: Some(8),
                };
                let checksum = L4Checksum::Complete { payload_sum: sum_of(&payload) };
                let mut frame = template(v4, L4Protocol::Tcp).tcp(&fields, len, checksum).to_vec();
                frame.extend(&payload);
                let packet = SlicedPacket::from_ethernet(&frame).expect("valid");
                let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("TCP") };
                let (ip, _) = parsed(&frame);
                let header = tcp.to_header();
                let expected = match &ip {
                    IpHeaders::Ipv4(ip, _) => header.calc_checksum_ipv4(ip, &payload),
                    IpHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(ip, &payload),
                };
                assert_eq!(header.checksum, expected.expect("fits"), "v4 {v4}, {len} bytes");
                assert_eq!((header.source_port, header.destination_port), (1234, 80));
                assert_eq!(header.sequence_number, 0xdead_beef);
            }
        }
    }

    #[test]
    fn icmp_checksums_are_what_an_independent_parser_computes() {
        for v4 in [true, false] {
            let payload = [1u8, 2, 3, 4, 5];
            let mut head = [if v4 { 0 } else { 129 }, 0, 9, 9, 0x12, 0x34, 0, 7];
            let protocol = if v4 { L4Protocol::Icmp } else { L4Protocol::Icmpv6 };
            let mut frame = template(v4, protocol).echo(&mut head, 5, sum_of(&payload)).to_vec();
            frame.extend(payload);
            let (ip, message) = parsed(&frame);
            match ip {
                IpHeaders::Ipv4(..) => {
                    let (header, rest) = Icmpv4Header::from_slice(&message).expect("valid");
                    let expected = header.icmp_type.calc_checksum(rest);
                    assert_eq!(header.checksum, expected);
                }
                IpHeaders::Ipv6(ip, _) => {
                    let (header, rest) = Icmpv6Header::from_slice(&message).expect("valid");
                    let expected = header.icmp_type.calc_checksum(ip.source, ip.destination, rest);
                    assert_eq!(header.checksum, expected.expect("fits"));
                }
            }
            let mut whole =
                [[if v4 { 8 } else { 128 }, 0, 0, 0, 1, 2, 3, 4].as_slice(), &payload].concat();
            let mut frame = template(v4, protocol).icmp(&mut whole).to_vec();
            frame.extend(&whole);
            assert_eq!(parsed(&frame).1, whole);
        }
    }
}
