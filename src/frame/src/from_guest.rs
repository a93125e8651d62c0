//! Frames from the guest: a batch filled by a link, and the lease on it.
//!
//! Of the last frame of a batch a link may keep the tail where the kernel can move it to a stream socket
//! without copying it. The lease does so where all that is asked for is that; whatever else wants to
//! see bytes of the tail, an observer among them, makes the lease bring it into memory first.

use std::net::SocketAddr;
use std::ops::Range;
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
    /// The last bytes of the frame, which the link has not brought into memory.
    tail: u32,
    /// Bytes of the tail that a socket has taken: they are part of the frame no more, and the others moved up.
    moved: u32,
}

impl FromGuestFrame {
    /// The private copy of the frame's first bytes: [`HEAD_BYTES`], all of a shorter frame, or less
    /// until [`FromGuestLease::fetch`].
    pub fn head(&self) -> &[u8] {
        &self.head[..HEAD_BYTES.min(self.resident() as usize)]
    }

    /// Bytes in memory.
    fn resident(&self) -> u32 {
        self.len - self.tail
    }

    /// Whether bytes of the tail are among the first `end` of the frame.
    fn lacks(&self, end: u32) -> bool {
        self.tail > 0 && end > self.resident()
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

impl Part {
    /// Offset of the first byte behind it.
    fn end(&self) -> u32 {
        self.offset.saturating_add(self.len)
    }
}

/// Up to [`MAX_FRAMES`] frames. Allocated once and used again.
pub struct FromGuestBatch {
    frames: Vec<FromGuestFrame>,
    iovecs: Vec<GuestIovec>,
    /// The pieces of one system call.
    call: Vec<GuestIovec>,
    observer: Option<Box<dyn FrameObserver>>,
    /// Queue of the guest's that all frames came from.
    queue: u8,
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
            queue: 0,
        }
    }

    /// For a link: all frames of this batch came from the guest's queue `queue`; 0 for one that has no
    /// queues.
    pub fn set_queue(&mut self, queue: u8) {
        self.queue = queue;
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

    /// For a link: whether a frame of `pieces` iovecs still fits. None does behind a tail.
    pub fn has_room(&self, pieces: usize) -> bool {
        self.frames.len() < MAX_FRAMES
            && self.iovecs.len() + pieces <= MAX_FROM_GUEST_IOVECS
            && self.frames.last().is_none_or(|frame| frame.tail == 0)
    }

    /// For a link: adds a frame made of `pieces` and copies its head. False, and nothing added, when
    /// the batch has no room.
    pub fn add_frame(&mut self, pieces: &[GuestIovec], meta: FrameMeta) -> bool {
        self.add_frame_with_tail(pieces, 0, meta)
    }

    /// For a link: adds a frame that begins with `pieces` and ends with `tail` bytes that are not in
    /// memory (see [`FromGuest`]). False, and nothing added, when the batch has no room.
    pub fn add_frame_with_tail(
        &mut self,
        pieces: &[GuestIovec],
        tail: u32,
        meta: FrameMeta,
    ) -> bool {
        if !self.has_room(pieces.len() + usize::from(tail > 0)) {
            return false;
        }
        let resident = pieces.iter().fold(0u32, |sum, piece| {
            sum.saturating_add(u32::try_from(piece.len()).unwrap_or(u32::MAX))
        });
        let first = self.iovecs.len();
        self.iovecs.extend_from_slice(pieces);
        let head = copy_head(pieces);
        let (len, count) = (resident.saturating_add(tail), pieces.len());
        self.frames.push(FromGuestFrame { head, len, meta, first, count, tail, moved: 0 });
        true
    }

    /// The tail of the last frame is in memory now, in `piece`.
    fn add_tail(&mut self, piece: GuestIovec) {
        let Some(frame) = self.frames.last_mut() else { return };
        self.iovecs.push(piece);
        frame.count += 1;
        frame.tail = 0;
        frame.head = copy_head(&self.iovecs[frame.first..]);
    }

    /// Whether there are no frames.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Of the tail of the last frame `moved` bytes were moved on, of those that were `wanted`. If that is all, the frame ends
    /// where memory does.
    fn cut_tail(&mut self, moved: u32, wanted: u32) {
        let Some(frame) = self.frames.last_mut() else { return };
        let gone = if moved < wanted { moved } else { frame.tail };
        frame.len -= gone;
        frame.tail -= gone;
        frame.moved = moved;
    }

    fn clear(&mut self) {
        self.frames.clear();
        self.iovecs.clear();
        self.queue = 0;
    }

    /// Whether bytes of a tail are among `parts`.
    fn lacks(&self, parts: &[Part]) -> bool {
        parts.iter().any(|part| self.frames[part.frame].lacks(part.end()))
    }

    /// What of `parts` belongs to the frame with the tail, if all but the tail is in memory and the
    /// tail is what comes last.
    fn ends_in_tail(&self, parts: &[Part]) -> Option<Range<u32>> {
        let (last, before) = parts.split_last()?;
        let frame = &self.frames[last.frame];
        let fits = frame.lacks(last.end()) && last.end() <= frame.len;
        let whole = last.offset <= frame.resident() && !self.lacks(before);
        (fits && whole).then(|| last.offset..last.end())
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

/// The first bytes of `pieces`.
fn copy_head(pieces: &[GuestIovec]) -> [u8; HEAD_BYTES] {
    let (mut head, mut filled) = ([0; HEAD_BYTES], 0);
    for piece in pieces {
        filled += piece.copy_out(&mut head[filled..]);
    }
    head
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
        let mut lease = Self { port, batch };
        if lease.batch.observer.is_some() {
            lease.fetch_tail();
            lease.batch.show();
        }
        if lease.batch.is_empty() { None } else { Some(lease) }
    }

    /// The queue of the guest's that the frames came from, for [`ToGuest::select`](crate::ToGuest::select).
    pub fn queue(&self) -> u8 {
        self.batch.queue
    }

    /// The frames, in the order in which the guest sent them.
    pub fn frames(&self) -> &[FromGuestFrame] {
        &self.batch.frames
    }

    /// Brings all of a frame into memory; its head is complete then. False if it was.
    pub fn fetch(&mut self, frame: usize) -> bool {
        self.batch.frames[frame].tail > 0 && self.fetch_tail()
    }

    /// Brings the tail of the last frame into memory; false if there is none.
    fn fetch_tail(&mut self) -> bool {
        let missing = self.batch.frames.last().is_some_and(|frame| frame.tail > 0);
        if missing {
            let piece = self.port.fetch_tail();
            self.batch.add_tail(piece);
        }
        missing
    }

    /// Brings the tail into memory if bytes of it are among `parts`.
    fn fetch_for(&mut self, parts: &[Part]) {
        if self.batch.lacks(parts) {
            self.fetch_tail();
        }
    }

    /// Copies the bytes of `part` to private memory; returns how many there were.
    pub fn copy_out(&mut self, part: Part, bytes: &mut [u8]) -> usize {
        self.fetch_for(&[part]);
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
    /// buffers, or from where the link has them. Returns how many bytes the kernel took;
    /// [`copy_rest`](Self::copy_rest) has the others.
    ///
    /// # Errors
    /// What sendmsg(2) reports, or what moves the tail.
    pub fn send_stream(&mut self, socket: BorrowedFd<'_>, parts: &[Part]) -> Result<u32, Errno> {
        let tail = self.batch.ends_in_tail(parts);
        if tail.is_none() {
            self.fetch_for(parts);
        }
        let all = self.batch.gather(parts);
        let Some(tail) = tail.filter(|_| all) else {
            return self.send(socket, None, None, 0);
        };
        let resident = self.batch.call.iter().map(GuestIovec::len).sum::<usize>();
        let sent = match resident {
            0 => 0,
            _ => self.send(socket, None, None, libc::MSG_MORE)?,
        };
        if (sent as usize) < resident {
            return Ok(sent);
        }
        let wanted: u32 = parts.iter().map(|part| part.len).sum();
        match self.port.send_tail(socket, tail) {
            Ok(moved) => {
                self.batch.cut_tail(moved, wanted - sent);
                Ok(sent + moved)
            }
            Err(_) if sent > 0 => Ok(sent),
            Err(errno) => Err(errno),
        }
    }

    /// Copies what [`send_stream`](Self::send_stream) has not sent of `parts`, of which it has sent `sent` bytes, to private
    /// memory, as far as there is room; returns how many bytes that is.
    pub fn copy_rest(&mut self, parts: &[Part], sent: u32, bytes: &mut [u8]) -> usize {
        let (mut skip, mut done) = (sent, 0);
        for part in parts {
            let skipped = skip.min(part.len);
            skip -= skipped;
            // What was moved of a tail was sent, and is not in front of the rest any more.
            let moved = self.batch.frames[part.frame].moved;
            let offset = (part.offset + skipped).saturating_sub(moved);
            let rest = Part { offset, len: part.len - skipped, ..*part };
            let copied = self.copy_out(rest, &mut bytes[done..]);
            done += copied;
            if copied < rest.len as usize {
                break;
            }
        }
        done
    }

    /// Sends the bytes of `parts`, one behind the other, on a datagram socket, `to` somebody or to whom it is
    /// connected: as one datagram, or as datagrams of `segment` bytes each (`UDP_SEGMENT`, udp(7)), of which
    /// the last may be shorter.
    ///
    /// # Errors
    /// What sendmsg(2) reports; `INVAL` for more segments than the kernel takes at once; `MSGSIZE`
    /// when the guest scattered the bytes over more pieces than one call takes.
    pub fn send_datagram(
        &mut self,
        socket: BorrowedFd<'_>,
        to: Option<SocketAddr>,
        parts: &[Part],
        segment: Option<u16>,
    ) -> Result<u32, Errno> {
        self.fetch_for(parts);
        if !self.batch.gather(parts) {
            return Err(Errno::MSGSIZE);
        }
        self.send(socket, to, segment, 0)
    }

    /// Sends the pieces that were gathered, with `more` flags, `to` somebody or to whom the socket is connected.
    fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        to: Option<SocketAddr>,
        segment: Option<u16>,
        more: libc::c_int,
    ) -> Result<u32, Errno> {
        let pieces = &mut self.batch.call;
        let mut header = message::header(pieces.as_mut_ptr().cast(), pieces.len());
        let name = to.map(message::Name::from);
        if let Some(name) = &name {
            message::set_name(&mut header, name);
        }
        let mut control = segment.map(message::SegmentControl::new);
        if let Some(control) = &mut control {
            message::set_control(&mut header, &raw mut *control, size_of_val(control));
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | more;
        // SAFETY: the pieces are mapped while the lease lives; the control message and the name are live locals.
        let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) };
        u32::try_from(n).map_err(|_| last_errno())
    }
}

impl Drop for FromGuestLease<'_> {
    fn drop(&mut self) {
        self.port.release();
    }
}
