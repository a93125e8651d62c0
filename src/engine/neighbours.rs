//! The host's neighbours on the guest's link: follows the table of the host's kernel, and tells the
//! guest of stations that come, so that it replaces what it was answered before (RFC 5227, section
//! 2.3; RFC 4861, section 7.2.6).

use std::net::{IpAddr, SocketAddr};

use passt_frame::{Errno, ToGuest};
use rustix::event::epoll;

use super::addressing::Addressing;
use super::{Engine, Token};
use crate::flow::fwd;
use crate::flow::network::Mac;
use crate::limits::{NEIGHBOUR_DATAGRAMS_AT_START, NEIGHBOUR_DATAGRAMS_PER_TURN};
use crate::responder::{arp, ndp};
use crate::sys::neighbours::{Neighbour, NeighbourSocket, News};

/// The subscription.
pub(super) struct NeighbourWatch {
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

impl Engine {
    /// Follows the neighbours on these interfaces of the host, of IPv4 and of IPv6. What the kernel
    /// knows already is known when this returns.
    ///
    /// # Errors
    /// What socket(2), bind(2) or epoll_ctl(2) report.
    pub fn watch_neighbours(&mut self, interfaces: [Option<u32>; 2]) -> Result<(), Errno> {
        let socket = NeighbourSocket::open()?;
        let data = epoll::EventData::new_u64(Token::Neighbours.to_bits());
        epoll::add(&*self.epoll, &socket, data, epoll::EventFlags::IN)?;
        let mut watch = NeighbourWatch { socket, interfaces, dump: Dump::Idle };
        self.dump_neighbours(&mut watch);
        self.read_neighbours(&mut watch, None, NEIGHBOUR_DATAGRAMS_AT_START);
        self.neighbours = Some(Box::new(watch));
        Ok(())
    }

    /// The kernel tells of neighbours.
    pub fn on_neighbours_event(&mut self, out: &mut dyn ToGuest) {
        if let Some(mut watch) = self.neighbours.take() {
            self.read_neighbours(&mut watch, Some(out), NEIGHBOUR_DATAGRAMS_PER_TURN);
            self.neighbours = Some(watch);
        }
    }

    /// Reads at most so many datagrams. New neighbours are announced to the guest if there is a way
    /// `out` to it.
    fn read_neighbours(
        &mut self,
        watch: &mut NeighbourWatch,
        mut out: Option<&mut dyn ToGuest>,
        datagrams: usize,
    ) {
        for _ in 0..datagrams {
            let mut dump_done = false;
            let interfaces = watch.interfaces;
            let read = watch.socket.read(|news| match news {
                News::DumpDone => dump_done = true,
                News::Neighbour(told) => {
                    if interfaces[usize::from(told.address.is_ipv6())] == Some(told.interface)
                        && let Some((address, mac)) = self.note_neighbour(&told)
                        && let Some(out) = &mut out
                    {
                        self.announce(&mut **out, address, mac);
                    }
                }
            });
            if dump_done {
                self.dump_has_ended(watch);
            }
            match read {
                Ok(()) => {}
                Err(Errno::NOBUFS) => self.ask_twice(watch),
                Err(Errno::AGAIN) => return,
                Err(errno) => {
                    watch.dump = Dump::Idle;
                    return log::debug!("neighbours: {errno}");
                }
            }
        }
    }

    /// Brings the table up to date; what is new in it, as the guest sees it.
    fn note_neighbour(&mut self, told: &Neighbour) -> Option<(IpAddr, Mac)> {
        let Addressing { net, map, learned, neighbours, .. } = &mut self.addressing;
        let address = fwd::source_for_guest(net, map, learned, told.address)?;
        let Some(mac) = told.mac else {
            neighbours.forget(address);
            return None;
        };
        neighbours.learn(address, mac).then_some((address, mac))
    }

    /// Notifications were lost. More of them are until the queue has been empty, and the kernel does
    /// not tell again: what changes while it dumps the table may be among them. Once the first dump has
    /// been read the queue was empty, and the second one misses nothing.
    fn ask_twice(&mut self, watch: &mut NeighbourWatch) {
        self.dump_neighbours(watch);
        if watch.dump == Dump::Running {
            watch.dump = Dump::Again;
        }
    }

    /// Asks for the whole table, now or when the kernel has told the rest of it.
    fn dump_neighbours(&mut self, watch: &mut NeighbourWatch) {
        watch.dump = match watch.dump {
            Dump::Running | Dump::Again => Dump::Again,
            Dump::Idle => {
                self.addressing.neighbours.begin_refresh();
                match watch.socket.ask() {
                    Ok(()) => Dump::Running,
                    Err(errno) => {
                        log::debug!("cannot ask for neighbours: {errno}");
                        Dump::Idle
                    }
                }
            }
        };
    }

    fn dump_has_ended(&mut self, watch: &mut NeighbourWatch) {
        let again = std::mem::replace(&mut watch.dump, Dump::Idle) == Dump::Again;
        if again {
            self.dump_neighbours(watch);
        } else {
            self.addressing.neighbours.end_refresh();
        }
    }

    /// Tells the guest that `address` is the station `mac`.
    fn announce(&mut self, out: &mut dyn ToGuest, address: IpAddr, mac: Mac) {
        let net = &self.addressing.net;
        if !out.caps().up || mac == net.our_mac {
            return;
        }
        log::debug!("new neighbour: {address} is {mac}");
        match address {
            IpAddr::V4(v4) => {
                self.send_arp(out, (mac, Mac::BROADCAST), &arp::announcement(v4, mac));
            }
            IpAddr::V6(v6) if net.services.ndp => {
                let mut told = ndp::announcement(v6, mac);
                let to = SocketAddr::new(told.destination.into(), 0);
                let macs = (mac, self.addressing.learned.mac);
                self.outbox.icmp(out, macs, SocketAddr::new(address, 0), to, &mut told.message);
            }
            IpAddr::V6(_) => {}
        }
    }
}
