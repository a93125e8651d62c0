//! Starts in each mode, traced: nothing is asked for that Debian's AppArmor profiles do not grant to the
//! program that has these paths.

use crate::row::Before::{self, Child, Descriptor, Root, Script, Traced, Unheard};
use crate::row::Caller::{Engine, Root as AsRoot};
use crate::row::Clause::*;
use crate::row::{Clause, Row};

/// The trace is complete when nothing runs any more.
const SOCKET: &[Clause] = &[
    Returns(0),
    PidFile("/tmp/passt.pid"),
    Served("/tmp/passt.sock"),
    Term,
    NothingRuns,
    Granted("passt"),
];
const FOREGROUND: &[Clause] = &[
    PidFileSoon("/tmp/passt.pid"),
    Served("/tmp/passt.sock"),
    Term,
    NothingRuns,
    Granted("passt"),
];
const COMMAND: &[Clause] = &[Returns(0), NothingRuns, Granted("pasta")];
const JOINED: &[Clause] =
    &[Returns(0), PidFile("/tmp/pasta.pid"), Term, NothingRuns, Granted("pasta")];

const ALONE: &[Before] = &[Unheard, Traced];
/// A namespace with a file, made by the engine.
const NETNS: &str = "mkdir -p /tmp/netns; : >/tmp/netns/n; unshare --net=/tmp/netns/n true";
const LIBVIRT: &str = "mkdir -p /run/libvirt/qemu/passt; chmod 777 /run/libvirt/qemu/passt";
/// What a script leaves behind that has reserved the name; it gives way.
const RESERVED: &str = ": >/tmp/passt.sock";

/// A row of this table. Other releases of the packaged passt ask for what their own profiles grant.
const fn row(id: &'static str, line: &'static str, clauses: &'static [Clause]) -> Row {
    Row::new(id, line, clauses).ours().after(ALONE)
}

/// The table.
pub const ROWS: &[Row] = &[
    row("confined-passt", "passt -s /tmp/passt.sock -P /tmp/passt.pid", SOCKET),
    row(
        "confined-passt-files",
        "passt -s /tmp/passt.sock -P /tmp/passt.pid -l /tmp/passt.log -p /tmp/passt.pcap -t 8080 -u 5353",
        SOCKET,
    ),
    row(
        "confined-passt-configured",
        "passt -s /tmp/passt.sock -P /tmp/passt.pid -c /tmp/passt.conf -t 8080",
        &[
            Returns(0),
            PidFile("/tmp/passt.pid"),
            Does("pesto -t 8081,8082 -u 5353 /tmp/passt.conf", ""),
            Tcp("192.0.2.2:8082"),
            TcpRefused("192.0.2.2:8080"),
            Served("/tmp/passt.sock"),
            Term,
            NothingRuns,
            Granted("passt"),
        ],
    ),
    row("confined-passt-foreground", "passt -f -s /tmp/passt.sock -P /tmp/passt.pid", FOREGROUND),
    row("confined-passt-reserved", "passt -f -s /tmp/passt.sock -P /tmp/passt.pid", FOREGROUND)
        .after(&[Unheard, Traced, Script(RESERVED)]),
    row(
        "confined-passt-default-path",
        "passt -P /tmp/passt.pid",
        &[
            Returns(0),
            PidFile("/tmp/passt.pid"),
            Served("/tmp/passt_1.socket"),
            Term,
            NothingRuns,
            Granted("passt"),
        ],
    ),
    row("confined-passt-root", "passt -s /tmp/passt.sock -P /tmp/passt.pid", SOCKET).by(AsRoot),
    row(
        "confined-passt-root-foreground",
        "passt -f -s /tmp/passt.sock -P /tmp/passt.pid",
        FOREGROUND,
    )
    .by(AsRoot),
    row("confined-vhost-user", "passt --vhost-user -s /tmp/passt.sock -P /tmp/passt.pid", SOCKET),
    row(
        "confined-vhost-user-foreground",
        "passt --vhost-user -f -s /tmp/passt.sock -P /tmp/passt.pid",
        FOREGROUND,
    ),
    row(
        "confined-vhost-user-root",
        "passt --vhost-user -s /tmp/passt.sock -P /tmp/passt.pid",
        SOCKET,
    )
    .by(AsRoot),
    row(
        "confined-qemu",
        "passt -q -P /tmp/passt.pid --fd 3",
        &[
            Returns(0),
            PidFile("/tmp/passt.pid"),
            StreamPair,
            EndsWithPair,
            NothingRuns,
            Granted("passt"),
        ],
    )
    .after(&[Unheard, Traced, Descriptor(3)]),
    row(
        "confined-libvirt",
        "passt --one-off -s /run/libvirt/qemu/passt/1.socket -P /run/libvirt/qemu/passt/1.pid",
        &[
            Returns(0),
            PidFile("/run/libvirt/qemu/passt/1.pid"),
            EndsWithClient("/run/libvirt/qemu/passt/1.socket"),
            NothingRuns,
            GrantedFrom("passt", "trixie"),
        ],
    )
    .after(&[Unheard, Traced, Root(LIBVIRT)]),
    row("confined-command", "pasta -- true", COMMAND),
    row("confined-command-configured", "pasta --config-net -- true", COMMAND),
    row(
        "confined-command-files",
        "pasta --config-net -P /tmp/pasta.pid -l /tmp/pasta.log -p /tmp/pasta.pcap -t auto -u auto -- true",
        COMMAND,
    ),
    row("confined-command-foreground", "pasta -f --config-net -- true", COMMAND),
    row("confined-command-alone", "pasta --splice-only -- true", COMMAND),
    row("confined-command-root", "pasta --config-net -- true", COMMAND).by(AsRoot),
    // With process ids of its own its mounts would reach the host's; what happens where the usual way to
    // change that is refused is in tests/policies.rs.
    row(
        "confined-command-stays-root",
        "pasta --config-net --netns-only --no-pidns -- true",
        COMMAND,
    )
    .by(AsRoot),
    row("confined-child", "pasta --config-net -P /tmp/pasta.pid {child}", JOINED)
        .after(&[Unheard, Traced, Child]),
    row(
        "confined-child-foreground",
        "pasta -f --config-net -P /tmp/pasta.pid {child}",
        &[PidFileSoon("/tmp/pasta.pid"), EndsWithChild, NothingRuns, Granted("pasta")],
    )
    .after(&[Unheard, Traced, Child]),
    row("confined-namespace", "pasta --config-net -P /tmp/pasta.pid --netns /tmp/netns/n", JOINED)
        .by(Engine)
        .after(&[Unheard, Traced, Script(NETNS)]),
    row(
        "confined-namespace-foreground",
        "pasta -f --config-net -P /tmp/pasta.pid --netns /tmp/netns/n",
        &[PidFileSoon("/tmp/pasta.pid"), Term, NothingRuns, Granted("pasta")],
    )
    .by(Engine)
    .after(&[Unheard, Traced, Script(NETNS)]),
    row(
        "confined-namespace-root",
        "pasta --config-net --netns-only -P /tmp/pasta.pid --netns /tmp/netns/n",
        JOINED,
    )
    .by(AsRoot)
    .after(&[Unheard, Traced, Script(NETNS)]),
];
