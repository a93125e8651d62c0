//! TCP toward the guest: one kernel socket per guest connection, and no payload in user space.
//!
//! [`Conn`] is a state machine that decides and does not do: inputs are segments of the guest
//! ([`Conn::on_segment`]), events of the socket ([`Conn::on_socket`]), room in the socket
//! ([`Conn::on_room`]) or on the link ([`Conn::on_port_room`]), and time ([`Conn::on_timer`]);
//! after each of them the shell calls [`Conn::poll`] until it returns `None` and does what each
//! [`Action`] says. A shell that has done enough for one turn may stop after any action and go on
//! polling in the next turn: nothing is forgotten.
//!
//! # To the guest
//! Data stays in the socket's receive queue. [`Action::SendData`] peeks at it and sends it; the guest's
//! acknowledgement discards it. What is lost on the way is peeked again. See `send`.
//!
//! # From the guest
//! A turn's segments of one flow are a *run*: the shell passes each to [`Conn::on_segment`], those that came
//! [early](Early) behind the ones that they follow, writes the parts accepted with one `sendmsg`, reports the result with [`Conn::on_written`], and only
//! then polls. The stream advances by what the kernel took. If it took less, the rest of the run
//! counts as never received, FIN included: the guest sends it again, or the shell, if it has kept
//! the frames, offers them again when the socket is writable. See `receive` for the window.
//!
//! # What the shell owes
//! - Events are edge-triggered and told once; the machine remembers them. [`SocketEvent::Readable`]
//!   and [`SocketEvent::PeerClosed`] (EPOLLRDHUP) may come at any time, [`SocketEvent::Writable`]
//!   counts only after [`Action::WatchWritable`].
//! - The result of each [`Action::SendData`] before the next poll, and the result of each run before the next
//!   poll; a run without accepted payload needs none.
//! - An [`Action::Emit`] that finds no buffer may be dropped: that is a lost segment, and each kind
//!   is recovered by a timer of ours or of the guest. Data that finds none is [`DataResult::NoRoom`].
//! - [`Conn::poll`] at [`Conn::ack_at`], which is never far away.
//! - [`Conn::on_timer`] at [`Conn::deadline`], or later. The deadline moves with almost each input,
//!   mostly further away, so a lazy timer that asks again when it fires is enough, as long as one
//!   that moves closer is noticed after each poll.
//!
//! # What an acknowledgement means
//! We acknowledge what the host's kernel has accepted, and nothing that we keep for it: see `receive`. That splits the connection in two: each half
//! recovers its own losses, the kernel's congestion control and buffer tuning do their work, and
//! no system call per segment is needed. passt does the same for bulk transfers, but for
//! interactive ones acknowledges only what the far end has; here the guest never learns that.
//! What it loses is the knowledge of how much of an aborted stream arrived, which no application
//! can rely on; a reset still reaches it, and its FIN is passed on in order.
//! An ACK of data may wait for a fraction of a millisecond, as long as that pays: see `ack`. Two more may
//! wait, because the guest has nothing to send that waits for them: that of its FIN, for the peer's FIN; and
//! that of its SYN-ACK, until the socket was read.
//!
//! # Clauses
//! RFC 9293; RFC 5681 and RFC 6582 for loss, with a window of congestion that is open until the first one (`congestion`),
//! taken back where nothing was lost (RFC 3522, RFC 4015, RFC 4653: `losses`), and a question to who is silent (`asking`); RFC 6298 for time; RFC 5961 for blind attacks;
//! RFC 7323 for the window scale. A guest that was set back to an older state is reset: see `doubt`. Not used: selective acknowledgements, timestamps, ECN, Fast Open.
//! Urgent data of either end is part of its stream, and nobody is told that it is urgent (RFC 6093).
//! There is no TIME-WAIT: after both FINs the flow is gone, and [`reset_for`]
//! answers what still comes.

mod ack;
mod asking;
mod boundary;
mod congestion;
mod conn;
mod doubt;
mod early;
mod failure;
mod full;
mod image;
mod input;
mod isn;
pub mod limits;
mod losses;
mod receive;
mod retry;
mod send;
mod silence;
mod view;

use crate::wire::seq::SeqNr;
use crate::wire::tcp::HEADER_BYTES;

pub use crate::wire::tcp::{Flags, Header, Segment};
pub use boundary::{Accept, Action, DataResult, SegmentDrop, SocketEvent};
pub use conn::{Conn, Opening};
pub use early::Early;
pub use image::{Ends, Image, NoConn};
pub(crate) use isn::InitialNumbers;
pub use retry::TcpConfig;

/// The reset that answers a segment without a flow (RFC 9293, section 3.10.7.1); a reset gets none.
pub fn reset_for(seg: &Segment) -> Option<Header> {
    let none = SeqNr::default();
    let (seq, ack, flags) = match seg.has(Flags::ACK) {
        true => (seg.ack, none, Flags::RST),
        false => (none, seg.seq + seg.sequence_len(), Flags::RST | Flags::ACK),
    };
    let header = Header { seq, ack, flags, window: 0, mss: None, window_scale: None };
    (!seg.has(Flags::RST)).then_some(header)
}

/// The MSS option for a link of `mtu` bytes under IP headers of `ip_header_len` bytes.
///
/// Beyond a page it is whole pages, so that the guest's segments fill the pages of our kernel.
pub const fn our_mss(mtu: u16, ip_header_len: u16) -> u16 {
    let mss = mtu.saturating_sub(HEADER_BYTES as u16 + ip_header_len);
    if mss > 4096 { mss / 4096 * 4096 } else { mss }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9293_3_10_7_1_segment_without_flow() {
        let base = Segment { seq: SeqNr(100), ack: SeqNr(7), payload_len: 5, ..Segment::default() };
        let answer = |flags| {
            let header = reset_for(&Segment { flags, ..base })?;
            Some((header.seq.0, header.ack.0, header.flags))
        };
        assert_eq!(answer(Flags::ACK), Some((7, 0, Flags::RST)));
        assert_eq!(answer(Flags::SYN | Flags::ACK), Some((7, 0, Flags::RST)));
        assert_eq!(answer(Flags::SYN), Some((0, 106, Flags::RST | Flags::ACK)));
        assert_eq!(answer(Flags::default()), Some((0, 105, Flags::RST | Flags::ACK)));
        assert_eq!(answer(Flags::RST), None);
        assert_eq!(answer(Flags::RST | Flags::ACK), None);
    }

    #[test]
    fn mss_is_whole_pages_on_a_large_link() {
        assert_eq!(our_mss(65520, 20), 61440);
        assert_eq!(our_mss(65520, 40), 61440);
        assert_eq!(our_mss(1500, 20), 1460);
        assert_eq!(our_mss(1280, 40), 1220);
        assert_eq!(our_mss(0, 40), 0);
    }
}
