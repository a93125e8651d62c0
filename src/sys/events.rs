//! Waiting for events: with timeouts below a millisecond (epoll_pwait2(2), Linux 5.11), and for who reads.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use rustix::buffer::SpareCapacity;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::socket::last_errno;

/// Whether epoll_pwait2(2) can be called. It is found out once, before the filter of system calls is made, which leaves
/// the one call that is used. Kernels before 5.11 do not know it, and filters of containers may refuse it.
pub(crate) fn is_precise() -> bool {
    static PRECISE: OnceLock<bool> = OnceLock::new();
    *PRECISE.get_or_init(|| {
        let asked = wait_precisely(-1, &mut Vec::with_capacity(1), None);
        asked == Err(Errno::BADF)
    })
}

/// Waits until descriptors of `instance` are ready, and no longer than `timeout`; puts their events into
/// `events`. Without epoll_pwait2(2) the timeout is rounded up to a millisecond.
///
/// # Errors
/// What epoll_pwait2(2) reports.
pub(crate) fn wait(
    instance: &OwnedFd,
    events: &mut Vec<epoll::Event>,
    timeout: Option<&Timespec>,
) -> Result<(), Errno> {
    if is_precise() {
        return wait_precisely(instance.as_raw_fd(), events, timeout);
    }
    let events: SpareCapacity<'_, epoll::Event> = rustix::buffer::spare_capacity(events);
    epoll::wait(instance, events, timeout).map(|_| ())
}

/// A time as newer system calls take it (`struct __kernel_timespec`): the same on all processors.
#[repr(C)]
struct KernelTime {
    seconds: i64,
    ns: i64,
}

fn wait_precisely(
    instance: RawFd,
    events: &mut Vec<epoll::Event>,
    timeout: Option<&Timespec>,
) -> Result<(), Errno> {
    let timeout = timeout.map(|at| KernelTime { seconds: at.tv_sec, ns: at.tv_nsec as _ });
    let pointer = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let room = events.spare_capacity_mut();
    // SAFETY: the kernel writes at most as many events as there is room for, which are laid out as
    // epoll(7) says, and reads one time, a live local.
    let n = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            instance,
            room.as_mut_ptr(),
            room.len(),
            pointer,
            std::ptr::null::<libc::sigset_t>(),
            0usize,
        )
    };
    let n = usize::try_from(n).map_err(|_| last_errno())?;
    // SAFETY: the kernel has written this many events behind those that were there.
    unsafe { events.set_len(events.len() + n) };
    Ok(())
}

/// Waits until `source` can be read or has ended, or nobody reads from `output` any more, which a pipe and a socket tell
/// (`POLLERR`, `POLLHUP`). Whether it is that.
///
/// # Errors
/// What poll(2) reports.
pub(crate) fn readable_or_unread(source: impl AsFd, output: impl AsFd) -> Result<bool, Errno> {
    let mut ends = [PollFd::new(&source, PollFlags::IN), PollFd::new(&output, PollFlags::empty())];
    loop {
        match poll(&mut ends, None) {
            Err(Errno::INTR) => {}
            done => return done.map(|_| !ends[1].revents().is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    #[test]
    fn events_come_at_once_and_a_timeout_ends_the_wait() {
        let instance = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an instance");
        let counter = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor");
        let data = epoll::EventData::new_u64(7);
        epoll::add(&instance, &counter, data, epoll::EventFlags::IN).expect("it is watched");
        let mut events = Vec::with_capacity(4);
        let short = Timespec { tv_sec: 0, tv_nsec: 1000 };
        wait(&instance, &mut events, Some(&short)).expect("nothing comes");
        assert!(events.is_empty());
        rustix::io::write(&counter, &1u64.to_ne_bytes()).expect("an event");
        wait(&instance, &mut events, None).expect("an event");
        let found: Vec<_> = events.iter().map(|event| event.data.u64()).collect();
        assert_eq!(found, [7]);
    }
}
