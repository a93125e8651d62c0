//! The command line of the harness.

use std::fs;
use std::path::{Path, PathBuf};

use super::cells::{self, Cell, GROUPS, SOAK};
use super::measure::Times;
use super::peers::Peer;
use super::results::Results;
use super::rig::bind;
use super::session::{FIRST_PORT, Session};
use super::{Result, markdown, svg, targets, world};

const USAGE: &str = "\
usage: tests/bench/run [OPTION...]
  --cells PATTERN[,PATTERN...]  which cells, with * and ?; `targets` is a set of them (all)
  --peers PEER[,PEER...]        which peers: auto, ours, passt, slirp4netns, libslirp, direct, or
                                NAME=PROGRAM for another passt (auto: what is there)
  --blocks N                    times that each cell is run, there and back (5)
  --seconds S, --warmup S       measured and discarded time of each run (3, 1)
  --minutes M                   how long soaks take, the cells R.*, which run once and only if they
                                are named (10)
  --count N                     connections of the soaks R.*.connections and R.*.idle (1000000 and
                                20000)
  --quick                       one block, once, 1 s after 0.3 s: while changing things
  --pin none|split|packed       daemon on processor 1 and the rest on 0, or all on 1 (none)
  --output FOLDER               where results go (the cache's bench/latest)
  --into FILE                   the tables also go between the marks of this Markdown file, and
                                the plots beside it
  --list                        names the cells, with --cells only these, and ends
  --report FILE RESULTS...      writes the tables of results.json files between the marks of a
                                Markdown file, and the plots beside it, and ends; of a cell that
                                several files have, the last counts";

/// The word for the cells that have targets.
const TARGETS: &str = "targets";

/// Marks in a Markdown file between which the tables stand.
const MARKS: (&str, &str) = ("<!-- tables -->", "<!-- end of tables -->");

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Measure,
    List,
    Help,
}

struct Options {
    action: Action,
    cells: Vec<String>,
    /// The cells are those that all targets need, and perhaps others.
    all_targets: bool,
    peers: String,
    blocks: usize,
    once: bool,
    times: Times,
    pin: Pin,
    output: Option<PathBuf>,
    into: Option<PathBuf>,
}

/// Which processors things run on.
#[derive(Clone, Copy)]
enum Pin {
    None,
    Split,
    Packed,
}

impl Pin {
    fn parse(word: &str) -> Result<Self> {
        match word {
            "none" => Ok(Self::None),
            "split" => Ok(Self::Split),
            "packed" => Ok(Self::Packed),
            _ => Err(format!("no such way to pin: '{word}'").into()),
        }
    }

    /// Binds this process, and with it all that it starts; returns the daemons' processor.
    fn apply(self) -> Result<Option<usize>> {
        let (all, daemon) = match self {
            Self::None => return Ok(None),
            Self::Split => (0, 1),
            Self::Packed => (1, 1),
        };
        bind(None, all)?;
        Ok(Some(daemon))
    }
}

/// Does what the words say.
///
/// # Errors
/// Wrong words, and what keeps results from being written.
pub fn run(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["--report", file, results @ ..] = words.as_slice()
        && !results.is_empty()
    {
        let results: Vec<&Path> = results.iter().map(Path::new).collect();
        return report_into(Path::new(file), &results);
    }
    let options = parse(&words)?;
    match options.action {
        Action::Measure => return measure(&options, command_line(&words)),
        Action::List => listed(&options.cells)?.iter().for_each(|cell| println!("{}", cell.id)),
        Action::Help => println!("{USAGE}"),
    }
    Ok(())
}

fn parse(words: &[&str]) -> Result<Options> {
    let mut options = Options {
        action: Action::Measure,
        cells: Vec::new(),
        all_targets: false,
        peers: "auto".to_owned(),
        blocks: 5,
        once: false,
        times: Times { seconds: 3.0, warmup: 1.0, starts: 50, minutes: 10.0, count: None },
        pin: Pin::None,
        output: None,
        into: None,
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut next = || words.next().copied().ok_or_else(|| format!("{word} needs an argument"));
        match *word {
            "--cells" => {
                let words = next()?;
                options.all_targets |= words.split(',').any(|word| word == TARGETS);
                options.cells.extend(words.split(',').flat_map(patterns));
            }
            "--pin" => options.pin = Pin::parse(next()?)?,
            "--peers" => options.peers = next()?.to_owned(),
            "--blocks" => options.blocks = number(next()?)? as usize,
            "--seconds" => options.times.seconds = number(next()?)?,
            "--warmup" => options.times.warmup = number(next()?)?,
            "--minutes" => options.times.minutes = number(next()?)?,
            "--count" => options.times.count = Some(number(next()?)? as u64),
            "--output" => options.output = Some(PathBuf::from(next()?)),
            "--into" => options.into = Some(PathBuf::from(next()?)),
            "--list" => options.action = Action::List,
            "--help" | "-h" => options.action = Action::Help,
            "--quick" => {
                (options.blocks, options.once) = (1, true);
                options.times = Times { seconds: 1.0, warmup: 0.3, starts: 10, ..options.times };
            }
            _ => return Err(format!("unknown option '{word}'\n{USAGE}").into()),
        }
    }
    Ok(options)
}

fn number(word: &str) -> Result<f64> {
    word.parse().map_err(|_| format!("cannot read the number '{word}'").into())
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| format!("{name} is not set: use tests/bench/run").into())
}

fn measure(options: &Options, command: String) -> Result<()> {
    if !world::is_here() {
        return Err("the world of tests/bench/run is not here".into());
    }
    let chosen = choose(&options.cells)?;
    let peers = Peer::list(
        &options.peers,
        Path::new(&variable("BENCH_OURS")?),
        Path::new(&variable("BENCH_PACKAGED")?),
    )?;
    let folder = match &options.output {
        Some(folder) => folder.clone(),
        None => PathBuf::from(variable("BENCH_OUTPUT")?),
    };
    fs::create_dir_all(folder.join("logs"))?;
    if let Some(file) = &options.into {
        // Before all is measured.
        between_marks(file, "")?;
    }
    let soaks: Vec<String> =
        chosen.iter().filter(|cell| cell.group == SOAK).map(|cell| cell.id.clone()).collect();
    let mut session = Session {
        command,
        all_targets: options.all_targets,
        cells: chosen,
        peers,
        blocks: options.blocks,
        once: options.once,
        times: options.times,
        folder: folder.clone(),
        next_port: FIRST_PORT,
        daemon_processor: options.pin.apply()?,
    };
    let results = session.run()?;
    let text = markdown::report(&results, "");
    fs::write(folder.join("results.md"), &text)?;
    write_plots(&results, &folder)?;
    if let Some(file) = &options.into {
        report_into(file, &[&folder.join("results.json")])?;
    }
    println!("{text}\nresults are in {}", folder.display());
    match failed(&soaks, &results) {
        none if none.is_empty() => Ok(()),
        failed => Err(format!("soaks that failed or did not run: {}", failed.join(", ")).into()),
    }
}

/// Soaks with a sample that failed, or without any.
fn failed<'a>(soaks: &'a [String], results: &Results) -> Vec<&'a str> {
    let is_good = |soak: &&String| {
        let found = results.cells.iter().find(|cell| cell.id == **soak);
        found.is_some_and(|cell| {
            !cell.samples.is_empty() && cell.samples.iter().all(|sample| sample.error.is_none())
        })
    };
    soaks.iter().filter(|soak| !is_good(soak)).map(String::as_str).collect()
}

/// The patterns that a word stands for: the set of cells with targets, or itself.
fn patterns(word: &str) -> Vec<String> {
    if word == TARGETS { targets::cells_needed() } else { vec![word.to_owned()] }
}

/// The command line as others could repeat it: without places on this machine.
fn command_line(words: &[&str]) -> String {
    let peer = |peer: &str| match peer.split_once('=') {
        Some((name, _)) => format!("{name}=PROGRAM"),
        None => peer.to_owned(),
    };
    let before = std::iter::once(&"").chain(words);
    let told = before.zip(words).map(|(before, word)| match *before {
        "--output" => "FOLDER".to_owned(),
        "--into" => "FILE".to_owned(),
        "--peers" => word.split(',').map(peer).collect::<Vec<_>>().join(","),
        _ => (*word).to_owned(),
    });
    std::iter::once("tests/bench/run".to_owned()).chain(told).collect::<Vec<_>>().join(" ")
}

/// The cells that `--list` names: without patterns all, also those that run only if they are named.
fn listed(patterns: &[String]) -> Result<Vec<Cell>> {
    if patterns.is_empty() { Ok(cells::all()) } else { choose(patterns) }
}

/// The cells that a pattern names, in the order of the table.
fn choose(patterns: &[String]) -> Result<Vec<Cell>> {
    let all = cells::all();
    for pattern in patterns {
        if !all.iter().any(|cell| cells::matches(pattern, &cell.id)) {
            return Err(format!("no cell is called '{pattern}'; --list names them").into());
        }
    }
    let by_name = |cell: &Cell, pattern: &str| {
        let soaks = cell.group != SOAK || pattern.starts_with(SOAK);
        soaks && cells::matches(pattern, &cell.id)
    };
    let everything = ["*".to_owned()];
    let patterns = if patterns.is_empty() { &everything } else { patterns };
    let is_wanted = |cell: &Cell| patterns.iter().any(|pattern| by_name(cell, pattern));
    Ok(all.into_iter().filter(is_wanted).collect())
}

fn write_plots(results: &Results, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (group, title) in GROUPS {
        let cells = markdown::of_group(results, group);
        if !cells.is_empty() {
            fs::write(folder.join(format!("{group}.svg")), svg::plot(title, &cells))?;
        }
    }
    Ok(())
}

/// Puts the tables of several runs into a Markdown file; its plots go into a folder beside it.
fn report_into(file: &Path, results: &[&Path]) -> Result<()> {
    let mut merged = Results::default();
    for path in results {
        let run: Results = serde_json::from_str(&fs::read_to_string(path)?)?;
        merged.runs.extend(run.runs);
        let new = run.machine.into_iter().filter(|line| !merged.machine.contains(line));
        merged.machine.extend(new.collect::<Vec<_>>());
        merged.peers.extend(run.peers);
        merged.cells.retain(|cell| run.cells.iter().all(|new| new.id != cell.id));
        merged.cells.extend(run.cells);
    }
    let all = cells::all();
    merged.cells.sort_by_key(|result| all.iter().position(|cell| cell.id == result.id));
    let tables = markdown::report(&merged, "bench/");
    fs::write(file, between_marks(file, &tables)?)?;
    write_plots(&merged, &file.with_file_name("bench"))
}

/// The text of a Markdown file with `tables` between its marks.
fn between_marks(file: &Path, tables: &str) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let new = markdown::replace_between(&text, MARKS.0, MARKS.1, tables)
        .ok_or_else(|| format!("{} has no {} and {}", file.display(), MARKS.0, MARKS.1))?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::results::{CellResult, Sample};

    #[test]
    fn the_command_line_is_told_without_places() {
        let told = command_line(&["--peers", "ours,old=/a/b,direct", "--output", "/c", "--quick"]);
        let wanted = "tests/bench/run --peers ours,old=PROGRAM,direct --output FOLDER --quick";
        assert_eq!(told, wanted);
        assert_eq!(command_line(&["--into", "/d/e.md"]), "tests/bench/run --into FILE");
    }

    #[test]
    fn a_file_without_marks_is_refused_before_anything_is_measured() {
        let file = std::env::temp_dir().join(format!("passt-marks-{}", std::process::id()));
        for (text, wanted) in [
            ("a\n<!-- tables -->\nold\n<!-- end of tables -->\nb\n", true),
            ("a\n<!-- tables -->\n", false),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(between_marks(&file, "new").is_ok(), wanted, "{text}");
        }
        fs::remove_file(&file).unwrap();
        assert!(between_marks(&file, "new").is_err());
    }

    #[test]
    fn a_soak_that_fails_or_is_left_out_is_told() {
        let soaks = ["R.tap.bulk", "R.vu.bulk", "R.tap.idle"].map(str::to_owned);
        let cell = |id: &str, error: Option<&str>| CellResult {
            id: id.to_owned(),
            samples: vec![Sample { error: error.map(str::to_owned), ..Sample::default() }],
            ..CellResult::default()
        };
        let cells = vec![cell("R.tap.bulk", None), cell("R.vu.bulk", Some("stalled"))];
        let results = Results { cells, ..Results::default() };
        assert_eq!(failed(&soaks, &results), ["R.vu.bulk", "R.tap.idle"]);
    }

    #[test]
    fn cells_are_chosen_by_pattern() {
        let names = |patterns: &[&str]| -> Vec<String> {
            let patterns: Vec<String> = patterns.iter().map(|word| (*word).to_owned()).collect();
            choose(&patterns).unwrap().into_iter().map(|cell| cell.id).collect()
        };
        assert_eq!(names(&["T.tap.v4.1500.out.x1"]), ["T.tap.v4.1500.out.x1"]);
        assert!(names(&["S.*", "I.*"]).len() > 5);
        let all: Vec<String> = patterns("targets");
        assert!(choose(&all).unwrap().len() > 40);
        let soaks = names(&["R.*"]).len();
        assert!(soaks > 0 && names(&[]).len() == cells::all().len() - soaks);
        assert!(choose(&["nothing".to_owned()]).is_err());
    }

    #[test]
    fn the_list_is_of_the_cells_that_are_named() {
        let names = |words: &[&str]| -> Vec<String> {
            let options = parse(words).unwrap();
            assert_eq!(options.action, Action::List);
            listed(&options.cells).unwrap().into_iter().map(|cell| cell.id).collect()
        };
        assert_eq!(names(&["--list"]).len(), cells::all().len());
        assert_eq!(names(&["--list", "--cells", "I.pasta.auto"]), ["I.pasta.auto"]);
        assert_eq!(names(&["--quick", "--cells", "I.pasta.auto", "--list"]), ["I.pasta.auto"]);
        assert!(listed(&["nothing".to_owned()]).is_err());
    }
}
