//! What is known of the guest's groups: which it has joined, which sockets receive what is for them, what is to be asked
//! when. What is done about it stands in [`datagrams`](super::datagrams).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use arrayvec::ArrayVec;

use crate::flow::groups::{Members, OwnDatagrams, SentTo};
use crate::flow::table::FlowId;
use crate::limits::{GROUP_SOCKETS, JOIN_BURST, JOIN_PAUSE, MAX_GROUPS};
use crate::time::{Timestamp, TokenBucket};

/// A socket that receives what is for one port of a group; it is that of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receiver {
    /// The port of the group.
    pub(crate) group: SocketAddr,
    /// Where it is a member of the group: index of an interface.
    pub(crate) interface: u32,
    /// The flow.
    pub(crate) flow: FlowId,
}

/// All of that.
pub(crate) struct Groups {
    /// What the guest has joined.
    pub(crate) members: Members,
    /// Where the guest has sent to.
    pub(crate) sent_to: SentTo,
    /// What it has sent.
    pub(crate) own: OwnDatagrams,
    /// Sockets that receive.
    pub(crate) receivers: ArrayVec<Receiver, GROUP_SOCKETS>,
    /// Sockets that are but members, of groups without a receiver, so that the kernel has something for listening
    /// sockets.
    pub(crate) holders: ArrayVec<(IpAddr, OwnedFd), MAX_GROUPS>,
    /// Groups that may be joined.
    pub(crate) joins: TokenBucket,
    /// When all stations of the guest are asked next what they want; `None` while nobody is asked.
    pub(crate) next_query: Option<Timestamp>,
    /// Whether there is a link.
    pub(crate) linked: bool,
    /// General queries since the link is there, as far as they matter.
    pub(crate) queries: u8,
    /// The operator was told of a port that is taken.
    pub(crate) told_of_taken: bool,
}

impl Default for Groups {
    fn default() -> Self {
        Self {
            members: Members::default(),
            sent_to: SentTo::default(),
            own: OwnDatagrams::default(),
            receivers: ArrayVec::new(),
            holders: ArrayVec::new(),
            joins: TokenBucket::new(JOIN_BURST, JOIN_PAUSE),
            next_query: None,
            linked: false,
            queries: 0,
            told_of_taken: false,
        }
    }
}

impl Groups {
    /// The flow that receives what is for this port of a group.
    pub(crate) fn receiver(&self, group: IpAddr, port: u16) -> Option<FlowId> {
        let same = |one: &&Receiver| one.group.ip() == group && one.group.port() == port;
        self.receivers.iter().find(same).map(|one| one.flow)
    }

    /// Whether some socket receives on this port for groups of one family.
    pub(crate) fn use_port(&self, v4: bool, port: u16) -> bool {
        self.receivers.iter().any(|one| one.group.port() == port && one.group.is_ipv4() == v4)
    }
}
