//! The command line of slirp4netns(1), for those who start a program of that name: rootless container engines from before
//! pasta. It is read by a table of its own, and said again in the words of pasta, with the addresses that slirp4netns
//! has: 10.0.2.100 inside, 10.0.2.2 for this host, 10.0.2.3 for its name server. What pasta has no words for is in
//! [`SlirpConf`].
//!
//! | file | what it holds |
//! |---|---|
//! | `command` | the table, and what is wrong with a command line |
//! | `request` | what was asked for, as types |
//! | `words` | the same in pasta's words |
//! | `refusals` | what pasta says of a start that fails, in the words of slirp4netns |
//!
//! The word that the name of the program is looked for is [`NAME`], wherever it stands in it.

mod command;
mod refusals;
mod request;
#[cfg(test)]
mod tests;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Command, ConfError};
pub use command::command as slirp4netns_command;
pub(crate) use refusals::in_these_words as as_slirp4netns_says;
use request::Request;

/// How a program of this kind is called.
pub(crate) const NAME: &str = "slirp4netns";

/// The version whose command line and socket these are, for those who look at it.
const VERSION: &str = "1.3.0";

/// What pasta has no options for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlirpConf {
    /// `--ready-fd`: where a byte is written when everything is ready.
    pub(crate) ready: Option<i32>,
    /// `--exit-fd`: the program ends when the other end of this is closed, or says anything.
    pub(crate) exit: Option<i32>,
    /// `--api-socket`: socket on which ports are forwarded.
    pub(crate) api: Option<PathBuf>,
}

/// Reads the command line, program name first.
///
/// # Errors
/// The first thing wrong with it.
pub(super) fn parse(words: &[OsString]) -> Result<Command, ConfError> {
    let request = match command::read(words)? {
        command::Asked::Help => return Ok(Command::Help(command::help())),
        command::Asked::Version => return Ok(Command::Version(command::version())),
        command::Asked::Request(request) => request,
    };
    let mut command = super::parse(words::of_pasta(&request).into_iter())?;
    if let Command::Run(options) = &mut command {
        let Request { ready, exit, api, .. } = *request;
        options.run.slirp4netns = Some(SlirpConf { ready, exit, api });
    }
    Ok(command)
}
