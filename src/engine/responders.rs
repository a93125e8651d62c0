//! Glue between frames and the responders: copies the question to private memory, sends the answer,
//! and what is sent unasked (the first ARP request and solicitation, router advertisements). An answer that finds no room
//! at the link does not wait for any: it is counted (`no-guest-room`), and whoever has asked asks again, by ARP and NDP within
//! a second. A front-end that reads at all, however slowly, gets nearly each: frames that make room are answered first.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use arrayvec::ArrayVec;
use passt_frame::{FromGuestLease, Part, ToGuest};

use super::core::Core;
use super::events::Event;
use super::flows::{ADDRESS_TIMER, ADVERTISEMENT_TIMER};
use super::outbox::Outbox;
use crate::flow::fwd;
use crate::flow::fwd::tenure::Step;
use crate::flow::network::Network;
use crate::limits::MAX_QUESTION_BYTES;
use crate::responder::dhcpv6::Duid;
use crate::responder::ndp::Solicitation;
use crate::responder::{Ignored, arp, dhcp, dhcpv6, ndp};
use crate::wire::ip::IpHead;
use crate::wire::l4::UDP_HEADER_BYTES;
use crate::wire::{DropReason, Mac, eth};

/// Router advertisements that follow soon after one with news, and the time between them (RFC 4861, sections 6.2.4 and
/// 10: `MIN_DELAY_BETWEEN_RAS`).
const RENEWALS: u8 = 2;
const RENEWAL_PAUSE: Duration = Duration::from_secs(3);

type Question = ArrayVec<u8, MAX_QUESTION_BYTES>;

impl From<Ignored> for DropReason {
    fn from(ignored: Ignored) -> Self {
        match ignored {
            Ignored::Malformed => Self::Malformed,
            Ignored::Disabled => Self::ProtocolDisabled,
            Ignored::NotForUs | Ignored::Declined(_) | Ignored::Unsupported => {
                Self::UnansweredQuestion
            }
        }
    }
}

/// Copies `len` bytes of a frame from `offset` on.
fn question(
    lease: &mut FromGuestLease<'_>,
    frame: usize,
    offset: usize,
    len: u32,
) -> Result<Question, DropReason> {
    if len as usize > MAX_QUESTION_BYTES {
        return Err(DropReason::TooLarge);
    }
    let mut question = Question::from([0; MAX_QUESTION_BYTES]);
    let copied = lease.copy_out(Part { frame, offset: offset as u32, len }, &mut question);
    question.truncate(copied);
    Ok(question)
}

/// The guest's station `mac` uses `address`. What follows is done: perhaps another address is to be asked for.
pub(super) fn heed(core: &mut Core, out: &mut dyn ToGuest, address: IpAddr, mac: Mac) {
    let step = core.net.learn_address(address, mac, core.now);
    if step != Step::default() {
        follow(core, out, step);
    }
}

/// The guest's station `mac` asks whether anybody has `address`, and nobody does: it is about to use it (RFC 4862,
/// section 5.4), perhaps as its only one, and without a word until it is talked to.
fn expect(core: &mut Core, address: IpAddr, mac: Mac) {
    core.net.learn_station(address, mac);
    let step = fwd::expect(&core.net.network, &mut core.net.learned, address, core.now);
    come_back(core, step);
}

/// Time to ask for addresses, or to do without answers.
pub(super) fn reconsider(core: &mut Core, out: &mut dyn ToGuest) {
    core.net.ask_again = None;
    for step in core.net.reconsider(core.now) {
        follow(core, out, step);
    }
}

fn follow(core: &mut Core, out: &mut dyn ToGuest, step: Step) {
    come_back(core, step);
    let Some(target) = step.ask else { return };
    if !ask(core, out, target) {
        let step = fwd::question_lost(&mut core.net.learned, target, core.now);
        come_back(core, step);
    }
}

/// Sets the clock for what may follow.
fn come_back(core: &mut Core, step: Step) {
    if let Some(at) = step.again
        && core.net.ask_again.is_none_or(|before| at < before)
    {
        core.net.ask_again = Some(at);
        core.flows.timers.set(ADDRESS_TIMER, at);
    }
}

/// Asks the guest for one of its addresses; false if the question has found no room.
fn ask(core: &mut Core, out: &mut dyn ToGuest, target: IpAddr) -> bool {
    let network = &core.net.network;
    match target {
        IpAddr::V4(target) => arp::request(network, target).is_none_or(|request| {
            send_arp(&mut core.outbox, out, (network.our_mac, Mac::BROADCAST), &request)
        }),
        IpAddr::V6(target) => match ndp::solicitation(network, target) {
            Some(solicitation) => send_ndp(core, out, solicitation),
            None => true,
        },
    }
}

/// A station asks for another one, and perhaps in vain.
fn look_for(core: &mut Core, out: &mut dyn ToGuest, target: IpAddr, asker: Mac) {
    if core.net.stations.on_question(target, asker, core.now) {
        ask(core, out, target);
    }
}

/// Answers an ARP question.
pub(super) fn arp(
    core: &mut Core,
    message: &[u8],
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    if let Some((sender, mac)) = arp::sender(message) {
        heed(core, out, sender.into(), mac);
        if let Some(target) = arp::asked_for(message) {
            look_for(core, out, target.into(), mac);
        }
    }
    let net = &core.net;
    let answer = arp::answer(&net.network, (&net.neighbours, &net.stations), message)?;
    let mut asker = Mac::default();
    asker.0.copy_from_slice(&answer[18..24]);
    send_arp(&mut core.outbox, out, (net.network.our_mac, asker), &answer);
    Ok(())
}

/// Sends an ARP message between two stations.
pub(super) fn send_arp(
    outbox: &mut Outbox,
    out: &mut dyn ToGuest,
    (from, to): (Mac, Mac),
    message: &[u8],
) -> bool {
    let mut header = ArrayVec::<u8, { eth::HEADER_BYTES }>::new();
    header.extend(to.0);
    header.extend(from.0);
    header.extend([0x08, 0x06]);
    outbox.send(out, &header, message)
}

/// Answers a question to a DHCP server.
pub(super) fn dhcp(
    core: &mut Core,
    lease: &mut FromGuestLease<'_>,
    index: usize,
    ip: &IpHead,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let question = udp_question(lease, index, ip)?;
    let reply = dhcp::answer(&core.net.network, &question).inspect_err(|ignored| {
        if let Ignored::Declined(address) = ignored {
            warn_of_decline("DHCP", *address);
        }
    })?;
    let level = if reply.renews { log::Level::Debug } else { log::Level::Info };
    log::log!(level, "{}", reply.kind);
    log::log!(level, "    from {}", reply.client);
    if let (true, Some(v4)) = (reply.kind.gives(), &core.net.network.v4) {
        let (protocol, address) = ("dhcp", v4.addr.into());
        core.events.note(core.now, Event::Lease { protocol, address, station: reply.client });
    }
    let from = SocketAddr::new(reply.source.into(), dhcp::SERVER_PORT);
    for to in [Some(reply.destination), reply.besides].into_iter().flatten() {
        core.outbox.udp(out, core.net.macs(), from, to.into(), 0, &reply.message);
    }
    Ok(())
}

/// The guest has found that another station has the address it was given; there is no other one to give.
fn warn_of_decline(protocol: &str, address: IpAddr) {
    log::warn!(
        "{protocol}: the guest declines {address}: another station on its link has that address, perhaps a \
         machine behind the guest; remove it, or give the guest another address with --address"
    );
}

/// Answers a question to a DHCPv6 server, which is known by `duid`.
pub(super) fn dhcpv6(
    core: &mut Core,
    duid: &Duid,
    lease: &mut FromGuestLease<'_>,
    index: usize,
    ip: &IpHead,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let question = udp_question(lease, index, ip)?;
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (ip.source, ip.destination) else {
        return Err(DropReason::Malformed);
    };
    let net = &mut core.net;
    let reply = dhcpv6::answer(&net.network, duid, source, destination, &question)?;
    log::info!("{}", reply.kind);
    if let (dhcpv6::Kind::Decline, Some(v6)) = (reply.kind, &net.network.v6) {
        warn_of_decline("DHCPv6", v6.addr.map_or(source.into(), IpAddr::V6));
    }
    if let (Some(assigned), Some(v6)) = (reply.assigned, &net.network.v6) {
        let (protocol, station) = ("dhcpv6", net.learned.mac);
        let address = assigned.into();
        core.events.note(core.now, Event::Lease { protocol, address, station });
        if !v6.fixed {
            fwd::assign(&mut net.learned, assigned);
        }
    }
    let ours = net.our_link_local().ok_or(DropReason::FamilyDisabled)?;
    let from = SocketAddr::new(ours, dhcpv6::SERVER_PORT);
    let to = SocketAddr::new(reply.destination.into(), dhcpv6::CLIENT_PORT);
    core.outbox.udp(out, net.macs(), from, to, reply.flow_label, &reply.message);
    Ok(())
}

/// Answers a message of neighbour or router discovery.
pub(super) fn ndp(
    core: &mut Core,
    lease: &mut FromGuestLease<'_>,
    index: usize,
    ip: &IpHead,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    // RFC 4861, sections 6.1 and 7.1: what crossed a router has a lower hop limit.
    if ip.hop_limit != 255 {
        return Err(DropReason::Malformed);
    }
    let question = question(lease, index, ip.l4_offset, ip.l4_len)?;
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (ip.source, ip.destination) else {
        return Err(DropReason::Malformed);
    };
    let mac = core.net.learned.mac;
    if let Some(told) = ndp::advertised(&question) {
        heed(core, out, told.into(), mac);
    }
    let asked = Solicitation::read((source, destination), &question)?;
    if let Some(target) = asked.target().filter(|_| !source.is_unspecified()) {
        look_for(core, out, target.into(), mac);
    }
    let net = &core.net;
    let around = (&net.neighbours, &net.stations);
    let reply = ndp::answer(&net.network, around, (source, mac), asked);
    if source.is_unspecified()
        && reply.is_err()
        && let Some(target) = asked.target()
    {
        expect(core, target.into(), mac);
    }
    let reply = reply?;
    log::info!("{}", reply.kind);
    send_ndp(core, out, reply);
    Ok(())
}

fn send_ndp(core: &mut Core, out: &mut dyn ToGuest, mut reply: ndp::Reply) -> bool {
    let Some(ours) = core.net.our_link_local() else { return true };
    let (from, to) = (SocketAddr::new(ours, 0), SocketAddr::new(reply.destination.into(), 0));
    let macs = (core.net.network.our_mac, core.net.mac_of(to.ip()));
    core.outbox.icmp(out, macs, from, to, &mut reply.message)
}

/// The link can reach the guest: asks for its addresses once, so that inbound connections find
/// its Ethernet address, and starts the clock of router advertisements.
pub(super) fn greet(core: &mut Core, out: &mut dyn ToGuest) {
    let network = &core.net.network;
    if let Some(request) = arp::initial_request(network) {
        send_arp(&mut core.outbox, out, (network.our_mac, Mac::BROADCAST), &request);
    }
    if let Some(solicitation) = ndp::initial_solicitation(network) {
        send_ndp(core, out, solicitation);
    }
    schedule_advertisement(core);
}

/// The host's network is another one: the guest is told at once, and twice more (RFC 4861, section 6.2.4).
pub(super) fn renew(core: &mut Core, out: &mut dyn ToGuest, old: &Network) {
    core.net.withdrawn.note(old, &core.net.network);
    core.net.renewals = RENEWALS;
    advertise(core, out);
}

fn schedule_advertisement(core: &mut Core) -> Duration {
    let random = core.flows.index.hash((core.now.as_micros(), Ipv4Addr::UNSPECIFIED)) as u32;
    let delay = match core.net.renewals.checked_sub(1) {
        Some(left) => {
            core.net.renewals = left;
            RENEWAL_PAUSE
        }
        None => ndp::next_unsolicited_delay(random),
    };
    core.flows.timers.set(ADVERTISEMENT_TIMER, core.now + delay);
    delay
}

/// Time for an unsolicited router advertisement.
pub(super) fn advertise(core: &mut Core, out: &mut dyn ToGuest) {
    let delay = schedule_advertisement(core);
    if !out.caps().up {
        return;
    }
    if let Ok(advertisement) = ndp::router_advertisement(&core.net.network) {
        log::info!("{}, next in {}s", advertisement.kind, delay.as_secs());
        take_back(core, out);
        send_ndp(core, out, advertisement);
    }
}

/// Has the guest forget what it was told before.
fn take_back(core: &mut Core, out: &mut dyn ToGuest) {
    if let Some(withdrawal) = ndp::withdrawal(&core.net.network, &core.net.withdrawn) {
        log::debug!("{}", withdrawal.kind);
        send_ndp(core, out, withdrawal);
    }
    let farewell = ndp::farewell(&core.net.network);
    for former in core.net.withdrawn.routers.clone() {
        let Some(mut told) = farewell.clone() else { continue };
        let to = SocketAddr::new(told.destination.into(), 0);
        let macs = (core.net.network.our_mac, core.net.mac_of(to.ip()));
        core.outbox.icmp(out, macs, SocketAddr::new(former.into(), 0), to, &mut told.message);
    }
}

/// The payload of a UDP datagram, checked against its length field.
fn udp_question(
    lease: &mut FromGuestLease<'_>,
    index: usize,
    ip: &IpHead,
) -> Result<Question, DropReason> {
    let head = ip.udp(lease.frames()[index].head())?;
    question(lease, index, ip.l4_offset + UDP_HEADER_BYTES as usize, head.payload_len)
}
