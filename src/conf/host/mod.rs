//! What the host looks like: which of its interfaces is the model for the guest, with its
//! addresses and gateway, per family. [`facts`] asks the kernel; the choice among the answers is
//! pure (`choose`), so that it can be tested without a kernel.

mod choose;
pub(crate) mod netlink;
mod routed;
mod surroundings;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::{ConfError, Interfaces, Note, Only};
use crate::flow::fwd::{InterfaceName, Surroundings};
use crate::sys::netlink::Netlink;
use crate::sys::socket::{self, Transport};

pub(crate) use choose::Template;
use choose::index_of;

const BY_NUMBER: &str = "Routes over next hops that are told by number alone (ip nexthop) are not seen: \
    sysctl -w net.ipv4.nexthop_compat_mode=1";

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
    /// Addresses of the name server that `--dns-host` gives by name.
    pub(crate) named: NamedHost,
    /// Interfaces of the host with their indexes.
    pub(crate) links: Vec<(InterfaceName, u32)>,
    /// What was noticed on the way.
    pub notes: Vec<Note>,
}

/// The addresses of a host that is given by name, one of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamedHost {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

impl NamedHost {
    /// Whether there is one.
    pub(crate) fn is_some(&self) -> bool {
        self.v4.is_some() || self.v6.is_some()
    }

    /// Takes an address if there is none of its family yet. True if it was taken.
    pub(crate) fn set(&mut self, address: IpAddr) -> bool {
        let before = *self;
        match address {
            IpAddr::V4(v4) => self.v4 = self.v4.or(Some(v4)),
            IpAddr::V6(v6) => self.v6 = self.v6.or(Some(v6)),
        }
        *self != before
    }

    /// The addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = (self.v4.map(IpAddr::V4), self.v6.map(IpAddr::V6));
        v4.into_iter().chain(v6)
    }
}

impl HostFacts {
    /// The index that a zone means: that of an interface, or the number itself (RFC 4007 section 11.2).
    pub(crate) fn zone_index(&self, zone: &str) -> Option<u32> {
        let named = InterfaceName::new(zone).and_then(|name| self.index(&name));
        named.or_else(|| {
            let index = zone.parse().ok()?;
            self.links.iter().any(|(_, other)| *other == index).then_some(index)
        })
    }

    /// Where a port of an address is, with the index of the address' zone if it has one that is known.
    pub(crate) fn socket_address(
        &self,
        address: IpAddr,
        zone: Option<&str>,
        port: u16,
    ) -> SocketAddr {
        let scope = || zone.and_then(|zone| self.zone_index(zone)).unwrap_or(0);
        match address {
            IpAddr::V4(v4) => (v4, port).into(),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope()).into(),
        }
    }

    /// Index of the interface called `name`.
    pub fn index(&self, name: &InterfaceName) -> Option<u32> {
        index_of(&self.links, name)
    }

    /// Whether there is a network that the guest can be told of: an address, and a way out.
    pub(crate) fn has_network(&self) -> bool {
        fn usable<A>(template: &Option<Template<A>>) -> bool {
            template.as_ref().is_some_and(|one| one.address.is_some() && one.default_route)
        }
        usable(&self.v4) || usable(&self.v6)
    }

    /// Which families have a model of which something can be said, IPv4 and IPv6.
    pub(crate) fn models(&self) -> [bool; 2] {
        fn usable<A>(template: &Option<Template<A>>) -> bool {
            template.as_ref().is_some_and(|one| one.address.is_some())
        }
        [usable(&self.v4), usable(&self.v6)]
    }

    /// What has gone without a successor stays as it was `before`: nothing can be reached meanwhile, and it may come
    /// back.
    pub(crate) fn keep(&mut self, before: &Self) {
        let told = self.v4.clone();
        self.v4 = choose::keep(self.v4.take(), before.v4.as_ref());
        if self.v4 != told {
            self.destinations_v4.clone_from(&before.destinations_v4);
        }
        self.v6 = choose::keep(self.v6.take(), before.v6.as_ref());
    }
}

/// What the host is asked by, again and again.
pub(crate) struct Asker {
    netlink: Netlink,
    /// Find out whether a destination has a route, of IPv4 and IPv6.
    probe_v4: Option<OwnedFd>,
    probe_v6: Option<OwnedFd>,
}

impl Asker {
    /// Everything that asking takes, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// What socket(2) reports of netlink.
    pub(crate) fn new() -> Result<Self, Errno> {
        let probe = |any| socket::create(Transport::Udp, any).ok();
        let probe_v4 = probe(Ipv4Addr::UNSPECIFIED.into());
        let probe_v6 = probe(Ipv6Addr::UNSPECIFIED.into());
        Ok(Self { netlink: Netlink::new()?, probe_v4, probe_v6 })
    }

    /// Where questions go.
    pub(crate) fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Whether the host has a route to the IPv4 Internet, in whatever table: to one of the addresses of AS112, which are
    /// of it without being anybody's (RFC 7535), and to one that is far from it in number (1.1.1.1). Nothing is sent.
    fn reaches_global_v4(&self) -> bool {
        let probe = self.probe_v4.as_ref();
        leads_to(probe, Ipv4Addr::new(192, 31, 196, 1).into())
            && leads_to(probe, Ipv4Addr::new(1, 1, 1, 1).into())
    }

    /// The same of IPv6: 2000::/3 is all of it, and its first addresses are nobody's.
    pub(crate) fn reaches_global_v6(&self) -> bool {
        leads_to(self.probe_v6.as_ref(), Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1).into())
    }

    /// Asks the kernel about interfaces, addresses, routes and rules, and chooses as `wish` says; of several addresses the
    /// one that was chosen `before` is taken. An interface that does not exist is no model. With it, what this host is
    /// by whatever address, and what is next to it.
    ///
    /// # Errors
    /// netlink fails.
    pub(crate) fn look(
        &self,
        wish: &Interfaces,
        before: &HostFacts,
    ) -> Result<(HostFacts, Surroundings), ConfError> {
        let mut dump = netlink::dump(&self.netlink)?;
        let candidates = std::mem::take(&mut dump.candidates);
        let surroundings = surroundings::with_routes(&self.netlink, candidates)?;
        Ok((self.choose(dump, wish, before), surroundings))
    }

    fn choose(&self, dump: netlink::Dump, wish: &Interfaces, before: &HostFacts) -> HostFacts {
        let mut notes = Vec::new();
        notes.extend(dump.by_number.then(|| Note::warn(BY_NUMBER)));
        let v4_wish = wish.template.or(wish.outbound_v4);
        let v6_wish = wish.template.or(wish.outbound_v6);
        let v4 = (wish.only != Some(Only::V6))
            .then(|| choose::template(&dump, v4_wish, before.v4.as_ref(), &mut notes));
        let v6 = (wish.only != Some(Only::V4))
            .then(|| choose::template(&dump, v6_wish, before.v6.as_ref(), &mut notes));
        let (mut v4, mut v6) = (v4.flatten(), v6.flatten());
        let global_v6 = self.reaches_global_v6();
        let beyond_link_v6 = choose::leads_beyond(&dump, v6.as_ref()) || global_v6;
        if wish.outbound_v4.is_none() && self.reaches_global_v4() {
            choose::lead_by_rules(&dump, v4.as_mut(), before.v4.as_ref());
        }
        if wish.outbound_v6.is_none() && global_v6 {
            choose::lead_by_rules(&dump, v6.as_mut(), before.v6.as_ref());
        }
        let partial = v4.as_ref().filter(|model| !model.default_route);
        let destinations_v4 = partial.map(|model| choose::destinations_v4(&dump, model));
        let destinations_v4 = destinations_v4.unwrap_or_default();
        let (no_ipv6, no_device_binding) = (before.no_ipv6, before.no_device_binding);
        let links = dump.links;
        HostFacts {
            v4,
            v6,
            destinations_v4,
            beyond_link_v6,
            no_ipv6,
            no_device_binding,
            named: before.named,
            links,
            notes,
        }
    }
}

/// Whether there is a route to `far`, of the family of `probe`.
fn leads_to(probe: Option<&OwnedFd>, far: IpAddr) -> bool {
    probe.is_some_and(|probe| {
        // The address that was chosen for the last question is not to decide about this one.
        let _never_connected = rustix::net::connect_unspec(probe);
        rustix::net::connect(probe, &SocketAddr::from((far, 9))).is_ok()
    })
}

/// Whether new connections to the Internet leave the host, of a family that is wanted, from an address that is valid beyond
/// the link: whichever interface has it, and whichever table the route is in.
pub(crate) fn reaches_internet(only: Option<Only>) -> bool {
    let Ok(asker) = Asker::new() else { return false };
    let source = |probe: Option<&OwnedFd>, leads: bool| {
        let name = probe.filter(|_| leads).and_then(|probe| rustix::net::getsockname(probe).ok());
        let address = name.and_then(|name| SocketAddr::try_from(name).ok()).map(|name| name.ip());
        address.is_some_and(|address| match address {
            IpAddr::V4(v4) => !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        })
    };
    only != Some(Only::V6) && source(asker.probe_v4.as_ref(), asker.reaches_global_v4())
        || only != Some(Only::V4) && source(asker.probe_v6.as_ref(), asker.reaches_global_v6())
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

/// Whether we may bind a socket to an interface. The loopback one is there always, and would not do where no interface has
/// that name. However else it is refused, it is for all: by kernels before Linux 5.7 with `EPERM`, by sandboxes that stand
/// in for a kernel with what they say of options that they do not know. Without a socket there is no telling, and the start
/// has another reason to fail.
fn binds_to_devices() -> bool {
    let Ok(socket) = socket::create(Transport::Udp, Ipv4Addr::UNSPECIFIED.into()) else {
        return true;
    };
    matches!(socket::bind_to_device(socket.as_fd(), "lo"), Ok(()) | Err(Errno::NODEV))
}

/// What this host is, by whatever address, and what is next to it.
///
/// # Errors
/// netlink fails.
pub(crate) fn surroundings() -> Result<Surroundings, ConfError> {
    let netlink = asker()?.netlink;
    surroundings::with_routes(&netlink, netlink::dump(&netlink)?.candidates)
}

fn asker() -> Result<Asker, ConfError> {
    let failed = |errno: Errno| ConfError::Netlink { what: "interfaces", source: errno.into() };
    Asker::new().map_err(failed)
}

/// Asks the kernel about interfaces, addresses and routes, and chooses as `wish` says.
///
/// # Errors
/// An interface in `wish` does not exist, or netlink fails.
pub fn facts(wish: &Interfaces) -> Result<HostFacts, ConfError> {
    let asker = asker()?;
    let dump = netlink::dump(&asker.netlink)?;
    let missing = |name: &&InterfaceName| index_of(&dump.links, name).is_none();
    let named = [&wish.template, &wish.outbound_v4, &wish.outbound_v6];
    if let Some(name) = named.into_iter().flatten().find(missing) {
        let source = io::Error::from_raw_os_error(libc::ENODEV);
        return Err(ConfError::Interface { name: name.to_string(), source });
    }
    Ok(asker.choose(dump, wish, &kernel_facts()))
}
