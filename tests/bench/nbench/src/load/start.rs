//! `nbench start`: how long a program takes to serve, or to end.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::PATIENCE;
use crate::args::Args;
use crate::histogram::Histogram;
use crate::report::Starts;

/// How often it is looked whether the file is there.
const LOOK: Duration = Duration::from_micros(50);

/// # Errors
/// The arguments, a program that cannot be started, fails, or takes too long.
pub fn run(words: &[&str]) -> Result<Starts, Box<dyn Error>> {
    let split = words.iter().position(|word| *word == "--").ok_or("no -- before the command")?;
    let args = Args::parse(&words[..split], &["count", "pid", "stale"])?;
    let (program, words) = words[split + 1..].split_first().ok_or("no command")?;
    let pid_file: String = args.value("pid", String::new())?;
    let stale: String = args.value("stale", String::new())?;
    let mut histogram = Histogram::default();
    for _ in 0..args.value("count", 10)? {
        for file in [&pid_file, &stale] {
            // Usually it is not there.
            let _ = fs::remove_file(file);
        }
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        let took =
            if pid_file.is_empty() { until_end(command)? } else { until_file(command, &pid_file)? };
        histogram.record(took.as_nanos() as u64);
    }
    Ok(Starts { latency: histogram.summary() })
}

fn until_end(mut command: Command) -> Result<Duration, Box<dyn Error>> {
    let begin = Instant::now();
    let status = command.status()?;
    if status.success() {
        Ok(begin.elapsed())
    } else {
        Err(format!("the command: {status}").into())
    }
}

fn until_file(mut command: Command, file: &str) -> Result<Duration, Box<dyn Error>> {
    let begin = Instant::now();
    let mut child = command.spawn()?;
    let took = loop {
        let passed = begin.elapsed();
        if fs::metadata(Path::new(file)).is_ok_and(|data| data.len() > 0) {
            break Ok(passed);
        }
        if passed > PATIENCE {
            break Err("the file did not appear".into());
        }
        if let Some(status) = child.try_wait()? {
            return Err(format!("the command has ended: {status}").into());
        }
        std::thread::sleep(LOOK);
    };
    child.kill()?;
    child.wait()?;
    took
}
