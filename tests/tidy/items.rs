//! What a source file declares: modules, imports, types with their fields, functions with their bodies.

use std::collections::{BTreeMap, BTreeSet};

use crate::tokens::{closing, find, inside, is_name, split, token};

pub(crate) type Tokens<'a> = &'a [&'a str];

/// A module: a file, or a `mod` with a body in one.
#[derive(Debug, Default)]
pub(crate) struct Module<'a> {
    /// The modules that it declares.
    pub children: BTreeSet<&'a str>,
    /// What each imported name stands for.
    pub imports: BTreeMap<&'a str, Vec<&'a str>>,
    /// The modules of which everything is imported.
    pub globs: Vec<Vec<&'a str>>,
    /// Places in [`Items::types`].
    pub types: BTreeMap<&'a str, usize>,
    /// Places in [`Items::functions`].
    pub functions: BTreeMap<&'a str, usize>,
}

/// A type that the crate declares.
#[derive(Debug)]
pub(crate) struct TypeItem<'a> {
    pub module: Vec<&'a str>,
    pub generics: Vec<&'a str>,
    pub shape: Shape<'a>,
}

/// What a type is made of.
#[derive(Debug)]
pub(crate) enum Shape<'a> {
    Struct(Fields<'a>),
    Enum(BTreeMap<&'a str, Fields<'a>>),
    Alias(Tokens<'a>),
}

/// The types of fields, by name or number.
pub(crate) type Fields<'a> = BTreeMap<String, Tokens<'a>>;

/// A function with a body, or one that a trait of the crate declares.
#[derive(Debug)]
pub(crate) struct Function<'a> {
    /// Place of the file in the crate.
    pub file: usize,
    pub module: Vec<&'a str>,
    pub name: &'a str,
    /// The type of the `impl` that it stands in.
    pub owner: Option<Tokens<'a>>,
    pub generics: Vec<&'a str>,
    /// Pattern and type of each parameter.
    pub parameters: Vec<(Tokens<'a>, Tokens<'a>)>,
    pub result: Tokens<'a>,
    pub body: Tokens<'a>,
    pub kind: Kind,
}

/// Where a function stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Free,
    /// In an `impl` of a type.
    Inherent,
    /// In a trait, or in an `impl` of one: who calls it does not name the file.
    Dispatched,
}

/// All that the files of a crate declare.
#[derive(Debug, Default)]
pub(crate) struct Items<'a> {
    pub modules: BTreeMap<Vec<&'a str>, Module<'a>>,
    pub types: Vec<TypeItem<'a>>,
    pub functions: Vec<Function<'a>>,
}

/// Where the items of a list stand.
#[derive(Clone, Default)]
struct Place<'a> {
    file: usize,
    module: Vec<&'a str>,
    owner: Option<Tokens<'a>>,
    generics: Vec<&'a str>,
    in_trait: bool,
}

impl<'a> Items<'a> {
    /// Adds what the file number `file` declares, which is the module `module`.
    pub fn add_file(&mut self, file: usize, module: Vec<&'a str>, tokens: Tokens<'a>) {
        self.add_list(&Place { file, module, ..Place::default() }, tokens);
    }

    fn add_list(&mut self, place: &Place<'a>, tokens: Tokens<'a>) {
        self.modules.entry(place.module.clone()).or_default();
        let mut at = 0;
        let mut only_in_tests = false;
        while at < tokens.len() {
            if tokens[at] == "#" {
                let open = at + 1 + usize::from(token(tokens, at + 1) == "!");
                only_in_tests |= inside(tokens, open) == ["cfg", "(", "test", ")"];
                at = closing(tokens, open) + 1;
            } else if is_introduction(tokens, at) {
                at += 1;
                if tokens[at - 1] == "pub" && token(tokens, at) == "(" {
                    at = closing(tokens, at) + 1;
                }
            } else {
                let end = item_end(tokens, at);
                if !std::mem::take(&mut only_in_tests) {
                    self.add_item(place, &tokens[at..end]);
                }
                at = end.max(at + 1);
            }
        }
    }

    fn add_item(&mut self, place: &Place<'a>, item: Tokens<'a>) {
        let name = token(item, 1);
        let module = self.modules.entry(place.module.clone()).or_default();
        match item[0] {
            "mod" => {
                module.children.insert(name);
                if let Some(open) = find(item, 2, &["{"], false) {
                    let module = [place.module.as_slice(), &[name]].concat();
                    self.add_list(&Place { module, ..place.clone() }, inside(item, open));
                }
            }
            "use" => add_imports(module, &[], &item[1..item.len().saturating_sub(1)]),
            "struct" | "enum" | "union" | "type" if place.owner.is_none() && !place.in_trait => {
                module.types.insert(name, self.types.len());
                self.types.push(TypeItem {
                    module: place.module.clone(),
                    generics: generics(item, 2),
                    shape: shape(item),
                });
            }
            "fn" => self.add_function(place, item),
            "impl" => self.add_implementation(place, item),
            "trait" => {
                let Some(open) = find(item, 0, &["{"], true) else { return };
                let place = Place { generics: generics(item, 2), in_trait: true, ..place.clone() };
                self.add_list(&place, inside(item, open));
            }
            _ => {}
        }
    }

    fn add_implementation(&mut self, place: &Place<'a>, item: Tokens<'a>) {
        let Some(open) = find(item, 1, &["{"], true) else { return };
        let head = find(item, 1, &["where"], true).unwrap_or(open).min(open);
        let begin = if token(item, 1) == "<" { closing(item, 1) + 1 } else { 1 };
        let of_trait = find(item, begin, &["for"], true).filter(|at| *at < head);
        let owner = Some(&item[of_trait.map_or(begin, |at| at + 1)..head]);
        let (generics, in_trait) = (generics(item, 1), of_trait.is_some());
        let place = Place { owner, generics, in_trait, ..place.clone() };
        self.add_list(&place, inside(item, open));
    }

    fn add_function(&mut self, place: &Place<'a>, item: Tokens<'a>) {
        let Some(open) = find(item, 2, &["("], true) else { return };
        let end = closing(item, open) + 1;
        let body = find(item, end, &["{"], false);
        let tail = find(item, end, &["where", "{", ";"], true).unwrap_or(item.len());
        let result: Tokens<'a> = if token(item, end) == "->" { &item[end + 1..tail] } else { &[] };
        let kind = match (place.in_trait, place.owner) {
            (true, _) => Kind::Dispatched,
            (false, Some(_)) => Kind::Inherent,
            (false, None) => Kind::Free,
        };
        if kind == Kind::Free
            && let Some(module) = self.modules.get_mut(&place.module)
        {
            module.functions.insert(item[1], self.functions.len());
        }
        self.functions.push(Function {
            file: place.file,
            module: place.module.clone(),
            name: item[1],
            owner: place.owner,
            generics: [place.generics.as_slice(), &generics(item, 2)].concat(),
            parameters: split(inside(item, open), ",", true).into_iter().map(parameter).collect(),
            result,
            body: body.map_or(&[], |open| inside(item, open)),
            kind,
        });
    }
}

/// Whether the word at `at` only precedes the word that says what the item is.
fn is_introduction(tokens: Tokens<'_>, at: usize) -> bool {
    match tokens[at] {
        "pub" | "default" | "async" | "unsafe" => true,
        "extern" => token(tokens, at + 1) == "fn",
        "const" => ["fn", "unsafe", "extern"].contains(&token(tokens, at + 1)),
        _ => false,
    }
}

/// Where the item at `at` ends: behind its body or its semicolon.
fn item_end(tokens: Tokens<'_>, at: usize) -> usize {
    let ends: &[&str] =
        if ["use", "const", "static", "type"].contains(&tokens[at]) { &[";"] } else { &[";", "{"] };
    match find(tokens, at, ends, false) {
        Some(end) if tokens[end] == "{" => closing(tokens, end) + 1,
        Some(end) => end + 1,
        None => tokens.len(),
    }
}

/// Adds the imports of the use tree `tree` below `prefix`.
fn add_imports<'a>(module: &mut Module<'a>, prefix: &[&'a str], tree: Tokens<'a>) {
    let mut path = prefix.to_vec();
    for (at, word) in tree.iter().enumerate() {
        match *word {
            "{" => {
                for part in split(inside(tree, at), ",", false) {
                    add_imports(module, &path, part);
                }
                return;
            }
            "*" => return module.globs.push(path),
            "as" => {
                module.imports.insert(token(tree, at + 1), path);
                return;
            }
            "::" => {}
            "self" if !path.is_empty() => {}
            word => path.push(word),
        }
    }
    if let Some(name) = path.last() {
        module.imports.insert(name, path.clone());
    }
}

/// The names in the list of generic parameters at `at`, if there is one.
fn generics<'a>(item: Tokens<'a>, at: usize) -> Vec<&'a str> {
    if token(item, at) != "<" {
        return Vec::new();
    }
    let names = split(inside(item, at), ",", true).into_iter().map(|part| match part[0] {
        "const" => token(part, 1),
        name => name,
    });
    names.filter(|name| is_name(name)).collect()
}

fn shape<'a>(item: Tokens<'a>) -> Shape<'a> {
    if item[0] == "type" {
        let begin = find(item, 0, &["="], true).map_or(item.len(), |at| at + 1);
        return Shape::Alias(&item[begin..item.len().max(begin + 1) - 1]);
    }
    let open = find(item, 2, &["{", "("], true);
    if item[0] != "enum" {
        return Shape::Struct(open.map_or_else(Fields::new, |open| fields(item, open)));
    }
    let variants = split(open.map_or(&[], |open| inside(item, open)), ",", false);
    let variant = |part| {
        let part = without_attributes(part);
        let fields = if part.len() > 1 { fields(part, 1) } else { Fields::new() };
        (token(part, 0), fields)
    };
    Shape::Enum(variants.into_iter().map(variant).collect())
}

/// The fields in the bracket that opens at `open`.
fn fields<'a>(item: Tokens<'a>, open: usize) -> Fields<'a> {
    let named = item[open] == "{";
    let field = |(number, part): (usize, Tokens<'a>)| {
        let part = without_attributes(part);
        if named { (part[0].to_owned(), &part[2..]) } else { (number.to_string(), part) }
    };
    split(inside(item, open), ",", true).into_iter().enumerate().map(field).collect()
}

/// A field or a variant behind its attributes and `pub`.
fn without_attributes<'a>(mut part: Tokens<'a>) -> Tokens<'a> {
    loop {
        part = match part {
            ["#", ..] => &part[closing(part, 1) + 1..],
            ["pub", "(", ..] => &part[closing(part, 1) + 1..],
            ["pub", ..] => &part[1..],
            _ => return part,
        };
    }
}

/// Pattern and type of a parameter.
fn parameter<'a>(part: Tokens<'a>) -> (Tokens<'a>, Tokens<'a>) {
    match find(part, 0, &[":"], false) {
        Some(at) => (&part[..at], &part[at + 1..]),
        None => (part, &["Self"]),
    }
}
