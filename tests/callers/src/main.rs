//! Starts passt and pasta as their callers do, and holds them to what the callers rely on.
//!
//!     callers [--reference PROGRAM --differences FILE] [--cache FOLDER] PROGRAM [NAME...]
//!
//! The tables are in `contracts.rs`, what each caller expects of a start that succeeds, and in
//! `refusals.rs`, what must be refused and in which words; `confined.rs` has starts that are traced. NAME is a part of a row's name. With
//! `--reference` the same rows are played with the packaged passt: where it differs, the row says
//! what it does instead, and FILE names the row with the reason. A difference that is not recorded
//! fails, and so does a record without a difference.

mod client;
mod compare;
mod confined;
mod contracts;
mod pipes;
mod play;
mod policy;
mod process;
mod refusals;
mod row;
mod trace;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use row::{Reference, Row};

/// What is to be done.
#[derive(Default)]
pub struct Task {
    program: PathBuf,
    reference: Option<PathBuf>,
    differences: Option<PathBuf>,
    cache: PathBuf,
    names: Vec<String>,
}

/// All rows, in the order of the reports.
fn rows() -> impl Iterator<Item = &'static Row> {
    contracts::ROWS.iter().chain(refusals::ROWS).chain(confined::ROWS)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, id, which] = &words[..]
        && first == "play"
    {
        return play_one(id, which == "reference");
    }
    match task(words) {
        Some(task) => compare::run(&task),
        None => {
            eprintln!(
                "usage: callers [--reference PROGRAM --differences FILE] [--cache FOLDER] PROGRAM [NAME...]"
            );
            ExitCode::from(2)
        }
    }
}

fn task(words: Vec<String>) -> Option<Task> {
    let mut task = Task::default();
    let mut words = words.into_iter();
    let mut program = None;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--reference" => task.reference = Some(words.next()?.into()),
            "--differences" => task.differences = Some(words.next()?.into()),
            "--cache" => task.cache = words.next()?.into(),
            _ if program.is_none() => program = Some(PathBuf::from(word)),
            _ => task.names.push(word),
        }
    }
    task.program = program?;
    Some(task)
}

/// Plays one row in the world that this process is the first of. The last line is the verdict.
fn play_one(id: &str, reference: bool) -> ExitCode {
    let Some(row) = rows().find(|row| row.id == id) else {
        println!("no such row");
        return ExitCode::from(2);
    };
    let clauses = match row.reference {
        Reference::Differs(clauses) if reference => clauses,
        _ => row.clauses,
    };
    match play::play(row, clauses) {
        Ok(broken) if broken.is_empty() => println!("{}", compare::HOLDS),
        Ok(broken) => println!("{}\n{}", broken.join("\n"), compare::BROKEN),
        Err(why) => println!("cannot be played: {why}"),
    }
    ExitCode::SUCCESS
}
