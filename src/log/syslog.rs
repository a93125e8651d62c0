//! The system's log: one datagram a message to the socket of its daemon, in the form of RFC 3164 as
//! syslog(3) writes it, without the time, which the daemon knows. The socket is connected once, before
//! the sandbox hides it.

use std::io::Write;
use std::os::unix::net::UnixDatagram;

use log::Level;

/// Where the daemon listens.
const SOCKET: &str = "/dev/log";

/// The facility of daemons (RFC 3164, section 4.1.1).
const DAEMON: u8 = 3;

/// A connection to the system's log.
pub(super) struct Syslog {
    socket: UnixDatagram,
    ident: &'static str,
    datagram: Vec<u8>,
}

impl Syslog {
    /// Connects as `ident`; `None` where there is no system log.
    pub(super) fn connect(ident: &'static str) -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(SOCKET).ok()?;
        // Messages that the daemon has no room for are lost; the guest does not wait for it.
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket, ident, datagram: Vec::new() })
    }

    /// Sends one message. False when it is lost.
    pub(super) fn send(&mut self, level: Level, text: &str) -> bool {
        self.datagram.clear();
        let written = write!(self.datagram, "<{}>{}: {text}", priority(level), self.ident);
        written.is_ok() && self.socket.send(&self.datagram).is_ok()
    }
}

/// Facility and severity as one number (RFC 3164, section 4.1.1).
fn priority(level: Level) -> u8 {
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    DAEMON * 8 + severity
}
