//! All that is known of addresses: what the guest is told, mappings and forwarding rules, which the operator
//! decides ([`NetView`], replaced whole), and what was learned of the guest and of the host's neighbours.
//!
//! A view has an [`Epoch`]. A flow keeps the one that it was made under: one of another epoch than the view's may
//! lead where nothing leads any more. A datagram flow of the guest's is looked at again before it is used;
//! connections, and what the network began, go on. But what the egress policy of a new view forbids ends at once
//! ([`egress`](super::egress)).

use std::cell::RefCell;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use super::events::{Event, Events};
use crate::flow::fwd::tenure::Step;
use crate::flow::fwd::{
    self, Attempt, GuestSide, HostSide, Mapping, Policy, Proto, Refused, Rule, RuleTable,
    Surroundings, Verdict, is_one_host,
};
use crate::flow::names::Names;
use crate::flow::neighbours::Neighbours;
use crate::flow::network::{Learned, Network, Withdrawn};
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::stations::Stations;
use crate::time::Timestamp;
use crate::wire::build::HeaderTemplate;
use crate::wire::ip::{L4Protocol, ip_header_bytes};
use crate::wire::tcp::HEADER_BYTES;
use crate::wire::{DropReason, Mac};

/// What the operator decides of addresses, as one value.
#[derive(Clone, Debug)]
pub struct NetView {
    /// What the guest is told.
    pub network: Network,
    /// Mapped addresses.
    pub map: Mapping,
    /// Ports of the host that lead to the guest.
    pub inbound: RuleTable,
    /// Ports of a guest's namespace that lead to the host; empty for guests without one of this host.
    pub outbound: RuleTable,
    /// What the guest may reach.
    pub egress: Policy,
}

/// Which view was in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch(u32);

/// The view in force, and what was learned.
pub(super) struct Net {
    /// What the guest is told; its MTU is the smaller one of the view's and the device's.
    pub(crate) network: Network,
    pub(crate) map: Mapping,
    inbound: RuleTable,
    outbound: RuleTable,
    egress: Policy,
    /// How often each egress rule has decided, and none of them.
    decided: RefCell<Vec<u64>>,
    /// Addresses that egress rules allow by name.
    names: RefCell<Names>,
    /// When this turn began.
    now: Timestamp,
    epoch: Epoch,
    /// MTU of the view; 0 if the guest is told none.
    configured_mtu: u16,
    /// MTU of the guest's device, as the front-end says; the largest number if it does not.
    device_mtu: u16,
    /// What the guest's traffic has told.
    pub(crate) learned: Learned,
    /// Whose Ethernet addresses the guest sees.
    pub(crate) neighbours: Neighbours,
    /// Whose Ethernet addresses are on the guest's side.
    pub(crate) stations: Stations,
    /// When to come back to addresses that were asked for.
    pub(crate) ask_again: Option<Timestamp>,
    /// What happens, for those who follow it.
    pub(crate) events: Rc<Events>,
    /// What the guest was told before, and is to forget.
    pub(crate) withdrawn: Withdrawn,
    /// Router advertisements that are still to follow soon.
    pub(crate) renewals: u8,
}

impl Net {
    /// Nothing learned yet.
    pub(crate) fn new(view: NetView) -> Self {
        let NetView { network, map, inbound, outbound, egress } = view;
        let learned = fwd::initial(&network);
        let decided = RefCell::new(vec![0; egress.rules.len() + 1]);
        let mut names = Names::default();
        names.reserve(&egress);
        let names = RefCell::new(names);
        let epoch = Epoch::default();
        let neighbours = Neighbours::default();
        let (configured_mtu, device_mtu) = (network.mtu, u16::MAX);
        let mut net = Self {
            network,
            map,
            inbound,
            outbound,
            egress,
            decided,
            names,
            now: Timestamp::ZERO,
            epoch,
            configured_mtu,
            device_mtu,
            learned,
            neighbours,
            stations: Stations::default(),
            ask_again: None,
            events: Rc::default(),
            withdrawn: Withdrawn::default(),
            renewals: 0,
        };
        net.pin_own_addresses();
        net
    }

    /// The view in force, to be changed and put in force again.
    pub(crate) fn view(&self) -> NetView {
        let network = Network { mtu: self.configured_mtu, ..self.network.clone() };
        let (inbound, outbound) = (self.inbound.clone(), self.outbound.clone());
        let egress = self.egress.clone();
        NetView { network, map: self.map.clone(), inbound, outbound, egress }
    }

    /// Puts another view in force. What was learned stays, unless the operator says otherwise now; the rules
    /// of the new view must have been named after those of the old one.
    pub(crate) fn replace(&mut self, view: NetView) {
        let NetView { network, map, inbound, outbound, egress } = view;
        let initial = fwd::initial(&network);
        let told = |network: &Network| -> (Option<IpAddr>, Option<IpAddr>) {
            let v4 = network.v4.as_ref().map(|v4| v4.addr.into());
            (v4, network.v6.as_ref().and_then(|v6| v6.addr).map(Into::into))
        };
        let (old, new) = (told(&self.network), told(&network));
        if old.0 != new.0 {
            (self.learned.v4, self.learned.kept_v4) = (initial.v4, None);
        }
        if old.1 != new.1 && initial.v6.is_some() {
            (self.learned.v6, self.learned.kept_v6) = (initial.v6, None);
        }
        (self.network, self.map) = (network, map);
        (self.inbound, self.outbound) = (inbound, outbound);
        self.replace_egress(egress);
        self.epoch.0 = self.epoch.0.wrapping_add(1);
        self.configured_mtu = self.network.mtu;
        self.limit_mtu(self.device_mtu);
        self.pin_own_addresses();
    }

    /// The host's network has changed, and with it what the guest is told; rules stay. The guest goes on with the
    /// addresses that it has; if it is `configured` from outside, it has the new ones besides.
    pub(crate) fn follow(&mut self, network: Network, map: Mapping, configured: bool) {
        let mut network = network;
        if let (Some(v6), Some(old)) = (&mut network.v6, &self.network.v6)
            && v6.addr.is_none()
        {
            // Local mode: the address is one that the guest has chosen.
            v6.addr = old.addr.filter(Ipv6Addr::is_unicast_link_local);
        }
        if configured {
            fwd::keep_first(&self.network, &network, &mut self.learned);
        }
        let held = std::mem::take(&mut self.map.held);
        (self.network, self.map) = (network, Mapping { held, ..map });
        self.epoch.0 = self.epoch.0.wrapping_add(1);
        self.configured_mtu = self.network.mtu;
        self.limit_mtu(self.device_mtu);
        self.pin_own_addresses();
    }

    /// Whether the guest is told this already.
    pub(crate) fn is_told(&self, network: &Network, map: &Mapping) -> bool {
        let mut told = Network { mtu: self.configured_mtu, ..self.network.clone() };
        if let (Some(told), Some(new)) = (&mut told.v6, &network.v6)
            && new.addr.is_none()
        {
            told.addr = told.addr.filter(|addr| !addr.is_unicast_link_local());
        }
        told == *network && Mapping { held: Vec::new(), ..self.map.clone() } == *map
    }

    /// The namespace has these addresses of the host's from now on.
    pub(crate) fn set_held(&mut self, held: Vec<IpAddr>) {
        self.map.held = held;
    }

    /// Stores what the egress policy knows of the host. If that has changed and there are rules, a new epoch begins, and this
    /// is true. Without rules it is stored all the same: rules may come later.
    pub(crate) fn set_surroundings(&mut self, host: Surroundings) -> bool {
        let changed = self.egress.host != host;
        self.egress.host = host;
        let depends = changed && !self.egress.rules.is_empty();
        self.epoch.0 = self.epoch.0.wrapping_add(depends.into());
        depends
    }

    /// The guest's device has an MTU of `mtu` bytes: the guest is told no larger one.
    pub(crate) fn limit_mtu(&mut self, mtu: u16) {
        self.device_mtu = mtu;
        self.network.mtu = self.configured_mtu.min(mtu);
    }

    /// The largest IP packet on the guest's link, in bytes: what the guest is told, or what it takes for granted if it
    /// is told nothing. IPv4 has a least (RFC 791, section 3.2).
    pub(crate) fn link_mtu(&self) -> u32 {
        match self.network.mtu {
            0 => 1500,
            mtu => u32::from(mtu).max(68),
        }
    }

    /// The largest IP packet that is sent whole to the guest's end of `side`, in bytes.
    pub(crate) fn mtu_to(&self, side: &Side) -> u32 {
        self.stations.width(side.endpoint.ip(), self.link_mtu())
    }

    /// The guest's side has sent a SYN from `address` with a segment size of `mss` bytes.
    pub(crate) fn learn_mss(&mut self, address: IpAddr, mss: u16) {
        let headers = ip_header_bytes(address.is_ipv4()) + HEADER_BYTES;
        let mtu = u16::try_from(u32::from(mss) + headers).unwrap_or(u16::MAX);
        self.stations.show_width(address, mtu, self.link_mtu());
    }

    /// Addresses that stand for the host or its name server have our Ethernet address, whatever its neighbours say.
    fn pin_own_addresses(&mut self) {
        let own =
            self.map.own_addresses().chain(self.map.dns_matches()).chain(self.our_link_local());
        self.neighbours.pin(own, self.network.our_mac);
    }

    /// The addresses of the guest that ports lead to.
    pub(crate) fn led_to(&self) -> [Option<IpAddr>; 3] {
        let Learned { v4, v6, v6_link_local, .. } = &self.learned;
        [Some((*v4).into()), v6.map(Into::into), v6_link_local.map(Into::into)]
    }

    /// The epoch of the view in force.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The rules for what arrives on `pif`.
    pub(crate) fn rules(&self, pif: Pif) -> &RuleTable {
        if pif == Pif::Splice { &self.outbound } else { &self.inbound }
    }

    /// Where a packet from `guest` to `destination` goes on the host, if it may. What is decided about it is counted:
    /// for new flows, and for datagrams that leave a flow with anybody for somebody else than the one before.
    ///
    /// # Errors
    /// The reason why it goes nowhere.
    pub(crate) fn to_host(
        &self,
        proto: Proto,
        guest: SocketAddr,
        destination: SocketAddr,
    ) -> Result<HostSide, Refused> {
        let side = fwd::to_host(&self.network, &self.map, proto, guest, destination)?;
        self.admit(proto, guest, (destination, side.destination))?;
        Ok(side)
    }

    /// Where a packet of a flow that is there already goes: nothing is counted, and what was allowed by a name stays allowed.
    ///
    /// # Errors
    /// The reason why it would go nowhere.
    pub(crate) fn would_lead(
        &self,
        proto: Proto,
        guest: SocketAddr,
        destination: SocketAddr,
    ) -> Result<HostSide, Refused> {
        let side = fwd::to_host(&self.network, &self.map, proto, guest, destination)?;
        if self.still_allows(proto, destination, side.destination) {
            Ok(side)
        } else {
            Err(Refused::EgressDropped)
        }
    }

    /// Lets what `guest` has sent to `seen` go to `real`, if it may.
    ///
    /// # Errors
    /// How it is refused.
    pub(crate) fn admit(
        &self,
        proto: Proto,
        guest: SocketAddr,
        (seen, real): (SocketAddr, SocketAddr),
    ) -> Result<(), Refused> {
        if self.egress.rules.is_empty() {
            return Ok(());
        }
        let attempt = Attempt::new(&self.network, &self.map, proto, seen, real);
        let names = |address| self.names.borrow().of(address, self.now);
        let (verdict, rule) = self.egress.judge(&attempt, names);
        if let Some(count) = self.decided.borrow_mut().get_mut(rule) {
            *count += 1;
        }
        let refused = match verdict {
            Verdict::Allow => return Ok(()),
            Verdict::Reject => Refused::EgressRejected,
            Verdict::Drop => Refused::EgressDropped,
        };
        log::debug!("{proto} to {seen}, which is {real}: {}", self.rule_text(rule));
        let (reason, flow) = (DropReason::from(refused), Some((proto, guest, seen)));
        let rule = (rule < self.egress.rules.len()).then_some(rule);
        self.events.note(self.now, Event::Refused { reason, flow, rule });
        Err(refused)
    }

    /// Checks whether the guest may send a packet with these addresses at all.
    ///
    /// # Errors
    /// The reason why not.
    pub(crate) fn check(&self, source: IpAddr, destination: IpAddr) -> Result<(), DropReason> {
        let Network { v4, v6, .. } = &self.network;
        let enabled = if source.is_ipv4() { v4.is_some() } else { v6.is_some() };
        if !enabled {
            return Err(DropReason::FamilyDisabled);
        }
        // A loopback address on the link is a leak of the guest, whatever it stands for. A v4-mapped
        // one would be taken for the IPv4 address inside it, which is how flows keep addresses.
        let forbidden = |address: IpAddr| {
            let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
            address.is_loopback() || mapped
        };
        if forbidden(source) || forbidden(destination) || source.is_multicast() {
            return Err(DropReason::ForbiddenAddress);
        }
        Ok(())
    }

    /// Whether a flow to `seen` that goes to `real` may go on.
    pub(crate) fn still_allows(&self, proto: Proto, seen: SocketAddr, real: SocketAddr) -> bool {
        if self.egress.rules.is_empty() {
            return true;
        }
        let attempt = Attempt::new(&self.network, &self.map, proto, seen, real);
        let (verdict, _) =
            self.egress.judge(&attempt, |address| self.names.borrow().ever_of(address));
        verdict == Verdict::Allow
    }

    /// Whether programs of this host may hear what the guest sends to `group`.
    pub(crate) fn lets_host_hear(&self, proto: Proto, group: SocketAddr) -> bool {
        let attempt = Attempt::new(&self.network, &self.map, proto, group, group);
        self.egress.lets_host_hear(&attempt)
    }

    /// The egress policy in force.
    pub(crate) fn egress(&self) -> &Policy {
        &self.egress
    }

    fn rule_text(&self, rule: usize) -> &str {
        self.egress.rules.get(rule).map_or("no rule matches: reject", |rule| &rule.text)
    }

    /// The egress rules with how often each has decided, and at the end how often none of them matched.
    pub(crate) fn egress_counts(&self) -> Vec<(&str, u64)> {
        let counts = self.decided.borrow();
        counts.iter().enumerate().map(|(rule, &count)| (self.rule_text(rule), count)).collect()
    }

    /// Another policy is in force. Rules that both have go on counting.
    fn replace_egress(&mut self, egress: Policy) {
        let old = std::mem::replace(&mut self.egress, egress);
        self.names.get_mut().rename(&old, &self.egress);
        let old_counts = self.decided.take();
        let count_of = |text: &str| {
            let place = old.rules.iter().position(|rule| rule.text == text);
            place.map_or(0, |place| old_counts[place])
        };
        let mut counts: Vec<u64> =
            self.egress.rules.iter().map(|rule| count_of(&rule.text)).collect();
        counts.push(old_counts.last().copied().unwrap_or(0));
        self.decided = RefCell::new(counts);
    }

    /// A turn begins: everything in it happens at `now`.
    pub(crate) fn begin_turn(&mut self, now: Timestamp) {
        self.now = now;
        self.stations.on_time(now);
    }

    /// Whether what goes on between the guest and us on `side`, in datagrams, is read for the names in it.
    pub(crate) fn reads_names(&self, side: &Side) -> bool {
        const DNS: u16 = 53;
        side.ours.port() == DNS
            && self.egress.names().next().is_some()
            && fwd::is_dns(&self.network, &self.map, Proto::Udp, side.ours.with_scope(0))
    }

    /// The guest has sent `message` to a name server.
    pub(crate) fn on_dns_query(&mut self, side: Side, message: &[u8]) {
        self.names.get_mut().on_query(&self.egress, side, message);
    }

    /// The name server of `side` answers the guest with `message`.
    pub(crate) fn on_dns_answer(&self, side: &Side, message: &[u8]) {
        self.names.borrow_mut().on_answer(&self.egress, side, message, self.now);
    }

    /// `peer` as the guest sees it, if no address mapping applies in either direction: the guest sees it under its own
    /// address, and what `guest` sends there may go to it, and does so.
    pub(crate) fn as_it_is(&self, guest: SocketAddr, peer: SocketAddr) -> Option<Endpoint> {
        let seen = Endpoint::from(peer);
        let target = self.would_lead(Proto::Udp, guest, seen.with_scope(0)).ok()?;
        let both_ways = target.destination == peer && self.is_seen_as_it_is(peer.ip());
        both_ways.then_some(seen)
    }

    /// Whether the guest sees the host-side `address` itself, and nothing that stands for it: the guest's own address and
    /// the host's copy of it are never seen.
    pub(crate) fn is_seen_as_it_is(&self, address: IpAddr) -> bool {
        self.source_for_guest(address) == Some(address)
    }

    /// The port of a group as the host knows it, if the guest may receive what is for it.
    ///
    /// # Errors
    /// The reason why not.
    pub(crate) fn group_on_host(&self, group: SocketAddr) -> Result<SocketAddr, Refused> {
        let real = fwd::group_on_host(&self.network, &self.map, group)?;
        if !self.still_allows(Proto::Udp, group, real) {
            return Err(Refused::EgressDropped);
        }
        Ok(real)
    }

    /// How the guest sees `peer`, which has sent to a group that the guest has joined.
    pub(crate) fn source_in_group(&self, peer: SocketAddr) -> Option<Endpoint> {
        let seen = fwd::source_in_group(&self.network, &self.map, &self.learned, peer.ip())?;
        Some(Endpoint::new(seen, peer.port()))
    }

    /// The sides of a flow that begins with what `peer` sent to `local`, on a socket of `rule`.
    ///
    /// # Errors
    /// The reason why it is not forwarded.
    pub(crate) fn inbound_sides(
        &self,
        rule: &Rule,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Result<[Side; 2], DropReason> {
        let GuestSide { source, destination } =
            fwd::to_guest(&self.network, &self.map, &self.learned, rule, peer, local).map_err(
                |refused| {
                    log::debug!("No rules to forward HOST {peer} -> {local}: {refused}");
                    DropReason::from(refused)
                },
            )?;
        let host = Side { pif: Pif::Host, ours: local.into(), endpoint: peer.into() };
        let tap = Side { pif: Pif::Tap, ours: source.into(), endpoint: destination.into() };
        Ok([host, tap])
    }

    /// What the guest sees of the host-side `address`.
    pub(crate) fn source_for_guest(&self, address: IpAddr) -> Option<IpAddr> {
        fwd::source_for_guest(&self.network, &self.map, &self.learned, address)
    }

    /// Our Ethernet address and the guest's.
    pub(crate) fn macs(&self) -> (Mac, Mac) {
        (self.network.our_mac, self.learned.mac)
    }

    /// The Ethernet addresses of a frame from `source`, as the guest sees it, to `destination`.
    pub(crate) fn macs_between(&self, source: IpAddr, destination: IpAddr) -> (Mac, Mac) {
        (self.neighbours.station(&self.network, source), self.mac_of(destination))
    }

    /// The Ethernet address of the guest that has `destination`. A group has one of its own only where the guest's side
    /// has several stations: otherwise the frame is for the only one.
    pub(crate) fn mac_of(&self, destination: IpAddr) -> Mac {
        match destination {
            group if group.is_multicast() && self.stations.are_several() => Mac::of_group(group),
            _ => self.stations.find(destination).unwrap_or(self.learned.mac),
        }
    }

    /// Our own link-local address, the source of neighbour discovery and DHCPv6.
    pub(crate) fn our_link_local(&self) -> Option<IpAddr> {
        self.network.v6.as_ref().map(|v6| v6.our_link_local.into())
    }

    /// Learns from a source Ethernet address.
    pub(crate) fn learn_mac(&mut self, mac: Mac) {
        if fwd::learn_mac(&mut self.learned, mac) && !self.stations.has(mac) {
            log::info!("New guest MAC address observed: {mac}");
        }
    }

    /// Learns from an address that the station `mac` of the guest uses; what is to be done about it. In local mode
    /// the guest's first link-local address also becomes the one that it is assigned.
    pub(crate) fn learn_address(&mut self, source: IpAddr, mac: Mac, now: Timestamp) -> Step {
        self.learn_station(source, mac);
        let step = fwd::learn(&self.network, &mut self.learned, source, now);
        if step.lead_to.is_none() {
            return step;
        }
        log::debug!("guest address observed: {source}");
        if let (Some(v6), IpAddr::V6(source)) = (&mut self.network.v6, source)
            && v6.addr.is_none()
            && source.is_unicast_link_local()
        {
            v6.addr = Some(source);
        }
        step
    }

    /// Learns that the station `mac` of the guest has `address`, or is about to use it.
    pub(crate) fn learn_station(&mut self, address: IpAddr, mac: Mac) {
        if mac != self.network.our_mac && is_one_host(address) {
            self.stations.learn(address, mac);
        }
    }

    /// What is to be done about addresses that were asked for, now that time has passed.
    pub(crate) fn reconsider(&mut self, now: Timestamp) -> [Step; 3] {
        let steps = fwd::reconsider(&self.network, &mut self.learned, now);
        for address in steps.iter().filter_map(|step| step.lead_to) {
            log::debug!("guest address observed: {address}; the one before does not answer");
        }
        steps
    }

    /// Another guest may be there.
    pub(crate) fn begin_link(&mut self) {
        self.stations.clear();
        fwd::begin_link(&mut self.learned);
    }

    /// Headers of frames to the guest for a flow whose guest side is `side`.
    pub(crate) fn template(
        &self,
        side: &Side,
        protocol: L4Protocol,
        flow_label: u32,
    ) -> HeaderTemplate {
        let (source, destination) = (side.ours.with_scope(0), side.endpoint.with_scope(0));
        HeaderTemplate::new(
            self.macs_between(source.ip(), destination.ip()),
            source,
            destination,
            protocol,
            flow_label,
        )
    }
}

impl From<Refused> for DropReason {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::FamilyDisabled | Refused::FamilyMismatch => Self::FamilyDisabled,
            Refused::ProtocolDisabled => Self::ProtocolDisabled,
            Refused::MulticastDisabled => Self::MulticastDisabled,
            Refused::PortZero => Self::PortZero,
            Refused::NoRule => Self::NoRule,
            Refused::EgressRejected => Self::EgressRejected,
            Refused::EgressDropped => Self::EgressDropped,
            Refused::Unspecified
            | Refused::Loopback
            | Refused::Broadcast
            | Refused::Multicast
            | Refused::Reserved
            | Refused::V4InV6
            | Refused::DnsHostUnset
            | Refused::GuestAddressUnknown
            | Refused::NoStandIn
            | Refused::NoScope
            | Refused::NotLoopback => Self::ForbiddenAddress,
        }
    }
}
