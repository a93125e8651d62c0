//! A network namespace for each test: the test runs itself again in there, in a process of its own.
//! What a test does to limits, descriptors and the heap is nobody else's.

use std::process::Command;

/// Set in the environment of the copy that runs inside.
const INSIDE: &str = "PASST_ENGINE_TEST_INSIDE";

/// The host: documentation addresses on the loopback device, so that all traffic is local and
/// complete when a system call returns; echo sockets for everyone.
const SETUP: &str = "set -e
ip -batch - <<END
link set lo up
addr add 198.51.100.1/24 dev lo
addr add 2001:db8:1::1/64 dev lo nodad
link set lo mtu 65536
END
echo '0 0' > /proc/sys/net/ipv4/ping_group_range
exec \"$0\" --exact \"$1\" --nocapture";

/// The host's IPv4 address in each namespace.
pub const HOST_V4: &str = "198.51.100.1";
/// The host's IPv6 address in each namespace.
pub const HOST_V6: &str = "2001:db8:1::1";

/// Runs `body`, a closure written in the test itself, in a new network namespace.
pub fn isolated<F: FnOnce()>(body: F) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    // "engine::tcp::name::{{closure}}"
    let path = std::any::type_name::<F>();
    let test = path.split_once("::").and_then(|(_, rest)| rest.strip_suffix("::{{closure}}"));
    let can = |how: &str| {
        let status = Command::new("unshare").args([how, "true"]).status();
        status.is_ok_and(|status| status.success())
    };
    // Root may be where user namespaces are off; others need one.
    let how = ["-n", "-rn"].into_iter().find(|how| can(how));
    let output = Command::new("unshare")
        .arg(how.expect("cannot make a network namespace, with or without a user one"))
        .args(["sh", "-c", SETUP])
        .arg(std::env::current_exe().expect("the test knows its own path"))
        .arg(test.unwrap_or_else(|| panic!("{path} is not a closure in a test")))
        .env(INSIDE, "1")
        .output()
        .expect("unshare(1) and sh(1) run");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
}
