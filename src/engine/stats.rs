//! What the loop is busy with, for `--stats`: a count for each type of event, and what was dropped. A
//! header names the types, one line each, with a mark that leads down to the column of its counter;
//! it is repeated every [`HEADER_EVERY`] reports. Known names are those that passt prints, too.
//!
//! Counts are taken by the loop, for the loop: without `--stats` and `--control` there are none.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use passt_frame::FramePort;

use super::Engine;
use crate::time::Timestamp;

/// Reports between two headers.
const HEADER_EVERY: u32 = 20;

/// Columns of one counter, with the blank in front of it.
const COLUMN: usize = 7;

macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A type of event; each has a counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EventType { $($(#[$doc])* $variant,)* }

        /// The names of all types, in the order of their counters.
        const NAMES: &[&str] = &[$($name,)*];
    };
}

event_types! {
    /// The socket of a TCP connection of the guest.
    Tcp => "connected TCP socket",
    /// A socket of a connection that passes the guest's interface by.
    Spliced => "connected spliced TCP socket",
    /// A TCP connection from the network.
    TcpListener => "listening TCP socket",
    /// A deadline of a TCP connection.
    TcpTimer => "TCP timer",
    /// A datagram from the network that may begin a flow.
    UdpListener => "listening UDP socket",
    /// The socket of a UDP flow.
    Udp => "UDP flow socket",
    /// A socket of datagrams that pass the guest's interface by.
    Relayed => "relayed UDP socket",
    /// The socket of an echo flow.
    Ping => "ICMP/ICMPv6 ping socket",
    /// Any other deadline.
    Timer => "other timer",
    /// A command, or a namespace.
    Watch => "command or namespace watch",
    /// Frames from a namespace.
    Tap => "/dev/net/tun device",
    /// Frames from a client.
    Stream => "connected qemu socket",
    /// A client that wants to connect.
    Clients => "listening qemu socket",
    /// A message of a front-end.
    Control => "vhost-user command socket",
    /// A front-end's driver has put something into a ring.
    Kick => "vhost-user kick socket",
    /// A helper that wants to connect for a migration.
    RepairDoor => "TCP_REPAIR helper listening socket",
    /// The helper of a migration.
    RepairHelper => "TCP_REPAIR helper socket",
    /// The state of a guest that moves.
    State => "device state channel",
    /// News about the host's neighbours.
    Neighbours => "netlink neighbour notifier socket",
    /// Who wants to change what is forwarded, or to ask.
    ConfigurationDoor => "configuration listening socket",
    /// The same, connected.
    Configuration => "configuration socket",
    /// A snapshot of the host's network, from the helper that watches it.
    Host => "host network watch",
    /// SIGTERM or SIGQUIT.
    Signal => "signal",
    /// An event of something that is gone.
    Stale => "late event",
    /// A router on the guest's side says that a packet is larger than its path takes.
    TooBig => "path MTU told by guest",
}

/// Counters of events, and when they were last shown.
pub(super) struct Stats {
    delay: Duration,
    next: Option<Timestamp>,
    /// There are no reports: the counts are for those who ask.
    quiet: bool,
    /// Something happened since the last report.
    news: bool,
    reports: u32,
    counts: [u64; NAMES.len()],
    text: String,
    drops: Names,
    egress: Names,
    link: Names,
}

/// Counts by name on one line, which is printed when it has changed.
#[derive(Default)]
struct Names {
    text: String,
    shown: String,
}

impl Names {
    fn add(&mut self, count: u64, name: &str) {
        if count > 0 {
            let comma = if self.text.is_empty() { "" } else { "," };
            let _infallible = write!(self.text, "{comma} {count} {name}");
        }
    }

    /// Ends the line, and prints it to `out` if it is news.
    fn end(&mut self, what: &str, out: &mut String) {
        if self.text != self.shown {
            let _infallible = writeln!(out, "{what}:{}", self.text);
            self.shown.clone_from(&self.text);
        }
        self.text.clear();
    }
}

impl Stats {
    /// Reports come no more often than each `delay`.
    pub(super) fn new(delay: Duration) -> Self {
        Self {
            delay,
            next: None,
            quiet: false,
            news: false,
            reports: 0,
            counts: [0; NAMES.len()],
            text: String::new(),
            drops: Names::default(),
            egress: Names::default(),
            link: Names::default(),
        }
    }

    /// Counts for those who ask, without reports.
    pub(super) fn quiet() -> Self {
        Self { quiet: true, ..Self::new(Duration::ZERO) }
    }

    /// All counters with their names.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        NAMES.iter().copied().zip(self.counts).collect()
    }

    /// Counts an event.
    pub(super) fn count(&mut self, event: EventType) {
        self.counts[event as usize] += 1;
        self.news = true;
    }

    /// Takes over how many deadlines of TCP connections, and how many others, have expired so far.
    pub(super) fn set_timers(&mut self, tcp: u64, other: u64) {
        for (event, count) in [(EventType::TcpTimer, tcp), (EventType::Timer, other)] {
            self.set(event, count);
        }
    }

    /// Takes over how many of these were counted elsewhere so far.
    pub(super) fn set(&mut self, event: EventType, count: u64) {
        self.news |= std::mem::replace(&mut self.counts[event as usize], count) != count;
    }

    /// Whether it is time for a report.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        !self.quiet && self.news && self.next.is_none_or(|next| now >= next)
    }

    /// Prints a report to standard error.
    pub(super) fn report(&mut self, now: Timestamp, engine: &Engine, link: &impl FramePort) {
        if self.quiet {
            return;
        }
        self.write(engine, link);
        self.next = Some(now + self.delay);
        // A reader that is gone is no reason to stop.
        let _ = std::io::stderr().write_all(self.text.as_bytes());
    }

    fn write(&mut self, engine: &Engine, link: &impl FramePort) {
        self.text.clear();
        if self.reports.is_multiple_of(HEADER_EVERY) {
            self.write_header();
        }
        self.text.push(' ');
        for count in self.counts {
            let _infallible = write!(self.text, " {count:6}");
        }
        self.text.push('\n');
        self.write_names(engine, link);
        self.reports = self.reports.wrapping_add(1);
        self.news = false;
    }

    fn write_header(&mut self) {
        for (index, name) in NAMES.iter().enumerate() {
            self.text.push_str("       ");
            for _ in 0..index {
                let _infallible = write!(self.text, "{:<COLUMN$}", "|");
            }
            self.text.push_str(name);
            self.text.push('\n');
        }
    }

    /// Named drops, and the link's counters, if they changed.
    fn write_names(&mut self, engine: &Engine, link: &impl FramePort) {
        for (reason, count) in engine.drops() {
            self.drops.add(count, reason.name());
        }
        self.drops.end("dropped", &mut self.text);
        for (rule, count) in engine.egress_counts() {
            self.egress.add(count, rule);
        }
        self.egress.end("egress", &mut self.text);
        link.counters(&mut |name, count| self.link.add(count, name));
        self.link.end("link", &mut self.text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_stands_over_its_counter() {
        let mut stats = Stats::new(Duration::from_secs(1));
        stats.write_header();
        let lines: Vec<&str> = stats.text.lines().collect();
        assert_eq!(lines.len(), NAMES.len());
        for (index, (line, name)) in lines.iter().zip(NAMES).enumerate() {
            assert_eq!(line.find(name), Some(COLUMN * (index + 1)), "{line}");
            assert_eq!(line.matches('|').count(), index);
        }
    }

    #[test]
    fn names_are_printed_when_their_counts_change() {
        let (mut names, mut out) = (Names::default(), String::new());
        for counts in [[0, 0], [2, 0], [2, 0], [2, 5]] {
            names.add(counts[0], "malformed");
            names.add(counts[1], "too-large");
            names.end("dropped", &mut out);
        }
        assert_eq!(out, "dropped: 2 malformed\ndropped: 2 malformed, 5 too-large\n");
    }

    #[test]
    fn reports_need_news_and_time() {
        let mut stats = Stats::new(Duration::from_secs(5));
        let at = |seconds: u64| Timestamp::from_micros(seconds * 1_000_000);
        assert!(!stats.is_due(at(1)), "nothing happened");
        stats.count(EventType::Udp);
        assert!(stats.is_due(at(1)));
        stats.next = Some(at(6));
        assert!(!stats.is_due(at(5)));
        assert!(stats.is_due(at(6)));
        stats.news = false;
        stats.set_timers(0, 0);
        assert!(!stats.is_due(at(7)));
        stats.set_timers(1, 0);
        assert!(stats.is_due(at(7)));
    }
}
