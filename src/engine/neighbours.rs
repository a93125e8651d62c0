//! The host's neighbours on the guest's link: follows the table of the host's kernel, and tells the
//! guest of stations that come, so that it replaces what it was answered before (RFC 5227, section
//! 2.3; RFC 4861, section 7.2.6).

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use passt_frame::{Errno, ToGuest};

use super::event_counters::EventType;
use super::net::Net;
use super::outbox::Outbox;
use super::source::{Exit, Source};
use super::{Engine, responders};
use crate::flow::network::Mac;
use crate::limits::{NEIGHBOUR_DATAGRAMS_AT_START, NEIGHBOUR_DATAGRAMS_PER_TURN};
use crate::responder::{arp, ndp};
use crate::sys::neighbours::{Neighbour, NeighbourSocket, News};

/// The subscription to the kernel's table.
pub struct NeighbourWatch {
    socket: NeighbourSocket,
    /// Interfaces whose neighbours count, of IPv4 and of IPv6.
    interfaces: [Option<u32>; 2],
    dump: Dump,
}

/// Whether the kernel is telling its whole table. It tells it once at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dump {
    Idle,
    Running,
    /// Notifications were lost meanwhile: once more.
    Again,
}

/// The way to the guest, for announcements.
type GuestSink<'a> = (&'a mut Outbox, &'a mut dyn ToGuest);

impl NeighbourWatch {
    /// Follows the neighbours on these interfaces of the host, of IPv4 and of IPv6. What the kernel
    /// knows already is known to `engine` when this returns.
    ///
    /// # Errors
    /// What socket(2) or bind(2) report.
    pub fn start(engine: &mut Engine, interfaces: [Option<u32>; 2]) -> Result<Self, Errno> {
        let socket = NeighbourSocket::open()?;
        let mut watch = Self { socket, interfaces, dump: Dump::Idle };
        let net = &mut engine.core.net;
        watch.ask(net);
        watch.read(net, None, NEIGHBOUR_DATAGRAMS_AT_START);
        Ok(watch)
    }

    /// From now on the neighbours on these interfaces count.
    pub(crate) fn look_elsewhere(&mut self, engine: &mut Engine, interfaces: [Option<u32>; 2]) {
        if self.interfaces != interfaces {
            self.interfaces = interfaces;
            self.ask_twice(&mut engine.core.net);
        }
    }

    /// Reads at most so many datagrams. New neighbours are announced to the guest if there is a way to it.
    fn read(&mut self, net: &mut Net, mut sink: Option<GuestSink<'_>>, datagrams: usize) {
        for _ in 0..datagrams {
            let mut dump_done = false;
            let interfaces = self.interfaces;
            let read = self.socket.read(|news| match news {
                News::DumpDone => dump_done = true,
                News::Neighbour(told) => {
                    if interfaces[usize::from(told.address.is_ipv6())] == Some(told.interface)
                        && let Some((address, mac)) = note(net, &told)
                        && let Some((outbox, out)) = &mut sink
                    {
                        announce(net, outbox, &mut **out, address, mac);
                    }
                }
            });
            if dump_done {
                self.dump_has_ended(net);
            }
            match read {
                Ok(()) => {}
                Err(Errno::NOBUFS) => self.ask_twice(net),
                Err(Errno::AGAIN) => return,
                Err(errno) => {
                    self.dump = Dump::Idle;
                    return log::debug!("neighbours: {errno}");
                }
            }
        }
    }

    /// Notifications were lost. More of them are until the queue has been empty, and the kernel does
    /// not tell again: what changes while it dumps the table may be among them. Once the first dump has
    /// been read the queue was empty, and the second one misses nothing.
    fn ask_twice(&mut self, net: &mut Net) {
        self.ask(net);
        if self.dump == Dump::Running {
            self.dump = Dump::Again;
        }
    }

    /// Asks for the whole table, now or when the kernel has told the rest of it.
    fn ask(&mut self, net: &mut Net) {
        self.dump = match self.dump {
            Dump::Running | Dump::Again => Dump::Again,
            Dump::Idle => {
                net.neighbours.begin_refresh();
                match self.socket.ask() {
                    Ok(()) => Dump::Running,
                    Err(errno) => {
                        log::debug!("cannot ask for neighbours: {errno}");
                        Dump::Idle
                    }
                }
            }
        };
    }

    fn dump_has_ended(&mut self, net: &mut Net) {
        let again = std::mem::replace(&mut self.dump, Dump::Idle) == Dump::Again;
        if again {
            self.ask(net);
        } else {
            net.neighbours.end_refresh();
        }
    }
}

/// A watch that somebody else has, too, to have it look elsewhere.
pub struct SharedWatch {
    watch: Rc<RefCell<NeighbourWatch>>,
    descriptor: OwnedFd,
}

impl SharedWatch {
    /// Shares `watch`.
    ///
    /// # Errors
    /// What dup(2) reports.
    pub(crate) fn new(watch: Rc<RefCell<NeighbourWatch>>) -> Result<Self, Errno> {
        let descriptor = rustix::io::fcntl_dupfd_cloexec(&watch.borrow().socket, 0)?;
        Ok(Self { watch, descriptor })
    }
}

impl Source for SharedWatch {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::Neighbours
    }

    fn on_event(&mut self, engine: &mut Engine, out: &mut dyn ToGuest) -> Option<Exit> {
        self.watch.borrow_mut().on_event(engine, out)
    }
}

impl Source for NeighbourWatch {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::Neighbours
    }

    fn on_event(&mut self, engine: &mut Engine, out: &mut dyn ToGuest) -> Option<Exit> {
        let core = &mut engine.core;
        self.read(&mut core.net, Some((&mut core.outbox, out)), NEIGHBOUR_DATAGRAMS_PER_TURN);
        None
    }
}

/// Brings the table up to date; what is new in it, as the guest sees it.
fn note(net: &mut Net, told: &Neighbour) -> Option<(IpAddr, Mac)> {
    let address = net.source_for_guest(told.address)?;
    let Some(mac) = told.mac else {
        net.neighbours.forget(address);
        return None;
    };
    net.neighbours.learn(address, mac).then_some((address, mac))
}

/// Tells the guest that `address` is the station `mac`.
fn announce(net: &Net, outbox: &mut Outbox, out: &mut dyn ToGuest, address: IpAddr, mac: Mac) {
    if !out.caps().up || mac == net.network.our_mac {
        return;
    }
    log::debug!("new neighbour: {address} is {mac}");
    match address {
        IpAddr::V4(v4) => {
            let message = arp::announcement(v4, mac);
            responders::send_arp(outbox, out, (mac, Mac::BROADCAST), &message);
        }
        IpAddr::V6(v6) if net.network.services.ndp => {
            let mut told = ndp::announcement(v6, mac);
            let to = SocketAddr::new(told.destination.into(), 0);
            let macs = (mac, net.mac_of(told.destination.into()));
            outbox.icmp(out, macs, SocketAddr::new(address, 0), to, &mut told.message);
        }
        IpAddr::V6(_) => {}
    }
}
