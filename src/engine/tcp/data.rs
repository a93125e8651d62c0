//! Data from a host socket to the guest: peeked straight into the guest's buffers, with headers
//! stamped in front. With segmentation offload one frame carries up to 64 KiB, whatever the MTU.

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use passt_frame::{
    Checksum, Errno, FrameDone, FrameMeta, Gso, GsoKind, MAX_FRAMES, Payload, Reservation, Reserve,
    ToGuest, ToGuestLease, ToGuestList,
};

use super::refused;
use crate::engine::state::{PeekOffset, TcpState};
use crate::flow::tcp::{Conn, DataResult, Flags};
use crate::sys::stream;
use crate::wire::build::{HeaderBuf, HeaderTemplate, L4Checksum};
use crate::wire::tcp::HEADER_BYTES as TCP_HEADER_BYTES;

/// Room reserved for a flow that has not sent much yet: one page.
const FIRST_READ_BYTES: u32 = 4096;

/// What the machine wants sent.
pub(super) struct Wish {
    /// Bytes between the head of the socket's queue and the first byte.
    pub(crate) offset: u32,
    /// Bytes at most.
    pub(crate) bytes: u32,
    /// Payload bytes of one segment.
    pub(crate) mss: u16,
}

/// Moves data from the socket to the guest.
pub(super) fn send(
    list: &mut ToGuestList,
    out: &mut dyn ToGuest,
    socket: BorrowedFd<'_>,
    template: &HeaderTemplate,
    tcp: &mut TcpState,
    wish: &Wish,
) -> DataResult {
    let caps = out.caps();
    if !caps.up {
        return DataResult::NoRoom;
    }
    let gso = if template.is_v4() { caps.gso.tcp_v4 } else { caps.gso.tcp_v6 };
    let mss = u32::from(wish.mss);
    let largest = template.max_l4_bytes() - TCP_HEADER_BYTES;
    let segments = if gso { (largest / mss).max(1) } else { 1 };
    let payload_len = (segments * mss).min(largest);
    // What the last read got, and as much again, is likely enough: a reservation costs by its size.
    let bytes = wish.bytes.min(tcp.last_read.saturating_mul(2).max(FIRST_READ_BYTES));
    let header_len = template.l3_bytes() as u32 + TCP_HEADER_BYTES;
    let request = Reserve { header_len, payload_len, bytes, payload: Payload::Stream };
    let mut lease = match ToGuestLease::reserve(out, list, request) {
        Reservation::All(lease) | Reservation::Some(lease) => lease,
        Reservation::None => return DataResult::NoRoom,
        Reservation::Never => {
            log::debug!(
                "TCP connection: the guest's buffers do not hold {header_len} bytes of headers"
            );
            return DataResult::Failed;
        }
    };
    match peek(&mut lease, socket, tcp, wish, bytes) {
        Ok(0) => DataResult::Eof,
        Ok(sent) => {
            let drained = sent < lease.room() && !tcp.urgent;
            log::trace!("to guest: {sent} bytes of a stream, up to {payload_len} a frame");
            // Where no more was wanted, as of what is sent again, the read says nothing of how much there is.
            let wanted_more = sent < wish.bytes;
            tcp.last_read = if wanted_more { sent } else { sent.max(tcp.last_read) };
            stamp(lease, template, &tcp.conn, mss, sent);
            DataResult::Sent { bytes: sent, drained }
        }
        Err(Errno::AGAIN) => {
            // Without a peek offset, what is behind an urgent byte shows only once that is at the head.
            tcp.urgent &= tcp.peek == PeekOffset::Unsupported && wish.offset > 0;
            DataResult::Empty
        }
        Err(errno) => {
            refused::note(tcp, Some(errno));
            DataResult::Failed
        }
    }
}

/// Peeks at the socket's queue from `wish.offset` on. The head of the queue needs no offset: connections
/// of questions and answers do without the option.
fn peek(
    lease: &mut ToGuestLease<'_>,
    socket: BorrowedFd<'_>,
    tcp: &mut TcpState,
    wish: &Wish,
    bytes: u32,
) -> Result<u32, Errno> {
    let offset = wish.offset;
    match tcp.peek {
        PeekOffset::Unsupported => {
            return lease.recv_stream(socket, bytes, offset, libc::MSG_PEEK);
        }
        PeekOffset::Unset if offset == 0 => {
            return lease.recv_stream(socket, bytes, 0, libc::MSG_PEEK);
        }
        PeekOffset::At(at) if at == offset => {}
        PeekOffset::Unset | PeekOffset::At(_) => stream::set_peek_offset(socket, offset)?,
    }
    tcp.peek = PeekOffset::At(offset);
    let got = lease.recv_stream(socket, bytes, 0, libc::MSG_PEEK)?;
    tcp.peek = PeekOffset::At(offset + got);
    Ok(got)
}

/// Writes the headers of all frames that `sent` bytes fill, and hands them to the guest.
fn stamp(mut lease: ToGuestLease<'_>, template: &HeaderTemplate, conn: &Conn, mss: u32, sent: u32) {
    let caps = lease.caps();
    let mut fields = conn.data_header();
    let mut done = ArrayVec::<FrameDone, MAX_FRAMES>::new();
    let mut left = sent;
    let mut before: Option<(HeaderBuf, u32)> = None;
    while left > 0 && done.len() < lease.frames() {
        let index = done.len();
        let len = lease.frame_room(index).min(left);
        left -= len;
        if left == 0 {
            fields.flags = fields.flags | Flags::PSH;
        }
        let (checksum, meta) = if caps.partial_checksum {
            (L4Checksum::Partial, offload(template, mss, len))
        } else {
            let payload_sum = lease.payload_sum(index, len).folded();
            (L4Checksum::Complete { payload_sum }, FrameMeta::default())
        };
        let header = match &mut before {
            Some((header, of)) if *of == len => {
                template.tcp_again(header, &fields, len, checksum);
                header
            }
            _ => &mut before.insert((template.tcp(&fields, len, checksum), len)).0,
        };
        lease.put_header(index, header);
        done.push(FrameDone { payload_len: len, meta });
        fields.seq += len;
    }
    lease.commit(&done);
}

fn offload(template: &HeaderTemplate, mss: u32, len: u32) -> FrameMeta {
    let start = template.l3_bytes() as u16;
    let kind = if template.is_v4() { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
    let header_len = start + TCP_HEADER_BYTES as u16;
    let gso = (len > mss).then_some(Gso { kind, size: mss as u16, header_len });
    FrameMeta { checksum: Checksum::Partial { start, offset: 16 }, gso }
}
