//! The protocol by which `pesto` changes what is forwarded, on the server's side: a client is told the rules, and
//! may answer with others. They are put in force together or not at all.
//!
//! Several clients may be at it at a time. Each has seen the rules as they were, so what it asks for is taken as the
//! difference to that: what it has removed goes, and what it has added comes, whatever others have changed meanwhile.

pub(crate) mod format;

use std::fmt::Write as _;
use std::time::Duration;

use passt_frame::ToGuest;

use super::channel::Channel;
use super::protocol::{Next, Protocol};
use super::server::Kind;
use crate::conf::unreached;
use crate::engine::{ChangeOutcome, Engine, NetView};
use crate::flow::fwd::{Enabled, Rule, RuleError, RuleTable};
use crate::flow::side::Pif;
use crate::limits::CONFIGURATION_WITHIN;
use format::{Capabilities, FormatError, TableHead, Wanted};

/// What these clients are called, and how much is said.
pub const KIND: Kind = Kind {
    name: "configuration",
    arrivals: log::Level::Info,
    input_bytes: format::MAX_REQUEST_BYTES,
    output_bytes: format::MAX_TOLD_BYTES,
};

/// Room for the reason of a refusal.
const _: () = assert!(format::MAX_TOLD_BYTES > 4096);

/// What rules there can be beside those that all guests can have.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// A namespace of this host: its ports lead here, and services in it can be followed.
    pub namespace: bool,
    /// Sockets can be bound to interfaces.
    pub interfaces: bool,
}

/// One client's conversation.
pub struct Configuration {
    abilities: Abilities,
    /// The rules that the client was told of.
    told: Option<Tables>,
    /// What it wants is being put in force, of which that is to be said then.
    under_way: Option<(ChangeOutcome, Vec<String>)>,
}

/// The rules of both ways.
#[derive(Clone)]
struct Tables {
    inbound: RuleTable,
    outbound: RuleTable,
}

impl Tables {
    fn of(view: &NetView) -> Self {
        Self { inbound: view.inbound.clone(), outbound: view.outbound.clone() }
    }

    fn table(&self, pif: Pif) -> &RuleTable {
        if pif == Pif::Splice { &self.outbound } else { &self.inbound }
    }
}

/// Why rules are not put in force.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Format(#[from] FormatError),
    /// There is no namespace.
    #[error("There are no rules for {0} here: the guest has no namespace of this host")]
    NoTable(Pif),
    #[error("{warning}\nUnable to add rule {rule}")]
    Rule { warning: RuleError, rule: Box<Rule> },
    #[error(
        "Services of the guest cannot be followed: 'auto' is for namespaces\nUnable to add rule {0}"
    )]
    Scan(Box<Rule>),
    #[error("Device binding unsupported (requires kernel 5.7+)\nUnable to add rule {0}")]
    Interface(Box<Rule>),
    #[error("{0}")]
    Listen(String),
}

impl Configuration {
    /// For clients of a program that can do this.
    pub fn new(abilities: Abilities) -> Self {
        Self { abilities, told: None, under_way: None }
    }

    fn capabilities(&self, view: &NetView) -> Capabilities {
        let Enabled { v4, v6, tcp, udp } = (&view.network).into();
        Capabilities::default()
            .with(Capabilities::V4, v4)
            .with(Capabilities::V6, v6)
            .with(Capabilities::TCP, tcp)
            .with(Capabilities::UDP, udp)
            .with(Capabilities::SCAN, self.abilities.namespace)
            .with(Capabilities::INTERFACE, self.abilities.interfaces)
    }

    fn pifs(&self) -> &'static [Pif] {
        if self.abilities.namespace { &[Pif::Host, Pif::Splice] } else { &[Pif::Host] }
    }

    /// Tells the client the rules. There is room for that when it has come.
    fn tell(&mut self, engine: &Engine, channel: &mut Channel) {
        let view = engine.view();
        let tables = Tables::of(&view);
        let mut wrote = channel.write(&format::hello());
        for pif in self.pifs() {
            let rules = tables.table(*pif).rules();
            let head = TableHead {
                pif: *pif as u8,
                name: pif.to_string(),
                capabilities: self.capabilities(&view),
                count: rules.len() as u32,
            };
            wrote &= channel.write(&head.to_bytes());
            for rule in rules {
                wrote &= channel.write(&format::rule_to_bytes(rule));
            }
        }
        wrote &= channel.write(&[format::END]);
        assert!(wrote, "a client that has come is told no more than its buffer holds");
        self.told = Some(tables);
    }

    /// Begins to put the rules in force that the client wants. Returns warnings about what it adds, too.
    fn change(
        &self,
        engine: &mut Engine,
        wanted: &Wanted,
    ) -> Result<(ChangeOutcome, Vec<String>), Refusal> {
        let mut view = engine.view();
        let told = self.told.as_ref().expect("who answers was told");
        let missing = wanted.iter().find(|(pif, _)| !self.pifs().contains(pif));
        if let Some((pif, _)) = missing {
            return Err(Refusal::NoTable(*pif));
        }
        for pif in self.pifs() {
            let rules = wanted.iter().find(|(other, _)| other == pif);
            let rules = rules.map_or(&[][..], |(_, rules)| rules);
            rules.iter().try_for_each(|rule| self.check(rule))?;
            let current = Tables::of(&view);
            let enabled = (&view.network).into();
            let table = merged(told.table(*pif), rules, current.table(*pif), enabled)?;
            *(if *pif == Pif::Splice { &mut view.outbound } else { &mut view.inbound }) = table;
        }
        let new = view.inbound.rules().iter().filter(|rule| told.inbound.find(rule).is_none());
        let warnings = unreached(new, engine.bypass()).map(|(_, text)| text).collect();
        Ok((engine.change_net(view), warnings))
    }

    /// Whether the program can do what `rule` says.
    fn check(&self, rule: &Rule) -> Result<(), Refusal> {
        if rule.scan && !self.abilities.namespace {
            return Err(Refusal::Scan(Box::new(*rule)));
        }
        if rule.interface.is_some() && !self.abilities.interfaces {
            return Err(Refusal::Interface(Box::new(*rule)));
        }
        Ok(())
    }

    /// Says what came of it, in the log and to the client: there are warnings with it, or it was refused.
    fn answer(
        &self,
        engine: &Engine,
        changed: Result<Vec<String>, Refusal>,
        channel: &mut Channel,
    ) {
        match changed {
            Ok(warnings) => {
                let tables = Tables::of(&engine.view());
                for pif in self.pifs() {
                    log::info!("New forwarding rules for {pif}:");
                    for rule in tables.table(*pif).rules() {
                        log::info!("    {rule}");
                    }
                }
                for warning in warnings.into_iter().chain(engine.warning_of_descriptors()) {
                    log::warn!("{warning}");
                }
                channel.write(&[format::ACCEPTED]);
            }
            Err(refusal) => {
                let reason = refusal.to_string();
                log::warn!("Error switching to new forwarding rules, nothing has changed:");
                reason.lines().for_each(|line| log::warn!("    {line}"));
                channel.write(&[format::REFUSED]);
                let _fits = writeln!(channel, "{reason}");
            }
        }
    }
}

/// The rules that follow when a client who was `told` some has answered with others, while `current` ones are in
/// force: those without what it has removed, and then what it has added.
fn merged(
    told: &RuleTable,
    wanted: &[Rule],
    current: &RuleTable,
    enabled: Enabled,
) -> Result<RuleTable, Refusal> {
    let is_wanted = |rule: &Rule| wanted.iter().any(|other| other.is_same(rule));
    let stays = |rule: &&Rule| told.find(rule).is_none() || is_wanted(rule);
    let added = wanted.iter().filter(|rule| told.find(rule).is_none());
    // Who adds several rules that are weak means one specification: ports that excluded ones split.
    let last = current.rules().iter().map(|rule| rule.spec_index).max();
    let spec_index = last.map_or(0, |last| last.saturating_add(1));
    let added = added.filter(|rule| current.find(rule).is_none());
    let added = added.map(|rule| Rule { spec_index, ..*rule });
    let mut table = RuleTable::default();
    for rule in current.rules().iter().filter(stays).copied().chain(added) {
        table
            .add(rule, enabled)
            .map_err(|warning| Refusal::Rule { warning, rule: Box::new(rule) })?;
    }
    Ok(table)
}

impl Protocol for Configuration {
    fn begin(&mut self) {
        (self.told, self.under_way) = (None, None);
    }

    fn go_on(
        &mut self,
        engine: &mut Engine,
        _out: &mut dyn ToGuest,
        channel: &mut Channel,
    ) -> Next {
        if self.told.is_none() {
            self.tell(engine, channel);
        }
        if self.under_way.is_none() {
            let changed = match format::request(channel.input()) {
                Ok(None) => return Next::Wait,
                // What it wants is taken as the difference to what is in force then.
                Ok(Some(_)) if engine.is_changing() => return Next::Busy,
                Ok(Some(wanted)) => self.change(engine, &wanted),
                Err(error) => Err(error.into()),
            };
            channel.use_up(channel.input().len());
            match changed {
                Ok(under_way) => self.under_way = Some(under_way),
                Err(refusal) => {
                    self.answer(engine, Err(refusal), channel);
                    return Next::Close;
                }
            }
        }
        let Some((outcome, warnings)) = &mut self.under_way else { return Next::Busy };
        let Some(changed) = outcome.take() else { return Next::Busy };
        let warnings = std::mem::take(warnings);
        let changed = changed.map(|()| warnings);
        let changed = changed.map_err(|error| Refusal::Listen(error.to_string()));
        self.answer(engine, changed, channel);
        Next::Close
    }

    fn patience(&self) -> Option<Duration> {
        Some(CONFIGURATION_WITHIN)
    }

    fn end(&mut self) {
        (self.told, self.under_way) = (None, None);
    }
}
