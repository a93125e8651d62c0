//! `nbench udp`: datagrams of one size, as many as there go, or as many as arrive.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::proto::{Kind, Request, VERDICT_BYTES, number};
use super::source::{Order, blast, number_of};
use super::{Window, echo, sock};
use crate::args::Args;
use crate::report::Datagrams;

/// What is on its way when the sender stops has this long to arrive.
pub const DRAIN: Duration = Duration::from_millis(100);
/// Tries of the search; each halves the range.
const TRIES: usize = 8;
/// Warm-up and window of one try.
const TRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

struct Run {
    to: SocketAddr,
    gets: bool,
    size: usize,
    segments: usize,
    next_id: u64,
}

/// # Errors
/// The arguments, or a socket's error.
pub fn run(to: SocketAddr, words: &[&str]) -> Result<Datagrams, Box<dyn Error>> {
    let known = ["way", "size", "gso", "rate", "limit", "seconds", "warmup"];
    let args = Args::parse(words, &known)?;
    let gets = args.value("way", "put".to_owned())? == "get";
    let (size, segments) = (args.value("size", 1400)?, args.value("gso", 1)?);
    let limit_percent: f64 = args.value("limit", 0.0)?;
    let mut run = Run { to, gets, size, segments, next_id: 1 };
    if limit_percent > 0.0 {
        return run.search(limit_percent / 100.0);
    }
    run.measure(Window::begin(&args)?, args.value("rate", 0)?)
}

impl Run {
    fn measure(&mut self, window: Window, rate: u64) -> Result<Datagrams, Box<dyn Error>> {
        let id = self.next_id;
        self.next_id += 1;
        let length = window.warmup + window.length;
        let order = Order { size: self.size, segments: self.segments, rate, length, id };
        if !order.is_possible() {
            return Err(
                format!("no datagrams of {} bytes, {} at once", self.size, self.segments).into()
            );
        }
        let socket = UdpSocket::bind(super::any_address(self.to))?;
        sock::prepare_datagrams(&socket)?;
        socket.connect(self.to)?;
        if self.gets {
            get(&socket, window.again(), &order)
        } else {
            self.put(&socket, window, &order)
        }
    }

    fn put(
        &self,
        socket: &UdpSocket,
        window: Window,
        order: &Order,
    ) -> Result<Datagrams, Box<dyn Error>> {
        let request = Request {
            kind: Kind::Tally,
            verify: false,
            warmup: window.warmup,
            length: window.length,
            id: order.id,
        };
        let mut control = echo::request(self.to, &request)?;
        echo::exchange(&mut control)?;
        let sent = blast(socket, None, order)?;
        std::thread::sleep(DRAIN);
        control.write_all(&[1])?;
        let mut verdict = [0; VERDICT_BYTES];
        control.read_exact(&mut verdict)?;
        Ok(report(window, order, number(&verdict), number(&verdict[8..]), sent))
    }

    /// The best rate of which not more than `limit` is lost: half-way between what was good
    /// and what was not, beginning with what arrives when there is no limit.
    fn search(&mut self, limit: f64) -> Result<Datagrams, Box<dyn Error>> {
        let attempt = |run: &mut Self, rate| run.measure(Window::of(TRY.0, TRY.1), rate);
        let unlimited = attempt(self, 0)?;
        let (mut good, mut bad) = (0.0, unlimited.per_s / (1.0 - unlimited.loss).max(0.01));
        let mut best = Datagrams { total_bytes: 0, gbit_per_s: 0.0, per_s: 0.0, ..unlimited };
        let mut rate = unlimited.per_s;
        let mut total_bytes = unlimited.total_bytes;
        for _ in 0..TRIES {
            let found = attempt(self, (rate as u64).max(1))?;
            total_bytes += found.total_bytes;
            if found.loss <= limit {
                good = rate;
                best = if found.per_s > best.per_s { found } else { best };
            } else {
                bad = rate;
            }
            rate = f64::midpoint(good, bad);
        }
        Ok(Datagrams { total_bytes, ..best })
    }
}

/// What arrived, of how many that were sent.
pub fn report(window: Window, order: &Order, counted: u64, total: u64, sent: u64) -> Datagrams {
    let arrived = total / order.size as u64;
    Datagrams {
        gbit_per_s: window.gbit_per_s(counted),
        per_s: window.per_s(counted / order.size as u64),
        loss: if sent == 0 { 0.0 } else { 1.0 - arrived.min(sent) as f64 / sent as f64 },
        total_bytes: total,
    }
}

/// Asks the server to send. Its last number is taken for the count of what it sent.
fn get(socket: &UdpSocket, window: Window, order: &Order) -> Result<Datagrams, Box<dyn Error>> {
    let (mut counted, mut total, mut sent) = (0, 0, 0);
    let mut buffer = vec![0; sock::DATAGRAM_BYTES];
    let window = window.again();
    let mut asked = None;
    while Instant::now() < window.end() + DRAIN {
        // The question may get lost.
        if total == 0 && asked.is_none_or(|at: Instant| at.elapsed() > DRAIN * 2) {
            socket.send(&order.encode())?;
            asked = Some(Instant::now());
        }
        let wait = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        poll(&mut [PollFd::new(&socket.as_fd(), PollFlags::IN)], Some(&wait))?;
        while let Ok(run) = sock::receive_run(socket, &mut buffer) {
            let last = run.bytes.saturating_sub(1) / run.each.max(1) * run.each;
            sent = sent.max(number_of(&buffer[last..run.bytes]).unwrap_or(0) + 1);
            total += run.bytes as u64;
            let now = Instant::now();
            counted += if window.holds(now) { run.bytes as u64 } else { 0 };
            if now > window.end() + DRAIN {
                break;
            }
        }
    }
    if total == 0 {
        return Err("no datagram arrived".into());
    }
    Ok(report(window, order, counted, total, sent))
}
