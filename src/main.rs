//! passt: connects a virtual machine to the network without privileges. Start-up is one straight
//! list; this file has the only calls of `exit`.

use std::process::ExitCode;

fn main() -> ExitCode {
    passt::run::main()
}
