//! Everything that can be wrong with the configuration. The text says what failed, on what, in the
//! words that other programs look for; [`ConfError::cure`] says what to do about it.

use std::io;

use crate::flow::fwd::{Rule, RuleError};

/// Why the program cannot start as it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// The command line is not made of known options. The words are those of GNU getopt.
    #[error("{program}: {problem}\n{usage}")]
    Usage {
        /// Name under which the program was started.
        program: String,
        /// What is wrong.
        problem: String,
        /// The full usage text.
        usage: String,
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
    /// An option of another mode.
    #[error("{0}")]
    OutOfPlace(String),
    /// Options of pasta that contradict each other.
    #[error("{0}")]
    Pasta(&'static str),
    /// No process can have this id.
    #[error("Invalid PID {0}")]
    Pid(String),
    /// Something stands on the command line that is no option.
    #[error("Extra non-option argument: {0}")]
    ExtraArgument(String),
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
    InterfaceUnusable,
    /// The kernel did not tell about interfaces, addresses or routes.
    #[error("Failed to read {what} of the host: {source}")]
    Netlink {
        /// What was asked for.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// A port specification does not follow the grammar.
    #[error("Invalid port specifier '{0}'")]
    PortSpecifier(String),
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
    pub fn cure(&self) -> Option<String> {
        Some(match self {
            Self::Value { option, takes, .. } => format!("--{option} takes {takes}"),
            Self::OutOfPlace(_) => "Leave it out, or start the program in that mode".to_owned(),
            Self::Pasta(_) => "Leave one of them out".to_owned(),
            Self::Pid(_) => "Give the id of a process, or a command".to_owned(),
            Self::ExtraArgument(_) => "passt takes options only; see --help".to_owned(),
            Self::RedundantPrefix => {
                "Give the prefix length with --address or with --netmask, not both".to_owned()
            }
            Self::Ipv6Unavailable => "Drop --ipv6-only, or enable IPv6 in the kernel".to_owned(),
            Self::Interface { .. } => {
                "--interface and --outbound-if4/6 take an interface of the host; \
                 see `ip link`"
                    .to_owned()
            }
            Self::InterfaceUnusable => {
                "Set the interface up with an address, or name another one with --interface \
                 or --outbound-if4/6"
                    .to_owned()
            }
            Self::PortSpecifier(_) => {
                "Ports are given as [[ADDR][%IF]/]PORT[-PORT][:[ADDR/]PORT[-PORT]],...; \
                 both ranges have the same length, ~PORT excludes, none stands alone"
                    .to_owned()
            }
            Self::PortInterface(_) => {
                "Interface names have 1 to 15 characters without / and blanks".to_owned()
            }
            Self::PortAuto => "Name the ports, or use all".to_owned(),
            Self::PortAddress(option, _) => format!("Give {option} ports only"),
            Self::PortDevice(..) => {
                "Leave the interface out, or listen on an address that it has".to_owned()
            }
            Self::PortNone(option) => format!("Give {option} none first, or leave it out"),
            Self::Rule { warning: RuleError::DualStackTarget(_), rule } if rule.is_on_loopback() => {
                "-T and -U listen in both families: a target address takes --ipv4-only or --ipv6-only"
                    .to_owned()
            }
            Self::Rule { .. } => "Change -t, -u, -T or -U accordingly".to_owned(),
            Self::Netlink { .. } => "Check that netlink sockets are permitted".to_owned(),
            Self::Usage { .. } | Self::Mode => return None,
        })
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
    pub level: log::Level,
    /// One line.
    pub text: String,
}

impl Note {
    /// Something that the operator can act on.
    pub fn warn(text: impl Into<String>) -> Self {
        Self { level: log::Level::Warn, text: text.into() }
    }

    /// Something that is good to know.
    pub fn info(text: impl Into<String>) -> Self {
        Self { level: log::Level::Info, text: text.into() }
    }
}
