//! What the namespace's interfaces look like when the command starts: `lo` up, the tap device with
//! its MAC address and queue, and with `--config-net` addresses and routes.
//!
//! Addresses and routes are those of the model on the host ([`Model`]), or the ones that DHCP would
//! assign. Routes are set in passes until no further one succeeds: a gateway that is reached by
//! another route finds that one set a pass later.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::model::{Model, is_default, set_flags};
use super::netlink::Netlink;
use crate::conf::host::netlink::request;
use crate::conf::{Copying, LOCAL_GATEWAY_V4, PastaConf};
use crate::flow::fwd::InterfaceName;
use crate::flow::network::{Mac, Network};
use crate::flow::tcp::limits::WINDOW_MAX;

/// Index of the loopback interface, the same in every network namespace.
const LOOPBACK: u32 = 1;

/// Larger frames do not make the queue shorter: datagrams and what the namespace cuts itself come in
/// frames of any size.
const QUEUE_MTU_MAX: u16 = 1500;

/// Headers of a segment at most: IPv6 and TCP, which gets no options from us that it would repeat.
const SEGMENT_HEADER_BYTES: u16 = 60;

/// The longest queue. Its ring has 8 bytes an entry, and kernels refuse one of more than 4 MiB; it is
/// long enough for every MTU from 124 on.
const QUEUE_FRAMES_MAX: u32 = 1 << 18;

/// Prefix length of every IPv6 address that is assigned.
const PREFIX_V6: u8 = 64;

/// Frames that the queue of a device with this MTU has to hold: the segments of the largest TCP window
/// that we advertise. The kernel drops what a shorter one has no room for, although the window has
/// promised it. An MTU of 0 is the kernel's own, 1500.
pub const fn queue_frames(mtu: u16) -> u32 {
    let mtu = if mtu == 0 || mtu > QUEUE_MTU_MAX { QUEUE_MTU_MAX } else { mtu };
    let segment = mtu.saturating_sub(SEGMENT_HEADER_BYTES);
    let frames = WINDOW_MAX.div_ceil(if segment == 0 { 1 } else { segment as u32 });
    if frames < QUEUE_FRAMES_MAX { frames } else { QUEUE_FRAMES_MAX }
}

/// What is wrong, and on what.
pub(super) type Failure = String;

/// One address family of the namespace, as it is to be.
pub(super) struct FamilyPlan {
    pub(super) name: &'static str,
    family: AddressFamily,
    /// The one address and prefix length, if not those of the model.
    address: Option<(IpAddr, u8)>,
    gateway: Option<IpAddr>,
    /// No network of the namespace has the gateway, but the link has.
    gateway_on_link: bool,
    /// The gateway leads everywhere.
    default_router: bool,
    /// Over whom everything leads where no copied route does, if it leads anywhere.
    stand_in: Option<IpAddr>,
    /// Routes may lead over a neighbour of the other family, for which the namespace asks us.
    over_other: bool,
    copying: Copying,
}

/// The tap device in its namespace.
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) mac: Mac,
}

/// Gives the route its interface in the namespace.
fn route_through(route: &mut RouteMessage, index: u32) {
    for attribute in &mut route.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => *oif = index,
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    hop.interface_index = index;
                    hop.flags &= RouteNextHopFlags::Onlink;
                }
            }
            _ => {}
        }
    }
}

/// Has what the route leads to over neighbours of the other family go over `gateway`, or straight to the link.
fn lead_over(route: &mut RouteMessage, gateway: Option<IpAddr>) {
    if replace_via(&mut route.attributes, gateway) {
        route.header.flags |= RouteFlags::Onlink;
    }
    for attribute in &mut route.attributes {
        if let RouteAttribute::MultiPath(hops) = attribute {
            for hop in hops {
                if replace_via(&mut hop.attributes, gateway) {
                    hop.flags |= RouteNextHopFlags::Onlink;
                }
            }
        }
    }
}

/// True if the attributes have a gateway now instead of a neighbour of the other family.
fn replace_via(attributes: &mut Vec<RouteAttribute>, gateway: Option<IpAddr>) -> bool {
    let before = attributes.len();
    attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Via(_)));
    let instead = gateway.filter(|_| attributes.len() < before).map(gateway_attribute);
    let replaced = instead.is_some();
    attributes.extend(instead);
    replaced
}

fn gateway_attribute(gateway: IpAddr) -> RouteAttribute {
    RouteAttribute::Gateway(match gateway {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    })
}

/// Brings the loopback interface up.
pub(super) fn loopback() -> Result<(), Failure> {
    let failed = |error| format!("Couldn't set the loopback interface up: {error}");
    let netlink = Netlink::new().map_err(failed)?;
    set_link(&netlink, LOOPBACK, LinkFlags::Up, LinkFlags::Up, Vec::new()).map_err(failed)
}

/// Finds the tap device `name`, gives it `mac` if there is one, and the queue that `mtu` needs.
pub(super) fn interface(
    name: &InterfaceName,
    mac: Option<Mac>,
    mtu: u16,
) -> Result<Interface, Failure> {
    let failed = |error| format!("Couldn't set up the tap device {name}: {error}");
    let netlink = Netlink::new().map_err(failed)?;
    let mut attributes = vec![LinkAttribute::TxQueueLen(queue_frames(mtu))];
    attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    let (index, random_mac) = find(name).map_err(failed)?;
    let nothing = LinkFlags::empty();
    set_link(&netlink, index, nothing, nothing, attributes).map_err(failed)?;
    Ok(Interface { index, mac: mac.unwrap_or(random_mac) })
}

fn find(name: &InterfaceName) -> io::Result<(u32, Mac)> {
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let links = request(question, |message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    })?;
    let called = |link: &&LinkMessage| {
        link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(n) if n == name.as_str()))
    };
    let link = links.iter().find(called).ok_or(Errno::NODEV)?;
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok().map(Mac),
        _ => None,
    });
    Ok((link.header.index, mac.ok_or(Errno::NODEV)?))
}

fn set_link(
    netlink: &Netlink,
    index: u32,
    flags: LinkFlags,
    mask: LinkFlags,
    attributes: Vec<LinkAttribute>,
) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = flags;
    link.header.change_mask = mask;
    link.attributes = attributes;
    netlink.change(RouteNetlinkMessage::SetLink(link), 0)
}

/// Routes that could not be set.
#[derive(Debug, Default)]
pub(super) struct Unset {
    /// Nothing leads to their gateways.
    pub(super) unreachable: Vec<RouteMessage>,
    /// Another one has their place, or they are there already.
    pub(super) taken: Vec<RouteMessage>,
}

/// Configures the tap device as `--config-net` promises. IPv6 is switched off in `network` where the namespace
/// does without. Gives back the routes that it has not got.
pub(super) fn addresses_and_routes(
    interface: &Interface,
    conf: &PastaConf,
    network: &mut Network,
    model: &Model,
) -> Result<Unset, Failure> {
    let netlink = Netlink::new().map_err(|error| format!("netlink: {error}"))?;
    let index = interface.index;
    let no_link_local = |error| {
        format!(
            "Couldn't set link-local address: {error}: IPv6 wants an MTU of 1280 or more; --ipv4-only \
             does without"
        )
    };
    if network.v6.is_some()
        && !generate_addresses(&netlink, index, In6AddrGenMode::None).map_err(no_link_local)?
    {
        do_without_ipv6(network)?;
    }
    up(&netlink, index, network.mtu)
        .map_err(|error| format!("Couldn't set {} up: {error}", conf.interface))?;
    if network.v6.is_some() && !set_link_local(&netlink, interface).map_err(no_link_local)? {
        do_without_ipv6(network)?;
    }
    let copying = [conf.copy_v4, conf.copy_v6];
    // Routes of IPv4 may lead over neighbours that routes of IPv6 lead to.
    let families = families(network, copying).into_iter().rev().flatten();
    families.into_iter().try_fold(Unset::default(), |mut unset, family| {
        let more = family.configure(&netlink, index, model)?;
        unset.unreachable.extend(more.unreachable);
        unset.taken.extend(more.taken);
        Ok(unset)
    })
}

/// What is to be configured of IPv4 and IPv6.
pub(super) fn families(network: &Network, copying: [Copying; 2]) -> [Option<FamilyPlan>; 2] {
    let over_ipv6 = network.v6.is_some() && network.services.ndp;
    let v4 = network.v4.as_ref().map(|v4| FamilyPlan {
        name: "IPv4",
        family: AddressFamily::Inet,
        address: Some((v4.addr.into(), v4.prefix_len)),
        gateway: v4.gateway.map(Into::into),
        gateway_on_link: v4.gateway == Some(LOCAL_GATEWAY_V4) && !v4.contains(LOCAL_GATEWAY_V4),
        default_router: v4.routes.is_none(),
        stand_in: v4.gateway.filter(|_| v4.routes.is_none()).map(Into::into),
        over_other: over_ipv6,
        copying: copying[0],
    });
    let v6 = network.v6.as_ref().map(|v6| FamilyPlan {
        name: "IPv6",
        family: AddressFamily::Inet6,
        address: v6.addr.map(|addr| (addr.into(), PREFIX_V6)),
        gateway: v6.gateway.map(Into::into),
        gateway_on_link: false,
        default_router: true,
        stand_in: Some(v6.gateway.unwrap_or(v6.our_link_local).into()),
        over_other: false,
        copying: copying[1],
    });
    [v4, v6]
}

/// The namespace has IPv4 only, unless that is not to be.
fn do_without_ipv6(network: &mut Network) -> Result<(), Failure> {
    const WHY: &str = "its kernel lacks it, or net.ipv6.conf.*.disable_ipv6 is set";
    if network.v4.is_none() {
        return Err(format!(
            "IPv6 not available in the namespace, but --ipv6-only given: {WHY}: drop --ipv6-only, or \
             switch IPv6 on there"
        ));
    }
    log::warn!("IPv6 not supported, disabling: the namespace has none: {WHY}");
    network.v6 = None;
    Ok(())
}

/// Sets the MTU and brings the device up. It keeps its own MTU where the kernel does not take this one, as below 68
/// (RFC 791, section 3.2).
fn up(netlink: &Netlink, index: u32, mtu: u16) -> io::Result<()> {
    let up = |attributes| set_link(netlink, index, LinkFlags::Up, LinkFlags::Up, attributes);
    if mtu == 0 {
        return up(Vec::new());
    }
    match up(vec![LinkAttribute::Mtu(mtu.into())]) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            log::warn!(
                "The kernel does not take --mtu {mtu}: the device keeps its own MTU: give 68 or more"
            );
            up(Vec::new())
        }
        done => done,
    }
}

/// Says how the kernel is to make the link-local address of a device that comes up. False without IPv6.
fn generate_addresses(netlink: &Netlink, index: u32, mode: In6AddrGenMode) -> io::Result<bool> {
    let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
    let attributes = vec![LinkAttribute::AfSpecUnspec(vec![mode])];
    let nothing = LinkFlags::empty();
    with_ipv6(set_link(netlink, index, nothing, nothing, attributes))
}

/// Sets the address that the kernel would have made, had it been allowed to. Its own one is tentative
/// until a worker gets to it, which waits for a lock that all network namespaces share: hundreds of
/// milliseconds where others come and go. This one is usable at once. From now on the kernel may: when
/// the device goes down and comes up again. False without IPv6.
fn set_link_local(netlink: &Netlink, interface: &Interface) -> io::Result<bool> {
    let address = link_local(interface.mac).into();
    let message = address_message(interface.index, address, PREFIX_V6, AddressScope::Link);
    let message = RouteNetlinkMessage::NewAddress(message);
    if !with_ipv6(netlink.change(message, NLM_F_CREATE | NLM_F_REPLACE))? {
        return Ok(false);
    }
    generate_addresses(netlink, interface.index, In6AddrGenMode::Eui64)
}

/// Whether what was set is there: false where the kernel has no IPv6, or it is switched off (`disable_ipv6`).
fn with_ipv6(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => Ok(false),
            _ => Err(error),
        },
    }
}

/// The link-local address of an Ethernet device (RFC 2464, section 5): its MAC address, with one bit
/// inverted and two bytes in the middle.
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}

fn address_message(
    index: u32,
    address: IpAddr,
    prefix_len: u8,
    scope: AddressScope,
) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family =
        if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix_len;
    message.header.scope = scope;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    set_flags(&mut message, AddressFlags::empty());
    message
}

impl FamilyPlan {
    /// Sets addresses and routes.
    fn configure(&self, netlink: &Netlink, index: u32, model: &Model) -> Result<Unset, Failure> {
        let name = self.name;
        self.set_addresses(netlink, index, model)
            .map_err(|error| format!("Couldn't set {name} address(es) in namespace: {error}"))?;
        self.set_routes(netlink, index, model).map_err(|error| {
            format!("Couldn't set {name} route(s) in guest: {error}: check --gateway and --address")
        })
    }

    fn set_addresses(&self, netlink: &Netlink, index: u32, model: &Model) -> io::Result<()> {
        // A device that was handed over may have them already.
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        for address in self.addresses(index, model) {
            netlink.change(RouteNetlinkMessage::NewAddress(address), flags)?;
        }
        Ok(())
    }

    /// The addresses that the interface `index` is to have.
    pub(super) fn addresses(&self, index: u32, model: &Model) -> Vec<AddressMessage> {
        if !self.copying.addresses {
            let wide = AddressScope::Universe;
            let one = self.address.map(|(address, len)| address_message(index, address, len, wide));
            return one.into_iter().collect();
        }
        let mut addresses: Vec<_> =
            model.addresses.iter().filter(|a| a.header.family == self.family).cloned().collect();
        addresses.iter_mut().for_each(|address| address.header.index = index);
        addresses
    }

    fn set_routes(&self, netlink: &Netlink, index: u32, model: &Model) -> io::Result<Unset> {
        let mut failure = None;
        let (unset, unreachable) = set_in_passes(netlink, self.routes(index, model), |error| {
            failure.get_or_insert(error);
        });
        let needed = !self.copying.routes;
        failure.or(unreachable.filter(|_| needed)).map_or(Ok(unset), Err)
    }

    /// The routes that lead over the interface `index`.
    pub(super) fn routes(&self, index: u32, model: &Model) -> Vec<RouteMessage> {
        if !self.copying.routes {
            return self.route_to_gateway(index).into_iter().collect();
        }
        let of_family = |route: &&RouteMessage| route.header.address_family == self.family;
        let mut routes: Vec<_> = model.routes.iter().filter(of_family).cloned().collect();
        for route in &mut routes {
            if !self.over_other {
                lead_over(route, self.gateway);
            }
            route_through(route, index);
        }
        routes.extend(self.route_to_gateway(index).filter(|_| !self.default_router));
        let leads = self.family == AddressFamily::Inet || model.by_rules_v6;
        let stand_in = self.stand_in.filter(|_| leads);
        if !routes.iter().any(|route| is_default(route, self.family)) {
            routes.extend(stand_in.map(|gateway| self.default_route(index, gateway)));
        }
        routes
    }

    /// The default route; or, where the gateway only stands for the host and leads nowhere, the route to it.
    fn route_to_gateway(&self, index: u32) -> Option<RouteMessage> {
        let gateway = self.gateway?;
        let mut route = self.default_route(index, gateway);
        if let (IpAddr::V4(v4), false) = (gateway, self.default_router) {
            route.header.scope = RouteScope::Link;
            route.header.destination_prefix_length = 32;
            route.header.flags = RouteFlags::empty();
            let destination = RouteAttribute::Destination(RouteAddress::Inet(v4));
            route.attributes = vec![destination, RouteAttribute::Oif(index)];
        }
        Some(route)
    }

    fn default_route(&self, index: u32, gateway: IpAddr) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = self.family;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Boot;
        route.header.scope = RouteScope::Universe;
        route.header.kind = RouteType::Unicast;
        route.header.flags.set(RouteFlags::Onlink, self.gateway_on_link);
        route.attributes = vec![RouteAttribute::Oif(index), gateway_attribute(gateway)];
        route
    }
}

/// Sets routes, and those whose gateway is not reachable yet again, as long as that helps. Errors are told to `failed`, but
/// for one that is there already. Gives back the routes that were not set, and why the last one of them is unreachable.
pub(super) fn set_in_passes(
    netlink: &Netlink,
    mut routes: Vec<RouteMessage>,
    mut failed: impl FnMut(io::Error),
) -> (Unset, Option<io::Error>) {
    let mut taken = Vec::new();
    loop {
        let (before, mut why) = (routes.len(), None);
        routes.retain(|route| {
            let message = RouteNetlinkMessage::NewRoute(route.clone());
            match netlink.change(message, NLM_F_CREATE | NLM_F_EXCL) {
                Err(error) if is_unreachable(&error) => {
                    why = Some(error);
                    return true;
                }
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    taken.push(route.clone());
                }
                Err(error) => failed(error),
                Ok(()) => {}
            }
            false
        });
        if routes.is_empty() || routes.len() == before {
            return (Unset { unreachable: routes, taken }, why);
        }
    }
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc2464_5_link_local_address_from_mac() {
        // The example of the RFC's section 4.
        let mac = Mac([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
        let expected: Ipv6Addr = "fe80::3656:78ff:fe9a:bcde".parse().unwrap();
        assert_eq!(link_local(mac), expected);
    }

    #[test]
    fn a_full_window_fits_the_queue() {
        for mtu in [124, 576, 1280, 1500, 9000, 65520] {
            let segment = u32::from(mtu - SEGMENT_HEADER_BYTES);
            assert!(queue_frames(mtu) * segment >= WINDOW_MAX, "MTU {mtu}");
        }
        assert_eq!(queue_frames(0), queue_frames(1500));
        assert_eq!(queue_frames(65520), queue_frames(1500));
        assert_eq!(queue_frames(68), QUEUE_FRAMES_MAX);
    }
}
