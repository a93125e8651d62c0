//! What `conf::host` finds out about the host, asked of a real kernel: each test makes a network
//! namespace of its own, sets it up with ip(8), and runs itself again in there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;

use passt::conf::host::{HostFacts, facts};
use passt::conf::{Command as Parsed, Conf, Interfaces, Only, parse, resolve};
use passt::flow::fwd::InterfaceName;
use passt_support::namespace::isolated;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Two interfaces that are up, with link-local addresses that are there at once.
const TWO_LINKS: &str = "ip link set lo up
    ip link add link0 type veth peer name link1
    ip link set link0 addrgenmode none
    ip link set link1 addrgenmode none
    ip link set link0 up
    ip link set link1 up
    ip addr add fe80::10/64 dev link0 nodad
    ip addr add fe80::11/64 dev link1 nodad";

/// Wider addresses of both families on each of them.
const ADDRESSES: &str = "ip addr add 192.0.2.2/24 dev link0
    ip addr add 2001:db8::2/64 dev link0 nodad
    ip addr add 198.51.100.2/24 dev link1
    ip addr add 2001:db8:1::2/64 dev link1 nodad";

/// Runs `body` in a new network namespace after the lines of `setup`.
fn in_namespace<F: FnOnce()>(setup: &[&str], body: F) {
    isolated(&setup.join("\n"), body);
}

fn name(text: &str) -> InterfaceName {
    InterfaceName::new(text).unwrap()
}

fn found() -> HostFacts {
    facts(&Interfaces::default()).unwrap()
}

fn notes(facts: &HostFacts) -> Vec<&str> {
    facts.notes.iter().map(|note| note.text.as_str()).collect()
}

fn configured(arguments: &[&str]) -> Conf {
    configured_as("passt", arguments)
}

fn configured_as(program: &str, arguments: &[&str]) -> Conf {
    let words = std::iter::once(&program).chain(arguments).map(|word| (*word).into());
    let Parsed::Run(options) = parse(words).unwrap() else { panic!("no options") };
    let facts = facts(&options.interfaces).unwrap();
    resolve(*options, &facts, "", (32768, 60999)).unwrap()
}

#[test]
fn default_route_names_the_template() {
    let routes = "ip route add default via 192.0.2.1 dev link0
        ip -6 route add default via 2001:db8::1 dev link0
        ip route add 203.0.113.0/24 via 198.51.100.1 dev link1";
    in_namespace(&[TWO_LINKS, ADDRESSES, routes], || {
        let facts = found();
        let v4 = facts.v4.as_ref().unwrap();
        assert_eq!(v4.name, name("link0"));
        assert_eq!(Some(v4.index), facts.index(&name("link0")));
        assert_eq!(v4.address, Some((Ipv4Addr::new(192, 0, 2, 2), 24)));
        assert_eq!(v4.gateway, Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(v4.link_local, None);
        let v6 = facts.v6.as_ref().unwrap();
        assert_eq!(v6.name, name("link0"));
        assert_eq!(v6.address, Some(("2001:db8::2".parse().unwrap(), 64)));
        assert_eq!(v6.gateway, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(v6.link_local, Some("fe80::10".parse().unwrap()));
        assert!(notes(&facts).is_empty(), "{facts:?}");

        let conf = configured(&["-4", "-i", "link1"]);
        let v4 = conf.network.v4.clone().unwrap();
        assert_eq!(v4.addr, Ipv4Addr::new(198, 51, 100, 2));
        let routes = v4.routes.unwrap();
        let there = Ipv4Addr::new(203, 0, 113, 0);
        let route = routes.iter().find(|route| route.destination == there).unwrap();
        assert_eq!((route.prefix_len, route.gateway), (24, Ipv4Addr::new(198, 51, 100, 1)));
        assert_eq!(conf.network.v6, None);
        assert_we_stand_in(&conf);
    });
}

/// A point-to-point interface, as pppd(8) and VPNs set it up.
const POINT_TO_POINT: &str = "ip link set lo up
    ip tuntap add ppp0 mode tun
    ip link set ppp0 up
    ip addr add 192.0.2.7 peer 192.0.2.1 dev ppp0";

fn ip(arguments: &str) {
    let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

#[test]
fn a_default_route_without_a_gateway_is_one() {
    in_namespace(&[POINT_TO_POINT], || {
        assert_eq!(found().v4, None, "the other end alone is no network");
        for route in ["dev ppp0", "dev ppp0 scope host", "nexthop dev ppp0 nexthop dev ppp0"] {
            ip(&format!("route add default {route}"));
            let facts = found();
            let v4 = facts.v4.as_ref().unwrap();
            assert_eq!((v4.name, v4.gateway), (name("ppp0"), None), "{route}");
            assert!(v4.default_route);
            assert_eq!(v4.address, Some((Ipv4Addr::new(192, 0, 2, 7), 32)));
            assert!(!notes(&facts).iter().any(|note| note.contains("IPv4")), "{facts:?}");
            ip(&format!("route del default {route}"));
        }
        let mut conf = configured(&[]);
        assert_eq!(conf.network.v4.unwrap().addr, Ipv4Addr::new(169, 254, 2, 1));
        ip("route add default dev ppp0");
        conf = configured(&["--map-guest-addr", "169.254.1.2"]);
        assert_eq!(conf.network.v4.as_ref().unwrap().addr, Ipv4Addr::new(192, 0, 2, 7));
        assert_we_stand_in(&conf);
    });
}

/// The guest is told of the host's routes, and of no default one.
fn assert_no_router(conf: &Conf) {
    assert_we_stand_in(conf);
    let routes = conf.network.v4.as_ref().unwrap().routes.as_ref().unwrap();
    assert!(!routes.is_empty() && routes.iter().all(|route| route.prefix_len > 0), "{routes:?}");
}

/// The guest's gateway is one that we stand in for, at which it finds the host.
fn assert_we_stand_in(conf: &Conf) {
    let stand_in = Some(Ipv4Addr::new(169, 254, 2, 2));
    assert_eq!(conf.network.v4.as_ref().unwrap().gateway, stand_in);
    assert_eq!(conf.mapping.v4.host_loopback, stand_in);
    assert!(conf.network.services.dhcp);
}

#[test]
fn a_default_route_over_an_ipv6_neighbour_is_one() {
    in_namespace(&[TWO_LINKS, ADDRESSES], || {
        ip("nexthop add id 7 via fe80::99 dev link0");
        for route in [
            "via inet6 fe80::99 dev link0",
            "via inet6 2001:db8::1 dev link0",
            "nhid 7",
            "nexthop via inet6 fe80::99 dev link0 weight 2 nexthop via 192.0.2.1 dev link0 weight 1",
        ] {
            ip(&format!("-4 route add default {route}"));
            let v4 = found().v4.unwrap();
            assert_eq!(
                (v4.name, v4.default_route, v4.gateway),
                (name("link0"), true, None),
                "{route}"
            );
            assert_eq!(v4.address, Some((Ipv4Addr::new(192, 0, 2, 2), 24)));
            assert_we_stand_in(&configured(&[]));
            // The other interface has a network, and no way out.
            assert_no_router(&configured(&["-i", "link1"]));
            ip(&format!("-4 route del default {route}"));
        }
        assert_no_router(&configured(&["-i", "link0"]));
    });
}

#[test]
fn a_default_route_without_a_gateway_competes_by_its_metric() {
    let routes = "ip route add default via 198.51.100.1 dev link1 metric 100";
    in_namespace(&[TWO_LINKS, ADDRESSES, routes], || {
        ip("route add default dev link0 metric 50");
        assert_eq!(found().v4.unwrap().name, name("link0"));
        ip("route del default dev link0 metric 50");
        ip("route add default dev link0 metric 200");
        assert_eq!(found().v4.unwrap().name, name("link1"));
    });
}

#[test]
fn heaviest_next_hop_is_the_gateway_and_the_first_of_equals() {
    let routes = "ip route add default nexthop via 192.0.2.11 weight 2 \
            nexthop via 192.0.2.12 weight 5 nexthop via 192.0.2.13 weight 5
        ip -6 route add default nexthop via 2001:db8::11 weight 1 nexthop via 2001:db8::12 weight 1";
    in_namespace(&[TWO_LINKS, ADDRESSES, routes], || {
        let facts = found();
        assert_eq!(facts.v4.unwrap().gateway, Some(Ipv4Addr::new(192, 0, 2, 12)));
        assert_eq!(facts.v6.unwrap().gateway, Some("2001:db8::11".parse().unwrap()));
    });
}

#[test]
fn first_of_several_default_routes_is_picked() {
    let routes = "ip route add default via 192.0.2.1 dev link0 metric 10
        ip route add default via 198.51.100.1 dev link1 metric 20";
    in_namespace(&[TWO_LINKS, ADDRESSES, routes], || {
        let facts = found();
        assert_eq!(facts.v4.as_ref().unwrap().name, name("link0"));
        assert!(notes(&facts).contains(&"Multiple default IPv4 routes, picked first"));
    });
}

#[test]
fn without_a_default_route_the_first_other_route_counts() {
    let routes = "ip route add 203.0.113.0/24 via 198.51.100.1 dev link1";
    in_namespace(&[TWO_LINKS, ADDRESSES, routes], || {
        let facts = found();
        let v4 = facts.v4.as_ref().unwrap();
        assert_eq!((v4.name, v4.gateway), (name("link1"), None));
        assert!(notes(&facts).contains(&"Multiple interfaces with IPv6 routes, picked first"));
    });
}

#[test]
fn longest_prefix_is_taken_and_deprecated_addresses_are_not() {
    let addresses = "ip addr add 192.0.2.2/24 dev link0
        ip addr add 203.0.113.7/28 dev link0
        ip addr add 203.0.113.40/28 dev link0
        ip addr add 2001:db8::2/64 dev link0 nodad
        ip addr add 2001:db8:1::2/128 dev link0 nodad preferred_lft 0
        ip route add default via 192.0.2.1 dev link0
        ip -6 route add default via fe80::99 dev link0";
    in_namespace(&[TWO_LINKS, addresses], || {
        let facts = found();
        let v6 = facts.v6.unwrap();
        assert_eq!(facts.v4.unwrap().address, Some((Ipv4Addr::new(203, 0, 113, 7), 28)));
        assert_eq!(v6.address, Some(("2001:db8::2".parse().unwrap(), 64)));
        let net = configured(&[]).network.v6.unwrap();
        assert_eq!(net.our_link_local, "fe80::99".parse::<Ipv6Addr>().unwrap());
        assert_eq!(net.scope_id, v6.index);
    });
}

#[test]
fn link_local_only_is_local_mode() {
    in_namespace(&[TWO_LINKS], || {
        let facts = found();
        assert_eq!((&facts.v4, &facts.v6), (&None, &None));
        assert!(notes(&facts).contains(&"No interfaces with usable IPv6 routes"));
        let conf = configured(&[]);
        let texts: Vec<_> = conf.notes.iter().map(|note| note.text.as_str()).collect();
        for family in ["IPv4", "IPv6"] {
            let text = format!("{family}: no external interface as template, use local mode");
            assert!(texts.contains(&text.as_str()), "{texts:?}");
        }
        let v4 = conf.network.v4.unwrap();
        assert_eq!((v4.addr, v4.prefix_len), (Ipv4Addr::new(169, 254, 2, 1), 16));
        assert_eq!(v4.gateway, Some(Ipv4Addr::new(169, 254, 2, 2)));
        let v6 = conf.network.v6.unwrap();
        assert_eq!((v6.addr, v6.scope_id), (None, 0));
        assert_eq!(v6.gateway, Some(v6.our_link_local));
    });
}

#[test]
fn named_interfaces_must_exist_and_be_of_use() {
    in_namespace(&[TWO_LINKS, ADDRESSES], || {
        for wish in [
            Interfaces { template: Some(name("eno999")), ..Interfaces::default() },
            Interfaces { outbound_v6: Some(name("eno999")), ..Interfaces::default() },
        ] {
            let error = facts(&wish).unwrap_err();
            assert_eq!(error.to_string(), "Invalid interface name eno999: No such device");
        }
        let wish = Interfaces {
            template: Some(name("lo")),
            only: Some(Only::V6),
            outbound_v4: None,
            outbound_v6: None,
        };
        let facts = facts(&wish).unwrap();
        assert_eq!(facts.v4, None);
        assert_eq!(facts.v6.unwrap().link_local, None);
    });
}

#[test]
fn routes_of_other_tables_do_not_count() {
    let routes = "ip route add default via 192.0.2.1 dev link0 table 100";
    in_namespace(&[TWO_LINKS, ADDRESSES, routes], || {
        assert_eq!(found().v4, None);
    });
}

#[test]
fn a_table_that_rules_choose_leads_everywhere() {
    let setup = "ip route add 10.0.0.0/8 via 192.0.2.1
        ip -6 route add fd00::/8 via 2001:db8::1
        ip route add default via 192.0.2.1 dev link0 table 100
        ip -6 route add default via 2001:db8::1 dev link0 table 100";
    in_namespace(&[TWO_LINKS, ADDRESSES, setup], || {
        let facts = found();
        assert!(!facts.v4.unwrap().default_route && !facts.v6.unwrap().default_route);
        assert_no_router(&configured(&[]));
        ip("rule add pref 40000 table 100");
        ip("-6 rule add pref 40000 table 100");
        let facts = found();
        assert!(facts.v4.unwrap().default_route && facts.v6.unwrap().default_route);
        let conf = configured(&[]);
        assert_we_stand_in(&conf);
        assert_eq!(conf.network.v4.unwrap().routes, None);
        // Sockets that are bound to an interface find no other way.
        assert_no_router(&configured(&["--outbound-if4", "link0"]));
    });
}

#[test]
fn next_hops_that_are_told_by_number_are_told_of() {
    let setup = "sysctl -qw net.ipv4.nexthop_compat_mode=0
        ip nexthop add id 7 via 192.0.2.1 dev link0
        ip route add default nhid 7";
    in_namespace(&[TWO_LINKS, ADDRESSES, setup], || {
        let facts = found();
        let cure = |note: &&str| note.contains("sysctl -w net.ipv4.nexthop_compat_mode=1");
        assert_eq!(notes(&facts).into_iter().filter(cure).count(), 1, "{facts:?}");
        // Where they lead is seen by asking.
        assert!(facts.v4.unwrap().default_route);
        let setting = ["-qw", "net.ipv4.nexthop_compat_mode=1"];
        assert!(Command::new("sysctl").args(setting).status().unwrap().success());
        let facts = found();
        assert_eq!(notes(&facts).into_iter().filter(cure).count(), 0, "{facts:?}");
        assert_eq!(facts.v4.unwrap().gateway, Some(Ipv4Addr::new(192, 0, 2, 1)));
    });
}

#[test]
fn many_routes_and_addresses_are_read_to_the_end() {
    let many = "for i in $(seq 1 200); do
            ip addr add 203.0.113.$i/32 dev link1
            ip route add 198.18.$i.0/24 via 192.0.2.1 dev link0
        done
        ip route add default via 198.51.100.1 dev link1";
    in_namespace(&[TWO_LINKS, ADDRESSES, many], || {
        let v4 = found().v4.unwrap();
        assert_eq!(v4.name, name("link1"));
        assert_eq!(v4.address, Some((Ipv4Addr::new(203, 0, 113, 1), 32)));
    });
}

#[test]
fn what_leads_beyond_the_link_in_any_table() {
    // The other interface has no address of its own here.
    let setup = "ip addr add 2001:db8::2/64 dev link0 nodad";
    in_namespace(&[TWO_LINKS, setup], || {
        for (route, beyond) in [
            ("", false),
            ("default via fe80::1 dev link0", true),
            ("2000::/3 via fe80::1 dev link0", true),
            ("2001:db8:7::/48 dev link1", true),
            ("unreachable default", false),
            ("default dev link0 table 7", true),
        ] {
            let ip = |verb: &str| {
                let words = ["-6", "route", verb].into_iter().chain(route.split(' '));
                route.is_empty() || Command::new("ip").args(words).status().unwrap().success()
            };
            assert!(ip("add"), "{route}");
            if route.ends_with("table 7") {
                let rule = ["-6", "rule", "add", "table", "7"];
                assert!(Command::new("ip").args(rule).status().unwrap().success());
            }
            assert_eq!(found().beyond_link_v6, beyond, "{route}");
            let conf = configured(&[]);
            assert_eq!(conf.network.v6.unwrap().default_router, beyond, "{route}");
            assert!(ip("del"), "{route}");
        }
    });
}

/// Has the calling thread meet `errno` where it binds a socket to an interface.
fn refuse_binding_to_interfaces(errno: i32) {
    let is = |argument, value: i32| {
        let value = u64::from(value.cast_unsigned());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap()
    };
    let conditions = vec![is(1, libc::SOL_SOCKET), is(2, libc::SO_BINDTODEVICE)];
    let rules =
        BTreeMap::from([(libc::SYS_setsockopt, vec![SeccompRule::new(conditions).unwrap()])]);
    let action = SeccompAction::Errno(errno.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&filter).unwrap();
}

#[test]
fn sockets_bind_to_interfaces_unless_that_is_refused_in_whatever_words() {
    in_namespace(&[TWO_LINKS, ADDRESSES], || {
        for (errno, binds) in [
            (libc::EPERM, false),
            (libc::ENOPROTOOPT, false),
            (libc::EINVAL, false),
            (libc::ENOSYS, false),
            // The interface is not there, which says nothing of others.
            (libc::ENODEV, true),
        ] {
            let asked = std::thread::spawn(move || {
                refuse_binding_to_interfaces(errno);
                configured_as("pasta", &["-i", "link0", "-T", "9090", "-U", "none"])
            });
            let conf = asked.join().unwrap();
            let warned = conf.notes.iter().any(|note| note.text.contains("bound to an interface"));
            assert_eq!(warned, !binds, "{errno}");
        }
    });
}
