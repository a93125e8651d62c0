//! A filter by seccompiler, for the processors that it knows.

use rustix::io::Errno;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::{Check, Rules};

/// What the kernel runs.
pub(super) type Program = BpfProgram;

/// The program that allows calls by these rules on the processor that Rust knows by this name.
///
/// # Errors
/// In words, when it is too long or there are no filters for this processor.
pub(super) fn program(rules: &Rules, processor: &str) -> Result<Program, String> {
    let made = TargetArch::try_from(processor).and_then(|architecture| {
        let rules = rules.iter().map(|(number, ways)| {
            let made: Result<Vec<_>, _> = ways.iter().map(|checks| alternatives(checks)).collect();
            Ok((*number, made?.concat()))
        });
        let rules = rules.collect::<Result<_, BackendError>>()?;
        let (otherwise, listed) = (SeccompAction::KillProcess, SeccompAction::Allow);
        SeccompFilter::new(rules, otherwise, listed, architecture)?.try_into()
    });
    made.map_err(|error| error.to_string())
}

/// Has the kernel run it for the calling thread.
///
/// # Errors
/// What prctl(2) or seccomp(2) report.
pub(super) fn install(program: &Program) -> Result<(), Errno> {
    seccompiler::apply_filter(program).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => {
            Errno::from_io_error(&error).unwrap_or(Errno::INVAL)
        }
        _ => Errno::INVAL,
    })
}

/// The rules of which one has to hold for all of `checks` to hold.
fn alternatives(checks: &[(u8, Check)]) -> Result<Vec<SeccompRule>, BackendError> {
    let mut sets: Vec<Vec<SeccompCondition>> = vec![Vec::new()];
    for (argument, check) in checks {
        let conditions = conditions(*argument, *check)?;
        let with = |set: &Vec<SeccompCondition>| {
            let longer =
                |one: &SeccompCondition| [set.as_slice(), std::slice::from_ref(one)].concat();
            conditions.iter().map(longer).collect::<Vec<_>>()
        };
        sets = sets.iter().flat_map(with).collect();
    }
    sets.into_iter().map(SeccompRule::new).collect()
}

/// The conditions of which one has to hold.
fn conditions(argument: u8, check: Check) -> Result<Vec<SeccompCondition>, BackendError> {
    let condition = |operation, value: u32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, u64::from(value))
    };
    match check {
        Check::OneOf(values) => {
            values.iter().map(|value| condition(SeccompCmpOp::Eq, *value)).collect()
        }
        Check::Equals(value) => Ok(vec![condition(SeccompCmpOp::Eq, value)?]),
        Check::Without(bits) => Ok(vec![condition(SeccompCmpOp::MaskedEq(u64::from(bits)), 0)?]),
        Check::With(bits) => Ok(vec![condition(SeccompCmpOp::MaskedEq(u64::from(bits)), bits)?]),
    }
}
