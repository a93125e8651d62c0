//! The listening sockets, each under a name that no later one gets again, and the lists of those that have
//! work: connections or datagrams to take, or a wait that is over. Who opens and serves them is
//! [`listen`](super::listen); a protocol only says when it has taken a connection further.
//!
//! They are watched level-triggered: accept4(2) makes a socket before it finds that nobody waits, so no
//! more connections are accepted after an event than are likely to wait ([`Expected`]). A socket that has
//! to wait for room is watched edge-triggered until it may go on: who comes next has it try again.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use passt_frame::{Errno, Expected};
use rustix::event::epoll;

use super::listener_id::ListenerId;
use super::token::Token;
use crate::flow::fwd::{ListenAddr, Proto, RuleId};
use crate::flow::side::Pif;
use crate::limits::ADMISSIONS_PER_PORT;

/// One listening socket.
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    /// Where it listens: on the host, or in the guest's namespace.
    pub(crate) pif: Pif,
    /// The rule, of those for `pif`, that it listens for.
    pub(crate) rule: RuleId,
    /// Its address: that of the rule, or of one family where a service that is followed has no other.
    pub(crate) listen: ListenAddr,
    pub(crate) proto: Proto,
    pub(crate) port: u16,
    /// The guest's port that datagrams on it go to.
    leads_to: Option<u16>,
    /// Connections that are likely to wait after an event.
    pub(crate) expected: Expected,
    /// Already on the list for this turn.
    ready: bool,
    /// Waits for room: flows or descriptors were exhausted, or the guest's buffers full.
    waiting: bool,
    /// On the list of those that have waited.
    listed: bool,
    /// Watched edge-triggered, since it had to wait.
    edges_only: bool,
    /// Accepted connections of which the guest's server may know nothing yet.
    admitted: usize,
    /// Accepted connections for which the queue of a server in the other namespace has no place yet.
    held: usize,
    /// Connections for which the pause has timed out, and that are still not connected.
    in_vain: usize,
}

impl Listener {
    /// A socket that nobody has connected to yet.
    pub(crate) fn new(
        socket: OwnedFd,
        (pif, rule): (Pif, RuleId),
        (listen, proto, port): (ListenAddr, Proto, u16),
    ) -> Self {
        Self {
            socket,
            pif,
            rule,
            listen,
            proto,
            port,
            leads_to: None,
            expected: Expected::default(),
            ready: false,
            waiting: false,
            listed: false,
            edges_only: false,
            admitted: 0,
            held: 0,
            in_vain: 0,
        }
    }

    /// The same socket, whose datagrams go to `port` of the guest.
    pub(crate) fn leading_to(self, port: Option<u16>) -> Self {
        Self { leads_to: port, ..self }
    }

    /// Whether another connection may be accepted: the guest's server knows of nearly all before, and it takes the
    /// place of none of them, if `half_open` handshakes may be under way; and none waits for a place in its queue.
    pub(crate) fn admits(&self, half_open: usize) -> bool {
        self.held == 0 && self.admitted < ADMISSIONS_PER_PORT.min(half_open)
    }
}

#[derive(Default)]
struct Slot {
    generation: u32,
    listener: Option<Listener>,
}

/// All listening sockets.
pub(crate) struct Listeners {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Those with work for this turn.
    ready: VecDeque<ListenerId>,
    /// Those that have waited since the last time that all were woken.
    waited: Vec<ListenerId>,
    /// How many sockets lead to each UDP port of the guest. Pages that nothing leads to are never touched.
    leading: Vec<u16>,
    /// UDP sockets, by where and on which port they listen, with their slots.
    by_port: BTreeSet<(u8, u16, u32)>,
    epoll: Rc<OwnedFd>,
}

impl Listeners {
    /// No sockets; those to come are watched with `epoll`.
    pub(crate) fn new(epoll: Rc<OwnedFd>) -> Self {
        let (slots, free) = (Vec::new(), Vec::new());
        let (ready, waited) = (VecDeque::new(), Vec::new());
        let (leading, by_port) = (vec![0; 1 << 16], BTreeSet::new());
        Self { slots, free, ready, waited, leading, by_port, epoll }
    }

    /// Number of listening sockets.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The socket that has this name, if it is still open.
    pub(crate) fn get(&self, id: ListenerId) -> Option<&Listener> {
        let slot = self.slots.get(id.slot as usize)?;
        slot.listener.as_ref().filter(|_| slot.generation == id.generation)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, id: ListenerId) -> Option<&mut Listener> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        slot.listener.as_mut().filter(|_| slot.generation == id.generation)
    }

    /// Whether datagrams on some socket go to the guest.
    pub(crate) fn lead_anywhere(&self) -> bool {
        self.iter().any(|(_, listener)| listener.leads_to.is_some())
    }

    /// Whether datagrams on some socket go to this port of the guest.
    pub(crate) fn lead_to(&self, port: u16) -> bool {
        self.leading[usize::from(port)] > 0
    }

    /// Listening sockets on this UDP port of `pif`. As a rule they hold it exclusively: another socket of ours that binds to
    /// it must go through [`socket::sharing`](crate::sys::socket::sharing).
    pub(crate) fn with_udp_port(
        &self,
        pif: Pif,
        port: u16,
    ) -> impl Iterator<Item = BorrowedFd<'_>> + Clone {
        let all = (pif as u8, port, 0)..=(pif as u8, port, u32::MAX);
        self.by_port.range(all).filter_map(|(_, _, slot)| {
            let listener = self.slots.get(*slot as usize)?.listener.as_ref()?;
            Some(listener.socket.as_fd())
        })
    }

    /// Has a socket listen for another rule, by which its datagrams go to `leads_to`.
    pub(crate) fn move_to(&mut self, id: ListenerId, rule: RuleId, leads_to: Option<u16>) {
        let Some(listener) = self.get_mut(id) else { return };
        listener.rule = rule;
        let before = std::mem::replace(&mut listener.leads_to, leads_to);
        self.count(before, leads_to);
    }

    /// Counts that a socket leads elsewhere now.
    fn count(&mut self, before: Option<u16>, now: Option<u16>) {
        if let Some(port) = before {
            self.leading[usize::from(port)] -= 1;
        }
        if let Some(port) = now {
            self.leading[usize::from(port)] += 1;
        }
    }

    /// All sockets with their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ListenerId, &Listener)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let id = ListenerId { slot: index as u32, generation: slot.generation };
            Some((id, slot.listener.as_ref()?))
        })
    }

    /// Adds a socket and watches it.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports; the socket is closed.
    pub(crate) fn add(&mut self, listener: Listener) -> Result<ListenerId, Errno> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(Slot::default());
                self.slots.len() as u32 - 1
            }
        };
        let id = ListenerId { slot, generation: self.slots[slot as usize].generation };
        if let Err(errno) =
            epoll::add(&*self.epoll, &listener.socket, data(id), epoll::EventFlags::IN)
        {
            self.free.push(slot);
            return Err(errno);
        }
        self.count(None, listener.leads_to);
        if listener.proto == Proto::Udp {
            self.by_port.insert((listener.pif as u8, listener.port, slot));
        }
        self.slots[slot as usize].listener = Some(listener);
        // No list grows while packets pass.
        let count = self.slots.len();
        self.ready.reserve(count.saturating_sub(self.ready.len()));
        self.waited.reserve(count.saturating_sub(self.waited.len()));
        Ok(id)
    }

    /// Closes a socket; its name means nothing from now on.
    pub(crate) fn close(&mut self, id: ListenerId) {
        let Some(listener) = self.get(id) else { return };
        let port = (listener.pif as u8, listener.port, id.slot);
        self.count(listener.leads_to, None);
        self.by_port.remove(&port);
        let slot = &mut self.slots[id.slot as usize];
        slot.listener = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot);
        self.ready.retain(|&other| other != id);
        self.waited.retain(|&other| other != id);
    }

    /// Closes all sockets.
    pub(crate) fn close_all(&mut self) {
        let open: Vec<_> = self.iter().map(|(id, _)| id).collect();
        for id in open {
            self.close(id);
        }
    }

    /// Puts a socket on the list for this turn, once.
    pub(crate) fn mark_ready(&mut self, id: ListenerId) {
        if let Some(listener) = self.get_mut(id)
            && !std::mem::replace(&mut listener.ready, true)
        {
            self.ready.push_back(id);
        }
    }

    /// Number of sockets on the list for this turn.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Takes the next socket of this turn.
    pub(crate) fn next_ready(&mut self) -> Option<ListenerId> {
        let id = self.ready.pop_front()?;
        if let Some(listener) = self.get_mut(id) {
            (listener.ready, listener.waiting) = (false, false);
        }
        Some(id)
    }

    /// A socket was served: it `waits` for room, or for its next event.
    pub(crate) fn served(&mut self, id: ListenerId, waits: bool) {
        let epoll = self.epoll.clone();
        let Some(listener) = self.get_mut(id) else { return };
        listener.waiting = waits;
        if std::mem::replace(&mut listener.edges_only, waits) != waits {
            watch(&epoll, listener, id);
        }
        if waits && !std::mem::replace(&mut listener.listed, true) {
            self.waited.push(id);
        }
    }

    /// Lists all sockets that had to wait for this turn: a flow has ended, or the guest has room again. Costs
    /// nothing while none waits.
    pub(crate) fn wake_all(&mut self) {
        let mut waited = std::mem::take(&mut self.waited);
        for id in waited.drain(..) {
            let Some(listener) = self.get_mut(id) else { continue };
            listener.listed = false;
            if std::mem::take(&mut listener.waiting) {
                self.mark_ready(id);
            }
        }
        self.waited = waited;
    }

    /// A connection was accepted that the guest's server may know nothing of yet.
    pub(crate) fn admit(&mut self, id: ListenerId) {
        if let Some(listener) = self.get_mut(id) {
            listener.admitted += 1;
        }
    }

    /// The guest knows of a connection, or it is over. The next one may be accepted.
    pub(crate) fn discharge(&mut self, id: ListenerId) {
        let Some(listener) = self.get_mut(id) else { return };
        listener.admitted -= 1;
        self.go_on(id);
    }

    /// A connection was accepted for which its server's queue has no place. Accepting pauses: the next ones wait in our queue.
    pub(crate) fn hold(&mut self, id: ListenerId) {
        if let Some(listener) = self.get_mut(id) {
            listener.held += 1;
        }
    }

    /// That connection has found a place, or no longer keeps others waiting.
    pub(crate) fn let_go(&mut self, id: ListenerId) {
        let Some(listener) = self.get_mut(id) else { return };
        listener.held -= 1;
        self.go_on(id);
    }

    /// Whether accepting may pause for a connection for which its server's queue has no place: not while one is open whose
    /// pause has timed out.
    pub(crate) fn has_patience(&self, id: ListenerId) -> bool {
        self.get(id).is_some_and(|listener| listener.in_vain == 0)
    }

    /// The pause for a connection has timed out: others are accepted again.
    pub(crate) fn lose_patience(&mut self, id: ListenerId) {
        if let Some(listener) = self.get_mut(id) {
            listener.in_vain += 1;
        }
        self.let_go(id);
    }

    /// A connection whose pause had timed out is connected, or over.
    pub(crate) fn regain_patience(&mut self, id: ListenerId) {
        if let Some(listener) = self.get_mut(id) {
            listener.in_vain -= 1;
        }
    }

    /// Lists a socket that had to wait for this turn.
    fn go_on(&mut self, id: ListenerId) {
        if let Some(listener) = self.get_mut(id)
            && std::mem::take(&mut listener.waiting)
        {
            self.mark_ready(id);
        }
    }
}

fn data(id: ListenerId) -> epoll::EventData {
    epoll::EventData::new_u64(Token::Listener(id).to_bits())
}

/// Watches a listening socket in the way that it says.
fn watch(epoll: &OwnedFd, listener: &Listener, id: ListenerId) {
    let mut events = epoll::EventFlags::IN;
    events.set(epoll::EventFlags::ET, listener.edges_only);
    if let Err(errno) = epoll::modify(epoll, &listener.socket, data(id), events) {
        log::error!("cannot watch port {}: {errno}", listener.port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::fwd::{Rule, RuleTable, example};
    use rustix::event::{EventfdFlags, eventfd};

    fn rule() -> RuleId {
        let rule = Rule::plain(Proto::Tcp, (22, 22), 22);
        RuleTable::default().add(rule, &example::network()).expect("a valid rule")
    }

    fn add(listeners: &mut Listeners) -> ListenerId {
        let socket = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor");
        listeners
            .add(Listener::new(socket, (Pif::Host, rule()), (ListenAddr::Dual, Proto::Tcp, 22)))
            .expect("watched")
    }

    fn listeners() -> Listeners {
        Listeners::new(Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).expect("an instance")))
    }

    #[test]
    fn a_name_is_never_given_again() {
        let mut listeners = listeners();
        let first = add(&mut listeners);
        listeners.mark_ready(first);
        listeners.close(first);
        let second = add(&mut listeners);
        assert_ne!(first, second);
        assert!(listeners.get(first).is_none() && listeners.get(second).is_some());
        assert_eq!((listeners.len(), listeners.next_ready()), (1, None));
        listeners.close(first);
        assert_eq!(listeners.len(), 1, "an old name closes nothing");
        assert_eq!(ListenerId::from_bits(second.to_bits()), second);
    }

    #[test]
    fn it_is_known_which_ports_of_the_guest_sockets_lead_to() {
        let mut listeners = listeners();
        let mut leading = |port| {
            let socket = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor");
            let listener =
                Listener::new(socket, (Pif::Host, rule()), (ListenAddr::Dual, Proto::Udp, 22));
            listeners.add(listener.leading_to(Some(port))).expect("watched")
        };
        let ids = [leading(7), leading(7)];
        listeners.close(ids[0]);
        assert!(listeners.lead_to(7) && !listeners.lead_to(8));
        listeners.move_to(ids[1], rule(), Some(8));
        assert!(!listeners.lead_to(7) && listeners.lead_to(8));
        listeners.close(ids[1]);
        assert!(!listeners.lead_to(8));
    }

    #[test]
    fn who_waits_is_woken_once() {
        let mut listeners = listeners();
        let ids = [(); 3].map(|()| add(&mut listeners));
        for id in ids {
            listeners.served(id, true);
            listeners.served(id, true);
        }
        listeners.close(ids[1]);
        listeners.wake_all();
        let woken: Vec<_> = std::iter::from_fn(|| listeners.next_ready()).collect();
        assert_eq!(woken, [ids[0], ids[2]]);
        listeners.wake_all();
        assert_eq!(listeners.next_ready(), None);
    }

    #[test]
    fn a_port_admits_as_many_as_the_limit_says() {
        let mut listeners = listeners();
        let id = add(&mut listeners);
        for _ in 0..ADMISSIONS_PER_PORT {
            assert!(listeners.get(id).expect("open").admits(usize::MAX));
            listeners.admit(id);
        }
        assert!(!listeners.get(id).expect("open").admits(usize::MAX));
        listeners.served(id, true);
        listeners.discharge(id);
        assert_eq!(listeners.next_ready(), Some(id), "who waited goes on");
        assert!(listeners.get(id).expect("open").admits(usize::MAX));
    }
}
