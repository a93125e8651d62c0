//! The command line: options in the order in which they stand there, and the path of a socket.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, ValueHint, value_parser};

use super::failure::Failure;
use crate::ask;
use crate::flow::fwd::Proto;
use crate::flow::side::Pif;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// This text: help, or the version.
    Text(String),
    /// Something of a program.
    Job(Job),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// The program's socket.
    pub(super) path: PathBuf,
    /// Changes, in order. Without any the rules are shown.
    pub(super) steps: Vec<Step>,
    /// Show the rules before and after.
    pub(super) show: bool,
    /// Tell what happens.
    pub(super) debug: bool,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// From here on rules are added.
    Add,
    /// From here on rules are deleted.
    Delete,
    /// The table of this name is emptied.
    Clear(String),
    /// Rules for ports that lead from `pif`.
    Ports { pif: Pif, proto: Proto, spec: String },
}

/// An option that changes something: its letter, its name, its argument, what the help says, what it does.
struct Definition {
    short: char,
    long: &'static str,
    takes: Option<&'static str>,
    help: &'static str,
    step: fn(String) -> Step,
}

const fn ports(
    short: char,
    long: &'static str,
    help: &'static str,
    step: fn(String) -> Step,
) -> Definition {
    Definition { short, long, takes: Some("SPEC"), help, step }
}

const CHANGES: [Definition; 7] =
    [
        Definition {
            short: 'A',
            long: "add",
            takes: None,
            help: "Add the ports of the options behind this one",
            step: |_| Step::Add,
        },
        Definition {
            short: 'D',
            long: "delete",
            takes: None,
            help: "Delete the ports of the options behind this one; each must be as it was given",
            step: |_| Step::Delete,
        },
        Definition {
            short: 'C',
            long: "clear",
            takes: Some("TABLE"),
            help: "Forward no ports of a table: HOST or SPLICE",
            step: Step::Clear,
        },
        ports('t', "tcp-ports", "TCP ports of the host that lead to the guest", |spec| {
            Step::Ports { pif: Pif::Host, proto: Proto::Tcp, spec }
        }),
        ports('u', "udp-ports", "UDP ports of the host that lead to the guest", |spec| {
            Step::Ports { pif: Pif::Host, proto: Proto::Udp, spec }
        }),
        ports('T', "tcp-ns", "TCP ports of the namespace that lead to the host", |spec| {
            Step::Ports { pif: Pif::Splice, proto: Proto::Tcp, spec }
        }),
        ports('U', "udp-ns", "UDP ports of the namespace that lead to the host", |spec| {
            Step::Ports { pif: Pif::Splice, proto: Proto::Udp, spec }
        }),
    ];

/// Options that change nothing: letter, name, what the help says.
const OTHERS: [(Option<char>, &str, &str); 4] = [
    (Some('s'), "show", "Show the rules before and after the change"),
    (Some('d'), "debug", "Tell what happens, on standard error"),
    (Some('h'), "help", "Print this text"),
    (None, "version", "Print the version"),
];

const PATH: &str = "PATH";

/// Columns of the help text.
const HELP_WIDTH: usize = 80;

const ABOUT: &str = "\
Changes which ports a running passt or pasta forwards, on the socket of its
option --conf-path. Without a change it shows them.

Options count in their order. Ports take the place of all ports of their table,
unless --add or --delete stands before them. All changes are made, or none.";

const PORTS: &str = "\
Ports (SPEC) are those of passt and pasta: 8022, 2222:22, 8000-8010,~8005,
127.0.0.1/8022, all, none, and for namespaces auto; see passt(1).

Commands, on the socket of --control, each with a --help of its own, and with
--json for its answer as it was said; pesto --json PATH [REQUEST]... sends JSON:";

/// The options.
pub fn command() -> clap::Command {
    let changes = CHANGES.iter().map(|definition| {
        let arg = Arg::new(definition.long).short(definition.short).long(definition.long);
        let arg = arg.help(definition.help).action(ArgAction::Append).help_heading("Changes");
        match definition.takes {
            Some(name) => arg
                .value_name(name)
                .value_hint(ValueHint::Other)
                .value_parser(value_parser!(String))
                .allow_hyphen_values(true),
            // A flag without a value has no place of its own in what clap tells if it is repeated.
            None => arg.num_args(0).default_missing_value(""),
        }
    });
    let others = OTHERS.iter().map(|(short, long, help)| {
        let arg = Arg::new(*long).long(*long).help(*help).action(ArgAction::SetTrue);
        let arg = arg.help_heading("Other options");
        short.map_or(arg.clone(), |short| arg.short(short))
    });
    let path = Arg::new(PATH)
        .help("Socket of --conf-path")
        .value_hint(ValueHint::AnyPath)
        .value_parser(value_parser!(PathBuf));
    let commands: String = ask::command()
        .get_subcommands()
        .map(|one| format!("\n  {:<15} {}", one.get_name(), one.get_about().unwrap_or_default()))
        .collect();
    clap::Command::new("pesto")
        .override_usage("pesto [OPTION]... PATH\n       pesto COMMAND [OPTION]... PATH")
        .about(ABOUT)
        .after_help(format!("{PORTS}{commands}"))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .infer_long_args(true)
        .term_width(HELP_WIDTH)
        .args(changes)
        .args(others)
        .arg(path)
}

/// Reads the words behind the program's name.
///
/// # Errors
/// What is wrong with them.
pub(super) fn parse(words: &[OsString]) -> Result<Asked, Failure> {
    let all = std::iter::once(OsString::from("pesto")).chain(words.iter().cloned());
    let mut matches =
        command().try_get_matches_from(all).map_err(|error| refusal(&error, words.first()))?;
    if matches.get_flag("help") {
        return Ok(Asked::Text(command().render_help().to_string()));
    }
    if matches.get_flag("version") {
        return Ok(Asked::Text(version()));
    }
    let steps = steps(&matches);
    let (show, debug) = (matches.get_flag("show"), matches.get_flag("debug"));
    let path = matches.remove_one(PATH).ok_or_else(|| usage("no socket is named"))?;
    Ok(Asked::Job(Job { path, steps, show, debug }))
}

fn version() -> String {
    format!(
        "pesto {}\n\
         Licensed under Apache-2.0 or MIT, at your option.\n\
         There is NO WARRANTY, to the extent permitted by law.\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// Changes as they stand on the command line.
fn steps(matches: &ArgMatches) -> Vec<Step> {
    let mut found = Vec::new();
    for definition in &CHANGES {
        if matches.value_source(definition.long) != Some(ValueSource::CommandLine) {
            continue;
        }
        let places = matches.indices_of(definition.long).into_iter().flatten();
        let words = matches.get_many::<String>(definition.long).into_iter().flatten();
        found.extend(
            places.zip(words).map(|(place, word)| (place, (definition.step)(word.clone()))),
        );
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, step)| step).collect()
}

fn usage(problem: impl std::fmt::Display) -> Failure {
    Failure::new(format!("pesto: {problem}\nTry 'pesto --help' for more information."))
}

/// What clap refuses in words that begin with `first`, in the words of GNU getopt.
fn refusal(error: &clap::Error, first: Option<&OsString>) -> Failure {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.split(' ').next().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    let option = context(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::NoEquals => {
            usage(format_args!("option '{option}' requires an argument"))
        }
        ErrorKind::TooManyValues => {
            usage(format_args!("option '{option}' doesn't allow an argument"))
        }
        ErrorKind::InvalidUtf8 => usage("an argument is not UTF-8"),
        ErrorKind::UnknownArgument if !option.starts_with('-') => match first.filter(is_name) {
            Some(name) => usage(format_args!("there is no command '{}'", name.display())),
            None => usage(format_args!("more than one socket is named: {option}")),
        },
        _ => usage(format_args!("unrecognized option '{option}'")),
    }
}

/// Whether a word, the first of a command line, was to be a command: sockets have paths.
fn is_name(word: &&OsString) -> bool {
    let bytes = word.as_encoded_bytes();
    !bytes.starts_with(b"-") && !bytes.contains(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(line: &str) -> Job {
        let words: Vec<_> = line.split(' ').map(OsString::from).collect();
        match parse(&words) {
            Ok(Asked::Job(job)) => job,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn refused(line: &str) -> String {
        let words = line.split(' ').filter(|word| !word.is_empty()).map(OsString::from);
        parse(&words.collect::<Vec<_>>()).expect_err(line).0
    }

    #[test]
    fn options_keep_their_order() {
        let ports = |pif, proto, spec: &str| Step::Ports { pif, proto, spec: spec.to_owned() };
        let asked = job("-s -t 22 --add -u 53 -AD --tcp-ns=auto /s -C HOST -U none --debug --del");
        assert_eq!(
            asked.steps,
            [
                ports(Pif::Host, Proto::Tcp, "22"),
                Step::Add,
                ports(Pif::Host, Proto::Udp, "53"),
                Step::Add,
                Step::Delete,
                ports(Pif::Splice, Proto::Tcp, "auto"),
                Step::Clear("HOST".to_owned()),
                ports(Pif::Splice, Proto::Udp, "none"),
                Step::Delete,
            ]
        );
        assert!(asked.show && asked.debug && asked.path == *"/s");
        assert_eq!(job("/s"), Job { path: "/s".into(), steps: vec![], show: false, debug: false });
    }

    #[test]
    fn what_is_no_command_line_is_named() {
        for (line, problem) in [
            ("", "no socket is named"),
            ("-t 22", "no socket is named"),
            ("a b", "there is no command 'a'"),
            ("nosuch /run/vm.control", "there is no command 'nosuch'"),
            ("/a /b", "more than one socket is named: /b"),
            ("-s a b", "more than one socket is named: b"),
            ("--bad /s", "unrecognized option '--bad'"),
            ("/s -t", "option '--tcp-ports' requires an argument"),
            ("-x /s", "unrecognized option '-x'"),
        ] {
            let text = refused(line);
            assert_eq!(text.lines().next(), Some(&*format!("pesto: {problem}")), "{line}");
            assert!(text.ends_with("Try 'pesto --help' for more information."));
        }
    }

    #[test]
    fn help_and_version_are_text() {
        for (word, begin) in
            [("--help", "Changes which"), ("--version", "pesto "), ("-h", "Changes")]
        {
            let asked = parse(&[word.into()]).expect("an answer");
            assert!(matches!(&asked, Asked::Text(text) if text.starts_with(begin)), "{asked:?}");
            let named = |text: &str| text.contains("pesto --json PATH") || word == "--version";
            assert!(matches!(&asked, Asked::Text(text) if named(text)), "{asked:?}");
        }
    }
}
