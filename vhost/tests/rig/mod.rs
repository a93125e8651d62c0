//! The test rig: a device on an epoll loop of its own, and a guest in the same thread.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed set-up is a failed test")]

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use passt_frame::{
    FrameDone, FrameMeta, FramePort, FromGuestBatch, FromGuestLease, LinkChange, Part, Payload,
    PortEvents, Registrar, Reserve, ToGuestLease, ToGuestList,
};
use passt_guest::{Guest, NetHeader, Options};
use passt_vhost::{Config, Device};
use rustix::event::epoll;

pub const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// A device and what its loop needs.
pub struct Host {
    pub device: Device,
    epoll: Rc<OwnedFd>,
    batch: FromGuestBatch,
    list: ToGuestList,
    pub links: Vec<LinkChange>,
    /// The guest's queue that the last batch came from.
    pub queue: u8,
    /// Somebody writes to the guest's memory meanwhile: what was copied earlier may be other bytes.
    pub memory_changes: bool,
}

impl Host {
    pub fn new() -> Self {
        let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
        let registrar = Registrar::new(epoll.clone(), 0);
        let device = Device::new(registrar, Config { mac: Some(MAC), mtu: 65520 }).unwrap();
        let (batch, list) = (FromGuestBatch::new(), ToGuestList::new());
        let (links, memory_changes) = (Vec::new(), false);
        Self { device, epoll, batch, list, links, queue: 0, memory_changes }
    }

    /// Connects; returns the front-end's end.
    pub fn attach(&mut self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.device.attach(theirs).unwrap();
        ours
    }

    /// Handles events until there are none; returns all that was reported.
    pub fn turn(&mut self) -> PortEvents {
        let mut all = PortEvents::default();
        for _ in 0..100_000 {
            let Some(seen) = self.turn_once() else { return all };
            all.frames |= seen.frames;
            all.room |= seen.room;
            all.link = seen.link.or(all.link);
        }
        panic!("the loop never comes to rest");
    }

    /// One turn of the loop; `None` when there were no events.
    pub fn turn_once(&mut self) -> Option<PortEvents> {
        let mut all = PortEvents::default();
        let none = epoll::EventFlags::empty();
        let mut events = [epoll::Event { flags: none, data: epoll::EventData::new_u64(0) }; 8];
        let zero = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let n = epoll::wait(&*self.epoll, &mut events, Some(&zero)).unwrap();
        for event in &events[..n] {
            let seen = self.device.on_event(event.data.u64() as u16);
            all.frames |= seen.frames;
            all.room |= seen.room;
            all.link = seen.link.or(all.link);
            self.links.extend(seen.link);
        }
        self.device.flush();
        (n > 0).then_some(all)
    }

    /// Takes one batch of frames from the guest.
    pub fn take(&mut self) -> Vec<(Vec<u8>, FrameMeta)> {
        let frames = self.take_unflushed();
        self.device.flush();
        frames
    }

    /// The same, and the guest does not see yet that they were taken.
    pub fn take_unflushed(&mut self) -> Vec<(Vec<u8>, FrameMeta)> {
        let mut frames = Vec::new();
        let (from_guest, _) = self.device.halves();
        if let Some(mut lease) = FromGuestLease::take(from_guest, &mut self.batch) {
            self.queue = lease.queue();
            for index in 0..lease.frames().len() {
                let len = lease.frames()[index].len;
                let mut bytes = vec![0; len as usize];
                let copied = lease.copy_out(Part { frame: index, offset: 0, len }, &mut bytes);
                assert_eq!(copied, bytes.len());
                let frame = &lease.frames()[index];
                let head = &bytes[..bytes.len().min(128)];
                assert_eq!(frame.head().len(), head.len());
                assert!(self.memory_changes || frame.head() == head, "{:?}", frame.head());
                frames.push((bytes, frame.meta));
            }
        }
        frames
    }

    /// All frames that the guest has sent.
    pub fn take_all(&mut self) -> Vec<(Vec<u8>, FrameMeta)> {
        let mut frames = Vec::new();
        loop {
            self.turn();
            let more = self.take();
            if more.is_empty() {
                return frames;
            }
            frames.extend(more);
        }
    }

    /// Sends one frame to the guest; false when there is no room for all of it.
    pub fn give(&mut self, frame: &[u8], meta: FrameMeta) -> bool {
        let given = self.give_unflushed(frame, meta);
        self.device.flush();
        given
    }

    /// The same, not yet visible to the guest.
    pub fn give_unflushed(&mut self, frame: &[u8], meta: FrameMeta) -> bool {
        let payload = frame.len() as u32 - 14;
        let request = Reserve {
            header_len: 14,
            payload_len: payload,
            bytes: payload,
            payload: Payload::Datagrams,
        };
        let (_, to_guest) = self.device.halves();
        let Some(mut lease) = ToGuestLease::reserve(to_guest, &mut self.list, request).lease()
        else {
            return false;
        };
        lease.put_header(0, &frame[..14]);
        assert_eq!(lease.put_payload(0, &frame[14..]), payload as usize);
        lease.commit(&[FrameDone { payload_len: payload, meta }]);
        true
    }

    /// Frames that are given from now on are for the guest's queue `queue`.
    pub fn select(&mut self, queue: u8) {
        self.device.halves().1.select(queue);
    }

    /// Reserves, lets `fill` decide what is done, commits and flushes. `None` without room.
    pub fn reserve<T>(
        &mut self,
        request: Reserve,
        fill: impl FnOnce(&mut ToGuestLease<'_>) -> (Vec<FrameDone>, T),
    ) -> Option<T> {
        let (_, to_guest) = self.device.halves();
        let lease = ToGuestLease::reserve(to_guest, &mut self.list, request).lease();
        let result = lease.map(|mut lease| {
            let (done, result) = fill(&mut lease);
            lease.commit(&done);
            result
        });
        self.device.flush();
        result
    }

    pub fn counters(&self) -> HashMap<&'static str, u64> {
        let mut all = HashMap::new();
        self.device.counters(&mut |name, value| {
            all.insert(name, value);
        });
        all
    }
}

/// A connected device and guest.
pub fn connected(options: Options) -> (Host, Guest) {
    let mut host = Host::new();
    let stream = host.attach();
    let guest = Guest::connect(stream, options, &mut || {
        host.turn();
    });
    host.turn();
    (host, guest)
}

/// A connected device and guest whose driver has sent a frame through each pair.
pub fn in_use(options: Options) -> (Host, Guest) {
    let (mut host, mut guest) = connected(options);
    for pair in (0..options.pairs).rev() {
        guest.pair = pair;
        guest.send_frame(&frame(60, 0), NetHeader::default());
        assert_eq!(host.take_all().len(), 1);
        guest.reclaim();
    }
    (host, guest)
}

/// A frame of `len` bytes that is different for each `seed`.
pub fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}
