//! A buffer of the worker that passes bytes from one socket to another: as a stream, or as
//! datagrams, several with one system call each way (recvmmsg(2), sendmmsg(2)).

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use passt_frame::message::SegmentControl;
use passt_frame::{Pipe, message};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::datagram::{
    Burst, InternetName, control_messages, is_from, segment_size, socket_address,
};
use super::socket::last_errno;
use crate::limits::DATAGRAM_BATCH;

/// Room for one datagram: no UDP payload is longer.
const SLOT_BYTES: usize = 64 * 1024;
/// Bytes of a stream that are copied at a time; stays within a second-level cache.
pub(crate) const STREAM_BYTES: usize = 256 * 1024;

/// Whose datagrams are kept of those that are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All, and who has sent them is not asked.
    All,
    /// Those of one peer.
    Of(SocketAddr),
    /// All, each with who has sent it.
    WithSender,
}

const EMPTY: Burst = Burst { len: 0, segment: None };

const _: () = assert!(STREAM_BYTES <= DATAGRAM_BATCH * SLOT_BYTES);

/// The buffer. Its memory is reserved at once and touched as far as it is used.
pub(crate) struct CopyBuffer {
    bytes: Vec<u8>,
    /// Each datagram, or burst of datagrams, that was received and kept.
    bursts: [Burst; DATAGRAM_BATCH],
    /// The slot of each.
    slots: [u8; DATAGRAM_BATCH],
    /// Who has sent each, if that was asked.
    senders: [Option<SocketAddr>; DATAGRAM_BATCH],
    received: usize,
}

/// Room for the control message of `UDP_GRO`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 32]);

impl Default for CopyBuffer {
    fn default() -> Self {
        Self {
            bytes: vec![0; DATAGRAM_BATCH * SLOT_BYTES],
            bursts: [EMPTY; DATAGRAM_BATCH],
            slots: [0; DATAGRAM_BATCH],
            senders: [None; DATAGRAM_BATCH],
            received: 0,
        }
    }
}

impl CopyBuffer {
    /// Reads up to [`STREAM_BYTES`] bytes without consuming them; 0 is the end of the stream.
    ///
    /// # Errors
    /// `AGAIN` when there are none, else what recv(2) reports.
    pub(crate) fn peek_stream(&mut self, from: BorrowedFd<'_>) -> Result<u32, Errno> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(from, &mut self.bytes[..STREAM_BYTES], flags).map(|(read, _)| read as u32)
    }

    /// Reads up to `most` bytes, and no more than [`STREAM_BYTES`]; 0 is the end of the stream.
    ///
    /// # Errors
    /// `AGAIN` when there are none, else what recv(2) reports.
    pub(crate) fn receive_stream(&mut self, from: BorrowedFd<'_>, most: u32) -> Result<u32, Errno> {
        let room = STREAM_BYTES.min(most as usize);
        recv(from, &mut self.bytes[..room], RecvFlags::DONTWAIT).map(|(read, _)| read as u32)
    }

    /// Writes this part of what was read to a pipe; returns how many bytes went in.
    ///
    /// # Errors
    /// What write(2) reports.
    pub(crate) fn store(&self, part: std::ops::Range<u32>, pipe: &Pipe) -> Result<u32, Errno> {
        pipe.store(&self.bytes[part.start as usize..part.end as usize])
    }

    /// Writes the first `bytes` bytes of what was read.
    ///
    /// # Errors
    /// `AGAIN` when the socket is full, else what send(2) reports.
    pub(crate) fn send_stream(&self, to: BorrowedFd<'_>, bytes: u32) -> Result<u32, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        send(to, &self.bytes[..bytes as usize], flags).map(|written| written as u32)
    }

    /// Receives up to `most` datagrams, or bursts of them; returns their number. When that is less than
    /// `most`, the socket's queue was empty, or an error waits that epoll reports. What is kept of them,
    /// [`bursts`](Self::bursts) says.
    ///
    /// # Errors
    /// `AGAIN` when there are none, else what recvmmsg(2) reports: an error that waited.
    pub(crate) fn receive(
        &mut self,
        from: BorrowedFd<'_>,
        most: usize,
        keep: Keep,
    ) -> Result<usize, Errno> {
        self.received = 0;
        let slot = |index: usize| index * SLOT_BYTES;
        let base = self.bytes.as_mut_ptr();
        let mut iovecs: [libc::iovec; DATAGRAM_BATCH] = std::array::from_fn(|index| libc::iovec {
            iov_base: base.wrapping_add(slot(index)).cast(),
            iov_len: SLOT_BYTES,
        });
        let mut headers = headers(&mut iovecs);
        let mut controls = [Control([0; 32]); DATAGRAM_BATCH];
        for (header, control) in headers.iter_mut().zip(&mut controls) {
            let room = control.0.len();
            message::set_control(&mut header.msg_hdr, control.0.as_mut_ptr(), room);
        }
        let mut names = [InternetName([0; 32]); DATAGRAM_BATCH];
        if keep != Keep::All {
            for (header, name) in headers.iter_mut().zip(&mut names) {
                header.msg_hdr.msg_name = name.0.as_mut_ptr().cast();
                header.msg_hdr.msg_namelen = name.0.len() as libc::socklen_t;
            }
        }
        let most = most.min(DATAGRAM_BATCH) as libc::c_uint;
        // SAFETY: each header names one iovec of `iovecs`, which is a slot of `bytes` of its own, one of
        // `controls` and perhaps one of `names`; all live until the call returns.
        let n = unsafe {
            libc::recvmmsg(
                from.as_raw_fd(),
                headers.as_mut_ptr(),
                most,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(n).map_err(|_| last_errno())?;
        for (index, header) in headers[..received].iter().enumerate() {
            let sender = socket_address(&names[index].0).filter(|_| keep != Keep::All);
            if let Keep::Of(peer) = keep
                && !is_from(sender, peer)
            {
                continue;
            }
            let written = message::control_bytes(&header.msg_hdr).min(controls[index].0.len());
            let mut size = 0;
            control_messages(&controls[index].0[..written], |level, kind, data| {
                size = segment_size(level, kind, data).unwrap_or(size);
            });
            self.bursts[self.received] = Burst::new(header.msg_len.min(SLOT_BYTES as u32), size);
            self.slots[self.received] = index as u8;
            self.senders[self.received] = sender;
            self.received += 1;
        }
        Ok(received)
    }

    /// The datagram, or burst of them, at the head of a socket's queue, which stays there.
    ///
    /// # Errors
    /// `AGAIN` when there is none, else what recv(2) reports.
    pub(crate) fn peek_one(&mut self, from: BorrowedFd<'_>) -> Result<&mut [u8], Errno> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let (read, _) = recv(from, &mut self.bytes[..SLOT_BYTES], flags)?;
        Ok(&mut self.bytes[..read])
    }

    /// Room for one datagram that is made here.
    pub(crate) fn scratch(&mut self) -> &mut [u8] {
        &mut self.bytes[..SLOT_BYTES]
    }

    /// What was received and kept, in order.
    pub(crate) fn bursts(&self) -> &[Burst] {
        &self.bursts[..self.received]
    }

    /// Who has sent datagram or burst `index`, if that was asked.
    pub(crate) fn sender(&self, index: usize) -> Option<SocketAddr> {
        self.senders[index]
    }

    /// The bytes of datagram or burst `index`.
    pub(crate) fn bytes(&self, index: usize) -> &[u8] {
        let start = usize::from(self.slots[index]) * SLOT_BYTES;
        &self.bytes[start..start + self.bursts()[index].len as usize]
    }

    /// Sends the datagrams that were kept, except the first `skip`, to a connected socket, bursts of them as such
    /// (`UDP_SEGMENT`); returns how many datagrams or bursts went out.
    ///
    /// # Errors
    /// What sendmmsg(2) reports about the first of them; for a burst `INVAL`, `IO` or `MSGSIZE` where its datagrams are to
    /// go one by one, by [`send_apart`](Self::send_apart).
    pub(crate) fn send(&mut self, to: BorrowedFd<'_>, skip: usize) -> Result<usize, Errno> {
        let base = self.bytes.as_mut_ptr();
        let (bursts, slots) = (&self.bursts, &self.slots);
        let mut iovecs: [libc::iovec; DATAGRAM_BATCH] = std::array::from_fn(|index| libc::iovec {
            iov_base: base.wrapping_add(usize::from(slots[index]) * SLOT_BYTES).cast(),
            iov_len: bursts[index].len as usize,
        });
        let mut headers = headers(&mut iovecs);
        let mut controls = [SegmentControl::new(0); DATAGRAM_BATCH];
        for ((header, control), burst) in headers.iter_mut().zip(&mut controls).zip(bursts) {
            if let Some(segment) = burst.segment {
                *control = SegmentControl::new(segment);
                message::set_control(&mut header.msg_hdr, &raw mut *control, size_of_val(control));
            }
        }
        let Some(headers) = headers.get_mut(skip..self.received) else { return Ok(0) };
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: each header names one iovec of `iovecs`, which is the part of a slot of `bytes` that
        // was received, and perhaps one of `controls`; all live until the call returns.
        let n = unsafe {
            libc::sendmmsg(
                to.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                flags as _,
            )
        };
        usize::try_from(n).map_err(|_| last_errno())
    }

    /// Sends the datagrams of burst `index` one by one to a connected socket; returns how many it did not take.
    pub(crate) fn send_apart(&self, to: BorrowedFd<'_>, index: usize) -> usize {
        let burst = self.bursts()[index];
        let size = burst.segment.map_or(burst.len, u32::from).max(1) as usize;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let pieces = self.bytes(index).chunks(size);
        pieces.filter(|piece| send(to, piece, flags).is_err()).count()
    }
}

/// One header for each iovec, without address and control messages.
fn headers(iovecs: &mut [libc::iovec; DATAGRAM_BATCH]) -> [libc::mmsghdr; DATAGRAM_BATCH] {
    iovecs.each_mut().map(|iovec| libc::mmsghdr { msg_hdr: message::header(iovec, 1), msg_len: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::datagram::{coalesce, peek_burst};
    use crate::sys::socket::set_int;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn pair() -> (UdpSocket, UdpSocket) {
        let [a, b] = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        b.connect(a.local_addr().unwrap()).unwrap();
        (a, b)
    }

    #[test]
    fn datagrams_keep_their_borders_and_empty_ones_count() {
        let ((from, to), (out, end)) = (pair(), pair());
        let sent: [&[u8]; 3] = [b"one", b"", &[7; 9000]];
        for datagram in sent {
            from.send(datagram).unwrap();
        }
        let mut buffer = CopyBuffer::default();
        assert_eq!(buffer.receive(to.as_fd(), DATAGRAM_BATCH, Keep::All), Ok(3));
        assert_eq!(buffer.send(out.as_fd(), 0), Ok(3));
        assert_eq!(buffer.send(out.as_fd(), 3), Ok(0));
        let mut bytes = [0; 65536];
        for datagram in sent {
            let length = end.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], datagram);
        }
        assert_eq!(buffer.receive(to.as_fd(), DATAGRAM_BATCH, Keep::All), Err(Errno::AGAIN));
    }

    #[test]
    fn a_burst_says_how_long_its_datagrams_are() {
        let (from, to) = pair();
        coalesce(to.as_fd()).unwrap();
        set_int(from.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 100).unwrap();
        from.send(&[7; 350]).unwrap();
        from.send(&[8; 50]).unwrap();
        let burst = Burst { len: 350, segment: Some(100) };
        assert_eq!(peek_burst(to.as_fd()), Ok((burst, from.local_addr().ok())));
        let mut buffer = CopyBuffer::default();
        assert_eq!(buffer.receive(to.as_fd(), DATAGRAM_BATCH, Keep::All), Ok(2));
        assert_eq!(buffer.bursts(), [burst, Burst { len: 50, segment: None }]);
        assert_eq!((buffer.bytes(0), buffer.bytes(1)), (&[7; 350][..], &[8; 50][..]));
    }

    #[test]
    fn a_burst_goes_on_as_one_or_apart() {
        let ((from, to), (out, end)) = (pair(), pair());
        coalesce(to.as_fd()).unwrap();
        from.send(b"before").unwrap();
        set_int(from.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 100).unwrap();
        from.send(&[7; 350]).unwrap();
        let mut buffer = CopyBuffer::default();
        assert_eq!(buffer.receive(to.as_fd(), DATAGRAM_BATCH, Keep::All), Ok(2));
        assert_eq!(buffer.bursts().iter().map(|burst| burst.datagrams()).sum::<u32>(), 5);
        assert_eq!(buffer.send(out.as_fd(), 0), Ok(2));
        assert_eq!(buffer.send_apart(out.as_fd(), 1), 0);
        let mut bytes = [0; 65536];
        let lengths = [(); 9].map(|()| end.recv(&mut bytes).unwrap());
        assert_eq!(lengths, [6, 100, 100, 100, 50, 100, 100, 100, 50]);
    }

    #[test]
    fn what_others_have_sent_is_not_kept() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let [to, peer, stranger, out, end] = [0; 5].map(|_| UdpSocket::bind(address).unwrap());
            out.connect(end.local_addr().unwrap()).unwrap();
            for (socket, byte) in [(&stranger, 0), (&peer, 1), (&stranger, 0), (&peer, 2)] {
                socket.send_to(&[byte], to.local_addr().unwrap()).unwrap();
            }
            let mut buffer = CopyBuffer::default();
            assert_eq!(
                buffer.receive(to.as_fd(), DATAGRAM_BATCH, Keep::Of(peer.local_addr().unwrap())),
                Ok(4)
            );
            assert_eq!(buffer.bursts().len(), 2);
            assert_eq!((buffer.bytes(0), buffer.bytes(1)), (&[1][..], &[2][..]));
            assert_eq!(buffer.send(out.as_fd(), 0), Ok(2));
            for expected in [1, 2] {
                let mut byte = [0];
                assert_eq!(end.recv(&mut byte).unwrap(), 1);
                assert_eq!(byte, [expected]);
            }
        }
    }
}
