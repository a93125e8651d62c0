//! Memory tables that are wrong, and memory that goes away under a running device.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed set-up is a failed test")]

mod rig;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use passt_frame::{FrameMeta, FramePort, LinkChange, Payload, Reserve};
use passt_guest::{Client, Guest, GuestMemory, NetHeader, Options, RX, TX, USER_BASE, request};
use rig::{Host, connected, frame};
use rustix::fs::{MemfdFlags, SealFlags, memfd_create};

const MIB: u64 = 1 << 20;

/// A region: guest address, size, user address, file offset.
type Region = [u64; 4];

fn table(regions: &[Region]) -> Vec<u8> {
    let mut body = (regions.len() as u64).to_ne_bytes().to_vec();
    for word in regions.iter().flatten() {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    body
}

fn file(len: u64) -> OwnedFd {
    let fd = memfd_create("region", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, len).unwrap();
    fd
}

/// Sends a table on a fresh connection; whether the device took it.
fn takes_table(regions: &[Region], fd: &OwnedFd) -> bool {
    let mut host = Host::new();
    let client = Client::new(host.attach());
    client.send(request::SET_MEM_TABLE, &table(regions), &vec![fd.as_fd(); regions.len()]);
    host.turn();
    host.device.is_attached()
}

/// The same, region by region with ADD_MEM_REG.
fn takes_regions(regions: &[Region], fd: &OwnedFd) -> bool {
    let mut host = Host::new();
    let client = Client::new(host.attach());
    let slots = 1u64 << 15;
    client.send(request::SET_PROTOCOL_FEATURES, &slots.to_ne_bytes(), &[]);
    for region in regions {
        let mut body = 0u64.to_ne_bytes().to_vec();
        for word in region {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        client.send(request::ADD_MEM_REG, &body, &[fd.as_fd()]);
        host.turn();
    }
    host.device.is_attached()
}

#[test]
fn tables_are_checked_as_a_whole() {
    let fd = file(16 * MIB);
    let cases: [(&str, bool, Vec<Region>); 12] = [
        ("one", true, vec![[0, MIB, USER_BASE, 0]]),
        ("two, unsorted", true, vec![[4 * MIB, MIB, 0, 0], [0, MIB, 8 * MIB, MIB]]),
        ("side by side", true, vec![[0, MIB, 0, 0], [MIB, MIB, MIB, MIB]]),
        ("overlap", false, vec![[0, MIB, 0, 0], [MIB - 4096, MIB, 4 * MIB, MIB]]),
        ("one within the other", false, vec![[0, 4 * MIB, 0, 0], [MIB, 4096, 8 * MIB, 0]]),
        ("overlap for the front-end", false, vec![[0, MIB, 0, 0], [4 * MIB, MIB, 4096, 0]]),
        ("empty", false, vec![[0, 0, 0, 0]]),
        ("guest address overflows", false, vec![[u64::MAX - 4095, MIB, 0, 0]]),
        ("user address overflows", false, vec![[0, MIB, u64::MAX - 4095, 0]]),
        ("offset overflows", false, vec![[0, MIB, 0, u64::MAX - 4095]]),
        ("beyond the file", false, vec![[0, MIB, 0, 15 * MIB + 4096]]),
        ("offset not of a page", false, vec![[0, MIB, 0, 100]]),
    ];
    for (what, taken, regions) in cases {
        assert_eq!(takes_table(&regions, &fd), taken, "table: {what}");
        assert_eq!(takes_regions(&regions, &fd), taken, "regions: {what}");
    }
    assert!(!takes_table(&[[0, MIB, 0, 0], [0, MIB, 0, 0]], &fd), "the same twice in one table");
    assert!(!takes_table(&[[0, 1 << 62, 0, 0]], &fd), "larger than any file");
    let many: Vec<Region> = (0..64).map(|i| [i * 4096, 4096, i * 4096, 0]).collect();
    assert!(takes_regions(&many, &fd), "64 regions");
    let too_many: Vec<Region> = (0..65).map(|i| [i * 4096, 4096, i * 4096, 0]).collect();
    assert!(!takes_regions(&too_many, &fd), "65 regions");
}

#[test]
fn files_that_cannot_be_guest_memory_are_refused() {
    let region = [[0, MIB, USER_BASE, 0]];
    let sealed = file(MIB);
    rustix::fs::fcntl_add_seals(&sealed, SealFlags::WRITE).unwrap();
    let path = tempfile::NamedTempFile::new().unwrap();
    path.as_file().set_len(MIB).unwrap();
    let read_only = OwnedFd::from(File::open(path.path()).unwrap());
    let (pipe, _write) = rustix::pipe::pipe().unwrap();
    let socket = OwnedFd::from(std::os::unix::net::UnixStream::pair().unwrap().0);
    let folder = OwnedFd::from(File::open("/").unwrap());
    for (what, fd) in [
        ("sealed", sealed),
        ("read-only", read_only),
        ("pipe", pipe),
        ("socket", socket),
        ("folder", folder),
    ] {
        assert!(!takes_table(&region, &fd), "{what}");
        assert!(!takes_regions(&region, &fd), "{what}");
    }
}

#[test]
fn a_device_may_be_guest_memory() {
    // As one of persistent memory, which has no size that anybody is told.
    let zero = OwnedFd::from(File::options().read(true).write(true).open("/dev/zero").unwrap());
    let regions = [[0, MIB, USER_BASE, 0]];
    assert!(takes_table(&regions, &zero));
    assert!(takes_regions(&regions, &zero));
    // mmap(2) refuses one that cannot be mapped.
    let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    assert!(!takes_table(&regions, &null));
}

#[test]
fn removing_a_region_needs_the_region() {
    let fd = file(MIB);
    for (guest, stays) in [(0u64, true), (4096, false)] {
        let mut host = Host::new();
        let client = Client::new(host.attach());
        client.send(request::SET_PROTOCOL_FEATURES, &(1u64 << 15).to_ne_bytes(), &[]);
        let region = |guest: u64| {
            [0, guest, MIB, USER_BASE, 0].iter().flat_map(|word| word.to_ne_bytes()).collect()
        };
        let body: Vec<u8> = region(0);
        client.send(request::ADD_MEM_REG, &body, &[fd.as_fd()]);
        let body: Vec<u8> = region(guest);
        client.send(request::REM_MEM_REG, &body, &[]);
        host.turn();
        assert_eq!(host.device.is_attached(), stays);
    }
}

/// QEMU before 8.1 adds each region once for each queue pair, and removes it as often.
#[test]
fn a_region_may_be_added_again_and_is_removed_as_often() {
    let (fd, other) = (file(MIB), file(MIB));
    let region = |offset: u64| -> Vec<u8> {
        [0, 0, MIB / 2, USER_BASE, offset].iter().flat_map(|word| word.to_ne_bytes()).collect()
    };
    let connect = || {
        let mut host = Host::new();
        let client = Client::new(host.attach());
        client.send(request::SET_PROTOCOL_FEATURES, &(1u64 << 15).to_ne_bytes(), &[]);
        for _ in 0..4 {
            client.send(request::ADD_MEM_REG, &region(0), &[fd.as_fd()]);
        }
        host.turn();
        assert!(host.device.is_attached());
        (host, client)
    };
    for (what, offset, fd) in [("another file", 0, &other), ("another place", MIB / 2, &fd)] {
        let (mut host, client) = connect();
        client.send(request::ADD_MEM_REG, &region(offset), &[fd.as_fd()]);
        host.turn();
        assert!(!host.device.is_attached(), "{what} at the same address");
    }
    let (mut host, client) = connect();
    for removed in 1..=5 {
        client.send(request::REM_MEM_REG, &region(0), &[]);
        host.turn();
        assert_eq!(host.device.is_attached(), removed < 5, "removed {removed} times");
    }
    let (mut host, client) = connect();
    for _ in 0..1000 {
        client.send(request::ADD_MEM_REG, &region(0), &[fd.as_fd()]);
        host.turn();
    }
    assert!(!host.device.is_attached(), "not without end");
}

/// The same QEMU has each queue pair replace a region, one after the other.
#[test]
fn a_region_that_was_added_again_may_be_replaced_as_often() {
    const PAIRS: usize = 3;
    let (mut host, mut guest) = connected(Options::default());
    let len = guest.memory.len();
    let (old, new) = ([0, len, USER_BASE, 0], [0, len - 4096, USER_BASE, 0]);
    (1..PAIRS).for_each(|_| send_region(&guest, request::ADD_MEM_REG, old));
    for i in 0..20 {
        let (from, to) = if i % 2 == 0 { (old, new) } else { (new, old) };
        for _ in 0..PAIRS {
            send_region(&guest, request::REM_MEM_REG, from);
            host.turn();
            send_region(&guest, request::ADD_MEM_REG, to);
            host.turn();
        }
        assert!(host.device.is_attached(), "{i}");
        guest.send_frame(&frame(100, i), NetHeader::default());
        assert_eq!(host.take_all()[0].0, frame(100, i));
    }
    for removed in 1..=PAIRS + 1 {
        send_region(&guest, request::REM_MEM_REG, old);
        host.turn();
        assert_eq!(host.device.is_attached(), removed <= PAIRS, "removed {removed} times");
    }
}

#[test]
fn rings_outside_of_memory_end_the_connection() {
    let memory = GuestMemory::new(16 * MIB);
    let good = [USER_BASE, USER_BASE + 0x3000, USER_BASE + 0x2000];
    let far = USER_BASE + 16 * MIB;
    let cases: [(&str, [u64; 3]); 8] = [
        ("good", good),
        ("descriptors far away", [0x1000, good[1], good[2]]),
        ("descriptors over the end", [far - 16, good[1], good[2]]),
        ("used ring over the end", [good[0], far - 4, good[2]]),
        ("available ring over the end", [good[0], good[1], far - 2]),
        ("used ring at the last byte that fits", [good[0], far - 6 - 8 * 256 - 2, good[2]]),
        ("descriptors not aligned", [good[0] + 8, good[1], good[2]]),
        ("all at the end of the address space", [u64::MAX - 15; 3]),
    ];
    for (what, [descriptors, used, available]) in cases {
        let mut host = Host::new();
        let client = Client::new(host.attach());
        let regions = [[0, 16 * MIB, USER_BASE, 0]];
        client.send(request::SET_MEM_TABLE, &table(&regions), &[memory.fd()]);
        client.send(request::SET_VRING_NUM, &[0, 0, 0, 0, 0, 1, 0, 0], &[]);
        let mut body = vec![0; 8];
        for word in [descriptors, used, available, 0] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        client.send(request::SET_VRING_ADDR, &body, &[]);
        host.turn();
        let taken = what.starts_with("good") || what.contains("fits");
        assert_eq!(host.device.is_attached(), taken, "{what}");
    }
}

/// Until its size is known, a ring has no end; it is looked for when the ring starts.
#[test]
fn the_place_of_a_ring_may_be_said_before_its_size() {
    for size in [256u32, 4096] {
        let (mut host, mut guest) = connected(Options::default());
        guest.send_frame(&frame(60, 0), NetHeader::default());
        assert_eq!(host.take_all().len(), 1);
        // The memory ends behind the second ring of 256 entries. That of the driver before was larger.
        for size in [4096u32, size] {
            for index in [RX, TX] {
                guest.stop_ring(index, &mut || {
                    host.turn();
                });
            }
            let end = guest.rings[TX].used + 4096;
            let body = table(&[[0, end, USER_BASE, 0]]);
            guest.send(request::SET_MEM_TABLE, &body, &[guest.memory.fd()]);
            for index in [RX, TX] {
                guest.send_address(index);
                let body = [index as u32, size].map(u32::to_ne_bytes).concat();
                guest.send(request::SET_VRING_NUM, &body, &[]);
            }
        }
        host.turn();
        assert!(host.device.is_attached());
        let kick = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        for index in [RX as u64, TX as u64] {
            guest.send(request::SET_VRING_KICK, &index.to_ne_bytes(), &[kick.as_fd()]);
        }
        host.links.clear();
        host.turn();
        let errors = (guest.errors(RX), guest.errors(TX));
        assert_eq!(errors, (0, u64::from(size > 256)), "{size} entries");
        assert_eq!(host.links, [LinkChange::Up]);
    }
}

#[test]
fn memory_may_be_mapped_anew_under_running_rings() {
    let (mut host, mut guest) = connected(Options::default());
    for i in 0..10 {
        guest.set_memory();
        host.turn();
        guest.send_frame(&frame(100, i), NetHeader::default());
        assert_eq!(host.take_all()[0].0, frame(100, i));
        assert!(host.give(&frame(100, i), FrameMeta::default()));
        assert_eq!(guest.recv_frame().unwrap().0, frame(100, i));
    }
}

/// ADD_MEM_REG or REM_MEM_REG.
fn send_region(guest: &Guest, message: u32, region: Region) {
    let body: Vec<u8> = [0].iter().chain(&region).flat_map(|word| word.to_ne_bytes()).collect();
    let fds = [guest.memory.fd()];
    guest.send(message, &body, if message == request::ADD_MEM_REG { &fds } else { &[] });
}

/// QEMU removes a region that it replaces before it adds the new one, and the guest runs meanwhile.
#[test]
fn rings_go_on_when_their_region_was_replaced() {
    for (at_once, kicked) in [(true, false), (false, false), (false, true)] {
        let (mut host, mut guest) = connected(Options::default());
        let len = guest.memory.len();
        for i in 0..5 {
            guest.send_frame(&frame(100, i), NetHeader::default());
            assert_eq!(host.take_all()[0].0, frame(100, i));
            assert!(host.give(&frame(100, i), FrameMeta::default()));
            assert_eq!(guest.recv_frame().unwrap().0, frame(100, i));
            host.links.clear();
            send_region(&guest, request::REM_MEM_REG, [0, len, USER_BASE, 0]);
            if !at_once {
                assert_eq!(host.turn().link, Some(LinkChange::Down));
                if kicked {
                    guest.send_frame(&frame(200, i), NetHeader::default());
                    host.turn();
                    guest.kick(TX);
                    host.turn();
                }
            }
            send_region(&guest, request::ADD_MEM_REG, [0, len, USER_BASE, 0]);
            host.turn();
            if !at_once {
                assert_eq!(host.links, [LinkChange::Down, LinkChange::Up]);
                let sent: &[_] = if kicked { &[frame(200, i)] } else { &[] };
                let taken: Vec<_> = host.take_all().into_iter().map(|(bytes, _)| bytes).collect();
                assert_eq!(taken, sent, "meanwhile");
            }
        }
        assert_eq!((guest.errors(RX), guest.errors(TX)), (0, if kicked { 5 } else { 0 }));
        assert!(host.device.take_request().is_none(), "no snapshot was loaded");
        assert!(host.device.is_attached());
    }
}

/// As QEMU does while firmware changes what is where: the rings stay, and the buffers are away for a moment.
#[test]
fn a_chain_that_is_looked_at_while_its_region_is_replaced_is_not_lost() {
    for missed in [false, true] {
        let (mut host, mut guest) = connected(Options::default());
        let (len, border) = (guest.memory.len(), 0x40_0000u64);
        let regions =
            [[0, border, USER_BASE, 0], [border, len - border, USER_BASE + border, border]];
        let fds = [guest.memory.fd(), guest.memory.fd()];
        guest.send(request::SET_MEM_TABLE, &table(&regions), &fds);
        host.turn();
        for i in 0..5 {
            host.links.clear();
            send_region(&guest, request::REM_MEM_REG, regions[1]);
            host.turn();
            assert!(!host.give(&frame(100, i), FrameMeta::default()), "no buffer is there");
            guest.send_frame(&frame(200, i), NetHeader::default());
            assert!(host.take_all().is_empty(), "it is not there");
            if missed {
                guest.kick(TX);
                host.turn();
            }
            send_region(&guest, request::ADD_MEM_REG, regions[1]);
            host.turn();
            // However short the time was, who was refused is told that there is room again.
            host.turn();
            assert_eq!(host.links, [LinkChange::Down, LinkChange::Up]);
            assert!(host.give(&frame(100, i), FrameMeta::default()));
            assert_eq!(guest.recv_frame().unwrap().0, frame(100, i));
            let taken: Vec<_> = host.take_all().into_iter().map(|(bytes, _)| bytes).collect();
            assert_eq!(taken, [frame(200, i)], "once");
        }
        assert_eq!((guest.errors(RX), guest.errors(TX)), (0, if missed { 5 } else { 0 }));
    }
}

#[test]
fn who_was_refused_hears_of_it_although_the_region_is_back_at_once() {
    let (mut host, mut guest) = connected(Options::default());
    let (len, border) = (guest.memory.len(), 0x40_0000u64);
    let regions = [[0, border, USER_BASE, 0], [border, len - border, USER_BASE + border, border]];
    let fds = [guest.memory.fd(), guest.memory.fd()];
    guest.send(request::SET_MEM_TABLE, &table(&regions), &fds);
    host.turn();
    send_region(&guest, request::REM_MEM_REG, regions[1]);
    host.turn();
    host.links.clear();
    assert!(!host.give_unflushed(&frame(100, 1), FrameMeta::default()));
    // Before the turn is over.
    send_region(&guest, request::ADD_MEM_REG, regions[1]);
    host.turn();
    host.turn();
    assert_eq!(host.links, [LinkChange::Down, LinkChange::Up]);
    assert!(host.give(&frame(100, 1), FrameMeta::default()));
    assert_eq!(guest.recv_frame().unwrap().0, frame(100, 1));
}

#[test]
fn a_ring_that_was_stopped_or_left_without_memory_does_not_come_back_by_itself() {
    for stopped in [true, false] {
        let (mut host, mut guest) = connected(Options::default());
        let len = guest.memory.len();
        guest.send_frame(&frame(100, 1), NetHeader::default());
        assert_eq!(host.take_all().len(), 1);
        send_region(&guest, request::REM_MEM_REG, [0, len, USER_BASE, 0]);
        host.turn();
        for index in [RX, TX] {
            if stopped {
                let base = guest.stop_ring(index, &mut || {
                    host.turn();
                });
                assert_eq!(base, index as u32, "where it was");
            } else {
                guest.set_enable(index, false);
                let base = [index as u32, 0].map(u32::to_ne_bytes).concat();
                guest.send(request::SET_VRING_BASE, &base, &[]);
            }
        }
        send_region(&guest, request::ADD_MEM_REG, [0, len, USER_BASE, 0]);
        for index in [RX, TX] {
            guest.set_enable(index, true);
        }
        host.links.clear();
        host.turn();
        assert_eq!((host.links.as_slice(), host.device.is_attached()), (&[][..], true));
    }
}

#[test]
fn rings_that_lose_their_memory_stop() {
    let (mut host, guest) = connected(Options::default());
    let regions = [[0, MIB, USER_BASE, 0]];
    guest.send(request::SET_MEM_TABLE, &table(&regions), &[guest.memory.fd()]);
    assert_eq!(host.turn().link, Some(LinkChange::Down));
    assert_eq!((guest.errors(RX), guest.errors(TX)), (1, 1));
    assert!(host.device.is_attached());
}

#[test]
fn a_frame_may_lie_across_two_regions() {
    let (mut host, mut guest) = connected(Options::default());
    // The first transmit slot starts right behind the receive buffers.
    let slot = 0x40_0000 + 256 * 1536;
    let border = (slot + 4096u64).next_multiple_of(4096);
    let len = guest.memory.len();
    let regions = [[0, border, USER_BASE, 0], [border, len - border, USER_BASE + border, border]];
    let body = table(&regions);
    guest.send(request::SET_MEM_TABLE, &body, &[guest.memory.fd(), guest.memory.fd()]);
    host.turn();
    guest.send_frame(&frame(9000, 5), NetHeader::default());
    assert_eq!(host.take_all()[0].0, frame(9000, 5));
}

/// Truncates guest memory, lets the device touch it, and checks that only the connection ends.
fn assert_survives(options: Options, touch: impl FnOnce(&mut Host)) {
    let (mut host, guest) = connected(options);
    guest.memory.file().set_len(0).unwrap();
    touch(&mut host);
    host.turn();
    assert!(!host.device.is_attached());
    assert_eq!(host.links.last(), Some(&LinkChange::Closed));
    assert_eq!(host.counters()["vhost.violations"], 1);
    let (_host, _guest) = connected(Options::default());
}

#[test]
fn a_file_that_shrinks_ends_the_connection_alone() {
    let touches: [fn(&mut Host); 4] = [
        |host| assert!(host.take().is_empty()),
        |host| {
            host.give(&frame(100, 1), FrameMeta::default());
        },
        |host| {
            let request = Reserve {
                header_len: 14,
                payload_len: 100,
                bytes: 100,
                payload: Payload::Datagrams,
            };
            host.reserve(request, |_| (Vec::new(), ()));
        },
        |host| {
            host.give(&frame(9000, 1), FrameMeta::default());
            host.take();
        },
    ];
    for touch in touches {
        assert_survives(Options::default(), touch);
        assert_survives(Options { rx_buffers: 0, ..Options::default() }, touch);
    }
}

#[test]
fn a_file_that_shrinks_under_a_reservation_ends_the_connection_alone() {
    let (mut host, guest) = connected(Options::default());
    let request =
        Reserve { header_len: 14, payload_len: 9000, bytes: 9000, payload: Payload::Datagrams };
    host.reserve(request, |lease| {
        guest.memory.file().set_len(0).unwrap();
        lease.put_header(0, &frame(14, 1));
        lease.put_payload(0, &frame(9000, 1));
        (vec![passt_frame::FrameDone { payload_len: 9000, meta: FrameMeta::default() }], ())
    });
    host.turn();
    assert!(!host.device.is_attached());
}
