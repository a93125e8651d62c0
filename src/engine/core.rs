//! What all protocols work with: the flows, the listening sockets, what is known of addresses, and the way
//! to the guest. Functions take this, or the part of it that they use; nothing in it calls a protocol.

mod shortage;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use super::event_counters::EventCounters;
use super::events::{Event, Events};
use super::flows::Flows;
use super::groups::Groups;
use super::listeners::Listeners;
use super::looks::Looks;
use super::net::Net;
use super::outbox::Outbox;
use super::quantum::Quantum;
use super::state::FlowKind;
use crate::flow::fwd::InterfaceName;
use crate::flow::side::{Endpoint, Pif};
use crate::flow::table::FlowId;
use crate::flow::tcp::{InitialNumbers, TcpConfig};
use crate::limits::{ICMP_ERROR_BURST, ICMP_ERROR_PAUSE};
use crate::time::{Timestamp, TokenBucket};
use crate::wire::DropReason;
use shortage::{Most, Shortages};

/// What does not change after start and is not about addresses.
#[derive(Clone, Debug)]
pub struct Settings {
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
    /// The host has no network yet, and is followed: listening sockets may wait for their addresses and interfaces.
    pub late_addresses: bool,
    /// Limit of open descriptors of the process.
    pub max_descriptors: u64,
    /// How long UDP flows may be silent.
    pub udp: UdpTimeouts,
    /// First and last of the ports that the host's kernel gives to sockets that do not choose.
    pub ephemeral: (u16, u16),
}

/// Silence after which UDP flows end: what the kernel's connection tracking allows, so that a host that is set up for
/// calls or tunnels that are silent for long has them through the guest, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpTimeouts {
    /// One-way, or a question and its answer (`net.netfilter.nf_conntrack_udp_timeout`).
    pub once: Duration,
    /// Both sides talk (`net.netfilter.nf_conntrack_udp_timeout_stream`).
    pub stream: Duration,
}

impl Default for UdpTimeouts {
    fn default() -> Self {
        Self { once: Duration::from_secs(30), stream: Duration::from_secs(120) }
    }
}

/// A kernel without peek offsets, and otherwise what Linux has where nobody has set anything.
impl Default for Settings {
    fn default() -> Self {
        Self {
            tcp: TcpConfig::default(),
            peek_offset_v4: false,
            peek_offset_v6: false,
            outbound_v4: None,
            outbound_v6: None,
            freebind: false,
            late_addresses: false,
            max_descriptors: 1024,
            udp: UdpTimeouts::default(),
            ephemeral: (32768, 60999),
        }
    }
}

impl Settings {
    /// The interface that a socket to `destination` is bound to, if any.
    pub(super) fn outbound_device(&self, destination: IpAddr) -> Option<&str> {
        let name = if destination.is_ipv4() { &self.outbound_v4 } else { &self.outbound_v6 };
        name.as_ref().map(|name| name.as_str())
    }
}

/// The parts that protocols share.
pub(super) struct Core {
    /// When this turn began.
    pub(crate) now: Timestamp,
    /// The guest's queue from which the frames come that are looked at.
    pub(crate) queue: u8,
    pub(crate) flows: Flows,
    pub(crate) looks: Looks,
    pub(crate) quantum: Quantum,
    pub(crate) listeners: Listeners,
    /// Ports that cannot be listened on yet, for want of an address or an interface.
    pub(crate) awaited: usize,
    pub(crate) net: Net,
    /// The guest's addresses that ports led to in the last turn.
    pub(crate) led_to: [Option<IpAddr>; 3],
    pub(crate) settings: Settings,
    pub(crate) outbox: Outbox,
    pub(crate) initial_numbers: InitialNumbers,
    /// ICMP errors that the guest may be told of.
    pub(crate) icmp_errors: TokenBucket,
    /// What the loop was busy with.
    pub(crate) counters: EventCounters,
    /// Groups that the guest has joined.
    pub(crate) groups: Groups,
    /// What happens, for those who follow it.
    pub(crate) events: Rc<Events>,
    /// Limits that were met, and told of.
    shortages: Shortages,
    /// When the engine was made.
    pub(crate) began: Timestamp,
}

impl Core {
    /// Nothing but `net`.
    pub(crate) fn new(
        epoll: Rc<OwnedFd>,
        net: Net,
        settings: Settings,
        secret: [u8; 16],
        now: Timestamp,
    ) -> Self {
        Self {
            now,
            queue: 0,
            flows: Flows::new(
                epoll.clone(),
                secret,
                now,
                (settings.max_descriptors, settings.ephemeral),
            ),
            looks: Looks::default(),
            quantum: Quantum::default(),
            listeners: Listeners::new(epoll),
            events: net.events.clone(),
            shortages: Shortages::default(),
            began: now,
            awaited: 0,
            led_to: net.led_to(),
            net,
            settings,
            outbox: Outbox::default(),
            initial_numbers: InitialNumbers::default(),
            icmp_errors: TokenBucket::new(ICMP_ERROR_BURST, ICMP_ERROR_PAUSE),
            counters: EventCounters::default(),
            groups: Groups::default(),
        }
    }

    /// The guest has sent a frame of a flow: what goes to it for this flow goes to the same queue.
    pub(crate) fn note_queue(&mut self, id: FlowId) {
        self.flows.note_queue(id, self.queue);
    }

    /// Ends a flow; a connection is reset on both sides, in the turn that follows.
    pub(crate) fn end_flow(&mut self, id: FlowId) {
        match self.flows.table.get_mut(id).map(|flow| &mut flow.state.kind) {
            Some(FlowKind::Tcp(tcp)) => tcp.conn.abort(),
            Some(FlowKind::Splice(splice)) => splice.machine.on_failure(),
            Some(FlowKind::Udp(_) | FlowKind::Echo(_) | FlowKind::Relay(_)) => {
                self.flows.remove(id);
            }
            None => {}
        }
        self.flows.mark_ready(id);
    }

    /// Flows that there may be beside all that listens, those that are there included.
    pub(crate) fn most_flows(&self) -> usize {
        self.flows.most_flows(self.listeners.len())
    }

    /// Whether another flow may open a socket.
    ///
    /// # Errors
    /// What is exhausted.
    pub(crate) fn check_room(&self) -> Result<(), DropReason> {
        self.flows.check_room(self.listeners.len())
    }

    /// Counts that something was dropped for `reason`; those who follow events hear of it if it was to begin a flow.
    pub(crate) fn refuse(&mut self, reason: DropReason) {
        self.outbox.drops.count(reason);
        if reason.refuses_flow() {
            self.events.note(self.now, Event::Refused { reason, flow: None, rule: None });
        }
    }

    /// Logs limits that were met and calls that were refused, each at most once in a minute. Returns when to call again.
    pub(crate) fn tell_of_shortages(&mut self) -> Option<Timestamp> {
        if let Some(refused) = self.outbox.refused.tell(self.now) {
            log::warn!("{refused}");
        }
        if !self.shortages.have_news(self.now, &self.outbox.drops) {
            return self.shortages.next();
        }
        let most = Most {
            descriptors: self.settings.max_descriptors,
            flows: self.most_flows(),
            half_open: self.flows.half_open_limit(self.listeners.len()),
            sources: self.sources(),
        };
        let drops = (&self.outbox.drops, most);
        self.shortages.tell(self.now, drops, |shortage| log::warn!("{shortage}"));
        self.shortages.next()
    }

    /// The addresses that flows of the guest are sent from, if the operator names them.
    fn sources(&self) -> [Option<SocketAddr>; 2] {
        let scope = self.net.network.scope_id();
        let mut named = self.net.map.sources();
        [named.next(), named.next()]
            .map(|address| address.map(|address| Endpoint::new(address, 0).with_scope(scope)))
    }

    /// Logs the rest of them at the end, however short ago the last line was.
    pub(crate) fn tell_of_last_shortages(&mut self) {
        self.shortages.end();
        self.tell_of_shortages();
    }

    /// Makes room for another UDP or echo flow that starts from `initiator` and opens `sockets` sockets.
    ///
    /// # Errors
    /// What is exhausted.
    pub(crate) fn make_datagram_room(
        &mut self,
        initiator: Pif,
        sockets: usize,
    ) -> Result<(), DropReason> {
        let others = self.listeners.len() + sockets - 1;
        if !self.flows.make_datagram_room(initiator, others, self.now)? {
            self.outbox.drops.count(DropReason::DatagramFlowEvicted);
        }
        Ok(())
    }

    /// Flow `id`, which has just begun, may have a port too many: another one gives way, and is counted if it waited for an
    /// answer.
    ///
    /// # Errors
    /// None gives way; the flow has ended.
    pub(crate) fn leave_ports_to_others(&mut self, id: FlowId) -> Result<(), DropReason> {
        let unanswered = self.flows.leave_ports_to_others(id)?;
        self.outbox.drops.add(DropReason::NoLocalPort, unanswered.into());
        Ok(())
    }
}
