//! `nbench rr`: flows with one small request and one response under way at a time.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::os::fd::{AsFd, BorrowedFd};

use super::sock::{Poll, would_wait};
use super::{Window, echo};
use crate::args::Args;
use crate::histogram::Histogram;
use crate::report::Transactions;

/// When a datagram counts as lost, if nothing else is said.
const LOST_AFTER_MS: u64 = 200;
/// How often the loop looks for lost datagrams, in milliseconds.
const TURN_MS: i64 = 20;

enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

struct Flow {
    socket: Socket,
    sent: Instant,
    /// Bytes of the response that are missing.
    missing: usize,
}

struct Run {
    window: Window,
    lost_after: Duration,
    request: Vec<u8>,
    flows: Vec<Flow>,
    histogram: Histogram,
    total: u64,
    lost: u64,
}

/// # Errors
/// The arguments, or a connection that failed.
pub fn run(to: SocketAddr, words: &[&str]) -> Result<Transactions, Box<dyn Error>> {
    let known = ["proto", "flows", "size", "idle", "lost_ms", "seconds", "warmup"];
    let args = Args::parse(words, &known)?;
    super::raise_descriptor_limit();
    let datagrams = args.value("proto", "tcp".to_owned())? == "udp";
    let _idle = echo::connect_idle(to, args.value("idle", 0)?)?;
    let open = || -> Result<Flow, Box<dyn Error>> {
        let socket = if datagrams { Socket::Udp(udp(to)?) } else { Socket::Tcp(tcp(to)?) };
        Ok(Flow { socket, sent: Instant::now(), missing: 0 })
    };
    let flows: Vec<Flow> =
        (0..args.value("flows", 1)?).map(|_| open()).collect::<Result<_, _>>()?;
    // The first byte asks the server's datagram socket for an echo.
    let request = vec![b'E'; args.value("size", 1_usize)?.max(1)];
    let window = Window::begin(&args)?;
    let lost_after = Duration::from_millis(args.value("lost_ms", LOST_AFTER_MS)?);
    let histogram = Histogram::default();
    Run { window, lost_after, request, flows, histogram, total: 0, lost: 0 }.measure()
}

fn tcp(to: SocketAddr) -> Result<TcpStream, Box<dyn Error>> {
    let mut socket = echo::connect(to)?;
    echo::exchange(&mut socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(super::any_address(to))?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Run {
    fn measure(mut self) -> Result<Transactions, Box<dyn Error>> {
        let mut poll = Poll::new()?;
        for (token, flow) in self.flows.iter().enumerate() {
            poll.add(&flow.socket, token, EventFlags::IN)?;
        }
        for token in 0..self.flows.len() {
            self.ask(token)?;
        }
        let mut buffer = vec![0; self.request.len()];
        while Instant::now() < self.window.end() {
            for (token, _) in poll.wait(TURN_MS)? {
                self.hear(token, &mut buffer)?;
            }
            self.ask_again()?;
        }
        let per_s = self.window.per_s(self.histogram.count());
        let latency = self.histogram.summary();
        Ok(Transactions { per_s, latency, total: self.total, lost: self.lost })
    }

    fn ask(&mut self, token: usize) -> io::Result<()> {
        let flow = &mut self.flows[token];
        flow.missing = self.request.len();
        flow.sent = Instant::now();
        match send(&flow.socket, &self.request, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == self.request.len() => Ok(()),
            Ok(_) => Err(io::Error::other("a request was cut")),
            // A datagram that does not get out is lost like any other.
            Err(_) if matches!(flow.socket, Socket::Udp(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn hear(&mut self, token: usize, buffer: &mut [u8]) -> Result<(), Box<dyn Error>> {
        let flow = &mut self.flows[token];
        let len = match recv(&flow.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err("the server ended the connection".into()),
            Ok((len, _)) => len,
            Err(errno) if would_wait(&errno.into()) => return Ok(()),
            Err(_) if matches!(flow.socket, Socket::Udp(_)) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        flow.missing = flow.missing.saturating_sub(len);
        if flow.missing > 0 {
            return Ok(());
        }
        let now = Instant::now();
        self.total += 1;
        if self.window.holds(now) {
            self.histogram.record((now - flow.sent).as_nanos() as u64);
        }
        Ok(self.ask(token)?)
    }

    /// Datagrams get lost; the flow goes on with a new one.
    fn ask_again(&mut self) -> io::Result<()> {
        if !matches!(self.flows.first(), Some(Flow { socket: Socket::Udp(_), .. })) {
            return Ok(());
        }
        let now = Instant::now();
        for token in 0..self.flows.len() {
            if now - self.flows[token].sent > self.lost_after {
                self.lost += 1;
                self.ask(token)?;
            }
        }
        Ok(())
    }
}
