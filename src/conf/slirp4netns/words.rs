//! The same in the words of pasta.

use std::ffi::OsString;
use std::fmt::Display;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::request::{Outbound, Request, Target};

/// The IPv6 network of slirp4netns, which has no option: what it is, this host, the name server, the namespace.
const NETWORK_V6: &str = "fd00::/64";
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const NAME_SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);

/// A command line of pasta.
#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn value(&mut self, option: &str, value: &dyn Display) {
        self.0.push(option.into());
        self.0.push(value.to_string().into());
    }

    fn path(&mut self, option: &str, path: &std::path::Path) {
        self.0.push(option.into());
        self.0.push(path.into());
    }
}

/// What pasta is to be told, its name first.
pub(super) fn of_pasta(request: &Request) -> Vec<OsString> {
    let mut line = Line::default();
    line.flag("pasta");
    line.flag("--foreground");
    line.value("--ns-ifname", &request.interface);
    line.value("--mtu", &request.mtu);
    if request.configure {
        line.flag("--config-net");
    }
    if let Some(mac) = request.mac {
        line.value("--ns-mac-addr", &mac);
    }
    // Ports are forwarded by the socket, and by nothing else.
    for option in ["--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"] {
        line.value(option, &"none");
    }
    addresses(&mut line, request);
    reach(&mut line, request);
    outbound(&mut line, request);
    target(&mut line, request);
    line.0
}

/// Who is who inside.
fn addresses(line: &mut Line, request: &Request) {
    let Request { network, ipv6, no_dns, no_host, .. } = request;
    line.value("--address", &network.guest());
    line.value("--netmask", &network.prefix_len);
    line.value("--gateway", &network.gateway());
    if *ipv6 {
        line.value("--address", &GUEST_V6);
        line.value("--gateway", &GATEWAY_V6);
    } else {
        line.flag("--ipv4-only");
    }
    if *no_host {
        line.flag("--no-map-gw");
    }
    if *no_dns {
        line.value("--dns", &"none");
        return;
    }
    line.flag("--dhcp-dns");
    line.value("--dns", &network.name_server());
    line.value("--dns-forward", &network.name_server());
    if *ipv6 {
        line.value("--dns", &NAME_SERVER_V6);
        line.value("--dns-forward", &NAME_SERVER_V6);
    }
}

/// The networks inside lead nowhere else, whoever has such addresses outside.
fn reach(line: &mut Line, request: &Request) {
    let Request { network, ipv6, no_dns, no_host, .. } = request;
    let mut rule = |rule: &str| line.value("--egress", &rule);
    if !no_dns {
        rule("allow @dns");
    }
    if !no_host {
        rule("allow @loopback");
    }
    rule(&format!("reject {network}"));
    if *ipv6 {
        rule(&format!("reject {NETWORK_V6}"));
    }
    rule("allow any");
}

fn outbound(line: &mut Line, request: &Request) {
    match &request.outbound_v4 {
        Some(Outbound::Address(address)) => line.value("--outbound", address),
        Some(Outbound::Interface(name)) => line.value("--outbound-if4", name),
        None => {}
    }
    match &request.outbound_v6 {
        Some(Outbound::Address(address)) => line.value("--outbound", address),
        Some(Outbound::Interface(name)) => line.value("--outbound-if6", name),
        None => {}
    }
}

/// Whose namespace. The host's root stays root: it need not enter the user namespace. Who holds `--exit-fd` says when
/// it is over; otherwise the end of the process, or of the path, does.
fn target(line: &mut Line, request: &Request) {
    if request.exit.is_some() {
        line.flag("--no-netns-quit");
    }
    let (network, user) = match &request.target {
        Target::Process(pid) => {
            let namespace = |kind| PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
            let user = request.user.clone().unwrap_or_else(|| namespace("user"));
            (namespace("net"), Some(user))
        }
        Target::Path(path) => (path.clone(), request.user.clone()),
    };
    if is_root_of_host() {
        line.flag("--netns-only");
    } else if let Some(user) = user {
        line.path("--userns", &user);
    }
    line.path("--netns", &network);
}

/// Whether we are root of the user namespace that has all the others in it.
fn is_root_of_host() -> bool {
    rustix::process::geteuid().is_root() && crate::sys::namespace::is_initial_user()
}
