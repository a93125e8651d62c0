//! The state of a guest's network on its way to another program: the stream that the front-end carries from the
//! source to the target, version 2 of passt's. All numbers are big endian, except ports, which stand as they
//! are in memory. Plain bytes to plain data and back; what comes in is checked here and believed nowhere else.
//!
//! | part | bytes | what it is |
//! |---|---|---|
//! | header | 16 | magic number, version, oldest version that it is compatible with |
//! | addresses | 42 | what was learned of the guest ([`Learned`]) |
//! | count | 4 | number N of connections |
//! | records | N times 112 | each connection as the guest knows it ([`Record`]) |
//! | sockets | N times 52, and queues | each socket as the peer knows it ([`SocketRecord`]), then what is queued in it toward the peer and toward the guest |

mod record;
mod socket;

use std::net::{Ipv4Addr, Ipv6Addr};

use super::network::{Learned, Mac};

pub(crate) use record::Record;
pub(crate) use socket::{QUEUE_MAX, SocketRecord, TcpStage, Window};

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 16;
/// Bytes of the addresses.
pub(crate) const ADDRESSES_BYTES: usize = 42;
/// Bytes of the count.
pub(crate) const COUNT_BYTES: usize = 4;

const MAGIC: u64 = 0xB1BB_1D1B_0BB1_D1B0;
const VERSION: u32 = 2;

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    /// It does not begin with the magic number.
    #[error("this is not the state of a passt")]
    Magic,
    /// The version that it has.
    #[error("Unsupported device state version: {0}")]
    Version(u32),
    /// The count and the most that there may be.
    #[error("{0} connections are more than the {1} that there can be")]
    Count(u32, usize),
    /// The length of a queue and the most that it may have.
    #[error("a queue of {0} bytes, which is more than {1}")]
    Queue(u32, u32),
    /// More of a queue was not sent yet than it has.
    #[error("a queue with more unsent bytes than bytes")]
    Unsent,
    /// It ends in the middle.
    #[error("it ends early")]
    Ended,
    /// It goes on behind its end.
    #[error("it goes on behind its end")]
    Excess,
}

/// The header of the streams that this program writes.
pub(crate) fn header() -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC.to_be_bytes());
    bytes[8..12].copy_from_slice(&VERSION.to_be_bytes());
    bytes[12..].copy_from_slice(&VERSION.to_be_bytes());
    bytes
}

/// Whether this program can read a stream with this header.
///
/// # Errors
/// Why not.
pub(crate) fn check_header(bytes: &[u8; HEADER_BYTES]) -> Result<(), StreamError> {
    let mut fields = Fields(bytes);
    let magic = u64::from_be_bytes(fields.take());
    let (version, oldest) = (fields.u32(), fields.u32());
    if magic != MAGIC || version == 0 || oldest == 0 {
        return Err(StreamError::Magic);
    }
    let known = (oldest..=version).contains(&VERSION);
    if known { Ok(()) } else { Err(StreamError::Version(version)) }
}

/// What was learned of the guest, as bytes.
pub(crate) fn addresses(learned: &Learned) -> [u8; ADDRESSES_BYTES] {
    let mut bytes = [0; ADDRESSES_BYTES];
    let v6 = |address: Option<Ipv6Addr>| address.unwrap_or(Ipv6Addr::UNSPECIFIED).octets();
    bytes[..16].copy_from_slice(&v6(learned.v6));
    bytes[16..32].copy_from_slice(&v6(learned.v6_link_local));
    bytes[32..36].copy_from_slice(&learned.v4.octets());
    bytes[36..].copy_from_slice(&learned.mac.0);
    bytes
}

/// Takes over what the source has learned. What no guest can have is left as it is.
pub(crate) fn learn(learned: &mut Learned, bytes: &[u8; ADDRESSES_BYTES]) {
    let mut fields = Fields(bytes);
    let v6 = Ipv6Addr::from(fields.take::<16>());
    let link_local = Ipv6Addr::from(fields.take::<16>());
    let v4 = Ipv4Addr::from(fields.take::<4>());
    let mac = Mac(fields.take());
    if !v6.is_unspecified() && !v6.is_multicast() && !v6.is_loopback() {
        learned.v6 = Some(v6);
    }
    if link_local.is_unicast_link_local() {
        learned.v6_link_local = Some(link_local);
    }
    if !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast() && !v4.is_loopback() {
        learned.v4 = v4;
    }
    // One of a group of stations is no guest's.
    if mac.0[0] & 1 == 0 && mac.0 != [0; 6] {
        learned.mac = mac;
    }
}

/// Reads the count of connections.
///
/// # Errors
/// [`StreamError::Count`] where it is above `most`.
pub(crate) fn count(bytes: [u8; COUNT_BYTES], most: usize) -> Result<u32, StreamError> {
    let count = u32::from_be_bytes(bytes);
    let fits = usize::try_from(count).is_ok_and(|count| count <= most);
    if fits { Ok(count) } else { Err(StreamError::Count(count, most)) }
}

/// The fields of a part of known length, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) =
            self.0.split_first_chunk().expect("parts have the length of their fields");
        self.0 = rest;
        *field
    }

    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_that_of_version_2() {
        let expected = [0xb1, 0xbb, 0x1d, 0x1b, 0x0b, 0xb1, 0xd1, 0xb0, 0, 0, 0, 2, 0, 0, 0, 2];
        assert_eq!(header(), expected);
        assert_eq!(check_header(&header()), Ok(()));
        let with = |version: u32, oldest: u32| {
            let mut header = header();
            header[8..12].copy_from_slice(&version.to_be_bytes());
            header[12..].copy_from_slice(&oldest.to_be_bytes());
            check_header(&header)
        };
        assert_eq!(with(7, 1), Ok(()), "a later one that we can read");
        assert_eq!(with(1, 1), Err(StreamError::Version(1)));
        assert_eq!(with(7, 3), Err(StreamError::Version(7)));
        assert_eq!(with(0, 0), Err(StreamError::Magic));
        assert_eq!(with(2, 0), Err(StreamError::Magic));
        for at in 0..8 {
            let mut header = header();
            header[at] ^= 1;
            assert_eq!(check_header(&header), Err(StreamError::Magic));
        }
    }

    #[test]
    fn addresses_are_taken_over_if_a_guest_can_have_them() {
        let source = Learned {
            mac: Mac([0x52, 0x54, 0, 1, 2, 3]),
            v4: Ipv4Addr::new(192, 0, 2, 9),
            v6: "2001:db8::9".parse().ok(),
            v6_link_local: "fe80::9".parse().ok(),
            kept_v4: None,
            kept_v6: None,
            tenures: Default::default(),
        };
        let nothing = Learned {
            mac: Mac([0xff; 6]),
            v4: Ipv4Addr::new(192, 0, 2, 2),
            v6: None,
            v6_link_local: None,
            kept_v4: None,
            kept_v6: None,
            tenures: Default::default(),
        };
        let mut target = nothing;
        learn(&mut target, &addresses(&source));
        assert_eq!(target, source);
        let bytes = addresses(&source);
        assert_eq!(&bytes[32..], [192, 0, 2, 9, 0x52, 0x54, 0, 1, 2, 3]);

        let mut target = source;
        let unknown = Learned { v4: Ipv4Addr::UNSPECIFIED, ..nothing };
        learn(&mut target, &addresses(&unknown));
        assert_eq!(target, source, "what the source does not know says nothing");
        learn(&mut target, &[0xff; ADDRESSES_BYTES]);
        assert_eq!(target, source);
    }

    #[test]
    fn a_count_has_a_bound() {
        assert_eq!(count([0, 0, 1, 0], 256), Ok(256));
        assert_eq!(count([0, 0, 1, 1], 256), Err(StreamError::Count(257, 256)));
        assert_eq!(count([0xff; 4], 256), Err(StreamError::Count(u32::MAX, 256)));
    }
}
