//! The style of the house, as a test: sizes, layers, where `unsafe` may stand, dead files, calls that go in a
//! circle.
//!
//! The checks read source text, stripped of comments and literals by [`code_only`]. They know no macros, and of
//! types only what [`call_cycles`] needs. What breaks a rule for a good reason stands in
//! [`EXCEPTIONS`], which may only shrink: an entry that nothing needs fails the test.

mod bodies;
mod calls;
mod items;
mod layers;
mod names;
mod text;
mod tokens;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use calls::call_cycles;
use layers::{layer_breaks, unused_permissions};
use text::{before_tests, code_only, functions};

/// Lines a function may have, from `fn` to its closing brace.
const FUNCTION_LINES: usize = 70;
/// Lines a file may have before its tests.
const FILE_LINES: usize = 600;

/// `(rule, file, what)` of each finding that is accepted, and why.
const EXCEPTIONS: &[(&str, &str, &str, &str)] = &[];

/// Folders that hold sources.
const SOURCES: [&str; 4] = ["src", "vhost", "legacy", "tests"];

/// Where `unsafe` blocks may stand. `unsafe impl` may stand anywhere.
const UNSAFE_PLACES: [&str; 3] = ["src/sys/", "src/frame/", "vhost/src/mem.rs"];

/// How often `unsafe` stands in what is shipped, `unsafe impl` and `unsafe fn` included. This may only fall: who needs
/// one more finds one to do without, or says in the commit why not.
const UNSAFE_CEILING: usize = 113;

/// A rule that a file breaks.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    rule: &'static str,
    path: String,
    what: String,
    /// Where to look.
    proof: Vec<String>,
}

impl Finding {
    fn new(rule: &'static str, path: &str, what: String) -> Self {
        Self { rule, path: path.to_owned(), what, proof: Vec::new() }
    }
}

/// A source file: its place below the repository's root, and its text.
struct Source {
    path: String,
    text: String,
}

#[test]
fn the_house_is_tidy() {
    let sources = all_sources();
    assert!(sources.len() > 10, "only {} sources were found", sources.len());
    let mut findings: Vec<Finding> = sources.iter().flat_map(check).collect();
    findings.extend(dead_files(&sources));
    findings.extend(call_cycles(&sources));
    findings.extend(needless_permissions(&sources));
    let (broken, unused) = judge(&findings, EXCEPTIONS);
    assert!(
        broken.is_empty() && unused.is_empty(),
        "broken: {broken:#?}\nunused exceptions: {unused:#?}"
    );
}

#[test]
fn unsafe_becomes_less_and_never_more() {
    let of = |source: &Source| {
        let code = code_only(&source.text);
        let shipped = before_tests(&code).to_owned();
        shipped
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| *word == "unsafe")
            .count()
    };
    let all = all_sources();
    let count: usize = all.iter().filter(|source| !is_test(&source.path)).map(of).sum();
    assert!(count <= UNSAFE_CEILING, "{count} times `unsafe`, at most {UNSAFE_CEILING}");
    assert!(count >= UNSAFE_CEILING, "only {count} times `unsafe`: lower the ceiling to it");
}

/// What breaks a rule without an exception, and the exceptions that nothing needs.
fn judge<'a>(
    findings: &'a [Finding],
    exceptions: &'a [(&str, &str, &str, &str)],
) -> (Vec<&'a Finding>, Vec<&'a str>) {
    let covers = |exception: &(&str, &str, &str, &str), finding: &Finding| {
        (exception.0, exception.1, exception.2) == (finding.rule, &finding.path, &finding.what)
    };
    let broken =
        findings.iter().filter(|finding| !exceptions.iter().any(|entry| covers(entry, finding)));
    let unused =
        exceptions.iter().filter(|entry| !findings.iter().any(|finding| covers(entry, finding)));
    (broken.collect(), unused.map(|entry| entry.1).collect())
}

/// The rules that need nothing but the file itself.
fn check(source: &Source) -> Vec<Finding> {
    let code = code_only(&source.text);
    let shipped = before_tests(&code);
    let mut found = Vec::new();
    if !source.text.starts_with("//!") {
        found.push(("opening", "the file does not open with //!".to_owned()));
    }
    let tests = is_test(&source.path);
    if !tests && shipped.lines().count() > FILE_LINES {
        found.push(("file length", "lines before the tests".to_owned()));
    }
    let long = functions(&code).into_iter().filter(|(_, lines)| *lines >= FUNCTION_LINES);
    found.extend(long.map(|(name, _)| ("function length", name)));
    if !tests && !UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place)) {
        found.extend(unsafe_uses(shipped).map(|what| ("unsafe", what)));
    }
    if !tests {
        found.extend(layer_breaks(&source.path, shipped).into_iter().map(|what| ("layer", what)));
        found.extend(debug_texts(before_tests(&source.text)).map(|what| ("debug text", what)));
    }
    let finding = |(rule, what)| Finding::new(rule, &source.path, what);
    found.into_iter().map(finding).collect()
}

/// Messages that show values as source code. The id of a flow is written in words.
fn debug_texts(text: &str) -> impl Iterator<Item = String> {
    let calls = text.match_indices("log::").filter_map(|(at, _)| {
        let call = &text[at..];
        let name = call["log::".len()..].split_once("!(")?.0;
        let is_macro = name.chars().all(char::is_alphanumeric);
        is_macro.then(|| call.split(");").next().unwrap_or(call).to_owned())
    });
    calls.filter(|call| call.replace("{id:?}", "").contains(":?}"))
}

/// What follows each `unsafe` that is not an `unsafe impl`.
fn unsafe_uses(code: &str) -> impl Iterator<Item = String> {
    let words: Vec<&str> = code.split(|c: char| c.is_whitespace() || c == '(').collect();
    let mut uses = Vec::new();
    for (place, word) in words.iter().enumerate() {
        let next = words[place + 1..].iter().find(|word| !word.is_empty());
        if *word == "unsafe" && next != Some(&"impl") {
            uses.push(format!("unsafe {}", next.unwrap_or(&"")));
        }
    }
    uses.into_iter()
}

/// Imports that are allowed and that nobody has.
fn needless_permissions(sources: &[Source]) -> Vec<Finding> {
    let shipped = sources.iter().filter(|source| !is_test(&source.path));
    let code = |source: &Source| before_tests(&code_only(&source.text)).to_owned();
    unused_permissions(
        &shipped.map(|source| (source.path.as_str(), code(source))).collect::<Vec<_>>(),
    )
}

/// Whether a file holds nothing but tests.
fn is_test(path: &str) -> bool {
    let only_for_tests = ["/tests.rs", "/testing.rs"].iter().any(|name| path.ends_with(name));
    path.starts_with("tests/") || path.contains("/tests/") || only_for_tests
}

/// Whether cargo compiles the file without a `mod` line.
fn is_root(path: &str) -> bool {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let names_crate = path.ends_with("/lib.rs") || path.ends_with("/main.rs");
    let is_main =
        names_crate && (folder.ends_with("src") || is_test(path)) || path.ends_with("build.rs");
    let holds_roots = ["src/bin", "tests", "benches", "examples", "fuzz_targets"];
    is_main || holds_roots.iter().any(|name| Path::new(folder).ends_with(name))
}

/// Sources that no `mod` line reaches from the root of a crate.
fn dead_files(sources: &[Source]) -> Vec<Finding> {
    let all: BTreeSet<&str> = sources.iter().map(|source| source.path.as_str()).collect();
    let mut reached: BTreeSet<&str> = all.iter().copied().filter(|path| is_root(path)).collect();
    let mut open: Vec<&str> = reached.iter().copied().collect();
    while let Some(path) = open.pop() {
        let Some(source) = sources.iter().find(|source| source.path == path) else { continue };
        let named = children(path, is_root(path), &code_only(&source.text));
        let found = named.iter().filter_map(|child| all.get(child.as_str()));
        open.extend(found.filter(|child| reached.insert(child)));
    }
    let dead = all.difference(&reached);
    dead.map(|path| Finding::new("dead file", path, String::new())).collect()
}

/// The places where the modules that `code` declares may lie.
fn children(path: &str, root: bool, code: &str) -> Vec<String> {
    let folder = if root || path.ends_with("/mod.rs") {
        path.rsplit_once('/').map_or("", |(folder, _)| folder)
    } else {
        path.trim_end_matches(".rs")
    };
    let words: Vec<&str> = code.split_whitespace().collect();
    let named = words
        .windows(2)
        .filter(|pair| pair[0] == "mod")
        .filter_map(|pair| pair[1].strip_suffix(';'));
    named
        .flat_map(|name| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")])
        .collect()
}

fn all_sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open: Vec<PathBuf> = SOURCES.iter().map(|folder| root.join(folder)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = open.pop() {
        let entries =
            fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in
            entries.filter(|path| !path.ends_with("target") && !path.ends_with("tests/cache"))
        {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources are readable");
                let path = path.strip_prefix(root).expect("it was found below the root");
                sources.push(Source { path: path.to_string_lossy().into_owned(), text });
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::{Finding, Source, check, dead_files, judge};

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        check(&source(path, text)).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_file_must_say_what_it_is() {
        assert_eq!(rules("src/run/a.rs", "fn a() {}\n"), ["opening"]);
        assert!(rules("src/run/a.rs", "//! a\nfn a() {}\n").is_empty());
    }

    #[test]
    fn long_functions_and_files_are_found() {
        let long = format!("//! a\nfn a() {{\n{}}}\n", "    b();\n".repeat(68));
        assert_eq!(rules("src/run/a.rs", &long), ["function length"]);
        assert!(rules("src/run/a.rs", &long.replacen("    b();\n", "", 1)).is_empty());
        let file = format!("//! a\n{}", "const A: u8 = 0;\n".repeat(600));
        assert_eq!(rules("src/run/a.rs", &file), ["file length"]);
        let tests =
            format!("//! a\n#[cfg(test)]\nmod tests {{\n{}}}\n", "const A: u8 = 0;\n".repeat(600));
        assert!(rules("src/run/a.rs", &tests).is_empty());
    }

    #[test]
    fn unsafe_stands_only_where_it_may() {
        let block = "//! a\nfn a() {\n    unsafe { b() }\n}\n";
        assert_eq!(rules("src/engine/a.rs", block), ["unsafe"]);
        assert_eq!(rules("vhost/src/ring.rs", block), ["unsafe"]);
        assert!(rules("vhost/src/mem.rs", block).is_empty());
        assert!(rules("src/sys/a.rs", block).is_empty());
        assert!(rules("vhost/src/port.rs", "//! a\nunsafe impl A for B {}\n").is_empty());
    }

    #[test]
    fn messages_are_in_words() {
        for (call, broken) in [
            ("log::debug!(\"{x:?}\");", true),
            ("log::log!(\n    level,\n    \"{} and {:?}\",\n    a(b),\n    c\n);", true),
            ("log::trace!(\"{id:?}: {x}\"); let y = format!(\"{x:?}\");", false),
            ("log::set_logger(x); format!(\"{x:?}\");", false),
        ] {
            let found = rules("src/run/a.rs", &format!("//! a\nfn f() {{ {call} }}\n"));
            assert_eq!(found, if broken { &["debug text"][..] } else { &[] }, "{call}");
        }
    }

    #[test]
    fn layers_are_kept() {
        assert_eq!(rules("src/flow/a.rs", "//! a\nuse crate::responder::A;\n"), ["layer"]);
        assert!(rules("src/flow/a.rs", "//! a\nuse crate::wire::A;\n").is_empty());
        let in_tests = "//! a\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert!(rules("src/flow/a.rs", in_tests).is_empty());
    }

    #[test]
    fn a_file_without_a_mod_line_is_dead() {
        let sources = [
            source("src/lib.rs", "pub mod a;\n// mod c;\n"),
            source("src/a/mod.rs", "mod b;"),
            source("src/a/b.rs", "mod deep;"),
            source("src/a/b/deep.rs", ""),
            source("src/c.rs", ""),
            source("vhost/tests/one.rs", "mod rig;"),
            source("vhost/tests/rig/mod.rs", ""),
            source("tests/two/main.rs", ""),
        ];
        let dead: Vec<String> =
            dead_files(&sources).into_iter().map(|finding| finding.path).collect();
        assert_eq!(dead, ["src/c.rs"]);
    }

    #[test]
    fn an_exception_covers_its_finding_and_must_be_needed() {
        let findings = [Finding::new("unsafe", "a", "b".to_owned())];
        assert_eq!(judge(&findings, &[]).0, [&findings[0]]);
        assert_eq!(judge(&findings, &[("unsafe", "a", "b", "")]), (vec![], vec![]));
        assert_eq!(judge(&findings, &[("unsafe", "a", "b", ""), ("unsafe", "c", "", "")]).1, ["c"]);
    }
}
