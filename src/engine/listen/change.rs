//! Puts another view of the network in force while sockets that the old one has, too, go on listening, with who waits in
//! their queues. All or nothing: what the new rules want is opened first, then the view is changed, and then what it does
//! not want is closed; when a port that must be opened cannot be, what was opened is closed again.
//!
//! A change of many ports takes many turns, so that traffic goes on meanwhile: each step opens or closes so many of them.
//! Who connects to a socket whose rule is not in force yet, or not any more, waits in its queue.
//!
//! Where an old socket is in the way of a new one, as one on all addresses is of one on one of them, it is closed before;
//! so is one that nobody wants any more where descriptors are short. Both are opened again when the change fails.

use std::collections::HashMap;
use std::hash::Hash;

use passt_frame::Errno;

use super::error::{ListenError, all_places, place};
use super::open::{leads_to_port, may_come, note_failure, open_port, tell_reserved};
use crate::engine::bypass::BypassParts;
use crate::engine::core::Core;
use crate::engine::listener_id::ListenerId;
use crate::engine::listeners::Listener;
use crate::engine::net::NetView;
use crate::flow::fwd::{InterfaceName, ListenAddr, Outcome, Proto, Rule, RuleId, RuleTable};
use crate::flow::scan::Families;
use crate::flow::side::Pif;
use crate::sys::errno_text;

/// Where rules listen.
const PIFS: [Pif; 2] = [Pif::Host, Pif::Splice];

/// Opens the listening sockets of all rules but those that follow services.
///
/// # Errors
/// The first port that must be opened and could not.
pub(in crate::engine) fn open_all(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
) -> Result<(), ListenError> {
    let tables = PIFS.map(|pif| core.net.rules(pif).clone());
    let mut opening = Opening::new(core, HashMap::new(), [&tables[0], &tables[1]]);
    let mut ports = usize::MAX;
    opening.go_on(core, bypass, [&tables[0], &tables[1]], &mut ports).map(drop)
}

/// A view of the network that is being put in force.
pub(in crate::engine) struct Change {
    view: NetView,
    opening: Opening,
    stage: Stage,
}

/// How far a change is.
enum Stage {
    /// Ports of the new view are opened.
    Opening,
    /// All that it wants is open, and the old one is in force.
    Open,
    /// What it does not want is closed.
    Closing(Vec<ListenerId>),
    /// A port could not be opened: everything is put back.
    Undoing(Option<ListenError>),
}

/// What follows a step.
pub(in crate::engine) enum Step {
    /// Another one.
    More,
    /// [`Change::switch`].
    Switch,
    /// Nothing: the new view is in force, or everything is as it was.
    Over(Result<(), ListenError>),
}

impl Change {
    /// Begins to put `view` in force.
    pub(in crate::engine) fn begin(core: &Core, mut view: NetView) -> Self {
        view.inbound.rename_after(core.net.rules(Pif::Host));
        view.outbound.rename_after(core.net.rules(Pif::Splice));
        let kept = core.listeners.iter().filter_map(|(id, listener)| {
            let rule = core.net.rules(listener.pif).get(listener.rule)?;
            Some((Address::of_listener(listener, rule), id))
        });
        let opening = Opening::new(core, kept.collect(), [&view.inbound, &view.outbound]);
        Self { view, opening, stage: Stage::Opening }
    }

    /// Goes on, with at most so many `ports`, from which those are subtracted that it has dealt with.
    pub(in crate::engine) fn go_on(
        &mut self,
        core: &mut Core,
        bypass: Option<&mut BypassParts>,
        ports: &mut usize,
    ) -> Step {
        let Self { view, opening, stage } = self;
        match stage {
            Stage::Opening => {
                match opening.go_on(core, bypass, [&view.inbound, &view.outbound], ports) {
                    Ok(false) => return Step::More,
                    Ok(true) => *stage = Stage::Open,
                    Err(error) => *stage = Stage::Undoing(Some(error)),
                }
                Step::More
            }
            Stage::Open => Step::Switch,
            Stage::Closing(unwanted) => match close_some(core, unwanted, ports) {
                true => Step::Over(Ok(())),
                false => Step::More,
            },
            Stage::Undoing(error) => match opening.undo(core, bypass, ports) {
                true => Step::Over(error.take().map_or(Ok(()), Err)),
                false => Step::More,
            },
        }
    }

    /// Puts the view in force, for which all is open.
    pub(in crate::engine) fn switch(&mut self, core: &mut Core) {
        core.net.replace(self.view.clone());
        for (id, rule) in self.opening.moved.drain(..) {
            let Some(listener) = core.listeners.get(id) else { continue };
            let leads_to = core.net.rules(listener.pif).get(rule);
            let leads_to =
                leads_to.and_then(|rule| leads_to_port(listener.pif, rule, listener.port));
            core.listeners.move_to(id, rule, leads_to);
        }
        let net = &core.net;
        let unwanted = core
            .listeners
            .iter()
            .filter(|(_, listener)| net.rules(listener.pif).get(listener.rule).is_none());
        self.stage = Stage::Closing(unwanted.map(|(id, _)| id).collect());
    }
}

/// Closes as many sockets as `ports` allows. True if none is left.
fn close_some(core: &mut Core, sockets: &mut Vec<ListenerId>, ports: &mut usize) -> bool {
    while *ports > 0
        && let Some(id) = sockets.pop()
    {
        core.listeners.close(id);
        *ports -= 1;
    }
    sockets.is_empty()
}

/// What a socket listens on.
#[derive(PartialEq, Eq, Hash)]
struct Address(Pif, Proto, ListenAddr, Option<InterfaceName>, u16);

impl Address {
    fn of(pif: Pif, rule: &Rule, port: u16) -> Self {
        Self(pif, rule.proto, rule.listen, rule.interface, port)
    }

    /// That of a socket which listens for `rule`.
    fn of_listener(listener: &Listener, rule: &Rule) -> Self {
        Self(listener.pif, rule.proto, listener.listen, rule.interface, listener.port)
    }
}

/// Where sockets of a rule may listen: those of one that follows services may be of one family.
fn sockets_of(rule: &Rule) -> impl Iterator<Item = ListenAddr> {
    let narrowed = [true, false].map(|v4| Families::one(v4).narrow(rule.listen));
    let may_differ = rule.scan && rule.listen == ListenAddr::Dual;
    std::iter::once(rule.listen).chain(narrowed.into_iter().filter(move |_| may_differ))
}

/// The rules that one option stands for, by their [`Rule::spec_index`].
type Specification = (Pif, u16);

/// What each gets of `most`, when it wants so many: all the same, and what one does not want is for the others.
fn fair_shares<K: Copy + Eq + Hash>(wanted: &HashMap<K, usize>, most: usize) -> HashMap<K, usize> {
    let mut by_size: Vec<(K, usize)> = wanted.iter().map(|(key, count)| (*key, *count)).collect();
    by_size.sort_unstable_by_key(|(_, count)| *count);
    let (mut left, mut others) = (most, by_size.len());
    let mut shares = HashMap::with_capacity(others);
    for (key, count) in by_size {
        let share = count.min(left / others);
        shares.insert(key, share);
        (left, others) = (left - share, others - 1);
    }
    shares
}

/// A rule whose ports are opened.
struct Task {
    pif: Pif,
    id: RuleId,
    rule: Rule,
    /// It goes on as it is, with the sockets that it has.
    stays: bool,
}

/// Ports being opened.
struct Opening {
    tasks: Vec<Task>,
    /// The task that is under way, and the next port of it.
    at: usize,
    port: Option<u16>,
    /// What has come of it so far, and which of its ports only the privileged may open.
    outcome: Outcome,
    reserved: Vec<u16>,
    /// What has come of the rules before it, of the same table.
    outcomes: Vec<Outcome>,
    /// Sockets of the rules before.
    kept: HashMap<Address, ListenerId>,
    opened: Vec<ListenerId>,
    /// Sockets that go on for another rule.
    moved: Vec<(ListenerId, RuleId)>,
    /// Where sockets of the rules before were closed that were in the way, or made room.
    set_aside: Vec<(RuleId, Address)>,
    /// Sockets of the rules before that nobody wants any more, once somebody has looked.
    spare: Option<Vec<ListenerId>>,
    /// How many ports a specification of weak rules may still open.
    shares: HashMap<Specification, usize>,
}

impl Opening {
    /// Of what `tables` want beside the sockets that are `kept`.
    fn new(core: &Core, kept: HashMap<Address, ListenerId>, tables: [&RuleTable; 2]) -> Self {
        let had = !kept.is_empty();
        let stays = |pif, id| had && core.net.rules(pif).get(id).is_some();
        let rules = PIFS.into_iter().zip(tables);
        let rules = rules.flat_map(|(pif, table)| table.iter().map(move |one| (pif, one)));
        let task = |(pif, (id, rule)): (_, (RuleId, &Rule))| Task {
            pif,
            id,
            rule: *rule,
            stays: stays(pif, id),
        };
        let tasks: Vec<Task> = rules.map(task).collect();
        let shares = shares(core, &tasks);
        Self {
            tasks,
            at: 0,
            port: None,
            outcome: Outcome::default(),
            reserved: Vec::new(),
            outcomes: Vec::new(),
            kept,
            opened: Vec::new(),
            moved: Vec::new(),
            set_aside: Vec::new(),
            spare: None,
            shares,
        }
    }

    /// Opens what the rules want and is not open, as many as `ports` allows. True if that was all.
    fn go_on(
        &mut self,
        core: &mut Core,
        mut bypass: Option<&mut BypassParts>,
        tables: [&RuleTable; 2],
        ports: &mut usize,
    ) -> Result<bool, ListenError> {
        for (pif, table) in PIFS.into_iter().zip(tables) {
            while self.tasks.get(self.at).is_some_and(|task| task.pif == pif) {
                if !self.open_rule(core, bypass.as_deref_mut(), ports)? {
                    return Ok(false);
                }
            }
            let is_complete = self.outcomes.len() == table.rules().len();
            if is_complete && let Some((rule, outcome)) = table.starved(&self.outcomes) {
                let places = all_places(pif, rule);
                return Err(match outcome.short {
                    0 => ListenError::All(places),
                    _ => ListenError::NoDescriptors(places),
                });
            }
            if is_complete {
                self.outcomes.clear();
            }
        }
        Ok(true)
    }

    /// Opens ports of the rule that is under way. True if that is done.
    fn open_rule(
        &mut self,
        core: &mut Core,
        mut bypass: Option<&mut BypassParts>,
        ports: &mut usize,
    ) -> Result<bool, ListenError> {
        let Task { pif, rule, stays, .. } = self.tasks[self.at];
        let mut next = self.port.take().or(Some(rule.first));
        if rule.scan || stays {
            self.outcome.bound = usize::from(stays && !rule.scan);
            next = None;
        }
        while let Some(port) = next {
            if *ports == 0 {
                self.port = Some(port);
                return Ok(false);
            }
            *ports -= 1;
            let goes_on = self.open(core, bypass.as_deref_mut(), port)?;
            next = (goes_on && port < rule.last).then(|| port + 1);
        }
        tell_reserved(pif, &rule, &self.reserved);
        self.reserved.clear();
        self.outcomes.push(std::mem::take(&mut self.outcome));
        self.at += 1;
        Ok(true)
    }

    /// Opens one port of the rule that is under way. False if the others of it are not to be tried.
    fn open(
        &mut self,
        core: &mut Core,
        bypass: Option<&mut BypassParts>,
        port: u16,
    ) -> Result<bool, ListenError> {
        let Task { pif, id, rule, .. } = self.tasks[self.at];
        if let Some(&listener) = self.kept.get(&Address::of(pif, &rule, port)) {
            self.moved.push((listener, id));
            self.note_bound(pif, &rule);
            return Ok(true);
        }
        let share = self.shares.get(&(pif, rule.spec_index)).copied().unwrap_or_default();
        if rule.weak && (share == 0 || !self.has_room(core)) {
            let left = usize::from(rule.last - port) + 1;
            log::warn!(
                "{rule}: {left} ports are not opened, for want of descriptors: raise ulimit -Hn, of which half is left to connections"
            );
            self.outcome.short += left;
            return Ok(false);
        }
        match self.open_port(core, bypass, (pif, id, &rule), port) {
            Ok(listener) => {
                self.opened.push(listener);
                self.note_bound(pif, &rule);
            }
            Err(errno) if rule.weak => {
                note_failure(&mut self.outcome, pif, &rule, port, errno);
                if errno == Errno::ACCESS {
                    self.reserved.push(port);
                }
            }
            Err(errno) if core.settings.late_addresses && may_come(errno) => {
                let place = place(pif, &rule, port);
                log::warn!("{place}: {}: not listened on until it is there", errno_text(errno));
                core.awaited += 1;
                self.outcome.bound += 1;
            }
            Err(errno) => {
                let place = place(pif, &rule, port);
                let option = rule.proto.option(pif == Pif::Splice);
                let rule = (pif == Pif::Host).then(|| Box::new(rule));
                return Err(ListenError::Port { place, option, port, errno, rule });
            }
        }
        Ok(true)
    }

    /// Whether another socket may listen. One that the new rules do not want makes room for it.
    fn has_room(&mut self, core: &mut Core) -> bool {
        core.flows.may_listen(core.listeners.len()) || self.close_spare(core)
    }

    /// Closes a socket of the rules before that no rule wants any more. False if there is none.
    fn close_spare(&mut self, core: &mut Core) -> bool {
        let mut spare = self.spare.take().unwrap_or_else(|| self.all_spare(core));
        let closed = loop {
            let Some(id) = spare.pop() else { break false };
            // It may have been in the way of another one.
            if self.set_aside(core, id) {
                break true;
            }
        };
        self.spare = Some(spare);
        closed
    }

    /// All sockets of the rules before that neither stay nor go on for another rule.
    fn all_spare(&self, core: &Core) -> Vec<ListenerId> {
        let is_wanted = |listener: &Listener, rule: &Rule| {
            let (address, port) = (Address::of_listener(listener, rule), listener.port);
            let range = |task: &Task| task.rule.first..=task.rule.last;
            self.tasks
                .iter()
                .filter(|task| !task.rule.scan && range(task).contains(&port))
                .any(|task| Address::of(task.pif, &task.rule, port) == address)
        };
        let stays =
            |pif, id| self.tasks.iter().any(|one| one.stays && (one.pif, one.id) == (pif, id));
        let spare = |(_, listener): &(ListenerId, &Listener)| {
            let rule = core.net.rules(listener.pif).get(listener.rule);
            rule.is_some_and(|rule| {
                !stays(listener.pif, listener.rule) && !is_wanted(listener, rule)
            })
        };
        core.listeners.iter().filter(spare).map(|(id, _)| id).collect()
    }

    /// Another port of the rule is bound. Only weak rules have a share: one that must listen may be of the same
    /// specification, and was counted before anything was shared out ([`shares`]).
    fn note_bound(&mut self, pif: Pif, rule: &Rule) {
        self.outcome.bound += 1;
        if rule.weak
            && let Some(share) = self.shares.get_mut(&(pif, rule.spec_index))
        {
            *share = share.saturating_sub(1);
        }
    }

    /// Opens one port of a rule. Sockets that are in the way and are of rules that go away are closed.
    fn open_port(
        &mut self,
        core: &mut Core,
        mut bypass: Option<&mut BypassParts>,
        (pif, id, rule): (Pif, RuleId, &Rule),
        port: u16,
    ) -> Result<ListenerId, Errno> {
        let opened = open_port(core, bypass.as_deref_mut(), (pif, id, rule), port);
        if opened != Err(Errno::ADDRINUSE) || !self.make_way(core, pif, rule, port) {
            return opened;
        }
        open_port(core, bypass, (pif, id, rule), port)
    }

    /// Closes what the rules before have where `rule` wants a port: rules that stay do not contend with it. False if
    /// there is nothing.
    fn make_way(&mut self, core: &mut Core, pif: Pif, rule: &Rule, port: u16) -> bool {
        let wanted = Rule { first: port, last: port, ..*rule };
        let before = self.set_aside.len();
        let others: Vec<ListenerId> = core
            .net
            .rules(pif)
            .iter()
            .filter(|(_, one)| one.overlaps(&wanted))
            .flat_map(|(_, one)| sockets_of(one).map(|listen| Rule { listen, ..*one }))
            .filter_map(|one| self.kept.get(&Address::of(pif, &one, port)).copied())
            .collect();
        others.into_iter().for_each(|id| {
            self.set_aside(core, id);
        });
        self.set_aside.len() > before
    }

    /// Closes a socket of the rules before, to be opened again if the change fails. False if that was done.
    fn set_aside(&mut self, core: &mut Core, id: ListenerId) -> bool {
        let Some(listener) = core.listeners.get(id) else { return false };
        let (pif, rule) = (listener.pif, listener.rule);
        let Some(address) =
            core.net.rules(pif).get(rule).map(|rule| Address::of_listener(listener, rule))
        else {
            return false;
        };
        self.kept.remove(&address);
        core.listeners.close(id);
        self.set_aside.push((rule, address));
        true
    }

    /// Has everything be as it was, as far as `ports` allows. True if it is.
    fn undo(
        &mut self,
        core: &mut Core,
        mut bypass: Option<&mut BypassParts>,
        ports: &mut usize,
    ) -> bool {
        if !close_some(core, &mut self.opened, ports) {
            return false;
        }
        while *ports > 0
            && let Some((id, Address(pif, _, listen, _, port))) = self.set_aside.pop()
        {
            *ports -= 1;
            let Some(&rule) = core.net.rules(pif).get(id) else { continue };
            let rule = Rule { listen, ..rule };
            let opened = open_port(core, bypass.as_deref_mut(), (pif, id, &rule), port);
            if let Err(errno) = opened {
                let (place, why) = (place(pif, &rule, port), errno_text(errno));
                log::error!("{place} is not forwarded any more, another program has it: {why}");
            }
        }
        self.set_aside.is_empty()
    }
}

/// Shares out what is left beside the ports that are asked for one by one: weak rules, which open what they can, leave
/// half of the descriptors to the flows, and something to each other.
fn shares(core: &Core, tasks: &[Task]) -> HashMap<Specification, usize> {
    let mut open: HashMap<(Pif, RuleId), usize> = HashMap::new();
    for (_, listener) in core.listeners.iter() {
        *open.entry((listener.pif, listener.rule)).or_insert(0) += 1;
    }
    let (mut taken, mut wanted) = (0, HashMap::new());
    for Task { pif, id, rule, stays } in tasks.iter().filter(|task| !task.rule.scan) {
        if *stays {
            taken += open.get(&(*pif, *id)).copied().unwrap_or_default();
        } else if rule.weak {
            *wanted.entry((*pif, rule.spec_index)).or_insert(0) += rule.sockets();
        } else {
            taken += rule.sockets();
        }
    }
    fair_shares(&wanted, core.flows.most_listeners().saturating_sub(taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_does_not_want_is_for_the_others() {
        let shares = |wanted: &[usize], most| {
            let wanted: HashMap<usize, usize> = wanted.iter().copied().enumerate().collect();
            let shares = fair_shares(&wanted, most);
            (0..wanted.len()).map(|key| shares[&key]).collect::<Vec<_>>()
        };
        assert_eq!(shares(&[60_000, 60_000], 400), [200, 200]);
        assert_eq!(shares(&[60_000, 10, 60_000], 400), [195, 10, 195]);
        assert_eq!(shares(&[5, 6], 400), [5, 6]);
        assert_eq!(shares(&[5, 6, 7], 0), [0, 0, 0]);
        assert_eq!(shares(&[], 400), [0; 0]);
        assert_eq!(shares(&[9, 9, 9], 10).iter().sum::<usize>(), 10);
    }
}
