//! Reassembly by rule and by generated cuts. The bytes are copied here as the shell does it.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::wire::ip::IpHead;
use crate::wire::ip::L4Protocol;

const NO_TIME: Timestamp = Timestamp::ZERO;

fn fragment(identification: u32, bytes: Range<u32>, more: bool) -> Fragment {
    let ip = IpHead {
        source: [192, 0, 2, 2].into(),
        destination: [198, 51, 100, 7].into(),
        hop_limit: 64,
        traffic_class: 0,
        may_be_cut: true,
        flow_label: 0,
        protocol: L4Protocol::Udp,
        l4_offset: 34,
        l4_len: bytes.end - bytes.start,
    };
    Fragment { ip, place: FragmentPlace { identification, offset: bytes.start, more } }
}

fn v6(mut fragment: Fragment) -> Fragment {
    fragment.ip.source = "2001:db8::2".parse().expect("a literal");
    fragment.ip.destination = "2001:db8:1::7".parse().expect("a literal");
    fragment
}

/// The reassembly with its buffers and counters.
#[derive(Default)]
struct Rig {
    reassembly: Reassembly,
    buffers: Vec<Vec<u8>>,
    drops: DropCounters,
}

/// What became of a fragment: `Ok(Some)` is a whole datagram.
type Outcome = Result<Option<Vec<u8>>, DropReason>;

impl Rig {
    /// A fragment arrives whose payload is cut from `datagram`.
    fn arrive(&mut self, now: Timestamp, fragment: &Fragment, datagram: &[u8]) -> Outcome {
        self.buffers.resize(REASSEMBLY_SLOTS, vec![0xee; REASSEMBLY_BUFFER_BYTES]);
        let placed = self.reassembly.add(now, fragment, &mut self.drops)?;
        let Some(placed) = placed else { return Ok(None) };
        let len = fragment.ip.l4_len as usize;
        let from = fragment.place.offset as usize;
        let room = &mut self.buffers[placed.slot][placed.offset..placed.offset + len];
        room.copy_from_slice(&datagram[from..from + len]);
        Ok(placed.whole.map(|total| self.buffers[placed.slot][..total as usize].to_vec()))
    }

    /// Fragments of datagram 1 arrive, all at once; what the last one leads to.
    fn all(&mut self, fragments: &[(Range<u32>, bool)]) -> Outcome {
        let mut last = Ok(None);
        for (bytes, more) in fragments {
            last = self.arrive(NO_TIME, &fragment(1, bytes.clone(), *more), &datagram(65536));
        }
        last
    }
}

fn datagram(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// The outcome of fragments of one datagram.
fn outcome(fragments: &[(Range<u32>, bool)]) -> Outcome {
    Rig::default().all(fragments)
}

#[test]
fn a_datagram_is_whole_in_any_order_of_its_fragments() {
    let cuts = [(0..16, true), (16..24, true), (24..29, false)];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut rig = Rig::default();
        assert_eq!(
            rig.all(&order[..2].iter().map(|&i| cuts[i].clone()).collect::<Vec<_>>()),
            Ok(None)
        );
        assert_eq!(rig.all(&[cuts[order[2]].clone()]), Ok(Some(datagram(29))), "{order:?}");
        assert_eq!(rig.reassembly.pending(), 0);
        assert_eq!(rig.drops.iter().count(), 0);
    }
}

#[test]
fn nothing_is_whole_with_a_hole_or_without_first_or_last() {
    for cuts in [
        [(0..8, true), (16..24, false)],
        [(8..16, true), (16..24, false)],
        [(0..8, true), (8..24, true)],
    ] {
        let mut rig = Rig::default();
        assert_eq!(rig.all(&cuts), Ok(None), "{cuts:?}");
        assert_eq!(rig.reassembly.pending(), 1);
    }
}

#[test]
fn rfc8200_4_5_a_fragment_that_comes_twice_is_ignored() {
    let mut rig = Rig::default();
    for fragment in [(0..16, true), (24..29, false), (0..16, true), (24..29, false)] {
        assert_eq!(rig.all(&[fragment]), Ok(None));
    }
    assert_eq!(rig.all(&[(16..24, true)]), Ok(Some(datagram(29))));
    assert_eq!(rig.drops.iter().count(), 0);
}

#[test]
fn rfc5722_4_an_overlap_condemns_the_datagram_and_what_is_still_to_come() {
    for (first, second) in [
        ((0..16, true), (0..8, true)),   // within, same start
        ((0..16, true), (8..16, true)),  // within, same end
        ((8..16, true), (0..16, true)),  // around
        ((0..16, true), (8..24, true)),  // across the end
        ((8..24, true), (0..16, true)),  // across the start
        ((8..16, true), (8..13, false)), // the last is inside
        ((64..640, true), (632..640, true)),
        ((0..512, true), (504..1024, true)),
    ] {
        let mut rig = Rig::default();
        assert_eq!(rig.all(std::slice::from_ref(&first)), Ok(None));
        assert_eq!(
            rig.all(std::slice::from_ref(&second)),
            Err(DropReason::FragmentOverlap),
            "{first:?} {second:?}"
        );
        assert_eq!(rig.all(&[first]), Err(DropReason::FragmentOverlap));
        assert_eq!(rig.all(&[(1024..1030, false)]), Err(DropReason::FragmentOverlap));
        assert_eq!(rig.reassembly.pending(), 1);
    }
}

#[test]
fn two_adjacent_fragments_are_not_repeated_by_one_that_covers_both() {
    assert_eq!(
        outcome(&[(0..8, true), (8..16, true), (0..16, true)]),
        Err(DropReason::FragmentOverlap)
    );
}

#[test]
fn fragments_that_disagree_about_the_end_condemn_the_datagram() {
    for cuts in [
        [(8..13, false), (16..24, false)], // two ends
        [(8..13, false), (8..14, false)],  // two ends in one unit
        [(8..13, false), (8..16, true)],   // the same, of which one is none
        [(8..16, false), (8..16, true)],   // the last is not
        [(8..16, true), (8..16, false)],   // what was not is the last
        [(8..16, false), (16..24, true)],  // behind the end
        [(16..24, true), (0..8, false)],   // an end before what has arrived
        [(8..13, false), (0..16, true)],   // beyond the end
    ] {
        assert_eq!(outcome(&cuts), Err(DropReason::FragmentOverlap), "{cuts:?}");
    }
}

#[test]
fn rfc8200_4_5_only_the_last_fragment_may_be_uneven() {
    for len in 1..8 {
        assert_eq!(outcome(&[(0..len, true)]), Err(DropReason::Malformed));
        assert_eq!(outcome(&[(8..8 + len, false)]), Ok(None));
    }
    assert_eq!(outcome(&[(4..12, true)]), Err(DropReason::Malformed));
}

#[test]
fn a_fragment_without_bytes_is_refused() {
    let mut rig = Rig::default();
    assert_eq!(rig.all(&[(8..8, true)]), Err(DropReason::Malformed));
    assert_eq!(rig.all(&[(8..8, false)]), Err(DropReason::Malformed));
    assert_eq!(rig.reassembly.pending(), 0, "no slot is spent on it");
}

#[test]
fn a_datagram_is_no_longer_than_a_packet_can_be() {
    let mut rig = Rig::default();
    for (end, fits_v4, fits_v6) in
        [(65_515, true, true), (65_516, false, true), (65_535, false, true), (65_536, false, false)]
    {
        let last = fragment(end, 65_512..end, false);
        let expected = |fits| if fits { Ok(None) } else { Err(DropReason::Malformed) };
        assert_eq!(rig.arrive(NO_TIME, &last, &datagram(65_536)), expected(fits_v4));
        assert_eq!(rig.arrive(NO_TIME, &v6(last), &datagram(65_536)), expected(fits_v6));
    }
    let mut overflow = fragment(1, 65_528..65_536, true);
    overflow.ip.l4_len = u32::MAX - 7;
    assert_eq!(rig.reassembly.add(NO_TIME, &overflow, &mut rig.drops), Err(DropReason::Malformed));
}

#[test]
fn the_largest_datagrams_are_whole() {
    let (v4_last, v6_last) = (65_512..65_515, 65_528..65_535);
    assert_eq!(outcome(&[(0..65_512, true), (v4_last, false)]), Ok(Some(datagram(65_515))));
    let mut rig = Rig::default();
    let sent = datagram(65_535);
    for bytes in (0..65_528).step_by(8).map(|at| at..at + 8) {
        let piece = v6(fragment(1, bytes, true));
        assert_eq!(rig.arrive(NO_TIME, &piece, &sent), Ok(None));
    }
    let last = v6(fragment(1, v6_last, false));
    assert_eq!(rig.arrive(NO_TIME, &last, &sent), Ok(Some(sent)));
}

#[test]
fn datagrams_differ_by_number_and_by_either_address() {
    let first = fragment(1, 0..8, true);
    let mut others = [first; 4];
    others[0].place.identification = 2;
    others[1].ip.source = [192, 0, 2, 3].into();
    others[2].ip.destination = [198, 51, 100, 8].into();
    others[3] = v6(first);
    let mut rig = Rig::default();
    for (index, piece) in [first].iter().chain(&others).enumerate() {
        assert_eq!(rig.arrive(NO_TIME, piece, &datagram(8)), Ok(None));
        assert_eq!(rig.reassembly.pending(), index + 1);
    }
    for piece in [first].iter().chain(&others) {
        let mut last = *piece;
        last.place = FragmentPlace { offset: 8, more: false, ..piece.place };
        assert_eq!(rig.arrive(NO_TIME, &last, &datagram(16)), Ok(Some(datagram(16))));
    }
    assert_eq!(rig.reassembly.pending(), 0);
}

#[test]
fn the_oldest_datagram_gives_way_when_there_are_too_many() {
    // One after the other, or all in one batch.
    for pause in [1, 0] {
        let mut rig = Rig::default();
        let count = REASSEMBLY_SLOTS as u32;
        for id in 0..count + 3 {
            let now = Timestamp::from_micros(u64::from(id) * pause);
            assert_eq!(rig.arrive(now, &fragment(id, 0..8, true), &datagram(8)), Ok(None));
        }
        assert_eq!(rig.reassembly.pending(), REASSEMBLY_SLOTS);
        assert_eq!(rig.drops.of(DropReason::FragmentEvicted), 3);
        for id in 3..count + 3 {
            let last = fragment(id, 8..16, false);
            assert_eq!(rig.arrive(NO_TIME, &last, &datagram(16)), Ok(Some(datagram(16))), "{id}");
        }
        assert_eq!(rig.arrive(NO_TIME, &fragment(0, 8..16, false), &datagram(16)), Ok(None));
    }
}

#[test]
fn rfc8200_4_5_a_datagram_is_given_up_after_60_seconds() {
    let mut rig = Rig::default();
    let late = NO_TIME + REASSEMBLY_TIMEOUT;
    let just_in_time = Timestamp::from_micros(late.as_micros() - 1);
    for id in [1, 2] {
        assert_eq!(rig.arrive(NO_TIME, &fragment(id, 0..8, true), &datagram(8)), Ok(None));
    }
    let last = |id| fragment(id, 8..16, false);
    assert_eq!(rig.arrive(just_in_time, &last(1), &datagram(16)), Ok(Some(datagram(16))));
    assert_eq!(rig.arrive(late, &last(2), &datagram(16)), Ok(None));
    assert_eq!(rig.drops.of(DropReason::FragmentTimeout), 1);
    assert_eq!(REASSEMBLY_TIMEOUT, Duration::from_secs(60));
}

#[test]
fn a_condemned_datagram_is_forgotten_in_time_and_counted_once() {
    let mut rig = Rig::default();
    assert_eq!(rig.all(&[(0..16, true), (8..24, true)]), Err(DropReason::FragmentOverlap));
    let late = NO_TIME + REASSEMBLY_TIMEOUT;
    assert_eq!(rig.arrive(late, &fragment(1, 0..8, true), &datagram(8)), Ok(None));
    assert_eq!(rig.arrive(late, &fragment(1, 8..16, false), &datagram(16)), Ok(Some(datagram(16))));
    assert_eq!(rig.drops.of(DropReason::FragmentTimeout), 0, "it was counted as an overlap");
}

proptest! {
    #[test]
    fn a_datagram_cut_anywhere_in_any_order_with_repetitions_is_reassembled(
        len in 9_u32..=65_515,
        cuts in proptest::collection::vec(any::<Index>(), 0..40),
        repeated in proptest::collection::vec(any::<Index>(), 0..10),
        order in proptest::collection::vec(any::<u32>(), 64),
    ) {
        let units = len.div_ceil(UNIT_BYTES) as usize;
        let mut edges: Vec<u32> =
            cuts.iter().map(|cut| cut.index(units) as u32 * UNIT_BYTES).collect();
        edges.extend([0, len]);
        edges.sort_unstable();
        edges.dedup();
        let pieces: Vec<Fragment> = edges
            .windows(2)
            .map(|pair| fragment(1, pair[0]..pair[1], pair[1] < len))
            .collect();
        let mut sent: Vec<(u32, Fragment)> =
            pieces.iter().chain(repeated.iter().map(|at| at.get(&pieces))).zip(order.iter())
                .map(|(piece, &place)| (place, *piece)).collect();
        sent.sort_by_key(|&(place, _)| place);
        let (mut rig, mut whole) = (Rig::default(), 0);
        let bytes = datagram(len as usize);
        let mut missing: std::collections::BTreeSet<u32> =
            pieces.iter().map(|piece| piece.place.offset).collect();
        for (_, piece) in &sent {
            let found = rig.arrive(NO_TIME, piece, &bytes).expect("it is fine");
            if missing.remove(&piece.place.offset) && missing.is_empty() {
                prop_assert_eq!(found.as_ref(), Some(&bytes));
                whole += 1;
                // What is repeated from now on belongs to a new datagram of the same number.
                break;
            }
            prop_assert_eq!(found, None);
        }
        prop_assert_eq!(whole, 1);
    }

    #[test]
    fn random_fragments_stay_within_bounds(
        fragments in proptest::collection::vec(
            (0_u32..20, any::<u32>(), any::<u32>(), any::<bool>(), any::<bool>(), any::<bool>(), 0_u64..20_000_000),
            0..400,
        ),
    ) {
        let mut reassembly = Reassembly::default();
        let mut drops = DropCounters::default();
        let mut now = NO_TIME;
        for (id, offset, len, more, of_v6, small, later) in fragments {
            now = now + Duration::from_micros(later);
            let mut piece = fragment(id, 0..0, more);
            // Half of them plausible, half of them anything.
            piece.place.offset = if small { offset % 64 * 8 } else { offset };
            piece.ip.l4_len = if small { len % 64 * 8 } else { len };
            let piece = if of_v6 { v6(piece) } else { piece };
            if let Ok(Some(placed)) = reassembly.add(now, &piece, &mut drops) {
                let end = placed.offset + piece.ip.l4_len as usize;
                prop_assert!(placed.slot < REASSEMBLY_SLOTS);
                prop_assert!(end <= REASSEMBLY_BUFFER_BYTES);
                prop_assert!(placed.whole.is_none_or(|total| total as usize >= end));
            }
            prop_assert!(reassembly.pending() <= REASSEMBLY_SLOTS);
        }
    }
}
