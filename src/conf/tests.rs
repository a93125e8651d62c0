//! Options and host put together, and what is printed of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::host::{HostFacts, NamedHost, Template};
use super::*;
use crate::flow::fwd::{InterfaceName, Mapping};
use crate::flow::network::Services;

const EPHEMERAL: (u16, u16) = (32768, 60999);

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn name(text: &str) -> InterfaceName {
    InterfaceName::new(text).unwrap()
}

/// A host with both families on eth0, and another interface.
fn host() -> HostFacts {
    HostFacts {
        beyond_link_v6: true,
        v4: Some(Template {
            name: name("eth0"),
            index: 2,
            address: Some((v4("192.0.2.2"), 24)),
            link_local: None,
            default_route: true,
            gateway: Some(v4("192.0.2.1")),
        }),
        v6: Some(Template {
            name: name("eth0"),
            index: 2,
            address: Some((v6("2001:db8::2"), 64)),
            link_local: Some(v6("fe80::fc")),
            default_route: true,
            gateway: Some(v6("2001:db8::1")),
        }),
        no_ipv6: false,
        named: NamedHost::default(),
        no_device_binding: false,
        destinations_v4: Vec::new(),
        links: vec![(name("lo"), 1), (name("eth0"), 2), (name("eth1"), 3)],
        notes: Vec::new(),
    }
}

fn attempt(arguments: &[&str], facts: &HostFacts, resolv: &str) -> Result<Conf, ConfError> {
    let words = ["passt"].iter().chain(arguments).map(|word| (*word).into());
    match parse(words)? {
        Command::Run(options) => resolve(*options, facts, resolv, EPHEMERAL),
        other => panic!("{other:?}"),
    }
}

fn conf(arguments: &[&str], resolv: &str) -> Conf {
    attempt(arguments, &host(), resolv).unwrap()
}

fn texts(conf: &Conf) -> Vec<&str> {
    conf.notes.iter().map(|note| note.text.as_str()).collect()
}

#[test]
fn the_guest_gets_what_the_host_has() {
    let conf = conf(&[], "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch a.example\n");
    let net = &conf.network;
    let net4 = net.v4.as_ref().unwrap();
    assert_eq!((net4.addr, net4.prefix_len), (v4("192.0.2.2"), 24));
    assert_eq!((net4.gateway, net4.fixed), (Some(v4("192.0.2.1")), false));
    assert_eq!(net4.dns.as_slice(), [v4("192.0.2.53")]);
    let net6 = net.v6.as_ref().unwrap();
    assert_eq!((net6.addr, net6.gateway), (Some(v6("2001:db8::2")), Some(v6("2001:db8::1"))));
    assert_eq!((net6.our_link_local, net6.scope_id), (v6("fe80::fc"), 2));
    assert_eq!(net6.dns.as_slice(), [v6("2001:db8::53")]);
    assert_eq!(net.search.as_slice(), ["a.example"]);
    let services = Services { renew: true, ..Services::default() };
    assert_eq!((net.mtu, net.services), (65520, services));
    assert_eq!(conf.mapping.v4.host_loopback, Some(v4("192.0.2.1")));
    assert_eq!(conf.mapping.v6.host_loopback, Some(v6("2001:db8::1")));
    assert_eq!(conf.mapping.v4.dns_match, None);
    assert_eq!(conf.mapping.v4.dns_host, Some(v4("192.0.2.53")));
    assert!(conf.notes.is_empty(), "{:?}", conf.notes);
}

#[test]
fn given_addresses_are_fixed_and_prefixes_follow_their_class() {
    for (arguments, addr, prefix_len) in [
        (&["-a", "198.51.100.5/26"][..], "198.51.100.5", 26),
        (&["-a", "198.51.100.5"], "198.51.100.5", 24),
        (&["-a", "10.0.0.5"], "10.0.0.5", 8),
        (&["-a", "172.16.0.5"], "172.16.0.5", 16),
        (&["-a", "198.51.100.5/0"], "198.51.100.5", 24),
        (&["-a", "198.51.100.5", "-n", "255.255.0.0"], "198.51.100.5", 16),
        (&["-n", "16", "-a", "198.51.100.5"], "198.51.100.5", 16),
    ] {
        let net4 = conf(arguments, "").network.v4.unwrap();
        assert_eq!((net4.addr, net4.prefix_len), (v4(addr), prefix_len), "{arguments:?}");
        assert!(net4.fixed);
    }
    // A mask is one of a given address.
    let net4 = conf(&["-n", "16"], "").network.v4.unwrap();
    assert_eq!((net4.addr, net4.prefix_len, net4.fixed), (v4("192.0.2.2"), 24, false));
    let net6 = conf(&["-a", "2001:db8::5", "-g", "fe80::99"], "").network.v6.unwrap();
    assert_eq!((net6.addr, net6.fixed), (Some(v6("2001:db8::5")), true));
    assert_eq!((net6.gateway, net6.our_link_local), (Some(v6("fe80::99")), v6("fe80::99")));
}

#[test]
fn local_mode_keeps_what_the_operator_gave() {
    let none = HostFacts::default();
    let conf = attempt(&[], &none, "").unwrap();
    let (net4, net6) = (conf.network.v4.as_ref().unwrap(), conf.network.v6.as_ref().unwrap());
    assert_eq!((net4.addr, net4.prefix_len), (v4("169.254.2.1"), 16));
    assert_eq!(net4.gateway, Some(v4("169.254.2.2")));
    assert_eq!((net6.addr, net6.gateway, net6.scope_id), (None, Some(v6("fe80::1")), 0));
    assert_eq!(net6.our_link_local, v6("fe80::1"));
    assert!(!conf.network.services.dhcpv6 && conf.network.services.ndp);
    assert_eq!((conf.template_v4, conf.template_v6), (None, None));
    let note = Note::info("IPv4: no external interface as template, use local mode");
    assert!(conf.notes.contains(&note));

    let given = ["-a", "198.51.100.5", "-g", "198.51.100.1", "-a", "2001:db8::5"];
    let conf = attempt(&given, &none, "").unwrap();
    let (net4, net6) = (conf.network.v4.unwrap(), conf.network.v6.unwrap());
    assert_eq!((net4.addr, net4.gateway), (v4("198.51.100.5"), Some(v4("198.51.100.1"))));
    assert_eq!((net6.addr, net6.gateway), (Some(v6("2001:db8::5")), Some(v6("fe80::1"))));
}

#[test]
fn family_without_an_address_is_unusable() {
    let mut facts = host();
    facts.v4.as_mut().unwrap().address = None;
    facts.v6.as_mut().unwrap().address = None;
    let conf = attempt(&[], &facts, "").unwrap();
    assert_eq!((conf.template_v4, conf.template_v6), (None, None));
    assert_eq!(conf.network.v6.unwrap().scope_id, 0);
}

#[test]
fn link_local_address_of_the_interface_is_not_required() {
    let mut facts = host();
    facts.v4.as_mut().unwrap().address = None;
    facts.v6.as_mut().unwrap().link_local = None;
    let conf = attempt(&[], &facts, "").unwrap();
    assert_eq!(conf.template_v6.unwrap().index, 2);
    assert_eq!(conf.network.v6.unwrap().our_link_local, v6("fe80::1"));
    let conf = attempt(&["-a", "198.51.100.5", "-g", "fe80::99"], &facts, "").unwrap();
    assert_eq!(conf.template_v4.unwrap().index, 2);
    assert_eq!(conf.network.v6.unwrap().our_link_local, v6("fe80::99"));
}

#[test]
fn named_interfaces_must_be_usable() {
    let mut facts = host();
    facts.v6 = None;
    for arguments in [["-i", "eth0"], ["--outbound-if4", "eth0"]] {
        attempt(&arguments, &facts, "").unwrap();
    }
    facts.v4.as_mut().unwrap().address = None;
    for option in ["--outbound-if4", "--outbound-if6"] {
        let error = attempt(&[option, "eth0"], &facts, "").unwrap_err();
        assert_eq!(error.to_string(), "External interface not usable", "{option}");
        assert!(error.cure().unwrap().starts_with(&format!("{option} eth0: ")), "{option}");
    }
    let local = attempt(&["-i", "eth0"], &facts, "").unwrap();
    assert_eq!(local.network.v4.as_ref().unwrap().addr, v4("169.254.2.1"));
    let warning = "External interface not usable: --interface eth0 has no address";
    assert!(texts(&local).contains(&warning), "{:?}", local.notes);
}

#[test]
fn groups_are_on_the_interface_that_packets_leave_by() {
    let interfaces = |arguments: &[&str]| {
        let mapping = conf(arguments, "").mapping;
        (mapping.v4.group_interface, mapping.v6.group_interface)
    };
    assert_eq!(interfaces(&[]), (2, 2));
    assert_eq!(interfaces(&["--outbound-if4", "eth1"]), (3, 2));
    assert_eq!(interfaces(&["--outbound-if6", "eth1"]), (2, 3));
    let mut facts = host();
    (facts.v4, facts.v6) = (None, None);
    let local = attempt(&[], &facts, "").unwrap().mapping;
    assert_eq!((local.v4.group_interface, local.v6.group_interface), (0, 0));
}

#[test]
fn what_the_operator_gave_holds_in_local_mode() {
    let given = ["-a", "192.0.2.9/24", "-g", "192.0.2.8", "-a", "2001:db8::9", "-g", "2001:db8::8"];
    let conf = attempt(&given, &HostFacts::default(), "").unwrap();
    let net4 = conf.network.v4.as_ref().unwrap();
    assert_eq!((net4.addr, net4.prefix_len, net4.fixed), (v4("192.0.2.9"), 24, true));
    assert_eq!(net4.gateway, Some(v4("192.0.2.8")));
    let net6 = conf.network.v6.as_ref().unwrap();
    assert_eq!((net6.addr, net6.fixed), (Some(v6("2001:db8::9")), true));
    assert_eq!(net6.gateway, Some(v6("2001:db8::8")));
}

/// What is printed for bad ports: the packaged program's words of today and of before, the option,
/// and a cure.
#[test]
fn bad_ports_are_described_in_words_old_and_new() {
    for (arguments, parts) in [
        (
            &["-t", "65536"][..],
            &[
                "Invalid port specifier '65536'",
                "Invalid port specifier 65536 in --tcp-ports 65536: 65536 is no port: the last",
            ][..],
        ),
        (
            &["-u", "8001-8010", "-u", "8005"],
            &[
                "Forwarding configuration conflict: UDP [*]:8005",
                "Unable to add rule UDP [*]:8005  =>  8005",
                "Overlapping port specifier in --udp-ports 8005: ",
            ],
        ),
        (&["-t", "0"], &["attempts to map from port 0", "--tcp-ports 0: ports go from 1"]),
        (&["-t", "1:0"], &["attempts to map to port 0", "--tcp-ports 1:0: ports go from 1"]),
        (&["-t", "22", "-t", "none"], &["-t none conflicts with previous", "give none first"]),
        (&["-t", "auto"], &["only allowed for pasta", "--tcp-ports auto: name the ports"]),
        (&["-t", "%sixteen-bytes-xx/22"], &["Invalid interface name: sixteen", "1 to 15"]),
        (&["-4", "-t", "::1/22"], &["IPv6 forward, but IPv6 not enabled", "enable both families"]),
        (&["-t", "22:192.0.2.9"], &["Did you mean 0.0.0.0/", "an address of the target's family"]),
        (&["--no-tcp", "-t", "22"], &["TCP not enabled", "the option that disables the protocol"]),
        (&["-t", "0.0.0.0/1:224.0.0.1"], &["Multicast target", "name an address of the guest"]),
    ] {
        let error = attempt(arguments, &host(), "").unwrap_err();
        let text = format!("{error}\n{}", error.cure().unwrap());
        assert!(parts.iter().all(|part| text.contains(part)), "{arguments:?}: {text}");
    }
    let error = pasta_attempt(&["-T", "127.0.0.1/22"], &host()).unwrap_err();
    let text = format!("{error}\n{}", error.cure().unwrap());
    assert!(text.starts_with("Listening address not allowed for -T 127.0.0.1/22\n--tcp-ns 127"));
}

#[test]
fn families_that_are_off() {
    let only4 = conf(&["-4"], "");
    assert!(only4.network.v6.is_none() && !only4.network.services.ndp);
    assert!(!only4.network.services.ra && !only4.network.services.dhcpv6);
    let only6 = conf(&["-6"], "");
    assert!(only6.network.v4.is_none() && !only6.network.services.dhcp);
    let mut facts = host();
    facts.no_ipv6 = true;
    assert!(attempt(&[], &facts, "").unwrap().network.v6.is_none());
    let error = attempt(&["-6"], &facts, "").unwrap_err();
    assert_eq!(error.to_string(), "IPv6 not available but --ipv6-only given");
}

#[test]
fn gateway_is_mapped_to_the_host_unless_told_otherwise() {
    let mapped = |arguments: &[&str]| conf(arguments, "").mapping;
    let map = mapped(&["--no-map-gw"]);
    assert_eq!((map.v4.host_loopback, map.v6.host_loopback), (None, None));
    let map = mapped(&["--map-host-loopback", "192.0.2.9"]);
    assert_eq!(map.v4.host_loopback, Some(v4("192.0.2.9")));
    assert_eq!(map.v6.host_loopback, Some(v6("2001:db8::1")));
    let map = mapped(&["--map-host-loopback", "192.0.2.9", "--no-map-gw"]);
    assert_eq!(map.v4.host_loopback, Some(v4("192.0.2.9")));
    assert_eq!(map.v6.host_loopback, None);
    let mut facts = host();
    let model = facts.v4.as_mut().unwrap();
    (model.default_route, model.gateway) = (false, None);
    let conf = attempt(&[], &facts, "").unwrap();
    assert_eq!(conf.mapping.v4.host_loopback, Some(v4("169.254.2.2")));
}

#[test]
fn without_a_default_route_the_guest_gets_the_routes_that_exist() {
    let mut facts = host();
    let model = facts.v4.as_mut().unwrap();
    (model.default_route, model.gateway) = (false, None);
    facts.destinations_v4 = vec![
        (v4("198.51.100.0"), 24, Some(v4("192.0.2.9"))),
        (v4("203.0.113.0"), 25, None),
        (v4("203.0.113.128"), 25, Some(v4("203.0.113.1"))),
    ];
    let conf = attempt(&[], &facts, "nameserver 198.51.100.53").unwrap();
    let banner = banner(&conf, None);
    let net4 = conf.network.v4.unwrap();
    assert!(conf.network.services.dhcp);
    let stand_in = v4("169.254.2.2");
    assert_eq!((net4.addr, net4.prefix_len, net4.gateway), (v4("192.0.2.2"), 24, Some(stand_in)));
    assert_eq!(net4.dns.as_slice(), [v4("198.51.100.53")]);
    let routes = net4.routes.unwrap();
    let hops: Vec<_> = routes.iter().map(|route| route.gateway).collect();
    assert_eq!(hops, [v4("192.0.2.9"), stand_in, stand_in], "routers in the subnet are kept");
    assert!(banner.contains("    route: 203.0.113.0/25 via 169.254.2.2\n"), "{banner}");
    assert!(!banner.contains("router: 169.254.2.2"), "{banner}");

    let given = attempt(&["-g", "192.0.2.8"], &facts, "").unwrap().network.v4.unwrap();
    assert_eq!((given.gateway, given.routes), (Some(v4("192.0.2.8")), None));

    let many = |i: u8| (Ipv4Addr::new(203, 0, i, 0), 24, None);
    facts.destinations_v4 = (0..20).map(many).collect();
    let conf = attempt(&[], &facts, "").unwrap();
    assert_eq!(conf.network.v4.unwrap().routes.unwrap().len(), 16);
    let warned = |note: &Note| note.text.contains("20 others, of which DHCP tells the guest 16");
    assert!(conf.notes.iter().any(warned), "{:?}", conf.notes);
}

#[test]
fn where_the_default_route_has_no_gateway_we_stand_in_for_it() {
    let mut facts = host();
    let model = facts.v4.as_mut().unwrap();
    (model.address, model.gateway) = (Some((v4("192.0.2.2"), 32)), None);
    let stand_in = Some(v4("169.254.2.2"));
    let stub = "nameserver 127.0.0.53";

    let conf = attempt(&[], &facts, stub).unwrap();
    let net4 = conf.network.v4.as_ref().unwrap();
    assert_eq!((net4.addr, net4.prefix_len, net4.gateway), (v4("192.0.2.2"), 32, stand_in));
    assert!(conf.network.services.dhcp && !net4.fixed);
    assert_eq!(conf.template_v4.map(|device| device.name), Some(name("eth0")));
    assert_eq!(conf.mapping.v4.host_loopback, stand_in);
    assert_eq!((net4.dns.first().copied(), conf.mapping.v4.dns_match), (stand_in, stand_in));
    assert!(conf.notes.iter().all(|note| !note.text.contains("local mode")), "{:?}", conf.notes);

    let unmapped = attempt(&["--no-map-gw"], &facts, stub).unwrap();
    assert_eq!(unmapped.network.v4.as_ref().unwrap().gateway, stand_in);
    assert_eq!((unmapped.mapping.v4.host_loopback, unmapped.mapping.v4.dns_match), (None, None));
    let elsewhere = attempt(&["--map-host-loopback", "192.0.2.9"], &facts, "").unwrap();
    assert_eq!(elsewhere.mapping.v4.host_loopback, Some(v4("192.0.2.9")));
    let given = attempt(&["-g", "192.0.2.8"], &facts, "").unwrap();
    assert_eq!(given.network.v4.unwrap().gateway, Some(v4("192.0.2.8")));
    assert_eq!(given.mapping.v4.host_loopback, Some(v4("192.0.2.8")));
}

#[test]
fn local_name_servers_are_reached_at_an_address_that_stands_for_the_host() {
    let dns = |arguments: &[&str], resolv: &str| {
        let conf = conf(arguments, resolv);
        let shown = conf.network.v4.unwrap().dns.first().copied();
        (shown, conf.mapping.v4.dns_match, conf.mapping.v4.dns_host)
    };
    let gateway = Some(v4("192.0.2.1"));
    let stub = Some(v4("127.0.0.53"));
    let forward = Some(v4("192.0.2.9"));
    assert_eq!(dns(&[], "nameserver 127.0.0.53"), (gateway, gateway, stub));
    assert_eq!(dns(&[], "nameserver 192.0.2.1"), (gateway, gateway, gateway));
    assert_eq!(dns(&["--no-map-gw"], "nameserver 127.0.0.53"), (None, None, stub));
    let forwarding = ["--dns-forward", "192.0.2.9"];
    assert_eq!(dns(&forwarding, "nameserver 127.0.0.53"), (forward, forward, stub));
    let elsewhere = Some(v4("198.51.100.53"));
    assert_eq!(dns(&forwarding, "nameserver 198.51.100.53"), (elsewhere, forward, elsewhere));
    let given = ["--dns-forward", "192.0.2.9", "-D", "198.51.100.53"];
    assert_eq!(dns(&given, "nameserver 127.0.0.53"), (elsewhere, forward, stub));
    let host_given = ["--dns-host", "203.0.113.53"];
    let host = Some(v4("203.0.113.53"));
    assert_eq!(dns(&host_given, "nameserver 127.0.0.53"), (gateway, gateway, host));
    assert_eq!(dns(&["-D", "none"], "nameserver 127.0.0.53"), (None, None, None));
    // The host's own address is the guest's, unless that gets another one.
    let own = Some(v4("192.0.2.2"));
    assert_eq!(dns(&[], "nameserver 192.0.2.2"), (gateway, gateway, own));
    assert_eq!(dns(&["-a", "192.0.2.77"], "nameserver 192.0.2.2"), (own, None, own));
}

/// What a guest of each family is handed out, and where its queries to `--dns-forward` go.
fn names_of(arguments: &[&str], resolv: &str) -> [(Vec<IpAddr>, Option<IpAddr>); 2] {
    let Conf { network, mapping, .. } = conf(arguments, resolv);
    let v4 = network.v4.iter().flat_map(|v4| v4.dns.iter().copied().map(IpAddr::from));
    let v6 = network.v6.iter().flat_map(|v6| v6.dns.iter().copied().map(IpAddr::from));
    let to = |matched: Option<IpAddr>| matched.and_then(|matched| mapping.dns_host_for(matched));
    [
        (v4.collect(), to(mapping.v4.dns_match.map(Into::into))),
        (v6.collect(), to(mapping.v6.dns_match.map(Into::into))),
    ]
}

#[test]
fn a_server_of_the_other_family_is_forwarded_to_and_handed_out_by_the_address_that_is_matched() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let both = ["--dns-forward", "192.0.2.9", "--dns-forward", "2001:db8::9"];
    let (shown4, shown6) = (vec![ip("192.0.2.9")], vec![ip("2001:db8::9")]);
    let (stub, server4, server6) = (ip("127.0.0.53"), ip("198.51.100.53"), ip("2001:db8:1::53"));

    let [v4, v6] = names_of(&both, "nameserver 127.0.0.53");
    assert_eq!(v4, (shown4.clone(), Some(stub)));
    assert_eq!(v6, (shown6.clone(), Some(stub)));
    let [v4, v6] = names_of(&both, "nameserver 2001:db8:1::53");
    assert_eq!(v4, (shown4.clone(), Some(server6)));
    assert_eq!(v6, (vec![server6], Some(server6)));
    let [v4, v6] = names_of(&both, "nameserver 2001:db8:1::53\nnameserver 198.51.100.53");
    assert_eq!(v4, (vec![server4], Some(server4)));
    assert_eq!(v6, (vec![server6], Some(server6)));

    // The same where the guest does not have the server's family.
    let only6 = ["--ipv6-only", "--dns-forward", "2001:db8::9"];
    assert_eq!(names_of(&only6, "nameserver 127.0.0.53")[1], (shown6.clone(), Some(stub)));
    let only4 = ["--ipv4-only", "--dns-forward", "192.0.2.9"];
    assert_eq!(names_of(&only4, "nameserver 2001:db8:1::53")[0], (shown4, Some(server6)));

    // What was given on the command line counts, and without a server nothing is promised.
    let given = ["--dns-forward", "2001:db8::9", "--dns-host", "198.51.100.53"];
    assert_eq!(names_of(&given, "")[1], (shown6, Some(server4)));
    assert_eq!(names_of(&given[..2], "")[1], (Vec::new(), None));
    let handed = [&given[..], &["-D", "2001:db8::7"]].concat();
    assert_eq!(names_of(&handed, "")[1], (vec![ip("2001:db8::7")], Some(server4)));
    // Nothing is matched that the operator did not name.
    assert_eq!(names_of(&[], "nameserver 127.0.0.53")[1], (Vec::new(), None));
}

#[test]
fn a_server_that_has_a_name_is_the_one_that_queries_go_to() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let given = ["--dns-forward", "192.0.2.9", "--dns-host", "dns.example.org"];
    let resolv = "nameserver 198.51.100.53";
    let with = |named, options: &[&str]| {
        let facts = HostFacts { named, ..host() };
        let conf = attempt(&[&given[..], options].concat(), &facts, resolv).unwrap();
        conf.mapping.dns_host_for(ip("192.0.2.9"))
    };
    let named = NamedHost { v4: Some(v4("203.0.113.53")), v6: Some(v6("2001:db8:5::53")) };
    assert_eq!(with(named, &[]), Some(ip("203.0.113.53")));
    assert_eq!(with(NamedHost { v4: None, ..named }, &[]), Some(ip("2001:db8:5::53")));
    assert_eq!(with(NamedHost::default(), &[]), None, "no other one takes its place");
    let address = ["--dns-host", "203.0.113.54"];
    assert_eq!(with(named, &address), Some(ip("203.0.113.54")), "an address counts for its family");
    // Where it has no address yet, the guest is told of the one that stands for it.
    let facts = HostFacts { named: NamedHost::default(), ..host() };
    let conf = attempt(&given, &facts, "").unwrap();
    assert_eq!(conf.network.v4.unwrap().dns[..], [v4("192.0.2.9")]);
    // Without a name what is known of one means nothing.
    let conf = attempt(&given[..2], &HostFacts { named, ..host() }, resolv).unwrap();
    assert_eq!(conf.mapping.dns_host_for(ip("192.0.2.9")), Some(ip("198.51.100.53")));
}

#[test]
fn a_server_that_no_query_goes_to_is_warned_of() {
    let warned = |options: &[&str], resolv: &str| {
        let conf = attempt(options, &host(), resolv).unwrap();
        texts(&conf).iter().any(|text| text.starts_with("--dns-host has no effect"))
    };
    for host in ["203.0.113.53", "dns.example.org"] {
        let given = ["--dns-host", host];
        let forwarded = [&given[..], &["--dns-forward", "192.0.2.9"]].concat();
        assert!(warned(&given, "nameserver 198.51.100.53"), "{host}");
        assert!(!warned(&forwarded, "nameserver 198.51.100.53"), "{host}");
        assert!(!warned(&given, "nameserver 127.0.0.53"), "{host}: forwarded by itself");
    }
    assert!(!warned(&[], "nameserver 198.51.100.53"));
}

#[test]
fn servers_of_a_family_that_the_host_lacks_are_no_use() {
    let facts = HostFacts { no_ipv6: true, v6: None, ..host() };
    let resolv = "nameserver 2001:db8:1::53";
    let conf = attempt(&["--dns-forward", "192.0.2.9"], &facts, resolv).unwrap();
    assert_eq!(conf.mapping.dns_host_for(v4("192.0.2.9").into()), None);
    let said = |text: &&str| text.starts_with("Couldn't get any nameserver address: ");
    assert!(texts(&conf).iter().any(said));
}

#[test]
fn link_local_name_servers_keep_their_interface() {
    let dns = |resolv: &str| {
        let conf = conf(&[], resolv);
        let shown = conf.network.v6.unwrap().dns.first().copied();
        (shown, conf.mapping.v6.dns_host, conf.mapping.dns_scope_id)
    };
    let server = Some(v6("fe80::53"));
    assert_eq!(dns("nameserver fe80::53%eth0"), (server, server, 2));
    assert_eq!(dns("nameserver fe80::53%2"), (server, server, 2));
    assert_eq!(dns("nameserver fe80::53"), (server, server, 2));
    let gateway = Some(v6("2001:db8::1"));
    assert_eq!(dns("nameserver fe80::53%eth1"), (gateway, server, 3));
    assert_eq!(dns("nameserver fe80::53%eth9"), (None, None, 0));
    let conf = conf(&[], "nameserver fe80::53%eth9");
    assert!(texts(&conf).contains(&"Ignoring nameserver fe80::53%eth9: no such interface"));

    let only4 = ["--ipv4-only", "--dns-forward", "192.0.2.9"];
    let scoped = self::conf(&only4, "nameserver fe80::53%eth1").mapping;
    assert_eq!((scoped.v6.dns_host, scoped.dns_scope_id), (server, 3));
    let conf = self::conf(&only4, "nameserver fe80::53");
    assert_eq!(conf.mapping.v6.dns_host, None);
    let note = "Ignoring nameserver fe80::53: no interface to reach it by";
    assert!(texts(&conf).contains(&note));
}

#[test]
fn missing_name_servers_are_warned_of() {
    let warnings = |arguments: &[&str], resolv: &str| -> Vec<String> {
        let conf = conf(arguments, resolv);
        let warnings = conf.notes.into_iter().filter(|note| note.level == log::Level::Warn);
        warnings.map(|note| note.text).collect()
    };
    let nothing = "Couldn't get any nameserver address: /etc/resolv.conf has none that can be used: give one by --dns";
    let no_v4 = "No IPv4 nameserver available for DHCP";
    let no_v6 = "No IPv6 nameserver available for NDP/DHCPv6";
    let both = "nameserver 192.0.2.53\nnameserver 2001:db8::53";
    assert_eq!(warnings(&[], ""), [nothing, no_v4, no_v6]);
    assert_eq!(warnings(&["--no-dhcp-dns"], ""), [nothing]);
    // With one of the other family it is no more than good to know.
    for (arguments, resolv) in [(&["-D", "192.0.2.53"][..], ""), (&[], "nameserver 192.0.2.53")] {
        assert_eq!(warnings(arguments, resolv), [""; 0]);
        assert!(conf(arguments, resolv).notes.contains(&Note::info(no_v6)));
    }
    assert_eq!(warnings(&["--no-ra", "--no-dhcpv6"], "nameserver 192.0.2.53"), [""; 0]);
    assert_eq!(warnings(&["-D", "none"], ""), [""; 0]);
    assert_eq!(warnings(&[], both), [""; 0]);
    assert_eq!(
        warnings(&["-m", "0"], both),
        ["MTU 0 is too small for IPv4 (minimum 68)", "MTU 0 is too small for IPv6 (minimum 1280)"]
    );
    assert_eq!(warnings(&["-m", "1280"], both), [""; 0]);
}

#[test]
fn search_list_is_that_of_the_operator_first() {
    let search = |arguments: &[&str]| conf(arguments, "search a.example b.example").network.search;
    assert_eq!(search(&[]).as_slice(), ["a.example", "b.example"]);
    assert_eq!(search(&["-S", "c.example"]).as_slice(), ["c.example"]);
    assert!(search(&["-S", "none"]).is_empty());
}

#[test]
fn bad_options_are_reported_before_bad_ports() {
    let error = attempt(&["-t", "x", "-m", "99999"], &host(), "").unwrap_err();
    assert_eq!(error.to_string(), "MTU 99999 too large (max 65521)");
    let error = attempt(&["-u", "y", "-t", "x"], &host(), "").unwrap_err();
    assert_eq!(error.to_string(), "Invalid port specifier 'y'");
    let error = attempt(&["-t", "22", "--no-tcp"], &host(), "").unwrap_err().to_string();
    assert!(error.starts_with("Can't add TCP forwarding rule, TCP not enabled\n"), "{error}");
}

#[test]
fn parts_of_a_specification_share_its_index() {
    let conf = conf(&["-t", "~25", "-u", "53"], "");
    let indices: Vec<_> = conf.rules.rules().iter().map(|rule| rule.spec_index).collect();
    assert_eq!(indices, [0, 0, 0, 1]);
}

#[test]
fn link_and_process_matters_are_passed_on() {
    if HAS_VHOST_USER {
        assert_eq!(conf(&["--vhost-user"], "").link.mode, Mode::VhostUser);
    }
    let conf = conf(&["-1", "-s", "/run/s", "-P", "/run/p", "--freebind"], "");
    assert_eq!(conf.link.mode, Mode::Stream);
    assert_eq!(conf.link.socket.as_deref(), Some(Path::new("/run/s")));
    assert!(conf.link.one_off && conf.freebind);
    assert_eq!(conf.run.pid.as_deref(), Some(Path::new("/run/p")));
}

#[test]
fn banner_of_everything() {
    let mut conf = conf(
        &[
            "-o",
            "192.0.2.2",
            "-o",
            "2001:db8::2",
            "--outbound-if4",
            "eth0",
            "--outbound-if6",
            "eth1",
            "-t",
            "2222:22",
            "-u",
            "[::]/5353",
        ],
        "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch a.example b.example",
    );
    // By hand: not each build has the option.
    conf.link.mode = Mode::VhostUser;
    let text = "\
UNIX domain socket bound at /tmp/passt_1.socket
Template interface: eth0 (IPv4), eth0 (IPv6)
Outbound interface: eth0 (IPv4), eth1 (IPv6)
Outbound IPv4 address: 192.0.2.2
Outbound IPv6 address: 2001:db8::2
MAC:
    host: 9a:55:9a:55:9a:55
    NAT to host 127.0.0.1: 192.0.2.1
DHCP:
    assign: 192.0.2.2
    mask: 255.255.255.0
    router: 192.0.2.1
DNS:
    192.0.2.53
DNS search list:
    a.example
    b.example
    NAT to host ::1: 2001:db8::1
NDP/DHCPv6:
    assign: 2001:db8::2
    router: 2001:db8::1
    our link-local: fe80::fc
DNS:
    2001:db8::53
DNS search list:
    a.example
    b.example
Inbound forwarding rules (HOST):
    TCP [*]:2222  =>  22\x20
    UDP [::]:5353  =>  5353\x20
";
    assert_eq!(banner(&conf, Some(Path::new("/tmp/passt_1.socket"))), text);
    let text = "\
You can start qemu with:
    kvm ... -chardev socket,id=chr0,path=/tmp/passt_1.socket \
-netdev vhost-user,id=netdev0,chardev=chr0 -device virtio-net-pci,netdev=netdev0 \
-object memory-backend-memfd,id=memfd0,share=on,size=$RAMSIZE -numa node,memdev=memfd0
";
    assert_eq!(hint(conf.link.mode, Some(Path::new("/tmp/passt_1.socket"))), text);
}

#[test]
fn banner_of_the_least() {
    let arguments = ["-4", "--no-dhcp", "--no-map-gw", "-D", "none", "-F", "3"];
    let text = "Template interface: eth0 (IPv4)\nMAC:\n    host: 9a:55:9a:55:9a:55\n\
                Inbound forwarding rules (HOST):\n";
    assert_eq!(banner(&conf(&arguments, ""), None), text);
}

#[test]
fn banner_of_local_mode_and_the_stream_hint() {
    let conf = attempt(&["-6"], &HostFacts::default(), "").unwrap();
    let text = "\
UNIX domain socket bound at /s
MAC:
    host: 9a:55:9a:55:9a:55
    NAT to host ::1: fe80::1
NDP:
    assign: ::
    router: fe80::1
    our link-local: fe80::1
Inbound forwarding rules (HOST):
";
    assert_eq!(banner(&conf, Some(Path::new("/s"))), text);
    let text = "
You can now start qemu (>= 7.2, with commit 13c6be96618c):
    kvm ... -device virtio-net-pci,netdev=s -netdev stream,id=s,server=off,addr.type=unix,addr.path=/s
";
    assert_eq!(hint(conf.link.mode, Some(Path::new("/s"))), text);
    assert_eq!(hint(conf.link.mode, None), "", "the one client is there");
}

#[test]
fn banner_without_a_router() {
    let mut facts = host();
    let v6 = facts.v6.as_mut().unwrap();
    (v6.gateway, v6.default_route) = (None, false);
    let text = banner(&attempt(&["-6"], &facts, "").unwrap(), None);
    assert!(text.contains("    assign: 2001:db8::2\n    our link-local: "), "{text}");
    assert!(!text.contains("router:"), "{text}");
}

fn pasta_attempt(arguments: &[&str], facts: &HostFacts) -> Result<Conf, ConfError> {
    let words = ["pasta"].iter().chain(arguments).map(|word| (*word).into());
    match parse(words)? {
        Command::Run(options) => resolve(*options, facts, "nameserver 198.51.100.53\n", EPHEMERAL),
        other => panic!("{other:?}"),
    }
}

fn pasta(arguments: &[&str]) -> Conf {
    pasta_attempt(arguments, &host()).unwrap()
}

#[test]
fn pasta_serves_what_its_words_say() {
    let target = |arguments: &[&str]| pasta(arguments).pasta.unwrap().target;
    let join = |network: &str, user: Option<&str>| Target::Join {
        network: network.into(),
        user: user.map(Into::into),
    };
    assert_eq!(target(&["42"]), join("/proc/42/ns/net", Some("/proc/42/ns/user")));
    assert_eq!(target(&["--userns", "/u", "42"]), join("/proc/42/ns/net", Some("/u")));
    assert_eq!(target(&["--netns-only", "42"]), target(&["42"]));
    assert_eq!(target(&["--userns", "/u", "--netns-only", "--netns", "/n"]), join("/n", None));
    assert_eq!(target(&["--netns", "/n"]), join("/n", None));
    let spawn = |user: UserNamespace| Target::Spawn {
        command: vec!["42".into(), "foo".into()],
        pid_namespace: false,
        user,
    };
    let command = ["--no-pidns", "42", "foo"];
    assert_eq!(target(&command), spawn(UserNamespace::New));
    let given = |options: &[&'static str]| target(&[options, &command].concat());
    assert_eq!(given(&["--userns", "/u"]), spawn(UserNamespace::At("/u".into())));
    assert_eq!(given(&["--userns", "/u", "--netns-only"]), spawn(UserNamespace::Ours));
}

#[test]
fn pasta_copies_what_was_not_given() {
    let copying = |arguments: &[&str]| {
        let conf = pasta(arguments).pasta.unwrap();
        [conf.copy_v4, conf.copy_v6].map(|copying| (copying.addresses, copying.routes))
    };
    let all = (true, true);
    assert_eq!(copying(&["--config-net"]), [all, all]);
    assert_eq!(copying(&["--config-net", "-a", "192.0.2.9"]), [(false, true), all]);
    assert_eq!(copying(&["--config-net", "-g", "2001:db8::9"]), [all, (true, false)]);
    let neither = ["--config-net", "--no-copy-routes", "--no-copy-addrs"];
    assert_eq!(copying(&neither), [(false, false); 2]);
    let local = pasta_attempt(&["--config-net"], &HostFacts::default()).unwrap().pasta.unwrap();
    assert_eq!(local.interface, name("tap0"));
    assert_eq!((local.copy_v4, local.copy_v6), (Copying::default(), Copying::default()));
}

#[test]
fn pasta_hands_out_no_names_unless_told() {
    let services = |arguments: &[&str]| pasta(arguments).network.services;
    assert!(!services(&[]).hand_out_dns && !services(&[]).hand_out_search);
    assert!(services(&["--dhcp-dns"]).hand_out_dns);
    assert!(services(&["--dhcp-search"]).hand_out_search);
    assert!(services(&[]).ra && !services(&["--config-net"]).ra);
}

#[test]
fn pasta_options_that_contradict_are_refused() {
    let refused = |arguments: &[&str]| pasta_attempt(arguments, &host()).unwrap_err().to_string();
    assert_eq!(refused(&["--netns", "x", "12"]), "Both --netns and PID or command given");
    assert_eq!(refused(&["99999999999"]), "Invalid PID 99999999999");
    assert_eq!(refused(&["--no-copy-addrs"]), "--no-copy-addrs needs --config-net");
    assert_eq!(refused(&["--no-copy-routes"]), "--no-copy-routes needs --config-net");
    assert_eq!(
        refused(&["--host-lo-to-ns-lo", "--no-splice"]),
        "--host-lo-to-ns-lo is incompatible with --no-splice"
    );
    assert_eq!(
        refused(&["--splice-only", "--no-splice"]),
        "--splice-only is incompatible with --no-splice"
    );
    assert_eq!(refused(&["--no-pidns", "12"]), "--no-pidns is incompatible with PID or --netns");
}

/// Rules of both ways, in short: protocol and first port, `+` for those that follow services.
fn forwarded(arguments: &[&str]) -> [Vec<String>; 2] {
    let conf = pasta(arguments);
    [conf.rules, conf.pasta.unwrap().outbound].map(|table| {
        let short = |rule: &crate::flow::fwd::Rule| {
            format!("{} {}{}", rule.proto, rule.first, if rule.scan { "+" } else { "" })
        };
        table.rules().iter().filter(|rule| rule.first < 61000).map(short).collect()
    })
}

#[test]
fn pasta_follows_services_where_nothing_else_was_said() {
    let auto = ["TCP 1+", "UDP 1+"].map(str::to_owned).to_vec();
    let none = Vec::<String>::new();
    assert_eq!(forwarded(&[]), [auto.clone(), auto.clone()]);
    assert_eq!(forwarded(&["-t", "none", "-u", "none"]), [none.clone(), auto]);
    let nothing = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"];
    assert_eq!(forwarded(&nothing), [none.clone(), none]);
    let mixed = [&["UDP 53", "TCP 1+"], &["TCP 22+", "UDP 1+"]];
    let mixed = mixed.map(|side| side.map(str::to_owned).to_vec());
    assert_eq!(forwarded(&["-u", "53", "-T", "22,auto"]), mixed);
    let only_tcp = vec!["TCP 1+".to_owned()];
    assert_eq!(forwarded(&["--no-udp"]), [only_tcp.clone(), only_tcp]);
    assert!(attempt(&[], &host(), "").unwrap().rules.rules().is_empty(), "passt");
}

#[test]
fn pasta_tells_of_the_rules_of_both_ways() {
    let conf = pasta(&["-t", "22", "-u", "none", "-T", "80", "-U", "none"]);
    let text = banner(&conf, None);
    assert!(text.contains("Inbound forwarding rules (HOST):\n    TCP [*]:22  =>  22 \n"), "{text}");
    let outbound = "Outbound forwarding rules (SPLICE):\n    TCP [*]%lo:80  =>  80 \n";
    assert!(text.contains(outbound), "{text}");
}

/// A command line that works but for one rule is to start.
#[test]
fn a_loopback_address_as_target_is_told_of_where_nothing_gets_there() {
    let warned = |conf: Conf| {
        let warnings = conf.notes.into_iter().filter(|note| note.level == log::Level::Warn);
        warnings.map(|note| note.text).collect::<Vec<_>>()
    };
    let rules = ["-t", "0.0.0.0/7301:127.0.0.1/7201", "-u", "::/53:::1/53", "-t", "22"];
    let cure = "leave the address out, or start with --host-lo-to-ns-lo";
    let said = [
        format!(
            "--tcp-ports: TCP [0.0.0.0]:7301  =>  127.0.0.1:7201: nothing gets to 127.0.0.1, a loopback address of \
             the guest's own: {cure}"
        ),
        format!(
            "--udp-ports: UDP [::]:53  =>  [::1]:53: nothing gets to ::1, a loopback address of the guest's own: {cure}"
        ),
    ];
    assert_eq!(warned(pasta(&rules)), said);
    assert_eq!(warned(pasta(&[&rules[..], &["--no-splice"]].concat())), said);
    for way in ["--host-lo-to-ns-lo", "--splice-only"] {
        let conf = pasta(&[&rules[..], &[way]].concat());
        assert_eq!(conf.rules.rules().len(), 3, "{way}");
        assert_eq!(warned(conf), [""; 0], "{way}");
    }
    let passt = warned(conf(&rules, "nameserver 192.0.2.53\nnameserver 2001:db8::53"));
    assert!(passt.len() == 2 && passt[0].ends_with(": leave the address out"), "{passt:?}");
}

#[test]
fn what_passes_the_tap_device_by() {
    let bypass = |arguments: &[&str]| {
        let bypass = pasta(arguments).pasta.unwrap().bypass;
        (bypass.enabled, bypass.keep_loopback)
    };
    assert_eq!(bypass(&[]), (true, false));
    assert_eq!(bypass(&["--host-lo-to-ns-lo"]), (true, true));
    assert_eq!(bypass(&["--no-splice"]), (false, false));
    assert!(attempt(&["--no-splice"], &host(), "").is_ok(), "passt accepts it, too");
}

#[test]
fn splice_only_leaves_nothing_but_ports() {
    let options = [
        "--splice-only",
        "--config-net",
        "-D",
        "192.0.2.53",
        "-t",
        "22",
        "-u",
        "none",
        "-T",
        "80",
        "-U",
        "none",
    ];
    let conf = pasta_attempt(&options, &HostFacts::default()).unwrap();
    let services = &conf.network.services;
    assert!(services.tcp && services.udp && !services.icmp);
    assert!(!services.dhcp && !services.dhcpv6 && !services.ndp && !services.ra);
    let v4 = conf.network.v4.as_ref().unwrap();
    assert!(v4.dns.is_empty() && conf.network.search.is_empty());
    assert_eq!(conf.mapping, Mapping::default());
    assert_eq!(conf.notes, [], "no word about interfaces or name servers");
    let bypass = conf.pasta.as_ref().unwrap().bypass;
    assert_eq!((bypass.enabled, bypass.keep_loopback, bypass.only), (true, true, true));
    assert_eq!(
        banner(&conf, None),
        "Inbound forwarding rules (HOST):\n    TCP [*]:22  =>  22 \n\
         Outbound forwarding rules (SPLICE):\n    TCP [*]%lo:80  =>  80 \n"
    );
}

#[test]
fn pasta_warns_where_sockets_cannot_be_bound_to_interfaces() {
    let facts = HostFacts { no_device_binding: true, ..host() };
    let found = |arguments: &[&str]| {
        let conf = pasta_attempt(arguments, &facts).unwrap();
        let warned = texts(&conf).iter().any(|text| text.contains("requires kernel 5.7+"));
        (conf.pasta.unwrap().outbound.rules().len(), warned)
    };
    assert_eq!(found(&["-T", "22", "-U", "none"]), (2, true));
    assert_eq!(found(&["-T", "none", "-U", "none"]), (0, false));
    assert_eq!(
        attempt(&["-u", "%eth0/53"], &facts, "").unwrap_err().to_string(),
        "Device binding for '-u %eth0/53' unsupported (requires kernel 5.7+)"
    );
}

#[test]
fn a_guest_without_a_way_out_is_told_of_no_default_router() {
    let is_router = |arguments: &[&str], facts: &HostFacts| {
        attempt(arguments, facts, "").unwrap().network.v6.unwrap().default_router
    };
    let mut facts = host();
    assert!(is_router(&[], &facts));
    facts.beyond_link_v6 = false;
    for v6 in [facts.v6.clone(), None] {
        let facts = HostFacts { v6, ..facts.clone() };
        assert!(!is_router(&[], &facts));
        assert!(!is_router(&["--map-host-loopback", "fe80::7"], &facts), "on the link");
        assert!(!is_router(&["-g", "192.0.2.9"], &facts), "of the other family");
        assert!(is_router(&["-g", "2001:db8::9"], &facts));
        assert!(is_router(&["--map-host-loopback", "2001:db8:1::9"], &facts));
        assert!(is_router(&["--map-guest-addr", "2001:db8:1::9"], &facts));
        assert!(is_router(&["--dns-forward", "2001:db8:1::9"], &facts));
    }
}

#[test]
fn the_file_to_boot_from_is_here_unless_somebody_says_otherwise() {
    let server = |boot: &str| conf(&["--dhcp-boot", boot], "").network.extra.boot.unwrap().server;
    assert_eq!(server("a.efi"), Some(v4("192.0.2.1")));
    assert_eq!(server("a.efi,198.51.100.7"), Some(v4("198.51.100.7")));
    assert_eq!(server("http://198.51.100.7/a.efi"), None);
}
