//! Which flows have a port of the host for themselves: nobody else may bind to it, and a listening socket neither.

use super::Flows;
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::FlowId;
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
}
