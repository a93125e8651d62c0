//! Plays one row: what is there before, the command, then clause by clause.

use std::fs;
use std::io::{PipeReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::client;
use crate::pipes::Pipes;
use crate::policy::{self, Request};
use crate::process::{
    PATIENCE, Started, WATCH, all, all_with_ended, await_orphan, await_some, command_line, name,
    runs,
};
use crate::row::{Before, Caller, Clause, Row};
use crate::{trace, world};

/// Descriptors for the program are kept above this number until it starts.
const HIGH: i32 = 40;

/// The service manager's socket.
const NOTIFY: &str = "/tmp/notify";

/// Why a clause does not hold, or a row cannot be played.
type Outcome = Result<(), String>;

/// A row in play.
#[derive(Default)]
pub struct Player {
    words: Vec<String>,
    caller: Option<Caller>,
    user: Option<Child>,
    engine: Option<Child>,
    child: Option<Child>,
    listeners: Vec<TcpListener>,
    taken: Vec<UnixListener>,
    /// The number that the program is told, and whether a question is sent in advance.
    descriptor: Option<i32>,
    early: bool,
    descriptors: Option<u32>,
    leak: bool,
    leaked: Option<PipeReader>,
    pipes: Pipes,
    in_memory: bool,
    program: Option<&'static str>,
    unheard: bool,
    closed: bool,
    traced: bool,
    notify: Option<UnixDatagram>,
    started: Option<Started>,
    pair: Option<UnixStream>,
    daemon: Option<u32>,
}

/// Plays the row: what does not hold, one line each.
///
/// # Errors
/// If the row cannot be played at all.
pub fn play(row: &Row, clauses: &[Clause]) -> Result<Vec<String>, String> {
    let mut player = Player { words: row.words(), caller: Some(row.caller), ..Player::default() };
    if let Some(how) = world::user_namespace() {
        player.user = Some(player.holder(&how)?);
    }
    if row.caller == Caller::Engine {
        player.engine = Some(player.holder("unshare --user --map-root-user --mount")?);
    }
    for before in row.before {
        player.prepare(before)?;
    }
    player.start()?;
    let mut broken = vec![];
    for clause in clauses {
        if let Err(why) = player.check(clause) {
            broken.push(format!("{clause:?}: {why}"));
        }
        if broken.len() > 2 {
            break;
        }
    }
    if !broken.is_empty() {
        let said = player.said();
        broken.extend(said.lines().take(6).map(|line| format!("    it said: {line}")));
    }
    if !clauses.iter().any(|clause| matches!(clause, Clause::Prints(_))) {
        let printed = player.printed();
        if !printed.is_empty() {
            broken.push(format!("standard output is not empty: {printed:?}"));
        }
    }
    Ok(broken)
}

/// Text of an errno without more.
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Player {
    fn prepare(&mut self, before: &Before) -> Outcome {
        match *before {
            Before::Root(script) => run(&["sh", "-euc", script].map(str::to_owned))?,
            Before::Script(script) => self.script(script)?,
            Before::Listener(address) => {
                self.listeners.push(TcpListener::bind(address).map_err(text)?);
            }
            Before::SocketTaken(path) => {
                self.taken.push(UnixListener::bind(path).map_err(text)?);
                fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(text)?;
            }
            Before::Child => self.make_child()?,
            Before::Descriptor(number) => self.descriptor = Some(number),
            Before::ReadyPipe(number) => self.pipes.ready_number = Some(number),
            Before::ExitPipe(number) => self.pipes.exit_number = Some(number),
            Before::Descriptors(limit) => self.descriptors = Some(limit),
            Before::EarlyQuestion => self.early = true,
            Before::Leak => self.leak = true,
            Before::InMemory => self.in_memory = true,
            Before::Copied(path) => {
                copy_program(path)?;
                self.program = Some(path);
            }
            Before::Unheard => self.unheard = true,
            Before::Traced => self.traced = true,
            Before::Closed => self.closed = true,
            Before::NotifySocket => {
                let socket = UnixDatagram::bind(NOTIFY).map_err(text)?;
                fs::set_permissions(NOTIFY, fs::Permissions::from_mode(0o777)).map_err(text)?;
                socket.set_nonblocking(true).map_err(text)?;
                self.notify = Some(socket);
            }
        }
        Ok(())
    }

    /// Starts a process that does nothing, in namespaces that `how` makes, as the ordinary user.
    fn holder(&self, how: &str) -> Result<Child, String> {
        let mut words = world::become_caller(Caller::User, self.user_id(), None);
        words.extend(how.split(' ').map(str::to_owned));
        words.extend(["sh", "-c", "echo ready; exec sleep 1000"].map(str::to_owned));
        let mut holder = command(&words).stdout(Stdio::piped()).spawn().map_err(text)?;
        let mut ready = [0; 6];
        let output = holder.stdout.as_mut().ok_or("no output")?;
        output.read_exact(&mut ready).map_err(|_| format!("'{how}' failed"))?;
        Ok(holder)
    }

    fn make_child(&mut self) -> Outcome {
        let child = self.holder("unshare --user --map-root-user --net")?;
        self.words
            .iter_mut()
            .for_each(|word| *word = word.replace("{child}", &child.id().to_string()));
        self.child = Some(child);
        Ok(())
    }

    /// A process that is the ordinary user, where that takes a namespace.
    fn user_id(&self) -> Option<u32> {
        self.user.as_ref().map(Child::id)
    }

    /// The words in front of a command of the caller's.
    fn prefix(&self) -> Vec<String> {
        let engine = self.engine.as_ref().map(Child::id);
        world::become_caller(self.caller.unwrap_or(Caller::User), self.user_id(), engine)
    }

    /// Runs a script as the caller.
    fn script(&self, script: &str) -> Outcome {
        let mut words = self.prefix();
        let child = self.child.as_ref().map(|child| child.id().to_string());
        let script = script.replace("{child}", &child.unwrap_or_default());
        words.extend(["sh".to_owned(), "-euc".to_owned(), script]);
        run(&words)
    }

    /// Starts the program as the caller does.
    fn start(&mut self) -> Outcome {
        let mut words = self.prefix();
        let mut redirections = String::new();
        let mut kept: Vec<OwnedFd> = vec![];
        let mut name = String::new();
        if let Some(number) = self.descriptor {
            let theirs = self.make_pair()?;
            redirections += &pass(&mut kept, &theirs, number)?;
        }
        if self.leak {
            let (reader, writer) = std::io::pipe().map_err(text)?;
            redirections += &pass(&mut kept, &writer.into(), 9)?;
            self.leaked = Some(reader);
        }
        redirections += &self.pipes.make(&mut kept)?;
        let mut program = self.program.map(str::to_owned);
        if self.in_memory {
            let memory = in_memory(&format!("{}/{}", world::BIN, self.words[0]))?;
            redirections += &pass(&mut kept, &memory, 8)?;
            name = format!("-a {}", self.words[0]);
            program = Some("/proc/self/fd/8".to_owned());
            words.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(str::to_owned));
        }
        let limit =
            self.descriptors.map_or_else(String::new, |limit| format!("ulimit -n {limit};"));
        let close = if self.closed { "<&- >&- 2>&-" } else { "" };
        let script = format!("{limit} exec {redirections}; exec {name} \"$@\" {close}");
        words.extend(["bash".to_owned(), "-c".to_owned(), script, "bash".to_owned()]);
        if self.traced {
            run(&["strace", "-V"].map(str::to_owned))
                .map_err(|why| format!("no strace(1): {why}"))?;
            words.extend(trace::TRACER.split_whitespace().map(str::to_owned));
        }
        words.push(program.unwrap_or_else(|| self.words[0].clone()));
        words.extend_from_slice(&self.words[1..]);
        let mut command = command(&words);
        if self.notify.is_some() {
            command.env("NOTIFY_SOCKET", NOTIFY);
        }
        if self.traced {
            // cargo's, where the loader would look first.
            command.env_remove("LD_LIBRARY_PATH");
        }
        self.started = Some(Started::new(command, !self.unheard)?);
        self.daemon = None;
        Ok(())
    }

    /// Makes the pair; returns the program's end.
    fn make_pair(&mut self) -> Result<OwnedFd, String> {
        let (mut ours, theirs) = UnixStream::pair().map_err(text)?;
        if self.early {
            client::send_question(&mut ours).map_err(text)?;
        }
        self.pair = Some(ours);
        Ok(theirs.into())
    }

    fn said(&self) -> String {
        let output = self.started.as_ref().and_then(|started| started.stderr.as_ref());
        output.map(|output| output.text()).unwrap_or_default()
    }

    fn printed(&self) -> String {
        let output = self.started.as_ref().and_then(|started| started.stdout.as_ref());
        output.map(|output| output.text()).unwrap_or_default()
    }

    fn check(&mut self, clause: &Clause) -> Outcome {
        match *clause {
            Clause::Returns(status) => self.returns(status),
            Clause::Silent => ensure((self.said() + &self.printed()).is_empty(), || {
                "it has said something".into()
            }),
            Clause::Says(words) => {
                self.heard("a line", |said| said.lines().any(|line| line.starts_with(words)))
            }
            Clause::Mentions(words) => self.heard("the text", |said| said.contains(words)),
            Clause::Omits(words) => ensure(!self.said().contains(words), || "it says so".into()),
            Clause::Banner(lines) => self.heard("the lines", |said| in_order(said, lines)),
            Clause::Prints(words) => {
                let printed = self.printed();
                ensure(printed.contains(words), || format!("it printed {printed:?}"))
            }
            Clause::Again => self.start().and_then(|()| self.returns(0)),
            Clause::NothingRuns => self.nothing_runs(),
            Clause::NothingToReap => self.nothing_runs().and_then(|()| {
                let left = self.without_own(all_with_ended());
                ensure(left.is_empty(), || format!("nobody has reaped {left:?}"))
            }),
            Clause::Granted(program) => granted(program, None),
            Clause::GrantedFrom(program, suite) => granted(program, Some(suite)),
            Clause::Inside(command, words) => self.inside(command, words),
            Clause::Does(line, words) => self.runs(line, (0, words)),
            Clause::Fails(line, words) => self.runs(line, (1, words)),
            Clause::DropsLeak => self.drops_leak(),
            Clause::Ready => self.pipes.hears(b"1"),
            Clause::NeverReady => self.pipes.hears(b""),
            Clause::EndsWithPipe => {
                self.find_daemon()?;
                self.pipes.exit = None;
                self.ends_with(0)
            }
            Clause::PidFile(path) => self.pid_file(path),
            Clause::PidFileSoon(path) => await_some("the PID file", || self.pid_file(path).ok())
                .or_else(|_| self.pid_file(path)),
            Clause::Term => self.ends_by(Signal::TERM, 0),
            Clause::Quit => self.ends_by(Signal::QUIT, 0),
            Clause::Unnotified => {
                let socket = self.notify.as_ref().ok_or("there is no such socket")?;
                ensure(socket.recv(&mut [0; 64]).is_err(), || "it was told something".into())
            }
            Clause::Kill => self.ends_by(Signal::KILL, 137),
            Clause::EndsWithChild => {
                self.find_daemon()?;
                let mut child = self.child.take().ok_or("there is no child")?;
                child.kill().and_then(|()| child.wait()).map_err(text)?;
                self.ends_with(0)
            }
            Clause::EndsAfter(script) => {
                self.find_daemon()?;
                self.script(script).and_then(|()| self.ends_with(0))
            }
            ref other => self.check_clients(other),
        }
    }

    /// The clauses of files, addresses and clients.
    fn check_clients(&mut self, clause: &Clause) -> Outcome {
        match *clause {
            Clause::Exists(path) => ensure(exists(path), || "it is not there".into()),
            Clause::Absent(path) => ensure(!exists(path), || "it is there".into()),
            Clause::NoContent(path) => {
                let length = fs::metadata(path).map_or(0, |data| data.len());
                ensure(length == 0, || format!("it has {length} bytes"))
            }
            Clause::Tcp(address) => ensure(accepted(address)?, || "only by itself".into()),
            Clause::TcpRefused(address) => {
                ensure(!accepted(address).unwrap_or(false), || "it is accepted".into())
            }
            Clause::TcpSoon(address) => {
                await_some("a connection", || accepted(address).ok().filter(|real| *real)).map(drop)
            }
            Clause::TcpRefusedSoon(address) => {
                let refused = || (!accepted(address).unwrap_or(false)).then_some(());
                await_some("a refusal", refused)
            }
            Clause::Udp(address) => {
                ensure(UdpSocket::bind(address).is_err(), || "nobody has it".into())
            }
            Clause::Served(path) => self.ask_at(path),
            Clause::ServedSoon(path) => {
                // It is there before anybody listens at it.
                let mut client = await_some("the socket", || connect(path).ok())?;
                self.ask(&mut client)
            }
            Clause::StreamPair if self.early => {
                client::await_answer(self.pair.as_mut().ok_or("no pair")?)
            }
            Clause::StreamPair => client::ask_stream(self.pair.as_mut().ok_or("no pair")?),
            Clause::RapidLease => client::take_lease(self.pair.as_mut().ok_or("no pair")?),
            Clause::VhostUserPair => client::ask_vhost_user(self.pair.as_mut().ok_or("no pair")?),
            Clause::EndsWithPair => {
                self.find_daemon()?;
                self.pair = None;
                self.ends_with(0)
            }
            Clause::EndsWithClient(path) => {
                self.find_daemon()?;
                self.ask_at(path)?;
                self.ends_with(0)
            }
            Clause::OutlivesClient(path) => {
                let daemon = self.find_daemon()?;
                self.ask_at(path)?;
                self.ask_at(path)?;
                ensure(runs(daemon), || "it has ended".into())
            }
            _ => Err("this clause has no meaning".into()),
        }
    }

    /// One client, which asks in the protocol that the program was told.
    fn ask_at(&self, path: &str) -> Outcome {
        self.ask(&mut connect(path)?)
    }

    fn ask(&self, client: &mut UnixStream) -> Outcome {
        if self.words.iter().any(|word| word == "--vhost-user") {
            client::ask_vhost_user(client)
        } else {
            client::ask_stream(client)
        }
    }

    fn returns(&mut self, expected: i32) -> Outcome {
        let started = self.started.as_mut().ok_or("not started")?;
        let status = await_some("its return", || started.status())?;
        await_some("the end of its output", || started.has_said_all().then_some(()))?;
        ensure(status == expected, || format!("it returned {status}"))
    }

    /// Waits until what was said up to now satisfies `accepts`, or all has been said.
    fn heard(&self, what: &str, accepts: impl Fn(&str) -> bool) -> Outcome {
        let started = self.started.as_ref().ok_or("not started")?;
        let heard = await_some(what, || {
            let all = started.has_said_all();
            accepts(&self.said()).then_some(true).or(all.then_some(false))
        })?;
        ensure(heard, || "it does not say so".into())
    }

    fn pid_file(&mut self, path: &str) -> Outcome {
        let content = fs::read_to_string(path).map_err(text)?;
        let digits = content.strip_suffix('\n').unwrap_or_default();
        let pid = digits.parse::<u32>().ok().filter(|_| digits.bytes().all(|c| c.is_ascii_digit()));
        let pid = pid.filter(|&pid| pid > 1).ok_or(format!("it holds {content:?}"))?;
        let mode = fs::metadata(path).map_err(text)?.permissions().mode() & 0o7777;
        ensure(mode == 0o600, || format!("its mode is {mode:o}"))?;
        ensure(runs(pid), || format!("there is no process {pid}"))?;
        self.daemon = Some(pid);
        Ok(())
    }

    /// The processes that are not this harness's own.
    fn others(&self) -> Vec<u32> {
        self.without_own(all())
    }

    fn without_own(&self, processes: Vec<u32>) -> Vec<u32> {
        let own = [&self.user, &self.engine, &self.child].into_iter().flatten().map(Child::id);
        let own: Vec<u32> = own.collect();
        processes.into_iter().filter(|pid| !own.contains(pid)).collect()
    }

    fn nothing_runs(&self) -> Outcome {
        await_some("the end of all processes", || self.others().is_empty().then_some(())).map_err(
            |_| format!("still running: {:?}", self.others().into_iter().map(command_line)),
        )
    }

    /// The program's process: by its PID file, as the one started, or as all that is left but its helper.
    fn find_daemon(&mut self) -> Result<u32, String> {
        if let Some(pid) = self.daemon {
            return Ok(pid);
        }
        let started = self.started.as_mut().ok_or("not started")?;
        let found = match started.status() {
            None => started.id(),
            Some(_) => {
                let mut left = self.others().into_iter();
                left.find(|&pid| name(pid) != WATCH).ok_or("no process is left")?
            }
        };
        self.daemon = Some(found);
        Ok(found)
    }

    /// Sends a signal and waits for the end.
    fn ends_by(&mut self, signal: Signal, status: i32) -> Outcome {
        let daemon = self.find_daemon()?;
        let pid = Pid::from_raw(daemon.cast_signed()).ok_or("no process id")?;
        kill_process(pid, signal).map_err(text)?;
        self.ends_with(status)
    }

    fn ends_with(&mut self, expected: i32) -> Outcome {
        let daemon = self.find_daemon()?;
        let started = self.started.as_mut().ok_or("not started")?;
        let status = if started.id() == daemon {
            Some(await_some("its end", || started.status())?)
        } else {
            await_orphan(daemon)?
        };
        self.daemon = None;
        ensure(status == Some(expected), || format!("it ended with {status:?}"))
    }

    /// Runs a command where the guest is, without any waiting.
    /// Runs a command as the caller, which ends with this status and says so.
    fn runs(&self, line: &str, (status, expected): (i32, &str)) -> Outcome {
        let mut words = self.prefix();
        words.extend(line.split(' ').map(str::to_owned));
        let output = command(&words).output().map_err(text)?;
        let said = if status == 0 { output.stdout } else { output.stderr };
        let said = String::from_utf8_lossy(&said);
        ensure(output.status.code() == Some(status) && said.contains(expected), || {
            format!("{line:?} ended with {} and said {said:?}", output.status)
        })
    }

    fn inside(&self, line: &str, expected: &str) -> Outcome {
        let mut words = self.prefix();
        let named = |word: &String| word == "--netns" || word == "--netns-type=path";
        let target = self.words.iter().position(named);
        match (&self.child, target.and_then(|at| self.words.get(at + 1))) {
            (Some(child), _) => {
                words = world::enter(child.id(), "--user --net");
            }
            (None, Some(path)) => words.extend(["nsenter".into(), format!("--net={path}")]),
            (None, None) => return Err("there is no inside".into()),
        }
        words.extend(line.split(' ').map(str::to_owned));
        let output = command(&words).output().map_err(text)?;
        let found = String::from_utf8_lossy(&output.stdout);
        ensure(found.contains(expected), || format!("found {found:?}"))
    }

    fn drops_leak(&mut self) -> Outcome {
        let reader = self.leaked.as_mut().ok_or("nothing was leaked")?;
        rustix::io::ioctl_fionbio(&reader, true).map_err(text)?;
        match reader.read(&mut [0]) {
            Ok(0) => Ok(()),
            _ => Err("somebody holds it".into()),
        }
    }
}

/// Whether somebody accepts a connection. Where nobody listens a socket may be given the very port
/// that it is to connect to, and then accepts itself. What is reset at once has been accepted, and has no
/// peer any more.
fn accepted(address: &str) -> Result<bool, String> {
    let address: SocketAddr = address.parse().map_err(text)?;
    let stream = TcpStream::connect(address).map_err(text)?;
    Ok(stream.local_addr().map_err(text)? != address)
}

/// Whether the lines that begin with these words come in this order.
fn in_order(said: &str, expected: &[&str]) -> bool {
    let mut lines = said.lines().map(str::trim);
    expected.iter().all(|words| lines.any(|line| line.starts_with(words)))
}

/// Copies the program, and its variant for newer processors if it has one.
fn copy_program(path: &str) -> Outcome {
    let program = format!("{}/passt", world::BIN);
    fs::copy(&program, path).map_err(text)?;
    let variant = format!("{program}.avx2");
    if exists(&variant) {
        fs::copy(variant, format!("{path}.avx2")).map_err(text)?;
    }
    Ok(())
}

fn exists(path: &str) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// The first attempt must do: nobody waits for a socket whose program has said that it is ready.
fn connect(path: &str) -> Result<UnixStream, String> {
    let stream = UnixStream::connect(path).map_err(|error| format!("cannot connect: {error}"))?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(text)?;
    Ok(stream)
}

/// Whether all that was asked for is granted, by the profiles from the release `from` on.
fn granted(program: &str, from: Option<&str>) -> Outcome {
    let requests = trace::requests(&fs::read_to_string(trace::FILE).map_err(text)?)?;
    // So that a trace of nothing does not pass.
    let raw =
        |socket: &Request| matches!(socket, Request::Socket(family, _) if family == "AF_NETLINK");
    ensure(requests.iter().any(raw), || "the trace is not that of a start".into())?;
    let profiles = policy::profiles(program).iter();
    let profiles = profiles.skip_while(|profile| from.is_some_and(|suite| suite != profile.suite));
    let refused: Vec<String> = profiles
        .flat_map(|profile| {
            let refused = requests.iter().filter(|request| !profile.lets(request));
            refused.map(|request| format!("{} refuses {request:?}", profile.suite))
        })
        .collect();
    ensure(refused.is_empty(), || refused.join("\n    "))
}

/// A command that finds the program where callers look.
fn command(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(&words[1..]).env("PATH", format!("{}:{path}", world::BIN));
    command.stdin(Stdio::null());
    command
}

fn run(words: &[String]) -> Outcome {
    let output = command(words).output().map_err(text)?;
    ensure(output.status.success(), || {
        format!("{words:?} failed: {}", String::from_utf8_lossy(&output.stderr))
    })
}

/// Makes a descriptor inheritable; returns the shell's words that give it its number.
pub fn pass(kept: &mut Vec<OwnedFd>, descriptor: &OwnedFd, number: i32) -> Result<String, String> {
    let high = rustix::io::fcntl_dupfd_cloexec(descriptor, HIGH).map_err(text)?;
    rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty()).map_err(text)?;
    let from = high.as_raw_fd();
    kept.push(high);
    Ok(format!("{number}<&{from} {from}<&- "))
}

/// A file without a name that holds a copy of a program.
fn in_memory(path: &str) -> Result<OwnedFd, String> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let memory = rustix::fs::memfd_create("program", flags).map_err(text)?;
    let mut file = fs::File::from(memory);
    file.write_all(&fs::read(path).map_err(text)?).map_err(text)?;
    // Reopened for reading: a file that is open for writing cannot be run.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(fs::File::open(path).map_err(text)?.into())
}
