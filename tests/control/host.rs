//! A program with the network of its host, in both families: what it tells of that, and of a change.

use std::net::UdpSocket;
use std::process::Command;

use passt_support::namespace::isolated;
use passt_support::wait::until;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::json;

use crate::guest::{Guest, MAC};
use crate::rig::{Client, Program};

const NETWORK: &str = "ip link set lo up
    ip link add eth0 type veth peer name peer0
    ip link set peer0 up
    ip link set eth0 up
    ip addr add 192.0.2.2/24 dev eth0
    ip addr add 2001:db8::2/64 dev eth0 nodad
    ip route add default via 192.0.2.1
    ip -6 route add default via 2001:db8::1";

fn ip(changes: &[&str]) {
    for change in changes {
        assert!(Command::new("ip").args(change.split(' ')).status().unwrap().success(), "{change}");
    }
}

#[test]
fn status_is_of_both_families() {
    isolated(NETWORK, || {
        let limit = Rlimit { current: Some(1024), maximum: Some(1024) };
        setrlimit(Resource::Nofile, limit).unwrap();
        let servers = ["--dns", "192.0.2.53", "--dns", "2001:db8::53"];
        let others = ["--map-guest-addr", "2001:db8::98", "-t", "8080", "-u", "5353"];
        let program = Program::of_host(&[&servers[..], &others].concat());
        let mut client = program.client();
        let status = client.answer("status");
        assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(status["listening"], 2, "a socket of each port, for both families");
        let v4 = json!({ "address": "192.0.2.2", "prefix_length": 24, "gateway": "192.0.2.1", "dns": ["192.0.2.53"] });
        let v6 = json!({ "address": "2001:db8::2", "prefix_length": 64, "gateway": "2001:db8::1",
            "dns": ["2001:db8::53"] });
        assert_eq!((&status["told"]["ipv4"], &status["told"]["ipv6"]), (&v4, &v6));
        let stands = |address: &str, means: &str| {
            let mapped = status["mapped"].as_array().unwrap();
            mapped.iter().any(|one| one["address"] == address && one["means"] == means)
        };
        assert!(stands("192.0.2.1", "host-loopback") && stands("2001:db8::1", "host-loopback"));
        assert!(stands("2001:db8::98", "guest-address"), "{status}");
        let limits = |name: &str| status["limits"][name].as_u64().unwrap();
        assert_eq!(limits("descriptors"), 1024);
        assert!((1..1024).contains(&limits("flows")), "{status}");
        assert_eq!(["rules", "egress_rules", "half_open"].map(limits), [255, 1024, 4096]);
        assert_eq!(status["learned"]["ipv6_link_local"], json!(null));

        let mut guest = Guest::of(&program);
        guest.rebinds(2);
        let learned = client.answer("status")["learned"].take();
        assert_eq!(learned["mac"], MAC.map(|byte| format!("{byte:02x}")).join(":"));
        assert_eq!(
            (&learned["ipv4"], &learned["ipv6"]),
            (&json!("192.0.2.2"), &json!("2001:db8::2"))
        );
        assert_eq!(learned["ipv6_link_local"], "fe80::5");
    });
}

#[test]
fn flows_of_each_family_are_found_by_its_addresses() {
    isolated(NETWORK, || {
        let program = Program::of_host(&["-u", "none"]);
        let (mut client, mut guest) = (program.client(), Guest::of(&program));
        let [v4, v6] = ["127.0.0.1:0", "[::1]:0"].map(|at| UdpSocket::bind(at).unwrap());
        guest.datagram(5000, v4.local_addr().unwrap().port(), b"v4");
        let port = v6.local_addr().unwrap().port();
        guest.datagram_v6((2, 1), (5000, port), b"v6");
        for server in [&v4, &v6] {
            server.recv_from(&mut [0; 8]).unwrap();
        }
        assert_eq!(client.flows().len(), 2);
        for (net, found) in
            [("192.0.2.0/24", "127.0.0.1"), ("2001:db8::/32", "::1"), ("::1", "::1")]
        {
            let flows = client.ask(&json!({ "command": "flows", "address": net }));
            let flows = flows["flows"].as_array().unwrap();
            assert_eq!((flows.len(), &flows[0]["target"]["address"]), (1, &json!(found)), "{net}");
        }
        let flows = client.ask(&json!({ "command": "flows", "address": "2001:db8::2" }));
        let initiator = json!({ "place": "guest", "address": "2001:db8::2", "port": 5000,
            "our_address": "2001:db8::1", "our_port": port });
        assert_eq!(flows["flows"][0]["initiator"], initiator);
        let reset = json!({ "command": "flow-reset", "flow": flows["flows"][0]["flow"] });
        client.ask(&reset);
        assert_eq!(client.flows().len(), 1);
    });
}

/// The host has another address.
const MOVE: [&str; 3] = [
    "addr add 198.51.100.7/24 dev eth0",
    "addr del 192.0.2.2/24 dev eth0",
    "route replace default via 198.51.100.1",
];

#[test]
fn changes_of_the_host_and_leases_of_ipv6_are_told() {
    isolated(NETWORK, || {
        let program = Program::of_host(&[]);
        let (mut client, mut watch) = (program.client(), program.client());
        watch.ask(&json!({ "command": "watch", "events": ["host", "lease"] }));
        let mut guest = Guest::of(&program);
        guest.rebinds(2);
        let lease = watch.event("lease");
        assert_eq!(
            (&lease["protocol"], &lease["address"]),
            (&json!("dhcpv6"), &json!("2001:db8::2"))
        );
        ip(&MOVE);
        // Of several steps there may be several events.
        let mut last = String::new();
        while !last.contains("198.51.100.7/24, router 198.51.100.1") {
            watch.event("host")["change"].as_str().unwrap().clone_into(&mut last);
        }
        until("the guest is told", || {
            let told = client.answer("status")["told"]["ipv4"].take();
            (told["address"] == "198.51.100.7" && told["gateway"] == "198.51.100.1").then_some(())
        });
    });
}

/// How often the rule of `--isolate` with this text has decided.
fn decided(client: &mut Client, text: &str) -> u64 {
    let policy = client.answer("egress");
    let rules = policy["rules"].as_array().unwrap();
    let rule = rules.iter().find(|rule| rule["rule"] == format!("--isolate: {text}"));
    rule.unwrap()["decided"].as_u64().unwrap()
}

/// Has the guest try to connect to `host` until the rule decides about that.
fn decides(program: &Program, guest: &mut Guest, (rule, host): (&str, [u8; 4])) {
    let mut client = program.client();
    let before = decided(&mut client, rule);
    let mut port = 40_000;
    until(&format!("{host:?}: {rule}"), || {
        port += 1;
        guest.knocks_at(host, (port, 7000));
        (decided(&mut client, rule) > before).then_some(())
    });
}

const ALLOWED: &str = "allow @internet";
const REJECTED: &str = "reject any";

#[test]
fn what_is_the_hosts_by_a_route_alone_is_forbidden_while_it_is() {
    isolated(NETWORK, || {
        ip(&["route add local 203.0.113.0/28 dev lo", "route add 203.0.113.128/25 dev eth0"]);
        let program = Program::of_host(&["--isolate"]);
        let mut guest = Guest::of(&program);
        for host in [[203, 0, 113, 3], [203, 0, 113, 200]] {
            guest.knocks_at(host, (40_000, 7000));
            guest.next(|frame| (frame.len() >= 54 && frame[26..30] == host).then_some(()));
        }
        let mut client = program.client();
        assert_eq!([REJECTED, ALLOWED].map(|rule| decided(&mut client, rule)), [2, 0]);
        for (route, host) in [
            ("local 198.51.100.0/28 dev lo", [198, 51, 100, 3]),
            ("198.51.100.128/25 dev eth0", [198, 51, 100, 200]),
            ("local 198.51.100.64/28 dev lo table 100", [198, 51, 100, 70]),
        ] {
            ip(&[&format!("route add {route}")]);
            if route.ends_with("table 100") {
                decides(&program, &mut guest, (ALLOWED, host));
                ip(&["rule add to 198.51.100.64/28 lookup 100"]);
            }
            decides(&program, &mut guest, (REJECTED, host));
            ip(&[&format!("route del {route}")]);
            decides(&program, &mut guest, (ALLOWED, host));
        }
    });
}

#[test]
fn rules_that_come_later_know_the_host_as_it_is_then() {
    isolated(NETWORK, || {
        let program = Program::of_host(&[]);
        let (mut client, mut watch) = (program.client(), program.client());
        let mut guest = Guest::of(&program);
        watch.ask(&json!({ "command": "watch", "events": ["host"] }));
        ip(&MOVE);
        while !watch.event("host")["change"].as_str().unwrap().contains("router 198.51.100.1") {}
        client.ask(&json!({ "command": "egress-replace", "rules": [], "isolate": true }));
        guest.knocks_at([198, 51, 100, 9], (40_000, 7000));
        until("a decision", || (decided(&mut client, REJECTED) == 1).then_some(()));
    });
}
