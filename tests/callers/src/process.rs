//! Processes: the command as its caller started it, with what it has written, and those that it
//! left behind. The player is the first process of its namespace, so orphans become its children
//! and their status is told to it.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, waitpid};

/// When to give up on something that does not happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Repeats `probe` until it returns something.
pub fn await_some<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T, String> {
    let begin = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!("{what} did not happen within {} s", PATIENCE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What comes out of one output.
pub struct Output {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Output {
    fn of(mut source: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(vec![]));
        let shared = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = source.read(&mut buffer) {
                let mut text = shared.lock().unwrap_or_else(PoisonError::into_inner);
                text.extend_from_slice(&buffer[..length]);
            }
        });
        Self { text, reader }
    }

    /// What has come until now.
    pub fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Whether nobody holds the other end any more.
    pub fn has_ended(&self) -> bool {
        self.reader.is_finished()
    }
}

/// The command that the caller has started.
pub struct Started {
    child: Child,
    status: Option<i32>,
    /// Its standard output; `None` if it goes nowhere.
    pub stdout: Option<Output>,
    /// Its standard error; `None` if it goes nowhere.
    pub stderr: Option<Output>,
}

impl Started {
    /// Starts it. Its outputs are read, unless nobody hears them.
    pub fn new(mut command: Command, heard: bool) -> Result<Self, String> {
        let output = || if heard { Stdio::piped() } else { Stdio::null() };
        command.stdin(Stdio::null()).stdout(output()).stderr(output());
        let mut child = command.spawn().map_err(|error| format!("cannot start: {error}"))?;
        let stdout = child.stdout.take().map(Output::of);
        let stderr = child.stderr.take().map(Output::of);
        Ok(Self { child, status: None, stdout, stderr })
    }

    /// The id of the process that was started.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The status with which it has ended; `None` while it runs, 128 + N for signal N.
    pub fn status(&mut self) -> Option<i32> {
        if self.status.is_none() {
            use std::os::unix::process::ExitStatusExt;
            let status = self.child.try_wait().ok().flatten()?;
            self.status = status.code().or(status.signal().map(|signal| 128 + signal));
        }
        self.status
    }

    /// Whether all has been heard that it will ever say.
    pub fn has_said_all(&self) -> bool {
        [&self.stdout, &self.stderr].into_iter().flatten().all(Output::has_ended)
    }
}

/// Waits for an orphan's end: its status, or `None` if it is somebody else's child.
pub fn await_orphan(pid: u32) -> Result<Option<i32>, String> {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("no process id")?;
    await_some("its end", || match waitpid(Some(id), WaitOptions::NOHANG) {
        Ok(Some((_, status))) => {
            Some(status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal)))
        }
        Ok(None) => None,
        Err(_) => (!runs(pid)).then_some(None),
    })
}

/// Whether there is such a process, and it has not ended.
pub fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// The processes of this namespace that have not ended, but for the first.
pub fn all() -> Vec<u32> {
    all_with_ended().into_iter().filter(|&pid| runs(pid)).collect()
}

/// The processes of this namespace, but for the first; those that have ended until they are reaped.
pub fn all_with_ended() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|&pid| pid != 1).collect()
}

/// The words by which a process was started.
pub fn command_line(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).replace('\0', " ")
}

/// What the helper that watches the host calls itself.
pub const WATCH: &str = "host-watch";

/// What a process calls itself.
pub fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}
