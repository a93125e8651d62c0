//! A whole guest: memory, queue pairs, perhaps a control queue, and the front-end that announces them.
//!
//! It sends and receives through one pair at a time. What is called a ring's index is its place in
//! [`Guest::rings`]; only the control queue has another number on the wire.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{EventfdFlags, eventfd};

use crate::client::{Client, request};
use crate::header::NetHeader;
use crate::log::DirtyLog;
use crate::memory::{GuestMemory, USER_BASE};
use crate::ring::{Buffer, DriverRing};

/// Index of the first pair's receive ring.
pub const RX: usize = 0;

/// Index of the first pair's transmit ring.
pub const TX: usize = 1;

/// Most pairs that a device has.
pub const MAX_PAIRS: usize = 8;

/// Feature bits (virtio 1.2, sections 5.1.3 and 6; bit 30 is vhost-user's).
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod bit {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CTRL_VQ: u64 = 1 << 17;
    pub const CTRL_RX: u64 = 1 << 18;
    pub const CTRL_VLAN: u64 = 1 << 19;
    pub const CTRL_RX_EXTRA: u64 = 1 << 20;
    pub const GUEST_ANNOUNCE: u64 = 1 << 21;
    pub const MQ: u64 = 1 << 22;
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;
    pub const LOG_ALL: u64 = 1 << 26;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
}

/// Guest address of the first ring; each has a mebibyte. Behind them are the receive buffers.
const RINGS_AT: u64 = 0x10_0000;

/// Bytes of each ring.
const RING_BYTES: u64 = 0x10_0000;

/// Guest address of a command, and of the byte for its answer.
const COMMAND_AT: u64 = 0x2000;
const ANSWER_AT: u64 = 0x1_f000;

/// Bytes of one transmit slot: header, largest frame, and an indirect table behind it.
const SLOT_BYTES: u64 = 0x4_0000;

/// Offset of the indirect table in a slot.
const TABLE_AT: u64 = 0x2_0000;

/// Transmit slots.
const SLOTS: u64 = 64;

/// What User-Mode Linux acknowledges of protocol features: MQ, REPLY_ACK, CONFIG. It is shown one queue pair.
pub const PROTOCOL_OF_UML: u64 = 1 << 0 | 1 << 3 | 1 << 9;

/// What kind of guest it is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Features to acknowledge, as far as they are offered.
    pub features: u64,
    /// Protocol features to acknowledge, as far as they are offered.
    pub protocol: u64,
    /// Queue pairs that are started.
    pub pairs: usize,
    /// A control queue is started.
    pub control: bool,
    /// Entries of each ring.
    pub ring_size: u16,
    /// Bytes of each receive buffer.
    pub rx_buffer_bytes: u32,
    /// How many receive buffers to post at the start.
    pub rx_buffers: u16,
    /// Transmit chains lie in indirect tables.
    pub indirect: bool,
    /// Notifications are wanted: without it, SET_VRING_CALL carries no descriptor.
    pub call: bool,
    /// The indexes that the rings begin with, as after a driver that was here before.
    pub first_index: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            features: !bit::MAC,
            protocol: u64::MAX,
            pairs: 1,
            control: false,
            ring_size: 256,
            rx_buffer_bytes: 1536,
            rx_buffers: 256,
            indirect: false,
            call: true,
            first_index: 0,
        }
    }
}

/// A guest with one network device.
pub struct Guest {
    /// The control connection.
    pub client: Client,
    /// Its memory.
    pub memory: GuestMemory,
    /// Receive and transmit ring of each pair, then the control queue if there is one.
    pub rings: Vec<DriverRing>,
    /// The pair that frames go and come through.
    pub pair: usize,
    /// Acknowledged features.
    pub features: u64,
    /// SET_VRING_ADDR says where the used ring is in the dirty log.
    pub log_rings: bool,
    options: Options,
    kicks: Vec<OwnedFd>,
    calls: Vec<OwnedFd>,
    errs: Vec<OwnedFd>,
    slots: Vec<u64>,
    /// Ring, head and slot of each frame on its way.
    in_slot: Vec<(usize, u16, u64)>,
}

/// A descriptor for notifications.
fn new_counter() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd")
}

impl Guest {
    /// Connects to a back-end and starts the device, in QEMU's order. `pump` lets the back-end handle
    /// what was sent.
    pub fn connect(stream: UnixStream, options: Options, pump: &mut dyn FnMut()) -> Self {
        let mut guest = Self::new(stream, options);
        guest.negotiate(pump);
        guest.start(pump);
        guest
    }

    /// A guest that has said nothing yet.
    pub fn new(stream: UnixStream, options: Options) -> Self {
        let size = options.ring_size;
        let rings = 2 * options.pairs + usize::from(options.control);
        let rx_bytes = options.pairs as u64 * u64::from(size) * u64::from(options.rx_buffer_bytes);
        let slots_at = (rx_buffers_at(&options) + rx_bytes).next_multiple_of(4096);
        let memory = GuestMemory::new(slots_at + SLOTS * SLOT_BYTES);
        let ring = |at: usize| {
            let mut ring = DriverRing::new(RINGS_AT + at as u64 * RING_BYTES, size, false);
            ring.begin_at(&memory, options.first_index);
            ring
        };
        Self {
            client: Client::new(stream),
            rings: (0..rings).map(ring).collect(),
            memory,
            pair: 0,
            features: 0,
            log_rings: false,
            options,
            kicks: (0..rings).map(|_| new_counter()).collect(),
            calls: (0..rings).map(|_| new_counter()).collect(),
            errs: (0..rings).map(|_| new_counter()).collect(),
            slots: (0..SLOTS).rev().map(|slot| slots_at + slot * SLOT_BYTES).collect(),
            in_slot: Vec::new(),
        }
    }

    /// Index of the receive ring in use.
    fn rx(&self) -> usize {
        2 * self.pair
    }

    /// Index of the transmit ring in use.
    fn tx(&self) -> usize {
        2 * self.pair + 1
    }

    /// Bytes of the header in front of each frame: a legacy driver has no number of buffers in it unless
    /// frames may take several (virtio 1.2, section 5.1.6.1).
    fn header_bytes(&self) -> usize {
        let whole = self.features & (bit::VERSION_1 | bit::MRG_RXBUF) != 0;
        if whole { NetHeader::BYTES } else { NetHeader::BYTES - 2 }
    }

    /// Index of the control queue.
    pub fn control(&self) -> usize {
        2 * self.options.pairs
    }

    /// The number of a ring in messages.
    fn number(&self, index: usize) -> usize {
        let one = self.options.protocol == PROTOCOL_OF_UML;
        match index == self.control() {
            true if self.features & bit::MQ != 0 && !one => 2 * MAX_PAIRS,
            true => 2,
            false => index,
        }
    }

    /// Sends a request without waiting for the back-end.
    pub fn send(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        assert!(self.client.send(request, body, fds), "connection closed at request {request}");
    }

    /// Sends a request whose answer is a number, and waits for that.
    pub fn ask(&mut self, request: u32, body: &[u8], pump: &mut dyn FnMut()) -> u64 {
        self.send(request, body, &[]);
        pump();
        self.client.reply_u64().expect("a reply, not a closed connection")
    }

    /// Features, protocol features, owner, call and error descriptors, enable.
    pub fn negotiate(&mut self, pump: &mut dyn FnMut()) {
        let offered = self.ask(request::GET_FEATURES, &[], pump);
        self.features = offered & self.options.features & !bit::LOG_ALL;
        if self.features & bit::PROTOCOL_FEATURES != 0 {
            let protocol = self.ask(request::GET_PROTOCOL_FEATURES, &[], pump);
            let protocol = protocol & self.options.protocol;
            self.send(request::SET_PROTOCOL_FEATURES, &protocol.to_ne_bytes(), &[]);
        }
        self.send(request::SET_OWNER, &[], &[]);
        for index in 0..self.rings.len() {
            let number = self.number(index) as u64;
            let err = self.errs[index].as_fd();
            self.send(request::SET_VRING_ERR, &number.to_ne_bytes(), &[err]);
            if self.features & bit::PROTOCOL_FEATURES != 0 {
                self.set_enable(index, true);
            }
        }
        pump();
    }

    /// Features, memory, rings.
    pub fn start(&mut self, pump: &mut dyn FnMut()) {
        self.send(request::SET_FEATURES, &self.features.to_ne_bytes(), &[]);
        self.set_memory();
        for ring in &mut self.rings {
            ring.event_idx = self.features & bit::EVENT_IDX != 0;
        }
        for pair in (0..self.options.pairs).rev() {
            self.pair = pair;
            self.post_buffers(self.options.rx_buffers);
        }
        for index in 0..self.rings.len() {
            self.start_ring(index);
        }
        pump();
    }

    /// Features anew, and rings that begin with nothing in them, as another driver leaves them to the front-end.
    pub fn restart(&mut self, pump: &mut dyn FnMut()) {
        let size = self.options.ring_size;
        for (at, ring) in self.rings.iter_mut().enumerate() {
            *ring = DriverRing::new(RINGS_AT + at as u64 * RING_BYTES, size, false);
            ring.begin_at(&self.memory, 0);
        }
        self.slots.extend(self.in_slot.drain(..).map(|(_, _, slot)| slot));
        self.start(pump);
    }

    /// SET_MEM_TABLE with one region: all memory.
    pub fn set_memory(&self) {
        // The number of regions, and padding.
        let mut body = [1u32.to_ne_bytes(), [0; 4]].concat();
        for word in [0, self.memory.len(), USER_BASE, 0] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        self.send(request::SET_MEM_TABLE, &body, &[self.memory.fd()]);
    }

    /// Has written pages marked in `log` from now on, in QEMU's order.
    pub fn start_log(&mut self, log: &DirtyLog, pump: &mut dyn FnMut()) {
        self.set_log(log);
        pump();
        assert!(self.took(log), "the log was taken");
        self.set_logging(true);
        pump();
    }

    /// SET_LOG_BASE.
    pub fn set_log(&self, log: &DirtyLog) {
        self.send(request::SET_LOG_BASE, &place_of(log), &[log.fd()]);
    }

    /// Whether the answer to it is what the vhost crate's front-ends wait for: the request's own body.
    pub fn took(&mut self, log: &DirtyLog) -> bool {
        self.client.reply() == Some((request::SET_LOG_BASE, 5, place_of(log)))
    }

    /// Switches logging on or off: features, then the places of all rings.
    pub fn set_logging(&mut self, on: bool) {
        self.log_rings = on;
        let features = self.features | if on { bit::LOG_ALL } else { 0 };
        self.send(request::SET_FEATURES, &features.to_ne_bytes(), &[]);
        for index in 0..self.rings.len() {
            self.send_address(index);
        }
    }

    /// The messages that start ring `index` where it stands.
    pub fn start_ring(&mut self, index: usize) {
        let base = self.rings[index].last_used();
        self.start_ring_at(index, base.into());
    }

    /// The same, to go on at available index `base`: what [`stop_ring`](Self::stop_ring) returned.
    pub fn start_ring_at(&mut self, index: usize, base: u32) {
        let (ring, number) = (&self.rings[index], self.number(index));
        self.send(request::SET_VRING_NUM, &state(number, u32::from(ring.size)), &[]);
        self.send(request::SET_VRING_BASE, &state(number, base), &[]);
        self.send_address(index);
        let word = (number as u64).to_ne_bytes();
        self.send(request::SET_VRING_KICK, &word, &[self.kicks[index].as_fd()]);
        if self.options.call {
            self.send(request::SET_VRING_CALL, &word, &[self.calls[index].as_fd()]);
        } else {
            self.send(request::SET_VRING_CALL, &(number as u64 | 0x100).to_ne_bytes(), &[]);
        }
    }

    /// SET_VRING_ADDR.
    pub fn send_address(&self, index: usize) {
        let ring = &self.rings[index];
        let mut body = state(self.number(index), self.log_rings.into()).to_vec();
        for at in [ring.descriptors, ring.used, ring.available] {
            body.extend_from_slice(&(USER_BASE + at).to_ne_bytes());
        }
        let in_log = if self.log_rings { ring.used } else { 0 };
        body.extend_from_slice(&in_log.to_ne_bytes());
        self.send(request::SET_VRING_ADDR, &body, &[]);
    }

    /// SET_VRING_KICK with a new descriptor, which nobody has written to.
    pub fn send_new_kick(&mut self, index: usize) {
        self.kicks[index] = new_counter();
        let word = (self.number(index) as u64).to_ne_bytes();
        self.send(request::SET_VRING_KICK, &word, &[self.kicks[index].as_fd()]);
    }

    /// SET_VRING_ENABLE.
    pub fn set_enable(&self, index: usize, enable: bool) {
        let body = state(self.number(index), u32::from(enable));
        self.send(request::SET_VRING_ENABLE, &body, &[]);
    }

    /// GET_VRING_BASE: stops ring `index`.
    pub fn stop_ring(&mut self, index: usize, pump: &mut dyn FnMut()) -> u32 {
        base(self.ask(request::GET_VRING_BASE, &state(self.number(index), 0), pump))
    }

    /// Makes `count` receive buffers available.
    pub fn post_buffers(&mut self, count: u16) {
        for _ in 0..count {
            self.post_buffer();
        }
        self.publish(self.rx());
    }

    /// Makes one receive buffer available, invisible until [`publish`](Self::publish).
    pub fn post_buffer(&mut self) {
        let (len, index) = (self.options.rx_buffer_bytes, self.rx());
        // The buffer of a descriptor is always the same one.
        let guest = self.receive_buffer(self.rings[index].next_free());
        let ring = &mut self.rings[index];
        ring.add(&self.memory, &[Buffer { guest, len, writable: true }], None);
    }

    /// The descriptor by which the device notifies of ring `index`.
    pub fn call(&self, index: usize) -> BorrowedFd<'_> {
        self.calls[index].as_fd()
    }

    /// Guest address of the receive buffer of descriptor `head` of the pair in use.
    pub fn receive_buffer(&self, head: u16) -> u64 {
        let before = self.pair as u64 * u64::from(self.options.ring_size);
        let buffer_bytes = u64::from(self.options.rx_buffer_bytes);
        rx_buffers_at(&self.options) + (before + u64::from(head)) * buffer_bytes
    }

    /// Shows what was added to ring `index` to the device, and kicks it if it wants that; true then.
    pub fn publish(&mut self, index: usize) -> bool {
        let wanted = self.rings[index].publish(&self.memory);
        if wanted {
            self.kick(index);
        }
        wanted
    }

    /// Kicks ring `index`.
    pub fn kick(&self, index: usize) {
        rustix::io::write(&self.kicks[index], &1u64.to_ne_bytes()).expect("kick");
    }

    /// Sends a frame in one piece; true when the device wanted a kick.
    pub fn send_frame(&mut self, frame: &[u8], header: NetHeader) -> bool {
        self.send_pieces(frame, header, &[])
    }

    /// Sends a frame, cut behind each of the offsets in `cuts` (ascending, counted from the start of
    /// the virtio header); true when the device wanted a kick.
    pub fn send_pieces(&mut self, frame: &[u8], header: NetHeader, cuts: &[usize]) -> bool {
        self.queue_pieces(frame, header, cuts);
        self.publish(self.tx())
    }

    /// The same, invisible to the device until [`publish`](Self::publish).
    pub fn queue_pieces(&mut self, frame: &[u8], header: NetHeader, cuts: &[usize]) {
        self.reclaim();
        let slot = self.slots.pop().expect("a free transmit slot");
        let mut bytes = header.to_bytes()[..self.header_bytes()].to_vec();
        bytes.extend_from_slice(frame);
        self.memory.write(slot, &bytes);
        let mut buffers = Vec::new();
        let mut start = 0;
        for &end in cuts.iter().chain([&bytes.len()]) {
            let (guest, len) = (slot + start as u64, (end - start) as u32);
            buffers.push(Buffer { guest, len, writable: false });
            start = end;
        }
        let table = self.options.indirect.then_some(slot + TABLE_AT);
        let index = self.tx();
        let head = self.rings[index].add(&self.memory, &buffers, table);
        self.in_slot.push((index, head, slot));
    }

    /// Head and slot address of the oldest frame that was sent and not reclaimed.
    pub fn first_sent(&self) -> (u16, u64) {
        let &(_, head, slot) = self.in_slot.first().expect("a frame on its way");
        (head, slot)
    }

    /// Whether a frame in one piece can be sent now.
    pub fn can_send(&self) -> bool {
        !self.slots.is_empty() && self.rings[self.tx()].free() > 0
    }

    /// Takes back the buffers of frames that were sent; returns how many.
    pub fn reclaim(&mut self) -> usize {
        let (mut count, index) = (0, self.tx());
        while let Some((head, _)) = self.rings[index].take_used(&self.memory) {
            let sent = self.in_slot.iter().position(|&(i, h, _)| (i, h) == (index, head));
            if let Some(at) = sent {
                self.slots.push(self.in_slot.swap_remove(at).2);
            }
            count += 1;
        }
        count
    }

    /// The next frame that the device delivered. Its buffers are posted again.
    ///
    /// # Panics
    /// When the buffers of a merged frame are not all visible at once.
    pub fn recv_frame(&mut self) -> Option<(Vec<u8>, NetHeader)> {
        let frame = self.recv_frame_keep()?;
        let missing = usize::from(self.options.rx_buffers)
            .saturating_sub(usize::from(self.rings[self.rx()].size) - self.rings[self.rx()].free());
        self.post_buffers(missing as u16);
        Some(frame)
    }

    /// The next frame that the device delivered. Its buffers stay with the driver.
    ///
    /// # Panics
    /// When the buffers of a merged frame are not all visible at once.
    pub fn recv_frame_keep(&mut self) -> Option<(Vec<u8>, NetHeader)> {
        let visible = self.rings[self.rx()].waiting(&self.memory);
        if visible == 0 {
            return None;
        }
        let mut bytes = self.take_buffer();
        let mut taken = 1;
        let header_bytes = self.header_bytes();
        while bytes.len() < header_bytes {
            bytes.extend_from_slice(&self.take_buffer());
            taken += 1;
        }
        let mut words = [0; NetHeader::BYTES];
        words[..header_bytes].copy_from_slice(&bytes[..header_bytes]);
        let mut header = NetHeader::from_bytes(&words);
        if header_bytes < NetHeader::BYTES {
            header.num_buffers = 1;
        }
        assert!(
            (taken..=visible).contains(&header.num_buffers),
            "{} buffers announced, {visible} visible",
            header.num_buffers
        );
        for _ in taken..header.num_buffers {
            bytes.extend_from_slice(&self.take_buffer());
        }
        bytes.drain(..header_bytes);
        Some((bytes, header))
    }

    /// Takes the next used receive buffer; returns its bytes.
    fn take_buffer(&mut self) -> Vec<u8> {
        let index = self.rx();
        let (head, len) = self.rings[index].take_used(&self.memory).expect("a used buffer");
        let buffer_bytes = self.options.rx_buffer_bytes;
        assert!(len <= buffer_bytes, "{len} bytes used of {buffer_bytes}");
        self.memory.read(self.receive_buffer(head), len as usize)
    }

    /// Makes a command available on the control queue, and kicks it if the device wants that. The command is
    /// class, command and data; it may be cut in pieces of `piece` bytes.
    pub fn send_command(&mut self, command: &[u8], piece: usize) {
        self.memory.write(COMMAND_AT, command);
        self.memory.write(ANSWER_AT, &[0xff]);
        let mut buffers = Vec::new();
        for (at, piece) in (COMMAND_AT..).step_by(piece).zip(command.chunks(piece)) {
            buffers.push(Buffer { guest: at, len: piece.len() as u32, writable: false });
        }
        buffers.push(Buffer { guest: ANSWER_AT, len: 1, writable: true });
        let index = self.control();
        self.rings[index].add(&self.memory, &buffers, None);
        self.publish(index);
    }

    /// Gives a command; returns the device's answer.
    pub fn command(&mut self, command: &[u8], pump: &mut dyn FnMut()) -> Option<u8> {
        self.send_command(command, 2);
        pump();
        let index = self.control();
        let (_, len) = self.rings[index].take_used(&self.memory)?;
        assert_eq!(len, 1, "bytes of the answer");
        Some(self.memory.read(ANSWER_AT, 1)[0])
    }

    /// Interrupts of ring `index` since the last call.
    pub fn interrupts(&self, index: usize) -> u64 {
        counter(&self.calls[index])
    }

    /// Errors of ring `index` since the last call.
    pub fn errors(&self, index: usize) -> u64 {
        counter(&self.errs[index])
    }

    /// The error descriptor of ring `index`.
    pub fn err_fd(&self, index: usize) -> BorrowedFd<'_> {
        self.errs[index].as_fd()
    }

    /// The call descriptor of ring `index`.
    pub fn call_fd(&self, index: usize) -> BorrowedFd<'_> {
        self.calls[index].as_fd()
    }
}

/// Guest address of the receive buffers.
fn rx_buffers_at(options: &Options) -> u64 {
    RINGS_AT + RING_BYTES * (2 * options.pairs as u64 + 1)
}

/// Body of the vring state messages.
fn state(index: usize, num: u32) -> [u8; 8] {
    let mut body = [0; 8];
    body[..4].copy_from_slice(&(index as u32).to_ne_bytes());
    body[4..].copy_from_slice(&num.to_ne_bytes());
    body
}

/// The index in such a body, read as one number.
pub fn base(body: u64) -> u32 {
    u32::from_ne_bytes(body.to_ne_bytes()[4..].try_into().expect("four bytes"))
}

/// Reads and clears an eventfd.
fn counter(fd: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    rustix::io::read(fd, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
}

/// Length of a log and its offset in the file.
fn place_of(log: &DirtyLog) -> Vec<u8> {
    [log.len().to_ne_bytes(), [0; 8]].concat()
}
