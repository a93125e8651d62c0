//! The TCP machine between a model guest and a model host socket, over a link that loses,
//! duplicates, reorders and runs out of buffers. Virtual time, no I/O; a failing seed prints
//! everything. `TCP_SIM_SEEDS` sets the number of seeds for a longer run, `TCP_SIM_FIRST` the first of them.

#![allow(clippy::panic, reason = "helpers of tests fail by panic, as tests do")]

mod guest;
mod host;
pub(crate) mod hostile;
pub(crate) mod link;

use guest::Guest;
use host::{Event, Host, Peek};
use link::{Link, Quality, Rng, Seg};
use passt::flow::tcp::limits::INACTIVITY;
use passt::flow::tcp::{
    Action, Conn, DataResult, Early, Flags, Header, Opening, Segment, SocketEvent, TcpConfig,
    reset_for,
};
use passt::time::Timestamp;
use passt::wire::seq::SeqNr;

/// What a run is made of.
#[derive(Debug)]
struct Plan {
    active: bool,
    /// The largest segment that the guest may send.
    our_mss: u16,
    quality: Quality,
    guest: guest::Habits,
    host: host::Habits,
    no_room_percent: u64,
    /// Bytes at most that are kept of what the socket does not take.
    keeps: usize,
    guest_resets_at: Option<u64>,
    peer_resets_at: Option<u64>,
}

impl Plan {
    fn random(rng: &mut Rng) -> Self {
        let sizes = [0, 1, 500, 4_000, 20_000, 40_000];
        Self {
            active: rng.chance(50),
            our_mss: rng.pick(&[1460, 1460, 8_960, 61_440]),
            quality: Quality {
                loss_percent: rng.pick(&[0, 0, 1, 5]),
                duplicate_percent: rng.pick(&[0, 0, 5]),
                delay_us: rng.pick(&[0, 20, 1_000, 20_000]),
                jitter_us: rng.pick(&[0, 0, 500, 30_000, 1_500_000]),
            },
            guest: guest::Habits {
                mss: rng.pick(&[None, Some(1460), Some(536), Some(9000)]),
                scale: rng.pick(&[None, Some(0), Some(7)]),
                burst: rng.pick(&[0, 0, 10_000]),
                whole_segments: rng.chance(50),
                receive_buffer: rng.pick(&[1_000, 3_000, 16_000, 65_000, 200_000]),
                keeps_out_of_order: rng.chance(50),
                delays_acks: rng.chance(30),
                probes_with_data: rng.chance(50),
                read_chunk: rng.pick(&[100, 2_000, 100_000]),
                read_every_us: rng.pick(&[1, 1_000, 100_000]),
                send_total: rng.pick(&sizes),
                send_chunk: rng.pick(&[700, 5_000, 100_000]),
                send_every_us: rng.pick(&[1, 1_000, 300_000]),
            },
            host: host::Habits {
                connect_us: rng.pick(&[1, 1_000, 400_000]),
                send_buffer: rng.pick(&[3_000, 10_000, 60_000]),
                write_overhead: rng.pick(&[0, 50, 500]),
                unsent_max: rng.pick(&[u64::MAX, u64::MAX, 8_000, 1_500]),
                receive_buffer: rng.pick(&[2_000, 10_000, 60_000]),
                drain_chunk: rng.pick(&[200, 3_000, 100_000]),
                drain_every_us: rng.pick(&[1, 1_000, 50_000]),
                send_total: rng.pick(&sizes),
                send_chunk: rng.pick(&[700, 5_000, 100_000]),
                send_every_us: rng.pick(&[1, 1_000, 300_000]),
            },
            no_room_percent: rng.pick(&[0, 0, 20]),
            keeps: rng.pick(&[0, 3_000, 256 * 1024]),
            guest_resets_at: rng.chance(5).then(|| rng.range(1, 2_000_000)),
            peer_resets_at: rng.chance(5).then(|| rng.range(1, 2_000_000)),
        }
    }
}

#[derive(Debug)]
struct World {
    seed: u64,
    plan: Plan,
    now: u64,
    rng: Rng,
    conn: Conn,
    guest: Guest,
    host: Host,
    to_guest: Link,
    from_guest: Link,
    port_room_at: Option<u64>,
    kept: Vec<u8>,
    /// What comes from the guest at a time comes the last first.
    reverses: bool,
    closed: Option<bool>,
    drops: u64,
    reads: u64,
    sent_bytes: u64,
    queries: u64,
    emits: u64,
    discards: u64,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{self:#?}\nseed {}", self.seed);
        }
    }
}

impl World {
    fn new(seed: u64, plan: Plan, mut rng: Rng) -> Self {
        // They may in half of the worlds.
        let acks_may_wait = !seed.is_multiple_of(2);
        let config = TcpConfig { acks_may_wait, ..TcpConfig::default() };
        let near_wrap =
            |rng: &mut Rng| (rng.next() as u32) | if rng.chance(50) { 0xffff_e000 } else { 0 };
        let opening =
            Opening { isn: SeqNr(near_wrap(&mut rng)), our_mss: plan.our_mss, max_segment: 1460 };
        let mut guest = Guest::new(plan.guest, near_wrap(&mut rng), plan.active);
        let now = Timestamp::ZERO;
        let conn = if plan.active {
            let syn = guest.out.remove(0);
            Conn::outbound(now, &config, &parse(&syn), opening)
        } else {
            Conn::inbound(now, &config, opening)
        };
        let mut host = Host::new(plan.host, !plan.active);
        host.sees_end = !seed.is_multiple_of(3);
        let (to_guest, from_guest) = (Link::default(), Link::default());
        Self {
            seed,
            plan,
            now: 0,
            rng,
            conn,
            guest,
            host,
            to_guest,
            from_guest,
            port_room_at: None,
            kept: Vec::new(),
            reverses: seed % 4 == 3,
            closed: None,
            drops: 0,
            reads: 0,
            sent_bytes: 0,
            queries: 0,
            emits: 0,
            discards: 0,
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_micros(self.now)
    }

    /// Runs until nothing is left to happen.
    fn run(&mut self) {
        self.drive();
        for _ in 0..200_000 {
            let next = self.next_at();
            if self.closed.is_some() && next == u64::MAX {
                return;
            }
            assert!(next < u64::MAX, "nothing left to happen, but the flow is open");
            assert!(next < 4 * 3600 * 1_000_000, "takes for ever");
            self.now = self.now.max(next);
            self.step();
            self.check();
        }
        panic!("livelock");
    }

    fn next_at(&self) -> u64 {
        let mut at = self.guest.next_at();
        at = at.min(self.to_guest.next_at().unwrap_or(u64::MAX));
        at = at.min(self.from_guest.next_at().unwrap_or(u64::MAX));
        if self.closed.is_some() {
            // A guest whose last FIN is unacknowledged goes on until it gets a reset.
            return at;
        }
        at = at.min(self.host.next_at()).min(self.port_room_at.unwrap_or(u64::MAX));
        at = at.min(self.plan.guest_resets_at.unwrap_or(u64::MAX));
        at = at.min(self.plan.peer_resets_at.unwrap_or(u64::MAX));
        at = at.min(self.conn.ack_at().map_or(u64::MAX, Timestamp::as_micros));
        at.min(self.conn.deadline().expect("an open flow has a deadline").as_micros())
    }

    fn step(&mut self) {
        let now = self.now;
        if self.plan.guest_resets_at.is_some_and(|at| at <= now) {
            self.plan.guest_resets_at = None;
            self.guest.reset();
        }
        if self.plan.peer_resets_at.is_some_and(|at| at <= now) {
            self.plan.peer_resets_at = None;
            self.host.reset();
        }
        while let Some(seg) = self.to_guest.take(now) {
            self.guest.on_segment(now, &seg);
        }
        self.guest.on_time(now, &mut self.rng);
        for seg in std::mem::take(&mut self.guest.out) {
            self.from_guest.put(now, &self.plan.quality, &mut self.rng, seg);
        }
        if self.closed.is_some() {
            return self.answer_without_flow();
        }
        self.receive_run();
        self.host.on_time(now, &mut self.rng);
        if self.port_room_at.is_some_and(|at| at <= now) {
            self.port_room_at = None;
            self.conn.on_port_room(self.time());
        }
        if self.conn.deadline().is_some_and(|at| at <= self.time()) {
            self.conn.on_timer(self.time());
        }
        self.drive();
    }

    fn answer_without_flow(&mut self) {
        while let Some(seg) = self.from_guest.take(self.now) {
            if let Some(header) = reset_for(&parse(&seg)) {
                self.emit(&header, Vec::new());
            }
        }
    }

    /// All that has come from the guest is one run and one write.
    fn receive_run(&mut self) {
        let now = self.time();
        let mut run: Vec<_> = (0..16).map_while(|_| self.from_guest.take(self.now)).collect();
        if self.reverses {
            run.reverse();
        }
        let (mut early, mut data) = (Early::default(), Vec::new());
        let mut take = |conn: &mut Conn, segment: &Segment, index: usize| {
            let accept = conn.on_segment(now, segment);
            let range = accept.skip as usize..(accept.skip + accept.len) as usize;
            data.extend_from_slice(run[index].data.get(range).expect("within the payload"));
        };
        for (index, segment) in run.iter().map(parse).enumerate() {
            if early.hold(&self.conn, &segment, index) {
                continue;
            }
            take(&mut self.conn, &segment, index);
            while let Some((segment, index)) = early.next(&self.conn) {
                take(&mut self.conn, &segment, index);
            }
        }
        while let Some((segment, index)) = early.next_at_end(&self.conn) {
            take(&mut self.conn, &segment, index);
        }
        if !data.is_empty() {
            let taken = if self.kept.is_empty() { self.host.write(&data) } else { 0 };
            let rest = &data[taken..];
            let kept = rest.len().min(self.plan.keeps.saturating_sub(self.kept.len()));
            self.kept.extend_from_slice(&rest[..kept]);
            self.drops += (rest.len() - kept) as u64;
            self.conn.on_written(now, taken as u32, kept as u32);
        }
    }

    /// Writes what is kept; whether nothing is left.
    fn flush(&mut self) -> bool {
        if !self.kept.is_empty() {
            let taken = self.host.write(&self.kept);
            self.kept.drain(..taken);
            self.conn.on_kept(self.time(), self.kept.len() as u32);
        }
        self.kept.is_empty()
    }

    /// Passes events on and does what the machine says.
    fn drive(&mut self) {
        for _ in 0..3 {
            for event in std::mem::take(&mut self.host.events) {
                if event == Event::Writable && !self.flush() {
                    continue;
                }
                let event = match event {
                    Event::Connected => SocketEvent::Connected,
                    Event::Readable => SocketEvent::Readable,
                    Event::Writable => SocketEvent::Writable,
                    Event::PeerClosed => SocketEvent::PeerClosed,
                    Event::Failed => SocketEvent::Failed,
                };
                self.conn.on_socket(self.time(), event);
                if event == SocketEvent::Failed {
                    self.conn.on_queue(self.host.queue_len());
                }
            }
            let mut actions = 0;
            while let Some(action) = self.conn.poll(self.time()) {
                actions += 1;
                assert!(actions < 500, "poll does not end: {action:?}");
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: Action) {
        assert!(self.closed.is_none(), "{action:?} after Close");
        match action {
            Action::Emit(header) => {
                self.emits += 1;
                self.emit(&header, Vec::new());
            }
            Action::SendData { offset, bytes, seq, mss } => {
                self.peek_and_send(offset, bytes, seq, mss);
            }
            Action::Discard(bytes) => {
                self.discards += 1;
                self.host.discard(bytes as usize);
            }
            Action::QueryRoom => {
                self.queries += 1;
                if self.flush() {
                    let room = self.host.room().min(u64::from(u32::MAX)) as u32;
                    self.conn.on_room(room);
                }
            }
            Action::WatchWritable => self.host.watch(),
            Action::ShutdownWrite => {
                assert!(!self.host.shutdown, "shuts down twice");
                assert_eq!(self.host.written, self.plan.guest.send_total, "early FIN");
                self.host.shutdown = true;
            }
            Action::Close { reset } => self.closed = Some(reset),
        }
    }

    fn peek_and_send(&mut self, offset: u32, bytes: u32, seq: SeqNr, mss: u16) {
        let result = if self.rng.chance(self.plan.no_room_percent) {
            self.port_room_at = Some(self.now + self.rng.range(1, 50_000));
            DataResult::NoRoom
        } else {
            // The link may have buffers for less than was asked.
            let lease = if self.rng.chance(20) { 1 + bytes as usize / 2 } else { bytes as usize };
            match self.host.peek(offset as usize, lease) {
                Peek::Data(data) => {
                    let drained = data.len() < lease;
                    self.emit_data(&data, seq, mss);
                    DataResult::Sent { bytes: data.len() as u32, drained }
                }
                Peek::Empty => DataResult::Empty,
                Peek::Eof => DataResult::Eof,
                Peek::Failed => DataResult::Failed,
            }
        };
        self.reads += 1;
        self.conn.on_data(self.time(), result);
    }

    fn emit_data(&mut self, data: &[u8], seq: SeqNr, mss: u16) {
        let mut header = self.conn.data_header();
        assert_eq!(header.seq, seq);
        self.sent_bytes += data.len() as u64;
        for part in data.chunks(mss.into()) {
            self.emit(&header, part.to_vec());
            header.seq += part.len() as u32;
        }
    }

    fn emit(&mut self, header: &Header, data: Vec<u8>) {
        let seg = Seg {
            seq: header.seq.0,
            ack: header.ack.0,
            flags: header.flags.0,
            window: header.window,
            mss: header.mss,
            scale: header.window_scale,
            data,
        };
        self.to_guest.put(self.now, &self.plan.quality, &mut self.rng, seg);
    }

    fn check(&self) {
        let acked = self.guest.una.saturating_sub(1).min(self.plan.guest.send_total);
        assert!(acked <= self.host.written, "acknowledged before it was written");
        if self.closed.is_some() {
            return;
        }
        let deadline = self.conn.deadline().expect("an open flow has a deadline");
        assert!(deadline <= self.time() + INACTIVITY, "deadline beyond all bounds");
        assert!(deadline > self.time(), "deadline stays in the past");
    }

    fn assert_complete(&self) {
        assert_eq!(self.closed, Some(false), "closed in order");
        assert!(self.host.shutdown, "the peer got the guest's FIN");
        assert_eq!(self.host.written, self.plan.guest.send_total);
        assert_eq!(self.guest.received(), self.plan.host.send_total);
        assert!(self.guest.has_fin(), "the guest got the peer's FIN");
        // Its own FIN may have been answered by a reset: there is no TIME-WAIT.
        assert!(self.guest.is_all_acked() || self.guest.state == guest::State::Reset);
    }
}

fn parse(seg: &Seg) -> Segment {
    Segment {
        seq: SeqNr(seg.seq),
        ack: SeqNr(seg.ack),
        flags: Flags(seg.flags),
        window: seg.window,
        payload_len: seg.data.len() as u32,
        mss: seg.mss,
        window_scale: seg.scale,
    }
}

fn run(seed: u64) -> World {
    let mut rng = Rng(seed);
    let plan = Plan::random(&mut rng);
    let mut world = World::new(seed, plan, rng);
    world.run();
    world
}

/// Both streams of the world `seed` arrive whole, unless somebody resets the connection or the link loses so much that who
/// repeats something gives up: the dice of a fuzz target are loaded. Whether they had to.
pub(crate) fn world(seed: u64) -> bool {
    let mut rng = Rng(seed);
    let plan = Plan::random(&mut rng);
    let injected = plan.guest_resets_at.is_some() || plan.peer_resets_at.is_some();
    let mut world = World::new(seed, plan, rng);
    world.run();
    let tries = (world.to_guest.most_lost + 1) * (world.from_guest.most_lost + 1);
    let must = !injected && tries <= 7;
    if must {
        world.assert_complete();
    }
    must
}

#[test]
fn both_streams_arrive_whole_whatever_the_link_does() {
    let number = |name, other| std::env::var(name).map_or(other, |n| n.parse().expect("a number"));
    let (first, seeds) = (number("TCP_SIM_FIRST", 0), number("TCP_SIM_SEEDS", 2500));
    let complete = (first..first + seeds).filter(|seed| world(*seed)).count() as u64;
    assert!(seeds < 100 || complete * 5 > seeds * 4, "{complete} complete");
}

#[test]
fn same_seed_same_run() {
    let (a, b) = (run(7), run(7));
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
}

/// A guest and a peer with nothing odd about them, over a link that loses nothing.
fn calm() -> Plan {
    Plan {
        active: true,
        our_mss: 1460,
        quality: Quality { loss_percent: 0, duplicate_percent: 0, delay_us: 50, jitter_us: 0 },
        guest: guest::Habits {
            mss: Some(1460),
            scale: Some(7),
            burst: 16_000,
            whole_segments: true,
            receive_buffer: 300_000,
            keeps_out_of_order: true,
            delays_acks: false,
            probes_with_data: false,
            read_chunk: 1 << 20,
            read_every_us: 1,
            send_total: 0,
            send_chunk: 1 << 20,
            send_every_us: 1,
        },
        host: host::Habits {
            connect_us: 100,
            send_buffer: 300_000,
            write_overhead: 0,
            unsent_max: u64::MAX,
            receive_buffer: 200_000,
            drain_chunk: 1 << 20,
            drain_every_us: 1,
            send_total: 0,
            send_chunk: 1 << 20,
            send_every_us: 1,
        },
        no_room_percent: 0,
        keeps: 256 * 1024,
        guest_resets_at: None,
        peer_resets_at: None,
    }
}

fn run_plan(plan: Plan) -> World {
    let mut world = World::new(1, plan, Rng(1));
    world.run();
    world.assert_complete();
    world
}

#[test]
fn slow_peer_holds_the_guest_back_without_a_drop() {
    let mut plan = calm();
    plan.guest.send_total = 1_000_000;
    plan.host.send_buffer = 40_000;
    plan.host.drain_chunk = 3_000;
    plan.host.drain_every_us = 2_000;
    let world = run_plan(plan);
    assert_eq!(world.drops, 0, "bytes dropped");
    assert_eq!(world.host.short_writes, 0, "short writes");
    assert_eq!(world.guest.retransmissions, 0, "retransmissions by the guest");
    assert!(world.now < 1_000_000, "as fast as the peer reads: {} us", world.now);
}

#[test]
fn what_comes_at_once_in_another_order_is_not_sent_again() {
    let mut plan = calm();
    plan.guest.send_total = 1_000_000;
    let mut world = World::new(1, plan, Rng(1));
    world.reverses = true;
    world.run();
    world.assert_complete();
    assert_eq!((world.drops, world.guest.retransmissions), (0, 0));
}

/// As with `tcp_notsent_lowat`, or toward peers with a tiny window, for which the kernel splits what it has.
#[test]
fn what_a_socket_does_not_take_though_it_had_room_is_not_lost() {
    for unsent_max in [1_000, 4_000, 20_000, 100_000] {
        for our_mss in [1460, 8_960, 61_440] {
            let mut plan = calm();
            (plan.our_mss, plan.guest.burst) = (our_mss, 61_440);
            plan.guest.send_total = 1_000_000;
            plan.host.unsent_max = unsent_max;
            plan.host.drain_every_us = 100;
            plan.keeps = 300_000;
            let world = run_plan(plan);
            assert_eq!((world.drops, world.guest.retransmissions), (0, 0));
            assert!(world.host.short_writes > 0, "the limit is never reached");
            let rounds = 1_000_000 / unsent_max + 100;
            assert!(world.now < rounds * 500, "{unsent_max}, {our_mss}: {} us", world.now);
        }
    }
}

#[test]
fn what_a_peer_has_sent_before_it_resets_arrives() {
    for at in [150, 300, 1_000, 5_000, 20_000, 60_000] {
        for (receive_buffer, sees_end) in [(300_000, true), (300_000, false), (3_000, true)] {
            let mut plan = calm();
            plan.guest.send_total = 100_000;
            plan.guest.receive_buffer = receive_buffer;
            plan.host.send_total = 1_000_000;
            plan.host.send_chunk = 3_000;
            plan.host.send_every_us = 500;
            plan.peer_resets_at = Some(at);
            let mut world = World::new(1, plan, Rng(1));
            world.host.sees_end = sees_end;
            world.run();
            assert_eq!(world.closed, Some(true), "with a reset");
            assert_eq!(world.guest.state, guest::State::Reset, "the guest is told");
            assert_eq!(world.guest.received(), world.host.arrived, "{at} {receive_buffer}");
        }
    }
}

/// The first buffers are those of sockets toward other networks, beside segments that are larger than what they tell of.
#[test]
fn a_guest_that_sends_large_segments_does_not_wait_for_its_patience_to_end() {
    for send_buffer in [3_000, 16_000, 65_280, 87_040, 130_000, 200_000, 300_000, 1 << 20] {
        for part in [6, 3, 2] {
            for our_mss in [1460, 16_320, 61_440] {
                let mut plan = calm();
                (plan.our_mss, plan.guest.burst) = (our_mss, 61_440);
                plan.guest.send_total = 2_000_000;
                plan.host.send_buffer = send_buffer;
                plan.host.drain_chunk = send_buffer / part;
                plan.host.drain_every_us = 20_000;
                plan.quality.delay_us = 50;
                let world = run_plan(plan);
                assert_eq!(
                    world.guest.waits, 0,
                    "{send_buffer} bytes, a part of {part}, {our_mss}"
                );
            }
        }
    }
}

#[test]
fn slow_guest_gets_each_byte_once() {
    let mut plan = calm();
    plan.host.send_total = 1_000_000;
    plan.guest.receive_buffer = 40_000;
    plan.guest.read_chunk = 3_000;
    plan.guest.read_every_us = 2_000;
    let world = run_plan(plan);
    // The window closes now and then, and what is in flight by then is sent again.
    assert!(world.sent_bytes < 1_100_000, "{} bytes sent", world.sent_bytes);
    assert!(world.now < 1_000_000, "as fast as the guest reads: {} us", world.now);
}

#[test]
fn bulk_to_guest_costs_few_actions() {
    let mut plan = calm();
    plan.host.send_total = 4_000_000;
    let world = run_plan(plan);
    assert_eq!(world.sent_bytes, 4_000_000, "each byte is sent once");
    assert!(world.discards < 100, "{} discards", world.discards);
    assert!(world.queries < 3, "{} queries", world.queries);
    assert!(world.emits < 5, "{} empty segments", world.emits);
}

#[test]
fn bulk_from_guest_costs_few_actions() {
    let mut plan = calm();
    plan.guest.send_total = 4_000_000;
    let world = run_plan(plan);
    assert_eq!((world.drops, world.guest.retransmissions), (0, 0));
    assert!(world.queries < 30, "{} queries", world.queries);
    assert!(world.emits < 50, "{} empty segments", world.emits);
}

/// As behind a guest that is a router to a network with several ways, of which each segment takes another.
#[test]
fn rfc4015_a_way_that_changes_the_order_is_nearly_as_fast_as_one_that_does_not() {
    let took = |jitter_us| {
        let mut plan = calm();
        plan.host.send_total = 20_000_000;
        plan.host.receive_buffer = 2_000_000;
        plan.guest.receive_buffer = 1_000_000;
        (plan.quality.delay_us, plan.quality.jitter_us) = (10_000, jitter_us);
        let world = run_plan(plan);
        assert!(world.sent_bytes < 20_200_000, "{jitter_us} us: {} bytes", world.sent_bytes);
        world.now
    };
    let ordered = took(0);
    for jitter_us in [100, 500, 2_000, 4_000, 8_000] {
        let took = took(jitter_us);
        assert!(took < 2 * ordered, "{took} us with a jitter of {jitter_us} us, {ordered} without");
    }
}
