//! `nbench soak`: traffic at a steady rate for a long time, looked at closely.
//!
//! Connections carry the pattern both ways, and both ends compare every byte. Beside them, short
//! connections come and go. Each socket has a limit for how long it may wait: a reader that gets
//! nothing, or a writer that can put nothing, for so long is a stall, and the end of the soak.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::pattern::{CHUNK_BYTES, Pattern};
use super::proto::{CORRUPT, Kind, Request, VERDICT_BYTES, number};
use super::{PATIENCE, echo};
use crate::args::Args;
use crate::report::Soak;

/// Between short connections.
const CHURN: Duration = Duration::from_millis(20);

/// One direction's orders.
#[derive(Clone, Copy)]
struct Plan {
    to: SocketAddr,
    end: Instant,
    length: Duration,
    /// Bytes in a second.
    rate: f64,
    gap: Duration,
}

/// What came of one direction.
#[derive(Default)]
struct Carried {
    bytes: u64,
    longest_gap: Duration,
}

/// # Errors
/// The arguments, a connection that failed or stalled, or a payload that differs.
pub fn run(to: SocketAddr, words: &[&str]) -> Result<Soak, Box<dyn Error>> {
    let args = Args::parse(words, &["streams", "mbit", "gap_ms", "seconds"])?;
    let length = Duration::try_from_secs_f64(args.value("seconds", 60.0)?)?;
    let gap = Duration::from_millis(args.value("gap_ms", 1000)?);
    let rate = args.value("mbit", 100.0_f64)? * 1e6 / 8.0;
    let plan = Plan { to, end: Instant::now() + length, length, rate, gap };
    let begin = |work: fn(Plan) -> io::Result<Carried>| thread::spawn(move || work(plan));
    let mut bulk = Vec::new();
    for _ in 0..args.value("streams", 2)? {
        bulk.extend([begin(put), begin(get)]);
    }
    let short = begin(churn);
    let mut report = Soak::default();
    for (place, direction) in bulk.into_iter().enumerate() {
        let what = if place % 2 == 0 { "sending" } else { "receiving" };
        let carried = end(direction).map_err(|error| format!("{what}: {error}"))?;
        report.total_bytes += carried.bytes;
        report.longest_gap_ms = report.longest_gap_ms.max(carried.longest_gap.as_secs_f64() * 1e3);
    }
    report.connections = end(short).map_err(|error| format!("short connections: {error}"))?.bytes;
    report.gbit_per_s = report.total_bytes as f64 * 8e-9 / length.as_secs_f64();
    Ok(report)
}

fn end(work: JoinHandle<io::Result<Carried>>) -> io::Result<Carried> {
    work.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")))
}

impl Plan {
    fn connect(&self, kind: Kind) -> io::Result<TcpStream> {
        let request =
            Request { kind, verify: true, warmup: Duration::ZERO, length: self.length, id: 0 };
        let socket = echo::request(self.to, &request)
            .map_err(|error| io::Error::other(error.to_string()))?;
        socket.set_read_timeout(Some(self.gap))?;
        socket.set_write_timeout(Some(self.gap))?;
        Ok(socket)
    }

    /// Moves data with `step`, which says how much, at the rate until the end.
    fn carry(&self, mut step: impl FnMut(u64) -> io::Result<usize>) -> io::Result<Carried> {
        let (begin, mut carried) = (Instant::now(), Carried::default());
        while Instant::now() < self.end {
            let due = begin + Duration::from_secs_f64(carried.bytes as f64 / self.rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let before = Instant::now();
            let moved = step(carried.bytes).map_err(|error| {
                io::Error::other(format!("behind byte {}: {}", carried.bytes, name(&error)))
            })?;
            carried.longest_gap = carried.longest_gap.max(before.elapsed());
            carried.bytes += moved as u64;
        }
        Ok(carried)
    }
}

/// A call that took longer than it may says that it would have to wait.
fn name(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "stalled".to_owned(),
        _ => error.to_string(),
    }
}

fn put(plan: Plan) -> io::Result<Carried> {
    let (mut socket, pattern) = (plan.connect(Kind::Sink)?, Pattern::default());
    let carried = plan.carry(|offset| socket.write(pattern.chunk(offset)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut verdict = [0; VERDICT_BYTES];
    socket.read_exact(&mut verdict)?;
    match number(&verdict) {
        CORRUPT => Err(io::Error::other("the payload that the server received differs")),
        _ => Ok(carried),
    }
}

fn get(plan: Plan) -> io::Result<Carried> {
    let (mut socket, pattern) = (plan.connect(Kind::Source)?, Pattern::default());
    let mut buffer = vec![0; CHUNK_BYTES];
    plan.carry(|offset| {
        let len = socket.read(&mut buffer)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !pattern.matches(offset, &buffer[..len]) {
            return Err(io::Error::other("the payload differs"));
        }
        Ok(len)
    })
}

/// One short connection after the other; their number is what was carried.
fn churn(plan: Plan) -> io::Result<Carried> {
    let mut carried = Carried::default();
    while Instant::now() < plan.end {
        let mut socket = plan.connect(Kind::Echo)?;
        echo::exchange(&mut socket)?;
        carried.bytes += 1;
        thread::sleep(CHURN);
    }
    Ok(carried)
}
