//! What shells offer for the argument of an option, where `clap_complete` cannot say it: interfaces of
//! this host, and in bash users.

use std::collections::BTreeSet;

use clap_complete::Shell;

/// How the shells list something.
struct Listing {
    /// The argument's name in the help.
    argument: &'static str,
    bash: &'static str,
    /// Where `clap_complete` does not know of it.
    others: Option<Others>,
}

struct Others {
    zsh: &'static str,
    fish: &'static str,
}

const LISTINGS: &[Listing] = &[
    Listing {
        argument: "INTERFACE",
        bash: r#"$(compgen -W "$(ls /sys/class/net)" -- "${cur}")"#,
        others: Some(Others { zsh: "_net_interfaces", fish: "(__fish_print_interfaces)" }),
    },
    Listing { argument: "USER", bash: r#"$(compgen -u -- "${cur}")"#, others: None },
];

/// The completions `text` of `command`, with what [`LISTINGS`] has.
pub fn complete(shell: Shell, command: &clap::Command, text: &str) -> String {
    LISTINGS.iter().fold(text.to_owned(), |text, listing| {
        let options = options(command, listing.argument);
        match (shell, &listing.others) {
            (Shell::Bash, _) => in_bash(&text, &options, listing.bash),
            (Shell::Zsh, Some(others)) => {
                let empty = format!(":{}:'", listing.argument);
                text.replace(&empty, &format!(":{}:{}'", listing.argument, others.zsh))
            }
            (Shell::Fish, Some(others)) => in_fish(&text, &options, others.fish),
            _ => text,
        }
    })
}

/// The options, as they are written, whose argument has this name.
fn options(command: &clap::Command, argument: &str) -> BTreeSet<String> {
    let takes = |arg: &&clap::Arg| {
        arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == argument))
    };
    let written = |arg: &clap::Arg| {
        let long = arg.get_long().map(|long| format!("--{long}"));
        let short = arg.get_short().map(|short| format!("-{short}"));
        long.into_iter().chain(short)
    };
    command.get_arguments().filter(takes).flat_map(written).collect()
}

/// In bash each option is a case of one line.
fn in_bash(text: &str, options: &BTreeSet<String>, listing: &str) -> String {
    let mut wanted = false;
    let mut lines = String::new();
    for line in text.lines() {
        let (indent, word) = line.split_at(line.len() - line.trim_start().len());
        if std::mem::take(&mut wanted) && word.starts_with("COMPREPLY=") {
            lines.push_str(&format!("{indent}COMPREPLY=({listing})\n"));
            continue;
        }
        wanted = word.strip_suffix(')').is_some_and(|option| options.contains(option));
        lines.push_str(line);
        lines.push('\n');
    }
    lines
}

/// In fish each option is a line.
fn in_fish(text: &str, options: &BTreeSet<String>, listing: &str) -> String {
    let long = |line: &str| {
        let word = line.split(' ').skip_while(|word| *word != "-l").nth(1)?;
        options.contains(&format!("--{word}")).then_some(())
    };
    let line = |line: &str| match long(line) {
        Some(()) => format!("{line} -a \"{listing}\"\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}
