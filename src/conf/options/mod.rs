//! The command line. One table holds every option - names, argument, help and effect - and feeds
//! the parser, the help text, the manual page and the completions; effects run in the order of the command
//! line, so "the last one wins" and everything that depends on order comes for free.
//!
//! clap does the splitting; the habits are those of GNU getopt: attached values, unambiguous
//! prefixes, grouped short options, options end at the first word that is none, nothing behind an
//! error counts, and getopt's wording and exit code 1 for what is unknown. Port specifications are only collected here: they
//! are read after the host's configuration is known.

mod command;
mod control;
mod definition;
mod extra;
mod getopt;
mod parse;
mod ports;
mod services;
mod table;
#[cfg(test)]
mod tests;
mod value;

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use arrayvec::ArrayVec;
use log::LevelFilter;

use super::SlirpConf;
use super::egress::EgressOptions;
use crate::flow::fwd::{InterfaceName, Mapping, Proto};
use crate::flow::network::{Extra, MAX_DNS, MAX_SEARCH, Mac, Services};
use crate::wire::dns::Name;

pub use command::command;
pub use parse::parse;
pub(super) use value::station;

/// The outcome of reading the command line.
#[derive(Debug)]
pub enum Command {
    /// `--help`: print this on stdout.
    Help(String),
    /// `--version`: print this on stdout.
    Version(String),
    /// `--print-capabilities`: print this on stdout.
    Capabilities(String),
    /// `--check`: look at the machine and say what was found.
    Check(Question),
    /// Run with these options.
    Run(Box<Options>),
}

/// What `--check` was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which program is to run.
    pub mode: Mode,
    /// `--json`.
    pub json: bool,
    /// `--runas`.
    pub run_as: Option<String>,
    /// Root stays root: pasta's `--netns-only`.
    pub keep_root: bool,
    /// `--chroot-fallback`.
    pub chroot_fallback: bool,
    /// The command line of a front-end, or nothing.
    pub front_end: Vec<OsString>,
}

/// What ends the reading of options with an answer instead of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Help,
    Version,
    Capabilities,
}

/// Whether this build has vhost-user: the crates that map a guest's memory are for processors of 64 bits.
pub(crate) const HAS_VHOST_USER: bool = cfg!(target_pointer_width = "64");

/// How the guest is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Frames with a length prefix on a stream socket.
    #[default]
    Stream,
    /// vhost-user.
    VhostUser,
    /// A tap device in a network namespace.
    Pasta,
}

/// A restriction to one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// `--ipv4-only`.
    V4,
    /// `--ipv6-only`.
    V6,
}

/// Process matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunConf {
    /// Stay in the foreground.
    pub(crate) foreground: bool,
    /// Suppress messages below warnings.
    pub(crate) quiet: bool,
    /// Show debug messages.
    pub(crate) debug: bool,
    /// Show a message per packet, too.
    pub(crate) trace: bool,
    /// File to write the process id to.
    pub(crate) pid: Option<PathBuf>,
    /// `--log-file`: where messages go.
    pub(crate) log_file: Option<PathBuf>,
    /// `--log-size`: most bytes that the log file may have.
    pub(crate) log_size: u64,
    /// `--stats`: event statistics, at most each this many seconds.
    pub(crate) stats: Option<u64>,
    /// `--notify`: tell the service manager when everything is ready.
    pub(crate) notify: bool,
    /// `--pcap`: file to record all frames in.
    pub(crate) pcap: Option<PathBuf>,
    /// `--runas`: the user to become when started as root.
    pub(crate) run_as: Option<String>,
    /// `--no-follow-host`: the host's network stays what it was at start.
    pub(crate) no_follow: bool,
    /// `--wait-for-network`: at most so many seconds.
    pub(crate) wait_for_network: Option<u64>,
    /// `--chroot-fallback`: use chroot(2) where pivot_root(2) fails.
    pub(crate) chroot_fallback: bool,
    /// `--conf-path`: socket on which pesto changes forwarded ports.
    pub(crate) conf_path: Option<PathBuf>,
    /// `--control`: socket to ask and to change things by JSON.
    pub(crate) control: Option<ControlSocket>,
    /// `--control-ro`: socket to ask only.
    pub(crate) control_ro: Option<ControlSocket>,
    /// `--stderr`, which has no effect any more.
    pub(crate) stderr: bool,
    /// The program was started as slirp4netns: what that wants beyond the options of pasta.
    pub(crate) slirp4netns: Option<SlirpConf>,
}

/// A socket on which the program is controlled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ControlSocket {
    /// Where.
    pub(crate) path: PathBuf,
    /// Who may connect, as the mode of a file.
    pub(crate) mode: u32,
}

impl RunConf {
    /// Whether rules can be added while the program runs.
    pub(crate) fn may_change_rules(&self) -> bool {
        let api = self.slirp4netns.as_ref().is_some_and(|slirp| slirp.api.is_some());
        self.conf_path.is_some() || self.control.is_some() || api
    }

    /// Messages of which level and above are wanted; beside a command, whose words are not to be lost among ours, these
    /// are fewer.
    pub(crate) fn level(&self, beside_command: bool) -> LevelFilter {
        match (self.trace, self.debug, self.quiet || beside_command) {
            (true, ..) => LevelFilter::Trace,
            (_, true, _) => LevelFilter::Debug,
            (_, _, true) => LevelFilter::Warn,
            _ => LevelFilter::Info,
        }
    }

    /// Which of its names the program goes by in what it says.
    pub(crate) fn program(&self, mode: Mode) -> &'static str {
        match (&self.slirp4netns, mode) {
            (Some(_), _) => "slirp4netns",
            (None, Mode::Pasta) => "pasta",
            (None, _) => "passt",
        }
    }

    /// Descriptors that the caller has opened for the program, beside that of the guest.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = i32> {
        let slirp = self.slirp4netns.iter();
        slirp.flat_map(|slirp| [slirp.ready, slirp.exit]).flatten()
    }
}

impl Default for RunConf {
    fn default() -> Self {
        Self {
            foreground: false,
            quiet: false,
            debug: false,
            trace: false,
            pid: None,
            log_file: None,
            log_size: value::DEFAULT_LOG_SIZE,
            stats: None,
            notify: false,
            pcap: None,
            run_as: None,
            no_follow: false,
            wait_for_network: None,
            chroot_fallback: false,
            conf_path: None,
            control: None,
            control_ro: None,
            stderr: false,
            slirp4netns: None,
        }
    }
}

/// Which of the host's interfaces to take as a model, as far as the operator cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// `--interface`: model of both families.
    pub template: Option<InterfaceName>,
    /// `--outbound-if4`.
    pub outbound_v4: Option<InterfaceName>,
    /// `--outbound-if6`.
    pub outbound_v6: Option<InterfaceName>,
    /// `--ipv4-only` or `--ipv6-only`.
    pub only: Option<Only>,
}

impl Interfaces {
    /// Whether any is named.
    pub(crate) fn are_named(&self) -> bool {
        [&self.template, &self.outbound_v4, &self.outbound_v6].iter().any(|name| name.is_some())
    }
}

/// Options of pasta.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PastaOptions {
    /// `--ns-ifname`.
    pub(crate) interface: Option<InterfaceName>,
    /// `--ns-mac-addr`.
    pub(crate) mac: Option<Mac>,
    /// `--userns`.
    pub(crate) userns: Option<PathBuf>,
    /// `--netns`, as a path.
    pub(crate) netns: Option<PathBuf>,
    /// `--netns-only`.
    pub(crate) netns_only: bool,
    /// `--no-netns-quit`.
    pub(crate) no_quit: bool,
    /// `--no-pidns`.
    pub(crate) no_pid_namespace: bool,
    /// `--config-net`.
    pub(crate) configure: bool,
    /// `--no-copy-routes`.
    pub(crate) no_copy_routes: bool,
    /// `--no-copy-addrs`.
    pub(crate) no_copy_addresses: bool,
    /// `--dhcp-dns`.
    pub(crate) dhcp_dns: bool,
    /// `--dhcp-search`.
    pub(crate) dhcp_search: bool,
    /// `--tcp-ns` and `--udp-ns`, in order.
    pub(crate) ports: Vec<(Proto, String)>,
    /// `--host-lo-to-ns-lo`.
    pub(crate) keep_loopback: bool,
    /// `--no-splice`, which changes nothing in the other modes.
    pub(crate) no_splice: bool,
    /// `--splice-only`: no tap device; only what passes it by is forwarded.
    pub(crate) splice_only: bool,
    /// The words behind the options: a command, or the id of a process.
    pub(crate) words: Vec<OsString>,
}

/// Where the helper of migrations connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Repair {
    /// Beside the socket of clients, with `.repair` behind its name.
    #[default]
    Beside,
    /// At this path.
    At(PathBuf),
    /// Nowhere: connections do not migrate.
    Nowhere,
}

/// What happens when the guest moves away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MigrationOptions {
    /// `--repair-path`.
    pub(crate) repair: Repair,
    /// `--migrate-exit`: the program ends.
    pub(crate) exit: bool,
    /// `--migrate-no-linger`: the sockets of its connections are closed.
    pub(crate) no_linger: bool,
}

impl From<PathBuf> for Repair {
    fn from(path: PathBuf) -> Self {
        match path.to_str() {
            Some("none") => Self::Nowhere,
            // What a caller passes that has none.
            Some("") => Self::Beside,
            _ => Self::At(path),
        }
    }
}

/// The command line, read and checked on its own: nothing of the host is in here.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the guest is attached.
    pub(crate) mode: Mode,
    /// Process matters.
    pub(crate) run: RunConf,
    /// `--socket`.
    pub(crate) socket: Option<PathBuf>,
    /// `--fd`.
    pub(crate) fd: Option<i32>,
    /// End when the guest disconnects; implied by `--fd`.
    pub(crate) one_off: bool,
    /// What happens when the guest moves away.
    pub(crate) migration: MigrationOptions,
    /// `--mtu`.
    pub(crate) mtu: u16,
    /// `--mac-addr`.
    pub(crate) mac: Mac,
    /// `--address`, IPv4, with its prefix length if one was given.
    pub(crate) address_v4: Option<(Ipv4Addr, Option<u8>)>,
    /// `--address`, IPv6.
    pub(crate) address_v6: Option<Ipv6Addr>,
    /// `--netmask`, as a prefix length.
    pub(crate) netmask: Option<u8>,
    /// `--gateway`, IPv4.
    pub(crate) gateway_v4: Option<Ipv4Addr>,
    /// `--gateway`, IPv6.
    pub(crate) gateway_v6: Option<Ipv6Addr>,
    /// Interfaces to take as a model.
    pub interfaces: Interfaces,
    /// `--dns none`.
    pub(crate) no_dns: bool,
    /// `--dns`, IPv4.
    pub(crate) dns_v4: ArrayVec<Ipv4Addr, MAX_DNS>,
    /// `--dns`, IPv6.
    pub(crate) dns_v6: ArrayVec<Ipv6Addr, MAX_DNS>,
    /// `--dns-host`, by name.
    pub(crate) dns_host_name: Option<(String, Name)>,
    /// `--search none`.
    pub(crate) no_search: bool,
    /// `--search`, one domain an entry.
    pub(crate) search: ArrayVec<String, MAX_SEARCH>,
    /// `--hostname`.
    pub(crate) hostname: Option<String>,
    /// `--fqdn`.
    pub(crate) fqdn: Option<String>,
    /// `--no-tcp` and its like.
    pub(crate) services: Services,
    /// `--dhcp-boot`, `--dhcp-option`, `--dhcpv6-option`, `--ra-option`.
    pub(crate) extra: Extra,
    /// `--freebind`.
    pub(crate) freebind: bool,
    /// `--no-map-gw`.
    pub(crate) no_map_gw: bool,
    /// Mappings given explicitly.
    pub(crate) mapping: Mapping,
    /// `--tcp-ports` and `--udp-ports`, in order.
    pub(crate) ports: Vec<(Proto, String)>,
    /// `--egress` and its like.
    pub(crate) egress: EgressOptions,
    /// What is for pasta only.
    pub(crate) pasta: PastaOptions,
    /// `--check`.
    pub(crate) check: bool,
    /// `--json`.
    pub(crate) json: bool,
    ending: Option<Ending>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            run: RunConf::default(),
            socket: None,
            fd: None,
            one_off: false,
            migration: MigrationOptions::default(),
            mtu: value::DEFAULT_MTU,
            mac: Mac::OURS,
            address_v4: None,
            address_v6: None,
            netmask: None,
            gateway_v4: None,
            gateway_v6: None,
            interfaces: Interfaces::default(),
            no_dns: false,
            dns_v4: ArrayVec::new(),
            dns_v6: ArrayVec::new(),
            dns_host_name: None,
            no_search: false,
            search: ArrayVec::new(),
            hostname: None,
            fqdn: None,
            extra: Extra::default(),
            services: Services::default(),
            freebind: false,
            no_map_gw: false,
            mapping: Mapping::default(),
            ports: Vec::new(),
            egress: EgressOptions::default(),
            pasta: PastaOptions::default(),
            check: false,
            json: false,
            ending: None,
        }
    }
}
