//! How every flow of datagrams begins.

use rustix::event::epoll::EventFlags;

use crate::engine::core::Core;
use crate::engine::state::FlowState;
use crate::flow::side::{Side, Sides};
use crate::flow::table::FlowId;
use crate::wire::DropReason;
use crate::wire::ip::L4Protocol;

/// What the log calls a flow, as [`FlowId`] with its number does not say what it is.
pub(super) fn label(protocol: L4Protocol) -> &'static str {
    match protocol {
        L4Protocol::Tcp => "TCP connection",
        L4Protocol::Udp => "UDP flow",
        L4Protocol::Icmp => "ICMP ping sequence",
        L4Protocol::Icmpv6 => "ICMPv6 ping sequence",
    }
}

/// Adds a flow and starts its timeout.
pub(in crate::engine) fn add(
    core: &mut Core,
    sides: [Side; 2],
    protocol: L4Protocol,
    state: FlowState,
) -> Result<FlowId, DropReason> {
    let id = core.flows.add(sides, protocol, state, EventFlags::IN)?;
    core.leave_ports_to_others(id)?;
    log::debug!("{id:?} ({}): {}", label(protocol), Sides(&sides));
    core.flows.schedule(id, Some(core.now + core.settings.udp.once));
    Ok(id)
}
