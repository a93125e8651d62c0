//! The flows with everything that finds them: table, index, timers, and the lists of flows that have
//! work to do. O(1) per event: nothing here walks over all flows.

mod host_ports;
mod port_owners;

use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use arrayvec::ArrayVec;
use passt_frame::Errno;
use rustix::event::epoll::{self, EventFlags};

use host_ports::HostPorts;

use super::one_shots::OneShots;
use super::ready::{Ready, append};
use super::state::{DatagramState, FlowKind, FlowState, KeptBytes};
use super::tally::Tally;
use super::token::Token;
use crate::flow::index::{Index, Key};
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::{FlowId, FlowTable};
use crate::flow::timer::TimerWheel;
use crate::limits::{
    ANSWERED_TIMEOUT, ANY_PORT_FLOWS, GUEST_DATAGRAMS_DIVISOR, MAX_FLOWS, MAX_HALF_OPEN,
    NETWORK_DATAGRAMS_DIVISOR, flow_sockets, kept_back,
};
use crate::time::Timestamp;
use crate::wire::DropReason;
use crate::wire::ip::L4Protocol;

/// The engine's own timers. Keys of flows follow: the wheel's memory is touched up to the largest key.
pub(crate) const ADVERTISEMENT_TIMER: u32 = 0;
/// The next look for ports to forward.
pub(crate) const SCAN_TIMER: u32 = 1;
/// The next question for an address of the guest, or the end of waiting for the answer.
pub(crate) const ADDRESS_TIMER: u32 = 2;
/// The next query for groups, or the end of one.
pub(crate) const GROUP_TIMER: u32 = 3;
/// The next try to accept what found no descriptor or no memory on this machine.
pub(crate) const ACCEPT_TIMER: u32 = 4;
const OWN_TIMERS: u32 = 5;

/// The timer of the flow in `slot`.
pub(super) fn timer_key(slot: u32) -> u32 {
    slot + OWN_TIMERS
}

/// The flow's slot of a timer that is not the engine's own.
pub(crate) fn slot_of_timer(key: u32) -> u32 {
    key - OWN_TIMERS
}

/// Watches sockets of flows, edge-triggered.
pub(crate) struct FlowWatch {
    epoll: Rc<OwnedFd>,
}

impl FlowWatch {
    fn begin(&self, token: Token, socket: BorrowedFd<'_>, events: EventFlags) -> Result<(), Errno> {
        let data = epoll::EventData::new_u64(token.to_bits());
        epoll::add(&*self.epoll, socket, data, events | EventFlags::ET)
    }

    /// Changes which events a socket reports, and has it report what is ready now. It also tells the
    /// kernel that we wait for room if the send buffer is full.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub(crate) fn again(
        &self,
        token: Token,
        socket: BorrowedFd<'_>,
        events: EventFlags,
    ) -> Result<(), Errno> {
        let data = epoll::EventData::new_u64(token.to_bits());
        epoll::modify(&*self.epoll, socket, data, events | EventFlags::ET)
    }
}

/// All flows of one worker.
pub(crate) struct Flows {
    /// The table.
    pub(crate) table: FlowTable<FlowState>,
    /// Finds flows by their sides.
    pub(crate) index: Index,
    /// One timer for each flow, and those of the engine itself.
    pub(crate) timers: TimerWheel,
    /// Flows with work for this turn or the next.
    pub(crate) ready: Ready,
    /// Flows that wait for room in the guest's buffers; may hold ids that are gone.
    starved: VecDeque<FlowId>,
    /// A bit for each of the guest's queues that such flows wait for.
    starved_queues: u32,
    /// Flows whose acknowledgement waits, and until when, in that order.
    acks: VecDeque<(Timestamp, FlowId)>,
    /// TCP flows whose handshake has not finished, oldest first; may hold ids that are gone.
    half_open: VecDeque<FlowId>,
    half_open_count: usize,
    /// UDP and echo flows that the guest or its namespace started, and that the network started.
    datagrams: [usize; 2],
    /// UDP and echo flows that may have to give way.
    one_shots: OneShots,
    /// UDP flows whose peers answer from any port; may hold ids that are gone.
    any_port: ArrayVec<FlowId, ANY_PORT_FLOWS>,
    /// What is kept of TCP flows because their sockets have not taken it.
    pub(crate) kept: KeptBytes,
    /// Flows with two sockets.
    spliced: usize,
    /// Flows by their kind.
    tally: Tally,
    /// Has the kernel report events of their sockets.
    pub(crate) watch: FlowWatch,
    /// Sockets that flows may have open at a time.
    max_sockets: usize,
    /// Ports of the host that flows of the guest have.
    host_ports: HostPorts,
}

impl Flows {
    /// No flows. `max_descriptors` is the limit of open descriptors of the process, and `ephemeral` are the first and the
    /// last of the ports that the host gives to sockets that do not choose.
    pub(crate) fn new(
        epoll: Rc<OwnedFd>,
        secret: [u8; 16],
        now: Timestamp,
        (max_descriptors, ephemeral): (u64, (u16, u16)),
    ) -> Self {
        Self {
            table: FlowTable::default(),
            index: Index::new(secret),
            timers: TimerWheel::new(MAX_FLOWS + OWN_TIMERS as usize, now),
            ready: Ready::new(),
            starved: VecDeque::with_capacity(MAX_FLOWS),
            starved_queues: 0,
            acks: VecDeque::with_capacity(MAX_FLOWS),
            half_open: VecDeque::with_capacity(2 * MAX_HALF_OPEN),
            half_open_count: 0,
            datagrams: [0; 2],
            one_shots: OneShots::default(),
            any_port: ArrayVec::new(),
            kept: KeptBytes::default(),
            spliced: 0,
            tally: Tally::default(),
            watch: FlowWatch { epoll },
            max_sockets: flow_sockets(max_descriptors),
            host_ports: HostPorts::new(ephemeral),
        }
    }

    /// Keeps descriptors back for other uses, but no more than half of those that are left. Returns how
    /// many.
    pub(crate) fn keep_back(&mut self, descriptors: usize) -> usize {
        let kept = kept_back(self.max_sockets, descriptors);
        self.max_sockets -= kept;
        kept
    }

    /// How many flows of each kind there are and were.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// Flows that there may be beside `other_descriptors`, those that are there included.
    pub(crate) fn most_flows(&self, other_descriptors: usize) -> usize {
        self.flows_by_descriptors(other_descriptors).min(MAX_FLOWS)
    }

    /// The same, as far as descriptors go.
    fn flows_by_descriptors(&self, other_descriptors: usize) -> usize {
        self.max_sockets.saturating_sub(self.spliced + other_descriptors)
    }

    /// TCP flows whose handshake has not finished.
    pub(crate) fn half_open_count(&self) -> usize {
        self.half_open_count
    }

    /// Whether another flow may open a socket: the table has room and descriptors are left.
    ///
    /// # Errors
    /// Which of both is exhausted.
    pub(crate) fn check_room(&self, other_descriptors: usize) -> Result<(), DropReason> {
        if self.table.len() < self.most_flows(other_descriptors) {
            return Ok(());
        }
        let full = self.table.len() < self.flows_by_descriptors(other_descriptors);
        Err(if full { DropReason::FlowTableFull } else { DropReason::DescriptorsExhausted })
    }

    /// Makes room for a UDP or echo flow that starts from `initiator`: another one gives way if it must. False if
    /// that one was waiting for an answer, or whether it was is not known.
    ///
    /// # Errors
    /// What is exhausted: there are only streams.
    pub(crate) fn make_datagram_room(
        &mut self,
        initiator: Pif,
        other_descriptors: usize,
        now: Timestamp,
    ) -> Result<bool, DropReason> {
        let Err(reason) = self.check_datagram_room(initiator, other_descriptors) else {
            return Ok(true);
        };
        let id = self.one_shots.gives_way(&mut self.table, started_by(initiator), now);
        let id = id.ok_or(reason)?;
        let state = self.table.get(id).and_then(|flow| flow.state.kind.datagrams());
        let answered = state.is_some_and(DatagramState::is_answered);
        log::debug!("{id:?}: gives way to a new one");
        self.remove(id);
        self.check_datagram_room(initiator, other_descriptors).map(|()| answered)
    }

    /// Whether there is room for a UDP or echo flow that starts from `initiator`: those may not have all flows.
    ///
    /// # Errors
    /// What is exhausted.
    pub(crate) fn check_datagram_room(
        &self,
        initiator: Pif,
        other_descriptors: usize,
    ) -> Result<(), DropReason> {
        self.check_room(other_descriptors)?;
        let flows = self.max_sockets.saturating_sub(other_descriptors).min(MAX_FLOWS);
        let divisor = match initiator {
            Pif::Tap | Pif::Splice => GUEST_DATAGRAMS_DIVISOR,
            Pif::Host => NETWORK_DATAGRAMS_DIVISOR,
        };
        if self.datagrams[started_by(initiator)] >= flows / divisor {
            return Err(DropReason::DatagramFlowsFull);
        }
        Ok(())
    }

    /// Whether another port may be opened on the guest's behalf: half of the descriptors are for flows.
    pub(crate) fn may_listen(&self, listeners: usize) -> bool {
        listeners < self.most_listeners()
    }

    /// How many ports may be opened that are not asked for one by one.
    pub(crate) fn most_listeners(&self) -> usize {
        self.max_sockets / 2
    }

    /// The flow that has `side`.
    pub(crate) fn find(&self, protocol: L4Protocol, side: &Side) -> Option<FlowId> {
        self.find_by(protocol, side, |other| other == side)
    }

    /// The flow with a side that `matches` and is indexed where `side` would be.
    pub(super) fn find_by(
        &self,
        protocol: L4Protocol,
        side: &Side,
        matches: impl Fn(&Side) -> bool,
    ) -> Option<FlowId> {
        let same = |slot| {
            let flow = self.table.id_of(slot).and_then(|id| self.table.get(id));
            flow.is_some_and(|flow| flow.sides.iter().any(&matches) && flow.state.is(protocol))
        };
        let slot = self.index.find(&key(protocol, side), same)?;
        self.table.id_of(slot)
    }

    /// Adds a flow and watches its sockets for `events`, edge-triggered.
    ///
    /// # Errors
    /// The reason why the flow could not be added; its sockets are closed, and connections reset.
    pub(crate) fn add(
        &mut self,
        sides: [Side; 2],
        protocol: L4Protocol,
        state: FlowState,
        events: EventFlags,
    ) -> Result<FlowId, DropReason> {
        let new = self.table.allocate();
        let new = new.ok_or_else(|| state.give_up(DropReason::FlowTableFull))?;
        let targeted = new.initiate(sides[0]).target(sides[1]);
        let id = targeted.id();
        let second = state.kind.second_socket();
        let begin = |token, socket| self.watch.begin(token, socket, events);
        begin(Token::Flow(id), state.fd())
            .and_then(|()| second.map_or(Ok(()), |second| begin(Token::SecondSocket(id), second)))
            .map_err(|_| state.give_up(DropReason::MemoryExhausted))?;
        self.spliced += usize::from(second.is_some());
        self.tally.begin(&state.kind);
        let active = state.kind.datagrams().map(|state| state.active);
        let id = targeted.activate(state);
        if let Some(now) = active {
            let starter = started_by(sides[0].pif);
            self.datagrams[starter] += 1;
            self.one_shots.add(&mut self.table, id.slot(), starter, now);
        }
        self.host_ports.begin(&sides, protocol);
        for side in indexed(&sides, protocol) {
            self.index.insert(&key(protocol, side), id.slot());
        }
        Ok(id)
    }

    /// Has a UDP flow never give way to another one.
    pub(crate) fn keep(&mut self, id: FlowId) {
        self.one_shots.remove(&mut self.table, id.slot());
    }

    /// Ends a flow: out of the index, the timers, the lists; its socket is closed.
    pub(crate) fn remove(&mut self, id: FlowId) {
        self.take_out(id);
    }

    /// Ends a flow whose socket lives on: nothing is heard of it any more.
    pub(crate) fn take(&mut self, id: FlowId) -> Option<OwnedFd> {
        let socket = self.take_out(id)?.socket;
        let _ = epoll::delete(&*self.watch.epoll, &socket);
        Some(socket)
    }

    fn take_out(&mut self, id: FlowId) -> Option<FlowState> {
        self.table.get(id)?;
        self.one_shots.remove(&mut self.table, id.slot());
        let flow = self.table.remove(id)?;
        self.tally.end(&flow.state.kind);
        let protocol = flow.state.l4(&flow.sides);
        self.host_ports.end(&flow.sides, protocol);
        for side in indexed(&flow.sides, protocol) {
            self.index.remove(&key(protocol, side), id.slot());
        }
        self.timers.cancel(timer_key(id.slot()));
        let origin = flow.state.kind.datagrams().and_then(|state| state.out_of);
        if let Some(origin) = origin.and_then(|origin| self.udp_mut(origin)) {
            origin.taken_out -= 1;
        }
        if protocol != L4Protocol::Tcp {
            self.datagrams[started_by(flow.sides[0].pif)] -= 1;
        }
        self.spliced -= usize::from(flow.state.kind.second_socket().is_some());
        if matches!(&flow.state.kind, FlowKind::Tcp(tcp) if tcp.half_open) {
            self.half_open_count -= 1;
        }
        Some(flow.state)
    }

    /// Notes that the guest, or whom it talks to, has answered in a UDP or echo flow.
    pub(crate) fn note_answer(&mut self, id: FlowId, now: Timestamp) {
        let Some(flow) = self.table.get(id) else { return };
        let Some(state) = flow.state.kind.datagrams().filter(|state| state.is_answered()) else {
            return;
        };
        let ends_soon = state.questions && !state.is_stream();
        self.one_shots.answered(&mut self.table, id.slot(), now);
        if ends_soon {
            self.schedule(id, Some(now + ANSWERED_TIMEOUT));
        }
    }

    /// Notes that a UDP flow was taken out of `origin`, which lives on with it.
    pub(crate) fn belongs_to(&mut self, id: FlowId, origin: FlowId) {
        if let Some(state) = self.udp_mut(id) {
            state.out_of = Some(origin);
        }
        if let Some(origin) = self.udp_mut(origin) {
            origin.taken_out += 1;
        }
    }

    fn udp_mut(&mut self, id: FlowId) -> Option<&mut DatagramState> {
        match &mut self.table.get_mut(id)?.state.kind {
            FlowKind::Udp(state) => Some(state),
            _ => None,
        }
    }

    /// Notes that the guest or its peer goes on with a flow: the one that it was taken out of lives on, too.
    pub(crate) fn note_use(&mut self, id: FlowId, now: Timestamp) {
        let state = self.table.get(id).and_then(|flow| flow.state.kind.datagrams());
        let Some(&DatagramState { out_of, echo, .. }) = state else { return };
        if let Some(origin) = out_of.and_then(|origin| self.udp_mut(origin)) {
            origin.active = now;
        }
        if echo {
            self.one_shots.asked(&mut self.table, id.slot(), now);
        }
    }

    /// Puts a flow on the list for this turn, once.
    pub(crate) fn mark_ready(&mut self, id: FlowId) {
        if let Some(flow) = self.table.get_mut(id) {
            self.ready.add(&mut flow.state, id);
        }
    }

    /// Has a flow that did not finish go on in the next turn.
    pub(crate) fn mark_unfinished(&mut self, id: FlowId) {
        if let Some(flow) = self.table.get_mut(id) {
            self.ready.add_unfinished(&mut flow.state, id);
        }
    }

    /// Takes the next flow of this turn.
    pub(crate) fn next_ready(&mut self) -> Option<FlowId> {
        self.ready.next(&mut self.table)
    }

    /// Whether a flow waits for its turn, or for room in the guest's buffers: something may be in its socket.
    pub(crate) fn waits(&self, id: FlowId) -> bool {
        self.table.get(id).is_some_and(|flow| flow.state.ready || flow.state.starved)
    }

    /// Notes that the acknowledgement of a flow waits until `at`. All wait for the same time, so the list
    /// is in order. One that has no place on it is looked at in each turn.
    pub(crate) fn hold_ack(&mut self, at: Timestamp, id: FlowId) {
        if self.acks.len() == self.acks.capacity() {
            self.mark_ready(id);
        } else if self.acks.back() != Some(&(at, id)) {
            self.acks.push_back((at, id));
        }
    }

    /// Lists the flows whose acknowledgement has waited for long enough; returns when the next one has.
    pub(crate) fn due_acks(&mut self, now: Timestamp) -> Option<Timestamp> {
        while let Some(&(at, id)) = self.acks.front() {
            let waits = match self.table.get(id).map(|flow| &flow.state.kind) {
                Some(FlowKind::Tcp(tcp)) => tcp.conn.ack_at() == Some(at),
                _ => false,
            };
            if waits && at > now {
                return Some(at);
            }
            self.acks.pop_front();
            if waits {
                self.mark_ready(id);
            }
        }
        // An empty list starts at its front again, so that one flow alone does not touch all of its pages.
        self.acks.clear();
        None
    }

    /// Puts a flow on the list of those that wait for room in the guest's buffers, once. Flows that
    /// have ended meanwhile are taken off when the list is full: a guest that never makes room would
    /// have it grow for ever.
    pub(crate) fn mark_starved(&mut self, id: FlowId) {
        if let Some(flow) = self.table.get_mut(id)
            && !std::mem::replace(&mut flow.state.starved, true)
        {
            self.starved_queues |= queue_bit(flow.state.queue);
            let table = &self.table;
            make_room(&mut self.starved, |id| table.get(id).is_some_and(|flow| flow.state.starved));
            append(&mut self.starved, id);
        }
    }

    /// The guest has sent a frame of a flow on its queue `queue`: what goes to it for this flow goes there, too.
    pub(crate) fn note_queue(&mut self, id: FlowId, queue: u8) {
        let Some(flow) = self.table.get_mut(id) else { return };
        flow.state.queue = queue;
        if flow.state.starved {
            self.starved_queues |= queue_bit(queue);
        }
    }

    /// Takes the flow that has waited longest for room in the guest's buffers; with it, its queue.
    pub(crate) fn next_starved(&mut self) -> Option<(FlowId, u8)> {
        while let Some(id) = self.starved.pop_front() {
            if let Some(flow) = self.table.get_mut(id)
                && std::mem::take(&mut flow.state.starved)
            {
                return Some((id, flow.state.queue));
            }
        }
        self.starved_queues = 0;
        None
    }

    /// Whether flows wait for room in the guest's buffers.
    pub(crate) fn has_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    /// The queues of all flows that wait for room, and perhaps of some that did; a bit for each.
    pub(crate) fn starved_queues(&self) -> u32 {
        self.starved_queues
    }

    /// How many flows wait for room, and some that have ended.
    pub(crate) fn starved_count(&self) -> usize {
        self.starved.len()
    }

    /// Whether a flow waits for room.
    pub(crate) fn is_starved(&self, id: FlowId) -> bool {
        self.table.get(id).is_some_and(|flow| flow.state.starved)
    }

    /// Flows whose handshake may be under way at a time: no more than half of the sockets that are
    /// left beside `other_descriptors`, so that a scan leaves room for everything else.
    pub(crate) fn half_open_limit(&self, other_descriptors: usize) -> usize {
        (self.max_sockets.saturating_sub(other_descriptors) / 2).clamp(1, MAX_HALF_OPEN)
    }

    /// Notes a TCP flow whose handshake begins. Returns the oldest such flow when there are too many
    /// now: it is to give way.
    pub(crate) fn begin_handshake(
        &mut self,
        id: FlowId,
        other_descriptors: usize,
    ) -> Option<FlowId> {
        if let Some(flow) = self.table.get_mut(id)
            && let FlowKind::Tcp(tcp) = &mut flow.state.kind
        {
            tcp.half_open = true;
            self.half_open_count += 1;
        }
        let table = &self.table;
        make_room(&mut self.half_open, |id| is_half_open(table, id));
        append(&mut self.half_open, id);
        let limit = self.half_open_limit(other_descriptors);
        while self.half_open_count > limit {
            let oldest = self.half_open.pop_front()?;
            if is_half_open(&self.table, oldest) {
                return Some(oldest);
            }
            // It has finished in this turn.
            self.end_handshake(oldest);
        }
        None
    }

    /// Notes that the handshake of a TCP flow has finished.
    pub(crate) fn end_handshake(&mut self, id: FlowId) {
        if let Some(flow) = self.table.get_mut(id)
            && let FlowKind::Tcp(tcp) = &mut flow.state.kind
            && std::mem::replace(&mut tcp.half_open, false)
        {
            self.half_open_count -= 1;
        }
    }

    /// Makes the wheel look at a flow at `deadline` or earlier. A deadline that only moves later
    /// leaves the wheel alone.
    pub(crate) fn schedule(&mut self, id: FlowId, deadline: Option<Timestamp>) {
        let Some(flow) = self.table.get_mut(id) else { return };
        let Some(deadline) = deadline else { return };
        if flow.state.scheduled.is_none_or(|scheduled| deadline < scheduled) {
            flow.state.scheduled = Some(deadline);
            self.timers.set(timer_key(id.slot()), deadline);
        }
    }
}

/// The sides that a flow is found by: the guest's, and those of sockets of UDP, which may have to be told
/// apart and whose datagrams may still arrive on a listening socket. A host side of another protocol is
/// filled in by the kernel; it is the same for many flows and would make one long chain of the index.
fn indexed(sides: &[Side; 2], protocol: L4Protocol) -> impl Iterator<Item = &Side> {
    sides.iter().filter(move |side| side.pif == Pif::Tap || protocol == L4Protocol::Udp)
}

/// Where a side is indexed. Our address on a socket may be unspecified, which is any: those that differ
/// only by it stand together.
fn key(protocol: L4Protocol, side: &Side) -> Key {
    let any = Endpoint::new(Ipv6Addr::UNSPECIFIED.into(), side.ours.port());
    let ours = if side.pif == Pif::Tap { side.ours } else { any };
    Key { protocol, side: Side { ours, ..*side } }
}

/// Drops ids that mean nothing any more from a list that is full, so that it never grows: flows that
/// end leave their ids behind.
fn make_room(list: &mut VecDeque<FlowId>, keep: impl Fn(FlowId) -> bool) {
    if list.len() == list.capacity() {
        list.retain(|&id| keep(id));
    }
}

/// Index of the counter of datagram flows that start from `initiator`.
fn started_by(initiator: Pif) -> usize {
    usize::from(initiator == Pif::Host)
}

/// The bit of one of the guest's queues; links have far fewer than there are bits.
pub(crate) fn queue_bit(queue: u8) -> u32 {
    1 << (queue % 32)
}

/// A handshake that has finished in this turn is none any more, though it is counted until its flow is served.
fn is_half_open(table: &FlowTable<FlowState>, id: FlowId) -> bool {
    let state = table.get(id).map(|flow| &flow.state.kind);
    matches!(state, Some(FlowKind::Tcp(tcp)) if tcp.half_open && tcp.conn.is_half_open())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::net::Epoch;
    use rustix::event::{EventfdFlags, eventfd};
    use std::net::Ipv4Addr;

    #[test]
    fn flows_that_end_while_they_wait_for_room_do_not_pile_up() {
        let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).expect("an instance"));
        let mut flows = Flows::new(epoll, [0; 16], Timestamp::ZERO, (1024, (1, 2)));
        let room = flows.starved.capacity();
        let any = Endpoint::new(Ipv4Addr::new(192, 0, 2, 2).into(), 1);
        let sides = [Pif::Tap, Pif::Host].map(|pif| Side { pif, ours: any, endpoint: any });
        for _ in 0..room + 1 {
            let socket = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor");
            let state = FlowKind::Udp(DatagramState::new(Timestamp::ZERO));
            let state = FlowState::new(socket, Epoch::default(), Timestamp::ZERO, state);
            let id = flows.add(sides, L4Protocol::Udp, state, epoll::EventFlags::IN);
            let id = id.expect("room for a flow");
            flows.mark_starved(id);
            flows.remove(id);
        }
        assert_eq!(flows.starved.capacity(), room);
    }
}
