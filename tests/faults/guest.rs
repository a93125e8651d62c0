//! A guest on passt's stream socket: smoltcp's stack, which asks for an echo by TCP and by UDP.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, Ipv4Address};

/// Where the echoes are, and where passt has their host's loopback.
pub const ECHO: u16 = 9000;
const GATEWAY: Ipv4Address = Ipv4Address::new(192, 0, 2, 1);
/// Bytes of a stream.
const BYTES: usize = 40_000;

fn byte(at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8
}

/// The guest's end of the socket.
struct Wire {
    socket: UnixStream,
    came: Vec<u8>,
    /// What the socket did not take yet. Half a frame would be the end of the stream.
    goes: Vec<u8>,
    closed: bool,
}

impl Wire {
    fn fill(&mut self) {
        let mut bytes = [0; 65536];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => break self.closed = true,
                Ok(len) => self.came.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => break self.closed = true,
            }
        }
        while !self.goes.is_empty() {
            match self.socket.write(&self.goes) {
                Ok(len) => drop(self.goes.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
        }
    }

    fn frame(&mut self) -> Option<Vec<u8>> {
        let len = u32::from_be_bytes(*self.came.first_chunk()?) as usize;
        assert!((14..65_600).contains(&len), "a frame of {len} bytes");
        let frame = self.came.get(4..4 + len)?.to_vec();
        self.came.drain(..4 + len);
        Some(frame)
    }
}

struct Received(Vec<u8>);
struct Sender<'a>(&'a mut Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.extend((len as u32).to_be_bytes());
        self.0.extend(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sender<'_>)> {
        let frame = self.frame()?;
        Some((Received(frame), Sender(&mut self.goes)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.goes))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = 1514;
        caps
    }
}

/// What a conversation has come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Bytes that came back by TCP, in order and right.
    stream: usize,
    /// The other end has closed the connection, in order.
    ended: bool,
    datagram: bool,
}

impl Heard {
    /// Everything came back.
    pub fn is_all(&self) -> bool {
        *self == Self { stream: BYTES, ended: true, datagram: true }
    }
}

/// Connects to passt, and has an echo by TCP from port `port` and one by UDP. What came back within `patience`; nothing
/// if nobody is there.
///
/// # Panics
/// When a byte is wrong.
pub fn converse(path: &Path, port: u16, patience: Duration) -> Heard {
    let Ok(socket) = UnixStream::connect(path) else { return Heard::default() };
    socket.set_nonblocking(true).expect("fcntl");
    let mut wire = Wire { socket, came: Vec::new(), goes: Vec::new(), closed: false };
    let begin = Instant::now();
    let now = || smoltcp::time::Instant::from_micros(begin.elapsed().as_micros() as i64);
    let config = Config::new(EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]).into());
    let mut iface = Interface::new(config, &mut wire, now());
    iface.update_ip_addrs(|addresses| {
        let cidr = IpCidr::new(IpAddress::v4(192, 0, 2, 2), 24);
        addresses.push(cidr).expect("room for an address");
    });
    let buffer = || tcp::SocketBuffer::new(vec![0; 16_384]);
    let packets = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let mut sockets = SocketSet::new(Vec::new());
    let stream = sockets.add(tcp::Socket::new(buffer(), buffer()));
    let datagrams = sockets.add(udp::Socket::new(packets(), packets()));
    let to = (IpAddress::from(GATEWAY), ECHO);
    let socket = sockets.get_mut::<tcp::Socket<'_>>(stream);
    socket.connect(iface.context(), to, port).expect("a fresh socket");
    let socket = sockets.get_mut::<udp::Socket<'_>>(datagrams);
    socket.bind(5000).expect("a fresh socket");
    socket.send_slice(b"echo", to).expect("room");

    let (mut heard, mut sent) = (Heard::default(), 0);
    while begin.elapsed() < patience && !heard.is_all() && !wire.closed {
        wire.fill();
        iface.poll(now(), &mut wire, &mut sockets);
        talk(sockets.get_mut(stream), &mut heard, &mut sent);
        let socket = sockets.get_mut::<udp::Socket<'_>>(datagrams);
        if let Ok((bytes, _)) = socket.recv() {
            assert_eq!(bytes, b"echo", "a wrong datagram");
            heard.datagram = true;
        }
        iface.poll(now(), &mut wire, &mut sockets);
        wire.fill();
        std::thread::sleep(Duration::from_micros(200));
    }
    // What is not over is given up, with a reset.
    sockets.get_mut::<tcp::Socket<'_>>(stream).abort();
    iface.poll(now(), &mut wire, &mut sockets);
    wire.fill();
    heard
}

fn talk(socket: &mut tcp::Socket<'_>, heard: &mut Heard, sent: &mut usize) {
    while socket.can_send() && *sent < BYTES {
        let bytes: Vec<u8> = (*sent..BYTES.min(*sent + 4096)).map(byte).collect();
        *sent += socket.send_slice(&bytes).expect("it can send");
    }
    if *sent == BYTES && socket.may_send() {
        socket.close();
    }
    while socket.can_recv() {
        let take = |bytes: &mut [u8]| {
            let right = bytes.iter().enumerate().all(|(at, got)| *got == byte(heard.stream + at));
            assert!(right, "a wrong byte behind {}", heard.stream);
            (bytes.len(), bytes.len())
        };
        heard.stream += socket.recv(take).expect("it can receive");
    }
    // Both have closed it: `closed` alone could be a reset.
    let over = matches!(socket.state(), tcp::State::TimeWait | tcp::State::LastAck);
    heard.ended |= heard.stream == BYTES && (over || socket.state() == tcp::State::Closed);
}
