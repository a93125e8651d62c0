//! Names in full and compressed, and the names that are refused.

use super::*;

/// `name` in full.
fn full(name: &str) -> Option<Vec<u8>> {
    let mut out = ArrayVec::<u8, 512>::new();
    append(&mut out, name).then(|| out.to_vec())
}

/// The names in `bytes`, pointers followed.
fn decode(bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut next = 0;
    while next < bytes.len() {
        let (mut at, mut labels, mut end) = (next, Vec::new(), None);
        while bytes[at] != 0 {
            if bytes[at] >= POINTER {
                end.get_or_insert(at + 2);
                at = usize::from(bytes[at] & !POINTER) << 8 | usize::from(bytes[at + 1]);
            } else {
                let label = &bytes[at + 1..][..usize::from(bytes[at])];
                labels.push(String::from_utf8_lossy(label).into_owned());
                at += 1 + label.len();
            }
        }
        next = end.unwrap_or(at + 1);
        names.push(labels.join("."));
    }
    names
}

#[test]
fn rfc1035_3_1_labels_and_a_closing_zero() {
    assert_eq!(full("passt.top").as_deref(), Some(&b"\x05passt\x03top\0"[..]));
}

#[test]
fn trailing_dots_are_dropped() {
    assert_eq!(full("a.b."), full("a.b"));
    assert_eq!(full("a.b.."), full("a.b"));
}

#[test]
fn the_root_and_empty_labels_are_refused() {
    for name in ["", ".", "..", ".a", "a..b"] {
        assert_eq!(full(name), None, "{name:?}");
    }
}

#[test]
fn rfc1035_2_3_4_labels_up_to_63_bytes() {
    assert_eq!(full(&"a".repeat(63)).map(|n| n.len()), Some(65));
    assert_eq!(full(&"a".repeat(64)), None);
}

#[test]
fn rfc1035_2_3_4_names_up_to_255_bytes() {
    let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "a".repeat(61));
    assert_eq!(full(&longest).map(|n| n.len()), Some(MAX_NAME));
    assert_eq!(full(&format!("{longest}a")), None);
}

#[test]
fn a_name_that_does_not_fit_leaves_nothing_behind() {
    let mut out = ArrayVec::<u8, 8>::new();
    assert!(append(&mut out, "a.b"));
    assert!(!append(&mut out, "c.d"));
    assert_eq!(out[..], *b"\x01a\x01b\0");
    assert!(append(&mut out, "c"));
    assert!(out.is_full());
}

#[test]
fn rfc3397_section_2_example() {
    let names = ["eng.apple.com.", "marketing.apple.com."];
    let list: ArrayVec<u8, 255> = compressed_list(names.into_iter());
    assert_eq!(list[..], *b"\x03eng\x05apple\x03com\0\x09marketing\xc0\x04");
}

#[test]
fn compressed_names_read_back() {
    let cases: [&[&str]; 5] = [
        &["example", "example"],
        &["b.example", "a.b.example", "x.a.b.example", "example"],
        &["example.org", "example.com", "com", "org.example"],
        &["a.a.a", "a.a", "a"],
        &["aa.b", "a.b", "b.aa", "b.aa.b"],
    ];
    for names in cases {
        let list: ArrayVec<u8, 255> = compressed_list(names.iter().copied());
        assert_eq!(decode(&list), names);
        let list: ArrayVec<u8, 255> = list_in_full(names);
        assert_eq!(decode(&list), names);
    }
}

/// `names` in full.
fn list_in_full(names: &[&str]) -> ArrayVec<u8, 255> {
    list(names.iter().copied())
}

#[test]
fn only_whole_suffixes_are_shared() {
    let mut out = ArrayVec::<u8, 255>::new();
    assert!(append_compressed(&mut out, "x.example.com"));
    assert!(append_compressed(&mut out, "x.example"));
    assert_eq!(out[15..], *b"\x01x\x07example\0");
}

#[test]
fn entries_that_do_not_fit_are_left_out_and_later_ones_tried() {
    let list: ArrayVec<u8, 10> = list(["long.example", "a.b", "too.long", "c"].into_iter());
    assert_eq!(decode(&list), ["a.b", "c"]);
}

proptest::proptest! {
    #[test]
    fn any_list_of_names_reads_back(
        names in proptest::collection::vec("[ab]{1,2}(\\.[ab]{1,2}){0,4}", 0..12),
    ) {
        let list: ArrayVec<u8, 1024> = compressed_list(names.iter().map(String::as_str));
        proptest::prop_assert_eq!(decode(&list), names);
    }

    #[test]
    fn any_text_is_written_whole_or_not_at_all(name in "\\PC{0,300}") {
        let mut out = ArrayVec::<u8, 64>::new();
        let written = append_compressed(&mut out, &name);
        proptest::prop_assert_eq!(written, !out.is_empty());
    }
}
