//! Which system calls each program makes once it is set up. Everything else kills it.
//!
//! The lists hold what the engine, the links, the log and the Rust runtime call, also on their error
//! paths: an allocator that asks for memory, a panic that prints its message and ends the process. No
//! list holds a call that opens a file by name for reading or writing, executes a program, makes a
//! process or thread, enters a namespace, makes memory executable, or sends a signal to another
//! process.
//!
//! Calls are checked by argument where that takes something from an attacker and the packet path does
//! not make them: see `sys::seccomp` for what a check costs.

use libc::c_long;

use super::Program;
use crate::sys::seccomp::{Call, Check};

/// Address families of sockets on the host. Others reach far more of the kernel.
const HOST_FAMILIES: Check = Check::OneOf(&[libc::AF_INET as u32, libc::AF_INET6 as u32]);

/// Families of sockets that are made in pasta's namespace.
const GUEST_FAMILIES: Check =
    Check::OneOf(&[libc::AF_INET as u32, libc::AF_INET6 as u32, libc::AF_NETLINK as u32]);

/// No device and no terminal is controlled: what is left is how full a queue is, and the flags of a
/// descriptor, which the standard library sets this way.
const IOCTLS: Check = Check::OneOf(&[
    libc::FIONBIO as u32,
    libc::FIOCLEX as u32,
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

/// What is known about an open file, not about a name.
const DESCRIPTOR_ITSELF: Check = Check::With(libc::AT_EMPTY_PATH as u32);

const fn any(number: c_long) -> Call {
    Call { number, check: None }
}

const fn checked(number: c_long, argument: u8, check: Check) -> Call {
    Call { number, check: Some((argument, check)) }
}

/// The loop, sockets, the log and the capture file.
const COMMON: &[Call] = &[
    // The loop and its clock.
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_pwait2),
    any(libc::SYS_clock_gettime),
    // Sockets.
    checked(libc::SYS_socket, 0, HOST_FAMILIES),
    any(libc::SYS_accept4),
    any(libc::SYS_bind),
    any(libc::SYS_connect),
    any(libc::SYS_listen),
    any(libc::SYS_shutdown),
    any(libc::SYS_getsockname),
    any(libc::SYS_getpeername),
    any(libc::SYS_getsockopt),
    any(libc::SYS_setsockopt),
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmsg),
    any(libc::SYS_recvmmsg),
    any(libc::SYS_sendto),
    any(libc::SYS_sendmsg),
    any(libc::SYS_sendmmsg),
    // Bulk that is not copied: past the tap device, and out of the stream socket.
    any(libc::SYS_splice),
    any(libc::SYS_pipe2),
    // Descriptors.
    any(libc::SYS_close),
    // In the background standard error is replaced last.
    any(libc::SYS_dup3),
    checked(libc::SYS_fcntl, 1, FCNTLS),
    checked(libc::SYS_ioctl, 1, IOCTLS),
    any(libc::SYS_read),
    any(libc::SYS_write),
    any(libc::SYS_writev),
    // Log and capture: appended to, cut from the front when full, brought to the disk at the end.
    any(libc::SYS_lseek),
    any(libc::SYS_pread64),
    any(libc::SYS_pwrite64),
    any(libc::SYS_ftruncate),
    any(libc::SYS_fallocate),
    any(libc::SYS_fsync),
    any(libc::SYS_fstat),
    checked(SYS_NEWFSTATAT, 3, DESCRIPTOR_ITSELF),
    checked(libc::SYS_statx, 2, DESCRIPTOR_ITSELF),
];

/// What Rust and the C library do on their own.
const RUNTIME: &[Call] = &[
    // The allocator.
    any(libc::SYS_brk),
    any(libc::SYS_madvise),
    any(libc::SYS_mremap),
    any(libc::SYS_munmap),
    MAP,
    #[cfg(target_env = "musl")]
    checked(libc::SYS_mprotect, 2, NOT_EXECUTABLE),
    // Locks that nobody waits for, of the C library's once-only initialisation. Waiting would be for
    // ever.
    checked(
        libc::SYS_futex,
        1,
        Check::Equals((libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u32),
    ),
    // Keys of hash tables.
    any(libc::SYS_getrandom),
    // Handlers of SIGBUS and SIGSEGV, and of the calls that a stopped process goes on with.
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_sigaltstack),
    // The end, also by abort(3), which raises a signal (see `own_signals`).
    any(libc::SYS_getpid),
    any(libc::SYS_gettid),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
];

/// What has another name on processors of 32 bits, where these calls take numbers of 64.
#[cfg(target_pointer_width = "64")]
const SYS_MMAP: c_long = libc::SYS_mmap;
#[cfg(target_pointer_width = "64")]
const SYS_NEWFSTATAT: c_long = libc::SYS_newfstatat;
#[cfg(not(target_pointer_width = "64"))]
const SYS_MMAP: c_long = libc::SYS_mmap2;
#[cfg(not(target_pointer_width = "64"))]
const SYS_NEWFSTATAT: c_long = libc::SYS_fstatat64;

/// Memory that is not executable. On s390x the arguments stand in memory, where no filter looks.
const MAP: Call =
    if cfg!(target_arch = "s390x") { any(SYS_MMAP) } else { checked(SYS_MMAP, 2, NOT_EXECUTABLE) };

/// What there is of calls only on processors of 32 bits: beside those with short numbers others with long ones, and
/// with times beyond 2038, which have the same numbers on all of them.
#[cfg(target_pointer_width = "64")]
const WIDE: &[Call] = &[];
#[cfg(not(target_pointer_width = "64"))]
const WIDE: &[Call] = &[
    // clock_gettime64, clock_nanosleep_time64, ppoll_time64, recvmmsg_time64.
    any(403),
    any(407),
    any(414),
    any(417),
    // futex_time64, as the other one.
    checked(422, 1, Check::Equals((libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u32)),
    any(libc::SYS__llseek),
    any(libc::SYS_ftruncate64),
    any(libc::SYS_fstat64),
    checked(libc::SYS_fcntl64, 1, FCNTLS),
];

/// Calls that only kernels of older processors have; others have the newer name alone.
#[cfg(target_arch = "x86_64")]
const OLDER: &[Call] = &[any(libc::SYS_dup2)];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[Call] = &[];

/// Guests in front of passt: their rings and their memory. Both protocols, since the first bytes of
/// a client tell which one it speaks.
const PASST: &[Call] = &[
    // The end of the helper that watches the host.
    any(libc::SYS_waitid),
    any(libc::SYS_eventfd2),
    // The alarm for calls that a front-end has made wait.
    checked(libc::SYS_setitimer, 0, Check::Equals(libc::ITIMER_REAL as u32)),
    checked(libc::SYS_socketpair, 0, Check::Equals(libc::AF_UNIX as u32)),
];

/// pasta: the command's end, and whether the namespace is there.
const PASTA: &[Call] = &[any(libc::SYS_waitid), checked(libc::SYS_openat, 2, PATH_ONLY)];

/// The process that makes sockets in pasta's namespace.
const SOCKET_MAKER: &[Call] = &[
    any(libc::SYS_read),
    checked(libc::SYS_socket, 0, GUEST_FAMILIES),
    any(libc::SYS_sendmsg),
    any(libc::SYS_close),
    // The standard library checks descriptors before it closes them.
    #[cfg(debug_assertions)]
    checked(libc::SYS_fcntl, 1, Check::Equals(libc::F_GETFD as u32)),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_exit_group),
];

/// Files are opened for reading only, and none is made.
const READ_ONLY: Check = Check::Without(
    (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND) as u32,
);

/// The process that watches the host's network: netlink on sockets that it has, resolv.conf, and a channel that it only
/// writes to.
const HOST_WATCH: &[Call] = &[
    any(libc::SYS_ppoll),
    any(libc::SYS_recvfrom),
    any(libc::SYS_sendto),
    // Whether a destination has a route, by a socket that was opened before.
    any(libc::SYS_connect),
    checked(libc::SYS_openat, 2, READ_ONLY),
    any(libc::SYS_read),
    any(libc::SYS_readlinkat),
    any(libc::SYS_inotify_add_watch),
    any(libc::SYS_inotify_rm_watch),
    checked(SYS_NEWFSTATAT, 0, Check::Equals(libc::AT_FDCWD as u32)),
    any(libc::SYS_statx),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_close),
    // The standard library checks descriptors before it closes them.
    #[cfg(debug_assertions)]
    checked(libc::SYS_fcntl, 1, Check::Equals(libc::F_GETFD as u32)),
    #[cfg(target_arch = "x86_64")]
    checked(libc::SYS_open, 1, READ_ONLY),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_poll),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_readlink),
];

/// passt-repair: connects to passt, waiting for it in a folder, and switches one option of sockets.
const REPAIR: &[Call] = &[
    checked(libc::SYS_socket, 0, Check::Equals(libc::AF_UNIX as u32)),
    any(libc::SYS_connect),
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendto),
    checked(libc::SYS_setsockopt, 2, Check::Equals(libc::TCP_REPAIR as u32)),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_read),
    any(libc::SYS_write),
    any(libc::SYS_close),
    // The standard library checks descriptors before it closes them.
    #[cfg(debug_assertions)]
    checked(libc::SYS_fcntl, 1, Check::Equals(libc::F_GETFD as u32)),
];

/// pesto: connects to a program, by a socket that is there.
const PESTO: &[Call] = &[
    // To look whether a program that gives no answer has followed.
    checked(libc::SYS_socket, 0, Check::Equals(libc::AF_UNIX as u32)),
    checked(libc::SYS_setsockopt, 1, Check::Equals(libc::SOL_SOCKET as u32)),
    any(libc::SYS_connect),
    any(libc::SYS_recvfrom),
    any(libc::SYS_sendto),
    any(libc::SYS_read),
    any(libc::SYS_write),
    any(libc::SYS_close),
    // The standard library checks descriptors before it closes them.
    #[cfg(debug_assertions)]
    checked(libc::SYS_fcntl, 1, Check::Equals(libc::F_GETFD as u32)),
];

/// The complete list of a program with one thread that runs as process `pid`.
pub(super) fn of(program: Program, pid: u32) -> Vec<Call> {
    let own_signals = [
        checked(libc::SYS_tgkill, 0, Check::Equals(pid)),
        #[cfg(target_env = "musl")]
        checked(libc::SYS_tkill, 0, Check::Equals(pid)),
    ];
    let special = match program {
        Program::Passt => PASST,
        Program::Pasta => PASTA,
        Program::SocketMaker => return SOCKET_MAKER.to_vec(),
        Program::Repair => return [REPAIR, RUNTIME, WIDE, &own_signals].concat(),
        Program::Pesto => return [PESTO, RUNTIME, WIDE, &own_signals].concat(),
        Program::HostWatch => return [HOST_WATCH, RUNTIME, WIDE, &own_signals].concat(),
    };
    [COMMON, RUNTIME, WIDE, OLDER, special, &own_signals].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp::Filter;

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
        for program in PROGRAMS {
            let calls = of(program, 1);
            Filter::new(&calls).unwrap_or_else(|error| panic!("{program:?}: {error}"));
            let mut numbers: Vec<c_long> = calls.iter().map(|call| call.number).collect();
            numbers.sort_unstable();
            assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "{program:?}");
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
            let calls = of(program, 1);
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
        let mut opens = vec![libc::SYS_openat];
        #[cfg(target_arch = "x86_64")]
        opens.push(libc::SYS_open);
        for program in PROGRAMS {
            for Call { number, check } in of(program, 1) {
                assert!(!names.contains(&number) && !older.contains(&number), "{program:?}");
                if !opens.contains(&number) {
                    continue;
                }
                match (program, check.map(|(_, check)| check)) {
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
}
