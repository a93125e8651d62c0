//! The world that `tests/guests/world.sh` makes, seen from here: who runs where.

use std::path::Path;
use std::process::Command;

/// Addresses of the world: the host's, which are the guest's too, its gateways', and the servers'.
pub const HOST4: &str = "192.0.2.2";
/// The host's IPv6 address.
pub const HOST6: &str = "2001:db8:2::2";
/// The host's gateway.
pub const GATEWAY4: &str = "192.0.2.1";
/// The host's IPv6 gateway.
pub const GATEWAY6: &str = "2001:db8:2::1";
/// A server outside, behind the gateway.
pub const SERVER4: &str = "198.51.100.7";
/// A server outside, behind the IPv6 gateway.
pub const SERVER6: &str = "2001:db8:1::7";

/// The network namespace of the daemon.
pub const HOST: &str = "/run/netns/host";
/// The network namespace of servers.
pub const OUTSIDE: &str = "/run/netns/outside";
/// A folder that the ordinary user may write to.
pub const SCRATCH: &str = "/run/world";
/// The load generator.
pub const NBENCH: &str = "/run/bin/nbench";
/// Who daemons run as.
const ORDINARY: &str = "65534";
/// The user namespace in which they do, in a world that is not root's.
const ORDINARY_NAMESPACE: &str = "/run/ordinary";

/// The same sysctls in every namespace, of every peer: a full table of connections that have
/// ended slows down the search for ports, and what one run learnt of a path is not for the next.
pub const SYSCTLS: &str = "echo 1000 >/proc/sys/net/ipv4/tcp_max_tw_buckets; \
     echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save";

/// A command in a network namespace, with all privileges of the world.
pub fn in_net(net: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={net}")).arg("--").arg(program);
    command
}

/// A command in the host's network, as an ordinary user.
pub fn ordinary(program: &str) -> Command {
    let as_root = std::env::var("PASST_WORLD_UID").is_ok_and(|uid| uid == "0");
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={HOST}")).arg("--");
    if as_root {
        let (user, group) = (format!("--reuid={ORDINARY}"), format!("--regid={ORDINARY}"));
        command.args(["setpriv", &user, &group, "--clear-groups", program]);
    } else {
        let user = format!("--user={ORDINARY_NAMESPACE}");
        command.args(["nsenter", &user, "--preserve-credentials", "--", program]);
    }
    command.env("HOME", SCRATCH).env("TMPDIR", SCRATCH).current_dir(SCRATCH);
    command
}

/// Whether this process is in such a world.
pub fn is_here() -> bool {
    Path::new(HOST).exists() && Path::new(OUTSIDE).exists() && Path::new(SCRATCH).exists()
}
