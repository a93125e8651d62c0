//! Results as Markdown: where they come from, what became of the targets, and a table for each
//! group of cells.

use std::fmt::Write;

use super::cells::GROUPS;
use super::peers::{DIRECT, OURS};
use super::results::{Block, CellResult, Estimate, LATENCY, Part, Results};
use super::stats::{median, range};
use super::targets::{self, Bound, Demand, Outcome, Verdict, Yardstick};

/// The whole report. `plots` is the folder of the plots, as seen from the report.
pub fn report(results: &Results, plots: &str) -> String {
    let mut text = String::new();
    origin(&mut text, results);
    scores(&mut text, &of_interest(results));
    for (group, title) in GROUPS {
        let cells: Vec<&CellResult> = of_group(results, group);
        if !cells.is_empty() {
            let _ = writeln!(text, "\n### {title}\n\n![{title}]({plots}{group}.svg)\n");
            table(&mut text, &cells);
        }
    }
    text
}

/// When, how, on what and with what.
fn origin(text: &mut String, results: &Results) {
    for run in &results.runs {
        let (minutes, measured) = (run.wall_s / 60.0, 100.0 * run.measured_s / run.wall_s.max(1.0));
        let _ = writeln!(
            text,
            "- {}: `{}`, {minutes:.0} min, of which {measured:.0} % are traffic",
            run.date, run.command
        );
    }
    for line in &results.machine {
        let _ = writeln!(text, "- {line}");
    }
    let blocks: Vec<Block> = results.cells.iter().flat_map(|cell| cell.blocks.clone()).collect();
    if !blocks.is_empty() {
        let _ = writeln!(text, "- before blocks: {}", noise(&blocks));
    }
    for (peer, version) in &results.peers {
        let _ = writeln!(text, "- `{peer}`: {version}");
    }
}

/// What others did before blocks, and how fast the machine was: medians, and the range of the
/// fixed piece of work.
fn noise(blocks: &[Block]) -> String {
    let all = |part: fn(&Block) -> f64| blocks.iter().map(part).collect::<Vec<_>>();
    let middle = |part: fn(&Block) -> f64| median(&all(part)).unwrap_or(0.0);
    let most = |part: fn(&Block) -> f64| range(&all(part)).map_or(0.0, |(_, most)| most);
    let (fast, slow) = range(&all(|block| block.work_us)).unwrap_or_default();
    format!(
        "busy {:.0} % (at most {:.0} %), steal {:.0} % ({:.0} %), work {:.0} us ({fast:.0}-{slow:.0})",
        100.0 * middle(|block| block.busy),
        100.0 * most(|block| block.busy),
        100.0 * middle(|block| block.steal),
        100.0 * most(|block| block.steal),
        middle(|block| block.work_us),
    )
}

/// What became of the targets. Those whose cells were not run are left out of the report of one run
/// that was about something else.
fn of_interest(results: &Results) -> Vec<Outcome> {
    let all = results.runs.len() > 1 || results.runs.iter().any(|run| run.all_targets);
    let mut outcomes = targets::outcomes(results);
    outcomes.retain(|one| all || results.cells.iter().any(|cell| cell.id == one.cell));
    outcomes
}

/// The targets; nothing if none was measured.
fn scores(text: &mut String, outcomes: &[Outcome]) {
    let count = |is: fn(Verdict) -> bool| outcomes.iter().filter(|one| is(one.verdict())).count();
    let met = count(|verdict| matches!(verdict, Verdict::Met { .. }));
    let not_met = count(|verdict| matches!(verdict, Verdict::NotMet { .. }));
    if met + not_met == 0 {
        return;
    }
    let rest = outcomes.len() - met - not_met;
    let _ = writeln!(text, "\n### Targets\n\n{met} met, {not_met} not met, {rest} not measured.\n");
    head(text, &["target", "cell", "wanted", "measured", ""].map(str::to_owned));
    for outcome in outcomes {
        let wanted = outcome.target.any.iter().map(|demand| wanted(demand, &outcome.unit));
        let fields = [
            outcome.target.title.to_owned(),
            format!("{}{}", outcome.cell, if outcome.noisy { " (noisy)" } else { "" }),
            wanted.collect::<Vec<_>>().join(", or "),
            measured(outcome),
            word(outcome.verdict()).to_owned(),
        ];
        row(text, &fields);
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met { sure: true } => "met",
        Verdict::Met { sure: false } => "met, unsure",
        Verdict::NotMet { sure: true } => "**not met**",
        Verdict::NotMet { sure: false } => "**not met**, unsure",
        Verdict::NotMeasured => "not measured",
    }
}

/// What a demand says.
fn wanted(demand: &Demand, unit: &str) -> String {
    let (least, bound) = match demand.bound {
        Bound::AtLeast(bound) => ("at least", bound),
        Bound::AtMost(bound) => ("at most", bound),
    };
    let part = match demand.part {
        Part::Value => String::new(),
        Part::Cpu => "CPU ".to_owned(),
        part @ Part::More(name) => {
            let known = LATENCY.iter().find(|(_, other)| *other == part);
            format!("{} ", known.map_or(name, |(short, _)| short))
        }
    };
    match demand.against {
        Yardstick::Unit => format!("{part}{least} {bound} {unit}"),
        Yardstick::Peer(peer) => format!("{part}{least} {bound:.2} of {peer}"),
        Yardstick::Own(_, to) => format!("{part}{least} {bound:.2} of our `{to}`"),
    }
}

fn measured(outcome: &Outcome) -> String {
    let of = |found: &Option<Estimate>| found.map_or_else(|| "-".to_owned(), estimate);
    let all: Vec<String> = outcome.measured.iter().map(of).collect();
    match outcome.failed {
        (0, _) => all.join(", "),
        (failed, samples) => format!("{}; {failed} of {samples} failed", all.join(", ")),
    }
}

fn estimate(found: Estimate) -> String {
    let value = short(found.value);
    match found.confidence {
        Some((low, high)) => format!("{value} ({}-{})", short(low), short(high)),
        None => value,
    }
}

/// The cells of one group.
pub fn of_group(results: &Results, group: char) -> Vec<&CellResult> {
    let group = group.to_string();
    results.cells.iter().filter(|cell| cell.group == group).collect()
}

/// Peers of the cells, ours first and the limit last.
pub fn peers_of<'a>(cells: &[&'a CellResult]) -> Vec<&'a str> {
    let mut peers: Vec<&str> = Vec::new();
    for peer in cells.iter().flat_map(|cell| cell.peers()) {
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    peers.sort_by_key(|peer| (*peer == DIRECT, *peer != OURS));
    peers
}

/// Values, ratios, and the daemons' processor time; then what else was found.
fn table(text: &mut String, cells: &[&CellResult]) {
    let peers = peers_of(cells);
    let others: Vec<&str> = peers.iter().copied().filter(|peer| *peer != OURS).collect();
    let daemons: Vec<&str> = match cells.iter().any(|cell| !cell.metric.cpu_unit.is_empty()) {
        true => peers.iter().copied().filter(|peer| *peer != DIRECT).collect(),
        false => Vec::new(),
    };
    let mut heads = vec!["cell".to_owned(), "unit".to_owned()];
    heads.extend(peers.iter().map(|peer| (*peer).to_owned()));
    heads.extend(others.iter().map(|peer| format!("ours / {peer}")));
    heads.extend(daemons.iter().map(|peer| format!("CPU {peer}")));
    head(text, &heads);
    for cell in cells {
        let noisy = if cell.is_noisy() { " (noisy)" } else { "" };
        let mut fields = vec![format!("{}{noisy}", cell.id), unit(cell)];
        fields.extend(peers.iter().map(|peer| value(cell, peer)));
        fields.extend(others.iter().map(|peer| ratio(cell, peer)));
        let cpu = |peer: &&str| cell.summary(peer).and_then(|found| found.cpu);
        fields.extend(daemons.iter().map(|peer| cpu(peer).map(short).unwrap_or_default()));
        row(text, &fields);
    }
    let _ = writeln!(text, "\n<details><summary>More of it</summary>\n");
    let mut heads = vec!["cell".to_owned()];
    heads.extend(peers.iter().map(|peer| (*peer).to_owned()));
    heads.push("the machine before blocks".to_owned());
    head(text, &heads);
    for cell in cells {
        let mut fields = vec![cell.id.clone()];
        fields.extend(peers.iter().map(|peer| details(cell, peer)));
        fields.push(noise(&cell.blocks));
        row(text, &fields);
    }
    let _ = writeln!(text, "\n</details>");
}

fn head(text: &mut String, heads: &[String]) {
    row(text, heads);
    row(text, &vec!["---".to_owned(); heads.len()]);
}

fn row(text: &mut String, fields: &[String]) {
    let _ = writeln!(text, "| {} |", fields.join(" | "));
}

fn unit(cell: &CellResult) -> String {
    let cpu = &cell.metric.cpu_unit;
    if cpu.is_empty() { cell.metric.unit.clone() } else { format!("{}; {cpu}", cell.metric.unit) }
}

/// Medians of what came with the value, and the whole machine's processor time.
fn details(cell: &CellResult, peer: &str) -> String {
    let Some(found) = cell.summary(peer) else { return String::new() };
    let mut parts: Vec<String> = cell
        .more(peer)
        .into_iter()
        .map(|(name, value)| format!("{name} {}", short(value)))
        .collect();
    parts.extend(
        found.system_cpu.map(|cpu| format!("machine {} {}", short(cpu), cell.metric.cpu_unit)),
    );
    parts.join(", ")
}

/// Median and range; how many failed, if any.
fn value(cell: &CellResult, peer: &str) -> String {
    let Some(found) = cell.summary(peer) else {
        return if cell.peers().contains(&peer) { "failed".to_owned() } else { String::new() };
    };
    let failed = match found.failed {
        0 => String::new(),
        failed => format!(", {failed} of {} failed", found.samples),
    };
    let (low, high) = found.range;
    if low < high {
        return format!("{} ({}-{}{failed})", short(found.value), short(low), short(high));
    }
    format!("{}{failed}", short(found.value))
}

fn ratio(cell: &CellResult, peer: &str) -> String {
    let Some(found) = cell.ratio(peer, Part::Value) else { return String::new() };
    let mut more: Vec<(&str, Part)> = Vec::new();
    if cell.has_latencies() {
        // The value is one of them.
        let value = if cell.metric.lower_is_better { "p50" } else { "rate" };
        more.extend(LATENCY.iter().filter(|(name, _)| *name != value));
    }
    more.push(("CPU", Part::Cpu));
    let ratios = more.into_iter().filter_map(|(name, part)| {
        cell.ratio(peer, part).map(|found| format!(", {name} {:.2}", found.value))
    });
    let more: String = ratios.collect();
    match found.confidence {
        Some((low, high)) => format!("**{:.2}** ({low:.2}-{high:.2}{more})", found.value),
        None => format!("**{:.2}**{more}", found.value),
    }
}

/// Three digits that say something.
pub fn short(value: f64) -> String {
    let size = value.abs();
    let digits = match size {
        _ if size >= 100.0 || size == 0.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Replaces what stands between the two marks; none if they are missing.
pub fn replace_between(text: &str, begin: &str, end: &str, new: &str) -> Option<String> {
    let from = text.find(begin)? + begin.len();
    let to = from + text[from..].find(end)?;
    Some(format!("{}\n{}\n{}", &text[..from], new.trim_end(), &text[to..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, wanted) in
            [(0.0, "0"), (0.0123, "0.012"), (1.234, "1.23"), (45.67, "45.7"), (12345.6, "12346")]
        {
            assert_eq!(short(value), wanted);
        }
    }

    #[test]
    fn the_report_says_what_became_of_the_targets() {
        use crate::harness::results::{Run, Sample};
        let sample = |peer: &str, block, value| Sample {
            peer: peer.to_owned(),
            block,
            value: Some(value),
            cpu: Some(value),
            ..Sample::default()
        };
        let samples =
            (0..3).flat_map(|block| [sample(OURS, block, 3.0), sample("passt", block, 1.0)]);
        let cell = CellResult {
            id: "T.tap.v4.65520.in.x1".to_owned(),
            group: "T".to_owned(),
            samples: samples.collect(),
            blocks: vec![Block { busy: 0.5, steal: 0.01, work_us: 800.0 }; 3],
            ..CellResult::default()
        };
        let run = Run {
            date: "a day".to_owned(),
            command: "run".to_owned(),
            wall_s: 120.0,
            measured_s: 60.0,
            all_targets: false,
        };
        let results = Results { runs: vec![run.clone()], cells: vec![cell], ..Results::default() };
        let text = report(&results, "");
        let id = "T.tap.v4.65520.in.x1 (noisy)";
        for wanted in [
            "- a day: `run`, 2 min, of which 50 % are traffic\n".to_owned(),
            "- before blocks: busy 50 % (at most 50 %), steal 1 % (1 %), work 800 us (800-800)\n"
                .to_owned(),
            "\n1 met, 1 not met, 0 not measured.\n".to_owned(),
            format!("| {id} | at least 1.30 of passt | 3.00 (3.00-3.00) | met |\n"),
            format!("| {id} | CPU at most 0.70 of passt | 3.00 (3.00-3.00) | **not met** |\n"),
        ] {
            assert!(text.contains(&wanted), "no '{wanted}' in\n{text}");
        }
        let not_run = "| S.passt.ready | at most 6 ms (p50) | - | not measured |\n";
        assert!(!text.contains(not_run));
        let of_targets = Run { all_targets: true, ..run.clone() };
        for runs in [vec![of_targets], vec![run.clone(), run]] {
            let text = report(&Results { runs, ..results.clone() }, "");
            assert!(text.contains(not_run), "{text}");
        }
        assert!(!report(&Results::default(), "").contains("Targets"));
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let text = "a\n<!--x-->\nold\n<!--/x-->\nb\n";
        let new = replace_between(text, "<!--x-->", "<!--/x-->", "new\n");
        assert_eq!(new.as_deref(), Some("a\n<!--x-->\nnew\n<!--/x-->\nb\n"));
        assert_eq!(replace_between("a", "<!--x-->", "<!--/x-->", "new"), None);
    }
}
