//! What callers rely on when the start succeeds: the exact command line of each, and its contract.
//! Sources: the callers' own code, and `passt(1)`, `pasta(1)`.

use crate::row::Before::{
    Child, Closed, Copied, Descriptor, Descriptors, EarlyQuestion, ExitPipe, InMemory, Leak,
    NotifySocket, ReadyPipe, Root, Script, SocketTaken, Unheard,
};
use crate::row::Caller::{Engine, Root as AsRoot};
use crate::row::Clause::*;
use crate::row::Row;

/// QEMU has made the PID file, empty.
const QEMU_FILE: &str = "umask 077; : >/tmp/passt-9QXZB3.pid";
/// Where libvirt keeps sockets and PID files of the system's machines, and of a user's.
const LIBVIRT: &str = "mkdir -p /run/libvirt/qemu/passt /run/user/65534/libvirt/qemu/run/passt
    chmod -R 777 /run/libvirt /run/user";
/// What KubeVirt allows in a pod.
const KUBEVIRT: &str = "echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// An engine's folder with a network namespace, made by the engine itself.
const NETNS: &str =
    "mkdir -p /tmp/netns; : >/tmp/netns/netns-1; unshare --net=/tmp/netns/netns-1 true";
/// How an engine deletes it.
const NO_NETNS: &str = "umount --lazy /tmp/netns/netns-1; rm /tmp/netns/netns-1";
/// Lines that a program reads, of the banner with IPv4.
const DHCP: &[&str] = &["DHCP:", "assign: 192.0.2.2", "mask: 255.255.255.0", "router: 192.0.2.1"];

/// The table.
pub const ROWS: &[Row] = &[
    Row::new(
        "ports-that-take-privileges",
        "passt -s /tmp/passt.sock -P /tmp/passt.pid -t all",
        &[
            Returns(0),
            Mentions("HOST TCP/1-1023: 1023 ports are left out"),
            PidFile("/tmp/passt.pid"),
            Tcp("192.0.2.2:1024"),
            Term,
        ],
    )
    .ours(),
    // Containers whose first process reaps nobody.
    Row::new("reaped-command", "pasta -q --splice-only -- true", &[Returns(0), NothingToReap]),
    Row::new(
        "reaped-command-that-is-not-there",
        "pasta -q --splice-only -- /nonexistent",
        &[Returns(1), NothingToReap],
    ),
    Row::new(
        "reaped-command-not-started",
        "pasta -q --splice-only -t 203.0.113.1/8080 -- true",
        &[Returns(1), NothingToReap],
    )
    .ours(),
    Row::new(
        "reaped-background",
        "pasta -q --splice-only -P /tmp/pasta.pid {child}",
        &[Returns(0), PidFile("/tmp/pasta.pid"), Term, NothingToReap],
    )
    .after(&[Child]),
    Row::new(
        "reaped-background-following",
        "pasta -q --config-net -P /tmp/pasta.pid {child}",
        &[Returns(0), PidFile("/tmp/pasta.pid"), Term, NothingToReap],
    )
    .after(&[Child]),
    Row::new(
        "reaped-background-passt",
        "passt -q -P /tmp/passt.pid -s /tmp/passt.socket",
        &[Returns(0), PidFile("/tmp/passt.pid"), Term, NothingToReap],
    )
    .reference(&[Returns(0), PidFile("/tmp/passt.pid"), Term, NothingRuns]),
    Row::new(
        "reaped-foreground",
        "pasta -q -f --splice-only -P /tmp/pasta.pid {child}",
        &[PidFileSoon("/tmp/pasta.pid"), Term, NothingToReap],
    )
    .after(&[Child]),
    // QEMU 10.1: -netdev passt
    Row::new(
        "qemu",
        "passt --quiet --pid /tmp/passt-9QXZB3.pid --fd 3",
        &[Returns(0), Silent, PidFile("/tmp/passt-9QXZB3.pid"), StreamPair, Term, NothingRuns],
    )
    .after(&[Script(QEMU_FILE), Descriptor(3)]),
    Row::new(
        "qemu-stream-ended",
        "passt --quiet --pid /tmp/passt-9QXZB3.pid --fd 3",
        &[
            Returns(0),
            PidFile("/tmp/passt-9QXZB3.pid"),
            StreamPair,
            EndsWithPair,
            Again,
            PidFile("/tmp/passt-9QXZB3.pid"),
            StreamPair,
        ],
    )
    .after(&[Script(QEMU_FILE), Descriptor(3)]),
    Row::new(
        "qemu-all-parameters",
        "passt --quiet --mtu 1500 --address 192.0.2.77 --netmask 255.255.255.0 --mac-addr 52:55:0a:00:02:02 \
         --gateway 192.0.2.1 --interface uplink --outbound 192.0.2.2 --outbound-if4 uplink --outbound-if6 uplink \
         --dns 198.51.100.53 --fqdn guest.example.test --no-dhcp-dns --no-dhcp-search \
         --map-host-loopback 192.0.2.90 --map-guest-addr 192.0.2.91 --dns-forward 192.0.2.53 \
         --dns-host 198.51.100.53 --freebind --search 'example.test example.net' \
         --tcp-ports 2222:22,8000-8010:9000-9010 --udp-ports 5353:53 \
         --pid /tmp/passt-9QXZB3.pid --fd 3",
        &[
            Returns(0),
            Silent,
            PidFile("/tmp/passt-9QXZB3.pid"),
            StreamPair,
            Tcp("192.0.2.2:2222"),
            Tcp("[2001:db8:2::2]:8010"),
            TcpRefused("192.0.2.2:8011"),
            Udp("192.0.2.2:5353"),
            Term,
        ],
    )
    .after(&[Script(QEMU_FILE), Descriptor(3)]),
    Row::new(
        "qemu-switches",
        "passt --quiet --no-tcp --no-udp --no-icmp --no-dhcp --no-ndp --no-dhcpv6 --no-ra --freebind \
         --ipv4-only --pid /tmp/passt-9QXZB3.pid --fd 3",
        &[Returns(0), Silent, PidFile("/tmp/passt-9QXZB3.pid"), StreamPair, Term],
    )
    .after(&[Script(QEMU_FILE), Descriptor(3)]),
    Row::new(
        "qemu-ipv4-off",
        "passt --quiet --ipv6-only --tcp-ports 8080 --pid /tmp/passt-9QXZB3.pid --fd 3",
        &[
            Returns(0),
            Silent,
            PidFile("/tmp/passt-9QXZB3.pid"),
            Tcp("[2001:db8:2::2]:8080"),
            TcpRefused("192.0.2.2:8080"),
            EndsWithPair,
        ],
    )
    .after(&[Script(QEMU_FILE), Descriptor(3)]),
    Row::new(
        "qemu-vhost-user",
        "passt --vhost-user --quiet --mtu 1500 --tcp-ports 2222:22 --pid /tmp/passt-9QXZB3.pid --fd 3",
        &[
            Returns(0),
            Silent,
            PidFile("/tmp/passt-9QXZB3.pid"),
            VhostUserPair,
            Tcp("192.0.2.2:2222"),
            Term,
            NothingRuns,
        ],
    )
    .after(&[Script(QEMU_FILE), Descriptor(3)]),
    Row::new(
        "qemu-vhost-user-ended",
        "passt --vhost-user --quiet --pid /tmp/passt-9QXZB3.pid --fd 3",
        &[Returns(0), PidFile("/tmp/passt-9QXZB3.pid"), VhostUserPair, EndsWithPair],
    )
    .after(&[Script(QEMU_FILE), Descriptor(3)]),
    Row::new(
        "qemu-not-quiet",
        "passt --pid /tmp/passt-9QXZB3.pid --fd 3",
        &[Returns(0), Banner(DHCP), PidFile("/tmp/passt-9QXZB3.pid"), StreamPair, Term],
    )
    .after(&[Script(QEMU_FILE), Descriptor(3)]),
    Row::new(
        "qemu-leaks-descriptors",
        "passt --quiet --pid /tmp/passt-9QXZB3.pid --fd 3",
        &[
            Returns(0),
            PidFile("/tmp/passt-9QXZB3.pid"),
            DropsLeak,
            StreamPair,
            Term,
        ],
    )
    .after(&[Script(QEMU_FILE), Descriptor(3), Leak]),
    // QEMU by hand: passt first, then -netdev stream or vhost-user.
    Row::new(
        "by-hand",
        "passt",
        &[
            Returns(0),
            Banner(&["UNIX domain socket bound at /tmp/passt_1.socket", "DHCP:", "You can now start qemu"]),
            Mentions("-netdev stream,id=s,server=off,addr.type=unix,addr.path=/tmp/passt_1.socket"),
            Served("/tmp/passt_1.socket"),
            OutlivesClient("/tmp/passt_1.socket"),
            Again,
            Served("/tmp/passt_2.socket"),
        ],
    ),
    Row::new(
        "by-hand-socket",
        "passt --socket /tmp/s -t 2222:22",
        &[
            Returns(0),
            Banner(&["MAC:", "DHCP:", "Inbound forwarding rules (HOST):", "TCP [*]:2222  =>  22"]),
            OutlivesClient("/tmp/s"),
            Term,
            Exists("/tmp/s"),
            Again,
            Served("/tmp/s"),
        ],
    ),
    Row::new(
        "by-hand-vhost-user",
        "passt --vhost-user --socket-path /tmp/s",
        &[
            Returns(0),
            Banner(&["UNIX domain socket bound at /tmp/s", "DHCP:", "You can start qemu with:"]),
            Mentions("-chardev socket,id=chr0,path=/tmp/s"),
            Served("/tmp/s"),
            Served("/tmp/s"),
            Term,
        ],
    ),
    // libvirt
    Row::new(
        "libvirt-system",
        "passt --one-off --socket /run/libvirt/qemu/passt/1-guest-net0.socket \
         --pid /run/libvirt/qemu/passt/1-guest-net0-passt.pid --mtu 1500 --interface uplink \
         --log-file /tmp/passt.log --hostname guest --fqdn guest.example.test \
         --address 192.0.2.77 --netmask 24 --address 2001:db8:2::77 \
         --tcp-ports 31339:41339 --tcp-ports 192.0.2.2/4025-4035:5025-5035,9000,~4030-4034 \
         --udp-ports 2001:db8:2::2/8002,4431:4432 --tcp-ports %uplink/2025",
        &[
            Returns(0),
            PidFile("/run/libvirt/qemu/passt/1-guest-net0-passt.pid"),
            Tcp("192.0.2.2:31339"),
            Tcp("[2001:db8:2::2]:31339"),
            Tcp("192.0.2.2:4029"),
            TcpRefused("192.0.2.2:4030"),
            Tcp("192.0.2.2:9000"),
            TcpRefused("[2001:db8:2::2]:9000"),
            Udp("[2001:db8:2::2]:4431"),
            Exists("/tmp/passt.log"),
            EndsWithClient("/run/libvirt/qemu/passt/1-guest-net0.socket"),
            NothingRuns,
            Exists("/run/libvirt/qemu/passt/1-guest-net0.socket"),
            Exists("/run/libvirt/qemu/passt/1-guest-net0-passt.pid"),
        ],
    )
    .after(&[Root(LIBVIRT)]),
    Row::new(
        "libvirt-session",
        "passt --one-off --socket /run/user/65534/libvirt/qemu/run/passt/1-guest-net0.socket \
         --pid /run/user/65534/libvirt/qemu/run/passt/1-guest-net0-passt.pid",
        &[
            Returns(0),
            PidFile("/run/user/65534/libvirt/qemu/run/passt/1-guest-net0-passt.pid"),
            EndsWithClient("/run/user/65534/libvirt/qemu/run/passt/1-guest-net0.socket"),
        ],
    )
    .after(&[Root(LIBVIRT)]),
    Row::new(
        "libvirt-kills",
        "passt --one-off --socket /run/libvirt/qemu/passt/1-guest-net0.socket \
         --pid /run/libvirt/qemu/passt/1-guest-net0-passt.pid --tcp-ports 8080",
        &[
            Returns(0),
            PidFile("/run/libvirt/qemu/passt/1-guest-net0-passt.pid"),
            Kill,
            Again,
            PidFile("/run/libvirt/qemu/passt/1-guest-net0-passt.pid"),
            Tcp("192.0.2.2:8080"),
            Term,
            Again,
            Served("/run/libvirt/qemu/passt/1-guest-net0.socket"),
        ],
    )
    .after(&[Root(LIBVIRT)]),
    Row::new(
        "libvirt-vhost-user",
        "passt --vhost-user --one-off --socket /run/libvirt/qemu/passt/1-guest-net0.socket \
         --pid /run/libvirt/qemu/passt/1-guest-net0-passt.pid --log-file /tmp/passt.log --tcp-ports 2222:22",
        &[
            Returns(0),
            PidFile("/run/libvirt/qemu/passt/1-guest-net0-passt.pid"),
            Tcp("192.0.2.2:2222"),
            EndsWithClient("/run/libvirt/qemu/passt/1-guest-net0.socket"),
        ],
    )
    .after(&[Root(LIBVIRT)]),
    Row::new(
        "libvirt-9-mac-addr",
        "passt --one-off --socket /run/libvirt/qemu/passt/1-guest-net0.socket --mac-addr 52:54:00:12:34:56 \
         --pid /run/libvirt/qemu/passt/1-guest-net0-passt.pid --tcp-ports all",
        &[
            Returns(0),
            PidFile("/run/libvirt/qemu/passt/1-guest-net0-passt.pid"),
            Tcp("192.0.2.2:1090"),
            Term,
        ],
    )
    .after(&[Root(LIBVIRT)]),
    // KubeVirt, by libvirt in a pod; no ports in its specification are all ports.
    Row::new(
        "kubevirt",
        "passt --vhost-user --one-off --socket /run/libvirt/qemu/passt/1-guest-net0.socket \
         --pid /run/libvirt/qemu/passt/1-guest-net0-passt.pid --interface uplink \
         --log-file /var/log/passt.log --tcp-ports all --udp-ports all",
        &[
            Returns(0),
            PidFile("/run/libvirt/qemu/passt/1-guest-net0-passt.pid"),
            Tcp("192.0.2.2:22"),
            Udp("192.0.2.2:53"),
            Served("/run/libvirt/qemu/passt/1-guest-net0.socket"),
        ],
    )
    .after(&[Root(LIBVIRT), Root(KUBEVIRT)]),
    Row::new(
        "kubevirt-istio",
        "passt --vhost-user --one-off --socket /run/libvirt/qemu/passt/1-guest-net0.socket \
         --pid /run/libvirt/qemu/passt/1-guest-net0-passt.pid --interface uplink \
         --tcp-ports ~15001,~15006,~15008,~15020,~1001,~1006",
        &[
            Returns(0),
            PidFile("/run/libvirt/qemu/passt/1-guest-net0-passt.pid"),
            Tcp("192.0.2.2:22"),
            TcpRefused("192.0.2.2:1001"),
            Tcp("192.0.2.2:1002"),
            TcpRefused("192.0.2.2:15001"),
        ],
    )
    .after(&[Root(LIBVIRT), Root(KUBEVIRT)]),
    // libguestfs
    Row::new(
        "libguestfs",
        "passt --one-off --socket /tmp/libguestfs.sock --pid /tmp/libguestfs.pid \
         --address 169.254.2.15 --netmask 16 --mac-addr 52:56:00:00:00:02 --gateway 169.254.2.2",
        &[
            Returns(0),
            PidFile("/tmp/libguestfs.pid"),
            EndsWithClient("/tmp/libguestfs.sock"),
        ],
    ),
    Row::new("libguestfs-probe", "passt --help", &[Returns(0), Prints("--one-off")]),
    // Podman and Buildah: one library, the same words.
    Row::new(
        "podman",
        "pasta --config-net --dns-forward 169.254.1.1 -t none -u none -T none -U none --no-map-gw --quiet \
         --netns /tmp/netns/netns-1 --map-guest-addr 169.254.1.2",
        &[
            Returns(0),
            Silent,
            Inside("ip -4 -o addr show dev uplink", "inet 192.0.2.2/24"),
            Inside("ip -6 -o addr show dev uplink", "inet6 2001:db8:2::2/64"),
            Inside("ip -4 route", "default via 192.0.2.1 dev uplink"),
            Inside("ip -6 route", "default via 2001:db8:2::1 dev uplink"),
            Inside("ip -o link show lo", "UP"),
            EndsAfter(NO_NETNS),
        ],
    )
    .by(Engine)
    .after(&[Script(NETNS)]),
    Row::new(
        "podman-publishes",
        "pasta --config-net -t 8080-8080:80-80 -t 192.0.2.2/8443-8443:443-443 -t 2001:db8:2::2/9000-9002:9000-9002 \
         -u 5353-5353:53-53 --dns-forward 169.254.1.1 -T none -U none --no-map-gw --quiet \
         --netns /tmp/netns/netns-1 --map-guest-addr 169.254.1.2",
        &[
            Returns(0),
            Silent,
            Tcp("192.0.2.2:8080"),
            Tcp("192.0.2.2:8443"),
            TcpRefused("[2001:db8:2::2]:8443"),
            Tcp("[2001:db8:2::2]:9002"),
            TcpRefused("192.0.2.2:9002"),
            Udp("0.0.0.0:5353"),
            EndsAfter(NO_NETNS),
        ],
    )
    .by(Engine)
    .after(&[Script(NETNS)]),
    Row::new(
        "podman-options",
        "pasta --config-net --mtu 1400 -I eth0 -a 10.0.2.100 -n 24 -g 10.0.2.2 --ipv4-only \
         --dns-forward 10.0.2.3 -t auto -u none -T none -U none --no-map-gw --quiet \
         --netns /tmp/netns/netns-1 --map-guest-addr 169.254.1.2",
        &[
            Returns(0),
            Silent,
            Inside("ip -o addr show dev eth0", "inet 10.0.2.100/24"),
            Inside("ip -o link show dev eth0", "mtu 1400"),
            Inside("ip route", "default via 10.0.2.2 dev eth0"),
            EndsAfter(NO_NETNS),
        ],
    )
    .by(Engine)
    .after(&[Script(NETNS)]),
    Row::new(
        "podman-bridge",
        "pasta --config-net --pid /tmp/rootless-netns-conn.pid --dns-forward 169.254.1.1 \
         -t none -u none -T none -U none --no-map-gw --quiet \
         --netns /tmp/netns/netns-1 --map-guest-addr 169.254.1.2",
        &[
            Returns(0),
            Silent,
            PidFile("/tmp/rootless-netns-conn.pid"),
            Inside("ip -4 -o addr show dev uplink", "inet 192.0.2.2/24"),
            Term,
        ],
    )
    .by(Engine)
    .after(&[Script(NETNS)]),
    Row::new(
        "podman-bridge-pesto",
        "pasta --config-net --pid /tmp/p -c /tmp/pasta.sock -t none -u none -T none -U none --quiet {child}",
        &[
            Returns(0),
            Silent,
            PidFile("/tmp/p"),
            Exists("/tmp/pasta.sock"),
            Does("pesto --add -t 0.0.0.0/8088 -t [::]/8088 -u 0.0.0.0/8088 /tmp/pasta.sock", ""),
            TcpSoon("192.0.2.2:8088"),
            TcpSoon("[2001:db8:2::2]:8088"),
            Udp("0.0.0.0:8088"),
            Does("pesto --add -t 192.0.2.2/8090-8091:192.0.2.77/80-81 /tmp/pasta.sock", ""),
            TcpSoon("192.0.2.2:8091"),
            Fails("pesto --add -t 0.0.0.0/8088 /tmp/pasta.sock", "Forwarding configuration conflict"),
            Does("pesto --delete -t 0.0.0.0/8088 -t [::]/8088 /tmp/pasta.sock", ""),
            TcpRefusedSoon("192.0.2.2:8088"),
            TcpSoon("192.0.2.2:8091"),
            Does("pesto /tmp/pasta.sock", "UDP [0.0.0.0]:8088  =>  8088"),
            Term,
        ],
    )
    .after(&[Child]),
    // Podman finds it by itself, and it may be from another package.
    Row::new(
        "podman-bridge-other-pesto",
        "pasta --config-net --pid /tmp/p -c /tmp/pasta.sock -t none -u none -T none -U none --quiet {child}",
        &[
            Returns(0),
            Silent,
            Does("other-pesto --add -t 0.0.0.0/8088 -T 9 -u 53535:53 /tmp/pasta.sock", ""),
            TcpSoon("192.0.2.2:8088"),
            Does("other-pesto /tmp/pasta.sock", "  SPLICE\n    TCP [*]%lo:9  =>  9 \n"),
            Fails("other-pesto -D -t 8089 /tmp/pasta.sock", "Couldn't find forwarding rule to delete"),
            Does("other-pesto -t auto -T none /tmp/pasta.sock", ""),
            TcpRefusedSoon("192.0.2.2:8088"),
            Does("pesto /tmp/pasta.sock", "(auto-scan)\n  SPLICE\n"),
            Does("pesto -C HOST /tmp/pasta.sock", ""),
            Does("pesto /tmp/pasta.sock", "  HOST\n  SPLICE\n"),
            Term,
        ],
    )
    .after(&[Child]),
    Row::new(
        "ports-after-blanks",
        "passt -q -s /tmp/s -t '8080, 8081' -u ' 8082: 82'",
        &[
            Returns(0),
            Served("/tmp/s"),
            Tcp("192.0.2.2:8080"),
            Tcp("192.0.2.2:8081"),
            Udp("192.0.2.2:8082"),
            Term,
        ],
    ),
    Row::new(
        "passt-other-pesto",
        "passt -q -s /tmp/s -c /tmp/c -t 8080",
        &[
            Returns(0),
            Served("/tmp/s"),
            Does("other-pesto -A -t 8081:80 -u 8082 /tmp/c", ""),
            TcpSoon("192.0.2.2:8081"),
            Tcp("192.0.2.2:8080"),
            Fails("other-pesto -T 80 /tmp/c", "Can't use -T, no outbound interface"),
            Does("other-pesto -D -t 8080 /tmp/c", ""),
            TcpRefusedSoon("192.0.2.2:8080"),
            Does("pesto /tmp/c", "  HOST\n    TCP [*]:8081  =>  80 \n    UDP [*]:8082  =>  8082 \n"),
            Served("/tmp/s"),
            Term,
        ],
    ),
    Row::new(
        "conf-path-of-no-start",
        "passt -q -s /tmp/s -c /tmp/c -t 192.0.2.77/8081",
        &[Returns(1), Absent("/tmp/s"), Absent("/tmp/c")],
    )
    .ours(),
    Row::new(
        "conf-path-taken",
        "passt -q -s /tmp/s -c /tmp/taken",
        &[Returns(1), Says("Socket path /tmp/taken already in use")],
    )
    .after(&[SocketTaken("/tmp/taken")]),
    Row::new(
        "podman-debug",
        "pasta --config-net --debug --dns-forward 169.254.1.1 -t none -u none -T none -U none --no-map-gw \
         --netns /tmp/netns/netns-1 --map-guest-addr 169.254.1.2",
        &[Returns(0), Mentions("Namespace interface: uplink"), EndsAfter(NO_NETNS)],
    )
    .by(Engine)
    .after(&[Script(NETNS)]),
    Row::new(
        "podman-no-network",
        "pasta --config-net --dns-forward 169.254.1.1 -t none -u none -T none -U none --no-map-gw --quiet \
         --netns /tmp/netns/netns-1 --map-guest-addr 169.254.1.2",
        &[
            Returns(0),
            Inside("ip -4 -o addr show dev tap0", "inet 169.254.2.1/16"),
            EndsAfter(NO_NETNS),
        ],
    )
    .by(Engine)
    .after(&[Root("ip link del uplink"), Script(NETNS)]),
    Row::new(
        "buildah-old-forward",
        "pasta --config-net --dns-forward 169.254.0.1 -t none -u none -T none -U none --no-map-gw \
         --netns /tmp/netns/netns-1",
        &[Returns(0), Inside("ip route", "default via 192.0.2.1 dev uplink"), EndsAfter(NO_NETNS)],
    )
    .by(Engine)
    .after(&[Script(NETNS)]),
    Row::new("podman-version", "pasta --version", &[Returns(0), Prints("pasta ")]),
    Row::new("passt-version", "passt --version", &[Returns(0), Prints("passt ")]),
    // rootlesskit: a child with namespaces of its own.
    Row::new(
        "rootlesskit",
        "pasta --stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 \
         --gateway=10.0.2.2 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=auto \
         --udp-ports=auto --host-lo-to-ns-lo {child}",
        &[
            Returns(0),
            Inside("ip -o addr show dev tap0", "inet 10.0.2.100/24"),
            Inside("ip -o link show dev tap0", "mtu 65520"),
            Inside("ip route", "default via 10.0.2.2 dev tap0"),
            EndsWithChild,
        ],
    )
    .after(&[Child]),
    Row::new(
        "rootlesskit-detached",
        "pasta --stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 \
         --gateway=10.0.2.2 --dns-forward=10.0.2.3 --tcp-ports=none --udp-ports=none \
         --userns=/proc/{child}/ns/user --netns=/proc/{child}/ns/net",
        &[
            Returns(0),
            Inside("ip -o addr show dev tap0", "inet 10.0.2.100/24"),
            Inside("ip route", "default via 10.0.2.2 dev tap0"),
            EndsWithChild,
        ],
    )
    .after(&[Child]),
    Row::new("rootlesskit-probe", "pasta --host-lo-to-ns-lo --version", &[Returns(0), Prints("pasta ")]),
    Row::new(
        "rootlesskit-probe-unknown",
        "pasta --not-an-option --version",
        &[Returns(1), Mentions("unrecognized option '--not-an-option'")],
    ),
    Row::new(
        "rootlesskit-child-is-gone",
        "pasta --stderr --config-net 4194303",
        &[Returns(1), Mentions("/proc/4194303/ns/"), NothingRuns],
    ),
    // slirp4netns, as it is called by those who do not know pasta. Podman first looks for options in its help.
    Row::new(
        "slirp4netns-probe",
        "slirp4netns --help",
        &[Returns(0), Prints("--disable-host-loopback"), Prints("--enable-seccomp"), Prints("--cidr")],
    )
    .ours(),
    Row::new("slirp4netns-version", "slirp4netns --version", &[Returns(0), Prints("slirp4netns version 1.")]).ours(),
    Row::new(
        "slirp4netns-podman",
        "slirp4netns --disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -r 3 -e 4 \
         --netns-type=path /tmp/netns/netns-1 tap0",
        &[
            Ready,
            Inside("ip -o addr show dev tap0", "inet 10.0.2.100/24"),
            Inside("ip -o addr show dev tap0", "inet6 fd00::100/64"),
            Inside("ip -o link show dev tap0", "mtu 65520"),
            Inside("ip route", "default via 10.0.2.2 dev tap0"),
            EndsWithPipe,
            NothingRuns,
        ],
    )
    .by(Engine)
    .after(&[Script(NETNS), ReadyPipe(3), ExitPipe(4)])
    .ours(),
    Row::new(
        "slirp4netns-podman-ports",
        "slirp4netns --disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp -c -r 3 -e 4 --api-socket \
         /tmp/api.sock --netns-type=path /tmp/netns/netns-1 tap0",
        &[Ready, Exists("/tmp/api.sock"), TcpRefused("192.0.2.2:8080"), EndsWithPipe, NothingRuns],
    )
    .by(Engine)
    .after(&[Script(NETNS), ReadyPipe(3), ExitPipe(4)])
    .ours(),
    Row::new(
        "slirp4netns-podman-no-namespace",
        "slirp4netns --disable-host-loopback --mtu=65520 -c -r 3 -e 4 --netns-type=path /tmp/netns/none tap0",
        &[NeverReady, Returns(1), Mentions("/tmp/netns/none"), NothingRuns],
    )
    .by(Engine)
    .after(&[ReadyPipe(3), ExitPipe(4)])
    .ours(),
    // rootlesskit, with the namespaces of its child.
    Row::new(
        "slirp4netns-rootlesskit",
        "slirp4netns --mtu 65520 -r 3 --disable-host-loopback --enable-sandbox --enable-seccomp --userns-path \
         /proc/{child}/ns/user --netns-type=path /proc/{child}/ns/net tap0",
        &[Ready, Inside("ip -o link show dev tap0", "tap0"), Term, NothingRuns],
    )
    .after(&[Child, ReadyPipe(3)])
    .ours(),
    Row::new(
        "slirp4netns-rootlesskit-pid",
        "slirp4netns --mtu 65520 -r 3 --disable-host-loopback --api-socket /tmp/.s4nn.sock --enable-sandbox \
         --enable-seccomp --cidr 10.41.0.0/16 {child} tap0",
        &[Ready, Exists("/tmp/.s4nn.sock"), EndsWithChild, NothingRuns],
    )
    .after(&[Child, ReadyPipe(3)])
    .ours(),
    Row::new(
        "slirp4netns-configured",
        "slirp4netns -c -r 3 {child} tap0",
        &[
            Ready,
            Inside("ip -o addr show dev tap0", "inet 10.0.2.100/24"),
            Inside("ip -o link show dev tap0", "mtu 1500"),
            EndsWithChild,
        ],
    )
    .after(&[Child, ReadyPipe(3)])
    .ours(),
    Row::new(
        "slirp4netns-of-root",
        "slirp4netns -c -r 3 {child} tap0",
        &[Ready, Inside("ip -o addr show dev tap0", "inet 10.0.2.100/24"), Term, NothingRuns],
    )
    .by(AsRoot)
    .after(&[Child, ReadyPipe(3)])
    .ours(),
    // crun's handler for krun: inside the container's user and mount namespaces, outputs to nowhere.
    Row::new(
        "crun-krun",
        "passt -t all -u all --no-dhcp-dns --no-map-gw --fd 5",
        &[Returns(0), StreamPair, Tcp("192.0.2.2:1090"), EndsWithPair, NothingRuns],
    )
    .by(Engine)
    .after(&[Descriptor(5), Unheard]),
    Row::new(
        "crun-krun-nitro",
        "passt -t all --no-map-gw --fd 5",
        &[Returns(0), StreamPair, Tcp("192.0.2.2:1090"), EndsWithPair],
    )
    .by(Engine)
    .after(&[Descriptor(5), Unheard]),
    // muvm waits for nothing; its guest's first frames are there already.
    Row::new(
        "muvm",
        "passt -q -f --fd 6 -t 127.0.0.1/8080-8080:8080-8080 -u 5353-5353:53-53",
        &[StreamPair, RapidLease, Silent, Tcp("127.0.0.1:8080"), EndsWithPair, NothingRuns],
    )
    .after(&[Descriptor(6), EarlyQuestion]),
    Row::new(
        "muvm-no-ports",
        "passt -q -f -t none -u none --fd 6",
        &[StreamPair, Silent, EndsWithPair],
    )
    .after(&[Descriptor(6), EarlyQuestion]),
    // libkrun's tests and examples
    Row::new("libkrun", "passt -f --fd 4", &[StreamPair, EndsWithPair])
        .after(&[Descriptor(4), EarlyQuestion, Unheard]),
    Row::new("libkrun-nitro", "passt -t all -f --fd 4", &[StreamPair, Tcp("192.0.2.2:1090"), EndsWithPair])
        .after(&[Descriptor(4), EarlyQuestion, Unheard]),
    // A manager of krun machines that reads the banner
    Row::new(
        "banner-reader",
        "passt --fd 5 --foreground -t 2222:22",
        &[Banner(DHCP), StreamPair, Tcp("192.0.2.2:2222"), EndsWithPair],
    )
    .after(&[Descriptor(5)]),
    // qemus/qemu: QEMU in a container, as its root, with a copy of the program
    Row::new(
        "qemus",
        "passt -4 -a 192.0.2.77 -g 192.0.2.1 -n 255.255.255.0 -m 1500 -t 2222:22,8006 -u 8006 -H qemu \
         -M 52:54:00:12:34:56 --runas 1000:1000 -P /run/passt.pid -s /tmp/passt.socket -l /var/log/passt.log -q",
        &[
            Returns(0),
            Silent,
            PidFile("/run/passt.pid"),
            Served("/tmp/passt.socket"),
            Tcp("192.0.2.2:8006"),
            Exists("/var/log/passt.log"),
            Term,
        ],
    )
    .by(AsRoot)
    .after(&[Copied("/run/passt")]),
    // cloud-hypervisor and crosvm: wrappers wait for the socket
    Row::new(
        "cloud-hypervisor",
        "passt --vhost-user --socket /tmp/ch.sock --foreground",
        &[ServedSoon("/tmp/ch.sock"), Served("/tmp/ch.sock"), Term],
    )
    .by_chance(),
    Row::new(
        "crosvm",
        "passt --vhost-user --socket /tmp/crosvm.sock --foreground --one-off --quiet",
        &[ServedSoon("/tmp/crosvm.sock"), NothingRuns, Silent],
    )
    .by_chance(),
    // nsjail, from a file and from memory
    Row::new(
        "nsjail",
        "pasta -f -q --no-dhcp --no-dhcpv6 --no-ra --config-net --no-map-gw -a 10.255.255.2 -n 24 -g 10.255.255.1 \
         -4 -I eth0 -t none -u none -T none -U none --pid /tmp/pasta.pid {child}",
        &[
            PidFileSoon("/tmp/pasta.pid"),
            Inside("ip -o addr show dev eth0", "inet 10.255.255.2/24"),
            EndsWithChild,
        ],
    )
    .after(&[Child, Unheard]),
    Row::new(
        "nsjail-in-memory",
        "pasta -f -q --dhcp-dns --dns-forward 10.255.255.53 --no-icmp --config-net -a 10.255.255.2 -n 24 \
         -g 10.255.255.1 -I eth0 -t none -u none -T none -U none --pid /tmp/pasta.pid {child}",
        &[
            PidFileSoon("/tmp/pasta.pid"),
            Inside("ip -o addr show dev eth0", "inet 10.255.255.2/24"),
            Term,
        ],
    )
    .after(&[Child, Unheard, InMemory]),
    Row::new(
        "nsjail-splice-only",
        "pasta -f -q --splice-only -t 8080 -u none -T none -U none --pid /tmp/pasta.pid {child}",
        &[PidFileSoon("/tmp/pasta.pid"), Inside("ip -o link show lo", "UP"), Tcp("127.0.0.1:8080"), Term],
    )
    .after(&[Child, Unheard]),
    // The wrapper that takes slirp4netns' place
    Row::new(
        "slirp4netns-wrapper",
        "pasta -q --ipv4-only -a 10.0.2.0 -n 24 -g 10.0.2.2 --dns-forward 10.0.2.3 -m 1500 --config-net \
         -I tap0 --no-map-gw -t none -u none -P /tmp/slirp.pid {child}",
        &[
            Returns(0),
            Silent,
            PidFile("/tmp/slirp.pid"),
            Inside("ip -o addr show dev tap0", "inet 10.0.2.0/24"),
            Inside("ip -o link show dev tap0", "mtu 1500"),
            Term,
        ],
    )
    .after(&[Child]),
    // Sandboxes that run one command
    Row::new(
        "sandbox-command",
        "pasta --config-net --no-map-gw -t none -u none -T none -U none -- \
         sh -c 'ip -o addr show dev uplink; exit 7'",
        &[Returns(7), Prints("inet 192.0.2.2/24"), NothingRuns],
    ),
    Row::new(
        "sandbox-command-signal",
        "pasta --config-net --no-pidns -t none -u none -T none -U none -- sh -c 'kill -KILL $$'",
        &[Returns(137), NothingRuns],
    ),
    Row::new(
        "sandbox-help-names",
        "pasta --help",
        &[
            Returns(0),
            Prints("--map-guest-addr"),
            Prints("--map-host-loopback"),
            Prints("--gateway"),
            Prints("--pid"),
            Prints("--netns"),
            Prints("--netns-only"),
            Prints("--host-lo-to-ns-lo"),
            Prints("--splice-only"),
            Prints("--config-net"),
            Prints("--conf-path"),
            Prints("--runas"),
            Prints("--log-file"),
        ],
    ),
    Row::new(
        "help-names",
        "passt --help",
        &[
            Returns(0),
            Prints("--vhost-user"),
            Prints("--print-capabilities"),
            Prints("--repair-path"),
            Prints("--socket"),
            Prints("--log-file"),
            Prints("--log-size"),
            Prints("--pcap"),
            Prints("--stats"),
            Prints("--runas"),
            Prints("--conf-path"),
            Prints("--fqdn"),
            Prints("--migrate-exit"),
        ],
    ),
    Row::new(
        "probe-with-argument",
        "pasta --map-guest-addr --version",
        &[Returns(1), Says("Invalid address to remap to host: --version")],
    ),
    // tp-qemu and tp-libvirt
    Row::new(
        "tp-qemu",
        "passt --one-off --socket /tmp/tp.sock --pid /tmp/tp.pid --log-file /tmp/tp.log --mtu 1500 \
         --tcp-ports 8080 --udp-ports 8080",
        &[
            Returns(0),
            PidFile("/tmp/tp.pid"),
            Tcp("192.0.2.2:8080"),
            Udp("192.0.2.2:8080"),
            Kill,
            Exists("/tmp/tp.pid"),
            Exists("/tmp/tp.sock"),
        ],
    ),
    // Conventions of vhost-user back-ends
    Row::new(
        "capabilities",
        "passt --print-capabilities",
        &[Returns(0), Prints("{\n  \"type\": \"net\"\n}\n")],
    )
    .reference(&[Returns(0), Mentions("{\n  \"type\": \"net\"\n}\n")]),
    Row::new(
        "capabilities-vhost-user",
        "passt --vhost-user --print-capabilities",
        &[Returns(0), Prints("\"type\": \"net\"")],
    )
    .reference(&[Returns(0), Mentions("\"type\": \"net\"")]),
    // KubeVirt's helper for migration looks for this socket.
    Row::new(
        "kubevirt-repair",
        "passt --vhost-user -q -s /tmp/guest.socket -P /tmp/p",
        &[Returns(0), PidFile("/tmp/p"), Exists("/tmp/guest.socket.repair")],
    ),
    Row::new(
        "libvirt-repair-path",
        "passt --vhost-user -q -s /tmp/s -P /tmp/p --repair-path /tmp/repair",
        &[Returns(0), PidFile("/tmp/p"), Exists("/tmp/repair")],
    ),
    Row::new(
        "migrate-exit",
        "passt --vhost-user -q -s /tmp/s -P /tmp/p --migrate-exit",
        &[Returns(0), PidFile("/tmp/p")],
    ),
    // What all rely on
    Row::new(
        "interface-without-address",
        "passt -q -s /tmp/s -P /tmp/p -i outside",
        &[
            Returns(0),
            Says("External interface not usable"),
            PidFile("/tmp/p"),
            Served("/tmp/s"),
            Term,
        ],
    )
    .reference(&[Returns(0), Omits("External interface"), PidFile("/tmp/p"), Served("/tmp/s"), Term]),
    Row::new(
        "few-descriptors",
        "passt -q -s /tmp/s -P /tmp/p -t all",
        &[
            Returns(0),
            Mentions("ports are not opened, for want of descriptors"),
            PidFile("/tmp/p"),
            Served("/tmp/s"),
            Tcp("192.0.2.2:400"),
            Served("/tmp/s"),
        ],
    )
    .after(&[Root(KUBEVIRT), Descriptors(1000)])
    .reference(&[Returns(0), Mentions("Too many open files"), Omits("not opened"), PidFile("/tmp/p")]),
    Row::new("stats-before-foreground", "passt --stats 1 -f -q -s /tmp/s", &[ServedSoon("/tmp/s"), Term])
        .reference(&[Returns(1), Says("Can't display statistics if not running in foreground")]),
    Row::new(
        "foreground-pid-file",
        "passt -f -q -s /tmp/s -P /tmp/p -t 8080",
        &[PidFileSoon("/tmp/p"), Tcp("192.0.2.2:8080"), Served("/tmp/s"), Silent, Term, Exists("/tmp/p")],
    ),
    Row::new(
        "closed-stdio",
        "passt -q -s /tmp/s -P /tmp/p",
        &[Returns(0), PidFile("/tmp/p"), Served("/tmp/s"), Quit],
    )
    .after(&[Closed]),
    Row::new(
        "closed-stdio-fd",
        "passt -q --fd 0 -P /tmp/p",
        &[Returns(0), PidFile("/tmp/p"), StreamPair, EndsWithPair],
    )
    .after(&[Descriptor(0)]),
    Row::new(
        "in-a-service",
        "pasta --config-net --quiet --netns /tmp/netns/netns-1",
        &[Returns(0), Inside("ip route", "default"), EndsAfter(NO_NETNS), Unnotified],
    )
    .by(Engine)
    .after(&[Script(NETNS), NotifySocket]),
    Row::new(
        "pasta-as-vhost-user",
        "pasta --vhost-user -q -s /tmp/s -P /tmp/p",
        &[Returns(0), PidFile("/tmp/p"), Served("/tmp/s"), Term],
    ),
    Row::new(
        "last-one-wins",
        "passt -q -s /tmp/one -P /tmp/p1 --socket=/tmp/s -m 1500 --mtu 1400 --pid=/tmp/p -a192.0.2.77 -t8080:80",
        &[Returns(0), PidFile("/tmp/p"), Absent("/tmp/one"), Absent("/tmp/p1"), Served("/tmp/s"), Tcp("192.0.2.2:8080")],
    ),
    Row::new(
        "abbreviated",
        "passt --qui --sock /tmp/s --one --addr 192.0.2.77 --netm 24 -1qfP /tmp/p",
        &[PidFileSoon("/tmp/p"), Silent, EndsWithClient("/tmp/s")],
    ),
    Row::new(
        "root-becomes-nobody",
        "passt -s /tmp/s -P /tmp/p",
        &[Returns(0), Says("Started as root, will change to nobody."), PidFile("/tmp/p"), Served("/tmp/s"), Term],
    )
    .by(AsRoot),
];
