//! Where a row is played: mount, process and network namespaces of its own, with an uplink that has
//! documentation addresses and a default route, so that the program finds a host like any other.
//! Everything ends with the process that plays the row, because that is the namespace's first.
//!
//! As root the ordinary user is 65534; without, user namespaces make up both.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::row::Caller;

/// The number of the ordinary user, and of its group.
pub const USER: u32 = 65534;

/// Where the program lies, under both names. It is also where callers look for it.
pub const BIN: &str = "/run/bin";

/// Makes file systems and the network; the arguments are the program, the one that it is compared with, the cache in
/// which the reference's libraries are, and this program with the arguments to go on with.
const SCRIPT: &str = r#"set -eu
program=$1 other=$2 cache=$3
shift 3
resolv=$(readlink -f /etc/resolv.conf)
mount -t tmpfs -o mode=755 tmpfs /run/
mkdir -p /run/bin /run/guests /run/netns "$(dirname "$resolv")"
[ -e "$resolv" ] || : >"$resolv"
# The reference's loader is looked for here.
[ ! -d "$cache" ] || mount --bind "$cache" /run/guests
mkdir -m 755 /run/world
# Where programs lie now may be closed to the ordinary user, or below /tmp, which is a row's own.
appear() {
    : >"$2"
    mount --bind "$1" "$2"
}
appear "$program" /run/bin/passt
ln -s passt /run/bin/pasta
ln -s passt /run/bin/slirp4netns
if [ -e "$program.avx2" ]; then
    appear "$program.avx2" /run/bin/passt.avx2
    ln -s passt.avx2 /run/bin/pasta.avx2
fi
# Rows that want them fail without.
[ ! -e "${program%/*}/pesto" ] || appear "${program%/*}/pesto" /run/bin/pesto
[ ! -e "${other%/*}/pesto" ] || appear "${other%/*}/pesto" /run/bin/other-pesto
appear "$1" /run/world/callers
printf 'nameserver 198.51.100.53\nnameserver 2001:db8:1::53\nsearch example.test\n' >/run/world/resolv.conf
mount --bind /run/world/resolv.conf "$resolv"
mount -t tmpfs -o mode=1777 tmpfs /tmp/
mount -t tmpfs -o mode=1777 tmpfs /var/log/
if [ -w /dev ] && mkdir -p /dev/net 2>/dev/null && mount -t tmpfs -o mode=755 tmpfs /dev/net 2>/dev/null; then
    mknod -m 666 /dev/net/tun c 10 200 2>/dev/null || umount /dev/net
fi
ip -batch - <<END
link set lo up
link add uplink type veth peer name outside
link set uplink addrgenmode none
link set outside addrgenmode none
link set uplink up
link set outside up
addr add 192.0.2.2/24 dev uplink
addr add 2001:db8:2::2/64 dev uplink nodad
addr add fe80::2/64 dev uplink nodad
route add default via 192.0.2.1 dev uplink
route add ::/0 via 2001:db8:2::1 dev uplink
END
# Routes come and go once more when the kernel notices that both ends are up.
until ip -br link show up type veth | grep -c ' UP ' | grep -q 2; do sleep 0.01; done
# `all` means what is not ephemeral; without this, more sockets than a session may have.
echo 1100 65535 >/proc/sys/net/ipv4/ip_local_port_range
cd /tmp
shift
exec /run/world/callers "$@"
"#;

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// The command that plays one row in a world of its own: `play` with these arguments. The `other` program is the one that
/// `program` is compared with.
pub fn command(
    [program, other]: [&Path; 2],
    cache: &Path,
    arguments: &[&str],
) -> std::io::Result<Command> {
    let root = is_root();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]);
    if !root {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--", "sh", "-c", SCRIPT, "sh"]).args([program, other, cache]);
    command.arg(std::env::current_exe()?).args(arguments);
    command.env("CALLERS_ROOT", if root { "1" } else { "" }).stdin(Stdio::null());
    Ok(command)
}

/// Whether the world's root is the machine's.
fn is_real_root() -> bool {
    std::env::var("CALLERS_ROOT").is_ok_and(|value| !value.is_empty())
}

/// The words that make a command the caller's. `user` and `engine` are processes in the namespaces
/// of the ordinary user, where it has one, and of the engine.
pub fn become_caller(caller: Caller, user: Option<u32>, engine: Option<u32>) -> Vec<String> {
    match (caller, user, engine) {
        (Caller::Root, ..) => vec![],
        (Caller::Engine, _, Some(pid)) => enter(pid, "--user --mount"),
        (_, Some(pid), _) => enter(pid, "--user"),
        _ if is_real_root() => {
            words(&format!("setpriv --reuid={USER} --regid={USER} --clear-groups --"))
        }
        _ => vec![],
    }
}

/// The words that make a command enter namespaces of a process.
pub fn enter(pid: u32, namespaces: &str) -> Vec<String> {
    // Root of the machine is nobody in a user's namespace, unless it becomes somebody there.
    let keep = if is_real_root() { "" } else { "--preserve-credentials" };
    words(&format!("nsenter {keep} --target={pid} {namespaces} --"))
}

/// The words that make a command the ordinary user's, where that takes a namespace.
pub fn user_namespace() -> Option<String> {
    (!is_real_root()).then(|| format!("unshare --user --map-user={USER} --map-group={USER} --"))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
