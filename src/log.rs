//! Where messages go: one line each to standard error. With `--debug` lines start with the seconds
//! since start. Nothing is printed to standard output, which belongs to `--help` and `--version`.

use std::io::Write;
use std::time::Instant;

use log::{LevelFilter, Metadata, Record};

struct Stderr {
    start: Instant,
    timestamps: bool,
}

impl log::Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut stderr = std::io::stderr().lock();
        // A reader that is gone is no reason to stop.
        let _ = if self.timestamps {
            let at = self.start.elapsed();
            let (s, ticks) = (at.as_secs(), at.subsec_micros() / 100);
            writeln!(stderr, "{s}.{ticks:04}: {}", record.args())
        } else {
            writeln!(stderr, "{}", record.args())
        };
    }

    fn flush(&self) {}
}

/// Sends messages of `level` and above to standard error from now on. Later calls are ignored.
pub fn init(level: LevelFilter) {
    let timestamps = level >= LevelFilter::Debug;
    let sink = Box::new(Stderr { start: Instant::now(), timestamps });
    if log::set_boxed_logger(sink).is_ok() {
        log::set_max_level(level);
    }
}
