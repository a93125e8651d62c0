//! What the guest may not reach: what ends when another policy comes into force. What is allowed is decided where
//! destinations are found ([`Net::to_host`], [`BypassParts::side`]), before there is a socket; connections that have
//! come from another program are judged here, too.
//!
//! [`Net::to_host`]: super::net::Net::to_host
//! [`BypassParts::side`]: super::bypass::BypassParts

use super::core::Core;
use super::net::Net;
use super::state::FlowState;
use crate::flow::fwd::Proto;
use crate::flow::side::{Pif, Side};
use crate::flow::table::{Flow, FlowId};

/// Ends all flows that the policy in force forbids. A connection is reset on both sides, in the turn that follows. One that
/// moves to another program is judged there, or when it goes on here.
pub(super) fn sweep(core: &mut Core) {
    let forbidden: Vec<FlowId> = core
        .flows
        .table
        .ids()
        .filter(|&id| {
            core.flows
                .table
                .get(id)
                .is_some_and(|flow| !flow.state.frozen && !may_go_on(&core.net, flow))
        })
        .collect();
    for id in forbidden {
        log::debug!("{id:?}: forbidden now, closing");
        core.end_flow(id);
    }
}

fn may_go_on(net: &Net, flow: &Flow<FlowState>) -> bool {
    allows(net, flow.state.l4(&flow.sides).into(), &flow.sides)
}

/// Whether a flow between `sides` may go on: what the network began may, since who answers does not choose a destination.
/// Where a flow with anybody leads is decided for each datagram, once the policy is another one.
pub(super) fn allows(net: &Net, proto: Proto, sides: &[Side; 2]) -> bool {
    let [initiating, target] = sides;
    if target.pif != Pif::Host || target.endpoint.is_anybody() {
        return true;
    }
    let real = target.endpoint.with_scope(0);
    let seen = if initiating.pif == Pif::Tap { initiating.ours.with_scope(0) } else { real };
    net.still_allows(proto, seen, real)
}
