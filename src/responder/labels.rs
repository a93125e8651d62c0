//! Domain names as sequences of labels (RFC 1035, 3.1 and 4.1.4).
//!
//! DHCPv4's search option shares suffixes by pointers (RFC 3397); everywhere else names are written
//! out in full (RFC 3646, RFC 4702, RFC 4704, RFC 8106). A name is written completely or not at all.

use arrayvec::ArrayVec;

/// Longest name in label form, with the closing zero.
pub(crate) const MAX_NAME: usize = 255;

/// Most bytes of search list in a DHCPv6 reply or a router advertisement; a multiple of 8.
pub(crate) const MAX_SEARCH_BYTES: usize = 512;

/// Longest label.
const MAX_LABEL: usize = 63;

/// Marks a pointer in the upper two bits of a length byte.
const POINTER: u8 = 0xc0;

/// Appends `name` in full. Trailing dots are dropped. Returns whether it was written: the root, an
/// empty or overlong label, an overlong name and one that exceeds the capacity are not.
pub(crate) fn append<const N: usize>(out: &mut ArrayVec<u8, N>, name: &str) -> bool {
    append_with(out, name, |_, _| None)
}

/// Appends `name`, with a pointer for the longest suffix that `out` already has. `out` holds
/// nothing but names that were written by this function, and pointers count from its start.
/// Returns whether it was written, as [`append`] does.
pub(crate) fn append_compressed<const N: usize>(out: &mut ArrayVec<u8, N>, name: &str) -> bool {
    append_with(out, name, find_suffix)
}

/// Appends every name of `names` that is valid and fits, in full.
pub(crate) fn list<'a, const N: usize>(names: impl Iterator<Item = &'a str>) -> ArrayVec<u8, N> {
    let mut out = ArrayVec::new();
    for name in names {
        append(&mut out, name);
    }
    out
}

/// Appends every name of `names` that is valid and fits, compressed.
pub(crate) fn compressed_list<'a, const N: usize>(
    names: impl Iterator<Item = &'a str>,
) -> ArrayVec<u8, N> {
    let mut out = ArrayVec::new();
    for name in names {
        append_compressed(&mut out, name);
    }
    out
}

/// Appends `name` or nothing; `find` gives the pointer for a suffix, from what stood in `out`
/// before.
fn append_with<const N: usize>(
    out: &mut ArrayVec<u8, N>,
    name: &str,
    find: impl Fn(&[u8], &str) -> Option<u16>,
) -> bool {
    let name = name.trim_end_matches('.');
    if name.is_empty() || name.len() + 2 > MAX_NAME {
        return false;
    }
    let start = out.len();
    let written = try_append(out, name, find).is_some();
    if !written {
        out.truncate(start);
    }
    written
}

/// Appends `name`; on `None` part of it may have been written.
fn try_append<const N: usize>(
    out: &mut ArrayVec<u8, N>,
    name: &str,
    find: impl Fn(&[u8], &str) -> Option<u16>,
) -> Option<()> {
    let start = out.len();
    let mut rest = name;
    while !rest.is_empty() {
        if let Some(pointer) = find(&out[..start], rest) {
            return out.try_extend_from_slice(&pointer.to_be_bytes()).ok();
        }
        let (label, tail) = rest.split_once('.').unwrap_or((rest, ""));
        let len = u8::try_from(label.len()).ok()?;
        if label.is_empty() || label.len() > MAX_LABEL {
            return None;
        }
        out.try_push(len).ok()?;
        out.try_extend_from_slice(label.as_bytes()).ok()?;
        rest = tail;
    }
    out.try_push(0).ok()
}

/// The pointer to the first place in `names` where `suffix` stands with all that follows it.
fn find_suffix(names: &[u8], suffix: &str) -> Option<u16> {
    let mut offset = 0;
    while let Some(&len) = names.get(offset) {
        offset += match len {
            0 => 1,
            POINTER.. => 2,
            _ if stands_at(names, offset, suffix) => {
                let offset = u16::try_from(offset).ok().filter(|o| *o < 1 << 14)?;
                return Some(u16::from(POINTER) << 8 | offset);
            }
            _ => 1 + usize::from(len),
        };
    }
    None
}

/// Whether the name at `offset` of `names`, pointers followed, is exactly `name`.
fn stands_at(names: &[u8], mut offset: usize, name: &str) -> bool {
    let mut labels = name.split('.');
    loop {
        match names.get(offset) {
            None => return false,
            Some(0) => return labels.next().is_none(),
            // Written by us, so it points backwards and the walk ends.
            Some(&high @ POINTER..) => {
                let Some(&low) = names.get(offset + 1) else {
                    return false;
                };
                offset = usize::from(u16::from_be_bytes([high & !POINTER, low]));
            }
            Some(&len) => {
                let end = offset + 1 + usize::from(len);
                let label = names.get(offset + 1..end);
                if label != labels.next().map(str::as_bytes) {
                    return false;
                }
                offset = end;
            }
        }
    }
}

#[cfg(test)]
mod tests;
