//! The head of a frame from the guest: Ethernet, then ARP, IPv4 (RFC 791) or IPv6 (RFC 8200) with its
//! extension headers. Header checksums are not verified: the link is memory, not a wire.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{Ethernet2HeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice};

use super::eth::{self, Mac};
use super::{DropReason, l4};

/// One frame from the guest, as far as its head tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// An ARP message; it starts behind the Ethernet header.
    Arp,
    /// An IP packet.
    Ip(IpHead),
}

/// The IP header and where the L4 header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHead {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// IPv6 flow label; 0 for IPv4.
    pub flow_label: u32,
    /// L4 protocol.
    pub protocol: L4Protocol,
    /// Offset of the L4 header, from the start of the frame.
    pub l4_offset: usize,
    /// Bytes from the L4 header to the end of the packet; Ethernet padding does not count.
    pub l4_len: u32,
}

/// L4 protocols that are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum L4Protocol {
    /// TCP, 6.
    Tcp,
    /// UDP, 17.
    Udp,
    /// ICMP, 1 (IPv4 only).
    Icmp,
    /// ICMPv6, 58 (IPv6 only).
    Icmpv6,
}

impl L4Protocol {
    /// The number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp => 1,
            Self::Icmpv6 => 58,
        }
    }
}

/// Source address of a frame, or `None` when it is too short to have one.
pub fn source_mac(head: &[u8]) -> Option<Mac> {
    let slice = Ethernet2HeaderSlice::from_slice(head).ok()?;
    Some(Mac(slice.source()))
}

/// Parses the head of a frame of `frame_len` bytes; `head` is the private copy of its first bytes.
///
/// # Errors
/// The reason why the frame is to be dropped.
pub fn parse(head: &[u8], frame_len: u32) -> Result<Packet, DropReason> {
    let ethernet = Ethernet2HeaderSlice::from_slice(head).map_err(|_| DropReason::Truncated)?;
    let rest = &head[eth::HEADER_BYTES..];
    let rest_len = frame_len - eth::HEADER_BYTES as u32;
    match ethernet.ether_type() {
        etherparse::EtherType::ARP => Ok(Packet::Arp),
        etherparse::EtherType::IPV4 => parse_v4(rest, rest_len).map(Packet::Ip),
        etherparse::EtherType::IPV6 => parse_v6(rest, rest_len).map(Packet::Ip),
        _ => Err(DropReason::UnknownEtherType),
    }
}

fn parse_v4(bytes: &[u8], len: u32) -> Result<IpHead, DropReason> {
    let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|e| too_short(&e))?;
    let header_len = u32::from(header.ihl()) * 4;
    let total = u32::from(header.total_len());
    if total < header_len {
        return Err(DropReason::Malformed);
    }
    if total > len {
        return Err(DropReason::Truncated);
    }
    if header.is_fragmenting_payload() || bytes[6] & 0x80 != 0 {
        return Err(DropReason::Fragment);
    }
    let protocol = match header.protocol() {
        IpNumber::TCP => L4Protocol::Tcp,
        IpNumber::UDP => L4Protocol::Udp,
        IpNumber::ICMP => L4Protocol::Icmp,
        _ => return Err(DropReason::UnknownProtocol),
    };
    Ok(IpHead {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        hop_limit: header.ttl(),
        flow_label: 0,
        protocol,
        l4_offset: eth::HEADER_BYTES + header_len as usize,
        l4_len: total - header_len,
    })
}

fn too_short(error: &etherparse::err::ipv4::HeaderSliceError) -> DropReason {
    match error {
        etherparse::err::ipv4::HeaderSliceError::Len(_) => DropReason::Truncated,
        etherparse::err::ipv4::HeaderSliceError::Content(_) => DropReason::Malformed,
    }
}

fn parse_v6(bytes: &[u8], len: u32) -> Result<IpHead, DropReason> {
    let header = Ipv6HeaderSlice::from_slice(bytes).map_err(|e| match e {
        etherparse::err::ipv6::HeaderSliceError::Len(_) => DropReason::Truncated,
        etherparse::err::ipv6::HeaderSliceError::Content(_) => DropReason::Malformed,
    })?;
    let payload = u32::from(header.payload_length());
    if payload + 40 > len {
        return Err(DropReason::Truncated);
    }
    let (protocol, extensions) = skip_extensions(header.next_header().0, &bytes[40..], payload)?;
    Ok(IpHead {
        source: Ipv6Addr::from(header.source()).into(),
        destination: Ipv6Addr::from(header.destination()).into(),
        hop_limit: header.hop_limit(),
        flow_label: header.flow_label().value(),
        protocol,
        l4_offset: eth::HEADER_BYTES + 40 + extensions as usize,
        l4_len: payload - extensions,
    })
}

/// Walks over extension headers (RFC 8200, section 4) to the L4 header; returns its protocol and the
/// bytes walked over. Fragments, ESP and "no next header" end the walk: nothing to translate.
fn skip_extensions(first: u8, bytes: &[u8], payload: u32) -> Result<(L4Protocol, u32), DropReason> {
    let (mut next, mut offset) = (first, 0u32);
    loop {
        match IpNumber(next) {
            IpNumber::TCP => return Ok((L4Protocol::Tcp, offset)),
            IpNumber::UDP => return Ok((L4Protocol::Udp, offset)),
            IpNumber::IPV6_ICMP => return Ok((L4Protocol::Icmpv6, offset)),
            IpNumber::IPV6_FRAGMENTATION_HEADER => return Err(DropReason::Fragment),
            IpNumber(0 | 43 | 60 | 135 | 139 | 140 | 253 | 254)
            | IpNumber::AUTHENTICATION_HEADER => {}
            _ => return Err(DropReason::UnknownProtocol),
        }
        if offset + 8 > payload {
            return Err(DropReason::Truncated);
        }
        let at = offset as usize;
        let Some(&[following, units]) = bytes.get(at..at + 2).and_then(|b| b.first_chunk()) else {
            return Err(DropReason::HeadersTooLong);
        };
        // RFC 4302 counts the authentication header in 4-byte units, less two.
        let len = if next == 51 { (u32::from(units) + 2) * 4 } else { (u32::from(units) + 1) * 8 };
        offset += len;
        if offset > payload {
            return Err(DropReason::Truncated);
        }
        next = following;
    }
}

impl IpHead {
    /// The bytes of `head` from the L4 header on, and no more than belong to the packet.
    ///
    /// # Errors
    /// When the private copy ends before the L4 header starts.
    pub fn l4<'a>(&self, head: &'a [u8]) -> Result<&'a [u8], DropReason> {
        let bytes = head.get(self.l4_offset..).ok_or(DropReason::HeadersTooLong)?;
        Ok(&bytes[..bytes.len().min(self.l4_len as usize)])
    }

    /// The TCP header of the packet.
    ///
    /// # Errors
    /// The reason why the segment is to be dropped.
    pub fn tcp(&self, head: &[u8]) -> Result<l4::TcpHead, DropReason> {
        l4::parse_tcp(self.l4(head)?, self.l4_len)
    }

    /// The UDP header of the packet.
    ///
    /// # Errors
    /// The reason why the datagram is to be dropped.
    pub fn udp(&self, head: &[u8]) -> Result<l4::UdpHead, DropReason> {
        l4::parse_udp(self.l4(head)?, self.l4_len)
    }
}
