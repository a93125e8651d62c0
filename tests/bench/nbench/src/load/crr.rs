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

struct Slot {
    socket: TcpStream,
    begun: Instant,
    asked: bool,
}

struct Run {
    to: SocketAddr,
    poll: Poll,
    request: Vec<u8>,
    slots: Vec<Slot>,
    window: Window,
    histogram: Histogram,
    total: u64,
    lost: u64,
}

/// # Errors
/// The arguments, or when no socket can be had.
pub fn run(to: SocketAddr, words: &[&str]) -> Result<Transactions, Box<dyn Error>> {
    let args = Args::parse(words, &["concurrent", "seconds", "warmup"])?;
    let concurrent: usize = args.value("concurrent", 1)?;
    let mut request = Request::of(Kind::Echo).encode().to_vec();
    request.push(0);
    let window = Window::begin(&args)?;
    let (poll, histogram) = (Poll::new()?, Histogram::default());
    let mut run =
        Run { to, poll, request, slots: Vec::new(), window, histogram, total: 0, lost: 0 };
    for token in 0..concurrent {
        let slot = run.open(token)?;
        run.slots.push(slot);
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
        while Instant::now() < self.window.end() {
            let ready: Vec<usize> = self.poll.wait(TURN_MS)?.map(|(token, _)| token).collect();
            for token in ready {
                self.progress(token)?;
            }
            self.replace_lost()?;
        }
        let per_s = self.window.per_s(self.histogram.count());
        let latency = self.histogram.summary();
        Ok(Transactions { per_s, latency, total: self.total, lost: self.lost })
    }

    fn progress(&mut self, token: usize) -> io::Result<()> {
        let slot = &mut self.slots[token];
        let done = if slot.asked { receive(&mut slot.socket) } else { send(slot, &self.request) };
        match done {
            Ok(false) => self.poll.change(&self.slots[token].socket, token, EventFlags::IN),
            Ok(true) => {
                let now = Instant::now();
                self.total += 1;
                if self.window.holds(now) {
                    self.histogram.record((now - slot.begun).as_nanos() as u64);
                }
                self.replace(token)
            }
            Err(error) if would_wait(&error) => Ok(()),
            Err(_) => {
                self.lost += 1;
                self.replace(token)
            }
        }
    }

    fn replace(&mut self, token: usize) -> io::Result<()> {
        self.slots[token] = self.open(token)?;
        Ok(())
    }

    fn replace_lost(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for token in 0..self.slots.len() {
            if now - self.slots[token].begun > LOST_AFTER {
                self.lost += 1;
                self.replace(token)?;
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
    match socket.read(&mut [0])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(true),
    }
}
