//! What of this host, and next to it, rules of egress are to know: addresses of interfaces, and what routes say besides
//! ([`routed`](super::routed)). A route may make any network the host's own (`ip route add local 203.0.113.0/28 dev lo`, as
//! load balancers do), and lead into one on a link where the host has no address.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::rule::RuleMessage;

use super::netlink::request_on;
use super::routed::{Candidate, table_of_rule};
use crate::conf::ConfError;
use crate::flow::fwd::Surroundings;
use crate::sys::netlink::Netlink;

/// Asks for all but routes, of which some were found to be `candidates`.
pub(super) fn with_routes(
    socket: &Netlink,
    mut candidates: Vec<Candidate>,
) -> Result<Surroundings, ConfError> {
    let failed = |source| ConfError::Netlink { what: "addresses", source };
    let addresses = addresses(socket).map_err(failed)?;
    let tables = tables(socket);
    candidates.retain(|one| tables.contains(&one.table()));
    let routed = candidates.into_iter().map(|one| one.routed).collect();
    Ok(Surroundings::new(addresses, routed))
}

/// All addresses of this host, whatever state they are in, with the lengths of their prefixes, most of them twice. Of a
/// point-to-point interface the other end's network is among them.
fn addresses(socket: &Netlink) -> io::Result<Vec<(IpAddr, u8)>> {
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let messages = request_on(socket, question, |message| match message {
        RouteNetlinkMessage::NewAddress(message) => Some(message),
        _ => None,
    });
    let mut found = Vec::new();
    for AddressMessage { header, attributes, .. } in messages? {
        found.extend(attributes.iter().filter_map(|attribute| match attribute {
            AddressAttribute::Local(address) | AddressAttribute::Address(address) => {
                Some((*address, header.prefix_len))
            }
            _ => None,
        }));
    }
    Ok(found)
}

/// The tables that count, of IPv4 (`true`) and IPv6. A kernel without rules has two.
fn tables(socket: &Netlink) -> Vec<(bool, u32)> {
    let always = [libc::RT_TABLE_LOCAL, libc::RT_TABLE_MAIN].map(u32::from);
    let always = always.into_iter().flat_map(|table| [(true, table), (false, table)]);
    let question = RouteNetlinkMessage::GetRule(RuleMessage::default());
    let found = request_on(socket, question, |message| match message {
        RouteNetlinkMessage::NewRule(rule) => table_of_rule(&rule),
        _ => None,
    });
    always.chain(found.unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use passt_support::namespace::isolated;

    use crate::conf::host::surroundings;
    use crate::flow::fwd::{Places, Routed};

    fn run(changes: &[&str]) {
        for change in changes {
            let done = Command::new("ip").args(change.split(' ')).status().unwrap();
            assert!(done.success(), "{change}");
        }
    }

    /// The lines of what routes tell, with the first letter of the place.
    fn routed() -> Vec<String> {
        let found = surroundings().unwrap();
        let line = |one: &Routed| {
            let place = Places::NAMES.iter().find(|(_, places)| *places == one.places).unwrap().0;
            let (address, len) = one.network.parts();
            format!("{place} {address}/{len}")
        };
        found.routed.iter().map(line).collect()
    }

    const LINKS: &str = "ip link set lo up
        ip link add eth0 type veth peer name peer0
        ip link add eth1 type veth peer name peer1
        ip link add wg0 arp off type veth peer name peer2
        for link in eth0 peer0 eth1 peer1 wg0 peer2; do ip link set $link up; done
        ip addr add 192.0.2.2/24 dev eth0
        ip addr add 2001:db8::2/64 dev eth0 nodad";

    #[test]
    fn addresses_have_routes_that_tell_nothing_more() {
        isolated(LINKS, || {
            assert!(routed().is_empty(), "{:?}", routed());
            run(&["route add default via 192.0.2.1", "-6 route add default via 2001:db8::1"]);
            run(&["route add 198.51.100.0/24 via 192.0.2.9", "route add blackhole 203.0.113.0/24"]);
            run(&["route add default dev eth1 metric 7", "route add 0.0.0.0/1 dev eth1"]);
            run(&["route add 128.0.0.0/1 dev eth1", "route add 224.0.0.0/4 dev eth0"]);
            run(&["route add 64.0.0.0/2 dev eth1", "-6 route add 2400::/8 dev eth1 proto ra"]);
            run(&["-6 route add 2000::/3 dev eth1", "-6 route add 64:ff9b::/96 dev eth1"]);
            assert!(routed().is_empty(), "{:?}", routed());
        });
    }

    #[test]
    fn routes_tell_what_is_of_the_host_or_next_to_it() {
        isolated(LINKS, || {
            run(&[
                "route add local 203.0.113.0/28 dev lo",
                "-6 route add local 2001:db8:7::/64 dev lo",
                "-6 route add local fd12::/16 dev lo",
            ]);
            run(&["route add 203.0.113.128/25 dev eth0", "-6 route add 2001:db8:8::/64 dev eth1"]);
            run(&["route add 198.51.100.0/24 nexthop dev eth0 nexthop via 192.0.2.1"]);
            run(&["addr add 198.18.0.1/24 brd 203.0.113.77 dev eth1"]);
            let expected = [
                "@host fd12::/16",
                "@host 203.0.113.0/28",
                "@host 2001:db8:7::/64",
                "@multicast 203.0.113.77/32",
                "@private 198.51.100.0/24",
                "@private 203.0.113.128/25",
                "@private 2001:db8:8::/64",
            ];
            assert_eq!(routed(), expected);
            let forwarding = "/proc/sys/net/ipv6/conf/eth0/forwarding";
            if std::fs::write(forwarding, "1").is_ok() {
                assert!(routed().contains(&"@host 2001:db8::/128".to_owned()), "{:?}", routed());
            } else {
                passt_support::skipped::skipped("needs sysctl");
            }
        });
    }

    #[test]
    fn tables_count_that_the_program_is_led_to() {
        isolated(LINKS, || {
            run(&["route add local 203.0.113.0/28 dev lo table 100"]);
            run(&["route add 198.51.100.0/24 dev eth0 table 4000"]);
            for elsewhere in
                ["fwmark 1 lookup 100", "iif eth0 lookup 100", "fwmark 1/3 lookup 4000"]
            {
                run(&[&format!("rule add {elsewhere}")]);
            }
            run(&["-6 rule add from all lookup 100"]);
            assert!(routed().is_empty(), "{:?}", routed());
            for (rule, expected) in [
                ("from 192.0.2.2 lookup 100", "@host 203.0.113.0/28"),
                ("iif lo lookup 100", "@host 203.0.113.0/28"),
                ("fwmark 0/1 lookup 4000", "@private 198.51.100.0/24"),
                ("not fwmark 1 lookup 4000", "@private 198.51.100.0/24"),
            ] {
                let (add, del) = (format!("rule add {rule}"), format!("rule del {rule}"));
                run(&[&add]);
                assert_eq!(routed(), [expected], "{rule}");
                run(&[&del]);
            }
            // As with TPROXY, whose rule asks for a mark; and if it did not.
            run(&[
                "route add local 0.0.0.0/0 dev lo table 101",
                "rule add to 198.51.100.7 lookup 101",
            ]);
            assert!(routed().is_empty(), "{:?}", routed());
        });
    }

    #[test]
    fn who_is_behind_a_link_without_neighbours_is_not_next_to_the_host() {
        isolated(LINKS, || {
            run(&["addr add 198.18.0.1/24 dev wg0", "route add 203.0.113.0/24 dev wg0"]);
            run(&["route add 198.51.100.7 dev wg0", "-6 route add 2001:db8:8::/64 dev wg0"]);
            run(&["route add 64.0.0.0/2 dev wg0", "route add 192.169.0.0/16 dev wg0"]);
            run(&["route add 192.0.3.0/24 nexthop dev wg0 nexthop via 192.0.2.1"]);
            if Command::new("ip")
                .args(["tuntap", "add", "tun0", "mode", "tun"])
                .status()
                .unwrap()
                .success()
            {
                run(&["link set tun0 up", "route add 203.0.112.0/24 dev tun0"]);
            } else {
                passt_support::skipped::skipped("needs /dev/net/tun");
            }
            assert!(routed().is_empty(), "{:?}", routed());
            run(&["route add local 198.51.100.8 dev wg0"]);
            run(&["route add 192.0.4.0/24 nexthop dev wg0 nexthop dev eth1"]);
            assert_eq!(routed(), ["@host 198.51.100.8/32", "@private 192.0.4.0/24"]);
        });
    }
}
