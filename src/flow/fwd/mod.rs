//! All mapping of addresses and ports, one pure function each way.
//!
//! - [`to_host()`]: where a packet of the guest goes on the host (first match wins: DNS, host
//!   loopback, the host's copy of the guest's address, unchanged).
//! - [`to_guest()`]: as what, and to which of the guest's addresses, a connection to a listening
//!   socket appears in the guest; a [`Rule`] says which ports are listened on.
//! - [`to_namespace()`] and [`from_namespace()`]: which loopback connections pass the guest's link by, and
//!   where they go.
//! - [`source_for_guest`]: what the guest sees of a host-side address, also for ICMP offenders.
//! - [`Policy`]: whether the guest may reach what it wants to, once that is known.
//! - [`learn()`]: which of the guest's addresses its traffic teaches us.
//!
//! Both families run through the same code: what differs between them is the data in a `View`.
//! The family stays the same on the way, but for one kind of flow: a DNS query goes to a server of
//! the other family if there is none of its own. An address that means "this machine" or "everyone" in disguise
//! (IPv4 inside IPv6, loopback, broadcast ...) is refused at the door with a named [`Refused`]
//! reason unless the operator mapped it on purpose; see `special`.
//!
//! This module never looks at payload, opens a socket or reads a clock. Terms: *guest side* is
//! what the guest sees, *host side* what the host's kernel sees.

mod learn;
mod places;
mod policy;
mod policy_text;
mod rule;
mod special;
mod table;
pub(crate) mod tenure;
mod to_guest;
mod to_host;
mod to_splice;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use arrayvec::ArrayVec;

pub(crate) use learn::{
    assign, begin_link, expect, initial, keep_first, learn, learn_mac, question_lost, reconsider,
};
pub use places::{Places, Prefix, Routed, Surroundings};
pub(crate) use policy::{Attempt, NameSet, is_dns};
pub use policy::{Destination, EgressRule, NamePattern, Policy, Verdict};
pub use policy_text::egress_rule;
pub use rule::{InterfaceName, ListenAddr, Rule};
pub(crate) use special::{is_many, is_one_host};
pub use table::{Enabled, MAX_LISTENING_SOCKETS, MAX_RULES, Outcome, RuleError, RuleId, RuleTable};
pub(crate) use to_guest::{GuestSide, source_for_guest, source_in_group, to_guest};
pub(crate) use to_host::{HostSide, group_on_host, to_host};
pub(crate) use to_splice::loopback_of;
pub use to_splice::{Bypass, SpliceSide, from_namespace, to_namespace};

use super::network::{Network, Services};
use super::side::needs_scope;
use crate::limits::MAX_GROUP_PORTS;
use crate::wire::ip::L4Protocol;

/// Protocols whose flows are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6 echo.
    Icmp,
}

impl From<L4Protocol> for Proto {
    fn from(protocol: L4Protocol) -> Self {
        match protocol {
            L4Protocol::Tcp => Self::Tcp,
            L4Protocol::Udp => Self::Udp,
            L4Protocol::Icmp | L4Protocol::Icmpv6 => Self::Icmp,
        }
    }
}

impl Proto {
    /// Whether the operator left this protocol on.
    pub(crate) fn enabled(self, services: &Services) -> bool {
        match self {
            Self::Tcp => services.tcp,
            Self::Udp => services.udp,
            Self::Icmp => services.icmp,
        }
    }
}

impl Proto {
    /// The option with which ports of this protocol are given, of the guest or, `to_host`, of the host for
    /// its namespace.
    pub(crate) fn option(self, to_host: bool) -> &'static str {
        match (self, to_host) {
            (Self::Tcp, false) => "-t",
            (Self::Tcp, true) => "-T",
            (_, false) => "-u",
            (_, true) => "-U",
        }
    }
}

impl std::fmt::Display for Proto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
        })
    }
}

/// Mapped addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyMapping<A> {
    /// `--map-host-loopback`: the guest reaches the host's loopback address here.
    pub host_loopback: Option<A>,
    /// `--map-guest-addr`: the guest reaches the host's own copy of the guest's address here.
    pub guest_addr: Option<A>,
    /// `--dns-forward`: DNS queries of the guest to this address go to `dns_host`.
    pub dns_match: Option<A>,
    /// `--dns-host`: where matched DNS queries go, first of all those of the same family.
    pub dns_host: Option<A>,
    /// `--outbound`: source of our host-side sockets.
    pub outbound: Option<A>,
    /// Index of the host's interface that has the guest's groups; 0 for the one that the way to a group leads to.
    pub group_interface: u32,
}

impl<A> Default for FamilyMapping<A> {
    fn default() -> Self {
        Self {
            host_loopback: None,
            guest_addr: None,
            dns_match: None,
            dns_host: None,
            outbound: None,
            group_interface: 0,
        }
    }
}

impl<A: Copy + Into<IpAddr>> FamilyMapping<A> {
    /// The same without the type of the family.
    fn erased(&self) -> FamilyMapping<IpAddr> {
        FamilyMapping {
            host_loopback: self.host_loopback.map(Into::into),
            guest_addr: self.guest_addr.map(Into::into),
            dns_match: self.dns_match.map(Into::into),
            dns_host: self.dns_host.map(Into::into),
            outbound: self.outbound.map(Into::into),
            group_interface: self.group_interface,
        }
    }
}

/// Every address mapping in force. Made once at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// IPv4.
    pub v4: FamilyMapping<Ipv4Addr>,
    /// IPv6.
    pub v6: FamilyMapping<Ipv6Addr>,
    /// Host interface index that a link-local `v6.dns_host` is scoped to; 0 for the template
    /// interface.
    pub(crate) dns_scope_id: u32,
    /// Ports of all groups that the guest joins, beside those that are known (`--multicast-ports`).
    pub group_ports: ArrayVec<u16, MAX_GROUP_PORTS>,
    /// Addresses of the host that a namespace which we configure has, too, or still has: of what comes from there the
    /// guest must not see them. The assigned one may be among them.
    pub held: Vec<IpAddr>,
}

impl Mapping {
    /// The server for DNS queries that came in as packets of the family of `matched`: of that
    /// family if there is one, so that the other is a last resort.
    pub(crate) fn dns_host_for(&self, matched: IpAddr) -> Option<IpAddr> {
        let (v4, v6) = (self.v4.dns_host.map(IpAddr::V4), self.v6.dns_host.map(IpAddr::V6));
        if matched.is_ipv4() { v4.or(v6) } else { v6.or(v4) }
    }

    /// Addresses of the guest's link that stand for the host itself.
    pub(crate) fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = [self.v4.host_loopback, self.v4.guest_addr].into_iter().flatten();
        let v6 = [self.v6.host_loopback, self.v6.guest_addr].into_iter().flatten();
        v4.map(IpAddr::V4).chain(v6.map(IpAddr::V6))
    }

    /// Addresses of the guest's link where its DNS queries are taken for the host's name servers.
    pub(crate) fn dns_matches(&self) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = (self.v4.dns_match.map(IpAddr::V4), self.v6.dns_match.map(IpAddr::V6));
        v4.into_iter().chain(v6)
    }

    /// The interface that has the guest's groups of the family of `group`.
    pub(crate) fn group_interface(&self, group: IpAddr) -> u32 {
        if group.is_ipv4() { self.v4.group_interface } else { self.v6.group_interface }
    }

    /// Whether the operator names the source of our sockets of the family of `address`.
    pub(crate) fn has_source(&self, address: IpAddr) -> bool {
        !self.outbound_for(address).is_unspecified()
    }

    /// The addresses that the operator names as the source of our sockets, of IPv4 and of IPv6.
    pub(crate) fn sources(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (v4, v6) = (self.v4.outbound.map(Into::into), self.v6.outbound.map(Into::into));
        v4.into_iter().chain(v6)
    }

    /// `--outbound` of the family of `address`, or the unspecified address of that family.
    fn outbound_for(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(_) => self.v4.outbound.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
            IpAddr::V6(_) => self.v6.outbound.unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
        }
    }
}

/// Why something is not forwarded. The counters of drops put several of them together, as forbidden addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// `--ipv4-only` or `--ipv6-only`, or the host lacks the family.
    #[error("address family disabled")]
    FamilyDisabled,
    /// `--no-tcp`, `--no-udp` or `--no-icmp`.
    #[error("protocol disabled")]
    ProtocolDisabled,
    /// `--no-multicast`, and it is for many.
    #[error("multicast and broadcast disabled")]
    MulticastDisabled,
    /// The two ends are of different families.
    #[error("source and destination of different families")]
    FamilyMismatch,
    /// A TCP or UDP port is 0.
    #[error("port 0")]
    PortZero,
    /// `0.0.0.0/8` or `::`.
    #[error("unspecified address")]
    Unspecified,
    /// `127.0.0.0/8` or `::1`, on the guest's side.
    #[error("loopback address")]
    Loopback,
    /// `255.255.255.255`.
    #[error("broadcast address")]
    Broadcast,
    /// A group where one host is needed.
    #[error("multicast address")]
    Multicast,
    /// An IPv6 group that may not leave its node.
    #[error("reserved address")]
    Reserved,
    /// An IPv4-mapped or IPv4-compatible IPv6 address.
    #[error("IPv4 address inside an IPv6 address")]
    V4InV6,
    /// A DNS query matched `--dns-forward`, but no DNS host is known.
    #[error("no DNS host to forward to")]
    DnsHostUnset,
    /// Nothing is known yet of the guest's address.
    #[error("address of the guest unknown")]
    GuestAddressUnknown,
    /// The source means nothing to the guest, and there is no gateway to stand in for it.
    #[error("no address to stand in for the source")]
    NoStandIn,
    /// A link-local address, and no host interface to scope it to.
    #[error("no interface for a link-local address")]
    NoScope,
    /// The rule does not cover the address or port.
    #[error("no rule")]
    NoRule,
    /// Only loopback traffic is forwarded here.
    #[error("not loopback traffic")]
    NotLoopback,
    /// The operator forbids it, and the guest is told.
    #[error("rejected by --egress or --isolate")]
    EgressRejected,
    /// The operator forbids it, and the guest is not told.
    #[error("dropped by --egress")]
    EgressDropped,
}

/// What both directions need to know of one family, without its type.
struct View {
    assigned: Option<IpAddr>,
    gateway: Option<IpAddr>,
    loopback: IpAddr,
    map: FamilyMapping<IpAddr>,
    /// The address that was asked for is the guest's own: the assigned one, or another that its namespace holds.
    own: bool,
}

impl View {
    /// The family of `address`.
    fn of(net: &Network, map: &Mapping, address: IpAddr) -> Result<Self, Refused> {
        let held = map.held.contains(&address);
        match address {
            IpAddr::V4(_) => net.v4.as_ref().map(|v4| Self {
                assigned: Some(v4.addr.into()),
                gateway: v4.gateway.map(Into::into),
                loopback: Ipv4Addr::LOCALHOST.into(),
                map: map.v4.erased(),
                own: held || address == v4.addr,
            }),
            IpAddr::V6(_) => net.v6.as_ref().map(|v6| Self {
                assigned: v6.addr.map(Into::into),
                gateway: v6.gateway.map(Into::into),
                loopback: Ipv6Addr::LOCALHOST.into(),
                map: map.v6.erased(),
                own: held || v6.addr.is_some_and(|assigned| address == assigned),
            }),
        }
        .ok_or(Refused::FamilyDisabled)
    }
}

/// A socket address whose scope is `scope_id` if the address needs one.
fn scoped(address: IpAddr, port: u16, scope_id: u32) -> Result<SocketAddr, Refused> {
    match address {
        IpAddr::V6(v6) if needs_scope(v6) => match scope_id {
            0 => Err(Refused::NoScope),
            id => Ok(SocketAddrV6::new(v6, port, 0, id).into()),
        },
        other => Ok(SocketAddr::new(other, port)),
    }
}

/// A network for tests: the host of the worked examples.
#[cfg(test)]
pub(crate) mod example {
    use super::*;
    use crate::flow::network::{Ipv4Net, Ipv6Net, Learned};
    use arrayvec::ArrayVec;

    pub(crate) fn network() -> Network {
        let v4 = Some(Ipv4Net {
            addr: Ipv4Addr::new(192, 0, 2, 2),
            prefix_len: 24,
            gateway: Some(Ipv4Addr::new(192, 0, 2, 1)),
            fixed: false,
            dns: ArrayVec::new(),
            routes: None,
        });
        let v6 = Some(Ipv6Net {
            addr: Some(v6("2001:db8::2")),
            gateway: Some(v6("2001:db8::1")),
            our_link_local: v6("fe80::fc"),
            fixed: false,
            dns: ArrayVec::new(),
            default_router: true,
            scope_id: 7,
        });
        Network::new(v4, v6)
    }

    pub(crate) fn mapping() -> Mapping {
        let mut map = Mapping::default();
        map.v4.host_loopback = Some(Ipv4Addr::new(192, 0, 2, 1));
        map.v6.host_loopback = Some(v6("2001:db8::1"));
        map
    }

    pub(crate) fn learned() -> Learned {
        Learned { v6_link_local: Some(v6("fe80::5")), ..initial(&network()) }
    }

    pub(crate) fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    pub(crate) fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    pub(crate) fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }
}
