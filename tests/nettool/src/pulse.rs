//! How long this machine stood still. A guest without a processor of its own is left waiting when the
//! host is busy: its clock goes on, its programs and its kernel do not, and its timers are late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The time between two beats on a machine with nothing else to do.
const BEAT: Duration = Duration::from_millis(10);

/// A thread that wakes up again and again.
pub struct Pulse {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Pulse {
    /// Starts it.
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            loop {
                thread::sleep(BEAT);
                let now = Instant::now();
                longest = longest.max(now - last);
                last = now;
                if stopped.load(Ordering::Relaxed) {
                    return longest;
                }
            }
        });
        Self { stop, thread }
    }

    /// The longest time between two beats.
    pub fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_is_the_least_that_is_told() {
        assert!(Pulse::start().stop() >= BEAT);
    }
}
