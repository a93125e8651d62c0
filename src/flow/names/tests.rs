//! Addresses and their names, in virtual time.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::flow::fwd::Surroundings;
use crate::flow::fwd::egress_rule;
use crate::flow::side::{Endpoint, Pif};

const TTL_S: u32 = 300;

fn policy(names: &[&str]) -> Policy {
    let rules =
        names.iter().map(|name| egress_rule(&format!("allow {name}")).expect("a rule")).collect();
    Policy { rules, host: Surroundings::default() }
}

fn side(port: u16) -> Side {
    let ours = Endpoint::new(Ipv4Addr::new(192, 0, 2, 53).into(), 53);
    let endpoint = Endpoint::new(Ipv4Addr::new(192, 0, 2, 2).into(), port);
    Side { pif: Pif::Tap, ours, endpoint }
}

/// A query, or an answer with one address.
fn message(id: u16, name: &str, address: Option<[u8; 4]>) -> Vec<u8> {
    message_for(TTL_S, id, name, address)
}

fn message_for(ttl_s: u32, id: u16, name: &str, address: Option<[u8; 4]>) -> Vec<u8> {
    let flags: u16 = if address.is_some() { 0x8180 } else { 0x0100 };
    let mut message = Vec::new();
    for field in [id, flags, 1, u16::from(address.is_some()), 0, 0] {
        message.extend(field.to_be_bytes());
    }
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    if let Some(address) = address {
        message.extend([0xc0, 12, 0, 1, 0, 1]);
        message.extend(ttl_s.to_be_bytes());
        message.extend([0, 4]);
        message.extend(address);
    }
    message
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, last).into()
}

/// The guest asks for `name`, and is told the address that ends in `last`.
fn told(names: &mut Names, policy: &Policy, name: &str, last: u8, now: Timestamp) {
    names.on_query(policy, side(4000), &message(7, name, None));
    names.on_answer(policy, &side(4000), &message(7, name, Some([198, 51, 100, last])), now);
}

#[test]
fn an_address_is_good_for_as_long_as_the_answer_says() {
    let policy = policy(&["example.org", "*.example.org"]);
    let mut names = Names::default();
    let start = Timestamp::ZERO;
    told(&mut names, &policy, "www.example.org", 1, start);
    told(&mut names, &policy, "example.org", 2, start);
    told(&mut names, &policy, "example.net", 3, start);
    assert_eq!((names.of(ip(1), start), names.of(ip(2), start)), (0b10, 0b01));
    assert_eq!(names.of(ip(3), start), 0, "no rule has that name");
    let last = start + Duration::from_secs(TTL_S.into());
    let late = last + Duration::from_micros(1);
    assert_eq!((names.of(ip(1), last), names.of(ip(1), late)), (0b10, 0));
    assert_eq!(names.ever_of(ip(1)), 0b10);
    // Told again, and by both names.
    told(&mut names, &policy, "example.org", 1, late);
    assert_eq!((names.of(ip(1), late), names.ever_of(ip(1))), (0b01, 0b11));
    told(&mut names, &policy, "www.example.org", 1, late);
    assert_eq!(names.of(ip(1), late), 0b11);
}

#[test]
fn each_name_of_an_address_has_a_lifetime_of_its_own() {
    let policy = policy(&["example.org", "example.net"]);
    let start = Timestamp::ZERO;
    for order in [["example.org", "example.net"], ["example.net", "example.org"]] {
        let mut names = Names::default();
        for name in order {
            let ttl_s = if name == "example.org" { TTL_S } else { 10 * TTL_S };
            names.on_query(&policy, side(4000), &message(7, name, None));
            let answer = message_for(ttl_s, 7, name, Some([198, 51, 100, 1]));
            names.on_answer(&policy, &side(4000), &answer, start);
        }
        let after = |times: u32| start + times * Duration::from_secs(TTL_S.into());
        let late = Duration::from_micros(1);
        assert_eq!(names.of(ip(1), after(1)), 0b11, "{order:?}");
        assert_eq!(names.of(ip(1), after(1) + late), 0b10, "the other name's time is not its own");
        assert_eq!(names.of(ip(1), after(10) + late), 0);
        assert_eq!(names.ever_of(ip(1)), 0b11);
        // By a policy that has one name for both, the longer one counts, once.
        names.rename(&policy, &self::policy(&["*.net", "*.org"]));
        assert_eq!((names.of(ip(1), after(10)), names.named.len()), (0b01, 2));
        names.rename(&self::policy(&["*.net", "*.org"]), &policy);
        assert_eq!(
            (names.ever_of(ip(1)), names.named.len()),
            (0, 0),
            "narrower ones are not known"
        );
    }
}

#[test]
fn only_answers_to_questions_that_were_asked_count() {
    let policy = policy(&["example.org", "example.net"]);
    let mut names = Names::default();
    let now = Timestamp::ZERO;
    let answer = |id, name| message(id, name, Some([198, 51, 100, 1]));
    names.on_answer(&policy, &side(4000), &answer(7, "example.org"), now);
    names.on_query(&policy, side(4000), &message(7, "example.org", None));
    for (port, id, name) in
        [(4001, 7, "example.org"), (4000, 8, "example.org"), (4000, 7, "example.net")]
    {
        names.on_answer(&policy, &side(port), &answer(id, name), now);
        assert_eq!(names.of(ip(1), now), 0, "{port} {id} {name}");
    }
    names.on_answer(&policy, &side(4000), &answer(7, "example.org"), now);
    assert_eq!(names.of(ip(1), now), 0b01);
    // A question has one answer.
    let second = message(7, "example.org", Some([198, 51, 100, 2]));
    names.on_answer(&policy, &side(4000), &second, now);
    assert_eq!(names.of(ip(2), now), 0);
}

#[test]
fn a_name_that_leads_home_is_not_followed() {
    let policy = policy(&["*.example.org"]);
    let mut names = Names::default();
    let now = Timestamp::ZERO;
    for address in [[127, 0, 0, 1], [10, 0, 0, 1], [192, 168, 0, 1], [169, 254, 169, 254]] {
        names.on_query(&policy, side(4000), &message(7, "a.example.org", None));
        names.on_answer(&policy, &side(4000), &message(7, "a.example.org", Some(address)), now);
        assert_eq!(names.ever_of(Ipv4Addr::from(address).into()), 0, "{address:?}");
    }
}

#[test]
fn another_policy_keeps_what_has_a_name_in_both() {
    let old = policy(&["example.net", "www.example.org"]);
    let mut names = Names::default();
    let now = Timestamp::ZERO;
    told(&mut names, &old, "example.net", 1, now);
    told(&mut names, &old, "www.example.org", 2, now);
    let new = policy(&["*.example.org", "example.com", "www.example.org"]);
    names.rename(&old, &new);
    assert_eq!((names.of(ip(1), now), names.of(ip(2), now)), (0, 0b101));
    names.rename(&new, &policy(&["*.example.net"]));
    assert_eq!(names.named.len(), 0);
}

#[test]
fn tables_are_bounded_and_never_grow() {
    let policy = policy(&["*.example.org"]);
    let mut names = Names::default();
    names.reserve(&policy);
    let room = (names.asked.capacity(), names.named.capacity());
    let mut now = Timestamp::ZERO;
    for n in 0..2 * MAX_NAMED_ADDRESSES as u32 {
        let [.., high, low] = n.to_be_bytes();
        let name = format!("n{n}.example.org");
        names.on_query(&policy, side(4000), &message(7, &name, None));
        now = now + Duration::from_secs(1);
        let answer = message(7, &name, Some([198, 51, high, low]));
        names.on_answer(&policy, &side(4000), &answer, now);
    }
    for id in 0..2 * MAX_NAME_QUESTIONS as u16 {
        names.on_query(&policy, side(4000), &message(id, "a.example.org", None));
    }
    assert_eq!((names.asked.len(), names.named.len()), (MAX_NAME_QUESTIONS, MAX_NAMED_ADDRESSES));
    assert_eq!((names.asked.capacity(), names.named.capacity()), room);
    assert!(names.named.is_sorted_by_key(|named| named.address));
    let last = Ipv4Addr::new(198, 51, 0x0f, 0xff).into();
    assert_eq!((names.of(last, now), names.ever_of(ip(1))), (1, 0), "the oldest gave way");
}
