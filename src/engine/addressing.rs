//! Everything that addresses mean: what the guest was told, the mappings, the forwarding rules, and
//! what was learned from the guest's traffic.

use std::net::IpAddr;

use crate::flow::fwd::{self, Mapping, Refused, RuleTable};
use crate::flow::neighbours::Neighbours;
use crate::flow::network::{Learned, Network};
use crate::flow::side::Side;
use crate::wire::build::HeaderTemplate;
use crate::wire::ip::L4Protocol;
use crate::wire::{DropReason, Mac};

/// Network, mappings, rules, and what was learned of the guest and of the host's neighbours.
pub struct Addressing {
    /// What the guest is told.
    pub net: Network,
    /// MTU of the options, which the front-end can only lower; 0 if the guest is told none.
    configured_mtu: u16,
    /// Mapped addresses.
    pub map: Mapping,
    /// Ports that are forwarded to the guest.
    pub rules: RuleTable,
    /// What the guest's traffic has told.
    pub learned: Learned,
    /// Whose Ethernet addresses the guest sees.
    pub neighbours: Neighbours,
}

impl Addressing {
    /// Nothing learned yet.
    pub fn new(net: Network, map: Mapping, rules: RuleTable) -> Self {
        let learned = fwd::initial(&net);
        let mut neighbours = Neighbours::default();
        let link_local = net.v6.as_ref().map(|v6| IpAddr::V6(v6.our_link_local));
        for address in map.own_addresses().chain(link_local) {
            neighbours.pin(address, net.our_mac);
        }
        let configured_mtu = net.mtu;
        Self { net, configured_mtu, map, rules, learned, neighbours }
    }

    /// The guest's device has an MTU of `mtu` bytes: the guest is told no larger one.
    pub fn limit_mtu(&mut self, mtu: u16) {
        self.net.mtu = self.configured_mtu.min(mtu);
    }

    /// Our Ethernet address and the guest's.
    pub fn macs(&self) -> (Mac, Mac) {
        (self.net.our_mac, self.learned.mac)
    }

    /// The Ethernet addresses of a frame from `source`, as the guest sees it.
    pub fn macs_from(&self, source: IpAddr) -> (Mac, Mac) {
        (self.neighbours.station(&self.net, source), self.learned.mac)
    }

    /// Learns from a source Ethernet address.
    pub fn learn_mac(&mut self, mac: Mac) {
        if fwd::learn_mac(&mut self.learned, mac) {
            log::info!("New guest MAC address observed: {mac}");
        }
    }

    /// Learns from a source IP address. In local mode the guest's first link-local address also
    /// becomes the one that it is assigned.
    pub fn learn_address(&mut self, source: IpAddr) {
        if !fwd::learn(&self.net, &mut self.learned, source) {
            return;
        }
        log::debug!("guest address observed: {source}");
        if let (Some(v6), IpAddr::V6(source)) = (&mut self.net.v6, source)
            && v6.addr.is_none()
            && source.is_unicast_link_local()
        {
            v6.addr = Some(source);
        }
    }

    /// Headers of frames to the guest for a flow whose guest side is `side`.
    pub fn template(&self, side: &Side, protocol: L4Protocol, flow_label: u32) -> HeaderTemplate {
        let (source, destination) = (side.ours.with_scope(0), side.endpoint.with_scope(0));
        HeaderTemplate::new(self.macs_from(source.ip()), source, destination, protocol, flow_label)
    }
}

impl From<Refused> for DropReason {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::FamilyDisabled | Refused::FamilyMismatch => Self::FamilyDisabled,
            Refused::ProtocolDisabled => Self::ProtocolDisabled,
            Refused::PortZero => Self::PortZero,
            Refused::NoRule => Self::NoRule,
            _ => Self::ForbiddenAddress,
        }
    }
}
