//! What is printed at start. People read it, and programs: a known one looks for `assign:` and
//! `router:` after `DHCP:`, and test suites for the lines of rules. Its form is therefore fixed.

use std::fmt::{Display, Write};
use std::net::Ipv6Addr;
use std::path::Path;

use super::{Conf, Device, Mode};
use crate::flow::fwd::RuleTable;
use crate::flow::network::{Ipv4Net, Ipv4Route, Ipv6Net};

/// The lines to print at start, each with its newline; `bound` is the path of the socket that was
/// bound, `None` with `--fd`.
pub(crate) fn banner(conf: &Conf, bound: Option<&Path>) -> String {
    let mut text = String::new();
    if let Some(path) = bound {
        line(&mut text, format_args!("UNIX domain socket bound at {}", path.display()));
    }
    if let Some(path) = &conf.run.conf_path {
        line(&mut text, format_args!("UNIX domain socket bound at {}", path.display()));
        line(&mut text, format_args!("Configuration socket: {}", path.display()));
    }
    let tap = conf.pasta.as_ref().is_none_or(|pasta| !pasta.bypass.only);
    if tap {
        interfaces(&mut text, "Template interface", conf.template_v4, conf.template_v6);
    }
    interfaces(&mut text, "Outbound interface", conf.outbound_v4, conf.outbound_v6);
    if let Some(address) = conf.mapping.v4.outbound {
        line(&mut text, format_args!("Outbound IPv4 address: {address}"));
    }
    if let Some(address) = conf.mapping.v6.outbound {
        line(&mut text, format_args!("Outbound IPv6 address: {address}"));
    }
    if tap {
        link(&mut text, conf);
    }
    rules(&mut text, "Inbound forwarding rules (HOST):", &conf.rules);
    if let Some(pasta) = &conf.pasta {
        rules(&mut text, "Outbound forwarding rules (SPLICE):", &pasta.outbound);
    }
    text
}

/// The lines that say how to start a front-end for the socket at `bound`, for when it can be connected to.
pub(crate) fn hint(mode: Mode, bound: Option<&Path>) -> String {
    let mut text = String::new();
    if let Some(path) = bound {
        front_end(&mut text, mode, path);
    }
    text
}

/// What the guest finds on its link.
fn link(text: &mut String, conf: &Conf) {
    if let Some(pasta) = &conf.pasta {
        line(text, format_args!("Namespace interface: {}", pasta.interface));
    }
    line(text, "MAC:");
    entry(text, format_args!("host: {}", conf.network.our_mac));
    if let Some(v4) = &conf.network.v4 {
        ipv4(text, conf, v4);
    }
    if let Some(v6) = &conf.network.v6 {
        ipv6(text, conf, v6);
    }
}

fn line(text: &mut String, words: impl Display) {
    let _infallible = writeln!(text, "{words}");
}

fn entry(text: &mut String, words: impl Display) {
    line(text, format_args!("    {words}"));
}

fn list<T: Display>(text: &mut String, title: &str, entries: &[T]) {
    if !entries.is_empty() {
        line(text, title);
        entries.iter().for_each(|one| entry(text, one));
    }
}

/// The title stands there even if there are no rules.
fn rules(text: &mut String, title: &str, table: &RuleTable) {
    line(text, title);
    table.rules().iter().for_each(|rule| entry(text, rule));
}

fn interfaces(text: &mut String, title: &str, v4: Option<Device>, v6: Option<Device>) {
    let of =
        |device: Option<Device>, family| device.map(|device| format!("{} ({family})", device.name));
    let both: Vec<_> = of(v4, "IPv4").into_iter().chain(of(v6, "IPv6")).collect();
    if !both.is_empty() {
        line(text, format_args!("{title}: {}", both.join(", ")));
    }
}

fn ipv4(text: &mut String, conf: &Conf, v4: &Ipv4Net) {
    if let Some(address) = conf.mapping.v4.host_loopback {
        entry(text, format_args!("NAT to host 127.0.0.1: {address}"));
    }
    if let (true, Some(gateway)) = (conf.network.services.dhcp, v4.gateway) {
        line(text, "DHCP:");
        entry(text, format_args!("assign: {}", v4.addr));
        entry(text, format_args!("mask: {}", netmask(v4.prefix_len)));
        match &v4.routes {
            None => entry(text, format_args!("router: {gateway}")),
            Some(routes) => routes.iter().for_each(|route| {
                let Ipv4Route { destination, prefix_len, gateway } = route;
                entry(text, format_args!("route: {destination}/{prefix_len} via {gateway}"));
            }),
        }
    }
    names(text, conf, &v4.dns);
}

fn ipv6(text: &mut String, conf: &Conf, v6: &Ipv6Net) {
    if let Some(address) = conf.mapping.v6.host_loopback {
        entry(text, format_args!("NAT to host ::1: {address}"));
    }
    let services = &conf.network.services;
    let title = match (services.ndp, services.dhcpv6) {
        (true, true) => Some("NDP/DHCPv6:"),
        (true, false) => Some("NDP:"),
        (false, true) => Some("DHCPv6:"),
        (false, false) => None,
    };
    if let Some(title) = title {
        line(text, title);
        entry(text, format_args!("assign: {}", v6.addr.unwrap_or(Ipv6Addr::UNSPECIFIED)));
        if let Some(gateway) = v6.gateway {
            entry(text, format_args!("router: {gateway}"));
        }
        entry(text, format_args!("our link-local: {}", v6.our_link_local));
    }
    names(text, conf, &v6.dns);
}

/// What is known of names, whether it is handed out or only used to forward queries.
fn names<T: Display>(text: &mut String, conf: &Conf, servers: &[T]) {
    list(text, "DNS:", servers);
    list(text, "DNS search list:", &conf.network.search);
}

fn netmask(prefix_len: u8) -> std::net::Ipv4Addr {
    u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0).into()
}

fn front_end(text: &mut String, mode: Mode, path: &Path) {
    let path = path.display();
    match mode {
        Mode::Stream => {
            line(text, "");
            line(text, "You can now start qemu (>= 7.2, with commit 13c6be96618c):");
            entry(
                text,
                format_args!(
                    "kvm ... -device virtio-net-pci,netdev=s \
                     -netdev stream,id=s,server=off,addr.type=unix,addr.path={path}"
                ),
            );
        }
        Mode::Pasta => {}
        Mode::VhostUser => {
            line(text, "You can start qemu with:");
            entry(
                text,
                format_args!(
                    "kvm ... -chardev socket,id=chr0,path={path} \
                     -netdev vhost-user,id=netdev0,chardev=chr0 \
                     -device virtio-net-pci,netdev=netdev0 \
                     -object memory-backend-memfd,id=memfd0,share=on,size=$RAMSIZE \
                     -numa node,memdev=memfd0"
                ),
            );
        }
    }
}
