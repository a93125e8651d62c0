//! From words to [`Options`]: clap splits the words by the table, the effects run in order, and
//! what clap refuses is said in GNU getopt's words.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, value_parser};

use super::table::{Definition, Effect, Scope, TABLE};
use super::{Command, Ending, Mode, Options};
use crate::conf::{ConfError, pasta};

/// Where words that are no options end up.
const EXTRA: &str = "EXTRA";

/// Columns of the help text.
const HELP_WIDTH: usize = 100;

/// Most options on a command line; far beyond what one can type, and a bound for what we keep.
const MAX_WORDS: usize = 65536;

/// Reads the command line, program name first.
///
/// # Errors
/// The first thing wrong with it. Everything that depends on the host is checked later.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, ConfError> {
    let words: Vec<OsString> = args.take(MAX_WORDS).collect();
    let name = words.first().map(|word| base_name(word)).unwrap_or_default();
    let mut options = Options { mode: mode(&words, &name)?, ..Options::default() };

    let matches = command(None)
        .try_get_matches_from(&words)
        .map_err(|error| gnu_error(&name, &words, options.mode, &error))?;
    for (definition, word) in in_order(&matches) {
        if !definition.applies(options.mode) {
            return Err(out_of_place(definition));
        }
        apply(definition, &word, &mut options)?;
        if let Some(ending) = options.ending {
            return Ok(answer(ending, options.mode));
        }
    }
    let mut words = matches.get_raw(EXTRA).into_iter().flatten();
    if options.mode == Mode::Pasta {
        options.pasta.words.extend(words.map(OsStr::to_owned));
        if pasta::spawns(&options.pasta) {
            // The terminal belongs to the command.
            options.run.foreground = true;
            options.run.quiet = !options.run.debug;
        }
    } else if let Some(extra) = words.next() {
        return Err(ConfError::ExtraArgument(extra.to_string_lossy().into_owned()));
    }
    if options.netmask.is_some() && matches!(options.address_v4, Some((_, Some(_)))) {
        return Err(ConfError::RedundantPrefix);
    }
    Ok(Command::Run(Box::new(options)))
}

/// The program's name without its folder.
fn base_name(word: &OsStr) -> String {
    std::path::Path::new(word)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// `--vhost-user` anywhere wins; else the program's name decides.
fn mode(words: &[OsString], name: &str) -> Result<Mode, ConfError> {
    if words.iter().skip(1).any(|word| word == "--vhost-user") {
        Ok(Mode::VhostUser)
    } else if name.contains("pasta") {
        Ok(Mode::Pasta)
    } else if name.contains("passt") {
        Ok(Mode::Stream)
    } else {
        Err(ConfError::Mode)
    }
}

/// What is said of an option of another mode.
fn out_of_place(definition: &Definition) -> ConfError {
    let option = match definition.short {
        Some(short) => format!("-{short}"),
        None => format!("--{}", definition.long),
    };
    let modes = match (definition.scope, definition.short) {
        (Scope::Pasta, _) => "pasta mode",
        (_, Some('s' | 'F')) => "passt / vhost-user mode",
        (_, Some('1')) => return ConfError::OutOfPlace("--one-off is for passt mode only".into()),
        _ => "passt mode",
    };
    ConfError::OutOfPlace(format!("{option} is for {modes} only"))
}

/// The table as clap wants it: all of it, or what applies to one mode.
fn command(mode: Option<Mode>) -> clap::Command {
    let pasta = mode == Some(Mode::Pasta);
    let (usage, about) = if pasta {
        (
            "pasta [OPTION]... [COMMAND [ARG]...]\n       pasta [OPTION]... PID\n       pasta [OPTION]... --netns [PATH|NAME]",
            "Connects a network namespace to the network of the host, without privileges.",
        )
    } else {
        (
            "passt [OPTION]...",
            "Connects a virtual machine to the network of the host, without privileges.",
        )
    };
    let applies = |definition: &&Definition| mode.is_none_or(|mode| definition.applies(mode));
    let extra = Arg::new(EXTRA)
        .num_args(0..)
        .trailing_var_arg(true)
        .hide(true)
        .value_parser(value_parser!(OsString));
    clap::Command::new("passt")
        .override_usage(usage)
        .about(about)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args_override_self(true)
        .infer_long_args(true)
        .term_width(HELP_WIDTH)
        .args(TABLE.iter().filter(applies).map(argument))
        .arg(extra)
}

fn argument(definition: &Definition) -> Arg {
    let arg = Arg::new(definition.long).long(definition.long).help(definition.help);
    let arg = match definition.short {
        Some(short) => arg.short(short),
        None => arg,
    };
    let arg = match definition.alias {
        Some(alias) => arg.visible_alias(alias),
        None => arg,
    };
    match definition.effect {
        Effect::Flag(_) => arg.action(ArgAction::SetTrue),
        Effect::Text(name, ..) | Effect::Path(name, _) => arg
            .action(ArgAction::Append)
            .value_name(name)
            .value_parser(value_parser!(OsString))
            .allow_hyphen_values(true),
    }
}

/// Options as they stand on the command line, with their arguments. Of a repeated flag the last
/// one counts.
fn in_order(matches: &ArgMatches) -> Vec<(&'static Definition, OsString)> {
    let mut found = Vec::new();
    for definition in TABLE {
        if matches.value_source(definition.long) != Some(ValueSource::CommandLine) {
            continue;
        }
        let places = matches.indices_of(definition.long).into_iter().flatten();
        let words = matches.get_raw(definition.long).into_iter().flatten();
        found.extend(places.zip(words).map(|(place, word)| (place, definition, word.to_owned())));
    }
    found.sort_by_key(|(place, ..)| *place);
    found.into_iter().map(|(_, definition, word)| (definition, word)).collect()
}

fn apply(definition: &Definition, word: &OsStr, options: &mut Options) -> Result<(), ConfError> {
    match definition.effect {
        Effect::Flag(effect) => effect(options),
        Effect::Path(_, effect) => effect(options, word.into()),
        Effect::Text(_, effect, takes) => {
            let refused = |message| ConfError::Value { option: definition.long, message, takes };
            let text = word.to_str().ok_or_else(|| {
                refused(format!("Argument of --{} is not UTF-8", definition.long))
            })?;
            effect(options, text).map_err(refused)?;
        }
    }
    Ok(())
}

fn answer(ending: Ending, mode: Mode) -> Command {
    let name = if mode == Mode::Pasta { "pasta" } else { "passt" };
    match ending {
        Ending::Help => Command::Help(help(mode)),
        Ending::Version => Command::Version(format!(
            "{name} {}\n\
             Licensed under Apache-2.0 or MIT, at your option.\n\
             There is NO WARRANTY, to the extent permitted by law.\n",
            env!("CARGO_PKG_VERSION")
        )),
        Ending::Capabilities => Command::Capabilities("{\n  \"type\": \"net\"\n}\n".to_owned()),
    }
}

fn help(mode: Mode) -> String {
    command(Some(mode)).render_help().to_string()
}

/// What clap refuses, in getopt's words.
fn gnu_error(program: &str, words: &[OsString], mode: Mode, error: &clap::Error) -> ConfError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    // "--mtu <MTU>", "-m <MTU>" or "--mtu": the option itself is the first word.
    let invalid = context(ContextKind::InvalidArg);
    let option = invalid.split([' ', '=']).next().unwrap_or_default();
    let problem = match error.kind() {
        ErrorKind::InvalidValue | ErrorKind::NoEquals | ErrorKind::TooFewValues => {
            lacks_argument(option, words)
        }
        ErrorKind::TooManyValues => format!("option '{option}' doesn't allow an argument"),
        _ => unknown(option, words),
    };
    ConfError::Usage { program: program.to_owned(), problem, usage: help(mode) }
}

/// getopt's words for an option that is the last word, but needs another; a short one stands for
/// itself.
fn lacks_argument(option: &str, words: &[OsString]) -> String {
    let last = words.last().map(|word| word.to_string_lossy()).unwrap_or_default();
    let long = option.trim_start_matches('-');
    let definition = TABLE.iter().find(|definition| definition.long == long);
    match definition.and_then(|definition| definition.short) {
        Some(short) if !last.starts_with("--") => {
            format!("option requires an argument -- '{short}'")
        }
        _ => format!("option '{option}' requires an argument"),
    }
}

/// getopt's words for an option that is none, or that could be several.
fn unknown(option: &str, words: &[OsString]) -> String {
    let Some(prefix) = option.strip_prefix("--") else {
        let letter = option.trim_start_matches('-').chars().next();
        return match letter {
            Some(letter) => format!("invalid option -- '{letter}'"),
            None => format!("unrecognized option '{option}'"),
        };
    };
    let meant: Vec<_> = TABLE.iter().filter(|d| d.long.starts_with(prefix)).collect();
    if meant.len() > 1 && !prefix.is_empty() {
        let list: Vec<_> = meant.iter().map(|d| format!(" '--{}'", d.long)).collect();
        return format!("option '{option}' is ambiguous; possibilities:{}", list.concat());
    }
    let whole = words.iter().filter_map(|word| word.to_str()).find(|word| {
        word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    format!("unrecognized option '{}'", whole.unwrap_or(option))
}
