//! More than one queue pair (virtio 1.2, sections 5.1.2 and 5.1.6.5.5), whoever serves the control queue:
//! the front-end, which starts, enables and stops rings, or we.

mod rig;

use passt_frame::{FrameMeta, FramePort, LinkChange, PortEvents};
use passt_guest::{Guest, MAX_PAIRS, NetHeader, Options, PROTOCOL_OF_UML, bit, request};
use rig::{Host, connected, frame, in_use};

const OK: Option<u8> = Some(0);
const ERR: Option<u8> = Some(1);

/// A front-end that serves the control queue itself.
fn pairs(pairs: usize) -> Options {
    Options { pairs, ..Options::default() }
}

/// A front-end that passes it on.
fn passed_on(pairs: usize) -> Options {
    Options { pairs, control: true, ..Options::default() }
}

fn command(host: &mut Host, guest: &mut Guest, bytes: &[u8]) -> Option<u8> {
    guest.command(bytes, &mut || {
        host.turn();
    })
}

/// The pairs that a frame for queue `queue` arrives at.
fn arrives_at(host: &mut Host, guest: &mut Guest, queue: u8) -> Vec<usize> {
    host.select(queue);
    assert!(host.give(&frame(100, queue), FrameMeta::default()), "room for queue {queue}");
    received(guest)
}

fn received(guest: &mut Guest) -> Vec<usize> {
    let mut got = Vec::new();
    for pair in 0..guest.control() / 2 {
        guest.pair = pair;
        while guest.recv_frame().is_some() {
            got.push(pair);
        }
    }
    got
}

#[test]
fn each_pair_moves_frames_both_ways() {
    for options in [pairs(MAX_PAIRS), passed_on(MAX_PAIRS)] {
        let (mut host, mut guest) = connected(options);
        if options.control {
            assert_eq!(command(&mut host, &mut guest, &[4, 0, 8, 0]), OK);
        }
        for pair in 0..MAX_PAIRS {
            guest.pair = pair;
            guest.send_frame(&frame(200, pair as u8), NetHeader::default());
            let taken = host.take_all();
            assert_eq!(taken.len(), 1);
            assert_eq!((taken[0].0.clone(), host.queue), (frame(200, pair as u8), pair as u8));
            assert_eq!(arrives_at(&mut host, &mut guest, pair as u8), [pair]);
        }
        assert_eq!(host.counters()["vhost.from_guest.frames"], MAX_PAIRS as u64);
        assert_eq!(host.counters()["vhost.to_guest.frames"], MAX_PAIRS as u64);
    }
}

#[test]
fn a_batch_holds_frames_of_one_pair_and_pairs_take_turns() {
    let (mut host, mut guest) = connected(pairs(3));
    for pair in 0..3 {
        guest.pair = pair;
        for _ in 0..3 {
            guest.send_frame(&frame(100, pair as u8), NetHeader::default());
        }
    }
    host.turn();
    let mut order = Vec::new();
    loop {
        let taken = host.take();
        if taken.is_empty() {
            break;
        }
        assert!(taken.iter().all(|(bytes, _)| *bytes == frame(100, host.queue)));
        assert_eq!(taken.len(), 3);
        order.push(host.queue);
        if order.len() == 1 {
            // The first one has more already, but it has had its turn.
            guest.pair = host.queue.into();
            for _ in 0..3 {
                guest.send_frame(&frame(100, host.queue), NetHeader::default());
            }
        }
    }
    assert_eq!(order, [0, 1, 2, 0]);
    assert_eq!(host.turn(), PortEvents { frames: true, ..PortEvents::default() }, "the last kick");
    assert!(host.take().is_empty());
}

#[test]
fn frames_for_a_pair_that_is_not_in_use_go_to_another() {
    let (mut host, mut guest) = in_use(pairs(3));
    assert_eq!(arrives_at(&mut host, &mut guest, 200), [0], "no such pair");
    assert_eq!(arrives_at(&mut host, &mut guest, 3), [0], "never started");
    guest.set_enable(4, false);
    host.turn();
    assert_eq!(arrives_at(&mut host, &mut guest, 2), [0], "disabled");
    guest.stop_ring(2, &mut || {
        host.turn();
    });
    assert_eq!(arrives_at(&mut host, &mut guest, 1), [0], "stopped");
    guest.set_enable(4, true);
    guest.set_enable(0, false);
    host.turn();
    assert_eq!(arrives_at(&mut host, &mut guest, 0), [2], "the first pair itself");
    assert_eq!(host.links, [LinkChange::Up], "as long as there is one, the link is up");
    guest.set_enable(4, false);
    host.turn();
    assert_eq!(host.links, [LinkChange::Up, LinkChange::Down]);
}

#[test]
fn a_pair_serves_from_its_drivers_first_kick_on() {
    let (mut host, mut guest) = connected(pairs(2));
    assert_eq!(arrives_at(&mut host, &mut guest, 1), [0]);
    guest.pair = 1;
    guest.send_frame(&frame(60, 1), NetHeader::default());
    host.turn();
    assert_eq!(arrives_at(&mut host, &mut guest, 1), [1]);
}

#[test]
fn a_pair_that_goes_away_without_room_lets_its_frames_go_elsewhere() {
    for options in [pairs(2), passed_on(2)] {
        let (mut host, mut guest) = in_use(Options { rx_buffers: 1, ..options });
        if options.control {
            assert_eq!(command(&mut host, &mut guest, &[4, 0, 2, 0]), OK);
        }
        host.select(1);
        assert!(host.give(&frame(100, 1), FrameMeta::default()));
        assert!(!host.give(&frame(100, 2), FrameMeta::default()), "no more buffers");
        assert!(!host.turn().room);
        let seen = if options.control {
            guest.send_command(&[4, 0, 1, 0], 2);
            host.turn()
        } else {
            guest.set_enable(2, false);
            host.turn()
        };
        assert!(seen.room, "there is some in the first pair");
        assert!(host.give(&frame(100, 3), FrameMeta::default()));
        assert_eq!(received(&mut guest), [0, 1]);
    }
}

/// Who was refused because of it may sleep, and the link is not down.
#[test]
fn a_pair_that_breaks_lets_its_frames_go_elsewhere() {
    // The driver breaks the ring before a reservation finds out, or while one waits for its kick.
    for refused_before in [false, true] {
        let (mut host, mut guest) = in_use(Options { rx_buffers: 1, ..pairs(2) });
        host.select(1);
        if refused_before {
            assert!(host.give(&frame(100, 1), FrameMeta::default()));
            assert!(!host.give(&frame(100, 2), FrameMeta::default()), "no more buffers");
        }
        guest.rings[2].jump_available(&guest.memory, 1000);
        if refused_before {
            guest.kick(2);
        } else {
            // What the device saw before is used up first.
            while host.give(&frame(100, 1), FrameMeta::default()) {}
        }
        assert!(host.turn().room, "there is some in the first pair; refused: {refused_before}");
        assert_eq!(host.counters()["vhost.rings_broken"], 1);
        assert_eq!(host.links, [LinkChange::Up]);
        assert!(host.give(&frame(100, 3), FrameMeta::default()));
    }
}

#[test]
fn room_is_reported_for_the_pair_that_has_it() {
    let (mut host, mut guest) = in_use(Options { rx_buffers: 1, ..pairs(2) });
    for queue in [0, 1] {
        host.select(queue);
        assert!(host.give(&frame(100, queue), FrameMeta::default()));
        assert!(!host.give(&frame(100, queue), FrameMeta::default()));
    }
    for pair in [1, 0] {
        guest.pair = pair;
        assert!(guest.recv_frame_keep().is_some());
        guest.post_buffer();
        assert!(guest.publish(2 * pair), "a kick is wanted");
        assert!(host.turn().room, "pair {pair}");
        host.select(pair as u8);
        assert!(host.give(&frame(100, 7), FrameMeta::default()));
        assert_eq!(guest.recv_frame_keep().map(|(bytes, _)| bytes), Some(frame(100, 7)));
    }
}

#[test]
fn the_driver_uses_one_pair_until_it_says_more() {
    let (mut host, mut guest) = in_use(passed_on(4));
    assert_eq!(arrives_at(&mut host, &mut guest, 3), [0], "one pair at first");
    for (pairs, arrival) in [(4, 3), (3, 0), (8, 3), (1, 0)] {
        assert_eq!(command(&mut host, &mut guest, &[4, 0, pairs, 0]), OK, "{pairs} pairs");
        assert_eq!(arrives_at(&mut host, &mut guest, 3), [arrival], "{pairs} pairs");
    }
    for wrong in [[4, 0, 0, 0], [4, 0, 9, 0], [4, 0, 1, 1], [4, 0, 0xff, 0xff], [4, 1, 1, 0]] {
        assert_eq!(command(&mut host, &mut guest, &wrong), ERR, "{wrong:?}");
    }
    assert_eq!(arrives_at(&mut host, &mut guest, 3), [0], "unchanged");
    assert_eq!(host.counters()["vhost.commands.done"], 4);
    assert_eq!(host.counters()["vhost.commands.refused"], 5);
}

#[test]
fn what_the_driver_said_survives_a_stop_of_the_control_queue() {
    let (mut host, mut guest) = in_use(passed_on(2));
    assert_eq!(command(&mut host, &mut guest, &[4, 0, 2, 0]), OK);
    let control = guest.control();
    let base = guest.stop_ring(control, &mut || {
        host.turn();
    });
    assert_eq!(base, 1);
    assert_eq!(arrives_at(&mut host, &mut guest, 1), [1]);
    guest.send_command(&[4, 0, 1, 0], 2);
    host.turn();
    assert_eq!(guest.rings[control].waiting(&guest.memory), 0, "nobody serves it");
    guest.start_ring(control);
    host.turn();
    assert_eq!(guest.rings[control].waiting(&guest.memory), 1, "what waited is served");
    assert_eq!(arrives_at(&mut host, &mut guest, 1), [0]);
}

#[test]
fn virtio_5_1_6_5_commands_are_answered_as_negotiated() {
    let table = [&[1u8, 0][..], &[1, 0, 0, 0], &[2, 0, 0, 0, 0, 1], &[0; 4]].concat();
    let cases: &[(&str, u64, &[u8], Option<u8>)] = &[
        ("promiscuous", bit::CTRL_RX, &[0, 0, 1], OK),
        ("all multicast", bit::CTRL_RX, &[0, 1, 0], OK),
        ("all unicast", bit::CTRL_RX_EXTRA, &[0, 2, 1], OK),
        ("multicast as usual", bit::CTRL_RX_EXTRA, &[0, 3, 0], OK),
        ("unicast as usual", bit::CTRL_RX_EXTRA, &[0, 4, 0], OK),
        ("broadcast as usual", bit::CTRL_RX_EXTRA, &[0, 5, 0], OK),
        ("table", bit::CTRL_RX, &table, OK),
        ("address", bit::CTRL_MAC_ADDR, &[1, 1, 2, 0, 0, 0, 0, 9], OK),
        ("add VLAN", bit::CTRL_VLAN, &[2, 0, 0xff, 0x0f], OK),
        ("remove VLAN", bit::CTRL_VLAN, &[2, 1, 0, 0], OK),
        ("announcement", bit::GUEST_ANNOUNCE, &[3, 0], OK),
        ("one pair", bit::MQ, &[4, 0, 1, 0], OK),
        ("no multicast", 0, &[0, 3, 1], ERR),
        ("no unicast", 0, &[0, 4, 1], ERR),
        ("no broadcast", 0, &[0, 5, 1], ERR),
        ("no mode", 0, &[0, 6, 1], ERR),
        ("half on", 0, &[0, 0, 2], ERR),
        ("a mode that is too long", 0, &[0, 0, 1, 1], ERR),
        ("a mode without a byte", 0, &[0, 0], ERR),
        ("a table that is too long", 0, &[&table[..], &[0]].concat(), ERR),
        ("a table that is cut", 0, &table[..table.len() - 1], ERR),
        ("a group's address", 0, &[1, 1, 1, 0, 0, 0, 0, 9], ERR),
        ("half an address", 0, &[1, 1, 2, 0, 0], ERR),
        ("no such VLAN", 0, &[2, 0, 0, 0x10], ERR),
        ("no such VLAN command", 0, &[2, 2, 0, 0], ERR),
        ("an announcement that is too long", 0, &[3, 0, 0], ERR),
        ("no such announcement", 0, &[3, 1], ERR),
        ("offloads", 0, &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0], ERR),
        ("no such class", 0, &[6, 0], ERR),
        ("nor this", 0, &[0xff, 0xff], ERR),
        ("no command", 0, &[0], ERR),
    ];
    let (mut host, mut guest) = connected(passed_on(1));
    for (what, needs, bytes, answer) in cases {
        assert_eq!(command(&mut host, &mut guest, bytes), *answer, "{what}");
        if *needs == 0 {
            continue;
        }
        let options = Options { features: !(bit::MAC | needs), ..passed_on(1) };
        let (mut host, mut guest) = connected(options);
        assert_eq!(command(&mut host, &mut guest, bytes), ERR, "{what} was not negotiated");
    }
}

#[test]
fn an_address_that_the_driver_sets_is_in_the_configuration_until_a_reset() {
    let (mut host, mut guest) = connected(passed_on(1));
    let address = |host: &mut Host, guest: &mut Guest| {
        let body = [[0u8; 4], 6u32.to_ne_bytes(), [0; 4]].concat();
        guest.send(request::GET_CONFIG, &[&body[..], &[0; 6]].concat(), &[]);
        host.turn();
        guest.client.reply().expect("connected").2[12..].to_vec()
    };
    assert_eq!(address(&mut host, &mut guest), rig::MAC);
    let set = [1, 1, 2, 0, 0, 0, 0, 9];
    assert_eq!(command(&mut host, &mut guest, &set), OK);
    assert_eq!(address(&mut host, &mut guest), set[2..]);
    guest.send(request::RESET_DEVICE, &[], &[]);
    host.turn();
    assert_eq!(address(&mut host, &mut guest), rig::MAC);
}

/// User-Mode Linux makes all rings that the configuration shows, and pays for each at every interrupt.
#[test]
fn user_mode_linux_is_shown_one_pair() {
    for (protocol, pairs) in [(u64::MAX, 8), (PROTOCOL_OF_UML, 1)] {
        let (mut host, mut guest) = connected(Options { protocol, ..passed_on(1) });
        let body = [[0u8; 4], 12u32.to_ne_bytes(), [0; 4]].concat();
        guest.send(request::GET_CONFIG, &[&body[..], &[0; 12]].concat(), &[]);
        host.turn();
        assert_eq!(guest.client.reply().expect("connected").2[20..22], [pairs, 0], "{protocol:#x}");
        // The control queue is behind the last pair; the driver has negotiated multi-queue in any case.
        assert_eq!(command(&mut host, &mut guest, &[4, 0, 1, 0]), OK);
        guest.send_frame(&frame(100, 1), NetHeader::default());
        assert_eq!(host.take_all().len(), 1);
        assert_eq!(arrives_at(&mut host, &mut guest, 0), [0]);
    }
}

/// Then its number is 2, and pair 1 does not exist.
#[test]
fn virtio_5_1_2_without_multi_queue_the_control_queue_is_ring_2() {
    let options = Options { features: !(bit::MAC | bit::MQ), ..passed_on(1) };
    let (mut host, mut guest) = connected(options);
    assert_eq!(command(&mut host, &mut guest, &[0, 0, 1]), OK);
    assert_eq!(command(&mut host, &mut guest, &[4, 0, 1, 0]), ERR);
    assert_eq!(guest.interrupts(guest.control()).min(1), 1);
    guest.send_frame(&frame(100, 1), NetHeader::default());
    assert_eq!(host.take_all().len(), 1);
    assert_eq!(arrives_at(&mut host, &mut guest, 1), [0]);
    // The next driver may have it.
    for ring in 0..3 {
        guest.stop_ring(ring, &mut || {
            host.turn();
        });
    }
    guest.features |= bit::MQ;
    guest.send(request::SET_FEATURES, &guest.features.to_ne_bytes(), &[]);
    for ring in 0..3 {
        guest.start_ring(ring);
    }
    host.turn();
    guest.send_command(&[4, 0, 1, 0], 2);
    host.turn();
    let control = guest.control();
    assert_eq!(guest.rings[control].waiting(&guest.memory), 0, "its new number is not enabled yet");
    guest.set_enable(control, true);
    host.turn();
    assert_eq!(guest.rings[control].waiting(&guest.memory), 1);
    assert_eq!(arrives_at(&mut host, &mut guest, 1), [0]);
}

#[test]
fn notifications_of_each_pair_wait_for_themselves() {
    const BULK: usize = 20;
    let (mut host, mut guest) = connected(pairs(2));
    for pair in [0, 1] {
        guest.pair = pair;
        guest.send_frame(&frame(60, 1), NetHeader::default());
        assert_eq!(host.take_all().len(), 1);
        for ring in [2 * pair, 2 * pair + 1] {
            let used = guest.rings[ring].used_index(&guest.memory);
            guest.rings[ring].set_used_event(&guest.memory, used);
            guest.interrupts(ring);
        }
    }
    for pair in [0, 1] {
        guest.pair = pair;
        for _ in 0..BULK {
            guest.send_frame(&frame(1000, 1), NetHeader::default());
        }
    }
    // The turn's flush is before the frames are taken.
    host.turn();
    let times = [1000u64, 1060].map(std::time::Duration::from_micros);
    for (pair, now) in [0, 1].into_iter().zip(times) {
        assert_eq!(host.take_unflushed().len(), BULK);
        assert_eq!(host.queue, pair);
        host.device.halves().1.select(pair);
        for _ in 0..BULK {
            assert!(host.give_unflushed(&frame(1000, 1), FrameMeta::default()));
        }
        let until = host.device.flush_lazily(now).expect("it waits");
        assert_eq!(until.as_micros(), 2000, "the first one is due first");
    }
    let due = std::time::Duration::from_micros(2000);
    assert_eq!(host.device.flush_lazily(due).map(|at| at.as_micros()), Some(2060));
    assert_eq!([1, 3].map(|ring| guest.interrupts(ring)), [1, 0]);
    assert_eq!(host.device.flush_lazily(due * 2), None);
    assert_eq!([1, 3].map(|ring| guest.interrupts(ring)), [0, 1]);
}
