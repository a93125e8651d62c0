//! `--check`: what this machine allows and what is missing, a line each, with the cure. Nothing is changed: what is
//! tried is tried in processes that end at once.
//!
//! A *finding* is one thing that was looked at. It is fine, it limits what the program does, or it is missing and the
//! program does not start. [`isolation`] tries what the kernel lets the program do, [`host`] looks at the rest of this machine, [`name_servers`] at resolv.conf, [`callers`] at the programs that start this one,
//! [`front_end`] at the command line of a virtual machine monitor.

mod callers;
mod finding;
mod front_end;
mod host;
mod isolation;
mod name_servers;

use std::fmt::Write as _;

use self::finding::{Finding, Verdict};
use crate::conf::{HAS_VHOST_USER, Mode, Question};

/// Looks at everything. The text to print, and whether nothing is missing.
#[must_use]
pub(crate) fn answer(question: &Question) -> (String, bool) {
    // Who starts this one reads files that may be closed to the user that it becomes.
    let mut others = callers::findings(question.mode);
    if !question.front_end.is_empty() {
        let words = question.front_end.iter().map(|word| word.to_string_lossy().into_owned());
        others.extend(front_end::findings(&words.collect::<Vec<_>>(), HAS_VHOST_USER));
    }
    let mut findings = host::findings(question);
    findings.extend(others);
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    let text = if question.json { json(question.mode, worst, &findings) } else { lines(&findings) };
    (text, worst != Verdict::Missing)
}

/// One line each. What others have written, on command lines and in files, ends none and commands no terminal.
fn lines(findings: &[Finding]) -> String {
    let mut text = String::new();
    for (at, Finding { topic, verdict, text: what, cure }) in findings.iter().enumerate() {
        let above = findings[..at].iter().find(|finding| finding.cure == *cure);
        let cure = match above {
            _ if cure.is_empty() => String::new(),
            Some(above) => format!("; cure: as above ({})", above.topic),
            None => format!("; cure: {cure}"),
        };
        let line = format!("{:<8} {topic}: {what}{cure}", verdict.name());
        text.extend(line.chars().map(|c| if c.is_control() { '?' } else { c }));
        text.push('\n');
    }
    text
}

/// An object with the worst verdict and all findings.
fn json(mode: Mode, worst: Verdict, findings: &[Finding]) -> String {
    let program = if mode == Mode::Pasta { "pasta" } else { "passt" };
    let findings: Vec<String> = findings
        .iter()
        .map(|Finding { topic, verdict, text, cure }| {
            format!(
                "    {{ \"topic\": {}, \"verdict\": {}, \"text\": {}, \"cure\": {} }}",
                quoted(topic),
                quoted(verdict.name()),
                quoted(text),
                if cure.is_empty() { "null".to_owned() } else { quoted(cure) },
            )
        })
        .collect();
    format!(
        "{{\n  \"program\": {},\n  \"version\": {},\n  \"verdict\": {},\n  \"findings\": [\n{}\n  ]\n}}\n",
        quoted(program),
        quoted(env!("CARGO_PKG_VERSION")),
        quoted(worst.name()),
        findings.join(",\n")
    )
}

/// A string of JSON (RFC 8259, section 7).
fn quoted(text: &str) -> String {
    let mut out = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_with_its_cure() {
        let findings = [
            Finding::fine("memory", "shared"),
            Finding::limits("ping", "refused", "allow it"),
            Finding::lacks("tap", "no device", "modprobe tun"),
        ];
        assert_eq!(
            lines(&findings),
            "ok       memory: shared\n\
             limited  ping: refused; cure: allow it\n\
             missing  tap: no device; cure: modprobe tun\n"
        );
        let cure = "allow it";
        let again = [Finding::lacks("a", "none", cure), Finding::lacks("b", "none", cure)];
        let second = "missing  b: none; cure: as above (a)";
        assert_eq!(lines(&again).lines().last(), Some(second));
        let line = lines(&[Finding::fine("memory", "a\nok  b\u{1b}[2J")]);
        assert_eq!(line, "ok       memory: a?ok  b?[2J\n");
    }

    #[test]
    fn json_has_what_the_lines_have() {
        let findings = [
            Finding::fine("a", "b \"c\" \\ \u{1} ü"),
            Finding::lacks("tap", "none", "modprobe tun"),
        ];
        let text = json(Mode::Pasta, Verdict::Missing, &findings);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["program"], "pasta");
        assert_eq!(value["verdict"], "missing");
        assert_eq!(value["findings"][0]["text"], "b \"c\" \\ \u{1} ü");
        assert_eq!(value["findings"][0]["cure"], serde_json::Value::Null);
        assert_eq!(value["findings"][1]["cure"], "modprobe tun");
    }
}
