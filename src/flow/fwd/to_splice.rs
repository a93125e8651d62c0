//! Loopback traffic between the host and the guest's network namespace: it goes from socket to socket
//! and never becomes a frame.
//!
//! To the namespace, what passes the link by is what a *peer on a loopback address* sent, whichever address of the
//! host it was sent to, unless the operator forbade it or the rule names a target address, which only the link can reach.
//! It goes to the guest's own address, or, on demand, to the loopback address that was hit or that is the rule's target (a
//! group stays a group); where there is no link, another address of the host leads to the loopback address. Our source is
//! left to the namespace's kernel, so it appears to come from where it goes to. From the namespace to the host both
//! addresses must be loopback ones, and both stay as they are, unless the rule names a target address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Proto, Refused, Rule, scoped};
use crate::flow::network::Learned;

/// How loopback traffic passes the guest's link by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bypass {
    /// It does (without `--no-splice`).
    pub enabled: bool,
    /// `--host-lo-to-ns-lo`: loopback destinations stay loopback destinations.
    pub keep_loopback: bool,
    /// `--splice-only`: there is no link, and nothing but loopback traffic is forwarded.
    pub only: bool,
}

impl Bypass {
    /// For guests without a namespace of this host.
    pub(crate) const NONE: Self = Self { enabled: false, keep_loopback: false, only: false };

    /// Whether a service on `address` in the namespace can be reached from the host.
    pub(crate) fn reaches(&self, address: IpAddr) -> bool {
        let loopback = address.to_canonical().is_loopback();
        !loopback || (self.enabled && (self.keep_loopback || self.only))
    }
}

/// The side of a spliced flow that we open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpliceSide {
    /// What our socket is bound to; the unspecified address and port 0 leave it to the kernel.
    pub(crate) source: SocketAddr,
    /// Where it connects to.
    pub(crate) destination: SocketAddr,
}

/// The namespace's side of what `peer` sent to our `local` address on the host, on a socket of `rule`;
/// `None` if it is for the link. `scope_id` is the index of the guest's interface in its namespace; 0 if it
/// has none.
///
/// # Errors
/// The reason why it is not forwarded at all.
pub fn to_namespace(
    bypass: Bypass,
    (learned, scope_id): (&Learned, u32),
    rule: &Rule,
    peer: SocketAddr,
    local: SocketAddr,
) -> Result<Option<SpliceSide>, Refused> {
    let (peer_ip, local_ip) = (peer.ip().to_canonical(), local.ip().to_canonical());
    let keep = bypass.keep_loopback || bypass.only;
    let leads_by = rule.target_addr.is_none_or(|target| keep && target.is_loopback());
    let passes_by = bypass.enabled && peer_ip.is_loopback() && leads_by;
    if !passes_by {
        return if bypass.only { Err(Refused::NotLoopback) } else { Ok(None) };
    }
    let port = rule.port_for(peer_ip, local_ip, local.port())?;
    let address = match (rule.target_addr, local_ip) {
        (Some(target), _) => target,
        (None, group) if group.is_multicast() => group,
        (None, address) if keep && address.is_loopback() => address,
        (None, address) if bypass.only => loopback_of(address),
        (None, IpAddr::V4(_)) => learned.v4.into(),
        (None, IpAddr::V6(_)) => learned.v6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
    };
    if address.is_unspecified() {
        return Err(Refused::GuestAddressUnknown);
    }
    Ok(Some(SpliceSide {
        source: SocketAddr::new(any(address), source_port(rule, peer)),
        destination: scoped(address, port, scope_id)?,
    }))
}

/// The host's side of what `peer` sent to our `local` address in the namespace, on a socket of `rule`.
/// `scope_id` is the index of the host's interface for link-local targets; 0 if there is none.
///
/// # Errors
/// The reason why it is not forwarded.
pub fn from_namespace(
    scope_id: u32,
    rule: &Rule,
    peer: SocketAddr,
    local: SocketAddr,
) -> Result<SpliceSide, Refused> {
    let (peer_ip, local_ip) = (peer.ip().to_canonical(), local.ip().to_canonical());
    // The sockets are bound to the loopback interface, which may have other addresses, too.
    if !peer_ip.is_loopback() || !local_ip.is_loopback() {
        return Err(Refused::NotLoopback);
    }
    let port = rule.port_for(peer_ip, local_ip, local.port())?;
    let address = rule.target_addr.unwrap_or(local_ip);
    // What leaves the loopback interface needs another source than a loopback address.
    let source = if address.is_loopback() { peer_ip } else { any(address) };
    Ok(SpliceSide {
        source: SocketAddr::new(source, source_port(rule, peer)),
        destination: scoped(address, port, scope_id)?,
    })
}

/// The unspecified address of the family of `address`.
fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The loopback address of the family of `address`.
pub(crate) fn loopback_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// UDP keeps the port of the peer: what answers may depend on it.
fn source_port(rule: &Rule, peer: SocketAddr) -> u16 {
    if rule.proto == Proto::Udp { peer.port() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::super::example::{at, ip, learned};
    use super::*;

    const DEFAULT: Bypass = Bypass { enabled: true, keep_loopback: false, only: false };
    const KEEP: Bypass = Bypass { keep_loopback: true, ..DEFAULT };
    const ONLY: Bypass = Bypass { only: true, ..DEFAULT };

    const RULE: Rule = Rule::plain(Proto::Tcp, (8080, 8089), 80);

    fn shown(side: SpliceSide) -> String {
        format!("{} -> {}", side.source, side.destination)
    }

    fn inbound(bypass: Bypass, rule: &Rule, peer: &str, local: &str) -> String {
        match to_namespace(bypass, (&learned(), 3), rule, at(peer), at(local)) {
            Ok(Some(side)) => shown(side),
            Ok(None) => "link".to_owned(),
            Err(refused) => refused.to_string(),
        }
    }

    #[test]
    fn worked_examples_of_host_to_namespace() {
        let udp = Rule { proto: Proto::Udp, ..RULE };
        let lo = "127.0.0.1:8080";
        let target =
            Rule { listen: ip("127.0.0.1").into(), target_addr: Some(ip("192.0.2.9")), ..RULE };
        let inside =
            Rule { listen: ip("0.0.0.0").into(), target_addr: Some(ip("127.0.0.1")), ..RULE };
        let off = Bypass { enabled: false, ..DEFAULT };
        for (bypass, rule, peer, local, expected) in [
            (DEFAULT, &RULE, "127.0.0.1:9", lo, "0.0.0.0:0 -> 192.0.2.2:80"),
            (DEFAULT, &RULE, "127.0.0.5:9", "127.0.0.5:8089", "0.0.0.0:0 -> 192.0.2.2:89"),
            (DEFAULT, &RULE, "[::1]:9", "[::1]:8080", "[::]:0 -> [2001:db8::2]:80"),
            (DEFAULT, &RULE, "127.0.0.1:9", "192.0.2.2:8080", "0.0.0.0:0 -> 192.0.2.2:80"),
            (DEFAULT, &udp, "127.0.0.1:9", lo, "0.0.0.0:9 -> 192.0.2.2:80"),
            (DEFAULT, &udp, "127.0.0.1:9", "224.0.0.251:8080", "0.0.0.0:9 -> 224.0.0.251:80"),
            (KEEP, &RULE, "127.0.0.1:9", lo, "0.0.0.0:0 -> 127.0.0.1:80"),
            (KEEP, &RULE, "127.0.0.5:9", "127.0.0.5:8080", "0.0.0.0:0 -> 127.0.0.5:80"),
            (KEEP, &RULE, "[::1]:9", "[::1]:8080", "[::]:0 -> [::1]:80"),
            (
                ONLY,
                &RULE,
                "[::ffff:127.0.0.1]:9",
                "[::ffff:127.0.0.1]:8080",
                "0.0.0.0:0 -> 127.0.0.1:80",
            ),
            (off, &RULE, "127.0.0.1:9", lo, "link"),
            (DEFAULT, &target, "127.0.0.1:9", lo, "link"),
            (DEFAULT, &RULE, "198.51.100.9:9", "192.0.2.2:8080", "link"),
            (ONLY, &RULE, "198.51.100.9:9", "192.0.2.2:8080", "not loopback traffic"),
            (ONLY, &target, "127.0.0.1:9", lo, "not loopback traffic"),
            (KEEP, &target, "127.0.0.1:9", lo, "link"),
            (KEEP, &inside, "127.0.0.5:9", "127.0.0.5:8081", "0.0.0.0:0 -> 127.0.0.1:81"),
            (ONLY, &inside, "127.0.0.1:9", lo, "0.0.0.0:0 -> 127.0.0.1:80"),
            (KEEP, &inside, "198.51.100.9:9", "192.0.2.2:8080", "link"),
            (DEFAULT, &inside, "127.0.0.1:9", lo, "link"),
            (ONLY, &RULE, "127.0.0.1:9", "192.0.2.2:8080", "0.0.0.0:0 -> 127.0.0.1:80"),
            (ONLY, &udp, "127.0.0.5:9", "192.0.2.2:8080", "0.0.0.0:9 -> 127.0.0.1:80"),
            (ONLY, &RULE, "[::1]:9", "[2001:db8::2]:8080", "[::]:0 -> [::1]:80"),
            (ONLY, &udp, "127.0.0.1:9", "224.0.0.251:8080", "0.0.0.0:9 -> 224.0.0.251:80"),
            (ONLY, &inside, "127.0.0.1:9", "192.0.2.2:8080", "0.0.0.0:0 -> 127.0.0.1:80"),
            (DEFAULT, &RULE, "127.0.0.1:9", "127.0.0.1:8090", "no rule"),
            (
                DEFAULT,
                &RULE,
                "127.0.0.1:9",
                "[::1]:8080",
                "source and destination of different families",
            ),
        ] {
            assert_eq!(inbound(bypass, rule, peer, local), expected, "{peer} {local}");
        }
    }

    #[test]
    fn without_an_address_of_the_guest_only_loopback_can_be_kept() {
        let unknown = Learned { v4: Ipv4Addr::UNSPECIFIED, v6: None, ..learned() };
        for (peer, local) in [("127.0.0.1:9", "127.0.0.1:8080"), ("[::1]:9", "[::1]:8080")] {
            let go = |bypass| to_namespace(bypass, (&unknown, 3), &RULE, at(peer), at(local));
            assert_eq!(go(DEFAULT), Err(Refused::GuestAddressUnknown));
            assert!(go(ONLY).is_ok_and(|side| side.is_some()));
        }
    }

    #[test]
    fn a_link_local_address_of_the_guest_is_one_on_its_interface() {
        let local = Learned { v6: Some("fe80::5".parse().unwrap()), ..learned() };
        let go = |scope_id| {
            to_namespace(DEFAULT, (&local, scope_id), &RULE, at("[::1]:9"), at("[::1]:8080"))
        };
        let side = go(3).map(|side| side.map(shown));
        assert_eq!(side, Ok(Some("[::]:0 -> [fe80::5%3]:80".to_owned())));
        assert_eq!(go(0), Err(Refused::NoScope));
    }

    #[test]
    fn namespace_to_host_keeps_loopback_addresses_and_forwards_no_others() {
        let udp = Rule { proto: Proto::Udp, ..RULE };
        let elsewhere = Rule { target_addr: Some(ip("127.0.0.5")), ..RULE };
        let link = Rule { target_addr: Some(ip("fe80::9")), ..RULE };
        let away = Rule { target_addr: Some(ip("192.0.2.5")), ..udp };
        let go = |rule: &Rule, peer, local| from_namespace(7, rule, at(peer), at(local)).map(shown);
        for (rule, peer, local, expected) in [
            (&RULE, "127.0.0.1:9", "127.0.0.1:8080", "127.0.0.1:0 -> 127.0.0.1:80"),
            (&RULE, "127.0.0.2:9", "127.0.0.3:8080", "127.0.0.2:0 -> 127.0.0.3:80"),
            (&udp, "[::1]:9", "[::1]:8081", "[::1]:9 -> [::1]:81"),
            (&elsewhere, "127.0.0.1:9", "127.0.0.1:8081", "127.0.0.1:0 -> 127.0.0.5:81"),
            (&away, "127.0.0.1:9", "127.0.0.1:8081", "0.0.0.0:9 -> 192.0.2.5:81"),
            (&link, "[::1]:9", "[::1]:8081", "[::]:0 -> [fe80::9%7]:81"),
        ] {
            assert_eq!(go(rule, peer, local), Ok(expected.to_owned()));
        }
        for (peer, local) in [
            ("192.0.2.2:9", "127.0.0.1:8080"),
            ("127.0.0.1:9", "192.0.2.2:8080"),
            ("[2001:db8::2]:9", "[2001:db8::2]:8080"),
        ] {
            assert_eq!(go(&RULE, peer, local), Err(Refused::NotLoopback));
        }
    }

    #[test]
    fn services_on_the_namespaces_loopback_are_reached_only_on_demand() {
        for (bypass, reached) in
            [(DEFAULT, false), (KEEP, true), (ONLY, true), (Bypass::NONE, false)]
        {
            assert_eq!(bypass.reaches(ip("127.0.0.1")), reached);
            assert_eq!(bypass.reaches(ip("::1")), reached);
            assert!(bypass.reaches(ip("0.0.0.0")) && bypass.reaches(ip("2001:db8::2")));
        }
    }
}
