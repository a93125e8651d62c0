//! Options of ports that lead to the guest, and out of its namespace.

use super::definition::{Definition, flag, text};
use crate::flow::fwd::Proto;

const PORTS: &str = "ports; see --help";

/// The options.
pub(super) const OPTIONS: &[Definition] = &[
    text(
        Some('t'),
        "tcp-ports",
        "SPEC",
        |o, spec| {
            o.ports.push((Proto::Tcp, spec.to_owned()));
            Ok(())
        },
        PORTS,
        "TCP ports that lead to the guest; can be given several times; default: none",
    )
    .help_in_pasta(
        "TCP ports that lead into the namespace; can be given several times; default: auto",
    ),
    text(
        Some('u'),
        "udp-ports",
        "SPEC",
        |o, spec| {
            o.ports.push((Proto::Udp, spec.to_owned()));
            Ok(())
        },
        PORTS,
        "UDP ports that lead to the guest, likewise",
    )
    .help_in_pasta("UDP ports that lead into the namespace, likewise"),
    text(
        Some('T'),
        "tcp-ns",
        "SPEC",
        |o, spec| {
            o.pasta.ports.push((Proto::Tcp, spec.to_owned()));
            Ok(())
        },
        PORTS,
        "TCP ports of the namespace's loopback interface that lead to the host's; SPEC without \
         addresses; default: auto",
    )
    .pasta(),
    text(
        Some('U'),
        "udp-ns",
        "SPEC",
        |o, spec| {
            o.pasta.ports.push((Proto::Udp, spec.to_owned()));
            Ok(())
        },
        PORTS,
        "UDP ports of the namespace's loopback interface, likewise",
    )
    .pasta(),
    flag(
        None,
        "freebind",
        |o| o.freebind = true,
        "Listen on addresses that the host does not have (yet), too",
    ),
    flag(
        None,
        "host-lo-to-ns-lo",
        |o| o.pasta.keep_loopback = true,
        "Connections to the host's loopback address reach the namespace's, not its tap device",
    )
    .pasta(),
    flag(
        None,
        "no-splice",
        |o| o.pasta.no_splice = true,
        "No effect: only pasta has something to splice",
    )
    .help_in_pasta("Connections from the host's loopback interface take the tap device, too"),
    flag(
        None,
        "splice-only",
        |o| o.pasta.splice_only = true,
        "No tap device: forward between the loopback interfaces only",
    )
    .pasta(),
];
