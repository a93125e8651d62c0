//! UDP from the guest, in runs: consecutive datagrams of one flow that are equally long go to the host's
//! socket with one sendmsg(2) and `UDP_SEGMENT` (udp(7)), straight from the guest's buffers. What the
//! receiver gets is the same datagrams; the kernel carries them as one packet as far as it can.
//!
//! The rules are those of the kernel: all datagrams of a run have the length of the first, only the last
//! may be shorter; 64 of them at most; no more bytes than one datagram can have. Where the kernel refuses
//! (a segment larger than the MTU, `EINVAL`; a device without checksum offload, `EIO`), the datagrams go
//! one by one, and so do all later ones of that flow.
//!
//! A USO frame of the guest is a run that its kernel has made; it is passed on as it is.

use arrayvec::ArrayVec;
use passt_frame::{Errno, FromGuestLease, GsoKind, Part, ToGuest};

use super::send::{note_sent, past_icmp_error, path_mtu, send_datagram};
use super::{Datagrams, groups, socket};
use crate::engine::core::Core;
use crate::engine::marks::Marks;
use crate::engine::state::FlowKind;
use crate::engine::unreachable::tell_of_frame;
use crate::flow::fwd::is_many;
use crate::flow::side::Side;
use crate::flow::table::FlowId;
use crate::limits::{MAX_QUESTION_BYTES, MAX_UDP_SEGMENTS, UDP_RUN_DATAGRAMS};
use crate::wire::DropReason;
use crate::wire::ip::{IpHead, max_l4_bytes};
use crate::wire::l4::UDP_HEADER_BYTES;

/// What all datagrams of a run have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    side: Side,
    marks: Marks,
}

/// Consecutive datagrams of one flow, not sent yet.
#[derive(Default)]
pub(in crate::engine) struct DatagramRun {
    flow: Option<(FlowId, Key)>,
    parts: ArrayVec<Part, UDP_RUN_DATAGRAMS>,
    bytes: u32,
}

impl DatagramRun {
    /// Whether a datagram of `len` bytes can go on with the run.
    fn takes(&self, key: &Key, len: u32) -> bool {
        let (Some(first), Some(last)) = (self.parts.first(), self.parts.last()) else {
            return false;
        };
        self.flow.is_some_and(|(_, current)| current == *key)
            && last.len == first.len
            && (1..=first.len).contains(&len)
            && self.bytes + len <= max_l4_bytes(true) - UDP_HEADER_BYTES
            && !self.parts.is_full()
    }

    fn push(&mut self, part: Part) {
        self.bytes += part.len;
        self.parts.push(part);
    }

    /// Sends the datagrams.
    pub(crate) fn finish(
        &mut self,
        core: &mut Core,
        lease: &mut FromGuestLease<'_>,
        out: &mut dyn ToGuest,
    ) {
        let Some((id, Key { marks, .. })) = self.flow.take() else { return };
        let parts = std::mem::take(&mut self.parts);
        let bytes = std::mem::take(&mut self.bytes);
        match send_run(core, lease, id, &marks, &parts, bytes) {
            Some(Ok(())) => note_sent(core, id),
            Some(Err(reason)) => {
                core.outbox.drops.add(reason, parts.len() as u64);
                for part in &parts {
                    tell(core, out, lease, (id, part.frame), reason);
                }
            }
            None => {
                for &part in &parts {
                    if let Err(reason) = send_part(core, lease, out, id, &marks, part, None) {
                        core.outbox.drops.count(reason);
                    }
                }
            }
        }
    }
}

/// A UDP datagram from the guest that no responder takes.
pub(in crate::engine) fn udp_from_guest(
    core: &mut Core,
    datagrams: &mut Datagrams,
    (lease, index): (&mut FromGuestLease<'_>, usize),
    ip: &IpHead,
    run: &mut DatagramRun,
    out: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let frame = &lease.frames()[index];
    let head = ip.udp(frame.head())?;
    let offset = ip.l4_offset as u32 + UDP_HEADER_BYTES;
    let part = Part { frame: index, offset, len: head.payload_len };
    let segment = frame.meta.gso.filter(|gso| gso.kind == GsoKind::Udp).map(|gso| gso.size);
    let side = Side::from_guest(ip, (head.source_port, head.destination_port));
    if core.net.reads_names(&side) {
        note_query(core, lease, side, part);
    }
    if is_many(ip.destination) {
        let size = segment.map_or(part.len, u32::from);
        groups::note_own(core, lease, side.ours, part, size);
    }
    let marks = Marks::of(ip);
    let key = Key { side, marks };
    if segment.is_none() && run.takes(&key, part.len) {
        run.push(part);
        return Ok(());
    }
    run.finish(core, lease, out);
    let ports = (head.source_port, head.destination_port);
    let id = socket::find_or_open(core, datagrams, ip, ports)
        .inspect_err(|&reason| tell_of_frame(core, out, lease, index, (reason, None)))?;
    if segment.is_some() || part.len == 0 {
        return send_part(core, lease, out, id, &marks, part, segment);
    }
    run.flow = Some((id, key));
    run.push(part);
    Ok(())
}

/// Reads a query to a name server from a private copy.
fn note_query(core: &mut Core, lease: &mut FromGuestLease<'_>, side: Side, part: Part) {
    let mut query = [0; MAX_QUESTION_BYTES];
    let copied = lease.copy_out(part, &mut query);
    core.net.on_dns_query(side, &query[..copied]);
}

/// Sends several datagrams with one system call. `None` if they are to go one by one.
fn send_run(
    core: &mut Core,
    lease: &mut FromGuestLease<'_>,
    id: FlowId,
    marks: &Marks,
    parts: &[Part],
    bytes: u32,
) -> Option<Result<(), DropReason>> {
    let [first, _, ..] = parts else { return None };
    let flow = core.flows.table.get_mut(id)?;
    match &flow.state.kind {
        FlowKind::Udp(state) if !state.one_by_one => {}
        _ => return None,
    }
    let mut refused = false;
    let sent = send_datagram(flow, (&core.net, core.now), marks, (first.len, bytes), |fd, to| {
        let sent = lease.send_datagram(fd, to, parts, Some(first.len as u16)).map(|_| ());
        refused = matches!(sent, Err(Errno::INVAL | Errno::IO | Errno::MSGSIZE));
        sent
    });
    if let FlowKind::Udp(state) = &mut flow.state.kind {
        state.one_by_one = refused;
    }
    if refused {
        log::debug!("{id:?} (UDP flow): no segments of {} bytes, {bytes} in all", first.len);
        return None;
    }
    Some(sent)
}

/// Sends one datagram of a datagram flow, or a USO frame as datagrams of `segment` bytes. Where the
/// kernel does not take them at once, one by one. The guest is told why it does not take any.
pub(super) fn send_part(
    core: &mut Core,
    lease: &mut FromGuestLease<'_>,
    out: &mut dyn ToGuest,
    id: FlowId,
    marks: &Marks,
    part: Part,
    segment: Option<u16>,
) -> Result<(), DropReason> {
    let flow = core.flows.table.get_mut(id).ok_or(DropReason::NoFlow)?;
    let segment = segment.filter(|&size| size > 0 && u32::from(size) < part.len);
    let size = segment.map_or(part.len, u32::from);
    // Bytes that went one by one: who tries again goes on behind them.
    let mut done = 0;
    let sent = send_datagram(flow, (&core.net, core.now), marks, (size, part.len), |fd, to| {
        if done == 0 {
            let whole =
                past_icmp_error(|| lease.send_datagram(fd, to, &[part], segment).map(|_| ()));
            let refused = matches!(whole, Err(Errno::INVAL | Errno::IO | Errno::MSGSIZE));
            if !refused || segment.is_none() || part.len.div_ceil(size) > MAX_UDP_SEGMENTS {
                return whole;
            }
        }
        while done < part.len {
            let len = size.min(part.len - done);
            let piece = Part { offset: part.offset + done, len, ..part };
            past_icmp_error(|| lease.send_datagram(fd, to, &[piece], None).map(|_| ()))?;
            done += len;
        }
        Ok(())
    });
    match sent {
        Ok(()) => note_sent(core, id),
        Err(reason) => tell(core, out, lease, (id, part.frame), reason),
    }
    sent
}

/// Tells the guest why a datagram of flow `id` in frame `index` was not sent.
fn tell(
    core: &mut Core,
    out: &mut dyn ToGuest,
    lease: &mut FromGuestLease<'_>,
    (id, index): (FlowId, usize),
    reason: DropReason,
) {
    let narrow = core.flows.table.get(id).filter(|_| reason == DropReason::TooLarge);
    let mtu = narrow.and_then(|flow| path_mtu(flow, &core.settings));
    tell_of_frame(core, out, lease, index, (reason, mtu));
}
