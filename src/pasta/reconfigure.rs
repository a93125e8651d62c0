//! Addresses and routes of the namespace follow those of the host, with `--config-net`. What was set by us is changed;
//! what others have set there is left alone.
//!
//! An address that was replaced is kept for connections that have it, but as one that new ones do not choose
//! (deprecated, and without a network): on the host, such a connection may go on, as one does that passes a VPN by. After
//! two hours the namespace's kernel removes it, as it does with addresses that a router has withdrawn (RFC 4862, section
//! 5.5.3).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use netlink_packet_route::route::RouteMessage;

use super::configure::{Failure, Model, families, set_in_passes};
use super::netlink::Netlink;
use crate::conf::Copying;
use crate::conf::host::Asker;
use crate::flow::network::Network;

/// Addresses of before that are kept, and for how many seconds.
const MOST_FORMER: usize = 16;
const FORMER_S: u32 = 2 * 3600;

/// The namespace, as it was configured last.
pub(crate) struct Reconfigure {
    netlink: Netlink,
    index: u32,
    model: Model,
    set: Set,
}

/// What is set.
#[derive(Clone, Debug, Default, PartialEq)]
struct Set {
    addresses: Vec<AddressMessage>,
    routes: Vec<RouteMessage>,
    /// Addresses of before.
    former: Vec<AddressMessage>,
}

/// What is to be set instead.
pub(crate) struct Plan {
    model: Model,
    set: Set,
}

/// What a host means for the namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means<'a> {
    /// What the guest is told.
    pub(crate) network: &'a Network,
    /// Interfaces that are copied, of IPv4 and IPv6; `None` where the last look stays valid.
    pub(crate) interfaces: [Option<u32>; 2],
    /// What of them is copied.
    pub(crate) copying: [Copying; 2],
}

impl Reconfigure {
    /// The interface `index` was configured with `model`, as `network` and `copying` say. To be called in the
    /// namespace, with the right to configure it.
    ///
    /// # Errors
    /// What socket(2) reports.
    pub(super) fn new(
        index: u32,
        model: Model,
        network: &Network,
        copying: [Copying; 2],
    ) -> io::Result<Self> {
        let set = wanted(index, &model, network, copying);
        Ok(Self { netlink: Netlink::new()?, index, model, set })
    }

    /// What is to be changed; `None` if nothing is.
    ///
    /// # Errors
    /// The host does not tell what it has.
    pub(crate) fn plan(&self, asker: &Asker, means: &Means<'_>) -> Result<Option<Plan>, Failure> {
        let [v4, v6] = means.interfaces;
        let model = Model::read(asker, v4, v6)
            .map_err(|error| format!("Failed to read routes: {error}"))?
            .with_rest_of(&self.model, means.interfaces.map(|index| index.is_some()));
        let mut set = wanted(self.index, &model, means.network, means.copying);
        let before = self.set.former.iter().chain(&self.set.addresses);
        let kept = before.filter(|address| {
            let address = of(address);
            set.addresses.iter().all(|other| of(other) != address)
        });
        let former: Vec<_> = kept.filter_map(deprecated).collect();
        set.former = former[former.len().saturating_sub(MOST_FORMER)..].to_vec();
        Ok((set != self.set).then_some(Plan { model, set }))
    }

    /// Changes it. What cannot be changed keeps nothing else from being.
    ///
    /// # Errors
    /// The first change that was refused.
    pub(crate) fn carry_out(&mut self, Plan { model, set }: Plan) -> Result<(), Failure> {
        let old = std::mem::replace(&mut self.set, set);
        self.model = model;
        let set = &self.set;
        let mut failure = None;
        let mut try_to = |what: &str, change: RouteNetlinkMessage, flags| {
            if let Err(error) = self.netlink.change(change, flags)
                && !is_there_already(&error)
            {
                failure.get_or_insert_with(|| format!("Couldn't {what} in namespace: {error}"));
            }
        };
        for route in old.routes.iter().filter(|route| !set.routes.contains(route)) {
            try_to("remove route", RouteNetlinkMessage::DelRoute(route.clone()), 0);
        }
        // Of IPv4 the first address of a network takes all others with it: those that stay are set again below.
        let stays = |address: &AddressMessage| {
            set.addresses.contains(address) || set.former.contains(address)
        };
        for address in old.addresses.iter().chain(&old.former).filter(|address| !stays(address)) {
            try_to("remove address", RouteNetlinkMessage::DelAddress(address.clone()), 0);
        }
        // The time of those that are former already runs on.
        let former = set.former.iter().filter(|address| !old.former.contains(address));
        for address in set.addresses.iter().chain(former) {
            let flags = NLM_F_CREATE | NLM_F_REPLACE;
            try_to("set address", RouteNetlinkMessage::NewAddress(address.clone()), flags);
        }
        if let Err(error) = set_in_passes(&self.netlink, set.routes.clone(), false) {
            failure.get_or_insert_with(|| format!("Couldn't set route in namespace: {error}"));
        }
        failure.map_or(Ok(()), Err)
    }
}

/// The socket by which the namespace is changed.
impl AsFd for Reconfigure {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

fn wanted(index: u32, model: &Model, network: &Network, copying: [Copying; 2]) -> Set {
    let mut set = Set::default();
    // Routes of IPv4 may lead over neighbours that routes of IPv6 lead to.
    for family in families(network, copying).into_iter().rev().flatten() {
        set.addresses.extend(family.addresses(index, model));
        set.routes.extend(family.routes(index, model));
    }
    set
}

/// The address of a message.
fn of(message: &AddressMessage) -> Option<IpAddr> {
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

/// The same address as one that is not chosen any more, alone in its network.
fn deprecated(message: &AddressMessage) -> Option<AddressMessage> {
    let address = of(message)?;
    let mut former = AddressMessage::default();
    former.header = message.header.clone();
    former.header.prefix_len = if address.is_ipv4() { 32 } else { 128 };
    let mut lifetimes = CacheInfo::default();
    (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, FORMER_S);
    former.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::CacheInfo(lifetimes),
    ];
    let flags = AddressFlags::Noprefixroute | AddressFlags::Nodad;
    former.header.flags = AddressHeaderFlags::from_bits_retain(flags.bits() as u8);
    former.attributes.push(AddressAttribute::Flags(flags));
    Some(former)
}

/// Whether a change failed because somebody else was faster.
fn is_there_already(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ESRCH | libc::EADDRNOTAVAIL))
}
