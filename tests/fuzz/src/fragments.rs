//! Reassembly, beside a model that knows every fragment: what is taken, refused and whole is the same.

use std::collections::BTreeMap;
use std::time::Duration;

use passt::fuzzing::Fragments;
use passt::limits::{REASSEMBLY_SLOTS, REASSEMBLY_TIMEOUT};

use crate::input::Input;

/// Numbers of datagrams: never more than slots, so that none gives way.
const NUMBERS: u32 = 6;
const _: () = assert!(NUMBERS as usize <= REASSEMBLY_SLOTS);

/// Most bytes behind the header of an IPv4 packet.
const MOST: u32 = 65_535 - 20;

/// A datagram that is not whole yet.
#[derive(Default)]
struct Model {
    started: Duration,
    /// Fragments by their beginning: their end, and whether there is more.
    came: BTreeMap<u32, (u32, bool)>,
    condemned: bool,
}

/// What becomes of a fragment.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Refused,
    Again,
    Taken,
    Whole(u32),
}

impl Model {
    fn add(&mut self, offset: u32, end: u32, more: bool) -> Outcome {
        if !self.condemned && self.came.get(&offset) == Some(&(end, more)) {
            return Outcome::Again;
        }
        let total = self.came.values().find(|(_, more)| !more).map(|(end, _)| *end);
        let beyond = self.came.values().map(|(end, _)| *end).max().unwrap_or(0);
        let overlaps = self.came.iter().any(|(begin, (theirs, _))| {
            *begin < end.next_multiple_of(8) && offset < theirs.next_multiple_of(8)
        });
        let agrees = match total {
            Some(total) => {
                if more {
                    end < total
                } else {
                    end == total
                }
            }
            None => more || beyond <= end.next_multiple_of(8),
        };
        self.condemned |= overlaps || !agrees;
        if self.condemned {
            return Outcome::Refused;
        }
        self.came.insert(offset, (end, more));
        let mut at = 0;
        while let Some(&(end, more)) = self.came.get(&at) {
            if !more {
                return Outcome::Whole(end);
            }
            at = end;
        }
        Outcome::Taken
    }
}

/// Few numbers, few places: fragments are to meet.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut fragments = Fragments::default();
    let mut models: BTreeMap<u32, Model> = BTreeMap::new();
    let mut now = Duration::ZERO;
    while !input.is_empty() {
        let kind = input.u8();
        if kind >= 0xf0 {
            let time = Duration::from_millis(u64::from(input.u8()) * 100);
            now += time;
            fragments.pass(time);
            continue;
        }
        let id = u32::from(kind) % NUMBERS;
        let unit = u32::from(kind >> 4 & 7) + 1;
        let offset = match input.u8() {
            at @ 0..240 => u32::from(at % 16) * 8 * unit,
            at => 65_515 - u32::from(at),
        };
        let len = match input.u8() {
            len @ 0..128 => u32::from(len % 4) * 8 * unit,
            len => u32::from(len) * 8 + u32::from(input.u8() % 8),
        };
        let more = input.u8() & 1 != 0;
        let found = match fragments.add(id, (offset, len, more)) {
            Err(_) => Outcome::Refused,
            Ok(None) => Outcome::Again,
            Ok(Some((slot, at, whole))) => {
                assert!(slot < REASSEMBLY_SLOTS && at == offset as usize, "slot {slot}, at {at}");
                whole.map_or(Outcome::Taken, Outcome::Whole)
            }
        };
        let wrong = len == 0 || offset % 8 != 0 || (more && len % 8 != 0) || offset + len > MOST;
        if wrong {
            assert_eq!(found, Outcome::Refused);
            continue;
        }
        models.retain(|_, model| now - model.started < REASSEMBLY_TIMEOUT);
        let model = models.entry(id).or_insert_with(|| Model { started: now, ..Model::default() });
        let expected = model.add(offset, offset + len, more);
        assert_eq!(found, expected, "{offset} to {}, more: {more}", offset + len);
        if matches!(expected, Outcome::Whole(_)) {
            models.remove(&id);
        }
    }
}
