//! What is copied of the host: addresses and routes of the interfaces that are models, as the namespace is to have them.

use std::io;

use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::conf::host::Asker;
use crate::conf::host::netlink::{self, request_on, routes};

/// Addresses and routes of the host's interfaces, as far as they are to be copied.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(super) addresses: Vec<AddressMessage>,
    pub(super) routes: Vec<RouteMessage>,
    /// IPv6 leads everywhere without a default route in the main table: rules choose another one.
    pub(super) by_rules_v6: bool,
}

impl Model {
    /// This one, with what `other` has of the families that are not in `read`, IPv4 and IPv6.
    pub(super) fn with_rest_of(mut self, other: &Self, read: [bool; 2]) -> Self {
        let left = |family| match family {
            AddressFamily::Inet => !read[0],
            _ => !read[1],
        };
        let addresses = other.addresses.iter().filter(|a| left(a.header.family));
        self.addresses.extend(addresses.cloned());
        let routes = other.routes.iter().filter(|route| left(route.header.address_family));
        self.routes.extend(routes.cloned());
        self.by_rules_v6 |= other.by_rules_v6 && !read[1];
        self
    }

    /// This one, with the default routes of `other` for the families in `kept`, IPv4 and IPv6, that have none.
    pub(super) fn with_defaults_of(mut self, other: &Self, kept: [bool; 2]) -> Self {
        for (kept, family) in kept.into_iter().zip([AddressFamily::Inet, AddressFamily::Inet6]) {
            let default = |route: &&RouteMessage| is_default(route, family);
            if kept && !self.routes.iter().any(|route| is_default(route, family)) {
                self.routes.extend(other.routes.iter().filter(default).cloned());
            }
        }
        let has_default_v6 =
            self.routes.iter().any(|route| is_default(route, AddressFamily::Inet6));
        self.by_rules_v6 |= other.by_rules_v6 && kept[1] && !has_default_v6;
        self
    }

    /// Asks the kernel for what belongs to the interfaces of index `v4` and `v6`.
    pub(crate) fn read(asker: &Asker, v4: Option<u32>, v6: Option<u32>) -> io::Result<Self> {
        let mut model = Self::default();
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let addresses = request_on(asker.netlink(), question, |message| match message {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        })?;
        for (index, family) in [(v4, AddressFamily::Inet), (v6, AddressFamily::Inet6)] {
            let Some(index) = index else { continue };
            let here = |a: &&AddressMessage| a.header.index == index && a.header.family == family;
            model.addresses.extend(addresses.iter().filter(here).filter_map(copied_address));
            let all = routes(asker.netlink(), family)?;
            model.by_rules_v6 |= family == AddressFamily::Inet6
                && !all.iter().any(netlink::is_default)
                && asker.reaches_global_v6();
            model.routes.extend(all.into_iter().filter_map(|route| copied_route(route, index)));
        }
        Ok(model)
    }
}

/// Whether the route is a default one of `family`.
pub(super) fn is_default(route: &RouteMessage, family: AddressFamily) -> bool {
    route.header.address_family == family && route.header.destination_prefix_length == 0
}

/// The address as it is set in the namespace: for ever, and without asking whether it is taken.
fn copied_address(address: &AddressMessage) -> Option<AddressMessage> {
    let mut flags = AddressFlags::from_bits_retain(address.header.flags.bits().into());
    let mut copy = AddressMessage::default();
    copy.header = address.header.clone();
    for attribute in &address.attributes {
        match attribute {
            AddressAttribute::Flags(all) => flags = *all,
            AddressAttribute::Address(_)
            | AddressAttribute::Local(_)
            | AddressAttribute::Broadcast(_)
            | AddressAttribute::RoutePriority(_) => copy.attributes.push(attribute.clone()),
            _ => {}
        }
    }
    let wide = u8::from(address.header.scope) < u8::from(AddressScope::Link);
    if !wide || flags.contains(AddressFlags::Deprecated) {
        return None;
    }
    set_flags(&mut copy, flags & AddressFlags::Noprefixroute);
    Some(copy)
}

/// Has the address stay for ever, and be usable at once.
pub(super) fn set_flags(address: &mut AddressMessage, flags: AddressFlags) {
    let flags = flags | AddressFlags::Nodad | AddressFlags::Permanent;
    address.header.flags = AddressHeaderFlags::from_bits_retain(flags.bits() as u8);
    address.attributes.push(AddressAttribute::Flags(flags));
}

/// The route as it is set in the namespace, but for its interface; `None` for one that leads
/// elsewhere than to the interface `index`, or is no ordinary one.
fn copied_route(mut route: RouteMessage, index: u32) -> Option<RouteMessage> {
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let main = table.unwrap_or(route.header.table.into()) == u32::from(RouteHeader::RT_TABLE_MAIN);
    if !main || route.header.kind != RouteType::Unicast {
        return None;
    }
    leave_hops(&mut route, index);
    let leads_here = route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Oif(oif) => *oif == index,
        RouteAttribute::MultiPath(_) => true,
        _ => false,
    });
    if !leads_here {
        return None;
    }
    route.header.flags &= RouteFlags::Onlink;
    route.attributes.retain(|attribute| {
        !matches!(
            attribute,
            RouteAttribute::PrefSource(_)
                | RouteAttribute::NhId(_)
                | RouteAttribute::CacheInfo(_)
                | RouteAttribute::Expires(_)
        )
    });
    Some(route)
}

/// Leaves those of several next hops that are on the interface `index`. One alone is no choice any more, and none no route.
fn leave_hops(route: &mut RouteMessage, index: u32) {
    let several = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::MultiPath(_));
    let Some(at) = route.attributes.iter().position(several) else { return };
    let RouteAttribute::MultiPath(mut hops) = route.attributes.remove(at) else { return };
    hops.retain(|hop| hop.interface_index == index);
    if hops.len() > 1 {
        route.attributes.insert(at, RouteAttribute::MultiPath(hops));
    } else if let Some(hop) = hops.pop() {
        let on_link = hop.flags.contains(RouteNextHopFlags::Onlink);
        route.header.flags.set(RouteFlags::Onlink, on_link);
        route.attributes.push(RouteAttribute::Oif(index));
        route.attributes.extend(hop.attributes);
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::{RouteAddress, RouteNextHop};

    use super::*;

    fn over(gateway: u8) -> RouteAttribute {
        RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, gateway].into()))
    }

    /// Next hops on the interfaces, the first one with gateway 1.
    fn several(interfaces: &[u32]) -> RouteMessage {
        let hops = (1..).zip(interfaces).map(|(gateway, &interface_index)| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface_index;
            hop.flags = RouteNextHopFlags::Onlink;
            hop.attributes = vec![over(gateway)];
            hop
        });
        let mut route = RouteMessage::default();
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.kind = RouteType::Unicast;
        route.attributes = vec![RouteAttribute::MultiPath(hops.collect())];
        route
    }

    #[test]
    fn next_hops_on_other_interfaces_are_left_out() {
        assert_eq!(copied_route(several(&[3, 4]), 2), None);
        let both = several(&[2, 2]);
        assert_eq!(copied_route(both.clone(), 2), Some(both));
        let first_two = copied_route(several(&[2, 2, 3]), 2).unwrap();
        assert_eq!(first_two, several(&[2, 2]));
        let one = copied_route(several(&[3, 2]), 2).unwrap();
        assert_eq!(one.attributes, [RouteAttribute::Oif(2), over(2)]);
        assert_eq!(one.header.flags, RouteFlags::Onlink);
    }
}
