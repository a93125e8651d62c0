//! The socket that a service manager passes on (sd_listen_fds(3)).

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::error::StartError;
use crate::sys::{errno_text, process};

/// The first descriptor that a service manager passes on (sd_listen_fds(3)).
const FIRST_PASSED: i32 = 3;

/// The descriptor of a socket on which a service manager listens for us, if the environment says so.
///
/// # Errors
/// There are several.
pub(crate) fn activated() -> Result<Option<i32>, StartError> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        Some(1) => Ok(Some(FIRST_PASSED)),
        Some(several) => Err(StartError::Other(format!(
            "The service manager passes {several} sockets: give the unit one ListenStream="
        ))),
    }
}

/// Takes over the socket that a service manager listens on. It stays when the program ends.
pub(super) fn take_activated(fd: i32) -> Result<(UnixListener, PathBuf), StartError> {
    let unusable = |why: String| {
        StartError::Other(format!(
            "The service manager's socket cannot be used: {why}: let the unit have ListenStream= with a path"
        ))
    };
    let socket = process::take_descriptor(fd).map_err(|errno| unusable(errno_text(errno)))?;
    let listens = rustix::net::sockopt::socket_acceptconn(&socket);
    if !listens.map_err(|errno| unusable(errno_text(errno)))? {
        return Err(unusable("it does not listen".to_owned()));
    }
    let listener = UnixListener::from(socket);
    let address = listener.local_addr().map_err(|error| unusable(error.to_string()))?;
    let path = address.as_pathname().ok_or_else(|| unusable("it has no path".to_owned()))?;
    let path = path.to_owned();
    Ok((listener, path))
}
