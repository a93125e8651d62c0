//! qrap: starts a QEMU of before 7.2 with a connection to passt.

use std::process::ExitCode;

fn main() -> ExitCode {
    passt::qrap::main()
}
