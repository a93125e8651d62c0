//! Sockets at the target, put together in repair: no peer hears of it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_frame::Errno;
use rustix::net::{self as rnet, sockopt};

use crate::engine::core::Core;
use crate::flow::migration::{Record, SocketRecord, TcpStage};
use crate::flow::side::{Pif, Side, Sides};
use crate::sys::repair::{self, NegotiatedOption, Queue, Room};
use crate::sys::socket::{self, Transport};
use crate::sys::stream;

/// Where a queue is refilled with less at a time before it counts as full.
const SMALLEST_PART: usize = 1024;

/// A connection that comes.
pub(in crate::engine) struct Coming {
    /// As the guest knows it; `None` if that is no connection.
    pub(crate) record: Option<Record>,
    /// Its socket: frozen, and in repair once the helper has begun that.
    pub(crate) socket: Option<OwnedFd>,
    /// As the peer knows it; `None` until that has come, or if there is nothing to take over.
    pub(crate) stage: Option<TcpStage>,
    /// Bytes that are queued in it toward the peer, and toward the guest.
    pub(crate) queues: [u32; 2],
    /// What was sent to the peer and not acknowledged is kept until its repair ends.
    pub(crate) holds: bool,
    sent: Vec<u8>,
    /// What was not sent to the peer yet.
    pub(crate) unsent: Vec<u8>,
    /// All of it is as it was at the source.
    pub(crate) whole: bool,
    /// Nothing is left to be done before its repair ends.
    settled: bool,
}

impl Coming {
    /// A connection of which the record has come, beside `others`.
    pub(crate) fn new(core: &Core, record: Option<Record>, others: usize) -> Self {
        let room = core.flows.check_room(core.listeners.len() + others);
        let socket = match (&record, room) {
            (Some(record), Ok(())) => create(core, record),
            (None, _) => Err(Errno::INVAL),
            (_, Err(_)) => Err(Errno::MFILE),
        };
        if let Err(errno) = &socket {
            log::debug!("connection that migrates: {}: socket: {errno}", name(record.as_ref()));
        }
        Self {
            record,
            socket: socket.ok(),
            stage: None,
            queues: [0; 2],
            holds: false,
            sent: Vec::new(),
            unsent: Vec::new(),
            whole: false,
            settled: false,
        }
    }

    /// Its socket is to be as `record` says.
    pub(crate) fn begin(&mut self, core: &Core, record: &SocketRecord) {
        self.stage = Some(record.stage);
        self.queues = [record.send_queue, record.receive_queue];
        self.whole = false;
        let Some(socket) = &self.socket else { return };
        let Some(of_guest) = &self.record else { return };
        let Some(host) = host(of_guest) else { return };
        let scope_id = core.net.network.scope_id();
        let (ours, peer) = (host.ours.with_scope(scope_id), host.endpoint.with_scope(scope_id));
        let begun = begin(socket.as_fd(), ours, peer, record);
        let room = Room {
            receive: record.receive_queue.max(record.window.receive),
            send: record.send_queue,
            send_buffer: of_guest.send_buffer,
        };
        repair::make_room(socket.as_fd(), room);
        self.note("begin", begun);
    }

    /// More of what is queued toward the peer or the guest.
    pub(crate) fn refill(&mut self, queue: Queue, bytes: &[u8]) {
        let Some(socket) = self.socket.as_ref().filter(|_| self.whole) else { return };
        let filled = refill(socket.as_fd(), queue, bytes);
        self.note(
            if queue == Queue::Send { "queue to the peer" } else { "queue to the guest" },
            filled,
        );
    }

    /// More of what was sent to the peer and not acknowledged.
    pub(crate) fn add_sent(&mut self, bytes: &[u8]) {
        match self.holds {
            true if self.whole => self.sent.extend_from_slice(bytes),
            true => {}
            false => self.refill(Queue::Send, bytes),
        }
    }

    /// Its queues are full: the rest.
    pub(crate) fn complete(&mut self, record: &SocketRecord) {
        let Some(socket) = self.socket.as_ref().filter(|_| self.whole) else { return };
        let completed = complete(socket.as_fd(), record);
        self.note("complete", completed);
    }

    /// The guest lives here, and its repair ends next: adds what the kernel counts as sent, and sends again on its own, in
    /// repair or not.
    pub(crate) fn settle(&mut self) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let sent = std::mem::take(&mut self.sent);
        if !sent.is_empty() {
            self.refill(Queue::Send, &sent);
        }
        if self.stage == Some(TcpStage::FinWait2)
            && let Some(socket) = self.socket.as_ref().filter(|_| self.whole)
        {
            let ended = end(socket.as_fd());
            self.note("end", ended);
        }
    }

    fn note(&mut self, what: &str, done: Result<(), Errno>) {
        self.whole = done.is_ok();
        if let Err(errno) = done {
            let name = name(self.record.as_ref());
            log::debug!("connection that migrates: {name}: {what}: {errno}");
        }
    }
}

fn host(record: &Record) -> Option<&Side> {
    record.sides.iter().find(|side| side.pif == Pif::Host)
}

/// A connection in words, for the log.
fn name(record: Option<&Record>) -> String {
    record.map_or_else(String::new, |record| Sides(&record.sides).to_string())
}

fn create(core: &Core, record: &Record) -> Result<OwnedFd, Errno> {
    let host = host(record).ok_or(Errno::INVAL)?;
    let socket = socket::create(Transport::Tcp, host.endpoint.ip())?;
    stream::keep_urgent_inline(socket.as_fd())?;
    stream::lift_unsent_limit(socket.as_fd());
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(device) = core.settings.outbound_device(host.endpoint.ip())
        && record.sides[0].pif == Pif::Tap
    {
        socket::bind_to_device(socket.as_fd(), device)?;
    }
    Ok(socket)
}

/// Binds and connects, which in repair nobody hears of.
fn begin(
    socket: BorrowedFd<'_>,
    ours: SocketAddr,
    peer: SocketAddr,
    record: &SocketRecord,
) -> Result<(), Errno> {
    // The address may come to this host with the guest. The repair itself allows any port.
    if ours.is_ipv4() {
        sockopt::set_ip_freebind(socket, true)?;
    } else {
        sockopt::set_ipv6_freebind(socket, true)?;
    }
    rnet::bind(socket, &ours)?;
    let has = |option| record.options & option != 0;
    if has(SocketRecord::TIMESTAMPS) {
        repair::set_timestamp(socket, record.timestamp)?;
    }
    repair::set_sequence(socket, Queue::Send, record.send_seq.0)?;
    repair::set_sequence(socket, Queue::Receive, record.receive_seq.0)?;
    repair::expect_mss(socket, record.mss)?;
    // From the first moment on: what is acknowledged here is lost if the guest goes on at the source. Where the kernel does
    // not allow it, what comes before the queues are filled is noticed in the end.
    if let Err(errno) = repair::freeze_toward(socket, peer) {
        log::debug!("connection that migrates: {peer}: cannot be frozen: {errno}");
    }
    rnet::connect(socket, &peer)?;
    repair::set_option(socket, NegotiatedOption::Mss(record.mss))?;
    if has(SocketRecord::SCALES) {
        repair::set_option(socket, NegotiatedOption::Scales(record.scales))?;
    }
    if has(SocketRecord::SACK) {
        repair::set_option(socket, NegotiatedOption::Sack)?;
    }
    if has(SocketRecord::TIMESTAMPS) {
        repair::set_option(socket, NegotiatedOption::Timestamps)?;
    }
    Ok(())
}

/// Appends `bytes` to a queue, in smaller parts where it does not take larger ones.
fn refill(socket: BorrowedFd<'_>, queue: Queue, mut bytes: &[u8]) -> Result<(), Errno> {
    repair::select(socket, queue)?;
    let mut most = bytes.len();
    while !bytes.is_empty() {
        match repair::refill(socket, &bytes[..most.min(bytes.len())]) {
            Ok(taken) => bytes = &bytes[taken..],
            Err(Errno::NOMEM | Errno::NOBUFS | Errno::AGAIN) if most > SMALLEST_PART => most /= 2,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// What follows the queues: the windows. `BUSY` if the peer has put something between what was queued.
fn complete(socket: BorrowedFd<'_>, record: &SocketRecord) -> Result<(), Errno> {
    let end = (record.receive_seq + record.receive_queue).0;
    if repair::sequence(socket, Queue::Receive)? != end {
        return Err(Errno::BUSY);
    }
    let window = record.window;
    repair::set_window(socket, [window.wl1, window.send, window.max, window.receive, window.wup])
}

/// Ends the stream to the peer, which has acknowledged that already.
fn end(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    repair::select(socket, Queue::Send)?;
    rnet::shutdown(socket, rnet::Shutdown::Write)
}
