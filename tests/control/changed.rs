//! What is changed: rules, the egress policy, the level of the log.

use std::net::{TcpListener, TcpStream};

use passt_support::namespace::isolated;
use passt_support::wait::until;
use rustix::process::{Resource, Rlimit, Signal, kill_process, setrlimit};
use serde_json::{Value, json};

use crate::guest::{Guest, RST};
use crate::rig::{Program, SETUP};

/// Ports of rules, and how many sockets listen for each.
fn ports(rules: &Value) -> Vec<(u64, u64, u64, u64)> {
    let number = |rule: &Value, name: &str| rule[name].as_u64().unwrap();
    let each = |rule: &Value| {
        let of = |name| number(rule, name);
        (of("first"), of("last"), of("target_first"), of("listening"))
    };
    rules["rules"].as_array().unwrap().iter().map(each).collect()
}

fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[test]
fn rules_are_added_removed_and_replaced() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080:80"]);
        let mut client = program.client();
        assert_eq!(ports(&client.answer("rules")), [(8080, 8080, 80, 1)]);
        let add = json!({ "command": "rules-add", "proto": "tcp", "ports": "8081:81,9000-9002" });
        let rules = client.ask(&add);
        assert_eq!(
            ports(&rules),
            [(8080, 8080, 80, 1), (8081, 8081, 81, 1), (9000, 9002, 9000, 3)]
        );
        assert!(is_open(8081) && is_open(9001));
        let number = &rules["rules"][1]["rule"];
        let rules = client.ask(&json!({ "command": "rules-delete", "rule": number }));
        assert_eq!(ports(&rules), [(8080, 8080, 80, 1), (9000, 9002, 9000, 3)]);
        assert!(!is_open(8081) && is_open(8080));
        let delete = json!({ "command": "rules-delete", "proto": "tcp", "ports": "9000-9002" });
        assert_eq!(ports(&client.ask(&delete)), [(8080, 8080, 80, 1)]);
        // Who waits in the queue of a socket that stays is not lost.
        let waiting = TcpStream::connect("127.0.0.1:8080").unwrap();
        let all = json!([
            { "to": "guest", "proto": "tcp", "ports": "8080:88" },
            { "proto": "udp", "ports": "127.0.0.1/5353" },
        ]);
        let rules = client.ask(&json!({ "command": "rules-replace", "rules": all }));
        assert_eq!(ports(&rules), [(8080, 8080, 88, 1), (5353, 5353, 5353, 1)]);
        assert_eq!(
            (&rules["rules"][1]["address"], &rules["rules"][1]["proto"]),
            (&json!("127.0.0.1"), &json!("udp"))
        );
        assert!(waiting.take_error().unwrap().is_none());
        assert_eq!(
            client.ask(&json!({ "command": "rules-replace", "rules": [] }))["rules"],
            json!([])
        );
        assert!(!is_open(8080));
    });
}

/// Who is a fork of the program has none of its sockets from the moment on in which the program is ready.
#[test]
fn a_port_is_closed_though_who_watches_the_host_stands_still() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080"]);
        let watcher = program.watcher();
        kill_process(watcher, Signal::STOP).unwrap();
        assert!(is_open(8080));
        let nothing = json!({ "command": "rules-replace", "rules": [] });
        program.client().ask(&nothing);
        assert!(!is_open(8080));
        // It ends with its program, once it goes on.
        kill_process(watcher, Signal::CONT).unwrap();
    });
}

#[test]
fn who_leaves_few_descriptors_is_warned() {
    isolated(SETUP, || {
        let limit = Rlimit { current: Some(1024), maximum: Some(1024) };
        setrlimit(Resource::Nofile, limit).unwrap();
        let program = Program::passt(&["-t", "8080"]);
        let mut client = program.client();
        let add = |ports: &str| json!({ "command": "rules-add", "proto": "tcp", "ports": ports });
        assert_eq!(client.ask(&add("8081")).get("warnings"), None);
        let warning = client.ask(&add("20000-20949"))["warnings"][0].clone();
        assert!(warning.as_str().is_some_and(|text| text.contains("LimitNOFILE")), "{warning}");
        assert!(is_open(20949));
        assert_eq!(client.answer("rules").get("warnings"), None, "it was said");
        let delete = json!({ "command": "rules-delete", "proto": "tcp", "ports": "20000-20949" });
        assert_eq!(client.ask(&delete).get("warnings"), None);
    });
}

/// As at start, where nobody could hear of it otherwise.
#[test]
fn who_adds_a_rule_that_leads_nowhere_is_warned() {
    const NOWHERE: &str = "TCP [0.0.0.0]:8080  =>  127.0.0.1:80: nothing gets to 127.0.0.1, a loopback address of the \
                           guest's own: leave the address out";
    isolated(SETUP, || {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("conf").to_str().unwrap().to_owned();
        let program = Program::passt(&["--conf-path", &path]);
        let mut client = program.client();
        let (nowhere, somewhere) = ("0.0.0.0/8080:127.0.0.1/80", "127.0.0.1/8081:81");
        let rule = |ports: &str| json!({ "proto": "tcp", "ports": ports });
        let add = |ports: &str| json!({ "command": "rules-add", "proto": "tcp", "ports": ports });
        assert_eq!(client.ask(&add(nowhere))["warnings"], json!([NOWHERE]));
        assert_eq!(client.ask(&add(somewhere)).get("warnings"), None, "it was said");
        let all = json!([rule(somewhere), rule(nowhere)]);
        let all = client.ask(&json!({ "command": "rules-replace", "rules": all }));
        assert_eq!(all["warnings"], json!([NOWHERE]));
        client.ask(&json!({ "command": "rules-replace", "rules": [] }));

        assert!(!program.messages().contains(NOWHERE));
        let output = program.pesto_given(&["--add", "-t", nowhere, &path], "");
        assert!(output.status.success(), "{output:?}");
        until("a line", || program.messages().contains(NOWHERE).then_some(()));
    });
}

/// A change of many ports takes many turns: who asks meanwhile is answered, who changes something waits for it, and who
/// leaves has asked all the same.
#[test]
fn changes_of_many_ports_come_one_after_the_other() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080"]);
        let (mut many, mut few, mut asks) = (program.client(), program.client(), program.client());
        let add = |ports: &str| {
            json!({ "command": "rules-add", "proto": "tcp", "ports": ports }).to_string()
        };
        many.send(&add("20000-23999"));
        few.send(&add("9000"));
        assert_eq!(asks.answer("status")["program"], "passt");
        assert_eq!(
            [many.line("reply"), few.line("reply")].map(|reply| reply["ok"] == true),
            [true; 2]
        );
        let mut all = ports(&asks.answer("rules"));
        all.sort_unstable();
        let wanted = [(8080, 8080, 8080, 1), (9000, 9000, 9000, 1), (20_000, 23_999, 20_000, 4000)];
        assert_eq!(all, wanted);

        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        many.send(&add(&format!("127.0.0.1/10000-11999,{port}")));
        few.send(&add("9001"));
        let refused = many.line("reply");
        assert!(refused["error"]["problem"].as_str().unwrap().ends_with("nothing has changed"));
        assert_eq!(few.line("reply")["ok"], true);
        assert!(!is_open(10_000) && is_open(9001));

        many.send(&add("127.0.0.1/10000-11999"));
        drop(many);
        until("in force", || is_open(11_999).then_some(()));
    });
}

#[test]
fn thousands_of_changes_leave_nothing_behind() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080"]);
        let mut client = program.client();
        let mut change = |ports: &str| {
            let all =
                json!([{ "proto": "tcp", "ports": "8080" }, { "proto": "tcp", "ports": ports }]);
            client.ask(&json!({ "command": "rules-replace", "rules": all }))
        };
        for turn in 0..200 {
            change(&format!("{}-{}", 9000 + turn, 9010 + turn));
        }
        let before = program.resident_kib();
        for turn in 0..2000 {
            change(&format!("{}-{}", 9000 + turn % 500, 9010 + turn % 500));
        }
        assert_eq!(change("9000")["rules"][1]["listening"], 1);
        assert_eq!(client.answer("status")["listening"], 2);
        let after = program.resident_kib();
        assert!(after < before + 1024, "{before} KiB before, {after} KiB after");
    });
}

#[test]
fn what_cannot_be_had_changes_nothing_and_is_named() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080"]);
        let mut client = program.client();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let before = client.answer("rules");
        for (line, field, words, cure) in [
            (
                json!({ "command": "rules-add", "proto": "tcp", "ports": format!("8090,127.0.0.1/{port}") }),
                "ports",
                "Invalid port specifier",
                "an address holds for the whole list",
            ),
            (
                json!({ "command": "rules-add", "proto": "tcp", "ports": format!("127.0.0.1/8090,{port}") }),
                "ports",
                "Address already in use",
                "stop the program that has it",
            ),
            (
                json!({ "command": "rules-add", "proto": "tcp", "ports": "8080" }),
                "ports",
                "conflict",
                "a port leads to one place only",
            ),
            (
                json!({ "command": "rules-add", "proto": "tcp", "ports": "auto" }),
                "ports",
                "only allowed for pasta",
                "name the ports",
            ),
            (
                json!({ "command": "rules-add", "to": "host", "proto": "tcp", "ports": "1" }),
                "to",
                "no namespace",
                "only pasta",
            ),
            (
                json!({ "command": "rules-replace", "rules": [
                    { "proto": "tcp", "ports": "8091" }, { "proto": "tcp", "ports": "x" },
                ] }),
                "rules[1].ports",
                "'x'",
                "'x' is no port: give a number",
            ),
            (json!({ "command": "rules-delete", "rule": 99 }), "rule", "no rule 99", "rules"),
            (
                json!({ "command": "rules-delete", "proto": "udp", "ports": "8080" }),
                "ports",
                "no rule UDP",
                "rules",
            ),
        ] {
            let refusal = client.refusal(&line.to_string());
            assert_eq!(refusal["field"], field, "{line}");
            assert!(refusal["problem"].as_str().unwrap().contains(words), "{line}: {refusal}");
            assert!(refusal["cure"].as_str().unwrap().contains(cure), "{line}: {refusal}");
            assert_eq!(client.answer("rules"), before, "{line}");
        }
        assert!(is_open(8080) && !is_open(8090) && !is_open(8091));
    });
}

#[test]
fn the_egress_policy_is_read_replaced_and_ends_what_it_forbids() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "none"]);
        let (mut client, mut guest) = (program.client(), Guest::of(&program));
        assert_eq!(client.answer("egress"), json!({ "rules": [], "unmatched": 0 }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ours = guest.connects(40_000, port);
        let (_theirs, _) = listener.accept().unwrap();
        let rules = json!([format!("allow tcp @loopback:{port}"), "reject any"]);
        client.ask(&json!({ "command": "egress-replace", "rules": rules }));
        let again = guest.connects(40_001, port);
        let (_, flags) = guest.tries(40_002, port + 1);
        assert_ne!(flags & RST, 0);
        let policy = client.answer("egress");
        let decided = |policy: &Value| {
            policy["rules"]
                .as_array()
                .unwrap()
                .iter()
                .map(|rule| rule["decided"].as_u64().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(decided(&policy), [1, 1]);
        assert_eq!(client.flows().len(), 2, "what is allowed goes on");

        let policy =
            client.ask(&json!({ "command": "egress-replace", "rules": [], "isolate": true }));
        assert!(policy["rules"].as_array().unwrap().iter().all(|rule| rule["isolate"] == true));
        guest.is_reset(&ours);
        guest.is_reset(&again);
        until("no flows", || client.flows().is_empty().then_some(()));

        let nothing =
            client.ask(&json!({ "command": "egress-replace", "rules": ["drop @private"] }));
        let warning = nothing["warnings"][0].as_str().unwrap();
        assert!(warning.contains("reaches nothing"), "{warning}");
        let before = client.answer("egress");
        let line = r#"{"command":"egress-replace","rules":["allow any","allow 192.0.2.256"]}"#;
        let refusal = client.refusal(line);
        assert_eq!(refusal["field"], "rules[1]");
        assert!(refusal["problem"].as_str().unwrap().contains("192.0.2.256"), "{refusal}");
        assert!(refusal["cure"].as_str().unwrap().contains("DESTINATION"), "{refusal}");
        let many: Vec<&str> = vec!["allow any"; 1025];
        let line = json!({ "command": "egress-replace", "rules": many }).to_string();
        let refusal = client.refusal(&line);
        assert!(refusal["problem"].as_str().unwrap().contains("at most 1024"), "{refusal}");
        assert_eq!(client.answer("egress"), before);
    });
}

#[test]
fn the_level_of_the_log_follows() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "none"]);
        let mut client = program.client();
        assert_eq!(client.answer("log"), json!({ "level": "info", "to": ["stderr"] }));
        let traces = |program: &Program| program.messages().contains("from guest: ");
        let mut guest = Guest::of(&program);
        assert!(!traces(&program));
        assert_eq!(client.ask(&json!({ "command": "log", "level": "trace" }))["level"], "trace");
        guest.asks_for_gateway();
        assert!(traces(&program));
        client.ask(&json!({ "command": "log", "level": "warn" }));
        let before = program.messages();
        guest.asks_for_gateway();
        client.ask(&json!({ "command": "rules-add", "proto": "tcp", "ports": "8080" }));
        assert_eq!(program.messages(), before);
    });
}
