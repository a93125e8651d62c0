//! Fragments, written byte by byte and cut off at every byte.

use super::*;

const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;

/// A frame with an IPv4 fragment; `field` is flags and offset as in the header.
fn v4(protocol: u8, field: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0xbe, 0xef]);
    frame.extend(field.to_be_bytes());
    frame.extend([64, protocol, 0, 0, 192, 0, 2, 2, 198, 51, 100, 7]);
    frame.extend(payload);
    frame
}

/// A frame with an IPv6 packet of `payload`, which starts with extension header `first`.
fn v6(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([first, 64]);
    frame.extend("2001:db8::2".parse::<Ipv6Addr>().expect("a literal").octets());
    frame.extend("2001:db8:1::7".parse::<Ipv6Addr>().expect("a literal").octets());
    frame.extend(payload);
    frame
}

/// A fragment header and `payload`; `field` is offset and flag as in the header.
fn fragment(next: u8, field: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = field.to_be_bytes();
    [&[next, 0, high, low, 0xde, 0xad, 0xbe, 0xef], payload].concat()
}

fn whole(frame: &[u8]) -> Result<Packet, DropReason> {
    let head = &frame[..frame.len().min(128)];
    parse(head, frame.len() as u32)
}

fn found(frame: &[u8]) -> Fragment {
    match whole(frame) {
        Ok(Packet::Fragment(fragment)) => fragment,
        other => panic!("{other:?} is no fragment"),
    }
}

#[test]
fn rfc791_3_1_flags_and_offset() {
    for (field, offset, more) in [
        (0x2000, 0, true),
        (0x2001, 8, true),
        (0x00b9, 1480, false),
        (0x1fff, 65_528, false),
        (0x6002, 16, true), // "don't fragment" of what was fragmented says nothing
    ] {
        let fragment = found(&v4(UDP, field, &[7; 24]));
        assert_eq!(
            fragment.place,
            FragmentPlace { identification: 0xbeef, offset, more },
            "{field:#x}"
        );
        assert_eq!((fragment.ip.l4_offset, fragment.ip.l4_len), (34, 24));
        assert_eq!(fragment.ip.protocol, L4Protocol::Udp);
        assert_eq!(fragment.ip.source, IpAddr::from([192, 0, 2, 2]));
        assert_eq!(fragment.ip.destination, IpAddr::from([198, 51, 100, 7]));
    }
    assert!(matches!(whole(&v4(UDP, 0x4000, &[7; 24])), Ok(Packet::Ip(_))));
    assert_eq!(whole(&v4(UDP, 0x8000, &[7; 24])), Err(DropReason::Fragment));
}

#[test]
fn rfc8200_4_5_offset_flag_and_identification() {
    for (field, offset, more) in
        [(0x0001, 0, true), (0x0009, 8, true), (0xfff8, 65_528, false), (0x000f, 8, true)]
    {
        let fragment = found(&v6(44, &fragment(UDP, field, &[7; 24])));
        assert_eq!(fragment.place, FragmentPlace { identification: 0xdead_beef, offset, more });
        assert_eq!((fragment.ip.l4_offset, fragment.ip.l4_len), (62, 24));
        assert_eq!(fragment.ip.protocol, L4Protocol::Udp);
    }
}

#[test]
fn rfc8200_4_5_headers_in_front_of_the_fragment_header_are_walked_over() {
    let options = [&[44, 0, 1, 4, 0, 0, 0, 0][..], &fragment(UDP, 0x0009, &[7; 16])].concat();
    let fragment = found(&v6(0, &options));
    assert_eq!((fragment.ip.l4_offset, fragment.ip.l4_len), (70, 16));
}

/// With segments left the destination is not who the packet is for.
#[test]
fn rfc8200_4_4_a_routing_header_is_walked_over_at_its_end_only() {
    for kind in [0, 2, 3, 4, 253] {
        let routed = |left| [&[UDP, 2, kind, left][..], &[0; 20], &[7; 24]].concat();
        let Ok(Packet::Ip(ip)) = whole(&v6(43, &routed(0))) else { panic!("type {kind}") };
        assert_eq!((ip.protocol, ip.l4_offset, ip.l4_len), (L4Protocol::Udp, 78, 24));
        for left in [1, 255] {
            assert_eq!(whole(&v6(43, &routed(left))), Err(DropReason::Malformed));
        }
    }
    // What stands there in another header counts nothing.
    assert!(matches!(whole(&v6(60, &[UDP, 0, 1, 4, 1, 1, 1, 1, 7, 7])), Ok(Packet::Ip(_))));
}

#[test]
fn fragments_of_every_protocol_that_is_translated_are_found() {
    for (number, protocol) in
        [(TCP, L4Protocol::Tcp), (UDP, L4Protocol::Udp), (1, L4Protocol::Icmp)]
    {
        let ip = found(&v4(number, 0x2000, &[7; 24])).ip;
        assert_eq!((ip.protocol, ip.may_be_cut), (protocol, true));
    }
    for protocol in [47, 0, ICMPV6] {
        assert_eq!(whole(&v4(protocol, 0x2000, &[7; 24])), Err(DropReason::UnknownProtocol));
    }
    for (next, protocol) in
        [(TCP, L4Protocol::Tcp), (UDP, L4Protocol::Udp), (ICMPV6, L4Protocol::Icmpv6)]
    {
        let ip = found(&v6(44, &fragment(next, 0x0001, &[7; 24]))).ip;
        assert_eq!((ip.protocol, ip.may_be_cut), (protocol, true));
    }
    for next in [1, 60, 44, 59, 200] {
        let frame = v6(44, &fragment(next, 0x0001, &[7; 24]));
        assert_eq!(whole(&frame), Err(DropReason::Fragment), "{next}");
    }
}

#[test]
fn dscp_ecn_and_whether_a_packet_may_be_cut_are_read() {
    for (field, may_be_cut) in [(0x4000, false), (0x0000, true)] {
        let mut frame = v4(UDP, field, &[7; 24]);
        frame[15] = 0xb9;
        let Ok(Packet::Ip(ip)) = whole(&frame) else { panic!("{field:#x} is a fragment") };
        assert_eq!((ip.traffic_class, ip.may_be_cut), (0xb9, may_be_cut));
    }
    let mut frame = v6(UDP, &[7; 24]);
    frame[14..16].copy_from_slice(&[0x6b, 0x9f]);
    let Ok(Packet::Ip(ip)) = whole(&frame) else { panic!("a fragment") };
    assert_eq!((ip.traffic_class, ip.may_be_cut), (0xb9, false));
}

#[test]
fn rfc6946_4_an_atomic_fragment_is_a_whole_packet() {
    for (next, protocol) in [(UDP, L4Protocol::Udp), (TCP, L4Protocol::Tcp)] {
        let Ok(Packet::Ip(ip)) = whole(&v6(44, &fragment(next, 0, &[7; 24]))) else {
            panic!("{next} is a fragment")
        };
        assert_eq!((ip.protocol, ip.l4_offset, ip.l4_len), (protocol, 62, 24));
    }
}

#[test]
fn rfc6980_5_icmpv6_in_an_atomic_fragment_is_told_from_a_packet_without_one() {
    let fragment = found(&v6(44, &fragment(ICMPV6, 0, &[135; 24])));
    assert!(fragment.place.is_whole());
    assert_eq!((fragment.ip.l4_offset, fragment.ip.l4_len), (62, 24));
}

#[test]
fn a_fragment_cut_off_at_any_byte_is_truncated() {
    for frame in [v4(UDP, 0x2001, &[7; 24]), v6(44, &fragment(UDP, 0x0009, &[7; 24]))] {
        assert!(matches!(whole(&frame), Ok(Packet::Fragment(_))));
        for len in 0..frame.len() {
            assert_eq!(whole(&frame[..len]), Err(DropReason::Truncated), "{len}");
        }
    }
}

#[test]
fn a_payload_length_that_ends_inside_the_fragment_header_is_truncated() {
    let frame = v6(44, &fragment(UDP, 0x0009, &[7; 24]));
    for len in 0..8 {
        let mut short = frame.clone();
        short[18..20].copy_from_slice(&(len as u16).to_be_bytes());
        assert_eq!(whole(&short), Err(DropReason::Truncated), "{len}");
    }
}

#[test]
fn a_fragment_header_beyond_the_private_copy_is_refused() {
    let mut payload = vec![0; 80];
    (payload[0], payload[1]) = (44, 9);
    payload.extend(fragment(UDP, 0x0009, &[7; 24]));
    assert_eq!(whole(&v6(0, &payload)), Err(DropReason::HeadersTooLong));
}

#[test]
fn ethernet_padding_is_not_part_of_a_fragment() {
    let mut frame = v4(UDP, 0x0001, &[7; 5]);
    frame.resize(60, 0);
    assert_eq!(found(&frame).ip.l4_len, 5);
}
