//! Tests that cannot do here what they are for. That is said past the harness, which shows nothing of a test that passes;
//! `tests/run` counts these lines, and repeats them at its end.

use std::io::Write;

/// What such a line begins with: no more is proven on this machine, and for this user.
const SKIPPED: &str = "SKIPPED:";
const NEEDS_ROOT: &str = "NEEDS ROOT:";

/// Says that the calling test, or a part of it, proves nothing on this machine, and why. That is no failure, in CI neither: it
/// is for what a kernel lacks, or a policy forbids. What can be installed is `tests/run`'s to install, and to miss.
pub fn skipped(why: &str) {
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const INSIDE: &str = "PASST_TEST_SKIPS";

    #[test]
    fn what_a_kernel_lacks_is_said_and_fails_no_run() {
        if std::env::var_os(INSIDE).is_some() {
            return skipped("it lacks something");
        }
        let mut command = Command::new(std::env::current_exe().expect("the test knows its path"));
        let name = std::thread::current().name().expect("a test has one").to_owned();
        let output = command.args(["--exact", &name]).env(INSIDE, "1").env("CI", "true").output();
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(said, format!("SKIPPED: {name}: it lacks something\n"));
    }
}
