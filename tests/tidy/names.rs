//! What the names in a crate stand for: paths, and types as far as calls need them.

use std::collections::{BTreeMap, BTreeSet};

use crate::items::{Fields, Function, Items, Kind, Shape, Tokens};
use crate::tokens::{closing, find, inside, split, token};

/// Imports that lead to imports are followed this far.
const MAX_DEPTH: usize = 16;

/// Types that are used like what they hold.
const TRANSPARENT: [&str; 9] =
    ["Box", "Rc", "Arc", "Cell", "RefCell", "Ref", "RefMut", "ManuallyDrop", "MutexGuard"];

/// What is known of the type of an expression. References are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Type {
    /// Nothing.
    #[default]
    Unknown,
    /// Not of this crate, or only known by its traits; with its parameters. Its methods are no calls.
    Foreign(Vec<Type>),
    Tuple(Vec<Type>),
    /// Place in [`Items::types`], and its parameters.
    Ours(usize, Vec<Type>),
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Foreign,
    Module(Vec<&'a str>),
    Type(usize),
    /// A name in a type: a variant or an associated function.
    Member(usize, &'a str),
    Function(usize),
}

/// Where a path or a type is written: what its names can mean there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope<'a> {
    pub module: Vec<&'a str>,
    pub self_type: Type,
    pub generics: BTreeMap<&'a str, Type>,
}

/// The names of one crate.
pub(crate) struct Names<'a> {
    pub items: Items<'a>,
    /// Inherent methods and associated functions, by type.
    methods: BTreeMap<(usize, &'a str), usize>,
    /// The same by name alone.
    by_name: BTreeMap<&'a str, Vec<usize>>,
    /// Names that traits declare.
    dispatched: BTreeSet<&'a str>,
}

impl<'a> Names<'a> {
    pub fn new(items: Items<'a>) -> Self {
        let mut names = Self {
            items,
            methods: BTreeMap::new(),
            by_name: BTreeMap::new(),
            dispatched: BTreeSet::new(),
        };
        for place in 0..names.items.functions.len() {
            let function = &names.items.functions[place];
            let (name, kind) = (function.name, function.kind);
            let owner = names.scope(function, &[]).self_type;
            match (kind, owner) {
                (Kind::Free, _) => {}
                (Kind::Dispatched, _) => drop(names.dispatched.insert(name)),
                (Kind::Inherent, owner) => {
                    names.by_name.entry(name).or_default().push(place);
                    if let Type::Ours(owner, _) = owner {
                        names.methods.insert((owner, name), place);
                    }
                }
            }
        }
        names
    }

    /// What names mean in `function`, for a receiver with the type parameters `parameters`.
    pub fn scope(&self, function: &Function<'a>, parameters: &[Type]) -> Scope<'a> {
        let opaque = function.generics.iter().map(|name| (*name, Type::Foreign(Vec::new())));
        let mut scope = Scope {
            module: function.module.clone(),
            self_type: Type::Foreign(Vec::new()),
            generics: opaque.collect(),
        };
        let Some(owner) = function.owner else { return scope };
        scope.self_type = self.read_type(owner, &scope);
        let own = find(owner, 0, &["<"], false).map(|at| split(inside(owner, at), ",", true));
        for (name, known) in own.into_iter().flatten().zip(parameters) {
            if scope.generics.contains_key(name[0]) {
                scope.generics.insert(name[0], known.clone());
            }
        }
        if let Type::Ours(_, own) = &mut scope.self_type
            && own.len() == parameters.len()
        {
            parameters.clone_into(own);
        }
        scope
    }

    /// The method `name` of our type `owner`.
    pub fn method(&self, owner: usize, name: &str) -> Option<usize> {
        self.methods.get(&(owner, name)).copied()
    }

    /// The methods of that name, if one file has all of them and no trait declares the name.
    pub fn only_methods(&self, name: &str) -> &[usize] {
        let found = self.by_name.get(name).map_or(&[][..], |found| found);
        let file = |place: &usize| self.items.functions[*place].file;
        let one_file = found.iter().all(|place| file(place) == file(&found[0]));
        if one_file && !self.dispatched.contains(name) { found } else { &[] }
    }

    /// Where `path` leads when it stands in `module`.
    pub fn resolve(&self, module: &[&'a str], path: &[&'a str]) -> Found<'a> {
        self.resolve_within(module, path, MAX_DEPTH)
    }

    fn resolve_within(&self, module: &[&'a str], path: &[&'a str], depth: usize) -> Found<'a> {
        let parent = &module[..module.len().saturating_sub(1)];
        match path {
            ["crate", rest @ ..] => self.walk(&[], rest, depth),
            ["self", rest @ ..] => self.walk(module, rest, depth),
            ["super", rest @ ..] => self.resolve_within(parent, rest, depth),
            _ => self.walk(module, path, depth),
        }
    }

    fn walk(&self, module: &[&'a str], path: &[&'a str], depth: usize) -> Found<'a> {
        let Some((&head, rest)) = path.split_first() else { return Found::Module(module.to_vec()) };
        let Some(names) = self.items.modules.get(module) else { return Found::Foreign };
        if rest.is_empty()
            && let Some(function) = names.functions.get(head)
        {
            return Found::Function(*function);
        }
        if let Some(place) = names.types.get(head) {
            return rest.first().map_or(Found::Type(*place), |name| Found::Member(*place, name));
        }
        if names.children.contains(head) {
            return self.walk(&[module, &[head]].concat(), rest, depth);
        }
        let Some(depth) = depth.checked_sub(1) else { return Found::Foreign };
        if let Some(import) = names.imports.get(head) {
            return self.resolve_within(module, &[import.as_slice(), rest].concat(), depth);
        }
        let mut globs = names.globs.iter();
        let through = |glob: &Vec<&'a str>| [glob.as_slice(), path].concat();
        globs
            .find_map(|glob| match self.resolve_within(module, &through(glob), depth) {
                Found::Foreign => None,
                found => Some(found),
            })
            .unwrap_or(Found::Foreign)
    }

    /// The type that is written as `tokens`.
    pub fn read_type(&self, tokens: Tokens<'a>, scope: &Scope<'a>) -> Type {
        let opaque = || Type::Foreign(Vec::new());
        match *tokens {
            [] | ["_"] => Type::Unknown,
            ["&" | "*" | "mut" | "const", ref rest @ ..] => self.read_type(rest, scope),
            [lifetime, ref rest @ ..] if lifetime.starts_with('\'') => self.read_type(rest, scope),
            ["dyn" | "impl" | "fn" | "for" | "unsafe" | "extern" | "!" | "<", ..] => opaque(),
            ["(", ..] => {
                let parts = split(inside(tokens, 0), ",", true);
                Type::Tuple(parts.into_iter().map(|part| self.read_type(part, scope)).collect())
            }
            ["[", ..] => {
                let element = split(inside(tokens, 0), ";", true);
                let element =
                    element.first().map_or(Type::Unknown, |part| self.read_type(part, scope));
                Type::Foreign(vec![element])
            }
            ["Self"] => scope.self_type.clone(),
            [name] if scope.generics.contains_key(name) => scope.generics[name].clone(),
            ["Self", ..] => opaque(),
            _ => self.read_path_type(tokens, scope),
        }
    }

    fn read_path_type(&self, tokens: Tokens<'a>, scope: &Scope<'a>) -> Type {
        let end = find(tokens, 0, &["<"], false).unwrap_or(tokens.len());
        let path: Vec<&str> = tokens[..end].iter().copied().filter(|word| *word != "::").collect();
        let own = split(inside(tokens, end), ",", true);
        let own = own.into_iter().filter(|part| !part[0].starts_with('\''));
        let mut own: Vec<Type> = own.map(|part| self.read_type(part, scope)).collect();
        match self.resolve(&scope.module, &path) {
            Found::Type(place) => self.our_type(place, own),
            _ if path.last().is_some_and(|name| TRANSPARENT.contains(name)) && own.len() == 1 => {
                own.remove(0)
            }
            _ => Type::Foreign(own),
        }
    }

    /// The type at `place` with its parameters; what it stands for if it is an alias.
    pub fn our_type(&self, place: usize, own: Vec<Type>) -> Type {
        match self.items.types[place].shape {
            Shape::Alias(of) => self.read_type(of, &self.type_scope(place, &own)),
            _ => Type::Ours(place, own),
        }
    }

    fn type_scope(&self, place: usize, own: &[Type]) -> Scope<'a> {
        let item = &self.items.types[place];
        let names = item.generics.iter().filter(|name| !name.starts_with('\''));
        let own = own.iter().cloned().chain(std::iter::repeat(Type::Foreign(Vec::new())));
        Scope {
            module: item.module.clone(),
            self_type: Type::Unknown,
            generics: names.copied().zip(own).collect(),
        }
    }

    /// The types of the fields of a struct, or of a variant, by name or number.
    pub fn fields(
        &self,
        place: usize,
        own: &[Type],
        variant: Option<&str>,
    ) -> BTreeMap<String, Type> {
        let fields: Option<&Fields<'a>> = match (&self.items.types[place].shape, variant) {
            (Shape::Struct(fields), None) => Some(fields),
            (Shape::Enum(variants), Some(name)) => variants.get(name),
            _ => None,
        };
        let scope = self.type_scope(place, own);
        let read =
            |(name, tokens): (&String, &Tokens<'a>)| (name.clone(), self.read_type(tokens, &scope));
        fields.into_iter().flatten().map(read).collect()
    }
}

/// The segments of the path at `at`, and where it ends.
pub(crate) fn path_at<'a>(tokens: Tokens<'a>, at: usize) -> (Vec<&'a str>, usize) {
    let mut path = vec![tokens[at]];
    let mut end = at + 1;
    while token(tokens, end) == "::" {
        if token(tokens, end + 1) == "<" {
            end = closing(tokens, end + 1) + 1;
        } else {
            path.push(token(tokens, end + 1));
            end += 2;
        }
    }
    (path, end)
}
