//! How much of one stream moves at once. What goes to the guest at once costs least, but a question or an answer that
//! comes meanwhile waits until it is through, and so does the next one, since it is the same loop that takes both. What
//! the guest may have under way on a connection stands in front of what it asks or answers, where that is in the queue of
//! a tap device. So streams move in smaller pieces, and with smaller windows, for as long as others exchange little beside
//! them.

use std::time::Duration;

use crate::flow::table::FlowId;
use crate::time::Timestamp;

/// Bytes of a piece beside an exchange: one large frame, some 20 µs on the tap.
const BESIDE_EXCHANGE: u32 = 64 * 1024;
/// The part of the window that is left beside an exchange.
const WINDOW_SHARE: u32 = 4;
/// Less than this at once, and all that there was, is no stream in bulk.
const SMALL_BYTES: u32 = 16 * 1024;
/// As many datagrams at once, if there were no others, are no stream in bulk either.
const FEW_DATAGRAMS: usize = 3;
/// How long one exchange stands for the next: longer than most take beside streams in bulk.
const RECENT: Duration = Duration::from_millis(10);

/// Which flows exchange little data: a connection whose last two reads got all that there was, and little; a datagram flow.
/// A stream that is slower than the loop counts, too, and others give way to it for nothing. No flow gives way to itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quantum {
    /// The two flows that last exchanged little, the latest first: a bulk flow may be one of them itself, by the answers that
    /// it gets. It uses small quanta while another one is recent.
    exchanged: [Option<(Timestamp, FlowId)>; 2],
}

impl Quantum {
    /// A TCP connection had `bytes` for the guest, and `before` the last time: no more than that was there if it is
    /// `drained`.
    pub(crate) fn on_data(&mut self, now: Timestamp, id: FlowId, bytes: (u32, u32), drained: bool) {
        if drained && bytes.0.max(bytes.1) < SMALL_BYTES {
            self.note(now, id);
        }
    }

    /// A datagram flow had `count` datagrams for the guest, and then none.
    pub(crate) fn on_datagrams(&mut self, now: Timestamp, id: FlowId, count: usize) {
        if (1..=FEW_DATAGRAMS).contains(&count) {
            self.note(now, id);
        }
    }

    fn note(&mut self, now: Timestamp, id: FlowId) {
        if self.exchanged[0].is_some_and(|(_, last)| last != id) {
            self.exchanged[1] = self.exchanged[0];
        }
        self.exchanged[0] = Some((now, id));
    }

    /// How much of the `bytes` that one stream could send goes in this turn: whole segments of `mss` bytes, and one at
    /// least, if it is less.
    pub(crate) fn of(&self, now: Timestamp, id: FlowId, bytes: u32, mss: u16) -> u32 {
        if !self.is_beside_exchange(now, id) {
            return bytes;
        }
        let mss = u32::from(mss).max(1);
        bytes.min(BESIDE_EXCHANGE.max(mss) / mss * mss)
    }

    /// How much the guest may have under way on one connection, of at most `window_max` bytes.
    pub(crate) fn window(&self, now: Timestamp, id: FlowId, window_max: u32) -> u32 {
        if self.is_beside_exchange(now, id) { window_max / WINDOW_SHARE } else { window_max }
    }

    fn is_beside_exchange(&self, now: Timestamp, id: FlowId) -> bool {
        let mut exchanges = self.exchanged.iter().flatten();
        exchanges.any(|&(at, who)| who != id && now.since(at) < RECENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u16 = 1460;
    const BULK: u32 = 256 * 1024;

    fn at(us: u64) -> Timestamp {
        Timestamp::from_micros(us)
    }

    /// Three flows.
    fn flows() -> [FlowId; 3] {
        [1, 2, 3].map(FlowId::from_bits)
    }

    #[test]
    fn streams_move_in_whole_segments_of_a_large_frame_beside_an_exchange() {
        let [stream, exchange, _] = flows();
        let mut quantum = Quantum::default();
        assert_eq!(quantum.of(at(0), stream, BULK, MSS), BULK, "nobody exchanges anything");
        quantum.on_data(at(0), exchange, (100, 100), true);
        let (most, least) = (BESIDE_EXCHANGE, BESIDE_EXCHANGE - u32::from(MSS));
        assert!((least..=most).contains(&quantum.of(at(1), stream, BULK, MSS)));
        assert_eq!(quantum.of(at(1), stream, BULK, MSS) % u32::from(MSS), 0);
        assert_eq!(quantum.of(at(1), stream, 100, MSS), 100, "what is less goes as it is");
        assert_eq!(quantum.of(at(1), stream, BULK, 65_480), 65_480);
        assert_eq!(quantum.of(at(1), stream, BULK, 0), BESIDE_EXCHANGE, "a segment has a byte");
        assert_eq!(quantum.window(at(1), stream, BULK), BULK / WINDOW_SHARE);
        let later = at(0) + RECENT;
        assert_eq!(quantum.of(later, stream, BULK, MSS), BULK, "that was long ago");
        assert_eq!(quantum.window(later, stream, BULK), BULK, "that was long ago");
    }

    #[test]
    fn bulk_is_no_exchange() {
        let [stream, other, _] = flows();
        let mut quantum = Quantum::default();
        quantum.on_data(at(0), other, (BULK, BULK), false);
        quantum.on_data(at(0), other, (100, BULK), true);
        quantum.on_data(at(0), other, (SMALL_BYTES, 100), true);
        quantum.on_data(at(0), other, (100, 100), false);
        quantum.on_datagrams(at(0), other, 0);
        quantum.on_datagrams(at(0), other, FEW_DATAGRAMS + 1);
        assert_eq!(quantum.of(at(0), stream, BULK, MSS), BULK);
        quantum.on_datagrams(at(0), other, 1);
        assert!(quantum.of(at(0), stream, BULK, MSS) < BULK);
    }

    #[test]
    fn a_stream_with_answers_of_its_own_gives_way_to_others_only() {
        let [stream, exchange, other] = flows();
        let mut quantum = Quantum::default();
        for _ in 0..3 {
            quantum.on_data(at(0), stream, (100, 100), true);
        }
        assert_eq!(quantum.window(at(0), stream, BULK), BULK, "its own");
        assert!(quantum.window(at(0), other, BULK) < BULK);
        quantum.on_data(at(1), exchange, (100, 100), true);
        quantum.on_data(at(2), stream, (100, 100), true);
        quantum.on_data(at(3), stream, (100, 100), true);
        assert!(quantum.window(at(3), stream, BULK) < BULK, "the exchange is not forgotten");
    }
}
