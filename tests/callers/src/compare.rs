//! Plays all rows, some at a time, and reports: what our program breaks, and whether the reference
//! differs exactly where that is recorded.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::row::{Caller, Reference, Row};
use crate::world::{self, is_root};
use crate::{Task, rows};

/// The verdict of a player: all clauses hold.
pub const HOLDS: &str = "all clauses hold";
/// The verdict of a player: some do not; the lines before say which.
pub const BROKEN: &str = "clauses are broken";
/// How long a row may take.
const ROW_LIMIT: Duration = Duration::from_secs(40);
/// Rows that are played at the same time. Most of their time is waiting.
const AT_ONCE: usize = 4;
/// The section of the list of differences that holds our rows.
const SECTION: &str = "## Command line and callers";

/// A row to be played, with which program, and by whose clauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Our program, and what must be so.
    Ours,
    /// The reference, and what must be so.
    Reference,
    /// The reference, and what is recorded instead.
    Recorded,
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Holds,
    Broken(String),
    /// It says nothing about the program.
    Unplayable(String),
}

/// Runs the task; the last line is `N passed, N failed`.
pub fn run(task: &Task) -> ExitCode {
    let wanted = |row: &&Row| {
        task.names.is_empty() || task.names.iter().any(|name| row.id.contains(name.as_str()))
    };
    let rows: Vec<&'static Row> = rows().filter(wanted).collect();
    let (rows, left_out): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row: &&Row| row.caller != Caller::Root || is_root());
    let mut jobs: Vec<(&'static Row, Job)> = vec![];
    for &row in &rows {
        jobs.push((row, Job::Ours));
        match (&task.reference, row.reference) {
            (None, _) | (_, Reference::ByChance | Reference::Unasked) => {}
            (_, Reference::Same) => jobs.push((row, Job::Reference)),
            (_, Reference::Differs(_)) => {
                jobs.extend([(row, Job::Reference), (row, Job::Recorded)]);
            }
        }
    }
    let verdicts = play_all(task, &jobs);
    let mut report = Report::default();
    for ((row, job), verdict) in jobs.iter().zip(&verdicts) {
        report.judge(row, *job, verdict);
    }
    if task.names.is_empty() {
        report.check_record(task);
    }
    for row in &left_out {
        println!("NOT RUN callers {}: its caller is root, and this is not", row.id);
    }
    println!("{} passed, {} failed", report.passed, report.failed);
    if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays all jobs; the verdicts come in their order.
fn play_all(task: &Task, jobs: &[(&'static Row, Job)]) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(vec![None; jobs.len()]);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((row, job)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let at = jobs.iter().position(|other| (other.0.id, other.1) == (row.id, *job));
                    let verdict = play(task, row, *job).unwrap_or_else(Verdict::Unplayable);
                    let mut verdicts = verdicts.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(place) = at.and_then(|at| verdicts.get_mut(at)) {
                        *place = Some(verdict);
                    }
                }
            });
        }
    });
    let verdicts = verdicts.into_inner().unwrap_or_else(PoisonError::into_inner);
    let lost = || Verdict::Unplayable("it got lost".to_owned());
    verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(lost)).collect()
}

/// Plays one job in a world of its own.
fn play(task: &Task, row: &Row, job: Job) -> Result<Verdict, String> {
    let ours = || task.program.as_path();
    let reference = task.reference.as_deref().unwrap_or_else(ours);
    let (programs, whose): ([&Path; 2], _) = match job {
        Job::Ours => ([ours(), reference], "ours"),
        Job::Reference => ([reference, ours()], "ours"),
        Job::Recorded => ([reference, ours()], "reference"),
    };
    let text = |error: std::io::Error| error.to_string();
    let mut command =
        world::command(programs, &task.cache, &["play", row.id, whose]).map_err(text)?;
    let output = limited(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let (rest, verdict) = output.trim_end().rsplit_once('\n').unwrap_or(("", output.trim_end()));
    Ok(match verdict {
        HOLDS => Verdict::Holds,
        BROKEN => Verdict::Broken(rest.to_owned()),
        _ => Verdict::Unplayable(output),
    })
}

/// Runs a command with a limit on its time; what it wrote, both outputs after each other.
fn limited(command: &mut Command) -> Result<String, String> {
    let mut child = command.spawn().map_err(|error| format!("unshare(1): {error}"))?;
    let begin = Instant::now();
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if begin.elapsed() > ROW_LIMIT {
            // The first process of the world ends with it, and the rest with that.
            let _ended_meanwhile = child.kill();
            let _reaped = child.wait();
            return Err(format!("not done within {} s", ROW_LIMIT.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let mut text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    Ok(text)
}

/// Counts and tells.
#[derive(Default)]
struct Report {
    passed: usize,
    failed: usize,
}

impl Report {
    fn count(&mut self, name: &str, problem: Option<&str>) {
        match problem {
            None => {
                self.passed += 1;
                println!("ok    callers {name}");
            }
            Some(problem) => {
                self.failed += 1;
                let mut text = format!("FAIL  callers {name}\n");
                for line in problem.lines() {
                    let _infallible = writeln!(text, "      {line}");
                }
                print!("{text}");
            }
        }
    }

    fn judge(&mut self, row: &Row, job: Job, verdict: &Verdict) {
        let recorded = differs(row);
        let name = match job {
            Job::Ours => row.id.to_owned(),
            Job::Reference => format!("reference {}", row.id),
            Job::Recorded => format!("reference {} (difference)", row.id),
        };
        match (job, verdict) {
            (_, Verdict::Unplayable(why)) => self.count(&name, Some(why)),
            (Job::Reference, Verdict::Holds) if recorded => {
                self.count(&name, Some("it keeps this, but a difference is recorded"));
            }
            (Job::Reference, Verdict::Broken(_)) if recorded => self.count(&name, None),
            (_, Verdict::Holds) => self.count(&name, None),
            (_, Verdict::Broken(why)) => self.count(&name, Some(why)),
        }
    }

    /// The rows that the list of differences names are those that record one.
    fn check_record(&mut self, task: &Task) {
        let Some(path) = &task.differences else { return };
        let list = std::fs::read_to_string(path).unwrap_or_default();
        let named = named_rows(&list);
        let recorded: BTreeSet<&str> =
            rows().filter(|row| differs(row)).map(|row| row.id).collect();
        let mut problem = String::new();
        for id in recorded.symmetric_difference(&named) {
            let side = if named.contains(id) { "records no difference" } else { "is not listed" };
            let _infallible = writeln!(problem, "{id} {side}");
        }
        let name = "differences are those of contrib/DIFFERENCES.md";
        self.count(name, (!problem.is_empty()).then_some(problem.as_str()));
    }
}

/// Whether a difference is recorded.
fn differs(row: &Row) -> bool {
    !matches!(row.reference, Reference::Same | Reference::Unasked)
}

/// The names in backquotes on lines of our section that begin with `Rows:`.
fn named_rows(list: &str) -> BTreeSet<&str> {
    let section = list.split_once(SECTION).map_or("", |(_, rest)| rest);
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let lines = section.lines().filter_map(|line| line.trim().strip_prefix("Rows:"));
    lines.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

#[cfg(test)]
mod tests {
    use super::{SECTION, named_rows};

    #[test]
    fn rows_are_named_in_one_section_only() {
        let list = format!(
            "Rows: `a`\n\n{SECTION}\n\n- Text `b`\n  Rows: `c`, `d-e`.\n\n## X\nRows: `f`\n"
        );
        assert_eq!(named_rows(&list).into_iter().collect::<Vec<_>>(), ["c", "d-e"]);
    }
}
