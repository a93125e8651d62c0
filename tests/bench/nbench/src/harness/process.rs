//! Processes that the harness starts: their lines, their end. A task that is dropped is killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::Result;

/// What terminals obey by forgetting what was on them.
const CLEAR_SCREEN: &str = "\u{1b}[2J";

/// A running process.
pub struct Task {
    name: String,
    child: Child,
    lines: Receiver<String>,
}

impl Task {
    /// Starts the command. Its errors go to `log`, its input is a pipe.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, log: &File) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        let mut child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                // Bytes that are not text can only come from a guest's console.
                let lines = BufReader::new(stdout).split(b'\n').map_while(std::result::Result::ok);
                for line in lines {
                    let line = String::from_utf8_lossy(&line);
                    // A firmware leaves its last line open, and then it is wiped away.
                    let line = line.trim_end().rsplit(CLEAR_SCREEN).next().unwrap_or_default();
                    if sender.send(line.to_owned()).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { name: name.to_owned(), child, lines })
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a line to its input.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let Some(stdin) = self.child.stdin.as_mut() else { return Err("no input".into()) };
        Ok(writeln!(stdin, "{line}").and_then(|()| stdin.flush())?)
    }

    /// The next line.
    ///
    /// # Errors
    /// When there is none within the time, or the process has ended.
    pub fn line(&mut self, within: Duration) -> Result<String> {
        match self.lines.recv_timeout(within) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("{}: nothing said for {} s", self.name, within.as_secs()).into())
            }
            Err(RecvTimeoutError::Disconnected) => Err(format!("{} has ended", self.name).into()),
        }
    }

    /// Waits for a line that begins with `start`.
    ///
    /// # Errors
    /// As [`Self::line`], with the line before.
    pub fn wait_line(&mut self, start: &str, within: Duration) -> Result<String> {
        let (end, mut last) = (Instant::now() + within, String::new());
        loop {
            let next = self.line(end.saturating_duration_since(Instant::now()));
            let line = next.map_err(|error| format!("{error}, after '{last}'"))?;
            if line.starts_with(start) {
                return Ok(line);
            }
            last = line;
        }
    }

    /// Waits for its end and returns the rest of what it says.
    ///
    /// # Errors
    /// When it takes longer, or fails.
    pub fn result(&mut self, within: Duration) -> Result<String> {
        let end = Instant::now() + within;
        let mut said = String::new();
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => said = said + &line + "\n",
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{} took too long", self.name).into());
                }
            }
        }
        let status = self.child.wait()?;
        if status.success() {
            return Ok(said);
        }
        Err(format!("{}: {status}, see the log", self.name).into())
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a short command to its end.
///
/// # Errors
/// When it fails, with what it said.
pub fn run(mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let program =
        command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    Err(format!("{program}: {}", errors.trim()).into())
}

/// Repeats `test` until it says yes.
///
/// # Errors
/// When it does not within the time; names `what`.
pub fn until(what: &str, within: Duration, mut test: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + within;
    while !test() {
        if Instant::now() > end {
            return Err(format!("{what}: not within {} s", within.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
