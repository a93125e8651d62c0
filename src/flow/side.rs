//! The two sides of a flow. On each side there is *our* address, which the other end believes it
//! talks to, and the *endpoint*, the other end itself. The interface of a side is its [`Pif`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::wire::ip::IpHead;

/// Where a side of a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Pif {
    /// Sockets of the host.
    Host = 1,
    /// The link to the guest.
    Tap = 2,
    /// Sockets inside the guest's network namespace.
    Splice = 3,
}

impl std::fmt::Display for Pif {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Host => "HOST",
            Self::Tap => "TAP",
            Self::Splice => "SPLICE",
        })
    }
}

/// An address and port in 18 bytes: IPv4 addresses are stored v4-mapped. No real v4-mapped address
/// gets here, address mapping refuses them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    address: [u8; 16],
    port: u16,
}

impl Endpoint {
    /// An endpoint.
    pub(crate) fn new(address: IpAddr, port: u16) -> Self {
        let address = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self { address, port }
    }

    /// Anybody of one family: no address and no port.
    pub(crate) fn anybody(v4: bool) -> Self {
        let any: IpAddr =
            if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Self::new(any, 0)
    }

    /// Whether it stands for anybody.
    pub(crate) fn is_anybody(self) -> bool {
        self.port == 0 && self.ip().is_unspecified()
    }

    /// The address.
    pub(crate) fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.address).to_canonical()
    }

    /// The address as one of IPv6, a v4-mapped one for IPv4.
    pub(crate) fn octets(self) -> [u8; 16] {
        self.address
    }

    /// The port, or the identifier of an echo flow.
    pub(crate) fn port(self) -> u16 {
        self.port
    }

    /// As a socket address; `scope_id` is used for IPv6 addresses that need one.
    pub(crate) fn with_scope(self, scope_id: u32) -> SocketAddr {
        match self.ip() {
            IpAddr::V6(v6) if needs_scope(v6) => {
                SocketAddrV6::new(v6, self.port, 0, scope_id).into()
            }
            ip => SocketAddr::new(ip, self.port),
        }
    }
}

/// Whether `address` means something only together with an interface: that of a host, or of a group, on its link.
pub(crate) fn needs_scope(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local() || address.segments()[0] & 0xff0f == 0xff02
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::new(address.ip(), address.port())
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}]:{}", self.ip(), self.port)
    }
}

/// One side of a flow. Where the flow is one with anybody, what is not one end is [`Endpoint::anybody`]: our
/// address toward the guest, and the endpoint on the host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Side {
    /// Interface.
    pub(crate) pif: Pif,
    /// Our address on this side.
    pub(crate) ours: Endpoint,
    /// The other end.
    pub(crate) endpoint: Endpoint,
}

impl Side {
    /// Bytes of [`to_bytes`](Self::to_bytes).
    pub(crate) const BYTES: usize = 37;

    /// The guest's, of a packet from it.
    pub(crate) fn from_guest(ip: &IpHead, (source_port, destination_port): (u16, u16)) -> Self {
        Self {
            pif: Pif::Tap,
            ours: Endpoint::new(ip.destination, destination_port),
            endpoint: Endpoint::new(ip.source, source_port),
        }
    }

    /// All of it in one piece, for a hash.
    #[inline]
    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.ours.address);
        bytes[16..32].copy_from_slice(&self.endpoint.address);
        bytes[32..34].copy_from_slice(&self.ours.port.to_ne_bytes());
        bytes[34..36].copy_from_slice(&self.endpoint.port.to_ne_bytes());
        bytes[36] = self.pif as u8;
        bytes
    }
}

/// A keyed hash of many small pieces costs several times as much as that of one.
impl std::hash::Hash for Side {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        hasher.write(&self.to_bytes());
    }
}

/// Both sides of a flow in words, in the direction in which it was started: its starter, where we were asked for; and
/// whence we ask whom.
pub(crate) struct Sides<'a>(pub(crate) &'a [Side; 2]);

impl std::fmt::Display for Sides<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, second] = self.0;
        write!(f, "{} {:?} -> {:?} => ", first.pif, first.endpoint, first.ours)?;
        write!(f, "{} {:?} -> {:?}", second.pif, second.ours, second.endpoint)
    }
}

/// The two sides of a flow over the link, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestView<'a> {
    /// Which of the two is the guest's: 0 where the guest has begun the flow, else 1.
    pub(crate) index: usize,
    /// The guest's side.
    pub(crate) guest: &'a Side,
    /// The other one.
    pub(crate) host: &'a Side,
}

impl<'a> GuestView<'a> {
    /// Of a flow with these sides; `None` for one that passes the link by.
    pub(crate) fn of(sides: &'a [Side; 2]) -> Option<Self> {
        let index = sides.iter().position(|side| side.pif == Pif::Tap)?;
        Some(Self { index, guest: &sides[index], host: &sides[1 - index] })
    }

    /// Which of the two is not the guest's.
    pub(crate) fn host_index(&self) -> usize {
        1 - self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_side_is_found_whoever_began_and_none_past_the_link() {
        let on =
            |pif| Side { pif, ours: Endpoint::anybody(true), endpoint: Endpoint::anybody(true) };
        let index = |pifs: [Pif; 2]| {
            let sides = pifs.map(on);
            let view = GuestView::of(&sides)?;
            assert_eq!(view.guest.pif, Pif::Tap);
            assert_eq!(*view.host, sides[view.host_index()]);
            Some(view.index)
        };
        assert_eq!(index([Pif::Tap, Pif::Host]), Some(0));
        assert_eq!(index([Pif::Host, Pif::Tap]), Some(1));
        assert_eq!(index([Pif::Host, Pif::Splice]), None);
        assert_eq!(index([Pif::Splice, Pif::Host]), None);
    }

    #[test]
    fn a_flow_in_words_runs_from_who_started_it_to_whom_it_leads() {
        let at = |text: &str| Endpoint::from(text.parse::<SocketAddr>().unwrap());
        let [guest, asked] = [at("192.0.2.2:51478"), at("198.51.100.7:80")];
        let [ours, server] = [at("0.0.0.0:0"), at("[2001:db8::7]:8080")];
        let sides = [
            Side { pif: Pif::Tap, ours: asked, endpoint: guest },
            Side { pif: Pif::Host, ours, endpoint: server },
        ];
        assert_eq!(
            Sides(&sides).to_string(),
            "TAP [192.0.2.2]:51478 -> [198.51.100.7]:80 => HOST [0.0.0.0]:0 -> [2001:db8::7]:8080"
        );
    }

    #[test]
    fn rfc4007_scope_is_needed_by_link_local_addresses() {
        for (text, needs) in [
            ("fe80::1", true),
            ("febf::1", true),
            ("ff02::1", true),
            ("ff12::1", true),
            ("ff05::1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(needs_scope(text.parse().unwrap()), needs, "{text}");
        }
    }
}
