//! Senders that sleep whenever they are refused, and are woken by reports of room and by nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use passt_frame::{
    FrameDone, FrameMeta, MAX_FRAMES, MIN_FRAME_BYTES, Payload, Reservation, Reserve, ToGuestLease,
    ToGuestList,
};

use crate::law::{free_all, pattern};
use crate::links::Subject;

/// Runs of each link.
const SEEDS: u64 = 10;
/// Senders at a link.
const SENDERS: usize = 4;
/// Reservations that each of them commits.
const QUOTA: usize = 40;
/// Most payload bytes of a request: the buffer of a socket that takes a tap device's place holds as much.
const MOST_BYTES: u32 = 150_000;

/// Random numbers (xorshift64*).
pub struct Dice(pub u64);

impl Dice {
    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % u64::from(n)) as u32
    }

    /// A request that the guest can take when all is free.
    fn request(&mut self, largest: u32) -> Reserve {
        let header_len = [42, 54, 74][self.below(3) as usize];
        let payload = [Payload::Stream, Payload::Datagrams][self.below(2) as usize];
        let most = match payload {
            Payload::Stream => MOST_BYTES,
            Payload::Datagrams => largest - header_len,
        };
        let sizes = [1, 18, 100, 1448, 4000, 9000, most, most / 2];
        let segment = sizes[self.below(8) as usize].clamp(1, most).min(65_000);
        let frames = 1 + self.below(30);
        let bytes = (segment * frames).saturating_sub(self.below(segment)).clamp(1, MOST_BYTES);
        Reserve { header_len, payload_len: segment, bytes, payload }
    }
}

/// What a try came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Committed,
    /// Given back, or used in part only.
    Undecided,
    /// The same, and a report is owed.
    UndecidedAndOwed,
    /// Waits for the report that is owed.
    Asleep,
}

/// One try: reserves, and commits all that there is, or with `dice` sometimes a part or nothing. Frames that
/// the guest is to see are added to `sent`.
fn attempt(
    link: &mut impl Subject,
    list: &mut ToGuestList,
    request: Reserve,
    dice: Option<&mut Dice>,
    sent: &mut Vec<Vec<u8>>,
) -> Outcome {
    let (_, out) = link.port().halves();
    let (mut lease, then) = match ToGuestLease::reserve(out, list, request) {
        Reservation::All(lease) => (lease, Outcome::Committed),
        Reservation::Some(lease) => (lease, Outcome::Asleep),
        Reservation::None => return Outcome::Asleep,
        Reservation::Never => panic!("never: {request:?}"),
    };
    check(&lease, request, then);
    for index in 0..lease.frames() {
        lease.put_payload(index, &vec![0xee; lease.frame_room(index) as usize]);
    }
    let all = lease.frames();
    // How many frames, and how many thousandths of their room.
    let (count, part) = match dice.map(|dice| (dice.below(8), dice.below(1000))) {
        Some((0, _)) => (0, 1000),
        Some((1, part)) => (part as usize % (all + 1), part),
        _ => (all, 1000),
    };
    let then = match (count < all || part < 1000, then) {
        (false, then) => then,
        (true, Outcome::Asleep) => Outcome::UndecidedAndOwed,
        (true, _) => Outcome::Undecided,
    };
    let mut done = Vec::new();
    for index in 0..count {
        let len = (u64::from(lease.frame_room(index)) * u64::from(part) / 1000) as u32;
        let mut frame = pattern((request.header_len + len) as usize, sent.len() as u32);
        let (header, payload) = frame.split_at(request.header_len as usize);
        lease.put_header(index, header);
        lease.put_payload(index, payload);
        frame.resize(frame.len().max(MIN_FRAME_BYTES as usize), 0);
        sent.push(frame);
        done.push(FrameDone { payload_len: len, meta: FrameMeta::default() });
    }
    if count > 0 {
        lease.commit(&done);
    }
    then
}

/// The room of a lease is what the request says.
fn check(lease: &ToGuestLease<'_>, request: Reserve, outcome: Outcome) {
    let rooms: Vec<u32> = (0..lease.frames()).map(|index| lease.frame_room(index)).collect();
    let sum: u32 = rooms.iter().sum();
    assert!(!rooms.is_empty() && rooms.len() <= MAX_FRAMES, "{request:?}: {rooms:?}");
    assert_eq!(sum.min(request.bytes), lease.room(), "{request:?}: {rooms:?}");
    assert!(lease.room() < request.bytes || outcome == Outcome::Committed, "{request:?}");
    let mut left = request.bytes;
    for room in rooms {
        let wanted = request.payload_len.min(left);
        match request.payload {
            Payload::Datagrams => assert!(room >= wanted, "{request:?}: {room} of {wanted}"),
            Payload::Stream => {
                assert!((1..=request.payload_len).contains(&room), "{request:?}: {room}");
            }
        }
        left -= wanted.min(room);
    }
}

/// The state of a run.
struct Run<'a, S: Subject> {
    link: S,
    dice: &'a mut Dice,
    /// What each sender is about to send, and whether it sleeps.
    senders: Vec<(Reserve, bool)>,
    /// A report is owed.
    owed: bool,
    /// The guest has made room since it is owed.
    freed: bool,
    /// How often it did without anybody using it.
    tries: usize,
    got: Vec<Vec<u8>>,
}

impl<S: Subject> Run<'_, S> {
    /// A turn of the loop: wakes all senders if there is room.
    fn turn(&mut self) {
        let room = self.link.turn(0).room;
        if room {
            assert!(self.owed, "a report that nobody was promised");
            assert!(self.freed, "a report without more room");
            (self.owed, self.freed, self.tries) = (false, false, 0);
            self.senders.iter_mut().for_each(|sender| sender.1 = false);
        }
        let patience = self.link.patience();
        assert!(self.tries < patience, "room came {} times, and no report", self.tries);
        self.got.extend(self.link.received());
    }

    /// The guest makes room.
    fn free(&mut self) -> bool {
        let freed = self.link.free_some();
        if freed && self.owed {
            self.freed = true;
            self.tries += 1;
        }
        freed
    }

    fn all_asleep(&self) -> bool {
        self.senders.iter().all(|&(_, asleep)| asleep)
    }
}

pub fn sleepers<S: Subject>(make: impl Fn() -> S) {
    for seed in 1..=SEEDS {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let link = make();
        let largest = link.largest();
        let senders = (0..SENDERS).map(|_| (dice.request(largest), false)).collect();
        let mut run = Run {
            link,
            dice: &mut dice,
            senders,
            owed: false,
            freed: false,
            tries: 0,
            got: Vec::new(),
        };
        let (mut list, mut sent, mut committed) = (ToGuestList::new(), Vec::new(), 0);
        while committed < SENDERS * QUOTA {
            if run.all_asleep() {
                run.turn();
            }
            if run.all_asleep() {
                assert!(run.free(), "seed {seed}: all is free, and everybody waits for room");
                run.turn();
                continue;
            }
            if run.dice.below(3) == 0 && run.free() && run.dice.below(2) == 0 {
                run.turn();
            }
            let sender = run.dice.below(SENDERS as u32) as usize;
            let (request, false) = run.senders[sender] else { continue };
            let before = sent.len();
            let outcome = attempt(&mut run.link, &mut list, request, Some(run.dice), &mut sent);
            run.senders[sender].1 = outcome == Outcome::Asleep;
            // Who was refused asks for the same again; a part is followed by something else.
            if outcome == Outcome::Committed || sent.len() > before {
                // What came may be used up before anybody is told.
                run.tries = 0;
                committed += 1;
                run.senders[sender].0 = run.dice.request(largest);
            }
            if matches!(outcome, Outcome::Asleep | Outcome::UndecidedAndOwed) && !run.owed {
                (run.owed, run.freed, run.tries) = (true, false, 0);
            }
            if !run.link.is_bounded() {
                run.turn();
            }
        }
        run.got.extend(free_all(&mut run.link).1);
        assert_eq!(run.got.len(), sent.len(), "seed {seed}");
        assert!(run.got == sent, "seed {seed}: other bytes arrive, or in another order");
    }
}

/// The guest runs in a thread of its own and makes room whenever it likes.
pub fn race<S: Subject>(make: impl Fn() -> S) {
    const FRAMES: u32 = 6000;
    let mut link = make();
    let largest = link.largest();
    let mut taker = link.taker().expect("a guest that can live in another thread");
    let over = Arc::new(AtomicBool::new(false));
    let seen = over.clone();
    let guest = std::thread::spawn(move || {
        let mut got = Vec::new();
        loop {
            let last = seen.load(Ordering::Acquire);
            got.extend(taker());
            if last {
                return got;
            }
            std::hint::spin_loop();
        }
    });
    let (mut list, mut sent) = (ToGuestList::new(), Vec::new());
    let mut dice = Dice(7);
    while sent.len() < FRAMES as usize {
        let len = 60 + dice.below(largest.min(3000) - 59);
        let (header_len, segment) = (42, len - 42);
        let bytes = segment * (1 + dice.below(4));
        let request =
            Reserve { header_len, payload_len: segment, bytes, payload: Payload::Datagrams };
        let before = sent.len();
        while sent.len() == before {
            let outcome = attempt(&mut link, &mut list, request, None, &mut sent);
            link.port().flush();
            // Another event may come first.
            let woken = outcome != Outcome::Asleep || (0..3).any(|_| link.turn(5000).room);
            assert!(woken, "the report of room is lost");
        }
        link.turn(0);
    }
    link.turn(0);
    over.store(true, Ordering::Release);
    let got = guest.join().expect("the guest");
    assert!(got == sent, "{} of {} frames, or others", got.len(), sent.len());
}
