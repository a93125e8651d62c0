//! What the host looks like: which of its interfaces is the model for the guest, with its
//! addresses and gateway, per family. [`facts`] asks the kernel; the choice among the answers is
//! pure (`choose`), so that it can be tested without a kernel.

mod choose;
pub(crate) mod netlink;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{ConfError, Interfaces, Note, Only};
use crate::flow::fwd::InterfaceName;
use crate::sys::socket::{self, Transport};

pub(crate) use choose::Template;
use choose::index_of;

/// What was found out about the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Model of IPv4; `None` if there is none, or if the family is not wanted.
    pub v4: Option<Template<Ipv4Addr>>,
    /// Model of IPv6; likewise.
    pub v6: Option<Template<Ipv6Addr>>,
    /// Where IPv4 leads, with the lengths of prefixes and routers, if the model has no default route.
    pub destinations_v4: Vec<(Ipv4Addr, u8, Option<Ipv4Addr>)>,
    /// A route of IPv6 leads beyond the link of its model.
    pub beyond_link_v6: bool,
    /// The kernel has no IPv6 sockets.
    pub(crate) no_ipv6: bool,
    /// The kernel binds sockets to interfaces for the privileged only (before Linux 5.7).
    pub(crate) no_device_binding: bool,
    /// Interfaces of the host with their indexes.
    pub(crate) links: Vec<(InterfaceName, u32)>,
    /// What was noticed on the way.
    pub notes: Vec<Note>,
}

impl HostFacts {
    /// Index of the interface called `name`.
    pub fn index(&self, name: &InterfaceName) -> Option<u32> {
        index_of(&self.links, name)
    }
}

/// What is to be known of the kernel itself, where no interface is needed as a model.
pub(crate) fn kernel_facts() -> HostFacts {
    HostFacts {
        no_ipv6: !netlink::has_ipv6_sockets(),
        no_device_binding: !binds_to_devices(),
        ..HostFacts::default()
    }
}

/// Reads `bytes` as what the kernel replies: how much could be read, and how much told something.
#[cfg(fuzzing)]
pub(crate) fn look_at_replies(bytes: &[u8]) -> (usize, usize) {
    netlink::look(bytes)
}

/// Whether the host has a route to the IPv6 Internet, in whatever table: 2000::/3 is all of it, and its first
/// addresses are nobody's. Nothing is sent.
fn reaches_global_v6() -> bool {
    let far = SocketAddr::from((Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1), 9));
    let socket = socket::create(Transport::Udp, Ipv6Addr::UNSPECIFIED.into());
    socket.is_ok_and(|socket| rustix::net::connect(&socket, &far).is_ok())
}

/// Whether we may bind a socket to an interface: the loopback one is there always.
fn binds_to_devices() -> bool {
    let socket = socket::create(Transport::Udp, Ipv4Addr::UNSPECIFIED.into());
    socket.is_ok_and(|socket| socket::bind_to_device(socket.as_fd(), "lo") != Err(Errno::PERM))
}

/// All addresses of this host, with the lengths of their prefixes.
///
/// # Errors
/// netlink fails.
pub(crate) fn own_networks() -> Result<Vec<(IpAddr, u8)>, ConfError> {
    netlink::own_networks()
}

/// Asks the kernel about interfaces, addresses and routes, and chooses as `wish` says.
///
/// # Errors
/// An interface in `wish` does not exist, or netlink fails.
pub fn facts(wish: &Interfaces) -> Result<HostFacts, ConfError> {
    let dump = netlink::dump()?;
    let missing = |name: &&InterfaceName| index_of(&dump.links, name).is_none();
    let named = [&wish.template, &wish.outbound_v4, &wish.outbound_v6];
    if let Some(name) = named.into_iter().flatten().find(missing) {
        let source = io::Error::from_raw_os_error(libc::ENODEV);
        return Err(ConfError::Interface { name: name.to_string(), source });
    }

    let mut notes = Vec::new();
    let v4_wish = wish.template.or(wish.outbound_v4);
    let v6_wish = wish.template.or(wish.outbound_v6);
    let v4 = (wish.only != Some(Only::V6)).then(|| choose::template(&dump, v4_wish, &mut notes));
    let v6 = (wish.only != Some(Only::V4)).then(|| choose::template(&dump, v6_wish, &mut notes));
    let (v4, v6) = (v4.flatten(), v6.flatten());
    let beyond_link_v6 = choose::leads_beyond(&dump, v6.as_ref()) || reaches_global_v6();
    let partial = v4.as_ref().filter(|model| !model.default_route);
    let destinations_v4 = partial.map(|model| choose::destinations_v4(&dump, model));
    let destinations_v4 = destinations_v4.unwrap_or_default();
    let links = dump.links;
    Ok(HostFacts { v4, v6, destinations_v4, beyond_link_v6, links, notes, ..kernel_facts() })
}
