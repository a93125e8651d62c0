//! Answers as text for people: no line is longer than [`WIDTH`] columns. What comes from the program is shown without
//! control characters, which could be orders to a terminal.

use std::collections::BTreeMap;

use crate::control::json::model::{Egress, Flow, Rules, Side, Stats, Status, ToldFamily};

/// Columns of a terminal.
const WIDTH: usize = 80;

/// Columns of the first word of a line in [`status`].
const LABEL: usize = 11;

/// The program, and what its guest is told.
pub(super) fn status(status: &Status) -> String {
    let mut out = Text::default();
    let program = format!("{} {}, {}", status.program, status.version, status.mode);
    out.entry("program", &program);
    out.entry("link", &status.link);
    out.entry("started", &format!("{} ago", time(status.uptime_ms)));
    let told = &status.told;
    if let Some(v4) = &told.ipv4 {
        out.entry("IPv4", &family(v4));
    }
    if let Some(v6) = &told.ipv6 {
        out.entry("IPv6", &family(v6));
    }
    if !told.search.is_empty() {
        out.entry("search", &told.search.join(" "));
    }
    let names = [&told.hostname, &told.fqdn].into_iter().flatten();
    for name in names {
        out.entry("name", name);
    }
    let mtu = told.mtu.map_or("not told".to_owned(), |mtu| mtu.to_string());
    out.entry("MTU", &mtu);
    out.entry("our MAC", &told.mac);
    let learned = &status.learned;
    let seen = [&learned.mac, &learned.ipv4, &learned.ipv6, &learned.ipv6_link_local];
    let seen: Vec<&str> = seen.into_iter().flatten().map(String::as_str).collect();
    out.entry("guest", &seen.join(", "));
    for mapped in &status.mapped {
        let to = mapped.to.as_ref().map_or(String::new(), |to| format!(" {to}"));
        out.entry("mapped", &format!("{} is {}{to}", mapped.address, mapped.means));
    }
    out.entry("flows", &format!("{} of {}", status.flows, status.limits.flows));
    out.entry("listening", &format!("{} sockets", status.listening));
    out.entry("descriptors", &format!("{} at most", status.limits.descriptors));
    out.0
}

fn family(family: &ToldFamily) -> String {
    let address = family
        .address
        .as_ref()
        .map_or("none yet".to_owned(), |address| format!("{address}/{}", family.prefix_length));
    let gateway = family.gateway.as_ref().map(|gateway| format!(", gateway {gateway}"));
    let dns = match family.dns.join(" ") {
        servers if servers.is_empty() => servers,
        servers => format!(", DNS {servers}"),
    };
    format!("{address}{}{dns}", gateway.unwrap_or_default())
}

/// Counters, those at 0 only if `all` are wanted.
pub(super) fn stats(stats: &Stats, all: bool) -> String {
    let mut out = Text::default();
    let numbers = [("half-open flows", stats.half_open), ("listening sockets", stats.listening)];
    let numbers: BTreeMap<String, u64> =
        numbers.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    for (heading, counts) in [
        ("Flows", &stats.flows),
        ("Flows begun", &stats.flows_begun),
        ("Now", &numbers),
        ("Dropped", &stats.drops),
        ("Link", &stats.link),
        ("Events of the loop", &stats.events),
    ] {
        let shown: Vec<_> = counts.iter().filter(|(_, count)| all || **count > 0).collect();
        if shown.is_empty() {
            continue;
        }
        out.line(&format!("{heading}:"));
        for (name, count) in shown {
            out.wrapped(&format!("{count:>14}  "), name);
        }
    }
    if out.0.is_empty() {
        out.line("Nothing was counted yet.");
    }
    out.0
}

/// The heading of the list of flows.
pub(super) const FLOWS_HEADING: &str =
    "FLOW         PROTO STATE            AGE    IDLE     RTT  BYTES->  <-BYTES\n";

/// A flow: what it is on one line, and where it leads on another, or two.
pub(super) fn flow(flow: &Flow) -> String {
    let mut out = Text::default();
    let bypass = if flow.bypass { "*" } else { " " };
    out.line(&format!(
        "{:<12} {:<4}{bypass} {:<12} {:>7} {:>7} {:>7} {:>8} {:>8}",
        clean(&flow.flow),
        clean(&flow.proto),
        clean(&flow.state),
        time(flow.age_ms),
        time(flow.idle_ms),
        flow.rtt_us.map_or("-".to_owned(), round_trip),
        flow.bytes_forward.map_or("-".to_owned(), bytes),
        flow.bytes_back.map_or("-".to_owned(), bytes),
    ));
    let (from, to) = (side(&flow.initiator), side(&flow.target));
    if from.len() + to.len() + 6 <= WIDTH {
        out.line(&format!("  {from} -> {to}"));
    } else {
        out.line(&format!("  {from}"));
        out.line(&format!("  -> {to}"));
    }
    out.0
}

fn side(side: &Side) -> String {
    format!("{} {}", clean(&side.place), endpoint(&clean(&side.address), &side.port.to_string()))
}

fn endpoint(address: &str, port: &str) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// The forwarding rules.
pub(super) fn rules(rules: &Rules) -> String {
    let mut out = Text::default();
    out.line("RULE  TO    PROTO SOCKETS  PORTS");
    for rule in &rules.rules {
        let interface = rule.interface.as_ref().map_or(String::new(), |name| format!("%{name}"));
        let width = rule.last.saturating_sub(rule.first);
        let ports = range(rule.first.into(), width.into());
        let listen = endpoint(&format!("{}{interface}", rule.address), &ports);
        let target = range(rule.target_first.into(), width.into());
        let target = match &rule.target_address {
            Some(address) => endpoint(address, &target),
            None => target,
        };
        let words = [(rule.weak, " (best effort)"), (rule.auto, " (auto)")];
        let words: String =
            words.into_iter().filter(|(set, _)| *set).map(|(_, word)| word).collect();
        let head =
            format!("{:<5} {:<5} {:<5} {:>7}  ", rule.rule, rule.to, rule.proto, rule.listening);
        out.wrapped(&head, &format!("{listen} => {target}{words}"));
    }
    for warning in &rules.warnings {
        out.wrapped("", warning);
    }
    out.0
}

fn range(first: u32, width: u32) -> String {
    if width == 0 { first.to_string() } else { format!("{first}-{}", first + width) }
}

/// The egress policy.
pub(super) fn egress(egress: &Egress) -> String {
    let mut out = Text::default();
    if egress.rules.is_empty() {
        out.line("There are no egress rules: the guest may reach everything.");
        return out.0;
    }
    out.line("  DECIDED  RULE");
    for rule in &egress.rules {
        out.wrapped(&format!("{:>9}  ", rule.decided), &rule.rule);
    }
    out.wrapped(&format!("{:>9}  ", egress.unmatched), "no rule matches: reject");
    for warning in &egress.warnings {
        out.wrapped("", warning);
    }
    out.0
}

/// Lines of text.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: &str) {
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    fn entry(&mut self, label: &str, value: &str) {
        self.wrapped(&format!("{label:<LABEL$} "), value);
    }

    /// `words` behind `head`, and below each other where they do not fit. Words that fit no line are cut.
    fn wrapped(&mut self, head: &str, words: &str) {
        let (mut line, indent) = (clean(head), clean(head).chars().count());
        let room = WIDTH - indent;
        let mut used = 0;
        for word in clean(words).split(' ') {
            let mut rest: Vec<char> = word.chars().collect();
            let blank = usize::from(used > 0);
            if used + blank + rest.len() > room && used > 0 {
                self.line(&line);
                (line, used) = (" ".repeat(indent), 0);
            } else if blank > 0 {
                line.push(' ');
                used += 1;
            }
            while used + rest.len() > room {
                let cut: String = rest.drain(..room - used).collect();
                line.push_str(&cut);
                self.line(&line);
                (line, used) = (" ".repeat(indent), 0);
            }
            used += rest.len();
            line.extend(rest);
        }
        self.line(&line);
    }
}

/// Text without control characters.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A time in at most 7 columns.
fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A round-trip time in at most 7 columns.
fn round_trip(us: u64) -> String {
    match us {
        0..1000 => format!("{us}us"),
        1000..100_000 => format!("{}.{}ms", us / 1000, us / 100 % 10),
        100_000..1_000_000 => format!("{}ms", us / 1000),
        _ => time(us / 1000),
    }
}

/// A number of bytes in at most 5 columns.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if count < 1000 {
        return count.to_string();
    }
    let (mut tenths, mut unit) = (count / 100, 0);
    while tenths >= 10_000 {
        (tenths, unit) = (tenths / 1000, unit + 1);
    }
    if tenths < 100 {
        format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{}{}", tenths / 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::json::model::{EgressRule, Learned, Limits, Mapped, Rule, Told};

    const LONG_V6: &str = "2001:db8:1111:2222:3333:4444:5555:6666";

    fn fits(text: &str) {
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
        }
    }

    fn a_side(place: &str) -> Side {
        Side {
            place: place.to_owned(),
            address: LONG_V6.to_owned(),
            port: 65535,
            our_address: "::".to_owned(),
            our_port: 0,
        }
    }

    #[test]
    fn numbers_have_few_columns() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0k"),
            (9999, "9.9k"),
            (10_000, "10k"),
            (999_999, "999k"),
            (1_000_000, "1.0M"),
            (u64::MAX, "18E"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (59_999, "59s"),
            (60_000, "1m00s"),
            (3_599_000, "59m59s"),
            (86_399_000, "23h59m"),
            (86_400_000 * 999, "999d00h"),
        ] {
            assert_eq!(time(ms), text);
        }
        for (us, text) in [(1, "1us"), (1999, "1.9ms"), (250_000, "250ms"), (2_000_000, "2s")] {
            assert_eq!(round_trip(us), text);
        }
    }

    #[test]
    fn the_longest_flow_fits_a_terminal() {
        fits(FLOWS_HEADING);
        let longest = Flow {
            flow: "131071.16777215".to_owned(),
            proto: "icmp".to_owned(),
            state: "established".to_owned(),
            bypass: true,
            initiator: a_side("namespace"),
            target: a_side("namespace"),
            bytes_forward: Some(u64::MAX),
            bytes_back: None,
            age_ms: 86_400_000 * 999,
            idle_ms: 86_399_000,
            rtt_us: Some(99_999),
        };
        let text = flow(&longest);
        fits(&text);
        assert_eq!(text.lines().count(), 3, "{text}");
        let short = Side { address: "192.0.2.2".to_owned(), ..a_side("guest") };
        let text = flow(&Flow { initiator: short.clone(), target: short, ..longest });
        fits(&text);
        assert!(text.contains("guest 192.0.2.2:65535 -> guest 192.0.2.2:65535"), "{text}");
    }

    #[test]
    fn the_longest_rules_fit_a_terminal() {
        let rule = Rule {
            rule: 99_999,
            to: "guest".to_owned(),
            proto: "tcp".to_owned(),
            address: LONG_V6.to_owned(),
            interface: Some("fifteen-bytes-x".to_owned()),
            first: 10_000,
            last: 20_000,
            target_address: Some(LONG_V6.to_owned()),
            target_first: 30_000,
            weak: true,
            auto: true,
            listening: 10_001,
        };
        let text = rules(&Rules { rules: vec![rule], warnings: vec!["Warned. ".repeat(20)] });
        fits(&text);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let all = format!("=> [{LONG_V6}]:30000-40000 (best effort) (auto) Warned. Warned.");
        assert!(words.contains(&all), "{text}");
        let rule = "allow ".to_owned() + &"x".repeat(253) + ":1-2,3-4";
        let rules = vec![EgressRule { rule: rule.clone(), decided: 1, isolate: false }];
        let text = egress(&Egress { rules, unmatched: 0, warnings: vec!["y ".repeat(100)] });
        fits(&text);
        assert!(text.split_whitespace().collect::<String>().contains(&rule.replace(' ', "")));
    }

    #[test]
    fn status_and_stats_fit_a_terminal() {
        let family = || ToldFamily {
            address: Some(LONG_V6.to_owned()),
            prefix_length: 64,
            gateway: Some(LONG_V6.to_owned()),
            dns: vec![LONG_V6.to_owned(); 3],
        };
        let text = status(&Status {
            program: "passt".to_owned(),
            version: "0.1.0".to_owned(),
            mode: "vhost-user".to_owned(),
            link: "up".to_owned(),
            uptime_ms: 61_000,
            told: Told {
                mac: "9a:55:9a:55:9a:55".to_owned(),
                mtu: Some(65520),
                ipv4: Some(family()),
                ipv6: Some(family()),
                search: vec!["a".repeat(60), "b\x1b[2J".repeat(20)],
                hostname: Some("h".repeat(250)),
                fqdn: None,
            },
            learned: Learned {
                mac: Some("52:54:00:00:00:01".to_owned()),
                ipv4: Some("192.0.2.2".to_owned()),
                ipv6: Some(LONG_V6.to_owned()),
                ipv6_link_local: Some(LONG_V6.to_owned()),
            },
            mapped: vec![Mapped {
                address: LONG_V6.to_owned(),
                means: "host-loopback".to_owned(),
                to: Some(LONG_V6.to_owned()),
            }],
            flows: 12,
            listening: 3,
            limits: Limits { descriptors: 1, flows: 2, rules: 3, egress_rules: 4, half_open: 5 },
        });
        fits(&text);
        assert!(!text.contains('\x1b'), "no orders to the terminal");
        let mut counters = Stats::default();
        counters.drops.insert("no-route".to_owned(), 3);
        counters.drops.insert("too-large".to_owned(), 0);
        let (some, all) = (stats(&counters, false), stats(&counters, true));
        fits(&all);
        assert!(some.contains("3  no-route") && !some.contains("too-large"), "{some}");
        assert!(all.contains("0  too-large"), "{all}");
        assert_eq!(stats(&Stats::default(), false), "Nothing was counted yet.\n");
    }
}
