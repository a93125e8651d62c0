//! A strict parser of OpenMetrics text (version 1.0.0), of the parts that are used: families with HELP, TYPE and
//! perhaps UNIT, in that they stand together; samples of gauges and counters, with labels; `# EOF` and nothing behind.

use std::collections::{BTreeMap, BTreeSet};

/// Values by name and labels.
pub type Samples = BTreeMap<(String, Vec<(String, String)>), f64>;

/// A family that is being read.
#[derive(Default)]
struct Family {
    name: String,
    kind: Option<String>,
    has_help: bool,
    samples: usize,
}

/// Reads a whole text.
pub fn parse(text: &str) -> Result<Samples, String> {
    let lines = text.strip_suffix("# EOF\n").ok_or("the text does not end with # EOF")?;
    let (mut samples, mut seen) = (Samples::new(), BTreeSet::new());
    let mut family = Family::default();
    for line in lines.split_terminator('\n') {
        let wrong = |what: &str| format!("{what}: {line}");
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (Some(word), Some(name), Some(rest)) = (words.next(), words.next(), words.next())
            else {
                return Err(wrong("a comment that is none of metadata"));
            };
            if name != family.name {
                if !seen.insert(name.to_owned()) {
                    return Err(wrong("a family in two pieces"));
                }
                family = Family { name: name.to_owned(), ..Family::default() };
            }
            metadata(&mut family, word, rest).map_err(|what| wrong(&what))?;
            continue;
        }
        let (name, labels, value) = sample(line).map_err(|what| wrong(&what))?;
        belongs(&family, &name).map_err(|what| wrong(&what))?;
        if family.kind.as_deref() == Some("counter") && !(value.is_finite() && value >= 0.0) {
            return Err(wrong("a counter is a number from 0 on"));
        }
        family.samples += 1;
        if samples.insert((name, labels), value).is_some() {
            return Err(wrong("twice"));
        }
    }
    Ok(samples)
}

fn metadata(family: &mut Family, word: &str, rest: &str) -> Result<(), String> {
    if family.samples > 0 {
        return Err("metadata behind samples".to_owned());
    }
    if !is_name(&family.name) {
        return Err("no name of a metric".to_owned());
    }
    match word {
        "HELP" if !std::mem::replace(&mut family.has_help, true) => Ok(()),
        "TYPE" if family.kind.is_none() && ["gauge", "counter"].contains(&rest) => {
            let reserved = rest == "counter" && family.name.ends_with("_total");
            family.kind = Some(rest.to_owned());
            if reserved {
                Err("a counter whose name ends with its suffix".to_owned())
            } else {
                Ok(())
            }
        }
        "UNIT" if family.name.ends_with(&format!("_{rest}")) => Ok(()),
        _ => Err("metadata twice, or unknown".to_owned()),
    }
}

fn belongs(family: &Family, name: &str) -> Result<(), String> {
    let suffix = match family.kind.as_deref() {
        Some("counter") => "_total",
        Some(_) => "",
        None => return Err("no TYPE before".to_owned()),
    };
    if name.strip_suffix(suffix) == Some(&family.name) {
        Ok(())
    } else {
        Err(format!("no sample of {}", family.name))
    }
}

fn is_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

/// The name of a sample, its labels, its value.
type Sample = (String, Vec<(String, String)>, f64);

fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return Err("no name".to_owned());
    }
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, behind) = rest.split_once("=\"").ok_or("no label")?;
            if !is_name(label)
                || label.contains(':')
                || labels.iter().any(|(other, _)| other == label)
            {
                return Err("no name of a label, or twice".to_owned());
            }
            let (value, behind) = quoted(behind)?;
            labels.push((label.to_owned(), value));
            match behind.split_at_checked(1) {
                Some((",", more)) => rest = more,
                Some(("}", more)) => {
                    rest = more;
                    break;
                }
                _ => return Err("labels do not end".to_owned()),
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no blank before the value")?;
    let value = value.parse().map_err(|_| "no number, or something behind it")?;
    labels.sort();
    Ok((name.to_owned(), labels, value))
}

/// The value of a label up to its quote, and what is behind that.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('\\' | '"'))) => value.push(c),
                _ => return Err("an unknown escape".to_owned()),
            },
            c => value.push(c),
        }
    }
    Err("a quote that does not end".to_owned())
}

#[test]
fn the_parser_is_strict() {
    let good = "# HELP a Help.\n# TYPE a counter\na_total{b=\"c\\\"\\\\\\n}\"} 7\n# TYPE d gauge\nd 1.5\n# EOF\n";
    let samples = parse(good).unwrap();
    let labels = vec![("b".to_owned(), "c\"\\\n}".to_owned())];
    assert_eq!(samples[&("a_total".to_owned(), labels)], 7.0);
    assert_eq!(samples[&("d".to_owned(), Vec::new())], 1.5);
    for bad in [
        "",
        "# TYPE d gauge\nd 1\n",
        "# TYPE d gauge\nd 1\n# EOF\n\n",
        "d 1\n# EOF\n",
        "# TYPE a counter\na 1\n# EOF\n",
        "# TYPE a counter\na_total -1\n# EOF\n",
        "# TYPE a_total counter\na_total_total 1\n# EOF\n",
        "# TYPE d gauge\ne 1\n# EOF\n",
        "# TYPE d gauge\nd 1\nd 1\n# EOF\n",
        "# TYPE d gauge\nd{b=\"c} 1\n# EOF\n",
        "# TYPE d gauge\nd{b=\"\\x\"} 1\n# EOF\n",
        "# TYPE d gauge\nd{b=\"1\",b=\"2\"} 1\n# EOF\n",
        "# TYPE d gauge\nd{1=\"1\"} 1\n# EOF\n",
        "# TYPE d gauge\nd  1\n# EOF\n",
        "# TYPE d gauge\nd 1 x\n# EOF\n",
        "# TYPE d gauge\n# TYPE d gauge\nd 1\n# EOF\n",
        "# TYPE d gauge\nd 1\n# HELP d Late.\n# EOF\n",
        "# TYPE d gauge\nd 1\n# TYPE e gauge\ne 1\n# TYPE d gauge\n# EOF\n",
        "# TYPE d-e gauge\nd-e 1\n# EOF\n",
        "# TYPE d histogram\nd 1\n# EOF\n",
        "# UNIT d seconds\n# TYPE d gauge\nd 1\n# EOF\n",
        "# comment\n# EOF\n",
        "\n# EOF\n",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
