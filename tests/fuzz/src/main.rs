//! Fuzz targets: one program, and the environment variable `FUZZ_TARGET` says which of [`TARGETS`] it is. LLVM's fuzzer
//! calls a target with bytes, and prefers those that lead to code where nobody has been. A target panics where the
//! program breaks a promise: that is the finding, and the input stays behind in a file. `tests/fuzz/run` builds and runs
//! this; it must be in a network namespace of its own, as `run` has it.
//!
//! A target is a function `fn(&[u8])` that depends on nothing but its input, and a line in [`TARGETS`].

#![no_main]

mod control;
mod engine;
mod fragments;
mod head;
mod input;
mod kernel;
mod moving;
mod namespace;
#[allow(dead_code, reason = "tests use all of it")]
#[path = "../../engine/packet.rs"]
mod packet;
mod responders;
mod ring;
mod stream;
mod tcp;
mod words;
#[allow(dead_code, reason = "tests use all of it")]
#[path = "../../engine/world.rs"]
mod world;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// A target's name, and what it does with an input.
type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("head", head::run),
    ("responders", responders::run),
    ("fragments", fragments::run),
    ("arguments", words::arguments),
    ("ports", words::ports),
    ("policy", words::policy),
    ("resolv", words::resolv),
    ("dns", kernel::dns),
    ("netlink", kernel::netlink),
    ("records", moving::records),
    ("state", moving::state),
    ("stream", stream::run),
    ("messages", ring::messages),
    ("rings", ring::rings),
    ("tcp", tcp::storm),
    ("tcp_world", tcp::world),
    ("configuration", control::configuration),
    ("server", control::server),
    ("control", control::lines),
    ("engine", engine::run),
];

static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();

/// Finds the target by its name in the environment.
fn choose() {
    let names = TARGETS.map_names();
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    if name == "list" {
        println!("{names}");
        std::process::exit(0);
    }
    let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) else {
        eprintln!("FUZZ_TARGET={name}: no such target; there are: {names}");
        std::process::exit(2);
    };
    let _ = CHOSEN.set(*target);
    // As the standard library has it, which is not asked here.
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

trait Names {
    fn map_names(&self) -> String;
}

impl Names for [Target] {
    fn map_names(&self) -> String {
        self.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    }
}

fuzz_target!(init: choose(), |data: &[u8]| {
    CHOSEN.get().expect("init comes first")(data);
});
