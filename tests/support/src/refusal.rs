//! System calls that fail in a program under test, as the filters of containers and kernels without them make them fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Makes a system call fail with `errno` in `command` and what comes of it, as a container's filter
/// does; with `bits`, only when its first argument has one of them.
#[must_use]
pub fn deny(command: Command, call: libc::c_long, bits: Option<i32>, errno: i32) -> Command {
    meet(command, call, bits, SeccompAction::Errno(errno.cast_unsigned()))
}

/// The same where the call has something to say in `argument`, counted from 0.
#[must_use]
pub fn deny_given(command: Command, call: libc::c_long, argument: u8, errno: i32) -> Command {
    let (whole, other) = (SeccompCmpArgLen::Qword, SeccompCmpOp::Ne);
    let condition = SeccompCondition::new(argument, whole, other, 0).unwrap();
    meet_where(command, call, vec![condition], SeccompAction::Errno(errno.cast_unsigned()))
}

/// The same where the arguments with these numbers, counted from 0, are these.
#[must_use]
pub fn deny_these(
    command: Command,
    call: libc::c_long,
    arguments: &[(u8, u64)],
    errno: i32,
) -> Command {
    let conditions = arguments.iter().map(|(index, value)| {
        SeccompCondition::new(*index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *value).unwrap()
    });
    meet_where(command, call, conditions.collect(), SeccompAction::Errno(errno.cast_unsigned()))
}

/// The same as [`deny`] with another `action`.
#[must_use]
pub fn meet(
    command: Command,
    call: libc::c_long,
    bits: Option<i32>,
    action: SeccompAction,
) -> Command {
    let condition = bits.map(|bits| {
        let bits = u64::from(bits.cast_unsigned());
        let operation = SeccompCmpOp::MaskedEq(bits);
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, operation, bits).unwrap()
    });
    meet_where(command, call, condition.into_iter().collect(), action)
}

/// Without conditions, the call alone is met.
fn meet_where(
    mut command: Command,
    call: libc::c_long,
    conditions: Vec<SeccompCondition>,
    action: SeccompAction,
) -> Command {
    let conditions = (!conditions.is_empty()).then(|| SeccompRule::new(conditions).unwrap());
    let rules = BTreeMap::from([(call, conditions.into_iter().collect())]);
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    // SAFETY: installing a filter is two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            seccompiler::apply_filter(&filter).map_err(|_| std::io::ErrorKind::Unsupported.into())
        });
    }
    command
}
