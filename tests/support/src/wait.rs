//! What has to happen, and is asked for again and again until it has.

use std::time::{Duration, Instant};

/// When to give up on something that does not happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(2);

/// Waits until `done` says what it found.
///
/// # Panics
/// If that takes longer than [`PATIENCE`]; the message is about `what`.
pub fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// As [`until`] does.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}
