//! Who may import whom: the list of what each folder may name beside itself, and nothing else.

use std::collections::BTreeSet;

use crate::Finding;

/// A folder of sources, or the file of that name.
pub(crate) struct Layer {
    /// How others import it; nobody does without.
    name: &'static str,
    folder: &'static str,
    /// What it may import: paths, each with all that is below it. `core` has neither I/O nor a clock.
    may: &'static str,
}

const fn layer(name: &'static str, folder: &'static str, may: &'static str) -> Layer {
    Layer { name, folder, may }
}

/// From the bottom to the top: each imports what stands before it. An entry that nothing needs fails the test.
pub(crate) const LAYERS: &[Layer] = &[
    // What frames are lent by, and the links: they know no IP, and nothing of this package.
    layer("passt_frame", "src/frame", "std arrayvec libc rustix"),
    layer(
        "passt_vhost",
        "vhost/src",
        "passt_frame std libc log rustix thiserror vhost vhost_user_backend virtio_bindings virtio_queue vm_memory",
    ),
    layer("passt_legacy", "legacy/src", "passt_frame std log rustix thiserror"),
    // What decides and does nothing: no I/O, no clock, no link.
    layer("crate::limits", "src/limits", "std::time::Duration"),
    layer("crate::time", "src/time", "std::ops std::time::Duration"),
    layer(
        "crate::wire",
        "src/wire",
        "arrayvec etherparse std::fmt std::mem std::ops
         std::net::IpAddr std::net::Ipv4Addr std::net::Ipv6Addr std::net::SocketAddr",
    ),
    layer(
        "crate::flow",
        "src/flow",
        "crate::limits crate::time crate::wire arrayvec log siphasher thiserror
         std::cmp std::collections::VecDeque std::collections::hash_map::DefaultHasher std::fmt std::hash std::iter
         std::mem std::num std::ops std::str std::time::Duration
         std::net::IpAddr std::net::Ipv4Addr std::net::Ipv6Addr std::net::SocketAddr std::net::SocketAddrV6",
    ),
    layer(
        "crate::responder",
        "src/responder",
        "crate::flow arrayvec std::fmt std::iter std::time::Duration
         std::net::IpAddr std::net::Ipv4Addr std::net::Ipv6Addr std::net::SocketAddrV4",
    ),
    // The system, by safe functions.
    layer(
        "crate::sys",
        "src/sys",
        "crate::flow crate::limits crate::wire passt_frame passt_legacy std arrayvec landlock libc rustix seccompiler",
    ),
    layer("crate::log", "src/log", "crate::sys crate::time std libc log rustix thiserror"),
    // The loop, and what is done about frames and sockets.
    layer(
        "crate::engine",
        "src/engine",
        "crate::flow crate::limits crate::log crate::responder crate::sys crate::time crate::wire
         passt_frame passt_legacy passt_vhost std arrayvec libc log rustix thiserror",
    ),
    layer("crate::pcap", "src/pcap", "crate::sys passt_frame std libc log rustix"),
    // What is wanted, and the steps to it.
    layer(
        "crate::conf",
        "src/conf",
        "crate::flow crate::limits crate::responder crate::sys crate::wire
         std arrayvec clap libc log netlink_packet_core netlink_packet_route rustix thiserror",
    ),
    layer("crate::error", "src/error", "crate::conf crate::log crate::sys std rustix thiserror"),
    layer(
        "crate::sandbox",
        "src/sandbox",
        "crate::conf crate::error crate::sys std landlock libc log rustix thiserror",
    ),
    layer(
        "crate::control",
        "src/control",
        "crate::conf crate::engine crate::flow crate::limits crate::log crate::sys crate::time crate::wire
         passt_frame std libc log rustix serde serde_json thiserror",
    ),
    layer(
        "crate::pasta",
        "src/pasta",
        "crate::conf crate::engine crate::error crate::flow crate::sandbox crate::sys
         passt_frame passt_legacy std libc log netlink_packet_core netlink_packet_route rustix",
    ),
    layer("crate::helpers", "src/helpers", "crate::conf crate::engine crate::error crate::sys passt_frame std libc log rustix"),
    layer(
        "crate::follow",
        "src/follow",
        "crate::conf crate::engine crate::flow crate::helpers crate::limits crate::pasta crate::sandbox crate::sys crate::wire
         passt_frame std arrayvec log rustix",
    ),
    layer(
        "crate::start",
        "src/start",
        "crate::conf crate::engine crate::error crate::flow crate::follow crate::limits crate::log crate::sys
         std libc log rustix",
    ),
    layer(
        "crate::check",
        "src/check",
        "crate::conf crate::flow crate::limits crate::sandbox crate::sys std landlock log rustix serde_json",
    ),
    layer(
        "crate::run",
        "src/run",
        "crate::check crate::conf crate::control crate::engine crate::error crate::flow crate::follow crate::helpers
         crate::limits crate::log crate::pasta crate::pcap crate::responder crate::sandbox crate::start crate::sys
         passt_frame passt_legacy std log rustix",
    ),
    // The other programs.
    layer(
        "crate::ask",
        "src/ask",
        "crate::control crate::sandbox crate::sys passt_frame std clap serde serde_json thiserror",
    ),
    layer(
        "crate::pesto",
        "src/pesto",
        "crate::ask crate::conf crate::control crate::flow crate::sandbox crate::sys passt_frame std clap rustix",
    ),
    layer("crate::qrap", "src/qrap", "crate::conf crate::sys passt_frame std rustix serde_json"),
    layer(
        "crate::repair",
        "src/repair",
        "crate::limits crate::log crate::sandbox crate::sys passt_frame std log rustix",
    ),
    // What has roots of its own.
    layer(
        "crate::fuzzing",
        "src/fuzzing",
        "crate::conf crate::control crate::flow crate::responder crate::sys crate::time crate::wire std",
    ),
    layer("passt", "src/lib", ""),
    layer("", "src/main", "passt std"),
    layer("", "src/bin", "passt std"),
];

/// The layer of a file that is shipped.
fn layer_of(path: &str) -> Option<&'static Layer> {
    LAYERS.iter().find(|layer| {
        path.strip_prefix(layer.folder).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    })
}

/// What the file imports and may not.
pub(crate) fn layer_breaks(path: &str, code: &str) -> Vec<String> {
    let Some(layer) = layer_of(path) else { return vec!["no layer is told of".to_owned()] };
    let allowed = |import: &String| layer.may.split_whitespace().any(|may| is_below(import, may));
    imports(path, code).into_iter().filter(|import| !allowed(import)).collect()
}

/// What stands in the list and no file needs; `files` are path and code of all that is shipped.
pub(crate) fn unused_permissions(files: &[(&str, String)]) -> Vec<Finding> {
    let unused = |layer: &'static Layer| {
        let of_layer = files
            .iter()
            .filter(|(path, _)| layer_of(path).is_some_and(|own| std::ptr::eq(own, layer)));
        let all: BTreeSet<String> = of_layer.flat_map(|(path, code)| imports(path, code)).collect();
        let words = layer.may.split_whitespace();
        let needless = words.filter(move |may| !all.iter().any(|import| is_below(import, may)));
        needless.map(|may| {
            Finding::new(
                "layer",
                layer.folder,
                format!("nothing imports {may}: it need not be allowed"),
            )
        })
    };
    LAYERS.iter().flat_map(unused).collect()
}

/// Whether the path `import` is `above`, or below it.
fn is_below(import: &str, above: &str) -> bool {
    import.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// All that the code of a file names outside of its own folder: of std, of other packages, and of this one.
fn imports(path: &str, code: &str) -> BTreeSet<String> {
    let module = module_of(path);
    let own = layer_of(path).map_or("", |layer| layer.name);
    let paths = mentioned_paths(code).into_iter().filter_map(|path| absolute(&path, &module));
    let is_own =
        |path: &String| is_below(path, own) || own.starts_with("passt_") && is_below(path, "crate");
    let is_root = |path: &String| path == "crate" || !is_known(path);
    paths.filter(|path| !is_own(path) && !is_root(path)).collect()
}

/// Whether a path begins with this package, std or a dependency: another one begins with something of the file's own.
fn is_known(path: &str) -> bool {
    let first = path.split("::").next().unwrap_or_default();
    ["crate", "std", "passt"].contains(&first) || is_dependency(first)
}

fn is_dependency(name: &str) -> bool {
    let (_, list) = include_str!("../../Cargo.toml")
        .split_once("[workspace.dependencies]")
        .expect("it is there");
    let names = list
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "));
    names.into_iter().any(|(known, _)| known.replace('-', "_") == name)
}

/// The module that a file is, from the root of its package.
fn module_of(path: &str) -> Vec<&str> {
    let below = path.rsplit_once("src/").map_or(path, |(_, below)| below).trim_end_matches(".rs");
    below.split('/').filter(|name| !["mod", "lib", "main"].contains(name)).collect()
}

/// A path as it is from the root of the package, for one that begins with `super` or `self`.
fn absolute(path: &str, module: &[&str]) -> Option<String> {
    let words: Vec<&str> = path.split("::").filter(|word| !word.is_empty()).collect();
    let up = words.iter().take_while(|word| **word == "super").count();
    let rest = || words[up..].iter().copied();
    match *words.first()? {
        "self" => None,
        "super" => {
            let kept = &module[..module.len().saturating_sub(up)];
            Some(
                ["crate"]
                    .into_iter()
                    .chain(kept.iter().copied())
                    .chain(rest())
                    .collect::<Vec<_>>()
                    .join("::"),
            )
        }
        _ => Some(words.join("::")),
    }
}

/// Every path that a `use` imports, and every path with `::` in the rest of the code.
fn mentioned_paths(code: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut rest = String::new();
    let mut from = 0;
    for (at, _) in code.match_indices("use ") {
        let starts_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if at >= from
            && let Some(end) = code[at..].find(';').filter(|_| starts_word)
        {
            rest.push_str(&code[from..at]);
            expand("", &code[at + 4..at + end], &mut paths);
            from = at + end;
        }
    }
    rest.push_str(&code[from..]);
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = rest.split(|c| !is_path(c)).filter(|word| word.contains("::"));
    paths.extend(words.map(|word| word.trim_matches(':').to_owned()));
    paths
}

/// Adds the paths of the use tree `tree` below `prefix`.
fn expand(prefix: &str, tree: &str, paths: &mut BTreeSet<String>) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        let name = tree.split_whitespace().next().unwrap_or_default();
        paths.insert(format!("{prefix}{name}").trim_end_matches("::self").to_owned());
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let group = group.trim_end().trim_end_matches('}');
    let (mut depth, mut begin) = (0_usize, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                expand(&prefix, &group[begin..at], paths);
                begin = at + 1;
            }
            _ => {}
        }
    }
    let last = &group[begin..];
    let missing = last.matches('{').count().saturating_sub(last.matches('}').count());
    if !last.trim().is_empty() {
        expand(&prefix, &format!("{last}{}", "}".repeat(missing)), paths);
    }
}

#[cfg(test)]
mod tests {
    use super::{LAYERS, layer_breaks, mentioned_paths, unused_permissions};

    #[test]
    fn what_is_allowed_and_nothing_else() {
        for (path, code, broken) in [
            ("src/flow/a.rs", "use crate::responder::A;", "crate::responder::A"),
            ("src/flow/a.rs", "use super::super::responder::A;", "crate::responder::A"),
            ("src/flow/a.rs", "use crate::sys::x;", "crate::sys::x"),
            ("src/flow/a.rs", "use std::{fmt, fs::{self, File}};", "std::fs"),
            ("src/flow/a.rs", "fn a() { std::time::Instant::now(); }", "std::time::Instant::now"),
            ("src/flow/a.rs", "use std::time;", "std::time"),
            ("src/flow/a.rs", "use std::net::*;", "std::net::*"),
            ("src/flow/a.rs", "use std::net::UdpSocket;", "std::net::UdpSocket"),
            ("src/flow/a.rs", "fn a() { rustix::io::read(b); }", "rustix::io::read"),
            ("src/wire/a.rs", "use crate::flow::A;", "crate::flow::A"),
            ("src/sys/a.rs", "use crate::engine::A;", "crate::engine::A"),
            ("src/sys/a/b.rs", "fn a(x: crate::conf::A) {}", "crate::conf::A"),
            ("src/engine/a.rs", "use crate::conf::A;", "crate::conf::A"),
            ("src/sandbox/a.rs", "use crate::start::A;", "crate::start::A"),
            ("src/frame/src/a.rs", "use passt_vhost::A;", "passt_vhost::A"),
            ("vhost/src/a.rs", "use passt::flow;", "passt::flow"),
            ("legacy/src/a.rs", "use etherparse::A;", "etherparse::A"),
            ("src/new/a.rs", "", "no layer is told of"),
        ] {
            assert!(layer_breaks(path, code).contains(&broken.to_owned()), "{path}: {code}");
        }
        for (path, code) in [
            (
                "src/flow/tcp/a.rs",
                "use crate::wire::A; use super::super::side::B; use super::{c, d};",
            ),
            (
                "src/flow/a.rs",
                "use std::net::{IpAddr, Ipv4Addr}; use std::fmt::{self, Debug}; fn a() { b::c(); }",
            ),
            (
                "src/engine/a.rs",
                "use crate::flow::A; use std::fs; fn a() { core::Core::new(); libc::close(1); }",
            ),
            ("src/log.rs", "pub mod x; use crate::sys::a; fn a() { log::info!(1); self::x::y(); }"),
            (
                "vhost/src/a.rs",
                "use crate::ring::Ring; use passt_frame::Port; pub(in crate::ring) fn a() {}",
            ),
        ] {
            assert!(layer_breaks(path, code).is_empty(), "{path}: {:?}", layer_breaks(path, code));
        }
    }

    /// So that no imports go in a circle, between folders at least.
    #[test]
    fn each_layer_imports_what_stands_before_it() {
        for (at, layer) in LAYERS.iter().enumerate() {
            let ours = |word: &&str| LAYERS.iter().any(|other| other.name == *word);
            for word in layer.may.split_whitespace().filter(ours) {
                let before = LAYERS[..at].iter().any(|other| other.name == word);
                assert!(before, "{} may import {word}, which stands behind it", layer.folder);
            }
        }
    }

    #[test]
    fn what_nothing_needs_is_found() {
        let files = [(
            "src/log.rs",
            "use std::fs; use crate::sys::a; use crate::time::b; use rustix::io;".to_owned(),
        )];
        let found = unused_permissions(&files);
        let of_log = found.iter().filter(|finding| finding.path == "src/log");
        let words: Vec<&str> =
            of_log.filter_map(|finding| finding.what.split([' ', ':']).nth(2)).collect();
        assert_eq!(words, ["libc", "log", "thiserror"]);
    }

    #[test]
    fn use_trees_are_expanded() {
        let paths = mentioned_paths("use a::{b, c::{d, e as f, self}, g::*,}; fn h() { i::j(k) }");
        assert_eq!(
            paths.into_iter().collect::<Vec<_>>(),
            ["a::b", "a::c", "a::c::d", "a::c::e", "a::g::*", "i::j"]
        );
    }
}
