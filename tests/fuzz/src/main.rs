//! Fuzz targets: one program, and the environment variable `FUZZ_TARGET` says which of [`TARGETS`] it is. LLVM's fuzzer
//! calls a target with bytes, and prefers those that lead to code where nobody has been. A target panics where the
//! program breaks a promise: that is the finding, and the input stays behind in a file. `tests/fuzz/run` builds and runs
//! this; it must be in a network namespace of its own, as `run` has it.
//!
//! A target is a function `fn(&[u8])` that depends on nothing but its input, and a line in [`TARGETS`].
//!
//! `FUZZ_TARGET=list` names all of them, and `files` the sources that each is about; `captures` makes inputs of captures.

#![no_main]

mod captures;
mod control;
mod coverage;
mod ends;
mod engine;
mod fragments;
mod frames;
mod head;
mod input;
mod kernel;
mod links;
mod moving;
mod namespace;
#[allow(dead_code, reason = "tests use all of it")]
#[path = "../../engine/packet.rs"]
mod packet;
mod responders;
mod ring;
#[path = "../../engine/slot_port.rs"]
mod slot_port;
mod stream;
mod tcp;
mod words;
#[allow(dead_code, reason = "tests use all of it")]
#[path = "../../engine/world.rs"]
mod world;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use passt_support::heap::Counting;

/// A target's name, what it does with an input, and the files or folders that it is about.
type Target = (&'static str, fn(&[u8]), &'static [&'static str]);

const TARGETS: &[Target] = &[
    ("head", head::run, &["src/wire/ip.rs", "src/wire/l4.rs", "src/wire/eth.rs"]),
    ("responders", responders::run, &["src/responder/"]),
    ("fragments", fragments::run, &["src/flow/reassembly.rs"]),
    (
        "arguments",
        words::arguments,
        &["src/conf/options/", "src/conf/meaning.rs", "src/conf/slirp4netns/"],
    ),
    (
        "ports",
        words::ports,
        &["src/conf/ports.rs", "src/flow/fwd/table.rs", "src/flow/fwd/rule.rs"],
    ),
    ("policy", words::policy, &["src/flow/fwd/policy_text.rs", "src/flow/fwd/places.rs"]),
    ("resolv", words::resolv, &["src/conf/resolv.rs"]),
    ("dns", kernel::dns, &["src/wire/dns.rs"]),
    (
        "netlink",
        kernel::netlink,
        &["src/conf/host/netlink.rs", "src/sys/sock_diag.rs", "src/sys/neighbours.rs"],
    ),
    ("records", moving::records, &["src/flow/migration/record.rs", "src/flow/migration/socket.rs"]),
    ("state", moving::state, &["src/engine/migration/load.rs", "src/flow/migration/"]),
    ("stream", stream::run, &["legacy/src/incoming.rs", "legacy/src/stream.rs"]),
    (
        "messages",
        ring::messages,
        &[
            "vhost/src/message.rs",
            "vhost/src/control.rs",
            "vhost/src/handler.rs",
            "vhost/src/session.rs",
        ],
    ),
    (
        "rings",
        ring::rings,
        &[
            "vhost/src/ring.rs",
            "vhost/src/vring.rs",
            "vhost/src/rx.rs",
            "vhost/src/tx.rs",
            "vhost/src/indexes.rs",
        ],
    ),
    ("tcp", tcp::storm, &["src/flow/tcp/"]),
    ("tcp_world", tcp::world, &["src/flow/tcp/"]),
    ("configuration", control::configuration, &["src/control/configuration/"]),
    ("server", control::server, &["src/control/configuration/format.rs"]),
    (
        "control",
        control::lines,
        &["src/control/json/", "src/control/server.rs", "src/control/client.rs"],
    ),
    (
        "engine",
        engine::run,
        &[
            "src/engine/tcp/",
            "src/engine/datagrams/",
            "src/engine/ingress.rs",
            "src/engine/responders.rs",
            "src/engine/flows.rs",
        ],
    ),
];

/// So that a target can tell what is allocated.
#[global_allocator]
static HEAP: Counting = Counting;

static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();

/// Finds the target by its name in the environment.
fn choose() {
    let names = TARGETS.map_names();
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    if name == "list" {
        println!("{names}");
        std::process::exit(0);
    }
    if name == "files" {
        for (known, _, files) in TARGETS {
            println!("{known} {}", files.join(" "));
        }
        std::process::exit(0);
    }
    if name == "captures" {
        let words: Vec<String> = std::env::args().collect();
        let [_, capture, client, folder] = &words[..] else {
            eprintln!("FUZZ_TARGET=captures wants a capture, the client's name and a folder");
            std::process::exit(2);
        };
        captures::write(capture.as_ref(), client, folder.as_ref()).expect("a capture");
        std::process::exit(0);
    }
    let Some((_, target, _)) = TARGETS.iter().find(|(known, ..)| *known == name) else {
        eprintln!("FUZZ_TARGET={name}: no such target; there are: {names}");
        std::process::exit(2);
    };
    let _ = CHOSEN.set(*target);
    coverage::begin();
    // As the standard library has it, which is not asked here.
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

trait Names {
    fn map_names(&self) -> String;
}

impl Names for [Target] {
    fn map_names(&self) -> String {
        self.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(" ")
    }
}

fuzz_target!(init: choose(), |data: &[u8]| {
    CHOSEN.get().expect("init comes first")(data);
    coverage::add();
});
