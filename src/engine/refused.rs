//! Calls that move datagrams, where the host refuses them whatever they are about, as the filters of some containers do. Nothing
//! ends by that: datagrams come to nothing, one after the other, and nobody would know why. There is a line of the log a
//! minute, as long as it goes on.

use passt_frame::Errno;

use crate::limits::SHORTAGE_PAUSE;
use crate::sys::errno_text;
use crate::time::{OncePer, Timestamp};

/// What was refused, and what was said of it.
#[derive(Debug)]
pub(crate) struct Refused {
    met: Option<(&'static str, Errno)>,
    told: OncePer,
}

impl Default for Refused {
    fn default() -> Self {
        Self { met: None, told: OncePer::new(SHORTAGE_PAUSE) }
    }
}

impl Refused {
    /// `call` has failed with `errno`, which may be for another reason.
    pub(crate) fn note(&mut self, call: &'static str, errno: Errno) {
        if matches!(errno, Errno::NOSYS | Errno::PERM) {
            self.met = Some((call, errno));
        }
    }

    /// What is to be said at `now`.
    pub(crate) fn tell(&mut self, now: Timestamp) -> Option<String> {
        let (call, errno) = self.met.take()?;
        if !self.told.take(now) {
            return None;
        }
        let (why, cure) = (errno_text(errno), cure(call, errno));
        Some(format!(
            "{call}: {why}: datagrams are lost: {cure}allow {call} in the container's seccomp profile"
        ))
    }
}

/// What comes before the container's profile: the host's firewall tells who sends what it drops.
fn cure(call: &str, errno: Errno) -> &'static str {
    match (call, errno) {
        ("sendmmsg", Errno::PERM) => "see what the host's firewall drops, or ",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_minute_of_what_is_refused() {
        let mut refused = Refused::default();
        let begin = Timestamp::ZERO;
        refused.note("recvmmsg", Errno::CONNREFUSED);
        assert_eq!(refused.tell(begin), None, "of one datagram");
        refused.note("recvmmsg", Errno::NOSYS);
        let said = refused.tell(begin).unwrap();
        assert!(
            said.starts_with("recvmmsg: Function not implemented: datagrams are lost"),
            "{said}"
        );
        for (after, count) in [(SHORTAGE_PAUSE / 2, 0), (SHORTAGE_PAUSE, 1)] {
            refused.note("sendmmsg", Errno::PERM);
            let said = refused.tell(begin + after);
            assert_eq!(said.iter().count(), count, "{after:?}");
            let firewall =
                |said: &String| said.contains("lost: see what the host's firewall drops");
            assert!(said.iter().all(firewall), "{said:?}");
        }
        assert_eq!(refused.tell(begin + 3 * SHORTAGE_PAUSE), None, "nothing new");
    }
}
