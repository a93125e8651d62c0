//! Results as a plot: a row of bars for each cell, one bar for each peer, with a whisker from
//! the least to the greatest sample. Bars are relative to the longest of their cell, because a
//! group's cells differ by orders of magnitude; the numbers stand beside them.

use std::fmt::Write;

use super::markdown::{peers_of, short};
use super::results::CellResult;

/// Pixels.
const LABELS: f64 = 230.0;
const BARS: f64 = 480.0;
const NUMBERS: f64 = 150.0;
const BAR: f64 = 13.0;
const GAP: f64 = 10.0;
const TOP: f64 = 58.0;
const WIDTH: f64 = LABELS + BARS + NUMBERS;

/// Colours that people who do not tell red from green can tell apart (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999"];

/// The plot of one group.
pub fn plot(title: &str, cells: &[&CellResult]) -> String {
    let peers = peers_of(cells);
    let mut body = String::new();
    let mut y = TOP;
    for cell in cells {
        y = bars(&mut body, cell, &peers, y) + GAP;
    }
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" \
         height=\"{y}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"20\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    legend(&mut text, &peers);
    text + &body + "</svg>\n"
}

fn legend(text: &mut String, peers: &[&str]) {
    for (place, peer) in peers.iter().enumerate() {
        let x = 8.0 + 110.0 * place as f64;
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"32\" width=\"11\" height=\"11\" fill=\"{}\"/>\
             <text x=\"{}\" y=\"42\">{}</text>",
            colour(place),
            x + 16.0,
            escape(peer)
        );
    }
}

/// Draws a cell's bars from `y` on; returns where they end.
fn bars(text: &mut String, cell: &CellResult, peers: &[&str], mut y: f64) -> f64 {
    let better = if cell.metric.lower_is_better { "less is better" } else { "more is better" };
    let _ = writeln!(
        text,
        "<text x=\"8\" y=\"{}\">{}</text><text x=\"8\" y=\"{}\" fill=\"#666\">{}, {better}</text>",
        y + BAR - 3.0,
        escape(&cell.id),
        y + 2.0 * BAR - 3.0,
        escape(&cell.metric.unit)
    );
    let begin = y;
    let all = peers.iter().filter_map(|peer| cell.summary(peer));
    let longest = all.map(|found| found.range.1).fold(f64::MIN_POSITIVE, f64::max);
    for (place, peer) in peers.iter().enumerate() {
        let Some(found) = cell.summary(peer) else { continue };
        let x = |value: f64| LABELS + BARS * value.max(0.0) / longest;
        let (low, high, middle) = (x(found.range.0), x(found.range.1), y + BAR / 2.0);
        let _ = writeln!(
            text,
            "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"/>\
             <path d=\"M{low:.1} {middle}H{high:.1}M{low:.1} {a}V{b}M{high:.1} {a}V{b}\" stroke=\"black\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            x(found.value) - LABELS,
            BAR - 2.0,
            colour(place),
            LABELS + BARS + 8.0,
            y + BAR - 3.0,
            escape(&short(found.value)),
            a = middle - 3.0,
            b = middle + 3.0,
        );
        y += BAR;
    }
    y.max(begin + 2.0 * BAR)
}

fn colour(place: usize) -> &'static str {
    COLOURS[place % COLOURS.len()]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::results::{Block, Sample};

    /// The tags that are not closed; fails at one that closes another.
    fn open_tags(text: &str) -> Vec<&str> {
        let mut open = Vec::new();
        for tag in text.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').unwrap();
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            let name = tag.split([' ', '/']).find(|word| !word.is_empty()).unwrap();
            match tag {
                _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(name)),
                _ if tag.ends_with('/') => {}
                _ => open.push(name),
            }
        }
        open
    }

    #[test]
    fn every_peer_with_a_value_has_a_bar() {
        let sample =
            |peer: &str, value| Sample { peer: peer.to_owned(), value, ..Sample::default() };
        let samples =
            vec![sample("ours", Some(2.0)), sample("a<b", Some(1.0)), sample("none", None)];
        let cell = CellResult { samples, blocks: vec![Block::default()], ..CellResult::default() };
        let plot = plot("T & U", &[&cell]);
        assert_eq!(plot.matches("<path").count(), 2);
        assert!(plot.contains("T &amp; U") && plot.contains("a&lt;b"));
        assert!(plot.starts_with("<svg ") && plot.ends_with("</svg>\n"));
        assert_eq!(open_tags(&plot), Vec::<&str>::new());
    }
}
