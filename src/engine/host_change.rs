//! The host's network changes while the program runs. What the guest is told follows at once; flows go on for as
//! long as the kernel lets them, but those from an address that is gone get no answer any more. Datagram flows end at
//! once: what the guest says next makes others, from the address of now. Connections have no other address. One that is
//! back before long, as after a link was down for a moment, goes on, as it does on any host; those of an address that is
//! away for longer than [`ADDRESS_AWAY`] end then instead of being left to wait.
//!
//! Which those are only their sockets tell, so all flows are looked at, some of them each turn.

use std::net::IpAddr;

use passt_frame::ToGuest;
use rustix::net::{SocketAddrAny, getsockname};

use super::core::Core;
use super::state::{FlowKind, FlowState};
use super::{datagrams, egress, responders};
use crate::flow::fwd::{Mapping, Surroundings};
use crate::flow::network::Network;
use crate::flow::side::Pif;
use crate::flow::table::{Flow, FlowId};
use crate::limits::{ADDRESS_AWAY, ADDRESSES_AWAY_MAX, FLOWS_LOOKED_AT_PER_TURN};
use crate::time::Timestamp;

/// What is different from now on.
#[derive(Clone, Debug)]
pub struct HostChange {
    /// What the guest is told.
    pub network: Network,
    /// Mapped addresses.
    pub map: Mapping,
    /// What the host is, by whatever address, and what is next to it.
    pub own: Surroundings,
    /// Addresses that the host had before.
    pub gone: Vec<IpAddr>,
    /// The guest's addresses are changed from outside: it has what it is told.
    pub configured: bool,
    /// Then these are all that it has or had of the host's.
    pub held: Vec<IpAddr>,
}

/// The search for flows of addresses that are gone.
#[derive(Default)]
pub(super) struct Search {
    /// Addresses that may come back, and when their connections end if they have not.
    away: Vec<(IpAddr, Timestamp)>,
    /// Those whose datagram flows are looked for.
    lost: Vec<IpAddr>,
    /// Those of which all flows are looked for.
    gone: Vec<IpAddr>,
    /// The next slot to look at, if any is left.
    next: Option<u32>,
    /// Those of connections that may go on elsewhere, where the address is. Looked for when they go on here.
    missed: Vec<IpAddr>,
}

impl Search {
    /// Looks for flows of addresses that are gone, now or later, and not of those that are there again.
    fn begin(&mut self, change: &HostChange, now: Timestamp) {
        let there = |address: &IpAddr| change.own.addresses.iter().any(|(own, _)| own == address);
        self.away.retain(|(address, _)| !there(address));
        for list in [&mut self.lost, &mut self.gone, &mut self.missed] {
            list.retain(|address| !there(address));
        }
        for &address in &change.gone {
            self.lost.push(address);
            let known = self.away.iter().any(|(other, _)| *other == address);
            if self.away.len() < ADDRESSES_AWAY_MAX {
                self.away.extend((!known).then_some((address, now + ADDRESS_AWAY)));
            } else if !known {
                self.gone.push(address);
            }
        }
        if !self.lost.is_empty() {
            self.next = Some(0);
        }
    }

    /// Whether flows are left to be looked at.
    pub(super) fn goes_on(&self) -> bool {
        self.next.is_some()
    }

    /// When the next address has been away for too long.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.away.iter().map(|(_, due)| *due).min()
    }

    /// Looks at some flows. `all_stay`: no connection is frozen, and those that were go on here.
    pub(super) fn go_on(&mut self, core: &mut Core, all_stay: bool) {
        datagrams::follow_guest(core);
        let due = self.away.extract_if(.., |(_, due)| *due <= core.now).map(|(address, _)| address);
        let before = self.gone.len();
        self.gone.extend(due);
        if all_stay {
            self.gone.append(&mut self.missed);
        }
        if self.gone.len() > before {
            self.next = Some(0);
        }
        let Some(first) = self.next.take() else { return };
        let table = &core.flows.table;
        let slots = table.extent();
        let last = first.saturating_add(FLOWS_LOOKED_AT_PER_TURN).min(slots);
        let lost: Vec<(FlowId, IpAddr)> = (first..last)
            .filter_map(|slot| table.id_of(slot))
            .filter_map(|id| Some((id, self.lost_address(table.get(id)?)?)))
            .collect();
        for (id, address) in lost {
            if core.flows.table.get(id).is_some_and(|flow| flow.state.frozen) {
                if !self.missed.contains(&address) {
                    self.missed.push(address);
                }
                continue;
            }
            log::debug!("{id:?}: its address is gone, closing");
            core.end_flow(id);
        }
        if last < slots {
            self.next = Some(last);
        } else {
            self.lost.clear();
            self.gone.clear();
        }
    }

    /// The address of a flow that has no way back.
    fn lost_address(&self, flow: &Flow<FlowState>) -> Option<IpAddr> {
        let datagrams = matches!(flow.state.kind, FlowKind::Udp(_) | FlowKind::Echo(_));
        local_address(flow)
            .filter(|local| self.gone.contains(local) || datagrams && self.lost.contains(local))
    }
}

/// The host's address of a flow's socket, if it has one.
fn local_address(flow: &Flow<FlowState>) -> Option<IpAddr> {
    let host = flow.sides.iter().find(|side| side.pif == Pif::Host)?;
    if !host.ours.ip().is_unspecified() {
        return Some(host.ours.ip());
    }
    local(getsockname(flow.state.fd()).ok()?).filter(|address| !address.is_unspecified())
}

fn local(address: SocketAddrAny) -> Option<IpAddr> {
    std::net::SocketAddr::try_from(address).ok().map(|address| address.ip().to_canonical())
}

/// Puts the change in force. True if the guest was told something else before.
pub(super) fn apply(
    core: &mut Core,
    search: &mut Search,
    change: HostChange,
    out: &mut dyn ToGuest,
) -> bool {
    search.begin(&change, core.now);
    let HostChange { network, map, own, configured, held, .. } = change;
    let judged = core.net.set_surroundings(own);
    core.net.set_held(held);
    let told = !core.net.is_told(&network, &map);
    if told {
        let old = core.net.network.clone();
        core.net.follow(network, map, configured);
        responders::renew(core, out, &old);
    }
    if judged || told {
        egress::sweep(core);
    }
    told
}
