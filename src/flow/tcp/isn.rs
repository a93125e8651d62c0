//! Initial sequence numbers (RFC 9293, section 3.4.1; RFC 6528): a clock of 4 µs plus a keyed hash of the guest's
//! side of the connection.
//!
//! Who has closed first remembers a connection for a while (TIME-WAIT), and takes a new one with the same addresses
//! and ports only if its number is larger than all of the old one's. The link to a guest is faster than the clock, so
//! a connection that has sent much ends ahead of it. Then the clock is moved on, for all connections whose
//! hashes are in the same group: there is one number for each group, and none for each connection.

use crate::time::Timestamp;
use crate::wire::seq::SeqNr;

/// Groups. Where two connections that share one have sent much, their clock goes ahead of what either needs, which
/// harms only if that is half of all sequence numbers within the life of a TIME-WAIT.
const GROUPS: usize = 1024;

/// The clocks of all groups.
pub(crate) struct InitialNumbers {
    /// How far the clock of each group is ahead.
    ahead: Vec<u32>,
}

impl Default for InitialNumbers {
    fn default() -> Self {
        Self { ahead: vec![0; GROUPS] }
    }
}

/// The group of a hash: other bits of it than those that are part of the number.
fn group(hash: u64) -> usize {
    (hash >> 32) as usize % GROUPS
}

impl InitialNumbers {
    /// The number for a connection whose guest's side has this keyed hash.
    pub(crate) fn next(&self, now: Timestamp, hash: u64) -> SeqNr {
        let clock = (now.as_micros() / 4) as u32;
        SeqNr((hash as u32).wrapping_add(clock).wrapping_add(self.ahead[group(hash)]))
    }

    /// A connection whose guest's side has this keyed hash has ended; `end` is the number behind the last one that
    /// was sent. The next one with that side begins behind it.
    pub(crate) fn pass(&mut self, now: Timestamp, hash: u64, end: SeqNr) {
        let lead = (end + 1).offset_from(self.next(now, hash));
        if lead > 0 {
            let ahead = &mut self.ahead[group(hash)];
            *ahead = ahead.wrapping_add(lead.unsigned_abs());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_micros(1 << 40);

    #[test]
    fn rfc6528_3_the_clock_ticks_every_4_us_and_the_hash_tells_connections_apart() {
        let numbers = InitialNumbers::default();
        for hash in [0, 1, u64::MAX, 0xdead_beef_0000_0001] {
            let first = numbers.next(NOW, hash);
            assert_eq!(numbers.next(NOW + Duration::from_micros(4), hash), first + 1);
            let other = numbers.next(NOW, hash ^ 0x1234);
            let apart = (hash as u32 ^ 0x1234).wrapping_sub(hash as u32);
            assert_eq!(other.0.wrapping_sub(first.0), apart);
        }
    }

    #[test]
    fn rfc9293_3_6_1_the_next_number_is_larger_than_all_that_were_used() {
        for hash in [0, 0x7fff_fff0, 0xffff_fff0, 0x0123_4567_89ab_cdef] {
            let mut numbers = InitialNumbers::default();
            let (mut now, mut last) = (NOW, numbers.next(NOW, hash));
            for (sent, after_us) in
                [(0, 0), (2, 3), (1 << 20, 50_000), (1 << 30, 9), (2, 60_000_000), (1, 1)]
            {
                let end = last + sent;
                now = now + Duration::from_micros(after_us);
                numbers.pass(now, hash, end);
                last = numbers.next(now, hash);
                assert!(last.after(end), "{sent} numbers in {after_us} us");
            }
        }
    }

    #[test]
    fn who_sends_slowly_leaves_the_clock_alone() {
        let mut numbers = InitialNumbers::default();
        let first = numbers.next(NOW, 7);
        let later = NOW + Duration::from_secs(1);
        numbers.pass(later, 7, first + 100_000);
        assert_eq!(numbers.next(later, 7), first + 250_000);
    }
}
