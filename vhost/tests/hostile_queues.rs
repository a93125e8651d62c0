//! Control queues and pairs in the hands of hostile drivers and front-ends: what breaks stops alone, and
//! nothing else stands still.

mod rig;

use passt_frame::FrameMeta;
use passt_guest::{Guest, MAX_PAIRS, NetHeader, Options, bit, request};
use proptest::prelude::*;
use rig::{Host, connected, frame, in_use};

const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;

/// Somewhere in guest memory that nothing else uses.
const AT: u64 = 0x1000;

/// A descriptor: address, length, flags, next.
type Raw = (u64, u32, u16, u16);

fn passed_on(pairs: usize) -> Options {
    Options { pairs, control: true, ..Options::default() }
}

/// Makes a chain of hand-written descriptors available on the control queue, and lets the device look.
fn inject(host: &mut Host, guest: &mut Guest, descriptors: &[Raw], head: u16) {
    let control = guest.control();
    for (at, &raw) in descriptors.iter().enumerate() {
        guest.rings[control].put_descriptor(&guest.memory, at as u16, raw);
    }
    guest.rings[control].put_available(&guest.memory, head);
    guest.publish(control);
    guest.kick(control);
    host.turn();
}

/// Frames go both ways through `pair`.
fn assert_traffic(host: &mut Host, guest: &mut Guest, pair: usize, what: &str) {
    guest.pair = pair;
    while guest.recv_frame().is_some() {}
    guest.send_frame(&frame(100, 1), NetHeader::default());
    assert_eq!(host.take_all().len(), 1, "{what}: from the guest");
    host.select(pair as u8);
    assert!(host.give(&frame(100, 2), FrameMeta::default()), "{what}: to the guest");
    assert!(guest.recv_frame().is_some_and(|(bytes, _)| bytes == frame(100, 2)), "{what}");
}

/// The used elements of the control queue that have not been taken: their lengths.
fn used(guest: &Guest) -> Vec<u32> {
    let ring = &guest.rings[guest.control()];
    (0..ring.waiting(&guest.memory)).map(|ahead| ring.peek(&guest.memory, ahead).1).collect()
}

#[test]
fn virtio_2_7_broken_chains_stop_the_control_queue_alone() {
    let cases: [(&str, Vec<Raw>, u16); 10] = [
        ("head beyond the table", vec![], 256),
        ("next beyond the table", vec![(AT, 2, F_NEXT, 256)], 0),
        ("loop", vec![(AT, 2, F_NEXT, 0)], 0),
        ("loop of two", vec![(AT, 2, F_NEXT, 1), (AT, 1, F_NEXT, 0)], 0),
        ("loop of writable ones", vec![(AT, 2, F_NEXT, 1), (AT, 1, F_NEXT | F_WRITE, 1)], 0),
        ("to read behind to write (2.7.4.2)", vec![(AT, 1, F_NEXT | F_WRITE, 1), (AT, 2, 0, 0)], 0),
        ("beyond memory", vec![(1 << 40, 2, F_NEXT, 1), (AT, 1, F_WRITE, 0)], 0),
        ("answer beyond memory", vec![(AT, 2, F_NEXT, 1), (1 << 40, 1, F_WRITE, 0)], 0),
        ("table of no entries", vec![(AT, 0, F_INDIRECT, 0)], 0),
        ("table chained on", vec![(AT, 16, F_INDIRECT | F_NEXT, 1)], 0),
    ];
    for (what, descriptors, head) in cases {
        let (mut host, mut guest) = connected(passed_on(2));
        inject(&mut host, &mut guest, &descriptors, head);
        let control = guest.control();
        assert_eq!(guest.errors(control), 1, "{what}: error descriptor");
        assert_eq!(host.counters()["vhost.rings_broken"], 1, "{what}");
        assert!(host.device.is_attached(), "{what}: connection");
        assert_traffic(&mut host, &mut guest, 0, what);
        guest.kick(control);
        host.turn();
        assert_eq!(host.counters()["vhost.rings_broken"], 1, "{what}: only once");
        // The front-end mends it.
        let base = guest.stop_ring(control, &mut || {
            host.turn();
        });
        assert_eq!(base, 0, "{what}: the broken chain is still to be taken");
        if head == 0 {
            guest.memory.write(AT, &[0, 0, 1]);
            guest.rings[control].put_descriptor(&guest.memory, 0, (AT, 3, F_NEXT, 1));
            guest.rings[control].put_descriptor(&guest.memory, 1, (AT + 16, 1, F_WRITE, 0));
            guest.start_ring(control);
            host.turn();
            assert_eq!(used(&guest), [1], "{what}");
            assert_eq!(guest.memory.read(AT + 16, 1), [0], "{what}: carried out");
        }
    }
}

#[test]
fn chains_that_are_no_command_are_given_back() {
    let (mut host, mut guest) = connected(passed_on(1));
    let answer = (AT + 0x800, 1, F_WRITE, 0);
    let many: Vec<Raw> = (1..=100).map(|next| (AT, 1, F_NEXT, next)).chain([answer]).collect();
    // What it is, its descriptors, bytes used, carried out or refused (None: no answer).
    let cases: [(&str, Vec<Raw>, u32, Option<u8>); 8] = [
        ("no byte for the answer", vec![(AT, 3, 0, 0)], 0, None),
        ("an answer of no bytes", vec![(AT, 3, F_NEXT, 1), (AT, 0, F_WRITE, 0)], 0, None),
        ("nothing at all", vec![(AT, 0, 0, 0)], 0, None),
        ("too many pieces", many, 0, None),
        ("no command", vec![answer], 1, Some(1)),
        ("half a command", vec![(AT, 1, F_NEXT, 1), answer], 1, Some(1)),
        ("a command that is too long", vec![(AT, 0x1_0000, F_NEXT, 1), answer], 1, Some(1)),
        ("empty pieces", vec![(AT, 0, F_NEXT, 1), (AT, 3, F_NEXT, 2), answer], 1, Some(0)),
    ];
    let mut wanted = Vec::new();
    for (what, descriptors, len, answer) in cases {
        guest.memory.write(AT, &[0, 0, 1]);
        guest.memory.write(AT + 0x800, &[0xff]);
        inject(&mut host, &mut guest, &descriptors, 0);
        wanted.push(len);
        assert_eq!(used(&guest), wanted, "{what}");
        assert_eq!(guest.memory.read(AT + 0x800, 1), [answer.unwrap_or(0xff)], "{what}");
    }
    let counters = host.counters();
    assert_eq!(counters["vhost.commands.malformed"], 4);
    assert_eq!(counters["vhost.commands.refused"], 3);
    assert_eq!(counters["vhost.commands.done"], 1);
    assert_eq!(counters["vhost.rings_broken"], 0);
}

#[test]
fn commands_of_no_use_cannot_hold_the_loop() {
    let (mut host, mut guest) =
        connected(Options { ring_size: 32768, rx_buffers: 4, ..passed_on(1) });
    let control = guest.control();
    // Every chain is the whole table, without a byte.
    for i in 0..32767u16 {
        guest.rings[control].put_descriptor(&guest.memory, i, (AT, 0, F_NEXT, i + 1));
    }
    guest.rings[control].put_descriptor(&guest.memory, 32767, (AT, 0, 0, 0));
    for _ in 0..100 {
        guest.rings[control].put_available(&guest.memory, 0);
    }
    guest.publish(control);
    host.turn_once();
    let first = host.counters()["vhost.commands.malformed"];
    assert!((1..=4).contains(&first), "{first} chains in one turn");
    assert_traffic(&mut host, &mut guest, 0, "meanwhile");
    host.turn();
    assert_eq!(host.counters()["vhost.commands.malformed"], 100, "the rest follows by itself");
}

#[test]
fn a_pair_that_breaks_leaves_the_others_alone() {
    for ring in [4, 5] {
        let (mut host, mut guest) = in_use(Options { rx_buffers: 8, ..passed_on(4) });
        assert_eq!(guest.command(&[4, 0, 4, 0], &mut || turn(&mut host)), Some(0));
        guest.rings[ring].jump_available(&guest.memory, 0x4000);
        guest.kick(ring);
        host.turn();
        assert!(host.take().is_empty());
        host.select(2);
        for _ in 0..20 {
            host.give(&frame(100, 1), FrameMeta::default());
        }
        host.turn();
        assert_eq!(guest.errors(ring), 1, "ring {ring}");
        assert_eq!(host.counters()["vhost.rings_broken"], 1);
        for pair in [0, 1, 3] {
            assert_traffic(&mut host, &mut guest, pair, "another pair");
        }
        host.select(2);
        let given = host.give(&frame(100, 9), FrameMeta::default());
        guest.pair = if ring == 4 { 0 } else { 2 };
        while guest.recv_frame().is_some() {}
        assert!(given || ring == 5, "its frames go to the first pair");
    }
}

#[test]
fn what_ring_2_is_cannot_change_while_it_runs() {
    for ring in [0, 2] {
        let (mut host, guest) = connected(Options { pairs: 2, ..Options::default() });
        let features = guest.features & !bit::MQ;
        if ring == 0 {
            // With ring 2 stopped the rest may go on.
            guest.send(request::GET_VRING_BASE, &2u64.to_ne_bytes(), &[]);
        }
        guest.send(request::SET_FEATURES, &features.to_ne_bytes(), &[]);
        host.turn();
        assert_eq!(host.device.is_attached(), ring == 0);
    }
}

fn turn(host: &mut Host) {
    host.turn();
}

/// What a front-end or its driver may do to a pair at any time.
#[derive(Clone, Copy, Debug)]
enum Act {
    Stop(usize),
    Start(usize),
    Enable(usize, bool),
    Pairs(u8),
    Memory,
    Send(usize),
    Give(u8),
    Receive(usize),
    Turn,
    Take,
}

fn act() -> impl Strategy<Value = Act> {
    let ring = 0..2 * MAX_PAIRS + 1;
    let pair = 0..MAX_PAIRS;
    prop_oneof![
        1 => ring.clone().prop_map(Act::Stop),
        2 => ring.clone().prop_map(Act::Start),
        2 => (ring, any::<bool>()).prop_map(|(ring, enable)| Act::Enable(ring, enable)),
        1 => any::<u8>().prop_map(|pairs| Act::Pairs(pairs % 12)),
        1 => Just(Act::Memory),
        8 => pair.clone().prop_map(Act::Send),
        8 => any::<u8>().prop_map(|queue| Act::Give(queue % 16)),
        4 => pair.prop_map(Act::Receive),
        4 => Just(Act::Turn),
        4 => Just(Act::Take),
    ]
}

fn perform(host: &mut Host, guest: &mut Guest, act: Act) {
    match act {
        Act::Stop(ring) => {
            guest.stop_ring(ring, &mut || turn(host));
        }
        Act::Start(ring) => {
            let base = guest.stop_ring(ring, &mut || turn(host));
            guest.start_ring_at(ring, base);
        }
        Act::Enable(ring, enable) => guest.set_enable(ring, enable),
        Act::Pairs(pairs) => {
            if guest.rings[guest.control()].free() > 8 {
                guest.send_command(&[4, 0, pairs, 0], 2);
            }
        }
        Act::Memory => guest.set_memory(),
        Act::Send(pair) => {
            guest.pair = pair;
            guest.reclaim();
            if guest.can_send() {
                guest.send_frame(&frame(100, pair as u8), NetHeader::default());
            }
        }
        Act::Give(queue) => {
            host.select(queue);
            host.give(&frame(3000, queue), FrameMeta::default());
        }
        Act::Receive(pair) => {
            guest.pair = pair;
            // A restart gives spare buffers back without a byte: no frame begins with one.
            let ring = &guest.rings[2 * pair];
            if ring.waiting(&guest.memory) > 0 && ring.peek(&guest.memory, 0).1 > 0 {
                guest.recv_frame();
            }
        }
        Act::Turn => turn(host),
        Act::Take => drop(host.take()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn pairs_may_come_and_go_during_traffic(acts in proptest::collection::vec(act(), 1..120)) {
        let (mut host, mut guest) = connected(Options { rx_buffers: 64, ..passed_on(MAX_PAIRS) });
        for act in acts {
            perform(&mut host, &mut guest, act);
        }
        host.turn();
        prop_assert!(host.device.is_attached());
        prop_assert_eq!(host.counters()["vhost.rings_broken"], 0);
        // Whatever it was, a start of all rings makes all of them work.
        for ring in 0..guest.rings.len() {
            perform(&mut host, &mut guest, Act::Start(ring));
            guest.set_enable(ring, true);
        }
        host.turn();
        let control = guest.control();
        while guest.rings[control].take_used(&guest.memory).is_some() {}
        let answer = guest.command(&[4, 0, MAX_PAIRS as u8, 0], &mut || turn(&mut host));
        prop_assert_eq!(answer, Some(0));
        while !host.take_all().is_empty() {}
        for pair in 0..MAX_PAIRS {
            guest.pair = pair;
            guest.reclaim();
            let ring = &mut guest.rings[2 * pair];
            while ring.take_used(&guest.memory).is_some() {}
            guest.post_buffers(8);
            host.turn();
            assert_traffic(&mut host, &mut guest, pair, "in the end");
        }
    }
}
