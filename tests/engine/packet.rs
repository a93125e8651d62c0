//! Frames as a guest would send them, byte by byte. Checksums are left zero: nobody verifies them on
//! a link that is memory (RFC 9293 and RFC 768 checksums are the sender's host's to write).

use std::net::{IpAddr, SocketAddr};

use crate::world::GUEST_MAC;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Bytes in front of the L4 header without extension headers.
pub fn l4_offset(address: IpAddr) -> usize {
    if address.is_ipv4() { 34 } else { 54 }
}

/// An Ethernet frame from the guest to us.
pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];
    frame.extend(GUEST_MAC.0);
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A frame with an IP packet.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, hop_limit: u8, l4: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet.extend([0x45, 0]);
            packet.extend((20 + l4.len() as u16).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, hop_limit, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(l4);
            ethernet(0x0800, &packet)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend((l4.len() as u16).to_be_bytes());
            packet.extend([protocol, hop_limit]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(l4);
            ethernet(0x86dd, &packet)
        }
        _ => panic!("{source} and {destination} are of different families"),
    }
}

/// A UDP header and its payload.
pub fn udp_message(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(source.to_be_bytes());
    message.extend(destination.to_be_bytes());
    message.extend((8 + payload.len() as u16).to_be_bytes());
    message.extend([0, 0]);
    message.extend(payload);
    message
}

/// A UDP datagram.
pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let message = udp_message(source.port(), destination.port(), payload);
    ip(source.ip(), destination.ip(), UDP, 64, &message)
}

/// A TCP segment; a SYN has an MSS and a window scale option.
pub fn tcp(
    source: SocketAddr,
    destination: SocketAddr,
    flags: u8,
    (seq, ack): (u32, u32),
    payload: &[u8],
) -> Vec<u8> {
    let options: &[u8] = if flags & SYN == 0 { &[] } else { &[2, 4, 0x05, 0xb4, 1, 3, 3, 7] };
    let mut segment = Vec::new();
    segment.extend(source.port().to_be_bytes());
    segment.extend(destination.port().to_be_bytes());
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([(5 + options.len() as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(payload);
    ip(source.ip(), destination.ip(), TCP, 64, &segment)
}

/// An echo request.
pub fn echo(
    source: IpAddr,
    destination: IpAddr,
    id: u16,
    sequence: u16,
    payload: &[u8],
) -> Vec<u8> {
    let (protocol, kind) = if source.is_ipv4() { (1, 8) } else { (58, 128) };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend(payload);
    ip(source, destination, protocol, 64, &message)
}

/// An ARP request of the guest for `target`.
pub fn arp(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, 1];
    message.extend(GUEST_MAC.0);
    message.extend(sender);
    message.extend([0; 6]);
    message.extend(target);
    ethernet(0x0806, &message)
}

/// A neighbour solicitation for `target`. Who has no address yet does not say where to answer.
pub fn solicitation(source: IpAddr, target: IpAddr) -> Vec<u8> {
    let IpAddr::V6(address) = target else { panic!("{target} is no IPv6 address") };
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address.octets());
    if !source.is_unspecified() {
        message.extend([1, 1]);
        message.extend(GUEST_MAC.0);
    }
    let group = "ff02::1:ff00:1".parse().expect("an address");
    ip(source, group, 58, 255, &message)
}

/// A neighbour advertisement: `address` is in use.
pub fn advertisement(address: IpAddr) -> Vec<u8> {
    let IpAddr::V6(target) = address else { panic!("{address} is no IPv6 address") };
    let mut message = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    message.extend(target.octets());
    let all_nodes = "ff02::1".parse().expect("an address");
    ip("fe80::5".parse().expect("an address"), all_nodes, 58, 255, &message)
}

/// A router solicitation.
pub fn router_solicitation(source: IpAddr) -> Vec<u8> {
    let all_routers = "ff02::2".parse().expect("an address");
    ip(source, all_routers, 58, 255, &[133, 0, 0, 0, 0, 0, 0, 0])
}

/// A DHCPv4 DISCOVER.
pub fn discover() -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 0x11, 0x22, 0x33, 0x44];
    message.resize(28, 0);
    message.extend(GUEST_MAC.0);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    let (any, all) = ("0.0.0.0:68", "255.255.255.255:67");
    udp(any.parse().expect("an address"), all.parse().expect("an address"), &message)
}

/// A DHCPv6 SOLICIT.
pub fn solicit() -> Vec<u8> {
    let mut message = vec![1, 1, 2, 3];
    message.extend([0, 1, 0, 10, 0, 3, 0, 1]);
    message.extend(GUEST_MAC.0);
    message.extend([0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (from, to) = ("[fe80::1]:546", "[ff02::1:2]:547");
    udp(from.parse().expect("an address"), to.parse().expect("an address"), &message)
}
