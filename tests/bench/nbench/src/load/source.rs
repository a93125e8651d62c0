//! Sending datagrams, as fast as they go or at a rate.
//!
//! A datagram begins with what it is for (one byte), and carries at fixed places the run it
//! belongs to and its number; the rest is zero.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::proto::number;
use super::sock;

/// Bytes of a datagram at least: kind, run, number.
pub const MIN_DATAGRAM_BYTES: usize = 24;
/// Where a datagram's number stands.
pub const NUMBER_AT: std::ops::Range<usize> = 16..24;
/// The kernel cuts at most into so many (UDP_MAX_SEGMENTS of older kernels).
const MAX_SEGMENTS: usize = 64;
/// The largest payload of a datagram over IPv4.
const MAX_PAYLOAD_BYTES: usize = 65507;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Bytes of a datagram.
    pub size: usize,
    /// Datagrams in one system call, cut apart by the kernel.
    pub segments: usize,
    /// Datagrams in a second; 0 is no limit.
    pub rate: u64,
    /// How long.
    pub length: Duration,
    /// The run.
    pub id: u64,
}

/// What asks a server to send: its bytes follow the letter.
pub const ORDER_BYTES: usize = 40;

impl Order {
    /// A datagram of the run: the first, with number 0.
    pub fn datagram(&self) -> Vec<u8> {
        let mut datagram = vec![0; self.size];
        datagram[0] = b'S';
        datagram[8..16].copy_from_slice(&self.id.to_le_bytes());
        datagram
    }

    /// As a datagram to the server.
    pub fn encode(&self) -> [u8; ORDER_BYTES] {
        let mut bytes = [0; ORDER_BYTES];
        bytes[0] = b'G';
        bytes[2..4].copy_from_slice(&(self.segments as u16).to_le_bytes());
        bytes[4..8].copy_from_slice(&(self.size as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.rate.to_le_bytes());
        bytes[24..32].copy_from_slice(&(self.length.as_nanos() as u64).to_le_bytes());
        bytes
    }

    /// None if it is too short or asks for what cannot be.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let order = Self {
            segments: usize::from(*bytes.get(2)?) | usize::from(*bytes.get(3)?) << 8,
            size: number(bytes.get(4..8)?) as usize,
            id: number(bytes.get(8..16)?),
            rate: number(bytes.get(16..24)?),
            length: Duration::from_nanos(number(bytes.get(24..32)?)),
        };
        order.is_possible().then_some(order)
    }

    /// Whether datagrams like this can be sent.
    pub fn is_possible(&self) -> bool {
        self.size >= MIN_DATAGRAM_BYTES
            && (1..=MAX_SEGMENTS).contains(&self.segments)
            && self.size.saturating_mul(self.segments) <= MAX_PAYLOAD_BYTES
    }
}

/// Sends until the time is over; returns how many datagrams the kernel took.
///
/// # Errors
/// As send(2); what a queue or a peer refuses is no error.
pub fn blast(socket: &UdpSocket, to: Option<SocketAddr>, order: &Order) -> io::Result<u64> {
    if order.segments > 1 {
        sock::segment_datagrams(socket, order.size)?;
    }
    let mut unit = order.datagram().repeat(order.segments);
    let (begin, mut sent) = (Instant::now(), 0);
    loop {
        let passed = begin.elapsed();
        if passed >= order.length {
            return Ok(sent);
        }
        if order.rate > 0 && sent as f64 > passed.as_secs_f64() * order.rate as f64 {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        for (place, datagram) in unit.chunks_mut(order.size).enumerate() {
            datagram[NUMBER_AT].copy_from_slice(&(sent + place as u64).to_le_bytes());
        }
        sent += send(socket, to, &unit)? * order.segments as u64;
    }
}

/// Sends one unit: 1 if the kernel took it.
fn send(socket: &UdpSocket, to: Option<SocketAddr>, unit: &[u8]) -> io::Result<u64> {
    let result = match to {
        Some(to) => socket.send_to(unit, to),
        None => socket.send(unit),
    };
    match result {
        Ok(_) => Ok(1),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let wait = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&wait))?;
            Ok(0)
        }
        Err(error) if is_passing(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Errors that tell of an earlier datagram, or of a full queue.
fn is_passing(error: &io::Error) -> bool {
    let refused = error.kind() == io::ErrorKind::ConnectionRefused;
    refused || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// The number of a datagram, if it has one.
pub fn number_of(datagram: &[u8]) -> Option<u64> {
    datagram.get(NUMBER_AT).map(number)
}
