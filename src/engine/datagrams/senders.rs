//! Whose datagrams the socket of a flow may have, and how they look to the guest.

use std::net::SocketAddr;

use super::{anybody, groups};
use crate::engine::net::Net;
use crate::engine::state::DatagramState;
use crate::flow::side::Side;
use crate::sys::copy_buffer::Keep;
use crate::sys::datagram::is_from;
use crate::wire::build::HeaderTemplate;
use crate::wire::ip::L4Protocol;

/// The senders of what waits in a socket, with the headers of frames to the guest.
pub(super) struct Senders<'a> {
    /// Headers for the sender who was looked at last.
    template: HeaderTemplate,
    who: Who<'a>,
    /// Somebody was admitted whom the guest talks to.
    heard: bool,
    /// Somebody else has sent something, from another port perhaps.
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
    /// The port on which the host's network writes to it.
    port: u16,
    /// Whom the headers are for.
    last: Option<SocketAddr>,
    /// Whom the guest talks to.
    to: Option<SocketAddr>,
    /// What they send is for a group.
    in_group: bool,
}

impl Anybody<'_> {
    /// What the guest sees of `sender`; `None` if it is not let in.
    fn visible(&self, sender: Option<SocketAddr>) -> Option<Side> {
        if self.in_group {
            return Some(Side { ours: self.net.source_in_group(sender?)?, ..self.guest });
        }
        anybody::visible(self.net, &self.guest, self.port, sender)
    }
}

impl<'a> Senders<'a> {
    /// Those of the socket of a flow that has `guest` as its side toward the guest and `host` as the other.
    pub(super) fn new(net: &'a Net, guest: &Side, host: &Side, state: &DatagramState) -> Self {
        let in_group = groups::is_receiver(guest, host);
        if !host.endpoint.is_anybody() && !in_group {
            let judged = state.strangers.allow_only(host.endpoint);
            let who = judged.map_or(Who::Peer, Who::Judged);
            let template = net.template(guest, L4Protocol::Udp, 0);
            return Self { template, who, heard: true, others: false };
        }
        let (port, to) = (host.ours.port(), state.to);
        let mut anybody = Anybody { net, guest: *guest, port, last: None, to, in_group };
        // Whom the guest talks to is likely to be who answers, unless it is a group.
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

    /// Whether what was admitted shows that the flow is in use: some of it is of whom the guest talks to.
    pub(super) fn were_heard(&self) -> bool {
        self.heard
    }

    /// Whether all that was looked at is of whom the guest talks to, at the same port.
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

    /// Headers of frames from whoever was admitted last.
    pub(super) fn template(&self) -> &HeaderTemplate {
        &self.template
    }
}
