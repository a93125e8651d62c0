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
        let rules = rules.iter().map(|(number, checks)| {
            let made: Result<Vec<_>, _> =
                checks.iter().map(|(argument, check)| alternatives(*argument, *check)).collect();
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

/// The rules of which one has to hold.
fn alternatives(argument: u8, check: Check) -> Result<Vec<SeccompRule>, BackendError> {
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
