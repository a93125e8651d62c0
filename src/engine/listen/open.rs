//! Opens ports of forwarding rules: one, and those that have waited for an address or an interface of the host.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use passt_frame::Errno;
use rustix::net::{self as rnet, sockopt};

use super::error::place;
use crate::engine::bypass::{BypassParts, socket_on};
use crate::engine::core::Core;
use crate::engine::listener_id::ListenerId;
use crate::engine::listeners::Listener;
use crate::flow::fwd::{ListenAddr, Outcome, Proto, Rule, RuleId};
use crate::flow::scan::PortSet;
use crate::flow::side::{Endpoint, Pif};
use crate::limits::UDP_BUFFER_BYTES;
use crate::sys::datagram;
use crate::sys::errno_text;
use crate::sys::socket::{self, BindTo, Transport};
use crate::sys::stream;

/// Connections that the kernel holds for us until they are accepted: as many as `somaxconn` allows (4096
/// by default), not passt's 128. Where the queue is full SYNs are lost, and who connects waits a second
/// before it tries again; a longer queue costs nothing until it is used.
const BACKLOG: i32 = i32::MAX;

/// Whether what a listening socket lacks may be there later: an address, or an interface.
pub(super) fn may_come(errno: Errno) -> bool {
    matches!(errno, Errno::ADDRNOTAVAIL | Errno::NODEV)
}

/// The host's network has changed: closes sockets whose interface is gone, or is another one of the same name, and opens
/// what has waited for an address or an interface, as far as that can be had now.
pub(in crate::engine) fn recover(core: &mut Core, mut bypass: Option<&mut BypassParts>) {
    let scope = core.net.network.scope_id();
    let stray = |(_, listener): &(ListenerId, &Listener)| {
        let rule = core.net.rules(Pif::Host).get(listener.rule);
        rule.is_some_and(|rule| listener.pif == Pif::Host && is_stray(listener, rule, scope))
    };
    let strays: Vec<ListenerId> = core.listeners.iter().filter(stray).map(|(id, _)| id).collect();
    for id in strays {
        core.listeners.close(id);
        core.awaited += 1;
    }
    if core.awaited == 0 {
        return;
    }
    let open: HashSet<(RuleId, u16)> = core
        .listeners
        .iter()
        .filter(|(_, listener)| listener.pif == Pif::Host)
        .map(|(_, listener)| (listener.rule, listener.port))
        .collect();
    let rules: Vec<(RuleId, Rule)> =
        core.net.rules(Pif::Host).iter().map(|(id, rule)| (id, *rule)).collect();
    core.awaited = 0;
    for (id, rule) in rules.iter().filter(|(_, rule)| !rule.scan) {
        for port in (rule.first..=rule.last).filter(|&port| !open.contains(&(*id, port))) {
            if rule.weak && !core.flows.may_listen(core.listeners.len()) {
                break;
            }
            match open_port(core, bypass.as_deref_mut(), (Pif::Host, *id, rule), port) {
                Ok(_) => log::info!("{}: listening", place(Pif::Host, rule, port)),
                Err(errno) if may_come(errno) => core.awaited += 1,
                Err(errno) if rule.weak => log::debug!("{rule}: {port}: {}", errno_text(errno)),
                Err(errno) => {
                    log::warn!("{}: {}", place(Pif::Host, rule, port), errno_text(errno));
                    core.awaited += 1;
                }
            }
        }
    }
}

/// Whether a socket is bound to an interface that is not the one any more that its rule means.
fn is_stray(listener: &Listener, rule: &Rule, scope: u32) -> bool {
    if let Some(name) = &rule.interface {
        let bound = socket::bound_device(listener.socket.as_fd());
        return bound.as_deref() != Some(name.as_str());
    }
    let link_local = matches!(rule.listen, ListenAddr::V6(v6) if v6.is_unicast_link_local());
    link_local && socket::scope_id(listener.socket.as_fd()) != Some(scope)
}

/// Says which ports of a rule were left out for want of privilege.
pub(super) fn tell_reserved(pif: Pif, rule: &Rule, ports: &[u16]) {
    if let (&[first, ..], &[.., last]) = (ports, ports) {
        log::info!(
            "{pif} {}/{first}-{last}: {} ports are left out, which only the privileged may open: lower \
             net.ipv4.ip_unprivileged_port_start to have them, too",
            rule.proto,
            ports.len()
        );
    }
}

pub(super) fn note_failure(outcome: &mut Outcome, pif: Pif, rule: &Rule, port: u16, errno: Errno) {
    log::debug!("Listen failed for {}: {}", place(pif, rule, port), errno_text(errno));
    match errno {
        Errno::ACCESS | Errno::ADDRNOTAVAIL => outcome.denied += 1,
        _ => outcome.failed += 1,
    }
}

/// Who has asked for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The operator, by its number.
    Named,
    /// Nobody has asked for this very one.
    Any,
    /// The same, for a port that was tried in vain before: no flow of the guest ends for it.
    AnyAgain,
}

/// Listens on one port of a rule.
///
/// # Errors
/// What socket(2), bind(2), listen(2) and the calls between them report.
pub(super) fn open_port(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    rule: (Pif, RuleId, &Rule),
    port: u16,
) -> Result<ListenerId, Errno> {
    let claim = if rule.2.weak { Claim::Any } else { Claim::Named };
    open_port_for(core, bypass, rule, port, (claim, &mut None))
}

/// Listens on one port of a rule. `of_flows` are the UDP ports that flows of ours have on that side, once somebody has
/// looked.
///
/// # Errors
/// Those of [`open_port`].
pub(super) fn open_port_for(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    (pif, id, rule): (Pif, RuleId, &Rule),
    port: u16,
    (claim, of_flows): (Claim, &mut Option<PortSet>),
) -> Result<ListenerId, Errno> {
    let tcp = rule.proto == Proto::Tcp;
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    let (address, dual_stack): (IpAddr, bool) = match rule.listen {
        ListenAddr::Dual => (Ipv6Addr::UNSPECIFIED.into(), true),
        ListenAddr::V4(v4) => (v4.into(), false),
        ListenAddr::V6(v6) => (v6.into(), false),
    };
    // A link-local address is one on the template interface, unless the rule names another.
    let scope = match rule.interface {
        None if pif == Pif::Host => core.net.network.scope_id(),
        _ => 0,
    };
    let interface = rule.interface.as_ref().map(|name| name.as_str());
    let to = BindTo {
        freebind: core.settings.freebind && pif == Pif::Host,
        dual_stack,
        ..BindTo::to(Endpoint::new(address, port).with_scope(scope)).on(interface)
    };
    let mut bypass = bypass;
    let socket = socket_on(bypass.as_deref_mut(), pif, transport, to.address)?;
    if tcp {
        socket::bind(socket.as_fd(), &to)?;
        // What it accepts inherits that.
        sockopt::set_tcp_nodelay(&socket, true)?;
        stream::keep_urgent_inline(socket.as_fd())?;
        stream::lift_unsent_limit(socket.as_fd());
        rnet::listen(&socket, BACKLOG)?;
    } else {
        let others = bind_datagrams(core, bypass, (socket.as_fd(), &to), pif, (claim, of_flows))?;
        if others == Others::ShareIt {
            log::warn!(
                "{}: another program has it, too, and may get what is for us, but for groups; end it if the port is not one \
                 of groups, or choose another one",
                place(pif, rule, port)
            );
        }
        datagram::report_destination(socket.as_fd(), address.is_ipv4())?;
        if dual_stack && pif == Pif::Host {
            // If this fails, IPv4 groups are not received; unicast and IPv6 still work.
            let _ = datagram::all_v4_groups(socket.as_fd());
        }
        // The first datagrams of all flows come here, perhaps many at once.
        let _ = datagram::enlarge(socket.as_fd(), UDP_BUFFER_BYTES);
    }
    let listener = Listener::new(socket, (pif, id), (rule.listen, rule.proto, port));
    core.listeners.add(listener.leading_to(leads_to_port(pif, rule, port)))
}

/// The UDP port of the guest that `port` leads to by `rule`, if it is one of the host.
pub(super) fn leads_to_port(pif: Pif, rule: &Rule, port: u16) -> Option<u16> {
    let to_guest = pif == Pif::Host && rule.proto == Proto::Udp;
    to_guest.then(|| rule.target_first.checked_add(port - rule.first)).flatten()
}

/// Whether programs of others have a port of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    /// Nobody has it, and nobody gets it.
    HaveNone,
    /// As far as they share it: the kernel gives unicast to the socket that was bound last, or whose address fits better.
    ShareIt,
}

/// Binds a UDP socket that listens. It has its port alone: with `SO_REUSEADDR`, any user of the host could bind to it, too,
/// and get what is for the guest. Flows of ours that have it go on, and new ones are let in ([`socket::sharing`]); one that
/// has it alone ends ([`end_flows_alone`]).
///
/// Programs that receive for groups share their port, with each other and with us (mDNS, SSDP). Where one has it already, a
/// port that was named by the operator is shared, as far as that can be. Otherwise who has it keeps it.
///
/// # Errors
/// What setsockopt(2) and bind(2) report.
fn bind_datagrams(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    (socket, to): (BorrowedFd<'_>, &BindTo<'_>),
    pif: Pif,
    (claim, of_flows): (Claim, &mut Option<PortSet>),
) -> Result<Others, Errno> {
    let mut bound = socket::bind_alone(socket, to);
    if bound == Err(Errno::ADDRINUSE)
        && pif == Pif::Host
        && claim != Claim::AnyAgain
        && end_flows_alone(core, to)
    {
        bound = socket::bind_again(socket, to, false);
    }
    let port = to.address.port();
    let others = match bound {
        Ok(()) => Others::HaveNone,
        Err(Errno::ADDRINUSE) => {
            let of_flows = of_flows.get_or_insert_with(|| ports_of_flows(core, pif));
            let ours = of_flows.contains(port) && !others_have(bypass, pif, to);
            if !ours && claim != Claim::Named {
                return Err(Errno::ADDRINUSE);
            }
            socket::bind_again(socket, to, true)?;
            if ours { Others::HaveNone } else { Others::ShareIt }
        }
        Err(errno) => return Err(errno),
    };
    socket::share(socket, others == Others::ShareIt || !socket::can_lend_ports())?;
    Ok(others)
}

/// Ends flows of the guest that have the port of a listening socket for themselves. What such flows do is the socket's
/// business from now on. What waits in their queues is lost with it, as datagrams may
/// be, once for each service that appears on a port from which it has talked before; to wait for an empty queue, also
/// with a port that follows services, would keep one closed for as long as somebody writes to it without pause.
fn end_flows_alone(core: &mut Core, to: &BindTo<'_>) -> bool {
    let (port, mut ended) = (to.address.port(), false);
    for v4 in [true, false].into_iter().filter(|&v4| v4 == to.address.is_ipv4() || to.dual_stack) {
        while let Some(id) = core.flows.with_port_alone(v4, port) {
            log::debug!("{id:?}: port {port} is forwarded now, closing");
            core.flows.remove(id);
            ended = true;
        }
    }
    ended
}

/// UDP ports of a side that flows of ours have.
fn ports_of_flows(core: &Core, pif: Pif) -> PortSet {
    let mut ports = PortSet::default();
    for flow in core.flows.table.ids().filter_map(|id| core.flows.table.get(id)) {
        if flow.state.kind.datagrams().is_some() {
            let ours = flow.sides.iter().filter(|side| side.pif == pif);
            ours.for_each(|side| ports.insert(side.ours.port()));
        }
    }
    ports
}

/// Whether a program has a UDP port of a side for all addresses that `to` means: then it has it for one of the machine's
/// own, too, which flows of ours have not. For IPv6 alone that is one of the prefix that leads nowhere (RFC 6666): our own
/// socket of IPv4, where there is one, is nobody else's.
fn others_have(bypass: Option<&mut BypassParts>, pif: Pif, to: &BindTo<'_>) -> bool {
    let v6_alone = to.address.is_ipv6() && !to.dual_stack;
    let own: IpAddr = match v6_alone {
        true => Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0xfd).into(),
        false => Ipv4Addr::new(127, 255, 255, 253).into(),
    };
    let address = SocketAddr::new(own, to.address.port());
    let to = BindTo { freebind: v6_alone, ..BindTo::to(address) };
    let bound = socket_on(bypass, pif, Transport::Udp, address)
        .and_then(|socket| socket::bind_alone(socket.as_fd(), &to));
    bound == Err(Errno::ADDRINUSE)
}
