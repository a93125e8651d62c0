//! The meaning of pasta's options: which namespace, and what is done in it.

use std::ffi::OsString;
use std::path::PathBuf;

use super::options::PastaOptions;
use super::{ConfError, Device, Interfaces, Mode, Note, Options};
use crate::flow::fwd::{Bypass, InterfaceName, Mapping, RuleTable};
use crate::flow::network::{Mac, Services};

/// Name of the tap device when no interface of the host is a model.
const DEFAULT_INTERFACE: &str = "tap0";

/// The namespace that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A new one, for a command.
    Spawn {
        /// The command and its arguments; empty for a login shell.
        command: Vec<OsString>,
        /// It gets process ids of its own.
        pid_namespace: bool,
        /// Its user namespace.
        user: UserNamespace,
    },
    /// One that exists.
    Join {
        /// Path of the network namespace.
        network: PathBuf,
        /// Path of the user namespace to enter first; with [`PastaConf::netns_only`] only if there is no way in without.
        user: Option<PathBuf>,
    },
}

/// The user namespace of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UserNamespace {
    /// A new one, too.
    New,
    /// The one at this path.
    At(PathBuf),
    /// The one that the program was started in.
    Ours,
}

/// What is configured for one address family in the namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copying {
    /// All addresses of the model, not one.
    pub(crate) addresses: bool,
    /// All routes of the model, not one default route.
    pub(crate) routes: bool,
}

/// Everything that only pasta knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PastaConf {
    /// Which namespace.
    pub(crate) target: Target,
    /// `--netns-only`: user and user namespace stay what they are, as far as the network namespace can be entered so.
    pub(crate) netns_only: bool,
    /// End when the namespace's file is gone.
    pub(crate) quit: bool,
    /// Name of the tap device.
    pub(crate) interface: InterfaceName,
    /// Its address, if the operator gave one.
    pub(crate) mac: Option<Mac>,
    /// Addresses and routes are configured.
    pub(crate) configure: bool,
    /// How, for IPv4.
    pub(crate) copy_v4: Copying,
    /// How, for IPv6.
    pub(crate) copy_v6: Copying,
    /// What passes the tap device by.
    pub(crate) bypass: Bypass,
    /// Ports of the namespace's loopback interface that lead to the host's.
    pub(crate) outbound: RuleTable,
}

impl PastaConf {
    /// Whether the namespace is one for a command, or a shell, to start.
    pub(crate) fn starts_command(&self) -> bool {
        matches!(self.target, Target::Spawn { .. })
    }
}

/// Whether the program is to start a command, or a shell.
pub(crate) fn starts_command(options: &Options) -> bool {
    options.mode == Mode::Pasta && spawns(&options.pasta)
}

/// Whether the words mean a command (or a shell) to start.
pub(super) fn spawns(options: &PastaOptions) -> bool {
    options.netns.is_none() && pid(&options.words).is_none()
}

/// The one word that is a number, if that is all there is.
fn pid(words: &[OsString]) -> Option<&str> {
    let [word] = words else { return None };
    word.to_str().filter(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()))
}

/// Puts pasta's options together with the models that were found, and the rules for its loopback
/// interface.
///
/// # Errors
/// The options contradict each other.
pub(super) fn resolve(
    options: &Options,
    template_v4: Option<Device>,
    template_v6: Option<Device>,
    outbound: RuleTable,
    notes: &mut Vec<Note>,
) -> Result<PastaConf, ConfError> {
    let pasta = &options.pasta;
    check(pasta, notes)?;
    let [copy_v4, copy_v6] = copying(options, [template_v4, template_v6]);
    let model = template_v4.or(template_v6).map(|device| device.name);
    let default = model.or_else(|| InterfaceName::new(DEFAULT_INTERFACE));
    let interface = pasta.interface.or(default).expect("the default is a name");
    Ok(PastaConf {
        target: target(pasta)?,
        netns_only: pasta.netns_only,
        quit: !pasta.no_quit,
        interface,
        mac: pasta.mac,
        configure: pasta.configure,
        copy_v4,
        copy_v6,
        bypass: Bypass {
            enabled: !pasta.no_splice,
            keep_loopback: pasta.keep_loopback || pasta.splice_only,
            only: pasta.splice_only,
        },
        outbound,
    })
}

/// What is copied of each model, IPv4's and IPv6's, that there is.
pub(crate) fn copying(options: &Options, [v4, v6]: [Option<Device>; 2]) -> [Copying; 2] {
    let pasta = &options.pasta;
    let copying = |template: Option<Device>, address: bool, gateway: bool| Copying {
        addresses: template.is_some() && !address && !pasta.no_copy_addresses,
        routes: template.is_some() && !gateway && !pasta.no_copy_routes,
    };
    [
        copying(v4, options.address_v4.is_some(), options.gateway_v4.is_some()),
        copying(v6, options.address_v6.is_some(), options.gateway_v6.is_some()),
    ]
}

/// Reads `--splice-only` as the other options that it stands for: without a tap device there is nobody
/// to hand out addresses and names to, and nothing but loopback traffic is left.
pub(super) fn without_tap(options: &mut Options) {
    let Services { tcp, udp, .. } = options.services;
    options.services = Services { tcp, udp, ..Services::NONE };
    options.interfaces = Interfaces { only: options.interfaces.only, ..Interfaces::default() };
    options.mapping = Mapping::default();
    (options.no_dns, options.no_search, options.no_map_gw) = (true, true, true);
    options.dns_v4.clear();
    options.dns_v6.clear();
    options.search.clear();
}

fn check(pasta: &PastaOptions, notes: &mut Vec<Note>) -> Result<(), ConfError> {
    if pasta.netns.is_some() && !pasta.words.is_empty() {
        return Err(ConfError::Pasta("Both --netns and PID or command given"));
    }
    if pasta.no_pid_namespace && !spawns(pasta) {
        return Err(ConfError::Pasta("--no-pidns is incompatible with PID or --netns"));
    }
    if pasta.keep_loopback && pasta.no_splice {
        return Err(ConfError::Pasta("--host-lo-to-ns-lo is incompatible with --no-splice"));
    }
    if pasta.splice_only && pasta.no_splice {
        return Err(ConfError::Pasta("--splice-only is incompatible with --no-splice"));
    }
    for (given, option, other) in [
        (pasta.no_copy_routes, "--no-copy-routes", "--gateway"),
        (pasta.no_copy_addresses, "--no-copy-addrs", "--address"),
    ] {
        if given && !pasta.configure {
            return Err(ConfError::NeedsConfigNet(option));
        }
        if given {
            notes.push(Note::warn(format!("{option} will be dropped soon: use {other}")));
        }
    }
    Ok(())
}

fn target(pasta: &PastaOptions) -> Result<Target, ConfError> {
    let (network, user) = if let Some(path) = &pasta.netns {
        (path.clone(), None)
    } else if let Some(pid) = pid(&pasta.words) {
        let id: i32 = pid.parse().map_err(|_| ConfError::Pid(pid.to_owned()))?;
        let namespace = |kind| PathBuf::from(format!("/proc/{id}/ns/{kind}"));
        (namespace("net"), Some(namespace("user")))
    } else {
        return Ok(Target::Spawn {
            command: pasta.words.clone(),
            pid_namespace: !pasta.no_pid_namespace,
            user: match &pasta.userns {
                _ if pasta.netns_only => UserNamespace::Ours,
                Some(path) => UserNamespace::At(path.clone()),
                None => UserNamespace::New,
            },
        });
    };
    let user = pasta.userns.clone().or(user);
    Ok(Target::Join { network, user })
}
