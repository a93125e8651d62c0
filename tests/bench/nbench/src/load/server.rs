//! `nbench server`: whatever a client asks for, over TCP and UDP.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use rustix::event::epoll::EventFlags;

use super::pattern::{CHUNK_BYTES, Pattern};
use super::proto::{CORRUPT, Kind, REQUEST_BYTES, Request, VERDICT_BYTES, number};
use super::sock::{self, Poll, would_wait};
use super::source::{Order, blast};
use super::{Outcome, Window};

/// Tokens of the listening sockets; connections follow.
const LISTENER: usize = 0;
const DATAGRAMS: usize = 1;
const FIRST_CONN: usize = 2;
/// How often windows are looked at that nothing arrives for, in milliseconds.
const TURN_MS: i64 = 20;
/// Connections accepted, or datagrams received, before others have their turn.
const BURST: usize = 64;

/// Serves until it is killed. Says `ready` when clients may come.
///
/// # Errors
/// When it cannot listen.
pub fn serve(at: SocketAddr) -> Outcome {
    super::raise_descriptor_limit();
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    // std listens with a backlog of 128; a benchmark opens more at once.
    rustix::net::listen(&listener, 4096)?;
    let datagrams = UdpSocket::bind(at)?;
    sock::prepare_datagrams(&datagrams)?;
    datagrams.set_nonblocking(true)?;
    let poll = Poll::new()?;
    poll.add(&listener, LISTENER, EventFlags::IN)?;
    poll.add(&datagrams, DATAGRAMS, EventFlags::IN)?;
    println!("ready");
    io::stdout().flush()?;
    let buffer = vec![0; CHUNK_BYTES];
    let pattern = Pattern::default();
    let (conns, free, sinks) = (Vec::new(), Vec::new(), Vec::new());
    let tallies = HashMap::new();
    Server { listener, datagrams, poll, buffer, pattern, conns, free, sinks, tallies }.run()
}

/// What was received of one run: bytes in the window, and in all.
struct Tally {
    window: Window,
    counted: u64,
    total: u64,
}

impl Tally {
    fn new(request: &Request) -> Self {
        Self { window: Window::of(request.warmup, request.length), counted: 0, total: 0 }
    }

    fn add(&mut self, bytes: usize) {
        self.total += bytes as u64;
        if self.window.holds(Instant::now()) {
            self.counted += bytes as u64;
        }
    }

    fn verdict(&self) -> [u8; VERDICT_BYTES] {
        let mut bytes = [0; VERDICT_BYTES];
        bytes[..8].copy_from_slice(&self.counted.to_le_bytes());
        bytes[8..].copy_from_slice(&self.total.to_le_bytes());
        bytes
    }
}

enum State {
    Request(Vec<u8>),
    Sink { tally: Tally, corrupt: bool, verify: bool, told: bool },
    Source { offset: u64 },
    Echo { pending: Vec<u8> },
    Tally { id: u64 },
    Ignore,
}

struct Conn {
    socket: TcpStream,
    state: State,
}

struct Server {
    listener: TcpListener,
    datagrams: UdpSocket,
    poll: Poll,
    buffer: Vec<u8>,
    pattern: Pattern,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    /// Connections whose window has not ended.
    sinks: Vec<usize>,
    tallies: HashMap<u64, Tally>,
}

impl Server {
    fn run(mut self) -> Outcome {
        let mut ready: Vec<(usize, EventFlags)> = Vec::new();
        loop {
            ready.extend(self.poll.wait(if self.sinks.is_empty() { 10_000 } else { TURN_MS })?);
            for (token, _) in ready.drain(..) {
                match token {
                    LISTENER => self.accept()?,
                    DATAGRAMS => self.receive_datagrams()?,
                    _ => self.serve_conn(token - FIRST_CONN),
                }
            }
            self.end_windows();
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..BURST {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if would_wait(&error) => return Ok(()),
                // One that was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let slot = self.free.pop().unwrap_or(self.conns.len());
            self.poll.add(&socket, slot + FIRST_CONN, EventFlags::IN)?;
            let conn = Some(Conn { socket, state: State::Request(Vec::new()) });
            if slot == self.conns.len() { self.conns.push(conn) } else { self.conns[slot] = conn }
        }
        Ok(())
    }

    fn serve_conn(&mut self, slot: usize) {
        match self.progress(slot) {
            Err(error) if would_wait(&error) => {}
            Ok(true) => {}
            Ok(false) | Err(_) => {
                if self.conns[slot].take().is_some() {
                    self.free.push(slot);
                    self.sinks.retain(|sink| *sink != slot);
                }
            }
        }
    }

    /// Whether the connection goes on.
    fn progress(&mut self, slot: usize) -> io::Result<bool> {
        let Some(conn) = &mut self.conns[slot] else { return Ok(true) };
        if let State::Source { offset } = &mut conn.state {
            *offset += conn.socket.write(self.pattern.chunk(*offset))? as u64;
            return Ok(true);
        }
        let len = match &conn.state {
            State::Request(got) => {
                conn.socket.read(&mut self.buffer[..REQUEST_BYTES - got.len()])?
            }
            _ => conn.socket.read(&mut self.buffer)?,
        };
        let bytes = &self.buffer[..len];
        match &mut conn.state {
            _ if len == 0 => return Ok(false),
            State::Request(got) => {
                got.extend_from_slice(bytes);
                return self.begin(slot);
            }
            State::Sink { tally, corrupt, verify, .. } => {
                *corrupt |= *verify && !self.pattern.matches(tally.total, bytes);
                tally.add(len);
            }
            State::Echo { pending } => {
                pending.extend_from_slice(bytes);
                return self.echo(slot);
            }
            State::Tally { id } => {
                let tally = self.tallies.get(id).filter(|_| bytes[0] == 1);
                match tally {
                    Some(tally) => conn.socket.write_all(&tally.verdict())?,
                    None => conn.socket.write_all(&bytes[..1])?,
                }
            }
            State::Source { .. } | State::Ignore => {}
        }
        Ok(true)
    }

    /// Does what the request says, if it is there as a whole.
    fn begin(&mut self, slot: usize) -> io::Result<bool> {
        let Some(conn) = &mut self.conns[slot] else { return Ok(true) };
        let State::Request(got) = &conn.state else { return Ok(true) };
        let Ok(bytes) = <&[u8; REQUEST_BYTES]>::try_from(got.as_slice()) else { return Ok(true) };
        let Some(request) = Request::decode(bytes) else { return Ok(false) };
        conn.state = match request.kind {
            Kind::Sink => {
                self.sinks.push(slot);
                let tally = Tally::new(&request);
                State::Sink { tally, corrupt: false, verify: request.verify, told: false }
            }
            Kind::Source => {
                self.poll.change(&conn.socket, slot + FIRST_CONN, EventFlags::OUT)?;
                State::Source { offset: 0 }
            }
            Kind::Echo => State::Echo { pending: Vec::new() },
            Kind::Tally => {
                self.tallies.insert(request.id, Tally::new(&request));
                State::Tally { id: request.id }
            }
            Kind::Ignore => {
                self.poll.change(&conn.socket, slot + FIRST_CONN, EventFlags::empty())?;
                State::Ignore
            }
        };
        Ok(true)
    }

    fn echo(&mut self, slot: usize) -> io::Result<bool> {
        let Some(conn) = &mut self.conns[slot] else { return Ok(true) };
        let State::Echo { pending } = &mut conn.state else { return Ok(true) };
        let sent = conn.socket.write(pending)?;
        pending.drain(..sent);
        Ok(true)
    }

    /// Tells clients of windows that have ended how much it was.
    fn end_windows(&mut self) {
        let now = Instant::now();
        let conns = &mut self.conns;
        self.sinks.retain(|slot| {
            let Some(Conn { socket, state }) = &mut conns[*slot] else { return false };
            let State::Sink { tally, corrupt, told, .. } = state else { return false };
            if *told || now < tally.window.end() {
                return !*told;
            }
            tally.counted = if *corrupt { CORRUPT } else { tally.counted };
            *told = true;
            // A client that is gone needs no verdict.
            let _ = socket.write_all(&tally.verdict());
            false
        });
    }

    fn receive_datagrams(&mut self) -> io::Result<()> {
        for _ in 0..BURST {
            let (run, from) = match self.next_run() {
                Ok(received) => received,
                Err(error) if would_wait(&error) => return Ok(()),
                // The error of an earlier echo.
                Err(_) => continue,
            };
            match self.buffer[0] {
                b'S' => {
                    let id = number(&self.buffer[8..run.bytes.clamp(8, 16)]);
                    if let Some(tally) = self.tallies.get_mut(&id) {
                        tally.add(run.bytes);
                    }
                }
                b'G' => self.send_datagrams(run.bytes, from)?,
                _ => self.echo_datagrams(&run, from),
            }
        }
        Ok(())
    }

    fn next_run(&mut self) -> io::Result<(sock::Run, SocketAddr)> {
        sock::receive_run_from(&self.datagrams, &mut self.buffer)
    }

    fn echo_datagrams(&self, run: &sock::Run, from: SocketAddr) {
        for datagram in self.buffer[..run.bytes].chunks(run.each.max(1)) {
            // What does not get out is lost, as datagrams are.
            let _ = self.datagrams.send_to(datagram, from);
        }
    }

    fn send_datagrams(&self, len: usize, to: SocketAddr) -> io::Result<()> {
        let Some(order) = Order::decode(&self.buffer[..len]) else { return Ok(()) };
        let socket = self.datagrams.try_clone()?;
        std::thread::spawn(move || {
            if let Err(error) = blast(&socket, Some(to), &order) {
                eprintln!("nbench: sending datagrams: {error}");
            }
        });
        Ok(())
    }
}
