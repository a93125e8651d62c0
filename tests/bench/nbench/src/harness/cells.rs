//! The table of what can be measured. A cell's name says all about it, from the left:
//! group, link, family, MTU, and what the load is.

/// What stands between guest and daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// pasta's tap device.
    Tap,
    /// pasta's way round it, for loopback traffic.
    Bypass,
    /// passt's stream socket, with a relay to a tap device in QEMU's place.
    Stream,
    /// passt's vhost-user socket, with User-Mode Linux.
    VhostUser,
    /// The same, with a driver in place of a guest.
    Ring,
    /// passt's stream socket, with QEMU and an emulated machine.
    Qemu,
}

/// What is unusual about the guest or the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Usual,
    /// The guest's devices do not cut or join segments.
    NoOffloads,
    /// Servers are far away.
    Far {
        /// Time there and back.
        rtt_ms: u32,
        /// Packets lost of a million, each way.
        lost_ppm: u32,
        /// What counts is how a connection begins.
        begins: bool,
    },
}

/// The family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The way of the data, or for connections, of their making; seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the guest.
    Out,
    /// To the guest.
    In,
    /// Both at once.
    Both,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What the load generator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Bulk over TCP; `stalled` more connections are never read from.
    Stream {
        /// Which way.
        way: Way,
        /// Connections.
        streams: u32,
        /// Connections beside them that are never read from.
        stalled: u32,
    },
    /// Datagrams of `size` bytes, `gso` in one call; `limit`: the best rate with little loss.
    Udp {
        /// Which way.
        way: Way,
        /// Bytes of a datagram.
        size: u32,
        /// Datagrams in one call.
        gso: u32,
        /// Search the best rate with little loss.
        limit: bool,
    },
    /// Request and response, beside `idle` connections, or beside one bulk stream.
    Rr {
        /// Protocol.
        proto: Proto,
        /// Exchanges under way at once.
        flows: u32,
        /// Connections beside them that do nothing.
        idle: u32,
        /// Which way a bulk stream goes that runs beside them.
        beside: Option<Way>,
    },
    /// Connect, request, response, close.
    Crr {
        /// Which way.
        way: Way,
        /// Connections under way at once.
        concurrent: u32,
    },
    /// Questions, each from a port of its own.
    Storm {
        /// Questions a second.
        rate: u32,
    },
    /// iperf3 instead of our own generator, as a check of it.
    Iperf {
        /// Which way.
        way: Way,
    },
}

/// What goes on for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soak {
    /// Half of what goes through, both ways.
    Bulk,
    /// So many short connections.
    Connections,
    /// Connections that do nothing.
    Idle,
    /// Good traffic beside floods, broken frames and bad clients of control sockets.
    Hostile,
}

const SOAKS: [(Soak, &str); 4] = [
    (Soak::Bulk, "bulk"),
    (Soak::Connections, "connections"),
    (Soak::Idle, "idle"),
    (Soak::Hostile, "hostile"),
];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Traffic.
    Load(Load),
    /// Memory with this many idle connections; with 0, of the daemon alone.
    Memory {
        /// How many.
        connections: u32,
    },
    /// From start until it serves, with this many forwarded ports.
    Ready {
        /// Forwarded ports, each for TCP and UDP.
        ports: u32,
    },
    /// `pasta --config-net -- true`, from start to end.
    Command,
    /// As many connections at once as there can be.
    Most,
    /// Something that goes on for long, looked at closely.
    Soak(Soak),
    /// Processor time of a daemon with nothing to do; whether it looks for ports.
    Idle {
        /// Whether it looks for ports to forward.
        auto: bool,
    },
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Its name.
    pub id: String,
    /// Its group, a letter of [`GROUPS`].
    pub group: char,
    /// What stands between guest and daemon.
    pub mode: Mode,
    /// The family.
    pub family: Family,
    /// The guest's MTU.
    pub mtu: u32,
    /// What is unusual.
    pub condition: Condition,
    /// What is done.
    pub work: Work,
}

/// Titles of the groups.
pub const GROUPS: [(char, &str); 11] = [
    ('T', "TCP throughput"),
    ('W', "TCP throughput over a wide area"),
    ('U', "UDP goodput"),
    ('L', "Latency of request and response"),
    ('C', "Connection, request, response, close"),
    ('M', "Memory"),
    ('S', "Start"),
    ('I', "Idle processor time"),
    ('F', "Fairness"),
    ('X', "Cross-check with iperf3"),
    (SOAK, "Soak"),
];

/// The group of cells that run only when they are asked for by name.
pub const SOAK: char = 'R';

const MODES: [(Mode, &str); 4] = [
    (Mode::Tap, "tap"),
    (Mode::Bypass, "bypass"),
    (Mode::Stream, "stream"),
    (Mode::VhostUser, "vu"),
];

/// All cells, in the order in which they run.
pub fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (mode, name) in MODES {
        throughput(&mut cells, mode, name);
        datagrams(&mut cells, mode, name);
        latency(&mut cells, mode, name);
        connections(&mut cells, mode, name);
        storms(&mut cells, mode, name);
        fairness(&mut cells, mode, name);
        cross_check(&mut cells, mode, name);
        without_offloads(&mut cells, mode, name);
        far(&mut cells, mode, name);
    }
    driven(&mut cells);
    emulated(&mut cells);
    at_rest(&mut cells);
    cells.sort_by_key(|cell| GROUPS.iter().position(|(group, _)| *group == cell.group));
    cells
}

/// MTUs that a mode is measured with: loopback traffic knows only one.
fn mtus(mode: Mode) -> &'static [u32] {
    if mode == Mode::Bypass { &[65520] } else { &[65520, 9000, 1500, 1280] }
}

fn load(
    cells: &mut Vec<Cell>,
    group: char,
    link: (Mode, &str),
    family: Family,
    mtu: u32,
    what: (&str, Load),
) {
    let (mode, name) = link;
    let version = if family == Family::V4 { "v4" } else { "v6" };
    let mtu_name = if mode == Mode::Bypass { String::new() } else { format!(".{mtu}") };
    let id = format!("{group}.{name}.{version}{mtu_name}.{}", what.0);
    let condition = Condition::Usual;
    cells.push(Cell { id, group, mode, family, mtu, condition, work: Work::Load(what.1) });
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const WAYS: [(Way, &str); 2] = [(Way::Out, "out"), (Way::In, "in")];

fn throughput(cells: &mut Vec<Cell>, mode: Mode, name: &str) {
    for family in FAMILIES {
        for mtu in mtus(mode) {
            for (way, way_name) in WAYS {
                for streams in [1, 4] {
                    let stream = Load::Stream { way, streams, stalled: 0 };
                    let what = format!("{way_name}.x{streams}");
                    load(cells, 'T', (mode, name), family, *mtu, (&what, stream));
                }
            }
        }
    }
    let both = Load::Stream { way: Way::Both, streams: 1, stalled: 0 };
    load(cells, 'T', (mode, name), Family::V4, 65520, ("both.x1", both));
}

fn datagrams(cells: &mut Vec<Cell>, mode: Mode, name: &str) {
    let mut add = |family, mtu, way: (Way, &str), size, gso, limit| {
        let gso_name = if gso > 1 { format!(".gso{gso}") } else { String::new() };
        let limit_name = if limit { ".best" } else { "" };
        let what = format!("{size}.{}{gso_name}{limit_name}", way.1);
        let udp = Load::Udp { way: way.0, size, gso, limit };
        load(cells, 'U', (mode, name), family, mtu, (&what, udp));
    };
    for way in WAYS {
        for family in FAMILIES {
            add(family, 65520, way, 1400, 1, false);
        }
        for size in [64, 512, 8972, 65000] {
            add(Family::V4, 65520, way, size, 1, false);
        }
        if mode != Mode::Bypass {
            add(Family::V4, 1500, way, 1400, 1, false);
        }
        add(Family::V4, 1500, way, 1200, 16, false);
        add(Family::V4, 65520, way, 1400, 1, true);
    }
}

fn latency(cells: &mut Vec<Cell>, mode: Mode, name: &str) {
    let mut add = |family, what: &str, proto, flows, idle, beside| {
        let rr = Load::Rr { proto, flows, idle, beside };
        load(cells, 'L', (mode, name), family, 65520, (what, rr));
    };
    for family in FAMILIES {
        add(family, "tcp.x1", Proto::Tcp, 1, 0, None);
        add(family, "udp.x1", Proto::Udp, 1, 0, None);
    }
    for flows in [16, 256] {
        add(Family::V4, &format!("tcp.x{flows}"), Proto::Tcp, flows, 0, None);
        add(Family::V4, &format!("udp.x{flows}"), Proto::Udp, flows, 0, None);
    }
    let idle: &[u32] = if mode == Mode::VhostUser { &[1000] } else { &[1000, 5000] };
    for count in idle {
        add(Family::V4, &format!("tcp.idle{count}"), Proto::Tcp, 1, *count, None);
    }
    for (way, name) in [(Way::In, ""), (Way::Out, ".out")] {
        add(Family::V4, &format!("tcp.loaded{name}"), Proto::Tcp, 1, 0, Some(way));
        add(Family::V4, &format!("udp.loaded{name}"), Proto::Udp, 1, 0, Some(way));
    }
}

/// Resolvers that ask for a whole machine. What passes the link by has no guest's ports.
fn storms(cells: &mut Vec<Cell>, mode: Mode, name: &str) {
    if mode == Mode::Bypass {
        return;
    }
    for (family, rate) in [(Family::V4, 500), (Family::V4, 5000), (Family::V6, 500)] {
        let what = format!("udp.storm{rate}");
        load(cells, 'C', (mode, name), family, 65520, (&what, Load::Storm { rate }));
    }
}

fn connections(cells: &mut Vec<Cell>, mode: Mode, name: &str) {
    for (way, way_name) in WAYS {
        for concurrent in [1, 8, 32, 128] {
            let what = format!("{way_name}.x{concurrent}");
            let crr = Load::Crr { way, concurrent };
            load(cells, 'C', (mode, name), Family::V4, 65520, (&what, crr));
        }
        let crr = Load::Crr { way, concurrent: 8 };
        load(cells, 'C', (mode, name), Family::V6, 65520, (&format!("{way_name}.x8"), crr));
    }
}

fn fairness(cells: &mut Vec<Cell>, mode: Mode, name: &str) {
    for (way, way_name) in WAYS {
        let eight = Load::Stream { way, streams: 8, stalled: 0 };
        load(cells, 'F', (mode, name), Family::V4, 65520, (&format!("{way_name}.x8"), eight));
    }
    let stalled = Load::Stream { way: Way::In, streams: 1, stalled: 1 };
    load(cells, 'F', (mode, name), Family::V4, 65520, ("in.stalled", stalled));
}

fn cross_check(cells: &mut Vec<Cell>, mode: Mode, name: &str) {
    for (way, way_name) in WAYS {
        load(cells, 'X', (mode, name), Family::V4, 65520, (way_name, Load::Iperf { way }));
    }
}

/// The floor: what is left of the throughput when nothing but whole segments moves.
fn without_offloads(cells: &mut Vec<Cell>, mode: Mode, name: &str) {
    if mode == Mode::Bypass {
        return; // There is no device on the way.
    }
    for mtu in [65520, 1500] {
        for (way, way_name) in WAYS {
            let stream = Load::Stream { way, streams: 1, stalled: 0 };
            let what = format!("{way_name}.x1.plain");
            load(cells, 'T', (mode, name), Family::V4, mtu, (&what, stream));
            under(cells, Condition::NoOffloads);
        }
    }
}

/// Servers at a distance. Without losses, windows are what counts.
fn far(cells: &mut Vec<Cell>, mode: Mode, name: &str) {
    if mode == Mode::Bypass {
        return; // Loopback is nowhere far.
    }
    for (what, rtt_ms, lost_ppm, begins) in [
        ("rtt20", 20, 1000, false),
        ("rtt20.first", 20, 0, true),
        ("rtt100", 100, 1000, false),
        ("rtt100.clean", 100, 0, false),
    ] {
        for (way, way_name) in WAYS {
            let stream = Load::Stream { way, streams: 1, stalled: 0 };
            load(
                cells,
                'W',
                (mode, name),
                Family::V4,
                65520,
                (&format!("{way_name}.{what}"), stream),
            );
            under(cells, Condition::Far { rtt_ms, lost_ppm, begins });
        }
    }
}

/// What the cell that was added last is under.
fn under(cells: &mut [Cell], condition: Condition) {
    if let Some(cell) = cells.last_mut() {
        cell.condition = condition;
    }
}

/// What the back-end does with datagrams when no guest's kernel is in the way.
fn driven(cells: &mut Vec<Cell>) {
    for size in [64, 1400] {
        for (way, way_name) in WAYS {
            let udp = Load::Udp { way, size, gso: 1, limit: false };
            let what = format!("{size}.{way_name}");
            load(cells, 'U', (Mode::Ring, "ring"), Family::V4, 65520, (&what, udp));
        }
    }
}

/// A few of them with an emulated machine, whose processor is the limit.
fn emulated(cells: &mut Vec<Cell>) {
    let link = (Mode::Qemu, "qemu");
    for mtu in [65520, 1500] {
        for (way, way_name) in WAYS {
            let stream = Load::Stream { way, streams: 1, stalled: 0 };
            load(cells, 'T', link, Family::V4, mtu, (&format!("{way_name}.x1"), stream));
        }
    }
    let rr = Load::Rr { proto: Proto::Tcp, flows: 1, idle: 0, beside: None };
    load(cells, 'L', link, Family::V4, 65520, ("tcp.x1", rr));
    for (way, way_name) in WAYS {
        let crr = Load::Crr { way, concurrent: 1 };
        load(cells, 'C', link, Family::V4, 65520, (&format!("{way_name}.x1"), crr));
    }
}

fn at_rest(cells: &mut Vec<Cell>) {
    let mut add = |group, mode, what: &str, work| {
        let id = format!("{group}.{what}");
        let (family, condition) = (Family::V4, Condition::Usual);
        cells.push(Cell { id, group, mode, family, mtu: 65520, condition, work });
    };
    for (mode, name) in [(Mode::Tap, "tap"), (Mode::Stream, "stream"), (Mode::VhostUser, "vu")] {
        for connections in [0, 1000] {
            let what =
                if connections == 0 { "idle".to_owned() } else { format!("conn{connections}") };
            add('M', mode, &format!("{name}.{what}"), Work::Memory { connections });
        }
    }
    add('M', Mode::Tap, "tap.conn5000", Work::Memory { connections: 5000 });
    add('M', Mode::Bypass, "bypass.conn1000", Work::Memory { connections: 1000 });
    for (mode, name) in MODES {
        add('M', mode, &format!("{name}.most"), Work::Most);
        for (soak, what) in SOAKS {
            // What passes the link by has no frames.
            if (mode, soak) != (Mode::Bypass, Soak::Hostile) {
                add(SOAK, mode, &format!("{name}.{what}"), Work::Soak(soak));
            }
        }
    }
    add('S', Mode::Stream, "passt.ready", Work::Ready { ports: 0 });
    add('S', Mode::Stream, "passt.ready.ports10", Work::Ready { ports: 10 });
    add('S', Mode::Stream, "passt.ready.ports1000", Work::Ready { ports: 1000 });
    add('S', Mode::Tap, "pasta.command", Work::Command);
    add('I', Mode::Tap, "pasta.auto", Work::Idle { auto: true });
    add('I', Mode::Tap, "pasta.none", Work::Idle { auto: false });
    add('I', Mode::Stream, "passt.none", Work::Idle { auto: false });
}

/// Whether `pattern` with `*` and `?` is `name`.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut place, mut retry) = (0, 0, None);
    while place < name.len() {
        match pattern.get(at) {
            Some('*') => {
                retry = Some((at, place));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[place] => {
                at += 1;
                place += 1;
            }
            _ => {
                let Some((star, begin)) = retry else { return false };
                retry = Some((star, begin + 1));
                (at, place) = (star + 1, begin + 1);
            }
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_groups_have_titles() {
        let cells = all();
        let names: BTreeSet<&str> = cells.iter().map(|cell| cell.id.as_str()).collect();
        assert_eq!(names.len(), cells.len());
        for cell in &cells {
            assert!(GROUPS.iter().any(|(group, _)| *group == cell.group), "{}", cell.id);
            assert!(cell.id.starts_with(cell.group), "{}", cell.id);
        }
        for (group, title) in GROUPS {
            assert!(cells.iter().any(|cell| cell.group == group), "nothing in {title}");
        }
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, wanted) in [
            ("T.tap.*", "T.tap.v4.1500.out.x1", true),
            ("*.out.x?", "T.tap.v4.1500.out.x1", true),
            ("*tap*x1*", "T.tap.v4.1500.out.x1", true),
            ("T.tap", "T.tap.v4", false),
            ("*.x", "T.x1", false),
            ("", "T", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), wanted, "{pattern} {name}");
        }
    }
}
