//! `--egress`, `--egress-file` and `--isolate` put together to a [`Policy`]. The only I/O is in [`load`].

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{ConfError, Note, Options, host};
use crate::flow::fwd::{
    Attempt, Destination, EgressRule, Mapping, Policy, Proto, Surroundings, Verdict,
    egress_rule as rule,
};
use crate::flow::network::Network;
use crate::limits::{MAX_EGRESS_NAMES, MAX_EGRESS_RULES};

/// What `--egress` takes.
pub(crate) const WORDS: &str = "allow|reject|drop [tcp|udp|icmp] DESTINATION[:PORTS], where DESTINATION is any, an \
    address, ADDR/LEN, @loopback, @host, @private, @linklocal, @metadata, @multicast, @internet, @dns, or \
    a name like example.org or *.example.org";

/// What `--isolate` stands for, behind the operator's own rules. DNS elsewhere than at the guest's name servers is
/// forbidden on its own ports.
const ISOLATION: [&str; 5] = [
    "allow @dns",
    "reject tcp any:53,853",
    "reject udp any:53,853",
    "allow @internet",
    "reject any",
];

/// Most bytes of a file of rules: as many rules as there may be, of 256 bytes.
const MAX_FILE_BYTES: u64 = 256 * MAX_EGRESS_RULES as u64;

/// How long nothing may come from a pipe that is given as a file of rules.
const PIPE_PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Rules that were asked for, in the order of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `--egress`.
    Rule(Box<EgressRule>),
    /// `--egress-file`, not read yet.
    File(PathBuf),
}

/// Everything about egress on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EgressOptions {
    /// Rules.
    pub(crate) sources: Vec<Source>,
    /// `--isolate`.
    pub(crate) isolate: bool,
    /// What this host is, once that was asked for.
    host: Surroundings,
}

impl EgressOptions {
    fn is_empty(&self) -> bool {
        self.sources.is_empty() && !self.isolate
    }
}

/// Reads files of rules, while descriptors are open by which a shell passes some on (`/dev/fd`).
///
/// # Errors
/// A file cannot be read, or is none of rules.
pub(crate) fn read_files(options: &mut Options) -> Result<(), ConfError> {
    let mut sources = Vec::new();
    for source in std::mem::take(&mut options.egress.sources) {
        match source {
            Source::Rule(_) => sources.push(source),
            Source::File(path) => {
                sources.extend(read(&path)?.into_iter().map(|rule| Source::Rule(Box::new(rule))));
            }
        }
    }
    options.egress.sources = sources;
    Ok(())
}

/// Finds out what this host is, by whatever address. Where there can be no rules it does nothing.
///
/// # Errors
/// The kernel does not tell.
pub(crate) fn load(options: &mut Options) -> Result<(), ConfError> {
    let egress = &mut options.egress;
    // With a control socket rules may come later.
    if egress.is_empty() && options.run.control.is_none() {
        return Ok(());
    }
    egress.host = host::surroundings()?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<EgressRule>, ConfError> {
    let failed = |source| ConfError::EgressFile { path: path.to_owned(), source };
    let text = content(path).map_err(failed)?;
    let invalid = |line, problem| ConfError::EgressLine { path: path.to_owned(), line, problem };
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(invalid(text.lines().count(), "the file is too large".to_owned()));
    }
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            found.push(rule(line).map_err(|problem| invalid(number + 1, problem))?);
        }
    }
    Ok(found)
}

/// What a file holds, or a pipe, whose writer is not waited for any longer than [`PIPE_PATIENCE`]. Up to a byte more than
/// there may be.
fn content(path: &Path) -> io::Result<String> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let mut text = Vec::new();
    let mut bytes = [0; 4096];
    while text.len() as u64 <= MAX_FILE_BYTES {
        // A pipe that nobody has opened yet would read as one that has ended.
        let mut asked = [PollFd::new(&file, PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut asked, Some(&PIPE_PATIENCE)))? == 0 {
            return Err(Errno::TIMEDOUT.into());
        }
        match rustix::io::read(&file, &mut bytes) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&bytes[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    String::from_utf8(text).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// The policy that all of them make, and what the operator should know of it.
///
/// # Errors
/// There are too many rules.
pub(super) fn resolve(
    options: &EgressOptions,
    network: &Network,
    mapping: &Mapping,
    notes: &mut Vec<Note>,
) -> Result<Policy, ConfError> {
    let given = options.sources.iter().filter_map(|source| match source {
        Source::Rule(rule) => Some(EgressRule::clone(rule)),
        Source::File(_) => None,
    });
    let mut rules: Vec<EgressRule> = given.collect();
    if options.isolate {
        let isolation = ISOLATION.iter().filter_map(|text| rule(text).ok());
        rules.extend(
            isolation
                .map(|rule| EgressRule { text: format!("{OF_ISOLATION}{}", rule.text), ..rule }),
        );
    }
    let policy = Policy { rules, host: options.host.clone() };
    let names = policy.rules.iter().filter(|rule| matches!(rule.to, Destination::Name(_))).count();
    if policy.rules.len() > MAX_EGRESS_RULES || names > MAX_EGRESS_NAMES {
        return Err(ConfError::EgressTooMany);
    }
    notes.extend(warnings(&policy, network, mapping));
    notes.extend(missed(&policy));
    Ok(policy)
}

/// What the operator should know of rules on a host of which there may be more than they know.
pub(crate) fn missed(policy: &Policy) -> Option<Note> {
    let missed = !policy.rules.is_empty() && policy.host.is_full();
    missed.then(|| Note::warn(TOO_MANY_ROUTES))
}

const TOO_MANY_ROUTES: &str = "This host has more networks by routes without a router than are looked at: some of them may be \
    @internet to rules of egress; name those in rules of their own";

/// What stands in front of the rules that `--isolate` stands for.
const OF_ISOLATION: &str = "--isolate: ";

/// Whether the rule with this text is one of `--isolate`.
pub(crate) fn is_of_isolation(text: &str) -> bool {
    text.starts_with(OF_ISOLATION)
}

/// The policy of rules that are given while the program runs, behind them those of `--isolate` if that is wanted, on a
/// `host` that has not changed; and what the operator should know of it.
///
/// # Errors
/// The place of the first rule that is none, if it is one, and what is wrong.
pub(crate) fn policy(
    rules: &[String],
    isolate: bool,
    host: Surroundings,
    (network, mapping): (&Network, &Mapping),
) -> Result<(Policy, Vec<Note>), (Option<usize>, String)> {
    let mut sources = Vec::new();
    for (place, text) in rules.iter().enumerate().take(MAX_EGRESS_RULES + 1) {
        let rule = rule(text).map_err(|problem| (Some(place), problem))?;
        sources.push(Source::Rule(Box::new(rule)));
    }
    let options = EgressOptions { sources, isolate, host };
    let mut notes = Vec::new();
    let policy = resolve(&options, network, mapping, &mut notes);
    policy.map(|policy| (policy, notes)).map_err(|error| (None, error.to_string()))
}

/// What the operator has hardly meant.
fn warnings(policy: &Policy, network: &Network, mapping: &Mapping) -> Option<Note> {
    let allows = |rule: &&EgressRule| rule.verdict == Verdict::Allow;
    if !policy.rules.is_empty() && !policy.rules.iter().any(|rule| allows(&rule)) {
        return Some(Note::warn(
            "No --egress rule allows anything, and what none matches is rejected: the guest \
             reaches nothing; add --egress 'allow any' at the end to allow the rest",
        ));
    }
    policy.names().next()?;
    let v4 = network.v4.iter().flat_map(|v4| v4.dns.iter()).map(|&server| IpAddr::V4(server));
    let v6 = network.v6.iter().flat_map(|v6| v6.dns.iter()).map(|&server| IpAddr::V6(server));
    let matched = [mapping.v4.dns_match.map(IpAddr::V4), mapping.v6.dns_match.map(IpAddr::V6)];
    let may_ask = |server| {
        let seen = SocketAddr::new(server, 53);
        // Where it really is does not matter here, if it may be anywhere.
        let attempt = Attempt::new(network, mapping, Proto::Udp, seen, seen);
        policy.judge(&attempt, |_| 0).0 == Verdict::Allow
    };
    if v4.chain(v6).chain(matched.into_iter().flatten()).any(may_ask) {
        return None;
    }
    Some(Note::warn(
        "--egress allows names, but no name server that the guest could ask for their addresses: \
         add --egress 'allow @dns', and see --dns",
    ))
}

#[cfg(test)]
mod tests;
