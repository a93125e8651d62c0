//! A start that waits for the host's network (`--wait-for-network`), or for an answer of its name servers (`--dns-host`).

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{StartError, system};
use crate::conf::host::{self, HostFacts};
use crate::conf::{ConfError, Interfaces, Options};
use crate::follow::HostName;
use crate::sys::route_events::RouteEvents;

/// Between two looks, while much changes.
const PAUSE: Duration = Duration::from_millis(20);

/// What the host looks like: as soon as it has an address and a default route, of either family, or an interface that
/// was not there, and after this time in any case.
///
/// # Errors
/// As of [`host::facts`], when the time is over.
pub(crate) fn await_network(wish: &Interfaces, wait: Duration) -> Result<HostFacts, StartError> {
    let events = RouteEvents::open().map_err(system("Couldn't watch the network"))?;
    let end = Instant::now() + wait;
    loop {
        events.any();
        let facts = host::facts(wish);
        match &facts {
            Ok(facts) if facts.has_network() => {}
            Ok(_) | Err(ConfError::Interface { .. }) if Instant::now() < end => {
                await_change(&events, end);
                continue;
            }
            Ok(_) => log::warn!("No network after {} seconds, starting without", wait.as_secs()),
            Err(_) => {}
        }
        return Ok(facts?);
    }
}

fn await_change(events: &RouteEvents, end: Instant) {
    std::thread::sleep(PAUSE);
    let left = end.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).ok();
    // A signal that is no reason to end is none to wait for longer.
    let _looked_at_anyway = poll(&mut [PollFd::new(events, PollFlags::IN)], left.as_ref());
}

/// Looks the name up that `--dns-host` gives. Where the host is followed it may be found later: the helper goes on, and
/// says so if it is not.
///
/// # Errors
/// Where the host is not followed: why nothing was found.
pub(crate) fn look_up(
    options: &Options,
    facts: &mut HostFacts,
    resolv: &str,
) -> Result<(), StartError> {
    let Some((text, name)) = &options.dns_host_name else { return Ok(()) };
    if options.pasta.splice_only {
        return Ok(());
    }
    let mut name = HostName::new(text, name.clone(), facts.named);
    name.ask(resolv, facts);
    name.await_answer();
    facts.named = name.found();
    if facts.named.is_some() || !options.run.no_follow {
        return Ok(());
    }
    let silent = || format!("--dns-host {text}: no answer in time: give an address");
    Err(StartError::Other(name.take_note().unwrap_or_else(silent)))
}
