//! What passes the boundary of the machine besides segments and headers, which are `wire`'s: what comes in
//! (socket events, results) and what goes out (actions). Plain data.

use crate::wire::seq::SeqNr;
use crate::wire::tcp::Header;

/// The part of a segment's payload that shall be written to the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// Bytes at the start of the payload that were taken before.
    pub skip: u32,
    /// Bytes to write after those; 0 for none.
    pub len: u32,
    /// Why the segment, or its payload, went no further: for counting by name.
    pub dropped: Option<SegmentDrop>,
}

impl Accept {
    pub(super) const fn dropped(reason: SegmentDrop) -> Self {
        Self { skip: 0, len: 0, dropped: Some(reason) }
    }
}

/// Why a segment from the guest was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentDrop {
    /// Everything in it was received before: a retransmission, or a window probe.
    Old,
    /// It asks whether the connection still lives (RFC 9293, section 3.8.4).
    Keepalive,
    /// It starts beyond the next byte expected; the guest will send it again.
    OutOfOrder,
    /// It lies beyond the window.
    OutsideWindow,
    /// It acknowledges what was never sent, or is older than any window.
    BadAck,
    /// A reset whose sequence number does not fit exactly (RFC 5961, section 3).
    BadReset,
    /// A SYN on a synchronised connection (RFC 5961, section 4), or a repeated one.
    BadSyn,
    /// Neither SYN nor ACK where one of them is required.
    NoAck,
    /// Data after the guest's FIN.
    AfterFin,
    /// The flow is closed.
    Closed,
}

/// In words, for the log.
impl std::fmt::Display for SegmentDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Old => "all of it was received before",
            Self::Keepalive => "a keepalive probe",
            Self::OutOfOrder => "out of order",
            Self::OutsideWindow => "outside of the window",
            Self::BadAck => "it acknowledges what was not sent",
            Self::BadReset => "a reset that does not fit",
            Self::BadSyn => "a SYN on a connection that is there",
            Self::NoAck => "neither SYN nor ACK",
            Self::AfterFin => "data after the end",
            Self::Closed => "the flow is closed",
        })
    }
}

/// What happened to the host socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// `connect` succeeded.
    Connected,
    /// There may be data to read.
    Readable,
    /// The send buffer has room again after [`Action::WatchWritable`].
    Writable,
    /// The peer has sent its FIN; data may still be queued before it.
    PeerClosed,
    /// Both directions are shut.
    HungUp,
    /// The socket has failed, `connect` included.
    Failed,
    /// The socket has failed after the peer had ended its stream.
    FailedAfterEnd,
}

/// What came of an [`Action::SendData`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataResult {
    /// Data went out with [`super::Conn::data_header`].
    Sent {
        /// Bytes sent: at least one, at most what was asked for.
        bytes: u32,
        /// The read ended before its buffers were full: nothing more was queued.
        drained: bool,
    },
    /// Nothing is queued behind the offset (EAGAIN).
    Empty,
    /// The peer's stream ends at the offset.
    Eof,
    /// The link has no buffer; nothing was sent. [`super::Conn::on_port_room`] follows when it has.
    NoRoom,
    /// The read failed.
    Failed,
}

/// What the shell shall do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a segment without payload.
    Emit(Header),
    /// Peek at the socket's queue and send what is there as data, then call
    /// [`super::Conn::on_data`] before the next [`super::Conn::poll`].
    SendData {
        /// Bytes between the head of the socket's queue and the first byte to send.
        offset: u32,
        /// Bytes to send at most.
        bytes: u32,
        /// Sequence number of the first byte.
        seq: SeqNr,
        /// Payload of one segment at most, in bytes: the guest's MSS.
        mss: u16,
    },
    /// Drop this many bytes, at least one, from the head of the socket's queue: the guest has them.
    Discard(u32),
    /// Measure the free send buffer and call [`super::Conn::on_room`].
    QueryRoom,
    /// Report [`SocketEvent::Writable`] once the send buffer has room again.
    WatchWritable,
    /// The guest's stream has ended: `shutdown(SHUT_WR)`.
    ShutdownWrite,
    /// The flow is over: close the socket. The last action of a connection.
    Close {
        /// Close with a reset (linger 0).
        reset: bool,
    },
}
