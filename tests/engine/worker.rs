//! The loop itself: clients, frames and sockets by event, and silence when there is none.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use passt::engine::{Clients, EventType, Exit, LINK_BASE, Link, Signals, Worker};
use passt::flow::fwd::Proto;
use passt_frame::{
    FrameMeta, FramePort, FromGuest, LinkChange, MemPort, PortEvents, Registrar, ToGuest, Trigger,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};

use crate::namespace::isolated;
use crate::packet;
use crate::world::{Family, PLAIN, Setup, engine, forward};

/// A link in memory whose guest kicks, and whose client connects through a socket.
struct KickedPort {
    port: MemPort,
    kick: OwnedFd,
    client: Option<OwnedFd>,
    /// What the next kick reports besides frames.
    room: bool,
}

impl FramePort for KickedPort {
    fn halves(&mut self) -> (&mut dyn FromGuest, &mut dyn ToGuest) {
        self.port.halves()
    }

    fn on_event(&mut self, _token: u16) -> PortEvents {
        rustix::io::read(&self.kick, &mut [0; 8]).expect("a kick");
        let room = std::mem::take(&mut self.room);
        PortEvents { frames: true, room, link: None::<LinkChange> }
    }

    fn flush(&mut self) {
        self.port.flush();
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.port.counters(visit);
    }
}

impl Link for KickedPort {
    fn attach(&mut self, client: OwnedFd) -> Result<(), String> {
        self.client = Some(client);
        Ok(())
    }

    fn is_attached(&self) -> bool {
        self.client.is_some()
    }

    fn event_type(&self, _token: u16) -> EventType {
        EventType::Kick
    }
}

/// A worker, and its epoll instance to look at from outside.
struct Rig {
    worker: Worker<KickedPort>,
    epoll: Rc<OwnedFd>,
}

impl Rig {
    fn new(clients: Clients, signals: Option<OwnedFd>) -> Self {
        Self::with(&Setup::default(), clients, signals)
    }

    fn with(setup: &Setup, clients: Clients, signals: Option<OwnedFd>) -> Self {
        let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).expect("an instance"));
        let kick = eventfd(0, EventfdFlags::NONBLOCK).expect("a descriptor");
        let registrar = Registrar::new(epoll.clone(), LINK_BASE);
        registrar.add(&kick, 1, Trigger::Level).expect("a descriptor that polls");
        let port = MemPort::new(PLAIN, 4096);
        let port = KickedPort { port, kick, client: None, room: false };
        let engine = engine(setup, epoll.clone());
        let mut worker = Worker::new(epoll.clone(), port, engine, clients).expect("epoll");
        if let Some(signals) = signals {
            worker.add(Box::new(Signals(signals))).expect("a descriptor that polls");
        }
        Self { worker, epoll }
    }

    /// Whether the next turn would have anything to do.
    fn is_busy(&self) -> bool {
        let mut fds = [PollFd::new(&*self.epoll, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&rustix::time::Timespec::default())).expect("poll");
        ready > 0 || self.worker.engine().has_work()
    }

    fn turn(&mut self) {
        self.worker.turn(Some(Duration::from_millis(2))).expect("epoll_wait");
    }

    /// Turns until nothing is left to do; how many that were.
    fn settle(&mut self) -> usize {
        for turns in 0..100 {
            if !self.is_busy() {
                return turns;
            }
            self.turn();
        }
        panic!("the loop spins");
    }

    fn kick(&mut self) {
        rustix::io::write(&self.worker.link().kick, &1u64.to_ne_bytes()).expect("a kick");
    }

    fn send(&mut self, frame: Vec<u8>) {
        self.worker.link().port.send(frame, FrameMeta::default());
        self.kick();
    }

    fn received(&mut self) -> usize {
        std::iter::from_fn(|| self.worker.link().port.recv()).count()
    }
}

fn no_clients() -> Clients {
    Clients { listener: None, one_off: false }
}

#[test]
fn a_second_client_is_turned_away() {
    isolated(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let listener = Some(UnixListener::bind(&path).expect("a fresh path").into());
        let mut rig = Rig::new(Clients { listener, one_off: false }, None);
        let _first = UnixStream::connect(&path).expect("listening");
        rig.turn();
        assert!(rig.worker.link().is_attached());
        let mut second = UnixStream::connect(&path).expect("listening");
        rig.turn();
        second.set_read_timeout(Some(Duration::from_secs(5))).expect("setsockopt");
        let got = std::io::Read::read(&mut second, &mut [0]).expect("closed, not silent");
        assert_eq!(got, 0);
        assert_eq!(rig.settle(), 0);
    });
}

#[test]
fn point_1_the_loop_sleeps_while_the_guest_has_no_room() {
    isolated(|| {
        let mut rig = Rig::new(no_clients(), None);
        let host = UdpSocket::bind(Family::V4.host_at(9000)).expect("a free port");
        host.set_read_timeout(Some(Duration::from_secs(5))).expect("setsockopt");
        let from = std::net::SocketAddr::new(Family::V4.guest(), 5000);
        rig.send(packet::udp(from, Family::V4.host_at(9000), b"?"));
        rig.settle();
        let (_, guest) = host.recv_from(&mut [0; 16]).expect("a datagram");
        rig.worker.link().port.set_room(0);
        for _ in 0..20 {
            host.send_to(b"!", guest).expect("sent");
            rig.turn();
            assert!(rig.settle() <= 2, "turns for one datagram without room");
        }
        assert_eq!(rig.received(), 0);
        let link = rig.worker.link();
        link.room = link.port.set_room(usize::MAX).room;
        rig.kick();
        rig.settle();
        assert_eq!(rig.received(), 20);
    });
}

#[test]
fn a_signal_ends_the_loop() {
    isolated(|| {
        // Any readable descriptor stands for the signal descriptor.
        let signals = eventfd(1, EventfdFlags::NONBLOCK).expect("a descriptor");
        let mut rig = Rig::new(no_clients(), Some(signals));
        assert_eq!(rig.worker.run().expect("epoll_wait"), Exit::Signal);
    });
}

#[test]
fn at_the_end_nothing_listens_any_more() {
    isolated(|| {
        let signals = eventfd(1, EventfdFlags::NONBLOCK).expect("a descriptor");
        let rules = vec![forward(Proto::Tcp, Family::V4, 7001)];
        let mut rig = Rig::with(&Setup { rules, ..Setup::default() }, no_clients(), Some(signals));
        let port = || TcpListener::bind(Family::V4.host_at(7001));
        assert!(port().is_err(), "the rule's socket listens");
        assert_eq!(rig.worker.run().expect("epoll_wait"), Exit::Signal);
        port().expect("a port that is free, while the worker and its link are still there");
    });
}
