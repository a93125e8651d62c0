//! A guest's end of passt's stream socket.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};

use crate::guest::Link;

/// The guest's end of the socket.
pub struct Wire {
    socket: UnixStream,
    /// Bytes of the longest IP packet.
    mtu: usize,
    came: Vec<u8>,
    /// What the socket did not take yet. Half a frame would be the end of the stream.
    goes: Vec<u8>,
    closed: bool,
}

impl Wire {
    /// A guest's end with packets of `mtu` bytes.
    pub fn new(socket: UnixStream, mtu: usize) -> Self {
        socket.set_nonblocking(true).expect("fcntl");
        Self { socket, mtu, came: Vec::new(), goes: Vec::new(), closed: false }
    }

    fn frame(&mut self) -> Option<Vec<u8>> {
        let len = u32::from_be_bytes(*self.came.first_chunk()?) as usize;
        assert!((14..65_600).contains(&len), "a frame of {len} bytes");
        let frame = self.came.get(4..4 + len)?.to_vec();
        self.came.drain(..4 + len);
        Some(frame)
    }
}

impl Link for Wire {
    fn pump(&mut self) {
        let mut bytes = [0; 65536];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => break self.closed = true,
                Ok(len) => self.came.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => break self.closed = true,
            }
        }
        while !self.goes.is_empty() {
            match self.socket.write(&self.goes) {
                Ok(len) => drop(self.goes.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
        }
    }

    fn is_lost(&self) -> bool {
        self.closed
    }
}

/// A frame that came.
pub struct Received(Vec<u8>);

/// Leave to send a frame.
pub struct Sender<'a>(&'a mut Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.extend((len as u32).to_be_bytes());
        self.0.extend(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sender<'_>)> {
        let frame = self.frame()?;
        Some((Received(frame), Sender(&mut self.goes)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.goes))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = self.mtu + 14;
        caps
    }
}
