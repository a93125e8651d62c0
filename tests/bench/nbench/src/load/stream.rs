//! `nbench stream`: bulk over TCP, either way or both at once.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use rustix::event::epoll::EventFlags;

use super::pattern::{CHUNK_BYTES, Pattern};
use super::proto::{CORRUPT, Kind, Request, VERDICT_BYTES, number};
use super::sock::{Poll, would_wait};
use super::{PATIENCE, Window, echo};
use crate::args::Args;
use crate::report::Stream;

const TURN_MS: i64 = 100;

struct Conn {
    socket: TcpStream,
    kind: Kind,
    /// Bytes sent, or received.
    offset: u64,
    /// What was received in the window, and in all: counted here, or the server's verdict.
    counted: u64,
    total: u64,
    verdict: Vec<u8>,
    done: bool,
}

struct Run {
    window: Window,
    verify: bool,
    pattern: Pattern,
    buffer: Vec<u8>,
    conns: Vec<Conn>,
}

/// # Errors
/// The arguments, a connection that failed, no verdict, or a payload that differs.
pub fn run(to: SocketAddr, words: &[&str]) -> Result<Stream, Box<dyn Error>> {
    let known = ["way", "streams", "stalled", "verify", "seconds", "warmup"];
    let args = Args::parse(words, &known)?;
    let way: String = args.value("way", "put".to_owned())?;
    let kinds: &[Kind] = match way.as_str() {
        "put" => &[Kind::Sink],
        "get" => &[Kind::Source],
        "both" => &[Kind::Sink, Kind::Source],
        _ => return Err(format!("no such way: '{way}'").into()),
    };
    let verify = args.value("verify", 0)? != 0;
    let window = Window::begin(&args)?;
    let request =
        |kind| Request { kind, verify, warmup: window.warmup, length: window.length, id: 0 };
    // Their windows close, and what the server sends fills every buffer on the way.
    let stalled: Vec<TcpStream> = (0..args.value("stalled", 0)?)
        .map(|_| echo::request(to, &request(Kind::Source)))
        .collect::<Result<_, _>>()?;
    let mut conns = Vec::new();
    for kind in std::iter::repeat_n(kinds, args.value("streams", 1)?).flatten() {
        conns.push(Conn::open(to, &request(*kind))?);
    }
    let (pattern, buffer) = (Pattern::default(), vec![0; CHUNK_BYTES]);
    let report = Run { window: window.again(), verify, pattern, buffer, conns }.measure();
    drop(stalled);
    report
}

impl Conn {
    fn open(to: SocketAddr, request: &Request) -> Result<Self, Box<dyn Error>> {
        let socket = echo::request(to, request)?;
        socket.set_nonblocking(true)?;
        let verdict = Vec::with_capacity(VERDICT_BYTES);
        Ok(Self {
            socket,
            kind: request.kind,
            offset: 0,
            counted: 0,
            total: 0,
            verdict,
            done: false,
        })
    }
}

impl Run {
    fn measure(mut self) -> Result<Stream, Box<dyn Error>> {
        let mut poll = Poll::new()?;
        for (token, conn) in self.conns.iter().enumerate() {
            let sends = if conn.kind == Kind::Sink { EventFlags::OUT } else { EventFlags::empty() };
            poll.add(&conn.socket, token, EventFlags::IN | sends)?;
        }
        let deadline = self.window.end() + PATIENCE;
        while self.conns.iter().any(|conn| !conn.done) {
            let ready: Vec<_> = poll.wait(TURN_MS)?.collect();
            for (token, flags) in ready {
                self.progress(token, flags)?;
            }
            let now = Instant::now();
            if now > deadline {
                return Err("the server gave no verdict".into());
            }
            let over = now >= self.window.end();
            for conn in self.conns.iter_mut().filter(|conn| conn.kind == Kind::Source) {
                conn.done |= over;
            }
        }
        self.report()
    }

    fn progress(&mut self, token: usize, flags: EventFlags) -> Result<(), Box<dyn Error>> {
        let conn = &mut self.conns[token];
        let result = match conn.kind {
            _ if conn.done => return Ok(()),
            Kind::Source => self.receive(token),
            _ if flags.contains(EventFlags::IN) => conn.hear_verdict(),
            _ => conn.send(&self.pattern),
        };
        match result {
            Err(error) if would_wait(&error) => Ok(()),
            other => Ok(other?),
        }
    }

    fn receive(&mut self, token: usize) -> io::Result<()> {
        let conn = &mut self.conns[token];
        let len = conn.socket.read(&mut self.buffer)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.verify && !self.pattern.matches(conn.offset, &self.buffer[..len]) {
            return Err(io::Error::other(format!("the payload differs behind {}", conn.offset)));
        }
        conn.offset += len as u64;
        conn.total += len as u64;
        if self.window.holds(Instant::now()) {
            conn.counted += len as u64;
        }
        Ok(())
    }

    fn report(&self) -> Result<Stream, Box<dyn Error>> {
        if self.conns.iter().any(|conn| conn.counted == CORRUPT) {
            return Err("the payload that the server received differs".into());
        }
        let each: Vec<f64> =
            self.conns.iter().map(|conn| self.window.gbit_per_s(conn.counted)).collect();
        Ok(Stream {
            gbit_per_s: each.iter().sum(),
            each_gbit_per_s: each,
            total_bytes: self.conns.iter().map(|conn| conn.total).sum(),
        })
    }
}

impl Conn {
    fn send(&mut self, pattern: &Pattern) -> io::Result<()> {
        self.offset += self.socket.write(pattern.chunk(self.offset))? as u64;
        Ok(())
    }

    fn hear_verdict(&mut self) -> io::Result<()> {
        let mut bytes = [0; VERDICT_BYTES];
        let missing = VERDICT_BYTES - self.verdict.len();
        let len = self.socket.read(&mut bytes[..missing])?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.verdict.extend_from_slice(&bytes[..len]);
        if self.verdict.len() == VERDICT_BYTES {
            self.counted = number(&self.verdict);
            self.total = number(&self.verdict[8..]);
            self.done = true;
        }
        Ok(())
    }
}
