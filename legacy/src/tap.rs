//! The tap device of pasta's namespace as a link (linux/if_tun.h, Documentation/networking/tuntap.rst).
//!
//! With `IFF_VNET_HDR` each frame travels behind a virtio-net header: one read(2) brings up to 64 KiB
//! that the namespace's kernel has neither cut nor summed, and one write(2) hands as much over. What
//! the kernel leaves to us is what `TUNSETOFFLOAD` said ([`Offloads`]); what it takes from us does
//! not depend on that. Without the header, frames are whole segments with complete checksums.
//!
//! Frames lie one behind the other in two [`Arena`]s, one for each direction. A write happens at
//! `commit`, so there always is room, and every reservation is answered with *all*; a frame that the kernel does not want then is dropped and
//! counted, as a full queue of an interface does.
//!
//! The device is watched level-triggered, and no more frames are read after an event than are likely to
//! wait ([`Expected`]).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use passt_frame::net_header::{Accepted, HEADER_BYTES, decode, encode};
use passt_frame::{
    Arena, Caps, Errno, Expected, FrameDone, FrameMeta, FramePort, FromGuest, FromGuestBatch,
    GsoSet, LinkChange, MAX_FRAME_BYTES, MAX_FRAMES, PortEvents, Registrar, Stopped, ToGuest,
    ToGuestList, Trigger,
};

/// Bytes of an Ethernet header: shorter frames are none.
const ETHERNET_BYTES: usize = 14;

/// Room that a read needs.
const READ_BYTES: usize = HEADER_BYTES + MAX_FRAME_BYTES as usize;

/// Bytes of each arena: 31 of the largest frames, which is more than a cache of a core holds.
const ARENA_BYTES: usize = 2 * 1024 * 1024;

/// Frames start at multiples of this, so that no two share a cache line.
const ALIGN: usize = 64;

const _: () = assert!(ARENA_BYTES > 2 * (READ_BYTES + ALIGN));

/// What the kernel agreed to when the device was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames have a virtio-net header.
    pub header: bool,
    /// The namespace leaves checksums to us.
    pub checksum: bool,
    /// The namespace leaves TCP segmentation to us.
    pub tcp: bool,
    /// The namespace leaves UDP segmentation to us, and takes it over from us.
    pub udp: bool,
}

impl Offloads {
    fn accepted(self) -> Accepted {
        let gso = GsoSet { tcp_v4: self.tcp, tcp_v6: self.tcp, udp: self.udp };
        Accepted { checksum: self.checksum, gso }
    }

    fn caps(self) -> Caps {
        let gso = GsoSet { tcp_v4: self.header, tcp_v6: self.header, udp: self.header && self.udp };
        Caps { partial_checksum: self.header, gso, up: true }
    }

    fn header_bytes(self) -> usize {
        if self.header { HEADER_BYTES } else { 0 }
    }
}

/// One frame in an arena: where it starts behind its header, and its length.
#[derive(Clone, Copy, Debug)]
struct Slot {
    at: usize,
    len: usize,
}

/// Frames from the namespace.
struct Incoming {
    device: Rc<OwnedFd>,
    offloads: Offloads,
    arena: Arena,
    /// End of the frames that are lent.
    used: usize,
    /// A frame that `on_event` read to see whether the device still is there.
    first: Option<Slot>,
    /// Frames may wait that no event will report in this turn.
    more: bool,
    expected: Expected,
    /// Frames with a header that makes no sense, or was not agreed on.
    bad_headers: u64,
}

/// Frames to the namespace.
struct Outgoing {
    device: Rc<OwnedFd>,
    offloads: Offloads,
    arena: Arena,
    /// Frames of the reservation, in order.
    slots: Vec<usize>,
    /// Frames that the namespace had no room for.
    no_room: u64,
    /// Frames that could not be written for another reason.
    not_written: u64,
}

/// The tap device as a link.
pub struct Tap {
    incoming: Incoming,
    outgoing: Outgoing,
}

impl Tap {
    /// A link over `device`, an open tap device that does not block. It has one
    /// descriptor, and no number below is free: the kernel closes the files of a process that is killed from the
    /// highest number down, and what is opened later does not wait for the device to go.
    ///
    /// # Errors
    /// What dup(2) or epoll_ctl(2) report.
    pub fn new(device: OwnedFd, offloads: Offloads, registrar: &Registrar) -> Result<Self, Errno> {
        let device = Rc::new(with_low_number(device)?);
        registrar.add(&*device, 0, Trigger::Level)?;
        Ok(Self {
            incoming: Incoming {
                device: device.clone(),
                offloads,
                arena: Arena::new(ARENA_BYTES),
                used: 0,
                first: None,
                more: true,
                expected: Expected::default(),
                bad_headers: 0,
            },
            outgoing: Outgoing {
                device,
                offloads,
                arena: Arena::new(ARENA_BYTES),
                slots: Vec::with_capacity(MAX_FRAMES),
                no_room: 0,
                not_written: 0,
            },
        })
    }
}

/// The device under the lowest number that is free, unless its own is lower.
fn with_low_number(device: OwnedFd) -> Result<OwnedFd, Errno> {
    let other = rustix::io::fcntl_dupfd_cloexec(&device, 3)?;
    Ok(if other.as_raw_fd() < device.as_raw_fd() { other } else { device })
}

impl Incoming {
    /// Reads the next frame behind those that are lent; `None` when there is none, or no room.
    fn read(&mut self) -> Result<Option<Slot>, Errno> {
        let header_bytes = self.offloads.header_bytes();
        while self.used + READ_BYTES <= self.arena.len() {
            let range = self.used..self.used + READ_BYTES;
            let read = match self.arena.fill_from(self.device.as_fd(), range) {
                Ok(0) => return Err(Errno::PIPE),
                Ok(read) => read,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            if read >= header_bytes + ETHERNET_BYTES {
                let slot = Slot { at: self.used + header_bytes, len: read - header_bytes };
                self.used = (self.used + read).next_multiple_of(ALIGN);
                return Ok(Some(slot));
            }
            self.bad_headers += 1;
        }
        Ok(None)
    }

    fn meta(&self, slot: Slot) -> Option<FrameMeta> {
        if !self.offloads.header {
            return Some(FrameMeta::default());
        }
        let mut header = [0; HEADER_BYTES];
        self.arena.read(slot.at - HEADER_BYTES, &mut header);
        decode(&header, slot.len as u32, self.offloads.accepted())
    }
}

// SAFETY: the pieces lie in the arena, which lives as long as this half, and each frame has its own
// range until `release`.
unsafe impl FromGuest for Incoming {
    fn take(&mut self, batch: &mut FromGuestBatch) {
        let mut count = 0;
        while self.more && batch.has_room(1) {
            let next = match self.first.take() {
                Some(first) => Some(first),
                None if !self.expected.goes_on(count) => None,
                // An error means that the device is gone, which comes as an event of its own.
                None => self.read().unwrap_or(None),
            };
            let Some(slot) = next else {
                self.more = false;
                self.expected.learn(count, self.expected.goes_on(count));
                return;
            };
            count += 1;
            match self.meta(slot) {
                Some(meta) => {
                    batch.add_frame(&[self.arena.lend(slot.at..slot.at + slot.len)], meta);
                }
                None => self.bad_headers += 1,
            }
        }
    }

    fn release(&mut self) {
        self.used = 0;
    }
}

// SAFETY: the pieces lie in the arena, which lives as long as this half, and each frame has its own
// range until the reservation ends.
unsafe impl ToGuest for Outgoing {
    fn caps(&self) -> Caps {
        self.offloads.caps()
    }

    fn reserve(&mut self, list: &mut ToGuestList) -> Stopped {
        self.slots.clear();
        let mut end = 0;
        while let Some(wanted) = list.open_frame() {
            let at = end + HEADER_BYTES;
            let room = at..at + wanted as usize;
            if room.end > self.arena.len() || !list.add_frame(&[self.arena.lend(room.clone())]) {
                break;
            }
            self.slots.push(at);
            end = room.end.next_multiple_of(ALIGN);
        }
        Stopped::Ended
    }

    fn commit(&mut self, list: &ToGuestList, done: &[FrameDone]) {
        for (index, done) in done.iter().enumerate() {
            let (at, len) = (self.slots[index], list.frame_len(done.payload_len) as usize);
            if self.offloads.header {
                self.arena.write(at - HEADER_BYTES, &encode(&done.meta, 0));
            }
            let start = at - self.offloads.header_bytes();
            match self.arena.drain_to(self.device.as_fd(), start..at + len) {
                Ok(_) => {}
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOSPC | Errno::IO) => {
                    self.no_room += 1;
                }
                Err(_) => self.not_written += 1,
            }
        }
        self.slots.clear();
    }

    fn cancel(&mut self, _list: &ToGuestList) {
        self.slots.clear();
    }
}

impl FramePort for Tap {
    fn halves(&mut self) -> (&mut dyn FromGuest, &mut dyn ToGuest) {
        (&mut self.incoming, &mut self.outgoing)
    }

    fn on_event(&mut self, _token: u16) -> PortEvents {
        if self.incoming.first.is_some() {
            return PortEvents { frames: true, ..PortEvents::default() };
        }
        match self.incoming.read() {
            Ok(first) => {
                self.incoming.first = first;
                self.incoming.more = first.is_some();
                PortEvents { frames: first.is_some(), ..PortEvents::default() }
            }
            Err(errno) => {
                log::debug!("tap device: {errno}");
                PortEvents { link: Some(LinkChange::Closed), ..PortEvents::default() }
            }
        }
    }

    fn flush(&mut self) {}

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("tap.from_guest.bad_header", self.incoming.bad_headers);
        visit("tap.to_guest.no_room", self.outgoing.no_room);
        visit("tap.to_guest.not_written", self.outgoing.not_written);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use passt_frame::{
        Checksum, FromGuestLease, Gso, GsoKind, Payload, Reserve, ToGuestLease, net_header,
    };
    use rustix::event::epoll;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    const ALL: Offloads = Offloads { header: true, checksum: true, tcp: true, udp: true };

    /// A link whose device is one end of a socket that keeps frames apart, and the other end.
    fn link(offloads: Offloads) -> (Tap, OwnedFd) {
        let flags = SocketFlags::NONBLOCK;
        let (device, namespace) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let registrar = Registrar::new(Rc::new(epoll), 0);
        (Tap::new(device, offloads, &registrar).unwrap(), namespace)
    }

    fn meta() -> FrameMeta {
        FrameMeta {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso: Some(Gso { kind: GsoKind::TcpV4, size: 1000, header_len: 54 }),
        }
    }

    fn taken(tap: &mut Tap) -> Vec<(u32, FrameMeta)> {
        let mut batch = FromGuestBatch::new();
        let (from, _) = tap.halves();
        let lease = FromGuestLease::take(from, &mut batch);
        lease.map_or(Vec::new(), |l| l.frames().iter().map(|f| (f.len, f.meta)).collect())
    }

    #[test]
    fn frames_come_with_what_their_header_says() {
        let (mut tap, namespace) = link(ALL);
        assert_eq!(tap.on_event(0), PortEvents::default());
        for len in [2000, 60] {
            let mut bytes = net_header::encode(&meta(), 0).to_vec();
            bytes.resize(HEADER_BYTES + len, 7);
            rustix::io::write(&namespace, &bytes).unwrap();
        }
        assert!(tap.on_event(0).frames);
        assert_eq!(taken(&mut tap), [(2000, meta()), (60, meta())]);
        assert_eq!(taken(&mut tap), []);
    }

    #[test]
    fn no_more_frames_are_read_than_are_expected_and_no_frame_is_forgotten() {
        let (mut tap, namespace) = link(ALL);
        let send = |frames: u8| {
            for len in 0..frames {
                let mut bytes = net_header::encode(&FrameMeta::default(), 0).to_vec();
                bytes.resize(HEADER_BYTES + 60 + usize::from(len), 7);
                rustix::io::write(&namespace, &bytes).unwrap();
            }
        };
        let mut event = |frames: u8| {
            send(frames);
            let told = tap.on_event(0).frames;
            let count = taken(&mut tap).len();
            assert_eq!(told, count > 0);
            count
        };
        assert_eq!(event(1), 1, "all that is there, to begin with");
        assert_eq!([event(1), event(4), event(0)], [1, 1, 1]);
        assert_eq!([event(0), event(0), event(0)], [1, 1, 0]);
        let mut left = 60;
        send(left);
        for _ in 0..16 {
            left -= event(0) as u8;
        }
        assert_eq!(left, 0);
    }

    #[test]
    fn what_the_kernel_never_agreed_to_is_dropped_and_counted() {
        let (mut tap, namespace) = link(Offloads { header: true, ..Offloads::default() });
        let mut bytes = net_header::encode(&meta(), 0).to_vec();
        bytes.resize(HEADER_BYTES + 100, 7);
        rustix::io::write(&namespace, &bytes).unwrap();
        rustix::io::write(&namespace, &bytes[..20]).unwrap();
        assert_eq!(taken(&mut tap), []);
        let mut nonsense = 0;
        tap.counters(&mut |name, count| {
            if name == "tap.from_guest.bad_header" {
                nonsense = count;
            }
        });
        assert_eq!(nonsense, 2);
    }

    fn sent(offloads: Offloads) -> Vec<u8> {
        let (mut tap, namespace) = link(offloads);
        let mut list = ToGuestList::new();
        let (_, out) = tap.halves();
        let request = Reserve {
            header_len: 54,
            payload_len: 40_000,
            bytes: 40_000,
            payload: Payload::Datagrams,
        };
        let mut lease = ToGuestLease::reserve(out, &mut list, request).lease().unwrap();
        lease.put_header(0, &[1; 54]);
        assert_eq!(lease.put_payload(0, &[2; 40_000]), 40_000);
        lease.commit(&[FrameDone { payload_len: 40_000, meta: meta() }]);
        let mut bytes = vec![0; 70_000];
        let len = rustix::io::read(&namespace, &mut bytes[..]).unwrap();
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn frames_go_out_whole_behind_a_header_if_there_is_one() {
        let plain = sent(Offloads::default());
        assert_eq!((plain.len(), plain[53], plain[54]), (40_054, 1, 2));
        let with_header = sent(ALL);
        assert_eq!(with_header[..HEADER_BYTES], net_header::encode(&meta(), 0));
        assert_eq!(with_header[HEADER_BYTES..], plain[..]);
    }

    #[test]
    fn a_device_that_is_gone_closes_the_link() {
        let (mut tap, namespace) = link(ALL);
        drop(namespace);
        assert_eq!(tap.on_event(0).link, Some(LinkChange::Closed));
    }
}
