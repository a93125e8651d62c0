//! A DHCPv6 client, as much as a guest needs (RFC 8415, sections 18.2.1 and 18.2.2).
//!
//! SOLICIT, ADVERTISE, REQUEST, REPLY, one address, no renewal: the leases that
//! the program under test gives do not end. busybox of Debian holds no such client.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use crate::Outcome;

const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const TRIES: usize = 5;

const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const REPLY: u8 = 7;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_ADDRESS: u16 = 5;
const OPTION_REQUEST: u16 = 6;
const ELAPSED_TIME: u16 = 8;
const DNS_SERVERS: u16 = 23;

/// The fixed part of an IA_NA: IAID, T1, T2.
const IA_HEAD: [u8; 12] = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
/// DUID-LL (type 3) with a locally administered hardware address.
const DUID: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 1];

/// Asks on `interface` and prints `address A dns B,C`.
pub fn lease(interface: &str) -> Outcome {
    let index = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))?;
    let to = SocketAddrV6::new(ALL_SERVERS, SERVER_PORT, 0, index.trim().parse()?);
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, CLIENT_PORT))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let offer = exchange(&socket, to, &message(SOLICIT, &[]), ADVERTISE)?;
    let server = find(&offer, SERVER_ID).ok_or("ADVERTISE without a server identifier")?;
    let chosen =
        [option(SERVER_ID, server), option(IA_NA, &[&IA_HEAD, ia_rest(&offer)].concat())].concat();
    let reply = exchange(&socket, to, &message(REQUEST, &chosen), REPLY)?;
    let address = address(&reply).ok_or("REPLY without an address")?;
    let servers = find(&reply, DNS_SERVERS).unwrap_or_default().chunks_exact(16);
    let servers: Vec<String> = servers.filter_map(to_address).map(|dns| dns.to_string()).collect();
    Ok(format!("address {address} dns {}", servers.join(",")))
}

/// Sends until a message of type `wanted` answers; its options.
fn exchange(
    socket: &UdpSocket,
    to: SocketAddrV6,
    request: &[u8],
    wanted: u8,
) -> Result<Vec<u8>, String> {
    let mut found = [0; 1500];
    for _ in 0..TRIES {
        // Before duplicate address detection has ended there is no source address.
        if socket.send_to(request, to).is_err() {
            std::thread::sleep(Duration::from_millis(500));
            continue;
        }
        if let Ok((count, _)) = socket.recv_from(&mut found)
            && count >= 4
            && found[0] == wanted
            && found[1..4] == request[1..4]
        {
            return Ok(found[4..count].to_vec());
        }
    }
    Err(format!("no message of type {wanted} came"))
}

fn message(kind: u8, chosen: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0x12, 0x34, kind];
    message.extend(option(CLIENT_ID, &DUID));
    message.extend(option(ELAPSED_TIME, &[0, 0]));
    message.extend(option(OPTION_REQUEST, &DNS_SERVERS.to_be_bytes()));
    if chosen.is_empty() {
        message.extend(option(IA_NA, &IA_HEAD));
    }
    message.extend(chosen);
    message
}

fn option(code: u16, body: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), &(body.len() as u16).to_be_bytes(), body].concat()
}

/// The body of the first option `code`.
fn find(mut options: &[u8], code: u16) -> Option<&[u8]> {
    loop {
        let (head, rest) = options.split_at_checked(4)?;
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (body, rest) = rest.split_at_checked(len)?;
        if head[..2] == code.to_be_bytes() {
            return Some(body);
        }
        options = rest;
    }
}

/// The options inside the IA_NA.
fn ia_rest(options: &[u8]) -> &[u8] {
    find(options, IA_NA).and_then(|ia| ia.get(IA_HEAD.len()..)).unwrap_or_default()
}

fn address(options: &[u8]) -> Option<Ipv6Addr> {
    to_address(find(ia_rest(options), IA_ADDRESS)?.get(..16)?)
}

fn to_address(octets: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(octets).ok().map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::{IA_ADDRESS, IA_HEAD, IA_NA, SERVER_ID, address, find, option};

    #[test]
    fn finds_the_address_inside_the_association() {
        let wanted: Ipv6Addr = "2001:db8::7".parse().expect("an address");
        let inner = option(IA_ADDRESS, &[&wanted.octets()[..], &[0xff; 8]].concat());
        let reply =
            [option(SERVER_ID, &[1]), option(IA_NA, &[&IA_HEAD[..], &inner].concat())].concat();
        assert_eq!(address(&reply), Some(wanted));
        assert_eq!(find(&reply[..reply.len() - 1], IA_NA), None);
    }
}
