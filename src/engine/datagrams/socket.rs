//! The sockets of datagram flows, and the flows themselves: the guest begins one by sending, the network by a
//! datagram on a listening socket.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use passt_frame::Errno;
use rustix::event::epoll::EventFlags;

use super::{Datagrams, UDP_TIMEOUT};
use crate::engine::core::Core;
use crate::engine::datagram_socket::{SocketSpec, connected};
use crate::engine::state::{DatagramState, FlowKind, FlowState};
use crate::flow::fwd::{Proto, Rule};
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::FlowId;
use crate::sys::socket::{self, BindTo, Transport};
use crate::wire::DropReason;
use crate::wire::ip::{IpHead, L4Protocol};

/// The flow of a datagram from the guest, a new one if there is none. One that was made under another view of the
/// network and would go elsewhere now ends, and a new one takes its place.
pub(super) fn find_or_open(
    core: &mut Core,
    datagrams: &mut Datagrams,
    proto: Proto,
    ip: &IpHead,
    (source_port, destination_port): (u16, u16),
) -> Result<FlowId, DropReason> {
    let side = Side {
        pif: Pif::Tap,
        ours: Endpoint::new(ip.destination, destination_port),
        endpoint: Endpoint::new(ip.source, source_port),
    };
    let known = core.flows.find(ip.protocol, &side).filter(|&id| {
        let stays = leads_where_it_did(core, id, proto);
        if !stays {
            log::debug!("{id:?}: leads elsewhere now, closing");
            core.flows.remove(id);
        }
        stays
    });
    let id = match known {
        Some(id) => id,
        None => open_outbound(core, datagrams, proto, ip.protocol, side)?,
    };
    core.note_queue(id);
    Ok(id)
}

/// Whether a flow goes where a new one would, by the view of the network in force. Those that the network began
/// stay as they are: who answers does not choose a destination.
fn leads_where_it_did(core: &mut Core, id: FlowId, proto: Proto) -> bool {
    let Some(flow) = core.flows.table.get_mut(id) else { return false };
    let epoch = core.net.epoch();
    if flow.state.epoch == epoch {
        return true;
    }
    let [guest, host] = &flow.sides;
    let same = guest.pif != Pif::Tap || {
        let (from, to) = (guest.endpoint.with_scope(0), guest.ours.with_scope(0));
        let target = core.net.would_lead(proto, from, to);
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
    proto: Proto,
    protocol: L4Protocol,
    side: Side,
) -> Result<FlowId, DropReason> {
    let (guest, remote) = (side.endpoint.with_scope(0), side.ours.with_scope(0));
    let target = core.net.to_host(proto, guest, remote)?;
    core.check_datagram_room(Pif::Tap, 1)?;
    let mut destination = target.destination;
    let transport = if proto == Proto::Udp { Transport::Udp } else { Transport::Ping };
    if transport == Transport::Ping {
        destination.set_port(0);
    }
    let device = core.settings.outbound_device(destination.ip());
    let mut host =
        Side { pif: Pif::Host, ours: target.source.into(), endpoint: target.destination.into() };
    let mut source = target.source;
    if transport == Transport::Udp && core.flows.find_alike(&host).is_some() {
        // To the kernel, both would be one.
        source.set_port(0);
    }
    let to = BindTo {
        address: source,
        interface: device.filter(|_| !destination.ip().is_loopback()),
        freebind: false,
        dual_stack: false,
    };
    let socket = socket::create(transport, destination.ip()).map_err(|errno| {
        log::debug!("no {transport} socket: {errno}");
        if transport == Transport::Ping && !std::mem::replace(&mut datagrams.ping_refused, true) {
            log::warn!(
                "Cannot open an ICMP echo socket: {errno}: the guest's pings are dropped; allow them with\n  \
                 sysctl -w net.ipv4.ping_group_range=\"0 2147483647\""
            );
        }
        DropReason::SocketFailed
    })?;
    let peer = destination;
    let spec = SocketSpec { transport, to, peer, or_any_port: true, for_link: true };
    let (socket, port) = connected(socket, &spec).map_err(|errno| {
        log::debug!("{transport} socket from {} to {peer}: {errno}", to.address);
        DropReason::SocketFailed
    })?;
    let state = DatagramState::new(core.now);
    let kind = match transport {
        Transport::Ping => FlowKind::Ping(state),
        _ => FlowKind::Udp(state),
    };
    host.ours = Endpoint::new(source.ip(), port);
    let state = FlowState::new(socket, core.net.epoch(), kind);
    add(core, [side, host], protocol, state)
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
    let sides = core.flows.told_apart(L4Protocol::Udp, sides)?;
    core.check_datagram_room(Pif::Host, 1)?;
    let socket = inbound_socket(core, rule, local, peer).map_err(|errno| {
        log::debug!("no UDP socket from {local} to {peer}: {errno}");
        DropReason::SocketFailed
    })?;
    let kind = FlowKind::Udp(DatagramState::new(core.now));
    let state = FlowState::new(socket, core.net.epoch(), kind);
    add(core, sides, L4Protocol::Udp, state)
}

/// A socket of the flow's own, so that the kernel gives it what `peer` sends from now on.
fn inbound_socket(
    core: &Core,
    rule: &Rule,
    local: SocketAddr,
    peer: SocketAddr,
) -> Result<OwnedFd, Errno> {
    let to = BindTo {
        address: Endpoint::from(local).with_scope(core.net.network.scope_id()),
        interface: rule.interface.as_ref().map(|name| name.as_str()),
        freebind: core.settings.freebind,
        dual_stack: false,
    };
    let transport = Transport::Udp;
    let socket = socket::create(transport, local.ip())?;
    let spec = SocketSpec { transport, to, peer, or_any_port: false, for_link: true };
    connected(socket, &spec).map(|(socket, _)| socket)
}

/// Adds a flow and starts its timeout.
pub(in crate::engine) fn add(
    core: &mut Core,
    sides: [Side; 2],
    protocol: L4Protocol,
    state: FlowState,
) -> Result<FlowId, DropReason> {
    let id = core.flows.add(sides, protocol, state, EventFlags::IN)?;
    log::debug!("{id:?} ({protocol}): {} => {}", sides[0], sides[1]);
    core.flows.schedule(id, Some(core.now + UDP_TIMEOUT));
    Ok(id)
}
