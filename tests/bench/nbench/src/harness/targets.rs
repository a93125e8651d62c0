//! What the project has set itself, as data, and what became of it: a bound on what a cell
//! comes to, in its own unit, or compared with another program or with a cell of ours. The
//! program says whether it is met; nobody writes that down by hand.

use super::cells::{self, Cell};
use super::peers::{DIRECT, OURS};
use super::results::{CellResult, Estimate, Metric, Part, Results};
use super::stats::{confidence_of_ratio, median};

/// The packaged program that ours is compared with.
const PASST: &str = "passt";

/// What a number is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Yardstick {
    /// Nothing: the number itself, in the cell's unit.
    Unit,
    /// The same cell of another program, block by block.
    Peer(&'static str),
    /// Our own cell whose name has the second instead of the first.
    Own(&'static str, &'static str),
}

/// How much it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// One bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// On the value, or on the processor time.
    pub part: Part,
    /// Compared with what.
    pub against: Yardstick,
    /// How much.
    pub bound: Bound,
}

/// One target: of its demands, one has to be met in each of its cells.
#[derive(Debug)]
pub struct Target {
    /// What it is about.
    pub title: &'static str,
    /// Patterns of the cells.
    pub cells: &'static [&'static str],
    /// The demands.
    pub any: &'static [Demand],
}

const fn demand(part: Part, against: Yardstick, bound: Bound) -> Demand {
    Demand { part, against, bound }
}

/// At least so many times passt's value.
const fn times(bound: f64) -> Demand {
    demand(Part::Value, Yardstick::Peer(PASST), Bound::AtLeast(bound))
}

/// At most so much of passt's value.
const fn part_of(bound: f64) -> Demand {
    demand(Part::Value, Yardstick::Peer(PASST), Bound::AtMost(bound))
}

/// At most so much of passt's processor time.
const fn processor(bound: f64) -> Demand {
    demand(Part::Cpu, Yardstick::Peer(PASST), Bound::AtMost(bound))
}

/// At most so much of passt's latency at this quantile.
const fn quantile(name: &'static str, bound: f64) -> Demand {
    demand(Part::More(name), Yardstick::Peer(PASST), Bound::AtMost(bound))
}

/// At least so many times passt's transactions a second.
const fn rate(bound: f64) -> Demand {
    demand(Part::More("per_s"), Yardstick::Peer(PASST), Bound::AtLeast(bound))
}

/// At most so much, in the cell's unit.
const fn at_most(bound: f64) -> Demand {
    demand(Part::Value, Yardstick::Unit, Bound::AtMost(bound))
}

const fn target(
    title: &'static str,
    cells: &'static [&'static str],
    any: &'static [Demand],
) -> Target {
    Target { title, cells, any }
}

const TAP_OUT: &[&str] = &["T.tap.v4.65520.out.x?", "T.tap.v4.1500.out.x?"];
const TAP_IN: &[&str] = &["T.tap.v4.65520.in.x1"];
const TAP_IN_1500: &[&str] = &["T.tap.v4.1500.in.x1"];
const BYPASS: &[&str] = &["T.bypass.v4.out.x1", "T.bypass.v4.in.x1"];
const VU: &[&str] = &["T.vu.v4.65520.out.x?", "T.vu.v4.65520.in.x?"];
const VU_1500: &[&str] = &["T.vu.v4.1500.out.x?", "T.vu.v4.1500.in.x?"];
const STREAM: &[&str] =
    &["T.stream.v4.65520.out.x1", "T.stream.v4.65520.in.x1", "T.stream.v4.1500.*.x1"];

/// Alone, 16 at once, beside a bulk stream.
const EXCHANGES: &[&str] = &[
    "L.tap.v4.*.tcp.x1",
    "L.tap.v4.*.udp.x1",
    "L.tap.v4.*.tcp.x16",
    "L.tap.v4.*.udp.x16",
    "L.tap.v4.*.loaded*",
    "L.vu.v4.*.tcp.x1",
    "L.vu.v4.*.udp.x1",
    "L.vu.v4.*.tcp.x16",
    "L.vu.v4.*.udp.x16",
    "L.vu.v4.*.loaded*",
];
const CONNECTIONS: &[&str] = &["C.tap.v4.*.x8", "C.vu.v4.*.x1"];

/// All of them.
pub const TARGETS: &[Target] = &[
    target(
        "tap, out of the namespace",
        TAP_OUT,
        &[
            demand(Part::Value, Yardstick::Unit, Bound::AtLeast(12.0)),
            demand(Part::Value, Yardstick::Peer(DIRECT), Bound::AtLeast(1.0 / 3.0)),
        ],
    ),
    target("tap, into the namespace", TAP_IN, &[times(1.3)]),
    target("tap, into the namespace", TAP_IN, &[processor(0.7)]),
    target("tap, into the namespace, small MTU", TAP_IN_1500, &[times(10.0)]),
    target("tap, into the namespace, small MTU", TAP_IN_1500, &[processor(0.15)]),
    target("tap, datagrams", &["U.tap.v4.*.1400.out", "U.tap.v4.*.1400.in"], &[times(3.0)]),
    target("tap, latency", &["L.tap.v4.*.tcp.x1", "L.tap.v4.*.udp.x1"], &[part_of(0.8)]),
    target(
        "tap, latency beside 5000 idle connections",
        &["L.tap.v4.*.tcp.idle5000"],
        &[demand(Part::Value, Yardstick::Own(".idle5000", ".x1"), Bound::AtMost(1.1))],
    ),
    target("far away, the first second of an upload", &["W.*.out.rtt20.first"], &[times(0.9)]),
    target("tap, connections", &["C.tap.v4.*.x8"], &[times(1.5)]),
    target("bypass, throughput", BYPASS, &[times(1.0)]),
    target("bypass, throughput", BYPASS, &[processor(1.0)]),
    target("bypass, latency", &["L.bypass.v4.tcp.x1"], &[part_of(0.9)]),
    target("bypass, connections", &["C.bypass.v4.*.x8"], &[times(1.3)]),
    target("vhost-user", VU, &[times(1.1)]),
    target("vhost-user", VU, &[processor(0.8)]),
    target(
        "vhost-user, small MTU",
        VU_1500,
        &[demand(Part::Value, Yardstick::Own(".1500.", ".65520."), Bound::AtLeast(0.9))],
    ),
    target("vhost-user, small MTU", VU_1500, &[times(1.4)]),
    target("vhost-user, small MTU", VU_1500, &[processor(0.6)]),
    target("vhost-user, latency", &["L.vu.v4.*.tcp.x1", "L.vu.v4.*.udp.x1"], &[part_of(0.9)]),
    target("vhost-user, connections", &["C.vu.v4.*.x1"], &[times(1.2)]),
    target("stream socket", STREAM, &[times(1.2)]),
    target("stream socket", STREAM, &[processor(0.7)]),
    target("exchanges, p50", EXCHANGES, &[quantile("p50_us", 0.9)]),
    target("exchanges, p99", EXCHANGES, &[quantile("p99_us", 0.9)]),
    target("exchanges, p99.9", EXCHANGES, &[quantile("p999_us", 0.9)]),
    target("exchanges, rate", EXCHANGES, &[rate(1.1)]),
    target("connections, p99", CONNECTIONS, &[quantile("p99_us", 0.9)]),
    target("connections, p99.9", CONNECTIONS, &[quantile("p999_us", 0.9)]),
    target("raw ring, datagrams", &["U.ring.*"], &[times(3.0), processor(0.5)]),
    target("memory of an idle daemon", &["M.*.idle"], &[at_most(3.0 * 1024.0)]),
    target("memory for an idle connection", &["M.*.conn1000", "M.*.conn5000"], &[at_most(512.0)]),
    target("processor time, looking for ports", &["I.pasta.auto"], &[at_most(0.05)]),
    target("start until ready", &["S.passt.ready"], &[at_most(6.0)]),
    target("`pasta --config-net -- true`", &["S.pasta.command"], &[part_of(0.5)]),
];

impl Target {
    /// The cells that it is about.
    fn of<'a>(&self, all: &'a [Cell]) -> impl Iterator<Item = &'a Cell> {
        let is_named =
            |cell: &&Cell| self.cells.iter().any(|pattern| cells::matches(pattern, &cell.id));
        all.iter().filter(is_named)
    }

    /// The names of the cells, and of those of ours that they are compared with.
    fn needs(&self, all: &[Cell]) -> Vec<String> {
        let mut names: Vec<String> = self.of(all).map(|cell| cell.id.clone()).collect();
        for demand in self.any {
            if let Yardstick::Own(from, to) = demand.against {
                names.extend(self.of(all).map(|cell| cell.id.replace(from, to)));
            }
        }
        names
    }
}

/// The names of all cells that a target needs.
pub fn cells_needed() -> Vec<String> {
    let all = cells::all();
    TARGETS.iter().flat_map(|target| target.needs(&all)).collect()
}

/// What became of a target in one cell.
#[derive(Debug)]
pub struct Outcome {
    /// The target.
    pub target: &'static Target,
    /// The cell's name.
    pub cell: String,
    /// The unit of its values.
    pub unit: String,
    /// What was measured for each of its demands.
    pub measured: Vec<Option<Estimate>>,
    /// How many of our samples failed, and of how many.
    pub failed: (usize, usize),
    /// Whether others used the machine meanwhile.
    pub noisy: bool,
}

/// The word for an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The median is within the bound; `sure` if its whole confidence interval is.
    Met {
        /// The interval does not reach over the bound.
        sure: bool,
    },
    /// It is not; `sure` as above.
    NotMet {
        /// The interval does not reach over the bound.
        sure: bool,
    },
    /// There is no number, or none to compare it with.
    NotMeasured,
}

impl Outcome {
    /// The best that its demands come to.
    pub fn verdict(&self) -> Verdict {
        let demands = self.target.any.iter().zip(&self.measured);
        let verdicts = demands
            .filter_map(|(demand, found)| found.as_ref().map(|found| judge(demand.bound, found)));
        let rank = |verdict: &Verdict| match verdict {
            Verdict::Met { sure } => 2 + u8::from(*sure),
            Verdict::NotMet { sure } => u8::from(!*sure),
            Verdict::NotMeasured => 0,
        };
        let best = verdicts.max_by_key(rank).unwrap_or(Verdict::NotMeasured);
        // A failure counts as the worst of values.
        match best {
            Verdict::Met { .. } if self.failed.0 > 0 => Verdict::NotMet { sure: true },
            other => other,
        }
    }
}

fn judge(bound: Bound, found: &Estimate) -> Verdict {
    let sure = found.confidence.is_some_and(|(low, high)| bound.holds(low) == bound.holds(high));
    if bound.holds(found.value) { Verdict::Met { sure } } else { Verdict::NotMet { sure } }
}

/// What became of every target, in their order; a cell without results is there, too.
pub fn outcomes(results: &Results) -> Vec<Outcome> {
    let all = cells::all();
    let mut outcomes = Vec::new();
    for target in TARGETS {
        for wanted in target.of(&all) {
            let cell = results.cells.iter().find(|cell| cell.id == wanted.id);
            let ours = cell.map(|cell| cell.samples_of(OURS)).unwrap_or_default();
            outcomes.push(Outcome {
                target,
                measured: target.any.iter().map(|demand| measure(results, cell, demand)).collect(),
                failed: (ours.iter().filter(|one| one.value.is_none()).count(), ours.len()),
                noisy: cell.is_some_and(CellResult::is_noisy),
                cell: wanted.id.clone(),
                unit: Metric::of(wanted).unit,
            });
        }
    }
    outcomes
}

fn measure(results: &Results, cell: Option<&CellResult>, demand: &Demand) -> Option<Estimate> {
    let cell = cell?;
    match demand.against {
        Yardstick::Unit => Estimate::of(&cell.values(OURS, demand.part)),
        Yardstick::Peer(peer) => cell.ratio(peer, demand.part),
        Yardstick::Own(from, to) => {
            let other = cell.id.replace(from, to);
            let other = results.cells.iter().find(|cell| cell.id == other)?;
            let (mine, theirs) = (cell.values(OURS, demand.part), other.values(OURS, demand.part));
            let value = median(&mine)? / median(&theirs).filter(|value| *value > 0.0)?;
            Some(Estimate { value, confidence: confidence_of_ratio(&mine, &theirs) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::results::{Block, Sample};

    #[test]
    fn every_target_is_about_cells_that_there_are() {
        let all = cells::all();
        for target in TARGETS {
            assert!(!target.any.is_empty(), "{}", target.title);
            for pattern in target.cells {
                let named = all.iter().any(|cell| cells::matches(pattern, &cell.id));
                assert!(named, "{}: nothing is {pattern}", target.title);
            }
        }
        for name in cells_needed() {
            assert!(all.iter().any(|cell| cell.id == name), "there is no {name}");
        }
    }

    fn cell(id: &str, ours: &[f64], passt: &[f64]) -> CellResult {
        let sample = |peer: &str, block, value: f64| Sample {
            peer: peer.to_owned(),
            block,
            value: (value > 0.0).then_some(value),
            cpu: Some(1.0),
            ..Sample::default()
        };
        let all = |peer, values: &[f64]| -> Vec<Sample> {
            values.iter().enumerate().map(|(block, value)| sample(peer, block, *value)).collect()
        };
        let samples = [all(OURS, ours), all(PASST, passt)].concat();
        let blocks = vec![Block::default(); ours.len()];
        CellResult { id: id.to_owned(), samples, blocks, ..CellResult::default() }
    }

    fn verdicts(results: &Results, id: &str) -> Vec<Verdict> {
        let all = outcomes(results);
        all.iter().filter(|one| one.cell == id).map(Outcome::verdict).collect()
    }

    const IN: &str = "T.tap.v4.65520.in.x1";
    const OUT: &str = "T.tap.v4.1500.out.x4";
    const IDLE: &str = "L.tap.v4.65520.tcp.idle5000";
    const SURE: (Verdict, Verdict) = (Verdict::Met { sure: true }, Verdict::NotMet { sure: true });

    #[test]
    fn bounds_are_on_the_median_and_an_interval_across_makes_it_unsure() {
        let of = |ours: &[f64]| {
            let cells = vec![cell(IN, ours, &[1.0; 5])];
            verdicts(&Results { cells, ..Results::default() }, IN)
        };
        // The processor time is the same, and should be 0.7 times as much.
        assert_eq!(of(&[2.0; 5]), [SURE.0, SURE.1]);
        assert_eq!(of(&[1.2; 5]), [SURE.1, SURE.1]);
        assert_eq!(of(&[1.3; 5]), [SURE.0, SURE.1]);
        assert_eq!(of(&[1.0, 1.1, 1.4, 1.5, 1.6])[0], Verdict::Met { sure: false });
        assert_eq!(of(&[1.0, 1.1, 1.2, 1.5, 1.6])[0], Verdict::NotMet { sure: false });
        assert_eq!(of(&[2.0, 2.0, -1.0, 2.0, 2.0])[0], SURE.1, "a sample failed");
        assert_eq!(verdicts(&Results::default(), IN), [Verdict::NotMeasured; 2]);
    }

    #[test]
    fn one_of_several_demands_is_enough() {
        let mut out = cell(OUT, &[13.0; 5], &[]);
        let of = |cell: &CellResult| {
            verdicts(&Results { cells: vec![cell.clone()], ..Results::default() }, OUT)
        };
        assert_eq!(of(&out), [SURE.0]);
        out.samples.iter_mut().for_each(|sample| sample.value = Some(7.0));
        assert_eq!(of(&out), [SURE.1]);
        let limit: Vec<Sample> = out
            .samples
            .iter()
            .cloned()
            .map(|sample| Sample { peer: DIRECT.to_owned(), value: Some(20.0), ..sample })
            .collect();
        out.samples.extend(limit);
        assert_eq!(of(&out), [SURE.0]);
    }

    #[test]
    fn cells_of_ours_are_compared_with_each_other() {
        let alone = cell("L.tap.v4.65520.tcp.x1", &[10.0; 5], &[]);
        for (beside, wanted) in [(10.5, SURE.0), (12.0, SURE.1)] {
            let cells = vec![alone.clone(), cell(IDLE, &[beside; 5], &[])];
            assert_eq!(verdicts(&Results { cells, ..Results::default() }, IDLE), [wanted]);
        }
    }
}
