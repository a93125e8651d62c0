//! ARP answers byte for byte, and who gets none.

use proptest::prelude::*;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr};

use super::*;
use crate::responder::testing::*;

/// The answer where no neighbour is known.
fn answer(net: &Network, request: &[u8]) -> Result<[u8; LEN], Ignored> {
    super::answer(net, (&Neighbours::default(), &Stations::default()), request)
}

/// A request of the guest at `sender` for `target`.
fn request(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = hex("0001 0800 06 04 0001 525400123456");
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    bytes
}

#[test]
fn a_request_is_answered_with_our_mac() {
    let reply = answer(&network(), &request([192, 0, 2, 2], [192, 0, 2, 1]));
    let expected = hex("0001 0800 06 04 0002 9a559a559a55 c0000201 525400123456 c0000202");
    assert_eq!(reply.expect("an answer").to_vec(), expected);
}

#[test]
fn smoltcp_reads_the_answer() {
    let reply = answer(&network(), &request([192, 0, 2, 2], [198, 51, 100, 9])).expect("an answer");
    let packet = ArpPacket::new_checked(&reply[..]).expect("whole");
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    } = ArpRepr::parse(&packet).expect("valid")
    else {
        panic!("not Ethernet and IPv4");
    };
    assert_eq!(operation, ArpOperation::Reply);
    assert_eq!(source_hardware_addr.0, Mac::OURS.0);
    assert_eq!(source_protocol_addr, Ipv4Addr::new(198, 51, 100, 9));
    assert_eq!(target_hardware_addr.0, GUEST_MAC.0);
    assert_eq!(target_protocol_addr, GUEST_V4);
}

#[test]
fn any_target_is_here() {
    for target in [[10, 0, 0, 1], [203, 0, 113, 7], [0, 0, 0, 0], [255; 4]] {
        let reply = answer(&network(), &request([192, 0, 2, 2], target)).expect("an answer");
        assert_eq!(reply[14..18], target);
    }
}

#[test]
fn ethernet_padding_is_ignored() {
    let mut padded = request([192, 0, 2, 2], [192, 0, 2, 1]);
    let reply = answer(&network(), &padded);
    padded.resize(46, 0);
    assert_eq!(answer(&network(), &padded), reply);
    assert!(reply.is_ok());
}

#[test]
fn rfc5227_2_1_1_probe_for_the_assigned_address_gets_no_answer() {
    let probe = request([0; 4], GUEST_V4.octets());
    assert_eq!(answer(&network(), &probe), Err(Ignored::NotForUs));
}

#[test]
fn rfc5227_2_1_1_a_probe_is_answered_only_for_who_exists() {
    let (net, mut neighbours) = (network(), Neighbours::default());
    let neighbour = Mac([2, 0, 0, 0, 0, 7]);
    neighbours.learn(Ipv4Addr::new(192, 0, 2, 7).into(), neighbour);
    neighbours.pin([Ipv4Addr::new(198, 51, 100, 1).into()].into_iter(), Mac::OURS);
    for (target, mac) in [
        (GATEWAY_V4.octets(), Some(Mac::OURS)),
        ([192, 0, 2, 7], Some(neighbour)),
        ([198, 51, 100, 1], Some(Mac::OURS)),
        (GUEST_V4.octets(), None),
        ([192, 0, 2, 9], None),
        ([203, 0, 113, 7], None),
        ([0; 4], None),
    ] {
        let reply =
            super::answer(&net, (&neighbours, &Stations::default()), &request([0; 4], target));
        let found = reply.map(|reply| Mac(*reply[8..].first_chunk().expect("long enough")));
        assert_eq!(found, mac.ok_or(Ignored::NotForUs), "{target:?}");
    }
    // Who has an address finds all of them.
    assert!(
        super::answer(
            &net,
            (&neighbours, &Stations::default()),
            &request([192, 0, 2, 77], [192, 0, 2, 9])
        )
        .is_ok()
    );
}

#[test]
fn rfc5227_2_1_1_the_answer_to_a_probe_goes_to_who_asks_and_names_no_address_of_it() {
    let reply = answer(&network(), &request([0; 4], GATEWAY_V4.octets())).expect("an answer");
    assert_eq!(
        reply.to_vec(),
        hex("0001 0800 06 04 0002 9a559a559a55 c0000201 525400123456 00000000")
    );
}

#[test]
fn rfc5227_2_3_announcement_gets_no_answer() {
    let announcement = request([192, 0, 2, 9], [192, 0, 2, 9]);
    assert_eq!(answer(&network(), &announcement), Err(Ignored::NotForUs));
}

#[test]
fn replies_and_other_protocols_get_no_answer() {
    let valid = request([192, 0, 2, 2], [192, 0, 2, 1]);
    for (at, value) in [(7, 2), (7, 3), (1, 6), (2, 0x86), (4, 8), (5, 16)] {
        let mut other = valid.clone();
        other[at] = value;
        assert_eq!(answer(&network(), &other), Err(Ignored::Unsupported), "byte {at}");
    }
}

#[test]
fn a_truncated_message_is_malformed() {
    let valid = request([192, 0, 2, 2], [192, 0, 2, 1]);
    for len in 0..LEN {
        assert_eq!(answer(&network(), &valid[..len]), Err(Ignored::Malformed));
    }
}

#[test]
fn without_ipv4_there_is_no_arp() {
    let mut net = network();
    net.v4 = None;
    let request = request([192, 0, 2, 2], [192, 0, 2, 1]);
    assert_eq!(answer(&net, &request), Err(Ignored::Disabled));
    assert_eq!(initial_request(&net), None);
}

#[test]
fn the_initial_request_asks_for_the_assigned_address() {
    let expected = hex("0001 0800 06 04 0001 9a559a559a55 c0000201 ffffffffffff c0000202");
    assert_eq!(initial_request(&network()).expect("a request").to_vec(), expected);
}

#[test]
fn without_an_address_of_ours_there_is_no_initial_request() {
    let mut net = network();
    net.v4.as_mut().expect("IPv4").gateway = None;
    assert_eq!(initial_request(&net), None);
}

proptest! {
    #[test]
    fn damaged_requests_never_panic(
        bytes in damaged(request([192, 0, 2, 2], [192, 0, 2, 1])),
        noise in noise(),
    ) {
        let _ = answer(&network(), &bytes);
        let _ = answer(&network(), &noise);
    }
}

#[test]
fn a_neighbour_has_its_own_mac() {
    let (net, mut neighbours) = (network(), Neighbours::default());
    neighbours.learn(Ipv4Addr::new(192, 0, 2, 7).into(), Mac([2, 0, 0, 0, 0, 7]));
    let go = |target| {
        super::answer(&net, (&neighbours, &Stations::default()), &request([192, 0, 2, 2], target))
            .unwrap()
    };
    assert_eq!(go([192, 0, 2, 7])[8..18], hex("02 00 00 00 00 07 c0 00 02 07"));
    assert_eq!(go([192, 0, 2, 8])[8..18], hex("9a 55 9a 55 9a 55 c0 00 02 08"));
}

#[test]
fn rfc5227_2_3_an_announcement_asks_for_its_own_address() {
    let message = announcement(Ipv4Addr::new(192, 0, 2, 7), Mac([2, 0, 0, 0, 0, 7]));
    let expected = "0001 0800 06 04 0001 020000000007 c0000207 000000000000 c0000207";
    assert_eq!(message[..], hex(expected));
}

#[test]
fn stations_of_the_guest_answer_for_themselves() {
    let (theirs, other) = (Ipv4Addr::new(192, 0, 2, 9), Mac([2, 0, 0, 0, 0, 9]));
    let (mut neighbours, mut stations) = (Neighbours::default(), Stations::default());
    stations.learn(theirs.into(), other);
    stations.learn(GATEWAY_V4.into(), other);
    let ask = |neighbours: &Neighbours, stations: &Stations, mac: Mac, target: Ipv4Addr| {
        let mut message = request([192, 0, 2, 2], target.octets());
        message[8..14].copy_from_slice(&mac.0);
        super::answer(&network(), (neighbours, stations), &message)
    };
    assert_eq!(ask(&neighbours, &stations, GUEST_MAC, theirs), Err(Ignored::NotForUs));
    assert!(ask(&neighbours, &stations, other, theirs).is_ok(), "it had that address itself");
    assert!(ask(&neighbours, &stations, GUEST_MAC, GATEWAY_V4).is_ok(), "whoever says so");
    neighbours.learn(theirs.into(), Mac([2, 0, 0, 0, 0, 7]));
    assert!(ask(&neighbours, &stations, GUEST_MAC, theirs).is_ok(), "the host's neighbour");
}

#[test]
fn the_sender_of_a_message_is_who_uses_its_address() {
    let message = request([192, 0, 2, 77], [192, 0, 2, 1]);
    assert_eq!(sender(&message), Some((Ipv4Addr::new(192, 0, 2, 77), GUEST_MAC)));
    let reply = build(&Message { operation: REPLY, ..parse(&message).expect("whole") });
    assert_eq!(sender(&reply), sender(&message));
    assert_eq!(sender(&request([0; 4], [192, 0, 2, 77])), None, "a probe uses none yet");
    assert_eq!(sender(&message[..27]), None);
}

#[test]
fn any_address_can_be_asked_for() {
    let expected = hex("0001 0800 06 04 0001 9a559a559a55 c0000201 ffffffffffff c000024d");
    let request = super::request(&network(), Ipv4Addr::new(192, 0, 2, 77)).expect("a request");
    assert_eq!(request.to_vec(), expected);
}
