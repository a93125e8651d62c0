//! The table of options, for the parser, the help and the manual page; and what is wrong with a command line, in the
//! words of GNU getopt. Those who start slirp4netns look for names of options in its help.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, ValueHint, value_parser};

use super::request::{Network, Outbound, Request, Target};
use super::{NAME, VERSION};
use crate::conf::ConfError;
use crate::conf::options::station;
use crate::flow::fwd::{InterfaceName, is_one_host};

/// Where the words that are no options end up.
const WORDS: &str = "WORDS";

/// Columns of the help text.
const HELP_WIDTH: usize = 80;

/// MTUs: the smallest that IPv4 works with (RFC 791), the one without an option, and the largest that a frame has room for.
const MIN_MTU: u16 = 68;
const DEFAULT_MTU: u16 = 1500;
const MAX_MTU: u16 = 65521;
/// The smallest that IPv6 works with (RFC 8200 section 5).
const MIN_MTU_V6: u16 = 1280;

const USAGE: &str = "slirp4netns [OPTION]... PID|PATH TAPNAME";

const ABOUT: &str = "\
User-mode networking for unprivileged network namespaces: pasta under the name,
and with the options, of slirp4netns.";

/// An option: its letter, its name, what it takes, what the help says.
type Row = (Option<char>, &'static str, Option<&'static str>, &'static str);

const TABLE: [Row; 21] = [
    (Some('c'), "configure", None, "Bring the interface up, with its address and a default route"),
    (Some('e'), "exit-fd", Some("FD"), "End when the other end of this descriptor is closed"),
    (
        Some('r'),
        "ready-fd",
        Some("FD"),
        "Write a byte to this descriptor when the network is ready",
    ),
    (Some('m'), "mtu", Some("MTU"), "MTU of the interface (default: 1500, at most 65521)"),
    (Some('6'), "enable-ipv6", None, "IPv6, too: fd00::/64"),
    (Some('a'), "api-socket", Some("PATH"), "Socket on which ports are forwarded"),
    (None, "cidr", Some("CIDR"), "Network of the interface (default: 10.0.2.0/24)"),
    (None, "disable-host-loopback", None, "The gateway's address does not lead to this host"),
    (None, "netns-type", Some("TYPE"), "What the first argument is: path or pid (default: pid)"),
    (None, "userns-path", Some("PATH"), "User namespace to enter"),
    (None, "enable-sandbox", None, "A sandbox: there always is one"),
    (None, "enable-seccomp", None, "A filter of system calls: there always is one"),
    (None, "disable-dns", None, "No name server at network + 3"),
    (None, "macaddress", Some("MAC"), "Ethernet address of the interface, with --configure"),
    (None, "outbound-addr", Some("IPv4|NAME"), "Address or interface that connections leave by"),
    (None, "outbound-addr6", Some("IPv6|NAME"), "The same for IPv6"),
    (None, "target-type", Some("TYPE"), "What the namespace is given to: netns, and nothing else"),
    (None, "create-sandbox", None, "Old name of --enable-sandbox"),
    (None, "no-host-loopback", None, "Old name of --disable-host-loopback"),
    (Some('h'), "help", None, "Print this text"),
    (Some('v'), "version", None, "Print the version"),
];

/// What a command line comes to.
pub(super) enum Asked {
    Help,
    Version,
    Request(Box<Request>),
}

/// The options, as clap has them.
pub fn command() -> clap::Command {
    let words = Arg::new(WORDS)
        .num_args(0..)
        .hide(true)
        .value_hint(ValueHint::Other)
        .value_parser(value_parser!(OsString));
    clap::Command::new(NAME)
        .override_usage(USAGE)
        .about(ABOUT)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .infer_long_args(true)
        .term_width(HELP_WIDTH)
        .args(TABLE.iter().map(argument))
        .arg(words)
}

fn argument(&(short, long, takes, help): &Row) -> Arg {
    let arg = Arg::new(long).long(long).help(help);
    let arg = match short {
        Some(letter) => arg.short(letter),
        None => arg,
    };
    match takes {
        None => arg.action(ArgAction::SetTrue),
        Some(name) => arg
            .action(ArgAction::Set)
            .value_name(name)
            .value_hint(if name == "PATH" { ValueHint::AnyPath } else { ValueHint::Other })
            .value_parser(value_parser!(OsString))
            .allow_hyphen_values(true),
    }
}

/// What `--help` prints.
pub(super) fn help() -> String {
    command().render_help().to_string()
}

/// What `--version` prints: first of all the version that others know.
pub(super) fn version() -> String {
    let ours = env!("CARGO_PKG_VERSION");
    format!("{NAME} version {VERSION}\npasta {ours}, with the command line of that version\n")
}

/// Reads the command line, program name first.
pub(super) fn read(words: &[OsString]) -> Result<Asked, ConfError> {
    let found = command().try_get_matches_from(words).map_err(|error| refusal(&error))?;
    if found.get_flag("help") {
        return Ok(Asked::Help);
    }
    if found.get_flag("version") {
        return Ok(Asked::Version);
    }
    request(&found).map(|request| Asked::Request(Box::new(request)))
}

fn request(found: &ArgMatches) -> Result<Request, ConfError> {
    let given = |flag| found.get_flag(flag);
    let path = |option| found.get_one::<OsString>(option).map(PathBuf::from);
    match text(found, "target-type")? {
        None | Some("netns") => {}
        Some(other) => return Err(wrong("target-type", other, "netns")),
    }
    let ipv6 = given("enable-ipv6");
    let (target, interface) = target(found)?;
    Ok(Request {
        target,
        user: path("userns-path"),
        interface,
        configure: given("configure"),
        mtu: mtu(found, ipv6)?,
        network: value(
            found,
            "cidr",
            "a network of at most 25 bits, as 10.0.2.0/24",
            Network::parse,
        )?
        .unwrap_or(Network::DEFAULT),
        ipv6,
        no_host: given("disable-host-loopback") || given("no-host-loopback"),
        no_dns: given("disable-dns"),
        mac: value(
            found,
            "macaddress",
            "an address of one station, as 02:00:00:12:34:56",
            station,
        )?,
        outbound_v4: outbound::<Ipv4Addr>(
            found,
            "outbound-addr",
            "an IPv4 address or an interface",
        )?,
        outbound_v6: outbound::<Ipv6Addr>(
            found,
            "outbound-addr6",
            "an IPv6 address or an interface",
        )?,
        ready: descriptor(found, "ready-fd")?,
        exit: descriptor(found, "exit-fd")?,
        api: path("api-socket"),
    })
}

/// The two words behind the options.
fn target(found: &ArgMatches) -> Result<(Target, InterfaceName), ConfError> {
    let words: Vec<&OsStr> = found.get_raw(WORDS).into_iter().flatten().collect();
    let [target, interface] = words[..] else {
        let count = words.len();
        return Err(usage(format!(
            "PID or PATH, and TAPNAME are wanted: 2 arguments, not {count}"
        )));
    };
    let name = interface.to_str().and_then(InterfaceName::new);
    let name = name.ok_or_else(|| {
        let shown = interface.display();
        usage(format!(
            "'{shown}' is no name of an interface: 1 to 15 characters without / and blanks"
        ))
    })?;
    let target = match text(found, "netns-type")? {
        None | Some("pid") => {
            let id = target.to_str().and_then(|word| word.parse::<u32>().ok());
            let id = id.filter(|&id| id > 0 && i32::try_from(id).is_ok());
            Target::Process(id.ok_or_else(|| {
                let shown = target.display();
                usage(format!("'{shown}' is no PID: give one, or --netns-type=path"))
            })?)
        }
        Some("path") => Target::Path(below_something(Path::new(target))),
        Some(other) => return Err(wrong("netns-type", other, "path or pid")),
    };
    Ok((target, name))
}

/// A path that is no name, which pasta would look for elsewhere.
fn below_something(path: &Path) -> PathBuf {
    if path.as_os_str().as_encoded_bytes().contains(&b'/') {
        path.to_owned()
    } else {
        Path::new(".").join(path)
    }
}

fn mtu(found: &ArgMatches, ipv6: bool) -> Result<u16, ConfError> {
    let least = if ipv6 { MIN_MTU_V6 } else { MIN_MTU };
    let takes = if ipv6 { "1280 to 65521, with --enable-ipv6" } else { "68 to 65521" };
    let read = |text: &str| text.parse::<u16>().ok().filter(|mtu| (least..=MAX_MTU).contains(mtu));
    let mtu = value(found, "mtu", takes, read)?;
    Ok(mtu.unwrap_or(DEFAULT_MTU))
}

fn descriptor(found: &ArgMatches, option: &'static str) -> Result<Option<i32>, ConfError> {
    let read = |text: &str| text.parse::<i32>().ok().filter(|fd| *fd >= 0);
    value(found, option, "the number of an open descriptor", read)
}

fn outbound<A: FromStr + Copy + Into<IpAddr>>(
    found: &ArgMatches,
    option: &'static str,
    takes: &'static str,
) -> Result<Option<Outbound<A>>, ConfError> {
    value(found, option, takes, |text| match text.parse::<A>() {
        Ok(address) => is_one_host(address.into()).then_some(Outbound::Address(address)),
        // What has colons was to be an address.
        Err(_) if text.contains(':') || text.parse::<IpAddr>().is_ok() => None,
        Err(_) => InterfaceName::new(text).map(Outbound::Interface),
    })
}

/// The argument of an option, which takes what `read` understands.
fn value<T>(
    found: &ArgMatches,
    option: &'static str,
    takes: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, ConfError> {
    let Some(text) = text(found, option)? else { return Ok(None) };
    read(text).map(Some).ok_or_else(|| wrong(option, text, takes))
}

fn text<'a>(found: &'a ArgMatches, option: &'static str) -> Result<Option<&'a str>, ConfError> {
    let Some(word) = found.get_one::<OsString>(option) else { return Ok(None) };
    let text = word.to_str();
    text.map(Some).ok_or_else(|| wrong(option, &word.to_string_lossy(), "UTF-8"))
}

fn wrong(option: &'static str, text: &str, takes: &'static str) -> ConfError {
    ConfError::Value { option, message: format!("Invalid --{option}: {text}"), takes }
}

fn usage(problem: String) -> ConfError {
    ConfError::Usage { program: NAME.to_owned(), problem }
}

/// What clap does not understand.
fn refusal(error: &clap::Error) -> ConfError {
    let option = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => {
            text.split([' ', '=']).next().unwrap_or_default().to_owned()
        }
        _ => String::new(),
    };
    usage(match error.kind() {
        ErrorKind::InvalidValue | ErrorKind::TooFewValues => {
            format!("option '{option}' requires an argument")
        }
        ErrorKind::TooManyValues => format!("option '{option}' doesn't allow an argument"),
        _ => format!("unrecognized option '{option}'"),
    })
}
