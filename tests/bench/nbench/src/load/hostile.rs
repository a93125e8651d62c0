//! `nbench hostile`: frames by hand, so many a second: SYNs, datagrams, echo requests and fragments, to who listens, to who
//! does not, and to nobody; segments of no connection; and what is no packet at all. Nobody waits for an answer.
//!
//! Its ports are such that no socket gets by itself, so that it never speaks for a good connection of the same machine.

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::device;
use crate::args::Args;
use crate::report::Sent;

/// How long a neighbour is waited for.
const NEIGHBOUR: Duration = Duration::from_secs(5);
/// Source ports: below those that kernels give out.
const PORTS: std::ops::Range<u32> = 1024..10_000;
/// Where made-up sources are: addresses for documentation, on the servers' side.
const STRANGERS: [u8; 3] = [198, 51, 100];
const TYPE_V4: u16 = 0x0800;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;

/// Sends to `to` by way of `near`, a neighbour. With `sources=made-up` nobody knows who it is.
///
/// # Errors
/// The arguments, a neighbour that does not answer, or a socket that may not be had.
pub fn run(near: Ipv4Addr, to: SocketAddr, words: &[&str]) -> Result<Sent, Box<dyn Error>> {
    let args = Args::parse(words, &["rate", "seconds", "sources", "seed"])?;
    let SocketAddr::V4(to) = to else { return Err("this speaks IPv4 only".into()) };
    let rate: f64 = args.value("rate", 1000.0)?;
    let length = Duration::try_from_secs_f64(args.value("seconds", 5.0)?)?;
    let made_up = args.value("sources", "own".to_owned())? == "made-up";
    let dice = Dice(args.value("seed", 1_u64)?);
    let own = own_address(near)?;
    let neighbour = Neighbour::find(near)?;
    let socket = packet_socket(&neighbour.device)?;
    let mac = device::ethernet_address(&neighbour.device)?;
    let mut maker = Maker { link: [neighbour.mac, mac].concat(), own, near, to, made_up, dice };
    let (begin, mut frames) = (Instant::now(), 0_u64);
    let mut refused = 0;
    while begin.elapsed() < length {
        let due = (begin.elapsed().as_secs_f64() * rate) as u64;
        while frames < due {
            // What a queue has no room for is lost, as a flood's frames may be.
            refused += u64::from(!send(&socket, &maker.frame()));
            frames += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    if refused == frames {
        return Err(format!("none of {frames} frames could be sent").into());
    }
    Ok(Sent { frames: frames - refused, refused })
}

/// Our address toward `near`.
fn own_address(near: Ipv4Addr) -> Result<Ipv4Addr, Box<dyn Error>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((near, 9))?;
    // The kernel asks for the neighbour's address.
    socket.send(b"hello")?;
    match socket.local_addr()? {
        SocketAddr::V4(own) => Ok(*own.ip()),
        SocketAddr::V6(own) => Err(format!("{own} is no address of IPv4").into()),
    }
}

struct Neighbour {
    mac: [u8; 6],
    device: String,
}

impl Neighbour {
    fn find(near: Ipv4Addr) -> Result<Self, Box<dyn Error>> {
        let begin = Instant::now();
        while begin.elapsed() < NEIGHBOUR {
            let table = std::fs::read_to_string("/proc/net/arp")?;
            if let Some(found) = table.lines().find_map(|line| Self::read(line, near)) {
                return Ok(found);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("{near} is no neighbour, or does not answer").into())
    }

    /// A line of proc(5)'s table, if it is about `near` and complete.
    fn read(line: &str, near: Ipv4Addr) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, "0x2" | "0x6", mac, _, device] = fields[..] else { return None };
        let octets: Vec<u8> =
            mac.split(':').filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
        let mac = octets.try_into().ok()?;
        (address == near.to_string()).then(|| Self { mac, device: device.to_owned() })
    }
}

/// A socket for whole frames of a device, which receives none.
fn packet_socket(device: &str) -> io::Result<OwnedFd> {
    let name = std::ffi::CString::new(device)?;
    // SAFETY: the name is a string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: there are no preconditions.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if index == 0 || socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: an all-zero sockaddr_ll is valid: integers.
    let mut place: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    place.sll_family = libc::AF_PACKET as u16;
    place.sll_ifindex = index.cast_signed();
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel reads one sockaddr_ll, a live local.
    let rc = unsafe { libc::bind(socket.as_raw_fd(), (&raw const place).cast(), len) };
    if rc == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// Whether the frame was taken.
fn send(socket: &OwnedFd, frame: &[u8]) -> bool {
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: the kernel reads the frame's bytes.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), flags) };
    sent >= 0
}

/// Numbers that look random (splitmix64).
struct Dice(u64);

impl Dice {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.number() % u64::from(end)) as u32
    }

    fn byte(&mut self) -> u8 {
        self.number() as u8
    }

    fn port(&mut self) -> u16 {
        (PORTS.start + self.below(PORTS.end - PORTS.start)) as u16
    }
}

/// Makes frames.
struct Maker {
    /// Ethernet addresses of the neighbour and of ours.
    link: Vec<u8>,
    own: Ipv4Addr,
    near: Ipv4Addr,
    to: SocketAddrV4,
    made_up: bool,
    dice: Dice,
}

impl Maker {
    fn frame(&mut self) -> Vec<u8> {
        match self.dice.below(5) {
            0 | 1 => self.segment(),
            2 => self.datagram(),
            3 => self.other(),
            _ => self.broken(),
        }
    }

    /// A neighbour of our neighbour that is not there.
    fn nobody(&mut self) -> Ipv4Addr {
        let [a, b, c, _] = self.near.octets();
        Ipv4Addr::new(a, b, c, 64 + self.dice.below(64) as u8)
    }

    fn destination(&mut self) -> SocketAddrV4 {
        match self.dice.below(4) {
            0 | 1 => self.to,
            2 => SocketAddrV4::new(*self.to.ip(), self.dice.port()),
            _ => SocketAddrV4::new(self.nobody(), self.dice.port()),
        }
    }

    /// A SYN, or a segment of no connection.
    fn segment(&mut self) -> Vec<u8> {
        let to = self.destination();
        let flags = if self.dice.below(4) < 3 { SYN } else { self.dice.byte() & !SYN };
        let len = if flags == SYN { 0 } else { self.dice.below(100) as usize };
        let mut segment = self.dice.port().to_be_bytes().to_vec();
        segment.extend(to.port().to_be_bytes());
        segment.extend(self.dice.number().to_be_bytes());
        // Five words of header; a window, a checksum to be filled in, no urgent byte.
        segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(vec![b'x'; len]);
        self.packet(*to.ip(), TCP, 0, segment)
    }

    fn datagram(&mut self) -> Vec<u8> {
        let to = self.destination();
        let message = self.message(to.port());
        self.packet(*to.ip(), UDP, 0, message)
    }

    /// UDP without a checksum (RFC 768). What it says is no order to a server.
    fn message(&mut self, port: u16) -> Vec<u8> {
        let len = self.dice.below(64) as usize;
        let mut message = Vec::new();
        for field in [self.dice.port(), port, (8 + len) as u16, 0] {
            message.extend(field.to_be_bytes());
        }
        message.extend(vec![b'x'; len]);
        message
    }

    /// An echo request, or a part of a datagram, whose others may or may not come.
    fn other(&mut self) -> Vec<u8> {
        let to = self.destination();
        if self.dice.below(2) == 0 {
            let mut echo = vec![8, 0, 0, 0];
            echo.extend((self.dice.number() as u32).to_be_bytes());
            return self.packet(*to.ip(), ICMP, 0, echo);
        }
        let message = self.message(to.port());
        let more = 0x2000 * self.dice.below(2) as u16;
        let place = more | self.dice.below(16) as u16;
        self.packet(*to.ip(), UDP, place, message)
    }

    /// What is no packet, or hardly one.
    fn broken(&mut self) -> Vec<u8> {
        if self.dice.below(4) == 0 {
            let kind = [TYPE_V4, 0x86dd, 0x0806, 0x8100][self.dice.below(4) as usize];
            let mut frame = self.link.clone();
            frame.extend(kind.to_be_bytes());
            let len = self.dice.below(200);
            frame.extend((0..len).map(|_| self.dice.byte()));
            return without_tcp(frame);
        }
        let mut frame = if self.dice.below(2) == 0 { self.datagram() } else { self.other() };
        for _ in 0..self.dice.below(8) {
            let at = 12 + self.dice.below(frame.len() as u32 - 12) as usize;
            frame[at] = self.dice.byte();
        }
        let len = 14 + self.dice.below(frame.len() as u32 - 13) as usize;
        frame.truncate(len);
        without_tcp(frame)
    }

    /// A frame of IPv4 with the sums that its protocol has.
    fn packet(&mut self, to: Ipv4Addr, protocol: u8, place: u16, mut above: Vec<u8>) -> Vec<u8> {
        let [a, b, c] = STRANGERS;
        let from = match self.made_up {
            true => Ipv4Addr::new(a, b, c, 128 + self.dice.below(64) as u8),
            false => self.own,
        };
        let mut header = vec![0x45, 0];
        header.extend((20 + above.len() as u16).to_be_bytes());
        // Few numbers, so that fragments meet.
        header.extend((self.dice.below(8) as u16).to_be_bytes());
        header.extend(place.to_be_bytes());
        header.extend([64, protocol, 0, 0]);
        header.extend(from.octets());
        header.extend(to.octets());
        let sum = checksum(0, &header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let ends = u32::from(protocol) + above.len() as u32 + sum_of(&header[12..]);
        match protocol {
            TCP => {
                let sum = checksum(ends, &above);
                above[16..18].copy_from_slice(&sum.to_be_bytes());
            }
            ICMP => {
                let sum = checksum(0, &above);
                above[2..4].copy_from_slice(&sum.to_be_bytes());
            }
            _ => {}
        }
        [&self.link[..], &TYPE_V4.to_be_bytes(), &header, &above].concat()
    }
}

/// Bytes that were made up may not speak for a connection.
fn without_tcp(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.get(23) == Some(&TCP) {
        frame[23] = UDP;
    }
    frame
}

fn sum_of(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).sum()
}

/// The Internet checksum of `bytes` and what was added up before.
fn checksum(before: u32, bytes: &[u8]) -> u16 {
    let sum = before + sum_of(bytes);
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn maker(made_up: bool) -> Maker {
        let to = "198.51.100.7:4000".parse().unwrap();
        Maker { link: vec![2; 12], own: OWN, near: NEAR, to, made_up, dice: Dice(7) }
    }

    #[test]
    fn sums_are_right_and_segments_are_of_no_good_connection() {
        let mut maker = maker(false);
        for _ in 0..1000 {
            let frame = maker.segment();
            let (header, segment) = frame[14..].split_at(20);
            assert_eq!(checksum(0, header), 0);
            let ends = u32::from(TCP) + segment.len() as u32 + sum_of(&header[12..]);
            assert_eq!(checksum(ends, segment), 0);
            let port = u32::from(u16::from_be_bytes([segment[0], segment[1]]));
            assert!(PORTS.contains(&port));
            assert_eq!(header[12..16], OWN.octets());
        }
    }

    #[test]
    fn broken_frames_are_on_the_link_and_of_no_connection() {
        let mut maker = maker(true);
        let mut lengths = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let frame = maker.broken();
            assert!(frame.len() >= 14 && frame[..12] == [2; 12], "{} bytes", frame.len());
            assert_ne!(frame.get(23), Some(&TCP));
            lengths.insert(frame.len());
        }
        assert!(lengths.len() > 50);
        let frame = maker.datagram();
        assert_ne!(frame[26..30], OWN.octets());
    }

    #[test]
    fn a_neighbour_is_found_when_it_is_known() {
        let line = "192.0.2.1        0x1         0x2         9a:55:9a:55:9a:55     *        eth0";
        let found = Neighbour::read(line, NEAR).unwrap();
        assert_eq!((found.mac[1], found.device.as_str()), (0x55, "eth0"));
        assert!(Neighbour::read(line, OWN).is_none());
        assert!(Neighbour::read(&line.replace("0x2", "0x0"), NEAR).is_none());
    }
}
