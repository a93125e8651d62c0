//! pasta: the same program under its other name.

use std::process::ExitCode;

fn main() -> ExitCode {
    passt::run::main()
}
