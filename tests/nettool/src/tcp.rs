//! The client's half of the TCP requests; `serve` describes the protocol.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::pattern::Pattern;
use crate::pulse::Pulse;
use crate::serve::receive_pattern;

/// Bytes moved by one system call.
pub const CHUNK: usize = 64 * 1024;

/// How long one read, write or connection attempt may take before the promise
/// counts as broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What went wrong, in any thread.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Moves `bytes` of a pattern as `command` says.
pub fn transfer(command: &str, to: SocketAddr, bytes: u64, seed: u64) -> Outcome {
    let begin = Instant::now();
    let pulse = Pulse::start();
    let mut stream = open(to)?;
    match command {
        "late" => writeln!(stream, "late {seed}")?,
        _ => writeln!(stream, "{command} {bytes} {seed}")?,
    }
    match command {
        "get" => expect(receive_pattern(&mut stream, seed, Duration::ZERO)?, bytes)?,
        "late" => {
            expect(receive_pattern(&mut stream, seed, Duration::ZERO)?, 0)?;
            put(&stream, bytes, seed)?;
            expect(stream.read(&mut [0; 1])? as u64, 0)?;
            let [found, _pause] = verdict(to, seed).map_err(|failure| failure as Box<dyn Error>)?;
            expect(found, bytes)?;
        }
        _ => {
            put(&stream, bytes, seed)?;
            expect_ok(&read_all(stream)?)?;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let rate = bytes as f64 * 8.0 / 1e6 / seconds;
    let pause = pulse.stop().as_millis();
    Ok(format!("ok {bytes} bytes {seconds:.2} s {rate:.0} Mbit/s, longest pause {pause} ms"))
}

/// Opens `count` connections one after the other; each must echo and end well.
pub fn short(to: SocketAddr, count: u64) -> Outcome {
    let begin = Instant::now();
    for turn in 0..count {
        echo_once(to, turn).map_err(|error| format!("connection {turn}: {error}"))?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(format!("ok {count} connections {seconds:.2} s"))
}

/// What becomes of a connection: `connected`, or the kind of error.
pub fn connect(to: SocketAddr) -> String {
    match open(to) {
        Ok(_) => "connected".to_owned(),
        Err(error) => describe(&error),
    }
}

/// The kind of an error, in the words that the scripts compare.
pub fn describe(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::HostUnreachable => "unreachable".to_owned(),
        ErrorKind::NetworkUnreachable => "no route".to_owned(),
        ErrorKind::ConnectionReset => "reset".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "silent".to_owned(),
        _ => error.to_string(),
    }
}

/// Writes `bytes` of the pattern of `seed`.
///
/// # Errors
/// What the stream reports.
pub fn send_pattern(mut stream: &TcpStream, bytes: u64, seed: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(CHUNK as u64) as usize;
        pattern.fill(&mut chunk[..part]);
        stream.write_all(&chunk[..part])?;
        left -= part as u64;
    }
    Ok(())
}

fn put(stream: &TcpStream, bytes: u64, seed: u64) -> io::Result<()> {
    send_pattern(stream, bytes, seed)?;
    stream.shutdown(Shutdown::Write)
}

/// The verdict that the server keeps of the request with `seed`: how many bytes there were, and for how many ms at most
/// nothing came.
///
/// # Errors
/// What the stream reports; what was wrong.
pub fn verdict(to: SocketAddr, seed: u64) -> Result<[u64; 2], Failure> {
    let mut stream = open(to)?;
    writeln!(stream, "verdict {seed}")?;
    let verdict = read_all(stream)?;
    let numbers = verdict.strip_prefix("ok ").and_then(|numbers| numbers.split_once(' '));
    let parsed =
        numbers.and_then(|(bytes, pause)| Some([bytes.parse().ok()?, pause.parse().ok()?]));
    parsed.ok_or_else(|| format!("the server found: {verdict}").into())
}

fn echo_once(to: SocketAddr, turn: u64) -> Result<(), Box<dyn Error>> {
    let mut sent = [0; 16];
    Pattern::new(turn).fill(&mut sent);
    let mut stream = open(to)?;
    stream.write_all(b"echo\n")?;
    stream.write_all(&sent)?;
    stream.shutdown(Shutdown::Write)?;
    let mut found = Vec::new();
    stream.read_to_end(&mut found)?;
    if found == sent { Ok(()) } else { Err(format!("{} bytes came back", found.len()).into()) }
}

/// A connection that waits no longer than [`PATIENCE`].
///
/// # Errors
/// What connect(2) and setsockopt(2) report.
pub fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn read_all(mut stream: TcpStream) -> io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

fn expect(found: u64, expected: u64) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{found} bytes instead of {expected}")) }
}

fn expect_ok(verdict: &str) -> Result<(), String> {
    if verdict == "ok" { Ok(()) } else { Err(format!("the server found: {verdict}")) }
}
