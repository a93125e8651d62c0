//! One forwarding rule: a run of ports that are listened on, and where they lead in the guest.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayString;

use super::{Proto, Refused};

/// The longest name of a network interface (`IFNAMSIZ` without its end).
const NAME_MAX: usize = 15;

/// The name of a network interface: 1 to 15 bytes, no `/`, no blank, neither `.` nor `..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceName(ArrayString<NAME_MAX>);

impl InterfaceName {
    /// `name` if an interface may be called so.
    pub fn new(name: &str) -> Option<Self> {
        let banned = |c: char| c == '/' || c == '\0' || c.is_whitespace();
        if name.is_empty() || name == "." || name == ".." || name.contains(banned) {
            return None;
        }
        ArrayString::from(name).ok().map(Self)
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a rule listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// All addresses of both families, with one IPv6 socket.
    Dual,
    /// One IPv4 address, or `0.0.0.0` for all.
    V4(Ipv4Addr),
    /// One IPv6 address, or `::` for all.
    V6(Ipv6Addr),
}

impl ListenAddr {
    /// Whether a socket on this address receives what is sent to `local`.
    pub(crate) fn covers(self, local: IpAddr) -> bool {
        match (self, local) {
            (Self::Dual, _) => true,
            (Self::V4(listen), IpAddr::V4(local)) => listen.is_unspecified() || listen == local,
            (Self::V6(listen), IpAddr::V6(local)) => listen.is_unspecified() || listen == local,
            _ => false,
        }
    }

    /// Whether two sockets on these addresses would contend for a port.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::Dual, _) | (_, Self::Dual) => true,
            (Self::V4(a), Self::V4(b)) => self.covers(b.into()) || other.covers(a.into()),
            (Self::V6(a), Self::V6(b)) => self.covers(b.into()) || other.covers(a.into()),
            _ => false,
        }
    }
}

impl From<IpAddr> for ListenAddr {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4),
            IpAddr::V6(v6) => Self::V6(v6),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dual => f.write_str("*"),
            Self::V4(v4) => v4.fmt(f),
            Self::V6(v6) => v6.fmt(f),
        }
    }
}

/// A run of ports that are listened on, and where they lead in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// TCP or UDP.
    pub proto: Proto,
    /// What is listened on.
    pub listen: ListenAddr,
    /// The host interface that is listened on; `None` for all.
    pub interface: Option<InterfaceName>,
    /// First port listened on.
    pub first: u16,
    /// Last port listened on.
    pub last: u16,
    /// Destination in the guest; `None` for its own address.
    pub target_addr: Option<IpAddr>,
    /// Port in the guest that `first` leads to; the others follow in order.
    pub target_first: u16,
    /// Single ports may fail to bind.
    pub weak: bool,
    /// `auto`: a port is listened on only while its target listens on the other side.
    pub scan: bool,
    /// Number of the port specification that this rule is part of.
    pub spec_index: u16,
}

impl Rule {
    /// Ports of all addresses that lead to `to` and those that follow it at the guest's own address.
    pub const fn plain(proto: Proto, (first, last): (u16, u16), to: u16) -> Self {
        Self {
            proto,
            listen: ListenAddr::Dual,
            interface: None,
            first,
            last,
            target_addr: None,
            target_first: to,
            weak: false,
            scan: false,
            spec_index: 0,
        }
    }

    /// The port in the guest for `port` on the host's address `local`; `None` if the rule does
    /// not cover them.
    pub(crate) fn target_port(&self, local: IpAddr, port: u16) -> Option<u16> {
        let covered = self.listen.covers(local) && (self.first..=self.last).contains(&port);
        covered.then(|| self.target_first.checked_add(port - self.first)).flatten()
    }

    /// The port in the guest for what `peer` sent to our address `local` and `port`, both canonical.
    pub(super) fn port_for(&self, peer: IpAddr, local: IpAddr, port: u16) -> Result<u16, Refused> {
        if peer.is_ipv4() != local.is_ipv4() {
            return Err(Refused::FamilyMismatch);
        }
        self.target_port(local, port).ok_or(Refused::NoRule)
    }

    /// The port in the guest that `last` leads to; beyond 65535 if the rule is invalid.
    pub(crate) fn target_last(&self) -> u32 {
        u32::from(self.target_first) + u32::from(self.last.saturating_sub(self.first))
    }

    /// Whether it listens on the loopback interface.
    pub(crate) fn is_on_loopback(&self) -> bool {
        self.interface.is_some_and(|name| name.as_str() == "lo")
    }

    /// Sockets that this rule needs: one a port.
    pub(crate) fn sockets(&self) -> usize {
        usize::from(self.last.saturating_sub(self.first)) + 1
    }

    /// Whether both say the same, whichever specification either is part of.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Self { spec_index: other.spec_index, ..*self } == *other
    }

    /// Whether both rules would contend for a port.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let same_interface = match (self.interface, other.interface) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        self.proto == other.proto
            && same_interface
            && self.listen.overlaps(other.listen)
            && self.first <= other.last
            && other.first <= self.last
    }
}

/// `PROTO [ADDR]%IF:FIRST-LAST  =>  TADDR:TO-TOLAST  (best effort) (auto-scan)`, with a blank behind the
/// last port in any case: the form that other programs look for in our output. An IPv6 target address has brackets, so
/// that the port can be told from it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.proto, self.listen)?;
        if let Some(interface) = self.interface {
            write!(f, "%{interface}")?;
        }
        f.write_str(":")?;
        write_ports(f, self.first.into(), self.last.into())?;
        f.write_str("  =>  ")?;
        match self.target_addr {
            Some(IpAddr::V4(v4)) => write!(f, "{v4}:")?,
            Some(IpAddr::V6(v6)) => write!(f, "[{v6}]:")?,
            None => {}
        }
        write_ports(f, self.target_first.into(), self.target_last())?;
        f.write_str(if self.weak { "  (best effort)" } else { " " })?;
        f.write_str(if self.scan { " (auto-scan)" } else { "" })
    }
}

fn write_ports(f: &mut fmt::Formatter<'_>, first: u32, last: u32) -> fmt::Result {
    if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::super::example::{at, ip};
    use super::*;

    const RULE: Rule = Rule::plain(Proto::Tcp, (2222, 2222), 22);

    #[test]
    fn text_form() {
        let lo = InterfaceName::new("lo");
        let v4 = ListenAddr::from(ip("192.0.2.2"));
        for (rule, text) in [
            (RULE, "TCP [*]:2222  =>  22 "),
            (Rule { last: 2229, ..RULE }, "TCP [*]:2222-2229  =>  22-29 "),
            (Rule { weak: true, ..RULE }, "TCP [*]:2222  =>  22  (best effort)"),
            (Rule { scan: true, ..RULE }, "TCP [*]:2222  =>  22  (auto-scan)"),
            (
                Rule { weak: true, scan: true, ..RULE },
                "TCP [*]:2222  =>  22  (best effort) (auto-scan)",
            ),
            (Rule { proto: Proto::Udp, interface: lo, ..RULE }, "UDP [*]%lo:2222  =>  22 "),
            (
                Rule { listen: v4, target_addr: Some(ip("192.0.2.9")), ..RULE },
                "TCP [192.0.2.2]:2222  =>  192.0.2.9:22 ",
            ),
            (
                Rule {
                    listen: ListenAddr::V6(Ipv6Addr::UNSPECIFIED),
                    target_addr: Some(ip("2001:db8::9")),
                    ..RULE
                },
                "TCP [::]:2222  =>  [2001:db8::9]:22 ",
            ),
        ] {
            assert_eq!(rule.to_string(), text);
        }
    }

    #[test]
    fn interface_names() {
        for name in ["lo", "eth0", "wlp0s20f3.100", "fifteen-bytes-x", "..."] {
            assert_eq!(InterfaceName::new(name).unwrap().as_str(), name);
        }
        for name in ["", ".", "..", "a/b", "a b", "a\tb", "a\nb", "a\0b", "sixteen-bytes-xx"] {
            assert_eq!(InterfaceName::new(name), None, "{name:?}");
        }
    }

    #[test]
    fn what_a_rule_covers() {
        let covers = |rule: &Rule, local: &str| {
            let local = at(local);
            rule.target_port(local.ip().to_canonical(), local.port()).is_some()
        };
        let v4 = Rule { listen: ListenAddr::from(ip("192.0.2.2")), last: 2223, ..RULE };
        assert!(covers(&v4, "192.0.2.2:2223"));
        assert!(covers(&v4, "[::ffff:192.0.2.2]:2223"));
        assert!(!covers(&v4, "192.0.2.3:2223"));
        assert!(!covers(&v4, "192.0.2.2:2224"));
        assert!(!covers(&v4, "[2001:db8::2]:2222"));
        assert!(covers(&RULE, "[2001:db8::2]:2222"));
        let all_v6 = Rule { listen: ListenAddr::V6(Ipv6Addr::UNSPECIFIED), ..RULE };
        assert!(covers(&all_v6, "[2001:db8::2]:2222"));
        assert!(!covers(&all_v6, "192.0.2.2:2222"));
        assert_eq!(v4.target_port(ip("192.0.2.2"), 2223), Some(23));
    }

    #[test]
    fn rules_overlap_if_sockets_would() {
        let listening = |listen: &str| Rule { listen: ListenAddr::from(ip(listen)), ..RULE };
        let on = |name| Rule { interface: InterfaceName::new(name), ..RULE };
        for (a, b, expected) in [
            (RULE, RULE, true),
            (RULE, Rule { proto: Proto::Udp, ..RULE }, false),
            (RULE, Rule { first: 2223, last: 2300, ..RULE }, false),
            (RULE, Rule { first: 2000, last: 2222, ..RULE }, true),
            (RULE, listening("192.0.2.2"), true),
            (RULE, listening("::"), true),
            (listening("0.0.0.0"), listening("192.0.2.2"), true),
            (listening("192.0.2.3"), listening("192.0.2.2"), false),
            (listening("::"), listening("2001:db8::2"), true),
            (listening("::"), listening("0.0.0.0"), false),
            (on("eth0"), on("eth1"), false),
            (on("eth0"), on("eth0"), true),
            (on("eth0"), RULE, true),
        ] {
            assert_eq!(a.overlaps(&b), expected, "{a} / {b}");
            assert_eq!(b.overlaps(&a), expected, "{b} / {a}");
        }
    }
}
