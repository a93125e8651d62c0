//! What is in the tree of dependencies is what `deny.toml` lets in: licences, sources, packages that nobody may bring, and no
//! package twice but those that are known; and `contrib/DEPENDENCIES.md` knows each that is in the program. `cargo deny
//! check` says the same and more, where it is installed; this says it in every run of the tests.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

const DENY: &str = include_str!("../deny.toml");
const NOTES: &str = include_str!("../contrib/DEPENDENCIES.md");
const MANIFEST: &str = include_str!("../Cargo.toml");

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Packages that are there in more than one version, of which `bitflags` alone is in the program: rust-vmm's is older than
/// rustix's. The others are for tests and for building. This may only shrink.
const TWICE: &[&str] = &["bitflags", "getrandom", "rand", "rand_core", "syn"];

/// What cargo knows of all packages for this system.
fn metadata() -> Value {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Packages of others.
fn foreign(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().unwrap().iter().filter(|package| !package["source"].is_null())
}

/// The words of a list in `deny.toml`.
fn listed(head: &str) -> BTreeSet<&'static str> {
    let (_, list) = DENY.split_once(&format!("\n{head} = [")).unwrap_or_else(|| panic!("{head}"));
    let (list, _) = list.split_once("\n]").unwrap();
    list.lines().filter_map(|line| line.split('"').nth(1)).collect()
}

/// Whether a licence's expression can be met by what is allowed.
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let expression = expression.trim();
    if let Some((before, rest)) = expression.split_once('(') {
        let (inner, behind) = rest.split_once(')').unwrap();
        let inner = if is_allowed(inner, allowed) { "yes" } else { "no" };
        return is_allowed(&format!("{before}{inner}{behind}"), allowed);
    }
    let met = |word: &str| word == "yes" || allowed.contains(word);
    let all = |words: &str| words.split(" AND ").all(|word| met(word.trim()));
    expression.replace('/', " OR ").split(" OR ").any(all)
}

#[test]
fn licences_can_be_met_by_alternatives_and_by_all_of_several() {
    let allowed = BTreeSet::from(["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"]);
    for (expression, wanted) in [
        ("MIT", true),
        ("GPL-2.0 OR MIT", true),
        ("GPL-2.0/MIT", true),
        ("(GPL-2.0 OR MIT) AND Zlib", true),
        ("(GPL-2.0 OR MIT) AND BSD-3-Clause", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ("MIT AND GPL-2.0", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), wanted, "{expression}");
    }
}

#[test]
fn licences_and_sources_are_those_that_may_be() {
    let metadata = metadata();
    let allowed = listed("allow");
    let denied: BTreeSet<&str> = DENY
        .lines()
        .filter_map(|line| line.trim().strip_prefix("{ crate = \"")?.split('"').next())
        .collect();
    assert!(allowed.len() > 3 && denied.len() > 1);
    let mut seen = 0;
    for package in foreign(&metadata) {
        let (name, licence) = (text(package, "name"), text(package, "license"));
        assert!(is_allowed(licence, &allowed), "{name}: {licence}");
        assert_eq!(text(package, "source"), CRATES_IO, "{name}");
        assert!(!denied.contains(name), "{name}: see deny.toml");
        seen += 1;
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn no_package_is_there_twice() {
    let metadata = metadata();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in foreign(&metadata) {
        versions.entry(text(package, "name")).or_default().insert(text(package, "version"));
    }
    versions.retain(|_, versions| versions.len() > 1);
    assert_eq!(versions.keys().copied().collect::<Vec<_>>(), TWICE, "{versions:?}");
}

/// Packages that are linked into the program, by their ids.
fn shipped(metadata: &Value) -> BTreeSet<&str> {
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (text(node, "id"), node))
        .collect();
    let mut todo = vec![text(&metadata["resolve"], "root")];
    let mut found = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if !found.insert(id) {
            continue;
        }
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            if kinds.iter().any(|kind| kind["kind"].is_null()) {
                todo.push(text(dependency, "pkg"));
            }
        }
    }
    found
}

#[test]
fn what_is_unsafe_is_noted_of_each_package_in_the_program() {
    let metadata = metadata();
    let shipped = shipped(&metadata);
    let words: BTreeSet<&str> =
        NOTES.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_').collect();
    let names: Vec<&str> = foreign(&metadata)
        .filter(|package| shipped.contains(text(package, "id")))
        .map(|package| text(package, "name"))
        .collect();
    let missing: Vec<&&str> = names.iter().filter(|name| !words.contains(**name)).collect();
    assert!(missing.is_empty() && names.len() > 20, "of {}: {missing:?}", names.len());
}

#[test]
fn each_dependency_says_what_it_is_for() {
    let (_, table) = MANIFEST.split_once("[workspace.dependencies]\n").unwrap();
    let (table, _) = table.split_once("\n[").unwrap();
    for line in table.lines().filter(|line| !line.is_empty() && !line.contains("path = ")) {
        assert!(line.contains("# "), "{line}");
    }
}
