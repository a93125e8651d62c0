//! The clocks, by the C library: rustix looks for all functions of the kernel's vDSO at once, and panics on x86-64 where
//! one of them is missing, as `getcpu` is with User-Mode Linux.

use rustix::time::{ClockId, Timespec};

/// What clock_gettime(2) says, nearly always without a system call.
#[cfg(target_pointer_width = "64")]
pub(crate) fn now(clock: ClockId) -> Timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the one local that it is given.
    let status = unsafe { libc::clock_gettime(clock as libc::clockid_t, &raw mut now) };
    assert_eq!(status, 0, "this clock is always there");
    Timespec { tv_sec: now.tv_sec, tv_nsec: now.tv_nsec }
}

/// The same where the C library's times end in 2038.
#[cfg(not(target_pointer_width = "64"))]
pub(crate) fn now(clock: ClockId) -> Timespec {
    rustix::time::clock_gettime(clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_those_of_the_system() {
        let since = std::time::UNIX_EPOCH.elapsed().expect("it is later");
        let seconds = now(ClockId::Realtime).tv_sec as u64;
        assert!((since.as_secs()..since.as_secs() + 60).contains(&seconds));
        let first = now(ClockId::Monotonic);
        let second = now(ClockId::Monotonic);
        assert!((first.tv_sec, first.tv_nsec) <= (second.tv_sec, second.tv_nsec));
    }
}
