//! Options that have no effect where another one is given. Command lines of other programs go on to work, so these
//! are warnings. Pure.

use std::net::IpAddr;

use super::{Mode, Note, Only, Options};
use crate::flow::network::Network;

/// What is to be said of options that change nothing.
pub(super) fn warnings(options: &Options) -> Vec<Note> {
    if options.pasta.splice_only {
        return Vec::new();
    }
    let mut idle = of_the_other_family(options);
    idle.extend(of_services(options));
    let idle = idle.into_iter().map(|(option, other)| {
        Note::warn(format!("{option} has no effect with {other}: leave one of them out"))
    });
    idle.chain(of_no_address(options)).chain(shared_files(options)).collect()
}

/// A mask that is that of no address.
fn of_no_address(options: &Options) -> Option<Note> {
    const NO_ADDRESS: &str =
        "--netmask has no effect without --address: give an IPv4 address, too, or leave it out";
    let alone = options.netmask.is_some() && options.address_v4.is_none();
    alone.then(|| Note::warn(NO_ADDRESS))
}

/// What is for a family that is off: the option, and the one that is in its way.
fn of_the_other_family(options: &Options) -> Vec<(String, &'static str)> {
    let extra = &options.extra;
    let text = |option: &str, address: &dyn std::fmt::Display| format!("{option} {address}");
    let mut found = Vec::new();
    match options.interfaces.only {
        None => return Vec::new(),
        Some(Only::V4) => {
            found.extend(options.address_v6.iter().map(|address| text("--address", address)));
            found.extend(options.gateway_v6.iter().map(|address| text("--gateway", address)));
            found.extend(options.dns_v6.iter().map(|address| text("--dns", address)));
            found.extend((!extra.dhcpv6.is_empty()).then(|| "--dhcpv6-option".to_owned()));
            found.extend((!extra.ra.is_empty()).then(|| "--ra-option".to_owned()));
        }
        Some(Only::V6) => {
            found.extend(options.address_v4.iter().map(|(address, _)| text("--address", address)));
            found.extend(options.gateway_v4.iter().map(|address| text("--gateway", address)));
            found.extend(options.dns_v4.iter().map(|address| text("--dns", address)));
            found.extend(extra.boot.as_ref().map(|_| "--dhcp-boot".to_owned()));
            found.extend((!extra.dhcp.is_empty()).then(|| "--dhcp-option".to_owned()));
        }
    }
    let only =
        if options.interfaces.only == Some(Only::V4) { "--ipv4-only" } else { "--ipv6-only" };
    found.into_iter().map(|option| (option, only)).collect()
}

/// What is for a service that is off.
fn of_services(options: &Options) -> impl Iterator<Item = (String, &'static str)> {
    let (services, extra) = (&options.services, &options.extra);
    let configured = options.mode == Mode::Pasta && options.pasta.configure;
    let without_ra = match (services.ra, services.ndp) {
        (false, _) => Some("--no-ra"),
        (_, false) => Some("--no-ndp"),
        _ => configured.then_some("--config-net"),
    };
    let off = |on: bool, option| (!on).then_some(option);
    let pairs = [
        (extra.boot.is_some(), "--dhcp-boot", off(services.dhcp, "--no-dhcp")),
        (!extra.dhcp.is_empty(), "--dhcp-option", off(services.dhcp, "--no-dhcp")),
        (!extra.dhcpv6.is_empty(), "--dhcpv6-option", off(services.dhcpv6, "--no-dhcpv6")),
        (!extra.ra.is_empty(), "--ra-option", without_ra),
        (
            !options.mapping.group_ports.is_empty(),
            "--multicast-ports",
            off(services.multicast, "--no-multicast"),
        ),
    ];
    pairs
        .into_iter()
        .filter(|(given, ..)| *given)
        .filter_map(|(_, option, other)| other.map(|other| (option.to_owned(), other)))
}

/// Files that are written for two purposes: the one that is opened last takes what the other one has.
fn shared_files(options: &Options) -> Vec<Note> {
    let run = &options.run;
    let files = [("--pid", &run.pid), ("--log-file", &run.log_file), ("--pcap", &run.pcap)];
    let mut notes = Vec::new();
    for (at, (option, path)) in files.iter().enumerate() {
        for (other, same) in files.iter().skip(at + 1).filter(|(_, same)| same == path) {
            if let Some(path) = same {
                let path = path.display();
                notes.push(Note::warn(format!(
                    "{option} and {other} name one file, {path}: give each one of its own"
                )));
            }
        }
    }
    notes
}

/// What is to be said of a model that no guest can be like: one with an address that is everybody's own, which is handed
/// out to nobody.
pub(super) fn of_model(options: &Options, network: &Network) -> Option<Note> {
    let wish = &options.interfaces;
    let v4 = network.v4.as_ref().map(|v4| IpAddr::V4(v4.addr));
    let v6 = network.v6.as_ref().and_then(|v6| v6.addr).map(IpAddr::V6);
    let models = [("outbound-if4", wish.outbound_v4, v4), ("outbound-if6", wish.outbound_v6, v6)];
    let mut useless = models.into_iter().filter_map(|(option, outbound, addr)| {
        let addr = addr.filter(IpAddr::is_loopback)?;
        let outbound = outbound.map(|name| (option, name));
        let (option, name) = wish.template.map(|name| ("interface", name)).or(outbound)?;
        Some((option, name, addr))
    });
    let (option, name, addr) = useless.next()?;
    Some(Note::warn(format!(
        "--{option} {name}: its address {addr} is of no use to a guest: name an interface that leads to other \
         hosts, or give --address"
    )))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::host::{HostFacts, Template};
    use super::super::{Command, Conf, parse, resolve};
    use crate::flow::fwd::InterfaceName;

    /// What is warned of when `line` is read on a host that has an address on its loopback interface, and no other.
    fn warned(line: &str) -> Vec<String> {
        let notes = read(line).notes;
        let warnings = notes.into_iter().filter(|note| note.level == log::Level::Warn);
        warnings.map(|note| note.text).collect()
    }

    /// What `line` means on that host.
    fn read(line: &str) -> Conf {
        let lo = InterfaceName::new("lo").unwrap();
        let facts = HostFacts {
            v4: Some(Template {
                name: lo,
                index: 1,
                address: Some((Ipv4Addr::LOCALHOST, 8)),
                link_local: None,
                default_route: false,
                gateway: None,
            }),
            links: vec![(lo, 1)],
            ..HostFacts::default()
        };
        let Ok(Command::Run(options)) = parse(line.split(' ').map(Into::into)) else {
            panic!("{line}: no start")
        };
        let resolv = "nameserver 192.0.2.53\nnameserver 2001:db8::53";
        resolve(*options, &facts, resolv, (32768, 60999)).unwrap()
    }

    #[test]
    fn what_has_no_effect_is_told() {
        for (line, option, other) in [
            ("passt -4 -a 2001:db8::5", "--address 2001:db8::5", "--ipv4-only"),
            ("passt -4 -g 2001:db8::1", "--gateway 2001:db8::1", "--ipv4-only"),
            ("passt -4 -D 2001:db8::53", "--dns 2001:db8::53", "--ipv4-only"),
            ("passt -4 --dhcpv6-option 23=2001:db8::53", "--dhcpv6-option", "--ipv4-only"),
            ("passt -4 --ra-option 5=1500", "--ra-option", "--ipv4-only"),
            ("passt -6 -a 192.0.2.5", "--address 192.0.2.5", "--ipv6-only"),
            ("passt -6 -g 192.0.2.1", "--gateway 192.0.2.1", "--ipv6-only"),
            ("passt -6 -D 192.0.2.53", "--dns 192.0.2.53", "--ipv6-only"),
            ("passt -6 --dhcp-option 42=192.0.2.9", "--dhcp-option", "--ipv6-only"),
            ("passt -6 --dhcp-boot x", "--dhcp-boot", "--ipv6-only"),
            ("passt --no-dhcp --dhcp-boot x", "--dhcp-boot", "--no-dhcp"),
            ("passt --no-dhcp --dhcp-option 42=192.0.2.9", "--dhcp-option", "--no-dhcp"),
            ("passt --no-dhcpv6 --dhcpv6-option 23=2001:db8::53", "--dhcpv6-option", "--no-dhcpv6"),
            ("passt --no-ra --ra-option 5=1500", "--ra-option", "--no-ra"),
            ("passt --no-ndp --ra-option 5=1500", "--ra-option", "--no-ndp"),
            ("pasta --config-net --ra-option 5=1500 true", "--ra-option", "--config-net"),
            ("passt --no-multicast --multicast-ports 99", "--multicast-ports", "--no-multicast"),
        ] {
            let said = format!("{option} has no effect with {other}: leave one of them out");
            assert_eq!(warned(line), [said], "{line}");
        }
    }

    #[test]
    fn what_has_an_effect_is_not_told_of() {
        for line in [
            "passt -a 2001:db8::5 -g 2001:db8::1 -D 192.0.2.53 --dhcp-boot x --multicast-ports 99",
            "passt -4 -a 192.0.2.5 -g 192.0.2.1 -D 192.0.2.53 --no-dhcpv6 --no-ra --no-multicast",
            "passt -6 -a 2001:db8::5 --no-dhcp",
            "passt -P /p -l /l -p /c",
            // As Podman starts pasta for a container with one family.
            "pasta -4 --config-net --dns-forward 169.254.1.1 --map-guest-addr 169.254.1.2 true",
            "pasta -6 --config-net --dns-forward 169.254.1.1 --map-guest-addr 169.254.1.2 true",
            "pasta --splice-only -4 -a 2001:db8::5 true",
        ] {
            assert_eq!(warned(line), [""; 0], "{line}");
        }
    }

    #[test]
    fn one_file_for_two_purposes_is_told() {
        let said = |two: &str| format!("{two} name one file, /f: give each one of its own");
        assert_eq!(warned("passt -P /f -l /f"), [said("--pid and --log-file")]);
        assert_eq!(warned("passt -P /f -p /f"), [said("--pid and --pcap")]);
        assert_eq!(warned("passt -l /f -p /f"), [said("--log-file and --pcap")]);
        assert_eq!(warned("passt -P /f -l /f -p /f").len(), 3);
    }

    #[test]
    fn a_mask_is_that_of_an_address() {
        let said =
            "--netmask has no effect without --address: give an IPv4 address, too, or leave it out";
        assert_eq!(warned("passt -n 24"), [said]);
        assert_eq!(warned("passt -a 2001:db8::5 -n 24"), [said]);
        assert_eq!(warned("passt -n 24 -a 192.0.2.5"), [""; 0]);
    }

    #[test]
    fn a_loopback_interface_is_no_model() {
        for option in ["--interface", "--outbound-if4"] {
            let found = warned(&format!("passt {option} lo"));
            let said = format!("{option} lo: its address 127.0.0.1 is of no use");
            assert!(found[0].starts_with(&said), "{found:?}");
            let handed_out =
                |more| read(&format!("passt {option} lo {more}")).network.services.dhcp;
            assert!(!handed_out("-q") && handed_out("-a 192.0.2.5"));
            assert_eq!(warned(&format!("passt {option} lo -a 192.0.2.5")), [""; 0]);
        }
    }
}
