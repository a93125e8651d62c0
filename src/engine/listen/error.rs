//! Why a port could not be opened, in words that say where, why, and what to do about it.

use passt_frame::Errno;

use crate::flow::fwd::Rule;
use crate::flow::side::Pif;
use crate::sys::errno_text;

/// Why not all ports could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A port of a rule that must listen on all of its ports.
    #[error(
        "Listen failed for {place}: {}\n\
         Failed to bind port {port}: {} (option {option})\n\
         Couldn't listen on requested ports",
        errno_text(*errno),
        cure(*errno)
    )]
    Port {
        /// Where.
        place: String,
        /// The option that asks for it.
        option: &'static str,
        /// The port.
        port: u16,
        /// What setsockopt(2), bind(2) or listen(2) said.
        errno: Errno,
        /// The rule, if it listens on the host.
        rule: Option<Box<Rule>>,
    },
    /// A rule of which no port could be opened.
    #[error(
        "All listens failed for {0}\nCouldn't listen on requested ports: choose other ones, or stop \
         the programs that have them"
    )]
    All(String),
    /// A rule of which no port could be opened, as all sockets that may listen are others'.
    #[error(
        "All listens failed for {0}: no descriptors are left for it\nCouldn't listen on requested ports: raise ulimit \
         -Hn, of which half is left to connections, or forward fewer ports"
    )]
    NoDescriptors(String),
}

/// What to do about a port that cannot be opened.
fn cure(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS => {
            "choose one from net.ipv4.ip_unprivileged_port_start on, or lower that sysctl"
        }
        Errno::ADDRINUSE => "choose another one, or stop the program that has it",
        Errno::ADDRNOTAVAIL => {
            "listen on an address that is there (`ip addr`), or give --freebind; a link-local one may \
             need its interface: ADDR%IF/PORT"
        }
        Errno::NODEV => "listen on an interface that is there (`ip link`), or name none",
        Errno::INVAL => "give the interface of the link-local address: ADDR%IF/PORT",
        Errno::PERM => "name no interface, or listen on an address that it has",
        Errno::AFNOSUPPORT => "listen on an address of the other family: the kernel lacks this one",
        Errno::MFILE | Errno::NFILE => "open fewer ports, or raise ulimit -Hn",
        _ => "choose another one",
    }
}

/// Where a port of a rule is listened on, for the operator: `HOST TCP port ADDR%IF/PORT`.
pub(super) fn place(pif: Pif, rule: &Rule, port: u16) -> String {
    format!("{pif} {} port {}/{port}", rule.proto, address(rule))
}

/// The same of all ports of a rule: `HOST TCP ADDR%IF/FIRST-LAST`.
pub(super) fn all_places(pif: Pif, rule: &Rule) -> String {
    format!("{pif} {} {}/{}-{}", rule.proto, address(rule), rule.first, rule.last)
}

/// `ADDR%IF` of a rule.
fn address(rule: &Rule) -> String {
    match rule.interface {
        Some(interface) => format!("{}%{interface}", rule.listen),
        None => rule.listen.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::fwd::{InterfaceName, ListenAddr, Proto};

    fn rule(listen: ListenAddr, interface: Option<&str>) -> Rule {
        Rule {
            listen,
            interface: interface.and_then(InterfaceName::new),
            ..Rule::plain(Proto::Tcp, (22, 24), 22)
        }
    }

    #[test]
    fn errors_name_the_place_the_reason_and_the_cure() {
        let (any, one) = (ListenAddr::Dual, ListenAddr::V6("fe80::1".parse().unwrap()));
        for (pif, rule, errno, place_text, reason, cure_text) in [
            (
                Pif::Host,
                rule(any, None),
                Errno::ADDRINUSE,
                "HOST TCP port */22",
                "Address already in use",
                "stop the program",
            ),
            (
                Pif::Host,
                rule(any, Some("x")),
                Errno::NODEV,
                "HOST TCP port *%x/22",
                "No such device",
                "interface that is there",
            ),
            (
                Pif::Splice,
                rule(any, Some("lo")),
                Errno::ACCESS,
                "SPLICE TCP port *%lo/22",
                "Permission denied",
                "ip_unprivileged_port_start",
            ),
            (
                Pif::Host,
                rule(one, None),
                Errno::INVAL,
                "HOST TCP port fe80::1/22",
                "Invalid argument",
                "ADDR%IF/PORT",
            ),
        ] {
            let (place, option) = (place(pif, &rule, 22), rule.proto.option(pif == Pif::Splice));
            let text = ListenError::Port { place, option, port: 22, errno, rule: None }.to_string();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines[0], format!("Listen failed for {place_text}: {reason}"));
            assert!(
                lines[1].starts_with("Failed to bind port 22: ") && lines[1].contains(cure_text)
            );
            let letter = if pif == Pif::Splice { "-T" } else { "-t" };
            assert!(lines[1].ends_with(&format!(" (option {letter})")), "{text}");
            assert_eq!(lines[2..], ["Couldn't listen on requested ports"]);
        }
        let all = ListenError::All(all_places(Pif::Host, &rule(any, None))).to_string();
        assert!(all.starts_with("All listens failed for HOST TCP */22-24\n"), "{all}");
    }
}
