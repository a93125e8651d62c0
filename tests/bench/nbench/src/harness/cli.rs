//! The command line of the harness.

use std::fs;
use std::path::{Path, PathBuf};

use super::cells::{self, Cell, GROUPS};
use super::measure::Times;
use super::peers::Peer;
use super::results::Results;
use super::rig::bind;
use super::session::{FIRST_PORT, Session};
use super::{Result, markdown, svg, world};

const USAGE: &str = "\
usage: tests/bench/run [OPTION...]
  --cells PATTERN[,PATTERN...]  which cells, with * and ?; `targets` is a set of them (all)
  --peers PEER[,PEER...]        which peers: auto, ours, passt, slirp4netns, libslirp, direct, or
                                NAME=PROGRAM for another passt (auto: what is there)
  --blocks N                    times that each cell is run, there and back (5)
  --seconds S, --warmup S       measured and discarded time of each run (3, 1)
  --quick                       one block, once, 1 s after 0.3 s: while changing things
  --pin none|split|packed       daemon on processor 1 and the rest on 0, or all on 1 (none)
  --output FOLDER               where results go (the cache's bench/latest)
  --list                        names the cells and ends
  --report FILE RESULTS...      writes the tables of results.json files between the marks of a
                                Markdown file, and the plots beside it, and ends";

/// Marks in a Markdown file between which the tables stand.
const MARKS: (&str, &str) = ("<!-- tables -->", "<!-- end of tables -->");

struct Options {
    cells: Vec<String>,
    peers: String,
    blocks: usize,
    once: bool,
    times: Times,
    pin: Pin,
    output: PathBuf,
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
    match words.as_slice() {
        ["--list"] => {
            cells::all().iter().for_each(|cell| println!("{}", cell.id));
            Ok(())
        }
        ["--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        ["--report", file, results @ ..] if !results.is_empty() => {
            report_into(Path::new(file), results)
        }
        _ => measure(&parse(&words)?),
    }
}

fn parse(words: &[&str]) -> Result<Options> {
    let mut options = Options {
        cells: Vec::new(),
        peers: "auto".to_owned(),
        blocks: 5,
        once: false,
        times: Times { seconds: 3.0, warmup: 1.0, starts: 50 },
        pin: Pin::None,
        output: PathBuf::from(variable("BENCH_OUTPUT")?),
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut next = || words.next().copied().ok_or_else(|| format!("{word} needs an argument"));
        match *word {
            "--cells" => {
                let patterns = next()?.split(',').flat_map(cells::patterns);
                options.cells.extend(patterns.map(str::to_owned));
            }
            "--pin" => options.pin = Pin::parse(next()?)?,
            "--peers" => options.peers = next()?.to_owned(),
            "--blocks" => options.blocks = number(next()?)? as usize,
            "--seconds" => options.times.seconds = number(next()?)?,
            "--warmup" => options.times.warmup = number(next()?)?,
            "--output" => options.output = PathBuf::from(next()?),
            "--quick" => {
                (options.blocks, options.once) = (1, true);
                options.times = Times { seconds: 1.0, warmup: 0.3, starts: 10 };
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

fn measure(options: &Options) -> Result<()> {
    if !world::is_here() {
        return Err("the world of tests/bench/run is not here".into());
    }
    let chosen = choose(&options.cells)?;
    let peers = Peer::list(
        &options.peers,
        Path::new(&variable("BENCH_OURS")?),
        Path::new(&variable("BENCH_PACKAGED")?),
    )?;
    fs::create_dir_all(options.output.join("logs"))?;
    let mut session = Session {
        cells: chosen,
        peers,
        blocks: options.blocks,
        once: options.once,
        times: options.times,
        folder: options.output.clone(),
        next_port: FIRST_PORT,
        daemon_processor: options.pin.apply()?,
    };
    let results = session.run()?;
    let text = markdown::report(&results, "");
    fs::write(options.output.join("results.md"), &text)?;
    write_plots(&results, &options.output)?;
    println!("{text}\nresults are in {}", options.output.display());
    Ok(())
}

/// The cells that a pattern names, in the order of the table.
fn choose(patterns: &[String]) -> Result<Vec<Cell>> {
    let all = cells::all();
    for pattern in patterns {
        if !all.iter().any(|cell| cells::matches(pattern, &cell.id)) {
            return Err(format!("no cell is called '{pattern}'; --list names them").into());
        }
    }
    let is_wanted = |cell: &Cell| {
        patterns.is_empty() || patterns.iter().any(|pattern| cells::matches(pattern, &cell.id))
    };
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
fn report_into(file: &Path, results: &[&str]) -> Result<()> {
    let mut merged = Results::default();
    for path in results {
        let run: Results = serde_json::from_str(&fs::read_to_string(path)?)?;
        merged.machine = run.machine;
        merged.peers.extend(run.peers);
        merged.cells.retain(|cell| run.cells.iter().all(|new| new.id != cell.id));
        merged.cells.extend(run.cells);
    }
    let tables = markdown::report(&merged, "bench/");
    let text = fs::read_to_string(file)?;
    let new = markdown::replace_between(&text, MARKS.0, MARKS.1, &tables)
        .ok_or_else(|| format!("{} has no {} and {}", file.display(), MARKS.0, MARKS.1))?;
    fs::write(file, new)?;
    write_plots(&merged, &file.with_file_name("bench"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_chosen_by_pattern() {
        let names = |patterns: &[&str]| -> Vec<String> {
            let patterns: Vec<String> = patterns.iter().map(|word| (*word).to_owned()).collect();
            choose(&patterns).unwrap().into_iter().map(|cell| cell.id).collect()
        };
        assert_eq!(names(&["T.tap.v4.1500.out.x1"]), ["T.tap.v4.1500.out.x1"]);
        assert!(names(&["S.*", "I.*"]).len() > 5);
        assert!(names(&cells::patterns("targets")).len() > 40);
        assert_eq!(names(&[]).len(), cells::all().len());
        assert!(choose(&["nothing".to_owned()]).is_err());
    }
}
