//! Addresses and routes of the namespace follow those of the host, with `--config-net`: what is new on the host is set,
//! and what is gone there is removed. Nothing else is touched: what somebody has removed in the namespace stays removed
//! as long as the host keeps it, and what others have set there stays ([`There`]).
//!
//! A default route stays until the host has another one, as long as there is its address: over it the namespace finds the
//! host itself, too, whose addresses for that may be anywhere.
//!
//! Of several routes of the host to one place, as of two routers that are equal, the namespace has the first: all of them
//! lead to us. The next one takes its place when we remove it, and not when somebody in the namespace has.
//!
//! An address that was replaced is kept for connections that have it, but as one that new ones do not choose
//! (deprecated, and without a network): on the host, such a connection may go on, as one does that passes a VPN by. After
//! two hours the namespace's kernel removes it, as it does with addresses that a router has withdrawn (RFC 4862, section
//! 5.5.3). Those of the start are never removed: services may have been bound to them, and whoever has made the namespace
//! may have written them down.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};

use super::configure::{Failure, Unset, families, set_in_passes};
use super::model::Model;
use super::netlink::Netlink;
use super::others::{There, is_same, of};
use crate::conf::Copying;
use crate::conf::host::Asker;
use crate::flow::network::Network;

/// Addresses of before that are kept, beside those of the start, and for how many seconds.
const MOST_FORMER: usize = 16;
const FORMER_S: u32 = 2 * 3600;

/// A lifetime without an end.
const FOR_EVER_S: u32 = u32::MAX;

/// The namespace, as it was configured last.
pub(crate) struct Reconfigure {
    netlink: Netlink,
    index: u32,
    model: Model,
    set: Set,
    /// Addresses of the start.
    first: Vec<IpAddr>,
    /// Routes of `set` that are not there.
    unset: Unset,
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
    /// Whether these families have a way out, or are treated as if they had the one of before.
    pub(crate) way_out: [bool; 2],
    /// What of them is copied.
    pub(crate) copying: [Copying; 2],
}

impl Reconfigure {
    /// The interface `index` was configured with the model, as `network` and `copying` say, but for some routes. To be
    /// called in the namespace, with the right to configure it.
    ///
    /// # Errors
    /// What socket(2) reports.
    pub(super) fn new(
        index: u32,
        (model, unset): (Model, Unset),
        network: &Network,
        copying: [Copying; 2],
    ) -> io::Result<Self> {
        let set = wanted(index, &model, network, copying);
        let first = set.addresses.iter().filter_map(of).collect();
        Ok(Self { netlink: Netlink::new()?, index, model, set, first, unset })
    }

    /// The addresses that the namespace has because the host has or had them.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.set.addresses.iter().chain(&self.set.former).filter_map(of).collect()
    }

    /// What is to be changed; `None` if nothing is.
    ///
    /// # Errors
    /// The host does not tell what it has.
    pub(crate) fn plan(&self, asker: &Asker, means: &Means<'_>) -> Result<Option<Plan>, Failure> {
        let [v4, v6] = means.interfaces;
        let model = Model::read(asker, v4, v6)
            .map_err(|error| format!("Failed to read routes: {error}"))?
            .with_rest_of(&self.model, means.interfaces.map(|index| index.is_some()))
            .with_defaults_of(&self.model, means.way_out);
        let mut set = wanted(self.index, &model, means.network, means.copying);
        let before = self.set.former.iter().chain(&self.set.addresses);
        let kept = before.filter(|address| {
            let address = of(address);
            set.addresses.iter().all(|other| of(other) != address)
        });
        let (first, others): (Vec<_>, Vec<_>) = kept
            .filter_map(of_former(&self.first))
            .partition(|former| of(former).is_some_and(|address| self.first.contains(&address)));
        let newest = others.len().saturating_sub(MOST_FORMER);
        set.former = [&first[..], &others[newest..]].concat();
        Ok((set != self.set).then_some(Plan { model, set }))
    }

    /// Changes it. What cannot be changed keeps nothing else from being.
    ///
    /// # Errors
    /// The first change that was refused.
    pub(crate) fn carry_out(&mut self, Plan { model, mut set }: Plan) -> Result<(), Failure> {
        let before = There::read(&self.netlink, self.index).map_err(|error| cannot_look(&error))?;
        // What somebody has removed is not to come back as an address of before.
        set.former.retain(|former| {
            let was = self.set.former.iter().chain(&self.set.addresses);
            was.filter(|address| of(address) == of(former)).any(|address| before.has(address))
        });
        let old = std::mem::replace(&mut self.set, set);
        self.model = model;
        let (removed, failure) = self.remove_routes(&old);
        let failure = [failure, self.change_addresses(&old), self.add_routes(&old, &removed)];
        failure.into_iter().flatten().next().map_or(Ok(()), Err)
    }

    /// Removes routes that are in `old` alone. Gives back those that were there.
    fn remove_routes<'a>(&self, old: &'a Set) -> (Vec<&'a RouteMessage>, Option<Failure>) {
        let gone = old.routes.iter().filter(|route| !self.set.routes.contains(route));
        let (mut removed, mut failure) = (Vec::new(), None);
        for route in gone {
            match self.netlink.change(RouteNetlinkMessage::DelRoute(route.clone()), 0) {
                Ok(()) => removed.push(route),
                Err(error) => failure = failure.or(refusal("remove route", &error)),
            }
        }
        (removed, failure)
    }

    /// Gives the namespace the addresses of now instead of those in `old`. Of IPv4 the new ones come first, so that it is
    /// never without any; of IPv6 one that stays is changed where it is, unless its length is another one.
    fn change_addresses(&self, old: &Set) -> Option<Failure> {
        let stays = |address: &AddressMessage| {
            self.set.addresses.iter().chain(&self.set.former).any(|other| is_same(other, address))
        };
        let gone = old.addresses.iter().chain(&old.former).filter(|address| !stays(address));
        let (gone_v4, gone_v6): (Vec<_>, Vec<_>) =
            gone.partition(|address| of(address).is_some_and(|address| address.is_ipv4()));
        let new = self.set.addresses.iter().filter(|address| !old.addresses.contains(address));
        // The time of those that were former before runs on.
        let former = self.set.former.iter().filter(|address| !old.former.contains(address));

        let refused = gone_v6.into_iter().map(|address| self.remove(address));
        let failure = refused.fold(None, Option::or);
        let refused = former.chain(new).map(|address| {
            let message = RouteNetlinkMessage::NewAddress(address.clone());
            self.try_to("set address", message, NLM_F_CREATE | NLM_F_REPLACE)
        });
        refused.fold(failure, Option::or).or(self.remove_v4(&gone_v4))
    }

    /// Removes IPv4 addresses, and nothing that would go with them.
    fn remove_v4(&self, gone: &[&AddressMessage]) -> Option<Failure> {
        if gone.is_empty() {
            return None;
        }
        let others = There::read(&self.netlink, self.index).map(|there| there.without(gone));
        let refused = gone.iter().map(|address| self.remove(address)).fold(None, Option::or);
        let restored = others
            .and_then(|others| others.restore(&self.netlink, self.index, &self.set.addresses));
        refused.or(restored.err().as_ref().map(cannot_look))
    }

    fn remove(&self, address: &AddressMessage) -> Option<Failure> {
        self.try_to("remove address", RouteNetlinkMessage::DelAddress(address.clone()), 0)
    }

    /// Adds routes that were not in `old`, those that nothing led to, and those whose place one of `removed` had.
    fn add_routes(&mut self, old: &Set, removed: &[&RouteMessage]) -> Option<Failure> {
        let Unset { unreachable, mut taken } = std::mem::take(&mut self.unset);
        let has_place =
            |route: &RouteMessage| removed.iter().any(|one| is_of_one_place(one, route));
        let is_new = |route: &&RouteMessage| {
            !old.routes.contains(route)
                || unreachable.contains(route)
                || taken.contains(route) && has_place(route)
        };
        let new: Vec<_> = self.set.routes.iter().filter(is_new).cloned().collect();
        taken.retain(|route| self.set.routes.contains(route) && !new.contains(route));
        let mut failure = None;
        let (unset, _) = set_in_passes(&self.netlink, new, |error| {
            let text = || format!("Couldn't set route in namespace: {error}");
            failure.get_or_insert_with(text);
        });
        self.unset = unset;
        self.unset.taken.extend(taken);
        failure
    }

    /// Asks for a change; why it was refused, if it was and somebody else was not just faster.
    fn try_to(&self, what: &str, change: RouteNetlinkMessage, flags: u16) -> Option<Failure> {
        self.netlink.change(change, flags).err().and_then(|error| refusal(what, &error))
    }
}

/// Why a change was refused, if somebody else was not just faster.
fn refusal(what: &str, error: &io::Error) -> Option<Failure> {
    (!is_there_already(error)).then(|| format!("Couldn't {what} in namespace: {error}"))
}

/// Whether only one of both may be there, as far as we set them: they have one destination and metric.
fn is_of_one_place(one: &RouteMessage, other: &RouteMessage) -> bool {
    let place = |route: &RouteMessage| {
        let (mut destination, mut metric) = (None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = Some(address.clone()),
                RouteAttribute::Priority(priority) => metric = Some(*priority),
                _ => {}
            }
        }
        let header = &route.header;
        (header.address_family, header.destination_prefix_length, header.tos, destination, metric)
    };
    place(one) == place(other)
}

fn cannot_look(error: &io::Error) -> Failure {
    format!("Couldn't look at the namespace: {error}")
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

/// Makes of an address the same one that is not chosen any more, alone in its network; those in `first` have no end.
fn of_former(first: &[IpAddr]) -> impl Fn(&AddressMessage) -> Option<AddressMessage> {
    move |message| {
        let address = of(message)?;
        let mut former = AddressMessage::default();
        former.header = message.header.clone();
        if address.is_ipv4() {
            // Beside the one that is to go. An IPv6 address keeps its length: it is changed where it is.
            former.header.prefix_len = 32;
        }
        let valid = if first.contains(&address) { FOR_EVER_S } else { FORMER_S };
        let mut lifetimes = CacheInfo::default();
        (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, valid);
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
}

/// Whether a change failed because somebody else was faster.
fn is_there_already(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ESRCH | libc::EADDRNOTAVAIL))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::route::RouteAddress;
    use passt_support::namespace::{Netns, isolated};

    use super::*;
    use crate::flow::fwd::example;

    const HOST: &str = "ip link set lo up; ip link add eth0 type veth peer name peer0
        ip link set peer0 up; ip link set eth0 up
        ip addr add 192.0.2.2/24 dev eth0; ip route add default via 192.0.2.1
        ip addr add 2001:db8::2/64 dev eth0 nodad; ip route add default via 2001:db8::1";
    const GUEST: &str =
        "ip link add tap0 type veth peer name peer0; ip link set peer0 up; ip link set tap0 up";

    fn run(script: &str) -> String {
        let output = Command::new("sh").args(["-ec", script]).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A host, which is the namespace that the test runs in, and a namespace that looks like it.
    struct World {
        guest: Netns,
        asker: Asker,
        reconfigure: Reconfigure,
        index: u32,
    }

    impl World {
        fn new() -> Self {
            let guest = Netns::new(GUEST);
            let link = |name: &'static str| {
                let text = run(&format!("ip -o link show {name}"));
                text.split(':').next().unwrap().parse::<u32>().unwrap()
            };
            let reconfigure = guest.run(move || Reconfigure {
                netlink: Netlink::new().unwrap(),
                index: link("tap0"),
                model: Model::default(),
                set: Set::default(),
                first: Vec::new(),
                unset: Unset::default(),
            });
            let (asker, index) = (Asker::new().unwrap(), link("eth0"));
            let mut world = Self { guest, asker, reconfigure, index };
            world.follow();
            let set = &world.reconfigure.set;
            world.reconfigure.first = set.addresses.iter().filter_map(of).collect();
            world
        }

        fn follow(&mut self) {
            let network = example::network();
            let copying = [Copying { addresses: true, routes: true }; 2];
            let interfaces = [Some(self.index); 2];
            let means = Means { network: &network, interfaces, way_out: [true; 2], copying };
            let plan = self.reconfigure.plan(&self.asker, &means).unwrap();
            self.reconfigure.carry_out(plan.expect("something is new")).unwrap();
            assert!(self.reconfigure.plan(&self.asker, &means).unwrap().is_none(), "once");
        }

        fn inside(&self, script: &'static str) -> String {
            self.guest.run(move || run(script))
        }

        fn addresses(&self) -> String {
            self.inside("ip -o addr show dev tap0 scope global | sed 's/.*inet6* //; s/ .*//'")
        }

        fn routes(&self) -> String {
            self.inside(
                "ip route show proto static; ip route show proto boot; ip -6 route show proto boot",
            )
        }
    }

    #[test]
    fn what_was_removed_inside_does_not_come_back_with_other_news() {
        isolated(HOST, || {
            let mut world = World::new();
            assert!(world.addresses().contains("2001:db8::2/64"));
            world.inside("ip route del default; ip -6 route del default; ip addr del 2001:db8::2/64 dev tap0");
            run("ip addr add 192.0.2.77/24 dev eth0; ip route add 198.51.100.0/24 via 192.0.2.9");
            world.follow();
            let (addresses, routes) = (world.addresses(), world.routes());
            assert!(addresses.contains("192.0.2.77/24") && routes.contains("198.51.100.0/24"));
            assert!(!addresses.contains("2001:db8::2/"), "{addresses}");
            assert!(!routes.contains("default"), "{routes}");
            // Nor does an address that was removed become one of before.
            run("ip addr del 2001:db8::2/64 dev eth0");
            world.follow();
            assert!(!world.addresses().contains("2001:db8::2/"));
        });
    }

    #[test]
    fn a_default_route_stays_until_there_is_another() {
        isolated(HOST, || {
            let mut world = World::new();
            let default =
                |world: &World| world.inside("ip route show default; ip -6 route show default");
            let before = default(&world);
            run(
                "ip route del default; ip -6 route del default; ip route add 198.51.100.0/24 via 192.0.2.9",
            );
            world.follow();
            assert_eq!(default(&world), before);
            assert!(world.routes().contains("198.51.100.0/24"));
            run("ip route add default via 192.0.2.7; ip -6 route add default via 2001:db8::7");
            world.follow();
            let now = default(&world);
            assert!(now.contains("192.0.2.7 ") && now.contains("2001:db8::7 "), "{now}");
            assert_eq!(now.lines().count(), 2, "{now}");
        });
    }

    #[test]
    fn the_other_router_takes_the_place_of_one_that_is_gone() {
        isolated(&format!("{HOST}\nip route append default via 192.0.2.9"), || {
            let mut world = World::new();
            let default = |world: &World| world.inside("ip route show default | cut -d ' ' -f 3");
            assert_eq!(default(&world), "192.0.2.1\n");
            run("ip route del default via 192.0.2.1");
            world.follow();
            assert_eq!(default(&world), "192.0.2.9\n");
            // Who has removed the one in the namespace does not want another.
            run("ip route append default via 192.0.2.7");
            world.follow();
            assert_eq!(default(&world), "192.0.2.9\n");
            world.inside("ip route del default");
            run("ip route del default via 192.0.2.9");
            world.follow();
            assert_eq!(default(&world), "");
        });
    }

    /// The kernel keeps what routers have advertised apart, and would make one route of what it is told otherwise.
    #[test]
    fn the_other_advertised_router_takes_the_place_of_one_that_is_gone() {
        isolated(HOST, || {
            let mut world = World::new();
            let mut set = world.reconfigure.set.clone();
            let is_default = |route: &RouteMessage| {
                route.header.destination_prefix_length == 0
                    && route.header.address_family == AddressFamily::Inet6
            };
            let at = set.routes.iter().position(is_default).unwrap();
            let mut other = set.routes[at].clone();
            for attribute in &mut other.attributes {
                if let RouteAttribute::Gateway(gateway) = attribute {
                    *gateway = RouteAddress::Inet6("2001:db8::9".parse().unwrap());
                }
            }
            let first = set.routes[at].clone();
            set.routes.push(other.clone());
            let default = "ip -6 route show default | cut -d ' ' -f 3";
            for (gone, router) in
                [(None, "2001:db8::1\n"), (Some(first), "2001:db8::9\n"), (Some(other), "")]
            {
                set.routes.retain(|route| Some(route) != gone.as_ref());
                let plan = Plan { model: Model::default(), set: set.clone() };
                world.reconfigure.carry_out(plan).unwrap();
                assert_eq!(world.inside(default), router);
            }
        });
    }

    #[test]
    fn what_others_have_set_outlives_our_addresses() {
        isolated(HOST, || {
            let mut world = World::new();
            world.inside(
                "ip addr add 192.0.2.200/24 dev tap0; ip addr add 10.77.0.1/24 dev tap0
                 ip route add 203.0.113.5/32 via 192.0.2.1
                 ip route add 203.0.113.6/32 via 192.0.2.1 src 192.0.2.200",
            );
            run("ip addr add 192.0.2.5/24 dev eth0; ip addr del 192.0.2.2/24 dev eth0
                 ip addr replace 192.0.2.5/24 dev eth0; ip route replace default via 192.0.2.1");
            world.follow();
            let (addresses, routes) = (world.addresses(), world.routes());
            for there in ["192.0.2.5/24", "192.0.2.2/32", "192.0.2.200/24", "10.77.0.1/24"] {
                assert!(addresses.contains(there), "{there}: {addresses}");
            }
            for there in ["default", "203.0.113.5", "203.0.113.6"] {
                assert!(routes.contains(there), "{there}: {routes}");
            }
            let chosen = world.inside("ip route get 203.0.113.5");
            assert!(chosen.contains("src 192.0.2.5 "), "{chosen}");
        });
    }

    #[test]
    fn an_address_of_the_start_stays_for_ever_and_others_for_two_hours() {
        isolated(HOST, || {
            let mut world = World::new();
            for change in [
                "ip addr del 192.0.2.2/24 dev eth0; ip addr add 192.0.2.7/24 dev eth0
                 ip addr add 2001:db8:7::7/64 dev eth0 nodad; ip addr del 2001:db8::2/64 dev eth0",
                "ip addr del 192.0.2.7/24 dev eth0; ip addr add 192.0.2.8/24 dev eth0
                 ip addr add 2001:db8:8::8/64 dev eth0 nodad; ip addr del 2001:db8:7::7/64 dev eth0",
            ] {
                run(change);
                world.follow();
            }
            let lifetime = |address: &'static str| {
                let found = world.inside("ip -o addr show dev tap0 deprecated");
                let line = found.lines().find(|line| line.contains(address));
                line.unwrap_or_else(|| panic!("{address}: {found}")).contains("valid_lft forever")
            };
            assert!(lifetime("192.0.2.2/32") && lifetime("2001:db8::2/64"));
            assert!(!lifetime("192.0.2.7/32") && !lifetime("2001:db8:7::7/64"));
            // It comes back as what it was.
            run("ip addr add 192.0.2.2/24 dev eth0; ip addr add 2001:db8::2/64 dev eth0 nodad");
            world.follow();
            let now = world.inside("ip -o addr show dev tap0 -deprecated");
            assert!(now.contains("192.0.2.2/24") && now.contains("2001:db8::2/64"), "{now}");
            assert!(!world.addresses().contains("192.0.2.2/32"));
        });
    }
}
