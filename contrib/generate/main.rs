//! Writes what follows from the option table: the manual pages in `man/` and the shell completions in
//! `contrib/completions/`. `cargo run --example generate` writes the files, and the tests below fail
//! where one of them is not what would be written.
//!
//! The manual page is `man/passt.1.in`, written by hand, with the options in the place of `@OPTIONS@`.
//! Names, arguments and modes of an option come from the table, and its text from `man/options.txt`.

mod arguments;
mod manual;
mod words;

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use clap_complete::Shell;
use passt::conf::{Mode, command, slirp4netns_command};
use passt::{ask, pesto};

/// The manual page of passt, in `man/`.
const MANUAL: &str = "passt.1";

/// The shells that there are completions for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// A file below the repository's root, and what it holds.
type File = (PathBuf, String);

fn main() -> io::Result<()> {
    for (path, text) in files() {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        fs::write(&path, text)?;
        println!("{}", path.display());
    }
    link_page()
}

/// pasta's manual page is passt's: a link, which `man -l` follows wherever it is.
fn link_page() -> io::Result<()> {
    let page = root().join("man/pasta.1");
    match fs::remove_file(&page) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(MANUAL, &page)?,
    }
    println!("{}", page.display());
    Ok(())
}

/// Everything that is generated.
fn files() -> Vec<File> {
    let man = root().join("man");
    let read = |name| fs::read_to_string(man.join(name)).expect("the repository has its sources");
    let page = manual::page(manual::Page {
        title: "PASST",
        sources: "man/passt.1.in, man/options.txt",
        template: &read("passt.1.in"),
        texts: &read("options.txt"),
        table: command(None),
        modes: manual::modes,
    });
    let of_pesto = manual::page(manual::Page {
        title: "PESTO",
        sources: "man/pesto.1.in, man/pesto.txt",
        template: &read("pesto.1.in"),
        texts: &read("pesto.txt"),
        table: pesto::command(),
        modes: |_| "",
    });
    let of_slirp4netns = manual::page(manual::Page {
        title: "PASTA-SLIRP4NETNS",
        sources: "man/pasta-slirp4netns.1.in, man/pasta-slirp4netns.txt",
        template: &read("pasta-slirp4netns.1.in"),
        texts: &read("pasta-slirp4netns.txt"),
        table: slirp4netns_command(),
        modes: |_| "",
    });
    let mut files = vec![
        (man.join(MANUAL), page),
        (man.join("pesto.1"), of_pesto),
        (man.join("pasta-slirp4netns.1"), of_slirp4netns),
    ];
    for shell in SHELLS {
        files.push(completion(whole_pesto(), shell));
    }
    for (name, mode) in [("passt", Mode::Stream), ("pasta", Mode::Pasta)] {
        for shell in SHELLS {
            files.push(completion(command(Some(mode)).name(name), shell));
        }
    }
    files
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// pesto with its options and its commands.
fn whole_pesto() -> clap::Command {
    pesto::command().subcommands(ask::command().get_subcommands().cloned())
}

fn completion(mut command: clap::Command, shell: Shell) -> File {
    let mut text = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, &name, &mut text);
    let text = String::from_utf8(text).expect("the table is UTF-8");
    let mut text = arguments::complete(shell, &command, &text);
    if name == "pasta" {
        text = words::complete(shell, &command, &text);
    }
    let file = match shell {
        Shell::Zsh => format!("_{name}"),
        Shell::Fish => format!("{name}.fish"),
        _ => format!("{name}.bash"),
    };
    (root().join("contrib/completions").join(file), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_files_are_what_the_option_table_gives() {
        for (path, text) in files() {
            let committed = fs::read_to_string(&path).unwrap_or_default();
            let name = path.display();
            assert!(committed == text, "{name} is old: run `cargo run --example generate`");
        }
        let page = fs::read_link(root().join("man/pasta.1"));
        assert_eq!(page.expect("it is a link"), Path::new(MANUAL));
    }

    #[test]
    fn interfaces_are_offered_where_one_is_wanted() {
        for (name, mode) in [("passt", Mode::Stream), ("pasta", Mode::Pasta)] {
            for (shell, offer, count) in [
                // Long and short, or long only: -i, --interface, --outbound-if4, --outbound-if6.
                (Shell::Bash, "/sys/class/net", 4),
                (Shell::Zsh, ":INTERFACE:_net_interfaces'", 4),
                (Shell::Fish, "__fish_print_interfaces", 3),
            ] {
                let (_, text) = completion(command(Some(mode)).name(name), shell);
                assert_eq!(text.matches(offer).count(), count, "{name}, {shell}");
            }
        }
    }

    #[test]
    fn behind_the_options_of_pasta_a_command_is_completed() {
        for (shell, wanted) in [
            (Shell::Bash, "_pasta_complete_command \"$command\""),
            (Shell::Zsh, "'*::WORDS:_normal'"),
            (Shell::Fish, "(__fish_pasta_complete_command)"),
        ] {
            let completed = |mode| completion(command(Some(mode)), shell).1;
            assert!(completed(Mode::Pasta).contains(wanted), "{shell}");
            assert!(!completed(Mode::Stream).contains(wanted), "{shell}");
        }
    }

    #[test]
    fn each_option_is_in_the_manual_and_in_the_completions() {
        let files = files();
        let text = |name: &str| {
            let found = files.iter().find(|(path, _)| path.ends_with(name));
            found.map(|(_, text)| text.as_str()).expect("it is generated")
        };
        for (mode, name) in [(Mode::Stream, "passt"), (Mode::Pasta, "pasta")] {
            for option in command(Some(mode)).get_arguments().filter_map(|arg| arg.get_long()) {
                let escaped = option.replace('-', "\\-");
                assert!(text("passt.1").contains(&format!("\\fB\\-\\-{escaped}\\fR")), "{option}");
                for file in [format!("{name}.bash"), format!("_{name}")] {
                    assert!(text(&file).contains(&format!("--{option}")), "{file}: {option}");
                }
                assert!(
                    text(&format!("{name}.fish")).contains(&format!("-l {option}")),
                    "{option}"
                );
            }
        }
    }

    #[test]
    fn each_option_and_command_of_pesto_is_in_the_completions() {
        for shell in SHELLS {
            let (path, text) = completion(whole_pesto(), shell);
            let options = pesto::command();
            let longs = options.get_arguments().filter_map(|arg| arg.get_long());
            let commands = whole_pesto();
            for word in longs.chain(commands.get_subcommands().map(clap::Command::get_name)) {
                assert!(text.contains(word), "{}: {word}", path.display());
            }
        }
    }
}
