//! pesto: asks a running passt or pasta what goes on, and changes it.

use std::process::ExitCode;

fn main() -> ExitCode {
    passt::ask::main(std::env::args_os().skip(1))
}
