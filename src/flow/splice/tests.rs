//! The machine between two model sockets: whatever they do, bytes arrive in order and all of them,
//! the end of a stream arrives once and behind them, and nothing is tried twice without an event.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// One socket of ours with its peer.
#[derive(Default)]
struct Socket {
    /// Bytes the peer has sent, not consumed yet.
    incoming: VecDeque<u8>,
    /// How many bytes the peer had sent before the one that it called urgent last.
    urgent: Option<usize>,
    /// Next byte the peer sends: bytes count up, so order shows.
    next: u8,
    sent: usize,
    fin_sent: bool,
    reset: bool,
    /// A call has failed since.
    told: bool,
    /// Bytes the peer's buffer takes before it must read.
    room: usize,
    /// A write was cut short: the peer's reading is announced.
    blocked: bool,
    /// Bytes to read are not announced.
    muted: bool,
    received: usize,
    fins_received: usize,
    /// Events on their way.
    pending: Event,
    /// Calls that achieved nothing since the last event, for reading and for writing.
    wasted: [u32; 2],
}

const BUFFER: usize = 64;
/// Bytes of one copy: small, so that copies of full length occur.
const COPY: usize = 16;

#[derive(Clone, Debug)]
enum Step {
    Send(usize, u8),
    /// One byte, which is urgent.
    Urgent(usize),
    Fin(usize),
    Reset(usize),
    Read(usize, u8),
    /// Delivers the events of a socket.
    Deliver(usize),
    /// Lets the machine act once; the number cuts reads and writes short.
    Act(u8),
}

struct Rig {
    machine: Splice,
    sockets: [Socket; 2],
    /// What each direction has read and not written: the pipe, and where the next byte belongs.
    pipes: [VecDeque<u8>; 2],
    expected: [u8; 2],
    has_pipe: [bool; 2],
    pool: bool,
    closed: Option<bool>,
    promote: bool,
}

impl Rig {
    fn new(connected: bool, pool: bool, promote: bool) -> Self {
        let socket = || Socket { room: BUFFER, ..Socket::default() };
        let mut sockets = [socket(), socket()];
        sockets[1].pending.writable = !connected;
        Self {
            machine: Splice::new(connected),
            sockets,
            pipes: Default::default(),
            expected: [0; 2],
            has_pipe: [false; 2],
            pool,
            closed: None,
            promote,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Send(end, bytes) => self.sockets[end].send(bytes.into()),
            Step::Urgent(end) => self.sockets[end].send_urgent(),
            Step::Fin(end) => self.sockets[end].fin(),
            Step::Reset(end) => {
                self.sockets[end].reset = true;
                self.sockets[end].pending.failed = true;
            }
            Step::Read(end, bytes) => self.sockets[end].peer_reads(bytes.into()),
            Step::Deliver(end) => self.deliver(end),
            Step::Act(cut) => {
                self.act(cut.into());
            }
        }
    }

    fn deliver(&mut self, end: usize) {
        let socket = &mut self.sockets[end];
        let event = std::mem::take(&mut socket.pending);
        if event != Event::default() {
            socket.wasted = [0; 2];
            self.machine.on_event(End::BOTH[end], event);
            if socket.before_urgent().is_some() && !socket.muted {
                self.machine.on_urgent(End::BOTH[end]);
            }
        }
    }

    /// One action; false when there was none. Reads and writes move at most `cut + 1` bytes.
    fn act(&mut self, cut: usize) -> bool {
        let Some(action) = self.machine.poll() else { return false };
        assert_eq!(self.closed, None, "{action:?} after the end");
        match action {
            Action::Copy(from) => {
                self.copy(from, cut);
                if self.promote {
                    self.machine.directions[from.index()].in_bulk = BULK_MAX;
                }
            }
            Action::TakePipe(from) => {
                self.has_pipe[from.index()] = self.pool;
                self.machine.on_pipe(from, self.pool);
            }
            Action::Fill(from) => self.fill(from, cut),
            Action::Drain(from, bytes) => self.drain(from, bytes, cut),
            Action::GivePipe(from) => {
                assert!(std::mem::take(&mut self.has_pipe[from.index()]));
                assert!(self.pipes[from.index()].is_empty(), "a pipe goes back empty");
            }
            Action::ShutdownWrite(end) => self.end(end),
            Action::Watch { end, readable } => self.sockets[end.index()].watch(readable),
            // What was written is with the peer.
            Action::Flush(end) => self.sockets[end.index()].pending.writable = true,
            Action::Close { reset } => {
                self.closed = Some(reset);
                for end in End::BOTH {
                    if !reset && self.sockets[end.index()].fins_received == 0 {
                        self.end(end);
                    }
                }
            }
        }
        true
    }

    /// Tells the peer of `end` that nothing follows.
    fn end(&mut self, end: End) {
        let source = &self.sockets[end.other().index()];
        assert!(source.fin_sent && source.incoming.is_empty(), "nothing is cut off");
        assert!(self.pipes[end.other().index()].is_empty());
        self.sockets[end.index()].fins_received += 1;
    }

    fn copy(&mut self, from: End, cut: usize) {
        let direction = from.index();
        assert!(!self.has_pipe[direction] && self.pipes[direction].is_empty());
        let source = &mut self.sockets[direction];
        if source.reset && source.incoming.is_empty() {
            // Whoever was told of the error first has taken it away.
            let copied = if source.told { Copied::Ended } else { Copied::Failed };
            source.told = true;
            return self.machine.on_copied(from, copied);
        }
        let until = source.before_urgent().filter(|before| *before > 0);
        let read = source.incoming.len().min(COPY).min(until.unwrap_or(COPY));
        if read == 0 {
            let copied =
                if source.fin_sent { Copied::Ended } else { source.nothing(0, Copied::Empty) };
            return self.machine.on_copied(from, copied);
        }
        let bytes: Vec<u8> = source.incoming.iter().copied().take(read).collect();
        let taken = self.write(from, &bytes, cut);
        let Some(taken) = taken else { return self.machine.on_copied(from, Copied::Refused) };
        // Without a pipe to hold it, the rest is left in the socket.
        let held = if self.pool { read - taken } else { 0 };
        self.sockets[direction].incoming.drain(..taken + held);
        self.pipes[direction].extend(&bytes[taken..taken + held]);
        self.has_pipe[direction] = held > 0;
        let [read, taken, held, room] = [read, taken, held, COPY].map(|bytes| bytes as u32);
        self.machine.on_copied(from, Copied::Bytes { read, taken, held, room });
    }

    fn fill(&mut self, from: End, cut: usize) {
        let direction = from.index();
        assert!(self.has_pipe[direction]);
        let source = &mut self.sockets[direction];
        let filled = if source.reset && source.incoming.is_empty() {
            if std::mem::replace(&mut source.told, true) { Filled::Ended } else { Filled::Failed }
        } else if source.before_urgent() == Some(0) {
            let over = source.fin_sent || source.reset;
            if over { Filled::Urgent } else { source.nothing(0, Filled::Empty) }
        } else if source.incoming.is_empty() {
            if source.fin_sent { Filled::Ended } else { source.nothing(0, Filled::Empty) }
        } else {
            let until = source.before_urgent().unwrap_or(cut + 1);
            let read = source.incoming.len().min(cut + 1).min(until);
            self.pipes[direction].extend(source.incoming.drain(..read));
            Filled::Bytes(read as u32)
        };
        self.machine.on_filled(from, filled);
    }

    fn drain(&mut self, from: End, bytes: u32, cut: usize) {
        let direction = from.index();
        assert_eq!(self.pipes[direction].len(), bytes as usize);
        let held: Vec<u8> = self.pipes[direction].iter().copied().collect();
        let drained = match self.write(from, &held, cut) {
            Some(taken) => {
                self.pipes[direction].drain(..taken);
                Drained::Bytes(taken as u32)
            }
            None => Drained::Failed,
        };
        self.machine.on_drained(from, drained);
    }

    /// Writes to the destination; `None` if it was reset.
    fn write(&mut self, from: End, bytes: &[u8], cut: usize) -> Option<usize> {
        let destination = &mut self.sockets[from.other().index()];
        if destination.reset {
            destination.told = true;
            return None;
        }
        assert_eq!(destination.fins_received, 0, "nothing follows the end");
        let taken = bytes.len().min(destination.room).min(cut);
        for &byte in &bytes[..taken] {
            assert_eq!(byte, self.expected[from.index()], "in order");
            self.expected[from.index()] = byte.wrapping_add(1);
        }
        destination.received += taken;
        destination.room -= taken;
        if taken < bytes.len() {
            destination.blocked = true;
            // Where there was room after all, the kernel says so at once.
            destination.pending.writable |= destination.room > 0;
            destination.nothing(1, ());
        }
        Some(taken)
    }

    /// Peers read everything, events arrive, the machine acts, until nothing happens.
    fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < 10_000, "it never comes to rest");
            let before = [0, 1].map(|end| self.sockets[end].pending);
            for end in 0..2 {
                self.sockets[end].peer_reads(BUFFER);
                self.deliver(end);
            }
            let acted = std::iter::from_fn(|| self.act(COPY).then_some(())).take(1000).count();
            assert!(acted < 1000, "the machine spins");
            if acted == 0 && before == [Event::default(); 2] {
                return;
            }
        }
    }
}

impl Socket {
    fn send(&mut self, bytes: usize) {
        if self.fin_sent || self.reset {
            return;
        }
        for _ in 0..bytes {
            self.incoming.push_back(self.next);
            self.next = self.next.wrapping_add(1);
        }
        self.sent += bytes;
        self.pending.readable |= bytes > 0 && !self.muted;
    }

    fn send_urgent(&mut self) {
        if !self.fin_sent && !self.reset {
            self.urgent = Some(self.sent);
            self.send(1);
        }
    }

    /// Bytes that wait before the urgent one, if that waits.
    fn before_urgent(&self) -> Option<usize> {
        self.urgent?.checked_sub(self.sent - self.incoming.len())
    }

    /// Bytes to read are reported, or no longer.
    fn watch(&mut self, readable: bool) {
        assert_eq!(self.muted, readable, "asked for a change");
        self.muted = !readable;
        self.pending.readable = readable && !self.incoming.is_empty();
    }

    fn fin(&mut self) {
        if !self.reset && !std::mem::replace(&mut self.fin_sent, true) {
            self.pending.ended = true;
        }
    }

    fn peer_reads(&mut self, bytes: usize) {
        let before = self.room;
        self.room = (self.room + bytes).min(BUFFER);
        if self.room > before && std::mem::take(&mut self.blocked) {
            self.pending.writable = true;
        }
    }

    /// A call has found that it has to wait: the second such call without an event is a spin.
    fn nothing<T>(&mut self, kind: usize, result: T) -> T {
        self.wasted[kind] += 1;
        assert!(self.wasted[kind] <= 1, "tried again without an event");
        result
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = 0..2usize;
    let step = prop_oneof![
        4 => (end.clone(), 0..40u8).prop_map(|(end, n)| Step::Send(end, n)),
        1 => end.clone().prop_map(Step::Urgent),
        1 => end.clone().prop_map(Step::Fin),
        4 => (end.clone(), 0..80u8).prop_map(|(end, n)| Step::Read(end, n)),
        4 => end.prop_map(Step::Deliver),
        8 => (0..20u8).prop_map(Step::Act),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn everything_arrives_and_the_end_arrives_once(
        steps in steps(),
        (connected, pool, promote) in any::<(bool, bool, bool)>(),
    ) {
        let mut rig = Rig::new(connected, pool, promote);
        for step in &steps {
            rig.step(step);
        }
        rig.settle();
        for end in 0..2 {
            let (source, destination) = (&rig.sockets[end], &rig.sockets[1 - end]);
            prop_assert_eq!(source.sent, destination.received);
            prop_assert_eq!(usize::from(source.fin_sent), destination.fins_received);
        }
        prop_assert!(!rig.has_pipe[0] && !rig.has_pipe[1], "idle flows hold no pipe");
        let over = rig.sockets.iter().all(|socket| socket.fin_sent);
        prop_assert_eq!(rig.closed, over.then_some(false));
    }

    #[test]
    fn reset_of_either_end_resets_both(
        before in steps(),
        after in steps(),
        end in 0..2usize,
        (pool, promote) in any::<(bool, bool)>(),
    ) {
        let mut rig = Rig::new(false, pool, promote);
        before.iter().for_each(|step| rig.step(step));
        let connected = !rig.machine.is_connecting();
        rig.step(&Step::Reset(end));
        after.iter().for_each(|step| rig.step(step));
        rig.settle();
        // What it has said before that is the other end's, whether an event or a write told of it first.
        if connected {
            prop_assert_eq!(rig.sockets[end].sent, rig.sockets[1 - end].received);
        }
        // A reset that is told after both ends were passed on finds nothing to reset.
        let over = rig.sockets.iter().all(|socket| socket.fins_received == 1);
        prop_assert!(rig.closed == Some(true) || (over && rig.closed == Some(false)));
    }
}

/// A connected one whose initiator has sent something.
fn established() -> Splice {
    let mut machine = Splice::new(true);
    assert_eq!(machine.poll(), None, "nothing was told yet");
    machine.on_event(End::Initiator, Event { readable: true, ..Event::default() });
    machine
}

const ENDED: Event = Event { readable: true, writable: false, ended: true, failed: false };

#[test]
fn nothing_moves_before_the_target_is_connected() {
    let mut machine = Splice::new(false);
    machine.on_event(End::Initiator, Event { readable: true, writable: true, ..Event::default() });
    assert_eq!(machine.poll(), None);
    assert!(machine.is_connecting());
    machine.on_event(End::Target, Event { writable: true, ..Event::default() });
    assert_eq!(machine.poll(), Some(Action::Copy(End::Initiator)));
}

#[test]
fn refused_connection_resets_the_initiator() {
    let mut machine = Splice::new(false);
    machine.on_event(End::Target, Event { failed: true, ended: true, ..Event::default() });
    assert_eq!(machine.poll(), Some(Action::Close { reset: true }));
    assert_eq!(machine.poll(), None);
}

#[test]
fn what_has_come_before_a_failure_is_the_other_end_s() {
    let mut machine = established();
    // The initiator goes on sending to who has refused all of it.
    machine.on_event(End::Initiator, Event { readable: true, ..Event::default() });
    let failed = Event { readable: true, ended: true, failed: true, ..Event::default() };
    machine.on_event(End::Target, failed);
    assert_eq!(machine.poll(), Some(Action::Copy(End::Target)));
    machine.on_copied(End::Target, Copied::Bytes { read: 9, taken: 5, held: 4, room: 100 });
    let mut drained = 0;
    while let Some(action) = machine.poll() {
        match action {
            Action::GivePipe(_) | Action::Watch { end: End::Target, .. } => {}
            // The pipe is emptied first: nothing else is done before there is room for what it holds.
            Action::Drain(End::Target, 4) => {
                drained += 4;
                machine.on_drained(End::Target, Drained::Bytes(4));
            }
            Action::Copy(End::Target) => machine.on_copied(End::Target, Copied::Failed),
            Action::Fill(End::Target) => machine.on_filled(End::Target, Filled::Failed),
            Action::Flush(End::Initiator) => {}
            Action::Close { reset } => assert!(reset),
            other => panic!("{other:?}"),
        }
        machine.on_event(End::Initiator, Event { writable: true, ..Event::default() });
    }
    assert_eq!(drained, 4);
    assert!(machine.closed);
}

#[test]
fn an_end_that_fails_when_it_is_written_to_is_read_first() {
    let end = End::Target;
    let shut = |machine: &mut Splice| {
        machine.on_copied(end.other(), Copied::Ended);
        assert_eq!(machine.poll(), Some(Action::ShutdownWrite(end)));
        machine.on_broken(end);
    };
    let drained = |machine: &mut Splice| {
        machine.on_copied(end.other(), Copied::Bytes { read: 9, taken: 5, held: 4, room: 9 });
        machine.on_drained(end.other(), Drained::Failed);
    };
    let copied = |machine: &mut Splice| machine.on_copied(end.other(), Copied::Refused);
    let fails: [&dyn Fn(&mut Splice); 3] = [&shut, &drained, &copied];
    for fail in fails {
        for last in [Copied::Ended, Copied::Failed, Copied::Empty] {
            let mut machine = established();
            assert_eq!(machine.poll(), Some(Action::Copy(end.other())));
            fail(&mut machine);
            assert_eq!(machine.poll(), Some(Action::Copy(end)));
            machine.on_copied(end, Copied::Bytes { read: 9, taken: 9, held: 0, room: 9 });
            assert_eq!(machine.poll(), Some(Action::Copy(end)));
            machine.on_copied(end, last);
            assert_eq!(machine.poll(), Some(Action::Flush(end.other())), "{last:?}");
            assert_eq!(machine.poll(), None);
            machine.on_event(end.other(), Event { writable: true, ..Event::default() });
            assert_eq!(machine.poll(), Some(Action::Close { reset: true }), "{last:?}");
        }
    }
}

#[test]
fn rfc9293_3_6_half_close_leaves_the_other_way_open() {
    let mut machine = established();
    machine.on_event(End::Initiator, ENDED);
    assert_eq!(machine.poll(), Some(Action::Copy(End::Initiator)));
    machine.on_copied(End::Initiator, Copied::Ended);
    assert_eq!(machine.poll(), Some(Action::ShutdownWrite(End::Target)));
    assert_eq!(machine.poll(), None);
    machine.on_event(End::Target, Event { readable: true, ..Event::default() });
    assert_eq!(machine.poll(), Some(Action::Copy(End::Target)));
    machine.on_copied(End::Target, Copied::Bytes { read: 9, taken: 9, held: 0, room: 100 });
    machine.on_event(End::Target, ENDED);
    assert_eq!(machine.poll(), Some(Action::Copy(End::Target)));
    machine.on_copied(End::Target, Copied::Ended);
    assert_eq!(
        machine.poll(),
        Some(Action::Close { reset: false }),
        "which shuts the other direction"
    );
}

/// As many bytes as could have been read, all taken.
fn copied(bytes: u32) -> Copied {
    Copied::Bytes { read: bytes, taken: bytes, held: 0, room: bytes }
}

#[test]
fn what_a_slow_receiver_does_not_take_is_drained_before_more_is_read() {
    let mut machine = established();
    assert_eq!(machine.poll(), Some(Action::Copy(End::Initiator)));
    machine.on_copied(End::Initiator, Copied::Bytes { read: 9, taken: 5, held: 4, room: 9 });
    assert_eq!(machine.held(End::Initiator), 4);
    assert_eq!(machine.poll(), Some(Action::Watch { end: End::Initiator, readable: false }));
    assert_eq!(machine.poll(), None);
    machine.on_event(End::Initiator, ENDED);
    assert_eq!(machine.poll(), None, "the end waits behind the last byte");
    machine.on_event(End::Target, Event { writable: true, ..Event::default() });
    assert_eq!(machine.poll(), Some(Action::Drain(End::Initiator, 4)));
    machine.on_drained(End::Initiator, Drained::Bytes(4));
    assert_eq!(machine.poll(), Some(Action::Fill(End::Initiator)));
    machine.on_filled(End::Initiator, Filled::Ended);
    assert_eq!(machine.poll(), Some(Action::GivePipe(End::Initiator)));
    assert_eq!(machine.poll(), Some(Action::ShutdownWrite(End::Target)));
}

#[test]
fn long_way_gets_a_pipe_and_gives_it_back_when_drained() {
    let mut machine = established();
    let all = copied(PROMOTE_BYTES);
    machine.on_copied(End::Initiator, all);
    assert_eq!(machine.poll(), Some(Action::TakePipe(End::Initiator)));
    machine.on_pipe(End::Initiator, true);
    assert_eq!(machine.poll(), Some(Action::Fill(End::Initiator)));
    machine.on_filled(End::Initiator, Filled::Bytes(100));
    assert_eq!(machine.poll(), Some(Action::Drain(End::Initiator, 100)));
    machine.on_drained(End::Initiator, Drained::Bytes(60));
    let watch = |readable| Some(Action::Watch { end: End::Initiator, readable });
    assert_eq!(machine.poll(), watch(false), "nothing can be done about more");
    assert_eq!(machine.poll(), None, "the receiver is slow: the rest waits in the pipe");
    machine.on_event(End::Target, Event { writable: true, ..Event::default() });
    assert_eq!(machine.poll(), Some(Action::Drain(End::Initiator, 40)));
    machine.on_drained(End::Initiator, Drained::Bytes(40));
    assert_eq!(machine.poll(), Some(Action::Fill(End::Initiator)));
    machine.on_filled(End::Initiator, Filled::Empty);
    assert_eq!(machine.poll(), watch(true));
    assert_eq!(machine.poll(), Some(Action::GivePipe(End::Initiator)));
    assert_eq!(machine.poll(), None);
}

#[test]
fn questions_and_answers_are_copied_however_many() {
    let mut machine = established();
    let small = Copied::Bytes { read: 100, taken: 100, held: 0, room: PROMOTE_BYTES };
    for _ in 0..=PROMOTE_BYTES / 100 {
        assert_eq!(machine.poll(), Some(Action::Copy(End::Initiator)));
        machine.on_copied(End::Initiator, small);
        assert_eq!(machine.poll(), None);
        machine.on_event(End::Initiator, Event { readable: true, ..Event::default() });
    }
}

/// A read of the initiator's through its pipe, to the end of what waits, and the next event.
fn piped(machine: &mut Splice, bytes: u32) {
    assert_eq!(machine.poll(), Some(Action::TakePipe(End::Initiator)));
    machine.on_pipe(End::Initiator, true);
    assert_eq!(machine.poll(), Some(Action::Fill(End::Initiator)));
    machine.on_filled(End::Initiator, Filled::Bytes(bytes));
    assert_eq!(machine.poll(), Some(Action::Drain(End::Initiator, bytes)));
    machine.on_drained(End::Initiator, Drained::Bytes(bytes));
    assert_eq!(machine.poll(), Some(Action::Fill(End::Initiator)));
    machine.on_filled(End::Initiator, Filled::Empty);
    assert_eq!(machine.poll(), Some(Action::GivePipe(End::Initiator)));
    machine.on_event(End::Initiator, Event { readable: true, ..Event::default() });
}

#[test]
fn several_small_pieces_end_the_use_of_pipes() {
    let mut machine = established();
    machine.on_copied(End::Initiator, copied(PROMOTE_BYTES));
    for _ in 0..4 {
        piped(&mut machine, 100_000);
    }
    piped(&mut machine, 100);
    piped(&mut machine, 100_000);
    assert!(machine.moves_bulk());
    for _ in 0..5 {
        piped(&mut machine, 100);
    }
    assert_eq!(machine.poll(), Some(Action::Copy(End::Initiator)));
    let small = Copied::Bytes { read: 100, taken: 100, held: 0, room: PROMOTE_BYTES };
    for _ in 0..8 {
        machine.on_copied(End::Initiator, small);
    }
    assert!(!machine.moves_bulk());
}

#[test]
fn without_a_pipe_it_goes_on_copying() {
    let mut machine = established();
    let all = copied(PROMOTE_BYTES);
    machine.on_copied(End::Initiator, all);
    assert_eq!(machine.poll(), Some(Action::TakePipe(End::Initiator)));
    machine.on_pipe(End::Initiator, false);
    assert_eq!(machine.poll(), Some(Action::Copy(End::Initiator)));
}

/// An end has failed, and the other one has not taken what it has said.
fn held_back(back: Event) -> Splice {
    let mut machine = Splice::new(true);
    let failed = Event { readable: true, ended: true, failed: true, ..Event::default() };
    machine.on_event(End::Target, failed);
    assert_eq!(machine.poll(), Some(Action::Copy(End::Target)));
    machine.on_copied(End::Target, Copied::Bytes { read: 9, taken: 0, held: 9, room: 9 });
    machine.on_event(End::Initiator, back);
    assert_eq!(machine.poll(), Some(Action::Watch { end: End::Target, readable: false }));
    assert_eq!(machine.poll(), None);
    machine
}

#[test]
fn who_takes_nothing_is_reset_in_time() {
    let readable = Event { readable: true, ..Event::default() };
    for (back, patience) in
        [(Event::default(), READER_PATIENCE), (ENDED, READER_PATIENCE), (readable, WRITER_PATIENCE)]
    {
        let start = Timestamp::from_micros(5);
        let mut machine = held_back(back);
        assert_eq!(machine.deadline(start), Some(start + patience));
        let later = start + Duration::from_millis(1);
        assert_eq!(machine.deadline(later), Some(start + patience), "nothing was taken");
        machine.on_timer(later);
        assert_eq!(machine.poll(), None);
        machine.on_event(End::Initiator, Event { writable: true, ..Event::default() });
        assert_eq!(machine.poll(), Some(Action::Drain(End::Target, 9)));
        machine.on_drained(End::Target, Drained::Bytes(1));
        assert_eq!(machine.poll(), None);
        assert_eq!(machine.deadline(later), Some(later + patience), "a byte was");
        machine.on_timer(later + patience);
        assert_eq!(machine.poll(), Some(Action::Close { reset: true }));
        assert_eq!(machine.deadline(later), None);
    }
}

#[test]
fn who_writes_while_nobody_reads_has_less_time() {
    let start = Timestamp::from_micros(5);
    let mut machine = held_back(Event::default());
    assert_eq!(machine.deadline(start), Some(start + READER_PATIENCE));
    machine.on_event(End::Initiator, Event { readable: true, ..Event::default() });
    assert_eq!(machine.poll(), None, "nobody takes that");
    let later = start + Duration::from_secs(9);
    assert_eq!(machine.deadline(later), Some(later + WRITER_PATIENCE));
}

#[test]
fn two_ends_that_are_well_may_wait_for_ever() {
    let mut machine = established();
    assert_eq!(machine.poll(), Some(Action::Copy(End::Initiator)));
    machine.on_copied(End::Initiator, Copied::Bytes { read: 9, taken: 0, held: 9, room: 9 });
    assert_eq!(machine.poll(), Some(Action::Watch { end: End::Initiator, readable: false }));
    assert_eq!(machine.poll(), None);
    assert_eq!(machine.deadline(Timestamp::from_micros(5)), None);
}
