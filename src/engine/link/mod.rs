//! The link to the guest, as the loop sees it: a [`FramePort`] that may have a client. A client is a descriptor
//! of any kind, and the link says what it can make of it.
//!
//! | file | what it is |
//! |---|---|
//! | `clients` | lets clients in, one at a time |
//! | `socket` | the link of passt's socket: vhost-user, or frames one behind the other |
//! | `no_vhost` | what stands in for the vhost-user device on processors of 32 bits |
//! | `namespace` | the link of a guest in a network namespace: a tap device, or none |

mod clients;
mod namespace;
#[cfg(not(target_pointer_width = "64"))]
mod no_vhost;
mod socket;

use std::os::fd::OwnedFd;

use passt_frame::{FramePort, PortEvents};

pub use clients::Clients;
pub(super) use clients::Door;
pub use namespace::NamespaceLink;
pub use socket::{Protocols, SocketLink};

use super::event_counters::EventType;
use crate::time::Timestamp;

/// A link that the loop can drive.
pub trait Link: FramePort {
    /// A client has connected; `client` is its connection.
    ///
    /// # Errors
    /// What to tell the operator; the connection is closed.
    fn attach(&mut self, client: OwnedFd) -> Result<(), String>;

    /// Whether a client is connected; always, where there are no clients.
    fn is_attached(&self) -> bool;

    /// Whether the connected client has gone already, or is to go; the events of this turn and the
    /// next ones say so when everything that it left has been taken.
    fn is_leaving(&self) -> bool {
        false
    }

    /// Whether who is behind the link is a client, which comes and goes.
    fn has_clients(&self) -> bool {
        true
    }

    /// The type of the event that the link registered under `token`.
    fn event_type(&self, token: u16) -> EventType;

    /// When to call [`on_deadline`](Self::on_deadline), if nothing is heard of the client before.
    fn deadline(&self) -> Option<Timestamp> {
        None
    }

    /// That time has come.
    fn on_deadline(&mut self) -> PortEvents {
        PortEvents::default()
    }

    /// Whether the processor may be kept busy for a moment, for events that are likely to come.
    fn may_poll(&self) -> bool {
        false
    }
}
