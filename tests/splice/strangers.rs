//! Datagrams of strangers that reach a relayed flow's socket, on either side, before it is connected.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use passt::sys::namespace_socket::{BoundPorts, NamespaceSockets, SocketKind, SocketMaker};
use passt_frame::Errno;
use passt_support::flood::Flood;
use passt_support::namespace::Netns;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net;

use crate::rig::{self, PATIENCE, Running, Setup, in_namespace};
use crate::{FIXED, INWARD, Route};

fn inward(guest: &Netns) -> Route {
    Route { guest: guest.clone(), inward: true, v4: true }
}

fn bound() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

#[test]
fn who_comes_while_a_relay_is_opened_for_another_is_not_taken_for_it() {
    in_namespace(
        "strangers::who_comes_while_a_relay_is_opened_for_another_is_not_taken_for_it",
        || {
            let guest = rig::guest();
            let running = Running::start(&guest, Setup::new(FIXED));
            let route = inward(&guest);
            let service = route.udp(true, route.service());
            // A round in which something else has the processor for long shows nothing.
            let mut lost = Vec::new();
            while lost.len() < 20 {
                let before = running.foreign();
                let floods = [0; 2].map(|_| {
                    Flood::new(|| {
                        let sockets: Vec<UdpSocket> = (0..8).map(|_| bound()).collect();
                        for socket in &sockets {
                            let port = socket.local_addr().unwrap().port();
                            let _ =
                                socket.send_to(&port.to_be_bytes(), (Ipv4Addr::LOCALHOST, INWARD));
                        }
                        std::thread::sleep(Duration::from_micros(100));
                    })
                });
                for _ in 0..2000 {
                    let mut bytes = [0; 2];
                    let (len, from) = service.recv_from(&mut bytes).unwrap();
                    assert_eq!(
                        (len, u16::from_be_bytes(bytes)),
                        (2, from.port()),
                        "relays keep the port"
                    );
                }
                drop(floods);
                // Who has met the socket of another one has got a relay, too; a few may have joined a queue late.
                match running.foreign() - before {
                    few if few <= 10 => return,
                    many => lost.push(many),
                }
            }
            panic!("{lost:?} of 2000 were taken for strangers");
        },
    );
}

/// Makes UDP sockets that strangers have met, as they may between bind(2) and connect(2): what they have sent waits in the
/// queue of each. A flood would have to hit that moment; and where the engine loses its processor there, a flood fills
/// the queue, and the kernel drops the answer.
struct Met {
    sockets: NamespaceSockets,
    stranger: UdpSocket,
}

impl Met {
    /// As many as are read with one system call, and some.
    const DATAGRAMS: usize = 20;

    /// The socket has a port for a moment. It keeps its queue when the port is given back (connect(2), `AF_UNSPEC`).
    fn meet(&self, socket: BorrowedFd<'_>) {
        net::bind(socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let bound = SocketAddr::try_from(net::getsockname(socket).unwrap()).unwrap();
        for _ in 0..Self::DATAGRAMS {
            self.stranger.send_to(b"stranger", (Ipv4Addr::LOCALHOST, bound.port())).unwrap();
        }
        let (mut arrives, patience) = ([PollFd::new(&socket, PollFlags::IN)], PATIENCE.try_into());
        assert_eq!(poll(&mut arrives, Some(&patience.unwrap())), Ok(1), "the first is there");
        net::connect_unspec(socket).unwrap();
    }
}

impl SocketMaker for Met {
    fn make(&mut self, kind: SocketKind) -> Result<OwnedFd, Errno> {
        let socket = self.sockets.make(kind)?;
        if kind == SocketKind::Udp4 {
            self.meet(socket.as_fd());
        }
        Ok(socket)
    }

    fn keep_at_most(&mut self, sockets: usize) {
        self.sockets.keep_at_most(sockets);
    }

    fn bound_ports(&mut self) -> Result<BoundPorts, Errno> {
        self.sockets.bound_ports()
    }
}

#[test]
fn what_strangers_send_to_the_source_port_of_a_relay_is_no_answer() {
    in_namespace(
        "strangers::what_strangers_send_to_the_source_port_of_a_relay_is_no_answer",
        || {
            const FLOWS: u64 = 250;
            let guest = rig::guest();
            let mut setup = Setup::new(FIXED);
            setup.tamper = |sockets, guest| Box::new(Met { sockets, stranger: guest.run(bound) });
            let running = Running::start(&guest, setup);
            let route = inward(&guest);
            let service = route.udp(true, route.service());
            // Each keeps its port, so that no two have the same flow.
            let clients = [(); FLOWS as usize].map(|()| bound());
            for client in &clients {
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                client.send_to(b"question", (Ipv4Addr::LOCALHOST, INWARD)).unwrap();
                let mut bytes = [0; 64];
                let (len, from) = service.recv_from(&mut bytes).unwrap();
                assert_eq!(&bytes[..len], b"question");
                service.send_to(b"answer", from).unwrap();
                let len = client.recv(&mut bytes).unwrap();
                assert_eq!(&bytes[..len], b"answer");
            }
            assert!(running.foreign() >= FLOWS, "each flow has met strangers");
        },
    );
}
