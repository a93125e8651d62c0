//! Frames from the guest: parsed once, then to a responder or to the flow they belong to. Consecutive
//! segments or datagrams of one flow are gathered to a run and sent with one sendmsg(2).

use std::net::IpAddr;

use passt_frame::{FramePort, FromGuestBatch, FromGuestLease, ToGuest};

use super::Engine;
use super::tcp::Run;
use super::udp_run::DatagramRun;
use crate::responder::{dhcp, dhcpv6};
use crate::wire::ip::{self, IpHead, L4Protocol};
use crate::wire::{DropReason, Fragment, Packet};

/// ICMPv6 types of neighbour and router discovery: consumed here, never forwarded.
const NDP_TYPES: std::ops::RangeInclusive<u8> = 133..=136;

/// What of a batch is not sent yet.
#[derive(Default)]
struct Runs {
    stream: Run,
    datagrams: DatagramRun,
}

impl Engine {
    /// Takes one batch of frames from the guest. False when there was none.
    pub fn ingress(&mut self, port: &mut dyn FramePort, batch: &mut FromGuestBatch) -> bool {
        let (from, out) = port.halves();
        let Some(mut lease) = FromGuestLease::take(from, batch) else { return false };
        let mut runs = Runs::default();
        for index in 0..lease.frames().len() {
            let mut done = self.frame(&mut lease, index, &mut runs, out);
            // Headers that are longer than the link has expected, perhaps.
            if matches!(done, Err(DropReason::Truncated | DropReason::HeadersTooLong))
                && lease.fetch(index)
            {
                done = self.frame(&mut lease, index, &mut runs, out);
            }
            if let Err(reason) = done {
                self.outbox.drops.count(reason);
                log::trace!("frame from guest dropped: {}", reason.name());
            }
        }
        self.finish_run(&mut lease, &mut runs.stream);
        self.finish_datagrams(&mut lease, &mut runs.datagrams);
        true
    }

    fn frame(
        &mut self,
        lease: &mut FromGuestLease<'_>,
        index: usize,
        runs: &mut Runs,
        out: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        let frame = &lease.frames()[index];
        let head = frame.head();
        self.addressing.learn_mac(ip::source_mac(head).ok_or(DropReason::Truncated)?);
        log::trace!("from guest: {} bytes, {}", frame.len, frame.meta);
        let packet = ip::parse(head, frame.len)?;
        let ip = match packet {
            Packet::Arp => return self.arp(head, out),
            Packet::Ip(ip) | Packet::Fragment(Fragment { ip, .. }) => ip,
        };
        log::trace!("    {ip}");
        self.check_family(&ip)?;
        self.addressing.learn_address(ip.source);
        if let Packet::Fragment(fragment) = packet {
            return self.fragment_from_guest(lease, index, &fragment);
        }
        match ip.protocol {
            L4Protocol::Tcp => self.tcp_from_guest(lease, index, &ip, &mut runs.stream, out),
            L4Protocol::Udp => self.udp_or_dhcp(lease, index, &ip, runs, out),
            L4Protocol::Icmpv6 if NDP_TYPES.contains(&self.icmp_type(&ip, head)?) => {
                self.ndp(lease, index, &ip, out)
            }
            L4Protocol::Icmp | L4Protocol::Icmpv6 => self.echo_from_guest(lease, index, &ip),
        }
    }

    fn check_family(&self, ip: &IpHead) -> Result<(), DropReason> {
        let net = &self.addressing.net;
        let enabled = if ip.source.is_ipv4() { net.v4.is_some() } else { net.v6.is_some() };
        if !enabled {
            return Err(DropReason::FamilyDisabled);
        }
        // A loopback address on the link is a leak of the guest, whatever it stands for. A v4-mapped
        // one would be taken for the IPv4 address inside it, which is how flows keep addresses.
        let forbidden = |address: IpAddr| {
            address.is_loopback()
                || matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
        };
        if forbidden(ip.source) || forbidden(ip.destination) {
            return Err(DropReason::ForbiddenAddress);
        }
        Ok(())
    }

    fn icmp_type(&self, ip: &IpHead, head: &[u8]) -> Result<u8, DropReason> {
        ip.l4(head)?.first().copied().ok_or(DropReason::Truncated)
    }

    fn udp_or_dhcp(
        &mut self,
        lease: &mut FromGuestLease<'_>,
        index: usize,
        ip: &IpHead,
        runs: &mut Runs,
        out: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        let head = ip.udp(lease.frames()[index].head())?;
        match (ip.source.is_ipv4(), head.destination_port) {
            (true, dhcp::SERVER_PORT) => self.dhcp(lease, index, ip, out),
            (false, dhcpv6::SERVER_PORT) => self.dhcpv6(lease, index, ip, out),
            _ => self.udp_from_guest(lease, index, ip, &mut runs.datagrams),
        }
    }
}
