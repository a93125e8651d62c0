//! What AppArmor lets through under the profiles that Debian ships for passt and pasta, as tables, in the
//! form of requests. A start that asks for anything else fails there, or goes on with less and leaves a
//! line in the system's log; [`crate::trace`] finds out what a start asks for.
//!
//! The tables hold what the profiles of the package `passt` grant, and of what they include, the part that
//! concerns programs like these: the loader and the C library, the system's log, name service. `owner` is
//! left out, since programs here open their own files. The files of namespaces are looked at by nobody
//! (nsfs has no paths for AppArmor); the profiles name them all the same.

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// A file, and what is to be done with it: `r`, `w`, `k` for locks, `x` for executing.
    File(String, char),
    /// A socket's family and type.
    Socket(String, String),
    /// A file system, or a change of how mounts propagate: source, target, flags.
    Mount(String, String, String),
    /// The root becomes this folder.
    Root(String),
    /// A mount goes.
    Unmount(String),
}

/// What is granted. In a path `#` is a number, `*` some bytes of one name, and `**` any bytes, each at
/// least one.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// A file; several permissions in one word.
    File(&'static str, &'static str),
    /// A socket's family and type.
    Socket(&'static str, &'static str),
    /// A mount without a source on this folder.
    Mount(&'static str),
    /// This change of how mounts propagate at this folder.
    Propagation(&'static str, &'static str),
    /// The root becomes this folder.
    Root(&'static str),
    /// This mount goes.
    Unmount(&'static str),
}

use Rule::{File, Mount, Propagation, Root, Socket, Unmount};

/// The profiles of one release for one program.
pub struct Profile {
    /// The release.
    pub suite: &'static str,
    /// What is granted.
    granted: &'static [&'static [Rule]],
    /// What is refused and does no harm, since newer releases of passt ask for it, too, and ours goes on
    /// without.
    harmless: &'static [&'static [Rule]],
}

impl Profile {
    /// Whether a request is let through, or is refused without harm.
    pub fn lets(&self, request: &Request) -> bool {
        let mut rules = self.granted.iter().chain(self.harmless).copied().flatten();
        rules.any(|rule| rule.lets(request))
    }
}

/// The profiles that a program of this name is under, from the oldest release on.
pub fn profiles(program: &str) -> &'static [Profile] {
    if program == "pasta" { PASTA } else { PASST }
}

const PASST: &[Profile] = &[
    Profile {
        suite: "bookworm",
        granted: &[BASE, PASST_ALL, PASST_FILES, PASTA_ALL, PASTA_OLD],
        harmless: &[NEWER, LOG],
    },
    Profile {
        suite: "trixie",
        granted: &[BASE, NAMES, PASST_ALL, PASST_FILES, LIBVIRT_FILES, TRIXIE],
        harmless: &[KERNEL, LOG],
    },
    Profile {
        suite: "sid",
        granted: &[
            BASE,
            NAMES,
            PASST_ALL,
            PASST_FILES,
            USER_FILES,
            LIBVIRT_FILES,
            TRIXIE,
            KERNEL,
            MAPS,
        ],
        harmless: &[],
    },
];

const PASTA: &[Profile] = &[
    Profile {
        suite: "bookworm",
        granted: &[BASE, PASST_ALL, PASST_FILES, PASTA_ALL, PASTA_OLD],
        harmless: &[NEWER, LOG, PROC],
    },
    Profile {
        suite: "trixie",
        granted: &[BASE, NAMES, PASST_ALL, TRIXIE, MAPS, PASTA_ALL, PASTA_NEW],
        harmless: &[KERNEL],
    },
    Profile {
        suite: "sid",
        granted: &[BASE, NAMES, PASST_ALL, TRIXIE, KERNEL, MAPS, PASTA_ALL, PASTA_NEW],
        harmless: &[],
    },
];

/// The loader, the C library, the system's log.
const BASE: &[Rule] = &[
    File("/etc/ld.so.*", "r"),
    File("/lib/**", "rx"),
    File("/usr/lib/**", "rx"),
    File("/lib64/**", "rx"),
    File("/usr/lib64/**", "rx"),
    File("/etc/localtime", "r"),
    File("/usr/share/zoneinfo/**", "r"),
    File("/dev/null", "rw"),
    File("/dev/urandom", "r"),
    File("/dev/log", "w"),
    File("/run/systemd/journal/dev-log", "w"),
    File("/proc/#/maps", "r"),
    File("/proc/#/auxv", "r"),
    File("/proc/#/status", "r"),
    File("/proc/stat", "r"),
    File("/proc/meminfo", "r"),
    File("/proc/cpuinfo", "r"),
    File("/proc/filesystems", "r"),
    File("/proc/sys/vm/overcommit_memory", "r"),
    File("/proc/sys/kernel/cap_last_cap", "r"),
    File("/sys/devices/system/cpu/online", "r"),
    // Between processes under one profile, of any type.
    Socket("AF_UNIX", "SOCK_SEQPACKET"),
];

/// Name service.
const NAMES: &[Rule] = &[
    File("/etc/passwd", "r"),
    File("/etc/group", "r"),
    File("/etc/nsswitch.conf", "r"),
    File("/run/nscd/socket", "rw"),
    File("/var/run/nscd/socket", "rw"),
    File("/run/*/resolv.conf", "r"),
    File("/run/systemd/resolve/*resolv.conf", "r"),
];

/// Both programs, from the first release on.
const PASST_ALL: &[Rule] = &[
    File("/etc/resolv.conf", "r"),
    File("/", "r"),
    Mount("/"),
    Mount("/tmp/"),
    Propagation("MS_REC|MS_UNBINDABLE", "/"),
    Root("/tmp/"),
    Unmount("/"),
    Socket("AF_NETLINK", "SOCK_RAW"),
    Socket("AF_INET", "SOCK_STREAM"),
    Socket("AF_INET6", "SOCK_STREAM"),
    Socket("AF_INET", "SOCK_DGRAM"),
    Socket("AF_INET6", "SOCK_DGRAM"),
    Socket("AF_UNIX", "SOCK_STREAM"),
    Socket("AF_UNIX", "SOCK_DGRAM"),
];

/// What the operator names.
const PASST_FILES: &[Rule] =
    &[File("/tmp/**", "w"), File("/home/*/**", "w"), File("/root/**", "w")];

/// The same, from sid's release on.
const USER_FILES: &[Rule] = &[File("/tmp/**", "rwk"), File("/var/tmp/**", "rwk")];

/// A log that may be written only is begun anew when it is full.
const LOG: &[Rule] = &[File("/tmp/*.log", "r")];

/// Where libvirt keeps sockets and PID files.
const LIBVIRT_FILES: &[Rule] =
    &[File("/run/user/#/libvirt/qemu/run/passt/*", "rw"), File("/run/libvirt/qemu/passt/*", "rw")];

/// Both programs, from trixie on.
const TRIXIE: &[Rule] =
    &[File("/proc/#/uid_map", "r"), File("/proc/sys/net/ipv4/ip_local_port_range", "r")];

/// How the kernel retransmits, and forgets.
const KERNEL: &[Rule] = &[
    File("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "r"),
    File("/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream", "r"),
    File("/proc/sys/net/ipv4/tcp_syn_retries", "r"),
    File("/proc/sys/net/ipv4/tcp_syn_linear_timeouts", "r"),
    File("/proc/sys/net/ipv4/tcp_rto_max_ms", "r"),
];

/// The command sees the host's processes where it is refused, and a line says so.
const PROC: &[Rule] = &[Mount("/proc/")];

/// What was not asked for in bookworm's time.
const NEWER: &[Rule] = &[
    File("/proc/sys/net/ipv4/ip_local_port_range", "r"),
    File("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "r"),
    File("/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream", "r"),
    File("/proc/sys/net/ipv4/tcp_syn_retries", "r"),
    File("/proc/sys/net/ipv4/tcp_syn_linear_timeouts", "r"),
    File("/proc/sys/net/ipv4/tcp_rto_max_ms", "r"),
    // Only root asks who nobody is, and knows what to take it for.
    File("/etc/passwd", "r"),
];

/// A user namespace's maps.
const MAPS: &[Rule] =
    &[File("/proc/#/uid_map", "rw"), File("/proc/#/gid_map", "w"), File("/proc/#/setgroups", "w")];

/// pasta, from the first release on.
const PASTA_ALL: &[Rule] = &[
    File("/proc/net/tcp", "r"),
    File("/proc/net/tcp6", "r"),
    File("/proc/net/udp", "r"),
    File("/proc/net/udp6", "r"),
    File("/proc/#/ns/net", "r"),
    File("/proc/#/ns/user", "r"),
    File("/proc/#/task/#/ns/net", "r"),
    File("/dev/net/tun", "rw"),
    File("/proc/sys/net/ipv4/ping_group_range", "w"),
];

/// pasta in bookworm.
const PASTA_OLD: &[Rule] = &[
    File("/run/user/#/netns/*", "r"),
    File("/proc/#/uid_map", "rw"),
    File("/proc/#/gid_map", "w"),
    File("/proc/#/setgroups", "w"),
    // One of the namespace's files, wherever it is mounted.
    File("/tmp/netns/*", "r"),
];

/// pasta from trixie on.
const PASTA_NEW: &[Rule] = &[
    Mount("/proc/"),
    File("/proc/#/net/tcp", "r"),
    File("/proc/#/net/tcp6", "r"),
    File("/proc/#/net/udp", "r"),
    File("/proc/#/net/udp6", "r"),
    File("/run/user/#/**", "rw"),
    File("/proc/#/ns", "r"),
    File("/tmp/**", "rw"),
    File("/home/*/**", "w"),
    File("/root/**", "w"),
];

impl Rule {
    fn lets(&self, request: &Request) -> bool {
        match (*self, request) {
            (File(pattern, may), Request::File(path, wanted)) => {
                may.contains(*wanted) && matches(pattern.as_bytes(), path.as_bytes())
            }
            (Socket(family, kind), Request::Socket(f, k)) => family == f && kind == k,
            (Mount(target), Request::Mount(source, t, flags)) => {
                let propagates = ["SHARED", "PRIVATE", "SLAVE", "UNBINDABLE"];
                source.is_empty()
                    && target == t
                    && !propagates.iter().any(|word| flags.contains(word))
            }
            (Propagation(change, target), Request::Mount(_, t, flags)) => {
                change == flags && target == t
            }
            (Root(folder), Request::Root(to)) => folder == to,
            (Unmount(target), Request::Unmount(t)) => target == t,
            _ => false,
        }
    }
}

/// Whether a path is one of a pattern's.
fn matches(pattern: &[u8], path: &[u8]) -> bool {
    let some = |rest: &[u8], fits: fn(u8) -> bool| {
        let most = path.iter().take_while(|byte| fits(**byte)).count();
        (1..=most).any(|length| matches(rest, &path[length..]))
    };
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => some(rest, |_| true),
        [b'*', rest @ ..] => some(rest, |byte| byte != b'/'),
        [b'#', rest @ ..] => some(rest, |byte| byte.is_ascii_digit()),
        [byte, rest @ ..] => path.first() == Some(byte) && matches(rest, &path[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_profiles() {
        let fits = |pattern: &str, path: &str| matches(pattern.as_bytes(), path.as_bytes());
        assert!(fits("/tmp/**", "/tmp/a/b") && !fits("/tmp/**", "/tmp/"));
        assert!(fits("/run/user/#/netns/*", "/run/user/1000/netns/a"));
        assert!(!fits("/run/user/#/netns/*", "/run/user/1000/netns/"));
        assert!(!fits("/run/user/#/netns/*", "/run/user/1000/netns/a/b"));
        assert!(fits("/etc/ld.so.*", "/etc/ld.so.cache"));
    }

    #[test]
    fn what_once_failed_is_not_granted() {
        let requests = [
            Request::Socket("AF_NETLINK".into(), "SOCK_DGRAM".into()),
            Request::Mount(String::new(), "/".into(), "MS_REC|MS_SLAVE".into()),
            Request::Mount("proc".into(), "/proc/".into(), String::new()),
            Request::File("/proc/sys/kernel/hostname".into(), 'r'),
            Request::File("/tmp/".into(), 'r'),
            Request::File("/tmp/".into(), 'k'),
        ];
        for profile in PASST.iter().chain(PASTA) {
            for request in &requests {
                assert!(!profile.lets(request), "{}: {request:?}", profile.suite);
            }
        }
    }
}
