//! The host as the program will find it: its user, its networks and its limits, and with [`isolation`] what the kernel
//! lets it do.

use std::net::{Ipv4Addr, SocketAddrV4};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, ipproto, socket};
use rustix::process::{Resource, geteuid, getrlimit};

use super::finding::Finding;
use super::isolation::{self, setting};
use super::name_servers;
use crate::conf::host::{self, Template};
use crate::conf::{Interfaces, Mode, Question};
use crate::limits::{BYPASS_DESCRIPTORS, MAX_FLOWS, flow_sockets, kept_back};
use crate::sandbox::identity;
use crate::sys::stream;

/// Descriptors with which hardly anybody notices a limit.
const PLENTY_OF_DESCRIPTORS: u64 = 1 << 14;

/// Everything about this host that concerns the program in question. From here on this process is the user that the
/// program would be: root may do more.
pub(super) fn findings(question: &Question) -> Vec<Finding> {
    let mode = question.mode;
    // A start, too, reads resolv.conf before it changes its user; and with --netns-only root stays what it is.
    let network = network(mode);
    let as_root = question.run_as.is_none().then(|| low_ports(question));
    let mut findings = Vec::from_iter(user(question));
    findings.extend(isolation::findings(question));
    if mode == Mode::Pasta {
        findings.extend(isolation::of_a_namespace(question));
    }
    findings.extend(network);
    findings.extend([echo(), as_root.unwrap_or_else(|| low_ports(question)), descriptors(mode)]);
    findings.extend(kernel());
    findings.extend(policy());
    findings
}

/// Becomes the user that a start would become, and says which, or why it cannot.
fn user(question: &Question) -> Option<Finding> {
    const TOPIC: &str = "user";
    let before = geteuid();
    match identity::settle_user(question.run_as.as_deref(), question.keep_root) {
        Ok(()) if geteuid() == before => None,
        Ok(()) => {
            let now = geteuid().as_raw();
            Some(Finding::fine(TOPIC, format!("root becomes user {now}, as whom this was tried")))
        }
        Err(error) => {
            let error = error.to_string();
            let (text, cure) = error.rsplit_once(": ").unwrap_or((&error, ""));
            Some(Finding::lacks(TOPIC, text, cure))
        }
    }
}

/// Which interface is the model of the guest's, for each family, and what of the host's name servers the guest is told.
fn network(mode: Mode) -> Vec<Finding> {
    const TOPIC: &str = "host network";
    let facts = match host::facts(&Interfaces::default()) {
        Ok(facts) => facts,
        Err(error) => {
            return vec![Finding::lacks(TOPIC, error.to_string(), "allow netlink sockets")];
        }
    };
    let v4 = described("IPv4", facts.v4.as_ref());
    let v6 = if facts.no_ipv6 {
        let cure = "start the kernel without ipv6.disable=1, or use one with CONFIG_IPV6";
        Finding::limits("IPv6", "the kernel has none: IPv4 only", cure)
    } else {
        described("IPv6", facts.v6.as_ref())
    };
    let mut findings = vec![v4, v6];
    findings.extend(name_servers::findings(mode, &facts));
    findings
}

fn described<A: std::fmt::Display>(
    family: &'static str,
    template: Option<&Template<A>>,
) -> Finding {
    let cure =
        format!("give the host an {family} address and a default route, or name an --interface");
    match template {
        Some(Template { name, address: Some((address, len)), default_route: true, .. }) => {
            Finding::fine(family, format!("like {name}, {address}/{len}"))
        }
        Some(Template { name, address: Some((address, len)), .. }) => {
            let text = format!("like {name}, {address}/{len}, which has no default route");
            Finding::limits(family, text, cure)
        }
        _ => Finding::limits(family, "no interface to be like: link-local addresses only", cure),
    }
}

fn echo() -> Finding {
    const TOPIC: &str = "ping";
    match socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP)) {
        Ok(_) => Finding::fine(TOPIC, "echo requests are passed on"),
        Err(_) => Finding::limits(
            TOPIC,
            "only this host answers echo requests",
            "sysctl -w net.ipv4.ping_group_range='0 2147483647'",
        ),
    }
}

fn low_ports(question: &Question) -> Finding {
    const TOPIC: &str = "low ports";
    let first: u16 = setting("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .and_then(|text| text.parse().ok())
        .unwrap_or(1024);
    let sysctl = "sysctl -w net.ipv4.ip_unprivileged_port_start=PORT";
    // The program is in a user namespace of its own when it listens, also where root starts it, unless it is to stay.
    match first {
        0 => Finding::fine(TOPIC, "all ports of the host can be forwarded"),
        _ if question.keep_root && may_bind(first - 1) => {
            Finding::fine(TOPIC, "all ports of the host can be forwarded, with --netns-only")
        }
        _ if question.mode == Mode::Pasta && !question.keep_root && may_bind(first - 1) => {
            let text = format!("ports of the host below {first} are forwarded with --netns-only");
            Finding::limits(TOPIC, text, format!("add --netns-only, or {sysctl}"))
        }
        _ => {
            let text = format!("ports of the host below {first} cannot be forwarded");
            Finding::limits(TOPIC, text, sysctl)
        }
    }
}

/// Whether a port of the host may be bound to by who asks, be it free or not.
fn may_bind(port: u16) -> bool {
    let bound = socket(AddressFamily::INET, SocketType::STREAM, None)
        .and_then(|socket| bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)));
    bound != Err(Errno::ACCESS)
}

/// How many descriptors there are for connections and what listens: others are kept back.
fn descriptors(mode: Mode) -> Finding {
    const TOPIC: &str = "descriptors";
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let sockets = flow_sockets(limit);
    let beside = if mode == Mode::Pasta { kept_back(sockets, BYPASS_DESCRIPTORS) } else { 0 };
    let most = (sockets - beside).min(MAX_FLOWS);
    let text = format!("some {most} connections and ports at a time");
    if limit >= PLENTY_OF_DESCRIPTORS {
        Finding::fine(TOPIC, text)
    } else {
        let cure = "raise the hard limit: LimitNOFILE= of the service, nofile in limits.conf";
        Finding::limits(TOPIC, text, cure)
    }
}

/// What newer kernels have, and what happens without it.
fn kernel() -> Vec<Finding> {
    const TOPIC: &str = "kernel";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let facts = host::kernel_facts();
    let mut findings = Vec::new();
    if !(stream::has_peek_offset(true) && (facts.no_ipv6 || stream::has_peek_offset(false))) {
        findings.push(Finding::limits(
            TOPIC,
            format!(
                "{release} has no peek offset for TCP: slow downloads cost more processor time"
            ),
            "Linux 6.9 or newer",
        ));
    }
    if facts.no_device_binding {
        findings.push(Finding::limits(
            TOPIC,
            format!(
                "{release} binds no sockets to interfaces for everybody: ports of %INTERFACE fail"
            ),
            "Linux 5.7 or newer",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::fine(TOPIC, format!("{release} has everything that is used")));
    }
    findings
}

/// The profile or context that confines this process, if a security module does.
fn policy() -> Option<Finding> {
    const TOPIC: &str = "security module";
    let modules = setting("/sys/kernel/security/lsm");
    let label = setting("/proc/self/attr/apparmor/current")
        .or_else(|| setting("/proc/self/attr/current"))?;
    let label = label.trim_end_matches('\0');
    let modules = modules.map_or_else(String::new, |modules| format!(" ({modules})"));
    Some(Finding::fine(TOPIC, format!("runs as {label}{modules}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::fwd::InterfaceName;

    #[test]
    fn a_family_without_a_default_route_is_limited() {
        let template = |default_route, address| Template {
            name: InterfaceName::new("eth0").unwrap(),
            index: 2,
            address,
            link_local: None,
            default_route,
            gateway: None,
        };
        let address = Some(("192.0.2.2", 24));
        let text = |template: Option<&Template<&'static str>>| described("IPv4", template).text;
        assert_eq!(text(Some(&template(true, address))), "like eth0, 192.0.2.2/24");
        assert!(text(Some(&template(false, address))).ends_with("no default route"));
        assert!(text(Some(&template(true, None))).starts_with("no interface"));
        assert!(text(None).starts_with("no interface"));
    }
}
