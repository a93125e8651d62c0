//! The part of `pesto` that speaks JSON with a running program, on the socket of `--control`: what goes on, as tables,
//! as OpenMetrics text, or as it was said; and changes.
//!
//! | file | what it holds |
//! |---|---|
//! | `words` | the command line |
//! | `connection` | requests and replies, line by line |
//! | `tables` | answers for people |
//! | `metrics` | answers for collectors |

mod connection;
mod metrics;
mod tables;
mod words;

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::control::json::commands::CommandName;
use crate::control::json::model::{Egress, Flows, Log, Problem, Rules, Stats, Status};
use crate::sandbox::{self, Needs, Program};
use crate::sys::capability::{self, Capabilities};
use crate::sys::io_error_text;
use connection::Connection;
use words::{Asked, Command};
pub use words::{command, is_command};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    /// The socket.
    #[error("Cannot speak with {path}: {}", socket_problem(source))]
    Socket {
        /// Where it is.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// What came is no reply.
    #[error(
        "{0} does not answer as a control socket does: give the path of --control or --control-ro"
    )]
    Reply(PathBuf),
    /// It was followed, and says no more, though its program runs.
    #[error(
        "{0} has closed the connection, and still listens: watch again, and read faster: who does not read for some \
         seconds is cut off, and one of those who watch where others wait"
    )]
    CutOff(PathBuf),
    /// The program refuses.
    #[error("{}", refusal(.0))]
    Refused(Problem),
    /// The program cannot be confined.
    #[error("{0}")]
    Sandbox(String),
    /// Standard input or output, or a file of rules.
    #[error("{what}: {}", io_error_text(source))]
    Local {
        /// What was to be done.
        what: String,
        /// What the kernel says.
        source: io::Error,
    },
}

/// What the kernel says of a socket, and what to do about it.
fn socket_problem(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::WouldBlock {
        let seconds = connection::PATIENCE.as_secs();
        return format!("nothing for {seconds} s: it is busy, or stopped");
    }
    format!(
        "{}: give the path of --control or --control-ro of a program that runs, where you may connect",
        io_error_text(error)
    )
}

fn refusal(problem: &Problem) -> String {
    let Problem { field, problem, cure } = problem;
    let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
    tables::clean(&format!("{field}{problem}: {cure}"))
}

/// Does what the words behind the program's name ask for.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let asked = match words::parse(args) {
        Ok(asked) => asked,
        Err(error) => {
            // Help is no failure. A reader that is gone does not want it any more.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(&asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(asked: &Asked) -> Result<(), AskError> {
    // The last thing that needs files. Who listens on the socket may be hostile.
    let request = request_of(&asked.command)?;
    give_up_all_but_the_connection()?;
    let mut connection = Connection::open(&asked.path)?;
    let to = &mut connection;
    print(&match &asked.command {
        Command::Verbatim(requests) => return verbatim(to, requests),
        Command::Watch(events) => return watch(to, events),
        Command::Flows(filter) if asked.json => return pages_as_they_are(to, filter),
        Command::Flows(filter) => return flows(to, filter),
        Command::Metrics => return metrics(to),
        _ if asked.json => return print_line(&to.ask::<Value>(&request)?.to_string()),
        Command::Status => tables::status(&to.ask::<Status>(&request)?),
        Command::Stats { all } => tables::stats(&to.ask::<Stats>(&request)?, *all),
        Command::Egress | Command::EgressReplace { .. } => {
            tables::egress(&to.ask::<Egress>(&request)?)
        }
        Command::Log(_) => {
            let Log { level, to } = to.ask(&request)?;
            let to = if to.is_empty() { "nowhere".to_owned() } else { to.join(", ") };
            format!("{}, to {}\n", tables::clean(&level), tables::clean(&to))
        }
        Command::Reset(_) => {
            let ended: Flows = to.ask(&request)?;
            ended.flows.iter().map(tables::flow).collect()
        }
        Command::Rules
        | Command::RulesAdd(_)
        | Command::RulesDelete(_)
        | Command::RulesReplace(_) => tables::rules(&to.ask::<Rules>(&request)?),
    })
}

/// Leaves nothing to who takes this program over but a connection to a socket, and what it prints. Sockets of other
/// users may have to be reached, as root.
fn give_up_all_but_the_connection() -> Result<(), AskError> {
    capability::keep(Capabilities::DAC_OVERRIDE).map_err(|errno| AskError::Local {
        what: "Cannot drop capabilities".to_owned(),
        source: errno.into(),
    })?;
    sandbox::confine(Program::Pesto, Needs::default())
        .map_err(|error| AskError::Sandbox(error.to_string()))
}

/// The request of a command that has one request and one reply; nothing for others, which make their own.
fn request_of(command: &Command) -> Result<Value, AskError> {
    Ok(match command {
        Command::Status => request(CommandName::Status, json!({})),
        Command::Stats { .. } => request(CommandName::Stats, json!({})),
        Command::Reset(flow) => request(CommandName::FlowReset, json!({ "flow": flow })),
        Command::Rules => request(CommandName::Rules, json!({})),
        Command::RulesAdd(one) => request(CommandName::RulesAdd, one.clone()),
        Command::RulesDelete(one) => request(CommandName::RulesDelete, one.clone()),
        Command::RulesReplace(all) => request(CommandName::RulesReplace, json!({ "rules": all })),
        Command::Egress => request(CommandName::Egress, json!({})),
        Command::EgressReplace { rules, file, isolate } => {
            let mut rules = rules.clone();
            if let Some(path) = file {
                rules.extend(rules_in(path)?);
            }
            request(CommandName::EgressReplace, json!({ "rules": rules, "isolate": isolate }))
        }
        Command::Log(None) => request(CommandName::Log, json!({})),
        Command::Log(Some(level)) => request(CommandName::Log, json!({ "level": level })),
        Command::Metrics | Command::Flows(_) | Command::Watch(_) | Command::Verbatim(_) => {
            Value::Null
        }
    })
}

/// The request `command` with its fields.
fn request(command: CommandName, mut fields: Value) -> Value {
    fields["command"] = command.text().into();
    fields
}

/// The rules in a file, one a line, as `--egress-file` has them.
fn rules_in(path: &PathBuf) -> Result<Vec<String>, AskError> {
    let text = std::fs::read_to_string(path).map_err(|source| AskError::Local {
        what: format!("Cannot read {}", path.display()),
        source,
    })?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn print(text: &str) -> Result<(), AskError> {
    let mut out = io::stdout().lock();
    let done = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match done {
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(AskError::Local { what: "Cannot write".to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Prints a line of JSON. Control characters, which whoever listens may have put in there, are escaped as in its texts.
fn print_line(line: &str) -> Result<(), AskError> {
    let mut shown = String::with_capacity(line.len() + 1);
    for c in line.chars() {
        if c.is_control() {
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown.push('\n');
    print(&shown)
}

/// Page after page of the list of flows; `each` says what is made of a page.
///
/// # Errors
/// Also [`AskError::Reply`], where a page does not begin behind the one before.
fn pages(
    to: &mut Connection,
    filter: &Value,
    mut each: impl FnMut(Flows) -> Result<(), AskError>,
) -> Result<(), AskError> {
    let mut request = request(CommandName::Flows, filter.clone());
    let mut from = 0;
    loop {
        let mut page: Flows = to.ask(&request)?;
        let next = page.next.take();
        each(page)?;
        let Some(next) = next else { return Ok(()) };
        if next <= from {
            return Err(to.no_reply());
        }
        from = next;
        request["from"] = from.into();
    }
}

fn flows(to: &mut Connection, filter: &Value) -> Result<(), AskError> {
    let mut heading = tables::FLOWS_HEADING;
    pages(to, filter, |page| {
        print(std::mem::take(&mut heading))?;
        print(&page.flows.iter().map(tables::flow).collect::<String>())
    })
}

/// A line for each flow.
fn pages_as_they_are(to: &mut Connection, filter: &Value) -> Result<(), AskError> {
    pages(to, filter, |page| {
        let line = |flow| serde_json::to_string(flow).unwrap_or_default();
        page.flows.iter().map(line).try_for_each(|line| print_line(&line))
    })
}

fn metrics(to: &mut Connection) -> Result<(), AskError> {
    let status: Status = to.answer(CommandName::Status)?;
    let stats: Stats = to.answer(CommandName::Stats)?;
    let egress: Egress = to.answer(CommandName::Egress)?;
    print(&metrics::text(&status, &stats, &egress))
}

/// Prints a line for each event, until the program ends, or who reads them.
///
/// # Errors
/// Also [`AskError::CutOff`].
fn watch(to: &mut Connection, events: &[String]) -> Result<(), AskError> {
    let mut request = request(CommandName::Watch, json!({}));
    if !events.is_empty() {
        request["events"] = json!(events);
    }
    let _followed: Value = to.ask(&request)?;
    to.be_patient()?;
    while to.has_more_for(io::stdout())? {
        match to.event()? {
            Some(line) => print_line(&line)?,
            // Nobody listens any more where the program has ended.
            None if to.is_listened_for() => return Err(to.cut_off()),
            None => break,
        }
    }
    Ok(())
}

/// Passes requests on as they are, and prints the replies as they are.
fn verbatim(to: &mut Connection, requests: &[String]) -> Result<(), AskError> {
    for request in requests {
        let reply = to.exchange(&request.replace('\n', " "))?;
        print_line(&reply)?;
    }
    if !requests.is_empty() {
        return Ok(());
    }
    for line in io::stdin().lock().lines() {
        let line =
            line.map_err(|source| AskError::Local { what: "Cannot read".to_owned(), source })?;
        if line.trim().is_empty() {
            continue;
        }
        let reply = to.exchange(&line)?;
        print_line(&reply)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_busy_or_stopped() {
        let socket = |kind: io::ErrorKind| {
            AskError::Socket { path: "/c".into(), source: kind.into() }.to_string()
        };
        let said = socket(io::ErrorKind::WouldBlock);
        assert_eq!(said, "Cannot speak with /c: nothing for 10 s: it is busy, or stopped");
        assert!(socket(io::ErrorKind::NotFound).contains(": give the path of --control"));
    }
}
