//! The program as a process, its control sockets, and who asks on them: each request, reply and event is held against
//! the schema.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use passt_support::wait::{PATIENCE, until};
use rustix::process::Pid;
use serde_json::{Value, json};

use crate::schema::{errors, schema};

/// What a namespace of a test's own has.
pub const SETUP: &str = "ip link set lo up";

/// What passt is told, in place of what its host has.
const TOLD: [&str; 7] = ["-4", "-a", "192.0.2.2/24", "-g", "192.0.2.1", "--dns", "192.0.2.1"];

/// A running program with sockets `guest`, `control` and `read` in a folder of its own.
pub struct Program {
    child: Child,
    folder: tempfile::TempDir,
    /// It was told to end.
    ends: bool,
}

impl Program {
    /// passt with IPv4 alone, which it is told, and options besides, ready.
    pub fn passt(options: &[&str]) -> Self {
        Self::of_host(&[&TOLD, options].concat())
    }

    /// The same, where so many descriptors may be open.
    pub fn limited(descriptors: u64, options: &[&str]) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_passt")]);
        Self::started(command, &[&TOLD, options].concat())
    }

    /// passt with the network of its host, and options besides, ready.
    pub fn of_host(options: &[&str]) -> Self {
        Self::started(Command::new(env!("CARGO_BIN_EXE_passt")), options)
    }

    fn started(mut command: Command, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let child = command
            .arg("-f")
            .arg(format!("--runas={}:{}", user.0, user.1))
            .arg("--socket")
            .arg(at("guest"))
            .arg("--control")
            .arg(at("control"))
            .arg(format!("--control-ro={},mode=666", at("read").display()))
            .arg("--pid")
            .arg(at("pid"))
            .args(options)
            .stderr(std::fs::File::create(at("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut program = Self { child, folder, ends: false };
        until("ready", || {
            let ended = program.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", program.messages());
            std::fs::read_to_string(program.path("pid")).ok()?.strip_suffix('\n').map(|_| ())
        });
        program
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The process that watches the host for it.
    pub fn watcher(&self) -> Pid {
        let parent = self.child.id().to_string();
        let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
        let found = processes.find_map(|process| {
            let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
            let watches = stat.contains("(host-watch)")
                && stat.rsplit(") ").next()?.split(' ').nth(1) == Some(&parent);
            watches.then(|| process.file_name().to_str()?.parse().ok()).flatten()
        });
        Pid::from_raw(found.expect("a child that watches")).unwrap()
    }

    /// What it has said on standard error.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap()
    }

    /// Ends it, and returns what it has said on standard error.
    pub fn last_messages(mut self) -> String {
        self.ends = true;
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
        self.messages()
    }

    /// Somebody who may change things.
    pub fn client(&self) -> Client {
        Client::at(&self.path("control"))
    }

    /// Memory that it uses at the moment, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it lives");
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Runs pesto with these words, of which `control` and `read` stand for the sockets.
    pub fn pesto(&self, words: &[&str]) -> Output {
        self.pesto_given(words, "")
    }

    /// The same, with something on standard input.
    pub fn pesto_given(&self, words: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pesto"));
        for &word in words {
            match word {
                "control" | "read" => command.arg(self.path(word)),
                _ => command.arg(word),
            };
        }
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What pesto prints; it has to succeed.
    pub fn told(&self, words: &[&str]) -> String {
        let output = self.pesto(words);
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let ended = self.child.try_wait().unwrap();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            assert!(self.ends || ended.is_none(), "it has ended: {ended:?}: {}", self.messages());
        }
    }
}

/// Somebody who asks.
pub struct Client {
    stream: BufReader<UnixStream>,
    schema: Value,
}

impl Client {
    pub fn at(path: &std::path::Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream), schema: schema() }
    }

    pub fn send(&mut self, line: &str) {
        let stream = self.stream.get_mut();
        stream.write_all(line.as_bytes()).and_then(|()| stream.write_all(b"\n")).unwrap();
    }

    /// The next line, which has to be what the schema calls `name`.
    pub fn line(&mut self, name: &str) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "no whole line: '{line}'");
        let value = serde_json::from_str(&line).unwrap();
        assert_eq!(errors(&self.schema, name, &value), None);
        value
    }

    /// Asks something that fits the schema; returns the reply.
    pub fn reply(&mut self, request: &Value) -> Value {
        assert_eq!(errors(&self.schema, "request", request), None);
        self.send(&request.to_string());
        self.line("reply")
    }

    /// What is answered; the request has to succeed.
    pub fn ask(&mut self, request: &Value) -> Value {
        let mut reply = self.reply(request);
        assert_eq!(reply["ok"], true, "{request}: {reply}");
        assert_eq!(reply["command"], request["command"]);
        reply["result"].take()
    }

    /// The answer to a command without fields.
    pub fn answer(&mut self, command: &str) -> Value {
        self.ask(&json!({ "command": command }))
    }

    /// Why a request is refused, also one that does not fit the schema.
    pub fn refusal(&mut self, line: &str) -> Value {
        self.send(line);
        let mut reply = self.line("reply");
        assert_eq!(reply["ok"], false, "{line}: {reply}");
        reply["error"].take()
    }

    /// Reads events up to the next of this name.
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            let event = self.line("event");
            if event["event"] == name {
                return event;
            }
        }
    }

    /// All flows.
    pub fn flows(&mut self) -> Vec<Value> {
        let mut request = json!({ "command": "flows" });
        let mut all = Vec::new();
        loop {
            let mut page = self.ask(&request);
            all.append(page["flows"].as_array_mut().unwrap());
            match page["next"].as_u64() {
                Some(next) => request["from"] = next.into(),
                None => return all,
            }
        }
    }
}
