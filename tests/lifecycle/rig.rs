//! The program as a process, and what is to be known of it from outside.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use passt_support::wait::{PATIENCE, until};
use rustix::process::{Pid, Signal, getegid, geteuid, kill_process};

/// Options that leave the host's configuration out.
pub const NETWORK: [&str; 5] = ["-4", "-a", "192.0.2.2/24", "-g", "192.0.2.1"];

/// A folder with everything of one run: `socket`, `pid` and what a test adds.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What a file holds.
    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// passt with a socket and a PID file here, as the user whose place this is, also if that is root.
    pub fn passt<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let command = Command::new(env!("CARGO_BIN_EXE_passt"));
        self.complete(command, (geteuid().as_raw(), getegid().as_raw()), arguments)
    }

    /// The same, of which the test may see the descriptors.
    pub fn visible_passt<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        self.complete(visible_passt(), (0, 0), arguments)
    }

    fn complete<S: AsRef<OsStr>>(
        &self,
        mut command: Command,
        (user, group): (u32, u32),
        arguments: &[S],
    ) -> Command {
        command.args(NETWORK).arg("--socket").arg(self.path("socket"));
        command.arg(format!("--runas={user}:{group}"));
        command.arg("--pid").arg(self.path("pid")).args(arguments);
        command
    }

    /// Starts passt in the foreground; it is ready when this returns.
    pub fn foreground<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Program {
        let mut words = vec![OsStr::new("--foreground")];
        words.extend(arguments.iter().map(AsRef::as_ref));
        self.spawn(&mut self.passt(&words))
    }

    /// Starts a command that writes its PID file here; it is ready when this returns.
    pub fn spawn(&self, command: &mut Command) -> Program {
        let stderr = std::fs::File::create(self.path("stderr")).unwrap();
        let stdout = std::fs::File::create(self.path("stdout")).unwrap();
        let mut child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        let pid = until("ready", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", self.text("stderr"));
            self.pid()
        });
        Program { child: Some(child), pid }
    }

    /// Starts passt in the background; it is ready when this returns.
    pub fn background<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Program {
        self.returned(&mut self.passt(arguments))
    }

    /// Starts a command that goes to the background; it is ready when this returns.
    pub fn returned(&self, command: &mut Command) -> Program {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        Program { child: None, pid: self.pid().unwrap() }
    }

    /// The PID file's process id, if it is complete.
    pub fn pid(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.path("pid")).ok()?;
        Pid::from_raw(text.strip_suffix('\n')?.parse().unwrap())
    }

    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path("socket")).unwrap()
    }

    /// Whether a client gets an answer, once the one before it has left.
    pub fn serves(&self) -> bool {
        until("an answer", || is_answered(self.connect()).then_some(true))
    }
}

/// passt whose `/proc/PID/fd` the test may read. A program that cannot be dumped belongs there to the root of the user
/// namespace in which it was started: that root has to be the test's user.
pub fn visible_passt() -> Command {
    if geteuid().is_root() {
        return Command::new(env!("CARGO_BIN_EXE_passt"));
    }
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", env!("CARGO_BIN_EXE_passt")]);
    command
}

/// A process that serves; killed at the end.
pub struct Program {
    child: Option<Child>,
    pub pid: Pid,
}

impl Program {
    /// One in the background, by its PID file.
    pub fn started(pid: i32) -> Self {
        Self { child: None, pid: Pid::from_raw(pid).unwrap() }
    }

    pub fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(file)
    }

    /// A field of `/proc/PID/status`.
    pub fn status(&self, field: &str) -> String {
        status_field(&std::fs::read_to_string(self.proc("status")).unwrap(), field)
    }

    /// What its descriptors are, if it is a [`visible_passt`].
    pub fn descriptors(&self) -> Vec<(i32, PathBuf)> {
        let entries = std::fs::read_dir(self.proc("fd")).unwrap().map(Result::unwrap);
        let link = |entry: std::fs::DirEntry| {
            let number = entry.file_name().to_str().unwrap().parse().unwrap();
            // A descriptor may close meanwhile.
            Some((number, std::fs::read_link(entry.path()).ok()?))
        };
        let mut found: Vec<_> = entries.filter_map(link).collect();
        found.sort();
        found
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    pub fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(self.proc("stat")).unwrap_or_default();
        // Who has become its parent may not have noticed yet.
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
    }

    /// Ends it with a signal; returns its exit code if it is ours to know.
    pub fn end(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        until("its end", || self.has_ended().then_some(()));
        self.child.take().and_then(|mut child| child.wait().unwrap().code())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = kill_process(self.pid, Signal::KILL);
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Its sockets are gone with the last of its process id namespace.
        let begin = Instant::now();
        while !self.has_ended() && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A field of the text of `/proc/PID/status`.
pub fn status_field(status: &str, field: &str) -> String {
    let line = status.lines().find(|line| line.starts_with(&format!("{field}:")));
    let line = line.unwrap_or_else(|| panic!("no {field} in {status}"));
    line.split_once(':').unwrap().1.trim().to_owned()
}

/// A set of signals as `/proc/PID/status` shows it.
pub fn contains(set: &str, signal: Signal) -> bool {
    u64::from_str_radix(set, 16).unwrap() & (1 << (signal.as_raw() - 1)) != 0
}

/// A frame of a guest: who has 192.0.2.1?
pub fn arp_request() -> Vec<u8> {
    let mac = [0x52, 0x54, 0, 0, 0, 1];
    let mut frame = [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac].concat();
    frame.extend([192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    frame
}

/// A frame as a client of the stream socket sends it.
pub fn with_length(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

/// Receives the next frame of a client of the stream socket.
pub fn next_frame(client: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    client.read_exact(&mut frame)?;
    Ok(frame)
}

/// Whether an ARP request of this client is answered.
pub fn is_answered(mut client: UnixStream) -> bool {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    if client.write_all(&with_length(&arp_request())).is_err() {
        return false;
    }
    loop {
        match next_frame(&mut client) {
            Ok(frame) if frame[12..14] == [8, 6] => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

/// The output of a start that fails: its messages, in words.
pub fn refusal(command: &mut Command) -> String {
    let output: Output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!message.contains("os error"), "{message}");
    message
}

/// How to make namespaces here: as the root of a user namespace, or as root.
pub fn unshare(kinds: &str) -> Command {
    let can = |how: &str| {
        let status = Command::new("unshare").args([how, "true"]).status();
        status.is_ok_and(|status| status.success())
    };
    let how = [format!("-r{kinds}"), format!("-{kinds}")].into_iter().find(|how| can(how));
    let mut command = Command::new("unshare");
    command.arg(how.expect("cannot make namespaces, with or without a user one"));
    command
}
