//! Files of rules, and what the command line makes of them.

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
