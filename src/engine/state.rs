//! What the engine keeps for each flow besides its sides: the socket, the protocol's state, and
//! which work list it waits on.

mod backlog;
pub(super) mod eviction;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_frame::{Errno, Pipe};
use rustix::net::sockopt;

pub(crate) use backlog::{Backlog, KeptBytes};
use eviction::EvictionNode;

use super::datagram_socket::Strangers;
use super::listener_id::ListenerId;
use super::marks::SocketMarks;
use super::net::Epoch;
use super::pace::Pace;
use crate::flow::side::Side;
use crate::flow::splice::{End, Splice};
use crate::flow::table::FlowId;
use crate::flow::tcp::Conn;
use crate::limits::TALKS_ON;
use crate::sys::{errno_text, stream};
use crate::time::Timestamp;
use crate::wire::icmp_translation::IcmpError;
use crate::wire::ip::L4Protocol;
use crate::wire::{DropReason, SeqNr};

/// State of a flow.
pub(crate) struct FlowState {
    /// The host socket.
    pub(crate) socket: OwnedFd,
    /// Already on the list of flows to serve in this turn.
    pub(crate) ready: bool,
    /// Already on the list of flows that wait for room in the guest's buffers.
    pub(crate) starved: bool,
    /// Nothing is done with it: it is on its way to another program.
    pub(crate) frozen: bool,
    /// The guest's queue that its last frame came from: frames to it go there.
    pub(crate) queue: u8,
    /// When the timer wheel looks at the flow; may be earlier than what the protocol wants.
    pub(crate) scheduled: Option<Timestamp>,
    /// Where the flow stands among those that may have to give way.
    pub(crate) eviction: EvictionNode,
    /// The view of the network under which the flow goes where it goes.
    pub(crate) epoch: Epoch,
    /// When the flow began here.
    pub(crate) began: Timestamp,
    /// What it is a flow of, with what that keeps.
    pub(crate) kind: FlowKind,
}

impl FlowState {
    /// State of a flow that begins `now`.
    pub(crate) fn new(socket: OwnedFd, epoch: Epoch, now: Timestamp, kind: FlowKind) -> Self {
        Self {
            socket,
            ready: false,
            starved: false,
            frozen: false,
            queue: 0,
            scheduled: None,
            eviction: EvictionNode::default(),
            epoch,
            began: now,
            kind,
        }
    }

    /// The socket.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket of an end of a flow with two.
    pub(crate) fn end(&self, end: End) -> BorrowedFd<'_> {
        match (end, self.kind.second_socket()) {
            (End::Target, Some(target)) => target,
            _ => self.fd(),
        }
    }

    /// Makes closing the sockets of a connection send a reset, so that its peers do not take the close for the end of the
    /// stream. Returns `reason`, for which it is given up.
    pub(crate) fn give_up(&self, reason: DropReason) -> DropReason {
        if self.is(L4Protocol::Tcp) {
            let _ = stream::reset_on_close(self.fd());
            let _ = self.kind.second_socket().map(stream::reset_on_close);
        }
        reason
    }

    /// Whether the flow's protocol is `protocol`; echo flows differ by family in their addresses.
    pub(crate) fn is(&self, protocol: L4Protocol) -> bool {
        match self.kind {
            FlowKind::Tcp(_) | FlowKind::Splice(_) => protocol == L4Protocol::Tcp,
            FlowKind::Udp(_) | FlowKind::Relay(_) => protocol == L4Protocol::Udp,
            FlowKind::Echo(_) => matches!(protocol, L4Protocol::Icmp | L4Protocol::Icmpv6),
        }
    }

    /// The L4 protocol of the flow.
    pub(crate) fn l4(&self, sides: &[Side; 2]) -> L4Protocol {
        match self.kind {
            FlowKind::Tcp(_) | FlowKind::Splice(_) => L4Protocol::Tcp,
            FlowKind::Udp(_) | FlowKind::Relay(_) => L4Protocol::Udp,
            FlowKind::Echo(_) if sides[0].endpoint.ip().is_ipv4() => L4Protocol::Icmp,
            FlowKind::Echo(_) => L4Protocol::Icmpv6,
        }
    }
}

/// Kinds of flows, with what each keeps.
pub(crate) enum FlowKind {
    /// TCP.
    Tcp(TcpState),
    /// UDP.
    Udp(DatagramState),
    /// ICMP echo.
    Echo(DatagramState),
    /// TCP from socket to socket.
    Splice(SpliceState),
    /// UDP from socket to socket.
    Relay(RelayState),
}

impl FlowKind {
    /// The socket that we connected for the one that was accepted, if the flow has two.
    pub(crate) fn second_socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Splice(splice) => Some(splice.target.as_fd()),
            Self::Relay(relay) => Some(relay.target.as_fd()),
            Self::Tcp(_) | Self::Udp(_) | Self::Echo(_) => None,
        }
    }

    /// What a flow of datagrams keeps, whatever they are.
    pub(crate) fn datagrams(&self) -> Option<&DatagramState> {
        match self {
            Self::Udp(state) | Self::Echo(state) => Some(state),
            Self::Relay(relay) => Some(&relay.datagrams),
            Self::Tcp(_) | Self::Splice(_) => None,
        }
    }
}

/// A TCP connection that passes the link by.
pub(crate) struct SpliceState {
    /// The machine.
    pub(crate) machine: Splice,
    /// The socket that we connected.
    pub(crate) target: OwnedFd,
    /// Whether the two sockets have the Nagle algorithm.
    pub(crate) nagle: [Nagle; 2],
    /// The pipe of each way, while it needs one.
    pub(crate) pipes: [Option<Pipe>; 2],
    /// It waits for a place in its server's queue.
    pub(crate) queueing: Option<Queueing>,
    /// What the host said when the connection failed, for the log.
    pub(crate) failure: Option<Errno>,
}

/// A connection for which its server's queue has no place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queueing {
    /// The listening socket that accepts nobody meanwhile.
    pub(crate) listener: ListenerId,
    /// Where the server is.
    pub(crate) to: SocketAddr,
    /// Since when.
    pub(crate) since: Timestamp,
    /// It waits no longer that way: the kernel retries, and the listening socket accepts others again.
    pub(crate) gave_up: bool,
}

/// A UDP pseudo-flow that passes the link by.
pub(crate) struct RelayState {
    /// What each datagram flow keeps.
    pub(crate) datagrams: DatagramState,
    /// The socket that we connected.
    pub(crate) target: OwnedFd,
    /// Whether the initiator's socket and the target's may have datagrams.
    pub(crate) readable: [bool; 2],
    /// Until when they may have those of strangers.
    pub(crate) strangers: [Strangers; 2],
}

/// A TCP connection.
pub(crate) struct TcpState {
    /// The machine.
    pub(crate) conn: Conn,
    /// Where the socket peeks.
    pub(crate) peek: PeekOffset,
    /// Whether the socket has the Nagle algorithm.
    pub(crate) nagle: Nagle,
    /// Bytes that the last read got: how much room to reserve for the next.
    pub(crate) last_read: u32,
    /// What the guest had been handed at the last timeout, as the link counts.
    pub(crate) handed: u64,
    /// The handshake of the host socket has not finished.
    pub(crate) connecting: bool,
    /// ICMP errors are queued until then: the guest looks for routers.
    pub(crate) probes: bool,
    /// Why the host could not make the connection, if the guest is to be told: an ICMP error, and whose.
    pub(crate) unreachable: Option<(IcmpError, Option<IpAddr>)>,
    /// What the host said when the connection failed, for the log.
    pub(crate) failure: Option<Errno>,
    /// A byte that the peer calls urgent may wait in the socket: a short read proves nothing.
    pub(crate) urgent: bool,
    /// The flow is on the list of half-open flows.
    pub(crate) half_open: bool,
    /// The flow counts among those of its listening socket of which the guest has to show that it knows them.
    pub(crate) admission: Option<Admission>,
    /// What the guest can expect of the peer, if it moves or has moved.
    pub(crate) peer: Peer,
    /// What is to be written before anything else.
    pub(crate) backlog: Option<Box<Backlog>>,
    /// The guest keeps it alive.
    pub(crate) keepalive: Option<Keepalive>,
}

impl TcpState {
    /// State of a new connection.
    pub(crate) fn new(conn: Conn, peek: PeekOffset, nagle: Nagle) -> Self {
        Self {
            conn,
            peek,
            nagle,
            last_read: 0,
            handed: 0,
            connecting: false,
            probes: false,
            unreachable: None,
            failure: None,
            urgent: false,
            half_open: false,
            admission: None,
            peer: Peer::There,
            backlog: None,
            keepalive: None,
        }
    }
}

/// What the guest has shown of its keepalives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keepalive {
    /// When the last probe came.
    pub(crate) last: Timestamp,
    /// Silence after which the host's socket asks, in seconds; what the host's administrator has chosen at first
    /// (`net.ipv4.tcp_keepalive_time`), and never more.
    pub(crate) idle_s: u16,
}

/// Text that follows "closed" in the log: the error, if the connection has failed, or "with a reset".
pub(crate) fn how_closed(reset: bool, failure: Option<Errno>) -> String {
    match failure {
        Some(errno) => format!(": {}", errno_text(errno)),
        None if reset => " with a reset".to_owned(),
        None => String::new(),
    }
}

/// What there is to expect of the peer of a connection that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// What its socket says of it.
    There,
    /// Nothing: it has got all of the guest's stream, and all of its own had come, when the connection came from another
    /// program. It may have forgotten the connection; the guest gets what is queued, whatever the socket says.
    Done,
    /// Nothing: the connection has failed. Its socket has said so, by this error, and does not say it again.
    Lost(Errno),
}

/// Whether a socket still has the Nagle algorithm (RFC 9293, section 3.7.4): bytes that do not fill a segment wait while
/// others are on their way. It does no harm to the first write, when none are, and many connections ask only one question;
/// so it is turned off at the second. Accepted sockets inherit from the listening socket that it is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nagle {
    /// It is on, and nothing was written.
    Unwritten,
    /// It is on, and something was written.
    Written,
    /// It is off.
    Off,
}

impl Nagle {
    /// To be called before each write.
    pub(crate) fn before_write(&mut self, socket: BorrowedFd<'_>) {
        *self = match self {
            Self::Unwritten => Self::Written,
            Self::Written => {
                // A connection that has failed meanwhile says so when it is written to.
                let _ = sockopt::set_tcp_nodelay(socket, true);
                Self::Off
            }
            Self::Off => Self::Off,
        };
    }
}

/// An accepted connection of which the guest's server may know nothing yet: a listening socket has a limited
/// number of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission {
    /// The listening socket.
    pub(crate) listener: ListenerId,
    /// Once the handshake is done: when the connection stops to count at the latest, and how far both streams
    /// were.
    pub(crate) since: Option<(Timestamp, [SeqNr; 2])>,
}

/// Where `MSG_PEEK` starts on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeekOffset {
    /// The kernel has no peek offset for TCP (before 6.9): what was sent already is read again
    /// and thrown away.
    Unsupported,
    /// Not set yet.
    Unset,
    /// This many bytes after the head of the queue.
    At(u32),
}

/// How much of what is at the head of a socket's queue the guest has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// Bytes of the payload of whole datagrams.
    pub(crate) bytes: u32,
    /// Bytes of the next datagram, its L4 header included, that went in fragments.
    pub(crate) cut: u32,
    /// The IP identification of that datagram.
    pub(crate) identification: u32,
}

impl PeekOffset {
    /// The same place, after `bytes` bytes have left the head of the queue.
    pub(crate) fn moved(self, bytes: u32) -> Self {
        match self {
            Self::At(offset) => Self::At(offset.saturating_sub(bytes)),
            other => other,
        }
    }
}

/// What becomes of a broadcast that the kernel refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broadcast {
    /// It is refused.
    Refused,
    /// The socket may be let send it (`SO_BROADCAST`).
    Possible,
    /// The socket was let.
    Allowed,
}

/// A UDP or echo pseudo-flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DatagramState {
    /// Last datagram in either direction (UDP) or last request (echo).
    pub(crate) active: Timestamp,
    /// Datagrams from the side that started the flow, and from the other; saturating.
    pub(crate) counts: [u8; 2],
    /// Bytes of their payload that went to the other side; whole messages of ICMP.
    pub(crate) bytes: [u64; 2],
    /// Whom the guest's datagrams go to at present, where the socket is connected to nobody.
    pub(crate) to: Option<SocketAddr>,
    /// They have gone to somebody else before.
    pub(crate) to_others: bool,
    /// How often the guest has gone on with the same peer, of [`TALKS_ON`] times.
    pub(crate) streak: u8,
    /// Datagrams that this peer has sent, and nobody else meanwhile, up to as many.
    pub(crate) heard: u8,
    /// The flow with anybody that this one was taken out of: it lives on with this one.
    pub(crate) out_of: Option<FlowId>,
    /// An echo flow: each request has one answer, and the next one needs nothing of the flow. Its counts begin anew
    /// whenever nothing is outstanding.
    pub(crate) echo: bool,
    /// Who answers an echo request does so with an address of its own: the peer is a group, or all of a network.
    pub(crate) to_many: bool,
    /// Whom an address stands for, and who answers from any of its ports: a TFTP server. `to` is where it is written to.
    pub(crate) any_port: bool,
    /// How many flows live that were taken out of this one, and have its port.
    pub(crate) taken_out: u32,
    /// All that was sent were questions, by the ports that they went to: each has one answer, and then it is over.
    pub(crate) questions: bool,
    /// What the socket writes into IP headers.
    pub(crate) marks: SocketMarks,
    /// Whether the socket may still be let send broadcasts: the kernel alone knows which addresses stand for all of a
    /// network, and says so by refusing.
    broadcast: Broadcast,
    /// Bytes of the largest datagram from the guest: an echo reply is as long as its request, and
    /// ping sockets do not tell the length of what waits.
    pub(crate) largest: u32,
    /// The kernel refused to send several datagrams of this flow with one call.
    pub(crate) one_by_one: bool,
    /// The socket may have errors queued.
    pub(crate) failed: bool,
    /// The last one that was logged: a guest that goes on sending gets the same one for each datagram.
    pub(crate) logged: Option<Errno>,
    /// The last datagram to the guest was large, or a burst.
    pub(crate) large: bool,
    /// Small datagrams to the guest that may wait: twice as many as the last time.
    pub(crate) expected: u8,
    /// What of the head of the socket's queue the guest has got already.
    pub(crate) delivered: Delivered,
    /// Until when the socket may have datagrams of strangers.
    pub(crate) strangers: Strangers,
    /// How fast datagrams come for the guest.
    pub(crate) pace: Pace,
}

impl DatagramState {
    /// A flow that starts now.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            active: now,
            counts: [0; 2],
            bytes: [0; 2],
            to: None,
            streak: 0,
            heard: 0,
            out_of: None,
            echo: false,
            to_many: false,
            to_others: false,
            any_port: false,
            taken_out: 0,
            questions: false,
            marks: SocketMarks::new(),
            broadcast: Broadcast::Refused,
            largest: 0,
            one_by_one: false,
            failed: false,
            logged: None,
            // One answer, as of a name server: one call takes it and sees that there is no other.
            large: false,
            expected: 2,
            delivered: Delivered::default(),
            strangers: Strangers::new(now),
            pace: Pace::default(),
        }
    }

    /// Whether the socket sends broadcasts if it is told to.
    pub(crate) fn set_broadcast(&mut self, broadcast: Broadcast) {
        self.broadcast = broadcast;
    }

    /// Whether the socket is to be let send broadcasts, now that something was refused. Once.
    pub(crate) fn may_broadcast(&mut self) -> bool {
        let may = self.broadcast == Broadcast::Possible;
        if may {
            self.broadcast = Broadcast::Allowed;
        }
        may
    }

    /// Whether the socket has sent broadcasts, which come back to this host.
    pub(crate) fn has_broadcast(&self) -> bool {
        self.broadcast == Broadcast::Allowed
    }

    /// Notes datagrams from side `side`.
    pub(crate) fn touch(&mut self, now: Timestamp, side: usize, datagrams: usize) {
        self.active = now;
        self.count(side, datagrams);
    }

    /// Notes datagrams to the guest, `alone` if all are of whom it talks to: with others among them, however many,
    /// counting begins anew.
    pub(crate) fn hear(&mut self, datagrams: usize, alone: bool) {
        let heard = if alone { usize::from(self.heard) + datagrams } else { 0 };
        self.heard = heard.min(TALKS_ON.into()) as u8;
    }

    /// Counts datagrams from side `side`.
    pub(crate) fn count(&mut self, side: usize, datagrams: usize) {
        let datagrams = u8::try_from(datagrams).unwrap_or(u8::MAX);
        self.counts[side] = self.counts[side].saturating_add(datagrams);
        if self.echo && self.is_answered() {
            self.counts = [1; 2];
        }
    }

    /// Whether both sides talk, and one of them more than once: a stream of datagrams. Questions are none, unless
    /// there are more than can be counted. Echo is one while the next reply is awaited.
    pub(crate) fn is_stream(&self) -> bool {
        if self.echo {
            return self.counts[1] > 0 && !self.is_answered();
        }
        let uncounted = self.counts[0] == u8::MAX;
        self.counts[1] > 0 && self.counts.iter().any(|&n| n > 1) && (!self.questions || uncounted)
    }

    /// Whether nothing is left to wait for, by what is known.
    pub(crate) fn is_answered(&self) -> bool {
        let [asked, answered] = self.counts;
        answered > 0 && (!(self.questions || self.echo) || answered >= asked)
    }
}
