//! Opens ports of forwarding rules: one, and those that have waited for an address or an interface of the host.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;

use passt_frame::Errno;
use rustix::net::{self as rnet, sockopt};

use super::error::place;
use crate::engine::bypass::{BypassParts, socket_on};
use crate::engine::core::Core;
use crate::engine::listener_id::ListenerId;
use crate::engine::listeners::Listener;
use crate::flow::fwd::{ListenAddr, Outcome, Proto, Rule, RuleId};
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

/// Who else may have a port when we listen on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Who shares it as well (`SO_REUSEADDR`): of UDP, whoever came last gets what is for one.
    Shared,
    /// Nobody. Afterwards sockets of ours do.
    Alone,
    /// The same, for a port that was tried in vain before: no flow of the guest ends for it.
    AloneAgain,
}

/// Listens on one port of a rule, which others may share.
///
/// # Errors
/// What socket(2), bind(2), listen(2) and the calls between them report.
pub(super) fn open_port(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    rule: (Pif, RuleId, &Rule),
    port: u16,
) -> Result<ListenerId, Errno> {
    open_port_for(core, bypass, rule, port, Sharing::Shared)
}

/// Listens on one port of a rule.
///
/// # Errors
/// Those of [`open_port`].
pub(super) fn open_port_for(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    (pif, id, rule): (Pif, RuleId, &Rule),
    port: u16,
    sharing: Sharing,
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
    let to = BindTo {
        address: Endpoint::new(address, port).with_scope(scope),
        interface: rule.interface.as_ref().map(|name| name.as_str()),
        freebind: core.settings.freebind && pif == Pif::Host,
        dual_stack,
    };
    let socket = socket_on(bypass, pif, transport, to.address)?;
    let bind_so = |to: &BindTo<'_>| match sharing {
        Sharing::Shared => socket::bind(socket.as_fd(), to),
        Sharing::Alone | Sharing::AloneAgain => {
            socket::bind_alone(socket.as_fd(), to)?;
            sockopt::set_socket_reuseaddr(&socket, true)
        }
    };
    let may_end = pif == Pif::Host && !tcp && sharing != Sharing::AloneAgain;
    bind(core, bind_so, &to, may_end)?;
    if tcp {
        // What it accepts inherits that.
        sockopt::set_tcp_nodelay(&socket, true)?;
        stream::keep_urgent_inline(socket.as_fd())?;
        stream::lift_unsent_limit(socket.as_fd());
        rnet::listen(&socket, BACKLOG)?;
    } else {
        datagram::report_destination(socket.as_fd(), address.is_ipv4())?;
        if dual_stack && pif == Pif::Host {
            // Where that fails, groups of IPv6 are heard, and what is for one host.
            let _ = datagram::all_v4_groups(socket.as_fd());
        }
        // The first ones of all who begin come here, many at once perhaps.
        let _ = datagram::enlarge(socket.as_fd(), UDP_BUFFER_BYTES);
    }
    let listener = Listener::new(socket, pif, id, (rule.proto, port));
    core.listeners.add(listener.leading_to(leads_to_port(pif, rule, port)))
}

/// The UDP port of the guest that `port` leads to by `rule`, if it is one of the host.
pub(super) fn leads_to_port(pif: Pif, rule: &Rule, port: u16) -> Option<u16> {
    let to_guest = pif == Pif::Host && rule.proto == Proto::Udp;
    to_guest.then(|| rule.target_first.checked_add(port - rule.first)).flatten()
}

/// Binds a listening socket. Where a flow of the guest has the port for itself and the socket `may_end` it, it
/// does: what such flows do is the socket's business from now on. What waits in its queue is lost with it, as datagrams
/// may be, once for each service that appears on a port from which it has talked before; to wait for an empty queue, also
/// with a port that follows services, would keep one closed for as long as somebody writes to it without pause.
fn bind(
    core: &mut Core,
    bind: impl Fn(&BindTo<'_>) -> Result<(), Errno>,
    to: &BindTo<'_>,
    may_end: bool,
) -> Result<(), Errno> {
    let bound = bind(to);
    if bound != Err(Errno::ADDRINUSE) || !may_end {
        return bound;
    }
    let (port, mut ended) = (to.address.port(), false);
    for v4 in [true, false].into_iter().filter(|&v4| v4 == to.address.is_ipv4() || to.dual_stack) {
        while let Some(id) = core.flows.with_port_alone(v4, port) {
            log::debug!("{id:?}: port {port} is forwarded now, closing");
            core.flows.remove(id);
            ended = true;
        }
    }
    if ended { bind(to) } else { bound }
}
