//! `nbench`: the load generator; see [`passt_nbench::load`].

use std::process::ExitCode;

use passt_nbench::load;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match load::run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nbench: {error}");
            ExitCode::FAILURE
        }
    }
}
