//! DHCPv6 answers byte for byte, and who gets none.

use proptest::prelude::*;

use super::*;
use crate::flow::network::ExtraOption;
use crate::responder::testing::*;

/// All DHCP relay agents and servers.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// An address that is not handed out.
const OTHER: &str = "20010db8000000020000000000000009";
/// The address that is.
const OURS: &str = "20010db8000000010000000000000022";

/// Options of a client and of answers, in hex.
const CLIENT_ID: &str = "0001 000a 00030001525400123456";
const SERVER_ID: &str = "0002 000a 00030001 9a559a559a55";
const IA_NA: &str = "0003 000c 0a0b0c0d 00000e10 00001518";
const OUR_IA_NA: &str = "0003 0028 0a0b0c0d ffffffff ffffffff
    0005 0018 20010db8000000010000000000000022 ffffffff ffffffff";
const DNS: &str = "0017 0010 20010db8000000350000000000000001";

/// Every message type that a client sends and that can be answered.
const ANSWERED: [u8; 8] =
    [SOLICIT, REQUEST, CONFIRM, RENEW, REBIND, RELEASE, DECLINE, INFORMATION_REQUEST];

/// Our identifier.
fn duid() -> Duid {
    Duid::new(Mac::OURS)
}

/// A message of the given type with the given options.
fn message(message_type: u8, options: &[&str]) -> Vec<u8> {
    let mut bytes = vec![message_type, 0xa1, 0xb2, 0xc3];
    bytes.extend(hex(&options.concat()));
    bytes
}

/// The answer to `message` from the guest's link-local address to all servers.
fn ask(net: &Network, message: &[u8]) -> Result<Reply, Ignored> {
    answer(net, &duid(), GUEST_LINK_LOCAL, SERVERS, message)
}

/// The answer to a message of the given type with the given options.
fn reply(net: &Network, message_type: u8, options: &[&str]) -> Reply {
    ask(net, &message(message_type, options)).expect("an answer")
}

/// The bytes of an answer to a REQUEST with an FQDN option if one is given.
fn requested(net: &Network, fqdn: &str) -> Vec<u8> {
    let options = [CLIENT_ID, SERVER_ID, IA_NA, fqdn];
    reply(net, REQUEST, &options).message.to_vec()
}

/// An answer of the given type with the given options.
fn expected(reply_type: &str, options: &[&str]) -> Vec<u8> {
    hex(&[reply_type, "a1b2c3", &options.concat()].concat())
}

/// An IA_NA or IA_TA with the given addresses.
fn association(code: u16, header: &str, addrs: &[&str]) -> String {
    let addrs: String =
        addrs.iter().map(|addr| format!("0005 0018 {addr} 00000e10 00001c20")).collect();
    let len = hex(header).len() + hex(&addrs).len();
    format!("{code:04x} {len:04x} {header} {addrs}")
}

/// An IA_NA with the given addresses.
fn ia_na(addrs: &[&str]) -> String {
    association(OPTION_IA_NA, "0a0b0c0d 00000e10 00001518", addrs)
}

/// A status option.
fn status(status: Status) -> String {
    let text: String = status.text.bytes().map(|b| format!("{b:02x}")).collect();
    format!("000d {:04x} {:04x} {text}", 2 + status.text.len(), status.code)
}

/// The answer to an association that gets nothing but a status.
fn refusal(code: u16, iaid: &str, why: Status) -> String {
    let header = if code == OPTION_IA_TA { iaid.to_owned() } else { format!("{iaid} {:016x}", 0) };
    let value = format!("{header} {}", status(why));
    format!("{code:04x} {:04x} {value}", hex(&value).len())
}

/// An address whose lifetimes are over.
fn ended(addr: &str) -> String {
    format!("0005 0018 {addr} 00000000 00000000")
}

#[test]
fn rfc8415_11_4_the_server_identifier_follows_from_the_link_layer_address() {
    assert_eq!(duid().0.to_vec(), hex("0003 0001 9a559a559a55"));
}

#[test]
fn rfc8415_18_3_1_solicit_gets_an_advertise() {
    let reply = reply(&network(), SOLICIT, &[CLIENT_ID, IA_NA]);
    let expected = expected("02", &[SERVER_ID, OUR_IA_NA, CLIENT_ID, DNS]);
    assert_eq!(reply.message.to_vec(), expected);
    assert_eq!(reply.destination, GUEST_LINK_LOCAL);
    assert_eq!(reply.assigned, Some(GUEST_V6));
    assert_eq!(reply.kind.to_string(), "DHCPv6: received SOLICIT, sending ADVERTISE");
}

#[test]
fn rapid_commit_is_not_used() {
    let plain = reply(&network(), SOLICIT, &[CLIENT_ID, IA_NA]);
    let rapid = reply(&network(), SOLICIT, &[CLIENT_ID, IA_NA, "000e 0000"]);
    assert_eq!(rapid, plain);
}

#[test]
fn request_renew_and_rebind_get_the_address() {
    let held = ia_na(&[OURS]);
    let reply_line = "DHCPv6: received REQUEST/RENEW/CONFIRM, sending REPLY";
    let rebind_line = "DHCPv6: received REBIND, sending REPLY";
    let cases = [
        (REQUEST, SERVER_ID, reply_line),
        (RENEW, SERVER_ID, reply_line),
        (REBIND, SERVER_ID, rebind_line),
        (REBIND, "", rebind_line),
    ];
    for (message_type, server_id, line) in cases {
        let reply = reply(&network(), message_type, &[CLIENT_ID, server_id, &held]);
        let expected = expected("07", &[SERVER_ID, OUR_IA_NA, CLIENT_ID, DNS]);
        assert_eq!(reply.message.to_vec(), expected, "{line}");
        assert_eq!(reply.assigned, Some(GUEST_V6));
        assert_eq!(reply.kind.to_string(), line);
    }
}

/// Where the network may change. Whoever has another server's address asks us when it rebinds.
#[test]
fn rfc8415_14_2_a_client_renews_and_rebinds_in_time() {
    let mut net = network();
    net.services.renew = true;
    let timed = OUR_IA_NA.replacen("ffffffff ffffffff", "0000003c 00000069", 1);
    for (message_type, server_id) in [(REQUEST, SERVER_ID), (RENEW, SERVER_ID), (REBIND, "")] {
        let reply = reply(&net, message_type, &[CLIENT_ID, server_id, IA_NA]);
        assert_eq!(reply.message.to_vec(), expected("07", &[SERVER_ID, &timed, CLIENT_ID, DNS]));
    }
}

#[test]
fn rfc8415_18_3_5_rebind_without_server_identifier_is_answered() {
    let reply = reply(&network(), REBIND, &[CLIENT_ID, IA_NA]);
    let expected = expected("07", &[SERVER_ID, OUR_IA_NA, CLIENT_ID, DNS]);
    assert_eq!(reply.message.to_vec(), expected);
    assert_eq!(reply.kind, Kind::Rebind);
}

#[test]
fn rfc8415_18_3_4_what_a_client_has_besides_ends() {
    let both = format!(
        "0003 0044 0a0b0c0d ffffffff ffffffff 0005 0018 {OURS} ffffffff ffffffff {}",
        ended(OTHER)
    );
    for (message_type, server_id) in [(RENEW, SERVER_ID), (REBIND, "")] {
        for held in [ia_na(&[OTHER]), ia_na(&[OTHER, OURS])] {
            let reply = reply(&network(), message_type, &[CLIENT_ID, server_id, &held]);
            let expected = expected("07", &[SERVER_ID, &both, CLIENT_ID, DNS]);
            assert_eq!(reply.message.to_vec(), expected, "{message_type}");
            assert_eq!(reply.assigned, Some(GUEST_V6));
        }
        let temporary = association(OPTION_IA_TA, "eeeeeeee", &[OTHER, OURS]);
        let reply = reply(&network(), message_type, &[CLIENT_ID, server_id, &temporary]);
        let gone = format!("0004 0020 eeeeeeee {}", ended(OTHER));
        assert_eq!(reply.message.to_vec(), expected("07", &[SERVER_ID, &gone, CLIENT_ID, DNS]));
    }
    let many = reply(&network(), RENEW, &[CLIENT_ID, SERVER_ID, &ia_na(&[OTHER; 40])]);
    assert!(parse_options(&many.message[4..]).all(|option| option.is_ok()));
    assert_eq!(many.assigned, Some(GUEST_V6));
}

#[test]
fn rfc8415_18_3_3_confirm_is_about_the_link_alone() {
    for (held, why, assigned) in [
        (ia_na(&[OURS]), SUCCESS, Some(GUEST_V6)),
        (ia_na(&[OTHER]), NOT_ON_LINK, None),
        (ia_na(&[OURS, OTHER]), NOT_ON_LINK, None),
        (association(OPTION_IA_TA, "eeeeeeee", &[OTHER]), NOT_ON_LINK, None),
    ] {
        let reply = reply(&network(), CONFIRM, &[CLIENT_ID, &held]);
        let expected = expected("07", &[SERVER_ID, &status(why), CLIENT_ID]);
        assert_eq!(reply.message.to_vec(), expected, "{held}");
        assert_eq!(reply.assigned, assigned, "{held}");
    }
    for nothing in [IA_NA, ""] {
        let asked = message(CONFIRM, &[CLIENT_ID, nothing]);
        assert_eq!(ask(&network(), &asked), Err(Ignored::NotForUs), "no address to confirm");
    }
}

#[test]
fn rfc8415_18_3_7_release_and_decline_are_answered() {
    let prefix = association(OPTION_IA_PD, "0a0b0c0d 00000000 00000000", &[]);
    for (message_type, kind, line) in [
        (RELEASE, Kind::Release, "DHCPv6: received RELEASE, sending REPLY"),
        (DECLINE, Kind::Decline, "DHCPv6: received DECLINE, sending REPLY"),
    ] {
        let plain = reply(&network(), message_type, &[CLIENT_ID, SERVER_ID, &ia_na(&[OURS])]);
        let success = status(SUCCESS);
        assert_eq!(plain.message.to_vec(), expected("07", &[SERVER_ID, &success, CLIENT_ID]));
        assert_eq!((plain.kind, plain.assigned), (kind, None));
        assert_eq!(plain.kind.to_string(), line);

        let (foreign, temporary) =
            (ia_na(&[OTHER]), association(OPTION_IA_TA, "01020304", &[OTHER]));
        let options = [CLIENT_ID, SERVER_ID, &foreign, &temporary, &prefix];
        let reply = reply(&network(), message_type, &options);
        let unknown = [
            refusal(OPTION_IA_NA, "0a0b0c0d", NO_BINDING),
            refusal(OPTION_IA_TA, "01020304", NO_BINDING),
            refusal(OPTION_IA_PD, "0a0b0c0d", NO_BINDING),
        ];
        let expected = expected("07", &[SERVER_ID, &success, &unknown.concat(), CLIENT_ID]);
        assert_eq!(reply.message.to_vec(), expected);
    }
}

#[test]
fn rfc8415_18_3_6_information_request_gets_no_address() {
    for server_id in ["", SERVER_ID] {
        let reply = reply(&network(), INFORMATION_REQUEST, &[CLIENT_ID, server_id]);
        let expected = expected("07", &[SERVER_ID, CLIENT_ID, DNS]);
        assert_eq!(reply.message.to_vec(), expected);
        assert_eq!(reply.assigned, None);
        let line = "DHCPv6: received INFORMATION_REQUEST, sending REPLY";
        assert_eq!(reply.kind.to_string(), line);
    }
}

#[test]
fn rfc8415_18_2_6_who_wants_information_alone_need_not_say_who_it_is() {
    let anonymous = ask(&network(), &message(INFORMATION_REQUEST, &[])).expect("an answer").message;
    let named = reply(&network(), INFORMATION_REQUEST, &[CLIENT_ID]).message;
    let (named, id) = (named.to_vec(), hex(CLIENT_ID));
    let at = named.windows(id.len()).position(|part| part == id).expect("the identifier");
    assert_eq!(anonymous.to_vec(), [&named[..at], &named[at + id.len()..]].concat());
    // Everybody else must, and an identifier is not empty.
    let empty = message(INFORMATION_REQUEST, &["00010000"]);
    for message in [message(SOLICIT, &[IA_NA]), empty] {
        assert_eq!(ask(&network(), &message), Err(Ignored::Malformed));
    }
}

#[test]
fn rfc8415_16_12_information_request_with_an_association_is_malformed() {
    let associations = [
        IA_NA.to_owned(),
        association(OPTION_IA_TA, "0a0b0c0d", &[]),
        association(OPTION_IA_PD, "0a0b0c0d 00000000 00000000", &[]),
    ];
    for association in associations {
        let message = message(INFORMATION_REQUEST, &[CLIENT_ID, &association]);
        assert_eq!(ask(&network(), &message), Err(Ignored::Malformed));
    }
}

#[test]
fn a_server_identifier_where_none_belongs_or_none_where_it_does_gets_no_answer() {
    for (message_type, server_id) in [
        (SOLICIT, SERVER_ID),
        (CONFIRM, SERVER_ID),
        (REQUEST, ""),
        (RENEW, ""),
        (RELEASE, ""),
        (DECLINE, ""),
    ] {
        let message = message(message_type, &[CLIENT_ID, IA_NA, server_id]);
        assert_eq!(ask(&network(), &message), Err(Ignored::NotForUs), "{message_type}");
    }
}

#[test]
fn another_servers_identifier_gets_no_answer() {
    let ids = [
        "0002 000a 00030001 9a559a559a54",
        "0002 0009 00030001 9a559a559a",
        "0002 000b 00030001 9a559a559a55 00",
        "0002 000e 0001000112345678 9a559a559a55",
        "0002 0000",
    ];
    for id in ids {
        for message_type in ANSWERED {
            let message = message(message_type, &[CLIENT_ID, id]);
            assert_eq!(ask(&network(), &message), Err(Ignored::NotForUs), "{message_type}");
        }
    }
}

#[test]
fn messages_of_servers_and_relays_get_no_answer() {
    for message_type in [0, 2, 7, 10, 12, 13, 255] {
        let message = message(message_type, &[CLIENT_ID, SERVER_ID, IA_NA]);
        assert_eq!(ask(&network(), &message), Err(Ignored::Unsupported), "{message_type}");
    }
}

#[test]
fn rfc8415_18_3_2_another_address_is_not_on_link() {
    let reply = reply(&network(), REQUEST, &[CLIENT_ID, SERVER_ID, &ia_na(&[OTHER])]);
    let refusal = refusal(OPTION_IA_NA, "0a0b0c0d", NOT_ON_LINK);
    let expected = expected("07", &[SERVER_ID, &refusal, CLIENT_ID, DNS]);
    assert_eq!(reply.message.to_vec(), expected);
    assert_eq!(reply.assigned, None);
    let line = "DHCPv6: requested address 2001:db8:0:2::9 not on link";
    assert_eq!(reply.kind.to_string(), line);
}

#[test]
fn every_address_of_every_association_is_checked() {
    let (good, bad) = (ia_na(&[OURS]), ia_na(&[OURS, OURS, OTHER]));
    let bad_ta = association(OPTION_IA_TA, "01020304", &[OTHER]);
    let no = refusal(OPTION_IA_NA, "0a0b0c0d", NOT_ON_LINK);
    let no_ta = refusal(OPTION_IA_TA, "01020304", NOT_ON_LINK);
    let ours = OUR_IA_NA.to_owned();
    let cases = [
        ([&good, &bad], [&ours, &no]),
        ([&bad, &good], [&no, &refusal(OPTION_IA_NA, "0a0b0c0d", NO_ADDRS_AVAIL)]),
        ([&good, &bad_ta], [&ours, &no_ta]),
        ([&bad_ta, &bad], [&no_ta, &no]),
    ];
    for ([first, second], [one, other]) in cases {
        let reply = reply(&network(), REQUEST, &[CLIENT_ID, SERVER_ID, first, second]);
        let expected = expected("07", &[SERVER_ID, one, other, CLIENT_ID, DNS]);
        assert_eq!(reply.message.to_vec(), expected);
    }
}

#[test]
fn solicit_with_another_address_gets_ours() {
    let reply = reply(&network(), SOLICIT, &[CLIENT_ID, &ia_na(&[OTHER])]);
    assert_eq!(reply.kind, Kind::Advertise);
    assert_eq!(reply.assigned, Some(GUEST_V6));
}

#[test]
fn rfc8415_18_3_every_association_gets_an_answer_of_its_own() {
    let second = association(OPTION_IA_NA, "ffffffff 00000000 00000000", &[]);
    let temporary = association(OPTION_IA_TA, "eeeeeeee", &[]);
    let prefix = association(OPTION_IA_PD, "dddddddd 00000000 00000000", &[]);
    let cases = [
        (SOLICIT, "", "02"),
        (REQUEST, SERVER_ID, "07"),
        (RENEW, SERVER_ID, "07"),
        (REBIND, "", "07"),
    ];
    for (message_type, server_id, reply_type) in cases {
        let options = [CLIENT_ID, server_id, &temporary, IA_NA, &prefix, &second];
        let reply = reply(&network(), message_type, &options);
        let expected = expected(
            reply_type,
            &[
                SERVER_ID,
                &refusal(OPTION_IA_TA, "eeeeeeee", NO_ADDRS_AVAIL),
                OUR_IA_NA,
                &refusal(OPTION_IA_PD, "dddddddd", NO_PREFIX_AVAIL),
                &refusal(OPTION_IA_NA, "ffffffff", NO_ADDRS_AVAIL),
                CLIENT_ID,
                DNS,
            ],
        );
        assert_eq!(reply.message.to_vec(), expected, "{message_type}");
        assert_eq!(reply.assigned, Some(GUEST_V6));
    }
}

#[test]
fn the_association_that_holds_the_address_keeps_it() {
    let first = association(OPTION_IA_NA, "ffffffff 00000000 00000000", &[]);
    let reply = reply(&network(), RENEW, &[CLIENT_ID, SERVER_ID, &first, &ia_na(&[OURS])]);
    let none = refusal(OPTION_IA_NA, "ffffffff", NO_ADDRS_AVAIL);
    let expected = expected("07", &[SERVER_ID, &none, OUR_IA_NA, CLIENT_ID, DNS]);
    assert_eq!(reply.message.to_vec(), expected);
}

#[test]
fn rfc8415_18_3_9_without_an_ia_na_no_address_is_given() {
    let temporary = association(OPTION_IA_TA, "eeeeeeee", &[]);
    let prefix = association(OPTION_IA_PD, "dddddddd 00000000 00000000", &[]);
    let none = refusal(OPTION_IA_TA, "eeeeeeee", NO_ADDRS_AVAIL);
    let no_prefix = refusal(OPTION_IA_PD, "dddddddd", NO_PREFIX_AVAIL);
    for (asked, answered) in [("", ""), (&temporary, &none), (&prefix, &no_prefix)] {
        let reply = reply(&network(), SOLICIT, &[CLIENT_ID, asked]);
        let expected = expected("02", &[SERVER_ID, answered, CLIENT_ID, DNS]);
        assert_eq!(reply.message.to_vec(), expected);
        assert_eq!(reply.assigned, None);
    }
}

#[test]
fn associations_beyond_the_most_that_are_answered_are_left_out() {
    let many: Vec<String> = (0..MAX_ASSOCIATIONS + 3)
        .map(|n| association(OPTION_IA_NA, &format!("{n:08x} 00000000 00000000"), &[OTHER; 5]))
        .collect();
    let reply = reply(&full_network(), RENEW, &[CLIENT_ID, SERVER_ID, &many.concat()]);
    let answered = parse_options(&reply.message[4..]).map(|option| option.expect("whole").0);
    assert_eq!(answered.filter(|code| *code == OPTION_IA_NA).count(), MAX_ASSOCIATIONS);
    assert_eq!(reply.assigned, Some(GUEST_V6));
}

#[test]
fn options_of_the_operator_stand_in_place_of_the_usual_ones() {
    let mut net = with_search(network(), &["a.b"]);
    let option = |code, value: &str| ExtraOption { code, value: hex(value) };
    net.extra.dhcpv6 =
        vec![option(23, OURS), option(56, "0001 0010 20010db8000000350000000000000001")];
    let extra = format!("0017 0010 {OURS} 0038 0014 0001 0010 20010db8000000350000000000000001");
    let search = "0018 0005 0161016200";
    let expected = expected("07", &[SERVER_ID, OUR_IA_NA, CLIENT_ID, search, &extra]);
    assert_eq!(requested(&net, ""), expected);
}

#[test]
fn rfc3646_section_3_dns_servers_only_if_there_are_and_handed_out() {
    let mut net = network();
    net.v6.as_mut().expect("IPv6").dns.push(GUEST_V6);
    let two = format!("0017 0020 20010db8000000350000000000000001 {OURS}");
    let with_two = expected("07", &[SERVER_ID, OUR_IA_NA, CLIENT_ID, &two]);
    assert_eq!(requested(&net, ""), with_two);

    let none = expected("07", &[SERVER_ID, OUR_IA_NA, CLIENT_ID]);
    net.services.hand_out_dns = false;
    assert_eq!(requested(&net, ""), none);
    net.services.hand_out_dns = true;
    net.v6.as_mut().expect("IPv6").dns.clear();
    assert_eq!(requested(&net, ""), none);
}

#[test]
fn rfc3646_section_4_search_list_is_not_compressed() {
    let search = "0018 000f 0161026262026363 00 0162026363 00";
    let with_list = expected("07", &[SERVER_ID, OUR_IA_NA, CLIENT_ID, DNS, search]);
    for domains in [&["a.bb.cc.", ".", "b.cc"][..], &["a.bb.cc b.cc"]] {
        let net = with_search(network(), domains);
        assert_eq!(requested(&net, ""), with_list);
    }
    let mut net = with_search(network(), &["a.b"]);
    net.services.hand_out_search = false;
    assert_eq!(requested(&net, ""), requested(&network(), ""));
}

#[test]
fn an_overlong_search_entry_is_skipped() {
    let long = "x".repeat(64);
    let net = with_search(network(), &[&long, "a.b"]);
    assert_eq!(requested(&net, ""), requested(&with_search(network(), &["a.b"]), ""));
}

#[test]
fn rfc4704_4_1_fqdn_tells_a_client_that_asked_for_updates_that_it_is_overridden() {
    let mut net = network();
    net.fqdn = Some("a.bb".to_owned());
    let cases = [
        ("", "00"),
        ("0027 0001 00", "00"),
        ("0027 0005 01 0161 00 00", "02"),
        ("0027 0001 05", "02"),
        ("0027 0001 04", "00"),
    ];
    for (asked, flags) in cases {
        let option = format!("0027 0007 {flags} 0161 026262 00");
        let expected = expected("07", &[SERVER_ID, OUR_IA_NA, CLIENT_ID, DNS, &option]);
        assert_eq!(requested(&net, asked), expected, "{asked}");
    }
}

#[test]
fn rfc4704_the_client_fqdn_is_not_echoed_without_one_of_ours() {
    assert_eq!(requested(&network(), "0027 0001 01"), requested(&network(), ""));
}

#[test]
fn the_longest_usual_answer_fits_with_what_the_operator_adds() {
    let client_id = format!("0001 0080 {}", "ab".repeat(128));
    let mut net = full_network();
    net.extra.dhcpv6 = vec![ExtraOption { code: 60, value: vec![7; MAX_EXTRA_LEN - 4] }];
    let reply = reply(&net, REQUEST, &[&client_id, SERVER_ID, IA_NA]);
    assert!(reply.message.len() > USUAL_LEN + MAX_EXTRA_LEN - 8);
    let codes: Vec<u16> =
        parse_options(&reply.message[4..]).map(|option| option.expect("whole").0).collect();
    assert_eq!(codes, [2, 3, 1, 23, 24, 39, 60]);
}

#[test]
fn a_client_identifier_of_1_to_128_bytes_is_needed() {
    for (len, answered) in [(0, false), (1, true), (128, true), (129, false)] {
        let client_id = format!("0001 {len:04x} {}", "ab".repeat(len));
        let reply = ask(&network(), &message(SOLICIT, &[&client_id, IA_NA]));
        assert_eq!(reply.is_ok(), answered, "{len} bytes");
        assert!(answered || reply == Err(Ignored::Malformed));
    }
    let reply = ask(&network(), &message(SOLICIT, &[IA_NA]));
    assert_eq!(reply, Err(Ignored::Malformed));
}

#[test]
fn only_multicast_is_answered() {
    let message = message(SOLICIT, &[CLIENT_ID, IA_NA]);
    let link_local = network().v6.expect("IPv6").our_link_local;
    let reply = answer(&network(), &duid(), GUEST_LINK_LOCAL, link_local, &message);
    assert_eq!(reply, Err(Ignored::NotForUs));
}

#[test]
fn the_answer_goes_to_the_source_which_must_be_an_address_of_one_host() {
    let message = message(SOLICIT, &[CLIENT_ID, IA_NA]);
    let reply = answer(&network(), &duid(), GUEST_V6, SERVERS, &message);
    assert_eq!(reply.map(|r| r.destination), Ok(GUEST_V6));
    for source in [Ipv6Addr::UNSPECIFIED, SERVERS] {
        let reply = answer(&network(), &duid(), source, SERVERS, &message);
        assert_eq!(reply, Err(Ignored::Malformed));
    }
}

#[test]
fn the_flow_label_is_the_transaction_id() {
    let reply = reply(&network(), SOLICIT, &[CLIENT_ID]);
    assert_eq!(reply.flow_label, 0x1b2c3);
}

#[test]
fn service_family_or_address_off_means_no_answer() {
    let mut off = network();
    off.services.dhcpv6 = false;
    let mut no_v6 = network();
    no_v6.v6 = None;
    let mut no_addr = network();
    no_addr.v6.as_mut().expect("IPv6").addr = None;
    for net in [off, no_v6, no_addr] {
        let message = message(SOLICIT, &[CLIENT_ID, IA_NA]);
        assert_eq!(ask(&net, &message), Err(Ignored::Disabled));
    }
}

#[test]
fn truncated_options_are_malformed() {
    let held = ia_na(&[OURS]);
    let valid = message(REQUEST, &[CLIENT_ID, SERVER_ID, &held]);
    let ends = [4, 18, 32, valid.len()];
    for len in 0..valid.len() {
        let reply = ask(&network(), &valid[..len]);
        // Cut between options, the message lacks one; an IA is not required.
        let whole = ends.contains(&len);
        let reason = if whole && len >= 18 { Ignored::NotForUs } else { Ignored::Malformed };
        assert_eq!(reply.is_ok(), len == 32, "{len} bytes");
        assert!(reply.is_ok() || reply == Err(reason), "{len} bytes");
    }
}

#[test]
fn short_associations_addresses_and_names_are_malformed() {
    let cases = [
        "0003 000b 0a0b0c0d 00000e10 000015",
        "0004 0003 0a0b0c",
        "0003 0010 0a0b0c0d 00000e10 00001518 0005 0000",
        "0003 0012 0a0b0c0d 00000e10 00001518 0005 0018 2001",
        "0003 000d 0a0b0c0d 00000e10 00001518 00",
        "0027 0000",
    ];
    for option in cases {
        let message = message(REQUEST, &[CLIENT_ID, SERVER_ID, option]);
        assert_eq!(ask(&network(), &message), Err(Ignored::Malformed), "{option}");
    }
}

proptest! {
    #[test]
    fn damaged_messages_never_panic(
        message_type in prop::sample::select(&ANSWERED[..]),
        bytes in damaged(message(REQUEST, &[CLIENT_ID, SERVER_ID, &ia_na(&[OURS, OTHER])])),
        noise in noise(),
    ) {
        for mut message in [bytes, noise] {
            let _ = ask(&full_network(), &message);
            if let Some(first) = message.first_mut() {
                *first = message_type;
            }
            let _ = ask(&network(), &message);
        }
    }

    #[test]
    fn any_identifiers_and_associations_get_whole_options(
        client_id in prop::collection::vec(any::<u8>(), 1..=128),
        header in any::<[u8; 12]>(),
        addr in any::<u128>(),
        message_type in prop::sample::select(&ANSWERED[..]),
    ) {
        let mut message = vec![message_type, 1, 2, 3];
        let len = u8::try_from(client_id.len()).expect("at most 128");
        message.extend([0, 1, 0, len]);
        message.extend(client_id);
        if message_type != INFORMATION_REQUEST {
            message.extend([0, 3, 0, 40]);
            message.extend(header);
            message.extend([0, 5, 0, 24]);
            message.extend(addr.to_be_bytes());
            message.extend([0; 8]);
        }
        if matches!(message_type, REQUEST | RENEW | RELEASE | DECLINE) {
            message.extend(hex(SERVER_ID));
        }
        let reply = ask(&full_network(), &message).expect("an answer");
        prop_assert!(parse_options(&reply.message[4..]).all(|option| option.is_ok()));
    }
}
