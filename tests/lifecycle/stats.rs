//! `--stats`: counters of events, and of what was dropped.

use std::io::Write;

use passt_support::wait::until;
use rustix::process::Signal;

use crate::rig::{Place, is_answered, with_length};

/// Lines that hold counters and nothing else.
fn reports(text: &str) -> Vec<Vec<u64>> {
    let numbers = |line: &str| -> Option<Vec<u64>> {
        let words = line.split_whitespace().map(|word| word.parse().ok());
        words.collect::<Option<Vec<u64>>>().filter(|numbers| !numbers.is_empty())
    };
    text.lines().filter_map(numbers).collect()
}

/// The column of a type of event.
fn column(text: &str, name: &str) -> usize {
    let line = text.lines().find(|line| line.ends_with(name) && line.starts_with("       "));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.matches('|').count()
}

#[test]
fn events_and_drops_are_counted() {
    let place = Place::new();
    let mut program = place.foreground(&["--stats", "1"]);
    let mut client = place.connect();
    // A frame of a type that nobody knows.
    client.write_all(&with_length(&[&[0xff; 12][..], &[0x12, 0x34], &[0; 46]].concat())).unwrap();
    assert!(is_answered(client));
    until("a report", || (!reports(&place.text("stderr")).is_empty()).then_some(()));
    assert_eq!(program.end(Signal::TERM), Some(0));
    let text = place.text("stderr");
    let reports = reports(&text);
    let last = reports.last().unwrap();
    for (name, count) in [("listening qemu socket", 1), ("signal", 1)] {
        assert_eq!(last[column(&text, name)], count, "{name}: {text}");
    }
    assert!(last[column(&text, "connected qemu socket")] > 0);
    assert_eq!(last[column(&text, "vhost-user kick socket")], 0);
    assert!(text.lines().any(|line| line == "dropped: 1 unknown-ethertype"), "{text}");
    let of_link = text.lines().filter_map(|line| line.strip_prefix("link: "));
    let frames =
        |line: &str| line.split(", ").any(|word| word.ends_with(" stream.from_guest.frames"));
    assert!(of_link.clone().any(frames), "{text}");
    assert!(of_link.clone().all(|line| !line.contains("unknown-ethertype")), "{text}");
    let sum = |report: &Vec<u64>| report.iter().sum::<u64>();
    assert!(reports.windows(2).all(|pair| sum(&pair[0]) < sum(&pair[1])), "only news: {text}");
}

#[test]
fn without_the_option_nothing_is_counted() {
    let place = Place::new();
    let mut program = place.foreground::<&str>(&[]);
    assert!(place.serves());
    program.end(Signal::TERM);
    assert!(reports(&place.text("stderr")).is_empty());
}
