//! The rule `call cycle`: files of a crate that call each other in a circle, through functions or methods.
//!
//! A *call* names a function or an inherent method of another file, also to hand it on. What a trait declares is
//! dispatched and counts for nobody; nor do re-exports, types and constants count. Which file a method belongs to follows from what is known
//! of the receiver (parameters, fields, results); a method of an unknown receiver belongs to the only file of the
//! crate that has one of that name.

use std::collections::{BTreeMap, BTreeSet};

use crate::bodies::Walk;
use crate::items::Items;
use crate::names::Names;
use crate::text::{before_tests, code_only};
use crate::tokens::tokens;
use crate::{Finding, Source, is_root, is_test};

/// The folders of crates. A file belongs to the last one that it lies in.
const CRATES: [&str; 4] = ["src/", "src/frame/src/", "vhost/src/", "legacy/src/"];

/// Calls between files: `(from, to)`, and one caller and callee.
type Graph<'a> = BTreeMap<(usize, usize), (&'a str, &'a str)>;

/// The circles of calls in all crates.
pub(crate) fn call_cycles(sources: &[Source]) -> Vec<Finding> {
    CRATES.iter().flat_map(|root| cycles_of(root, sources)).collect()
}

fn cycles_of(root: &str, sources: &[Source]) -> Vec<Finding> {
    let shipped = |source: &&Source| crate_of(&source.path) == Some(root) && !is_test(&source.path);
    let mut files: Vec<&Source> = sources.iter().filter(shipped).collect();
    files.sort_by_key(|source| &source.path);
    let codes: Vec<String> = files.iter().map(|source| code_only(&source.text)).collect();
    let words: Vec<Vec<&str>> = codes.iter().map(|code| tokens(before_tests(code))).collect();
    let mut items = Items::default();
    for (place, file) in files.iter().enumerate() {
        items.add_file(place, module_of(root, &file.path), &words[place]);
    }
    let names = Names::new(items);
    let graph = graph(&names);
    let components = components(files.len(), &graph);
    components.into_iter().map(|component| finding(&component, &files, &graph)).collect()
}

/// The crate of a file; none for the roots of programs, which are crates of their own.
fn crate_of(path: &str) -> Option<&'static str> {
    let root = CRATES.iter().rev().copied().find(|root| path.starts_with(root))?;
    (!is_root(path) || path.ends_with("/lib.rs")).then_some(root)
}

/// The module that a file is.
fn module_of<'a>(root: &str, path: &'a str) -> Vec<&'a str> {
    let path = path.strip_prefix(root).unwrap_or(path).trim_end_matches(".rs");
    let mut module: Vec<&str> = path.split('/').collect();
    if matches!(module.last(), Some(&("mod" | "lib"))) {
        module.pop();
    }
    module
}

fn graph<'a>(names: &Names<'a>) -> Graph<'a> {
    let mut graph = Graph::new();
    for caller in &names.items.functions {
        for called in Walk::over(names, caller).called {
            let called = &names.items.functions[called];
            if caller.file != called.file {
                graph.entry((caller.file, called.file)).or_insert((caller.name, called.name));
            }
        }
    }
    graph
}

/// The groups of files of which each calls each, if perhaps not directly.
fn components(files: usize, graph: &Graph<'_>) -> Vec<BTreeSet<usize>> {
    let reach: Vec<BTreeSet<usize>> = (0..files).map(|file| reachable(file, graph)).collect();
    let component = |file: usize| -> BTreeSet<usize> {
        reach[file].iter().copied().filter(|other| reach[*other].contains(&file)).collect()
    };
    let found: BTreeSet<BTreeSet<usize>> = (0..files).map(component).collect();
    found.into_iter().filter(|component| !component.is_empty()).collect()
}

/// The files that code in `file` leads to.
fn reachable(file: usize, graph: &Graph<'_>) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut open = vec![file];
    while let Some(file) = open.pop() {
        let next = graph.range((file, 0)..=(file, usize::MAX)).map(|((_, to), _)| *to);
        open.extend(next.filter(|to| reached.insert(*to)));
    }
    reached
}

fn finding(component: &BTreeSet<usize>, files: &[&Source], graph: &Graph<'_>) -> Finding {
    let path = |file: &usize| files[*file].path.as_str();
    let among =
        graph.iter().filter(|((from, to), _)| component.contains(from) && component.contains(to));
    let call = |((from, to), (caller, called)): (&(usize, usize), &(&str, &str))| {
        format!("{}: {caller} calls {called} of {}", path(from), path(to))
    };
    Finding {
        rule: "call cycle",
        path: component.first().map(path).unwrap_or_default().to_owned(),
        what: component.iter().map(path).collect::<Vec<_>>().join(" "),
        proof: among.map(call).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::call_cycles;
    use crate::Source;

    /// The circles among files below `src/`, each as its files and the calls in it.
    fn cycles(files: &[(&str, &str)]) -> Vec<(String, Vec<String>)> {
        let source = |(path, text): &(&str, &str)| Source {
            path: format!("src/{path}.rs"),
            text: (*text).to_owned(),
        };
        let sources: Vec<Source> = files.iter().map(source).collect();
        call_cycles(&sources).into_iter().map(|finding| (finding.what, finding.proof)).collect()
    }

    fn files(files: &[(&str, &str)]) -> Vec<String> {
        cycles(files).into_iter().map(|(files, _)| files).collect()
    }

    const LIB: (&str, &str) = ("lib", "mod a; mod b; mod c;");

    #[test]
    fn methods_of_one_type_in_several_files_make_a_circle() {
        let found = cycles(&[
            LIB,
            ("a/mod", "mod x; struct Big; impl Big { fn one(&mut self) { self.two(); } }"),
            ("a/x", "use super::Big; impl Big { pub(super) fn two(&mut self) { self.three() } }"),
            (
                "b",
                "use crate::a::Big; impl Big { fn three(&self) { if self.done() { self.one() } } }",
            ),
            ("c", "use crate::a::Big; impl Big { fn done(&self) -> bool { false } }"),
        ]);
        let calls = [
            "src/a/mod.rs: one calls two of src/a/x.rs",
            "src/a/x.rs: two calls three of src/b.rs",
            "src/b.rs: three calls one of src/a/mod.rs",
        ];
        assert_eq!(
            found,
            [("src/a/mod.rs src/a/x.rs src/b.rs".to_owned(), calls.map(String::from).to_vec())]
        );
    }

    #[test]
    fn two_types_that_call_each_other_make_a_circle() {
        let a = "use crate::b::Flows; pub struct Core { flows: Flows }
            impl Core { pub fn serve(&mut self) { self.flows.insert(1); } pub fn take(&self) {} }";
        let b =
            "use super::a::Core; pub struct Flows; impl Flows { pub fn insert(&mut self, n: u8) {}
            fn drive(core: &mut Core) { core.take(); } }";
        assert_eq!(files(&[LIB, ("a", a), ("b", b)]), ["src/a.rs src/b.rs"]);
        let one_way = b.replace("core.take()", "core.flows.insert(2)");
        assert!(files(&[LIB, ("a", a), ("b", &one_way)]).is_empty());
    }

    #[test]
    fn functions_make_a_circle_by_path_import_and_value() {
        let a = "pub fn first() { crate::b::second(|| 1); }";
        for b in [
            "pub fn second() { super::a::first(); }",
            "use crate::a; pub fn second() { if true { a::first() } }",
            "use crate::a::{first as again}; pub fn second() { let x = [again()]; }",
            "use super::*; pub fn second() { log!(a::first()); }",
            "pub fn second() { run(super::a::first); }",
        ] {
            assert_eq!(files(&[LIB, ("a", a), ("b", b)]), ["src/a.rs src/b.rs"], "{b}");
        }
    }

    #[test]
    fn the_type_of_a_receiver_decides() {
        let a = "use crate::b::{Kind, Table, open}; use crate::c::Other;
            pub struct A { table: Option<Box<Table<Flow>>>, other: Other } pub struct Flow { kind: Kind }
            impl A { pub fn go(&mut self) { EXPRESSION } pub fn back(&self) {} }";
        let b = "use crate::a::A; pub struct Part; impl Part { pub fn run(&self) {} }
            pub enum Kind { One(Part), Two { part: Part } } pub struct Table<T> { all: Vec<T> }
            impl<T> Table<T> { pub fn get(&self, n: u8) -> Option<&T> { None } pub fn part(&self) -> Part { Part } }
            pub fn open() -> Result<Part, u8> { Err(1) } fn end(a: &A) { a.back(); }";
        let c = "pub struct Other; impl Other { pub fn run(&self) {} }";
        let with = |expression: &str| {
            let a = a.replace("EXPRESSION", expression);
            files(&[LIB, ("a", &a), ("b", b), ("c", c)])
        };
        for expression in [
            "if let Some(table) = &self.table { table.part(); }",
            "let Some(table) = self.table.as_mut() else { return }; let Self { other, .. } = self; table.get(1);",
            "match flow.kind { Kind::One(part) if true => part.run(), _ => {} }",
            "let Kind::Two { part } = kind else { return }; { part.run() }",
            "self.table.as_ref().unwrap().part().run();",
            "for flow in flows { match &flow { Flow { kind: Kind::One(p) } => p.run(), _ => {} } }",
            "self.table.iter().map(|table| table.get(0));",
        ] {
            assert_eq!(with(expression), ["src/a.rs src/b.rs"], "{expression}");
        }
        for expression in
            ["self.other.run();", "let x: Other = make(); x.run()", "unknown.run()", "x.get(1)"]
        {
            assert!(with(expression).is_empty(), "{expression}");
        }
    }

    #[test]
    fn what_a_trait_declares_counts_for_nobody() {
        let a = "pub trait Source { fn act(&mut self, a: &A); } pub struct A;
            impl A { pub fn turn(&self, s: &mut dyn Source) { s.act(self); unknown.act(self) } pub fn end(&self) {} }";
        let b = "use crate::a::{A, Source}; struct Signals;
            impl Source for Signals { fn act(&mut self, a: &A) { a.end(); } }";
        assert!(files(&[LIB, ("a", a), ("b", b)]).is_empty());
        let inherent = b.replace("Source for ", "");
        let a = a.replace("dyn Source", "crate::b::Signals");
        assert_eq!(files(&[LIB, ("a", &a), ("b", &inherent)]), ["src/a.rs src/b.rs"]);
    }

    #[test]
    fn a_mention_is_no_call() {
        let a = "mod x; pub use x::{Deep, deep}; pub const SIZE: usize = 1; pub struct A { pub d: Deep }
            pub enum Way { In(u8) } pub fn go() { x::deep(); }";
        let x =
            "use super::{A, SIZE, Way}; pub struct Deep; pub fn deep() -> A { let x = [0; SIZE];
            match Way::In(1) { Way::In(n) => A { d: Deep } } }";
        assert!(files(&[LIB, ("a/mod", a), ("a/x", x)]).is_empty());
    }

    #[test]
    fn calls_of_tests_do_not_count() {
        let a = "pub fn go() { crate::b::run(); }";
        for b in [
            "pub fn run() {}\n#[cfg(test)]\nmod tests { fn a() { crate::a::go(); } }",
            "pub fn run() {} #[cfg(test)] fn helper() { crate::a::go(); } pub fn more() {}",
        ] {
            assert!(files(&[LIB, ("a", a), ("b", b)]).is_empty(), "{b}");
        }
    }
}
