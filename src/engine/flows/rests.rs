//! Connections of which we have bytes that their sockets did not take: there are few at a time, so that nobody can make us
//! keep what the kernel refuses.

use super::Flows;
use crate::engine::state::FlowKind;
use crate::flow::table::FlowId;

impl Flows {
    /// Whether what the socket of flow `id` does not take may be kept.
    pub(crate) fn may_keep_rest(&mut self, id: FlowId) -> bool {
        if self.rests.contains(&id) || !self.rests.is_full() {
            return true;
        }
        let table = &self.table;
        self.rests.retain(|one| {
            let flow = table.get(*one);
            flow.is_some_and(
                |flow| matches!(&flow.state.kind, FlowKind::Tcp(tcp) if tcp.backlog.is_some()),
            )
        });
        !self.rests.is_full()
    }

    /// Something of flow `id` is kept.
    pub(crate) fn keeps_rest(&mut self, id: FlowId) {
        if !self.rests.contains(&id) {
            let _ = self.rests.try_push(id);
        }
    }
}
