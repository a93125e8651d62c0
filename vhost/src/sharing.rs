//! Whether the driver writes where we read.
//!
//! A front-end may send us the file of its guest's memory and have mapped that for itself alone (QEMU: a memory object
//! without `share=on`). Each message is right then and the rings start, but what the driver puts into them only its
//! front-end sees. The kernel tells nobody how another process has mapped a file: both mappings fill the same page
//! cache, and a file that seals forbid to write cannot be mapped by us at all. What is left is that somebody kicks a
//! transmit ring, and there is nothing in it.
//!
//! One such kick has to do, for there may be only one: with event indexes a driver that does not see ours kicks
//! once, and then again after 65,536 frames. So it is well chosen:
//! * Front-ends kick rings themselves, but with their messages: when they start one, enable it, or resume the guest.
//!   A kick counts that comes later than [`QUIET`] after the last message.
//! * Drivers kick receive rings that they had no memory to fill (Linux), so those do not count.
//! * A driver that has put something into any ring since the front-end came has shown it to us. That is looked for
//!   again when [`PATIENCE`] is over, before anything is said.

use std::time::Duration;

/// Kicks that come within this time of a message may be the front-end's: it writes them behind the message.
const QUIET: Duration = Duration::from_millis(100);

/// How long rings have to stay empty after a kick: more than a front-end that is not given a processor needs for its kicks.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is in rings that run; of several rings the last of these that is true of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    /// No ring runs.
    NoRing,
    /// The available index is 0.
    Nothing,
    /// A driver has put something into a ring.
    Chains,
}

/// What is known so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    /// Nothing.
    #[default]
    Nothing,
    /// A ring was kicked that was empty. If they all are at that time, memory is not shared.
    Doubt(Duration),
    /// It is shared, or the operator was told that it seems not to be.
    All,
}

/// What a front-end's messages and its driver's kicks say of its memory.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    known: Known,
    /// A message has come since the last judgement, and a kick of a transmit ring.
    has_message: bool,
    has_kick: bool,
    /// From when on kicks are the driver's.
    quiet_at: Duration,
}

impl Sharing {
    /// The front-end has said something.
    pub(crate) fn note_message(&mut self) {
        self.has_message = true;
    }

    /// A transmit ring that is up was kicked.
    pub(crate) fn note_kick(&mut self) {
        self.has_kick = true;
    }

    /// When [`judge`](Self::judge) is to be asked again at the latest.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        if let Known::Doubt(until) = self.known { Some(until) } else { None }
    }

    /// Judges what has come since the last call; true, once, when memory seems not to be shared. `look` is asked only
    /// when something depends on it.
    pub(crate) fn judge(&mut self, now: Duration, look: impl FnOnce() -> Seen) -> bool {
        if std::mem::take(&mut self.has_message) {
            self.quiet_at = now + QUIET;
        }
        let kicked = std::mem::take(&mut self.has_kick) && now >= self.quiet_at;
        let due = match self.known {
            Known::Nothing => kicked,
            Known::Doubt(until) => now >= until,
            Known::All => false,
        };
        if !due {
            return false;
        }
        let was_in_doubt = self.known != Known::Nothing;
        let seen = look();
        self.known = match seen {
            Seen::NoRing => Known::Nothing,
            Seen::Nothing if !was_in_doubt => Known::Doubt(now + PATIENCE),
            Seen::Nothing | Seen::Chains => Known::All,
        };
        was_in_doubt && seen == Seen::Nothing
    }
}
