//! ICMP errors for the guest, as a router would send them: where the host's kernel says at once, or when a connection
//! fails, that a packet cannot get where it is to go, and where the operator's rules reject it. The packet is quoted as
//! far as RFC 1812, section 4.3.2.3, and RFC 4443, section 2.4 (c), allow. What the network says of the sockets of
//! datagrams is in [`datagrams`](super::datagrams).
//!
//! | what the host says | IPv4 (RFC 792, RFC 1812) | IPv6 (RFC 4443) |
//! |---|---|---|
//! | `ENETUNREACH`, `ENETDOWN` | 3, 0: network unreachable | 1, 0: no route |
//! | `EADDRNOTAVAIL`, as no interface has an address of IPv6 to send from | | 1, 0: no route |
//! | `EHOSTUNREACH`, `EHOSTDOWN` | 3, 1: host unreachable | 1, 3: address unreachable |
//! | `EACCES`, `EPERM`; a rule rejects it | 3, 13: prohibited | 1, 1: prohibited |
//! | `EMSGSIZE` | 3, 4: fragmentation needed, with the MTU | 2, 0: packet too big, with the MTU |
//! | a protocol that is not translated | 3, 2: protocol unreachable | 4, 1: unrecognized next header, with its place |
//! | a port of this host that is the guest's own | 3, 3: port unreachable | 1, 4: port unreachable |
//!
//! `ECONNREFUSED` of a connection is a reset, and `ETIMEDOUT` nothing: the guest's own patience ends, too.
//!
//! All errors to the guest have one budget, and none is about a packet to a group (RFC 1122, section 3.2.2).

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use passt_frame::{Errno, FromGuestLease, Part, ToGuest};

use super::core::Core;
use super::net::Net;
use crate::flow::fwd::is_one_host;
use crate::flow::side::Side;
use crate::sys::{group, socket};
use crate::wire::build::{HeaderTemplate, L4Checksum};
use crate::wire::icmp_translation::{IcmpError, v4, v6};
use crate::wire::ip::{self, IpHead, L4Protocol};
use crate::wire::tcp::{Flags, Header};
use crate::wire::{DropReason, Packet, SeqNr, eth};

/// Most bytes of an ICMP error with what it quotes: RFC 1812 has packets of 576 bytes at most, RFC 4443 of 1,280.
pub(super) const MESSAGE_BYTES: [usize; 2] = [576 - 20, 1280 - 40];
/// Bytes in front of what is quoted.
pub(super) const ICMP_HEADER_BYTES: usize = 8;

/// An ICMP error with what it quotes.
pub(super) type Message = ArrayVec<u8, { MESSAGE_BYTES[1] }>;

/// Why the host does not take a packet, in words that ICMP has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// There is no route.
    Network,
    /// There is one, and nobody at its end.
    Host,
    /// It is forbidden.
    Prohibited,
    /// The packet may not be cut and is larger than this, in bytes.
    Narrow(u32),
    /// Its protocol is not translated; this byte of the packet names it.
    Protocol(u32),
    /// Nobody has the port.
    Port,
}

impl Unreachable {
    /// What an error number says of it; [`Narrow`](Self::Narrow) needs more than that.
    pub(crate) fn of(errno: Errno) -> Option<Self> {
        match errno {
            Errno::NETUNREACH | Errno::NETDOWN => Some(Self::Network),
            Errno::HOSTUNREACH | Errno::HOSTDOWN => Some(Self::Host),
            Errno::ACCESS | Errno::PERM => Some(Self::Prohibited),
            _ => None,
        }
    }

    /// The same of what has been counted, with the MTU of the path of what was too large.
    fn of_drop(reason: DropReason, mtu: Option<u32>) -> Option<Self> {
        match reason {
            DropReason::TooLarge => mtu.map(Self::Narrow),
            DropReason::NoRoute => Some(Self::Network),
            DropReason::HostUnreachable => Some(Self::Host),
            DropReason::Prohibited | DropReason::EgressRejected => Some(Self::Prohibited),
            DropReason::OwnDatagram => Some(Self::Port),
            _ => None,
        }
    }

    /// The name under which it is counted.
    fn reason(self) -> DropReason {
        match self {
            Self::Network => DropReason::NoRoute,
            Self::Host => DropReason::HostUnreachable,
            Self::Prohibited => DropReason::Prohibited,
            Self::Narrow(_) => DropReason::TooLarge,
            Self::Protocol(_) => DropReason::UnknownProtocol,
            Self::Port => DropReason::OwnDatagram,
        }
    }

    /// The error in the words of IPv4 (`v4`) or IPv6.
    pub(crate) fn icmp(self, v4: bool) -> IcmpError {
        let error = |kind, code| IcmpError { kind, code, mtu: 0 };
        match (self, v4) {
            (Self::Network, true) => error(v4::UNREACHABLE, v4::NETWORK),
            (Self::Network, false) => error(v6::UNREACHABLE, v6::NO_ROUTE),
            (Self::Host, true) => error(v4::UNREACHABLE, v4::HOST),
            (Self::Host, false) => error(v6::UNREACHABLE, v6::ADDRESS),
            (Self::Prohibited, true) => error(v4::UNREACHABLE, v4::PROHIBITED),
            (Self::Prohibited, false) => error(v6::UNREACHABLE, v6::PROHIBITED),
            (Self::Narrow(mtu), true) => {
                IcmpError { mtu, ..error(v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED) }
            }
            (Self::Narrow(mtu), false) => IcmpError { mtu, ..error(v6::TOO_BIG, 0) },
            (Self::Protocol(_), true) => error(v4::UNREACHABLE, v4::PROTOCOL),
            (Self::Protocol(at), false) => {
                IcmpError { mtu: at, ..error(v6::PARAMETER, v6::UNRECOGNIZED_NEXT_HEADER) }
            }
            (Self::Port, true) => error(v4::UNREACHABLE, v4::PORT),
            (Self::Port, false) => error(v6::UNREACHABLE, v6::PORT),
        }
    }
}

/// The reason for which what failed with `errno` is counted: one of which the guest can be told, or else `otherwise`.
pub(crate) fn reason_of(errno: Errno, otherwise: DropReason) -> DropReason {
    match errno {
        Errno::MSGSIZE => DropReason::TooLarge,
        errno => Unreachable::of(errno).map_or(otherwise, Unreachable::reason),
    }
}

/// The reason for which a flow is counted whose socket could not be opened.
pub(crate) fn reason_of_opening(errno: Errno) -> DropReason {
    match errno {
        Errno::MFILE | Errno::NFILE => DropReason::DescriptorsExhausted,
        Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC => DropReason::MemoryExhausted,
        // bind(2) of port 0, connect(2) of TCP and that of UDP where all ports are taken.
        Errno::ADDRINUSE | Errno::ADDRNOTAVAIL | Errno::AGAIN => DropReason::NoLocalPort,
        errno => reason_of(errno, DropReason::SocketFailed),
    }
}

/// The same of one that the guest begins from `source` toward `destination`, by `device`. To a host without addresses of
/// IPv6 (`disable_ipv6`) everything is without a route, but where not even loopback has one, that is the same error as
/// that all ports are taken.
pub(crate) fn reason_of_connecting(
    errno: Errno,
    (source, destination): (SocketAddr, SocketAddr),
    device: Option<&str>,
) -> DropReason {
    let may_lack_address = finds_no_source(errno, source.ip());
    let without_port = || group::source_toward(destination, device, 0);
    if may_lack_address && without_port() == Err(Errno::ADDRNOTAVAIL) {
        return DropReason::NoRoute;
    }
    reason_of_binding(errno, source)
}

/// The same of one that is bound to `source`. That the host does not have the address that the operator names for it is the
/// same error as that all ports are taken.
pub(crate) fn reason_of_binding(errno: Errno, source: SocketAddr) -> DropReason {
    let is_named = !source.ip().is_unspecified();
    if errno == Errno::ADDRNOTAVAIL && is_named && socket::is_foreign(source) {
        return DropReason::NoOutboundAddress;
    }
    reason_of_opening(errno)
}

/// The reason for which a datagram is counted that could not be sent from `source`.
pub(crate) fn reason_of_sending(errno: Errno, source: IpAddr) -> DropReason {
    // Its socket has a port already.
    if finds_no_source(errno, source) {
        return DropReason::NoRoute;
    }
    reason_of(errno, DropReason::SendFailed)
}

/// Whether the kernel, which was to choose the address in place of `source`, may have found none. For IPv4 it finds no route
/// then.
fn finds_no_source(errno: Errno, source: IpAddr) -> bool {
    errno == Errno::ADDRNOTAVAIL && source.is_ipv6() && source.is_unspecified()
}

/// Tells the guest why its packet in frame `index` was dropped for `reason`, if that is of the network's making.
/// Where a packet was too large, `mtu` is what its path takes.
pub(super) fn tell_of_frame(
    core: &mut Core,
    out: &mut dyn ToGuest,
    lease: &mut FromGuestLease<'_>,
    index: usize,
    (reason, mtu): (DropReason, Option<u32>),
) {
    if Unreachable::of_drop(reason, mtu).is_none() {
        return;
    }
    let frame = &lease.frames()[index];
    let Ok(Packet::Ip(ip)) = ip::parse(frame.head(), frame.len) else { return };
    let start = ip::ip_offset(frame.head());
    let len = (ip.l4_offset - start) as u32 + ip.l4_len;
    let Some(why) = Unreachable::of_drop(reason, mtu.filter(|&mtu| mtu < len)) else { return };
    if is_reset(ip.protocol, reason) {
        return;
    }
    let part = Part { frame: index, offset: start as u32, len };
    tell_quoting(core, out, (ip.source, ip.destination), why, (lease, part));
}

/// Tells the guest that the protocol of its packet in frame `index` is not translated: whoever waits for an answer fails
/// at once.
pub(super) fn tell_of_protocol(
    core: &mut Core,
    out: &mut dyn ToGuest,
    lease: &mut FromGuestLease<'_>,
    index: usize,
) {
    let frame = &lease.frames()[index];
    let Some(packet) = ip::untranslated(frame.head(), frame.len) else { return };
    let ends = (packet.source, packet.destination);
    if core.net.check(ends.0, ends.1).is_err() {
        return;
    }
    let part = Part { frame: index, offset: packet.offset as u32, len: packet.len };
    tell_quoting(core, out, ends, Unreachable::Protocol(packet.named_at), (lease, part));
}

/// Sends the error `why` about a packet of `ends` to us, the beginning of which `part` is quoted.
fn tell_quoting(
    core: &mut Core,
    out: &mut dyn ToGuest,
    ends: (IpAddr, IpAddr),
    why: Unreachable,
    (lease, part): (&mut FromGuestLease<'_>, Part),
) {
    let mut quoted = [0; MESSAGE_BYTES[1] - ICMP_HEADER_BYTES];
    let copied = lease.copy_out(part, &mut quoted);
    tell(core, out, ends, why, &[&quoted[..copied]]);
}

/// The same of a packet that is not in one frame: `l4` is what is behind its IP header.
pub(super) fn tell_of_packet(
    core: &mut Core,
    out: &mut dyn ToGuest,
    (ip, l4): (&IpHead, &[u8]),
    reason: DropReason,
) {
    let Some(why) = Unreachable::of_drop(reason, None) else { return };
    if is_reset(ip.protocol, reason) {
        return;
    }
    let (from, to) = (SocketAddr::new(ip.source, 0), SocketAddr::new(ip.destination, 0));
    let template = HeaderTemplate::new(core.net.macs(), from, to, ip.protocol, ip.flow_label);
    let header = template.l3(l4.len() as u32);
    tell(core, out, (ip.source, ip.destination), why, &[&header[eth::HEADER_BYTES..], l4]);
}

/// Whether the guest is told of it by a reset instead: of a connection that the operator's rules reject.
fn is_reset(protocol: L4Protocol, reason: DropReason) -> bool {
    protocol == L4Protocol::Tcp && reason == DropReason::EgressRejected
}

/// Tells the guest that its connection cannot be made: a segment that opens it, with the sequence number `isn`, is
/// quoted. The error is that of `offender`, about a packet to `peer`; or of the host, which has no name for itself.
pub(super) fn tell_of_connection(
    core: &mut Core,
    out: &mut dyn ToGuest,
    (side, isn): (&Side, SeqNr),
    peer: IpAddr,
    (error, offender): (IcmpError, Option<IpAddr>),
) {
    let Some((from, error)) = from_offender(&core.net, (side.ours.ip(), peer), error, offender)
    else {
        core.outbox.drops.count(DropReason::UntranslatableError);
        return;
    };
    let (guest, remote) = (side.endpoint.with_scope(0), side.ours.with_scope(0));
    let template = HeaderTemplate::new(core.net.macs(), guest, remote, L4Protocol::Tcp, 0);
    let (ack, window) = (SeqNr(0), 0);
    let (mss, window_scale) = (None, None);
    let syn = Header { seq: isn, ack, flags: Flags::SYN, window, mss, window_scale };
    let quoted = template.tcp(&syn, 0, L4Checksum::Complete { payload_sum: 0 });
    send(core, out, (from, guest.ip()), error, &[&quoted[eth::HEADER_BYTES..]]);
}

/// Sends the error `why` about a packet from `source` to `destination`, which was sent to us.
fn tell(
    core: &mut Core,
    out: &mut dyn ToGuest,
    (source, destination): (IpAddr, IpAddr),
    why: Unreachable,
    quoted: &[&[u8]],
) {
    // RFC 4443, section 2.4 (e.3): of its width a path to a group is told.
    let told = source.is_ipv6() && matches!(why, Unreachable::Narrow(_));
    let to_all = !is_one_host(destination) && !told;
    if to_all || !is_one_host(source) {
        return;
    }
    let from = match why {
        Unreachable::Port => destination,
        _ => router(&core.net, destination),
    };
    send(core, out, (from, source), why.icmp(source.is_ipv4()), quoted);
}

/// Whom errors of the host come from: the gateway, or whoever the guest has asked if it has none.
fn router(net: &Net, destination: IpAddr) -> IpAddr {
    let ours = net.our_link_local().filter(|_| destination.is_ipv6());
    net.network.gateway_for(destination).or(ours).unwrap_or(destination)
}

/// What the guest is told of an error of `offender` to a packet to `peer`, which is `ours` to the guest, and by whom.
/// An offender that means nothing to the guest is the host itself.
pub(super) fn from_offender(
    net: &Net,
    (ours, peer): (IpAddr, IpAddr),
    error: IcmpError,
    offender: Option<IpAddr>,
) -> Option<(IpAddr, IcmpError)> {
    if peer.is_ipv4() != ours.is_ipv4() {
        return Some((ours, error.translated(peer.is_ipv4())?));
    }
    let from = match offender {
        Some(offender) if offender == peer => ours,
        Some(offender) => net.source_for_guest(offender).unwrap_or_else(|| router(net, ours)),
        None => router(net, ours),
    };
    (from.is_ipv4() == ours.is_ipv4()).then_some((from, error))
}

/// Sends an error of `ends.0` to the guest's address `ends.1`, with as much of what is `quoted` as may be. It is
/// dropped, and counted, when there were too many.
pub(super) fn send(
    core: &mut Core,
    out: &mut dyn ToGuest,
    ends: (IpAddr, IpAddr),
    error: IcmpError,
    quoted: &[&[u8]],
) {
    if !core.icmp_errors.take(core.now) {
        core.outbox.drops.count(DropReason::ErrorLimited);
        return;
    }
    let (from, to) = ends;
    let v4 = to.is_ipv4();
    let mut message = Message::new();
    message.extend([error.kind, error.code, 0, 0]);
    message.extend(mtu_field(v4, error).to_be_bytes());
    for part in quoted {
        let room = MESSAGE_BYTES[usize::from(!v4)] - message.len();
        message.extend(part[..part.len().min(room)].iter().copied());
    }
    log::trace!("to guest: ICMP error of {from}, type {}, code {}", error.kind, error.code);
    let macs = core.net.macs_between(from, to);
    let (from, to) = (SocketAddr::new(from, 0), SocketAddr::new(to, 0));
    core.outbox.icmp(out, macs, from, to, &mut message);
}

/// The four bytes behind the checksum: the MTU or the place of the problem where the type has one, else zero.
fn mtu_field(v4: bool, error: IcmpError) -> u32 {
    match (v4, error.kind, error.code) {
        (true, v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED) => error.mtu & 0xffff,
        (false, v6::TOO_BIG | v6::PARAMETER, _) => error.mtu,
        _ => 0,
    }
}
