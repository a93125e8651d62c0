//! Questions to ARP, DHCPv4, DHCPv6 and neighbour discovery: there is an answer or none, and what is answered can be read
//! by others: smoltcp, and for DHCPv6 a loop that was written for this.

use std::net::{Ipv4Addr, Ipv6Addr};

use passt::flow::network::{Ipv4Net, Ipv6Net, Network};
use passt::fuzzing;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpPacket, DhcpRepr, Icmpv6Packet, Icmpv6Repr,
};

use crate::input::Input;

const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);

/// Names that make answers long, if `long`.
pub fn network(long: bool) -> Network {
    let label = "x".repeat(63);
    let search = (0..6).map(|i| format!("{label}.{label}.{label}.{i}.example"));
    let v4 = Some(Ipv4Net {
        addr: GUEST,
        prefix_len: 24,
        gateway: Some(Ipv4Addr::new(if long { 203 } else { 192 }, 0, 2, 1)),
        fixed: false,
        dns: [Ipv4Addr::new(192, 0, 2, 53)].into_iter().collect(),
        routes: None,
    });
    let v6 = Some(Ipv6Net {
        addr: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x22)),
        gateway: Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
        our_link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        fixed: false,
        dns: [Ipv6Addr::new(0x2001, 0xdb8, 0, 53, 0, 0, 0, 1)].into_iter().collect(),
        default_router: true,
        scope_id: 2,
    });
    Network {
        mtu: if long { 1280 } else { 65520 },
        search: if long { search.collect() } else { Default::default() },
        hostname: long.then(|| "h".repeat(63)),
        fqdn: long.then(|| format!("{label}.{label}.{label}.example")),
        ..Network::new(v4, v6)
    }
}

/// The first byte chooses the protocol and the network.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.u8();
    let net = network(kind & 0x80 != 0);
    match kind & 3 {
        0 => arp(&net, input.0),
        1 => dhcp(&net, input.0),
        2 => dhcpv6(&net, input.0),
        _ => ndp(&net, input.0),
    }
}

fn arp(net: &Network, message: &[u8]) {
    let Some(reply) = fuzzing::arp(net, message) else { return };
    let packet = ArpPacket::new_checked(&reply[..]).expect("a whole message");
    let ArpRepr::EthernetIpv4 { operation, source_protocol_addr, .. } =
        ArpRepr::parse(&packet).expect("a message of IPv4 over Ethernet")
    else {
        panic!("another kind of ARP");
    };
    assert_eq!(operation, ArpOperation::Reply);
    assert_ne!(source_protocol_addr, GUEST, "nobody says that he has the guest's address");
    assert_eq!(&reply[14..18], &message[24..28], "the answer is about what was asked");
}

fn dhcp(net: &Network, message: &[u8]) {
    let Some(reply) = fuzzing::dhcp(net, message) else { return };
    assert!((300..=548).contains(&reply.len()), "{} bytes", reply.len());
    assert_eq!(reply[..4], [2, message[1], message[2], 0], "a reply");
    assert_eq!(reply[4..8], message[4..8], "the transaction's number");
    assert_eq!(reply[28..44], message[28..44], "the client's address");
    let yours = Ipv4Addr::new(reply[16], reply[17], reply[18], reply[19]);
    assert!(yours.is_unspecified() || yours == GUEST, "{yours}");
    options_of_dhcp(&reply[240..]);
    let packet = DhcpPacket::new_checked(&reply[..]).expect("a whole message");
    // The magic number and the identifier are the client's: smoltcp wants the right one, and an Ethernet address.
    let identifier = option(&reply[240..], 61);
    let plain = identifier.is_none_or(|id| id.len() == 7 && id[0] == 1);
    if plain && reply[236..240] == [99, 130, 83, 99] && reply[1..3] == [1, 6] {
        let repr = DhcpRepr::parse(&packet).expect("an answer that clients can read");
        assert_eq!(repr.your_ip, yours);
    }
}

/// The value of an option.
fn option(mut bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [code @ 1..=254, len, rest @ ..] = bytes {
        let (value, behind) = rest.split_at_checked(usize::from(*len))?;
        if *code == wanted {
            return Some(value);
        }
        bytes = behind;
    }
    None
}

/// Each option is whole, and behind them is an end. What a client lists twice it gets twice.
fn options_of_dhcp(mut bytes: &[u8]) {
    loop {
        match bytes {
            [255, rest @ ..] => return assert!(rest.iter().all(|byte| *byte == 0), "padding"),
            [0, rest @ ..] => bytes = rest,
            [code, len, rest @ ..] => {
                assert!(rest.len() >= usize::from(*len), "option {code} is cut");
                bytes = &rest[usize::from(*len)..];
            }
            _ => panic!("no end"),
        }
    }
}

fn dhcpv6(net: &Network, message: &[u8]) {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    let Some(reply) = fuzzing::dhcpv6(net, LINK_LOCAL, to, message) else { return };
    assert!(reply.len() <= 1232, "{} bytes", reply.len());
    assert!([2, 7].contains(&reply[0]), "type {}", reply[0]);
    assert_eq!(reply[1..4], message[1..4], "the transaction's number");
    let client = options_of_dhcpv6(&message[4..]).into_iter().rev().find(|option| option.0 == 1);
    let options = options_of_dhcpv6(&reply[4..]);
    assert_eq!(options.iter().filter(|option| option.0 == 2).count(), 1, "one server");
    let echoed = options.iter().find(|option| option.0 == 1).map_or(&[][..], |option| option.1);
    assert_eq!(echoed, client.map_or(&[][..], |option| option.1), "the client's identifier");
    for (code, body) in options {
        match code {
            3 => drop(options_of_dhcpv6(body.get(12..).expect("an association has 12 bytes"))),
            4 => drop(options_of_dhcpv6(body.get(4..).expect("an association has 4 bytes"))),
            _ => {}
        }
    }
}

/// Options and their bytes, all of them whole.
fn options_of_dhcpv6(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut options = Vec::new();
    while let [a, b, c, d, rest @ ..] = bytes {
        let (code, len) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
        let body = rest.get(..len.into()).expect("an option that is cut");
        options.push((code, body));
        bytes = &rest[len.into()..];
    }
    assert!(bytes.is_empty(), "half an option");
    options
}

fn ndp(net: &Network, message: &[u8]) {
    for source in
        [LINK_LOCAL, Ipv6Addr::UNSPECIFIED, Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 5)]
    {
        let Some(reply) = fuzzing::ndp(net, source, message) else { continue };
        assert!([134, 136].contains(&reply[0]), "type {}", reply[0]);
        assert_eq!(reply[2..4], [0, 0], "who sends it sums it up");
        let mut options = if reply[0] == 134 { &reply[16..] } else { &reply[24..] };
        while let [_, units, ..] = options {
            assert_ne!(*units, 0, "an option without length");
            options = options.get(usize::from(*units) * 8..).expect("an option that is cut");
        }
        assert!(options.is_empty(), "half an option");
        let packet = Icmpv6Packet::new_checked(&reply[..]).expect("a whole message");
        let addresses = (LINK_LOCAL, LINK_LOCAL);
        let ignored = ChecksumCapabilities::ignored();
        Icmpv6Repr::parse(&addresses.0, &addresses.1, &packet, &ignored).expect("readable");
    }
}
