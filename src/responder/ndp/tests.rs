//! NDP answers byte for byte, read by smoltcp, and who gets none.

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, Icmpv6Repr, NdiscNeighborFlags, NdiscPrefixInfoFlags, NdiscRepr,
    NdiscRouterFlags, RawHardwareAddress,
};

use super::*;
use crate::flow::network::ExtraOption;
use crate::responder::testing::*;

/// The answer where no neighbour is known.
fn answer(net: &Network, source: Ipv6Addr, message: &[u8]) -> Result<Reply, Ignored> {
    let nobody = (&Neighbours::default(), &Stations::default());
    answer_among(net, nobody, (source, GUEST_MAC), message)
}

/// The answer to a message that was sent to those who may be meant.
fn answer_among(
    net: &Network,
    around: (&Neighbours, &Stations),
    from: (Ipv6Addr, Mac),
    message: &[u8],
) -> Result<Reply, Ignored> {
    super::answer(net, around, from, Solicitation::read((from.0, MAY_HAVE_IT), message)?)
}

/// Those who may have [`TARGET`], and others.
const MAY_HAVE_IT: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 9);

/// Where the flags of a router advertisement are.
const FLAGS_AT: usize = 5;

/// Any address on the link.
const TARGET: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 9);
/// What every router advertisement starts with.
const RA_HEAD: &str = "86 00 0000 ff 80 ffff 00000000 00000000";
/// The prefix of the test network, and our link-layer address.
const RA_PREFIX: &str = "03 04 40 c0 ffffffff ffffffff 00000000 20010db8000000010000000000000000";
const RA_LINK_LAYER: &str = "01 01 9a559a559a55";
const RA_MTU: &str = "05 01 0000 0000fff0";
const RA_RDNSS: &str = "19 03 0000 ffffffff 20010db8000000350000000000000001";

/// A neighbour solicitation with the option Linux sends.
fn neighbor_solicitation() -> Vec<u8> {
    let mut bytes = hex("87 00 1234 00000000");
    bytes.extend(TARGET.octets());
    bytes.extend(hex("01 01 525400123456"));
    bytes
}

/// A router solicitation with the option Linux sends.
fn router_solicitation() -> Vec<u8> {
    hex("85 00 1234 00000000 01 01 525400123456")
}

/// The answer to a router solicitation.
fn router_advertisement_of(net: &Network) -> Vec<u8> {
    let reply = answer(net, GUEST_LINK_LOCAL, &router_solicitation()).expect("an answer");
    reply.message.to_vec()
}

/// What smoltcp reads in `reply`.
fn smoltcp_repr(reply: &Reply) -> Icmpv6Repr<'_> {
    let packet = Icmpv6Packet::new_checked(&reply.message[..]).expect("whole");
    let (source, destination) = (&GUEST_LINK_LOCAL, &reply.destination);
    Icmpv6Repr::parse(source, destination, &packet, &ChecksumCapabilities::ignored())
        .expect("valid")
}

#[test]
fn rfc4861_7_2_4_a_solicitation_is_answered() {
    let reply = answer(&network(), GUEST_LINK_LOCAL, &neighbor_solicitation()).expect("an answer");
    let expected = hex("88 00 0000 c0000000 20010db8000000010000000000000009 02 01 9a559a559a55");
    assert_eq!(reply.message.to_vec(), expected);
    assert_eq!(reply.destination, GUEST_LINK_LOCAL);
    assert_eq!(reply.kind, Kind::NeighborAdvertisement);
    assert_eq!(reply.kind.to_string(), "NDP: received NS, sending NA");
}

#[test]
fn smoltcp_reads_the_neighbor_advertisement() {
    let reply = answer(&network(), GUEST_LINK_LOCAL, &neighbor_solicitation()).expect("an answer");
    let expected = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::SOLICITED,
        target_addr: TARGET,
        lladdr: Some(RawHardwareAddress::from(EthernetAddress(Mac::OURS.0))),
    };
    assert_eq!(smoltcp_repr(&reply), Icmpv6Repr::Ndisc(expected));
}

#[test]
fn any_unicast_target_is_here() {
    for target in [GUEST_V6, GUEST_LINK_LOCAL, DNS_V6] {
        let mut message = neighbor_solicitation();
        message[8..24].copy_from_slice(&target.octets());
        let reply = answer(&network(), GUEST_V6, &message).expect("an answer");
        assert_eq!(reply.message[8..24], target.octets());
        assert_eq!(reply.destination, GUEST_V6);
    }
}

#[test]
fn rfc4861_7_1_1_multicast_target_is_malformed() {
    let mut message = neighbor_solicitation();
    message[8] = 0xff;
    let reply = answer(&network(), GUEST_LINK_LOCAL, &message);
    assert_eq!(reply, Err(Ignored::Malformed));
}

#[test]
fn addresses_that_no_host_has_are_not_here() {
    for target in ["::", "::1", "::ffff:192.0.2.9"] {
        let mut message = neighbor_solicitation();
        message[8..24].copy_from_slice(&target.parse::<Ipv6Addr>().unwrap().octets());
        let reply = answer(&network(), GUEST_V6, &message);
        assert_eq!(reply, Err(Ignored::NotForUs), "{target}");
    }
}

#[test]
fn rfc4861_6_1_1_and_7_1_1_who_has_no_address_names_no_station() {
    for message in [neighbor_solicitation(), router_solicitation()] {
        let bare = &message[..message.len() - 8];
        let read = |message| Solicitation::read((Ipv6Addr::UNSPECIFIED, MAY_HAVE_IT), message);
        assert!(read(bare).is_ok());
        assert_eq!(read(&message), Err(Ignored::Malformed));
        // Another option says nothing of that.
        assert!(read(&[bare, &hex("0e 01 010203040506")].concat()).is_ok());
    }
}

#[test]
fn rfc4861_7_1_1_who_has_no_address_asks_all_who_may_have_one() {
    let message = &neighbor_solicitation()[..24];
    let read = |source, to| Solicitation::read((source, to), message);
    for to in [TARGET, ALL_NODES, "ff02::1:fe00:9".parse().unwrap()] {
        assert_eq!(read(Ipv6Addr::UNSPECIFIED, to), Err(Ignored::Malformed), "{to}");
        assert_eq!(read(GUEST_LINK_LOCAL, to), Ok(Solicitation::Neighbor(TARGET)), "{to}");
    }
    for to in [MAY_HAVE_IT, "ff02::1:ffff:ffff".parse().unwrap()] {
        assert!(read(Ipv6Addr::UNSPECIFIED, to).is_ok(), "{to}");
    }
}

#[test]
fn rfc4862_5_4_duplicate_address_detection_finds_only_who_exists() {
    let (net, mut neighbours) = (network(), Neighbours::default());
    let neighbour = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 7);
    neighbours.learn(neighbour.into(), Mac([2, 0, 0, 0, 0, 7]));
    let ours = net.v6.as_ref().expect("IPv6").our_link_local;
    let ask = |target: Ipv6Addr| {
        let mut message = hex("87 00 1234 00000000");
        message.extend(target.octets());
        answer_among(
            &net,
            (&neighbours, &Stations::default()),
            (Ipv6Addr::UNSPECIFIED, GUEST_MAC),
            &message,
        )
    };
    for free in [GUEST_V6, GUEST_LINK_LOCAL, TARGET, DNS_V6] {
        assert_eq!(ask(free), Err(Ignored::NotForUs), "{free}");
    }
    for (taken, mac) in [(ours, "9a559a559a55"), (neighbour, "020000000007")] {
        let reply = ask(taken).expect("an answer");
        let expected = hex(&format!("88 00 0000 a0000000 {:032x} 02 01 {mac}", taken.to_bits()));
        assert_eq!(reply.message.to_vec(), expected, "not solicited");
        assert_eq!(reply.destination, ALL_NODES);
    }
    // The assigned address is the guest's, whoever else has it.
    neighbours.learn(GUEST_V6.into(), Mac([2, 0, 0, 0, 0, 7]));
    let mut message = hex("87 00 1234 00000000");
    message.extend(GUEST_V6.octets());
    let reply = answer_among(
        &net,
        (&neighbours, &Stations::default()),
        (Ipv6Addr::UNSPECIFIED, GUEST_MAC),
        &message,
    );
    assert_eq!(reply, Err(Ignored::NotForUs));
}

#[test]
fn rfc4861_6_2_3_who_leads_nowhere_is_no_default_router() {
    let mut net = network();
    net.v6.as_mut().expect("IPv6").default_router = false;
    let head = "86 00 0000 ff 80 0000 00000000 00000000";
    let expected = [head, RA_PREFIX, RA_LINK_LAYER, RA_MTU, RA_RDNSS].concat();
    assert_eq!(router_advertisement_of(&net), hex(&expected));
}

#[test]
fn rfc4861_6_2_6_a_router_solicitation_is_answered_to_its_source() {
    let reply = answer(&network(), GUEST_LINK_LOCAL, &router_solicitation()).expect("an answer");
    let expected = [RA_HEAD, RA_PREFIX, RA_LINK_LAYER, RA_MTU, RA_RDNSS].concat();
    assert_eq!(reply.message.to_vec(), hex(&expected));
    assert_eq!(reply.destination, GUEST_LINK_LOCAL);
    assert_eq!(reply.kind.to_string(), "NDP: received RS, sending RA");
}

#[test]
fn router_solicitation_from_the_unspecified_address_is_answered_to_all_nodes() {
    let reply = answer(&network(), Ipv6Addr::UNSPECIFIED, &hex("85 00 0000 00000000"));
    assert_eq!(reply.expect("an answer").destination, ALL_NODES);
}

#[test]
fn smoltcp_reads_the_router_advertisement() {
    let reply = answer(&network(), GUEST_LINK_LOCAL, &router_solicitation()).expect("an answer");
    let Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        hop_limit,
        flags,
        router_lifetime,
        lladdr,
        mtu,
        prefix_info: Some(prefix),
        ..
    }) = smoltcp_repr(&reply)
    else {
        panic!("not a router advertisement with a prefix");
    };
    assert_eq!(hop_limit, 255);
    assert_eq!(flags, NdiscRouterFlags::MANAGED);
    assert_eq!(router_lifetime.secs(), 65535);
    assert_eq!(lladdr, Some(RawHardwareAddress::from(EthernetAddress(Mac::OURS.0))));
    assert_eq!(mtu, Some(65520));
    assert_eq!(prefix.prefix_len, 64);
    assert_eq!(prefix.prefix, Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0));
    assert_eq!(prefix.flags, NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF);
    assert_eq!(prefix.valid_lifetime.secs(), u64::from(u32::MAX));
    assert_eq!(prefix.preferred_lifetime.secs(), u64::from(u32::MAX));
}

#[test]
fn prefix_has_its_host_bits_cleared() {
    let message = router_advertisement_of(&network());
    assert_eq!(message[16 + 16..16 + 32], hex("20010db8000000010000000000000000"));
}

#[test]
fn rfc4861_4_6_2_the_link_local_prefix_is_not_advertised() {
    for addr in [None, Some(GUEST_LINK_LOCAL)] {
        let mut net = network();
        net.v6.as_mut().expect("IPv6").addr = addr;
        let mut expected = hex(&[RA_HEAD, RA_LINK_LAYER, RA_MTU, RA_RDNSS].concat());
        if addr.is_none() {
            expected[FLAGS_AT] = 0;
        }
        assert_eq!(router_advertisement_of(&net), expected);
    }
}

#[test]
fn rfc4861_4_2_addresses_are_said_to_be_managed_where_dhcpv6_has_one() {
    let flags = |net: &Network| router_advertisement_of(net)[FLAGS_AT];
    let mut net = network();
    assert_eq!(flags(&net), 0x80);
    net.services.dhcpv6 = false;
    assert_eq!(flags(&net), 0);
}

#[test]
fn without_an_mtu_there_is_no_mtu_option() {
    let mut net = network();
    net.mtu = 0;
    let expected = [RA_HEAD, RA_PREFIX, RA_LINK_LAYER, RA_RDNSS].concat();
    assert_eq!(router_advertisement_of(&net), hex(&expected));
}

#[test]
fn rfc8106_5_1_every_dns_server_is_listed() {
    let mut net = network();
    net.v6.as_mut().expect("IPv6").dns.push(TARGET);
    let rdnss = "19 05 0000 ffffffff 20010db8000000350000000000000001
        20010db8000000010000000000000009";
    let expected = [RA_HEAD, RA_PREFIX, RA_LINK_LAYER, RA_MTU, rdnss].concat();
    assert_eq!(router_advertisement_of(&net), hex(&expected));
}

#[test]
fn without_servers_or_with_dns_withheld_there_is_no_rdnss() {
    let mut none = network();
    none.v6.as_mut().expect("IPv6").dns.clear();
    let mut withheld = network();
    withheld.services.hand_out_dns = false;
    let expected = hex(&[RA_HEAD, RA_PREFIX, RA_LINK_LAYER, RA_MTU].concat());
    assert_eq!(router_advertisement_of(&none), expected);
    assert_eq!(router_advertisement_of(&withheld), expected);
}

#[test]
fn rfc8106_5_2_names_are_padded_to_eight_bytes() {
    let head = [RA_HEAD, RA_PREFIX, RA_LINK_LAYER, RA_MTU, RA_RDNSS].concat();
    let cases = [
        (&["a.b"][..], "1f 02 0000 ffffffff 0161 0162 00 000000"),
        (&["abc.de"], "1f 02 0000 ffffffff 03616263 026465 00"),
        (&["abcd.de"], "1f 03 0000 ffffffff 0461626364 026465 00 00000000000000"),
        (&["a.b", "a.b"], "1f 03 0000 ffffffff 0161 0162 00 0161 0162 00 000000000000"),
    ];
    for (domains, dnssl) in cases {
        let net = with_search(network(), domains);
        assert_eq!(router_advertisement_of(&net), hex(&[&head, dnssl].concat()));
    }
}

#[test]
fn dnssl_does_not_depend_on_rdnss() {
    let mut net = with_search(network(), &["a.b"]);
    net.services.hand_out_dns = false;
    let dnssl = "1f 02 0000 ffffffff 0161 0162 00 000000";
    let expected = [RA_HEAD, RA_PREFIX, RA_LINK_LAYER, RA_MTU, dnssl].concat();
    assert_eq!(router_advertisement_of(&net), hex(&expected));
}

#[test]
fn a_search_entry_with_blanks_is_several_domains() {
    let split = with_search(network(), &["a.b", "c"]);
    let joined = with_search(network(), &["a.b  c"]);
    assert_eq!(router_advertisement_of(&joined), router_advertisement_of(&split));
}

#[test]
fn a_withheld_search_list_is_not_sent() {
    let mut net = with_search(network(), &["a.b"]);
    net.services.hand_out_search = false;
    assert_eq!(router_advertisement_of(&net), router_advertisement_of(&network()));
}

#[test]
fn the_longest_router_advertisement_is_well_formed() {
    let reply = answer(&full_network(), GUEST_LINK_LOCAL, &router_solicitation());
    let message = reply.expect("an answer").message;
    assert!(message.len() <= MAX_MESSAGE && message.len().is_multiple_of(8));
    assert_eq!(has_option(&message[16..], OPTION_SOURCE_LINK_LAYER), Ok(true));
}

#[test]
fn router_advertisements_can_be_off() {
    let mut net = network();
    net.services.ra = false;
    let reply = answer(&net, GUEST_LINK_LOCAL, &router_solicitation());
    assert_eq!(reply, Err(Ignored::Disabled));
    assert_eq!(router_advertisement(&net), Err(Ignored::Disabled));
    assert!(answer(&net, GUEST_LINK_LOCAL, &neighbor_solicitation()).is_ok());
}

#[test]
fn without_ndp_or_ipv6_nothing_is_sent() {
    let mut no_ndp = network();
    no_ndp.services.ndp = false;
    let mut no_v6 = network();
    no_v6.v6 = None;
    for net in [no_ndp, no_v6] {
        for message in [neighbor_solicitation(), router_solicitation()] {
            let reply = answer(&net, GUEST_LINK_LOCAL, &message);
            assert_eq!(reply, Err(Ignored::Disabled));
        }
        assert_eq!(router_advertisement(&net), Err(Ignored::Disabled));
        assert_eq!(initial_solicitation(&net), None);
    }
}

#[test]
fn advertisements_of_the_guest_get_no_answer() {
    for kind in [ROUTER_ADVERTISEMENT, NEIGHBOR_ADVERTISEMENT] {
        let mut message = neighbor_solicitation();
        message[0] = kind;
        let reply = answer(&network(), GUEST_LINK_LOCAL, &message);
        assert_eq!(reply, Err(Ignored::Unsupported));
    }
}

#[test]
fn rfc4861_6_1_1_and_7_1_1_a_code_other_than_zero_is_malformed() {
    for mut message in [neighbor_solicitation(), router_solicitation()] {
        message[1] = 1;
        let reply = answer(&network(), GUEST_LINK_LOCAL, &message);
        assert_eq!(reply, Err(Ignored::Malformed));
    }
}

#[test]
fn rfc4861_6_1_1_and_7_1_1_an_option_of_length_zero_is_malformed() {
    for mut message in [neighbor_solicitation(), router_solicitation()] {
        let len = message.len();
        message[len - 7] = 0;
        let reply = answer(&network(), GUEST_LINK_LOCAL, &message);
        assert_eq!(reply, Err(Ignored::Malformed));
    }
}

#[test]
fn a_truncated_message_is_malformed() {
    for (message, bare_len) in [(neighbor_solicitation(), 24), (router_solicitation(), 8)] {
        for len in 0..message.len() {
            let reply = answer(&network(), GUEST_LINK_LOCAL, &message[..len]);
            assert_eq!(reply.is_ok(), len == bare_len, "{len} bytes");
            assert!(reply.is_ok() || reply == Err(Ignored::Malformed));
        }
    }
}

#[test]
fn a_multicast_source_is_malformed() {
    for message in [neighbor_solicitation(), router_solicitation()] {
        assert_eq!(answer(&network(), ALL_NODES, &message), Err(Ignored::Malformed));
    }
}

#[test]
fn unsolicited_router_advertisements_go_to_all_nodes() {
    let reply = router_advertisement(&network()).expect("a message");
    assert_eq!(reply.message.to_vec(), router_advertisement_of(&network()));
    assert_eq!(reply.destination, ALL_NODES);
    assert_eq!(reply.kind, Kind::UnsolicitedRouterAdvertisement);
}

#[test]
fn the_initial_solicitation_asks_the_assigned_address_for_itself() {
    let reply = initial_solicitation(&network()).expect("a message");
    let expected = hex("87 00 0000 00000000 20010db8000000010000000000000022");
    assert_eq!(reply.message.to_vec(), expected);
    assert_eq!(reply.destination, GUEST_V6);
    assert_eq!(reply.kind, Kind::NeighborSolicitation);
}

#[test]
fn without_an_assigned_address_there_is_no_initial_solicitation() {
    let mut net = network();
    net.v6.as_mut().expect("IPv6").addr = None;
    assert_eq!(initial_solicitation(&net), None);
}

#[test]
fn unsolicited_delay_covers_200_to_599_seconds() {
    assert_eq!(next_unsolicited_delay(0).as_secs(), 200);
    assert_eq!(next_unsolicited_delay(399).as_secs(), 599);
    assert_eq!(next_unsolicited_delay(400).as_secs(), 200);
    assert!((200..600).contains(&next_unsolicited_delay(u32::MAX).as_secs()));
}

proptest! {
    #[test]
    fn damaged_messages_never_panic(
        neighbor in damaged(neighbor_solicitation()),
        router in damaged(router_solicitation()),
        noise in noise(),
        source in any::<u128>().prop_map(Ipv6Addr::from_bits),
    ) {
        for message in [neighbor, router, noise] {
            let _ = answer(&full_network(), source, &message);
        }
    }
}

#[test]
fn a_neighbour_has_its_own_mac() {
    let mut neighbours = Neighbours::default();
    neighbours.learn(TARGET.into(), Mac([2, 0, 0, 0, 0, 7]));
    let source = "2001:db8:0:1::2".parse().unwrap();
    let reply = answer_among(
        &network(),
        (&neighbours, &Stations::default()),
        (source, GUEST_MAC),
        &neighbor_solicitation(),
    )
    .unwrap();
    assert_eq!(reply.message[24..], hex("02 01 02 00 00 00 00 07"));
}

#[test]
fn rfc4861_7_2_6_an_announcement_is_unsolicited_and_overrides() {
    let told = announcement(TARGET, Mac([2, 0, 0, 0, 0, 7]));
    assert_eq!(told.destination, ALL_NODES);
    assert_eq!(told.message[..8], hex("88 00 0000 a0 000000"));
    assert_eq!(told.message[8..24], TARGET.octets());
    assert_eq!(told.message[24..], hex("02 01 02 00 00 00 00 07"));
}

#[test]
fn stations_of_the_guest_answer_for_themselves() {
    let other = Mac([2, 0, 0, 0, 0, 9]);
    let (mut neighbours, mut stations) = (Neighbours::default(), Stations::default());
    let ask = |neighbours: &Neighbours, stations: &Stations, mac| {
        let from = (GUEST_LINK_LOCAL, mac);
        answer_among(&network(), (neighbours, stations), from, &neighbor_solicitation())
    };
    stations.learn(TARGET.into(), other);
    assert_eq!(ask(&neighbours, &stations, GUEST_MAC), Err(Ignored::NotForUs));
    assert!(ask(&neighbours, &stations, other).is_ok(), "it had that address itself");
    neighbours.learn(TARGET.into(), Mac([2, 0, 0, 0, 0, 7]));
    assert!(ask(&neighbours, &stations, GUEST_MAC).is_ok(), "but it is the host's neighbour");
}

/// A station of the guest that has been silent so far answers as well, and is believed, whoever is first.
#[test]
fn rfc4861_7_2_8_an_answer_for_others_does_not_override() {
    let (net, mut neighbours) = (network(), Neighbours::default());
    let v6 = net.v6.as_ref().expect("IPv6");
    neighbours.learn(DNS_V6.into(), Mac([2, 0, 0, 0, 0, 7]));
    let gateway = v6.gateway.expect("a gateway");
    for (target, flags) in [
        (TARGET, 0xc0),
        (GUEST_V6, 0xc0),
        (gateway, 0xe0),
        (v6.our_link_local, 0xe0),
        (DNS_V6, 0xe0),
    ] {
        let mut message = neighbor_solicitation();
        message[8..24].copy_from_slice(&target.octets());
        let around = (&neighbours, &Stations::default());
        let reply = answer_among(&net, around, (GUEST_LINK_LOCAL, GUEST_MAC), &message);
        assert_eq!(reply.expect("an answer").message[4], flags, "{target}");
    }
}

#[test]
fn an_advertisement_of_the_guest_names_its_address() {
    let told = announcement(TARGET, GUEST_MAC).message;
    assert_eq!(advertised(&told), Some(TARGET));
    assert_eq!(advertised(&told[..23]), None);
    assert_eq!(advertised(&neighbor_solicitation()), None);
    // RFC 4861, section 7.1.2: of code 0, with options that are whole.
    for at in [1, 25] {
        let mut damaged = told.clone();
        damaged[at] = 2;
        assert_eq!(advertised(&damaged), None, "{at}");
    }
}

#[test]
fn options_of_the_operator_stand_in_place_of_the_usual_ones() {
    let mut net = with_search(network(), &["a.b"]);
    let option = |code, value: &str| ExtraOption { code, value: hex(value) };
    let mtu = option(5, "0000 00000578");
    let routes = [option(24, "00 00 ffffffff"), option(24, "40 00 ffffffff 20010db800070000")];
    net.extra.ra = [vec![mtu], routes.to_vec()].concat();
    let search = "1f 02 0000 ffffffff 0161 0162 00 000000";
    let extra = "05 01 0000 00000578 18 01 00 00 ffffffff 18 02 40 00 ffffffff 20010db800070000";
    let expected = [RA_HEAD, RA_PREFIX, RA_LINK_LAYER, RA_RDNSS, search, extra].concat();
    assert_eq!(router_advertisement_of(&net), hex(&expected));
    net.extra.ra = vec![option(25, "0000 ffffffff"), option(31, "0000 ffffffff")];
    let extra = "19 01 0000 ffffffff 1f 01 0000 ffffffff";
    let expected = [RA_HEAD, RA_PREFIX, RA_LINK_LAYER, RA_MTU, extra].concat();
    assert_eq!(router_advertisement_of(&net), hex(&expected));
}

#[test]
fn the_longest_advertisement_fits() {
    let mut net = full_network();
    net.extra.ra = vec![ExtraOption { code: 200, value: vec![7; MAX_EXTRA_LEN - 2] }];
    let message = router_advertisement_of(&net);
    assert!(message.len() > 1000 && message.len() <= MAX_MESSAGE, "{}", message.len());
    assert_eq!(message[message.len() - MAX_EXTRA_LEN..][..3], [200, 64, 7]);
}

#[test]
fn rfc4861_6_2_4_and_rfc8106_5_what_is_gone_is_taken_back() {
    let old = network();
    let mut new = old.clone();
    if let Some(v6) = &mut new.v6 {
        v6.addr = Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 2));
        v6.dns.clear();
        v6.dns.push(Ipv6Addr::new(0x2001, 0xdb8, 0, 0x35, 0, 0, 0, 2));
    }
    let mut withdrawn = Withdrawn::default();
    assert_eq!(withdrawal(&old, &withdrawn), None, "nothing is gone");
    withdrawn.note(&old, &new);
    let reply = withdrawal(&new, &withdrawn).expect("something is gone");
    let prefix = RA_PREFIX.replace("ffffffff", "00000000");
    let dns = RA_RDNSS.replace("ffffffff", "00000000");
    let expected = hex(&[RA_HEAD, &prefix, RA_LINK_LAYER, &dns].join(" "));
    assert_eq!(reply.message[..], expected[..]);
    assert_eq!(reply.destination, ALL_NODES);

    // What is there again is not taken back any more.
    withdrawn.note(&new, &old);
    let reply = withdrawal(&old, &withdrawn).expect("the other one is gone");
    assert!(!reply.message.windows(8).any(|bytes| bytes == hex("20010db800000001")));
    assert!(reply.message.windows(8).any(|bytes| bytes == hex("20010db800000002")));
}

#[test]
fn rfc4861_6_2_5_who_is_no_router_any_more_says_so() {
    let mut off = network();
    let expected = hex("86 00 0000 ff 80 0000 00000000 00000000");
    assert_eq!(farewell(&off).expect("advertisements are on").message[..], expected[..]);
    off.services.ra = false;
    assert_eq!(farewell(&off), None);
    assert_eq!(withdrawal(&off, &Withdrawn::default()), None);
}

#[test]
fn the_longest_withdrawal_fits() {
    let mut withdrawn = Withdrawn::default();
    let mut old = network();
    for number in 0..9 {
        let mut new = old.clone();
        if let Some(v6) = &mut new.v6 {
            v6.addr = Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 100 + number, 0, 0, 0, 2));
            v6.dns =
                (0..3).map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, number, 0, 0, 0, last)).collect();
        }
        new.search =
            (0..6).map(|last| format!("{}{number}{last}.example", "a".repeat(50))).collect();
        withdrawn.note(&old, &new);
        old = new;
    }
    let reply = withdrawal(&old, &withdrawn).expect("much is gone");
    assert!(reply.message.len() <= MAX_MESSAGE);
    let prefixes = reply.message.windows(4).filter(|bytes| bytes == b"\x03\x04\x40\xc0").count();
    assert_eq!(prefixes, 4, "the last ones");
}
