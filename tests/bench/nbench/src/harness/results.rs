//! What a run leaves behind: every sample, and what they come to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cells::{Cell, Load, Soak, Work};
use super::peers::{DIRECT, OURS};
use super::stats::{confidence, median, range};

/// A whole run, or several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// When and how it was run.
    #[serde(default)]
    pub runs: Vec<Run>,
    /// Kernel, processors, settings: one line each.
    pub machine: Vec<String>,
    /// What each peer says of its version.
    pub peers: BTreeMap<String, String>,
    /// What was measured.
    pub cells: Vec<CellResult>,
}

/// How results came about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When it began.
    pub date: String,
    /// The command line.
    pub command: String,
    /// How long it has taken, in seconds.
    pub wall_s: f64,
    /// How much of that was warm-up or measured time of a sample, in seconds.
    pub measured_s: f64,
    /// Whether it was asked for the cells of all targets.
    #[serde(default)]
    pub all_targets: bool,
}

/// One cell of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// Its name.
    pub id: String,
    /// Its group.
    pub group: String,
    /// What its values are.
    pub metric: Metric,
    /// One for each time it was run, in that order.
    pub samples: Vec<Sample>,
    /// What the machine was like before each block.
    pub blocks: Vec<Block>,
}

/// What the values of a cell are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Unit of the value.
    pub unit: String,
    /// Whether less is better.
    pub lower_is_better: bool,
    /// Unit of the processor time; empty if there is none.
    pub cpu_unit: String,
}

/// One run of one peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Whose.
    pub peer: String,
    /// In which block.
    pub block: usize,
    /// What was found, or why nothing was.
    pub value: Option<f64>,
    /// Processor time of the daemon.
    pub cpu: Option<f64>,
    /// Processor time of the whole machine, both ends of the traffic and guests included.
    pub system_cpu: Option<f64>,
    /// More of it: quantiles, losses.
    pub more: BTreeMap<String, f64>,
    /// Why there is no value.
    pub error: Option<String>,
    /// How long it took, everything that was started and ended for it included, in seconds.
    #[serde(default)]
    pub wall_s: f64,
}

/// The machine before a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Part of its processors' time that others used, 0 to 1.
    pub busy: f64,
    /// Part of the time that it was not given its processors, 0 to 1.
    pub steal: f64,
    /// Time of a fixed piece of work, in microseconds.
    pub work_us: f64,
}

/// Above this, what others did is worth a mark.
pub const NOISE: f64 = 0.15;

/// What the samples of one peer come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Median of the value.
    pub value: f64,
    /// Least and greatest.
    pub range: (f64, f64),
    /// Median processor time of the daemon.
    pub cpu: Option<f64>,
    /// Median processor time of the machine.
    pub system_cpu: Option<f64>,
    /// How many samples there are, and how many failed.
    pub samples: usize,
    /// Failed samples.
    pub failed: usize,
}

/// A median of some values, and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The median.
    pub value: f64,
    /// Its 95 % confidence interval, with three values or more.
    pub confidence: Option<(f64, f64)>,
}

impl Estimate {
    /// None of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self { value: median(values)?, confidence: confidence(values) })
    }
}

/// Which number of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the cell is about.
    Value,
    /// The daemon's processor time.
    Cpu,
    /// What else came with it, by its name.
    More(&'static str),
}

/// What a distribution of latencies is judged by, in this order, with its short name: none alone says enough, since
/// one is easily bought with another.
pub const LATENCY: [(&str, Part); 4] = [
    ("p50", Part::More("p50_us")),
    ("p99", Part::More("p99_us")),
    ("p99.9", Part::More("p999_us")),
    ("rate", Part::More("per_s")),
];

impl Part {
    fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Value => sample.value,
            Self::Cpu => sample.cpu.filter(|_| sample.value.is_some()),
            Self::More(name) => sample.more.get(name).copied(),
        }
    }
}

impl Metric {
    /// What the values of `cell` are.
    pub fn of(cell: &Cell) -> Self {
        let (unit, lower_is_better, cpu_unit) = match cell.work {
            Work::Load(Load::Stream { .. } | Load::Udp { .. }) => ("Gbit/s", false, "CPU-s/GiB"),
            Work::Load(Load::Iperf { .. }) | Work::Soak(Soak::Bulk | Soak::Hostile) => {
                ("Gbit/s", false, "")
            }
            Work::Soak(Soak::Connections) => ("per s", false, ""),
            Work::Load(Load::Rr { .. }) => ("us (p50)", true, "CPU-us each"),
            Work::Load(Load::Crr { .. } | Load::Storm { .. }) => ("per s", false, "CPU-us each"),
            Work::Memory { connections: 0 } => ("KiB (PSS)", true, ""),
            Work::Memory { .. } => ("B each (PSS)", true, ""),
            Work::Most | Work::Soak(Soak::Idle) => ("connections", false, ""),
            Work::Ready { .. } | Work::Command => ("ms (p50)", true, ""),
            Work::Idle { .. } => ("% of a CPU", true, ""),
        };
        Self { unit: unit.to_owned(), lower_is_better, cpu_unit: cpu_unit.to_owned() }
    }
}

impl CellResult {
    /// The peers, in the order in which they first ran, the limit last.
    pub fn peers(&self) -> Vec<&str> {
        let mut peers: Vec<&str> = Vec::new();
        for sample in &self.samples {
            if !peers.contains(&sample.peer.as_str()) {
                peers.push(&sample.peer);
            }
        }
        peers.sort_by_key(|peer| *peer == DIRECT);
        peers
    }

    /// None if the peer has no value.
    pub fn summary(&self, peer: &str) -> Option<Summary> {
        let mine = self.samples_of(peer);
        let values = self.values(peer, Part::Value);
        let of = |part: fn(&Sample) -> Option<f64>| {
            median(&mine.iter().filter_map(|sample| part(sample)).collect::<Vec<_>>())
        };
        Some(Summary {
            value: median(&values)?,
            range: range(&values)?,
            cpu: of(|sample| sample.cpu),
            system_cpu: of(|sample| sample.system_cpu),
            samples: mine.len(),
            failed: mine.len() - values.len(),
        })
    }

    /// The samples of a peer.
    pub fn samples_of(&self, peer: &str) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.peer == peer).collect()
    }

    /// The numbers of a peer's samples.
    pub fn values(&self, peer: &str, part: Part) -> Vec<f64> {
        self.samples_of(peer).into_iter().filter_map(|sample| part.of(sample)).collect()
    }

    /// Ours to `peer`'s, by the ratios of each block; above 1, ours is more. None if either has
    /// no value.
    pub fn ratio(&self, peer: &str, part: Part) -> Option<Estimate> {
        let of_block = |block| {
            let ours = self.of_block(OURS, block, part)?;
            let theirs = self.of_block(peer, block, part)?;
            (theirs > 0.0).then_some(ours / theirs)
        };
        Estimate::of(&(0..self.blocks.len()).filter_map(of_block).collect::<Vec<_>>())
    }

    fn of_block(&self, peer: &str, block: usize, part: Part) -> Option<f64> {
        let mine = self.samples_of(peer).into_iter().filter(|sample| sample.block == block);
        median(&mine.filter_map(|sample| part.of(sample)).collect::<Vec<_>>())
    }

    /// Medians of what else the samples of a peer have.
    pub fn more(&self, peer: &str) -> BTreeMap<String, f64> {
        let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for sample in self.samples_of(peer) {
            for (name, value) in &sample.more {
                values.entry(name).or_default().push(*value);
            }
        }
        let medians = values.into_iter();
        medians.filter_map(|(name, all)| Some((name.to_owned(), median(&all)?))).collect()
    }

    /// Whether it is about latencies.
    pub fn has_latencies(&self) -> bool {
        self.samples.iter().any(|sample| sample.more.contains_key("p999_us"))
    }

    /// Whether others used the machine while this was measured.
    pub fn is_noisy(&self) -> bool {
        self.blocks.iter().any(|block| block.busy > NOISE || block.steal > NOISE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(peer: &str, block: usize, value: f64) -> Sample {
        let (peer, value) = (peer.to_owned(), Some(value));
        Sample { peer, block, value, cpu: value, ..Sample::default() }
    }

    #[test]
    fn ratios_are_taken_within_blocks() {
        // The machine is twice as fast in the second block, and the ratio is the same.
        let samples = vec![
            sample("passt", 0, 1.0),
            sample(OURS, 0, 3.0),
            sample(OURS, 1, 6.0),
            sample("passt", 1, 2.0),
            Sample { peer: "passt".to_owned(), block: 1, ..Sample::default() },
        ];
        let cell =
            CellResult { samples, blocks: vec![Block::default(); 2], ..CellResult::default() };
        let ratio = cell.ratio("passt", Part::Value).unwrap();
        assert!((ratio.value - 3.0).abs() < 1e-9 && cell.ratio("passt", Part::Cpu).is_some());
        assert_eq!(cell.ratio("nobody", Part::Value), None);
        let summary = cell.summary("passt").unwrap();
        assert_eq!((summary.value, summary.range), (1.5, (1.0, 2.0)));
        assert_eq!((summary.samples, summary.failed), (3, 1));
        assert_eq!(cell.peers(), ["passt", OURS]);
    }
}
