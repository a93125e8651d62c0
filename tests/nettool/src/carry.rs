//! Connections that live through something: a crowd of four kinds, each byte of which is compared.
//!
//! | kind | what it does |
//! |---|---|
//! | idle | nothing, until a last message there and back |
//! | busy | messages there and back, one after the other |
//! | listening | has closed its own half, and reads what the server has to say, step by step |
//! | talking | the server has closed its half, and is told more and more |
//!
//! They live until a file appears; the servers are told, too.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::pattern::Pattern;
use crate::tcp::{Failure, open, verdict};

/// Bytes of a message, and of each step of a slow stream.
pub const MESSAGE: usize = 4096;

/// Time between two steps: an emulated guest with two hundred connections has a rest in it, too.
pub const STEP: Duration = Duration::from_millis(100);

/// Stack of a thread: hundreds of them run in a small guest.
const STACK: usize = 128 * 1024;

/// Failures that are told one by one.
const MENTIONED: usize = 4;

/// A kind of connection.
pub struct Kind {
    name: &'static str,
    /// What the server is asked for, with a seed.
    request: fn(u64) -> String,
    /// What is done before all are there, so that nobody waits for the others to begin.
    begin: fn(&mut Life<'_>) -> Result<(), Failure>,
    /// What is done then; returns for how long at most nothing arrived that was due.
    live: fn(&mut Life<'_>) -> Result<Duration, Failure>,
}

/// The kinds, in turn.
const KINDS: [Kind; 4] = [
    Kind { name: "idle", request: |_| "echo".to_owned(), begin: exchange, live: idle },
    Kind { name: "busy", request: |_| "echo".to_owned(), begin: exchange, live: busy },
    Kind {
        name: "listening",
        request: |seed| format!("drip {seed}"),
        begin: begin_to_listen,
        live: listen,
    },
    Kind { name: "talking", request: |seed| format!("late {seed}"), begin: |_| Ok(()), live: talk },
];

/// A connection with what is known of it.
struct Life<'a> {
    stream: &'a TcpStream,
    seed: u64,
    /// It has lived for long enough.
    enough: &'a AtomicBool,
    /// What goes over it, from here on.
    pattern: Pattern,
    /// Bytes of that.
    bytes: u64,
}

impl Life<'_> {
    fn goes_on(&self) -> bool {
        !self.enough.load(Ordering::Relaxed)
    }
}

/// The kinds with these names, separated by commas; `all` for all.
///
/// # Errors
/// A name that none has.
pub fn kinds(names: &str) -> Result<Vec<&'static Kind>, Failure> {
    if names == "all" {
        return Ok(KINDS.iter().collect());
    }
    let find = |name| KINDS.iter().find(|kind| kind.name == name);
    let found = names.split(',').map(|name| find(name).ok_or(format!("no kind '{name}'").into()));
    found.collect()
}

/// Until when connections are held.
pub enum End {
    /// For so long.
    After(Duration),
    /// Until there is this file.
    File(PathBuf),
}

impl End {
    /// A number of seconds, or the path of a file.
    pub fn parse(word: &str) -> Self {
        word.parse()
            .map_or_else(|_| Self::File(word.into()), |s| Self::After(Duration::from_secs(s)))
    }

    fn has_come(&self, since: Instant) -> bool {
        match self {
            Self::After(time) => since.elapsed() >= *time,
            Self::File(path) => path.exists(),
        }
    }
}

/// Holds `count` connections of these kinds, to each address in turn, until the `end`. Prints `open` when all
/// are there and have begun; says for each kind for how long at most one of it stood still since then.
pub fn carry(end: &End, count: usize, kinds: &[&'static Kind], to: &[SocketAddr]) -> Outcome {
    let all_begun = Arc::new(Barrier::new(count + 1));
    let enough = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::with_capacity(count);
    for (number, &address) in to.iter().cycle().take(count).enumerate() {
        let (kind, seed) = (kinds[number / to.len() % kinds.len()], number as u64);
        let mut stream = open(address).map_err(|error| format!("{number}: {error}"))?;
        writeln!(stream, "{}", (kind.request)(seed))?;
        let (all_begun, enough) = (Arc::clone(&all_begun), Arc::clone(&enough));
        let task = move || {
            let (stream, pattern, bytes) = (&stream, Pattern::new(seed), 0);
            let mut life = Life { stream, seed, enough: &enough, pattern, bytes };
            let begun = (kind.begin)(&mut life);
            all_begun.wait();
            begun.and_then(|()| (kind.live)(&mut life))
        };
        threads.push((number, thread::Builder::new().stack_size(STACK).spawn(task)?));
    }
    all_begun.wait();
    println!("open");
    io::stdout().flush()?;
    let begin = Instant::now();
    while !end.has_come(begin) {
        thread::sleep(STEP);
    }
    enough.store(true, Ordering::Relaxed);
    for &address in to {
        writeln!(open(address)?, "enough")?;
    }
    let mut longest = vec![Duration::ZERO; kinds.len()];
    let mut failures = Vec::new();
    for (number, thread) in threads {
        let longest = &mut longest[number / to.len() % kinds.len()];
        match thread.join().map_err(|_| "a thread panicked")? {
            Ok(stood) => *longest = stood.max(*longest),
            Err(error) => failures.push(format!("{number}: {error}")),
        }
    }
    if failures.is_empty() {
        let stood: String = kinds
            .iter()
            .zip(longest)
            .map(|(kind, time)| format!(" {} {}", kind.name, time.as_millis()))
            .collect();
        return Ok(format!("ok {count} connections, stood still for (ms):{stood}"));
    }
    let count_failed = failures.len();
    failures.truncate(MENTIONED);
    Err(format!("{count_failed} of {count}: {}", failures.join("; ")).into())
}

/// A message there and back.
fn exchange(life: &mut Life<'_>) -> Result<(), Failure> {
    let mut stream = life.stream;
    let (mut sent, mut found) = ([0; MESSAGE], [0; MESSAGE]);
    life.pattern.fill(&mut sent);
    stream.write_all(&sent)?;
    stream.read_exact(&mut found)?;
    if found == sent { Ok(()) } else { Err("wrong content came back".into()) }
}

fn idle(life: &mut Life<'_>) -> Result<Duration, Failure> {
    while life.goes_on() {
        thread::sleep(STEP);
    }
    let sent = Instant::now();
    exchange(life)?;
    Ok(sent.elapsed())
}

fn busy(life: &mut Life<'_>) -> Result<Duration, Failure> {
    let mut longest = Duration::ZERO;
    while life.goes_on() {
        let sent = Instant::now();
        exchange(life)?;
        longest = longest.max(sent.elapsed());
        thread::sleep(STEP);
    }
    Ok(longest)
}

fn begin_to_listen(life: &mut Life<'_>) -> Result<(), Failure> {
    life.stream.shutdown(Shutdown::Write)?;
    hear(life).map(drop)
}

/// Reads more of what the server sends by itself; false at the end.
fn hear(life: &mut Life<'_>) -> Result<bool, Failure> {
    let mut stream = life.stream;
    let (mut found, mut scratch) = ([0; MESSAGE], [0; MESSAGE]);
    let count = stream.read(&mut found)?;
    life.bytes += count as u64;
    if !life.pattern.continues_with(&found[..count], &mut scratch) {
        return Err("wrong content was sent".into());
    }
    Ok(count > 0)
}

fn listen(life: &mut Life<'_>) -> Result<Duration, Failure> {
    // The socket may not know any more, in the end.
    let server = life.stream.peer_addr()?;
    let mut longest = Duration::ZERO;
    loop {
        let asked = Instant::now();
        let more = hear(life)?;
        longest = longest.max(asked.elapsed());
        if !more {
            break;
        }
    }
    let [sent, _] = verdict(server, life.seed)?;
    if sent == life.bytes {
        Ok(longest)
    } else {
        Err(format!("{} of {sent} bytes", life.bytes).into())
    }
}

fn talk(life: &mut Life<'_>) -> Result<Duration, Failure> {
    let mut stream = life.stream;
    let server = stream.peer_addr()?;
    let mut sent = [0; MESSAGE];
    while life.goes_on() {
        life.pattern.fill(&mut sent);
        stream.write_all(&sent)?;
        life.bytes += MESSAGE as u64;
        thread::sleep(STEP);
    }
    stream.shutdown(Shutdown::Write)?;
    let [found, pause] = verdict(server, life.seed)?;
    let all = found == life.bytes;
    if all {
        Ok(Duration::from_millis(pause))
    } else {
        Err(format!("{found} bytes of {}", life.bytes).into())
    }
}
