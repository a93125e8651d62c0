//! Configuration: from the command line and what the host looks like to small typed parts.
//!
//! Two passes, each pure: [`parse`] reads the command line on its own; [`resolve`] puts it together
//! with what [`host::facts`] found and with resolv.conf, and only then reads port specifications.
//! Bad options are therefore reported before bad ports, and nothing has been created when either
//! is refused. The only I/O is in `host`, [`egress::load`], [`resolv::read`] and [`ports::ephemeral_range`]; and
//! `slirp4netns` asks whether we are root.
//!
//! ```text
//! words -> parse -> Command::Run(Options) --+
//! netlink -> host::facts -> HostFacts ------+-> resolve -> Conf -> banner
//! resolv.conf, ephemeral ports -------------+
//! ```

mod banner;
pub mod egress;
mod error;
pub mod host;
mod idle;
mod meaning;
mod names;
mod options;
mod pasta;
pub mod ports;
pub(crate) mod resolv;
mod slirp4netns;
#[cfg(test)]
mod tests;
mod text;
mod well_known;

pub(crate) use banner::{banner, hint};
pub(crate) use error::{ConfError, Note};
pub use meaning::{Conf, Device, LinkConf, resolve};
pub(crate) use meaning::{LOCAL_GATEWAY_V4, Told, is_reached, option_of, told, unreached};
pub use options::{
    Command, Interfaces, Mode, Only, Options, PastaOptions, Question, RunConf, command, parse,
};
pub(crate) use options::{ControlSocket, HAS_VHOST_USER, MigrationOptions, Repair};
pub(crate) use pasta::{Copying, PastaConf, Target, UserNamespace, copying, starts_command};
pub(crate) use slirp4netns::as_slirp4netns_says;
pub use slirp4netns::{SlirpConf, slirp4netns_command};
pub(crate) use well_known::{DEFAULT_SOCKETS, NOTIFY_VARIABLE, default_socket};
