//! No descriptor of a front-end outlives its use. One test alone in its process: it counts all open
//! descriptors.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed set-up is a failed test")]

mod rig;

use std::os::fd::{AsFd, OwnedFd};

use passt_guest::{Client, Guest, Options, request};
use rig::Host;
use rustix::event::{EventfdFlags, eventfd};

fn open() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn many(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect()
}

#[test]
fn descriptors_are_closed() {
    let mut host = Host::new();
    let before = open();
    unasked_for(&mut host);
    assert_eq!(open(), before, "descriptors with messages that carry none");
    refused(&mut host);
    assert_eq!(open(), before, "descriptors with messages that were refused");
    cut(&mut host);
    assert_eq!(open(), before, "descriptors with half a message");
    for _ in 0..3 {
        sessions(&mut host);
        assert_eq!(open(), before, "a whole session");
    }
}

/// Sends descriptors with messages that carry none; they are served all the same.
fn unasked_for(host: &mut Host) {
    let mut client = Client::new(host.attach());
    let at_rest = open();
    let fds = many(32);
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    for _ in 0..100 {
        client.send(request::GET_FEATURES, &[], &borrowed);
        host.turn();
        assert!(client.reply_u64().is_some());
        client.send(request::SET_VRING_ENABLE, &[0; 8], &borrowed);
        client.send(request::SEND_RARP, &[0; 8], &borrowed);
        host.turn();
    }
    assert!(host.device.is_attached());
    drop(borrowed);
    drop(fds);
    assert_eq!(open(), at_rest);
    drop(client);
    host.turn();
}

/// Sends more descriptors than a message carries, or any message carries.
fn refused(host: &mut Host) {
    for count in [2, 33, 253] {
        let client = Client::new(host.attach());
        let fds = many(count);
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        client.send(request::SET_VRING_KICK, &[0; 8], &borrowed);
        host.turn();
        assert!(!host.device.is_attached());
    }
}

/// Leaves in the middle of messages with descriptors.
fn cut(host: &mut Host) {
    for len in [1, 12, 19] {
        let client = Client::new(host.attach());
        let fds = many(10);
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let bytes = Client::encode(request::SET_VRING_KICK, false, &[0; 8]);
        client.send_raw(&bytes[..len], &borrowed);
        host.turn();
        drop(client);
        host.turn();
        assert!(!host.device.is_attached());
    }
}

/// Starts and restarts rings, and maps memory many times over.
fn sessions(host: &mut Host) {
    let stream = host.attach();
    let mut guest = Guest::connect(stream, Options::default(), &mut || {
        host.turn();
    });
    host.turn();
    let running = open();
    for _ in 0..10 {
        for ring in [0, 1] {
            guest.stop_ring(ring, &mut || {
                host.turn();
            });
            guest.start_ring(ring);
        }
        guest.set_memory();
        host.turn();
        assert_eq!(open(), running);
    }
    drop(guest);
    host.turn();
}
