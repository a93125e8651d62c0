//! Segments that come before one of the same run that they follow. A guest's own kernel sends in order, but who routes
//! or bridges behind it need not, nor need a guest whose processors share a connection. The stream has no place for
//! what is beyond a gap, so that the guest would have to send it again: after three duplicate acknowledgements, or,
//! where little follows, after a timeout. A gap that the same run fills is none: what is beyond it waits until then,
//! or until the run is over, and the machine sees the segments in the order in which they were to come.

use arrayvec::ArrayVec;

use super::conn::{Conn, State};
use super::limits::EARLY_MAX;
use crate::wire::tcp::{Flags, Segment};

impl Conn {
    /// Whether a segment of the guest's stream stands behind others that have not come.
    fn comes_early(&self, seg: &Segment) -> bool {
        matches!(self.state, State::Established | State::SynAckSent)
            && seg.seq.after(self.recv.expected())
            && seg.sequence_len() > 0
            && seg.has(Flags::ACK)
            && !seg.has(Flags::SYN)
            && !seg.has(Flags::RST)
            && self.recv.is_acceptable(seg)
    }
}

/// Segments of a run that wait for others, each with where its payload is.
#[derive(Debug)]
pub struct Early<T>(ArrayVec<(Segment, T), EARLY_MAX>);

impl<T> Default for Early<T> {
    fn default() -> Self {
        Self(ArrayVec::new())
    }
}

impl<T: Copy> Early<T> {
    /// Keeps a segment back if it comes early and there is a place. If it returns false, the segment is to be passed to
    /// [`Conn::on_segment`], and then those that [`next`](Self::next) gives.
    pub fn hold(&mut self, conn: &Conn, segment: &Segment, payload: T) -> bool {
        conn.comes_early(segment) && self.0.try_push((*segment, payload)).is_ok()
    }

    /// Takes a segment that comes early no more.
    pub fn next(&mut self, conn: &Conn) -> Option<(Segment, T)> {
        let place = self.0.iter().position(|(segment, _)| !conn.comes_early(segment))?;
        Some(self.0.remove(place))
    }

    /// Takes a segment at the end of the run, when nothing is left to wait for.
    pub fn next_at_end(&mut self, conn: &Conn) -> Option<(Segment, T)> {
        self.next(conn).or_else(|| self.0.pop_at(0))
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all: their flow is gone.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Accept, Opening, SegmentDrop, SocketEvent, TcpConfig};
    use super::*;
    use crate::time::Timestamp;
    use crate::wire::seq::SeqNr;

    const NOW: Timestamp = Timestamp::ZERO;
    /// Close to the wrap.
    const FIRST: SeqNr = SeqNr(u32::MAX - 15);
    const OPENING: Opening = Opening { isn: SeqNr(1), our_mss: 1000, max_segment: 1000 };

    /// Segments of 10 bytes of payload, by their places in the stream.
    fn segment(place: u32) -> Segment {
        let (seq, ack) = (FIRST + 10 * place, OPENING.isn + 1);
        Segment { seq, ack, flags: Flags::ACK, window: 9000, payload_len: 10, ..Segment::default() }
    }

    fn established() -> Conn {
        let syn = Segment { seq: FIRST - 1, flags: Flags::SYN, ..Segment::default() };
        let mut conn = Conn::outbound(NOW, &TcpConfig::default(), &syn, OPENING);
        conn.on_socket(NOW, SocketEvent::Connected);
        while conn.poll(NOW).is_some() {
            conn.on_room(50_000);
        }
        conn.on_segment(NOW, &Segment { payload_len: 0, ..segment(0) });
        assert_eq!(conn.stage(), "established");
        conn
    }

    /// What the machine is passed of a run, and what it says.
    fn run(conn: &mut Conn, segments: &[Segment]) -> Vec<(usize, Accept)> {
        let (mut early, mut said) = (Early::default(), Vec::new());
        for (index, segment) in segments.iter().enumerate() {
            if early.hold(conn, segment, index) {
                continue;
            }
            said.push((index, conn.on_segment(NOW, segment)));
            while let Some((segment, index)) = early.next(conn) {
                said.push((index, conn.on_segment(NOW, &segment)));
            }
        }
        while let Some((segment, index)) = early.next_at_end(conn) {
            said.push((index, conn.on_segment(NOW, &segment)));
        }
        assert!(early.is_empty());
        said
    }

    fn taken(skip: u32, len: u32) -> Accept {
        Accept { skip, len, dropped: None }
    }

    #[test]
    fn what_one_run_brings_in_another_order_is_taken_in_that_of_the_stream() {
        let mut conn = established();
        let said = run(&mut conn, &[2, 3, 1, 0].map(segment));
        let order: Vec<usize> = said.iter().map(|(index, _)| *index).collect();
        assert_eq!(order, [3, 2, 0, 1]);
        assert!(said.iter().all(|(_, accept)| *accept == taken(0, 10)), "{said:?}");
        conn.on_written(NOW, 40, 0);
        assert_eq!(conn.progress()[1], FIRST + 40);
    }

    #[test]
    fn what_was_sent_twice_is_taken_once_and_an_end_that_came_early_is_the_end() {
        let mut conn = established();
        let end = Segment { flags: Flags::ACK | Flags::FIN, payload_len: 0, ..segment(2) };
        let both = Segment { payload_len: 20, ..segment(0) };
        let said = run(&mut conn, &[end, segment(1), both]);
        assert_eq!(said[..2], [(2, taken(0, 20)), (0, taken(0, 0))]);
        assert_eq!((said[2].0, said[2].1.len), (1, 0));
        conn.on_written(NOW, 20, 0);
        assert_eq!(conn.progress()[1], FIRST + 21);
    }

    #[test]
    fn what_lies_beyond_a_gap_is_said_to_at_the_end_of_the_run() {
        let mut conn = established();
        let said = run(&mut conn, &[0, 3, 2].map(segment));
        let dropped: Vec<_> = said.iter().map(|(index, accept)| (*index, accept.dropped)).collect();
        let beyond = Some(SegmentDrop::OutOfOrder);
        assert_eq!(dropped, [(0, None), (1, beyond), (2, beyond)]);
    }

    #[test]
    fn a_reset_does_not_wait_and_no_more_do_than_there_are_places() {
        let mut conn = established();
        let reset = Segment { flags: Flags::RST, ..segment(9) };
        let mut early = Early::default();
        assert!(!early.hold(&conn, &reset, 0));
        assert!(!early.hold(&conn, &segment(0), 0), "the next is none");
        for place in 1..=EARLY_MAX as u32 {
            assert!(early.hold(&conn, &segment(place), place));
        }
        assert!(!early.hold(&conn, &segment(90), 90));
        // In the middle of the run the connection ends: nobody waits any more.
        conn.on_segment(NOW, &Segment { flags: Flags::RST, payload_len: 0, ..segment(0) });
        let left = std::iter::from_fn(|| early.next(&conn)).count();
        assert_eq!(left, EARLY_MAX);
    }
}
