//! Which system calls each program makes once it is set up. Everything else kills it.
//!
//! The lists hold what the engine, the links, the log and the Rust runtime call, also on their error
//! paths: an allocator that asks for memory, a panic that prints its message and ends the process. No
//! list holds a call that opens a file by name for writing, executes a program, makes a
//! process or thread, enters a namespace, makes memory executable, or sends a signal to another
//! process. One opens files by name for reading, that of the helper that watches the host (`HOST_WATCH`), which reads
//! resolv.conf when that changes.
//!
//! Each entry says why it is there: a file of ours and the words in it that make the call, or who else
//! makes it and when. A test looks whether the words are still there. What only some configurations need is listed for
//! those only ([`Needs`]), and of two calls for one thing the one that this kernel has.
//!
//! Calls are checked by argument where that takes something from an attacker and the packet path does
//! not make them: see `sys::seccomp` for what a check costs.

use libc::c_long;

use super::{Needs, Program};
use crate::sys::events;
use crate::sys::seccomp::{Call, Check};

/// Families of sockets on the host. Others reach far more of the kernel.
const HOST_FAMILIES: Check = Check::OneOf(&[libc::AF_INET as u32, libc::AF_INET6 as u32]);

/// Protocols of these families: the usual one of a type, and echo. Not SCTP, DCCP, MPTCP, and what else there is.
const PROTOCOLS: Check = Check::OneOf(&[0, libc::IPPROTO_ICMP as u32, libc::IPPROTO_ICMPV6 as u32]);

/// No device and no terminal is controlled: what is left is how full a queue is, and whether a descriptor blocks.
const IOCTLS: Check = Check::OneOf(&[
    libc::FIONBIO as u32,
    libc::FIONREAD as u32,
    libc::TIOCOUTQ as u32,
    // How much of a connection that migrates was not sent yet.
    crate::sys::repair::SIOCOUTQNSD as u32,
]);

/// Flags, duplicates and the size of pipes. Not the owner of a descriptor, who gets signals.
const FCNTLS: Check = Check::OneOf(&[
    libc::F_DUPFD_CLOEXEC as u32,
    libc::F_GETFD as u32,
    libc::F_SETFD as u32,
    libc::F_GETFL as u32,
    libc::F_SETFL as u32,
    libc::F_SETPIPE_SZ as u32,
    libc::F_GETPIPE_SZ as u32,
]);

const NOT_EXECUTABLE: Check = Check::Without(libc::PROT_EXEC as u32);

/// Whether a name is there, and nothing about what it names.
const PATH_ONLY: Check = Check::With(libc::O_PATH as u32);

/// Wakes who waits for a lock, and waits for nobody: with one thread that would be for ever.
const WAKE: Check = Check::Equals((libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u32);

/// A call with any arguments. What `_why` says, a test looks for.
const fn any(number: c_long, _why: &str) -> Call {
    Call { number, checks: [None, None] }
}

const fn checked(number: c_long, argument: u8, check: Check, _why: &str) -> Call {
    Call { number, checks: [Some((argument, check)), None] }
}

/// A socket of a family (first argument) and a protocol (third).
const fn socket(families: Check, protocols: Check, _why: &str) -> Call {
    Call { number: libc::SYS_socket, checks: [Some((0, families)), Some((2, protocols))] }
}

/// Options of sockets on one level (second argument) that are set.
const fn options(level: i32, names: &'static [u32], _why: &str) -> Call {
    let checks = [Some((1, Check::Equals(level as u32))), Some((2, Check::OneOf(names)))];
    Call { number: libc::SYS_setsockopt, checks }
}

/// The loop, sockets, and what messages and a capture are appended by.
const COMMON: &[Call] = &[
    // The loop and its clock.
    any(libc::SYS_epoll_ctl, "src/engine/flows.rs: epoll::add"),
    // Where the vDSO does not have it.
    any(libc::SYS_clock_gettime, "src/sys/clock.rs: libc::clock_gettime"),
    // Sockets.
    socket(HOST_FAMILIES, PROTOCOLS, "src/sys/socket.rs: net::socket_with"),
    any(libc::SYS_accept4, "src/engine/link/clients.rs: accept_with("),
    any(libc::SYS_bind, "src/sys/socket.rs: net::bind"),
    any(libc::SYS_connect, "src/sys/socket.rs: net::connect"),
    any(libc::SYS_listen, "src/engine/listen/open.rs: rnet::listen"),
    any(libc::SYS_shutdown, "src/engine/tcp/drive.rs: rnet::shutdown"),
    any(libc::SYS_getsockname, "src/sys/socket.rs: net::getsockname"),
    any(libc::SYS_getpeername, "src/sys/socket.rs: net::getpeername"),
    any(libc::SYS_getsockopt, "src/sys/stream.rs: libc::getsockopt"),
    any(libc::SYS_recvfrom, "src/frame/src/arena.rs: libc::recv"),
    any(libc::SYS_recvmsg, "src/frame/src/to_guest.rs: libc::recvmsg"),
    any(libc::SYS_recvmmsg, "src/sys/copy_buffer.rs: libc::recvmmsg"),
    any(libc::SYS_sendto, "src/frame/src/arena.rs: libc::send"),
    any(libc::SYS_sendmsg, "src/frame/src/from_guest.rs: libc::sendmsg"),
    // Bulk that is not copied: past the tap device, and out of the stream socket.
    any(libc::SYS_splice, "src/frame/src/pipe.rs: splice("),
    any(libc::SYS_pipe2, "src/frame/src/pipe.rs: pipe_with("),
    // Descriptors.
    any(libc::SYS_close, "Rust: a descriptor is dropped"),
    checked(libc::SYS_fcntl, 1, FCNTLS, "src/frame/src/pipe.rs: fcntl_setpipe_size("),
    checked(libc::SYS_ioctl, 1, IOCTLS, "src/frame/src/arena.rs: libc::ioctl"),
    any(libc::SYS_read, "src/frame/src/arena.rs: libc::read"),
    any(libc::SYS_write, "src/frame/src/arena.rs: libc::write"),
    // The last words before it aborts: a heap that is damaged.
    #[cfg(target_env = "gnu")]
    any(libc::SYS_writev, "C library: what glibc writes before it aborts"),
];

/// Options that are set: none that has the kernel run programs (`SO_ATTACH_BPF`), encrypt (`TCP_ULP`), or filter packets.
const OPTIONS: &[Call] = &[
    options(
        libc::SOL_SOCKET,
        &[
            libc::SO_REUSEADDR as u32,
            libc::SO_REUSEPORT as u32,
            libc::SO_BROADCAST as u32,
            libc::SO_SNDBUF as u32,
            libc::SO_RCVBUF as u32,
            libc::SO_OOBINLINE as u32,
            libc::SO_KEEPALIVE as u32,
            libc::SO_LINGER as u32,
            libc::SO_PEEK_OFF as u32,
            libc::SO_BINDTODEVICE as u32,
            libc::SO_BINDTOIFINDEX as u32,
        ],
        "src/sys/socket.rs: set_socket_reuseaddr",
    ),
    options(
        libc::IPPROTO_IP,
        &[
            libc::IP_TOS as u32,
            libc::IP_TTL as u32,
            libc::IP_MINTTL as u32,
            libc::IP_PKTINFO as u32,
            libc::IP_MTU_DISCOVER as u32,
            libc::IP_RECVERR as u32,
            libc::IP_FREEBIND as u32,
            libc::IP_BIND_ADDRESS_NO_PORT as u32,
            libc::IP_MULTICAST_IF as u32,
            libc::IP_MULTICAST_TTL as u32,
            libc::IP_MULTICAST_LOOP as u32,
            libc::IP_MULTICAST_ALL as u32,
            libc::IP_ADD_MEMBERSHIP as u32,
        ],
        "src/engine/marks.rs: set_ip_ttl",
    ),
    options(
        libc::IPPROTO_IPV6,
        &[
            libc::IPV6_TCLASS as u32,
            libc::IPV6_UNICAST_HOPS as u32,
            libc::IPV6_MINHOPCOUNT as u32,
            libc::IPV6_RECVPKTINFO as u32,
            libc::IPV6_MTU_DISCOVER as u32,
            libc::IPV6_RECVERR as u32,
            libc::IPV6_FREEBIND as u32,
            libc::IPV6_V6ONLY as u32,
            libc::IPV6_MULTICAST_IF as u32,
            libc::IPV6_MULTICAST_HOPS as u32,
            libc::IPV6_MULTICAST_LOOP as u32,
            crate::sys::datagram::IPV6_MULTICAST_ALL as u32,
            libc::IPV6_ADD_MEMBERSHIP as u32,
        ],
        "src/engine/marks.rs: set_ipv6_unicast_hops",
    ),
    options(
        libc::IPPROTO_TCP,
        &[libc::TCP_NODELAY as u32, libc::TCP_NOTSENT_LOWAT as u32, libc::TCP_KEEPIDLE as u32],
        "src/engine/listen/open.rs: set_tcp_nodelay",
    ),
    options(libc::SOL_UDP, &[libc::UDP_GRO as u32], "src/sys/datagram.rs: libc::UDP_GRO"),
];

/// Options of connections that go to another host with their guest, and of those that come with one.
const OPTIONS_OF_MIGRATION: &[Call] = &[
    options(
        libc::SOL_SOCKET,
        &[
            libc::SO_RCVLOWAT as u32,
            crate::sys::repair::SO_BUF_LOCK as u32,
            // The one program that drops all there is: see `sys::repair`.
            libc::SO_ATTACH_FILTER as u32,
            libc::SO_DETACH_FILTER as u32,
        ],
        "src/sys/repair.rs: SO_ATTACH_FILTER",
    ),
    options(
        libc::IPPROTO_TCP,
        &[
            libc::TCP_MAXSEG as u32,
            libc::TCP_QUICKACK as u32,
            libc::TCP_MD5SIG as u32,
            libc::TCP_REPAIR_QUEUE as u32,
            libc::TCP_QUEUE_SEQ as u32,
            libc::TCP_REPAIR_OPTIONS as u32,
            libc::TCP_TIMESTAMP as u32,
            libc::TCP_REPAIR_WINDOW as u32,
        ],
        "src/sys/repair.rs: libc::TCP_REPAIR_OPTIONS",
    ),
];

/// What Rust and the C library do on their own.
const RUNTIME: &[Call] = &[
    // The allocator.
    any(libc::SYS_brk, "C library: malloc(3)"),
    any(
        libc::SYS_madvise,
        "C library: free(3), malloc_trim(3), and pages that are large by a tunable",
    ),
    any(libc::SYS_mremap, "C library: realloc(3) of large pieces"),
    any(libc::SYS_munmap, "C library: free(3) of large pieces"),
    MAP,
    #[cfg(target_env = "musl")]
    checked(libc::SYS_mprotect, 2, NOT_EXECUTABLE, "C library: malloc(3) of musl"),
    checked(
        libc::SYS_futex,
        1,
        WAKE,
        "C library: what is initialised once, and locks that are left",
    ),
    any(
        libc::SYS_rt_sigaction,
        "C library: abort(3), and our handler of SIGBUS, which may step aside",
    ),
    any(libc::SYS_rt_sigprocmask, "C library: abort(3) and raise(3)"),
    any(libc::SYS_rt_sigreturn, "kernel: the end of a handler"),
    any(
        libc::SYS_restart_syscall,
        "kernel: a stopped process goes on with a call that has a time limit",
    ),
    any(libc::SYS_sigaltstack, "Rust: the stack of handlers is given back at the end"),
    // The end, also by abort(3), which raises a signal (see `own_signals`).
    any(libc::SYS_getpid, "C library: raise(3), which abort(3) calls"),
    any(libc::SYS_gettid, "C library: raise(3), which abort(3) calls"),
    any(libc::SYS_exit_group, "C library: exit(3), and abort(3) where signals do not end it"),
];

/// What has another name on processors of 32 bits, where these calls take numbers of 64.
#[cfg(target_pointer_width = "64")]
const SYS_MMAP: c_long = libc::SYS_mmap;
#[cfg(target_pointer_width = "64")]
const SYS_NEWFSTATAT: c_long = libc::SYS_newfstatat;
#[cfg(target_pointer_width = "64")]
const SYS_FSTAT: c_long = libc::SYS_fstat;
#[cfg(target_pointer_width = "64")]
const SYS_FTRUNCATE: c_long = libc::SYS_ftruncate;
#[cfg(not(target_pointer_width = "64"))]
const SYS_MMAP: c_long = libc::SYS_mmap2;
#[cfg(not(target_pointer_width = "64"))]
const SYS_NEWFSTATAT: c_long = libc::SYS_fstatat64;
#[cfg(not(target_pointer_width = "64"))]
const SYS_FSTAT: c_long = libc::SYS_fstat64;
#[cfg(not(target_pointer_width = "64"))]
const SYS_FTRUNCATE: c_long = libc::SYS_ftruncate64;

/// Memory that is not executable. On s390x the arguments stand in memory, where no filter looks.
const MAP: Call = if cfg!(target_arch = "s390x") {
    any(SYS_MMAP, "C library: malloc(3), and memory of a guest")
} else {
    checked(SYS_MMAP, 2, NOT_EXECUTABLE, "C library: malloc(3), and memory of a guest")
};

/// What there is of calls only on processors of 32 bits: beside those with short numbers others with long ones, and
/// with times beyond 2038, which have the same numbers on all of them.
#[cfg(target_pointer_width = "64")]
const WIDE: &[Call] = &[];
#[cfg(not(target_pointer_width = "64"))]
const WIDE: &[Call] = &[
    any(403, "src/sys/clock.rs: libc::clock_gettime"),
    any(407, "src/repair/door.rs: std::thread::sleep"),
    any(414, "src/follow/helper.rs: poll(&mut"),
    any(417, "src/sys/copy_buffer.rs: libc::recvmmsg"),
    checked(422, 1, WAKE, "C library: as the other futex"),
    checked(libc::SYS_fcntl64, 1, FCNTLS, "src/frame/src/pipe.rs: fcntl_setpipe_size("),
];

/// On x86 of 32 bits rustix makes all calls about sockets by one, whose arguments stand in memory, where no filter looks.
#[cfg(not(target_arch = "x86"))]
const SOCKETS: &[Call] = &[];
#[cfg(target_arch = "x86")]
const SOCKETS: &[Call] = &[any(libc::SYS_socketcall, "Rust: rustix has no other on x86")];

/// How a handler of a signal ends that asks for no details, where there are two ways.
#[cfg(not(any(target_arch = "x86", target_arch = "arm", target_arch = "s390x")))]
const HANDLED: &[Call] = &[];
#[cfg(any(target_arch = "x86", target_arch = "arm", target_arch = "s390x"))]
const HANDLED: &[Call] = &[any(libc::SYS_sigreturn, "kernel: the end of a signal's handler")];

/// Standard input, output and error are replaced last: by dup2(2), or by dup3(2) where processors have no other.
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64", target_arch = "loongarch64"))]
const SYS_DUP2: c_long = libc::SYS_dup3;
#[cfg(not(any(target_arch = "aarch64", target_arch = "riscv64", target_arch = "loongarch64")))]
const SYS_DUP2: c_long = libc::SYS_dup2;

/// What else is made of fstat(2), of an open file and not of a name: where numbers have 32 bits, and by the C library,
/// where rustix has no code of its own for the processor.
#[cfg(target_pointer_width = "64")]
const FSTAT: &[Call] = &[
    #[cfg(all(target_env = "gnu", any(target_arch = "s390x", target_arch = "powerpc64")))]
    checked(
        SYS_NEWFSTATAT,
        3,
        Check::With(libc::AT_EMPTY_PATH as u32),
        "C library: fstat(3), glibc 2.33 to 2.38",
    ),
];
#[cfg(not(target_pointer_width = "64"))]
const FSTAT: &[Call] = &[checked(
    libc::SYS_statx,
    2,
    Check::With(libc::AT_EMPTY_PATH as u32),
    "Rust: rustix's fstat on 32 bits",
)];

/// What is made of epoll_pwait(2) there.
const EPOLL: &[Call] = &[
    #[cfg(all(target_env = "gnu", any(target_arch = "s390x", target_arch = "powerpc64")))]
    any(libc::SYS_epoll_wait, "C library: epoll_wait(3)"),
];

/// What depends on the kernel, and on what the configuration asks for.
fn needed(program: Program, needs: Needs) -> impl Iterator<Item = Call> {
    let Needs { log_file, capture, background } = needs;
    let (passt, pasta) = (program == Program::Passt, program == Program::Pasta);
    let precise = events::is_precise();
    let calls = [
        (precise, any(libc::SYS_epoll_pwait2, "src/sys/events.rs: SYS_epoll_pwait2")),
        (!precise, any(libc::SYS_epoll_pwait, "src/sys/events.rs: epoll::wait")),
        (background, any(SYS_DUP2, "src/sys/process.rs: dup2_stderr")),
        // A log is cut from the front when it is full, and like a capture brought to the disk at the end.
        (log_file && passt, any(libc::SYS_pread64, "src/log/file.rs: read_at")),
        (log_file, any(libc::SYS_pwrite64, "src/log/file.rs: write_all_at")),
        (log_file, any(SYS_FTRUNCATE, "src/log/file.rs: set_len")),
        (log_file, any(libc::SYS_fallocate, "src/log/file.rs: fallocate(")),
        (log_file && pasta, any(SYS_FSTAT, "src/log/file.rs: fstat(&self.file)")),
        (log_file || capture, any(libc::SYS_fsync, "src/log/file.rs: sync_all")),
    ];
    let calls = calls.into_iter().filter(|(wanted, _)| *wanted).map(|(_, call)| call);
    let others = [(log_file || passt, FSTAT), (!precise, EPOLL)];
    let others = others.into_iter().filter(|(wanted, _)| *wanted).flat_map(|(_, calls)| calls);
    calls.chain(others.copied())
}

/// Guests in front of passt: their rings and their memory. Both protocols, since the first bytes of
/// a client tell which one it speaks.
const PASST: &[Call] = &[
    any(libc::SYS_waitid, "src/follow/mod.rs: waitid("),
    // Files of a front-end, and those of a log.
    any(SYS_FSTAT, "vhost/src/mem.rs: rustix::fs::fstat"),
    // The alarm for calls that a front-end has made wait.
    checked(
        libc::SYS_setitimer,
        0,
        Check::Equals(libc::ITIMER_REAL as u32),
        "src/sys/process/alarm.rs: SYS_setitimer",
    ),
    checked(
        libc::SYS_socketpair,
        0,
        Check::Equals(libc::AF_UNIX as u32),
        "vhost/src/control.rs: UnixStream::pair",
    ),
];

/// pasta: connections that pass the tap device by, the command's end, and whether the namespace is there.
const PASTA: &[Call] = &[
    any(libc::SYS_sendmmsg, "src/sys/copy_buffer.rs: libc::sendmmsg"),
    any(libc::SYS_waitid, "src/pasta/command.rs: waitid("),
    // Tables of ports, where a policy refuses what the kernel would tell by netlink.
    any(libc::SYS_pread64, "src/sys/bound_ports.rs: read_at"),
    checked(libc::SYS_openat, 2, PATH_ONLY, "src/pasta/gone.rs: openat("),
];

/// The end of a helper that was told to end, some time later.
const TOLD: &[Call] = &[checked(
    libc::SYS_setitimer,
    0,
    Check::Equals(libc::ITIMER_REAL as u32),
    "src/sys/process/alarm.rs: SYS_setitimer",
)];

/// The process that makes sockets in pasta's namespace.
const SOCKET_MAKER: &[Call] = &[
    any(libc::SYS_read, "src/sys/namespace_socket.rs: rustix::io::read(channel"),
    socket(HOST_FAMILIES, PROTOCOLS, "src/sys/namespace_socket.rs: socket::create"),
    // What tells who listens.
    socket(
        Check::Equals(libc::AF_NETLINK as u32),
        Check::Equals(libc::NETLINK_SOCK_DIAG as u32),
        "src/sys/namespace_socket.rs: sock_diag::socket",
    ),
    any(libc::SYS_sendmsg, "src/sys/namespace_socket.rs: libc::sendmsg"),
    any(libc::SYS_close, "Rust: a descriptor is dropped"),
    #[cfg(debug_assertions)]
    checked(libc::SYS_fcntl, 1, IS_OPEN, "Rust: descriptors are checked before they are closed"),
    #[cfg(all(debug_assertions, not(target_pointer_width = "64")))]
    checked(libc::SYS_fcntl64, 1, IS_OPEN, "Rust: descriptors are checked before they are closed"),
    any(
        libc::SYS_restart_syscall,
        "kernel: a stopped process goes on with a call that has a time limit",
    ),
    any(libc::SYS_rt_sigreturn, "kernel: the end of a handler"),
    any(libc::SYS_exit_group, "src/sys/namespace_socket.rs: process::end"),
];

/// What the standard library asks of a descriptor before it closes it, when it looks for mistakes.
#[cfg(debug_assertions)]
const IS_OPEN: Check = Check::Equals(libc::F_GETFD as u32);

/// Files are opened for reading only, and none is made.
const READ_ONLY: Check = Check::Without(
    (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND) as u32,
);

/// The process that watches the host's network: netlink on sockets that it has, resolv.conf, and a channel that it only
/// writes to.
const HOST_WATCH: &[Call] = &[
    any(libc::SYS_ppoll, "src/follow/helper.rs: poll(&mut"),
    any(libc::SYS_getrandom, "src/follow/name.rs: process::random_bytes"),
    any(libc::SYS_recvfrom, "src/sys/netlink.rs: recv(&self.socket"),
    any(libc::SYS_sendto, "src/sys/netlink.rs: send(&self.socket"),
    // Whether a destination has a route, by a socket that was opened before.
    any(libc::SYS_connect, "src/conf/host/mod.rs: rustix::net::connect"),
    checked(libc::SYS_openat, 2, READ_ONLY, "src/follow/resolver_file.rs: rustix::fs::open"),
    #[cfg(not(any(
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "loongarch64"
    )))]
    checked(libc::SYS_open, 1, READ_ONLY, "src/follow/resolver_file.rs: rustix::fs::open"),
    any(libc::SYS_read, "src/follow/resolver_file.rs: rustix::io::read"),
    any(libc::SYS_readlinkat, "src/follow/resolver_file.rs: readlinkat("),
    any(libc::SYS_inotify_add_watch, "src/follow/resolver_file.rs: add_watch("),
    any(libc::SYS_inotify_rm_watch, "src/follow/resolver_file.rs: remove_watch("),
    checked(
        SYS_NEWFSTATAT,
        0,
        Check::Equals(libc::AT_FDCWD as u32),
        "src/follow/resolver_file.rs: statat(",
    ),
    // The same where there are no times beyond 2038 by that name.
    any(libc::SYS_statx, "src/follow/resolver_file.rs: statat("),
    any(libc::SYS_clock_gettime, "src/follow/helper.rs: Instant::now"),
    any(libc::SYS_close, "Rust: a descriptor is dropped"),
    #[cfg(debug_assertions)]
    checked(libc::SYS_fcntl, 1, IS_OPEN, "Rust: descriptors are checked before they are closed"),
];

/// passt-repair: connects to passt, waiting for it in a folder, and switches one option of sockets.
const REPAIR: &[Call] = &[
    checked(
        libc::SYS_socket,
        0,
        Check::Equals(libc::AF_UNIX as u32),
        "src/repair/door.rs: rnet::socket_with",
    ),
    any(libc::SYS_connect, "src/repair/door.rs: rnet::connect"),
    any(libc::SYS_recvmsg, "src/repair/mod.rs: rnet::recvmsg"),
    any(libc::SYS_recvfrom, "src/repair/mod.rs: rnet::recv("),
    any(libc::SYS_sendto, "src/repair/mod.rs: rnet::send"),
    options(libc::IPPROTO_TCP, &[libc::TCP_REPAIR as u32], "src/sys/repair.rs: libc::TCP_REPAIR"),
    any(libc::SYS_clock_nanosleep, "src/repair/door.rs: std::thread::sleep"),
    any(libc::SYS_clock_gettime, "Rust: the time of a message"),
    any(libc::SYS_read, "src/repair/door.rs: inotify::Reader"),
    any(libc::SYS_write, "src/repair/mod.rs: log::error"),
    any(libc::SYS_close, "Rust: a descriptor is dropped"),
    #[cfg(debug_assertions)]
    checked(libc::SYS_fcntl, 1, IS_OPEN, "Rust: descriptors are checked before they are closed"),
];

/// pesto: connects to a program, by a socket that is there.
const PESTO: &[Call] = &[
    // To look whether a program that gives no answer has followed.
    checked(
        libc::SYS_socket,
        0,
        Check::Equals(libc::AF_UNIX as u32),
        "src/pesto/connection.rs: socket_with(AddressFamily::UNIX",
    ),
    checked(
        libc::SYS_setsockopt,
        1,
        Check::Equals(libc::SOL_SOCKET as u32),
        "src/pesto/connection.rs: set_socket_timeout",
    ),
    any(libc::SYS_connect, "src/pesto/connection.rs: connect(&socket"),
    any(libc::SYS_recvfrom, "src/pesto/connection.rs: recv(&self.socket"),
    any(libc::SYS_sendto, "src/pesto/connection.rs: send(&self.socket"),
    any(libc::SYS_ppoll, "src/sys/events.rs: poll(&mut"),
    any(libc::SYS_read, "src/ask/connection.rs: read_line"),
    any(libc::SYS_write, "src/pesto/mod.rs: write_all"),
    any(libc::SYS_close, "Rust: a descriptor is dropped"),
    #[cfg(debug_assertions)]
    checked(libc::SYS_fcntl, 1, IS_OPEN, "Rust: descriptors are checked before they are closed"),
];

/// The complete list of a program with one thread that runs as process `pid`. `needs` matters for the two that serve.
pub(super) fn of(program: Program, needs: Needs, pid: u32) -> Vec<Call> {
    let own_signals = [
        checked(
            libc::SYS_tgkill,
            0,
            Check::Equals(pid),
            "C library: raise(3), which abort(3) calls",
        ),
        #[cfg(target_env = "musl")]
        checked(libc::SYS_tkill, 0, Check::Equals(pid), "C library: raise(3) of musl"),
    ];
    let special = match program {
        Program::Passt => [PASST, OPTIONS_OF_MIGRATION].concat(),
        Program::Pasta => PASTA.to_vec(),
        Program::SocketMaker => return [SOCKET_MAKER, TOLD, SOCKETS, HANDLED].concat(),
        Program::Repair => return [REPAIR, RUNTIME, WIDE, SOCKETS, &own_signals].concat(),
        Program::Pesto => return [PESTO, RUNTIME, WIDE, SOCKETS, &own_signals].concat(),
        Program::HostWatch => {
            return [HOST_WATCH, TOLD, RUNTIME, WIDE, SOCKETS, HANDLED, &own_signals].concat();
        }
    };
    let always = [COMMON, OPTIONS, RUNTIME, WIDE, SOCKETS, HANDLED, &special, &own_signals];
    always.concat().into_iter().chain(needed(program, needs)).collect()
}

/// Level and name of each option of sockets that `program` may set. For tests.
pub fn settable_options(program: Program) -> Vec<(i32, i32)> {
    let calls = of(program, Needs::default(), 1).into_iter();
    let set = calls.filter(|call| call.number == libc::SYS_setsockopt);
    let listed = set.flat_map(|call| match call.checks {
        [Some((1, Check::Equals(level))), Some((2, Check::OneOf(names)))] => {
            names.iter().map(|name| (level.cast_signed(), name.cast_signed())).collect()
        }
        _ => Vec::new(),
    });
    listed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp::Filter;

    const EVERYTHING: Needs = Needs { log_file: true, capture: true, background: true };

    fn all_needs() -> impl Iterator<Item = Needs> {
        (0..8).map(|bits| Needs {
            log_file: bits & 1 != 0,
            capture: bits & 2 != 0,
            background: bits & 4 != 0,
        })
    }

    const PROGRAMS: [Program; 6] = [
        Program::Passt,
        Program::Pasta,
        Program::SocketMaker,
        Program::Repair,
        Program::Pesto,
        Program::HostWatch,
    ];

    #[test]
    fn every_list_makes_a_filter_and_names_a_call_once() {
        let each_with_all = |program| all_needs().map(move |needs| (program, needs));
        for (program, needs) in PROGRAMS.into_iter().flat_map(each_with_all) {
            let calls = of(program, needs, 1);
            Filter::new(&calls).unwrap_or_else(|error| panic!("{program:?}: {error}"));
            // More than one entry with the same number would be more than one way to make the call.
            let named = |number| calls.iter().filter(move |call| call.number == number);
            for call in &calls {
                let alone = named(call.number).count() == 1;
                let has_ways = named(call.number).all(|call| call.checks[1].is_some());
                assert!(alone || has_ways, "{program:?}: {}", call.number);
            }
        }
    }

    #[test]
    fn no_list_reaches_beyond_the_process() {
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_kill,
            libc::SYS_ptrace,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_mount,
            libc::SYS_prctl,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_pidfd_getfd,
            libc::SYS_process_vm_writev,
        ];
        for program in PROGRAMS {
            let calls = of(program, EVERYTHING, 1);
            assert!(!calls.iter().any(|call| never.contains(&call.number)), "{program:?}");
        }
    }

    /// What serves a guest opens no file by its name, whoever asks for that; who watches the host reads some.
    #[test]
    fn nobody_opens_a_file_to_write_and_only_the_watch_one_to_read() {
        #[cfg(target_arch = "x86_64")]
        let older = [
            libc::SYS_creat,
            libc::SYS_link,
            libc::SYS_mkdir,
            libc::SYS_rename,
            libc::SYS_rmdir,
            libc::SYS_symlink,
            libc::SYS_truncate,
            libc::SYS_unlink,
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let older = [];
        let names = [
            libc::SYS_fchmodat,
            libc::SYS_fchownat,
            libc::SYS_linkat,
            libc::SYS_mkdirat,
            libc::SYS_mknodat,
            libc::SYS_open_by_handle_at,
            libc::SYS_openat2,
            libc::SYS_renameat2,
            libc::SYS_symlinkat,
            libc::SYS_unlinkat,
        ];
        let opens = [
            libc::SYS_openat,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open,
        ];
        for program in PROGRAMS {
            for Call { number, checks, .. } in of(program, EVERYTHING, 1) {
                assert!(!names.contains(&number) && !older.contains(&number), "{program:?}");
                if !opens.contains(&number) {
                    continue;
                }
                match (program, checks[0].map(|(_, check)| check)) {
                    (Program::Pasta, Some(Check::With(flags))) => {
                        assert_eq!(flags, libc::O_PATH as u32);
                    }
                    (Program::HostWatch, Some(Check::Without(flags))) => {
                        let writes = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;
                        assert_eq!(flags & writes as u32, writes as u32);
                    }
                    _ => panic!("{program:?} opens files"),
                }
            }
        }
    }

    /// Options that are asked for only, parts of messages, and values.
    const NEVER_SET: &[&str] = &[
        "SO_MEMINFO",
        "SO_PEERCRED",
        "SO_EE_ORIGIN_ICMP",
        "SO_EE_ORIGIN_ICMP6",
        "IPV6_PKTINFO",
        "IP_PMTUDISC_DO",
        "IP_PMTUDISC_DONT",
        "IP_PMTUDISC_WANT",
        "TCP_INFO",
        "UDP_SEGMENT",
    ];

    /// What rustix's functions set.
    const SETTERS: &[(&str, &str)] = &[
        ("set_ip_freebind", "IP_FREEBIND"),
        ("set_ip_tos", "IP_TOS"),
        ("set_ip_ttl", "IP_TTL"),
        ("set_ipv6_freebind", "IPV6_FREEBIND"),
        ("set_ipv6_tclass", "IPV6_TCLASS"),
        ("set_ipv6_unicast_hops", "IPV6_UNICAST_HOPS"),
        ("set_ipv6_v6only", "IPV6_V6ONLY"),
        ("set_socket_broadcast", "SO_BROADCAST"),
        ("set_socket_keepalive", "SO_KEEPALIVE"),
        ("set_socket_linger", "SO_LINGER"),
        ("set_socket_oobinline", "SO_OOBINLINE"),
        ("set_socket_recv_buffer_size", "SO_RCVBUF"),
        ("set_socket_reuseaddr", "SO_REUSEADDR"),
        ("set_socket_reuseport", "SO_REUSEPORT"),
        ("set_socket_send_buffer_size", "SO_SNDBUF"),
        // Of pesto, which may set any option of this level.
        ("set_socket_timeout", "SOL_SOCKET"),
        ("set_tcp_keepidle", "TCP_KEEPIDLE"),
        ("set_tcp_nodelay", "TCP_NODELAY"),
        ("set_tcp_quickack", "TCP_QUICKACK"),
    ];

    /// The names in `code` that begin with one of `beginnings`.
    fn names<'a>(code: &'a str, beginnings: &[&str]) -> Vec<&'a str> {
        let words = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| beginnings.iter().any(|begin| word.starts_with(begin))).collect()
    }

    /// The code of all files below `folder`, without tests and without comments; not of qrap, which has no filter.
    fn code_below(folder: &std::path::Path) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(folder).expect("a folder of the sources").flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("src/qrap") {
                all += &code_below(&path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
            {
                let text = std::fs::read_to_string(&path).expect("a file of the sources");
                let (code, _) = text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((&text, ""));
                let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
                all.extend(code.flat_map(|line| [line, "\n"]));
            }
        }
        all
    }

    #[test]
    fn every_option_that_is_set_is_listed() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let (lists, _) = include_str!("calls.rs").split_once("#[cfg(test)]\nmod tests").unwrap();
        let listed = names(lists, &["SO_", "SOL_", "IP_", "IPV6_", "TCP_", "UDP_"]);
        let mut seen = 0;
        for folder in ["src", "vhost/src", "legacy/src"] {
            let code = code_below(&root.join(folder));
            let options: Vec<&str> = names(&code, &["SO_", "IP_", "IPV6_", "TCP_", "UDP_"]);
            for option in options.iter().filter(|option| code.contains(&format!("libc::{option}")))
            {
                let known = listed.contains(option) || NEVER_SET.contains(option);
                assert!(
                    known,
                    "{folder}: {option} is not listed: the kernel would kill who sets it"
                );
                seen += 1;
            }
            for setter in names(&code, &["set_ip", "set_socket_", "set_tcp_"]) {
                let sets = SETTERS.iter().find(|(name, _)| *name == setter);
                let (_, option) = sets.unwrap_or_else(|| panic!("{folder}: what sets {setter}?"));
                assert!(listed.contains(option), "{setter}: {option} is not listed");
                seen += 1;
            }
        }
        assert!(seen > 50, "{seen}");
    }

    /// On other processors and with other C libraries there are some more or fewer.
    #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
    #[test]
    fn lists_become_shorter_and_never_longer() {
        let count = |program, needs| {
            let calls = of(program, needs, 1);
            calls.iter().map(|call| call.number).collect::<std::collections::BTreeSet<_>>().len()
        };
        let least = Needs::default();
        let readme = include_str!("../../README.md");
        for (program, name, fewest, most) in
            [(Program::Passt, "passt", 45, 51), (Program::Pasta, "pasta", 45, 51)]
        {
            assert_eq!(count(program, least), fewest, "{name}");
            assert_eq!(count(program, EVERYTHING), most, "{name}");
            assert!(readme.contains(&format!("{fewest} system calls")), "the README says how many");
        }
        assert_eq!(count(Program::Passt, Needs { background: true, ..least }), 46);
    }

    /// What stands in the lists as a reason: all texts in front of the tests.
    fn reasons() -> Vec<&'static str> {
        let (lists, _) = include_str!("calls.rs").split_once("#[cfg(test)]\nmod tests").unwrap();
        let code = lists.lines().filter(|line| !line.trim_start().starts_with("//"));
        let texts = code.flat_map(|line| line.split('"').skip(1).step_by(2));
        texts.filter(|text| text.contains(' ')).collect()
    }

    #[test]
    fn every_entry_says_why_and_the_reason_is_still_there() {
        let reasons = reasons();
        assert!(reasons.len() > 90, "{}", reasons.len());
        for reason in reasons {
            let (who, what) = reason.split_once(": ").unwrap_or_else(|| panic!("{reason}"));
            if ["Rust", "C library", "kernel"].contains(&who) {
                assert!(what.len() >= 8, "{reason}: when?");
                continue;
            }
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(who);
            let text =
                std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{reason}: {why}"));
            let (code, _) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
            let mut lines = code.lines().filter(|line| {
                let line = line.trim_start();
                !line.starts_with("//") && !line.starts_with("use ")
            });
            assert!(
                lines.any(|line| line.contains(what)),
                "{reason}: nothing there makes the call"
            );
        }
    }
}
