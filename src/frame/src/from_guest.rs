//! Frames from the guest: a batch filled by a link, and the lease on it.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::to_guest::last_errno;
use crate::{
    Errno, FrameMeta, FrameObserver, FromGuest, GuestIovec, HEAD_BYTES, MAX_FRAMES,
    MAX_FROM_GUEST_IOVECS, MAX_SYSCALL_IOVECS, PassingFrame, message,
};

/// One frame from the guest.
pub struct FromGuestFrame {
    head: [u8; HEAD_BYTES],
    /// Bytes of the whole frame, Ethernet header included.
    pub len: u32,
    /// Offloads of the frame, as the guest stated them.
    pub meta: FrameMeta,
    first: usize,
    count: usize,
}

impl FromGuestFrame {
    /// The private copy of the frame's first bytes: [`HEAD_BYTES`], or all of a shorter frame.
    pub fn head(&self) -> &[u8] {
        &self.head[..HEAD_BYTES.min(self.len as usize)]
    }
}

/// A stretch of one frame of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the frame.
    pub frame: usize,
    /// First byte, from the start of the Ethernet header.
    pub offset: u32,
    /// Number of bytes.
    pub len: u32,
}

/// Up to [`MAX_FRAMES`] frames. Allocated once and used again.
pub struct FromGuestBatch {
    frames: Vec<FromGuestFrame>,
    iovecs: Vec<GuestIovec>,
    /// The pieces of one system call.
    call: Vec<GuestIovec>,
    observer: Option<Box<dyn FrameObserver>>,
}

impl Default for FromGuestBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl FromGuestBatch {
    /// An empty batch with room for the largest.
    pub fn new() -> Self {
        Self {
            frames: Vec::with_capacity(MAX_FRAMES),
            iovecs: Vec::with_capacity(MAX_FROM_GUEST_IOVECS),
            call: Vec::with_capacity(MAX_SYSCALL_IOVECS),
            observer: None,
        }
    }

    /// Shows each frame that is taken from now on to `observer`.
    pub fn observe(&mut self, observer: Box<dyn FrameObserver>) {
        self.observer = Some(observer);
    }

    /// Shows the frames to the observer.
    fn show(&mut self) {
        let Some(observer) = &mut self.observer else { return };
        for frame in &self.frames {
            let pieces = &self.iovecs[frame.first..frame.first + frame.count];
            let stretches = [pieces, &[]];
            observer.on_frame(&PassingFrame { len: frame.len, meta: frame.meta, stretches });
        }
    }

    /// For a link: whether a frame of `pieces` iovecs still fits.
    pub fn has_room(&self, pieces: usize) -> bool {
        self.frames.len() < MAX_FRAMES && self.iovecs.len() + pieces <= MAX_FROM_GUEST_IOVECS
    }

    /// For a link: adds a frame made of `pieces` and copies its head. False, and nothing added, when
    /// the batch has no room.
    pub fn add_frame(&mut self, pieces: &[GuestIovec], meta: FrameMeta) -> bool {
        if !self.has_room(pieces.len()) {
            return false;
        }
        let mut head = [0; HEAD_BYTES];
        let (mut filled, mut len) = (0, 0u32);
        for piece in pieces {
            filled += piece.copy_out(&mut head[filled..]);
            len = len.saturating_add(u32::try_from(piece.len()).unwrap_or(u32::MAX));
        }
        let first = self.iovecs.len();
        self.iovecs.extend_from_slice(pieces);
        self.frames.push(FromGuestFrame { head, len, meta, first, count: pieces.len() });
        true
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are no frames.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    fn clear(&mut self) {
        self.frames.clear();
        self.iovecs.clear();
    }

    /// Collects the pieces of `parts` for one system call. False when it stopped at the kernel's
    /// limit of pieces: the call then takes less than was asked for, like any short write.
    fn gather(&mut self, parts: &[Part]) -> bool {
        self.call.clear();
        for part in parts {
            let frame = &self.frames[part.frame];
            let (mut skip, mut left) = (part.offset as usize, part.len as usize);
            for piece in &self.iovecs[frame.first..frame.first + frame.count] {
                let (head, rest) = piece.split_at(skip);
                skip -= head.len();
                let (rest, _) = rest.split_at(left);
                left -= rest.len();
                if rest.is_empty() {
                    continue;
                }
                if self.call.len() == MAX_SYSCALL_IOVECS {
                    return false;
                }
                self.call.push(rest);
            }
        }
        true
    }
}

/// A batch of frames from the guest. Its buffers are released in order when it is dropped.
pub struct FromGuestLease<'a> {
    port: &'a mut dyn FromGuest,
    batch: &'a mut FromGuestBatch,
}

impl<'a> FromGuestLease<'a> {
    /// Takes waiting frames, or `None` when there are none.
    pub fn take(port: &'a mut dyn FromGuest, batch: &'a mut FromGuestBatch) -> Option<Self> {
        batch.clear();
        port.take(batch);
        batch.show();
        let empty = batch.is_empty();
        let lease = Self { port, batch };
        if empty { None } else { Some(lease) }
    }

    /// The frames, in the order in which the guest sent them.
    pub fn frames(&self) -> &[FromGuestFrame] {
        &self.batch.frames
    }

    /// Copies the bytes of `part` to private memory; returns how many there were.
    pub fn copy_out(&self, part: Part, bytes: &mut [u8]) -> usize {
        let frame = &self.batch.frames[part.frame];
        let (mut skip, mut done) = (part.offset as usize, 0);
        let len = bytes.len().min(part.len as usize);
        for piece in &self.batch.iovecs[frame.first..frame.first + frame.count] {
            let (head, rest) = piece.split_at(skip);
            skip -= head.len();
            done += rest.copy_out(&mut bytes[done..len]);
        }
        done
    }

    /// Sends the bytes of `parts` to a stream socket with one sendmsg(2), straight from the guest's
    /// buffers. Returns how many bytes the kernel took.
    ///
    /// # Errors
    /// What sendmsg(2) reports.
    pub fn send_stream(&mut self, socket: BorrowedFd<'_>, parts: &[Part]) -> Result<u32, Errno> {
        self.batch.gather(parts);
        self.send(socket, None)
    }

    /// Sends the bytes of `parts`, one behind the other, to a connected socket: as one datagram, or as
    /// datagrams of `segment` bytes each (`UDP_SEGMENT`, udp(7)), of which the last may be shorter.
    ///
    /// # Errors
    /// What sendmsg(2) reports; `INVAL` for more segments than the kernel takes at once; `MSGSIZE`
    /// when the guest scattered the bytes over more pieces than one call takes.
    pub fn send_datagram(
        &mut self,
        socket: BorrowedFd<'_>,
        parts: &[Part],
        segment: Option<u16>,
    ) -> Result<u32, Errno> {
        if !self.batch.gather(parts) {
            return Err(Errno::MSGSIZE);
        }
        self.send(socket, segment)
    }

    /// Sends the pieces that were gathered.
    fn send(&mut self, socket: BorrowedFd<'_>, segment: Option<u16>) -> Result<u32, Errno> {
        let pieces = &mut self.batch.call;
        let mut header = message::header(pieces.as_mut_ptr().cast(), pieces.len());
        let mut control = segment.map(SegmentControl::new);
        if let Some(control) = &mut control {
            message::set_control(&mut header, &raw mut *control, size_of::<SegmentControl>());
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the pieces are mapped while the lease lives; the control message is a live local.
        let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) };
        u32::try_from(n).map_err(|_| last_errno())
    }
}

/// The control message of `UDP_SEGMENT`, laid out as the kernel wants it.
#[repr(C, align(8))]
struct SegmentControl {
    header: libc::cmsghdr,
    segment: u16,
}

impl SegmentControl {
    fn new(segment: u16) -> Self {
        let bytes = size_of_val(&segment);
        Self { header: message::control_header(libc::SOL_UDP, libc::UDP_SEGMENT, bytes), segment }
    }
}

impl Drop for FromGuestLease<'_> {
    fn drop(&mut self) {
        self.port.release();
    }
}
