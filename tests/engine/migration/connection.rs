//! A connection between the guest and a peer, both ends of it, and what they do before the guest moves and afterwards.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::guest::Guest;
use crate::tcp::noise;

/// Bytes of each stream that moves bulk.
pub(super) const BULK: usize = 3 << 20;
/// Bytes of each stream that hardly moves.
pub(super) const LITTLE: usize = 20_000;
/// Buffers of the guest's sockets.
pub(super) const BUFFER: usize = 256 << 10;

/// One way of a connection: what was sent of it, and what has come.
pub(super) struct Way {
    pub(super) data: Vec<u8>,
    pub(super) sent: usize,
    pub(super) got: usize,
    /// The sender has ended it; the receiver has seen that.
    pub(super) ended: [bool; 2],
}

impl Way {
    pub(super) fn new(bytes: usize, seed: usize) -> Self {
        let mut data = noise(bytes + seed);
        data.drain(..seed);
        Self { data, sent: 0, got: 0, ended: [false; 2] }
    }

    pub(super) fn left(&self) -> &[u8] {
        &self.data[self.sent..]
    }

    pub(super) fn take(&mut self, bytes: &[u8], name: &str) {
        let expected = &self.data[self.got..][..bytes.len().min(self.data.len() - self.got)];
        assert!(expected == bytes, "{name}: wrong bytes at {}", self.got);
        self.got += bytes.len();
    }
}

/// What a connection does before the guest moves. Afterwards, all that is left is sent both ways, and both end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Idle,
    Both,
    /// The guest does not read.
    GuestStalls,
    /// The peer does not read.
    PeerStalls,
    /// The guest has sent all and ended its stream; the peer goes on.
    GuestEnded,
    /// The peer has, and the guest goes on.
    PeerEnded,
    /// The guest has ended its stream, and the peer has not read all of it.
    GuestEndedPeerStalls,
    /// The peer has, and the guest has not read all of it.
    PeerEndedGuestStalls,
}

pub(super) const ALL: [Before; 8] = [
    Before::Idle,
    Before::Both,
    Before::GuestStalls,
    Before::PeerStalls,
    Before::GuestEnded,
    Before::PeerEnded,
    Before::GuestEndedPeerStalls,
    Before::PeerEndedGuestStalls,
];

pub(super) struct Connection {
    pub(super) name: String,
    pub(super) before: Before,
    pub(super) handle: SocketHandle,
    pub(super) peer: TcpStream,
    pub(super) up: Way,
    pub(super) down: Way,
}

impl Connection {
    /// Both ends do what they do; `moved` says whether the guest has moved.
    pub(super) fn work(&mut self, guest: &mut Guest, moved: bool) {
        let (name, before) = (&self.name, self.before);
        let sends = |idle: Before| moved || before != Before::Idle && before != idle;
        if sends(Before::PeerEndedGuestStalls) {
            let socket = guest.tcp_mut(self.handle);
            if socket.can_send() && self.up.sent < self.up.data.len() {
                self.up.sent += socket.send_slice(self.up.left()).expect(name);
            }
            let ends = moved || matches!(before, Before::GuestEnded | Before::GuestEndedPeerStalls);
            if ends && self.up.sent == self.up.data.len() && !self.up.ended[0] {
                socket.close();
                self.up.ended[0] = true;
            }
        }
        if sends(Before::GuestEndedPeerStalls) {
            let ends = moved || matches!(before, Before::PeerEnded | Before::PeerEndedGuestStalls);
            self.peer_sends(ends);
        }
        if moved || !matches!(before, Before::GuestStalls | Before::PeerEndedGuestStalls) {
            self.guest_reads(guest);
        }
        if moved || !matches!(before, Before::PeerStalls | Before::GuestEndedPeerStalls) {
            self.peer_reads();
        }
    }

    /// The guest sends what it has to send; whether the peer has it.
    pub(super) fn guest_sends(&mut self, guest: &mut Guest) -> bool {
        let socket = guest.tcp_mut(self.handle);
        if socket.can_send() {
            self.up.sent += socket.send_slice(self.up.left()).expect(&self.name);
        }
        self.peer_reads();
        self.up.got == self.up.data.len()
    }

    pub(super) fn guest_ends(&mut self, guest: &mut Guest) {
        if !self.up.ended[0] {
            guest.tcp_mut(self.handle).close();
            self.up.ended[0] = true;
        }
    }

    /// The peer sends what its socket takes, and `ends` its stream behind the last byte; whether it has.
    pub(super) fn peer_sends(&mut self, ends: bool) -> bool {
        let name = &self.name;
        while !self.down.left().is_empty() {
            match self.peer.write(self.down.left()) {
                Ok(sent) => self.down.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{name}: peer: write: {error}"),
            }
        }
        if ends && self.down.left().is_empty() && !self.down.ended[0] {
            self.peer.shutdown(Shutdown::Write).expect(name);
            self.down.ended[0] = true;
        }
        self.down.ended[0]
    }

    pub(super) fn guest_reads(&mut self, guest: &mut Guest) {
        let socket = guest.tcp_mut(self.handle);
        let mut chunk = vec![0; BUFFER];
        while socket.can_recv() {
            let len = socket.recv_slice(&mut chunk).expect(&self.name);
            self.down.take(&chunk[..len], &self.name);
        }
        let reset = matches!(socket.state(), State::Closed)
            && !(self.up.ended[0] && self.down.got == self.down.data.len());
        assert!(!reset, "{}: reset toward the guest", self.name);
        self.down.ended[1] |= !socket.may_recv();
    }

    pub(super) fn peer_reads(&mut self) {
        let mut chunk = [0; 65536];
        while !self.up.ended[1] {
            match self.peer.read(&mut chunk) {
                Ok(0) => self.up.ended[1] = true,
                Ok(len) => self.up.take(&chunk[..len], &self.name),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{}: peer: read: {error}", self.name),
            }
        }
    }

    pub(super) fn is_done(&self) -> bool {
        [&self.up, &self.down].iter().all(|way| way.ended[1] && way.got == way.data.len())
    }
}
