//! The system's log: one datagram a message to the socket of its daemon, in the form of RFC 3164 as
//! syslog(3) writes it, without the time, which the daemon knows. The socket is connected once, before
//! the sandbox hides it.
//!
//! The daemon's queue may be short: ten datagrams by default (`net.unix.max_dgram_qlen`), fewer than a start has lines. A
//! start waits for the daemon to read, but for [`PATIENCE`] altogether; from then on, and once a guest is served, nothing
//! waits. What was lost is told of here alone, in front of what gets through next: other destinations have lost nothing.

use std::fmt::Arguments;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use log::Level;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// Where the daemon listens.
const SOCKET: &str = "/dev/log";

/// The facility of daemons (RFC 3164, section 4.1.1).
const DAEMON: u8 = 3;

/// How long a start waits for a daemon that reads slowly, or not at all.
const PATIENCE: Duration = Duration::from_millis(100);

/// A connection to the system's log.
pub(super) struct Syslog {
    socket: UnixDatagram,
    ident: &'static str,
    datagram: Vec<u8>,
    /// For how long a message may still wait.
    patience: Duration,
    /// Messages that got lost since the last one that was sent.
    lost: u64,
}

impl Syslog {
    /// Connects as `ident`; `None` where there is no system log.
    pub(super) fn connect(ident: &'static str) -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(SOCKET).ok()?;
        Some(Self::new(socket, ident, PATIENCE))
    }

    /// A message waits for `patience`, and all of them together not for twice as long.
    fn new(socket: UnixDatagram, ident: &'static str, mut patience: Duration) -> Self {
        // The kernel waits in send(2): after the start, too, no other system call is needed. Without that limit it would
        // wait for ever.
        if socket.set_write_timeout(Some(patience)).is_err() {
            patience = Duration::ZERO;
        }
        Self { socket, ident, datagram: Vec::new(), patience, lost: 0 }
    }

    /// What the daemon has no room for is lost from now on.
    pub(super) fn stop_waiting(&mut self) {
        self.patience = Duration::ZERO;
    }

    /// Sends one message, or counts it as lost.
    pub(super) fn send(&mut self, level: Level, text: &str) {
        self.tell_lost();
        if self.lost > 0 || !self.pass(level, format_args!("{text}")) {
            self.lost += 1;
        }
    }

    /// Says how many messages were lost, if any were.
    pub(super) fn tell_lost(&mut self) {
        let lost = self.lost;
        let note = format_args!("{lost} messages lost: the system's log had no room for them");
        if lost > 0 && self.pass(Level::Warn, note) {
            self.lost = 0;
        }
    }

    /// False when there is no room, or nobody.
    fn pass(&mut self, level: Level, text: Arguments<'_>) -> bool {
        self.datagram.clear();
        let written = write!(self.datagram, "<{}>{}: {text}", priority(level), self.ident);
        written.is_ok() && self.hand_over().is_ok()
    }

    fn hand_over(&mut self) -> Result<usize, Errno> {
        loop {
            let waits = !self.patience.is_zero();
            let flags = if waits { SendFlags::empty() } else { SendFlags::DONTWAIT };
            let begin = Instant::now();
            let sent = send(&self.socket, &self.datagram, flags | SendFlags::NOSIGNAL);
            if waits {
                let waited = Instant::now().duration_since(begin);
                self.patience = self.patience.saturating_sub(waited);
            }
            if sent != Err(Errno::INTR) {
                return sent;
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection to a daemon that is the test, and has no room for another message.
    fn to_a_full_daemon(patience: Duration) -> (Syslog, UnixDatagram) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let connected = || {
            let socket = UnixDatagram::unbound().unwrap();
            socket.connect(&path).unwrap();
            socket
        };
        // One socket alone may have less room to send than the daemon's queue is long.
        while fill(&connected()) > 0 {}
        (Syslog::new(connected(), "passt", patience), daemon)
    }

    /// Sends what the daemon has room for, and returns how much that was.
    fn fill(socket: &UnixDatagram) -> usize {
        socket.set_nonblocking(true).unwrap();
        std::iter::repeat_with(|| socket.send(b"of others")).take_while(Result::is_ok).count()
    }

    fn next(daemon: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = daemon.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Receives what others have sent, and the first message that they have not.
    fn next_of_ours(daemon: &UnixDatagram) -> String {
        std::iter::repeat_with(|| next(daemon)).find(|text| text.starts_with('<')).unwrap()
    }

    #[test]
    fn a_start_waits_for_room() {
        let (mut log, daemon) = to_a_full_daemon(Duration::from_secs(60));
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| [next_of_ours(&daemon), next(&daemon)]);
            log.send(Level::Error, "first");
            log.send(Level::Info, "second");
            assert_eq!(reading.join().unwrap(), ["<27>passt: first", "<30>passt: second"]);
        });
    }

    #[test]
    fn what_was_lost_is_counted_in_front_of_the_next_message() {
        let (mut log, daemon) = to_a_full_daemon(Duration::from_secs(60));
        log.stop_waiting();
        log.send(Level::Info, "first");
        log.send(Level::Info, "second");
        while log.lost > 0 {
            next(&daemon);
            log.tell_lost();
        }
        next(&daemon);
        log.send(Level::Info, "third");
        let told = "<28>passt: 2 messages lost: the system's log had no room for them";
        assert_eq!([next_of_ours(&daemon), next(&daemon)], [told, "<30>passt: third"]);
    }

    #[test]
    fn a_daemon_that_stands_still_is_waited_for_once() {
        let (mut log, _daemon) = to_a_full_daemon(Duration::from_millis(1));
        log.send(Level::Info, "first");
        assert_eq!((log.lost, log.patience), (1, Duration::ZERO));
    }
}
