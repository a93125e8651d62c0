//! Small pieces of text that several options are made of.

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;

/// A number in decimal digits and nothing else: no sign, no blank.
pub(super) fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// An address, in brackets or not, of either family.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(text).parse().ok()
}

/// Bytes of an argument that a message repeats: whoever has many ports knows by its begin which one it is.
const REPEATED_BYTES: usize = 96;

/// An argument as messages repeat it: its begin, where it is long.
pub(super) fn repeated(argument: &str) -> Cow<'_, str> {
    if argument.len() <= REPEATED_BYTES {
        return argument.into();
    }
    format!("{}...", &argument[..argument.floor_char_boundary(REPEATED_BYTES)]).into()
}
