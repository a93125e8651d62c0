//! What a connection at the source is made of, read from a socket in repair.

use std::os::fd::{AsFd, BorrowedFd};

use passt_frame::Errno;
use rustix::net::sockopt;

use crate::engine::state::{FlowKind, FlowState, PeekOffset, Peer, TcpState};
use crate::flow::migration::{QUEUE_MAX, Record, SocketRecord, TcpStage, Window};
use crate::flow::side::{Pif, Side};
use crate::sys::repair::{self, Queue};
use crate::sys::{socket, stream};
use crate::wire::SeqNr;

/// Why a socket cannot be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Undescribed {
    /// It is over, or not there yet: the kernel's number for its state.
    #[error("its socket is in state {0}")]
    State(u8),
    /// Its peer has reset it, or the network.
    #[error("it has failed: {0}")]
    Failed(Errno),
    /// The same, and the guest is told when it has got what came before.
    #[error("it has failed before")]
    FailedBefore,
    /// The kernel does not tell.
    #[error("its socket: {0}")]
    Kernel(#[from] Errno),
    /// The guest has not opened it, or has closed it.
    #[error("it is not established with the guest")]
    Guest,
    /// A queue is longer than the stream can say.
    #[error("a queue of {0} bytes is too long to be moved")]
    TooLong(u32),
    /// A queue is not as long as it was, or cannot be read as a whole.
    #[error("its queue has changed")]
    Queue,
}

/// A socket.
pub(super) struct Description {
    pub(crate) record: SocketRecord,
    /// What is queued toward the peer.
    pub(crate) queue: Vec<u8>,
}

/// What a connection has brought along and its socket has not taken yet: to the guest it has come.
#[derive(Clone, Copy, Default)]
struct Brought<'a> {
    bytes: &'a [u8],
    /// The guest's stream ends behind them.
    ends: bool,
}

impl<'a> Brought<'a> {
    fn of(tcp: &'a TcpState) -> Self {
        let Some(backlog) = tcp.backlog.as_deref() else { return Self::default() };
        // Of what is kept, which is last, the guest was told nothing.
        let (rest, kept) = (backlog.rest(), tcp.conn.kept() as usize);
        Self { bytes: &rest[..rest.len().saturating_sub(kept)], ends: backlog.ends }
    }

    fn is_something(self) -> bool {
        self.ends || !self.bytes.is_empty()
    }

    /// Adds them to what the socket has for the peer, where they come next.
    fn add_to(self, description: &mut Description) -> Result<(), Undescribed> {
        let Description { record, queue } = description;
        if self.is_something() && record.stage.has_our_end() {
            return Err(Undescribed::Queue);
        }
        let all = queue.len() + self.bytes.len();
        if all > QUEUE_MAX as usize {
            return Err(Undescribed::TooLong(u32::try_from(all).unwrap_or(u32::MAX)));
        }
        queue.extend_from_slice(self.bytes);
        record.send_queue += self.bytes.len() as u32;
        record.unsent += self.bytes.len() as u32;
        record.stage = match record.stage {
            TcpStage::Established if self.ends => TcpStage::FinWait1,
            TcpStage::CloseWait if self.ends => TcpStage::LastAck,
            stage => stage,
        };
        Ok(())
    }
}

/// A connection as the guest knows it. It is one also where its socket is over: the guest hears of that at the target,
/// where the socket is missing.
///
/// # Errors
/// Why it cannot be told.
pub(super) fn record(
    socket: BorrowedFd<'_>,
    sides: &[Side; 2],
    tcp: &TcpState,
) -> Result<Record, Undescribed> {
    let info = repair::info(socket)?;
    let peer_ended = TcpStage::from_number(info.state).is_none_or(TcpStage::has_peers_end);
    let image = tcp.conn.image(peer_ended).ok_or(Undescribed::Guest)?;
    let mut sides = *sides;
    // Which address is ours the kernel has chosen.
    let ours = socket::local_address(socket)?;
    for side in &mut sides {
        if side.pif == Pif::Host {
            side.ours = ours.into();
        }
    }
    let unacknowledged = repair::queued(socket, Queue::Send)?;
    let brought = Brought::of(tcp);
    let not_written = brought.bytes.len() as u32 + u32::from(brought.ends);
    let first = image.next_from_guest - not_written - unacknowledged - (info.acked as u32);
    let send_buffer = stream::send_buffer(socket)?.limit;
    Ok(Record { sides, image, send_buffer, first_from_guest: first })
}

/// By what connections are ordered in the stream, the smallest first: those on which a target says nothing to the peer
/// when it puts them in place; then those whose peers have said something that the guest has not got yet, and are about
/// to say more; then by for how long they have said nothing, in ms.
///
/// The packaged passt puts one after the other in place, and has each go on at once. By the first one on which it says
/// something, the network learns to lead there, and its kernel answers by a reset what peers send from then on over
/// connections that are not in place yet.
pub(super) fn place(socket: BorrowedFd<'_>, tcp: &TcpState) -> (bool, bool, u32) {
    let Ok(info) = repair::info(socket) else { return Default::default() };
    // When a repair ends, the kernel asks the peers of established ones where they stand. An end that was not
    // acknowledged is sent, and so is what was not sent yet.
    let silent = matches!(
        TcpStage::from_number(info.state),
        None | Some(TcpStage::FinWait2 | TcpStage::CloseWait)
    );
    let brought = Brought::of(tcp).is_something();
    let speaks = !silent || brought || repair::unsent(socket) != Ok(0);
    let all_read = repair::queued(socket, Queue::Receive) == Ok(0);
    (speaks, all_read, info.quiet_ms)
}

/// A connection as the peer knows it.
///
/// # Errors
/// Why it cannot be told. [`Undescribed::Failed`] is for the caller to remember, in [`TcpState::peer`]: the socket does not
/// know of it any more.
pub(super) fn socket(socket: BorrowedFd<'_>, tcp: &TcpState) -> Result<Description, Undescribed> {
    if let Peer::Lost(errno) = tcp.peer {
        return Err(Undescribed::Failed(errno));
    }
    if tcp.conn.has_failed() {
        return Err(Undescribed::FailedBefore);
    }
    let info = repair::info(socket)?;
    let stage = match TcpStage::from_number(info.state) {
        Some(stage) => stage,
        None if stream::is_closed(socket) => stage_of_closed(socket, tcp.peer)?,
        None => return Err(Undescribed::State(info.state)),
    };
    // The number of our FIN is behind the queue, and of the peer's as well.
    let fin = u32::from(stage.has_our_end());
    let send_end = SeqNr(repair::sequence(socket, Queue::Send)?) - fin;
    let send_queue = repair::queued(socket, Queue::Send)?.saturating_sub(fin);
    let unsent = repair::unsent(socket)?.saturating_sub(fin).min(send_queue);
    let receive_queue = repair::queued(socket, Queue::Receive)?;
    if let Some(bytes) = [send_queue, receive_queue].into_iter().find(|bytes| *bytes > QUEUE_MAX) {
        return Err(Undescribed::TooLong(bytes));
    }
    let mut queue = vec![0; send_queue as usize];
    if send_queue > 0 && repair::peek(socket, &mut queue)? != queue.len() {
        return Err(Undescribed::Queue);
    }
    let receive_end = SeqNr(repair::sequence(socket, Queue::Receive)?);
    let has_timestamps = info.options & SocketRecord::TIMESTAMPS != 0;
    let [wl1, send, max, receive, wup] = repair::window(socket)?;
    let record = SocketRecord {
        send_seq: send_end - send_queue,
        receive_seq: receive_end - receive_queue,
        send_queue,
        unsent,
        receive_queue,
        mss: repair::mss(socket)?,
        timestamp: if has_timestamps { repair::timestamp(socket)? } else { 0 },
        window: Window { wl1, send, max, receive, wup },
        scales: info.scales,
        stage,
        options: info.options,
    };
    let mut description = Description { record, queue };
    Brought::of(tcp).add_to(&mut description)?;
    Ok(description)
}

/// Where a connection stands that has ended on both sides, of which the guest may lack what is queued: there is no stage
/// for that, and the one before does as well. A peer that has forgotten it answers an end that it is told again by a reset.
fn stage_of_closed(socket: BorrowedFd<'_>, peer: Peer) -> Result<TcpStage, Undescribed> {
    match sockopt::socket_error(socket)? {
        Err(errno) if peer != Peer::Done => Err(Undescribed::Failed(errno)),
        _ => Ok(TcpStage::LastAck),
    }
}

/// All `bytes` of the queue toward the guest, which is the chosen one, where the kernel has no offset to read at.
/// Elsewhere it is read from its head by [`queued`], as much at a time as there is room for.
///
/// # Errors
/// It cannot be read as a whole: there is an urgent byte in it.
pub(super) fn whole_queue(
    state: &mut FlowState,
    bytes: u32,
) -> Result<Option<Vec<u8>>, Undescribed> {
    let FlowKind::Tcp(tcp) = &mut state.kind else { return Ok(None) };
    let socket = state.socket.as_fd();
    if tcp.peek != PeekOffset::Unsupported {
        stream::set_peek_offset(socket, 0)?;
        tcp.peek = PeekOffset::At(0);
        return Ok(None);
    }
    let mut queue = vec![0; bytes as usize];
    let whole = bytes == 0 || repair::peek(socket, &mut queue)? == queue.len();
    if whole { Ok(Some(queue)) } else { Err(Undescribed::Queue) }
}

/// The next bytes of the queue toward the guest, no more than `part`.
pub(super) fn queued(socket: BorrowedFd<'_>, peek: &mut PeekOffset, part: u32) -> Option<Vec<u8>> {
    let mut bytes = vec![0; part as usize];
    let read = repair::peek(socket, &mut bytes).ok()?;
    if let PeekOffset::At(offset) = peek {
        *offset += read as u32;
    }
    bytes.truncate(read);
    Some(bytes)
}
