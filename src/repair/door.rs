//! Where passt is: a socket, or a folder in which one appears.

use std::ffi::OsStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use passt_frame::Errno;
use rustix::fs::inotify;
use rustix::net::{self as rnet, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::failure::Failure;

/// The end of the names of passt's sockets for its helper.
const SUFFIX: &[u8] = b".repair";

/// How long a socket is tried at which nobody listens: passt binds it a moment before it does.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// Where passt is.
pub(super) enum Door {
    /// At this socket.
    Socket(PathBuf),
    /// In this folder, in which sockets of a suitable name are, perhaps old ones, and others appear.
    Folder { path: PathBuf, found: Vec<PathBuf>, news: OwnedFd },
}

impl Door {
    /// What `path` is.
    ///
    /// # Errors
    /// It is not there, or neither.
    pub(crate) fn find(path: PathBuf) -> Result<Self, Failure> {
        check_length(&path)?;
        let cannot = |error: &std::io::Error| {
            let why = Errno::from_io_error(error)
                .map_or_else(|| error.to_string(), crate::sys::errno_text);
            Failure::new(format!("{}: {why}", path.display()))
        };
        let kind = fs::metadata(&path).map_err(|error| cannot(&error))?.file_type();
        if kind.is_socket() {
            return Ok(Self::Socket(path));
        }
        if !kind.is_dir() {
            let path = path.display();
            return Err(Failure::usage(format!("{path} is neither a socket nor a folder")));
        }
        let news =
            watch(&path).map_err(|errno| Failure::system("couldn't watch the folder", errno))?;
        let entries = fs::read_dir(&path).map_err(|error| cannot(&error))?;
        let names = entries.filter_map(Result::ok).map(|entry| entry.path());
        let found = names.filter(|path| is_door(path.as_os_str())).collect();
        Ok(Self::Folder { path, found, news })
    }

    /// Connects to passt, and waits for it in a folder.
    ///
    /// # Errors
    /// Nobody listens at the socket, or it cannot be reached.
    pub(crate) fn connect(self) -> Result<OwnedFd, Failure> {
        match self {
            Self::Socket(path) => knock(&path),
            Self::Folder { path, found, news } => {
                // Old ones, at which nobody listens any more.
                let there = found.iter().find_map(|path| try_once(path).ok());
                there.map_or_else(|| knock(&wait(&path, &news)?), Ok)
            }
        }
    }
}

fn check_length(path: &Path) -> Result<(), Failure> {
    SocketAddrUnix::new(path).map(drop).map_err(|_| {
        Failure::usage(format!("{}: this path is too long for a socket", path.display()))
    })
}

fn is_door(name: &OsStr) -> bool {
    name.as_bytes().ends_with(SUFFIX)
}

fn watch(folder: &Path) -> Result<OwnedFd, Errno> {
    let news = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&news, folder, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
    Ok(news)
}

/// Waits until a socket of a suitable name appears.
fn wait(folder: &Path, news: &OwnedFd) -> Result<PathBuf, Failure> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(news, &mut buffer);
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                if let Some(name) = name.filter(|name| is_door(name)) {
                    let path = folder.join(name);
                    check_length(&path)?;
                    return Ok(path);
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Failure::system("couldn't watch the folder", errno)),
        }
    }
}

/// Connects, and tries again as long as nobody listens yet.
fn knock(path: &Path) -> Result<OwnedFd, Failure> {
    let tries = PATIENCE.as_millis() / PAUSE.as_millis();
    for _ in 0..tries {
        match try_once(path) {
            Err(Errno::CONNREFUSED | Errno::AGAIN) => std::thread::sleep(PAUSE),
            other => return other.map_err(|errno| cannot_connect(path, errno)),
        }
    }
    Err(cannot_connect(path, Errno::CONNREFUSED))
}

fn cannot_connect(path: &Path, errno: Errno) -> Failure {
    let what = format!("couldn't connect to {}", path.display());
    let cure = if errno == Errno::CONNREFUSED { ": is passt running?" } else { "" };
    Failure::new(format!("{what}: {}{cure}", crate::sys::errno_text(errno)))
}

fn try_once(path: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = rnet::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rnet::connect(&socket, &address)?;
    Ok(socket)
}
