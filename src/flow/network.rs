//! The network as the guest is told it is: addresses, gateway, names. Plain data, made by `conf` and read by
//! the responders and by address mapping. While it is in force three things change: [`Learned`], the MTU
//! where the front-end sets another, and in local mode [`Ipv6Net::addr`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::fwd::tenure::Tenure;
pub use crate::wire::Mac;

/// DNS servers of one family handed to the guest.
pub(crate) const MAX_DNS: usize = 3;

/// Routes in place of a default route: what one DHCP option holds, with a host route to the gateway.
pub(crate) const MAX_ROUTES: usize = 16;

/// Entries of the DNS search list handed to the guest.
pub(crate) const MAX_SEARCH: usize = 6;

/// IPv4 as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4Net {
    /// The address assigned to the guest.
    pub addr: Ipv4Addr,
    /// Length of the prefix, 1 to 32.
    pub prefix_len: u8,
    /// The gateway, which is also our own address toward the guest.
    pub gateway: Option<Ipv4Addr>,
    /// `addr` was given with `--address` and is never learned from traffic.
    pub fixed: bool,
    /// DNS servers handed out.
    pub dns: ArrayVec<Ipv4Addr, MAX_DNS>,
    /// All that is reached beyond the subnet, where that is not everything, by the gateway: then the guest gets no
    /// default route.
    pub routes: Option<Vec<Ipv4Route>>,
}

/// A route that the guest gets in place of a default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Route {
    /// Where it leads.
    pub destination: Ipv4Addr,
    /// Length of the prefix, 1 to 32.
    pub prefix_len: u8,
    /// The next hop on the guest's link.
    pub gateway: Ipv4Addr,
}

/// IPv6 as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv6Net {
    /// The address assigned to the guest; `None` in local mode until the guest's first
    /// link-local source is seen.
    pub addr: Option<Ipv6Addr>,
    /// The gateway.
    pub gateway: Option<Ipv6Addr>,
    /// Our own link-local address, source of all NDP and DHCPv6 messages.
    pub our_link_local: Ipv6Addr,
    /// `addr` was given with `--address` and is never learned from traffic.
    pub fixed: bool,
    /// DNS servers handed out.
    pub dns: ArrayVec<Ipv6Addr, MAX_DNS>,
    /// Something is reached beyond the link: we are the guest's default router.
    pub default_router: bool,
    /// Index of the host interface that link-local destinations are scoped to; 0 in local mode.
    pub scope_id: u32,
}

/// What the guest gets: which responders answer, what they hand out, which protocols are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Services {
    /// DHCPv4.
    pub dhcp: bool,
    /// DHCPv6.
    pub(crate) dhcpv6: bool,
    /// Neighbour and router discovery.
    pub(crate) ndp: bool,
    /// Router advertisements.
    pub(crate) ra: bool,
    /// DNS servers are handed out.
    pub(crate) hand_out_dns: bool,
    /// The DNS search list is handed out.
    pub(crate) hand_out_search: bool,
    /// TCP is translated.
    pub(crate) tcp: bool,
    /// UDP is translated.
    pub(crate) udp: bool,
    /// ICMP echo is translated.
    pub(crate) icmp: bool,
    /// Who has a lease asks again each minute: what it was told may change.
    pub(crate) renew: bool,
    /// What is for many at once is translated, both ways: groups and broadcasts.
    pub multicast: bool,
}

/// T1 and the length of a lease, in seconds, where clients are to ask again: how soon they do, and how long they may use
/// their address if nobody answers.
pub(crate) const RENEW_S: u32 = 60;
pub(crate) const LEASE_S: u32 = 24 * 3600;

/// T2 for the T1 `renewal`, both in seconds, in the usual ratio of 7/8 to 1/2 of a lease (RFC 2131, section 4.4.5).
pub(crate) const fn rebinding(renewal: u32) -> u32 {
    renewal.saturating_add(renewal / 4 * 3)
}

impl Services {
    /// Nothing is on.
    pub(crate) const NONE: Self = Self {
        dhcp: false,
        dhcpv6: false,
        ndp: false,
        ra: false,
        hand_out_dns: false,
        hand_out_search: false,
        tcp: false,
        udp: false,
        icmp: false,
        renew: false,
        multicast: false,
    };
}

impl Default for Services {
    fn default() -> Self {
        Self {
            dhcp: true,
            dhcpv6: true,
            ndp: true,
            ra: true,
            hand_out_dns: true,
            hand_out_search: true,
            tcp: true,
            udp: true,
            icmp: true,
            renew: false,
            multicast: true,
        }
    }
}

/// What a guest that boots from the network is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Name of the file, or its URL; at most 255 bytes.
    pub file: String,
    /// The server that has it; `None` if it is ours, which `conf` replaces by our address, or a URL names it.
    pub server: Option<Ipv4Addr>,
}

/// An option that the operator adds, or sets in place of the usual one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraOption {
    /// Its number.
    pub code: u16,
    /// Its value as it is sent, without number and length.
    pub value: Vec<u8>,
}

/// What the operator adds to what the guest is told. A list has a code at most once, but for routes and prefixes of
/// translators in router advertisements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// `--dhcp-boot`.
    pub boot: Option<Boot>,
    /// `--dhcp-option`.
    pub dhcp: Vec<ExtraOption>,
    /// `--dhcpv6-option`.
    pub dhcpv6: Vec<ExtraOption>,
    /// `--ra-option`; values are padded to whole units.
    pub ra: Vec<ExtraOption>,
}

/// Everything the guest is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Our Ethernet address.
    pub our_mac: Mac,
    /// MTU handed out; 0 for none.
    pub mtu: u16,
    /// IPv4, unless disabled.
    pub v4: Option<Ipv4Net>,
    /// IPv6, unless disabled.
    pub v6: Option<Ipv6Net>,
    /// DNS search list, each entry one domain.
    pub search: ArrayVec<String, MAX_SEARCH>,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--fqdn`.
    pub fqdn: Option<String>,
    /// What the operator adds.
    pub extra: Extra,
    /// What the guest gets of all that.
    pub services: Services,
}

impl Ipv4Net {
    /// Whether `address` is in the guest's subnet.
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        (self.addr.to_bits() ^ address.to_bits()) & self.mask() == 0
    }

    /// The subnet mask.
    pub(crate) fn mask(&self) -> u32 {
        let host_bits = 32_u32.saturating_sub(self.prefix_len.into());
        u32::MAX.checked_shl(host_bits).unwrap_or(0)
    }
}

impl Ipv6Net {
    /// The prefix that guests may make addresses of: that of the assigned address, unless there is none, or none but the
    /// link-local one, which is not to be advertised (RFC 4861, 4.6.2).
    pub(crate) fn prefix(&self) -> Option<Ipv6Addr> {
        let addr = self.addr.filter(|addr| !addr.is_unicast_link_local())?;
        Some(Ipv6Addr::from_bits(addr.to_bits() & u128::MAX << 64))
    }
}

impl Network {
    /// These addresses, no names, the usual MTU, and every service.
    pub fn new(v4: Option<Ipv4Net>, v6: Option<Ipv6Net>) -> Self {
        Self {
            our_mac: Mac::OURS,
            mtu: 65520,
            v4,
            v6,
            search: ArrayVec::new(),
            hostname: None,
            fqdn: None,
            extra: Extra::default(),
            services: Services::default(),
        }
    }

    /// The gateway of the family of `address`.
    pub(crate) fn gateway_for(&self, address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(_) => self.v4.as_ref()?.gateway.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.as_ref()?.gateway.map(IpAddr::V6),
        }
    }

    /// Scope of link-local addresses on the host side; 0 if there is none.
    pub(crate) fn scope_id(&self) -> u32 {
        self.v6.as_ref().map_or(0, |v6| v6.scope_id)
    }
}

/// Prefixes of IPv6 that a guest was told of and that are gone, as far as they are remembered; the same of name servers,
/// and of our own link-local addresses.
const MAX_WITHDRAWN_PREFIXES: usize = 4;
pub(crate) const MAX_WITHDRAWN_DNS: usize = 2 * MAX_DNS;
const MAX_WITHDRAWN_ROUTERS: usize = 2;

/// What router advertisements said before and is not so any more: the guest is to forget it. Of more than fits the
/// oldest is not remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Withdrawn {
    /// Prefixes of 64 bits.
    pub(crate) prefixes: ArrayVec<Ipv6Addr, MAX_WITHDRAWN_PREFIXES>,
    /// Name servers.
    pub(crate) dns: ArrayVec<Ipv6Addr, MAX_WITHDRAWN_DNS>,
    /// Entries of the search list.
    pub(crate) search: ArrayVec<String, MAX_SEARCH>,
    /// Addresses from which we were a router.
    pub(crate) routers: ArrayVec<Ipv6Addr, MAX_WITHDRAWN_ROUTERS>,
}

impl Withdrawn {
    /// The guest was told `old` and is told `new` from now on.
    pub(crate) fn note(&mut self, old: &Network, new: &Network) {
        let prefix = |net: &Network| net.v6.as_ref().and_then(Ipv6Net::prefix);
        let router = |net: &Network| net.v6.as_ref().map(|v6| v6.our_link_local);
        let dns = |net: &Network| net.v6.as_ref().map(|v6| v6.dns.clone()).unwrap_or_default();
        replace(&mut self.prefixes, prefix(old), &prefix(new).into_iter().collect::<Vec<_>>());
        replace(&mut self.routers, router(old), &router(new).into_iter().collect::<Vec<_>>());
        replace(&mut self.dns, dns(old), &dns(new));
        replace(&mut self.search, old.search.clone(), &new.search);
    }
}

/// Adds `old` to what is gone, and leaves out what is there now.
fn replace<T: PartialEq, const N: usize>(
    gone: &mut ArrayVec<T, N>,
    old: impl IntoIterator<Item = T>,
    now: &[T],
) {
    for one in old {
        if !gone.contains(&one) {
            if gone.is_full() {
                gone.remove(0);
            }
            gone.push(one);
        }
    }
    gone.retain(|one| !now.contains(one));
}

/// What was learned of the guest from its traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Ethernet address; broadcast until a frame was seen.
    pub(crate) mac: Mac,
    /// IPv4 address that forwarded ports lead to.
    pub(crate) v4: Ipv4Addr,
    /// IPv6 address that forwarded ports lead to.
    pub(crate) v6: Option<Ipv6Addr>,
    /// Link-local address that they lead to where the peer has one.
    pub(crate) v6_link_local: Option<Ipv6Addr>,
    /// The addresses of the start, if a namespace that we configure is assigned others since: it keeps them, and services
    /// may be bound to them, so that ports go on to lead there as long as they are in use.
    pub(crate) kept_v4: Option<Ipv4Addr>,
    pub(crate) kept_v6: Option<Ipv6Addr>,
    /// How firmly the IPv4, IPv6 and link-local address are held.
    pub(crate) tenures: [Tenure; 3],
}
