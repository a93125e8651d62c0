//! Frames to the guest: a reservation ([`ToGuestList`]) filled by a link, the answer ([`Reservation`]), and
//! the lease on what there is.

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use arrayvec::ArrayVec;

use crate::{
    Caps, DISCARD_BYTES, DISCARD_IOVECS, Errno, FrameDone, FrameObserver, GuestIovec, MAX_FRAMES,
    MAX_TO_GUEST_IOVECS, MIN_FRAME_BYTES, OnesSum, PassingFrame, Payload, Stopped, ToGuest,
    message,
};

/// What a reservation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Bytes of all headers, Ethernet to L4, the same for each frame.
    pub header_len: u32,
    /// Most payload bytes of one frame: one segment or datagram, or as many as an offload takes in one.
    pub payload_len: u32,
    /// Payload bytes wanted in all frames together; 0 asks for one frame of headers alone.
    pub bytes: u32,
    /// What the payload is: whether a frame is of use that has room for a part of its bytes.
    pub payload: Payload,
}

/// Room of one frame: ranges of the two iovec lists.
#[derive(Clone, Debug, Default)]
struct FrameRoom {
    headers: Range<usize>,
    payload: Range<usize>,
    header_bytes: u32,
    payload_bytes: u32,
}

/// A reservation: the room of up to [`MAX_FRAMES`] frames. Allocated once and used again.
pub struct ToGuestList {
    request: Reserve,
    headers: Vec<GuestIovec>,
    /// Starts with [`DISCARD_IOVECS`] pieces that are overwritten when bytes are to be skipped.
    payload: Vec<GuestIovec>,
    frames: ArrayVec<FrameRoom, MAX_FRAMES>,
    reserved: u32,
    discard: Vec<u8>,
    observer: Option<Box<dyn FrameObserver>>,
}

impl Default for ToGuestList {
    fn default() -> Self {
        Self::new()
    }
}

impl ToGuestList {
    /// An empty list with room for the largest reservation.
    pub fn new() -> Self {
        let mut payload = Vec::with_capacity(DISCARD_IOVECS + MAX_TO_GUEST_IOVECS);
        payload.resize(DISCARD_IOVECS, GuestIovec::EMPTY);
        Self {
            request: Reserve {
                header_len: 0,
                payload_len: 0,
                bytes: 0,
                payload: Payload::Datagrams,
            },
            headers: Vec::with_capacity(MAX_TO_GUEST_IOVECS),
            payload,
            frames: ArrayVec::new(),
            reserved: 0,
            discard: Vec::with_capacity(DISCARD_BYTES),
            observer: None,
        }
    }

    /// Shows each frame that is committed from now on to `observer`.
    pub fn observe(&mut self, observer: Box<dyn FrameObserver>) {
        self.observer = Some(observer);
    }

    /// Shows finished frames to the observer.
    fn show(&mut self, done: &[FrameDone]) {
        let Some(observer) = &mut self.observer else { return };
        for (frame, done) in self.frames.iter().zip(done) {
            observer.on_frame(&PassingFrame {
                len: (frame.header_bytes + done.payload_len).max(MIN_FRAME_BYTES),
                meta: done.meta,
                stretches: [
                    &self.headers[frame.headers.clone()],
                    &self.payload[frame.payload.clone()],
                ],
            });
        }
    }

    fn begin(&mut self, request: Reserve) {
        debug_assert!(
            request.payload_len > 0 || request.bytes == 0,
            "frames without payload: {request:?}"
        );
        self.request = request;
        self.headers.clear();
        self.payload.truncate(DISCARD_IOVECS);
        self.frames.clear();
        self.reserved = 0;
    }

    /// What the engine asked for.
    pub fn request(&self) -> Reserve {
        self.request
    }

    /// Number of frames with room.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is room for all that was asked for.
    fn is_covered(&self) -> bool {
        self.reserved >= self.request.bytes && !self.frames.is_empty()
    }

    /// For a link: bytes that the next frame wants (headers and payload, at least the Ethernet
    /// minimum), or `None` when the reservation is complete. A frame is opened by pushing to it.
    pub fn open_frame(&self) -> Option<u32> {
        if self.is_covered() || self.frames.is_full() {
            return None;
        }
        let left = self.request.bytes - self.reserved.min(self.request.bytes);
        let payload = self.request.payload_len.min(left);
        Some((self.request.header_len + payload).max(MIN_FRAME_BYTES))
    }

    /// For a link: adds a frame made of `pieces`, of which it uses no more bytes than
    /// [`open_frame`](Self::open_frame) said. Returns false, and adds nothing, when the pieces are too
    /// small for what a frame must have, or too many for the list. A frame of datagrams must have all bytes
    /// that it wants, one of a stream the headers, a byte of payload and the Ethernet minimum.
    pub fn add_frame(&mut self, pieces: &[GuestIovec]) -> bool {
        let Some(wanted) = self.open_frame() else { return false };
        let (headers_start, payload_start) = (self.headers.len(), self.payload.len());
        let mut left = wanted as usize;
        let mut header_left = self.request.header_len as usize;
        let mut fits = true;
        for &piece in pieces {
            let (piece, _) = piece.split_at(left);
            left -= piece.len();
            let (head, rest) = piece.split_at(header_left);
            header_left -= head.len();
            fits &= push_bounded(&mut self.headers, MAX_TO_GUEST_IOVECS, head);
            fits &= push_bounded(&mut self.payload, DISCARD_IOVECS + MAX_TO_GUEST_IOVECS, rest);
        }
        let got = wanted - left as u32;
        if !fits || got < self.least(wanted) {
            self.headers.truncate(headers_start);
            self.payload.truncate(payload_start);
            return false;
        }
        let payload_bytes = got - self.request.header_len;
        self.reserved += payload_bytes.min(self.request.payload_len);
        self.frames.push(FrameRoom {
            headers: headers_start..self.headers.len(),
            payload: payload_start..self.payload.len(),
            header_bytes: self.request.header_len,
            payload_bytes,
        });
        true
    }

    /// Bytes that a frame that wants `wanted` must have to be of use.
    fn least(&self, wanted: u32) -> u32 {
        match self.request.payload {
            Payload::Stream if self.request.bytes > 0 => {
                (self.request.header_len + 1).max(MIN_FRAME_BYTES)
            }
            Payload::Stream | Payload::Datagrams => wanted,
        }
    }

    /// Bytes of room, headers included, that frame `index` has.
    pub fn frame_pieces_bytes(&self, index: usize) -> usize {
        let frame = &self.frames[index];
        (frame.header_bytes + frame.payload_bytes) as usize
    }

    /// For a link: the pieces of frame `index`, in order. Its bytes fill the first ones; those behind are not used.
    pub fn pieces(&self, index: usize) -> impl Iterator<Item = &GuestIovec> {
        let frame = &self.frames[index];
        let payload = &self.payload[frame.payload.clone()];
        self.headers[frame.headers.clone()].iter().chain(payload)
    }

    /// Total bytes of a frame when it carries `payload_len` bytes: what the link announces.
    pub fn frame_len(&self, payload_len: u32) -> u32 {
        (self.request.header_len + payload_len).max(MIN_FRAME_BYTES)
    }
}

/// Pushes a non-empty piece unless the list has reached `limit`; false when it did not fit.
fn push_bounded(list: &mut Vec<GuestIovec>, limit: usize, piece: GuestIovec) -> bool {
    if piece.is_empty() {
        return true;
    }
    if list.len() >= limit {
        return false;
    }
    list.push(piece);
    true
}

/// What comes of a reservation. What follows after each answer is the law of [`Payload`]'s file, `room.rs`.
#[must_use]
pub enum Reservation<'a> {
    /// The guest's room is not short: room for all that was asked for, or for as much as one reservation
    /// holds ([`ToGuestLease::room`]); the rest can be asked for at once.
    All(ToGuestLease<'a>),
    /// Room for the first frames. [`PortEvents::room`](crate::PortEvents) follows when there is more.
    Some(ToGuestLease<'a>),
    /// No room for a single frame at the moment. [`PortEvents::room`](crate::PortEvents) follows when there
    /// is, or [`LinkChange::Up`](crate::LinkChange) where the link was down.
    None,
    /// The first frame can never fit, with the driver and the features that the link has. Nothing follows.
    Never,
}

impl<'a> Reservation<'a> {
    /// The room there is, whether or not it is all that was asked for.
    pub fn lease(self) -> Option<ToGuestLease<'a>> {
        match self {
            Self::All(lease) | Self::Some(lease) => Some(lease),
            Self::None | Self::Never => None,
        }
    }
}

/// Room in the guest's buffers. Given back untouched when dropped.
pub struct ToGuestLease<'a> {
    port: &'a mut dyn ToGuest,
    list: &'a mut ToGuestList,
    live: bool,
}

impl<'a> ToGuestLease<'a> {
    /// Reserves room for `request`.
    pub fn reserve(
        port: &'a mut dyn ToGuest,
        list: &'a mut ToGuestList,
        request: Reserve,
    ) -> Reservation<'a> {
        list.begin(request);
        let stopped = port.reserve(list);
        let (covered, empty) = (list.is_covered(), list.frames.is_empty());
        let lease = Self { port, list, live: true };
        match stopped {
            Stopped::Down => Reservation::None,
            _ if covered => Reservation::All(lease),
            Stopped::Ended if empty => Reservation::Never,
            Stopped::Ended => Reservation::All(lease),
            Stopped::Short(_) if empty => Reservation::None,
            Stopped::Short(_) => Reservation::Some(lease),
        }
    }

    /// What the link can take.
    pub fn caps(&self) -> Caps {
        self.port.caps()
    }

    /// Number of frames there is room for.
    pub fn frames(&self) -> usize {
        self.list.frames.len()
    }

    /// Payload bytes that fit in frame `index`, at most [`Reserve::payload_len`].
    pub fn frame_room(&self, index: usize) -> u32 {
        self.list.frames[index].payload_bytes.min(self.list.request.payload_len)
    }

    /// Payload bytes that fit in all frames, at most what was asked for.
    pub fn room(&self) -> u32 {
        self.list.reserved.min(self.list.request.bytes)
    }

    /// Copies `bytes` to the start of frame `index`. Must be as long as the header room.
    pub fn put_header(&mut self, index: usize, bytes: &[u8]) {
        let frame = &self.list.frames[index];
        debug_assert_eq!(bytes.len(), frame.header_bytes as usize, "header room and header differ");
        copy_in(&self.list.headers[frame.headers.clone()], 0, bytes);
    }

    /// Copies `bytes` to the start of the payload of frame `index`; returns how many fitted.
    pub fn put_payload(&mut self, index: usize, bytes: &[u8]) -> usize {
        self.put_payload_at(index, 0, bytes)
    }

    /// Copies `bytes` to offset `offset` of the payload of frame `index`; returns how many fitted.
    pub fn put_payload_at(&mut self, index: usize, offset: u32, bytes: &[u8]) -> usize {
        copy_in(&self.list.payload[self.list.frames[index].payload.clone()], offset as usize, bytes)
    }

    /// Sum over the first `len` payload bytes of frame `index`, for links without checksum offload.
    pub fn payload_sum(&self, index: usize, len: u32) -> OnesSum {
        let mut sum = OnesSum::default();
        let mut left = len as usize;
        for piece in &self.list.payload[self.list.frames[index].payload.clone()] {
            let (piece, _) = piece.split_at(left);
            left -= piece.len();
            piece.add_to(&mut sum);
        }
        sum
    }

    /// Receives up to `max` stream bytes into the payload room of all frames, in order, with the
    /// flags of recv(2) in `flags` (`MSG_DONTWAIT` is added). The first `skip` bytes received are
    /// thrown away and not counted: with `MSG_PEEK` on a kernel without `SO_PEEK_OFF`.
    ///
    /// # Errors
    /// What recvmsg(2) reports; `AGAIN` also when no more than `skip` bytes were there.
    /// `NOBUFS` when `skip` is more than the discard pieces cover.
    pub fn recv_stream(
        &mut self,
        socket: BorrowedFd<'_>,
        max: u32,
        skip: u32,
        flags: i32,
    ) -> Result<u32, Errno> {
        let first = self.arm_discard(skip as usize)?;
        let (last, kept) = self.trim_to(max.min(self.room()) as usize);
        let received = recvmsg(socket, &mut self.list.payload[first..last], flags);
        if let Some(kept) = kept {
            self.list.payload[last - 1] = kept;
        }
        match received? {
            0 => Ok(0),
            n if n <= skip => Err(Errno::AGAIN),
            n => Ok(n - skip),
        }
    }

    /// Receives one datagram into the payload room of the first frame, without its first `skip`
    /// bytes (a header that was read before). Returns the length of the rest, which is greater than
    /// [`frame_room`](Self::frame_room) when the datagram was cut.
    ///
    /// # Errors
    /// What recvmsg(2) reports; `NOBUFS` when `skip` is more than the discard pieces cover.
    pub fn recv_datagram(&mut self, socket: BorrowedFd<'_>, skip: u32) -> Result<u32, Errno> {
        let first = self.arm_discard(skip as usize)?;
        let last = self.list.frames[0].payload.end;
        let n = recvmsg(socket, &mut self.list.payload[first..last], libc::MSG_TRUNC)?;
        Ok(n.saturating_sub(skip))
    }

    /// Hands the first `done.len()` frames to the guest; the rest of the room goes back.
    pub fn commit(mut self, done: &[FrameDone]) {
        debug_assert!(done.len() <= self.list.frames.len(), "more frames done than reserved");
        for (frame, done) in self.list.frames.iter().zip(done) {
            let used = frame.header_bytes + done.payload_len;
            if used < MIN_FRAME_BYTES {
                let pieces = &self.list.payload[frame.payload.clone()];
                zero_range(pieces, done.payload_len as usize, (MIN_FRAME_BYTES - used) as usize);
            }
        }
        self.list.show(done);
        self.live = false;
        self.port.commit(self.list, done);
    }

    /// Points the discard pieces at the scratch buffer so that they cover `skip` bytes; returns the
    /// index of the first piece to pass to the kernel.
    fn arm_discard(&mut self, skip: usize) -> Result<usize, Errno> {
        let pieces = skip.div_ceil(DISCARD_BYTES);
        if pieces > DISCARD_IOVECS {
            return Err(Errno::NOBUFS);
        }
        let first = DISCARD_IOVECS - pieces;
        let base = self.list.discard.as_mut_ptr();
        let mut left = skip;
        for slot in &mut self.list.payload[first..DISCARD_IOVECS] {
            let len = left.min(DISCARD_BYTES);
            left -= len;
            // SAFETY: `discard` has a capacity of DISCARD_BYTES, never moves, and is only ever
            // written by the kernel; no reference to its bytes exists.
            *slot = unsafe { GuestIovec::new(base, len) };
        }
        Ok(first)
    }

    /// Shortens the payload pieces to `max` bytes in all. Returns the end of the pieces to use, and
    /// the original of the last one if it was cut, to be put back.
    fn trim_to(&mut self, max: usize) -> (usize, Option<GuestIovec>) {
        let mut left = max;
        for (i, piece) in self.list.payload.iter_mut().enumerate().skip(DISCARD_IOVECS) {
            if piece.len() >= left {
                let whole = *piece;
                *piece = whole.split_at(left).0;
                return (i + 1, Some(whole));
            }
            left -= piece.len();
        }
        (self.list.payload.len(), None)
    }
}

impl Drop for ToGuestLease<'_> {
    fn drop(&mut self) {
        if self.live {
            self.port.cancel(self.list);
        }
    }
}

/// One recvmsg(2) into the pieces of a lease.
fn recvmsg(socket: BorrowedFd<'_>, pieces: &mut [GuestIovec], flags: i32) -> Result<u32, Errno> {
    let mut header = message::header(pieces.as_mut_ptr().cast(), pieces.len());
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: GuestIovec is a transparent iovec; each piece is mapped and writable while the lease
    // lives, and the discard pieces point into the list's own scratch buffer.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    u32::try_from(n).map_err(|_| last_errno())
}

/// Copies `bytes` over consecutive pieces from offset `from` on; returns how many bytes fitted.
fn copy_in(pieces: &[GuestIovec], from: usize, bytes: &[u8]) -> usize {
    let (mut skip, mut done) = (from, 0);
    for piece in pieces {
        let (head, rest) = piece.split_at(skip);
        skip -= head.len();
        done += rest.copy_in(&bytes[done..]);
    }
    done
}

/// Zeros `len` bytes from offset `from` of consecutive pieces.
fn zero_range(pieces: &[GuestIovec], from: usize, len: usize) {
    let (mut skip, mut left) = (from, len);
    for piece in pieces {
        let (head, rest) = piece.split_at(skip);
        skip -= head.len();
        let (rest, _) = rest.split_at(left);
        left -= rest.len();
        rest.zero();
    }
}

/// The calling thread's errno after a failed libc call.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
