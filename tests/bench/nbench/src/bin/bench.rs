//! `bench`: the harness of the benchmark; see [`passt_nbench::harness`]. `tests/bench/run`
//! starts it where it can work.

use std::process::ExitCode;

use passt_nbench::harness::cli;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match cli::run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
