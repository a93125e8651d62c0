//! The request orders of real front-ends, replayed byte for byte: each request in, exactly the
//! expected reply out, and both rings up at the end of each start.
//!
//! A line of an order is `> request flags body descriptors` or, for what must come back, `<`; bodies
//! in hexadecimal, `-` for none. A memory message gets memory files, device state a pipe, other descriptors are eventfds.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed set-up is a failed test")]

mod rig;

use std::iter;
use std::os::fd::{AsFd, OwnedFd};

use passt_frame::{FramePort, FrontEndRequest, LinkChange};
use passt_guest::{Client, GuestMemory, request};
use rig::Host;
use rustix::event::{EventfdFlags, eventfd};

/// Bytes of each memory file: more than any order maps, none of it touched but the rings.
const FILE_BYTES: u64 = 8 << 30;

struct Line {
    reply: bool,
    request: u32,
    flags: u32,
    body: Vec<u8>,
    fds: usize,
}

fn parse(line: &str) -> Line {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [direction, request, flags, body, fds] = words[..] else { panic!("bad line: {line}") };
    let body = if body == "-" { "" } else { body };
    let byte = |i: usize| u8::from_str_radix(&body[i..i + 2], 16).unwrap();
    let recorded: Vec<u8> = (0..body.len()).step_by(2).map(byte).collect();
    let (reply, request) = (direction == "<", request.parse().unwrap());
    Line {
        reply,
        request,
        flags: flags.parse().unwrap(),
        body: native(request, reply, &recorded),
        fds: fds.parse().unwrap(),
    }
}

/// What a machine of this byte order says for `recorded`, which a little-endian one has said:
/// vhost-user's numbers are native ("Header", "Payload").
fn native(request: u32, reply: bool, recorded: &[u8]) -> Vec<u8> {
    // The bytes of its first numbers, and of each that follows.
    let (first, then): (&[usize], usize) = match request {
        request::SET_MEM_TABLE => (&[4, 4], 8),
        request::SET_VRING_ADDR => (&[4, 4], 8),
        request::SET_VRING_NUM
        | request::SET_VRING_BASE
        | request::GET_VRING_BASE
        | request::SET_VRING_ENABLE => (&[], 4),
        request::SET_DEVICE_STATE_FD if !reply => (&[], 4),
        // What follows offset, size and flags is the device's, and little-endian.
        request::GET_CONFIG => (&[4, 4, 4], 1),
        _ => (&[], 8),
    };
    let mut rest = recorded;
    let mut body = Vec::with_capacity(recorded.len());
    for bytes in first.iter().copied().chain(iter::repeat(then)) {
        let Some((number, after)) = rest.split_at_checked(bytes) else { break };
        body.extend(number);
        if cfg!(target_endian = "big") {
            let start = body.len() - bytes;
            body[start..].reverse();
        }
        rest = after;
    }
    assert!(
        rest.is_empty(),
        "request {request}: {} bytes of {} are no number",
        rest.len(),
        recorded.len()
    );
    body
}

impl Line {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [self.request, self.flags, self.body.len() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.body);
        bytes
    }

    fn descriptors(&self, memory: &GuestMemory) -> Vec<OwnedFd> {
        let make = |_| match self.request {
            request::SET_MEM_TABLE | request::ADD_MEM_REG | request::SET_LOG_BASE => {
                memory.fd().try_clone_to_owned().unwrap()
            }
            request::SET_DEVICE_STATE_FD => rustix::pipe::pipe().unwrap().1,
            _ => eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
        };
        (0..self.fds).map(make).collect()
    }
}

/// Replays an order; returns how the link changed.
fn replay(order: &str) -> Vec<LinkChange> {
    let mut host = Host::new();
    let client = Client::new(host.attach());
    let memory = GuestMemory::new(FILE_BYTES);
    let lines: Vec<Line> = order.lines().filter(|line| !line.starts_with('#')).map(parse).collect();
    let mut keep = Vec::new();
    for (i, line) in lines.iter().enumerate().filter(|(_, line)| !line.reply) {
        let fds = line.descriptors(&memory);
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        assert!(client.send_raw(&line.bytes(), &borrowed), "line {i}");
        keep.extend(fds);
        host.turn();
        serve_requests(&mut host);
        let wanted: Vec<u8> =
            lines[i + 1..].iter().take_while(|line| line.reply).flat_map(Line::bytes).collect();
        assert_eq!(client.received(), wanted, "after request {} (message {i})", line.request);
        assert!(host.device.is_attached(), "dropped at request {} (message {i})", line.request);
    }
    assert_eq!(host.counters()["vhost.rings_broken"], 0);
    drop(client);
    host.turn();
    assert!(!host.device.is_attached());
    assert_eq!(host.counters()["vhost.violations"], 0);
    host.links
}

/// Plays whoever drives the device: state is empty, and each transfer ends at once.
fn serve_requests(host: &mut Host) {
    while let Some(request) = host.device.take_request() {
        if let FrontEndRequest::CheckState = request {
            host.device.answer_check(Ok(()));
        }
    }
    host.turn();
}

use LinkChange::{Closed, Down, Up};

#[test]
fn qemu_7_2_boot_and_restart() {
    let order = include_str!("orders/qemu-7.2-boot-restart.txt");
    assert_eq!(replay(order), [Up, Down, Up, Down, Closed]);
}

#[test]
fn qemu_10_0_boot_and_restart() {
    let order = include_str!("orders/qemu-10.0-boot-restart.txt");
    assert_eq!(replay(order), [Up, Down, Up, Closed]);
}

#[test]
fn qemu_10_0_boot_with_two_pairs() {
    let order = include_str!("orders/qemu-10.0-boot-multiqueue.txt");
    assert_eq!(replay(order), [Up, Down, Closed]);
}

#[test]
fn qemu_10_0_migration_to_a_file() {
    let order = include_str!("orders/qemu-10.0-migrate.txt");
    assert_eq!(replay(order), [Up, Down, Up, Down, Closed]);
}

#[test]
fn uml_7_2_boot() {
    assert_eq!(replay(include_str!("orders/uml-7.2-boot.txt")), [Up, Closed]);
}

#[test]
fn cloud_hypervisor_boot() {
    assert_eq!(replay(include_str!("orders/cloud-hypervisor-boot.txt")), [Up, Down, Closed]);
}

#[test]
fn cloud_hypervisor_boot_with_four_pairs() {
    let order = include_str!("orders/cloud-hypervisor-multiqueue.txt");
    assert_eq!(replay(order), [Up, Down, Closed]);
}

#[test]
fn crosvm_boot() {
    assert_eq!(replay(include_str!("orders/crosvm-boot.txt")), [Up, Down, Closed]);
}
