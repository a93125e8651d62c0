//! What a socket does not take of the guest's stream though it had room, and what a connection has brought along: kept, and
//! written before anything else.

use std::os::fd::BorrowedFd;

use passt_frame::{Errno, FromGuestLease, Part};
use rustix::net::{self as rnet, SendFlags};

use super::refused;
use crate::engine::state::{Backlog, KeptBytes, Peer, TcpState};
use crate::time::Timestamp;

const FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// Payload that the guest sends on one connection.
pub(super) trait Payload {
    /// Sends it; returns how many bytes the socket took.
    fn send(&mut self, socket: BorrowedFd<'_>) -> Result<u32, Errno>;

    /// Copies what follows the first `sent` bytes, which the socket took, as far as there is room; returns how many bytes
    /// that is.
    fn copy_rest(&mut self, sent: u32, bytes: &mut [u8]) -> usize;
}

/// Payload that still lies in a batch of frames.
pub(super) struct InBatch<'a, 'b>(pub(super) &'a mut FromGuestLease<'b>, pub(super) &'a [Part]);

impl Payload for InBatch<'_, '_> {
    fn send(&mut self, socket: BorrowedFd<'_>) -> Result<u32, Errno> {
        self.0.send_stream(socket, self.1)
    }

    fn copy_rest(&mut self, sent: u32, bytes: &mut [u8]) -> usize {
        self.0.copy_rest(self.1, sent, bytes)
    }
}

/// Payload of one segment, copied to private memory.
pub(super) struct InMemory<'a>(pub(super) &'a [u8]);

impl Payload for InMemory<'_> {
    fn send(&mut self, socket: BorrowedFd<'_>) -> Result<u32, Errno> {
        rnet::send(socket, self.0, FLAGS).map(|taken| taken as u32)
    }

    fn copy_rest(&mut self, sent: u32, bytes: &mut [u8]) -> usize {
        let rest = &self.0[sent as usize..];
        let len = rest.len().min(bytes.len());
        bytes[..len].copy_from_slice(&rest[..len]);
        len
    }
}

/// Keeps what follows the first `sent` of the `offered` bytes of `payload`, within the budget. Returns how many bytes were
/// kept.
pub(super) fn keep(
    tcp: &mut TcpState,
    budget: &KeptBytes,
    payload: &mut impl Payload,
    (sent, offered): (u32, u32),
) -> u32 {
    let empty = || Box::new(Backlog::new(Vec::new(), false, budget));
    let backlog = tcp.backlog.get_or_insert_with(empty);
    let kept = backlog.keep((offered - sent) as usize, |bytes| payload.copy_rest(sent, bytes));
    if backlog.rest().is_empty() {
        tcp.backlog = None;
    }
    kept as u32
}

/// Writes what is kept of a connection, as far as its socket takes it, and then the end of the stream. True when nothing is
/// left.
pub(super) fn flush(tcp: &mut TcpState, socket: BorrowedFd<'_>, now: Timestamp) -> bool {
    let Some(mut backlog) = tcp.backlog.take() else { return true };
    while !backlog.rest().is_empty() {
        match rnet::send(socket, backlog.rest(), FLAGS) {
            Ok(written) => backlog.wrote(written),
            Err(Errno::AGAIN) => {
                tcp.conn.on_kept(now, backlog.rest().len() as u32);
                tcp.backlog = Some(backlog);
                return false;
            }
            Err(errno) => {
                refused::fail(tcp, socket, now, Some(errno));
                return true;
            }
        }
    }
    tcp.conn.on_kept(now, 0);
    let failed = backlog.ends && rnet::shutdown(socket, rnet::Shutdown::Write).is_err();
    if failed && tcp.peer != Peer::Done {
        refused::fail(tcp, socket, now, refused::error_of(socket));
    }
    true
}
