//! Code as a list of words and signs, and the brackets in it.

/// Signs of more than one character that must not be read as several.
const JOINED: [&str; 6] = ["..=", "...", "::", "->", "=>", ".."];

/// Words, lifetimes and signs of `code`, which holds no comments and no literals.
pub(crate) fn tokens(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = rest.trim_start_matches(is_word);
        let len = if word.len() < rest.len() {
            rest.len() - word.len()
        } else if first == '\'' {
            rest.len() - rest[1..].trim_start_matches(is_word).len()
        } else {
            let joined = JOINED.iter().find(|sign| rest.starts_with(**sign));
            joined.map_or(first.len_utf8(), |sign| sign.len())
        };
        found.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether the token is a name or a keyword.
pub(crate) fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The token at `at`, empty behind the end.
pub(crate) fn token<'a>(tokens: &[&'a str], at: usize) -> &'a str {
    tokens.get(at).copied().unwrap_or("")
}

/// Where the bracket that opens at `at` is closed. Angle brackets count as brackets only
/// if one of them opens.
pub(crate) fn closing(tokens: &[&str], at: usize) -> usize {
    let angles = token(tokens, at) == "<";
    let mut depth = 0_usize;
    for (place, token) in tokens.iter().enumerate().skip(at) {
        depth = match depth_change(token, angles) {
            1 => depth + 1,
            -1 => depth.saturating_sub(1),
            _ => depth,
        };
        if depth == 0 {
            return place;
        }
    }
    tokens.len().saturating_sub(1)
}

/// What is inside the bracket that opens at `at`.
pub(crate) fn inside<'s, 'a>(tokens: &'s [&'a str], at: usize) -> &'s [&'a str] {
    let end = closing(tokens, at);
    tokens.get(at + 1..end).unwrap_or(&[])
}

/// Where the first of `wanted` stands outside all brackets, from `from` on.
pub(crate) fn find(tokens: &[&str], from: usize, wanted: &[&str], angles: bool) -> Option<usize> {
    let mut depth = 0_i32;
    for (place, token) in tokens.iter().enumerate().skip(from) {
        if depth == 0 && wanted.contains(token) {
            return Some(place);
        }
        depth += depth_change(token, angles);
    }
    None
}

/// The parts between separators that stand outside all brackets; no empty ones.
pub(crate) fn split<'s, 'a>(
    tokens: &'s [&'a str],
    separator: &str,
    angles: bool,
) -> Vec<&'s [&'a str]> {
    let mut parts = Vec::new();
    let mut begin = 0;
    while begin < tokens.len() {
        let end = find(tokens, begin, &[separator], angles).unwrap_or(tokens.len());
        if end > begin {
            parts.push(&tokens[begin..end]);
        }
        begin = end + 1;
    }
    parts
}

fn depth_change(token: &str, angles: bool) -> i32 {
    match token {
        "(" | "[" | "{" => 1,
        ")" | "]" | "}" => -1,
        "<" if angles => 1,
        ">" if angles => -1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{find, inside, split, tokens};

    #[test]
    fn code_becomes_words_and_signs() {
        let found = tokens("a::b(&'x c.0)?..=d->e<f>>1.5");
        let expected = "a :: b ( & 'x c . 0 ) ? ..= d -> e < f > > 1 . 5";
        assert_eq!(found, expected.split(' ').collect::<Vec<_>>());
    }

    #[test]
    fn brackets_hold_together() {
        let code = tokens("a(b, [c, d]), Vec<e, f>, g");
        assert_eq!(inside(&code, 1), tokens("b, [c, d]"));
        assert_eq!(split(&code, ",", true).len(), 3);
        assert_eq!(split(&code, ",", false).len(), 4);
        assert_eq!(find(&code, 0, &["d"], false), None);
    }
}
