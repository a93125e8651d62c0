//! One socket for a port of the guest, whomever it talks to: what the host's own programs have that do not connect
//! theirs. In the words of RFC 4787: the mapping is independent of the endpoint (REQ-1), and the port is the guest's
//! where the host has it free; filtering is independent of the endpoint, too (REQ-8). So a server may answer from
//! another port (TFTP), many may answer a question to a group (SSDP, mDNS), and a third one may be told of the
//! port and write to it (hole punching, DHT). Who may not write to the guest's program is its own kernel's
//! business: a connected socket there refuses strangers as it would here.
//!
//! # Who may write to a port of the guest
//! Whoever may write to the same port of a program of the host, but
//! * only while the guest talks from it: the port opens with its first datagram, and closes with the flow. What keeps
//!   that open is the guest, and whoever has the address that it talks to at present; a stranger does not (RFC 4787,
//!   REQ-6), for one who writes to all ports now and then would fill the table for ever;
//! * only who *is to the guest what it is to the host* ([`Net::as_it_is`]): under its own address, which also leads back
//!   to it. Loopback, the host's copy of the guest's address, links other than the guest's, whoever an address
//!   was mapped to: none of them is let in this way. The guest talks to those in flows of two, each with a
//!   connected socket (`socket`), and a port from which it has talked to nobody else is open to nobody else. To the host's
//!   copy of the address that it was assigned it talks where it has taken another one;
//! * only whom the guest may reach, by the operator's rules;
//! * not to a port that is forwarded: there the rule says who may write, and how; the guest's own datagrams from it are
//!   flows of two, too. A rule that comes later ends the flow with anybody.
//!
//! # Whose port it is
//! The socket is bound without `SO_REUSEADDR`: a port that another socket has, of us or of any program of
//! the host, is not shared, and nobody else can bind to it while the socket is open. So two addresses of the guest
//! never have one port, no listening socket loses what is for it, and nobody else gets what is for the guest; who
//! comes second gets a port that the kernel chooses. Connected sockets of the same port of the guest are let in
//! ([`socket::sharing`]), and so are those that receive for groups (`groups`): they share their port with everybody and
//! get nothing that is for one host. A socket that comes after one of those is bound to the address that it
//! sends from, so that it is seen whether somebody else has the port.
//!
//! # When a peer gets a connected socket
//! When the guest goes on with it for long, or it with the guest ([`TALKS_ON`]). That saves a tenth of the time, since
//! the kernel need not look for the route each time, nor we for who has sent each datagram
//! (`contrib/PERFORMANCE.md`); and the peer has a queue of its own, which no stranger can fill. It has the same port, and
//! the flow with anybody lives on with it, so nobody else notices. Its socket is opened when that of the flow with
//! anybody has nothing waiting, so that no datagram overtakes another.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use super::begin::add;
use crate::engine::core::Core;
use crate::engine::datagram_socket;
use crate::engine::net::Net;
use crate::engine::state::{Broadcast, DatagramState, FlowKind, FlowState};
use crate::engine::unreachable::reason_of_binding;
use crate::flow::fwd::{HostSide, Proto, is_many};
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::FlowId;
use crate::limits::TALKS_ON;
use crate::sys::socket::{self, BindTo, Transport};
use crate::wire::DropReason;
use crate::wire::ip::L4Protocol;

/// Ports where whoever asks gets one answer, and that is all: DNS and NTP.
const QUESTION_PORTS: [u16; 2] = [53, 123];

/// Whether a datagram to this port is a question.
pub(in crate::engine) fn is_question(port: u16) -> bool {
    QUESTION_PORTS.contains(&port)
}

/// The side toward the guest of the flow that its endpoint has with anybody.
pub(super) fn guest_side(guest: Endpoint) -> Side {
    Side { pif: Pif::Tap, ours: Endpoint::anybody(guest.ip().is_ipv4()), endpoint: guest }
}

/// The flow with anybody that takes a datagram of `side`, because the one before went to the same place. With it,
/// whether the guest goes on with that peer for long.
pub(super) fn goes_on(core: &mut Core, side: &Side) -> Option<(FlowId, bool)> {
    let id = core.flows.find(L4Protocol::Udp, &guest_side(side.endpoint))?;
    let flow = core.flows.table.get_mut(id)?;
    let FlowKind::Udp(state) = &mut flow.state.kind else { return None };
    let to = state.to.filter(|&to| Endpoint::from(to) == side.ours)?;
    if !is_heard_from(&core.net, (side.ours.ip(), to.ip())) {
        return None;
    }
    if flow.state.epoch != core.net.epoch() {
        if !leads_where_it_did(&core.net, side, flow.sides[1].ours.ip(), to) {
            return None;
        }
        flow.state.epoch = core.net.epoch();
    }
    state.streak = (state.streak + 1) % TALKS_ON;
    Some((id, state.streak == 0))
}

/// Whether what `real` answers, to which the guest sends as `seen`, is let in by a flow with anybody ([`visible`]). Who is one
/// of many answers under an address of its own.
pub(super) fn is_heard_from(net: &Net, (seen, real): (IpAddr, IpAddr)) -> bool {
    seen == real && (is_many(real) || net.is_seen_as_it_is(real))
}

/// Whether what the guest sends as `side` goes to `to` from the address `source` by the view of the network in force, too.
fn leads_where_it_did(net: &Net, side: &Side, source: IpAddr, to: SocketAddr) -> bool {
    let target = net.would_lead(Proto::Udp, side.endpoint.with_scope(0), side.ours.with_scope(0));
    !net.reads_names(side)
        && target.is_ok_and(|target| target.source.ip() == source && target.destination == to)
}

/// The flow with anybody that takes a datagram of `side` to `target`, a new one if there is none. `None` if that is
/// one for a flow of two.
pub(super) fn find_or_open(
    core: &mut Core,
    side: &Side,
    target: &HostSide,
) -> Result<Option<FlowId>, DropReason> {
    let to = target.destination;
    if !is_heard_from(&core.net, (side.ours.ip(), to.ip())) || core.net.reads_names(side) {
        return Ok(None);
    }
    let guest = guest_side(side.endpoint);
    let known = core.flows.find(L4Protocol::Udp, &guest).filter(|&id| {
        let stays = is_bound_to(core, id, target.source) && !is_bound_too_near(core, id, to);
        if !stays {
            log::debug!("{id:?}: leads elsewhere now, closing");
            core.flows.remove(id);
        }
        stays
    });
    let id = match known {
        Some(id) => id,
        None if core.listeners.lead_to(side.endpoint.port()) => return Ok(None),
        None => open(core, guest, target)?,
    };
    let epoch = core.net.epoch();
    if would_hear_itself(core, id, to) {
        return Err(DropReason::OwnDatagram);
    }
    let Some(flow) = core.flows.table.get_mut(id) else { return Ok(None) };
    flow.state.epoch = epoch;
    let fd = flow.state.socket.as_fd();
    if to.ip().is_multicast()
        && let FlowKind::Udp(state) = &mut flow.state.kind
    {
        state.marks.lead_groups(fd, to.is_ipv4(), core.net.map.group_interface(to.ip()));
    }
    if let FlowKind::Udp(state) = &mut flow.state.kind {
        let so_far = state.questions || state.to.is_none();
        state.to_others |= state.to.is_some_and(|before| before != to);
        (state.to, state.questions) = (Some(to), so_far && is_question(to.port()));
        (state.streak, state.heard) = (0, 0);
    }
    Ok(Some(id))
}

/// Whether the socket of a flow would get what it sends to `to`: nobody has that port of this host but itself, where it is
/// bound to that address or to all of them, and to no device.
fn would_hear_itself(core: &Core, id: FlowId, to: SocketAddr) -> bool {
    let Some(flow) = core.flows.table.get(id) else { return false };
    let is_own_port = flow.sides[1].ours.port() == to.port();
    let has_device = core.settings.outbound_device(to.ip()).is_some();
    let has_address = |own: SocketAddr| own.ip().is_unspecified() || own.ip() == to.ip();
    is_own_port
        && !has_device
        && socket::local_address(flow.state.fd()).is_ok_and(has_address)
        && socket::is_of_this_host(to)
}

/// Whether the socket of a flow has the address that a new one would have.
fn is_bound_to(core: &Core, id: FlowId, source: SocketAddr) -> bool {
    core.flows.table.get(id).is_some_and(|flow| flow.sides[1].ours.ip() == source.ip())
}

/// The guest sends as `side` to a group by the socket that receives for it, which gets nothing that is for one host. But
/// whoever answers the guest alone does so to the port that it has asked from (RFC 6762, section 5.4): it has a flow with
/// anybody for as long as it asks, if nobody else of the host has the port.
pub(super) fn hear_answers(core: &mut Core, side: &Side) {
    let guest = guest_side(side.endpoint);
    if let Some(id) = core.flows.find(L4Protocol::Udp, &guest) {
        if let Some(flow) = core.flows.table.get_mut(id)
            && let FlowKind::Udp(state) = &mut flow.state.kind
        {
            state.active = core.now;
        }
        return;
    }
    let (from, group) = (side.endpoint.with_scope(0), side.ours.with_scope(0));
    let Ok(target) = core.net.would_lead(Proto::Udp, from, group) else { return };
    if core.listeners.lead_to(from.port()) {
        return;
    }
    let (to, toward) = binding(core, &target);
    let bound = socket::create(Transport::Udp, target.source.ip()).and_then(|socket| {
        datagram_socket::bind_for_anybody(socket.as_fd(), &to, toward)?;
        // Programs of the host that share it may begin at any time, and do.
        socket::share(socket.as_fd(), true).map(|()| socket)
    });
    // It is one of the host's programs that hears them.
    let Ok(socket) = bound else { return };
    if core.make_datagram_room(Pif::Tap, 1).is_ok() {
        let _ = add_flow(core, guest, (socket, target.source));
    }
}

/// Whether a flow that [`hear_answers`] has opened, of which nothing was sent yet, has an address of one link, and `to` is
/// beyond it.
fn is_bound_too_near(core: &Core, id: FlowId, to: SocketAddr) -> bool {
    let is_near = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_multicast());
    let Some(flow) = core.flows.table.get(id) else { return false };
    let unused = flow.state.kind.datagrams().is_some_and(|state| state.to.is_none());
    let own = |fd| socket::local_address(fd).is_ok_and(|own| is_near(own.ip()));
    unused && to.is_ipv6() && !is_near(to.ip()) && own(flow.state.fd())
}

/// Where the socket of a flow with anybody is bound to, and whom it sends toward if the port is one on which we receive
/// for groups.
fn binding<'a>(core: &'a Core, target: &HostSide) -> (BindTo<'a>, Option<(SocketAddr, u32)>) {
    let source = target.source;
    let to = BindTo::to(source).on(core.settings.outbound_device(source.ip()));
    let shared = core.groups.use_port(source.is_ipv4(), source.port());
    let toward = (target.destination, core.net.map.group_interface(source.ip()));
    (to, Some(toward).filter(|_| shared))
}

fn open(core: &mut Core, guest: Side, target: &HostSide) -> Result<FlowId, DropReason> {
    core.make_datagram_room(Pif::Tap, 1)?;
    let mut source = target.source;
    let (to, toward) = binding(core, target);
    let opened = socket::create(Transport::Udp, source.ip())
        .and_then(|socket| datagram_socket::unconnected(socket, &to, toward));
    let (socket, port) = opened.map_err(|errno| {
        log::debug!("UDP socket at {source}: {errno}");
        reason_of_binding(errno, source)
    })?;
    source.set_port(port);
    add_flow(core, guest, (socket, source))
}

/// Adds the flow with anybody of the guest's end `guest`, by a socket that is bound to `source`.
fn add_flow(
    core: &mut Core,
    guest: Side,
    (socket, source): (OwnedFd, SocketAddr),
) -> Result<FlowId, DropReason> {
    let host = Side { pif: Pif::Host, ours: source.into(), endpoint: guest.ours };
    let mut state = DatagramState::new(core.now);
    if core.net.network.services.multicast {
        state.set_broadcast(Broadcast::Possible);
    }
    let state = FlowState::new(socket, core.net.epoch(), core.now, FlowKind::Udp(state));
    add(core, [guest, host], L4Protocol::Udp, state)
}

/// Ends the flow that the guest's endpoint has with anybody: its port is forwarded now.
pub(super) fn end(core: &mut Core, guest: Endpoint) {
    if let Some(id) = core.flows.find(L4Protocol::Udp, &guest_side(guest)) {
        log::debug!("{id:?}: the port is forwarded now, closing");
        core.flows.remove(id);
    }
}

/// What the guest sees of whoever has sent a datagram to its flow with anybody; `None` if it is not let in. The flow may
/// have sent broadcasts from the port `broadcasts_from`: they are for this host, too, and come back.
pub(super) fn visible(
    net: &Net,
    guest: &Side,
    broadcasts_from: Option<u16>,
    sender: Option<SocketAddr>,
) -> Option<Side> {
    let sender = sender?;
    let ours = net.as_it_is(guest.endpoint.with_scope(0), sender)?;
    let is_own = broadcasts_from == Some(sender.port()) && socket::is_of_this_host(sender);
    (!is_own).then_some(Side { ours, ..*guest })
}
