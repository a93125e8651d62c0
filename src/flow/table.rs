//! The flow table: slots with generations, so that an event for a flow that is gone finds nothing.
//!
//! A slot is taken with a guard ([`NewFlow`]), which becomes an [`InitiatedFlow`] when its first
//! side is known, a [`TargetedFlow`] when both are, and a flow when it is activated. A guard that is
//! dropped before gives the slot back: there are no half-made flows in the table. The slots are
//! reserved once and touched when first used.

use crate::flow::side::Side;
use crate::limits::MAX_FLOWS;

/// Identifies a flow: slot and generation. A slot's generation changes when its flow ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowId {
    slot: u32,
    generation: u32,
}

/// Bits of a [`FlowId`] packed into one number: enough for [`MAX_FLOWS`] and 2^24 generations.
pub(crate) const FLOW_ID_BITS: u32 = SLOT_BITS + GENERATION_BITS;
const SLOT_BITS: u32 = 24;
const GENERATION_BITS: u32 = 24;

impl FlowId {
    /// Index of the slot, below [`MAX_FLOWS`].
    pub(crate) fn slot(self) -> u32 {
        self.slot
    }

    /// Slot and generation in [`FLOW_ID_BITS`] bits.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << SLOT_BITS | u64::from(self.slot)
    }

    /// The inverse of [`to_bits`](Self::to_bits).
    pub(crate) fn from_bits(bits: u64) -> Self {
        let slot = (bits & ((1 << SLOT_BITS) - 1)) as u32;
        let generation = (bits >> SLOT_BITS & ((1 << GENERATION_BITS) - 1)) as u32;
        Self { slot, generation }
    }
}

/// Slot and generation, with a point between them: the name that operators use.
impl std::fmt::Display for FlowId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

impl std::str::FromStr for FlowId {
    type Err = ();

    /// The inverse of its text.
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let (slot, generation) = text.split_once('.').ok_or(())?;
        if !digits(slot) || !digits(generation) {
            return Err(());
        }
        let slot = slot.parse().map_err(|_| ())?;
        Ok(Self { slot, generation: generation.parse().map_err(|_| ())? })
    }
}

impl std::fmt::Debug for FlowId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flow {}", self.slot)
    }
}

/// An active flow: its sides and what its protocol keeps.
#[derive(Debug)]
pub(crate) struct Flow<T> {
    /// The side that started the flow, then the other one.
    pub(crate) sides: [Side; 2],
    /// State of the protocol.
    pub(crate) state: T,
}

struct Slot<T> {
    generation: u32,
    flow: Option<Flow<T>>,
}

/// All flows.
pub(crate) struct FlowTable<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    active: usize,
    capacity: usize,
}

impl<T> Default for FlowTable<T> {
    fn default() -> Self {
        Self::with_capacity(MAX_FLOWS)
    }
}

impl<T> FlowTable<T> {
    /// A table for `capacity` flows, at most [`MAX_FLOWS`]. Memory is reserved, not touched.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.min(MAX_FLOWS);
        Self {
            slots: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            active: 0,
            capacity,
        }
    }

    /// Number of active flows.
    pub(crate) fn len(&self) -> usize {
        self.active
    }

    /// Takes a free slot, the one used last first; `None` when the table is full.
    pub(crate) fn allocate(&mut self) -> Option<NewFlow<'_, T>> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < self.capacity => {
                self.slots.push(Slot { generation: 0, flow: None });
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        Some(NewFlow { table: self, slot, done: false })
    }

    /// The flow with this id, if it still lives.
    pub(crate) fn get(&self, id: FlowId) -> Option<&Flow<T>> {
        let slot = self.slots.get(id.slot as usize)?;
        if slot.generation == id.generation { slot.flow.as_ref() } else { None }
    }

    /// The flow with this id, if it still lives.
    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow<T>> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation { slot.flow.as_mut() } else { None }
    }

    /// The flow that lives in `slot`.
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut Flow<T>> {
        self.slots.get_mut(slot as usize)?.flow.as_mut()
    }

    /// The id of the flow that lives in `slot`.
    pub(crate) fn id_of(&self, slot: u32) -> Option<FlowId> {
        let entry = self.slots.get(slot as usize)?;
        entry.flow.as_ref().map(|_| FlowId { slot, generation: entry.generation })
    }

    /// Ends a flow and returns what it kept.
    pub(crate) fn remove(&mut self, id: FlowId) -> Option<Flow<T>> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let flow = slot.flow.take()?;
        slot.generation = slot.generation.wrapping_add(1) & ((1 << GENERATION_BITS) - 1);
        self.free.push(id.slot);
        self.active -= 1;
        Some(flow)
    }

    /// Slots that were used so far.
    pub(crate) fn extent(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Ids of all flows. Walks the table: not for the packet path.
    pub(crate) fn ids(&self) -> impl Iterator<Item = FlowId> + '_ {
        (0..self.slots.len() as u32).filter_map(|slot| self.id_of(slot))
    }
}

/// A slot that is taken. Gives the slot back when dropped.
pub(crate) struct NewFlow<'a, T> {
    table: &'a mut FlowTable<T>,
    slot: u32,
    done: bool,
}

/// A slot whose first side is known. Gives the slot back when dropped.
pub(crate) struct InitiatedFlow<'a, T> {
    guard: NewFlow<'a, T>,
    first: Side,
}

/// A slot with both sides. Gives the slot back when dropped.
pub(crate) struct TargetedFlow<'a, T> {
    guard: NewFlow<'a, T>,
    sides: [Side; 2],
}

impl<T> Drop for NewFlow<'_, T> {
    fn drop(&mut self) {
        if !self.done {
            self.table.free.push(self.slot);
        }
    }
}

impl<'a, T> NewFlow<'a, T> {
    /// The side that starts the flow is known.
    pub(crate) fn initiate(self, first: Side) -> InitiatedFlow<'a, T> {
        InitiatedFlow { guard: self, first }
    }

    fn id(&self) -> FlowId {
        FlowId { slot: self.slot, generation: self.table.slots[self.slot as usize].generation }
    }
}

impl<'a, T> InitiatedFlow<'a, T> {
    /// The other side is known.
    pub(crate) fn target(self, second: Side) -> TargetedFlow<'a, T> {
        TargetedFlow { guard: self.guard, sides: [self.first, second] }
    }
}

impl<T> TargetedFlow<'_, T> {
    /// The id that the flow will have.
    pub(crate) fn id(&self) -> FlowId {
        self.guard.id()
    }

    /// The flow lives from now on.
    pub(crate) fn activate(mut self, state: T) -> FlowId {
        let id = self.guard.id();
        self.guard.done = true;
        self.guard.table.active += 1;
        self.guard.table.slots[id.slot as usize].flow = Some(Flow { sides: self.sides, state });
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::side::{Endpoint, Pif};
    use std::net::Ipv4Addr;

    fn side(pif: Pif) -> Side {
        let endpoint = Endpoint::new(Ipv4Addr::new(192, 0, 2, 1).into(), 1);
        Side { pif, ours: endpoint, endpoint }
    }

    fn add(table: &mut FlowTable<u32>, state: u32) -> FlowId {
        let new = table.allocate().expect("not full");
        new.initiate(side(Pif::Tap)).target(side(Pif::Host)).activate(state)
    }

    #[test]
    fn a_dropped_guard_gives_the_slot_back() {
        let mut table = FlowTable::<u32>::with_capacity(1);
        drop(table.allocate().expect("free"));
        drop(table.allocate().expect("free").initiate(side(Pif::Tap)));
        drop(table.allocate().expect("free").initiate(side(Pif::Tap)).target(side(Pif::Host)));
        let id = add(&mut table, 7);
        assert_eq!(table.get(id).expect("lives").state, 7);
        assert!(table.allocate().is_none(), "full");
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn an_old_id_does_not_find_the_next_flow_of_the_slot() {
        let mut table = FlowTable::with_capacity(1);
        let old = add(&mut table, 1);
        assert_eq!(table.remove(old).expect("lives").state, 1);
        let new = add(&mut table, 2);
        assert_eq!(old.slot(), new.slot());
        assert!(table.get(old).is_none() && table.remove(old).is_none());
        assert_eq!(FlowId::from_bits(new.to_bits()), new);
        assert_eq!((old.to_string().as_str(), new.to_string().parse()), ("0.0", Ok(new)));
        for text in ["", "0", "0.", ".1", "+0.1", "0.-1", "0.1.2", "x.y", "4294967296.0"] {
            assert!(text.parse::<FlowId>().is_err(), "{text}");
        }
        assert_eq!(table.ids().collect::<Vec<_>>(), [new]);
    }
}
