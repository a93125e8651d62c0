//! A guest that does not know what it has said itself: its machine was set back to a snapshot, and its connections are
//! where they were then. It acknowledges less than it had, or sends what was received long ago as if it were new.
//! Neither end can go on: what the guest would need again was discarded, and what it sends again is older than what
//! the peer has. RFC 9293 has both answer each other until one gives up. We reset the connection at both ends:
//! - at the first contradiction, where the link has told that the guest was set back (`Conn::on_guest_set_back`);
//! - else when the guest has contradicted itself for two seconds and has said nothing else meanwhile. What a network
//!   behind the guest doubles and reorders looks the same for a shorter time.
//!
//! What counts stands in `input`, where each kind of segment is looked at. All numbers have to be within
//! [`WINDOW_MAX`](super::limits::WINDOW_MAX) of what is expected, so that somebody who only guesses them does not get
//! far (RFC 5961).

use std::num::NonZeroU8;

/// Slices of about 131 ms (`Conn::slice`) that contradictions last at least.
const SLICES: u16 = 16;

/// Slices after which their numbers are the same again: what began so long ago may seem to have begun just now.
/// It divides the range of a slice's number.
const CYCLE: u16 = 128;

/// It is known that the guest was set back.
const KNOWN: NonZeroU8 = NonZeroU8::MAX;

const _: () = assert!(CYCLE < KNOWN.get() as u16 && CYCLE.is_power_of_two());

/// Since which slice of time the guest has contradicted itself. One byte: see the size of a connection.
#[derive(Debug, Default)]
pub(super) struct Doubt(Option<NonZeroU8>);

impl Doubt {
    /// The guest was set back, and what it says next may be of an earlier time.
    pub(crate) fn arise(&mut self) {
        self.0 = Some(KNOWN);
    }

    /// A segment agrees with all that is known of the guest.
    pub(crate) fn dispel(&mut self) {
        self.0 = None;
    }

    /// Whether one contradiction is enough.
    pub(crate) fn is_known(&self) -> bool {
        self.0 == Some(KNOWN)
    }

    /// A segment contradicts what is known, in this slice of time. Whether that is enough.
    pub(crate) fn grow(&mut self, slice: u16) -> bool {
        let number = slice % CYCLE + 1;
        match self.0 {
            Some(KNOWN) => true,
            Some(since) => (number + CYCLE - u16::from(since.get())) % CYCLE >= SLICES,
            None => {
                self.0 = NonZeroU8::new(number as u8);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_count_when_they_have_lasted() {
        for first in (0..300).chain(u16::MAX - 300..=u16::MAX) {
            let mut doubt = Doubt::default();
            let mut at = |slices| doubt.grow(first.wrapping_add(slices));
            for early in 0..SLICES {
                assert!(!at(early), "{first} {early}");
            }
            for late in SLICES..100 {
                assert!(at(late), "{first} {late}");
            }
            doubt.dispel();
            assert!(!doubt.grow(first) && !doubt.is_known());
        }
    }

    #[test]
    fn a_guest_that_is_known_to_be_set_back_is_not_waited_for() {
        let mut doubt = Doubt::default();
        doubt.arise();
        assert!(doubt.is_known() && doubt.grow(7));
        doubt.dispel();
        assert!(!doubt.grow(7));
    }
}
