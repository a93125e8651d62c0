//! A link that allocates nothing once it is made: frames lie in slots of one size, as in a ring.

use std::collections::VecDeque;

use passt_frame::{
    Caps, FrameDone, FrameMeta, FramePort, FromGuest, FromGuestBatch, GuestIovec, MAX_FRAME_BYTES,
    PortEvents, Stopped, ToGuest, ToGuestList,
};

use crate::world::GuestEnd;

/// Frames that lie in one direction at a time.
const SLOTS: usize = 1024;

/// Slots of one direction; only raw pointers to their bytes are used while frames are lent.
struct Slots {
    bytes: Vec<Vec<u8>>,
    free: VecDeque<usize>,
    /// Slots with frames that wait, their lengths and offloads.
    waiting: VecDeque<(usize, usize, FrameMeta)>,
    lent: VecDeque<usize>,
}

impl Slots {
    fn new() -> Self {
        Self {
            bytes: (0..SLOTS).map(|_| vec![0; MAX_FRAME_BYTES as usize]).collect(),
            free: (0..SLOTS).collect(),
            waiting: VecDeque::with_capacity(SLOTS),
            lent: VecDeque::with_capacity(SLOTS),
        }
    }

    fn piece(&mut self, slot: usize, len: usize) -> GuestIovec {
        let bytes = &mut self.bytes[slot][..len];
        // SAFETY: the slots live as long as the port and are not referenced while they are lent.
        unsafe { GuestIovec::new(bytes.as_mut_ptr(), bytes.len()) }
    }

    fn give_back(&mut self) {
        self.free.extend(self.lent.drain(..));
    }
}

struct Outgoing(Caps, Slots);
struct Incoming(Slots);

/// The link.
pub struct SlotPort {
    outgoing: Outgoing,
    incoming: Incoming,
}

impl SlotPort {
    pub fn new(caps: Caps) -> Self {
        Self { outgoing: Outgoing(caps, Slots::new()), incoming: Incoming(Slots::new()) }
    }
}

// SAFETY: a slot is lent to one frame at a time and lives as long as the port.
unsafe impl ToGuest for Outgoing {
    fn caps(&self) -> Caps {
        self.0
    }

    fn reserve(&mut self, list: &mut ToGuestList) -> Stopped {
        while let Some(wanted) = list.open_frame() {
            let slot = self.1.free.pop_front().expect("the guest takes its frames");
            self.1.lent.push_back(slot);
            let piece = self.1.piece(slot, wanted as usize);
            assert!(list.add_frame(&[piece]), "a frame fits a slot");
        }
        Stopped::Ended
    }

    fn commit(&mut self, list: &ToGuestList, done: &[FrameDone]) {
        for done in done {
            let slot = self.1.lent.pop_front().expect("committed after it was reserved");
            let len = list.frame_len(done.payload_len) as usize;
            self.1.waiting.push_back((slot, len, done.meta));
        }
        self.1.give_back();
    }

    fn cancel(&mut self, _list: &ToGuestList) {
        self.1.give_back();
    }
}

// SAFETY: a lent slot is not used before `release`.
unsafe impl FromGuest for Incoming {
    fn take(&mut self, batch: &mut FromGuestBatch) {
        while batch.has_room(1) {
            let Some((slot, len, meta)) = self.0.waiting.pop_front() else { return };
            let piece = self.0.piece(slot, len);
            batch.add_frame(&[piece], meta);
            self.0.lent.push_back(slot);
        }
    }

    fn release(&mut self) {
        self.0.give_back();
    }
}

impl FramePort for SlotPort {
    fn halves(&mut self) -> (&mut dyn FromGuest, &mut dyn ToGuest) {
        (&mut self.incoming, &mut self.outgoing)
    }

    fn on_event(&mut self, _token: u16) -> PortEvents {
        PortEvents::default()
    }

    fn flush(&mut self) {}

    fn counters(&self, _visit: &mut dyn FnMut(&'static str, u64)) {}
}

impl GuestEnd for SlotPort {
    fn guest_sends(&mut self, frame: Vec<u8>, meta: FrameMeta) {
        let slots = &mut self.incoming.0;
        let slot = slots.free.pop_front().expect("the engine takes its frames");
        slots.bytes[slot][..frame.len()].copy_from_slice(&frame);
        slots.waiting.push_back((slot, frame.len(), meta));
    }

    fn guest_receives(&mut self) -> Option<(Vec<u8>, FrameMeta)> {
        let slots = &mut self.outgoing.1;
        let (slot, len, meta) = slots.waiting.pop_front()?;
        slots.free.push_back(slot);
        Some((slots.bytes[slot][..len].to_vec(), meta))
    }
}
