//! Each page that the device writes is marked in the front-end's log, and a log that is wrong ends its connection.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed set-up is a failed test")]

mod rig;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use passt_frame::{FrameDone, FrameMeta, Payload, Reserve};
use passt_guest::{
    DirtyLog, Guest, GuestMemory, NetHeader, Options, PAGE, RX, TX, USER_BASE, bit, request,
};
use rig::{Host, connected, frame};
use rustix::event::{EventfdFlags, eventfd};

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A guest whose memory is compared around each thing that the device does.
struct World {
    host: Host,
    guest: Guest,
    log: DirtyLog,
    socket: [UnixStream; 2],
    dice: Dice,
    seed: u8,
    /// Pages that were marked, and those among them whose bytes did not change, rings apart.
    marked: usize,
    in_vain: usize,
}

/// Pages that differ.
fn changed(before: &[u8], after: &[u8]) -> BTreeSet<u64> {
    let pages = before.chunks(PAGE as usize).zip(after.chunks(PAGE as usize));
    pages.zip(0..).filter(|((before, after), _)| before != after).map(|(_, page)| page).collect()
}

fn everything(memory: &GuestMemory) -> Vec<u8> {
    memory.read(0, memory.len() as usize)
}

impl World {
    fn new(options: Options, seed: u64) -> Self {
        let (mut host, mut guest) = connected(options);
        let log = DirtyLog::new(guest.memory.len());
        guest.start_log(&log, &mut || {
            host.turn();
        });
        let (ours, theirs) = UnixStream::pair().unwrap();
        let dice = Dice(seed * 0x9e37_79b9 + 1);
        Self { host, guest, log, socket: [ours, theirs], dice, seed: 0, marked: 0, in_vain: 0 }
    }

    /// Lets the device do something while the guest does nothing.
    fn watch<T>(&mut self, what: &str, act: impl FnOnce(&mut Host) -> T) -> T {
        self.log.take();
        let before = everything(&self.guest.memory);
        let result = act(&mut self.host);
        self.compare(what, &before);
        result
    }

    fn compare(&mut self, what: &str, before: &[u8]) {
        let changed = changed(before, &everything(&self.guest.memory));
        let marked = self.log.take();
        let missing: Vec<u64> = changed.difference(&marked).copied().collect();
        assert!(missing.is_empty(), "{what}: pages {missing:x?} changed, marked are {marked:x?}");
        let rings = 0x100..0x100 + 0x100 * self.guest.rings.len() as u64;
        let in_vain = marked.difference(&changed).filter(|page| !rings.contains(page));
        self.in_vain += in_vain.count();
        self.marked += marked.len();
        assert!(self.host.device.is_attached(), "{what}");
    }

    fn payload(&mut self, len: usize) -> Vec<u8> {
        self.seed = self.seed.wrapping_add(1);
        frame(len, self.seed)
    }

    fn step(&mut self) {
        match self.dice.roll(10) {
            0..=2 => self.transmit(),
            3..=5 => self.receive(),
            6 => self.receive_in_part(),
            7 => self.receive_from_the_kernel(),
            8 => self.command(),
            _ => self.restart(),
        }
        self.drain();
    }

    /// The guest takes all frames, and buffers that come back empty when the ring stops.
    fn drain(&mut self) {
        let Guest { rings, memory, .. } = &mut self.guest;
        while rings[RX].waiting(memory) > 0 {
            if rings[RX].peek(memory, 0).1 > 0 {
                break;
            }
            rings[RX].take_used(memory);
        }
        if self.guest.recv_frame().is_some() {
            self.drain();
        }
    }

    fn transmit(&mut self) {
        for _ in 0..1 + self.dice.roll(8) {
            let len = 60 + self.dice.roll(3000) as usize;
            let frame = self.payload(len);
            if self.guest.can_send() && self.guest.rings[TX].free() >= 3 {
                self.guest.send_pieces(&frame, NetHeader::default(), &[12, 40]);
            }
        }
        self.watch("transmit", Host::take_all);
        self.guest.reclaim();
    }

    fn receive(&mut self) {
        let len = 14 + self.dice.roll(20_000) as usize;
        let frame = self.payload(len);
        // Without room the driver is asked for a kick.
        self.watch("receive", |host| host.give(&frame, FrameMeta::default()));
    }

    /// Frames shorter than their room, some not at all: buffers in between are kept for later.
    fn receive_in_part(&mut self) {
        let request = Reserve {
            header_len: 54,
            payload_len: 4000,
            bytes: 12_000,
            payload: Payload::Datagrams,
        };
        let (len, count) = (self.dice.roll(4001) as u32, self.dice.roll(3) as usize);
        let bytes = self.payload(4054);
        self.watch("receive in part", |host| {
            host.reserve(request, |lease| {
                let count = count.min(lease.frames());
                for index in 0..count {
                    lease.put_header(index, &bytes[..54]);
                    lease.put_payload(index, &bytes[..len as usize]);
                }
                let done = FrameDone { payload_len: len, meta: FrameMeta::default() };
                (vec![done; count], ())
            })
        });
    }

    fn receive_from_the_kernel(&mut self) {
        let len = 1 + self.dice.roll(30_000) as usize;
        let bytes = self.payload(len);
        (&self.socket[0]).write_all(&bytes).unwrap();
        let request = Reserve {
            header_len: 54,
            payload_len: 30_000,
            bytes: 30_000,
            payload: Payload::Stream,
        };
        let socket = self.socket[1].try_clone().unwrap();
        self.watch("receive from the kernel", |host| {
            host.reserve(request, |lease| {
                let len = lease.recv_stream(socket.as_fd(), 30_000, 0, 0).unwrap();
                lease.put_header(0, &bytes[..54.min(bytes.len())].repeat(54)[..54]);
                (vec![FrameDone { payload_len: len, meta: FrameMeta::default() }], ())
            })
        });
        let mut rest = vec![0; 65_536];
        while rustix::net::recv(&socket, &mut rest[..], rustix::net::RecvFlags::DONTWAIT)
            .is_ok_and(|(n, _)| n > 0)
        {}
    }

    fn command(&mut self) {
        if self.guest.features & bit::CTRL_VQ == 0 || self.guest.rings.len().is_multiple_of(2) {
            return;
        }
        self.guest.send_command(&[0, 0, self.dice.roll(3) as u8], 2);
        self.watch("command", Host::turn);
        let index = self.guest.control();
        while self.guest.rings[index].take_used(&self.guest.memory).is_some() {}
    }

    /// What is given back when rings stop, and what is written when they start.
    fn restart(&mut self) {
        let index = [RX, TX][self.dice.roll(2) as usize];
        self.log.take();
        let before = everything(&self.guest.memory);
        let host = &mut self.host;
        let base = self.guest.stop_ring(index, &mut || {
            host.turn();
        });
        self.compare("stop", &before);
        self.guest.start_ring_at(index, base);
        self.watch("start", Host::turn);
        if self.dice.roll(2) == 0 {
            self.guest.set_memory();
            self.watch("memory", Host::turn);
        }
    }
}

fn play(options: Options, seed: u64) {
    let mut world = World::new(options, seed);
    for _ in 0..50 {
        world.step();
    }
    assert!(world.marked > 50, "{} marked", world.marked);
    let (marked, in_vain) = (world.marked, world.in_vain);
    assert!(20 * in_vain <= marked, "{in_vain} of {marked} marks in vain");
}

#[test]
fn each_page_that_changes_is_marked_and_hardly_another() {
    let without = |bits: u64| !(bit::MAC | bits);
    let control = Options { control: true, ..Options::default() };
    for (seed, options) in [
        Options::default(),
        Options { features: without(bit::EVENT_IDX), ..control },
        Options { features: without(bit::MQ), ..control },
        // Virtio headers and frames on different pages.
        Options { indirect: true, rx_buffer_bytes: 4093, ..Options::default() },
        Options {
            features: without(bit::MRG_RXBUF),
            rx_buffer_bytes: 66_000,
            ..Options::default()
        },
        Options { ring_size: 1024, rx_buffers: 700, first_index: 65_530, ..control },
        Options { ring_size: 16, rx_buffers: 16, ..Options::default() },
        Options { features: without(bit::EVENT_IDX), ring_size: 8, rx_buffers: 8, ..control },
    ]
    .into_iter()
    .enumerate()
    {
        play(options, 1 + seed as u64);
    }
}

#[test]
fn memory_in_several_regions_is_marked_where_the_guest_has_it() {
    let mut world = World::new(Options::default(), 7);
    let len = world.guest.memory.len();
    // The border cuts a receive buffer; the front-end has both halves elsewhere, the other way round.
    let cut = 0x30_0000 + 0x3000;
    let mut body = 2u64.to_ne_bytes().to_vec();
    for region in [[cut, len - cut, USER_BASE + cut, cut], [0, cut, USER_BASE, 0]] {
        body.extend(region.iter().flat_map(|word: &u64| word.to_ne_bytes()));
    }
    let fd = world.guest.memory.fd();
    world.guest.send(request::SET_MEM_TABLE, &body, &[fd, fd]);
    world.host.turn();
    for _ in 0..60 {
        world.receive();
        world.drain();
    }
}

/// Whether a frame to the guest leaves marks.
fn marks(host: &mut Host, guest: &mut Guest, log: &DirtyLog) -> bool {
    log.take();
    host.give(&frame(100, 3), FrameMeta::default());
    assert!(guest.recv_frame().is_some());
    !log.take().is_empty()
}

#[test]
fn nothing_is_marked_before_logging_is_on_or_after_it() {
    let (mut host, mut guest) = connected(Options::default());
    let log = DirtyLog::new(guest.memory.len());
    assert!(!marks(&mut host, &mut guest, &log));
    guest.set_log(&log);
    host.turn();
    assert!(guest.took(&log));
    assert!(!marks(&mut host, &mut guest, &log), "a log alone");
    guest.set_logging(true);
    host.turn();
    assert!(marks(&mut host, &mut guest, &log));
    guest.set_logging(false);
    host.turn();
    assert!(!marks(&mut host, &mut guest, &log));
    guest.set_logging(true);
    host.turn();
    assert!(marks(&mut host, &mut guest, &log), "the log is still there");
    // Another log takes its place while traffic goes on.
    let larger = DirtyLog::new(2 * guest.memory.len());
    guest.set_log(&larger);
    host.turn();
    assert!(guest.took(&larger));
    assert!(!marks(&mut host, &mut guest, &log));
    assert!(marks(&mut host, &mut guest, &larger));
    // A guest that goes to another front-end takes nothing along.
    drop(guest);
    host.turn();
    larger.take();
    let stream = host.attach();
    let mut guest = Guest::connect(stream, Options::default(), &mut || {
        host.turn();
    });
    guest.set_logging(true);
    host.turn();
    assert!(!marks(&mut host, &mut guest, &larger), "the log before is forgotten");
}

#[test]
fn logging_without_the_flag_marks_the_used_ring_where_it_is() {
    let (mut host, mut guest) = connected(Options::default());
    let log = DirtyLog::new(guest.memory.len());
    guest.start_log(&log, &mut || {
        host.turn();
    });
    guest.log_rings = false;
    guest.send_address(RX);
    host.turn();
    assert!(marks(&mut host, &mut guest, &log));
    host.give(&frame(100, 3), FrameMeta::default());
    assert!(log.take().contains(&(guest.rings[RX].used / PAGE)));
}

#[test]
fn vhost_vring_f_log_says_where_the_used_ring_is_in_the_log() {
    let (mut host, mut guest) = connected(Options::default());
    let log = DirtyLog::new(guest.memory.len());
    guest.start_log(&log, &mut || {
        host.turn();
    });
    let ring = &guest.rings[RX];
    let mut body = [0u32, 1].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    for word in [ring.descriptors, ring.used, ring.available].map(|at| USER_BASE + at) {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    body.extend_from_slice(&(5 * PAGE).to_ne_bytes());
    guest.send(request::SET_VRING_ADDR, &body, &[]);
    host.turn();
    log.take();
    host.give(&frame(100, 3), FrameMeta::default());
    let marked = log.take();
    assert!(marked.contains(&5), "{marked:x?}");
    assert!(!marked.contains(&(guest.rings[RX].used / PAGE)), "{marked:x?}");
}

fn readable(counter: &OwnedFd) -> bool {
    rustix::io::read(counter, &mut [0; 8]).is_ok()
}

#[test]
fn set_log_fd_is_written_when_something_was_marked() {
    let (mut host, mut guest) = connected(Options::default());
    let log = DirtyLog::new(guest.memory.len());
    let call = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    guest.send(request::SET_LOG_FD, &[], &[call.as_fd()]);
    guest.start_log(&log, &mut || {
        host.turn();
    });
    // It does not block any more, which is a flag of the file.
    readable(&call);
    host.turn();
    assert!(!readable(&call), "nothing was written");
    assert!(marks(&mut host, &mut guest, &log));
    assert!(readable(&call));
    host.turn();
    assert!(!readable(&call), "once");
}

/// Says something of a log to a running device. Whether the connection lives.
fn survives(say: impl FnOnce(&mut Host, &mut Guest)) -> bool {
    let (mut host, mut guest) = connected(Options::default());
    say(&mut host, &mut guest);
    host.turn();
    host.give(&frame(100, 1), FrameMeta::default());
    host.turn();
    let lives = host.device.is_attached();
    assert_eq!(host.counters()["vhost.violations"], u64::from(!lives));
    drop(guest);
    host.turn();
    let stream = host.attach();
    let mut guest = Guest::connect(stream, Options::default(), &mut || {
        host.turn();
    });
    assert!(host.give(&frame(100, 2), FrameMeta::default()));
    assert!(guest.recv_frame().is_some(), "the next front-end is served");
    lives
}

#[test]
fn an_odd_log_ends_the_connection_and_nothing_else() {
    let place = |len: u64, offset: u64| [len.to_ne_bytes(), offset.to_ne_bytes()].concat();
    let base = |body: Vec<u8>, fd: OwnedFd| {
        survives(|_, guest| guest.send(request::SET_LOG_BASE, &body, &[fd.as_fd()]))
    };
    let memory = connected(Options::default()).1.memory.len();
    let log = |bytes: u64| DirtyLog::new(bytes).file().try_clone().unwrap().into();
    let whole = memory.div_ceil(8 * PAGE);
    assert!(base(place(whole, 0), log(memory)), "a right one");
    assert!(base(place(4096, 0), log(1 << 30)), "larger than needed, in a larger file");
    assert!(!base(place(whole - 1, 0), log(memory)), "a byte too few");
    assert!(!base(place(0, 0), log(memory)), "none");
    assert!(!base(place(whole + 1, 0), log(memory)), "beyond its file");
    assert!(!base(place(4096, u64::MAX - 4095), log(1 << 30)), "overflows");
    assert!(!base(place(4096, 8), log(1 << 30)), "not of a page");
    assert!(!base(place(whole, 0)[..8].to_vec(), log(memory)), "half a message");
    let other = |fd: OwnedFd| base(place(whole, 0), fd);
    assert!(!other(rustix::pipe::pipe().unwrap().1), "a pipe");
    assert!(!other(UnixStream::pair().unwrap().0.into()), "a socket");
    assert!(!other(eventfd(0, EventfdFlags::CLOEXEC).unwrap()), "an eventfd");
    assert!(!other(File::open("/").unwrap().into()), "a folder");
    assert!(!other(File::open("/proc/self/exe").unwrap().into()), "read-only");
    let body = place(whole, 0);
    assert!(!survives(|_, guest| guest.send(request::SET_LOG_BASE, &body, &[])), "no descriptor");
    let two: [OwnedFd; 2] = [log(memory), log(memory)];
    let two = two.each_ref().map(AsFd::as_fd);
    assert!(!survives(|_, guest| guest.send(request::SET_LOG_BASE, &body, &two)), "two of them");
    assert!(!survives(|_, guest| guest.send(request::SET_LOG_FD, &[], &[])), "nothing to notify");
    assert!(
        !survives(|_, guest| {
            let none = 0u64.to_ne_bytes();
            guest.send(request::SET_PROTOCOL_FEATURES, &none, &[]);
            guest.send(request::SET_LOG_BASE, &body, &two[..1]);
        }),
        "not negotiated"
    );
}

#[test]
fn a_log_that_shrinks_ends_the_connection_and_nothing_else() {
    let shrink = |logging: bool| {
        survives(|host, guest| {
            let log = DirtyLog::new(guest.memory.len());
            guest.start_log(&log, &mut || {
                host.turn();
            });
            guest.set_logging(logging);
            host.turn();
            log.file().set_len(0).unwrap();
        })
    };
    assert!(!shrink(true));
    assert!(shrink(false), "a log that is not used any more may go away");
}

#[test]
fn a_log_that_shrinks_is_noticed_before_the_rings_are_said_to_have_stopped() {
    let (mut host, mut guest) = connected(Options::default());
    let log = DirtyLog::new(guest.memory.len());
    guest.start_log(&log, &mut || {
        host.turn();
    });
    guest.send_frame(&frame(100, 1), NetHeader::default());
    assert_eq!(host.take_unflushed().len(), 1);
    log.file().set_len(0).unwrap();
    guest.send(request::GET_VRING_BASE, &[1u32, 0].map(u32::to_ne_bytes).concat(), &[]);
    host.turn();
    assert!(!host.device.is_attached());
    assert!(guest.client.received().is_empty(), "whoever is told where to go on believes the log");
}

#[test]
fn memory_beyond_the_log_is_refused_while_logging_is_on() {
    let add = |logging: bool| {
        survives(|host, guest| {
            let log = DirtyLog::new(guest.memory.len());
            guest.start_log(&log, &mut || {
                host.turn();
            });
            guest.set_logging(logging);
            let at = guest.memory.len().next_multiple_of(8 * PAGE);
            let region = [0, at, PAGE, USER_BASE + at, 0];
            let body = region.map(u64::to_ne_bytes).concat();
            guest.send(request::ADD_MEM_REG, &body, &[guest.memory.fd()]);
        })
    };
    assert!(add(false));
    assert!(!add(true));
}

#[test]
fn a_used_ring_that_is_said_to_be_beyond_the_log_ends_the_connection() {
    for at in [1u64 << 40, u64::MAX - 1, u64::MAX - 5000] {
        let lives = survives(|host, guest| {
            let log = DirtyLog::new(guest.memory.len());
            guest.start_log(&log, &mut || {
                host.turn();
            });
            let ring = &guest.rings[RX];
            let mut body = [0u32, 1].map(u32::to_ne_bytes).concat();
            for word in [ring.descriptors, ring.used, ring.available].map(|at| USER_BASE + at) {
                body.extend_from_slice(&word.to_ne_bytes());
            }
            body.extend_from_slice(&at.to_ne_bytes());
            guest.send(request::SET_VRING_ADDR, &body, &[]);
        });
        assert!(!lives, "{at:#x}");
    }
}
