//! The network namespace of each test.

use std::process::Command;

/// The host: documentation addresses on the loopback device, so that all traffic is local and
/// complete when a system call returns; echo sockets for everyone.
const SETUP: &str = "ip -batch - <<END
link set lo up
addr add 198.51.100.1/24 dev lo
addr add 2001:db8:1::1/64 dev lo nodad
link set lo mtu 65536
END
echo '0 0' > /proc/sys/net/ipv4/ping_group_range";

/// The kernel adds the way to an IPv6 address in its own time, even to one that needs no detection of duplicates:
/// on a busy machine, each thirtieth is not there yet when the next command runs.
const WAYS: &str = "
ways_are_there() {
    local=$(ip -6 route show table local)
    for address in $(ip -6 -o addr show -tentative | sed 's|.* inet6 \\([^/ ]*\\).*|\\1|'); do
        case $local in *\"local $address \"*) ;; *) return 1 ;; esac
    done
}
tries=0
until ways_are_there; do tries=$((tries + 1)); [ $tries -lt 1000 ]; sleep 0.01; done";

/// The host's IPv4 address in each namespace.
pub const HOST_V4: &str = "198.51.100.1";
/// The host's IPv6 address in each namespace.
pub const HOST_V6: &str = "2001:db8:1::1";

/// Runs `body`, a closure that stands in the test itself, in a new network namespace.
pub fn isolated<F: FnOnce()>(body: F) {
    passt_support::namespace::isolated(&format!("{SETUP}{WAYS}"), body);
}

/// Runs lines of a shell script in the network namespace of this thread. Addresses that they add can be reached then.
pub fn run(lines: &str) {
    let script = format!("{lines}{WAYS}");
    let status = Command::new("sh").args(["-ec", &script]).status();
    assert!(status.expect("sh(1)").success(), "{lines}");
}
