//! Random bytes where a driver writes its rings and where a front-end writes its messages: nothing
//! panics, nothing hangs, the next front-end is served.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed set-up is a failed test")]

mod rig;

use std::os::fd::{AsFd, OwnedFd};

use passt_frame::{Errno, FrameMeta, FramePort, FrontEndRequest};
use passt_guest::{Client, Guest, NetHeader, Options, RX, TX, USER_BASE, bit, request};
use proptest::prelude::*;
use rig::{Host, connected, frame};

/// Entries of the rings: few, so that random indexes hit.
const SIZE: u16 = 8;

/// A descriptor that is likely to lie in memory.
fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let guest = prop_oneof![0u64..0x8000, Just(0x10_0000u64), Just(0x20_0000u64), any::<u64>()];
    let len = prop_oneof![Just(16u32), Just(48), 0u32..2000, any::<u32>()];
    (guest, len, 0u16..8, prop_oneof![0..SIZE, any::<u16>()])
}

fn assert_next_works(host: &mut Host) {
    let stream = host.attach();
    let mut guest = Guest::connect(stream, Options::default(), &mut || {
        host.turn();
    });
    host.turn();
    guest.send_frame(&frame(100, 1), NetHeader::default());
    assert_eq!(host.take_all().len(), 1);
    assert!(host.give(&frame(100, 2), FrameMeta::default()));
    assert_eq!(guest.recv_frame().unwrap().0, frame(100, 2));
}

proptest! {
    #[test]
    fn random_rings_break_nothing(
        tables in prop::collection::vec(descriptor(), 2 * SIZE as usize),
        indirect in prop::collection::vec(descriptor(), 16),
        heads in prop::collection::vec((any::<bool>(), 0..SIZE + 1), 0..20),
        jump in prop_oneof![4 => Just(0u16), 1 => any::<u16>()],
    ) {
        let options = Options { ring_size: SIZE, rx_buffers: 0, ..Options::default() };
        let (mut host, mut guest) = connected(options);
        for (i, raw) in tables.iter().enumerate() {
            let ring = i / usize::from(SIZE);
            guest.rings[ring].put_descriptor(&guest.memory, i as u16 % SIZE, *raw);
        }
        for (i, (at, len, flags, next)) in indirect.iter().enumerate() {
            let mut bytes = at.to_le_bytes().to_vec();
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(&flags.to_le_bytes());
            bytes.extend_from_slice(&next.to_le_bytes());
            guest.memory.write(0x1000 + 16 * i as u64, &bytes);
        }
        for (tx, head) in heads {
            let index = if tx { TX } else { RX };
            guest.rings[index].put_available(&guest.memory, head);
            guest.publish(index);
            guest.kick(index);
            host.turn();
            host.take();
            host.give(&frame(60, 1), FrameMeta::default());
        }
        guest.rings[TX].jump_available(&guest.memory, jump);
        guest.kick(TX);
        host.take_all();
        prop_assert!(host.device.is_attached());
        drop(guest);
        host.turn();
        assert_next_works(&mut host);
    }

    #[test]
    fn random_messages_break_nothing(
        messages in prop::collection::vec(
            (0u32..45, any::<bool>(), prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..64)),
            1..12,
        ),
        garbage in prop::collection::vec(any::<u8>(), 0..64),
        connect in any::<bool>(),
    ) {
        let mut host = Host::new();
        let mut guest = Guest::new(host.attach(), Options::default());
        if connect {
            let mut pump = || {
                host.turn();
            };
            guest.negotiate(&mut pump);
            guest.start(&mut pump);
        }
        for (request, need_reply, body) in messages {
            guest.client.send_raw(&Client::encode(request, need_reply, &body), &[]);
            host.turn();
        }
        guest.client.send_raw(&garbage, &[]);
        host.turn();
        drop(guest);
        host.turn();
        prop_assert!(!host.device.is_attached());
        assert_next_works(&mut host);
    }

    /// What a front-end says when it moves a guest, in any order, with descriptors of any kind.
    #[test]
    fn random_migrations_break_nothing(
        messages in prop::collection::vec(
            (
                prop::sample::select(&MOVING[..]),
                prop::collection::vec(word(), 0..6),
                prop::sample::select(&["none", "memory", "short", "pipe", "counter"][..]),
                any::<bool>(),
            ),
            1..16,
        ),
    ) {
        let options = Options { ring_size: SIZE, rx_buffers: SIZE, ..Options::default() };
        let (mut host, guest) = connected(options);
        for (request, words, kind, ok) in messages {
            let body: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let fds = descriptors(&guest, kind);
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            guest.client.send(request, &body, &borrowed);
            host.turn();
            host.give(&frame(60, 1), FrameMeta::default());
            host.take();
            while let Some(request) = host.device.take_request() {
                if matches!(request, FrontEndRequest::CheckState) {
                    host.device.answer_check(if ok { Ok(()) } else { Err(Errno::IO) });
                }
            }
            host.turn();
            guest.client.received();
        }
        drop(guest);
        host.turn();
        prop_assert!(!host.device.is_attached());
        assert_next_works(&mut host);
    }
}

/// Requests that move a guest, and those before and behind them.
const MOVING: [u32; 11] = [
    request::SET_LOG_BASE,
    request::SET_LOG_FD,
    request::SET_FEATURES,
    request::SET_VRING_ADDR,
    request::SET_VRING_BASE,
    request::GET_VRING_BASE,
    request::SET_VRING_KICK,
    request::SET_DEVICE_STATE_FD,
    request::CHECK_DEVICE_STATE,
    request::SET_MEM_TABLE,
    request::RESET_DEVICE,
];

/// A word of a body: ring numbers, lengths of logs, features with and without a log, places of rings.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..4,
        Just(4096),
        Just(1 << 32),
        Just(1 << 32 | 5 << 25 | bit::MRG_RXBUF),
        Just(0x10_0000),
        Just(USER_BASE + 0x10_0000),
        any::<u64>(),
    ]
}

fn descriptors(guest: &Guest, kind: &str) -> Vec<OwnedFd> {
    let short = || {
        let file = rustix::fs::memfd_create("short", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 8192).unwrap();
        file
    };
    match kind {
        "memory" => vec![guest.memory.fd().try_clone_to_owned().unwrap()],
        "short" => vec![short()],
        "pipe" => vec![rustix::pipe::pipe().unwrap().1],
        "counter" => vec![rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()],
        _ => Vec::new(),
    }
}
