//! The command line: `pesto COMMAND PATH ...`, or `pesto --json PATH` for requests as they are.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, value_parser};
use serde_json::{Map, Value, json};

use crate::control::json::commands::CommandName;

/// What is asked, and whom.
pub(super) struct Asked {
    /// The control socket.
    pub(crate) path: PathBuf,
    /// Answers are wanted as they were said.
    pub(crate) json: bool,
    pub(crate) command: Command,
}

/// What is asked.
pub(super) enum Command {
    Status,
    Stats {
        all: bool,
    },
    Metrics,
    /// With the fields that narrow it.
    Flows(Value),
    Reset(String),
    Rules,
    RulesAdd(Value),
    RulesDelete(Value),
    RulesReplace(Vec<Value>),
    Egress,
    EgressReplace {
        rules: Vec<String>,
        file: Option<PathBuf>,
        isolate: bool,
    },
    Watch(Vec<String>),
    Log(Option<String>),
    /// Requests as they are; from standard input if there are none.
    Verbatim(Vec<String>),
}

/// A command of pesto's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// The protocol's command of this name.
    Of(CommandName),
    /// One that is made of several of those.
    Metrics,
}

impl Word {
    /// All commands, in the order in which they are listed.
    fn all() -> impl Iterator<Item = Self> {
        CommandName::ALL.iter().flat_map(|&name| {
            let behind = (name == CommandName::Stats).then_some(Self::Metrics);
            std::iter::once(Self::Of(name)).chain(behind)
        })
    }

    fn text(self) -> &'static str {
        match self {
            Self::Of(name) => name.text(),
            Self::Metrics => "metrics",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::Of(name) => name.help(),
            Self::Metrics => "Print all counters as OpenMetrics text",
        }
    }
}

/// Options that take ports, with protocol and way.
const PORTS: [(char, &str, &str, &str); 4] = [
    ('t', "tcp-ports", "tcp", "guest"),
    ('u', "udp-ports", "udp", "guest"),
    ('T', "tcp-ns", "tcp", "host"),
    ('U', "udp-ns", "udp", "host"),
];

/// Whether `word`, the first one behind the program's name, begins such a command line.
pub fn is_command(word: &std::ffi::OsStr) -> bool {
    word == "--json" || Word::all().any(|known| word == known.text())
}

/// Reads the words behind the program's name.
///
/// # Errors
/// What is wrong with them, or that help is wanted.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, clap::Error> {
    let mut words: Vec<_> = std::iter::once(OsString::from("pesto")).chain(args).collect();
    if precedes_command(&words[1..]) {
        words.swap(1, 2);
    }
    let mut matches = command().try_get_matches_from(words)?;
    let Some((name, mut found)) = matches.remove_subcommand() else {
        let requests = matches.remove_many("REQUEST").map(Iterator::collect);
        let (path, command) = (path(&mut matches), Command::Verbatim(requests.unwrap_or_default()));
        return Ok(Asked { path, json: true, command });
    };
    let word = Word::all().find(|word| word.text() == name).expect("clap is told of no others");
    let (path, json) = (path(&mut found), found.get_flag("json"));
    Ok(Asked { path, json, command: asked(word, found) })
}

/// Whether `--json` stands before the name of a command instead of behind it, and what follows is no request: where that is
/// one, the name is a socket's.
fn precedes_command(words: &[OsString]) -> bool {
    let [json, name, next, ..] = words else { return false };
    json == "--json"
        && name != "--json"
        && is_command(name)
        && !next.as_encoded_bytes().starts_with(b"{")
}

fn path(matches: &mut ArgMatches) -> PathBuf {
    matches.remove_one("PATH").unwrap_or_default()
}

fn asked(word: Word, mut found: ArgMatches) -> Command {
    let mut texts = |name: &str| -> Vec<String> {
        found.remove_many(name).map(Iterator::collect).unwrap_or_default()
    };
    let name = match word {
        Word::Metrics => return Command::Metrics,
        Word::Of(name) => name,
    };
    match name {
        CommandName::Status => Command::Status,
        CommandName::Stats => Command::Stats { all: found.get_flag("all") },
        CommandName::Flows => Command::Flows(filter(&found)),
        CommandName::FlowReset => Command::Reset(texts("FLOW").concat()),
        CommandName::Rules => Command::Rules,
        CommandName::RulesAdd => {
            Command::RulesAdd(specifications(&found).pop().unwrap_or_default())
        }
        CommandName::RulesDelete => Command::RulesDelete(deleted(&found)),
        CommandName::RulesReplace => Command::RulesReplace(specifications(&found)),
        CommandName::Egress => Command::Egress,
        CommandName::EgressReplace => Command::EgressReplace {
            rules: texts("RULE"),
            file: found.remove_one("file"),
            isolate: found.get_flag("isolate"),
        },
        CommandName::Watch => Command::Watch(texts("EVENT")),
        CommandName::Log => Command::Log(texts("LEVEL").pop()),
    }
}

/// The fields of a request for flows.
fn filter(found: &ArgMatches) -> Value {
    let mut fields = Map::new();
    for name in ["proto", "address", "state"] {
        if let Some(text) = found.get_one::<String>(name) {
            fields.insert(name.to_owned(), text.as_str().into());
        }
    }
    if let Some(&port) = found.get_one::<u16>("port") {
        fields.insert("port".to_owned(), port.into());
    }
    for (name, field) in [("min-age", "min_age_ms"), ("min-idle", "min_idle_ms")] {
        if let Some(&seconds) = found.get_one::<u32>(name) {
            fields.insert(field.to_owned(), (u64::from(seconds) * 1000).into());
        }
    }
    Value::Object(fields)
}

/// All ports that were given, in the order of the options' kinds.
fn specifications(found: &ArgMatches) -> Vec<Value> {
    let of = |(_, long, proto, to): (char, &str, &str, &str)| {
        let specs = found.get_many::<String>(long).into_iter().flatten();
        let fields = |ports: &String| json!({ "to": to, "proto": proto, "ports": ports });
        specs.map(fields).collect::<Vec<_>>()
    };
    PORTS.into_iter().flat_map(of).collect()
}

fn deleted(found: &ArgMatches) -> Value {
    match found.get_one::<u64>("rule") {
        Some(&rule) => {
            let to = if found.get_flag("to-host") { "host" } else { "guest" };
            json!({ "to": to, "rule": rule })
        }
        None => specifications(found).pop().unwrap_or_default(),
    }
}

/// The command line, also for manual page and completions.
pub fn command() -> clap::Command {
    let top = clap::Command::new("pesto")
        .about("Asks a running passt or pasta what goes on, and changes it")
        .disable_help_subcommand(true)
        .subcommand_negates_reqs(true)
        .args_conflicts_with_subcommands(true)
        .arg(json_flag().required(true).help("Send requests as they are: JSON, one a line"))
        .arg(socket())
        .arg(words("REQUEST", "Requests; default: those on standard input"));
    top.subcommands(Word::all().map(|word| {
        let one = clap::Command::new(word.text()).about(word.help()).arg(socket());
        one.arg(json_flag().help("Print the answer as it was said")).args(arguments(word))
    }))
}

fn json_flag() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue)
}

fn socket() -> Arg {
    let help = "The socket of --control or --control-ro";
    Arg::new("PATH").required(true).value_parser(value_parser!(PathBuf)).help(help)
}

fn words(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).num_args(0..).help(help)
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// What the command `word` takes besides.
fn arguments(word: Word) -> Vec<Arg> {
    let Word::Of(name) = word else { return Vec::new() };
    let seconds = value_parser!(u32);
    match name {
        CommandName::Stats => {
            let help = "Show counters that are 0, too";
            vec![Arg::new("all").long("all").action(ArgAction::SetTrue).help(help)]
        }
        CommandName::Flows => vec![
            option("proto", "PROTO", "Only tcp, udp or icmp"),
            option("address", "ADDR[/LEN]", "Only where some address is in this network"),
            option("port", "PORT", "Only where some port is this one")
                .value_parser(value_parser!(u16)),
            option("state", "STATE", "Only in this state"),
            option("min-age", "SECONDS", "Only those that are older").value_parser(seconds),
            option("min-idle", "SECONDS", "Only those that were silent for longer")
                .value_parser(seconds),
        ],
        CommandName::FlowReset => {
            vec![Arg::new("FLOW").required(true).help("Its name, as flows shows it")]
        }
        CommandName::RulesAdd => one_of(ports(false), &[]),
        CommandName::RulesReplace => ports(true),
        CommandName::RulesDelete => {
            let rule = option("rule", "NUMBER", "The rule with this number");
            let to_host = Arg::new("to-host").long("to-host").action(ArgAction::SetTrue);
            let to_host = to_host.requires("rule").help("One of those that lead to the host");
            let mut all = one_of(ports(false), &["rule"]);
            all.push(rule.value_parser(value_parser!(u64)));
            all.push(to_host);
            all
        }
        CommandName::EgressReplace => {
            let isolate = Arg::new("isolate").long("isolate").action(ArgAction::SetTrue);
            let file = option("file", "FILE", "More rules, one a line");
            vec![
                words("RULE", "Rules, as --egress takes them; none allow everything"),
                file.value_parser(value_parser!(PathBuf)),
                isolate.help("Behind them those of --isolate"),
            ]
        }
        CommandName::Watch => {
            vec![words("EVENT", "Only these: link-up, lease, refused, ...; default: all")]
        }
        CommandName::Log => vec![Arg::new("LEVEL").help("error, warn, info, debug or trace")],
        CommandName::Status | CommandName::Rules | CommandName::Egress => Vec::new(),
    }
}

/// The options that take ports.
fn ports(many: bool) -> Vec<Arg> {
    let action = || if many { ArgAction::Append } else { ArgAction::Set };
    let arg = |(short, long, proto, to): (char, &'static str, &'static str, &'static str)| {
        let help = format!("{} ports that lead to the {to}", proto.to_uppercase());
        Arg::new(long).short(short).long(long).value_name("PORTS").action(action()).help(help)
    };
    PORTS.into_iter().map(arg).collect()
}

/// Exactly one of these, or of those that are named besides.
fn one_of(args: Vec<Arg>, besides: &[&'static str]) -> Vec<Arg> {
    let names: Vec<&'static str> =
        PORTS.iter().map(|(_, long, ..)| *long).chain(besides.iter().copied()).collect();
    let others = |own: &str| names.iter().copied().filter(|name| *name != own).collect::<Vec<_>>();
    let only = |arg: Arg| {
        let others = others(arg.get_id().as_str());
        arg.required_unless_present_any(&others).conflicts_with_all(others)
    };
    args.into_iter().map(only).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Asked {
        parse(words.iter().map(OsString::from)).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn commands_begin_with_their_name() {
        for word in ["status", "log", "--json", "rules-add", "watch"] {
            assert!(is_command(word.as_ref()), "{word}");
        }
        for word in ["", "-t", "--add", "./status", "/run/passt.sock"] {
            assert!(!is_command(word.as_ref()), "{word}");
        }
    }

    #[test]
    fn words_become_requests() {
        let asked =
            parsed(&["flows", "s", "--proto", "tcp", "--port", "80", "--min-idle", "2", "--json"]);
        let Command::Flows(filter) = &asked.command else { panic!("flows") };
        assert_eq!(*filter, json!({ "proto": "tcp", "port": 80, "min_idle_ms": 2000 }));
        assert!(asked.json && asked.path.ends_with("s"));
        let asked = parsed(&["rules-add", "s", "-t", "8080:80"]);
        let Command::RulesAdd(one) = asked.command else { panic!("rules-add") };
        assert_eq!(one, json!({ "to": "guest", "proto": "tcp", "ports": "8080:80" }));
        let asked = parsed(&["rules-delete", "s", "--rule", "7", "--to-host"]);
        let Command::RulesDelete(one) = asked.command else { panic!("rules-delete") };
        assert_eq!(one, json!({ "to": "host", "rule": 7 }));
        let asked = parsed(&["rules-replace", "s", "-t", "1", "-U", "2", "-t", "3"]);
        let Command::RulesReplace(all) = asked.command else { panic!("rules-replace") };
        assert_eq!(all.len(), 3);
        let asked = parsed(&["egress-replace", "s", "allow @dns", "reject any", "--isolate"]);
        let Command::EgressReplace { rules, isolate: true, .. } = asked.command else {
            panic!("egress")
        };
        assert_eq!(rules, ["allow @dns", "reject any"]);
        let asked = parsed(&["--json", "s", "{}", "[]"]);
        let Command::Verbatim(requests) = asked.command else { panic!("verbatim") };
        assert_eq!(requests, ["{}", "[]"]);
        assert!(
            matches!(parsed(&["--json", "s"]).command, Command::Verbatim(none) if none.is_empty())
        );
        let first = parsed(&["--json", "stats", "--all", "s"]);
        assert!(first.json && first.path.ends_with("s"));
        assert!(matches!(first.command, Command::Stats { all: true }));
        let socket = parsed(&["--json", "stats", "{}"]);
        assert!(socket.path.ends_with("stats") && matches!(socket.command, Command::Verbatim(_)));
        assert!(matches!(parsed(&["log", "s"]).command, Command::Log(None)));
        assert!(matches!(parsed(&["stats", "s", "--all"]).command, Command::Stats { all: true }));
    }

    #[test]
    fn what_is_no_command_line_is_refused() {
        for words in [
            &["status"][..],
            &["status", "s", "x"],
            &["rules-add", "s"],
            &["rules-add", "s", "-t", "1", "-u", "2"],
            &["rules-delete", "s"],
            &["rules-delete", "s", "--rule", "x"],
            &["flow-reset", "s"],
            &["flows", "s", "--port", "70000"],
            &["--json"],
        ] {
            assert!(parse(words.iter().map(OsString::from)).is_err(), "{words:?}");
        }
    }
}
