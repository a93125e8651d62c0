//! Which functions of its crate a function calls.
//!
//! A walk over the words of its body that remembers what is known of the types of local names. It is no compiler:
//! where it knows nothing of a receiver, the method's name decides, if that is enough.

use std::collections::{BTreeMap, BTreeSet};

use crate::items::{Function, Tokens};
use crate::names::{Found, Names, Scope, Type, path_at};
use crate::tokens::{closing, find, inside, is_name, split, token};

/// Names that std or a dependency gives to methods of common types: numbers, text, lists, locks, sockets, addresses,
/// iterators. Where nothing is known of the receiver, they say nothing.
const COMMON: &str = "
    add all any as_bytes as_fd as_micros as_ptr as_slice as_str binary_search borrow borrow_mut bytes
    capacity chain chars clear clone close cmp collect contains contains_key copy_from_slice count drain end
    entry eq extend fill filter find first flush fold get get_mut hash help insert ip is_empty is_ipv4 iter
    iter_mut join keys last len lines load lock map max min name new next octets open parse peek pop port
    position push range read recv remove replace reserve resize retain rev send set since skip sort split
    split_at start store sum swap take truncate value values wait write zip";

/// Methods of foreign types that lead to what these hold.
const OPENING: &str = "
    expect get_or_insert_with unwrap unwrap_or unwrap_or_default unwrap_or_else";

/// Methods of foreign types after which they hold the same as before.
const KEEPING: &str = "
    as_deref as_deref_mut as_mut as_mut_slice as_ref as_slice borrow borrow_mut by_ref clone cloned copied
    drain filter find first first_mut get get_mut into_iter iter iter_mut last last_mut map_err next ok
    ok_or ok_or_else or_else pop pop_front rev take";

/// Words that begin no expression that is followed here.
const KEYWORDS: &str = "
    as async await break const continue dyn else enum false fn for if impl in let loop match move mut ref
    return static struct trait true unsafe use where while";

/// Finds the calls of one function.
pub(crate) struct Walk<'n, 'a> {
    names: &'n Names<'a>,
    scope: Scope<'a>,
    locals: BTreeMap<&'a str, Type>,
    /// Places of the functions that are called.
    pub called: BTreeSet<usize>,
}

impl<'n, 'a> Walk<'n, 'a> {
    /// The walk over the body of `function`.
    pub fn over(names: &'n Names<'a>, function: &Function<'a>) -> Self {
        let scope = names.scope(function, &[]);
        let mut walk = Self { names, scope, locals: BTreeMap::new(), called: BTreeSet::new() };
        for (pattern, written) in &function.parameters {
            let known = walk.names.read_type(written, &walk.scope);
            walk.bind(pattern, &known);
        }
        walk.scan(function.body);
        walk
    }

    /// Finds the calls in a stretch of code.
    fn scan(&mut self, code: Tokens<'a>) {
        let mut at = 0;
        while at < code.len() {
            at = match code[at] {
                "let" => self.binding(code, at + 1, "="),
                "for" if token(code, at + 1) != "<" => self.iteration(code, at + 1),
                "match" => self.choice(code, at + 1),
                "|" if starts_closure(code, at) => self.closure(code, at, &Type::Unknown),
                "fn" => find(code, at, &["{"], false).unwrap_or(code.len()),
                "#" => closing(code, at + 1) + 1,
                "(" | "[" => self.chain(code, at).1,
                "." => self.tail(code, at, Type::Unknown).1,
                "::" => path_at(code, at).1,
                word if is_name(word) && !is_keyword(word) => self.chain(code, at).1,
                _ => at + 1,
            };
        }
    }

    /// `let PATTERN = EXPRESSION`. Returns where to go on.
    fn binding(&mut self, code: Tokens<'a>, at: usize, sign: &str) -> usize {
        let Some(end) = find(code, at, &[sign, ";"], true) else { return at };
        let colon = find(code, at, &[":"], false).filter(|colon| *colon < end);
        let pattern = &code[at..colon.unwrap_or(end)];
        let mut known = colon.map_or(Type::Unknown, |colon| {
            self.names.read_type(&code[colon + 1..end], &self.scope)
        });
        let mut next = end + 1;
        if code[end] == sign {
            let (value, after) = self.operand(code, end + 1);
            if known == Type::Unknown {
                known = value;
            }
            next = after;
        }
        self.bind(pattern, &known);
        next
    }

    /// `for PATTERN in EXPRESSION`. Returns where to go on.
    fn iteration(&mut self, code: Tokens<'a>, at: usize) -> usize {
        let Some(end) = find(code, at, &["in"], false) else { return at };
        let (value, after) = self.operand(code, end + 1);
        self.bind(&code[at..end], &held(&value));
        after
    }

    /// `match EXPRESSION { ... }`. Returns where to go on.
    fn choice(&mut self, code: Tokens<'a>, at: usize) -> usize {
        let (value, after) = self.operand(code, at);
        let Some(open) = find(code, after, &["{"], false) else { return after };
        self.scan(&code[after..open]);
        let arms = inside(code, open);
        let mut begin = 0;
        while let Some(arrow) = find(arms, begin, &["=>"], false) {
            let guard = find(arms, begin, &["if"], false).filter(|at| *at < arrow);
            self.bind(&arms[begin..guard.unwrap_or(arrow)], &value);
            self.scan(&arms[guard.unwrap_or(arrow)..arrow]);
            let end = if token(arms, arrow + 1) == "{" {
                closing(arms, arrow + 1) + 1
            } else {
                find(arms, arrow, &[","], false).unwrap_or(arms.len())
            };
            self.scan(&arms[arrow + 1..end]);
            begin = end + usize::from(token(arms, end) == ",");
        }
        closing(code, open) + 1
    }

    /// The parameters of a closure; the first is `first`. Returns where its body begins.
    fn closure(&mut self, code: Tokens<'a>, at: usize, first: &Type) -> usize {
        let Some(end) = find(code, at + 1, &["|"], false) else { return at + 1 };
        let mut known = first.clone();
        for parameter in split(&code[at + 1..end], ",", true) {
            let colon = find(parameter, 0, &[":"], false);
            if let Some(colon) = colon {
                known = self.names.read_type(&parameter[colon + 1..], &self.scope);
            }
            self.bind(&parameter[..colon.unwrap_or(parameter.len())], &known);
            known = Type::Unknown;
        }
        end + 1
    }

    /// A chain behind the signs that lend or follow it. Returns what is known of its type, and where it ends.
    fn operand(&mut self, code: Tokens<'a>, mut at: usize) -> (Type, usize) {
        while ["&", "*", "mut"].contains(&token(code, at)) {
            at += 1;
        }
        let first = token(code, at);
        if first == "(" || first == "[" || is_name(first) && !is_keyword(first) {
            self.chain(code, at)
        } else {
            (Type::Unknown, at)
        }
    }

    /// An expression that fills `code`.
    fn whole(&mut self, code: Tokens<'a>) -> Type {
        let (known, end) = self.operand(code, 0);
        self.scan(&code[end..]);
        if end == code.len() { known } else { Type::Unknown }
    }

    /// `a.b(c)?.d` and its like. Returns what is known of its type, and where it ends.
    fn chain(&mut self, code: Tokens<'a>, at: usize) -> (Type, usize) {
        let (known, at) = self.head(code, at);
        self.tail(code, at, known)
    }

    /// The fields and calls at `at` behind something of type `known`.
    fn tail(&mut self, code: Tokens<'a>, mut at: usize, mut known: Type) -> (Type, usize) {
        loop {
            (known, at) = match token(code, at) {
                "." if is_call(code, at + 2) => {
                    let open = path_at(code, at + 1).1;
                    let known = self.method_call(&known, code[at + 1], inside(code, open));
                    (known, closing(code, open) + 1)
                }
                "." => (self.field(&known, token(code, at + 1)), at + 2),
                "?" => (held(&known), at + 1),
                "[" => {
                    self.scan(inside(code, at));
                    (held(&known), closing(code, at) + 1)
                }
                "(" => {
                    self.scan(inside(code, at));
                    (Type::Unknown, closing(code, at) + 1)
                }
                _ => return (known, at),
            };
        }
    }

    /// What a chain begins with.
    fn head(&mut self, code: Tokens<'a>, at: usize) -> (Type, usize) {
        if code[at] == "(" || code[at] == "[" {
            let parts = split(inside(code, at), ",", false);
            let alone = parts.len() == 1;
            let mut known: Vec<Type> = parts.into_iter().map(|part| self.whole(part)).collect();
            let known = match code[at] {
                "[" => Type::Foreign(known),
                _ if alone => known.remove(0),
                _ => Type::Tuple(known),
            };
            return (known, closing(code, at) + 1);
        }
        let (path, end) = path_at(code, at);
        if let Some(known) = self.locals.get(path[0]).filter(|_| path.len() == 1) {
            return (known.clone(), end);
        }
        match token(code, end) {
            "!" if ["(", "[", "{"].contains(&token(code, end + 1)) => {
                self.scan(inside(code, end + 1));
                (Type::Unknown, closing(code, end + 1) + 1)
            }
            "(" => {
                let arguments = split(inside(code, end), ",", false);
                let arguments: Vec<Type> =
                    arguments.into_iter().map(|argument| self.whole(argument)).collect();
                (self.path_call(&path, arguments), closing(code, end) + 1)
            }
            _ => (self.path_value(&path), end),
        }
    }

    /// Where a path of this scope leads.
    fn resolve(&self, path: &[&'a str]) -> Found<'a> {
        match (path, &self.scope.self_type) {
            (["Self"], Type::Ours(place, _)) => Found::Type(*place),
            (["Self", name], Type::Ours(place, _)) => Found::Member(*place, name),
            (["Self", ..], _) => Found::Foreign,
            _ => self.names.resolve(&self.scope.module, path),
        }
    }

    /// What `path(arguments)` is, which may be a call.
    fn path_call(&mut self, path: &[&'a str], arguments: Vec<Type>) -> Type {
        match self.resolve(path) {
            Found::Function(place) => self.call(place, &[]),
            Found::Member(owner, name) => match self.names.method(owner, name) {
                Some(place) => self.call(place, &[]),
                None => self.names.our_type(owner, Vec::new()),
            },
            Found::Type(place) => self.names.our_type(place, Vec::new()),
            Found::Module(_) => Type::Unknown,
            Found::Foreign => match path {
                ["Some" | "Ok"] => Type::Foreign(arguments),
                ["Box" | "Rc" | "Arc", "new" | "clone"] => {
                    arguments.into_iter().next().unwrap_or_default()
                }
                _ => Type::Unknown,
            },
        }
    }

    /// What is known of a path without arguments. Who hands a function on is as good as its caller.
    fn path_value(&mut self, path: &[&'a str]) -> Type {
        match self.resolve(path) {
            Found::Function(place) if path.len() > 1 => drop(self.called.insert(place)),
            Found::Member(owner, name) if self.names.method(owner, name).is_some() => {
                self.called.extend(self.names.method(owner, name));
            }
            Found::Type(place) => return self.names.our_type(place, Vec::new()),
            Found::Member(place, name) if name.starts_with(char::is_uppercase) => {
                return self.names.our_type(place, Vec::new());
            }
            _ => {}
        }
        Type::Unknown
    }

    fn method_call(&mut self, receiver: &Type, name: &'a str, arguments: Tokens<'a>) -> Type {
        let hint = held(receiver);
        for argument in split(arguments, ",", false) {
            match token(argument, 0) {
                "|" => {
                    let body = self.closure(argument, 0, &hint);
                    self.scan(&argument[body..]);
                }
                _ => drop(self.whole(argument)),
            }
        }
        let own = match receiver {
            Type::Ours(place, own) => match self.names.method(*place, name) {
                Some(method) => return self.call(method, own),
                None => return if name == "clone" { receiver.clone() } else { Type::Unknown },
            },
            Type::Foreign(own) => own,
            Type::Tuple(_) => return Type::Unknown,
            Type::Unknown => return self.unknown_method(name),
        };
        if is_among(OPENING, name) {
            own.first().cloned().unwrap_or_default()
        } else if is_among(KEEPING, name) {
            receiver.clone()
        } else {
            Type::Unknown
        }
    }

    /// A method of which only the name is known.
    fn unknown_method(&mut self, name: &'a str) -> Type {
        if is_among(COMMON, name) {
            return Type::Unknown;
        }
        let found = self.names.only_methods(name);
        let known: Vec<Type> = found.iter().map(|place| self.call(*place, &[])).collect();
        if known.len() == 1 { known[0].clone() } else { Type::Unknown }
    }

    /// Notes a call; what it returns for a receiver with these type parameters.
    fn call(&mut self, place: usize, parameters: &[Type]) -> Type {
        self.called.insert(place);
        let function = &self.names.items.functions[place];
        self.names.read_type(function.result, &self.names.scope(function, parameters))
    }

    fn field(&self, owner: &Type, name: &str) -> Type {
        match owner {
            Type::Ours(place, own) => {
                self.names.fields(*place, own, None).remove(name).unwrap_or_default()
            }
            Type::Tuple(parts) => {
                let number: Option<usize> = name.parse().ok();
                number.and_then(|number| parts.get(number)).cloned().unwrap_or_default()
            }
            Type::Foreign(_) | Type::Unknown => Type::Unknown,
        }
    }

    /// Notes the names that `pattern` gives to parts of a value.
    fn bind(&mut self, pattern: Tokens<'a>, value: &Type) {
        let alternatives = split(pattern, "|", false);
        if alternatives.len() > 1 {
            return alternatives.into_iter().for_each(|alternative| self.bind(alternative, value));
        }
        match *pattern {
            ["|" | "&" | "mut" | "ref", ref rest @ ..] => self.bind(rest, value),
            [lifetime, ref rest @ ..] if lifetime.starts_with('\'') => self.bind(rest, value),
            [name, "@", ref rest @ ..] => {
                self.locals.insert(name, value.clone());
                self.bind(rest, value);
            }
            [name] if name.starts_with(|c: char| c.is_lowercase() || c == '_') => {
                self.locals.insert(name, value.clone());
            }
            ["(", ..] => {
                let parts = split(inside(pattern, 0), ",", false);
                for (number, part) in parts.into_iter().enumerate() {
                    self.bind(part, &self.field(value, &number.to_string()));
                }
            }
            ["[", ..] => {
                for part in split(inside(pattern, 0), ",", false) {
                    self.bind(part, &held(value));
                }
            }
            [name, ..] if is_name(name) => self.bind_parts(pattern, value),
            _ => {}
        }
    }

    /// `Path(PATTERN, ...)` and `Path { name: PATTERN, ... }`.
    fn bind_parts(&mut self, pattern: Tokens<'a>, value: &Type) {
        let (path, open) = path_at(pattern, 0);
        let own = |place| match value {
            Type::Ours(known, own) if *known == place => own.as_slice(),
            _ => &[],
        };
        let mut fields = match self.resolve(&path) {
            Found::Type(place) => self.names.fields(place, own(place), None),
            Found::Member(place, name) => self.names.fields(place, own(place), Some(name)),
            _ if path == ["Some"] || path == ["Ok"] => [("0".to_owned(), held(value))].into(),
            _ => BTreeMap::new(),
        };
        for (number, part) in split(inside(pattern, open), ",", false).into_iter().enumerate() {
            let colon = find(part, 0, &[":"], false);
            let name = match (token(pattern, open), colon) {
                ("(", _) => number.to_string(),
                (_, Some(colon)) => part[..colon].concat(),
                (_, None) => part[part.len() - 1].to_owned(),
            };
            let part = colon.map_or(part, |colon| &part[colon + 1..]);
            self.bind(part, &fields.remove(&name).unwrap_or_default());
        }
    }
}

/// What an optional value, a result or a list holds.
fn held(known: &Type) -> Type {
    match known {
        Type::Foreign(own) => own.first().cloned().unwrap_or_default(),
        _ => Type::Unknown,
    }
}

/// Whether a call's bracket, perhaps behind type parameters, opens at `at`.
fn is_call(code: Tokens<'_>, at: usize) -> bool {
    let at = if token(code, at) == "::" { closing(code, at + 1) + 1 } else { at };
    token(code, at) == "("
}

/// Whether the bar at `at` opens the parameters of a closure.
fn starts_closure(code: Tokens<'_>, at: usize) -> bool {
    let before = if at == 0 { "" } else { code[at - 1] };
    ["", "(", ",", "=", "move", "{", "=>", "return", "&", ";", ":"].contains(&before)
}

fn is_keyword(word: &str) -> bool {
    is_among(KEYWORDS, word)
}

fn is_among(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|other| other == word)
}
