//! Tests that cannot do here what they are for. That is said past the harness, which shows nothing of a test that passes;
//! `tests/run` counts these lines, and repeats them at its end.

use std::io::Write;

/// What such a line begins with: no more is proven on this machine, and for this user.
const SKIPPED: &str = "SKIPPED:";
const NEEDS_ROOT: &str = "NEEDS ROOT:";

/// Says that the calling test, or a part of it, proves nothing on this machine, and why.
///
/// # Panics
/// Where the environment says `CI=true`: there nothing may be missing.
pub fn skipped(why: &str) {
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!in_ci, "skipped, and CI=true: {why}");
    say(SKIPPED, why);
}

/// Says that the calling test, or a part of it, is for the machine's root, who runs the tests, too.
pub fn needs_root(what: &str) {
    say(NEEDS_ROOT, what);
}

fn say(word: &str, text: &str) {
    let thread = std::thread::current();
    tell(&format!("{word} {}: {text}", thread.name().unwrap_or("a test")));
}

/// Repeats what a test has said in a process of its own.
pub(crate) fn repeat(errors: &str) {
    for line in errors.lines() {
        if let Some(at) = line.find(SKIPPED).or_else(|| line.find(NEEDS_ROOT)) {
            tell(&line[at..]);
        }
    }
}

/// The macros would have the harness keep it.
fn tell(line: &str) {
    let _nobody_reads = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
