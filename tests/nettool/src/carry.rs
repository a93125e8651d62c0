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

/// Time between two steps.
pub const STEP: Duration = Duration::from_millis(20);

/// Stack of a thread: hundreds of them run in a small guest.
const STACK: usize = 128 * 1024;

/// Failures that are told one by one.
const MENTIONED: usize = 4;

/// The kinds, in turn: what the server is asked for, and what is done then.
const KINDS: [(&str, Request, Kind); 4] = [
    ("idle", |_, _| "echo".to_owned(), idle),
    ("busy", |_, _| "echo".to_owned(), busy),
    ("listening", |bytes, seed| format!("drip {bytes} {seed}"), listen),
    ("talking", |bytes, seed| format!("late {bytes} {seed}"), talk),
];

type Request = fn(u64, u64) -> String;

/// Lives on a connection for a time; returns for how long at most nothing arrived that was due.
type Kind = fn(&TcpStream, u64, Duration) -> Result<Duration, Failure>;

/// Holds `count` connections, to each address in turn, for `time`. Prints `open` when all are there; says for each kind
/// for how long at most one of it stood still.
pub fn carry(time: Duration, count: usize, to: &[SocketAddr]) -> Outcome {
    let all_open = Arc::new(Barrier::new(count + 1));
    let mut threads = Vec::with_capacity(count);
    for (number, &address) in to.iter().cycle().take(count).enumerate() {
        let (_, request, live) = KINDS[number / to.len() % KINDS.len()];
        let request = request(bytes(time), number as u64);
        let stream = open(address, &request).map_err(|error| format!("{number}: {error}"))?;
        let all_open = Arc::clone(&all_open);
        let task = move || {
            all_open.wait();
            live(&stream, number as u64, time)
        };
        threads.push((number, thread::Builder::new().stack_size(STACK).spawn(task)?));
    }
    println!("open");
    io::stdout().flush()?;
    all_open.wait();
    let mut longest = [Duration::ZERO; KINDS.len()];
    let mut failures = Vec::new();
    for (number, thread) in threads {
        let longest = &mut longest[number / to.len() % KINDS.len()];
        match thread.join().map_err(|_| "a thread panicked")? {
            Ok(stood) => *longest = stood.max(*longest),
            Err(error) => failures.push(format!("{number}: {error}")),
        }
    }
    if failures.is_empty() {
        let kinds = KINDS.iter().zip(longest);
        let stood: String =
            kinds.map(|((name, ..), time)| format!(" {name} {}", time.as_millis())).collect();
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

fn idle(stream: &TcpStream, number: u64, time: Duration) -> Result<Duration, Failure> {
    thread::sleep(time);
    let sent = Instant::now();
    exchange(stream, &mut Pattern::new(number))?;
    Ok(sent.elapsed())
}

fn busy(stream: &TcpStream, number: u64, time: Duration) -> Result<Duration, Failure> {
    let (begin, mut pattern) = (Instant::now(), Pattern::new(number));
    let mut longest = Duration::ZERO;
    while begin.elapsed() < time {
        let sent = Instant::now();
        exchange(stream, &mut pattern)?;
        longest = longest.max(sent.elapsed());
        thread::sleep(STEP);
    }
    Ok(longest)
}

fn exchange(mut stream: &TcpStream, pattern: &mut Pattern) -> Result<(), Failure> {
    let (mut sent, mut found) = ([0; MESSAGE], [0; MESSAGE]);
    pattern.fill(&mut sent);
    stream.write_all(&sent)?;
    stream.read_exact(&mut found)?;
    if found == sent { Ok(()) } else { Err("wrong content came back".into()) }
}

fn listen(mut stream: &TcpStream, number: u64, time: Duration) -> Result<Duration, Failure> {
    stream.shutdown(Shutdown::Write)?;
    let mut pattern = Pattern::new(number);
    let (mut wanted, mut found) = ([0; MESSAGE], [0; MESSAGE]);
    let mut longest = Duration::ZERO;
    for _ in 0..steps(time) {
        let asked = Instant::now();
        stream.read_exact(&mut found)?;
        longest = longest.max(asked.elapsed());
        pattern.fill(&mut wanted);
        if found != wanted {
            return Err("wrong content was sent".into());
        }
    }
    match stream.read(&mut found)? {
        0 => Ok(longest),
        more => Err(format!("{more} bytes too many").into()),
    }
}

fn talk(mut stream: &TcpStream, number: u64, time: Duration) -> Result<Duration, Failure> {
    // Once both halves are closed, the socket does not know any more.
    let server = stream.peer_addr()?;
    let (mut pattern, mut sent) = (Pattern::new(number), [0; MESSAGE]);
    for _ in 0..steps(time) {
        pattern.fill(&mut sent);
        stream.write_all(&sent)?;
        thread::sleep(STEP);
    }
    stream.shutdown(Shutdown::Write)?;
    verdict(server, number)
}
