//! Frames of a guest: which of them nobody can read, and those that are fragments.

use std::net::IpAddr;

use smoltcp::wire::{ArpPacket, EthernetFrame, EthernetProtocol, Ipv4Packet, Ipv6Packet};

use crate::packet;
use crate::world::Family;

/// Whether nobody can read this far enough to know who it is for.
pub fn is_unreadable(frame: &[u8]) -> bool {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return true };
    match ethernet.ethertype() {
        EthernetProtocol::Arp => ArpPacket::new_checked(ethernet.payload()).is_err(),
        EthernetProtocol::Ipv4 => Ipv4Packet::new_checked(ethernet.payload()).is_err(),
        EthernetProtocol::Ipv6 => Ipv6Packet::new_checked(ethernet.payload()).is_err(),
        // A tag of VLAN 0 gives it a priority only.
        EthernetProtocol::Unknown(0x8100) => match ethernet.payload() {
            [priority, 0, kind @ ..] if priority & 15 == 0 => {
                kind.starts_with(&[0x81, 0]) || is_unreadable(&[&frame[..12], kind].concat())
            }
            _ => true,
        },
        EthernetProtocol::Unknown(_) => true,
    }
}

/// A fragment of a UDP datagram.
pub fn fragment(
    family: Family,
    to: IpAddr,
    id: u32,
    (at, more): (usize, bool),
    part: &[u8],
) -> Vec<u8> {
    if family == Family::V4 {
        let mut frame = packet::ip(family.guest(), to, packet::UDP, 64, part);
        frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        let word = (at / 8) as u16 | if more { 0x2000 } else { 0 };
        frame[20..22].copy_from_slice(&word.to_be_bytes());
        return frame;
    }
    let word = at as u16 | u16::from(more);
    let mut payload = vec![packet::UDP, 0];
    payload.extend(word.to_be_bytes());
    payload.extend(id.to_be_bytes());
    payload.extend(part);
    packet::ip(family.guest(), to, 44, 64, &payload)
}
