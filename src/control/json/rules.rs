//! Forwarding rules and the egress policy: listed, and changed all or nothing. What is to be changed is read by the
//! parsers of the command line, with the same words for what is wrong with it.

use std::collections::HashMap;

use super::model::{Egress, EgressRule, Problem, Rule, Rules};
use super::request::{Deleted, Specification};
use super::{About, Answer};
use crate::conf::{ConfError, egress, option_of, ports, unreached};
use crate::control::words::words_of;
use crate::engine::{ChangeOutcome, Engine, NetView};
use crate::flow::fwd::{self, RuleTable};
use crate::flow::network::Network;
use crate::flow::side::Pif;

/// A change that is being put in force.
pub(super) struct UnderWay {
    outcome: ChangeOutcome,
    /// The field of the request that it is about.
    field: &'static str,
    /// What is told when it is in force.
    then: Then,
}

/// What a change is about.
enum Then {
    /// The rules, with warnings about those that are new.
    Rules(Vec<String>),
    /// The policy, with warnings about it.
    Egress(Vec<String>),
}

impl UnderWay {
    fn begin(engine: &mut Engine, view: NetView, field: &'static str, then: Then) -> Self {
        Self { outcome: engine.change_net(view), field, then }
    }

    /// The answer, if it is there: what is in force now, or the first port that cannot be had, where nothing has changed.
    pub(super) fn answer(&mut self, engine: &Engine) -> Option<Result<Answer, Problem>> {
        let outcome = self.outcome.take()?;
        let in_force = |()| match &mut self.then {
            Then::Rules(warnings) => {
                log::info!("New forwarding rules by a control client");
                let mut warnings = std::mem::take(warnings);
                warnings.extend(engine.warning_of_descriptors());
                Answer::Rules(Rules { warnings, ..list(engine) })
            }
            Then::Egress(warnings) => {
                log::info!("New egress policy by a control client");
                let warnings = std::mem::take(warnings);
                Answer::Egress(Egress { warnings, ..egress(engine) })
            }
        };
        Some(outcome.map(in_force).map_err(|error| {
            let (problem, cure) = words_of(&error.to_string());
            Problem::new(self.field, problem, cure)
        }))
    }
}

/// The rules in force. Counts the sockets that listen: some 10 ns for each.
pub(super) fn list(engine: &Engine) -> Rules {
    let listening: HashMap<_, _> = engine.listening().into_iter().collect();
    let facts = engine.facts();
    let mut rules = Vec::new();
    for (pif, to, table) in
        [(Pif::Host, "guest", facts.inbound), (Pif::Splice, "host", facts.outbound)]
    {
        for (id, rule) in table.iter() {
            let sockets = listening.get(&(pif, id)).copied().unwrap_or(0);
            let number = id.number();
            rules.push(described(rule, number, to, sockets));
        }
    }
    Rules { rules, warnings: Vec::new() }
}

fn described(rule: &fwd::Rule, number: u64, to: &str, sockets: usize) -> Rule {
    Rule {
        rule: number,
        to: to.to_owned(),
        proto: rule.proto.to_string().to_lowercase(),
        address: rule.listen.to_string(),
        interface: rule.interface.map(|name| name.to_string()),
        first: rule.first,
        last: rule.last,
        target_address: rule.target_addr.map(|address| address.to_string()),
        target_first: rule.target_first,
        weak: rule.weak,
        auto: rule.scan,
        listening: sockets as u64,
    }
}

/// Begins to add the rules that a specification makes.
///
/// # Errors
/// What is wrong with it.
pub(super) fn add(
    engine: &mut Engine,
    about: &About,
    specification: &Specification,
) -> Result<UnderWay, Problem> {
    let mut view = engine.view();
    let NetView { network, inbound, outbound, .. } = &mut view;
    let before = inbound.clone();
    add_to([inbound, outbound], network, about, specification)?;
    let new = inbound.rules().iter().filter(|rule| before.find(rule).is_none());
    let warnings = warnings_of(engine, new);
    Ok(UnderWay::begin(engine, view, "ports", Then::Rules(warnings)))
}

/// Begins to remove rules.
///
/// # Errors
/// They are not there.
pub(super) fn delete(
    engine: &mut Engine,
    about: &About,
    deleted: &Deleted,
) -> Result<UnderWay, Problem> {
    let mut view = engine.view();
    let NetView { network, inbound, outbound, .. } = &mut view;
    match deleted {
        Deleted::Number { to_host, number } => {
            let table = if *to_host { outbound } else { inbound };
            let found = table.iter().map(|(id, _)| id).find(|id| id.number() == *number);
            let id = found.ok_or_else(|| {
                let problem = format!("There is no rule {number}");
                Problem::new("rule", problem, "take the number of one from 'rules'")
            })?;
            table.remove(id);
        }
        Deleted::Ports(specification) => {
            let (mut to_guest, mut to_host) = (RuleTable::default(), RuleTable::default());
            add_to([&mut to_guest, &mut to_host], network, about, specification)?;
            let (wanted, table) =
                if specification.to_host { (to_host, outbound) } else { (to_guest, inbound) };
            for rule in wanted.rules() {
                let same = |other: &fwd::Rule| {
                    fwd::Rule { spec_index: rule.spec_index, ..*other } == *rule
                };
                let found = table.iter().find(|(_, other)| same(other)).map(|(id, _)| id);
                let id = found.ok_or_else(|| {
                    let text = rule.to_string();
                    let problem = format!("There is no rule {}", text.trim_end());
                    Problem::new("ports", problem, "give one as it stands in 'rules'")
                })?;
                table.remove(id);
            }
        }
    }
    Ok(UnderWay::begin(engine, view, "rule", Then::Rules(Vec::new())))
}

/// Begins to put other rules in place of all.
///
/// # Errors
/// What is wrong with the first bad one.
pub(super) fn replace(
    engine: &mut Engine,
    about: &About,
    specifications: &[Specification],
) -> Result<UnderWay, Problem> {
    let mut view = engine.view();
    let NetView { network, inbound, outbound, .. } = &mut view;
    (*inbound, *outbound) = (RuleTable::default(), RuleTable::default());
    for (place, specification) in specifications.iter().enumerate() {
        add_to([inbound, outbound], network, about, specification).map_err(|problem| Problem {
            field: format!("rules[{place}].{}", problem.field),
            ..problem
        })?;
    }
    let warnings = warnings_of(engine, inbound.rules());
    Ok(UnderWay::begin(engine, view, "rules", Then::Rules(warnings)))
}

/// What is to be said of rules that lead nowhere.
fn warnings_of<'a>(engine: &Engine, rules: impl IntoIterator<Item = &'a fwd::Rule>) -> Vec<String> {
    unreached(rules, engine.bypass()).map(|(_, text)| text).collect()
}

/// Adds the rules of a specification to the table of its direction.
fn add_to(
    [inbound, outbound]: [&mut RuleTable; 2],
    network: &Network,
    about: &About,
    specification: &Specification,
) -> Result<(), Problem> {
    let Specification { to_host, proto, ports } = specification;
    if *to_host && !about.has_namespace {
        let problem = "There is no namespace whose ports could lead to the host";
        return Err(Problem::new("to", problem, "leave 'to' out: only pasta has one"));
    }
    let direction = match (to_host, about.has_namespace) {
        (true, _) => ports::ForwardDirection::FromNamespace,
        (false, true) => ports::ForwardDirection::ToNamespace,
        (false, false) => ports::ForwardDirection::ToGuest,
    };
    let table = if *to_host { outbound } else { inbound };
    let last = table.rules().iter().map(|rule| rule.spec_index).max();
    let spec_index = last.map_or(0, |last| last.saturating_add(1));
    ports::add(table, network, about.kernel, (direction, *proto, ports), spec_index).map_err(
        |error| {
            let problem = error.to_string().replace('\n', "; ").trim_end().to_owned();
            let (option, spec) = (option_of(direction, *proto), ports.clone());
            let error = ConfError::Ports { option, spec, error: Box::new(error) };
            Problem::new("ports", problem, error.cure().unwrap_or_default())
        },
    )
}

/// The egress policy in force.
pub(super) fn egress(engine: &Engine) -> Egress {
    let facts = engine.facts();
    let rules = facts.egress.rules.iter().zip(&facts.decided).map(|(rule, &decided)| EgressRule {
        rule: rule.text.clone(),
        decided,
        isolate: egress::is_of_isolation(&rule.text),
    });
    let unmatched = facts.decided.last().copied().unwrap_or(0);
    Egress { rules: rules.collect(), unmatched, warnings: Vec::new() }
}

/// Begins to put another egress policy in force. Flows that it forbids end.
///
/// # Errors
/// What is wrong with the first bad rule.
pub(super) fn replace_egress(
    engine: &mut Engine,
    rules: &[String],
    isolate: bool,
) -> Result<UnderWay, Problem> {
    let mut view = engine.view();
    let host = view.egress.host.clone();
    let made = egress::policy(rules, isolate, host, (&view.network, &view.map));
    let (policy, notes) = made.map_err(|(place, problem)| {
        let field = place.map_or("rules".to_owned(), |place| format!("rules[{place}]"));
        Problem::new(&field, problem, format!("a rule is {}", egress::WORDS))
    })?;
    view.egress = policy;
    let warnings = notes.into_iter().map(|note| note.text).collect();
    Ok(UnderWay::begin(engine, view, "rules", Then::Egress(warnings)))
}
