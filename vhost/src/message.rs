//! Framing of the control socket (vhost-user, "Message Specification"): whole messages with their
//! descriptors, received without ever waiting.
//!
//! A front-end may send a message in pieces, or half of one and then nothing. What has come is kept
//! here until the rest has come too. A read never goes beyond the end of the current message, and
//! the kernel never joins descriptors of two sends in one receive, so descriptors stay with the
//! message they were sent with.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use passt_frame::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use thiserror::Error;
use vhost::vhost_user::message::FrontendReq;

/// Bytes of the header: request, flags, size of the body.
pub(crate) const HEADER_BYTES: usize = 12;

/// Bytes of the largest body: SET_MEM_TABLE with as many regions as one message carries
/// descriptors for.
pub(crate) const MAX_BODY: usize = 8 + 32 * MAX_FDS;

/// Bytes of the largest reply: a header and the vhost crate's largest body.
const MAX_REPLY: usize = HEADER_BYTES + 4096;

/// Most descriptors with one message.
pub(crate) const MAX_FDS: usize = 32;

/// Most descriptors in one receive (the kernel's `SCM_MAX_FD`): all are taken so that they can be
/// closed.
const SCM_MAX_FD: usize = 253;

/// Flag: the sender waits for a reply.
const NEED_REPLY: u32 = 8;

/// Version bits and their only value.
const VERSION_MASK: u32 = 3;
const VERSION: u32 = 1;

/// Flags of a reply.
const REPLY_FLAGS: u32 = VERSION | 4;

/// Why no message can be received any more.
#[derive(Debug, Error)]
pub(crate) enum FramingError {
    /// The front-end closed the connection between two messages.
    #[error("connection closed")]
    Closed,
    /// It closed the connection within one.
    #[error("connection closed within a message")]
    Cut,
    /// The size field is larger than any message.
    #[error(
        "message of {0} bytes: that is not vhost-user (for QEMU's -netdev stream, start without --vhost-user)"
    )]
    TooLarge(u32),
    /// More descriptors than any message carries.
    #[error("more than {MAX_FDS} descriptors with one message")]
    TooManyDescriptors,
    /// recvmsg(2) failed.
    #[error("receive: {0}")]
    Receive(Errno),
}

/// A message, whole or in the making.
#[derive(Default)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Message {
    fn word(&self, index: usize) -> u32 {
        let bytes = self.bytes.get(4 * index..4 * index + 4);
        bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }

    /// Number of the request.
    pub(crate) fn request(&self) -> u32 {
        self.word(0)
    }

    /// Name of the request, or its number if it has none here.
    pub(crate) fn name(&self) -> String {
        match FrontendReq::try_from(self.request()) {
            Ok(request) => format!("{request:?}"),
            Err(_) => format!("request {}", self.request()),
        }
    }

    /// Whether the front-end waits for an answer to a request that has none of its own.
    pub(crate) fn needs_reply(&self) -> bool {
        self.word(1) & NEED_REPLY != 0
    }

    /// Whether the header is one of a request of this protocol version.
    pub(crate) fn is_request(&self) -> bool {
        self.word(1) & !NEED_REPLY == VERSION && self.word(1) & VERSION_MASK == VERSION
    }

    fn body_len(&self) -> u32 {
        self.word(2)
    }

    /// Whether it has no body.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == HEADER_BYTES
    }

    /// The body as one 64-bit number.
    pub(crate) fn as_u64(&self) -> Option<u64> {
        let body = self.bytes.get(HEADER_BYTES..)?;
        body.try_into().ok().map(u64::from_ne_bytes)
    }

    /// The body as two 32-bit numbers.
    pub(crate) fn as_pair(&self) -> Option<(u32, u32)> {
        self.as_u64().map(|_| (self.word(3), self.word(4)))
    }

    /// The only descriptor that came with it.
    pub(crate) fn take_fd(&mut self) -> Option<OwnedFd> {
        if self.fds.len() == 1 { self.fds.pop() } else { None }
    }

    /// The body as two 64-bit numbers.
    pub(crate) fn as_pair_u64(&self) -> Option<(u64, u64)> {
        let body = self.bytes.get(HEADER_BYTES..)?;
        let (first, second) = body.split_first_chunk()?;
        Some((u64::from_ne_bytes(*first), u64::from_ne_bytes(second.try_into().ok()?)))
    }

    /// Closes the descriptors that came with it.
    pub(crate) fn close_fds(&mut self) {
        self.fds.clear();
    }

    /// Sends it, with its descriptors, in one piece and without waiting; an empty one is not sent.
    ///
    /// # Errors
    /// What sendmsg(2) reports; `AGAIN` also when there was no room for all of it.
    pub(crate) fn send(&self, socket: impl AsFd) -> Result<(), Errno> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let fds: Vec<_> = self.fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let iov = [IoSlice::new(&self.bytes)];
        let sent = rustix::net::sendmsg(socket, &iov, &mut control, flags)?;
        if sent == self.bytes.len() { Ok(()) } else { Err(Errno::AGAIN) }
    }

    /// The reply, with its descriptors, that waits in a socket; empty when there is none.
    ///
    /// # Errors
    /// What recvmsg(2) reports: there may be a reply, which somebody waits for.
    pub(crate) fn take_reply(socket: impl AsFd) -> Result<Self, Errno> {
        let mut bytes = [0; MAX_REPLY];
        let mut reply = Self::default();
        match reply.receive(socket, &mut bytes) {
            Ok(n) => reply.bytes.extend_from_slice(&bytes[..n]),
            Err(Errno::AGAIN) => {}
            Err(errno) => return Err(errno),
        }
        Ok(reply)
    }

    /// Receives into `bytes`, and takes over the descriptors that come with it.
    fn receive(&mut self, socket: impl AsFd, bytes: &mut [u8]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FD))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(bytes)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        // It never waits, whatever the socket's own flags.
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(&socket, &mut iov, &mut control, flags)
        })?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        Ok(received.bytes)
    }

    /// The answer to a request whose answer is one 64-bit number.
    pub(crate) fn reply_u64(&self, value: u64) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + 8);
        for word in [self.request(), REPLY_FLAGS, 8] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&value.to_ne_bytes());
        Self { bytes, fds: Vec::new() }
    }

    /// The answer to a request that is answered with its own body.
    pub(crate) fn reply_same(&self) -> Self {
        let mut bytes = self.bytes.clone();
        bytes[4..8].copy_from_slice(&REPLY_FLAGS.to_ne_bytes());
        Self { bytes, fds: Vec::new() }
    }

    /// How many bytes are still missing, as far as known.
    fn missing(&self) -> Result<usize, FramingError> {
        if self.bytes.len() < HEADER_BYTES {
            return Ok(HEADER_BYTES - self.bytes.len());
        }
        let body = self.body_len();
        if body as usize > MAX_BODY {
            return Err(FramingError::TooLarge(body));
        }
        Ok(HEADER_BYTES + body as usize - self.bytes.len())
    }
}

/// Collects messages from a socket.
#[derive(Default)]
pub(crate) struct Framing {
    partial: Message,
}

impl Framing {
    /// The next whole message, or `None` when more has to come.
    ///
    /// # Errors
    /// Why there will be no more.
    pub(crate) fn next(&mut self, socket: impl AsFd) -> Result<Option<Message>, FramingError> {
        loop {
            let missing = self.partial.missing()?;
            if missing == 0 {
                return Ok(Some(std::mem::take(&mut self.partial)));
            }
            if !self.receive(&socket, missing)? {
                return Ok(None);
            }
        }
    }

    /// What was received of a message that is not whole.
    pub(crate) fn partial(&self) -> &Message {
        &self.partial
    }

    /// Receives up to `missing` bytes; false when there are none.
    fn receive(&mut self, socket: impl AsFd, missing: usize) -> Result<bool, FramingError> {
        let mut bytes = [0u8; MAX_BODY + HEADER_BYTES];
        let n = match self.partial.receive(socket, &mut bytes[..missing]) {
            Ok(n) => n,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::CONNRESET) => 0,
            Err(error) => return Err(FramingError::Receive(error)),
        };
        if self.partial.fds.len() > MAX_FDS {
            return Err(FramingError::TooManyDescriptors);
        }
        if n == 0 {
            let cut = !self.partial.bytes.is_empty();
            return Err(if cut { FramingError::Cut } else { FramingError::Closed });
        }
        self.partial.bytes.extend_from_slice(&bytes[..n]);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// What a reply that hands out device state, or a log, looks like.
    #[test]
    fn a_reply_keeps_its_descriptors_on_its_way_to_the_front_end() {
        let (inner, relay) = UnixStream::pair().expect("a pair");
        let (ours, front_end) = UnixStream::pair().expect("a pair");
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let mut reply = Message::default().reply_u64(0);
        reply.fds.push(writer);
        reply.send(&inner).expect("room");
        drop(reply);

        Message::take_reply(&relay).expect("a reply").send(&ours).expect("room");
        let got = Message::take_reply(&front_end).expect("a reply");
        assert_eq!(got.bytes.len(), HEADER_BYTES + 8);
        let [writer] = &got.fds[..] else { panic!("{} descriptors", got.fds.len()) };
        rustix::io::write(writer, b"state").expect("room");
        let mut bytes = [0; 8];
        assert_eq!(rustix::io::read(&reader, &mut bytes), Ok(5));
        drop(got);
        assert_eq!(rustix::io::read(&reader, &mut bytes), Ok(0), "no other copy is left open");
    }

    #[test]
    fn no_reply_is_not_sent() {
        let (inner, relay) = UnixStream::pair().expect("a pair");
        let nothing = Message::take_reply(&relay).expect("nothing");
        nothing.send(&relay).expect("nothing to send");
        assert!(Message::take_reply(&inner).expect("nothing").bytes.is_empty());
    }
}
