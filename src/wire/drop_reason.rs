//! Why a frame or datagram was dropped. Bad input is never an error: it is dropped and counted here.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A named reason; each has a counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason { $($(#[$doc])* $variant,)* }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The reason's name in statistics and logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its headers say.
    Truncated => "truncated",
    /// A header contradicts itself.
    Malformed => "malformed",
    /// An Ethernet type other than ARP, IPv4, IPv6.
    UnknownEtherType => "unknown-ethertype",
    /// The address family is disabled.
    FamilyDisabled => "family-disabled",
    /// A fragment of a packet that must not be in fragments, or of one that nobody takes.
    Fragment => "fragment",
    /// Fragments that overlap, or that disagree about the end of their datagram.
    FragmentOverlap => "fragment-overlap",
    /// A datagram whose fragments did not all arrive in time.
    FragmentTimeout => "fragment-timeout",
    /// A datagram whose fragments had not all arrived when a newer one needed the room.
    FragmentEvicted => "fragment-evicted",
    /// A reassembled datagram whose checksum is wrong.
    BadChecksum => "bad-checksum",
    /// Headers longer than the private copy.
    HeadersTooLong => "headers-too-long",
    /// An L4 protocol other than TCP, UDP, ICMP.
    UnknownProtocol => "unknown-protocol",
    /// TCP, UDP or ICMP is switched off.
    ProtocolDisabled => "protocol-disabled",
    /// It is for many at once, and that is switched off (`--no-multicast`).
    MulticastDisabled => "multicast-disabled",
    /// A group that the guest may not join: it has joined too many, or too many in a short time.
    TooManyGroups => "too-many-groups",
    /// A datagram of the guest that would come back to it: to a group that it has joined itself, or to its own port.
    OwnDatagram => "own-datagram",
    /// An address that may not leave or enter: loopback, unspecified, v4-mapped and others.
    ForbiddenAddress => "forbidden-address",
    /// Port 0.
    PortZero => "port-zero",
    /// An ICMP message other than an echo request, or an error that tells nothing.
    UnsupportedIcmp => "unsupported-icmp",
    /// An echo request for which the host grants no socket.
    EchoNotAllowed => "echo-not-allowed",
    /// A question that a responder ignores.
    UnansweredQuestion => "unanswered-question",
    /// A TCP segment, or an ICMP error, that belongs to no flow.
    NoFlow => "no-flow",
    /// No free slot in the flow table.
    FlowTableFull => "flow-table-full",
    /// No descriptor left for another socket.
    DescriptorsExhausted => "descriptors-exhausted",
    /// The host's kernel has no memory for another socket, or for watching it.
    MemoryExhausted => "memory-exhausted",
    /// The host has no port, or no address, left that a flow could be sent from, or flows have as many as they may; or one
    /// that waited for an answer gave way for that.
    NoLocalPort => "no-local-port",
    /// The host does not have the address that flows are to be sent from (`--outbound`).
    NoOutboundAddress => "no-outbound-address",
    /// UDP and echo flows have all that they may, so that TCP connections get sockets, too, and all are streams.
    DatagramFlowsFull => "datagram-flows-full",
    /// The oldest half-open flow gave way to a new one.
    HalfOpenEvicted => "half-open-evicted",
    /// A UDP or echo flow that nobody had answered gave way to a new one.
    DatagramFlowEvicted => "datagram-flow-evicted",
    /// A socket could not be made or connected.
    SocketFailed => "socket-failed",
    /// The host has no route to the destination.
    NoRoute => "no-route",
    /// The host cannot reach the destination.
    HostUnreachable => "host-unreachable",
    /// The host's routes or its firewall forbid the way to the destination.
    Prohibited => "prohibited",
    /// An ICMP error of which the guest is not told, since it has been told of too many.
    ErrorLimited => "error-limited",
    /// The host's socket refused a datagram.
    SendFailed => "send-failed",
    /// A datagram that a flow's socket got from somebody other than its peer.
    ForeignDatagram => "foreign-datagram",
    /// Another peer looks the same to the guest, and nothing was found that tells them apart.
    AmbiguousPeer => "ambiguous-peer",
    /// Stream bytes that the host's socket had no room for; the guest sends them again.
    SocketFull => "socket-full",
    /// No room in the guest's buffers.
    NoGuestRoom => "no-guest-room",
    /// No client, or its receive side is stopped.
    LinkDown => "link-down",
    /// A datagram larger than the link takes.
    TooLarge => "too-large",
    /// No forwarding rule fits.
    NoRule => "no-rule",
    /// A destination that the operator forbids (`--egress`, `--isolate`); the guest is told.
    EgressRejected => "egress-rejected",
    /// The same, and the guest is not told.
    EgressDropped => "egress-dropped",
    /// An ICMP error from the host that cannot be expressed toward the guest.
    UntranslatableError => "untranslatable-error",
}

impl DropReason {
    /// Whether it is why a flow did not begin, though nothing was wrong with what was to begin it, and why is not told
    /// elsewhere.
    pub(crate) fn refuses_flow(self) -> bool {
        matches!(
            self,
            Self::FlowTableFull
                | Self::DescriptorsExhausted
                | Self::MemoryExhausted
                | Self::NoLocalPort
                | Self::NoOutboundAddress
                | Self::DatagramFlowsFull
                | Self::SocketFailed
                | Self::NoRoute
                | Self::HostUnreachable
                | Self::Prohibited
                | Self::AmbiguousPeer
                | Self::NoRule
        )
    }
}

/// One counter for each [`DropReason`].
#[derive(Clone, Debug)]
pub(crate) struct DropCounters([u64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// All counters, those at 0 too.
    pub(crate) fn iter_all(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().copied().zip(self.0)
    }

    /// Counts one drop.
    pub(crate) fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// Counts `drops` of them.
    pub(crate) fn add(&mut self, reason: DropReason, drops: u64) {
        self.0[reason as usize] += drops;
    }

    /// Drops for `reason` so far.
    pub(crate) fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// All reasons that occurred, with their counts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().zip(self.0).map(|(&r, n)| (r, n)).filter(|&(_, n)| n > 0)
    }
}
