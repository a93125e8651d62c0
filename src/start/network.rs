//! What a start finds out about the host's network: it waits for one (`--wait-for-network`), or for an answer of its name
//! servers (`--dns-host`), and says what is not there.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::conf::host::{self, HostFacts, Template};
use crate::conf::{Conf, ConfError, Interfaces, Note, Options, resolv};
use crate::error::{StartError, system};
use crate::flow::side::Endpoint;
use crate::follow::HostName;
use crate::sys::io_error_text;
use crate::sys::route_events::RouteEvents;
use crate::sys::socket::is_foreign;

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
    loop {
        events.any();
        let facts = host::facts(wish);
        match &facts {
            Ok(facts) if facts.has_network() => {}
            Ok(_) if !wish.are_named() && host::reaches_internet(wish.only) => {}
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

/// Says of an address that connections are to leave from whether this host has none like it: it may have one later. One of a
/// link is to be on that of the template interface.
pub(crate) fn warn_of_outbound(options: &Options, facts: &HostFacts) {
    let scope_id = facts.v6.as_ref().map_or(0, |template| template.index);
    let with_scope = |address| Endpoint::new(address, 0).with_scope(scope_id);
    for address in options.mapping.sources().filter(|&address| is_foreign(with_scope(address))) {
        log::warn!("--outbound {address}: {}", without_outbound(address, facts));
    }
}

/// What there is to say of an address that no socket may have. One of a link may well be another interface's.
fn without_outbound(address: IpAddr, facts: &HostFacts) -> String {
    match (address, &facts.v6) {
        (IpAddr::V6(v6), Some(Template { name, .. })) if v6.is_unicast_link_local() => format!(
            "{name} does not have it: what is to leave from it fails until {name} has, or name the --interface that has it"
        ),
        (IpAddr::V6(v6), None) if v6.is_unicast_link_local() => {
            "it is one of a link, and no interface is known to be that: name the --interface that has it".to_owned()
        }
        _ => "no interface of this host has it: what is to leave from it fails until one has"
            .to_owned(),
    }
}

/// Whether changes of the host are put in force.
pub(crate) fn is_followed(conf: &Conf) -> bool {
    !conf.run.no_follow && conf.pasta.as_ref().is_none_or(|pasta| !pasta.bypass.only)
}

/// Whether nothing that the guest is told of leads beyond a link of the host.
pub(crate) fn is_without_network(conf: &Conf) -> bool {
    !leads_away_v4(conf) && conf.template_v6.is_none()
}

fn leads_away_v4(conf: &Conf) -> bool {
    let v4 = conf.network.v4.as_ref().filter(|_| conf.template_v4.is_some());
    v4.is_some_and(|v4| match &v4.routes {
        Some(routes) => routes.iter().any(|route| Some(route.gateway) != v4.gateway),
        None => true,
    })
}

/// Says what there is to say of the host's network. Beside a command, whose words are not to be lost among ours, that is of
/// interest only where the command is alone.
pub(crate) fn tell_of_network<'a>(
    conf: &Conf,
    wish: &Interfaces,
    notes: impl Iterator<Item = &'a Note>,
) {
    let outlook = outlook(conf, || host::reaches_internet(wish.only));
    let beside_command = starts_command(conf) && outlook != Outlook::Alone;
    crate::log::set_level(conf.run.level(beside_command));
    for Note { level, text } in notes.cloned().chain(no_way_out(conf, wish, outlook)) {
        log::log!(level, "{text}");
    }
}

/// How far the host's network leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    /// No interface is like the guest's, and nothing leads anywhere.
    Alone,
    /// Not beyond a link.
    Near,
    /// Beyond.
    Far,
}

/// How far the network leads: by what the guest is told, else as the kernel says (`reaches_internet`), which knows the rules
/// that choose tables.
fn outlook(conf: &Conf, reaches_internet: impl FnOnce() -> bool) -> Outlook {
    let v6 = conf.network.v6.as_ref();
    let leads_away_v6 = conf.template_v6.is_some() && v6.is_some_and(|v6| v6.default_router);
    let has_device = conf.pasta.as_ref().is_none_or(|pasta| !pasta.bypass.only);
    if !has_device || leads_away_v4(conf) || leads_away_v6 || reaches_internet() {
        return Outlook::Far;
    }
    if conf.template_v4.is_none() && conf.template_v6.is_none() {
        return Outlook::Alone;
    }
    Outlook::Near
}

fn starts_command(conf: &Conf) -> bool {
    conf.pasta.as_ref().is_some_and(|pasta| pasta.starts_command())
}

/// What to say where nothing leads beyond a link of the host. That is how a service starts which comes before its network and
/// follows it, and whoever starts it may take words for a failure. A command runs now, and who waits for it is to know why it
/// reaches nobody. Who names an interface, or gives addresses, may mean to stay on a link.
fn no_way_out(conf: &Conf, wish: &Interfaces, outlook: Outlook) -> Option<Note> {
    let network = &conf.network;
    let is_given = network.v4.as_ref().is_some_and(|v4| v4.fixed)
        || network.v6.as_ref().is_some_and(|v6| v6.fixed);
    if outlook == Outlook::Far || is_given || wish.are_named() {
        return None;
    }
    let for_command = starts_command(conf) && !conf.run.quiet;
    let followed = is_followed(conf);
    let level = if for_command || !followed { Level::Warn } else { Level::Info };
    let later = if followed { "; what comes later is followed" } else { "" };
    let text = format!(
        "Nothing leads beyond this host's links: give it an address and a default route, or name an --interface{later}"
    );
    Some(Note { level, text })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::conf::{self, Command};
    use crate::flow::fwd::InterfaceName;

    fn level(words: &[&str], facts: &HostFacts) -> Option<Level> {
        let parsed = conf::parse(words.iter().map(|word| (*word).into())).unwrap();
        let Command::Run(options) = parsed else { panic!("{words:?}") };
        let wish = options.interfaces.clone();
        let conf = conf::resolve(*options, facts, "", (32768, 60999)).unwrap();
        no_way_out(&conf, &wish, outlook(&conf, || false)).map(|note| note.level)
    }

    #[test]
    fn who_is_alone_has_no_model_and_no_route() {
        let conf = |facts: &HostFacts| {
            let Command::Run(options) = conf::parse(["passt".into()].into_iter()).unwrap() else {
                panic!("no options")
            };
            conf::resolve(*options, facts, "", (32768, 60999)).unwrap()
        };
        let nothing = conf(&HostFacts::default());
        assert_eq!(outlook(&nothing, || false), Outlook::Alone);
        assert_eq!(outlook(&nothing, || true), Outlook::Far, "by rules");
        let name = InterfaceName::new("eth0").unwrap();
        let address = Some((Ipv4Addr::new(192, 0, 2, 2), 24));
        let (link_local, default_route, gateway) = (None, false, None);
        let v4 = Template { name, index: 2, address, link_local, default_route, gateway };
        let near = conf(&HostFacts { v4: Some(v4), ..HostFacts::default() });
        assert_eq!(outlook(&near, || false), Outlook::Near);
        assert_eq!(outlook(&near, || true), Outlook::Far, "over another interface");
    }

    #[test]
    fn no_way_out_is_worth_a_warning_where_somebody_waits_or_nothing_follows() {
        let nothing = HostFacts::default();
        for (words, expected) in [
            (&["passt"][..], Some(Level::Info)),
            (&["passt", "--no-follow"], Some(Level::Warn)),
            (&["pasta", "--netns", "/run/netns/a"], Some(Level::Info)),
            (&["pasta", "1234"], Some(Level::Info)),
            (&["pasta", "true"], Some(Level::Warn)),
            (&["pasta", "-q", "true"], Some(Level::Info)),
            (&["pasta", "--splice-only", "true"], None),
            (&["pasta", "-i", "eth0", "true"], None),
            (&["pasta", "-a", "192.0.2.2", "true"], None),
            (&["pasta", "-a", "2001:db8::2", "true"], None),
        ] {
            assert_eq!(level(words, &nothing), expected, "{words:?}");
        }
    }

    #[test]
    fn a_default_route_of_either_family_is_a_way_out() {
        fn model<A>(address: A, len: u8, default_route: bool) -> Template<A> {
            let name = InterfaceName::new("eth0").unwrap();
            let address = Some((address, len));
            Template { name, index: 2, address, link_local: None, default_route, gateway: None }
        }
        let v4 = |default_route| model(Ipv4Addr::new(192, 0, 2, 2), 24, default_route);
        let v6 = || model("2001:db8::2".parse().unwrap(), 64, true);
        let facts =
            |v4, v6, beyond_link_v6| HostFacts { v4, v6, beyond_link_v6, ..HostFacts::default() };
        let told = |facts: &HostFacts| level(&["passt"], facts).is_some();
        assert!(!told(&facts(Some(v4(true)), None, false)));
        assert!(told(&facts(Some(v4(false)), None, false)));
        assert!(!told(&facts(Some(v4(false)), Some(v6()), true)));
        assert!(told(&facts(None, Some(v6()), false)), "an address alone");
    }

    #[test]
    fn an_address_of_a_link_may_be_that_of_another() {
        let name = InterfaceName::new("eth0").unwrap();
        let v6 = Template {
            name,
            index: 2,
            address: None,
            link_local: None,
            default_route: true,
            gateway: None,
        };
        let known = HostFacts { v6: Some(v6), ..HostFacts::default() };
        let said = |address: &str, facts| without_outbound(address.parse().unwrap(), facts);
        assert!(said("fe80::77", &known).starts_with("eth0 does not have it"));
        for facts in [&known, &HostFacts::default()] {
            assert!(said("fe80::77", facts).ends_with("name the --interface that has it"));
            assert!(said("2001:db8::7", facts).starts_with("no interface of this host has it"));
        }
    }
}
