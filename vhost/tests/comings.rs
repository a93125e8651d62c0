//! Drivers and front-ends that come again in ways that QEMU has not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed set-up is a failed test")]

mod rig;

use std::os::fd::AsFd;

use passt_frame::{FrameMeta, FramePort, LinkChange};
use passt_guest::{Client, DriverRing, Guest, NetHeader, Options, RX, TX, USER_BASE, bit, request};
use rig::{Host, connected, frame};

/// A frame each way.
fn assert_traffic(host: &mut Host, guest: &mut Guest) {
    assert!(guest.send_frame(&frame(100, 1), NetHeader::default()));
    assert_eq!(host.take_all().len(), 1);
    assert!(host.give(&frame(200, 2), FrameMeta::default()));
    assert_eq!(guest.recv_frame().unwrap().0, frame(200, 2));
}

/// A front-end's new connection to the same guest.
fn reconnect(host: &mut Host, guest: &mut Guest) {
    host.turn();
    guest.client = Client::new(host.attach());
    guest.negotiate(&mut || {
        host.turn();
    });
    guest.send(request::SET_FEATURES, &guest.features.to_ne_bytes(), &[]);
    guest.set_memory();
}

#[test]
fn a_driver_that_has_only_disabled_its_rings_may_come_again() {
    // User-Mode Linux says no more when the driver is unloaded, and pages of the rings are given to others.
    let cases =
        [(true, false, false), (true, true, false), (true, false, true), (false, false, false)];
    for (moved, reused, owner) in cases {
        let (mut host, mut guest) = connected(Options::default());
        if moved {
            assert_traffic(&mut host, &mut guest);
        }
        for index in [RX, TX] {
            guest.set_enable(index, false);
        }
        host.turn();
        if reused {
            guest.rings[TX].jump_available(&guest.memory, 0x5000);
        }
        if owner {
            guest.send(request::RESET_OWNER, &[], &[]);
        }
        host.turn();
        guest.restart(&mut || {
            host.turn();
        });
        for index in [RX, TX] {
            guest.set_enable(index, true);
        }
        host.turn();
        assert_traffic(&mut host, &mut guest);
    }
}

#[test]
fn nothing_is_written_to_a_disabled_ring_that_nobody_has_kicked() {
    // The page of its used ring is somebody else's, that of its available ring is still free.
    let (mut host, mut guest) = connected(Options::default());
    assert_traffic(&mut host, &mut guest);
    for index in [RX, TX] {
        guest.set_enable(index, false);
    }
    host.turn();
    let ring = &mut guest.rings[TX];
    let (used, bytes) = (ring.used, [0xa5; 6 + 8 * 256]);
    ring.jump_available(&guest.memory, 1);
    guest.memory.write(used, &bytes);
    guest.send(request::SET_FEATURES, &guest.features.to_ne_bytes(), &[]);
    host.turn();
    assert!(guest.memory.read(used, bytes.len()) == bytes);
    // Who kicks is there: frames of a disabled ring are dropped.
    guest.kick(TX);
    host.turn();
    assert!(guest.memory.read(used, bytes.len()) != bytes);
    assert_eq!(host.counters()["vhost.from_guest.ring_disabled"], 1);
}

#[test]
fn a_ring_that_runs_is_not_set_up_anew() {
    for message in [request::SET_VRING_NUM, request::SET_VRING_BASE] {
        let (mut host, mut guest) = connected(Options::default());
        assert_traffic(&mut host, &mut guest);
        guest.send(message, &[0u32, 256].map(u32::to_ne_bytes).concat(), &[]);
        host.turn();
        assert!(!host.device.is_attached(), "{message}");
    }
}

/// Before its size was said a ring does not start: nobody knows where its used ring ends, behind which something is written.
#[test]
fn a_ring_starts_when_its_size_is_known() {
    for apart in [true, false] {
        let mut host = Host::new();
        let stream = host.attach();
        let mut guest = Guest::new(stream, Options::default());
        guest.negotiate(&mut || {
            host.turn();
        });
        guest.send(request::SET_FEATURES, &guest.features.to_ne_bytes(), &[]);
        guest.set_memory();
        guest.rings.iter_mut().for_each(|ring| ring.event_idx = true);
        guest.post_buffers(200);
        let kicks = [RX, TX].map(|index| {
            guest.send_address(index);
            let kick = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
            guest.send(request::SET_VRING_KICK, &(index as u64).to_ne_bytes(), &[kick.as_fd()]);
            guest.set_enable(index, true);
            kick
        });
        if apart {
            host.turn();
        }
        assert!(host.links.is_empty());
        for index in [RX, TX] {
            let body = [index as u32, 256].map(u32::to_ne_bytes).concat();
            guest.send(request::SET_VRING_NUM, &body, &[]);
        }
        host.turn();
        assert_eq!(host.links, [LinkChange::Up]);
        assert_eq!((guest.errors(RX), guest.errors(TX)), (0, 0));
        drop(kicks);
    }
}

/// As the first one's: whoever takes a ring for larger than it is writes where it has ended.
#[test]
fn a_second_driver_s_ring_starts_when_its_size_is_known() {
    for (event_idx, enabled) in [(true, true), (false, true), (true, false)] {
        let (mut host, mut guest) = second_driver(event_idx, enabled, 64);
        let behind = |guest: &Guest| {
            [RX, TX].map(|index| guest.memory.read(guest.rings[index].used + 6 + 8 * 64, 2048))
        };
        let before = behind(&guest);
        host.links.clear();
        assert!(host.take_all().is_empty());
        assert!(!host.give(&frame(200, 2), FrameMeta::default()));
        assert!(host.links.is_empty(), "{:?}", host.links);
        for index in [RX, TX] {
            let body = [index as u32, 64].map(u32::to_ne_bytes).concat();
            guest.send(request::SET_VRING_NUM, &body, &[]);
            guest.set_enable(index, true);
        }
        host.turn();
        assert_eq!(host.links, [LinkChange::Up]);
        // More than the ring has entries.
        for _ in 0..100 {
            assert_traffic(&mut host, &mut guest);
        }
        assert!(behind(&guest) == before, "what lies behind the rings");
        assert_eq!((guest.errors(RX), guest.errors(TX)), (0, 0));
    }
}

#[test]
fn a_second_driver_that_kicks_has_the_size_of_the_first_one() {
    let (mut host, mut guest) = second_driver(true, true, 256);
    for index in [RX, TX] {
        guest.kick(index);
    }
    host.turn();
    for _ in 0..50 {
        assert_traffic(&mut host, &mut guest);
    }
}

/// A driver behind another one, whose rings had 256 entries: its front-end has told where its rings are, and how they are
/// kicked.
fn second_driver(event_idx: bool, enabled: bool, size: u16) -> (Host, Guest) {
    let features = if event_idx { !bit::MAC } else { !bit::MAC & !bit::EVENT_IDX };
    let (mut host, mut guest) =
        connected(Options { features, rx_buffers: 40, ..Options::default() });
    assert_traffic(&mut host, &mut guest);
    for index in [RX, TX] {
        guest.stop_ring(index, &mut || {
            host.turn();
        });
        guest.set_enable(index, enabled);
        let ring = &mut guest.rings[index];
        guest.memory.write(ring.used, &[0; 4096]);
        *ring = DriverRing::new(ring.descriptors, size, event_idx);
        ring.begin_at(&guest.memory, 0);
    }
    for _ in 0..40 {
        guest.post_buffer();
    }
    guest.rings[RX].publish(&guest.memory);
    for index in [RX, TX] {
        let base = [index as u32, 0].map(u32::to_ne_bytes).concat();
        guest.send(request::SET_VRING_BASE, &base, &[]);
        guest.send_address(index);
        guest.send_new_kick(index);
    }
    host.turn();
    (host, guest)
}

#[test]
fn a_ring_from_which_nothing_was_taken_may_be_set_up_anew() {
    // Size and base behind the kick descriptor; the ring is enabled by then, later, or not: its frames are dropped then.
    for (early, late) in [(true, true), (false, true), (false, false)] {
        for apart in [true, false] {
            let mut host = Host::new();
            let stream = host.attach();
            let mut guest = Guest::new(stream, Options::default());
            guest.negotiate(&mut || {
                host.turn();
            });
            for index in [RX, TX] {
                guest.set_enable(index, early);
            }
            guest.send(request::SET_FEATURES, &guest.features.to_ne_bytes(), &[]);
            guest.set_memory();
            guest.rings.iter_mut().for_each(|ring| ring.event_idx = true);
            guest.post_buffers(200);
            for index in [RX, TX] {
                let size = std::mem::replace(&mut guest.rings[index].size, 64);
                guest.start_ring_at(index, 17);
                guest.rings[index].size = size;
            }
            if apart {
                host.turn();
            }
            for index in [RX, TX] {
                let body = |value: u32| [index as u32, value].map(u32::to_ne_bytes).concat();
                guest.send(request::SET_VRING_NUM, &body(256), &[]);
                guest.send(request::SET_VRING_BASE, &body(0), &[]);
                guest.set_enable(index, late);
            }
            host.turn();
            assert!(host.device.is_attached());
            assert!(host.take_all().is_empty());
            if late {
                assert_traffic(&mut host, &mut guest);
            } else {
                guest.send_frame(&frame(100, 1), NetHeader::default());
                assert!(host.take_all().is_empty());
                assert_eq!(host.counters()["vhost.from_guest.ring_disabled"], 1);
            }
            assert_eq!(host.counters()["vhost.rings_broken"], 0);
        }
    }
}

#[test]
fn a_ring_that_did_not_fit_in_memory_starts_with_a_size_that_does() {
    let (mut host, mut guest) = connected(Options::default());
    let set_size = |guest: &Guest, size: u32| {
        for index in [RX, TX] {
            let body = [index as u32, size].map(u32::to_ne_bytes).concat();
            guest.send(request::SET_VRING_NUM, &body, &[]);
        }
    };
    // The memory ends behind the second ring of 256 entries, and nothing was taken from either.
    let end = guest.rings[TX].used + 4096;
    let words = [1, 0, end, USER_BASE, 0];
    let body: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_ne_bytes()).collect();
    guest.send(request::SET_MEM_TABLE, &body, &[guest.memory.fd()]);
    set_size(&guest, 4096);
    host.turn();
    for _ in 0..3 {
        guest.kick(TX);
        host.turn();
    }
    assert_eq!((guest.errors(RX), guest.errors(TX)), (0, 1), "told once");
    set_size(&guest, 256);
    guest.set_memory();
    host.turn();
    assert_traffic(&mut host, &mut guest);
}

#[test]
fn rings_that_start_at_what_is_available_go_on_at_what_was_used() {
    // As Cloud Hypervisor does when its back-end has died.
    let (mut host, mut guest) = connected(Options::default());
    assert_traffic(&mut host, &mut guest);
    let mut lost = Host::new();
    std::mem::swap(&mut host, &mut lost);
    drop(lost);
    // The one that has died took this frame and gave nothing back.
    guest.send_frame(&frame(300, 3), NetHeader::default());
    reconnect(&mut host, &mut guest);
    for index in [RX, TX] {
        let available = guest.rings[index].available_index(&guest.memory);
        assert_ne!(available, guest.rings[index].last_used());
        guest.start_ring_at(index, available.into());
    }
    host.turn();
    assert_eq!(host.take_all()[0].0, frame(300, 3), "it is sent again");
    assert_traffic(&mut host, &mut guest);
    assert_eq!(host.counters()["vhost.rings_broken"], 0);
}

#[test]
fn a_driver_may_fill_its_ring_before_the_front_end_starts_it_at_what_is_available() {
    // Cloud Hypervisor starts rings when the driver is ready; that of FreeBSD has filled its ring by then. The second
    // driver may have come just as far as the first one had.
    for buffers in [64, 1] {
        let (mut host, mut guest) = connected(Options::default());
        assert_traffic(&mut host, &mut guest);
        for index in [RX, TX] {
            guest.stop_ring(index, &mut || {
                host.turn();
            });
            let ring = &mut guest.rings[index];
            *ring = DriverRing::new(ring.descriptors, ring.size, ring.event_idx);
            ring.begin_at(&guest.memory, 0);
        }
        guest.post_buffers(buffers);
        for index in [RX, TX] {
            let available = guest.rings[index].available_index(&guest.memory);
            guest.start_ring_at(index, available.into());
        }
        host.turn();
        assert!(host.device.take_request().is_none(), "no snapshot was loaded");
        assert!(host.take_all().is_empty());
        assert_traffic(&mut host, &mut guest);
    }
}

#[test]
fn rings_that_start_with_another_device_s_state_go_on_where_they_are_told_to() {
    let (mut host, mut guest) = connected(Options::default());
    let (read, write) = rustix::pipe::pipe().unwrap();
    drop(write);
    for index in [RX, TX] {
        guest.stop_ring(index, &mut || {
            host.turn();
        });
    }
    drop(host);
    host = Host::new();
    reconnect(&mut host, &mut guest);
    // To be loaded, while the guest is stopped.
    let load = [1u32, 0].map(u32::to_ne_bytes).concat();
    guest.send(request::SET_DEVICE_STATE_FD, &load, &[read.as_fd()]);
    host.turn();
    let available = guest.rings[RX].available_index(&guest.memory);
    guest.start_ring_at(RX, available.into());
    guest.start_ring_at(TX, 0);
    host.turn();
    assert!(!host.give(&frame(200, 2), FrameMeta::default()), "the other one has its buffers");
}

#[test]
fn queues_are_counted_as_each_front_end_counts_them() {
    // Without the configuration, as QEMU: pairs. With it, as crosvm and User-Mode Linux: rings.
    // Without the bit for several, one.
    let (mq, config) = (1u64, 1u64 << 9);
    for (protocol, expected) in [(mq, 8), (mq | config, 17), (0, 1), (config, 1)] {
        let mut host = Host::new();
        let mut client = Client::new(host.attach());
        client.send(request::SET_PROTOCOL_FEATURES, &protocol.to_ne_bytes(), &[]);
        client.send(request::GET_QUEUE_NUM, &[], &[]);
        host.turn();
        assert_eq!(client.reply_u64(), Some(expected));
    }
}
