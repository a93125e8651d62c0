//! pesto: changes what a running passt or pasta forwards, and asks it what goes on.

use std::process::ExitCode;

fn main() -> ExitCode {
    passt::pesto::main()
}
