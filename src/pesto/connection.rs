//! What is said with a running program. Whatever it says is bounded, in size and in time.

use std::fmt::Arguments;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use passt_frame::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

use super::failure::Failure;
use super::tables::{Table, Tables};
use crate::control::configuration::format::{
    ACCEPTED, Capabilities, END, FormatError, HELLO_BYTES, REFUSED, RULE_BYTES, TABLE_BYTES,
    TableHead, check_hello, rule_from_bytes,
};
use crate::sys::errno_text;

/// How long a program may be silent: it may have others to serve, and many ports to open.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most tables that a program may have: many times what there are.
const MAX_TABLES: usize = 16;

/// Bytes of the longest reason.
const MAX_REASON: usize = 4096;

/// A socket that is not connected yet.
pub(super) struct Prepared {
    path: PathBuf,
    address: SocketAddrUnix,
    socket: OwnedFd,
}

/// A connection with a program.
pub(super) struct Connection {
    path: PathBuf,
    socket: OwnedFd,
}

impl Connection {
    /// Makes the socket.
    ///
    /// # Errors
    /// No socket can have such a path, or none can be made.
    pub(super) fn prepare(path: &Path) -> Result<Prepared, Failure> {
        let failed = |errno| Failure::new(format!("Couldn't make a socket: {}", errno_text(errno)));
        let address = SocketAddrUnix::new(path).map_err(|_| {
            let path = path.display();
            Failure::new(format!("Invalid socket path: {path}: it must have 1 to 107 bytes"))
        })?;
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let socket = socket.map_err(failed)?;
        for timeout in [Timeout::Recv, Timeout::Send] {
            sockopt::set_socket_timeout(&socket, timeout, Some(PATIENCE)).map_err(failed)?;
        }
        Ok(Prepared { path: path.to_owned(), address, socket })
    }

    /// Receives the program's rules.
    ///
    /// # Errors
    /// It is none that is understood, or is gone.
    pub(super) fn receive(
        &mut self,
        debug: &mut dyn FnMut(Arguments<'_>),
    ) -> Result<Tables, Failure> {
        check_hello(&self.read::<HELLO_BYTES>()?).map_err(|error| bad(&error))?;
        let mut tables = Tables::default();
        loop {
            let [pif] = self.read::<1>()?;
            if pif == END {
                return Ok(tables);
            }
            if tables.0.len() == MAX_TABLES {
                return Err(Failure::new("The server has too many tables"));
            }
            debug(format_args!("Receiving config for PIF {pif}"));
            let mut bytes = [pif; TABLE_BYTES];
            bytes[1..].copy_from_slice(&self.read::<{ TABLE_BYTES - 1 }>()?);
            let head = TableHead::from_bytes(&bytes).map_err(|error| bad(&error))?;
            debug(format_args!("{}", described(&head)));
            let (count, mut table) = (head.count, Table::new(head));
            for _ in 0..count {
                table.take_over(
                    rule_from_bytes(&self.read::<RULE_BYTES>()?).map_err(|error| bad(&error))?,
                );
            }
            tables.0.push(table);
        }
    }

    /// Sends the rules that are wanted.
    ///
    /// # Errors
    /// The program is gone, or does not read.
    pub(super) fn send(&mut self, tables: &Tables) -> Result<(), Failure> {
        let bytes = tables.request();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed("Couldn't send the new rules to", errno)),
            }
        }
        Ok(())
    }

    /// Whether the program says that the rules are in force. False if it says nothing.
    ///
    /// # Errors
    /// It says that they are not, and why.
    pub(super) fn has_verdict(&mut self) -> Result<bool, Failure> {
        let said = self.rest()?;
        match said.split_first() {
            None => Ok(false),
            Some((&ACCEPTED, _)) => Ok(true),
            Some((&REFUSED, reason)) => {
                let reason = String::from_utf8_lossy(reason);
                let is_control = |letter: char| letter.is_control() && letter != '\n';
                let reason = reason.replace(is_control, "?");
                Err(Failure::new(format!("{reason}\nNothing has changed")))
            }
            Some(_) => Err(Failure::new(format!("Unknown answer of {}", self.path.display()))),
        }
    }

    /// What else the program says, until it closes the connection.
    fn rest(&mut self) -> Result<Vec<u8>, Failure> {
        let mut said = vec![0; MAX_REASON];
        let mut filled = 0;
        while filled < said.len() {
            match recv(&self.socket, &mut said[filled..], RecvFlags::empty()) {
                // Who closes without having read everything has said nothing, either.
                Ok((0, _)) | Err(Errno::CONNRESET) => break,
                Ok((count, _)) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed("Couldn't read the answer of", errno)),
            }
        }
        said.truncate(filled);
        while said.last() == Some(&b'\n') {
            said.pop();
        }
        Ok(said)
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            match recv(&self.socket, &mut bytes[filled..], RecvFlags::empty()) {
                Ok((0, _)) => {
                    let path = self.path.display();
                    return Err(Failure::new(format!(
                        "{path} has closed the connection before it has told its rules: try again, or see its log"
                    )));
                }
                Ok((count, _)) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed("Couldn't read the rules of", errno)),
            }
        }
        Ok(bytes)
    }

    fn failed(&self, what: &str, errno: Errno) -> Failure {
        Failure::new(format!("{what} {}: {}", self.path.display(), why(errno)))
    }
}

/// What the kernel says of a connection, in words. Who waits for a request first says nothing, as long as there is none.
fn why(errno: Errno) -> String {
    if errno != Errno::AGAIN {
        return errno_text(errno);
    }
    format!(
        "nothing for {} s: it is busy, or stopped, or this is the socket of --control: give the path of --conf-path, or \
         name a command, as pesto status PATH",
        PATIENCE.as_secs()
    )
}

impl Prepared {
    /// Connects with the program.
    ///
    /// # Errors
    /// Nobody listens there.
    pub(super) fn connect(self) -> Result<Connection, Failure> {
        let Self { path, address, socket } = self;
        let connected = loop {
            match connect(&socket, &address) {
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        let cure = |errno| match errno {
            Errno::NOENT => ": give the path of --conf-path",
            Errno::CONNREFUSED => ": is the program running?",
            Errno::ACCESS => ": be the user who has started the program",
            Errno::AGAIN => ": it is busy, or stopped",
            _ => "",
        };
        connected.map_err(|errno| {
            let (shown, why) = (path.display(), errno_text(errno));
            Failure::new(format!("Failed to connect to {shown}: {why}{}", cure(errno)))
        })?;
        Ok(Connection { path, socket })
    }
}

fn bad(error: &FormatError) -> Failure {
    Failure::new(error.to_string())
}

/// A table in words.
fn described(head: &TableHead) -> String {
    let names = Capabilities::NAMES.iter().filter(|(one, _)| head.capabilities.has(*one));
    let names: String = names.map(|(_, name)| format!(" {name}")).collect();
    let TableHead { pif, name, capabilities, count } = head;
    format!("PIF {pif}: {name}, {count} rules, capabilities {:#x}:{names}", capabilities.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_may_speak_the_other_protocol() {
        let said = why(Errno::AGAIN);
        assert!(said.starts_with(
            "nothing for 30 s: it is busy, or stopped, or this is the socket of --control"
        ));
        assert_eq!(why(Errno::NOMEM), "Cannot allocate memory");
    }
}
