//! What has to happen, and is asked for again and again until it has.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
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

/// Leaves a socket at `path` at which nobody listens any more. A process that another test is just beginning holds a copy
/// of what was closed, until it runs its program.
///
/// # Panics
/// If there can be none.
pub fn leave_socket(path: &Path) {
    drop(UnixListener::bind(path).expect("a socket can be made there"));
    eventually("nobody listens any more", || UnixStream::connect(path).is_err());
}
