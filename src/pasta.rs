//! pasta: the network namespace, its tap device, and the command in it.
//!
//! The program never leaves the host's network namespace. The target is made, or joined, by threads
//! that enter it, act, and end (`sys::namespace`): they open the tap device, configure it, and in
//! the end only descriptors are left. Everything is configured before the command's process is
//! even forked, and that waits until ports are open, too.

mod command;
mod configure;
mod exit;
mod gone;
mod init;
mod model;
mod netlink;
mod others;
mod reconfigure;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use passt_legacy::Offloads;
use rustix::io::Errno;

pub(crate) use command::Child;
pub use configure::queue_frames;

use crate::conf::host::Asker;
use crate::conf::{self, Conf, NOTIFY_VARIABLE, PastaConf, RunConf, Target, UserNamespace};
use crate::engine::Source;
use crate::error::{StartError, process_cure, system};
use crate::flow::fwd::RuleTable;
use crate::flow::network::{Mac, Network};
use crate::sandbox::{self, Setup, identity};
use crate::sys::bound_ports::PortTables;
use crate::sys::capability;
use crate::sys::process::DescriptorLimit;
use crate::sys::tun::{self, Tap};
use crate::sys::{errno_text, namespace, process};
use command::Started;
use model::Model;
pub(crate) use reconfigure::{Means, Reconfigure};

/// Lets every user of the namespace send echo requests (icmp(7)).
const PING_RANGE_FILE: &str = "/proc/sys/net/ipv4/ping_group_range";
const PING_RANGE: &str = "0 0";

/// The target namespace, entered by nobody yet.
pub(crate) struct Namespace {
    network: OwnedFd,
}

/// The tap device, ready for use.
pub(crate) struct Device {
    /// Its descriptor.
    pub(crate) fd: OwnedFd,
    /// What its kernel leaves to us.
    pub(crate) offloads: Offloads,
    /// The namespace's address on it.
    pub(crate) mac: Mac,
    /// Its index in the namespace.
    pub(crate) index: u32,
    /// To configure it anew, with `--config-net`.
    pub(crate) reconfigure: Option<Reconfigure>,
}

/// Which process goes on after [`Namespace::spawn`].
pub(crate) enum Spawned {
    /// The program. With a command, that waits.
    Program(Option<Child>),
    /// A process that was to become the command, and failed.
    Command(ExitCode),
}

impl Namespace {
    /// Becomes who we are to be, then makes or opens the namespace.
    ///
    /// # Errors
    /// [`StartError`] names the step.
    pub(crate) fn prepare(run: &RunConf, conf: &PastaConf) -> Result<Self, StartError> {
        let privileged = rustix::process::geteuid().is_root();
        identity::settle_user(run.run_as.as_deref(), conf.netns_only)?;
        let was_root = privileged && !rustix::process::geteuid().is_root();
        let network = match &conf.target {
            Target::Spawn { user, .. } => make(run, user),
            Target::Join { network, user } => {
                let entry = Entry { user: user.as_deref(), reluctant: conf.netns_only, was_root };
                join(run, network, &entry)
            }
        }?;
        Ok(Self { network })
    }

    /// The network namespace.
    pub(crate) fn network(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }

    /// Opens the namespace's tables of sockets, for where what listens cannot be asked for.
    ///
    /// # Errors
    /// [`StartError`] says why they cannot be opened.
    pub(crate) fn port_tables(&self) -> Result<PortTables, StartError> {
        namespace::in_network(self.network(), PortTables::open)
            .flatten()
            .map_err(system("Couldn't open /proc/net of the namespace"))
    }

    /// Makes the tap device, or takes the one that was handed over, and configures the namespace. Address
    /// families that the namespace does not have are switched off in `conf`. With `--splice-only` there
    /// is no device.
    ///
    /// # Errors
    /// [`StartError`] names the step.
    pub(crate) fn configure(&self, conf: &mut Conf) -> Result<Option<Device>, StartError> {
        let Conf { pasta: Some(pasta), network, rules, template_v4, template_v6, link, .. } = conf
        else {
            return Err(StartError::Other("no namespace to configure".to_owned()));
        };
        let copies = |copying: crate::conf::Copying| copying.addresses || copying.routes;
        let v4 = template_v4.filter(|_| copies(pasta.copy_v4) && pasta.configure);
        let v6 = template_v6.filter(|_| copies(pasta.copy_v6) && pasta.configure);
        let index = |device: conf::Device| device.index;
        let model = Asker::new()
            .map_err(io::Error::from)
            .and_then(|asker| Model::read(&asker, v4.map(index), v6.map(index)))
            .map_err(|error| StartError::Other(format!("Failed to read routes: {error}")))?;
        let given = link.fd.filter(|_| !pasta.bypass.only).map(adopt).transpose()?;
        let had_ipv6 = network.v6.is_some();
        let device =
            namespace::in_network(self.network(), || inside(pasta, network, &model, given))
                .map_err(|errno| {
                    let (why, cure) = (errno_text(errno), cure(false, errno));
                    let what = "Couldn't switch to pasta namespaces";
                    StartError::Other(format!("{what}: {why}{cure}"))
                })?
                .map_err(StartError::Other)?;
        if had_ipv6 && network.v6.is_none() {
            let removed = [rules, &mut pasta.outbound].map(RuleTable::without_ipv6).concat();
            for rule in removed {
                log::warn!("{rule}: not listened on, the namespace has no IPv6");
            }
        }
        Ok(device)
    }

    /// Forks the command, if there is to be one. It gets `limit` back.
    ///
    /// # Errors
    /// [`StartError`] names the step.
    pub(crate) fn spawn(
        &self,
        conf: &Conf,
        limit: &DescriptorLimit,
    ) -> Result<Spawned, StartError> {
        let Some(PastaConf { target, .. }) = &conf.pasta else {
            return Ok(Spawned::Program(None));
        };
        let Target::Spawn { command, pid_namespace, user } = target else {
            return Ok(Spawned::Program(None));
        };
        let plan = command::Plan {
            words: command,
            pid_namespace: *pid_namespace,
            shares_mounts: *user != UserNamespace::New,
            network: self.network(),
            hostname: conf.network.hostname.as_deref(),
            limit,
            // Whom it names was told of us, and is not to be told of the command.
            withheld: conf.run.notify.then_some(NOTIFY_VARIABLE),
        };
        Ok(match command::fork(&plan)? {
            Started::Program(child) => Spawned::Program(Some(child)),
            Started::Command(code) => Spawned::Command(code),
        })
    }
}

/// Watches for what ends the program: the end of a namespace that we joined, unless told not to care, and the
/// descriptor that a caller of slirp4netns holds.
///
/// # Errors
/// [`StartError`] names the step.
pub(crate) fn watch_ends(
    run: &RunConf,
    conf: &PastaConf,
) -> Result<Vec<Box<dyn Source>>, StartError> {
    let mut watches = Vec::new();
    if let Some(fd) = run.slirp4netns.as_ref().and_then(|slirp| slirp.exit) {
        watches.push(exit::watch(fd)?);
    }
    match &conf.target {
        Target::Join { network, .. } if conf.quit => watches.push(gone::watch(network)?),
        Target::Join { .. } | Target::Spawn { .. } => {}
    }
    Ok(watches)
}

/// Makes a network namespace that belongs to the command's user namespace.
fn make(run: &RunConf, user: &UserNamespace) -> Result<OwnedFd, StartError> {
    let setup = match user {
        UserNamespace::New => identity::create_namespace_as_root().map(|()| Setup::Pasta)?,
        UserNamespace::At(path) => {
            identity::enter_namespace(path).map(|()| Setup::PastaOfOthers)?
        }
        UserNamespace::Ours => Setup::PastaOfOthers,
    };
    sandbox::keep_for_setup(run, setup)?;
    namespace::new_network().map_err(|errno| {
        let (why, cure) = (errno_text(errno), not_made_cure(user, errno));
        StartError::Other(format!("Couldn't create a network namespace: {why}{cure}"))
    })
}

/// As whom a network namespace is entered.
struct Entry<'a> {
    /// The user namespace to join first, if there is one.
    user: Option<&'a Path>,
    /// It is joined by nobody who can do without, and never by root.
    reluctant: bool,
    /// We were root.
    was_root: bool,
}

impl Entry<'_> {
    /// The user namespace to join first, now that the network namespace was `opened`, or could not be.
    fn user_namespace(&self, opened: Option<&OwnedFd>) -> Option<&Path> {
        let spared = || {
            let enters = |network: &OwnedFd| namespace::in_network(network.as_fd(), || ()).is_ok();
            rustix::process::geteuid().is_root() || opened.is_some_and(enters)
        };
        self.user.filter(|_| !(self.reluctant && spared()))
    }
}

/// Opens the network namespace at `path`.
fn join(run: &RunConf, path: &Path, entry: &Entry<'_>) -> Result<OwnedFd, StartError> {
    let opened = namespace::open(path);
    if let Some(user) = entry.user_namespace(opened.as_ref().ok()) {
        identity::enter_namespace(user)?;
    }
    sandbox::keep_for_setup(run, Setup::PastaOfOthers)?;
    let network = opened
        .or_else(|_| namespace::open(path))
        .map_err(|errno| not_opened(path, entry.was_root, errno))?;
    if namespace::is_own_network(network.as_fd()) {
        return Err(own_network(path));
    }
    namespace::in_network(network.as_fd(), || ())
        .map_err(|errno| not_entered(path, entry.was_root, errno))?;
    Ok(network)
}

/// A tap device that somebody else has opened.
fn adopt(fd: i32) -> Result<Tap, StartError> {
    let cure = "not open: hand over a tap device that was opened in the namespace, with IFF_TAP and IFF_NO_PI";
    let descriptor = |errno| StartError::Descriptor { fd, errno, cure };
    let device = process::take_descriptor(fd).map_err(descriptor)?;
    tun::adopt(device).map_err(|errno| {
        let why = errno_text(errno);
        StartError::Other(format!(
            "Couldn't use --fd {fd} as tap device: {why}: open it with IFF_TAP and IFF_NO_PI, and \
             leave it in the namespace"
        ))
    })
}

/// What happens in the namespace.
fn inside(
    conf: &PastaConf,
    network: &mut Network,
    model: &Model,
    given: Option<Tap>,
) -> Result<Option<Device>, configure::Failure> {
    configure::loopback()?;
    if matches!(conf.target, Target::Spawn { .. })
        && std::fs::write(PING_RANGE_FILE, PING_RANGE).is_err()
    {
        log::warn!("Cannot set ping_group_range, ICMP requests might fail");
    }
    if conf.bypass.only {
        return Ok(None);
    }
    let name = &conf.interface;
    let Tap { fd, offloads, name } = match given {
        Some(tap) => tap,
        None => tun::open_tap(name).map_err(|errno| tap_failure(name.as_str(), errno))?,
    };
    let interface = configure::interface(&name, conf.mac, network.mtu)?;
    let index = interface.index;
    let reconfigure = if conf.configure {
        let unset = configure::addresses_and_routes(&interface, conf, network, model)?;
        let copying = [conf.copy_v4, conf.copy_v6];
        let again = Reconfigure::new(index, (model.clone(), unset), network, copying);
        Some(again.map_err(|error| format!("netlink: {error}"))?)
    } else {
        None
    };
    Ok(Some(Device { fd, offloads, mac: interface.mac, index, reconfigure }))
}

fn tap_failure(name: &str, errno: Errno) -> String {
    let cure = match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            ": load the module tun, or give the container the device"
        }
        Errno::ACCESS => {
            ": let everybody read and write it (mode 0666), or add --netns-only as root"
        }
        // The kernel's own sign for "the first free number".
        Errno::INVAL if name.contains('%') => {
            ": no device may have this name, choose another --ns-ifname"
        }
        // Of a tap device, and of another one.
        Errno::BUSY | Errno::INVAL => ": there is such a device, choose another --ns-ifname",
        _ => "",
    };
    let why = errno_text(errno);
    format!("Failed to set up tap device {name} with {}: {why}{cure}", tun::DEVICE)
}

/// The error that the namespace at `path` cannot be opened.
fn not_opened(path: &Path, was_root: bool, errno: Errno) -> StartError {
    let cure = match errno {
        Errno::NOENT => identity::no_namespace(
            path,
            "give a path, or one of the names that `ip netns list` shows",
        ),
        _ => cure(was_root, errno).to_owned(),
    };
    let (path, why) = (path.display(), errno_text(errno));
    StartError::Other(format!("Couldn't open network namespace {path}: {why}{cure}"))
}

/// The error that the namespace at `path` cannot be entered.
fn not_entered(path: &Path, was_root: bool, errno: Errno) -> StartError {
    let cure = match errno {
        Errno::INVAL => {
            " is no network namespace: give a path, as /proc/PID/ns/net, or one of the names that `ip \
             netns list` shows"
        }
        _ => cure(was_root, errno),
    };
    let (path, why) = (path.display(), errno_text(errno));
    StartError::Other(format!("Couldn't switch to pasta namespaces: {why}: {path}{cure}"))
}

/// The error that the namespace at `path` is the host's: addresses, routes and rules for a guest would be the host's own.
fn own_network(path: &Path) -> StartError {
    let path = path.display();
    StartError::Other(format!(
        "Couldn't switch to pasta namespaces: {path} is the network namespace that this program was started in: \
         give the process or the path of another one, or a command"
    ))
}

/// What can be done where no network namespace can be made. Who has the right to is refused it by somebody else: the kernel
/// may give a user namespace, and then no rights in it.
fn not_made_cure(user: &UserNamespace, errno: Errno) -> &'static str {
    match (user, errno) {
        (UserNamespace::Ours, Errno::PERM | Errno::ACCESS)
            if !capability::may_change_namespaces() =>
        {
            ": leave --netns-only out, or start as root"
        }
        _ => sandbox::namespace_cure(errno),
    }
}

/// What can be done where a namespace cannot be opened or entered; `was_root` says that we were root, and are not now.
fn cure(was_root: bool, errno: Errno) -> &'static str {
    match (was_root, errno) {
        (_, Errno::PERM | Errno::ACCESS | Errno::NOSYS) if namespace::refuses_entry() => {
            sandbox::container_cure(errno)
        }
        (true, Errno::PERM | Errno::ACCESS) => {
            ": started as root, but running as another user: add --netns-only to stay root, or start as \
             the user that the namespace belongs to"
        }
        (false, Errno::PERM | Errno::ACCESS) => {
            ": start as the user whose process made the namespace and name its user namespace with --userns, \
             or start as root with --netns-only"
        }
        _ => process_cure(errno),
    }
}
