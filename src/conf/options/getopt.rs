//! What clap refuses, in the words of GNU getopt: other programs look for them.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::table;
use crate::conf::ConfError;

/// The refusal of the command line `words` of `program`.
pub(super) fn refusal(program: &str, words: &[OsString], error: &clap::Error) -> ConfError {
    let invalid = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    // "--mtu <MTU>", "-m <MTU>" or "--mtu": the option itself is the first word.
    let option = invalid.split(' ').next().unwrap_or_default();
    let option = match option.split_once('=') {
        Some((long, _)) if long.starts_with("--") => long,
        _ => option,
    };
    let problem = match error.kind() {
        ErrorKind::InvalidValue | ErrorKind::NoEquals | ErrorKind::TooFewValues => {
            lacks_argument(option, words)
        }
        ErrorKind::TooManyValues => format!("option '{option}' doesn't allow an argument"),
        _ => unknown(option, words),
    };
    ConfError::Usage { program: program.to_owned(), problem }
}

/// An option is the last word, but needs another; a short one stands for itself.
fn lacks_argument(option: &str, words: &[OsString]) -> String {
    let last = words.last().map(|word| word.to_string_lossy()).unwrap_or_default();
    let long = option.trim_start_matches('-');
    let definition = table::all().find(|definition| definition.long == long);
    match definition.and_then(|definition| definition.short) {
        Some(short) if !last.starts_with("--") => {
            format!("option requires an argument -- '{short}'")
        }
        _ => format!("option '{option}' requires an argument"),
    }
}

/// An option is none, or could be several.
fn unknown(option: &str, words: &[OsString]) -> String {
    let Some(prefix) = option.strip_prefix("--") else {
        let letter = option.trim_start_matches('-').chars().next();
        return match letter {
            Some(letter) => format!("invalid option -- '{letter}'"),
            None => format!("unrecognized option '{option}'"),
        };
    };
    let meant: Vec<_> = table::all().filter(|d| d.long.starts_with(prefix)).collect();
    if meant.len() > 1 && !prefix.is_empty() {
        let list: Vec<_> = meant.iter().map(|d| format!(" '--{}'", d.long)).collect();
        return format!("option '{option}' is ambiguous; possibilities:{}", list.concat());
    }
    let whole = words.iter().filter_map(|word| word.to_str()).find(|word| {
        word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    format!("unrecognized option '{}'", whole.unwrap_or(option))
}
