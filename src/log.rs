//! Where messages go: standard error, the system's log, or a file. One line each. Nothing is printed to
//! standard output, which belongs to `--help` and `--version`.
//!
//! * Until the options are known, and in the foreground: standard error.
//! * In the background: the system's log, from the first message on, and standard error as long as it
//!   is there. A command that pasta starts gets standard error for itself; from then on it is the same.
//! * With a log file: the file in place of the system's log.
//! * With `--debug`: standard error, with seconds since start, or the file, and never the system's
//!   log. A command that pasta starts shares standard error then, if there is no file: messages that were asked for are
//!   to be seen. In the background without a file these messages are lost.
//!
//! Once options are known, messages are limited in number (`line_rate`). Who asks for debug messages gets all of those: one
//! for each flow is what is asked for. What is said without asking stays limited, or a client that connects again and
//! again fills the log. How many were withheld is said with the next one, or once there are none for a while
//! ([`tell_withheld`]), or at the end. Errors of system calls are told in words: the number that Rust adds is taken out.

mod file;
mod line_rate;
mod syslog;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Metadata, Record};

use crate::sys::errno;
use crate::sys::shared_folder::Successor;
use file::LogFile;
use line_rate::LineRate;
use syslog::Syslog;

/// Most bytes of a message.
const LINE_BYTES: usize = 4096;

/// What Rust puts between the words for an error and its number.
const NUMBER: &str = " (os error ";

/// What to do with messages from now on.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Messages of this level and above.
    pub(crate) level: LevelFilter,
    /// `passt` or `pasta`.
    pub(crate) program: &'static str,
    /// The process stays in the foreground.
    pub(crate) foreground: bool,
    /// Log file and its limit in bytes.
    pub(crate) file: Option<(PathBuf, u64)>,
}

/// The log file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("Couldn't open log file {path}: {source}: choose another --log-file")]
pub(crate) struct LogFileError {
    path: PathBuf,
    source: std::io::Error,
}

static SINK: Sink = Sink { start: OnceLock::new(), state: Mutex::new(State::new()) };

/// Messages were withheld of which nothing was said yet.
static WITHHELD: AtomicBool = AtomicBool::new(false);

struct Sink {
    start: OnceLock<Instant>,
    state: Mutex<State>,
}

/// Where messages go at the moment.
struct State {
    /// `None` lets all messages pass: before options are known.
    rate: Option<LineRate>,
    /// Messages of who debugs pass without limit.
    details: bool,
    debug: bool,
    stderr: bool,
    file: Option<LogFile>,
    syslog: Option<Syslog>,
    syslog_wanted: bool,
    /// The message, without what is in front of it.
    text: String,
    line: String,
}

/// Starts the clock of the log, and sends messages to standard error.
pub(crate) fn start() {
    let _first_call_counts = SINK.start.set(Instant::now());
    if log::set_logger(&SINK).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Sends messages where `config` says. Files and sockets stay open. `successor` says which user the process becomes.
///
/// # Errors
/// The log file cannot be created.
pub(crate) fn configure(config: Config, successor: Successor<'_>) -> Result<(), LogFileError> {
    let Config { level, program, foreground, file } = config;
    let debug = level >= LevelFilter::Debug;
    let file = file.map(|(path, limit)| {
        LogFile::create(&path, successor, limit, header(program))
            .map_err(|source| LogFileError { path, source })
    });
    let mut state = SINK.state();
    state.file = file.transpose()?;
    state.syslog = (!debug && state.file.is_none()).then(|| Syslog::connect(program)).flatten();
    (state.debug, state.details, state.syslog_wanted) = (debug, debug, !foreground);
    state.rate = Some(LineRate::new());
    log::set_max_level(level);
    Ok(())
}

/// Lets messages of `level` and above pass from now on. Those that are asked for while the program runs go where
/// messages go, also to the system's log, where their number is limited.
pub(crate) fn set_level(level: LevelFilter) {
    let mut state = SINK.state();
    state.debug = level >= LevelFilter::Debug;
    state.details = state.debug && (state.stderr || state.file.is_some());
    log::set_max_level(level);
}

/// Says how many messages were withheld, if there are none for a while. Returns how long it takes until then, if there is
/// something to be said.
pub(crate) fn tell_withheld() -> Option<Duration> {
    if !WITHHELD.load(Ordering::Relaxed) {
        return None;
    }
    let at = SINK.elapsed();
    let mut state = SINK.state();
    let quiet_in = state.rate.as_ref().map_or(Duration::ZERO, |rate| rate.quiet_in(at));
    if quiet_in > Duration::ZERO {
        return Some(quiet_in);
    }
    state.tell_withheld(at);
    None
}

/// From now on no message waits for the system's log: the start is over, and guests do not wait for it.
pub(crate) fn stop_waiting() {
    if let Some(syslog) = &mut SINK.state().syslog {
        syslog.stop_waiting();
    }
}

/// Where messages go at the moment.
pub(crate) fn destinations() -> Vec<&'static str> {
    let state = SINK.state();
    let syslog = state.syslog.is_some() && state.syslog_wanted;
    let all = [(state.stderr, "stderr"), (state.file.is_some(), "file"), (syslog, "syslog")];
    all.into_iter().filter(|(used, _)| *used).map(|(_, name)| name).collect()
}

/// Leaves standard error alone from now on: it is nobody's.
pub(crate) fn leave_stderr() {
    SINK.state().leave_stderr();
}

/// Leaves standard error to the command that has it, too, from now on; unless messages would be lost, which are those of
/// who debugs without a file.
pub(crate) fn give_stderr() {
    let mut state = SINK.state();
    if !state.debug || state.file.is_some() {
        state.leave_stderr();
    }
}

/// Takes standard error back when the command has ended that had it.
pub(crate) fn take_stderr_back() {
    SINK.state().stderr = true;
}

/// The first line of a log file.
fn header(program: &str) -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    format!("{program} {version}: {} ({pid})", path.display())
}

/// Seconds since start, to a tenth of a millisecond.
fn stamp(at: Duration) -> String {
    format!("{}.{:04}", at.as_secs(), at.subsec_micros() / 100)
}

impl Sink {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed(&self) -> Duration {
        self.start.get().map_or(Duration::ZERO, Instant::elapsed)
    }
}

impl log::Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let at = self.elapsed();
        let mut state = self.state();
        let is_detail = state.details && record.level() >= Level::Debug;
        let rate = state.rate.as_mut().filter(|_| !is_detail);
        let Some(withheld) = rate.map_or(Some(0), |rate| rate.take(at)) else {
            WITHHELD.store(true, Ordering::Relaxed);
            return;
        };
        state.note_withheld(at, withheld);
        state.write(record.level(), at, *record.args());
    }

    fn flush(&self) {
        let mut state = self.state();
        state.tell_withheld(self.elapsed());
        if let Some(syslog) = &mut state.syslog {
            syslog.tell_lost();
        }
        if let Some(file) = &state.file {
            file.sync();
        }
    }
}

impl State {
    const fn new() -> Self {
        Self {
            rate: None,
            details: false,
            debug: false,
            stderr: true,
            file: None,
            syslog: None,
            syslog_wanted: false,
            text: String::new(),
            line: String::new(),
        }
    }

    fn leave_stderr(&mut self) {
        (self.stderr, self.syslog_wanted) = (false, true);
    }

    /// Says how many messages were withheld, if any were.
    fn tell_withheld(&mut self, at: Duration) {
        let withheld = self.rate.as_mut().map_or(0, LineRate::take_withheld);
        self.note_withheld(at, withheld);
    }

    fn note_withheld(&mut self, at: Duration, withheld: u64) {
        WITHHELD.store(false, Ordering::Relaxed);
        if withheld > 0 {
            let note = format_args!("{withheld} messages withheld, too many at once");
            self.write(Level::Warn, at, note);
        }
    }

    /// Writes one message. A destination that takes none is no reason to stop.
    fn write(&mut self, level: Level, at: Duration, message: std::fmt::Arguments<'_>) {
        self.line.clear();
        let _infallible = self.line.write_fmt(message);
        self.text.clear();
        push_clean(&mut self.text, &self.line);
        if self.stderr {
            self.line.clear();
            let _infallible = if self.debug && self.file.is_none() {
                writeln!(self.line, "{}: {}", stamp(at), self.text)
            } else {
                writeln!(self.line, "{}", self.text)
            };
            let _ = std::io::stderr().write_all(self.line.as_bytes());
        }
        if let Some(file) = &mut self.file {
            self.line.clear();
            let at = stamp(at);
            let _infallible = writeln!(self.line, "{at}: {}{}", tag(level), self.text);
            let _ = file.write(&self.line, &at);
        }
        if let Some(syslog) = self.syslog.as_mut().filter(|_| self.syslog_wanted)
            && !self.text.is_empty()
        {
            syslog.send(level, &self.text);
        }
    }
}

/// What stands in front of a message of a level in a log file.
fn tag(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR:   ",
        Level::Warn => "WARNING: ",
        Level::Info => "info:    ",
        Level::Debug | Level::Trace => "         ",
    }
}

/// Adds `message` to `text`: on one line of limited length, and without numbers of errors.
fn push_clean(text: &mut String, message: &str) {
    let mut rest = &message[..message.floor_char_boundary(LINE_BYTES)];
    while let Some((words, behind)) = rest.split_once(NUMBER) {
        push_line(text, words);
        let digits = behind.trim_start_matches(|c: char| c.is_ascii_digit());
        rest = match digits.strip_prefix(')') {
            Some(rest) => {
                let number = behind[..behind.len() - digits.len()].parse().unwrap_or(0);
                errno::settle(text, number);
                rest
            }
            None => {
                text.push_str(NUMBER);
                behind
            }
        };
    }
    push_line(text, rest);
}

/// Adds `words` without line ends and other control characters, which could look like further
/// messages, or like orders to a terminal.
fn push_line(text: &mut String, words: &str) {
    text.extend(words.chars().map(|c| if c.is_control() { ' ' } else { c }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(message: &str) -> String {
        let mut text = String::new();
        push_clean(&mut text, message);
        text
    }

    #[test]
    fn errors_are_words() {
        let error = std::io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(clean(&format!("a: {error}: b: {error}")).matches("No such").count(), 2);
        assert!(!clean(&format!("a: {error}: b: {error}: c")).contains("os error"));
        assert_eq!(clean("x (os error 5): y"), "x: y");
        assert_eq!(
            clean("bind: Address in use (os error 98): y"),
            "bind: Address already in use: y"
        );
        assert_eq!(clean("x (os error "), "x (os error ");
    }

    #[test]
    fn a_message_is_one_line_of_limited_length() {
        assert_eq!(clean("a\nb\x1b[2J"), "a b [2J");
        assert_eq!(clean(&"ä".repeat(LINE_BYTES)).len(), LINE_BYTES);
    }

    #[test]
    fn time_since_start_has_four_digits_behind_the_point() {
        assert_eq!(stamp(Duration::from_micros(12_000_345)), "12.0003");
    }
}
