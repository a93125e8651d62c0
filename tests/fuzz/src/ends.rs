//! The host's ends of what a guest begins: servers that read their streams, and echoes. What comes to them is compared.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use rustix::net::sockopt;

/// The sequence number of each SYN of the guest.
pub const ISN: u32 = 1000;
pub const MTU: u16 = 1500;

/// The byte at a place of every stream, by the sequence number in front of the first one.
pub fn byte(at: u32) -> u8 {
    (at.wrapping_mul(0x9e37_79b1) >> 13) as u8
}

/// What the guest knows of a connection.
#[derive(Default)]
pub struct Conn {
    /// The first number of the engine, once it is known.
    pub theirs: Option<u32>,
    /// What it has acknowledged, and what it has sent.
    pub acked: u32,
    pub sent_to: u32,
    /// Somebody has reset it, or it was begun again: nothing is promised.
    pub broken: bool,
    /// The host's end.
    pub peer: Option<TcpStream>,
    pub accepted: u32,
    /// Bytes that the host has read, and written.
    pub read: u32,
    pub written: u32,
}

/// What has become of datagrams to who answers, since all was at rest.
#[derive(Default)]
pub struct Datagrams {
    /// Drops that were counted before.
    pub dropped: u64,
    /// The one that the guest has sent: its length and its bytes, which are all the same.
    pub asked: Option<(usize, u8)>,
    pub heard: bool,
    /// Answers on their way to the guest, and those that it has got.
    pub answers: u64,
    pub got: u64,
    /// The guest takes what comes.
    pub room: bool,
}

impl Datagrams {
    /// Sends everything back. What is too long for one packet of either family may go in pieces.
    pub fn answer(&mut self, echoes: &[UdpSocket]) {
        const WHOLE: usize = MTU as usize - 48;
        let mut bytes = [0; 2048];
        for echo in echoes {
            while let Ok((len, from)) = echo.recv_from(&mut bytes) {
                let bytes = &bytes[..len];
                let is = |(asked, fill)| asked == len && bytes.iter().all(|byte| *byte == fill);
                self.heard |= self.asked.is_some_and(is);
                let sent = echo.send_to(bytes, from).is_ok();
                self.answers += u64::from(sent && len <= WHOLE);
            }
        }
    }
}

impl Conn {
    /// The host's server accepts, and reads all that has come.
    pub fn serve(&mut self, server: &TcpListener) {
        while let Ok((peer, _)) = server.accept() {
            let _ = peer.set_nonblocking(true);
            let _ = sockopt::set_socket_linger(&peer, Some(Duration::ZERO));
            self.accepted += 1;
            (self.read, self.written) = (0, 0);
            self.broken |= self.accepted > 1;
            self.peer = Some(peer);
        }
        let Some(peer) = &mut self.peer else { return };
        let mut bytes = [0; 16384];
        loop {
            match peer.read(&mut bytes) {
                Ok(0) => return,
                Ok(len) => {
                    for got in &bytes[..len] {
                        let expected = byte((ISN + 1).wrapping_add(self.read));
                        assert_eq!(*got, expected, "a wrong byte for the host at {}", self.read);
                        self.read += 1;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// The end of the stream counts as one.
    pub fn check_delivery(&self) {
        if !self.broken && self.peer.is_some() {
            let (acked, read) = (self.acked, self.read);
            assert!(acked <= read + 1, "{acked} bytes were acknowledged, {read} delivered");
        }
    }
}
