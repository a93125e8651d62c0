//! A synchronised connection as plain data, and back: what moves with a guest to another program. The form on
//! the way is [`crate::flow::migration`]'s.
//!
//! What is kept of the guest's stream because its socket has not taken it (`receive`) does not move: the guest was not told
//! that it has come, and sends it again.
//!
//! What is not in an image is chosen anew: the timers start afresh, the room of the socket is measured, loss
//! recovery begins when the guest shows a loss. What was sent and not acknowledged counts as sent: it is in the
//! guest's memory, which has moved as well. All of it is still in the socket's queue, whose head is the first
//! byte that the guest has not acknowledged ([`Conn::take_acknowledged`]).

use super::conn::{Conn, Opening, State};
use super::limits::{DATA_RETRIES, GUEST_SCALE_MAX, MIN_MSS, WINDOW_MAX, WINDOW_SCALE};
use super::receive::ReceiveHalf;
use super::retry::TcpConfig;
use super::send::SendHalf;
use crate::time::Timestamp;
use crate::wire::seq::SeqNr;

/// Which ends of the two streams have come and gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The peer's stream has ended; what is before its end may still be in the socket's queue.
    pub from_peer: bool,
    /// The end of the guest's stream was passed on to the socket.
    pub to_peer: bool,
    /// The guest's stream has ended.
    pub from_guest: bool,
    /// The end of the peer's stream was sent to the guest.
    pub to_guest: bool,
    /// The guest has acknowledged that.
    pub acked_by_guest: bool,
}

/// A synchronised connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Timeouts since the guest last gave a sign of progress.
    pub retries: u8,
    /// The guest's window scale.
    pub guest_scale: u8,
    /// Our window scale; 0 if the guest has none.
    pub our_scale: u8,
    /// The ends of the streams.
    pub ends: Ends,
    /// Payload of a segment to the guest, in bytes.
    pub guest_mss: u32,
    /// The guest's window, not scaled.
    pub window_from_guest: u16,
    /// The window that the guest was told last, not scaled.
    pub window_to_guest: u16,
    /// The byte after the last one that was sent to the guest.
    pub next_to_guest: SeqNr,
    /// The first byte that the guest has not acknowledged.
    pub acked_by_guest: SeqNr,
    /// The next byte that is expected of the guest.
    pub next_from_guest: SeqNr,
    /// The acknowledgement number that the guest was told last.
    pub acked_to_guest: SeqNr,
}

/// Why an image is that of no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoConn {
    /// A window scale that nobody uses.
    #[error("window scale out of range")]
    Scale,
    /// More was acknowledged, or sent, than there is.
    #[error("sequence numbers that contradict the socket's queue")]
    Sequence,
    /// An end that was passed on before it came.
    #[error("ends of streams that contradict each other")]
    Ends,
}

impl Conn {
    /// Bytes at the head of the socket's queue that the guest has acknowledged, perhaps 0: to be dropped from it
    /// before the queue is taken for what the guest still needs.
    pub fn take_acknowledged(&mut self) -> u32 {
        self.send.take_acknowledged()
    }

    /// The connection as plain data. `None` if it is not synchronised, or over. `peer_ended`: the socket has the peer's FIN,
    /// even if the machine has not come across it yet. One whose socket has failed is a connection to the guest until it
    /// is told.
    pub fn image(&self, peer_ended: bool) -> Option<Image> {
        if self.state != State::Established {
            return None;
        }
        let (send, recv) = (&self.send, &self.recv);
        let (told, window) = recv.told();
        Some(Image {
            retries: self.retry.count(),
            guest_scale: send.scale,
            our_scale: recv.scale().unwrap_or(0),
            ends: Ends {
                from_peer: peer_ended || send.is_ended(),
                to_peer: recv.has_passed_fin_on(),
                from_guest: recv.has_fin() && !recv.is_behind(),
                to_guest: send.is_end_sent(),
                acked_by_guest: send.is_fin_acked(),
            },
            guest_mss: send.mss.into(),
            window_from_guest: send.window_field(),
            window_to_guest: window,
            next_to_guest: send.max,
            acked_by_guest: send.una,
            next_from_guest: recv.acknowledged(),
            acked_to_guest: told,
        })
    }

    /// A connection that goes on where the image stands. `queued` is how much is in the socket's queue for the
    /// guest, in bytes. The guest is told at once how much of its stream has come.
    ///
    /// # Errors
    /// What cannot be true of any connection.
    pub fn restore(
        now: Timestamp,
        config: &TcpConfig,
        image: &Image,
        queued: u32,
        opening: Opening,
    ) -> Result<Self, NoConn> {
        image.check(queued)?;
        let mut conn = Self::new(now, config, opening, State::Established);
        let mss = image.guest_mss.clamp(MIN_MSS.into(), opening.max_segment.max(MIN_MSS).into());
        conn.send = SendHalf::restored(image, queued, mss as u16);
        let scale = Some(image.our_scale);
        conn.recv = ReceiveHalf::restored(image, &conn.recv, scale);
        conn.retry.resume(image.retries.min(DATA_RETRIES));
        conn.acks = 1;
        conn.keep_time(now);
        Ok(conn)
    }
}

impl Image {
    /// Whether there can be such a connection, with `queued` bytes in the socket's queue.
    fn check(&self, queued: u32) -> Result<(), NoConn> {
        let ends = self.ends;
        if self.guest_scale > GUEST_SCALE_MAX || self.our_scale > WINDOW_SCALE {
            return Err(NoConn::Scale);
        }
        let impossible = (ends.to_peer && !ends.from_guest)
            || (ends.to_guest && !ends.from_peer)
            || (ends.acked_by_guest && !ends.to_guest);
        if impossible {
            return Err(NoConn::Ends);
        }
        let most = i64::from(queued) + i64::from(ends.to_guest && !ends.acked_by_guest);
        let sent = i64::from(self.next_to_guest.offset_from(self.acked_by_guest));
        let unacked = i64::from(self.next_from_guest.offset_from(self.acked_to_guest));
        let emptied = !ends.acked_by_guest || queued == 0;
        let fits = (0..=most).contains(&sent)
            && (0..=i64::from(WINDOW_MAX)).contains(&unacked)
            && i64::from(queued) <= i64::from(i32::MAX / 2)
            && emptied;
        if fits { Ok(()) } else { Err(NoConn::Sequence) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::tcp::{Action, DataResult, Flags, Segment, SocketEvent};

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);
    const OPENING: Opening =
        Opening { isn: SeqNr(u32::MAX - 50), our_mss: 1460, max_segment: 1460 };

    fn segment(seq: u32, ack: SeqNr, flags: Flags, payload_len: u32) -> Segment {
        let window = 1000;
        Segment { seq: SeqNr(seq), ack, flags, payload_len, window, ..Segment::default() }
    }

    /// A connection of the guest's that is established; it has sent nothing.
    fn established(scale: Option<u8>) -> Conn {
        let syn = Segment {
            mss: Some(1000),
            window_scale: scale,
            ..segment(4_294_967_200, SeqNr(0), Flags::SYN, 0)
        };
        let mut conn = Conn::outbound(NOW, &TcpConfig::default(), &syn, OPENING);
        assert_eq!(conn.image(false), None, "not synchronised yet");
        conn.on_socket(NOW, SocketEvent::Connected);
        drain(&mut conn);
        conn.on_segment(NOW, &segment(4_294_967_201, OPENING.isn + 1, Flags::ACK, 0));
        drain(&mut conn);
        conn
    }

    /// All that it wants done. The socket has room, and `queued` bytes that were not sent yet, and then `end`.
    fn done(conn: &mut Conn, mut queued: u32, end: DataResult) -> Vec<Action> {
        let mut all = Vec::new();
        while let Some(action) = conn.poll(NOW) {
            all.push(action);
            assert!(all.len() < 30, "{all:?}");
            match action {
                Action::QueryRoom => conn.on_room(100_000),
                Action::SendData { bytes, .. } => {
                    let bytes = bytes.min(queued);
                    queued -= bytes;
                    let sent = DataResult::Sent { bytes, drained: false };
                    conn.on_data(NOW, if bytes > 0 { sent } else { end });
                }
                _ => {}
            }
        }
        all
    }

    fn drain(conn: &mut Conn) {
        done(conn, 0, DataResult::Empty);
    }

    /// The peer sends `bytes`; the guest gets them.
    fn peer_sends(conn: &mut Conn, bytes: u32) {
        conn.on_socket(NOW, SocketEvent::Readable);
        done(conn, bytes, DataResult::Empty);
    }

    fn peer_ends(conn: &mut Conn) {
        conn.on_socket(NOW, SocketEvent::PeerClosed);
        done(conn, 0, DataResult::Eof);
    }

    fn guest_ends(conn: &mut Conn, seq: u32, ack: SeqNr) {
        conn.on_segment(NOW, &segment(seq, ack, Flags::FIN | Flags::ACK, 0));
        drain(conn);
    }

    /// Restored from its image, it has the same image; returns it.
    fn moved(mut conn: Conn, peer_ended: bool, queued: u32) -> (Image, Conn) {
        let _ = conn.take_acknowledged();
        let image = conn.image(peer_ended).expect("synchronised");
        let config = TcpConfig::default();
        let restored = Conn::restore(NOW, &config, &image, queued, OPENING).expect("consistent");
        assert_eq!(restored.image(peer_ended), Some(image));
        (image, restored)
    }

    #[test]
    fn each_state_survives_and_goes_on() {
        let first = 4_294_967_201;
        let open = || established(Some(7));
        let (image, mut conn) = moved(open(), false, 0);
        assert_eq!((image.guest_scale, image.our_scale, image.guest_mss), (7, 8, 1000));
        let acks = done(&mut conn, 0, DataResult::Empty);
        assert!(acks.iter().any(|a| matches!(a, Action::Emit(h) if h.ack == SeqNr(first))));

        // Data on the way to the guest, with a window that it has not used up.
        let mut sent = open();
        peer_sends(&mut sent, 700);
        let (image, mut conn) = moved(sent, false, 700);
        assert_eq!(image.next_to_guest, image.acked_by_guest + 700);
        assert!(conn.deadline().is_some_and(|at| at > NOW), "sent again if nothing comes");
        conn.on_segment(NOW, &segment(first, image.next_to_guest, Flags::ACK, 0));
        assert_eq!(conn.take_acknowledged(), 700);

        // The peer's end, not seen by the machine, behind what is queued.
        let (image, mut conn) = moved(open(), true, 300);
        assert!(image.ends.from_peer && !image.ends.to_guest);
        let end = image.acked_by_guest + 300;
        let fin = done(&mut conn, 300, DataResult::Failed).iter().find_map(|action| match action {
            Action::Emit(header) if header.flags.contains(Flags::FIN) => Some(header.seq),
            _ => None,
        });
        assert_eq!(fin, Some(end), "the end comes behind the data");
    }

    #[test]
    fn half_closed_both_ways_and_closing() {
        let first = 4_294_967_201;
        // The guest has ended; the peer goes on.
        let mut conn = established(None);
        guest_ends(&mut conn, first, OPENING.isn + 1);
        let (image, mut conn) = moved(conn, false, 0);
        assert!(image.ends.from_guest && image.ends.to_peer && image.our_scale == 0);
        peer_sends(&mut conn, 10);
        assert_eq!(conn.image(false).expect("open").next_to_guest, image.next_to_guest + 10);

        // The peer has ended, and the guest knows or not.
        let mut conn = established(Some(0));
        peer_ends(&mut conn);
        let (image, _) = moved(conn, true, 0);
        assert!(image.ends.to_guest && !image.ends.acked_by_guest);
        let mut conn = established(Some(0));
        peer_ends(&mut conn);
        conn.on_segment(NOW, &segment(first, image.next_to_guest, Flags::ACK, 0));
        let (image, mut conn) = moved(conn, true, 0);
        assert!(image.ends.acked_by_guest);
        // The last of four: the guest ends its stream, too, and all is over.
        conn.on_segment(NOW, &segment(first, image.next_to_guest, Flags::FIN | Flags::ACK, 0));
        let actions = done(&mut conn, 0, DataResult::Failed);
        assert!(actions.contains(&Action::ShutdownWrite), "{actions:?}");
        assert_eq!(actions.last(), Some(&Action::Close { reset: false }));
    }

    #[test]
    fn an_end_that_was_not_passed_on_is_passed_on() {
        let (mut image, _) = moved(established(Some(7)), false, 0);
        image.ends.from_guest = true;
        let config = TcpConfig::default();
        let mut conn = Conn::restore(NOW, &config, &image, 0, OPENING).expect("consistent");
        assert_eq!(conn.poll(NOW), Some(Action::ShutdownWrite));
    }

    #[test]
    fn what_is_kept_does_not_move_and_is_expected_again() {
        let first = 4_294_967_201;
        let mut conn = established(Some(7));
        conn.on_segment(NOW, &segment(first, OPENING.isn + 1, Flags::FIN | Flags::ACK, 100));
        conn.on_written(NOW, 30, 70);
        let (image, mut conn) = moved(conn, false, 0);
        assert!(!image.ends.from_guest && !image.ends.to_peer);
        assert_eq!((image.next_from_guest, conn.kept()), (SeqNr(first) + 30, 0));
        drain(&mut conn);
        let again = segment(first, OPENING.isn + 1, Flags::FIN | Flags::ACK, 100);
        let accept = conn.on_segment(NOW, &again);
        assert_eq!((accept.skip, accept.len), (30, 70));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let (image, _) = moved(established(Some(7)), false, 0);
        let ends = image.ends;
        let with = |ends| Image { ends, ..image };
        let restore = |image: Image, queued| {
            Conn::restore(NOW, &TcpConfig::default(), &image, queued, OPENING).err()
        };
        assert_eq!(restore(Image { guest_scale: 15, ..image }, 0), Some(NoConn::Scale));
        assert_eq!(restore(Image { our_scale: 9, ..image }, 0), Some(NoConn::Scale));
        assert_eq!(restore(with(Ends { to_peer: true, ..ends }), 0), Some(NoConn::Ends));
        assert_eq!(restore(with(Ends { to_guest: true, ..ends }), 0), Some(NoConn::Ends));
        assert_eq!(restore(with(Ends { acked_by_guest: true, ..ends }), 0), Some(NoConn::Ends));
        let sent = |bytes: u32| Image { next_to_guest: image.acked_by_guest + bytes, ..image };
        assert_eq!(restore(sent(100), 100), None);
        assert_eq!(restore(sent(101), 100), Some(NoConn::Sequence), "more than there is");
        assert_eq!(restore(sent(u32::MAX), 100), Some(NoConn::Sequence), "less than nothing");
        assert_eq!(restore(image, u32::MAX), Some(NoConn::Sequence));
        let told = Image { acked_to_guest: image.next_from_guest + 1, ..image };
        assert_eq!(restore(told, 0), Some(NoConn::Sequence));
        for mss in [0, 1, u32::MAX] {
            let image = Image { guest_mss: mss, ..image };
            let conn = Conn::restore(NOW, &TcpConfig::default(), &image, 0, OPENING);
            assert!((48..=1460).contains(&conn.expect("bounded").guest_mss()));
        }
    }
}
