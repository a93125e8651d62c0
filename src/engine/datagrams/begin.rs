//! How every flow of datagrams begins.

use rustix::event::epoll::EventFlags;

use crate::engine::core::Core;
use crate::engine::state::FlowState;
use crate::flow::side::Side;
use crate::flow::table::FlowId;
use crate::wire::DropReason;
use crate::wire::ip::L4Protocol;

/// Adds a flow and starts its timeout.
pub(in crate::engine) fn add(
    core: &mut Core,
    sides: [Side; 2],
    protocol: L4Protocol,
    state: FlowState,
) -> Result<FlowId, DropReason> {
    let id = core.flows.add(sides, protocol, state, EventFlags::IN)?;
    core.leave_ports_to_others(id)?;
    log::debug!("{id:?} ({protocol}): {} => {}", sides[0], sides[1]);
    core.flows.schedule(id, Some(core.now + core.settings.udp.once));
    Ok(id)
}
