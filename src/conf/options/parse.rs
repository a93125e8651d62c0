//! From words to [`Options`]: clap splits the words by the table, and the effects run in the order
//! of the command line. Like getopt, which stops where it does not understand, they run up to the
//! word that clap refuses: `--version --no-such-option` prints the version.

use std::ffi::{OsStr, OsString};

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::command::{self, WORDS, command};
use super::definition::{Definition, Effect, Scope};
use super::{Command, Ending, HAS_VHOST_USER, Mode, Options, Question, getopt, table};
use crate::conf::{ConfError, pasta, slirp4netns};

/// Most words on a command line; far beyond what one can type, and a bound for what we keep.
const MAX_WORDS: usize = 65536;

/// Reads the command line, program name first.
///
/// # Errors
/// The first thing wrong with it. Everything that depends on the host is checked later. Under the name of slirp4netns
/// other options are read.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, ConfError> {
    let words: Vec<OsString> = args.take(MAX_WORDS).collect();
    let name = words.first().map(|word| base_name(word)).unwrap_or_default();
    if name.contains(slirp4netns::NAME) {
        return slirp4netns::parse(&words);
    }
    let (matches, refused) = split(&words);
    let mode = mode(&matches, &name)?;
    let mut options = Options { mode, ..Options::default() };
    for (definition, word) in in_order(&matches) {
        apply(definition, &word, &mut options)?;
        if let Some(ending) = options.ending {
            return answer(ending, mode);
        }
    }
    if let Some(error) = refused {
        return Err(getopt::refusal(&name, &words, &error));
    }
    if options.check {
        let words = matches.get_raw(WORDS).into_iter().flatten().map(OsStr::to_owned);
        return check(&options, words.collect());
    }
    if options.json {
        return Err(ConfError::JsonWithoutCheck);
    }
    words_behind(&matches, &mut options)?;
    if options.run.stats.is_some() && !options.run.foreground {
        return Err(ConfError::StatsInBackground);
    }
    if options.netmask.is_some() && matches!(options.address_v4, Some((_, Some(_)))) {
        return Err(ConfError::RedundantPrefix);
    }
    Ok(Command::Run(Box::new(options)))
}

/// `--check`, with the command line of a front-end behind the options.
fn check(options: &Options, front_end: Vec<OsString>) -> Result<Command, ConfError> {
    if let (Mode::Pasta, Some(extra)) = (options.mode, front_end.first()) {
        return Err(extra_argument(extra, options.mode));
    }
    Ok(Command::Check(Question {
        mode: options.mode,
        json: options.json,
        run_as: options.run.run_as.clone(),
        keep_root: options.mode == Mode::Pasta && options.pasta.netns_only,
        chroot_fallback: options.run.chroot_fallback,
        front_end,
    }))
}

/// What the words mean, as far as they can be understood, and why not further.
fn split(words: &[OsString]) -> (ArgMatches, Option<clap::Error>) {
    match command(None).try_get_matches_from(words) {
        Ok(matches) => (matches, None),
        Err(error) => {
            let lenient = command(None).ignore_errors(true).try_get_matches_from(words);
            (lenient.unwrap_or_default(), Some(error))
        }
    }
}

/// The program's name without its folder.
fn base_name(word: &OsStr) -> String {
    std::path::Path::new(word)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// `--vhost-user` wins wherever it stands; else the program's name decides.
fn mode(matches: &ArgMatches, name: &str) -> Result<Mode, ConfError> {
    if matches.contains_id("vhost-user") {
        if HAS_VHOST_USER { Ok(Mode::VhostUser) } else { Err(ConfError::NoVhostUser) }
    } else if name.contains("pasta") {
        Ok(Mode::Pasta)
    } else if name.contains("passt") {
        Ok(Mode::Stream)
    } else {
        Err(ConfError::Mode)
    }
}

/// Options as they stand on the command line, with their arguments.
fn in_order(matches: &ArgMatches) -> Vec<(&'static Definition, OsString)> {
    let mut found = Vec::new();
    for definition in table::all() {
        // Who asks clap about an option that it was not told of makes it panic.
        if !matches!(
            matches.try_contains_id(definition.long),
            Ok(true) if matches.value_source(definition.long) == Some(ValueSource::CommandLine)
        ) {
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
    if definition.is_idle(word) && !definition.applies(options.mode) {
        return Ok(());
    }
    if !definition.applies(options.mode) {
        return Err(out_of_place(definition, options.mode));
    }
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

/// What is said of an option of another mode.
fn out_of_place(definition: &Definition, mode: Mode) -> ConfError {
    let option = match definition.short {
        Some('1') | None => format!("--{}", definition.long),
        Some(short) => format!("-{short}"),
    };
    let modes = match (definition.scope, definition.short) {
        (Scope::Pasta, _) => "pasta mode",
        (Scope::VhostUser, _) => "vhost-user mode",
        (_, Some('s')) => "passt / vhost-user mode",
        _ => "passt mode",
    };
    let cure = match definition.scope {
        Scope::Pasta if mode == Mode::VhostUser => {
            "Leave it out, or start the program as pasta and without --vhost-user"
        }
        Scope::Pasta => "Leave it out, or start the program as pasta",
        Scope::VhostUser if HAS_VHOST_USER => "Leave it out, or add --vhost-user",
        Scope::VhostUser => "Leave it out: vhost-user is not in builds for processors of 32 bits",
        Scope::Passt | Scope::All => "Leave it out, or start the program as passt",
    };
    ConfError::OutOfPlace { message: format!("{option} is for {modes} only"), cure }
}

/// The words behind the options: pasta's target, and an error for the others.
fn words_behind(matches: &ArgMatches, options: &mut Options) -> Result<(), ConfError> {
    let mut words = matches.get_raw(WORDS).into_iter().flatten();
    if options.mode == Mode::Pasta {
        options.pasta.words.extend(words.map(OsStr::to_owned));
        if pasta::spawns(&options.pasta) {
            // The terminal belongs to the command.
            options.run.foreground = true;
        }
    } else if let Some(extra) = words.next() {
        return Err(extra_argument(extra, options.mode));
    }
    Ok(())
}

fn extra_argument(argument: &OsStr, mode: Mode) -> ConfError {
    ConfError::ExtraArgument { argument: argument.to_string_lossy().into_owned(), mode }
}

/// Who asks for capabilities, looks for a back-end of vhost-user.
fn answer(ending: Ending, mode: Mode) -> Result<Command, ConfError> {
    Ok(match ending {
        Ending::Help => Command::Help(command::help(mode)),
        Ending::Version => Command::Version(command::version(mode)),
        Ending::Capabilities if !HAS_VHOST_USER => return Err(ConfError::NoVhostUser),
        Ending::Capabilities => Command::Capabilities("{\n  \"type\": \"net\"\n}\n".to_owned()),
    })
}
