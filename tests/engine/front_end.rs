//! The real loop over the real vhost-user device, with a front-end and a guest in the same process.

use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use passt::engine::{Clients, LINK_BASE, Link, Worker};
use passt_frame::Registrar;
use passt_guest::{Guest, NetHeader, Options};
use passt_vhost::{Config, Device};
use rustix::event::epoll;

use crate::world::{Setup, engine};

/// A front-end with its guest, and the loop behind.
pub struct FrontEnd {
    worker: Worker<Device>,
    pub guest: Guest,
    options: Options,
}

impl FrontEnd {
    /// A guest that has connected to a device with an MTU of `mtu` bytes.
    pub fn new(mtu: u16, options: Options) -> Self {
        let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).expect("an instance"));
        let registrar = Registrar::new(epoll.clone(), LINK_BASE);
        let device = Device::new(registrar, Config { mac: None, mtu }).expect("a device");
        let engine = engine(&Setup { mtu, ..Setup::default() }, epoll.clone());
        let clients = Clients { listener: None, one_off: false };
        let mut worker = Worker::new(epoll, device, engine, clients).expect("epoll");
        let guest = connect(&mut worker, options);
        Self { worker, guest, options }
    }

    /// Connects anew, when the front-end has left.
    pub fn connect(&mut self) {
        self.guest = connect(&mut self.worker, self.options);
    }

    /// Turns of the loop, more than any answer takes.
    pub fn turns(&mut self) {
        turns(&mut self.worker);
    }

    /// The guest sends a frame through the pair that it uses.
    pub fn send(&mut self, frame: &[u8]) {
        self.guest.send_frame(frame, NetHeader::default());
        self.turns();
    }

    /// All frames that the guest has got, with the pairs that they came through.
    pub fn received(&mut self) -> Vec<(usize, Vec<u8>)> {
        let mut all = Vec::new();
        let before = self.guest.pair;
        for pair in 0..self.options.pairs {
            self.guest.pair = pair;
            let frames = std::iter::from_fn(|| self.guest.recv_frame());
            all.extend(frames.map(|(frame, _)| (pair, frame)));
        }
        self.guest.pair = before;
        all
    }
}

fn turns(worker: &mut Worker<Device>) {
    for _ in 0..8 {
        worker.turn(Some(Duration::from_millis(2))).expect("epoll_wait");
    }
}

fn connect(worker: &mut Worker<Device>, options: Options) -> Guest {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    Link::attach(worker.link(), theirs.into()).expect("no other front-end");
    Guest::connect(ours, options, &mut || turns(worker))
}
