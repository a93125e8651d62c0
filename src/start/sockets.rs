//! The sockets that a start makes: for clients, for the helper of migrations, and for control.

use std::fs;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::Made;
use super::activation::{activated, take_activated};
use crate::conf::{ControlSocket, DEFAULT_SOCKETS, LinkConf, Mode, Repair, default_socket};
use crate::error::StartError;
use crate::sys::process;

/// The options that name sockets of clients, and of helpers.
const SOCKET_OPTION: &str = "--socket";
const REPAIR_OPTION: &str = "--repair-path";

/// How often, and after which pause, it is tried whether it is our turn in a folder: half a second.
const TURN_ATTEMPTS: u32 = 500;
const TURN_PAUSE: Duration = Duration::from_millis(1);

/// How often, and after which pause, it is looked again whether the owner of a socket is gone: 0.2 s. Peers of a process that
/// was killed are told before the kernel has closed what it listens on: it closes from the highest number down. Whoever starts
/// the program again when told so comes within that moment.
const LEAVING_ATTEMPTS: usize = 200;
const LEAVING_PAUSE: Duration = Duration::from_millis(1);

/// Where clients come from.
pub(crate) enum ClientSocket {
    /// They connect to this socket.
    Listening(UnixListener, PathBuf),
    /// The one client is connected already.
    Connected(UnixStream),
}

/// Makes the client socket, or takes the one that was handed over. What takes the place of a socket of
/// nobody counts as made, too.
///
/// # Errors
/// [`StartError`].
pub(crate) fn client_socket(link: &LinkConf, made: &mut Made) -> Result<ClientSocket, StartError> {
    if let Some(fd) = link.fd {
        return take_connected(fd).map(ClientSocket::Connected);
    }
    if let Some(fd) = activated()? {
        let (listener, path) = take_activated(fd)?;
        return Ok(ClientSocket::Listening(listener, path));
    }
    let socket = match &link.socket {
        Some(path) => bind_named(path, SOCKET_OPTION)
            .map(|listener| ClientSocket::Listening(listener, path.clone())),
        None => bind_default(),
    }?;
    if let ClientSocket::Listening(_, path) = &socket {
        made.note(path);
    }
    Ok(socket)
}

/// Takes over the socket of `--fd`, whose other end the one client has.
fn take_connected(fd: i32) -> Result<UnixStream, StartError> {
    let cure = "not an open socket: hand over one end of a pair of stream sockets, whose other end the guest has";
    let descriptor = |errno| StartError::Descriptor { fd, errno, cure };
    let socket = process::take_descriptor(fd).map_err(descriptor)?;
    let kind = rustix::net::sockopt::socket_type(&socket).map_err(descriptor)?;
    let cure = "no connected stream socket: hand over one end of a pair of stream sockets, whose other end the guest has";
    let descriptor = |errno| StartError::Descriptor { fd, errno, cure };
    if kind != SocketType::STREAM {
        return Err(descriptor(Errno::PROTOTYPE));
    }
    // One that listens has no other end, either.
    rustix::net::getpeername(&socket).map_err(descriptor)?;
    Ok(UnixStream::from(socket))
}

/// Makes the socket on which the helper of migrations connects, with its path; `None` if there is to be none.
///
/// # Errors
/// [`StartError`].
pub(crate) fn helper_socket(
    link: &LinkConf,
    clients: &ClientSocket,
    made: &mut Made,
) -> Result<Option<(UnixListener, PathBuf)>, StartError> {
    let path = match (&link.migration.repair, clients) {
        _ if link.mode != Mode::VhostUser => return Ok(None),
        (Repair::At(path), _) => path.clone(),
        (Repair::Beside, ClientSocket::Listening(_, beside)) => {
            let mut path = beside.clone().into_os_string();
            path.push(".repair");
            path.into()
        }
        (Repair::Beside | Repair::Nowhere, _) => return Ok(None),
    };
    let listener = match bind_named(&path, REPAIR_OPTION) {
        // Nobody has asked for that name.
        Err(StartError::SocketPath(path, _)) if link.migration.repair == Repair::Beside => {
            log::warn!(
                "{}: this name is too long for a socket: connections do not migrate; choose a shorter --repair-path",
                path.display()
            );
            return Ok(None);
        }
        // The folder is the service manager's.
        Err(StartError::Bind { path, source, .. })
            if link.migration.repair == Repair::Beside && activated()?.is_some() =>
        {
            log::warn!(
                "{}: {source}: connections do not migrate; choose a --repair-path where the unit may make files",
                path.display()
            );
            return Ok(None);
        }
        bound => bound?,
    };
    made.note(&path);
    listener.set_nonblocking(true).map_err(|source| not_bound(REPAIR_OPTION, &path, source))?;
    Ok(Some((listener, path)))
}

/// Makes a socket on which the program is controlled, at the path that `option` gives.
///
/// # Errors
/// [`StartError`].
pub(crate) fn control_socket(
    path: &Path,
    option: &'static str,
    made: &mut Made,
) -> Result<UnixListener, StartError> {
    let listener = bind_named(path, option)?;
    made.note(path);
    Ok(listener)
}

/// Makes a socket like that, with a mode of its own: whoever may write to it may connect.
///
/// # Errors
/// [`StartError`].
pub(crate) fn json_socket(
    wanted: &ControlSocket,
    option: &'static str,
    made: &mut Made,
) -> Result<UnixListener, StartError> {
    // There is one thread, so nobody else makes a file meanwhile; a mode that is set later would be late.
    let forbidden = rustix::fs::Mode::from_raw_mode(!wanted.mode & 0o777);
    let before = rustix::process::umask(forbidden);
    let listener = control_socket(&wanted.path, option, made);
    rustix::process::umask(before);
    listener
}

fn bind_default() -> Result<ClientSocket, StartError> {
    let mut last = None;
    for number in DEFAULT_SOCKETS {
        let path = default_socket(number);
        match bind(&path, SOCKET_OPTION, &mut || false) {
            Ok(listener) => return Ok(ClientSocket::Listening(listener, path)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(StartError::SocketInUse("/tmp/passt_1.socket".into(), SOCKET_OPTION)))
}

/// Binds to `path`, which nothing else can take the place of: an owner that is just leaving is waited for.
fn bind_named(path: &Path, option: &'static str) -> Result<UnixListener, StartError> {
    let mut pauses = std::iter::repeat_n(LEAVING_PAUSE, LEAVING_ATTEMPTS);
    bind(path, option, &mut || pauses.next().map(std::thread::sleep).is_some())
}

/// Binds to `path`. A socket that nobody listens on any more gives way, and so does an empty file,
/// which a script may have made to reserve the name; what a file holds is not thrown away. While somebody does listen, it is
/// looked again for as long as `pause` says so. It is not our turn meanwhile: others need not wait for that.
fn bind(
    path: &Path,
    option: &'static str,
    pause: &mut dyn FnMut() -> bool,
) -> Result<UnixListener, StartError> {
    let failed = |source| not_bound(option, path, source);
    if path.as_os_str().is_empty() {
        return Err(StartError::SocketPath(path.to_owned(), option));
    }
    match listen(path) {
        Err(Errno::ADDRINUSE) => {}
        // Too long, or with a zero in it.
        Err(Errno::NAMETOOLONG | Errno::INVAL) => {
            return Err(StartError::SocketPath(path.to_owned(), option));
        }
        bound => return bound.map_err(|errno| failed(errno.into())),
    }
    while !is_free(path) && pause() {}
    // A competitor that looked at the same time would remove what is bound here.
    let _turn = take_turn(path);
    if !is_free(path) {
        return Err(StartError::SocketInUse(path.to_owned(), option));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() && found.len() > 0 => {
            return Err(StartError::SocketIsFile(path.to_owned(), option));
        }
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(_) => {}
    }
    listen(path).map_err(|errno| failed(errno.into()))
}

/// The error that there can be no socket at `path`, which `option` gives.
fn not_bound(option: &str, path: &Path, source: std::io::Error) -> StartError {
    let owner = fs::symlink_metadata(path).ok().map(|found| found.uid());
    let other = owner.filter(|owner| *owner != rustix::process::geteuid().as_raw());
    let cure = bind_cure(option, path, source.kind(), other);
    StartError::Bind { path: path.to_owned(), source, cure }
}

/// What can be done about it, if what is there belongs to the `other` user.
fn bind_cure(option: &str, path: &Path, kind: ErrorKind, other: Option<u32>) -> String {
    match (kind, other) {
        (ErrorKind::NotFound, _) => {
            let folder = path.parent().unwrap_or(Path::new("/")).display();
            format!("make the folder {folder}, or choose another {option}")
        }
        (ErrorKind::PermissionDenied, Some(0)) => {
            format!("it belongs to root: have it removed, or choose another {option}")
        }
        (ErrorKind::PermissionDenied, Some(user)) => {
            format!("it belongs to user {user}: have it removed, or choose another {option}")
        }
        _ => {
            format!("choose another {option}, where you may make files and replace what is there")
        }
    }
}

/// Binds and listens. What was bound goes if nobody can connect to it.
fn listen(path: &Path) -> Result<UnixListener, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &address)?;
    // As many as the kernel allows.
    if let Err(errno) = rustix::net::listen(&socket, -1) {
        let _ = fs::remove_file(path);
        return Err(errno);
    }
    Ok(UnixListener::from(socket))
}

/// Whether nobody has a socket at `path`, or we may not know. Who has one does not notice: a socket of
/// another type cannot be connected with it, which fails otherwise than where there is none. A client that
/// came and left would end a program with `--one-off`.
fn is_free(path: &Path) -> bool {
    let connected = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    let free = |kind| {
        matches!(
            kind,
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied
        )
    };
    connected.is_err_and(|error| free(error.kind()))
}

/// Takes turns with others that start in the same folder, by a socket with an abstract name (unix(7)), which
/// one of them can have. Whoever keeps it for too long is not waited for: everybody may take it.
fn take_turn(path: &Path) -> Option<UnixListener> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::metadata(folder.unwrap_or(Path::new("."))).ok()?;
    let name = format!("passt-{}-{}", folder.dev(), folder.ino());
    let address = SocketAddr::from_abstract_name(name).ok()?;
    for _ in 0..TURN_ATTEMPTS {
        match UnixListener::bind_addr(&address) {
            Ok(turn) => return Some(turn),
            Err(error) if error.kind() == ErrorKind::AddrInUse => std::thread::sleep(TURN_PAUSE),
            Err(_) => break,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn what_is_in_the_way_of_a_socket_is_said() {
        let said = |path: &str, kind: ErrorKind| {
            not_bound(SOCKET_OPTION, Path::new(path), io::Error::from(kind)).to_string()
        };
        let missing = said("/nonexistent/dir/sock", ErrorKind::NotFound);
        let begin = "Failed to bind UNIX domain socket: ";
        let cure =
            "/nonexistent/dir/sock: make the folder /nonexistent/dir, or choose another --socket";
        assert!(missing.starts_with(begin) && missing.ends_with(cure), "{missing}");
        let denied = |other| {
            let path = Path::new("/etc/passwd");
            bind_cure(SOCKET_OPTION, path, ErrorKind::PermissionDenied, Some(other))
        };
        let cure = "have it removed, or choose another --socket";
        assert_eq!(denied(0), format!("it belongs to root: {cure}"));
        assert_eq!(denied(1000), format!("it belongs to user 1000: {cure}"));
        let none = said("/nonexistent/sock", ErrorKind::PermissionDenied);
        assert!(none.ends_with("where you may make files and replace what is there"), "{none}");
    }

    #[test]
    fn an_owner_that_is_leaving_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut owner = Some(UnixListener::bind(&path).unwrap());
        let refused = bind(&path, SOCKET_OPTION, &mut || false);
        assert!(matches!(refused, Err(StartError::SocketInUse(..))));
        let mut leaves = || owner.take().is_some();
        let bound = bind(&path, SOCKET_OPTION, &mut leaves).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(bound);
    }

    #[test]
    fn of_several_starts_with_one_path_one_gets_it() {
        let folder = std::env::temp_dir().join(format!("passt-start-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("socket");
        for _ in 0..50 {
            // Another test may have forked, and its child has the last round's socket until it calls exec(3) or ends.
            while !is_free(&path) {
                std::thread::yield_now();
            }
            let barrier = Barrier::new(8);
            let got = std::thread::scope(|scope| {
                let start = || {
                    barrier.wait();
                    bind(&path, SOCKET_OPTION, &mut || false).ok()
                };
                let starts: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
                starts.into_iter().filter_map(|start| start.join().unwrap()).collect::<Vec<_>>()
            });
            // What they leave behind is the stale socket of the next round.
            assert_eq!(got.len(), 1);
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
