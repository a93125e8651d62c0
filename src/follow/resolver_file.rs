//! Watches resolv.conf, by whatever way it changes: written in place, replaced by rename, removed and made again, or
//! a symbolic link, of one or several steps, that leads elsewhere from now on. inotify(7) tells; which folders are
//! watched is found out anew after each event, since any step may lead elsewhere then.
//!
//! A folder that is not there yet is waited for in the nearest one above it. Where the system gives out no more instances
//! of inotify, the file can be read all the same.

use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{
    CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init, remove_watch,
};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, readlinkat, statat};
use rustix::io::Errno;

use crate::conf::resolv;

/// Steps of symbolic links that are followed.
const MOST_LINKS: usize = 8;

/// Bytes of events that are read together; each has at most 272.
const EVENT_BYTES: usize = 4096;

/// Most reads for one event of the descriptor.
const MOST_READS: usize = 64;

/// What happens to names in a folder, and to files in it.
const IN_FOLDER: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// What happens to the file itself, by whatever name it is reached.
const IN_FILE: WatchFlags =
    WatchFlags::CLOSE_WRITE.union(WatchFlags::MODIFY).union(WatchFlags::ATTRIB);

/// One watch: what of it matters are events with this name, or all.
struct Watch {
    descriptor: i32,
    name: Option<OsString>,
}

/// The file and what is watched for it.
pub(crate) struct ResolverFile {
    path: PathBuf,
    /// `None` if nothing is watched.
    events: Option<OwnedFd>,
    watches: Vec<Watch>,
}

impl ResolverFile {
    /// Watches the file at `path`, whether it is there or not.
    ///
    /// # Errors
    /// What inotify_init(2) reports.
    pub(crate) fn watch(path: &Path) -> Result<Self, Errno> {
        let events = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut file = Self { events: Some(events), ..Self::unwatched(path) };
        file.renew();
        Ok(file)
    }

    /// The file at `path`, of which nobody tells when it changes.
    pub(crate) fn unwatched(path: &Path) -> Self {
        Self { path: path.to_owned(), events: None, watches: Vec::new() }
    }

    /// Tells when the file may have changed.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// What the file says now; nothing if there is none, or it cannot be read.
    pub(crate) fn text(&self) -> String {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let Ok(file) = rustix::fs::open(&self.path, flags, Mode::empty()) else {
            return String::new();
        };
        let mut bytes = vec![0; resolv::MAX_BYTES as usize];
        let mut length = 0;
        while length < bytes.len() {
            match rustix::io::read(&file, &mut bytes[length..]) {
                Ok(0) | Err(_) => break,
                Ok(more) => length += more,
            }
        }
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// Takes the events that wait; true if one of them is about the file or the way to it.
    pub(crate) fn changed(&mut self) -> bool {
        let Some(events) = &self.events else { return false };
        let mut changed = false;
        for _ in 0..MOST_READS {
            let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
            let mut reader = Reader::new(events, &mut buffer);
            let Ok(event) = reader.next() else { break };
            changed |= self.concerns(event.wd(), event.events(), event.file_name());
            while !reader.is_buffer_empty() {
                let Ok(event) = reader.next() else { break };
                changed |= self.concerns(event.wd(), event.events(), event.file_name());
            }
        }
        if changed {
            self.renew();
        }
        changed
    }

    fn concerns(&self, descriptor: i32, what: ReadFlags, name: Option<&std::ffi::CStr>) -> bool {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            return true;
        }
        let name = name.map(|name| OsStr::from_bytes(name.to_bytes()));
        let mut same = self.watches.iter().filter(|watch| watch.descriptor == descriptor);
        same.any(|watch| name.is_none() || watch.name.is_none() || watch.name.as_deref() == name)
    }

    /// Finds out again which folders lead to the file.
    fn renew(&mut self) {
        let Some(events) = self.events.take() else { return };
        let old = std::mem::take(&mut self.watches);
        let mut path = self.path.clone();
        for _ in 0..MOST_LINKS {
            self.add_folder_of(&events, &path);
            let Ok(target) = readlinkat(CWD, &path, Vec::new()) else { break };
            let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
            path = path.parent().unwrap_or(Path::new("/")).join(target);
        }
        if let Ok(descriptor) = add_watch(&events, &path, IN_FILE) {
            self.watches.push(Watch { descriptor, name: None });
        }
        // What is watched still has the same descriptor.
        for watch in old {
            if self.watches.iter().all(|other| other.descriptor != watch.descriptor) {
                let _gone_already = remove_watch(&events, watch.descriptor);
            }
        }
        self.events = Some(events);
    }

    /// Watches the folder of `path`, or the nearest one above that is there.
    fn add_folder_of(&mut self, events: &OwnedFd, path: &Path) {
        let mut at = path;
        while let (Some(folder), Some(name)) = (at.parent(), at.file_name()) {
            if let Ok(descriptor) = add_watch(events, folder, IN_FOLDER) {
                self.watches.push(Watch { descriptor, name: Some(name.to_owned()) });
                if at == path || statat(CWD, at, AtFlags::empty()).is_err() {
                    return;
                }
                // It has come just now, perhaps before the watch.
                at = path;
            } else {
                at = folder;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder `etc` with the file in it, and `run` beside it.
    fn place() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::create_dir(root.path().join("run")).unwrap();
        root
    }

    fn told(file: &mut ResolverFile, text: &str) {
        assert!(file.changed(), "{text}");
        assert_eq!(file.text(), text);
        assert!(!file.changed(), "told once");
    }

    #[test]
    fn every_way_to_change_the_file_is_told() {
        let root = place();
        let at = |path: &str| root.path().join(path);
        let conf = at("etc/resolv.conf");
        let mut file = ResolverFile::watch(&conf).unwrap();
        assert_eq!(file.text(), "");
        fs::write(&conf, "made").unwrap();
        told(&mut file, "made");
        fs::write(&conf, "written in place").unwrap();
        told(&mut file, "written in place");
        fs::write(at("etc/new"), "renamed").unwrap();
        assert!(!file.changed(), "another name");
        fs::rename(at("etc/new"), &conf).unwrap();
        told(&mut file, "renamed");
        fs::write(&conf, "and written again").unwrap();
        told(&mut file, "and written again");
        fs::remove_file(&conf).unwrap();
        told(&mut file, "");
    }

    #[test]
    fn links_that_lead_elsewhere_are_followed() {
        let root = place();
        let at = |path: &str| root.path().join(path);
        let conf = at("etc/resolv.conf");
        fs::write(at("run/one"), "one").unwrap();
        fs::write(at("run/two"), "two").unwrap();
        symlink("../run/link", &conf).unwrap();
        symlink("one", at("run/link")).unwrap();
        let mut file = ResolverFile::watch(&conf).unwrap();
        assert_eq!(file.text(), "one");
        fs::write(at("run/one"), "one again").unwrap();
        told(&mut file, "one again");
        fs::write(at("run/two"), "two again").unwrap();
        assert!(!file.changed(), "not the one that it leads to");
        symlink("two", at("run/new")).unwrap();
        fs::rename(at("run/new"), at("run/link")).unwrap();
        told(&mut file, "two again");
        fs::write(at("run/one"), "one").unwrap();
        assert!(!file.changed(), "not the one that it leads to any more");
        fs::write(at("run/two"), "two").unwrap();
        told(&mut file, "two");
        symlink("/run/nowhere", at("etc/new")).unwrap();
        fs::rename(at("etc/new"), &conf).unwrap();
        told(&mut file, "");
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_waited_for() {
        let root = place();
        let at = |path: &str| root.path().join(path);
        symlink("../run/a/b/resolv.conf", at("etc/resolv.conf")).unwrap();
        let mut file = ResolverFile::watch(&at("etc/resolv.conf")).unwrap();
        fs::create_dir(at("run/a")).unwrap();
        told(&mut file, "");
        fs::create_dir(at("run/a/b")).unwrap();
        told(&mut file, "");
        fs::write(at("run/a/b/resolv.conf"), "at last").unwrap();
        told(&mut file, "at last");
    }
}
