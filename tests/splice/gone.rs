//! Whoever makes sockets in the guest's namespace has ended: nothing is lost by which the engine finds that out.

use std::net::{TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use passt::sys::namespace_socket::{BoundPorts, NamespaceSockets, SocketKind, SocketMaker};
use rustix::io::Errno;

use crate::rig::{self, Running, Setup, in_namespace};
use crate::{INWARD, localhost};

/// None whose sockets the namespace would have to make.
const ALL_INWARD: [&str; 4] = ["2001", "2001", "none", "none"];

/// It has ended once the engine watches the ports of the namespace.
struct Ended(NamespaceSockets);

impl SocketMaker for Ended {
    fn make(&mut self, _: SocketKind) -> Result<OwnedFd, Errno> {
        Err(Errno::PIPE)
    }

    fn keep_at_most(&mut self, sockets: usize) {
        self.0.keep_at_most(sockets);
    }

    fn bound_ports(&mut self) -> Result<BoundPorts, Errno> {
        self.0.bound_ports()
    }
}

fn setup() -> Setup {
    Setup { tamper: |sockets, _| Box::new(Ended(sockets)), ..Setup::new(ALL_INWARD) }
}

#[test]
fn the_first_datagram_goes_by_the_link() {
    in_namespace("gone::the_first_datagram_goes_by_the_link", || {
        for v4 in [true, false] {
            let running = Running::start(&rig::guest(), setup());
            let client = UdpSocket::bind((localhost(v4), 0)).unwrap();
            client.send_to(b"question", (localhost(v4), INWARD)).unwrap();
            running.await_flows(1);
        }
    });
}

#[test]
fn the_first_connection_goes_by_the_link() {
    in_namespace("gone::the_first_connection_goes_by_the_link", || {
        for v4 in [true, false] {
            let running = Running::start(&rig::guest(), setup());
            let _client = TcpStream::connect((localhost(v4), INWARD)).unwrap();
            running.await_flows(1);
        }
    });
}

#[test]
fn what_has_no_link_is_refused() {
    in_namespace("gone::what_has_no_link_is_refused", || {
        let mut setup = setup();
        setup.how.only = true;
        let running = Running::start(&rig::guest(), setup);
        let mut client = TcpStream::connect((localhost(true), INWARD)).unwrap();
        let refused = std::io::Read::read(&mut client, &mut [0]).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(running.flows(), 0);
    });
}
