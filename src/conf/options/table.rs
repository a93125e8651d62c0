//! The table of options: one definition each.

use std::path::PathBuf;

use super::value;
use super::{Ending, Mode, Only, Options};
use crate::flow::fwd::Proto;

/// What an option does to [`Options`], by what argument it takes. A failing effect returns what is
/// wrong.
#[derive(Clone, Copy)]
pub(super) enum Effect {
    /// No argument.
    Flag(fn(&mut Options)),
    /// Text, with its name in the help; the last string says what is accepted.
    Text(&'static str, fn(&mut Options, &str) -> Result<(), String>, &'static str),
    /// A path, with its name in the help.
    Path(&'static str, fn(&mut Options, PathBuf)),
}

/// One option.
pub(super) struct Definition {
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    pub(super) alias: Option<&'static str>,
    pub(super) effect: Effect,
    pub(super) help: &'static str,
    pub(super) scope: Scope,
}

/// Which modes know an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    All,
    Passt,
    Pasta,
}

impl Definition {
    const fn passt(mut self) -> Self {
        self.scope = Scope::Passt;
        self
    }

    const fn pasta(mut self) -> Self {
        self.scope = Scope::Pasta;
        self
    }

    /// Whether the option means anything in `mode`.
    pub(super) fn applies(&self, mode: Mode) -> bool {
        match self.scope {
            Scope::All => true,
            Scope::Passt => mode != Mode::Pasta,
            Scope::Pasta => mode == Mode::Pasta,
        }
    }
}

const fn flag(
    short: Option<char>,
    long: &'static str,
    effect: fn(&mut Options),
    help: &'static str,
) -> Definition {
    Definition { long, short, alias: None, effect: Effect::Flag(effect), help, scope: Scope::All }
}

const fn text(
    short: Option<char>,
    long: &'static str,
    name: &'static str,
    effect: fn(&mut Options, &str) -> Result<(), String>,
    takes: &'static str,
    help: &'static str,
) -> Definition {
    Definition {
        long,
        short,
        alias: None,
        effect: Effect::Text(name, effect, takes),
        help,
        scope: Scope::All,
    }
}

const fn path(
    short: Option<char>,
    long: &'static str,
    alias: Option<&'static str>,
    effect: fn(&mut Options, PathBuf),
    help: &'static str,
) -> Definition {
    Definition { long, short, alias, effect: Effect::Path("PATH", effect), help, scope: Scope::All }
}

const ADDRESS: &str = "an IPv4 or IPv6 address of a host";
const ADDRESS_OR_NONE: &str = "an IPv4 or IPv6 address of a host, or none";
const INTERFACE: &str = "the name of an interface, at most 15 characters";
const NAME: &str = "a name of 1 to 253 characters";
const PORTS: &str = "ports; see --help";

/// Every option, in the order of the help text.
pub(super) const TABLE: &[Definition] = &[
    flag(Some('h'), "help", |o| o.ending = Some(Ending::Help), "Display this help and exit"),
    flag(None, "version", |o| o.ending = Some(Ending::Version), "Show the version and exit"),
    flag(
        None,
        "print-capabilities",
        |o| o.ending = Some(Ending::Capabilities),
        "Print back-end capabilities in JSON format and exit",
    ),
    flag(
        Some('d'),
        "debug",
        |o| (o.run.debug, o.run.quiet) = (true, false),
        "Be verbose, log to standard error",
    ),
    flag(
        None,
        "trace",
        |o| (o.run.debug, o.run.trace, o.run.quiet) = (true, true, false),
        "Be extra verbose: log every packet",
    ),
    flag(
        Some('q'),
        "quiet",
        |o| (o.run.debug, o.run.trace, o.run.quiet) = (false, false, true),
        "Print warnings and errors only",
    ),
    flag(
        Some('f'),
        "foreground",
        |o| o.run.foreground = true,
        "Don't run in background; default: run in background",
    ),
    text(
        None,
        "stats",
        "DELAY",
        value::stats,
        "a number of seconds, after --foreground",
        "Display event statistics, at most every DELAY seconds; only after --foreground",
    ),
    path(
        Some('l'),
        "log-file",
        None,
        |o, path| o.run.log_file = Some(path),
        "Log to the given file instead of the system logger",
    ),
    text(
        None,
        "log-size",
        "BYTES",
        value::log_size,
        "a number of bytes, 40960 at least",
        "Limit the size of the log file; default: 1048576",
    ),
    path(
        Some('P'),
        "pid",
        None,
        |o, path| o.run.pid = Some(path),
        "Write own PID to the given file",
    ),
    flag(
        None,
        "notify",
        |o| o.run.notify = true,
        "Tell the service manager in $NOTIFY_SOCKET when everything is ready",
    ),
    path(
        Some('p'),
        "pcap",
        None,
        |o, path| o.run.pcap = Some(path),
        "Record all frames in the given file, in pcap format",
    ),
    text(
        None,
        "runas",
        "UID|LOGIN[:GID|:GROUP]",
        value::run_as,
        "a user by number or name, optionally with a group",
        "User to run as when started as root; default: nobody",
    ),
    flag(
        None,
        "chroot-fallback",
        |o| o.run.chroot_fallback = true,
        "Isolate with chroot where pivot_root fails",
    ),
    path(
        Some('s'),
        "socket",
        Some("socket-path"),
        |o, path| (o.socket, o.fd) = (Some(path), None),
        "UNIX domain socket to listen on; default: probe /tmp/passt_N.socket",
    )
    .passt(),
    flag(None, "vhost-user", |o| o.mode = Mode::VhostUser, "Speak vhost-user on the socket"),
    text(
        Some('F'),
        "fd",
        "FD",
        value::fd,
        "the number of an open descriptor",
        "Use FD as connected socket, or with pasta as tap device; quit when it is closed",
    ),
    flag(Some('1'), "one-off", |o| o.one_off = true, "Quit after handling one single client")
        .passt(),
    text(
        Some('m'),
        "mtu",
        "MTU",
        value::mtu,
        "a number of bytes from 0 to 65521",
        "MTU to assign via DHCP and NDP, 0: none; default: 65520",
    ),
    text(
        Some('a'),
        "address",
        "ADDR[/PLEN]",
        value::address,
        "an IPv4 or IPv6 address of a host, optionally with /PREFIX-LENGTH",
        "Assign this address to the guest; can be given once for IPv4 and once for IPv6; \
         default: address of the template interface",
    ),
    text(
        Some('n'),
        "netmask",
        "MASK",
        value::netmask,
        "a prefix length from 0 to 32, or a mask like 255.255.255.0",
        "IPv4 mask to assign, dotted or as prefix length; default: as on the host",
    ),
    text(
        Some('M'),
        "mac-addr",
        "MAC",
        value::mac,
        "an address of one station, like 9a:55:9a:55:9a:55",
        "Our own MAC address toward the guest; default: 9a:55:9a:55:9a:55",
    ),
    text(
        Some('g'),
        "gateway",
        "ADDR",
        value::gateway,
        ADDRESS,
        "Gateway to assign to the guest, for IPv4 or IPv6; default: gateway of the host",
    ),
    text(
        Some('i'),
        "interface",
        "NAME",
        value::interface,
        INTERFACE,
        "Interface to take addresses and routes from; default: that of the first default route",
    ),
    text(
        Some('o'),
        "outbound",
        "ADDR",
        value::outbound,
        "an IPv4 or IPv6 address of this host",
        "Source address of outbound sockets; default: by routing",
    ),
    text(
        None,
        "outbound-if4",
        "NAME",
        value::outbound_if4,
        INTERFACE,
        "Bind outbound IPv4 sockets to this interface, and take it as template",
    ),
    text(
        None,
        "outbound-if6",
        "NAME",
        value::outbound_if6,
        INTERFACE,
        "Bind outbound IPv6 sockets to this interface, and take it as template",
    ),
    text(
        Some('D'),
        "dns",
        "ADDR",
        value::dns,
        ADDRESS_OR_NONE,
        "DNS server to hand out, up to three per family, or none; default: those of resolv.conf",
    ),
    text(
        None,
        "dns-forward",
        "ADDR",
        value::dns_forward,
        ADDRESS,
        "Forward DNS queries that the guest sends to ADDR",
    ),
    text(
        None,
        "dns-host",
        "ADDR",
        value::dns_host,
        ADDRESS,
        "Where to forward DNS queries to; default: first server of resolv.conf",
    ),
    text(
        Some('S'),
        "search",
        "LIST",
        value::search,
        "up to six domains, separated by blanks, or none",
        "DNS search list to hand out, or none; default: that of resolv.conf",
    ),
    text(Some('H'), "hostname", "NAME", value::hostname, NAME, "Host name to hand out by DHCP"),
    text(None, "fqdn", "NAME", value::fqdn, NAME, "Fully qualified name to hand out by DHCP"),
    flag(None, "no-dhcp-dns", |o| o.services.hand_out_dns = false, "Don't hand out DNS servers")
        .passt(),
    flag(
        None,
        "no-dhcp-search",
        |o| o.services.hand_out_search = false,
        "Don't hand out a DNS search list",
    )
    .passt(),
    flag(None, "no-tcp", |o| o.services.tcp = false, "Disable TCP"),
    flag(None, "no-udp", |o| o.services.udp = false, "Disable UDP"),
    flag(
        None,
        "no-icmp",
        |o| (o.services.icmp, o.services.ndp) = (false, false),
        "Disable ICMP and ICMPv6, including NDP",
    ),
    flag(None, "no-dhcp", |o| o.services.dhcp = false, "Disable the DHCP server"),
    flag(None, "no-dhcpv6", |o| o.services.dhcpv6 = false, "Disable the DHCPv6 server"),
    flag(None, "no-ndp", |o| o.services.ndp = false, "Disable NDP responses"),
    flag(None, "no-ra", |o| o.services.ra = false, "Disable router advertisements"),
    flag(
        None,
        "freebind",
        |o| o.freebind = true,
        "Bind to addresses that the host doesn't have (yet)",
    ),
    flag(None, "no-map-gw", |o| o.no_map_gw = true, "Don't map the gateway's address to the host"),
    text(
        None,
        "map-host-loopback",
        "ADDR",
        value::map_host_loopback,
        ADDRESS_OR_NONE,
        "Address at which the guest reaches the host's loopback, or none; default: the gateway",
    ),
    text(
        None,
        "map-guest-addr",
        "ADDR",
        value::map_guest_addr,
        ADDRESS_OR_NONE,
        "Address at which the guest reaches the host at their common address, or none",
    ),
    flag(
        Some('4'),
        "ipv4-only",
        |o| o.interfaces.only = Some(Only::V4),
        "Enable IPv4 operation only",
    ),
    flag(
        Some('6'),
        "ipv6-only",
        |o| o.interfaces.only = Some(Only::V6),
        "Enable IPv6 operation only",
    ),
    text(
        Some('t'),
        "tcp-ports",
        "SPEC",
        |o, spec| {
            o.ports.push((Proto::Tcp, spec.to_owned()));
            Ok(())
        },
        PORTS,
        "TCP ports to forward to the guest; can be given several times. SPEC is none, all, auto \
         (as services come and go: pasta only, and the default there), or a list like \
         22,80:8080,~81,100-110:200-210, optionally after ADDR/, %IF/ or ADDR%IF/",
    ),
    text(
        Some('u'),
        "udp-ports",
        "SPEC",
        |o, spec| {
            o.ports.push((Proto::Udp, spec.to_owned()));
            Ok(())
        },
        PORTS,
        "UDP ports to forward to the guest; SPEC as for --tcp-ports",
    ),
    flag(
        Some('e'),
        "stderr",
        |o| o.run.stderr = true,
        "No effect: messages always go to standard error",
    ),
    text(
        Some('I'),
        "ns-ifname",
        "NAME",
        value::ns_ifname,
        INTERFACE,
        "Name of the tap device in the namespace; default: that of the template interface",
    )
    .pasta(),
    text(
        None,
        "ns-mac-addr",
        "MAC",
        value::ns_mac,
        "an address of one station, like 9a:55:9a:55:9a:56",
        "MAC address of the tap device in the namespace",
    )
    .pasta(),
    Definition {
        long: "userns",
        short: None,
        alias: None,
        effect: Effect::Path("PATH", |o, path| {
            (o.pasta.userns, o.pasta.netns_only) = (Some(path), false);
        }),
        help: "User namespace to join; default: that of PID",
        scope: Scope::Pasta,
    },
    text(
        None,
        "netns",
        "PATH|NAME",
        value::netns,
        "a path, or a name in /run/netns",
        "Network namespace to join, instead of PID or a command",
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
        "Don't quit when the network namespace is gone",
    )
    .pasta(),
    flag(
        None,
        "no-pidns",
        |o| o.pasta.no_pid_namespace = true,
        "Don't give the command a PID namespace of its own",
    )
    .pasta(),
    flag(
        None,
        "config-net",
        |o| o.pasta.configure = true,
        "Configure addresses and routes of the tap device in the namespace",
    )
    .pasta(),
    flag(
        None,
        "no-copy-routes",
        |o| o.pasta.no_copy_routes = true,
        "Only set a default route with --config-net (deprecated: use --gateway)",
    )
    .pasta(),
    flag(
        None,
        "no-copy-addrs",
        |o| o.pasta.no_copy_addresses = true,
        "Only set one address with --config-net (deprecated: use --address)",
    )
    .pasta(),
    flag(None, "dhcp-dns", |o| o.pasta.dhcp_dns = true, "Hand out DNS servers").pasta(),
    flag(None, "dhcp-search", |o| o.pasta.dhcp_search = true, "Hand out a DNS search list").pasta(),
    text(
        Some('T'),
        "tcp-ns",
        "SPEC",
        |o, spec| {
            o.pasta.ports.push((Proto::Tcp, spec.to_owned()));
            Ok(())
        },
        PORTS,
        "TCP ports to forward from the namespace's loopback to the host's; SPEC as for \
         --tcp-ports, without addresses; default: auto",
    )
    .pasta(),
    text(
        Some('U'),
        "udp-ns",
        "SPEC",
        |o, spec| {
            o.pasta.ports.push((Proto::Udp, spec.to_owned()));
            Ok(())
        },
        PORTS,
        "UDP ports to forward from the namespace's loopback to the host's; SPEC as for --tcp-ns",
    )
    .pasta(),
    flag(
        None,
        "host-lo-to-ns-lo",
        |o| o.pasta.keep_loopback = true,
        "Connections to the host's loopback address reach the namespace's loopback address",
    )
    .pasta(),
    flag(
        None,
        "no-splice",
        |o| o.pasta.no_splice = true,
        "Forward connections from the host's loopback through the tap device, too",
    ),
    flag(
        None,
        "splice-only",
        |o| o.pasta.splice_only = true,
        "No tap device: forward between the loopback interfaces only",
    )
    .pasta(),
];
