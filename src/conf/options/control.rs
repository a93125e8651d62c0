//! Options of the sockets on which the running program is asked and changed.

use super::definition::{CONTROL_SOCKET, Definition, path, text};
use super::{ControlSocket, Options};

/// What they take.
const TAKES: &str = "a path, and ,mode=MODE with three octal digits";

/// Who may connect if nothing is said: the user whose program it is.
const USUAL_MODE: u32 = 0o600;

/// The options.
pub(super) const OPTIONS: &[Definition] = &[
    path(
        Some('c'),
        "conf-path",
        |o, path| o.run.conf_path = Some(path),
        "Socket on which pesto changes forwarded ports while the program runs",
    ),
    text(
        None,
        "control",
        CONTROL_SOCKET,
        control,
        TAKES,
        "Socket to ask what goes on and to change it, by pesto or with JSON; default mode: 600",
    ),
    text(None, "control-ro", CONTROL_SOCKET, control_ro, TAKES, "The same, to ask only"),
];

fn control(o: &mut Options, text: &str) -> Result<(), String> {
    o.run.control = Some(socket(text, "--control")?);
    Ok(())
}

fn control_ro(o: &mut Options, text: &str) -> Result<(), String> {
    o.run.control_ro = Some(socket(text, "--control-ro")?);
    Ok(())
}

/// `PATH` or `PATH,mode=MODE`. A path may have commas itself.
fn socket(text: &str, option: &str) -> Result<ControlSocket, String> {
    let (path, mode) = match text.rsplit_once(",mode=") {
        Some((path, mode)) => {
            let octal = mode.len() == 3 && mode.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
            let mode = u32::from_str_radix(mode, 8).ok().filter(|_| octal);
            (path, mode.ok_or_else(|| format!("Invalid mode in {option} {text}"))?)
        }
        None => (text, USUAL_MODE),
    };
    if path.is_empty() {
        return Err(format!("No path in {option} {text}"));
    }
    if let Some((_, word)) = path.rsplit_once(',').filter(|(_, word)| is_setting(word)) {
        return Err(format!("Invalid word {word} in {option} {text}"));
    }
    Ok(ControlSocket { path: path.into(), mode })
}

/// Whether what stands behind a comma was meant to set something, and is no part of a path.
fn is_setting(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, value)| (name, !value.contains('/')));
    matches!(name, Some((name, true)) if name.bytes().all(|letter| letter.is_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_have_a_mode() {
        for (text, path, mode) in [
            ("/run/x", "/run/x", 0o600),
            ("x,mode=660", "x", 0o660),
            ("a,b,mode=000", "a,b", 0),
            ("a,b=c/x", "a,b=c/x", 0o600),
            ("a=b,C=d", "a=b,C=d", 0o600),
            ("a,b", "a,b", 0o600),
        ] {
            assert_eq!(socket(text, "--control"), Ok(ControlSocket { path: path.into(), mode }));
        }
        for text in
            ["", ",mode=600", "x,mode=", "x,mode=60", "x,mode=0600", "x,mode=680", "x,mode=+60"]
        {
            assert!(socket(text, "--control").unwrap_err().contains("--control"), "{text}");
        }
        for (text, word) in [
            ("cc,mod=660", "mod=660"),
            ("c,foo=1", "foo=1"),
            ("c,foo=1,mode=660", "foo=1"),
            ("a,mode=777,mode=604", "mode=777"),
        ] {
            let said = format!("Invalid word {word} in --control {text}");
            assert_eq!(socket(text, "--control"), Err(said));
        }
    }
}
