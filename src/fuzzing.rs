//! The way in for fuzz targets (`tests/fuzz`): functions of this package that nobody else outside calls, with plain
//! data on both sides. It is there only with `--cfg fuzzing`, which the build of the targets sets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::conf::resolv;
use crate::control::configuration::format::{self, TableHead};
use crate::flow::fwd::{Rule, RuleTable};
use crate::flow::migration::{Record, SocketRecord};
use crate::flow::neighbours::Neighbours;
use crate::flow::network::{Mac, Network};
use crate::flow::reassembly::Reassembly;
use crate::flow::stations::Stations;
use crate::responder::dhcpv6::Duid;
use crate::responder::ndp::Solicitation;
use crate::responder::{Ignored, arp, dhcp, dhcpv6, ndp};
use crate::time::Timestamp;
use crate::wire::dns;
use crate::wire::drop_reason::DropCounters;
use crate::wire::ip::{self, FragmentPlace, IpHead, L4Protocol};
use crate::wire::{DropReason, Fragment, Packet};

/// What the head of a frame tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// ARP.
    Arp,
    /// A message about groups: who has sent it, where it begins in the frame, and its length.
    Igmp(IpAddr, usize, u32),
    /// An IP packet, or a part of one: offset, whether there is more, and its number.
    Ip(Ip, Option<(u32, bool, u32)>),
}

/// An IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Type of service or traffic class.
    pub traffic_class: u8,
    /// Number of the protocol above.
    pub protocol: u8,
    /// Where the header above begins in the frame.
    pub l4_offset: usize,
    /// Bytes from there to the end of the packet.
    pub l4_len: u32,
}

/// Ports and what follows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L4 {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Bytes behind the header.
    pub payload_len: u32,
    /// Of TCP: sequence number, acknowledgement, flags, window.
    pub tcp: Option<(u32, u32, u8, u16)>,
    /// Of a SYN: maximum segment size and window scale.
    pub options: (Option<u16>, Option<u8>),
}

/// Parses the head of a frame, of which `head` is the beginning.
///
/// # Errors
/// Why it is to be dropped.
pub fn head(head: &[u8], frame_len: u32) -> Result<Head, DropReason> {
    Ok(match ip::parse(head, frame_len)? {
        Packet::Arp(_) => Head::Arp,
        Packet::Igmp(igmp) => Head::Igmp(igmp.source, igmp.offset, igmp.len),
        Packet::Ip(ip) => Head::Ip(plain(&ip), None),
        Packet::Fragment(Fragment { ip, place }) => {
            Head::Ip(plain(&ip), Some((place.offset, place.more, place.identification)))
        }
    })
}

fn plain(ip: &IpHead) -> Ip {
    Ip {
        source: ip.source,
        destination: ip.destination,
        hop_limit: ip.hop_limit,
        traffic_class: ip.traffic_class,
        protocol: ip.protocol.number(),
        l4_offset: ip.l4_offset,
        l4_len: ip.l4_len,
    }
}

/// Parses the TCP or UDP header of a frame that is no fragment.
///
/// # Errors
/// Why it is to be dropped.
pub fn l4(head: &[u8], frame_len: u32) -> Result<L4, DropReason> {
    let Packet::Ip(ip) = ip::parse(head, frame_len)? else { return Err(DropReason::Fragment) };
    if ip.protocol == L4Protocol::Tcp {
        let tcp = ip.tcp(head)?;
        let segment = tcp.segment;
        let numbers = (segment.seq.0, segment.ack.0, segment.flags.0, segment.window);
        return Ok(L4 {
            source: tcp.source_port,
            destination: tcp.destination_port,
            payload_len: segment.payload_len,
            tcp: Some(numbers),
            options: (segment.mss, segment.window_scale),
        });
    }
    let udp = ip.udp(head)?;
    Ok(L4 {
        source: udp.source_port,
        destination: udp.destination_port,
        payload_len: udp.payload_len,
        tcp: None,
        options: (None, None),
    })
}

/// Reassembly, with a clock of its own.
#[derive(Default)]
pub struct Fragments {
    reassembly: Reassembly,
    now: Timestamp,
}

impl Fragments {
    /// Time passes.
    pub fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// A fragment of the IPv4 datagram with this number: where it goes (slot and offset), and the length of the
    /// datagram if it is whole; `None` for one that has come before.
    ///
    /// # Errors
    /// Why it is to be dropped.
    #[expect(clippy::type_complexity, reason = "plain data")]
    pub fn add(
        &mut self,
        identification: u32,
        (offset, len, more): (u32, u32, bool),
    ) -> Result<Option<(usize, usize, Option<u32>)>, DropReason> {
        let ip = IpHead {
            source: Ipv4Addr::new(192, 0, 2, 2).into(),
            destination: Ipv4Addr::new(198, 51, 100, 7).into(),
            hop_limit: 64,
            traffic_class: 0,
            may_be_cut: true,
            flow_label: 0,
            protocol: L4Protocol::Udp,
            l4_offset: 34,
            l4_len: len,
        };
        let fragment = Fragment { ip, place: FragmentPlace { identification, offset, more } };
        let placed = self.reassembly.add(self.now, &fragment, &mut DropCounters::default())?;
        Ok(placed.map(|placed| (placed.slot, placed.offset, placed.whole)))
    }
}

/// The answer to an ARP message.
pub fn arp(net: &Network, message: &[u8]) -> Option<Vec<u8>> {
    let (neighbours, stations) = (Neighbours::default(), Stations::default());
    quiet(arp::answer(net, (&neighbours, &stations), message)).map(|reply| reply.to_vec())
}

/// The answer to a DHCPv4 message.
pub fn dhcp(net: &Network, message: &[u8]) -> Option<Vec<u8>> {
    quiet(dhcp::answer(net, message)).map(|reply| reply.message.to_vec())
}

/// The answer to a DHCPv6 message.
pub fn dhcpv6(
    net: &Network,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: &[u8],
) -> Option<Vec<u8>> {
    let server = Duid::new(Mac::OURS);
    quiet(dhcpv6::answer(net, &server, source, destination, message))
        .map(|reply| reply.message.to_vec())
}

/// The answer to a message of neighbour discovery.
pub fn ndp(net: &Network, source: Ipv6Addr, message: &[u8]) -> Option<Vec<u8>> {
    let tables = (&Neighbours::default(), &Stations::default());
    let from = (source, Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 5);
    let asked = quiet(Solicitation::read((source, group), message))?;
    quiet(ndp::answer(net, tables, from, asked)).map(|reply| reply.message.to_vec())
}

fn quiet<T>(answer: Result<T, Ignored>) -> Option<T> {
    answer.ok()
}

/// The rules of a table.
pub fn rules(table: &RuleTable) -> Vec<Rule> {
    table.rules().to_vec()
}

/// Reads what a server of the configuration protocol says to who has come: whether it is whole, and nothing else. What
/// can be read is said in the same words.
pub fn configuration_told(mut bytes: &[u8]) -> bool {
    let Some((hello, rest)) = bytes.split_first_chunk() else { return false };
    if format::check_hello(hello).is_err() {
        return false;
    }
    bytes = rest;
    while let Some(table) = bytes.first_chunk().filter(|table| table[0] != format::END) {
        let Ok(head) = TableHead::from_bytes(table) else { return false };
        bytes = &bytes[table.len()..];
        for _ in 0..head.count {
            let Some((rule, rest)) = bytes.split_first_chunk() else { return false };
            let Ok(read) = format::rule_from_bytes(rule) else { return false };
            let written = format::rule_to_bytes(&read);
            assert_eq!(format::rule_from_bytes(&written).ok(), Some(read), "the same rule");
            bytes = rest;
        }
    }
    bytes == [format::END]
}

/// Name servers with their zones, search domains, and how many lines were skipped.
#[expect(clippy::type_complexity, reason = "plain data")]
pub fn resolv_conf(text: &str) -> (Vec<(IpAddr, Option<String>)>, Vec<String>, usize) {
    let conf = resolv::parse(text);
    let servers = conf.servers.into_iter().map(|server| (server.address, server.zone)).collect();
    (servers, conf.search.to_vec(), conf.skipped.len())
}

/// Whether there is a question of a DNS query, and the addresses in an answer, with the seconds that they hold.
pub fn dns(message: &[u8]) -> (bool, Vec<(IpAddr, u32)>) {
    let mut addresses = Vec::new();
    if let Some(answer) = dns::answer(message) {
        answer.addresses(|address, ttl_s| addresses.push((address, ttl_s)));
    }
    (dns::query(message).is_some(), addresses)
}

/// Reads what the kernel answers to questions about interfaces, addresses and routes: messages and their bytes.
pub fn route_replies(bytes: &[u8]) -> (usize, usize) {
    crate::conf::host::look_at_replies(bytes)
}

/// Reads what the kernel answers to questions about sockets, and what it says of neighbours.
pub fn table_replies(bytes: &[u8]) -> usize {
    crate::sys::sock_diag::look(bytes) + crate::sys::neighbours::look(bytes)
}

/// A record of a connection that migrates, read and written again.
pub fn migration_record(bytes: &[u8; 112]) -> Option<[u8; 112]> {
    Record::from_bytes(bytes).map(Record::to_bytes)
}

/// The record of its socket, likewise, with the bytes that follow it.
pub fn socket_record(bytes: &[u8; 52]) -> Option<([u8; 52], [u32; 2])> {
    let arrival = SocketRecord::from_bytes(bytes).ok()?;
    Some((arrival.record?.to_bytes(), arrival.queues))
}
