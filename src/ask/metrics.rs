//! What goes on as OpenMetrics text, for a collector of text files or a scraper. Names of metrics and of their labels
//! stay what they are. The types are those that older parsers know, too.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::tables;
use crate::control::json::model::{Egress, Stats, Status};

/// The text, which ends with `# EOF`.
pub(super) fn text(status: &Status, stats: &Stats, egress: &Egress) -> String {
    let mut out = Metrics(String::new());
    out.family("passt_build_info", "gauge", "The program: always 1");
    let about = [
        ("program", status.program.as_str()),
        ("version", &status.version),
        ("mode", &status.mode),
    ];
    out.sample("passt_build_info", &about, 1);
    out.family("passt_uptime_seconds", "gauge", "Time since start");
    out.line("# UNIT passt_uptime_seconds seconds");
    let (seconds, rest) = (stats.uptime_ms / 1000, stats.uptime_ms % 1000);
    out.sample_text("passt_uptime_seconds", &[], &format!("{seconds}.{rest:03}"));
    for (name, help, value) in [
        ("passt_link_up", "Whether frames reach the guest", u64::from(status.link == "up")),
        ("passt_half_open_flows", "TCP flows whose handshake has not finished", stats.half_open),
        ("passt_listening_sockets", "Sockets that listen", stats.listening),
        ("passt_flows_limit", "Flows that may have a socket", status.limits.flows),
    ] {
        out.family(name, "gauge", help);
        out.sample(name, &[], value);
    }
    out.family("passt_flows", "gauge", "Flows that are there");
    out.samples("passt_flows", "kind", &stats.flows);
    for (name, help, label, counts) in [
        ("passt_flows_begun", "Flows that have begun", "kind", &stats.flows_begun),
        ("passt_drops", "What was dropped", "reason", &stats.drops),
        ("passt_loop_events", "Events of the loop", "type", &stats.events),
        ("passt_link_counts", "What the link counts", "counter", &stats.link),
    ] {
        out.family(name, "counter", help);
        out.samples(&format!("{name}_total"), label, counts);
    }
    out.family("passt_egress_decisions", "counter", "New flows that an egress rule decided about");
    for (place, rule) in egress.rules.iter().enumerate() {
        let labels = [("place", place.to_string()), ("rule", rule.rule.clone())];
        let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
        out.sample("passt_egress_decisions_total", &labels, rule.decided);
    }
    let labels = [("place", "end"), ("rule", "no rule matches")];
    out.sample("passt_egress_decisions_total", &labels, egress.unmatched);
    out.line("# EOF");
    out.0
}

struct Metrics(String);

impl Metrics {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// Begins a family of metrics.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(&format!("# HELP {name} {help}."));
        self.line(&format!("# TYPE {name} {kind}"));
    }

    fn samples(&mut self, name: &str, label: &str, counts: &BTreeMap<String, u64>) {
        for (value, &count) in counts {
            self.sample(name, &[(label, value)], count);
        }
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.sample_text(name, labels, &value.to_string());
    }

    fn sample_text(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        self.0.push_str(name);
        for (count, (label, text)) in labels.iter().enumerate() {
            let before = if count == 0 { '{' } else { ',' };
            let _infallible = write!(self.0, "{before}{label}=\"{}\"", escaped(text));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _infallible = writeln!(self.0, "{end} {value}");
    }
}

/// A label's value: backslashes, quotes and line ends are escaped. There is no way to write other control characters.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    tables::clean(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut out = Metrics(String::new());
        out.sample("a", &[("b", "c\\d\"e\nf"), ("g", "")], 7);
        out.sample("h", &[], 8);
        out.sample("i", &[("j", "\u{1b}[2J\u{9b}")], 9);
        assert_eq!(out.0, "a{b=\"c\\\\d\\\"e\\nf\",g=\"\"} 7\nh 8\ni{j=\"?[2J?\"} 9\n");
    }
}
