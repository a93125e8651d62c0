//! The MTU that a vhost-user front-end sets (NET_SET_MTU): told to the guest by DHCP and router
//! advertisements, and what the MSS of new connections follows from. The real loop over the real device.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use passt::engine::{Clients, LINK_BASE, Link, Worker};
use passt::flow::tcp::our_mss;
use passt_frame::Registrar;
use passt_guest::{Guest, NetHeader, Options, request};
use passt_vhost::{Config, Device};
use rustix::event::epoll;

use crate::namespace::isolated;
use crate::packet;
use crate::world::{Family, Setup, engine};

/// Offset of the options in a frame with a DHCP answer: Ethernet, IPv4, UDP, fixed part.
const DHCP_OPTIONS_AT: usize = 14 + 20 + 8 + 240;

/// Offset of the options in a frame with a router advertisement.
const RA_OPTIONS_AT: usize = 14 + 40 + 16;

/// A front-end with its guest, and the loop behind.
struct Rig {
    worker: Worker<Device>,
    guest: Guest,
}

impl Rig {
    fn new(configured: u16) -> Self {
        let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).expect("an instance"));
        let config = Config { mac: None, mtu: configured };
        let registrar = Registrar::new(epoll.clone(), LINK_BASE);
        let device = Device::new(registrar, config).expect("a device");
        let engine = engine(&Setup { mtu: configured, ..Setup::default() }, epoll.clone());
        let clients = Clients { listener: None, one_off: false };
        let mut worker = Worker::new(epoll, device, engine, clients).expect("epoll");
        let guest = connect(&mut worker);
        Self { worker, guest }
    }

    fn turns(&mut self) {
        turns(&mut self.worker);
    }

    fn set_mtu(&mut self, mtu: u64) {
        self.guest.send(request::NET_SET_MTU, &mtu.to_ne_bytes(), &[]);
        self.turns();
    }

    /// Sends a frame; returns what `wanted` finds in the frames that come back.
    fn ask(&mut self, frame: &[u8], wanted: impl Fn(&[u8]) -> Option<u32>) -> Option<u32> {
        while self.guest.recv_frame().is_some() {}
        self.guest.send_frame(frame, NetHeader::default());
        self.turns();
        std::iter::from_fn(|| self.guest.recv_frame()).find_map(|(frame, _)| wanted(&frame))
    }

    /// MTU in DHCP, MTU in router advertisements, MSS of connections from `port`; `None` for untold.
    fn told(&mut self, port: u16) -> (Option<u32>, Option<u32>, Option<u32>) {
        let link_local = "fe80::1".parse().expect("an address");
        let guest = SocketAddr::new(Family::V4.guest(), port);
        let syn = packet::tcp(guest, Family::V4.host_at(8000), packet::SYN, (1, 0), b"");
        (
            self.ask(&packet::discover(), dhcp_mtu),
            self.ask(&packet::router_solicitation(link_local), ra_mtu),
            self.ask(&syn, mss),
        )
    }
}

fn turns(worker: &mut Worker<Device>) {
    for _ in 0..8 {
        worker.turn(Some(Duration::from_millis(2))).expect("epoll_wait");
    }
}

fn connect(worker: &mut Worker<Device>) -> Guest {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    Link::attach(worker.link(), theirs.into()).expect("no other front-end");
    Guest::connect(ours, Options::default(), &mut || turns(worker))
}

/// Finds option 26 (RFC 2132, section 5.1).
fn dhcp_mtu(frame: &[u8]) -> Option<u32> {
    let mut options = frame.get(DHCP_OPTIONS_AT..)?;
    while let [code, len, rest @ ..] = options {
        let (value, rest) = rest.split_at_checked(usize::from(*len))?;
        if *code == 26 {
            return Some(u16::from_be_bytes(value.try_into().ok()?).into());
        }
        options = rest;
    }
    None
}

/// Finds option 5 (RFC 4861, section 4.6.4) of a router advertisement.
fn ra_mtu(frame: &[u8]) -> Option<u32> {
    let mut options = frame.get(RA_OPTIONS_AT..).filter(|_| frame[54] == 134)?;
    while let [code, units, ..] = options {
        let (option, rest) = options.split_at_checked(8 * usize::from(*units).max(1))?;
        if *code == 5 {
            return Some(u32::from_be_bytes(option[4..8].try_into().ok()?));
        }
        options = rest;
    }
    None
}

/// The MSS, always the first option, of a SYN-ACK.
fn mss(frame: &[u8]) -> Option<u32> {
    let tcp = frame.get(34..).filter(|tcp| frame[23] == 6 && tcp[13] == 0x12)?;
    (tcp[20..22] == [2, 4]).then(|| u16::from_be_bytes([tcp[22], tcp[23]]).into())
}

#[test]
fn the_front_ends_mtu_reaches_the_guest() {
    isolated(|| {
        let _listener = TcpListener::bind(Family::V4.host_at(8000)).expect("a free port");
        let mut rig = Rig::new(65520);
        let all = |mtu: u16| (Some(mtu.into()), Some(mtu.into()), Some(our_mss(mtu, 20).into()));
        assert_eq!(rig.told(40000), all(65520));
        rig.set_mtu(1400);
        assert_eq!(rig.told(40001), all(1400));
        rig.set_mtu(9000);
        assert_eq!(rig.told(40002), all(9000));
        // The next front-end has not said anything of it.
        rig.guest.client.socket().shutdown(std::net::Shutdown::Both).expect("connected");
        rig.turns();
        rig.guest = connect(&mut rig.worker);
        assert_eq!(rig.told(40003), all(65520));
    });
}

#[test]
fn the_option_is_the_most_that_the_guest_is_told() {
    isolated(|| {
        let _listener = TcpListener::bind(Family::V4.host_at(8000)).expect("a free port");
        let mut rig = Rig::new(1500);
        rig.set_mtu(9000);
        assert_eq!(rig.told(40000), (Some(1500), Some(1500), Some(1460)));
        rig.set_mtu(1300);
        assert_eq!(rig.told(40001), (Some(1300), Some(1300), Some(1260)));

        let mut rig = Rig::new(0);
        assert_eq!(rig.told(40002), (None, None, Some(1460)));
        rig.set_mtu(1300);
        assert_eq!(rig.told(40003), (None, None, Some(1460)), "the option says that none is told");
    });
}
