//! The table as clap has it: for the parser, the help text, and whoever writes manual pages and
//! completions.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ValueHint, value_parser};

use super::definition::{Definition, Effect, USER};
use super::{Mode, table};

/// Where words that are no options end up.
pub(super) const WORDS: &str = "WORDS";

/// Columns of the help text.
const HELP_WIDTH: usize = 80;

const PASST_USAGE: &str = "passt [OPTION]...";
const PASTA_USAGE: &str = "pasta [OPTION]... [COMMAND [ARG]...]
       pasta [OPTION]... PID
       pasta [OPTION]... --netns PATH|NAME";

const PASST_ABOUT: &str = "\
Connects a virtual machine to the network of the host, without privileges.

Goes to the background once everything is ready, and waits for the virtual
machine on a UNIX socket: over vhost-user with --vhost-user, else over qemu's
stream protocol.";
const PASTA_ABOUT: &str = "\
Connects a network namespace to the network of the host, without privileges.

Starts COMMAND, or a shell, in a namespace of its own and ends with it; or joins
the namespace of a process or of a name, and goes to the background.";

/// What `SPEC` means, in the help for either name.
const PASST_PORTS: &str = "\
Ports (SPEC):
  8022            port 8022, on all addresses of the host, leads to port 8022;
                  those below 1024 want a lower net.ipv4.ip_unprivileged_port_start
  2222:22         port 2222 leads to port 22
  8022,8080:80    a list; likewise 8000-8010, and 8000-8010:9000-9010
  8000-8010,~8005 a range without one of its ports
  127.0.0.1/8022  on this address only; also ::1/8022, %lo/8022, 127.0.0.1%lo/8022
  0.0.0.0/8080:192.0.2.77/80
                  to another address than the guest's own
  all             all ports that are free and not ephemeral; also all,~22 or ~22
  none            no port";
const PASTA_PORTS: &str = "
  auto            each port as soon as, and as long as, a program listens on it
                  on the other side; also auto,~22, and 8000-8010,auto";

const FURTHER: &str = "\n\nThe manual page, passt(1), tells of all of this in full.\n";

/// The options of one mode, or all of them. Options keep the order of the table, with its headings.
pub fn command(mode: Option<Mode>) -> clap::Command {
    let pasta = mode == Some(Mode::Pasta);
    let words = Arg::new(WORDS)
        .num_args(0..)
        .trailing_var_arg(true)
        .hide(true)
        .value_hint(if pasta { ValueHint::CommandWithArguments } else { ValueHint::Unknown })
        .value_parser(value_parser!(OsString));
    let listed = |definition: &&Definition| mode.is_none_or(|mode| definition.listed(mode));
    let arguments = table::TABLE.iter().flat_map(|group| {
        let options = group.options.iter().filter(listed);
        options.map(|definition| argument(definition, mode).help_heading(group.heading))
    });
    clap::Command::new(if pasta { "pasta" } else { "passt" })
        .override_usage(if pasta { PASTA_USAGE } else { PASST_USAGE })
        .about(if pasta { PASTA_ABOUT } else { PASST_ABOUT })
        .after_help([PASST_PORTS, if pasta { PASTA_PORTS } else { "" }, FURTHER].concat())
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args_override_self(true)
        .infer_long_args(true)
        .term_width(HELP_WIDTH)
        .args(arguments)
        .arg(words)
}

fn argument(definition: &Definition, mode: Option<Mode>) -> Arg {
    let mut arg = Arg::new(definition.long).long(definition.long).help(definition.help(mode));
    if let Some(short) = definition.short {
        arg = arg.short(short);
    }
    if let Some(alias) = definition.alias {
        arg = arg.visible_alias(alias);
    }
    let (name, hint) = match definition.effect {
        // A flag without a value has no place of its own in what clap tells if it is repeated.
        Effect::Flag(_) => {
            return arg.action(ArgAction::Append).num_args(0).default_missing_value("");
        }
        Effect::Path(name, _) => (name, ValueHint::AnyPath),
        Effect::Text(name @ USER, ..) => (name, ValueHint::Username),
        Effect::Text(name, ..) if name.starts_with("PATH") => (name, ValueHint::AnyPath),
        Effect::Text(name, ..) => (name, ValueHint::Other),
    };
    arg.action(ArgAction::Append)
        .value_name(name)
        .value_hint(hint)
        .value_parser(value_parser!(OsString))
        .allow_hyphen_values(true)
}

/// What `--help` prints.
pub(super) fn help(mode: Mode) -> String {
    command(Some(mode)).render_help().to_string()
}

/// What `--version` prints.
pub(super) fn version(mode: Mode) -> String {
    let name = if mode == Mode::Pasta { "pasta" } else { "passt" };
    format!(
        "{name} {}\n\
         Licensed under Apache-2.0 or MIT, at your option.\n\
         There is NO WARRANTY, to the extent permitted by law.\n",
        env!("CARGO_PKG_VERSION")
    )
}
