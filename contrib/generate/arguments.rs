//! What shells offer for the argument of an option, where `clap_complete` cannot say it: interfaces of
//! this host, names of network namespaces, and in bash users, and files as bash itself does it.

use std::collections::BTreeSet;

use clap_complete::Shell;

/// How the shells list something.
struct Listing {
    /// The argument's name in the help.
    argument: &'static str,
    /// What is done about the word `${cur}`.
    bash: &'static str,
    /// Where `clap_complete` does not know of it.
    others: Option<Others>,
}

struct Others {
    /// What `clap_complete` writes, and what stands in its place.
    zsh: (&'static str, &'static str),
    fish: (&'static str, &'static str),
}

/// A word without a slash is a name in that folder, and not a file in this one.
const NAMESPACES_ZSH: &str =
    "{if [[ $PREFIX = */* ]]; then _files; else compadd -- /run/netns/*(N\\:t); fi}";
const NAMESPACES_FISH: &str = "-r -f -a \"(if string match -q '*/*' -- (commandline -ct); \
                               __fish_complete_path (commandline -ct); else; \
                               command ls /run/netns 2>/dev/null; end)\"";

/// Of bash, what stands before the options of a program.
const BASH: &str = r#"# Completes the name of a file. A folder's goes on, and blanks belong to it.
_@NAME@_files() {
    local IFS=$'\n'
    COMPREPLY=($(compgen -f -- "$1"))
    [[ "${BASH_VERSINFO[0]}" -lt 4 ]] || compopt -o filenames
}

"#;

/// The same of pasta.
const BASH_NAMESPACES: &str = r#"# Completes a network namespace: a path, or a name in /run/netns, and then no file of this folder.
_pasta_namespaces() {
    if [[ $1 == */* ]]; then
        _pasta_files "$1"
    else
        [[ "${BASH_VERSINFO[0]}" -lt 4 ]] || compopt +o default +o bashdefault
        COMPREPLY=($(compgen -W "$(ls /run/netns 2>/dev/null)" -- "$1"))
    fi
}

"#;

const LISTINGS: &[Listing] = &[
    Listing {
        argument: "INTERFACE",
        bash: r#"COMPREPLY=($(compgen -W "$(ls /sys/class/net)" -- "${cur}"))"#,
        others: Some(Others {
            zsh: ("", "_net_interfaces"),
            fish: ("-r -f", "-r -f -a \"(__fish_print_interfaces)\""),
        }),
    },
    Listing {
        argument: "PATH|NAME",
        bash: r#"_pasta_namespaces "${cur}""#,
        others: Some(Others { zsh: ("_files", NAMESPACES_ZSH), fish: ("-r -F", NAMESPACES_FISH) }),
    },
    Listing { argument: "USER", bash: r#"COMPREPLY=($(compgen -u -- "${cur}"))"#, others: None },
];

/// The completions `text` of `command`, with what [`LISTINGS`] has.
pub fn complete(shell: Shell, command: &clap::Command, text: &str) -> String {
    let listed = list(shell, command, text);
    if shell != Shell::Bash {
        return listed;
    }
    let name = command.get_name();
    let files = format!("_{name}_files \"${{cur}}\"");
    let more = if listed.contains("_pasta_namespaces ") { BASH_NAMESPACES } else { "" };
    let listed = listed.replace("COMPREPLY=($(compgen -f \"${cur}\"))", &files);
    format!("{}{more}{listed}", BASH.replace("@NAME@", name))
}

fn list(shell: Shell, command: &clap::Command, text: &str) -> String {
    LISTINGS.iter().fold(text.to_owned(), |text, listing| {
        let options = options(command, listing.argument);
        match (shell, &listing.others) {
            (Shell::Bash, _) => in_bash(&text, &options, listing.bash),
            (Shell::Zsh, Some(others)) => {
                let (old, new) = others.zsh;
                let argument = listing.argument;
                text.replace(&format!(":{argument}:{old}'"), &format!(":{argument}:{new}'"))
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
            lines.push_str(&format!("{indent}{listing}\n"));
            continue;
        }
        wanted = word.strip_suffix(')').is_some_and(|option| options.contains(option));
        lines.push_str(line);
        lines.push('\n');
    }
    lines
}

/// In fish each option is a line.
fn in_fish(
    text: &str,
    options: &BTreeSet<String>,
    (old, new): (&'static str, &'static str),
) -> String {
    let long = |line: &str| {
        let word = line.split(' ').skip_while(|word| *word != "-l").nth(1)?;
        options.contains(&format!("--{word}")).then_some(())
    };
    let line = |line: &str| match long(line) {
        Some(()) => format!("{}\n", line.replace(old, new)),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    /// What bash offers for the last of `words` of pasta, in a folder with `file` and `folder`; options that
    /// the completion sets come first.
    fn offered(words: &[&str]) -> Vec<String> {
        let place = tempfile::tempdir().expect("a folder");
        fs::write(place.path().join("file of ours"), "").expect("a file");
        fs::create_dir(place.path().join("folder")).expect("a folder");
        let script = format!(
            ". {}/contrib/completions/pasta.bash\n\
             COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_LINE=$*; COMP_POINT=${{#COMP_LINE}}\n\
             compopt() {{ local IFS=' '; printf '%s\\n' \"$*\"; }}\n\
             _pasta pasta \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\" | sort",
            super::super::root().display()
        );
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", &script, "bash", "pasta"]).args(words);
        let output = bash.current_dir(place.path()).output().expect("bash is there");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    #[test]
    fn in_bash_files_are_names_that_may_go_on() {
        for option in ["--pid", "-P", "--log-file", "--userns"] {
            assert_eq!(offered(&[option, "f"]), ["-o filenames", "file of ours", "folder"]);
        }
        assert_eq!(offered(&["--pid", "./fo"]), ["-o filenames", "./folder"]);
    }

    #[test]
    fn in_bash_a_namespace_is_a_path_or_a_name() {
        assert_eq!(offered(&["--netns", "./f"]), ["-o filenames", "./file of ours", "./folder"]);
        // Nor is anything offered in place of nothing.
        assert_eq!(offered(&["--netns", "f"]), ["+o default +o bashdefault", ""]);
    }
}
