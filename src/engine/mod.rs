//! The shell around the pure core: one epoll loop that owns the sockets and does what was decided.
//!
//! * [`Worker`] is the loop: it waits, reads the clock once a turn, and gives each event to whom it
//!   belongs. It has no globals; a second worker would be a second value.
//! * [`Engine`] is what frames and sockets meet in: flows, addressing, listening sockets. It borrows
//!   the link for each call, half by half, so that a lease on frames from the guest and one on room
//!   to the guest can exist at the same time.
//!
//! # A turn
//! Events of sockets only put flows on the ready list; frames from the guest are processed in
//! batches; then each ready flow does its work once; expired timers follow; at the end the link
//! publishes everything with one notification for each direction. Flows that could not finish for
//! lack of room in the guest's buffers wait on the starved list until the link reports room; nothing
//! asks again meanwhile. Sockets of flows are edge-triggered: what an event told is remembered by the flow.
//!
//! Nothing is allocated on the packet path: all lists are reserved when the engine is made.

mod addressing;
mod answer;
mod auto;
mod bypass;
mod crossing;
mod datagram_socket;
mod datagrams;
mod fill;
mod flows;
mod fragments;
mod icmp_error;
mod ingress;
mod listen;
mod namespace_link;
mod neighbours;
mod outbox;
mod relay;
mod socket_link;
mod splice;
mod state;
mod stats;
mod tcp;
mod token;
mod udp_run;
mod udp_to_guest;
mod wait;
mod worker;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use passt_frame::{FrameObserver, ToGuest};
use rustix::event::epoll::EventFlags;

pub use addressing::Addressing;
pub use bypass::BypassConfig;
pub use listen::ListenError;
pub use namespace_link::NamespaceLink;
pub use socket_link::{Protocols, SocketLink};
pub use stats::EventType;
pub use token::{LINK_BASE, Token};
pub use worker::{Clients, End, Link, Watch, Worker, monotonic_now};

use crate::flow::fwd::InterfaceName;
use crate::flow::splice::End as SpliceEnd;
use crate::flow::table::FlowId;
use crate::flow::tcp::TcpConfig;
use crate::responder::dhcpv6::Duid;
use crate::sys::batch::Batch;
use crate::time::Timestamp;
use crate::wire::DropReason;
use bypass::BypassParts;
use flows::{ADVERTISEMENT_TIMER, Flows, SCAN_TIMER, slot_of_timer};
use fragments::Fragments;
use listen::Listeners;
use neighbours::NeighbourWatch;
use outbox::Outbox;
use state::Protocol;

/// What does not change after start and is not about addresses.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel's limits for retransmission.
    pub tcp: TcpConfig,
    /// `SO_PEEK_OFF` works for TCP over IPv4.
    pub peek_offset_v4: bool,
    /// `SO_PEEK_OFF` works for TCP over IPv6.
    pub peek_offset_v6: bool,
    /// Interface that outbound IPv4 sockets are bound to.
    pub outbound_v4: Option<InterfaceName>,
    /// Interface that outbound IPv6 sockets are bound to.
    pub outbound_v6: Option<InterfaceName>,
    /// Listening sockets may be bound to addresses that do not exist yet.
    pub freebind: bool,
    /// Limit of open descriptors of the process.
    pub max_descriptors: u64,
}

impl Options {
    fn outbound_device(&self, destination: IpAddr) -> Option<&str> {
        let name = if destination.is_ipv4() { &self.outbound_v4 } else { &self.outbound_v6 };
        name.as_ref().map(|name| name.as_str())
    }
}

/// Flows, addressing and listening sockets of one worker.
pub struct Engine {
    addressing: Addressing,
    options: Options,
    flows: Flows,
    outbox: Outbox,
    fragments: Fragments,
    /// Small datagrams on their way to the guest.
    datagrams: Batch,
    listeners: Listeners,
    bypass: Option<Box<BypassParts>>,
    ready_listeners: VecDeque<u32>,
    waiting_listeners: usize,
    duid: Duid,
    neighbours: Option<Box<NeighbourWatch>>,
    /// The operator was told that echo sockets are not allowed.
    ping_refused: bool,
    epoll: Rc<OwnedFd>,
    now: Timestamp,
    /// When the next acknowledgement has waited for long enough.
    ack_at: Option<Timestamp>,
    /// This turn served a connection that moves bulk past the link.
    bulk: bool,
    expired: Expired,
}

/// Deadlines that have expired so far.
#[derive(Clone, Copy, Debug, Default)]
struct Expired {
    all: u64,
    /// Those of TCP connections.
    tcp: u64,
}

impl Engine {
    /// An engine without flows that watches its sockets with `epoll`. `secret` keys the flow index and
    /// sequence numbers; `duid` identifies our DHCPv6 server.
    pub fn new(
        epoll: Rc<OwnedFd>,
        addressing: Addressing,
        options: Options,
        secret: [u8; 16],
        duid: Duid,
        now: Timestamp,
    ) -> Self {
        Self {
            flows: Flows::new(epoll.clone(), secret, now, options.max_descriptors),
            addressing,
            options,
            outbox: Outbox::default(),
            fragments: Fragments::default(),
            datagrams: Batch::default(),
            listeners: Listeners::default(),
            bypass: None,
            ready_listeners: VecDeque::new(),
            waiting_listeners: 0,
            duid,
            neighbours: None,
            ping_refused: false,
            epoll,
            now,
            ack_at: None,
            bulk: false,
            expired: Expired::default(),
        }
    }

    /// Starts a turn: everything in it happens at `now`.
    pub fn begin_turn(&mut self, now: Timestamp) {
        self.now = now;
        self.bulk = false;
    }

    /// Whether the last turn served a connection that moves bulk past the link.
    fn moved_bulk(&self) -> bool {
        self.bulk
    }

    /// An event of a flow's socket.
    pub fn on_flow_event(&mut self, id: FlowId, events: EventFlags) {
        let Some(flow) = self.flows.table.get_mut(id) else { return };
        match &mut flow.state.protocol {
            Protocol::Tcp(_) => self.tcp_event(id, events),
            Protocol::Udp(state) | Protocol::Ping(state) => {
                state.failed |= events.contains(EventFlags::ERR);
                self.flows.mark_ready(id);
            }
            Protocol::Splice(_) => self.splice_event(id, SpliceEnd::Initiator, events),
            Protocol::Relay(_) => self.relay_event(id, SpliceEnd::Initiator),
        }
    }

    /// An event of the second socket of a flow.
    pub fn on_target_event(&mut self, id: FlowId, events: EventFlags) {
        match self.flows.table.get(id).map(|flow| &flow.state.protocol) {
            Some(Protocol::Splice(_)) => self.splice_event(id, SpliceEnd::Target, events),
            Some(Protocol::Relay(_)) => self.relay_event(id, SpliceEnd::Target),
            _ => {}
        }
    }

    /// An event of a listening socket.
    pub fn on_listener_event(&mut self, index: u32) {
        self.mark_listener(index);
    }

    /// The link can reach the guest now.
    pub fn on_link_up(&mut self, out: &mut dyn ToGuest) {
        self.greet(out);
        self.on_link_room();
    }

    /// The link has room toward the guest again.
    pub fn on_link_room(&mut self) {
        let now = self.now;
        self.flows.feed_starved(|state| {
            if let Protocol::Tcp(tcp) = &mut state.protocol {
                tcp.conn.on_port_room(now);
            }
        });
        self.wake_listeners();
    }

    /// Does the work of this turn: ready listening sockets, ready flows, expired timers.
    pub fn work(&mut self, out: &mut dyn ToGuest) {
        for _ in 0..self.ready_listeners.len() {
            let Some(index) = self.ready_listeners.pop_front() else { break };
            self.serve_listener(out, index);
        }
        self.flows.due_acks(self.now);
        let before = self.flows.table.len();
        for _ in 0..self.flows.ready_count() {
            let Some(id) = self.flows.next_ready() else { break };
            self.serve(out, id);
        }
        while let Some(key) = self.flows.timers.pop_expired(self.now) {
            self.on_timer(out, key);
        }
        if self.flows.table.len() < before {
            self.wake_listeners();
        }
        self.ack_at = self.flows.due_acks(self.now);
    }

    fn serve(&mut self, out: &mut dyn ToGuest, id: FlowId) {
        match self.flows.table.get(id).map(|flow| &flow.state.protocol) {
            Some(Protocol::Tcp(_)) => self.drive_tcp(out, id),
            Some(Protocol::Udp(_) | Protocol::Ping(_)) => self.serve_datagrams(out, id),
            Some(Protocol::Splice(_)) => self.drive_splice(id),
            Some(Protocol::Relay(_)) => self.serve_relay(id),
            None => {}
        }
    }

    fn on_timer(&mut self, out: &mut dyn ToGuest, key: u32) {
        self.expired.all += 1;
        if key == ADVERTISEMENT_TIMER {
            return self.advertise(out);
        }
        if key == SCAN_TIMER {
            return self.scan_ports();
        }
        let Some(id) = self.flows.table.id_of(slot_of_timer(key)) else { return };
        let Some(flow) = self.flows.table.get_mut(id) else { return };
        flow.state.scheduled = None;
        match flow.state.protocol {
            Protocol::Tcp(_) => {
                self.expired.tcp += 1;
                self.tcp_timer(id);
            }
            Protocol::Udp(_) | Protocol::Ping(_) | Protocol::Relay(_) => self.datagram_timer(id),
            Protocol::Splice(_) => {}
        }
    }

    /// Whether work is left that no event will announce.
    pub fn has_work(&self) -> bool {
        self.flows.ready_count() > 0 || !self.ready_listeners.is_empty()
    }

    /// When the next timer is due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        [self.flows.timers.next_deadline(), self.ack_at].into_iter().flatten().min()
    }

    /// Whether the limit of descriptors leaves some for flows.
    pub fn has_descriptors(&self) -> bool {
        self.flows.has_descriptors(self.listeners.len())
    }

    /// Number of flows.
    pub fn flow_count(&self) -> usize {
        self.flows.table.len()
    }

    /// Shows each frame to the guest from now on to `observer`.
    pub fn observe(&mut self, observer: Box<dyn FrameObserver>) {
        self.outbox.list.observe(observer);
    }

    /// Drops so far, by name.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        self.outbox.drops.iter()
    }
}
