//! `nbench storm`: questions at a rate, each from a port of its own, as resolvers ask.

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::Window;
use super::sock::Poll;
use crate::args::Args;
use crate::histogram::Histogram;
use crate::report::Transactions;

/// When a question counts as lost: resolvers ask again after some seconds.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// How often the loop looks what is due, in milliseconds.
const TURN_MS: i64 = 1;
/// A question; the first byte asks the server's socket for an echo.
const QUESTION: [u8; 32] = [b'E'; 32];

struct Question {
    socket: UdpSocket,
    sent: Instant,
}

struct Storm {
    window: Window,
    poll: Poll,
    /// Questions without an answer; a token is a place.
    waiting: Vec<Option<Question>>,
    free: Vec<usize>,
    histogram: Histogram,
    total: u64,
    lost: u64,
}

/// # Errors
/// The arguments, or a socket that could not be had.
pub fn run(to: SocketAddr, words: &[&str]) -> Result<Transactions, Box<dyn Error>> {
    let args = Args::parse(words, &["rate", "seconds", "warmup"])?;
    super::raise_descriptor_limit();
    let rate: f64 = args.value("rate", 1000.0)?;
    let window = Window::begin(&args)?;
    let (waiting, free) = (Vec::new(), Vec::new());
    let (poll, histogram) = (Poll::new()?, Histogram::default());
    let mut storm = Storm { window, poll, waiting, free, histogram, total: 0, lost: 0 };
    let mut asked = 0;
    while Instant::now() < window.end() {
        // Those who are late ask at once: the rate is kept.
        let due = (window.begin.elapsed().as_secs_f64() * rate) as u64;
        while asked < due {
            storm.ask(to)?;
            asked += 1;
        }
        storm.hear()?;
    }
    let end = Instant::now() + LOST_AFTER;
    while Instant::now() < end && storm.waiting.iter().any(Option::is_some) {
        storm.hear()?;
    }
    storm.lost += storm.waiting.iter().flatten().count() as u64;
    let per_s = window.per_s(storm.histogram.count());
    let latency = storm.histogram.summary();
    Ok(Transactions { per_s, latency, total: storm.total, lost: storm.lost })
}

impl Storm {
    fn ask(&mut self, to: SocketAddr) -> Result<(), Box<dyn Error>> {
        let socket = UdpSocket::bind(super::any_address(to))?;
        socket.connect(to)?;
        let place = self.free.pop().unwrap_or_else(|| {
            self.waiting.push(None);
            self.waiting.len() - 1
        });
        self.poll.add(&socket, place, EventFlags::IN)?;
        // A datagram that does not get out is lost like any other.
        let _ = send(&socket, &QUESTION, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        self.waiting[place] = Some(Question { socket, sent: Instant::now() });
        Ok(())
    }

    /// Takes the answers that have come, and gives up what waits for too long.
    fn hear(&mut self) -> Result<(), Box<dyn Error>> {
        let mut answer = [0; QUESTION.len()];
        let ready: Vec<usize> = self.poll.wait(TURN_MS)?.map(|(place, _)| place).collect();
        for place in ready {
            let Some(question) = &self.waiting[place] else { continue };
            if recv(&question.socket, &mut answer[..], RecvFlags::DONTWAIT).is_err() {
                continue;
            }
            let now = Instant::now();
            self.total += 1;
            if self.window.holds(now) {
                self.histogram.record((now - question.sent).as_nanos() as u64);
            }
            self.give_back(place);
        }
        for place in 0..self.waiting.len() {
            if self.waiting[place].as_ref().is_some_and(|one| one.sent.elapsed() > LOST_AFTER) {
                self.lost += 1;
                self.give_back(place);
            }
        }
        Ok(())
    }

    fn give_back(&mut self, place: usize) {
        self.waiting[place] = None;
        self.free.push(place);
    }
}
