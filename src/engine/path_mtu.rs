//! Paths on the guest's side that are narrower than its link, to containers or machines behind the guest: what a router there
//! says of packets of ours that do not fit (RFC 1191, RFC 8201). It is believed of what is under way only, as far as the
//! quoted headers tell (RFC 5927, section 4.1); the worst that a lie does is small segments. Datagrams that are larger go in
//! fragments for a while.

use passt_frame::{FromGuestLease, Part};

use super::core::Core;
use super::datagrams;
use super::event_counters::EventType;
use super::tcp;
use crate::flow::side::{Endpoint, Pif, Side};
use crate::wire::DropReason;
use crate::wire::ip::{IpHead, L4Protocol, ip_header_bytes};
use crate::wire::tcp::HEADER_BYTES as TCP_HEADER_BYTES;
use crate::wire::too_big::{LOOKED_AT_BYTES, parse};

/// Takes an error of which [`is_too_big`](crate::wire::too_big::is_too_big) is true.
pub(super) fn heed(
    core: &mut Core,
    lease: &mut FromGuestLease<'_>,
    index: usize,
    ip: &IpHead,
) -> Result<(), DropReason> {
    let v4 = ip.source.is_ipv4();
    let mut message = [0; LOOKED_AT_BYTES];
    let part = Part { frame: index, offset: ip.l4_offset as u32, len: ip.l4_len };
    let copied = lease.copy_out(part, &mut message);
    let told = parse(v4, &message[..copied])?;
    let side = Side {
        pif: Pif::Tap,
        ours: Endpoint::new(told.source, told.ports.0),
        endpoint: Endpoint::new(told.destination, told.ports.1),
    };
    if told.protocol == L4Protocol::Tcp {
        let headers = (ip_header_bytes(v4) + TCP_HEADER_BYTES) as u16;
        tcp::on_too_big(core, &side, told.seq, told.mtu - headers)?;
    } else if !datagrams::goes_to(core, told.protocol, &side) {
        return Err(DropReason::NoFlow);
    }
    log::debug!(
        "{} says that the path to {} takes {} bytes",
        ip.source,
        told.destination,
        told.mtu
    );
    core.net.stations.tell_width(told.destination, told.mtu, core.now);
    core.counters.count(EventType::TooBig);
    Ok(())
}
