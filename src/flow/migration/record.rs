//! A connection as the guest knows it: 112 bytes, packed.
//!
//! | bytes | content |
//! |---|---|
//! | 2 | interfaces of the two sides |
//! | 2 times 36 | each side: our address, the endpoint's, our port, the endpoint's |
//! | 4 | retries, the guest's window scale, ours, which ends of the streams have come and gone |
//! | 4 | the guest's MSS |
//! | 4 | size of the send buffer, in units of 256 bytes: only for programs that cannot measure it |
//! | 2 | flags and the last duplicate acknowledgement: not used |
//! | 4 | windows from and to the guest |
//! | 20 | next byte to the guest, acknowledged by it, next byte from it, acknowledged to it, its first byte |

use std::net::Ipv6Addr;

use super::Fields;
use crate::flow::side::{Endpoint, Pif, Side};
use crate::flow::tcp::{Ends, Image};
use crate::wire::seq::SeqNr;

const ESTABLISHED: u8 = 4;
const FROM_PEER: u8 = 8;
const TO_PEER: u8 = 16;
const FROM_GUEST: u8 = 32;
const TO_GUEST: u8 = 64;
const ACKED_BY_GUEST: u8 = 128;

/// Unit of the size of the send buffer, as a shift.
const SEND_BUFFER_UNIT: u32 = 8;

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The side that has opened it, then the other.
    pub(crate) sides: [Side; 2],
    /// The connection itself.
    pub(crate) image: Image,
    /// Size of the socket's send buffer, in bytes.
    pub(crate) send_buffer: u32,
    /// The sequence number of the guest's SYN, as far as that can be told.
    pub(crate) first_from_guest: SeqNr,
}

impl Record {
    /// Bytes of a record.
    pub(crate) const BYTES: usize = 112;

    /// As bytes.
    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let Self { sides, image, send_buffer, first_from_guest } = self;
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend(sides.map(|side| side.pif as u8));
        for side in sides {
            bytes.extend(side.ours.octets());
            bytes.extend(side.endpoint.octets());
            bytes.extend(side.ours.port().to_ne_bytes());
            bytes.extend(side.endpoint.port().to_ne_bytes());
        }
        bytes.extend([image.retries, image.guest_scale, image.our_scale, events(image.ends)]);
        bytes.extend(image.guest_mss.to_be_bytes());
        bytes.extend((send_buffer >> SEND_BUFFER_UNIT).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(image.window_from_guest.to_be_bytes());
        bytes.extend(image.window_to_guest.to_be_bytes());
        let numbers = [
            image.next_to_guest,
            image.acked_by_guest,
            image.next_from_guest,
            image.acked_to_guest,
            first_from_guest,
        ];
        bytes.extend(numbers.iter().flat_map(|number| number.0.to_be_bytes()));
        bytes.try_into().expect("the fields have the length of a record")
    }

    /// From bytes. `None` if that is no established connection between a guest and a socket of the host.
    pub(crate) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let pifs = [fields.u8(), fields.u8()];
        let sides = pifs.map(|pif| side(pif, &mut fields));
        let [retries, guest_scale, our_scale, events] = fields.take();
        let (guest_mss, send_buffer) = (fields.u32(), fields.u32());
        let _flags_and_duplicates = fields.u16();
        let (window_from_guest, window_to_guest) = (fields.u16(), fields.u16());
        let [next_to_guest, acked_by_guest, next_from_guest, acked_to_guest, first_from_guest] =
            [(); 5].map(|()| SeqNr(fields.u32()));
        let image = Image {
            retries,
            guest_scale,
            our_scale,
            ends: ends(events),
            guest_mss,
            window_from_guest,
            window_to_guest,
            next_to_guest,
            acked_by_guest,
            next_from_guest,
            acked_to_guest,
        };
        let [Some(first), Some(second)] = sides else { return None };
        let sides = [first, second];
        let of_a_guest =
            matches!([first.pif, second.pif], [Pif::Host, Pif::Tap] | [Pif::Tap, Pif::Host]);
        let usable = of_a_guest && events & ESTABLISHED != 0 && sides.iter().all(is_usable);
        let send_buffer = send_buffer.saturating_mul(1 << SEND_BUFFER_UNIT);
        usable.then_some(Self { sides, image, send_buffer, first_from_guest })
    }
}

fn events(ends: Ends) -> u8 {
    let bit = |is: bool, bit| if is { bit } else { 0 };
    ESTABLISHED
        | bit(ends.from_peer, FROM_PEER)
        | bit(ends.to_peer, TO_PEER)
        | bit(ends.from_guest, FROM_GUEST)
        | bit(ends.to_guest, TO_GUEST)
        | bit(ends.acked_by_guest, ACKED_BY_GUEST)
}

fn ends(events: u8) -> Ends {
    let has = |bit| events & bit != 0;
    Ends {
        from_peer: has(FROM_PEER),
        to_peer: has(TO_PEER),
        from_guest: has(FROM_GUEST),
        to_guest: has(TO_GUEST),
        acked_by_guest: has(ACKED_BY_GUEST),
    }
}

fn side(pif: u8, fields: &mut Fields<'_>) -> Option<Side> {
    let [ours, endpoint] = [(); 2].map(|()| Ipv6Addr::from(fields.take::<16>()));
    let [our_port, port] = [(); 2].map(|()| u16::from_ne_bytes(fields.take()));
    let pif = [Pif::Host, Pif::Tap, Pif::Splice].into_iter().find(|known| *known as u8 == pif)?;
    let ours = Endpoint::new(ours.to_canonical(), our_port);
    let endpoint = Endpoint::new(endpoint.to_canonical(), port);
    Some(Side { pif, ours, endpoint })
}

/// Whether a connection can have such a side: addresses of one station and one family, and ports. Which address
/// is ours on the host is the kernel's to say.
fn is_usable(side: &Side) -> bool {
    let station = |end: Endpoint| !end.ip().is_unspecified() && !end.ip().is_multicast();
    let same_family = side.ours.ip().is_ipv4() == side.endpoint.ip().is_ipv4();
    let any = side.pif == Pif::Host && side.ours.ip().is_unspecified();
    station(side.endpoint)
        && side.endpoint.port() != 0
        && (station(side.ours) && same_family || any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn record() -> Record {
        let at = |text: &str| Endpoint::from(text.parse::<std::net::SocketAddr>().unwrap());
        Record {
            sides: [
                Side { pif: Pif::Tap, ours: at("198.51.100.7:80"), endpoint: at("192.0.2.2:4660") },
                Side { pif: Pif::Host, ours: at("192.0.2.2:258"), endpoint: at("198.51.100.7:80") },
            ],
            image: Image {
                retries: 1,
                guest_scale: 7,
                our_scale: 8,
                ends: Ends { from_guest: true, to_peer: true, ..Ends::default() },
                guest_mss: 61440,
                window_from_guest: 0x1234,
                window_to_guest: 0x5678,
                next_to_guest: SeqNr(0x0102_0304),
                acked_by_guest: SeqNr(0x0102_0300),
                next_from_guest: SeqNr(0xfffe_fdfc),
                acked_to_guest: SeqNr(0xfffe_fdf0),
            },
            send_buffer: 0x0002_0000,
            first_from_guest: SeqNr(7),
        }
    }

    #[test]
    fn each_field_has_its_place() {
        let bytes = record().to_bytes();
        let v4 = |last: [u8; 4]| [&[0; 10][..], &[0xff; 2], &last].concat();
        assert_eq!(bytes[..2], [2, 1]);
        assert_eq!(bytes[2..18], v4([198, 51, 100, 7]));
        assert_eq!(bytes[18..34], v4([192, 0, 2, 2]));
        assert_eq!(bytes[34..38], [80u16.to_ne_bytes(), 4660u16.to_ne_bytes()].concat());
        assert_eq!(bytes[74..78], [1, 7, 8, 4 | 16 | 32]);
        assert_eq!(bytes[78..82], [0, 0, 0xf0, 0]);
        assert_eq!(bytes[82..86], [0, 0, 2, 0]);
        assert_eq!(bytes[86..92], [0, 0, 0x12, 0x34, 0x56, 0x78]);
        assert_eq!(bytes[92..100], [1, 2, 3, 4, 1, 2, 3, 0]);
        assert_eq!(bytes[108..], [0, 0, 0, 7]);
        assert_eq!(Record::from_bytes(&bytes), Some(record()));
    }

    #[test]
    fn what_is_no_connection_of_a_guest_is_refused() {
        let with = |change: &dyn Fn(&mut Record)| {
            let mut record = record();
            change(&mut record);
            Record::from_bytes(&record.to_bytes())
        };
        let at = |text: &str| Endpoint::from(text.parse::<std::net::SocketAddr>().unwrap());
        assert!(with(&|r| r.sides[1].ours = at("0.0.0.0:9")).is_some(), "the kernel chooses");
        assert_eq!(with(&|r| r.sides[0].pif = Pif::Host), None);
        assert_eq!(with(&|r| r.sides[1].pif = Pif::Tap), None);
        assert_eq!(with(&|r| r.sides[1].pif = Pif::Splice), None);
        assert_eq!(with(&|r| r.sides[0].ours = at("0.0.0.0:80")), None);
        assert_eq!(with(&|r| r.sides[0].ours = at("[2001:db8::1]:80")), None);
        assert_eq!(with(&|r| r.sides[0].endpoint = at("224.0.0.1:80")), None);
        assert_eq!(with(&|r| r.sides[1].endpoint = at("198.51.100.7:0")), None);
        for (at, value) in [(0, 0), (0, 4), (1, 255), (77, 0), (77, 0xfb)] {
            let mut bytes = record().to_bytes();
            bytes[at] = value;
            assert_eq!(Record::from_bytes(&bytes), None, "{value} at {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_none(bytes in proptest::collection::vec(any::<u8>(), Record::BYTES)) {
            let bytes: [u8; Record::BYTES] = bytes.try_into().expect("as long");
            if let Some(record) = Record::from_bytes(&bytes) {
                prop_assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record));
            }
        }

        #[test]
        fn what_one_writes_another_reads(
            numbers in any::<[u32; 6]>(), windows in any::<[u16; 2]>(), small in any::<[u8; 3]>(),
            ends in any::<[bool; 5]>(), ports in 1..=u16::MAX,
        ) {
            let mut record = record();
            let [next_to, acked_by, next_from, acked_to, first, guest_mss] = numbers;
            record.first_from_guest = SeqNr(first);
            record.sides[1].endpoint = Endpoint::new(record.sides[1].endpoint.ip(), ports);
            let [from_peer, to_peer, from_guest, to_guest, acked_by_guest] = ends;
            record.image = Image {
                retries: small[0],
                guest_scale: small[1],
                our_scale: small[2],
                ends: Ends { from_peer, to_peer, from_guest, to_guest, acked_by_guest },
                guest_mss,
                window_from_guest: windows[0],
                window_to_guest: windows[1],
                next_to_guest: SeqNr(next_to),
                acked_by_guest: SeqNr(acked_by),
                next_from_guest: SeqNr(next_from),
                acked_to_guest: SeqNr(acked_to),
            };
            prop_assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record));
        }
    }
}
