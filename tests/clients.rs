//! Where clients come from, when that is difficult: no descriptor left to accept them, a path that is
//! taken by something else. The program in the foreground; no port is opened.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getgid, getrlimit, getuid, prlimit};

/// When to give up on something that does not happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program with its socket; killed at the end.
struct Program {
    child: Child,
    stderr: BufReader<ChildStderr>,
    socket: PathBuf,
}

fn start(socket: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passt"));
    // Who is to limit its descriptors later has to be the same user.
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    command.arg(format!("--runas={user}:{group}"));
    command.args(["--vhost-user", "--foreground", "--socket"]).arg(socket);
    command.stderr(Stdio::piped()).spawn().unwrap()
}

impl Program {
    /// Returns when the program takes clients.
    fn serving(socket: PathBuf) -> Self {
        let mut child = start(&socket);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let program = Self { child, stderr, socket };
        let begin = Instant::now();
        while !program.connect().is_ok_and(|client| serves(client, PATIENCE)) {
            assert!(begin.elapsed() < PATIENCE, "it does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        program
    }

    fn connect(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(&self.socket)
    }

    /// Limits the descriptors that the program may open from now on.
    fn limit_descriptors(&self, current: Option<u64>) {
        // The program has raised its limit to the maximum, which is this process's, too.
        let maximum = getrlimit(Resource::Nofile).maximum;
        let pid = Pid::from_raw(self.child.id().cast_signed());
        prlimit(pid, Resource::Nofile, Rlimit { current: current.or(maximum), maximum }).unwrap();
    }

    /// Reads messages up to one that contains `text`.
    fn await_message(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "it has ended");
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a client gets an answer, as every front-end asks first.
fn serves(mut client: UnixStream, patience: Duration) -> bool {
    let get_features = [1u32, 1, 0].map(u32::to_le_bytes).concat();
    client.set_read_timeout(Some(patience)).unwrap();
    client.write_all(&get_features).is_ok() && client.read_exact(&mut [0; 20]).is_ok()
}

/// What the program says when it does not start.
fn refusal(socket: &Path) -> String {
    let output = start(socket).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_client_without_a_descriptor_for_it_waits_and_is_served_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::serving(folder.path().join("socket"));
    program.limit_descriptors(Some(0));
    let client = program.connect().unwrap();
    program.await_message("Cannot accept a client");
    program.limit_descriptors(None);
    assert!(serves(client, PATIENCE));
    program.await_message("front-end disconnected");
    assert!(serves(program.connect().unwrap(), PATIENCE), "the socket is watched again");
}

#[test]
fn a_file_with_content_is_not_replaced_by_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    std::fs::write(&path, "content").unwrap();
    let message = refusal(&path);
    assert!(message.contains("is a file with content"), "{message}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "content");
}

#[test]
fn an_empty_file_and_a_socket_of_nobody_give_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reserved");
    std::fs::write(&path, "").unwrap();
    drop(Program::serving(path.clone()));
    assert!(path.exists(), "it stays behind");
    drop(Program::serving(path));
}

#[test]
fn a_socket_of_somebody_does_not_give_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    let _listener = UnixListener::bind(&path).unwrap();
    assert!(refusal(&path).contains("already in use"));
}
