//! The links, each with its loop and its guest.

use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use passt_frame::{
    Caps, FramePort, FromGuestBatch, FromGuestLease, GsoSet, LinkChange, MAX_FRAME_BYTES,
    MAX_TO_GUEST_IOVECS, MemPort, PortEvents, Registrar,
};
use passt_guest::{Guest, NetHeader, Options, RX, bit};
use passt_legacy::{Offloads, Stream, Tap};
use passt_vhost::{Config, Device};
use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

/// A link that is up and can do nothing special.
pub const UP: Caps = Caps {
    partial_checksum: false,
    gso: GsoSet { tcp_v4: false, tcp_v6: false, udp: false },
    up: true,
};

/// A guest that takes all frames and makes all room at once; returns the frames.
pub type Taker = Box<dyn FnMut() -> Vec<Vec<u8>> + Send>;

/// A link with its loop and its guest.
pub trait Subject {
    /// The link.
    fn port(&mut self) -> &mut dyn FramePort;

    /// Handles all events, having waited for the first no longer than `wait_ms`, and ends the turn.
    fn turn(&mut self, wait_ms: u32) -> PortEvents;

    /// The frames that the guest has got since the last call. Makes no room.
    fn received(&mut self) -> Vec<Vec<u8>>;

    /// The guest makes a little more room; false when everything is free.
    fn free_some(&mut self) -> bool;

    /// How often it must do so until the link reports room, at most.
    fn patience(&self) -> usize {
        1
    }

    /// Bytes of the largest frame that the guest can ever take.
    fn largest(&self) -> u32;

    /// Whether the guest can be short of room.
    fn is_bounded(&self) -> bool {
        true
    }

    /// Frames cannot reach the guest from now on.
    fn stop(&mut self);

    /// The guest as something that lives in another thread; `None` for one that lives inside the link.
    fn taker(&mut self) -> Option<Taker> {
        None
    }
}

/// The events of an epoll instance.
struct Loop {
    epoll: Rc<OwnedFd>,
    events: Vec<epoll::Event>,
}

impl Loop {
    fn new() -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
        Self { epoll: Rc::new(epoll), events: Vec::with_capacity(8) }
    }

    fn registrar(&self) -> Registrar {
        Registrar::new(self.epoll.clone(), 0)
    }

    /// One turn of `port`.
    fn turn(&mut self, port: &mut dyn FramePort, wait_ms: u32) -> PortEvents {
        let mut all = PortEvents::default();
        let wait = Timespec { tv_sec: (wait_ms / 1000).into(), tv_nsec: 0 };
        self.events.clear();
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        epoll::wait(&*self.epoll, spare, Some(&wait)).expect("epoll_wait");
        for event in &self.events {
            let seen = port.on_event(event.data.u64() as u16);
            all.frames |= seen.frames;
            all.room |= seen.room;
            all.link = seen.link.or(all.link);
        }
        port.flush();
        all
    }
}

/// The link in memory.
pub struct Mem {
    port: MemPort,
    largest: u32,
}

impl Mem {
    pub fn new(port: MemPort) -> Self {
        Self { largest: port.largest_frame(), port }
    }
}

impl Subject for Mem {
    fn port(&mut self) -> &mut dyn FramePort {
        &mut self.port
    }

    fn turn(&mut self, _wait_ms: u32) -> PortEvents {
        self.port.on_event(0)
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.port.recv()).map(|(frame, _)| frame).collect()
    }

    fn free_some(&mut self) -> bool {
        let used = self.port.used_buffers() > 0;
        if used {
            self.port.free_buffers(1);
        }
        used
    }

    fn largest(&self) -> u32 {
        self.largest
    }

    fn stop(&mut self) {
        self.port.set_up(false);
    }
}

/// The stream socket, with a client that reads when it is told to.
pub struct StreamLink {
    stream: Stream,
    turns: Loop,
    client: Option<Client>,
}

/// The client's end: what it has read and not made into frames.
struct Client {
    socket: UnixStream,
    bytes: Vec<u8>,
    frames: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Client {
    /// Reads all that there is; false when that is nothing.
    fn read(&mut self) -> bool {
        let mut any = false;
        loop {
            match self.socket.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => self.bytes.extend_from_slice(&self.buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("read: {error}"),
            }
            any = true;
        }
        let mut at = 0;
        while let Some(prefix) = self.bytes.get(at..at + 4) {
            let len = u32::from_be_bytes(prefix.try_into().expect("four bytes")) as usize;
            let Some(frame) = self.bytes.get(at + 4..at + 4 + len) else { break };
            self.frames.push(frame.to_vec());
            at += 4 + len;
        }
        self.bytes.drain(..at);
        any
    }
}

impl StreamLink {
    pub fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        theirs.set_nonblocking(true).expect("fcntl");
        let turns = Loop::new();
        let mut stream = Stream::new(turns.registrar());
        stream.attach(ours).expect("the first client");
        let (bytes, frames, buffer) = (Vec::new(), Vec::new(), vec![0; 1 << 18]);
        let client = Some(Client { socket: theirs, bytes, frames, buffer });
        let mut link = Self { stream, turns, client };
        assert_eq!(link.turn(0).link, Some(LinkChange::Up));
        link.turn(0);
        link
    }
}

impl Subject for StreamLink {
    fn port(&mut self) -> &mut dyn FramePort {
        &mut self.stream
    }

    fn turn(&mut self, wait_ms: u32) -> PortEvents {
        self.turns.turn(&mut self.stream, wait_ms)
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        self.client.as_mut().map_or(Vec::new(), |client| std::mem::take(&mut client.frames))
    }

    fn free_some(&mut self) -> bool {
        self.client.as_mut().is_some_and(Client::read)
    }

    /// There is room when all was written, which takes several times of what the kernel holds.
    fn patience(&self) -> usize {
        8
    }

    fn largest(&self) -> u32 {
        MAX_FRAME_BYTES
    }

    fn stop(&mut self) {
        self.client = None;
        assert_eq!(self.turn(0).link, None, "what the client sent before it left comes first");
        let (from_guest, _) = self.stream.halves();
        assert!(FromGuestLease::take(from_guest, &mut FromGuestBatch::new()).is_none());
        assert_eq!(self.turn(0).link, Some(LinkChange::Closed));
    }

    fn taker(&mut self) -> Option<Taker> {
        let mut client = self.client.take()?;
        Some(Box::new(move || {
            client.read();
            std::mem::take(&mut client.frames)
        }))
    }
}

/// The tap device, whose place a socket takes that keeps frames apart.
pub struct TapLink {
    tap: Tap,
    turns: Loop,
    namespace: Option<OwnedFd>,
    header_bytes: usize,
}

impl TapLink {
    pub fn new(header: bool) -> Self {
        let (unix, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (device, namespace) =
            socketpair(unix, kind, SocketFlags::NONBLOCK, None).expect("socketpair");
        sockopt::set_socket_send_buffer_size(&device, 4 << 20).expect("setsockopt");
        let turns = Loop::new();
        let offloads = Offloads { header, ..Offloads::default() };
        let tap = Tap::new(device, offloads, &turns.registrar()).expect("epoll");
        Self { tap, turns, namespace: Some(namespace), header_bytes: if header { 12 } else { 0 } }
    }
}

impl Subject for TapLink {
    fn port(&mut self) -> &mut dyn FramePort {
        &mut self.tap
    }

    fn turn(&mut self, wait_ms: u32) -> PortEvents {
        self.turns.turn(&mut self.tap, wait_ms)
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        let Some(namespace) = &self.namespace else { return Vec::new() };
        let mut bytes = vec![0; 12 + MAX_FRAME_BYTES as usize];
        let frames = std::iter::from_fn(|| {
            let read = rustix::io::read(namespace, &mut bytes[..]).ok().filter(|&read| read > 0)?;
            Some(bytes[self.header_bytes..read].to_vec())
        });
        frames.collect()
    }

    fn free_some(&mut self) -> bool {
        false
    }

    fn largest(&self) -> u32 {
        MAX_FRAME_BYTES
    }

    fn is_bounded(&self) -> bool {
        false
    }

    /// A device that is gone takes no frames; its link says that it is closed, and answers as ever.
    fn stop(&mut self) {
        self.namespace = None;
        assert_eq!(self.turn(0).link, Some(LinkChange::Closed));
    }
}

/// A vhost-user device and its guest.
pub struct Vhost {
    device: Device,
    turns: Loop,
    guest: Option<Driver>,
    largest: u32,
}

/// The guest: what it has got, and how many buffers it has not posted again.
struct Driver {
    guest: Guest,
    frames: Vec<Vec<u8>>,
    unposted: u16,
}

impl Driver {
    /// Takes all frames that are visible. Their buffers stay with the driver.
    fn take(&mut self) {
        while let Some((frame, NetHeader { num_buffers, .. })) = self.guest.recv_frame_keep() {
            self.frames.push(frame);
            self.unposted += num_buffers;
        }
    }

    /// Posts `count` buffers.
    fn post(&mut self, count: u16) {
        self.guest.post_buffers(count);
        self.unposted -= count;
    }
}

impl Vhost {
    pub fn new(options: Options) -> Self {
        let mut turns = Loop::new();
        let config = Config { mac: None, mtu: 65_520 };
        let mut device = Device::new(turns.registrar(), config).expect("a device");
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        device.attach(theirs).expect("the first front-end");
        let mut pump = || {
            for _ in 0..4 {
                turns.turn(&mut device, 0);
            }
        };
        let guest = Guest::connect(ours, options, &mut pump);
        let plain = options.features & bit::MRG_RXBUF == 0;
        // The pieces of a reservation are limited, too, and the virtio header lies in front of all.
        let most = if plain { 1 } else { u32::from(options.ring_size) };
        let most = most.min(MAX_TO_GUEST_IOVECS as u32 - 1);
        let largest = (most * options.rx_buffer_bytes - 12).min(MAX_FRAME_BYTES);
        let driver = Driver { guest, frames: Vec::new(), unposted: 0 };
        Self { device, turns, guest: Some(driver), largest }
    }

    fn driver(&mut self) -> &mut Driver {
        self.guest.as_mut().expect("the guest lives here")
    }
}

impl Subject for Vhost {
    fn port(&mut self) -> &mut dyn FramePort {
        &mut self.device
    }

    fn turn(&mut self, wait_ms: u32) -> PortEvents {
        self.turns.turn(&mut self.device, wait_ms)
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        let driver = self.driver();
        driver.take();
        std::mem::take(&mut driver.frames)
    }

    fn free_some(&mut self) -> bool {
        let driver = self.driver();
        driver.take();
        // One buffer, or as many of a large ring that the tests take no hours.
        let some = driver.unposted.min(1.max(driver.guest.rings[RX].size / 32));
        driver.post(some);
        some > 0
    }

    fn largest(&self) -> u32 {
        self.largest
    }

    fn stop(&mut self) {
        self.driver().guest.set_enable(RX, false);
        assert_eq!(self.turn(0).link, Some(LinkChange::Down));
    }

    fn taker(&mut self) -> Option<Taker> {
        let mut driver = self.guest.take()?;
        Some(Box::new(move || {
            driver.take();
            driver.post(driver.unposted);
            std::mem::take(&mut driver.frames)
        }))
    }
}
