//! Everything that can be wrong with the configuration. The text says what failed, on what, in the
//! words that other programs look for; [`ConfError::cure`] says what to do about it.

use std::io;
use std::path::PathBuf;

use super::options::Mode;
use super::ports::PortProblem;
use super::text::repeated;
use crate::flow::fwd::{InterfaceName, Rule, RuleError};
use crate::limits::{MAX_EGRESS_NAMES, MAX_EGRESS_RULES};

/// Why the program cannot start as it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// The command line is not made of known options. The words are those of GNU getopt.
    #[error("{program}: {problem}\nTry '{program} --help' for more information.")]
    Usage {
        /// Name under which the program was started.
        program: String,
        /// What is wrong.
        problem: String,
    },
    /// An option's argument is no good.
    #[error("{message}")]
    Value {
        /// Long name of the option.
        option: &'static str,
        /// What is wrong.
        message: String,
        /// What the option takes.
        takes: &'static str,
    },
    /// The program's name says nothing about its mode.
    #[error("Cannot determine mode, invoke as \"passt\" or \"pasta\"")]
    Mode,
    /// The crates that map a guest's memory are for processors of 64 bits.
    #[error("vhost-user is not in builds for processors of 32 bits")]
    NoVhostUser,
    /// An option of another mode.
    #[error("{message}")]
    OutOfPlace {
        /// Which option, and what it is for.
        message: String,
        /// How the program is started in that mode.
        cure: &'static str,
    },
    /// Options of pasta that contradict each other.
    #[error("{0}")]
    Pasta(&'static str),
    /// An option that says how `--config-net` works, without it.
    #[error("{0} needs --config-net")]
    NeedsConfigNet(&'static str),
    /// No process can have this id.
    #[error("Invalid PID {0}")]
    Pid(String),
    /// Something stands on the command line that is no option.
    #[error("Extra non-option argument: {argument}")]
    ExtraArgument {
        /// What stands there.
        argument: String,
        /// How the guest is attached.
        mode: Mode,
    },
    /// `--stats` without `--foreground`: nobody would see them.
    #[error("Can't display statistics if not running in foreground")]
    StatsInBackground,
    /// `--json` without `--check`.
    #[error("--json needs --check")]
    JsonWithoutCheck,
    /// A file of egress rules cannot be read.
    #[error("Couldn't read --egress-file {}: {}", path.display(), errno_text(.source))]
    EgressFile {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A line of such a file is no rule.
    #[error("{}, line {line}: {problem}", path.display())]
    EgressLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// There are more egress rules than are looked at.
    #[error(
        "Too many egress rules (at most {MAX_EGRESS_RULES}, {MAX_EGRESS_NAMES} of them with names)"
    )]
    EgressTooMany,
    /// `--address` with a prefix length, and `--netmask`.
    #[error("Redundant prefix length specification")]
    RedundantPrefix,
    /// `--ipv6-only`, and the kernel has no IPv6.
    #[error("IPv6 not available but --ipv6-only given")]
    Ipv6Unavailable,
    /// A named interface does not exist.
    #[error("Invalid interface name {name}: {}", errno_text(.source))]
    Interface {
        /// The name.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// A named interface has no address of a family that it was named for.
    #[error("External interface not usable")]
    InterfaceUnusable {
        /// The option that names it.
        option: &'static str,
        /// Its name.
        name: InterfaceName,
    },
    /// The kernel did not tell about interfaces, addresses or routes.
    #[error("Failed to read {what} of the host: {source}")]
    Netlink {
        /// What was asked for.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// Something is wrong with the ports of one option.
    #[error("{error}")]
    Ports {
        /// Long name of the option.
        option: &'static str,
        /// Its argument.
        spec: String,
        /// What is wrong.
        error: Box<ConfError>,
    },
    /// A port specification does not follow the grammar.
    #[error("Invalid port specifier '{}'", repeated(ports))]
    PortSpecifier {
        /// The list of ports.
        ports: String,
        /// What is wrong with it.
        problem: PortProblem,
    },
    /// The interface in a port specification can have no such name.
    #[error("Invalid interface name: {0}")]
    PortInterface(String),
    /// `auto` is for pasta.
    #[error("'auto' port forwarding is only allowed for pasta")]
    PortAuto,
    /// `-T` and `-U` take no address to listen on.
    #[error("Listening address not allowed for {0} {1}")]
    PortAddress(&'static str, String),
    /// An interface to listen on, which the kernel leaves to the privileged.
    #[error("Device binding for '{0} {1}' unsupported (requires kernel 5.7+)")]
    PortDevice(&'static str, String),
    /// `none` after ports of the same protocol.
    #[error("{0} none conflicts with previous options")]
    PortNone(&'static str),
    /// A rule is invalid, or does not agree with the others.
    #[error("{warning}\nUnable to add rule {rule}")]
    Rule {
        /// What is wrong.
        warning: RuleError,
        /// The rule.
        rule: Box<Rule>,
    },
}

impl ConfError {
    /// What the operator can do, one line; `None` if the text says it all.
    pub(crate) fn cure(&self) -> Option<String> {
        Some(match self {
            Self::Usage { .. } | Self::Mode => return None,
            Self::Value { option, takes, .. } => format!("--{option} takes {takes}"),
            Self::Interface { name, .. } => format!(
                "--interface and --outbound-if4/6 take an interface of the host; {name} is none, \
                 see `ip link`"
            ),
            Self::InterfaceUnusable { option, name } => format!(
                "--{option} {name}: the interface has no address; set it up with one, or name \
                 another"
            ),
            Self::Ports { option, spec, error } => return error.ports_cure(option, spec),
            other => other.fixed_cure().to_owned(),
        })
    }

    /// The cure of what is always cured in the same way.
    fn fixed_cure(&self) -> &'static str {
        match self {
            Self::NoVhostUser => "Leave it out, and give the guest -netdev stream",
            Self::OutOfPlace { cure, .. } => cure,
            Self::Pasta(_) => "Leave one of them out",
            Self::NeedsConfigNet(_) => "Add --config-net, or leave it out",
            Self::Pid(_) => "Give the id of a process, or a command",
            Self::ExtraArgument { mode: Mode::VhostUser, .. } => {
                "With --vhost-user the program is passt, which takes options only: leave one of them out"
            }
            Self::ExtraArgument { .. } => "Only options are taken here; see --help",
            Self::StatsInBackground => "Add --foreground (-f), or leave --stats out",
            Self::JsonWithoutCheck => "Add --check, or leave --json out",
            Self::RedundantPrefix => {
                "Give the prefix length with --address or with --netmask, not both"
            }
            Self::EgressFile { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
                "Nobody writes to this pipe: name a file, or start its writer first"
            }
            Self::EgressFile { .. } => "Name a file that can be read and is text",
            Self::EgressLine { .. } => {
                "A line is: allow|reject|drop [tcp|udp|icmp] DESTINATION[:PORTS]; # begins a comment"
            }
            Self::EgressTooMany => "Join networks and ports, or use *.NAME for several names",
            Self::Ipv6Unavailable => "Drop --ipv6-only, or enable IPv6 in the kernel",
            Self::Netlink { .. } => "Check that netlink sockets are permitted",
            Self::PortInterface(_) => {
                "interface names have 1 to 15 characters without / and blanks"
            }
            Self::PortAuto => "name the ports, or use all",
            Self::PortAddress(..) => "leave the address out: these ports are on loopback only",
            Self::PortDevice(..) => "leave the interface out, or listen on an address that it has",
            Self::PortNone(_) => "give none first, or leave it out",
            Self::Rule { warning, rule } => rule_cure(warning, rule),
            _ => "See --help",
        }
    }

    /// The cure of what is wrong with the ports `spec` of `option`. Where the packaged program has
    /// changed its words, the ones of before stand here: other programs know either.
    fn ports_cure(&self, option: &str, spec: &str) -> Option<String> {
        let spec = repeated(spec);
        Some(match self {
            Self::PortSpecifier { ports, problem } => {
                let ports = repeated(ports);
                format!("Invalid port specifier {ports} in --{option} {spec}: {problem}")
            }
            Self::Rule { warning: RuleError::Conflict(_), .. } => format!(
                "Overlapping port specifier in --{option} {spec}: a port leads to one place only; \
                 exclude it with ~PORT, or name different addresses"
            ),
            other => format!("--{option} {spec}: {}", other.fixed_cure()),
        })
    }
}

/// What to do about a rule that is refused.
fn rule_cure(error: &RuleError, rule: &Rule) -> &'static str {
    match error {
        RuleError::DualStackTarget(_) if rule.is_on_loopback() => {
            "both families are listened on; a target takes --ipv4-only or --ipv6-only"
        }
        RuleError::DescendingRange(..) => "give the smaller port first",
        RuleError::FromPortZero | RuleError::ToPortZero => "ports go from 1 to 65535",
        RuleError::DualStackTarget(_) | RuleError::OtherFamily(..) => {
            "listen on an address of the target's family"
        }
        RuleError::FamilyDisabled(_) | RuleError::DualStackDisabled(_) => {
            "leave it out, or enable both families: see --ipv4-only and --ipv6-only"
        }
        RuleError::MulticastTarget(_) | RuleError::SpecialTarget(..) => {
            "name an address of the guest"
        }
        RuleError::ProtocolDisabled(_) => "leave it out, or the option that disables the protocol",
        RuleError::Conflict(_) => "name each port once",
        RuleError::TooManyRules => "join neighboring ports to ranges",
        RuleError::TooManySockets => "name fewer ports",
    }
}

/// The error without Rust's " (os error N)".
fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Something to tell the operator that does not prevent a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How loud.
    pub(crate) level: log::Level,
    /// One line.
    pub text: String,
}

impl Note {
    /// Something that the operator can act on.
    pub(crate) fn warn(text: impl Into<String>) -> Self {
        Self { level: log::Level::Warn, text: text.into() }
    }

    /// Something that is good to know.
    pub(crate) fn info(text: impl Into<String>) -> Self {
        Self { level: log::Level::Info, text: text.into() }
    }
}
