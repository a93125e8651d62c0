//! The connection to a running program: requests and replies, line by line.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use passt_frame::Errno;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::AskError;
use crate::control::json::commands::CommandName;
use crate::control::json::model::Problem;
use crate::sys::events;

/// How long an answer may take: the program does nothing for longer than some milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How long a program that ends may take to close all of its sockets.
const ENDS_WITHIN: Duration = Duration::from_millis(500);

/// Bytes of the longest line that is taken: many times what the program sends.
const LINE_BYTES: u64 = 16 << 20;

/// A connection to a control socket.
pub(super) struct Connection {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`AskError::Socket`].
    pub(crate) fn open(path: &Path) -> Result<Self, AskError> {
        let failed = |source| AskError::Socket { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Waits for lines for ever from now on.
    ///
    /// # Errors
    /// [`AskError::Socket`].
    pub(crate) fn be_patient(&self) -> Result<(), AskError> {
        let done = self.stream.get_ref().set_read_timeout(None);
        done.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> AskError {
        // A control socket says nothing but text.
        if source.kind() == ErrorKind::InvalidData {
            return self.no_reply();
        }
        AskError::Socket { path: self.path.clone(), source }
    }

    /// What came is no reply.
    pub(crate) fn no_reply(&self) -> AskError {
        AskError::Reply(self.path.clone())
    }

    /// The end of the events is none of the program's.
    pub(crate) fn cut_off(&self) -> AskError {
        AskError::CutOff(self.path.clone())
    }

    /// Whether the program goes on to listen at the path. A connection of another kind shows that, as it takes nobody's
    /// place. One that ends closes its sockets one after the other.
    pub(crate) fn is_listened_for(&self) -> bool {
        let Ok(probe) = UnixDatagram::unbound() else { return false };
        if probe.set_read_timeout(Some(ENDS_WITHIN / 10)).is_err() {
            return false;
        }
        (0..10).all(|_| {
            let refused = probe.connect(&self.path).err();
            let errno = refused.and_then(|error| Errno::from_io_error(&error));
            // Nobody writes to it: this is a pause.
            errno == Some(Errno::PROTOTYPE) && probe.recv(&mut [0]).is_err()
        })
    }

    /// Waits until the program says more or ends; false if nobody reads from `output` any more.
    ///
    /// # Errors
    /// [`AskError::Socket`].
    pub(crate) fn has_more_for(&self, output: impl AsFd) -> Result<bool, AskError> {
        if !self.stream.buffer().is_empty() {
            return Ok(true);
        }
        let unread = events::readable_or_unread(self.stream.get_ref(), output);
        unread.map(|unread| !unread).map_err(|errno| self.failed(errno.into()))
    }

    /// Sends a line.
    fn send(&mut self, line: &str) -> std::io::Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(line.as_bytes()).and_then(|()| stream.write_all(b"\n"))
    }

    /// Reads up to the end of the next line, or of the connection.
    fn read(&mut self) -> Result<String, AskError> {
        let mut line = String::new();
        let read = (&mut self.stream).take(LINE_BYTES).read_line(&mut line);
        read.map_err(|source| self.failed(source))?;
        Ok(line)
    }

    /// The next line, without its end; `None` when there are no more, and half of one is none.
    ///
    /// # Errors
    /// [`AskError::Socket`], [`AskError::Reply`].
    pub(crate) fn event(&mut self) -> Result<Option<String>, AskError> {
        let mut line = self.read()?;
        if line.len() as u64 >= LINE_BYTES {
            return Err(self.no_reply());
        }
        Ok(line.pop().filter(|last| *last == '\n').map(|_| line))
    }

    /// Sends a request; returns the line of its reply. A request that is refused need not have been taken whole.
    ///
    /// # Errors
    /// [`AskError::Socket`], [`AskError::Reply`].
    pub(crate) fn exchange(&mut self, request: &str) -> Result<String, AskError> {
        let unsent = self.send(request).err();
        match (self.event(), unsent) {
            (Ok(Some(reply)), _) => Ok(reply),
            (Err(AskError::Socket { .. }) | Ok(None), Some(source)) => Err(self.failed(source)),
            (Ok(None), None) => Err(self.no_reply()),
            (Err(error), _) => Err(error),
        }
    }

    /// Sends a request; returns the result in its reply.
    ///
    /// # Errors
    /// Also [`AskError::Refused`].
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, request: &Value) -> Result<T, AskError> {
        let line = self.exchange(&request.to_string())?;
        let mut reply: Value = serde_json::from_str(&line).map_err(|_| self.no_reply())?;
        if let Ok(problem) = serde_json::from_value::<Problem>(reply["error"].take()) {
            return Err(AskError::Refused(problem));
        }
        serde_json::from_value(reply["result"].take()).map_err(|_| self.no_reply())
    }

    /// The answer to a command without fields.
    ///
    /// # Errors
    /// As of [`ask`](Self::ask).
    pub(crate) fn answer<T: DeserializeOwned>(
        &mut self,
        command: CommandName,
    ) -> Result<T, AskError> {
        self.ask(&json!({ "command": command.text() }))
    }
}
