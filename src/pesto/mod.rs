//! pesto: changes what a running passt or pasta forwards, by the protocol of
//! [`control::configuration`](crate::control::configuration), on the socket of `--conf-path`. What it can ask by JSON
//! is another part, [`ask`].
//!
//! | file | what it does |
//! |---|---|
//! | `words` | reads the command line |
//! | `tables` | the rules of a program, and what the options make of them: pure |
//! | `connection` | what is said with the program |
//!
//! Whoever listens on the socket may be hostile. Before it is connected with, the program has given up everything but
//! this one socket and its standard output.

mod connection;
mod failure;
mod tables;
mod words;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use crate::ask;
use crate::conf::ports;
use crate::sandbox::{self, Needs, Program};
use crate::sys::capability::{self, Capabilities};
use crate::sys::errno_text;
use connection::Connection;
use failure::Failure;
use tables::Tables;
use words::{Asked, Job};

pub use words::command;

/// The program. Exit code 0 when it has done what it was asked, 1 for every error.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| ask::is_command(word)) {
        return ask::main(words);
    }
    let done = match words::parse(&words) {
        Ok(Asked::Text(text)) => {
            print(&text);
            Ok(())
        }
        Ok(Asked::Job(job)) => run(&job),
        Err(failure) => Err(failure),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(message)) => {
            let _ = writeln!(std::io::stderr(), "{}", message.trim_end_matches('\n'));
            ExitCode::FAILURE
        }
    }
}

/// Prints to standard output. A reader that is gone does not want the text any more.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints to standard error, if that is wanted.
fn debug(job: &Job, text: std::fmt::Arguments<'_>) {
    if job.debug {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

fn run(job: &Job) -> Result<(), Failure> {
    let path = job.path.display();
    debug(job, format_args!("debug_flag=1, path=\"{path}\""));
    let (ephemeral, note) = ports::ephemeral_range();
    if let Some(note) = note {
        let _ = writeln!(std::io::stderr(), "{}", note.text);
    }
    let connection = Connection::prepare(&job.path)?;
    // Sockets of other users may have to be reached, as root.
    capability::keep(Capabilities::DAC_OVERRIDE).map_err(|errno| {
        Failure::new(format!("Couldn't drop capabilities: {}", errno_text(errno)))
    })?;
    sandbox::confine(Program::Pesto, Needs::default())
        .map_err(|error| Failure::new(error.to_string()))?;

    let mut connection = connection.connect()?;
    debug(job, format_args!("Connected to passt/pasta control socket"));
    let before = connection.receive(&mut |text| debug(job, text))?;
    if job.steps.is_empty() {
        print(&before.shown(&format!("passt/pasta configuration ({path})")));
        return Ok(());
    }
    if job.show {
        print(&before.shown(&format!("Previous configuration ({path})")));
    }
    let mut after = before.clone();
    after.apply(&job.steps, ephemeral)?;
    if job.show {
        print(&after.shown(&format!("Updated configuration ({path})")));
    }
    connection.send(&after)?;
    if connection.has_verdict()? {
        return Ok(());
    }
    debug(job, format_args!("No answer: looking again"));
    drop(connection);
    look_again(job, &before, &after)
}

/// Whether a program that does not say what came of a request has followed it.
fn look_again(job: &Job, before: &Tables, after: &Tables) -> Result<(), Failure> {
    let mut connection = Connection::prepare(&job.path)?.connect()?;
    let now = connection.receive(&mut |_| {})?;
    if now.follows(before, after) {
        return Ok(());
    }
    let path = job.path.display();
    Err(Failure::new(format!("The program at {path} has not taken the new rules: see its log")))
}
