//! System call filters (seccomp(2)): which calls a process may make from now on, and with which
//! arguments. Any other call kills the process.
//!
//! A call without a check costs nothing: the kernel finds out once, when the filter is installed,
//! that its number alone decides. A check runs the filter for each such call, about 100 ns. Calls of
//! the packet path therefore have none.

use std::collections::BTreeMap;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// What an argument has to be. The lower 32 bits of it are looked at: as much as the kernel uses of
/// those that are checked here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Check {
    /// One of these numbers.
    OneOf(&'static [u32]),
    /// This number.
    Equals(u32),
    /// None of these bits is set.
    Without(u32),
    /// All of these bits are set.
    With(u32),
}

/// A call that is allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Its number, `SYS_...`.
    pub(crate) number: libc::c_long,
    /// Which argument, counted from 0, has to be what.
    pub(crate) check: Option<(u8, Check)>,
}

/// A filter, ready to be installed.
#[derive(Clone, Debug)]
pub struct Filter(BpfProgram);

impl Filter {
    /// A filter that allows `calls`.
    ///
    /// # Errors
    /// In words, when it is too long or there are no filters for this processor.
    pub(crate) fn new(calls: &[Call]) -> Result<Self, String> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for call in calls {
            let rule = rules.entry(call.number).or_default();
            if let Some((argument, check)) = call.check {
                rule.extend(alternatives(argument, check).map_err(|error| error.to_string())?);
            }
        }
        let architecture = TargetArch::try_from(std::env::consts::ARCH);
        let filter = architecture.and_then(|architecture| {
            let (otherwise, listed) = (SeccompAction::KillProcess, SeccompAction::Allow);
            SeccompFilter::new(rules, otherwise, listed, architecture)?.try_into()
        });
        filter.map(Self).map_err(|error| error.to_string())
    }

    /// Lets the calling thread make no other calls for the rest of its life, gain no privileges by
    /// executing programs, and be looked into by nobody but root. Allocates nothing.
    ///
    /// # Errors
    /// What prctl(2) or seccomp(2) report.
    pub(crate) fn install(&self) -> Result<(), Errno> {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        seccompiler::apply_filter(&self.0).map_err(|error| match error {
            seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => {
                Errno::from_io_error(&error).unwrap_or(Errno::INVAL)
            }
            _ => Errno::INVAL,
        })
    }
}

/// The rules of which one has to hold.
fn alternatives(argument: u8, check: Check) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |operation, value: u32| {
        let length = SeccompCmpArgLen::Dword;
        let condition = SeccompCondition::new(argument, length, operation, u64::from(value))?;
        SeccompRule::new(vec![condition])
    };
    match check {
        Check::OneOf(values) => values.iter().map(|value| rule(SeccompCmpOp::Eq, *value)).collect(),
        Check::Equals(value) => Ok(vec![rule(SeccompCmpOp::Eq, value)?]),
        Check::Without(bits) => Ok(vec![rule(SeccompCmpOp::MaskedEq(u64::from(bits)), 0)?]),
        Check::With(bits) => Ok(vec![rule(SeccompCmpOp::MaskedEq(u64::from(bits)), bits)?]),
    }
}
