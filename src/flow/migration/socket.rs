//! A socket as the peer knows it: 52 bytes, then what is queued in it toward the peer, and what is queued in it
//! toward the guest.
//!
//! Sequence numbers are those of the first byte of each queue. The numbers of FINs are not in the queues: where
//! ours was sent, the byte behind the queue toward the peer is it; where the peer's has come, the queue toward
//! the guest ends behind it.

use super::{Fields, StreamError};
use crate::wire::seq::SeqNr;

/// Bytes that a queue may have.
pub(crate) const QUEUE_MAX: u32 = 64 << 20;

/// Where the kernel has a connection, with its number in the kernel's interface (tcp_states.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TcpStage {
    /// Both streams go on.
    Established = 1,
    /// Our FIN is not acknowledged yet.
    FinWait1 = 4,
    /// Our FIN is acknowledged.
    FinWait2 = 5,
    /// The peer's FIN has come.
    CloseWait = 8,
    /// Both have; ours is not acknowledged, and came last.
    LastAck = 9,
    /// Both have; ours is not acknowledged, and came first.
    Closing = 11,
}

impl TcpStage {
    /// From the kernel's number; `None` for those of no connection that can move.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        use TcpStage::{CloseWait, Closing, Established, FinWait1, FinWait2, LastAck};
        [Established, FinWait1, FinWait2, CloseWait, LastAck, Closing]
            .into_iter()
            .find(|stage| *stage as u8 == number)
    }

    /// Whether the peer's FIN has come.
    pub(crate) fn has_peers_end(self) -> bool {
        matches!(self, Self::CloseWait | Self::LastAck | Self::Closing)
    }

    /// Whether our FIN was sent.
    pub(crate) fn has_our_end(self) -> bool {
        !matches!(self, Self::Established | Self::CloseWait)
    }
}

/// The windows of a socket (`TCP_REPAIR_WINDOW`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// Sequence number of the segment that has set the peer's window.
    pub(crate) wl1: u32,
    /// The peer's window.
    pub(crate) send: u32,
    /// The largest that it had.
    pub(crate) max: u32,
    /// Our window.
    pub(crate) receive: u32,
    /// From where on it counts.
    pub(crate) wup: u32,
}

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketRecord {
    /// Sequence number of the first byte queued toward the peer.
    pub(crate) send_seq: SeqNr,
    /// Sequence number of the first byte queued toward the guest.
    pub(crate) receive_seq: SeqNr,
    /// Bytes queued toward the peer.
    pub(crate) send_queue: u32,
    /// The last of those, which were not sent yet.
    pub(crate) unsent: u32,
    /// Bytes queued toward the guest.
    pub(crate) receive_queue: u32,
    /// The MSS that was negotiated, before options.
    pub(crate) mss: u32,
    /// The value of the timestamp clock, if the connection has that.
    pub(crate) timestamp: u32,
    /// The windows.
    pub(crate) window: Window,
    /// Window scales of the peer and ours.
    pub(crate) scales: [u8; 2],
    /// Where the connection stands.
    pub(crate) stage: TcpStage,
    /// Options that were negotiated, in bits: [`Self::TIMESTAMPS`], [`Self::SACK`], [`Self::SCALES`].
    pub(crate) options: u8,
}

impl SocketRecord {
    /// Bytes of a record, without queues.
    pub(crate) const BYTES: usize = 52;
    /// Timestamps are in use (`TCPI_OPT_TIMESTAMPS`).
    pub(crate) const TIMESTAMPS: u8 = 1;
    /// Selective acknowledgements are in use (`TCPI_OPT_SACK`).
    pub(crate) const SACK: u8 = 2;
    /// Windows are scaled (`TCPI_OPT_WSCALE`).
    pub(crate) const SCALES: u8 = 4;

    /// The record of a connection that is not to be taken over.
    pub(crate) const DROPPED: [u8; Self::BYTES] = [0; Self::BYTES];

    /// As bytes.
    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let window = self.window;
        let numbers = [
            self.send_seq.0,
            self.receive_seq.0,
            self.send_queue,
            self.unsent,
            self.receive_queue,
            self.mss,
            self.timestamp,
            window.wl1,
            window.send,
            window.max,
            window.receive,
            window.wup,
        ];
        let mut bytes = [0; Self::BYTES];
        for (place, number) in bytes.chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes[48..].copy_from_slice(&[
            self.scales[0],
            self.scales[1],
            self.stage as u8,
            self.options,
        ]);
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// Queues longer than any.
    pub(crate) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Result<Arrival, StreamError> {
        let mut fields = Fields(bytes);
        let [send_seq, receive_seq] = [(); 2].map(|()| SeqNr(fields.u32()));
        let [send_queue, unsent, receive_queue, mss, timestamp] = [(); 5].map(|()| fields.u32());
        let [wl1, send, max, receive, wup] = [(); 5].map(|()| fields.u32());
        let [send_scale, receive_scale, stage, options] = fields.take();
        if stage == 0 {
            return Ok(Arrival::default());
        }
        if let Some(queue) = [send_queue, receive_queue].into_iter().find(|len| *len > QUEUE_MAX) {
            return Err(StreamError::Queue(queue, QUEUE_MAX));
        }
        if unsent > send_queue {
            return Err(StreamError::Unsent);
        }
        let record = TcpStage::from_number(stage).map(|stage| Self {
            send_seq,
            receive_seq,
            send_queue,
            unsent,
            receive_queue,
            mss,
            timestamp,
            window: Window { wl1, send, max, receive, wup },
            scales: [send_scale, receive_scale],
            stage,
            options,
        });
        Ok(Arrival { record, queues: [send_queue, receive_queue] })
    }
}

/// A record that has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The socket; `None` if it is not to be taken over, or stands where none can be.
    pub(crate) record: Option<SocketRecord>,
    /// Bytes that follow: the queue toward the peer, and that toward the guest.
    pub(crate) queues: [u32; 2],
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> SocketRecord {
        SocketRecord {
            send_seq: SeqNr(0x0102_0304),
            receive_seq: SeqNr(0x0506_0708),
            send_queue: 300,
            unsent: 200,
            receive_queue: 100,
            mss: 1460,
            timestamp: 9,
            window: Window { wl1: 1, send: 2, max: 3, receive: 4, wup: 5 },
            scales: [7, 8],
            stage: TcpStage::FinWait1,
            options: SocketRecord::SACK | SocketRecord::SCALES,
        }
    }

    #[test]
    fn each_field_has_its_place() {
        let bytes = record().to_bytes();
        assert_eq!(bytes[..12], [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 1, 44]);
        assert_eq!(bytes[12..24], [0, 0, 0, 200, 0, 0, 0, 100, 0, 0, 5, 180]);
        assert_eq!(bytes[44..], [0, 0, 0, 5, 7, 8, 4, 6]);
        let arrival = Arrival { record: Some(record()), queues: [300, 100] };
        assert_eq!(SocketRecord::from_bytes(&bytes), Ok(arrival));
        assert_eq!(SocketRecord::from_bytes(&SocketRecord::DROPPED), Ok(Arrival::default()));
    }

    #[test]
    fn queues_have_bounds() {
        let read = |record: SocketRecord| {
            SocketRecord::from_bytes(&record.to_bytes()).map(|arrival| arrival.record)
        };
        let most = SocketRecord { receive_queue: QUEUE_MAX, ..record() };
        assert_eq!(read(most), Ok(Some(most)));
        for len in [QUEUE_MAX + 1, u32::MAX] {
            let refused = Err(StreamError::Queue(len, QUEUE_MAX));
            assert_eq!(read(SocketRecord { receive_queue: len, ..record() }), refused);
            assert_eq!(read(SocketRecord { send_queue: len, ..record() }), refused);
        }
        assert_eq!(read(SocketRecord { unsent: 301, ..record() }), Err(StreamError::Unsent));
        for stage in [2, 3, 6, 7, 10, 12, 255] {
            let mut bytes = record().to_bytes();
            bytes[50] = stage;
            let arrival = Arrival { record: None, queues: [300, 100] };
            assert_eq!(SocketRecord::from_bytes(&bytes), Ok(arrival), "its queues are read over");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_none(bytes in proptest::collection::vec(any::<u8>(), SocketRecord::BYTES)) {
            let bytes: [u8; SocketRecord::BYTES] = bytes.try_into().expect("as long");
            let Ok(arrival) = SocketRecord::from_bytes(&bytes) else { return Ok(()) };
            if let Some(record) = arrival.record {
                prop_assert_eq!(record.to_bytes(), bytes);
            }
        }
    }
}
