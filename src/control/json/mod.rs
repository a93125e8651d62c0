//! The JSON protocol of `--control` and `--control-ro`: one request a line, one reply a line, and with `watch` a line
//! for each event behind that. `contrib/control.schema.json` describes all of them.
//!
//! | file | what it holds |
//! |---|---|
//! | `model` | what is said, as types |
//! | `commands` | the names of all commands |
//! | `request` | requests, and what is wrong with them |
//! | `about`, `flows`, `rules` | the answers |
//! | `watch` | events |
//!
//! What a client costs is bounded: a request by [`CONTROL_LINE_BYTES`], of which one is answered a turn, of all clients
//! together ([`Pace`]), and the client's next one when it has read the reply; a reply by the number of rules there may be
//! (1,024 of `egress`: some 300 KiB), or a page of flows; the time that all of them take, by the loop's lobby. A reply that
//! the client does not read waits, and nothing else does.

mod about;
pub(crate) mod commands;
mod flows;
pub mod model;
mod request;
mod rules;
mod watch;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use passt_frame::ToGuest;
use serde::Serialize;
use serde_json::Value;

use super::channel::Channel;
use super::protocol::{Next, Protocol};
use super::server::Kind;
use crate::conf::ports::Kernel;
use crate::engine::Engine;
use crate::limits::{CONTROL_LINE_BYTES, CONTROL_REPLY_BYTES, CONTROL_SILENCE};
use crate::time::Timestamp;
use model::{Egress, Flows, Log, Problem, Rules, Stats, Status, Watch};
pub use request::Access;
use request::{Line, Request};
use watch::Reader;

/// How the server of such clients is made.
pub const KIND: Kind = Kind {
    name: "control",
    arrivals: log::Level::Debug,
    input_bytes: CONTROL_LINE_BYTES,
    output_bytes: CONTROL_REPLY_BYTES,
};

/// What answers depend on and the engine does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// `passt` or `pasta`.
    pub program: &'static str,
    /// How the guest is attached.
    pub mode: &'static str,
    /// There is a namespace whose ports can lead to the host.
    pub has_namespace: bool,
    /// What port specifications depend on.
    pub kernel: Kernel,
}

/// When a request was last answered, of all clients that share it: one a turn, so that many who ask at once hold up the
/// guest no longer than one.
#[derive(Clone, Debug, Default)]
pub struct Pace(Rc<Cell<Option<Timestamp>>>);

impl Pace {
    /// Whether nothing was answered in the turn that began at `now`.
    fn is_free(&self, now: Timestamp) -> bool {
        self.0.get() != Some(now)
    }

    fn take(&self, now: Timestamp) {
        self.0.set(Some(now));
    }
}

/// What is said on one connection.
pub struct Json {
    about: About,
    access: Access,
    pace: Pace,
    /// Bytes of the input in which there is no end of a line.
    searched: usize,
    /// What the client has not been told yet of the last reply, from `told` on.
    reply: Vec<u8>,
    told: usize,
    /// A request that waits until another change is in force.
    waiting: Option<Line>,
    /// What is being put in force for the client.
    under_way: Option<(Asked, rules::UnderWay)>,
    reader: Option<Reader>,
    /// Somebody who has left was a reader.
    left: Option<Reader>,
}

/// An answer.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Status(Box<Status>),
    Stats(Stats),
    Flows(Flows),
    Rules(Rules),
    Egress(Egress),
    Watch(Watch),
    Log(Log),
}

/// What of a request is repeated in its reply.
struct Asked {
    tag: Option<Value>,
    command: Option<String>,
}

/// What a request leads to.
enum Outcome {
    Answer(Answer),
    UnderWay(rules::UnderWay),
}

/// A reply.
#[derive(Serialize)]
struct Reply {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Answer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Problem>,
}

impl Json {
    /// For clients that may change things, or only ask.
    pub fn new(about: About, access: Access, pace: Pace) -> Self {
        Self {
            about,
            access,
            pace,
            searched: 0,
            reply: Vec::new(),
            told: 0,
            waiting: None,
            under_way: None,
            reader: None,
            left: None,
        }
    }

    /// The length of the first line, if it is there. What was searched before is not searched again, so that bytes
    /// which come one by one cost no more than others.
    fn line_length(&mut self, channel: &Channel) -> Option<usize> {
        let input = channel.input();
        let end = input[self.searched..].iter().position(|&byte| byte == b'\n');
        match end {
            Some(more) => self.searched += more,
            None => self.searched = input.len(),
        }
        if end.is_some() { Some(self.searched) } else { None }
    }

    /// Writes what is left of the reply, as far as there is room. True if that was all.
    fn write(&mut self, channel: &mut Channel) -> bool {
        let rest = &self.reply[self.told..];
        let piece = &rest[..rest.len().min(channel.room())];
        if channel.write(piece) {
            self.told += piece.len();
        }
        if self.told < self.reply.len() {
            return false;
        }
        // A large reply is no reason to keep its memory.
        self.reply.clear();
        self.reply.shrink_to(CONTROL_REPLY_BYTES);
        self.told = 0;
        true
    }

    /// Carries a request out, unless it has to wait for a change that is under way.
    fn carry_out(&mut self, engine: &mut Engine, line: Line) {
        let request = line.request.as_ref();
        let changes = request.is_ok_and(|request| request.access() == Access::Changes);
        if changes && engine.is_changing() {
            self.waiting = Some(line);
            return;
        }
        let Line { tag, command, request } = line;
        let asked = Asked { tag, command };
        match request.and_then(|request| self.act(engine, request)) {
            Ok(Outcome::Answer(answer)) => self.reply(asked, Ok(answer)),
            Ok(Outcome::UnderWay(change)) => {
                self.under_way = Some((asked, change));
                self.conclude(engine);
            }
            Err(problem) => self.reply(asked, Err(problem)),
        }
    }

    /// Tells what has come of a change, if that is known by now. True if nothing is under way any more.
    fn conclude(&mut self, engine: &mut Engine) -> bool {
        if let Some(line) = self.waiting.take_if(|_| !engine.is_changing()) {
            self.carry_out(engine, line);
        }
        let answer = self.under_way.as_mut().and_then(|(_, change)| change.answer(engine));
        if let Some(answer) = answer
            && let Some((asked, _)) = self.under_way.take()
        {
            self.reply(asked, answer);
        }
        self.waiting.is_none() && self.under_way.is_none()
    }

    fn reply(&mut self, Asked { tag, command }: Asked, answer: Result<Answer, Problem>) {
        let (ok, (result, error)) = match answer {
            Ok(answer) => (true, (Some(answer), None)),
            Err(problem) => (false, (None, Some(problem))),
        };
        self.say(&Reply { ok, command, tag, result, error });
    }

    fn say(&mut self, reply: &Reply) {
        // Numbers and text of our own can always be written.
        let _infallible = serde_json::to_writer(&mut self.reply, reply);
        self.reply.push(b'\n');
    }

    fn act(&mut self, engine: &mut Engine, request: Request) -> Result<Outcome, Problem> {
        if request.access() == Access::Changes && self.access == Access::Reads {
            let problem = "This socket answers questions, and changes nothing";
            return Err(Problem::new("command", problem, "use the socket of --control"));
        }
        let about = &self.about;
        Ok(Outcome::Answer(match request {
            Request::Status => Answer::Status(Box::new(about::status(engine, about))),
            Request::Stats => Answer::Stats(about::stats(engine)),
            Request::Flows { from, limit, filter } => {
                Answer::Flows(flows::page(engine, from, limit, &filter))
            }
            Request::FlowReset(id) => Answer::Flows(flows::reset(engine, id)?),
            Request::Rules => Answer::Rules(rules::list(engine)),
            Request::Egress => Answer::Egress(rules::egress(engine)),
            Request::RulesAdd(ports) => return under_way(rules::add(engine, about, &ports)),
            Request::RulesDelete(which) => return under_way(rules::delete(engine, about, &which)),
            Request::RulesReplace(all) => return under_way(rules::replace(engine, about, &all)),
            Request::EgressReplace { rules, isolate } => {
                return under_way(rules::replace_egress(engine, &rules, isolate));
            }
            Request::Watch(names) => {
                let events = names.iter().map(|&name| name.to_owned()).collect();
                match &mut self.reader {
                    Some(reader) => reader.want(names),
                    None => self.reader = Some(Reader::new(engine, names)),
                }
                Answer::Watch(Watch { events })
            }
            Request::Log(level) => Answer::Log(log_at(level)),
        }))
    }
}

/// The outcome of a request that has begun a change.
fn under_way(begun: Result<rules::UnderWay, Problem>) -> Result<Outcome, Problem> {
    begun.map(Outcome::UnderWay)
}

/// Sets the level of the log, if one is given; returns what it is.
fn log_at(level: Option<log::LevelFilter>) -> Log {
    if let Some(level) = level {
        crate::log::set_level(level);
    }
    let to = crate::log::destinations().into_iter().map(str::to_owned).collect();
    Log { level: log::max_level().to_string().to_lowercase(), to }
}

impl Protocol for Json {
    fn begin(&mut self) {
        self.reply.clear();
        (self.told, self.searched) = (0, 0);
        (self.waiting, self.under_way) = (None, None);
    }

    fn go_on(&mut self, engine: &mut Engine, _: &mut dyn ToGuest, channel: &mut Channel) -> Next {
        if let Some(left) = self.left.take() {
            left.leave(engine);
        }
        if !self.write(channel) {
            return Next::More;
        }
        if !self.conclude(engine) {
            return Next::Busy;
        }
        if !self.write(channel) {
            return Next::More;
        }
        let told_all =
            self.reader.as_mut().is_none_or(|reader| reader.tell(engine, &mut self.reply));
        let end = self.line_length(channel);
        let input = channel.input();
        let last = channel.input_has_ended() && !input.is_empty();
        if let Some(len) = end.or(last.then_some(input.len())) {
            if !input[..len].trim_ascii().is_empty() {
                if !self.pace.is_free(engine.now()) {
                    self.write(channel);
                    return Next::More;
                }
                self.pace.take(engine.now());
                let line = input[..len].to_vec();
                self.carry_out(engine, request::read(&line));
            }
            let used = channel.input().len().min(len + 1);
            channel.use_up(used);
            self.searched = 0;
        } else if channel.input_is_full() {
            self.answer_too_long();
            self.write(channel);
            return Next::Close;
        }
        if self.waiting.is_some() || self.under_way.is_some() {
            self.write(channel);
            return Next::Busy;
        }
        let more = !told_all || self.line_length(channel).is_some();
        if self.write(channel) && !more { Next::Wait } else { Next::More }
    }

    fn patience(&self) -> Option<Duration> {
        self.reader.is_none().then_some(CONTROL_SILENCE)
    }

    fn watches(&self) -> bool {
        self.reader.is_some()
    }

    fn end(&mut self) {
        // The engine hears of it with the next client.
        self.left = self.left.take().or(self.reader.take());
        (self.waiting, self.under_way) = (None, None);
    }
}

impl Json {
    fn answer_too_long(&mut self) {
        let problem = format!("The line is longer than {CONTROL_LINE_BYTES} bytes");
        let error = Some(Problem::new("", problem, "send a shorter one"));
        self.say(&Reply { ok: false, command: None, tag: None, result: None, error });
    }
}
