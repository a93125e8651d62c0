//! What a start finds out about the host's network: it waits for one (`--wait-for-network`), or for an answer of its name
//! servers (`--dns-host`), and says what is not there.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{StartError, system};
use crate::conf::host::{self, HostFacts};
use crate::conf::{ConfError, Interfaces, Options, resolv};
use crate::follow::HostName;
use crate::sys::io_error_text;
use crate::sys::route_events::RouteEvents;

/// Between two looks, while much changes.
const PAUSE: Duration = Duration::from_millis(20);

/// What the host looks like: as soon as it has an address and a default route, of either family, wherever they are unless an
/// interface is named, or an interface that was not there, and after this time in any case.
///
/// # Errors
/// As of [`host::facts`], when the time is over.
pub(crate) fn await_network(wish: &Interfaces, wait: Duration) -> Result<HostFacts, StartError> {
    let events = RouteEvents::open().map_err(system("Couldn't watch the network"))?;
    let end = Instant::now() + wait;
    let named = [&wish.template, &wish.outbound_v4, &wish.outbound_v6];
    let anywhere = named.iter().all(|name| name.is_none());
    loop {
        events.any();
        let facts = host::facts(wish);
        match &facts {
            Ok(facts) if facts.has_network() => {}
            Ok(_) if anywhere && host::reaches_internet(wish.only) => {}
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

/// The text of resolv.conf(5); nothing, and a warning, where it cannot be read.
pub(crate) fn read_resolv() -> String {
    resolv::read().unwrap_or_else(|error| {
        let (path, why) = (resolv::PATH, io_error_text(&error));
        log::warn!("Couldn't read {path}: {why}: give name servers by --dns");
        String::new()
    })
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

/// Says of an address that connections are to leave from whether this host has none like it: it may have one later.
pub(crate) fn warn_of_outbound(options: &Options) {
    let map = &options.mapping;
    let addresses = [map.v4.outbound.map(IpAddr::from), map.v6.outbound.map(IpAddr::from)];
    for address in addresses.into_iter().flatten().filter(|address| is_foreign(*address)) {
        log::warn!(
            "--outbound {address}: no interface of this host has it: what is to leave from it fails until one has"
        );
    }
}

/// Whether no socket may have this address.
fn is_foreign(address: IpAddr) -> bool {
    let bound = UdpSocket::bind((address, 0));
    bound.is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// That others are is a test of pasta's: here the host's sysctls would count, and whether it has any address.
    #[test]
    fn an_address_that_a_socket_may_have_is_not_foreign() {
        assert!(!is_foreign(Ipv4Addr::LOCALHOST.into()));
        // Of which interface it is, is not said.
        assert!(!is_foreign(IpAddr::V6("fe80::1".parse().unwrap())));
    }
}
