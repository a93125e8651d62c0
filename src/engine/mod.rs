//! The shell around the pure core: one epoll loop that owns the sockets and does what was decided.
//!
//! * [`Worker`] is the loop: it waits, reads the clock once a turn, and gives each event to whom it
//!   belongs. It has no globals; a second worker would be a second value.
//! * [`Engine`] is what frames and sockets meet in. It borrows the link for each call, half by half, so that a
//!   lease on frames from the guest and one on room to the guest can exist at the same time.
//! * A [`Source`] is whatever else has a descriptor: signals, news of neighbours, the end of a command.
//!
//! # Who calls whom
//! Calls run one way, from above to below; `tests/tidy` fails where they turn back.
//!
//! ```text
//!   worker, wait, stats          the loop; link: who is let in; source: neighbours, signals, ...
//!     |
//!   Engine, turn                 who is called for what
//!     |
//!   ingress        listen        frames of the guest | connections and datagrams on forwarded ports
//!     |     \      /    \
//!     |      \    /    bypass    what never meets the link, from socket to socket
//!     |       \  /       |
//!   responders tcp, datagrams    what meets the link
//!     |          |
//!   core                         flows, listeners, net, outbox
//! ```
//!
//! Functions take the core, or the parts of it that they use. What only one of the folders knows stands in its
//! `mod.rs`: [`Datagrams`], [`BypassParts`], [`Scans`].
//!
//! | file | what it holds |
//! |---|---|
//! | `core` | the parts that all protocols share, as one value; what does not change after start; which limits were met |
//! | `flows`, `state`, `ready` | the flows and whatever finds them; what is kept for each; who is served next |
//! | `groups` | which groups the guest has joined, and the sockets that receive for them |
//! | `pace`, `looks`, `quantum` | when fast streams of datagrams are looked at; how much of a stream moves at once |
//! | `one_shots` | UDP and echo flows that give way to others |
//! | `crossing` | which flows would look alike to somebody, and how they are told apart |
//! | `egress` | which flows a new policy ends |
//! | `net`, `neighbours`, `path_mtu` | addresses, mappings, rules and what was learned; the host's neighbours; narrow paths behind the guest |
//! | `asked`, `events`, `inspect`, `tally` | what happens, for those who follow it; what is told of flows; how many there are |
//! | `change`, `host_change` | another view of the network is put in force, some ports a turn; what the guest is told then |
//! | `source`, `lobby` | what else has a descriptor; the share of the time that those get that others go before |
//! | `listeners`, `listener_id` | the listening sockets, each under a name of its own |
//! | `outbox`, `responders` | small frames to the guest; answers to its questions, and what is sent unasked |
//! | `marks` | what of the guest's IP headers the host's sockets write, too |
//! | `unreachable` | ICMP errors about what the host does not take |
//! | `datagram_socket`, `reserved_port` | the one way to open the socket of a datagram flow; source ports below 1024 |
//! | `token`, `wait` | what an epoll event is about; how the loop waits |
//! | `event_counters`, `stats` | what it is busy with, counted; reports of that |
//! | `turn` | who is served in a turn, in which order, and what is left for the next |
//! | `ending` | how connections end with the program |
//! | `migration` | a guest that moves to another program, with its connections |
//!
//! # A turn
//! Events of sockets only put flows on the ready list; frames from the guest are processed in
//! batches; then each ready flow does its work once, who had not finished last; timers follow; then the link
//! publishes everything with one notification for each direction. Flows that could not finish for
//! lack of room in the guest's buffers wait on the starved list, in the order in which they began to, until the
//! link reports room; nothing asks again meanwhile, and then they go on one by one as long as there is any.
//! Sockets of flows are edge-triggered: what an event told is remembered by the flow.
//! Nothing is allocated on the packet path: all lists are reserved when the engine is made.

mod asked;
mod bypass;
mod change;
mod core;
mod crossing;
mod datagram_socket;
mod datagrams;
mod egress;
mod ending;
mod event_counters;
mod events;
mod flows;
mod groups;
mod host_change;
mod ingress;
mod inspect;
mod link;
mod listen;
mod listener_id;
mod listeners;
mod lobby;
mod looks;
mod marks;
mod migration;
mod neighbours;
mod net;
mod one_shots;
mod outbox;
mod pace;
mod path_mtu;
mod quantum;
mod ready;
mod refused;
mod reserved_port;
mod responders;
mod source;
mod state;
mod stats;
mod tally;
mod tcp;
mod token;
mod turn;
mod unreachable;
mod wait;
mod worker;

use std::os::fd::OwnedFd;
use std::rc::Rc;

use passt_frame::{Errno, FrameObserver, FramePort, FromGuestBatch, ToGuest};
use rustix::event::epoll::EventFlags;

pub use self::core::{Settings, UdpTimeouts};
pub use bypass::BypassConfig;
pub use change::ChangeOutcome;
pub use event_counters::EventType;
pub(crate) use events::{Event, Kept};
pub use host_change::HostChange;
pub(crate) use inspect::{EngineFacts, FlowFacts, STATES};
pub use link::{Clients, Link, NamespaceLink, Protocols, SocketLink};
pub(crate) use listen::ListenError;
pub(crate) use listener_id::ListenerId;
pub use neighbours::{NeighbourWatch, SharedWatch};
pub use net::NetView;
pub use source::{Calls, Exit, Signals, Source, SourceWatch, Sources};
pub(crate) use tally::Tally;
pub use token::{LINK_BASE, MigrationPart, SourceId, Token};
pub use wait::monotonic_now;
pub use worker::Worker;

use self::core::Core;
use crate::flow::fwd::{Bypass, Proto};
use crate::flow::network::Mac;
use crate::flow::side::Pif;
use crate::flow::splice::End;
use crate::flow::table::FlowId;
use crate::limits::{BYPASS_DESCRIPTORS, PORTS_CHANGED_PER_TURN};
use crate::responder::dhcpv6::Duid;
use crate::sys::copy_buffer::CopyBuffer;
use crate::time::Timestamp;
use crate::wire::DropReason;
use bypass::{BypassParts, relay, splice};
use datagrams::Datagrams;
use event_counters::EventCounters;
use ingress::Receivers;
use inspect::LinkCounters;
use listen::Scans;
use migration::Migration;
use net::Net;
use state::FlowKind;
use turn::{Parts, Turn};

/// What a turn is made of: the core, and what only some of the protocols need.
pub struct Engine {
    core: Core,
    datagrams: Datagrams,
    bypass: Option<Box<BypassParts>>,
    scans: Scans,
    migration: Migration,
    /// Looks for flows of addresses that are gone.
    lost: host_change::Search,
    /// A view of the network that is being put in force.
    change: change::UnderWay,
    duid: Duid,
    /// Bytes and datagrams that are copied on their way.
    buffer: CopyBuffer,
    turn: Turn,
    /// The link reaches the guest.
    link_up: bool,
    /// What the link has counted, when somebody last could ask.
    link_counters: LinkCounters,
}

impl Engine {
    /// An engine without flows that watches its sockets with `epoll`. `secret` keys the flow index and
    /// sequence numbers; `duid` identifies our DHCPv6 server.
    pub fn new(
        epoll: Rc<OwnedFd>,
        view: NetView,
        settings: Settings,
        secret: [u8; 16],
        duid: Duid,
        now: Timestamp,
    ) -> Self {
        Self {
            migration: Migration::new(epoll.clone()),
            core: Core::new(epoll, Net::new(view), settings, secret, now),
            datagrams: Datagrams::default(),
            bypass: None,
            scans: Scans::default(),
            lost: host_change::Search::default(),
            change: change::UnderWay::default(),
            duid,
            buffer: CopyBuffer::default(),
            turn: Turn::default(),
            link_up: false,
            link_counters: LinkCounters::default(),
        }
    }

    /// The guest's Ethernet address is known before it has sent anything.
    pub(crate) fn set_guest_mac(&mut self, mac: Mac) {
        self.core.net.learned.mac = mac;
    }

    /// Forwards loopback traffic past the link, and ports of the namespace to the host. To be called
    /// before [`listen`](Self::listen), where sockets can still be made in the guest's namespace. `rules_may_come`:
    /// those that follow services can be added, where it is too late to prepare for it.
    ///
    /// # Errors
    /// Why it cannot be seen what listens, if a rule needs that.
    pub fn set_bypass(&mut self, config: BypassConfig, rules_may_come: bool) -> Result<(), Errno> {
        let kept = self.core.flows.keep_back(BYPASS_DESCRIPTORS);
        let mut parts = BypassParts::new(config, kept);
        if rules_may_come {
            self.scans.prepare([Pif::Host, Pif::Splice], parts.sockets.as_mut())?;
        }
        self.scans.follow_rules(&self.core.net, parts.sockets.as_mut())?;
        self.bypass = Some(Box::new(parts));
        Ok(())
    }

    /// How loopback traffic passes the link by; guests without a namespace of this host have no such way.
    pub(crate) fn bypass(&self) -> Option<Bypass> {
        self.bypass.as_ref().map(|parts| parts.how)
    }

    /// Opens the listening sockets of all rules; those with the scan flag listen where others do.
    ///
    /// # Errors
    /// The first port that must be opened and could not.
    pub fn listen(&mut self) -> Result<(), ListenError> {
        listen::open_all(&mut self.core, self.bypass.as_deref_mut())?;
        turn::scan_ports(&mut self.parts().1);
        Ok(())
    }

    /// The view of the network that is in force: to change one rule, change it in there and
    /// [`replace_net`](Self::replace_net).
    pub fn view(&self) -> NetView {
        self.core.net.view()
    }

    /// Puts another view of the network in force, at once: [`change_net`](Self::change_net) to its end.
    ///
    /// # Errors
    /// The first port that must be opened and could not: nothing has changed then.
    pub fn replace_net(&mut self, view: NetView) -> Result<(), ListenError> {
        self.go_on_changing(usize::MAX);
        let outcome = self.change_net(view);
        self.go_on_changing(usize::MAX);
        outcome.take().expect("a change that is finished has an outcome")
    }

    /// Puts another view of the network in force, in this turn and as many as it takes
    /// ([`PORTS_CHANGED_PER_TURN`]), while traffic goes on. Sockets that go on to be wanted go on to listen, and
    /// connections go on, unless the new egress policy forbids them; a datagram flow that would lead elsewhere now does
    /// so from the guest's next datagram on. All or nothing. To be called when no other change is under way
    /// ([`is_changing`](Self::is_changing)).
    pub fn change_net(&mut self, view: NetView) -> ChangeOutcome {
        let outcome = self.change.begin(&self.core, view);
        self.go_on_changing(PORTS_CHANGED_PER_TURN);
        outcome
    }

    /// Whether another view is being put in force.
    pub fn is_changing(&self) -> bool {
        self.change.is_some()
    }

    /// Goes on to put a view in force, with at most so many ports.
    fn go_on_changing(&mut self, ports: usize) {
        let Self { core, bypass, scans, change, .. } = self;
        change.go_on(core, bypass.as_deref_mut(), scans, ports);
    }

    /// The host's network has changed: the guest is told what is new to it, listening sockets that have lost their
    /// interface or had to wait for an address are opened, and flows of addresses that stay away end. True if it was told.
    pub fn follow_host(&mut self, change: HostChange, out: &mut dyn ToGuest) -> bool {
        // What is being put in force knows nothing of this change.
        self.go_on_changing(usize::MAX);
        let told = host_change::apply(&mut self.core, &mut self.lost, change, out);
        listen::recover(&mut self.core, self.bypass.as_deref_mut());
        told
    }

    /// The egress rules with how often each has decided about a new flow, and at the end how often none of them matched.
    pub fn egress_counts(&self) -> Vec<(&str, u64)> {
        self.core.net.egress_counts()
    }

    /// Starts a turn: everything in it happens at `now`.
    pub fn begin_turn(&mut self, now: Timestamp) {
        self.core.now = now;
        self.core.net.begin_turn(now);
        self.turn.begin();
    }

    /// When this turn began.
    pub fn now(&self) -> Timestamp {
        self.core.now
    }

    /// Whether the last turn served a connection that moves bulk past the link.
    fn moved_bulk(&self) -> bool {
        self.turn.moved_bulk()
    }

    /// Lets the helper of migrations connect to `listener`; it does not block. `no_linger`: sockets of connections
    /// that have moved are closed at once.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn set_helper(&mut self, listener: OwnedFd, no_linger: bool) -> Result<(), Errno> {
        self.migration.set_helper(listener, no_linger)
    }

    /// The state of the guest's network is to go into `stream`, which does not block.
    pub fn save_state(&mut self, stream: OwnedFd) {
        self.migration.save(&mut self.core, stream);
    }

    /// The state of the guest's network comes from `stream`, which does not block.
    pub fn load_state(&mut self, stream: OwnedFd) {
        self.migration.load(&mut self.core, stream);
    }

    /// The front-end asks how the last transfer ended.
    pub fn ask_for_state(&mut self) {
        self.migration.ask();
    }

    /// The answer to that, once, when there is one.
    pub fn state_answer(&mut self) -> Option<Result<(), Errno>> {
        self.migration.answer()
    }

    /// Whether frames of the guest are to wait for a moment, though there may be some.
    pub fn holds_frames(&self) -> bool {
        self.migration.holds_frames()
    }

    /// Whether the guest has moved away.
    pub fn has_left(&self) -> bool {
        self.migration.has_left()
    }

    /// Until when a program that is to end goes on, lest it reset connections that live elsewhere now.
    pub fn lingers_until(&self) -> Option<Timestamp> {
        self.migration.lingers_until()
    }

    /// An event of a descriptor of a migration.
    pub fn on_migration_event(&mut self, out: &mut dyn ToGuest, part: MigrationPart) {
        self.migration.on_event(&mut self.core, out, part);
    }

    /// Takes one batch of frames from the guest. False when there was none.
    pub fn ingress(&mut self, port: &mut dyn FramePort, batch: &mut FromGuestBatch) -> bool {
        let Self { core, datagrams, duid, buffer, .. } = self;
        ingress::take(Receivers { core, datagrams, duid, buffer }, port, batch)
    }

    /// An event of a flow's socket.
    pub fn on_flow_event(&mut self, id: FlowId, events: EventFlags) {
        self.on_socket_event(id, End::Initiator, events);
    }

    /// An event of the second socket of a flow.
    pub fn on_second_socket_event(&mut self, id: FlowId, events: EventFlags) {
        self.on_socket_event(id, End::Target, events);
    }

    fn on_socket_event(&mut self, id: FlowId, end: End, events: EventFlags) {
        let core = &mut self.core;
        let Some(flow) = core.flows.table.get(id).filter(|flow| !flow.state.frozen) else { return };
        match (&flow.state.kind, end) {
            (FlowKind::Tcp(_), End::Initiator) => tcp::on_event(core, id, events),
            (FlowKind::Udp(_) | FlowKind::Echo(_), End::Initiator) => {
                datagrams::on_event(core, id, events);
            }
            // They have one socket.
            (FlowKind::Tcp(_) | FlowKind::Udp(_) | FlowKind::Echo(_), End::Target) => {}
            (FlowKind::Splice(_), _) => splice::on_event(core, id, end, events),
            (FlowKind::Relay(_), _) => relay::on_event(core, id, end),
        }
    }

    /// An event of a listening socket.
    pub fn on_listener_event(&mut self, id: ListenerId) {
        self.core.listeners.mark_ready(id);
    }

    /// The link can reach the guest now.
    pub fn on_link_up(&mut self, out: &mut dyn ToGuest) {
        self.set_link(true);
        responders::greet(&mut self.core, out);
        datagrams::begin_groups(&mut self.core, out);
        self.migration.on_link_up(&mut self.core, out);
        self.on_link_room();
    }

    /// The link cannot reach the guest any more, or not for now.
    pub(crate) fn on_link_down(&mut self) {
        self.set_link(false);
    }

    fn set_link(&mut self, up: bool) {
        if std::mem::replace(&mut self.link_up, up) != up {
            let event = if up { Event::LinkUp } else { Event::LinkDown };
            self.core.events.note(self.core.now, event);
        }
    }

    /// The guest's machine was set back to an earlier state. It may not know its connections as they are: what does not
    /// fit ends.
    pub fn on_guest_set_back(&mut self) {
        log::info!("A snapshot of the guest was loaded: connections that do not fit end");
        tcp::on_guest_set_back(&mut self.core);
    }

    /// The link has room toward the guest again.
    pub fn on_link_room(&mut self) {
        self.turn.on_link_room(&mut self.core);
    }

    /// The front-end has set the MTU of the guest's device: what the guest is told and new connections
    /// follow.
    pub(crate) fn set_mtu(&mut self, mtu: u16) {
        log::info!("MTU of the guest's device: {mtu}");
        self.core.net.limit_mtu(mtu);
    }

    /// The client of the link has left, with what it has said of the guest's device.
    pub fn on_link_closed(&mut self) {
        self.set_link(false);
        self.migration.on_link_closed(&mut self.core);
        datagrams::forget(&mut self.core, &mut self.datagrams);
        self.core.net.limit_mtu(u16::MAX);
        self.core.net.begin_link();
        datagrams::end_groups(&mut self.core);
    }

    /// Does the work of this turn: ready listening sockets, flows that have waited for room, ready flows, expired
    /// timers.
    pub fn work(&mut self, out: &mut dyn ToGuest) {
        let before = self.core.flows.table.len();
        self.migration.on_time(&mut self.core, out);
        self.lost.go_on(&mut self.core, self.migration.is_idle());
        self.go_on_changing(PORTS_CHANGED_PER_TURN);
        let (turn, parts) = self.parts();
        turn.work(parts, before, out);
    }

    fn parts(&mut self) -> (&mut Turn, Parts<'_>) {
        let scans = Some(&mut self.scans).filter(|_| !self.change.is_some());
        let Self { core, datagrams, bypass, buffer, turn, .. } = self;
        (turn, Parts { core, datagrams, bypass: bypass.as_deref_mut(), scans, buffer })
    }

    /// Whether work is left that no event will announce.
    pub fn has_work(&self) -> bool {
        self.turn.has_work(&self.core) || self.lost.goes_on() || self.is_changing()
    }

    /// When the next timer is due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let own = [self.turn.deadline(&self.core), self.lost.deadline(), self.migration.deadline()];
        Timestamp::earliest(own)
    }

    /// Keeps descriptors back for something that is no flow.
    pub(crate) fn keep_back(&mut self, descriptors: usize) {
        self.core.flows.keep_back(descriptors);
    }

    /// Number of flows.
    pub fn flow_count(&self) -> usize {
        self.core.flows.table.len()
    }

    /// Shows each frame to the guest from now on to `observer`.
    pub fn observe(&mut self, observer: Box<dyn FrameObserver>) {
        self.core.outbox.list.observe(observer);
    }

    /// Under which name an event of a flow's socket is counted, if the flow is there.
    fn event_type_of_flow(&self, id: FlowId) -> Option<EventType> {
        Some(match self.core.flows.table.get(id)?.state.kind {
            FlowKind::Tcp(_) => EventType::Tcp,
            FlowKind::Udp(_) => EventType::Udp,
            FlowKind::Echo(_) => EventType::Ping,
            FlowKind::Splice(_) => EventType::Spliced,
            FlowKind::Relay(_) => EventType::Relayed,
        })
    }

    /// The same of a listening socket.
    fn event_type_of_listener(&self, id: ListenerId) -> Option<EventType> {
        let is_tcp = self.core.listeners.get(id)?.proto == Proto::Tcp;
        Some(if is_tcp { EventType::TcpListener } else { EventType::UdpListener })
    }

    /// Counts an event.
    fn count(&mut self, event: EventType) {
        self.core.counters.count(event);
    }

    /// What the loop was busy with.
    fn counters(&self) -> &EventCounters {
        &self.core.counters
    }

    /// Tells the operator of limits that were met. Returns when there will be more to say.
    fn tell_of_shortages(&mut self) -> Option<Timestamp> {
        self.core.tell_of_shortages()
    }

    /// The same of all that was not told yet, at the end.
    fn tell_of_last_shortages(&mut self) {
        self.core.tell_of_last_shortages();
    }

    /// Whether a guest's stream has not been passed on to its end.
    fn has_open_streams(&self) -> bool {
        ending::has_open_streams(&self.core)
    }

    /// Has closing the sockets of all connections, which must follow, end nothing that has not ended.
    fn cut_streams(&self) {
        ending::cut_streams(&self.core);
    }

    /// Drops so far, by name.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        self.core.outbox.drops.iter()
    }
}
