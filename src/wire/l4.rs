//! L4 headers from the guest: TCP (RFC 9293), UDP (RFC 768), the fixed part of ICMP echo (RFC 792,
//! RFC 4443). Checksums are not verified: with offloads they are not even there. Packets that came
//! in fragments are the exception ([`checksum_is_right`]).

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{TcpHeaderSlice, TcpOptionElement, UdpHeaderSlice};

use super::ip::{IpHead, L4Protocol};
use super::tcp::{Flags, Segment};
use super::{DropReason, SeqNr};

/// A TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpHead {
    /// Source port, not 0.
    pub(crate) source_port: u16,
    /// Destination port, not 0.
    pub(crate) destination_port: u16,
    /// The segment.
    pub(crate) segment: Segment,
    /// Bytes of the header with its options.
    pub(crate) header_len: u32,
}

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UdpHead {
    /// Source port, not 0.
    pub(crate) source_port: u16,
    /// Destination port, not 0.
    pub(crate) destination_port: u16,
    /// Bytes behind the header.
    pub(crate) payload_len: u32,
}

/// Bytes of a UDP header, and of the fixed part of an ICMP echo message.
pub(crate) const UDP_HEADER_BYTES: u32 = 8;

impl IpHead {
    /// The TCP header of the packet.
    ///
    /// # Errors
    /// The reason why the segment is to be dropped.
    pub(crate) fn tcp(&self, head: &[u8]) -> Result<TcpHead, DropReason> {
        parse_tcp(self.l4(head)?, self.l4_len)
    }

    /// The UDP header of the packet.
    ///
    /// # Errors
    /// The reason why the datagram is to be dropped.
    pub(crate) fn udp(&self, head: &[u8]) -> Result<UdpHead, DropReason> {
        parse_udp(self.l4(head)?, self.l4_len)
    }
}

fn parse_tcp(bytes: &[u8], l4_len: u32) -> Result<TcpHead, DropReason> {
    if bytes.len() < 20 {
        return Err(if l4_len < 20 { DropReason::Truncated } else { DropReason::HeadersTooLong });
    }
    let header_len = u32::from(bytes[12] >> 4) * 4;
    if header_len < 20 {
        return Err(DropReason::Malformed);
    }
    if header_len > l4_len {
        return Err(DropReason::Truncated);
    }
    let slice = TcpHeaderSlice::from_slice(bytes).map_err(|_| DropReason::HeadersTooLong)?;
    if slice.source_port() == 0 || slice.destination_port() == 0 {
        return Err(DropReason::PortZero);
    }
    let flags = Flags(bytes[13]);
    let (mss, window_scale) =
        if flags.contains(Flags::SYN) { syn_options(&slice) } else { (None, None) };
    Ok(TcpHead {
        source_port: slice.source_port(),
        destination_port: slice.destination_port(),
        header_len,
        segment: Segment {
            seq: SeqNr(slice.sequence_number()),
            ack: SeqNr(slice.acknowledgment_number()),
            flags,
            window: slice.window_size(),
            payload_len: l4_len - header_len,
            mss,
            window_scale,
        },
    })
}

/// MSS and window scale; options behind a malformed one are ignored.
fn syn_options(slice: &TcpHeaderSlice<'_>) -> (Option<u16>, Option<u8>) {
    let (mut mss, mut scale) = (None, None);
    for option in slice.options_iterator().map_while(Result::ok) {
        match option {
            TcpOptionElement::MaximumSegmentSize(value) => mss = Some(value),
            TcpOptionElement::WindowScale(value) => scale = Some(value),
            _ => {}
        }
    }
    (mss, scale)
}

fn parse_udp(bytes: &[u8], l4_len: u32) -> Result<UdpHead, DropReason> {
    let slice = UdpHeaderSlice::from_slice(bytes).map_err(|_| {
        if l4_len < UDP_HEADER_BYTES { DropReason::Truncated } else { DropReason::HeadersTooLong }
    })?;
    let len = u32::from(slice.length());
    if len < UDP_HEADER_BYTES {
        return Err(DropReason::Malformed);
    }
    if len > l4_len {
        return Err(DropReason::Truncated);
    }
    if slice.source_port() == 0 || slice.destination_port() == 0 {
        return Err(DropReason::PortZero);
    }
    Ok(UdpHead {
        source_port: slice.source_port(),
        destination_port: slice.destination_port(),
        payload_len: len - UDP_HEADER_BYTES,
    })
}

/// Whether the checksum of `datagram`, UDP header and payload, is right. Zero means that there is none
/// (RFC 768, RFC 6936).
pub fn udp_checksum_is_right(source: IpAddr, destination: IpAddr, datagram: &[u8]) -> bool {
    checksum_is_right(L4Protocol::Udp, source, destination, datagram)
}

/// Whether the checksum of what is behind an IP header is right. ICMP has no pseudo header.
pub(crate) fn checksum_is_right(
    protocol: L4Protocol,
    source: IpAddr,
    destination: IpAddr,
    datagram: &[u8],
) -> bool {
    if protocol == L4Protocol::Udp && datagram.get(6..8) == Some(&[0, 0]) {
        return true;
    }
    let mut sum = Sum16BitWords::new();
    if protocol != L4Protocol::Icmp {
        sum = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                sum.add_4bytes(source.octets()).add_4bytes(destination.octets())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                sum.add_16bytes(source.octets()).add_16bytes(destination.octets())
            }
            _ => return false,
        };
        let len = datagram.len() as u32;
        sum = sum.add_4bytes(len.to_be_bytes());
        sum = sum.add_4bytes(u32::from(protocol.number()).to_be_bytes());
    }
    sum.add_slice(datagram).ones_complement() == 0
}

/// An ICMP or ICMPv6 echo header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EchoHead {
    /// ICMP type.
    pub(crate) kind: u8,
    /// Identifier.
    pub(crate) identifier: u16,
    /// Sequence number.
    pub(crate) sequence: u16,
}

/// ICMPv6 types of neighbour and router discovery (RFC 4861).
pub(crate) const NDP_TYPES: std::ops::RangeInclusive<u8> = 133..=136;

/// Type of an ICMP echo request (RFC 792).
pub(crate) const ECHO_REQUEST_V4: u8 = 8;
/// Type of an ICMP echo reply (RFC 792).
pub(crate) const ECHO_REPLY_V4: u8 = 0;
/// Type of an ICMPv6 echo request (RFC 4443).
pub(crate) const ECHO_REQUEST_V6: u8 = 128;
/// Type of an ICMPv6 echo reply (RFC 4443).
pub(crate) const ECHO_REPLY_V6: u8 = 129;

/// Writes the identifier of an echo message, if `message` has so many bytes.
pub(crate) fn set_echo_identifier(message: &mut [u8], identifier: u16) {
    if let Some(bytes) = message.get_mut(4..6) {
        bytes.copy_from_slice(&identifier.to_be_bytes());
    }
}

/// Parses the fixed part of an echo message.
pub(crate) fn parse_echo(bytes: &[u8]) -> Option<EchoHead> {
    let &[kind, 0, _, _, id0, id1, seq0, seq1] = bytes.first_chunk::<8>()? else { return None };
    Some(EchoHead {
        kind,
        identifier: u16::from_be_bytes([id0, id1]),
        sequence: u16::from_be_bytes([seq0, seq1]),
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::build::{HeaderTemplate, L4Checksum, sum_of};
    use super::super::eth::Mac;
    use super::*;

    #[test]
    fn rfc768_any_changed_byte_makes_a_udp_checksum_wrong() {
        for (source, destination) in
            [("192.0.2.2:1000", "198.51.100.7:53"), ("[2001:db8::2]:1000", "[2001:db8:1::7]:53")]
        {
            let parse = |text: &str| text.parse::<SocketAddr>().expect("a literal");
            let (from, to) = (parse(source), parse(destination));
            let macs = (Mac::OURS, Mac::OURS);
            let template = HeaderTemplate::new(macs, from, to, L4Protocol::Udp, 0);
            let payload = *b"an odd number of bytes.";
            let complete = L4Checksum::Complete { payload_sum: sum_of(&payload) };
            let header = template.udp(payload.len() as u32, complete);
            let mut datagram = [&header[template.l3_bytes()..], &payload].concat();
            let right = |datagram: &[u8]| udp_checksum_is_right(from.ip(), to.ip(), datagram);
            assert!(right(&datagram));
            for at in 0..datagram.len() {
                datagram[at] ^= 0x10;
                assert!(!right(&datagram), "{at}");
                datagram[at] ^= 0x10;
            }
            assert!(!udp_checksum_is_right(to.ip(), to.ip(), &datagram));
            datagram[6..8].fill(0);
            assert!(right(&datagram), "no checksum");
        }
    }
}
