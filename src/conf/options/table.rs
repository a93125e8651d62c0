//! The table of options: one definition each, in groups, in the order of the help text.

use super::definition::{Definition, Group, INTERFACE_OF_HOST, USER, flag, path, text};
use super::services::SERVICES;
use super::{Ending, Mode, Only, Repair, control, ports, value};
use crate::conf::egress;

const ADDRESS: &str = "an IPv4 or IPv6 address of a host";
const ADDRESS_OR_NONE: &str = "an IPv4 or IPv6 address of a host, or none";
const INTERFACE: &str = "the name of an interface, at most 15 characters";
const NAME: &str = "a name of at most 253 characters";

/// Every option.
pub(super) fn all() -> impl Iterator<Item = &'static Definition> {
    TABLE.iter().flat_map(|group| group.options)
}

/// Every option, in groups.
pub(super) const TABLE: &[Group] = &[
    Group { heading: "General options", options: GENERAL },
    Group { heading: "Process and messages", options: PROCESS },
    Group { heading: "Control while running", options: control::OPTIONS },
    Group { heading: "Connection to the guest", options: LINK },
    Group { heading: "Network namespace", options: NAMESPACE },
    Group { heading: "Addresses", options: ADDRESSES },
    Group { heading: "Name resolution", options: NAMES },
    Group { heading: "Protocols and services", options: SERVICES },
    Group { heading: "Outbound traffic", options: OUTBOUND },
    Group { heading: "Forwarded ports", options: ports::OPTIONS },
];

const GENERAL: &[Definition] = &[
    flag(Some('h'), "help", |o| o.ending = Some(Ending::Help), "Print this help and exit"),
    flag(None, "version", |o| o.ending = Some(Ending::Version), "Print version and licence, exit"),
    flag(
        None,
        "print-capabilities",
        |o| o.ending = Some(Ending::Capabilities),
        "Print what the vhost-user back-end is, as JSON, and exit",
    ),
    flag(None, "check", |o| o.check = true, "Print what this machine allows, and what it lacks"),
    flag(None, "json", |o| o.json = true, "Print what --check finds as JSON"),
];

const PROCESS: &[Definition] = &[
    flag(
        Some('f'),
        "foreground",
        |o| o.run.foreground = true,
        "Stay in the foreground; default: go to the background once everything is ready",
    ),
    path(Some('P'), "pid", |o, path| o.run.pid = Some(path), "Write the process id to this file"),
    flag(
        None,
        "notify",
        |o| o.run.notify = true,
        "Tell the service manager in $NOTIFY_SOCKET when everything is ready",
    ),
    text(
        None,
        "runas",
        USER,
        value::run_as,
        "a user by number or name, optionally with a group",
        "User to become when started as root, optionally with :GROUP, by name or number; default: \
         nobody",
    ),
    flag(
        None,
        "chroot-fallback",
        |o| o.run.chroot_fallback = true,
        "Isolate with chroot where pivot_root does not work, as on an initramfs",
    ),
    flag(
        Some('q'),
        "quiet",
        |o| (o.run.debug, o.run.trace, o.run.quiet) = (false, false, true),
        "Print warnings and errors only",
    ),
    flag(
        Some('d'),
        "debug",
        |o| (o.run.debug, o.run.quiet) = (true, false),
        "Tell of each flow, on standard error",
    ),
    flag(
        None,
        "trace",
        |o| (o.run.debug, o.run.trace, o.run.quiet) = (true, true, false),
        "Tell of each packet, too",
    ),
    path(
        Some('l'),
        "log-file",
        |o, path| o.run.log_file = Some(path),
        "Log to this file instead of the system log",
    ),
    text(
        None,
        "log-size",
        "BYTES",
        value::log_size,
        "a number of bytes, 40960 at least",
        "Largest size of the log file; default: 1048576",
    ),
    text(
        None,
        "stats",
        "SECONDS",
        value::stats,
        "a number of seconds",
        "Print event counters, at most once in SECONDS; needs --foreground",
    ),
    path(
        Some('p'),
        "pcap",
        |o, path| o.run.pcap = Some(path),
        "Record the guest's frames in this file, in pcap format",
    ),
    flag(
        Some('e'),
        "stderr",
        |o| o.run.stderr = true,
        "No effect: messages go to standard error as long as it is there (deprecated)",
    ),
];

const LINK: &[Definition] = &[
    flag(
        None,
        "vhost-user",
        |o| o.mode = Mode::VhostUser,
        "Share memory with the virtual machine by vhost-user, under whatever name",
    )
    .passt(),
    path(
        Some('s'),
        "socket",
        |o, path| (o.socket, o.fd) = (Some(path), None),
        "UNIX socket to listen on; default: the first free one of /tmp/passt_1.socket and on",
    )
    .alias("socket-path")
    .passt(),
    text(
        Some('F'),
        "fd",
        "FD",
        value::fd,
        "the number of an open descriptor",
        "Descriptor of a connected socket to use instead; implies --one-off",
    )
    .help_in_pasta("Descriptor of an open tap device to use instead of a new one"),
    flag(Some('1'), "one-off", |o| o.one_off = true, "End when the first client disconnects")
        .passt(),
    path(
        None,
        "repair-path",
        |o, path| o.migration.repair = Repair::from(path),
        "Socket of the migration helper, or none; default: the name of --socket, and .repair",
    )
    .vhost_user()
    .idle_with("none"),
    flag(
        None,
        "migrate-exit",
        |o| o.migration.exit = true,
        "End when the guest has moved away (deprecated)",
    )
    .vhost_user(),
    flag(
        None,
        "migrate-no-linger",
        |o| o.migration.no_linger = true,
        "Close sockets when the guest has moved away (deprecated)",
    )
    .vhost_user(),
];

const NAMESPACE: &[Definition] = &[
    text(
        None,
        "netns",
        "PATH|NAME",
        value::netns,
        "a path, or a name in /run/netns",
        "Network namespace to join: a path, or a name in /run/netns",
    )
    .pasta(),
    path(
        None,
        "userns",
        |o, path| (o.pasta.userns, o.pasta.netns_only) = (Some(path), false),
        "User namespace to join; default: that of PID, or a new one for COMMAND",
    )
    .pasta(),
    flag(
        None,
        "netns-only",
        |o| (o.pasta.userns, o.pasta.netns_only) = (None, true),
        "Neither join nor create a user namespace",
    )
    .pasta(),
    flag(
        None,
        "no-netns-quit",
        |o| o.pasta.no_quit = true,
        "Go on when the network namespace is gone",
    )
    .pasta(),
    flag(
        None,
        "no-pidns",
        |o| o.pasta.no_pid_namespace = true,
        "Leave COMMAND in the current PID namespace",
    )
    .pasta(),
    text(
        Some('I'),
        "ns-ifname",
        "NAME",
        value::ns_ifname,
        INTERFACE,
        "Name of the tap device; default: that of the template interface, or tap0",
    )
    .pasta(),
    text(
        None,
        "ns-mac-addr",
        "MAC",
        value::ns_mac,
        "an address of one station, like 9a:55:9a:55:9a:56",
        "MAC address of the tap device; default: the kernel's choice",
    )
    .pasta(),
    flag(
        None,
        "config-net",
        |o| o.pasta.configure = true,
        "Set the tap device up, with addresses and routes; implies --no-ra",
    )
    .pasta(),
    flag(
        None,
        "no-copy-routes",
        |o| o.pasta.no_copy_routes = true,
        "With --config-net, set just a default route (deprecated: use --gateway)",
    )
    .pasta(),
    flag(
        None,
        "no-copy-addrs",
        |o| o.pasta.no_copy_addresses = true,
        "With --config-net, set just one address (deprecated: use --address)",
    )
    .pasta(),
];

const ADDRESSES: &[Definition] = &[
    flag(Some('4'), "ipv4-only", |o| o.interfaces.only = Some(Only::V4), "No IPv6"),
    flag(Some('6'), "ipv6-only", |o| o.interfaces.only = Some(Only::V6), "No IPv4"),
    text(
        Some('i'),
        "interface",
        INTERFACE_OF_HOST,
        value::interface,
        "the name of an interface of this host",
        "Interface to take addresses and routes from; default: that of the first default route",
    ),
    text(
        Some('a'),
        "address",
        "ADDR[/LEN]",
        value::address,
        "an IPv4 or IPv6 address of a host, optionally with /PREFIX-LENGTH",
        "Address of the guest, once for IPv4 and once for IPv6; default: as on the interface",
    ),
    text(
        Some('n'),
        "netmask",
        "MASK",
        value::netmask,
        "a prefix length from 0 to 32, or a mask like 255.255.255.0",
        "IPv4 mask of --address, dotted or as prefix length; default: by the address class",
    ),
    text(
        Some('g'),
        "gateway",
        "ADDR",
        value::gateway,
        ADDRESS,
        "Gateway of the guest, once for IPv4 and once for IPv6; default: as on the interface",
    ),
    text(
        Some('M'),
        "mac-addr",
        "MAC",
        value::mac,
        "an address of one station, like 9a:55:9a:55:9a:55",
        "Our own MAC address, as the guest sees it; default: 9a:55:9a:55:9a:55",
    ),
    text(
        Some('m'),
        "mtu",
        "BYTES",
        value::mtu,
        "a number of bytes from 0 to 65521",
        "MTU of the guest; 0: do not say; default: 65520",
    ),
    text(
        Some('H'),
        "hostname",
        "NAME",
        value::hostname,
        NAME,
        "Host name to hand out by DHCP; default: none",
    )
    .help_in_pasta(
        "Host name of COMMAND, by default pasta- and the host's, and to hand out by DHCP",
    ),
    text(
        None,
        "fqdn",
        "NAME",
        value::fqdn,
        NAME,
        "Fully qualified name to hand out by DHCP; default: none",
    ),
];

const NAMES: &[Definition] = &[
    text(
        Some('D'),
        "dns",
        "ADDR",
        value::dns,
        ADDRESS_OR_NONE,
        "Name server of the guest, or none; up to three for IPv4 and for IPv6; default: those of \
         /etc/resolv.conf",
    ),
    text(
        None,
        "dns-forward",
        "ADDR",
        value::dns_forward,
        ADDRESS,
        "Address at which the guest reaches the name server of --dns-host; default: none, unless \
         it is on the host itself",
    ),
    text(
        None,
        "dns-host",
        "ADDR",
        value::dns_host,
        "an address, or the name of a host, or none",
        "Name server to forward such queries to, an address or a name, or none; default: the first of \
         /etc/resolv.conf",
    ),
    text(
        Some('S'),
        "search",
        "LIST",
        value::search,
        "up to six domains, separated by blanks, or none",
        "Search list of the guest, or none; default: that of /etc/resolv.conf",
    ),
    flag(
        None,
        "no-dhcp-dns",
        |o| o.services.hand_out_dns = false,
        "Hand out no name servers by DHCP, DHCPv6 and NDP",
    )
    .passt(),
    flag(
        None,
        "no-dhcp-search",
        |o| o.services.hand_out_search = false,
        "Hand out no search list by DHCP, DHCPv6 and NDP",
    )
    .passt(),
    flag(
        None,
        "dhcp-dns",
        |o| o.pasta.dhcp_dns = true,
        "Hand out name servers by DHCP, DHCPv6 and NDP",
    )
    .pasta(),
    flag(
        None,
        "dhcp-search",
        |o| o.pasta.dhcp_search = true,
        "Hand out a search list by DHCP, DHCPv6 and NDP",
    )
    .pasta(),
];

const OUTBOUND: &[Definition] = &[
    text(
        Some('o'),
        "outbound",
        "ADDR",
        value::outbound,
        "an IPv4 or IPv6 address of this host",
        "Source address of outbound sockets, once for IPv4 and once for IPv6; default: by routing",
    ),
    text(
        None,
        "outbound-if4",
        INTERFACE_OF_HOST,
        value::outbound_if4,
        "the name of an interface of this host",
        "Interface that outbound IPv4 sockets are bound to; default: none",
    ),
    text(
        None,
        "outbound-if6",
        INTERFACE_OF_HOST,
        value::outbound_if6,
        "the name of an interface of this host",
        "Interface that outbound IPv6 sockets are bound to; default: none",
    ),
    text(
        None,
        "wait-for-network",
        "SECONDS",
        value::wait_for_network,
        "a number of seconds",
        "Start when the host has a default route, or after SECONDS without; default: start at once",
    ),
    flag(
        None,
        "no-follow-host",
        |o| o.run.no_follow = true,
        "What the host's network and resolv.conf are at start is what the guest is told for ever",
    ),
    text(
        None,
        "map-host-loopback",
        "ADDR",
        value::map_host_loopback,
        ADDRESS_OR_NONE,
        "Address at which the guest reaches the host's loopback address, or none; default: the \
         gateway",
    ),
    flag(
        None,
        "no-map-gw",
        |o| o.no_map_gw = true,
        "The gateway does not lead to the host's loopback address",
    ),
    text(
        None,
        "map-guest-addr",
        "ADDR",
        value::map_guest_addr,
        ADDRESS_OR_NONE,
        "Address at which the guest reaches the host's copy of its own address; default: none",
    ),
    text(
        None,
        "egress",
        "RULE",
        value::egress,
        egress::WORDS,
        "What the guest may reach: allow, reject or drop, [tcp, udp or icmp,] DESTINATION[:PORTS]; the \
         first that matches counts, and none rejects; default: all",
    ),
    path(
        None,
        "egress-file",
        |o, path| o.egress.sources.push(egress::Source::File(path)),
        "Read such rules from a file, one a line",
    ),
    flag(
        None,
        "isolate",
        |o| o.egress.isolate = true,
        "The guest reaches the internet and its name servers, and nothing of this host and its networks",
    ),
];
