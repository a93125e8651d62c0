//! How many flows of each kind there are, and were begun.

use super::state::FlowKind;

/// How many flows of each kind there are, and were begun: connections, datagrams and echo of the guest's link, and
/// connections and datagrams past it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Flows that are there.
    pub(crate) live: [u64; 5],
    /// Flows that have begun so far.
    pub(crate) begun: [u64; 5],
}

impl Tally {
    /// What is counted at the five places.
    pub(crate) const NAMES: [&'static str; 5] = ["tcp", "udp", "icmp", "tcp-bypass", "udp-bypass"];

    /// A flow begins.
    pub(crate) fn begin(&mut self, kind: &FlowKind) {
        self.live[place(kind)] += 1;
        self.begun[place(kind)] += 1;
    }

    /// A flow is over.
    pub(crate) fn end(&mut self, kind: &FlowKind) {
        self.live[place(kind)] -= 1;
    }
}

fn place(kind: &FlowKind) -> usize {
    match kind {
        FlowKind::Tcp(_) => 0,
        FlowKind::Udp(_) => 1,
        FlowKind::Echo(_) => 2,
        FlowKind::Splice(_) => 3,
        FlowKind::Relay(_) => 4,
    }
}
