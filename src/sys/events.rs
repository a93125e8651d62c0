//! Waiting for events with timeouts below a millisecond (epoll_pwait2(2), Linux 5.11).

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::buffer::SpareCapacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::Timespec;

use super::socket::last_errno;

/// The kernel has no epoll_pwait2(2).
static COARSE: AtomicBool = AtomicBool::new(false);

/// Waits until descriptors of `instance` are ready, and no longer than `timeout`; puts their events into
/// `events`. Kernels before 5.11 round the timeout up to a millisecond.
///
/// # Errors
/// What epoll_pwait2(2) reports.
pub(crate) fn wait(
    instance: &OwnedFd,
    events: &mut Vec<epoll::Event>,
    timeout: Option<&Timespec>,
) -> Result<(), Errno> {
    if !COARSE.load(Ordering::Relaxed) {
        match wait_precisely(instance, events, timeout) {
            Err(Errno::NOSYS) => COARSE.store(true, Ordering::Relaxed),
            other => return other,
        }
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
    instance: &OwnedFd,
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
            instance.as_raw_fd(),
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
