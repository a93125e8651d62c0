//! Results as Markdown tables, one for each group.

use std::fmt::Write;

use super::cells::GROUPS;
use super::peers::{DIRECT, OURS};
use super::results::{CellResult, Results};

/// The whole report. `plots` is the folder of the plots, as seen from the report.
pub fn report(results: &Results, plots: &str) -> String {
    let mut text = String::new();
    for line in &results.machine {
        let _ = writeln!(text, "- {line}");
    }
    for (peer, version) in &results.peers {
        let _ = writeln!(text, "- `{peer}`: {version}");
    }
    for (group, title) in GROUPS {
        let cells: Vec<&CellResult> = of_group(results, group);
        if !cells.is_empty() {
            let _ = writeln!(text, "\n### {title}\n\n![{title}]({plots}{group}.svg)\n");
            table(&mut text, &cells);
        }
    }
    text
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
    head(text, &heads);
    for cell in cells {
        let mut fields = vec![cell.id.clone()];
        fields.extend(peers.iter().map(|peer| details(cell, peer)));
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
    let Some(found) = cell.ratio(peer) else { return String::new() };
    let cpu = found.cpu.map(|cpu| format!(", CPU {cpu:.2}")).unwrap_or_default();
    match found.confidence {
        Some((low, high)) => format!("**{:.2}** ({low:.2}-{high:.2}{cpu})", found.value),
        None => format!("**{:.2}**{cpu}", found.value),
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
    fn only_what_is_between_the_marks_changes() {
        let text = "a\n<!--x-->\nold\n<!--/x-->\nb\n";
        let new = replace_between(text, "<!--x-->", "<!--/x-->", "new\n");
        assert_eq!(new.as_deref(), Some("a\n<!--x-->\nnew\n<!--/x-->\nb\n"));
        assert_eq!(replace_between("a", "<!--x-->", "<!--/x-->", "new"), None);
    }
}
