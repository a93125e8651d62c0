//! Queries and answers, good and bad.

use super::*;

/// A message under construction.
struct Message(Vec<u8>);

impl Message {
    /// An answer, with these flags, to a question for the addresses of `name`.
    fn new(flags: u16, name: &str, kind: u16) -> Self {
        let mut message = Self(Vec::new());
        for field in [0x1234, flags, 1, 0, 0, 0] {
            message.u16(field);
        }
        message.name(name);
        message.u16(kind);
        message.u16(CLASS_INTERNET);
        message
    }

    fn u16(&mut self, field: u16) {
        self.0.extend(field.to_be_bytes());
    }

    fn name(&mut self, name: &str) {
        for label in name.split('.') {
            self.0.push(label.len() as u8);
            self.0.extend(label.as_bytes());
        }
        self.0.push(0);
    }

    fn record(mut self, owner: &[u8], kind: u16, ttl_s: u32, data: &[u8]) -> Self {
        self.0.extend(owner);
        self.u16(kind);
        self.u16(CLASS_INTERNET);
        self.0.extend(ttl_s.to_be_bytes());
        self.u16(data.len() as u16);
        self.0.extend(data);
        self.0[7] += 1;
        self
    }
}

/// The name of the question, compressed.
const ASKED: &[u8] = &[0xc0, 12];
const GOOD: u16 = 0x8180;

/// A name without compression.
fn plain(name: &str) -> Vec<u8> {
    let mut message = Message(Vec::new());
    message.name(name);
    message.0
}

#[test]
fn a_query_of_ours_is_one() {
    for (kind, number) in [(Kind::V4, TYPE_A), (Kind::V6, TYPE_AAAA)] {
        let name = Name::parse("Name.example.org.").expect("a name");
        let asked = Question::new(0x1234, name, kind);
        let bytes = asked.to_bytes();
        assert_eq!(bytes[..], Message::new(0x0100, "name.example.org", number).0);
        assert_eq!(query(&bytes), Some(asked.clone()));
        assert_eq!(result(&bytes), None, "it answers nothing");
        let answered = Message::new(GOOD | 3, "name.example.org", number).0;
        assert_eq!(result(&answered), Some((asked, 3)));
    }
    let longest = [&"a".repeat(63); 4].map(|label| label.to_owned()).join(".");
    let name = Name::parse(&longest[..253]).expect("the longest name");
    assert_eq!(Question::new(0, name, Kind::V4).to_bytes().len(), QUERY_BYTES);
}

fn learned(message: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(answer) = answer(message) {
        answer.addresses(|address, ttl_s| found.push(format!("{address} {ttl_s}")));
    }
    found
}

#[test]
fn names_are_compared_by_label_and_without_case() {
    let name = |text| Name::parse(text).expect("a name");
    assert_eq!(name("Example.ORG."), name("example.org"));
    for (inner, outer, below) in [
        ("www.example.org", "example.org", true),
        ("a.b.example.org", "example.org", true),
        ("example.org", "example.org", false),
        ("badexample.org", "example.org", false),
        ("example.org.evil.example", "example.org", false),
        ("org", "example.org", false),
    ] {
        assert_eq!(name(inner).is_below(&name(outer)), below, "{inner} {outer}");
    }
    let long = "a.".repeat(127) + "a";
    for bad in ["", ".", "a..b", "-*.org", "ex ample.org", &"a".repeat(64), &long] {
        assert_eq!(Name::parse(bad), None, "{bad}");
    }
}

#[test]
fn rfc1035_a_query_is_one_question_for_addresses() {
    let good = Message::new(0x0100, "www.example.org", TYPE_A).0;
    let question = query(&good).expect("a query");
    assert_eq!((question.id, question.name), (0x1234, Name::parse("www.example.org").unwrap()));
    assert!(query(&Message::new(0x0100, "example.org", TYPE_AAAA).0).is_some());
    assert_eq!(query(&Message::new(0x0100, "example.org", 16).0), None, "text");
    assert_eq!(query(&Message::new(GOOD, "example.org", TYPE_A).0), None, "an answer");
    assert_eq!(query(&Message::new(0x2800, "example.org", TYPE_A).0), None, "an update");
    let mut two = good.clone();
    two[5] = 2;
    assert_eq!(query(&two), None);
    for len in 0..good.len() {
        assert_eq!(query(&good[..len]), None, "{len} bytes");
    }
}

#[test]
fn rfc1035_addresses_of_the_name_that_was_asked_for() {
    let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let message = Message::new(GOOD, "www.Example.org", TYPE_A)
        .record(ASKED, TYPE_A, 300, &[198, 51, 100, 7])
        .record(&plain("WWW.example.ORG"), TYPE_AAAA, 60, &v6)
        .record(&plain("example.org"), TYPE_A, 300, &[203, 0, 113, 1])
        .record(ASKED, TYPE_A, 0x8000_0000, &[198, 51, 100, 8])
        .record(ASKED, TYPE_A, 300, &[198, 51, 100]);
    assert_eq!(learned(&message.0), ["198.51.100.7 300", "2001:db8::9 60", "198.51.100.8 0"]);
}

#[test]
fn rfc1034_aliases_are_followed_in_any_order_and_the_shortest_life_counts() {
    let message = Message::new(GOOD, "www.example.org", TYPE_A)
        .record(&plain("b.example.net"), TYPE_A, 900, &[198, 51, 100, 7])
        .record(&plain("a.example.net"), TYPE_CNAME, 30, &plain("b.example.net"))
        .record(ASKED, TYPE_CNAME, 600, &plain("a.example.net"))
        .record(&plain("c.example.net"), TYPE_A, 900, &[203, 0, 113, 9]);
    assert_eq!(learned(&message.0), ["198.51.100.7 30"]);
}

#[test]
fn aliases_in_a_circle_and_chains_without_end_are_given_up() {
    let circle = Message::new(GOOD, "a.example", TYPE_A)
        .record(ASKED, TYPE_CNAME, 1, &plain("b.example"))
        .record(&plain("b.example"), TYPE_CNAME, 1, &plain("a.example"));
    assert_eq!(learned(&circle.0), [""; 0]);
    let mut chain = Message::new(GOOD, "n0.example", TYPE_A);
    for hop in 0..=MAX_ALIASES {
        let (from, to) = (format!("n{hop}.example"), format!("n{}.example", hop + 1));
        chain = chain.record(&plain(&from), TYPE_CNAME, 1, &plain(&to));
    }
    let last = plain(&format!("n{}.example", MAX_ALIASES + 1));
    assert_eq!(learned(&chain.record(&last, TYPE_A, 1, &[198, 51, 100, 7]).0), [""; 0]);
}

#[test]
fn answers_with_an_error_queries_and_other_sections_say_nothing() {
    let with = |flags| {
        Message::new(flags, "example.org", TYPE_A).record(ASKED, TYPE_A, 9, &[198, 51, 100, 7]).0
    };
    assert_eq!(learned(&with(GOOD)).len(), 1);
    for flags in [0x8183, 0x8185, 0x0100, 0xa980] {
        assert_eq!(learned(&with(flags)), [""; 0], "{flags:#x}");
    }
    // The same record as an additional one.
    let mut moved = with(GOOD);
    (moved[7], moved[11]) = (0, 1);
    assert_eq!(learned(&moved), [""; 0]);
}

#[test]
fn compression_never_goes_forward_nor_in_circles() {
    let to = |target: u16| (0xc000 | target).to_be_bytes();
    let good = Message::new(GOOD, "example.org", TYPE_A);
    let end = good.0.len() as u16;
    for target in [end, end + 1, 0, 5, 0x3fff] {
        let message = Message::new(GOOD, "example.org", TYPE_A);
        let message = message.record(&to(target), TYPE_A, 9, &[198, 51, 100, 7]);
        assert_eq!(learned(&message.0), [""; 0], "{target}");
    }
    // Two pointers at each other: the second leads forward.
    let mut message = Message::new(GOOD, "example.org", TYPE_A);
    message.0[12..14].copy_from_slice(&to(14));
    message.0[14..16].copy_from_slice(&to(12));
    assert!(answer(&message.0).is_none());
    // A label with a reserved kind of length.
    let mut message = Message::new(GOOD, "example.org", TYPE_A);
    message.0[12] = 0x40;
    assert!(answer(&message.0).is_none());
}

#[test]
fn whatever_comes_is_survived() {
    let whole = Message::new(GOOD, "www.example.org", TYPE_A)
        .record(ASKED, TYPE_CNAME, 600, &plain("a.example.net"))
        .record(&plain("a.example.net"), TYPE_A, 900, &[198, 51, 100, 7]);
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize
    };
    let (mut read, mut found) = (0, 0);
    for _ in 0..200_000 {
        let mut message = whole.0.clone();
        for _ in 0..next() % 4 {
            let at = next() % message.len();
            message[at] = next() as u8;
        }
        message.truncate(message.len() - next() % 8 * (next() % 8));
        read += usize::from(query(&message).is_some() || answer(&message).is_some());
        found += learned(&message).len();
    }
    assert!(read > 1000 && found > 1000, "{read} {found}");
}
