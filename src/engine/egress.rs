//! What the guest may not reach: how it is told, and what ends when another policy comes into force. What is allowed
//! is decided where destinations are found ([`Net::to_host`], [`BypassParts::side`]), before there is a socket.
//!
//! [`Net::to_host`]: super::net::Net::to_host
//! [`BypassParts::side`]: super::bypass::BypassParts

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use passt_frame::ToGuest;

use super::core::Core;
use super::state::FlowKind;
use crate::flow::fwd::{Proto, is_one_host};
use crate::flow::side::Pif;
use crate::flow::table::{Flow, FlowId};
use crate::wire::icmp_translation::{v4, v6};
use crate::wire::ip::{self, L4Protocol};
use crate::wire::{Packet, eth};

use super::net::Net;
use super::state::FlowState;

/// Bytes in front of what an ICMP error quotes.
const ICMP_HEADER_BYTES: usize = 8;
/// Bytes that an ICMP error quotes: IP header, 8 bytes and more of what is behind it (RFC 1812, section 4.3.2.3).
const QUOTED_BYTES: usize = 128;

/// Tells the guest that its packet, which begins with `head` and is `len` bytes long as a frame, may not go where it is
/// to go: "communication administratively prohibited" (RFC 1812, section 5.2.7.1; RFC 4443, section 3.1). A
/// connection is refused with a reset instead, and what goes to many is not answered (RFC 1122, section 3.2.2).
pub(super) fn tell(core: &mut Core, out: &mut dyn ToGuest, head: &[u8], len: u32) {
    let Ok(Packet::Ip(ip)) = ip::parse(head, len) else { return };
    if ip.protocol == L4Protocol::Tcp || !is_one_host(ip.destination) || !is_one_host(ip.source) {
        return;
    }
    let (kind, code) = match ip.source {
        IpAddr::V4(_) => (v4::UNREACHABLE, v4::PROHIBITED),
        IpAddr::V6(_) => (v6::UNREACHABLE, v6::PROHIBITED),
    };
    let mut message = ArrayVec::<u8, { ICMP_HEADER_BYTES + QUOTED_BYTES }>::new();
    message.extend([kind, code, 0, 0, 0, 0, 0, 0]);
    let packet = head.get(eth::HEADER_BYTES..).unwrap_or_default();
    // Behind what the headers say there may be padding.
    let end = ip.l4_offset - eth::HEADER_BYTES + ip.l4_len as usize;
    let quoted = end.min(packet.len()).min(QUOTED_BYTES);
    message.extend(packet[..quoted].iter().copied());
    let from = router(&core.net, ip.destination);
    let macs = core.net.macs_from(from);
    let (from, to) = (SocketAddr::new(from, 0), SocketAddr::new(ip.source, 0));
    core.outbox.icmp(out, macs, from, to, &mut message);
}

/// Whom the error comes from: the gateway, or whoever the guest has asked if it has none.
fn router(net: &Net, destination: IpAddr) -> IpAddr {
    let ours = net.our_link_local().filter(|_| destination.is_ipv6());
    net.network.gateway_for(destination).or(ours).unwrap_or(destination)
}

/// Ends all flows that the policy in force forbids. A connection is reset on both sides, in the turn that follows.
pub(super) fn sweep(core: &mut Core) {
    let forbidden: Vec<FlowId> = core
        .flows
        .table
        .ids()
        .filter(|&id| core.flows.table.get(id).is_some_and(|flow| !may_go_on(&core.net, flow)))
        .collect();
    for id in forbidden {
        log::debug!("{id:?}: forbidden now, closing");
        match core.flows.table.get_mut(id).map(|flow| &mut flow.state.kind) {
            Some(FlowKind::Tcp(tcp)) => tcp.conn.abort(),
            Some(FlowKind::Splice(splice)) => splice.machine.on_failure(),
            Some(FlowKind::Udp(_) | FlowKind::Ping(_) | FlowKind::Relay(_)) => {
                core.flows.remove(id);
            }
            None => {}
        }
        core.flows.mark_ready(id);
    }
}

/// Whether a flow may go on: what the network began may, since who answers does not choose a destination.
fn may_go_on(net: &Net, flow: &Flow<FlowState>) -> bool {
    let [initiating, target] = &flow.sides;
    if target.pif != Pif::Host {
        return true;
    }
    let proto = match flow.state.kind {
        FlowKind::Tcp(_) | FlowKind::Splice(_) => Proto::Tcp,
        FlowKind::Udp(_) | FlowKind::Relay(_) => Proto::Udp,
        FlowKind::Ping(_) => Proto::Icmp,
    };
    let real = target.endpoint.with_scope(0);
    let seen = if initiating.pif == Pif::Tap { initiating.ours.with_scope(0) } else { real };
    net.still_allows(proto, seen, real)
}
