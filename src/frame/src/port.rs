//! The traits a link implements. They are object-safe: two to four virtual calls a batch cost
//! nothing next to one system call, and the engine is compiled once.

use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::{Caps, Errno, FrameDone, FromGuestBatch, GuestIovec, Stopped, ToGuestList};

/// How much was handed to a guest since some time, and how much of it the guest is sure to have taken. In whatever unit
/// the link counts; one that cannot tell counts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// All that was committed.
    pub handed: u64,
    /// What the guest has taken of it; it takes everything in order.
    pub taken: u64,
}

/// The half of a link that carries frames to the guest.
///
/// # Safety
/// Every iovec that `reserve` pushes must stay mapped, writable and outside of any other frame
/// until this half is next used through `&mut`.
pub unsafe trait ToGuest {
    /// What the link can take now.
    fn caps(&self) -> Caps;

    /// Frames that are reserved from now on are for the guest's queue `queue`: the number that came with the
    /// last batch of what they answer. A hint, which a link without queues ignores.
    fn select(&mut self, queue: u8) {
        let _ = queue;
    }

    /// Adds frames to `list` until [`ToGuestList::open_frame`] says that it is enough or no further one
    /// can be had; says why it stopped. After [`Stopped::Short`], which needs a
    /// [`RoomDebt`](crate::RoomDebt), the link reports [`PortEvents::room`] once there is more.
    fn reserve(&mut self, list: &mut ToGuestList) -> Stopped;

    /// Hands the first `done.len()` frames of the reservation to the guest; the rest goes back.
    /// The frame is `header_len` plus `payload_len` bytes, and at least
    /// [`MIN_FRAME_BYTES`](crate::MIN_FRAME_BYTES) (the lease has written the zeros).
    fn commit(&mut self, list: &ToGuestList, done: &[FrameDone]);

    /// How far the guest is with what it was handed.
    fn delivery(&self) -> Delivery {
        Delivery::default()
    }

    /// Takes the whole reservation back.
    fn cancel(&mut self, list: &ToGuestList);
}

/// The half of a link that carries frames from the guest.
///
/// The last frame of a batch may have a *tail* that is not in memory: the link has it, whole, where
/// the kernel can move it from without copying
/// ([`FromGuestBatch::add_frame_with_tail`]). A link that adds none needs neither of the methods about it.
///
/// # Safety
/// Every iovec that `take` pushes, and that of `fetch_tail`, must stay mapped and readable until
/// `release` or `take` is called.
pub unsafe trait FromGuest {
    /// Moves waiting frames into `batch`, until it is full or none is left but those that an event will
    /// report.
    fn take(&mut self, batch: &mut FromGuestBatch);

    /// Moves the tail to a stream socket, as far as the socket takes it and up to the end of `bytes`,
    /// which are offsets in the frame; returns how many bytes it took. What the socket has not taken
    /// stays for `fetch_tail`. `bytes` begins where what is sent of this frame begins: at the start of the tail, or
    /// before it. Not called twice for a tail, unless it failed, nor after `fetch_tail`.
    ///
    /// # Errors
    /// What the kernel reports; the tail is whole then.
    fn send_tail(&mut self, socket: BorrowedFd<'_>, bytes: Range<u32>) -> Result<u32, Errno> {
        let _ = (socket, bytes);
        Err(Errno::OPNOTSUPP)
    }

    /// Brings the tail into memory, or what `send_tail` has left of it.
    fn fetch_tail(&mut self) -> GuestIovec {
        GuestIovec::EMPTY
    }

    /// Gives the buffers of all taken frames back, in order, and skips what is left of a tail.
    fn release(&mut self);
}

/// What changed on a link with the last event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortEvents {
    /// Frames from the guest may be waiting.
    pub frames: bool,
    /// There is more room toward the guest than when a reservation was answered with some or none.
    pub room: bool,
    /// A client came or went, or its receive side started or stopped.
    pub link: Option<LinkChange>,
}

/// A change of the link as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// Frames can reach the guest now.
    Up,
    /// The guest's receive side stopped; the client is still there.
    Down,
    /// The client is gone.
    Closed,
}

/// What the front-end of a link asks of whoever drives the link.
///
/// # State of a guest that moves
/// A guest that is stopped is carried to another program, or into a file, and what is known of it goes along
/// as a stream of bytes of which neither the link nor the front-end knows the meaning. The order is: the link goes
/// [down](LinkChange::Down), [`SaveState`](Self::SaveState) at the source or [`LoadState`](Self::LoadState) at the
/// target, then [`CheckState`](Self::CheckState), then perhaps [`LinkChange::Up`]: at the target always, at the
/// source when the guest goes on there after all, or was only written to a file. A front-end that leaves
/// ([`LinkChange::Closed`]) takes nothing back, and asks for no answer any more. One that asks for a further
/// transfer has given up the one before.
#[derive(Debug)]
pub enum FrontEndRequest {
    /// The guest's network device has this MTU now, in bytes of an IP packet.
    MtuChanged(u16),
    /// The state of the guest's network goes into this descriptor, which does not block; closing it is the end
    /// of the state.
    SaveState(OwnedFd),
    /// The state of the guest's network comes from this descriptor, which does not block, up to the end of the
    /// file.
    LoadState(OwnedFd),
    /// How did the last transfer end? To be answered by [`FramePort::answer_check`], as soon as it has. Until then
    /// no further request comes.
    CheckState,
    /// The driver goes on from where it was earlier: a snapshot was loaded. It may not know of what has
    /// happened since.
    Rewound,
}

/// A link: moves frames, knows no IP.
pub trait FramePort {
    /// Both halves at once.
    fn halves(&mut self) -> (&mut dyn FromGuest, &mut dyn ToGuest);

    /// Handles an event of a descriptor that the link registered under `token`.
    fn on_event(&mut self, token: u16) -> PortEvents;

    /// The next request of the front-end that the last events brought, oldest first. To be called after
    /// [`on_event`](Self::on_event) until there is none.
    fn take_request(&mut self) -> Option<FrontEndRequest> {
        None
    }

    /// Answers a [`FrontEndRequest::CheckState`]: whether all of the state was transferred, or the error
    /// that tells best why not. Without such a request it does nothing.
    fn answer_check(&mut self, ended: Result<(), Errno>) {
        let _ = ended;
    }

    /// Publishes everything committed and released since the last call, with one notification for
    /// each direction. Called once per turn of the loop.
    fn flush(&mut self);

    /// The same, but a notification that may wait is kept back, in the hope that another makes it
    /// needless. Returns when to flush again at the latest. `now` is a monotonic clock's.
    fn flush_lazily(&mut self, now: Duration) -> Option<Duration> {
        let _ = now;
        self.flush();
        None
    }

    /// Calls `visit` with the name and value of each counter, drops included.
    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64));
}
