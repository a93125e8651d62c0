//! `struct virtio_net_hdr_v1`, the 12 bytes in front of each frame (virtio 1.2, section 5.1.6), and
//! its translation to and from the neutral [`FrameMeta`].
//!
//! vhost-user rings and tap devices (linux/if_tun.h, `TUNSETVNETHDRSZ`) share it. Offsets in both
//! count from the start of the Ethernet header. What the guest states is checked against the
//! frame's length and against what was negotiated; whether it agrees with the frame's own headers
//! is for who parses those.

use crate::{Checksum, FrameMeta, Gso, GsoKind, GsoSet};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 12;

/// Bytes of an Ethernet header, the least that any offset can point behind.
const ETHERNET_BYTES: u32 = 14;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What the guest may leave to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Partial checksums.
    pub checksum: bool,
    /// Segmentation.
    pub gso: GsoSet,
}

/// The header of a frame to the guest that takes `buffers` buffers.
pub fn encode(meta: &FrameMeta, buffers: u16) -> [u8; HEADER_BYTES] {
    let (flags, start, offset) = match meta.checksum {
        Checksum::Complete => (0, 0, 0),
        Checksum::Valid => (F_DATA_VALID, 0, 0),
        Checksum::Partial { start, offset } => (F_NEEDS_CSUM, start, offset),
    };
    let (kind, header_len, size) = match meta.gso {
        None => (GSO_NONE, 0, 0),
        Some(gso) => (encode_kind(gso.kind), gso.header_len, gso.size),
    };
    let mut bytes = [0; HEADER_BYTES];
    bytes[0] = flags;
    bytes[1] = kind;
    for (at, value) in [header_len, size, start, offset, buffers].into_iter().enumerate() {
        bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn encode_kind(kind: GsoKind) -> u8 {
    match kind {
        GsoKind::TcpV4 => GSO_TCPV4,
        GsoKind::TcpV6 => GSO_TCPV6,
        GsoKind::Udp => GSO_UDP_L4,
    }
}

/// The metadata of a frame of `frame_len` bytes from the guest, or `None` when the header states
/// something impossible or not negotiated.
pub fn decode(bytes: &[u8; HEADER_BYTES], frame_len: u32, accepted: Accepted) -> Option<FrameMeta> {
    let field = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (header_len, size, start, offset) = (field(2), field(4), field(6), field(8));
    let checksum = if bytes[0] & F_NEEDS_CSUM == 0 {
        Checksum::Complete
    } else {
        let end = u32::from(start) + u32::from(offset) + 2;
        let possible = u32::from(start) >= ETHERNET_BYTES && end <= frame_len;
        if !possible || !accepted.checksum {
            return None;
        }
        Checksum::Partial { start, offset }
    };
    let Some(kind) = decode_kind(bytes[1], accepted.gso)? else {
        return Some(FrameMeta { checksum, gso: None });
    };
    let partial = matches!(checksum, Checksum::Partial { .. });
    if !partial || size == 0 || u32::from(header_len) > frame_len {
        return None;
    }
    Some(FrameMeta { checksum, gso: Some(Gso { kind, size, header_len }) })
}

/// The kind of segmentation, `Some(None)` for no segmentation, `None` when it was not negotiated.
fn decode_kind(kind: u8, set: GsoSet) -> Option<Option<GsoKind>> {
    let (kind, negotiated) = match kind & !GSO_ECN {
        GSO_NONE if kind == GSO_NONE => return Some(None),
        GSO_TCPV4 => (GsoKind::TcpV4, set.tcp_v4),
        GSO_TCPV6 => (GsoKind::TcpV6, set.tcp_v6),
        GSO_UDP_L4 if kind == GSO_UDP_L4 => (GsoKind::Udp, set.udp),
        _ => return None,
    };
    negotiated.then_some(Some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Accepted {
        Accepted { checksum: true, gso: GsoSet { tcp_v4: true, tcp_v6: true, udp: true } }
    }

    #[test]
    fn virtio_5_1_6_what_is_encoded_is_decoded() {
        let partial = Checksum::Partial { start: 34, offset: 16 };
        let kinds = [GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp];
        for kind in kinds {
            let meta = FrameMeta {
                checksum: partial,
                gso: Some(Gso { kind, size: 1448, header_len: 66 }),
            };
            assert_eq!(decode(&encode(&meta, 3), 4000, all()), Some(meta));
        }
        let plain = FrameMeta { checksum: partial, gso: None };
        assert_eq!(decode(&encode(&plain, 1), 60, all()), Some(plain));
        assert_eq!(encode(&plain, 0x102)[10..], [2, 1]);
    }

    #[test]
    fn virtio_5_1_6_nonsense_is_refused() {
        let good = FrameMeta {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso: Some(Gso { kind: GsoKind::TcpV4, size: 1448, header_len: 66 }),
        };
        let good = encode(&good, 1);
        let spoiled: [(&str, usize, u8); 6] = [
            ("segments of no bytes", 4, 0),
            ("headers longer than the frame", 3, 0xff),
            ("checksum before the Ethernet header's end", 6, 13),
            ("checksum beyond the end", 9, 0xff),
            ("segmentation without checksum", 0, 0),
            ("unknown segmentation", 1, 3),
        ];
        for (what, at, value) in spoiled {
            let mut bytes = good;
            bytes[at] = value;
            if at == 4 {
                bytes[5] = 0;
            }
            assert_eq!(decode(&bytes, 4000, all()), None, "{what}");
        }
        assert_eq!(decode(&good, 4000, Accepted::default()), None, "not negotiated");
        assert!(decode(&good, 4000, all()).is_some());
    }

    #[test]
    fn virtio_5_1_6_ecn_belongs_to_tcp_alone() {
        let udp = Gso { kind: GsoKind::Udp, size: 1000, header_len: 42 };
        let partial = Checksum::Partial { start: 34, offset: 6 };
        let mut bytes = encode(&FrameMeta { checksum: partial, gso: Some(udp) }, 1);
        bytes[1] |= GSO_ECN;
        assert_eq!(decode(&bytes, 4000, all()), None);
        bytes[1] = GSO_TCPV4 | GSO_ECN;
        assert!(decode(&bytes, 4000, all()).is_some());
    }
}
