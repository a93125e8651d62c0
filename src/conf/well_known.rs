//! Names that other programs know, too.

use std::path::PathBuf;

/// The variable that names the socket of a service manager (sd_notify(3)). A leading `@` stands for the zero byte of an
/// abstract address.
pub(crate) const NOTIFY_VARIABLE: &str = "NOTIFY_SOCKET";

/// Default socket paths that are tried.
pub(crate) const DEFAULT_SOCKETS: std::ops::RangeInclusive<u32> = 1..=99;

/// The socket of that number among [`DEFAULT_SOCKETS`].
pub(crate) fn default_socket(number: u32) -> PathBuf {
    format!("/tmp/passt_{number}.socket").into()
}
