//! System call filters (seccomp(2)): which calls a process may make from now on, and with which
//! arguments. Any other call kills the process.
//!
//! A call without a check costs nothing: the kernel finds out once, when the filter is installed,
//! that its number alone decides. A check runs the filter for each such call, about 100 ns. Calls of
//! the packet path therefore have none.

// seccompiler knows three processors, all of which have the lower byte first, and cannot be compiled for others.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod compiled;
#[cfg(any(
    test,
    not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))
))]
mod program;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
use program as compiled;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

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
    /// Which arguments, counted from 0, have to be what: all that there are have to hold.
    pub(crate) checks: [Option<(u8, Check)>; 2],
}

/// What each call, by its number, may have as arguments: anything, or one of these.
type Rules = std::collections::BTreeMap<i64, Vec<Vec<(u8, Check)>>>;

/// A filter, ready to be installed.
#[derive(Clone, Debug)]
pub struct Filter(compiled::Program);

impl Filter {
    /// A filter that allows `calls`.
    ///
    /// # Errors
    /// In words, when it is too long or there are no filters for this processor.
    pub(crate) fn new(calls: &[Call]) -> Result<Self, String> {
        compiled::program(&rules(calls), std::env::consts::ARCH).map(Self)
    }

    /// Lets the calling thread make no other calls for the rest of its life, gain no privileges by
    /// executing programs, and be looked into by nobody but root. Allocates nothing.
    ///
    /// # Errors
    /// What prctl(2) or seccomp(2) report.
    pub(crate) fn install(&self) -> Result<(), Errno> {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        compiled::install(&self.0)
    }
}

#[allow(clippy::useless_conversion, reason = "numbers have 32 bits on some processors")]
fn rules(calls: &[Call]) -> Rules {
    let mut rules = Rules::new();
    for call in calls {
        let ways = rules.entry(i64::from(call.number)).or_default();
        let checks: Vec<(u8, Check)> = call.checks.into_iter().flatten().collect();
        if !checks.is_empty() {
            ways.push(checks);
        }
    }
    rules
}
