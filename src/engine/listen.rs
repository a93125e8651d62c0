//! Listening sockets: one for each port of each forwarding rule. A TCP connection or the first UDP
//! datagram on one of them starts a flow toward the guest. Those of a guest's namespace, for the ports
//! that lead from there to the host, are served by the same code.
//!
//! They are watched level-triggered: accept4(2) makes a socket before it finds that nobody waits, so no
//! more connections are accepted after an event than are likely to wait ([`Expected`]). A socket that has
//! to wait for room is watched edge-triggered until it may go on: who comes next has it try again.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use passt_frame::{Errno, Expected, ToGuest};
use rustix::event::epoll;
use rustix::net::{self as rnet, sockopt};

use super::Engine;
use super::datagram_socket::{Opening, open};
use super::datagrams::{Drained, drain};
use super::state::{DatagramState, FlowState, Protocol};
use super::token::Token;
use super::udp_to_guest::udp_to_guest;
use crate::flow::fwd::{self, GuestSide, ListenAddr, Outcome, Proto, Rule, RuleTable};
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::FlowId;
use crate::limits::{ACCEPTS_PER_TURN, PLACES_PER_PORT};
use crate::sys::datagram::{self, Waiting};
use crate::sys::errno_text;
use crate::sys::socket::{self, BindTo, Transport};
use crate::sys::stream;
use crate::wire::DropReason;
use crate::wire::ip::L4Protocol;

/// Connections that the kernel holds for us until they are accepted: as many as `somaxconn` allows (4096
/// by default), not passt's 128. Where the queue is full SYNs are lost, and who connects waits a second
/// before it tries again; a longer queue costs nothing until it is used.
const BACKLOG: i32 = i32::MAX;

/// One listening socket.
pub struct Listener {
    /// The socket.
    pub socket: OwnedFd,
    /// Where it listens: on the host, or in the guest's namespace.
    pub(super) pif: Pif,
    /// Index in the rule table of `pif`.
    rule: usize,
    pub(super) proto: Proto,
    port: u16,
    /// Already on the list for this turn.
    ready: bool,
    /// Waits for room: flows or descriptors were exhausted, or the guest's buffers full.
    waiting: bool,
    /// Watched edge-triggered, since it had to wait.
    edges_only: bool,
    /// Connections that are likely to wait after an event.
    expected: Expected,
    /// Accepted connections of which the guest's server may know nothing yet.
    places_taken: usize,
}

/// A connection that was accepted.
pub(super) struct Arrival {
    pub socket: OwnedFd,
    pub peer: SocketAddr,
    /// Where it was accepted, and on which port.
    pub pif: Pif,
    port: u16,
    /// Index of the listening socket.
    pub listener: u32,
}

impl Arrival {
    /// The address that the connection was made to. A socket that listens on one address of its own has
    /// no other; the scope of a link-local one is known to the kernel.
    pub fn local(&self, rule: &Rule) -> Result<SocketAddr, DropReason> {
        let address: IpAddr = match rule.listen {
            ListenAddr::V4(v4) if !v4.is_unspecified() => v4.into(),
            ListenAddr::V6(v6) if !v6.is_unspecified() && !v6.is_unicast_link_local() => v6.into(),
            _ => {
                let local = socket::local_address(self.socket.as_fd());
                return local.map_err(|_| DropReason::SocketFailed);
            }
        };
        Ok(SocketAddr::new(address, self.port))
    }
}

/// All listening sockets. Their indexes stay the same while others come and go.
#[derive(Default)]
pub struct Listeners {
    slots: Vec<Option<Listener>>,
    free: Vec<u32>,
}

impl Listeners {
    /// Number of listening sockets.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The listening socket with this index, if it is still open.
    pub fn get(&self, index: usize) -> Option<&Listener> {
        self.slots.get(index)?.as_ref()
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Listener> {
        self.slots.get_mut(index)?.as_mut()
    }

    /// A connection was accepted that the guest knows nothing of yet.
    pub fn take_place(&mut self, index: u32) {
        if let Some(listener) = self.get_mut(index as usize) {
            listener.places_taken += 1;
        }
    }

    /// The guest knows of a connection, or it is over. Whether the socket waited for that.
    pub fn give_place_back(&mut self, index: u32) -> bool {
        let Some(listener) = self.get_mut(index as usize) else { return false };
        // The index may have another owner by now.
        listener.places_taken = listener.places_taken.saturating_sub(1);
        std::mem::take(&mut listener.waiting)
    }

    /// The index that the next listening socket will have.
    fn next_index(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.slots.len() as u32)
    }

    fn add(&mut self, listener: Listener) {
        match self.free.pop() {
            Some(index) => self.slots[index as usize] = Some(listener),
            None => self.slots.push(Some(listener)),
        }
    }

    /// Closes the socket of a rule's port. An event that still names it finds nothing, or a younger
    /// socket that has nothing to accept.
    pub fn close(&mut self, pif: Pif, rule: usize, port: u16) {
        let is_it =
            |listener: &Listener| (listener.pif, listener.rule, listener.port) == (pif, rule, port);
        if let Some(index) = self.slots.iter().position(|slot| slot.as_ref().is_some_and(is_it)) {
            self.slots[index] = None;
            self.free.push(index as u32);
        }
    }

    /// Protocol and port of all that listen on `pif`.
    pub fn on(&self, pif: Pif) -> impl Iterator<Item = (Proto, u16)> + '_ {
        let listeners = self.slots.iter().flatten().filter(move |listener| listener.pif == pif);
        listeners.map(|listener| (listener.proto, listener.port))
    }
}

/// Why not all ports could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A port of a rule that must listen on all of its ports.
    #[error(
        "Listen failed for {place}: {}\n\
         Failed to bind port {port}: {} (option {option})\n\
         Couldn't listen on requested ports",
        errno_text(*errno),
        cure(*errno)
    )]
    Port {
        /// Where.
        place: String,
        /// The option that asks for it.
        option: &'static str,
        /// The port.
        port: u16,
        /// What setsockopt(2), bind(2) or listen(2) said.
        errno: Errno,
    },
    /// A rule of which no port could be opened.
    #[error(
        "All listens failed for {0}\nCouldn't listen on requested ports: choose other ones, or stop \
         the programs that have them"
    )]
    All(String),
}

/// What to do about a port that cannot be opened.
fn cure(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS => {
            "choose one from net.ipv4.ip_unprivileged_port_start on, or lower that sysctl"
        }
        Errno::ADDRINUSE => "choose another one, or stop the program that has it",
        Errno::ADDRNOTAVAIL => {
            "listen on an address that is there (`ip addr`), or give --freebind; a link-local one may \
             need its interface: ADDR%IF/PORT"
        }
        Errno::NODEV => "listen on an interface that is there (`ip link`), or name none",
        Errno::INVAL => "give the interface of the link-local address: ADDR%IF/PORT",
        Errno::PERM => "name no interface, or listen on an address that it has",
        Errno::AFNOSUPPORT => "listen on an address of the other family: the kernel lacks this one",
        Errno::MFILE | Errno::NFILE => "open fewer ports, or raise ulimit -Hn",
        _ => "choose another one",
    }
}

/// Where a port of a rule is listened on, for the operator: `HOST TCP port ADDR%IF/PORT`.
pub(super) fn place(pif: Pif, rule: &Rule, port: u16) -> String {
    format!("{pif} {} port {}/{port}", rule.proto, address(rule))
}

/// The same of all ports of a rule: `HOST TCP ADDR%IF/FIRST-LAST`.
fn all_places(pif: Pif, rule: &Rule) -> String {
    format!("{pif} {} {}/{}-{}", rule.proto, address(rule), rule.first, rule.last)
}

/// The option with which ports are given.
fn option(pif: Pif, proto: Proto) -> &'static str {
    match (pif, proto) {
        (Pif::Splice, Proto::Tcp) => "-T",
        (Pif::Splice, _) => "-U",
        (_, Proto::Tcp) => "-t",
        _ => "-u",
    }
}

/// `ADDR%IF` of a rule.
fn address(rule: &Rule) -> String {
    match rule.interface {
        Some(interface) => format!("{}%{interface}", rule.listen),
        None => rule.listen.to_string(),
    }
}

impl Engine {
    /// Opens the listening sockets of all rules; those with the scan flag listen where others do.
    ///
    /// # Errors
    /// The first port that must be opened and could not.
    pub fn listen(&mut self) -> Result<(), ListenError> {
        self.listen_table(Pif::Host, &self.addressing.rules.clone())?;
        if let Some(parts) = &self.bypass {
            self.listen_table(Pif::Splice, &parts.outbound.clone())?;
        }
        self.ready_listeners.reserve(self.listeners.len());
        self.scan_ports();
        Ok(())
    }

    fn listen_table(&mut self, pif: Pif, table: &RuleTable) -> Result<(), ListenError> {
        let mut outcomes = Vec::with_capacity(table.rules().len());
        for (index, rule) in table.rules().iter().enumerate() {
            outcomes.push(match rule.scan {
                true => Outcome::default(),
                false => self.listen_rule(pif, index, rule)?,
            });
        }
        match table.starved(&outcomes) {
            Some(rule) => Err(ListenError::All(all_places(pif, rule))),
            None => Ok(()),
        }
    }

    /// A rule by the place where it listens and its number.
    pub(super) fn rule(&self, pif: Pif, number: usize) -> Option<Rule> {
        let table = match pif {
            Pif::Splice => &self.bypass.as_ref()?.outbound,
            _ => &self.addressing.rules,
        };
        table.rules().get(number).copied()
    }

    fn listen_rule(&mut self, pif: Pif, index: usize, rule: &Rule) -> Result<Outcome, ListenError> {
        let mut outcome = Outcome::default();
        // Ports that are opened as far as possible leave half of the descriptors to the flows.
        let room = usize::try_from(self.options.max_descriptors / 2).unwrap_or(usize::MAX);
        for port in rule.first..=rule.last {
            if rule.weak && self.listeners.len() >= room {
                let left = usize::from(rule.last - port) + 1;
                log::warn!(
                    "{rule}: {left} ports are not opened, for want of descriptors: raise ulimit -Hn, of which half is left to connections"
                );
                outcome.denied += left;
                break;
            }
            match self.listen_port(pif, index, rule, port) {
                Ok(()) => outcome.bound += 1,
                Err(errno) if rule.weak => {
                    log::debug!(
                        "Listen failed for {}: {}",
                        place(pif, rule, port),
                        errno_text(errno)
                    );
                    let count = match errno {
                        Errno::ACCESS | Errno::ADDRNOTAVAIL => &mut outcome.denied,
                        _ => &mut outcome.failed,
                    };
                    *count += 1;
                }
                Err(errno) => {
                    let (place, option) = (place(pif, rule, port), option(pif, rule.proto));
                    return Err(ListenError::Port { place, option, port, errno });
                }
            }
        }
        Ok(outcome)
    }

    /// Listens on one port of a rule.
    pub(super) fn listen_port(
        &mut self,
        pif: Pif,
        index: usize,
        rule: &Rule,
        port: u16,
    ) -> Result<(), Errno> {
        let tcp = rule.proto == Proto::Tcp;
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let (address, dual_stack): (IpAddr, bool) = match rule.listen {
            ListenAddr::Dual => (std::net::Ipv6Addr::UNSPECIFIED.into(), true),
            ListenAddr::V4(v4) => (v4.into(), false),
            ListenAddr::V6(v6) => (v6.into(), false),
        };
        // A link-local address is one on the template interface, unless the rule names another.
        let scope = match rule.interface {
            None if pif == Pif::Host => self.addressing.net.scope_id(),
            _ => 0,
        };
        let to = BindTo {
            address: Endpoint::new(address, port).with_scope(scope),
            interface: rule.interface.as_ref().map(|name| name.as_str()),
            freebind: self.options.freebind && pif == Pif::Host,
            dual_stack,
        };
        let socket = self.socket_on(pif, transport, to.address)?;
        socket::bind(socket.as_fd(), &to)?;
        if tcp {
            // What it accepts inherits that.
            sockopt::set_tcp_nodelay(&socket, true)?;
            stream::keep_urgent_inline(socket.as_fd())?;
            rnet::listen(&socket, BACKLOG)?;
        } else {
            datagram::report_destination(socket.as_fd(), address.is_ipv4())?;
        }
        let token = Token::Listener(self.listeners.next_index());
        let data = epoll::EventData::new_u64(token.to_bits());
        epoll::add(&*self.epoll, &socket, data, epoll::EventFlags::IN)?;
        let proto = rule.proto;
        self.listeners.add(Listener {
            socket,
            pif,
            rule: index,
            proto,
            port,
            ready: false,
            waiting: false,
            edges_only: false,
            expected: Expected::default(),
            places_taken: 0,
        });
        Ok(())
    }

    /// Puts a listening socket on the list for this turn, once.
    pub(super) fn mark_listener(&mut self, index: u32) {
        if let Some(listener) = self.listeners.get_mut(index as usize)
            && !std::mem::replace(&mut listener.ready, true)
        {
            self.ready_listeners.push_back(index);
        }
    }

    /// A listening socket is readable, or may go on after it had to wait.
    pub(super) fn serve_listener(&mut self, out: &mut dyn ToGuest, index: u32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else { return };
        (listener.ready, listener.waiting) = (false, false);
        let drained = match listener.proto {
            Proto::Tcp => self.accept_some(out, index as usize),
            _ => self.receive_some(out, index as usize),
        };
        let Some(listener) = self.listeners.get_mut(index as usize) else { return };
        let waits = drained == Drained::NoRoom;
        listener.waiting = waits;
        self.waiting_listeners += usize::from(waits);
        if std::mem::replace(&mut listener.edges_only, waits) != waits {
            watch(&self.epoll, listener, index);
        }
    }

    /// Lists all listening sockets that had to wait for this turn: a flow has ended, or the guest has
    /// room again. Costs nothing while none waits.
    pub(super) fn wake_listeners(&mut self) {
        if self.waiting_listeners == 0 {
            return;
        }
        self.waiting_listeners = 0;
        for index in 0..self.listeners.slots.len() {
            let slot = self.listeners.get_mut(index);
            if slot.is_some_and(|listener| std::mem::take(&mut listener.waiting)) {
                self.mark_listener(index as u32);
            }
        }
    }

    /// Accepts as many connections as are likely to wait. What is left is reported again.
    fn accept_some(&mut self, out: &mut dyn ToGuest, index: usize) -> Drained {
        let Some(listener) = self.listeners.get(index) else { return Drained::Empty };
        let (pif, port, mut expected) = (listener.pif, listener.port, listener.expected);
        let Some(rule) = self.rule(pif, listener.rule) else { return Drained::Empty };
        let mut count = 0;
        while count < ACCEPTS_PER_TURN && expected.goes_on(count) {
            let Some(listener) = self.listeners.get(index) else { return Drained::Empty };
            if let Err(reason) = self.flows.check_room(self.listeners.len()) {
                self.outbox.drops.count(reason);
                return Drained::NoRoom;
            }
            if listener.places_taken >= PLACES_PER_PORT {
                return Drained::NoRoom;
            }
            match socket::accept(listener.socket.as_fd()) {
                Ok((socket, peer)) => {
                    let arrival = Arrival { socket, peer, pif, port, listener: index as u32 };
                    self.route_connection(out, &rule, arrival);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    self.outbox.drops.count(DropReason::DescriptorsExhausted);
                    return Drained::NoRoom;
                }
                // The connection is gone again, or never was one for us: go on with the next.
                Err(errno) => log::debug!("accept on port {port}: {errno}"),
            }
            count += 1;
        }
        expected.learn(count, count < ACCEPTS_PER_TURN && expected.goes_on(count));
        if let Some(listener) = self.listeners.get_mut(index) {
            listener.expected = expected;
        }
        Drained::Empty
    }

    /// The guest's side and our side of what `peer` sent to `local`.
    pub(super) fn inbound_sides(
        &self,
        rule: &Rule,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Result<[Side; 2], DropReason> {
        let addressing = &self.addressing;
        let (net, map, learned) = (&addressing.net, &addressing.map, &addressing.learned);
        let GuestSide { source, destination } = fwd::to_guest(net, map, learned, rule, peer, local)
            .map_err(|refused| {
                log::debug!("No rules to forward HOST {peer} -> {local}: {refused}");
                DropReason::from(refused)
            })?;
        let host = Side { pif: Pif::Host, ours: local.into(), endpoint: peer.into() };
        let tap = Side { pif: Pif::Tap, ours: source.into(), endpoint: destination.into() };
        Ok([host, tap])
    }

    fn receive_some(&mut self, out: &mut dyn ToGuest, index: usize) -> Drained {
        drain(|| self.receive_one(out, index))
    }

    /// Forwards the datagram at the head of a listening socket's queue.
    fn receive_one(&mut self, out: &mut dyn ToGuest, index: usize) -> Option<Drained> {
        let listener = self.listeners.get(index)?;
        let (pif, port) = (listener.pif, listener.port);
        let rule = self.rule(pif, listener.rule)?;
        let waiting = match datagram::peek(listener.socket.as_fd()) {
            Ok(waiting) => waiting,
            Err(Errno::AGAIN) => return None,
            Err(errno) => {
                log::debug!("UDP port {}: {errno}", listener.port);
                return Some(Drained::More);
            }
        };
        let flow = self.inbound_flow((pif, &rule), &waiting, port);
        let fd = self.listeners.get(index)?.socket.as_fd();
        let id = match flow {
            Ok(id) => id,
            Err(reason) => {
                self.outbox.drops.count(reason);
                let _ = datagram::drop_one(fd);
                return Some(Drained::More);
            }
        };
        let flow = self.flows.table.get_mut(id)?;
        if let Protocol::Relay(_) = flow.state.protocol {
            return self.relay_from_listener(index, id);
        }
        let tap = flow.sides.iter().position(|side| side.pif == Pif::Tap)?;
        if let Protocol::Udp(state) = &mut flow.state.protocol {
            state.touch(self.now, 1 - tap, 1);
        }
        let template = self.addressing.template(&flow.sides[tap], L4Protocol::Udp, 0);
        udp_to_guest(&mut self.outbox, out, fd, &template)
    }

    /// The flow of a datagram on a listening socket, a new one if there is none.
    fn inbound_flow(
        &mut self,
        (pif, rule): (Pif, &Rule),
        waiting: &Waiting,
        port: u16,
    ) -> Result<FlowId, DropReason> {
        let peer = waiting.source;
        let local = match (waiting.destination, rule.listen) {
            (Some(address), _) => SocketAddr::new(address, port),
            (None, ListenAddr::V4(v4)) => SocketAddr::new(v4.into(), port),
            (None, ListenAddr::V6(v6)) => SocketAddr::new(v6.into(), port),
            (None, ListenAddr::Dual) => return Err(DropReason::ForbiddenAddress),
        };
        let initiating = Side { pif, ours: local.into(), endpoint: peer.into() };
        if let Some(id) = self.flows.flow_of_peer(&initiating, peer)? {
            return Ok(id);
        }
        if let Some(side) = self.bypass_side(pif, rule, peer, local)? {
            return self.open_relay(rule, initiating, side);
        }
        let sides = self.inbound_sides(rule, peer, local)?;
        let sides = self.told_apart(L4Protocol::Udp, sides)?;
        self.flows.check_datagram_room(Pif::Host, self.listeners.len())?;
        let socket = self.inbound_socket(rule, local, peer).map_err(|errno| {
            log::debug!("no UDP socket from {local} to {peer}: {errno}");
            DropReason::SocketFailed
        })?;
        let state = Protocol::Udp(DatagramState::new(self.now));
        self.add_datagram_flow(sides, L4Protocol::Udp, FlowState::new(socket, state))
    }

    /// A socket of the flow's own, so that the kernel gives it what `peer` sends from now on.
    fn inbound_socket(
        &self,
        rule: &Rule,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Result<OwnedFd, Errno> {
        let scope = self.addressing.net.scope_id();
        let to = BindTo {
            address: Endpoint::from(local).with_scope(scope),
            interface: rule.interface.as_ref().map(|name| name.as_str()),
            freebind: self.options.freebind,
            dual_stack: false,
        };
        let transport = Transport::Udp;
        let socket = socket::create(transport, local.ip())?;
        let opening = Opening { transport, to, peer, or_any_port: false, for_link: true };
        open(socket, &opening).map(|(socket, _)| socket)
    }
}

/// Watches a listening socket in the way that it says.
fn watch(epoll: &OwnedFd, listener: &Listener, index: u32) {
    let mut events = epoll::EventFlags::IN;
    events.set(epoll::EventFlags::ET, listener.edges_only);
    let data = epoll::EventData::new_u64(Token::Listener(index).to_bits());
    if let Err(errno) = epoll::modify(epoll, &listener.socket, data, events) {
        log::error!("cannot watch port {}: {errno}", listener.port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::fwd::InterfaceName;

    fn rule(listen: ListenAddr, interface: Option<&str>) -> Rule {
        Rule {
            listen,
            interface: interface.and_then(InterfaceName::new),
            ..Rule::plain(Proto::Tcp, (22, 24), 22)
        }
    }

    #[test]
    fn errors_name_the_place_the_reason_and_the_cure() {
        let (any, one) = (ListenAddr::Dual, ListenAddr::V6("fe80::1".parse().unwrap()));
        for (pif, rule, errno, place_text, reason, cure_text) in [
            (
                Pif::Host,
                rule(any, None),
                Errno::ADDRINUSE,
                "HOST TCP port */22",
                "Address already in use",
                "stop the program",
            ),
            (
                Pif::Host,
                rule(any, Some("x")),
                Errno::NODEV,
                "HOST TCP port *%x/22",
                "No such device",
                "interface that is there",
            ),
            (
                Pif::Splice,
                rule(any, Some("lo")),
                Errno::ACCESS,
                "SPLICE TCP port *%lo/22",
                "Permission denied",
                "ip_unprivileged_port_start",
            ),
            (
                Pif::Host,
                rule(one, None),
                Errno::INVAL,
                "HOST TCP port fe80::1/22",
                "Invalid argument",
                "ADDR%IF/PORT",
            ),
        ] {
            let (place, option) = (place(pif, &rule, 22), option(pif, rule.proto));
            let text = ListenError::Port { place, option, port: 22, errno }.to_string();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines[0], format!("Listen failed for {place_text}: {reason}"));
            assert!(
                lines[1].starts_with("Failed to bind port 22: ") && lines[1].contains(cure_text)
            );
            let letter = if pif == Pif::Splice { "-T" } else { "-t" };
            assert!(lines[1].ends_with(&format!(" (option {letter})")), "{text}");
            assert_eq!(lines[2..], ["Couldn't listen on requested ports"]);
        }
        let all = ListenError::All(all_places(Pif::Host, &rule(any, None))).to_string();
        assert!(all.starts_with("All listens failed for HOST TCP */22-24\n"), "{all}");
    }
}
