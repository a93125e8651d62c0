//! Namespaces (namespaces(7)): entering, creating, and a process that starts in new ones.
//!
//! The program itself stays in the host's network namespace. What has to happen in another one is
//! done by a thread that enters it, acts, and ends ([`in_network`]); only user namespaces are
//! entered by the process as a whole, before it has threads.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::process::Forked;
use super::socket::last_errno;

/// Kinds of namespaces, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kinds(libc::c_int);

impl Kinds {
    /// User and group ids, capabilities.
    pub(crate) const USER: Self = Self(libc::CLONE_NEWUSER);
    /// Network interfaces and sockets.
    pub(crate) const NETWORK: Self = Self(libc::CLONE_NEWNET);
    /// Process ids.
    pub(crate) const PID: Self = Self(libc::CLONE_NEWPID);
    /// What a command gets to itself besides network and process ids: IPC, host name, mounts.
    pub(crate) const COMMAND: Self =
        Self(libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNS);

    /// All kinds of both.
    #[must_use]
    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Enters the namespace that `fd` stands for, which is of `kind`. A user namespace can only be
/// entered by a process with one thread; a network namespace is entered by this thread alone.
///
/// # Errors
/// What setns(2) reports; `PERM` without the capabilities.
pub(crate) fn enter(fd: BorrowedFd<'_>, kind: Kinds) -> Result<(), Errno> {
    // SAFETY: setns takes no pointers.
    let rc = unsafe { libc::setns(fd.as_raw_fd(), kind.0) };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Whether nobody may enter a namespace here, as the seccomp profiles of some containers have it: they refuse setns(2)
/// whatever it is about, where the kernel says that standard error is no namespace.
pub(crate) fn refuses_entry() -> bool {
    let entered = enter(std::io::stderr().as_fd(), Kinds::NETWORK);
    matches!(entered, Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS))
}

/// Moves the calling thread (for a user namespace: the process) to new namespaces.
///
/// # Errors
/// What unshare(2) reports.
pub(crate) fn create(kinds: Kinds) -> Result<(), Errno> {
    // SAFETY: unshare takes no pointers; no kind here makes threads share less memory.
    let rc = unsafe { libc::unshare(kinds.0) };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Opens a path that stands for a namespace. It does not wait where that is a pipe.
///
/// # Errors
/// What open(2) reports.
pub(crate) fn open(path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Whether `network` is the network namespace of the process: the kernel lets it be entered, too.
pub(crate) fn is_own_network(network: BorrowedFd<'_>) -> bool {
    let own = rustix::fs::stat("/proc/self/ns/net");
    let that = rustix::fs::fstat(network);
    matches!((own, that), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Runs `act` in a thread that has entered `network`.
///
/// # Errors
/// What setns(2) reports, or clone(2): `AGAIN` when there can be no further thread.
pub(crate) fn in_network<T: Send>(
    network: BorrowedFd<'_>,
    act: impl FnOnce() -> T + Send,
) -> Result<T, Errno> {
    in_thread(|| enter(network, Kinds::NETWORK).map(|()| act()))?
}

/// A new network namespace that belongs to the process's user namespace.
///
/// # Errors
/// What unshare(2) reports, or clone(2): `AGAIN` when there can be no further thread.
pub(crate) fn new_network() -> Result<OwnedFd, Errno> {
    in_thread(|| create(Kinds::NETWORK).and_then(|()| open("/proc/thread-self/ns/net")))?
}

fn in_thread<T: Send>(act: impl FnOnce() -> T + Send) -> Result<T, Errno> {
    share_heap();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, act);
        let thread =
            thread.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        thread.join().map_err(|_| Errno::CANCELED)
    })
}

/// Has threads take memory where the process has its own. The C library would give them a heap apart, which grows by
/// mprotect(2): whatever a thread leaves is used, and grown, by the process later, whose filter knows no such call.
fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain numbers. It fails for parameters only that are unknown.
    let _known = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Forks a process that starts in new namespaces. Only for a process with a single thread.
///
/// # Errors
/// What clone(2) reports.
pub(crate) fn fork_into(kinds: Kinds) -> Result<Forked, Errno> {
    let flags = (kinds.0 | libc::SIGCHLD) as libc::c_ulong;
    let null: *const libc::c_void = std::ptr::null();
    // SAFETY: without CLONE_VM the child has a copy of all memory, stack included, like after
    // fork(2); the program has one thread, so no lock is held by another one.
    match unsafe { libc::syscall(libc::SYS_clone, flags, null, null, null, null) } {
        -1 => Err(last_errno()),
        0 => Ok(Forked::Child),
        pid => i32::try_from(pid).map(Forked::Parent).map_err(|_| Errno::RANGE),
    }
}

/// Makes the caller, user `uid` of group `gid` before it created its user namespace, root in it
/// (user_namespaces(7)).
///
/// # Errors
/// Why the maps could not be written.
pub(crate) fn map_to_root(uid: u32, gid: u32) -> std::io::Result<()> {
    let write = |path: &str, text: String| {
        std::fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
    };
    write("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
    write("/proc/self/setgroups", "deny\n".to_owned())?;
    write("/proc/self/gid_map", format!("0 {gid} 1\n"))
}

/// Whether the caller is in the initial user namespace: the one whose map is the identity.
pub(crate) fn is_initial_user() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Mounts a proc of the caller's own process ids over `/proc`. It has no source, as policies for passt
/// (AppArmor) have it.
///
/// # Errors
/// What mount(2) reports; `PERM` in containers that hide parts of theirs.
pub(crate) fn mount_proc() -> Result<(), Errno> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let (target, kind) = (c"/proc".as_ptr(), c"proc".as_ptr());
    let none = std::ptr::null();
    // SAFETY: the texts end with a zero byte, and a mount may have neither source nor data.
    let rc = unsafe { libc::mount(none, target, kind, flags, none.cast()) };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Becomes another user for good, without supplementary groups.
///
/// # Errors
/// What setgroups(2), setgid(2) or setuid(2) report.
pub(crate) fn become_user(uid: u32, gid: u32) -> Result<(), Errno> {
    let check = |rc: libc::c_int| if rc == 0 { Ok(()) } else { Err(last_errno()) };
    // SAFETY: no pointer is followed for a list of length 0.
    let groups = check(unsafe { libc::setgroups(0, std::ptr::null()) });
    if let Err(errno) = groups
        && errno != Errno::PERM
    {
        return Err(errno);
    }
    // SAFETY: plain numbers.
    unsafe {
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    // A process that changed its user does not own its files in /proc until it says so.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
}
