//! What the loop is busy with, for `--stats`: a count for each type of event, and what was dropped. A
//! header names the types, one line each, with a mark that leads down to the column of its counter;
//! it is repeated every [`HEADER_EVERY`] reports.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use passt_frame::FramePort;

use super::Engine;
use super::event_counters::EventCounters;
use crate::time::Timestamp;

/// Reports between two headers.
const HEADER_EVERY: u32 = 20;

/// Columns of one counter, with the blank in front of it.
const COLUMN: usize = 7;

/// Reports of the counters, and what they showed last.
pub(super) struct Stats {
    delay: Duration,
    next: Option<Timestamp>,
    reports: u32,
    /// The counters of the last report.
    shown: EventCounters,
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
            reports: 0,
            shown: EventCounters::default(),
            text: String::new(),
            drops: Names::default(),
            egress: Names::default(),
            link: Names::default(),
        }
    }

    /// Whether it is time for a report, and something happened since the last one.
    pub(super) fn is_due(&self, now: Timestamp, counters: &EventCounters) -> bool {
        *counters != self.shown && self.next.is_none_or(|next| now >= next)
    }

    /// Prints a report to standard error.
    pub(super) fn report(&mut self, now: Timestamp, engine: &Engine, link: &impl FramePort) {
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
        self.shown.clone_from(engine.counters());
        self.text.push(' ');
        for (_, count) in self.shown.iter() {
            let _infallible = write!(self.text, " {count:6}");
        }
        self.text.push('\n');
        self.write_names(engine, link);
        self.reports = self.reports.wrapping_add(1);
    }

    fn write_header(&mut self) {
        for (index, (name, _)) in self.shown.iter().enumerate() {
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
    use crate::engine::EventType;

    #[test]
    fn each_name_stands_over_its_counter() {
        let mut stats = Stats::new(Duration::from_secs(1));
        stats.write_header();
        let lines: Vec<&str> = stats.text.lines().collect();
        assert_eq!(lines.len(), stats.shown.iter().len());
        for (index, (line, (name, _))) in lines.iter().zip(stats.shown.iter()).enumerate() {
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
        let mut counters = EventCounters::default();
        assert!(!stats.is_due(at(1), &counters), "nothing happened");
        counters.count(EventType::Udp);
        assert!(stats.is_due(at(1), &counters));
        stats.next = Some(at(6));
        assert!(!stats.is_due(at(5), &counters));
        assert!(stats.is_due(at(6), &counters));
        stats.shown.clone_from(&counters);
        assert!(!stats.is_due(at(7), &counters));
        counters.count(EventType::Timer);
        assert!(stats.is_due(at(7), &counters));
    }
}
