//! What a command line of slirp4netns asks for.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::flow::fwd::{InterfaceName, is_one_host};
use crate::flow::network::Mac;

/// Hosts of a network that mean something.
const GATEWAY: u32 = 2;
const NAME_SERVER: u32 = 3;
const GUEST: u32 = 100;

/// Longest prefix of a network that has all of them.
const LONGEST_PREFIX: u8 = 25;

/// Everything that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Whose namespace.
    pub(super) target: Target,
    /// `--userns-path`.
    pub(super) user: Option<PathBuf>,
    /// Name of the tap device.
    pub(super) interface: InterfaceName,
    /// `--configure`.
    pub(super) configure: bool,
    /// `--mtu`.
    pub(super) mtu: u16,
    /// `--cidr`.
    pub(super) network: Network,
    /// `--enable-ipv6`.
    pub(super) ipv6: bool,
    /// `--disable-host-loopback`.
    pub(super) no_host: bool,
    /// `--disable-dns`.
    pub(super) no_dns: bool,
    /// `--macaddress`.
    pub(super) mac: Option<Mac>,
    /// `--outbound-addr`.
    pub(super) outbound_v4: Option<Outbound<Ipv4Addr>>,
    /// `--outbound-addr6`.
    pub(super) outbound_v6: Option<Outbound<Ipv6Addr>>,
    /// `--ready-fd`.
    pub(super) ready: Option<i32>,
    /// `--exit-fd`.
    pub(super) exit: Option<i32>,
    /// `--api-socket`.
    pub(super) api: Option<PathBuf>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// That of the process of this id.
    Process(u32),
    /// The one at this path.
    Path(PathBuf),
}

/// Where connections of the namespace come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outbound<A> {
    /// This address of the host.
    Address(A),
    /// This interface of the host.
    Interface(InterfaceName),
}

/// The network inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    base: Ipv4Addr,
    /// Length of its prefix.
    pub(super) prefix_len: u8,
}

impl Network {
    /// `10.0.2.0/24`.
    pub(super) const DEFAULT: Self = Self { base: Ipv4Addr::new(10, 0, 2, 0), prefix_len: 24 };

    /// Reads `ADDRESS/LENGTH`; `None` if that is no network with room for all that it must have.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (base, len) = text.split_once('/')?;
        let (base, prefix_len) = (base.parse::<Ipv4Addr>().ok()?, len.parse::<u8>().ok()?);
        let network = Self { base, prefix_len };
        let fits = (1..=LONGEST_PREFIX).contains(&prefix_len)
            && base.to_bits() & (u32::MAX >> prefix_len) == 0
            && is_one_host(network.gateway().into())
            && is_one_host(network.guest().into());
        fits.then_some(network)
    }

    fn host(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() | number)
    }

    /// What stands for this host.
    pub(super) fn gateway(self) -> Ipv4Addr {
        self.host(GATEWAY)
    }

    /// What stands for the host's name server.
    pub(super) fn name_server(self) -> Ipv4Addr {
        self.host(NAME_SERVER)
    }

    /// The namespace's own address.
    pub(super) fn guest(self) -> Ipv4Addr {
        self.host(GUEST)
    }
}

/// As it is given.
impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_len)
    }
}
