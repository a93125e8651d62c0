//! Options about protocols and services: a part of the [table](super::table).

use super::definition::{Definition, flag, text};
use super::{extra, value};

const OPTION: &str = "N=VALUE, with the number of an option and a value of its type";

pub(super) const SERVICES: &[Definition] = &[
    flag(None, "no-tcp", |o| o.services.tcp = false, "Forward no TCP"),
    flag(None, "no-udp", |o| o.services.udp = false, "Forward no UDP"),
    flag(
        None,
        "no-icmp",
        |o| (o.services.icmp, o.services.ndp) = (false, false),
        "Forward no ICMP and ICMPv6; implies --no-ndp",
    ),
    flag(
        None,
        "no-multicast",
        |o| o.services.multicast = false,
        "Forward nothing that is for many: no multicast, no broadcasts, no IGMP, no MLD",
    ),
    text(
        None,
        "multicast-ports",
        "PORT[,...]",
        value::multicast_ports,
        "port numbers, separated by commas",
        "UDP ports of all groups that the guest joins, besides those of mDNS, SSDP, WS-Discovery, LLMNR and those it \
         sends to",
    ),
    flag(None, "no-dhcp", |o| o.services.dhcp = false, "No DHCP server"),
    text(
        None,
        "dhcp-boot",
        "NAME[,SERVER]",
        extra::dhcp_boot,
        "a file's name or URL, optionally with the IPv4 address of its server",
        "File that the guest is told by DHCP to boot from, on SERVER or, without it, on this host",
    ),
    text(
        None,
        "dhcp-option",
        "N=VALUE",
        extra::dhcp_option,
        OPTION,
        "Option to hand out by DHCP, besides or in place of the usual ones; may be repeated",
    ),
    text(None, "dhcpv6-option", "N=VALUE", extra::dhcpv6_option, OPTION, "The same for DHCPv6"),
    text(
        None,
        "ra-option",
        "N=VALUE",
        extra::ra_option,
        OPTION,
        "The same for router advertisements",
    ),
    flag(None, "no-dhcpv6", |o| o.services.dhcpv6 = false, "No DHCPv6 server"),
    flag(
        None,
        "no-ndp",
        |o| o.services.ndp = false,
        "No answers to neighbor and router solicitations",
    ),
    flag(None, "no-ra", |o| o.services.ra = false, "No router advertisements"),
];
