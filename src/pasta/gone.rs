//! The end of a namespace that somebody else made: its file goes away. inotify(7) tells. Where the file is a
//! process's, the end of the process does: its files stay for as long as nobody reaps it. For everything else in
//! file systems that do not tell, a timer looks once a second.

use std::ffi::{CString, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use passt_frame::ToGuest;

use crate::engine::{Engine, EventType, Exit, Source};
use crate::error::StartError;

/// File systems that do not tell of deletions: procfs, sysfs, devpts (linux/magic.h).
const SILENT: [u64; 3] = [0x9fa0, 0x6265_6572, 0x1cd1];

/// Between two looks.
const PERIOD: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Room for one event with the longest name.
const EVENT_BYTES: usize = 16 + 256;

/// Watches the file `path`.
///
/// # Errors
/// Its folder cannot be opened.
pub(super) fn watch(path: &Path) -> Result<Box<dyn Source>, StartError> {
    let failed =
        |what: &str, errno: Errno| StartError::Other(format!("{what} {}: {errno}", path.display()));
    let folder_path = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = path.file_name().unwrap_or_default().to_owned();
    // Nothing is read: policies for passt (AppArmor) do not let it open every folder.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(&folder_path, flags, Mode::empty())
        .map_err(|errno| failed("Couldn't watch the folder of", errno))?;
    let silent =
        rustix::fs::fstatfs(&folder).is_ok_and(|status| SILENT.contains(&(status.f_type as u64)));
    let shown = path.to_owned();
    if let Some(process) =
        process_of(path).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
    {
        return Ok(Box::new(Ended { process, shown }));
    }
    if !silent && let Ok(events) = notifications(&folder_path) {
        return Ok(Box::new(Notified { events, name, shown }));
    }
    let timer = timer().map_err(|errno| failed("Couldn't make a timer for", errno))?;
    Ok(Box::new(Looked { timer, folder, name, shown }))
}

/// The process whose file `path` is, as `/proc/PID/ns/net`: none where that is a thread, or where process ids are
/// those of other namespaces.
fn process_of(path: &Path) -> Option<Pid> {
    let words: Vec<&str> = path.to_str()?.split('/').collect();
    let ["", "proc", pid, "ns", _] = words[..] else { return None };
    let ours = std::fs::read_link("/proc/self").ok()?;
    let same_ids = ours.to_str()?.parse() == Ok(rustix::process::getpid().as_raw_pid());
    Pid::from_raw(pid.parse().ok()?).filter(|_| same_ids)
}

fn notifications(folder: &Path) -> Result<OwnedFd, Errno> {
    let events = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    add_watch(&events, folder, WatchFlags::DELETE | WatchFlags::MOVED_FROM)?;
    Ok(events)
}

fn timer() -> Result<OwnedFd, Errno> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let every = Itimerspec { it_interval: PERIOD, it_value: PERIOD };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every)?;
    Ok(timer)
}

fn gone(path: &Path) -> Option<Exit> {
    log::info!("Namespace {} is gone, exiting", path.display());
    Some(Exit::Over)
}

/// Told by the end of a process: its descriptor becomes readable.
struct Ended {
    process: OwnedFd,
    shown: PathBuf,
}

impl Source for Ended {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::Watch
    }

    fn on_event(&mut self, _engine: &mut Engine, _out: &mut dyn ToGuest) -> Option<Exit> {
        gone(&self.shown)
    }
}

/// Told by inotify.
struct Notified {
    events: OwnedFd,
    name: OsString,
    shown: PathBuf,
}

impl Source for Notified {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::Watch
    }

    fn on_event(&mut self, _engine: &mut Engine, _out: &mut dyn ToGuest) -> Option<Exit> {
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES * 4];
        let mut reader = Reader::new(&self.events, &mut buffer);
        while let Ok(event) = reader.next() {
            let ours = event.file_name().is_some_and(|n| n.to_bytes() == self.name.as_bytes());
            if ours || event.events().contains(ReadFlags::IGNORED) {
                return gone(&self.shown);
            }
        }
        None
    }
}

/// Looked for each second.
struct Looked {
    timer: OwnedFd,
    folder: OwnedFd,
    name: OsString,
    shown: PathBuf,
}

impl Source for Looked {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::Watch
    }

    fn on_event(&mut self, _engine: &mut Engine, _out: &mut dyn ToGuest) -> Option<Exit> {
        let mut expirations = [0; 8];
        let _ = rustix::io::read(&self.timer, &mut expirations);
        let name = CString::new(self.name.as_bytes()).ok()?;
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match openat(&self.folder, name, flags, Mode::empty()) {
            Ok(_) | Err(Errno::ACCESS) => None,
            Err(_) => gone(&self.shown),
        }
    }
}
