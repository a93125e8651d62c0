//! DNS messages as far as names and their addresses go (RFC 1035, section 4): the question of a query, and the
//! addresses that an answer gives for the name that it was asked for, along its aliases (CNAME).
//!
//! Everything here comes from outside. Lengths are checked; compressed names go on only at places that are further in
//! front, so that no chain of pointers is a circle; the number of records, and of aliases, is bounded. Sections behind
//! the answers say nothing about the name that was asked for, and are not read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

const HEADER_BYTES: usize = 12;
/// Bytes of a name with its lengths and the root (RFC 1035, section 2.3.4).
const NAME_BYTES: usize = 255;
const LABEL_BYTES: usize = 63;
/// Records of an answer that are read: a datagram of 4 KiB has no more of the shortest.
const MAX_RECORDS: usize = 256;
/// Aliases that are followed. Resolvers give up after 8 to 16 themselves.
const MAX_ALIASES: usize = 12;

/// Where servers are asked.
pub(crate) const PORT: u16 = 53;

const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
const CLASS_INTERNET: u16 = 1;

/// A name as in a message without compression: each label behind its length, in small letters, without the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name(ArrayVec<u8, NAME_BYTES>);

impl Name {
    /// `text` as a name of labels with dots between them, perhaps with one at the end. `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut name = Self::default();
        for label in text.split('.') {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            if !label.bytes().all(plain) || !name.push(label.as_bytes()) {
                return None;
            }
        }
        Some(name)
    }

    /// Adds a label. False if it is empty or too long, or the name is.
    fn push(&mut self, label: &[u8]) -> bool {
        let fits =
            (1..=LABEL_BYTES).contains(&label.len()) && self.0.len() + 1 + label.len() < NAME_BYTES;
        if fits {
            self.0.push(label.len() as u8);
            self.0.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        fits
    }

    /// Whether this name is in the domain `other`, below it.
    pub(crate) fn is_below(&self, other: &Self) -> bool {
        let mut rest = &self.0[..];
        while let Some((&len, behind)) = rest.split_first() {
            rest = behind.get(usize::from(len)..).unwrap_or_default();
            if rest == &other.0[..] {
                return true;
            }
        }
        false
    }
}

/// A kind of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    V4,
    V6,
}

/// Bytes of the longest query of ours.
const QUERY_BYTES: usize = HEADER_BYTES + NAME_BYTES + 4;

/// What a query asks, or what an answer says that it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The number that an answer has, too.
    pub(crate) id: u16,
    pub(crate) name: Name,
    kind: u16,
}

impl Question {
    /// For the addresses of `name`.
    pub(crate) fn new(id: u16, name: Name, kind: Kind) -> Self {
        let kind = match kind {
            Kind::V4 => TYPE_A,
            Kind::V6 => TYPE_AAAA,
        };
        Self { id, name, kind }
    }

    /// A query that asks this of a server that finds out what it does not know.
    pub(crate) fn to_bytes(&self) -> ArrayVec<u8, QUERY_BYTES> {
        let mut message = ArrayVec::new();
        for field in [self.id, FLAG_RECURSION, 1, 0, 0, 0] {
            message.extend(field.to_be_bytes());
        }
        message.extend(self.name.0.iter().copied());
        message.push(0);
        for field in [self.kind, CLASS_INTERNET] {
            message.extend(field.to_be_bytes());
        }
        message
    }
}

/// The one question of a query; `None` if it is something else, or does not ask for addresses.
pub(crate) fn query(message: &[u8]) -> Option<Question> {
    let flags = u16_at(message, 2)?;
    let (question, _) = question(message)?;
    let asks = [TYPE_A, TYPE_AAAA].contains(&question.kind);
    (flags & FLAG_ANSWER == 0 && flags & OPCODE == 0 && asks).then_some(question)
}

const FLAG_ANSWER: u16 = 0x8000;
const FLAG_RECURSION: u16 = 0x0100;
const OPCODE: u16 = 0x7800;
const RESULT: u16 = 0xf;

/// What an answer says that it answers, and its result: 0 if that is good. `None` if it is something else.
pub(crate) fn result(message: &[u8]) -> Option<(Question, u16)> {
    let flags = u16_at(message, 2)?;
    let (question, _) = question(message)?;
    (flags & FLAG_ANSWER != 0 && flags & OPCODE == 0).then_some((question, flags & RESULT))
}

/// An answer without an error.
pub(crate) struct Answer<'a> {
    message: &'a [u8],
    /// What it answers.
    pub(crate) question: Question,
    records: usize,
    /// Where they begin.
    start: usize,
}

/// A record of an answer.
struct Record<'a> {
    owner: Name,
    kind: u16,
    ttl_s: u32,
    data: &'a [u8],
    /// Where the data begin in the message.
    at: usize,
}

/// Reads the head of an answer; `None` if it is something else, or one that says that there is none.
pub(crate) fn answer(message: &[u8]) -> Option<Answer<'_>> {
    let flags = u16_at(message, 2)?;
    let (question, start) = question(message)?;
    let records = usize::from(u16_at(message, 6)?).min(MAX_RECORDS);
    let good = flags & FLAG_ANSWER != 0 && flags & (OPCODE | RESULT) == 0;
    good.then_some(Answer { message, question, records, start })
}

impl Answer<'_> {
    /// Tells `learn` of each address of the name that was asked for, with the seconds that it may be used: the fewest
    /// of all records on the way.
    pub(crate) fn addresses(&self, mut learn: impl FnMut(IpAddr, u32)) {
        let mut name = self.question.name.clone();
        let mut ttl_s = u32::MAX;
        for _ in 0..=MAX_ALIASES {
            let mut alias = None;
            for record in self.records().filter(|record| record.owner == name) {
                match (record.kind, record.data) {
                    (TYPE_CNAME, _) => {
                        let target = name_at(self.message, record.at).map(|(name, _)| name);
                        alias = alias.or(target.map(|target| (target, record.ttl_s)));
                    }
                    (TYPE_A, &[a, b, c, d]) => {
                        learn(Ipv4Addr::new(a, b, c, d).into(), ttl_s.min(record.ttl_s));
                    }
                    (TYPE_AAAA, data) => {
                        if let Ok(octets) = <[u8; 16]>::try_from(data) {
                            learn(Ipv6Addr::from(octets).into(), ttl_s.min(record.ttl_s));
                        }
                    }
                    _ => {}
                }
            }
            let Some((target, target_ttl_s)) = alias else { return };
            (name, ttl_s) = (target, ttl_s.min(target_ttl_s));
        }
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut at = self.start;
        (0..self.records).map_while(move |_| {
            let (record, end) = record(self.message, at)?;
            at = end;
            Some(record)
        })
    }
}

/// The one question of a message, and where it ends.
fn question(message: &[u8]) -> Option<(Question, usize)> {
    if u16_at(message, 4)? != 1 {
        return None;
    }
    let (name, end) = name_at(message, HEADER_BYTES)?;
    let (kind, class) = (u16_at(message, end)?, u16_at(message, end + 2)?);
    let question = Question { id: u16_at(message, 0)?, name, kind };
    (class == CLASS_INTERNET).then_some((question, end + 4))
}

/// The record at `at`, of the Internet or not, and where it ends.
fn record(message: &[u8], at: usize) -> Option<(Record<'_>, usize)> {
    let (owner, fixed) = name_at(message, at)?;
    let (kind, class) = (u16_at(message, fixed)?, u16_at(message, fixed + 2)?);
    let ttl_s =
        u32::from(u16_at(message, fixed + 4)?) << 16 | u32::from(u16_at(message, fixed + 6)?);
    // RFC 2181, section 8: with the highest bit it is 0.
    let ttl_s = if ttl_s > i32::MAX as u32 { 0 } else { ttl_s };
    let len = usize::from(u16_at(message, fixed + 8)?);
    let start = fixed + 10;
    let data = message.get(start..start + len)?;
    // A kind that nobody asks for stands for what is of another class.
    let kind = if class == CLASS_INTERNET { kind } else { 0 };
    Some((Record { owner, kind, ttl_s, data, at: start }, start + len))
}

/// The name at `at`, and where what follows it begins.
fn name_at(message: &[u8], at: usize) -> Option<(Name, usize)> {
    let mut name = Name::default();
    let (mut next, mut end) = (at, None);
    // Everything from here on has been read: a pointer leads in front of it.
    let mut bound = at;
    loop {
        let len = *message.get(next)?;
        match len {
            0 => return Some((name, end.unwrap_or(next + 1))),
            1..=0x3f => {
                let label = message.get(next + 1..next + 1 + usize::from(len))?;
                if !name.push(label) {
                    return None;
                }
                next += 1 + usize::from(len);
            }
            0xc0..=0xff => {
                let target = usize::from(u16_at(message, next)? & 0x3fff);
                if target >= bound || target < HEADER_BYTES {
                    return None;
                }
                end = end.or(Some(next + 2));
                (next, bound) = (target, target);
            }
            _ => return None,
        }
    }
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests;
