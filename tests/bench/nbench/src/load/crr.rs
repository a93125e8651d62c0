//! `nbench crr`: connections that live for one request and one response.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::Window;
use super::proto::{Kind, Request};
use super::sock::{Poll, begin_connect, would_wait};
use crate::args::Args;
use crate::histogram::Histogram;
use crate::report::Transactions;

/// When a connection counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(3);
const TURN_MS: i64 = 100;

/// The byte that comes back.
const QUESTION: u8 = 0x5a;

struct Slot {
    socket: TcpStream,
    begun: Instant,
    asked: bool,
}

struct Run {
    to: SocketAddr,
    poll: Poll,
    request: Vec<u8>,
    /// None where no more connections are to be opened.
    slots: Vec<Option<Slot>>,
    /// Connections that are still to be opened, if their number ends the run.
    left: Option<u64>,
    window: Window,
    histogram: Histogram,
    total: u64,
    lost: u64,
}

/// # Errors
/// The arguments, or when no socket can be had.
pub fn run(to: SocketAddr, words: &[&str]) -> Result<Transactions, Box<dyn Error>> {
    let args = Args::parse(words, &["concurrent", "count", "seconds", "warmup"])?;
    let concurrent: usize = args.value("concurrent", 1)?;
    let left = Some(args.value("count", 0_u64)?).filter(|count| *count > 0);
    let mut request = Request::of(Kind::Echo).encode().to_vec();
    request.push(QUESTION);
    let window = Window::begin(&args)?;
    let (poll, histogram) = (Poll::new()?, Histogram::default());
    let slots = Vec::with_capacity(concurrent);
    let mut run = Run { to, poll, request, slots, left, window, histogram, total: 0, lost: 0 };
    for token in 0..concurrent {
        run.slots.push(None);
        run.replace(token)?;
    }
    run.measure()
}

impl Run {
    fn open(&self, token: usize) -> io::Result<Slot> {
        let begun = Instant::now();
        let socket = begin_connect(self.to)?;
        self.poll.add(&socket, token, EventFlags::OUT)?;
        Ok(Slot { socket, begun, asked: false })
    }

    fn measure(mut self) -> Result<Transactions, Box<dyn Error>> {
        let begin = Instant::now();
        while self.goes_on() {
            let ready: Vec<usize> = self.poll.wait(TURN_MS)?.map(|(token, _)| token).collect();
            for token in ready {
                self.progress(token)?;
            }
            self.replace_lost()?;
        }
        let per_s = match self.left {
            Some(_) => self.total as f64 / begin.elapsed().as_secs_f64(),
            None => self.window.per_s(self.histogram.count()),
        };
        let latency = self.histogram.summary();
        Ok(Transactions { per_s, latency, total: self.total, lost: self.lost })
    }

    /// With a number of connections until the last one is over, else for as long as it is measured.
    fn goes_on(&self) -> bool {
        match self.left {
            Some(_) => self.slots.iter().any(Option::is_some),
            None => Instant::now() < self.window.end(),
        }
    }

    fn progress(&mut self, token: usize) -> io::Result<()> {
        let Some(slot) = &mut self.slots[token] else { return Ok(()) };
        let done = if slot.asked { receive(&mut slot.socket) } else { send(slot, &self.request) };
        match done {
            Ok(false) => self.poll.change(&slot.socket, token, EventFlags::IN),
            Ok(true) => {
                let now = Instant::now();
                self.total += 1;
                if self.left.is_some() || self.window.holds(now) {
                    self.histogram.record((now - slot.begun).as_nanos() as u64);
                }
                self.replace(token)
            }
            Err(error) if would_wait(&error) => Ok(()),
            Err(error) => self.lose(token, &error.to_string()),
        }
    }

    /// Opens the next connection, if there is one.
    fn replace(&mut self, token: usize) -> io::Result<()> {
        self.slots[token] = None;
        match &mut self.left {
            Some(0) => return Ok(()),
            Some(left) => *left -= 1,
            None => {}
        }
        self.slots[token] = Some(self.open(token)?);
        Ok(())
    }

    /// Where each of them counts, it is said what has become of it.
    fn lose(&mut self, token: usize, why: &str) -> io::Result<()> {
        self.lost += 1;
        if self.left.is_some() {
            eprintln!("nbench: behind {} good connections: {why}", self.total);
        }
        self.replace(token)
    }

    fn replace_lost(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for token in 0..self.slots.len() {
            let late = |slot: &Slot| now.saturating_duration_since(slot.begun) > LOST_AFTER;
            if self.slots[token].as_ref().is_some_and(late) {
                self.lose(token, "no answer in time")?;
            }
        }
        Ok(())
    }
}

/// Sends the request once the connection is there. Never the end.
fn send(slot: &mut Slot, request: &[u8]) -> io::Result<bool> {
    let sent = slot.socket.write(request)?;
    slot.asked = true;
    if sent == request.len() { Ok(false) } else { Err(io::Error::other("a request was cut")) }
}

/// Takes the response: whether it is there.
fn receive(socket: &mut TcpStream) -> io::Result<bool> {
    let mut answer = [0];
    match socket.read(&mut answer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ if answer == [QUESTION] => Ok(true),
        _ => Err(io::Error::other("a wrong answer")),
    }
}
