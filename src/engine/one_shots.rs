//! UDP and echo flows that are no streams: when all places are taken, the one that was silent for the longest
//! time gives way to the next, first of all one that was answered. A stream never does, nor does TCP; nor does a flow
//! with anybody while one lives that was taken out of it: that keeps the port, and who comes next would see another one.
//! An echo flow is no stream for ever: if all its requests are answered, the next one is as well off with a new flow;
//! if not, it stays for as long as a reply may be on its way ([`ECHO_PATIENCE`]).
//!
//! A flow stands on the list of those that were answered or on that of those that were not, by who has started
//! it: strangers push out nobody whom the guest talks to. The lists are in the order of silence, but a datagram does not
//! move its flow: when one is looked for that is to give way, the oldest is asked whether it was silent since it
//! was listed, and goes to the end if it was not. If it was, it has been silent for longer than all after it. Echo is
//! rare enough to be moved at once. Lists are linked through the flows themselves, so that joining and leaving takes the
//! same time however long the lists are, and nothing is allocated.

use super::state::eviction::{EvictionNode, Kind, ListId, NONE};
use super::state::{DatagramState, FlowState};
use crate::flow::side::Side;
use crate::flow::table::{FlowId, FlowTable};
use crate::limits::{ECHO_PATIENCE, GIVE_WAY_LOOKS, PORT_LOOKS};
use crate::time::Timestamp;

const KINDS: [Kind; 3] = [Kind::Answered, Kind::Unanswered, Kind::Awaited];

#[derive(Clone, Copy)]
struct Ends {
    oldest: u32,
    newest: u32,
}

/// All lists.
pub(crate) struct OneShots([[Ends; KINDS.len()]; 2]);

impl Default for OneShots {
    fn default() -> Self {
        Self([[Ends { oldest: NONE, newest: NONE }; KINDS.len()]; 2])
    }
}

impl OneShots {
    fn ends(&mut self, list: ListId) -> &mut Ends {
        &mut self.0[list.starter][list.kind as usize]
    }

    /// Lists a flow that starts now.
    pub(crate) fn add(
        &mut self,
        table: &mut FlowTable<FlowState>,
        slot: u32,
        starter: usize,
        now: Timestamp,
    ) {
        self.append(table, slot, ListId { starter, kind: Kind::Unanswered }, now);
    }

    /// Notes that a flow was answered.
    pub(crate) fn answered(&mut self, table: &mut FlowTable<FlowState>, slot: u32, now: Timestamp) {
        let Some((list, state)) = listed(table, slot) else { return };
        if state.echo || list.kind != Kind::Answered {
            self.put(table, slot, ListId { kind: Kind::Answered, ..list }, now);
        }
    }

    /// Notes that the guest sends another request of an echo flow.
    pub(crate) fn asked(&mut self, table: &mut FlowTable<FlowState>, slot: u32, now: Timestamp) {
        let Some((list, state)) = listed(table, slot) else { return };
        let kind = if state.counts[1] > 0 { Kind::Awaited } else { Kind::Unanswered };
        self.put(table, slot, ListId { kind, ..list }, now);
    }

    /// Puts a flow at the end of a list.
    fn put(&mut self, table: &mut FlowTable<FlowState>, slot: u32, list: ListId, since: Timestamp) {
        self.remove(table, slot);
        self.append(table, slot, list, since);
    }

    /// Takes a flow off its list.
    pub(crate) fn remove(&mut self, table: &mut FlowTable<FlowState>, slot: u32) {
        let Some(flow) = table.at_mut(slot) else { return };
        let EvictionNode { list, older, newer, .. } = std::mem::take(&mut flow.state.eviction);
        let Some(list) = list else { return };
        match table.at_mut(older) {
            Some(flow) => flow.state.eviction.newer = newer,
            None => self.ends(list).oldest = newer,
        }
        match table.at_mut(newer) {
            Some(flow) => flow.state.eviction.older = older,
            None => self.ends(list).newest = older,
        }
    }

    fn append(
        &mut self,
        table: &mut FlowTable<FlowState>,
        slot: u32,
        list: ListId,
        since: Timestamp,
    ) {
        let ends = self.ends(list);
        let older = std::mem::replace(&mut ends.newest, slot);
        if older == NONE {
            ends.oldest = slot;
        }
        if let Some(flow) = table.at_mut(older) {
            flow.state.eviction.newer = slot;
        }
        if let Some(flow) = table.at_mut(slot) {
            flow.state.eviction = EvictionNode { list: Some(list), older, newer: NONE, since };
        }
    }

    /// The flow that has been silent for the longest time, of those that `starter` has started, are no streams and `frees` says
    /// so of; it is on no list any more. Looks at no more than [`PORT_LOOKS`] of each list, which stay where they are.
    pub(crate) fn gives_way_for(
        &mut self,
        table: &mut FlowTable<FlowState>,
        starter: usize,
        mut frees: impl FnMut(&[Side; 2]) -> bool,
    ) -> Option<FlowId> {
        for kind in [Kind::Answered, Kind::Unanswered] {
            let mut quietest: Option<(Timestamp, u32)> = None;
            let mut slot = self.ends(ListId { starter, kind }).oldest;
            for _ in 0..PORT_LOOKS {
                let Some(flow) = table.at_mut(slot) else { break };
                let quiet = flow.state.kind.datagrams().filter(|state| {
                    let may = !state.echo && !state.is_stream() && state.taken_out == 0;
                    may && quietest.is_none_or(|(active, _)| state.active < active)
                });
                if let Some(state) = quiet.filter(|_| frees(&flow.sides)) {
                    quietest = Some((state.active, slot));
                }
                slot = flow.state.eviction.newer;
            }
            if let Some((_, slot)) = quietest {
                self.remove(table, slot);
                return table.id_of(slot);
            }
        }
        None
    }

    /// The flow, of those that `starter` has started, that is to give way to another one; it is on no list any more.
    /// Looks at no more than [`GIVE_WAY_LOOKS`] of each list; where all of those have talked since they were listed, it is
    /// the one that has been silent for the longest time.
    pub(crate) fn gives_way(
        &mut self,
        table: &mut FlowTable<FlowState>,
        starter: usize,
        now: Timestamp,
    ) -> Option<FlowId> {
        for list in KINDS.map(|kind| ListId { starter, kind }) {
            let mut quietest: Option<(Timestamp, u32)> = None;
            for _ in 0..GIVE_WAY_LOOKS {
                let slot = self.ends(list).oldest;
                let Some(flow) = table.at_mut(slot) else { break };
                let since = flow.state.eviction.since;
                if list.kind == Kind::Awaited && now.since(since) < ECHO_PATIENCE {
                    break;
                }
                let state = flow.state.kind.datagrams().copied();
                self.remove(table, slot);
                let Some(state) = state.filter(|state| state.echo || !state.is_stream()) else {
                    continue;
                };
                let kind = match state.is_answered() {
                    _ if state.echo => list.kind,
                    true => Kind::Answered,
                    false => Kind::Unanswered,
                };
                let may = kind as usize <= list.kind as usize && state.taken_out == 0;
                if may && state.active <= since {
                    return table.id_of(slot);
                }
                self.append(table, slot, ListId { kind, ..list }, state.active);
                if may && quietest.is_none_or(|(active, _)| state.active < active) {
                    quietest = Some((state.active, slot));
                }
            }
            if let Some((_, slot)) = quietest {
                self.remove(table, slot);
                return table.id_of(slot);
            }
        }
        None
    }
}

/// Where a flow is listed.
fn listed(table: &mut FlowTable<FlowState>, slot: u32) -> Option<(ListId, DatagramState)> {
    let flow = table.at_mut(slot)?;
    Some((flow.state.eviction.list?, *flow.state.kind.datagrams()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::net::Epoch;
    use crate::engine::state::FlowKind;
    use crate::flow::side::{Endpoint, Pif, Side};
    use rustix::event::{EventfdFlags, eventfd};
    use std::time::Duration;

    #[derive(Default)]
    struct Lists {
        table: FlowTable<FlowState>,
        all: OneShots,
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(second)
    }

    impl Lists {
        fn start(&mut self, second: u64) -> FlowId {
            let ours = Endpoint::anybody(true);
            let [first, last] = [Pif::Tap, Pif::Host].map(|pif| Side { pif, ours, endpoint: ours });
            let socket = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor");
            let mut state = DatagramState::new(at(second));
            state.touch(at(second), 0, 1);
            let state = FlowState::new(socket, Epoch::default(), at(second), FlowKind::Udp(state));
            let new = self.table.allocate().expect("room");
            let id = new.initiate(first).target(last).activate(state);
            self.all.add(&mut self.table, id.slot(), 0, at(second));
            id
        }

        fn talk(&mut self, id: FlowId, side: usize, second: u64) {
            if side == 0 && self.state(id).echo {
                self.all.asked(&mut self.table, id.slot(), at(second));
            }
            self.state(id).touch(at(second), side, 1);
            if side == 1 {
                self.all.answered(&mut self.table, id.slot(), at(second));
            }
        }

        fn state(&mut self, id: FlowId) -> &mut DatagramState {
            match &mut self.table.get_mut(id).expect("it lives").state.kind {
                FlowKind::Udp(state) => state,
                _ => panic!("no such flow is started"),
            }
        }

        /// The flow that gives way, long after all that was said; it ends.
        fn next(&mut self) -> Option<FlowId> {
            self.next_at(1000)
        }

        fn next_at(&mut self, second: u64) -> Option<FlowId> {
            let id = self.all.gives_way(&mut self.table, 0, at(second))?;
            self.table.remove(id);
            Some(id)
        }
    }

    #[test]
    fn the_answered_that_was_silent_for_longest_gives_way_and_a_stream_never_does() {
        let mut lists = Lists::default();
        let [unanswered, stream, early, late, busy] = [0, 1, 2, 3, 4].map(|at| lists.start(at));
        for (id, second) in [(late, 5), (early, 6), (stream, 7)] {
            lists.talk(id, 1, second);
        }
        lists.talk(stream, 0, 8);
        lists.talk(busy, 0, 9);
        assert_eq!(lists.next(), Some(late), "the first that was answered");
        assert_eq!(lists.next(), Some(early));
        assert_eq!(lists.next(), Some(unanswered), "none is left that was answered");
        assert_eq!(lists.next(), Some(busy), "whoever was silent for a shorter time comes last");
        assert_eq!(lists.next(), None);
        assert!(lists.table.get(stream).is_some());
        assert!(
            lists.all.gives_way(&mut lists.table, 1, at(10)).is_none(),
            "others have lists of their own"
        );
    }

    #[test]
    fn where_all_have_talked_since_the_quietest_gives_way() {
        let mut lists = Lists::default();
        let ids = [(); 2 * GIVE_WAY_LOOKS].map(|()| lists.start(0));
        for (id, second) in ids.iter().zip(2..) {
            lists.state(*id).questions = true;
            lists.talk(*id, 1, 1);
            // Another question, and its answer, of which the lists know nothing.
            lists.state(*id).touch(at(second), 0, 1);
            lists.state(*id).touch(at(second), 1, 1);
        }
        assert_eq!(lists.next(), Some(ids[0]));
        assert_eq!(lists.next(), Some(ids[GIVE_WAY_LOOKS]), "the first of those not looked at yet");
        assert_eq!(lists.next(), Some(ids[1]));
    }

    #[test]
    fn who_has_its_port_with_others_gives_way_after_them() {
        let mut lists = Lists::default();
        let [origin, other] = [0, 1].map(|second| lists.start(second));
        let taken_out = |lists: &mut Lists, count| {
            let flow = lists.table.get_mut(origin).expect("it lives");
            if let FlowKind::Udp(state) = &mut flow.state.kind {
                state.taken_out = count;
            }
        };
        taken_out(&mut lists, 1);
        assert_eq!(lists.next(), Some(other));
        assert_eq!(lists.next(), None);
        taken_out(&mut lists, 0);
        assert_eq!(lists.next(), Some(origin));
    }

    #[test]
    fn lists_stay_whole_whoever_leaves() {
        let mut lists = Lists::default();
        for gone in 0..4 {
            let ids = [0, 1, 2, 3].map(|second| lists.start(second));
            lists.all.remove(&mut lists.table, ids[gone].slot());
            lists.table.remove(ids[gone]);
            let left = ids.iter().enumerate().filter(|(index, _)| *index != gone);
            for (_, id) in left {
                assert_eq!(lists.next(), Some(*id), "without {gone}");
            }
            assert_eq!(lists.next(), None);
        }
    }

    #[test]
    fn a_question_is_over_when_each_was_answered() {
        let mut lists = Lists::default();
        let ids = [0, 1].map(|second| lists.start(second));
        for id in ids {
            lists.state(id).questions = true;
            lists.talk(id, 0, 2);
            lists.talk(id, 1, 3);
        }
        lists.talk(ids[1], 1, 4);
        assert_eq!(lists.next(), Some(ids[1]), "two questions, two answers");
        assert_eq!(lists.next(), Some(ids[0]), "one answer is still to come");
    }

    #[test]
    fn echo_gives_way_when_all_is_answered_and_is_kept_while_a_reply_may_come() {
        let mut lists = Lists::default();
        let [running, over, silent] = [0, 1, 2].map(|second| lists.start(second));
        for id in [running, over, silent] {
            lists.state(id).echo = true;
        }
        for (id, second) in [(running, 3), (over, 4)] {
            for later in 0..300 {
                lists.talk(id, 1, second + later);
                lists.talk(id, 0, second + later);
            }
        }
        lists.talk(over, 1, 310);
        assert_eq!(lists.next_at(311), Some(over));
        assert_eq!(lists.next_at(311), Some(silent), "it never had a reply");
        assert_eq!(lists.next_at(311), None, "a reply may be on its way");
        assert_eq!(lists.next_at(312), Some(running), "it does not come any more");
    }
}
