//! Glue between frames and the responders: copies the question to private memory, sends the answer,
//! and what is sent unasked (the first ARP request and solicitation, router advertisements).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use arrayvec::ArrayVec;
use passt_frame::{FromGuestLease, Part, ToGuest};

use super::Engine;
use super::addressing::Addressing;
use super::flows::ADVERTISEMENT_TIMER;
use crate::limits::MAX_QUESTION_BYTES;
use crate::responder::{Ignored, arp, dhcp, dhcpv6, ndp};
use crate::wire::ip::IpHead;
use crate::wire::l4::UDP_HEADER_BYTES;
use crate::wire::{DropReason, Mac, eth};

type Question = ArrayVec<u8, MAX_QUESTION_BYTES>;

impl From<Ignored> for DropReason {
    fn from(ignored: Ignored) -> Self {
        match ignored {
            Ignored::Malformed => Self::Malformed,
            Ignored::Disabled => Self::ProtocolDisabled,
            Ignored::NotForUs | Ignored::Unsupported => Self::UnansweredQuestion,
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

impl Engine {
    pub(super) fn arp(&mut self, head: &[u8], out: &mut dyn ToGuest) -> Result<(), DropReason> {
        let Addressing { net, neighbours, .. } = &self.addressing;
        let answer = arp::answer(net, neighbours, &head[eth::HEADER_BYTES..])?;
        let mut asker = Mac::default();
        asker.0.copy_from_slice(&answer[18..24]);
        let macs = (net.our_mac, asker);
        self.send_arp(out, macs, &answer);
        Ok(())
    }

    pub(super) fn send_arp(
        &mut self,
        out: &mut dyn ToGuest,
        (from, to): (Mac, Mac),
        message: &[u8],
    ) {
        let mut header = ArrayVec::<u8, { eth::HEADER_BYTES }>::new();
        header.extend(to.0);
        header.extend(from.0);
        header.extend([0x08, 0x06]);
        self.outbox.send(out, &header, message);
    }

    pub(super) fn dhcp(
        &mut self,
        lease: &mut FromGuestLease<'_>,
        index: usize,
        ip: &IpHead,
        out: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        let question = udp_question(lease, index, ip)?;
        let reply = dhcp::answer(&self.addressing.net, &question)?;
        log::info!("{}", reply.kind);
        log::info!("    from {}", reply.client);
        let from = SocketAddr::new(reply.source.into(), dhcp::SERVER_PORT);
        let to = SocketAddr::new(reply.destination.into(), dhcp::CLIENT_PORT);
        self.outbox.udp(out, self.addressing.macs(), from, to, 0, &reply.message);
        Ok(())
    }

    pub(super) fn dhcpv6(
        &mut self,
        lease: &mut FromGuestLease<'_>,
        index: usize,
        ip: &IpHead,
        out: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        let question = udp_question(lease, index, ip)?;
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (ip.source, ip.destination) else {
            return Err(DropReason::Malformed);
        };
        let net = &self.addressing.net;
        let reply = dhcpv6::answer(net, &self.duid, source, destination, &question)?;
        log::info!("{}", reply.kind);
        if let (Some(assigned), Some(v6)) = (reply.assigned, &net.v6)
            && !v6.fixed
        {
            self.addressing.learned.v6 = Some(assigned);
        }
        let Some(ours) = self.our_link_local() else { return Err(DropReason::FamilyDisabled) };
        let from = SocketAddr::new(ours, dhcpv6::SERVER_PORT);
        let to = SocketAddr::new(reply.destination.into(), dhcpv6::CLIENT_PORT);
        self.outbox.udp(out, self.addressing.macs(), from, to, reply.flow_label, &reply.message);
        Ok(())
    }

    pub(super) fn ndp(
        &mut self,
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
        let IpAddr::V6(source) = ip.source else { return Err(DropReason::Malformed) };
        let Addressing { net, neighbours, .. } = &self.addressing;
        let reply = ndp::answer(net, neighbours, source, &question)?;
        log::info!("{}", reply.kind);
        self.send_ndp(out, reply);
        Ok(())
    }

    fn send_ndp(&mut self, out: &mut dyn ToGuest, mut reply: ndp::Reply) {
        let Some(ours) = self.our_link_local() else { return };
        let (from, to) = (SocketAddr::new(ours, 0), SocketAddr::new(reply.destination.into(), 0));
        self.outbox.icmp(out, self.addressing.macs(), from, to, &mut reply.message);
    }

    fn our_link_local(&self) -> Option<IpAddr> {
        self.addressing.net.v6.as_ref().map(|v6| v6.our_link_local.into())
    }

    /// The link can reach the guest: asks for its addresses once, so that inbound connections find
    /// its Ethernet address, and starts the clock of router advertisements.
    pub(super) fn greet(&mut self, out: &mut dyn ToGuest) {
        let net = &self.addressing.net;
        if let Some(request) = arp::initial_request(net) {
            let macs = (net.our_mac, Mac::BROADCAST);
            self.send_arp(out, macs, &request);
        }
        if let Some(solicitation) = ndp::initial_solicitation(&self.addressing.net) {
            self.send_ndp(out, solicitation);
        }
        self.schedule_advertisement();
    }

    fn schedule_advertisement(&mut self) -> std::time::Duration {
        let random = self.flows.index.hash((self.now.as_micros(), Ipv4Addr::UNSPECIFIED)) as u32;
        let delay = ndp::next_unsolicited_delay(random);
        self.flows.timers.set(ADVERTISEMENT_TIMER, self.now + delay);
        delay
    }

    /// Time for an unsolicited router advertisement.
    pub(super) fn advertise(&mut self, out: &mut dyn ToGuest) {
        let delay = self.schedule_advertisement();
        if !out.caps().up {
            return;
        }
        if let Ok(advertisement) = ndp::router_advertisement(&self.addressing.net) {
            log::info!("{}, next in {}s", advertisement.kind, delay.as_secs());
            self.send_ndp(out, advertisement);
        }
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
