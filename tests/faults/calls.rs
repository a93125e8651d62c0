//! Which results of a system call are plausible, by its number.

use crate::tracer::Outcome::{self, Fails, Short};
use crate::world::Kind;

// No `EAGAIN` where there is something to read, or room to write: an event tells of it once, and the kernel does not take
// that back. Where there is none, no fault is needed.

const READS: &[Outcome] = &[Fails(libc::EINTR), Fails(libc::EIO), Fails(libc::ECONNRESET)];
/// Whatever else a tap device reports says that it is gone, which is the end of the program.
const READS_OF_TAP: &[Outcome] = &[Fails(libc::EINTR)];
const RECEIVES: &[Outcome] =
    &[Fails(libc::EINTR), Fails(libc::ENOMEM), Fails(libc::ECONNRESET), Fails(libc::ETIMEDOUT)];
const MESSAGES: &[Outcome] = &[
    Fails(libc::EINTR),
    Fails(libc::ENOMEM),
    Fails(libc::ECONNREFUSED),
    Fails(libc::EHOSTUNREACH),
];
const WRITES: &[Outcome] = &[Fails(libc::EINTR), Fails(libc::EIO), Fails(libc::EPIPE)];
const SENDS: &[Outcome] =
    &[Short, Fails(libc::EINTR), Fails(libc::ENOBUFS), Fails(libc::EPIPE), Fails(libc::ECONNRESET)];
/// What passes the tap by waits for a socket that did not take all, and is told when there is room again: nobody may say
/// that there is none while there is.
const SENDS_WHOLE: &[Outcome] =
    &[Fails(libc::EINTR), Fails(libc::ENOBUFS), Fails(libc::EPIPE), Fails(libc::ECONNRESET)];
const SENDS_MESSAGES: &[Outcome] = &[
    Fails(libc::EINTR),
    Fails(libc::ENOBUFS),
    Fails(libc::ENOMEM),
    Fails(libc::EPERM),
    Fails(libc::ECONNREFUSED),
    Fails(libc::EPIPE),
];
/// A front-end that has hung up is noticed by the next read, behind what it had sent before: not one that is there.
const SENDS_REPLIES: &[Outcome] = SENDS_MESSAGES.split_at(5).0;
const OPENS: &[Outcome] = &[
    Fails(libc::EMFILE),
    Fails(libc::ENFILE),
    Fails(libc::ENOBUFS),
    Fails(libc::ENOMEM),
    Fails(libc::EPERM),
];
const CONNECTS: &[Outcome] = &[
    Fails(libc::ECONNREFUSED),
    Fails(libc::EADDRNOTAVAIL),
    Fails(libc::ENETUNREACH),
    Fails(libc::EPERM),
    Fails(libc::EAGAIN),
];

/// What may go wrong with `call` while the program runs, on a link of this kind. Nothing for what cannot fail, and for memory: who gets none
/// ends (Rust's allocator says so), and the kernel kills before it refuses.
pub fn at_work(kind: Kind, call: i64) -> &'static [Outcome] {
    match call {
        libc::SYS_read if kind == Kind::Tap => READS_OF_TAP,
        libc::SYS_read => READS,
        libc::SYS_recvfrom => RECEIVES,
        libc::SYS_recvmsg | libc::SYS_recvmmsg => MESSAGES,
        libc::SYS_write | libc::SYS_writev => WRITES,
        libc::SYS_sendto if kind == Kind::Tap => SENDS_WHOLE,
        libc::SYS_sendto => SENDS,
        libc::SYS_sendmsg if kind == Kind::VhostUser => SENDS_REPLIES,
        libc::SYS_sendmsg | libc::SYS_sendmmsg => SENDS_MESSAGES,
        libc::SYS_socket | libc::SYS_accept4 => OPENS,
        libc::SYS_connect => CONNECTS,
        libc::SYS_bind => &[Fails(libc::EADDRINUSE), Fails(libc::EACCES), Fails(libc::ENOMEM)],
        libc::SYS_epoll_ctl => &[Fails(libc::ENOMEM), Fails(libc::ENOSPC)],
        libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => &[Fails(libc::EINTR)],
        libc::SYS_setsockopt => &[Fails(libc::ENOMEM), Fails(libc::ENOPROTOOPT)],
        libc::SYS_getsockopt | libc::SYS_getsockname | libc::SYS_getpeername => {
            &[Fails(libc::ENOBUFS), Fails(libc::ENOTCONN)]
        }
        libc::SYS_ioctl | libc::SYS_shutdown | libc::SYS_listen => {
            &[Fails(libc::ENOMEM), Fails(libc::ENOTCONN)]
        }
        libc::SYS_pipe2 | libc::SYS_eventfd2 => &[Fails(libc::EMFILE), Fails(libc::ENOMEM)],
        libc::SYS_splice => &[Fails(libc::ENOMEM), Fails(libc::EPIPE)],
        libc::SYS_fcntl => &[Fails(libc::ENOMEM)],
        _ => &[],
    }
}

/// How `call` fails before the program is ready; `None` for what belongs to the loader and to Rust, and for memory.
pub fn at_start(call: i64) -> Option<Outcome> {
    let errno = match call {
        libc::SYS_brk
        | libc::SYS_mmap
        | libc::SYS_munmap
        | libc::SYS_mprotect
        | libc::SYS_mremap
        | libc::SYS_madvise
        | libc::SYS_close
        | libc::SYS_exit
        | libc::SYS_exit_group
        | libc::SYS_poll
        | libc::SYS_rt_sigaction
        | libc::SYS_rt_sigprocmask
        | libc::SYS_sigaltstack
        | libc::SYS_rt_sigreturn
        | libc::SYS_sched_getaffinity
        | libc::SYS_getrandom
        | libc::SYS_futex
        | libc::SYS_getpid
        | libc::SYS_gettid
        | libc::SYS_getuid
        | libc::SYS_geteuid
        | libc::SYS_getgid
        | libc::SYS_getegid
        | libc::SYS_clock_gettime
        // Limits of the process itself: rustix takes it for granted that they can be read.
        | libc::SYS_prlimit64
        | libc::SYS_arch_prctl
        | libc::SYS_set_tid_address
        | libc::SYS_set_robust_list
        | libc::SYS_rseq => return None,
        libc::SYS_socket | libc::SYS_openat | libc::SYS_epoll_create1 | libc::SYS_pipe2 => {
            libc::EMFILE
        }
        libc::SYS_unshare | libc::SYS_mount | libc::SYS_pivot_root | libc::SYS_umount2 => {
            libc::EPERM
        }
        libc::SYS_prctl | libc::SYS_seccomp | libc::SYS_capset | libc::SYS_capget => libc::EPERM,
        libc::SYS_read | libc::SYS_write | libc::SYS_fstat | libc::SYS_statx => libc::EIO,
        _ => libc::ENOMEM,
    };
    Some(Fails(errno))
}
