//! Groups: what the guest has joined is received for it on the network of the host, and it is asked what it wants, as
//! a multicast router asks (RFC 3376, RFC 3810) that forwards to one link what it receives as a host.
//!
//! # Receiving
//! For each port of a joined group ([`crate::flow::groups`] has which) there is a socket that is bound to the group's address: it gets what
//! is for the group and nothing else, whoever of the host has the port, provided that they let others share it
//! (`SO_REUSEADDR`), as all programs for groups do. It is a member on the interface that the guest's network is modelled
//! on. The guest gets each datagram as it was sent: from its sender, to the group. What this host itself sends comes
//! from the address that stands for the host. On UDP ports that are forwarded the listening sockets receive, as they
//! do for groups of the host's own; somebody must be a member for them.
//!
//! Whoever may write to a group that the guest has joined reaches it: that is what joining means, and the guest's kernel
//! lets it in only where a program has joined, too. Not so if the policy forbids the guest the group.
//!
//! # Sending
//! What the guest sends to a group from the port that it receives on leaves by the socket that receives: so it has that
//! port on the network, even where programs of the host have it, too. Answers of mDNS are ignored that come from another one
//! (RFC 6762, section 6). Who answers the guest alone writes to that port, too: it has a flow with anybody beside
//! (`anybody::hear_answers`). Everything else leaves by the flow of its port, and whoever answers is let in there
//! (`anybody`). The kernel hands what is sent to members on this host, which are to hear it; the guest's own
//! sockets do, too, so what comes back is recognised and dropped.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use arrayvec::ArrayVec;
use passt_frame::{Errno, FromGuestLease, Part, ToGuest};
use rustix::event::epoll::EventFlags;

use crate::engine::core::Core;
use crate::engine::datagram_socket::Beside;
use crate::engine::flows::GROUP_TIMER;
use crate::engine::groups::Receiver;
use crate::engine::state::{DatagramState, FlowKind, FlowState};
use crate::flow::groups::{
    self, Due, KNOWN_BY_BYTES, News, OwnDatagrams, QUERY_INTERVAL, STARTUP_INTERVAL,
};
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::table::FlowId;
use crate::limits::{
    GROUP_PORTS_NOTED, GROUP_SOCKETS, MAX_GROUP_PORTS, MAX_GROUPS, MAX_REPORT_BYTES,
    UDP_BUFFER_BYTES,
};
use crate::sys::socket::{self, BindTo, Transport, is_of_this_host};
use crate::sys::{datagram, group};
use crate::time::Timestamp;
use crate::wire::DropReason;
use crate::wire::ip::{IgmpHead, IpHead, L4Protocol};
use crate::wire::membership::{self, ROBUSTNESS, Told};

/// Ports on which a group is received: two of services at most.
type Ports = ArrayVec<u16, { 2 + GROUP_PORTS_NOTED + MAX_GROUP_PORTS }>;

/// The link can reach the guest: its stations are asked what they want.
pub(in crate::engine) fn begin(core: &mut Core, out: &mut dyn ToGuest) {
    core.groups.linked = true;
    ask_from_now_on(core);
    on_timer(core, out);
}

/// The link is gone: another guest wants other groups.
pub(in crate::engine) fn end(core: &mut Core) {
    core.groups.linked = false;
    leave_all(core);
}

fn leave_all(core: &mut Core) {
    core.groups.next_query = None;
    core.groups.members.clear();
    close(core, |_| true);
    core.groups.holders.clear();
}

fn ask_from_now_on(core: &mut Core) {
    core.groups.queries = 0;
    core.groups.next_query = Some(core.now);
    schedule(core);
}

/// Another view of the network is in force.
pub(in crate::engine) fn refresh(core: &mut Core) {
    let stale: ArrayVec<Receiver, GROUP_SOCKETS> =
        core.groups.receivers.iter().filter(|one| !stays(core, one)).copied().collect();
    for one in stale {
        close(core, |other| other.flow == one.flow);
    }
    core.groups.holders.clear();
    if !is_on(core) {
        return leave_all(core);
    }
    if core.groups.linked && core.groups.next_query.is_none() {
        ask_from_now_on(core);
    }
    let groups: ArrayVec<IpAddr, MAX_GROUPS> = core.groups.members.groups().collect();
    for group in groups {
        receive(core, group);
    }
}

/// Whether a socket is what a new one would be.
fn stays(core: &Core, one: &Receiver) -> bool {
    let flow = core.flows.table.get(one.flow);
    let to = flow.and_then(|flow| flow.state.kind.datagrams()).and_then(|state| state.to);
    core.net.group_on_host(one.group).ok() == to
        && core.net.map.group_interface(one.group.ip()) == one.interface
}

fn is_on(core: &Core) -> bool {
    let services = &core.net.network.services;
    services.multicast && services.udp
}

/// An IGMP message of the guest.
pub(in crate::engine) fn igmp_from_guest(
    core: &mut Core,
    lease: &mut FromGuestLease<'_>,
    frame: usize,
    head: &IgmpHead,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let part = Part { frame, offset: head.offset as u32, len: head.len };
    from_guest(core, lease, part, out, |message, visit| membership::read_igmp(message, visit))
}

/// An MLD message of the guest.
pub(in crate::engine) fn mld_from_guest(
    core: &mut Core,
    lease: &mut FromGuestLease<'_>,
    frame: usize,
    ip: &IpHead,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let part = Part { frame, offset: ip.l4_offset as u32, len: ip.l4_len };
    from_guest(core, lease, part, out, |message, visit| membership::read_mld(message, visit))
}

fn from_guest(
    core: &mut Core,
    lease: &mut FromGuestLease<'_>,
    part: Part,
    out: &mut dyn ToGuest,
    read: impl FnOnce(&[u8], &mut dyn FnMut(Told)) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    if !is_on(core) {
        return Err(DropReason::MulticastDisabled);
    }
    let mut message = [0; MAX_REPORT_BYTES];
    let whole = part.len as usize <= message.len();
    let len = part.len.min(message.len() as u32);
    let copied = lease.copy_out(Part { len, ..part }, &mut message);
    let done = read(&message[..copied], &mut |told| heed(core, out, told));
    schedule(core);
    // What comes first in one that is longer counts.
    if whole { done } else { Err(DropReason::TooLarge) }
}

/// A station of the guest has said something of a group.
fn heed(core: &mut Core, out: &mut dyn ToGuest, Told { group, wanted }: Told) {
    if !groups::leads_beyond(group) {
        return;
    }
    let members = &mut core.groups.members;
    let news = match wanted {
        true if !members.has(group) && !core.groups.joins.take(core.now) => News::TooMany,
        true => members.wanted(group, core.now),
        false => members.left(group, core.now),
    };
    match news {
        News::Joined => {
            log::debug!("group {group}: joined by the guest");
            receive(core, group);
        }
        // Its ports may be others now, and what could not be had before may be had.
        News::Stays if wanted => receive(core, group),
        News::Ask => ask(core, out, group.is_ipv4(), Some(group)),
        News::TooMany => core.outbox.drops.count(DropReason::TooManyGroups),
        News::Stays | News::Unknown => {}
    }
}

/// Time to ask, or for a group to end.
pub(in crate::engine) fn on_timer(core: &mut Core, out: &mut dyn ToGuest) {
    while let Some(due) = core.groups.members.due(core.now) {
        match due {
            Due::Over(group) => {
                log::debug!("group {group}: left by the guest");
                close(core, |one| one.group.ip() == group);
                core.groups.holders.retain(|(other, _)| *other != group);
            }
            Due::Ask(group) => ask(core, out, group.is_ipv4(), Some(group)),
        }
    }
    if is_on(core) && core.groups.next_query.is_some_and(|at| at <= core.now) {
        for v4 in [true, false] {
            ask(core, out, v4, None);
        }
        let groups = &mut core.groups;
        groups.queries = groups.queries.saturating_add(1);
        let pause = if groups.queries < ROBUSTNESS { STARTUP_INTERVAL } else { QUERY_INTERVAL };
        groups.next_query = Some(core.now + pause);
    }
    schedule(core);
}

fn schedule(core: &mut Core) {
    let next = [core.groups.members.next(), core.groups.next_query].into_iter().flatten().min();
    if let Some(at) = next.filter(|_| is_on(core)) {
        core.flows.timers.set(GROUP_TIMER, at);
    }
}

/// Asks who wants `group`, or what is wanted at all.
fn ask(core: &mut Core, out: &mut dyn ToGuest, v4: bool, group: Option<IpAddr>) {
    let network = &core.net.network;
    let source = match v4 {
        // Without a gateway we have no address.
        true => network.v4.as_ref().map(|v4| v4.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED).into()),
        false => core.net.our_link_local(),
    };
    let Some(source) = source.filter(|_| out.caps().up) else { return };
    let macs = (network.our_mac, core.net.mac_of(group.unwrap_or(membership::all(v4))));
    core.outbox.send(out, &membership::query(macs, source, group), &[]);
}

/// Receives what is for `group` on all its ports.
fn receive(core: &mut Core, group: IpAddr) {
    let flows = &core.flows.table;
    core.groups.receivers.retain(|one| flows.get(one.flow).is_some());
    let services = groups::service_ports(group).iter().copied();
    let mut ports: Ports = services.collect();
    ports.extend(core.groups.sent_to.ports(group));
    ports.extend(core.net.map.group_ports.iter().copied());
    for port in ports {
        open_counted(core, SocketAddr::new(group, port));
    }
    if let Err(errno) = hold(core, group) {
        log::debug!("group {group}: {errno}");
    }
}

/// Receives on one more port of a group. Why not, if not, is counted.
fn open_counted(core: &mut Core, group: SocketAddr) {
    if core.groups.receiver(group.ip(), group.port()).is_some() {
        return;
    }
    if let Err(reason) = open(core, group) {
        log::debug!("group {group}: {}", reason.name());
        core.outbox.drops.count(reason);
    }
}

fn open(core: &mut Core, group: SocketAddr) -> Result<(), DropReason> {
    let real = core.net.group_on_host(group)?;
    if core.groups.receivers.is_full() {
        return Err(DropReason::TooManyGroups);
    }
    core.make_datagram_room(Pif::Tap, 1)?;
    let interface = core.net.map.group_interface(group.ip());
    let owner = core.flows.with_anybody_at(group.is_ipv4(), group.port());
    let owner = owner.and_then(|id| core.flows.table.get(id)).map(|flow| flow.state.fd());
    let beside = Beside::on_host(owner, &core.listeners);
    let socket = receiving(real, interface, beside).map_err(|errno| {
        log::debug!("UDP socket for {group}: {errno}");
        if errno == Errno::ADDRINUSE && !std::mem::replace(&mut core.groups.told_of_taken, true) {
            log::warn!(
                "UDP port {} is taken by a program that does not share it: the guest does not receive what is sent \
                 to {}; have that program set SO_REUSEADDR, or end it",
                group.port(),
                group.ip()
            );
        }
        DropReason::SocketFailed
    })?;
    let mut state = DatagramState::new(core.now);
    state.to = Some(real);
    let state = FlowState::new(socket, core.net.epoch(), core.now, FlowKind::Udp(state));
    let end = Endpoint::from(group);
    let sides = [Pif::Tap, Pif::Host].map(|pif| Side { pif, ours: end, endpoint: end });
    let id = core.flows.add(sides, L4Protocol::Udp, state, EventFlags::IN)?;
    core.flows.keep(id);
    log::debug!("{id:?} (UDP flow): receives for group {group}");
    core.groups.receivers.push(Receiver { group, interface, flow: id });
    Ok(())
}

/// A socket that receives for `group` and sends to it. It shares its port with all programs that share it, and with the
/// sockets that it is `beside`.
fn receiving(group: SocketAddr, interface: u32, beside: Beside<'_>) -> Result<OwnedFd, Errno> {
    let v4 = group.is_ipv4();
    let socket = socket::create(Transport::Udp, group.ip())?;
    let fd = socket.as_fd();
    // Older kernels deliver what others of the host have joined on other interfaces, too.
    let _ = datagram::own_groups_only(fd, v4);
    let _ = datagram::enlarge(fd, UDP_BUFFER_BYTES);
    let to = BindTo::to(group);
    beside.bind(fd, group.port(), || socket::bind(fd, &to))?;
    group::join(fd, group.ip(), interface)?;
    if interface != 0 {
        group::leave_by(fd, v4, interface)?;
    }
    Ok(socket)
}

/// Makes sure that the host is a member of `group` where listening sockets may get something for it.
fn hold(core: &mut Core, group: IpAddr) -> Result<(), Errno> {
    let received = core.groups.receivers.iter().any(|one| one.group.ip() == group);
    let held = core.groups.holders.iter().any(|(other, _)| *other == group);
    let wanted = core.listeners.lead_anywhere() && !core.groups.holders.is_full();
    let allowed = core.net.group_on_host(SocketAddr::new(group, 1)).is_ok();
    if received || held || !wanted || !allowed || core.check_room().is_err() {
        return Ok(());
    }
    let socket = socket::create(Transport::Udp, group)?;
    group::join(socket.as_fd(), group, core.net.map.group_interface(group))?;
    core.groups.holders.push((group, socket));
    Ok(())
}

/// Closes the receivers that match `meant`.
fn close(core: &mut Core, meant: impl Fn(&Receiver) -> bool) {
    let flows = &mut core.flows;
    core.groups.receivers.retain(|one| {
        let over = meant(one);
        if over {
            let (id, group) = (one.flow, one.group);
            log::debug!("{id:?}: {group} is received no more, closing");
            flows.remove(id);
        }
        !over
    });
}

/// The guest sends to a port of a group: if it has joined that, it is likely to receive there, too.
pub(super) fn sends_to(core: &mut Core, to: SocketAddr) {
    if core.groups.sent_to.note(to) && core.groups.members.has(to.ip()) {
        open_counted(core, to);
    }
}

/// The flow by which leaves what the guest sends as `side` from the port on which it receives. Not so if the operator
/// names the address that packets come from: the kernel chooses it here.
pub(super) fn sender(core: &Core, side: &Side) -> Option<FlowId> {
    let (group, port) = (side.ours.ip(), side.ours.port());
    if side.endpoint.port() != port || !group.is_multicast() || core.net.map.has_source(group) {
        return None;
    }
    core.groups.receiver(group, port)
}

/// Whether a flow with these sides, toward the guest and toward the host, is one that receives for a group.
pub(super) fn is_receiver(guest: &Side, host: &Side) -> bool {
    host.endpoint.ip().is_multicast() && guest.endpoint == host.endpoint
}

/// Notes what the guest sends to a group, in datagrams of `size` bytes each.
pub(super) fn note_own(
    core: &mut Core,
    lease: &mut FromGuestLease<'_>,
    to: Endpoint,
    part: Part,
    size: u32,
) {
    let mut start = [0; KNOWN_BY_BYTES];
    let mut done = 0;
    loop {
        let len = size.min(part.len - done);
        let known = len.min(KNOWN_BY_BYTES as u32);
        let piece = Part { offset: part.offset + done, len: known, ..part };
        let copied = lease.copy_out(piece, &mut start);
        core.groups.own.sent(to.with_scope(0), &start[..copied], len, core.now);
        done += len;
        if done >= part.len || len == 0 {
            return;
        }
    }
}

/// What the guest has sent to the group for which a flow receives.
pub(super) struct Own<'a> {
    datagrams: &'a mut OwnDatagrams,
    group: SocketAddr,
    now: Timestamp,
}

impl<'a> Own<'a> {
    /// What was sent to the group of the flow with these sides; `None` if the flow receives for no group.
    pub(super) fn of(
        datagrams: &'a mut OwnDatagrams,
        [guest, host]: &[Side; 2],
        now: Timestamp,
    ) -> Option<Self> {
        let group = guest.endpoint.with_scope(0);
        is_receiver(guest, host).then_some(Self { datagrams, group, now })
    }

    /// Whether a datagram of `sender` is the guest's own, looped back; if so, removes it from the list.
    pub(super) fn takes_back(&mut self, sender: Option<SocketAddr>, bytes: &[u8]) -> bool {
        let whole = (bytes, bytes.len() as u32);
        takes_back(self.datagrams, (sender, self.group), whole, self.now)
    }
}

/// Whether a datagram of `len` bytes that `sender` has sent to a group is the guest's own, looped back by this host. If so,
/// removes it from `own`.
pub(in crate::engine) fn takes_back(
    own: &mut OwnDatagrams,
    (sender, to): (Option<SocketAddr>, SocketAddr),
    (start, len): (&[u8], u32),
    now: Timestamp,
) -> bool {
    let back = own.may_be(to, start, len, now) && sender.is_some_and(is_of_this_host);
    if back {
        own.came_back(to, start, len);
    }
    back
}
