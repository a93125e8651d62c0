//! Plays a script against the TCP machine, one line an event.
//!
//! Sequence numbers of either side count from its SYN, which is 0. Lines:
//!
//! | line | means |
//! |---|---|
//! | `> A 1+10 ack=1 win=9 -> 0 10` | from the guest: ACK, sequence 1, 10 bytes; of these skip 0, write 10 |
//! | `> A 9+1 ack=1 -x Old` | from the guest; dropped for that reason |
//! | `< SA 0 ack=1 win=9 mss=536 ws=8` | to the guest, exactly these flags and numbers; options as stated |
//! | `w 10`, `w 10 keeps 20` | the socket took 10 bytes of the run, and 20 more are kept |
//! | `kept 5` | 5 bytes of those are left |
//! | `! readable` | event of the socket |
//! | `queue 500` | the socket, which has failed, has 500 bytes in its queue |
//! | `room 500` | the socket's send buffer takes 500 bytes, whenever that is asked |
//! | `port` | the link has buffers again |
//! | `toobig 1 1360` | the segment at 1 is too big, and 1,360 bytes are not; with `-x`: that is not believed |
//! | `setback` | the guest's machine was set back to an earlier state |
//! | `data 0 500 1` | asks for 500 bytes at offset 0, to be sent from sequence 1 |
//! | `= sent 500`, `= drained 20`, `= empty`, `= eof`, `= noroom`, `= failed` | what came of that |
//! | `discard 500`, `shutdown`, `watch`, `close`, `reset` | other actions; `reset` is a close |
//! | `t 1000` | 1,000 ms pass; the timer runs if it is due |
//! | `unread 1000` | the same, while the guest reads nothing of what it is sent |
//! | `us 300` | 300 µs pass; what has waited for that may follow |
//! | `delays` | first of all: acknowledgements of data may wait |
//!
//! Between an input and the next, all actions must be named: none may be left over.

use std::time::Duration;

use passt::flow::tcp::{
    Accept, Action, Conn, DataResult, Flags, Header, Opening, Segment, SocketEvent, TcpConfig,
};
use passt::time::Timestamp;
use passt::wire::seq::SeqNr;

/// Both start close to the wrap.
const GUEST_ISN: SeqNr = SeqNr(u32::MAX - 3);
const OUR_ISN: SeqNr = SeqNr(u32::MAX - 1);

const OPENING: Opening = Opening { isn: OUR_ISN, our_mss: 1000, max_segment: 2000 };

pub struct Player {
    pub conn: Option<Conn>,
    now: Timestamp,
    config: TcpConfig,
    room: u32,
}

/// Plays `script` from nothing: the first line opens the connection, with the guest's SYN or with
/// `accept`.
pub fn play(script: &str) -> Player {
    let now = Timestamp::from_micros(100_000_000);
    let mut player = Player { conn: None, now, config: TcpConfig::default(), room: 50_000 };
    player.go_on(script);
    player
}

impl Player {
    pub fn conn(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("the first line opens the connection")
    }

    /// Plays more.
    pub fn go_on(&mut self, script: &str) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            if !self.input(verb, rest, line) {
                let action = self.poll();
                let said = action.map_or("nothing".into(), |action| describe(&action));
                check_action(line, &said, &format!("{:?}", self.conn));
            }
        }
        self.expect_quiet("the end");
    }

    fn poll(&mut self) -> Option<Action> {
        let (now, room) = (self.now, self.room);
        loop {
            match self.conn().poll(now) {
                Some(Action::QueryRoom) => self.conn().on_room(room),
                action => return action,
            }
        }
    }

    fn expect_quiet(&mut self, before: &str) {
        if self.conn.is_some() {
            let action = self.poll();
            assert_eq!(action.map(|a| describe(&a)), None, "before {before:?}, {:?}", self.conn);
        }
    }

    fn input(&mut self, verb: &str, rest: &str, line: &str) -> bool {
        // A run is one input: nothing is polled between its segments and its write.
        if matches!(verb, "!" | "t" | "unread" | "us" | "port" | "setback" | "toobig") {
            self.expect_quiet(line);
        }
        let now = self.now;
        match verb {
            "accept" => self.conn = Some(Conn::inbound(now, &self.config, OPENING)),
            ">" => self.segment(rest, line),
            "w" => {
                let (taken, kept) = rest.split_once(" keeps ").unwrap_or((rest, "0"));
                self.conn().on_written(now, number(taken), number(kept));
            }
            "kept" => self.conn().on_kept(now, number(rest)),
            "!" => self.conn().on_socket(now, event(rest)),
            "queue" => self.conn().on_queue(number(rest)),
            "room" => self.room = number(rest),
            "port" => self.conn().on_port_room(now),
            "toobig" => {
                let (at, heeded) =
                    rest.split_once(" -x").map_or((rest, true), |(at, _)| (at, false));
                let (seq, mss) = at.split_once(' ').expect("a number and a size");
                let seq = OUR_ISN + number::<i64>(seq) as u32;
                assert_eq!(self.conn().on_too_big(now, seq, number(mss)), heeded, "{line}");
            }
            "setback" => self.conn().on_guest_set_back(),
            "=" => self.conn().on_data(now, data(rest)),
            "delays" => self.config.acks_may_wait = true,
            "us" => self.now = now + Duration::from_micros(number(rest)),
            "t" | "unread" => {
                self.now = now + Duration::from_millis(number::<u64>(rest));
                let now = self.now;
                match verb {
                    "t" => self.conn().on_timer(now),
                    _ => self.conn().on_timer_unread(now),
                }
                assert!(self.conn().deadline().is_none_or(|at| at > now), "{line}");
            }
            _ => return false,
        }
        true
    }

    fn segment(&mut self, text: &str, line: &str) {
        let (text, dropped) = text.split_once(" -x ").unwrap_or((text, ""));
        let (text, taken) = text.split_once(" -> ").unwrap_or((text, "0 0"));
        let seg = parse(text);
        let Some(conn) = &mut self.conn else {
            self.conn = Some(Conn::outbound(self.now, &self.config, &seg, OPENING));
            return;
        };
        let Accept { skip, len, dropped: reason } = conn.on_segment(self.now, &seg);
        let said = if len == 0 { "0 0".into() } else { format!("{skip} {len}") };
        let reason = reason.map_or(String::new(), |reason| format!("{reason:?}"));
        assert_eq!((said.as_str(), reason.as_str()), (taken, dropped), "{line}, {conn:?}");
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text:?}"))
}

fn event(name: &str) -> SocketEvent {
    match name {
        "connected" => SocketEvent::Connected,
        "readable" => SocketEvent::Readable,
        "writable" => SocketEvent::Writable,
        "peerclosed" => SocketEvent::PeerClosed,
        "hungup" => SocketEvent::HungUp,
        "failed" => SocketEvent::Failed,
        "failedafterend" => SocketEvent::FailedAfterEnd,
        _ => panic!("no such event: {name}"),
    }
}

fn data(text: &str) -> DataResult {
    match text.split_once(' ').unwrap_or((text, "")) {
        ("sent", bytes) => DataResult::Sent { bytes: number(bytes), drained: false },
        ("drained", bytes) => DataResult::Sent { bytes: number(bytes), drained: true },
        ("empty", _) => DataResult::Empty,
        ("eof", _) => DataResult::Eof,
        ("noroom", _) => DataResult::NoRoom,
        ("failed", _) => DataResult::Failed,
        _ => panic!("no such result: {text}"),
    }
}

fn flags(letters: &str) -> Flags {
    letters.chars().fold(Flags::default(), |flags, letter| {
        flags
            | match letter {
                'F' => Flags::FIN,
                'S' => Flags::SYN,
                'R' => Flags::RST,
                'P' => Flags::PSH,
                'A' => Flags::ACK,
                'U' => Flags::URG,
                '-' => Flags::default(),
                _ => panic!("no such flag: {letter}"),
            }
    })
}

fn parse(text: &str) -> Segment {
    let mut words = text.split_whitespace();
    let flags = flags(words.next().expect("flags"));
    let position = words.next().expect("sequence number");
    let (seq, payload) = position.split_once('+').unwrap_or((position, "0"));
    let relative: i64 = number(seq);
    let mut seg = Segment {
        seq: GUEST_ISN + relative as u32,
        flags,
        window: 10_000,
        payload_len: number(payload),
        ..Segment::default()
    };
    for word in words {
        match word.split_once('=').expect("name=value") {
            ("ack", value) => seg.ack = OUR_ISN + number::<i64>(value) as u32,
            ("win", value) => seg.window = number(value),
            ("mss", value) => seg.mss = Some(number(value)),
            ("ws", value) => seg.window_scale = Some(number(value)),
            _ => panic!("no such field: {word}"),
        }
    }
    seg
}

fn describe(action: &Action) -> String {
    match *action {
        Action::Emit(header) => describe_header(&header),
        Action::SendData { offset, bytes, seq, .. } => {
            format!("data {offset} {bytes} {}", seq.offset_from(OUR_ISN))
        }
        Action::Discard(bytes) => format!("discard {bytes}"),
        Action::QueryRoom => "query".into(),
        Action::WatchWritable => "watch".into(),
        Action::ShutdownWrite => "shutdown".into(),
        Action::Close { reset } => if reset { "reset" } else { "close" }.into(),
    }
}

fn describe_header(header: &Header) -> String {
    let letters: String = [
        (Flags::FIN, 'F'),
        (Flags::SYN, 'S'),
        (Flags::RST, 'R'),
        (Flags::PSH, 'P'),
        (Flags::ACK, 'A'),
    ]
    .iter()
    .filter(|(flag, _)| header.flags.contains(*flag))
    .map(|(_, letter)| *letter)
    .collect();
    let mut text = format!("< {letters} {}", header.seq.offset_from(OUR_ISN));
    if header.flags.contains(Flags::ACK) {
        text += &format!(" ack={}", header.ack.offset_from(GUEST_ISN));
    }
    text += &format!(" win={}", header.window);
    if let Some(mss) = header.mss {
        text += &format!(" mss={mss}");
    }
    if let Some(scale) = header.window_scale {
        text += &format!(" ws={scale}");
    }
    text
}

/// The window need not be stated; all else must be as it is.
fn check_action(line: &str, said: &str, state: &str) {
    let states_window = line.split(' ').any(|word| word.starts_with("win="));
    let said: Vec<_> =
        said.split(' ').filter(|word| states_window || !word.starts_with("win=")).collect();
    let said = said.join(" ");
    assert_eq!(said, line, "said (left), expected (right); {state}");
}
