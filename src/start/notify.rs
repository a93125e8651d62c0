//! The service manager, for `--notify`: one datagram to the socket that it named says that the program
//! is ready, and which process to look after (sd_notify(3)).

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::conf::NOTIFY_VARIABLE as VARIABLE;
use crate::error::StartError;

/// A connection to the service manager.
pub(crate) struct ServiceManager(UnixDatagram);

impl ServiceManager {
    /// Connects to the socket that the environment names; `None` when it names none.
    ///
    /// # Errors
    /// The socket cannot be reached.
    pub(crate) fn connect() -> Result<Option<Self>, StartError> {
        let Some(name) = std::env::var_os(VARIABLE) else {
            log::warn!("No service manager to notify: {VARIABLE} is not set");
            return Ok(None);
        };
        let connected = address(&name).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            Ok(socket)
        });
        let shown = name.display();
        connected.map(|socket| Some(Self(socket))).map_err(|error| {
            StartError::Other(format!(
                "Couldn't reach the service manager at {shown}: {error}: {VARIABLE} names this socket, which \
                 --notify is for: leave that out, or start the program by a unit with Type=notify"
            ))
        })
    }

    /// Says that process `pid` is ready.
    ///
    /// # Errors
    /// What send(2) reports.
    pub(crate) fn ready(&self, pid: i32) -> std::io::Result<()> {
        self.0.send(format!("READY=1\nMAINPID={pid}\n").as_bytes()).map(drop)
    }
}

fn address(name: &OsStr) -> std::io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}
