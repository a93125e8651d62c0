//! A front-end that sends what it likes, with descriptors, and a driver that writes what it likes into rings and memory,
//! also while it is read. Nobody panics, nothing spins, and the next front-end is served.

#[path = "../../../vhost/tests/rig/mod.rs"]
mod rig;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use passt_frame::{Errno, FrameMeta, FramePort, FrontEndRequest};
use passt_guest::{Client, Guest, NetHeader, Options, RX, TX, USER_BASE};
use rig::{Host, connected, frame};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::pipe::pipe;

use crate::input::Input;

/// Entries of the rings: few, so that random indexes hit.
const SIZE: u16 = 8;

/// The next front-end.
fn assert_next_works(host: &mut Host) {
    let stream = host.attach();
    let mut guest = Guest::connect(stream, Options::default(), &mut || {
        host.turn();
    });
    host.turn();
    guest.send_frame(&frame(100, 1), NetHeader::default());
    assert_eq!(host.take_all().len(), 1, "a frame from the next guest");
    assert!(host.give(&frame(100, 2), FrameMeta::default()));
    assert_eq!(guest.recv_frame().expect("a frame for the next guest").0, frame(100, 2));
}

/// A number that is likely to mean something: a ring, a place, a size, a set of features.
fn word(input: &mut Input<'_>) -> u64 {
    match input.u8() {
        number @ 0..64 => number.into(),
        64..128 => u64::from(input.u8()) << 12,
        128..160 => USER_BASE + (u64::from(input.u8()) << 12),
        160..192 => USER_BASE + 0x10_0000 + u64::from(input.u8()),
        192..224 => 1 << (input.u8() % 64),
        _ => input.u64(),
    }
}

fn descriptor(input: &mut Input<'_>, guest: &Guest) -> Option<OwnedFd> {
    Some(match input.u8() % 6 {
        0 => guest.memory.fd().try_clone_to_owned().expect("a duplicate"),
        1 => {
            let file = memfd_create("short", MemfdFlags::CLOEXEC).expect("memory");
            ftruncate(&file, u64::from(input.u8()) << 10).expect("a size");
            file
        }
        2 => pipe().expect("a pipe").1,
        3 => eventfd(u32::from(input.u8()), EventfdFlags::CLOEXEC).expect("a counter"),
        4 => std::fs::File::open("/dev/null").expect("a device").into(),
        _ => return None,
    })
}

/// Messages with bodies and descriptors, whole, cut, and one behind another.
pub fn messages(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.u8();
    let mut host = Host::new();
    let mut guest = Guest::new(
        host.attach(),
        Options { ring_size: SIZE, rx_buffers: SIZE, ..Options::default() },
    );
    let mut pump = || {
        host.turn();
    };
    if kind & 1 != 0 {
        guest.negotiate(&mut pump);
    }
    if kind & 3 == 3 {
        guest.start(&mut pump);
    }
    while !input.is_empty() {
        message(&mut input, &mut host, &guest);
    }
    drop(guest);
    host.turn();
    assert!(!host.device.is_attached(), "the front-end has gone");
    assert_next_works(&mut host);
}

fn message(input: &mut Input<'_>, host: &mut Host, guest: &Guest) {
    let kind = input.u8();
    let request = u32::from(input.u8() % 48);
    let mut body = Vec::new();
    for _ in 0..kind & 7 {
        body.extend(word(input).to_ne_bytes());
    }
    body.extend_from_slice(input.bytes(usize::from(kind >> 3 & 3) * 3));
    let fds: Vec<OwnedFd> = (0..kind >> 6).filter_map(|_| descriptor(input, guest)).collect();
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut bytes = Client::encode(request, kind & 0x20 != 0, &body);
    if kind & 0x18 == 0x18 {
        let cut = usize::from(input.u8());
        bytes.truncate(cut);
    }
    guest.client.send_raw(&bytes, &fds);
    host.turn();
    host.give(&frame(60, 1), FrameMeta::default());
    host.take();
    while let Some(request) = host.device.take_request() {
        if matches!(request, FrontEndRequest::CheckState) {
            host.device.answer_check(if kind & 1 != 0 { Ok(()) } else { Err(Errno::IO) });
        }
    }
    host.turn();
    guest.client.received();
}

/// A descriptor of a ring that is likely to lie in memory.
fn raw(input: &mut Input<'_>) -> (u64, u32, u16, u16) {
    let at = match input.u8() {
        at @ 0..200 => u64::from(at) << 8,
        200..220 => 0x10_0000,
        220..240 => 0x20_0000 - u64::from(input.u8()),
        _ => input.u64(),
    };
    let len = match input.u8() {
        len @ 0..200 => u32::from(len) * 16,
        200..240 => u32::from(input.u16()),
        _ => input.u32(),
    };
    (at, len, u16::from(input.u8() & 7), u16::from(input.u8() % 10))
}

/// Rings and tables by hand. With the highest bit of the first byte another thread writes to them meanwhile.
pub fn rings(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.u8();
    let options =
        Options { ring_size: SIZE, rx_buffers: u16::from(kind & 3), ..Options::default() };
    let (mut host, mut guest) = connected(options);
    if kind & 0x80 != 0 {
        let seed = input.u64() | 1;
        let stop = AtomicBool::new(false);
        let memory = guest.memory.file().try_clone().expect("a duplicate");
        let stop = &stop;
        host.memory_changes = true;
        std::thread::scope(|scope| {
            scope.spawn(move || scribble(&memory, seed, stop));
            play(&mut input, &mut host, &mut guest);
            stop.store(true, Ordering::Relaxed);
        });
    } else {
        play(&mut input, &mut host, &mut guest);
    }
    host.take_all();
    assert!(host.device.is_attached(), "a driver cannot end the connection");
    drop(guest);
    host.turn();
    assert_next_works(&mut host);
}

/// Writes anywhere in the first 64 KiB, where tables and rings of these tests are.
fn scribble(memory: &File, mut state: u64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        memory.write_at(&(state >> 40).to_le_bytes(), state & 0xfff8).expect("memory");
    }
}

fn play(input: &mut Input<'_>, host: &mut Host, guest: &mut Guest) {
    while !input.is_empty() {
        let kind = input.u8();
        let index = if kind & 1 == 0 { TX } else { RX };
        match kind >> 1 & 7 {
            0 | 1 => {
                let (at, raw) = (u16::from(input.u8()) % SIZE, raw(input));
                guest.rings[index].put_descriptor(&guest.memory, at, raw);
            }
            2 => {
                let (at, len, flags, next) = raw(input);
                let mut bytes = at.to_le_bytes().to_vec();
                bytes.extend(len.to_le_bytes());
                bytes.extend(flags.to_le_bytes());
                bytes.extend(next.to_le_bytes());
                guest.memory.write(0x1000 + 16 * u64::from(input.u8() & 15), &bytes);
            }
            3 | 4 => {
                let head = u16::from(input.u8()) % (SIZE + 1);
                guest.rings[index].put_available(&guest.memory, head);
                guest.publish(index);
                guest.kick(index);
            }
            5 => {
                let by = if input.u8() < 200 { u16::from(input.u8() & 15) } else { input.u16() };
                guest.rings[index].jump_available(&guest.memory, by);
                guest.kick(index);
            }
            6 => {
                let at = u64::from(input.u16());
                guest.memory.write(at, input.piece());
            }
            _ => {
                host.give(&frame(60 + usize::from(input.u8()) * 37, 1), FrameMeta::default());
            }
        }
        host.turn();
        host.take();
    }
}
