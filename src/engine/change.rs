//! Another view of the network is put in force, while traffic goes on: [`listen::Change`] opens and closes some ports a
//! turn, and in between, when all that is wanted is open, everybody goes by the new view from one moment to the next.

use std::cell::RefCell;
use std::rc::Rc;

use super::bypass::BypassParts;
use super::core::Core;
use super::listen::{self, Change, ListenError, Scans, Step};
use super::net::NetView;
use super::{Engine, datagrams, egress, inspect};
use crate::limits::FEW_SOCKETS;

/// What has come of a change of the network's view.
#[derive(Clone, Debug, Default)]
pub struct ChangeOutcome(Rc<RefCell<Option<Result<(), ListenError>>>>);

impl ChangeOutcome {
    /// Takes it; `None` as long as the change is under way.
    pub fn take(&self) -> Option<Result<(), ListenError>> {
        self.0.borrow_mut().take()
    }
}

/// The change that is under way, if there is one.
#[derive(Default)]
pub(super) struct UnderWay(Option<(Change, ChangeOutcome)>);

impl UnderWay {
    /// Whether there is one.
    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Begins to put `view` in force.
    pub(super) fn begin(&mut self, core: &Core, view: NetView) -> ChangeOutcome {
        assert!(!self.is_some(), "one change after the other");
        let outcome = ChangeOutcome::default();
        self.0 = Some((Change::begin(core, view), outcome.clone()));
        outcome
    }

    /// Goes on, with at most so many `ports`.
    pub(super) fn go_on(
        &mut self,
        core: &mut Core,
        mut bypass: Option<&mut BypassParts>,
        scans: &mut Scans,
        mut ports: usize,
    ) {
        while let Some((change, outcome)) = &mut self.0 {
            match change.go_on(core, bypass.as_deref_mut(), &mut ports) {
                Step::More if ports == 0 => return,
                Step::More => {}
                Step::Switch => switch(core, bypass.as_deref_mut(), scans, change),
                Step::Over(result) => {
                    outcome.0.replace(Some(result));
                    self.0 = None;
                    if let Some(parts) = bypass.as_deref_mut() {
                        listen::scan(core, parts, scans);
                    }
                }
            }
        }
    }
}

/// From here on the new view counts.
fn switch(
    core: &mut Core,
    bypass: Option<&mut BypassParts>,
    scans: &mut Scans,
    change: &mut Change,
) {
    let before = inspect::RuleBook::of(&core.net);
    change.switch(core);
    before.tell_changes(core);
    if let Some(parts) = bypass
        && let Err(errno) = scans.follow_rules(&core.net, parts.sockets.as_mut())
    {
        log::warn!("Cannot watch for services to forward: {errno}: their ports stay closed");
    }
    datagrams::refresh_groups(core);
    egress::sweep(core);
}

impl Engine {
    /// What is to be said where the limit of descriptors leaves few for flows, or none, beside all that listen.
    pub(crate) fn warning_of_descriptors(&self) -> Option<String> {
        let limit = self.core.settings.max_descriptors;
        match self.core.most_flows() {
            0 => Some(format!(
                "The hard limit of open descriptors, {limit}, leaves nothing for connections: raise it (ulimit -Hn, \
                 LimitNOFILE=), or forward fewer ports"
            )),
            most @ 1..FEW_SOCKETS => Some(format!(
                "The hard limit of open descriptors, {limit}, leaves few for connections, {most} at a time: raise it \
                 (ulimit -Hn, LimitNOFILE=)"
            )),
            _ => None,
        }
    }
}
