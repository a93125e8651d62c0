//! What the loop is busy with: types of events, each with a counter. `stats` prints them, `inspect` tells them. Known names
//! are those that passt prints, too. Without `--stats` and `--control` only deadlines and what routers say are counted.

macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A type of event; each has a counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EventType { $($(#[$doc])* $variant,)* }

        /// The names of all types, in the order of their counters.
        const NAMES: &[&str] = &[$($name,)*];
    };
}

event_types! {
    /// The socket of a TCP connection of the guest.
    Tcp => "connected TCP socket",
    /// A socket of a connection that passes the guest's interface by.
    Spliced => "connected spliced TCP socket",
    /// A TCP connection from the network.
    TcpListener => "listening TCP socket",
    /// A deadline of a TCP connection.
    TcpTimer => "TCP timer",
    /// A datagram from the network that may begin a flow.
    UdpListener => "listening UDP socket",
    /// The socket of a UDP flow.
    Udp => "UDP flow socket",
    /// A socket of datagrams that pass the guest's interface by.
    Relayed => "relayed UDP socket",
    /// The socket of an echo flow.
    Ping => "ICMP/ICMPv6 ping socket",
    /// Any other deadline.
    Timer => "other timer",
    /// A command, or a namespace.
    Watch => "command or namespace watch",
    /// Frames from a namespace.
    Tap => "/dev/net/tun device",
    /// Frames from a client.
    Stream => "connected qemu socket",
    /// A client that wants to connect.
    Clients => "listening qemu socket",
    /// A message of a front-end.
    Control => "vhost-user command socket",
    /// A front-end's driver has put something into a ring.
    Kick => "vhost-user kick socket",
    /// A helper that wants to connect for a migration.
    RepairDoor => "TCP_REPAIR helper listening socket",
    /// The helper of a migration.
    RepairHelper => "TCP_REPAIR helper socket",
    /// The state of a guest that moves.
    State => "device state channel",
    /// News about the host's neighbours.
    Neighbours => "netlink neighbour notifier socket",
    /// Who wants to change what is forwarded, or to ask.
    ConfigurationDoor => "configuration listening socket",
    /// The same, connected.
    Configuration => "configuration socket",
    /// A snapshot of the host's network, from the helper that watches it.
    Host => "host network watch",
    /// SIGTERM or SIGQUIT.
    Signal => "signal",
    /// An event of something that is gone.
    Stale => "late event",
    /// A router on the guest's side says that a packet is larger than its path takes.
    TooBig => "path MTU told by guest",
}

/// One counter for each [`EventType`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventCounters([u64; NAMES.len()]);

impl EventCounters {
    /// Counts an event.
    pub(crate) fn count(&mut self, event: EventType) {
        self.0[event as usize] += 1;
    }

    /// All counters with their names.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&'static str, u64)> + '_ {
        NAMES.iter().copied().zip(self.0.iter().copied())
    }
}
