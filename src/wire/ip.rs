//! The head of a frame from the guest: Ethernet, perhaps with a tag that says nothing but a priority (IEEE 802.1Q), then
//! ARP, IPv4 (RFC 791) or IPv6 (RFC 8200) with its extension headers. Header checksums are not verified: the link is memory, not a wire.
//!
//! Fragments are reported as such, for [`crate::flow::reassembly`]: RFC 791, and RFC 8200 with RFC 6946, by which
//! an IPv6 packet that is its own only fragment is a whole one.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{EtherType, Ethernet2HeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice};

use super::DropReason;
use super::eth::{self, Mac};

/// One frame from the guest, as far as its head tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// An ARP message, at this offset of the frame.
    Arp(usize),
    /// An IGMP message.
    Igmp(IgmpHead),
    /// An IP packet.
    Ip(IpHead),
    /// A part of a packet.
    Fragment(Fragment),
}

/// Where an IGMP message is. It is no L4 protocol that is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IgmpHead {
    /// Who has sent it.
    pub(crate) source: IpAddr,
    /// Offset of the message, from the start of the frame.
    pub(crate) offset: usize,
    /// Bytes of the message.
    pub(crate) len: u32,
}

/// A packet of a protocol that is not translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Untranslated {
    /// Who has sent it.
    pub(crate) source: IpAddr,
    /// Whom to.
    pub(crate) destination: IpAddr,
    /// Offset of the packet, from the start of the frame.
    pub(crate) offset: usize,
    /// Bytes of the packet.
    pub(crate) len: u32,
    /// Which byte of the packet names the protocol.
    pub(crate) named_at: u32,
}

/// A fragment of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// Header of the fragment's own packet. What it calls the L4 header is the fragment's payload.
    pub(crate) ip: IpHead,
    /// Where the payload belongs.
    pub(crate) place: FragmentPlace,
}

/// Which packet a fragment is part of, and which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentPlace {
    /// The sender's number of the packet; 16 bits in IPv4.
    pub(crate) identification: u32,
    /// Bytes in front of the fragment, a multiple of 8; the L4 header is at 0.
    pub(crate) offset: u32,
    /// Other fragments lie behind this one.
    pub(crate) more: bool,
}

impl FragmentPlace {
    /// Whether the fragment is the whole packet, an "atomic fragment" (RFC 6946).
    pub(crate) fn is_whole(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// The IP header and where the L4 header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpHead {
    /// Source address.
    pub(crate) source: IpAddr,
    /// Destination address.
    pub(crate) destination: IpAddr,
    /// TTL or hop limit.
    pub(crate) hop_limit: u8,
    /// Type of service or traffic class: DSCP (RFC 2474) and ECN (RFC 3168).
    pub(crate) traffic_class: u8,
    /// It may be cut on its way: IPv4 without "don't fragment", or what its sender has cut already. IPv6 lets
    /// nobody else cut.
    pub(crate) may_be_cut: bool,
    /// IPv6 flow label; 0 for IPv4.
    pub(crate) flow_label: u32,
    /// L4 protocol.
    pub(crate) protocol: L4Protocol,
    /// Offset of the L4 header, from the start of the frame.
    pub(crate) l4_offset: usize,
    /// Bytes from the L4 header to the end of the packet; Ethernet padding does not count.
    pub(crate) l4_len: u32,
}

/// L4 protocols that are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum L4Protocol {
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
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp => 1,
            Self::Icmpv6 => 58,
        }
    }
}

/// As everybody writes it.
impl std::fmt::Display for L4Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
            Self::Icmpv6 => "ICMPv6",
        })
    }
}

/// In words, for the log.
impl std::fmt::Display for IpHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { protocol, source, destination, l4_len, hop_limit, flow_label, .. } = self;
        write!(f, "{protocol} {source} -> {destination}, {l4_len} bytes, hop limit {hop_limit}")?;
        if *flow_label != 0 { write!(f, ", flow label {flow_label:#x}") } else { Ok(()) }
    }
}

/// The type of a frame with a tag, and the bits of the tag that are the VLAN's number.
const TAG: EtherType = EtherType::VLAN_TAGGED_FRAME;
const VLAN_BITS: u16 = 0xfff;

const FRAGMENT: IpNumber = IpNumber::IPV6_FRAGMENTATION_HEADER;

/// Which bytes of IPv4 and IPv6 headers name what follows.
const PROTOCOL: u32 = 9;
const NEXT_HEADER: u32 = 6;

/// Which byte of a routing header counts the stations that are still to be visited.
const SEGMENTS_LEFT: usize = 3;

/// Bytes that offsets of fragments count.
pub(crate) const UNIT_BYTES: u32 = 8;

/// Most bytes behind the IP header of a packet without options or extension headers.
pub(crate) const fn max_l4_bytes(v4: bool) -> u32 {
    // The length field counts the header in IPv4 (RFC 791) and does not in IPv6 (RFC 8200).
    if v4 { 65_535 - 20 } else { 65_535 }
}

/// Bytes of an IP header without options or extension headers.
pub(crate) const fn ip_header_bytes(v4: bool) -> u32 {
    if v4 { 20 } else { 40 }
}

/// Source address of a frame, or `None` when it is too short to have one.
pub(crate) fn source_mac(head: &[u8]) -> Option<Mac> {
    let slice = Ethernet2HeaderSlice::from_slice(head).ok()?;
    Some(Mac(slice.source()))
}

/// Parses the head of a frame of `frame_len` bytes; `head` is the private copy of its first bytes.
///
/// # Errors
/// The reason why the frame is to be dropped.
pub(crate) fn parse(head: &[u8], frame_len: u32) -> Result<Packet, DropReason> {
    let ethernet = Ethernet2HeaderSlice::from_slice(head).map_err(|_| DropReason::Truncated)?;
    parse_packet(ethernet.ether_type(), (head, frame_len), eth::HEADER_BYTES)
}

/// Parses what is at `start` of a frame and has the type `kind`.
fn parse_packet(
    kind: EtherType,
    (head, frame_len): (&[u8], u32),
    start: usize,
) -> Result<Packet, DropReason> {
    let (rest, rest_len) = (&head[start..], frame_len - start as u32);
    match kind {
        EtherType::ARP => Ok(Packet::Arp(start)),
        EtherType::IPV4 => parse_v4(start, rest, rest_len),
        EtherType::IPV6 => parse_v6(start, rest, rest_len),
        TAG if start == eth::HEADER_BYTES => parse_tagged(head, frame_len),
        _ => Err(DropReason::UnknownEtherType),
    }
}

/// A frame with a tag. One of VLAN 0 is of no VLAN (IEEE 802.1Q, section 9.6): its tag gives it a priority.
#[cold]
fn parse_tagged(head: &[u8], frame_len: u32) -> Result<Packet, DropReason> {
    let tag = head[eth::HEADER_BYTES..].first_chunk::<4>().ok_or(DropReason::Truncated)?;
    let &[high, low, kind @ ..] = tag;
    if u16::from_be_bytes([high, low]) & VLAN_BITS != 0 {
        return Err(DropReason::UnknownEtherType);
    }
    let kind = EtherType(u16::from_be_bytes(kind));
    parse_packet(kind, (head, frame_len), eth::TAGGED_HEADER_BYTES)
}

/// Offset of the IP header in a frame that [`parse`] has found one in.
pub(crate) fn ip_offset(head: &[u8]) -> usize {
    let tagged = head.get(12..eth::HEADER_BYTES) == Some(&TAG.0.to_be_bytes());
    if tagged { eth::TAGGED_HEADER_BYTES } else { eth::HEADER_BYTES }
}

/// Parses the beginning of an IP packet that an ICMP error quotes (`v4` or IPv6): offsets are counted from there, and how
/// much of the packet is quoted says nothing of its length.
///
/// # Errors
/// The reason why it tells nothing.
pub(crate) fn parse_quoted(v4: bool, quoted: &[u8]) -> Result<Packet, DropReason> {
    if v4 { parse_v4(0, quoted, u32::MAX) } else { parse_v6(0, quoted, u32::MAX) }
}

/// What is in a frame for which [`parse`] says that its protocol is unknown, if its sender can be told so: it is no later
/// fragment (RFC 1122, section 3.2.2), and nothing that is consumed here.
pub(crate) fn untranslated(head: &[u8], frame_len: u32) -> Option<Untranslated> {
    let offset = ip_offset(head);
    let bytes = head.get(offset..)?;
    let (source, destination, len, named_at) = match bytes.first()? >> 4 {
        4 => {
            let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
            let protocol = header.protocol();
            let later = header.fragments_offset().value() != 0;
            if later || protocol == IpNumber::IGMP || translated_v4(protocol).is_some() {
                return None;
            }
            let ends = (header.source_addr().into(), header.destination_addr().into());
            (ends.0, ends.1, header.total_len().into(), PROTOCOL)
        }
        _ => {
            let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
            let payload = u32::from(header.payload_length());
            let walk = skip_extensions(header.next_header().0, &bytes[40..], payload);
            let Err(Stop::Unknown { next, named_at }) = walk else { return None };
            if next == IpNumber::IPV6_NO_NEXT_HEADER {
                return None;
            }
            let ends = (header.source_addr().into(), header.destination_addr().into());
            (ends.0, ends.1, payload + 40, named_at)
        }
    };
    let fits = len <= frame_len.checked_sub(offset as u32)?;
    fits.then_some(Untranslated { source, destination, offset, len, named_at })
}

fn packet(ip: IpHead, place: Option<FragmentPlace>) -> Packet {
    match place {
        Some(place) => Packet::Fragment(Fragment { ip, place }),
        None => Packet::Ip(ip),
    }
}

/// `bytes` begin at `start` of the frame, which has `len` from there on.
fn parse_v4(start: usize, bytes: &[u8], len: u32) -> Result<Packet, DropReason> {
    let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|e| too_short(&e))?;
    let header_len = u32::from(header.ihl()) * 4;
    let total = u32::from(header.total_len());
    if total < header_len {
        return Err(DropReason::Malformed);
    }
    if total > len {
        return Err(DropReason::Truncated);
    }
    // The first of the flags is reserved and must be zero.
    if bytes[6] & 0x80 != 0 {
        return Err(DropReason::Fragment);
    }
    let place = FragmentPlace {
        identification: header.identification().into(),
        offset: header.fragments_offset().byte_offset().into(),
        more: header.more_fragments(),
    };
    if header.protocol() == IpNumber::IGMP && place.is_whole() {
        let source = header.source_addr().into();
        let offset = start + header_len as usize;
        return Ok(Packet::Igmp(IgmpHead { source, offset, len: total - header_len }));
    }
    let protocol = translated_v4(header.protocol()).ok_or(DropReason::UnknownProtocol)?;
    let ip = IpHead {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        hop_limit: header.ttl(),
        traffic_class: bytes[1],
        may_be_cut: !place.is_whole() || bytes[6] & 0x40 == 0,
        flow_label: 0,
        protocol,
        l4_offset: start + header_len as usize,
        l4_len: total - header_len,
    };
    Ok(packet(ip, Some(place).filter(|place| !place.is_whole())))
}

fn translated_v4(protocol: IpNumber) -> Option<L4Protocol> {
    match protocol {
        IpNumber::UDP => Some(L4Protocol::Udp),
        IpNumber::TCP => Some(L4Protocol::Tcp),
        IpNumber::ICMP => Some(L4Protocol::Icmp),
        _ => None,
    }
}

fn too_short(error: &etherparse::err::ipv4::HeaderSliceError) -> DropReason {
    match error {
        etherparse::err::ipv4::HeaderSliceError::Len(_) => DropReason::Truncated,
        etherparse::err::ipv4::HeaderSliceError::Content(_) => DropReason::Malformed,
    }
}

fn parse_v6(start: usize, bytes: &[u8], len: u32) -> Result<Packet, DropReason> {
    let header = Ipv6HeaderSlice::from_slice(bytes).map_err(|e| match e {
        etherparse::err::ipv6::HeaderSliceError::Len(_) => DropReason::Truncated,
        etherparse::err::ipv6::HeaderSliceError::Content(_) => DropReason::Malformed,
    })?;
    let payload = u32::from(header.payload_length());
    if payload + 40 > len {
        return Err(DropReason::Truncated);
    }
    let walk =
        skip_extensions(header.next_header().0, &bytes[40..], payload).map_err(Stop::reason)?;
    let ip = IpHead {
        source: Ipv6Addr::from(header.source()).into(),
        destination: Ipv6Addr::from(header.destination()).into(),
        hop_limit: header.hop_limit(),
        traffic_class: header.traffic_class(),
        may_be_cut: walk.place.is_some_and(|place| !place.is_whole()),
        flow_label: header.flow_label().value(),
        protocol: walk.protocol,
        l4_offset: start + 40 + walk.bytes as usize,
        l4_len: payload - walk.bytes,
    };
    Ok(packet(ip, walk.place))
}

/// Where a walk over extension headers ended.
struct Walk {
    protocol: L4Protocol,
    /// Bytes walked over.
    bytes: u32,
    /// What the last header walked over says, if it makes a fragment of the packet.
    place: Option<FragmentPlace>,
}

/// Why a walk ended before it was at its end.
enum Stop {
    /// A header is named that nobody translates.
    Unknown {
        /// Its number.
        next: IpNumber,
        /// Which byte of the packet names it.
        named_at: u32,
    },
    Dropped(DropReason),
}

impl Stop {
    fn reason(self) -> DropReason {
        match self {
            Self::Unknown { .. } => DropReason::UnknownProtocol,
            Self::Dropped(reason) => reason,
        }
    }
}

/// Walks over extension headers (RFC 8200, section 4) to the L4 header, or to what a fragment has in
/// its place. ESP and "no next header" end the walk: nothing to translate. So does a routing header with segments left
/// (section 4.4): the destination is the first station of its way then, and the packet is for another.
fn skip_extensions(first: u8, bytes: &[u8], payload: u32) -> Result<Walk, Stop> {
    let (mut next, mut offset, mut named_at) = (first, 0u32, NEXT_HEADER);
    let mut atomic = None;
    loop {
        let end = |protocol, place| Ok(Walk { protocol, bytes: offset, place });
        match IpNumber(next) {
            IpNumber::TCP => return end(L4Protocol::Tcp, None),
            IpNumber::UDP => return end(L4Protocol::Udp, None),
            // RFC 6980: neighbour discovery has no fragment header, not even one without effect.
            IpNumber::IPV6_ICMP => return end(L4Protocol::Icmpv6, atomic),
            FRAGMENT | IpNumber::AUTHENTICATION_HEADER => {}
            IpNumber(0 | 43 | 60 | 135 | 139 | 140 | 253 | 254) => {}
            next => return Err(Stop::Unknown { next, named_at }),
        }
        if offset + 8 > payload {
            return Err(Stop::Dropped(DropReason::Truncated));
        }
        let header = bytes.get(offset as usize..).and_then(|rest| rest.first_chunk::<8>());
        let header = header.ok_or(Stop::Dropped(DropReason::HeadersTooLong))?;
        if IpNumber(next) == IpNumber::IPV6_ROUTE_HEADER && header[SEGMENTS_LEFT] != 0 {
            return Err(Stop::Dropped(DropReason::Malformed));
        }
        named_at = 40 + offset;
        offset += extension_len(IpNumber(next), header);
        if offset > payload {
            return Err(Stop::Dropped(DropReason::Truncated));
        }
        if IpNumber(next) == FRAGMENT {
            let place = fragment_place(header);
            if !place.is_whole() {
                return fragment_end(IpNumber(header[0]), offset, place).map_err(Stop::Dropped);
            }
            atomic = Some(place);
        }
        next = header[0];
    }
}

/// Bytes of the extension header `kind` that starts with `header`.
fn extension_len(kind: IpNumber, header: &[u8; 8]) -> u32 {
    match kind {
        FRAGMENT => 8,
        // RFC 4302 counts this one in 4-byte units, less two.
        IpNumber::AUTHENTICATION_HEADER => (u32::from(header[1]) + 2) * 4,
        _ => (u32::from(header[1]) + 1) * 8,
    }
}

/// Reads a fragment header (RFC 8200, section 4.5).
fn fragment_place(&[_, _, high, low, a, b, c, d]: &[u8; 8]) -> FragmentPlace {
    FragmentPlace {
        identification: u32::from_be_bytes([a, b, c, d]),
        offset: u32::from(u16::from_be_bytes([high, low & !7])),
        more: low & 1 != 0,
    }
}

/// The end of a walk at a fragment header: `next` is what the fragmented part starts with. Further extension
/// headers in there are not followed: only the first fragment would have them.
fn fragment_end(next: IpNumber, bytes: u32, place: FragmentPlace) -> Result<Walk, DropReason> {
    let protocol = match next {
        IpNumber::TCP => L4Protocol::Tcp,
        IpNumber::UDP => L4Protocol::Udp,
        IpNumber::IPV6_ICMP => L4Protocol::Icmpv6,
        _ => return Err(DropReason::Fragment),
    };
    Ok(Walk { protocol, bytes, place: Some(place) })
}

impl IpHead {
    /// The bytes of `head` from the L4 header on, and no more than belong to the packet.
    ///
    /// # Errors
    /// When the private copy ends before the L4 header starts.
    pub(crate) fn l4<'a>(&self, head: &'a [u8]) -> Result<&'a [u8], DropReason> {
        let bytes = head.get(self.l4_offset..).ok_or(DropReason::HeadersTooLong)?;
        Ok(&bytes[..bytes.len().min(self.l4_len as usize)])
    }
}

#[cfg(test)]
mod tests;
