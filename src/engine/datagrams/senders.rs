//! Whose datagrams the socket of a flow may have, and how they look to the guest.

use std::net::{IpAddr, SocketAddr};

use super::{anybody, groups};
use crate::engine::net::Net;
use crate::engine::state::DatagramState;
use crate::flow::fwd::Proto;
use crate::flow::side::{Endpoint, Side};
use crate::sys::copy_buffer::Keep;
use crate::sys::datagram::is_from;
use crate::wire::build::HeaderTemplate;
use crate::wire::ip::L4Protocol;

/// The senders of what waits in a socket, with the headers of frames to the guest.
pub(super) struct Senders<'a> {
    /// Headers for the sender who was looked at last.
    template: HeaderTemplate,
    who: Who<'a>,
    /// A datagram of the peer that the guest talks to was admitted.
    heard: bool,
    /// A datagram came from elsewhere: from somebody else, or from another port of that peer.
    others: bool,
}

enum Who<'a> {
    /// The peer alone: the kernel sees to it.
    Peer,
    /// The peer, and perhaps strangers.
    Judged(SocketAddr),
    /// Anybody.
    Anybody(Anybody<'a>),
}

/// What is to be known of anybody.
struct Anybody<'a> {
    net: &'a Net,
    /// The guest's side.
    guest: Side,
    /// The port from which it has sent broadcasts.
    broadcasts_from: Option<u16>,
    /// Whom the headers are for.
    last: Option<SocketAddr>,
    /// Whom the guest talks to.
    to: Option<SocketAddr>,
    whose: Whose,
}

/// Whose datagrams they may be.
#[derive(Clone, Copy)]
enum Whose {
    /// Those of all senders to which no address mapping applies.
    Anybody,
    /// Those that members of a group send to it.
    Group,
    /// Those of a host that an address stands for, from any of its ports.
    Host(IpAddr),
}

impl Anybody<'_> {
    /// What the guest sees of `sender`; `None` if it is not let in.
    fn visible(&self, sender: Option<SocketAddr>) -> Option<Side> {
        match self.whose {
            Whose::Anybody => anybody::visible(self.net, &self.guest, self.broadcasts_from, sender),
            Whose::Group => Some(Side { ours: self.net.source_in_group(sender?)?, ..self.guest }),
            Whose::Host(host) => {
                let sender = sender.filter(|sender| sender.ip() == host)?;
                let ours = Endpoint::new(self.guest.ours.ip(), sender.port());
                let guest = self.guest.endpoint.with_scope(0);
                let leads = self.net.would_lead(Proto::Udp, guest, ours.with_scope(0)).ok()?;
                (leads.destination == sender).then_some(Side { ours, ..self.guest })
            }
        }
    }
}

impl<'a> Senders<'a> {
    /// Those of the socket of a flow that has `guest` as its side toward the guest and `host` as the other.
    pub(super) fn new(net: &'a Net, guest: &Side, host: &Side, state: &DatagramState) -> Self {
        let whose = if groups::is_receiver(guest, host) {
            Whose::Group
        } else if state.any_port {
            Whose::Host(host.endpoint.ip())
        } else {
            Whose::Anybody
        };
        if !host.endpoint.is_anybody() && matches!(whose, Whose::Anybody) {
            let judged = state.strangers.allow_only(host.endpoint);
            let who = judged.map_or(Who::Peer, Who::Judged);
            let template = net.template(guest, L4Protocol::Udp, 0);
            return Self { template, who, heard: true, others: false };
        }
        let broadcasts_from = state.has_broadcast().then_some(host.ours.port());
        let to = state.to;
        let mut anybody = Anybody { net, guest: *guest, broadcasts_from, last: None, to, whose };
        // Whom the guest talks to is likely to be who answers, unless it is a group.
        let in_group = matches!(whose, Whose::Group);
        let seen = if in_group { None } else { anybody.visible(state.to) };
        let template = net.template(&seen.unwrap_or(*guest), L4Protocol::Udp, 0);
        anybody.last = state.to.filter(|_| seen.is_some());
        Self { template, who: Who::Anybody(anybody), heard: false, others: false }
    }

    /// The one peer of a flow, of which somebody else has made sure.
    pub(super) fn peer(net: &Net, guest: &Side) -> Self {
        let template = net.template(guest, L4Protocol::Udp, 0);
        Self { template, who: Who::Peer, heard: true, others: false }
    }

    /// Whether the guest may have what `sender` has sent. The headers are for it from now on.
    pub(super) fn admit(&mut self, sender: Option<SocketAddr>) -> bool {
        match &mut self.who {
            Who::Peer => true,
            Who::Judged(peer) => is_from(sender, *peer),
            Who::Anybody(anybody) => {
                self.others |= sender != anybody.to;
                if sender.is_none() || sender != anybody.last {
                    let Some(seen) = anybody.visible(sender) else { return false };
                    self.template = anybody.net.template(&seen, L4Protocol::Udp, 0);
                    anybody.last = sender;
                }
                let [from, to] = [sender, anybody.to].map(|one| one.map(|one| one.ip()));
                self.heard |= from == to;
                true
            }
        }
    }

    /// Whether at least one admitted datagram came from the peer that the guest talks to: the flow is in use.
    pub(super) fn were_heard(&self) -> bool {
        self.heard
    }

    /// Whether every datagram that was looked at came from that peer, and from the same port.
    pub(super) fn were_alone(&self) -> bool {
        self.heard && !self.others
    }

    /// What is to be kept of the datagrams that are received together.
    pub(super) fn keep(&self) -> Keep {
        match self.who {
            Who::Peer => Keep::All,
            Who::Judged(peer) => Keep::Of(peer),
            Who::Anybody(..) => Keep::WithSender,
        }
    }

    /// Headers of frames from the sender that was admitted last.
    pub(super) fn template(&self) -> &HeaderTemplate {
        &self.template
    }
}
