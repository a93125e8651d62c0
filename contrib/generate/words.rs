//! What shells offer behind pasta's options: commands, then whatever the command's own completion says.
//! `clap_complete` offers the options of pasta there, which would be the command's.

use clap_complete::Shell;

/// Where bash finds the command. It splits words at `=` and `:`, and these are words, too.
const BASH: &str = r#"# Prints the index of the word at which the command begins, if there is one.
_pasta_command() {
    local i=1 word
    while ((i < COMP_CWORD)); do
        word=${COMP_WORDS[i]}
        if [[ $word == -- ]]; then
            ((i++))
            break
        elif [[ $word =~ ^-[@FLAGS@]*[@SHORTS@]$ || $word =~ ^--(@LONGS@)$ ]]; then
            # The option's argument, with all that bash has cut off.
            ((i++))
            [[ ${COMP_WORDS[i]} != = ]] || ((i++))
            while [[ ${COMP_WORDS[i]} == [=:]* || ${COMP_WORDS[i + 1]} == [=:]* ]]; do
                ((i++))
            done
        elif [[ $word != -* ]]; then
            break
        fi
        ((i++))
    done
    if ((i < COMP_CWORD)) || { ((i == COMP_CWORD)) && [[ ${COMP_WORDS[i - 1]} == -- ||
        ${COMP_WORDS[i]} == [!-]* ]]; }; then
        echo "$i"
    fi
}

# Completes the command that begins at word $1, as bash-completion does it if that is there.
_pasta_complete_command() {
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$1"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$1"
    elif ((COMP_CWORD == $1)); then
        COMPREPLY=($(compgen -c -- "${COMP_WORDS[COMP_CWORD]}"))
    else
        # -o bashdefault and -o default: files.
        COMPREPLY=()
    fi
}

_pasta() {
    local command
    command=$(_pasta_command)
    if [[ -n $command ]]; then
        _pasta_complete_command "$command"
        return
    fi
"#;

/// Of zsh, how `_arguments` is told: options end with the first other word.
const ZSH: &str = "'(-)1:COMMAND:_command_names -e' \\\n'*::WORDS:_normal' \\\n";

/// Of fish, what stands before the options.
const FISH: &str = r"# Prints the command's words up to the cursor; false if it does not begin before the word to complete.
function __fish_pasta_command
    set -l words (commandline -opc)[2..]
    while set -q words[1]
        switch $words[1]
            case --
                string join0 -- $words[2..] (commandline -ct)
                return 0
            case @OPTIONS@
                set words $words[2..]
            case '-*'
            case '*'
                string join0 -- $words (commandline -ct)
                return 0
        end
        set words $words[2..]
    end
    string join0 -- (commandline -ct)
    return 1
end

function __fish_pasta_has_no_command
    not __fish_pasta_command >/dev/null
end

function __fish_pasta_complete_command
    set -l words (__fish_pasta_command | string split0)
    string match -q -- '-*' $words[1]
    or __fish_complete_subcommand --commandline $words
end

";

/// The completions `text` of pasta's `command`, with those of the command behind the options.
pub fn complete(shell: Shell, command: &clap::Command, text: &str) -> String {
    match shell {
        Shell::Bash => {
            let shorts = |takes| shorts(command, takes).into_iter().collect::<String>();
            let prelude = BASH
                .replace("@FLAGS@", &shorts(false))
                .replace("@SHORTS@", &shorts(true))
                .replace("@LONGS@", &longs(command).join("|"));
            text.replacen("_pasta() {\n", &prelude, 1)
        }
        Shell::Zsh => text.replace("'*::WORDS:_cmdambivalent' \\\n", ZSH),
        Shell::Fish => in_fish(command, text),
        _ => text.to_owned(),
    }
}

fn in_fish(command: &clap::Command, text: &str) -> String {
    let shorts = shorts(command, true).into_iter().map(|short| format!("-{short}"));
    let longs = longs(command).into_iter().map(|long| format!("--{long}"));
    let options = shorts.chain(longs).collect::<Vec<_>>().join(" ");
    format!(
        "{}{}complete -c pasta -f -a \"(__fish_pasta_complete_command)\"\n",
        FISH.replace("@OPTIONS@", &options),
        text.replace("complete -c pasta ", "complete -c pasta -n __fish_pasta_has_no_command "),
    )
}

/// Letters of the options that take an argument, or that take none.
fn shorts(command: &clap::Command, takes: bool) -> Vec<char> {
    let all = command.get_arguments().filter(|arg| takes_argument(arg) == takes);
    all.filter_map(clap::Arg::get_short).collect()
}

/// Long names of the options that take an argument.
fn longs(command: &clap::Command) -> Vec<&str> {
    let all = command.get_arguments().filter(|arg| takes_argument(arg));
    all.filter_map(clap::Arg::get_long).collect()
}

fn takes_argument(option: &clap::Arg) -> bool {
    option.get_num_args().is_some_and(|count| count.takes_values())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// What bash offers for a line: `shell` is run before, and the last word is the one to complete.
    fn offered(shell: &str, words: &[&str]) -> Vec<String> {
        let script = format!(
            "{shell}\n. contrib/completions/pasta.bash\n\
             COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_LINE=$*; COMP_POINT=${{#COMP_LINE}}\n\
             compopt() {{ :; }}\n\
             _pasta pasta \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        );
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", &script, "bash", "pasta"]).args(words);
        let output = bash.current_dir(super::super::root()).output().expect("bash is there");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        text.lines().map(str::to_owned).collect()
    }

    /// Stands for bash-completion: says at which word the command begins.
    const OFFSET: &str = "_command_offset() { COMPREPLY=(\"at $1\"); }";

    #[test]
    fn in_bash_the_command_is_found_behind_the_options() {
        for (words, at) in [
            (&["--", ""][..], 2),
            (&["--", "--h"], 2),
            (&["ls"], 1),
            (&["ls", ""], 1),
            (&["ls", "-"], 1),
            (&["--config-net", "--", "ls", "--he"], 3),
            (&["-t", "80", "ls", "-"], 3),
            (&["-t", "8080", ":", "80", "ls", "-"], 5),
            (&["-t", "::", "1/22", ":", "22", "ls", "-"], 6),
            (&["--pid", "=", "/x", "ls", ""], 4),
            (&["--tcp-ports", "=", "1", ":", "2", "--", "ls", ""], 7),
            (&["-4ft", "80", "ls", ""], 3),
            (&["-t80", "ls", ""], 2),
        ] {
            assert_eq!(offered(OFFSET, words), [format!("at {at}")], "{words:?}");
        }
    }

    #[test]
    fn in_bash_options_are_offered_before_the_command_only() {
        for words in [&["--conf"][..], &["-4", "--conf"], &["-t", "80", ":", "81", "--conf"]] {
            for shell in ["", OFFSET] {
                let found = offered(shell, words);
                assert!(found.iter().any(|word| word == "--config-net"), "{words:?}: {found:?}");
            }
        }
        // An option's argument is no command.
        assert!(!offered(OFFSET, &["--pid", ""]).iter().any(|word| word.starts_with("at ")));
        // Without bash-completion, there are commands, and then bash's default, which is files.
        assert!(offered("", &["--", "tru"]).iter().any(|word| word == "true"));
        assert_eq!(offered("", &["--", "true", "--"]), [""]);
    }
}
