//! What a namespace has, whoever has set it, and how it gets back what it loses with one of our addresses.
//!
//! An IPv4 address takes others with it when it goes: those of its network that came later, unless the namespace
//! promotes them, and routes that have it as their source. What the kernel makes itself, such as the route to an address's
//! network, it makes again with the address.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::configure::set_in_passes;
use super::netlink::Netlink;
use crate::conf::host::netlink::{request_on, routes};

/// Addresses of an interface, of both families, and IPv4 routes over it that somebody has set.
#[derive(Debug, Default)]
pub(super) struct There {
    addresses: Vec<AddressMessage>,
    routes: Vec<RouteMessage>,
}

impl There {
    /// Asks the kernel by `netlink` about the interface `index`.
    ///
    /// # Errors
    /// What netlink reports.
    pub(super) fn read(netlink: &Netlink, index: u32) -> io::Result<Self> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let mut addresses = request_on(netlink.socket(), question, |message| match message {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        })?;
        addresses.retain(|address| address.header.index == index);
        addresses.iter_mut().for_each(make_settable);
        let mut routes = routes(netlink.socket(), AddressFamily::Inet)?;
        routes.retain(|route| is_set_over(route, index));
        routes.iter_mut().for_each(without_state);
        Ok(Self { addresses, routes })
    }

    /// Whether there is the address of `message`.
    pub(super) fn has(&self, message: &AddressMessage) -> bool {
        self.addresses.iter().any(|there| is_same(there, message))
    }

    /// Sets again what was there and is not any more; of the addresses those in `before_others` first, since the first
    /// one of a network is the one that is chosen. What cannot be set has gone for good with what it needs.
    ///
    /// # Errors
    /// What netlink reports when it is asked what is there now.
    pub(super) fn restore(
        &self,
        netlink: &Netlink,
        index: u32,
        before_others: &[AddressMessage],
    ) -> io::Result<()> {
        let now = Self::read(netlink, index)?;
        let lost = self.addresses.iter().filter(|address| !now.has(address));
        let (ours, others): (Vec<_>, Vec<_>) =
            lost.partition(|lost| before_others.iter().any(|one| is_same(one, lost)));
        for address in ours.into_iter().chain(others) {
            let message = RouteNetlinkMessage::NewAddress(address.clone());
            let _needs_what_is_gone = netlink.change(message, NLM_F_CREATE | NLM_F_EXCL);
        }
        let lost = self.routes.iter().filter(|route| !now.routes.contains(route)).cloned();
        set_in_passes(netlink, lost.collect(), |_needs_what_is_gone| {});
        Ok(())
    }

    /// Leaves out addresses that are to go.
    pub(super) fn without(mut self, gone: &[&AddressMessage]) -> Self {
        self.addresses.retain(|there| !gone.iter().any(|one| is_same(there, one)));
        self
    }
}

/// The address of a message.
pub(super) fn of(message: &AddressMessage) -> Option<IpAddr> {
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            _ => {}
        }
    }
    local.or(peer)
}

/// Whether both are the same address: IPv4 may have one in several networks.
pub(super) fn is_same(one: &AddressMessage, other: &AddressMessage) -> bool {
    (of(one), one.header.prefix_len) == (of(other), other.header.prefix_len)
}

/// Leaves what can be set: which address of a network came first is not said.
fn make_settable(address: &mut AddressMessage) {
    address.attributes.retain(|attribute| {
        matches!(
            attribute,
            AddressAttribute::Local(_)
                | AddressAttribute::Address(_)
                | AddressAttribute::Broadcast(_)
                | AddressAttribute::Label(_)
                | AddressAttribute::CacheInfo(_)
                | AddressAttribute::RoutePriority(_)
                | AddressAttribute::Flags(_)
        )
    });
    for attribute in &mut address.attributes {
        if let AddressAttribute::Flags(flags) = attribute {
            *flags &= AddressFlags::Noprefixroute;
        }
    }
}

/// Whether somebody has set `route`, and it leads over the interface `index`.
fn is_set_over(route: &RouteMessage, index: u32) -> bool {
    let over = route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Oif(oif) => *oif == index,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == index),
        _ => false,
    });
    over && route.header.protocol != RouteProtocol::Kernel
}

/// Leaves out what changes by itself.
fn without_state(route: &mut RouteMessage) {
    route.header.flags &= RouteFlags::Onlink;
    route.attributes.retain(|attribute| {
        !matches!(
            attribute,
            RouteAttribute::NhId(_) | RouteAttribute::CacheInfo(_) | RouteAttribute::Expires(_)
        )
    });
}
