//! Files of rules, and what the command line makes of them.

use super::super::host::HostFacts;
use super::super::{Command, Conf, parse, resolve as resolve_all};
use super::*;

#[test]
fn isolation_is_made_of_rules() {
    let rules = ISOLATION.iter().filter(|text| rule(text).is_ok()).count();
    assert_eq!(rules, ISOLATION.len());
}

#[test]
fn files_have_one_rule_a_line_and_comments() {
    let folder = std::env::temp_dir().join(format!("passt-egress-{}", std::process::id()));
    let written = |text: &str| {
        std::fs::write(&folder, text).expect("a file");
        read(&folder).map(|rules| rules.into_iter().map(|rule| rule.text).collect::<Vec<_>>())
    };
    let good = "# what is needed\n\nallow @dns # names\n  allow tcp example.org:443\t\nreject any";
    let rules = ["allow @dns", "allow tcp example.org:443", "reject any"];
    assert_eq!(written(good).unwrap(), rules);
    let error = written("allow any\n\nallow eny:\n").unwrap_err().to_string();
    assert!(error.contains("line 3") && error.contains("ports ''"), "{error}");
    let large = "#".repeat(MAX_FILE_BYTES as usize + 1);
    assert!(written(&large).unwrap_err().to_string().contains("too large"));
    std::fs::remove_file(&folder).expect("it was there");
    let error = read(&folder).unwrap_err().to_string();
    assert!(error.contains("--egress-file") && error.contains("No such file"), "{error}");
}

fn conf(program: &str, arguments: &[&str]) -> Conf {
    let words = [program].into_iter().chain(arguments.iter().copied()).map(Into::into);
    let Command::Run(options) = parse(words).unwrap() else { panic!("no options") };
    resolve_all(*options, &HostFacts::default(), "nameserver 198.51.100.53", (32768, 60999))
        .unwrap()
}

fn texts(conf: &Conf) -> Vec<&str> {
    conf.egress.rules.iter().map(|rule| rule.text.as_str()).collect()
}

#[test]
fn rules_are_in_their_order_and_isolation_is_behind_them() {
    assert_eq!(conf("passt", &[]).egress, Policy::default());
    let given = ["--egress", "drop any:25", "--isolate", "--egress", "allow  10.0.0.1"];
    let conf = conf("passt", &given);
    let texts = texts(&conf);
    assert_eq!(texts[..2], ["drop any:25", "allow 10.0.0.1"]);
    assert_eq!(texts[2..], ISOLATION.map(|text| format!("--isolate: {text}")));
}

#[test]
fn isolation_forwards_no_ports_by_itself() {
    let ports = |arguments: &[&str]| {
        let conf = conf("pasta", arguments);
        let outbound = conf.pasta.as_ref().map(|pasta| pasta.outbound.rules().len());
        (conf.rules.rules().len(), outbound)
    };
    let (inbound, outbound) = ports(&[]);
    assert!(inbound > 0 && outbound > Some(0));
    assert_eq!(ports(&["--isolate"]), (0, Some(0)));
    let (inbound, outbound) = ports(&["--isolate", "-t", "auto", "-T", "auto"]);
    assert!(inbound > 0 && outbound > Some(0), "what is asked for is done");
}

#[test]
fn what_is_hardly_meant_is_told() {
    let told = |arguments: &[&str]| {
        let conf = conf("passt", arguments);
        conf.notes.iter().any(|note| note.text.contains("egress"))
    };
    assert!(!told(&[]) && !told(&["--isolate"]) && !told(&["--egress", "allow any"]));
    assert!(told(&["--egress", "reject @private"]), "nothing is allowed");
    let name = ["--egress", "allow example.org"];
    assert!(told(&name), "nobody may be asked for it");
    assert!(told(&[&name[..], &["--egress", "allow @dns", "-D", "none"]].concat()));
    assert!(!told(&[&name[..], &["--egress", "allow @dns"]].concat()));
    assert!(!told(&[&name[..], &["--isolate"]].concat()));
    let other = [&name[..], &["--egress", "allow udp 198.51.100.53:53"]].concat();
    assert!(!told(&other), "the name server by its address");
}

#[test]
fn there_are_no_more_rules_than_are_looked_at() {
    let names: Vec<String> =
        (0..=MAX_EGRESS_NAMES).map(|n| format!("allow n{n}.example")).collect();
    let arguments: Vec<&str> = names.iter().flat_map(|rule| ["--egress", rule]).collect();
    let words = ["passt"].iter().chain(&arguments).map(|word| (*word).into());
    let Command::Run(options) = parse(words).unwrap() else { panic!("no options") };
    let error = resolve_all(*options, &HostFacts::default(), "", (32768, 60999)).unwrap_err();
    assert!(matches!(error, ConfError::EgressTooMany) && error.cure().is_some(), "{error}");
}
