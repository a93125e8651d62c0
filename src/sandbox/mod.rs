//! Isolation, in stages. Guests, front-ends and the network are hostile; should one of them take the
//! program over in spite of everything else, it finds itself as a user without rights, in a file
//! system without files, with a few dozen system calls. `contrib/THREATS.md` tells what is left at
//! each stage.
//!
//! ```text
//!   limit_capabilities   first of all: no capability that start-up does not need
//!   detach               files and client socket are open: another user, a user namespace of our own
//!   leave_processes      before going to the background: process ids of our own
//!   close_off            in the process that goes on, everything is open: no file system, no capabilities
//!   confine              no path leads to a file, and no other system calls
//! ```
//!
//! pasta's namespace is made or joined by `pasta::Namespace`, with the parts of `detach` that are in
//! [`identity`]. Its command's parent is forked before, and is affected by nothing here; its helper
//! that makes sockets in the namespace is confined by a filter of its own ([`socket_maker`]), and so is the helper of
//! both programs that watches the host's network ([`confine_host_watch`]). Both are forked before `close_off`, by the process that
//! goes on, so that they end with that one, and leave nobody a process to reap.
//!
//! In the background the program is the first process of a process id namespace, for which the kernel
//! ignores every signal that has its default action. The signals that end the program are therefore
//! blocked before (and then read from a descriptor). What it has forked ends with it.
//!
//! A stage that cannot be reached ends the program: there is no half of a sandbox. What may be
//! missing is what never was there (a capability to give up, a bounding set that may not be changed), and Landlock, for
//! which kernels have to be new: it only repeats what the empty file system says, where nothing else does for the helpers.

mod calls;
mod error;
pub(crate) mod identity;

pub use calls::settable_options;
use error::failed;
pub(crate) use error::{SandboxError, container_cure, namespace_cure, not_in_namespace};

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::conf::RunConf;
use crate::error::StartError;
use crate::sys::capability::{self, Capabilities};
use crate::sys::landlock;
use crate::sys::mount;
use crate::sys::namespace::{self, Kinds};
use crate::sys::seccomp::Filter;

/// Where the empty root is mounted. A folder that every system has, and that policies for passt
/// (AppArmor, SELinux) expect.
const EMPTY_ROOT: &str = "/tmp";

/// Where systems keep their configuration, and what writes it: resolv.conf may lead to any of them from one moment to the
/// next. Not where people have their files, nor what the kernel tells of processes.
const CONFIGURATION: [&str; 9] =
    ["/etc", "/run", "/var", "/usr", "/opt", "/srv", "/mnt", "/nix", "/gnu"];

/// What start-up may need, depending on who starts it: to become another user, to make namespaces and
/// mounts, to configure a network, to bind low ports, to open what the operator names.
const AT_START: Capabilities = Capabilities::NET_BIND_SERVICE
    .union(Capabilities::SETUID)
    .union(Capabilities::SETGID)
    .union(Capabilities::SETPCAP)
    .union(Capabilities::SYS_ADMIN)
    .union(Capabilities::NET_ADMIN)
    .union(Capabilities::DAC_OVERRIDE)
    .union(Capabilities::SYS_CHROOT);

/// What root of a user namespace needs besides: to map itself into one more, and to open the
/// namespaces of its other processes.
const AT_START_AS_ROOT: Capabilities = Capabilities::SETFCAP.union(Capabilities::SYS_PTRACE);

/// What pasta's loop needs: to bind to low ports of its namespace.
const KEPT_BY_PASTA: Capabilities = Capabilities::NET_BIND_SERVICE;

/// What a process is confined to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// In front of a virtual machine, by either protocol.
    Passt,
    /// In front of a network namespace.
    Pasta,
    /// pasta's helper.
    SocketMaker,
    /// passt-repair, the helper of migrations.
    Repair,
    /// pesto, which changes what is forwarded.
    Pesto,
    /// The helper that watches the host's network.
    HostWatch,
}

/// What a configuration asks for beside serving: for what it does not ask, there are no system calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Messages go to a file, whose size is limited.
    pub log_file: bool,
    /// Frames are recorded.
    pub capture: bool,
    /// Standard error is replaced when the program is ready.
    pub background: bool,
}

impl Needs {
    pub(crate) fn of(conf: &RunConf) -> Self {
        Self {
            log_file: conf.log_file.is_some(),
            capture: conf.pcap.is_some(),
            background: !conf.foreground,
        }
    }
}

/// What of pasta's set-up needs capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    /// None: there is no namespace.
    Passt,
    /// A namespace of our own.
    Pasta,
    /// One of others.
    PastaOfOthers,
}

/// First stage: gives up every capability that start-up does not need.
///
/// # Errors
/// [`SandboxError`].
pub(crate) fn limit_capabilities() -> Result<(), SandboxError> {
    let root = rustix::process::geteuid().is_root();
    let kept = if root { AT_START.union(AT_START_AS_ROOT) } else { AT_START };
    capability::keep(kept).map_err(failed("couldn't drop capabilities"))
}

/// Second stage for passt: becomes who the operator wants, in a user namespace of its own.
///
/// # Errors
/// There is no such user, or no user namespace can be made.
pub(crate) fn detach(conf: &RunConf) -> Result<(), StartError> {
    identity::settle_user(conf.run_as.as_deref(), false)?;
    identity::create_namespace()?;
    Ok(keep_for_setup(conf, Setup::Passt)?)
}

/// End of the second stage: gives up every capability that the rest of start-up does not need.
///
/// # Errors
/// [`SandboxError`].
pub(crate) fn keep_for_setup(conf: &RunConf, setup: Setup) -> Result<(), SandboxError> {
    let mut kept = Capabilities::SYS_ADMIN.union(Capabilities::SETPCAP);
    if conf.chroot_fallback {
        kept |= Capabilities::SYS_CHROOT;
    }
    if setup != Setup::Passt {
        kept |= Capabilities::NET_ADMIN | Capabilities::NET_BIND_SERVICE;
    }
    if setup == Setup::PastaOfOthers {
        kept |= Capabilities::SYS_PTRACE;
    }
    capability::keep(kept).map_err(failed("couldn't drop capabilities"))
}

/// Before the program goes to the background: what is forked from here on has process ids of its own.
///
/// # Errors
/// [`SandboxError`].
pub(crate) fn leave_processes(conf: &RunConf) -> Result<(), SandboxError> {
    // A process has to end for this to matter: in the background, the launcher does.
    if conf.foreground { Ok(()) } else { create(Kinds::PID) }
}

fn create(kinds: Kinds) -> Result<(), SandboxError> {
    namespace::create(kinds).map_err(|errno| {
        SandboxError::new("couldn't create namespaces", errno, namespace_cure(errno))
    })
}

/// Third stage, in the process that goes on, with everything open that will be needed and all helpers started: leaves
/// the file system for an empty one, and gives up capabilities. pasta keeps the right to bind to low ports of its
/// namespace.
///
/// # Errors
/// [`SandboxError`].
pub(crate) fn close_off(conf: &RunConf, program: Program) -> Result<(), SandboxError> {
    create(Kinds::COMMAND)?;
    leave(conf.chroot_fallback, program)
}

/// The rest of the third stage, in a mount namespace that nobody else has: leaves the file system, and gives up capabilities.
///
/// # Errors
/// [`SandboxError`].
pub(crate) fn leave(chroot_fallback: bool, program: Program) -> Result<(), SandboxError> {
    leave_file_system(chroot_fallback)?;
    give_up(program)
}

/// End of the third stage: gives up all capabilities but those of the loop.
///
/// # Errors
/// [`SandboxError`].
fn give_up(program: Program) -> Result<(), SandboxError> {
    capability::empty_bounding_set().map_err(failed("couldn't empty the bounding set"))?;
    let kept = match program {
        Program::Pasta => KEPT_BY_PASTA,
        Program::Passt
        | Program::SocketMaker
        | Program::Repair
        | Program::Pesto
        | Program::HostWatch => Capabilities::empty(),
    };
    capability::keep(kept).map_err(failed("couldn't drop capabilities"))
}

fn leave_file_system(chroot_fallback: bool) -> Result<(), SandboxError> {
    mount::detach_all().map_err(failed("couldn't detach mounts"))?;
    mount::enter_empty(EMPTY_ROOT).map_err(|errno| {
        let cure = match errno {
            Errno::NOENT | Errno::NOTDIR => ": make a folder of that name",
            _ => container_cure(errno),
        };
        SandboxError::new("couldn't mount an empty file system on /tmp", errno, cure)
    })?;
    match mount::pivot_to_here() {
        Ok(()) => Ok(()),
        Err(_) if chroot_fallback => {
            log::info!("Failed to pivot_root(), fallback to chroot()...");
            mount::chroot_to_here().map_err(failed("couldn't change the root with chroot"))
        }
        Err(errno) => {
            let cure = match errno {
                Errno::INVAL => ": where the root is an initramfs, add --chroot-fallback",
                _ => container_cure(errno),
            };
            Err(SandboxError::new("couldn't change the root with pivot_root", errno, cure))
        }
    }
}

/// Last stage, in the process that goes on: no path leads to a file, where the kernel has Landlock; no system calls but
/// those of the program's list, no core dumps, and messages of panics go where all messages go. `needs` matters for passt
/// and pasta.
///
/// # Errors
/// [`SandboxError`].
pub fn confine(program: Program, needs: Needs) -> Result<(), SandboxError> {
    // The keys of the first hash table are asked for (getrandom(2)); those of later ones follow from them.
    let _keys = std::hash::RandomState::new();
    // What the default hook does besides printing the message, a backtrace, needs files.
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    leave_paths(&[]);
    filter(program, needs)?.install().map_err(|errno| {
        let cure = match errno {
            Errno::INVAL | Errno::NOSYS => {
                ": use a kernel with seccomp filters (CONFIG_SECCOMP_FILTER)"
            }
            _ => container_cure(errno),
        };
        SandboxError::new("couldn't install the system call filter", errno, cure)
    })
}

/// What [`sys::namespace_socket`](crate::sys::namespace_socket)'s helper is confined to.
///
/// # Errors
/// [`SandboxError`].
pub fn socket_maker() -> Result<Filter, SandboxError> {
    filter(Program::SocketMaker, Needs::default())
}

/// Confines [`follow`](crate::follow)'s helper: it reads configuration, and what is in the folder of the file to which
/// `resolv_conf` leads now.
///
/// # Errors
/// What prctl(2) and seccomp(2) report.
pub(crate) fn confine_host_watch(resolv_conf: &Path) -> Result<(), Errno> {
    let mut readable: Vec<PathBuf> = CONFIGURATION.into_iter().map(PathBuf::from).collect();
    let target = resolv_conf.canonicalize();
    readable.extend(target.ok().and_then(|target| target.parent().map(Path::to_owned)));
    leave_paths(&readable);
    filter(Program::HostWatch, Needs::default()).map_err(|_| Errno::INVAL)?.install()
}

/// No path leads to a file any more, but to those in `readable`.
fn leave_paths(readable: &[PathBuf]) {
    match landlock::restrict(readable) {
        Ok(true) => {}
        Ok(false) => log::debug!("Landlock: this kernel has none"),
        Err(error) => log::debug!("Landlock: {error}"),
    }
}

fn filter(program: Program, needs: Needs) -> Result<Filter, SandboxError> {
    let pid = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    Filter::new(&calls::of(program, needs, pid)).map_err(|why| SandboxError {
        what: "couldn't make the system call filter",
        why,
        cure: "",
    })
}
