//! Connections that live through something: a crowd of four kinds, each byte of which is compared.
//!
//! | kind | what it does |
//! |---|---|
//! | idle | nothing, until a last message there and back |
//! | busy | messages there and back, one after the other |
//! | listening | has closed its own half, and reads what the server has to say, step by step |
//! | talking | the server has closed its half, and is told more and more |

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::pattern::Pattern;
use crate::tcp::{Failure, PATIENCE, verdict};

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
    /// What the server is asked for, with so many bytes and a seed.
    request: fn(u64, u64) -> String,
    /// What is done before all are there, so that nobody waits for the others to begin.
    begin: fn(&mut Life<'_>) -> Result<(), Failure>,
    /// What is done then; returns for how long at most nothing arrived that was due.
    live: fn(&mut Life<'_>) -> Result<Duration, Failure>,
}

/// The kinds, in turn.
const KINDS: [Kind; 4] = [
    Kind { name: "idle", request: |_, _| "echo".to_owned(), begin: exchange, live: idle },
    Kind { name: "busy", request: |_, _| "echo".to_owned(), begin: exchange, live: busy },
    Kind { name: "listening", request: drip, begin: begin_to_listen, live: listen },
    Kind { name: "talking", request: late, begin: |_| Ok(()), live: talk },
];

/// A connection with what is known of it.
struct Life<'a> {
    stream: &'a TcpStream,
    number: u64,
    /// For how long it is to live.
    time: Duration,
    /// What goes over it, from here on.
    pattern: Pattern,
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

/// Holds `count` connections of these kinds, to each address in turn, for `time`. Prints `open` when all are there and have
/// begun; says for each kind for how long at most one of it stood still since then.
pub fn carry(time: Duration, count: usize, kinds: &[&'static Kind], to: &[SocketAddr]) -> Outcome {
    let all_begun = Arc::new(Barrier::new(count + 1));
    let mut threads = Vec::with_capacity(count);
    for (number, &address) in to.iter().cycle().take(count).enumerate() {
        let kind = kinds[number / to.len() % kinds.len()];
        let request = (kind.request)(bytes(time), number as u64);
        let stream = open(address, &request).map_err(|error| format!("{number}: {error}"))?;
        let all_begun = Arc::clone(&all_begun);
        let task = move || {
            let (number, pattern) = (number as u64, Pattern::new(number as u64));
            let mut life = Life { stream: &stream, number, time, pattern };
            let begun = (kind.begin)(&mut life);
            all_begun.wait();
            begun.and_then(|()| (kind.live)(&mut life))
        };
        threads.push((number, thread::Builder::new().stack_size(STACK).spawn(task)?));
    }
    all_begun.wait();
    println!("open");
    io::stdout().flush()?;
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

fn open(to: SocketAddr, request: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    writeln!(stream, "{request}")?;
    Ok(stream)
}

/// How many steps a slow stream has, and its bytes.
fn steps(time: Duration) -> u64 {
    time.as_millis().div_ceil(STEP.as_millis()) as u64
}

fn bytes(time: Duration) -> u64 {
    steps(time) * MESSAGE as u64
}

fn drip(bytes: u64, seed: u64) -> String {
    format!("drip {bytes} {seed}")
}

fn late(bytes: u64, seed: u64) -> String {
    format!("late {bytes} {seed}")
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

/// The next message of those that the server sends by itself.
fn hear(life: &mut Life<'_>) -> Result<(), Failure> {
    let mut stream = life.stream;
    let (mut wanted, mut found) = ([0; MESSAGE], [0; MESSAGE]);
    stream.read_exact(&mut found)?;
    life.pattern.fill(&mut wanted);
    if found == wanted { Ok(()) } else { Err("wrong content was sent".into()) }
}

fn idle(life: &mut Life<'_>) -> Result<Duration, Failure> {
    thread::sleep(life.time);
    let sent = Instant::now();
    exchange(life)?;
    Ok(sent.elapsed())
}

fn busy(life: &mut Life<'_>) -> Result<Duration, Failure> {
    let begin = Instant::now();
    let mut longest = Duration::ZERO;
    while begin.elapsed() < life.time {
        let sent = Instant::now();
        exchange(life)?;
        longest = longest.max(sent.elapsed());
        thread::sleep(STEP);
    }
    Ok(longest)
}

fn begin_to_listen(life: &mut Life<'_>) -> Result<(), Failure> {
    life.stream.shutdown(Shutdown::Write)?;
    hear(life)
}

fn listen(life: &mut Life<'_>) -> Result<Duration, Failure> {
    let mut longest = Duration::ZERO;
    // The first one has been heard.
    for _ in 1..steps(life.time) {
        let asked = Instant::now();
        hear(life)?;
        longest = longest.max(asked.elapsed());
    }
    let mut stream = life.stream;
    match stream.read(&mut [0; MESSAGE])? {
        0 => Ok(longest),
        more => Err(format!("{more} bytes too many").into()),
    }
}

fn talk(life: &mut Life<'_>) -> Result<Duration, Failure> {
    let mut stream = life.stream;
    // Once both halves are closed, the socket does not know any more.
    let server = stream.peer_addr()?;
    let mut sent = [0; MESSAGE];
    for _ in 0..steps(life.time) {
        life.pattern.fill(&mut sent);
        stream.write_all(&sent)?;
        thread::sleep(STEP);
    }
    stream.shutdown(Shutdown::Write)?;
    verdict(server, life.number)
}
