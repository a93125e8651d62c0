//! What must be refused, and in which words: people find them with a search engine, and test suites
//! look for them. Each ends with status 1 before anything runs, and leaves no socket and no PID.
//!
//! The words are those of `passt(1)`'s program. Where it has changed its own over time, test
//! suites look for the older ones too, and both are said.

use crate::row::Before::{Child, Descriptor, Listener, SocketTaken};
use crate::row::Caller::Root as AsRoot;
use crate::row::Clause::*;
use crate::row::Row;

/// The clauses of a refusal, in these words.
macro_rules! refusal {
    ($($words:expr),+) => {
        &[
            Returns(1),
            $($words,)+
            Absent("/tmp/s"),
            NoContent("/tmp/p"),
            NothingRuns,
        ]
    };
}

/// A row of passt that is refused with a line.
macro_rules! passt {
    ($id:literal, $arguments:literal, $line:literal) => {
        Row::new($id, concat!("passt -q -s /tmp/s -P /tmp/p ", $arguments), refusal!(Says($line)))
    };
}

/// A row of pasta that is refused with a line.
macro_rules! pasta {
    ($id:literal, $arguments:literal, $line:literal) => {
        Row::new($id, concat!("pasta -P /tmp/p ", $arguments), refusal!(Says($line)))
    };
}

/// The reference binds its socket and opens its PID file before it listens, and leaves both.
macro_rules! leftovers {
    ($line:literal) => {
        &[
            Returns(1),
            Says($line),
            Says("Couldn't listen on requested ports"),
            Exists("/tmp/s"),
            NoContent("/tmp/p"),
            NothingRuns,
        ]
    };
}

/// The reference starts.
const STARTS: &[crate::row::Clause] = &[Returns(0), PidFile("/tmp/p"), Served("/tmp/s"), Term];

/// The table.
pub const ROWS: &[Row] = &[
    // Ports that cannot be had
    Row::new(
        "port-busy",
        "passt -q -s /tmp/s -P /tmp/p -t 8081",
        refusal!(
            Says("Listen failed for HOST TCP port */8081: Address already in use"),
            Says("Couldn't listen on requested ports"),
            Mentions("Failed to bind port 8081")
        ),
    )
    .after(&[Listener("[::]:8081")])
    .reference(leftovers!("Listen failed for HOST TCP port */8081: Address already in use")),
    Row::new(
        "port-low",
        "passt -q -s /tmp/s -P /tmp/p -t 80",
        refusal!(
            Says("Listen failed for HOST TCP port */80: Permission denied"),
            Says("Couldn't listen on requested ports"),
            Mentions("Failed to bind port 80")
        ),
    )
    .reference(leftovers!("Listen failed for HOST TCP port */80: Permission denied")),
    Row::new(
        "port-low-as-root",
        "passt -q -s /tmp/s -P /tmp/p -t 80",
        // Who has become nobody cannot remove root's socket from a folder like this.
        &[
            Returns(1),
            Says("Listen failed for HOST TCP port */80: Permission denied"),
            Says("Couldn't listen on requested ports"),
            NoContent("/tmp/p"),
            NothingRuns,
        ],
    )
    .by(AsRoot),
    Row::new(
        "port-of-foreign-address",
        "passt -q -s /tmp/s -P /tmp/p -t 203.0.113.7/8080",
        refusal!(
            Says("Listen failed for HOST TCP port 203.0.113.7/8080: Cannot assign requested address"),
            Says("Couldn't listen on requested ports"),
            Mentions("Failed to bind port 8080")
        ),
    )
    .reference(leftovers!(
        "Listen failed for HOST TCP port 203.0.113.7/8080: Cannot assign requested address"
    )),
    Row::new(
        "port-of-foreign-ipv6-address",
        "passt -q -s /tmp/s -P /tmp/p -u [2001:db8:dead::7]/8080",
        refusal!(
            Says("Listen failed for HOST UDP port 2001:db8:dead::7/8080: Cannot assign requested address"),
            Says("Couldn't listen on requested ports")
        ),
    )
    .reference(leftovers!(
        "Listen failed for HOST UDP port 2001:db8:dead::7/8080: Cannot assign requested address"
    )),
    Row::new(
        "port-busy-one-of-range",
        "passt -q -s /tmp/s -P /tmp/p -t 8080-8085",
        refusal!(
            Says("Listen failed for HOST TCP port */8083: Address already in use"),
            Says("Couldn't listen on requested ports")
        ),
    )
    .after(&[Listener("0.0.0.0:8083")])
    .reference(leftovers!("Listen failed for HOST TCP port */8083: Address already in use")),
    Row::new(
        "port-busy-pasta",
        "pasta -P /tmp/p --config-net -t 8081 {child}",
        refusal!(
            Says("Listen failed for HOST TCP port */8081: Address already in use"),
            Says("Couldn't listen on requested ports")
        ),
    )
    .after(&[Child, Listener("[::]:8081")]),
    Row::new(
        "ports-none-of-rule",
        "passt -q -s /tmp/s -P /tmp/p -t ~25-65535",
        refusal!(Says("All listens failed for HOST TCP")),
    )
    .reference(leftovers!("All listens failed for HOST TCP */1-24")),
    // Port specifications
    passt!("port-65536", "-t 65536", "Invalid port specifier '65536'"),
    passt!("port-not-a-number", "-t http", "Invalid port specifier 'http'"),
    passt!("port-signed", "-t +22", "Invalid port specifier '+22'")
        .reference(leftovers!("Listen failed for HOST TCP port */22: Permission denied")),
    passt!("port-blank-behind", "-t '2222 '", "Invalid port specifier '2222 '"),
    passt!("port-blank-before-word", "-t ' all'", "Invalid port specifier ' all'"),
    passt!("port-empty", "-t ''", "Invalid port specifier ''"),
    passt!("port-trailing-comma", "-t 2222,", "Invalid port specifier '2222,'"),
    passt!("port-range-descending", "-t 8010-8000", "Invalid port specifier '8010-8000'"),
    passt!("port-ranges-unequal", "-t 8000-8010:9000-9005", "Invalid port specifier '8000-8010:9000-9005'"),
    passt!("port-range-end-too-large", "-t 8000-65536", "Invalid port specifier '8000-65536'"),
    passt!("port-target-too-large", "-u 8000:65536", "Invalid port specifier '8000:65536'"),
    passt!("port-with-bad-address", "-t 192.0.2.300/8080", "Invalid port specifier"),
    passt!("port-interface-too-long", "-t %interface-of-16-c/8080", "Invalid interface name: interface-of-16-c").reference(refusal!(Says("Invalid port specifier '%interface-of-16-c/8080'"))),
    passt!("port-zero", "-t 0", "Forwarding rule attempts to map from port 0"),
    passt!("port-to-zero", "-t 8080:0", "Forwarding rule attempts to map to port 0"),
    passt!("port-none-in-list", "-t 2222,none", "Invalid port specifier '2222,none'"),
    passt!("port-none-late", "-t 2222 -t none", "-t none conflicts with previous options"),
    passt!("port-none-late-udp", "-u 2222 -u none", "-u none conflicts with previous options"),
    passt!("port-auto-in-passt", "-t auto", "'auto' port forwarding is only allowed for pasta"),
    Row::new(
        "ports-overlap",
        "passt -q -s /tmp/s -P /tmp/p -t 8000-8010,8005-8015",
        refusal!(
            Says(
                "Forwarding configuration conflict: TCP [*]:8005-8015  =>  8005-8015  \
                 versus TCP [*]:8000-8010  =>  8000-8010"
            ),
            Says("Unable to add rule TCP [*]:8005-8015  =>  8005-8015"),
            Mentions("Overlapping port specifier")
        ),
    )
    .reference(refusal!(
        Says(
            "Forwarding configuration conflict: TCP [*]:8005-8015  =>  8005-8015  \
             versus TCP [*]:8000-8010  =>  8000-8010"
        ),
        Says("Unable to add rule TCP [*]:8005-8015  =>  8005-8015"),
        Omits("Overlapping port specifier")
    )),
    passt!(
        "ports-overlap-two-options",
        "-t 8001 -t 8000-8002",
        "Forwarding configuration conflict: TCP [*]:8000-8002  =>  8000-8002  versus TCP [*]:8001  =>  8001"
    ),
    passt!(
        "ports-overlap-address",
        "-t 8001 -t 192.0.2.2/8001",
        "Forwarding configuration conflict: TCP [192.0.2.2]:8001  =>  8001  versus TCP [*]:8001  =>  8001"
    ),
    passt!("ports-to-other-family", "-t 192.0.2.2/8080:[2001:db8::1]/80", "Forward from IPv4 (192.0.2.2) to IPv6 (2001:db8::1) unsupported"),
    passt!("ports-to-address-dual", "-t 8080:10.0.2.15/80", "Dual stack forward to IPv4 address 10.0.2.15 unsupported"),
    passt!("ports-to-multicast", "-t 192.0.2.2/8080:224.0.0.1/80", "Multicast target address 224.0.0.1 for forwarding rule"),
    passt!("ports-ipv6-off", "-4 -t [2001:db8:2::2]/8080", "IPv6 forward, but IPv6 not enabled"),
    passt!("ports-ipv4-off", "-6 -t 192.0.2.2/8080", "IPv4 forward, but IPv4 not enabled"),
    passt!("ports-tcp-off", "--no-tcp -t 8080", "Can't add TCP forwarding rule, TCP not enabled"),
    passt!("ports-udp-off", "--no-udp -u 8080", "Can't add UDP forwarding rule, UDP not enabled"),
    passt!("ports-too-many-rules", "-t {300-ports}", "Too many rules (maximum 255)"),
    passt!(
        "ports-too-many-sockets",
        "-t 192.0.2.11/1-65535 -t 192.0.2.12/1-65535 -t 192.0.2.13/1-65535 -t 192.0.2.14/1-65535 \
         -t 192.0.2.15/1-65535 -t 192.0.2.16/1-65535",
        "Rules require too many listening sockets (maximum 327680)"
    ),
    pasta!("ports-ns-address", "-T 127.0.0.1/22 true", "Listening address not allowed for -T 127.0.0.1/22"),
    pasta!("ports-ns-specifier", "-U 70000 true", "Invalid port specifier '70000'"),
    passt!("options-before-ports", "-t 65536 --mtu 99999999", "MTU 99999999 too large (max 65521)"),
    // Interfaces
    passt!("interface-missing", "-i eno999", "Invalid interface name eno999: No such device"),
    passt!("outbound-interface-without-address", "--outbound-if4 outside", "External interface not usable"),
    passt!("outbound-interface-missing", "--outbound-if6 eno999", "Invalid interface name eno999: No such device").reference(STARTS),
    passt!("outbound-interface-too-long", "--outbound-if4 interface-of-16-c", "Invalid interface name: interface-of-16-c"),
    pasta!("ns-interface-empty", "-I '' true", "Invalid interface name"),
    pasta!("ns-interface-too-long", "-I interface-of-16-c true", "Invalid interface name"),
    // Files, descriptors, sockets
    passt!("log-file-unwritable", "-l /passt.log", "Couldn't open log file /passt.log: Permission denied"),
    passt!("log-size-too-small", "-l /tmp/log --log-size 100", "Invalid --log-size: 100"),
    passt!("log-size-not-a-number", "-l /tmp/log --log-size big", "Invalid --log-size: big"),
    Row::new(
        "pid-file-unwritable",
        "passt -q -s /tmp/s -P /passt.pid",
        refusal!(Says("Couldn't open PID file /passt.pid: Permission denied"), Absent("/passt.pid")),
    ).reference(&[Returns(1), Says("Couldn't open PID file /passt.pid: Permission denied"), Exists("/tmp/s"), NothingRuns]),
    Row::new(
        "fd-closed",
        "passt -q -P /tmp/p --fd 77",
        refusal!(Says("Could not move --fd descriptor: Bad file descriptor")),
    ),
    Row::new("fd-not-a-number", "passt -q -P /tmp/p --fd x", refusal!(Says("Invalid --fd: x"))),
    Row::new("fd-negative", "passt -q -P /tmp/p --fd -1", refusal!(Says("Invalid --fd: -1"))),
    Row::new(
        "socket-folder-missing",
        "passt -q -s /tmp/nonexistent/s -P /tmp/p",
        refusal!(Says("Failed to bind UNIX domain socket: No such file or directory")),
    ),
    Row::new(
        "socket-folder-closed",
        "passt -q -s /s -P /tmp/p",
        refusal!(Says("Failed to bind UNIX domain socket: Permission denied")),
    ),
    Row::new(
        "socket-in-use",
        "passt -q -s /tmp/taken -P /tmp/p",
        &[
            Returns(1),
            Says("Socket path /tmp/taken already in use"),
            Exists("/tmp/taken"),
            NoContent("/tmp/p"),
            NothingRuns,
        ],
    )
    .after(&[SocketTaken("/tmp/taken")]),
    Row::new(
        "socket-path-empty",
        "passt -q -P /tmp/p -s ''",
        refusal!(Says("Invalid socket path: ")),
    ),
    Row::new(
        "socket-path-too-long",
        "passt -q -P /tmp/p -s /tmp/{254-letters}",
        refusal!(Says("Invalid socket path")),
    ),
    // Values
    passt!("mtu-too-large", "-m 99999999", "MTU 99999999 too large (max 65521)"),
    passt!("mtu-just-too-large", "-m 65522", "MTU 65522 too large (max 65521)"),
    passt!("mtu-not-a-number", "-m jumbo", "Invalid MTU: jumbo"),
    passt!("address-malformed", "-a 192.0.2.300", "Invalid guest address: 192.0.2.300"),
    passt!("address-loopback", "-a 127.0.0.1", "Invalid guest address: 127.0.0.1"),
    passt!("address-unspecified", "-a ::", "Invalid guest address: ::"),
    passt!("address-multicast", "-a 224.0.0.1", "Invalid guest address: 224.0.0.1"),
    passt!("address-broadcast", "-a 255.255.255.255", "Invalid guest address: 255.255.255.255"),
    passt!("address-prefix-33", "-a 192.0.2.77/33", "Invalid prefix length: 192.0.2.77/33"),
    passt!("address-prefix-129", "-a 2001:db8::1/129", "Invalid prefix length: 2001:db8::1/129"),
    passt!("address-prefix-twice", "-a 192.0.2.77/24 -n 24", "Redundant prefix length specification"),
    passt!("address-prefix-twice-reversed", "-n 24 -a 192.0.2.77/24", "Redundant prefix length specification"),
    passt!("netmask-33", "-n 33", "Invalid prefix length: 33"),
    passt!("netmask-with-holes", "-n 255.0.255.0", "Invalid prefix length: 255.0.255.0"),
    passt!("mac-short", "-M 52:54:00:12:34", "Invalid MAC address: 52:54:00:12:34"),
    passt!("mac-not-hexadecimal", "-M 52:54:00:12:34:xx", "Invalid MAC address: 52:54:00:12:34:xx"),
    passt!("mac-long", "-M 52:54:00:12:34:56:78", "Invalid MAC address: 52:54:00:12:34:56:78"),
    passt!("gateway-loopback", "-g 127.0.0.1", "Invalid gateway address: 127.0.0.1"),
    passt!("gateway-unspecified", "-g ::", "Invalid gateway address: ::"),
    passt!("gateway-malformed", "-g gateway", "Invalid gateway address: gateway"),
    passt!("outbound-unspecified", "-o 0.0.0.0", "Invalid or redundant outbound address: 0.0.0.0"),
    passt!("outbound-multicast", "-o ff02::1", "Invalid or redundant outbound address: ff02::1"),
    passt!("dns-malformed", "-D resolver", "Cannot use DNS address resolver"),
    passt!("dns-forward-loopback", "--dns-forward 127.0.0.53", "Invalid DNS forwarding address: 127.0.0.53"),
    passt!("dns-host-unspecified", "--dns-host 0.0.0.0", "Invalid host nameserver address: 0.0.0.0"),
    passt!("search-empty", "-S ''", "Cannot use DNS search domain "),
    passt!("hostname-too-long", "-H {254-letters}", "Invalid hostname: "),
    passt!("fqdn-too-long", "--fqdn {254-letters}", "Invalid FQDN: "),
    passt!("map-guest-malformed", "--map-guest-addr here", "Invalid address to remap to host: here"),
    passt!("map-host-loopback-multicast", "--map-host-loopback ff02::1", "Invalid address to remap to host: ff02::1"),
    passt!("map-host-loopback-loopback", "--map-host-loopback 127.0.0.1", "Invalid address to remap to host: 127.0.0.1"),
    passt!("runas-unknown", "--runas no-such-user", "Invalid --runas option: no-such-user"),
    passt!("runas-root-by-name", "--runas root", "Invalid --runas option: root"),
    // Options that do not go together
    passt!("stats-in-background", "--stats 1", "Can't display statistics if not running in foreground"),
    passt!("extra-argument", "guest", "Extra non-option argument: guest"),
    passt!("pasta-only-tcp-ns", "-T 22", "-T is for pasta mode only"),
    passt!("pasta-only-udp-ns", "-U 53", "-U is for pasta mode only"),
    passt!("pasta-only-ns-ifname", "-I tap0", "-I is for pasta mode only"),
    passt!("pasta-only-userns", "--userns /proc/self/ns/user", "--userns is for pasta mode only"),
    passt!("pasta-only-netns", "--netns guest", "--netns is for pasta mode only"),
    passt!("pasta-only-netns-only", "--netns-only", "--netns-only is for pasta mode only"),
    passt!("pasta-only-no-netns-quit", "--no-netns-quit", "--no-netns-quit is for pasta mode only"),
    passt!("pasta-only-no-pidns", "--no-pidns", "--no-pidns is for pasta mode only"),
    passt!("pasta-only-config-net", "--config-net", "--config-net is for pasta mode only"),
    passt!("pasta-only-no-copy-routes", "--no-copy-routes", "--no-copy-routes is for pasta mode only"),
    passt!("pasta-only-no-copy-addrs", "--no-copy-addrs", "--no-copy-addrs is for pasta mode only"),
    passt!("pasta-only-ns-mac-addr", "--ns-mac-addr 52:54:00:12:34:56", "--ns-mac-addr is for pasta mode only"),
    passt!("pasta-only-dhcp-dns", "--dhcp-dns", "--dhcp-dns is for pasta mode only"),
    passt!("pasta-only-dhcp-search", "--dhcp-search", "--dhcp-search is for pasta mode only"),
    passt!("pasta-only-host-lo-to-ns-lo", "--host-lo-to-ns-lo", "--host-lo-to-ns-lo is for pasta mode only"),
    passt!("pasta-only-splice-only", "--splice-only", "--splice-only is for pasta mode only"),
    passt!("vhost-user-only-repair-path", "--repair-path /tmp/r", "--repair-path is for vhost-user mode only"),
    passt!("vhost-user-only-migrate-exit", "--migrate-exit", "--migrate-exit is for vhost-user mode only"),
    passt!("vhost-user-only-migrate-no-linger", "--migrate-no-linger", "--migrate-no-linger is for vhost-user mode only"),
    pasta!("passt-only-socket", "-s /tmp/s true", "-s is for passt / vhost-user mode only"),
    pasta!("passt-only-one-off", "--one-off true", "--one-off is for passt mode only"),
    pasta!("passt-only-no-dhcp-dns", "--no-dhcp-dns true", "--no-dhcp-dns is for passt mode only"),
    pasta!("passt-only-no-dhcp-search", "--no-dhcp-search true", "--no-dhcp-search is for passt mode only"),
    pasta!("netns-and-command", "--netns /proc/self/ns/net true", "Both --netns and PID or command given"),
    pasta!("no-pidns-and-netns", "--no-pidns --netns /proc/self/ns/net", "--no-pidns is incompatible with PID or --netns"),
    pasta!("no-copy-routes-alone", "--no-copy-routes true", "--no-copy-routes needs --config-net"),
    pasta!("no-copy-addrs-alone", "--no-copy-addrs true", "--no-copy-addrs needs --config-net"),
    pasta!("splice-only-no-splice", "--splice-only --no-splice true", "--splice-only is incompatible with --no-splice"),
    pasta!("host-lo-no-splice", "--host-lo-to-ns-lo --no-splice true", "--host-lo-to-ns-lo is incompatible with --no-splice"),
    pasta!("pid-too-large", "99999999999", "Invalid PID 99999999999"),
    pasta!("netns-missing", "--netns /tmp/no-such-namespace", "Couldn't open network namespace /tmp/no-such-namespace"),
    pasta!("netns-name-missing", "--netns no-such-name", "Couldn't open network namespace /run/netns/no-such-name"),
    // The command line itself
    Row::new(
        "unknown-option",
        "passt -q -s /tmp/s -P /tmp/p --nonsense",
        refusal!(
            Says("passt: unrecognized option '--nonsense'"),
            Says("Try 'passt --help' for more information."),
            Omits("--socket")
        ),
    )
    .reference(refusal!(
        Says("passt: unrecognized option '--nonsense'"),
        Says("Usage: passt [OPTION]..."),
        Mentions("--socket")
    )),
    Row::new(
        "unknown-option-pasta",
        "pasta --config-net --nonsense=1 true",
        refusal!(
            Says("pasta: unrecognized option '--nonsense=1'"),
            Says("Try 'pasta --help' for more information.")
        ),
    )
    .reference(refusal!(
        Says("pasta: unrecognized option '--nonsense=1'"),
        Says("Usage: pasta [OPTION]...")
    )),
    passt!("unknown-short-option", "-Z", "passt: invalid option -- 'Z'"),
    passt!("argument-missing", "--address", "passt: option '--address' requires an argument"),
    passt!("argument-missing-short", "-a", "passt: option requires an argument -- 'a'"),
    passt!("argument-unwanted", "--quiet=yes", "passt: option '--quiet' doesn't allow an argument"),
    passt!("ambiguous-prefix", "--map", "passt: option '--map' is ambiguous; possibilities: '--map-host-loopback' '--map-guest-addr'"),
    Row::new(
        "name-says-nothing",
        "passt -s /tmp/s -P /tmp/p",
        refusal!(Says("Cannot determine mode, invoke as \"passt\" or \"pasta\"")),
    )
    .after(&[crate::row::Before::Copied("/tmp/network")]),
    Row::new(
        "fd-is-no-socket",
        "passt -q -P /tmp/p --fd 0",
        refusal!(Mentions("--fd")),
    ).reference(&[Returns(0), PidFile("/tmp/p")]),
    Row::new(
        "fd-in-passt-with-pasta-option",
        "passt -q -P /tmp/p --fd 3 --config-net",
        refusal!(Says("--config-net is for pasta mode only")),
    )
    .after(&[Descriptor(3)]),
];
