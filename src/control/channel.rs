//! What a protocol sees of a client: the bytes that it has sent and that were not used yet, and room for bytes to
//! it. Both are buffers of a fixed size, reserved when the server is made.

use std::fmt;
use std::os::fd::BorrowedFd;

use passt_frame::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// Bytes from and to a client.
pub struct Channel {
    input: Buffer,
    output: Buffer,
    /// The client sends no more.
    ended: bool,
    /// Bytes of the input were used since this was last asked.
    used: bool,
}

/// Bytes in a buffer of a fixed size.
struct Buffer {
    bytes: Box<[u8]>,
    first: usize,
    end: usize,
}

impl Buffer {
    fn new(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes].into_boxed_slice(), first: 0, end: 0 }
    }

    fn clear(&mut self) {
        (self.first, self.end) = (0, 0);
    }

    fn len(&self) -> usize {
        self.end - self.first
    }

    fn used(&self) -> &[u8] {
        &self.bytes[self.first..self.end]
    }

    fn free(&self) -> usize {
        self.bytes.len() - self.len()
    }

    /// Drops `count` bytes in front.
    fn take(&mut self, count: usize) {
        self.first += count;
        if self.first >= self.end {
            self.clear();
        }
    }

    /// The free part, all of it.
    fn room(&mut self) -> &mut [u8] {
        if self.first > 0 {
            self.bytes.copy_within(self.first..self.end, 0);
            (self.first, self.end) = (0, self.end - self.first);
        }
        &mut self.bytes[self.end..]
    }
}

impl Channel {
    /// Without any bytes, and with room for so many of them from the client, and to it.
    pub(super) fn new(input_bytes: usize, output_bytes: usize) -> Self {
        let (input, output) = (Buffer::new(input_bytes), Buffer::new(output_bytes));
        Self { input, output, ended: false, used: false }
    }

    /// Forgets everything: for another client.
    pub(super) fn clear(&mut self) {
        self.input.clear();
        self.output.clear();
        (self.ended, self.used) = (false, false);
    }

    /// What the client has sent and was not used yet.
    pub fn input(&self) -> &[u8] {
        self.input.used()
    }

    /// No more of the client's bytes fit before some of those that are there are used.
    pub fn input_is_full(&self) -> bool {
        self.input.free() == 0
    }

    /// The client sends no more than it has sent.
    pub fn input_has_ended(&self) -> bool {
        self.ended
    }

    /// Uses up the first `count` bytes of the input. The client's time for its next request begins.
    pub fn use_up(&mut self, count: usize) {
        self.input.take(count);
        self.used |= count > 0;
    }

    /// How many bytes can be written now. At a client's begin, and whenever it has read everything, that is the whole
    /// buffer.
    pub fn room(&self) -> usize {
        self.output.free()
    }

    /// Writes `bytes` to the client, all or none; false if there is no room for them.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room() {
            return false;
        }
        self.output.room()[..bytes.len()].copy_from_slice(bytes);
        self.output.end += bytes.len();
        true
    }

    /// Whether something waits for the client to read.
    pub(super) fn has_output(&self) -> bool {
        self.output.len() > 0
    }

    /// Whether input was used since this was last asked.
    pub(super) fn was_used(&mut self) -> bool {
        std::mem::take(&mut self.used)
    }

    /// Reads what the client has sent, as far as there is room. Returns whether that was anything new, its end
    /// included.
    ///
    /// # Errors
    /// What recv(2) reports: the connection is over.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
        if self.ended || self.input_is_full() {
            return Ok(false);
        }
        match recv(socket, self.input.room(), RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.ended = true,
            Ok((count, _)) => self.input.end += count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        Ok(true)
    }

    /// Sends what is written, as far as the socket takes it. Returns whether it took anything.
    ///
    /// # Errors
    /// What send(2) reports: the connection is over.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
        if !self.has_output() {
            return Ok(false);
        }
        match send(socket, self.output.used(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => self.output.take(count),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        Ok(true)
    }
}

/// Writes text: an error if there is no room for a piece of it.
impl fmt::Write for Channel {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.write(text.as_bytes()) { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn input_is_bounded_and_used_in_pieces() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut channel = Channel::new(4, 4);
        assert_eq!(channel.receive(ours.as_fd()), Ok(false), "nothing yet");
        theirs.write_all(b"abcdef").expect("sent");
        drop(theirs);
        assert_eq!(channel.receive(ours.as_fd()), Ok(true));
        assert!(channel.input() == b"abcd" && channel.input_is_full());
        assert_eq!(channel.receive(ours.as_fd()), Ok(false), "no room");
        assert!(!channel.was_used());
        channel.use_up(3);
        assert!(channel.was_used() && !channel.was_used());
        assert_eq!(channel.receive(ours.as_fd()), Ok(true));
        assert!(channel.input() == b"def" && !channel.input_has_ended());
        assert_eq!(channel.receive(ours.as_fd()), Ok(true));
        assert!(channel.input_has_ended());
        assert_eq!(channel.receive(ours.as_fd()), Ok(false));
        channel.clear();
        assert!(channel.input().is_empty() && !channel.input_has_ended());
    }

    #[test]
    fn output_is_bounded_and_written_whole_or_not() {
        use std::fmt::Write as _;
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut channel = Channel::new(4, 4);
        assert!(channel.write(b"abc") && !channel.write(b"de") && channel.room() == 1);
        assert!(write!(channel, "d").is_ok() && write!(channel, "e").is_err());
        assert_eq!(channel.send(ours.as_fd()), Ok(true));
        assert!(!channel.has_output() && channel.room() == 4);
        assert_eq!(channel.send(ours.as_fd()), Ok(false));
        let mut read = [0; 4];
        theirs.read_exact(&mut read).expect("four bytes");
        assert_eq!(&read, b"abcd");
        drop(theirs);
        assert!(channel.write(b"x"));
        assert_eq!(channel.send(ours.as_fd()), Err(Errno::PIPE));
    }
}
