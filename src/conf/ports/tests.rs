//! Port specifications, as callers write them.

use proptest::prelude::*;

use crate::flow::network::Network;

use super::*;

const EPHEMERAL: Range = (32768, 60999);
const KERNEL: Kernel = Kernel { ephemeral: EPHEMERAL, device_binding: true };
const OLD: Kernel = Kernel { device_binding: false, ..KERNEL };

/// Both families on, and nothing else of interest.
fn network() -> Network {
    let facts = crate::conf::host::HostFacts::default();
    crate::conf::resolve(crate::conf::Options::default(), &facts, "", EPHEMERAL).unwrap().network
}

fn all(specs: &[&str], net: &Network) -> Result<Vec<String>, String> {
    let mut table = RuleTable::default();
    for (spec_index, spec) in (0..).zip(specs) {
        add(&mut table, net, KERNEL, (ForwardDirection::ToGuest, Proto::Tcp, spec), spec_index)
            .map_err(|error| error.to_string())?;
    }
    Ok(table.rules().iter().map(|rule| rule.to_string().trim_end().to_owned()).collect())
}

fn rules(spec: &str) -> Vec<String> {
    all(&[spec], &network()).unwrap()
}

fn refusal(spec: &str) -> String {
    all(&[spec], &network()).unwrap_err()
}

#[test]
fn ports_and_where_they_lead() {
    for (spec, expected) in [
        ("none", &[][..]),
        ("22", &["TCP [*]:22  =>  22"][..]),
        ("31339:41339", &["TCP [*]:31339  =>  41339"]),
        ("22,80:8080", &["TCP [*]:22  =>  22", "TCP [*]:80  =>  8080"]),
        ("80-80:80-80", &["TCP [*]:80  =>  80"]),
        (" 22", &["TCP [*]:22  =>  22"]),
        ("22, 80", &["TCP [*]:22  =>  22", "TCP [*]:80  =>  80"]),
        ("20- 29,~ 22- 29", &["TCP [*]:20-21  =>  20-21"]),
        ("\t22: 80- 80,\n\r\x0b\x0c23", &["TCP [*]:22  =>  80", "TCP [*]:23  =>  23"]),
        ("192.0.2.1%eth0/ 22", &["TCP [192.0.2.1]%eth0:22  =>  22"]),
        ("0.0.0.0/22:192.0.2.5/ 80", &["TCP [0.0.0.0]:22  =>  192.0.2.5:80"]),
        ("100-110:200-210", &["TCP [*]:100-110  =>  200-210"]),
        ("*/22", &["TCP [*]:22  =>  22"]),
        ("/22", &["TCP [*]:22  =>  22"]),
        ("%eth0/2025", &["TCP [*]%eth0:2025  =>  2025"]),
        ("*%eth0/2025", &["TCP [*]%eth0:2025  =>  2025"]),
        ("192.0.2.1%eth0/22", &["TCP [192.0.2.1]%eth0:22  =>  22"]),
        ("192.0.2.1/80-80:80-80", &["TCP [192.0.2.1]:80  =>  80"]),
        ("[192.0.2.1]/22", &["TCP [192.0.2.1]:22  =>  22"]),
        ("::1/22", &["TCP [::1]:22  =>  22"]),
        ("[::1]/22", &["TCP [::1]:22  =>  22"]),
        (
            "2001:db8::1/8002,4431:4432",
            &["TCP [2001:db8::1]:8002  =>  8002", "TCP [2001:db8::1]:4431  =>  4432"],
        ),
        ("0.0.0.0/22:192.0.2.5", &["TCP [0.0.0.0]:22  =>  192.0.2.5:22"]),
        ("0.0.0.0/22:192.0.2.5/80", &["TCP [0.0.0.0]:22  =>  192.0.2.5:80"]),
        ("[::]/22:[2001:db8::5]/80", &["TCP [::]:22  =>  [2001:db8::5]:80"]),
        ("[::]/22:2001:db8::5/80", &["TCP [::]:22  =>  [2001:db8::5]:80"]),
    ] {
        assert_eq!(rules(spec), expected, "{spec}");
    }
}

#[test]
fn excludes_apply_to_the_whole_specification() {
    assert_eq!(
        rules("192.0.2.1/4025-4035:5025-5035,9000,~4030-4034"),
        [
            "TCP [192.0.2.1]:4025-4029  =>  5025-5029",
            "TCP [192.0.2.1]:4035  =>  5035",
            "TCP [192.0.2.1]:9000  =>  9000",
        ]
    );
    assert_eq!(rules("~25,20-30"), ["TCP [*]:20-24  =>  20-24", "TCP [*]:26-30  =>  26-30"]);
    assert_eq!(
        all(&["20-22,~21", "21"], &network()).unwrap(),
        ["TCP [*]:20  =>  20", "TCP [*]:22  =>  22", "TCP [*]:21  =>  21"]
    );
    assert!(rules("25,~20-30").is_empty());
}

#[test]
fn without_includes_all_but_ephemeral_ports_are_meant() {
    let high = "TCP [*]:61000-65535  =>  61000-65535  (best effort)";
    let low = "TCP [*]:1-32767  =>  1-32767  (best effort)";
    assert_eq!(rules("all"), [low, high]);
    assert_eq!(
        rules("~25"),
        [
            "TCP [*]:1-24  =>  1-24  (best effort)",
            "TCP [*]:26-32767  =>  26-32767  (best effort)",
            high
        ]
    );
    assert_eq!(rules("all,all"), [low, high]);
    assert_eq!(rules("all,~40000-65535"), [low]);
    // Those that are named are meant alone.
    for spec in ["all,2222:22", "2222:22,all"] {
        assert_eq!(rules(spec), ["TCP [*]:2222  =>  22"]);
    }
    assert_eq!(rules("~1-65535"), Vec::<String>::new());
    assert_eq!(
        rules("0.0.0.0/all:192.0.2.5,~1-60999"),
        ["TCP [0.0.0.0]:61000-65535  =>  192.0.2.5:61000-65535  (best effort)"]
    );
}

#[test]
fn what_is_no_specification_is_refused() {
    for spec in [
        "",
        ",",
        "22,",
        ",22",
        "65536",
        "-1",
        "+1",
        "0x16",
        "22 ",
        "22 ,80",
        "22 :80",
        " ",
        "22, ",
        "22: ",
        "22:- 80",
        " +22",
        "22, ~22",
        " none",
        " all",
        "all ",
        " 192.0.2.5/22",
        "22: 192.0.2.5",
        "\u{a0}22",
        "22-",
        "-22",
        "30-20",
        "22:",
        "22:80:90",
        "20-22:30-31",
        "20-22:30",
        "22:host",
        "22:192.0.2.5/",
        "~",
        "~22:23",
        "all:",
        "all:80",
        "all,all:192.0.2.5",
        "none,22",
        "22,none",
        "everything",
        "22:192.0.2.5/80/90",
        "22:[192.0.2.5",
        "22:::ffff:192.0.2.5",
        "22\n",
    ] {
        assert_eq!(refusal(spec), format!("Invalid port specifier '{spec}'"));
    }
    for (spec, text) in [
        ("192.0.2.1/x", "Invalid port specifier 'x'"),
        ("host/22", "Invalid port specifier 'host/22'"),
        ("::ffff:192.0.2.1/22", "Invalid port specifier '::ffff:192.0.2.1/22'"),
        ("%/22", "Invalid interface name: "),
        ("%../22", "Invalid interface name: .."),
        ("%sixteen-bytes-xx/22", "Invalid interface name: sixteen-bytes-xx"),
        ("auto", "'auto' port forwarding is only allowed for pasta"),
        ("22,auto", "'auto' port forwarding is only allowed for pasta"),
    ] {
        assert_eq!(refusal(spec), text, "{spec}");
    }
}

/// One cause, not all rules that there are.
#[test]
fn what_is_wrong_with_a_specification_is_said() {
    let problem = |spec: &str| {
        let mut table = RuleTable::default();
        let added =
            add(&mut table, &network(), KERNEL, (ForwardDirection::ToGuest, Proto::Tcp, spec), 0);
        match added {
            Err(ConfError::PortSpecifier { problem, .. }) => problem.to_string(),
            other => panic!("{spec}: {other:?}"),
        }
    };
    let second = "an address holds for the whole list: give the option once for each address";
    let all = "all leads to one address only";
    for (spec, said) in [
        ("99999", "99999 is no port: the last one is 65535"),
        ("8000-65536", "65536 is no port: the last one is 65535"),
        ("22:70000", "70000 is no port: the last one is 65535"),
        ("8010-8000", "8010-8000: the first port is greater than the last"),
        ("80-81:9-8", "9-8: the first port is greater than the last"),
        ("8000-8010:9000-9005", "the ranges differ in length: 11 before the colon, 6 behind it"),
        ("all:192.0.2.5,all", all),
        ("22,none", "none stands alone"),
        ("80:", "a port is missing in '80:'"),
        ("22,", "a port is missing in '22,'"),
        ("", "a port is missing in ''"),
        ("1,22-", "a port is missing in '22-'"),
        ("~", "a port is missing in '~'"),
        ("22:192.0.2.5/", "a port is missing in '22:192.0.2.5/'"),
        ("~22:23", "'~22:23': ports that are excluded by ~ lead nowhere"),
        ("http", "'http' is no port: give a number, a range as 8000-8010, or all"),
        ("22:host", "'host' is neither a port nor an address"),
        ("22:80:90", "'80:90' is neither a port nor an address"),
        ("22:host/80", "'host' is no address"),
        ("all:80", "'80' is no address"),
        ("host/22", "'host' is no address"),
        ("::ffff:192.0.2.1/22", "::ffff:192.0.2.1: write an IPv4 address as one, without ::ffff:"),
        ("22:::ffff:192.0.2.5", "::ffff:192.0.2.5: write an IPv4 address as one, without ::ffff:"),
        ("127.0.0.1/8080,127.0.0.1/8081", second),
        ("127.0.0.1/8080,[::1]/8081", second),
        ("22,%eth0/23", second),
    ] {
        assert_eq!(problem(spec), said, "{spec}");
    }
}

#[test]
fn rules_that_the_table_refuses_are_named() {
    for (spec, text) in [
        ("0", "Forwarding rule attempts to map from port 0\nUnable to add rule TCP [*]:0  =>  0 "),
        (
            "22:0",
            "Forwarding rule attempts to map to port 0\nUnable to add rule TCP [*]:22  =>  0 ",
        ),
        (
            "22:192.0.2.5",
            "Dual stack forward to IPv4 address 192.0.2.5 unsupported\n\
             Did you mean 0.0.0.0/... instead?\n\
             Unable to add rule TCP [*]:22  =>  192.0.2.5:22 ",
        ),
        (
            "22,22",
            "Forwarding configuration conflict: TCP [*]:22  =>  22  versus TCP [*]:22  =>  22 \n\
             Unable to add rule TCP [*]:22  =>  22 ",
        ),
    ] {
        assert_eq!(refusal(spec), text, "{spec}");
    }
}

#[test]
fn none_only_before_ports_of_its_protocol() {
    let net = network();
    assert_eq!(all(&["none", "22"], &net).unwrap(), ["TCP [*]:22  =>  22"]);
    assert_eq!(all(&["22", "none"], &net).unwrap_err(), "-t none conflicts with previous options");
    let mut table = RuleTable::default();
    add(&mut table, &net, KERNEL, (ForwardDirection::ToGuest, Proto::Tcp, "22"), 0).unwrap();
    add(&mut table, &net, KERNEL, (ForwardDirection::ToGuest, Proto::Udp, "none"), 1).unwrap();
}

#[test]
fn without_an_address_the_families_that_are_on_are_meant() {
    let (mut v4, mut v6) = (network(), network());
    v4.v6 = None;
    v6.v4 = None;
    assert_eq!(all(&["22"], &v4).unwrap(), ["TCP [0.0.0.0]:22  =>  22"]);
    assert_eq!(all(&["*/22"], &v6).unwrap(), ["TCP [::]:22  =>  22"]);
}

fn of_pasta(
    direction: ForwardDirection,
    proto: Proto,
    spec: &str,
    net: &Network,
) -> Result<Vec<String>, String> {
    on_kernel(KERNEL, direction, proto, spec, net)
}

fn on_kernel(
    kernel: Kernel,
    direction: ForwardDirection,
    proto: Proto,
    spec: &str,
    net: &Network,
) -> Result<Vec<String>, String> {
    let mut table = RuleTable::default();
    add(&mut table, net, kernel, (direction, proto, spec), 0).map_err(|error| error.to_string())?;
    Ok(table.rules().iter().map(|rule| rule.to_string().trim_end().to_owned()).collect())
}

#[test]
fn auto_sets_the_scan_flag_on_every_rule_of_its_specification() {
    let net = network();
    let go = |spec| of_pasta(ForwardDirection::ToNamespace, Proto::Tcp, spec, &net).unwrap();
    assert_eq!(
        go("auto"),
        [
            "TCP [*]:1-32767  =>  1-32767  (best effort) (auto-scan)",
            "TCP [*]:61000-65535  =>  61000-65535  (best effort) (auto-scan)",
        ]
    );
    assert_eq!(
        go("22,auto,8080:80"),
        ["TCP [*]:22  =>  22  (auto-scan)", "TCP [*]:8080  =>  80  (auto-scan)"]
    );
    assert_eq!(
        go("192.0.2.1/auto,~1-60999"),
        ["TCP [192.0.2.1]:61000-65535  =>  61000-65535  (best effort) (auto-scan)"]
    );
    assert_eq!(
        go("auto,8000-9000,~8080,9500:22"),
        [
            "TCP [*]:8000-8079  =>  8000-8079  (auto-scan)",
            "TCP [*]:8081-9000  =>  8081-9000  (auto-scan)",
            "TCP [*]:9500  =>  22  (auto-scan)",
        ]
    );
    assert_eq!(
        go("127.0.0.1/~1-61000,auto"),
        ["TCP [127.0.0.1]:61001-65535  =>  61001-65535  (best effort) (auto-scan)"]
    );
    assert_eq!(go("22"), ["TCP [*]:22  =>  22"]);
}

#[test]
fn auto_takes_the_family_that_is_on() {
    let mut net = network();
    net.v6 = None;
    let rules = of_pasta(ForwardDirection::ToNamespace, Proto::Udp, "auto,~1-60999", &net).unwrap();
    assert_eq!(rules, ["UDP [0.0.0.0]:61000-65535  =>  61000-65535  (best effort) (auto-scan)"]);
}

#[test]
fn ports_from_the_namespace_are_bound_to_its_loopback_interface() {
    let net = network();
    let go = |proto, spec| of_pasta(ForwardDirection::FromNamespace, proto, spec, &net);
    assert_eq!(go(Proto::Tcp, "22:80").unwrap(), ["TCP [*]%lo:22  =>  80"]);
    assert_eq!(
        go(Proto::Udp, "auto,~1-60999").unwrap(),
        ["UDP [*]%lo:61000-65535  =>  61000-65535  (best effort) (auto-scan)"]
    );
    for (proto, spec, text) in [
        (Proto::Tcp, "127.0.0.1/22", "Listening address not allowed for -T 127.0.0.1/22"),
        (Proto::Udp, "%lo/22", "Listening address not allowed for -U %lo/22"),
        (
            Proto::Tcp,
            "22:192.0.2.5",
            "Dual stack forward to IPv4 address 192.0.2.5 unsupported\n\
             Did you mean 0.0.0.0/... instead?\n\
             Unable to add rule TCP [*]%lo:22  =>  192.0.2.5:22 ",
        ),
    ] {
        assert_eq!(go(proto, spec).unwrap_err(), text);
    }
}

#[test]
fn ports_from_the_namespace_lead_to_other_addresses_in_one_family() {
    let (mut v4, mut v6) = (network(), network());
    (v4.v6, v6.v4) = (None, None);
    for (net, spec, rule) in [
        (&v4, "22:192.0.2.5", "TCP [0.0.0.0]%lo:22  =>  192.0.2.5:22"),
        (&v4, "20-22:127.0.0.5/30-32", "TCP [0.0.0.0]%lo:20-22  =>  127.0.0.5:30-32"),
        (&v6, "22:2001:db8::5", "TCP [::]%lo:22  =>  [2001:db8::5]:22"),
    ] {
        assert_eq!(
            of_pasta(ForwardDirection::FromNamespace, Proto::Tcp, spec, net).unwrap(),
            [rule]
        );
    }
}

#[test]
fn without_binding_to_interfaces_loopback_addresses_stand_for_the_loopback_interface() {
    let (both, mut v4, mut v6) = (network(), network(), network());
    (v4.v6, v6.v4) = (None, None);
    let go =
        |net| on_kernel(OLD, ForwardDirection::FromNamespace, Proto::Tcp, "22:80", net).unwrap();
    let (on_v4, on_v6) = ("TCP [127.0.0.1]:22  =>  80", "TCP [::1]:22  =>  80");
    assert_eq!(go(&both), [on_v4, &format!("{on_v6}  (best effort)")]);
    assert_eq!(go(&v4), [on_v4]);
    assert_eq!(go(&v6), [on_v6]);
    let to_guest = |spec| on_kernel(OLD, ForwardDirection::ToNamespace, Proto::Tcp, spec, &both);
    assert_eq!(to_guest("22").unwrap(), ["TCP [*]:22  =>  22"]);
    assert_eq!(
        to_guest("%eth0/22").unwrap_err(),
        "Device binding for '-t %eth0/22' unsupported (requires kernel 5.7+)"
    );
}

#[test]
fn ephemeral_ports_as_the_kernel_writes_them() {
    assert_eq!(parse_ephemeral("32768\t60999\n"), Some((32768, 60999)));
    for text in ["", "32768", "32768 60999\n", "60999\t32768\n", "x\ty\n"] {
        assert_eq!(parse_ephemeral(text), None, "{text:?}");
    }
}

proptest! {
    #[test]
    fn no_specification_makes_it_panic(spec in ".{0,64}") {
        let _any = all(&[&spec], &network());
    }

    #[test]
    fn nothing_like_a_specification_makes_it_panic(
        spec in "([0-9]{1,5}|[-:,~/%*\\[\\]]|all|auto|none|192\\.0\\.2\\.1|::1|eth0){0,12}",
    ) {
        let _any = all(&[&spec], &network());
    }

    #[test]
    fn excluded_ports_are_in_no_rule(
        (first, last) in (1..=65535u16, 1..=65535u16).prop_map(|(a, b)| (a.min(b), a.max(b))),
        (from, to) in (1..=65535u16, 1..=65535u16).prop_map(|(a, b)| (a.min(b), a.max(b))),
    ) {
        let spec = format!("{first}-{last},~{from}-{to}");
        let runs = parse(&spec, EPHEMERAL, (ForwardDirection::ToGuest, "-t")).unwrap();
        let covered: usize = runs.iter().map(|run| usize::from(run.last - run.first) + 1).sum();
        let wanted = (first..=last).filter(|port| !(from..=to).contains(port)).count();
        prop_assert_eq!(covered, wanted);
        for run in runs {
            prop_assert!(run.last < from || run.first > to);
            prop_assert_eq!(run.first, run.target_first);
        }
    }
}
