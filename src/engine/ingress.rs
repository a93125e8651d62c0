//! Frames from the guest: parsed once, then to a responder or to the flow they belong to. Segments of a flow in
//! one batch, and consecutive datagrams of one, are gathered to a run and sent with one sendmsg(2).

use passt_frame::{FramePort, FromGuestBatch, FromGuestLease, ToGuest};

use super::core::Core;
use super::datagrams::{self, DatagramRun, Datagrams};
use super::path_mtu;
use super::responders;
use super::tcp::{self, StreamRuns};
use super::unreachable::tell_of_protocol;
use crate::responder::dhcpv6::Duid;
use crate::responder::{dhcp, dhcpv6};
use crate::sys::copy_buffer::CopyBuffer;
use crate::wire::ip::{self, IpHead, L4Protocol};
use crate::wire::l4::NDP_TYPES;
use crate::wire::membership::MLD_TYPES;
use crate::wire::too_big::is_too_big;
use crate::wire::{DropReason, Fragment, Packet};

/// What of a batch is not sent yet.
#[derive(Default)]
struct Runs {
    streams: StreamRuns,
    datagrams: DatagramRun,
}

/// What takes frames from the guest.
pub(super) struct Receivers<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) datagrams: &'a mut Datagrams,
    pub(crate) duid: &'a Duid,
    pub(crate) buffer: &'a mut CopyBuffer,
}

/// Takes one batch of frames from the guest. False when there was none.
pub(super) fn take(
    mut to: Receivers<'_>,
    port: &mut dyn FramePort,
    batch: &mut FromGuestBatch,
) -> bool {
    let (from, out) = port.halves();
    let Some(mut lease) = FromGuestLease::take(from, batch) else { return false };
    to.core.queue = lease.queue();
    out.select(lease.queue());
    let mut runs = Runs::default();
    for index in 0..lease.frames().len() {
        let mut done = frame(&mut to, &mut lease, index, &mut runs, out);
        // Headers that are longer than the link has expected, perhaps.
        if matches!(done, Err(DropReason::Truncated | DropReason::HeadersTooLong))
            && lease.fetch(index)
        {
            done = frame(&mut to, &mut lease, index, &mut runs, out);
        }
        if let Err(reason) = done {
            if reason == DropReason::UnknownProtocol {
                tell_of_protocol(to.core, out, &mut lease, index);
            }
            to.core.refuse(reason);
            log::trace!("frame from guest dropped: {}", reason.name());
        }
    }
    // Streams have the most.
    runs.datagrams.finish(to.core, &mut lease, out);
    runs.streams.finish(to.core, &mut lease);
    true
}

fn frame(
    to: &mut Receivers<'_>,
    lease: &mut FromGuestLease<'_>,
    index: usize,
    runs: &mut Runs,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let core = &mut *to.core;
    let frame = &lease.frames()[index];
    let head = frame.head();
    let mac = ip::source_mac(head).ok_or(DropReason::Truncated)?;
    core.net.learn_mac(mac);
    log::trace!("from guest: {} bytes, {}", frame.len, frame.meta);
    let packet = ip::parse(head, frame.len)?;
    let ip = match packet {
        Packet::Arp(at) => return responders::arp(core, &head[at..], out),
        Packet::Igmp(igmp) => {
            if core.net.network.v4.is_none() {
                return Err(DropReason::FamilyDisabled);
            }
            responders::heed(core, out, igmp.source, mac);
            return datagrams::igmp_from_guest(core, lease, index, &igmp, out);
        }
        Packet::Ip(ip) | Packet::Fragment(Fragment { ip, .. }) => ip,
    };
    log::trace!("    {ip}");
    core.net.check(ip.source, ip.destination)?;
    responders::heed(core, out, ip.source, mac);
    if let Packet::Fragment(part) = packet {
        // What came before goes before.
        runs.datagrams.finish(core, lease, out);
        runs.streams.finish(core, lease);
        return fragment(to, lease, index, &part, out);
    }
    match ip.protocol {
        L4Protocol::Tcp => tcp::from_guest(core, lease, index, &ip, &mut runs.streams, out),
        L4Protocol::Udp => udp_or_dhcp(to, lease, index, &ip, runs, out),
        // Neighbour discovery is consumed here, never forwarded.
        L4Protocol::Icmpv6 if NDP_TYPES.contains(&icmp_type(&ip, head)?) => {
            responders::ndp(core, lease, index, &ip, out)
        }
        L4Protocol::Icmpv6 if MLD_TYPES.contains(&icmp_type(&ip, head)?) => {
            datagrams::mld_from_guest(core, lease, index, &ip, out)
        }
        L4Protocol::Icmp | L4Protocol::Icmpv6 => icmp(to, lease, index, &ip, out),
    }
}

/// Takes a fragment, and the packet that it completes.
fn fragment(
    to: &mut Receivers<'_>,
    lease: &mut FromGuestLease<'_>,
    index: usize,
    part: &Fragment,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    if part.place.is_whole() {
        let kind = icmp_type(&part.ip, lease.frames()[index].head())?;
        if NDP_TYPES.contains(&kind) {
            return Err(DropReason::Fragment);
        }
        return icmp(to, lease, index, &part.ip, out);
    }
    let Receivers { core, datagrams, .. } = to;
    let whole = datagrams::reassembled(core, datagrams, lease, index, part)?;
    match whole {
        Some(whole) if part.ip.protocol == L4Protocol::Tcp => {
            tcp::whole_from_guest(core, &whole.ip, whole.l4(datagrams), out)
        }
        Some(whole) => datagrams::whole_from_guest(core, datagrams, &whole, out),
        None => Ok(()),
    }
}

fn icmp_type(ip: &IpHead, head: &[u8]) -> Result<u8, DropReason> {
    ip.l4(head)?.first().copied().ok_or(DropReason::Truncated)
}

/// Takes an ICMP message that is in one frame and neither neighbour discovery nor about groups.
fn icmp(
    to: &mut Receivers<'_>,
    lease: &mut FromGuestLease<'_>,
    index: usize,
    ip: &IpHead,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let Receivers { core, datagrams, buffer, .. } = to;
    if is_too_big(ip.source.is_ipv4(), ip.l4(lease.frames()[index].head())?) {
        return path_mtu::heed(core, lease, index, ip);
    }
    datagrams::echo_from_guest(core, datagrams, (lease, index), ip, buffer, out)
}

fn udp_or_dhcp(
    to: &mut Receivers<'_>,
    lease: &mut FromGuestLease<'_>,
    index: usize,
    ip: &IpHead,
    runs: &mut Runs,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let core = &mut *to.core;
    let head = ip.udp(lease.frames()[index].head())?;
    match (ip.source.is_ipv4(), head.destination_port) {
        (true, dhcp::SERVER_PORT) => responders::dhcp(core, lease, index, ip, out),
        (false, dhcpv6::SERVER_PORT) => responders::dhcpv6(core, to.duid, lease, index, ip, out),
        _ => {
            let run = &mut runs.datagrams;
            datagrams::udp_from_guest(core, to.datagrams, (lease, index), ip, run, out)
        }
    }
}
