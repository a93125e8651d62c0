//! What a frame carries besides its bytes: checksum state and segmentation. Neutral between the
//! virtio-net header (virtio 1.2, section 5.1.6) and the tap device's, which encode the same facts.

/// State of a frame's L4 checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The field is filled in, nobody has verified it.
    #[default]
    Complete,
    /// The field is to be taken as correct without looking at it.
    Valid,
    /// The field holds the sum of the pseudo header only; who needs the checksum sums from `start`
    /// (offset in the frame) to the end and stores the result at `start + offset`.
    Partial {
        /// Byte offset of the first summed byte, from the start of the Ethernet header.
        start: u16,
        /// Byte offset of the checksum field, from `start`.
        offset: u16,
    },
}

/// Which kind of segments a frame is to be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams, one per segment (USO), either family.
    Udp,
}

/// Segmentation of a frame larger than the MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// What to cut it into.
    pub kind: GsoKind,
    /// Payload bytes of each segment but the last.
    pub size: u16,
    /// Bytes of all headers, Ethernet to L4.
    pub header_len: u16,
}

/// Offload metadata of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameMeta {
    /// State of the L4 checksum.
    pub checksum: Checksum,
    /// Segmentation, if the frame is larger than one segment.
    pub gso: Option<Gso>,
}

/// In words, for the log.
impl std::fmt::Display for FrameMeta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.checksum {
            Checksum::Complete => f.write_str("checksum complete")?,
            Checksum::Valid => f.write_str("checksum valid")?,
            Checksum::Partial { start, offset } => {
                write!(f, "checksum to be summed from {start} and stored at {}", start + offset)?;
            }
        }
        let Some(Gso { kind, size, header_len }) = self.gso else { return Ok(()) };
        let kind = match kind {
            GsoKind::TcpV4 => "TCP segments over IPv4",
            GsoKind::TcpV6 => "TCP segments over IPv6",
            GsoKind::Udp => "UDP datagrams",
        };
        write!(f, ", to be cut into {kind} of {size} bytes behind {header_len} of headers")
    }
}

/// Kinds of segmentation that the peer of a link takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GsoSet {
    /// TCP over IPv4.
    pub tcp_v4: bool,
    /// TCP over IPv6.
    pub tcp_v6: bool,
    /// UDP.
    pub udp: bool,
}

/// What a link can take toward the guest at this moment. Changes when a front-end negotiates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// The guest accepts frames with [`Checksum::Partial`] and [`Checksum::Valid`].
    pub partial_checksum: bool,
    /// Segmentation the guest accepts.
    pub gso: GsoSet,
    /// Frames can reach the guest: a client is connected and its receive side runs.
    pub up: bool,
}

/// One finished frame of a reservation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameDone {
    /// Payload bytes behind the header room.
    pub payload_len: u32,
    /// Offloads of this frame.
    pub meta: FrameMeta,
}
