//! A stream link, a loop that reports its events, and the client's end of the socket.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use passt_frame::{
    FrameDone, FramePort, FromGuestBatch, FromGuestLease, LinkChange, Part, Payload, PortEvents,
    Registrar, Reserve, ToGuestLease, ToGuestList,
};
use passt_legacy::Stream;
use rustix::event::{Timespec, epoll};

/// The link with its loop.
pub struct Rig {
    /// The link.
    pub stream: Stream,
    /// How often the end of a connection was reported.
    pub closed: usize,
    epoll: Rc<OwnedFd>,
    batch: FromGuestBatch,
    list: ToGuestList,
    events: Vec<epoll::Event>,
}

impl Rig {
    /// A link without a client.
    pub fn new() -> Self {
        let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll"));
        Self {
            stream: Stream::new(Registrar::new(epoll.clone(), 0)),
            closed: 0,
            epoll,
            batch: FromGuestBatch::new(),
            list: ToGuestList::new(),
            events: Vec::with_capacity(8),
        }
    }

    /// A link with a client that the loop knows of; the other value is the client's end.
    pub fn connected() -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        let mut rig = Self::new();
        rig.stream.attach(ours).expect("attach");
        assert_eq!(rig.turn().link, Some(LinkChange::Up));
        (rig, theirs)
    }

    /// Handles the event that is there; with none, what no event reports.
    pub fn turn(&mut self) -> PortEvents {
        self.events.clear();
        let now = Timespec::default();
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        epoll::wait(&*self.epoll, spare, Some(&now)).expect("epoll_wait");
        let Some(event) = self.events.first() else { return PortEvents::default() };
        let events = self.stream.on_event(event.data.u64() as u16);
        self.closed += usize::from(events.link == Some(LinkChange::Closed));
        events
    }

    /// Calls `visit` for each batch that can be taken; returns how many there were.
    pub fn leases(&mut self, visit: &mut dyn FnMut(&mut FromGuestLease<'_>)) -> usize {
        let (from_guest, _) = self.stream.halves();
        let mut batches = 0;
        while let Some(mut lease) = FromGuestLease::take(from_guest, &mut self.batch) {
            visit(&mut lease);
            batches += 1;
        }
        batches
    }

    /// Calls `visit` for each frame that can be taken, with its length and head, and its bytes if
    /// `whole` has room for them.
    pub fn take(&mut self, whole: &mut [u8], visit: &mut dyn FnMut(&[u8])) {
        self.leases(&mut |lease| {
            for frame in 0..lease.frames().len() {
                let len = lease.frames()[frame].len;
                let copied = lease.copy_out(Part { frame, offset: 0, len }, whole);
                assert_eq!(copied, len as usize);
                visit(&whole[..copied]);
            }
        });
    }

    /// Commits a frame of `header` and `payload`; false without room.
    pub fn send(&mut self, header: &[u8], payload: &[u8]) -> bool {
        let (_, to_guest) = self.stream.halves();
        let bytes = payload.len() as u32;
        let request = Reserve {
            header_len: header.len() as u32,
            payload_len: bytes,
            bytes,
            payload: Payload::Datagrams,
        };
        let Some(mut lease) = ToGuestLease::reserve(to_guest, &mut self.list, request).lease()
        else {
            return false;
        };
        lease.put_header(0, header);
        lease.put_payload(0, payload);
        lease.commit(&[FrameDone { payload_len: bytes, ..FrameDone::default() }]);
        true
    }
}

/// A frame of `len` bytes that differ from each other and from those of other seeds.
pub fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

/// Frames as they stand in the stream.
pub fn encoded(frames: &[Vec<u8>]) -> Vec<u8> {
    let with_len = |frame: &Vec<u8>| [&(frame.len() as u32).to_be_bytes(), &frame[..]].concat();
    frames.iter().flat_map(with_len).collect()
}

/// The frames of all events that are there.
pub fn receive(rig: &mut Rig) -> Vec<Vec<u8>> {
    let (mut whole, mut found) = (vec![0; 70_000], Vec::new());
    while rig.turn().frames {
        let before = found.len();
        rig.take(&mut whole, &mut |frame| found.push(frame.to_vec()));
        if found.len() == before {
            break;
        }
    }
    found
}
