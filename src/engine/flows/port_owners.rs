//! Which flows have a port of the host for themselves: nobody else may bind to it, and a listening socket neither. And which
//! give theirs back, where the guest has too many ([`host_ports`](super::host_ports)).

use super::{Flows, started_by};
use crate::engine::state::DatagramState;
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::FlowId;
use crate::wire::DropReason;
use crate::wire::ip::L4Protocol;

impl Flows {
    /// The flow with anybody that has this port of the host, in one of the two families.
    pub(crate) fn with_anybody_at(&self, v4: bool, port: u16) -> Option<FlowId> {
        let anybody = Endpoint::anybody(v4);
        let ours = Endpoint::new(anybody.ip(), port);
        let side = Side { pif: Pif::Host, ours, endpoint: anybody };
        self.find_by(L4Protocol::Udp, &side, |other| {
            (other.pif, other.endpoint, other.ours.port()) == (Pif::Host, anybody, port)
        })
    }

    /// Whether there may be flows whose peers answer from any port.
    pub(crate) fn have_any_port(&self) -> bool {
        !self.any_port.is_empty()
    }

    /// Whether one more flow may be one whose peer answers from any port.
    pub(crate) fn may_take_any_port(&mut self) -> bool {
        let table = &self.table;
        self.any_port.retain(|id| table.get(*id).is_some());
        !self.any_port.is_full()
    }

    /// Flow `id` is one whose peer answers from any port.
    pub(crate) fn takes_any_port(&mut self, id: FlowId) {
        let _ = self.any_port.try_push(id);
    }

    /// A flow that has this port of the host for itself, in one of the two families: with anybody, or with one that
    /// answers from any port.
    pub(crate) fn with_port_alone(&self, v4: bool, port: u16) -> Option<FlowId> {
        let has_it = |id: &FlowId| {
            let ours = self.table.get(*id).map(|flow| flow.sides[1].ours);
            ours.is_some_and(|ours| ours.ip().is_ipv4() == v4 && ours.port() == port)
        };
        let any_port = || self.any_port.iter().copied().find(has_it);
        self.with_anybody_at(v4, port).or_else(any_port)
    }

    /// Flow `new` has just begun, perhaps by a port too many: another one of the guest gives way, whose end leaves its port.
    /// Returns whether there was one that waited for an answer.
    ///
    /// # Errors
    /// None gives way, as all are streams or share their ports; the flow has ended.
    pub(crate) fn leave_ports_to_others(&mut self, new: FlowId) -> Result<bool, DropReason> {
        if !self.host_ports.are_too_many() {
            return Ok(false);
        }
        let (ports, starter) = (&self.host_ports, started_by(Pif::Tap));
        let frees = |sides: &[Side; 2]| ports.is_alone(sides);
        let id = self.one_shots.gives_way_for(&mut self.table, starter, frees);
        let Some(id) = id.filter(|&id| id != new) else {
            self.remove(new);
            return Err(DropReason::NoLocalPort);
        };
        let state = self.table.get(id).and_then(|flow| flow.state.kind.datagrams());
        let unanswered = !state.is_some_and(DatagramState::is_answered);
        log::debug!("{id:?}: gives way to a new one, which needs a port");
        self.remove(id);
        Ok(unanswered)
    }
}
