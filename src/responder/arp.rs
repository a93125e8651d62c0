//! ARP: every address except the guest's own is here, unless it asks for one to use (RFC 826, RFC 5227).
//!
//! The guest sees all of IPv4 as on-link: the host's neighbours with their own Ethernet addresses, the rest
//! behind the gateway's or ours. Silence is kept where an answer would tell the guest that an address is
//! taken which is not: for its announcements, for questions about the address it was assigned, and for
//! probes (sender 0.0.0.0) of any address but those that exist on the host's link: the gateway's, those that
//! stand for the host, and its neighbours'.

use std::net::Ipv4Addr;

use super::Ignored;
use crate::flow::neighbours::Neighbours;
use crate::flow::network::{Mac, Network};
use crate::flow::stations::Stations;

/// Bytes of an ARP message for IPv4 over Ethernet, without the Ethernet header.
pub(crate) const LEN: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, their address lengths.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Operation codes (RFC 826).
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// The fields of a message that vary.
struct Message {
    operation: u16,
    sender_mac: Mac,
    sender: Ipv4Addr,
    target_mac: Mac,
    target: Ipv4Addr,
}

/// Answers an ARP message of the guest; `request` starts after the Ethernet header and may be
/// followed by padding. The answer goes to its own target hardware address, bytes 18 to 23.
///
/// # Errors
/// Why there is no answer.
pub(crate) fn answer(
    net: &Network,
    (neighbours, stations): (&Neighbours, &Stations),
    request: &[u8],
) -> Result<[u8; LEN], Ignored> {
    let v4 = net.v4.as_ref().ok_or(Ignored::Disabled)?;
    let request = parse(request)?;
    if request.operation != REQUEST {
        return Err(Ignored::Unsupported);
    }
    let probe = request.sender.is_unspecified();
    let announcement = request.sender == request.target && !probe;
    if announcement || request.target == v4.addr {
        return Err(Ignored::NotForUs);
    }
    let taken = v4.gateway == Some(request.target) || neighbours.knows(request.target.into());
    let theirs = stations.find(request.target.into()).is_some_and(|mac| mac != request.sender_mac);
    if !taken && (probe || theirs) {
        return Err(Ignored::NotForUs);
    }
    Ok(build(&Message {
        operation: REPLY,
        sender_mac: neighbours.station(net, request.target.into()),
        sender: request.target,
        target_mac: request.sender_mac,
        target: request.sender,
    }))
}

/// Who sends a message, and the station that says so; `None` if it names no address or is no ARP for IPv4.
pub(crate) fn sender(message: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let message = parse(message).ok()?;
    (!message.sender.is_unspecified()).then_some((message.sender, message.sender_mac))
}

/// The address that a message asks for, if it does.
pub(crate) fn asked_for(message: &[u8]) -> Option<Ipv4Addr> {
    let message = parse(message).ok()?;
    (message.operation == REQUEST && message.target != message.sender).then_some(message.target)
}

/// The broadcast question for the guest's address, sent once a link is up: its answer shows the
/// guest's Ethernet address. `None` without an address of ours to ask from.
#[must_use]
pub(crate) fn initial_request(net: &Network) -> Option<[u8; LEN]> {
    request(net, net.v4.as_ref()?.addr)
}

/// The broadcast question for the station at `target`. `None` without an address of ours to ask from.
#[must_use]
pub(crate) fn request(net: &Network, target: Ipv4Addr) -> Option<[u8; LEN]> {
    let v4 = net.v4.as_ref()?;
    Some(build(&Message {
        operation: REQUEST,
        sender_mac: net.our_mac,
        sender: v4.gateway?,
        target_mac: Mac::BROADCAST,
        target,
    }))
}

/// Tells everybody that `address` is the station `mac`, which makes them replace what they know of it
/// (RFC 5227, section 2.3).
#[must_use]
pub(crate) fn announcement(address: Ipv4Addr, mac: Mac) -> [u8; LEN] {
    build(&Message {
        operation: REQUEST,
        sender_mac: mac,
        sender: address,
        target_mac: Mac::default(),
        target: address,
    })
}

/// Reads a message for IPv4 over Ethernet.
fn parse(bytes: &[u8]) -> Result<Message, Ignored> {
    let bytes: &[u8; LEN] = bytes.first_chunk().ok_or(Ignored::Malformed)?;
    let &[h0, h1, p0, p1, hlen, plen, o0, o1, ref addresses @ ..] = bytes;
    if [h0, h1, p0, p1, hlen, plen] != ETHERNET_IPV4 {
        return Err(Ignored::Unsupported);
    }
    let &[a, b, c, d, e, f, s0, s1, s2, s3, g, h, i, j, k, l, t0, t1, t2, t3] = addresses;
    Ok(Message {
        operation: u16::from_be_bytes([o0, o1]),
        sender_mac: Mac([a, b, c, d, e, f]),
        sender: Ipv4Addr::new(s0, s1, s2, s3),
        target_mac: Mac([g, h, i, j, k, l]),
        target: Ipv4Addr::new(t0, t1, t2, t3),
    })
}

/// The bytes of `message`.
fn build(message: &Message) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[0..6].copy_from_slice(&ETHERNET_IPV4);
    bytes[6..8].copy_from_slice(&message.operation.to_be_bytes());
    bytes[8..14].copy_from_slice(&message.sender_mac.0);
    bytes[14..18].copy_from_slice(&message.sender.octets());
    bytes[18..24].copy_from_slice(&message.target_mac.0);
    bytes[24..28].copy_from_slice(&message.target.octets());
    bytes
}

#[cfg(test)]
mod tests;
