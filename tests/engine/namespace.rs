//! The network namespace of each test.

/// The host: documentation addresses on the loopback device, so that all traffic is local and
/// complete when a system call returns; echo sockets for everyone. The kernel adds the way to an IPv6
/// address in its own time, even to one that needs no detection of duplicates.
const SETUP: &str = "ip -batch - <<END
link set lo up
addr add 198.51.100.1/24 dev lo
addr add 2001:db8:1::1/64 dev lo nodad
link set lo mtu 65536
END
until ip -6 route show table local | grep '^local 2001:db8:1::1 ' > /dev/null; do sleep 0.01; done
echo '0 0' > /proc/sys/net/ipv4/ping_group_range";

/// The host's IPv4 address in each namespace.
pub const HOST_V4: &str = "198.51.100.1";
/// The host's IPv6 address in each namespace.
pub const HOST_V6: &str = "2001:db8:1::1";

/// Runs `body`, a closure that stands in the test itself, in a new network namespace.
pub fn isolated<F: FnOnce()>(body: F) {
    passt_support::namespace::isolated(SETUP, body);
}
