//! passt-repair: switches `TCP_REPAIR` on and off for passt when a guest migrates.

use std::process::ExitCode;

fn main() -> ExitCode {
    passt::repair::main()
}
