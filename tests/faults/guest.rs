//! A guest of passt: smoltcp's stack, which asks for an echo by TCP and by UDP, and is one to a client outside.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use passt_guest::Guest;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, Ipv4Address};

use crate::host::{self, ECHO, FORWARDED, Talk};

/// Where passt has its host's loopback.
const GATEWAY: Ipv4Address = Ipv4Address::new(192, 0, 2, 1);

/// Connections to the guest at once.
const LISTENERS: usize = 4;

/// How long a datagram is waited for that may be lost.
pub const DATAGRAM: Duration = Duration::from_millis(300);

/// The guest's end of a link.
pub trait Link: Device {
    /// Moves what there is.
    fn pump(&mut self) {}

    /// Whether passt has closed it.
    fn is_lost(&self) -> bool;
}

impl Link for Guest {
    fn is_lost(&self) -> bool {
        self.client.is_closed()
    }
}

/// What a conversation has come to.
#[derive(Debug, Default)]
pub struct Heard {
    /// The stream that the guest has opened.
    pub out: Talk,
    /// The stream that was opened to the guest.
    pub inward: Talk,
    pub datagram: bool,
    /// The link has gone.
    pub lost: bool,
}

impl Heard {
    /// Of a link that was not there.
    pub fn lost() -> Self {
        Self { lost: true, ..Self::default() }
    }

    /// Everything came back.
    pub fn is_all(&self) -> bool {
        [self.out, self.inward] == [Talk::Whole; 2] && self.datagram
    }

    /// No stream is left in doubt.
    pub fn is_over(&self) -> bool {
        self.lost || (self.out != Talk::Open && self.inward != Talk::Open)
    }

    /// What may come of one fault: nobody waits for ever, and no more than one stream is lost, or the whole link.
    pub fn is_borne(&self) -> bool {
        self.is_over() && (self.lost || self.out == Talk::Whole || self.inward == Talk::Whole)
    }

    /// Nothing more is waited for.
    pub fn is_done(&self, begin: Instant) -> bool {
        self.lost || (self.is_over() && (self.datagram || begin.elapsed() > DATAGRAM))
    }
}

/// The guest's own stream.
struct Stream {
    port: u16,
    len: usize,
    sent: usize,
    came: usize,
}

/// Has `len` bytes echoed from port `port` on, by the way of `link`, and a datagram, and echoes what a client sends. What
/// came of it within `patience`.
///
/// # Panics
/// When a byte is wrong.
pub fn converse(link: &mut impl Link, (port, len): (u16, usize), patience: Duration) -> Heard {
    let begin = Instant::now();
    let now = || smoltcp::time::Instant::from_micros(begin.elapsed().as_micros() as i64);
    let config = Config::new(EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]).into());
    let mut iface = Interface::new(config, link, now());
    iface.update_ip_addrs(|addresses| {
        let cidr = IpCidr::new(IpAddress::v4(192, 0, 2, 2), 24);
        addresses.push(cidr).expect("room for an address");
    });
    let room = if len > 100_000 { 262_144 } else { 16_384 };
    let stream = || tcp::Socket::new(buffer(room), buffer(room));
    let packets = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let mut sockets = SocketSet::new(Vec::new());
    let out = sockets.add(stream());
    // Connections that came before, when the link was lost, may come anew.
    let mut inward: Vec<_> = (0..LISTENERS).map(|_| (sockets.add(stream()), Vec::new())).collect();
    let datagrams = sockets.add(udp::Socket::new(packets(), packets()));
    let to = (IpAddress::from(GATEWAY), ECHO);
    let socket = sockets.get_mut::<tcp::Socket<'_>>(out);
    socket.connect(iface.context(), to, port).expect("a fresh socket");
    for (inward, _) in &inward {
        sockets.get_mut::<tcp::Socket<'_>>(*inward).listen(FORWARDED).expect("a fresh socket");
    }
    let socket = sockets.get_mut::<udp::Socket<'_>>(datagrams);
    socket.bind(5000).expect("a fresh socket");
    socket.send_slice(b"echo", to).expect("room");

    let mut stream = Stream { port, len, sent: 0, came: 0 };
    let (mut heard, mut asked) = (Heard::default(), None);
    while begin.elapsed() < patience && !heard.is_done(begin) {
        link.pump();
        iface.poll(now(), link, &mut sockets);
        stream.talk(sockets.get_mut(out), &mut heard.out);
        for (inward, kept) in &mut inward {
            echo(sockets.get_mut(*inward), kept);
        }
        let socket = sockets.get_mut::<udp::Socket<'_>>(datagrams);
        if let Ok((bytes, _)) = socket.recv() {
            assert_eq!(bytes, b"echo", "a wrong datagram");
            heard.datagram = true;
        }
        iface.poll(now(), link, &mut sockets);
        link.pump();
        // The client comes when passt knows who the guest is.
        if asked.is_none() && (heard.datagram || begin.elapsed() > DATAGRAM / 2) {
            asked = Some(host::ask(patience));
        }
        heard.inward = asked.as_ref().map_or(heard.inward, |asked| answer(asked, heard.inward));
        heard.lost = link.is_lost();
        std::thread::sleep(Duration::from_micros(200));
    }
    // What is not over is given up, with a reset.
    for stream in inward.into_iter().map(|(inward, _)| inward).chain([out]) {
        sockets.get_mut::<tcp::Socket<'_>>(stream).abort();
    }
    iface.poll(now(), link, &mut sockets);
    link.pump();
    heard
}

fn buffer(bytes: usize) -> tcp::SocketBuffer<'static> {
    tcp::SocketBuffer::new(vec![0; bytes])
}

fn answer(asked: &Receiver<Talk>, before: Talk) -> Talk {
    asked.try_recv().unwrap_or(before)
}

impl Stream {
    fn talk(&mut self, socket: &mut tcp::Socket<'_>, talk: &mut Talk) {
        if *talk != Talk::Open {
            return;
        }
        while socket.can_send() && self.sent < self.len {
            let bytes = host::bytes(self.sent, self.len.min(self.sent + 65_536));
            self.sent += socket.send_slice(&bytes).expect("it can send");
        }
        if self.sent == self.len && socket.may_send() {
            socket.close();
        }
        while socket.can_recv() {
            let take = |bytes: &mut [u8]| {
                let right = host::are_right(self.came, bytes);
                assert!(right, "a wrong byte for port {} behind {}", self.port, self.came);
                (bytes.len(), bytes.len())
            };
            self.came += socket.recv(take).expect("it can receive");
        }
        let (whole, state) = (self.came == self.len, socket.state());
        let ended = matches!(state, tcp::State::TimeWait | tcp::State::LastAck);
        assert!(!ended || whole, "the end behind {} of {} bytes", self.came, self.len);
        // Both have closed it: `closed` alone could be a reset.
        if ended || (state == tcp::State::Closed && whole) {
            *talk = Talk::Whole;
        } else if state == tcp::State::Closed {
            *talk = Talk::Reset;
        }
    }
}

/// Sends back what came; `kept` is what there was no room for.
fn echo(socket: &mut tcp::Socket<'_>, kept: &mut Vec<u8>) {
    while socket.can_recv() && kept.len() < 65_536 {
        let take = |bytes: &mut [u8]| {
            kept.extend_from_slice(bytes);
            (bytes.len(), ())
        };
        socket.recv(take).expect("it can receive");
    }
    if socket.can_send() && !kept.is_empty() {
        let sent = socket.send_slice(kept).expect("it can send");
        kept.drain(..sent);
    }
    if kept.is_empty() && socket.state() == tcp::State::CloseWait {
        socket.close();
    }
}
