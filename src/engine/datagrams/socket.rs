//! The sockets of datagram flows of two, and the flows themselves: the guest begins one by sending, the network by a
//! datagram on a listening socket. Flows with anybody are `anybody`'s.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use passt_frame::Errno;

use super::begin::add;
use super::{Datagrams, anybody, groups};
use crate::engine::core::Core;
use crate::engine::datagram_socket::{self, Beside, Connected, SocketSpec, connected};
use crate::engine::marks::SocketMarks;
use crate::engine::state::{DatagramState, FlowKind, FlowState};
use crate::engine::unreachable::{reason_of_connecting, reason_of_opening};
use crate::flow::fwd::{HostSide, Proto, Rule, is_many};
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::{Flow, FlowId};
use crate::limits::TALKS_ON;
use crate::sys::datagram;
use crate::sys::socket::{self, BindTo, Transport};
use crate::wire::DropReason;
use crate::wire::ip::{IpHead, L4Protocol};

/// The port of TFTP servers, which answer from others.
const TFTP: u16 = 69;

/// The flow of a datagram from the guest, a new one if there is none. One that was made under another view of the
/// network and would go elsewhere now ends, and a new one takes its place.
pub(super) fn find_or_open(
    core: &mut Core,
    datagrams: &mut Datagrams,
    ip: &IpHead,
    ports: (u16, u16),
) -> Result<FlowId, DropReason> {
    let side = Side::from_guest(ip, ports);
    let known = core.flows.find(ip.protocol, &side).filter(|&id| {
        let stays = leads_where_it_did(core, id, ip.protocol);
        if !stays {
            log::debug!("{id:?}: leads elsewhere now, closing");
            core.flows.remove(id);
        }
        stays
    });
    let id = match known {
        Some(id) => {
            if side.ours.port() == TFTP {
                write_to_port_asked(core, id);
            }
            id
        }
        None => other_than_of_two(core, datagrams, ip.protocol, side)?,
    };
    core.flows.note_use(id, core.now);
    core.looks.on_guest(&mut core.flows, id);
    core.note_queue(id);
    Ok(id)
}

/// The flow with anybody that takes what the guest sends, or a new one.
fn other_than_of_two(
    core: &mut Core,
    datagrams: &mut Datagrams,
    protocol: L4Protocol,
    side: Side,
) -> Result<FlowId, DropReason> {
    if protocol == L4Protocol::Udp
        && let Some(id) = groups::sender(core, &side)
    {
        anybody::hear_answers(core, &side);
        return Ok(id);
    }
    if protocol == L4Protocol::Udp
        && let Some((id, for_long)) = anybody::goes_on(core, &side)
    {
        let own = if for_long && !core.flows.waits(id) {
            take_out(core, datagrams, id, side)
        } else {
            None
        };
        return Ok(own.unwrap_or(id));
    }
    if protocol == L4Protocol::Udp
        && core.flows.have_any_port()
        && let Some(id) = transfer_of(core, side)
    {
        return Ok(id);
    }
    let (guest, remote) = (side.endpoint.with_scope(0), side.ours.with_scope(0));
    let target = core.net.to_host(protocol.into(), guest, remote)?;
    if protocol == L4Protocol::Udp && remote.ip().is_multicast() {
        groups::sends_to(core, remote);
        if let Some(id) = groups::sender(core, &side) {
            anybody::hear_answers(core, &side);
            return Ok(id);
        }
    }
    if protocol == L4Protocol::Udp
        && let Some(id) = anybody::find_or_open(core, &side, &target)?
    {
        return Ok(id);
    }
    core.make_datagram_room(Pif::Tap, 1)?;
    open_outbound(core, datagrams, target, (protocol, side), true)
}

/// The flow of a transfer that the guest goes on with as `side`, at the port that the server has chosen for it
/// (RFC 1350, section 4). That is the one by which it was asked, whose socket may be written to from any port of the
/// server. Only where the flow is of two because of who that is: others are in flows with anybody.
fn transfer_of(core: &mut Core, side: Side) -> Option<FlowId> {
    let asked = Side { ours: Endpoint::new(side.ours.ip(), TFTP), ..side };
    let id = core.flows.find(L4Protocol::Udp, &asked)?;
    let (guest, seen) = (side.endpoint.with_scope(0), side.ours.with_scope(0));
    let target = core.net.would_lead(Proto::Udp, guest, seen).ok()?;
    let flow = core.flows.table.get_mut(id)?;
    let FlowKind::Udp(state) = &mut flow.state.kind else { return None };
    if !state.any_port || target.destination.ip() != flow.sides[1].endpoint.ip() {
        return None;
    }
    state.to = Some(target.destination);
    Some(id)
}

/// The guest asks a server again.
fn write_to_port_asked(core: &mut Core, id: FlowId) {
    let Some(flow) = core.flows.table.get_mut(id) else { return };
    if let FlowKind::Udp(state) = &mut flow.state.kind
        && state.any_port
    {
        state.to = Some(flow.sides[1].endpoint.with_scope(0));
    }
}

/// Opens a flow of two for the peer of the flow `origin` with anybody if that one has sent for long, and nobody else.
/// To be called when nothing waits in the socket.
pub(super) fn take_out_heard(core: &mut Core, datagrams: &mut Datagrams, origin: FlowId) {
    let Some(flow) = core.flows.table.get_mut(origin) else { return };
    let FlowKind::Udp(state) = &mut flow.state.kind else { return };
    if state.heard < TALKS_ON || !flow.sides[1].endpoint.is_anybody() {
        return;
    }
    state.heard = 0;
    if let Some(to) = state.to {
        let side = Side { ours: to.into(), ..flow.sides[0] };
        take_out(core, datagrams, origin, side);
    }
}

/// Opens a flow of two for a peer of the flow `origin` with anybody, with a connected socket that has the same port;
/// `None` if that cannot be had.
fn take_out(
    core: &mut Core,
    datagrams: &mut Datagrams,
    origin: FlowId,
    side: Side,
) -> Option<FlowId> {
    core.flows.check_datagram_room(Pif::Tap, core.listeners.len()).ok()?;
    let (guest, remote) = (side.endpoint.with_scope(0), side.ours.with_scope(0));
    let target = core.net.would_lead(Proto::Udp, guest, remote).ok()?;
    let ours = core.flows.table.get(origin)?.sides[1].ours;
    let elsewhere = target.source.ip() != ours.ip() || side.ours != target.destination.into();
    if elsewhere || is_many(target.destination.ip()) {
        return None;
    }
    let id = open_outbound(core, datagrams, target, (L4Protocol::Udp, side), false).ok()?;
    core.flows.belongs_to(id, origin);
    // What has come already goes first.
    core.flows.mark_ready(origin);
    Some(id)
}

/// Whether a flow goes where a new one would, by the view of the network in force. Those that the network began
/// stay as they are: who answers does not choose a destination.
fn leads_where_it_did(core: &mut Core, id: FlowId, protocol: L4Protocol) -> bool {
    let Some(flow) = core.flows.table.get_mut(id) else { return false };
    let epoch = core.net.epoch();
    if flow.state.epoch == epoch {
        return true;
    }
    let [guest, host] = &flow.sides;
    let same = guest.pif != Pif::Tap || {
        let (from, to) = (guest.endpoint.with_scope(0), guest.ours.with_scope(0));
        let target = core.net.would_lead(protocol.into(), from, to);
        target.is_ok_and(|target| {
            // The port may be another one than the guest's.
            host.ours.ip() == target.source.ip() && host.endpoint == target.destination.into()
        })
    };
    if same {
        flow.state.epoch = epoch;
    }
    same
}

fn open_outbound(
    core: &mut Core,
    datagrams: &mut Datagrams,
    target: HostSide,
    (protocol, side): (L4Protocol, Side),
    or_any_port: bool,
) -> Result<FlowId, DropReason> {
    let mut destination = target.destination;
    let transport = if protocol == L4Protocol::Udp { Transport::Udp } else { Transport::Ping };
    if transport == Transport::Ping {
        destination.set_port(0);
    }
    let device = core.settings.outbound_device(destination.ip());
    let mut source = target.source;
    let of_two = !anybody::is_heard_from(&core.net, (side.ours.ip(), destination.ip()));
    // From the server's own port it would be answered by itself.
    let transfers = transport == Transport::Udp
        && destination.port() == TFTP
        && source.port() != TFTP
        && of_two;
    let any_port = transfers && core.flows.may_take_any_port();
    let anybody = anybody::guest_side(side.endpoint);
    let anybody = core.flows.find(protocol, &anybody).and_then(|id| core.flows.table.get(id));
    if let Some(flow) = anybody {
        source.set_port(flow.sides[1].ours.port());
    }
    let mut host =
        Side { pif: Pif::Host, ours: source.into(), endpoint: target.destination.into() };
    if transport == Transport::Udp && core.flows.find_alike(&host).is_some() {
        // To the kernel, both would be one.
        if !or_any_port {
            return Err(DropReason::AmbiguousPeer);
        }
        source.set_port(0);
    }
    let to = BindTo::to(source).on(device.filter(|_| !destination.ip().is_loopback()));
    let socket = create(datagrams, transport, destination.ip())?;
    let peer = destination;
    let mut marks = SocketMarks::new();
    if peer.ip().is_multicast() {
        let interface = core.net.map.group_interface(peer.ip());
        marks.lead_groups(socket.as_fd(), peer.is_ipv4(), interface);
    }
    let beside = Beside::on_host(anybody.map(|flow| flow.state.fd()), &core.listeners);
    let may_broadcast = core.net.network.services.multicast;
    let spec =
        SocketSpec { transport, to, peer, or_any_port, beside, for_link: true, may_broadcast };
    let Connected { socket, port, broadcasts } = open_socket(socket, &spec, any_port)?;
    let mut state = DatagramState::new(core.now);
    state.marks = marks;
    state.questions = transport == Transport::Udp && anybody::is_question(destination.port());
    state.echo = transport == Transport::Ping;
    state.to_many = broadcasts || peer.ip().is_multicast();
    (state.any_port, state.to) = (any_port, Some(peer).filter(|_| any_port));
    let kind = if state.echo { FlowKind::Echo(state) } else { FlowKind::Udp(state) };
    host.ours = Endpoint::new(source.ip(), port);
    let state = FlowState::new(socket, core.net.epoch(), core.now, kind);
    let id = add(core, [side, host], protocol, state)?;
    if any_port {
        core.flows.takes_any_port(id);
    }
    Ok(id)
}

/// Binds a new socket, and connects it unless its peer may answer from any port.
fn open_socket(
    socket: OwnedFd,
    spec: &SocketSpec<'_>,
    any_port: bool,
) -> Result<Connected, DropReason> {
    let opened = if any_port {
        let unconnected = datagram_socket::unconnected(socket, &spec.to, None);
        unconnected.map(|(socket, port)| Connected { socket, port, broadcasts: false })
    } else {
        let another = || socket::create(spec.transport, spec.peer.ip());
        connected(socket, another, spec)
    };
    opened.map_err(|errno| {
        let (transport, from, peer) = (spec.transport, spec.to.address, spec.peer);
        log::debug!("{transport} socket from {from} to {peer}: {errno}");
        reason_of_connecting(errno, (from, peer), spec.to.interface)
    })
}

/// A new socket; that there are none for echo is said once.
fn create(
    datagrams: &mut Datagrams,
    transport: Transport,
    toward: IpAddr,
) -> Result<OwnedFd, DropReason> {
    socket::create(transport, toward).map_err(|errno| {
        log::debug!("no {transport} socket: {errno}");
        let ping = transport == Transport::Ping;
        let reason = match errno {
            Errno::ACCESS if ping => DropReason::EchoNotAllowed,
            errno => reason_of_opening(errno),
        };
        let short = [DropReason::DescriptorsExhausted, DropReason::MemoryExhausted];
        if ping && !short.contains(&reason) && !std::mem::replace(&mut datagrams.ping_refused, true) {
            log::warn!(
                "Cannot open an ICMP echo socket: {errno}: the guest's pings reach this host only; allow others with\n  \
                 sysctl -w net.ipv4.ping_group_range=\"0 2147483647\""
            );
        }
        reason
    })
}

/// Opens the flow that `peer` begins with a datagram to `local`, on a listening socket of `rule`.
///
/// # Errors
/// The reason why there is none.
pub(in crate::engine) fn open_inbound(
    core: &mut Core,
    rule: &Rule,
    peer: SocketAddr,
    local: SocketAddr,
) -> Result<FlowId, DropReason> {
    let sides = core.net.inbound_sides(rule, peer, local)?;
    anybody::end(core, sides[1].endpoint);
    let sides = core.flows.told_apart(L4Protocol::Udp, sides)?;
    core.make_datagram_room(Pif::Host, 1)?;
    let socket = inbound_socket(core, rule, local, peer).map_err(|errno| {
        log::debug!("no UDP socket from {local} to {peer}: {errno}");
        DropReason::SocketFailed
    })?;
    let mut state = DatagramState::new(core.now);
    state.questions = anybody::is_question(sides[1].endpoint.port());
    let state = FlowState::new(socket, core.net.epoch(), core.now, FlowKind::Udp(state));
    add(core, sides, L4Protocol::Udp, state)
}

/// Sees to it that whoever sends again and again reaches the address that ports lead to now: flows that the network has
/// begun toward the one before end if nobody has answered there. To be called once in each turn.
pub(in crate::engine) fn follow_guest(core: &mut Core) {
    let now = core.net.led_to();
    let before = std::mem::replace(&mut core.led_to, now);
    if now == before {
        return;
    }
    let is_former =
        |address: IpAddr| before.contains(&Some(address)) && !now.contains(&Some(address));
    let is_lost = |flow: &Flow<FlowState>| match (&flow.state.kind, &flow.sides) {
        (FlowKind::Udp(state), [Side { pif: Pif::Host, .. }, guest]) => {
            state.counts[1] == 0 && is_former(guest.endpoint.ip())
        }
        _ => false,
    };
    for slot in 0..core.flows.table.extent() {
        let Some(id) = core.flows.table.id_of(slot) else { continue };
        if core.flows.table.get(id).is_some_and(is_lost) {
            log::debug!("{id:?}: the guest has another address now, closing");
            core.flows.remove(id);
        }
    }
}

/// A socket of the flow's own, so that the kernel gives it what `peer` sends from now on.
fn inbound_socket(
    core: &Core,
    rule: &Rule,
    local: SocketAddr,
    peer: SocketAddr,
) -> Result<OwnedFd, Errno> {
    // A link-local address is one of the link on which its peer is.
    let scope = match peer {
        SocketAddr::V6(peer) if peer.ip().is_unicast_link_local() => peer.scope_id(),
        _ => core.net.network.scope_id(),
    };
    let interface = rule.interface.as_ref().map(|name| name.as_str());
    let address = Endpoint::from(local).with_scope(scope);
    let to = BindTo { freebind: core.settings.freebind, ..BindTo::to(address).on(interface) };
    let transport = Transport::Udp;
    let create = || socket::create(transport, local.ip());
    let socket = create()?;
    if local.ip().is_multicast() {
        // All of the group's go to the listening socket, which hands them to this flow.
        let _ = datagram::own_groups_only(socket.as_fd(), local.is_ipv4());
    }
    let spec = SocketSpec {
        transport,
        to,
        peer,
        or_any_port: false,
        beside: Beside::on_host(None, &core.listeners),
        for_link: true,
        may_broadcast: false,
    };
    connected(socket, create, &spec).map(|opened| opened.socket)
}
