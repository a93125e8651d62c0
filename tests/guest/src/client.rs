//! The front-end's end of the control socket: messages as bytes, right or wrong.

use std::io::{ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// Numbers of the requests (vhost-user, "Front-end message types").
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_LOG_FD: u32 = 7;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SEND_RARP: u32 = 19;
    pub const NET_SET_MTU: u32 = 20;
    pub const GET_CONFIG: u32 = 24;
    pub const RESET_DEVICE: u32 = 34;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
    pub const SET_DEVICE_STATE_FD: u32 = 42;
    pub const CHECK_DEVICE_STATE: u32 = 43;
}

/// Flags of a request.
const VERSION: u32 = 1;

/// Flag: answer even if the request has no answer of its own.
const NEED_REPLY: u32 = 8;

/// Most descriptors in one send.
const MAX_FDS: usize = 253;

/// A connection to a back-end.
pub struct Client {
    socket: UnixStream,
}

impl Client {
    /// Takes over a connected socket.
    pub fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout above zero");
        Self { socket }
    }

    /// The socket.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// The bytes of a request.
    pub fn encode(request: u32, need_reply: bool, body: &[u8]) -> Vec<u8> {
        let flags = VERSION | if need_reply { NEED_REPLY } else { 0 };
        let mut bytes = Vec::new();
        for word in [request, flags, body.len() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(body);
        bytes
    }

    /// Sends bytes and descriptors as they are. False when the back-end has closed the connection.
    pub fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "room for descriptors");
        }
        let iov = [IoSlice::new(bytes)];
        rustix::net::sendmsg(&self.socket, &iov, &mut control, SendFlags::NOSIGNAL).is_ok()
    }

    /// Sends a request.
    pub fn send(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        self.send_raw(&Self::encode(request, false, body), fds)
    }

    /// Waits for the next reply: request, flags, body. `None` when the connection is closed.
    pub fn reply(&mut self) -> Option<(u32, u32, Vec<u8>)> {
        let mut header = [0; 12];
        match self.socket.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) => {
                assert!(error.kind() != ErrorKind::WouldBlock, "no reply");
                return None;
            }
        }
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let mut body = vec![0; word(8) as usize];
        self.socket.read_exact(&mut body).expect("the body of a reply");
        Some((word(0), word(4), body))
    }

    /// Waits for a reply whose body is a 64-bit number.
    pub fn reply_u64(&mut self) -> Option<u64> {
        let (_, _, body) = self.reply()?;
        Some(u64::from_ne_bytes(body.try_into().expect("a body of 8 bytes")))
    }

    /// All bytes that are there now.
    pub fn received(&self) -> Vec<u8> {
        let mut bytes = vec![0; 65536];
        let n = rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT)
            .map_or(0, |(n, _)| n);
        bytes.truncate(n);
        bytes
    }

    /// Whether the back-end has closed the connection. Throws away replies that wait.
    pub fn is_closed(&self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }
}
