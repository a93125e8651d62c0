//! Addresses that egress rules allow by name: which of the policy's names an address has, and until when. They come
//! from answers of the guest's name servers to questions that the guest has asked through us, and from nowhere else
//! ([`wire::dns`](crate::wire::dns)).
//!
//! An address stays in the table when it may not be used for new flows any more, until its place is needed: flows that
//! it was good for go on when another policy with the same name comes into force.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::net::IpAddr;

use super::fwd::{NameSet, Policy};
use super::side::Side;
use crate::limits::{MAX_NAME_QUESTIONS, MAX_NAMED, MAX_NAMED_ADDRESSES, MIN_NAMED};
use crate::time::Timestamp;
use crate::wire::dns::{self, Question};

/// A question of the guest for a name that a rule allows.
struct Asked {
    /// The guest's side of the flow.
    side: Side,
    question: Question,
}

/// An address that has names, by one answer or by several for the same ones. Answers that name it otherwise say so with
/// a lifetime of their own.
#[derive(Clone, Copy, Debug)]
struct Named {
    address: IpAddr,
    names: NameSet,
    until: Timestamp,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Names {
    asked: VecDeque<Asked>,
    /// By address and names.
    named: Vec<Named>,
}

impl Names {
    /// Makes room for what `policy` needs, so that nothing is allocated later.
    pub(crate) fn reserve(&mut self, policy: &Policy) {
        if policy.names().next().is_some() {
            self.asked.reserve_exact(MAX_NAME_QUESTIONS.saturating_sub(self.asked.len()));
            self.named.reserve_exact(MAX_NAMED_ADDRESSES.saturating_sub(self.named.len()));
        }
    }

    /// Another policy comes into force. An address keeps what it is called by the new one, as far as the old names
    /// tell.
    pub(crate) fn rename(&mut self, old: &Policy, new: &Policy) {
        let renamed = |names: NameSet| {
            let kept = old.names().enumerate().filter(|(index, _)| names & (1 << index) != 0);
            kept.fold(0, |set, (_, pattern)| {
                let covering = new.names().enumerate().filter(|(_, other)| other.covers(pattern));
                covering.fold(set, |set, (index, _)| set | 1 << index)
            })
        };
        self.named.retain_mut(|named| {
            named.names = renamed(named.names);
            named.names != 0
        });
        // What had several names may have one now: the latest answer counts.
        self.named.sort_unstable_by_key(|named| (named.place(), Reverse(named.until)));
        self.named.dedup_by_key(|named| named.place());
        self.asked.clear();
        self.reserve(new);
    }

    /// The guest sends `message` to a name server, from `side`.
    pub(crate) fn on_query(&mut self, policy: &Policy, side: Side, message: &[u8]) {
        let Some(question) = dns::query(message) else { return };
        if policy.names_of(&question.name) == 0 {
            return;
        }
        if self.asked.len() >= MAX_NAME_QUESTIONS {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { side, question });
    }

    /// A name server answers with `message`, to `side` of the guest.
    pub(crate) fn on_answer(
        &mut self,
        policy: &Policy,
        side: &Side,
        message: &[u8],
        now: Timestamp,
    ) {
        if self.asked.is_empty() {
            return;
        }
        let Some(answer) = dns::answer(message) else { return };
        let asked = |asked: &Asked| asked.side == *side && asked.question == answer.question;
        let Some(index) = self.asked.iter().position(asked) else { return };
        self.asked.remove(index);
        let names = policy.names_of(&answer.question.name);
        answer.addresses(|address, ttl_s| {
            if policy.may_be_named(address) {
                let ttl = std::time::Duration::from_secs(ttl_s.into());
                self.add(Named { address, names, until: now + ttl.clamp(MIN_NAMED, MAX_NAMED) });
            } else {
                log::debug!("a name of an egress rule leads to {address}: not allowed by name");
            }
        });
    }

    fn add(&mut self, new: Named) {
        let place = self.named.binary_search_by_key(&new.place(), Named::place);
        let place = match place {
            Ok(place) => {
                let known = &mut self.named[place];
                known.until = known.until.max(new.until);
                return;
            }
            Err(place) if self.named.len() < MAX_NAMED_ADDRESSES => place,
            Err(place) => {
                let first = self.named.iter().enumerate().min_by_key(|(_, named)| named.until);
                let Some((first, _)) = first else { return };
                self.named.remove(first);
                place - usize::from(first < place)
            }
        };
        self.named.insert(place, new);
    }

    /// The names of `address` by which new flows may go there, `now`.
    pub(crate) fn of(&self, address: IpAddr, now: Timestamp) -> NameSet {
        self.find(address).filter(|named| now <= named.until).fold(0, |set, one| set | one.names)
    }

    /// The names of `address` by which flows may have gone there.
    pub(crate) fn ever_of(&self, address: IpAddr) -> NameSet {
        self.find(address).fold(0, |set, one| set | one.names)
    }

    fn find(&self, address: IpAddr) -> impl Iterator<Item = &Named> {
        let first = self.named.partition_point(|named| named.address < address);
        self.named[first..].iter().take_while(move |named| named.address == address)
    }
}

impl Named {
    /// Where it stands.
    fn place(&self) -> (IpAddr, NameSet) {
        (self.address, self.names)
    }
}

#[cfg(test)]
mod tests;
