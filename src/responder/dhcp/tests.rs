//! DHCPv4 answers byte for byte, read by smoltcp, and who gets none.

use proptest::prelude::*;
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

use super::*;
use crate::flow::network::{ExtraOption, Ipv4Route};
use crate::responder::testing::*;

/// The options of an answer to a client without option 55, up to the message type.
const USUAL: &str = "01 04 ffffff00  03 04 c0000201  06 04 c6336435  1a 02 fff0  33 04 ffffffff";

/// A request with the given options after the cookie; flags as given.
fn request_with_flags(flags: u8, options: &[u8]) -> Vec<u8> {
    let mut bytes = hex("01 01 06 07 a1b2c3d4 0009");
    bytes.extend([flags, 0]);
    bytes.extend(hex("00000000 c0000264 c0000265 00000000")); // ciaddr, yiaddr, siaddr, giaddr
    bytes.extend(GUEST_MAC.0);
    bytes.extend(hex("e0 e1 e2 e3 e4 e5 e6 e7 e8 e9")); // rest of chaddr
    bytes.resize(236, 0x5a); // sname, file
    bytes.extend(hex("63825363"));
    bytes.extend(options);
    bytes
}

/// A request with the given options, in hex.
fn request(options: &str) -> Vec<u8> {
    request_with_flags(0, &hex(options))
}

/// The answer to a request with the given options.
fn reply(net: &Network, options: &str) -> Reply {
    answer(net, &request(options)).expect("an answer")
}

/// The options of the answer to a request with the given ones: codes and values.
fn options(net: &Network, options: &str) -> Vec<(u8, Vec<u8>)> {
    let reply = reply(net, options);
    dhcp_options::parse(&reply.message[FIXED_LEN..])
        .map(|option| option.expect("whole"))
        .map(|(code, value)| (code, value.to_vec()))
        .collect()
}

/// The codes of the options of `reply`, in order.
fn codes_of(reply: &Reply) -> Vec<u8> {
    let options = dhcp_options::parse(&reply.message[FIXED_LEN..]);
    options.map(|option| option.expect("whole").0).collect()
}

/// The value of option `code` in the answer to a DISCOVER.
fn option(net: &Network, code: u8) -> Option<Vec<u8>> {
    let options = options(net, "35 01 01 ff");
    options.into_iter().find(|o| o.0 == code).map(|o| o.1)
}

/// The codes of the answer's options, in order.
fn codes(net: &Network, asked: &str) -> Vec<u8> {
    options(net, asked).into_iter().map(|o| o.0).collect()
}

/// The IPv4 side of `net`.
fn v4(net: &mut Network) -> &mut Ipv4Net {
    net.v4.as_mut().expect("IPv4 is on")
}

#[test]
fn rfc2131_4_3_1_offer_byte_for_byte() {
    let reply = reply(&network(), "35 01 01 ff");
    let mut expected = hex("02 01 06 00 a1b2c3d4 0000 0000
        00000000 c0000202 00000000 00000000
        525400123456 e0e1e2e3e4e5e6e7e8e9");
    expected.resize(236, 0);
    expected.extend(hex("63825363"));
    expected.extend(hex(USUAL));
    expected.extend(hex("35 01 02  36 04 c0000201  ff"));
    expected.resize(300, 0);
    assert_eq!(reply.message.to_vec(), expected);
    assert_eq!(reply.kind, Kind::Offer);
    assert_eq!(reply.source, GATEWAY_V4);
    assert_eq!(reply.destination, SocketAddrV4::new(GUEST_V4, CLIENT_PORT));
    assert_eq!(reply.client, GUEST_MAC);
}

#[test]
fn each_message_gets_its_answer() {
    let cases = [
        ("35 01 01 ff", Kind::Offer, 2, "DHCP: offer to discover"),
        ("35 01 03 ff", Kind::Ack, 5, "DHCP: ack to request"),
        ("ff", Kind::Bootp, 5, "BOOTP: ack to request"),
        ("35 01 01 50 00 ff", Kind::AckRapidCommit, 5, "DHCP: ack to discover (Rapid Commit)"),
    ];
    for (asked, kind, message_type, line) in cases {
        let reply = reply(&network(), asked);
        assert_eq!(reply.kind, kind);
        assert_eq!(reply.kind.to_string(), line);
        let options = options(&network(), asked);
        assert!(options.contains(&(CODE_TYPE, vec![message_type])), "{line}");
        let rapid_commit = options.contains(&(CODE_RAPID_COMMIT, vec![]));
        assert_eq!(rapid_commit, kind == Kind::AckRapidCommit, "{line}");
    }
}

#[test]
fn rfc4039_rapid_commit_in_a_request_means_nothing() {
    assert_eq!(reply(&network(), "35 01 03 50 00 ff").kind, Kind::Ack);
    assert!(!codes(&network(), "35 01 03 50 00 ff").contains(&CODE_RAPID_COMMIT));
}

#[test]
fn release_and_server_messages_get_no_answer() {
    for message_type in [0, 2, 5, 6, 7, 9, 255] {
        let bytes = request_with_flags(0, &[CODE_TYPE, 1, message_type, 255]);
        assert_eq!(answer(&network(), &bytes), Err(Ignored::Unsupported), "{message_type}");
    }
}

/// A request whose client says that it has `address`.
fn request_of(address: Ipv4Addr, options: &str) -> Vec<u8> {
    let mut bytes = request(options);
    bytes[12..16].copy_from_slice(&address.octets());
    bytes
}

const FOREIGN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

#[test]
fn rfc2131_4_3_2_each_state_gets_its_answer() {
    let (ours, theirs) = ("36 04 c0000201", "36 04 c6336402");
    let (good, bad) = ("32 04 c0000202", "32 04 c6336401");
    let nobody = Ipv4Addr::UNSPECIFIED;
    let cases = [
        ("selecting us", nobody, format!("{ours} {good}"), Ok(Kind::Ack)),
        (
            "selecting us for what we never offered",
            nobody,
            format!("{ours} {bad}"),
            Ok(Kind::Nak(FOREIGN)),
        ),
        ("selecting another server", nobody, format!("{theirs} {bad}"), Err(Ignored::NotForUs)),
        (
            "selecting another server, same address",
            nobody,
            format!("{theirs} {good}"),
            Err(Ignored::NotForUs),
        ),
        ("after a reboot", nobody, good.to_owned(), Ok(Kind::Ack)),
        ("after a reboot elsewhere", nobody, bad.to_owned(), Ok(Kind::Nak(FOREIGN))),
        ("renewing or rebinding", GUEST_V4, String::new(), Ok(Kind::Ack)),
        ("renewing what another host gave", FOREIGN, String::new(), Ok(Kind::Nak(FOREIGN))),
        ("saying nothing", nobody, String::new(), Ok(Kind::Ack)),
    ];
    for (what, client, options, wanted) in cases {
        let asked = request_of(client, &format!("35 01 03 {options} ff"));
        assert_eq!(answer(&network(), &asked).map(|reply| reply.kind), wanted, "{what}");
    }
}

#[test]
fn rfc2131_4_3_2_nak_byte_for_byte() {
    let asked = request_of(FOREIGN, "35 01 03 37 03 010306 3d 03 01aabb ff");
    let reply = answer(&network(), &asked).expect("an answer");
    let mut expected = hex("02 01 06 00 a1b2c3d4 0000 0000
        00000000 00000000 00000000 00000000
        525400123456 e0e1e2e3e4e5e6e7e8e9");
    expected.resize(236, 0);
    expected.extend(hex("63825363  35 01 06  36 04 c0000201  38 1d"));
    expected.extend(b"not the address of this guest");
    expected.extend(hex("3d 03 01aabb  ff"));
    expected.resize(300, 0);
    assert_eq!(reply.message.to_vec(), expected);
    assert_eq!(reply.destination, SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT));
    assert_eq!(reply.kind.to_string(), "DHCP: nak to request for 198.51.100.1");
    // Who renews hears no broadcast.
    assert_eq!(reply.besides, Some(SocketAddrV4::new(FOREIGN, CLIENT_PORT)));
    for elsewhere in [request("35 01 03 32 04 c6336401 ff"), request_of(GUEST_V4, "35 01 03 ff")] {
        assert_eq!(answer(&network(), &elsewhere).expect("an answer").besides, None);
    }
}

#[test]
fn rfc2131_4_1_who_has_an_address_is_answered_there() {
    let reply = answer(&network(), &request_of(GUEST_V4, "35 01 03 ff")).expect("an answer");
    assert_eq!(reply.destination, SocketAddrV4::new(GUEST_V4, CLIENT_PORT));
    assert_eq!(reply.message[12..20], [GUEST_V4.octets(), GUEST_V4.octets()].concat());
}

#[test]
fn rfc2131_4_3_5_inform_gets_options_and_no_address() {
    let net = with_extra(network(), &[(51, b"\x00\x00\x0e\x10"), (58, b"\x00\x00\x07\x08")], None);
    let reply = answer(&net, &request_of(FOREIGN, "35 01 08 37 03 010633 ff")).expect("an answer");
    assert_eq!(
        (reply.kind, reply.kind.to_string().as_str()),
        (Kind::Inform, "DHCP: ack to inform")
    );
    assert_eq!(reply.destination, SocketAddrV4::new(FOREIGN, CLIENT_PORT));
    assert_eq!(reply.message[12..20], [FOREIGN.octets(), [0; 4]].concat());
    let codes = codes_of(&reply);
    assert_eq!(codes, [53, 1, 6, 3, 26, 54], "no lease, no renewal");

    let anonymous = answer(&net, &request("35 01 08 ff")).expect("an answer");
    assert_eq!(anonymous.destination, SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT));
}

#[test]
fn rfc2131_4_1_a_relay_gets_the_answer() {
    let relay = Ipv4Addr::new(203, 0, 113, 9);
    for (options, kind, flags) in [
        ("35 01 01 ff", Kind::Offer, 0),
        ("35 01 03 32 04 c0000202 ff", Kind::Ack, 0),
        ("35 01 03 32 04 c6336401 ff", Kind::Nak(FOREIGN), FLAG_BROADCAST),
        ("ff", Kind::Bootp, 0),
    ] {
        let mut asked = request(options);
        asked[24..28].copy_from_slice(&relay.octets());
        let reply = answer(&network(), &asked).expect("an answer");
        assert_eq!(reply.kind, kind);
        assert_eq!(reply.destination, SocketAddrV4::new(relay, SERVER_PORT), "{kind:?}");
        assert_eq!(reply.message[24..28], relay.octets(), "{kind:?}");
        assert_eq!(reply.message[10], flags, "{kind:?}");
    }
}

#[test]
fn rfc3046_2_1_what_the_relay_noted_comes_back_last() {
    for asked in ["35 01 01 52 04 01020304 ff", "35 01 01 37 02 5203 52 04 01020304 ff"] {
        let options = options(&network(), asked);
        let places: Vec<_> = options.iter().filter(|option| option.0 == 82).collect();
        assert_eq!(places, [&(82, hex("01020304"))], "once");
        assert_eq!(options.last().map(|option| option.0), Some(82));
    }
    let long = format!("35 01 01 52 99 {} ff", "07".repeat(0x99));
    assert_eq!(
        options(&with_search(full_network(), &["abc.example"; 6]), &long).last().map(|o| o.0),
        Some(82)
    );
}

#[test]
fn rfc6842_the_client_id_comes_back() {
    for options in
        ["35 01 01", "35 01 03", "35 01 01 50 00", "35 01 08", "35 01 03 32 04 c6336401", ""]
    {
        let asked = format!("{options} 3d 07 01525400123456 ff");
        let found = self::options(&network(), &asked);
        assert!(found.contains(&(61, hex("01525400123456"))), "{options}");
        let without = codes(&network(), &format!("{options} ff"));
        assert!(!without.contains(&61), "{options}");
    }
}

#[test]
fn a_declined_address_is_reported_to_the_operator() {
    let declined = |options: &str| answer(&network(), &request(options)).map(|reply| reply.kind);
    let ours = Err(Ignored::Declined(GUEST_V4.into()));
    assert_eq!(declined("35 01 04 32 04 c0000202 36 04 c0000201 ff"), ours);
    assert_eq!(declined("35 01 04 ff"), ours);
    assert_eq!(declined("35 01 04 32 04 c0000202 36 04 c6336402 ff"), Err(Ignored::NotForUs));
}

/// `net` with options that the operator has set, and with what a client boots from.
fn with_extra(mut net: Network, options: &[(u16, &[u8])], boot: Option<Boot>) -> Network {
    let option = |&(code, value): &(u16, &[u8])| ExtraOption { code, value: value.to_vec() };
    net.extra.dhcp = options.iter().map(option).collect();
    net.extra.boot = boot;
    net
}

/// Where the network may change, a client asks again soon, and turns to any server soon after that.
#[test]
fn rfc2131_4_4_5_a_client_renews_and_rebinds_in_time() {
    let mut net = network();
    net.services.renew = true;
    let seconds = |net: &Network, code| {
        option(net, code).map(|value| u32::from_be_bytes(value.try_into().expect("four bytes")))
    };
    let times = |net: &Network| [51, 58, 59].map(|code| seconds(net, code));
    assert_eq!(times(&net), [Some(24 * 3600), Some(60), Some(105)]);
    assert_eq!(
        codes(&net, "35 01 08 ff").iter().filter(|code| [51, 58, 59].contains(code)).count(),
        0
    );
    let with = |options: &[(u16, &[u8])]| with_extra(net.clone(), options, None);
    assert_eq!(times(&with(&[(58, &[0, 0, 14, 16])])), [Some(24 * 3600), Some(3600), Some(6300)]);
    assert_eq!(times(&with(&[(59, &[0, 0, 0, 80])])), [Some(24 * 3600), Some(60), Some(80)]);
    // What is no time between the others is not said: clients have shares of their own.
    assert_eq!(times(&with(&[(51, &[0, 0, 0, 105])])), [Some(105), Some(60), None]);
    assert_eq!(times(&with(&[(58, &[0xff; 4])])), [Some(24 * 3600), Some(u32::MAX), None]);
    assert_eq!(option(&with(&[(58, &[1])]), 59), None);
}

#[test]
fn options_of_the_operator_stand_in_place_of_the_usual_ones() {
    let extra: [(u16, &[u8]); 3] =
        [(26, &[5, 0x78]), (42, &[192, 0, 2, 9]), (252, b"http://192.0.2.9/w")];
    let net = with_extra(network(), &extra, None);
    assert_eq!(codes(&net, "35 01 01 ff"), [1, 3, 6, 26, 42, 51, 53, 54, 252]);
    assert_eq!(codes(&net, "35 01 01 37 03 fc352a ff"), [252, 53, 42, 1, 3, 6, 26, 51, 54]);
    assert_eq!(option(&net, 26), Some(vec![5, 0x78]));
    assert_eq!(option(&net, 42), Some(vec![192, 0, 2, 9]));
}

#[test]
fn rfc3442_who_gets_routes_keeps_its_default_route() {
    let (route, default) = (hex("18 c63364 c0000209"), hex("00 c0000209"));
    let mut net = with_extra(network(), &[(121, &route)], None);
    assert_eq!(option(&net, 121), Some([&route[..], &hex("00 c0000201")].concat()));
    v4(&mut net).gateway = Some(Ipv4Addr::new(203, 0, 113, 1));
    let on_link = hex("20 cb007101 00000000");
    assert_eq!(option(&net, 121), Some([&on_link[..], &route, &hex("00 cb007101")].concat()));
    let mut net = with_extra(network(), &[(121, &[&route[..], &default].concat())], None);
    assert_eq!(option(&net, 121), Some([&route[..], &default].concat()));
    v4(&mut net).gateway = Some(Ipv4Addr::new(203, 0, 113, 1));
    assert_eq!(option(&net, 121), Some([&on_link[..], &route, &default].concat()));
}

#[test]
fn rfc3442_without_a_default_route_there_is_no_router_but_what_is_reached() {
    let mut net = network();
    let gateway = Ipv4Addr::new(169, 254, 2, 2);
    v4(&mut net).gateway = Some(gateway);
    let routes = [(Ipv4Addr::new(198, 51, 100, 0), 22, Ipv4Addr::new(192, 0, 2, 9))];
    let routes = routes.into_iter().chain([(Ipv4Addr::new(10, 0, 0, 0), 8, gateway)]);
    let routes = routes.map(|(destination, prefix_len, gateway)| Ipv4Route {
        destination,
        prefix_len,
        gateway,
    });
    v4(&mut net).routes = Some(routes.collect());
    let on_link = hex("20 a9fe0202 00000000");
    let expected = [&on_link[..], &hex("16 c63364 c0000209 08 0a a9fe0202")].concat();
    assert_eq!(option(&net, 121), Some(expected));
    assert_eq!(option(&net, 3), None);
    assert_eq!(option(&net, 6), Some(DNS_V4.octets().to_vec()));
    let set = hex("18 c63364 c0000209");
    let mut net = with_extra(net, &[(121, &set)], None);
    assert_eq!(option(&net, 121), Some([&on_link[..], &set].concat()), "the operator's instead");
    v4(&mut net).routes = Some(Vec::new());
    assert_eq!(option(&net, 121), Some([&on_link[..], &set].concat()));
}

#[test]
fn rfc2132_9_4_a_client_learns_what_to_boot_and_from_where() {
    let server = Ipv4Addr::new(192, 0, 2, 9);
    let boot = Boot { file: "boot/efi.0".to_owned(), server: Some(server) };
    let net = with_extra(network(), &[], Some(boot));
    for asked in ["35 01 01 ff", "35 01 03 ff", "ff"] {
        let reply = reply(&net, asked);
        assert_eq!(reply.message[20..24], server.octets(), "{asked}");
        assert_eq!(&reply.message[108..119], b"boot/efi.0\0", "{asked}");
        let options = options(&net, asked);
        assert!(options.contains(&(66, b"192.0.2.9".to_vec())), "{asked}");
        assert!(options.contains(&(67, b"boot/efi.0".to_vec())), "{asked}");
        assert!(options.contains(&(150, server.octets().to_vec())), "{asked}");
    }
    let nak = reply(&net, "35 01 03 32 04 c6336401 ff");
    assert_eq!(nak.message[20..24], [0; 4]);
    assert_eq!(codes_of(&nak), [53, 54, 56]);
}

#[test]
fn a_url_to_boot_from_needs_no_server_and_http_clients_hear_their_name() {
    let url = format!("http://192.0.2.9/{}.efi", "x".repeat(200));
    let net = with_extra(network(), &[], Some(Boot { file: url.clone(), server: None }));
    let http = "35 01 01 3c 16 48545450436c69656e743a417263683a3030303136 ff";
    let offer = reply(&net, http);
    assert_eq!(offer.message[20..24], [0; 4]);
    assert_eq!(offer.message[108..236], [0; 128], "too long for the field");
    let found = options(&net, http);
    assert!(found.contains(&(60, b"HTTPClient".to_vec())));
    assert!(found.contains(&(67, url.into_bytes())));
    let pxe = options(&net, "35 01 01 3c 09 505845436c69656e74 ff");
    assert!(!pxe.iter().any(|option| [60, 66, 150].contains(&option.0)));
    assert!(!codes(&network(), http).contains(&60), "only with something to boot");
}

#[test]
fn rfc2131_4_1_the_broadcast_flag_is_honoured() {
    let reply = answer(&network(), &request_with_flags(0x80, &hex("35 01 01 ff")));
    let reply = reply.expect("an answer");
    assert_eq!(reply.destination, SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT));
    assert_eq!(reply.message[10..12], [0x80, 0]);
}

#[test]
fn the_cookie_is_echoed_whatever_it_is() {
    let mut bytes = request("35 01 01 ff");
    bytes[236..240].fill(7);
    let reply = answer(&network(), &bytes).expect("an answer");
    assert_eq!(reply.message[236..240], [7; 4]);
}

#[test]
fn only_requests_are_answered() {
    for op in [0, 2, 255] {
        let mut bytes = request("35 01 01 ff");
        bytes[0] = op;
        assert_eq!(answer(&network(), &bytes), Err(Ignored::Unsupported));
    }
}

#[test]
fn service_family_or_gateway_off_means_no_answer() {
    let mut off = network();
    off.services.dhcp = false;
    let mut no_v4 = network();
    no_v4.v4 = None;
    let mut no_gateway = network();
    v4(&mut no_gateway).gateway = None;
    for net in [off, no_v4, no_gateway] {
        assert_eq!(answer(&net, &request("35 01 01 ff")), Err(Ignored::Disabled));
    }
}

#[test]
fn without_option_55_options_come_in_ascending_order() {
    let mut net = with_search(network(), &["a.b"]);
    net.hostname = Some("guest".to_owned());
    net.fqdn = Some("guest.example".to_owned());
    v4(&mut net).gateway = Some(Ipv4Addr::new(203, 0, 113, 1));
    let all = [1, 3, 6, 12, 26, 51, 53, 54, 80, 81, 119, 121];
    assert_eq!(codes(&net, "35 01 01 50 00 ff"), all);
}

#[test]
fn option_55_without_53_puts_53_first_then_its_own_order() {
    let codes = codes(&network(), "35 01 01 37 04 33 03 63 01 ff");
    assert_eq!(codes, [53, 51, 3, 1, 6, 26, 54]);
}

#[test]
fn an_empty_option_55_puts_53_first() {
    assert_eq!(codes(&network(), "37 00 35 01 01 ff"), [53, 1, 3, 6, 26, 51, 54]);
}

#[test]
fn option_55_with_53_is_followed_as_it_is() {
    let codes = codes(&network(), "35 01 01 37 02 36 35 ff");
    assert_eq!(codes, [54, 53, 1, 3, 6, 26, 51]);
}

#[test]
fn a_code_listed_twice_is_sent_twice() {
    let codes = codes(&network(), "35 01 01 37 03 03 35 03 ff");
    assert_eq!(codes, [3, 53, 3, 1, 6, 26, 51, 54]);
}

#[test]
fn option_1_is_the_mask_of_the_prefix() {
    let masks = [(1, [128, 0, 0, 0]), (9, [255, 128, 0, 0]), (24, [255, 255, 255, 0])];
    for (prefix_len, mask) in masks.into_iter().chain([(32, [255; 4]), (0, [0; 4])]) {
        let mut net = network();
        v4(&mut net).prefix_len = prefix_len;
        assert_eq!(option(&net, 1), Some(mask.to_vec()), "/{prefix_len}");
    }
}

#[test]
fn option_6_lists_every_server_if_handed_out() {
    let mut net = network();
    v4(&mut net).dns.push(GATEWAY_V4);
    assert_eq!(option(&net, 6), Some(hex("c6336435 c0000201")));
    net.services.hand_out_dns = false;
    assert_eq!(option(&net, 6), None);
    net.services.hand_out_dns = true;
    v4(&mut net).dns.clear();
    assert_eq!(option(&net, 6), None);
}

#[test]
fn option_12_is_the_host_name() {
    let mut net = network();
    assert_eq!(option(&net, 12), None);
    net.hostname = Some("guest".to_owned());
    assert_eq!(option(&net, 12), Some(b"guest".to_vec()));
}

#[test]
fn option_26_is_the_mtu_unless_zero() {
    let mut net = network();
    assert_eq!(option(&net, 26), Some(vec![0xff, 0xf0]));
    net.mtu = 0;
    assert_eq!(option(&net, 26), None);
}

#[test]
fn option_51_never_ends_and_54_is_our_address() {
    assert_eq!(option(&network(), 51), Some(vec![0xff; 4]));
    assert_eq!(option(&network(), 54), Some(GATEWAY_V4.octets().to_vec()));
}

#[test]
fn rfc4702_option_81_is_the_fqdn_in_label_form() {
    let mut net = network();
    assert_eq!(option(&net, 81), None);
    net.fqdn = Some("fqdn1.passt.test".to_owned());
    let value = b"\x04\xff\xff\x05fqdn1\x05passt\x04test\0".to_vec();
    assert_eq!(option(&net, 81), Some(value));
}

#[test]
fn an_fqdn_too_long_for_option_81_is_left_out() {
    assert_eq!(option(&full_network(), 81), None);
}

#[test]
fn rfc3397_option_119_is_compressed() {
    let net = with_search(network(), &["eng.apple.com", "marketing.apple.com"]);
    let value = b"\x03eng\x05apple\x03com\0\x09marketing\xc0\x04".to_vec();
    assert_eq!(option(&net, 119), Some(value));
}

#[test]
fn option_119_is_sent_only_if_handed_out_and_not_empty() {
    assert_eq!(option(&network(), 119), None);
    let mut net = with_search(network(), &["a.b"]);
    net.services.hand_out_search = false;
    assert_eq!(option(&net, 119), None);
}

#[test]
fn a_search_entry_with_blanks_is_several_domains() {
    let joined = with_search(network(), &["a.b c"]);
    let split = with_search(network(), &["a.b", "c"]);
    assert_eq!(option(&joined, 119), option(&split, 119));
}

#[test]
fn search_entries_that_do_not_fit_are_left_out() {
    let long = "x".repeat(60);
    let four = format!("{long}.{long}.{long}.{long}");
    let net = with_search(network(), &[&four, "too.long.to.fit", "a.b"]);
    let value = option(&net, 119).expect("a search list");
    assert_eq!(value.len(), 4 * 61 + 1 + 5);
    assert_eq!(value[245..], *b"\x01a\x01b\0");
}

#[test]
fn rfc3442_option_121_only_if_the_gateway_is_outside_the_subnet() {
    let mut net = network();
    assert_eq!(option(&net, 121), None);
    v4(&mut net).gateway = Some(Ipv4Addr::new(203, 0, 113, 1));
    assert_eq!(option(&net, 121), Some(hex("20 cb007101 00000000 00 cb007101")));
    v4(&mut net).gateway = Some(GATEWAY_V4);
    v4(&mut net).prefix_len = 32;
    assert_eq!(option(&net, 121), Some(hex("20 c0000201 00000000 00 c0000201")));
}

#[test]
fn options_take_at_most_307_bytes_and_an_end() {
    let asked = [&[53, 1, 1, 55, 255], &[119; 250][..], &[6, 6, 12, 81, 1], &[255]].concat();
    let mut net = with_search(full_network(), &["abc.example"; 6]);
    let reply = answer(&net, &request_with_flags(0, &asked)).expect("an answer");
    assert!((MAX_REPLY - 8..=MAX_REPLY).contains(&reply.message.len()), "full");
    net.search.clear();
    let reply = answer(&net, &request_with_flags(0, &asked)).expect("an answer");
    let last = dhcp_options::parse(&reply.message[FIXED_LEN..]).last();
    assert!(last.is_some_and(|option| option.is_ok()));
}

#[test]
fn what_an_answer_owes_fits_whatever_the_client_lists() {
    let mut net = full_network();
    net.hostname = Some("h".repeat(255));
    for listed in [54, 53, 51, 1, 6, 12, 61, 81] {
        let asked = [&[53, 1, 1, 55, 255][..], &[listed; 255], &[255]].concat();
        let reply = answer(&net, &request_with_flags(0, &asked)).expect("an answer");
        let options: Vec<_> = dhcp_options::parse(&reply.message[FIXED_LEN..]).flatten().collect();
        for owed in [51, 53, 54] {
            assert!(options.iter().any(|(code, _)| *code == owed), "{owed} beside {listed}");
        }
    }
}

#[test]
fn an_option_that_does_not_fit_is_skipped_and_smaller_ones_follow() {
    let mut net = full_network();
    net.hostname = Some("h".repeat(255));
    net.fqdn = None;
    net.search.clear();
    let codes = codes(&net, "35 01 01 37 02 35 0c ff");
    assert_eq!(codes, [53, 12, 1, 3, 6, 26, 51, 54]);
    net.hostname = Some("h".repeat(256));
    assert!(!self::codes(&net, "35 01 01 37 02 35 0c ff").contains(&12));
}

#[test]
fn rfc951_the_shortest_answer_has_a_full_vendor_area() {
    let mut net = network();
    net.mtu = 0;
    assert_eq!(reply(&net, "35 01 01 ff").message.len(), 300);
}

#[test]
fn pads_are_skipped_and_a_missing_end_is_forgiven() {
    assert_eq!(reply(&network(), "00 00 35 01 03 00").kind, Kind::Ack);
    assert_eq!(reply(&network(), "00 00 35 01 03").kind, Kind::Ack);
    assert_eq!(reply(&network(), "").kind, Kind::Bootp);
}

#[test]
fn what_follows_the_end_option_is_ignored() {
    assert_eq!(reply(&network(), "35 01 01 ff 35 01 03 77").kind, Kind::Offer);
}

#[test]
fn truncated_options_are_malformed() {
    for options in ["35", "35 01", "35 01 01 37", "35 01 01 37 05 01 02", "35 00 ff", "35 02 0101"]
    {
        assert_eq!(answer(&network(), &request(options)), Err(Ignored::Malformed), "{options}");
    }
}

#[test]
fn a_cut_anywhere_in_the_options_is_malformed_unless_between_two() {
    let bytes = request("35 01 01 3d 03 010203 50 00 37 02 0103 ff");
    let between = [0, 3, 8, 10, 14];
    for len in 0..bytes.len() - FIXED_LEN {
        let reply = answer(&network(), &bytes[..FIXED_LEN + len]);
        assert_eq!(reply.is_ok(), between.contains(&len), "{len} bytes");
        assert!(reply.is_ok() || reply == Err(Ignored::Malformed));
    }
}

#[test]
fn a_truncated_fixed_part_is_malformed() {
    let bytes = request("35 01 01 ff");
    for len in 0..FIXED_LEN {
        assert_eq!(answer(&network(), &bytes[..len]), Err(Ignored::Malformed));
    }
}

#[test]
fn smoltcp_reads_the_answer() {
    let reply = reply(&network(), "35 01 03 ff");
    let packet = DhcpPacket::new_checked(&reply.message[..]).expect("whole");
    let repr = DhcpRepr::parse(&packet).expect("valid");
    assert_eq!(repr.message_type, DhcpMessageType::Ack);
    assert_eq!(repr.transaction_id, 0xa1b2_c3d4);
    assert_eq!(repr.client_hardware_address, EthernetAddress(GUEST_MAC.0));
    assert_eq!(repr.your_ip, GUEST_V4);
    assert_eq!(repr.server_ip, Ipv4Addr::UNSPECIFIED);
    assert_eq!(repr.router, Some(GATEWAY_V4));
    assert_eq!(repr.subnet_mask, Some(Ipv4Addr::new(255, 255, 255, 0)));
    assert_eq!(repr.server_identifier, Some(GATEWAY_V4));
    assert_eq!(repr.lease_duration, Some(u32::MAX));
    assert_eq!(repr.dns_servers.expect("servers")[..], [DNS_V4]);
}

proptest! {
    #[test]
    fn damaged_requests_never_panic(
        bytes in damaged(request("35 01 01 37 06 01 03 06 0c 77 79 50 00 32 04 c0000202 3d 02 0102 52 02 0102 ff")),
        noise in noise(),
    ) {
        for net in [network(), full_network()] {
            let _ = answer(&net, &bytes);
            let _ = answer(&net, &noise);
        }
    }

    #[test]
    fn any_option_list_gets_whole_options_or_none(
        options in prop::collection::vec(any::<u8>(), 0..600),
        listed in prop::collection::vec(any::<u8>(), 0..=255),
    ) {
        let mut asked = vec![CODE_PARAMETERS, u8::try_from(listed.len()).expect("at most 255")];
        asked.extend(listed);
        asked.extend(options);
        for net in [network(), with_search(full_network(), &["a.b", "c.b"])] {
            let Ok(reply) = answer(&net, &request_with_flags(0, &asked)) else {
                continue;
            };
            let options = &reply.message[FIXED_LEN..];
            prop_assert!((60..=308).contains(&options.len()));
            prop_assert!(dhcp_options::parse(options).all(|option| option.is_ok()));
        }
    }
}
