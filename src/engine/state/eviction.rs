//! Where a flow stands among those that may have to give way: its links on one of the lists of `one_shots`, which alone
//! changes them.

use crate::time::Timestamp;

/// No slot.
pub(in crate::engine) const NONE: u32 = u32::MAX;

/// Where a flow stands in the list of those that give way in its order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EvictionNode {
    pub(in crate::engine) list: Option<ListId>,
    pub(in crate::engine) older: u32,
    pub(in crate::engine) newer: u32,
    /// When the flow was last active, as of when it was listed.
    pub(in crate::engine) since: Timestamp,
}

impl Default for EvictionNode {
    fn default() -> Self {
        Self { list: None, older: NONE, newer: NONE, since: Timestamp::ZERO }
    }
}

/// One of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct ListId {
    /// Index of who has started the flows.
    pub(in crate::engine) starter: usize,
    pub(in crate::engine) kind: Kind,
}

/// What the flows of a list wait for, in the order in which they give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Kind {
    /// Nothing.
    Answered,
    /// The first answer.
    Unanswered,
    /// The next reply of echo.
    Awaited,
}
