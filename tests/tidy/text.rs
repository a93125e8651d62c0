//! Source text without what is no code, and the functions in it.

/// The part of a file that is compiled into the program.
pub(crate) fn before_tests(code: &str) -> &str {
    let tests = code.match_indices("\n#[cfg(test)]").find(|(at, marker)| {
        let rest = code[at + marker.len()..].trim_start();
        rest.starts_with("mod ") && rest.find('{') < rest.find(';').or(Some(usize::MAX))
    });
    tests.map_or(code, |(at, _)| &code[..at])
}

/// Name and length in lines of every function that has a body.
pub(crate) fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let name: String =
            code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !starts_word || name.is_empty() {
            continue;
        }
        if let Some(len) = body_end(&code[at..]) {
            found.push((name, code[at..at + len].lines().count()));
        }
    }
    found
}

/// Where the body of the function at the start of `code` ends; none if it has no body.
fn body_end(code: &str) -> Option<usize> {
    let (mut braces, mut others) = (0_usize, 0_usize);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' if braces == 0 => others += 1,
            ')' | ']' if braces == 0 => others = others.saturating_sub(1),
            ';' if braces == 0 && others == 0 => return None,
            '{' if others == 0 => braces += 1,
            '}' if braces == 1 => return Some(at + 1),
            '}' if braces > 1 => braces -= 1,
            _ => {}
        }
    }
    None
}

/// The text with every comment and the inside of every literal made blank. Lines stay.
pub(crate) fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let len = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment_len(rest),
            '"' => string_len(rest),
            'r' | 'b' if !after_word => raw_string_len(rest),
            '\'' => char_len(rest),
            _ => 0,
        };
        if len == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..len].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[len..];
        }
    }
    code
}

fn block_comment_len(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// The length of a raw string at the start, 0 if there is none.
fn raw_string_len(text: &str) -> usize {
    let Some(quoted) = text.strip_prefix('b').unwrap_or(text).strip_prefix('r') else { return 0 };
    let hashes = quoted.chars().take_while(|c| *c == '#').count();
    if !quoted[hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let begin = text.len() - quoted.len() + hashes + 1;
    text[begin..].find(&end).map_or(text.len(), |at| begin + at + end.len())
}

/// The length of a character literal at the start, 0 if it is a lifetime.
fn char_len(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((escaped, _))) => {
            let after = escaped + text[escaped..].chars().next().map_or(1, char::len_utf8);
            text[after..].find('\'').map_or(0, |at| after + at + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{code_only, functions};

    #[test]
    fn comments_and_literals_are_blank() {
        let text =
            "a // unsafe {\n/* { /* */ unsafe */ \"}\\\"\" '{' '\\'' 'a: r#\"\"}\"# br\"{\" x";
        assert_eq!(code_only(text).lines().count(), text.lines().count());
        assert_eq!(code_only(text).split_whitespace().collect::<Vec<_>>(), ["a", "'a:", "x"]);
    }

    #[test]
    fn functions_end_where_they_end() {
        let code =
            "trait A { fn a(&self, b: [u8; 2]); fn c() -> [u8; 2]\n{\n [0; 2] }\n}\nfn d() {}";
        assert_eq!(functions(code), [("c".to_owned(), 3), ("d".to_owned(), 1)]);
    }
}
