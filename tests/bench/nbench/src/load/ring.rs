//! `nbench ring`: a guest that is only a driver: datagrams between its rings and a server, so that what is
//! measured is the back-end and not a guest's kernel.
//!
//! All descriptors of the transmit ring stand for one and the same frame, and are made available again by
//! moving the index; those of the receive ring go back as they come. So a frame costs the driver a few
//! loads and stores. It sleeps when there is nothing to do, and asks to be notified as Linux does.
//!
//! It speaks to the server's control connection by the host's own sockets.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use passt_guest::{DriverRing, Guest, NetHeader, Options, RX, TX, bit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::proto::{Kind, Request, VERDICT_BYTES, number};
use super::source::{NUMBER_AT, Order};
use super::udp::{DRAIN, report};
use super::{Window, echo};
use crate::args::Args;
use crate::report::Datagrams;

/// Entries of each ring.
const ENTRIES: u16 = 1024;
/// Bytes of a receive buffer: virtio's header and a frame of the usual MTU.
const BUFFER_BYTES: u32 = 2048;
/// Bytes of all headers in front of the payload.
const HEADERS_BYTES: usize = 14 + 20 + 8;
/// Guest address of the frame that is sent.
const FRAME_AT: u64 = 0x8000;
/// The address that a guest of the benchmark has.
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The guest's port.
const PORT: u16 = 40_000;

/// # Errors
/// The arguments, a socket's error, or a back-end that ends the connection.
pub fn run(socket: &str, to: SocketAddr, words: &[&str]) -> Result<Datagrams, Box<dyn Error>> {
    let args = Args::parse(words, &["way", "size", "gso", "seconds", "warmup"])?;
    let SocketAddr::V4(to) = to else { return Err("the ring speaks IPv4 only".into()) };
    let gets = args.value("way", "put".to_owned())? == "get";
    let (size, segments) = (args.value("size", 1400)?, args.value("gso", 1)?);
    let window = Window::begin(&args)?;
    let length = window.warmup + window.length;
    let order = Order { size, segments, rate: 0, length, id: 1 };
    if !order.is_possible() || segments != 1 || size + HEADERS_BYTES > 1514 {
        return Err(format!("no frames of {size} bytes, {segments} at once").into());
    }
    let mut driver = Driver::connect(socket, to)?;
    if gets { driver.get(window, &order) } else { driver.put(window, &order) }
}

struct Driver {
    guest: Guest,
    to: SocketAddrV4,
    /// Of both rings: what is available, and what was taken back.
    next: [u16; 2],
    taken: [u16; 2],
}

impl Driver {
    fn connect(socket: &str, to: SocketAddrV4) -> Result<Self, Box<dyn Error>> {
        let options = Options {
            features: bit::MRG_RXBUF | bit::EVENT_IDX | bit::PROTOCOL_FEATURES | bit::VERSION_1,
            ring_size: ENTRIES,
            rx_buffer_bytes: BUFFER_BYTES,
            rx_buffers: ENTRIES,
            ..Options::default()
        };
        let guest = Guest::connect(UnixStream::connect(socket)?, options, &mut || ());
        let mut driver = Self { guest, to, next: [ENTRIES, 0], taken: [0; 2] };
        // All messages were handled when this one is answered.
        let features = driver.guest.ask(passt_guest::request::GET_FEATURES, &[], &mut || ());
        if features & bit::VERSION_1 == 0 {
            return Err("the back-end has no VIRTIO_F_VERSION_1".into());
        }
        Ok(driver)
    }

    /// Makes all descriptors of the transmit ring stand for one frame.
    fn load(&self, payload: &[u8]) {
        let mut bytes = NetHeader::default().to_bytes().to_vec();
        bytes.extend_from_slice(&frame(self.to, payload));
        let memory = &self.guest.memory;
        memory.write(FRAME_AT, &bytes);
        let ring = &self.guest.rings[TX];
        for entry in 0..ENTRIES {
            ring.put_descriptor(memory, entry, (FRAME_AT, bytes.len() as u32, 0, 0));
            memory.store_u16(ring.available + 4 + 2 * u64::from(entry), entry);
        }
    }

    fn ring(&self, index: usize) -> &DriverRing {
        &self.guest.rings[index]
    }

    /// Used elements of a ring that were not taken back.
    fn waiting(&self, index: usize) -> u16 {
        self.ring(index).used_index(&self.guest.memory).wrapping_sub(self.taken[index])
    }

    /// Makes `count` more frames available.
    fn send(&mut self, count: u16) {
        self.next[TX] = self.next[TX].wrapping_add(count);
        self.show(TX);
        self.kick_if_wanted(TX, count);
    }

    /// Kicks the device if it wants that for the last `count` buffers that were made available.
    fn kick_if_wanted(&self, index: usize, count: u16) {
        fence(Ordering::SeqCst);
        let ring = self.ring(index);
        let wanted = if ring.event_idx {
            let event = self.guest.memory.load_u16(ring.used + 4 + 8 * u64::from(ENTRIES));
            self.next[index].wrapping_sub(event).wrapping_sub(1) < count
        } else {
            self.guest.memory.load_u16(ring.used) & 1 == 0
        };
        if wanted {
            self.guest.kick(index);
        }
    }

    fn show(&self, index: usize) {
        self.guest.memory.store_u16(self.ring(index).available + 2, self.next[index]);
    }

    /// Sleeps until the device has used `more` elements beyond those that were taken back, for 10 ms at most.
    fn sleep(&self, index: usize, more: u16) -> Result<(), Box<dyn Error>> {
        let event = self.taken[index].wrapping_add(more - 1);
        self.ring(index).set_used_event(&self.guest.memory, event);
        fence(Ordering::SeqCst);
        if self.waiting(index) >= more {
            return Ok(());
        }
        let wait = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        let call = self.guest.call(index);
        poll(&mut [PollFd::new(&call, PollFlags::IN)], Some(&wait))?;
        self.guest.interrupts(index);
        if self.guest.client.is_closed() {
            return Err("the back-end has ended the connection".into());
        }
        Ok(())
    }

    /// Sends until the time is over; the server counts.
    fn put(&mut self, window: Window, order: &Order) -> Result<Datagrams, Box<dyn Error>> {
        let request = Request {
            kind: Kind::Tally,
            verify: false,
            warmup: window.warmup,
            length: window.length,
            id: order.id,
        };
        let mut control = echo::request(self.to.into(), &request)?;
        echo::exchange(&mut control)?;
        self.load(&order.datagram());
        let (begin, mut sent) = (Instant::now(), 0);
        while begin.elapsed() < order.length {
            self.taken[TX] = self.ring(TX).used_index(&self.guest.memory);
            let free = ENTRIES - self.next[TX].wrapping_sub(self.taken[TX]);
            if free == 0 {
                self.sleep(TX, ENTRIES / 2)?;
                continue;
            }
            self.send(free);
            sent += u64::from(free);
        }
        std::thread::sleep(DRAIN);
        sent -= u64::from(self.next[TX].wrapping_sub(self.ring(TX).used_index(&self.guest.memory)));
        control.write_all(&[1])?;
        let mut verdict = [0; VERDICT_BYTES];
        control.read_exact(&mut verdict)?;
        Ok(report(window, order, number(&verdict), number(&verdict[8..]), sent))
    }

    /// Asks the server to send, and counts what arrives whole.
    fn get(&mut self, window: Window, order: &Order) -> Result<Datagrams, Box<dyn Error>> {
        self.load(&order.encode());
        let (mut counted, mut total, mut sent) = (0, 0, 0);
        let window = window.again();
        let mut asked: Option<Instant> = None;
        while Instant::now() < window.end() + DRAIN {
            // The question may get lost.
            if total == 0 && asked.is_none_or(|at| at.elapsed() > DRAIN * 2) {
                self.send(1);
                asked = Some(Instant::now());
            }
            let (frames, last) = self.receive(order.size);
            if frames == 0 {
                self.sleep(RX, 1)?;
                continue;
            }
            let bytes = frames * order.size as u64;
            total += bytes;
            counted += if window.holds(Instant::now()) { bytes } else { 0 };
            sent = sent.max(last + 1);
        }
        if total == 0 {
            return Err("no datagram arrived".into());
        }
        Ok(report(window, order, counted, total, sent))
    }

    /// Takes what has arrived and gives the buffers back; returns how many datagrams of `size` bytes those
    /// were, and the number of the last one.
    fn receive(&mut self, size: usize) -> (u64, u64) {
        let memory = &self.guest.memory;
        let ring = &self.guest.rings[RX];
        let wanted = NetHeader::BYTES + HEADERS_BYTES + size;
        let (mut frames, mut last) = (0, None);
        let waiting = self.waiting(RX);
        for _ in 0..waiting {
            let slot = u64::from(self.taken[RX] & (ENTRIES - 1));
            let element = ring.used + 4 + 8 * slot;
            let head = memory.load_u16(element);
            if usize::from(memory.load_u16(element + 4)) == wanted {
                frames += 1;
                last = Some(head);
            }
            let entry = u64::from(self.next[RX] & (ENTRIES - 1));
            memory.store_u16(ring.available + 4 + 2 * entry, head);
            self.taken[RX] = self.taken[RX].wrapping_add(1);
            self.next[RX] = self.next[RX].wrapping_add(1);
        }
        let payload = (NetHeader::BYTES + HEADERS_BYTES) as u64;
        let number_at =
            last.map(|head| self.guest.receive_buffer(head) + payload + NUMBER_AT.start as u64);
        let last = number_at.map_or(0, |at| number(&memory.read(at, NUMBER_AT.len())));
        self.show(RX);
        self.kick_if_wanted(RX, waiting);
        (frames, last)
    }
}

/// A datagram from the guest in a frame, without a checksum of its own (RFC 768 allows that).
fn frame(to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let ip_len = (20 + 8 + payload.len()) as u16;
    let mut ip = vec![0x45, 0];
    ip.extend(ip_len.to_be_bytes());
    // Identification, flags (not to be fragmented), TTL, protocol, room for the checksum.
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(GUEST.octets());
    ip.extend(to.ip().octets());
    let sum = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = Vec::with_capacity(HEADERS_BYTES + payload.len());
    // To passt's own address, from one of the guest's.
    frame.extend([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 0]);
    frame.extend(ip);
    for field in [PORT, to.port(), (8 + payload.len()) as u16, 0] {
        frame.extend(field.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_a_header_whose_checksum_is_right() {
        let frame = frame("198.51.100.7:4000".parse().unwrap(), &[7; 64]);
        assert_eq!(frame.len(), HEADERS_BYTES + 64);
        let sum: u32 =
            frame[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(frame[34..42], [0x9c, 0x40, 0x0f, 0xa0, 0, 72, 0, 0]);
    }
}
